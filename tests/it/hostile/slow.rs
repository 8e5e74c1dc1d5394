//! Senders that are slow, or silent, and takers that take nothing.

use std::io::{ErrorKind, Read};
use std::time::Duration;

use super::frames::{END_STREAM, Outcome, Peer, block, headers};
use super::{Stage, check_with, row};
use crate::harness::client::Client;
use crate::harness::play;
use crate::harness::wire::{End, Message, Transport};

const SHORT: &str =
    "timeouts: { first_byte: 300ms, header: 300ms, body: 300ms, keep_alive: 300ms, send: 300ms }";

#[test]
fn who_is_silent_is_not_waited_for() {
    let post = "POST / HTTP/1.1\r\nHost: app.test\r\n";
    let good = "GET /good HTTP/1.1\r\nHost: app.test\r\n\r\n";
    let first = "first_byte_timeout";
    let rows = vec![
        row("from the start", "").unanswered(408, first),
        row("behind an empty line", "\r\n").unanswered(408, first),
        row("after the first byte", "G").refused(408, "header_timeout"),
        row("in the first line", "GET /a").refused(408, "header_timeout"),
        row("in a field", "GET / HTTP/1.1\r\nHost: app.t").refused(408, "header_timeout"),
        row(
            "before the empty line",
            "GET / HTTP/1.1\r\nHost: app.test\r\n",
        )
        .refused(408, "header_timeout"),
        row("in the second head", format!("{good}GET / HT"))
            .passes("GET /good")
            .refused(408, "header_timeout"),
        row("after an answer", good).passes("GET /good").closed(),
        row(
            "before the body",
            format!("{post}Content-Length: 5\r\n\r\n"),
        )
        .refused(408, "body_timeout")
        .begins("POST /"),
        row("in the body", format!("{post}Content-Length: 5\r\n\r\nhel"))
            .refused(408, "body_timeout")
            .begins("POST /"),
        row(
            "in a chunk",
            format!("{post}Transfer-Encoding: chunked\r\n\r\n5\r\nhel"),
        )
        .refused(408, "body_timeout")
        .begins("POST /"),
        row(
            "before the last chunk",
            format!("{post}Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"),
        )
        .refused(408, "body_timeout")
        .begins("POST /"),
    ];
    play(|| check_with(SHORT, rows.into_iter().map(super::Row::whole).collect()));
}

#[test]
fn who_is_silent_before_its_protocol_is_known_is_not_waited_for() {
    play(|| {
        let mut stage = Stage::new(SHORT);
        for bytes in [
            "PR",
            "PRI * HTTP/2.0\r",
            "PRI * HTTP/2.0\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM",
        ] {
            let mut client = stage.proxy.client();
            client.send(bytes);
            // Our settings may come, and no answer.
            client.wire.rest();
            stage.records.push((bytes, 408, "first_byte_timeout"));
        }
        stage.origin.saw(&[], &[]);
        stage.end();
    });
}

/// Sends `drip` again and again, a little later each time, until an answer begins.
fn dribble(client: &mut Client, mut drip: impl FnMut() -> Vec<u8>, pause: Duration) -> Message {
    let Transport::Tcp(stream) = client.wire.stream() else {
        unreachable!("the client speaks in the clear")
    };
    let mut stream = stream.try_clone().unwrap();
    stream.set_read_timeout(Some(pause)).unwrap();
    let mut answer = Vec::new();
    let mut some = [0; 1024];
    loop {
        match stream.read(&mut some) {
            Ok(0) => panic!("closed without an answer"),
            Ok(read) => {
                answer.extend(&some[..read]);
                let text = String::from_utf8_lossy(&answer).into_owned();
                if let Some((head, _)) = text.split_once("\r\n\r\n") {
                    return Message::head(head);
                }
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                    client.send(drip());
                }
                _ => panic!("{error}"),
            },
        }
    }
}

#[test]
fn a_head_that_dribbles_is_given_up() {
    play(|| {
        let mut stage = Stage::new(SHORT);
        let mut client = stage.proxy.client();
        client.send("GET / HTTP/1.1\r\nHost: app.test\r\n");
        let answer = dribble(
            &mut client,
            || b"X: y\r\n".to_vec(),
            Duration::from_millis(30),
        );
        assert_eq!(answer.status(), 408);
        stage.records.push(("head", 408, "header_timeout"));
        drop(client);
        stage.origin.saw(&[], &[]);
        stage.end();
    });
}

#[test]
fn a_body_slower_than_its_floor_is_given_up() {
    // Every pause is short enough; the floor of 1 KiB/s holds after ten seconds.
    play(|| {
        let mut stage = Stage::new("timeouts: { body: 60s }");
        let mut client = stage.proxy.client();
        client.send("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 100000\r\n\r\n");
        let answer = dribble(&mut client, || b"xx".to_vec(), Duration::from_millis(100));
        assert_eq!(answer.status(), 408);
        stage.records.push(("body", 408, "body_timeout"));
        drop(client);
        stage.origin.saw(&[], &["POST /"]);
        stage.end();
    });
}

#[test]
fn a_client_that_takes_nothing_is_cut_off() {
    play(|| {
        let mut stage = Stage::new(SHORT);
        let mut client = stage.proxy.client();
        client.send("GET /endless HTTP/1.1\r\nHost: app.test\r\n\r\n");
        stage.origin.saw(&[("GET /endless", "")], &[]);
        crate::harness::expect::eventually("the endpoint may stop", || {
            (stage.origin.backend.seen().written > 0).then_some(())
        });
        let head = client.head();
        assert_eq!(head.status(), 200);
        assert_ne!(client.rest().1, End::Cut);
        stage.records.push(("answer", 200, "client_stalled"));
        stage.end();
    });
}

#[test]
fn a_query_of_a_million_parameters_is_refused_at_its_limit() {
    play(|| {
        let stage = Stage::new("");
        let query = "a=1&".repeat(1_000_000);
        let mut client = stage.proxy.client();
        // It is not read to its end.
        client.send(format!("GET /?{query} HTTP/1.1\r\nHost: app.test\r\n\r\n"));
        assert_eq!(client.head().status(), 414);
        let (mut peer, path) = (Peer::connect(stage.proxy.address()), format!("/?{query}"));
        let fields: [(&[u8], &[u8]); 4] = [
            (b":method", b"GET"),
            (b":scheme", b"http"),
            (b":authority", b"app.test"),
            (b":path", path.as_bytes()),
        ];
        peer.client.send(headers(1, END_STREAM, &block(&fields)));
        let outcome = peer.outcome(1);
        assert!(
            matches!(outcome, Outcome::Away | Outcome::Closed),
            "{outcome:?}"
        );
        stage.origin.saw(&[], &[]);
        drop((client, peer));
        assert_eq!(stage.proxy.records(1)[0]["fault"], "target_too_long");
    });
}
