//! Pools: endpoints, balancing, how endpoints are reached.

use std::fmt;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use crate::base::addr::EndpointTarget;
use crate::base::name::PoolName;

/// A named set of endpoints.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// Its key under `pools`.
    pub name: PoolName,
    /// The balancing choice.
    pub balance: Balance,
    /// Sessions that stay with their endpoint; absent: there are none.
    pub sticky: Option<Sticky>,
    /// How long an endpoint takes to join; absent: it joins at once.
    pub slow_start: Option<Duration>,
    /// The endpoints; never empty.
    pub endpoints: Vec<Endpoint>,
    /// What a name with several addresses is.
    pub addresses: Addresses,
    /// What is spoken with the endpoints.
    pub protocol: Protocol,
    /// TLS towards the endpoints; absent: cleartext.
    pub tls: Option<Tls>,
    /// Timeouts towards the endpoints.
    pub connect_timeout: Duration,
    /// How endpoints are checked; absent: they are not.
    pub health_check: Option<HealthCheck>,
    /// Requests that wait for a usable endpoint with room; absent: none do.
    pub queue: Option<Queue>,
    /// If fewer of a hundred endpoints are healthy, health is not looked at; absent: it always is.
    pub panic_threshold: Option<u32>,
    /// When endpoints are ejected for exchanges that failed; absent: never.
    pub outlier: Option<Outlier>,
    /// How many attempts are made beyond the first ones; absent: as many as routes allow.
    pub retry_budget: Option<RetryBudget>,
}

/// How many attempts are made beyond the first ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    /// For a hundred requests.
    pub percent: u32,
    /// A second besides.
    pub per_second: u32,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self {
            percent: 20,
            per_second: 3,
        }
    }
}

/// Requests that wait for a usable endpoint with room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// How many.
    pub size: usize,
    /// How long each.
    pub wait: Duration,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            size: 1024,
            wait: Duration::from_secs(3),
        }
    }
}

/// Checks of endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked.
    pub question: Question,
    /// Another port than the endpoint's.
    pub port: Option<u16>,
    /// From the end of a check to the next one.
    pub interval: Duration,
    /// The same while the next results may change something.
    pub fast_interval: Duration,
    /// A check, whole.
    pub timeout: Duration,
    /// Successes in a row that make an unhealthy endpoint healthy.
    pub rise: u32,
    /// Failures in a row that make a healthy one unhealthy.
    pub fall: u32,
}

/// The kind of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum CheckType {
    /// A GET, whose answer is looked at.
    #[default]
    Http,
    /// Whether a connection can be made.
    Tcp,
    /// The gRPC health checking protocol.
    Grpc,
}

/// What a check asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// A GET, whose answer is looked at.
    Http {
        /// The path, perhaps with a query.
        path: String,
        /// The host that is asked for; absent: the endpoint's own.
        host: Option<String>,
        /// Further header fields.
        headers: Vec<(String, String)>,
        /// Statuses that are good.
        status: Vec<RangeInclusive<u16>>,
        /// A text that the body has to hold.
        body: Option<String>,
    },
    /// Whether a connection can be made.
    Tcp,
    /// The gRPC health checking protocol.
    Grpc {
        /// The name of the service; empty: the server as a whole.
        service: String,
    },
}

/// When an endpoint is ejected for the exchanges that failed there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outlier {
    /// So many failures in a row.
    pub failures: u32,
    /// Fewer successes than so many of a hundred.
    pub success_rate: u32,
    /// With fewer exchanges in the window the rate says nothing.
    pub requests: u32,
    /// The time in which the rate is taken.
    pub window: Duration,
    /// How long the first ejection lasts.
    pub ejection: Duration,
    /// At most so many of a hundred endpoints are ejected.
    pub max_ejected: u32,
    /// When one is ejected for being slow; absent: never.
    pub latency: Option<SlowOutlier>,
}

/// When an endpoint is ejected for answers that take longer than those of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowOutlier {
    /// So many times as long as those of the middle one.
    pub factor: u32,
    /// Answers that take less are not slow.
    pub least: Duration,
    /// For so long.
    pub lasts: Duration,
}

impl Default for Outlier {
    fn default() -> Self {
        Self {
            failures: 5,
            success_rate: 50,
            requests: 20,
            window: Duration::from_secs(10),
            ejection: Duration::from_secs(10),
            max_ejected: 50,
            latency: None,
        }
    }
}

/// The balancing choice.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Balance {
    /// Each in turn, by weight, smoothly.
    #[default]
    RoundRobin,
    /// The one with the fewest exchanges in flight for its weight.
    LeastConnections,
    /// The one with fewer exchanges in flight for its weight, of two drawn at random.
    RandomTwo,
    /// The one from which an answer is to be expected sooner, of two drawn at random.
    PeakEwma,
    /// The same one for the same key.
    Hash(Hash),
}

/// How requests are known again and led to the same endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hash {
    /// What they are known again by.
    pub by: HashBy,
    /// How keys become endpoints.
    pub method: HashMethod,
}

/// What requests are known again by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashBy {
    /// The client's address.
    ClientIp,
    /// The header field of this name.
    Header(String),
    /// The cookie of this name.
    Cookie(String),
    /// The path.
    Path,
    /// The query parameter of this name.
    Query(String),
}

/// Sessions that stay with their endpoint, by a cookie of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sticky {
    /// The name of the cookie; absent: one of the pool's own.
    pub cookie: Option<String>,
    /// How long a session lasts.
    pub max_age: Duration,
    /// What the key is made of.
    pub secret: SessionSecret,
}

/// What the key of sessions is made of.
#[derive(Clone, PartialEq, Eq)]
pub enum SessionSecret {
    /// What this process has for all of its pools.
    Own,
    /// What is written in the config.
    Written(String),
    /// What is in a file.
    File(PathBuf),
}

impl fmt::Debug for SessionSecret {
    /// Shows no secret.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => out.write_str("Own"),
            Self::Written(_) => out.write_str("Written"),
            Self::File(path) => out.debug_tuple("File").field(path).finish(),
        }
    }
}

/// How keys become endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashMethod {
    /// By a table.
    Maglev,
    /// By points on a ring.
    Ring,
}

/// The priority of backups, behind all that can be written.
pub const BACKUP: u32 = u32::MAX;

/// What a name with several addresses is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Addresses {
    /// As many endpoints.
    #[default]
    All,
    /// One endpoint, reached at whichever address answers first.
    One,
}

/// One address in a pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// `10.0.0.1:8080`, `app.internal:8080`, `srv:_http._tcp.app.internal` or `unix:/run/app.sock`.
    pub address: EndpointTarget,
    /// Its share of the pool's work; 0 takes it out of the turn. 1 for a service, whose records have weights.
    pub weight: u32,
    /// 0 comes first; [`BACKUP`] is that of backups.
    pub priority: u32,
    /// Whether it is in another zone than this process.
    pub is_far: bool,
    /// Whether it takes nothing new.
    pub drain: bool,
    /// What it takes at most.
    pub bounds: Bounds,
}

/// What an endpoint takes at most; absent: there is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Bounds {
    /// Exchanges in flight.
    pub requests: Option<NonZeroU32>,
    /// Connections, each for one exchange at a time.
    pub connections: Option<NonZeroU32>,
    /// Exchanges in flight, as answers show; absent: nobody looks.
    pub adaptive: Option<Adaptive>,
}

/// The bounds of a limit that adapts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Adaptive {
    /// It is never lower.
    pub min: u32,
    /// It is never higher.
    pub max: u32,
    /// Where it begins.
    pub initial: u32,
}

impl Endpoint {
    /// Whether it is a name, which DNS has the addresses of.
    pub const fn is_resolved(&self) -> bool {
        match self.address {
            EndpointTarget::Name { .. } | EndpointTarget::Service(_) => true,
            EndpointTarget::Tcp(_) | EndpointTarget::Unix(_) => false,
        }
    }
}

/// What is spoken with the endpoints of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub enum Protocol {
    /// HTTP/1.1 in clear; over TLS what ALPN says, h2 before http/1.1.
    #[default]
    Auto,
    /// HTTP/1.1 only.
    Http1,
    /// HTTP/2 only: by prior knowledge in clear.
    H2,
}

/// TLS towards endpoints: verified unless a key that begins with `danger_` says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Default, Hash)]
pub struct Tls {
    /// PEM file of the authorities; absent: those of the operating system.
    pub ca: Option<PathBuf>,
    /// The name for SNI and verification; absent: the endpoint's host.
    pub server_name: Option<String>,
    /// Our certificate, shown when the endpoint asks for one.
    pub client_certificate: Option<super::listener::Certificate>,
    /// Believe any certificate. Logged at start.
    pub danger_accept_any_certificate: bool,
}
