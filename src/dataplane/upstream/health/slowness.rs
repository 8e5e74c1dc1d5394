//! How long the answers of an endpoint take to begin, as one number that can be held against that of others.
//!
//! The number is their geometric mean: what counts is how many times as long an answer took. A single one that hung hardly moves
//! it, where a sum would follow it, and many that are late show even if most are not.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Slow;

/// Parts of a doubling that are told from each other: about one per cent.
const PARTS: f32 = 64.0;

/// Answers since somebody took them, over all workers.
///
/// How many in the upper half of the word, and the sum of their logarithms in the lower one, which has room for a million of
/// them: they are taken several times a second.
#[derive(Debug, Default)]
pub struct Timings(AtomicU64);

impl Timings {
    /// Takes in an answer that took so long.
    pub fn note(&self, took: Duration) {
        let parts = u64::from(Typical::of(took).0);
        self.0.fetch_add((1 << 32) + parts, Ordering::Relaxed);
    }

    /// Those that came since this was asked last.
    pub fn take(&self) -> Answers {
        let word = match self.0.load(Ordering::Relaxed) {
            0 => 0,
            _ => self.0.swap(0, Ordering::Relaxed),
        };
        Answers {
            count: (word >> 32) as u32,
            sum: word & u64::from(u32::MAX),
        }
    }
}

/// Some answers, by how long they took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    count: u32,
    sum: u64,
}

impl Answers {
    /// Both together.
    #[must_use]
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            count: self.count.saturating_add(other.count),
            sum: self.sum.saturating_add(other.sum),
        }
    }

    /// How long they took, if there are at least so many.
    pub(super) fn typical(self, least: u32) -> Option<Typical> {
        let mean = self.sum.checked_div(u64::from(self.count))?;
        let mean = u32::try_from(mean).ok()?;
        (self.count >= least).then_some(Typical(mean))
    }
}

/// How long answers take, in parts of doublings of a microsecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Typical(u32);

impl Typical {
    pub(super) fn of(took: Duration) -> Self {
        let micros = (took.as_secs_f32() * 1e6).max(1.0);
        Self((micros.log2() * PARTS) as u32)
    }

    /// How many times as long as the other, in tenths.
    fn times(self, other: Self) -> u32 {
        let doublings = (self.0 as f32 - other.0 as f32) / PARTS;
        (doublings.exp2() * 10.0).round() as u32
    }
}

impl fmt::Display for Typical {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = (self.0 as f32 / PARTS).exp2() / 1e3;
        match millis {
            10.0.. => write!(out, "{millis:.0}ms"),
            _ => write!(out, "{millis:.1}ms"),
        }
    }
}

/// Since when an endpoint is slow, and how slow it is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Slowness {
    since: Option<Instant>,
    /// How many times as slow as the others, in tenths, once it has lasted.
    lasting: Option<u32>,
}

impl Slowness {
    /// Holds its answers against those of the others; says whether it is slow now.
    pub(super) fn compare(
        &mut self,
        own: Option<Typical>,
        middle: Option<Typical>,
        slow: &Slow,
        now: Instant,
    ) -> bool {
        let times = own.zip(middle).and_then(|(own, middle)| {
            let times = own.times(middle);
            let is_slow = times >= slow.factor.saturating_mul(10) && own >= Typical::of(slow.least);
            is_slow.then_some(times)
        });
        let Some(times) = times else {
            *self = Self::default();
            return false;
        };
        let since = *self.since.get_or_insert(now);
        let has_lasted = now.saturating_duration_since(since) >= slow.lasts;
        self.lasting = has_lasted.then_some(times);
        true
    }

    pub(super) fn lasting(&self) -> Option<u32> {
        self.lasting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn one_answer_that_hung_hardly_moves_what_is_typical() {
        let timings = Timings::default();
        for _ in 0..99 {
            timings.note(10 * MS);
        }
        timings.note(60_000 * MS);
        let typical = timings.take().typical(100).unwrap();
        assert_eq!(typical.times(Typical::of(10 * MS)), 11);
        assert_eq!(typical.to_string(), "11ms");
        assert_eq!(timings.take(), Answers::default(), "they were taken");
    }

    #[test]
    fn where_a_third_is_late_it_shows() {
        let timings = Timings::default();
        for at in 0..30 {
            timings.note(if at % 3 == 0 { 2000 * MS } else { 10 * MS });
        }
        let typical = timings.take().typical(30).unwrap();
        assert!(typical.times(Typical::of(10 * MS)) > 50);
    }

    #[test]
    fn every_length_is_counted_and_a_few_say_nothing() {
        let timings = Timings::default();
        for took in [Duration::ZERO, 500 * MS, Duration::MAX] {
            timings.note(took);
        }
        let answers = timings.take();
        assert_eq!((answers.count, answers.typical(4)), (3, None));
        assert_eq!(Answers::default().typical(0), None);
    }
}
