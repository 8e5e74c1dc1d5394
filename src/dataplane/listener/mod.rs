//! Listeners: from a bound address to connections that are served.
//!
//! Each worker has its own socket of every listener and its own accept loop on it ([`accept`]). A listener that
//! leaves the config stops accepting at once and lets its connections drain.

pub mod accept;
pub mod connection;
pub mod socket;
