//! The route room: request → the rule that it meets, by the most specific match.
//!
//! The exchange asks [`RouteTable::find`] once a request; the control plane builds the table. What a rule leads
//! to is the table's type parameter: this room knows nothing of pools and filters, and nothing here waits.
//!
//! Every rule whose whole condition holds is a candidate, and the most specific wins (the precedence of the
//! Gateway API):
//!
//! 1. the host: exact, then a wildcard with more labels, then one with fewer, then any host;
//! 2. the path: exact, then regular expression, then the longest prefix, then any path;
//! 3. a condition on the method before none;
//! 4. more conditions on header fields before fewer;
//! 5. more conditions on query parameters before fewer;
//! 6. the earlier rule.
//!
//! The list is flat: a request whose exact host has no rule for its path falls through to wildcards and to the
//! rules for any host. Finding is by hash and tree (`tree`), never by scan.

pub mod host;
pub mod path;

mod condition;
mod edges;
mod explain;
mod tree;

#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod oracle;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;

use http::{HeaderMap, HeaderName, Method};

pub use self::condition::ValueMatch;
pub use self::explain::{CANDIDATES_LIMIT, Candidate, Verdict};
pub use self::host::HostMatch;
pub use self::path::PathMatch;

use self::tree::{Builder, Candidates, Tree};

/// The condition of a rule: every part that is there must hold. The default holds for every request.
#[derive(Clone, Debug, Default)]
pub struct Match {
    /// Any of these; empty is any host.
    pub hosts: Vec<HostMatch>,
    /// The path.
    pub path: PathMatch,
    /// Any of these; empty is any method.
    pub methods: Vec<Method>,
    /// All of these header fields.
    pub headers: Vec<(HeaderName, ValueMatch)>,
    /// All of these query parameters, names decoded.
    pub query: Vec<(String, ValueMatch)>,
}

/// What a request is looked up by.
#[derive(Clone, Copy, Debug)]
pub struct Lookup<'a> {
    /// The host in normal form; empty if the request names none.
    pub host: &'a str,
    /// The path in normal form.
    pub path: &'a str,
    /// The query as it came, without its question mark.
    pub query: Option<&'a str>,
    /// The method.
    pub method: &'a Method,
    /// The header.
    pub headers: &'a HeaderMap,
}

/// Rules, and the tree that finds the one a request meets. Built once, then only read.
#[derive(Debug)]
pub struct RouteTable<T> {
    rules: Vec<Rule<T>>,
    /// The conditions of the rules, apart: most rules have none but host and path, which the tree has seen to.
    conditions: Vec<Match>,
    tree: Tree,
}

#[derive(Debug)]
struct Rule<T> {
    value: T,
    /// Whether host and path are the whole condition.
    is_plain: bool,
}

impl<T> RouteTable<T> {
    /// Builds the table; the order of the rules decides between equally specific ones.
    pub fn new(rules: Vec<(Match, T)>) -> Self {
        let (conditions, values): (Vec<Match>, Vec<T>) = rules.into_iter().unzip();
        let mut order: Vec<_> = conditions.iter().zip(0..).collect();
        // A stable sort: the earlier rule stays the earlier one.
        order.sort_by_key(|(condition, _)| Reverse(condition.rank_of_rest()));
        let mut builder = Builder::new();
        for (condition, rule) in order {
            builder.insert(&condition.hosts, &condition.path, rule);
        }
        let rules = values.into_iter().zip(&conditions);
        Self {
            rules: rules
                .map(|(value, condition)| Rule {
                    value,
                    is_plain: condition.rank_of_rest() == (false, 0, 0),
                })
                .collect(),
            conditions,
            tree: builder.build(),
        }
    }

    /// The rule that a request meets. Allocates nothing, except to match an expression against a query value
    /// that is percent-encoded.
    pub fn find(&self, lookup: &Lookup<'_>) -> Option<&T> {
        self.tree
            .search(lookup.host, lookup.path, |candidates| match candidates {
                Candidates::Certain(rules) => self.first(rules, lookup, |_| true),
                Candidates::Patterns(rules) => self.first(rules, lookup, |rule| {
                    self.conditions
                        .get(rule as usize)
                        .is_some_and(|condition| condition.path.holds(lookup.path))
                }),
            })
    }

    /// The rules that the request met or came close to, the most specific first, each with what became of it.
    ///
    /// For people: it looks at every rule. At most [`CANDIDATES_LIMIT`] of them are told, the winner among them.
    pub fn explain(&self, lookup: &Lookup<'_>) -> Vec<Candidate<'_, T>> {
        explain::explain(self, lookup)
    }

    /// How many rules there are.
    pub const fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there are no rules.
    pub const fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The rules in the order in which they were given.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Match, &T)> {
        self.conditions
            .iter()
            .zip(self.rules.iter().map(|rule| &rule.value))
    }

    /// The first of some rules that holds, in the end also by `path_holds`, which may cost the most.
    fn first(
        &self,
        rules: &[u32],
        lookup: &Lookup<'_>,
        path_holds: impl Fn(u32) -> bool,
    ) -> Option<&T> {
        rules.iter().find_map(|number| {
            let rule = self.rules.get(*number as usize)?;
            let holds = rule.is_plain
                || self
                    .conditions
                    .get(*number as usize)
                    .is_some_and(|condition| condition.rest_holds(lookup));
            (holds && path_holds(*number)).then_some(&rule.value)
        })
    }
}

/// What decides between rules of one host and path; a greater one wins.
type RestRank = (bool, usize, usize);

impl Match {
    fn host_holds(&self, host: &str) -> bool {
        self.hosts.is_empty() || self.hosts.iter().any(|condition| condition.holds(host))
    }

    fn rest_holds(&self, lookup: &Lookup<'_>) -> bool {
        self.rest_fails(lookup).is_none()
    }

    /// What fails beside host and path.
    fn rest_fails(&self, lookup: &Lookup<'_>) -> Option<Verdict<'_>> {
        if !self.methods.is_empty() && !self.methods.contains(lookup.method) {
            return Some(Verdict::Method);
        }
        let header = self
            .headers
            .iter()
            .find(|(name, value)| !condition::header_holds(lookup.headers, name, value));
        if let Some((name, _)) = header {
            return Some(Verdict::Header(name));
        }
        self.query
            .iter()
            .find(|(name, value)| !condition::query_holds(lookup.query, name, value))
            .map(|(name, _)| Verdict::Query(name))
    }

    const fn rank_of_rest(&self) -> RestRank {
        (
            !self.methods.is_empty(),
            self.headers.len(),
            self.query.len(),
        )
    }

    /// How specific the rule is for a request to `host`: by the best of its hosts that hold, or below all others
    /// if none does.
    fn rank(&self, host: &str) -> (Option<(u8, usize)>, (u8, usize), RestRank) {
        let any = self.hosts.is_empty().then_some((0, 0));
        let best = self
            .hosts
            .iter()
            .filter(|condition| condition.holds(host))
            .map(HostMatch::rank)
            .max();
        (best.or(any), self.path.rank(), self.rank_of_rest())
    }
}
