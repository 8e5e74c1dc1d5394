//! What clients hear of a failure: in the form that they read, and nothing of what is behind us.

use crate::harness::h2;
use crate::harness::wire::Message;
use crate::harness::{backend, play, proxy};

fn failure(fields: &str) -> Message {
    let refuses = backend::refuses();
    let proxy = proxy::start(
        "routes: [{ pool: app, retry: { attempts: 0 } }]\n\
         pools: { app: { endpoints: [\"@app\"] } }",
        &[("app", &refuses)],
    );
    let answer = proxy
        .client()
        .ask(&format!("GET / HTTP/1.1\r\nHost: app.test\r\n{fields}\r\n"));
    assert!(!answer.text().contains("127.0.0.1"), "{}", answer.text());
    answer
}

#[test]
fn browsers_programs_and_terminals_get_the_form_that_they_read() {
    play(|| {
        let html = failure("Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\n");
        assert_eq!(html.status(), 502);
        assert_eq!(html.field("content-type"), Some("text/html; charset=utf-8"));
        assert!(html.text().contains("<h1>502 Bad Gateway</h1>"));

        let json = failure("Accept: application/json\r\n");
        assert_eq!(json.field("content-type"), Some("application/problem+json"));
        let text: serde_json::Value = serde_json::from_slice(&json.body).unwrap();
        assert_eq!(text["status"], 502);

        let plain = failure("");
        assert_eq!(
            plain.field("content-type"),
            Some("text/plain; charset=utf-8")
        );
        assert!(plain.text().starts_with("502 Bad Gateway\n"));

        let grpc = failure("Content-Type: application/grpc\r\n");
        assert_eq!(
            (grpc.status(), grpc.field("grpc-status")),
            (200, Some("14"))
        );
        assert!(grpc.body.is_empty());
    });
}

#[test]
fn an_answer_to_head_has_a_length_and_no_body() {
    play(|| {
        let silent = backend::closes_after(0);
        let proxy = proxy::before(&[&silent]);
        let mut client = proxy.client();
        let head = client.ask("HEAD / HTTP/1.1\r\nHost: app.test\r\n\r\n");
        assert_eq!(head.status(), 502);
        // The next answer begins where the first ends.
        let body = client.get("/");
        assert_eq!(head.field("content-length"), body.field("content-length"));
    });
}

#[test]
fn proxy_status_names_the_kind_of_failure() {
    play(|| {
        let cases = [
            (backend::says("garbage\r\n\r\n"), "http_protocol_error"),
            (backend::closes_after(0), "connection_terminated"),
            (backend::stalls(), "http_response_timeout"),
        ];
        for (backend, kind) in cases {
            let proxy = proxy::before_with(&[&backend], "timeouts: { response: 100ms }");
            let answer = proxy.client().get("/");
            let status = format!("lockgate; error={kind}");
            assert_eq!(answer.field("proxy-status"), Some(&*status));
            assert_eq!(answer.field("cache-control"), Some("no-store"));
        }
        let refuses = backend::refuses();
        let proxy = proxy::start(
            "routes: [{ pool: app, retry: { attempts: 0 } }]\n\
             pools: { app: { endpoints: [\"@app\"] } }",
            &[("app", &refuses)],
        );
        let answer = h2::Client::connect(proxy.address()).get("http://app.test/");
        let status = "lockgate; error=connection_refused";
        assert_eq!(answer.field("proxy-status"), Some(status));
        // What an endpoint says is its own.
        let backend = backend::says("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n");
        let proxy = proxy::before(&[&backend]);
        let answer = proxy.client().get("/");
        assert_eq!((answer.status(), answer.field("proxy-status")), (500, None));
        assert_eq!(proxy.record()["fault"], serde_json::Value::Null);
    });
}
