//! The same member for the same key, as long as it is there and not far busier than the others.

use super::maglev::Maglev;
use super::ring::Ring;
use super::two_choices::mix;
use super::{Asker, Schedule, round_robin};
use crate::dataplane::upstream::pool::Member;

/// A member may have so much more in flight than the mean, for its weight, in per cent of that; its keys go elsewhere
/// meanwhile (Mirrokni and others, "Consistent Hashing with Bounded Loads", 2016).
const LOAD_LIMIT: u64 = 125;

/// Exchanges in flight below which a member is never too busy: the few of a quiet hour are no load, and would part a
/// browser's requests from each other.
const LOAD_FLOOR: u64 = 8;

/// Other members that a key is tried at, each in its turn the same for the key.
const TRIES: usize = 16;

/// Members that the mean is taken of, at most.
const SAMPLE: usize = 32;

/// How keys become members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// A table: exact shares, the fastest lookup; few other keys move when a member comes or goes.
    Maglev,
    /// A ring: no other keys move.
    Ring,
}

/// Members by key, laid out at compile.
#[derive(Debug)]
pub struct Hash {
    table: Table,
    /// For requests without a key.
    pub(super) schedule: Schedule,
}

#[derive(Debug)]
enum Table {
    Maglev(Maglev),
    Ring(Ring),
}

impl Hash {
    /// Lays out members.
    pub fn new(method: Method, members: &[Member]) -> Self {
        let named = members.iter();
        let named = named.map(|member| (&*member.endpoint.label, member.weight));
        let named: Vec<_> = named.collect();
        let weights: Vec<_> = members.iter().map(|member| member.weight).collect();
        Self {
            table: match method {
                Method::Maglev => Table::Maglev(Maglev::new(&named)),
                Method::Ring => Table::Ring(Ring::new(&named)),
            },
            schedule: Schedule::new(&weights),
        }
    }

    fn at(&self, key: u64) -> Option<usize> {
        match &self.table {
            Table::Maglev(maglev) => maglev.at(key),
            Table::Ring(ring) => ring.at(key),
        }
    }
}

#[inline(never)]
pub(super) fn pick<'a>(hash: &Hash, members: &'a [Member], asker: &Asker) -> Option<&'a Member> {
    let Some(key) = asker.key else {
        return round_robin::pick(&hash.schedule, members, asker);
    };
    let own = members.get(hash.at(key)?)?;
    if asker.may_take(own) && in_flight(own) < LOAD_FLOOR {
        return Some(own);
    }
    elsewhere(hash, key, members, asker)
}

/// The first that is not too busy, of the key's own member and those that come behind it for this key.
#[cold]
fn elsewhere<'a>(
    hash: &Hash,
    key: u64,
    members: &'a [Member],
    asker: &Asker,
) -> Option<&'a Member> {
    let mean = Mean::of(members, key);
    let keys = (0..=TRIES).map(|count| if count == 0 { key } else { mix(key, count) });
    let found = keys.filter_map(|key| members.get(hash.at(key)?));
    let mut usable = found.filter(|member| asker.may_take(member));
    let free = usable.find(|member| !mean.is_exceeded_by(member));
    let least = || {
        let some = sample(members, key).filter(|member| asker.may_take(member));
        some.reduce(|least, member| {
            let is_less = in_flight(member) * u64::from(least.weight)
                < in_flight(least) * u64::from(member.weight);
            if is_less { member } else { least }
        })
    };
    // In turn if hardly anybody is there.
    free.or_else(least)
        .or_else(|| round_robin::pick(&hash.schedule, members, asker))
}

/// Members that have work; of a large pool some, which are others for another key.
fn sample(members: &[Member], key: u64) -> impl Iterator<Item = &Member> {
    let start = key.checked_rem(members.len() as u64).unwrap_or_default();
    let (behind, ahead) = members.split_at_checked(start as usize).unwrap_or_default();
    let some = ahead.iter().chain(behind).take(SAMPLE);
    some.filter(|member| member.weight > 0 && member.endpoint.is_usable())
}

/// What members have in flight.
struct Mean {
    in_flight: u64,
    weight: u64,
}

impl Mean {
    fn of(members: &[Member], key: u64) -> Self {
        let none = Self {
            in_flight: 0,
            weight: 0,
        };
        sample(members, key).fold(none, |sum, member| Self {
            in_flight: sum.in_flight + in_flight(member),
            weight: sum.weight + u64::from(member.weight),
        })
    }

    /// Whether one exchange more would be too many for a member.
    fn is_exceeded_by(&self, member: &Member) -> bool {
        let load = in_flight(member);
        let share = (self.in_flight + 1) * u64::from(member.weight) * LOAD_LIMIT;
        load >= LOAD_FLOOR && (load + 1) * self.weight * 100 > share
    }
}

fn in_flight(member: &Member) -> u64 {
    member.endpoint.in_flight() as u64
}

#[cfg(test)]
mod tests {
    use super::super::Picker;
    use super::super::testkit::{anyone, member, members, place};
    use super::*;

    fn with_key(key: u64) -> Asker {
        Asker {
            key: Some(key),
            ..anyone()
        }
    }

    fn each(members: &[Member]) -> [Picker; 2] {
        [Method::Maglev, Method::Ring].map(|method| Picker::Hash(Hash::new(method, members)))
    }

    #[test]
    fn a_key_stays_where_it_is() {
        let all = members(&[1; 20]);
        for picker in each(&all) {
            let pick = |key| place(&all, &picker.pick(&all, &with_key(key)).unwrap().endpoint);
            let first: Vec<_> = (0..1000).map(|key| pick(mix(1, key))).collect();
            let again: Vec<_> = (0..1000).map(|key| pick(mix(1, key))).collect();
            assert_eq!(first, again);
            let mut used = first.clone();
            used.sort_unstable();
            used.dedup();
            assert_eq!(used.len(), 20, "all members have keys");
        }
    }

    #[test]
    fn only_keys_of_one_that_is_not_usable_move_and_they_scatter() {
        let all = members(&[1; 20]);
        for picker in each(&all) {
            let pick = |key| {
                place(
                    &all,
                    &picker.pick(&all, &with_key(mix(2, key))).unwrap().endpoint,
                )
            };
            let before: Vec<_> = (0..5000).map(pick).collect();
            all[7].endpoint.set_usable(false);
            let after: Vec<_> = (0..5000).map(pick).collect();
            all[7].endpoint.set_usable(true);
            let mut found = vec![0; 20];
            for (before, after) in before.iter().zip(&after) {
                match before {
                    7 => found[*after] += 1,
                    _ => assert_eq!(before, after),
                }
            }
            assert_eq!(found[7], 0);
            let used = found.iter().filter(|count| **count > 0).count();
            assert!(used >= 15, "the others share its keys: {found:?}");
            let again: Vec<_> = (0..5000).map(pick).collect();
            assert_eq!(before, again, "they come back");
        }
    }

    #[test]
    fn another_attempt_goes_to_another_member() {
        let all = members(&[1; 3]);
        for picker in each(&all) {
            let mut asker = with_key(5);
            for _ in 0..3 {
                let picked = picker.pick(&all, &asker).unwrap().endpoint.id;
                asker.pass_over(picked);
            }
            assert!(picker.pick(&all, &asker).is_none());
        }
    }

    #[test]
    fn a_hot_key_is_shared_once_its_member_is_too_busy() {
        for weights in [vec![1; 10], (1..=10).collect()] {
            let all = members(&weights);
            for picker in each(&all) {
                let own = place(&all, &picker.pick(&all, &with_key(77)).unwrap().endpoint);
                let running: Vec<_> = (0..1000)
                    .map(|_| picker.pick(&all, &with_key(77)).unwrap().endpoint.enter())
                    .collect();
                let total: u32 = weights.iter().sum();
                for (member, weight) in all.iter().zip(&weights) {
                    let bound = 1000.0 * f64::from(*weight) / f64::from(total) * 1.25;
                    let load = member.endpoint.in_flight() as f64;
                    assert!(
                        load <= bound.max(LOAD_FLOOR as f64) + 1.0,
                        "{load} of {bound}"
                    );
                }
                drop(running);
                assert_eq!(
                    own,
                    place(&all, &picker.pick(&all, &with_key(77)).unwrap().endpoint)
                );
            }
        }
    }

    #[test]
    fn the_few_of_a_quiet_hour_stay_together() {
        let all = members(&[1; 10]);
        for picker in each(&all) {
            let running: Vec<_> = (0..LOAD_FLOOR)
                .map(|_| picker.pick(&all, &with_key(3)).unwrap().endpoint.enter())
                .collect();
            let own = running[0].endpoint().id;
            assert!(running.iter().all(|one| one.endpoint().id == own));
        }
    }

    #[test]
    fn requests_without_a_key_go_in_turn() {
        let all = members(&[1; 4]);
        for picker in each(&all) {
            let picked =
                (0..8).map(|_| place(&all, &picker.pick(&all, &anyone()).unwrap().endpoint));
            assert_eq!(picked.collect::<Vec<_>>(), [0, 1, 2, 3, 0, 1, 2, 3]);
        }
    }

    #[test]
    fn a_member_that_comes_takes_keys_from_all_and_leaves_the_others_alone() {
        let all: Vec<_> = (0..10).map(|at| member(at, 1)).collect();
        let picks = |members: &[Member], method| {
            let picker = Picker::Hash(Hash::new(method, members));
            let keys = (0..5000).map(|key| with_key(mix(4, key)));
            keys.map(|asker| picker.pick(members, &asker).unwrap().endpoint.id)
                .collect::<Vec<_>>()
        };
        for (method, others) in [(Method::Maglev, 250), (Method::Ring, 0)] {
            let before = picks(&all[..9], method);
            let after = picks(&all, method);
            let new = all[9].endpoint.id;
            let to_new = after.iter().filter(|id| **id == new).count();
            assert!((350..=650).contains(&to_new), "{method:?}: {to_new}");
            let moved = before.iter().zip(&after).filter(|(a, b)| a != b).count();
            assert!(moved - to_new <= others, "{method:?}: {moved}");
        }
    }
}
