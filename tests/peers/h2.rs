//! A client of HTTP/2 that does about GOAWAY what browsers do: what runs on that connection ends there, and what comes
//! next goes over another. h2load opens no other, and counts what it had left to ask as failed.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, RecvStream};
use http::response::Parts;
use http::{Request, StatusCode};
use lockgate::base::clock;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::load::Load;
use super::process::PATIENCE;
use super::proxy::Proxy;

const CONNECTIONS: usize = 16;
const STREAMS: usize = 16;

/// Asks for so many seconds on 16 connections with 16 streams each, for each of `paths` in turn; any answer but 200 is
/// a failure. A request that was sent has to be answered, but for those that a GOAWAY without an error says were not looked
/// at, which are safe to send again (RFC 9113 §6.8): they cross it on the wire. Each path is asked for again in its turn.
pub(crate) fn browse(seconds: u64, proxy: &Proxy, paths: &'static [&'static str]) -> Load {
    let client = Rc::new(Client {
        address: proxy.web,
        tls: trusting(&proxy.file("ca.pem")),
        paths,
        end: clock::now() + Duration::from_secs(seconds),
        told: RefCell::default(),
    });
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let mut connections = JoinSet::new();
        for _ in 0..CONNECTIONS {
            connections.spawn_local(Rc::clone(&client).keep_asking());
        }
        while let Some(ended) = connections.join_next().await {
            ended.unwrap();
        }
    });
    let told = client.told.take();
    eprintln!(
        "HTTP/2 connections: {}; requests that crossed a GOAWAY: {}",
        told.connections, told.crossed
    );
    Load {
        requests: told.times.len() as u64,
        failures: told.failures,
        times: percentiles(told.times),
    }
}

/// What all connections share.
struct Client {
    address: SocketAddr,
    tls: TlsConnector,
    paths: &'static [&'static str],
    end: Instant,
    told: RefCell<Told>,
}

#[derive(Default)]
struct Told {
    connections: u64,
    /// Requests that a GOAWAY said were not looked at.
    crossed: u64,
    /// How long each answer took.
    times: Vec<Duration>,
    failures: Vec<String>,
}

type Failure = Box<dyn std::error::Error>;

impl Client {
    /// One connection after the other, each for as long as the server takes requests on it.
    async fn keep_asking(self: Rc<Self>) {
        while clock::now() < self.end {
            if let Err(failure) = self.converse().await {
                self.failed("a connection", &*failure);
                return;
            }
        }
    }

    async fn converse(self: &Rc<Self>) -> Result<(), Failure> {
        let stream = timeout(PATIENCE, TcpStream::connect(self.address)).await??;
        let name = ServerName::try_from("localhost")?;
        let stream = timeout(PATIENCE, self.tls.connect(name, stream)).await??;
        let (requests, connection) = timeout(PATIENCE, h2::client::handshake(stream)).await??;
        self.told.borrow_mut().connections += 1;
        let mut streams = JoinSet::new();
        for number in 0..STREAMS {
            streams.spawn_local(Rc::clone(self).ask(requests.clone(), number));
        }
        drop(requests);
        let mut driver = JoinSet::new();
        driver.spawn_local(connection);
        while let Some(ended) = streams.join_next().await {
            ended?;
        }
        // Nobody asks any more, so it ends.
        while let Some(ended) = timeout(PATIENCE, driver.join_next()).await? {
            ended??;
        }
        Ok(())
    }

    /// One request after the other, until the server says that it takes no more.
    async fn ask(self: Rc<Self>, mut requests: SendRequest<Bytes>, number: usize) {
        let paths = self.paths.iter().cycle().skip(number);
        for path in paths {
            let begun = clock::now();
            if begun > self.end {
                return;
            }
            let uri = format!("https://localhost:{}{path}", self.address.port());
            let request = Request::get(uri).body(()).unwrap();
            requests = match requests.ready().await {
                Ok(requests) => requests,
                Err(no_more) => return self.leaves("before a request", &no_more),
            };
            let answer = match requests.send_request(request, true) {
                Ok((answer, _)) => answer,
                Err(no_more) => return self.leaves("at a request", &no_more),
            };
            let parts = match timeout(PATIENCE, answer).await {
                Ok(Ok(answer)) => answer.into_parts(),
                Ok(Err(no_more)) if is_farewell(&no_more) => {
                    self.told.borrow_mut().crossed += 1;
                    return;
                }
                Ok(Err(failure)) => return self.failed(path, &failure),
                Err(late) => return self.failed(path, &late),
            };
            match timeout(PATIENCE, read(parts)).await {
                Ok(Ok(())) => self.told.borrow_mut().times.push(clock::now() - begun),
                Ok(Err(failure)) => return self.failed(path, &*failure),
                Err(late) => return self.failed(path, &late),
            }
        }
    }

    /// GOAWAY without an error is the one good reason to take no more requests.
    fn leaves(&self, when: &str, reason: &h2::Error) {
        if !is_farewell(reason) {
            self.failed(when, reason);
        }
    }

    fn failed(&self, what: &str, why: &dyn std::error::Error) {
        self.told
            .borrow_mut()
            .failures
            .push(format!("{what}: {why}"));
    }
}

fn is_farewell(error: &h2::Error) -> bool {
    error.is_go_away() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR)
}

/// Reads an answer, which has to be a good one.
async fn read((parts, mut body): (Parts, RecvStream)) -> Result<(), Failure> {
    let mut length = 0;
    while let Some(piece) = body.data().await {
        let piece = piece?;
        length += piece.len();
        body.flow_control().release_capacity(piece.len())?;
    }
    if parts.status != StatusCode::OK || length == 0 {
        return Err(format!("{} with {length} bytes", parts.status).into());
    }
    Ok(())
}

fn trusting(ca: &str) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(ca).unwrap())
        .unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsConnector::from(Arc::new(config))
}

/// Half of the answers, and 99 of 100, took no longer than this.
fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |percent: usize| times.get(times.len() * percent / 100);
    match (at(50), at(99)) {
        (Some(half), Some(most)) => format!("50% {half:.2?}, 99% {most:.2?}"),
        _ => String::new(),
    }
}
