//! Dialling an endpoint under a deadline, and the sockets of idle connections on their way between workers.

use std::io;
use std::net::{SocketAddr, TcpStream as StdTcpStream};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream};

use crate::base::addr::EndpointAddr;
use crate::base::fault::Fault;
use crate::base::stagger;
use crate::dataplane::tls::{Alpn, Stream, Tcp, Transport};
use crate::dataplane::upstream::bounds::Counted;
use crate::dataplane::upstream::endpoint::{Endpoint, Protocol};
use crate::dataplane::upstream::http1::Wire;

/// Silence after which the kernel asks whether an endpoint is still there.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);

/// How long one address of a name may be silent before the next is tried beside it (RFC 8305 §5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// A connection to an endpoint, and the protocol to speak on it.
#[derive(Debug)]
pub struct Dialled {
    /// The connection.
    pub stream: Stream,
    /// What is spoken on it.
    pub protocol: Alpn,
}

/// Connects to an endpoint, TLS included, within `timeout`. One that is known by name is tried at `addresses`, in their
/// order; others have theirs.
///
/// Dropping the future closes the half-made connection.
///
/// # Errors
/// [`Fault::ConnectFailed`], [`Fault::ConnectTimeout`] or [`Fault::UpstreamTlsFailed`], or [`Fault::Overloaded`] where this
/// machine has no descriptor or port left; the cause goes to the process log.
pub async fn dial(
    endpoint: &Endpoint,
    addresses: &[SocketAddr],
    only_http1: bool,
    timeout: Duration,
) -> Result<Dialled, Fault> {
    let establishing = establish(endpoint, addresses, only_http1);
    let Ok(outcome) = tokio::time::timeout(timeout, establishing).await else {
        tracing::debug!(endpoint = %endpoint.label, ?timeout, "connecting took too long");
        return Err(Fault::ConnectTimeout);
    };
    outcome
}

/// Sees whether an endpoint takes a connection within `timeout`, and closes it. `addresses` are as in [`dial`].
///
/// # Errors
/// [`Fault::ConnectFailed`] or [`Fault::ConnectTimeout`].
pub async fn reach(
    endpoint: &Endpoint,
    addresses: &[SocketAddr],
    timeout: Duration,
) -> Result<(), Fault> {
    let opening = open(&endpoint.identity.address, addresses);
    match tokio::time::timeout(timeout, opening).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) => Err(Fault::ConnectFailed),
        Err(_) => Err(Fault::ConnectTimeout),
    }
}

async fn establish(
    endpoint: &Endpoint,
    addresses: &[SocketAddr],
    only_http1: bool,
) -> Result<Dialled, Fault> {
    let opened = open(&endpoint.identity.address, addresses).await;
    let transport = opened.map_err(|error| {
        tracing::debug!(endpoint = %endpoint.label, %error, "connecting failed");
        if is_shortage(&error) {
            Fault::Overloaded
        } else {
            Fault::ConnectFailed
        }
    })?;
    let clear = match endpoint.identity.protocol {
        Protocol::Auto | Protocol::Http1 => Alpn::Http1,
        Protocol::H2 => Alpn::H2,
    };
    let Some(tls) = &endpoint.tls else {
        return Ok(Dialled {
            stream: transport.into(),
            protocol: clear,
        });
    };
    let only = only_http1.then_some(Alpn::Http1);
    let handshake = tls.plan.connect(&tls.server_name, transport, only).await;
    let (stream, agreed) = handshake.map_err(|error| {
        tracing::debug!(endpoint = %endpoint.label, error = error.text, "the TLS handshake failed");
        Fault::UpstreamTlsFailed
    })?;
    // An endpoint that ignores ALPN is taken at its pool's word.
    Ok(Dialled {
        stream,
        protocol: agreed.unwrap_or(clear),
    })
}

/// Whether it is this machine that lacks something, descriptors or ports, so that nothing is said of an endpoint.
fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = Errno::from_io_error(error);
    errno.is_some_and(|errno| {
        [
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOBUFS,
            Errno::NOMEM,
            Errno::ADDRNOTAVAIL,
        ]
        .contains(&errno)
    })
}

async fn open(address: &EndpointAddr, addresses: &[SocketAddr]) -> io::Result<Transport> {
    match address {
        EndpointAddr::Tcp(address) => open_tcp(*address).await,
        EndpointAddr::Name { .. } => {
            let attempts = addresses.iter().map(|&address| open_tcp(address));
            let opened = stagger::first(attempts, ATTEMPT_DELAY).await;
            opened.unwrap_or_else(|| Err(io::ErrorKind::AddrNotAvailable.into()))
        }
        EndpointAddr::Unix(path) => UnixStream::connect(path).await.map(Transport::Unix),
    }
}

async fn open_tcp(address: SocketAddr) -> io::Result<Transport> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(TCP_KEEPALIVE))?;
    Ok(stream.into())
}

/// An idle HTTP/1.1 connection without a worker: its socket, known to no event loop.
#[derive(Debug)]
pub struct Parked {
    socket: Socket,
    /// Since when it is idle.
    pub idle_since: Instant,
    /// When it was opened.
    pub born: Instant,
    /// When it was seen open last, while it was idle.
    pub seen: Option<Instant>,
    /// Its place among the connections to its endpoint.
    counted: Option<Counted>,
}

#[derive(Debug)]
enum Socket {
    Tcp(StdTcpStream),
    Unix(StdUnixStream),
}

impl Parked {
    /// Takes a connection off this worker's event loop; `None` for TLS, whose state cannot move.
    pub fn new(wire: Wire) -> Option<Self> {
        let socket = match wire.stream {
            Stream::Tcp(stream) => Socket::Tcp(stream.0.into_std().ok()?),
            Stream::Unix(stream) => Socket::Unix(stream.into_std().ok()?),
            Stream::Server(_) | Stream::Client(_) | Stream::ClientUnix(_) => return None,
        };
        Some(Self {
            socket,
            idle_since: wire.idle_since,
            born: wire.born,
            seen: wire.seen,
            counted: wire.counted,
        })
    }

    /// Whether it is open, with nothing to read.
    pub fn is_quiet(&self) -> bool {
        match &self.socket {
            Socket::Tcp(socket) => quiet(socket),
            Socket::Unix(socket) => quiet(socket),
        }
    }

    /// Puts the connection on this worker's event loop.
    pub fn adopt(self) -> Option<Wire> {
        let stream = match self.socket {
            Socket::Tcp(socket) => Stream::Tcp(Tcp(TcpStream::from_std(socket).ok()?)),
            Socket::Unix(socket) => Stream::Unix(UnixStream::from_std(socket).ok()?),
        };
        Some(Wire {
            stream,
            born: self.born,
            idle_since: self.idle_since,
            seen: self.seen,
            counted: self.counted,
        })
    }
}

/// Whether the kernel has nothing to read from a connection in clear; what TLS has is not asked for.
pub fn is_quiet(stream: &Stream) -> bool {
    match stream {
        Stream::Tcp(stream) => quiet(&stream.0),
        Stream::Unix(stream) => quiet(stream),
        Stream::Server(_) | Stream::Client(_) | Stream::ClientUnix(_) => true,
    }
}

/// Whether a read would have to wait: neither data nor an end is there.
fn quiet<'a, S>(socket: &'a S) -> bool
where
    SockRef<'a>: From<&'a S>,
{
    let mut byte = [std::mem::MaybeUninit::uninit()];
    SockRef::from(socket)
        .peek(&mut byte)
        .is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}
