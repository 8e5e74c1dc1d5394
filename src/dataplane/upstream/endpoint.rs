//! One address in a pool, and its live state.
//!
//! Shared by all workers and by every snapshot that names it. The counters are relaxed atomics: they steer choices
//! between endpoints and order nothing else.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::base::addr::EndpointAddr;
use crate::base::name::{EndpointId, PoolName};
use crate::dataplane::tls::{ClientPlan, Digest, ServerName};
use crate::dataplane::upstream::connect::Parked;

/// Idle connections that workers leave with one endpoint for their neighbours, at most.
const PARKED_LIMIT: usize = 128;

/// What is spoken with an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1 in clear; over TLS what ALPN says.
    Auto,
    /// HTTP/1.1 only.
    Http1,
    /// HTTP/2 only.
    H2,
}

/// What makes an endpoint the same one after a reload (invariant I4).
///
/// A change of any of these makes a new endpoint: its connections would lead elsewhere, or be verified otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The pool it belongs to.
    pub pool: PoolName,
    /// Where it is.
    pub address: EndpointAddr,
    /// What is spoken with it.
    pub protocol: Protocol,
    /// The name for SNI and verification, and the digest of the TLS settings; absent in clear.
    pub tls: Option<(ServerName, Digest)>,
}

/// TLS towards an endpoint.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The settings, shared by the endpoints of a pool.
    pub plan: Arc<ClientPlan>,
    /// The name for SNI and verification.
    pub server_name: ServerName,
}

/// One address in a pool.
pub struct Endpoint {
    /// The number that workers key their connections by.
    pub id: EndpointId,
    /// What makes it the same after a reload.
    pub identity: Identity,
    /// Its address as text, for the access log.
    pub label: Arc<str>,
    /// TLS towards it; absent: cleartext.
    pub tls: Option<Tls>,
    live: Live,
}

/// On cache lines of its own, so that counting an exchange does not slow the readers of the fields above.
#[repr(align(128))]
#[derive(Default)]
struct Live {
    in_flight: AtomicUsize,
    parked: Mutex<Vec<Parked>>,
}

impl Endpoint {
    /// An endpoint without a history.
    pub fn new(identity: Identity, tls: Option<Tls>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let label = identity.address.to_string().into();
        let id = EndpointId(NEXT.fetch_add(1, Ordering::Relaxed));
        Self {
            id,
            identity,
            label,
            tls,
            live: Live::default(),
        }
    }

    /// Exchanges in flight, over all workers.
    pub fn in_flight(&self) -> usize {
        self.live.in_flight.load(Ordering::Relaxed)
    }

    /// Counts one more exchange until the guard is dropped.
    pub fn enter(self: &Arc<Self>) -> InFlight {
        self.live.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight {
            endpoint: Arc::clone(self),
        }
    }

    /// Leaves an idle connection for whichever worker needs one next.
    ///
    /// One too many is dropped, which closes it.
    pub fn park(&self, connection: Parked) {
        let mut parked = self
            .live
            .parked
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if parked.len() < PARKED_LIMIT {
            parked.push(connection);
        }
    }

    /// Takes the idle connection that was left last.
    pub fn unpark(&self) -> Option<Parked> {
        self.live
            .parked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
    }

    /// Drops the idle connections that `keep` refuses.
    pub fn retain_parked(&self, keep: impl Fn(&Parked) -> bool) {
        self.live
            .parked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(keep);
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Endpoint")
            .field("id", &self.id)
            .field("identity", &self.identity)
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

/// One exchange in flight at an endpoint; it ends when this is dropped.
#[derive(Debug)]
pub struct InFlight {
    endpoint: Arc<Endpoint>,
}

impl InFlight {
    /// The endpoint that serves the exchange.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.endpoint.live.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
