//! Which endpoint gets the next exchange.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

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

fn start_with(balance: &str, backends: &[(&'static str, &Backend)]) -> proxy::Proxy {
    let endpoints: Vec<_> = backends.iter().map(|(_, it)| format!("\"{it}\"")).collect();
    let endpoints = endpoints.join(", ");
    let text = format!(
        "routes: [{{ pool: app }}]\n\
         pools: {{ app: {{ balance: {balance}, endpoints: [{endpoints}] }} }}"
    );
    proxy::start(&text, &[])
}

#[test]
fn random_two_uses_all_endpoints() {
    play(|| {
        let (a, b, c) = (
            backend::named("a"),
            backend::named("b"),
            backend::named("c"),
        );
        let proxy = start_with("random_two", &[("a", &a), ("b", &b), ("c", &c)]);
        let mut client = proxy.client();
        for _ in 0..90 {
            assert_eq!(client.get("/").status(), 200);
        }
        let counts = counts(&[&a, &b, &c]);
        assert!(counts.iter().all(|&count| count >= 10), "{counts:?}");
    });
}

#[test]
fn peak_ewma_leaves_an_endpoint_that_turns_requests_away() {
    play(|| {
        let away =
            backend::says("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\naway");
        let good = backend::named("good");
        let proxy = start_with("peak_ewma", &[("away", &away), ("good", &good)]);
        let mut client = proxy.client();
        for _ in 0..200 {
            client.get("/");
        }
        let counts = counts(&[&away, &good]);
        assert!(counts[0] < 20, "{counts:?}");
    });
}

#[test]
fn peak_ewma_leaves_an_endpoint_that_refuses_connections() {
    play(|| {
        let (refuses, good) = (backend::refuses(), backend::named("good"));
        let text = "routes: [{ pool: app }]\npools: { app: { balance: peak_ewma, \
                    endpoints: [\"@refuses\", \"@good\"] } }";
        let proxy = proxy::start(text, &[("refuses", &refuses), ("good", &good)]);
        let mut client = proxy.client();
        for _ in 0..200 {
            assert_eq!(client.get("/").text(), "good");
        }
        let records = proxy.records(200);
        let retried = records.iter().filter(|record| record["attempts"] == 2);
        assert!(retried.count() < 20);
    });
}

#[test]
fn peak_ewma_prefers_the_endpoint_that_answers_sooner() {
    play(|| {
        let quick = backend::named("quick");
        let slow = backend::script(|connection| {
            while connection.request().is_some() {
                connection.wait("leave to answer", |seen| {
                    seen.written >= seen.requests.len()
                });
                connection.ok("slow");
            }
        });
        let proxy = start_with("peak_ewma", &[("quick", &quick), ("slow", &slow)]);
        let mut waits = proxy.client();
        let mut client = proxy.client();
        // One of the first requests meets the slow one, and stays there while others pass.
        loop {
            waits.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
            let before = quick.seen().requests.len();
            let is_there = expect::eventually("the request arrived", || {
                let waits = !slow.seen().requests.is_empty();
                (waits || quick.seen().requests.len() > before).then_some(waits)
            });
            if is_there {
                break;
            }
            waits.answer();
        }
        for _ in 0..50 {
            assert_eq!(client.get("/").text(), "quick");
        }
        // Far slower than the other one, whatever the machine.
        expect::after(Duration::from_secs(1));
        slow.note_written(1);
        assert_eq!(waits.answer().text(), "slow");
        // What it took is remembered: with both idle the quick one is better still.
        for _ in 0..50 {
            assert_eq!(client.get("/").text(), "quick");
        }
    });
}

/// Three backends that tell their names, and a proxy that hashes by `by`.
fn hashing(by: &str, method: &str) -> (Vec<Backend>, proxy::Proxy) {
    let backends: Vec<_> = ["a", "b", "c"].map(backend::named).into();
    let text = format!(
        "routes: [{{ pool: app }}]\ntrusted_proxies: [127.0.0.0/8]\npools: {{ app: {{ \
         balance: {{ hash: {{ by: {by}, method: {method} }} }}, endpoints: [\"@a\", \"@b\", \"@c\"] }} }}"
    );
    let [a, b, c] = &backends[..] else {
        panic!("there are three")
    };
    let proxy = proxy::start(&text, &[("a", a), ("b", b), ("c", c)]);
    (backends, proxy)
}

#[test]
fn requests_with_the_same_key_meet_the_same_endpoint() {
    play(|| {
        // Where a key is, as a target and a field.
        type Place = fn(usize) -> (String, String);
        let places: [(&str, Place); 5] = [
            ("client_ip", |key| {
                ("/".into(), format!("X-Forwarded-For: 10.1.1.{key}"))
            }),
            ("{ header: x-user }", |key| {
                ("/".into(), format!("X-User: {key}"))
            }),
            ("{ cookie: sid }", |key| {
                ("/".into(), format!("Cookie: a=b; sid={key}"))
            }),
            ("path", |key| (format!("/{key}?x=1"), "X-A: b".into())),
            ("{ query: id }", |key| {
                (format!("/?id={key}"), "X-A: b".into())
            }),
        ];
        for (by, place) in places {
            for method in ["maglev", "ring"] {
                let (_backends, proxy) = hashing(by, method);
                let mut client = proxy.client();
                let mut said = |key| {
                    let (target, field) = place(key);
                    let request =
                        format!("GET {target} HTTP/1.1\r\nHost: app.test\r\n{field}\r\n\r\n");
                    client.ask(&request).text().to_owned()
                };
                let first: Vec<_> = (0..60).map(&mut said).collect();
                let again: Vec<_> = (0..60).map(&mut said).collect();
                assert_eq!(first, again, "{by} {method}");
                let used: BTreeSet<_> = first.iter().collect();
                assert_eq!(used.len(), 3, "{by} {method}: {first:?}");
            }
        }
    });
}

#[test]
fn keys_stay_over_a_reload_and_move_only_from_the_endpoint_that_left() {
    play(|| {
        let (a, b, c) = (
            backend::named("a"),
            backend::named("b"),
            backend::named("c"),
        );
        let text = "routes: [{ pool: app }]\npools: { app: { balance: { hash: { by: path } }, \
                    endpoints: [@all] } }";
        let all = [&a, &b, &c].map(|it| format!("\"{it}\"")).join(", ");
        let proxy = proxy::start(text, &[("all", &all)]);
        let mut client = proxy.client();
        let mut said = || -> Vec<_> {
            let targets = (0..90).map(|key| format!("/{key}"));
            targets
                .map(|target| client.get(&target).text().to_owned())
                .collect()
        };
        let before = said();
        let rest = [&c, &a].map(|it| format!("\"{it}\"")).join(", ");
        assert!(proxy.rewrite(text, &[("all", &rest)]).is_good());
        let after = said();
        let moved = before.iter().zip(&after);
        let moved = moved.filter(|(before, after)| *before != "b" && before != after);
        assert!(moved.count() <= 9, "{before:?} {after:?}");
        assert!(!after.contains(&"b".to_owned()));
    });
}

#[test]
fn a_key_whose_endpoint_refuses_goes_to_another() {
    play(|| {
        let (refuses, good) = (backend::refuses(), backend::named("good"));
        let text = "routes: [{ pool: app }]\npools: { app: { balance: { hash: { by: path } }, \
                    endpoints: [\"@refuses\", \"@good\"] } }";
        let proxy = proxy::start(text, &[("refuses", &refuses), ("good", &good)]);
        let mut client = proxy.client();
        for key in 0..20 {
            assert_eq!(client.get(&format!("/{key}")).text(), "good");
        }
    });
}

#[test]
fn a_backup_gets_work_when_no_other_endpoint_is_to_be_had() {
    play(|| {
        let (refuses, backup) = (backend::refuses(), backend::named("backup"));
        let good = backend::named("good");
        let text = "routes: [{ pool: app }]\npools: { app: { endpoints: [{ address: \"@backup\", \
                    backup: true }, \"@first\"] } }";
        let proxy = proxy::start(text, &[("backup", &backup), ("first", &good)]);
        let mut client = proxy.client();
        for _ in 0..20 {
            assert_eq!(client.get("/").text(), "good");
        }
        proxy.rewrite(text, &[("backup", &backup), ("first", &refuses)]);
        for _ in 0..5 {
            assert_eq!(client.get("/").text(), "backup");
        }
    });
}

#[test]
fn endpoints_of_a_lower_number_come_first() {
    play(|| {
        let (first, second) = (backend::named("first"), backend::named("second"));
        let text = "routes: [{ pool: app }]\npools: { app: { balance: least_connections, \
                    endpoints: [{ address: \"@second\", priority: 2 }, { address: \"@first\", \
                    priority: 1, drain: @drain }] } }";
        let proxy = proxy::start(
            text,
            &[("first", &first), ("second", &second), ("drain", &false)],
        );
        let mut client = proxy.client();
        for _ in 0..10 {
            assert_eq!(client.get("/").text(), "first");
        }
        proxy.rewrite(
            text,
            &[("first", &first), ("second", &second), ("drain", &true)],
        );
        for _ in 0..10 {
            assert_eq!(client.get("/").text(), "second");
        }
    });
}

#[test]
fn an_endpoint_that_drains_ends_what_runs_and_takes_nothing_new() {
    play(|| {
        let drains = backend::script(|connection| {
            while connection.request().is_some() {
                connection.wait("leave to answer", |seen| seen.written > 0);
                connection.ok("drains");
            }
        });
        let stays = backend::named("stays");
        let text = "routes: [{ pool: app }]\npools: { app: { endpoints: [{ address: \"@drains\", \
                    drain: @flag }, { address: \"@stays\", weight: @weight }] } }";
        let proxy = proxy::start(
            text,
            &[
                ("drains", &drains),
                ("stays", &stays),
                ("flag", &false),
                ("weight", &0),
            ],
        );
        let mut slow = proxy.client();
        slow.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
        drains.request();
        proxy.rewrite(
            text,
            &[
                ("drains", &drains),
                ("stays", &stays),
                ("flag", &true),
                ("weight", &1),
            ],
        );
        let mut client = proxy.client();
        for _ in 0..10 {
            assert_eq!(client.get("/").text(), "stays");
        }
        drains.note_written(1);
        assert_eq!(slow.answer().text(), "drains");
    });
}

#[test]
fn endpoints_of_our_zone_are_preferred() {
    play(|| {
        let (here, there) = (backend::named("here"), backend::named("there"));
        let text = "zone: @zone\nroutes: [{ pool: app }]\npools: { app: { endpoints: [{ address: \
                    \"@here\", zone: east }, { address: \"@there\", zone: west }] } }";
        let proxy = proxy::start(
            text,
            &[("zone", &"east"), ("here", &here), ("there", &there)],
        );
        let mut client = proxy.client();
        for _ in 0..10 {
            assert_eq!(client.get("/").text(), "here");
        }
        let gone = backend::refuses();
        proxy.rewrite(
            text,
            &[("zone", &"east"), ("here", &gone), ("there", &there)],
        );
        for _ in 0..5 {
            assert_eq!(client.get("/").text(), "there");
        }
    });
}

#[test]
fn a_newcomer_begins_with_a_tenth_of_its_share() {
    play(|| {
        let (old, new) = (backend::named("old"), backend::named("new"));
        let text = "routes: [{ pool: app }]\npools: { app: { slow_start: 1h, endpoints: [@all] } }";
        let one = format!("\"{old}\"");
        let both = format!("\"{old}\", \"{new}\"");
        let proxy = proxy::start(text, &[("all", &one)]);
        let mut client = proxy.client();
        client.get("/");
        proxy.rewrite(text, &[("all", &both)]);
        let mut ask = |times: usize| {
            for _ in 0..times {
                assert_eq!(client.get("/").status(), 200);
            }
        };
        ask(400);
        let begun = new.seen().requests.len();
        // A tenth of half of them, by dice.
        assert!((5..=45).contains(&begun), "{begun} of 400");
        // It goes on joining over a reload.
        proxy.rewrite(
            &format!("{text}\nlimits: {{ connections: 99 }}"),
            &[("all", &both)],
        );
        ask(400);
        let more = new.seen().requests.len() - begun;
        assert!((5..=45).contains(&more), "{more} of 400");
    });
}
