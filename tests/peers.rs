//! Lockgate beside real servers and clients: nginx, HAProxy, Node, Python, gRPC, dnsmasq, curl, wrk, h2load,
//! openssl, a browser.
//!
//! Each test drives the real binary with a config in a folder of its own, on ports the system chose, and ends every
//! program it started. Plain `cargo test` leaves it out, since that needs nothing but Rust and a C compiler;
//! `.ci/run peers` installs what is needed. A program that is missing fails its test: nothing is skipped.
//!
//! `LOCKGATE_PEERS_LARGE=1` makes the file larger; `LOCKGATE_RELOAD_SECONDS` is how long the config is rewritten and the
//! binary upgraded under load; `LOCKGATE_PEERS_BINARY` names another binary to drive, such as the release build.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking, its helpers too, and tells its figures"
)]

#[path = "peers/compare.rs"]
mod compare;
#[path = "peers/curl.rs"]
mod curl;
#[path = "peers/demo.rs"]
mod demo;
#[path = "peers/dns.rs"]
mod dns;
#[path = "peers/grpc.rs"]
mod grpc;
#[path = "peers/h2.rs"]
mod h2;
#[path = "peers/large.rs"]
mod large;
#[path = "peers/load.rs"]
mod load;
#[path = "peers/openssl.rs"]
mod openssl;
#[path = "peers/origins.rs"]
mod origins;
#[path = "peers/process.rs"]
mod process;
#[path = "peers/proxy.rs"]
mod proxy;
#[path = "peers/reload.rs"]
mod reload;
#[path = "peers/servers.rs"]
mod servers;
#[path = "peers/suites.rs"]
mod suites;
