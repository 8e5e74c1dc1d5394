//! Backends that follow a script and remember what they saw; the ill-mannered ones are named by their vice.
//!
//! A script is a closure that is run for each connection, on a thread of its own.

use std::fmt;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use rustls::ServerConfig;

use super::expect::PATIENCE;
use super::wire::{End, Message, Transport, Wire};

/// A backend that runs until it is dropped.
pub struct Backend {
    address: String,
    memory: Arc<Memory>,
    stop: Stop,
}

struct Stop {
    told: Arc<AtomicBool>,
    wake: Box<dyn Fn() + Send + Sync>,
}

/// What a backend saw.
#[derive(Default)]
pub struct Memory {
    seen: Mutex<Seen>,
    news: Condvar,
}

/// What a backend saw so far.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The requests, in the order in which they were read.
    pub requests: Vec<Message>,
    /// Connections that were opened.
    pub connections: usize,
    /// Connections whose other side has closed them, as far as a script looked.
    pub closed: usize,
    /// Bytes that the other side has taken, as far as a script counts.
    pub written: usize,
}

impl Memory {
    pub fn look(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    pub fn note(&self, what: impl FnOnce(&mut Seen)) {
        what(&mut self.look());
        self.news.notify_all();
    }

    /// Waits until `is_there` holds.
    #[track_caller]
    pub fn wait(&self, what: &str, is_there: impl Fn(&Seen) -> bool) -> Seen {
        let (seen, waited) = self
            .news
            .wait_timeout_while(self.look(), PATIENCE, |seen| !is_there(seen))
            .unwrap();
        assert!(!waited.timed_out(), "in vain: {what}; saw {:?}", *seen);
        seen.clone()
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.address)
    }
}

impl Backend {
    pub(super) fn new(
        address: String,
        memory: Arc<Memory>,
        told: Arc<AtomicBool>,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let wake = Box::new(wake);
        Self {
            address,
            memory,
            stop: Stop { told, wake },
        }
    }

    /// What it saw so far.
    pub fn seen(&self) -> Seen {
        self.memory.look().clone()
    }

    /// Waits until it saw so many requests, and returns all that it saw.
    #[track_caller]
    pub fn requests(&self, count: usize) -> Vec<Message> {
        let what = format!("{count} requests");
        let seen = self.memory.wait(&what, |seen| seen.requests.len() >= count);
        seen.requests
    }

    /// The one request that it saw.
    #[track_caller]
    pub fn request(&self) -> Message {
        let mut requests = self.requests(1);
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests.remove(0)
    }

    /// Waits until what it saw is as the case wants it.
    #[track_caller]
    pub fn wait(&self, what: &str, is_there: impl Fn(&Seen) -> bool) -> Seen {
        self.memory.wait(what, is_there)
    }

    /// Tells its scripts something, by the count of bytes that they may wait for.
    pub fn note_written(&self, bytes: usize) {
        self.memory.note(|seen| seen.written += bytes);
    }

    /// Takes back what [`note_written`](Self::note_written) told.
    pub fn forget_written(&self) {
        self.memory.note(|seen| seen.written = 0);
    }

    /// Waits until the other side has closed so many connections.
    #[track_caller]
    pub fn is_left_by(&self, count: usize) {
        let what = format!("{count} connections closed");
        self.memory.wait(&what, |seen| seen.closed >= count);
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop.told.store(true, Ordering::Relaxed);
        (self.stop.wake)();
    }
}

/// A connection in the hands of a script.
pub struct Connection {
    /// Which one it is, from 0.
    pub number: usize,
    pub wire: Wire,
    memory: Arc<Memory>,
}

impl Connection {
    /// Reads a whole request; `None` when the other side has closed.
    pub fn request(&mut self) -> Option<Message> {
        let mut message = self.read_head()?;
        self.wire.request_body(&mut message);
        let heard = message.clone();
        self.memory.note(|seen| seen.requests.push(heard));
        if message.end != End::Whole {
            self.memory.note(|seen| seen.closed += 1);
            return None;
        }
        Some(message)
    }

    /// Reads a head and leaves the body; `None` when the other side has closed.
    pub fn head(&mut self) -> Option<Message> {
        let message = self.read_head()?;
        let heard = message.clone();
        self.memory.note(|seen| seen.requests.push(heard));
        Some(message)
    }

    fn read_head(&mut self) -> Option<Message> {
        match self.wire.head() {
            Ok(message) => Some(message),
            Err(_) => {
                self.memory.note(|seen| seen.closed += 1);
                None
            }
        }
    }

    /// Sends bytes; `false` when the other side takes no more.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.wire.send(bytes)
    }

    /// Answers 200 with a body.
    pub fn ok(&mut self, body: impl AsRef<[u8]>) -> bool {
        let body = body.as_ref();
        let mut answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        answer.push_str(&String::from_utf8_lossy(body));
        self.send(answer)
    }

    /// Reads on until the other side closes.
    pub fn until_closed(&mut self) {
        self.wire.rest();
        self.left();
    }

    /// Sends back what comes, until the other side has left.
    pub fn echo(&mut self) {
        loop {
            let piece = self.wire.some();
            if piece.is_empty() || !self.send(piece) {
                break;
            }
        }
        self.left();
    }

    /// Notes that the other side has closed.
    pub fn left(&self) {
        self.memory.note(|seen| seen.closed += 1);
    }

    /// Ends the connection without TLS's farewell.
    pub fn hang_up(&mut self) {
        self.wire.hang_up();
    }

    /// What the backend saw so far.
    pub fn seen(&self) -> Seen {
        self.memory.look().clone()
    }

    /// Counts bytes that were taken.
    pub fn count(&self, bytes: usize) {
        self.memory.note(|seen| seen.written += bytes);
    }

    /// Waits for what other connections of this backend saw.
    pub fn wait(&self, what: &str, is_there: impl Fn(&Seen) -> bool) {
        self.memory.wait(what, is_there);
    }
}

/// A backend that plays `script` on each connection.
pub fn script(script: impl Fn(&mut Connection) + Send + Sync + 'static) -> Backend {
    script_on(listen(), script)
}

/// The same at an address of its choice; `None` where another has it.
pub fn script_at(
    address: SocketAddr,
    script: impl Fn(&mut Connection) + Send + Sync + 'static,
) -> Option<Backend> {
    let listener = TcpListener::bind(address).ok()?;
    Some(script_on((listener, address), script))
}

fn script_on(
    (listener, address): (TcpListener, SocketAddr),
    script: impl Fn(&mut Connection) + Send + Sync + 'static,
) -> Backend {
    serve(
        address.to_string(),
        move || listener.accept().map(|(stream, _)| stream),
        move || drop(TcpStream::connect(address)),
        |stream| {
            stream.set_nodelay(true).ok()?;
            Some(Wire::new(Transport::Tcp(stream)))
        },
        script,
    )
}

/// The same behind TLS; handshakes that fail are connections that no script sees.
pub fn tls(
    config: Arc<ServerConfig>,
    script: impl Fn(&mut Connection) + Send + Sync + 'static,
) -> Backend {
    let (listener, address) = listen();
    serve(
        address.to_string(),
        move || listener.accept().map(|(stream, _)| stream),
        move || drop(TcpStream::connect(address)),
        move |stream| Wire::tls_server(stream, &config).ok(),
        script,
    )
}

/// The same on a unix socket.
pub fn unix(path: &Path, script: impl Fn(&mut Connection) + Send + Sync + 'static) -> Backend {
    let listener = UnixListener::bind(path).unwrap();
    let path = path.to_owned();
    serve(
        format!("unix:{}", path.display()),
        move || listener.accept().map(|(stream, _)| stream),
        move || drop(UnixStream::connect(&path)),
        |stream| Some(Wire::new(Transport::Unix(stream))),
        script,
    )
}

pub(super) fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn serve<S: Send + 'static>(
    address: String,
    accept: impl Fn() -> std::io::Result<S> + Send + 'static,
    wake: impl Fn() + Send + Sync + 'static,
    open: impl Fn(S) -> Option<Wire> + Send + Sync + 'static,
    script: impl Fn(&mut Connection) + Send + Sync + 'static,
) -> Backend {
    let memory = Arc::<Memory>::default();
    let told = Arc::<AtomicBool>::default();
    let (seen, stop) = (Arc::clone(&memory), Arc::clone(&told));
    let play = Arc::new((open, script));
    thread::spawn(move || {
        while let Ok(stream) = accept() {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let number = seen.look().connections;
            seen.note(|seen| seen.connections += 1);
            let (memory, play) = (Arc::clone(&seen), Arc::clone(&play));
            thread::spawn(move || {
                let (open, script) = &*play;
                if let Some(wire) = open(stream) {
                    script(&mut Connection {
                        number,
                        wire,
                        memory,
                    });
                }
            });
        }
    });
    Backend::new(address, memory, told, wake)
}

/// Answers every request with its own head and body.
pub fn echo() -> Backend {
    script(echoes)
}

/// The script of [`echo`].
pub fn echoes(connection: &mut Connection) {
    while let Some(request) = connection.request() {
        let mut said = request.line.clone() + "\n";
        for (name, value) in &request.fields {
            said += &format!("{name}: {value}\n");
        }
        said += "\n";
        said += &String::from_utf8_lossy(&request.body);
        let sent = if request.method() == "HEAD" {
            connection.send(format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n",
                said.len()
            ))
        } else {
            connection.ok(said)
        };
        if !sent {
            return;
        }
    }
}

/// Switches to another protocol, and sends back what it gets.
pub fn switches() -> Backend {
    script(|connection| {
        if connection.head().is_none() {
            return;
        }
        connection
            .send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n");
        connection.echo();
    })
}

/// Answers every request with its name.
pub fn named(name: &'static str) -> Backend {
    script(names(name))
}

/// The script of [`named`].
pub fn names(name: &'static str) -> impl Fn(&mut Connection) + Send + Sync + 'static {
    move |connection| {
        while connection.request().is_some() {
            connection.ok(name);
        }
    }
}

/// Answers every request with these bytes, and leaves the connection open.
pub fn says(bytes: &'static str) -> Backend {
    script(
        move |connection| {
            while connection.request().is_some() && connection.send(bytes) {}
        },
    )
}

/// Answers the request with these bytes and closes.
pub fn says_and_closes(bytes: &'static str) -> Backend {
    script(move |connection| {
        if connection.request().is_some() {
            connection.send(bytes);
        }
    })
}

/// Reads the request and says nothing.
pub fn stalls() -> Backend {
    script(|connection| {
        if connection.request().is_some() {
            connection.until_closed();
        }
    })
}

/// Says its head and the first five bytes of ten, and no more.
pub fn stalls_after_head() -> Backend {
    script(|connection| {
        if connection.request().is_some() {
            connection.send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfirst");
            connection.until_closed();
        }
    })
}

/// Serves so many requests on a connection, then closes it without a word.
pub fn closes_after(count: usize) -> Backend {
    script(move |connection| {
        for _ in 0..count {
            if connection.request().is_none() {
                return;
            }
            connection.ok("ok");
        }
    })
}

/// An address that refuses connections.
pub fn refuses() -> SocketAddr {
    let (_, address) = listen();
    address
}

/// An address that accepts nothing more: connecting to it takes for ever.
pub fn full() -> (Vec<TcpStream>, SocketAddr) {
    use socket2::{Domain, Socket, Type};

    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut held = vec![TcpStream::from(socket)];
    while let Ok(stream) = TcpStream::connect_timeout(&address, HALT) {
        held.push(stream);
    }
    (held, address)
}

/// For so long a connection is waited for that is not accepted.
const HALT: Duration = Duration::from_millis(200);
