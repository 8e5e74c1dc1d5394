//! One address in a pool, and its live state.
//!
//! Shared by all workers and by every snapshot that names it. The counters are relaxed atomics: they steer choices
//! between endpoints and order nothing else.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::base::addr::EndpointAddr;
use crate::base::clock;
use crate::base::name::{EndpointId, PoolName};
use crate::dataplane::tls::{ClientPlan, Digest, ServerName};
use crate::dataplane::upstream::bounds::Sockets;
use crate::dataplane::upstream::connect::Parked;
use crate::dataplane::upstream::gradient::Adaptive;
use crate::dataplane::upstream::health::{
    Answers, Change, Event, Health, Policy, Standing, Timings,
};
use crate::dataplane::upstream::keep_alive::{Age, IDLE_LIMIT, KeepAlive, WITNESSES};
use crate::dataplane::upstream::latency::Latency;
use crate::dataplane::upstream::queue::Queue;

/// Idle connections that workers leave with one endpoint for their neighbours, at most.
const PARKED_LIMIT: usize = 128;

/// Milliseconds between two looks through them, whichever workers look.
const PARKED_REVIEW: u64 = 250;

/// The whole share of an endpoint, in the parts that [`Endpoint::joined`] counts.
pub const JOINED: u32 = 1024;

/// What an endpoint begins to join with: a tenth, so that there is something to warm up by.
const JOINED_FLOOR: u32 = JOINED / 10;

/// In place of a time: joins from the next look on.
const JOINS_NEXT: u64 = u64::MAX;

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
    /// What its health comes to. Read with every pick and hardly ever written, so it is not among what follows.
    is_usable: AtomicBool,
    /// As seldom written.
    keep_alive: KeepAlive,
    sockets: Arc<Sockets>,
    live: Live,
}

/// On cache lines of its own, so that counting an exchange does not slow the readers of the fields above.
#[repr(align(128))]
struct Live {
    in_flight: AtomicUsize,
    latency: Latency,
    adaptive: Adaptive,
    joins: AtomicU64,
    /// Exchanges that ended well and that its health has not taken in yet.
    successes: AtomicU32,
    /// Answers that broke off and that its health has not taken in yet.
    cuts: AtomicU32,
    /// Answers that its health has not taken in yet; there where somebody asks for it.
    timings: Timings,
    /// Those that became idle last are at the end.
    parked: Mutex<Vec<Parked>>,
    /// When somebody looked through them last, in milliseconds.
    parked_seen: AtomicU64,
    health: Mutex<Health>,
}

impl Endpoint {
    /// An endpoint without a history, which takes traffic at once.
    pub fn new(identity: Identity, tls: Option<Tls>) -> Self {
        Self::with_health(identity, tls, Health::new(false))
    }

    /// An endpoint without a history, which takes no traffic before an active check has passed.
    pub fn unproven(identity: Identity, tls: Option<Tls>) -> Self {
        Self::with_health(identity, tls, Health::new(true))
    }

    fn with_health(identity: Identity, tls: Option<Tls>, health: Health) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let label = identity.address.to_string().into();
        let id = EndpointId(NEXT.fetch_add(1, Ordering::Relaxed));
        Self {
            id,
            identity,
            label,
            tls,
            is_usable: AtomicBool::new(health.standing() == Standing::Healthy),
            keep_alive: KeepAlive::default(),
            sockets: Arc::default(),
            live: Live {
                in_flight: AtomicUsize::default(),
                latency: Latency::default(),
                adaptive: Adaptive::default(),
                joins: AtomicU64::default(),
                successes: AtomicU32::default(),
                cuts: AtomicU32::default(),
                timings: Timings::default(),
                parked: Mutex::default(),
                parked_seen: AtomicU64::default(),
                health: Mutex::new(health),
            },
        }
    }

    /// Whether its health lets it take an exchange.
    #[inline]
    pub fn is_usable(&self) -> bool {
        self.is_usable.load(Ordering::Relaxed)
    }

    /// What may be said of its health.
    pub fn standing(&self) -> Standing {
        self.health().standing()
    }

    /// What is known of its health.
    pub fn health(&self) -> MutexGuard<'_, Health> {
        self.live
            .health
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that an exchange has ended well.
    pub fn note_success(&self) {
        self.live.successes.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that an answer has broken off, which was taken for a success when it began.
    #[cold]
    pub fn note_cut(&self) {
        let fewer = |successes: u32| successes.checked_sub(1);
        // Its health may have taken in the success already.
        let _ = self
            .live
            .successes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer);
        self.live.cuts.fetch_add(1, Ordering::Relaxed);
    }

    /// How many answers have broken off since this was asked last.
    pub(super) fn take_cuts(&self) -> u32 {
        match self.live.cuts.load(Ordering::Relaxed) {
            0 => 0,
            _ => self.live.cuts.swap(0, Ordering::Relaxed),
        }
    }

    /// Notes how long an answer took to begin, for pools whose slow endpoints are ejected.
    pub fn note_timing(&self, took: Duration) {
        self.live.timings.note(took);
    }

    /// The answers that were noted since this was asked last.
    pub(super) fn take_timings(&self) -> Answers {
        self.live.timings.take()
    }

    /// Takes an event into its health. The pool decides what else follows from that, so it alone asks.
    pub(super) fn step(&self, event: Event, policy: &Policy, now: Instant) -> Option<Change> {
        let successes = self.live.successes.swap(0, Ordering::Relaxed);
        let mut health = self.health();
        let change = health.step(event, successes, policy, now);
        if let Some(change) = &change {
            if change.to == Standing::Healthy {
                self.rejoin();
            }
            self.set_usable(change.to == Standing::Healthy);
        }
        change
    }

    /// Says whether it takes exchanges, whatever its health is.
    pub(super) fn set_usable(&self, is_usable: bool) {
        // Written only where it changes: workers have it in their caches.
        if self.is_usable() != is_usable {
            self.is_usable.store(is_usable, Ordering::Relaxed);
        }
    }

    /// Exchanges in flight, over all workers.
    #[inline]
    pub fn in_flight(&self) -> usize {
        self.live.in_flight.load(Ordering::Relaxed)
    }

    /// Has it join anew: where that is slow, its share grows from a tenth to the whole, from the next look on.
    pub fn rejoin(&self) {
        self.live.joins.store(JOINS_NEXT, Ordering::Relaxed);
    }

    /// How much of its share it takes, of [`JOINED`], where joining takes so long: a straight line from a tenth to the
    /// whole.
    pub fn joined(&self, now: Instant, within: Duration) -> u32 {
        let began = match self.live.joins.load(Ordering::Relaxed) {
            0 => return JOINED,
            JOINS_NEXT => {
                // Two workers may begin it together: at the same time, give or take a tick. One later than zero, which is over.
                let began = clock::millis(now).saturating_add(1);
                self.live.joins.store(began, Ordering::Relaxed);
                began
            }
            began => began,
        };
        let passed = clock::millis(now).saturating_add(1).saturating_sub(began);
        let within = within.as_millis() as u64;
        if passed >= within {
            self.live.joins.store(0, Ordering::Relaxed);
            return JOINED;
        }
        let part = u64::from(JOINED) * passed / within.max(1);
        u32::try_from(part).map_or(JOINED, |part| part.max(JOINED_FLOOR))
    }

    /// How long it takes to begin its answers; observed only where somebody asks for it.
    pub fn latency(&self) -> &Latency {
        &self.live.latency
    }

    /// How many exchanges it does best with; found out only where somebody asks for it.
    pub fn adaptive(&self) -> &Adaptive {
        &self.live.adaptive
    }

    /// Counts one more exchange until the guard is dropped.
    #[inline]
    pub fn enter(self: &Arc<Self>) -> InFlight {
        self.live.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight {
            endpoint: Arc::clone(self),
            queue: None,
        }
    }

    /// The same if there are fewer than `limit`; the end of it is told those who wait in `queue`.
    pub(super) fn try_enter(
        self: &Arc<Self>,
        limit: usize,
        queue: &Arc<Queue>,
    ) -> Option<InFlight> {
        let next = |running| (running < limit).then_some(running + 1);
        let entered = self
            .live
            .in_flight
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        entered.ok().map(|_| InFlight {
            endpoint: Arc::clone(self),
            queue: Some(Arc::clone(queue)),
        })
    }

    /// The connections to it.
    #[inline]
    pub fn sockets(&self) -> &Arc<Sockets> {
        &self.sockets
    }

    /// How long it leaves idle connections open.
    #[inline]
    pub fn keep_alive(&self) -> &KeepAlive {
        &self.keep_alive
    }

    /// Leaves an idle connection for whichever worker needs one next.
    ///
    /// One too many is dropped, which closes it.
    pub fn park(&self, connection: Parked) {
        let mut parked = self.parked();
        if parked.len() < PARKED_LIMIT {
            let later = |other: &Parked| other.idle_since <= connection.idle_since;
            let place = parked.iter().rposition(later).map_or(0, |at| at + 1);
            parked.insert(place, connection);
        }
        drop(parked);
        self.sockets.tell();
    }

    /// Closes the idle connection that was left first, to make room; `false` if there is none.
    pub fn close_parked(&self) -> bool {
        let mut parked = self.parked();
        let has_some = !parked.is_empty();
        if has_some {
            parked.remove(0);
        }
        has_some
    }

    /// Takes the idle connection that became so last, if it may be used.
    pub fn unpark(&self, may_use: impl Fn(&Parked) -> bool) -> Option<Parked> {
        let mut parked = self.parked();
        parked.pop_if(|last| may_use(last))
    }

    /// Looks through the idle connections that were left, unless a neighbour just did: drops those that the endpoint has
    /// closed, and those that `is_aged`. Of those that are idle for too long a few stay, to be watched.
    pub fn review_parked(&self, is_aged: impl Fn(&Parked) -> bool, now: Instant) {
        let moment = clock::millis(now);
        let before = self.live.parked_seen.load(Ordering::Relaxed);
        if moment.saturating_sub(before) < PARKED_REVIEW {
            return;
        }
        // Two that look at the same time do what one would.
        self.live.parked_seen.store(moment, Ordering::Relaxed);
        let limit = self.keep_alive.limit(true);
        let mut witnesses = 0;
        self.parked().retain_mut(|parked| {
            let age = Age::of(parked.idle_since, parked.seen, now);
            if age.now >= IDLE_LIMIT || is_aged(parked) {
                return false;
            }
            if !parked.is_quiet() {
                self.keep_alive.closed(age, now);
                return false;
            }
            parked.seen = Some(now);
            self.keep_alive.lived(age);
            if age.now < limit {
                return true;
            }
            witnesses += 1;
            witnesses <= WITNESSES
        });
    }

    fn parked(&self) -> MutexGuard<'_, Vec<Parked>> {
        self.live
            .parked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Endpoint")
            .field("id", &self.id)
            .field("identity", &self.identity)
            .field("standing", &self.standing())
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

/// One exchange in flight at an endpoint; it ends when this is dropped.
#[derive(Debug)]
pub struct InFlight {
    endpoint: Arc<Endpoint>,
    /// Those who wait for the room that it takes; absent where there is room for all.
    queue: Option<Arc<Queue>>,
}

impl InFlight {
    /// The endpoint that serves the exchange.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Calls the next one who waits for room.
    // Apart, so that the end of an exchange where there is room for all stays as small as it was.
    #[cold]
    fn make_room(&mut self) {
        if let Some(queue) = self.queue.take() {
            queue.call_one();
        }
    }
}

impl Drop for InFlight {
    #[inline]
    fn drop(&mut self) {
        self.endpoint.live.in_flight.fetch_sub(1, Ordering::Relaxed);
        if self.queue.is_some() {
            self.make_room();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::upstream::health::Thresholds;

    fn identity() -> Identity {
        Identity {
            pool: "web".into(),
            address: EndpointAddr::Tcp(([10, 0, 0, 1], 80).into()),
            protocol: Protocol::Auto,
            tls: None,
        }
    }

    #[test]
    fn one_that_becomes_healthy_joins_anew() {
        let endpoint = Endpoint::unproven(identity(), None);
        let policy = Policy {
            check: Some(Thresholds { rise: 1, fall: 1 }),
            outlier: None,
        };
        // Behind the clock's zero, which is set by whoever asks first: nothing is counted before it.
        let now = clock::now() + Duration::from_secs(1);
        let within = Duration::from_secs(10);
        for (is_good, expected) in [(true, 102), (false, 1024), (true, 102)] {
            endpoint.step(Event::Checked(is_good), &policy, now);
            assert_eq!(endpoint.joined(now, within), expected);
            let later = now + within;
            assert_eq!(endpoint.joined(later, within), JOINED);
        }
    }

    #[test]
    fn joining_begins_at_the_first_look_and_is_a_straight_line_from_a_tenth() {
        let endpoint = Endpoint::new(identity(), None);
        let (start, within) = (clock::now(), Duration::from_secs(10));
        assert_eq!(endpoint.joined(start, within), JOINED);
        endpoint.rejoin();
        let start = start + Duration::from_secs(100);
        for (seconds, expected) in [(0, 102), (1, 102), (2, 204), (5, 512), (9, 921), (10, 1024)] {
            let now = start + Duration::from_secs(seconds);
            assert_eq!(endpoint.joined(now, within), expected, "{seconds} s");
        }
        assert_eq!(endpoint.joined(start, within), JOINED, "it has joined");
    }
}
