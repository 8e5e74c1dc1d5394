//! What we take off and put on: Host, hop-by-hop fields, forwarding fields, Via, the request id; for every pair of
//! protocols in this one place (RFC 9110 §7.6, RFC 9113 §8.2 and §8.3).
//!
//! A field that a client could use to pose as us is removed before ours is set, so that `Connection` can strip
//! nothing that we add.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header};
use hyper::ext::Protocol as ConnectProtocol;

use crate::base::fault::Fault;
use crate::base::lines::FieldLines;
use crate::base::path;
use crate::dataplane::context::{Asked, Facts, Scheme};
use crate::dataplane::filter::{self, Filter};
use crate::dataplane::http::body::{Closing, RequestBody, RequestSource};
use crate::dataplane::http::expect::Latch;
use crate::dataplane::http::forward::{Outbound, Passage};
use crate::dataplane::http::framing::{Refusal, TARGET_BYTES};
use crate::dataplane::http::seen::Seen;
use crate::dataplane::http::upgrade::Wish;
use crate::dataplane::http::{Downstream, Engine};
use crate::dataplane::route::Lookup;
use crate::dataplane::snapshot::{Route, Snapshot};
use crate::dataplane::upstream::draft::{Added, X_REQUEST_ID};
use crate::dataplane::upstream::head::{AnswerHead, Fields};
use crate::dataplane::upstream::mirror::X_LOCKGATE_MIRROR;
use crate::telemetry::access_log::Protocol;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const CLIENT_SUBJECT: HeaderName = HeaderName::from_static("x-client-cert-subject");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// A CGI program would read this field as its own proxy setting ("httpoxy").
const PROXY: HeaderName = HeaderName::from_static("proxy");

/// What the client says of itself when it says nothing (HTTP/1.0).
const NO_HOST: HeaderValue = HeaderValue::from_static("");

/// Cookie fields of one HTTP/2 request, at most: clients send their crumbs apart (RFC 9113 §8.2.3).
const COOKIE_CRUMBS: usize = 128;

/// A request on its way through the decisions about it.
#[derive(Debug)]
pub struct Inbound {
    /// Method, target, fields. Boxed: it is handed on by every step.
    pub parts: Box<Parts>,
    /// The body.
    pub body: RequestSource,
    /// The host that the client asks for, as it wrote it; empty for an HTTP/1.0 client that does not say, and
    /// before [`admit`].
    pub host: HeaderValue,
    /// Which of the fields that ask for work are there.
    pub seen: Seen,
    /// It is no request, but stands for a head that may not pass.
    refusal: Option<Box<Refusal>>,
}

impl Inbound {
    /// A request as a codec delivers it.
    pub fn new(parts: Parts, body: RequestSource) -> Self {
        Self {
            seen: Seen::among(&parts.headers),
            parts: Box::new(parts),
            body,
            host: NO_HOST,
            refusal: None,
        }
    }

    /// What is answered and recorded for a head that may not pass.
    pub fn refused(refusal: Box<Refusal>) -> Self {
        let (mut parts, ()) = Request::new(()).into_parts();
        if let Some(method) = &refusal.method {
            parts.method = method.clone();
        }
        Self {
            refusal: Some(refusal),
            ..Self::new(parts, RequestSource::Empty)
        }
    }

    /// Why it is no request, if it stands for a head that may not pass; told once.
    pub fn take_refusal(&mut self) -> Option<Box<Refusal>> {
        self.refusal.take()
    }

    /// Runs the filters of a route.
    ///
    /// # Errors
    /// Those of [`filter::on_request`].
    pub fn run(&mut self, filters: &[Filter]) -> Result<(), Fault> {
        if filters.is_empty() {
            return Ok(());
        }
        filter::on_request(filters, &mut self.parts)?;
        self.seen = Seen::among(&self.parts.headers);
        Ok(())
    }
}

/// Takes a request in: refuses what nobody should act on, and writes down who asks for what. Its target is in origin
/// form afterwards.
///
/// # Errors
/// The fault that the codec found in the head, or one of the request's own.
pub fn admit(
    engine: &Engine,
    downstream: &Downstream,
    snapshot: &Snapshot,
    inbound: &mut Inbound,
    closing: &mut Closing,
) -> Result<(), Fault> {
    let record = &mut closing.record;
    if let Some(refusal) = inbound.take_refusal() {
        record.method = refusal.method;
        record.target = refusal.target;
        record.host = refusal.host;
        record.protocol = Some(Protocol::Http11);
        return Err(refusal.fault);
    }
    let parts = &mut *inbound.parts;
    record.method = Some(parts.method.clone());
    record.target = Some(parts.uri.clone());
    record.protocol = Some(protocol(parts.version));
    if record.log.wants_headers() {
        record.referer = parts.headers.get(header::REFERER).cloned();
        record.user_agent = parts.headers.get(header::USER_AGENT).cloned();
    }
    inbound.host = host_of(parts)?;
    record.host = Some(inbound.host.clone());
    let peer = downstream.facts.client.ip();
    let trusted = !snapshot.trusted_proxies.is_empty() && snapshot.trusts(peer);
    if trusted {
        record.client = client_behind(snapshot, peer, &parts.headers);
        record.client_text = None;
    }
    let given = inbound
        .seen
        .has(Seen::REQUEST_ID)
        .then(|| parts.headers.get(X_REQUEST_ID))
        .flatten();
    record.request_id = Some(engine.request_ids.pick(given));
    if parts.version == Version::HTTP_2 {
        judge_http2(snapshot, parts, inbound.seen)?;
        if !closing.active.hold(header_bytes(parts)) {
            return Err(Fault::Overloaded);
        }
    }
    if parts.method == Method::CONNECT && parts.extensions.get::<ConnectProtocol>().is_none() {
        return Err(Fault::MethodRefused);
    }
    if parts.uri.scheme().is_some() || parts.uri.authority().is_some() {
        parts.uri = origin_form(&parts.uri);
    }
    Ok(())
}

fn protocol(version: Version) -> Protocol {
    match version {
        Version::HTTP_10 => Protocol::Http10,
        Version::HTTP_2 => Protocol::Http2,
        _ => Protocol::Http11,
    }
}

/// The host that a request asks for; the target's authority and `Host` must not disagree.
fn host_of(parts: &Parts) -> Result<HeaderValue, Fault> {
    let mut fields = parts.headers.get_all(header::HOST).iter();
    let field = fields.next();
    if fields.next().is_some() {
        return Err(Fault::HostInvalid);
    }
    let Some(authority) = parts.uri.authority() else {
        return match field {
            Some(field) => Ok(field.clone()),
            None if parts.version == Version::HTTP_10 => Ok(NO_HOST),
            None => Err(Fault::HostInvalid),
        };
    };
    if field.is_some_and(|field| !is_same_host(field.as_bytes(), authority.as_str(), &parts.uri)) {
        return Err(Fault::HostInvalid);
    }
    HeaderValue::from_str(authority.as_str()).map_err(|_| Fault::HostInvalid)
}

/// The bytes of a header, and what each field takes besides (RFC 7541 §4.1).
fn header_bytes(parts: &Parts) -> usize {
    let target = parts
        .uri
        .path_and_query()
        .map_or(0, |target| target.as_str().len());
    let fields = parts.headers.iter();
    let fields = fields.map(|(name, value)| name.as_str().len() + value.len() + 32);
    target + fields.sum::<usize>()
}

/// Whether two spellings name one host: letters have no case, and the port that the scheme implies is as good as none
/// (RFC 9113 §8.3.1, RFC 3986 §6.2.3).
fn is_same_host(field: &[u8], authority: &str, target: &Uri) -> bool {
    let authority = authority.as_bytes();
    if field.eq_ignore_ascii_case(authority) {
        return true;
    }
    let implied: &[u8] = match target.scheme_str() {
        Some("http") => b":80",
        Some("https") => b":443",
        _ => return false,
    };
    let bare = |host| <[u8]>::strip_suffix(host, implied).unwrap_or(host);
    bare(field).eq_ignore_ascii_case(bare(authority))
}

/// Judges what hyper's codec of HTTP/2 lets through, by the rules that ours for HTTP/1 has of itself.
fn judge_http2(snapshot: &Snapshot, parts: &Parts, seen: Seen) -> Result<(), Fault> {
    let target = parts.uri.path_and_query().map_or("", PathAndQuery::as_str);
    if target.len() > TARGET_BYTES {
        return Err(Fault::TargetTooLong);
    }
    // The parser of URIs takes UTF-8, and an asterisk for any method (RFC 9113 §8.3.1).
    let is_odd = !target.is_ascii() || (target == "*" && parts.method != Method::OPTIONS);
    if is_odd || seen.has(Seen::QUOTED) {
        return Err(Fault::RequestMalformed);
    }
    // White space around a value would be no part of it in HTTP/1.1 (RFC 9113 §8.2.1).
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let is_padded = |value: &HeaderValue| {
        let value = value.as_bytes();
        is_blank(value.first()) || is_blank(value.last())
    };
    if parts.headers.values().any(is_padded) {
        return Err(Fault::RequestMalformed);
    }
    let mut expectations = parts.headers.get_all(header::EXPECT).iter();
    if expectations.any(|value| !value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        return Err(Fault::ExpectationUnknown);
    }
    let fields = parts.headers.len();
    if fields <= snapshot.limits.header_fields {
        return Ok(());
    }
    let crumbs = parts.headers.get_all(header::COOKIE).iter().count();
    if crumbs > COOKIE_CRUMBS || fields - crumbs > snapshot.limits.header_fields {
        return Err(Fault::HeaderTooLarge);
    }
    Ok(())
}

/// A target without scheme and authority.
pub fn origin_form(uri: &Uri) -> Uri {
    let path = uri
        .path_and_query()
        .cloned()
        .unwrap_or_else(|| PathAndQuery::from_static("/"));
    Uri::from(path)
}

/// The client's address as the proxies that we trust tell it: from the right, the first that is none of them.
fn client_behind(snapshot: &Snapshot, peer: IpAddr, fields: &HeaderMap) -> IpAddr {
    let mut client = peer;
    let lines: Vec<_> = fields.get_all(X_FORWARDED_FOR).iter().collect();
    for line in lines.into_iter().rev() {
        for hop in line.to_str().unwrap_or_default().rsplit(',') {
            let Ok(hop) = hop.trim().parse::<IpAddr>() else {
                return client;
            };
            client = hop.to_canonical();
            if !snapshot.trusts(client) {
                return client;
            }
        }
    }
    client
}

/// Finds the route by the normal forms of host and path.
///
/// # Errors
/// [`Fault::HostInvalid`], [`Fault::PathRefused`], [`Fault::Misdirected`], [`Fault::NoRoute`].
pub fn find_route<'a>(
    snapshot: &'a Snapshot,
    downstream: &Downstream,
    inbound: &Inbound,
) -> Result<&'a Arc<Route>, Fault> {
    let asked = downstream.facts.asked(&inbound.host);
    let asked = asked.map_err(|_| Fault::HostInvalid)?;
    if let (Some(secure), Some(plan)) = (&downstream.facts.secure, &downstream.listener.tls)
        && !plan
            .certs()
            .same_certificate(secure.server_name.as_deref(), &asked.normal)
    {
        return Err(Fault::Misdirected);
    }
    let path = path::normal_path(inbound.parts.uri.path()).map_err(|_| Fault::PathRefused)?;
    let lookup = Lookup {
        host: &asked.normal,
        path: &path.path,
        query: inbound.parts.uri.query(),
        method: &inbound.parts.method,
        headers: &inbound.parts.headers,
    };
    let route = snapshot.routes.find(&lookup).ok_or(Fault::NoRoute)?;
    if path.has_encoded_slash && !route.allow_encoded_slashes {
        return Err(Fault::PathRefused);
    }
    Ok(route)
}

/// Makes the request ready for an endpoint.
///
/// # Errors
/// [`Fault::HostInvalid`].
pub fn prepare(
    passage: Passage<'_>,
    inbound: Inbound,
    wish: &Wish,
    closing: &mut Closing,
) -> Result<Outbound, Fault> {
    let Passage {
        engine,
        downstream,
        snapshot,
        ..
    } = passage;
    let Inbound {
        mut parts,
        body,
        host,
        seen,
        refusal: _,
    } = inbound;
    let asked = downstream.facts.asked(&host);
    let asked = asked.map_err(|_| Fault::HostInvalid)?;
    let peer = downstream.facts.client.ip();
    let trusted = !snapshot.trusted_proxies.is_empty() && snapshot.trusts(peer);
    let fields = &mut parts.headers;
    if seen.has(Seen::HOP_BY_HOP) {
        let accepts_trailers = seen.has(Seen::TE) && takes_trailers(fields);
        strip_hop_by_hop(fields, seen);
        if accepts_trailers {
            fields.insert(header::TE, HeaderValue::from_static("trailers"));
        }
    }
    if seen.has(Seen::COOKIE) {
        join_cookies(fields);
    }
    if seen.has(Seen::FORGED) {
        remove_forged(fields, trusted);
    }
    if !seen.has(Seen::HOST) {
        fields.insert(header::HOST, host);
    }
    if seen.has(Seen::REQUEST_ID) {
        fields.remove(X_REQUEST_ID);
    }
    let added = Added {
        lines: Some(if trusted {
            append_hops(fields, &downstream.facts, &asked);
            Rc::new(FieldLines::new(vec![(header::VIA, via(parts.version))]))
        } else {
            asked.lines(parts.version, || {
                forwarding(&downstream.facts, &asked, parts.version)
            })
        }),
        request_id: closing.record.request_id.clone(),
    };
    wish.ask(fields);
    if let RequestSource::Empty = body {
        if seen.has(Seen::EXPECT) {
            fields.remove(header::EXPECT);
        }
        return Ok(Outbound {
            parts,
            added,
            body: None,
            kept: None,
            front: None,
            intake: None,
            latch: None,
        });
    }
    let latch = seen.has(Seen::EXPECT).then(Latch::default);
    let gate = latch.as_ref().map(Latch::gate);
    let pause = snapshot.timeouts.body;
    let (body, intake) = RequestBody::metered(body, gate, &engine.deadlines, pause);
    closing.intake = Some(Rc::clone(&intake));
    Ok(Outbound {
        parts,
        added,
        body: Some(body),
        kept: None,
        front: None,
        intake: Some(intake),
        latch,
    })
}

/// Our entry of `Via` names the protocol that the message came by (RFC 9110 §7.6.3).
fn via(version: Version) -> HeaderValue {
    HeaderValue::from_static(match version {
        Version::HTTP_10 => "1.0 lockgate",
        Version::HTTP_2 => "2.0 lockgate",
        _ => "1.1 lockgate",
    })
}

fn takes_trailers(fields: &HeaderMap) -> bool {
    fields.get_all(header::TE).iter().any(|value| {
        value.as_bytes().split(|&b| b == b',').any(|coding| {
            let coding = coding.split(|&b| b == b';').next().unwrap_or_default();
            coding.trim_ascii().eq_ignore_ascii_case(b"trailers")
        })
    })
}

/// Removes what is for this connection alone, and what `Connection` says is (RFC 9110 §7.6.1).
fn strip_hop_by_hop(fields: &mut HeaderMap, seen: Seen) {
    if seen.has(Seen::CONNECTION)
        && let header::Entry::Occupied(entry) = fields.entry(header::CONNECTION)
    {
        let mut listed = entry.remove_entry_mult().1;
        // Most clients and endpoints send one value, and its life ends here.
        let first = listed.next();
        let more: Vec<HeaderValue> = listed.collect();
        for value in first.iter().chain(&more) {
            strip_listed(fields, value);
        }
    }
    if seen.has(Seen::TRANSPORT) {
        fields.remove(KEEP_ALIVE);
        fields.remove(PROXY_CONNECTION);
        fields.remove(header::TRANSFER_ENCODING);
    }
    if seen.has(Seen::TE) {
        fields.remove(header::TE);
    }
    if seen.has(Seen::UPGRADE) {
        fields.remove(header::UPGRADE);
    }
}

/// Removes the fields that a value of `Connection` lists.
fn strip_listed(fields: &mut HeaderMap, value: &HeaderValue) {
    if matches!(value.as_bytes(), b"keep-alive" | b"close") {
        return;
    }
    for name in value.as_bytes().split(|&b| b == b',') {
        let name = name.trim_ascii();
        // Nearly all say just this.
        if name.eq_ignore_ascii_case(b"keep-alive") || name.eq_ignore_ascii_case(b"close") {
            continue;
        }
        if let Ok(name) = HeaderName::from_bytes(name)
            && !is_framing(&name)
        {
            fields.remove(name);
        }
    }
}

/// Fields that say where a message ends or whom it is for; no `Connection` takes them away.
fn is_framing(name: &HeaderName) -> bool {
    *name == header::CONTENT_LENGTH || *name == header::HOST
}

/// HTTP/2 clients send cookies in crumbs; towards an endpoint they are one field (RFC 9113 §8.2.3).
fn join_cookies(fields: &mut HeaderMap) {
    let mut crumbs = fields.get_all(header::COOKIE).iter();
    let (Some(first), Some(second)) = (crumbs.next(), crumbs.next()) else {
        return;
    };
    let mut joined = BytesMut::from(first.as_bytes());
    for crumb in std::iter::once(second).chain(crumbs) {
        joined.put_slice(b"; ");
        joined.put_slice(crumb.as_bytes());
    }
    if let Ok(joined) = HeaderValue::from_maybe_shared(joined.freeze()) {
        fields.insert(header::COOKIE, joined);
    }
}

/// Removes what only we, or a proxy that we trust, may say.
fn remove_forged(fields: &mut HeaderMap, trusted: bool) {
    fields.remove(PROXY);
    fields.remove(CLIENT_SUBJECT);
    if !trusted {
        fields.remove(X_FORWARDED_FOR);
        fields.remove(header::FORWARDED);
        fields.remove(X_FORWARDED_PROTO);
        fields.remove(X_FORWARDED_HOST);
        fields.remove(X_FORWARDED_PORT);
        fields.remove(X_REAL_IP);
        fields.remove(X_LOCKGATE_MIRROR);
    }
    // A server that turns names into variables cannot tell the two spellings apart.
    remove_twins(fields);
}

/// What we say of a client that no trusted proxy speaks for.
fn forwarding(facts: &Facts, asked: &Asked, version: Version) -> FieldLines {
    let mut fields = vec![
        (X_FORWARDED_FOR, facts.client_value.clone()),
        (header::FORWARDED, asked.forwarded.clone()),
        (X_FORWARDED_PROTO, scheme_value(facts.scheme())),
        (X_FORWARDED_HOST, asked.value.clone()),
    ];
    fields.extend(client_subject(facts));
    fields.push((header::VIA, via(version)));
    FieldLines::new(fields)
}

fn client_subject(facts: &Facts) -> Option<(HeaderName, HeaderValue)> {
    let subject = facts.secure.as_ref()?.client_subject.clone()?;
    Some((CLIENT_SUBJECT, subject))
}

/// Adds our hop behind what a trusted proxy said before us.
fn append_hops(fields: &mut HeaderMap, facts: &Facts, asked: &Asked) {
    append_hop(fields, X_FORWARDED_FOR, &facts.client_value);
    append_hop(fields, header::FORWARDED, &asked.forwarded);
    fields
        .entry(X_FORWARDED_PROTO)
        .or_insert_with(|| scheme_value(facts.scheme()));
    fields
        .entry(X_FORWARDED_HOST)
        .or_insert_with(|| asked.value.clone());
    fields.extend(client_subject(facts));
}

fn scheme_value(scheme: Scheme) -> HeaderValue {
    HeaderValue::from_static(scheme.as_str())
}

/// Adds a hop at the end of a list that may span several lines.
fn append_hop(fields: &mut HeaderMap, name: HeaderName, hop: &HeaderValue) {
    let mut list = BytesMut::new();
    for line in fields.get_all(&name) {
        list.put_slice(line.as_bytes());
        list.put_slice(b", ");
    }
    list.put_slice(hop.as_bytes());
    let value = HeaderValue::from_maybe_shared(list.freeze()).unwrap_or_else(|_| hop.clone());
    fields.insert(name, value);
}

/// Removes fields that differ from ours only by an underscore for a hyphen.
fn remove_twins(fields: &mut HeaderMap) {
    let ours = |name: &str| {
        let spelled = |ours: &HeaderName| {
            ours.as_str().len() == name.len()
                && ours
                    .as_str()
                    .bytes()
                    .zip(name.bytes())
                    .all(|(a, b)| a == b || (a == b'-' && b == b'_'))
        };
        [
            X_FORWARDED_FOR,
            X_FORWARDED_PROTO,
            X_FORWARDED_HOST,
            X_FORWARDED_PORT,
            X_REAL_IP,
            X_REQUEST_ID,
            X_LOCKGATE_MIRROR,
            CLIENT_SUBJECT,
            header::CONTENT_LENGTH,
            header::TRANSFER_ENCODING,
        ]
        .iter()
        .any(spelled)
    };
    if fields.keys().any(|name| name.as_str().contains('_')) {
        let twins: Vec<_> = fields
            .keys()
            .filter(|name| name.as_str().contains('_') && ours(name.as_str()))
            .cloned()
            .collect();
        for twin in twins {
            fields.remove(twin);
        }
    }
}

/// Takes off an answer what was for the endpoint's connection alone; lines have come without.
pub fn take_back(head: &mut AnswerHead) {
    if let Fields::Map(fields) = head.fields() {
        let seen = Seen::among(fields);
        if seen.has(Seen::HOP_BY_HOP) {
            strip_hop_by_hop(head.map(), seen);
        }
        if seen.has(Seen::QUOTED) {
            remove_quoted(head.map());
        }
    }
}

/// Removes fields whose names HTTP/1 has not: an endpoint that speaks HTTP/2 could make a client misread an answer by them.
fn remove_quoted(fields: &mut HeaderMap) {
    let quoted = fields.keys().filter(|name| name.as_str().contains('"'));
    for name in quoted.cloned().collect::<Vec<_>>() {
        fields.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use http::Response;

    use super::*;

    #[test]
    fn an_answer_loses_the_fields_that_have_no_name_in_http1() {
        let name = |text: &'static str| HeaderName::from_lowercase(text.as_bytes()).unwrap();
        let answer = Response::builder().header(name("x\"y"), "1");
        let answer = answer.header(name("x-y"), "2").body(()).unwrap();
        let mut head = AnswerHead::from(answer.into_parts().0);
        take_back(&mut head);
        let left: Vec<_> = head.map().keys().collect();
        assert_eq!(left, ["x-y"]);
    }
}
