//! Exactly one record for each exchange, however it ends.

use http::Request;
use serde_json::Value;

use crate::harness::h2::{self, Pieces};
use crate::harness::proxy::Proxy;
use crate::harness::{backend, certs, client, expect, play, proxy};

/// Stops the proxy, and insists on one record with this status and fault.
#[track_caller]
fn ends_with(proxy: Proxy, status: u16, fault: impl Into<Value>) -> Value {
    let fault = fault.into();
    proxy.records(1);
    let mut records = proxy.stop();
    assert_eq!(records.len(), 1, "{records:?}");
    let record = records.remove(0);
    assert_eq!(
        (&record["status"], &record["fault"]),
        (&status.into(), &fault),
        "{record}"
    );
    record
}

#[test]
fn an_answer_is_recorded_with_all_that_is_known() {
    play(|| {
        let backend = backend::named("hello");
        let proxy = proxy::start(
            "routes: [{ name: main, pool: app }]\npools: { app: { endpoints: [\"@app\"] } }",
            &[("app", &backend)],
        );
        let mut client = proxy.client();
        client.post("/a?b=c&token=secret", "body");
        drop(client);
        let record = ends_with(proxy, 200, Value::Null);
        for (field, value) in [
            ("client", Value::from("127.0.0.1")),
            ("method", "POST".into()),
            ("host", "app.test".into()),
            ("protocol", "HTTP/1.1".into()),
            ("bytes_in", 4.into()),
            ("bytes_out", 5.into()),
            ("endpoint", backend.to_string().into()),
            ("attempts", 1.into()),
            ("route", "main".into()),
            ("pool", "app".into()),
        ] {
            assert_eq!(record[field], value, "{field}");
        }
        for field in ["duration_ms", "first_byte_ms", "connect_ms"] {
            assert!(record[field].is_number(), "{field}: {record}");
        }
        let path = record["path"].as_str().unwrap();
        assert!(
            path.starts_with("/a?b=c&token=") && !path.contains("secret"),
            "{path}"
        );
        let id = backend.request();
        assert_eq!(record["request_id"], id.field("x-request-id").unwrap());
    });
}

#[test]
fn a_fault_is_recorded_once() {
    play(|| {
        let refuses = backend::refuses();
        let proxy = proxy::start(
            "routes: [{ pool: app, retry: { attempts: 0 } }]\n\
             pools: { app: { endpoints: [\"@app\"] } }",
            &[("app", &refuses)],
        );
        proxy.client().get("/");
        ends_with(proxy, 502, "connect_failed");
    });
}

#[test]
fn a_refused_head_is_recorded_once_with_what_could_be_read() {
    play(|| {
        let backend = backend::echo();
        let proxy = proxy::before(&[&backend]);
        let mut client = proxy.client();
        let answer = client.ask(
            "POST /x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 1\r\n\
             Transfer-Encoding: chunked\r\n\r\n",
        );
        assert_eq!(answer.status(), 400);
        client.is_closed();
        let record = proxy.record();
        assert_eq!(record["method"], "POST");
        assert_eq!(record["path"], "/x");
        ends_with(proxy, 400, record["fault"].clone());
        assert!(record["fault"].is_string());
    });
}

#[test]
fn a_client_that_left_before_the_answer_is_recorded_once() {
    play(|| {
        let backend = backend::stalls();
        let proxy = proxy::before(&[&backend]);
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
        backend.request();
        drop(client);
        ends_with(proxy, 499, "client_gone");

        let backend = backend::stalls();
        let proxy = proxy::before(&[&backend]);
        let mut client = h2::Client::connect(proxy.address());
        let request = Request::get("http://app.test/").body(Pieces::none());
        let answer = client.send_cancellable(request.unwrap());
        backend.request();
        answer.abort();
        ends_with(proxy, 499, "client_gone");
    });
}

#[test]
fn a_client_that_left_in_the_answer_is_recorded_once_with_the_status_it_saw() {
    play(|| {
        let backend = backend::stalls_after_head();
        let proxy = proxy::before(&[&backend]);
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
        client.head();
        client.wire.exactly(5);
        drop(client);
        let record = ends_with(proxy, 200, "client_gone");
        assert_eq!(record["bytes_out"], 5);
    });
}

#[test]
fn a_tunnel_is_recorded_once_when_it_ends() {
    play(|| {
        let backend = backend::script(|connection| {
            connection.head();
            connection.send(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
            );
            connection.until_closed();
        });
        let proxy = proxy::before(&[&backend]);
        let mut client = proxy.client();
        client
            .send("GET / HTTP/1.1\r\nHost: app.test\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
        client.head();
        assert!(proxy.peek().is_empty());
        client.send("12345");
        client.wire.half_close();
        client.is_closed();
        let record = ends_with(proxy, 101, Value::Null);
        assert_eq!(
            (&record["bytes_in"], &record["upgraded"]),
            (&5.into(), &true.into())
        );
    });
}

#[test]
fn a_handshake_that_fails_is_recorded_once() {
    play(|| {
        let certs = certs::new().server("app", &["app.test"]);
        let strangers = certs::new();
        let backend = backend::echo();
        let proxy = proxy::start(
            "listeners: [{ name: web, address: \"127.0.0.1:0\", tls: { certificates: \
             [{ cert: @certs/app.pem, key: @certs/app.key }] } }]\n\
             routes: [{ pool: app }]\npools: { app: { endpoints: [\"@app\"] } }",
            &[("certs", &certs), ("app", &backend)],
        );
        let config = strangers.trusting(&["http/1.1"]);
        assert!(client::Client::try_tls(proxy.address(), &config, "app.test").is_err());
        let record = ends_with(proxy, 400, "handshake_failed");
        assert_eq!(record["method"], Value::Null);
    });
}

#[test]
fn a_connection_without_a_word_leaves_no_record() {
    play(|| {
        let backend = backend::echo();
        let proxy = proxy::before(&[&backend]);
        drop(proxy.client());
        proxy.client().get("/");
        ends_with(proxy, 200, Value::Null);
    });
}

#[test]
fn every_exchange_of_a_busy_connection_has_its_record() {
    play(|| {
        let backend = backend::echo();
        let proxy = proxy::before_with(&[&backend], "workers: 2");
        let mut client = proxy.client();
        let pipelined: String = (0..20)
            .map(|n| format!("GET /{n} HTTP/1.1\r\nHost: app.test\r\n\r\n"))
            .collect();
        client.send(pipelined);
        for _ in 0..20 {
            assert_eq!(client.answer().status(), 200);
        }
        let mut client = h2::Client::connect(proxy.address());
        for n in 20..40 {
            client.get(&format!("http://app.test/{n}"));
        }
        drop(client);
        let mut paths: Vec<_> = proxy
            .stop()
            .iter()
            .map(|record| {
                record["path"].as_str().unwrap()[1..]
                    .parse::<u32>()
                    .unwrap()
            })
            .collect();
        paths.sort_unstable();
        assert_eq!(paths, (0..40).collect::<Vec<_>>());
    });
}

#[test]
fn secrets_are_masked_and_control_characters_escaped() {
    play(|| {
        let backend = backend::echo();
        let proxy = proxy::before(&[&backend]);
        proxy.client().ask(
            "GET /?access_token=hunter2 HTTP/1.1\r\nHost: app.test\r\n\
             Authorization: Bearer hunter2\r\nCookie: id=hunter2\r\n\r\n",
        );
        let record = proxy.record().to_string();
        assert!(!record.contains("hunter2"), "{record}");
    });
}

#[test]
fn the_combined_format_is_one_line_an_exchange() {
    play(|| {
        let backend = backend::named("hello");
        let proxy = proxy::before_with(
            &[&backend],
            "access_log: { format: combined, path: other.log }",
        );
        proxy.client().ask(
            "GET /a HTTP/1.1\r\nHost: app.test\r\nReferer: http://x.test/\r\n\
             User-Agent: me \"and\" you\r\n\r\n",
        );
        let file = proxy.folder().join("other.log");
        let line = expect::eventually("a line", || {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            text.ends_with('\n').then_some(text)
        });
        assert!(line.starts_with("127.0.0.1 - - ["), "{line}");
        assert!(
            line.contains("] \"GET /a HTTP/1.1\" 200 5 \"http://x.test/\" \"me "),
            "{line}"
        );
        assert_eq!(line.lines().count(), 1);
    });
}

#[test]
fn the_file_is_opened_anew_when_asked_to() {
    play(|| {
        let backend = backend::echo();
        let proxy = proxy::before(&[&backend]);
        proxy.client().get("/old");
        proxy.records(1);
        let file = proxy.folder().join("access.log");
        std::fs::rename(&file, proxy.folder().join("access.log.1")).unwrap();
        proxy.app().reopen_log();
        expect::eventually("a new file", || file.exists().then_some(()));
        proxy.client().get("/new");
        assert_eq!(proxy.record()["path"], "/new");
    });
}
