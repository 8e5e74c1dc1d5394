//! Routes: matches, filters, actions, timeouts, retry.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use crate::base::name::{PoolName, RouteName};

/// A rule: what it matches, what it does on the way, where requests go.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// For logs and metrics; default: host and path.
    pub name: RouteName,
    /// The condition; empty matches everything.
    pub matches: Match,
    /// Run in this order on the request, backwards on the response.
    pub filters: Vec<Filter>,
    /// Where requests go: exactly one of `pool`, `split`, `redirect`, `respond`.
    pub action: Action,
    /// Copies of requests for another pool; absent: there are none.
    pub mirror: Option<Mirror>,
    /// Timeouts, the defaults filled in.
    pub timeouts: Timeouts,
    /// Whether and how often a failed attempt is made again. Routes that write nothing share it.
    pub retry: Arc<Retry>,
    /// Limits.
    pub limits: Limits,
    /// Let `%2F` and `%5C` in paths through to the endpoint.
    pub danger_allow_encoded_slashes: bool,
}

/// The condition of a route: every part that is there must hold.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Match {
    /// Any of these; empty is any host. Lower case, without port.
    pub hosts: Vec<HostMatch>,
    /// The path; absent is any.
    pub path: Option<PathMatch>,
    /// Any of these methods; empty is any.
    pub methods: Vec<String>,
    /// All of these header fields; names in lower case.
    pub headers: Vec<(String, ValueMatch)>,
    /// All of these query parameters.
    pub query: Vec<(String, ValueMatch)>,
}

/// A host condition.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostMatch {
    /// Just this host.
    Exact(String),
    /// `*.example.com`, kept as `example.com`: one label or more before it.
    Wildcard(String),
}

/// A path condition.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathMatch {
    /// This path and all below it, by whole segments; kept as written.
    Prefix(String),
    /// Just this path.
    Exact(String),
    /// A regular expression that matches the whole path.
    Regex(String),
}

/// A condition on a header field or query parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueMatch {
    /// Just this value.
    Exact(String),
    /// A regular expression that matches the whole value.
    Regex(String),
    /// There (`true`) or not (`false`).
    Present(bool),
}

/// A step on requests or responses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Replaces the front of the path, by whole segments.
    RewritePrefix {
        /// The prefix to take off.
        from: String,
        /// What to put in its place.
        to: String,
    },
    /// Replaces what a regular expression finds in the path.
    RewriteRegex {
        /// The expression.
        pattern: String,
        /// The replacement, with `$1` or `$name` for groups.
        to: String,
    },
    /// Sets fields of the request, replacing what is there.
    SetRequestHeaders(Vec<(String, String)>),
    /// Adds fields to the request beside what is there.
    AddRequestHeaders(Vec<(String, String)>),
    /// Removes fields of the request.
    RemoveRequestHeaders(Vec<String>),
    /// Sets fields of the response.
    SetResponseHeaders(Vec<(String, String)>),
    /// Adds fields to the response.
    AddResponseHeaders(Vec<(String, String)>),
    /// Removes fields of the response.
    RemoveResponseHeaders(Vec<String>),
}

/// Where the requests of a route go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// To an endpoint of a pool.
    Pool(PoolName),
    /// To an endpoint of one of several pools.
    Split {
        /// The pools with their weights, in the order of the file; one of them is above 0.
        pools: Vec<(PoolName, u32)>,
        /// Clients that stay with their pool; absent: each request is its own.
        cohorts: Option<Cohorts>,
    },
    /// To another URL.
    Redirect {
        /// The URL, with `{scheme} {host} {path} {query}`; `{query}` brings its own question mark.
        to: String,
        /// 301, 302, 303, 307 or 308.
        status: u16,
    },
    /// Nowhere: this is the answer.
    Respond {
        /// The status.
        status: u16,
        /// The body.
        body: String,
        /// Header fields; `content-type` is `text/plain; charset=utf-8` unless set.
        headers: Vec<(String, String)>,
    },
}

/// Clients that stay with their pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cohorts {
    /// The name of the cookie.
    pub cookie: String,
    /// How long a client keeps its place; whole seconds.
    pub max_age: Duration,
}

/// Copies of a route's requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// The pool that gets them.
    pub pool: PoolName,
    /// How many of a million requests have one: up to all.
    pub share: u32,
}

impl Route {
    /// The names of the pools that it leads to.
    pub fn pools_mut(&mut self) -> impl Iterator<Item = &mut PoolName> {
        let (one, several) = match &mut self.action {
            Action::Pool(pool) => (Some(pool), None),
            Action::Split { pools, cohorts: _ } => (None, Some(pools)),
            Action::Redirect { .. } | Action::Respond { .. } => (None, None),
        };
        let several = several.into_iter().flatten().map(|(pool, _)| pool);
        let mirror = self.mirror.as_mut().map(|mirror| &mut mirror.pool);
        one.into_iter().chain(several).chain(mirror)
    }
}

/// Timeouts of a route's exchanges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From the request's last byte sent to the answer's head.
    pub response: Duration,
    /// A pause in the answer's body.
    pub idle: Duration,
    /// A pause in a WebSocket or other tunnel, an event stream or a gRPC stream.
    pub stream: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        super::Timeouts::default().route
    }
}

/// Limits of a route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Exchanges in progress, over all workers; absent: as many as come.
    pub concurrent_requests: Option<NonZeroU32>,
}

/// Retries of a route's exchanges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Attempts beyond the first; 0 turns retries off.
    pub attempts: u32,
    /// Statuses after which another endpoint is tried.
    pub statuses: Vec<RangeInclusive<u16>>,
    /// Methods that may be repeated besides the idempotent ones.
    pub methods: Vec<String>,
    /// How long an attempt may take; absent: as long as all together.
    pub per_try_timeout: Option<Duration>,
    /// The pause before a request is sent again; absent: there is none.
    pub back_off: Option<BackOff>,
    /// Bytes up to which a body is kept.
    pub replay: usize,
    /// When a second attempt is made beside the first; absent: never.
    pub hedge: Option<Hedge>,
}

/// The longest pauses before a request is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackOff {
    /// Before the first repeat; it doubles with each.
    pub base: Duration,
    /// Before any.
    pub max: Duration,
}

/// When a second attempt is made beside the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hedge {
    /// Once so many of a hundred answers would have begun.
    pub quantile: u32,
    /// Not before.
    pub least: Duration,
}

impl Retry {
    /// The statuses of a gateway that got no answer.
    pub const STATUSES: RangeInclusive<u16> = 502..=504;

    /// None at all.
    pub fn off() -> Self {
        Self {
            attempts: 0,
            statuses: Vec::new(),
            methods: Vec::new(),
            per_try_timeout: None,
            back_off: None,
            replay: 0,
            hedge: None,
        }
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 2,
            statuses: vec![Self::STATUSES],
            methods: Vec::new(),
            per_try_timeout: None,
            back_off: Some(BackOff::default()),
            replay: 64 << 10,
            hedge: None,
        }
    }
}

impl Default for BackOff {
    fn default() -> Self {
        Self {
            base: Duration::from_millis(25),
            max: Duration::from_millis(250),
        }
    }
}
