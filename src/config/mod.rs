//! Ground floor: what the operator wrote, as plain values; no sockets, no files, no clock.
//!
//! `parse` makes a [`Config`] of text, `check` holds its parts against each other, and the control plane compiles
//! it. Nothing downstream sees it: the data plane does not know this room.

mod check;
mod decode;
mod env;
pub mod error;
mod forms;
pub mod include;
mod keys;
mod kinds;
pub mod listener;
mod node;
pub mod parse;
pub mod pool;
pub mod reference;
pub mod route;
mod salvage;
pub mod schema;
pub mod site;
mod suggest;
mod values;

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;

use ipnet::IpNet;

/// The whole of a config file, checked, every default filled in.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Config {
    /// How many workers; `None` is `auto`, one a core.
    pub workers: Option<NonZeroUsize>,
    /// Where Lockgate listens.
    pub listeners: Vec<listener::Listener>,
    /// What happens to requests. The most specific match wins, ties go to the earlier one.
    pub routes: Vec<route::Route>,
    /// Named sets of endpoints, in the order of the file.
    pub pools: Vec<pool::Pool>,
    /// The zone that this process is in.
    pub zone: Option<String>,
    /// The DNS servers to ask for names, in this order; empty: those of the system.
    pub resolvers: Vec<SocketAddr>,
    /// The access log; `None` is `off`.
    pub access_log: Option<AccessLog>,
    /// Peers whose `X-Forwarded-*` and `Forwarded` are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Limits for all listeners and routes.
    pub limits: Limits,
    /// Timeouts of connections, and the defaults for routes.
    pub timeouts: Timeouts,
    /// The end of what is taken off, and of a process.
    pub drain: Drain,
    /// The files of the sites, in order.
    pub include: Vec<include::Pattern>,
    /// Whether a broken site refuses the whole.
    pub strict: bool,
    /// The control socket.
    pub admin: Admin,
    /// Whom the process becomes if root starts it; `None`: nobody else.
    pub user: Option<Account>,
    /// Its group; `None`: that of the user.
    pub group: Option<Account>,
    /// What the process denies itself; `None`: nothing.
    pub sandbox: Option<Sandbox>,
    /// Whether a crash may write the memory to disk.
    pub danger_core_dumps: bool,
}

/// A user or a group of the system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Account {
    /// By its number.
    Id(u32),
    /// By its name.
    Name(String),
}

/// What the process denies itself.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Sandbox {
    /// Folders that may be written to beside those that other keys name.
    pub write: Vec<PathBuf>,
}

/// The form of an access-log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum AccessLogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// The combined format of Apache and nginx.
    Combined,
}

/// Where the access log goes.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum AccessLogPath {
    /// Standard output.
    #[default]
    Stdout,
    /// A file, appended to, opened anew on SIGUSR1.
    File(PathBuf),
}

/// The access log.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct AccessLog {
    /// The form of a line.
    pub format: AccessLogFormat,
    /// Where lines go.
    pub path: AccessLogPath,
}

/// Limits, each with the default that `docs/reference` shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open client connections a worker.
    pub connections: usize,
    /// TLS handshakes at a time a worker.
    pub handshakes: usize,
    /// Bytes of a request's header, all protocols.
    pub header_bytes: usize,
    /// Fields of a request's header; h2 cookie crumbs are counted apart.
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
    pub client: ClientLimits,
}

/// Limits of each client; what is absent is not limited.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ClientLimits {
    /// Open connections.
    pub connections: Option<NonZeroU32>,
    /// TLS handshakes.
    pub handshakes: Option<Rate>,
    /// Requests.
    pub requests: Option<Rate>,
    /// Exchanges in progress.
    pub concurrent_requests: Option<NonZeroU32>,
}

/// So many in a time, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub count: NonZeroU32,
    /// In which time.
    pub per: std::time::Duration,
    /// At once.
    pub burst: NonZeroU32,
}

impl Default for Limits {
    fn default() -> Self {
        Self::from(&decode::unwritten::<keys::Limits>())
    }
}

/// Timeouts, each with the default that `docs/reference` shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// A TLS handshake, whole.
    pub handshake: std::time::Duration,
    /// The first byte of a new connection.
    pub first_byte: std::time::Duration,
    /// A request's header, from its first byte.
    pub header: std::time::Duration,
    /// A pause in a request's body.
    pub body: std::time::Duration,
    /// A client connection without a request.
    pub keep_alive: std::time::Duration,
    /// The age after which a client connection is closed between requests, plus or minus a tenth.
    pub age: std::time::Duration,
    /// A client that takes nothing of its answer.
    pub send: std::time::Duration,
    /// From SIGTERM, or the removal of a listener, to the end of what still runs.
    pub drain: std::time::Duration,
    /// Defaults for the routes.
    pub route: route::Timeouts,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self::from(&decode::unwritten::<keys::Timeouts>())
    }
}

/// The end of what is taken off and of a process, each with the default that `docs/reference` shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drain {
    /// From the removal of a route to the end of the last of its tunnels.
    pub tunnels: std::time::Duration,
    /// From SIGTERM to the end of accepting.
    pub notice: std::time::Duration,
    /// From an upgrade of the binary to the end of what still runs in the process before.
    pub upgrade: std::time::Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Self::from(&decode::unwritten::<keys::Drain>())
    }
}

/// Where the control socket is.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Admin {
    /// Where the program thinks fit.
    #[default]
    Unwritten,
    /// Nowhere.
    Off,
    /// At this path.
    At(PathBuf),
}

impl Config {
    /// What is set that lowers security, as paths; to be logged at start.
    pub fn dangers(&self) -> Vec<String> {
        let own = self
            .danger_core_dumps
            .then(|| "danger_core_dumps".to_owned());
        let parts = dangers(&self.routes, &self.pools, |pool| pool.name.as_str());
        own.into_iter().chain(parts).collect()
    }
}

/// What of these lowers security, as paths; `key` says what a pool is called in its file.
fn dangers<'a>(
    routes: &'a [route::Route],
    pools: &'a [pool::Pool],
    key: impl Fn(&'a pool::Pool) -> &'a str,
) -> Vec<String> {
    let routes = routes.iter().enumerate();
    let routes = routes
        .filter(|(_, route)| route.danger_allow_encoded_slashes)
        .map(|(index, _)| format!("routes[{index}].danger_allow_encoded_slashes"));
    let pools = pools
        .iter()
        .filter(|pool| {
            pool.tls
                .as_ref()
                .is_some_and(|tls| tls.danger_accept_any_certificate)
        })
        .map(|pool| format!("pools.{}.tls.danger_accept_any_certificate", key(pool)));
    routes.chain(pools).collect()
}
