//! Which endpoint gets the next exchange.

use std::collections::BTreeMap;

use crate::harness::backend::Backend;
use crate::harness::{backend, expect, play, proxy};

fn counts(backends: &[&Backend]) -> Vec<usize> {
    backends
        .iter()
        .map(|backend| backend.seen().requests.len())
        .collect()
}

#[test]
fn round_robin_gives_each_its_turn() {
    play(|| {
        let (a, b) = (backend::named("a"), backend::named("b"));
        let proxy = proxy::before(&[&a, &b]);
        let mut client = proxy.client();
        let said: Vec<_> = (0..6).map(|_| client.get("/").text().to_owned()).collect();
        assert!(said.windows(2).all(|two| two[0] != two[1]), "{said:?}");
    });
}

#[test]
fn weights_are_shares() {
    play(|| {
        let (a, b, c) = (
            backend::named("a"),
            backend::named("b"),
            backend::named("c"),
        );
        let proxy = proxy::start(
            "routes: [{ pool: app }]\npools: { app: { endpoints: [{ address: \"@a\", weight: 3 }, \
             \"@b\", { address: \"@c\", weight: 0 }] } }",
            &[("a", &a), ("b", &b), ("c", &c)],
        );
        let mut client = proxy.client();
        let mut said = String::new();
        for _ in 0..40 {
            said += client.get("/").text();
        }
        assert_eq!(counts(&[&a, &b, &c]), [30, 10, 0]);
        // Smoothly: never all of the heavy one's share in a row.
        assert!(!said.contains("aaaa"), "{said}");
    });
}

#[test]
fn least_connections_prefers_the_endpoint_with_fewer_exchanges_in_flight() {
    play(|| {
        let busy = backend::script(|connection| {
            while let Some(request) = connection.request() {
                if request.target() == "/slow" {
                    connection.wait("leave to answer", |seen| seen.written > 0);
                }
                connection.ok("busy");
            }
        });
        let idle = backend::named("idle");
        let proxy = proxy::start(
            "routes: [{ pool: app }]\n\
             pools: { app: { balance: least_connections, endpoints: [\"@busy\", \"@idle\"] } }",
            &[("busy", &busy), ("idle", &idle)],
        );
        // Ties are broken fairly: sooner or later the slow request meets the one that waits.
        let mut slow = loop {
            let mut client = proxy.client();
            client.send("GET /slow HTTP/1.1\r\nHost: app.test\r\n\r\n");
            let before = idle.seen().requests.len();
            expect::eventually("the request arrived", || {
                let arrived = busy.seen().requests.iter().any(|it| it.target() == "/slow");
                (arrived || idle.seen().requests.len() > before).then_some(())
            });
            if busy.seen().requests.iter().any(|it| it.target() == "/slow") {
                break client;
            }
            client.answer();
        };
        let mut client = proxy.client();
        for _ in 0..10 {
            assert_eq!(client.get("/").text(), "idle");
        }
        busy.note_written(1);
        assert_eq!(slow.answer().text(), "busy");
    });
}

#[test]
fn least_connections_breaks_ties_fairly() {
    play(|| {
        let (a, b) = (backend::named("a"), backend::named("b"));
        let proxy = proxy::start(
            "routes: [{ pool: app }]\npools: { app: { balance: least_connections, \
             endpoints: [\"@a\", \"@b\"] } }",
            &[("a", &a), ("b", &b)],
        );
        let mut client = proxy.client();
        let mut said = BTreeMap::<String, usize>::new();
        for _ in 0..40 {
            *said.entry(client.get("/").text().to_owned()).or_default() += 1;
        }
        assert!(said.values().all(|&count| count >= 10), "{said:?}");
        assert_eq!(said.len(), 2);
    });
}
