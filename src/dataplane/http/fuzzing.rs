//! What must hold for whatever requests clients send: where each ends, and what an endpoint gets of it.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Version};

use crate::base::addr::ClientAddr;
use crate::base::clock;
use crate::base::drain::Drain;
use crate::base::fault::Fault;
use crate::base::fuzzing::{Choices, oracle};
use crate::dataplane::context::Facts;
use crate::dataplane::http::body::{Closing, RequestSource};
use crate::dataplane::http::forward::Passage;
use crate::dataplane::http::framing::{Limits, Scanner};
use crate::dataplane::http::headers::{self, Inbound};
use crate::dataplane::http::upgrade::Wish;
use crate::dataplane::http::{Downstream, Engine, http1};
use crate::dataplane::snapshot::{ListenerPlan, Snapshot};
use crate::dataplane::upstream::http1::fuzzing::written;

/// Empty lines that may stand before a request.
const BLANK_LINES: usize = 4;

/// What a stream of bytes came to: the end of each head and body that passed, and what then.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    messages: Vec<Message>,
    end: End,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Message {
    /// Where it begins, and how long its head is.
    start: usize,
    head: usize,
    body: Vec<u8>,
    /// How long it is; absent while more of it has to come.
    length: Option<usize>,
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    Passed,
    Held,
    Refused(Fault),
    Broken(Fault),
}

/// Requests on a connection: judged alike in whatever pieces they come, and framed as RFC 9112 has it, if they pass.
pub fn requests(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let limits = match choices.below(8) {
        0 => Limits {
            header_bytes: 64,
            header_fields: 3,
            target_bytes: 12,
        },
        _ => Limits::default(),
    };
    let (bytes, pieces) = choices.pieces();
    let verdict = run(limits, &[bytes]);
    assert_eq!(run(limits, &pieces), verdict);
    assert_eq!(run(limits, &bytes.chunks(1).collect::<Vec<_>>()), verdict);
    for message in &verdict.messages {
        let text = &bytes[message.start..];
        let found = oracle::read(text, BLANK_LINES);
        let head = |request: &oracle::Request| {
            let parts = http1::fuzzing::parts(text);
            let (parts, length) = parts.expect("its head has passed");
            assert_eq!(length, message.head);
            is_same(&parts, request);
        };
        match (found, message.length) {
            (oracle::Found::Whole(request, used), Some(length)) => {
                assert_eq!((used, &request.body), (length, &message.body));
                head(&request);
            }
            (oracle::Found::Part(Some(request)), None) => {
                assert!(
                    request.body.starts_with(&message.body)
                        || message.body.starts_with(&request.body)
                );
                head(&request);
            }
            // Its body breaks off, or has what we do not take: extensions without end.
            (oracle::Found::Broken(_, Some(request)), None) => head(&request),
            (oracle::Found::Whole(request, _), None) if matches!(verdict.end, End::Broken(_)) => {
                head(&request);
            }
            (found, _) => unreachable!("{message:?} is {found:?}"),
        }
    }
}

fn is_same(parts: &Parts, request: &oracle::Request) {
    assert_eq!(parts.method.as_str(), request.method);
    let fields = parts.headers.iter();
    let mut ours: Vec<_> = fields
        .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
        .collect();
    let fields = request.fields.iter();
    let mut theirs: Vec<_> = fields
        .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
        .collect();
    // Of one name the order counts, which a stable sort keeps.
    ours.sort_by(|a, b| a.0.cmp(&b.0));
    theirs.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(ours, theirs);
}

/// Goes through the pieces as the codec does: what a step leaves comes again with more behind it.
fn run(limits: Limits, pieces: &[&[u8]]) -> Verdict {
    let mut scanner = Scanner::new(limits);
    let mut held = Vec::new();
    let mut passed = 0;
    let mut messages: Vec<Message> = Vec::new();
    let mut end = End::Passed;
    for piece in pieces {
        held.extend_from_slice(piece);
        end = End::Passed;
        while !held.is_empty() {
            let used = if scanner.is_in_body() {
                let framing = match scanner.frame(&held) {
                    Ok(framing) => framing,
                    Err((_, fault)) => {
                        end = End::Broken(fault);
                        break;
                    }
                };
                let here = held.len() - framing;
                let data = usize::try_from(scanner.data())
                    .unwrap_or(usize::MAX)
                    .min(here);
                scanner.take(data);
                if let Some(message) = messages.last_mut() {
                    message
                        .body
                        .extend_from_slice(&held[framing..framing + data]);
                }
                framing + data
            } else {
                match scanner.head(&held) {
                    Ok(Some(head)) => {
                        messages.push(Message {
                            start: passed,
                            head: head.bytes(),
                            ..Message::default()
                        });
                        head.bytes()
                    }
                    Ok(None) => {
                        end = End::Held;
                        break;
                    }
                    Err(refusal) => {
                        end = End::Refused(refusal.fault);
                        break;
                    }
                }
            };
            held.drain(..used);
            passed += used;
            if scanner.is_between()
                && let Some(message) = messages.last_mut()
            {
                message.length.get_or_insert(passed - message.start);
            }
        }
        if matches!(end, End::Refused(_) | End::Broken(_)) {
            break;
        }
    }
    Verdict { messages, end }
}

/// What only we, or a proxy that is trusted, may say to an endpoint.
const FORGEABLE: [&str; 7] = [
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-real-ip",
    "x-client-cert-subject",
    "x-lockgate-mirror",
];

/// What `Connection` or a codec is for.
const HOP_BY_HOP: [&str; 4] = [
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "proxy",
];

/// Peers, of which the first two are trusted.
pub const PEERS: [&str; 4] = ["192.0.2.7", "2001:db8::7", "198.51.100.9", "2001:db9::9"];

/// One request, over HTTP/1 or HTTP/2, from a client or a proxy: what is forwarded is one well-formed request that carries
/// nothing which was for us alone, and says of the client what is so.
pub fn heads(bytes: &[u8], engine: &Rc<Engine>, plan: &Arc<ListenerPlan>) {
    let mut choices = Choices::new(bytes);
    let number = choices.below(PEERS.len());
    let peer: IpAddr = PEERS[number].parse().expect("it is an address");
    let parts = match choices.flag() {
        true => http2(&mut choices),
        false => http1::fuzzing::parts(choices.rest()).map(|(parts, _)| parts),
    };
    let Some(parts) = parts else {
        return;
    };
    let (asked, version) = (parts.headers.clone(), parts.version);
    let facts = Facts::new(ClientAddr((peer, 4711).into()), None);
    let drain = Drain::default();
    let downstream = Downstream::new(facts, Arc::clone(plan), drain.guest(), clock::now());
    let downstream = Rc::new(downstream);
    let record = engine.record(&downstream.facts);
    let mut closing = Closing::new(record, downstream.enter());
    let mut inbound = Inbound::new(parts, RequestSource::Empty);
    let snapshot = engine.snapshot();
    if headers::admit(engine, &downstream, &snapshot, &mut inbound, &mut closing).is_err() {
        return;
    }
    let client = client_behind(&snapshot, peer, &asked);
    assert_eq!(closing.record.client, client);
    let Ok(route) = headers::find_route(&snapshot, &downstream, &inbound) else {
        return;
    };
    let Ok(wish) = Wish::of(&mut inbound) else {
        return;
    };
    let host = inbound.host.clone();
    let passage = Passage {
        engine,
        downstream: &downstream,
        snapshot: &snapshot,
        route,
    };
    let Ok(outbound) = headers::prepare(passage, inbound, &wish, &mut closing) else {
        return;
    };
    let text = written(&outbound.parts, &outbound.added);
    let shown = text.escape_ascii();
    let oracle::Found::Whole(request, used) = oracle::read(&text, 0) else {
        unreachable!("no request: {shown}");
    };
    assert_eq!(used, text.len(), "{shown}");
    let all = |name: &str| request.all(name);
    // `Host` and `:authority` may differ in their case.
    let is_host =
        |found: &[&[u8]]| found.len() == 1 && found[0].eq_ignore_ascii_case(host.as_bytes());
    assert!(is_host(&all("host")), "{shown}");
    assert_eq!(all("x-request-id").len(), 1, "{shown}");
    let wishes = usize::from(wish.is_some());
    assert!(
        all("connection").len() == wishes && all("upgrade").len() == wishes,
        "{shown}"
    );
    assert!(
        all("te").iter().all(|coding| *coding == b"trailers"),
        "{shown}"
    );
    assert!(
        HOP_BY_HOP.iter().all(|name| all(name).is_empty()),
        "{shown}"
    );
    let via = all("via").last().map(|via| via.ends_with(b" lockgate"));
    assert_eq!(via, Some(true), "{shown}");
    for (name, _) in &request.fields {
        let spelled = name.replace('_', "-");
        let is_twin =
            *name != spelled && (FORGEABLE.contains(&&*spelled) || spelled == "content-length");
        assert!(!is_twin, "{name} in {shown}");
    }
    // The client's address by one line, of which its own proxy may have told the front.
    let told = all("x-forwarded-for");
    assert_eq!(told.len(), 1, "{shown}");
    let last = told[0]
        .rsplit(|byte| *byte == b',')
        .next()
        .unwrap_or_default();
    assert_eq!(last.trim_ascii(), peer.to_string().as_bytes(), "{shown}");
    assert_eq!(all("forwarded").len(), 1, "{shown}");
    if number >= 2 {
        assert_eq!(told[0], last);
        assert!(is_host(&all("x-forwarded-host")), "{shown}");
        assert_eq!(all("x-forwarded-proto"), [b"http"], "{shown}");
        let silent = ["x-forwarded-port", "x-real-ip", "x-lockgate-mirror"];
        assert!(silent.iter().all(|name| all(name).is_empty()), "{shown}");
        let forwarded = String::from_utf8_lossy(all("forwarded")[0]).into_owned();
        assert!(
            forwarded.starts_with("for=") && !forwarded.contains(','),
            "{shown}"
        );
    }
    assert!(all("x-client-cert-subject").is_empty(), "{shown}");
    assert!(
        !(version == Version::HTTP_2 && all("cookie").len() > 1),
        "{shown}"
    );
}

/// From the right, the first address that no trusted network has, or the last that can be read.
fn client_behind(snapshot: &Snapshot, peer: IpAddr, fields: &HeaderMap) -> IpAddr {
    let trusts = |ip: &IpAddr| snapshot.trusted_proxies.iter().any(|net| net.contains(ip));
    let mut hops: Vec<String> = Vec::new();
    for line in fields.get_all("x-forwarded-for") {
        match line.to_str() {
            Ok(text) => hops.extend(text.split(',').map(|hop| hop.trim().to_owned())),
            Err(_) => hops.push("?".to_owned()),
        }
    }
    let mut client = peer;
    while trusts(&client) {
        match hops.pop().and_then(|hop| hop.parse::<IpAddr>().ok()) {
            Some(hop) => client = hop.to_canonical(),
            None => break,
        }
    }
    client
}

/// A request as the codec of HTTP/2 delivers it: method, authority and path, then fields, a line each.
fn http2(choices: &mut Choices<'_>) -> Option<Parts> {
    let method = Method::from_bytes(choices.until(b'\n')).ok()?;
    let authority = choices.until(b'\n');
    let path = choices.until(b'\n');
    let mut uri = Uri::builder().path_and_query(PathAndQuery::try_from(path).ok()?);
    if !authority.is_empty() {
        uri = uri
            .scheme(Scheme::HTTP)
            .authority(Authority::try_from(authority).ok()?);
    }
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = uri.build().ok()?;
    *request.version_mut() = Version::HTTP_2;
    while !choices.is_over() {
        let line = choices.until(b'\n');
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_lowercase(&line[..colon]).ok()?;
        // The codec resets a stream with one of these (RFC 9113 §8.2.2).
        let is_refused = matches!(
            name.as_str(),
            "connection" | "keep-alive" | "proxy-connection" | "transfer-encoding" | "upgrade"
        ) || (name == "te" && line[colon + 1..] != *b"trailers");
        if is_refused {
            return None;
        }
        request
            .headers_mut()
            .append(name, HeaderValue::from_bytes(&line[colon + 1..]).ok()?);
    }
    Some(request.into_parts().0)
}
