//! One active check of an endpoint: a connection of its own, by the pool's own protocol and TLS, one question, one answer.
//!
//! The connection is closed afterwards. A check shows that an endpoint takes new connections too, which one that is kept
//! would not. When to check is the control plane's to say ([`Plan`] has the times).

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
use memchr::memmem;

use crate::base::addr::EndpointAddr;
use crate::base::clock;
use crate::base::fault::Fault;
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

/// Checks an endpoint; one that is known by name is asked at `addresses`, on the port of the plan if that has one. Dropping
/// the future ends the check.
///
/// # Errors
/// What is not as it should be.
pub async fn check(endpoint: &Endpoint, mut addresses: Dials, plan: &Plan) -> Result<(), Failure> {
    if let Some(port) = plan.port {
        for address in &mut addresses {
            address.set_port(port);
        }
    }
    let asked = ask(endpoint, &addresses, plan);
    let answered = tokio::time::timeout(plan.timeout, asked).await;
    answered.unwrap_or(Err(Failure::Timeout))
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

async fn ask(endpoint: &Endpoint, addresses: &[SocketAddr], plan: &Plan) -> Result<(), Failure> {
    let dialled = connect::dial(endpoint, addresses, false, plan.timeout).await;
    let dialled = dialled.map_err(|fault| match fault {
        Fault::ConnectTimeout => Failure::Timeout,
        other => Failure::Fault(other),
    })?;
    match &plan.question {
        Question::Tcp => Ok(()),
        Question::Http(question) => {
            let parts = question.request(endpoint);
            let (status, body) = exchange(dialled, endpoint, parts, None).await?;
            question.judge(status, body).await
        }
        Question::Grpc { service } => {
            let parts = grpc_request(endpoint);
            let message = grpc_message(service);
            let (status, body) = exchange(dialled, endpoint, parts, Some(message)).await?;
            if status != StatusCode::OK {
                return Err(Failure::Status(status));
            }
            grpc_verdict(&read(body).await)
        }
    }
}

/// Sends the request by whatever is spoken on the connection.
async fn exchange(
    dialled: Dialled,
    endpoint: &Endpoint,
    mut parts: Parts,
    message: Option<Bytes>,
) -> Result<(StatusCode, Coming), Failure> {
    let Dialled { stream, protocol } = dialled;
    let mut body = message.map(Full::new);
    let draft = Draft {
        parts: &mut parts,
        added: &mut Added::default(),
        body: &mut body,
        front: &mut None,
    };
    match protocol {
        Alpn::Http1 => {
            let now = clock::now();
            let wire = Wire {
                stream,
                born: now,
                idle_since: now,
                seen: None,
                counted: None,
            };
            let answer = http1::exchange(wire, draft, HEADER_LIMIT, |_| {}).await;
            let answer = answer.map_err(|failure| Failure::Fault(failure.fault))?;
            let body = match answer.rest {
                Rest::Whole(bytes, _) => Coming::Whole(bytes),
                Rest::Flowing(flow) => Coming::Http1(flow),
                Rest::Switched(..) => return Err(Failure::Fault(Fault::ResponseMalformed)),
            };
            Ok((answer.head.status, body))
        }
        Alpn::H2 => {
            let scheme = match endpoint.tls {
                Some(_) => Scheme::HTTPS,
                None => Scheme::HTTP,
            };
            let opened = http2::open(stream, HEADER_LIMIT).await;
            let (mut sender, _) = opened.map_err(Failure::Fault)?;
            let response = http2::exchange(&mut sender, draft, scheme, false).await;
            let response = response.map_err(|failure| Failure::Fault(failure.fault))?;
            let (parts, body) = response.into_parts();
            Ok((parts.status, Coming::Http2(body)))
        }
    }
}

/// The body of an answer.
enum Coming {
    Whole(Bytes),
    Http1(Box<Flow<Full<Bytes>>>),
    Http2(hyper::body::Incoming),
}

/// The front of a body, until it ends, breaks or is long enough.
async fn read(mut coming: Coming) -> Bytes {
    let mut front = BytesMut::new();
    while front.len() < BODY_LIMIT {
        let frame = match &mut coming {
            Coming::Whole(bytes) => return std::mem::take(bytes),
            Coming::Http1(flow) => poll_fn(|cx| flow.poll_frame(cx)).await.and_then(Result::ok),
            Coming::Http2(body) => poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx))
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

    async fn judge(&self, status: StatusCode, body: Coming) -> Result<(), Failure> {
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
fn grpc_verdict(body: &[u8]) -> Result<(), Failure> {
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
