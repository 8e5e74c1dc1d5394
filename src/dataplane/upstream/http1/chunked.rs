//! The chunked body of an answer (RFC 9112 §7.1), taken apart as it comes.
//!
//! Data is handed on as slices of what was read. Line ends are CRLF and nothing else; extensions are skipped.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

/// No chunk needs more; sixteen would overflow.
const SIZE_DIGITS: u32 = 15;

/// Bytes of the extensions of one chunk.
const EXTENSION_BYTES: u32 = 1024;

/// Bytes and fields of an answer's trailers.
const TRAILER_BYTES: usize = 16 << 10;
const TRAILER_FIELDS: usize = 64;

/// The framing is broken: where the body ends nobody can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChunkBroken;

/// Where in the body the next byte stands.
#[derive(Debug)]
pub(super) struct Chunked {
    at: At,
    trailer: BytesMut,
}

#[derive(Clone, Copy, Debug)]
enum At {
    Size { size: u64, digits: u32 },
    Extension { size: u64, bytes: u32 },
    SizeLf { size: u64 },
    Data { left: u64 },
    DataCr,
    DataLf,
    Trailer,
    End,
}

const START: At = At::Size { size: 0, digits: 0 };

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A piece of the body.
    Data(Bytes),
    /// The body is over, with these trailers.
    End(Option<HeaderMap>),
    /// All that came is used up.
    More,
}

impl Chunked {
    pub(super) fn new() -> Self {
        Self {
            at: START,
            trailer: BytesMut::new(),
        }
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.at, At::End)
    }

    /// Takes the next thing off what came.
    pub(super) fn step(&mut self, rest: &mut Bytes) -> Result<Step, ChunkBroken> {
        loop {
            match self.at {
                At::Data { left } if !rest.is_empty() => {
                    // At most what is there, so it fits.
                    let some = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                    let data = rest.split_to(some);
                    self.at = match left - some as u64 {
                        0 => At::DataCr,
                        left => At::Data { left },
                    };
                    return Ok(Step::Data(data));
                }
                At::Trailer => return self.trailer(rest),
                At::End => return Ok(Step::End(None)),
                _ => {}
            }
            let Some(&byte) = rest.first() else {
                return Ok(Step::More);
            };
            rest.advance(1);
            self.at = next(self.at, byte)?;
        }
    }

    /// Collects the trailer section: nothing most of the time.
    fn trailer(&mut self, rest: &mut Bytes) -> Result<Step, ChunkBroken> {
        while let Some(&byte) = rest.first() {
            rest.advance(1);
            self.trailer.extend_from_slice(&[byte]);
            if self.trailer.len() > TRAILER_BYTES {
                return Err(ChunkBroken);
            }
            let is_over = byte == b'\n'
                && (&self.trailer[..] == b"\r\n" || self.trailer.ends_with(b"\r\n\r\n"));
            if is_over {
                self.at = At::End;
                return fields(&self.trailer).map(Step::End);
            }
        }
        Ok(Step::More)
    }
}

fn next(at: At, byte: u8) -> Result<At, ChunkBroken> {
    Ok(match (at, byte) {
        (At::Size { size, digits }, _) if byte.is_ascii_hexdigit() && digits < SIZE_DIGITS => {
            let digit = match byte {
                b'0'..=b'9' => byte - b'0',
                _ => (byte | 0x20) - b'a' + 10,
            };
            At::Size {
                size: size << 4 | u64::from(digit),
                digits: digits + 1,
            }
        }
        (At::Size { size, digits: 1.. }, b'\r') => At::SizeLf { size },
        // White space before an extension: lax, but unambiguous, and some servers pad the size with it.
        (At::Size { size, digits: 1.. }, b';' | b' ' | b'\t') => At::Extension { size, bytes: 0 },
        (At::Extension { size, .. }, b'\r') => At::SizeLf { size },
        (At::Extension { size, bytes }, _) if byte != b'\n' && bytes < EXTENSION_BYTES => {
            At::Extension {
                size,
                bytes: bytes + 1,
            }
        }
        (At::SizeLf { size: 0 }, b'\n') => At::Trailer,
        (At::SizeLf { size }, b'\n') => At::Data { left: size },
        (At::DataCr, b'\r') => At::DataLf,
        (At::DataLf, b'\n') => START,
        _ => return Err(ChunkBroken),
    })
}

fn fields(section: &[u8]) -> Result<Option<HeaderMap>, ChunkBroken> {
    if section == b"\r\n" {
        return Ok(None);
    }
    let mut fields = [httparse::EMPTY_HEADER; TRAILER_FIELDS];
    let Ok(httparse::Status::Complete((_, fields))) = httparse::parse_headers(section, &mut fields)
    else {
        return Err(ChunkBroken);
    };
    let mut trailers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| ChunkBroken)?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| ChunkBroken)?;
        trailers.append(name, value);
    }
    Ok(Some(trailers))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads the body in pieces of `size`; what it holds, and what is left behind it.
    fn read(body: &str, size: usize) -> Result<(String, Option<HeaderMap>, usize), ChunkBroken> {
        let mut chunked = Chunked::new();
        let (mut text, mut left) = (String::new(), body.len());
        for piece in body.as_bytes().chunks(size) {
            let mut rest = Bytes::copy_from_slice(piece);
            loop {
                match chunked.step(&mut rest)? {
                    Step::Data(data) => text.push_str(str::from_utf8(&data).unwrap()),
                    Step::End(trailers) => {
                        left -= piece.len() - rest.len();
                        return Ok((text, trailers, left));
                    }
                    Step::More => break,
                }
            }
            left -= piece.len();
        }
        Ok((format!("{text}…"), None, left))
    }

    #[test]
    fn a_body_is_the_same_in_pieces_of_any_size() {
        for (body, text, left) in [
            ("0\r\n\r\n", "", 0),
            ("5\r\nhello\r\n0\r\n\r\n", "hello", 0),
            (
                "5;a=b\r\nhello\r\nA\r\n0123456789\r\n0\r\n\r\nHTTP",
                "hello0123456789",
                4,
            ),
            ("5  \r\nhello\r\n00\r\n\r\n", "hello", 0),
            ("0005\r\nhel", "hel…", 0),
        ] {
            for size in 1..=body.len() {
                let got = read(body, size).unwrap();
                assert_eq!((got.0.as_str(), got.2), (text, left), "{body:?} by {size}");
            }
        }
    }

    #[test]
    fn trailers_are_fields() {
        let body = "1\r\nx\r\n0\r\nX-Sum: 42\r\nx-more:1\r\n\r\n";
        for size in 1..=body.len() {
            let (text, trailers, _) = read(body, size).unwrap();
            let trailers = trailers.unwrap();
            assert_eq!((text.as_str(), trailers.len()), ("x", 2));
            assert_eq!(trailers["x-sum"], "42");
        }
    }

    #[test]
    fn what_is_no_chunk_is_refused() {
        for body in [
            "\r\n",
            "g\r\n",
            "-1\r\n",
            "5\n",
            "5\rx",
            "5\r\nhello0\r\n",
            "5\r\nhello\n",
            "1000000000000000\r\n",
            "5;a\nb",
            "0\r\nx y\r\n\r\n",
            "0\r\n: x\r\n\r\n",
        ] {
            for size in [1, body.len()] {
                assert_eq!(read(body, size), Err(ChunkBroken), "{body:?}");
            }
        }
        let endless = format!("5;{}\r\n", "x".repeat(2000));
        assert_eq!(read(&endless, 7), Err(ChunkBroken));
        let trailers = format!("0\r\nx: {}", "y".repeat(TRAILER_BYTES));
        assert_eq!(read(&trailers, 1000), Err(ChunkBroken));
    }
}
