//! HTTP: codecs on a connection, and the line of an exchange from its head to its last byte.
//!
//! [`serve`] is the narrow door: it runs a codec on a connection and calls [`exchange`] for each request.
//! Everything an exchange touches while it passes is lent to it by its worker ([`Engine`]) or belongs to its
//! connection ([`Downstream`]).

pub mod attempts;
pub mod body;
pub mod calm;
pub mod exchange;
pub mod expect;
pub mod forward;
pub mod frames;
pub mod framing;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod headers;
pub mod hedge;
pub mod http1;
pub mod mirror;
pub mod observe;
pub mod replay;
pub mod respond;
pub mod retry;
pub mod seen;
pub mod serve;
pub mod trailers;
pub mod tunnels;
pub mod upgrade;
pub mod waiting;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crate::base::clock;
use crate::base::deadline::Deadlines;
use crate::base::drain::Guest;
use crate::base::fault::Fault;
use crate::dataplane::context::Facts;
use crate::dataplane::http::body::RequestBody;
use crate::dataplane::http::mirror::Mirrors;
use crate::dataplane::http::tunnels::Tunnels;
use crate::dataplane::http::upgrade::Pending;
use crate::dataplane::snapshot::{Held, ListenerPlan, Reader};
use crate::dataplane::upstream::client::Connections;
use crate::dataplane::upstream::head::AnswerHead;
use crate::telemetry::access_log::Record;
use crate::telemetry::request_id::RequestIds;
use crate::telemetry::worker_log::WorkerLog;

/// Streams of one connection of which much is read at a time; of more, little each.
const MODEST_STREAMS: usize = 8;

/// Bytes of headers that the exchanges of one HTTP/2 connection hold at a time: as many as 128 streams with 4 KiB each.
const H2_HELD_BYTES: usize = 512 << 10;

/// What a worker lends to the exchanges on it.
#[derive(Debug)]
pub struct Engine {
    /// The snapshot in force.
    snapshots: Reader,
    /// The version whose access log is in use.
    log_version: Cell<u64>,
    /// Connections to endpoints.
    pub connections: Connections<RequestBody>,
    /// Coarse deadlines.
    pub deadlines: Deadlines,
    /// The access log.
    pub log: Rc<WorkerLog>,
    /// The tunnels.
    pub tunnels: Tunnels,
    /// Copies of requests.
    pub mirrors: Rc<Mirrors>,
    /// Names for exchanges.
    pub request_ids: RequestIds,
    /// What HTTP/1 connections lend each other.
    pub stock: Rc<http1::Stock>,
    /// Whether new clients are welcome, for those who ask.
    pub is_ready: Cell<bool>,
}

impl Engine {
    /// An engine that reads its snapshots from `snapshots`.
    pub fn new(snapshots: Reader) -> Self {
        Self {
            snapshots,
            log_version: Cell::new(0),
            connections: Connections::default(),
            deadlines: Deadlines::default(),
            log: Rc::default(),
            tunnels: Tunnels::default(),
            mirrors: Rc::default(),
            request_ids: RequestIds::default(),
            stock: Rc::default(),
            is_ready: Cell::new(true),
        }
    }

    /// The snapshot in force. An exchange asks once and keeps what it got (invariant I1).
    pub fn snapshot(&self) -> Held {
        let snapshot = self.snapshots.load();
        if self.log_version.replace(snapshot.version) != snapshot.version {
            self.log.use_sink(snapshot.access_log.clone());
        }
        snapshot
    }

    /// A record that is written when it is dropped (invariant I5).
    pub fn record(&self, facts: &Facts) -> Record {
        let now = clock::now();
        let started_at = clock::wall_at(now);
        let mut record = Record::new(Rc::clone(&self.log), now, started_at, facts.client.ip());
        record.client_text = Some(Rc::clone(&facts.client_text));
        record.tls = facts.secure.as_ref().map(|secure| secure.version);
        record
    }
}

/// An answer as a codec gets it.
#[derive(Debug)]
pub struct Reply<B> {
    /// Status and fields.
    pub head: AnswerHead,
    /// The body.
    pub body: B,
    /// The request was none: HTTP/2 resets its stream (RFC 9113 §8.1.1).
    pub is_malformed: bool,
}

/// One client connection, as its exchanges see it.
#[derive(Debug)]
pub struct Downstream {
    /// What is known about it.
    pub facts: Facts,
    /// The listener as it was when the connection came.
    pub listener: Arc<ListenerPlan>,
    /// Keeps the listener's drain waiting.
    pub guest: Guest,
    /// When it was accepted.
    pub born: Instant,
    active: Cell<usize>,
    /// Bytes of the headers of those, as far as they are counted.
    held: Cell<usize>,
    served: Cell<u64>,
    /// Exchanges that the client has left before their end.
    abandoned: Cell<u32>,
    idle_since: Cell<Instant>,
    verdict: Cell<Option<Fault>>,
    flow: Cell<Flow>,
    /// Boxed, since few connections ever have one.
    tunnel: RefCell<Option<Box<Pending>>>,
}

impl Downstream {
    /// A connection that has carried nothing yet.
    pub fn new(facts: Facts, listener: Arc<ListenerPlan>, guest: Guest, born: Instant) -> Self {
        Self {
            facts,
            listener,
            guest,
            born,
            active: Cell::new(0),
            held: Cell::new(0),
            served: Cell::new(0),
            abandoned: Cell::new(0),
            idle_since: Cell::new(born),
            verdict: Cell::new(None),
            flow: Cell::default(),
            tunnel: RefCell::new(None),
        }
    }

    /// Counts one more exchange until the guard is dropped.
    pub fn enter(self: &Rc<Self>) -> Active {
        self.active.set(self.active.get() + 1);
        self.served.set(self.served.get() + 1);
        Active {
            downstream: Rc::clone(self),
            held: Cell::new(0),
        }
    }
}

/// What an answer's body did when its stream was polled last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flow {
    /// It was not asked for anything.
    #[default]
    Untouched,
    /// It gave a frame, and nobody came back for more.
    Handed,
    /// It had nothing to give.
    Dry,
}

/// One exchange on a connection; it is over when this is dropped.
#[derive(Debug)]
pub struct Active {
    downstream: Rc<Downstream>,
    /// Bytes of its header, as far as they are counted.
    held: Cell<usize>,
}

impl Active {
    /// Why the connection was cut, if it was.
    pub fn verdict(&self) -> Option<Fault> {
        self.downstream.verdict.get()
    }

    /// Whether the client has so many answers coming that little is to be read of each at a time.
    pub fn is_crowded(&self) -> bool {
        self.downstream.active.get() > MODEST_STREAMS
    }

    /// Takes bytes of a header in hand, until the exchange is over; whether the connection's exchanges may hold so many.
    pub fn hold(&self, bytes: usize) -> bool {
        let held = self.downstream.held.get() + bytes;
        self.downstream.held.set(held);
        self.held.set(self.held.get() + bytes);
        held <= H2_HELD_BYTES
    }

    /// Notes what the answer's body did.
    pub fn note(&self, flow: Flow) {
        self.downstream.flow.set(flow);
    }

    /// Notes that the client has left the exchange.
    pub fn abandon(&self) {
        let abandoned = &self.downstream.abandoned;
        abandoned.set(abandoned.get().saturating_add(1));
    }

    /// The connection.
    pub fn downstream(&self) -> &Downstream {
        &self.downstream
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        let downstream = &self.downstream;
        downstream
            .active
            .set(downstream.active.get().saturating_sub(1));
        let held = downstream.held.get().saturating_sub(self.held.get());
        downstream.held.set(held);
        downstream.idle_since.set(clock::coarse());
    }
}
