//! Pools: who is ejected, in panic and otherwise, and that the rules hold whatever happens.

use super::*;
use crate::base::clock;
use crate::dataplane::upstream::endpoint::{Identity, Protocol};
use crate::dataplane::upstream::health::{Outlier, Slow, Thresholds};
use crate::dataplane::upstream::testkit::dice;

const FAILED: Event = Event::Failed { retry_after: None };

const OUTLIER: Outlier = Outlier {
    failures: 5,
    success_rate: 50,
    requests: 20,
    window: Duration::from_secs(10),
    ejection: Duration::from_secs(10),
    max_ejected: 50,
    slow: None,
};

/// A pool of so many endpoints with weights 1 and, for those with odd numbers, 2.
fn pool(count: u16, check: Option<Thresholds>) -> Pool {
    let member = |number: u16| {
        let identity = Identity {
            pool: "web".into(),
            address: EndpointAddr::Tcp(([127, 0, 0, 1], 1000 + number).into()),
            protocol: Protocol::Auto,
            tls: None,
        };
        let endpoint = match check {
            Some(_) => Endpoint::unproven(identity, None),
            None => Endpoint::new(identity, None),
        };
        Member {
            weight: 1 + u32::from(number) % 2,
            ..Member::new(Arc::new(endpoint))
        }
    };
    let settings = Settings {
        balance: Balance::RoundRobin,
        sticky: None,
        slow_start: None,
        connect_timeout: Duration::from_secs(1),
        policy: Policy {
            check,
            outlier: Some(OUTLIER),
        },
        check: None,
        panic_threshold: None,
        queue: None,
        retry_budget: None,
    };
    let members = (0..count).map(member).collect();
    Pool::new("web".into(), members, settings, None, 1)
}

fn endpoint(pool: &Pool, number: usize) -> &Endpoint {
    &pool.members[number].endpoint
}

fn fails(pool: &Pool, number: usize, times: u32, now: Instant) {
    for _ in 0..times {
        pool.note(endpoint(pool, number), FAILED, &"", now);
    }
}

fn standings(pool: &Pool) -> Vec<Standing> {
    let members = pool.members.iter();
    members.map(|member| member.endpoint.standing()).collect()
}

#[test]
fn half_of_a_pool_is_ejected_at_most_and_never_the_last() {
    let check = |count: u16, expected: usize| {
        let pool = pool(count, None);
        let now = clock::now();
        for number in 0..usize::from(count) {
            fails(&pool, number, 50, now);
        }
        let standings = standings(&pool).into_iter();
        let ejected = standings.filter(|one| *one == Standing::Ejected).count();
        assert_eq!(ejected, expected, "of {count}");
    };
    check(1, 0);
    check(2, 1);
    check(3, 1);
    check(4, 2);
    check(5, 2);
}

#[test]
fn an_ejection_ends_when_the_others_are_gone() {
    let pool = pool(2, None);
    let now = clock::now();
    fails(&pool, 0, 5, now);
    assert_eq!(standings(&pool), [Standing::Ejected, Standing::Healthy]);
    pool.note(endpoint(&pool, 1), Event::Refused, &"", now);
    assert_eq!(standings(&pool), [Standing::Healthy, Standing::Refusing]);
    assert_eq!(
        pool.pick(&Asker::at(clock::now())).unwrap().endpoint.id,
        endpoint(&pool, 0).id
    );
}

#[test]
fn a_pool_whose_last_endpoint_is_replaced_is_no_longer_out() {
    let before = pool(1, None);
    let now = clock::now();
    before.note(endpoint(&before, 0), Event::Refused, &"", now);
    let is_out = || before.live.is_out.load(Ordering::Relaxed);
    assert!(is_out());
    let after = |count| Pool {
        live: Arc::clone(&before.live),
        ..pool(count, None)
    };
    after(0).tick(now);
    assert!(is_out(), "nobody is there");
    after(1).tick(now);
    assert!(!is_out());
}

#[test]
fn a_pool_in_panic_uses_all_but_those_that_never_passed_a_check() {
    let thresholds = Thresholds { rise: 1, fall: 1 };
    let mut pool = pool(5, Some(thresholds));
    pool.settings.panic_threshold = Some(50);
    let now = clock::now();
    let usable = || {
        let members = pool.members.iter();
        members
            .map(|member| member.endpoint.is_usable())
            .collect::<Vec<_>>()
    };
    for number in 0..4 {
        pool.note(endpoint(&pool, number), Event::Checked(true), &"", now);
    }
    for number in 0..2 {
        pool.note(endpoint(&pool, number), Event::Checked(false), &"", now);
    }
    assert_eq!(usable(), [false, false, true, true, false]);
    pool.note(endpoint(&pool, 2), Event::Checked(false), &"", now);
    assert_eq!(usable(), [true, true, true, true, false]);
    pool.note(endpoint(&pool, 0), Event::Checked(true), &"", now);
    assert_eq!(usable(), [true, false, false, true, false]);
    for number in 0..4 {
        pool.note(endpoint(&pool, number), Event::Checked(false), &"", now);
    }
    pool.tick(now);
    assert_eq!(usable(), [true, true, true, true, false]);
    let mut calm = pool;
    calm.settings.panic_threshold = None;
    calm.tick(now);
    assert!(
        calm.pick(&Asker::at(clock::now())).is_none(),
        "the threshold is gone"
    );
}

#[test]
fn an_endpoint_whose_answers_break_off_is_ejected() {
    let pool = pool(2, None);
    let now = clock::now();
    for _ in 0..5 {
        endpoint(&pool, 0).note_success();
        endpoint(&pool, 0).note_cut();
    }
    endpoint(&pool, 1).note_cut();
    assert_eq!(standings(&pool), [Standing::Healthy, Standing::Healthy]);
    pool.tick(now);
    assert_eq!(standings(&pool), [Standing::Ejected, Standing::Healthy]);
}

/// Thousands of events on pools of all sizes, in virtual time.
#[test]
fn whatever_happens_the_rules_of_a_pool_hold() {
    for seed in 1..=300_u64 {
        let mut dice = dice(seed);
        let check = (dice(2) == 0).then_some(Thresholds { rise: 2, fall: 3 });
        let pool = pool(1 + dice(8) as u16, check);
        let count = pool.members.len() as u64;
        let mut now = clock::now();
        let mut running = Vec::new();
        for step in 0..400 {
            now += Duration::from_millis(dice(400));
            if let Some(picked) = pool.pick(&Asker::at(clock::now())) {
                let is_healthy = picked.endpoint.standing() == Standing::Healthy;
                assert!(
                    is_healthy,
                    "seed {seed} step {step}: {:?}",
                    standings(&pool)
                );
                running.push(picked.endpoint.enter());
            } else {
                assert!(!pool.has_healthy(), "seed {seed} step {step}");
            }
            let one = endpoint(&pool, dice(count) as usize);
            // Some are worse than others.
            let is_bad = one.id.0.is_multiple_of(3);
            match dice(8) {
                0 => pool.tick(now),
                1 => pool.note(one, Event::Checked(dice(3) > 0), &"", now),
                2 if is_bad => pool.note(one, Event::Refused, &"", now),
                2 | 3 => pool.note(one, Event::Reached, &"", now),
                4 => running.clear(),
                _ if is_bad || dice(9) == 0 => pool.note(one, FAILED, &"", now),
                _ => one.note_success(),
            }
            let told = standings(&pool);
            let ejected = told.iter().filter(|one| **one == Standing::Ejected).count();
            let place = || format!("seed {seed} step {step}: {told:?}");
            assert!(ejected * 2 <= told.len(), "{}", place());
            assert!(ejected == 0 || pool.has_healthy(), "{}", place());
            for member in &pool.members {
                let is_healthy = member.endpoint.standing() == Standing::Healthy;
                assert_eq!(member.endpoint.is_usable(), is_healthy, "{}", place());
            }
        }
        drop(running);
        let left: usize = pool
            .members
            .iter()
            .map(|one| one.endpoint.in_flight())
            .sum();
        assert_eq!(left, 0);
    }
}

/// Answers of pools of all sizes, in virtual time, of which one becomes slow.
#[test]
fn the_slow_one_is_ejected_and_nobody_else_whatever_the_pool() {
    for seed in 1..=60_u64 {
        let mut dice = dice(seed);
        let mut pool = pool(2 + dice(6) as u16, None);
        let outlier = pool.settings.policy.outlier.as_mut().unwrap();
        outlier.slow = Some(Slow {
            factor: 3,
            least: Duration::from_millis(50),
            lasts: Duration::from_secs(10),
        });
        let count = pool.members.len() as u64;
        let (bad, usual) = (dice(count) as usize, 20 + dice(200));
        let (begins, times) = (dice(20), 4 + dice(30));
        // Where all become slow together, nobody is slow beside the others.
        let is_one = dice(4) > 0;
        let mut now = clock::now();
        let mut ejected = None;
        for step in 0..240 {
            now += Duration::from_millis(250);
            let second = step / 4;
            for (number, member) in pool.members.iter().enumerate() {
                for _ in 0..2 + dice(3) {
                    let is_bad = second >= begins && (!is_one || number == bad);
                    let spread = 50 + dice(150);
                    let took = usual * if is_bad { times } else { 1 } * spread / 100;
                    if dice(50) == 0 {
                        member.endpoint.note_timing(Duration::from_secs(30));
                    }
                    member.endpoint.note_timing(Duration::from_millis(took));
                }
            }
            pool.tick(now);
            for (number, standing) in standings(&pool).into_iter().enumerate() {
                if standing == Standing::Ejected {
                    assert!(is_one && number == bad, "seed {seed} second {second}");
                    ejected = ejected.or(Some(second));
                }
            }
        }
        match (is_one, ejected) {
            (true, Some(second)) => {
                let within = begins + 10..begins + 25;
                assert!(within.contains(&second), "seed {seed}: {second} s");
            }
            (true, None) => panic!("seed {seed}: {times} times as slow, and it stays"),
            (false, _) => {}
        }
        let slow = u64::from(is_one);
        assert!(pool.live.ejections.counts()[2].1 >= slow, "seed {seed}");
    }
}

#[test]
fn one_of_another_zone_is_no_measure() {
    let slow = |is_far: bool| {
        let near = pool(2, None);
        let mut settings = near.settings.clone();
        settings.policy.outlier.as_mut().unwrap().slow = Some(Slow {
            factor: 3,
            least: Duration::from_millis(50),
            lasts: Duration::from_secs(1),
        });
        let mut members = near.members.to_vec();
        members[1].is_far = is_far;
        let pool = Pool::new("web".into(), members, settings, None, 1);
        let mut now = clock::now();
        for _ in 0..40 {
            now += Duration::from_millis(250);
            for (number, millis) in [(0, 10), (1, 100)] {
                for _ in 0..10 {
                    endpoint(&pool, number).note_timing(Duration::from_millis(millis));
                }
            }
            pool.tick(now);
        }
        standings(&pool)[1]
    };
    assert_eq!(slow(false), Standing::Ejected);
    assert_eq!(slow(true), Standing::Healthy);
}
