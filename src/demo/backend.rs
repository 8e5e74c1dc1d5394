//! Small web backends: what the demo and the recipes put behind the proxy.
//!
//! The app starts them for `lockgate demo`, `examples/backend.rs` starts one alone. They speak HTTP/1.1 in clear
//! on a thread of their own, one runtime for all of them, and end when [`Backends`] is dropped. What a request
//! may cost is bounded: connections, the time asked of `/slow`, the bytes asked of `/bytes`.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header, request};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::sync::{Semaphore, oneshot};

use super::payload::Payload;
use super::{page, websocket};

/// Connections at a time, a backend.
const CONNECTION_LIMIT: usize = 4096;
/// Longer than a proxy keeps a connection idle, so that the proxy is the one who closes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// After a failed accept: out of descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// The most that `/slow` waits.
const SLOW_LIMIT: Duration = Duration::from_secs(60);
/// The most that `/bytes` sends.
const BYTES_LIMIT: u64 = 4 << 30;

/// Backends that run; dropping it stops them.
#[derive(Debug)]
pub struct Backends {
    addresses: Vec<SocketAddr>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// One backend, as its pages show it.
#[derive(Debug)]
pub(super) struct Backend {
    pub(super) name: String,
    /// The config that the page tells to edit, if it stands behind one.
    pub(super) config: Option<String>,
}

impl Backends {
    /// Starts a backend for each name and address; they answer once this returns.
    ///
    /// # Errors
    /// When an address cannot be listened at: the text names it, and says what to do.
    pub fn start(backends: &[(&str, SocketAddr)], config: Option<&Path>) -> io::Result<Self> {
        let mut addresses = Vec::new();
        let mut listeners = Vec::new();
        for (name, address) in backends {
            let listener = bind(name, *address)?;
            addresses.push(listener.local_addr()?);
            let backend = Backend {
                name: (*name).to_owned(),
                config: config.map(|path| path.display().to_string()),
            };
            listeners.push((listener, backend));
        }
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread;
        let thread = std::thread::Builder::new()
            .name("demo backends".to_owned())
            .spawn(move || {
                let built = runtime().enable_all().build_local(Default::default());
                match built {
                    Ok(runtime) => runtime.block_on(run(listeners, stopped)),
                    Err(error) => tracing::error!(%error, "the demo's backends cannot start"),
                }
            })?;
        Ok(Self {
            addresses,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Where they listen, in the order given.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Waits until the backends end, which they do not by themselves.
    pub fn join(mut self) {
        self.wait();
    }

    fn wait(&mut self) {
        if let Some(thread) = self.thread.take() {
            // An error says that the thread panicked; the panic has spoken for itself.
            let _ = thread.join();
        }
    }
}

impl Drop for Backends {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // An error says that the thread has ended already.
            let _ = stop.send(());
        }
        self.wait();
    }
}

fn bind(name: &str, address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address).map_err(|error| {
        let port = address.port();
        let remedy = match error.kind() {
            io::ErrorKind::AddrInUse => format!(
                "port {port} is taken: end the program that listens there \
                 (`ss -ltnp 'sport = :{port}'` names it), then start again"
            ),
            _ => error.to_string(),
        };
        let text = format!("backend `{name}` cannot listen at {address}: {remedy}");
        io::Error::new(error.kind(), text)
    })?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves until told to stop. The runtime owns the tasks: what still runs ends with it.
async fn run(listeners: Vec<(TcpListener, Backend)>, stopped: oneshot::Receiver<()>) {
    for (listener, backend) in listeners {
        match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => drop(tokio::task::spawn_local(accept(listener, Rc::new(backend)))),
            Err(error) => tracing::error!(%error, "a demo backend cannot start"),
        }
    }
    // An error says that the owner is gone, which means the same.
    let _ = stopped.await;
}

async fn accept(listener: tokio::net::TcpListener, backend: Rc<Backend>) {
    let slots = Arc::new(Semaphore::new(CONNECTION_LIMIT));
    while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // Without it, small answers wait for the client's acknowledgement; nothing else is lost.
        let _ = stream.set_nodelay(true);
        let backend = Rc::clone(&backend);
        tokio::task::spawn_local(async move {
            let service = service_fn(|request| answer(Rc::clone(&backend), request));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(IDLE_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to a demo backend broke");
            }
            drop(slot);
        });
    }
}

async fn answer(
    backend: Rc<Backend>,
    request: Request<Incoming>,
) -> Result<Response<Payload>, Infallible> {
    let path = request.uri().path().to_owned();
    let mut response = match path.as_str() {
        "/" => page(&backend, &request.into_parts().0),
        "/whoami" => json(&whoami(&backend, &request.into_parts().0)),
        "/events" => events(&backend),
        "/echo" => echo(&backend, request),
        "/slow" => slow(&backend, &request).await,
        "/upload" => upload(&backend, request).await,
        other => match other.strip_prefix("/bytes/").map(str::parse) {
            Some(Ok(count @ 0..=BYTES_LIMIT)) => {
                typed("application/octet-stream", Payload::Filler(count))
            }
            Some(_) => refusal(StatusCode::BAD_REQUEST, "/bytes/N: N is 0 to 4294967296"),
            None => refusal(StatusCode::NOT_FOUND, ENDPOINTS),
        },
    };
    let headers = response.headers_mut();
    if let Ok(name) = HeaderValue::from_str(&backend.name) {
        headers.insert("x-backend", name);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

const ENDPOINTS: &str = "Here are: / /whoami /events /echo /slow?ms=N /bytes/N /upload";

fn page(backend: &Backend, request: &request::Parts) -> Response<Payload> {
    let mut response = typed(
        "text/html; charset=utf-8",
        Payload::Full(page::render(backend, request).into()),
    );
    response.headers_mut().insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(page::CONTENT_SECURITY_POLICY),
    );
    response
}

fn whoami(backend: &Backend, request: &request::Parts) -> serde_json::Value {
    let headers: Vec<_> = request
        .headers
        .iter()
        .map(|(name, value)| [name.as_str().to_owned(), page::text(value.as_bytes())])
        .collect();
    json!({
        "backend": backend.name,
        "hue": page::hue(&backend.name),
        "request": page::request_line(request),
        "headers": headers,
    })
}

fn events(backend: &Backend) -> Response<Payload> {
    typed("text/event-stream", Payload::ticks(&backend.name))
}

async fn slow(backend: &Backend, request: &Request<Incoming>) -> Response<Payload> {
    let query = request.uri().query().unwrap_or_default();
    let asked = query.split('&').find_map(|pair| pair.strip_prefix("ms="));
    let wait = match asked.unwrap_or("1000").parse().map(Duration::from_millis) {
        Ok(wait) if wait <= SLOW_LIMIT => wait,
        Ok(_) | Err(_) => {
            return refusal(StatusCode::BAD_REQUEST, "/slow?ms=N: N is 0 to 60000");
        }
    };
    tokio::time::sleep(wait).await;
    let waited = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    json(&json!({ "backend": backend.name, "waited_ms": waited }))
}

async fn upload(backend: &Backend, request: Request<Incoming>) -> Response<Payload> {
    if !matches!(*request.method(), Method::POST | Method::PUT) {
        let mut response = refusal(StatusCode::METHOD_NOT_ALLOWED, "/upload takes POST and PUT");
        let allowed = HeaderValue::from_static("POST, PUT");
        response.headers_mut().insert(header::ALLOW, allowed);
        return response;
    }
    let mut body = request.into_body();
    let mut count = 0;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => count += frame.data_ref().map_or(0, Bytes::len),
            Err(_) => return refusal(StatusCode::BAD_REQUEST, "the body broke off"),
        }
    }
    json(&json!({ "backend": backend.name, "bytes": count }))
}

/// Opens the WebSocket (RFC 6455 §4.2); with the query `hello` it says the backend's name first.
fn echo(backend: &Rc<Backend>, mut request: Request<Incoming>) -> Response<Payload> {
    let headers = request.headers();
    let key = headers.get(header::SEC_WEBSOCKET_KEY);
    let version = headers.get(header::SEC_WEBSOCKET_VERSION);
    let accepted = key
        .filter(|key| key.len() == 24 && *request.method() == Method::GET)
        .filter(|_| version.is_some_and(|version| version == "13"))
        .filter(|_| names(headers, &header::UPGRADE, "websocket"))
        .filter(|_| names(headers, &header::CONNECTION, "upgrade"))
        .and_then(|key| key.to_str().ok())
        .and_then(|key| HeaderValue::try_from(websocket::accept_key(key)).ok());
    let websocket = HeaderValue::from_static("websocket");
    let upgrade = HeaderValue::from_static("upgrade");
    let Some(accepted) = accepted else {
        let mut response = refusal(StatusCode::UPGRADE_REQUIRED, "/echo is a WebSocket");
        let headers = response.headers_mut();
        headers.insert(header::UPGRADE, websocket);
        headers.insert(header::CONNECTION, upgrade);
        headers.insert(
            header::SEC_WEBSOCKET_VERSION,
            HeaderValue::from_static("13"),
        );
        return response;
    };
    let hello = request.uri().query() == Some("hello");
    let backend = Rc::clone(backend);
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::task::spawn_local(async move {
        let hello = hello.then_some(backend.name.as_str());
        let ended = match upgraded.await {
            Ok(upgraded) => websocket::serve(TokioIo::new(upgraded), hello).await,
            Err(error) => Err(io::Error::other(error)),
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a WebSocket of a demo backend broke");
        }
    });
    let mut response = Response::new(Payload::Full(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, websocket);
    headers.insert(header::CONNECTION, upgrade);
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accepted);
    response
}

/// Whether a field that is a list of words has this one.
fn names(headers: &HeaderMap, field: &header::HeaderName, word: &str) -> bool {
    let values = headers.get_all(field).into_iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|part| part.trim().eq_ignore_ascii_case(word))
}

fn json(value: &serde_json::Value) -> Response<Payload> {
    let text = format!("{value}\n");
    typed("application/json", Payload::Full(text.into()))
}

fn refusal(status: StatusCode, text: &str) -> Response<Payload> {
    let text = format!("{text}\n");
    let mut response = typed("text/plain; charset=utf-8", Payload::Full(text.into()));
    *response.status_mut() = status;
    response
}

fn typed(content_type: &'static str, payload: Payload) -> Response<Payload> {
    let mut response = Response::new(payload);
    let content_type = HeaderValue::from_static(content_type);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    response
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{Shutdown, TcpStream};

    use super::*;

    const ANY: SocketAddr = super::super::local(0);

    fn connect(backends: &Backends, bytes: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(backends.addresses()[0]).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream.write_all(bytes).unwrap();
        stream
    }

    /// Sends a request, with `Connection: close`, and returns all of the answer.
    fn check(head: &str, body: &str) -> String {
        let config = Path::new("/etc/<lockgate>/proxy.yaml");
        let backends = Backends::start(&[("one", ANY)], Some(config)).unwrap();
        let request = format!("{head}\r\nHost: here\r\nConnection: close\r\n\r\n{body}");
        let mut answer = String::new();
        connect(&backends, request.as_bytes())
            .read_to_string(&mut answer)
            .unwrap();
        answer
    }

    /// Reads until the answer has `end`.
    fn read_to(stream: &mut TcpStream, end: &str) -> String {
        let mut read = Vec::new();
        while !String::from_utf8_lossy(&read).contains(end) {
            let mut chunk = [0; 1024];
            let count = stream.read(&mut chunk).unwrap();
            assert_ne!(count, 0, "{}", String::from_utf8_lossy(&read));
            read.extend_from_slice(&chunk[..count]);
        }
        String::from_utf8_lossy(&read).into_owned()
    }

    #[test]
    fn each_backend_says_its_name() {
        let backends = Backends::start(&[("one", ANY), ("two", ANY)], None).unwrap();
        for (address, name) in backends.addresses().iter().zip(["one", "two"]) {
            let mut stream = TcpStream::connect(address).unwrap();
            stream
                .write_all(b"GET /whoami HTTP/1.1\r\nHost: here\r\n\r\n")
                .unwrap();
            let answer = read_to(&mut stream, "}");
            assert!(answer.contains(&format!("x-backend: {name}")), "{answer}");
            assert!(
                answer.contains(&format!("\"backend\":\"{name}\"")),
                "{answer}"
            );
        }
    }

    #[test]
    fn whoami_shows_the_request_as_it_came() {
        let answer = check("GET /whoami?a=1 HTTP/1.1\r\nX-Some: \"thing\"", "");
        assert!(answer.contains(r#"["x-some","\"thing\""]"#), "{answer}");
        assert!(
            answer.contains(r#""request":"GET /whoami?a=1 HTTP/1.1""#),
            "{answer}"
        );
    }

    #[test]
    fn the_page_escapes_what_the_request_carries() {
        let answer = check("GET / HTTP/1.1\r\nX-Some: <script>{{name}}&\"'", "");
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        assert!(!answer.contains("<script>{{name}}"));
        assert!(answer.contains("&lt;script&gt;{{name}}&amp;&quot;&#39;"));
        assert!(answer.contains("/etc/&lt;lockgate&gt;/proxy.yaml"));
        assert!(answer.contains("content-security-policy: default-src 'none'"));
    }

    #[test]
    fn bytes_are_as_many_as_asked_for() {
        let answer = check("GET /bytes/100000 HTTP/1.1", "");
        assert!(answer.contains("content-length: 100000\r\n"));
        assert_eq!(answer.split_once("\r\n\r\n").unwrap().1.len(), 100_000);
        assert!(check("GET /bytes/4294967297 HTTP/1.1", "").starts_with("HTTP/1.1 400"));
        assert!(check("GET /bytes/x HTTP/1.1", "").starts_with("HTTP/1.1 400"));
    }

    #[test]
    fn an_upload_is_counted() {
        let answer = check("POST /upload HTTP/1.1\r\nContent-Length: 5", "hello");
        assert!(answer.contains("\"bytes\":5"), "{answer}");
        assert!(check("GET /upload HTTP/1.1", "").contains("allow: POST, PUT"));
    }

    #[test]
    fn slow_waits_within_its_limit() {
        assert!(check("GET /slow?ms=1 HTTP/1.1", "").contains("\"waited_ms\":1"));
        assert!(check("GET /slow?ms=60001 HTTP/1.1", "").starts_with("HTTP/1.1 400"));
        assert!(check("GET /slow?ms=-1 HTTP/1.1", "").starts_with("HTTP/1.1 400"));
    }

    #[test]
    fn what_is_not_there_is_told_with_what_is() {
        let answer = check("GET /nowhere HTTP/1.1", "");
        assert!(
            answer.starts_with("HTTP/1.1 404") && answer.contains("/whoami"),
            "{answer}"
        );
    }

    #[test]
    fn events_come_one_by_one() {
        let backends = Backends::start(&[("one", ANY)], None).unwrap();
        let request = b"GET /events HTTP/1.1\r\nHost: here\r\n\r\n";
        let answer = read_to(&mut connect(&backends, request), "\"count\":2}");
        assert!(
            answer.contains("content-type: text/event-stream"),
            "{answer}"
        );
        assert!(answer.contains("id: 1\ndata: {\"backend\":\"one\",\"count\":1}\n\n"));
    }

    #[test]
    fn a_websocket_echoes_over_raw_bytes() {
        let backends = Backends::start(&[("one", ANY)], None).unwrap();
        let head = "GET /echo?hello HTTP/1.1\r\nHost: here\r\nUpgrade: WebSocket\r\n\
            Connection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        let mut stream = connect(&backends, head.as_bytes());
        let answer = read_to(&mut stream, "\u{fffd}\u{3}one");
        assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
        assert!(answer.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        // A mask of zeros leaves the text readable.
        stream
            .write_all(b"\x81\x85\0\0\0\0hello\x88\x82\0\0\0\0\x03\xe8")
            .unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"\x81\x05hello\x88\x02\x03\xe8");
    }

    #[test]
    fn a_websocket_that_is_none_is_refused() {
        let answer = check("GET /echo HTTP/1.1", "");
        assert!(answer.starts_with("HTTP/1.1 426"), "{answer}");
        assert!(answer.contains("sec-websocket-version: 13"), "{answer}");
    }

    #[test]
    fn dropping_them_ends_them_with_what_they_serve() {
        let backends = Backends::start(&[("one", ANY)], None).unwrap();
        let address = backends.addresses()[0];
        let mut stream = connect(&backends, b"GET /events HTTP/1.1\r\nHost: here\r\n\r\n");
        read_to(&mut stream, "\"count\":1}");
        drop(backends);
        assert!(TcpStream::connect(address).is_err());
        let mut rest = Vec::new();
        // Either way of ending will do: a close in the middle of the body, or a reset.
        let _ = stream.read_to_end(&mut rest);
        let _ = stream.shutdown(Shutdown::Both);
    }

    #[test]
    fn a_port_that_is_taken_is_named_with_the_remedy() {
        let taken = TcpListener::bind(ANY).unwrap();
        let address = taken.local_addr().unwrap();
        let error = Backends::start(&[("one", address)], None).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        let text = error.to_string();
        assert!(
            text.contains("backend `one`") && text.contains("ss -ltnp"),
            "{text}"
        );
        assert!(
            text.contains(&format!("port {} is taken", address.port())),
            "{text}"
        );
    }
}
