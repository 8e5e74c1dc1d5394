//! Each in turn, by weight, smoothly.

use super::two_choices::mix;
use super::{Asker, Schedule};
use crate::dataplane::upstream::pool::Member;

/// Turns that a pick goes through when those before it are not to be had; behind them members are taken as they come. So
/// a pool whose weights make long rounds costs no more when most of it is gone.
const TURNS_LIMIT: usize = 1024;

#[inline]
pub(super) fn pick<'a>(
    schedule: &Schedule,
    members: &'a [Member],
    asker: &Asker,
) -> Option<&'a Member> {
    let count = schedule.count();
    let place = count.checked_rem(schedule.len())?;
    let first = members.get(schedule.at(place)?)?;
    if asker.is_plain && first.endpoint.is_usable() {
        return Some(first);
    }
    if asker.ramp.is_some() {
        return ramping(schedule, count, members, asker);
    }
    if asker.may_take(first) {
        return Some(first);
    }
    next(schedule, place, members, asker)
}

/// The next in turn behind a place, whoever is there.
#[cold]
pub(super) fn next<'a>(
    schedule: &Schedule,
    place: usize,
    members: &'a [Member],
    asker: &Asker,
) -> Option<&'a Member> {
    let mut turns = schedule
        .after(place)
        .take(TURNS_LIMIT)
        .filter_map(|member| members.get(member));
    let in_turn = turns.find(|member| asker.may_take(member));
    in_turn.or_else(|| {
        let start = place.checked_rem(members.len())?;
        let (behind, ahead) = members.split_at_checked(start)?;
        let mut all = ahead.iter().chain(behind);
        all.find(|member| member.weight > 0 && asker.may_take(member))
    })
}

/// The next in turn where endpoints join slowly: one that does gives up turns, as many as it lacks of its share.
#[cold]
fn ramping<'a>(
    schedule: &Schedule,
    count: usize,
    members: &'a [Member],
    asker: &Asker,
) -> Option<&'a Member> {
    let before = count.wrapping_sub(1).checked_rem(schedule.len())?;
    let dice = mix(0, count);
    let mut turns = schedule
        .after(before)
        .take(TURNS_LIMIT)
        .filter_map(|member| members.get(member));
    let found = turns.find(|member| asker.may_take(member) && asker.admits(member, dice));
    // If nobody is let in all join alike, and the first in turn is as good as any.
    found.or_else(|| next(schedule, before, members, asker))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::super::Picker;
    use super::super::testkit::{anyone, members, order};
    use super::*;

    fn picker(weights: &[u32]) -> Picker {
        Picker::RoundRobin(Schedule::new(weights))
    }

    #[test]
    fn a_heavy_member_is_spread_over_the_round() {
        let check = |weights: &[u32], expected: &str| {
            let order = order(&picker(weights), &members(weights), expected.len());
            assert_eq!(order, expected);
        };
        check(&[1, 1], "abab");
        check(&[2, 1], "abaaba");
        check(&[10, 10, 10], "abcabc");
        check(&[5, 1, 1], "aaabcaa");
        check(&[0, 1], "bbb");
        check(&[3, 3, 2], "abcabcab");
    }

    #[test]
    fn the_weights_are_kept_to_exactly() {
        let weights = [7, 3, 1, 0, 13];
        let picks = order(&picker(&weights), &members(&weights), 2400);
        for (index, weight) in weights.into_iter().enumerate() {
            let count = picks.bytes().filter(|&b| b == b'a' + index as u8).count();
            assert_eq!(count, weight as usize * 100);
        }
    }

    #[test]
    fn the_only_one_left_is_found_while_other_workers_take_their_turns() {
        let all = members(&[1, 1]);
        let picker = picker(&[1, 1]);
        let mut asker = anyone();
        asker.pass_over(all[0].endpoint.id);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    picker.pick(&all, &anyone()).unwrap();
                }
            });
            let found = (0..100_000).all(|_| picker.pick(&all, &asker).is_some());
            is_over.store(true, Ordering::Relaxed);
            assert!(found);
        });
    }

    #[test]
    fn the_others_share_the_turns_of_one_that_is_not_usable() {
        let all = members(&[1, 3, 1]);
        let picker = picker(&[1, 3, 1]);
        all[0].endpoint.set_usable(false);
        let picks = order(&picker, &all, 400);
        let heavy = picks.bytes().filter(|&b| b == b'b').count();
        assert!((240..=320).contains(&heavy), "{heavy} of 400");
    }

    #[test]
    fn a_light_member_is_found_behind_a_long_round_of_one_that_is_gone() {
        let all = members(&[65_535, 1]);
        let picker = picker(&[65_535, 1]);
        all[0].endpoint.set_usable(false);
        assert_eq!(order(&picker, &all, 100), "b".repeat(100));
    }
}
