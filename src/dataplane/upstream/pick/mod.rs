//! The balancing choice: which endpoint takes the next exchange.
//!
//! A pick takes no lock and allocates nothing. Endpoints that an exchange has tried already are passed over, so
//! that a second attempt goes elsewhere; so are those that are not usable.

mod hash;
mod key;
mod least_connections;
mod maglev;
mod ring;
mod round_robin;
mod schedule;
#[cfg(test)]
mod testkit;
mod two_choices;

use std::time::{Duration, Instant};

use smallvec::SmallVec;

use crate::base::name::EndpointId;
use crate::dataplane::upstream::endpoint::JOINED;
use crate::dataplane::upstream::pool::Member;
use crate::dataplane::upstream::sticky::Session;

pub use self::hash::{Hash, Method};
pub use self::key::Key;
pub(super) use self::key::cookie;
pub use self::schedule::Schedule;
pub use self::two_choices::Draw;
pub(super) use self::two_choices::mix;

/// How a pool chooses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Balance {
    /// See [`Picker::RoundRobin`].
    RoundRobin,
    /// See [`Picker::LeastConnections`].
    LeastConnections,
    /// See [`Picker::RandomTwo`].
    RandomTwo,
    /// See [`Picker::PeakEwma`].
    PeakEwma,
    /// See [`Picker::Hash`].
    Hash {
        /// Where the key of a request is.
        key: Key,
        /// How keys become members.
        method: Method,
    },
}

/// The balancing choice of a pool, laid out for its members.
#[derive(Debug)]
pub enum Picker {
    /// Each in turn, by weight, smoothly.
    RoundRobin(Schedule),
    /// The one with the fewest exchanges in flight for its weight; among equals each in turn. Of more than 32 as many are
    /// held against each other at a time, beginning with the one whose turn it is.
    LeastConnections(Schedule),
    /// The one with fewer exchanges in flight for its weight, of two drawn at random by weight.
    RandomTwo(Draw),
    /// The one from which an answer is to be expected sooner, of two drawn at random by weight.
    PeakEwma(Draw),
    /// The same one for the same key.
    Hash(Hash),
}

/// What a pick has to know of the exchange that asks.
#[derive(Debug)]
pub struct Asker {
    tried: SmallVec<[EndpointId; 4]>,
    /// Whether nobody was tried, nobody joins slowly and nobody has bounds: what most picks are, told by one look.
    is_plain: bool,
    /// Whether endpoints may be full.
    is_bounded: bool,
    now: Instant,
    /// The hash of what the request is known again by.
    key: Option<u64>,
    /// How long endpoints take to join.
    ramp: Option<Duration>,
    /// The session that the request shows.
    pub(super) session: Option<Session>,
}

impl Asker {
    /// Somebody who has tried nobody yet.
    pub fn at(now: Instant) -> Self {
        Self {
            tried: SmallVec::new(),
            is_plain: true,
            is_bounded: false,
            now,
            key: None,
            ramp: None,
            session: None,
        }
    }

    /// The same with what the request is known again by, as the hash of a [`Key`].
    #[must_use]
    pub fn with_key(self, key: Option<u64>) -> Self {
        Self { key, ..self }
    }

    /// The same where endpoints take so long to join.
    #[must_use]
    pub fn with_ramp(self, ramp: Option<Duration>) -> Self {
        Self {
            ramp,
            is_plain: self.is_plain && ramp.is_none(),
            ..self
        }
    }

    /// The same where endpoints may be full.
    #[must_use]
    pub(super) fn with_bounds(self, is_bounded: bool) -> Self {
        Self {
            is_bounded,
            is_plain: self.is_plain && !is_bounded,
            ..self
        }
    }

    /// The same with the session that a request shows.
    #[must_use]
    pub(super) fn with_session(self, session: Option<Session>) -> Self {
        Self { session, ..self }
    }

    /// Has the picks to come pass over an endpoint.
    pub fn pass_over(&mut self, endpoint: EndpointId) {
        self.tried.push(endpoint);
        self.is_plain = false;
    }

    /// The same without what it has tried.
    #[must_use]
    pub fn afresh(&self) -> Self {
        Self {
            tried: SmallVec::new(),
            ..*self
        }
    }

    /// Whether a member comes into question.
    #[inline]
    pub(super) fn may_take(&self, member: &Member) -> bool {
        member.endpoint.is_usable() && (self.is_plain || self.is_free(member))
    }

    /// Whether a member was not tried, and is not full.
    // Apart, so that picks stay small.
    #[cold]
    fn is_free(&self, member: &Member) -> bool {
        !self.tried.contains(&member.endpoint.id) && (!self.is_bounded || member.has_room())
    }

    /// A member's share of the work, to be held against that of others.
    fn share(&self, member: &Member) -> u64 {
        let weight = u64::from(member.weight);
        match self.ramp {
            None => weight,
            Some(ramp) => weight * u64::from(member.endpoint.joined(self.now, ramp)),
        }
    }

    /// Whether a member that joins is let in this time; the dice say so to as many as it has of its share.
    fn admits(&self, member: &Member, dice: u64) -> bool {
        let Some(ramp) = self.ramp else {
            return true;
        };
        let joined = u64::from(member.endpoint.joined(self.now, ramp));
        dice % u64::from(JOINED) < joined
    }
}

impl Picker {
    /// Lays out a choice; what is drawn at random follows from the seed.
    pub fn new(balance: &Balance, members: &[Member], seed: u64) -> Self {
        let weights = || {
            members
                .iter()
                .map(|member| member.weight)
                .collect::<Vec<_>>()
        };
        match balance {
            Balance::RoundRobin => Self::RoundRobin(Schedule::new(&weights())),
            Balance::LeastConnections => Self::LeastConnections(Schedule::new(&weights())),
            Balance::RandomTwo => Self::RandomTwo(Draw::new(&weights(), seed)),
            Balance::PeakEwma => Self::PeakEwma(Draw::new(&weights(), seed)),
            Balance::Hash { key: _, method } => Self::Hash(Hash::new(*method, members)),
        }
    }

    /// Chooses among `members`; `None` when none of them comes into question.
    // Inlined with the two cheapest choices, to which a call would add a tenth; the others stay apart, and do not make it large.
    #[inline]
    pub fn pick<'a>(&self, members: &'a [Member], asker: &Asker) -> Option<&'a Member> {
        match self {
            Self::RoundRobin(schedule) => round_robin::pick(schedule, members, asker),
            Self::LeastConnections(schedule) => least_connections::pick(schedule, members, asker),
            Self::RandomTwo(draw) => two_choices::random_two(draw, members, asker),
            Self::PeakEwma(draw) => two_choices::peak_ewma(draw, members, asker),
            Self::Hash(hash) => hash::pick(hash, members, asker),
        }
    }

    /// Takes over where `previous` stands in its turns, when both have the same ones.
    pub fn resume(&self, previous: &Self) {
        self.schedule().resume(previous.schedule());
    }

    fn schedule(&self) -> &Schedule {
        match self {
            Self::RoundRobin(schedule) | Self::LeastConnections(schedule) => schedule,
            Self::RandomTwo(draw) | Self::PeakEwma(draw) => &draw.schedule,
            Self::Hash(hash) => &hash.schedule,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testkit::{anyone, members};
    use super::*;
    use crate::base::clock;

    /// A picker of every kind.
    fn each(members: &[Member]) -> Vec<Picker> {
        let hash = |method| {
            let key = Key::ClientIp;
            Balance::Hash { key, method }
        };
        [
            Balance::RoundRobin,
            Balance::LeastConnections,
            Balance::RandomTwo,
            Balance::PeakEwma,
            hash(Method::Maglev),
            hash(Method::Ring),
        ]
        .iter()
        .map(|balance| Picker::new(balance, members, 5))
        .collect()
    }

    #[test]
    fn nobody_is_picked_twice_for_one_exchange() {
        let all = members(&[1, 5]);
        for picker in each(&all) {
            let mut asker = anyone();
            let first = picker.pick(&all, &asker).unwrap().endpoint.id;
            asker.pass_over(first);
            let second = picker.pick(&all, &asker).unwrap().endpoint.id;
            assert_ne!(first, second);
            asker.pass_over(second);
            assert!(picker.pick(&all, &asker).is_none());
        }
    }

    #[test]
    fn nobody_is_picked_who_is_not_usable_while_others_are() {
        let weights = [3, 1, 0, 2, 7];
        let all = members(&weights);
        for down in 0..1 << weights.len() {
            let is_down = |at: usize| down >> at & 1 == 1;
            for (at, member) in all.iter().enumerate() {
                member.endpoint.set_usable(!is_down(at));
            }
            let is_left = (0..weights.len()).any(|at| weights[at] > 0 && !is_down(at));
            for picker in each(&all) {
                for turn in 0..30 {
                    let asker = anyone().with_key((turn > 9).then_some(turn << 50));
                    let picked = picker.pick(&all, &asker);
                    assert_eq!(picked.is_some(), is_left, "{down:b} {picker:?}");
                    assert!(picked.is_none_or(|member| member.endpoint.is_usable()));
                }
            }
        }
    }

    #[test]
    fn an_empty_pool_has_nobody_to_pick() {
        for picker in each(&[]) {
            assert!(picker.pick(&[], &anyone()).is_none());
        }
    }

    const RAMP: Duration = Duration::from_secs(30);

    /// The part of so many exchanges that a newcomer has in flight beside nine others, `after` it came; a hundred each are
    /// running, of which one after the other ends.
    fn part_of_a_newcomer(balance: &Balance, after: Duration, seed: u64) -> f64 {
        let all = members(&[1; 10]);
        let start = clock::now();
        all[4].endpoint.rejoin();
        all[4].endpoint.joined(start, RAMP);
        let picker = Picker::new(balance, &all, seed);
        let asker = Asker::at(start + after).with_ramp(Some(RAMP));
        let pick = || picker.pick(&all, &asker).unwrap().endpoint.enter();
        let mut running: Vec<_> = (0..1000).map(|_| pick()).collect();
        let mut sum = 0;
        for turn in 0..4000 {
            let ends = mix(seed, turn) as usize % running.len();
            running.swap_remove(ends);
            running.push(pick());
            if turn >= 3000 {
                sum += all[4].endpoint.in_flight();
            }
        }
        f64::from(sum as u32) / 1000.0 / 100.0
    }

    #[test]
    fn a_newcomer_gets_a_part_of_its_share_that_grows_to_the_whole() {
        for balance in [
            Balance::RoundRobin,
            Balance::LeastConnections,
            Balance::RandomTwo,
            Balance::PeakEwma,
        ] {
            for (seconds, expected) in [(0, 0.1), (15, 0.5), (24, 0.8), (30, 1.0)] {
                let after = Duration::from_secs(seconds);
                let part = part_of_a_newcomer(&balance, after, 3);
                assert!(
                    (part - expected).abs() < 0.12 + expected / 10.0,
                    "{balance:?} after {seconds} s: {part}"
                );
            }
        }
    }

    #[test]
    fn a_pool_of_newcomers_works_as_any_other() {
        let all = members(&[1; 4]);
        for member in &all {
            member.endpoint.rejoin();
        }
        for picker in each(&all) {
            let asker = anyone().with_ramp(Some(RAMP));
            for _ in 0..20 {
                assert!(picker.pick(&all, &asker).is_some());
            }
        }
    }
}
