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

use std::sync::Arc;
use std::time::Instant;

use smallvec::SmallVec;

use crate::base::name::EndpointId;
use crate::dataplane::upstream::endpoint::Endpoint;
use crate::dataplane::upstream::pool::Member;

pub use self::hash::{Hash, Method};
pub use self::key::Key;
pub use self::schedule::Schedule;
pub use self::two_choices::Draw;

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
    now: Instant,
    /// The hash of what the request is known again by.
    key: Option<u64>,
}

impl Asker {
    /// Somebody who has tried nobody yet.
    pub fn at(now: Instant) -> Self {
        Self {
            tried: SmallVec::new(),
            now,
            key: None,
        }
    }

    /// The same with what the request is known again by, as the hash of a [`Key`].
    #[must_use]
    pub fn with_key(self, key: Option<u64>) -> Self {
        Self { key, ..self }
    }

    /// Has the picks to come pass over an endpoint.
    pub fn pass_over(&mut self, endpoint: EndpointId) {
        self.tried.push(endpoint);
    }

    /// The same without what it has tried.
    #[must_use]
    pub fn afresh(&self) -> Self {
        Self {
            tried: SmallVec::new(),
            ..*self
        }
    }

    /// Whether an endpoint comes into question.
    fn may_take(&self, endpoint: &Endpoint) -> bool {
        endpoint.is_usable() && !self.tried.contains(&endpoint.id)
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
    pub fn pick<'a>(&self, members: &'a [Member], asker: &Asker) -> Option<&'a Arc<Endpoint>> {
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

    /// Whether it goes by how long endpoints take, which then has to be observed.
    pub fn wants_latency(&self) -> bool {
        matches!(self, Self::PeakEwma(_))
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
            let first = picker.pick(&all, &asker).unwrap().id;
            asker.pass_over(first);
            let second = picker.pick(&all, &asker).unwrap().id;
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
                    assert!(picked.is_none_or(|endpoint| endpoint.is_usable()));
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
}
