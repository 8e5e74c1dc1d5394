//! What an endpoint takes at most: exchanges in flight, and connections.
//!
//! Both hold for all workers together, and neither is ever exceeded: whoever enters does so in one step or not at all. Where
//! there is no bound nothing of this is asked.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering, fence};

use tokio::sync::Notify;

use crate::dataplane::upstream::gradient;

/// What an endpoint takes at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Exchanges in flight.
    pub requests: Option<NonZeroU32>,
    /// Connections, idle ones among them. Each carries one exchange at a time.
    pub connections: Option<NonZeroU32>,
    /// Exchanges in flight, as its answers show; absent: nobody looks.
    pub adaptive: Option<gradient::Plan>,
}

impl Bounds {
    /// Whether there is none.
    pub fn is_none(self) -> bool {
        self == Self::default()
    }

    /// Exchanges in flight that the first two allow: each has a connection.
    #[inline]
    pub(super) fn exchanges(self) -> usize {
        let all = [self.requests, self.connections];
        let least = all.into_iter().flatten().min();
        least.map_or(usize::MAX, |least| least.get() as usize)
    }
}

/// The connections to an endpoint, over all workers.
#[derive(Debug, Default)]
pub struct Sockets {
    open: AtomicUsize,
    /// Exchanges that wait for a connection.
    hungry: AtomicUsize,
    /// Told when there may be one.
    freed: Notify,
}

impl Sockets {
    /// Counts one more.
    pub fn count(self: &Arc<Self>) -> Counted {
        self.open.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(self))
    }

    /// Counts one more, if there are fewer than `limit`.
    pub fn try_count(self: &Arc<Self>, limit: NonZeroU32) -> Option<Counted> {
        let limit = limit.get() as usize;
        let next = |open| (open < limit).then_some(open + 1);
        let counted = self
            .open
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        counted.ok().map(|_| Counted(Arc::clone(self)))
    }

    /// How many there are.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Whether an exchange waits for one.
    pub fn is_wanted(&self) -> bool {
        self.hungry.load(Ordering::Relaxed) > 0
    }

    /// Has those who free one say so, until the guard is dropped. Whoever waits has to look once more behind it.
    pub fn want(&self) -> Hunger<'_> {
        self.hungry.fetch_add(1, Ordering::Relaxed);
        // With the one in `tell`: either the look behind this sees what was freed, or who freed it sees this.
        fence(Ordering::SeqCst);
        Hunger(self)
    }

    /// Waits until there may be one. What was told while nobody waited is not lost.
    pub async fn freed(&self) {
        self.freed.notified().await;
    }

    /// Tells one who waits that there may be a connection.
    pub fn tell(&self) {
        fence(Ordering::SeqCst);
        if self.is_wanted() {
            self.freed.notify_one();
        }
    }
}

/// A wait for a connection.
#[derive(Debug)]
pub struct Hunger<'a>(&'a Sockets);

impl Drop for Hunger<'_> {
    fn drop(&mut self) {
        self.0.hungry.fetch_sub(1, Ordering::Relaxed);
        // What this one was told and did not take is for the next.
        self.0.tell();
    }
}

/// One connection to an endpoint; it is gone when this is dropped.
#[derive(Debug)]
pub struct Counted(Arc<Sockets>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.tell();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_never_more_connections_than_the_limit() {
        let sockets = Arc::<Sockets>::default();
        let limit = NonZeroU32::new(3).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        let counted = [sockets.try_count(limit), sockets.try_count(limit)];
                        assert!(sockets.open() <= 3);
                        drop(counted);
                    }
                });
            }
        });
        assert_eq!(sockets.open(), 0);
    }

    #[test]
    fn the_stricter_bound_holds() {
        let check = |requests, connections, expected| {
            let bounds = Bounds {
                requests: NonZeroU32::new(requests),
                connections: NonZeroU32::new(connections),
                adaptive: None,
            };
            assert_eq!(bounds.exchanges(), expected);
        };
        check(0, 0, usize::MAX);
        check(5, 0, 5);
        check(0, 7, 7);
        check(5, 7, 5);
        check(9, 7, 7);
    }
}
