//! The head of an answer, as HTTP/1.1 writes it, and what it says of the body (RFC 9112 §4, §5, §6.3).
//!
//! An answer whose end could be read in two ways is no answer: another client must never get a part of it.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header, response};
use httparse::{ParserConfig, Status};
use hyper::ext::ReasonPhrase;

use crate::base::fault::Fault;

/// Fields of an answer's head.
pub const RESPONSE_FIELDS: usize = 256;

/// How the end of an answer's body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes.
    Length(u64),
    /// In chunks.
    Chunked,
    /// What comes until the endpoint closes.
    UntilClose,
}

/// The head of an answer.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) parts: response::Parts,
    pub(super) framing: Framing,
    /// Whether another exchange may follow on the connection.
    pub(super) keeps_alive: bool,
    /// How many bytes it has.
    pub(super) bytes: usize,
}

/// Whether another answer follows (RFC 9110 §15.2).
pub(super) fn is_interim(status: StatusCode) -> bool {
    status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
}

/// What the head says about its own end.
#[derive(Debug, Default)]
struct Said {
    length: Option<u64>,
    is_chunked: bool,
    closes: bool,
    keeps_alive: bool,
}

/// Reads a head; `None` when more of it has to come. `bodiless` says that it answers HEAD.
///
/// The fields of a final answer take the room of `spent`, those of the request, which nobody needs any more then.
///
/// # Errors
/// [`Fault::ResponseMalformed`], [`Fault::ResponseHeaderTooLarge`].
pub(super) fn head(
    came: &Bytes,
    limit: usize,
    bodiless: bool,
    spent: &mut HeaderMap,
) -> Result<Option<Head>, Fault> {
    let mut space = [const { MaybeUninit::uninit() }; RESPONSE_FIELDS];
    let mut response = httparse::Response::new(&mut []);
    let parsed =
        ParserConfig::default().parse_response_with_uninit_headers(&mut response, came, &mut space);
    let bytes = match parsed {
        Ok(Status::Complete(bytes)) if bytes <= limit => bytes,
        Ok(Status::Partial) if came.len() < limit => return Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(Fault::ResponseHeaderTooLarge),
        Err(_) => return Err(Fault::ResponseMalformed),
    };
    let status = response
        .code
        .and_then(|code| StatusCode::from_u16(code).ok())
        .ok_or(Fault::ResponseMalformed)?;
    let is_http_11 = response.version == Some(1);
    let mut fields = if is_interim(status) {
        HeaderMap::new()
    } else {
        std::mem::take(spent)
    };
    fields.clear();
    fields.reserve(response.headers.len());
    let mut said = Said::default();
    for line in &*response.headers {
        let name = HeaderName::from_bytes(line.name.as_bytes());
        let value = HeaderValue::from_maybe_shared(came.slice_ref(line.value));
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(Fault::ResponseMalformed);
        };
        if said.hears(&name, &value)? {
            fields
                .try_append(name, value)
                .map_err(|_| Fault::ResponseHeaderTooLarge)?;
        }
    }
    let framing = framing(status, bodiless, is_http_11, &said)?;
    if status == StatusCode::NO_CONTENT || status.is_informational() {
        // They have no body, and a length would be one more thing to disagree about (RFC 9110 §8.6).
        fields.remove(header::CONTENT_LENGTH);
    }
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.status = status;
    parts.headers = fields;
    parts.version = if is_http_11 {
        Version::HTTP_11
    } else {
        Version::HTTP_10
    };
    if let Some(reason) = response
        .reason
        .filter(|reason| !reason.is_empty() && Some(*reason) != status.canonical_reason())
        && let Ok(reason) = ReasonPhrase::try_from(reason.as_bytes())
    {
        parts.extensions.insert(reason);
    }
    let keeps_alive =
        framing != Framing::UntilClose && !said.closes && (is_http_11 || said.keeps_alive);
    Ok(Some(Head {
        parts,
        framing,
        keeps_alive,
        bytes,
    }))
}

impl Said {
    /// Takes note of a field; whether it is to be kept.
    fn hears(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<bool, Fault> {
        if *name == header::CONTENT_LENGTH {
            let length = length(value.as_bytes()).ok_or(Fault::ResponseMalformed)?;
            return match self.length.replace(length) {
                None => Ok(true),
                // The same again says nothing new, and is not passed on.
                Some(before) if before == length => Ok(false),
                Some(_) => Err(Fault::ResponseMalformed),
            };
        }
        if *name == header::TRANSFER_ENCODING {
            if self.is_chunked || !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
                return Err(Fault::ResponseMalformed);
            }
            self.is_chunked = true;
        } else if *name == header::CONNECTION {
            for option in value.as_bytes().split(|&b| b == b',') {
                let option = option.trim_ascii();
                self.closes |= option.eq_ignore_ascii_case(b"close");
                self.keeps_alive |= option.eq_ignore_ascii_case(b"keep-alive");
            }
        }
        Ok(true)
    }
}

/// Digits and nothing else (RFC 9110 §8.6).
fn length(value: &[u8]) -> Option<u64> {
    let is_plain = (1..=19).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    is_plain.then(|| {
        value
            .iter()
            .fold(0, |length, digit| length * 10 + u64::from(digit & 15))
    })
}

fn framing(
    status: StatusCode,
    bodiless: bool,
    is_http_11: bool,
    said: &Said,
) -> Result<Framing, Fault> {
    // Both together are how answers are split, and 1.0 knows no codings (RFC 9112 §6.1).
    if said.is_chunked && (said.length.is_some() || !is_http_11) {
        return Err(Fault::ResponseMalformed);
    }
    let has_none = bodiless
        || status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED;
    Ok(match said.length {
        _ if has_none => Framing::Length(0),
        _ if said.is_chunked => Framing::Chunked,
        Some(length) => Framing::Length(length),
        None => Framing::UntilClose,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<Head>, Fault> {
        let mut fields = HeaderMap::new();
        head(
            &Bytes::copy_from_slice(text.as_bytes()),
            256,
            false,
            &mut fields,
        )
    }

    #[track_caller]
    fn check(fields: &str, expected: Result<(Framing, bool), Fault>) {
        let line = if fields.starts_with("HTTP/") {
            ""
        } else {
            "HTTP/1.1 200 OK\r\n"
        };
        let got = read(&format!("{line}{fields}\r\n"));
        let got = got.map(|head| head.map(|head| (head.framing, head.keeps_alive)).unwrap());
        assert_eq!(got, expected, "{fields:?}");
    }

    #[test]
    fn a_head_says_where_its_body_ends() {
        use Framing::{Chunked, Length, UntilClose};
        check("Content-Length: 5\r\n", Ok((Length(5), true)));
        check(
            "content-length: 5\r\nContent-Length: 5\r\n",
            Ok((Length(5), true)),
        );
        check("Transfer-Encoding: Chunked\r\n", Ok((Chunked, true)));
        check("", Ok((UntilClose, false)));
        check(
            "Content-Length: 0\r\nConnection: x, Close\r\n",
            Ok((Length(0), false)),
        );
        check(
            "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n",
            Ok((Length(1), false)),
        );
        check(
            "HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n",
            Ok((Length(1), true)),
        );
        check(
            "HTTP/1.1 204 No Content\r\nContent-Length: 7\r\n",
            Ok((Length(0), true)),
        );
        check(
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n",
            Ok((Length(0), true)),
        );
        check("HTTP/1.1 100 Continue\r\n", Ok((Length(0), true)));
    }

    #[test]
    fn a_head_that_can_be_read_in_two_ways_is_refused() {
        for fields in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            "Content-Length: 5, 5\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: 5 5\r\n",
            "Content-Length:\r\n",
            "Content-Length: 99999999999999999999\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: identity\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n",
            "HTTP/2 200 OK\r\n",
            "HTTP/1.1 99 Low\r\n",
            "A B: c\r\n",
            "A: b\r\n c\r\n",
            "A : b\r\n",
            "A: \0\r\n",
        ] {
            check(fields, Err(Fault::ResponseMalformed));
        }
    }

    #[test]
    fn a_head_has_limits() {
        let long = "x".repeat(300);
        check(
            &format!("a: {long}\r\n"),
            Err(Fault::ResponseHeaderTooLarge),
        );
        let whole = format!("HTTP/1.1 200 OK\r\na: {long}");
        assert_eq!(read(&whole).unwrap_err(), Fault::ResponseHeaderTooLarge);
        let many = "a:\r\n".repeat(RESPONSE_FIELDS + 1);
        let many = Bytes::from(format!("HTTP/1.1 200 OK\r\n{many}\r\n"));
        let got = head(&many, 1 << 20, false, &mut HeaderMap::new());
        assert_eq!(got.unwrap_err(), Fault::ResponseHeaderTooLarge);
        assert!(read("HTTP/1.1 200 OK\r\na: b\r\n").unwrap().is_none());
    }

    #[test]
    fn a_reason_of_its_own_is_kept() {
        let reason = |text| {
            let head = read(text).unwrap().unwrap();
            let reason = head.parts.extensions.get::<ReasonPhrase>();
            reason.map(|reason| reason.as_bytes().to_vec())
        };
        assert_eq!(reason("HTTP/1.1 200 Fine\r\n\r\n"), Some(b"Fine".to_vec()));
        assert_eq!(reason("HTTP/1.1 200 OK\r\n\r\n"), None);
        assert_eq!(reason("HTTP/1.1 200\r\n\r\n"), None);
    }
}
