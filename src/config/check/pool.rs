//! Rules of pools: endpoints differ, somebody has weight, TLS knows whom to verify.

use std::collections::BTreeSet;
use std::time::Duration;

use foldhash::{HashMap, HashMapExt};

use super::{Folder, health, listener, most, to_u32, to_usize};
use crate::base::addr::EndpointTarget;
use crate::base::name::PoolName;
use crate::config::decode::{self, At, Decoder};
use crate::config::forms::{BalanceKey, EndpointKey, HashByKey};
use crate::config::keys;
use crate::config::kinds::{Count, OrOff};
use crate::config::node::Place;
use crate::config::pool::{
    Adaptive, Addresses, BACKUP, Balance, Bounds, Endpoint, Hash, HashBy, Outlier, Pool, Protocol,
    Queue, RetryBudget, SessionSecret, SlowOutlier, Sticky, Tls,
};
use crate::config::values::{BalanceWord, HashByWord, Name, Timeout};

/// How many of something there are at most.
type MostKey = Count<1, 1_000_000>;

const CONNECT: Duration = Duration::from_secs(2);
const CONNECT_WITH_TLS: Duration = Duration::from_secs(3);

/// Checks all pools.
pub(super) fn check(
    written: &[(At<PoolName>, Option<At<keys::Pool>>)],
    folder: Folder<'_>,
    zone: Option<&str>,
    decoder: &mut Decoder,
) -> Vec<Pool> {
    written
        .iter()
        .filter_map(|(name, keys)| pool(&name.value, &keys.as_ref()?.value, folder, zone, decoder))
        .collect()
}

fn pool(
    name: &PoolName,
    keys: &keys::Pool,
    folder: Folder<'_>,
    zone: Option<&str>,
    decoder: &mut Decoder,
) -> Option<Pool> {
    let tls = keys.tls.as_ref().map(|at| tls(&at.value.0, folder));
    let timeouts = keys.timeouts.as_ref();
    let connect = timeouts.and_then(|at| at.value.connect.as_ref());
    let connect_timeout = match connect {
        Some(At {
            value: Timeout(connect),
            ..
        }) => *connect,
        None if tls.is_some() => CONNECT_WITH_TLS,
        None => CONNECT,
    };
    let written = &keys.endpoints.as_ref()?.value.0;
    let endpoints = check_endpoints(written, tls.as_ref(), folder, zone, decoder);
    let bounds = bounds(keys.max_requests.as_ref(), keys.max_connections.as_ref());
    let adaptive = keys.adaptive_concurrency.as_ref();
    let adaptive = adaptive.map(|at| adaptive_of(&at.value.0, decoder));
    let endpoints = endpoints.into_iter().map(|endpoint| Endpoint {
        bounds: Bounds {
            requests: endpoint.bounds.requests.or(bounds.requests),
            connections: endpoint.bounds.connections.or(bounds.connections),
            adaptive,
        },
        ..endpoint
    });
    let endpoints: Vec<_> = endpoints.collect();
    check_connections(keys, decoder);
    let balance = balance(&keys.balance.value)?;
    if let (Some(slow_start), Balance::Hash(_)) = (&keys.slow_start, &balance) {
        let help = "leave `slow_start` out: a key belongs to its endpoint from the start";
        let message = "`hash` has no shares that could grow";
        decoder.problem(slow_start.place, message, help);
    }
    let addresses = keys.addresses;
    if addresses.value == Addresses::One
        && endpoints.len() == written.len()
        && !endpoints.iter().any(Endpoint::is_resolved)
    {
        let message = "`addresses` says what a name is, and no endpoint of the pool is one";
        decoder.problem(addresses.place, message, "leave it out");
    }
    Some(Pool {
        name: name.clone(),
        balance,
        sticky: sticky(&keys.balance.value, folder, decoder),
        slow_start: keys.slow_start.as_ref().map(|at| at.value.0),
        endpoints,
        addresses: addresses.value,
        protocol: keys.protocol.value,
        tls,
        connect_timeout,
        health_check: keys
            .health_check
            .as_ref()
            .and_then(|at| health::check(&at.value, keys, decoder)),
        queue: match keys.queue.as_ref().map(|at| &at.value) {
            None => Some(Queue::default()),
            Some(OrOff::Off) => None,
            Some(OrOff::On(keys)) => Some(Queue {
                size: to_usize(keys.size.value.0),
                wait: keys.wait.value.0,
            }),
        },
        panic_threshold: keys.panic_threshold.as_ref().map(|at| at.value.0),
        outlier: match keys.outlier.as_ref().map(|at| &at.value) {
            None => Some(Outlier::default()),
            Some(OrOff::Off) => None,
            Some(OrOff::On(keys)) => Some(outlier(keys)),
        },
        retry_budget: match keys.retry_budget.as_ref().map(|at| (at.place, &at.value)) {
            None => Some(RetryBudget::default()),
            Some((_, OrOff::Off)) => None,
            Some((place, OrOff::On(keys))) => Some(retry_budget(place, keys, decoder)),
        },
    })
}

fn bounds(requests: Option<&At<MostKey>>, connections: Option<&At<MostKey>>) -> Bounds {
    Bounds {
        requests: most(requests),
        connections: most(connections),
        adaptive: None,
    }
}

const ADAPTIVE_MAX: u32 = 1000;
const ADAPTIVE_INITIAL: u32 = 20;

fn adaptive_of(keys: &keys::Adaptive, decoder: &mut Decoder) -> Adaptive {
    let min = to_u32(keys.min.value.0);
    let max = match &keys.max {
        None => ADAPTIVE_MAX.max(min),
        Some(at) => to_u32(at.value.0),
    };
    if let Some(at) = &keys.max
        && max < min
    {
        let message = format!("`max` is lower than `min`, which is {min}");
        decoder.problem(at.place, message, "write one that is at least as high");
    }
    let initial = match &keys.initial {
        None => ADAPTIVE_INITIAL.max(min).min(max),
        Some(at) => to_u32(at.value.0),
    };
    if let Some(at) = &keys.initial
        && (initial < min || (initial > max && max >= min))
    {
        let message = format!("`initial` is not between `min` and `max`, {min} and {max}");
        decoder.problem(at.place, message, "write one that is, or leave it out");
    }
    Adaptive { min, max, initial }
}

/// Connections that are counted carry one exchange each.
fn check_connections(keys: &keys::Pool, decoder: &mut Decoder) {
    if keys.protocol.value != Protocol::H2 {
        return;
    }
    let endpoints = keys.endpoints.iter().flat_map(|at| &at.value.0);
    let own = endpoints.filter_map(|at| match &at.value {
        EndpointKey::Endpoint(keys) => keys.max_connections.as_ref(),
        EndpointKey::Address(_) => None,
    });
    for at in keys.max_connections.iter().chain(own) {
        let help = "write `max_requests`, or another `protocol`";
        let message = "a connection of HTTP/2 carries many exchanges: limiting them limits nothing";
        decoder.problem(at.place, message, help);
    }
}

fn retry_budget(place: Place, keys: &keys::RetryBudget, decoder: &mut Decoder) -> RetryBudget {
    let budget = RetryBudget {
        percent: to_u32(keys.percent.value.0),
        per_second: to_u32(keys.per_second.value.0),
    };
    if budget.percent == 0 && budget.per_second == 0 {
        let help = "write `retry: off` in the routes whose requests are not to be repeated";
        decoder.problem(
            place,
            "the budget is empty: nothing would be repeated",
            help,
        );
    }
    budget
}

fn outlier(keys: &keys::Outlier) -> Outlier {
    let Timeout(window) = keys.window.value;
    let Timeout(ejection) = keys.ejection.value;
    Outlier {
        failures: to_u32(keys.failures.value.0),
        success_rate: keys.success_rate.value.0,
        requests: to_u32(keys.requests.value.0),
        window,
        ejection,
        max_ejected: keys.max_ejected.value.0,
        latency: keys.latency.as_ref().map(|at| {
            let keys = &at.value.0;
            SlowOutlier {
                factor: to_u32(keys.factor.value.0),
                least: keys.least.value.0,
                lasts: keys.lasts.value.0,
            }
        }),
    }
}

/// `None` where something is wrong that was told.
fn balance(key: &BalanceKey) -> Option<Balance> {
    let forms = match key {
        BalanceKey::Word(word) => return Some(word_of(*word)),
        BalanceKey::Sticky => return Some(Balance::default()),
        BalanceKey::Forms(forms) => forms,
    };
    if let Some(sticky) = &forms.sticky {
        return Some(word_of(sticky.value.otherwise.value));
    }
    let keys = &forms.hash.as_ref()?.value;
    let by = match &keys.by.as_ref()?.value {
        HashByKey::Word(HashByWord::ClientIp) => HashBy::ClientIp,
        HashByKey::Word(HashByWord::Path) => HashBy::Path,
        HashByKey::Forms(forms) => {
            let header = forms.header.as_ref();
            let header = header.map(|name| HashBy::Header(name.value.0.clone()));
            let cookie = forms.cookie.as_ref();
            let cookie = cookie.map(|name| HashBy::Cookie(name.value.0.clone()));
            let query = forms.query.as_ref();
            let query = query.map(|name| HashBy::Query(name.value.0.clone()));
            header.or(cookie).or(query)?
        }
    };
    let method = keys.method.value;
    Some(Balance::Hash(Hash { by, method }))
}

fn word_of(word: BalanceWord) -> Balance {
    match word {
        BalanceWord::RoundRobin => Balance::RoundRobin,
        BalanceWord::LeastConnections => Balance::LeastConnections,
        BalanceWord::RandomTwo => Balance::RandomTwo,
        BalanceWord::PeakEwma => Balance::PeakEwma,
    }
}

fn sticky(key: &BalanceKey, folder: Folder<'_>, decoder: &mut Decoder) -> Option<Sticky> {
    let unwritten;
    let keys = match key {
        BalanceKey::Word(_) => return None,
        BalanceKey::Sticky => {
            unwritten = decode::unwritten::<keys::Sticky>();
            &unwritten
        }
        BalanceKey::Forms(forms) => &forms.sticky.as_ref()?.value,
    };
    let Timeout(max_age) = keys.max_age.value;
    if max_age.as_millis() % 1000 != 0 {
        let help = "write whole seconds: cookies know no others";
        decoder.problem(keys.max_age.place, "part of a second", help);
    }
    let secret = match (&keys.secret, &keys.secret_file) {
        (Some(_), Some(file)) => {
            let help = "keep one of `secret` and `secret_file`";
            decoder.problem(file.place, "the secret is there twice", help);
            SessionSecret::Own
        }
        (Some(secret), None) => SessionSecret::Written(secret.value.0.clone()),
        (None, Some(file)) => SessionSecret::File(folder.file(file)),
        (None, None) => SessionSecret::Own,
    };
    Some(Sticky {
        cookie: keys.cookie.as_ref().map(|name| name.value.0.clone()),
        max_age,
        secret,
    })
}

fn tls(keys: &keys::PoolTls, folder: Folder<'_>) -> Tls {
    let client_certificate = keys.client_certificate.as_ref();
    Tls {
        ca: keys.ca.as_ref().map(|path| folder.file(path)),
        server_name: keys.server_name.as_ref().map(|name| name.value.0.clone()),
        client_certificate: client_certificate
            .and_then(|at| listener::certificate(&at.value, folder)),
        danger_accept_any_certificate: keys.danger_accept_any_certificate.value,
    }
}

fn check_endpoints(
    written: &[At<EndpointKey>],
    tls: Option<&Tls>,
    folder: Folder<'_>,
    zone: Option<&str>,
    decoder: &mut Decoder,
) -> Vec<Endpoint> {
    let needs_name = tls.is_some_and(|tls| tls.server_name.is_none());
    let mut seen: HashMap<EndpointTarget, usize> = HashMap::new();
    let mut endpoints = Vec::new();
    for (index, at) in written.iter().enumerate() {
        let (place, mut endpoint) = match &at.value {
            EndpointKey::Address(address) => (at.place, plain(address)),
            EndpointKey::Endpoint(keys) => match &keys.address {
                Some(address) => (address.place, in_full(&address.value, keys, zone, decoder)),
                None => continue,
            },
        };
        if let EndpointTarget::Unix(path) = &mut endpoint.address {
            *path = folder.0.join(&*path);
        }
        let address = &endpoint.address;
        let nameless = match address {
            EndpointTarget::Unix(_) => Some("TLS on a unix socket needs a name to verify"),
            // Whoever answers for DNS would choose the name otherwise.
            EndpointTarget::Service(_) => Some("TLS to a service needs a name to verify"),
            EndpointTarget::Tcp(_) | EndpointTarget::Name { .. } => None,
        };
        if let (Some(message), true) = (nameless, needs_name) {
            let help = "write `tls: { server_name: … }` in the pool";
            decoder.problem(place, message, help);
        }
        if let (EndpointTarget::Service(_), EndpointKey::Endpoint(keys)) = (address, &at.value)
            && endpoint.weight != 1
        {
            let help = "leave it out: its records have weights of their own";
            decoder.problem(keys.weight.place, "a service has no weight", help);
        }
        if let Some(first) = seen.get(address) {
            let message = format!("`{address}` is there twice, first as endpoints[{first}]");
            let help = match address {
                EndpointTarget::Service(_) => "leave one out",
                EndpointTarget::Tcp(_) | EndpointTarget::Name { .. } | EndpointTarget::Unix(_) => {
                    "for a larger share give it a `weight`"
                }
            };
            decoder.problem(place, message, help);
        }
        seen.entry(address.clone()).or_insert(index);
        endpoints.push(endpoint);
    }
    if let (Some(first), false) = (written.first(), endpoints.is_empty())
        && endpoints.len() == written.len()
    {
        check_work(first.place, &endpoints, decoder);
    }
    endpoints
}

/// Somebody has work, and somebody comes first.
fn check_work(place: Place, endpoints: &[Endpoint], decoder: &mut Decoder) {
    if endpoints.iter().all(|endpoint| endpoint.weight == 0) {
        let help = "give at least one endpoint a weight above 0";
        decoder.problem(place, "all weights are 0: nobody would get work", help);
    } else if endpoints.iter().all(|one| one.drain || one.weight == 0) {
        let help = "take `drain` off one of them, or send the routes elsewhere";
        decoder.problem(place, "all endpoints drain: nobody would get work", help);
    }
    if endpoints.iter().all(|endpoint| endpoint.priority == BACKUP) {
        let help = "take `backup` off those that come first";
        decoder.problem(place, "all endpoints are backups: of whom?", help);
    }
}

fn plain(address: &EndpointTarget) -> Endpoint {
    Endpoint {
        address: address.clone(),
        weight: 1,
        priority: 0,
        is_far: false,
        drain: false,
        bounds: Bounds::default(),
    }
}

fn in_full(
    address: &EndpointTarget,
    keys: &keys::Endpoint,
    zone: Option<&str>,
    decoder: &mut Decoder,
) -> Endpoint {
    let written = keys.priority.as_ref();
    if let (Some(at), true) = (written, keys.backup.value) {
        let help = "keep one of `priority` and `backup`";
        decoder.problem(at.place, "a backup comes behind every priority", help);
    }
    let is_far = keys.zone.as_ref().is_some_and(|at| {
        if zone.is_none() {
            let help =
                "write at the top level which zone this process is in, such as `zone: ${ZONE}`";
            decoder.problem(at.place, "the zone of this process is not known", help);
        }
        zone != Some(at.value.0.as_str())
    });
    Endpoint {
        weight: to_u32(keys.weight.value.0),
        priority: match written {
            _ if keys.backup.value => BACKUP,
            Some(at) => to_u32(at.value.0),
            None => 0,
        },
        is_far,
        drain: keys.drain.value,
        bounds: bounds(keys.max_requests.as_ref(), keys.max_connections.as_ref()),
        ..plain(address)
    }
}

/// Our own zone is that of somebody.
pub(super) fn check_zone(
    zone: Option<&At<Name>>,
    pools: &[(At<PoolName>, Option<At<keys::Pool>>)],
    decoder: &mut Decoder,
) {
    let Some(zone) = zone else {
        return;
    };
    let pools = pools.iter().filter_map(|(_, keys)| keys.as_ref());
    let endpoints = pools.flat_map(|pool| pool.value.endpoints.iter().flat_map(|at| &at.value.0));
    let zones: BTreeSet<_> = endpoints
        .filter_map(|at| match &at.value {
            EndpointKey::Endpoint(keys) => keys.zone.as_ref().map(|at| at.value.0.as_str()),
            EndpointKey::Address(_) => None,
        })
        .collect();
    let own = zone.value.0.as_str();
    if !zones.contains(own) {
        let help = match zones.is_empty() {
            true => "give endpoints their `zone`, or leave this one out".into(),
            false => decoder.suggest(own, "zones of endpoints are", zones.iter().copied()),
        };
        let message = format!("no endpoint is in the zone `{own}`");
        decoder.problem(zone.place, message, help);
    }
}
