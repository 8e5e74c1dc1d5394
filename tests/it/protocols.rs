//! Every pair of protocols, and every way to an endpoint.

use http::Request;

use crate::harness::certs::Certs;
use crate::harness::client::Client;
use crate::harness::h2::{self, Pieces};
use crate::harness::proxy::Proxy;
use crate::harness::{backend, certs, play, proxy};

/// A proxy with a listener in the clear, `web`, and one with TLS, `tls`; `pool` describes the pool.
fn both(certs: &Certs, endpoint: &dyn std::fmt::Display, pool: &str) -> Proxy {
    let text = format!(
        "listeners:\n  - {{ name: web, address: \"127.0.0.1:0\" }}\n  - {{ name: tls, address: \
         \"127.0.0.1:0\", tls: {{ certificates: [{{ cert: @certs/app.pem, key: @certs/app.key \
         }}] }} }}\nroutes: [{{ pool: app }}]\npools: {{ app: {{ endpoints: [\"@endpoint\"], \
         {pool} }} }}\n"
    );
    proxy::start(&text, &[("certs", certs), ("endpoint", endpoint)])
}

/// Each kind of client gets through, and is logged as what it is.
fn serves_every_client(proxy: &Proxy, certs: &Certs) {
    let url = "http://app.test/";
    let clear = proxy.address();
    let tls = proxy.at("tls");
    assert_eq!(Client::connect(clear).get("/").text(), "hello");
    assert_eq!(h2::Client::connect(clear).get(url).text(), "hello");
    let http1 = certs.trusting(&["http/1.1"]);
    assert_eq!(
        Client::tls(tls, &http1, "app.test").get("/").text(),
        "hello"
    );
    let http2 = certs.trusting(&["h2", "http/1.1"]);
    let url = "https://app.test/";
    assert_eq!(
        h2::Client::tls(tls, &http2, "app.test").get(url).text(),
        "hello"
    );
    let silent = certs.trusting(&[]);
    assert_eq!(
        Client::tls(tls, &silent, "app.test").get("/").text(),
        "hello"
    );
    let protocols: Vec<_> = proxy
        .records(5)
        .iter()
        .map(|record| (record["protocol"].to_string(), record["tls"].to_string()))
        .collect();
    let expected = [
        ("\"HTTP/1.1\"", "null"),
        ("\"HTTP/2\"", "null"),
        ("\"HTTP/1.1\"", "\"TLSv1.3\""),
        ("\"HTTP/2\"", "\"TLSv1.3\""),
        ("\"HTTP/1.1\"", "\"TLSv1.3\""),
    ];
    let expected = expected.map(|(protocol, tls)| (protocol.to_owned(), tls.to_owned()));
    assert_eq!(protocols, expected);
}

fn app() -> Certs {
    certs::new().server("app", &["app.test", "127.0.0.1"])
}

#[test]
fn http1_endpoints_serve_every_client() {
    play(|| {
        let (certs, backend) = (app(), backend::named("hello"));
        let proxy = both(&certs, &backend, "protocol: http1");
        serves_every_client(&proxy, &certs);
        assert_eq!(backend.seen().connections, 1);
    });
}

#[test]
fn http2_endpoints_in_clear_serve_every_client() {
    play(|| {
        let (certs, backend) = (app(), h2::backend(|_| h2::said("hello", &[])));
        let proxy = both(&certs, &backend, "protocol: h2");
        serves_every_client(&proxy, &certs);
        assert_eq!(backend.seen().connections, 1);
        let request = &backend.requests(5)[0];
        assert_eq!(request.line, "GET http://app.test/ HTTP/2");
        assert_eq!(request.field("host"), None);
    });
}

#[test]
fn tls_endpoints_speak_what_alpn_says() {
    play(|| {
        let certs = app();
        let pool = "tls: { ca: @certs/ca.pem, server_name: app.test }";
        let config = certs.serving("app", &["h2", "http/1.1"]);
        let backend = h2::tls_backend(config, |_| h2::said("hello", &[]));
        let proxy = both(&certs, &backend, pool);
        serves_every_client(&proxy, &certs);
        assert_eq!(backend.requests(5)[0].line, "GET https://app.test/ HTTP/2");

        let backend = backend::tls(certs.serving("app", &["http/1.1"]), |connection| {
            while connection.request().is_some() {
                connection.ok("hello");
            }
        });
        let proxy = both(&certs, &backend, pool);
        serves_every_client(&proxy, &certs);
        assert_eq!(backend.seen().connections, 1);
    });
}

#[test]
fn an_endpoint_with_the_certificate_of_another_is_refused() {
    play(|| {
        let certs = app().server("other", &["other.test"]);
        let strangers = certs::new().server("app", &["app.test"]);
        let pool = "tls: { ca: @certs/ca.pem, server_name: app.test }";
        for config in [certs.serving("other", &[]), strangers.serving("app", &[])] {
            let backend = backend::tls(config, backend::echoes);
            let proxy = both(&certs, &backend, pool);
            assert_eq!(proxy.client().get("/").status(), 502);
            assert_eq!(proxy.record()["fault"], "upstream_tls_failed");
            assert!(backend.seen().requests.is_empty());
        }
    });
}

#[test]
fn a_certificate_of_ours_is_shown_to_endpoints_that_ask() {
    play(|| {
        let certs = app().client("lockgate");
        let backend = backend::tls(certs.demanding("app", &[]), |connection| {
            while connection.request().is_some() {
                connection.ok("hello");
            }
        });
        let pool = "tls: { ca: @certs/ca.pem, client_certificate: \
                    { cert: @certs/lockgate.pem, key: @certs/lockgate.key } }";
        let proxy = both(&certs, &backend, pool);
        assert_eq!(proxy.client().get("/").text(), "hello");
        let proxy = both(&certs, &backend, "tls: { ca: @certs/ca.pem }");
        assert_eq!(proxy.client().get("/").status(), 502);
    });
}

#[test]
fn an_endpoint_may_be_a_unix_socket() {
    play(|| {
        let certs = app();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.sock");
        let backend = backend::unix(&path, backend::echoes);
        let proxy = both(&certs, &backend, "protocol: auto");
        assert_eq!(proxy.client().get("/").status(), 200);
        assert_eq!(backend.request().field("host"), Some("app.test"));
        let record = proxy.record();
        assert_eq!(record["endpoint"], format!("unix:{}", path.display()));
    });
}

#[test]
fn grpc_trailers_pass_both_ways() {
    play(|| {
        let backend = h2::backend(|request| {
            let sum = request.trailers.iter().find(|(name, _)| name == "x-sum");
            assert!(sum.is_some());
            h2::said("reply", &[("grpc-status", "0"), ("grpc-message", "fine")])
        });
        let certs = app();
        let proxy = both(&certs, &backend, "protocol: h2");
        let request = Request::post("http://app.test/pkg.Service/Method")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Pieces::of("question", &[("x-sum", "1")]));
        let answer = h2::Client::connect(proxy.address()).ask(request.unwrap());
        assert_eq!((answer.status(), answer.text()), (200, "reply"));
        let trailers = [("grpc-status", "0"), ("grpc-message", "fine")];
        assert_eq!(
            answer.trailers,
            trailers.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
        let request = backend.request();
        assert_eq!(request.field("te"), Some("trailers"));
        assert_eq!(request.text(), "question");
    });
}

#[test]
fn names_that_belong_into_a_head_never_stand_behind_a_body_over_http2() {
    play(|| {
        let backend = h2::backend(|_| h2::said("reply", &[("x-sum", "1"), ("set-cookie", "a=b")]));
        let certs = app();
        let proxy = both(&certs, &backend, "protocol: h2");
        let sent = [
            ("x-forwarded-for", "10.6.6.6"),
            ("x_real_ip", "10.6.6.6"),
            ("authorization", "Basic cm9vdA=="),
            ("x-up", "1"),
        ];
        let request = Request::post("http://app.test/").body(Pieces::of("question", &sent));
        let answer = h2::Client::connect(proxy.address()).ask(request.unwrap());
        assert_eq!((answer.status(), answer.text()), (200, "reply"));
        assert_eq!(answer.trailers, [("x-sum".to_owned(), "1".to_owned())]);
        let request = backend.request();
        assert_eq!(request.text(), "question");
        assert_eq!(request.trailers, [("x-up".to_owned(), "1".to_owned())]);
    });
}

#[test]
fn grpc_clients_read_our_own_errors_as_a_status() {
    play(|| {
        let refuses = backend::refuses();
        let certs = app();
        let proxy = both(&certs, &refuses, "protocol: h2, queue: off");
        let request = Request::post("http://app.test/pkg.Service/Method")
            .header("content-type", "application/grpc+proto")
            .header("te", "trailers")
            .body(Pieces::of("question", &[]));
        let answer = h2::Client::connect(proxy.address()).ask(request.unwrap());
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.field("content-type"), Some("application/grpc"));
        assert_eq!(answer.field("grpc-status"), Some("14"));
        let record = proxy.record();
        assert_eq!(record["fault"], "no_endpoint");
    });
}

#[test]
fn many_exchanges_share_one_http2_connection() {
    play(|| {
        let backend = h2::backend(|_| h2::said("hello", &[]));
        let certs = app();
        let proxy = both(&certs, &backend, "protocol: h2");
        let mut client = h2::Client::connect(proxy.address());
        let answers: Vec<_> = (0..50)
            .map(|_| {
                let request = Request::get("http://app.test/").body(Pieces::none());
                client.send(request.unwrap())
            })
            .collect();
        for answer in answers {
            assert_eq!(h2::read(h2::wait(answer).unwrap()).text(), "hello");
        }
        assert_eq!(backend.seen().connections, 1);
    });
}
