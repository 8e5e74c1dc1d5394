//! What must hold for whatever bytes an endpoint answers.

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderMap, StatusCode};

use super::chunked::{Chunked, Step};
use super::decode::{self, Decoded, Framing};
use super::encode;
use crate::base::fault::Fault;
use crate::base::fuzzing::Choices;
use crate::dataplane::upstream::draft::Added;
use crate::dataplane::upstream::head::Fields;

/// Bytes of a head, at most: as by default, and so few that the limit is met.
const LIMITS: [usize; 2] = [16 << 10, 80];

/// An answer: its head is the same however much stands behind it, its fields stay lines of their own, its end is where
/// RFC 9112 §6.3 has it, and its chunks tell the same in whatever pieces they come.
pub fn answers(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let (bodiless, limit) = (choices.flag(), *choices.one(&LIMITS));
    let (bytes, pieces) = choices.pieces();
    chunked(bytes, &pieces);
    let came = Bytes::copy_from_slice(bytes);
    let read = |came: &Bytes| decode::head(came, limit, bodiless, &mut HeaderMap::new());
    let Ok(Some(decoded)) = read(&came) else {
        return;
    };
    let (framing, used) = (decoded.framing, decoded.bytes);
    assert!(used <= limit && used <= bytes.len());
    let head = &bytes[..used];
    if let Fields::Lines(lines) = decoded.head.fields() {
        lines.iter().for_each(are_lines);
    }
    assert_eq!(
        framing,
        framing_of(head, bodiless),
        "{}",
        head.escape_ascii()
    );
    let sense = sense(decoded);
    let alone = read(&came.slice(..used));
    assert_eq!(alone.ok().flatten().map(self::sense).as_ref(), Some(&sense));
    let cut = read(&came.slice(..used - 1));
    assert!(matches!(cut, Ok(None)), "{cut:?}");
    let other = decode::any(&came, limit, bodiless, &mut HeaderMap::new());
    assert_eq!(other.ok().flatten().map(self::sense), Some(sense));
}

/// What a head comes to: status, fields that pass, framing, whether the connection is kept, bytes.
type Sense = (StatusCode, Vec<(String, Vec<u8>)>, Framing, bool, usize);

fn sense(decoded: Decoded) -> Sense {
    const HOP_BY_HOP: [&str; 6] = [
        "te",
        "upgrade",
        "connection",
        "keep-alive",
        "proxy-connection",
        "transfer-encoding",
    ];
    let mut head = decoded.head;
    let fields = head.map().iter();
    let fields = fields.filter(|(name, _)| !HOP_BY_HOP.contains(&name.as_str()));
    let fields = fields.map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
    let mut fields: Vec<_> = fields.collect();
    fields.sort();
    (
        head.status,
        fields,
        decoded.framing,
        decoded.keeps_alive,
        decoded.bytes,
    )
}

/// Lines that are written to a client as they are: each a name, a colon and a value, ended by CRLF.
fn are_lines(run: &[u8]) {
    let run = run.strip_suffix(b"\r\n").expect("a line ends by CRLF");
    let text = run.escape_ascii().to_string();
    for line in run.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        assert!(
            !line.iter().any(|byte| *byte < b' ' || *byte == 0x7f),
            "{text}"
        );
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        assert!(!name.is_empty() && name.len() < line.len(), "{text}");
    }
    assert_eq!(
        run.iter().filter(|byte| **byte == b'\r').count(),
        run.windows(2).filter(|two| *two == b"\r\n").count(),
        "{text}"
    );
}

/// Where the body of an answer with this head ends, read once more.
fn framing_of(head: &[u8], bodiless: bool) -> Framing {
    let text: String = head.iter().map(|byte| char::from(*byte)).collect();
    let code = text.split(' ').nth(1).unwrap_or_default();
    let code = code.get(..3).unwrap_or_default();
    let values = |wanted: &str| -> Vec<String> {
        let fields = text.lines().skip(1).filter_map(|line| line.split_once(':'));
        let fields = fields.filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
        let values = fields.map(|(_, value)| value.trim_matches([' ', '\t']).to_ascii_lowercase());
        values.collect()
    };
    let codings = values("transfer-encoding");
    let lengths = values("content-length").into_iter();
    let lengths = lengths.map(|length| length.parse::<u64>().expect("a length is a number"));
    let mut lengths: Vec<_> = lengths.collect();
    // The same again says nothing new.
    lengths.dedup();
    assert!(lengths.len() + codings.len() < 2, "two framings: {text:?}");
    if bodiless || code.starts_with('1') || matches!(code, "204" | "304") {
        return Framing::Length(0);
    }
    match (codings.first(), lengths.first()) {
        (Some(coding), _) => {
            assert_eq!(coding, "chunked");
            Framing::Chunked
        }
        (None, Some(length)) => Framing::Length(*length),
        (None, None) => Framing::UntilClose,
    }
}

fn chunked(bytes: &[u8], pieces: &[&[u8]]) {
    let told = read_chunks(&[bytes]);
    assert_eq!(read_chunks(pieces), told);
    assert_eq!(read_chunks(&bytes.chunks(1).collect::<Vec<_>>()), told);
}

/// The data of a chunked body, and how many bytes it takes, if it comes to its end in these.
pub fn chunks(pieces: &[&[u8]]) -> Option<(Vec<u8>, usize)> {
    let (data, end) = read_chunks(pieces);
    Some((data, end?.ok()?))
}

type Chunks = (Vec<u8>, Option<Result<usize, ()>>);

fn read_chunks(pieces: &[&[u8]]) -> Chunks {
    let mut chunked = Chunked::new();
    let (mut data, mut used) = (Vec::new(), 0);
    for piece in pieces {
        let mut rest = Bytes::copy_from_slice(piece);
        loop {
            match chunked.step(&mut rest) {
                Ok(Step::Data(some)) => data.extend_from_slice(&some),
                Ok(Step::End(_)) => return (data, Some(Ok(used + piece.len() - rest.len()))),
                Ok(Step::More) => break,
                Err(_) => return (data, Some(Err(()))),
            }
        }
        used += piece.len();
    }
    (data, None)
}

/// The head of a request without a body, as an endpoint gets it.
pub fn written(parts: &Parts, added: &Added) -> Vec<u8> {
    let mut out = BytesMut::new();
    encode::head(&mut out, parts, added, encode::Framing::Empty);
    out.to_vec()
}

/// What is told of an answer that may not pass.
pub fn fault_of(head: &[u8]) -> Option<Fault> {
    let head = Bytes::copy_from_slice(head);
    decode::head(&head, LIMITS[0], false, &mut HeaderMap::new()).err()
}
