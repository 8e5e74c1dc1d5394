//! What the proxy takes off messages, and puts on them, for every pair of protocols.

use http::Request;

use crate::harness::h2::{self, Pieces};
use crate::harness::{backend, certs, client, play, proxy};

#[test]
fn hop_by_hop_fields_and_those_that_connection_names_stay_behind() {
    play(|| {
        let backend = backend::says(
            "HTTP/1.1 200 OK\r\nConnection: x-theirs\r\nX-Theirs: 1\r\nKeep-Alive: timeout=5\r\n\
             X-End: 1\r\nContent-Length: 0\r\n\r\n",
        );
        let proxy = proxy::before(&[&backend]);
        let answer = proxy.client().ask(
            "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: x-mine, keep-alive\r\nX-Mine: 1\r\n\
             Keep-Alive: 5\r\nProxy-Connection: keep-alive\r\nTE: gzip\r\nX-End: 1\r\n\r\n",
        );
        let request = backend.request();
        for name in [
            "connection",
            "x-mine",
            "keep-alive",
            "proxy-connection",
            "te",
        ] {
            assert_eq!(request.field(name), None, "{name}");
        }
        for name in ["connection", "x-theirs", "keep-alive"] {
            assert_eq!(answer.field(name), None, "{name}");
        }
        assert_eq!(request.field("x-end"), Some("1"));
        assert_eq!(answer.field("x-end"), Some("1"));
    });
}

#[test]
fn connection_cannot_take_away_what_frames_the_message_or_what_we_add() {
    play(|| {
        let backend = backend::echo();
        let proxy = proxy::before(&[&backend]);
        proxy.client().ask(
            "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 4\r\n\
             Connection: host, content-length, x-forwarded-for, via\r\n\r\nbody",
        );
        let request = backend.request();
        assert_eq!(request.text(), "body");
        assert_eq!(request.field("host"), Some("app.test"));
        assert_eq!(request.field("x-forwarded-for"), Some("127.0.0.1"));
        assert_eq!(request.field("via"), Some("1.1 lockgate"));
    });
}

#[test]
fn forwarding_fields_of_strangers_are_rebuilt() {
    play(|| {
        let backend = backend::echo();
        let proxy = proxy::before(&[&backend]);
        proxy.client().ask(
            "GET / HTTP/1.1\r\nHost: app.test:81\r\nX-Forwarded-For: 10.6.6.6\r\n\
             X-Forwarded-Proto: https\r\nX-Forwarded-Host: evil.test\r\nX-Forwarded-Port: 1\r\n\
             X-Real-IP: 10.6.6.6\r\nForwarded: for=10.6.6.6\r\nProxy: evil.test\r\n\
             X-Client-Cert-Subject: CN=root\r\nVia: 1.0 before\r\n\r\n",
        );
        let request = backend.request();
        assert_eq!(request.field("host"), Some("app.test:81"));
        assert_eq!(request.field("x-forwarded-for"), Some("127.0.0.1"));
        assert_eq!(request.field("x-forwarded-proto"), Some("http"));
        assert_eq!(request.field("x-forwarded-host"), Some("app.test:81"));
        assert_eq!(
            request.field("forwarded"),
            Some("for=127.0.0.1;host=\"app.test:81\";proto=http")
        );
        assert_eq!(request.all("via"), ["1.0 before", "1.1 lockgate"]);
        for name in [
            "x-forwarded-port",
            "x-real-ip",
            "proxy",
            "x-client-cert-subject",
        ] {
            assert_eq!(request.field(name), None, "{name}");
        }
        assert_eq!(proxy.record()["client"], "127.0.0.1");
    });
}

#[test]
fn forwarding_fields_of_trusted_proxies_are_kept_and_continued() {
    play(|| {
        let backend = backend::echo();
        let proxy = proxy::before_with(&[&backend], "trusted_proxies: [127.0.0.0/8, 10.0.0.0/8]");
        proxy.client().ask(
            "GET / HTTP/1.1\r\nHost: app.test\r\nX-Forwarded-For: 192.0.2.7, 198.51.100.9\r\n\
             X-Forwarded-For: 10.0.0.2\r\nX-Forwarded-Proto: https\r\n\
             X-Forwarded-Host: shop.test\r\nForwarded: for=198.51.100.9\r\n\r\n",
        );
        let request = backend.request();
        assert_eq!(
            request.field("x-forwarded-for"),
            Some("192.0.2.7, 198.51.100.9, 10.0.0.2, 127.0.0.1")
        );
        assert_eq!(request.field("x-forwarded-proto"), Some("https"));
        assert_eq!(request.field("x-forwarded-host"), Some("shop.test"));
        let forwarded = request.field("forwarded").unwrap();
        assert!(
            forwarded.starts_with("for=198.51.100.9, for=127.0.0.1;"),
            "{forwarded}"
        );
        // From the right, the first that is no proxy of ours: what stands before it is hearsay.
        assert_eq!(proxy.record()["client"], "198.51.100.9");
    });
}

#[test]
fn a_field_spelled_with_underscores_does_not_pass_for_ours() {
    play(|| {
        let backend = backend::echo();
        let proxy = proxy::before(&[&backend]);
        proxy.client().ask(
            "GET / HTTP/1.1\r\nHost: app.test\r\nX_Forwarded_For: 10.6.6.6\r\n\
             X-Client_Cert-Subject: CN=root\r\nx_real_ip: 10.6.6.6\r\nx_other: 1\r\n\
             x-forwarded_for: 10.6.6.6\r\nContent_Length: 5\r\nTransfer_Encoding: chunked\r\n\
             X_Request_Id: theirs\r\nProxy: 10.6.6.6:80\r\n\r\n",
        );
        let request = backend.request();
        for name in [
            "x_forwarded_for",
            "x-forwarded_for",
            "x-client_cert-subject",
            "x_real_ip",
            "content_length",
            "transfer_encoding",
            "x_request_id",
            "proxy",
        ] {
            assert_eq!(request.field(name), None, "{name}");
        }
        assert_eq!(request.field("x_other"), Some("1"));
    });
}

#[test]
fn cookie_crumbs_of_http2_become_one_field() {
    play(|| {
        let backend = backend::echo();
        let proxy = proxy::before(&[&backend]);
        let request = Request::get("http://app.test/")
            .header("cookie", "a=1")
            .header("cookie", "b=2; c=3")
            .header("cookie", "d=4");
        let answer =
            h2::Client::connect(proxy.address()).ask(request.body(Pieces::none()).unwrap());
        assert_eq!(answer.status(), 200);
        let request = backend.request();
        assert_eq!(request.field("cookie"), Some("a=1; b=2; c=3; d=4"));
        assert_eq!(request.field("host"), Some("app.test"));
        assert_eq!(request.field("via"), Some("2.0 lockgate"));
    });
}

#[test]
fn a_request_id_is_kept_or_made_and_logged() {
    play(|| {
        let backend = backend::echo();
        let proxy = proxy::before(&[&backend]);
        let mut client = proxy.client();
        client
            .ask("GET /kept HTTP/1.1\r\nHost: app.test\r\nX-Request-ID: from-my-client-1\r\n\r\n");
        client.get("/made");
        client.get("/made");
        let requests = backend.requests(3);
        let ids: Vec<_> = requests
            .iter()
            .map(|request| request.field("x-request-id").unwrap())
            .collect();
        assert_eq!(ids[0], "from-my-client-1");
        assert_ne!(ids[1], ids[2]);
        for (record, id) in proxy.records(3).iter().zip(ids) {
            assert_eq!(record["request_id"], id);
        }
    });
}

#[test]
fn an_absolute_target_goes_on_in_origin_form() {
    play(|| {
        let backend = backend::echo();
        let proxy = proxy::before(&[&backend]);
        let answer = proxy
            .client()
            .ask("GET http://app.test/a%20b?c=%2F HTTP/1.1\r\nHost: app.test\r\n\r\n");
        assert_eq!(answer.status(), 200);
        let request = backend.request();
        assert_eq!(request.line, "GET /a%20b?c=%2F HTTP/1.1");
        assert_eq!(request.field("host"), Some("app.test"));
    });
}

#[test]
fn over_tls_the_scheme_is_https() {
    play(|| {
        let certs = certs::new().server("app", &["app.test"]);
        let backend = backend::echo();
        let proxy = proxy::start(
            "listeners: [{ name: web, address: \"127.0.0.1:0\", tls: { certificates: \
             [{ cert: @certs/app.pem, key: @certs/app.key }] } }]\n\
             routes: [{ pool: app }]\npools: { app: { endpoints: [\"@app\"] } }",
            &[("certs", &certs), ("app", &backend)],
        );
        let config = certs.trusting(&["http/1.1"]);
        client::Client::tls(proxy.address(), &config, "app.test").get("/");
        let request = backend.request();
        assert_eq!(request.field("x-forwarded-proto"), Some("https"));
        assert_eq!(
            request.field("forwarded"),
            Some("for=127.0.0.1;host=\"app.test\";proto=https")
        );
    });
}
