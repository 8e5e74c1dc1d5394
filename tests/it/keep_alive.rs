//! Endpoints that close idle connections after a while: no request is lost by it, and none is sent twice.

use std::collections::HashSet;
use std::thread;
use std::time::Duration;

use crate::harness::backend::{self, Backend};
use crate::harness::{expect, play, proxy};

/// Answers, and closes connections that are idle for so long; says so if it is told to.
fn closes_idle(after: Duration, field: &'static str) -> Backend {
    backend::script(move |connection| {
        connection.wire.set_patience(after);
        while connection.request().is_some() {
            let answer = format!("HTTP/1.1 200 OK\r\n{field}Content-Length: 2\r\n\r\nok");
            if !connection.send(answer) {
                return;
            }
        }
    })
}

/// Clients that send POSTs with pauses around the endpoint's patience: each is answered, and arrives once.
fn posts_around(patience: Duration, turns: usize, field: &'static str) {
    play(move || {
        let backend = closes_idle(patience, field);
        let proxy = proxy::before_with(&[&backend], "workers: 2");
        let address = proxy.address();
        let clients = (0..6).map(|number| {
            thread::spawn(move || {
                for turn in 0..turns {
                    let target = format!("/{number}/{turn}");
                    let mut client = crate::harness::client::Client::connect(address);
                    let answer = client.post(&target, "body");
                    assert_eq!(answer.status(), 200, "{target}");
                    // From well before it to just behind it.
                    let part = 85 + (7 * turn + 5 * number) % 19;
                    expect::after(patience * part as u32 / 100);
                }
            })
        });
        let clients: Vec<_> = clients.collect();
        for client in clients {
            client.join().unwrap();
        }
        let requests = backend.seen().requests;
        let lines: HashSet<_> = requests.iter().map(|request| &request.line).collect();
        assert_eq!((requests.len(), lines.len()), (6 * turns, 6 * turns));
    });
}

#[test]
fn posts_to_an_endpoint_that_closes_after_a_second_all_arrive_once() {
    posts_around(Duration::from_secs(1), 9, "");
}

#[test]
fn posts_to_an_endpoint_that_closes_after_two_seconds_all_arrive_once() {
    posts_around(Duration::from_secs(2), 5, "");
}

#[test]
fn posts_to_an_endpoint_that_closes_after_five_seconds_all_arrive_once() {
    posts_around(Duration::from_secs(5), 3, "");
}

#[test]
fn posts_to_an_endpoint_that_says_when_it_closes_all_arrive_once() {
    posts_around(Duration::from_secs(1), 9, "Keep-Alive: timeout=1\r\n");
}

#[test]
fn what_an_endpoint_says_is_undercut_for_every_method() {
    play(|| {
        let backend = backend::script(|connection| {
            while connection.request().is_some() {
                connection.send(
                    "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=2, max=100\r\nContent-Length: 0\r\n\r\n",
                );
            }
        });
        let proxy = proxy::before(&[&backend]);
        proxy.client().get("/");
        proxy.client().get("/");
        assert_eq!(backend.seen().connections, 1);
        // Half of two seconds have passed.
        expect::after(Duration::from_millis(1_200));
        proxy.client().get("/");
        assert_eq!(backend.seen().connections, 2);
        proxy.client().post("/", "");
        assert_eq!(backend.seen().connections, 2);
        expect::after(Duration::from_millis(1_200));
        proxy.client().post("/", "");
        assert_eq!(backend.seen().connections, 3);
    });
}

#[test]
fn an_endpoint_that_says_it_is_patient_keeps_connections_for_posts_too() {
    play(|| {
        let backend = closes_idle(Duration::from_secs(20), "Keep-Alive: timeout=20\r\n");
        let proxy = proxy::before(&[&backend]);
        proxy.client().post("/", "");
        // Without its word a POST would have none that is older than four seconds.
        expect::after(Duration::from_millis(5_500));
        assert_eq!(proxy.client().post("/", "").status(), 200);
        assert_eq!(backend.seen().connections, 1);
    });
}

#[test]
fn what_is_seen_of_an_endpoint_is_undercut() {
    play(|| {
        let backend = closes_idle(Duration::from_secs(2), "");
        let proxy = proxy::before(&[&backend]);
        proxy.client().get("/");
        // It closes, and somebody looks once a second.
        expect::after(Duration::from_millis(3_500));
        proxy.client().get("/");
        assert_eq!(backend.seen().connections, 2);
        expect::after(Duration::from_millis(1_400));
        proxy.client().get("/");
        assert_eq!(backend.seen().connections, 3, "halfway is passed");
    });
}
