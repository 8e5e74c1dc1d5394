//! What is no TLS on a TLS port, handshakes that break or stall, and hostile requests inside of TLS.

use std::io::Write;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use super::{Stage, row};
use crate::harness::certs::{self, Certs};
use crate::harness::client::Client;
use crate::harness::play;
use crate::harness::wire::{End, Transport};

fn stage(certs: &Certs, more: &str) -> Stage {
    let pair =
        |name: &str| format!("{{ cert: \"{certs}/{name}.pem\", key: \"{certs}/{name}.key\" }}");
    let (app, other) = (pair("app"), pair("other"));
    let listeners = format!(
        "listeners: [{{ name: web, address: \"127.0.0.1:0\", tls: {{ certificates: [{app}, {other}] }} }}]"
    );
    Stage::on(&listeners, more)
}

fn make_certs() -> Certs {
    certs::new()
        .server("app", &["app.test"])
        .server("other", &["other.test"])
}

/// The first flight of a client.
fn hello(config: &Arc<ClientConfig>) -> Vec<u8> {
    let name = ServerName::try_from("app.test").unwrap();
    let mut session = ClientConnection::new(Arc::clone(config), name).unwrap();
    let mut bytes = Vec::new();
    session.write_tls(&mut bytes).unwrap();
    bytes
}

#[test]
fn plain_http_on_a_tls_port_is_told_so() {
    play(|| {
        let certs = make_certs();
        let mut stage = stage(&certs, "");
        let large = format!(
            "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 90000\r\n\r\n{}",
            "x".repeat(90_000)
        );
        for row in [
            row("GET", "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n"),
            row("HTTP/1.0", "GET / HTTP/1.0\r\n\r\n"),
            row(
                "HTTP/2",
                "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
            ),
            row("a body", large),
            row("one letter", "G"),
            row("hostile", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n"),
        ] {
            let row = row.refused(400, "plain_on_tls");
            stage.play(&row, false);
        }
        stage.end();
    });
}

#[test]
fn what_is_no_handshake_ends_in_an_alert() {
    play(|| {
        let certs = make_certs();
        let mut stage = stage(&certs, "");
        let good = hello(&certs.trusting(&["http/1.1"]));
        let strange = hello(&certs.trusting(&["gopher"]));
        let mut spoiled = good.clone();
        spoiled.iter_mut().skip(9).for_each(|byte| *byte ^= 0x5a);
        let mut wrong_length = good.clone();
        wrong_length[6] ^= 0x40;
        let cases: [(&str, &[u8]); 11] = [
            ("high bytes", &[0xff; 64]),
            ("zeros", &[0; 64]),
            (
                "a hello of SSL 2",
                b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10abcdefghijklmnopqrstuvwxyz0123456789",
            ),
            ("application data first", b"\x17\x03\x03\x00\x05hello"),
            ("an alert first", b"\x15\x03\x03\x00\x02\x02\x28"),
            (
                "a record too long",
                b"\x16\x03\x01\xff\xff\x01\x00\x00\x05hello",
            ),
            (
                "a record of nothing",
                b"\x16\x03\x01\x00\x00\x16\x03\x01\x00\x00",
            ),
            (
                "another handshake message",
                b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",
            ),
            ("a spoiled hello", &spoiled),
            ("a hello of a wrong length", &wrong_length),
            ("no protocol in common", &strange),
        ];
        for (name, bytes) in cases {
            let mut client = stage.proxy.client();
            client.send(bytes);
            // Some wait for more of what they announce.
            client.wire.half_close();
            let (said, end) = client.wire.rest();
            assert_eq!(end, End::Whole, "{name}");
            // An alert, or a server's hello with an alert behind.
            let is_hello = bytes == strange && said[0] == 0x16;
            assert!(
                said.is_empty() || said[0] == 0x15 || is_hello,
                "{name}: {said:?}"
            );
            stage.records.push((name, 400, "handshake_failed"));
        }
        for cut in [1, 4, 5, 6, 60, good.len() - 1] {
            let mut client = stage.proxy.client();
            client.send(&good[..cut]);
            client.wire.half_close();
            client.is_closed();
            stage.records.push(("cut", 400, "handshake_failed"));
        }
        // A port check is no failure.
        let mut client = stage.proxy.client();
        client.wire.half_close();
        client.is_closed();
        stage.origin.saw(&[], &[]);
        stage.end();
    });
}

#[test]
fn a_handshake_that_stalls_is_given_up() {
    play(|| {
        let certs = make_certs();
        let mut stage = stage(&certs, "timeouts: { handshake: 300ms, first_byte: 300ms }");
        let good = hello(&certs.trusting(&["http/1.1"]));
        for cut in [0, 1, 5, 60, good.len()] {
            let mut client = stage.proxy.client();
            client.send(&good[..cut]);
            // Behind a whole hello the server's flight comes.
            let (said, end) = client.wire.rest();
            assert_eq!(
                (said.is_empty(), end),
                (cut < good.len(), End::Whole),
                "{cut}"
            );
            stage.records.push(("stalled", 408, "handshake_timeout"));
        }
        for protocol in ["http/1.1", "h2"] {
            let trust = certs.trusting(&[protocol]);
            let mut client = Client::tls(stage.proxy.address(), &trust, "app.test");
            client.wire.rest();
            stage.records.push((protocol, 408, "first_byte_timeout"));
        }
        stage.end();
    });
}

#[test]
fn hostile_requests_inside_of_tls_meet_the_same_gate() {
    play(|| {
        let certs = make_certs();
        let mut stage = stage(&certs, "");
        let trust = certs.trusting(&["http/1.1"]);
        let address = stage.proxy.address();
        let connect = || Client::tls(address, &trust, "app.test");
        let good = "GET /good HTTP/1.1\r\nHost: app.test\r\n\r\n";
        for row in [
            row("good", good).passes("GET /good"),
            row(
                "CL.TE",
                "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n\
                 0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n",
            )
            .refused(400, "request_malformed"),
            row("no Host", "GET / HTTP/1.1\r\n\r\n").refused(400, "host_invalid"),
            row("a Host of another certificate", "GET / HTTP/1.1\r\nHost: other.test\r\n\r\n")
                .turned_down(421, "misdirected"),
            row("good and bad", [good, "X\r\n\r\n"].concat())
                .passes("GET /good")
                .refused(400, "request_malformed"),
            row("HTTP/2 where HTTP/1.1 was agreed", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
                .refused(505, "version_unknown"),
        ] {
            let mut client = connect();
            client.send(&row.bytes);
            stage.judge(&row, client);
        }
        // Records that are none, behind a request.
        let mut client = connect();
        assert_eq!(client.get("/own").status(), 200);
        stage.records.push(("own", 200, ""));
        let Transport::Client(tls) = client.wire.stream() else {
            unreachable!("the client speaks TLS")
        };
        tls.sock.write_all(&[0x17, 3, 3, 0, 32]).unwrap();
        tls.sock.write_all(&[7; 32]).unwrap();
        client.wire.rest();
        // A client that hangs up without a farewell in its body.
        let mut client = connect();
        client.send("POST /cut HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\n\r\nhel");
        client.wire.hang_up();
        stage.records.push(("hung up", 499, "client_gone"));
        stage.origin.saw(&[], &["POST /cut"]);
        // HTTP/1.1 where HTTP/2 was agreed.
        let trust = certs.trusting(&["h2"]);
        let mut client = Client::tls(address, &trust, "app.test");
        client.send(good);
        client.wire.rest();
        stage.origin.saw(&[], &[]);
        stage.end();
    });
}
