//! One core: its thread, its runtime, its listeners, its idle connections.
//!
//! A connection and all its exchanges live and die on the worker that accepted it. The control plane speaks to
//! workers by messages and never waits for one while traffic flows.

use std::collections::HashMap;
use std::io;
use std::mem;
use std::net::TcpListener as StdTcpListener;
use std::rc::Rc;
use std::sync::mpsc::sync_channel;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::base::drain::{Drain, GRACE, Phase};
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
        sockets: Vec<StdTcpListener>,
    },
    Unlisten {
        name: ListenerName,
        within: Duration,
        /// How many connections there are.
        told: oneshot::Sender<usize>,
        /// The last one has ended; how many had to be cut.
        ended: oneshot::Sender<usize>,
    },
    /// Say on request that the process is not ready for new clients.
    Unready,
    /// Stop accepting; what waits in the queues is taken first.
    Shut(oneshot::Sender<()>),
    /// Let connections end.
    Drain {
        grace: Duration,
        /// How many there are.
        told: oneshot::Sender<usize>,
        /// The last one has ended.
        ended: oneshot::Sender<()>,
    },
    /// Cut what has not ended yet; how many that are.
    Cut(oneshot::Sender<usize>),
    /// Answer, to show that the worker moves.
    Ping(oneshot::Sender<()>),
    Close,
}

/// Signs of life that workers were asked for.
#[derive(Debug)]
pub struct Pulse {
    answers: Vec<oneshot::Receiver<()>>,
}

impl Pulse {
    /// Waits until every worker has given one; one that hangs or is gone never does.
    pub async fn felt(self) {
        for answer in self.answers {
            if answer.await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// The drain of all workers. Dropping it stops nothing.
#[derive(Debug)]
pub struct Draining {
    /// Connections that were open when it began.
    pub connections: usize,
    ends: Vec<oneshot::Receiver<()>>,
}

impl Draining {
    /// Waits until the last connection has ended. Dropping the future loses nothing.
    pub async fn finished(&mut self) {
        while let Some(end) = self.ends.last_mut() {
            // A worker that is gone has nothing left to end.
            drop(end.await);
            self.ends.pop();
        }
    }
}

/// A listener that is gone, as its connections end. Dropping it stops nothing.
#[derive(Debug)]
pub struct Leaving {
    told: Vec<oneshot::Receiver<usize>>,
    ends: Vec<oneshot::Receiver<usize>>,
}

impl Leaving {
    /// How many connections were told to end. To be asked once; dropping the future loses the answer.
    pub async fn told(&mut self) -> usize {
        sum(mem::take(&mut self.told)).await
    }

    /// Waits until the last connection has ended; how many had to be cut.
    pub async fn finished(self) -> usize {
        sum(self.ends).await
    }
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

    /// Hands every worker its sockets of a listener.
    pub fn listen(&self, name: &ListenerName, shares: Vec<Vec<StdTcpListener>>) {
        for (handle, sockets) in self.handles.iter().zip(shares) {
            handle.tell(Message::Listen {
                name: name.clone(),
                sockets,
            });
        }
    }

    /// Stops accepting at once; what runs gets `within` to end, then it is closed.
    pub fn unlisten(&self, name: &ListenerName, within: Duration) -> Leaving {
        let (mut answers, mut ends) = (Vec::new(), Vec::new());
        for handle in &self.handles {
            let (told, answer) = oneshot::channel();
            let (ended, end) = oneshot::channel();
            handle.tell(Message::Unlisten {
                name: name.clone(),
                within,
                told,
                ended,
            });
            answers.push(answer);
            ends.push(end);
        }
        Leaving {
            told: answers,
            ends,
        }
    }

    /// Has listeners that are asked say from now on that the process is not ready for new clients.
    pub fn unready(&self) {
        for handle in &self.handles {
            handle.tell(Message::Unready);
        }
    }

    /// Stops accepting, and tells every connection to end; one without a request is left open for `grace` first.
    ///
    /// Whoever is told to end may come back at once, and is not to meet a worker that has not been told yet: all stop accepting
    /// before any tells its clients.
    pub async fn drain(&self, grace: Duration) -> Draining {
        let shut = self.handles.iter().map(|handle| {
            let (shut, answer) = oneshot::channel();
            handle.tell(Message::Shut(shut));
            answer
        });
        for answer in shut.collect::<Vec<_>>() {
            // A worker that is gone accepts nothing.
            drop(answer.await);
        }
        let mut waiting = Vec::new();
        let mut ends = Vec::new();
        for handle in &self.handles {
            let (told, answer) = oneshot::channel();
            let (ended, end) = oneshot::channel();
            handle.tell(Message::Drain { grace, told, ended });
            waiting.push(answer);
            ends.push(end);
        }
        let connections = sum(waiting).await;
        Draining { connections, ends }
    }

    /// Cuts what has not ended by itself; how many connections that are.
    pub async fn cut(&self) -> usize {
        let mut waiting = Vec::new();
        for handle in &self.handles {
            let (cut, answer) = oneshot::channel();
            handle.tell(Message::Cut(cut));
            waiting.push(answer);
        }
        sum(waiting).await
    }

    /// Asks every worker for a sign of life.
    pub fn pulse(&self) -> Pulse {
        let answers = self.handles.iter().map(|handle| {
            let (sender, answer) = oneshot::channel();
            handle.tell(Message::Ping(sender));
            answer
        });
        Pulse {
            answers: answers.collect(),
        }
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

/// Adds up what workers answer; one that is gone has nothing to add.
async fn sum(answers: Vec<oneshot::Receiver<usize>>) -> usize {
    let mut total = 0;
    for answer in answers {
        total += answer.await.unwrap_or(0);
    }
    total
}

/// A listener on this worker.
struct Listening {
    loops: Vec<Accepting>,
    drain: Drain,
}

/// An accept loop, one a socket.
struct Accepting {
    task: tokio::task::JoinHandle<()>,
    stop: Rc<Notify>,
}

impl Listening {
    /// Stops accepting: what waits in the queues is taken, and is told to end as all the others are.
    async fn shut(self) {
        for Accepting { task, stop } in self.loops {
            stop.notify_one();
            // A panic in it has been reported, and there is nothing left to stop.
            drop(task.await);
        }
    }

    /// Stops accepting and lets connections end, by force after `within`.
    async fn end(
        self,
        within: Duration,
        told: oneshot::Sender<usize>,
        ended: oneshot::Sender<usize>,
    ) {
        let drain = self.drain.clone();
        drain.begin(grace_within(within));
        self.shut().await;
        // Nobody listens when the process ends.
        let _ = told.send(drain.len());
        let cut = match tokio::time::timeout(within, drain.finished()).await {
            Ok(()) => 0,
            Err(_) => cut(&[drain]).await,
        };
        // As above.
        let _ = ended.send(cut);
    }
}

/// How long connections without a request stay, in a drain of so much time.
pub fn grace_within(within: Duration) -> Duration {
    GRACE.min(within / 2)
}

/// Ends what has not ended by itself; how many connections that are.
async fn cut(drains: &[Drain]) -> usize {
    let count = drains.iter().map(Drain::len).sum();
    for drain in drains {
        drain.advance(Phase::Closing);
    }
    let farewell = async {
        for drain in drains {
            drain.finished().await;
        }
    };
    // They end by themselves now; whoever does not ends with the thread.
    drop(tokio::time::timeout(LAST_WORDS, farewell).await);
    count
}

async fn run(source: Source, mut messages: mpsc::Receiver<Message>) {
    let engine = Rc::new(Engine::new(source.reader()));
    let census = Rc::new(Census::new(engine.snapshot().limits.handshakes));
    let mut listening: HashMap<ListenerName, Listening> = HashMap::new();
    // Those whose listener is gone, for as long as something runs on them.
    let mut leaving: Vec<Drain> = Vec::new();
    let ticking = tokio::task::spawn_local(tick(Rc::clone(&engine)));
    while let Some(message) = messages.recv().await {
        match message {
            Message::Listen { name, sockets } => {
                let listener = listen(&engine, &census, &name, sockets);
                listening.insert(name, listener);
            }
            Message::Unlisten {
                name,
                within,
                told,
                ended,
            } => {
                leaving.retain(|drain| !drain.is_empty());
                if let Some(listener) = listening.remove(&name) {
                    leaving.push(listener.drain.clone());
                    tokio::task::spawn_local(listener.end(within, told, ended));
                }
            }
            Message::Unready => engine.is_ready.set(false),
            Message::Shut(answer) => {
                let listeners = mem::take(&mut listening);
                leaving.extend(listeners.values().map(|listener| listener.drain.clone()));
                tokio::task::spawn_local(async move {
                    for listener in listeners.into_values() {
                        listener.shut().await;
                    }
                    // Nobody listens when the process is told to end at once.
                    let _ = answer.send(());
                });
            }
            Message::Drain { grace, told, ended } => {
                let drains = leaving.clone();
                for drain in &drains {
                    drain.begin(grace);
                }
                // As above.
                let _ = told.send(drains.iter().map(Drain::len).sum());
                tokio::task::spawn_local(async move {
                    for drain in drains {
                        drain.finished().await;
                    }
                    let _ = ended.send(());
                });
            }
            Message::Cut(answer) => {
                let drains = mem::take(&mut leaving);
                tokio::task::spawn_local(async move {
                    // As above.
                    let _ = answer.send(cut(&drains).await);
                });
            }
            Message::Ping(answer) => {
                // Whoever asked may have lost patience.
                let _ = answer.send(());
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
    sockets: Vec<StdTcpListener>,
) -> Listening {
    let drain = Drain::default();
    let mut loops = Vec::new();
    for socket in sockets {
        let socket = match TcpListener::from_std(socket) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::error!(listener = %name, %error, "cannot listen");
                continue;
            }
        };
        let stop = Rc::<Notify>::default();
        let task = tokio::task::spawn_local(accept::run(
            Rc::clone(engine),
            Rc::clone(census),
            name.clone(),
            socket,
            drain.clone(),
            Rc::clone(&stop),
        ));
        loops.push(Accepting { task, stop });
    }
    Listening { loops, drain }
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
