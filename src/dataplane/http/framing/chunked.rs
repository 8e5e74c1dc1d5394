//! A chunked request body, byte by byte, as strictly as RFC 9112 §7.1 may be read.
//!
//! The scanner of messages calls it for as long as such a body lasts. It keeps where it is, and the text of the
//! trailers, so a body may come in pieces of any size; data is not looked at.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::base::fault::Fault;
use crate::base::octets;

/// No chunk needs more; sixteen would overflow what the codec adds up.
const SIZE_DIGITS: u8 = 15;
/// Extensions mean nothing to us (RFC 9112 §7.1.1): a bound for one chunk, and one for the whole body.
const EXTENSION_BYTES: u32 = 256;
const EXTENSION_BYTES_ALL: u32 = 8 * 1024;
/// Trailers are held until the last of them is here: a bound for all, names and line ends included.
const TRAILER_BYTES: u32 = 8 * 1024;
const TRAILER_FIELDS: u32 = 64;

/// Where in a chunked body the next byte stands.
#[derive(Debug, Default)]
pub(super) struct Chunked {
    at: At,
    extension_bytes_all: u32,
    trailer_bytes: u32,
    trailer_fields: u32,
    /// Fields that were judged, line by line.
    trailers: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
enum At {
    Size { size: u64, digits: u8 },
    Extension { size: u64, bytes: u32 },
    SizeLf { size: u64 },
    Data { left: u64 },
    DataCr,
    DataLf,
    LineStart,
    Name,
    Value,
    ValueLf,
    EndLf,
    End,
}

impl Default for At {
    fn default() -> Self {
        Self::Size { size: 0, digits: 0 }
    }
}

impl Chunked {
    /// Reads up to where data stands next, or to the end of the body; how many of the bytes that takes.
    ///
    /// # Errors
    /// The offset of the byte that breaks the body, and the fault.
    pub(super) fn frame(&mut self, bytes: &[u8]) -> Result<usize, (usize, Fault)> {
        for (here, byte) in bytes.iter().enumerate() {
            if matches!(self.at, At::Data { .. } | At::End) {
                return Ok(here);
            }
            self.at = self.step(*byte).map_err(|fault| (here, fault))?;
        }
        Ok(bytes.len())
    }

    /// How many bytes of data stand next.
    pub(super) fn data(&self) -> u64 {
        match self.at {
            At::Data { left } => left,
            _ => 0,
        }
    }

    /// So many bytes of the data that stands next were taken; more than that is none of it.
    pub(super) fn take(&mut self, bytes: u64) {
        if let At::Data { left } = self.at {
            self.at = match left.saturating_sub(bytes) {
                0 => At::DataCr,
                left => At::Data { left },
            };
        }
    }

    /// Whether the body is at its end.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.at, At::End)
    }

    /// The trailers, once the body is at its end; most bodies have none.
    pub(super) fn trailers(&self) -> Option<Box<HeaderMap>> {
        if self.trailers.is_empty() {
            return None;
        }
        let mut fields = HeaderMap::new();
        for line in self.trailers.split(|byte| *byte == b'\n') {
            let Some(colon) = memchr::memchr(b':', line) else {
                continue;
            };
            let (name, value) = line.split_at_checked(colon).unwrap_or_default();
            let value = octets::trim(value.get(1..).unwrap_or_default());
            // Both were judged byte by byte, by rules that are no laxer.
            if let (Ok(name), Ok(value)) =
                (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
            {
                fields.append(name, value);
            }
        }
        Some(Box::new(fields))
    }

    fn step(&mut self, byte: u8) -> Result<At, Fault> {
        Ok(match (self.at, byte) {
            (At::Size { size, digits }, _) => return self.size(size, digits, byte),
            (At::Extension { size, .. }, b'\r') => At::SizeLf { size },
            (At::Extension { size, bytes }, b'\t' | b' '..=b'~')
                if bytes < EXTENSION_BYTES && self.extension_bytes_all < EXTENSION_BYTES_ALL =>
            {
                self.extension_bytes_all += 1;
                At::Extension {
                    size,
                    bytes: bytes + 1,
                }
            }
            (At::SizeLf { size: 0 }, b'\n') => At::LineStart,
            (At::SizeLf { size }, b'\n') => At::Data { left: size },
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => At::default(),
            (At::LineStart, b'\r') => At::EndLf,
            (At::EndLf, b'\n') => At::End,
            (At::LineStart | At::Name | At::Value | At::ValueLf, _) => return self.trailer(byte),
            (
                At::Extension { .. }
                | At::SizeLf { .. }
                | At::Data { .. }
                | At::DataCr
                | At::DataLf
                | At::EndLf
                | At::End,
                _,
            ) => return Err(Fault::BodyMalformed),
        })
    }

    fn size(&mut self, size: u64, digits: u8, byte: u8) -> Result<At, Fault> {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            b'\r' if digits > 0 => return Ok(At::SizeLf { size }),
            b';' if digits > 0 => return Ok(At::Extension { size, bytes: 0 }),
            // White space before the extension or the line end is a classic way to be read in two ways.
            _ => return Err(Fault::BodyMalformed),
        };
        if digits == SIZE_DIGITS {
            return Err(Fault::BodyMalformed);
        }
        Ok(At::Size {
            size: size << 4 | u64::from(digit),
            digits: digits + 1,
        })
    }

    /// A byte of the trailer section (RFC 9112 §7.1.2).
    fn trailer(&mut self, byte: u8) -> Result<At, Fault> {
        self.trailer_bytes += 1;
        if self.trailer_bytes > TRAILER_BYTES {
            return Err(Fault::BodyMalformed);
        }
        let next = match (self.at, byte) {
            (At::LineStart, _) if octets::is_token(byte) => {
                self.trailer_fields += 1;
                if self.trailer_fields > TRAILER_FIELDS {
                    return Err(Fault::BodyMalformed);
                }
                At::Name
            }
            (At::Name, _) if octets::is_token(byte) => At::Name,
            (At::Name, b':') => At::Value,
            (At::Value, b'\r') => return Ok(At::ValueLf),
            (At::Value, _) if octets::is_value(&[byte]) => At::Value,
            (At::ValueLf, b'\n') => At::LineStart,
            _ => return Err(Fault::BodyMalformed),
        };
        self.trailers.push(byte);
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads on over frames and data; `Some` says after how many of the bytes the body ends.
    fn feed(chunked: &mut Chunked, bytes: &[u8]) -> Result<Option<usize>, Fault> {
        let mut used = 0;
        loop {
            used += chunked.frame(&bytes[used..]).map_err(|(_, fault)| fault)?;
            if chunked.is_over() {
                return Ok(Some(used));
            }
            let data = chunked.data().min((bytes.len() - used) as u64);
            if data == 0 {
                return Ok(None);
            }
            chunked.take(data);
            used += usize::try_from(data).unwrap();
        }
    }

    /// Feeds the body at once and byte by byte; both must agree.
    fn check(body: &[u8], expected: Result<Option<usize>, Fault>) {
        let shown = body.escape_ascii().to_string();
        let at_once = feed(&mut Chunked::default(), body);
        assert_eq!(at_once, expected, "{shown}");
        let mut chunked = Chunked::default();
        let mut piecewise = Ok(None);
        for (at, byte) in body.iter().enumerate() {
            piecewise = match feed(&mut chunked, &[*byte]) {
                Ok(None) => continue,
                Ok(Some(used)) => Ok(Some(at + used)),
                Err(fault) => Err(fault),
            };
            break;
        }
        assert_eq!(piecewise, expected, "{shown}, byte by byte");
    }

    #[test]
    fn whole_bodies_end_where_they_end() {
        for good in [
            "0\r\n\r\n",
            "000\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "A\r\n0123456789\r\n0\r\n\r\n",
            "a;x\r\n0123456789\r\n0;y=\"z\"\r\n\r\n",
            "1\r\n\n\r\n0\r\n\r\n",
            "00000000000001f\r\n0123456789012345678901234567890\r\n0\r\n\r\n",
            "0\r\na: b\r\nC-d:\te \x7e\r\n\r\n",
            "0\r\nx:\r\n\r\n",
            "2\r\n\r\n\r\n0\r\n\r\n",
        ] {
            check(good.as_bytes(), Ok(Some(good.len())));
            let mut longer = good.as_bytes().to_vec();
            longer.extend_from_slice(b"GET / HTTP/1.1\r\n");
            check(&longer, Ok(Some(good.len())));
        }
    }

    #[test]
    fn trailers_are_told_once_the_body_is_over() {
        let mut chunked = Chunked::default();
        assert!(chunked.trailers().is_none());
        let body = "0\r\nA: \t b c \r\nx-y:\r\na:d\r\n\r\n";
        assert_eq!(feed(&mut chunked, body.as_bytes()), Ok(Some(body.len())));
        let trailers = chunked.trailers().unwrap();
        let told: Vec<_> = trailers
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        assert_eq!(told, [("a", "b c"), ("a", "d"), ("x-y", "")]);
    }

    #[test]
    fn parts_of_bodies_are_waited_for() {
        for part in [
            "",
            "5",
            "5;",
            "5\r",
            "5\r\nhel",
            "5\r\nhello\r",
            "0\r\n",
            "0\r\na",
            "0\r\na:\r\n\r",
        ] {
            check(part.as_bytes(), Ok(None));
        }
    }

    #[test]
    fn broken_bodies_are_refused() {
        for bad in [
            "\r\n",
            "\n",
            "g\r\n",
            "5\n",
            "5\rx",
            "-5\r\n",
            "+5\r\n",
            "0x5\r\n",
            " 5\r\n",
            "5 \r\n",
            "5 ;a\r\n",
            "5\t\r\n",
            "5\r\nhello0\r\n",
            "5\r\nhello\n",
            "5\r\nhello\rx",
            "5\r\nhelloX\r\n",
            "5;a\nhello",
            "5;\x01\r\n",
            "5;\x7f\r\n",
            "5;\u{e9}\r\n",
            ";a\r\n",
            "0\r\n\n",
            "0\r\n\rx",
            "0\n\n",
            "0\r\na\r\n",
            "0\r\n: b\r\n",
            "0\r\na : b\r\n",
            "0\r\n a: b\r\n",
            "0\r\na: b\n",
            "0\r\na: \x00\r\n",
            "0\r\na: b\r\n c\r\n",
            "0\r\na: b\rc\r\n",
            "5\r\nhello\r\n\r\n",
            "1000000000000000\r\n",
            "0000000000000000\r\n",
            "ffffffffffffffffff\r\n",
            "5,5\r\n",
        ] {
            check(bad.as_bytes(), Err(Fault::BodyMalformed));
        }
    }

    #[test]
    fn extensions_and_trailers_have_limits() {
        let extension = |bytes| format!("0;{}\r\n\r\n", "x".repeat(bytes));
        check(extension(256).as_bytes(), Ok(Some(256 + 6)));
        check(extension(257).as_bytes(), Err(Fault::BodyMalformed));
        let many = |chunks| format!("1;{}\r\na\r\n", "x".repeat(256)).repeat(chunks) + "0\r\n\r\n";
        check(many(32).as_bytes(), Ok(Some(many(32).len())));
        check(
            (many(32).replace("0\r\n\r\n", "0;x\r\n\r\n")).as_bytes(),
            Err(Fault::BodyMalformed),
        );
        check(many(33).as_bytes(), Err(Fault::BodyMalformed));
        let fields = |fields| format!("0\r\n{}\r\n", "a: b\r\n".repeat(fields));
        check(fields(64).as_bytes(), Ok(Some(fields(64).len())));
        check(fields(65).as_bytes(), Err(Fault::BodyMalformed));
        let long = format!("0\r\na: {}\r\n\r\n", "x".repeat(8192));
        check(long.as_bytes(), Err(Fault::BodyMalformed));
    }
}
