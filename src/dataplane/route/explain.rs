//! Why a request meets one rule and not another: for people, offline; no request goes through here.
//!
//! It looks at every rule and shares nothing with the search but the conditions themselves.

use std::cmp::Reverse;
use std::fmt;

use http::HeaderName;

use super::{Lookup, Match, RouteTable};

/// How many rules are told about at most.
pub const CANDIDATES_LIMIT: usize = 100;

/// A rule that could have been met, and what became of it.
#[derive(Debug)]
pub struct Candidate<'a, T> {
    /// The rule's condition.
    pub condition: &'a Match,
    /// What is found by it.
    pub value: &'a T,
    /// What became of it.
    pub verdict: Verdict<'a>,
}

/// What became of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// This is the rule that is met.
    Wins,
    /// Its condition holds, but a more specific one won.
    LessSpecific,
    /// Its condition holds and is as specific, but an earlier one won.
    Later,
    /// The host is another.
    Host,
    /// The path is another.
    Path,
    /// The method is another.
    Method,
    /// This header field is not as it should be.
    Header(&'a HeaderName),
    /// This query parameter is not as it should be.
    Query(&'a str),
}

impl fmt::Display for Verdict<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wins => out.write_str("wins"),
            Self::LessSpecific => out.write_str("a more specific one won"),
            Self::Later => out.write_str("an earlier one won"),
            Self::Host => out.write_str("the host differs"),
            Self::Path => out.write_str("the path differs"),
            Self::Method => out.write_str("the method differs"),
            Self::Header(name) => write!(out, "header `{name}` does not match"),
            Self::Query(name) => write!(out, "query parameter `{name}` does not match"),
        }
    }
}

pub(super) fn explain<'a, T>(
    table: &'a RouteTable<T>,
    lookup: &Lookup<'_>,
) -> Vec<Candidate<'a, T>> {
    let mut seen: Vec<_> = table
        .iter()
        .enumerate()
        .map(|(index, (condition, value))| {
            let candidate = Candidate {
                condition,
                value,
                verdict: verdict(condition, lookup),
            };
            (Reverse(condition.rank(lookup.host)), index, candidate)
        })
        .filter(|(_, _, candidate)| {
            candidate.verdict != Verdict::Host
                || (candidate.condition.path.is_condition()
                    && candidate.condition.path.holds(lookup.path))
        })
        .collect();
    seen.sort_by_key(|(rank, index, _)| (*rank, *index));
    let mut winner = None;
    for (rank, _, candidate) in &mut seen {
        if candidate.verdict == Verdict::Wins {
            candidate.verdict = match winner {
                None => Verdict::Wins,
                Some(best) if best == *rank => Verdict::Later,
                Some(_) => Verdict::LessSpecific,
            };
            winner.get_or_insert(*rank);
        }
    }
    // The bound keeps those that came closest; the winner is always among them.
    seen.sort_by_key(|(rank, index, candidate)| (distance(candidate.verdict), *rank, *index));
    seen.truncate(CANDIDATES_LIMIT);
    seen.sort_by_key(|(rank, index, _)| (*rank, *index));
    seen.into_iter()
        .map(|(_, _, candidate)| candidate)
        .collect()
}

/// `Wins` stands for every condition that holds.
fn verdict<'a>(condition: &'a Match, lookup: &Lookup<'_>) -> Verdict<'a> {
    if !condition.host_holds(lookup.host) {
        return Verdict::Host;
    }
    if !condition.path.holds(lookup.path) {
        return Verdict::Path;
    }
    condition.rest_fails(lookup).unwrap_or(Verdict::Wins)
}

const fn distance(verdict: Verdict<'_>) -> u8 {
    match verdict {
        Verdict::Wins => 0,
        Verdict::LessSpecific
        | Verdict::Later
        | Verdict::Method
        | Verdict::Header(_)
        | Verdict::Query(_) => 1,
        Verdict::Path => 2,
        Verdict::Host => 3,
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::*;
    use crate::dataplane::route::{HostMatch, PathMatch, ValueMatch};

    fn prefix(path: &str) -> Match {
        Match {
            path: PathMatch::prefix(path).unwrap(),
            ..Match::default()
        }
    }

    fn rules() -> Vec<(Match, &'static str)> {
        let on_host = |host| vec![HostMatch::exact(host).unwrap()];
        let one = || ValueMatch::Exact("1".into());
        let mut rules = vec![(Match::default(), "all")];
        let mut rule = |name, path, change: &dyn Fn(&mut Match)| {
            let mut condition = prefix(path);
            change(&mut condition);
            rules.push((condition, name));
        };
        rule("path", "/x", &|rule| rule.hosts = on_host("a.b"));
        rule("host", "/v", &|rule| rule.hosts = on_host("e"));
        rule("method", "/", &|rule| rule.methods = vec![Method::POST]);
        rule("header", "/", &|rule| {
            rule.headers = vec![(HeaderName::from_static("k"), one())];
        });
        rule("query", "/", &|rule| {
            rule.query = vec![("q".to_owned(), one())]
        });
        rule("first", "/v", &|_| ());
        rule("second", "/v/", &|_| ());
        rule("elsewhere", "/", &|rule| rule.hosts = on_host("f"));
        rules
    }

    fn told(rules: Vec<(Match, &'static str)>) -> Vec<String> {
        let table = RouteTable::new(rules);
        let lookup = Lookup {
            host: "a.b",
            path: "/v",
            query: None,
            method: &Method::GET,
            headers: &HeaderMap::new(),
        };
        let told = table.explain(&lookup);
        told.iter()
            .map(|one| format!("{}: {}", one.value, one.verdict))
            .collect()
    }

    #[test]
    fn each_rule_is_told_why_it_lost() {
        assert_eq!(
            told(rules()),
            [
                "path: the path differs",
                "first: wins",
                "second: an earlier one won",
                "method: the method differs",
                "header: header `k` does not match",
                "query: query parameter `q` does not match",
                "all: a more specific one won",
                "host: the host differs",
                "elsewhere: the host differs",
            ]
        );
    }

    #[test]
    fn the_bound_keeps_the_rules_that_came_closest() {
        let mut rules = rules();
        rules.extend((0..1000).map(|_| (Match::default(), "many")));
        let told = told(rules);
        assert_eq!(told.len(), CANDIDATES_LIMIT);
        assert_eq!(told.first().map(String::as_str), Some("first: wins"));
        assert!(
            told.iter()
                .all(|one| !one.contains("differs") || one.starts_with("method"))
        );
    }
}
