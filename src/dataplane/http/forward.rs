//! The attempts of an exchange: pick an endpoint, get a connection to it, send, and try again where that cannot
//! do harm.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::uri::Scheme;
use http::{Response, StatusCode, header};

use crate::base::clock;
use crate::base::fault::Fault;
use crate::dataplane::http::attempts::{Attempts, Next};
use crate::dataplane::http::body::{Closing, Intake, RequestBody};
use crate::dataplane::http::expect::Latch;
use crate::dataplane::http::headers::{self, Inbound};
use crate::dataplane::http::hedge::Made;
use crate::dataplane::http::mirror;
use crate::dataplane::http::replay::Kept;
use crate::dataplane::http::upgrade::{self, Switch, Wish};
use crate::dataplane::http::waiting::Successors;
use crate::dataplane::http::{Downstream, Engine};
use crate::dataplane::snapshot::{Action, Route, Snapshot};
use crate::dataplane::upstream::answer::AnswerBody;
use crate::dataplane::upstream::client::{Answered, Wants};
use crate::dataplane::upstream::draft::{Added, Draft};
use crate::dataplane::upstream::endpoint::{Endpoint, Protocol};
use crate::dataplane::upstream::head::AnswerHead;
use crate::dataplane::upstream::pool::Pool;
use crate::dataplane::upstream::retry::Plan;

/// What an exchange passes by on its way, from the request's head to the answer's.
#[derive(Clone, Copy, Debug)]
pub struct Passage<'a> {
    /// What the worker lends.
    pub engine: &'a Engine,
    /// The client's connection.
    pub downstream: &'a Downstream,
    /// The snapshot that the exchange holds.
    pub snapshot: &'a Snapshot,
    /// The route that it takes.
    pub route: &'a Route,
}

/// A request on its way to an endpoint.
#[derive(Debug)]
pub struct Outbound {
    /// Method, target in origin form, fields. `Host` is among them. Boxed: it is handed on, and comes back from an
    /// attempt that failed.
    pub parts: Box<Parts>,
    /// What goes on top of the fields.
    pub added: Added,
    /// The body, until it is sent.
    pub body: Option<RequestBody>,
    /// The body as it is kept for another attempt, if it is.
    pub kept: Option<Rc<Kept>>,
    /// What was taken off the body by an attempt that sent nothing.
    pub front: Option<Bytes>,
    /// What the body comes to; absent for an empty one.
    pub intake: Option<Rc<Intake>>,
    /// Opens the body's gate when the endpoint answers 100.
    pub latch: Option<Latch>,
}

/// An answer before it goes to the client.
#[derive(Debug)]
pub struct Answer {
    /// Status and fields.
    pub head: AnswerHead,
    /// The body.
    pub body: AnswerBody<RequestBody>,
    /// The tunnel that begins behind it.
    pub switch: Option<Box<Switch>>,
}

impl Answer {
    /// An answer of our own.
    pub fn own(response: Response<Bytes>) -> Self {
        let (parts, body) = response.into_parts();
        Self {
            head: parts.into(),
            body: AnswerBody::Whole(body),
            switch: None,
        }
    }
}

/// Sends the request to an endpoint of the pool, and to others where that helps and does no harm.
///
/// # Errors
/// The fault of the last attempt.
pub async fn forward(
    passage: Passage<'_>,
    pool: &Pool,
    inbound: Inbound,
    wish: Wish,
    closing: &mut Closing,
) -> Result<Answer, Fault> {
    let mut outbound = headers::prepare(passage, inbound, &wish, closing)?;
    let client = closing.record.client;
    // Asked of the route, so that exchanges without copies keep nothing for them.
    if let Action::Fork(fork) = &passage.route.action
        && let Some(mirror) = &fork.mirror
        // What a tunnel carries cannot be sent twice.
        && !wish.is_some()
        && mirror.takes()
    {
        mirror::copy(passage, mirror, &mut outbound, client);
    }
    outbound.keep(&passage.route.retry);
    let now = clock::coarse();
    pool.note_request(now);
    let asker = pool.asker(&outbound.parts, client, now, clock::coarse_wall());
    let successors = Successors::default();
    let place = (pool, &successors);
    let mut attempts = Attempts::new(passage, place, asker, wish.is_some(), closing);
    // When the first attempt begins: looking at a clock is for those that come later.
    let mut begins = Some(closing.record.started);
    let mut entered = match pool.admit(&attempts.asker) {
        Some(entered) => entered,
        None => {
            begins = None;
            Box::pin(attempts.wait(&outbound, closing)).await?
        }
    };
    loop {
        let began = begins.take().unwrap_or_else(clock::now);
        let made = match attempts.hedges_after(&outbound) {
            None => {
                let member = entered.0;
                let outcome = attempts.make(entered, began, &mut outbound, closing);
                Made {
                    outcome: outcome.await,
                    member,
                    began,
                }
            }
            // Boxed, since most exchanges do without.
            Some(after) => {
                let race = attempts.race(after, entered, began, &mut outbound, closing);
                Box::pin(race).await
            }
        };
        let Made {
            member: last,
            began,
            outcome,
        } = made;
        let next = match outcome {
            Ok(answered) => {
                let next = attempts.after_answer(last, began, &answered, &outbound);
                let Some(next) = next else {
                    let asker = &attempts.asker;
                    let is_secure = passage.downstream.facts.secure.is_some();
                    let cookie = attempts.pool.set_cookie(
                        asker,
                        &last.endpoint,
                        is_secure,
                        clock::coarse_wall(),
                    );
                    // Its room is for the fields of a request to come.
                    passage.engine.stock.give_fields(outbound.parts.headers);
                    let mut answer = accept(passage, answered, wish, closing)?;
                    if let Some(cookie) = cookie {
                        let fields = answer.head.map_in(|| passage.engine.stock.take_fields());
                        fields.append(header::SET_COOKIE, cookie);
                    }
                    return Ok(answer);
                };
                next
            }
            Err(failed) => {
                closing.in_flight = None;
                attempts.after_failure(last, began, &failed, &outbound)?
            }
        };
        let entered_at_once = match next {
            Next::At(member) => attempts
                .pool
                .enter_at(member)
                .map(|in_flight| (member, in_flight)),
            Next::Later(..) | Next::Queue(..) => None,
        };
        entered = match entered_at_once {
            Some(entered) => entered,
            None => {
                closing.in_flight = None;
                Box::pin(attempts.go(next, &outbound, closing)).await?
            }
        };
    }
}

impl Outbound {
    /// Has the body kept from here on, if the request may be repeated and it is not too long.
    fn keep(&mut self, plan: &Plan) {
        if self.body.is_none()
            || plan.attempts == 0
            || plan.replay == 0
            || !plan.may_repeat(&self.parts.method)
        {
            return;
        }
        if let Some(body) = self.body.take() {
            match Kept::new(body, plan.replay) {
                Ok(kept) => self.kept = Some(kept),
                Err(body) => self.body = Some(body),
            }
        }
    }

    /// Whether all of it is there once more.
    pub fn is_whole(&self) -> bool {
        match &self.kept {
            Some(kept) => kept.is_whole(),
            None => self.intake.is_none(),
        }
    }

    /// The same request once more, of one without a body.
    pub fn copy(&self) -> Self {
        Self {
            parts: self.parts.clone(),
            added: self.added.clone(),
            body: None,
            kept: None,
            front: None,
            intake: None,
            latch: None,
        }
    }

    /// Makes the body ready for an attempt.
    pub fn rewind(&mut self) {
        if let Some(kept) = self.kept.as_ref().filter(|kept| kept.is_whole()) {
            self.body = Some(RequestBody::replayed(kept.reader()));
            self.front = None;
        }
    }
}

/// An attempt that got no answer.
#[derive(Debug)]
pub struct Failed {
    /// What went wrong.
    pub fault: Fault,
    /// Whether the endpoint has seen nothing of the request.
    pub unsent: bool,
    /// Whether an exchange on the connection was answered before.
    pub reused: bool,
    /// Whether the connection lives on.
    pub is_alone: bool,
}

impl Failed {
    /// An attempt that ended before its request was sent.
    pub fn unsent(fault: Fault) -> Self {
        Self {
            fault,
            unsent: true,
            reused: false,
            is_alone: false,
        }
    }
}

/// How far an attempt came, for whoever cuts it short.
#[derive(Debug)]
pub struct Progress<'a> {
    /// How long connecting took.
    pub connect: &'a Cell<Option<Duration>>,
    /// Whether something may have been sent.
    pub is_sending: Cell<bool>,
}

/// Makes one attempt, to the head of the answer. Dropping the future cancels it.
///
/// # Errors
/// Why there is no answer.
pub async fn attempt(
    passage: Passage<'_>,
    (pool, endpoint): (&Pool, &Arc<Endpoint>),
    outbound: &mut Outbound,
    wants: Wants,
    progress: &Progress<'_>,
) -> Result<Answered<RequestBody>, Failed> {
    if wants.upgrade && endpoint.identity.protocol == Protocol::H2 {
        return Err(Failed::unsent(Fault::UpgradeUnsupported));
    }
    let connections = &passage.engine.connections;
    let lease = connections.lease(endpoint, pool, wants).await;
    let lease = lease.map_err(Failed::unsent)?;
    if lease.connect_time.is_some() {
        progress.connect.set(lease.connect_time);
    }
    progress.is_sending.set(true);
    let reused = lease.reused;
    let scheme = if endpoint.tls.is_some() {
        Scheme::HTTPS
    } else {
        Scheme::HTTP
    };
    let Outbound {
        parts,
        added,
        body,
        kept: _,
        front,
        intake,
        latch,
    } = outbound;
    let draft = Draft {
        parts,
        added,
        body,
        front,
    };
    let inform = |status| {
        if let (StatusCode::CONTINUE, Some(latch)) = (status, &latch) {
            latch.open();
        }
    };
    let sent = lease.send(draft, scheme, inform).await;
    sent.map_err(|failure| Failed {
        fault: intake
            .as_ref()
            .and_then(|intake| intake.fault.get())
            .unwrap_or(failure.fault),
        unsent: failure.unsent,
        reused,
        is_alone: failure.is_alone,
    })
}

/// Takes in the answer's head.
fn accept(
    passage: Passage<'_>,
    answered: Answered<RequestBody>,
    wish: Wish,
    closing: &mut Closing,
) -> Result<Answer, Fault> {
    let Passage { engine, route, .. } = passage;
    let Answered {
        mut head,
        body,
        tunnel,
    } = answered;
    let switch = upgrade::judge(wish, tunnel, route, &mut head)?;
    headers::take_back(&mut head);
    closing.pause = if head.may_pause() {
        route.stream_timeout
    } else {
        route.idle_timeout
    };
    if body.is_flowing() {
        closing
            .deadline
            .get_or_insert_with(|| engine.deadlines.at(None));
    }
    Ok(Answer { head, body, switch })
}
