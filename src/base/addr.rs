//! Addresses by the role they play, so that a client's address cannot end up where an endpoint's belongs.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

/// Where a request came from: the peer of the transport connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientAddr(pub SocketAddr);

impl ClientAddr {
    /// The address without its port, an IPv4 client of a dual-stack listener as IPv4.
    pub fn ip(&self) -> IpAddr {
        self.0.ip().to_canonical()
    }
}

/// Where a listener listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ListenAddr {
    /// One address of one family.
    One(SocketAddr),
    /// `:443`, every address of both families, on one dual-stack socket.
    All(u16),
}

impl ListenAddr {
    /// The port.
    pub fn port(&self) -> u16 {
        match self {
            Self::One(address) => address.port(),
            Self::All(port) => *port,
        }
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(address) => address.fmt(out),
            Self::All(port) => write!(out, ":{port}"),
        }
    }
}

/// Why a text is not a listen address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddrError;

impl FromStr for ListenAddr {
    type Err = ListenAddrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(port) = text.strip_prefix(':') {
            return port.parse().map(Self::All).map_err(|_| ListenAddrError);
        }
        text.parse().map(Self::One).map_err(|_| ListenAddrError)
    }
}

/// Where an endpoint is reached: resolved, but where all the addresses of a name are one endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EndpointAddr {
    /// An address and a port.
    Tcp(SocketAddr),
    /// Whichever address of a name answers first; its pool knows them.
    Name {
        /// The name, in lower case.
        host: Arc<str>,
        /// The port.
        port: u16,
    },
    /// A unix socket, written `unix:/run/app.sock`.
    Unix(Arc<Path>),
}

impl fmt::Display for EndpointAddr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(out),
            Self::Name { host, port } => write!(out, "{host}:{port}"),
            Self::Unix(path) => write!(out, "unix:{}", path.display()),
        }
    }
}

/// Where an endpoint is, as the operator wrote it: perhaps a name that is still to be resolved.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EndpointTarget {
    /// `10.0.0.1:8080`, `[::1]:8080`.
    Tcp(SocketAddr),
    /// `app.internal:8080`.
    Name {
        /// The name, in lower case. A dot at its end says that it is whole.
        host: String,
        /// The port.
        port: u16,
    },
    /// `srv:_http._tcp.app.internal`: the endpoints that the SRV records of this name, in lower case, tell of.
    Service(String),
    /// `unix:/run/app.sock`.
    Unix(PathBuf),
}

impl fmt::Display for EndpointTarget {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(out),
            Self::Name { host, port } => write!(out, "{host}:{port}"),
            Self::Service(name) => write!(out, "srv:{name}"),
            Self::Unix(path) => write!(out, "unix:{}", path.display()),
        }
    }
}
