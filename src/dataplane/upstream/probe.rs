//! A health check of an endpoint: by the pool's own protocol and TLS, on a connection of its own, one question, one answer.
//!
//! The connection is kept for the next checks, and given up for a new one every few of them and whenever the standing of the
//! endpoint may change: that it takes new connections is part of what a check shows. A kept one on which no answer comes says
//! nothing of the endpoint, so the question is put again on a new one. When to check is the control plane's to say ([`Plan`] has
//! the times).

use std::fmt;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::request::Parts;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body::Body;
use http_body_util::Full;
use hyper::client::conn::http2::SendRequest;
use memchr::memmem;

use crate::base::addr::EndpointAddr;
use crate::base::clock;
use crate::base::fault::Fault;
use crate::base::name::EndpointId;
use crate::dataplane::tls::Alpn;
use crate::dataplane::upstream::connect::{self, Dialled};
use crate::dataplane::upstream::draft::{Added, Draft};
use crate::dataplane::upstream::endpoint::Endpoint;
use crate::dataplane::upstream::http1::{self, Flow, Rest, Wire};
use crate::dataplane::upstream::http2;
use crate::dataplane::upstream::reach::Dials;

/// Bytes of an answer's header.
const HEADER_LIMIT: usize = 64 << 10;

/// Bytes of an answer's body that are looked at.
const BODY_LIMIT: usize = 64 << 10;

/// What is asked of the endpoints of a pool, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The question.
    pub question: Question,
    /// The port that is asked, if it is not the endpoint's.
    pub port: Option<u16>,
    /// From the end of a check to the next one, give or take a fifth.
    pub interval: Duration,
    /// The same while the standing of the endpoint is about to change.
    pub fast_interval: Duration,
    /// A check, whole.
    pub timeout: Duration,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Whether a connection can be made, TLS included.
    Tcp,
    /// Whether a GET is answered as it should be.
    Http(Box<HttpQuestion>),
    /// Whether a service says that it serves (gRPC health checking protocol).
    Grpc {
        /// The name of the service; empty: the server as a whole.
        service: Box<str>,
    },
}

/// A GET and what its answer should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpQuestion {
    /// Path and query.
    pub target: PathAndQuery,
    /// The value of `Host`; absent: the endpoint's name or address.
    pub host: Option<HeaderValue>,
    /// Further fields.
    pub fields: HeaderMap,
    /// The statuses that are good.
    pub statuses: Box<[RangeInclusive<u16>]>,
    /// What the body has to hold.
    pub body: Option<Box<str>>,
}

/// Why a check failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// There was no answer.
    Fault(Fault),
    /// There was none in time.
    Timeout,
    /// The status is none of those that are good.
    Status(StatusCode),
    /// The body does not hold what it has to.
    Body,
    /// The service says that it does not serve, by this number.
    NotServing(u64),
    /// No service said anything that can be read.
    NoVerdict,
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(fault) => out.write_str(fault.token()),
            Self::Timeout => out.write_str("no answer in time"),
            Self::Status(status) => write!(out, "status {}", status.as_u16()),
            Self::Body => out.write_str("the body does not hold the text"),
            Self::NotServing(said) => write!(out, "the service does not serve ({said})"),
            Self::NoVerdict => out.write_str("no answer of the gRPC health protocol"),
        }
    }
}

/// Checks on one connection, before a new one is made.
const CHECKS_A_CONNECTION: u32 = 10;

/// How long the rest of an answer is waited for that was good without it, so that its connection can be kept.
const REST_PATIENCE: Duration = Duration::from_millis(100);

/// The connection of an endpoint's checks, between two of them.
#[derive(Debug)]
pub struct Kept {
    talk: Talk,
    /// Where it leads.
    endpoint: EndpointId,
    addresses: Dials,
    checks: u32,
}

impl Kept {
    /// Whether another check may be made on it.
    fn is_fit(&mut self, endpoint: &Endpoint, addresses: &Dials) -> bool {
        self.checks < CHECKS_A_CONNECTION
            && self.endpoint == endpoint.id
            && self.addresses == *addresses
            && match &mut self.talk {
                Talk::Http1(wire) => wire.is_quiet(),
                Talk::Http2(sender) => !sender.is_closed(),
            }
    }
}

/// A connection, by what is spoken on it.
#[derive(Debug)]
enum Talk {
    Http1(Wire),
    Http2(SendRequest<Full<Bytes>>),
}

/// What a check has found, and its connection if that serves another one.
pub type Checked = (Result<(), Failure>, Option<Box<Kept>>);

/// Checks an endpoint, on the connection that was kept if that is still good; one that is known by name is asked at
/// `addresses`, on the port of the plan if that has one. Dropping the future ends the check.
pub async fn check(
    endpoint: &Endpoint,
    mut addresses: Dials,
    plan: &Plan,
    kept: Option<Box<Kept>>,
) -> Checked {
    if let Some(port) = plan.port {
        for address in &mut addresses {
            address.set_port(port);
        }
    }
    let ends = clock::now() + plan.timeout;
    let kept = kept.and_then(|mut kept| kept.is_fit(endpoint, &addresses).then_some(kept));
    let checks = kept.as_ref().map_or(0, |kept| kept.checks);
    if let Some(kept) = kept {
        let asked = ask(endpoint, kept.talk, plan);
        // A connection that leads nowhere any more is silent: half of the time is for a new one.
        match tokio::time::timeout(plan.timeout / 2, asked).await {
            Ok(Ok(talk)) => return (Ok(()), keep(talk, endpoint, addresses, checks + 1)),
            Ok(Err(Failure::Fault(_))) | Err(_) => {}
            Ok(Err(other)) => return (Err(other), None),
        }
    }
    let asked = async {
        let talk = dial(endpoint, &addresses, plan).await?;
        match talk {
            None => Ok(None),
            Some(talk) => ask(endpoint, talk, plan).await,
        }
    };
    match tokio::time::timeout_at(ends.into(), asked).await {
        Ok(Ok(talk)) => (Ok(()), keep(talk, endpoint, addresses, 1)),
        Ok(Err(failure)) => (Err(failure), None),
        Err(_) => (Err(Failure::Timeout), None),
    }
}

fn keep(
    talk: Option<Talk>,
    endpoint: &Endpoint,
    addresses: Dials,
    checks: u32,
) -> Option<Box<Kept>> {
    talk.map(|talk| {
        Box::new(Kept {
            talk,
            endpoint: endpoint.id,
            addresses,
            checks,
        })
    })
}

/// The endpoint as it is checked on another port.
pub fn beside(endpoint: &Endpoint, port: u16) -> Endpoint {
    let mut identity = endpoint.identity.clone();
    match &mut identity.address {
        EndpointAddr::Tcp(address) => address.set_port(port),
        EndpointAddr::Name { port: named, .. } => *named = port,
        // It has no ports.
        EndpointAddr::Unix(_) => {}
    }
    Endpoint::new(identity, endpoint.tls.clone())
}

/// Makes a connection; `None` where that is all that is asked.
async fn dial(
    endpoint: &Endpoint,
    addresses: &[SocketAddr],
    plan: &Plan,
) -> Result<Option<Talk>, Failure> {
    let dialled = connect::dial(endpoint, addresses, false, plan.timeout).await;
    let Dialled { stream, protocol } = dialled.map_err(|fault| match fault {
        Fault::ConnectTimeout => Failure::Timeout,
        other => Failure::Fault(other),
    })?;
    Ok(Some(match (&plan.question, protocol) {
        (Question::Tcp, _) => return Ok(None),
        (Question::Http(_) | Question::Grpc { .. }, Alpn::Http1) => {
            let now = clock::now();
            Talk::Http1(Wire {
                stream,
                born: now,
                idle_since: now,
                seen: None,
                counted: None,
            })
        }
        (Question::Http(_) | Question::Grpc { .. }, Alpn::H2) => {
            let opened = http2::open(stream, HEADER_LIMIT).await;
            let (sender, _) = opened.map_err(Failure::Fault)?;
            Talk::Http2(sender)
        }
    }))
}

/// Puts the question; gives the connection back if it serves another one.
async fn ask(endpoint: &Endpoint, talk: Talk, plan: &Plan) -> Result<Option<Talk>, Failure> {
    match &plan.question {
        Question::Tcp => Ok(None),
        Question::Http(question) => {
            let parts = question.request(endpoint);
            let (status, mut coming) = exchange(talk, endpoint, parts, None).await?;
            question.judge(status, &mut coming).await?;
            Ok(coming.into_talk().await)
        }
        Question::Grpc { service } => {
            let parts = grpc_request(endpoint);
            let message = grpc_message(service);
            let (status, mut coming) = exchange(talk, endpoint, parts, Some(message)).await?;
            if status != StatusCode::OK {
                return Err(Failure::Status(status));
            }
            grpc_verdict(&read(&mut coming).await)?;
            Ok(coming.into_talk().await)
        }
    }
}

/// Sends the request by whatever is spoken on the connection.
async fn exchange(
    talk: Talk,
    endpoint: &Endpoint,
    mut parts: Parts,
    message: Option<Bytes>,
) -> Result<(StatusCode, Coming), Failure> {
    let mut body = message.map(Full::new);
    let draft = Draft {
        parts: &mut parts,
        added: &mut Added::default(),
        body: &mut body,
        front: &mut None,
    };
    match talk {
        Talk::Http1(wire) => {
            let answer = http1::exchange(wire, draft, HEADER_LIMIT, |_| {}).await;
            let answer = answer.map_err(|failure| Failure::Fault(failure.fault))?;
            let body = match answer.rest {
                Rest::Whole(bytes, wire) => Coming::Whole(bytes, wire),
                Rest::Flowing(flow) => Coming::Http1(flow),
                Rest::Switched(..) => return Err(Failure::Fault(Fault::ResponseMalformed)),
            };
            Ok((answer.head.status, body))
        }
        Talk::Http2(mut sender) => {
            let scheme = match endpoint.tls {
                Some(_) => Scheme::HTTPS,
                None => Scheme::HTTP,
            };
            let response = http2::exchange(&mut sender, draft, scheme, false).await;
            let response = response.map_err(|failure| Failure::Fault(failure.fault))?;
            let (parts, body) = response.into_parts();
            Ok((parts.status, Coming::Http2(body, sender)))
        }
    }
}

/// The body of an answer, and the connection that it comes on.
enum Coming {
    Whole(Bytes, Option<Wire>),
    Http1(Box<Flow<Full<Bytes>>>),
    Http2(hyper::body::Incoming, SendRequest<Full<Bytes>>),
}

impl Coming {
    /// The connection, if it serves another check: the rest of the answer is there soon, and not long.
    async fn into_talk(mut self) -> Option<Talk> {
        let rest = read(&mut self);
        let read = tokio::time::timeout(REST_PATIENCE, rest).await;
        let is_short = read.ok()?.len() < BODY_LIMIT;
        let talk = match self {
            Self::Whole(_, wire) => wire.map(Talk::Http1),
            Self::Http1(mut flow) if flow.is_over() => flow.settle().map(Talk::Http1),
            Self::Http1(_) => None,
            Self::Http2(_, sender) => Some(Talk::Http2(sender)),
        };
        talk.filter(|_| is_short)
    }
}

/// The front of a body, until it ends, breaks or is long enough.
async fn read(coming: &mut Coming) -> Bytes {
    let mut front = BytesMut::new();
    while front.len() < BODY_LIMIT {
        let frame = match coming {
            Coming::Whole(bytes, _) => return std::mem::take(bytes),
            Coming::Http1(flow) if flow.is_over() => break,
            Coming::Http1(flow) => poll_fn(|cx| flow.poll_frame(cx)).await.and_then(Result::ok),
            Coming::Http2(body, _) => poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx))
                .await
                .and_then(Result::ok),
        };
        match frame.map(http_body::Frame::into_data) {
            Some(Ok(data)) => front.extend_from_slice(&data),
            // Trailers stand behind the last of it.
            Some(Err(_)) | None => break,
        }
    }
    front.freeze()
}

impl HttpQuestion {
    fn request(&self, endpoint: &Endpoint) -> Parts {
        let mut parts = request(Method::GET, Uri::from(self.target.clone()));
        parts.headers.insert(
            header::HOST,
            self.host.clone().unwrap_or_else(|| host_of(endpoint)),
        );
        parts.headers.insert(header::USER_AGENT, USER_AGENT);
        for name in self.fields.keys() {
            parts.headers.remove(name);
        }
        for (name, value) in &self.fields {
            parts.headers.append(name, value.clone());
        }
        parts
    }

    async fn judge(&self, status: StatusCode, body: &mut Coming) -> Result<(), Failure> {
        let mut statuses = self.statuses.iter();
        if !statuses.any(|range| range.contains(&status.as_u16())) {
            return Err(Failure::Status(status));
        }
        let Some(text) = &self.body else {
            return Ok(());
        };
        let found = memmem::find(&read(body).await, text.as_bytes());
        found.map(drop).ok_or(Failure::Body)
    }
}

/// Who asks.
const USER_AGENT: HeaderValue = HeaderValue::from_static("lockgate-health-check");

fn request(method: Method, uri: Uri) -> Parts {
    let (mut parts, ()) = Request::new(()).into_parts();
    (parts.method, parts.uri) = (method, uri);
    parts
}

/// What an endpoint is called where nobody says otherwise: the name that its certificate is for, or its address.
fn host_of(endpoint: &Endpoint) -> HeaderValue {
    let name = endpoint.tls.as_ref().map(|tls| tls.server_name.to_string());
    let name = name.unwrap_or_else(|| match &endpoint.identity.address {
        address @ (EndpointAddr::Tcp(_) | EndpointAddr::Name { .. }) => address.to_string(),
        EndpointAddr::Unix(_) => "localhost".to_owned(),
    });
    HeaderValue::try_from(name).unwrap_or(HeaderValue::from_static("localhost"))
}

fn grpc_request(endpoint: &Endpoint) -> Parts {
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let mut parts = request(Method::POST, Uri::from(path));
    let fields = &mut parts.headers;
    fields.insert(header::HOST, host_of(endpoint));
    fields.insert(header::USER_AGENT, USER_AGENT);
    fields.insert(header::TE, HeaderValue::from_static("trailers"));
    let kind = HeaderValue::from_static("application/grpc");
    fields.insert(header::CONTENT_TYPE, kind);
    parts
}

/// A `HealthCheckRequest` in its frame: not compressed, its length, and the one field of text.
fn grpc_message(service: &str) -> Bytes {
    let mut field = BytesMut::new();
    if !service.is_empty() {
        field.extend_from_slice(&[0x0a]);
        let mut length = service.len();
        while length >= 0x80 {
            // The low seven bits, and the sign that there are more.
            field.extend_from_slice(&[u8::try_from(length & 0x7f).unwrap_or(0) | 0x80]);
            length >>= 7;
        }
        field.extend_from_slice(&[u8::try_from(length).unwrap_or(0)]);
        field.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(field.len()).unwrap_or(u32::MAX);
    let mut frame = BytesMut::with_capacity(field.len() + 5);
    frame.extend_from_slice(&[0]);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&field);
    frame.freeze()
}

/// Reads the `HealthCheckResponse` in its frame: its first field is the verdict, and 1 is "serving".
pub(super) fn grpc_verdict(body: &[u8]) -> Result<(), Failure> {
    let mut frame = body;
    if frame.len() < 5 || frame.get_u8() != 0 {
        return Err(Failure::NoVerdict);
    }
    let length = usize::try_from(frame.get_u32()).unwrap_or(usize::MAX);
    let mut message = frame.get(..length).ok_or(Failure::NoVerdict)?;
    let mut verdict = 0;
    while let Some(tag) = varint(&mut message) {
        match (tag >> 3, tag & 7) {
            (1, 0) => verdict = varint(&mut message).ok_or(Failure::NoVerdict)?,
            // Fields of later versions of the protocol.
            (_, 0) => drop(varint(&mut message).ok_or(Failure::NoVerdict)?),
            (_, 2) => {
                let length = varint(&mut message).ok_or(Failure::NoVerdict)?;
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                message = message.get(length..).ok_or(Failure::NoVerdict)?;
            }
            _ => return Err(Failure::NoVerdict),
        }
    }
    match verdict {
        1 => Ok(()),
        other => Err(Failure::NotServing(other)),
    }
}

/// A number of seven bits a byte, the lowest first.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_about_a_service_is_in_the_form_of_grpc() {
        assert_eq!(&grpc_message("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&grpc_message("a.B")[..], b"\0\0\0\0\x05\x0a\x03a.B");
        let long = grpc_message(&"x".repeat(300));
        assert_eq!(&long[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 2]);
        assert_eq!(long.len(), 5 + 303);
    }

    #[test]
    fn a_verdict_is_read_from_whatever_comes() {
        let check = |body: &[u8], expected: Result<(), Failure>| {
            assert_eq!(grpc_verdict(body), expected, "{body:?}");
        };
        check(b"\0\0\0\0\x02\x08\x01", Ok(()));
        check(b"\0\0\0\0\x02\x08\x02", Err(Failure::NotServing(2)));
        check(b"\0\0\0\0\0", Err(Failure::NotServing(0)));
        check(b"\0\0\0\0\x06\x12\x02hi\x08\x01", Ok(()));
        for broken in [
            &b""[..],
            b"\0\0\0",
            b"\x01\0\0\0\x02\x08\x01",
            b"\0\0\0\0\x03\x08\x01",
            b"\0\xff\xff\xff\xff\x08\x01",
            b"\0\0\0\0\x01\x08",
            b"\0\0\0\0\x02\x12\x09",
            b"\0\0\0\0\x02\x0b\x01",
        ] {
            check(broken, Err(Failure::NoVerdict));
        }
        // Whatever the bytes, there is an end.
        let mut state = 1_u64;
        for _ in 0..20_000 {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            let bytes = state.to_be_bytes();
            let _ = grpc_verdict(&[&[0, 0, 0, 0, 6][..], &bytes[..6]].concat());
        }
    }
}
