//! What a route says of attempts beyond the first: how many, after what, at what intervals. Plain values; who decides by
//! them is `http`.

use std::ops::RangeInclusive;
use std::time::Duration;

use http::{Method, StatusCode};

/// The attempts of a route's exchanges.
#[derive(Debug)]
pub struct Plan {
    /// From the request's head, or the last byte that its client sent of its body, to the answer's head: all attempts
    /// together, with the pauses between them and what a queue takes.
    pub response_timeout: Duration,
    /// Attempts beyond the first.
    pub attempts: u32,
    /// Answers after which another endpoint is tried.
    pub statuses: Statuses,
    /// Methods that may be repeated besides the idempotent ones.
    pub methods: Box<[Method]>,
    /// The same as `response_timeout` for one attempt, if another endpoint may be tried after it.
    pub per_try_timeout: Option<Duration>,
    /// The pause before a request is sent again; absent: there is none.
    pub back_off: Option<BackOff>,
    /// Bytes up to which a body is kept for another attempt; 0 is none.
    pub replay: usize,
    /// When a second attempt is made beside the first; absent: never.
    pub hedge: Option<Hedge>,
}

/// The longest pauses before a request is sent again.
#[derive(Clone, Copy, Debug)]
pub struct BackOff {
    /// Before the first repeat; it doubles with each.
    pub base: Duration,
    /// Before any.
    pub max: Duration,
}

/// When a second attempt is made beside the first.
#[derive(Clone, Copy, Debug)]
pub struct Hedge {
    /// Once so many of a hundred answers would have begun.
    pub quantile: u32,
    /// Not before.
    pub least: Duration,
}

impl Plan {
    /// One attempt, which may take so long.
    pub fn none(response_timeout: Duration) -> Self {
        Self {
            response_timeout,
            attempts: 0,
            statuses: Statuses::default(),
            methods: [].into(),
            per_try_timeout: None,
            back_off: None,
            replay: 0,
            hedge: None,
        }
    }

    /// Whether a request does the same when it comes twice: by its method (RFC 9110 §9.2.2), or because the operator says so.
    pub fn may_repeat(&self, method: &Method) -> bool {
        let is_idempotent = matches!(
            *method,
            Method::GET
                | Method::HEAD
                | Method::OPTIONS
                | Method::PUT
                | Method::DELETE
                | Method::TRACE
        );
        is_idempotent || self.methods.contains(method)
    }
}

impl BackOff {
    /// The pause before the repeat that comes after so many others: any part of what is the longest, so that those who failed
    /// together do not come back together.
    pub fn pause(&self, repeats: u32, dice: u64) -> Duration {
        let longest = self.base.saturating_mul(1 << repeats.min(16)).min(self.max);
        let nanos = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX);
        let part = (u128::from(nanos) * u128::from(dice)) >> 64;
        Duration::from_nanos(u64::try_from(part).unwrap_or(nanos))
    }
}

/// Statuses of errors, a bit each.
#[derive(Clone, Copy, Debug, Default)]
pub struct Statuses([u64; 4]);

impl Statuses {
    /// The bits of the statuses of errors begin here.
    const FIRST: u16 = 400;

    /// Whether a status is among them.
    #[inline]
    pub fn has(&self, status: StatusCode) -> bool {
        let Some(bit) = status.as_u16().checked_sub(Self::FIRST) else {
            return false;
        };
        let word = self.0.get(usize::from(bit / 64));
        word.is_some_and(|word| word >> (bit % 64) & 1 == 1)
    }
}

impl FromIterator<RangeInclusive<u16>> for Statuses {
    fn from_iter<I: IntoIterator<Item = RangeInclusive<u16>>>(ranges: I) -> Self {
        let mut statuses = Self::default();
        for status in ranges.into_iter().flatten() {
            let bit = status.saturating_sub(Self::FIRST);
            if let Some(word) = statuses.0.get_mut(usize::from(bit / 64)) {
                *word |= 1 << (bit % 64);
            }
        }
        statuses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_those_of_their_ranges_and_no_others() {
        let statuses: Statuses = [502..=504, 429..=429, 599..=599].into_iter().collect();
        for code in 100..=999 {
            let expected = matches!(code, 429 | 502..=504 | 599);
            let status = StatusCode::from_u16(code).unwrap();
            assert_eq!(statuses.has(status), expected, "{code}");
        }
        assert!(!Statuses::default().has(StatusCode::BAD_GATEWAY));
    }

    #[test]
    fn pauses_are_any_part_of_a_length_that_doubles_up_to_its_bound() {
        let (base, max) = (Duration::from_millis(25), Duration::from_millis(250));
        let back_off = BackOff { base, max };
        for (repeats, millis) in [(0, 25), (1, 50), (2, 100), (3, 200), (4, 250), (40, 250)] {
            let longest = Duration::from_millis(millis);
            assert_eq!(back_off.pause(repeats, 0), Duration::ZERO);
            assert_eq!(back_off.pause(repeats, 1 << 63), longest / 2);
            let most = back_off.pause(repeats, u64::MAX);
            assert!(most <= longest && most > longest.mul_f64(0.999), "{most:?}");
        }
    }

    #[test]
    fn what_may_be_repeated_is_what_does_no_harm_or_is_said_to_do_none() {
        let mut plan = Plan::none(Duration::from_secs(1));
        assert!(plan.may_repeat(&Method::GET) && plan.may_repeat(&Method::PUT));
        assert!(!plan.may_repeat(&Method::POST) && !plan.may_repeat(&Method::PATCH));
        plan.methods = [Method::POST].into();
        assert!(plan.may_repeat(&Method::POST) && !plan.may_repeat(&Method::PATCH));
    }
}
