//! The compiled truth: what is in force, as one value, and its reader and writer halves.
//!
//! There is exactly one swappable cell (invariant I1). A worker reads it through a [`Reader`] of its own, an
//! exchange holds the [`Snapshot`] it began with to its end, and only the reload loop owns the [`Writer`] (I3).
//! The only file that knows arc_swap.

use std::cell::RefCell;
use std::net::IpAddr;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Cache};
use ipnet::IpNet;

use crate::base::addr::ListenAddr;
use crate::base::fault::Fault;
use crate::base::name::{ListenerName, RouteName};
use crate::dataplane::filter::{Filter, FixedResponse, Redirect};
use crate::dataplane::route::RouteTable;
use crate::dataplane::tls::ServerPlan;
use crate::dataplane::upstream::pool::Pool;
use crate::telemetry::sink::Sink;

/// The compiled config in force.
#[derive(Debug)]
pub struct Snapshot {
    /// Its number: 1 at start, one more with each reload that changed something.
    pub version: u64,
    /// Listeners, in the order of the config.
    pub listeners: Box<[Arc<ListenerPlan>]>,
    /// Requests to routes.
    pub routes: RouteTable<Arc<Route>>,
    /// Pools, in the order of the config.
    pub pools: Box<[Arc<Pool>]>,
    /// Peers whose forwarding headers are believed.
    pub trusted_proxies: Box<[IpNet]>,
    /// Limits of connections and messages.
    pub limits: Limits,
    /// Timeouts of connections, which keep those that they began with.
    pub timeouts: Arc<Timeouts>,
    /// Where access records go; `None` is off.
    pub access_log: Option<Arc<Sink>>,
}

impl Snapshot {
    /// The plan of a listener.
    pub fn listener(&self, name: &ListenerName) -> Option<&Arc<ListenerPlan>> {
        self.listeners.iter().find(|plan| plan.name == *name)
    }

    /// Whether the forwarding headers of a peer are believed.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.trusted_proxies
            .iter()
            .any(|network| network.contains(&peer))
    }
}

/// A listener, compiled.
#[derive(Debug)]
pub struct ListenerPlan {
    /// Its name.
    pub name: ListenerName,
    /// Where it listens.
    pub address: ListenAddr,
    /// TLS; absent: cleartext.
    pub tls: Option<Arc<ServerPlan>>,
    /// Answer everything with a redirect to https.
    pub redirect_to_https: bool,
}

/// A route, compiled: two cache lines with its count of references, since those of a large table are cold. What most routes
/// do without is boxed.
#[derive(Debug)]
pub struct Route {
    /// Its name.
    pub name: RouteName,
    /// Run in order on the request, backwards on the response. Shared with the versions before and after that have
    /// the same.
    pub filters: Arc<[Filter]>,
    /// Where requests go.
    pub action: Action,
    /// From the request's last byte sent to the answer's head.
    pub response_timeout: Duration,
    /// A pause in the answer's body.
    pub idle_timeout: Duration,
    /// A pause in a tunnel, an event stream or a gRPC stream.
    pub stream_timeout: Duration,
    /// Attempts beyond the first.
    pub retries: u32,
    /// Let encoded slashes and backslashes through.
    pub allow_encoded_slashes: bool,
}

// With the two counts of an `Arc` in front.
const _: () = assert!(size_of::<Route>() + 2 * size_of::<usize>() <= 128);

/// Where the requests of a route go.
#[derive(Debug)]
pub enum Action {
    /// To an endpoint of a pool.
    Forward(Arc<Pool>),
    /// To another URL.
    Redirect(Box<Redirect>),
    /// Nowhere: the answer is here.
    Respond(Box<FixedResponse>),
    /// Nowhere: why is known beforehand.
    Fail(Fault),
}

/// Limits of connections and messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open client connections a worker.
    pub connections: usize,
    /// TLS handshakes at a time a worker.
    pub handshakes: usize,
    /// Bytes of a request's header.
    pub header_bytes: usize,
    /// Fields of a request's header.
    pub header_fields: usize,
    /// Bytes of a response's header.
    pub response_header_bytes: usize,
    /// Streams at a time on one h2 connection.
    pub h2_streams: u32,
    /// Idle upstream connections an endpoint and worker.
    pub idle_connections: usize,
}

/// Timeouts of connections.
#[derive(Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// A TLS handshake, whole.
    pub handshake: Duration,
    /// The first byte of a new connection.
    pub first_byte: Duration,
    /// A request's header, from its first byte.
    pub header: Duration,
    /// A pause in a request's body.
    pub body: Duration,
    /// A client connection without a request.
    pub keep_alive: Duration,
    /// The age after which a client connection is closed between requests, plus or minus a tenth.
    pub age: Duration,
    /// A client that takes nothing of its answer.
    pub send: Duration,
    /// From the start of a drain to the end of what still runs.
    pub drain: Duration,
}

/// Makes the cell and its two halves.
pub fn cell(first: Snapshot) -> (Writer, Source) {
    let cell = Arc::new(ArcSwap::from_pointee(first));
    (
        Writer {
            cell: Arc::clone(&cell),
        },
        Source { cell },
    )
}

/// The writer half: the reload loop owns the only one.
#[derive(Debug)]
pub struct Writer {
    cell: Arc<ArcSwap<Snapshot>>,
}

impl Writer {
    /// Puts the next snapshot in force: exchanges that begin from now on see it.
    pub fn swap(&mut self, next: Snapshot) {
        self.cell.store(Arc::new(next));
    }

    /// The snapshot in force.
    pub fn current(&self) -> Arc<Snapshot> {
        self.cell.load_full()
    }
}

/// Where readers come from: cloned to every worker, which makes its own [`Reader`] of it.
#[derive(Clone, Debug)]
pub struct Source {
    cell: Arc<ArcSwap<Snapshot>>,
}

impl Source {
    /// A reader for the thread that calls.
    pub fn reader(&self) -> Reader {
        let mut cache = Cache::new(Arc::clone(&self.cell));
        let held = Rc::new(Hold(Arc::clone(cache.load())));
        Reader {
            state: RefCell::new(State { cache, held }),
        }
    }
}

/// The reader half of one worker.
#[derive(Debug)]
pub struct Reader {
    state: RefCell<State>,
}

#[derive(Debug)]
struct State {
    cache: Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>,
    held: Held,
}

/// A snapshot as an exchange holds it: counted by its worker alone, so that taking one touches no cache line that
/// workers share.
pub type Held = Rc<Hold>;

/// A worker's one share in a snapshot.
#[derive(Debug)]
pub struct Hold(Arc<Snapshot>);

impl Deref for Hold {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        &self.0
    }
}

impl Reader {
    /// The snapshot in force.
    pub fn load(&self) -> Held {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let current = state.cache.load();
        if !Arc::ptr_eq(current, &state.held.0) {
            state.held = Rc::new(Hold(Arc::clone(current)));
        }
        Rc::clone(&state.held)
    }
}
