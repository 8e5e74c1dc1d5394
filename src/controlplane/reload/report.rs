//! What the log is told of starts and reloads: by this file alone, so that the words stay the same.

use std::net::SocketAddr;

use super::estate::Estate;
use super::in_force::InForce;
use super::outcome::{Ailing, Ails, Cause, Outcome, Verdict};
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
pub(super) fn dangers(in_force: &InForce) {
    for path in in_force.dangers() {
        tracing::warn!(key = %path, "security is lowered by the config");
    }
}

/// Says what is newly wrong with sites, and which of them are right again.
pub(super) fn sites(before: &[Ailing], after: &[Ailing]) {
    for ailing in after.iter().filter(|ailing| !before.contains(ailing)) {
        for error in &ailing.errors {
            tracing::error!("{error}");
        }
        let Ailing { site, file, .. } = ailing;
        let (file, errors) = (file.display(), ailing.errors.len());
        match ailing.state {
            Ails::Frozen => {
                tracing::error!(%site, %file, errors, "a site is frozen: its last good version stays");
            }
            Ails::LeftOut => {
                tracing::error!(%site, %file, errors, "a site is left out: requests for it get 503");
            }
        }
    }
    for Ailing { site, file, .. } in before {
        if !after.iter().any(|now| now.site == *site) {
            let file = file.display();
            tracing::info!(%site, %file, "a site is in force as it is written again, or gone");
        }
    }
}

/// Says what of a new config waits for a new process.
pub(super) fn unchangeable(before: &Config, after: &Config) {
    if before.workers != after.workers {
        tracing::warn!("the number of workers changes with a restart or an upgrade only");
    }
    if before.admin != after.admin {
        tracing::warn!("the control socket changes with a restart or an upgrade only");
    }
    if (&before.user, &before.group) != (&after.user, &after.group) {
        tracing::warn!("`user` and `group` change with a restart only");
    }
    if before.sandbox != after.sandbox {
        tracing::warn!("`sandbox` changes with a restart only");
    }
    if before.danger_core_dumps != after.danger_core_dumps {
        tracing::warn!("`danger_core_dumps` changes with a restart or an upgrade only");
    }
}

/// Says which sockets were left to this process for nothing.
pub(super) fn unclaimed(estate: &Estate) {
    for address in estate.sockets.addresses() {
        tracing::warn!(%address, "a socket that was left to us is for no listener of the config: closed");
    }
}

/// How an attempt ended, in one line; mistakes stand before it.
pub(super) fn outcome(outcome: &Outcome) {
    let Outcome { cause, version, .. } = outcome;
    let took = outcome.took;
    let sites = outcome.sites.iter().map(|ailing| ailing.site.as_str());
    let sites = sites.collect::<Vec<_>>().join(" ");
    let broken_sites = (!sites.is_empty()).then_some(sites.as_str());
    match &outcome.verdict {
        Verdict::Changed(_) if *cause == Cause::Start => {
            tracing::info!(%version, ?took, broken_sites, "ready");
        }
        Verdict::Changed(changes) => {
            tracing::info!(%version, %cause, ?took, broken_sites, %changes, "a new version is in force");
        }
        Verdict::Unchanged => {
            tracing::info!(%version, %cause, ?took, broken_sites, "nothing to change");
        }
        Verdict::Rejected(errors) => {
            for error in errors {
                tracing::error!("{error}");
            }
            let errors = errors.len();
            tracing::error!(%version, %cause, ?took, errors, "refused: the version in force stays");
        }
    }
}
