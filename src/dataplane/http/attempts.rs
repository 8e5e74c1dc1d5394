//! The attempts of an exchange: how long each may take, and what comes after one, from all that was tried and what is left
//! of retries, of the pool's budget and of the time.
//!
//! Which failures may be repeated is said by [`Fault::repeat`](crate::base::fault::Fault::repeat) and [`retry`].

use std::cell::Cell;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;

use crate::base::clock;
use crate::base::deadline::Deadline;
use crate::base::fault::{Fault, Side};
use crate::dataplane::http::body::{Closing, Intake, RequestBody};
use crate::dataplane::http::forward::{self, Failed, Outbound, Passage, Progress};
use crate::dataplane::http::hedge::Outcome;
use crate::dataplane::http::observe;
use crate::dataplane::http::retry::{self, Remains};
use crate::dataplane::http::waiting::{Successors, Waiting};
use crate::dataplane::upstream::admission::Entered;
use crate::dataplane::upstream::budget::Charge;
use crate::dataplane::upstream::client::{Answered, Wants};
use crate::dataplane::upstream::endpoint::InFlight;
use crate::dataplane::upstream::pick::Asker;
use crate::dataplane::upstream::pool::{Member, Pool};
use crate::dataplane::upstream::retry::Plan;

/// Times that a request is sent again because an idle connection turned out to be dead. The second goes out on a
/// fresh connection, so more would tell nothing new.
const STALE_REPEATS: u32 = 1;

/// Endpoints that may refuse a request's connection without a cost to its retries, before it waits for others.
const REFUSALS: u32 = 16;

/// The attempts of an exchange, and what it has left for them.
#[derive(Debug)]
pub struct Attempts<'a> {
    pub(super) passage: Passage<'a>,
    /// The pool that endpoints are picked from: that of the route, or one that took its place while the exchange waited.
    pub pool: &'a Pool,
    pub(super) successors: &'a Successors,
    pub(super) plan: &'a Plan,
    /// What picks have to know of it.
    pub asker: Asker,
    pub(super) wants: Wants,
    started: Instant,
    pub(super) left: u32,
    stale: u32,
    refusals: u32,
    /// Times that the request was sent again.
    repeats: u32,
    /// What the attempt under way took from the budget.
    charge: Option<Charge>,
    /// Where it goes after an attempt that took too long.
    next: Option<Next<'a>>,
    /// There is nowhere to go after an attempt that takes too long.
    is_last: bool,
    pub(super) waiting: Waiting,
}

/// What comes after an attempt.
#[derive(Clone, Copy, Debug)]
pub enum Next<'a> {
    /// An attempt at an endpoint, at once.
    At(&'a Member),
    /// The same after a pause.
    Later(Duration, &'a Member),
    /// After a pause, the queue of the pool.
    Queue(Duration),
}

impl<'a> Next<'a> {
    /// An attempt behind a pause.
    fn behind(pause: Duration, member: &'a Member) -> Self {
        match pause.is_zero() {
            true => Self::At(member),
            false => Self::Later(pause, member),
        }
    }
}

impl<'a> Attempts<'a> {
    /// Before the first attempt.
    pub fn new(
        passage: Passage<'a>,
        (pool, successors): (&'a Pool, &'a Successors),
        asker: Asker,
        upgrade: bool,
        closing: &Closing,
    ) -> Self {
        let limits = &passage.snapshot.limits;
        let plan = &*passage.route.retry;
        Self {
            passage,
            pool,
            successors,
            plan,
            asker,
            wants: Wants {
                repeatable: false,
                fresh: false,
                upgrade,
                idle_limit: limits.idle_connections,
                connections: None,
                header_bytes: limits.response_header_bytes,
            },
            started: closing.record.started,
            left: plan.attempts,
            stale: STALE_REPEATS,
            refusals: REFUSALS,
            repeats: 0,
            charge: None,
            next: None,
            is_last: false,
            waiting: Waiting::default(),
        }
    }

    /// Makes an attempt that begins at `began`.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn make(
        &mut self,
        (member, in_flight): Entered<'a>,
        began: Instant,
        outbound: &mut Outbound,
        closing: &mut Closing,
    ) -> Outcome {
        self.begin(member, in_flight, outbound, closing);
        let Closing {
            record, deadline, ..
        } = closing;
        let intake = outbound.intake.clone();
        let progress = Progress {
            connect: Cell::from_mut(&mut record.connect),
            is_sending: Cell::new(false),
        };
        let (passage, wants) = (self.passage, self.wants);
        let place = (self.pool, &member.endpoint);
        let attempt = forward::attempt(passage, place, outbound, wants, &progress);
        let attempt = pin!(attempt);
        let intake = intake.as_deref();
        let made = self.in_time(member, began, intake, deadline, &progress, attempt);
        let outcome = made.await?;
        if outcome.is_ok() {
            let now = clock::now();
            record.first_byte = Some(now.saturating_duration_since(record.started));
            record.ended = Some(now);
        }
        outcome
    }

    /// Takes note of an attempt that is about to be made.
    pub(super) fn begin(
        &mut self,
        member: &Member,
        in_flight: InFlight,
        outbound: &mut Outbound,
        closing: &mut Closing,
    ) {
        outbound.rewind();
        self.wants.repeatable = self.is_repeatable(outbound);
        self.wants.connections = member.bounds.connections;
        closing.in_flight = Some(in_flight);
        closing.record.endpoint = Some(Arc::clone(&member.endpoint.label));
        closing.record.attempts = closing.record.attempts.saturating_add(1);
    }

    /// Waits for an attempt as long as it may take.
    ///
    /// # Errors
    /// It took too long.
    pub(super) async fn in_time<F: Future>(
        &mut self,
        member: &'a Member,
        began: Instant,
        intake: Option<&Intake>,
        deadline: &mut Option<Deadline>,
        progress: &Progress<'_>,
        mut attempt: Pin<&mut F>,
    ) -> Result<F::Output, Failed> {
        loop {
            let (until, is_all) = self.until(began, intake);
            let deadlines = &self.passage.engine.deadlines;
            let made = deadlines.within_on(deadline, until, attempt.as_mut()).await;
            if let Some(made) = made {
                return Ok(made);
            }
            if self.until(began, intake).0 > until {
                // The client goes on sending its body.
                continue;
            }
            if !is_all {
                self.next = self.elsewhere(member, intake);
                self.is_last = self.next.is_none();
                if self.is_last {
                    continue;
                }
            }
            return Err(match progress.is_sending.get() {
                true => Failed {
                    unsent: false,
                    ..Failed::unsent(Fault::ResponseTimeout)
                },
                false => Failed::unsent(Fault::ConnectTimeout),
            });
        }
    }

    /// What comes after an answer; `None`: it is for the client.
    pub fn after_answer(
        &mut self,
        member: &'a Member,
        began: Instant,
        answered: &Answered<RequestBody>,
        outbound: &Outbound,
    ) -> Option<Next<'a>> {
        let status = answered.head.status;
        let next = self.next.take();
        if self.plan.hedge.is_some() {
            let now = clock::now();
            let took = now.saturating_duration_since(began);
            self.pool.pace().observe(took, now);
        }
        observe::answer(self.pool, &member.endpoint, &answered.head);
        if self.pool.wants_latency() {
            learn(self.pool, member, began, outbound, Some(status));
        }
        if !self.plan.statuses.has(status) {
            if let Some(charge) = self.charge.take() {
                self.pool.refund(charge);
            }
            return None;
        }
        if self.waiting.has_ended.is_some() || !self.is_repeatable(outbound) {
            return None;
        }
        next.or_else(|| self.elsewhere(member, outbound.intake.as_deref()))
    }

    /// What comes after an attempt that got no answer.
    ///
    /// # Errors
    /// The fault of the exchange, if nothing does.
    pub fn after_failure(
        &mut self,
        member: &'a Member,
        began: Instant,
        failed: &Failed,
        outbound: &Outbound,
    ) -> Result<Next<'a>, Fault> {
        let last = failed.fault;
        observe::failure(self.pool, &member.endpoint, last, failed.reused);
        let remains = Remains {
            unsent: failed.unsent,
            repeatable: self.is_repeatable(outbound),
        };
        let may_repeat = retry::may_repeat(last, remains);
        let is_stale = failed.reused && (failed.unsent || !failed.is_alone);
        self.wants.fresh = may_repeat && is_stale && self.stale > 0;
        if self.wants.fresh {
            // The endpoint is not to blame: its idle connection had ended. It costs the budget nothing, since there is no
            // such connection without an answer before: where all fail there are none.
            self.stale -= 1;
            return Ok(Next::At(member));
        }
        if self.pool.wants_latency() && last.side() == Side::Upstream {
            learn(self.pool, member, began, outbound, None);
        }
        if let Some(next) = self.next.take() {
            return Ok(next);
        }
        let intake = outbound.intake.as_deref();
        if !may_repeat || clock::coarse() >= self.ends(intake) {
            return Err(last);
        }
        if let Some(fault) = self.waiting.has_ended {
            return Err(if failed.unsent { fault } else { last });
        }
        let is_refused = last == Fault::ConnectFailed && self.plan.attempts > 0;
        // Nothing was sent, and nobody else meets it there: it is passed over from now on, and costs nothing. In panic it is not.
        let is_free = is_refused && !self.pool.is_in_panic();
        if is_free && self.refusals == 0 {
            self.asker = self.asker.afresh();
            return Ok(Next::Queue(Duration::ZERO));
        }
        if is_free {
            self.refusals -= 1;
        } else if self.left == 0 {
            return Err(last);
        }
        self.asker.pass_over(member.endpoint.id);
        let next = if let Some(next) = self.pool.pick(&self.asker) {
            Some(next)
        } else if let Some(same) = self.pool.pick(&self.asker.afresh()) {
            // All others were tried. One that broke off may serve the next connection; one that was slow will not.
            if !matches!(last, Fault::ResponseMissing | Fault::ConnectionLost) {
                return Err(last);
            }
            Some(same)
        } else {
            self.asker = self.asker.afresh();
            None
        };
        let pause = match failed.unsent {
            true => Duration::ZERO,
            false => self.pause(intake).ok_or(last)?,
        };
        if !is_free && !self.pays() {
            return Err(last);
        }
        Ok(match next {
            Some(next) => Next::behind(pause, next),
            None => Next::Queue(pause),
        })
    }

    /// Goes there; gives the endpoint of the next attempt. Where that has become full meanwhile, its pool's queue is next.
    ///
    /// # Errors
    /// Those of [`wait`](Self::wait).
    pub async fn go(
        &mut self,
        next: Next<'a>,
        outbound: &Outbound,
        closing: &mut Closing,
    ) -> Result<Entered<'a>, Fault> {
        let (pause, member) = match next {
            Next::At(member) => (Duration::ZERO, Some(member)),
            Next::Later(pause, member) => (pause, Some(member)),
            Next::Queue(pause) => (pause, None),
        };
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        if let Some(member) = member
            && let Some(in_flight) = self.pool.enter_at(member)
        {
            return Ok((member, in_flight));
        }
        self.wait(outbound, closing).await
    }

    /// Another endpoint, for a request that was sent, paid for.
    fn elsewhere(&mut self, member: &Member, intake: Option<&Intake>) -> Option<Next<'a>> {
        if self.left == 0 {
            return None;
        }
        self.asker.pass_over(member.endpoint.id);
        let next = self.pool.pick(&self.asker)?;
        let pause = self.pause(intake)?;
        self.pays().then(|| Next::behind(pause, next))
    }

    /// Takes one of the attempts that are left, if the pool's budget has one.
    fn pays(&mut self) -> bool {
        self.charge = self.pool.charge(clock::coarse());
        self.left -= u32::from(self.charge.is_some());
        self.charge.is_some()
    }

    /// The pause before the request is sent once more; `None` if time is up by then.
    fn pause(&mut self, intake: Option<&Intake>) -> Option<Duration> {
        let repeats = self.repeats;
        self.repeats += 1;
        let back_off = self.plan.back_off;
        let pause = back_off.map_or(Duration::ZERO, |back_off| {
            back_off.pause(repeats, self.pool.dice())
        });
        (clock::coarse() + pause < self.ends(intake)).then_some(pause)
    }

    fn is_repeatable(&self, outbound: &Outbound) -> bool {
        self.plan.may_repeat(&outbound.parts.method) && outbound.is_whole()
    }

    /// When the time of all attempts is up. While the client sends its body, it begins anew.
    pub(super) fn ends(&self, intake: Option<&Intake>) -> Instant {
        let moved = intake.and_then(|intake| intake.moved.get());
        let since = moved.map_or(self.started, |moved| moved.max(self.started));
        since + self.plan.response_timeout
    }

    /// When an attempt is cut that began at `began`, and whether the time of all is up then.
    fn until(&self, began: Instant, intake: Option<&Intake>) -> (Instant, bool) {
        let ends = self.ends(intake);
        let per_try = self.plan.per_try_timeout.filter(|_| {
            // With nowhere to go, an answer that comes late is better than none.
            self.left > 0 && !self.is_last && self.wants.repeatable
        });
        let moved = intake.and_then(|intake| intake.moved.get());
        let since = moved.map_or(began, |moved| moved.max(began));
        match per_try.map(|per_try| since + per_try) {
            Some(cut) if cut < ends => (cut, false),
            Some(_) | None => (ends, true),
        }
    }
}

/// Tells an endpoint's latency, and its limit if it adapts, how an attempt went that began at `began`; no status is no
/// answer.
fn learn(
    pool: &Pool,
    member: &Member,
    began: Instant,
    outbound: &Outbound,
    status: Option<StatusCode>,
) {
    let now = clock::now();
    // How long the client took to send its body is not the endpoint's doing.
    let moved = outbound
        .intake
        .as_ref()
        .and_then(|intake| intake.moved.get());
    let began = moved.map_or(began, |moved| began.max(moved));
    let took = now.saturating_duration_since(began);
    // A gateway, and an endpoint that turns requests away, are fast because they do nothing.
    let is_good = status.is_some_and(|status| {
        !matches!(
            status,
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
        )
    });
    let endpoint = &member.endpoint;
    if let Some(plan) = &member.bounds.adaptive {
        let observed = is_good.then_some(took);
        let in_flight = endpoint.in_flight();
        endpoint.adaptive().observe(observed, in_flight, plan, now);
    }
    if is_good && pool.settings.policy.ejects_slow() {
        endpoint.note_timing(took);
    }
    match is_good {
        true => endpoint.latency().observe(took, now),
        false => endpoint.latency().fail(took, now),
    }
}
