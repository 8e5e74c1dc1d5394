//! The tiers of a pool: members that are asked together, each tier with a picker of its own.
//!
//! A tier is asked only when those before it have nobody left: endpoints of a higher priority come first, and among them
//! those of our zone. Of these one that is far busier than one of another zone leaves it the exchange.

use crate::dataplane::upstream::pick::{Asker, Balance, Picker};
use crate::dataplane::upstream::pool::Member;

/// An endpoint of our zone with fewer exchanges in flight for its weight than this is never too busy.
const SPILL_FLOOR: u64 = 8;

/// An endpoint of our zone may be so many times as busy as one of another zone before the exchange goes there: crossing is
/// dear, and waiting is dearer.
const SPILL_RATIO: u64 = 2;

/// The tiers of a pool, in their order.
#[derive(Debug)]
pub(super) struct Tiers(Box<[Tier]>);

/// Members that are asked together.
#[derive(Debug)]
struct Tier {
    /// Behind the last of them; they begin where the tier before ends.
    end: usize,
    picker: Picker,
    /// Whether the next tier is that of other zones, which take what is too much for ours.
    spills: bool,
}

impl Tiers {
    /// Lays out members, which it sorts; what is drawn at random follows from the seed.
    pub(super) fn new(balance: &Balance, members: &mut [Member], seed: u64) -> Self {
        members.sort_by_key(Member::tier);
        let mut tiers: Vec<Tier> = Vec::new();
        let mut end = 0;
        let goes_by_key = matches!(balance, Balance::Hash { .. });
        let mut chunks = members.chunk_by(|a, b| a.tier() == b.tier()).peekable();
        while let Some(tier) = chunks.next() {
            end += tier.len();
            let next = chunks.peek().and_then(|next| next.first());
            let is_crossed = |next: &Member| {
                let first = tier.first();
                first.is_some_and(|first| first.priority == next.priority)
            };
            tiers.push(Tier {
                end,
                picker: Picker::new(balance, tier, seed),
                // A key that is spread over zones by load would be nowhere at home.
                spills: next.is_some_and(is_crossed) && !goes_by_key,
            });
        }
        Self(tiers.into())
    }

    /// Takes over where `previous` stands in its turns, tier by tier, where they are the same.
    pub(super) fn resume(&self, previous: &Self) {
        for (tier, before) in self.0.iter().zip(&previous.0) {
            tier.picker.resume(&before.picker);
        }
    }

    /// Chooses among `members`, which are those that were laid out.
    pub(super) fn pick<'a>(&self, members: &'a [Member], asker: &Asker) -> Option<&'a Member> {
        let mut start = 0;
        let mut tiers = self.0.iter();
        while let Some(tier) = tiers.next() {
            let asked = members.get(start..tier.end)?;
            start = tier.end;
            let Some(picked) = tier.picker.pick(asked, asker) else {
                continue;
            };
            if tier.spills && load(picked) >= SPILL_FLOOR * u64::from(picked.weight) {
                let far = tiers.next().and_then(|tier| {
                    let far = members.get(start..tier.end)?;
                    tier.picker.pick(far, asker)
                });
                return Some(far.filter(|far| is_better(far, picked)).unwrap_or(picked));
            }
            return Some(picked);
        }
        None
    }
}

/// Whether one of our zone is so busy that crossing to the other one is better.
fn is_better(far: &Member, near: &Member) -> bool {
    let (near_load, far_load) = (load(near) + 1, load(far) + 1);
    near_load * u64::from(far.weight) > SPILL_RATIO * far_load * u64::from(near.weight)
}

fn load(member: &Member) -> u64 {
    member.endpoint.in_flight() as u64
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::base::addr::EndpointAddr;
    use crate::base::clock;
    use crate::dataplane::upstream::endpoint::{Endpoint, Identity, InFlight, Protocol};
    use crate::dataplane::upstream::pick::{Key, Method};

    /// Members by priority and whether they are far; the number is the last of the address.
    fn members(tiers: &[(u64, bool)]) -> Vec<Member> {
        let members = (0..).zip(tiers).map(|(at, &(priority, is_far))| {
            let identity = Identity {
                pool: "web".into(),
                address: EndpointAddr::Tcp(([10, 0, 0, at], 80).into()),
                protocol: Protocol::Auto,
                tls: None,
            };
            Member {
                priority,
                is_far,
                ..Member::new(Arc::new(Endpoint::new(identity, None)))
            }
        });
        members.collect()
    }

    /// Members as a pool has them.
    struct Laid {
        members: Vec<Member>,
        tiers: Tiers,
    }

    impl Laid {
        fn pick(&self, asker: &Asker) -> Option<&Arc<Endpoint>> {
            let picked = self.tiers.pick(&self.members, asker);
            picked.map(|member| &member.endpoint)
        }
    }

    fn pool(balance: &Balance, members: &[Member]) -> Laid {
        let mut members = members.to_vec();
        Laid {
            tiers: Tiers::new(balance, &mut members, 7),
            members,
        }
    }

    fn balances() -> Vec<Balance> {
        let hash = |method| {
            let key = Key::ClientIp;
            Balance::Hash { key, method }
        };
        vec![
            Balance::RoundRobin,
            Balance::LeastConnections,
            Balance::RandomTwo,
            Balance::PeakEwma,
            hash(Method::Maglev),
            hash(Method::Ring),
        ]
    }

    /// The numbers of those that are picked, each once.
    fn picked(pool: &Laid, members: &[Member]) -> Vec<usize> {
        let mut found: Vec<_> = (0..40)
            .filter_map(|key| {
                let asker = Asker::at(clock::now()).with_key(Some(key << 56));
                let picked = pool.pick(&asker)?;
                members.iter().position(|it| it.endpoint.id == picked.id)
            })
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    #[test]
    fn a_tier_gets_work_when_those_before_it_have_nobody_left() {
        for balance in balances() {
            let all = members(&[(9, false), (0, false), (3, false), (0, false), (9, false)]);
            let pool = pool(&balance, &all);
            assert_eq!(picked(&pool, &all), [1, 3]);
            all[1].endpoint.set_usable(false);
            assert_eq!(picked(&pool, &all), [3]);
            all[3].endpoint.set_usable(false);
            assert_eq!(picked(&pool, &all), [2]);
            all[2].endpoint.set_usable(false);
            assert_eq!(picked(&pool, &all), [0, 4]);
            all[3].endpoint.set_usable(true);
            assert_eq!(picked(&pool, &all), [3]);
        }
    }

    #[test]
    fn an_exchange_that_is_tried_again_goes_on_to_the_next_tier() {
        for balance in balances() {
            let all = members(&[(1, false), (0, false), (0, true)]);
            let pool = pool(&balance, &all);
            let mut asker = Asker::at(clock::now()).with_key(Some(1));
            for expected in [1, 2, 0] {
                let picked = pool.pick(&asker).unwrap().id;
                assert_eq!(picked, all[expected].endpoint.id);
                asker.pass_over(picked);
            }
            assert!(pool.pick(&asker).is_none());
        }
    }

    #[test]
    fn another_zone_gets_work_when_ours_has_nobody_left() {
        for balance in balances() {
            let all = members(&[(0, true), (0, false), (0, true), (1, false)]);
            let pool = pool(&balance, &all);
            assert_eq!(picked(&pool, &all), [1]);
            all[1].endpoint.set_usable(false);
            assert_eq!(picked(&pool, &all), [0, 2]);
        }
    }

    fn load_of(members: &[Member], at: usize) -> usize {
        members[at].endpoint.in_flight()
    }

    #[test]
    fn what_is_far_too_much_for_our_zone_spills_over() {
        for balance in balances() {
            let goes_by_key = matches!(balance, Balance::Hash { .. });
            let all = members(&[(0, true), (0, false), (0, true), (0, true)]);
            let pool = pool(&balance, &all);
            let asker = Asker::at(clock::now());
            let enter = || pool.pick(&asker).unwrap().enter();
            let few: Vec<InFlight> = (0..SPILL_FLOOR).map(|_| enter()).collect();
            assert_eq!(load_of(&all, 1), few.len());
            let many: Vec<InFlight> = (0..492).map(|_| enter()).collect();
            if goes_by_key {
                assert_eq!(load_of(&all, 1), 500);
            } else {
                // Twice as busy as those far away: 200 beside 100 each.
                assert!(
                    (190..=215).contains(&load_of(&all, 1)),
                    "{}",
                    load_of(&all, 1)
                );
            }
            drop((few, many));
            assert_eq!(picked(&pool, &all), [1]);
        }
    }

    #[test]
    fn work_in_our_zone_does_not_spill_to_another_priority() {
        let all = members(&[(0, false), (1, true)]);
        let pool = pool(&Balance::RoundRobin, &all);
        let asker = Asker::at(clock::now());
        let running: Vec<_> = (0..100)
            .map(|_| pool.pick(&asker).unwrap().enter())
            .collect();
        assert_eq!(load_of(&all, 0), running.len());
    }
}
