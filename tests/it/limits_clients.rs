//! Limits of each client: what is beyond them is refused, and no other client notices.

use std::net::TcpStream;
use std::thread;

use http::Request;

use crate::harness::client::Client;
use crate::harness::h2::{self, Pieces};
use crate::harness::proxy::Proxy;
use crate::harness::wire::Message;
use crate::harness::{backend, certs, expect, play, proxy};

const ADMIN: &str = "admin: { address: unix:admin.sock }";

/// An answer to a client behind a proxy that we trust.
fn ask(proxy: &Proxy, client: &str) -> Message {
    let head = format!("GET / HTTP/1.1\r\nHost: app.test\r\nX-Forwarded-For: {client}\r\n\r\n");
    proxy.client().ask(&head)
}

/// What was refused by the limit of this key.
fn refused(proxy: &Proxy, limit: &str) -> u64 {
    let told = proxy.metrics();
    let name = format!("lockgate_client_refusals_total{{limit=\"{limit}\"}} ");
    let line = told.lines().find_map(|line| line.strip_prefix(&name));
    line.unwrap().parse().unwrap()
}

#[test]
fn a_client_has_so_many_requests_in_a_time() {
    play(|| {
        let backend = backend::echo();
        let limits = "limits: { client: { requests: { rate: 1/h, burst: 3 } } }";
        let more = format!("{limits}\n{ADMIN}\ntrusted_proxies: [ 127.0.0.0/8 ]");
        let proxy = proxy::before_with(&[&backend], &more);
        let statuses = |client: &str| [0; 4].map(|_| ask(&proxy, client).status());
        assert_eq!(statuses("192.0.2.1"), [200, 200, 200, 429]);
        assert_eq!(statuses("192.0.2.2"), [200, 200, 200, 429]);
        // All addresses of a network of IPv6 are one client.
        assert_eq!(statuses("2001:db8::1"), [200, 200, 200, 429]);
        assert_eq!(ask(&proxy, "2001:db8::2").status(), 429);
        assert_eq!(ask(&proxy, "2001:db8:0:1::1").status(), 200);

        let answer = ask(&proxy, "192.0.2.1");
        let wait: u64 = answer.field("retry-after").unwrap().parse().unwrap();
        assert!((3500..=3600).contains(&wait), "{wait}");
        let records = proxy.records(15);
        let last = records.last().unwrap();
        assert_eq!(last["fault"], "rate_limited");
        assert_eq!(last["client"], "192.0.2.1");
        assert_eq!(refused(&proxy, "requests"), 5);
        assert_eq!(backend.seen().requests.len(), 10);
    });
}

#[test]
fn a_request_too_many_is_no_reason_to_end_the_connection() {
    play(|| {
        let backend = backend::echo();
        let limits = "limits: { client: { requests: 2/h } }";
        let proxy = proxy::before_with(&[&backend], limits);
        let mut client = proxy.client();
        let statuses = ["/", "/", "/", "/"].map(|target| client.get(target).status());
        assert_eq!(statuses, [200, 200, 429, 429]);
        let mut client = h2::Client::connect(proxy.address());
        assert_eq!(client.get("http://app.test/").status(), 429);
        // What is refused for its own sake is counted too.
        let mut client = proxy.client();
        assert_eq!(client.get("/%00").status(), 429);
        // Who brings a header that nobody believes is the same client.
        assert_eq!(ask(&proxy, "192.0.2.9").status(), 429);
    });
}

#[test]
fn a_reload_forgets_nothing_and_changes_the_limit() {
    play(|| {
        let backend = backend::echo();
        let text = |limits: &str| {
            format!(
                "routes: [{{ pool: app }}]\npools: {{ app: {{ endpoints: [\"{backend}\"] }} }}\n\
                 limits: {{ client: {{ {limits} }} }}\n"
            )
        };
        let proxy = proxy::start(&text("requests: 2/h"), &[]);
        let mut client = proxy.client();
        let statuses = ["/", "/", "/"].map(|target| client.get(target).status());
        assert_eq!(statuses, [200, 200, 429]);
        proxy.rewrite(&text("requests: 2/h, connections: 9"), &[]);
        assert_eq!(client.get("/").status(), 429);
        proxy.rewrite(&text("requests: { rate: 2/h, burst: 3 }"), &[]);
        assert_eq!(client.get("/").status(), 200);
        assert_eq!(client.get("/").status(), 429);
        proxy.rewrite(&text(""), &[]);
        assert_eq!(client.get("/").status(), 200);
    });
}

#[test]
fn a_client_has_so_many_exchanges_at_a_time() {
    play(|| {
        let backend = backend::script(|connection| {
            while connection.request().is_some() {
                connection.wait("leave to answer", |seen| seen.written > 0);
                connection.ok("ok");
            }
        });
        let limits = "limits: { client: { concurrent_requests: 3 } }";
        let more = format!("{limits}\n{ADMIN}\ntrusted_proxies: [ 127.0.0.0/8 ]");
        let proxy = proxy::before_with(&[&backend], &more);
        let address = proxy.address();
        let get = |client: &str| {
            let request = Request::get("http://app.test/").header("x-forwarded-for", client);
            request.body(Pieces::none()).unwrap()
        };
        // Two streams of one connection, and a connection of its own.
        let mut streams = h2::Client::connect(address);
        let running: Vec<_> = (0..2).map(|_| streams.send(get("192.0.2.1"))).collect();
        let third = thread::spawn(move || {
            let head = "GET / HTTP/1.1\r\nHost: app.test\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n";
            Client::connect(address).ask(head).status()
        });
        backend.requests(3);
        let answer = ask(&proxy, "192.0.2.1");
        assert_eq!(answer.status(), 429);
        assert_eq!(answer.field("retry-after"), Some("1"));
        assert_eq!(streams.ask(get("192.0.2.1")).status(), 429);
        assert_eq!(refused(&proxy, "concurrent_requests"), 2);
        assert_eq!(proxy.records(2)[1]["fault"], "client_limit");
        let other =
            thread::spawn(move || h2::Client::connect(address).ask(get("192.0.2.2")).status());
        backend.requests(4);
        backend.note_written(1);
        assert_eq!(third.join().unwrap(), 200);
        assert_eq!(other.join().unwrap(), 200);
        for stream in running {
            assert_eq!(h2::wait(stream).unwrap().status(), 200);
        }
        expect::eventually("room", || {
            (ask(&proxy, "192.0.2.1").status() == 200).then_some(())
        });
    });
}

#[test]
fn a_client_has_so_many_connections() {
    play(|| {
        let backend = backend::echo();
        let limits = "limits: { client: { connections: 2 } }";
        let text = |more: &str| {
            format!(
                "routes: [{{ pool: app }}]\npools: {{ app: {{ endpoints: [\"{backend}\"] }} }}\n\
                 {limits}\n{ADMIN}\n{more}\n"
            )
        };
        let proxy = proxy::start(&text(""), &[]);
        let (mut one, mut two) = (proxy.client(), proxy.client());
        assert_eq!(one.get("/").status(), 200);
        assert_eq!(two.get("/").status(), 200);
        proxy.client().is_closed();
        assert_eq!(one.get("/").status(), 200);
        assert_eq!(refused(&proxy, "connections"), 1);
        drop(two);
        let mut three = expect::eventually("room", || {
            let mut client = proxy.client();
            client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
            client.wire.head().is_ok().then_some(client)
        });
        proxy.client().is_closed();
        // A proxy before us has as many as it wants.
        proxy.rewrite(&text("trusted_proxies: [ 127.0.0.0/8 ]"), &[]);
        let mut many: Vec<_> = (0..5).map(|_| proxy.client()).collect();
        for client in &mut many {
            assert_eq!(client.get("/").status(), 200);
        }
        three.wire.half_close();
    });
}

#[test]
fn a_client_has_so_many_handshakes_in_a_time() {
    play(|| {
        let certs = certs::new().server("app", &["app.test"]);
        let backend = backend::echo();
        let text = format!(
            "listeners:\n  - {{ name: web, address: \"127.0.0.1:0\", tls: {{ certificates: [{{ cert: \
             @certs/app.pem, key: @certs/app.key }}] }} }}\n  - {{ name: clear, address: \
             \"127.0.0.1:0\" }}\nroutes: [{{ pool: app }}]\npools: {{ app: {{ endpoints: \
             [\"@backend\"] }} }}\nlimits: {{ client: {{ handshakes: 2/h }} }}\n{ADMIN}\n"
        );
        let proxy = proxy::start(&text, &[("certs", &certs), ("backend", &backend)]);
        let config = certs.trusting(&["http/1.1"]);
        for _ in 0..2 {
            let mut client = Client::tls(proxy.address(), &config, "app.test");
            assert_eq!(client.get("/").status(), 200);
        }
        assert!(Client::try_tls(proxy.address(), &config, "app.test").is_err());
        assert_eq!(refused(&proxy, "handshakes"), 1);
        // In clear there is none to count.
        for _ in 0..3 {
            let mut client = Client::connect(proxy.at("clear"));
            assert_eq!(client.get("/").status(), 200);
        }
        // Refusals leave no record of an exchange: there was none.
        assert_eq!(proxy.stop().len(), 5);
    });
}

#[test]
fn a_thousand_connections_too_many_are_told_in_one_line() {
    play(|| {
        let backend = backend::echo();
        let more = format!("limits: {{ client: {{ connections: 1 }} }}\n{ADMIN}");
        let proxy = proxy::before_with(&[&backend], &more);
        let mut honest = proxy.client();
        assert_eq!(honest.get("/").status(), 200);
        for _ in 0..1000 {
            drop(TcpStream::connect(proxy.address()));
        }
        expect::eventually("all are refused", || {
            (refused(&proxy, "connections") == 1000).then_some(())
        });
        assert_eq!(honest.get("/").status(), 200);
        assert_eq!(proxy.stop().len(), 2);
    });
}
