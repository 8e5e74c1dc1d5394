//! A head that passed, as the parts of a request.
//!
//! Values are pieces of the bytes that were read, not copies. Nothing is judged here; a head that the types of a
//! request do not take, which none is known to be, is refused like any other malformed one.

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};

use crate::dataplane::http::framing::Head;

/// What the answer to a request has to go by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    /// The answer has no body.
    pub(super) is_head: bool,
    pub(super) is_http_10: bool,
    /// The client wants the connection kept.
    pub(super) keeps_alive: bool,
    pub(super) takes_trailers: bool,
}

impl Asked {
    pub(super) fn of(head: &Head, method: &Method) -> Self {
        Self {
            is_head: *method == Method::HEAD,
            is_http_10: head.is_http_10(),
            keeps_alive: head.keeps_alive(),
            takes_trailers: head.takes_trailers(),
        }
    }

    /// For a head that was refused: the connection ends with the answer.
    pub(super) fn refused(method: Option<&Method>) -> Self {
        Self {
            is_head: method == Some(&Method::HEAD),
            is_http_10: false,
            keeps_alive: false,
            takes_trailers: false,
        }
    }
}

/// The parts of the request whose head `text` is; `fields` is an empty map.
pub(super) fn parts(head: &Head, text: &Bytes, fields: HeaderMap) -> Option<Parts> {
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = Method::from_bytes(head.method(text)?).ok()?;
    parts.uri = Uri::from_maybe_shared(text.slice(head.target_range()?)).ok()?;
    parts.version = if head.is_http_10() {
        Version::HTTP_10
    } else {
        Version::HTTP_11
    };
    parts.headers = fields;
    let fields = head.fields();
    parts.headers.reserve(fields.len());
    for (name, value) in fields {
        let name = HeaderName::from_bytes(text.get(name)?).ok()?;
        let value = HeaderValue::from_maybe_shared(text.slice(value)).ok()?;
        parts.headers.append(name, value);
    }
    Some(parts)
}
