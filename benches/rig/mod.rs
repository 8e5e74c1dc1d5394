//! One worker in memory: the client's connection is a pair of buffers, the endpoint a unix socket, and everything
//! runs on one thread in one order, so that the same exchange costs the same each time.
//!
//! `counts.rs` counts the instructions of what passes through it, `budget.rs` the allocations. What client and
//! origin do is in both, and is little: they send what they were handed and look for the end of what comes. What
//! time would decide is kept out: the worker's clock ticks once and stands, the log hands over when it is full.

pub mod client;
pub mod origin;

use std::future::Future as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};

use tempfile::TempDir;
use tokio::io::DuplexStream;
use tokio::net::UnixListener;
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::task::spawn_local;

use lockgate::base::addr::ClientAddr;
use lockgate::base::clock;
use lockgate::base::drain::Drain;
use lockgate::dataplane::context::{Facts, Secure};
use lockgate::dataplane::http::{Downstream, Engine, serve};
use lockgate::dataplane::snapshot::{self, Snapshot};
use lockgate::telemetry::{Destination, Format, Settings, Sink};

use crate::configs;
use crate::rig::client::{Http1, Http2};

/// Bytes that either side of the client's connection may have under way.
const BUFFER: usize = 64 << 10;

/// Exchanges until every buffer, table and idle connection is there.
const WARM_UP: usize = 64;

/// How often something is done while it is counted.
pub const TURNS: usize = 1_000;

/// What the client speaks.
#[derive(Clone, Copy, Debug)]
pub enum Spoken {
    /// HTTP/1.1, one exchange after another.
    Http1,
    /// HTTP/2, so many streams at a time.
    Http2(usize),
}

/// A worker, a client and an origin, warmed up.
pub struct Rig {
    client: Client,
    runtime: LocalRuntime,
    /// The origin's socket and the access log.
    _folder: TempDir,
}

enum Client {
    Http1(Http1),
    Http2(Http2, usize),
}

impl Rig {
    /// Starts all three.
    pub fn start(spoken: Spoken) -> Self {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build_local(LocalOptions::default())
            .expect("the system has an event loop for us");
        // The path of the socket is in the log: a name of one length, whatever the system calls the folder.
        let folder = tempfile::Builder::new().prefix("rig").tempdir_in("/tmp");
        let folder = folder.expect("there is a place for what is temporary");
        let client = runtime.block_on(connect(&folder, spoken));
        let mut rig = Self {
            client,
            runtime,
            _folder: folder,
        };
        rig.exchanges(WARM_UP);
        rig
    }

    /// Has so many exchanges, one after another; over HTTP/2 as many at a time as the rig was started for.
    pub fn exchanges(&mut self, count: usize) {
        self.runtime.block_on(async {
            match &mut self.client {
                Client::Http1(client) => {
                    for _ in 0..count {
                        client.exchange().await;
                    }
                }
                Client::Http2(client, streams) => {
                    for _ in 0..count / *streams {
                        client.exchanges(*streams).await;
                    }
                }
            }
        });
    }
}

/// Sets up the worker and the origin, and connects a client.
async fn connect(folder: &TempDir, spoken: Spoken) -> Client {
    let socket = folder.path().join("origin");
    let listener = UnixListener::bind(&socket).expect("the folder is ours and empty");
    spawn_local(origin::run(listener));
    let config = format!(
        "listeners: [ {{ address: \"127.0.0.1:8080\" }} ]\n\
         pools: {{ app: {{ endpoints: [ \"unix:{}\" ] }} }}\n\
         routes: [ {{ pool: app }} ]\n",
        socket.display()
    );
    let log = Sink::open(Settings {
        format: Format::Json,
        destination: Destination::File(folder.path().join("access.log")),
    });
    let snapshot = Snapshot {
        access_log: Some(log.expect("the folder is ours")),
        ..configs::compiled(&config)
    };
    let (_, source) = snapshot::cell(snapshot);
    let engine = Rc::new(Engine::new(source.reader()));
    let (near, far) = tokio::io::duplex(BUFFER);
    serve(&engine, far, spoken);
    let client = match spoken {
        Spoken::Http1 => {
            let mut client = Http1::new(near);
            client.exchange().await;
            Client::Http1(client)
        }
        Spoken::Http2(streams) => {
            let mut client = Http2::new(near).await;
            client.exchanges(1).await;
            Client::Http2(client, streams)
        }
    };
    tick_once(&engine);
    client
}

/// Serves a connection as one that came over TLS.
fn serve(engine: &Rc<Engine>, transport: DuplexStream, spoken: Spoken) {
    let engine = Rc::clone(engine);
    let client = ClientAddr(SocketAddr::from((Ipv4Addr::new(192, 0, 2, 7), 40_000)));
    let secure = Secure {
        version: "TLSv1.3",
        server_name: Some("www.example.com".into()),
        client_subject: None,
    };
    let facts = Facts::new(client, Some(secure));
    let plan = Arc::clone(&engine.snapshot().listeners[0]);
    let guest = Drain::default().guest();
    let born = clock::now();
    match spoken {
        Spoken::Http1 => {
            let downstream = Downstream::new(facts, plan, guest, born);
            spawn_local(serve::http1(engine, Rc::new(downstream), transport));
        }
        Spoken::Http2(_) => {
            let downstream = Downstream::new(facts, plan, guest, born);
            spawn_local(serve::http2(engine, Rc::new(downstream), transport));
        }
    }
}

/// The coarse clock goes, as on every worker, but only this once: how often it ticked would depend on how slow
/// the machine is.
fn tick_once(engine: &Engine) {
    let mut ticking = pin!(engine.deadlines.run());
    let mut context = Context::from_waker(Waker::noop());
    assert!(ticking.as_mut().poll(&mut context).is_pending());
}
