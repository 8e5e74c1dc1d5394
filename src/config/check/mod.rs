//! From what is written to a [`Config`]: the rules across parts, and every default filled in.
//!
//! `parse` calls it with whatever could be read; a part that could not is `None` and already reported. All rules
//! are held against all parts; there is a config only if no rule was broken.

mod action;
mod filter;
mod health;
mod listener;
mod pool;
mod retry;
mod route;

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};

use foldhash::HashSet;

use super::decode::{At, Decoder, Written};
use super::forms::{RateKey, SandboxKey};
use super::include::Pattern;
use super::keys::{self, Root};
use super::kinds::{Count, Named, OrOff};
use super::route::Timeouts as RouteTimeouts;
use super::site::Site;
use super::values::{AccountKey, FilePath, ResolverAddress, Timeout, Workers};
use super::{
    AccessLog, AccessLogPath, Account, Admin, ClientLimits, Config, Drain, Limits, Rate, Sandbox,
    Timeouts,
};
use crate::base::name::{PoolName, SiteName};

/// Checks what was read from `file`.
pub(crate) fn check(root: &Root, file: &Path, decoder: &mut Decoder) -> Option<Config> {
    let folder = Folder(file.parent().unwrap_or(Path::new("")));
    let timeouts = root.timeouts.as_ref();
    let timeouts = timeouts.map_or_else(Timeouts::default, |at| Timeouts::from(&at.value));
    let limits = root.limits.as_ref();
    let limits = limits.map_or_else(Limits::default, |at| Limits::from(&at.value));

    let listeners = root.listeners.as_ref().map(|at| at.value.0.as_slice());
    let listeners = listener::check(listeners.unwrap_or_default(), folder, decoder);

    let known = KnownPools::of(root.pools.as_ref(), &root.written);
    let routes = root.routes.as_ref().map(|at| at.value.as_slice());
    let routes = route::check(routes.unwrap_or_default(), &known, &timeouts.route, decoder);
    let has_routes = root.written.has("routes") || root.written.has("include");
    if !has_routes && listeners.iter().any(|one| !one.redirect_to_https) {
        let help = "add `routes`, such as `routes: [{ pool: app }]`, or `redirect_to_https: true`";
        decoder.problem(
            root.written.place,
            "no routes: every request would be refused",
            help,
        );
    }

    let pools = root.pools.as_ref().map(|at| at.value.0.as_slice());
    let zone = root.zone.as_ref().map(|at| at.value.0.clone());
    if !root.written.has("include") {
        // Those of sites are not known here.
        pool::check_zone(root.zone.as_ref(), pools.unwrap_or_default(), decoder);
    }
    let pools = pool::check(pools.unwrap_or_default(), folder, zone.as_deref(), decoder);

    let resolvers = resolvers(root, decoder);
    if let Some(group) = &root.group
        && !root.written.has("user")
    {
        let help = "add `user`: the group is one that this user becomes";
        decoder.problem(group.place, "`group` without `user`", help);
    }

    let trusted_proxies = root.trusted_proxies.iter().flat_map(|at| &at.value);
    Some(Config {
        workers: match root.workers.value {
            Workers::Auto => None,
            Workers::Count(count) => NonZeroUsize::new(to_usize(count)),
        },
        listeners,
        routes,
        pools,
        zone,
        resolvers,
        access_log: match root.access_log.as_ref().map(|at| &at.value) {
            None => Some(AccessLog::default()),
            Some(OrOff::Off) => None,
            Some(OrOff::On(keys)) => Some(access_log(keys, folder)),
        },
        trusted_proxies: trusted_proxies.map(|at| at.value).collect(),
        limits,
        timeouts,
        drain: match &root.drain {
            Some(at) => Drain::from(&at.value),
            None => Drain::default(),
        },
        include: include(root, folder),
        strict: root.strict.value,
        admin: admin(root.admin.as_ref(), file),
        user: root.user.as_ref().map(|at| Account::from(&at.value)),
        group: root.group.as_ref().map(|at| Account::from(&at.value)),
        sandbox: sandbox(&root.sandbox.value, folder),
        danger_core_dumps: root.danger_core_dumps.value,
    })
}

/// What is written of the control socket in `file`.
pub(crate) fn admin(written: Option<&At<OrOff<keys::Admin>>>, file: &Path) -> Admin {
    let folder = Folder(file.parent().unwrap_or(Path::new("")));
    let keys = match written.map(|at| &at.value) {
        None => return Admin::Unwritten,
        Some(OrOff::Off) => return Admin::Off,
        Some(OrOff::On(keys)) => keys,
    };
    let address = keys.address.as_ref();
    address.map_or(Admin::Unwritten, |at| {
        Admin::At(folder.file_at(&at.value.0))
    })
}

fn sandbox(written: &SandboxKey, folder: Folder<'_>) -> Option<Sandbox> {
    match written {
        SandboxKey::Flag(false) => None,
        SandboxKey::Flag(true) => Some(Sandbox::default()),
        SandboxKey::Sandbox(keys) => {
            let write = keys.write.iter().flat_map(|at| &at.value.0);
            Some(Sandbox {
                write: write.map(|at| folder.file(at)).collect(),
            })
        }
    }
}

impl From<&AccountKey> for Account {
    fn from(written: &AccountKey) -> Self {
        match written {
            AccountKey::Id(id) => Self::Id(*id),
            AccountKey::Name(name) => Self::Name(name.clone()),
        }
    }
}

fn resolvers(root: &Root, decoder: &mut Decoder) -> Vec<SocketAddr> {
    let mut resolvers = Vec::new();
    for at in root.resolvers.iter().flat_map(|at| &at.value.0) {
        let ResolverAddress(address) = at.value;
        if resolvers.contains(&address) {
            let message = format!("`{address}` is there twice");
            decoder.problem(at.place, message, "list each server once");
            continue;
        }
        resolvers.push(address);
    }
    resolvers
}

fn include(root: &Root, folder: Folder<'_>) -> Vec<Pattern> {
    let written = root.include.iter().flat_map(|at| &at.value.0);
    written
        .map(|at| Pattern::new(folder.0, &at.value.0))
        .collect()
}

/// Checks what was read from the `file` of a site; it inherits the main file's `timeouts` and `zone`.
pub(crate) fn check_site(
    root: &keys::Site,
    file: &Path,
    name: &SiteName,
    main: &Config,
    decoder: &mut Decoder,
) -> Site {
    let folder = Folder(file.parent().unwrap_or(Path::new("")));
    let known = KnownPools::of(root.pools.as_ref(), &root.written);
    let routes = root.routes.as_ref().map(|at| at.value.as_slice());
    let routes = route::check(
        routes.unwrap_or_default(),
        &known,
        &main.timeouts.route,
        decoder,
    );
    let pools = root.pools.as_ref().map(|at| at.value.0.as_slice());
    let zone = main.zone.as_deref();
    let pools = pool::check(pools.unwrap_or_default(), folder, zone, decoder);
    Site::new(name, routes, pools)
}

fn access_log(keys: &keys::AccessLog, folder: Folder<'_>) -> AccessLog {
    AccessLog {
        format: keys.format.value,
        path: match &keys.path.value {
            AccessLogPath::Stdout => AccessLogPath::Stdout,
            AccessLogPath::File(path) => AccessLogPath::File(folder.0.join(path)),
        },
    }
}

/// The folder that paths are relative to.
#[derive(Clone, Copy)]
struct Folder<'a>(&'a Path);

impl Folder<'_> {
    fn file(self, path: &At<FilePath>) -> PathBuf {
        self.file_at(&path.value)
    }

    fn file_at(self, path: &FilePath) -> PathBuf {
        self.0.join(&path.0)
    }
}

/// The names that a route may name; `None` if `pools` could not be read.
struct KnownPools<'a> {
    names: Option<HashSet<&'a PoolName>>,
    /// In the order of the file, for the remedy.
    listed: Vec<&'a str>,
}

impl<'a> KnownPools<'a> {
    fn of(pools: Option<&'a At<Named<PoolName, keys::Pool>>>, written: &Written) -> Self {
        let pools = pools.map(|at| at.value.0.as_slice());
        let is_readable = pools.is_some() || !written.has("pools");
        let names = pools
            .unwrap_or_default()
            .iter()
            .map(|(name, _)| &name.value);
        Self {
            names: is_readable.then(|| names.clone().collect()),
            listed: names.map(PoolName::as_str).collect(),
        }
    }
}

impl From<&keys::Limits> for Limits {
    fn from(keys: &keys::Limits) -> Self {
        Self {
            connections: to_usize(keys.connections.value.0),
            handshakes: to_usize(keys.handshakes.value.0),
            header_bytes: to_usize(keys.header_bytes.value.0),
            header_fields: to_usize(keys.header_fields.value.0),
            response_header_bytes: to_usize(keys.response_header_bytes.value.0),
            h2_streams: to_u32(keys.h2_streams.value.0),
            idle_connections: to_usize(keys.idle_connections.value.0),
            concurrent_requests: most(keys.concurrent_requests.as_ref()),
            client: keys
                .client
                .as_ref()
                .map_or_else(ClientLimits::default, |at| ClientLimits::from(&at.value)),
        }
    }
}

impl From<&keys::ClientLimits> for ClientLimits {
    fn from(keys: &keys::ClientLimits) -> Self {
        Self {
            connections: most(keys.connections.as_ref()),
            handshakes: rate(keys.handshakes.as_ref()),
            requests: rate(keys.requests.as_ref()),
            concurrent_requests: most(keys.concurrent_requests.as_ref()),
        }
    }
}

/// A rate with its burst: unless another one is written, as many as its number.
fn rate(written: Option<&At<RateKey>>) -> Option<Rate> {
    let (rate, burst) = match &written?.value {
        RateKey::Rate(rate) => (*rate, None),
        RateKey::Forms(forms) => (forms.rate.as_ref()?.value, forms.burst.as_ref()),
    };
    Some(Rate {
        count: rate.count,
        per: rate.per,
        burst: most(burst).unwrap_or(rate.count),
    })
}

impl From<&keys::Timeouts> for Timeouts {
    fn from(keys: &keys::Timeouts) -> Self {
        let Timeout(handshake) = keys.handshake.value;
        let Timeout(first_byte) = keys.first_byte.value;
        let Timeout(header) = keys.header.value;
        let Timeout(body) = keys.body.value;
        let Timeout(keep_alive) = keys.keep_alive.value;
        let Timeout(age) = keys.age.value;
        let Timeout(send) = keys.send.value;
        let Timeout(response) = keys.response.value;
        let Timeout(idle) = keys.idle.value;
        let Timeout(stream) = keys.stream.value;
        Self {
            handshake,
            first_byte,
            header,
            body,
            keep_alive,
            age,
            send,
            drain: keys.drain.value,
            route: RouteTimeouts {
                response,
                idle,
                stream,
            },
        }
    }
}

impl From<&keys::Drain> for Drain {
    fn from(keys: &keys::Drain) -> Self {
        Self {
            tunnels: keys.tunnels.value,
            notice: keys.notice.value,
            upgrade: keys.upgrade.value,
        }
    }
}

/// For numbers whose key bounds them far below.
fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// How many of something there are at most.
fn most(written: Option<&At<Count<1, 1_000_000>>>) -> Option<NonZeroU32> {
    NonZeroU32::new(to_u32(written?.value.0))
}

/// For numbers whose key bounds them far below.
fn to_u32(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
