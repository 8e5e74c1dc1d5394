//! A fault, a redirect or a forwarded answer → what the client sees.
//!
//! A client learns the status and a fixed sentence; the cause goes to the access log. `Proxy-Status` (RFC 9209)
//! names the kind of failure, not its place.

use std::rc::Rc;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};

use crate::base::fault::Fault;
use crate::dataplane::filter::Redirect;
use crate::dataplane::http::body::{Closing, RequestBody, ResponseBody};
use crate::dataplane::http::forward::Answer;
use crate::dataplane::http::headers::Inbound;
use crate::dataplane::http::seen::Seen;
use crate::dataplane::http::upgrade;
use crate::dataplane::http::{Downstream, Engine, Reply};
use crate::dataplane::snapshot::Snapshot;
use crate::dataplane::upstream::answer::AnswerBody;
use crate::dataplane::upstream::head::AnswerHead;

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// When a client that met a full or empty house may come again, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// How a client wants to hear of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    form: Form,
    /// The answer to HEAD has no body.
    bodiless: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Plain,
    Html,
    Json,
    Grpc,
}

impl Style {
    /// The style for a request.
    pub fn of(inbound: &Inbound) -> Self {
        Self {
            form: if inbound.seen.has(Seen::ACCEPT | Seen::CONTENT_TYPE) {
                Form::of(&inbound.parts.headers)
            } else {
                Form::Plain
            },
            bodiless: inbound.parts.method == Method::HEAD,
        }
    }
}

impl Form {
    fn of(fields: &HeaderMap) -> Self {
        if let Some(kind) = fields.get(header::CONTENT_TYPE)
            && kind.as_bytes().starts_with(b"application/grpc")
        {
            return Self::Grpc;
        }
        let Some(accept) = fields.get(header::ACCEPT) else {
            return Self::Plain;
        };
        // The one that stands first: browsers begin with text/html, programs name what they read.
        for range in accept.as_bytes().split(|&b| b == b',') {
            let kind = range.split(|&b| b == b';').next().unwrap_or_default();
            match kind.trim_ascii() {
                b"text/html" | b"application/xhtml+xml" => return Self::Html,
                b"application/json" | b"application/problem+json" => return Self::Json,
                b"text/plain" => return Self::Plain,
                _ => {}
            }
        }
        Self::Plain
    }
}

/// The answer of an endpoint, of a redirect or of a fixed response.
pub fn answer(
    engine: &Engine,
    downstream: &Rc<Downstream>,
    answer: Answer,
    style: Style,
    mut closing: Box<Closing>,
) -> Reply<ResponseBody> {
    let Answer {
        mut head,
        body,
        switch,
    } = answer;
    closing.record.status = Some(head.status.as_u16());
    if let Some(switch) = switch {
        return upgrade::begin(engine, downstream, head, *switch, closing);
    }
    let body = if style.bodiless {
        measured(&mut head, body)
    } else {
        body
    };
    Reply {
        head,
        body: ResponseBody::new(body, closing),
        is_malformed: false,
    }
}

/// Takes a body of ours off the answer to HEAD and leaves its length (RFC 9110 §9.3.2).
fn measured(head: &mut AnswerHead, body: AnswerBody<RequestBody>) -> AnswerBody<RequestBody> {
    match body {
        AnswerBody::Whole(bytes) if !bytes.is_empty() => {
            head.map()
                .insert(header::CONTENT_LENGTH, bytes.len().into());
            AnswerBody::empty()
        }
        body => body,
    }
}

/// The answer that a fault becomes.
pub fn fault(fault: Fault, style: Style, mut closing: Box<Closing>) -> Reply<ResponseBody> {
    // A client that we cut off is gone for a reason.
    let fault = match fault {
        Fault::ClientGone => closing.active.verdict().unwrap_or(fault),
        fault => fault,
    };
    closing.record.fault.get_or_insert(fault);
    let (mut response, logged) = match style.form {
        Form::Grpc => (grpc(fault), StatusCode::OK.as_u16()),
        Form::Plain | Form::Html | Form::Json => (page(fault, style.form), fault.code()),
    };
    closing.record.status = Some(logged);
    let fields = response.headers_mut();
    if let Some(kind) = proxy_status(fault) {
        fields.insert(PROXY_STATUS, kind);
    }
    match fault.status() {
        StatusCode::SERVICE_UNAVAILABLE => {
            fields.insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        StatusCode::TOO_MANY_REQUESTS => {
            fields.insert(header::RETRY_AFTER, closing.wait.max(1).into());
        }
        _ => {}
    }
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let Answer { mut head, body, .. } = Answer::own(response);
    let body = if style.bodiless {
        measured(&mut head, body)
    } else {
        body
    };
    Reply {
        head,
        body: ResponseBody::new(body, closing),
        is_malformed: matches!(fault, Fault::RequestMalformed | Fault::HostInvalid),
    }
}

fn proxy_status(fault: Fault) -> Option<HeaderValue> {
    let kind = fault.proxy_status();
    if kind.is_empty() {
        return None;
    }
    HeaderValue::from_str(&format!("lockgate; error={kind}")).ok()
}

/// What the client is sent: one that closed its half in the middle of its request may still be reading, and the
/// status of its absence is only for the log.
fn wire_status(fault: Fault) -> StatusCode {
    match fault.code() {
        499 => StatusCode::BAD_REQUEST,
        _ => fault.status(),
    }
}

fn page(fault: Fault, form: Form) -> Response<Bytes> {
    let status = wire_status(fault);
    let code = status.as_u16();
    let reason = status.canonical_reason().unwrap_or("Error");
    let sentence = sentence(status);
    let (kind, text) = match form {
        Form::Html => (
            "text/html; charset=utf-8",
            format!(
                "<!doctype html><html lang=en><meta charset=utf-8><meta name=color-scheme \
                 content=\"light dark\"><meta name=viewport content=\"width=device-width\">\
                 <title>{code} {reason}</title><style>body{{font:1.1rem/1.5 system-ui,sans-serif;\
                 max-width:34rem;margin:18vh auto;padding:0 1.5rem}}</style>\
                 <h1>{code} {reason}</h1><p>{sentence}</p></html>\n"
            ),
        ),
        Form::Json => (
            "application/problem+json",
            format!("{{\"status\":{code},\"title\":\"{reason}\",\"detail\":\"{sentence}\"}}\n"),
        ),
        Form::Plain | Form::Grpc => (
            "text/plain; charset=utf-8",
            format!("{code} {reason}\n{sentence}\n"),
        ),
    };
    let mut response = Response::new(Bytes::from(text));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// What a client is told: nothing of what is behind us.
fn sentence(status: StatusCode) -> &'static str {
    match status.as_u16() {
        404 => "There is nothing here.",
        408 => "The request took too long to arrive.",
        414 | 431 => "The request is too large.",
        429 => "These are too many requests: come again later.",
        421 => "This connection is not for that host.",
        400..=499 => "The request cannot be served as it is.",
        500 => "Something went wrong here.",
        501 | 505 => "The request asks for something that is not supported here.",
        503 => "The service is not available just now.",
        504 => "The service did not answer in time.",
        _ => "The service did not give a usable answer.",
    }
}

/// A failure as gRPC clients read it: 200, and the status in the trailers that stand for the head.
fn grpc(fault: Fault) -> Response<Bytes> {
    let code = match fault.code() {
        400 => "13",
        404 | 501 | 505 => "12",
        414 | 429 | 431 => "8",
        _ => "14",
    };
    let mut response = Response::new(Bytes::new());
    let fields = response.headers_mut();
    fields.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    fields.insert(GRPC_STATUS, HeaderValue::from_static(code));
    fields.insert(
        GRPC_MESSAGE,
        HeaderValue::from_static(sentence(fault.status())),
    );
    response
}

/// The answer of a route that sends clients elsewhere.
pub fn redirect(redirect: &Redirect, downstream: &Downstream, inbound: &Inbound) -> Answer {
    let host = inbound.host.to_str().unwrap_or_default();
    let target = inbound.parts.uri.path_and_query().cloned();
    let target = target.unwrap_or_else(|| PathAndQuery::from_static("/"));
    Answer::own(redirect.answer(downstream.facts.scheme().as_str(), host, &target))
}

/// The answer to the question whether new clients are welcome, if this is that question.
pub fn readiness(engine: &Engine, downstream: &Downstream, inbound: &Inbound) -> Option<Answer> {
    let path = downstream.listener.ready_path.as_deref()?;
    if inbound.parts.uri.path() != path {
        return None;
    }
    let (status, body) = match engine.is_ready.get() {
        true => (StatusCode::OK, "ready\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
    };
    let mut response = Response::new(Bytes::from_static(body.as_bytes()));
    *response.status_mut() = status;
    let fields = response.headers_mut();
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    fields.insert(header::CONTENT_TYPE, text);
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Some(Answer::own(response))
}

/// The answer of a listener that sends clients to https: the same URL, on the TLS listener's port.
///
/// # Errors
/// [`Fault::HostInvalid`] when the client does not say which host it means.
pub fn to_https(
    snapshot: &Snapshot,
    downstream: &Downstream,
    inbound: &Inbound,
) -> Result<Answer, Fault> {
    let asked = downstream.facts.asked(&inbound.host);
    let name = match &asked {
        Ok(asked) if !asked.normal.is_empty() => &asked.normal,
        _ => return Err(Fault::HostInvalid),
    };
    let ports: Vec<u16> = snapshot
        .listeners
        .iter()
        .filter(|listener| listener.tls.is_some())
        .map(|listener| listener.address.port())
        .collect();
    let port = match ports.first() {
        Some(first) if !ports.contains(&443) => format!(":{first}"),
        _ => String::new(),
    };
    let target = inbound
        .parts
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str());
    let location = HeaderValue::from_str(&format!("https://{name}{port}{target}"))
        .map_err(|_| Fault::HostInvalid)?;
    Ok(moved(StatusCode::PERMANENT_REDIRECT, location))
}

fn moved(status: StatusCode, location: HeaderValue) -> Answer {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    response.headers_mut().insert(header::LOCATION, location);
    Answer::own(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_hears_of_a_failure_in_the_form_it_reads() {
        let check = |name, value, expected| {
            let mut fields = HeaderMap::new();
            fields.insert(name, HeaderValue::from_static(value));
            assert_eq!(Form::of(&fields), expected, "{value}");
        };
        check(
            header::ACCEPT,
            "text/html,application/xhtml+xml,*/*;q=0.8",
            Form::Html,
        );
        check(header::ACCEPT, "application/json", Form::Json);
        check(header::ACCEPT, "*/*", Form::Plain);
        check(header::ACCEPT, "text/plain, text/html", Form::Plain);
        check(header::CONTENT_TYPE, "application/grpc+proto", Form::Grpc);
    }

    #[test]
    fn no_answer_of_ours_tells_of_what_is_behind_us() {
        // What is said is chosen by the status alone: neither the exchange nor its cause is at hand where it is made.
        for fault in Fault::ALL {
            let answers = [Form::Plain, Form::Html, Form::Json].map(|form| page(*fault, form));
            for response in answers.into_iter().chain([grpc(*fault)]) {
                let mut said = String::from_utf8_lossy(response.body()).into_owned();
                for (name, value) in response.headers() {
                    said.push_str(&format!("\n{name}: {}", value.to_str().unwrap()));
                }
                if let Some(kind) = proxy_status(*fault) {
                    said.push_str(&format!("\n{}", kind.to_str().unwrap()));
                    assert_eq!(kind, format!("lockgate; error={}", fault.proxy_status()));
                }
                let said = said.to_ascii_lowercase();
                // No word of causes or of the config, no address, no version.
                for word in [
                    "endpoint",
                    "upstream",
                    "pool",
                    "backend",
                    "os error",
                    "dns",
                    "certificate verify",
                    "127.0.0.1",
                    "unix:",
                    "://",
                    env!("CARGO_PKG_VERSION"),
                ] {
                    assert!(!said.contains(word), "{word} in {said}");
                }
                let numbers = said.split(|char: char| !(char.is_ascii_digit() || char == ':'));
                let is_port = |text: &str| text.parse::<u16>().is_ok();
                let mut ports = numbers.filter_map(|text| text.split_once(':'));
                assert!(
                    !ports.any(|(host, port)| is_port(host) && is_port(port)),
                    "{said}"
                );
            }
        }
    }

    #[test]
    fn every_fault_has_a_status_of_grpc_and_is_told_without_a_body() {
        for &fault in Fault::ALL {
            let answer = grpc(fault);
            let status = answer.headers()[GRPC_STATUS].to_str().unwrap();
            assert!((1..=16).contains(&status.parse().unwrap()), "{fault:?}");
            assert!(answer.status() == StatusCode::OK && answer.body().is_empty());
        }
    }

    #[test]
    fn no_page_tells_which_fault_it_was() {
        for fault in Fault::ALL {
            for form in [Form::Plain, Form::Html, Form::Json] {
                let response = page(*fault, form);
                let text = String::from_utf8_lossy(response.body());
                assert!(!text.contains(fault.token()), "{text}");
            }
        }
    }
}
