//! What a connection holds on which nothing happens: heap bytes of a worker, with many of them against with few.
//!
//! The worker runs here, listener and all, over the loopback; clients and the origin run on a thread of their own,
//! since allocations are counted by thread. What C code asks the C library for is not counted: of TLS, the two
//! contexts of its keys.

use std::fs;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::{Notify, mpsc};
use tokio::task::{spawn_local, yield_now};
use tokio_rustls::TlsConnector;

use lockgate::base::drain::Drain;
use lockgate::config::error::Source;
use lockgate::controlplane::compile::Files;
use lockgate::dataplane::http::Engine;
use lockgate::dataplane::listener::accept::{self, Census};
use lockgate::dataplane::snapshot::{self, Snapshot};

use crate::configs;
use crate::rig::client::{Http1, Http2};
use crate::rig::origin;

/// Connections that are there before anything is counted, so that tables and what is shared have their size, and
/// those that are counted. Together they are no more than the tables have grown to take.
const WARM_UP: usize = 10;
const COUNTED: usize = 50;

const HOST: &str = "www.example.com";

/// What the connections are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// HTTP/1.1 in clear.
    Http1,
    /// HTTP/1.1 over TLS.
    HttpsHttp1,
    /// HTTP/2 over TLS.
    HttpsHttp2,
}

impl Kind {
    /// All of them, with their names in the budget.
    pub const ALL: [(&'static str, Self); 3] = [
        ("http1", Self::Http1),
        ("https_http1", Self::HttpsHttp1),
        ("https_http2", Self::HttpsHttp2),
    ];
}

/// Bytes that an idle connection holds after one exchange.
pub fn bytes_held(kind: Kind) -> f64 {
    let runtime = runtime();
    let folder = tempfile::tempdir().expect("there is a place for what is temporary");
    let origin = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has a port for us");
    let (snapshot, roots) = compiled(&folder, origin.local_addr().expect("it is bound"), kind);
    let (address, _accepting) = runtime.block_on(async { serve(snapshot).await });
    let (done, mut connected) = mpsc::channel(1);
    let (go, more) = mpsc::channel(1);
    let clients = Clients {
        address,
        kind,
        roots,
        more,
        done,
    };
    let thread = thread::spawn(move || clients.run(origin));
    let mut connect = |count| {
        go.blocking_send(count).expect("the clients wait for it");
        runtime.block_on(async {
            connected.recv().await.expect("the clients have connected");
            settle().await;
        });
    };
    connect(WARM_UP);
    let info = allocation_counter::measure(|| connect(COUNTED));
    drop(go);
    thread.join().expect("the clients are content");
    info.bytes_current as f64 / COUNTED as f64
}

/// Lets the worker end what its clients no longer wait for.
async fn settle() {
    for _ in 0..1_000 {
        yield_now().await;
    }
}

fn runtime() -> LocalRuntime {
    Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .expect("the system has an event loop for us")
}

/// The config as workers read it, and what its clients trust.
fn compiled(folder: &TempDir, origin: SocketAddr, kind: Kind) -> (Snapshot, RootCertStore) {
    let made = rcgen::generate_simple_self_signed([HOST.to_owned()]).expect("the name is good");
    let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let tls = match kind {
        Kind::Http1 => "",
        Kind::HttpsHttp1 | Kind::HttpsHttp2 => {
            ", tls: { certificates: [ { cert: cert.pem, key: key.pem } ] }"
        }
    };
    let text = format!(
        "listeners: [ {{ name: web, address: \"127.0.0.1:0\"{tls} }} ]\n\
         pools: {{ app: {{ endpoints: [ \"{origin}\" ] }} }}\n\
         routes: [ {{ pool: app }} ]\n\
         access_log: {{ path: access.log }}\n"
    );
    let file = folder.path().join("proxy.yaml");
    fs::write(&file, &text).expect("the folder is ours");
    let source = Source::new(file, &text);
    let named = |file: &str, text: String| (folder.path().join(file), Ok(text.into_bytes().into()));
    let files: Files = [named("cert.pem", cert), named("key.pem", key)].into();
    let snapshot = configs::compile(&configs::parse(&source), &source, &files);
    let mut roots = RootCertStore::empty();
    roots
        .add(made.cert.der().clone())
        .expect("it was just made");
    (snapshot, roots)
}

/// Starts the worker's listener; where it is, and what keeps it open.
async fn serve(snapshot: Snapshot) -> (SocketAddr, Drain) {
    let name = snapshot.listeners[0].name.clone();
    let (_, source) = snapshot::cell(snapshot);
    let engine = Rc::new(Engine::new(source.reader()));
    let census = Rc::new(Census::new(engine.snapshot().limits.handshakes));
    let socket = TcpListener::bind("127.0.0.1:0").await;
    let socket = socket.expect("loopback has a port for us");
    let address = socket.local_addr().expect("it is bound");
    let drain = Drain::default();
    let never = Rc::new(Notify::new());
    let accepting = accept::run(engine, census, name, socket, drain.clone(), never);
    spawn_local(accepting);
    (address, drain)
}

/// Clients and the origin, on a thread of their own.
struct Clients {
    address: SocketAddr,
    kind: Kind,
    roots: RootCertStore,
    /// How many more are to connect.
    more: mpsc::Receiver<usize>,
    /// Told when they have, and each has had its answer.
    done: mpsc::Sender<()>,
}

trait Transport: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Transport for T {}

type Boxed = Box<dyn Transport>;

#[expect(dead_code, reason = "kept open, and nothing else")]
enum Client {
    Http1(Http1<Boxed>),
    Http2(Http2<Boxed>),
}

impl Clients {
    fn run(mut self, origin: std::net::TcpListener) {
        runtime().block_on(async {
            origin.set_nonblocking(true).expect("it is a socket");
            let origin = TcpListener::from_std(origin).expect("it is a socket");
            spawn_local(async move {
                while let Ok((connection, _)) = origin.accept().await {
                    spawn_local(origin::answer(connection));
                }
            });
            let connector = self.connector();
            let mut clients = Vec::new();
            while let Some(count) = self.more.recv().await {
                for _ in 0..count {
                    clients.push(self.connect(&connector).await);
                }
                self.done.send(()).await.expect("the worker waits for it");
            }
        });
    }

    fn connector(&self) -> TlsConnector {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has them")
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        if self.kind == Kind::HttpsHttp2 {
            config.alpn_protocols = vec![b"h2".to_vec()];
        }
        // The same handshake each time.
        config.resumption = Resumption::disabled();
        TlsConnector::from(Arc::new(config))
    }

    async fn connect(&self, connector: &TlsConnector) -> Client {
        let stream = TcpStream::connect(self.address).await;
        let stream = stream.expect("the proxy listens");
        let transport: Boxed = match self.kind {
            Kind::Http1 => Box::new(stream),
            Kind::HttpsHttp1 | Kind::HttpsHttp2 => {
                let name = ServerName::try_from(HOST).expect("it is a name");
                let stream = connector.connect(name, stream).await;
                Box::new(stream.expect("the certificate is the proxy's"))
            }
        };
        match self.kind {
            Kind::Http1 | Kind::HttpsHttp1 => {
                let mut client = Http1::new(transport);
                client.exchange().await;
                Client::Http1(client)
            }
            Kind::HttpsHttp2 => {
                let mut client = Http2::new(transport).await;
                client.exchanges(1).await;
                Client::Http2(client)
            }
        }
    }
}
