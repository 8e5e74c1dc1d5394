//! Wing one: the way of a request.
//!
//! A request goes through the rooms in a straight line: a listener accepts the connection, TLS is spoken, a codec
//! reads the head, the route is found, filters run, an endpoint is picked, both bodies stream, the record closes.
//! Nothing in here knows the config or the control plane: it reads a compiled snapshot and counts.

pub mod context;
pub mod filter;
pub mod http;
pub mod listener;
pub mod route;
pub mod snapshot;
pub mod tls;
pub mod upstream;
pub mod worker;
