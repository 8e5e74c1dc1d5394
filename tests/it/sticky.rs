//! Sessions that stay with their endpoint, over real sockets.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::harness::backend::Backend;
use crate::harness::client::Client;
use crate::harness::wire::Message;
use crate::harness::{backend, certs, expect, play, proxy};

/// A pool of three with sessions as `balance` says.
fn start(balance: &str) -> ([Backend; 3], proxy::Proxy) {
    let backends = ["a", "b", "c"].map(backend::named);
    let text = format!(
        "routes: [{{ pool: app }}, {{ match: {{ path: /other }}, pool: other }}]\n\
         pools: {{ app: {{ balance: {balance}, endpoints: [\"@a\", \"@b\", \"@c\"] }}, \
         other: {{ balance: {balance}, endpoints: [\"@a\", \"@b\", \"@c\"] }} }}"
    );
    let [a, b, c] = &backends;
    let proxy = proxy::start(&text, &[("a", a), ("b", b), ("c", c)]);
    (backends, proxy)
}

fn ask(client: &mut Client, target: &str, cookie: &str) -> Message {
    client.ask(&format!(
        "GET {target} HTTP/1.1\r\nHost: app.test\r\nCookie: theirs=1; {cookie}\r\n\r\n"
    ))
}

/// Name and value of the cookie that an answer brings, and its attributes.
fn set_cookie(answer: &Message) -> Option<(String, String)> {
    let set = answer.field("set-cookie")?;
    let (pair, attributes) = set.split_once("; ").unwrap();
    Some((pair.to_owned(), attributes.to_owned()))
}

#[track_caller]
fn new_cookie(answer: &Message) -> String {
    set_cookie(answer).expect("a new client gets a cookie").0
}

#[test]
fn a_session_stays_with_its_endpoint() {
    play(|| {
        let (_backends, proxy) = start("sticky");
        let mut client = proxy.client();
        let mut met = BTreeSet::new();
        for _ in 0..6 {
            let first = client.get("/");
            let cookie = new_cookie(&first);
            met.insert(first.text().to_owned());
            for _ in 0..5 {
                let answer = ask(&mut client, "/", &cookie);
                assert_eq!(answer.text(), first.text());
                assert_eq!(answer.field("set-cookie"), None);
            }
        }
        assert_eq!(met.len(), 3, "clients without a session are balanced");
    });
}

#[test]
fn the_cookie_is_kept_from_scripts_and_other_sites_and_from_clear_connections() {
    play(|| {
        let certs = certs::new().server("app", &["app.test"]);
        let backend = backend::named("app");
        let text = "listeners: [{ name: web, address: \"127.0.0.1:0\" }, { name: tls, address: \
                    \"127.0.0.1:0\", tls: { certificates: [{ cert: @certs/app.pem, key: \
                    @certs/app.key }] } }]\nroutes: [{ pool: app }]\npools: { app: { balance: { \
                    sticky: { cookie: sid, max_age: 90m } }, endpoints: [\"@app\"] } }";
        let proxy = proxy::start(text, &[("certs", &certs), ("app", &backend)]);
        let (pair, attributes) = set_cookie(&proxy.client().get("/")).unwrap();
        let (name, token) = pair.split_once('=').unwrap();
        assert_eq!((name, token.len()), ("sid", 38));
        assert_eq!(attributes, "Path=/; Max-Age=5400; HttpOnly; SameSite=Lax");
        let mut secure = Client::tls(proxy.at("tls"), &certs.trusting(&["http/1.1"]), "app.test");
        let (_, attributes) = set_cookie(&secure.get("/")).unwrap();
        assert_eq!(
            attributes,
            "Path=/; Max-Age=5400; HttpOnly; SameSite=Lax; Secure"
        );
    });
}

#[test]
fn a_hostile_cookie_only_loses_its_session() {
    play(|| {
        let (_backends, proxy) = start("{ sticky: { cookie: sid } }");
        let mut client = proxy.client();
        let good = new_cookie(&client.get("/"));
        let of_another_pool = new_cookie(&client.get("/other"));
        let forged = format!("sid=A{}", &good["sid=".len() + 1..]);
        let long = format!("sid={}", "A".repeat(8000));
        for hostile in [
            &of_another_pool,
            &forged,
            &good[..good.len() - 1],
            &good[..5],
            "sid=",
            "sid",
            "sid=\u{e4}%00;;=",
            &long,
        ] {
            let mut met = BTreeSet::new();
            for _ in 0..6 {
                let answer = ask(&mut client, "/", hostile);
                assert_eq!(answer.status(), 200);
                assert_ne!(new_cookie(&answer), *hostile);
                met.insert(answer.text().to_owned());
            }
            assert_eq!(met.len(), 3, "{hostile} is balanced like no cookie");
        }
        assert_eq!(ask(&mut client, "/", &good).field("set-cookie"), None);
    });
}

#[test]
fn a_session_expires() {
    play(|| {
        let (_backends, proxy) = start("{ sticky: { max_age: 1s } }");
        let mut client = proxy.client();
        let cookie = new_cookie(&client.get("/"));
        expect::after(Duration::from_millis(2100));
        let again = new_cookie(&ask(&mut client, "/", &cookie));
        assert_ne!(cookie, again);
    });
}

#[test]
fn a_session_whose_endpoint_is_gone_begins_anew_elsewhere() {
    play(|| {
        let (one, two) = (backend::named("one"), backend::named("two"));
        let text = "routes: [{ pool: app }]\npools: { app: { balance: { sticky: { otherwise: \
                    least_connections } }, endpoints: [\"@one\", \"@two\"] } }";
        let proxy = proxy::start(text, &[("one", &one), ("two", &two)]);
        let mut client = proxy.client();
        let cookie = loop {
            let answer = client.get("/");
            if answer.text() == "one" {
                break new_cookie(&answer);
            }
        };
        drop(one);
        let gone = backend::refuses();
        assert!(
            proxy
                .rewrite(text, &[("one", &gone), ("two", &two)])
                .is_good()
        );
        let answer = ask(&mut client, "/", &cookie);
        assert_eq!(answer.text(), "two");
        let cookie = new_cookie(&answer);
        let answer = ask(&mut client, "/", &cookie);
        assert_eq!((answer.text(), answer.field("set-cookie")), ("two", None));
    });
}

#[test]
fn sessions_live_on_over_a_reload_and_on_an_endpoint_that_drains() {
    play(|| {
        let (drains, stays) = (backend::named("drains"), backend::named("stays"));
        let text = "routes: [{ pool: app }]\npools: { app: { balance: sticky, endpoints: [\
                    { address: \"@drains\", drain: @flag }, \"@stays\"] } }";
        let proxy = proxy::start(
            text,
            &[("drains", &drains), ("stays", &stays), ("flag", &false)],
        );
        let mut client = proxy.client();
        let cookie = loop {
            let answer = client.get("/");
            if answer.text() == "drains" {
                break new_cookie(&answer);
            }
        };
        proxy.rewrite(
            text,
            &[("drains", &drains), ("stays", &stays), ("flag", &true)],
        );
        for _ in 0..10 {
            assert_eq!(client.get("/").text(), "stays");
            let answer = ask(&mut client, "/", &cookie);
            assert_eq!(
                (answer.text(), answer.field("set-cookie")),
                ("drains", None)
            );
        }
    });
}

#[test]
fn proxies_with_one_secret_know_each_others_sessions() {
    play(|| {
        let (one, two) = (backend::named("one"), backend::named("two"));
        let text = "routes: [{ pool: app }]\npools: { app: { balance: { sticky: { secret: \
                    @secret } }, endpoints: [\"@one\", \"@two\"] } }";
        let start = |secret: &'static str| {
            proxy::start(text, &[("one", &one), ("two", &two), ("secret", &secret)])
        };
        let (first, second) = (start("0123456789abcdef"), start("0123456789abcdef"));
        let other = start("another secret of some length");
        let answer = first.client().get("/");
        let cookie = new_cookie(&answer);
        for _ in 0..4 {
            let again = ask(&mut second.client(), "/", &cookie);
            assert_eq!(
                (again.text(), again.field("set-cookie")),
                (answer.text(), None)
            );
        }
        new_cookie(&ask(&mut other.client(), "/", &cookie));
    });
}
