//! What a broken site seems to answer for: hosts and paths, made out of a text that is no site.
//!
//! A site that was never good has to be left out, and its clients are told so instead of being sent elsewhere. For
//! that it is enough to make out hosts and paths: from the tree if the text is YAML, else from what looks like a
//! `host` on its lines.

use super::env;
use super::kinds::Text;
use super::node::{Node, Value};
use super::parse;
use super::route::{HostMatch, Match, PathMatch};
use super::values::http::{Pattern, UrlPath};

/// The conditions on host and path that can be made out.
pub(super) fn salvage(text: &str, lookup: env::Lookup<'_>) -> Vec<Match> {
    match parse::read(text) {
        Ok(mut tree) => {
            // What cannot be filled in has been told of, or will be.
            env::fill(&mut tree, lookup, &mut Vec::new());
            of_tree(&tree)
        }
        Err(_) => of_lines(text, lookup),
    }
}

fn of_tree(tree: &Node) -> Vec<Match> {
    let Some(Value::List(routes)) = tree.get("routes").map(|node| &node.value) else {
        return Vec::new();
    };
    routes.iter().filter_map(of_route).collect()
}

/// `None` where there is a condition, but none that can be made out.
fn of_route(route: &Node) -> Option<Match> {
    let Value::Map(_) = &route.value else {
        return None;
    };
    let Some(condition) = route.get("match") else {
        return Some(Match::default());
    };
    let Value::Map(_) = &condition.value else {
        return None;
    };
    let hosts: Vec<_> = match condition.get("host").map(|node| &node.value) {
        None => Vec::new(),
        Some(Value::List(hosts)) => hosts.iter().filter_map(read).collect(),
        Some(_) => condition.get("host").and_then(read).into_iter().collect(),
    };
    if hosts.is_empty() && condition.get("host").is_some() {
        return None;
    }
    let path = match condition.get("path") {
        None => None,
        Some(path) => Some(of_path(path)?),
    };
    Some(Match {
        hosts,
        path,
        ..Match::default()
    })
}

fn of_path(node: &Node) -> Option<PathMatch> {
    let Value::Map(_) = &node.value else {
        let UrlPath(prefix) = read(node)?;
        return Some(PathMatch::Prefix(prefix));
    };
    if let Some(UrlPath(exact)) = node.get("exact").and_then(read) {
        return Some(PathMatch::Exact(exact));
    }
    if let Some(Pattern(regex)) = node.get("regex").and_then(read) {
        return Some(PathMatch::Regex(regex));
    }
    let UrlPath(prefix) = node.get("prefix").and_then(read)?;
    Some(PathMatch::Prefix(prefix))
}

fn read<T: Text>(node: &Node) -> Option<T> {
    match &node.value {
        Value::Text(text) | Value::Filled(text) => T::read(text).ok(),
        _ => None,
    }
}

/// Each host that stands behind a `host:`, in any of the ways to write it.
fn of_lines(text: &str, lookup: env::Lookup<'_>) -> Vec<Match> {
    let mut hosts: Vec<HostMatch> = Vec::new();
    let mut note = |written: &str| {
        let written = written.trim().trim_matches(['"', '\'']);
        hosts.extend(HostMatch::read(written));
    };
    // Filled in line by line: braces of variables are no ends of maps.
    let lines = text.lines();
    let lines = lines.map(|line| env::filled(line, lookup).unwrap_or_else(|_| line.to_owned()));
    let mut lines = lines.peekable();
    while let Some(line) = lines.next() {
        for written in behind_host(&line) {
            if let Some(list) = written.strip_prefix('[') {
                let list = list.split(']').next().unwrap_or_default();
                list.split(',').for_each(&mut note);
            } else if !written.is_empty() {
                note(written.split([',', '}', '#']).next().unwrap_or_default());
            } else {
                let is_item = |line: &String| line.trim_start().starts_with("- ");
                while let Some(item) = lines.next_if(is_item) {
                    let item = item.trim_start().trim_start_matches("- ");
                    note(item.split('#').next().unwrap_or_default());
                }
            }
        }
    }
    hosts
        .into_iter()
        .map(|host| Match {
            hosts: vec![host],
            ..Match::default()
        })
        .collect()
}

/// What stands behind each `host:` of a line.
fn behind_host(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("host:").filter_map(|(at, key)| {
        let before = line.get(..at)?.chars().next_back();
        let begins = before.is_none_or(|letter| letter.is_whitespace() || "{,".contains(letter));
        let is_comment = line.trim_start().starts_with('#');
        (begins && !is_comment).then(|| line.get(at + key.len()..).unwrap_or_default().trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::site::Claim;

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        let env = |name: &str| (name == "HOST").then(|| "e.test".to_owned());
        let claims = salvage(text, &env);
        let claims: Vec<_> = claims
            .iter()
            .flat_map(Claim::of)
            .map(|c| c.to_string())
            .collect();
        assert_eq!(claims, expected, "{text}");
    }

    #[test]
    fn hosts_and_paths_of_a_site_that_is_yaml_are_made_out() {
        check(
            "
listeners: oops
routes:
  - { match: { host: a.test, path: /v1, methods: 5 }, pool: none }
  - match: { host: [b.test, 'not a host', '${HOST}'], path: { exact: /x } }
  - match: { path: { regex: '/[0-9]+' } }
  - { pool: app, wrong: true }
  - match: { host: 'not a host' }
  - match: { host: c.test, path: no-path }
  - match: 5
  - 7
",
            &[
                "a.test/v1/",
                "b.test/x (exact)",
                "e.test/x (exact)",
                "*/[0-9]+ (regex)",
                "*/",
            ],
        );
        check("routes: 5", &[]);
        check("5", &[]);
    }

    #[test]
    fn hosts_of_a_text_that_is_no_yaml_are_made_out() {
        check(
            "
routes:
  - { match: { host: a.test, path: /v1 }, pool: app }
  - match: { host: [ b.test, \"*.b.test\" ] }
  # host: comment.test
  - match:
      host: ${HOST} # the shop
      ghost: g.test
  - match:
      host:
        - c.test
        - 'd.test'
    pool: app
\tpool: broken
  - match: { host: \"f.test\" }
",
            &[
                "a.test/",
                "b.test/",
                "*.b.test/",
                "e.test/",
                "c.test/",
                "d.test/",
                "f.test/",
            ],
        );
        check("routes: [ { host: ", &[]);
        check("\0", &[]);
    }
}
