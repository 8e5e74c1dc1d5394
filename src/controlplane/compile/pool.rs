//! Pools and pickers: names become addresses, and live state goes over from the previous snapshot.
//!
//! An endpoint is the same as before when its [`Identity`] is (invariant I4): then it is that very object, with
//! its count of exchanges and its idle connections. A pool whose members and settings are the same is that very
//! pool.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};
use http::HeaderName;

use super::answers::{Answer, Question, Record};
use super::listener::Unread;
use super::{Errors, Materials, health, seed};
use crate::base::addr::{EndpointAddr, EndpointTarget};
use crate::base::name::PoolName;
use crate::config;
use crate::config::pool::{Addresses, HashBy, HashMethod, SessionSecret};
use crate::dataplane::snapshot::Snapshot;
use crate::dataplane::tls::{AlpnOffer, ClientOptions, ClientPlan, Roots, ServerName};
use crate::dataplane::upstream::bounds::Bounds;
use crate::dataplane::upstream::budget;
use crate::dataplane::upstream::endpoint::{Endpoint, Identity, Protocol, Tls};
use crate::dataplane::upstream::gradient;
use crate::dataplane::upstream::pick::{Balance, Key, Method};
use crate::dataplane::upstream::pool::{Member, Pool, Settings};
use crate::dataplane::upstream::queue;
use crate::dataplane::upstream::reach::Reach;
use crate::dataplane::upstream::sticky;

pub(super) fn compile(
    pools: &[config::pool::Pool],
    materials: &Materials<'_>,
    before: &Before<'_>,
    errors: &mut Errors<'_>,
) -> Vec<Arc<Pool>> {
    let pools = pools
        .iter()
        .map(|pool| one(pool, materials, before, errors));
    // Collected first, so that every pool is looked at.
    let pools: Vec<_> = pools.collect();
    pools.into_iter().flatten().collect()
}

/// What the previous snapshot has to hand over.
#[derive(Debug)]
pub(super) struct Before<'a> {
    pools: HashMap<&'a PoolName, &'a Arc<Pool>>,
    members: HashMap<&'a Identity, &'a Member>,
}

impl<'a> Before<'a> {
    pub(super) fn of(previous: Option<&'a Snapshot>) -> Self {
        let pools = || previous.into_iter().flat_map(|previous| &previous.pools);
        let members = pools().flat_map(|pool| &pool.members);
        Self {
            pools: pools().map(|pool| (&pool.name, pool)).collect(),
            members: members
                .map(|member| (&member.endpoint.identity, member))
                .collect(),
        }
    }
}

fn one(
    pool: &config::pool::Pool,
    materials: &Materials<'_>,
    before: &Before<'_>,
    errors: &mut Errors<'_>,
) -> Option<Arc<Pool>> {
    let previous = before.pools.get(&pool.name).copied();
    let plan = match &pool.tls {
        None => None,
        Some(tls) => Some(client_plan(pool, tls, materials, previous, errors)?),
    };
    let mut members: Vec<Member> = Vec::new();
    let mut numbers = HashMap::new();
    for (index, endpoint) in pool.endpoints.iter().enumerate() {
        let path = format!("{}.endpoints[{index}].address", errors.pool(&pool.name));
        let tls = match &plan {
            None => None,
            Some(plan) => {
                let server_name = server_name(pool, &endpoint.address, &path, errors)?;
                Some(Tls {
                    plan: Arc::clone(plan),
                    server_name,
                })
            }
        };
        for place in places(endpoint, pool.addresses, materials) {
            let identity = Identity {
                pool: pool.name.clone(),
                address: place.address,
                protocol: protocol(pool.protocol),
                tls: tls
                    .as_ref()
                    .map(|tls| (tls.server_name.clone(), tls.plan.digest())),
            };
            // One address by two names is one endpoint, with the work of both.
            if let Some(&number) = numbers.get(&identity)
                && let Some(member) = members.get_mut::<usize>(number)
            {
                member.weight = member.weight.saturating_add(place.weight);
                continue;
            }
            numbers.insert(identity.clone(), members.len());
            let known = before.members.get(&identity).copied();
            let endpoint_now = match known {
                Some(known) => Arc::clone(&known.endpoint),
                None => Arc::new(match pool.health_check {
                    Some(_) => Endpoint::unproven(identity, tls.clone()),
                    None => Endpoint::new(identity, tls.clone()),
                }),
            };
            // One that had no turn is asked by nobody: what it is told now changes nothing before the next snapshot.
            let had_turn = known.is_some_and(|known| known.weight > 0);
            if pool.slow_start.is_some() && previous.is_some() && !had_turn {
                endpoint_now.rejoin();
            }
            members.push(Member {
                endpoint: endpoint_now,
                weight: place.weight,
                priority: place.priority,
                is_far: endpoint.is_far,
                reach: place.reach,
                bounds: Bounds {
                    requests: endpoint.bounds.requests,
                    connections: endpoint.bounds.connections,
                    adaptive: endpoint.bounds.adaptive.map(|adaptive| gradient::Plan {
                        min: adaptive.min,
                        max: adaptive.max,
                        initial: adaptive.initial,
                    }),
                },
            });
        }
    }
    let settings = Settings {
        balance: balance(pool, errors)?,
        sticky: match &pool.sticky {
            None => None,
            Some(keys) => Some(sticky(pool, keys, materials, errors)?),
        },
        slow_start: pool.slow_start,
        connect_timeout: pool.connect_timeout,
        policy: health::policy(pool),
        check: health::plan(pool, previous),
        panic_threshold: pool.panic_threshold,
        queue: pool.queue.map(|written| queue::Plan {
            size: written.size,
            wait: written.wait,
        }),
        retry_budget: pool.retry_budget.map(|written| budget::Plan {
            percent: written.percent,
            per_second: written.per_second,
        }),
    };
    Some(settle(pool, members, settings, previous))
}

/// The pool from before if it is the same; else a new one that goes on in its turns.
fn settle(
    pool: &config::pool::Pool,
    members: Vec<Member>,
    settings: Settings,
    previous: Option<&Arc<Pool>>,
) -> Arc<Pool> {
    if let Some(previous) = previous
        && previous.settings == settings
        && is_same_members(&previous.members, &members)
    {
        return Arc::clone(previous);
    }
    let (name, previous) = (pool.name.clone(), previous.map(AsRef::as_ref));
    Arc::new(Pool::new(name, members, settings, previous, seed()))
}

/// The least that a secret may have: what people make up themselves is easier to guess than its length says.
const SECRET_BYTES: usize = 16;

fn sticky(
    pool: &config::pool::Pool,
    keys: &config::pool::Sticky,
    materials: &Materials<'_>,
    errors: &mut Errors<'_>,
) -> Option<sticky::Settings> {
    let path = format!("{}.balance.sticky", errors.pool(&pool.name));
    let secret = match &keys.secret {
        SessionSecret::Own => match materials.sessions() {
            Some(secret) => secret.bytes().as_slice(),
            None => {
                let help = "write `secret` or `secret_file`";
                errors.add(
                    &path,
                    "the system gives no randomness for a key",
                    Some(help),
                );
                return None;
            }
        },
        SessionSecret::Written(text) => text.as_str().as_bytes(),
        SessionSecret::File(file) => {
            let path = format!("{path}.secret_file");
            let secret = errors.bytes(materials, file, &path)?.trim_ascii();
            if secret.len() < SECRET_BYTES {
                let message = format!(
                    "{} holds a secret of {} bytes, which can be guessed",
                    file.display(),
                    secret.len()
                );
                let help = "make one of 32 bytes, such as by `openssl rand -base64 32`";
                errors.add(&path, &message, Some(help));
                return None;
            }
            secret
        }
    };
    let cookie = match &keys.cookie {
        Some(name) => name.clone(),
        None => format!("lockgate_{:08x}", Key::hash_of(pool.name.as_str()) >> 32),
    };
    let settings = sticky::Settings::new(&pool.name, &cookie, keys.max_age, secret);
    Some(settings)
}

fn balance(pool: &config::pool::Pool, errors: &mut Errors<'_>) -> Option<Balance> {
    let hash = match &pool.balance {
        config::pool::Balance::RoundRobin => return Some(Balance::RoundRobin),
        config::pool::Balance::LeastConnections => return Some(Balance::LeastConnections),
        config::pool::Balance::RandomTwo => return Some(Balance::RandomTwo),
        config::pool::Balance::PeakEwma => return Some(Balance::PeakEwma),
        config::pool::Balance::Hash(hash) => hash,
    };
    let key = match &hash.by {
        HashBy::ClientIp => Key::ClientIp,
        HashBy::Header(name) => {
            let path = format!("{}.balance.hash.by.header", errors.pool(&pool.name));
            Key::Header(errors.take(HeaderName::from_bytes(name.as_bytes()), &path)?)
        }
        HashBy::Cookie(name) => Key::Cookie(name.as_str().into()),
        HashBy::Path => Key::Path,
        HashBy::Query(name) => Key::Query(name.as_str().into()),
    };
    let method = match hash.method {
        HashMethod::Maglev => Method::Maglev,
        HashMethod::Ring => Method::Ring,
    };
    Some(Balance::Hash { key, method })
}

/// Whether members are those of a pool, in the order of its tiers.
fn is_same_members(before: &[Member], after: &[Member]) -> bool {
    let mut after: Vec<_> = after.iter().collect();
    after.sort_by_key(|member| member.tier());
    let mut pairs = before.iter().zip(&after);
    before.len() == after.len() && pairs.all(|(before, after)| before.is_same(after))
}

/// One endpoint of what is written as one.
struct Place {
    address: EndpointAddr,
    weight: u32,
    priority: u64,
    /// Where one is that is known by its name.
    reach: Option<Arc<Reach>>,
}

/// Where an endpoint is; nowhere, while its name does not resolve.
fn places(
    endpoint: &config::pool::Endpoint,
    addresses: Addresses,
    materials: &Materials<'_>,
) -> Vec<Place> {
    let share = Share {
        weight: endpoint.weight,
        priority: priority(endpoint, 0),
    };
    let answer = Question::about(&endpoint.address)
        .and_then(|question| materials.outside.answers.get(&question));
    let mut places = match (&endpoint.address, answer) {
        (EndpointTarget::Tcp(address), _) => vec![share.at(EndpointAddr::Tcp(*address), None)],
        (EndpointTarget::Unix(path), _) => {
            vec![share.at(EndpointAddr::Unix(path.as_path().into()), None)]
        }
        (EndpointTarget::Name { host, port }, Some(Answer::Addresses(found))) => {
            of_host(host, *port, found, share, addresses)
        }
        (EndpointTarget::Service(_), Some(Answer::Records(records))) => {
            of_service(endpoint, records, addresses)
        }
        (EndpointTarget::Name { .. } | EndpointTarget::Service(_), _) => Vec::new(),
    };
    if endpoint.drain {
        // Who takes nothing new has no turn.
        places.iter_mut().for_each(|place| place.weight = 0);
    }
    places
}

/// Weight and priority of an endpoint.
#[derive(Clone, Copy)]
struct Share {
    weight: u32,
    priority: u64,
}

impl Share {
    fn at(self, address: EndpointAddr, reach: Option<Arc<Reach>>) -> Place {
        Place {
            address,
            weight: self.weight,
            priority: self.priority,
            reach,
        }
    }
}

/// Tiers that the records of a service make at most; those of higher priorities share the last.
const SERVICE_TIERS_LIMIT: usize = 16;

/// The priority that is written, and behind it the place of a record's among those of its service.
fn priority(endpoint: &config::pool::Endpoint, within: usize) -> u64 {
    let within = within.min(SERVICE_TIERS_LIMIT - 1);
    u64::from(endpoint.priority) * SERVICE_TIERS_LIMIT as u64 + within as u64
}

/// The endpoints of a service: its records of the lowest priority are what an endpoint would be that is written in its
/// place, and the others stand by behind them.
fn of_service(
    endpoint: &config::pool::Endpoint,
    records: &[Record],
    addresses: Addresses,
) -> Vec<Place> {
    let priorities: BTreeSet<_> = records.iter().map(|record| record.priority).collect();
    let places = records.iter().flat_map(|record| {
        let share = Share {
            // RFC 2782 gives those with 0 beside others a very small share; no share would be none.
            weight: u32::from(record.weight.max(1)),
            priority: priority(endpoint, priorities.range(..record.priority).count()),
        };
        of_host(
            &record.host,
            record.port,
            &record.addresses,
            share,
            addresses,
        )
    });
    places.collect()
}

fn of_host(
    host: &str,
    port: u16,
    found: &[IpAddr],
    share: Share,
    addresses: Addresses,
) -> Vec<Place> {
    let found = found.iter().map(|&ip| SocketAddr::new(ip, port));
    match addresses {
        Addresses::All => found
            .map(|address| share.at(EndpointAddr::Tcp(address), None))
            .collect(),
        Addresses::One if found.len() == 0 => Vec::new(),
        Addresses::One => {
            let address = EndpointAddr::Name {
                host: host.trim_end_matches('.').into(),
                port,
            };
            vec![share.at(address, Some(Arc::new(Reach::new(found))))]
        }
    }
}

/// The name for SNI and verification: the pool's, or the endpoint's host.
fn server_name(
    pool: &config::pool::Pool,
    target: &EndpointTarget,
    path: &str,
    errors: &mut Errors<'_>,
) -> Option<ServerName> {
    if let Some(name) = pool.tls.as_ref().and_then(|tls| tls.server_name.as_deref()) {
        let path = format!("{}.tls.server_name", errors.pool(&pool.name));
        return read_name(name, &path, errors);
    }
    match target {
        EndpointTarget::Tcp(address) => Some(address.ip().into()),
        // The name in a certificate has no dot at its end.
        EndpointTarget::Name { host, .. } => read_name(host.trim_end_matches('.'), path, errors),
        EndpointTarget::Unix(_) | EndpointTarget::Service(_) => {
            let message = "there is no name to verify the certificate against";
            let help = format!("write `{}.tls.server_name`", errors.pool(&pool.name));
            errors.add(path, message, Some(&help));
            None
        }
    }
}

fn read_name(name: &str, path: &str, errors: &mut Errors<'_>) -> Option<ServerName> {
    let read = ServerName::new(name);
    if read.is_none() {
        let message = format!("`{name}` is neither a host name nor an address");
        errors.add(path, &message, None);
    }
    read
}

/// The plan that the endpoints of a pool share: the one from before if it is made of the same.
fn client_plan(
    pool: &config::pool::Pool,
    tls: &config::pool::Tls,
    materials: &Materials<'_>,
    previous: Option<&Arc<Pool>>,
    errors: &mut Errors<'_>,
) -> Option<Arc<ClientPlan>> {
    let path = format!("{}.tls", errors.pool(&pool.name));
    let ca_path = format!("{path}.ca");
    let roots = match &tls.ca {
        None => Some(Roots::System),
        Some(ca) => errors.bytes(materials, ca, &ca_path).map(Roots::Pem),
    };
    let certificate = match &tls.client_certificate {
        None => None,
        Some(certificate) => {
            let path = format!("{path}.client_certificate");
            Some(Unread::of(certificate, path, materials, errors)?)
        }
    };
    let mut options = ClientOptions {
        roots: roots?,
        identity: None,
        alpn: match pool.protocol {
            config::pool::Protocol::Auto => AlpnOffer::Auto,
            config::pool::Protocol::Http1 => AlpnOffer::Http1,
            config::pool::Protocol::H2 => AlpnOffer::H2,
        },
        accept_any: tls.danger_accept_any_certificate,
    };
    let digest = options.digest_with(certificate.as_ref().map(Unread::digest));
    let members = previous.into_iter().flat_map(|previous| &previous.members);
    let mut plans = members
        .filter_map(|member| member.endpoint.tls.as_ref())
        .map(|tls| &tls.plan);
    if let Some(plan) = plans.find(|plan| plan.digest() == digest) {
        return Some(Arc::clone(plan));
    }
    let identity = match certificate {
        None => None,
        Some(certificate) => Some(certificate.read(materials.outside.now, errors)?),
    };
    options.identity = identity.as_deref();
    match ClientPlan::new(&options) {
        Ok(plan) => Some(Arc::new(plan)),
        Err(error) => {
            let message = match &tls.ca {
                Some(ca) => format!("{}: {error}", ca.display()),
                None => error.to_string(),
            };
            errors.add(&ca_path, &message, Some(error.help()));
            None
        }
    }
}

fn protocol(protocol: config::pool::Protocol) -> Protocol {
    match protocol {
        config::pool::Protocol::Auto => Protocol::Auto,
        config::pool::Protocol::Http1 => Protocol::Http1,
        config::pool::Protocol::H2 => Protocol::H2,
    }
}
