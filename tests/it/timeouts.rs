//! Every wait has an end, with a status, a fault and a record of its own.

use std::time::Duration;

use http::Request;

use crate::harness::h2::{self, Pieces};
use crate::harness::{backend, expect, play, proxy};

#[test]
fn a_client_that_never_says_a_word_is_let_go() {
    play(|| {
        let backend = backend::echo();
        let proxy = proxy::before_with(&[&backend], "timeouts: { first_byte: 150ms }");
        proxy.client().is_closed();
        let record = proxy.record();
        assert_eq!(
            (&record["status"], &record["fault"]),
            (&408.into(), &"first_byte_timeout".into())
        );
    });
}

#[test]
fn an_http2_client_that_never_asks_is_let_go() {
    play(|| {
        let backend = backend::echo();
        let proxy = proxy::before_with(&[&backend], "timeouts: { first_byte: 150ms }");
        h2::Client::connect(proxy.address()).is_closed();
    });
}

#[test]
fn a_head_that_does_not_come_to_its_end_is_a_408() {
    play(|| {
        let backend = backend::echo();
        let proxy = proxy::before_with(&[&backend], "timeouts: { header: 150ms }");
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nHost: app.test\r\nX-Slow: ");
        let answer = client.answer();
        assert_eq!(answer.status(), 408);
        client.is_closed();
        assert_eq!(proxy.record()["fault"], "header_timeout");
        assert!(backend.seen().requests.is_empty());
    });
}

#[test]
fn a_head_may_come_in_pieces_on_a_connection_that_was_idle_for_long() {
    play(|| {
        let backend = backend::echo();
        let proxy = proxy::before_with(&[&backend], "timeouts: { header: 5s }");
        let mut client = proxy.client();
        for _ in 0..3 {
            client.send("GET / HTTP/1.1\r\n");
            client.send("Host: app.test\r\n");
            assert_eq!(client.ask("\r\n").status(), 200);
        }
    });
}

#[test]
fn a_body_that_pauses_for_too_long_is_a_408() {
    play(|| {
        let backend = backend::script(|connection| {
            if connection.head().is_some() {
                connection.until_closed();
            }
        });
        let proxy = proxy::before_with(&[&backend], "timeouts: { body: 150ms }");
        let mut client = proxy.client();
        client.send("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 10\r\n\r\nsome");
        assert_eq!(client.answer().status(), 408);
        client.is_closed();
        backend.is_left_by(1);
        let record = proxy.record();
        assert_eq!(
            (&record["fault"], &record["bytes_in"]),
            (&"body_timeout".into(), &4.into())
        );
    });
}

#[test]
fn a_body_over_http2_that_pauses_for_too_long_is_a_408() {
    play(|| {
        let backend = backend::stalls();
        let proxy = proxy::before_with(&[&backend], "timeouts: { body: 150ms }");
        let mut client = h2::Client::connect(proxy.address());
        let (_feed, body) = Pieces::fed();
        let request = Request::post("http://app.test/").body(body).unwrap();
        assert_eq!(client.ask(request).status(), 408);
        assert_eq!(proxy.record()["fault"], "body_timeout");
    });
}

#[test]
fn an_idle_connection_is_closed_without_a_record() {
    play(|| {
        let backend = backend::echo();
        let proxy = proxy::before_with(&[&backend], "timeouts: { keep_alive: 150ms }");
        let mut client = proxy.client();
        client.get("/");
        client.is_closed();
        let mut client = h2::Client::connect(proxy.address());
        client.get("http://app.test/");
        client.is_closed();
        let records = proxy.stop();
        assert_eq!(records.len(), 2, "{records:?}");
    });
}

#[test]
fn a_connection_that_is_old_enough_ends_after_an_answer() {
    play(|| {
        let backend = backend::echo();
        let proxy = proxy::before_with(&[&backend], "timeouts: { age: 150ms }");
        let mut client = proxy.client();
        client.get("/");
        client.is_closed();
    });
}

#[test]
fn an_endpoint_that_does_not_answer_is_a_504() {
    play(|| {
        let backend = backend::stalls();
        let proxy = proxy::before_with(&[&backend], "timeouts: { response: 150ms }");
        assert_eq!(proxy.client().get("/").status(), 504);
        backend.is_left_by(1);
        let record = proxy.record();
        assert_eq!(
            (&record["fault"], &record["attempts"]),
            (&"response_timeout".into(), &1.into())
        );
        let mut client = h2::Client::connect(proxy.address());
        assert_eq!(client.get("http://app.test/").status(), 504);
    });
}

#[test]
fn an_endpoint_may_stay_silent_while_the_upload_flows() {
    play(|| {
        let backend = backend::script(|connection| {
            connection.head();
            let (body, _) = connection.wire.exactly(4);
            connection.ok(body);
        });
        let proxy = proxy::before_with(&[&backend], "timeouts: { response: 300ms }");
        let mut client = proxy.client();
        client.send("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 4\r\n\r\n");
        for piece in ["b", "o", "d", "y"] {
            expect::after(Duration::from_millis(150));
            client.send(piece);
        }
        assert_eq!(client.answer().text(), "body");
    });
}

#[test]
fn an_answer_that_pauses_for_too_long_is_cut() {
    play(|| {
        let backend = backend::stalls_after_head();
        let proxy = proxy::before_with(&[&backend], "timeouts: { idle: 150ms }");
        let answer = proxy.client().get("/");
        assert_eq!((answer.status(), answer.text()), (200, "first"));
        assert_ne!(answer.end, crate::harness::wire::End::Whole);
        backend.is_left_by(1);
        assert_eq!(proxy.record()["fault"], "response_stalled");
    });
}

#[test]
fn an_event_stream_may_pause_for_longer_than_other_answers() {
    play(|| {
        let backend = backend::script(|connection| {
            connection.request();
            connection.send(
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                 Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n",
            );
            expect::after(Duration::from_millis(400));
            connection.send("3\r\ntwo\r\n0\r\n\r\n");
            connection.until_closed();
        });
        let proxy = proxy::before_with(&[&backend], "timeouts: { idle: 100ms, stream: 5s }");
        assert_eq!(proxy.client().get("/").text(), "onetwo");
    });
}

#[test]
fn a_client_that_takes_nothing_of_its_answer_is_cut_off() {
    play(|| {
        let backend = backend::script(|connection| {
            connection.request();
            connection.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            let piece = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
            while connection.send(&piece) {}
            connection.left();
        });
        let proxy = proxy::before_with(&[&backend], "timeouts: { send: 200ms }");
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
        assert_eq!(client.head().status(), 200);
        backend.is_left_by(1);
        assert_eq!(proxy.record()["fault"], "client_stalled");
    });
}

#[test]
fn an_http2_client_that_takes_nothing_of_its_answer_is_reset() {
    play(|| {
        let backend = backend::script(|connection| {
            connection.request();
            connection.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            let piece = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
            while connection.send(&piece) {}
            connection.left();
        });
        let proxy = proxy::before_with(&[&backend], "timeouts: { send: 200ms }");
        let mut client = h2::Client::connect(proxy.address());
        let request = Request::get("http://app.test/").body(Pieces::none());
        let _unread = client.begin(request.unwrap());
        backend.is_left_by(1);
        assert_eq!(proxy.record()["fault"], "client_stalled");
    });
}

#[test]
fn an_endpoint_that_cannot_be_reached_in_time_is_a_504() {
    play(|| {
        let (listener, address) = backend::full();
        let proxy = proxy::start(
            "routes: [{ pool: app, retry: { attempts: 0 } }]\npools: { app: { endpoints: \
             [\"@app\"], timeouts: { connect: 150ms } } }",
            &[("app", &address)],
        );
        assert_eq!(proxy.client().get("/").status(), 504);
        assert_eq!(proxy.record()["fault"], "connect_timeout");
        drop(listener);
    });
}
