//! The hash table over all edges of the tree: from a parent and a name to the child.
//!
//! Built once by `tree`, then only read.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};

use foldhash::quality::RandomState;

use super::tree::{Node, number};

/// An open-addressed table from (parent, name) to child, at most half full.
///
/// `std`'s map cannot look up a pair of a number and a borrowed text without building the pair.
#[derive(Debug)]
pub(super) struct Edges {
    state: RandomState,
    /// A power of two of them.
    slots: Vec<Slot>,
    edges: Vec<Edge>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    /// The upper half of the hash: a wrong edge is seldom looked at.
    tag: u32,
    /// Its place among the edges; [`VACANT`] if the slot is free.
    edge: u32,
}

#[derive(Debug)]
struct Edge {
    parent: Node,
    child: Node,
    name: Box<str>,
}

const VACANT: u32 = u32::MAX;

impl Edges {
    pub(super) fn new(edges: HashMap<(Node, Box<str>), Node, RandomState>) -> Self {
        let free = Slot {
            tag: 0,
            edge: VACANT,
        };
        let mut table = Self {
            state: RandomState::default(),
            slots: vec![free; (edges.len() * 2 + 1).next_power_of_two()],
            edges: Vec::with_capacity(edges.len()),
        };
        for ((parent, name), child) in edges {
            let (mut at, tag) = table.hash(parent, &name);
            let edge = number(table.edges.len());
            while let Some(slot) = table.slot_mut(at) {
                if slot.edge == VACANT {
                    *slot = Slot { tag, edge };
                    break;
                }
                at = at.wrapping_add(1);
            }
            table.edges.push(Edge {
                parent,
                child,
                name,
            });
        }
        table
    }

    /// The child of `parent` by `name`.
    pub(super) fn find(&self, parent: Node, name: &str) -> Option<Node> {
        #[cfg(test)]
        tests::count_lookup();
        let (mut at, tag) = self.hash(parent, name);
        // Ends at a free slot: at least one is, since the table is never more than half full.
        loop {
            let slot = self.slots.get(at & (self.slots.len() - 1))?;
            if slot.tag == tag
                && let Some(edge) = self.edges.get(slot.edge as usize)
                && edge.parent == parent
                && *edge.name == *name
            {
                return Some(edge.child);
            }
            if slot.edge == VACANT {
                return None;
            }
            at = at.wrapping_add(1);
        }
    }

    fn slot_mut(&mut self, at: usize) -> Option<&mut Slot> {
        let mask = self.slots.len() - 1;
        self.slots.get_mut(at & mask)
    }

    /// Where to begin to look, and the tag.
    fn hash(&self, parent: Node, name: &str) -> (usize, u32) {
        let mut hasher = self.state.build_hasher();
        hasher.write_u32(parent);
        hasher.write(name.as_bytes());
        let hash = hasher.finish();
        (hash as usize, (hash >> 32) as u32)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::Cell;

    thread_local! {
        static LOOKUPS: Cell<usize> = const { Cell::new(0) };
    }

    pub(super) fn count_lookup() {
        LOOKUPS.set(LOOKUPS.get() + 1);
    }

    /// How many lookups in the table of edges this thread has made since it asked the last time.
    pub(in super::super) fn take_lookups() -> usize {
        LOOKUPS.replace(0)
    }
}
