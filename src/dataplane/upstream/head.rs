//! The head of an answer: as it came, until somebody wants to change it.
//!
//! Most answers pass as they are. Their fields stay the lines that were read, and are written again in one piece; only
//! where a filter, a fault or another protocol wants to look at single fields do they become a map.

use std::ops::Range;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, response};
use hyper::ext::ReasonPhrase;
use smallvec::SmallVec;

use crate::base::octets;

/// Status and fields of an answer.
#[derive(Debug)]
pub struct AnswerHead {
    /// The status.
    pub status: StatusCode,
    /// The reason that the endpoint gave, if it is another than usual (RFC 9112 §4).
    pub reason: Option<Box<ReasonPhrase>>,
    fields: Fields,
}

/// The fields of an answer.
#[derive(Debug)]
pub enum Fields {
    /// As an endpoint wrote them, without those that were for its connection alone.
    Lines(Lines),
    /// One by one.
    Map(HeaderMap),
}

/// Fields as lines of HTTP/1, with their line ends.
#[derive(Debug)]
pub struct Lines {
    /// What was read.
    text: Bytes,
    /// Where lines stand, those together that are next to each other.
    runs: SmallVec<[Range<u32>; 3]>,
    /// What the one `Content-Length` among them says.
    pub length: Option<u64>,
    /// Whether `Date` is among them.
    pub has_date: bool,
    /// Whether they announce a body of the kind that may pause for long.
    pub may_pause: bool,
}

impl AnswerHead {
    /// A head with `fields`.
    pub fn new(status: StatusCode, fields: Fields) -> Self {
        Self {
            status,
            reason: None,
            fields,
        }
    }

    /// The fields.
    pub fn fields(&self) -> &Fields {
        &self.fields
    }

    /// The fields, one by one.
    pub fn map(&mut self) -> &mut HeaderMap {
        self.map_in(HeaderMap::new)
    }

    /// The same, in a map of the caller's if they are not one yet. It has to be empty.
    pub fn map_in(&mut self, room: impl FnOnce() -> HeaderMap) -> &mut HeaderMap {
        if let Fields::Lines(lines) = &self.fields {
            self.fields = Fields::Map(lines.to_map(room()));
        }
        match &mut self.fields {
            Fields::Map(map) => map,
            Fields::Lines(_) => unreachable!("they were lines, and have just become a map"),
        }
    }

    /// The fields for good.
    pub fn into_map(mut self) -> HeaderMap {
        std::mem::take(self.map())
    }

    /// The first value of a field, as it was written.
    pub fn field(&self, name: &HeaderName) -> Option<&[u8]> {
        match &self.fields {
            Fields::Lines(lines) => lines.value(name),
            Fields::Map(map) => map.get(name).map(HeaderValue::as_bytes),
        }
    }

    /// Whether the answer is of the kind that may pause for long: an event stream or gRPC.
    pub fn may_pause(&self) -> bool {
        match &self.fields {
            Fields::Lines(lines) => lines.may_pause,
            Fields::Map(map) => map
                .get(header::CONTENT_TYPE)
                .is_some_and(|kind| is_stream(kind.as_bytes())),
        }
    }
}

impl From<response::Parts> for AnswerHead {
    fn from(parts: response::Parts) -> Self {
        Self::new(parts.status, Fields::Map(parts.headers))
    }
}

/// Whether a `Content-Type` announces an event stream or gRPC.
pub(super) fn is_stream(kind: &[u8]) -> bool {
    kind.starts_with(b"text/event-stream") || kind.starts_with(b"application/grpc")
}

impl Lines {
    /// No lines yet of those that begin at `start` of `text`.
    pub(super) fn new(text: Bytes) -> Self {
        Self {
            text,
            runs: SmallVec::new(),
            length: None,
            has_date: false,
            may_pause: false,
        }
    }

    /// Adds the lines in `range`, which are whole and hold nothing but valid names and values.
    pub(super) fn push(&mut self, range: Range<usize>) {
        // Heads are shorter than their limit, which fits.
        let narrow = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        if !range.is_empty() {
            self.runs.push(narrow(range.start)..narrow(range.end));
        }
    }

    /// The lines.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.runs.iter().map(|run| {
            let run = run.start as usize..run.end as usize;
            self.text.get(run).unwrap_or_default()
        })
    }

    /// The first value of a field.
    fn value(&self, name: &HeaderName) -> Option<&[u8]> {
        let lines = self.iter().flat_map(|run| run.split(|byte| *byte == b'\n'));
        lines.filter_map(apart).find_map(|(found, value)| {
            found
                .eq_ignore_ascii_case(name.as_str().as_bytes())
                .then_some(value)
        })
    }

    fn to_map(&self, mut map: HeaderMap) -> HeaderMap {
        for mut rest in self.iter() {
            while let Some(end) = memchr::memchr(b'\n', rest) {
                let (line, behind) = rest.split_at(end);
                rest = behind.get(1..).unwrap_or_default();
                let Some(colon) = memchr::memchr(b':', line) else {
                    continue;
                };
                let (name, value) = line.split_at(colon);
                let value = value.get(1..).unwrap_or_default();
                let value = octets::trim(value.strip_suffix(b"\r").unwrap_or(value));
                let name = HeaderName::from_bytes(name);
                let value = HeaderValue::from_maybe_shared(self.text.slice_ref(value));
                if let (Ok(name), Ok(value)) = (name, value) {
                    map.append(name, value);
                }
            }
        }
        map
    }
}

/// Name and value of a line.
fn apart(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let (name, value) = line.split_at(memchr::memchr(b':', line)?);
    let value = value.get(1..).unwrap_or_default();
    let value = octets::trim(value.strip_suffix(b"\r").unwrap_or(value));
    Some((name, value))
}
