//! Tests of the table: against a plain scan that implements the precedence naively, and by the lookups it makes.

use std::collections::HashMap;
use std::sync::LazyLock;

use http::HeaderValue;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use regex::Regex;

use super::edges::tests::take_lookups;
use super::*;

/// A rule as an operator writes it, for the oracle: it shares no code with the table.
#[derive(Clone, Debug, Default)]
struct Written {
    hosts: Vec<&'static str>,
    path: Option<(char, &'static str)>,
    methods: Vec<Method>,
    headers: Vec<(&'static str, &'static str)>,
    query: Vec<(&'static str, &'static str)>,
}

#[derive(Clone, Debug)]
struct Asked {
    host: &'static str,
    path: String,
    query: &'static str,
    method: Method,
    headers: Vec<(&'static str, &'static str)>,
}

const HOSTS: [&str; 9] = [
    "a.b", "b", "c.a.b", "*.b", "*.a.b", "*.c.a.b", "x.b", "d.c.a.b", "e",
];
const PATHS: [(char, &str); 21] = [
    ('p', "/"),
    ('p', "/v"),
    ('p', "/v/"),
    ('p', "/v/w"),
    ('p', "/v/w/v"),
    ('p', "/w"),
    ('p', "/vv"),
    // A segment that is kept in its node, just so, and one that is not.
    ('p', "/eighteen-letters-v"),
    ('e', "/nineteen--letters-v"),
    ('p', "//v/./w"),
    ('e', "/"),
    ('e', "/v"),
    ('e', "/v/"),
    ('e', "/v/w"),
    ('e', "/w/v"),
    ('e', "/v/w/v/"),
    ('r', "/v.*"),
    ('r', "/[vw]+"),
    ('r', ".*"),
    ('r', "/w/v|/v/w"),
    ('r', "/"),
];
const VALUES: [&str; 4] = ["1", "2", "~[12]", "!"];

/// The expressions of the paths: as the table has them, and as the oracle reads them.
static PATTERNS: LazyLock<HashMap<&str, (PathMatch, Regex)>> = LazyLock::new(|| {
    let patterns = PATHS.iter().filter(|(kind, _)| *kind == 'r');
    patterns
        .map(|(_, pattern)| {
            let whole = Regex::new(&format!("^({pattern})$")).unwrap();
            (*pattern, (PathMatch::regex(pattern).unwrap(), whole))
        })
        .collect()
});

static DIGIT: LazyLock<ValueMatch> = LazyLock::new(|| ValueMatch::regex("[12]").unwrap());

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

fn value(text: &str) -> ValueMatch {
    match text.split_at(1) {
        ("!", _) => ValueMatch::Present(true),
        // Compiled once: unoptimized, an expression takes longer than a thousand lookups.
        ("~", _) => DIGIT.clone(),
        _ => ValueMatch::Exact(text.into()),
    }
}

fn compile(rule: &Written) -> Match {
    Match {
        hosts: rule
            .hosts
            .iter()
            .map(|host| match host.strip_prefix("*.") {
                Some(suffix) => HostMatch::wildcard(suffix).unwrap(),
                None => HostMatch::exact(host).unwrap(),
            })
            .collect(),
        path: match rule.path {
            None => PathMatch::ANY,
            Some(('p', path)) => PathMatch::prefix(path).unwrap(),
            Some(('e', path)) => PathMatch::exact(path).unwrap(),
            Some((_, pattern)) => PATTERNS[pattern].0.clone(),
        },
        methods: rule.methods.clone(),
        headers: rule
            .headers
            .iter()
            .map(|(name, text)| (HeaderName::from_static(name), value(text)))
            .collect(),
        query: rule
            .query
            .iter()
            .map(|(name, text)| ((*name).to_owned(), value(text)))
            .collect(),
    }
}

/// The oracle: whether a rule holds and how specific it is, read off what was written.
fn specificity(rule: &Written, asked: &Asked) -> Option<[usize; 6]> {
    let host = if rule.hosts.is_empty() {
        Some(0)
    } else {
        let hosts = rule
            .hosts
            .iter()
            .filter_map(|host| match host.strip_prefix('*') {
                Some(suffix) if asked.host.ends_with(suffix) => Some(suffix.len()),
                None if asked.host == *host => Some(1000),
                _ => None,
            });
        hosts.max()
    }?;
    let path = match rule.path {
        None => Some((0, 0)),
        Some(('p', prefix)) => {
            let prefix = prefix.replace("//", "/").replace("/./", "/");
            let prefix = prefix.trim_end_matches('/');
            let with_slash = format!("{}/", asked.path);
            with_slash
                .starts_with(&format!("{prefix}/"))
                .then_some((1, prefix.len()))
        }
        Some(('e', exact)) => (exact == asked.path).then_some((3, 0)),
        Some((_, pattern)) => {
            let whole = &PATTERNS[pattern].1;
            whole.is_match(&asked.path).then_some((2, 0))
        }
    }?;
    let fits = |text: &str, values: &[&str]| match text {
        "!" => !values.is_empty(),
        "~[12]" => values.iter().any(|value| matches!(*value, "1" | "2")),
        exact => values.contains(&exact),
    };
    let headers = rule.headers.iter().all(|(name, text)| {
        let named = asked.headers.iter().filter(|(other, _)| other == name);
        fits(text, &named.map(|(_, value)| *value).collect::<Vec<_>>())
    });
    let query = rule.query.iter().all(|(name, text)| {
        let named = asked
            .query
            .split('&')
            .filter_map(|pair| pair.split_once('='));
        let named = named.filter(|(other, _)| other == name);
        fits(text, &named.map(|(_, value)| value).collect::<Vec<_>>())
    });
    let has_method = !rule.methods.is_empty();
    let method = !has_method || rule.methods.contains(&asked.method);
    (headers && query && method).then_some([
        host,
        path.0,
        path.1,
        usize::from(has_method),
        rule.headers.len(),
        rule.query.len(),
    ])
}

fn oracle(rules: &[Written], asked: &Asked) -> Option<usize> {
    let mut best: Option<([usize; 6], usize)> = None;
    for (index, rule) in rules.iter().enumerate() {
        if let Some(rank) = specificity(rule, asked)
            && best.is_none_or(|(other, _)| rank > other)
        {
            best = Some((rank, index));
        }
    }
    best.map(|(_, index)| index)
}

fn table(rules: &[Written]) -> RouteTable<usize> {
    RouteTable::new(rules.iter().map(compile).zip(0..).collect())
}

fn with_lookup<R>(asked: &Asked, then: impl FnOnce(&Lookup<'_>) -> R) -> R {
    let mut headers = HeaderMap::new();
    for (name, value) in &asked.headers {
        headers.append(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    then(&Lookup {
        host: asked.host,
        path: &asked.path,
        query: Some(asked.query),
        method: &asked.method,
        headers: &headers,
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
            let expected = oracle(&rules, asked);
            let found = with_lookup(asked, |lookup| table.find(lookup).copied());
            prop_assert_eq!(found, expected, "{:?}", asked);
            let told = with_lookup(asked, |lookup| {
                let told = table.explain(lookup);
                let winner = told.iter().find(|one| one.verdict == Verdict::Wins);
                winner.map(|one| *one.value)
            });
            prop_assert_eq!(told, expected, "{:?}", asked);
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
