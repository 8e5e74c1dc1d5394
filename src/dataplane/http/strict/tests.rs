//! The wrapper under the real codec: what a client sends, and what it and the exchanges get.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::yield_now;

use super::*;
use crate::dataplane::http::framing::tests::{cuts, nearly, split};

/// What the exchanges saw, a line each.
type Seen = Rc<RefCell<Vec<String>>>;

struct Server {
    pulse: Rc<Pulse>,
    seen: Seen,
    /// Whether the codec refused what it was given.
    is_doubted: Cell<bool>,
}

impl Server {
    fn new() -> Self {
        Self {
            pulse: Rc::default(),
            seen: Rc::default(),
            is_doubted: Cell::default(),
        }
    }

    /// Serves one connection to its end; the transport and what it held come back.
    async fn serve(&self, io: DuplexStream) -> (DuplexStream, Vec<u8>) {
        let strict = Strict::new(io, Limits::default(), Rc::clone(&self.pulse));
        let service = service_fn(|request| self.answer(request));
        let mut connection = http1::Builder::new()
            .max_headers(Limits::default().header_fields)
            .serve_connection(TokioIo::new(strict), service);
        let ended = (&mut connection).await;
        self.is_doubted
            .set(ended.is_err_and(|error| error.is_parse()));
        let parts = connection.into_parts();
        let (io, held) = parts.io.into_inner().into_inner();
        (io, [parts.read_buf.to_vec(), held].concat())
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        // The codec reads ahead meanwhile.
        yield_now().await;
        let (status, line) = if let Some(refusal) = self.pulse.take_refusal() {
            (refusal.fault.status(), refusal.fault.token().to_owned())
        } else {
            let path = request.uri().to_string();
            let status = match path.as_str() {
                "/upgrade" => StatusCode::SWITCHING_PROTOCOLS,
                _ => StatusCode::OK,
            };
            self.pulse.upgrade_decided(path == "/upgrade");
            match request.into_body().collect().await {
                Ok(body) => (status, format!("{path} {}", body.to_bytes().len())),
                Err(_) => {
                    let fault = self.pulse.body_fault.get().unwrap();
                    (fault.status(), fault.token().to_owned())
                }
            }
        };
        self.seen.borrow_mut().push(line.clone());
        let mut response = Response::builder().status(status);
        if status == StatusCode::SWITCHING_PROTOCOLS {
            response = response
                .header("connection", "upgrade")
                .header("upgrade", "x");
            return Ok(response.body(Full::default()).unwrap());
        }
        Ok(response.body(Full::from(line + "\n")).unwrap())
    }

    fn seen(&self) -> Vec<String> {
        self.seen.borrow().clone()
    }
}

/// Sends the pieces one by one, lets the server have its way, closes if asked to; what the client got.
async fn talk(server: &Server, pieces: &[&[u8]], close: bool) -> String {
    let (mut client, io) = duplex(64 * 1024);
    let send = async {
        for piece in pieces {
            if client.write_all(piece).await.is_err() {
                // The server has answered a refused head and closed.
                break;
            }
            for _ in 0..8 {
                yield_now().await;
            }
        }
        if close {
            client.shutdown().await.unwrap();
        }
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap();
        String::from_utf8(got).unwrap()
    };
    let serve = async {
        drop(server.serve(io).await);
    };
    tokio::join!(send, serve).0
}

const GOOD: &str = "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n\
    POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\
    POST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4;x\r\nabcd\r\n0\r\n\r\n\r\n";
const LAST: &str = "GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn pipelined_requests_pass_whatever_the_splits() {
    let stream = [GOOD, GOOD, LAST].concat();
    for size in [1, 2, 3, 7, 50, 64, 1000] {
        let server = Server::new();
        let pieces: Vec<_> = stream.as_bytes().chunks(size).collect();
        let got = talk(&server, &pieces, false).await;
        let expected = ["/1 0", "/2 3", "/3 4", "/1 0", "/2 3", "/3 4", "/last 0"];
        assert_eq!(server.seen(), expected, "pieces of {size}");
        assert_eq!(got.matches("HTTP/1.1 200 OK").count(), 7);
        assert_eq!(server.pulse.bytes_read.get(), stream.len() as u64);
        assert_eq!(server.pulse.bytes_written.get(), got.len() as u64);
        assert!(!server.pulse.head_cut.get());
    }
}

#[tokio::test]
async fn a_refused_head_is_answered_in_its_place() {
    for size in [1, 10, 10_000] {
        let server = Server::new();
        let stream = [
            GOOD,
            "GET /4 HTTP/1.1\r\nHost : a\r\n\r\nGET /5 HTTP/1.1\r\n\r\n",
        ]
        .concat();
        let pieces: Vec<_> = stream.as_bytes().chunks(size).collect();
        let got = talk(&server, &pieces, false).await;
        assert_eq!(server.seen(), ["/1 0", "/2 3", "/3 4", "request_malformed"]);
        let (_, last) = got.rsplit_once("HTTP/1.1 ").unwrap();
        assert!(
            last.starts_with("400 ") && last.contains("connection: close"),
            "{got}"
        );
    }
}

#[tokio::test]
async fn a_refused_head_is_answered_without_a_body_to_head() {
    let server = Server::new();
    let got = talk(&server, &[b"HEAD / HTTP/1.1\r\n\r\n"], false).await;
    assert_eq!(server.seen(), ["host_invalid"]);
    assert!(
        got.starts_with("HTTP/1.1 400 ") && got.ends_with("\r\n\r\n"),
        "{got}"
    );
}

#[tokio::test]
async fn large_heads_pass_and_too_large_ones_are_refused() {
    let head = |bytes: usize| {
        let cookie = "c".repeat(bytes);
        format!("GET /1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\nCookie: {cookie}\r\n\r\n")
    };
    for (bytes, seen) in [(32_000, "/1 0"), (33_000, "header_too_large")] {
        for size in [100, 5000, 100_000] {
            let server = Server::new();
            let head = head(bytes);
            let pieces: Vec<_> = head.as_bytes().chunks(size).collect();
            talk(&server, &pieces, false).await;
            assert_eq!(server.seen(), [seen], "{bytes} in pieces of {size}");
        }
    }
}

#[tokio::test]
async fn as_many_fields_pass_as_the_limit_says() {
    for (fields, seen) in [(126, "/1 0"), (127, "header_too_large")] {
        let server = Server::new();
        let fields = "X: y\r\n".repeat(fields);
        let head = format!("GET /1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n");
        talk(&server, &[head.as_bytes()], false).await;
        assert_eq!(server.seen(), [seen]);
    }
}

#[tokio::test]
async fn broken_chunks_end_the_body_with_a_fault() {
    let server = Server::new();
    let head = "POST /1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let pieces = [head.as_bytes(), b"3\r\nabc\r\n", b"3 \r\nabc\r\n0\r\n\r\n"];
    let got = talk(&server, &pieces, false).await;
    assert!(got.starts_with("HTTP/1.1 400 "), "{got}");
    assert_eq!(server.seen(), ["body_malformed"]);
}

#[tokio::test]
async fn a_head_that_does_not_come_is_refused_by_the_driver() {
    let server = Server::new();
    let (mut client, io) = duplex(1024);
    let driver = async {
        client.write_all(GOOD.as_bytes()).await.unwrap();
        client.write_all(b"\r\n").await.unwrap();
        while server.seen().len() < 3 {
            yield_now().await;
        }
        assert!(
            server.pulse.head_started.get().is_none(),
            "blank lines are no head"
        );
        client
            .write_all(b"GET /slow HTTP/1.1\r\nHost: a")
            .await
            .unwrap();
        while server.pulse.head_started.get().is_none() {
            yield_now().await;
        }
        server.pulse.refuse(Fault::HeaderTimeout);
        let mut got = String::new();
        client.read_to_string(&mut got).await.unwrap();
        got
    };
    let (got, _) = tokio::join!(driver, async { drop(server.serve(io).await) });
    assert_eq!(server.seen(), ["/1 0", "/2 3", "/3 4", "header_timeout"]);
    assert!(got.contains("HTTP/1.1 408 "), "{got}");
}

#[tokio::test]
async fn a_silent_client_can_be_answered() {
    let server = Server::new();
    let (mut client, io) = duplex(1024);
    let driver = async {
        for _ in 0..8 {
            yield_now().await;
        }
        assert_eq!(server.pulse.bytes_read.get(), 0);
        server.pulse.refuse(Fault::FirstByteTimeout);
        let mut got = String::new();
        client.read_to_string(&mut got).await.unwrap();
    };
    tokio::join!(driver, async { drop(server.serve(io).await) });
    assert_eq!(server.seen(), ["first_byte_timeout"]);
}

#[tokio::test]
async fn a_head_that_is_cut_is_noted() {
    for (bytes, is_cut) in [("GET / HT", true), ("\r\n", false), ("", false)] {
        let server = Server::new();
        let got = talk(&server, &[bytes.as_bytes()], true).await;
        assert_eq!(
            (got.as_str(), server.pulse.head_cut.get()),
            ("", is_cut),
            "{bytes:?}"
        );
        assert!(server.seen().is_empty());
    }
}

#[tokio::test]
async fn bytes_behind_a_granted_upgrade_are_the_tunnels() {
    let head = "GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    for size in [1, 20, 1000] {
        let server = Server::new();
        let (mut client, io) = duplex(1024);
        let stream = [GOOD, head, "\x01\x02 no HTTP\r\n"].concat();
        let drive = async {
            for piece in stream.as_bytes().chunks(size) {
                client.write_all(piece).await.unwrap();
                yield_now().await;
            }
        };
        let ((), (mut io, mut early)) = tokio::join!(drive, server.serve(io));
        drop(client);
        io.read_to_end(&mut early).await.unwrap();
        assert_eq!(early, b"\x01\x02 no HTTP\r\n", "pieces of {size}");
        assert_eq!(server.seen().last().unwrap(), "/upgrade 0");
    }
}

#[tokio::test]
async fn bytes_behind_a_refused_upgrade_are_the_next_request() {
    let head = "GET /no HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    for size in [1, 20, 1000] {
        let server = Server::new();
        let stream = [GOOD, head, head, LAST].concat();
        let pieces: Vec<_> = stream.as_bytes().chunks(size).collect();
        talk(&server, &pieces, false).await;
        let expected = ["/1 0", "/2 3", "/3 4", "/no 0", "/no 0", "/last 0"];
        assert_eq!(server.seen(), expected, "pieces of {size}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_during_an_undecided_upgrade_is_noticed() {
    let pulse = Rc::new(Pulse::default());
    let (mut client, io) = duplex(1024);
    let strict = Strict::new(io, Limits::default(), Rc::clone(&pulse));
    let service = service_fn(|_: Request<Incoming>| async {
        let never = std::future::pending::<()>();
        never.await;
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(strict), service);
    let head = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    client.write_all(head).await.unwrap();
    let leave = async {
        for _ in 0..8 {
            yield_now().await;
        }
        drop(client);
    };
    let (ended, ()) = tokio::join!(connection, leave);
    assert!(ended.is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_codec_never_refuses_what_passes(bytes in nearly(), cuts in cuts()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let server = Server::new();
        let got = runtime.block_on(talk(&server, &split(&bytes, &cuts), true));
        prop_assert!(!server.is_doubted.get(), "{got}");
        // Every answer is one of ours.
        let mine = got.matches("\r\n\r\n").count();
        prop_assert!(mine <= server.seen().len() + got.matches("100 Continue").count(), "{got}");
    }
}
