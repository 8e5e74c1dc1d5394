//! The budget of a pool's retries: how many attempts are made beyond the first ones, over all routes and workers.
//!
//! A pool that fails as a whole must not be sent a multiple of its requests just then. So each request brings a share of an
//! attempt, which is lost after a second or two, and there is a small reserve besides for pools with few requests. An attempt
//! that is answered well gives back what it took: where others can help they do, and where nobody can the requests sent stay
//! below 1.2 times those that came.
//!
//! All in three words without a lock, and nothing but an addition for a request that is not repeated. Who asks brings the time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::base::clock;

/// The reserve holds what comes to it in so long: a few exchanges that are lost together in a quiet pool are all saved.
pub const RESERVE: Duration = Duration::from_secs(10);

/// What an attempt costs, in hundredths.
const COST: u64 = 100;

/// How much there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Attempts beyond the first for a hundred requests.
    pub percent: u32,
    /// The same a second besides.
    pub per_second: u32,
}

/// The budget of a pool. On a cache line of its own: every request writes to it.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Budget {
    /// What the requests of a second have brought and nobody has taken: of even seconds, and of odd ones. The second in the
    /// upper half, hundredths of an attempt in the lower one.
    even: AtomicU64,
    odd: AtomicU64,
    /// When the reserve will be full, in microseconds.
    full: AtomicU64,
}

/// What an attempt took; dropping it spends it.
#[derive(Debug)]
pub struct Charge(Source);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Nowhere,
    /// What the requests of a second have brought.
    Share(u32),
    Reserve,
}

impl Charge {
    /// What costs nothing.
    pub const FREE: Self = Self(Source::Nowhere);
}

impl Budget {
    /// Takes in the share of a request.
    #[inline]
    pub fn note_request(&self, plan: Plan, now: Instant) {
        self.bring(u64::from(plan.percent), second(now));
    }

    /// Takes an attempt; `None` when there is not enough left for one.
    pub fn charge(&self, plan: Plan, now: Instant) -> Option<Charge> {
        let second = second(now);
        // What is lost sooner goes first.
        for second in [second - 1, second] {
            let take = |word| {
                let (of, left) = apart(word);
                (of == second && left >= COST).then(|| word - COST)
            };
            let slot = self.slot(second);
            // Relaxed, here and below: a word is all that is shared.
            if slot
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                .is_ok()
            {
                return Some(Charge(Source::Share(second)));
            }
        }
        let interval = interval(plan)?;
        let now = micros(now);
        let take = |full: u64| {
            let full = full.max(now) + interval;
            (full - now <= RESERVE.as_micros() as u64).then_some(full)
        };
        let taken = self
            .full
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        taken.is_ok().then_some(Charge(Source::Reserve))
    }

    /// Gives back what an attempt took.
    pub fn refund(&self, plan: Plan, Charge(source): Charge) {
        match source {
            Source::Nowhere => {}
            Source::Share(second) => {
                // To where it came from, or what is to be lost soon would last as long as it is taken and given back.
                let give = |word| (apart(word).0 == second).then(|| word + COST);
                // A second that is over has lost it.
                let _ = self
                    .slot(second)
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, give);
            }
            Source::Reserve => {
                let interval = interval(plan).unwrap_or_default();
                let give = |full: u64| Some(full.saturating_sub(interval));
                // The closure always gives one, so there is no failure.
                let _ = self
                    .full
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, give);
            }
        }
    }

    fn slot(&self, second: u32) -> &AtomicU64 {
        if second.is_multiple_of(2) {
            &self.even
        } else {
            &self.odd
        }
    }

    #[inline]
    fn bring(&self, hundredths: u64, second: u32) {
        let slot = self.slot(second);
        // A worker whose clock is a tick behind brings it to the second that has begun elsewhere, or to the one before.
        if apart(slot.load(Ordering::Relaxed)).0 >= second {
            slot.fetch_add(hundredths, Ordering::Relaxed);
        } else {
            begin(slot, hundredths, second);
        }
    }
}

/// Begins a second. Parts of an attempt that the one but last has left go over: they add up in a pool with few requests.
#[cold]
fn begin(slot: &AtomicU64, hundredths: u64, second: u32) {
    let next = |word| {
        let (of, left) = apart(word);
        if of >= second {
            return Some(word + hundredths);
        }
        let left = if second - of <= 2 {
            left.min(COST - 1)
        } else {
            0
        };
        Some((u64::from(second) << 32) + left + hundredths)
    };
    // The closure always gives one, so there is no failure.
    let _ = slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
}

/// The second that a slot is of, and what is left in it.
fn apart(word: u64) -> (u32, u64) {
    ((word >> 32) as u32, word & u64::from(u32::MAX))
}

/// Seconds of this process, from 2 on: a slot that was never used is of none of them.
fn second(now: Instant) -> u32 {
    (clock::millis(now) / 1000 + 2) as u32
}

fn micros(now: Instant) -> u64 {
    clock::millis(now) * 1000
}

/// Microseconds in which an attempt comes to the reserve; absent: none ever does.
fn interval(plan: Plan) -> Option<u64> {
    1_000_000_u64.checked_div(u64::from(plan.per_second))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::upstream::testkit::dice;

    const PLAN: Plan = Plan {
        percent: 20,
        per_second: 3,
    };

    /// The reserve holds so many.
    const HELD: u64 = 30;

    /// Behind the start of the process's clock.
    fn start() -> Instant {
        clock::now() + Duration::from_secs(100)
    }

    fn taken(budget: &Budget, plan: Plan, now: Instant) -> u64 {
        std::iter::from_fn(|| budget.charge(plan, now).map(drop)).count() as u64
    }

    #[test]
    fn a_hundred_requests_bring_twenty_attempts_beside_the_reserve() {
        let (budget, now) = (Budget::default(), start());
        assert_eq!(taken(&budget, PLAN, now), HELD);
        for _ in 0..100 {
            budget.note_request(PLAN, now);
        }
        assert_eq!(taken(&budget, PLAN, now), 20);
        let later = now + Duration::from_secs(1);
        assert_eq!(taken(&budget, PLAN, later), 3, "the reserve fills again");
    }

    #[test]
    fn what_nobody_took_is_lost_after_two_seconds() {
        let (budget, now) = (Budget::default(), start());
        let plan = Plan {
            per_second: 0,
            ..PLAN
        };
        for _ in 0..1000 {
            budget.note_request(plan, now);
        }
        let later = now + Duration::from_secs(2);
        assert_eq!(taken(&budget, plan, later), 0);
        budget.note_request(plan, later);
        assert_eq!(
            taken(&budget, plan, later),
            1,
            "no more than a part of one goes over"
        );
    }

    #[test]
    fn few_requests_add_up() {
        let (budget, start) = (Budget::default(), start());
        let plan = Plan {
            per_second: 0,
            ..PLAN
        };
        let mut took = 0;
        for second in 0..100 {
            let now = start + Duration::from_secs(second);
            budget.note_request(plan, now);
            took += taken(&budget, plan, now);
        }
        assert!((18..=20).contains(&took), "{took}");
    }

    #[test]
    fn what_is_given_back_is_there_again_where_it_came_from() {
        let (budget, now) = (Budget::default(), start());
        for _ in 0..10 {
            let charge = budget.charge(PLAN, now).unwrap();
            assert_eq!(charge.0, Source::Reserve);
            budget.refund(PLAN, charge);
        }
        for _ in 0..5 {
            budget.note_request(PLAN, now);
        }
        for _ in 0..10 {
            let charge = budget.charge(PLAN, now).unwrap();
            assert!(matches!(charge.0, Source::Share(_)));
            budget.refund(PLAN, charge);
        }
        assert_eq!(taken(&budget, PLAN, now), 1 + HELD);
    }

    #[test]
    fn among_threads_no_attempt_is_taken_twice_and_none_is_lost() {
        let (budget, now) = (Budget::default(), start());
        let all = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let mut took = 0;
                        for _ in 0..10_000 {
                            budget.note_request(PLAN, now);
                            took += u64::from(budget.charge(PLAN, now).is_some());
                        }
                        took
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum::<u64>()
        });
        assert_eq!(all + taken(&budget, PLAN, now), 4 * 10_000 / 5 + HELD);
    }

    /// Thousands of requests in virtual time, first good days and then bad ones, with two repeats wanted for each that fails.
    #[test]
    fn when_all_fail_there_is_no_storm() {
        for seed in 1..=60_u64 {
            let mut dice = dice(seed);
            let (budget, start) = (Budget::default(), start());
            let each_millis = 1 + dice(20);
            let mut now = start;
            let calm = start + Duration::from_secs(10 + dice(20));
            let mut before = 0;
            while now < calm {
                now += Duration::from_millis(1);
                for _ in 0..dice(2 * each_millis) {
                    budget.note_request(PLAN, now);
                    before += u64::from(calm.duration_since(now) < Duration::from_secs(2));
                    if dice(10) == 0
                        && let Some(charge) = budget.charge(PLAN, now)
                    {
                        budget.refund(PLAN, charge);
                    }
                }
            }
            let (mut requests, mut repeats) = (0_u64, 0_u64);
            for millis in 1..=20_000 {
                now += Duration::from_millis(1);
                for _ in 0..dice(2 * each_millis) {
                    budget.note_request(PLAN, now);
                    requests += 1;
                    repeats += u64::from(budget.charge(PLAN, now).is_some());
                    repeats += u64::from(budget.charge(PLAN, now).is_some());
                    // What the last two seconds before have left, and the reserve, are there at once.
                    let share = (requests + before).div_ceil(5) + 1;
                    let most = share + HELD + millis * 3 / 1000 + 1;
                    assert!(
                        repeats <= most,
                        "seed {seed}: {repeats} of {requests}, {millis} ms"
                    );
                }
            }
            assert!(
                repeats * 5 >= requests,
                "seed {seed}: it is not used: {repeats} of {requests}"
            );
        }
    }
}
