//! How long the answers of a pool take to begin: what share of them begins within which time, of late.
//!
//! Counts of answers by the length of their wait, four for each doubling, and all halved from time to time. Relaxed atomics:
//! two workers that meet lose at most the other's count of that moment.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::base::clock;

/// After so long an answer counts for half.
const HALF_LIFE: Duration = Duration::from_secs(10);

/// With fewer answers nothing is said.
const LEAST: u64 = 20;

/// From a microsecond to four minutes.
const LENGTHS: usize = 4 * 28;

/// Answers by how long they took.
#[derive(Debug)]
pub struct Pace {
    counts: [AtomicU32; LENGTHS],
    /// Half-lives of the process that are over.
    halved: AtomicU64,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            counts: [const { AtomicU32::new(0) }; LENGTHS],
            halved: AtomicU64::new(0),
        }
    }
}

impl Pace {
    /// Takes in an answer that took so long, or one that nobody waited for any longer.
    pub fn observe(&self, took: Duration, now: Instant) {
        self.fade(now);
        if let Some(count) = self.counts.get(place(took)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Within how long so many of a hundred answers begin; `None` when there were too few of late.
    pub fn within(&self, percent: u32, now: Instant) -> Option<Duration> {
        self.fade(now);
        let counts = || {
            self.counts
                .iter()
                .map(|count| u64::from(count.load(Ordering::Relaxed)))
        };
        let total: u64 = counts().sum();
        if total < LEAST {
            return None;
        }
        let wanted = (total * u64::from(percent)).div_ceil(100);
        let mut sum = 0;
        let at = counts().position(|count| {
            sum += count;
            sum >= wanted
        });
        // Another worker may have halved them meanwhile.
        Some(longest(at.unwrap_or(LENGTHS - 1)))
    }

    fn fade(&self, now: Instant) {
        let periods = clock::millis(now) / HALF_LIFE.as_millis() as u64;
        let before = self.halved.load(Ordering::Relaxed);
        if periods <= before {
            return;
        }
        let won =
            self.halved
                .compare_exchange(before, periods, Ordering::Relaxed, Ordering::Relaxed);
        if won.is_ok() {
            let times = u32::try_from(periods - before).unwrap_or(u32::MAX);
            for count in &self.counts {
                let halved = |count: u32| Some(count.checked_shr(times).unwrap_or(0));
                // The closure always gives one, so there is no failure.
                let _ = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, halved);
            }
        }
    }
}

/// The place of a length among the counts.
fn place(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(4);
    let doublings = micros.ilog2();
    let quarter = (micros >> (doublings - 2)) & 3;
    (doublings as usize * 4 + quarter as usize).min(LENGTHS - 1)
}

/// The longest of a place, give or take a microsecond.
fn longest(place: usize) -> Duration {
    let (doublings, quarter) = (place / 4, place as u64 % 4);
    let quarters = 4 + quarter + 1;
    Duration::from_micros((quarters << doublings) / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_quantile_is_right_to_a_quarter() {
        let (pace, now) = (Pace::default(), clock::now());
        for millis in 1..=1000 {
            pace.observe(millis * MS, now);
        }
        for percent in [50, 75, 95, 99, 100] {
            let exact = 10 * percent * MS;
            let found = pace.within(percent, now).unwrap();
            let is_near = found >= exact && found <= exact.mul_f64(1.26);
            assert!(is_near, "{percent} %: {found:?}");
        }
    }

    #[test]
    fn a_few_answers_say_nothing_and_old_ones_fade() {
        let (pace, start) = (Pace::default(), clock::now());
        for _ in 0..19 {
            pace.observe(MS, start);
        }
        assert_eq!(pace.within(95, start), None);
        for _ in 0..981 {
            pace.observe(MS, start);
        }
        assert!(pace.within(95, start).unwrap() < 2 * MS);
        let later = start + 5 * HALF_LIFE;
        for _ in 0..100 {
            pace.observe(100 * MS, later);
        }
        assert!(
            pace.within(95, later).unwrap() >= 100 * MS,
            "the old ones count for a 32nd"
        );
        assert_eq!(pace.within(95, later + 20 * HALF_LIFE), None);
    }

    #[test]
    fn every_length_has_a_place() {
        let mut before = 0;
        for shift in 0..64 {
            let at = place(Duration::from_micros(1 << shift));
            assert!(at >= before && at < LENGTHS);
            before = at;
        }
        assert_eq!(place(Duration::MAX), LENGTHS - 1);
        assert!(longest(LENGTHS - 1) > Duration::from_secs(200));
    }
}
