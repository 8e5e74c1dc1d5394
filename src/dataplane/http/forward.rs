//! The attempts of an exchange: pick an endpoint, get a connection to it, send, and try again where that cannot
//! do harm.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::request::Parts;
use http::uri::Scheme;
use http::{Method, Response, StatusCode, header};

use crate::base::clock;
use crate::base::deadline::Deadline;
use crate::base::fault::{Fault, Side};
use crate::dataplane::http::body::{Closing, Intake, RequestBody};
use crate::dataplane::http::expect::Latch;
use crate::dataplane::http::headers::{self, Inbound};
use crate::dataplane::http::observe;
use crate::dataplane::http::retry::{self, Remains};
use crate::dataplane::http::upgrade::{self, Switch, Wish};
use crate::dataplane::http::{Downstream, Engine};
use crate::dataplane::snapshot::{Route, Snapshot};
use crate::dataplane::upstream::admission::Entered;
use crate::dataplane::upstream::answer::AnswerBody;
use crate::dataplane::upstream::client::{Answered, Lease, Wants};
use crate::dataplane::upstream::draft::{Added, Draft, Failure};
use crate::dataplane::upstream::endpoint::{Endpoint, Protocol};
use crate::dataplane::upstream::head::AnswerHead;
use crate::dataplane::upstream::pick::Asker;
use crate::dataplane::upstream::pool::{Member, Pool};
use crate::dataplane::upstream::queue::Place;

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

/// Times that a request is sent again because an idle connection turned out to be dead. The second goes out on a
/// fresh connection, so more would tell nothing new.
const STALE_REPEATS: u32 = 1;

/// Endpoints that may refuse a request's connection without a cost to its retries, before it waits for others.
const REFUSALS: u32 = 16;

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

/// Sends the request to an endpoint of the pool.
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
    let mut asker = pool.asker(
        &outbound.parts,
        client,
        clock::coarse(),
        clock::coarse_wall(),
    );
    let mut retries = passage.route.retries;
    let mut stale = STALE_REPEATS;
    let mut wants = Wants {
        repeatable: outbound.is_repeatable(),
        fresh: false,
        upgrade: wish.is_some(),
        idle_limit: passage.snapshot.limits.idle_connections,
        connections: None,
        header_bytes: passage.snapshot.limits.response_header_bytes,
    };
    let mut refusals = REFUSALS;
    let mut waiting = Waiting::default();
    // When the first attempt begins: looking at a clock is for those that come later.
    let mut begins = Some(closing.record.started);
    let mut entered = match pool.admit(&asker) {
        Some(entered) => entered,
        None => {
            begins = None;
            Box::pin(waiting.wait(pool, &asker)).await?
        }
    };
    loop {
        let (member, in_flight) = entered;
        let endpoint = &member.endpoint;
        closing.in_flight = Some(in_flight);
        wants.connections = member.bounds.connections;
        let began = begins.take().unwrap_or_else(clock::now);
        let failure = match attempt(passage, (pool, endpoint), &mut outbound, wants, closing).await
        {
            Ok(answered) => {
                observe::answer(pool, endpoint, &answered.head);
                if pool.wants_latency() {
                    learn(member, began, &outbound, Some(answered.head.status));
                }
                let is_secure = passage.downstream.facts.secure.is_some();
                let cookie = pool.set_cookie(&asker, endpoint, is_secure, clock::coarse_wall());
                // Its room is for the fields of a request to come.
                passage.engine.stock.give_fields(outbound.parts.headers);
                let mut answer = accept(passage, answered, wish, closing)?;
                if let Some(cookie) = cookie {
                    let fields = answer.head.map_in(|| passage.engine.stock.take_fields());
                    fields.append(header::SET_COOKIE, cookie);
                }
                return Ok(answer);
            }
            Err(failure) => failure,
        };
        observe::failure(pool, endpoint, failure.fault, failure.reused);
        let remains = Remains {
            unsent: failure.unsent,
            repeatable: wants.repeatable,
        };
        let last = failure.fault;
        let may_repeat = retry::may_repeat(last, remains);
        wants.fresh = may_repeat && failure.reused && stale > 0;
        if wants.fresh {
            // The endpoint is not to blame: its idle connection had ended.
            stale -= 1;
            entered = match closing.in_flight.take() {
                Some(in_flight) => (member, in_flight),
                None => return Err(last),
            };
            continue;
        }
        closing.in_flight = None;
        if pool.wants_latency() && last.side() == Side::Upstream {
            learn(member, began, &outbound, None);
        }
        if !may_repeat {
            return Err(last);
        }
        if let Some(fault) = waiting.has_ended {
            return Err(if failure.unsent { fault } else { last });
        }
        let is_refused = last == Fault::ConnectFailed && passage.route.retries > 0;
        if is_refused && refusals == 0 {
            asker = asker.afresh();
            entered = Box::pin(waiting.wait(pool, &asker)).await?;
            continue;
        }
        if is_refused {
            // Nothing was sent, and nobody else meets it there: it is passed over from now on.
            refusals -= 1;
        } else if retries == 0 {
            return Err(last);
        } else {
            retries -= 1;
        }
        asker.pass_over(endpoint.id);
        entered = if let Some(next) = pool.enter(&asker) {
            next
        } else if let Some(same) = pool.enter(&asker.afresh()) {
            // All others were tried. One that broke off may serve the next connection; one that was slow will not.
            if !matches!(last, Fault::ResponseMissing | Fault::ConnectionLost) {
                return Err(last);
            }
            same
        } else {
            asker = asker.afresh();
            Box::pin(waiting.wait(pool, &asker)).await?
        };
    }
}

/// The time that an exchange spends in the queue of its pool.
#[derive(Default)]
struct Waiting {
    /// Boxed, since most exchanges never wait.
    place: Option<Box<Place>>,
    /// What to say if the attempt after it fails too: the wait is over.
    has_ended: Option<Fault>,
}

impl Waiting {
    /// Waits for a usable endpoint with room; when time is up, gives the least bad one if none is usable, for one attempt.
    async fn wait<'p>(&mut self, pool: &'p Pool, asker: &Asker) -> Result<Entered<'p>, Fault> {
        if pool.is_empty() {
            return Err(Fault::NoEndpoint);
        }
        let Some(plan) = pool.settings.queue else {
            self.has_ended = Some(Fault::NoEndpoint);
            return pool.enter_least_bad();
        };
        let place = match self.place.take() {
            Some(place) => place,
            None => Box::new(pool.wait(plan, clock::now()).ok_or(Fault::QueueFull)?),
        };
        let place = self.place.insert(place);
        if let Some(entered) = pool.take_turn(place, asker).await {
            return Ok(entered);
        }
        self.place = None;
        self.has_ended = Some(Fault::QueueTimeout);
        pool.enter_least_bad()
    }
}

impl Outbound {
    /// Whether it does the same when it comes twice (RFC 9110 §9.2.2), and can come twice.
    fn is_repeatable(&self) -> bool {
        let is_idempotent = matches!(
            self.parts.method,
            Method::GET
                | Method::HEAD
                | Method::OPTIONS
                | Method::PUT
                | Method::DELETE
                | Method::TRACE
        );
        is_idempotent && self.intake.is_none()
    }
}

/// Tells an endpoint's latency, and its limit if it adapts, how an attempt went that began at `began`; no status is no
/// answer.
fn learn(member: &Member, began: Instant, outbound: &Outbound, status: Option<StatusCode>) {
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
    match is_good {
        true => endpoint.latency().observe(took, now),
        false => endpoint.latency().fail(took, now),
    }
}

/// An attempt that got no answer.
struct Failed {
    fault: Fault,
    /// Whether the endpoint has seen nothing of the request.
    unsent: bool,
    reused: bool,
}

async fn attempt(
    passage: Passage<'_>,
    (pool, endpoint): (&Pool, &Arc<Endpoint>),
    outbound: &mut Outbound,
    wants: Wants,
    closing: &mut Closing,
) -> Result<Answered<RequestBody>, Failed> {
    let unsent = |fault| Failed {
        fault,
        unsent: true,
        reused: false,
    };
    closing.record.endpoint = Some(Arc::clone(&endpoint.label));
    closing.record.attempts = closing.record.attempts.saturating_add(1);
    if wants.upgrade && endpoint.identity.protocol == Protocol::H2 {
        return Err(unsent(Fault::UpgradeUnsupported));
    }
    let lease = passage
        .engine
        .connections
        .lease(endpoint, pool, wants)
        .await;
    let lease = lease.map_err(unsent)?;
    if lease.connect_time.is_some() {
        closing.record.connect = lease.connect_time;
    }
    let reused = lease.reused;
    let scheme = if endpoint.tls.is_some() {
        Scheme::HTTPS
    } else {
        Scheme::HTTP
    };
    let sent = send(passage, lease, outbound, scheme, &mut closing.deadline).await;
    let answered = sent.map_err(|Failure { fault, unsent }| {
        let intake = outbound.intake.as_ref();
        Failed {
            fault: intake
                .and_then(|intake| intake.fault.get())
                .unwrap_or(fault),
            unsent,
            reused,
        }
    })?;
    let now = clock::now();
    closing.record.first_byte = Some(now.saturating_duration_since(closing.record.started));
    closing.record.ended = Some(now);
    Ok(answered)
}

/// Waits for the answer's head. While the request's body flows the endpoint may stay silent.
async fn send(
    passage: Passage<'_>,
    lease: Lease<RequestBody>,
    outbound: &mut Outbound,
    scheme: Scheme,
    deadline: &mut Option<Deadline>,
) -> Result<Answered<RequestBody>, Failure> {
    let Outbound {
        parts,
        added,
        body,
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
    let mut sending = std::pin::pin!(lease.send(draft, scheme, inform));
    let mut seen = 0;
    loop {
        let at = clock::coarse() + passage.route.response_timeout;
        let answered = passage
            .engine
            .deadlines
            .within_on(deadline, at, sending.as_mut())
            .await;
        if let Some(outcome) = answered {
            return outcome;
        }
        let bytes = intake.as_ref().map_or(0, |intake| intake.bytes.get());
        if bytes == seen {
            return Err(Failure {
                fault: Fault::ResponseTimeout,
                unsent: false,
            });
        }
        seen = bytes;
    }
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
