//! The accept loop of one listener on one worker: connection limit, back-off, one task a connection.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};

use crate::base::addr::ClientAddr;
use crate::base::drain::Drain;
use crate::base::name::ListenerName;
use crate::dataplane::http::Engine;
use crate::dataplane::listener::connection::{self, Arrival};

/// The wait after an accept that failed for want of descriptors or memory: long enough for some to come free.
const BACK_OFF: Duration = Duration::from_millis(100);

/// What the accept loops of one worker count together.
#[derive(Debug)]
pub struct Census {
    open: Cell<usize>,
    left: Notify,
    handshakes: Semaphore,
    admitted: Cell<usize>,
}

impl Census {
    /// A census that admits this many handshakes at a time.
    pub fn new(handshakes: usize) -> Self {
        Self {
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

/// Accepts for as long as it is polled; dropping it closes the worker's socket of this listener.
///
/// Connections run as tasks of their own, each a guest of `drain`.
pub async fn run(
    engine: Rc<Engine>,
    census: Rc<Census>,
    name: ListenerName,
    socket: TcpListener,
    drain: Drain,
) {
    loop {
        // A place before the connection: what cannot be served waits in the kernel.
        loop {
            let left = census.left.notified();
            if census.open.get() < engine.snapshot().limits.connections {
                break;
            }
            left.await;
        }
        match socket.accept().await {
            Ok((stream, address)) => {
                welcome(&engine, &census, &name, &drain, stream, ClientAddr(address));
            }
            Err(error) if is_about_one_connection(&error) => {
                tracing::debug!(listener = %name, %error, "a connection ended before it was accepted");
            }
            Err(error) => {
                tracing::warn!(listener = %name, %error, "accepting fails; trying again");
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
}

fn welcome(
    engine: &Rc<Engine>,
    census: &Rc<Census>,
    name: &ListenerName,
    drain: &Drain,
    stream: TcpStream,
    client: ClientAddr,
) {
    let snapshot = engine.snapshot();
    let Some(plan) = snapshot.listener(name) else {
        // The listener has left the config between accept and here; its drain closes the rest too.
        return;
    };
    let arrival = Arrival {
        engine: Rc::clone(engine),
        census: Rc::clone(census),
        plan: plan.clone(),
        stream,
        client,
        guest: drain.guest(),
    };
    tokio::task::spawn_local(connection::serve(arrival, census.enter()));
}

fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}
