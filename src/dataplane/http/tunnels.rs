//! The tunnels of one worker: those whose route is gone end, one after the other.
//!
//! A tunnel lives as long as its two sides like, however often the config changes. When the config has its route no more,
//! it gets a deadline of its own, at a tenth to the whole of `drain.tunnels`: which one is a matter of chance, so that
//! clients do not come back all at once. The worker looks after each change of the snapshot.

use std::cell::RefCell;
use std::hash::BuildHasher;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use foldhash::fast::RandomState;
use slab::Slab;

use crate::base::clock;
use crate::base::deadline::{Deadline, Deadlines};
use crate::dataplane::snapshot::Life;

/// The tunnels of one worker. Cloning it is a reference to the same.
#[derive(Clone, Debug, Default)]
pub struct Tunnels {
    table: Rc<RefCell<Slab<Entry>>>,
    state: RandomState,
}

#[derive(Debug)]
struct Entry {
    life: Arc<Life>,
    leave: Rc<Deadline>,
    is_leaving: bool,
}

impl Tunnels {
    /// Counts a tunnel until the stay is dropped. A route that has gone meanwhile gives it `within` to end.
    pub fn enter(&self, life: Arc<Life>, deadlines: &Deadlines, within: Duration) -> Stay {
        let leave = Rc::new(deadlines.at(None));
        let mut table = self.table.borrow_mut();
        let place = table.vacant_entry();
        let key = place.key();
        let mut entry = Entry {
            life,
            leave: Rc::clone(&leave),
            is_leaving: false,
        };
        self.look_at(key, &mut entry, within);
        place.insert(entry);
        Stay {
            tunnels: self.clone(),
            key,
            leave,
        }
    }

    /// Tells those whose route is gone when to end. Looks at every tunnel.
    pub fn review(&self, within: Duration) {
        for (key, entry) in &mut *self.table.borrow_mut() {
            self.look_at(key, entry, within);
        }
    }

    fn look_at(&self, key: usize, entry: &mut Entry, within: Duration) {
        if entry.is_leaving || !entry.life.is_over() {
            return;
        }
        entry.is_leaving = true;
        let now = clock::now();
        let part = 100 + self.state.hash_one((now, key)) % 901;
        let wait = within / 1000 * u32::try_from(part).unwrap_or(1000);
        entry.leave.set(Some(now + wait));
    }
}

/// One tunnel; it is over when this is dropped.
#[derive(Debug)]
pub struct Stay {
    tunnels: Tunnels,
    key: usize,
    leave: Rc<Deadline>,
}

impl Stay {
    /// Ready once the tunnel is to end, since its route is gone.
    pub fn poll_over(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.leave.poll(cx)
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.tunnels.table.borrow_mut().try_remove(self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::snapshot::life_that_is_over;

    const WITHIN: Duration = Duration::from_secs(300);

    /// When a tunnel is to end, from now.
    fn wait_of(stay: &Stay) -> Option<Duration> {
        let at = stay.leave.at()?;
        Some(at.saturating_duration_since(clock::now()))
    }

    #[test]
    fn tunnels_of_a_route_that_is_gone_are_spread_over_the_time() {
        let (tunnels, deadlines) = (Tunnels::default(), Deadlines::default());
        let gone = life_that_is_over();
        let stays: Vec<_> = (0..1000)
            .map(|_| tunnels.enter(Arc::clone(&gone), &deadlines, WITHIN))
            .collect();
        let waits: Vec<_> = stays.iter().map(|stay| wait_of(stay).unwrap()).collect();
        assert!(
            waits
                .iter()
                .all(|wait| (WITHIN / 11..=WITHIN).contains(wait))
        );
        let early = waits.iter().filter(|wait| **wait < WITHIN / 2).count();
        assert!(
            (200..800).contains(&early),
            "{early} of them in the first half"
        );
        // Once told is told: a later version moves nobody.
        tunnels.review(Duration::ZERO);
        assert!(
            stays
                .iter()
                .all(|stay| wait_of(stay).unwrap() > WITHIN / 12)
        );
    }

    #[test]
    fn a_tunnel_of_a_route_that_is_there_has_no_end() {
        let (tunnels, deadlines) = (Tunnels::default(), Deadlines::default());
        let stay = tunnels.enter(Arc::default(), &deadlines, WITHIN);
        tunnels.review(WITHIN);
        assert_eq!(wait_of(&stay), None);
        drop(stay);
        assert!(tunnels.table.borrow().is_empty());
    }
}
