//! Keys to members by a table in which each has its places, and most keep theirs when one comes or goes.
//!
//! Members take places in turn, each in an order of its own, until all are taken (Eisenbud and others, "Maglev: A Fast and
//! Reliable Software Network Load Balancer", NSDI 2016, §3.4). A lookup is one access to memory. Which member has a place
//! depends on the members' names and weights alone, in whatever order they are written.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::Schedule;

/// Places in a table: a prime. Of a hundred members one has 655, so that shares are exact to a fraction of a per cent; and a
/// table takes 128 KiB. It is the same for every pool, since a table of another size has another order.
const PLACES: usize = 65_537;

/// For each place the number of its member; empty if nobody has weight.
#[derive(Debug)]
pub(super) struct Maglev(Box<[u16]>);

/// The order in which a member takes places.
struct Preference {
    next: usize,
    skip: usize,
}

impl Maglev {
    /// A table of members with these names and weights. Those behind the first 65 535 have no place in it.
    pub(super) fn new(members: &[(&str, u32)]) -> Self {
        let mut members: Vec<_> = (0..u16::MAX).zip(members.iter().copied()).collect();
        members.sort_by_key(|&(_, (name, _))| name);
        let weights: Vec<_> = members.iter().map(|&(_, (_, weight))| weight).collect();
        let turns = Schedule::new(&weights);
        if turns.len() == 0 {
            return Self(Box::default());
        }
        let preferences = members.iter().map(|(_, (name, _))| Preference::of(name));
        let mut preferences: Vec<_> = preferences.collect();
        let mut places = vec![None; PLACES];
        let mut turn = 0;
        for _ in 0..PLACES {
            let taken = turns.at(turn).and_then(|taker| {
                let (number, _) = *members.get(taker)?;
                let place = preferences.get_mut(taker)?.take(&places);
                Some((place, number))
            });
            if let Some((place, number)) = taken
                && let Some(place) = places.get_mut(place)
            {
                *place = Some(number);
            }
            turn = (turn + 1) % turns.len();
        }
        Self(places.into_iter().flatten().collect())
    }

    /// The number of the member for a key.
    pub(super) fn at(&self, key: u64) -> Option<usize> {
        let place = key.checked_rem(self.0.len() as u64)?;
        self.0.get(place as usize).map(|&member| member.into())
    }
}

impl Preference {
    fn of(name: &str) -> Self {
        let hash = |seed| xxh3_64_with_seed(name.as_bytes(), seed) as usize;
        Self {
            next: hash(1) % PLACES,
            skip: hash(2) % (PLACES - 1) + 1,
        }
    }

    /// The next place of the order that is free. It meets every place, since no skip divides a prime.
    fn take(&mut self, places: &[Option<u16>]) -> usize {
        loop {
            let place = self.next;
            self.next = (self.next + self.skip) % PLACES;
            if places.get(place).is_none_or(Option::is_none) {
                return place;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|at| format!("10.0.0.{at}:8080")).collect()
    }

    fn table(members: &[(&str, u32)]) -> Vec<String> {
        let maglev = Maglev::new(members);
        let places = 0..PLACES as u64;
        places
            .map(|key| members[maglev.at(key).unwrap()].0.to_owned())
            .collect()
    }

    fn moved(before: &[String], after: &[String]) -> usize {
        before.iter().zip(after).filter(|(a, b)| a != b).count()
    }

    #[test]
    fn at_most_two_per_cent_of_keys_move_when_one_of_a_hundred_leaves() {
        let names = names(100);
        let all: Vec<_> = names.iter().map(|name| (name.as_str(), 1)).collect();
        let before = table(&all);
        let mut worst = 0;
        for gone in [0, 1, 17, 50, 73, 98, 99] {
            let mut rest = all.clone();
            let (gone, _) = rest.remove(gone);
            let moved = moved(&before, &table(&rest));
            let its_own = before.iter().filter(|name| *name == gone).count();
            assert!(moved >= its_own);
            worst = worst.max(moved);
        }
        assert!(worst * 50 <= PLACES, "{worst} of {PLACES}");
    }

    #[test]
    fn shares_are_those_of_the_weights() {
        let names = names(20);
        for weights in [[1; 20], std::array::from_fn(|at| at as u32)] {
            let all: Vec<_> = names.iter().map(String::as_str).zip(weights).collect();
            let total: u32 = weights.iter().sum();
            let table = table(&all);
            for (name, weight) in all {
                let share = table.iter().filter(|found| *found == name).count();
                let fair = PLACES * weight as usize / total as usize;
                assert!(share.abs_diff(fair) <= 1 + fair / 50, "{share} of {fair}");
            }
        }
    }

    #[test]
    fn the_order_in_which_members_are_written_does_not_matter() {
        let names = names(10);
        let all: Vec<_> = names.iter().map(|name| (name.as_str(), 3)).collect();
        let mut backwards = all.clone();
        backwards.reverse();
        assert_eq!(moved(&table(&all), &table(&backwards)), 0);
    }

    #[test]
    fn a_pool_without_weight_has_no_table() {
        assert_eq!(Maglev::new(&[]).at(5), None);
        assert_eq!(Maglev::new(&[("a", 0)]).at(5), None);
    }
}
