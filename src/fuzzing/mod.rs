//! What fuzzers call: a check for each kind of bytes that others send us, which panics where a promise of ours is broken.
//!
//! The one door for the package in `fuzz/`, whose targets call nothing else. It is there for tests and for cargo-fuzz alone
//! (which sets `cfg(fuzzing)`): the program has none of it, and no inner door has to be opened. Each room has what touches
//! its insides in a file `fuzzing.rs` of its own. `docs/internals/fuzzing.md` tells how to run them.

mod base;
mod config;
#[cfg(test)]
mod replay;

use std::rc::Rc;
use std::sync::Arc;

use crate::config::error::Source;
use crate::config::parse;
use crate::dataplane::http::Engine;
use crate::dataplane::snapshot::{self, ListenerPlan, Writer};

pub use self::base::{hosts, paths};
pub use self::config::configs;
pub use crate::controlplane::discovery::fuzzing::names;
pub use crate::controlplane::process::fuzzing::handovers;
pub use crate::dataplane::http::fuzzing::requests;
pub use crate::dataplane::http::http1::fuzzing::bodies;
pub use crate::dataplane::route::oracle::routes;
pub use crate::dataplane::tls::fuzzing::{pems, subjects, tickets};
pub use crate::dataplane::upstream::fuzzing::{cookies, verdicts};
pub use crate::dataplane::upstream::http1::fuzzing::answers;
pub use crate::telemetry::fuzzing::lines;

/// A check: it panics where what it is given breaks a promise.
pub type Check = fn(&[u8]);

/// The checks, by the names of their targets.
pub const TARGETS: [(&str, Check); 16] = [
    ("answers", answers),
    ("bodies", bodies),
    ("configs", configs),
    ("cookies", cookies),
    ("handovers", handovers),
    ("heads", heads),
    ("hosts", hosts),
    ("lines", lines),
    ("names", names),
    ("paths", paths),
    ("pems", pems),
    ("requests", requests),
    ("routes", routes),
    ("subjects", subjects),
    ("tickets", tickets),
    ("verdicts", verdicts),
];

/// The config that requests are held against; the first two peers of the check are trusted.
const CONFIG: &str = r#"
listeners: [{ address: "127.0.0.1:0", name: web }]
routes: [{ pool: app }]
pools: { app: { endpoints: ["127.0.0.1:1"] } }
trusted_proxies: ["192.0.2.0/24", "2001:db8::/32"]
"#;

/// One request: see [`crate::dataplane::http::fuzzing::heads`].
pub fn heads(bytes: &[u8]) {
    thread_local! {
        static WORLD: (Rc<Engine>, Arc<ListenerPlan>, Writer) = world();
    }
    WORLD.with(|(engine, plan, _)| crate::dataplane::http::fuzzing::heads(bytes, engine, plan));
}

fn world() -> (Rc<Engine>, Arc<ListenerPlan>, Writer) {
    let source = Source::new("proxy.yaml", CONFIG);
    let config = parse::parse(&source, &|_| None).expect("it is a config");
    let first = config::compile(&config, &source).expect("it compiles");
    let plan = Arc::clone(&first.listeners[0]);
    let (writer, source) = snapshot::cell(first);
    (Rc::new(Engine::new(source.reader())), plan, writer)
}
