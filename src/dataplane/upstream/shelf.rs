//! The connections of one worker to one endpoint, between exchanges.
//!
//! An HTTP/1.1 connection serves one exchange at a time and waits on a LIFO stack, so that a quiet hour leaves
//! few open. One that stays idle for `PARK_AFTER` is left with the endpoint, where any worker finds it before it
//! dials. An HTTP/2 connection is shared by as many exchanges as the endpoint allows.

use std::cell::{Cell, RefCell};
use std::num::NonZeroU32;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::Body;
use hyper::client::conn::http2::SendRequest;
use tokio::sync::Notify;

use crate::base::clock;
use crate::base::fault::Fault;
use crate::dataplane::tls::{Alpn, Stream};
use crate::dataplane::upstream::bounds::Counted;
use crate::dataplane::upstream::client::{Kind, Lease, Wants};
use crate::dataplane::upstream::connect::{self, Parked};
use crate::dataplane::upstream::endpoint::{Endpoint, Protocol};
use crate::dataplane::upstream::http1::Wire;
use crate::dataplane::upstream::http2;
use crate::dataplane::upstream::keep_alive::{Age, IDLE_LIMIT, WITNESSES};

/// A connection older than this serves no further exchange, so that changes behind an address are noticed.
const AGE_LIMIT: Duration = Duration::from_secs(3600);

/// Idle connections beyond the limit that are kept until the next look: a wave of answers leaves many idle for a moment,
/// and the next wave of requests wants them back.
const IDLE_BURST: usize = 1024;

/// An idle connection that lives so long shows that the endpoint keeps connections.
const PROOF: Duration = Duration::from_millis(250);

/// An idle connection that this worker has not needed for so long is left for its neighbours.
const PARK_AFTER: Duration = Duration::from_secs(1);

/// The connections to one endpoint.
#[derive(Debug)]
pub(super) struct Shelf<B> {
    /// Gone when no snapshot and no exchange names the endpoint any more.
    endpoint: Weak<Endpoint>,
    idle: RefCell<Vec<Wire>>,
    /// How many to keep, as the last exchange knew.
    idle_limit: Cell<usize>,
    /// Whether the endpoint has been seen to keep idle connections, by one that was used again or one that has lived for
    /// [`PROOF`]. Some close right behind an answer without saying so, and a request that cannot be repeated must not
    /// meet that.
    is_proven: Cell<bool>,
    /// For how many seconds the endpoint said last that it leaves connections open.
    patience: Cell<Option<u32>>,
    /// Whether idle connections here may be ones that another worker waits for.
    lends: Cell<bool>,
    shared: RefCell<Vec<Http2<B>>>,
    /// What the endpoint agreed to speak when it was dialled last.
    spoken: Cell<Option<Alpn>>,
    dialling: Cell<bool>,
    dialled: Notify,
}

/// A connection of HTTP/2, shared by exchanges.
#[derive(Debug)]
struct Http2<B> {
    sender: SendRequest<B>,
    born: Instant,
    streams: Rc<Cell<usize>>,
    /// Whether an exchange on it was answered.
    has_answered: Rc<Cell<bool>>,
    /// How many streams the endpoint allows, as its task saw last.
    allowed: Rc<Cell<usize>>,
    _counted: Counted,
}

/// Where an HTTP/1.1 connection waits for its next exchange.
#[derive(Debug)]
pub struct Home<B> {
    shelf: Rc<Shelf<B>>,
    idle_limit: usize,
    /// Whether connections are so few that an idle one is left for all workers at once.
    is_limited: bool,
}

impl<B> Home<B> {
    pub(super) fn new(shelf: Rc<Shelf<B>>, idle_limit: usize, is_limited: bool) -> Self {
        Self {
            shelf,
            idle_limit,
            is_limited,
        }
    }

    /// Takes a connection back; one too many is closed.
    pub fn keep(&self, mut wire: Wire) {
        wire.idle_since = clock::coarse();
        wire.seen = None;
        if self.is_limited {
            return self.leave(wire);
        }
        let mut idle = self.shelf.idle.borrow_mut();
        let limit = match self.idle_limit {
            0 => 0,
            limit => limit + IDLE_BURST,
        };
        if idle.len() < limit {
            idle.push(wire);
        }
        self.shelf.idle_limit.set(self.idle_limit);
    }

    /// Leaves a connection for whoever wants it. One that cannot move stays, unless somebody waits for its place.
    #[cold]
    fn leave(&self, wire: Wire) {
        let Some(endpoint) = self
            .shelf
            .endpoint
            .upgrade()
            .filter(|_| self.idle_limit > 0)
        else {
            return;
        };
        if wire.stream.can_move() {
            if let Some(parked) = Parked::new(wire) {
                endpoint.park(parked);
            }
            return;
        }
        let mut idle = self.shelf.idle.borrow_mut();
        if !endpoint.sockets().is_wanted() && idle.len() < self.idle_limit {
            idle.push(wire);
            self.shelf.lends.set(true);
        }
    }
}

/// One stream of a shared connection; it ends when this is dropped.
#[derive(Debug)]
pub struct StreamCount(Rc<Cell<usize>>);

impl StreamCount {
    fn enter(count: &Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        Self(Rc::clone(count))
    }
}

impl Drop for StreamCount {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// What an exchange waits for where connections are limited.
pub(super) enum Place<B> {
    /// The right to open one.
    New(Counted),
    /// One that became idle.
    Idle(Lease<B>),
}

/// Marks a shelf while a connection is being dialled, and wakes those who wait for it, however it ends.
pub(super) struct Dialling<'a, B> {
    shelf: &'a Shelf<B>,
    first: bool,
}

impl<'a, B> Dialling<'a, B> {
    pub(super) fn begin(shelf: &'a Shelf<B>) -> Self {
        Self {
            shelf,
            first: !shelf.dialling.replace(true),
        }
    }
}

impl<B> Drop for Dialling<'_, B> {
    fn drop(&mut self) {
        if self.first {
            self.shelf.dialling.set(false);
            self.shelf.dialled.notify_waiters();
        }
    }
}

impl<B> Shelf<B> {
    pub(super) fn new(endpoint: &Arc<Endpoint>) -> Self {
        Self {
            endpoint: Arc::downgrade(endpoint),
            idle: RefCell::default(),
            idle_limit: Cell::new(0),
            is_proven: Cell::new(false),
            patience: Cell::new(None),
            lends: Cell::new(false),
            shared: RefCell::default(),
            spoken: Cell::new(None),
            dialling: Cell::new(false),
            dialled: Notify::new(),
        }
    }

    /// Whether a connection is being dialled.
    pub(super) fn is_dialling(&self) -> bool {
        self.dialling.get()
    }

    /// Waits for the end of that.
    pub(super) async fn dialled(&self) {
        self.dialled.notified().await;
    }

    pub(super) fn note_spoken(&self, protocol: Alpn) {
        self.spoken.set(Some(protocol));
    }

    /// Takes note of an answer on a connection that was idle before.
    pub(super) fn note_reuse(&self) {
        self.is_proven.set(true);
    }

    pub(super) fn lends(&self) -> bool {
        self.lends.get()
    }
}

impl<B> Shelf<B>
where
    B: Body<Data = Bytes> + Default + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// A connection that is there already.
    pub(super) fn take(self: &Rc<Self>, endpoint: &Endpoint, wants: Wants) -> Option<Lease<B>> {
        let now = clock::coarse();
        if !wants.upgrade
            && let Some(lease) = self.take_shared(now, wants)
        {
            return Some(lease);
        }
        let idle_limit = endpoint.keep_alive().limit(wants.repeatable);
        let is_aged = |born: Instant| now.saturating_duration_since(born) >= AGE_LIMIT;
        // One that is idle for too long stays where it is: those below it are as well.
        let may_use = |idle_since: Instant, born: Instant| {
            now.saturating_duration_since(idle_since) < idle_limit || is_aged(born)
        };
        if wants.upgrade && endpoint.tls.is_some() {
            // What waits here may have agreed on h2 for the next exchange; an upgrade dials for itself.
            return None;
        }
        if !wants.repeatable && !self.is_proven.get() {
            return None;
        }
        loop {
            let last = |wire: &mut Wire| may_use(wire.idle_since, wire.born);
            let Some(mut wire) = self.idle.borrow_mut().pop_if(last) else {
                break;
            };
            if is_aged(wire.born) {
                continue;
            }
            if wire.is_quiet() && (wants.repeatable || connect::is_quiet(&wire.stream)) {
                return Some(self.lease_http1(wire, wants));
            }
            if now.saturating_duration_since(wire.idle_since) < PROOF {
                self.is_proven.set(false);
            }
            note_closed(endpoint, wire.idle_since, wire.seen);
        }
        while let Some(parked) = endpoint.unpark(|last| may_use(last.idle_since, last.born)) {
            let (idle_since, born, seen) = (parked.idle_since, parked.born, parked.seen);
            if is_aged(born) {
                continue;
            }
            if !parked.is_quiet() {
                note_closed(endpoint, idle_since, seen);
                continue;
            }
            if let Some(wire) = parked.adopt() {
                return Some(self.lease_http1(wire, wants));
            }
        }
        None
    }

    fn take_shared(&self, now: Instant, wants: Wants) -> Option<Lease<B>> {
        let mut shared = self.shared.borrow_mut();
        shared.retain(|connection| !connection.sender.is_closed());
        let connection = shared.iter().find(|connection| connection.has_room(now))?;
        Some(connection.lease(wants))
    }

    /// Whether a connection that is being dialled now will serve this exchange too.
    pub(super) fn may_share(&self, endpoint: &Endpoint, wants: Wants) -> bool {
        let speaks_http2 = match (endpoint.identity.protocol, self.spoken.get()) {
            (Protocol::H2, _) | (Protocol::Auto, Some(Alpn::H2)) => true,
            (Protocol::Auto, None) => endpoint.tls.is_some(),
            (Protocol::Auto, Some(Alpn::Http1)) | (Protocol::Http1, _) => false,
        };
        speaks_http2 && !wants.upgrade
    }

    fn lease_http1(self: &Rc<Self>, wire: Wire, wants: Wants) -> Lease<B> {
        Lease {
            kind: Kind::Http1(wire, Rc::clone(self)),
            wants,
            reused: true,
            connect_time: None,
        }
    }

    /// Waits for a connection to become idle, or for leave to open one, since there are `limit` of them. Who has a place
    /// among the exchanges finds one soon: it is just given back, or lies idle with a worker that gives it up.
    pub(super) async fn place(
        self: &Rc<Self>,
        endpoint: &Endpoint,
        wants: Wants,
        limit: NonZeroU32,
        until: Instant,
    ) -> Result<Place<B>, Fault> {
        let sockets = endpoint.sockets();
        loop {
            // Said before each look, so that nothing is freed behind its back.
            let _hunger = sockets.want();
            if let Some(counted) = sockets.try_count(limit) {
                return Ok(Place::New(counted));
            }
            if !wants.fresh
                && let Some(lease) = self.take(endpoint, wants)
            {
                return Ok(Place::Idle(lease));
            }
            // One that this exchange cannot use makes room for one that it can.
            if self.close_idle() || endpoint.close_parked() {
                continue;
            }
            let freed = tokio::time::timeout_at(until.into(), sockets.freed()).await;
            freed.map_err(|_| Fault::EndpointsBusy)?;
        }
    }

    /// Closes the connection that is idle for the longest time; `false` if there is none.
    fn close_idle(&self) -> bool {
        let mut idle = self.idle.borrow_mut();
        let has_some = !idle.is_empty();
        if has_some {
            idle.remove(0);
        }
        has_some
    }

    /// Gives up idle connections in whose place another worker waits to open one.
    pub(super) fn lend(&self) {
        if !self.lends.get() {
            return;
        }
        let wanted = self.endpoint.upgrade();
        if wanted.is_none_or(|endpoint| endpoint.sockets().is_wanted()) {
            self.close_idle();
        }
        self.lends.set(!self.idle.borrow().is_empty());
    }

    pub(super) fn start_http1(
        self: &Rc<Self>,
        stream: Stream,
        born: Instant,
        counted: Counted,
        wants: Wants,
    ) -> Lease<B> {
        let wire = Wire {
            stream,
            born,
            idle_since: born,
            seen: None,
            counted: Some(counted),
        };
        Lease {
            reused: false,
            ..self.lease_http1(wire, wants)
        }
    }

    pub(super) async fn start_http2(
        &self,
        stream: Stream,
        born: Instant,
        counted: Counted,
        wants: Wants,
    ) -> Result<Lease<B>, Fault> {
        let (sender, allowed) = http2::open(stream, wants.header_bytes).await?;
        let connection = Http2 {
            sender,
            born,
            streams: Rc::default(),
            has_answered: Rc::default(),
            allowed,
            _counted: counted,
        };
        let lease = connection.lease(wants);
        self.shared.borrow_mut().push(connection);
        Ok(lease)
    }

    /// Takes in for how many seconds the endpoint says that it leaves connections open.
    #[cold]
    pub(super) fn hear(&self, patience: Option<u32>) {
        if self.patience.replace(patience) != patience
            && let (Some(seconds), Some(endpoint)) = (patience, self.endpoint.upgrade())
        {
            endpoint.keep_alive().hear(seconds);
        }
    }

    /// Closes what is too old and leaves what is not needed; `false` when nothing needs this shelf any more.
    pub(super) fn sweep(&self, now: Instant) -> bool {
        let Some(endpoint) = self.endpoint.upgrade() else {
            return false;
        };
        let keep_alive = endpoint.keep_alive();
        let is_aged = |born: Instant| now.saturating_duration_since(born) >= AGE_LIMIT;
        let idle_limit = keep_alive.limit(true);
        let mut witnesses = 0;
        let mut idle = self.idle.borrow_mut();
        let waiting = std::mem::take(&mut *idle);
        for mut wire in waiting {
            let age = Age::of(wire.idle_since, wire.seen, now);
            if age.now >= IDLE_LIMIT || is_aged(wire.born) {
                continue;
            }
            if !wire.is_quiet() {
                note_closed(&endpoint, wire.idle_since, wire.seen);
                continue;
            }
            wire.seen = Some(now);
            keep_alive.lived(age);
            if age.now >= PROOF {
                self.is_proven.set(true);
            }
            if age.now >= idle_limit {
                witnesses += 1;
                if witnesses > WITNESSES {
                    continue;
                }
            }
            if age.now < PARK_AFTER {
                idle.push(wire);
            } else if !wire.stream.can_move() {
                // The newest are on top, and are those to keep.
                idle.push(wire);
                if idle.len() > self.idle_limit.get() {
                    idle.remove(0);
                }
            } else if let Some(parked) = Parked::new(wire) {
                endpoint.park(parked);
            }
        }
        drop(idle);
        self.shared.borrow_mut().retain(|connection| {
            let aged = now.saturating_duration_since(connection.born) >= AGE_LIMIT;
            !(connection.sender.is_closed() || (aged && connection.streams.get() == 0))
        });
        endpoint.review_parked(|parked| is_aged(parked.born), now);
        true
    }
}

/// Takes note of an idle connection that the endpoint has closed. One that ended right behind an answer was not waited
/// for: that is its way, and no timeout.
fn note_closed(endpoint: &Endpoint, idle_since: Instant, seen: Option<Instant>) {
    let now = clock::now();
    let age = Age::of(idle_since, seen, now);
    if age.now >= PROOF {
        endpoint.keep_alive().closed(age, now);
    }
}

impl<B> Http2<B> {
    fn has_room(&self, now: Instant) -> bool
    where
        B: Body + 'static,
    {
        now.saturating_duration_since(self.born) < AGE_LIMIT
            && self.streams.get() < self.allowed.get()
    }

    fn lease(&self, wants: Wants) -> Lease<B> {
        let stream = StreamCount::enter(&self.streams);
        let has_answered = Rc::clone(&self.has_answered);
        Lease {
            reused: has_answered.get(),
            kind: Kind::Http2(self.sender.clone(), stream, has_answered),
            wants,
            connect_time: None,
        }
    }
}
