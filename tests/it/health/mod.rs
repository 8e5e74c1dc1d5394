//! The health of endpoints: who is passed over, for how long, and what becomes of requests when nobody is left.

mod checks;
mod queue;

use std::time::Duration;

use crate::harness::backend::Backend;
use crate::harness::client::Client;
use crate::harness::proxy::Proxy;
use crate::harness::{backend, expect, play, proxy};

/// A pool `app` of `@a` and `@b` with more keys, and every request goes there.
fn of_two(more: &str) -> String {
    format!(
        "routes: [{{ pool: app }}]\npools: {{ app: {{ endpoints: [\"@a\", \"@b\"], {more} }} }}\n"
    )
}

/// The same, and every request is sent once.
fn of_two_once(more: &str) -> String {
    of_two(more).replace("pool: app }]", "pool: app, retry: off }]")
}

/// Answers every request with this status.
fn status(head: &'static str) -> Backend {
    backend::script(move |connection| {
        while connection.request().is_some() {
            connection.send(format!("HTTP/1.1 {head}\r\ncontent-length: 0\r\n\r\n"));
        }
    })
}

/// The statuses of so many requests.
fn statuses(proxy: &Proxy, count: usize) -> Vec<u16> {
    let mut client = proxy.client();
    (0..count).map(|_| client.get("/").status()).collect()
}

#[test]
fn an_endpoint_that_fails_five_times_in_a_row_is_ejected() {
    play(|| {
        let (bad, good) = (status("503 Not Now"), backend::named("good"));
        let proxy = proxy::before(&[&bad, &good]);
        let statuses = statuses(&proxy, 40);
        // Those that met it were asked for elsewhere.
        assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
        assert_eq!(bad.seen().requests.len(), 5);
    });
}

#[test]
fn an_application_that_answers_500_stays() {
    play(|| {
        let (bad, good) = (status("500 Oops"), backend::named("good"));
        let proxy = proxy::before(&[&bad, &good]);
        let statuses = statuses(&proxy, 40);
        let failed = statuses.iter().filter(|status| **status == 500).count();
        assert_eq!(failed, 20, "{statuses:?}");
    });
}

#[test]
fn the_last_healthy_endpoint_is_never_ejected() {
    play(|| {
        let (a, b) = (status("502 Bad"), status("504 Late"));
        let proxy = proxy::start(&of_two_once(""), &[("a", &a), ("b", &b)]);
        let statuses = statuses(&proxy, 60);
        assert!(
            !statuses.contains(&200) && !statuses.contains(&503),
            "{statuses:?}"
        );
        let seen = [a.seen().requests.len(), b.seen().requests.len()];
        assert_eq!(seen[0].min(seen[1]), 5, "{seen:?}");
        assert_eq!(seen[0] + seen[1], 60);
    });
}

#[test]
fn nobody_is_ejected_where_that_is_off() {
    play(|| {
        let (bad, good) = (status("503 Not Now"), backend::named("good"));
        let proxy = proxy::start(&of_two_once("outlier: off"), &[("a", &bad), ("b", &good)]);
        let statuses = statuses(&proxy, 40);
        let failed = statuses.iter().filter(|status| **status == 503).count();
        assert_eq!(failed, 20, "{statuses:?}");
    });
}

#[test]
fn an_ejected_endpoint_comes_back_and_is_on_trial() {
    play(|| {
        let (bad, good) = (status("503 Not Now"), backend::named("good"));
        let keys = "outlier: { failures: 3, ejection: 300ms }";
        let proxy = proxy::start(&of_two(keys), &[("a", &bad), ("b", &good)]);
        statuses(&proxy, 20);
        assert_eq!(bad.seen().requests.len(), 3);
        // It is out of the turn for twice as long after one failure more.
        expect::eventually("another try", || {
            statuses(&proxy, 2);
            (bad.seen().requests.len() == 4).then_some(())
        });
        statuses(&proxy, 20);
        assert_eq!(bad.seen().requests.len(), 4);
    });
}

#[test]
fn an_ejected_endpoint_that_is_well_again_serves() {
    play(|| {
        let sick = backend::script(|connection| {
            let mut count = 0;
            while connection.request().is_some() {
                count += 1;
                match count {
                    1..=3 => connection.send("HTTP/1.1 502 Bad\r\ncontent-length: 0\r\n\r\n"),
                    _ => connection.ok("well"),
                };
            }
        });
        let good = backend::named("good");
        let keys = "outlier: { failures: 3, ejection: 300ms }";
        let proxy = proxy::start(&of_two(keys), &[("a", &sick), ("b", &good)]);
        statuses(&proxy, 6);
        let mut client = proxy.client();
        expect::eventually("its return", || {
            (client.get("/").text() == "well").then_some(())
        });
        let said: Vec<_> = (0..10).map(|_| client.get("/").text().to_owned()).collect();
        assert_eq!(said.iter().filter(|said| *said == "well").count(), 5);
    });
}

#[test]
fn an_ejection_survives_a_reload() {
    play(|| {
        let (bad, good) = (status("503 Not Now"), backend::named("good"));
        let proxy = proxy::start(&of_two("outlier: {}"), &[("a", &bad), ("b", &good)]);
        statuses(&proxy, 20);
        assert_eq!(bad.seen().requests.len(), 5);
        // Another setting makes another pool of the same endpoints.
        let text = of_two("outlier: { requests: 30 }");
        let outcome = proxy.rewrite(&text, &[("a", &bad), ("b", &good)]);
        assert!(outcome.is_good(), "{outcome:?}");
        expect::after(Duration::from_millis(1100));
        assert!(statuses(&proxy, 20).iter().all(|status| *status == 200));
        assert_eq!(bad.seen().requests.len(), 5);
    });
}

#[test]
fn what_a_client_does_wrong_is_held_against_nobody() {
    play(|| {
        let (a, b) = (backend::echo(), backend::echo());
        let proxy = proxy::before(&[&a, &b]);
        for _ in 0..20 {
            let mut client = proxy.client();
            client.send("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 10\r\n\r\nhalf");
            drop(client);
        }
        proxy.records(20);
        assert_eq!(statuses(&proxy, 20), [200; 20]);
        let seen = |backend: &Backend| {
            let requests = backend.seen().requests.into_iter();
            requests.filter(|one| one.method() == "GET").count()
        };
        assert_eq!((seen(&a), seen(&b)), (10, 10));
    });
}

/// Answers after so long.
fn late(time: Duration) -> Backend {
    backend::script(move |connection| {
        while connection.request().is_some() {
            expect::after(time);
            connection.ok("late");
        }
    })
}

#[test]
fn an_endpoint_that_stays_slow_beside_the_others_is_ejected_where_that_is_asked_for() {
    play(|| {
        let slow = late(Duration::from_millis(100));
        let (a, b) = (backend::named("fast"), backend::named("fast"));
        let text = |keys: &str| {
            format!(
                "admin: {{ address: unix:admin.sock }}\nroutes: [{{ pool: app }}]\npools: {{ app: {{ endpoints: [\"@a\", \"@b\", \"@slow\"], outlier: {{ requests: 5, window: 2s{keys} }} }} }}\n"
            )
        };
        let values: [(&str, &dyn std::fmt::Display); 3] = [("a", &a), ("b", &b), ("slow", &slow)];
        let proxy = proxy::start(&text(""), &values);
        let mut client = proxy.client();
        let asked = |client: &mut Client, times| {
            let said = (0..times).map(|_| client.get("/").text().to_owned());
            said.filter(|said| said == "late").count()
        };
        assert_eq!(asked(&mut client, 45), 15, "nobody asked for it");
        let keys = ", latency: { least: 60ms, for: 300ms }";
        assert!(proxy.rewrite(&text(keys), &values).is_good());
        expect::eventually("its ejection", || {
            (asked(&mut client, 6) == 0).then_some(())
        });
        assert_eq!(asked(&mut client, 30), 0);
        let line = "lockgate_pool_ejections_total{pool=\"app\",cause=\"latency\"} 1";
        let metrics = proxy.metrics();
        assert!(metrics.contains(line), "{metrics}");
    });
}
