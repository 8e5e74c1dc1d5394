//! The health of an endpoint: one pure step, from what is known and what has happened to what is known now.
//!
//! Three things may take an endpoint out: its active checks fail, it refuses connections, or its exchanges failed so often, or
//! took so long, that it is ejected. Whoever knows the whole pool ([`super::pool::Pool`]) drives the step, since nobody is ejected
//! unless others are left, and writes what changed into the process log. Nothing here asks for the time.

mod change;
mod slowness;
mod window;

use std::time::{Duration, Instant};

pub use self::change::{Blame, Cause, Change};
use self::slowness::Slowness;
pub use self::slowness::{Answers, Timings, Typical};
use self::window::{Tally, Window};

/// The longest that an endpoint is ejected, however often it was.
pub const EJECTION_LIMIT: Duration = Duration::from_secs(300);

/// The shortest, whatever its `Retry-After` says.
const EJECTION_LEAST: Duration = Duration::from_secs(1);

/// What is held against the endpoints of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Results of active checks; absent: there are none.
    pub check: Option<Thresholds>,
    /// Exchanges that fail; absent: nobody is ejected.
    pub outlier: Option<Outlier>,
}

/// How many results of active checks in a row count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Successes until an unhealthy endpoint is healthy.
    pub rise: u32,
    /// Failures until a healthy one is unhealthy.
    pub fall: u32,
}

/// When an endpoint is ejected for the exchanges that failed there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outlier {
    /// So many failures in a row.
    pub failures: u32,
    /// Fewer successes than so many of a hundred exchanges.
    pub success_rate: u32,
    /// With fewer exchanges in the window the rate says nothing.
    pub requests: u32,
    /// The time in which the rate is taken.
    pub window: Duration,
    /// The first ejection; the next one is twice as long, the third three times.
    pub ejection: Duration,
    /// At most so many of a hundred endpoints of a pool are ejected.
    pub max_ejected: u32,
    /// When it is ejected for being slow; absent: never.
    pub slow: Option<Slow>,
}

/// When an endpoint is ejected for answers that take longer than those of the others. With fewer answers in the window of
/// [`Outlier`] than that asks for nothing is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slow {
    /// So many times as long as those of the middle one.
    pub factor: u32,
    /// Answers that take less are not slow, whatever the others do.
    pub least: Duration,
    /// For so long.
    pub lasts: Duration,
}

impl Policy {
    /// Whether endpoints are ejected for being slow, so that their answers are to be timed.
    pub fn ejects_slow(&self) -> bool {
        self.outlier.is_some_and(|outlier| outlier.slow.is_some())
    }
}

/// What may be said of an endpoint, from the best to the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It takes traffic.
    Healthy,
    /// Its exchanges failed: it has a rest.
    Ejected,
    /// Its active checks fail.
    Unhealthy,
    /// It is new, and no active check has passed yet.
    Unproven,
    /// It refuses connections.
    Refusing,
}

impl Standing {
    /// All of them, the best first.
    pub const ALL: [Self; 5] = [
        Self::Healthy,
        Self::Ejected,
        Self::Unhealthy,
        Self::Unproven,
        Self::Refusing,
    ];

    /// The word for log and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Ejected => "ejected",
            Self::Unhealthy => "unhealthy",
            Self::Unproven => "unproven",
            Self::Refusing => "refusing",
        }
    }
}

/// What has happened at an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An exchange failed as it does behind a gateway: no usable answer, or 502, 503, 504.
    Failed {
        /// When the endpoint wants to be asked again, if it said so.
        retry_after: Option<Duration>,
    },
    /// It refused a connection, or there is no way to it.
    Refused,
    /// It took a connection.
    Reached,
    /// An active check ended well, or not.
    Checked(bool),
    /// So many answers of it took so long.
    Timed(Answers),
    /// The answers of the middle one of its pool take so long; absent: too little is known.
    Compared(Option<Typical>),
    /// It is to be ejected for what it is [blamed](Health::blame) for.
    Ejected(Blame),
    /// No other endpoint is left: its ejection ends.
    Pardoned,
    /// Time has passed.
    Ticked,
}

/// What is known of an endpoint's health.
#[derive(Clone, Debug)]
pub struct Health {
    check: Option<Check>,
    is_refusing: bool,
    ejection: Option<Instant>,
    /// Ejections that still count for the length of the next one.
    ejections: u32,
    /// From when on it has been good: it makes ejections forgotten.
    calm_since: Option<Instant>,
    /// Failures in a row.
    streak: u32,
    /// It came back and has not answered well since: one failure is enough.
    is_on_trial: bool,
    retry_after: Option<Duration>,
    window: Window,
    slowness: Slowness,
}

/// What active checks say.
#[derive(Clone, Copy, Debug)]
struct Check {
    verdict: Verdict,
    /// Results in a row that say otherwise.
    run: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// There were few yet, and none passed.
    Unproven,
    /// There were enough, and none passed.
    NeverPassed,
    Passing,
    Failing,
}

impl Health {
    /// The health of an endpoint that nothing is known of. If it `is_checked`, it takes no traffic before the first
    /// success.
    pub fn new(is_checked: bool) -> Self {
        let unproven = Check {
            verdict: Verdict::Unproven,
            run: 0,
        };
        Self {
            check: is_checked.then_some(unproven),
            is_refusing: false,
            ejection: None,
            ejections: 0,
            calm_since: None,
            streak: 0,
            is_on_trial: false,
            retry_after: None,
            window: Window::default(),
            slowness: Slowness::default(),
        }
    }

    /// What may be said of it.
    pub fn standing(&self) -> Standing {
        match self.check.map(|check| check.verdict) {
            Some(Verdict::Unproven) => Standing::Unproven,
            Some(Verdict::NeverPassed | Verdict::Failing) => Standing::Unhealthy,
            Some(Verdict::Passing) | None if self.is_refusing => Standing::Refusing,
            Some(Verdict::Passing) | None if self.ejection.is_some() => Standing::Ejected,
            Some(Verdict::Passing) | None => Standing::Healthy,
        }
    }

    /// Whether the next active check may change its standing, so that it is wanted soon.
    pub fn is_changing(&self) -> bool {
        self.check
            .is_some_and(|check| check.run > 0 || check.verdict == Verdict::Unproven)
    }

    /// What it deserves to be ejected for now. Nothing, while it takes no traffic.
    pub fn blame(&self, policy: &Policy) -> Option<Blame> {
        let outlier = policy.outlier?;
        if self.standing() != Standing::Healthy {
            return None;
        }
        if self.streak >= outlier.failures || (self.is_on_trial && self.streak > 0) {
            return Some(Blame::InARow(self.streak));
        }
        let Tally { good, bad, .. } = self.window.sum();
        let total = good.saturating_add(bad);
        if bad > 0 && total >= outlier.requests {
            let percent = u64::from(good) * 100 / u64::from(total).max(1);
            let percent = u32::try_from(percent).unwrap_or(u32::MAX);
            if percent < outlier.success_rate {
                return Some(Blame::Rate(percent));
            }
        }
        outlier.slow.and(self.slowness.lasting()).map(Blame::Slow)
    }

    /// How long its answers take, if enough of them are known. Nothing, while it takes no traffic.
    pub fn typical(&self, outlier: &Outlier) -> Option<Typical> {
        if self.standing() != Standing::Healthy {
            return None;
        }
        self.window.sum().timed.typical(outlier.requests)
    }

    /// Takes in `event`, and before it so many exchanges that ended well since the last step.
    pub fn step(
        &mut self,
        event: Event,
        successes: u32,
        policy: &Policy,
        now: Instant,
    ) -> Option<Change> {
        let from = self.standing();
        if let Some(outlier) = policy.outlier {
            self.window.move_on(now, outlier.window);
        }
        if successes > 0 && self.ejection.is_none() {
            self.streak = 0;
            self.is_on_trial = false;
            let newest = self.window.newest();
            newest.good = newest.good.saturating_add(successes);
        }
        let mut cause = self.follow(policy);
        if let Some(better) = self.take(event, policy, now) {
            cause = Some(better);
        }
        let to = self.standing();
        let cause = cause.filter(|_| to != from)?;
        Some(Change { from, to, cause })
    }

    /// Does what follows from a policy that may be another than before.
    fn follow(&mut self, policy: &Policy) -> Option<Cause> {
        match (policy.check, self.check) {
            (None, Some(_)) => {
                self.check = None;
                Some(Cause::Unchecked)
            }
            (Some(_), None) => {
                // It has taken traffic until now, and goes on until a check says otherwise.
                self.check = Some(Check {
                    verdict: Verdict::Passing,
                    run: 0,
                });
                None
            }
            (Some(_), Some(_)) | (None, None) => None,
        }
    }

    fn take(&mut self, event: Event, policy: &Policy, now: Instant) -> Option<Cause> {
        match event {
            Event::Failed { retry_after } => {
                if self.ejection.is_none() {
                    self.streak = self.streak.saturating_add(1);
                    let newest = self.window.newest();
                    newest.bad = newest.bad.saturating_add(1);
                    self.retry_after = retry_after;
                }
                None
            }
            Event::Refused => {
                self.is_refusing = true;
                self.give_way(now);
                Some(Cause::Refused)
            }
            Event::Reached => {
                if std::mem::take(&mut self.is_refusing) {
                    self.is_on_trial = true;
                    self.streak = 0;
                }
                Some(Cause::Reached)
            }
            Event::Checked(is_good) => {
                let cause = self.checked(is_good, policy.check?);
                if cause == Some(Cause::ChecksFailed) {
                    self.give_way(now);
                }
                cause
            }
            Event::Timed(answers) => {
                if self.ejection.is_none() {
                    let newest = self.window.newest();
                    newest.timed = newest.timed.and(answers);
                }
                None
            }
            Event::Compared(middle) => {
                self.compare(middle, policy.outlier?, now);
                None
            }
            Event::Ejected(blame) => {
                if let Blame::Slow(_) = blame {
                    // What it asked for was about something else.
                    self.retry_after = None;
                }
                self.eject(policy.outlier?, now);
                Some(Cause::Blamed(blame))
            }
            Event::Pardoned => {
                self.come_back(now);
                Some(Cause::Pardoned)
            }
            Event::Ticked => {
                match policy.outlier {
                    Some(outlier) => {
                        if self.ejection.is_some_and(|until| until <= now) {
                            self.come_back(now);
                        }
                        self.forget(outlier.ejection, now);
                    }
                    None => self.clear(),
                }
                Some(Cause::Served)
            }
        }
    }

    fn checked(&mut self, is_good: bool, thresholds: Thresholds) -> Option<Cause> {
        let Thresholds { rise, fall } = thresholds;
        let check = self.check.as_mut()?;
        let (enough, then) = match (check.verdict, is_good) {
            (Verdict::Unproven | Verdict::NeverPassed, true) => (1, Verdict::Passing),
            (Verdict::Unproven, false) => (fall, Verdict::NeverPassed),
            (Verdict::Failing, true) => (rise, Verdict::Passing),
            (Verdict::Passing, false) => (fall, Verdict::Failing),
            (Verdict::Passing, true) | (Verdict::Failing | Verdict::NeverPassed, false) => {
                check.run = 0;
                return None;
            }
        };
        check.run = check.run.saturating_add(1);
        if check.run < enough {
            return None;
        }
        *check = Check {
            verdict: then,
            run: 0,
        };
        Some(match is_good {
            true => Cause::ChecksPassed,
            false => Cause::ChecksFailed,
        })
    }

    fn compare(&mut self, middle: Option<Typical>, outlier: Outlier, now: Instant) {
        let own = self.typical(&outlier);
        let Some(slow) = outlier.slow else { return };
        let is_slow = self.slowness.compare(own, middle, &slow, now);
        if is_slow && self.calm_since.is_some() {
            // Good times begin when that is over.
            self.calm_since = Some(now);
        }
    }

    fn eject(&mut self, outlier: Outlier, now: Instant) {
        self.ejections = self.ejections.saturating_add(1);
        let grown = outlier.ejection.saturating_mul(self.ejections);
        let most = EJECTION_LIMIT.max(outlier.ejection);
        let length = match self.retry_after.take() {
            Some(asked) => asked.clamp(EJECTION_LEAST, most),
            None => grown.min(most),
        };
        self.ejection = Some(now + length);
        self.calm_since = None;
    }

    /// Ends an ejection for what is worse: beneath it, it would be forgotten in the count of those that are ejected.
    fn give_way(&mut self, now: Instant) {
        self.come_back(now);
        self.is_on_trial = true;
    }

    fn come_back(&mut self, now: Instant) {
        if self.ejection.take().is_some() {
            self.is_on_trial = true;
            self.streak = 0;
            self.window = Window::default();
            self.slowness = Slowness::default();
            self.calm_since = Some(now);
        }
    }

    /// Forgets what exchanges have shown: nobody is ejected for it.
    fn clear(&mut self) {
        self.ejection = None;
        self.ejections = 0;
        self.calm_since = None;
        self.streak = 0;
        self.is_on_trial = false;
        self.window = Window::default();
        self.slowness = Slowness::default();
    }

    /// Forgets one ejection for each time that it has been good for as long as the first one lasts.
    fn forget(&mut self, ejection: Duration, now: Instant) {
        let Some(since) = self.calm_since else { return };
        if self.ejections > 0 && now.saturating_duration_since(since) >= ejection {
            self.ejections -= 1;
            self.calm_since = Some(now);
        }
    }
}

#[cfg(test)]
mod tests;
