//! The end of a proxy: nothing new, what runs finishes, what does not finish in time is cut.

use std::net::TcpStream;

use http::Request;

use crate::harness::backend::Backend;
use crate::harness::h2::{self, Pieces};
use crate::harness::{backend, expect, play, proxy};

/// Answers when it is told to.
fn patient() -> Backend {
    backend::script(|connection| {
        while connection.request().is_some() {
            connection.wait("leave to answer", |seen| seen.written > 0);
            connection.ok("done");
        }
    })
}

#[test]
fn a_running_exchange_finishes_and_its_connection_closes() {
    play(|| {
        let backend = patient();
        let proxy = proxy::before(&[&backend]);
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
        let mut idle = proxy.client();
        backend.request();
        proxy.drain();
        idle.is_closed();
        backend.note_written(1);
        let answer = client.answer();
        assert_eq!(
            (answer.text(), answer.field("connection")),
            ("done", Some("close"))
        );
        client.is_closed();
        let records = proxy.stop();
        assert_eq!(records.len(), 1);
        assert_eq!(records[0]["fault"], serde_json::Value::Null);
    });
}

#[test]
fn an_http2_connection_finishes_its_streams_and_takes_no_new_ones() {
    play(|| {
        let backend = patient();
        let proxy = proxy::before(&[&backend]);
        let mut client = h2::Client::connect(proxy.address());
        let request = || {
            Request::get("http://app.test/")
                .body(Pieces::none())
                .unwrap()
        };
        let answer = client.send(request());
        backend.request();
        proxy.drain();
        let address = proxy.address();
        expect::eventually("the listener closed", || TcpStream::connect(address).err());
        backend.note_written(1);
        assert_eq!(h2::read(h2::wait(answer).unwrap()).text(), "done");
        client.is_closed();
        assert_eq!(proxy.stop().len(), 1);
    });
}

#[test]
fn what_is_not_over_in_time_is_cut() {
    play(|| {
        let backend = backend::stalls();
        let proxy = proxy::before_with(&[&backend], "timeouts: { drain: 200ms }");
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
        backend.request();
        proxy.drain();
        client.is_closed();
        backend.is_left_by(1);
        let records = proxy.stop();
        assert_eq!(records.len(), 1);
        assert_eq!(records[0]["fault"], "draining");
    });
}

#[test]
fn a_tunnel_is_cut_when_the_time_is_up() {
    play(|| {
        let backend = backend::script(|connection| {
            connection.head();
            connection.send(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
            );
            connection.until_closed();
        });
        let proxy = proxy::before_with(&[&backend], "timeouts: { drain: 200ms }");
        let mut client = proxy.client();
        client
            .send("GET / HTTP/1.1\r\nHost: app.test\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
        client.head();
        proxy.drain();
        client.is_closed();
        backend.is_left_by(1);
        let records = proxy.stop();
        assert_eq!(
            (records.len(), &records[0]["fault"]),
            (1, &"draining".into())
        );
    });
}

#[test]
fn an_app_that_is_closed_ends_at_once() {
    play(|| {
        let backend = backend::stalls();
        let proxy = proxy::before(&[&backend]);
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
        backend.request();
        proxy.drain();
        proxy.app().close();
        client.is_closed();
        backend.is_left_by(1);
    });
}
