//! Keys to members by a ring of points: a key belongs to the next point's member.
//!
//! When a member comes or goes, keys move to it or from it and no others do (Karger and others, "Consistent Hashing and
//! Random Trees", STOC 1997). The price beside `maglev`: shares that differ by some per cent, and a search.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Points of the heaviest member of a pool: shares then differ by 6 % (one over the root of it). Those of others are as
/// many as their weights say.
const POINTS: u64 = 256;

/// Points of a ring, at most, which take 16 MiB: beyond 4096 members each has fewer.
const POINTS_LIMIT: u64 = 1 << 20;

/// Points in their order, each with the number of its member.
#[derive(Debug)]
pub(super) struct Ring(Box<[(u64, u32)]>);

impl Ring {
    /// A ring of members with these names and weights.
    pub(super) fn new(members: &[(&str, u32)]) -> Self {
        let weights = || members.iter().map(|&(_, weight)| u64::from(weight));
        let heaviest = weights().max().unwrap_or_default().max(1);
        let most = (POINTS_LIMIT / members.len().max(1) as u64).clamp(1, POINTS);
        let mut points = Vec::new();
        for (number, &(name, weight)) in (0..).zip(members) {
            let count = match u64::from(weight) {
                0 => 0,
                weight => (most * weight / heaviest).max(1),
            };
            points
                .extend((0..count).map(|seed| (xxh3_64_with_seed(name.as_bytes(), seed), number)));
        }
        points.sort_unstable();
        Self(points.into())
    }

    /// The number of the member for a key.
    pub(super) fn at(&self, key: u64) -> Option<usize> {
        let next = self.0.partition_point(|&(point, _)| point < key);
        let (_, member) = self.0.get(next).or_else(|| self.0.first())?;
        Some(*member as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::super::two_choices::mix;
    use super::*;

    const KEYS: usize = 20_000;

    fn owners(members: &[(&str, u32)]) -> Vec<String> {
        let ring = Ring::new(members);
        let keys = (0..KEYS).map(|key| mix(9, key));
        keys.map(|key| members[ring.at(key).unwrap()].0.to_owned())
            .collect()
    }

    #[test]
    fn only_the_keys_of_the_one_that_leaves_move() {
        let names: Vec<_> = (0..100).map(|at| format!("10.0.0.{at}:80")).collect();
        let all: Vec<_> = names.iter().map(|name| (name.as_str(), 1)).collect();
        let before = owners(&all);
        for gone in [0, 42, 99] {
            let mut rest = all.clone();
            let (gone, _) = rest.remove(gone);
            let after = owners(&rest);
            let mut its_own = 0;
            for (before, after) in before.iter().zip(&after) {
                if before == gone {
                    its_own += 1;
                    assert_ne!(after, gone);
                } else {
                    assert_eq!(before, after);
                }
            }
            // One of a hundred had about a hundredth.
            assert!((KEYS / 200..=KEYS / 50).contains(&its_own), "{its_own}");
        }
    }

    #[test]
    fn shares_are_about_those_of_the_weights() {
        let all = [("a:1", 1), ("b:1", 2), ("c:1", 4), ("d:1", 0)];
        let owners = owners(&all);
        for (name, weight) in all {
            let share = owners.iter().filter(|owner| *owner == name).count();
            let fair = KEYS * weight as usize / 7;
            assert!(
                share.abs_diff(fair) <= fair / 4,
                "{name}: {share} of {fair}"
            );
        }
    }

    #[test]
    fn a_ring_of_many_members_is_no_larger_than_its_limit() {
        let names: Vec<_> = (0..20_000).map(|at| at.to_string()).collect();
        let all: Vec<_> = names.iter().map(|name| (name.as_str(), 7)).collect();
        let ring = Ring::new(&all);
        assert!(ring.0.len() as u64 <= POINTS_LIMIT);
        assert!(ring.0.len() >= all.len());
        assert_eq!(Ring::new(&[]).at(5), None);
    }
}
