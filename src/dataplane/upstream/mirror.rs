//! Copies of a route's requests for another pool: which requests have one, and what becomes of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use http::HeaderName;

use crate::dataplane::upstream::pool::Pool;
use crate::dataplane::upstream::split::Turns;

/// The field that a copy is known by.
pub const X_LOCKGATE_MIRROR: HeaderName = HeaderName::from_static("x-lockgate-mirror");

/// Copies for one pool that are under way at a time, those that wait for their body included.
const COPIES_AT_A_TIME: usize = 256;

/// The step from draw to draw: that of a split and this one do not fall in step, so copies are taken of all its pools alike.
const STEP: u64 = 0x6a09_e667_f3bc_c909; // The square root of 2, less 1.

/// What a share is told in: a whole is so many.
pub const WHOLE: u32 = 1_000_000;

/// Where copies of a route's requests go.
#[derive(Debug)]
pub struct Mirror {
    pool: Arc<Pool>,
    /// Draws below it have a copy; absent: all have.
    share: Option<u64>,
    turns: Turns,
}

/// The copies for one pool.
#[derive(Debug, Default)]
pub struct Copies {
    under_way: AtomicUsize,
    sent: AtomicU64,
    failed: AtomicU64,
    busy: AtomicU64,
    body: AtomicU64,
    incomplete: AtomicU64,
}

/// What became of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was answered.
    Sent,
    /// It was not, or not in time.
    Failed,
    /// It was not made: there are too many under way.
    Busy,
    /// It was not made: the body is too long to be kept.
    Body,
    /// It was not made: the body of the original broke off, or was not wanted to its end.
    Incomplete,
}

/// One copy under way; it is over when this is dropped.
#[derive(Debug)]
pub struct Slot {
    pool: Arc<Pool>,
    ending: Ending,
}

impl Mirror {
    /// Copies of a share of requests, in parts of [`WHOLE`], for a pool. Where draws begin follows from the seed.
    pub fn new(pool: Arc<Pool>, share: u32, seed: u64) -> Self {
        let below = (u128::from(share) << u64::BITS) / u128::from(WHOLE);
        Self {
            pool,
            share: u64::try_from(below).ok(),
            turns: Turns::new(seed),
        }
    }

    /// The pool.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Whether the next request is to have a copy.
    pub fn takes(&self) -> bool {
        self.share.is_none_or(|share| self.turns.next(STEP) < share)
    }

    /// A place among the copies under way; `None`, which is counted, if there is none.
    pub fn enter(&self) -> Option<Slot> {
        let copies = self.pool.live.copies();
        // Relaxed: the count bounds memory, and orders nothing.
        if copies.under_way.fetch_add(1, Ordering::Relaxed) >= COPIES_AT_A_TIME {
            copies.under_way.fetch_sub(1, Ordering::Relaxed);
            copies.count(Ending::Busy);
            return None;
        }
        Some(Slot {
            pool: Arc::clone(&self.pool),
            ending: Ending::Incomplete,
        })
    }
}

impl Copies {
    fn of(&self, ending: Ending) -> &AtomicU64 {
        match ending {
            Ending::Sent => &self.sent,
            Ending::Failed => &self.failed,
            Ending::Busy => &self.busy,
            Ending::Body => &self.body,
            Ending::Incomplete => &self.incomplete,
        }
    }

    fn count(&self, ending: Ending) {
        self.of(ending).fetch_add(1, Ordering::Relaxed);
    }

    /// How many have ended so.
    pub fn total(&self, ending: Ending) -> u64 {
        self.of(ending).load(Ordering::Relaxed)
    }

    /// How many are under way.
    pub fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }
}

impl Slot {
    /// The pool that the copy is for.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Says what it ends by, should nothing else be said before it does.
    pub fn set(&mut self, ending: Ending) {
        self.ending = ending;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let copies = self.pool.live.copies();
        copies.under_way.fetch_sub(1, Ordering::Relaxed);
        copies.count(self.ending);
    }
}
