//! What the log is told of starts and reloads: by this file alone, so that the words stay the same.

use std::net::SocketAddr;

use super::outcome::{Cause, Outcome, Verdict};
use crate::base::name::ListenerName;
use crate::config::Config;
use crate::dataplane::snapshot::Snapshot;

/// What a person wants to know of a process that just started.
pub(super) fn announce(config: &str, workers: usize, snapshot: &Snapshot) {
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(version, config, workers, "lockgate starts");
    for pool in &snapshot.pools {
        tracing::info!(pool = %pool.name, endpoints = pool.members.len(), "pool");
    }
}

/// Says where new listeners listen.
pub(super) fn listeners(
    before: &[(ListenerName, SocketAddr)],
    after: &[(ListenerName, SocketAddr)],
) {
    for (name, address) in after.iter().filter(|bound| !before.contains(bound)) {
        tracing::info!(listener = %name, %address, "listening");
    }
}

/// Says what lowers security, at start and whenever a new config is in force.
pub(super) fn dangers(config: &Config) {
    for path in config.dangers() {
        tracing::warn!(key = %path, "security is lowered by the config");
    }
}

/// How an attempt ended.
pub(super) fn outcome(outcome: &Outcome) {
    let Outcome { cause, version, .. } = outcome;
    let took = outcome.took;
    match &outcome.verdict {
        Verdict::Changed(_) if *cause == Cause::Start => {
            tracing::info!(%version, ?took, "ready");
        }
        Verdict::Changed(changes) => {
            tracing::info!(%version, %cause, ?took, %changes, "a new version is in force");
        }
        Verdict::Unchanged => tracing::info!(%version, %cause, ?took, "nothing to change"),
        Verdict::Rejected(errors) => {
            for error in errors {
                tracing::error!("{error}");
            }
            let errors = errors.len();
            tracing::error!(%version, %cause, ?took, errors, "refused: the version in force stays");
        }
    }
}
