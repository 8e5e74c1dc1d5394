//! Names of endpoints: what a DNS server says, and says wrongly, and what comes of it.

use std::net::SocketAddr;
use std::time::Duration;

use crate::harness::backend::Backend;
use crate::harness::dns::{self, Manner, Server};
use crate::harness::proxy::Proxy;
use crate::harness::{backend, expect, play, process, proxy};

/// One pool, of the hosts behind `srv:_http._tcp.app.test`.
const SERVICE: &str = "resolvers: [\"@dns\"]\n\
                       routes: [{ pool: app }]\n\
                       pools: { app: { endpoints: [\"srv:_http._tcp.app.test\"] } }";

/// One pool, of the addresses of `app.test`.
const HOST: &str = "resolvers: [\"@dns\"]\n\
                    routes: [{ pool: app }]\n\
                    pools: { app: { endpoints: [\"app.test:@port\"] } }";

fn port(backend: &Backend) -> u16 {
    backend.to_string().parse::<SocketAddr>().unwrap().port()
}

/// Has the service be these backends, at priority and weight.
fn serves(dns: &Server, backends: &[(u16, u16, &Backend)], ttl: u32) {
    dns.host("node.test", &["127.0.0.1"], 60);
    let records: Vec<_> = backends
        .iter()
        .map(|(priority, weight, backend)| (*priority, *weight, port(backend), "node.test"))
        .collect();
    dns.service("_http._tcp.app.test", &records, ttl);
}

/// Two backends with one port: `one` at 127.0.0.1, `two` at 127.0.0.2.
fn pair() -> (Backend, Backend) {
    expect::eventually("a port at two addresses", || {
        let one = backend::named("one");
        let two = SocketAddr::from(([127, 0, 0, 2], port(&one)));
        Some((one, backend::script_at(two, backend::names("two"))?))
    })
}

/// What is answered to each of so many requests.
fn said(proxy: &Proxy, count: usize) -> String {
    let answers = (0..count).map(|_| proxy.client().get("/").text().to_owned());
    answers.collect::<Vec<_>>().join(" ")
}

/// Waits until four answers in a row are these, in whatever order.
#[track_caller]
fn comes_to(proxy: &Proxy, answers: &[&str]) {
    expect::eventually(&format!("answers of {answers:?} alone"), || {
        let said = said(proxy, 4);
        let is_all = answers.iter().all(|answer| said.contains(answer));
        let is_only = said.split(' ').all(|word| answers.contains(&word));
        (is_all && is_only).then_some(())
    });
}

#[test]
fn a_change_of_the_answer_moves_the_next_exchanges_and_leaves_those_under_way() {
    play(|| {
        let dns = dns::start();
        let old = backend::script(|connection| {
            while let Some(request) = connection.request() {
                if request.target() == "/slow" {
                    connection.wait("leave to answer", |seen| seen.written > 0);
                }
                connection.ok("old");
            }
        });
        let (stays, new) = (backend::named("stays"), backend::named("new"));
        serves(&dns, &[(0, 1, &old)], 0);
        let proxy = proxy::start(SERVICE, &[("dns", &dns)]);
        let mut slow = proxy.client();
        slow.send("GET /slow HTTP/1.1\r\nHost: app.test\r\n\r\n");
        old.requests(1);
        serves(&dns, &[(0, 1, &old), (0, 1, &stays)], 0);
        comes_to(&proxy, &["old", "stays"]);
        let connections = stays.seen().connections;

        serves(&dns, &[(0, 1, &stays), (0, 1, &new)], 0);
        comes_to(&proxy, &["stays", "new"]);
        old.note_written(1);
        assert_eq!(slow.answer().text(), "old");
        assert_eq!(stays.seen().connections, connections, "it kept its own");
        let records = proxy.peek();
        assert!(records.iter().all(|record| record["fault"].is_null()));
    });
}

#[test]
fn weights_of_records_are_shares_and_priorities_an_order() {
    play(|| {
        let dns = dns::start();
        let (heavy, light) = (backend::named("heavy"), backend::named("light"));
        let backup = backend::named("backup");
        serves(
            &dns,
            &[(1, 30, &heavy), (1, 10, &light), (2, 50, &backup)],
            0,
        );
        let proxy = proxy::start(SERVICE, &[("dns", &dns)]);
        said(&proxy, 40);
        let count = |backend: &Backend| backend.seen().requests.len();
        assert_eq!((count(&heavy), count(&light), count(&backup)), (30, 10, 0));
        serves(&dns, &[(2, 50, &backup)], 0);
        comes_to(&proxy, &["backup"]);
    });
}

#[test]
fn records_of_the_next_priority_take_over_when_those_before_them_refuse() {
    play(|| {
        let dns = dns::start();
        let (gone, backup) = (backend::named("gone"), backend::named("backup"));
        serves(&dns, &[(1, 1, &gone), (2, 1, &backup)], 60);
        drop(gone);
        let proxy = proxy::start(SERVICE, &[("dns", &dns)]);
        assert_eq!(proxy.client().get("/").text(), "backup");
        assert_eq!(proxy.record()["attempts"], 2);
    });
}

#[test]
fn every_address_of_a_name_is_an_endpoint() {
    play(|| {
        let dns = dns::start();
        let (one, _two) = pair();
        dns.host("app.test", &["127.0.0.1", "127.0.0.2"], 0);
        let proxy = proxy::start(HOST, &[("dns", &dns), ("port", &port(&one))]);
        assert_eq!(said(&proxy, 4), "one two one two");
        dns.host("app.test", &["127.0.0.2"], 0);
        comes_to(&proxy, &["two"]);
    });
}

#[test]
fn a_name_that_is_one_endpoint_is_reached_at_the_address_that_answers() {
    play(|| {
        let dns = dns::start();
        // Nothing listens at ::1, which refuses at once; 127.0.0.1 accepts nothing more, and is silent.
        let (_held, full) = backend::full();
        let good = SocketAddr::from(([127, 0, 0, 2], full.port()));
        let good = backend::script_at(good, backend::names("good")).unwrap();
        dns.host("app.test", &["127.0.0.1", "127.0.0.2", "::1"], 60);
        let text = HOST.replace("app: {", "app: { addresses: one,");
        let proxy = proxy::start(&text, &[("dns", &dns), ("port", &full.port())]);
        assert_eq!(proxy.client().get("/").text(), "good");
        let record = proxy.record();
        assert_eq!(record["attempts"], 1);
        assert_eq!(record["endpoint"], format!("app.test:{}", full.port()));
        // The silent one was left beside for 250 ms.
        assert!(record["connect_ms"].as_f64().unwrap() >= 249.0, "{record}");
        assert_eq!(good.seen().connections, 1);
    });
}

#[test]
fn a_name_that_is_one_endpoint_is_dialled_where_the_last_answer_leads() {
    play(|| {
        let dns = dns::start();
        let (one, _two) = pair();
        dns.host("app.test", &["127.0.0.1"], 0);
        let text = HOST.replace("app: {", "app: { addresses: one,");
        let text = format!("{text}\nlimits: {{ idle_connections: 0 }}");
        let proxy = proxy::start(&text, &[("dns", &dns), ("port", &port(&one))]);
        comes_to(&proxy, &["one"]);
        dns.host("app.test", &["127.0.0.2"], 0);
        comes_to(&proxy, &["two"]);
        let outcome = proxy.app().reload().unwrap();
        assert!(outcome.is_good(), "{outcome}");
    });
}

#[test]
fn a_name_that_is_one_endpoint_is_checked_where_the_last_answer_leads() {
    play(|| {
        let dns = dns::start();
        let (one, two) = pair();
        dns.host("app.test", &["127.0.0.1"], 0);
        let check = "addresses: one, health_check: { interval: 100ms, path: /healthz },";
        let text = HOST.replace("app: {", &format!("app: {{ {check}"));
        let proxy = proxy::start(&text, &[("dns", &dns), ("port", &port(&one))]);
        let checks = |backend: &Backend| {
            let requests = backend.seen().requests.into_iter();
            requests.filter(|one| one.target() == "/healthz").count()
        };
        comes_to(&proxy, &["one"]);
        assert_eq!(checks(&two), 0);
        dns.host("app.test", &["127.0.0.2"], 0);
        expect::eventually("a check of the other", || (checks(&two) > 0).then_some(()));
        let before = checks(&one);
        two.requests(two.seen().requests.len() + 2);
        assert!(checks(&one) <= before + 1, "one may be under way");
    });
}

#[test]
fn a_name_that_is_one_endpoint_is_checked_on_another_port() {
    play(|| {
        let dns = dns::start();
        let (app, checked) = (backend::named("app"), backend::named("checked"));
        dns.host("app.test", &["127.0.0.1"], 60);
        let check = "addresses: one, health_check: { port: @other },";
        let text = HOST.replace("app: {", &format!("app: {{ {check}"));
        let values: &[(&str, &dyn std::fmt::Display)] = &[
            ("dns", &dns),
            ("port", &port(&app)),
            ("other", &port(&checked)),
        ];
        let proxy = proxy::start(&text, values);
        assert_eq!(proxy.client().get("/").text(), "app");
        let asked = checked.requests(1);
        let host = format!("app.test:{}", port(&checked));
        assert_eq!(asked[0].field("host"), Some(host.as_str()));
    });
}

#[test]
fn a_name_that_refused_connections_takes_traffic_when_the_answer_leads_elsewhere() {
    play(|| {
        let dns = dns::start();
        let (one, two) = pair();
        let port = port(&one);
        drop(one);
        dns.host("app.test", &["127.0.0.1"], 0);
        let text = HOST.replace("app: {", "app: { addresses: one, queue: { wait: 50ms },");
        let proxy = proxy::start(&text, &[("dns", &dns), ("port", &port)]);
        assert_eq!(proxy.client().get("/").status(), 503);
        dns.host("app.test", &["127.0.0.2"], 0);
        // Nobody sends anything: it is looked for.
        let is_found = || (two.seen().connections > 0).then_some(());
        expect::eventually("a connection to the other", is_found);
        assert_eq!(proxy.client().get("/").text(), "two");
    });
}

#[test]
fn endpoints_that_stay_in_an_answer_keep_their_health() {
    play(|| {
        let dns = dns::start();
        let ill = backend::script(|connection| {
            while connection.request().is_some() {
                connection.send("HTTP/1.1 503 Ill\r\ncontent-length: 0\r\n\r\n");
            }
        });
        let (well, new) = (backend::named("well"), backend::named("new"));
        serves(&dns, &[(0, 1, &ill), (0, 1, &well)], 0);
        let text = SERVICE.replace(
            "app: {",
            "app: { outlier: { failures: 1, ejection: 1m, max_ejected: 70% },",
        );
        let proxy = proxy::start(&text, &[("dns", &dns)]);
        comes_to(&proxy, &["well"]);
        let asked = ill.seen().requests.len();
        assert_eq!(asked, 1, "it is ejected");
        serves(&dns, &[(0, 1, &ill), (0, 1, &well), (0, 1, &new)], 0);
        comes_to(&proxy, &["well", "new"]);
        assert_eq!(ill.seen().requests.len(), asked);
    });
}

#[test]
fn an_answer_with_another_id_is_passed_over() {
    play(|| {
        let dns = dns::start();
        let (one, _two) = pair();
        dns.host("app.test", &["127.0.0.1"], 0);
        dns.is(Manner::Forged);
        let proxy = proxy::start(HOST, &[("dns", &dns), ("port", &port(&one))]);
        dns.is_asked_again("app.test", 2);
        assert_eq!(said(&proxy, 4), "one one one one");
    });
}

#[test]
fn a_truncated_answer_is_asked_for_over_tcp() {
    play(|| {
        let dns = dns::start();
        let (one, _two) = pair();
        dns.host("app.test", &["127.0.0.1", "127.0.0.2"], 60);
        dns.is(Manner::Truncated);
        let proxy = proxy::start(HOST, &[("dns", &dns), ("port", &port(&one))]);
        assert_eq!(said(&proxy, 4), "one two one two");
        assert!(dns.asked_by_tcp() >= 2, "{}", dns.asked_by_tcp());
    });
}

#[test]
fn a_large_answer_over_tcp_is_taken_whole() {
    play(|| {
        let dns = dns::start();
        let (one, _two) = pair();
        let many: Vec<_> = (1..=255).map(|last| format!("127.0.1.{last}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        dns.host("app.test", &[&many[..], &["127.0.0.1"]].concat(), 0);
        dns.is(Manner::Truncated);
        let proxy = proxy::start(HOST, &[("dns", &dns), ("port", &port(&one))]);
        let record = |proxy: &Proxy| proxy.peek().len();
        // Most of them refuse, and each exchange tries three.
        said(&proxy, 1);
        expect::eventually("a record", || (record(&proxy) > 0).then_some(()));
        dns.is(Manner::Good);
        dns.host("app.test", &["127.0.0.1"], 0);
        comes_to(&proxy, &["one"]);
    });
}

#[test]
fn a_slow_server_holds_up_no_start_and_no_exchange() {
    play(|| {
        let dns = dns::start();
        let (one, _two) = pair();
        dns.host("app.test", &["127.0.0.1"], 60);
        dns.is(Manner::Slow(Duration::from_millis(2500)));
        let proxy = proxy::start(HOST, &[("dns", &dns), ("port", &port(&one))]);
        // The start has waited for two seconds; the answer comes after it.
        assert_eq!(proxy.client().get("/").status(), 503);
        assert_eq!(proxy.record()["fault"], "no_endpoint");
        comes_to(&proxy, &["one"]);
    });
}

#[test]
fn a_server_that_drops_what_it_does_not_know_is_not_waited_for() {
    play(|| {
        let dns = dns::start();
        let (one, _two) = pair();
        dns.host("app.test", &["127.0.0.1"], 60);
        dns.is(Manner::SilentOnV6);
        let proxy = proxy::start(HOST, &[("dns", &dns), ("port", &port(&one))]);
        assert_eq!(proxy.client().get("/").text(), "one");
    });
}

#[test]
fn the_next_server_is_asked_when_one_fails_or_is_silent() {
    play(|| {
        let (bad, good) = (dns::start(), dns::start());
        let (one, _two) = pair();
        good.host("app.test", &["127.0.0.1"], 60);
        let text = HOST.replace("[\"@dns\"]", "[\"@bad\", \"@good\"]");
        let values: &[(&str, &dyn std::fmt::Display)] =
            &[("bad", &bad), ("good", &good), ("port", &port(&one))];
        for manner in [
            Manner::Fails,
            Manner::Refuses,
            Manner::Silent,
            Manner::Babbles,
        ] {
            bad.is(manner);
            let proxy = proxy::start(&text, values);
            assert_eq!(proxy.client().get("/").text(), "one", "{manner:?}");
        }
        assert!(bad.asked_for("app.test") >= 4);
    });
}

#[test]
fn other_servers_of_a_new_config_are_asked_before_it_is_in_force() {
    play(|| {
        let (before, after) = (dns::start(), dns::start());
        let (one, _two) = pair();
        before.host("app.test", &["127.0.0.1"], 60);
        after.host("app.test", &["127.0.0.2"], 60);
        let port = port(&one);
        let proxy = proxy::start(HOST, &[("dns", &before), ("port", &port)]);
        assert_eq!(said(&proxy, 2), "one one");
        let outcome = proxy.rewrite(HOST, &[("dns", &after), ("port", &port)]);
        assert!(outcome.to_string().contains("resolvers"), "{outcome}");
        assert_eq!(said(&proxy, 2), "two two");
    });
}

#[test]
fn a_ttl_of_zero_is_a_second() {
    play(|| {
        let dns = dns::start();
        let (one, _two) = pair();
        dns.host("app.test", &["127.0.0.1"], 0);
        let proxy = proxy::start(HOST, &[("dns", &dns), ("port", &port(&one))]);
        expect::after(Duration::from_millis(2500));
        let asked = dns.asked_for("app.test");
        assert!((2..=3).contains(&asked), "{asked}");
        drop(proxy);
    });
}

#[test]
fn a_failure_keeps_the_last_answer_and_is_told_once() {
    play(|| {
        let dns = dns::start();
        let (one, _two) = pair();
        dns.host("app.test", &["127.0.0.1"], 0);
        let process = process::start(HOST, &[("dns", &dns), ("port", &port(&one))]);
        assert_eq!(process.get("/"), "one");
        dns.is(Manner::Fails);
        dns.is_asked_again("app.test", 2);
        assert_eq!(process.get("/"), "one");
        dns.is(Manner::Good);
        dns.host("app.test", &["127.0.0.2"], 0);
        process.says(&["the name resolves again", "name=app.test"]);
        let change = process.says(&["cause=resolved"]);
        let (added, removed) = ("+app/127.0.0.2:", "-app/127.0.0.1:");
        assert!(
            change.contains(added) && change.contains(removed),
            "{change}"
        );
        let told = process.says_again(1, &["does not resolve"]);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("keeps=1"), "{told:?}");
        expect::eventually("the other", || (process.get("/") == "two").then_some(()));
    });
}

#[test]
fn a_name_that_goes_away_is_kept_for_a_while() {
    play(|| {
        let dns = dns::start();
        let (one, _two) = pair();
        dns.host("app.test", &["127.0.0.1"], 0);
        let proxy = proxy::start(HOST, &[("dns", &dns), ("port", &port(&one))]);
        dns.forget("app.test");
        dns.is_asked_again("app.test", 2);
        assert_eq!(said(&proxy, 2), "one one");
    });
}

#[test]
fn a_name_that_comes_later_is_found() {
    play(|| {
        let dns = dns::start();
        let (one, _two) = pair();
        let proxy = proxy::start(HOST, &[("dns", &dns), ("port", &port(&one))]);
        assert_eq!(proxy.client().get("/").status(), 503);
        dns.host("app.test", &["127.0.0.1"], 60);
        comes_to(&proxy, &["one"]);
    });
}

#[test]
fn whoever_waits_goes_where_the_next_answer_leads() {
    play(|| {
        let dns = dns::start();
        let (gone, new) = (backend::named("gone"), backend::named("new"));
        serves(&dns, &[(0, 1, &gone)], 0);
        drop(gone);
        let text = format!("admin: {{ address: unix:admin.sock }}\n{SERVICE}");
        let text = text.replace("] } }", "], queue: { wait: 1h } } }");
        let proxy = proxy::start(&text, &[("dns", &dns)]);
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
        let line = "lockgate_pool_queue_length{pool=\"app\"} 1";
        expect::eventually("one who waits", || {
            proxy.metrics().contains(line).then_some(())
        });
        serves(&dns, &[(0, 1, &new)], 0);
        assert_eq!(client.answer().text(), "new");
    });
}
