//! Tunnels: WebSocket and others by HTTP/1.1's Upgrade, and by extended CONNECT on HTTP/2.

use std::io::ErrorKind;

use http::{Method, Request};
use hyper::ext::Protocol;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::backend::Backend;
use crate::harness::h2::{self, Pieces};
use crate::harness::{backend, play, proxy};

const UPGRADE: &str = "GET /echo HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\n\
                       Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Switches to WebSocket as RFC 6455 says, greets, and sends back what it gets.
fn switches() -> Backend {
    backend::script(|connection| {
        let Some(request) = connection.head() else {
            return;
        };
        let key = request.field("sec-websocket-key").unwrap();
        let accept = accept(key);
        connection.send(format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\nhi!"
        ));
        connection.echo();
    })
}

fn accept(key: &str) -> String {
    use base64::Engine as _;
    let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key.as_bytes());
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    base64::prelude::BASE64_STANDARD.encode(hash.finish())
}

#[test]
fn a_websocket_carries_bytes_both_ways_and_is_recorded_at_its_end() {
    play(|| {
        let backend = switches();
        let proxy = proxy::before(&[&backend]);
        let mut client = proxy.client();
        // The first frame stands right behind the request.
        client.send(format!("{UPGRADE}early"));
        let answer = client.head();
        assert_eq!(answer.status(), 101);
        assert_eq!(answer.field("upgrade"), Some("websocket"));
        assert_eq!(
            answer.field("sec-websocket-accept"),
            Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
        );
        assert_eq!(client.wire.exactly(8).0, b"hi!early");
        client.send("more");
        assert_eq!(client.wire.exactly(4).0, b"more");
        client.wire.half_close();
        client.is_closed();
        let record = proxy.record();
        assert_eq!(
            (&record["status"], &record["upgraded"]),
            (&101.into(), &true.into())
        );
        assert_eq!(
            (&record["bytes_in"], &record["bytes_out"]),
            (&9.into(), &12.into())
        );
        assert_eq!(record["fault"], serde_json::Value::Null);
    });
}

#[test]
fn an_upgrade_that_is_refused_leaves_the_connection_usable() {
    play(|| {
        let backend = backend::echo();
        let proxy = proxy::before(&[&backend]);
        let mut client = proxy.client();
        assert_eq!(client.ask(UPGRADE).status(), 200);
        assert_eq!(client.get("/next").status(), 200);
        let requests = backend.requests(2);
        assert_eq!(requests[0].field("upgrade"), Some("websocket"));
        assert_eq!(requests[1].field("upgrade"), None);
    });
}

#[test]
fn a_switch_to_something_else_is_a_502() {
    play(|| {
        let backend = backend::says(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        );
        let proxy = proxy::before(&[&backend]);
        assert_eq!(proxy.client().ask(UPGRADE).status(), 502);
        assert_eq!(proxy.record()["fault"], "response_malformed");
    });
}

#[test]
fn a_tunnel_that_is_silent_for_too_long_is_closed() {
    play(|| {
        let backend = switches();
        let proxy = proxy::before_with(&[&backend], "timeouts: { stream: 200ms }");
        let mut client = proxy.client();
        client.send(UPGRADE);
        client.head();
        assert_eq!(client.wire.exactly(3).0, b"hi!");
        client.is_closed();
        backend.is_left_by(1);
        assert_eq!(proxy.record()["fault"], "response_stalled");
    });
}

#[test]
fn either_side_may_end_a_tunnel() {
    play(|| {
        let backend = backend::script(|connection| {
            connection.head();
            connection.send(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nbye",
            );
            connection.wire.half_close();
            connection.until_closed();
        });
        let proxy = proxy::before(&[&backend]);
        let mut client = proxy.client();
        client.send(UPGRADE);
        client.head();
        assert_eq!(client.rest().0, "bye");
        drop(client);
        backend.is_left_by(1);
        assert_eq!(proxy.record()["bytes_out"], 3);

        let backend = switches();
        let proxy = proxy::before(&[&backend]);
        let mut client = proxy.client();
        client.send(UPGRADE);
        client.head();
        client.wire.exactly(3);
        client.wire.reset();
        backend.is_left_by(1);
        assert_eq!(proxy.record()["fault"], "client_gone");
    });
}

fn connect() -> Request<Pieces> {
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri("http://app.test/echo")
        .header("sec-websocket-version", "13")
        .body(Pieces::none())
        .unwrap();
    let protocol = Protocol::from_static("websocket");
    request.extensions_mut().insert(protocol);
    request
}

#[test]
fn a_websocket_over_http2_reaches_an_http1_endpoint() {
    play(|| {
        let backend = switches();
        let proxy = proxy::before(&[&backend]);
        let mut client = h2::Client::connect(proxy.address());
        let answer = client.begin(connect());
        assert_eq!(answer.status(), 200);
        assert!(!answer.headers().contains_key("sec-websocket-accept"));
        let said = h2::wait(async {
            let tunnel = hyper::upgrade::on(answer).await.unwrap();
            let mut tunnel = TokioIo::new(tunnel);
            let mut said = vec![0; 7];
            tunnel.write_all(b"ping").await.unwrap();
            tunnel.read_exact(&mut said).await.unwrap();
            tunnel.shutdown().await.unwrap();
            let rest = tunnel.read_u8().await.unwrap_err();
            assert_eq!(rest.kind(), ErrorKind::UnexpectedEof);
            said
        });
        assert_eq!(said, b"hi!ping");
        let request = backend.request();
        assert_eq!(request.line, "GET /echo HTTP/1.1");
        assert_eq!(request.field("upgrade"), Some("websocket"));
        assert_eq!(request.field("connection"), Some("upgrade"));
        let record = proxy.record();
        assert_eq!(
            (&record["bytes_in"], &record["bytes_out"]),
            (&4.into(), &7.into())
        );
        assert_eq!(record["upgraded"], true);
    });
}

#[test]
fn a_websocket_over_http2_insists_on_the_handshake() {
    play(|| {
        let backend = backend::says(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: wrong\r\n\r\n",
        );
        let proxy = proxy::before(&[&backend]);
        let mut client = h2::Client::connect(proxy.address());
        assert_eq!(client.begin(connect()).status(), 502);
        assert_eq!(proxy.record()["fault"], "response_malformed");
    });
}

#[test]
fn an_http2_endpoint_cannot_be_upgraded_to() {
    play(|| {
        let backend = h2::backend(|_| h2::said("", &[]));
        let proxy = proxy::start(
            "routes: [{ pool: app }]\npools: { app: { endpoints: [\"@app\"], protocol: h2 } }",
            &[("app", &backend)],
        );
        assert_eq!(proxy.client().ask(UPGRADE).status(), 501);
        assert_eq!(proxy.record()["fault"], "upgrade_unsupported");
    });
}
