//! Connections to endpoints: kept, found dead, taken over, opened elsewhere.

use std::time::Duration;

use crate::harness::{backend, expect, play, proxy};

#[test]
fn an_idle_connection_serves_the_next_exchange() {
    play(|| {
        let backend = backend::echo();
        let proxy = proxy::before(&[&backend]);
        for _ in 0..3 {
            assert_eq!(proxy.client().get("/").status(), 200);
        }
        assert_eq!(backend.seen().connections, 1);
        let connects: Vec<_> = proxy
            .records(3)
            .iter()
            .map(|record| record["connect_ms"].is_number())
            .collect();
        assert_eq!(connects, [true, false, false]);
    });
}

#[test]
fn no_idle_connection_is_kept_when_none_is_wanted() {
    play(|| {
        let backend = backend::echo();
        let proxy = proxy::before_with(&[&backend], "limits: { idle_connections: 0 }");
        for _ in 0..3 {
            assert_eq!(proxy.client().get("/").status(), 200);
        }
        assert_eq!(backend.seen().connections, 3);
    });
}

#[test]
fn connection_close_is_believed() {
    play(|| {
        let backend =
            backend::says("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
        let proxy = proxy::before(&[&backend]);
        let mut client = proxy.client();
        for _ in 0..3 {
            assert_eq!(client.get("/").text(), "ok");
        }
        assert_eq!(backend.seen().connections, 3);
    });
}

#[test]
fn an_endpoint_that_closes_idle_connections_costs_nobody_an_answer() {
    play(|| {
        // It closes right behind its answer, without saying so.
        let backend = backend::closes_after(1);
        let proxy = proxy::before(&[&backend]);
        let mut client = proxy.client();
        for _ in 0..50 {
            assert_eq!(client.get("/").text(), "ok");
            assert_eq!(client.post("/", "body").text(), "ok");
        }
    });
}

#[test]
fn a_get_that_met_a_closing_connection_is_sent_again() {
    play(|| {
        let backend = backend::script(|connection| {
            connection.request();
            connection.ok("first");
            // The next request arrives, and the connection closes over it.
            if connection.number == 0 {
                connection.request();
                return;
            }
            connection.request();
        });
        let proxy = proxy::before(&[&backend]);
        let mut client = proxy.client();
        client.get("/");
        assert_eq!(client.get("/").text(), "first");
        assert_eq!(backend.seen().requests.len(), 3);
        let record = &proxy.records(2)[1];
        assert_eq!(
            (&record["attempts"], &record["fault"]),
            (&2.into(), &serde_json::Value::Null)
        );
    });
}

#[test]
fn a_post_is_never_sent_twice() {
    play(|| {
        let backend = backend::script(|connection| {
            for _ in 0..2 {
                connection.request();
                connection.ok("first");
            }
            connection.request();
        });
        let proxy = proxy::before(&[&backend]);
        let mut client = proxy.client();
        // The second shows that the endpoint keeps connections.
        client.get("/");
        client.get("/");
        assert_eq!(client.post("/", "order").status(), 502);
        assert_eq!(backend.seen().requests.len(), 3);
        assert_eq!(proxy.records(3)[2]["fault"], "response_missing");
    });
}

#[test]
fn a_get_that_an_endpoint_does_not_answer_goes_to_another() {
    play(|| {
        let vicious = backend::closes_after(0);
        let rude = backend::script(|connection| {
            connection.request();
        });
        let good = backend::named("good");
        let proxy = proxy::before(&[&vicious, &rude, &good]);
        for _ in 0..6 {
            assert_eq!(proxy.client().get("/").text(), "good");
        }
    });
}

#[test]
fn a_connect_failure_goes_to_another_endpoint_whatever_the_method() {
    play(|| {
        let (refuses, good) = (backend::refuses(), backend::echo());
        let proxy = proxy::before(&[&refuses, &good]);
        for _ in 0..4 {
            let answer = proxy.client().post("/", "body");
            assert!(answer.text().ends_with("\n\nbody"), "{}", answer.text());
        }
        let attempts: Vec<_> = proxy
            .records(4)
            .iter()
            .map(|record| record["attempts"].as_u64().unwrap())
            .collect();
        assert!(attempts.contains(&2), "{attempts:?}");
        assert_eq!(good.seen().requests.len(), 4);
    });
}

#[test]
fn retries_may_be_turned_off() {
    play(|| {
        let (refuses, good) = (backend::refuses(), backend::named("good"));
        let proxy = proxy::start(
            "routes: [{ pool: app, retry: { attempts: 0 } }]\n\
             pools: { app: { endpoints: [\"@refuses\", \"@good\"] } }",
            &[("refuses", &refuses), ("good", &good)],
        );
        let statuses: Vec<_> = (0..4).map(|_| proxy.client().get("/").status()).collect();
        // The one that refuses is passed over once it is known.
        let failed = statuses.iter().filter(|&&status| status == 502).count();
        assert_eq!(failed, 1, "{statuses:?}");
    });
}

#[test]
fn when_all_endpoints_refuse_the_fault_says_so() {
    play(|| {
        let (one, two) = (backend::refuses(), backend::refuses());
        let proxy = proxy::start(
            "routes: [{ pool: app }]\n\
             pools: { app: { endpoints: [\"@one\", \"@two\"], queue: { wait: 200ms } } }",
            &[("one", &one), ("two", &two)],
        );
        assert_eq!(proxy.client().get("/").status(), 503);
        let record = proxy.record();
        // Each of them, and the least bad once more.
        assert_eq!(
            (&record["fault"], &record["attempts"]),
            (&"queue_timeout".into(), &3.into())
        );
    });
}

#[test]
fn a_name_that_does_not_resolve_is_a_503_and_no_reason_not_to_start() {
    play(|| {
        let good = backend::named("good");
        let proxy = proxy::start(
            "routes: [{ pool: gone }, { match: { path: /good }, pool: good }]\n\
             pools: { gone: { endpoints: [\"gone.invalid:80\"] }, good: { endpoints: [\"@good\"] } }",
            &[("good", &good)],
        );
        let answer = proxy.client().get("/");
        assert_eq!(
            (answer.status(), answer.field("retry-after")),
            (503, Some("1"))
        );
        assert_eq!(proxy.record()["fault"], "no_endpoint");
        assert_eq!(proxy.client().get("/good").text(), "good");
    });
}

#[test]
fn a_name_is_resolved() {
    play(|| {
        let good = backend::named("good");
        let port = good.to_string();
        let port = port.rsplit(':').next().unwrap();
        let name = format!("localhost:{port}");
        let proxy = proxy::before(&[&name]);
        expect::eventually("an answer", || {
            let answer = proxy.client().get("/");
            (answer.status() == 200).then_some(())
        });
    });
}

#[test]
fn an_idle_connection_is_taken_over_from_a_neighbour() {
    play(|| {
        let backend = backend::echo();
        let proxy = proxy::before_with(&[&backend], "workers: 4");
        proxy.client().get("/");
        for _ in 0..3 {
            // A worker leaves it for the others after a second without need, and looks once a second.
            expect::after(Duration::from_millis(2300));
            proxy.client().get("/");
        }
        assert_eq!(backend.seen().connections, 1);
    });
}
