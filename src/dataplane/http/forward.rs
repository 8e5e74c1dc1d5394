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
use crate::base::fault::Fault;
use crate::base::name::EndpointId;
use crate::dataplane::http::Engine;
use crate::dataplane::http::body::{Closing, Intake, RequestBody};
use crate::dataplane::http::expect::Latch;
use crate::dataplane::http::headers;
use crate::dataplane::http::retry::{self, Remains};
use crate::dataplane::http::upgrade::{self, Switch, Wish};
use crate::dataplane::snapshot::{Route, Snapshot};
use crate::dataplane::upstream::client::{Lease, SendError, Tunnel, Wants};
use crate::dataplane::upstream::endpoint::{Endpoint, Protocol};
use crate::dataplane::upstream::pool::Pool;

/// Times that a request is sent again because an idle connection turned out to be dead. The second goes out on a
/// fresh connection, so more would tell nothing new.
const STALE_REPEATS: u32 = 1;

/// A request on its way to an endpoint.
#[derive(Debug)]
pub struct Outbound {
    /// Method, target in origin form, fields. `Host` is among them.
    pub parts: Parts,
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
    pub switch: Option<Switch>,
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
    engine: &Engine,
    snapshot: &Snapshot,
    route: &Route,
    pool: &Pool,
    mut outbound: Outbound,
    wish: Wish,
    closing: &mut Closing,
) -> Result<Answer, Fault> {
    let mut tried = SmallVec::<[EndpointId; 4]>::new();
    let mut retries = route.retries;
    let mut stale = STALE_REPEATS;
    let mut fresh = false;
    let mut last = Fault::NoEndpoint;
    let mut endpoint = pool.pick(&tried).ok_or(last)?;
    loop {
        let wants = Wants {
            repeatable: is_idempotent(&outbound.parts.method) && outbound.intake.is_none(),
            fresh,
            upgrade: wish.is_some(),
            connect_timeout: pool.connect_timeout,
            idle_limit: snapshot.limits.idle_connections,
            header_bytes: snapshot.limits.response_header_bytes,
        };
        let failure = match attempt(engine, route, endpoint, outbound, wants, closing).await {
            Ok(reply) => return accept(engine, route, reply, wish, closing),
            Err(failure) => failure,
        };
        closing.lease = None;
        closing.in_flight = None;
        let Some((back, unsent)) = failure.outbound else {
            return Err(failure.fault);
        };
        outbound = back;
        let remains = Remains {
            unsent,
            repeatable: !unsent,
        };
        if !retry::may_repeat(failure.fault, remains) {
            return Err(failure.fault);
        }
        last = failure.fault;
        if failure.reused && stale > 0 {
            // The endpoint is not to blame: its idle connection had ended.
            stale -= 1;
            fresh = true;
            continue;
        }
        if retries == 0 {
            return Err(last);
        }
        retries -= 1;
        fresh = false;
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
    /// The request, if it is whole, and whether the endpoint has seen nothing of it.
    outbound: Option<(Outbound, bool)>,
    reused: bool,
}

async fn attempt(
    engine: &Engine,
    route: &Route,
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
            outbound: None,
            reused: false,
        });
    }
    let mut lease = match engine.connections.lease(endpoint, wants).await {
        Ok(lease) => lease,
        Err(fault) => {
            return Err(Failure {
                fault,
                outbound: Some((outbound, true)),
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
    // A copy to send again is made only where sending again could be right.
    let spare = wants.repeatable.then(|| parts.clone());
    let scheme = if endpoint.tls.is_some() {
        Scheme::HTTPS
    } else {
        Scheme::HTTP
    };
    let mut request = request_for(&lease, scheme, parts, body);
    if let Some(latch) = latch.as_ref().filter(|_| !lease.is_http2()) {
        latch.watch(&mut request);
    }
    let response = match send(engine, route, &mut lease, request, intake.as_ref()).await {
        Ok(response) => response,
        Err(SendError { fault, unsent }) => {
            let fault = intake
                .as_ref()
                .and_then(|intake| intake.fault.get())
                .unwrap_or(fault);
            let back = match (unsent, spare) {
                (Some(request), _) => {
                    let (parts, body) = request.into_parts();
                    Some((restore(parts), body, true))
                }
                (None, Some(parts)) => Some((parts, RequestBody::empty(), false)),
                (None, None) => None,
            };
            let outbound = back.map(|(parts, body, unsent)| {
                (
                    Outbound {
                        parts,
                        body,
                        intake,
                        latch,
                    },
                    unsent,
                )
            });
            return Err(Failure {
                fault,
                outbound,
                reused,
            });
        }
    };
    closing.record.first_byte =
        Some(clock::now().saturating_duration_since(closing.record.started));
    closing.lease = Some(lease);
    Ok(Reply { response, tunnel })
}

/// Waits for the answer's head. While the request's body flows the endpoint may stay silent.
async fn send(
    engine: &Engine,
    route: &Route,
    lease: &mut Lease<RequestBody>,
    request: Request<RequestBody>,
    intake: Option<&Rc<Intake>>,
) -> Result<Response<Incoming>, SendError<RequestBody>> {
    let mut sending = std::pin::pin!(lease.send(request));
    let mut seen = 0;
    loop {
        let at = clock::coarse() + route.response_timeout;
        if let Some(outcome) = engine.deadlines.within(at, sending.as_mut()).await {
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
    engine: &Engine,
    route: &Route,
    reply: Reply,
    wish: Wish,
    closing: &mut Closing,
) -> Result<Answer, Fault> {
    let (mut parts, body) = reply.response.into_parts();
    let switch = upgrade::judge(wish, reply.tunnel, route, &parts)?;
    let pause = if headers::is_stream(&parts.headers) {
        route.stream_timeout
    } else {
        route.idle_timeout
    };
    headers::take_back(&mut parts);
    let body = Body::incoming(body);
    if let Body::Incoming(_) = body {
        closing.idle = Some((engine.deadlines.at(None), pause));
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
    mut parts: Parts,
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
    Request::from_parts(parts, body)
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

/// Methods that do the same when they come twice (RFC 9110 §9.2.2).
fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE | Method::TRACE
    )
}
