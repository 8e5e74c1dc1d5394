//! The head of an answer as it is written, and what it says of the body behind it.

use http::{HeaderMap, StatusCode};
use http_body::Body;
use hyper::ext::ReasonPhrase;

use super::Framing;
use crate::dataplane::http::http1::Stock;
use crate::dataplane::http::http1::head::Asked;
use crate::dataplane::upstream::head::{AnswerHead, Fields};

/// What tells the length of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    /// There is no body; the head may state the length of another answer's (RFC 9110 §8.6).
    None { may_state: bool },
    /// The head, and if it states none, the body.
    Stated(Option<u64>),
    /// The body alone.
    Known(Option<u64>),
}

impl Length {
    pub(super) fn of<B: Body>(status: StatusCode, body: &B, asked: Asked) -> Self {
        let may_state = asked.is_head || status == StatusCode::NOT_MODIFIED;
        let is_bodiless =
            may_state || status.is_informational() || status == StatusCode::NO_CONTENT;
        if is_bodiless {
            Self::None { may_state }
        } else if body.is_end_stream() {
            Self::Known(Some(0))
        } else {
            Self::Stated(body.size_hint().exact())
        }
    }

    /// Whether a head that states `length` may go as it is.
    pub(super) fn agrees(self, length: Option<u64>) -> bool {
        match self {
            Self::None { may_state: true } | Self::Stated(_) => true,
            Self::None { may_state: false } => length.is_none(),
            Self::Known(known) => length.is_none() || length == known,
        }
    }
}

/// A head about to be written.
pub(super) struct Writing<'a> {
    pub(super) stock: &'a Stock,
    pub(super) head: &'a AnswerHead,
    pub(super) asked: Asked,
    pub(super) length: Length,
    /// The connection ends after the answer; found out on the way.
    pub(super) is_last: bool,
}

impl Writing<'_> {
    /// Writes it, and tells how its body is framed.
    pub(super) fn write(&mut self, out: &mut Vec<u8>) -> Framing {
        let start = out.len();
        self.try_write(out).unwrap_or_else(|| {
            // A length that is stated twice, or is no number, is not passed on.
            if let Length::Stated(known) = self.length {
                self.length = Length::Known(known);
            }
            out.truncate(start);
            self.try_write(out).unwrap_or(Framing::None)
        })
    }

    /// The same; `None` if it turns out on the way that the head states no length that could be believed.
    fn try_write(&mut self, out: &mut Vec<u8>) -> Option<Framing> {
        let status = self.head.status;
        let reason = self.head.reason.as_deref();
        write_status(out, status, reason, self.asked.is_http_10);
        let switches = status == StatusCode::SWITCHING_PROTOCOLS;
        let Stated {
            length: stated,
            has_date,
        } = match self.head.fields() {
            Fields::Lines(lines) => {
                for run in lines.iter() {
                    out.extend_from_slice(run);
                }
                Stated {
                    length: lines.length,
                    has_date: lines.has_date,
                }
            }
            Fields::Map(fields) => self.write_fields(out, fields)?,
        };
        let framing = match (self.length, stated) {
            (Length::None { .. }, _) => Framing::None,
            (_, Some(length)) | (Length::Stated(Some(length)) | Length::Known(Some(length)), _) => {
                Framing::Length(length)
            }
            _ if self.asked.is_http_10 => Framing::Close,
            _ => Framing::Chunked,
        };
        match framing {
            Framing::Length(length) if stated.is_none() => {
                let mut digits = itoa::Buffer::new();
                write_field(out, b"content-length", digits.format(length).as_bytes());
            }
            Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
            Framing::None | Framing::Length(_) | Framing::Close => {}
        }
        self.is_last |= framing == Framing::Close;
        if switches {
            // The connection goes on as something else, which the answer says by itself.
        } else if self.is_last {
            out.extend_from_slice(b"connection: close\r\n");
        } else if self.asked.is_http_10 {
            out.extend_from_slice(b"connection: keep-alive\r\n");
        }
        if !has_date {
            out.extend_from_slice(b"date: ");
            self.stock.date.write(out);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
        Some(framing)
    }

    /// Writes the fields one by one; what they state of the body.
    fn write_fields(&mut self, out: &mut Vec<u8>, fields: &HeaderMap) -> Option<Stated> {
        let switches = self.head.status == StatusCode::SWITCHING_PROTOCOLS;
        let mut stated = Stated::default();
        for (name, value) in fields {
            let name = name.as_str();
            let value = value.as_bytes();
            match name.len() {
                4 if name == "date" => stated.has_date = true,
                10 if name == "connection" && !switches => {
                    self.is_last |= closes(value);
                    continue;
                }
                14 if name == "content-length" => match self.length {
                    Length::None { may_state: true } => {}
                    Length::None { may_state: false } | Length::Known(_) => continue,
                    Length::Stated(_) if stated.length.is_some() => return None,
                    Length::Stated(_) => stated.length = Some(length_of(value)?),
                },
                17 if name == "transfer-encoding" => continue,
                _ => {}
            }
            write_field(out, name.as_bytes(), value);
        }
        Some(stated)
    }
}

/// What the fields of a head state.
#[derive(Clone, Copy, Debug, Default)]
struct Stated {
    length: Option<u64>,
    has_date: bool,
}

/// The length that a head states.
fn length_of(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |length, digit| {
        let digit = digit.is_ascii_digit().then(|| digit - b'0')?;
        length.checked_mul(10)?.checked_add(digit.into())
    })
}

/// Whether the options of a connection say that it ends.
fn closes(options: &[u8]) -> bool {
    options
        .split(|byte| *byte == b',')
        .any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
}

/// The status line; with the reason that the endpoint gave, if that is another than usual (RFC 9112 §4).
fn write_status(
    out: &mut Vec<u8>,
    status: StatusCode,
    reason: Option<&ReasonPhrase>,
    is_http_10: bool,
) {
    if status == StatusCode::OK && reason.is_none() && !is_http_10 {
        return out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    }
    out.extend_from_slice(if is_http_10 {
        b"HTTP/1.0 "
    } else {
        b"HTTP/1.1 "
    });
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    // Some parsers insist on a reason.
    let usual = status.canonical_reason().unwrap_or("<none>");
    out.extend_from_slice(reason.map_or(usual.as_bytes(), ReasonPhrase::as_bytes));
    out.extend_from_slice(b"\r\n");
}

pub(super) fn write_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}
