//! The behaviour of the whole proxy, in process: real listeners on loopback, real backends, real clients.
//!
//! One binary, one module a behaviour. `harness` is the vocabulary.
#![allow(unreachable_pub, reason = "nothing is outside of this binary")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a harness fails by panicking, as its cases do"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "cases block, and their backends are threads and tasks of their own"
)]

mod harness;

mod access_log;
mod balancing;
mod bodies;
mod dns;
mod drain;
mod examples;
mod faults;
mod headers;
mod health;
mod hostile;
mod keep_alive;
mod limits;
mod limits_clients;
mod limits_endpoints;
mod mirror;
mod pools;
mod process;
mod protocols;
mod reload;
mod retries;
mod routing;
mod sites;
mod split;
mod sticky;
mod timeouts;
mod tls;
mod upgrades;
