//! A request as HTTP/1.1 writes it (RFC 9112 §3, §5, §7.1): the head, and the frames of its body.
//!
//! The framing is decided here and nowhere else: whatever `Content-Length` or `Transfer-Encoding` the fields hold
//! is left out, and ours is written in its place.

use bytes::{BufMut, Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Method, header};
use http_body::Body;

use crate::dataplane::upstream::draft::Added;

/// How the body is told from what follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is none.
    Empty,
    /// So many bytes are to come.
    Length(u64),
    /// In chunks.
    Chunked,
}

/// A body that is not as long as its head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LengthBroken;

impl Framing {
    /// The framing for `body`.
    pub(super) fn of<B: Body>(body: &B) -> Self {
        if body.is_end_stream() {
            return Self::Empty;
        }
        body.size_hint().exact().map_or(Self::Chunked, Self::Length)
    }
}

/// Writes the head.
pub(super) fn head(out: &mut BytesMut, parts: &Parts, added: &Added, framing: Framing) {
    out.put_slice(parts.method.as_str().as_bytes());
    out.put_u8(b' ');
    let target = parts.uri.path_and_query();
    let target = target.map_or("/", |target| target.as_str());
    if target.starts_with('?') {
        // A URL may leave out the path, a request line may not (RFC 9112 §3.2.1).
        out.put_u8(b'/');
    }
    out.put_slice(target.as_bytes());
    out.put_slice(b" HTTP/1.1\r\n");
    let mut had_length = false;
    for (name, value) in &parts.headers {
        if *name == header::CONTENT_LENGTH {
            had_length = true;
        } else if *name != header::TRANSFER_ENCODING {
            field(out, name, value.as_bytes());
        }
    }
    added.write(out);
    match framing {
        Framing::Length(bytes) => length(out, bytes),
        Framing::Chunked => out.put_slice(b"transfer-encoding: chunked\r\n"),
        // Methods that give a body a meaning say that there is none (RFC 9110 §8.6).
        Framing::Empty if had_length || expects_body(&parts.method) => length(out, 0),
        Framing::Empty => {}
    }
    out.put_slice(b"\r\n");
}

fn field(out: &mut BytesMut, name: &HeaderName, value: &[u8]) {
    let name = name.as_str().as_bytes();
    out.reserve(name.len() + value.len() + 4);
    out.put_slice(name);
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

fn length(out: &mut BytesMut, length: u64) {
    out.put_slice(b"content-length: ");
    out.put_slice(itoa::Buffer::new().format(length).as_bytes());
    out.put_slice(b"\r\n");
}

fn expects_body(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

/// Writes what stands before `data`, and gives what stands behind it.
///
/// # Errors
/// When the body has more bytes than its head says.
pub(super) fn before(
    out: &mut BytesMut,
    framing: &mut Framing,
    data: &Bytes,
) -> Result<&'static [u8], LengthBroken> {
    match framing {
        Framing::Empty => Err(LengthBroken),
        Framing::Length(left) => {
            *left = left.checked_sub(data.len() as u64).ok_or(LengthBroken)?;
            Ok(b"")
        }
        Framing::Chunked => {
            let (mut digits, mut size) = ([0; 16], data.len());
            let mut first = digits.len();
            while size > 0 {
                first -= 1;
                if let Some(digit) = digits.get_mut(first) {
                    // A nibble has sixteen values.
                    *digit = *b"0123456789abcdef".get(size & 15).unwrap_or(&b'0');
                }
                size >>= 4;
            }
            out.put_slice(digits.get(first..).unwrap_or_default());
            out.put_slice(b"\r\n");
            Ok(b"\r\n")
        }
    }
}

/// Writes what ends the body.
///
/// # Errors
/// When the body has fewer bytes than its head says.
pub(super) fn end(
    out: &mut BytesMut,
    framing: Framing,
    trailers: Option<&HeaderMap>,
) -> Result<(), LengthBroken> {
    match framing {
        Framing::Empty | Framing::Length(0) => Ok(()),
        Framing::Length(_) => Err(LengthBroken),
        Framing::Chunked => {
            out.put_slice(b"0\r\n");
            for (name, value) in trailers.into_iter().flatten() {
                if may_trail(name) {
                    field(out, name, value.as_bytes());
                }
            }
            out.put_slice(b"\r\n");
            Ok(())
        }
    }
}

/// Fields that have a meaning only before a body do not come behind it (RFC 9110 §6.5.1); nor do those that HTTP/1 has no
/// name for, though HTTP/2 lets them through.
fn may_trail(name: &HeaderName) -> bool {
    let is_token = !name.as_str().contains('"');
    is_token
        && !matches!(
            *name,
            header::CONTENT_LENGTH
                | header::TRANSFER_ENCODING
                | header::HOST
                | header::CONNECTION
                | header::TE
                | header::TRAILER
                | header::UPGRADE
                | header::EXPECT
                | header::CONTENT_ENCODING
                | header::CONTENT_TYPE
                | header::CONTENT_RANGE
                | header::AUTHORIZATION
                | header::COOKIE
        )
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Request};

    use super::*;

    fn check(method: Method, framing: Framing, fields: &[(&'static str, &str)], expected: &str) {
        let mut request = Request::builder().method(method).uri("/a?b=c");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let mut out = BytesMut::new();
        head(&mut out, &parts, &Added::default(), framing);
        assert_eq!(str::from_utf8(&out).unwrap(), expected);
    }

    #[test]
    fn the_framing_is_ours_whatever_the_fields_say() {
        let lies = [
            ("host", "a"),
            ("content-length", "7"),
            ("transfer-encoding", "gzip"),
        ];
        let head =
            |method, framing| format!("{method} /a?b=c HTTP/1.1\r\nhost: a\r\n{framing}\r\n");
        check(
            Method::POST,
            Framing::Length(5),
            &lies,
            &head("POST", "content-length: 5\r\n"),
        );
        check(
            Method::GET,
            Framing::Chunked,
            &lies,
            &head("GET", "transfer-encoding: chunked\r\n"),
        );
        check(
            Method::GET,
            Framing::Empty,
            &lies,
            &head("GET", "content-length: 0\r\n"),
        );
        check(
            Method::GET,
            Framing::Empty,
            &[("host", "a")],
            &head("GET", ""),
        );
        check(
            Method::PUT,
            Framing::Empty,
            &[("host", "a")],
            &head("PUT", "content-length: 0\r\n"),
        );
    }

    #[test]
    fn chunks_are_written_with_their_size() {
        for (size, digits) in [
            (1, "1"),
            (9, "9"),
            (10, "a"),
            (255, "ff"),
            (65_536, "10000"),
        ] {
            let mut out = BytesMut::new();
            let data = Bytes::from(vec![b'x'; size]);
            let behind = before(&mut out, &mut Framing::Chunked, &data).unwrap();
            assert_eq!(
                (&out[..], behind),
                (format!("{digits}\r\n").as_bytes(), &b"\r\n"[..])
            );
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("1"));
        trailers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("1"));
        let quoted = HeaderName::from_lowercase(b"x\"y").unwrap();
        trailers.insert(quoted, HeaderValue::from_static("1"));
        let mut out = BytesMut::new();
        end(&mut out, Framing::Chunked, Some(&trailers)).unwrap();
        assert_eq!(&out[..], b"0\r\nx-sum: 1\r\n\r\n");
    }

    #[test]
    fn a_body_must_be_as_long_as_its_head_says() {
        let mut out = BytesMut::new();
        let mut framing = Framing::Length(3);
        assert!(before(&mut out, &mut framing, &Bytes::from_static(b"ab")).is_ok());
        assert_eq!(end(&mut out, framing, None), Err(LengthBroken));
        assert!(before(&mut out, &mut framing, &Bytes::from_static(b"cd")).is_err());
        assert!(out.is_empty());
    }
}
