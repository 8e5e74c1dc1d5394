//! Requests that are shared between pools, and clients that stay with theirs.

use std::fs;

use crate::harness::backend::{self, Backend};
use crate::harness::client::Client;
use crate::harness::wire::Message;
use crate::harness::{h2, play, proxy};

const POOLS: &str = "pools: { api: { endpoints: [\"@api\"] }, next: { endpoints: [\"@next\"] }, \
                     third: { endpoints: [\"@third\"] } }";

/// A proxy whose only route does `what`, before these three pools.
fn start(what: &str) -> ([Backend; 3], proxy::Proxy) {
    let backends = ["api", "next", "third"].map(backend::named);
    let proxy = run(&backends, &format!("routes: [{{ {what} }}]\n{POOLS}"));
    (backends, proxy)
}

fn run([api, next, third]: &[Backend; 3], text: &str) -> proxy::Proxy {
    proxy::start(text, &[("api", api), ("next", next), ("third", third)])
}

#[track_caller]
fn change([api, next, third]: &[Backend; 3], proxy: &proxy::Proxy, what: &str) {
    let text = format!("routes: [{{ {what} }}]\n{POOLS}");
    let values: &[(&str, &dyn std::fmt::Display)] =
        &[("api", api), ("next", next), ("third", third)];
    assert!(proxy.rewrite(&text, values).is_good());
}

fn seen(backends: &[Backend; 3]) -> [usize; 3] {
    backends
        .each_ref()
        .map(|backend| backend.seen().requests.len())
}

fn ask(client: &mut Client, cookie: &str) -> Message {
    client.ask(&format!(
        "GET / HTTP/1.1\r\nHost: app.test\r\nCookie: theirs=1; {cookie}\r\n\r\n"
    ))
}

/// The cookie of the client whose place is so many thousandths of all.
fn at(thousandths: u64) -> String {
    format!("lockgate_cohort={:05x}", (thousandths << 20) / 1000)
}

#[test]
fn requests_are_shared_by_weight_over_all_workers_and_the_record_names_the_pool() {
    play(|| {
        let backends = ["api", "next", "third"].map(backend::named);
        let text = format!(
            "workers: 3\nroutes: [{{ split: {{ api: 70, next: 30, third: 0 }} }}]\n{POOLS}"
        );
        let proxy = run(&backends, &text);
        for _ in 0..20 {
            let (mut one, mut other) = (proxy.client(), h2::Client::connect(proxy.address()));
            for _ in 0..5 {
                assert_eq!(one.get("/").field("set-cookie"), None);
                let answer = other.get("http://app.test/");
                assert_eq!((answer.status(), answer.field("set-cookie")), (200, None));
            }
        }
        let [api, next, third] = seen(&backends);
        assert_eq!((api + next, third), (200, 0));
        assert!((58..=62).contains(&next), "{next} of 200");
        let records = proxy.records(200);
        let named = records.iter().filter(|record| record["pool"] == "next");
        assert_eq!(named.count(), next);
    });
}

#[test]
fn a_change_of_weights_is_in_force_for_the_next_request() {
    play(|| {
        let (backends, proxy) = start("split: { api: 1, next: 0 }");
        let mut client = proxy.client();
        for _ in 0..5 {
            assert_eq!(client.get("/").text(), "api");
        }
        change(&backends, &proxy, "split: { api: 0, next: 1 }");
        for _ in 0..5 {
            assert_eq!(client.get("/").text(), "next");
        }
        change(&backends, &proxy, "pool: third");
        assert_eq!(client.get("/").text(), "third");
    });
}

#[test]
fn clients_stay_with_their_pool() {
    play(|| {
        let (_backends, proxy) = start("split: { api: 2, next: 1, third: 1 }, sticky: cookie");
        let mut client = proxy.client();
        let mut met = [0; 3];
        for _ in 0..40 {
            let first = client.get("/");
            let set = first.field("set-cookie").unwrap();
            let (cookie, attributes) = set.split_once("; ").unwrap();
            assert_eq!(
                attributes,
                "Path=/; Max-Age=2592000; HttpOnly; SameSite=Lax"
            );
            let place = ["api", "next", "third"].iter();
            met[place
                .clone()
                .position(|name| *name == first.text())
                .unwrap()] += 1;
            for _ in 0..3 {
                let again = ask(&mut client, cookie);
                assert_eq!(
                    (again.text(), again.field("set-cookie")),
                    (first.text(), None)
                );
            }
        }
        let [api, next, third] = met;
        assert!(
            (18..=22).contains(&api) && (8..=12).contains(&next) && (8..=12).contains(&third),
            "{met:?}"
        );
    });
}

#[test]
fn clients_move_only_where_weights_make_them() {
    play(|| {
        let split = |[api, next, third]: [u32; 3]| {
            format!("split: {{ api: {api}, next: {next}, third: {third} }}, sticky: cookie")
        };
        let weights = [
            [90, 10, 0],
            [80, 20, 0],
            [70, 20, 10],
            [50, 40, 10],
            [90, 0, 10],
        ];
        let (backends, proxy) = start(&split(weights[0]));
        let mut client = proxy.client();
        let everybody: Vec<_> = (0..20).map(|number| at(number * 50 + 25)).collect();
        let stand = |client: &mut Client| -> Vec<String> {
            let answers = everybody.iter().map(|cookie| ask(client, cookie));
            answers
                .inspect(|answer| assert_eq!(answer.field("set-cookie"), None))
                .map(|answer| answer.text().to_owned())
                .collect()
        };
        let names = ["api", "next", "third"];
        let mut before = stand(&mut client);
        for (old, new) in weights.iter().zip(&weights[1..]) {
            change(&backends, &proxy, &split(*new));
            let after = stand(&mut client);
            for (number, name) in names.iter().enumerate() {
                let count = after.iter().filter(|pool| pool == name).count();
                assert_eq!(count as u32 * 5, new[number], "{name} with {new:?}");
            }
            let moved = before.iter().zip(&after).filter(|(from, to)| from != to);
            let need: u32 = old.iter().zip(new).map(|(a, b)| a.saturating_sub(*b)).sum();
            assert_eq!(moved.count() as u32 * 5, need, "{old:?} to {new:?}");
            before = after;
        }
    });
}

#[test]
fn a_hostile_cookie_gets_a_new_place() {
    play(|| {
        let (_backends, proxy) =
            start("split: { api: 1, next: 1 }, sticky: { cookie: c, max_age: 1h }");
        let mut client = proxy.client();
        let long = format!("c={}", "0".repeat(8000));
        for hostile in ["c=", "c", "c=0000", "c=g0000", "c=\u{e4}%00;;=", &long] {
            let answer = ask(&mut client, hostile);
            let set = answer.field("set-cookie").unwrap();
            assert!(
                set.starts_with("c=") && set.contains("Max-Age=3600"),
                "{set}"
            );
        }
    });
}

#[test]
fn routes_with_one_cookie_send_a_client_to_the_same_pool() {
    play(|| {
        let backends = ["api", "next", "third"].map(backend::named);
        let text = format!(
            "routes: [{{ match: {{ path: /a }}, split: {{ api: 1, next: 1 }}, sticky: cookie }}, \
             {{ match: {{ path: /b }}, split: {{ api: 5, next: 5 }}, sticky: cookie }}]\n{POOLS}"
        );
        let proxy = run(&backends, &text);
        let mut client = proxy.client();
        for _ in 0..10 {
            let first = client.get("/a");
            let (cookie, _) = first.field("set-cookie").unwrap().split_once(';').unwrap();
            let other = client.ask(&format!(
                "GET /b HTTP/1.1\r\nHost: app.test\r\nCookie: {cookie}\r\n\r\n"
            ));
            assert_eq!(other.text(), first.text());
        }
    });
}

#[test]
fn a_site_splits_between_pools_of_its_own() {
    play(|| {
        let (own, other) = (backend::named("own"), backend::named("other"));
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("sites")).unwrap();
        let site = format!(
            "routes: [{{ match: {{ host: app.test }}, split: {{ app: 1, next: 0 }} }}]\n\
             pools: {{ app: {{ endpoints: [\"{own}\"] }}, next: {{ endpoints: [\"{other}\"] }} }}\n"
        );
        fs::write(folder.path().join("sites/shop.yaml"), site).unwrap();
        let main = format!(
            "include: sites/*.yaml\nroutes: [{{ pool: app }}]\n\
             pools: {{ app: {{ endpoints: [\"{other}\"] }} }}\n"
        );
        let proxy = proxy::start_in(folder, &main);
        assert_eq!(proxy.client().get("/").text(), "own");
        assert_eq!(proxy.record()["pool"], "shop/app");
    });
}
