//! The health of an endpoint by steps, in a time that is moved by hand.

use super::*;
use crate::base::clock;

const POLICY: Policy = Policy {
    check: None,
    outlier: Some(Outlier {
        failures: 5,
        success_rate: 50,
        requests: 20,
        window: Duration::from_secs(10),
        ejection: Duration::from_secs(10),
        max_ejected: 50,
        slow: None,
    }),
};

const FAILED: Event = Event::Failed { retry_after: None };

/// An endpoint, a policy and a time that moves by hand.
struct Case {
    health: Health,
    policy: Policy,
    now: Instant,
}

impl Case {
    fn new(policy: Policy) -> Self {
        Self {
            health: Health::new(policy.check.is_some()),
            policy,
            now: clock::now(),
        }
    }

    fn step(&mut self, event: Event) -> Option<Cause> {
        let change = self.health.step(event, 0, &self.policy, self.now);
        change.map(|change| change.cause)
    }

    fn succeeds(&mut self, times: u32) {
        self.health
            .step(Event::Ticked, times, &self.policy, self.now);
    }

    fn passes(&mut self, seconds: u64) -> Option<Cause> {
        self.now += Duration::from_secs(seconds);
        self.step(Event::Ticked)
    }

    fn blame(&self) -> Option<Blame> {
        self.health.blame(&self.policy)
    }

    /// Fails until it is blamed, and is ejected; how long for, in seconds.
    fn is_ejected(&mut self) -> u64 {
        while self.blame().is_none() {
            self.step(FAILED);
        }
        let blame = self.blame().unwrap();
        self.step(Event::Ejected(blame));
        let mut seconds = 0;
        while self.health.standing() == Standing::Ejected {
            seconds += 1;
            self.passes(1);
        }
        seconds
    }
}

#[test]
fn failures_in_a_row_are_blamed_and_a_success_between_them_is_not() {
    let mut case = Case::new(POLICY);
    for _ in 0..4 {
        case.step(FAILED);
    }
    case.succeeds(1);
    for _ in 0..4 {
        case.step(FAILED);
        assert_eq!(case.blame(), None);
    }
    case.step(FAILED);
    assert_eq!(case.blame(), Some(Blame::InARow(5)));
}

#[test]
fn a_bad_rate_is_blamed_once_enough_is_known_and_as_long_as_it_is_fresh() {
    let mut case = Case::new(POLICY);
    for _ in 0..9 {
        case.step(FAILED);
        case.succeeds(1);
    }
    case.step(FAILED);
    assert_eq!(case.blame(), None, "19 are too few");
    case.step(FAILED);
    assert_eq!(case.blame(), Some(Blame::Rate(45)));
    case.succeeds(2);
    assert_eq!(case.blame(), None, "half is enough");
    case.step(FAILED);
    assert!(case.blame().is_some());
    case.passes(5);
    assert!(case.blame().is_some(), "5 s are in the window");
    case.passes(6);
    assert_eq!(case.blame(), None, "11 s are not");
}

#[test]
fn ejections_grow_and_are_forgotten_one_by_one() {
    let mut case = Case::new(POLICY);
    assert_eq!(
        (case.is_ejected(), case.is_ejected(), case.is_ejected()),
        (10, 20, 30)
    );
    for _ in 0..60 {
        case.is_ejected();
    }
    assert_eq!(case.is_ejected(), 300, "the longest");
    for _ in 0..700 {
        case.passes(1);
    }
    case.succeeds(1);
    assert_eq!(case.is_ejected(), 10);
}

#[test]
fn whoever_comes_back_is_on_trial_until_it_answers_well() {
    let mut case = Case::new(POLICY);
    case.is_ejected();
    case.step(FAILED);
    assert_eq!(case.blame(), Some(Blame::InARow(1)));
    case.is_ejected();
    case.succeeds(1);
    case.step(FAILED);
    assert_eq!(case.blame(), None);
}

#[test]
fn retry_after_says_how_long_within_bounds() {
    let check = |asked, expected| {
        let mut case = Case::new(POLICY);
        for _ in 0..5 {
            let retry_after = Some(Duration::from_secs(asked));
            case.step(Event::Failed { retry_after });
        }
        assert_eq!(case.is_ejected(), expected);
    };
    check(4, 4);
    check(0, 1);
    check(86_400, 300);
}

#[test]
fn what_ends_while_it_is_out_counts_for_nothing() {
    let mut case = Case::new(POLICY);
    for _ in 0..5 {
        case.step(FAILED);
    }
    case.step(Event::Ejected(Blame::InARow(5)));
    for _ in 0..100 {
        case.step(FAILED);
    }
    assert_eq!(case.passes(10), Some(Cause::Served));
    assert_eq!(case.blame(), None);
}

#[test]
fn checks_need_so_many_results_in_a_row_and_the_first_success_is_enough() {
    let policy = Policy {
        check: Some(Thresholds { rise: 2, fall: 3 }),
        outlier: None,
    };
    let mut case = Case::new(policy);
    let said = |case: &mut Case, results: &[u8]| {
        let mut told = String::new();
        for result in results {
            case.step(Event::Checked(*result == b'+'));
            told.push(match case.health.standing() {
                Standing::Healthy => 'h',
                Standing::Unproven => 'n',
                Standing::Unhealthy => 'u',
                Standing::Ejected | Standing::Refusing => '?',
            });
        }
        told
    };
    assert_eq!(said(&mut case, b"--+"), "nnh");
    assert_eq!(said(&mut case, b"--+--+---"), "hhhhhhhhu");
    assert_eq!(said(&mut case, b"+-+-++"), "uuuuuh");
    let mut never = Case::new(policy);
    assert!(never.health.is_changing());
    assert_eq!(said(&mut never, b"----+"), "nnuuh");
    assert!(!never.health.is_changing());
    case.policy.check = None;
    assert_eq!(said(&mut case, b"---"), "hhh", "checks are off");
    case.policy.check = policy.check;
    assert_eq!(said(&mut case, b"--"), "hh", "it had traffic before");
}

#[test]
fn one_that_refuses_is_out_until_it_takes_a_connection() {
    let mut case = Case::new(POLICY);
    assert_eq!(case.step(Event::Refused), Some(Cause::Refused));
    assert_eq!(case.step(Event::Refused), None);
    case.passes(1000);
    assert_eq!(case.health.standing(), Standing::Refusing);
    assert_eq!(case.step(Event::Reached), Some(Cause::Reached));
    assert_eq!(case.health.standing(), Standing::Healthy);
    case.step(FAILED);
    assert_eq!(case.blame(), Some(Blame::InARow(1)));
}

#[test]
fn nobody_is_blamed_where_that_is_off_and_whoever_is_out_returns() {
    let mut case = Case::new(POLICY);
    for _ in 0..5 {
        case.step(FAILED);
    }
    case.step(Event::Ejected(Blame::InARow(5)));
    case.policy.outlier = None;
    assert_eq!(case.step(Event::Ticked), Some(Cause::Served));
    for _ in 0..50 {
        case.step(FAILED);
    }
    assert_eq!(case.blame(), None);
    case.step(Event::Ticked);
    case.policy.outlier = POLICY.outlier;
    case.step(FAILED);
    assert_eq!(case.blame(), None, "what was before counts for nothing");
}

const SLOW: Policy = Policy {
    check: None,
    outlier: Some(Outlier {
        failures: 5,
        success_rate: 50,
        requests: 20,
        window: Duration::from_secs(10),
        ejection: Duration::from_secs(10),
        max_ejected: 50,
        slow: Some(Slow {
            factor: 3,
            least: Duration::from_millis(50),
            lasts: Duration::from_secs(10),
        }),
    }),
};

impl Case {
    /// A second with so many answers of so many milliseconds, while those of the middle one take 30.
    fn answers(&mut self, count: u32, millis: u64) {
        self.now += Duration::from_secs(1);
        let timings = Timings::default();
        for _ in 0..count {
            timings.note(Duration::from_millis(millis));
        }
        self.step(Event::Ticked);
        self.step(Event::Timed(timings.take()));
        let middle = Typical::of(Duration::from_millis(30));
        self.step(Event::Compared(Some(middle)));
    }

    /// Is slow until it is blamed; for how many seconds.
    fn is_slow(&mut self) -> u64 {
        (1..)
            .find(|_| {
                self.answers(20, 120);
                self.blame().is_some()
            })
            .unwrap()
    }
}

#[test]
fn being_slow_beside_others_is_blamed_when_it_lasts() {
    let mut case = Case::new(SLOW);
    assert_eq!(case.is_slow(), 11);
    assert_eq!(case.blame(), Some(Blame::Slow(40)));
    let cause = Cause::Blamed(Blame::Slow(40)).to_string();
    assert_eq!(cause, "answers that take 4.0 times as long as others");
    case.policy = POLICY;
    assert_eq!(case.blame(), None, "nobody asks for it any more");
    let mut pauses = Case::new(SLOW);
    for _ in 0..9 {
        pauses.answers(20, 120);
    }
    // What is typical of the last ten seconds follows.
    for _ in 0..10 {
        pauses.answers(20, 30);
    }
    for _ in 0..9 {
        pauses.answers(20, 120);
        assert_eq!(pauses.blame(), None);
    }
}

#[test]
fn few_answers_and_those_that_are_fast_enough_blame_nobody() {
    let check = |count, millis, expected: bool| {
        let mut case = Case::new(SLOW);
        for _ in 0..60 {
            case.answers(count, millis);
        }
        assert_eq!(case.blame().is_some(), expected, "{count} of {millis} ms");
    };
    check(20, 120, true);
    check(20, 60, false);
    check(1, 120, false);
    check(3, 120, true);
    let mut fast = SLOW;
    let least = Duration::from_millis(150);
    fast.outlier.as_mut().unwrap().slow.as_mut().unwrap().least = least;
    let mut case = Case::new(fast);
    for _ in 0..60 {
        case.answers(20, 120);
    }
    assert_eq!(case.blame(), None, "120 ms are no trouble there");
}

#[test]
fn one_that_stays_slow_is_ejected_for_longer_each_time() {
    let mut case = Case::new(SLOW);
    for expected in [10, 20, 30] {
        case.is_slow();
        // What it once asked for was about something else.
        let retry_after = Some(Duration::from_secs(3));
        case.step(Event::Failed { retry_after });
        case.succeeds(1);
        assert_eq!(case.is_ejected(), expected);
        assert_eq!(case.blame(), None, "it begins anew");
    }
}
