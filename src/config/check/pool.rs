//! Rules of pools: endpoints differ, somebody has weight, TLS knows whom to verify.

use std::time::Duration;

use foldhash::{HashMap, HashMapExt};

use super::{Folder, health, listener, to_u32, to_usize};
use crate::base::addr::EndpointTarget;
use crate::base::name::PoolName;
use crate::config::decode::{At, Decoder};
use crate::config::forms::{BalanceKey, EndpointKey, HashByKey, PoolTlsKey};
use crate::config::keys;
use crate::config::kinds::OrOff;
use crate::config::pool::{Balance, Endpoint, Hash, HashBy, Outlier, Pool, Queue, Tls};
use crate::config::values::{BalanceWord, HashByWord, Timeout};

const CONNECT: Duration = Duration::from_secs(2);
const CONNECT_WITH_TLS: Duration = Duration::from_secs(3);

/// Checks all pools.
pub(super) fn check(
    written: &[(At<PoolName>, Option<At<keys::Pool>>)],
    folder: Folder<'_>,
    decoder: &mut Decoder,
) -> Vec<Pool> {
    written
        .iter()
        .filter_map(|(name, keys)| pool(&name.value, &keys.as_ref()?.value, folder, decoder))
        .collect()
}

fn pool(
    name: &PoolName,
    keys: &keys::Pool,
    folder: Folder<'_>,
    decoder: &mut Decoder,
) -> Option<Pool> {
    let tls = keys.tls.as_ref().map(|at| match &at.value {
        PoolTlsKey::True => Tls::default(),
        PoolTlsKey::Tls(keys) => tls(keys, folder),
    });
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
    let endpoints = keys.endpoints.as_ref()?;
    let endpoints = check_endpoints(&endpoints.value.0, tls.as_ref(), folder, decoder);
    Some(Pool {
        name: name.clone(),
        balance: balance(&keys.balance.value)?,
        endpoints,
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
    })
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
    }
}

/// `None` where something is wrong that was told.
fn balance(key: &BalanceKey) -> Option<Balance> {
    let forms = match key {
        BalanceKey::Word(BalanceWord::RoundRobin) => return Some(Balance::RoundRobin),
        BalanceKey::Word(BalanceWord::LeastConnections) => return Some(Balance::LeastConnections),
        BalanceKey::Word(BalanceWord::RandomTwo) => return Some(Balance::RandomTwo),
        BalanceKey::Word(BalanceWord::PeakEwma) => return Some(Balance::PeakEwma),
        BalanceKey::Forms(forms) => forms,
    };
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
    decoder: &mut Decoder,
) -> Vec<Endpoint> {
    let needs_name = tls.is_some_and(|tls| tls.server_name.is_none());
    let mut seen: HashMap<EndpointTarget, usize> = HashMap::new();
    let mut endpoints = Vec::new();
    for (index, at) in written.iter().enumerate() {
        let (place, address, weight) = match &at.value {
            EndpointKey::Address(address) => (at.place, address, 1),
            EndpointKey::Endpoint(keys) => match &keys.address {
                Some(address) => (address.place, &address.value, to_u32(keys.weight.value.0)),
                None => continue,
            },
        };
        let address = match address {
            EndpointTarget::Unix(path) => EndpointTarget::Unix(folder.0.join(path)),
            EndpointTarget::Tcp(_) | EndpointTarget::Name { .. } => address.clone(),
        };
        if needs_name && matches!(address, EndpointTarget::Unix(_)) {
            let help = "write `tls: { server_name: … }` in the pool";
            decoder.problem(place, "TLS on a unix socket needs a name to verify", help);
        }
        if let Some(first) = seen.get(&address) {
            let message = format!("`{address}` is there twice, first as endpoints[{first}]");
            decoder.problem(place, message, "for a larger share give it a `weight`");
        }
        seen.entry(address.clone()).or_insert(index);
        endpoints.push(Endpoint { address, weight });
    }
    if let (Some(first), false) = (written.first(), endpoints.is_empty())
        && endpoints.len() == written.len()
        && endpoints.iter().all(|endpoint| endpoint.weight == 0)
    {
        let help = "give at least one endpoint a weight above 0";
        decoder.problem(
            first.place,
            "all weights are 0: nobody would get work",
            help,
        );
    }
    endpoints
}
