//! The one with the fewest exchanges in flight for its weight; among equals each in turn.

use super::{Asker, Schedule};
use crate::dataplane::upstream::pool::Member;

/// Members that a pick holds against each other, at most: their counts are far apart in memory, and what the least of so
/// many misses of the least of all is an exchange or two (the power of several choices).
pub(super) const LOOKS: usize = 32;

#[inline]
pub(super) fn pick<'a>(
    schedule: &Schedule,
    members: &'a [Member],
    asker: &Asker,
) -> Option<&'a Member> {
    // Starting where round robin would go makes the first of equals a fair one.
    let start = schedule.at(schedule.step()?)?;
    let (behind, ahead) = members.split_at_checked(start)?;
    let all = ahead.iter().chain(behind);
    if asker.is_plain {
        return least(all.filter(|member| member.weight > 0 && member.endpoint.is_usable()));
    }
    choosy(all, asker)
}

#[inline]
fn least<'a>(members: impl Iterator<Item = &'a Member>) -> Option<&'a Member> {
    let mut best: Option<(&Member, u64)> = None;
    for member in members.take(LOOKS) {
        let load = member.endpoint.in_flight() as u64;
        if load == 0 {
            // Nobody has less, and those before have more.
            return Some(member);
        }
        let lighter = best.is_none_or(|(other, other_load)| {
            load * u64::from(other.weight) < other_load * u64::from(member.weight)
        });
        if lighter {
            best = Some((member, load));
        }
    }
    best.map(|(member, _)| member)
}

/// The same for somebody who has tried some, or where endpoints join slowly.
#[cold]
fn choosy<'a>(members: impl Iterator<Item = &'a Member>, asker: &Asker) -> Option<&'a Member> {
    let usable = members.filter(|member| member.weight > 0 && asker.may_take(member));
    match asker.ramp {
        Some(_) => ramping(usable, asker),
        None => least(usable),
    }
}

/// What one has in flight, with this one more, counts for the share that it has by now.
fn ramping<'a>(members: impl Iterator<Item = &'a Member>, asker: &Asker) -> Option<&'a Member> {
    let loads = members.take(LOOKS).map(|member| {
        let load = member.endpoint.in_flight() as u64 + 1;
        (member, load, asker.share(member))
    });
    let best = loads.reduce(|best, other| {
        let is_less = other.1 * best.2 < best.1 * other.2;
        if is_less { other } else { best }
    });
    best.map(|(member, _, _)| member)
}

#[cfg(test)]
mod tests {
    use super::super::Picker;
    use super::super::testkit::{anyone, members, order};
    use super::*;

    fn picker(weights: &[u32]) -> Picker {
        Picker::LeastConnections(Schedule::new(weights))
    }

    #[test]
    fn the_idle_endpoint_is_preferred() {
        let all = members(&[1, 1, 1]);
        let _busy = [all[0].endpoint.enter(), all[2].endpoint.enter()];
        assert_eq!(order(&picker(&[1, 1, 1]), &all, 6), "bbbbbb");
    }

    #[test]
    fn endpoints_fill_by_weight() {
        let all = members(&[3, 1]);
        let picker = picker(&[3, 1]);
        let running: Vec<_> = (0..400)
            .map(|_| picker.pick(&all, &anyone()).unwrap().endpoint.enter())
            .collect();
        assert_eq!(all[0].endpoint.in_flight(), 300);
        drop(running);
        assert_eq!(all[0].endpoint.in_flight() + all[1].endpoint.in_flight(), 0);
    }

    #[test]
    fn ties_are_broken_fairly() {
        let all = members(&[1, 1, 1]);
        assert_eq!(order(&picker(&[1, 1, 1]), &all, 6), "abcabc");
    }

    #[test]
    fn a_pool_larger_than_it_looks_at_is_level() {
        let count = 10 * LOOKS;
        let all = members(&vec![1; count]);
        let picker = picker(&vec![1; count]);
        let mut random = 1_u64;
        let pick = || picker.pick(&all, &anyone()).unwrap().endpoint.enter();
        let mut running: Vec<_> = (0..8 * count).map(|_| pick()).collect();
        for _ in 0..100 * count {
            // Exchanges of random lengths: any of them is the next to end (Knuth's MMIX generator).
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let ends = (random >> 33) as usize % running.len();
            running.swap_remove(ends);
            running.push(pick());
            let most = all.iter().map(|member| member.endpoint.in_flight()).max();
            assert!(most <= Some(10), "8 on average, {most:?} on one");
        }
    }

    #[test]
    fn a_heavy_member_that_is_idle_is_not_passed_over_for_a_light_one_in_turn() {
        let all = members(&[0, 4, 1]);
        let _busy = all[2].endpoint.enter();
        assert_eq!(order(&picker(&[0, 4, 1]), &all, 6), "bbbbbb");
    }
}
