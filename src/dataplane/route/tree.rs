//! The tree that rules are found in: hosts at the top, path segments below, and one hash table over all edges.
//!
//! A lookup costs one step for the host, one for each label that a wildcard could end at, and one for each
//! segment of the path for as long as some rule has it; the number of rules is in none of these. What is tried
//! one by one are rules of the same host and path, and the regular expressions of a host.
//!
//! Nothing is allocated to search. The hash is seeded for each process, since hosts and paths are chosen by
//! clients.

use std::collections::HashMap;

use foldhash::quality::RandomState;

use super::edges::Edges;
use super::host::{self, HostMatch};
use super::path::{self, PathMatch};

/// A node's number. Hosts have parents that are no nodes.
pub(super) type Node = u32;

/// The parent of every exact host.
const EXACT: Node = Node::MAX;
/// The parent of every wildcard's suffix.
const WILDCARD: Node = Node::MAX - 1;
/// No node.
const NONE: Node = Node::MAX - 2;
/// The node of the rules for any host.
const ANY_HOST: Node = 0;

/// Rules that are told apart by what they hold beside host and path, the most specific first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Candidates<'a> {
    /// Host and path hold.
    Certain(&'a [u32]),
    /// The host holds; the path is a regular expression, still to be tried.
    Patterns(&'a [u32]),
}

/// The tree, built once and only read afterwards.
#[derive(Debug)]
pub(super) struct Tree {
    edges: Edges,
    nodes: Vec<Place>,
    /// The long names of nodes; a [`Span`] is a part of it.
    names: String,
    /// The rules of the places that have several; a [`Span`] is a part of it.
    order: Vec<u32>,
    /// How many labels the longest wildcard suffix has.
    wildcard_labels: usize,
}

/// What is known at a node: one cache line, since a large table is cold.
#[derive(Debug)]
#[repr(align(64))]
struct Place {
    parent: Node,
    name: Name,
    /// The nearest node above that has prefix rules.
    above: Node,
    has_children: bool,
    exact: Rules,
    prefix: Rules,
    /// Only at the node of a host.
    regex: Rules,
    /// Only at the node of a host.
    any: Rules,
}

const _: () = assert!(size_of::<Place>() == 64);

/// The name of a node, in it if it is short: what lies elsewhere is cold too.
#[derive(Debug)]
enum Name {
    Short { len: u8, bytes: [u8; SHORT] },
    Long(Span),
}

/// Bytes of a name that fit into a [`Place`].
const SHORT: usize = 18;

/// A part of a longer whole: from, to.
type Span = (u32, u32);

/// The rules of a place: a span of the order, or the only rule and [`ONLY`].
type Rules = (u32, u32);

/// Follows the number of a rule that is alone in its place.
const ONLY: u32 = u32::MAX;

impl Tree {
    /// Searches the rules whose host and path hold, the most specific first, until `visit` has found one.
    pub(super) fn search<R>(
        &self,
        host: &str,
        path: &str,
        mut visit: impl FnMut(Candidates<'_>) -> Option<R>,
    ) -> Option<R> {
        if let Some(node) = self.child(EXACT, host)
            && let Some(found) = self.search_host(node, path, &mut visit)
        {
            return Some(found);
        }
        if self.wildcard_labels > 0 {
            // Suffixes longer than any wildcard's are not looked up, however many labels a client sends.
            let mut skip = host::labels(host).saturating_sub(self.wildcard_labels + 1);
            let mut rest = host;
            while let Some((_, suffix)) = rest.split_once('.') {
                rest = suffix;
                if skip > 0 {
                    skip -= 1;
                    continue;
                }
                if let Some(node) = self.child(WILDCARD, suffix)
                    && let Some(found) = self.search_host(node, path, &mut visit)
                {
                    return Some(found);
                }
            }
        }
        self.search_host(ANY_HOST, path, &mut visit)
    }

    fn search_host<R>(
        &self,
        host: Node,
        path: &str,
        visit: &mut impl FnMut(Candidates<'_>) -> Option<R>,
    ) -> Option<R> {
        let root = self.nodes.get(host as usize)?;
        let (mut node, exact) = self.descend(host, path);
        if let Some(exact) = exact
            && let Some(found) = self.visit_certain(exact, visit)
        {
            return Some(found);
        }
        let patterns = self.rules(&root.regex);
        if !patterns.is_empty()
            && let Some(found) = visit(Candidates::Patterns(patterns))
        {
            return Some(found);
        }
        while let Some(place) = self.nodes.get(node as usize) {
            if let Some(found) = self.visit_certain(&place.prefix, visit) {
                return Some(found);
            }
            node = place.above;
        }
        self.visit_certain(&root.any, visit)
    }

    /// Goes down as far as the path leads: the deepest node, and the exact rules if the path ends there.
    fn descend(&self, host: Node, path: &str) -> (Node, Option<&Rules>) {
        // The `*` of OPTIONS is below no prefix.
        let Some(mut rest) = path.strip_prefix('/') else {
            return (NONE, None);
        };
        let mut node = host;
        loop {
            if !self
                .nodes
                .get(node as usize)
                .is_some_and(|place| place.has_children)
            {
                return (node, None);
            }
            let cut = memchr::memchr(b'/', rest.as_bytes());
            let (segment, tail) = match cut.and_then(|at| rest.split_at_checked(at)) {
                Some((segment, tail)) => (segment, tail.strip_prefix('/')),
                None => (rest, None),
            };
            match (self.child(node, segment), tail) {
                (None, _) => return (node, None),
                (Some(child), None) => {
                    return (
                        child,
                        self.nodes.get(child as usize).map(|place| &place.exact),
                    );
                }
                (Some(child), Some(tail)) => {
                    node = child;
                    rest = tail;
                }
            }
        }
    }

    fn visit_certain<R>(
        &self,
        rules: &Rules,
        visit: &mut impl FnMut(Candidates<'_>) -> Option<R>,
    ) -> Option<R> {
        match self.rules(rules) {
            [] => None,
            rules => visit(Candidates::Certain(rules)),
        }
    }

    fn rules<'a>(&'a self, rules: &'a Rules) -> &'a [u32] {
        match rules {
            (rule, ONLY) => std::slice::from_ref(rule),
            (from, to) => self
                .order
                .get(*from as usize..*to as usize)
                .unwrap_or_default(),
        }
    }

    fn name<'a>(&'a self, name: &'a Name) -> Option<&'a [u8]> {
        match name {
            Name::Short { len, bytes } => bytes.get(..usize::from(*len)),
            Name::Long((from, to)) => self.names.as_bytes().get(*from as usize..*to as usize),
        }
    }

    fn child(&self, parent: Node, name: &str) -> Option<Node> {
        self.edges.find(parent, name, |node| {
            self.nodes.get(node as usize).is_some_and(|place| {
                place.parent == parent && self.name(&place.name) == Some(name.as_bytes())
            })
        })
    }
}

/// Builds a tree, rule by rule; the rules of one place keep the order in which they come.
#[derive(Debug)]
pub(super) struct Builder {
    edges: HashMap<(Node, Box<str>), Node, RandomState>,
    lists: Vec<Lists>,
    wildcard_labels: usize,
}

#[derive(Debug)]
struct Lists {
    parent: Node,
    name: Box<str>,
    exact: Vec<u32>,
    prefix: Vec<u32>,
    regex: Vec<u32>,
    any: Vec<u32>,
}

impl Lists {
    const fn new(parent: Node, name: Box<str>) -> Self {
        Self {
            parent,
            name,
            exact: Vec::new(),
            prefix: Vec::new(),
            regex: Vec::new(),
            any: Vec::new(),
        }
    }
}

impl Builder {
    pub(super) fn new() -> Self {
        Self {
            edges: HashMap::default(),
            lists: vec![Lists::new(NONE, "".into())],
            wildcard_labels: 0,
        }
    }

    /// Adds a rule below each of its hosts; no host is any host.
    pub(super) fn insert(&mut self, hosts: &[HostMatch], path: &PathMatch, rule: u32) {
        if hosts.is_empty() {
            self.insert_path(ANY_HOST, path, rule);
        }
        for host in hosts {
            let node = match host.kind() {
                host::Kind::Exact(name) => self.child(EXACT, name),
                host::Kind::Wildcard(suffix) => {
                    self.wildcard_labels = self.wildcard_labels.max(host::labels(suffix));
                    self.child(WILDCARD, suffix)
                }
            };
            self.insert_path(node, path, rule);
        }
    }

    fn insert_path(&mut self, host: Node, path: &PathMatch, rule: u32) {
        let node = match path.kind() {
            path::Kind::Any | path::Kind::Regex(_) => host,
            path::Kind::Prefix(path) | path::Kind::Exact(path) => path
                .split('/')
                // What stands before the first slash is nothing.
                .skip(1)
                .fold(host, |node, segment| self.child(node, segment)),
        };
        let Some(lists) = self.lists.get_mut(node as usize) else {
            return;
        };
        let list = match path.kind() {
            path::Kind::Any => &mut lists.any,
            path::Kind::Regex(_) => &mut lists.regex,
            path::Kind::Prefix(_) => &mut lists.prefix,
            path::Kind::Exact(_) => &mut lists.exact,
        };
        // A rule that names a host twice comes twice in a row.
        if list.last() != Some(&rule) {
            list.push(rule);
        }
    }

    fn child(&mut self, parent: Node, name: &str) -> Node {
        let next = number(self.lists.len());
        let node = *self.edges.entry((parent, name.into())).or_insert(next);
        if node == next {
            self.lists.push(Lists::new(parent, name.into()));
        }
        node
    }

    pub(super) fn build(self) -> Tree {
        let mut edges = Edges::with_room_for(self.lists.len());
        let mut names = String::new();
        let mut order = Vec::new();
        let mut nodes: Vec<Place> = Vec::with_capacity(self.lists.len());
        let mut place = |rules: &[u32]| match rules {
            [rule] => (*rule, ONLY),
            _ => {
                let from = number(order.len());
                order.extend_from_slice(rules);
                (from, number(order.len()))
            }
        };
        for lists in self.lists {
            // Parents are numbered before their children.
            let above = match nodes.get_mut(lists.parent as usize) {
                Some(parent) => {
                    parent.has_children = true;
                    match parent.prefix {
                        (from, to) if from == to => parent.above,
                        _ => lists.parent,
                    }
                }
                None => NONE,
            };
            edges.insert(lists.parent, &lists.name, number(nodes.len()));
            nodes.push(Place {
                parent: lists.parent,
                name: Name::new(&lists.name, &mut names),
                above,
                has_children: false,
                exact: place(&lists.exact),
                prefix: place(&lists.prefix),
                regex: place(&lists.regex),
                any: place(&lists.any),
            });
        }
        Tree {
            edges,
            nodes,
            names,
            order,
            wildcard_labels: self.wildcard_labels,
        }
    }
}

impl Name {
    /// Keeps a name, with those before it if it is long.
    fn new(name: &str, names: &mut String) -> Self {
        let mut bytes = [0; SHORT];
        if let (Some(space), Ok(len)) = (bytes.get_mut(..name.len()), name.len().try_into()) {
            space.copy_from_slice(name.as_bytes());
            return Self::Short { len, bytes };
        }
        let from = number(names.len());
        names.push_str(name);
        Self::Long((from, number(names.len())))
    }
}

/// A count of nodes, rules or bytes of names as the tree stores it.
pub(super) fn number(count: usize) -> u32 {
    u32::try_from(count)
        .ok()
        .filter(|number| *number < NONE)
        .expect("four thousand million rules do not fit into memory")
}
