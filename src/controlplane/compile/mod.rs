//! Pure: checked files, the bytes they name and the previous snapshot become the next snapshot, or every error.
//!
//! The reload loop calls it, and `check` and `explain` do without a previous one. No sockets, no files, no clock:
//! all of that was done before and comes as [`Outside`] and [`Part`]. Live state is carried over from the previous
//! snapshot (invariant I4); what is equal to before *is* the one from before, by `Arc`, so that the data plane can
//! tell.

pub mod answers;
mod health;
mod listener;
mod pool;
mod route;
#[cfg(test)]
mod tests;

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::base::clients;
use crate::base::fault::Fault;
use crate::base::name::{PoolName, SiteName};
use crate::base::secret::{Secret, SecretBytes};
use crate::config::error::{ConfigError, Source};
use crate::config::listener::Listener;
use crate::config::pool::{Pool as PoolConfig, SessionSecret, Sticky};
use crate::config::route::{Match as MatchConfig, Route as RouteConfig};
use crate::config::site;
use crate::config::{ClientLimits, Config, Rate};
use crate::dataplane::route::{Match, RouteTable};
use crate::dataplane::snapshot::{Limits, ListenerPlan, Route, Snapshot, Timeouts};
use crate::dataplane::upstream::pool::Pool;
use crate::dataplane::upstream::sticky;

use self::answers::{Answers, Question};

/// Files, each with its bytes or why it cannot be read. Some hold keys.
pub type Files = BTreeMap<PathBuf, io::Result<SecretBytes>>;

/// Errors told at a time.
const ERRORS_LIMIT: usize = 100;

/// What the outside world contributes to a snapshot, beside files.
#[derive(Clone, Copy, Debug)]
pub struct Outside<'a> {
    /// Where names lead.
    pub answers: &'a Answers,
    /// The time on the wall: certificates are good from then to then.
    pub now: SystemTime,
    /// What the keys of sessions are made of where there is no version in force that has it: left by another process.
    pub sessions: Option<&'a Secret>,
}

/// The version in force, from which its successor takes over what stays.
#[derive(Debug)]
pub struct Previous<'a> {
    /// The snapshot.
    pub snapshot: &'a Snapshot,
    /// What its routes were compiled from. One that is missing is compiled anew.
    pub routes: Vec<&'a RouteConfig>,
}

/// What one file says of routes and pools, with the bytes of the files that it names.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// Its text, for the places of errors.
    pub source: &'a Source,
    /// The site that it is of; absent: the main file.
    pub site: Option<&'a SiteName>,
    /// Its routes.
    pub routes: &'a [RouteConfig],
    /// Its pools.
    pub pools: &'a [PoolConfig],
    /// The files that it names.
    pub files: &'a Files,
}

/// A part, compiled.
#[derive(Debug)]
pub struct Compiled {
    pools: Vec<Arc<Pool>>,
    rules: Vec<(Match, Arc<Route>)>,
    /// Whether it stands in for a site that is not there.
    is_stopgap: bool,
}

/// The main file, compiled.
#[derive(Debug)]
pub struct Main {
    part: Compiled,
    listeners: Box<[Arc<ListenerPlan>]>,
}

/// Compiles files one after the other beside the version in force, and puts them together.
#[derive(Debug)]
pub struct Compiler<'a> {
    outside: Outside<'a>,
    previous: Option<&'a Snapshot>,
    /// Made when the first pool wants it: the system's randomness takes a tenth of a second to begin.
    sessions: OnceCell<Option<Secret>>,
    pools: pool::Before<'a>,
    routes: route::Before<'a>,
}

impl<'a> Compiler<'a> {
    /// A compiler of what follows `previous`.
    pub fn new(outside: Outside<'a>, previous: Option<&Previous<'a>>) -> Self {
        let snapshot = previous.map(|previous| previous.snapshot);
        let sessions = match snapshot {
            Some(snapshot) => snapshot.sessions.clone(),
            None => outside.sessions.cloned(),
        };
        let sessions = match sessions {
            Some(known) => OnceCell::from(Some(known)),
            None => OnceCell::new(),
        };
        Self {
            outside,
            previous: snapshot,
            sessions,
            pools: pool::Before::of(snapshot),
            routes: route::Before::of(previous),
        }
    }

    /// Compiles the main file.
    ///
    /// # Errors
    /// Everything that is wrong, at its place in the file.
    pub fn main(
        &self,
        config: &Config,
        source: &Source,
        files: &Files,
    ) -> Result<Main, Vec<ConfigError>> {
        let mut errors = Errors::of(source, None);
        let part = Part {
            source,
            site: None,
            routes: &config.routes,
            pools: &config.pools,
            files,
        };
        let part = self.compile(&part, &mut errors);
        let listeners = &config.listeners;
        let materials = self.materials(files);
        let listeners = listener::compile(listeners, &materials, self.previous, &mut errors);
        errors.none_or(Main { part, listeners })
    }

    /// Compiles the file of a site.
    ///
    /// # Errors
    /// Everything that is wrong, at its place in the file.
    pub fn site(&self, part: &Part<'_>) -> Result<Compiled, Vec<ConfigError>> {
        let mut errors = Errors::of(part.source, part.site);
        let compiled = self.compile(part, &mut errors);
        errors.none_or(compiled)
    }

    /// What stands in for a site that is left out: requests that meet one of its `claims`, and no other route as
    /// specific, end in a fault.
    pub fn left_out(&self, site: &SiteName, claims: &[MatchConfig]) -> Compiled {
        // A claim that no request could meet is none: the site has been told of its errors.
        let source = Source::new("", "");
        let mut errors = Errors::of(&source, Some(site));
        Compiled {
            pools: Vec::new(),
            rules: route::refusing(site, claims, Fault::SiteInvalid, &mut errors),
            is_stopgap: true,
        }
    }

    /// Puts the main file and its sites together, in this order: of equally specific routes the earlier one wins.
    /// What stands in for a site that is left out comes behind all others.
    ///
    /// The access log is the previous one: opening another is not pure, and left to the caller.
    pub fn snapshot(&self, config: &Config, main: Main, mut sites: Vec<Compiled>) -> Snapshot {
        let Main { part, listeners } = main;
        let Compiled {
            mut pools,
            mut rules,
            is_stopgap: _,
        } = part;
        // A stable sort: the others stay in their order.
        sites.sort_by_key(|site| site.is_stopgap);
        for site in sites {
            pools.extend(site.pools);
            rules.extend(site.rules);
        }
        let previous = self.previous;
        Snapshot {
            version: previous.map_or(1, |previous| previous.version + 1),
            listeners,
            routes: RouteTable::new(rules),
            pools: pools.into(),
            trusted_proxies: config.trusted_proxies.clone().into(),
            limits: limits(config),
            running: previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.running)),
            clients: previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.clients)),
            timeouts: Arc::new(timeouts(config)),
            sessions: self.sessions.get().cloned().flatten(),
            access_log: previous.and_then(|previous| previous.access_log.clone()),
        }
    }

    fn compile(&self, part: &Part<'_>, errors: &mut Errors<'_>) -> Compiled {
        let materials = self.materials(part.files);
        let pools = pool::compile(part.pools, &materials, &self.pools, errors);
        let rules = route::compile(part.routes, &pools, &self.routes, errors);
        Compiled {
            pools,
            rules,
            is_stopgap: false,
        }
    }

    fn materials<'m>(&'m self, files: &'m Files) -> Materials<'m> {
        Materials {
            files,
            outside: self.outside,
            sessions: &self.sessions,
        }
    }
}

/// What one file may use of the world.
#[derive(Clone, Copy, Debug)]
struct Materials<'a> {
    files: &'a Files,
    outside: Outside<'a>,
    sessions: &'a OnceCell<Option<Secret>>,
}

impl Materials<'_> {
    /// What the keys of sessions are made of; `None` when the system gives no randomness.
    fn sessions(&self) -> Option<&Secret> {
        self.sessions.get_or_init(sticky::random_secret).as_ref()
    }
}

/// Every file that must be read before these listeners and pools can be compiled.
pub fn files_of<'a>(
    listeners: &[Listener],
    pools: impl IntoIterator<Item = &'a PoolConfig>,
) -> BTreeSet<PathBuf> {
    let mut files = BTreeSet::new();
    let mut add = |path: &PathBuf| {
        files.insert(path.clone());
    };
    for tls in listeners
        .iter()
        .filter_map(|listener| listener.tls.as_ref())
    {
        for certificate in &tls.certificates {
            add(&certificate.cert);
            add(&certificate.key);
        }
        if let Some(auth) = &tls.client_auth {
            add(&auth.ca);
            auth.crl.iter().for_each(&mut add);
        }
    }
    for pool in pools {
        if let Some(Sticky {
            secret: SessionSecret::File(file),
            ..
        }) = &pool.sticky
        {
            add(file);
        }
        let Some(tls) = &pool.tls else {
            continue;
        };
        if let Some(ca) = &tls.ca {
            add(ca);
        }
        if let Some(certificate) = &tls.client_certificate {
            add(&certificate.cert);
            add(&certificate.key);
        }
    }
    files
}

/// What to do about a file that cannot be read.
pub fn help_to_read(error: &io::Error) -> Option<&'static str> {
    (error.kind() == io::ErrorKind::PermissionDenied).then_some(
        "make it readable for the user that Lockgate runs as, now and whenever it is replaced: `chgrp lockgate FILE` and \
         `chmod g+r FILE`, or `setfacl -m u:lockgate:r FILE`; its folders need `x`",
    )
}

/// Everything that DNS must be asked before these pools are complete.
pub fn questions_of<'a>(pools: impl IntoIterator<Item = &'a PoolConfig>) -> BTreeSet<Question> {
    let endpoints = pools.into_iter().flat_map(|pool| &pool.endpoints);
    endpoints
        .filter_map(|endpoint| Question::about(&endpoint.address))
        .collect()
}

/// Collects what is wrong, so that the operator is told all of it.
struct Errors<'a> {
    source: &'a Source,
    site: Option<&'a SiteName>,
    all: Vec<ConfigError>,
    /// How many there are beyond.
    untold: usize,
}

impl<'s> Errors<'s> {
    fn of(source: &'s Source, site: Option<&'s SiteName>) -> Self {
        Self {
            source,
            site,
            all: Vec::new(),
            untold: 0,
        }
    }

    /// What was made, if nothing is wrong with it.
    fn none_or<T>(self, made: T) -> Result<T, Vec<ConfigError>> {
        if self.all.is_empty() {
            Ok(made)
        } else {
            Err(self.sorted())
        }
    }

    /// The path of a pool in the file.
    fn pool(&self, name: &PoolName) -> String {
        format!("pools.{}", site::key(name, self.site))
    }

    fn add(&mut self, path: &str, message: &str, help: Option<&str>) {
        // Finding the place reads the text again: of a thousand errors the first hundred are enough to begin with.
        if self.all.len() == ERRORS_LIMIT {
            self.untold += 1;
            return;
        }
        self.all.push(self.source.error_at(path, message, help));
    }

    /// The value, or an error at `path`.
    fn take<T, E: Display>(&mut self, made: Result<T, E>, path: &str) -> Option<T> {
        made.map_err(|error| self.add(path, &error.to_string(), None))
            .ok()
    }

    /// The bytes of a file, or an error at the place that names it.
    fn bytes<'a>(
        &mut self,
        materials: &Materials<'a>,
        file: &Path,
        path: &str,
    ) -> Option<&'a [u8]> {
        match materials.files.get(file) {
            Some(Ok(bytes)) => return Some(bytes),
            Some(Err(error)) => {
                let message = format!("{} cannot be read: {error}", file.display());
                self.add(path, &message, help_to_read(error));
            }
            None => self.add(path, &format!("{} was not read", file.display()), None),
        }
        None
    }

    fn sorted(mut self) -> Vec<ConfigError> {
        self.all.sort_by_key(|error| (error.line, error.column));
        if self.untold > 0 {
            let message = format!("{} more errors are not shown", self.untold);
            self.all.push(self.source.error_at("", &message, None));
        }
        self.all
    }
}

/// Where draws and turns begin: elsewhere in each process, so that those of a fleet do not draw the same.
fn seed() -> u64 {
    RandomState::new().hash_one(0)
}

fn limits(config: &Config) -> Limits {
    let limits = &config.limits;
    Limits {
        connections: limits.connections,
        handshakes: limits.handshakes,
        header_bytes: limits.header_bytes,
        header_fields: limits.header_fields,
        response_header_bytes: limits.response_header_bytes,
        h2_streams: limits.h2_streams,
        idle_connections: limits.idle_connections,
        concurrent_requests: limits.concurrent_requests,
        client: client_limits(&limits.client),
    }
}

fn client_limits(limits: &ClientLimits) -> clients::Limits {
    let rate = |rate: Rate| clients::Rate::new(rate.count, rate.per, rate.burst);
    clients::Limits {
        connections: limits.connections,
        handshakes: limits.handshakes.map(rate),
        requests: limits.requests.map(rate),
        exchanges: limits.concurrent_requests,
    }
}

fn timeouts(config: &Config) -> Timeouts {
    let timeouts = &config.timeouts;
    Timeouts {
        handshake: timeouts.handshake,
        first_byte: timeouts.first_byte,
        header: timeouts.header,
        body: timeouts.body,
        keep_alive: timeouts.keep_alive,
        age: timeouts.age,
        send: timeouts.send,
        drain: timeouts.drain,
        drain_tunnels: config.drain.tunnels,
        drain_notice: config.drain.notice,
        drain_upgrade: config.drain.upgrade,
    }
}
