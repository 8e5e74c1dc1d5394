//! Pure: a checked config, the bytes it names and the previous snapshot become the next snapshot, or every error.
//!
//! The reload loop calls it, and `check` and `explain` do without a previous one. No sockets, no files, no clock:
//! all of that was done before and comes as [`Materials`]. Live state is carried over from the previous snapshot
//! (invariant I4); what is equal to before *is* the one from before, by `Arc`, so that the data plane can tell.

mod listener;
mod pool;
mod route;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::base::addr::EndpointTarget;
use crate::config::Config;
use crate::config::error::{ConfigError, Source};
use crate::dataplane::snapshot::{Limits, Snapshot, Timeouts};

/// Names and their addresses; a name that never resolved is not in it.
pub type Answers = BTreeMap<String, Vec<IpAddr>>;

/// Errors told at a time.
const ERRORS_LIMIT: usize = 100;

/// What the outside world contributes to a snapshot.
#[derive(Clone, Copy, Debug)]
pub struct Materials<'a> {
    /// Every file that the config names, or why it cannot be read.
    pub files: &'a BTreeMap<PathBuf, io::Result<Vec<u8>>>,
    /// The addresses of names.
    pub answers: &'a Answers,
    /// The time on the wall: certificates are good from then to then.
    pub now: SystemTime,
}

/// Compiles `config`.
///
/// The access log is the one of `previous`: opening another is not pure, and left to the caller.
///
/// # Errors
/// Everything that is wrong, at its place in `source`.
pub fn compile(
    config: &Config,
    source: &Source,
    materials: &Materials<'_>,
    previous: Option<&Snapshot>,
) -> Result<Snapshot, Vec<ConfigError>> {
    let mut errors = Errors {
        source,
        all: Vec::new(),
        untold: 0,
    };
    let pools = pool::compile(&config.pools, materials, previous, &mut errors);
    let listeners = listener::compile(&config.listeners, materials, previous, &mut errors);
    let routes = route::compile(&config.routes, &pools, &mut errors);
    if !errors.all.is_empty() {
        return Err(errors.sorted());
    }
    Ok(Snapshot {
        version: previous.map_or(1, |previous| previous.version + 1),
        listeners,
        routes,
        pools,
        trusted_proxies: config.trusted_proxies.clone().into(),
        limits: limits(config),
        timeouts: Arc::new(timeouts(config)),
        access_log: previous.and_then(|previous| previous.access_log.clone()),
    })
}

/// Every file that must be read before `config` can be compiled.
pub fn files_of(config: &Config) -> BTreeSet<PathBuf> {
    let mut files = BTreeSet::new();
    let mut add = |path: &PathBuf| {
        files.insert(path.clone());
    };
    for tls in config
        .listeners
        .iter()
        .filter_map(|listener| listener.tls.as_ref())
    {
        for certificate in &tls.certificates {
            add(&certificate.cert);
            add(&certificate.key);
        }
        if let Some(auth) = &tls.client_auth {
            add(&auth.ca);
        }
    }
    for tls in config.pools.iter().filter_map(|pool| pool.tls.as_ref()) {
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

/// Every name that must be resolved before the pools of `config` are complete.
pub fn names_of(config: &Config) -> BTreeSet<String> {
    let endpoints = config.pools.iter().flat_map(|pool| &pool.endpoints);
    endpoints
        .filter_map(|endpoint| match &endpoint.address {
            EndpointTarget::Name { host, .. } => Some(host.clone()),
            EndpointTarget::Tcp(_) | EndpointTarget::Unix(_) => None,
        })
        .collect()
}

/// Collects what is wrong, so that the operator is told all of it.
struct Errors<'a> {
    source: &'a Source,
    all: Vec<ConfigError>,
    /// How many there are beyond.
    untold: usize,
}

impl Errors<'_> {
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
                self.add(path, &message, None);
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
    }
}
