//! Requests that wait while no endpoint is usable.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::statuses;
use crate::harness::client::Client;
use crate::harness::wire::{Transport, Wire};
use crate::harness::{backend, expect, play, proxy};

/// A pool of `@a` with more keys, and every request goes there.
fn of_one(more: &str) -> String {
    format!("routes: [{{ pool: app }}]\npools: {{ app: {{ endpoints: [\"@a\"], {more} }} }}\n")
}

/// Serves at an address that refused connections until now.
fn returns(address: SocketAddr) {
    let listener = TcpListener::bind(address).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut wire = Wire::new(Transport::Tcp(stream));
                while let Ok(mut request) = wire.head() {
                    wire.request_body(&mut request);
                    wire.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nback");
                }
            });
        }
    });
}

#[test]
fn a_deploy_loses_no_request_whatever_its_method() {
    play(|| {
        let addresses = [backend::refuses(), backend::refuses(), backend::refuses()];
        let endpoints: Vec<&dyn std::fmt::Display> =
            addresses.iter().map(|address| address as _).collect();
        let proxy = proxy::before_with(&endpoints, "workers: 2");
        let address = proxy.address();
        let is_over = Arc::<AtomicBool>::default();
        let clients: Vec<_> = (0..8)
            .map(|number| {
                let is_over = Arc::clone(&is_over);
                thread::spawn(move || {
                    let mut statuses = Vec::new();
                    while !is_over.load(Ordering::Relaxed) {
                        let mut client = Client::connect(address);
                        statuses.push(match number % 2 {
                            0 => client.get("/").status(),
                            _ => client.post("/", "order").status(),
                        });
                    }
                    statuses
                })
            })
            .collect();
        expect::after(Duration::from_secs(2));
        assert!(proxy.peek().is_empty(), "all wait");
        returns(addresses[1]);
        proxy.records(8);
        is_over.store(true, Ordering::Relaxed);
        for client in clients {
            let statuses = client.join().unwrap();
            assert!(!statuses.is_empty());
            assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
        }
    });
}

#[test]
fn a_get_that_was_cut_off_waits_and_a_post_is_not_sent_twice() {
    play(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let proxy = proxy::before(&[&address]);
        let at = proxy.address();
        let ask = |method: &'static str| {
            thread::spawn(move || {
                let mut client = Client::connect(at);
                match method {
                    "GET" => client.get("/").status(),
                    _ => client.post("/", "order").status(),
                }
            })
        };
        let (get, post) = (ask("GET"), ask("POST"));
        // Both are under way, and then the endpoint is killed.
        let mut wires = Vec::new();
        for stream in listener.incoming().take(2) {
            let mut wire = Wire::new(Transport::Tcp(stream.unwrap()));
            let mut request = wire.head().unwrap();
            wire.request_body(&mut request);
            wires.push(wire);
        }
        drop(listener);
        drop(wires);
        assert_eq!(post.join().unwrap(), 502);
        expect::after(Duration::from_millis(500));
        assert!(!get.is_finished());
        returns(address);
        assert_eq!(get.join().unwrap(), 200);
    });
}

#[test]
fn whoever_waits_in_vain_gets_503_and_is_told_when_to_come_again() {
    play(|| {
        let refuses = backend::refuses();
        let text = of_one("queue: { wait: 300ms }");
        let proxy = proxy::start(&text, &[("a", &refuses)]);
        let answer = proxy.client().get("/");
        assert_eq!(
            (answer.status(), answer.field("retry-after")),
            (503, Some("1"))
        );
        assert_eq!(
            answer.field("proxy-status"),
            Some("lockgate; error=destination_unavailable")
        );
        let record = proxy.record();
        assert_eq!(record["fault"], "queue_timeout");
        assert!(record["duration_ms"].as_f64().unwrap() >= 300.0, "{record}");
    });
}

#[test]
fn one_too_many_does_not_wait_and_whoever_leaves_makes_room() {
    play(|| {
        let refuses = backend::refuses();
        let text = of_one("queue: { size: 1, wait: 5s }");
        let proxy = proxy::start(&text, &[("a", &refuses)]);
        let mut first = proxy.client();
        first.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
        expect::eventually("a full queue", || {
            let mut second = proxy.client();
            second.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
            let full = proxy.peek().iter().any(|one| one["fault"] == "queue_full");
            full.then_some(())
        });
        drop(first);
        // The next one waits, and is served when the endpoint is there.
        let address = proxy.address();
        let served = thread::spawn(move || {
            expect::eventually("a place", || {
                (Client::connect(address).get("/").status() == 200).then_some(())
            });
        });
        returns(refuses);
        served.join().unwrap();
    });
}

#[test]
fn where_nobody_waits_the_least_bad_is_tried_at_once() {
    play(|| {
        let refuses = backend::refuses();
        let proxy = proxy::start(&of_one("queue: off"), &[("a", &refuses)]);
        assert_eq!(statuses(&proxy, 2), [503, 503]);
        assert_eq!(proxy.records(2)[1]["fault"], "no_endpoint");
        returns(refuses);
        assert_eq!(statuses(&proxy, 1), [200]);
    });
}

#[test]
fn after_the_wait_the_least_bad_is_tried_once() {
    play(|| {
        // It serves, but its checks fail.
        let ill = backend::script(|connection| {
            while let Some(request) = connection.request() {
                match request.target() {
                    "/healthz" => connection.send("HTTP/1.1 503 Ill\r\ncontent-length: 0\r\n\r\n"),
                    _ => connection.ok("all the same"),
                };
            }
        });
        let text = of_one(
            "queue: { wait: 300ms }, health_check: { path: /healthz, interval: 100ms, fall: 1 }",
        );
        let proxy = proxy::start(&text, &[("a", &ill)]);
        assert_eq!(proxy.client().get("/").text(), "all the same");
        let record = proxy.record();
        assert_eq!(record["attempts"], 1);
        assert!(record["duration_ms"].as_f64().unwrap() >= 300.0, "{record}");
    });
}

#[test]
fn an_endpoint_that_refuses_is_met_once_and_then_passed_over() {
    play(|| {
        let (refuses, good) = (backend::refuses(), backend::named("good"));
        let proxy = proxy::before(&[&refuses, &good]);
        assert_eq!(statuses(&proxy, 20), [200; 20]);
        let records = proxy.records(20);
        let attempts: u64 = records
            .iter()
            .map(|one| one["attempts"].as_u64().unwrap())
            .sum();
        assert_eq!(attempts, 21);
        returns(refuses);
        expect::eventually("its return", || {
            (proxy.client().get("/").text() == "back").then_some(())
        });
    });
}

#[test]
fn whoever_waits_gets_the_endpoints_that_a_reload_brings() {
    play(|| {
        for more in [
            "queue: { wait: 1h }",
            "queue: { wait: 1h }, max_requests: 1",
        ] {
            let refuses = backend::refuses();
            let text = format!("admin: {{ address: unix:admin.sock }}\n{}", of_one(more));
            let proxy = proxy::start(&text, &[("a", &refuses)]);
            let address = proxy.address();
            let asks =
                || thread::spawn(move || Client::connect(address).get("/").text().to_owned());
            let waiting: Vec<_> = (0..3).map(|_| asks()).collect();
            let line = "lockgate_pool_queue_length{pool=\"app\"} 3";
            expect::eventually("three who wait", || {
                proxy.metrics().contains(line).then_some(())
            });
            // The first other one is no better.
            let worse = backend::refuses();
            assert!(proxy.rewrite(&text, &[("a", &worse)]).is_good());
            expect::after(Duration::from_millis(300));
            let new = backend::named("new");
            assert!(proxy.rewrite(&text, &[("a", &new)]).is_good());
            for waits in waiting {
                assert_eq!(waits.join().unwrap(), "new", "{more}");
            }
            let records = proxy.records(3);
            assert!(
                records
                    .iter()
                    .all(|record| record["endpoint"] == new.to_string())
            );
        }
    });
}
