//! How long an endpoint takes to begin its answers, as one number: a moving average that follows peaks at once and
//! forgets them slowly.
//!
//! An answer that took longer than the average becomes the average; a faster one moves it, the more the longer ago the
//! one before was: half of the way in [`HALF_LIFE`]. A failure counts as a slow answer, whatever it took: who refuses
//! at once would else be the fastest of all. All in one word, so that observing takes no lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::base::clock;

/// After so long an observation weighs half of what it did. Shorter would forget a slow endpoint between two requests;
/// longer would keep traffic from one that has recovered.
pub const HALF_LIFE: Duration = Duration::from_secs(5);

/// A failure counts as an answer that took so long, or twice the average if that is more: where answers take longer than
/// this, a failure must not look fast.
pub const PENALTY: Duration = Duration::from_secs(1);

/// Failures in a row double the penalty up to here: beyond, an endpoint that has recovered would wait for minutes.
pub const PENALTY_LIMIT: Duration = Duration::from_secs(30);

/// The average in microseconds as an `f32` in the upper half, and when it was observed last, in milliseconds, in the
/// lower one. Zero: nothing was observed yet.
#[derive(Debug, Default)]
pub struct Latency(AtomicU64);

#[derive(Clone, Copy, Debug, PartialEq)]
struct Sample {
    micros: f32,
    /// Wraps around after 49 days. An endpoint without an answer for so long is taken for one that had its last later.
    millis: u32,
}

impl Latency {
    /// Notes an answer that took so long.
    pub fn observe(&self, took: Duration, now: Instant) {
        self.update(now, |_| micros(took));
    }

    /// Notes a failure after so long.
    pub fn fail(&self, took: Duration, now: Instant) {
        self.update(now, |average| {
            let penalty = (2.0 * average).max(micros(PENALTY));
            penalty.min(micros(PENALTY_LIMIT)).max(micros(took))
        });
    }

    /// The average in microseconds as it was observed; `None` before the first observation.
    pub(super) fn observed(&self) -> Option<f32> {
        Sample::of(self.0.load(Ordering::Relaxed)).map(|sample| sample.micros)
    }

    /// The average in microseconds, less what time has taken from it since the last observation.
    pub(super) fn faded(&self, now: Instant) -> Option<f32> {
        let sample = Sample::of(self.0.load(Ordering::Relaxed))?;
        Some(sample.micros * weight(sample.age(millis(now))))
    }

    fn update(&self, now: Instant, took: impl Fn(f32) -> f32) {
        let millis = millis(now);
        let next = |word| {
            let micros = match Sample::of(word) {
                None => took(0.0),
                Some(before) => {
                    let took = took(before.micros);
                    let weight = weight(before.age(millis));
                    let moved = before.micros * weight + took * (1.0 - weight);
                    if took >= before.micros { took } else { moved }
                }
            };
            Some(Sample { micros, millis }.word())
        };
        // Relaxed: the word is all that is shared. The closure always gives one, so there is no failure.
        let _ = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }
}

impl Sample {
    fn of(word: u64) -> Option<Self> {
        let micros = f32::from_bits((word >> 32) as u32);
        (word != 0).then_some(Self {
            micros,
            millis: word as u32,
        })
    }

    fn word(self) -> u64 {
        (u64::from(self.micros.to_bits()) << 32) | u64::from(self.millis)
    }

    /// Seconds from it to `millis`; none for a moment before it.
    fn age(self, millis: u32) -> f32 {
        let age = millis.wrapping_sub(self.millis);
        let is_ahead = age > u32::MAX / 2;
        if is_ahead { 0.0 } else { age as f32 / 1e3 }
    }
}

/// What is left of an observation after so many seconds, 0 to 1.
fn weight(seconds: f32) -> f32 {
    (-seconds / HALF_LIFE.as_secs_f32()).exp2()
}

/// At least one, so that no observation looks like none.
fn micros(duration: Duration) -> f32 {
    (duration.as_secs_f32() * 1e6).max(1.0)
}

fn millis(at: Instant) -> u32 {
    clock::millis(at) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[track_caller]
    fn is_about(found: Option<f32>, millis: f32) {
        let found = found.unwrap() / 1e3;
        assert!((found - millis).abs() <= millis * 0.01, "{found} ms");
    }

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten_by_halves() {
        let (latency, start) = (Latency::default(), clock::now());
        assert_eq!(latency.observed(), None);
        latency.observe(10 * MS, start);
        latency.observe(90 * MS, start + MS);
        is_about(latency.observed(), 90.0);
        let later = start + MS + HALF_LIFE;
        is_about(latency.faded(later), 45.0);
        is_about(latency.observed(), 90.0);
        latency.observe(10 * MS, later);
        is_about(latency.observed(), 50.0);
        latency.observe(10 * MS, later + 20 * HALF_LIFE);
        is_about(latency.observed(), 10.0);
    }

    #[test]
    fn a_fast_failure_counts_as_a_slow_answer_and_the_next_for_more() {
        let (latency, start) = (Latency::default(), clock::now());
        latency.observe(MS, start);
        for expected in [1e3, 2e3, 4e3, 8e3, 16e3, 30e3, 30e3] {
            latency.fail(MS, start);
            is_about(latency.observed(), expected);
        }
        let slow = Latency::default();
        slow.observe(5000 * MS, start);
        slow.fail(MS, start);
        is_about(slow.observed(), 10e3);
        slow.fail(60_000 * MS, start);
        is_about(slow.observed(), 60e3);
    }

    #[test]
    fn what_is_told_out_of_order_moves_nothing_back() {
        let (latency, start) = (Latency::default(), clock::now());
        latency.observe(10 * MS, start + HALF_LIFE);
        latency.observe(MS, start);
        is_about(latency.observed(), 10.0);
        is_about(latency.faded(start), 10.0);
    }

    #[test]
    fn no_observation_is_lost_among_threads_that_observe_a_peak() {
        let (latency, start) = (Latency::default(), clock::now());
        std::thread::scope(|scope| {
            for thread in 1..=4 {
                let latency = &latency;
                scope.spawn(move || {
                    for step in 0..1000 {
                        latency.observe((thread * 1000 + step) * MS, start);
                    }
                });
            }
        });
        is_about(latency.observed(), 4999.0);
    }
}
