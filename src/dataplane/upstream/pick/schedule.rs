//! Whose turn it is: every member as often as its weight says, spread evenly.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Turns in a schedule, at most: beyond it weights are scaled down to fit.
const SCHEDULE_LIMIT: u64 = 65_536;

/// The turns of a pool's members, laid out once, at compile; taking one is a step of the shared cursor.
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

    /// Takes the next turn, as its place in the round; `None` if nobody has one.
    #[inline]
    pub(super) fn step(&self) -> Option<usize> {
        self.count().checked_rem(self.turns.len())
    }

    /// Takes the next turn, as its number since the first round; the rest to the turns of a round is its place in it.
    ///
    /// One step of the cursor, however many are passed over behind it: other workers move it meanwhile, and a walk
    /// along it could meet the same member again and again, and miss the only one left.
    #[inline]
    pub(super) fn count(&self) -> usize {
        // Relaxed: two workers may see turns in either order, each turn is taken once all the same.
        self.cursor.0.fetch_add(1, Ordering::Relaxed)
    }

    /// Turns in a round.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.turns.len()
    }

    /// The member whose turn that at `place` is.
    #[inline]
    pub(super) fn at(&self, place: usize) -> Option<usize> {
        self.turns.get(place).map(|&member| member as usize)
    }

    /// The members whose turns are behind that at `place`, once round.
    pub(super) fn after(&self, place: usize) -> impl Iterator<Item = usize> {
        let next = place.saturating_add(1);
        let (behind, ahead) = self.turns.split_at_checked(next).unwrap_or_default();
        ahead.iter().chain(behind).map(|&member| member as usize)
    }

    /// Takes over where `previous` stands in its turns, when both have the same ones.
    pub(super) fn resume(&self, previous: &Self) {
        if self.turns == previous.turns {
            let turn = previous.cursor.0.load(Ordering::Relaxed);
            self.cursor.0.store(turn, Ordering::Relaxed);
        }
    }
}

fn gcd(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_beyond_the_limit_are_scaled_and_nobody_is_lost() {
        let schedule = Schedule::new(&[1, u32::MAX]);
        assert!(schedule.turns.len() as u64 <= SCHEDULE_LIMIT + 1);
        assert!(schedule.turns.contains(&0));
    }

    #[test]
    fn a_round_begins_behind_any_place() {
        let schedule = Schedule::new(&[2, 1, 0]);
        let round = |place| schedule.after(place).collect::<Vec<_>>();
        assert_eq!(round(0), [1, 0, 0]);
        assert_eq!(round(2), [0, 1, 0]);
        assert_eq!(Schedule::new(&[0, 0]).step(), None);
    }

    #[test]
    fn the_turns_go_on_where_they_stood_if_they_are_the_same() {
        let before = Schedule::new(&[1, 1, 1]);
        before.step();
        for (weights, expected) in [([2, 2, 2], 1), ([1, 1, 2], 0)] {
            let after = Schedule::new(&weights);
            after.resume(&before);
            assert_eq!(after.step(), Some(expected), "{weights:?}");
        }
    }
}
