//! Rules of health checks: a key goes with its type, and the times fit into each other.

use std::time::Duration;

use super::to_u32;
use crate::base::addr::EndpointTarget;
use crate::config::decode::{At, Decoder};
use crate::config::forms::EndpointKey;
use crate::config::keys;
use crate::config::node::Place;
use crate::config::pool::{CheckType, HealthCheck, Protocol, Question};
use crate::config::values::Timeout;

/// Checks more often than this are load.
const INTERVAL_LEAST: Duration = Duration::from_millis(100);

const FAST_INTERVAL: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(2);

/// Checks what is written of the health checks of `pool`.
pub(super) fn check(
    keys: &keys::HealthCheck,
    pool: &keys::Pool,
    decoder: &mut Decoder,
) -> Option<HealthCheck> {
    of_its_type(keys, decoder);
    reachable(keys, pool, decoder);
    let Timeout(interval) = keys.interval.value;
    if interval < INTERVAL_LEAST {
        let help = "checks are load: the shortest interval is 100ms";
        decoder.problem(keys.interval.place, "the interval is too short", help);
    }
    let fast_interval = keys.fast_interval.as_ref();
    let timeout = keys.timeout.as_ref();
    for (name, written) in [("fast_interval", fast_interval), ("timeout", timeout)] {
        if let Some(at) = written.filter(|at| at.value.0 > interval) {
            let message = format!("`{name}` is longer than `interval`");
            let help = "write a shorter one, or a longer `interval`; that is 5s if absent";
            decoder.problem(at.place, message, help);
        }
    }
    if let Some(at) = fast_interval.filter(|at| at.value.0 < INTERVAL_LEAST) {
        let help = "checks are load: the shortest interval is 100ms";
        decoder.problem(at.place, "the interval is too short", help);
    }
    let or = |written: Option<&At<Timeout>>, default: Duration| {
        written.map_or(default.min(interval), |at| at.value.0)
    };
    Some(HealthCheck {
        question: question(keys),
        port: keys
            .port
            .as_ref()
            .and_then(|at| u16::try_from(at.value.0).ok()),
        interval,
        fast_interval: or(fast_interval, FAST_INTERVAL),
        timeout: or(timeout, TIMEOUT),
        rise: to_u32(keys.rise.value.0),
        fall: to_u32(keys.fall.value.0),
    })
}

fn question(keys: &keys::HealthCheck) -> Question {
    match keys.kind.value {
        CheckType::Tcp => Question::Tcp,
        CheckType::Grpc => Question::Grpc {
            service: keys
                .service
                .as_ref()
                .map_or_else(String::new, |at| at.value.clone()),
        },
        CheckType::Http => {
            let path = keys.path.as_ref();
            let headers = keys.headers.iter().flat_map(|at| &at.value.0);
            let headers = headers.filter_map(|(name, value)| {
                Some((name.value.0.clone(), value.as_ref()?.value.0.clone()))
            });
            let status = keys.status.as_ref();
            Question::Http {
                path: path.map_or_else(|| "/".to_owned(), |at| at.value.0.clone()),
                host: keys.host.as_ref().map(|at| at.value.0.clone()),
                headers: headers.collect(),
                status: status.map_or_else(
                    || vec![200..=399],
                    |at| at.value.0.iter().map(|at| at.value.0.clone()).collect(),
                ),
                body: keys.body.as_ref().map(|at| at.value.clone()),
            }
        }
    }
}

/// Refuses keys that go with another type.
fn of_its_type(keys: &keys::HealthCheck, decoder: &mut Decoder) {
    let kind = keys.kind.value;
    let for_http: [(&str, Option<Place>); 5] = [
        ("path", keys.path.as_ref().map(|at| at.place)),
        ("host", keys.host.as_ref().map(|at| at.place)),
        ("headers", keys.headers.as_ref().map(|at| at.place)),
        ("status", keys.status.as_ref().map(|at| at.place)),
        ("body", keys.body.as_ref().map(|at| at.place)),
    ];
    for (name, place) in for_http {
        if let (Some(place), CheckType::Tcp | CheckType::Grpc) = (place, kind) {
            let message = format!("`{name}` is for checks by HTTP");
            decoder.problem(
                place,
                message,
                format!("leave out `{name}`, or write `type: http`"),
            );
        }
    }
    if let (Some(at), CheckType::Http | CheckType::Tcp) = (&keys.service, kind) {
        let message = "`service` is for checks by gRPC";
        decoder.problem(at.place, message, "leave it out, or write `type: grpc`");
    }
}

/// Refuses what the endpoints of the pool cannot be asked.
fn reachable(keys: &keys::HealthCheck, pool: &keys::Pool, decoder: &mut Decoder) {
    let has_http2 = match pool.protocol.value {
        Protocol::H2 => true,
        Protocol::Auto => pool.tls.is_some(),
        Protocol::Http1 => false,
    };
    if keys.kind.value == CheckType::Grpc && !has_http2 {
        let help = "write `protocol: h2` in the pool";
        decoder.problem(
            keys.kind.place,
            "gRPC needs HTTP/2 with the endpoints",
            help,
        );
    }
    let endpoints = pool.endpoints.iter().flat_map(|at| &at.value.0);
    let mut addresses = endpoints.filter_map(|at| match &at.value {
        EndpointKey::Address(address) => Some(address),
        EndpointKey::Endpoint(keys) => keys.address.as_ref().map(|at| &at.value),
    });
    if let Some(port) = &keys.port
        && addresses.any(|address| matches!(address, EndpointTarget::Unix(_)))
    {
        let help = "leave out `port`, or put unix sockets into a pool of their own";
        decoder.problem(port.place, "a unix socket has no port", help);
    }
}
