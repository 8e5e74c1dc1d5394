//! One core: its thread, its runtime, its listeners, its idle connections.
//!
//! A connection and all its exchanges live and die on the worker that accepted it. The control plane speaks to
//! workers by messages and never waits for one while traffic flows.

use std::collections::HashMap;
use std::io;
use std::net::TcpListener as StdTcpListener;
use std::rc::Rc;
use std::sync::mpsc::sync_channel;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot};

use crate::base::drain::{Drain, Phase};
use crate::base::name::ListenerName;
use crate::dataplane::http::Engine;
use crate::dataplane::listener::accept::{self, Census};
use crate::dataplane::snapshot::Source;

/// Messages that a worker may have waiting; a reload sends two a listener.
const MAILBOX: usize = 1024;

/// How long connections that were told to end get to do so, after a drain's time is up.
const LAST_WORDS: Duration = Duration::from_millis(250);

/// All workers of the process.
#[derive(Debug)]
pub struct Workers {
    handles: Vec<Handle>,
}

#[derive(Debug)]
struct Handle {
    mailbox: mpsc::Sender<Message>,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
enum Message {
    Listen {
        name: ListenerName,
        socket: StdTcpListener,
    },
    Unlisten {
        name: ListenerName,
        within: Duration,
    },
    Drain {
        within: Duration,
        cut: oneshot::Sender<usize>,
    },
    Close,
}

impl Workers {
    /// Starts `count` workers that read their snapshots from `source`.
    ///
    /// # Errors
    /// When a thread or its event loop cannot be made.
    pub fn start(count: usize, source: &Source) -> io::Result<Self> {
        let mut handles = Vec::with_capacity(count);
        for index in 0..count {
            let (mailbox, messages) = mpsc::channel(MAILBOX);
            let source = source.clone();
            let (report, started) = sync_channel(1);
            let thread = thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || {
                    // A runtime of this kind cannot leave the thread that made it.
                    let runtime = Builder::new_current_thread()
                        .enable_all()
                        .build_local(LocalOptions::default());
                    let (runtime, outcome) = match runtime {
                        Ok(runtime) => (Some(runtime), Ok(())),
                        Err(error) => (None, Err(error)),
                    };
                    // Nobody waits for the report of a process that gave up starting.
                    drop(report.send(outcome));
                    if let Some(runtime) = runtime {
                        runtime.block_on(run(source, messages));
                    }
                })?;
            started
                .recv()
                .unwrap_or_else(|_| Err(io::Error::other("the thread ended")))?;
            handles.push(Handle { mailbox, thread });
        }
        Ok(Self { handles })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.handles.len()
    }

    /// Hands every worker its socket of a listener.
    pub fn listen(&self, name: &ListenerName, sockets: Vec<StdTcpListener>) {
        for (handle, socket) in self.handles.iter().zip(sockets) {
            handle.tell(Message::Listen {
                name: name.clone(),
                socket,
            });
        }
    }

    /// Stops accepting at once; what runs gets `within` to end, then it is closed.
    pub fn unlisten(&self, name: &ListenerName, within: Duration) {
        for handle in &self.handles {
            handle.tell(Message::Unlisten {
                name: name.clone(),
                within,
            });
        }
    }

    /// Drains everything; how many connections had to be cut when the time was up.
    pub async fn drain(&self, within: Duration) -> usize {
        let mut waiting = Vec::new();
        for handle in &self.handles {
            let (cut, answer) = oneshot::channel();
            handle.tell(Message::Drain { within, cut });
            waiting.push(answer);
        }
        let mut total = 0;
        for answer in waiting {
            total += answer.await.unwrap_or(0);
        }
        total
    }

    /// Ends everything now.
    pub fn close(&self) {
        for handle in &self.handles {
            handle.tell(Message::Close);
        }
    }

    /// Waits for the threads. To be called after [`drain`](Self::drain) or [`close`](Self::close).
    pub fn join(self) {
        for Handle { mailbox, thread } in self.handles {
            drop(mailbox);
            if thread.join().is_err() {
                tracing::error!("a worker ended by a panic");
            }
        }
    }
}

impl Handle {
    fn tell(&self, message: Message) {
        if let Err(error) = self.mailbox.try_send(message) {
            tracing::error!(%error, "a worker does not take messages");
        }
    }
}

/// A listener on this worker.
struct Listening {
    accepting: tokio::task::JoinHandle<()>,
    drain: Drain,
}

impl Listening {
    /// Stops accepting and lets connections end, by force after `within`; how many that took.
    async fn end(self, within: Duration) -> usize {
        self.accepting.abort();
        self.drain.advance(Phase::Draining);
        if tokio::time::timeout(within, self.drain.finished())
            .await
            .is_ok()
        {
            return 0;
        }
        let cut = self.drain.len();
        self.drain.advance(Phase::Closing);
        // They end by themselves now; whoever does not ends with the thread.
        drop(tokio::time::timeout(LAST_WORDS, self.drain.finished()).await);
        cut
    }
}

async fn run(source: Source, mut messages: mpsc::Receiver<Message>) {
    let engine = Rc::new(Engine::new(source.reader()));
    let census = Rc::new(Census::new(engine.snapshot().limits.handshakes));
    let mut listening: HashMap<ListenerName, Listening> = HashMap::new();
    let ticking = tokio::task::spawn_local(tick(Rc::clone(&engine)));
    while let Some(message) = messages.recv().await {
        match message {
            Message::Listen { name, socket } => match listen(&engine, &census, &name, socket) {
                Ok(listener) => {
                    listening.insert(name, listener);
                }
                Err(error) => tracing::error!(listener = %name, %error, "cannot listen"),
            },
            Message::Unlisten { name, within } => {
                if let Some(listener) = listening.remove(&name) {
                    tokio::task::spawn_local(listener.end(within));
                }
            }
            Message::Drain { within, cut } => {
                let ending: Vec<_> = listening
                    .drain()
                    .map(|(_, listener)| tokio::task::spawn_local(listener.end(within)))
                    .collect();
                tokio::task::spawn_local(async move {
                    let mut total = 0;
                    for listener in ending {
                        total += listener.await.unwrap_or(0);
                    }
                    // Nobody listens when the process is told to end at once.
                    let _ = cut.send(total);
                });
            }
            Message::Close => break,
        }
    }
    ticking.abort();
    engine.log.flush();
}

fn listen(
    engine: &Rc<Engine>,
    census: &Rc<Census>,
    name: &ListenerName,
    socket: StdTcpListener,
) -> io::Result<Listening> {
    let socket = TcpListener::from_std(socket)?;
    let drain = Drain::default();
    let accepting = tokio::task::spawn_local(accept::run(
        Rc::clone(engine),
        Rc::clone(census),
        name.clone(),
        socket,
        drain.clone(),
    ));
    Ok(Listening { accepting, drain })
}

/// What a worker does beside its connections.
async fn tick(engine: Rc<Engine>) {
    tokio::join!(
        engine.deadlines.run(),
        engine.connections.run(),
        engine.log.run(),
        refresh(&engine)
    );
}

/// How often a worker looks whether the snapshot has changed, with traffic or without.
const REFRESH: Duration = Duration::from_secs(1);

/// Does what follows from a change of the snapshot, and lets go of the old one: a worker without traffic would keep the
/// last one that it read alive.
async fn refresh(engine: &Engine) {
    let mut seen = engine.snapshot().version;
    loop {
        tokio::time::sleep(REFRESH).await;
        let snapshot = engine.snapshot();
        if seen != snapshot.version {
            seen = snapshot.version;
            engine.tunnels.review(snapshot.timeouts.drain_tunnels);
        }
    }
}
