//! The attempts of an exchange: pick an endpoint, get a connection to it, send, and try again where that cannot
//! do harm.

use std::rc::Rc;
use std::sync::Arc;

use http::request::Parts;
use http::uri::Scheme;
use http::{HeaderMap, Method, Request, Response, Uri, Version, header, response};
use hyper::body::Incoming;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use crate::base::body::Body;
use crate::base::clock;
use crate::base::deadline::Deadline;
use crate::base::fault::Fault;
use crate::base::name::EndpointId;
use crate::dataplane::http::body::{Closing, Intake, RequestBody};
use crate::dataplane::http::expect::Latch;
use crate::dataplane::http::headers::{self, Inbound};
use crate::dataplane::http::retry::{self, Remains};
use crate::dataplane::http::upgrade::{self, Switch, Wish};
use crate::dataplane::http::{Downstream, Engine};
use crate::dataplane::snapshot::{Route, Snapshot};
use crate::dataplane::upstream::client::{Lease, SendError, Tunnel, Wants};
use crate::dataplane::upstream::endpoint::{Endpoint, Protocol};
use crate::dataplane::upstream::pool::Pool;

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

/// A request on its way to an endpoint.
#[derive(Debug)]
pub struct Outbound {
    /// Method, target in origin form, fields. `Host` is among them. Boxed: it is handed on, and comes back from an
    /// attempt that failed.
    pub parts: Box<Parts>,
    /// The body.
    pub body: RequestBody,
    /// What the body comes to; absent for an empty one.
    pub intake: Option<Rc<Intake>>,
    /// Opens the body's gate when the endpoint answers 100.
    pub latch: Option<Latch>,
}

/// An answer before it goes to the client.
#[derive(Debug)]
pub struct Answer {
    /// Status and fields.
    pub parts: response::Parts,
    /// The body.
    pub body: Body,
    /// The tunnel that begins behind it.
    pub switch: Option<Box<Switch>>,
}

impl Answer {
    /// An answer of our own.
    pub fn own(response: Response<Body>) -> Self {
        let (parts, body) = response.into_parts();
        Self {
            parts,
            body,
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
    // What the client sent, to begin again with, is kept only where sending it again could be right.
    let spare = inbound.spare();
    let mut outbound = headers::prepare(passage, inbound, &wish, closing)?;
    let mut tried = SmallVec::<[EndpointId; 4]>::new();
    let mut retries = passage.route.retries;
    let mut stale = STALE_REPEATS;
    let mut wants = Wants {
        repeatable: spare.is_some(),
        fresh: false,
        upgrade: wish.is_some(),
        connect_timeout: pool.connect_timeout,
        idle_limit: passage.snapshot.limits.idle_connections,
        header_bytes: passage.snapshot.limits.response_header_bytes,
    };
    let mut last = Fault::NoEndpoint;
    let mut endpoint = pool.pick(&tried).ok_or(last)?;
    loop {
        let failure = match attempt(passage, endpoint, outbound, wants, closing).await {
            Ok(reply) => return accept(passage, reply, wish, closing),
            Err(failure) => failure,
        };
        closing.lease = None;
        closing.in_flight = None;
        let remains = Remains {
            unsent: failure.unsent.is_some(),
            repeatable: spare.is_some(),
        };
        if !retry::may_repeat(failure.fault, remains) {
            return Err(failure.fault);
        }
        last = failure.fault;
        outbound = match (failure.unsent, &spare) {
            (Some(outbound), _) => outbound,
            (None, Some(spare)) => headers::prepare(passage, spare.copy(), &wish, closing)?,
            (None, None) => return Err(last),
        };
        wants.fresh = failure.reused && stale > 0;
        if wants.fresh {
            // The endpoint is not to blame: its idle connection had ended.
            stale -= 1;
            continue;
        }
        if retries == 0 {
            return Err(last);
        }
        retries -= 1;
        tried.push(endpoint.id);
        endpoint = pool.pick(&tried).ok_or(last)?;
    }
}

/// The head of an endpoint's answer.
struct Reply {
    response: Response<Incoming>,
    tunnel: Option<oneshot::Receiver<Tunnel>>,
}

/// An attempt that got no answer.
struct Failure {
    fault: Fault,
    /// The request, if the endpoint has seen nothing of it.
    unsent: Option<Outbound>,
    reused: bool,
}

async fn attempt(
    passage: Passage<'_>,
    endpoint: &Arc<Endpoint>,
    outbound: Outbound,
    wants: Wants,
    closing: &mut Closing,
) -> Result<Reply, Failure> {
    closing.in_flight = Some(endpoint.enter());
    closing.record.endpoint = Some(Arc::clone(&endpoint.label));
    closing.record.attempts = closing.record.attempts.saturating_add(1);
    if wants.upgrade && endpoint.identity.protocol == Protocol::H2 {
        return Err(Failure {
            fault: Fault::UpgradeUnsupported,
            unsent: None,
            reused: false,
        });
    }
    let mut lease = match passage.engine.connections.lease(endpoint, wants).await {
        Ok(lease) => lease,
        Err(fault) => {
            return Err(Failure {
                fault,
                unsent: Some(outbound),
                reused: false,
            });
        }
    };
    if lease.connect_time.is_some() {
        closing.record.connect = lease.connect_time;
    }
    let reused = lease.reused;
    let tunnel = if wants.upgrade {
        lease.expect_tunnel()
    } else {
        None
    };
    let Outbound {
        parts,
        body,
        intake,
        latch,
    } = outbound;
    let scheme = if endpoint.tls.is_some() {
        Scheme::HTTPS
    } else {
        Scheme::HTTP
    };
    let mut request = request_for(&lease, scheme, parts, body);
    if let Some(latch) = latch.as_ref().filter(|_| !lease.is_http2()) {
        latch.watch(&mut request);
    }
    let deadline = &mut closing.deadline;
    let sent = send(passage, &mut lease, request, intake.as_ref(), deadline).await;
    let response = match sent {
        Ok(response) => response,
        Err(SendError { fault, unsent }) => {
            let fault = intake
                .as_ref()
                .and_then(|intake| intake.fault.get())
                .unwrap_or(fault);
            let unsent = unsent.map(|request| {
                let (parts, body) = request.into_parts();
                Outbound {
                    parts: Box::new(restore(parts)),
                    body,
                    intake,
                    latch,
                }
            });
            return Err(Failure {
                fault,
                unsent,
                reused,
            });
        }
    };
    let now = clock::now();
    closing.record.first_byte = Some(now.saturating_duration_since(closing.record.started));
    closing.record.ended = Some(now);
    closing.lease = Some(lease);
    Ok(Reply { response, tunnel })
}

/// Waits for the answer's head. While the request's body flows the endpoint may stay silent.
async fn send(
    passage: Passage<'_>,
    lease: &mut Lease<RequestBody>,
    request: Request<RequestBody>,
    intake: Option<&Rc<Intake>>,
    deadline: &mut Option<Deadline>,
) -> Result<Response<Incoming>, SendError<RequestBody>> {
    let mut sending = std::pin::pin!(lease.send(request));
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
        let bytes = intake.map_or(0, |intake| intake.bytes.get());
        if bytes == seen {
            return Err(SendError {
                fault: Fault::ResponseTimeout,
                unsent: None,
            });
        }
        seen = bytes;
    }
}

/// Takes in the answer's head.
fn accept(
    passage: Passage<'_>,
    reply: Reply,
    wish: Wish,
    closing: &mut Closing,
) -> Result<Answer, Fault> {
    let Passage { engine, route, .. } = passage;
    let (mut parts, body) = reply.response.into_parts();
    let switch = upgrade::judge(wish, reply.tunnel, route, &parts)?;
    closing.pause = if headers::take_back(&mut parts) {
        route.stream_timeout
    } else {
        route.idle_timeout
    };
    let body = Body::incoming(body);
    if let Body::Incoming(_) = body {
        closing
            .deadline
            .get_or_insert_with(|| engine.deadlines.at(None));
    }
    Ok(Answer {
        parts,
        body,
        switch,
    })
}

/// The request in the form of the connection's protocol.
fn request_for(
    lease: &Lease<RequestBody>,
    scheme: Scheme,
    mut parts: Box<Parts>,
    body: RequestBody,
) -> Request<RequestBody> {
    if lease.is_http2() {
        parts.version = Version::HTTP_2;
        parts.uri = absolute(&parts.uri, scheme, &parts.headers);
        parts.headers.remove(header::HOST);
        parts.headers.remove(header::EXPECT);
        parts.headers.remove(header::TRANSFER_ENCODING);
    } else {
        parts.version = Version::HTTP_11;
        if must_say_chunked(&parts, &body) {
            let chunked = http::HeaderValue::from_static("chunked");
            parts.headers.insert(header::TRANSFER_ENCODING, chunked);
        }
    }
    Request::from_parts(*parts, body)
}

/// Whether hyper would leave out the body: it takes these methods to have none unless the header tells of it.
fn must_say_chunked(parts: &Parts, body: &RequestBody) -> bool {
    matches!(parts.method, Method::GET | Method::HEAD | Method::CONNECT)
        && !http_body::Body::is_end_stream(body)
        && !parts.headers.contains_key(header::CONTENT_LENGTH)
}

/// Undoes [`request_for`], for an attempt that may speak another protocol.
fn restore(mut parts: Parts) -> Parts {
    if parts.version == Version::HTTP_2 {
        if let Some(host) = parts.uri.authority()
            && let Ok(host) = http::HeaderValue::from_str(host.as_str())
        {
            parts.headers.insert(header::HOST, host);
        }
        parts.uri = headers::origin_form(&parts.uri);
    }
    parts
}

/// `https://host/path`: HTTP/2 wants scheme and authority beside the path (RFC 9113 §8.3.1).
fn absolute(uri: &Uri, scheme: Scheme, fields: &HeaderMap) -> Uri {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(scheme);
    parts.authority = fields
        .get(header::HOST)
        .and_then(|host| http::uri::Authority::try_from(host.as_bytes()).ok());
    parts.path_and_query = uri.path_and_query().cloned();
    if parts.authority.is_none() {
        parts.scheme = None;
    }
    Uri::from_parts(parts).unwrap_or_else(|_| uri.clone())
}
