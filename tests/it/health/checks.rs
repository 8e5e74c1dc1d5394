//! Active checks: what they ask, what they believe, and who takes traffic for it.

use super::{of_two, statuses};
use crate::harness::backend::{Backend, Connection};
use crate::harness::proxy::Proxy;
use crate::harness::{backend, certs, expect, h2, play, proxy};

/// Checks that come as often as they may.
const OFTEN: &str = "interval: 100ms, rise: 2, fall: 2";

/// Answers checks on `/healthz` with 503 until it is noted to be well, and everything else with its name.
fn moody(name: &'static str) -> Backend {
    backend::script(move |connection| mood(connection, name))
}

fn mood(connection: &mut Connection, name: &str) {
    while let Some(request) = connection.request() {
        if request.target() != "/healthz" || connection.seen().written > 0 {
            connection.ok(name);
        } else {
            connection.send("HTTP/1.1 503 Ill\r\ncontent-length: 0\r\n\r\n");
        }
    }
}

/// Sends requests until one is answered so.
fn eventually_says(proxy: &Proxy, name: &str) {
    let mut client = proxy.client();
    expect::eventually(name, || (client.get("/").text() == name).then_some(()));
}

/// How many of so many requests are answered so.
fn says(proxy: &Proxy, count: usize, name: &str) -> usize {
    let mut client = proxy.client();
    (0..count)
        .filter(|_| client.get("/").text() == name)
        .count()
}

fn checks(backend: &Backend) -> usize {
    let requests = backend.seen().requests.into_iter();
    requests.filter(|one| one.target() == "/healthz").count()
}

#[test]
fn a_new_endpoint_takes_traffic_after_its_first_success() {
    play(|| {
        let (a, b) = (moody("a"), moody("b"));
        b.note_written(1);
        let keys = format!("health_check: {{ path: /healthz, {OFTEN} }}");
        let proxy = proxy::start(&of_two(&keys), &[("a", &a), ("b", &b)]);
        assert_eq!(says(&proxy, 20, "b"), 20);
        a.note_written(1);
        eventually_says(&proxy, "a");
        assert_eq!(says(&proxy, 20, "a"), 10);
    });
}

#[test]
fn an_endpoint_whose_checks_fail_is_passed_over_until_they_pass_again() {
    play(|| {
        let (a, b) = (moody("a"), moody("b"));
        a.note_written(1);
        b.note_written(1);
        let keys = format!("health_check: {{ path: /healthz, {OFTEN} }}");
        let proxy = proxy::start(&of_two(&keys), &[("a", &a), ("b", &b)]);
        eventually_says(&proxy, "a");
        eventually_says(&proxy, "b");
        a.forget_written();
        expect::eventually("only b", || (says(&proxy, 10, "b") == 10).then_some(()));
        a.note_written(1);
        eventually_says(&proxy, "a");
    });
}

#[test]
fn a_check_asks_what_is_written_and_looks_at_status_and_body() {
    play(|| {
        let check = |keys: &str, answer: &'static str, is_good: bool| {
            let asked = backend::script(move |connection| {
                while let Some(request) = connection.request() {
                    match request.target() {
                        "/" => connection.ok("asked"),
                        _ => connection.send(answer),
                    };
                }
            });
            let keys = format!("health_check: {{ path: \"/ready?full=1\", {OFTEN}, {keys} }}");
            // The other one takes every check.
            let other = backend::script(|connection| {
                while let Some(request) = connection.request() {
                    match request.target() {
                        "/" => connection.ok("other"),
                        _ => connection.ok("all is fine, and all is better"),
                    };
                }
            });
            let proxy = proxy::start(&of_two(&keys), &[("a", &asked), ("b", &other)]);
            // The third check is behind two whose results are known.
            let seen = asked.requests(3);
            assert_eq!(says(&proxy, 10, "asked") > 0, is_good, "{keys}: {answer}");
            seen.into_iter().next().unwrap()
        };
        let fine = "HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\nall is fine";
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
                       7\r\nall is \r\n4\r\nfine\r\n0\r\n\r\n";
        let moved = "HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n";
        let teapot = "HTTP/1.1 418 Teapot\r\ncontent-length: 0\r\n\r\n";
        let seen = check("headers: { x-check: \"1\" }, host: app.test", fine, true);
        assert_eq!(seen.target(), "/ready?full=1");
        assert_eq!(seen.field("host"), Some("app.test"));
        assert_eq!(seen.field("x-check"), Some("1"));
        assert_eq!(seen.field("user-agent"), Some("lockgate-health-check"));
        check("body: is fine", fine, true);
        check("body: is fine", chunked, true);
        check("body: is better", fine, false);
        check("timeout: 100ms", moved, true);
        check("status: 200-299", moved, false);
        check("timeout: 100ms", teapot, false);
        check("status: [200, 400-420]", teapot, true);
        check("timeout: 100ms", "not HTTP at all\r\n\r\n", false);
        check("timeout: 100ms", "HTTP/1.1 200 OK\r\n", false);
    });
}

#[test]
fn a_check_by_tcp_wants_a_connection_and_no_more() {
    play(|| {
        let (a, b) = (backend::named("a"), backend::refuses());
        let keys = format!("health_check: {{ type: tcp, {OFTEN} }}, queue: off");
        let proxy = proxy::start(&of_two(&keys), &[("a", &a), ("b", &b)]);
        eventually_says(&proxy, "a");
        let before = proxy.peek().len();
        assert_eq!(says(&proxy, 10, "a"), 10);
        let records = proxy.records(before + 10);
        assert!(
            records
                .iter()
                .skip(before)
                .all(|record| record["attempts"] == 1)
        );
    });
}

#[test]
fn a_check_may_ask_another_port() {
    play(|| {
        let (a, b) = (backend::named("a"), backend::named("b"));
        let side = moody("side");
        let port = side.to_string().rsplit_once(':').unwrap().1.to_owned();
        let keys = format!("health_check: {{ path: /healthz, port: {port}, {OFTEN} }}, queue: off");
        let proxy = proxy::start(&of_two(&keys), &[("a", &a), ("b", &b)]);
        side.requests(3);
        // Neither of the two is asked itself.
        assert!(a.seen().requests.is_empty() && b.seen().requests.is_empty());
        side.note_written(1);
        eventually_says(&proxy, "a");
    });
}

#[test]
fn checks_go_over_the_tls_of_the_pool_and_by_its_protocol() {
    play(|| {
        let certs = certs::new().server("app", &["app.test"]);
        let tls = "tls: { ca: @certs/ca.pem, server_name: app.test }";
        let run = |backend: &Backend, pool: &str| {
            let text = format!(
                "routes: [{{ pool: app }}]\npools: {{ app: {{ endpoints: [\"@a\"], {pool}, \
                 health_check: {{ path: /healthz, {OFTEN} }} }} }}\n"
            );
            let proxy = proxy::start(&text, &[("a", backend), ("certs", &certs)]);
            eventually_says(&proxy, "a");
            expect::eventually("checks", || (checks(backend) > 2).then_some(()));
        };
        let http1 = backend::tls(certs.serving("app", &["http/1.1"]), |connection| {
            while connection.request().is_some() {
                connection.ok("a");
            }
        });
        run(&http1, tls);
        let clear = h2::backend(|_| h2::said("a", &[]));
        let text = "protocol: h2";
        let proxy = proxy::start(
            &format!(
                "routes: [{{ pool: app }}]\npools: {{ app: {{ endpoints: [\"@a\"], {text}, \
                 health_check: {{ path: /healthz, {OFTEN} }} }} }}\n"
            ),
            &[("a", &clear)],
        );
        eventually_says(&proxy, "a");
        let seen = clear.requests(4);
        assert!(
            seen.iter().any(|one| one.line.contains("/healthz HTTP/2")),
            "{seen:?}"
        );
        let secure = h2::tls_backend(certs.serving("app", &["h2"]), |_| h2::said("a", &[]));
        let text = format!(
            "routes: [{{ pool: app }}]\npools: {{ app: {{ endpoints: [\"@a\"], protocol: h2, {tls}, \
             health_check: {{ path: /healthz, {OFTEN} }} }} }}\n"
        );
        let proxy = proxy::start(&text, &[("a", &secure), ("certs", &certs)]);
        eventually_says(&proxy, "a");
    });
}

#[test]
fn a_service_is_asked_by_the_health_protocol_of_grpc() {
    play(|| {
        let serves = |verdict: &'static str| {
            h2::backend(move |request| {
                let is_check = request.line.contains("/grpc.health.v1.Health/Check");
                if !is_check {
                    return h2::said(verdict, &[]);
                }
                assert_eq!(request.body, b"\0\0\0\0\x06\x0a\x04shop");
                assert_eq!(request.field("content-type"), Some("application/grpc"));
                let body = match verdict {
                    "serving" => "\0\0\0\0\u{2}\u{8}\u{1}",
                    _ => "\0\0\0\0\u{2}\u{8}\u{2}",
                };
                h2::Said {
                    fields: vec![("content-type", "application/grpc")],
                    ..h2::said(body, &[("grpc-status", "0")])
                }
            })
        };
        let (a, b) = (serves("serving"), serves("not serving"));
        let keys = format!("protocol: h2, health_check: {{ type: grpc, service: shop, {OFTEN} }}");
        let proxy = proxy::start(&of_two(&keys), &[("a", &a), ("b", &b)]);
        assert_eq!(says(&proxy, 10, "serving"), 10);
        b.requests(3);
        assert_eq!(says(&proxy, 10, "serving"), 10);
    });
}

#[test]
fn what_checks_have_found_survives_a_reload() {
    play(|| {
        let (a, b) = (moody("a"), moody("b"));
        a.note_written(1);
        // The next check is far away.
        let keys = "health_check: { path: /healthz, interval: 10m, timeout: 1s, fall: 1 }";
        let proxy = proxy::start(&of_two(keys), &[("a", &a), ("b", &b)]);
        eventually_says(&proxy, "a");
        b.requests(1);
        let text = of_two(keys)
            .replace("10m", "9m")
            .replace("fall: 1", "fall: 2");
        let outcome = proxy.rewrite(&text, &[("a", &a), ("b", &b)]);
        assert!(outcome.is_good(), "{outcome:?}");
        assert_eq!(says(&proxy, 20, "a"), 20);
        assert_eq!(checks(&a), 1, "it is not asked anew");
    });
}

#[test]
fn checks_end_when_they_are_no_longer_written() {
    play(|| {
        let (a, b) = (moody("a"), moody("b"));
        a.note_written(1);
        let keys = format!("health_check: {{ path: /healthz, {OFTEN} }}");
        let proxy = proxy::start(&of_two(&keys), &[("a", &a), ("b", &b)]);
        eventually_says(&proxy, "a");
        proxy.rewrite(&of_two("queue: off"), &[("a", &a), ("b", &b)]);
        // One that never passed a check takes traffic then.
        eventually_says(&proxy, "b");
    });
}

#[test]
fn a_pool_in_panic_uses_endpoints_whose_checks_fail() {
    play(|| {
        let (a, b) = (moody("a"), moody("b"));
        a.note_written(1);
        b.note_written(1);
        let keys = format!("health_check: {{ path: /healthz, {OFTEN} }}, panic_threshold: 60%");
        let proxy = proxy::start(&of_two(&keys), &[("a", &a), ("b", &b)]);
        eventually_says(&proxy, "a");
        eventually_says(&proxy, "b");
        a.forget_written();
        let before = checks(&a);
        expect::eventually("checks", || (checks(&a) > before + 4).then_some(()));
        assert_eq!(says(&proxy, 20, "a"), 10);
        assert_eq!(statuses(&proxy, 10), [200; 10]);
    });
}

/// Whether the proxy tells that its only endpoint is healthy.
fn is_healthy(proxy: &Proxy) -> bool {
    let metrics = proxy.metrics();
    let mut lines = metrics.lines();
    let line = lines.find(|line| line.starts_with("lockgate_endpoint_healthy{"));
    line.is_some_and(|line| line.ends_with(" 1"))
}

/// A pool of `@a`, whose checks fail at once, and the control socket.
fn of_one(more: &str) -> String {
    format!(
        "admin: {{ address: unix:admin.sock }}\nroutes: [{{ pool: app }}]\npools: {{ app: {{ endpoints: [\"@a\"], {more} }} }}\n"
    )
}

#[test]
fn checks_keep_a_connection_and_make_a_new_one_after_ten() {
    play(|| {
        let a = backend::named("a");
        let keys = of_one("health_check: { interval: 100ms }");
        let _proxy = proxy::start(&keys, &[("a", &a)]);
        let seen = a.wait("25 checks", |seen| seen.requests.len() >= 25);
        assert_eq!(seen.connections, 3);
        let clear = h2::backend(|_| h2::said("a", &[]));
        let keys = of_one("protocol: h2, health_check: { interval: 100ms }");
        let _proxy = proxy::start(&keys, &[("a", &clear)]);
        let seen = clear.wait("25 checks", |seen| seen.requests.len() >= 25);
        assert_eq!(seen.connections, 3);
    });
}

#[test]
fn a_kept_connection_that_is_dead_says_nothing_of_the_endpoint() {
    play(|| {
        let hangs_up = backend::closes_after(1);
        let falls_silent = backend::script(|connection| {
            connection.request();
            connection.ok("first");
            connection.request();
            connection.until_closed();
        });
        let breaks = backend::script(|connection| {
            connection.request();
            connection.ok("first");
            connection.request();
            connection.hang_up();
        });
        for dead in [hangs_up, falls_silent, breaks] {
            let keys = of_one("health_check: { interval: 200ms, fall: 1 }");
            let proxy = proxy::start(&keys, &[("a", &dead)]);
            dead.wait("a few checks", |seen| seen.connections >= 2);
            for connections in 3..7 {
                assert!(is_healthy(&proxy));
                dead.wait("the next check", |seen| seen.connections >= connections);
            }
        }
    });
}
