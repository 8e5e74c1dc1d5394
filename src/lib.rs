//! Lockgate: an HTTPS reverse proxy and load balancer that reloads without a trace.
//!
//! The map, one room a line. ARCHITECTURE.md tells how a request and a reload go through them.

pub mod app;
pub mod base;
pub mod cli;
pub mod config;
pub mod controlplane;
pub mod dataplane;
pub mod demo;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod import;
pub mod telemetry;
