//! A plain scan that implements the precedence naively, for the table to be held against.

use std::collections::HashMap;
use std::sync::LazyLock;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use regex::Regex;

use super::{HostMatch, Lookup, Match, PathMatch, RouteTable, ValueMatch, Verdict};
use crate::base::fuzzing::Choices;

/// A rule as an operator writes it, for the oracle: it shares no code with the table.
#[derive(Clone, Debug, Default)]
pub(super) struct Written {
    pub(super) hosts: Vec<&'static str>,
    pub(super) path: Option<(char, &'static str)>,
    pub(super) methods: Vec<Method>,
    pub(super) headers: Vec<(&'static str, &'static str)>,
    pub(super) query: Vec<(&'static str, &'static str)>,
}

#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) host: &'static str,
    pub(super) path: String,
    pub(super) query: &'static str,
    pub(super) method: Method,
    pub(super) headers: Vec<(&'static str, &'static str)>,
}

pub(super) const HOSTS: [&str; 9] = [
    "a.b", "b", "c.a.b", "*.b", "*.a.b", "*.c.a.b", "x.b", "d.c.a.b", "e",
];
pub(super) const PATHS: [(char, &str); 21] = [
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
pub(super) const VALUES: [&str; 4] = ["1", "2", "~[12]", "!"];

/// The expressions of the paths: as the table has them, and as the oracle reads them.
static PATTERNS: LazyLock<HashMap<&str, (PathMatch, Regex)>> = LazyLock::new(|| {
    let patterns = PATHS.iter().filter(|(kind, _)| *kind == 'r');
    patterns
        .map(|(_, pattern)| {
            let whole = Regex::new(&format!("^({pattern})$")).expect("it is one");
            (
                *pattern,
                (PathMatch::regex(pattern).expect("it is one"), whole),
            )
        })
        .collect()
});

static DIGIT: LazyLock<ValueMatch> =
    LazyLock::new(|| ValueMatch::regex("[12]").expect("it is one"));

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
                Some(suffix) => HostMatch::wildcard(suffix).expect("it is one"),
                None => HostMatch::exact(host).expect("it is one"),
            })
            .collect(),
        path: match rule.path {
            None => PathMatch::ANY,
            Some(('p', path)) => PathMatch::prefix(path).expect("it is one"),
            Some(('e', path)) => PathMatch::exact(path).expect("it is one"),
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

pub(super) fn oracle(rules: &[Written], asked: &Asked) -> Option<usize> {
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

pub(super) fn table(rules: &[Written]) -> RouteTable<usize> {
    RouteTable::new(rules.iter().map(compile).zip(0..).collect())
}

pub(super) fn with_lookup<R>(asked: &Asked, then: impl FnOnce(&Lookup<'_>) -> R) -> R {
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

/// What a fuzzer's bytes choose: rules, and requests that are to find theirs.
pub fn routes(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let rules: Vec<_> = (0..choices.below(24))
        .map(|_| written(&mut choices))
        .collect();
    let table = table(&rules);
    while !choices.is_over() {
        agrees(&table, &rules, &asked(&mut choices));
    }
}

/// The table finds what the scan finds, and explains it so.
pub(super) fn agrees(table: &RouteTable<usize>, rules: &[Written], asked: &Asked) {
    let expected = oracle(rules, asked);
    let (found, told) = with_lookup(asked, |lookup| {
        let told = table.explain(lookup);
        let winner = told.iter().find(|one| one.verdict == Verdict::Wins);
        (table.find(lookup).copied(), winner.map(|one| *one.value))
    });
    assert_eq!(found, expected, "{asked:?}");
    assert_eq!(told, expected, "{asked:?}");
}

fn written(choices: &mut Choices<'_>) -> Written {
    let hosts = (0..choices.below(3)).map(|_| *choices.one(&HOSTS));
    let hosts = hosts.collect();
    let path = match choices.below(5) {
        0 => None,
        _ => Some(*choices.one(&PATHS)),
    };
    let methods = [Method::GET, Method::POST].into_iter();
    let methods = methods.filter(|_| choices.below(4) == 0).collect();
    let value = *choices.one(&VALUES);
    let mut conditions = || {
        let names = ["k", "l"].into_iter().filter(|_| choices.below(4) == 0);
        names.map(|name| (name, value)).collect::<Vec<_>>()
    };
    Written {
        hosts,
        path,
        methods,
        headers: conditions(),
        query: conditions(),
    }
}

fn asked(choices: &mut Choices<'_>) -> Asked {
    const SEGMENTS: [&str; 6] = [
        "",
        "v",
        "w",
        "vv",
        "eighteen-letters-v",
        "nineteen--letters-v",
    ];
    let host = *choices.one(&[
        "a.b",
        "b",
        "c.a.b",
        "x.b",
        "d.c.a.b",
        "y.d.c.a.b",
        "e",
        "f",
        "",
    ]);
    let path = match choices.below(16) {
        0 => "*".to_owned(),
        _ => {
            let segments = (0..1 + choices.below(4)).map(|_| *choices.one(&SEGMENTS));
            let path: String = segments.map(|segment| format!("/{segment}")).collect();
            // In normal form there is no empty segment but the last.
            let mut path = path.replace("///", "/").replace("//", "/");
            path = path.replace("//", "/");
            path
        }
    };
    let query = *choices.one(&["", "k=1", "l=2", "k=1&l=1", "k=2&k=1"]);
    let headers = [("k", "1"), ("k", "2"), ("l", "1")].into_iter();
    Asked {
        host,
        path,
        query,
        method: choices
            .one(&[Method::GET, Method::POST, Method::PUT])
            .clone(),
        headers: headers.filter(|_| choices.flag()).collect(),
    }
}
