//! The hash table over the edges of the tree: from a parent and a name to the child.
//!
//! Built once by `tree`, then only read. It holds numbers of nodes; the nodes know their parents and names.

use std::hash::{BuildHasher, Hasher};

use foldhash::quality::RandomState;

use super::tree::Node;

/// An open-addressed table, at most half full.
///
/// `std`'s map cannot look up a pair of a number and a borrowed text without building the pair.
#[derive(Debug)]
pub(super) struct Edges {
    state: RandomState,
    /// A power of two of them.
    slots: Vec<Slot>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    /// The upper half of the hash: a wrong node is seldom looked at.
    tag: u32,
    /// The child; [`VACANT`] if the slot is free.
    child: Node,
}

const VACANT: Node = Node::MAX;

impl Edges {
    /// An empty table that has room for `count` edges.
    pub(super) fn with_room_for(count: usize) -> Self {
        let free = Slot {
            tag: 0,
            child: VACANT,
        };
        Self {
            state: RandomState::default(),
            slots: vec![free; (count * 2 + 1).next_power_of_two()],
        }
    }

    /// Adds an edge that is not there yet; no more of them than the table was made for.
    pub(super) fn insert(&mut self, parent: Node, name: &str, child: Node) {
        let (mut at, tag) = self.hash(parent, name);
        let mask = self.slots.len() - 1;
        while let Some(slot) = self.slots.get_mut(at & mask) {
            if slot.child == VACANT {
                *slot = Slot { tag, child };
                return;
            }
            at = at.wrapping_add(1);
        }
    }

    /// The child of `parent` by `name`: the one among those whose hash fits that `is` says yes to.
    pub(super) fn find(&self, parent: Node, name: &str, is: impl Fn(Node) -> bool) -> Option<Node> {
        #[cfg(test)]
        tests::count_lookup();
        let (mut at, tag) = self.hash(parent, name);
        // Ends at a free slot: there always is one, since at most half of them are taken.
        loop {
            let slot = self.slots.get(at & (self.slots.len() - 1))?;
            if slot.child == VACANT {
                return None;
            }
            if slot.tag == tag && is(slot.child) {
                return Some(slot.child);
            }
            at = at.wrapping_add(1);
        }
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

    /// How many lookups in tables of edges this thread has made since it asked the last time.
    pub(in super::super) fn take_lookups() -> usize {
        LOOKUPS.replace(0)
    }
}
