//! Whole connections: what a client sends, and what it and the exchanges get.

use std::cell::Cell;
use std::future::poll_fn;

use http::{HeaderMap, HeaderValue};
use http_body_util::{BodyExt, Full};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::yield_now;

use super::*;
use crate::dataplane::http::framing::tests::{cuts, nearly, split};
use crate::dataplane::upstream::head::{AnswerHead, Fields};

type Answering<'a> = Pin<Box<dyn Future<Output = Reply<Full<Bytes>>> + 'a>>;

/// What the exchanges saw, a line each.
type Seen = RefCell<Vec<String>>;

#[derive(Default)]
struct Server {
    seen: Seen,
    /// How often an exchange was dropped before its answer.
    left: Cell<usize>,
    /// How many exchanges run, and how many of them did at once.
    running: Cell<(usize, usize)>,
    head_cut: Cell<bool>,
}

struct Running<'a> {
    server: &'a Server,
    is_over: bool,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let (running, most) = self.server.running.get();
        self.server.running.set((running - 1, most));
        if !self.is_over {
            self.server.left.set(self.server.left.get() + 1);
        }
    }
}

impl Server {
    fn connection<'a>(
        &'a self,
        io: DuplexStream,
    ) -> Connection<DuplexStream, impl FnMut(Inbound) -> Answering<'a>, Answering<'a>, Full<Bytes>>
    {
        let limits = Limits::default();
        Connection::new(io, limits, Rc::default(), |inbound| {
            Box::pin(self.answer(inbound)) as Answering<'a>
        })
    }

    /// Serves one connection to its end; the transport comes back.
    async fn serve(&self, io: DuplexStream) -> (Ended, DuplexStream) {
        let mut connection = self.connection(io);
        let ended = poll_fn(|cx| connection.poll(cx)).await;
        self.head_cut.set(matches!(ended, Ended::HeadCut));
        (ended, connection.into_io())
    }

    async fn answer(&self, mut inbound: Inbound) -> Reply<Full<Bytes>> {
        let (running, most) = self.running.get();
        self.running.set((running + 1, most.max(running + 1)));
        let mut running = Running {
            server: self,
            is_over: false,
        };
        // The client may send ahead meanwhile.
        yield_now().await;
        let path = inbound.parts.uri.to_string();
        let (status, line) = match inbound.take_refusal() {
            Some(refusal) => (refusal.fault.status(), refusal.fault.token().to_owned()),
            None if path == "/never" => std::future::pending().await,
            None if path == "/early" => (StatusCode::OK, path),
            None => match inbound.body.collect().await {
                Ok(body) => {
                    let status = match path.as_str() {
                        "/upgrade" => StatusCode::SWITCHING_PROTOCOLS,
                        _ => StatusCode::OK,
                    };
                    let trailers = body.trailers().map_or(0, HeaderMap::len);
                    let body = body.to_bytes().len() + trailers * 1000;
                    (status, format!("{path} {body}"))
                }
                Err(error) => (error.0.status(), error.0.token().to_owned()),
            },
        };
        self.seen.borrow_mut().push(line.clone());
        running.is_over = true;
        let mut fields = HeaderMap::new();
        let mut body = Full::from(line + "\n");
        if status == StatusCode::SWITCHING_PROTOCOLS {
            fields.insert("connection", HeaderValue::from_static("upgrade"));
            fields.insert("upgrade", HeaderValue::from_static("x"));
            body = Full::default();
        }
        Reply {
            head: AnswerHead::new(status, Fields::Map(fields)),
            body,
            is_malformed: false,
        }
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
    POST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4;x\r\nabcd\r\n0\r\nt: u\r\n\r\n\r\n";
const SEEN: [&str; 3] = ["/1 0", "/2 3", "/3 1004"];
const LAST: &str = "GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

fn seen_with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    SEEN.iter().chain(more).copied().collect()
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order_whatever_the_splits() {
    let stream = [GOOD, GOOD, LAST].concat();
    for size in [1, 2, 3, 7, 50, 64, 1000] {
        let server = Server::default();
        let pieces: Vec<_> = stream.as_bytes().chunks(size).collect();
        let got = talk(&server, &pieces, false).await;
        let expected = [&SEEN[..], &SEEN, &["/last 0"]].concat();
        assert_eq!(server.seen(), expected, "pieces of {size}");
        assert_eq!(got.matches("HTTP/1.1 200 OK").count(), 7);
        assert_eq!(got.matches("connection: close").count(), 1);
        assert_eq!((server.running.get(), server.left.get()), ((0, 1), 0));
        assert!(!server.head_cut.get());
    }
}

#[tokio::test]
async fn a_refused_head_is_answered_in_its_place() {
    for size in [1, 10, 10_000] {
        let server = Server::default();
        let bad = "GET /4 HTTP/1.1\r\nHost : a\r\n\r\nGET /5 HTTP/1.1\r\n\r\n";
        let stream = [GOOD, bad].concat();
        let pieces: Vec<_> = stream.as_bytes().chunks(size).collect();
        let got = talk(&server, &pieces, false).await;
        assert_eq!(server.seen(), seen_with(&["request_malformed"]));
        let (_, last) = got.rsplit_once("HTTP/1.1 ").unwrap();
        assert!(
            last.starts_with("400 ") && last.contains("connection: close"),
            "{got}"
        );
    }
}

#[tokio::test]
async fn a_refused_head_is_answered_without_a_body_to_head() {
    let server = Server::default();
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
            let server = Server::default();
            let head = head(bytes);
            let pieces: Vec<_> = head.as_bytes().chunks(size).collect();
            talk(&server, &pieces, false).await;
            assert_eq!(server.seen(), [seen], "{bytes} in pieces of {size}");
        }
    }
}

#[tokio::test]
async fn broken_chunks_end_the_body_with_a_fault() {
    let server = Server::default();
    let head = "POST /1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let pieces = [head.as_bytes(), b"3\r\nabc\r\n", b"3 \r\nabc\r\n0\r\n\r\n"];
    let got = talk(&server, &pieces, false).await;
    assert!(got.starts_with("HTTP/1.1 400 "), "{got}");
    assert!(got.contains("connection: close"), "{got}");
    assert_eq!(server.seen(), ["body_malformed"]);
}

#[tokio::test]
async fn a_body_that_is_cut_ends_with_a_fault() {
    for head in [
        "Content-Length: 9\r\n\r\nabc",
        "Transfer-Encoding: chunked\r\n\r\n9\r\nabc",
    ] {
        let server = Server::default();
        let head = format!("POST /1 HTTP/1.1\r\nHost: a\r\n{head}");
        let got = talk(&server, &[head.as_bytes()], true).await;
        assert_eq!(server.seen(), ["client_gone"]);
        assert!(got.contains("connection: close"), "{got}");
    }
}

#[tokio::test]
async fn a_head_that_does_not_come_is_given_up() {
    let server = Server::default();
    let (mut client, io) = duplex(1024);
    let mut connection = server.connection(io);
    client.write_all(GOOD.as_bytes()).await.unwrap();
    client.write_all(b"\r\n").await.unwrap();
    let turn = async |connection: &mut Connection<_, _, _, _>| {
        for _ in 0..16 {
            let polled = poll_fn(|cx| Poll::Ready(connection.poll(cx))).await;
            if polled.is_ready() {
                return true;
            }
            yield_now().await;
        }
        false
    };
    assert!(!turn(&mut connection).await);
    assert_eq!(server.seen(), SEEN);
    assert!(
        connection.vitals().head_started.is_none(),
        "blank lines are no head"
    );
    connection.give_up(Fault::HeaderTimeout);
    client
        .write_all(b"GET /slow HTTP/1.1\r\nHost: a")
        .await
        .unwrap();
    assert!(!turn(&mut connection).await);
    assert!(connection.vitals().head_started.is_some());
    connection.give_up(Fault::HeaderTimeout);
    assert!(turn(&mut connection).await);
    assert_eq!(server.seen(), seen_with(&["header_timeout"]));
    drop(connection);
    let mut got = String::new();
    client.read_to_string(&mut got).await.unwrap();
    assert!(got.contains("HTTP/1.1 408 "), "{got}");
}

#[tokio::test]
async fn a_head_that_is_cut_is_told() {
    for (bytes, is_cut) in [("GET / HT", true), ("\r\n", false), ("", false)] {
        let server = Server::default();
        let got = talk(&server, &[bytes.as_bytes()], true).await;
        assert_eq!(
            (got.as_str(), server.head_cut.get()),
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
        let server = Server::default();
        let (mut client, io) = duplex(4096);
        let stream = [GOOD, head, "\x01\x02 no HTTP\r\n"].concat();
        let drive = async {
            for piece in stream.as_bytes().chunks(size) {
                client.write_all(piece).await.unwrap();
                yield_now().await;
            }
        };
        let ((), (ended, mut io)) = tokio::join!(drive, server.serve(io));
        let Ended::Tunnel(early) = ended else {
            panic!("{ended:?}");
        };
        drop(client);
        let mut early = early.to_vec();
        io.read_to_end(&mut early).await.unwrap();
        assert_eq!(early, b"\x01\x02 no HTTP\r\n", "pieces of {size}");
        assert_eq!(server.seen().last().unwrap(), "/upgrade 0");
    }
}

#[tokio::test]
async fn bytes_behind_an_upgrade_that_is_not_granted_are_the_next_request() {
    let head = "GET /no HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    for size in [1, 20, 1000] {
        let server = Server::default();
        let stream = [GOOD, head, head, LAST].concat();
        let pieces: Vec<_> = stream.as_bytes().chunks(size).collect();
        talk(&server, &pieces, false).await;
        let expected = seen_with(&["/no 0", "/no 0", "/last 0"]);
        assert_eq!(server.seen(), expected, "pieces of {size}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_exchange_along() {
    for (ahead, is_left) in [("", true), ("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n", false)] {
        let server = Server::default();
        let (mut client, io) = duplex(1024);
        let stream = ["GET /never HTTP/1.1\r\nHost: a\r\n\r\n", ahead].concat();
        client.write_all(stream.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        let mut connection = server.connection(io);
        let mut ended = None;
        for _ in 0..16 {
            let polled = poll_fn(|cx| Poll::Ready(connection.poll(cx))).await;
            if let Poll::Ready(end) = polled {
                ended = Some(end);
                break;
            }
            yield_now().await;
        }
        // One that has sent another request behind it still waits.
        assert_eq!(matches!(ended, Some(Ended::Broken)), is_left);
        assert_eq!(server.left.get(), usize::from(is_left));
    }
}

#[tokio::test]
async fn no_more_than_a_little_is_read_ahead() {
    let server = Server::default();
    let (mut client, io) = duplex(1 << 20);
    client
        .write_all(b"GET /never HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    client.write_all(&vec![b'x'; 1 << 19]).await.unwrap();
    let mut connection = server.connection(io);
    for _ in 0..16 {
        let polled = poll_fn(|cx| Poll::Ready(connection.poll(cx))).await;
        assert!(polled.is_pending());
    }
    let held = connection.inlet.0.borrow().buffer.len();
    assert!(
        (AHEAD_BYTES..AHEAD_BYTES + READ_BYTES).contains(&held),
        "{held}"
    );
}

#[tokio::test]
async fn an_idle_connection_holds_no_buffer() {
    let server = Server::default();
    let (mut client, io) = duplex(1 << 20);
    let body = "x".repeat(300_000);
    let post = format!("POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n{body}");
    client.write_all(post.as_bytes()).await.unwrap();
    let mut connection = server.connection(io);
    for _ in 0..64 {
        let polled = poll_fn(|cx| Poll::Ready(connection.poll(cx))).await;
        assert!(polled.is_pending());
        yield_now().await;
    }
    assert_eq!(server.seen(), ["/p 300000"]);
    assert_eq!(connection.inlet.0.borrow().buffer.capacity(), 0);
    assert!(!connection.outbox.has_buffer());
}

#[tokio::test]
async fn a_client_is_told_to_go_on_once_its_body_is_asked_for() {
    let head = |path| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        )
    };
    let server = Server::default();
    let got = talk(
        &server,
        &[head("/p").as_bytes(), b"ok", LAST.as_bytes()],
        false,
    )
    .await;
    assert!(
        got.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n"),
        "{got}"
    );
    assert_eq!(server.seen(), ["/p 2", "/last 0"]);
    // An answer that does without the body ends the connection: there is no telling what comes next.
    let server = Server::default();
    let got = talk(&server, &[head("/early").as_bytes()], false).await;
    assert!(got.starts_with("HTTP/1.1 200 OK\r\n"), "{got}");
    assert!(got.contains("connection: close"), "{got}");
    // Nobody is told who does not wait.
    let server = Server::default();
    let all = [&head("/p"), "ok", LAST].concat();
    let got = talk(&server, &[all.as_bytes()], false).await;
    assert!(!got.contains(" 100 "), "{got}");
}

#[tokio::test]
async fn a_body_that_nobody_wants_is_skipped_if_it_is_here() {
    let post = "POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n";
    let server = Server::default();
    let got = talk(&server, &[[post, "abc", LAST].concat().as_bytes()], false).await;
    assert_eq!(server.seen(), ["/early", "/last 0"]);
    assert_eq!(got.matches("connection: close").count(), 1);
    let server = Server::default();
    let got = talk(&server, &[post.as_bytes(), b"abc", LAST.as_bytes()], false).await;
    assert_eq!(server.seen(), ["/early"]);
    assert_eq!(got.matches("connection: close").count(), 1);
}

#[tokio::test]
async fn an_http_1_0_connection_is_kept_if_the_client_asks_for_it() {
    let server = Server::default();
    let stream = "GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /b HTTP/1.0\r\n\r\n\
                  GET /c HTTP/1.0\r\n\r\n";
    let got = talk(&server, &[stream.as_bytes()], false).await;
    assert_eq!(server.seen(), ["/a 0", "/b 0"]);
    let (first, second) = got.split_once("/a 0\n").unwrap();
    assert!(first.starts_with("HTTP/1.0 200 OK\r\n"), "{got}");
    assert!(first.contains("connection: keep-alive\r\n"), "{got}");
    assert!(second.contains("connection: close\r\n"), "{got}");
}

#[tokio::test]
async fn a_connection_that_is_to_finish_ends_after_what_runs() {
    let server = Server::default();
    let (mut client, io) = duplex(1024);
    let mut connection = server.connection(io);
    client
        .write_all(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    let polled = poll_fn(|cx| Poll::Ready(connection.poll(cx))).await;
    assert!(polled.is_pending());
    connection.finish();
    let ended = poll_fn(|cx| connection.poll(cx)).await;
    assert!(
        matches!(ended, Ended::Closed { is_unread: false }),
        "{ended:?}"
    );
    drop(connection);
    let mut got = String::new();
    client.read_to_string(&mut got).await.unwrap();
    assert!(got.contains("connection: close\r\n"), "{got}");
    // An idle one ends at once.
    let (_client, io) = duplex(1024);
    let mut connection = server.connection(io);
    connection.finish();
    let polled = poll_fn(|cx| Poll::Ready(connection.poll(cx))).await;
    assert!(polled.is_ready());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_the_exchanges_see_does_not_depend_on_the_splits(bytes in nearly(), cuts in cuts()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let play = |pieces: &[&[u8]]| {
            let server = Server::default();
            let got = runtime.block_on(talk(&server, pieces, true));
            (server.seen(), got.matches("HTTP/1.").count() - got.matches(" 100 ").count())
        };
        let (seen, answers) = play(&split(&bytes, &cuts));
        // Every answer is one of ours, and every exchange that ends is answered.
        prop_assert_eq!(seen.len(), answers);
        let (at_once, _) = play(&[&bytes]);
        // Whoever closes in the middle may lose the answer to the last request.
        let shared = seen.len().min(at_once.len());
        prop_assert_eq!(&seen[..shared], &at_once[..shared]);
    }
}
