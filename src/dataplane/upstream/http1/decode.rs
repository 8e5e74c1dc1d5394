//! The head of an answer, as HTTP/1.1 writes it, and what it says of the body (RFC 9112 §4, §5, §6.3).
//!
//! An answer whose end could be read in two ways is no answer: another client must never get a part of it.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use httparse::{ParserConfig, Status};
use hyper::ext::ReasonPhrase;

use crate::base::fault::Fault;
use crate::base::octets;
use crate::dataplane::upstream::head::{AnswerHead, Fields, Lines, is_stream};
use crate::dataplane::upstream::keep_alive;

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

/// A head that was read.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) head: AnswerHead,
    pub(super) framing: Framing,
    /// Whether another exchange may follow on the connection.
    pub(super) keeps_alive: bool,
    /// For how many seconds the endpoint leaves the connection open, if it says so.
    pub(super) patience: Option<u32>,
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
    patience: Option<u32>,
}

/// Reads a head; `None` when more of it has to come. `bodiless` says that it answers HEAD.
///
/// Fields of a final answer that do not stay lines take the room of `spent`, those of the request, if nobody needs them any
/// more then.
///
/// # Errors
/// [`Fault::ResponseMalformed`], [`Fault::ResponseHeaderTooLarge`].
pub(super) fn head(
    came: &Bytes,
    limit: usize,
    bodiless: bool,
    spent: &mut HeaderMap,
) -> Result<Option<Decoded>, Fault> {
    match usual(came, limit, bodiless) {
        Some(decoded) => Ok(Some(decoded)),
        None => any(came, limit, bodiless, spent),
    }
}

/// Reads a head of the form that nearly all have, and leaves its fields where they are.
///
/// `None` for every other: one that is not whole, that is odd, or that may not pass. What it takes, [`any`] takes in the same
/// sense.
fn usual(came: &Bytes, limit: usize, bodiless: bool) -> Option<Decoded> {
    let text = came.get(..limit.min(came.len()))?;
    let (code, rest) = text.strip_prefix(b"HTTP/1.1 ")?.split_first_chunk::<3>()?;
    let status = StatusCode::from_bytes(code).ok()?;
    if status.is_informational() || status == StatusCode::NO_CONTENT {
        return None;
    }
    let reason = status.canonical_reason()?.as_bytes();
    let rest = rest.strip_prefix(b" ")?.strip_prefix(reason)?;
    let mut rest = rest.strip_prefix(b"\r\n")?;
    let mut lines = Lines::new(came.clone());
    let mut said = Said::default();
    let mut run = text.len() - rest.len();
    let mut count = 0;
    loop {
        let start = text.len() - rest.len();
        if let Some(behind) = rest.strip_prefix(b"\r\n") {
            lines.push(run..start);
            lines.length = said.length;
            let framing = framing(status, bodiless, true, &said).ok()?;
            return Some(Decoded {
                head: AnswerHead::new(status, Fields::Lines(lines)),
                framing,
                keeps_alive: framing != Framing::UntilClose && !said.closes,
                patience: said.patience,
                bytes: text.len() - behind.len(),
            });
        }
        let (name, behind) = rest.split_at(rest.iter().position(|byte| !octets::is_token(*byte))?);
        let behind = behind.strip_prefix(b":")?;
        let (value, behind) = behind.split_at(octets::find_control(behind)?);
        rest = behind.strip_prefix(b"\r\n")?;
        count += 1;
        if name.is_empty() || count > RESPONSE_FIELDS {
            return None;
        }
        if !said.passes(name, octets::trim(value), &mut lines)? {
            lines.push(run..start);
            run = text.len() - rest.len();
        }
    }
}

/// Reads a head of any form.
pub(super) fn any(
    came: &Bytes,
    limit: usize,
    bodiless: bool,
    spent: &mut HeaderMap,
) -> Result<Option<Decoded>, Fault> {
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
    // Behind an interim answer the request is still under way, and behind an error it may be sent again.
    let is_last = !is_interim(status) && !status.is_client_error() && !status.is_server_error();
    let mut fields = if is_last {
        std::mem::take(spent)
    } else {
        HeaderMap::new()
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
    let mut head = AnswerHead::new(status, Fields::Map(fields));
    head.reason = response
        .reason
        .filter(|reason| !reason.is_empty() && Some(*reason) != status.canonical_reason())
        .and_then(|reason| ReasonPhrase::try_from(reason.as_bytes()).ok())
        .map(Box::new);
    let keeps_alive =
        framing != Framing::UntilClose && !said.closes && (is_http_11 || said.keeps_alive);
    Ok(Some(Decoded {
        head,
        framing,
        keeps_alive,
        patience: said.patience,
        bytes,
    }))
}

impl Said {
    /// Takes note of a field of a usual head; whether it goes to the client. `None` if it makes the head an unusual one.
    #[inline]
    fn passes(&mut self, name: &[u8], value: &[u8], lines: &mut Lines) -> Option<bool> {
        let is = |word: &[u8]| name.eq_ignore_ascii_case(word);
        match name.len() {
            2 if is(b"te") => return Some(false),
            4 if is(b"date") => lines.has_date = true,
            7 if is(b"upgrade") => return Some(false),
            10 if is(b"connection") => {
                let closes = value.eq_ignore_ascii_case(b"close");
                self.closes |= closes;
                // Another option may name fields that are to go.
                let is_known = closes || value.eq_ignore_ascii_case(b"keep-alive");
                return is_known.then_some(false);
            }
            10 if is(b"keep-alive") => {
                self.patience = keep_alive::timeout(value);
                return Some(false);
            }
            12 if is(b"content-type") => lines.may_pause = is_stream(value),
            14 if is(b"content-length") => {
                let length = length(value)?;
                return self.length.replace(length).is_none().then_some(true);
            }
            16 if is(b"proxy-connection") => return Some(false),
            17 if is(b"transfer-encoding") => {
                let is_known = !self.is_chunked && value.eq_ignore_ascii_case(b"chunked");
                self.is_chunked = true;
                return is_known.then_some(false);
            }
            _ => {}
        }
        Some(true)
    }

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
        } else if name.as_str() == "keep-alive" {
            self.patience = keep_alive::timeout(value.as_bytes());
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
    use proptest::{bool, collection, prop_assert_eq, proptest, sample};

    use super::*;

    fn read(text: &str) -> Result<Option<Decoded>, Fault> {
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
        let got = got.map(|read| read.map(|read| (read.framing, read.keeps_alive)).unwrap());
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
            let read = read(text).unwrap().unwrap();
            read.head.reason.map(|reason| reason.as_bytes().to_vec())
        };
        assert_eq!(reason("HTTP/1.1 200 Fine\r\n\r\n"), Some(b"Fine".to_vec()));
        assert_eq!(reason("HTTP/1.1 200 OK\r\n\r\n"), None);
        assert_eq!(reason("HTTP/1.1 200\r\n\r\n"), None);
    }

    /// What a head comes to: status, fields that pass, framing, whether the connection is kept, bytes.
    type Sense = (StatusCode, Vec<(String, Vec<u8>)>, Framing, bool, usize);

    fn sense(decoded: Decoded) -> Sense {
        let mut head = decoded.head;
        let (status, may_pause) = (head.status, head.may_pause());
        let passes = |name: &str| {
            let hop_by_hop = [
                "te",
                "upgrade",
                "connection",
                "keep-alive",
                "proxy-connection",
                "transfer-encoding",
            ];
            !hop_by_hop.contains(&name)
        };
        let mut fields: Vec<_> = head
            .map()
            .iter()
            .filter(|(name, _)| passes(name.as_str()))
            .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
            .collect();
        fields.sort();
        assert_eq!(head.may_pause(), may_pause);
        (
            status,
            fields,
            decoded.framing,
            decoded.keeps_alive,
            decoded.bytes,
        )
    }

    #[test]
    fn a_usual_head_stays_lines() {
        let text = "HTTP/1.1 200 OK\r\nDate: now\r\nConnection: keep-alive\r\nContent-Type: text/event-stream\r\n\
                    X:  a b \r\nTransfer-Encoding: chunked\r\n\r\nrest";
        let read = read(text).unwrap().unwrap();
        let Fields::Lines(lines) = read.head.fields() else {
            panic!("{:?}", read.head);
        };
        let kept: Vec<_> = lines.iter().collect();
        assert_eq!(
            kept,
            [
                &b"Date: now\r\n"[..],
                b"Content-Type: text/event-stream\r\nX:  a b \r\n"
            ]
        );
        assert!(lines.has_date && lines.may_pause && lines.length.is_none());
        assert_eq!(
            (read.framing, read.bytes),
            (Framing::Chunked, text.len() - 4)
        );
    }

    proptest! {
        #![proptest_config(proptest::test_runner::Config::with_cases(4096))]

        #[test]
        fn a_usual_head_means_what_any_head_means(
            status in sample::select(vec!["200 OK", "200 Fine", "204 No Content", "304 Not Modified", "101 Switching Protocols", "404 Not Found", "999 X"]),
            lines in collection::vec(
                (
                    sample::select(vec![
                        "Content-Length", "content-length", "Transfer-Encoding", "Connection", "Keep-Alive", "Date",
                        "Content-Type", "TE", "Upgrade", "Proxy-Connection", "X-Other", "x_y", "", "A B", "\u{e9}",
                    ]),
                    sample::select(vec![": ", ":", " :", ":\t", ""]),
                    sample::select(vec![
                        "5", "6", "005", "chunked", "Chunked", "gzip, chunked", "close", "keep-alive", "close, x", "x",
                        "text/event-stream", "text/plain", "", "a\tb", "a\u{e9}b", "a\0", "a\u{7f}", "  a  ",
                    ]),
                    sample::select(vec!["\r\n", "\r\n", "\r\n", "\n", "\r\n ", "\r", ""]),
                ),
                0..5,
            ),
            end in sample::select(vec!["\r\n", "\n", "", "\r\nbody"]),
            bodiless in bool::ANY,
            limit in 16_usize..200,
        ) {
            let mut text = format!("HTTP/1.1 {status}\r\n");
            for (name, colon, value, line_end) in lines {
                text.extend([name, colon, value, line_end]);
            }
            let came = Bytes::from(text + end);
            if let Some(decoded) = usual(&came, limit, bodiless) {
                let other = any(&came, limit, bodiless, &mut HeaderMap::new());
                prop_assert_eq!(Some(sense(decoded)), other.unwrap().map(sense));
            }
        }
    }
}
