//! Hedging: a second attempt at another endpoint while the first one is slow. The first usable answer counts, and the other
//! attempt is cancelled: its connection is closed, or its stream reset.
//!
//! It takes one attempt of the exchange and one of the pool's budget, for good. Sessions stay where they are: their pools are
//! not hedged.

use std::cell::Cell;
use std::future::{self, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::base::clock;
use crate::base::fault::Fault;
use crate::dataplane::http::attempts::Attempts;
use crate::dataplane::http::body::{Closing, RequestBody};
use crate::dataplane::http::forward::{self, Failed, Outbound, Progress};
use crate::dataplane::http::observe;
use crate::dataplane::upstream::admission::Entered;
use crate::dataplane::upstream::client::{Answered, Wants};
use crate::dataplane::upstream::pool::Member;
use crate::dataplane::upstream::retry::Statuses;

/// What came of an attempt.
pub type Outcome = Result<Answered<RequestBody>, Failed>;

/// An attempt that is over; of two, the one that counts.
#[derive(Debug)]
pub struct Made<'a> {
    /// Where it was made.
    pub member: &'a Member,
    /// When it began.
    pub began: Instant,
    /// What came of it.
    pub outcome: Outcome,
}

impl<'a> Attempts<'a> {
    /// After what time a second attempt is made beside one that has no answer; `None`: none is.
    pub fn hedges_after(&self, outbound: &Outbound) -> Option<Duration> {
        let hedge = self.plan.hedge?;
        let is_fit = self.left > 0
            && outbound.intake.is_none()
            && !self.wants.upgrade
            && self.plan.may_repeat(&outbound.parts.method)
            && self.pool.settings.sticky.is_none();
        let now = clock::coarse();
        let after = self
            .pool
            .pace()
            .within(hedge.quantile, now)?
            .max(hedge.least);
        // What would come when an attempt is cut anyway comes too late.
        let is_soon = self.plan.per_try_timeout.is_none_or(|cut| after < cut)
            && now + after < self.ends(None);
        (is_fit && is_soon).then_some(after)
    }

    /// Makes an attempt that begins at `began`, and a second one beside it if there is no answer `after` that time.
    pub async fn race(
        &mut self,
        after: Duration,
        (member, entered): Entered<'a>,
        began: Instant,
        outbound: &mut Outbound,
        closing: &mut Closing,
    ) -> Made<'a> {
        // Before an attempt has it in hand.
        let mut copy = outbound.copy();
        self.begin(member, entered, outbound, closing);
        let (passage, pool, endpoint) = (self.passage, self.pool, &member.endpoint);
        let (wants, statuses) = (self.wants, self.plan.statuses);
        let Closing {
            record,
            in_flight,
            deadline,
            ..
        } = closing;
        let (connect, other_connect) = (Cell::new(None), Cell::new(None));
        let progress = Progress {
            connect: &connect,
            is_sending: Cell::new(false),
        };
        let first = forward::attempt(passage, (pool, endpoint), outbound, wants, &progress);
        let mut race = Race::default();
        let mut first = pin!(first);
        let soon = poll_fn(|cx| {
            poll_once(&mut race.first, first.as_mut(), cx);
            race.poll(&statuses, false)
        });
        let is_late = tokio::time::timeout_at((began + after).into(), soon)
            .await
            .is_err();
        let (other, guard) = match is_late.then(|| self.hedge(member)).flatten() {
            Some((other, in_flight)) => (Some(other), Some(in_flight)),
            None => (None, None),
        };
        let other_began = clock::now();
        let other_progress = Progress {
            connect: &other_connect,
            is_sending: Cell::new(false),
        };
        let mut second = pin!(async {
            match other {
                Some(other) => {
                    let place = (pool, &other.endpoint);
                    let wants = Wants {
                        connections: other.bounds.connections,
                        ..wants
                    };
                    forward::attempt(passage, place, &mut copy, wants, &other_progress).await
                }
                None => future::pending().await,
            }
        });
        if other.is_some() {
            record.attempts = record.attempts.saturating_add(1);
        }
        let ended = poll_fn(|cx| {
            poll_once(&mut race.first, first.as_mut(), cx);
            if other.is_some() {
                poll_once(&mut race.second, second.as_mut(), cx);
            }
            race.poll(&statuses, other.is_some())
        });
        let ended = pin!(ended);
        let cut = self.in_time(member, began, None, deadline, &progress, ended);
        let cut = cut.await.err();
        let now = clock::now();
        let is_second = race.is_won_by_second(&statuses);
        let Race { first, second } = race;
        let (outcome, lost, loser) = match other {
            Some(other) if is_second => {
                *in_flight = guard;
                record.endpoint = Some(Arc::clone(&other.endpoint.label));
                record.connect = other_connect.get();
                if first.is_none() {
                    // It would have taken longer still.
                    let took = now.saturating_duration_since(began);
                    self.pool.pace().observe(took, now);
                    if self.pool.settings.policy.ejects_slow() {
                        endpoint.note_timing(took);
                    }
                }
                (second, first, Some(endpoint))
            }
            Some(_) | None => {
                record.connect = connect.get().or(record.connect);
                (first, second, other.map(|other| &other.endpoint))
            }
        };
        match (loser, &lost) {
            (Some(loser), Some(Ok(answered))) => observe::answer(self.pool, loser, &answered.head),
            (Some(loser), Some(Err(failed))) => {
                observe::failure(self.pool, loser, failed.fault, failed.reused);
            }
            (Some(_) | None, _) => {}
        }
        let winner = other.filter(|_| is_second);
        let outcome = outcome.unwrap_or_else(|| Err(cut.unwrap_or(CUT)));
        if outcome.is_ok() {
            record.first_byte = Some(now.saturating_duration_since(record.started));
            record.ended = Some(now);
        }
        Made {
            member: winner.unwrap_or(member),
            began: if winner.is_some() { other_began } else { began },
            outcome,
        }
    }

    /// An endpoint for a second attempt, if there is one with room and the budget has an attempt left.
    fn hedge(&mut self, member: &Member) -> Option<Entered<'a>> {
        self.asker.pass_over(member.endpoint.id);
        // It does not wait, and does not pass those who do.
        let (other, in_flight) = self.pool.admit(&self.asker)?;
        // Spent, however it ends: an answer that was hedged for would have come without.
        self.pool.charge(clock::coarse())?;
        self.left -= 1;
        self.asker.pass_over(other.endpoint.id);
        Some((other, in_flight))
    }
}

/// One that was neither answered nor cut, which does not come about.
const CUT: Failed = Failed {
    fault: Fault::ResponseTimeout,
    unsent: false,
    reused: false,
    is_alone: false,
};

/// Two attempts, as far as they are over.
#[derive(Debug, Default)]
struct Race {
    first: Option<Outcome>,
    second: Option<Outcome>,
}

impl Race {
    /// Ready when there is an answer to use, or nothing more to wait for.
    fn poll(&self, statuses: &Statuses, has_second: bool) -> Poll<()> {
        let is_won = is_usable(&self.first, statuses) || is_usable(&self.second, statuses);
        let is_over = self.first.is_some() && (self.second.is_some() || !has_second);
        if is_won || is_over {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// Whether the second one counts: it alone has an answer, or the better one.
    fn is_won_by_second(&self, statuses: &Statuses) -> bool {
        let is_answered = |outcome: &Option<Outcome>| matches!(outcome, Some(Ok(_)));
        match is_answered(&self.first) {
            true => is_usable(&self.second, statuses) && !is_usable(&self.first, statuses),
            false => is_answered(&self.second),
        }
    }
}

/// An answer that would not be asked for again elsewhere.
fn is_usable(outcome: &Option<Outcome>, statuses: &Statuses) -> bool {
    matches!(outcome, Some(Ok(answered)) if !statuses.has(answered.head.status))
}

/// Polls an attempt that is not over.
fn poll_once(
    outcome: &mut Option<Outcome>,
    attempt: Pin<&mut impl Future<Output = Outcome>>,
    cx: &mut Context<'_>,
) {
    if outcome.is_none()
        && let Poll::Ready(ended) = attempt.poll(cx)
    {
        *outcome = Some(ended);
    }
}
