//! The accept loop of one socket on one worker: connection limit, back-off, one task a connection.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, TcpListener as StdTcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};

use crate::base::addr::ClientAddr;
use crate::base::clients::{Owned, Refused};
use crate::base::clock;
use crate::base::drain::Drain;
use crate::base::name::ListenerName;
use crate::dataplane::http::Engine;
use crate::dataplane::listener::connection::{self, Arrival};
use crate::dataplane::listener::socket;
use crate::dataplane::snapshot::{ListenerPlan, Snapshot};

/// The wait after an accept that failed for want of descriptors or memory: long enough for some to come free.
const BACK_OFF: Duration = Duration::from_millis(100);

/// How often failing accepts are told at most.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// Connections taken from a queue before its socket is closed, at most: as many as it has room for.
const SWEEP_LIMIT: usize = socket::BACKLOG as usize;

/// What the accept loops of one worker count together.
#[derive(Debug)]
pub struct Census {
    failures: Cell<u64>,
    told: Cell<Option<Instant>>,
    open: Cell<usize>,
    left: Notify,
    handshakes: Semaphore,
    admitted: Cell<usize>,
}

impl Census {
    /// A census that admits this many handshakes at a time.
    pub fn new(handshakes: usize) -> Self {
        Self {
            failures: Cell::new(0),
            told: Cell::new(None),
            open: Cell::new(0),
            left: Notify::new(),
            handshakes: Semaphore::new(handshakes),
            admitted: Cell::new(handshakes),
        }
    }

    /// Turns at a TLS handshake, as many at a time as `limit` says now: a reload may have moved it.
    pub fn handshakes(&self, limit: usize) -> &Semaphore {
        let before = self.admitted.replace(limit);
        if limit > before {
            self.handshakes.add_permits(limit - before);
        } else if limit < before {
            // Those that are taken just now cannot be; they are missed until the next time somebody looks.
            let forgotten = self.handshakes.forget_permits(before - limit);
            self.admitted.set(before - forgotten);
        }
        &self.handshakes
    }

    /// Notes an accept that failed for want of something, and tells it now and then: a process that is out of descriptors
    /// needs its log for other things too.
    fn complain(&self, listener: &ListenerName, error: &io::Error, now: Instant) {
        self.failures.set(self.failures.get() + 1);
        let is_early = |told| now.saturating_duration_since(told) < WARN_EVERY;
        if self.told.get().is_some_and(is_early) {
            return;
        }
        self.told.set(Some(now));
        let failures = self.failures.take();
        tracing::warn!(%listener, %error, failures, "accepting fails: clients wait in the kernel until it works again");
    }

    fn enter(self: &Rc<Self>) -> Present {
        self.open.set(self.open.get() + 1);
        Present {
            census: Rc::clone(self),
        }
    }
}

/// One open connection; it is counted until this is dropped.
#[derive(Debug)]
pub struct Present {
    census: Rc<Census>,
}

impl Drop for Present {
    fn drop(&mut self) {
        self.census
            .open
            .set(self.census.open.get().saturating_sub(1));
        // Every listener's loop looks again: the place is free for whichever has a client waiting.
        self.census.left.notify_waiters();
    }
}

/// Accepts until it is told to stop, and closes its socket then; what waits in the socket's queue is taken first.
///
/// Connections run as tasks of their own, each a guest of `drain`. Dropping the future closes the socket at once, over
/// whatever waits in it.
pub async fn run(
    engine: Rc<Engine>,
    census: Rc<Census>,
    name: ListenerName,
    socket: TcpListener,
    drain: Drain,
    stop: Rc<Notify>,
) {
    let mut host = Host {
        plan: engine.snapshot().listener(&name).cloned(),
        engine,
        census,
        name,
        drain,
    };
    tokio::select! {
        biased;
        () = stop.notified() => {}
        () = host.accept(&socket) => {}
    }
    match socket.into_std() {
        Ok(socket) => host.sweep(&socket),
        Err(error) => tracing::debug!(%error, "a socket is closed unswept"),
    }
}

/// Who lets connections in.
struct Host {
    engine: Rc<Engine>,
    census: Rc<Census>,
    name: ListenerName,
    drain: Drain,
    /// The last one that is known: the listener may have left the config before the last of its connections.
    plan: Option<Arc<ListenerPlan>>,
}

impl Host {
    async fn accept(&mut self, socket: &TcpListener) {
        loop {
            // A place before the connection: what cannot be served waits in the kernel.
            loop {
                let left = self.census.left.notified();
                if self.has_room() {
                    break;
                }
                left.await;
            }
            match socket.accept().await {
                Ok((stream, address)) => self.welcome(stream, ClientAddr(address)),
                Err(error) if is_about_one_connection(&error) => {
                    tracing::debug!(listener = %self.name, %error, "a connection ended before it was accepted");
                }
                Err(error) => {
                    self.census.complain(&self.name, &error, clock::now());
                    tokio::time::sleep(BACK_OFF).await;
                }
            }
        }
    }

    /// Takes what waits in the queue: these clients are connected, and may have sent a request. Another process or worker may
    /// take from the same queue; what is not here is there.
    fn sweep(&mut self, socket: &StdTcpListener) {
        for _ in 0..SWEEP_LIMIT {
            if !self.has_room() {
                return;
            }
            match socket.accept() {
                Ok((stream, address)) => {
                    let stream = stream.set_nonblocking(true).map(|()| stream);
                    match stream.and_then(TcpStream::from_std) {
                        Ok(stream) => self.welcome(stream, ClientAddr(address)),
                        Err(error) => tracing::debug!(%error, "a connection is lost"),
                    }
                }
                Err(error) if is_about_one_connection(&error) => {}
                // The queue is empty, or the process out of descriptors.
                Err(_) => return,
            }
        }
    }

    fn has_room(&self) -> bool {
        self.census.open.get() < self.engine.snapshot().limits.connections
    }

    fn welcome(&mut self, stream: TcpStream, client: ClientAddr) {
        let known = self.plan.as_ref();
        if let Some(plan) = self.engine.snapshot().listener(&self.name)
            && !known.is_some_and(|known| Arc::ptr_eq(known, plan))
        {
            self.plan = Some(Arc::clone(plan));
        }
        let Some(plan) = &self.plan else {
            // A listener starts when its plan is in force.
            tracing::error!(listener = %self.name, "a listener without a plan");
            return;
        };
        let snapshot = self.engine.snapshot();
        let Ok(owned) = admit(&snapshot, client) else {
            return;
        };
        let arrival = Arrival {
            engine: Rc::clone(&self.engine),
            census: Rc::clone(&self.census),
            plan: Arc::clone(plan),
            stream,
            client,
            owned,
            guest: self.drain.guest(),
        };
        tokio::task::spawn_local(connection::serve(arrival, self.census.enter()));
    }
}

/// Counts a connection of its client where there is a limit to them; one too many is closed before a byte is read of it.
fn admit(snapshot: &Snapshot, client: ClientAddr) -> Result<Option<Owned>, ()> {
    let Some(most) = snapshot.limits.client.connections else {
        return Ok(None);
    };
    let client = client.ip();
    if snapshot.trusts(client) {
        return Ok(None);
    }
    let now = clock::nanos(clock::coarse());
    let entered = snapshot.clients.connect(client, most, now);
    entered.map_err(|refused| tell(client, refused))
}

/// Tells now and then that clients are refused.
pub(super) fn tell(client: IpAddr, refused: Refused) {
    let Refused { excess, untold, .. } = refused;
    if let Some(refusals) = untold {
        let limit = excess.key();
        tracing::warn!(%client, limit, refusals, "a limit of `limits.client` closes connections, the last of this client");
    }
}

fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}
