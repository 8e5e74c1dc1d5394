//! How long an endpoint leaves an idle connection open: what it says, and what is seen of it.
//!
//! A request that goes out on a connection which the endpoint closes just then is lost, and may not be sent again if it does
//! more than once what it does once. So idle connections are given up a while before the endpoint would
//! ([`KeepAlive::limit`]). What it is, is learned: from `Keep-Alive: timeout=5` in answers, and from connections that were found closed, of which is
//! known between which ages that happened. The shorter one holds.
//!
//! Connections of very different ages that close at one moment tell of a restart and not of a timeout, and teach nothing.
//! Some that outlive what was learned show that it does not hold any more, and it is forgotten.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// An idle connection older than this is not used again.
pub const IDLE_LIMIT: Duration = Duration::from_secs(30);

/// The same while nothing is known and a request cannot be repeated. Node and uvicorn close after 5 s.
pub const IDLE_LIMIT_UNREPEATABLE: Duration = Duration::from_secs(4);

/// A connection is given up so long before the endpoint would close it, or halfway there if that is later: gunicorn closes
/// after 2 s.
const UNDERCUT: Duration = Duration::from_secs(1);

/// Idle connections of an endpoint that are kept beyond their use, to see whether it still closes them when it did.
pub const WITNESSES: usize = 4;

/// Connections that outlive what was learned, without one that does not, until it is forgotten.
const SURVIVORS: u32 = 4;

/// Connections that close within this are taken to close together.
const MOMENT: Duration = Duration::from_millis(1500);

/// Ages differ by more than anybody's timers do when one is longer than the other by this, and half as long again.
const TOLERANCE: Duration = Duration::from_millis(500);

/// What is known of an endpoint's patience with idle connections.
#[derive(Debug, Default)]
pub struct KeepAlive {
    /// In milliseconds, for those who take connections; 0 while nothing is known.
    limit: AtomicU32,
    /// What was heard last, in seconds and one more; 0: nothing.
    heard: AtomicU32,
    lesson: Mutex<Lesson>,
}

impl KeepAlive {
    /// How long a connection may have been idle that is used again.
    #[inline]
    pub fn limit(&self, repeatable: bool) -> Duration {
        match self.limit.load(Ordering::Relaxed) {
            0 if repeatable => IDLE_LIMIT,
            0 => IDLE_LIMIT_UNREPEATABLE,
            millis => Duration::from_millis(u64::from(millis)),
        }
    }

    /// Takes in what an answer says, in seconds.
    pub fn hear(&self, seconds: u32) {
        let heard = seconds.saturating_add(1);
        // An endpoint says the same in each answer.
        if self.heard.load(Ordering::Relaxed) == heard {
            return;
        }
        self.heard.store(heard, Ordering::Relaxed);
        let mut lesson = self.lesson();
        lesson.hear(Duration::from_secs(u64::from(seconds)));
        self.publish(&lesson);
    }

    /// Takes in that a connection was found closed by the endpoint.
    pub fn closed(&self, age: Age, now: Instant) {
        let mut lesson = self.lesson();
        lesson.closed(age, now);
        self.publish(&lesson);
    }

    /// Takes in that a connection was found open.
    pub fn lived(&self, age: Age) {
        if self.limit.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut lesson = self.lesson();
        if lesson.lived(age) {
            self.publish(&lesson);
        }
    }

    fn lesson(&self) -> MutexGuard<'_, Lesson> {
        self.lesson.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, lesson: &Lesson) {
        let millis = lesson.limit().map_or(0, |limit| {
            u32::try_from(limit.as_millis()).unwrap_or(u32::MAX).max(1)
        });
        self.limit.store(millis, Ordering::Relaxed);
    }
}

/// For how long a connection had been idle at the last two looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age {
    /// At the look before, when it was open.
    pub before: Duration,
    /// At this look.
    pub now: Duration,
}

impl Age {
    /// That of a connection which is idle since `since` and was seen open at `seen`, if it was looked at before.
    pub fn of(since: Instant, seen: Option<Instant>, now: Instant) -> Self {
        Self {
            before: seen.map_or(Duration::ZERO, |seen| seen.saturating_duration_since(since)),
            now: now.saturating_duration_since(since),
        }
    }

    /// What both have in common, if they may be the same.
    fn and(self, other: Self) -> Option<Self> {
        let both = Self {
            before: self.before.max(other.before),
            now: self.now.min(other.now),
        };
        (both.before <= both.now).then_some(both)
    }

    /// Whether two connections of these ages that close together show that it was not for their ages.
    fn differs_from(self, other: Self) -> bool {
        let is_longer = |one: Self, than: Self| one.before > than.now * 3 / 2 + TOLERANCE;
        is_longer(self, other) || is_longer(other, self)
    }
}

/// What was learned, without a clock.
#[derive(Debug, Default)]
struct Lesson {
    said: Option<Duration>,
    /// Between which ages the endpoint closes connections.
    seen: Option<Age>,
    /// The last one that closed, when, and what was known before the moment in which it did.
    last: Option<(Age, Instant, Option<Age>)>,
    /// Whether the endpoint closes connections of all ages at this moment.
    restarts: bool,
    survivors: u32,
}

impl Lesson {
    fn hear(&mut self, said: Duration) {
        self.said = Some(said);
        // It has other settings than when it was seen.
        self.seen = None;
        self.survivors = 0;
    }

    fn closed(&mut self, age: Age, now: Instant) {
        let moment = self
            .last
            .filter(|(_, at, _)| now.saturating_duration_since(*at) < MOMENT);
        let known = moment.map_or(self.seen, |(.., known)| known);
        self.restarts &= moment.is_some();
        self.restarts |= moment.is_some_and(|(other, ..)| other.differs_from(age));
        self.last = Some((age, now, known));
        if self.restarts {
            self.seen = known;
            return;
        }
        self.seen = match self.seen {
            None => Some(age),
            Some(seen) => match seen.and(age) {
                Some(both) => Some(both),
                None if age.now < seen.before => Some(age),
                // It has outlived the others, and shows how long one lives now.
                None if self.survive() => Some(age),
                None => return,
            },
        };
        self.survivors = 0;
    }

    /// Says whether something was forgotten.
    fn lived(&mut self, age: Age) -> bool {
        match self.seen {
            Some(seen) => {
                // Timers are late by a little; and each is counted once, when it passes the age.
                let old = seen.now * 9 / 8;
                age.before < old && old <= age.now && self.survive()
            }
            None => false,
        }
    }

    fn survive(&mut self) -> bool {
        self.survivors += 1;
        let is_forgotten = self.survivors >= SURVIVORS;
        if is_forgotten {
            self.seen = None;
            self.survivors = 0;
        }
        is_forgotten
    }

    /// The age up to which connections are used; `None` while nothing is known.
    fn limit(&self) -> Option<Duration> {
        // Of one that closed between two looks the earlier one is the safe guess, but not all the way to zero.
        let seen = self.seen.map(|seen| seen.before.max(seen.now / 2));
        let patience = match (self.said, seen) {
            (Some(said), Some(seen)) => said.min(seen),
            (Some(patience), None) | (None, Some(patience)) => patience,
            (None, None) => return None,
        };
        let undercut = UNDERCUT.min(patience / 2);
        Some((patience - undercut).min(IDLE_LIMIT))
    }
}

/// The seconds of a `Keep-Alive` field, such as `timeout=5, max=100` (RFC 2068 §19.7.1.1); `None` if it says none.
pub(super) fn timeout(value: &[u8]) -> Option<u32> {
    let parameters = value.split(|&byte| byte == b',' || byte == b';');
    let mut parameters = parameters.filter_map(|parameter| {
        let (name, value) = parameter.split_at_checked(memchr::memchr(b'=', parameter)?)?;
        name.trim_ascii()
            .eq_ignore_ascii_case(b"timeout")
            .then_some(value)
    });
    let digits = parameters.next()?.strip_prefix(b"=")?.trim_ascii();
    str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock;
    use crate::dataplane::upstream::testkit::dice;

    const fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    const fn age(before: u64, now: u64) -> Age {
        Age {
            before: millis(before),
            now: millis(now),
        }
    }

    fn limits(keep_alive: &KeepAlive) -> (u128, u128) {
        let limit = |repeatable| keep_alive.limit(repeatable).as_millis();
        (limit(true), limit(false))
    }

    #[test]
    fn what_is_said_is_undercut_by_a_second_or_by_half() {
        let check = |seconds, expected| {
            let keep_alive = KeepAlive::default();
            assert_eq!(limits(&keep_alive), (30_000, 4_000));
            keep_alive.hear(seconds);
            assert_eq!(limits(&keep_alive), (expected, expected), "{seconds} s");
        };
        check(0, 1);
        check(1, 500);
        check(2, 1_000);
        check(3, 2_000);
        check(5, 4_000);
        check(20, 19_000);
        check(75, 30_000);
        check(u32::MAX, 30_000);
    }

    #[test]
    fn another_word_of_the_endpoint_holds() {
        let keep_alive = KeepAlive::default();
        let now = clock::now();
        keep_alive.hear(5);
        keep_alive.closed(age(1_800, 2_200), now);
        assert_eq!(limits(&keep_alive).0, 900);
        keep_alive.hear(5);
        assert_eq!(limits(&keep_alive).0, 900, "that is nothing new");
        keep_alive.hear(15);
        assert_eq!(limits(&keep_alive).0, 14_000);
    }

    #[test]
    fn connections_that_close_tell_ever_more_exactly_when() {
        let keep_alive = KeepAlive::default();
        let now = clock::now();
        let check = |seconds, closed: Age, expected| {
            keep_alive.closed(closed, now + Duration::from_secs(seconds));
            assert_eq!(limits(&keep_alive), (expected, expected));
        };
        check(0, age(4_000, 5_400), 3_000);
        check(9, age(4_900, 5_900), 3_900);
        check(18, age(4_100, 5_100), 3_900);
        // Now it is faster.
        check(27, age(1_000, 2_000), 500);
        check(36, age(1_800, 2_800), 900);
    }

    #[test]
    fn one_that_closed_before_the_first_look_does_not_make_connections_useless() {
        let keep_alive = KeepAlive::default();
        keep_alive.closed(age(0, 900), clock::now());
        assert_eq!(limits(&keep_alive), (225, 225));
    }

    #[test]
    fn a_restart_teaches_nothing() {
        let now = clock::now();
        let ages = [
            age(100, 1_100),
            age(10_000, 11_000),
            age(300, 900),
            age(5_000, 6_000),
        ];
        for first in 0..ages.len() {
            let keep_alive = KeepAlive::default();
            keep_alive.closed(age(19_000, 20_000), now);
            let restart = now + Duration::from_secs(60);
            for turn in 0..ages.len() {
                let at = restart + millis(300 * turn as u64);
                keep_alive.closed(ages[(first + turn) % ages.len()], at);
            }
            assert_eq!(limits(&keep_alive).0, 18_000, "beginning with {first}");
            // What closes later teaches again.
            keep_alive.closed(age(2_000, 2_500), now + Duration::from_secs(90));
            assert_eq!(limits(&keep_alive).0, 1_000);
        }
    }

    #[test]
    fn what_connections_outlive_is_forgotten() {
        let keep_alive = KeepAlive::default();
        let now = clock::now();
        keep_alive.closed(age(1_000, 2_000), now);
        for turn in 0..SURVIVORS {
            assert_eq!(limits(&keep_alive).0, 500);
            keep_alive.lived(age(900, 1_900));
            keep_alive.lived(age(1_900, 2_900));
            keep_alive.lived(age(2_900, 3_900));
            assert_eq!(turn + 1 == SURVIVORS, limits(&keep_alive).0 == 30_000);
        }
    }

    #[test]
    fn one_that_ends_as_the_others_did_speaks_against_those_that_live() {
        let keep_alive = KeepAlive::default();
        let now = clock::now();
        keep_alive.closed(age(1_000, 2_000), now);
        for turn in 1..20 {
            keep_alive.lived(age(1_900, 2_900));
            keep_alive.lived(age(1_900, 2_900));
            keep_alive.lived(age(1_900, 2_000));
            keep_alive.closed(age(1_200, 2_200), now + Duration::from_secs(10 * turn));
        }
        assert_eq!(limits(&keep_alive).0, 600);
    }

    #[test]
    fn the_field_says_how_many_seconds() {
        let check =
            |value: &str, expected| assert_eq!(timeout(value.as_bytes()), expected, "{value}");
        check("timeout=5", Some(5));
        check("timeout=5, max=1000", Some(5));
        check("max=1000 , Timeout = 15", Some(15));
        check("timeout=", None);
        check("timeout=-1", None);
        check("timeout=99999999999", None);
        check("timeouts=5", None);
        check("300", None);
        check("", None);
    }

    /// A server that closes up to a twenty-fifth after its timeout, and a proxy that looks once a second, in virtual time.
    #[test]
    fn whatever_the_timeout_is_connections_are_given_up_before_it() {
        for seed in 1..=200_u64 {
            let mut dice = dice(seed);
            let timeout = 1_000 + dice(20_000);
            let keep_alive = KeepAlive::default();
            let mut now = clock::now();
            for _ in 0..50 {
                now += millis(2_000 + dice(10_000));
                let life = timeout + timeout * dice(40) / 1_000;
                let before = life - life.min(dice(1_000));
                let found = before + 1_000;
                keep_alive.lived(Age {
                    before: millis(before.saturating_sub(1_000)),
                    now: millis(before),
                });
                keep_alive.closed(age(before, found), now);
            }
            let limit = limits(&keep_alive).0 as u64;
            assert!(limit < timeout, "seed {seed}: {limit} of {timeout}");
            assert!(limit * 4 >= timeout, "seed {seed}: {limit} of {timeout}");
        }
    }
}
