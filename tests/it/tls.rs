//! TLS on the client's side: which certificate, who may come in, and what becomes of those who may not.

use std::io::Read;
use std::sync::Arc;

use rustls::ClientConfig;

use crate::harness::certs::Certs;
use crate::harness::client::Client;
use crate::harness::h2;
use crate::harness::proxy::Proxy;
use crate::harness::{backend, certs, play, proxy};

fn two_sites() -> Certs {
    certs::new()
        .server("app", &["app.test"])
        .server("shop", &["shop.test", "*.shop.test"])
}

fn start(certs: &Certs, endpoint: &dyn std::fmt::Display, tls: &str, more: &str) -> Proxy {
    let text = format!(
        "listeners: [{{ name: web, address: \"127.0.0.1:0\", tls: {{ certificates: [{{ cert: \
         @certs/app.pem, key: @certs/app.key }}, {{ cert: @certs/shop.pem, key: @certs/shop.key \
         }}], {tls} }} }}]\nroutes: [{{ pool: app }}]\npools: {{ app: {{ endpoints: \
         [\"@endpoint\"] }} }}\n{more}\n"
    );
    proxy::start(&text, &[("certs", certs), ("endpoint", endpoint)])
}

#[test]
fn the_certificate_is_picked_by_the_name_that_the_client_asks_for() {
    play(|| {
        let (certs, backend) = (two_sites(), backend::echo());
        let proxy = start(&certs, &backend, "", "");
        let config = certs.trusting(&["http/1.1"]);
        for (name, file) in [
            ("app.test", "app"),
            ("shop.test", "shop"),
            ("www.shop.test", "shop"),
        ] {
            let client = Client::tls(proxy.address(), &config, name);
            assert_eq!(client.wire.peer().unwrap(), certs.leaf(file), "{name}");
        }
        // Whoever asks for none of them gets the first, and does not believe it.
        assert!(Client::try_tls(proxy.address(), &config, "other.test").is_err());
    });
}

#[test]
fn a_host_of_another_certificate_is_misdirected() {
    play(|| {
        let (certs, backend) = (two_sites(), backend::echo());
        let proxy = start(&certs, &backend, "", "");
        let config = certs.trusting(&["http/1.1"]);
        let mut client = Client::tls(proxy.address(), &config, "app.test");
        let answer = client.ask("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n");
        assert_eq!(answer.status(), 421);
        let config = certs.trusting(&["h2"]);
        let mut client = h2::Client::tls(proxy.address(), &config, "shop.test");
        assert_eq!(client.get("https://www.shop.test/").status(), 200);
        assert_eq!(client.get("https://app.test/").status(), 421);
        assert_eq!(proxy.records(3)[0]["fault"], "misdirected");
    });
}

#[test]
fn both_versions_of_tls_are_spoken() {
    play(|| {
        let (certs, backend) = (two_sites(), backend::echo());
        let proxy = start(&certs, &backend, "", "");
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let config = certs.speaking(version);
            let mut client = Client::tls(proxy.address(), &config, "app.test");
            assert_eq!(client.get("/").status(), 200);
        }
        let records = proxy.records(2);
        assert_eq!(
            (&records[0]["tls"], &records[1]["tls"]),
            (&"TLSv1.2".into(), &"TLSv1.3".into())
        );
    });
}

#[test]
fn a_client_certificate_may_be_required() {
    play(|| {
        let certs = two_sites().client("alice");
        let strangers = certs::new().client("alice");
        let backend = backend::echo();
        let auth = "client_auth: { ca: @certs/ca.pem }";
        let proxy = start(&certs, &backend, auth, "");
        let config = certs.showing("alice", &["http/1.1"]);
        let mut client = Client::tls(proxy.address(), &config, "app.test");
        let answer = client
            .ask("GET / HTTP/1.1\r\nHost: app.test\r\nX-Client-Cert-Subject: CN=root\r\n\r\n");
        assert_eq!(answer.status(), 200);
        let subject = backend.request();
        let subject = subject.field("x-client-cert-subject").unwrap();
        assert!(subject.contains("CN=alice"), "{subject}");

        // TLS 1.3 clients learn of the refusal with the first byte they read.
        let refused = |config: Arc<ClientConfig>| {
            let client = Client::try_tls(proxy.address(), &config, "app.test");
            client.is_err()
                || client.is_ok_and(|mut client| client.wire.stream().read(&mut [0]).is_err())
        };
        assert!(refused(certs.trusting(&["http/1.1"])));
        assert!(refused(certs.showing_anothers(&strangers, "alice")));
        let records = proxy.records(3);
        assert_eq!(records[1]["fault"], "handshake_failed");
        assert_eq!(records[2]["fault"], "handshake_failed");
        assert_eq!(backend.seen().requests.len(), 1);
    });
}

#[test]
fn a_client_certificate_may_be_optional() {
    play(|| {
        let certs = two_sites().client("alice");
        let backend = backend::echo();
        let auth = "client_auth: { ca: @certs/ca.pem, mode: optional }";
        let proxy = start(&certs, &backend, auth, "");
        let config = certs.trusting(&["http/1.1"]);
        Client::tls(proxy.address(), &config, "app.test").get("/");
        let config = certs.showing("alice", &["http/1.1"]);
        Client::tls(proxy.address(), &config, "app.test").get("/");
        let requests = backend.requests(2);
        assert_eq!(requests[0].field("x-client-cert-subject"), None);
        assert!(requests[1].field("x-client-cert-subject").is_some());
    });
}

#[test]
fn a_certificate_that_is_revoked_by_a_reload_is_turned_away_and_resumes_nothing() {
    play(|| {
        let certs = two_sites().client("alice").client("bob");
        certs.revoke(&[]);
        let backend = backend::echo();
        let auth = "client_auth: { ca: @certs/ca.pem, crl: @certs/crl.pem }";
        let proxy = start(&certs, &backend, auth, "");
        let (alice, bob) = (
            certs.showing("alice", &["http/1.1"]),
            certs.showing("bob", &["http/1.1"]),
        );
        let comes_in = |config: &Arc<ClientConfig>| {
            let client = Client::try_tls(proxy.address(), config, "app.test");
            client.is_ok_and(|mut client| {
                client.send("GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n");
                let mut text = Vec::new();
                // Whatever comes before the end: nothing, for whoever is turned away.
                client.wire.stream().read_to_end(&mut text).ok();
                text.starts_with(b"HTTP/1.1 200")
            })
        };
        for config in [&alice, &alice, &bob] {
            assert!(comes_in(config));
        }
        certs.revoke(&["alice"]);
        let outcome = proxy.app().reload().unwrap();
        assert!(outcome.is_good() && outcome.version == 2, "{outcome:?}");
        assert!(!comes_in(&alice));
        assert!(comes_in(&bob));
        let records = proxy.records(5);
        assert_eq!(records[3]["fault"], "handshake_failed");

        // A list that cannot be read changes nothing, and alice stays out.
        std::fs::write(certs.folder().join("crl.pem"), "").unwrap();
        assert!(!proxy.app().reload().unwrap().is_good());
        assert!(!comes_in(&alice) && comes_in(&bob));
        // And one in which she is no more lets her in again.
        certs.revoke(&["bob"]);
        assert!(proxy.app().reload().unwrap().is_good());
        assert!(comes_in(&alice) && !comes_in(&bob));
    });
}

#[test]
fn plain_http_on_a_tls_port_is_told_so() {
    play(|| {
        let (certs, backend) = (two_sites(), backend::echo());
        let proxy = start(&certs, &backend, "", "");
        let mut client = proxy.client();
        let answer = client.get("/");
        assert_eq!(answer.status(), 400);
        assert!(answer.text().contains("https://"), "{}", answer.text());
        client.is_closed();
        assert_eq!(proxy.record()["fault"], "plain_on_tls");
    });
}

#[test]
fn a_handshake_that_takes_too_long_is_cut_off() {
    play(|| {
        let (certs, backend) = (two_sites(), backend::echo());
        let more = "timeouts: { handshake: 200ms }";
        let proxy = start(&certs, &backend, "", more);
        // The beginning of a record, and no more.
        let mut client = proxy.client();
        client.send(b"\x16\x03\x01\x02\x00\x01");
        client.is_closed();
        assert_eq!(proxy.record()["fault"], "handshake_timeout");
    });
}

#[test]
fn garbage_instead_of_a_handshake_is_refused() {
    play(|| {
        let (certs, backend) = (two_sites(), backend::echo());
        let proxy = start(&certs, &backend, "", "");
        let mut client = proxy.client();
        client.send(b"\x16\x03\x01\x00\x05hello");
        client.rest();
        assert_eq!(proxy.record()["fault"], "handshake_failed");
    });
}

#[test]
fn a_listener_in_the_clear_sends_clients_to_https() {
    play(|| {
        let (certs, backend) = (two_sites(), backend::echo());
        let proxy = proxy::start(
            "listeners:\n  - { name: web, address: \"127.0.0.1:0\", redirect_to_https: true }\n  \
             - { name: tls, address: \"127.0.0.1:0\", tls: { certificates: [{ cert: \
             @certs/app.pem, key: @certs/app.key }] } }\n\
             routes: [{ pool: app }]\npools: { app: { endpoints: [\"@app\"] } }",
            &[("certs", &certs), ("app", &backend)],
        );
        let answer = proxy.client().get("/a?b=c");
        assert_eq!(answer.status(), 308);
        let location = answer.field("location").unwrap();
        assert!(location.starts_with("https://app.test"), "{location}");
        assert!(location.ends_with("/a?b=c"), "{location}");
        assert!(backend.seen().requests.is_empty());
    });
}
