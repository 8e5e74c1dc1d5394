//! Tests of the table: against the plain scan, and by the lookups it makes.

use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::edges::tests::take_lookups;
use super::oracle::{Asked, HOSTS, PATHS, VALUES, Written, agrees, table, with_lookup};
use super::*;

fn written() -> impl Strategy<Value = Written> {
    let condition = || subsequence(vec!["k", "l"], 0..=2);
    (
        subsequence(HOSTS.to_vec(), 0..=2),
        proptest::option::weighted(0.8, select(&PATHS)),
        subsequence(vec![Method::GET, Method::POST], 0..=2),
        condition(),
        condition(),
        select(&VALUES),
    )
        .prop_map(|(hosts, path, methods, headers, query, value)| Written {
            hosts,
            path,
            methods,
            headers: headers.into_iter().map(|name| (name, value)).collect(),
            query: query.into_iter().map(|name| (name, value)).collect(),
        })
}

fn asked() -> impl Strategy<Value = Asked> {
    (
        select(vec![
            "a.b",
            "b",
            "c.a.b",
            "x.b",
            "d.c.a.b",
            "y.d.c.a.b",
            "e",
            "f",
            "",
        ]),
        prop_oneof![
            9 => "(/(v|w|vv|eighteen-letters-v|nineteen--letters-[vw])?){1,4}".prop_map(|path| path.replace("//", "/")),
            1 => Just("*".to_owned()),
        ],
        select(vec!["", "k=1", "l=2", "k=1&l=1", "k=2&k=1"]),
        select(vec![Method::GET, Method::POST, Method::PUT]),
        subsequence(vec![("k", "1"), ("k", "2"), ("l", "1")], 0..=3),
    )
        .prop_map(|(host, path, query, method, headers)| Asked {
            host,
            path: path.replace("//", "/"),
            query,
            method,
            headers,
        })
}

fn ask(host: &'static str, path: &str) -> Asked {
    Asked {
        host,
        path: path.to_owned(),
        query: "",
        method: Method::GET,
        headers: Vec::new(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_tree_agrees_with_a_plain_scan(
        rules in proptest::collection::vec(written(), 0..24),
        questions in proptest::collection::vec(asked(), 1..48),
    ) {
        let table = table(&rules);
        for asked in &questions {
            agrees(&table, &rules, asked);
        }
    }
}

#[test]
fn a_host_without_a_rule_for_the_path_falls_through() {
    let rule = |host: &'static str, path: &'static str| Written {
        hosts: vec![host],
        path: Some(('p', path)),
        ..Written::default()
    };
    let table = table(&[
        Written::default(),
        rule("*.b", "/"),
        rule("a.b", "/v"),
        rule("*.a.b", "/w"),
    ]);
    for (host, path, expected) in [
        ("a.b", "/v/x", 2),
        ("a.b", "/x", 1),
        ("c.a.b", "/w", 3),
        ("c.a.b", "/v", 1),
        ("e", "/v", 0),
        ("a.b", "*", 0),
    ] {
        let found = with_lookup(&ask(host, path), |lookup| table.find(lookup).copied());
        assert_eq!(found, Some(expected), "{host} {path}");
    }
}

#[test]
fn lookups_do_not_grow_with_the_number_of_rules() {
    let lookups = |count: usize| {
        let rules = (0..count).map(|index| {
            let condition = Match {
                hosts: vec![HostMatch::exact(&format!("h{}.example.com", index % 100)).unwrap()],
                path: PathMatch::prefix(&format!("/s{}/r{index}", index / 1000)).unwrap(),
                ..Match::default()
            };
            (condition, index)
        });
        let table = RouteTable::new(rules.collect());
        take_lookups();
        let found = with_lookup(&ask("h7.example.com", "/s0/r7/x/y/z"), |lookup| {
            table.find(lookup).copied()
        });
        assert_eq!(found, Some(7));
        let missed = with_lookup(&ask("h8.example.com", "/s0/r7/x"), |lookup| {
            table.find(lookup).copied()
        });
        assert_eq!(missed, None);
        take_lookups()
    };
    let few = lookups(10);
    assert_eq!(lookups(100_000), few);
    assert!(few <= 6, "{few}");
}

#[test]
fn a_client_cannot_make_lookups_by_many_labels_or_segments() {
    let table = table(&[
        Written {
            hosts: vec!["*.a.b"],
            ..Written::default()
        },
        Written {
            path: Some(('p', "/v")),
            ..Written::default()
        },
    ]);
    take_lookups();
    let asked = Asked {
        path: "/v".repeat(10_000),
        ..ask("x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.c.b", "/")
    };
    let found = with_lookup(&asked, |lookup| table.find(lookup).copied());
    assert_eq!(found, Some(1));
    assert_eq!(take_lookups(), 4, "exact host, two suffixes, one segment");
}
