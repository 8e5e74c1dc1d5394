//! The balancing choice: which endpoint takes the next exchange.
//!
//! A pick takes no lock and allocates nothing. Endpoints that an exchange has tried already are passed over, so
//! that a second attempt goes elsewhere; so are those that are not usable.

mod least_connections;
mod round_robin;
mod schedule;
#[cfg(test)]
mod testkit;

use std::sync::Arc;

use smallvec::SmallVec;

use crate::base::name::EndpointId;
use crate::dataplane::upstream::endpoint::Endpoint;
use crate::dataplane::upstream::pool::Member;

pub use self::schedule::Schedule;

/// The balancing choice of a pool.
#[derive(Debug)]
pub enum Picker {
    /// Each in turn, by weight, smoothly.
    RoundRobin(Schedule),
    /// The one with the fewest exchanges in flight for its weight; among equals each in turn. Of more than 32 as many are
    /// held against each other at a time, beginning with the one whose turn it is.
    LeastConnections(Schedule),
}

/// What a pick has to know of the exchange that asks.
#[derive(Debug, Default)]
pub struct Asker {
    tried: SmallVec<[EndpointId; 4]>,
}

impl Asker {
    /// Has the picks to come pass over an endpoint.
    pub fn pass_over(&mut self, endpoint: EndpointId) {
        self.tried.push(endpoint);
    }

    /// The same without what it has tried.
    #[must_use]
    pub fn afresh(&self) -> Self {
        Self::default()
    }

    /// Whether an endpoint comes into question.
    fn may_take(&self, endpoint: &Endpoint) -> bool {
        endpoint.is_usable() && !self.tried.contains(&endpoint.id)
    }
}

impl Picker {
    /// Chooses among `members`; `None` when none of them comes into question.
    pub fn pick<'a>(&self, members: &'a [Member], asker: &Asker) -> Option<&'a Arc<Endpoint>> {
        match self {
            Self::RoundRobin(schedule) => round_robin::pick(schedule, members, asker),
            Self::LeastConnections(schedule) => least_connections::pick(schedule, members, asker),
        }
    }

    /// Takes over where `previous` stands in its turns, when both have the same ones.
    pub fn resume(&self, previous: &Self) {
        let (Self::RoundRobin(schedule) | Self::LeastConnections(schedule)) = self;
        let (Self::RoundRobin(before) | Self::LeastConnections(before)) = previous;
        schedule.resume(before);
    }
}

#[cfg(test)]
mod tests {
    use super::testkit::members;
    use super::*;

    /// A picker of every kind.
    fn each(weights: &[u32]) -> Vec<Picker> {
        vec![
            Picker::RoundRobin(Schedule::new(weights)),
            Picker::LeastConnections(Schedule::new(weights)),
        ]
    }

    #[test]
    fn nobody_is_picked_twice_for_one_exchange() {
        let all = members(&[1, 5]);
        for picker in each(&[1, 5]) {
            let mut asker = Asker::default();
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
            for picker in each(&weights) {
                for _ in 0..30 {
                    let picked = picker.pick(&all, &Asker::default());
                    assert_eq!(picked.is_some(), is_left, "{down:b} {picker:?}");
                    assert!(picked.is_none_or(|endpoint| endpoint.is_usable()));
                }
            }
        }
    }

    #[test]
    fn an_empty_pool_has_nobody_to_pick() {
        for picker in each(&[]) {
            assert!(picker.pick(&[], &Asker::default()).is_none());
        }
    }
}
