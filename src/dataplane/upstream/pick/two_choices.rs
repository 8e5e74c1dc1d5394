//! Two members drawn at random, by weight: the better one takes the exchange.
//!
//! Two choices are nearly as level as a look at all, and cheaper. They also keep many proxies from running to one endpoint
//! together: what looks best is drawn by few of them.

use super::{Asker, Schedule, round_robin};
use crate::dataplane::upstream::pool::Member;

/// Turns that a draw looks through behind one that is not to be had.
const NEAR: usize = 8;

/// Latencies below this, in microseconds, are all the same: what is between them is the network's mood and the scheduler's.
const LATENCY_FLOOR: f32 = 1000.0;

/// What is so many times as dear is dearer; what is less so is as good. Else an endpoint that is a little slower would get
/// nothing of a quiet load, for the sake of a gain that nobody notices.
const CLEARLY: f32 = 1.25;

/// Draws members by the turns that they have in a schedule.
#[derive(Debug)]
pub struct Draw {
    pub(super) schedule: Schedule,
    seed: u64,
}

impl Draw {
    /// Draws by these weights; what is drawn follows from the seed.
    pub fn new(weights: &[u32], seed: u64) -> Self {
        Self {
            schedule: Schedule::new(weights),
            seed,
        }
    }

    /// Two places in the round, and a throw of dice beside them.
    fn places(&self) -> (usize, usize, u64) {
        let dice = mix(self.seed, self.schedule.count());
        let turns = self.schedule.len() as u64;
        // Halves of 32 bits, each scaled to the number of turns, which is far below that.
        let scale = |half: u64| ((half * turns) >> 32) as usize;
        (scale(dice >> 32), scale(dice & 0xffff_ffff), mix(dice, 1))
    }

    fn pick<'a>(
        &self,
        members: &'a [Member],
        asker: &Asker,
        is_better: impl Fn(&Member, &Member) -> bool,
    ) -> Option<&'a Member> {
        let (place, other, dice) = self.places();
        let is_first = |member: &Member| asker.may_take(member) && asker.admits(member, dice);
        let Some(first) = self.near(place, members, is_first) else {
            return round_robin::next(&self.schedule, place, members, asker);
        };
        let is_second =
            |member: &Member| is_first(member) && member.endpoint.id != first.endpoint.id;
        Some(match self.near(other, members, is_second) {
            Some(second) if is_better(second, first) => second,
            Some(_) | None => first,
        })
    }

    /// The member at a place, or one of the next, that holds.
    fn near<'a>(
        &self,
        place: usize,
        members: &'a [Member],
        holds: impl Fn(&Member) -> bool,
    ) -> Option<&'a Member> {
        let drawn = members.get(self.schedule.at(place)?)?;
        if holds(drawn) {
            return Some(drawn);
        }
        let next = self.schedule.after(place).take(NEAR);
        next.filter_map(|member| members.get(member))
            .find(|member| holds(member))
    }
}

/// The one of the two with fewer exchanges in flight for its weight.
#[inline(never)]
pub(super) fn random_two<'a>(
    draw: &Draw,
    members: &'a [Member],
    asker: &Asker,
) -> Option<&'a Member> {
    draw.pick(members, asker, |one, other| has_less(one, other, asker))
}

/// The one of the two from which an answer is to be expected sooner: by how long its answers take, times the exchanges in
/// flight with this one, for its weight. What differs little is the same, so that the draw decides.
///
/// As long as one of them has not been observed, the exchanges in flight decide: nothing is known that would draw the
/// whole traffic to it.
#[inline(never)]
pub(super) fn peak_ewma<'a>(
    draw: &Draw,
    members: &'a [Member],
    asker: &Asker,
) -> Option<&'a Member> {
    draw.pick(members, asker, |one, other| {
        match (cost(one, asker), cost(other, asker)) {
            (Some(one), Some(other)) => one * CLEARLY < other,
            (Some(_), None) | (None, Some(_)) | (None, None) => has_less(one, other, asker),
        }
    })
}

fn has_less(one: &Member, other: &Member, asker: &Asker) -> bool {
    let load = |member: &Member| member.endpoint.in_flight() as u64 + 1;
    load(one) * asker.share(other) < load(other) * asker.share(one)
}

fn cost(member: &Member, asker: &Asker) -> Option<f32> {
    let latency = member.endpoint.latency();
    let in_flight = member.endpoint.in_flight();
    // One that is slow or fails gets nothing, so that nothing is learnt of it: it looks better with time, until it gets a
    // try. As long as that is out nobody follows: it counts for what it was.
    let latency = match in_flight {
        0 => latency.faded(asker.now),
        _ => latency.observed(),
    };
    Some(latency?.max(LATENCY_FLOOR) * (in_flight as f32 + 1.0) / asker.share(member) as f32)
}

/// The number that comes `count` steps behind `seed` (SplitMix64).
pub(in crate::dataplane::upstream) fn mix(seed: u64, count: usize) -> u64 {
    let step = (count as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut mixed = seed.wrapping_add(step);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::Picker;
    use super::super::testkit::{anyone, members, place};
    use super::*;
    use crate::base::clock;
    use crate::dataplane::upstream::endpoint::InFlight;

    const MS: Duration = Duration::from_millis(1);

    /// How often each is picked, with nothing in flight.
    fn counts(picker: &Picker, members: &[Member], picks: usize) -> Vec<usize> {
        let mut counts = vec![0; members.len()];
        for _ in 0..picks {
            let picked = picker.pick(members, &anyone()).unwrap();
            counts[place(members, &picked.endpoint)] += 1;
        }
        counts
    }

    #[test]
    fn idle_members_are_drawn_by_their_weights() {
        for seed in 0..20 {
            let weights = [1; 10];
            let all = members(&weights);
            for picker in [
                Picker::RandomTwo(Draw::new(&weights, seed)),
                Picker::PeakEwma(Draw::new(&weights, seed)),
            ] {
                let counts = counts(&picker, &all, 10_000);
                let is_fair = counts.iter().all(|count| (800..=1200).contains(count));
                assert!(is_fair, "seed {seed}: {counts:?}");
            }
        }
    }

    #[test]
    fn a_seed_decides_what_is_drawn() {
        let all = members(&[1; 5]);
        let drawn = |seed| counts(&Picker::RandomTwo(Draw::new(&[1; 5], seed)), &all, 50);
        assert_eq!(drawn(7), drawn(7));
        assert_ne!(drawn(7), drawn(8));
    }

    #[test]
    fn the_less_loaded_of_two_takes_it() {
        let all = members(&[1, 1]);
        let _busy = all[0].endpoint.enter();
        let picker = Picker::RandomTwo(Draw::new(&[1, 1], 1));
        assert_eq!(counts(&picker, &all, 100), [0, 100]);
    }

    #[test]
    fn in_flight_exchanges_settle_by_weight() {
        let weights = [1, 2, 4, 1];
        let all = members(&weights);
        let picker = Picker::RandomTwo(Draw::new(&weights, 3));
        let running: Vec<_> = (0..800)
            .map(|_| picker.pick(&all, &anyone()).unwrap().endpoint.enter())
            .collect();
        for (member, weight) in all.iter().zip(weights) {
            let (load, fair) = (member.endpoint.in_flight(), 100 * weight as usize);
            assert!(load.abs_diff(fair) <= fair / 8, "{load} of {fair}");
        }
        drop(running);
        assert!(all.iter().all(|member| member.endpoint.in_flight() == 0));
    }

    #[test]
    fn no_member_is_far_above_the_mean_however_many_choose_at_once() {
        for seed in 0..10 {
            let weights = [1; 100];
            let all = members(&weights);
            let picker = Picker::RandomTwo(Draw::new(&weights, seed));
            let mut running: Vec<_> = (0..800)
                .map(|_| picker.pick(&all, &anyone()).unwrap().endpoint.enter())
                .collect();
            for step in 0..20_000 {
                let ends = mix(seed, step) as usize % running.len();
                running.swap_remove(ends);
                running.push(picker.pick(&all, &anyone()).unwrap().endpoint.enter());
                let most = all.iter().map(|member| member.endpoint.in_flight()).max();
                assert!(
                    most <= Some(13),
                    "seed {seed}: 8 on average, {most:?} on one"
                );
            }
        }
    }

    /// Runs exchanges that take as long as `took` says of the endpoint, ten milliseconds apart or less, and counts.
    struct Play {
        all: Vec<Member>,
        picker: Picker,
        now: Instant,
        running: Vec<(Instant, Duration, usize, InFlight)>,
        counts: Vec<usize>,
    }

    impl Play {
        fn new(weights: &[u32], seed: u64) -> Self {
            Self {
                all: members(weights),
                picker: Picker::PeakEwma(Draw::new(weights, seed)),
                now: clock::now(),
                running: Vec::new(),
                counts: vec![0; weights.len()],
            }
        }

        /// A `None` is a failure at once.
        fn run(&mut self, for_so_long: Duration, took: impl Fn(usize) -> Option<Duration>) {
            let end = self.now + for_so_long;
            self.counts.fill(0);
            while self.now < end {
                self.now += MS;
                let now = self.now;
                self.running.retain(|(ends, took, _, run)| {
                    let is_over = *ends <= now;
                    if is_over {
                        run.endpoint().latency().observe(*took, now);
                    }
                    !is_over
                });
                let asker = Asker::at(now);
                let picked = self.picker.pick(&self.all, &asker).unwrap();
                let at = place(&self.all, &picked.endpoint);
                self.counts[at] += 1;
                match took(at) {
                    Some(took) => {
                        self.running
                            .push((now + took, took, at, picked.endpoint.enter()))
                    }
                    None => picked.endpoint.latency().fail(MS, now),
                }
            }
        }
    }

    #[test]
    fn peak_ewma_turns_from_the_slow_one_and_comes_back_when_it_is_fast() {
        for seed in 0..10 {
            let mut play = Play::new(&[1; 5], seed);
            play.run(Duration::from_secs(5), |_| Some(5 * MS));
            assert!(
                play.counts.iter().all(|&count| count > 700),
                "{:?}",
                play.counts
            );
            let slow = |at| Some(if at == 2 { 2000 * MS } else { 5 * MS });
            play.run(Duration::from_secs(1), slow);
            play.run(Duration::from_secs(20), slow);
            assert!(play.counts[2] < 20, "seed {seed}: {:?}", play.counts);
            play.run(Duration::from_secs(60), |_| Some(5 * MS));
            play.run(Duration::from_secs(5), |_| Some(5 * MS));
            assert!(play.counts[2] > 700, "seed {seed}: {:?}", play.counts);
        }
    }

    /// The part of a quiet load that the first of two gets, of which the answers take so many microseconds.
    fn part_of_the_first(first: u64, second: u64, seed: u64) -> f64 {
        let took = [first, second].map(Duration::from_micros);
        let all = members(&[1, 1]);
        let picker = Picker::PeakEwma(Draw::new(&[1, 1], seed));
        let (mut now, mut count) = (clock::now(), 0);
        for turn in 0..10_000 {
            now += 10 * MS;
            let picked = picker.pick(&all, &Asker::at(now)).unwrap();
            let at = place(&all, &picked.endpoint);
            count += u32::from(at == 0);
            // Give or take a tenth.
            let spread = 90 + mix(seed, turn) as u32 % 21;
            picked
                .endpoint
                .latency()
                .observe(took[at] * spread / 100, now);
        }
        f64::from(count) / 10_000.0
    }

    #[test]
    fn peak_ewma_shares_a_quiet_load_where_latencies_hardly_differ() {
        for seed in 0..10 {
            for (first, second) in [(500, 600), (50, 900), (5_000, 5_000), (10_000, 10_500)] {
                let part = part_of_the_first(first, second, seed);
                let is_even = (0.4..=0.6).contains(&part);
                assert!(is_even, "seed {seed}: {first} beside {second} µs: {part}");
            }
            for (first, second) in [(500, 2_000), (5_000, 10_000), (100_000, 200_000)] {
                let part = part_of_the_first(first, second, seed);
                assert!(
                    part > 0.98,
                    "seed {seed}: {first} beside {second} µs: {part}"
                );
            }
        }
    }

    #[test]
    fn peak_ewma_is_not_drawn_to_one_that_fails_fast() {
        for seed in 0..10 {
            let mut play = Play::new(&[1; 4], seed);
            play.run(Duration::from_secs(5), |_| Some(20 * MS));
            play.run(Duration::from_secs(30), |at| (at != 1).then_some(20 * MS));
            // A try now and then, of 30 000.
            assert!(play.counts[1] < 30, "seed {seed}: {:?}", play.counts);
        }
    }

    #[test]
    fn peak_ewma_sends_a_newcomer_its_share_and_not_the_herd() {
        for seed in 0..10 {
            let mut play = Play::new(&[1; 5], seed);
            for member in &play.all[..4] {
                member.endpoint.latency().observe(50 * MS, play.now);
            }
            // Before its first answer, which takes as long as those of the others.
            play.run(49 * MS, |_| Some(50 * MS));
            assert!(play.counts[4] < 20, "seed {seed}: {:?}", play.counts);
            play.run(Duration::from_secs(5), |_| Some(50 * MS));
            assert!(
                (700..=1300).contains(&play.counts[4]),
                "seed {seed}: {:?}",
                play.counts
            );
        }
    }

    #[test]
    fn peak_ewma_tries_one_that_was_bad_with_one_exchange_at_a_time() {
        let mut play = Play::new(&[1; 3], 1);
        play.run(Duration::from_secs(1), |_| Some(5 * MS));
        for _ in 0..4 {
            play.all[0].endpoint.latency().fail(MS, play.now);
        }
        // It hangs now: whoever tries it stays.
        let hangs = |at| {
            Some(if at == 0 {
                Duration::from_secs(3600)
            } else {
                5 * MS
            })
        };
        for _ in 0..120 {
            play.run(Duration::from_secs(1), hangs);
            assert!(play.all[0].endpoint.in_flight() <= 1);
        }
        assert_eq!(play.all[0].endpoint.in_flight(), 1, "somebody tried it");
    }
}
