//! So many exchanges at a time, or connections, and no more: what is beyond waits for room, or is refused.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::harness::backend::{self, Backend, Connection};
use crate::harness::client::Client;
use crate::harness::proxy::Proxy;
use crate::harness::{certs, expect, play, proxy};

/// A pool of `@a` with more keys, and every request goes there, by way of four workers.
fn of_one(more: &str) -> String {
    format!(
        "workers: 4\nadmin: {{ address: unix:admin.sock }}\nroutes: [{{ pool: app }}]\npools: {{ app: {{ endpoints: [\"@a\"], {more} }} }}\n"
    )
}

/// How many of something there are, and the most that there were.
#[derive(Default)]
struct Count {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Count {
    fn enter(&self) {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
    }

    fn leave(&self) {
        self.now.fetch_sub(1, Ordering::SeqCst);
    }

    fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }
}

/// Answers after a moment, and counts what it has at a time.
fn serves(requests: Arc<Count>, connections: Arc<Count>) -> impl Fn(&mut Connection) {
    move |connection| {
        connections.enter();
        while connection.request().is_some() {
            requests.enter();
            expect::after(Duration::from_millis(3));
            requests.leave();
            if !connection.ok("ok") {
                break;
            }
        }
        connections.leave();
    }
}

/// Many clients at once; each request is answered.
fn crowd(proxy: &Proxy, clients: usize, requests: usize, posts: bool) {
    let address = proxy.address();
    let clients = (0..clients).map(|number| {
        thread::spawn(move || {
            for turn in 0..requests {
                let mut client = Client::connect(address);
                let answer = match posts && turn % 3 == 0 {
                    true => client.post("/", "body"),
                    false => client.get("/"),
                };
                assert_eq!(answer.status(), 200, "client {number} request {turn}");
            }
        })
    });
    let clients: Vec<_> = clients.collect();
    for client in clients {
        client.join().unwrap();
    }
}

#[test]
fn an_endpoint_never_has_more_requests_than_it_may_and_all_are_served() {
    play(|| {
        for balance in [
            "round_robin",
            "least_connections",
            "random_two",
            "peak_ewma",
        ] {
            let (requests, connections) = (Arc::<Count>::default(), Arc::<Count>::default());
            let backend = backend::script(serves(Arc::clone(&requests), connections));
            let text = of_one(&format!("max_requests: 3, balance: {balance}"));
            let proxy = proxy::start(&text, &[("a", &backend)]);
            crowd(&proxy, 16, 12, true);
            assert_eq!(requests.most(), 3, "{balance}");
        }
    });
}

#[test]
fn an_endpoint_never_has_more_connections_than_it_may_and_all_requests_are_served() {
    play(|| {
        let (requests, connections) = (Arc::<Count>::default(), Arc::<Count>::default());
        let backend = backend::script(serves(requests, Arc::clone(&connections)));
        let proxy = proxy::start(&of_one("max_connections: 3"), &[("a", &backend)]);
        crowd(&proxy, 16, 12, false);
        // None was closed to make room for another one.
        assert_eq!((connections.most(), backend.seen().connections), (3, 3));
        // What cannot be repeated takes a new one where the endpoint is not known yet, in the place of another.
        crowd(&proxy, 16, 12, true);
    });
}

#[test]
fn idle_connections_behind_tls_are_in_nobodys_way() {
    play(|| {
        let certs = certs::new().server("app", &["app.test"]);
        let script = serves(Arc::default(), Arc::default());
        let backend = backend::tls(certs.serving("app", &["h2", "http/1.1"]), script);
        let text = of_one("max_connections: 2, tls: { ca: @certs/ca.pem, server_name: app.test }");
        let folder = certs.folder().display();
        let proxy = proxy::start(&text, &[("a", &backend), ("certs", &folder)]);
        crowd(&proxy, 8, 8, true);
        assert!(backend.seen().requests.len() >= 64);
    });
}

#[test]
fn the_only_connection_serves_whichever_worker_needs_it() {
    play(|| {
        let backend = backend::echo();
        let proxy = proxy::start(&of_one("max_connections: 1"), &[("a", &backend)]);
        for _ in 0..40 {
            assert_eq!(proxy.client().get("/").status(), 200);
        }
        assert_eq!(backend.seen().connections, 1);
    });
}

/// Answers each request when it is told to, one for each byte that is noted.
fn obeys() -> Backend {
    let answered = AtomicUsize::new(0);
    backend::script(move |connection| {
        while connection.request().is_some() {
            let number = answered.fetch_add(1, Ordering::SeqCst);
            connection.wait("leave to answer", |seen| seen.written > number);
            if !connection.ok("ok") {
                return;
            }
        }
    })
}

/// A request that waits for its answer, whose status comes out.
fn asks(proxy: &Proxy, target: String) -> JoinHandle<u16> {
    let address = proxy.address();
    thread::spawn(move || Client::connect(address).get(&target).status())
}

/// Waits until the pool has so many requests in its queue.
fn queued(proxy: &Proxy, count: usize) {
    let expected = format!("lockgate_pool_queue_length{{pool=\"app\"}} {count}\n");
    expect::eventually("a queue", || {
        proxy.metrics().contains(&expected).then_some(())
    });
}

#[test]
fn those_who_wait_enter_in_the_order_in_which_they_came() {
    play(|| {
        let backend = obeys();
        let proxy = proxy::start(&of_one("max_requests: 1"), &[("a", &backend)]);
        let mut clients = vec![asks(&proxy, "/0".into())];
        backend.requests(1);
        for number in 1..12 {
            clients.push(asks(&proxy, format!("/{number}")));
            queued(&proxy, number);
        }
        for number in 1..=12 {
            backend.note_written(1);
            backend.requests(number.min(12));
        }
        for client in clients {
            assert_eq!(client.join().unwrap(), 200);
        }
        let lines = backend.seen().requests.into_iter();
        let lines: Vec<_> = lines.map(|request| request.line).collect();
        let expected: Vec<_> = (0..12).map(|at| format!("GET /{at} HTTP/1.1")).collect();
        assert_eq!(lines, expected);
    });
}

#[test]
fn whoever_waits_in_vain_for_room_gets_503_with_its_own_fault() {
    play(|| {
        let check = |queue: &str, fault: &str| {
            let backend = obeys();
            let text = of_one(&format!("max_requests: 1, queue: {queue}"));
            let proxy = proxy::start(&text, &[("a", &backend)]);
            let first = asks(&proxy, "/".into());
            backend.requests(1);
            let second = (fault == "queue_full").then(|| {
                let second = asks(&proxy, "/".into());
                queued(&proxy, 1);
                second
            });
            let answer = proxy.client().get("/");
            assert_eq!(
                (answer.status(), answer.field("retry-after")),
                (503, Some("1"))
            );
            assert_eq!(
                answer.field("proxy-status"),
                match fault {
                    "queue_full" => answer.field("proxy-status"),
                    _ => Some("lockgate; error=connection_limit_reached"),
                }
            );
            assert_eq!(proxy.record()["fault"], fault);
            backend.note_written(2);
            assert_eq!(first.join().unwrap(), 200);
            if let Some(second) = second {
                assert_eq!(second.join().unwrap(), 200);
            }
            assert_eq!(
                backend.seen().requests.len(),
                1 + usize::from(fault == "queue_full")
            );
        };
        check("{ wait: 200ms }", "endpoints_busy");
        check("off", "endpoints_busy");
        check("{ size: 1 }", "queue_full");
    });
}

#[test]
fn whoever_leaves_the_queue_is_in_nobodys_way() {
    play(|| {
        let backend = obeys();
        let proxy = proxy::start(&of_one("max_requests: 1"), &[("a", &backend)]);
        let first = asks(&proxy, "/first".into());
        backend.requests(1);
        let mut gone = proxy.client();
        gone.send("GET /gone HTTP/1.1\r\nHost: app.test\r\n\r\n");
        queued(&proxy, 1);
        let last = asks(&proxy, "/last".into());
        queued(&proxy, 2);
        drop(gone);
        queued(&proxy, 1);
        backend.note_written(2);
        assert_eq!((first.join().unwrap(), last.join().unwrap()), (200, 200));
        assert_eq!(backend.seen().requests.len(), 2);
    });
}

#[test]
fn what_one_endpoint_has_no_room_for_goes_to_another_and_each_has_its_own_limit() {
    play(|| {
        let (a, b) = (obeys(), obeys());
        let text = "workers: 4\nadmin: { address: unix:admin.sock }\nroutes: [{ pool: app }]\npools:\n  app:\n    max_requests: 3\n    \
                    endpoints: [{ address: \"@a\", max_requests: 1 }, \"@b\"]\n";
        let proxy = proxy::start(text, &[("a", &a), ("b", &b)]);
        let clients: Vec<_> = (0..6).map(|at| asks(&proxy, format!("/{at}"))).collect();
        queued(&proxy, 2);
        assert_eq!((a.requests(1).len(), b.requests(3).len()), (1, 3));
        a.note_written(9);
        b.note_written(9);
        for client in clients {
            assert_eq!(client.join().unwrap(), 200);
        }
    });
}

#[test]
fn a_reload_changes_the_limit_for_the_next_and_counts_those_that_run() {
    play(|| {
        let backend = obeys();
        let values: [(&str, &dyn Display); 1] = [("a", &backend)];
        let proxy = proxy::start(&of_one("max_requests: 1"), &values);
        let mut clients = vec![asks(&proxy, "/0".into())];
        backend.requests(1);
        proxy.rewrite(&of_one("max_requests: 2"), &values);
        clients.push(asks(&proxy, "/1".into()));
        backend.requests(2);
        clients.push(asks(&proxy, "/2".into()));
        queued(&proxy, 1);
        assert_eq!(backend.seen().requests.len(), 2);
        backend.note_written(3);
        for client in clients {
            assert_eq!(client.join().unwrap(), 200);
        }
        assert_eq!(backend.seen().requests.len(), 3);
    });
}

/// What becomes of one request too many, with limits at the top level and in a route.
fn too_many(top: &str, route: &str) {
    let (backend, other) = (obeys(), backend::named("other"));
    let text = format!(
        "workers: 4\n{top}\nroutes:\n  - {{ pool: app{route} }}\n  - {{ match: {{ path: /other }}, pool: other }}\n\
         pools:\n  app: {{ endpoints: [\"@a\"] }}\n  other: {{ endpoints: [\"@b\"] }}\n"
    );
    let values: [(&str, &dyn Display); 2] = [("a", &backend), ("b", &other)];
    let proxy = proxy::start(&text, &values);
    let clients: Vec<_> = (0..3).map(|at| asks(&proxy, format!("/{at}"))).collect();
    backend.requests(3);
    let refused = |proxy: &Proxy| {
        let answer = proxy.client().get("/more");
        (
            answer.status(),
            answer.field("retry-after").map(str::to_owned),
        )
    };
    assert_eq!(refused(&proxy), (503, Some("1".to_owned())));
    assert_eq!(proxy.record()["fault"], "concurrency_limit");
    let elsewhere = proxy.client().get("/other").status();
    assert_eq!(elsewhere, if route.is_empty() { 503 } else { 200 });
    // A reload counts those that run.
    proxy.rewrite(&format!("{text}# the same\n").replace("2s", "3s"), &values);
    assert_eq!(refused(&proxy).0, 503);
    proxy.rewrite(
        &text.replace("concurrent_requests: 3", "concurrent_requests: 4"),
        &values,
    );
    let fourth = asks(&proxy, "/fourth".into());
    backend.requests(4);
    assert_eq!(refused(&proxy).0, 503);
    backend.note_written(5);
    for client in clients {
        assert_eq!(client.join().unwrap(), 200);
    }
    assert_eq!(fourth.join().unwrap(), 200);
    expect::eventually("room", || (refused(&proxy).0 == 200).then_some(()));
}

#[test]
fn a_route_has_so_many_requests_at_a_time() {
    play(|| too_many("", ", limits: { concurrent_requests: 3 }"));
}

#[test]
fn all_routes_together_have_so_many_requests_at_a_time() {
    play(|| too_many("limits: { concurrent_requests: 3 }", ""));
}

#[test]
fn a_limit_that_adapts_keeps_what_is_too_much_waiting() {
    play(|| {
        let (requests, connections) = (Arc::<Count>::default(), Arc::<Count>::default());
        let backend = backend::script(serves(Arc::clone(&requests), connections));
        let text = of_one("adaptive_concurrency: { min: 2, max: 6, initial: 4 }");
        let proxy = proxy::start(&text, &[("a", &backend)]);
        crowd(&proxy, 16, 60, true);
        assert!((2..=6).contains(&requests.most()), "{}", requests.most());
    });
}

#[test]
fn an_endpoint_whose_answers_break_off_is_ejected_and_the_metrics_say_so() {
    play(|| {
        let broken = backend::says_and_closes("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome");
        let good = backend::named("good");
        let text = "admin: { address: unix:admin.sock }\nroutes: [{ pool: app }]\n\
                    pools: { app: { endpoints: [\"@a\", \"@b\"] } }\n";
        let proxy = proxy::start(text, &[("a", &broken), ("b", &good)]);
        let metrics = proxy.metrics();
        for sample in [
            format!("lockgate_endpoint_healthy{{pool=\"app\",endpoint=\"{broken}\"}} 1\n"),
            "lockgate_pool_ejections_total{pool=\"app\",cause=\"failures\"} 0\n".to_owned(),
        ] {
            assert!(metrics.contains(&sample), "{sample}: {metrics}");
        }
        expect::eventually("an ejection", || {
            let mut client = proxy.client();
            client.send("GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n");
            client.answer();
            let metrics = proxy.metrics();
            let samples = [
                format!("lockgate_endpoint_healthy{{pool=\"app\",endpoint=\"{broken}\"}} 0\n"),
                format!("lockgate_endpoint_healthy{{pool=\"app\",endpoint=\"{good}\"}} 1\n"),
                "lockgate_pool_ejections_total{pool=\"app\",cause=\"failures\"} 1\n".to_owned(),
            ];
            samples
                .iter()
                .all(|sample| metrics.contains(sample))
                .then_some(())
        });
    });
}
