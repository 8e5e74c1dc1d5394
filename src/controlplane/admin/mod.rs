//! The control socket: HTTP for those who run the process, on a thread of its own.
//!
//! It asks the loop by counting up `Demands`, and reads the boards of others for the answer. It is no part of the data plane:
//! nothing here is on the way of a request, and a caller that hangs keeps nobody but other callers. Who may connect is up
//! to the file of the socket, which is the owner's alone; others are turned away even if its mode was changed.

mod answer;
mod metrics;
pub mod socket;

use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::process::geteuid;
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::{self, LocalOptions};
use tokio::sync::{Semaphore, watch as cell};

use crate::controlplane::reload::Demands;
use crate::controlplane::reload::board::Board;
use crate::controlplane::status::{Upgrade, Upgrades};
use crate::dataplane::snapshot::Source;

use self::socket::AdminSocket;

pub use self::answer::{CONFIG, full_path};

/// Callers at a time, at most; who comes then waits in the kernel.
const CALLERS_LIMIT: usize = 32;

/// How long a caller may take to say what it wants.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of what it says, at most.
const REQUEST_LIMIT: usize = 16 << 10;

/// How long a caller may stay in all: longer than any answer takes, so this ends those that do not take theirs.
const CALL_TIMEOUT: Duration = Duration::from_secs(660);

/// How long a caller gets to take its answer when the socket closes.
const FAREWELL: Duration = Duration::from_secs(1);

/// How long an accept that failed is left alone.
const BACK_OFF: Duration = Duration::from_millis(100);

/// What callers can reach.
#[derive(Clone, Debug)]
pub struct Control {
    /// Asks the loop for reloads and upgrades.
    pub demands: cell::Sender<Demands>,
    /// Shows how reloads ended.
    pub board: Arc<Board>,
    /// Shows how upgrades ended.
    pub upgrades: cell::Receiver<Upgrades>,
    /// The config file.
    pub config: PathBuf,
}

/// What answers are made of.
#[derive(Debug)]
struct Desk {
    control: Control,
    /// What is in force.
    snapshots: Source,
}

/// The control socket while it is served.
#[derive(Debug)]
pub struct Admin {
    socket: AdminSocket,
    upgrades: cell::Receiver<Upgrades>,
    open: cell::Sender<bool>,
    thread: JoinHandle<()>,
}

impl Admin {
    /// Makes all that serving takes, on a thread of its own. Callers wait in the kernel until it is [opened](Self::open).
    ///
    /// # Errors
    /// When the system has no thread, event loop or descriptor for it.
    pub fn start(socket: AdminSocket, control: Control, snapshots: Source) -> io::Result<Self> {
        let listener = socket.listener.try_clone()?;
        let upgrades = control.upgrades.clone();
        let (open, opened) = cell::channel(false);
        let (report, started) = sync_channel(1);
        // A caller waits for a reload on a thread, so there are as many as callers.
        let mut builder = runtime::Builder::new_current_thread();
        builder.enable_all().max_blocking_threads(CALLERS_LIMIT);
        let thread = thread::Builder::new()
            .name("admin".to_owned())
            .spawn(move || {
                // Neither can leave the thread that made it.
                let made = builder
                    .build_local(LocalOptions::default())
                    .and_then(|runtime| {
                        let _inside = runtime.enter();
                        UnixListener::from_std(listener).map(|listener| (runtime, listener))
                    });
                let (made, outcome) = match made {
                    Ok(made) => (Some(made), Ok(())),
                    Err(error) => (None, Err(error)),
                };
                // Whoever started this waits for the report.
                drop(report.send(outcome));
                if let Some((runtime, listener)) = made {
                    let desk = Desk { control, snapshots };
                    runtime.block_on(serve(listener, desk, opened));
                    runtime.shutdown_background();
                }
            })?;
        started
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("the thread ended")))?;
        Ok(Self {
            socket,
            upgrades,
            open,
            thread,
        })
    }

    /// Takes callers from now on: the process serves, and whoever served here before takes none any more.
    pub fn open(&self) {
        self.open.send_replace(true);
    }

    /// The socket.
    pub fn socket(&self) -> &AdminSocket {
        &self.socket
    }

    /// Takes no new callers, lets those that are here have their answers, and removes the socket's file, unless another
    /// process serves there by now.
    pub fn stop(self) {
        drop(self.open);
        if !is_handed_over(&self.upgrades.borrow()) {
            self.socket.remove();
        }
        if self.thread.join().is_err() {
            tracing::error!("the thread of the control socket ended by a panic");
        }
    }
}

async fn handed_over(upgrades: &mut cell::Receiver<Upgrades>) {
    if upgrades.wait_for(is_handed_over).await.is_err() {
        // It will not happen any more.
        std::future::pending::<()>().await;
    }
}

fn is_handed_over(upgrades: &Upgrades) -> bool {
    matches!(upgrades.last, Some(Upgrade::HandedOver { .. }))
}

async fn serve(listener: UnixListener, desk: Desk, mut opened: cell::Receiver<bool>) {
    if opened.wait_for(|open| *open).await.is_err() {
        return;
    }
    let mut upgrades = desk.control.upgrades.clone();
    let desk = Rc::new(desk);
    let places = Arc::new(Semaphore::new(CALLERS_LIMIT));
    loop {
        let accept = async {
            // Never closed, so it fails never.
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            biased;
            // Nothing more is sent: the error that the other side is gone is the news.
            _ = opened.changed() => break,
            // The other process accepts on the same socket.
            () = handed_over(&mut upgrades) => break,
            accepted = accept => accepted,
        };
        match accepted {
            Ok((stream, _)) if !is_allowed(&stream) => {
                // No warning: whoever is turned away could fill the log with them.
                tracing::debug!("another user called at the control socket, and was turned away");
            }
            Ok((stream, _)) => {
                let desk = Rc::clone(&desk);
                tokio::task::spawn_local(async move {
                    talk(stream, desk).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the control socket accepts nobody; trying again");
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
    drop(listener);
    let everybody = u32::try_from(CALLERS_LIMIT).unwrap_or(u32::MAX);
    // Whoever has not taken its answer by then goes without.
    drop(tokio::time::timeout(FAREWELL, places.acquire_many(everybody)).await);
}

async fn talk(stream: UnixStream, desk: Rc<Desk>) {
    let service = service_fn(move |request| answer::answer(request, Rc::clone(&desk)));
    let talk = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(REQUEST_LIMIT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CALL_TIMEOUT, talk).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a caller of the control socket left"),
        Err(_) => tracing::debug!("a caller of the control socket did not take its answer"),
    }
}

/// Whether a caller may ask: the kernel knows who it was when it connected.
fn is_allowed(stream: &UnixStream) -> bool {
    let caller = stream.peer_cred();
    caller.is_ok_and(|caller| is_owner(caller.uid(), geteuid().as_raw()))
}

fn is_owner(caller: u32, ours: u32) -> bool {
    caller == ours || caller == ROOT
}

const ROOT: u32 = 0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_and_root_may_ask_and_nobody_else() {
        assert!(is_owner(1000, 1000) && is_owner(ROOT, 1000) && is_owner(ROOT, ROOT));
        assert!(!is_owner(1001, 1000) && !is_owner(1000, ROOT));
    }

    #[tokio::test]
    async fn the_kernel_says_who_calls() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert!(is_allowed(&ours));
    }
}
