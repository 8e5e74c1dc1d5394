//! The compiled truth: what is in force, as one value, and its reader and writer halves.
//!
//! There is exactly one swappable cell (invariant I1). A worker reads it through a [`Reader`] of its own, an
//! exchange holds the [`Snapshot`] it began with to its end, and only the reload loop owns the [`Writer`] (I3).
//! The only file that knows arc_swap.

use std::cell::RefCell;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, Cache};
use foldhash::HashSet;
use ipnet::IpNet;
use tokio::sync::watch;

use crate::base::addr::ListenAddr;
use crate::base::clients::{self, Clients};
use crate::base::fault::Fault;
use crate::base::name::{ListenerName, RouteName};
use crate::base::secret::Secret;
use crate::dataplane::filter::{Filter, FixedResponse, Redirect};
use crate::dataplane::route::RouteTable;
use crate::dataplane::tls::ServerPlan;
use crate::dataplane::upstream::mirror::Mirror;
use crate::dataplane::upstream::pool::Pool;
use crate::dataplane::upstream::retry;
use crate::dataplane::upstream::split::Split;
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
    /// The exchanges in progress, where they are limited. Shared with the versions before and after.
    pub running: Arc<Running>,
    /// What each client has and does, where that is limited. Shared like that.
    pub clients: Arc<Clients>,
    /// Timeouts of connections, which keep those that they began with.
    pub timeouts: Arc<Timeouts>,
    /// What the keys of sessions are made of that no secret of the operator's is for; absent until a pool wants it.
    pub sessions: Option<Secret>,
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
    /// The path that tells whether new clients are welcome.
    pub ready_path: Option<Box<str>>,
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
    /// The attempts: how many, after what, and the time of all together. Routes that say nothing of them share it.
    pub retry: Arc<retry::Plan>,
    /// A pause in the answer's body.
    pub idle_timeout: Duration,
    /// A pause in a tunnel, an event stream or a gRPC stream.
    pub stream_timeout: Duration,
    /// Exchanges in progress, at most.
    pub concurrent_requests: Option<NonZeroU32>,
    /// Let encoded slashes and backslashes through.
    pub allow_encoded_slashes: bool,
    /// Shared with the versions before and after that have a route of this name.
    pub life: Arc<Life>,
}

/// The life of a route by its name: from the version that has it first to the one that has it no more, however often it
/// changes in between.
#[derive(Debug, Default)]
pub struct Life {
    is_over: AtomicBool,
    /// Its exchanges in progress, where they are limited.
    pub running: Arc<Running>,
}

impl Life {
    /// Whether the route is gone. It does not come back: one of the same name has another life.
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    fn end(&self) {
        self.is_over.store(true, Ordering::Release);
    }
}

/// Exchanges in progress, counted while there is a limit to them.
#[derive(Debug, Default)]
pub struct Running(AtomicUsize);

impl Running {
    /// Counts one more exchange until the guard is dropped; `None` if there are as many as there may be.
    pub fn enter(self: &Arc<Self>, most: NonZeroU32) -> Option<Counted> {
        let most = most.get() as usize;
        let next = |running| (running < most).then_some(running + 1);
        // Relaxed: the number orders nothing else.
        let entered = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        entered.ok().map(|_| Counted(Arc::clone(self)))
    }
}

/// One exchange in progress; it is over when this is dropped.
#[derive(Debug)]
pub struct Counted(Arc<Running>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A life that has ended, for the tests of those who ask.
#[cfg(test)]
pub(super) fn life_that_is_over() -> Arc<Life> {
    let life = Life::default();
    life.end();
    Arc::new(life)
}

// With the two counts of an `Arc` in front.
const _: () = assert!(size_of::<Route>() + 2 * size_of::<usize>() <= 128);

/// Where the requests of a route go.
#[derive(Debug)]
pub enum Action {
    /// To an endpoint of a pool.
    Forward(Arc<Pool>),
    /// To an endpoint of one of several pools, or with copies to another one.
    Fork(Box<Fork>),
    /// To another URL.
    Redirect(Box<Redirect>),
    /// Nowhere: the answer is here.
    Respond(Box<FixedResponse>),
    /// Nowhere: why is known beforehand.
    Fail(Fault),
}

/// Where requests go that do not all go one way.
#[derive(Debug)]
pub struct Fork {
    /// The pools, perhaps just one.
    pub split: Split<Arc<Pool>>,
    /// Where copies go.
    pub mirror: Option<Mirror>,
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
    /// Exchanges in progress, over all workers; absent: as many as come.
    pub concurrent_requests: Option<NonZeroU32>,
    /// Those of each client.
    pub client: clients::Limits,
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
    /// From the removal of a route to the end of the last of its tunnels.
    pub drain_tunnels: Duration,
    /// From the wish to end to the start of the drain.
    pub drain_notice: Duration,
    /// From an upgrade of the binary to the end of what still runs in the process before.
    pub drain_upgrade: Duration,
}

/// Makes the cell and its two halves.
pub fn cell(first: Snapshot) -> (Writer, Source) {
    let cell = Arc::new(ArcSwap::from_pointee(first));
    let (changed, changes) = watch::channel(());
    (
        Writer {
            cell: Arc::clone(&cell),
            changed,
            retired: Vec::new(),
        },
        Source { cell, changes },
    )
}

/// The writer half: the reload loop owns the only one.
///
/// It keeps a hand on every snapshot that is not in force any more until nobody else holds it: the last exchange to let
/// go of one would have to take it apart, which takes milliseconds where there are thousands of routes.
#[derive(Debug)]
pub struct Writer {
    cell: Arc<ArcSwap<Snapshot>>,
    changed: watch::Sender<()>,
    retired: Vec<Arc<Snapshot>>,
}

impl Writer {
    /// Puts the next snapshot in force: exchanges that begin from now on see it. The tunnels of routes that it does not
    /// have any more are told so.
    pub fn swap(&mut self, next: Snapshot) {
        let before = self.cell.load_full();
        end_lives(&before, &next);
        self.cell.store(Arc::new(next));
        self.changed.send_replace(());
        self.retired.push(before);
    }

    /// Takes apart the snapshots that nobody else holds any more, on the calling thread.
    pub fn sweep(&mut self) {
        // Nobody can take hold of one that is not in force, so a count of one stays one.
        self.retired
            .retain(|snapshot| Arc::strong_count(snapshot) > 1);
    }

    /// How many snapshots there are: the one in force, and those that are still held.
    pub fn count(&self) -> usize {
        1 + self.retired.len()
    }

    /// Where readers come from.
    pub fn source(&self) -> Source {
        Source {
            cell: Arc::clone(&self.cell),
            changes: self.changed.subscribe(),
        }
    }

    /// The snapshot in force.
    pub fn current(&self) -> Arc<Snapshot> {
        self.cell.load_full()
    }
}

/// Ends the lives of routes that are in `before` and not in `after`. A worker that sees `after` finds them ended: they
/// are before it is put in force.
fn end_lives(before: &Snapshot, after: &Snapshot) {
    let routes = || after.routes.iter().map(|(_, route)| route);
    let lives: HashSet<_> = routes().map(|route| Arc::as_ptr(&route.life)).collect();
    for (_, route) in before.routes.iter() {
        if !lives.contains(&Arc::as_ptr(&route.life)) {
            route.life.end();
        }
    }
}

/// Where readers come from: cloned to every worker, which makes its own [`Reader`] of it.
#[derive(Clone, Debug)]
pub struct Source {
    cell: Arc<ArcSwap<Snapshot>>,
    changes: watch::Receiver<()>,
}

impl Source {
    /// Tells that another snapshot is in force, for those that do not look by themselves with each exchange.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.clone()
    }

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

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::dataplane::route::Match;

    const TIME: Duration = Duration::from_secs(1);

    fn route(name: &str, life: &Arc<Life>) -> Arc<Route> {
        Arc::new(Route {
            name: name.into(),
            filters: [].into(),
            action: Action::Fail(Fault::NoRoute),
            retry: Arc::new(retry::Plan::none(TIME)),
            idle_timeout: TIME,
            stream_timeout: TIME,
            concurrent_requests: None,
            allow_encoded_slashes: false,
            life: Arc::clone(life),
        })
    }

    fn snapshot(version: u64, routes: Vec<Arc<Route>>) -> Snapshot {
        let rules = routes.into_iter().map(|route| (Match::default(), route));
        Snapshot {
            version,
            listeners: [].into(),
            routes: RouteTable::new(rules.collect()),
            pools: [].into(),
            trusted_proxies: [].into(),
            limits: Limits {
                connections: 1,
                handshakes: 1,
                header_bytes: 1,
                header_fields: 1,
                response_header_bytes: 1,
                h2_streams: 1,
                idle_connections: 1,
                concurrent_requests: None,
                client: clients::Limits::default(),
            },
            running: Arc::default(),
            clients: Arc::default(),
            timeouts: Arc::new(Timeouts {
                handshake: TIME,
                first_byte: TIME,
                header: TIME,
                body: TIME,
                keep_alive: TIME,
                age: TIME,
                send: TIME,
                drain: TIME,
                drain_tunnels: TIME,
                drain_notice: TIME,
                drain_upgrade: TIME,
            }),
            sessions: None,
            access_log: None,
        }
    }

    #[test]
    fn a_snapshot_is_taken_apart_by_the_writer_and_by_nobody_else() {
        let first = route("a", &Arc::default());
        let watch = Arc::downgrade(&first);
        let (mut writer, source) = cell(snapshot(1, vec![first]));
        thread::scope(|scope| {
            let held = scope.spawn(|| {
                let reader = source.reader();
                let held = reader.load();
                assert_eq!(held.version, 1);
            });
            held.join().unwrap();
        });
        let held = source.reader();
        writer.swap(snapshot(2, Vec::new()));
        writer.sweep();
        assert_eq!(
            writer.count(),
            2,
            "a reader holds it that has not looked since"
        );
        assert_eq!(held.load().version, 2);
        assert!(
            watch.upgrade().is_some(),
            "whoever lets go of it does not take it apart"
        );
        assert_eq!(writer.count(), 2);
        writer.sweep();
        assert_eq!((writer.count(), watch.upgrade().is_some()), (1, false));
    }

    #[test]
    fn the_life_of_a_route_ends_with_the_version_that_has_it_no_more() {
        let (stays, goes) = (Arc::<Life>::default(), Arc::<Life>::default());
        let first = snapshot(1, vec![route("stays", &stays), route("goes", &goes)]);
        let (mut writer, source) = cell(first);
        writer.swap(snapshot(
            2,
            vec![route("stays", &stays), route("goes", &goes)],
        ));
        assert!(!stays.is_over() && !goes.is_over());
        writer.swap(snapshot(
            3,
            vec![route("stays", &stays), route("goes", &Arc::default())],
        ));
        assert!(!stays.is_over() && goes.is_over());
        assert_eq!(source.reader().load().version, 3);
    }
}
