//! Copies of requests for another pool, and what they must never do to the original.

use std::fmt::Display;

use bytes::Bytes;
use http::Request;
use http_body::Frame;

use crate::harness::backend::{self, Backend};
use crate::harness::client::Client;
use crate::harness::h2::{self, Pieces};
use crate::harness::wire::Message;
use crate::harness::{expect, play, proxy};

/// A proxy with a control socket, whose route leads to `api` and does `more`.
fn start(more: &str, api: &dyn Display, shadow: &dyn Display) -> proxy::Proxy {
    let text = format!(
        "admin: {{ address: \"unix:admin.sock\" }}\nroutes: [{{ pool: api, {more} }}]\n\
         pools: {{ api: {{ endpoints: [\"@api\"] }}, shadow: {{ timeouts: {{ connect: 60s }}, \
         endpoints: [\"@shadow\"] }} }}"
    );
    proxy::start(&text, &[("api", api), ("shadow", shadow)])
}

const ALL: &str = "mirror: { pool: shadow }";

fn metrics(proxy: &proxy::Proxy) -> String {
    let mut client = Client::unix(&proxy.folder().join("admin.sock"));
    let answer = client.ask("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    answer.text().to_owned()
}

/// Waits until a counter of copies stands at `value`.
#[track_caller]
fn counts(proxy: &proxy::Proxy, counter: &str, value: usize) {
    let (name, reason) = counter.split_once(' ').unwrap_or((counter, ""));
    let reason = match reason {
        "" => String::new(),
        reason => format!(",reason=\"{reason}\""),
    };
    let sample = format!("lockgate_mirror_{name}{{pool=\"shadow\"{reason}}} {value}");
    expect::eventually(&sample, || {
        metrics(proxy)
            .lines()
            .any(|line| line == sample)
            .then_some(())
    });
}

fn with_target<'a>(requests: &'a [Message], target: &str) -> &'a Message {
    let mut all = requests.iter();
    all.find(|request| request.target() == target)
        .unwrap_or_else(|| panic!("{target} is not among {requests:?}"))
}

#[test]
fn a_copy_is_what_the_original_is_and_its_answer_is_for_nobody() {
    play(|| {
        let api = backend::named("api");
        let shadow = backend::says(
            "HTTP/1.1 500 Oh\r\nset-cookie: shadow=1\r\ncontent-length: 6\r\n\r\nshadow",
        );
        let proxy = start(ALL, &api, &shadow);
        let mut client = proxy.client();
        let mut answers = vec![client.get("/plain?a=1"), client.post("/length", "hello")];
        answers.push(client.ask(
            "PUT /chunked HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\nCookie: a=b\r\n\
             Expect: 100-continue\r\nX-Lockgate-Mirror: 1\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\
             X-Sum: 42\r\n\r\n",
        ));
        let mut other = h2::Client::connect(proxy.address());
        let request =
            Request::post("http://app.test/h2").body(Pieces::of("hello", &[("x-sum", "7")]));
        answers.push(other.ask(request.unwrap()));
        for answer in &answers {
            assert_eq!((answer.status(), answer.text()), (200, "api"));
            assert_eq!(answer.field("set-cookie"), None);
        }
        let (originals, copies) = (api.requests(4), shadow.requests(4));
        counts(&proxy, "sent_total", 4);
        for original in &originals {
            let copy = with_target(&copies, original.target());
            assert_eq!(copy.line, original.line);
            assert_eq!(copy.body, original.body);
            assert_eq!(copy.trailers, original.trailers);
            assert_eq!(original.field("x-lockgate-mirror"), None);
            assert_eq!(copy.field("x-lockgate-mirror"), Some("1"));
            for name in ["host", "x-request-id", "x-forwarded-for", "via", "cookie"] {
                assert_eq!(copy.field(name), original.field(name), "{name}");
            }
        }
        assert_eq!(with_target(&copies, "/chunked").body, b"hello world");
        assert_eq!(with_target(&copies, "/h2").body, b"hello");
        for (target, sum) in [("/chunked", "42"), ("/h2", "7")] {
            let trailers = &with_target(&copies, target).trailers;
            assert_eq!(*trailers, [("x-sum".to_owned(), sum.to_owned())]);
        }
        let records = proxy.stop();
        assert_eq!(records.len(), 4);
        assert!(records.iter().all(|record| record["pool"] == "api"));
    });
}

#[test]
fn a_pool_of_http2_gets_copies_too() {
    play(|| {
        let (api, shadow) = (backend::named("api"), h2::backend(|_| h2::said("ok", &[])));
        let text = "admin: { address: \"unix:admin.sock\" }\n\
                    routes: [{ pool: api, mirror: { pool: shadow } }]\n\
                    pools: { api: { endpoints: [\"@api\"] }, \
                    shadow: { protocol: h2, endpoints: [\"@shadow\"] } }";
        let proxy = proxy::start(text, &[("api", &api), ("shadow", &shadow)]);
        let mut client = proxy.client();
        for _ in 0..3 {
            assert_eq!(client.post("/", "hello").text(), "api");
        }
        counts(&proxy, "sent_total", 3);
        let copies = shadow.requests(3);
        assert!(copies.iter().all(|copy| copy.body == b"hello"));
        assert_eq!(shadow.seen().connections, 1);
    });
}

/// Asks in all ways, and insists on the original's answers.
#[track_caller]
fn originals_are_answered(proxy: &proxy::Proxy, what: &str) {
    let (mut client, mut other) = (proxy.client(), h2::Client::connect(proxy.address()));
    for _ in 0..3 {
        assert_eq!(client.get("/").text(), "api", "{what}");
        assert_eq!(client.post("/", "hello").text(), "api", "{what}");
        assert_eq!(other.get("http://app.test/").text(), "api", "{what}");
        let request = Request::post("http://app.test/").body(Pieces::of("hello", &[]));
        assert_eq!(other.ask(request.unwrap()).text(), "api", "{what}");
    }
    let faults = proxy.records(12);
    assert!(
        faults
            .iter()
            .all(|record| record["fault"].is_null() && record["attempts"] == 1),
        "{what}: {faults:?}"
    );
}

#[test]
fn a_mirror_that_fails_costs_the_original_nothing() {
    play(|| {
        let api = backend::named("api");
        let refuses = backend::refuses();
        let hangs_up = backend::script(|connection| connection.hang_up());
        let babbles = backend::says("what?\r\n\r\n");
        let closes = backend::closes_after(0);
        let breaks_off =
            backend::says_and_closes("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfirst");
        let bad_chunks =
            backend::says_and_closes("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n");
        let switches = backend::says(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
        );
        let mirrors: [(&str, &dyn Display); 7] = [
            ("refuses", &refuses),
            ("hangs up", &hangs_up),
            ("babbles", &babbles),
            ("closes", &closes),
            ("breaks off", &breaks_off),
            ("bad chunks", &bad_chunks),
            ("switches", &switches),
        ];
        for (what, shadow) in mirrors {
            let proxy = start(ALL, &api, shadow);
            originals_are_answered(&proxy, what);
            counts(&proxy, "in_flight", 0);
            counts(&proxy, "sent_total", 0);
            counts(&proxy, "failed_total", 12);
        }
    });
}

#[test]
fn a_mirror_that_hangs_keeps_nobody_waiting() {
    play(|| {
        let api = backend::named("api");
        let (stalls, after_head) = (backend::stalls(), backend::stalls_after_head());
        let (_held, full) = backend::full();
        let mirrors: [(&str, &dyn Display); 3] = [
            ("takes no connection", &full),
            ("says nothing", &stalls),
            ("stalls in its body", &after_head),
        ];
        for (what, shadow) in mirrors {
            let proxy = start(ALL, &api, shadow);
            originals_are_answered(&proxy, what);
            let told = metrics(&proxy);
            assert!(
                told.contains("lockgate_mirror_in_flight{pool=\"shadow\"} 12"),
                "{what}: the copies are still under way: {told}"
            );
            // Nor does the end of the process wait for them.
            proxy.stop();
        }
    });
}

#[test]
fn an_answer_without_an_end_is_left_after_its_first_16_mib() {
    play(|| {
        let api = backend::named("api");
        let endless = backend::script(|connection| {
            if connection.request().is_some() {
                connection.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
                let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
                while connection.send(&chunk) {
                    connection.count(0x10000);
                }
                connection.left();
            }
        });
        let proxy = start(ALL, &api, &endless);
        assert_eq!(proxy.client().get("/").text(), "api");
        endless.is_left_by(1);
        assert!(endless.seen().written >= 16 << 20);
        counts(&proxy, "sent_total", 1);
        counts(&proxy, "in_flight", 0);
    });
}

#[test]
fn a_copy_ends_by_the_response_timeout_of_its_route() {
    play(|| {
        let (api, shadow) = (backend::named("api"), backend::stalls());
        let more = format!("{ALL}, timeouts: {{ response: 300ms }}");
        let proxy = start(&more, &api, &shadow);
        assert_eq!(proxy.client().get("/").text(), "api");
        shadow.is_left_by(1);
        counts(&proxy, "failed_total", 1);
        counts(&proxy, "in_flight", 0);
    });
}

#[test]
fn the_copy_does_not_wait_for_the_original_and_is_not_lost_with_it() {
    play(|| {
        let (api, shadow) = (backend::stalls(), backend::named("shadow"));
        let more = format!("{ALL}, timeouts: {{ response: 300ms }}, retry: {{ attempts: 0 }}");
        let proxy = start(&more, &api, &shadow);
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
        shadow.request();
        counts(&proxy, "sent_total", 1);
        assert_eq!(client.answer().status(), 504);
    });
}

#[test]
fn copies_beyond_256_at_a_time_are_dropped() {
    play(|| {
        let (api, shadow) = (backend::named("api"), backend::stalls());
        let proxy = start(ALL, &api, &shadow);
        let mut client = proxy.client();
        for _ in 0..270 {
            assert_eq!(client.get("/").text(), "api");
        }
        counts(&proxy, "in_flight", 256);
        counts(&proxy, "dropped_total busy", 14);
        assert_eq!(shadow.requests(256).len(), 256);
    });
}

#[test]
fn bodies_up_to_64_kib_are_copied_and_longer_ones_only_sent() {
    play(|| {
        let (api, shadow) = (backend::named("api"), backend::named("shadow"));
        let proxy = start(ALL, &api, &shadow);
        let mut client = proxy.client();
        let (most, long) = ("x".repeat(64 << 10), "y".repeat((64 << 10) + 1));
        assert_eq!(client.post("/most", &most).text(), "api");
        assert_eq!(client.post("/long", &long).text(), "api");
        let mut other = h2::Client::connect(proxy.address());
        let (feed, body) = Pieces::fed();
        let answer = other.send(Request::post("http://app.test/fed").body(body).unwrap());
        for _ in 0..9 {
            let piece = Frame::data(Bytes::from(vec![b'z'; 8 << 10]));
            h2::wait(feed.send(piece)).unwrap();
        }
        drop(feed);
        assert_eq!(h2::read(h2::wait(answer).unwrap()).text(), "api");
        let originals = api.requests(3);
        assert_eq!(with_target(&originals, "/long").body.len(), long.len());
        assert_eq!(with_target(&originals, "/fed").body.len(), 72 << 10);
        counts(&proxy, "dropped_total body", 2);
        counts(&proxy, "sent_total", 1);
        assert_eq!(shadow.request().body, most.as_bytes());
    });
}

#[test]
fn a_body_that_breaks_off_has_no_copy() {
    play(|| {
        let (api, shadow) = (backend::named("api"), backend::named("shadow"));
        let proxy = start(ALL, &api, &shadow);
        let mut client = proxy.client();
        client.send("POST /half HTTP/1.1\r\nHost: app.test\r\nContent-Length: 10\r\n\r\nhello");
        api.wait("the half arrived", |seen| seen.connections == 1);
        drop(client);
        counts(&proxy, "dropped_total incomplete", 1);
        counts(&proxy, "in_flight", 0);
        assert_eq!(proxy.client().get("/whole").text(), "api");
        assert_eq!(shadow.request().target(), "/whole");
    });
}

#[test]
fn a_share_of_all_requests_is_copied_whichever_pool_they_go_to() {
    play(|| {
        let (api, next) = (backend::named("api"), backend::named("next"));
        let shadow = backend::named("shadow");
        let text = "workers: 2\nadmin: { address: \"unix:admin.sock\" }\n\
                    routes: [{ split: { api: 1, next: 1 }, mirror: { pool: shadow, percent: 12.5 } }]\n\
                    pools: { api: { endpoints: [\"@api\"] }, next: { endpoints: [\"@next\"] }, \
                    shadow: { endpoints: [\"@shadow\"] } }";
        let proxy = proxy::start(text, &[("api", &api), ("next", &next), ("shadow", &shadow)]);
        for _ in 0..16 {
            let mut client = proxy.client();
            for _ in 0..20 {
                assert_eq!(client.get("/").status(), 200);
            }
        }
        let records = proxy.records(320);
        counts(&proxy, "in_flight", 0);
        let copies = shadow.requests(38);
        assert!((38..=42).contains(&copies.len()), "{}", copies.len());
        let of = |pool: &str| {
            let copies = copies.iter();
            let is_of = |copy: &&Message| {
                let id = copy.field("x-request-id").unwrap();
                let mut records = records.iter();
                records.any(|record| record["request_id"] == id && record["pool"] == pool)
            };
            copies.filter(is_of).count()
        };
        let (api, next) = (of("api"), of("next"));
        assert_eq!(api + next, copies.len());
        assert!(api >= 12 && next >= 12, "{api} and {next}");
    });
}

#[test]
fn nothing_is_copied_at_0_percent() {
    play(|| {
        let (api, shadow) = (backend::named("api"), backend::named("shadow"));
        let text = |percent: u8| {
            format!(
                "routes: [{{ pool: api, mirror: {{ pool: shadow, percent: {percent} }} }}]\n\
                 pools: {{ api: {{ endpoints: [\"@api\"] }}, shadow: {{ endpoints: [\"@shadow\"] }} }}"
            )
        };
        let proxy = proxy::start(&text(0), &[("api", &api), ("shadow", &shadow)]);
        let mut client = proxy.client();
        for _ in 0..20 {
            assert_eq!(client.get("/none").text(), "api");
        }
        let outcome = proxy.rewrite(&text(100), &[("api", &api), ("shadow", &shadow)]);
        assert!(outcome.is_good());
        assert_eq!(client.get("/all").text(), "api");
        assert_eq!(shadow.request().target(), "/all");
    });
}

#[test]
fn upgrades_are_not_copied() {
    play(|| {
        let api = backend::script(|connection| match connection.head() {
            Some(request) if request.target() == "/socket" => {
                connection.send(
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
                );
                connection.echo();
            }
            Some(_) => drop(connection.ok("api")),
            None => {}
        });
        let shadow: Backend = backend::named("shadow");
        let proxy = start(ALL, &api, &shadow);
        let mut client = proxy.client();
        client.send(
            "GET /socket HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
        );
        assert_eq!(client.head().status(), 101);
        client.send("hello");
        assert_eq!(client.wire.exactly(5).0, b"hello");
        assert_eq!(proxy.client().get("/plain").text(), "api");
        assert_eq!(shadow.request().target(), "/plain");
    });
}
