//! From a request to its route, and what the route does with it.

use crate::harness::client::Client;
use crate::harness::h2;
use crate::harness::{backend, play, proxy};

/// Routes that answer with their own name.
const ROUTES: &str = r#"
routes:
  - { match: { host: "*.app.test" }, respond: { body: wildcard } }
  - { match: { host: app.test }, respond: { body: host } }
  - { match: { host: app.test, path: /v1 }, respond: { body: prefix } }
  - { match: { host: app.test, path: /v1/deep }, respond: { body: deeper } }
  - { match: { host: app.test, path: { exact: /v1/exact } }, respond: { body: exact } }
  - { match: { host: app.test, path: { regex: "/r/[0-9]+" } }, respond: { body: regex } }
  - { match: { host: app.test, path: /m, methods: [POST] }, respond: { body: method } }
  - { match: { host: app.test, path: /h, headers: { x-canary: "1" } }, respond: { body: header } }
  - { match: { host: app.test, path: /q, query: { beta: "1" } }, respond: { body: query } }
  - { match: { host: [one.test, two.test] }, respond: { body: list } }
"#;

fn said(client: &mut Client, host: &str, line: &str, more: &str) -> String {
    let answer = client.ask(&format!("{line} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n"));
    match answer.status() {
        200 => answer.text().to_owned(),
        status => status.to_string(),
    }
}

#[test]
fn the_most_specific_route_wins_whatever_the_order() {
    play(|| {
        let proxy = proxy::start(ROUTES, &[]);
        let mut client = proxy.client();
        for (host, line, more, expected) in [
            ("app.test", "GET /", "", "host"),
            ("APP.test:8080", "GET /", "", "host"),
            ("app.test.", "GET /", "", "host"),
            ("www.app.test", "GET /", "", "wildcard"),
            ("a.b.app.test", "GET /v1", "", "wildcard"),
            ("one.test", "GET /", "", "list"),
            ("two.test", "GET /", "", "list"),
            ("three.test", "GET /", "", "404"),
            ("app.test", "GET /v1", "", "prefix"),
            ("app.test", "GET /v1/x?y", "", "prefix"),
            ("app.test", "GET /v10", "", "host"),
            ("app.test", "GET /v1/deep/x", "", "deeper"),
            ("app.test", "GET /v1/x/../deep", "", "deeper"),
            ("app.test", "GET /v1/%64eep", "", "deeper"),
            ("app.test", "GET /v1/exact", "", "exact"),
            ("app.test", "GET /v1/exact/x", "", "prefix"),
            ("app.test", "GET /r/12", "", "regex"),
            ("app.test", "GET /r/12x", "", "host"),
            ("app.test", "POST /m", "Content-Length: 0\r\n", "method"),
            ("app.test", "GET /m", "", "host"),
            ("app.test", "GET /h", "X-Canary: 1\r\n", "header"),
            ("app.test", "GET /h", "X-Canary: 2\r\n", "host"),
            ("app.test", "GET /q?a=b&beta=1", "", "query"),
            ("app.test", "GET /q?beta=2", "", "host"),
        ] {
            assert_eq!(
                said(&mut client, host, line, more),
                expected,
                "{host} {line} {more}"
            );
        }
    });
}

#[test]
fn paths_are_matched_in_one_form_and_forwarded_as_they_came() {
    play(|| {
        let backend = backend::echo();
        let proxy = proxy::start(
            "routes: [{ match: { path: /secret }, respond: { status: 403 } }, { pool: app }]\n\
             pools: { app: { endpoints: [\"@app\"] } }",
            &[("app", &backend)],
        );
        let mut client = proxy.client();
        for path in [
            "/secret",
            "/x/../secret",
            "/%73ecret",
            "/./secret/x",
            "/x/%2e%2e/secret",
        ] {
            assert_eq!(client.get(path).status(), 403, "{path}");
        }
        for path in ["/a%2Fb", "/a%5cb", "/a%00b"] {
            assert_eq!(client.get(path).status(), 400, "{path}");
        }
        assert!(backend.seen().requests.is_empty());
        assert_eq!(client.get("/%7Ea/./b/?q=%2F#").status(), 400);
        let mut client = proxy.client();
        assert_eq!(client.get("/%7Ea/./b/?q=%2F").status(), 200);
        assert_eq!(backend.request().target(), "/%7Ea/./b/?q=%2F");
    });
}

#[test]
fn filters_run_in_order_on_requests_and_backwards_on_answers() {
    play(|| {
        let backend = backend::says(
            "HTTP/1.1 200 OK\r\nServer: theirs\r\nX-Kept: 1\r\nContent-Length: 0\r\n\r\n",
        );
        let proxy = proxy::start(
            r#"
routes:
  - match: { path: /v1 }
    filters:
      - rewrite_prefix: { from: /v1, to: /api }
      - rewrite_regex: { pattern: "/user/([0-9]+)", to: "/u/$1" }
      - set_request_headers: { x-env: one }
      - set_request_headers: { x-env: two, host: inner.test }
      - add_request_headers: { x-more: "1" }
      - remove_request_headers: [x-secret]
      - set_response_headers: { x-env: first }
      - set_response_headers: { x-env: second }
      - add_response_headers: { x-more: "1" }
      - remove_response_headers: [server]
    pool: app
pools: { app: { endpoints: ["@app"] } }
"#,
            &[("app", &backend)],
        );
        let answer = proxy.client().ask(
            "GET /v1/user/7?a=b HTTP/1.1\r\nHost: app.test\r\nX-Secret: 1\r\nX-More: 0\r\n\
             X-Env: zero\r\n\r\n",
        );
        let request = backend.request();
        assert_eq!(request.target(), "/api/u/7?a=b");
        assert_eq!(request.field("x-env"), Some("two"));
        assert_eq!(request.field("host"), Some("inner.test"));
        assert_eq!(request.field("x-forwarded-host"), Some("app.test"));
        assert_eq!(request.all("x-more"), ["0", "1"]);
        assert_eq!(request.field("x-secret"), None);
        assert_eq!(answer.field("x-env"), Some("first"));
        assert_eq!(answer.field("x-more"), Some("1"));
        assert_eq!(answer.field("server"), None);
        assert_eq!(answer.field("x-kept"), Some("1"));
        // The log says what the client asked for.
        assert_eq!(proxy.record()["path"], "/v1/user/7?a=b");
    });
}

#[test]
fn redirects_and_fixed_answers_come_from_the_proxy_itself() {
    play(|| {
        let proxy = proxy::start(
            r#"
routes:
  - match: { path: /old }
    redirect: { to: "https://new.test{path}{query}", status: 308 }
  - match: { path: { exact: /healthz } }
    respond: { status: 200, body: "ok\n" }
  - match: { path: /teapot }
    respond: { status: 418, body: "{}", headers: { content-type: application/json } }
"#,
            &[],
        );
        let mut client = proxy.client();
        let moved = client.get("/old/a?b=c");
        assert_eq!(moved.status(), 308);
        assert_eq!(moved.field("location"), Some("https://new.test/old/a?b=c"));
        let health = client.get("/healthz");
        assert_eq!((health.status(), health.text()), (200, "ok\n"));
        assert_eq!(
            health.field("content-type"),
            Some("text/plain; charset=utf-8")
        );
        let teapot = client.get("/teapot");
        assert_eq!((teapot.status(), teapot.text()), (418, "{}"));
        assert_eq!(teapot.field("content-type"), Some("application/json"));
        let head = client.ask("HEAD /healthz HTTP/1.1\r\nHost: app.test\r\n\r\n");
        assert_eq!(head.field("content-length"), Some("3"));
        let nothing = client.get("/");
        assert_eq!(nothing.status(), 404);
        let mut client = h2::Client::connect(proxy.address());
        assert_eq!(client.get("http://app.test/healthz").text(), "ok\n");
        let records = proxy.records(6);
        assert_eq!(records[4]["fault"], "no_route");
        assert_eq!(records[0]["status"], 308);
    });
}
