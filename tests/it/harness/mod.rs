//! What the cases are told with: proxies that run in process, backends that follow a script, clients, certificates.
//!
//! A case is a script in [`play`]: it starts a [`proxy`] before a [`backend`], speaks to it as a [`client`], and asks
//! what each of them saw. Nothing here sleeps: what takes time is waited for under [`expect::PATIENCE`].

pub mod backend;
pub mod certs;
pub mod client;
pub mod config;
pub mod dns;
pub mod expect;
pub mod h2;
pub mod process;
pub mod proxy;
pub mod wire;

use std::sync::OnceLock;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};

/// The longest that a case may take.
const CASE_TIME: Duration = Duration::from_secs(20);

/// Plays one case, and fails it when it takes too long.
pub fn play(case: impl FnOnce() + Send + 'static) {
    let (done, ended) = sync_channel(1);
    let name = thread::current().name().unwrap_or("case").to_owned();
    let thread = thread::Builder::new().name(name).spawn(move || {
        case();
        // The other side is gone when the case took too long; it has failed then.
        let _ = done.send(());
    });
    let thread = thread.unwrap();
    match ended.recv_timeout(CASE_TIME) {
        Ok(()) => thread.join().unwrap(),
        Err(RecvTimeoutError::Disconnected) => {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
        Err(RecvTimeoutError::Timeout) => panic!("the case took more than {CASE_TIME:?}"),
    }
}

/// The event loop of HTTP/2 clients and backends: one thread beside the cases, so that cases may block.
pub fn event_loop() -> &'static Handle {
    static LOOP: OnceLock<Handle> = OnceLock::new();
    LOOP.get_or_init(|| {
        let (tell, told) = sync_channel(1);
        thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            tell.send(runtime.handle().clone()).unwrap();
            runtime.block_on(std::future::pending::<()>());
        });
        told.recv().unwrap()
    })
}
