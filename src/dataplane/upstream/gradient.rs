//! How many exchanges an endpoint does best with at a time, found by how long its answers take.
//!
//! Up to some number of exchanges answers take what they take; beyond it each only makes the others wait. The limit follows
//! the gradient between the two: what answers took lately, beside what they take when the endpoint is not crowded, its base.
//! While they are alike the limit grows by its square root; when answers take more than `TOLERANCE` allows it shrinks in
//! proportion. What an endpoint takes when it is not crowded is seen when it is not; where it always is, the limit is lowered
//! to a quarter now and then for a moment, to look.
//!
//! Time is an argument, and nothing here waits.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Answers may take so many times the base before the limit shrinks: less would take noise for a queue.
const TOLERANCE: f64 = 1.5;

/// However slow answers have become, the limit is not more than halved at a time.
const STEEPEST: f64 = 0.5;

/// How much of the way to the limit that a window asks for is gone.
const SMOOTHING: f64 = 0.3;

/// A window of observations is at least so long, and as long as an answer takes: one that is shorter would judge a limit by
/// exchanges that began under another.
const WINDOW: Duration = Duration::from_millis(100);

/// It has so many observations, or fewer once it is [`WINDOW_LONGEST`] old.
const OBSERVATIONS: u32 = 50;
const OBSERVATIONS_LEAST: u32 = 10;
const WINDOW_LONGEST: Duration = Duration::from_secs(1);

/// How fast the base falls and rises with a window. Up is slow: a queue must not become what is usual.
const FALLS: f64 = 0.05;
const RISES: f64 = 0.0005;

/// The same when the endpoint was not crowded.
const FOLLOWS: f64 = 0.1;

/// The time between two looks at an endpoint that is always crowded, and before the first.
const LOOK_EVERY: Duration = Duration::from_secs(30);
const LOOK_FIRST: Duration = Duration::from_secs(2);

/// How many times as long as an answer takes a look lasts: of what began with it the slow ones must have ended too.
const LOOK_LENGTH: f64 = 4.0;

/// The part of the limit that a look leaves.
const LOOK_PART: f64 = 0.25;

/// More failures than this part of a window are a sign of too much, and what the limit is then multiplied by.
const FAILURES: f64 = 0.1;
const BACK_OFF: f64 = 0.9;

/// The bounds of a limit that adapts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// It is never lower.
    pub min: u32,
    /// It is never higher.
    pub max: u32,
    /// Where it begins.
    pub initial: u32,
}

/// The limit of one endpoint, shared by all workers.
#[derive(Debug, Default)]
pub struct Adaptive {
    /// 0 before the first window.
    limit: AtomicU32,
    gradient: Mutex<Option<Gradient>>,
}

impl Adaptive {
    /// How many exchanges the endpoint takes now.
    pub fn limit(&self, plan: &Plan) -> usize {
        let limit = match self.limit.load(Ordering::Relaxed) {
            0 => plan.initial,
            limit => limit.clamp(plan.min, plan.max),
        };
        limit as usize
    }

    /// Takes in how long an answer took; `None` for a failure. So many exchanges were in flight with it.
    ///
    /// Waits for nobody: an observation that meets another one is left out.
    pub fn observe(&self, took: Option<Duration>, in_flight: usize, plan: &Plan, now: Instant) {
        let Ok(mut gradient) = self.gradient.try_lock() else {
            return;
        };
        let gradient = gradient.get_or_insert_with(|| Gradient::new(plan, now));
        if let Some(limit) = gradient.observe(took, in_flight, plan, now) {
            self.limit.store(limit, Ordering::Relaxed);
        }
    }
}

/// What is observed between two decisions.
#[derive(Debug)]
struct Window {
    began: Instant,
    answers: u32,
    failures: u32,
    /// What the answers took in all, in seconds.
    sum: f64,
    /// Exchanges in flight at a time.
    most: usize,
}

impl Window {
    fn new(began: Instant) -> Self {
        Self {
            began,
            answers: 0,
            failures: 0,
            sum: 0.0,
            most: 0,
        }
    }

    /// Whether it says enough: it has lasted for so many seconds, and those that were `outgoing` when it began have ended.
    fn is_full(&self, length: f64, outgoing: u32, now: Instant) -> bool {
        let age = now.saturating_duration_since(self.began);
        let observations = self.answers + self.failures;
        let least = match age >= WINDOW_LONGEST {
            true => OBSERVATIONS_LEAST,
            false => OBSERVATIONS,
        };
        let length = length.min(WINDOW_LONGEST.as_secs_f64());
        observations >= least.max(outgoing) && age >= WINDOW && age.as_secs_f64() >= length
    }

    /// What an answer took, if there was one.
    fn mean(&self) -> Option<f64> {
        (self.answers > 0).then(|| self.sum / f64::from(self.answers))
    }

    fn failure_rate(&self) -> f64 {
        f64::from(self.failures) / f64::from((self.answers + self.failures).max(1))
    }
}

/// A look at what answers take when the endpoint is not crowded.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Look {
    /// When the next one is due.
    Due(Instant),
    /// The limit is low; exchanges that began before still end. Afterwards it is this again.
    Begun(f64),
    /// What ends now began under the low limit.
    Seeing(f64),
}

#[derive(Debug)]
struct Gradient {
    limit: f64,
    /// What an answer takes when the endpoint is not crowded, in seconds.
    base: Option<f64>,
    window: Window,
    look: Look,
}

impl Gradient {
    fn new(plan: &Plan, now: Instant) -> Self {
        Self {
            limit: f64::from(plan.initial),
            base: None,
            window: Window::new(now),
            look: Look::Due(now + LOOK_FIRST),
        }
    }

    /// Takes in an observation. A new limit, where it completes a window.
    fn observe(
        &mut self,
        took: Option<Duration>,
        in_flight: usize,
        plan: &Plan,
        now: Instant,
    ) -> Option<u32> {
        let window = &mut self.window;
        if let (Look::Seeing(_), Some(took)) = (self.look, took)
            && took > now.saturating_duration_since(window.began)
        {
            // It began in a crowd.
            return None;
        }
        window.most = window.most.max(in_flight);
        match took {
            Some(took) => {
                window.answers += 1;
                window.sum += took.as_secs_f64();
            }
            None => window.failures += 1,
        }
        let base = self.base.unwrap_or_default();
        let (length, outgoing) = match self.look {
            Look::Due(_) => (base, 0),
            Look::Begun(limit) => (base, limit as u32),
            Look::Seeing(_) => (base * LOOK_LENGTH, 0),
        };
        if !window.is_full(length, outgoing, now) {
            return None;
        }
        let window = std::mem::replace(window, Window::new(now));
        let limit = self.decide(&window, now);
        self.limit = limit.clamp(f64::from(plan.min), f64::from(plan.max));
        let published = match self.look {
            Look::Due(_) => self.limit,
            Look::Begun(_) | Look::Seeing(_) => (self.limit * LOOK_PART).max(f64::from(plan.min)),
        };
        Some(published as u32)
    }

    /// The limit that follows from a window.
    fn decide(&mut self, window: &Window, now: Instant) -> f64 {
        let Some(took) = window.mean() else {
            return self.limit * BACK_OFF;
        };
        match self.look {
            Look::Begun(limit) => {
                self.look = Look::Seeing(limit);
                return self.limit;
            }
            Look::Seeing(limit) => {
                self.base = Some(took);
                self.look = Look::Due(now + LOOK_EVERY);
                return limit;
            }
            Look::Due(_) => {}
        }
        let is_crowded = 2 * window.most as u64 >= self.limit as u64;
        let base = self.base.map_or(took, |base| {
            let rate = match (is_crowded, took < base) {
                (false, _) => FOLLOWS,
                (true, true) => FALLS,
                (true, false) => RISES,
            };
            base + rate * (took - base)
        });
        self.base = Some(base);
        if !is_crowded {
            self.look = Look::Due(now + LOOK_EVERY);
        } else if matches!(self.look, Look::Due(at) if at <= now) {
            self.look = Look::Begun(self.limit);
            return self.limit;
        }
        if window.failure_rate() > FAILURES {
            return self.limit * BACK_OFF;
        }
        let gradient = (TOLERANCE * base / took.max(f64::MIN_POSITIVE)).clamp(STEEPEST, 1.0);
        let next = self.limit * gradient + self.limit.sqrt();
        if next > self.limit && !is_crowded {
            // Nobody has tried whether it would hold.
            return self.limit;
        }
        self.limit + SMOOTHING * (next - self.limit)
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;
    use std::collections::BinaryHeap;

    use super::*;
    use crate::base::clock;

    const PLAN: Plan = Plan {
        min: 4,
        max: 1000,
        initial: 20,
    };

    /// A server that does so many exchanges at a time, each of which takes so long; more of them share what there is.
    #[derive(Clone, Copy)]
    struct Server {
        capacity: f64,
        service: f64,
        failures: u64,
    }

    /// Clients that ask again as soon as they are answered, and one endpoint, in virtual time.
    struct World {
        adaptive: Adaptive,
        start: Instant,
        now: f64,
        running: BinaryHeap<Reverse<(u64, u64)>>,
        state: u64,
        done: u64,
        most: usize,
    }

    impl World {
        fn new(seed: u64) -> Self {
            Self {
                adaptive: Adaptive::default(),
                start: clock::now(),
                now: 0.0,
                running: BinaryHeap::new(),
                state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
                done: 0,
                most: 0,
            }
        }

        /// A number between 0 and 1.
        fn chance(&mut self) -> f64 {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            (self.state >> 11) as f64 / (1_u64 << 53) as f64
        }

        fn limit(&self) -> usize {
            self.adaptive.limit(&PLAN)
        }

        /// Lets `clients` ask for so many seconds; the exchanges that were done in a second.
        fn run(&mut self, server: Server, clients: usize, seconds: f64) -> f64 {
            let (end, before) = (self.now + seconds, self.done);
            self.most = 0;
            while self.now < end {
                while self.running.len() < clients.min(self.limit()) {
                    let load = (self.running.len() + 1) as f64 / server.capacity;
                    // Services take times like those of a queue's textbook: most are short, some are long.
                    let length = 0.5 - 0.5 * (1.0 - self.chance()).ln();
                    let took = server.service * load.max(1.0) * length;
                    let ends = ((self.now + took) * 1e9) as u64;
                    self.running.push(Reverse((ends, (took * 1e9) as u64)));
                    self.most = self.most.max(self.running.len());
                }
                let in_flight = self.running.len();
                let Reverse((ends, took)) = self.running.pop().unwrap();
                self.now = ends as f64 / 1e9;
                self.done += 1;
                let now = self.start + Duration::from_nanos(ends);
                let fails = self.chance() * 100.0 < server.failures as f64;
                let took = (!fails).then(|| Duration::from_nanos(took));
                self.adaptive.observe(took, in_flight, &PLAN, now);
            }
            (self.done - before) as f64 / seconds
        }
    }

    fn server(capacity: f64, millis: f64) -> Server {
        Server {
            capacity,
            service: millis / 1000.0,
            failures: 0,
        }
    }

    #[test]
    fn the_limit_comes_near_what_the_endpoint_can_do_at_a_time() {
        for seed in 1..=4 {
            for (capacity, millis) in [(5.0, 20.0), (20.0, 5.0), (100.0, 10.0), (300.0, 50.0)] {
                let mut world = World::new(seed);
                let server = server(capacity, millis);
                world.run(server, 2000, 60.0);
                let done = world.run(server, 2000, 30.0);
                let place = format!("seed {seed}, {capacity} at a time: {}", world.limit());
                assert!(world.limit() as f64 >= 0.8 * capacity, "{place}");
                assert!(world.most as f64 <= 2.5 * capacity + 5.0, "{place}");
                let best = capacity * 1000.0 / millis;
                assert!(done > 0.85 * best, "{place}: {done} of {best} a second");
            }
        }
    }

    #[test]
    fn an_endpoint_that_slows_down_is_given_less_and_one_that_recovers_more() {
        for seed in 1..=4 {
            let mut world = World::new(seed);
            let fast = server(40.0, 10.0);
            world.run(fast, 2000, 40.0);
            let before = world.limit();
            world.run(server(40.0, 80.0), 2000, 5.0);
            let slow = world.limit();
            assert!(slow * 2 < before, "seed {seed}: {before} then {slow}");
            world.run(fast, 2000, 15.0);
            let after = world.limit();
            assert!(after >= 35, "seed {seed}: {before}, {slow}, {after}");
        }
    }

    #[test]
    fn one_that_stays_slow_is_given_what_it_can_do() {
        for seed in 1..=4 {
            let mut world = World::new(seed);
            world.run(server(40.0, 10.0), 2000, 40.0);
            world.run(server(40.0, 40.0), 2000, 90.0);
            assert!(world.limit() >= 32, "seed {seed}: {}", world.limit());
        }
    }

    #[test]
    fn a_light_and_steady_load_leaves_the_limit_alone() {
        for seed in 1..=4 {
            let mut world = World::new(seed);
            let done = world.run(server(50.0, 10.0), 8, 100.0);
            assert_eq!(world.limit(), 20, "seed {seed}");
            assert!(done > 0.9 * 800.0, "seed {seed}: {done}");
        }
    }

    #[test]
    fn a_steady_load_never_brings_it_to_the_least() {
        for seed in 1..=4 {
            let mut world = World::new(seed);
            let server = server(60.0, 10.0);
            world.run(server, 50, 20.0);
            for _ in 0..60 {
                let done = world.run(server, 50, 3.0);
                assert!(
                    done > 0.6 * 5000.0,
                    "seed {seed}: {done}, {}",
                    world.limit()
                );
            }
        }
    }

    #[test]
    fn failures_are_a_sign_of_too_much() {
        let mut world = World::new(3);
        let good = server(40.0, 10.0);
        world.run(good, 2000, 20.0);
        let before = world.limit();
        let failing = Server {
            failures: 60,
            ..good
        };
        world.run(failing, 2000, 5.0);
        assert!(
            world.limit() * 3 < before,
            "{before} then {}",
            world.limit()
        );
    }

    #[test]
    fn the_limit_stays_within_its_bounds() {
        let plan = Plan {
            min: 7,
            max: 9,
            initial: 8,
        };
        let adaptive = Adaptive::default();
        let mut now = clock::now();
        for turn in 0..100_000_u64 {
            now += Duration::from_millis(turn % 7);
            let took = (turn % 5 > 0).then(|| Duration::from_micros(turn * turn % 90_000));
            adaptive.observe(took, (turn % 11) as usize, &plan, now);
            assert!((7..=9).contains(&adaptive.limit(&plan)));
        }
    }
}
