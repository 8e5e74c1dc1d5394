//! Requests that are shared between pools, by weight; and cohorts: clients that stay with their pool.
//!
//! Every request, or every client that stays, has a place among all: a number, of which each pool owns a range as wide as its
//! share. Places come from one sequence for all workers that falls evenly into every range (the multiples of the golden
//! ratio), so shares hold from the first requests on, and nothing that comes in turns falls in step with it.
//!
//! A client shows its place in a cookie. That is not signed: a client that makes one up chooses for itself alone, as it could
//! by throwing its cookie away until it likes the new one. So the processes of a fleet agree without a secret, and after a
//! restart. It tells one client from another among a million places, and no finer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::HeaderValue;
use http::request::Parts;

use crate::dataplane::upstream::pick;

/// The golden ratio of all places: the step whose multiples leave no part of them out for long, however short it is.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// What of a place goes into a cookie: 20 bits, as hexadecimal digits.
const COOKIE_DIGITS: usize = 5;
const COOKIE_SHIFT: u32 = u64::BITS - 4 * COOKIE_DIGITS as u32;

/// How requests, or clients, are shared between pools; generic over what a pool is.
#[derive(Debug)]
pub struct Split<P> {
    /// The pools, as they are written.
    pools: Box<[P]>,
    /// Where the range of a pool ends, and which it is; the last one goes to the end of all.
    ranges: Box<[(u64, usize)]>,
    turns: Turns,
    cohorts: Option<Cohorts>,
}

/// Places, one after the other. Alone on its cache lines: every pick of every worker moves it.
#[repr(align(128))]
#[derive(Debug)]
pub(super) struct Turns(AtomicU64);

/// What keeps clients with their pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cohorts {
    /// The name of the cookie.
    pub cookie: Box<str>,
    /// How long a client keeps its place.
    pub max_age: Duration,
}

/// A client without a place has got this one, and is to be told.
#[derive(Clone, Copy, Debug)]
pub struct Newcomer<'a> {
    cohorts: &'a Cohorts,
    place: u64,
}

impl Turns {
    pub(super) fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// The next place, by this step.
    pub(super) fn next(&self, step: u64) -> u64 {
        // Relaxed: workers may see places in either order, each one is taken once all the same.
        self.0.fetch_add(step, Ordering::Relaxed)
    }
}

impl<P> Split<P> {
    /// Lays out the ranges of these pools with their weights, of which one is above 0. Where places begin follows from the
    /// seed.
    pub fn new(pools: Vec<(P, u32)>, cohorts: Option<Cohorts>, seed: u64) -> Self {
        let (pools, weights): (Vec<_>, Vec<_>) = pools.into_iter().unzip();
        Self {
            pools: pools.into(),
            ranges: lay_out(&weights).into(),
            turns: Turns::new(seed),
            cohorts,
        }
    }

    /// Its pools, as they are written.
    pub fn pools(&self) -> &[P] {
        &self.pools
    }

    /// The pool for a request; and the client's place, if that is to be told.
    pub fn pick(&self, parts: &Parts) -> Option<(&P, Option<Newcomer<'_>>)> {
        let Some(cohorts) = &self.cohorts else {
            return Some((self.owner(self.turns.next(GOLDEN))?, None));
        };
        if let Some(place) = cohorts.place(parts) {
            return Some((self.owner(place)?, None));
        }
        // As the cookie will have it.
        let place = self.turns.next(GOLDEN) >> COOKIE_SHIFT << COOKIE_SHIFT;
        Some((self.owner(place)?, Some(Newcomer { cohorts, place })))
    }

    fn owner(&self, place: u64) -> Option<&P> {
        let at = self.ranges.partition_point(|&(end, _)| end <= place);
        let range = self.ranges.get(at).or_else(|| self.ranges.last());
        self.pools.get(range?.1)
    }
}

/// Where the range of each pool ends that has a weight.
///
/// The first pool has the middle; the others grow towards it from both ends, in turn. So what one of two others gains comes
/// from the first one, what it loses goes there, and the clients of the third pool stay: nobody moves who need not. With more
/// pools those of one side push each other; no layout that knows nothing of earlier ones could spare them all.
fn lay_out(weights: &[u32]) -> Vec<(u64, usize)> {
    let total: u64 = weights.iter().copied().map(u64::from).sum();
    let left = (1..weights.len()).step_by(2);
    let right = (2..weights.len()).step_by(2).rev();
    let mut ranges = Vec::with_capacity(weights.len());
    let mut below = 0;
    for number in left.chain([0]).chain(right) {
        let weight = weights.get(number).copied().unwrap_or_default();
        if weight == 0 {
            continue;
        }
        below += u64::from(weight);
        // Whatever the weights are scaled by, the same shares end at the same place.
        let end = (u128::from(below) << u64::BITS) / u128::from(total);
        ranges.push((u64::try_from(end).unwrap_or(u64::MAX), number));
    }
    ranges
}

impl Cohorts {
    /// The place that a client shows.
    fn place(&self, parts: &Parts) -> Option<u64> {
        let digits = pick::cookie(parts, &self.cookie)?;
        if digits.len() != COOKIE_DIGITS || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let place = u64::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
        Some(place << COOKIE_SHIFT)
    }
}

impl Newcomer<'_> {
    /// The `Set-Cookie` that tells the client its place.
    pub fn set_cookie(&self, is_secure: bool) -> Option<HeaderValue> {
        let Cohorts { cookie, max_age } = self.cohorts;
        let place = self.place >> COOKIE_SHIFT;
        let max_age = max_age.as_secs();
        let secure = if is_secure { "; Secure" } else { "" };
        let cookie = format!(
            "{cookie}={place:0COOKIE_DIGITS$x}; Path=/; Max-Age={max_age}; HttpOnly; SameSite=Lax{secure}"
        );
        HeaderValue::try_from(cookie).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use http::Request;
    use http::header::COOKIE;

    use super::*;
    use crate::dataplane::upstream::testkit::dice;

    const MAX_AGE: Duration = Duration::from_secs(60);

    /// Between pools that are numbers.
    fn split(weights: &[u32], is_sticky: bool, seed: u64) -> Split<usize> {
        let pools = weights.iter().copied().enumerate();
        let cohorts = is_sticky.then(|| Cohorts {
            cookie: "cohort".into(),
            max_age: MAX_AGE,
        });
        Split::new(pools.collect(), cohorts, seed)
    }

    fn request(cookie: &str) -> Parts {
        let request = Request::get("/").header(COOKIE, cookie).body(()).unwrap();
        request.into_parts().0
    }

    /// Where a request without a cookie goes, so many times.
    fn picks(split: &Split<usize>, count: usize) -> impl Iterator<Item = usize> {
        let request = request("");
        (0..count).map(move |_| *split.pick(&request).unwrap().0)
    }

    fn owner(split: &Split<usize>, place: u64) -> usize {
        *split.owner(place << COOKIE_SHIFT).unwrap()
    }

    /// Every so many places of cookies.
    const STRIDE: u64 = 97;
    const PLACES: u64 = 1 << (4 * COOKIE_DIGITS);

    fn places() -> impl Iterator<Item = u64> {
        (0..PLACES).step_by(STRIDE as usize)
    }

    #[test]
    fn shares_are_those_of_the_weights_whatever_they_are() {
        for seed in 1..=300 {
            let mut dice = dice(seed);
            let count = 1 + dice(6) as usize;
            let most = [2, 100, 65_536][dice(3) as usize];
            let mut weights: Vec<_> = (0..count).map(|_| dice(most) as u32).collect();
            weights[dice(count as u64) as usize] += 1;
            let split = split(&weights, false, dice(u64::MAX));
            let mut met = vec![0_u32; count];
            for number in picks(&split, 10_000) {
                met[number] += 1;
            }
            let total: u32 = weights.iter().sum();
            for (&met, &weight) in met.iter().zip(&weights) {
                let share = 10_000.0 * f64::from(weight) / f64::from(total);
                let error = (f64::from(met) - share).abs();
                assert!(error < 10.0, "seed {seed} {weights:?}: {met} for {share}");
                assert!(
                    weight > 0 || met == 0,
                    "seed {seed} {weights:?}: {met} for 0"
                );
            }
        }
    }

    #[test]
    fn shares_hold_over_all_workers_and_from_the_start() {
        let split = split(&[90, 10], false, 7);
        let first = picks(&split, 50).filter(|&number| number == 1);
        assert!((4..=6).contains(&first.count()), "a tenth of the first 50");
        let work = || picks(&split, 2500).filter(|&number| number == 1).count();
        let met: usize = thread::scope(|scope| {
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
            workers.into_iter().map(|one| one.join().unwrap()).sum()
        });
        assert!((990..=1010).contains(&met), "{met} of 10 000");
    }

    #[test]
    fn what_comes_in_turns_does_not_fall_in_step() {
        for period in 2..=40 {
            let split = split(&[90, 10], false, 7);
            let of_one_kind = picks(&split, period * 1000).step_by(period);
            let met = of_one_kind.filter(|&number| number == 1).count();
            assert!((80..=120).contains(&met), "every {period}th: {met} of 1000");
        }
    }

    #[test]
    fn clients_are_shared_as_requests_are_and_stay_where_they_are() {
        let split = split(&[80, 5, 15], true, 7);
        let mut met = [0; 3];
        for _ in 0..10_000 {
            let (pool, newcomer) = split.pick(&request("theirs=1")).unwrap();
            met[*pool] += 1;
            let set = newcomer.unwrap().set_cookie(true).unwrap();
            let (pair, attributes) = set.to_str().unwrap().split_once("; ").unwrap();
            assert_eq!(
                attributes,
                "Path=/; Max-Age=60; HttpOnly; SameSite=Lax; Secure"
            );
            let (again, newcomer) = split.pick(&request(pair)).unwrap();
            assert_eq!(again, pool);
            assert!(newcomer.is_none());
        }
        let wanted = [8000, 500, 1500].iter().zip(met);
        assert!(
            wanted
                .clone()
                .all(|(want, met)| (want - 10..=want + 10).contains(&met)),
            "{met:?}"
        );
    }

    /// Whatever the weights of up to three pools become, as long as the first one gives and takes.
    #[test]
    fn nobody_moves_who_need_not_when_weights_change() {
        for seed in 1..=200 {
            let mut dice = dice(seed);
            let count = 2 + dice(2) as usize;
            let others = |dice: &mut dyn FnMut(u64) -> u64| {
                (1..count).map(|_| dice(50) as u32).collect::<Vec<_>>()
            };
            let (before, after) = (others(&mut dice), others(&mut dice));
            let whole = |others: &[u32]| {
                let first = 100 - others.iter().sum::<u32>();
                [&[first], others].concat()
            };
            let (before, after) = (whole(&before), whole(&after));
            let scaled: Vec<_> = after.iter().map(|weight| weight * 3).collect();
            let (one, other) = (split(&before, true, 1), split(&scaled, true, 2));
            for place in places() {
                let (from, to) = (owner(&one, place), owner(&other, place));
                if from == to {
                    continue;
                }
                let seen = format!("seed {seed}: {before:?} to {after:?}: {from} to {to}");
                assert!(from == 0 || after[from] < before[from], "left: {seen}");
                assert!(to == 0 || after[to] > before[to], "joined: {seen}");
            }
        }
    }

    #[test]
    fn a_pool_that_is_added_or_rests_takes_from_the_first_and_gives_back_to_it() {
        let met = |weights: &[u32]| {
            let split = split(weights, true, 1);
            places()
                .map(|place| owner(&split, place))
                .collect::<Vec<_>>()
        };
        let moves = |before: &[u32], after: &[u32]| {
            let (before, after) = (met(before), met(after));
            let pairs = before.into_iter().zip(after);
            let mut pairs: Vec<_> = pairs.filter(|(from, to)| from != to).collect();
            pairs.sort_unstable();
            pairs.dedup();
            pairs
        };
        assert_eq!(moves(&[100], &[90, 10]), [(0, 1)]);
        assert_eq!(moves(&[90, 10], &[80, 10, 10]), [(0, 2)]);
        assert_eq!(moves(&[80, 10, 10], &[90, 0, 10]), [(1, 0)]);
    }

    #[test]
    fn a_hostile_cookie_is_none() {
        let split = split(&[1, 1], true, 7);
        for hostile in [
            "cohort=",
            "cohort",
            "cohort=0",
            "cohort=0000",
            "cohort=000000",
            "cohort=+0001",
            "cohort=0x001",
            "cohort=-0001",
            "cohort=0000g",
            "cohort=\u{e4}\u{e4}1",
            "other=00000",
        ] {
            let (_, newcomer) = split.pick(&request(hostile)).unwrap();
            assert!(newcomer.is_some(), "{hostile}");
        }
        for good in ["cohort=00000", "a=b; cohort=fffff; c=d", "cohort=FFFFF"] {
            assert!(split.pick(&request(good)).unwrap().1.is_none(), "{good}");
        }
    }
}
