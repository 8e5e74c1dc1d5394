//! The balancing choice: which endpoint takes the next exchange.
//!
//! A pick takes no lock and allocates nothing. Endpoints that an exchange has tried already are passed over, so
//! that a second attempt goes elsewhere, and so are those that are not healthy.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::base::name::EndpointId;
use crate::dataplane::upstream::endpoint::Endpoint;
use crate::dataplane::upstream::pool::Member;

/// Turns in a schedule, at most: beyond it weights are scaled down to fit.
const SCHEDULE_LIMIT: u64 = 65_536;

/// Members that a pick of `least_connections` holds against each other, at most: their counts are far apart in memory, and what
/// the least of so many misses of the least of all is an exchange or two (the power of several choices).
const LOOKS: usize = 32;

/// The balancing choice of a pool.
#[derive(Debug)]
pub enum Picker {
    /// Each in turn, by weight, smoothly.
    RoundRobin(Schedule),
    /// The one with the fewest exchanges in flight for its weight; among equals each in turn. Of more than 32 as many are
    /// held against each other at a time, beginning with the one whose turn it is.
    LeastConnections(Schedule),
}

impl Picker {
    /// Chooses among `members`, passing over those `tried`.
    pub fn pick<'a>(
        &self,
        members: &'a [Member],
        tried: &[EndpointId],
    ) -> Option<&'a Arc<Endpoint>> {
        match self {
            Self::RoundRobin(schedule) => round_robin(schedule, members, tried),
            Self::LeastConnections(schedule) => least_connections(schedule, members, tried),
        }
    }

    /// Takes over where `previous` stands in its turns, when both have the same ones.
    pub fn resume(&self, previous: &Self) {
        let (Self::RoundRobin(schedule) | Self::LeastConnections(schedule)) = self;
        let (Self::RoundRobin(before) | Self::LeastConnections(before)) = previous;
        if schedule.turns == before.turns {
            schedule
                .cursor
                .0
                .store(before.cursor.0.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

/// Whose turn it is: every member as often as its weight says, spread evenly.
///
/// The turns are laid out once, at compile; a pick is one step of the shared cursor.
#[derive(Debug)]
pub struct Schedule {
    turns: Box<[u32]>,
    cursor: Cursor,
}

/// Alone on its cache lines: every pick of every worker moves it.
#[repr(align(128))]
#[derive(Debug, Default)]
struct Cursor(AtomicUsize);

impl Schedule {
    /// Lays out the turns of members with these weights.
    ///
    /// A member of weight `w` has its turns at `(2k + 1) / 2w` of a round, so that a heavy member's turns stand
    /// apart instead of in a row.
    pub fn new(weights: &[u32]) -> Self {
        let divisor = weights.iter().copied().fold(0, gcd).max(1);
        let total: u64 = weights
            .iter()
            .map(|&weight| u64::from(weight / divisor))
            .sum();
        let mut turns = Vec::new();
        for (member, &weight) in (0..).zip(weights) {
            let share = u64::from(weight / divisor);
            let share = match total {
                0..=SCHEDULE_LIMIT => share,
                _ if share == 0 => 0,
                _ => (share * SCHEDULE_LIMIT / total).max(1),
            };
            turns.extend((0..share).map(|turn| (turn, share, member)));
        }
        // Cross-multiplied fractions: exact, and ties go to the earlier member.
        turns.sort_by(|(a, a_share, a_member), (b, b_share, b_member)| {
            let (left, right) = ((2 * a + 1) * b_share, (2 * b + 1) * a_share);
            left.cmp(&right).then(a_member.cmp(b_member))
        });
        let turns = turns.into_iter().map(|(_, _, member)| member).collect();
        Self {
            turns,
            cursor: Cursor::default(),
        }
    }

    /// The members from the one whose turn it is, in the order of the turns, once round.
    ///
    /// One step of the cursor, however many are passed over: other workers move it meanwhile, and a walk along
    /// it could meet the same member again and again, and miss the only one left.
    fn upcoming(&self) -> impl Iterator<Item = usize> {
        // Relaxed: two workers may see turns in either order, each turn is taken once all the same.
        let turn = self.cursor.0.fetch_add(1, Ordering::Relaxed);
        let start = turn.checked_rem(self.turns.len()).unwrap_or_default();
        let (behind, ahead) = self.turns.split_at_checked(start).unwrap_or_default();
        ahead.iter().chain(behind).map(|&member| member as usize)
    }
}

fn gcd(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

fn is_eligible(endpoint: &Endpoint, tried: &[EndpointId]) -> bool {
    endpoint.is_usable() && !tried.contains(&endpoint.id)
}

fn round_robin<'a>(
    schedule: &Schedule,
    members: &'a [Member],
    tried: &[EndpointId],
) -> Option<&'a Arc<Endpoint>> {
    schedule
        .upcoming()
        .filter_map(|member| Some(&members.get(member)?.endpoint))
        .find(|endpoint| is_eligible(endpoint, tried))
}

fn least_connections<'a>(
    schedule: &Schedule,
    members: &'a [Member],
    tried: &[EndpointId],
) -> Option<&'a Arc<Endpoint>> {
    // Starting where round robin would go makes the first of equals a fair one.
    let (behind, ahead) = members.split_at_checked(schedule.upcoming().next()?)?;
    let mut best: Option<(&Member, u64)> = None;
    let usable = ahead
        .iter()
        .chain(behind)
        .filter(|member| member.weight > 0 && is_eligible(&member.endpoint, tried));
    for member in usable.take(LOOKS) {
        let load = member.endpoint.in_flight() as u64;
        if load == 0 {
            // Nobody has less, and those before have more.
            return Some(&member.endpoint);
        }
        let lighter = best.is_none_or(|(other, other_load)| {
            load * u64::from(other.weight) < other_load * u64::from(member.weight)
        });
        if lighter {
            best = Some((member, load));
        }
    }
    best.map(|(member, _)| &member.endpoint)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::base::addr::EndpointAddr;
    use crate::dataplane::upstream::endpoint::{Identity, Protocol};

    fn members(weights: &[u32]) -> Vec<Member> {
        weights
            .iter()
            .enumerate()
            .map(|(index, &weight)| {
                let address = ([127, 0, 0, 1], 1000 + index as u16).into();
                let identity = Identity {
                    pool: "web".into(),
                    address: EndpointAddr::Tcp(address),
                    protocol: Protocol::Auto,
                    tls: None,
                };
                Member {
                    endpoint: Arc::new(Endpoint::new(identity, None)),
                    weight,
                }
            })
            .collect()
    }

    fn order(picker: &Picker, members: &[Member], picks: usize) -> String {
        (0..picks)
            .map(|_| {
                let picked = picker.pick(members, &[]).unwrap();
                let index = members
                    .iter()
                    .position(|m| m.endpoint.id == picked.id)
                    .unwrap();
                char::from(b'a' + index as u8)
            })
            .collect()
    }

    #[test]
    fn round_robin_spreads_a_heavy_member_over_the_round() {
        let check = |weights: &[u32], expected: &str| {
            let picker = Picker::RoundRobin(Schedule::new(weights));
            assert_eq!(order(&picker, &members(weights), expected.len()), expected);
        };
        check(&[1, 1], "abab");
        check(&[2, 1], "abaaba");
        check(&[10, 10, 10], "abcabc");
        check(&[5, 1, 1], "aaabcaa");
        check(&[0, 1], "bbb");
        check(&[3, 3, 2], "abcabcab");
    }

    #[test]
    fn round_robin_keeps_to_the_weights_exactly() {
        let weights = [7, 3, 1, 0, 13];
        let picker = Picker::RoundRobin(Schedule::new(&weights));
        let picks = order(&picker, &members(&weights), 2400);
        for (index, weight) in weights.into_iter().enumerate() {
            let count = picks.bytes().filter(|&b| b == b'a' + index as u8).count();
            assert_eq!(count, weight as usize * 100);
        }
    }

    #[test]
    fn weights_beyond_the_limit_are_scaled_and_nobody_is_lost() {
        let schedule = Schedule::new(&[1, u32::MAX]);
        assert!(schedule.turns.len() as u64 <= SCHEDULE_LIMIT + 1);
        assert!(schedule.turns.contains(&0));
    }

    #[test]
    fn nobody_is_picked_twice_for_one_exchange() {
        let all = members(&[1, 5]);
        for picker in [
            Picker::RoundRobin(Schedule::new(&[1, 5])),
            Picker::LeastConnections(Schedule::new(&[1, 5])),
        ] {
            let first = picker.pick(&all, &[]).unwrap().id;
            let second = picker.pick(&all, &[first]).unwrap().id;
            assert_ne!(first, second);
            assert!(picker.pick(&all, &[first, second]).is_none());
        }
    }

    #[test]
    fn the_only_one_left_is_found_while_other_workers_take_their_turns() {
        let all = members(&[1, 1]);
        let picker = Picker::RoundRobin(Schedule::new(&[1, 1]));
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    picker.pick(&all, &[]).unwrap();
                }
            });
            let found = (0..100_000).all(|_| picker.pick(&all, &[all[0].endpoint.id]).is_some());
            is_over.store(true, Ordering::Relaxed);
            assert!(found);
        });
    }

    #[test]
    fn least_connections_prefers_the_idle_endpoint() {
        let all = members(&[1, 1, 1]);
        let picker = Picker::LeastConnections(Schedule::new(&[1, 1, 1]));
        let _busy = [all[0].endpoint.enter(), all[2].endpoint.enter()];
        assert_eq!(order(&picker, &all, 6), "bbbbbb");
    }

    #[test]
    fn least_connections_fills_by_weight() {
        let all = members(&[3, 1]);
        let picker = Picker::LeastConnections(Schedule::new(&[3, 1]));
        let running: Vec<_> = (0..400)
            .map(|_| picker.pick(&all, &[]).unwrap().enter())
            .collect();
        assert_eq!(all[0].endpoint.in_flight(), 300);
        drop(running);
        assert_eq!(all[0].endpoint.in_flight() + all[1].endpoint.in_flight(), 0);
    }

    #[test]
    fn least_connections_breaks_ties_fairly() {
        let all = members(&[1, 1, 1]);
        let picker = Picker::LeastConnections(Schedule::new(&[1, 1, 1]));
        assert_eq!(order(&picker, &all, 6), "abcabc");
    }

    #[test]
    fn least_connections_is_level_in_a_pool_larger_than_it_looks_at() {
        let count = 10 * LOOKS;
        let all = members(&vec![1; count]);
        let picker = Picker::LeastConnections(Schedule::new(&vec![1; count]));
        let mut random = 1_u64;
        let mut running: Vec<_> = (0..8 * count)
            .map(|_| picker.pick(&all, &[]).unwrap().enter())
            .collect();
        for _ in 0..100 * count {
            // Exchanges of random lengths: any of them is the next to end (Knuth's MMIX generator).
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let ends = (random >> 33) as usize % running.len();
            running.swap_remove(ends);
            running.push(picker.pick(&all, &[]).unwrap().enter());
            let most = all.iter().map(|member| member.endpoint.in_flight()).max();
            assert!(most <= Some(10), "8 on average, {most:?} on one");
        }
    }

    #[test]
    fn a_heavy_member_that_is_idle_is_not_passed_over_for_a_light_one_in_turn() {
        let all = members(&[0, 4, 1]);
        let picker = Picker::LeastConnections(Schedule::new(&[0, 4, 1]));
        let _busy = all[2].endpoint.enter();
        assert_eq!(order(&picker, &all, 6), "bbbbbb");
    }

    #[test]
    fn one_that_is_not_usable_is_passed_over() {
        let all = members(&[1, 3, 1]);
        all[1].endpoint.set_usable(false);
        for picker in [
            Picker::RoundRobin(Schedule::new(&[1, 3, 1])),
            Picker::LeastConnections(Schedule::new(&[1, 3, 1])),
        ] {
            let picks = order(&picker, &all, 100);
            assert!(picks.contains('a') && picks.contains('c') && !picks.contains('b'));
            let last = [all[0].endpoint.id, all[2].endpoint.id];
            assert!(picker.pick(&all, &last).is_none());
        }
    }

    #[test]
    fn an_empty_pool_has_nobody_to_pick() {
        for picker in [
            Picker::RoundRobin(Schedule::new(&[])),
            Picker::LeastConnections(Schedule::new(&[])),
        ] {
            assert!(picker.pick(&[], &[]).is_none());
        }
    }
}
