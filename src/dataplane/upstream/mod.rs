//! Where exchanges go: pools, their endpoints and the connections to them.
//!
//! A [`pool::Pool`] is immutable and part of the snapshot. What changes while traffic flows sits on an
//! [`endpoint::Endpoint`], which a reload carries over by identity (invariant I4). Connections belong to one
//! worker ([`client::Connections`]); an idle one that the worker does not need is left with the endpoint, where
//! the neighbours find it.

pub mod admission;
pub mod answer;
pub mod bounds;
pub mod budget;
pub mod client;
pub mod connect;
pub mod draft;
pub mod endpoint;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod gradient;
pub mod head;
pub mod health;
pub mod http1;
pub mod http2;
pub mod keep_alive;
pub mod latency;
pub mod mirror;
pub mod pace;
pub mod pick;
pub mod pool;
pub mod probe;
pub mod queue;
pub mod reach;
pub mod retry;
pub mod shelf;
#[cfg(test)]
mod simulation;
pub mod split;
pub mod sticky;
#[cfg(test)]
mod testkit;
mod tiers;
