//! A request head, line by line, as strictly as RFC 9112 may be read.
//!
//! The scanner of messages calls it with all that has come of a head so far; what was judged before is not
//! looked at again. What it judges it also takes apart: where method, target and fields stand is remembered, so
//! that nobody has to look for them again. RFC 9112 §2.2, §3, §5, §6, §9.3; RFC 9110 §5, §7.2, §10.1.1, §10.1.4.

use std::ops::Range;

use memchr::memchr;
use smallvec::SmallVec;

use super::{Limits, class};
use crate::base::fault::Fault;
use crate::base::octets;

/// Empty lines that a client may send ahead of a request (RFC 9112 §2.2).
const BLANK_LINES: u8 = 4;
/// The longest Content-Length that surely fits: a longer one is an attack, not a body.
const LENGTH_DIGITS: usize = 19;

/// Fields of a head that take no memory of their own: more than most clients send.
const FIELDS_INLINE: usize = 24;

/// What is known about a head so far; offsets count from its first byte, blank lines included.
#[derive(Debug, Default)]
pub struct Head {
    /// Where the line begins that is not judged yet.
    line: usize,
    /// Up to where no line end is.
    searched: usize,
    blank_lines: u8,
    fields: SmallVec<[Field; FIELDS_INLINE]>,
    method: Option<Range<usize>>,
    target: Option<Range<usize>>,
    /// The authority of a target in absolute form.
    authority: Option<Range<usize>>,
    host: Once<Range<usize>>,
    length: Once<u64>,
    coding: Coding,
    is_http_10: bool,
    is_connect: bool,
    expects_more: bool,
    expects_continue: bool,
    names_protocol: bool,
    wants_upgrade: bool,
    wants_close: bool,
    wants_keep_alive: bool,
    takes_trailers: bool,
}

/// Where a field stands, its value without the white space around it.
#[derive(Clone, Debug)]
struct Field {
    name: Range<u32>,
    value: Range<u32>,
}

/// A field that may come once.
#[derive(Debug, Default)]
enum Once<T> {
    #[default]
    Missing,
    Found(T),
    /// It came again, or its value is none.
    Spoiled,
}

#[derive(Debug, Default)]
enum Coding {
    #[default]
    None,
    Chunked,
    Unknown,
    Spoiled,
}

/// How the body after a head is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
}

impl Head {
    /// Judges what has come of the head; `None` waits for more of it.
    pub(super) fn scan(&mut self, bytes: &[u8], limits: &Limits) -> Result<Option<Framing>, Fault> {
        let window = bytes.get(..limits.header_bytes).unwrap_or(bytes);
        loop {
            let Some(found) = memchr(b'\n', window.get(self.searched..).unwrap_or_default()) else {
                return self.wait(window, limits).map(|()| None);
            };
            let end = self.searched + found;
            let line = window.get(self.line..end).unwrap_or_default();
            let Some(line) = line.strip_suffix(b"\r") else {
                return Err(Fault::RequestMalformed);
            };
            let start = self.line;
            self.line = end + 1;
            self.searched = self.line;
            if self.target.is_some() {
                if line.is_empty() {
                    return self.complete(window).map(Some);
                }
                self.field(line, start, limits)?;
            } else if line.is_empty() {
                self.blank_lines += 1;
                if self.blank_lines > BLANK_LINES {
                    return Err(Fault::RequestMalformed);
                }
            } else {
                self.request_line(line, start, limits)?;
            }
        }
    }

    /// The last line is not whole; what can be said of it already is said, so that a client that speaks
    /// another protocol is not waited for.
    fn wait(&mut self, window: &[u8], limits: &Limits) -> Result<(), Fault> {
        if self.target.is_none() {
            let pending = window.get(self.line..).unwrap_or_default();
            let judged = self.searched.saturating_sub(self.line + 1);
            let fresh = pending.get(judged..).unwrap_or_default();
            if !octets::is_line(fresh.strip_suffix(b"\r").unwrap_or(fresh)) {
                return Err(Fault::RequestMalformed);
            }
        }
        self.searched = window.len();
        if window.len() < limits.header_bytes {
            return Ok(());
        }
        Err(match self.target {
            None => Fault::TargetTooLong,
            Some(_) => Fault::HeaderTooLarge,
        })
    }

    fn request_line(&mut self, line: &[u8], start: usize, limits: &Limits) -> Result<(), Fault> {
        const MALFORMED: Fault = Fault::RequestMalformed;
        if !octets::is_line(line) {
            return Err(MALFORMED);
        }
        let (method, rest) = split(line, b' ').ok_or(MALFORMED)?;
        let (target, version) = split(rest, b' ').ok_or(MALFORMED)?;
        if method.is_empty() || !method.iter().all(|byte| octets::is_token(*byte)) {
            return Err(MALFORMED);
        }
        let target_start = start + method.len() + 1;
        self.method = Some(start..start + method.len());
        self.target = Some(target_start..target_start + target.len());
        if target.len() > limits.target_bytes {
            return Err(Fault::TargetTooLong);
        }
        self.is_http_10 = match version {
            b"HTTP/1.1" => false,
            b"HTTP/1.0" => true,
            [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => {
                return Err(Fault::VersionUnknown);
            }
            _ => return Err(MALFORMED),
        };
        self.is_connect = method == b"CONNECT";
        let is_valid = match target {
            // The authority form: refused with its method, once the head is here to be logged.
            _ if self.is_connect => !target.is_empty(),
            [b'/', ..] => class::is_path_and_query(target),
            b"*" => method == b"OPTIONS",
            _ => self.absolute_form(target, target_start),
        };
        if is_valid { Ok(()) } else { Err(MALFORMED) }
    }

    fn absolute_form(&mut self, target: &[u8], start: usize) -> bool {
        let begins = |scheme: &[u8]| {
            let begin = target.get(..scheme.len()).unwrap_or_default();
            begin.eq_ignore_ascii_case(scheme)
        };
        let scheme = match () {
            () if begins(b"http://") => "http://".len(),
            () if begins(b"https://") => "https://".len(),
            () => return false,
        };
        let rest = target.get(scheme..).unwrap_or_default();
        let end = memchr::memchr2(b'/', b'?', rest).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        self.authority = Some(start + scheme..start + scheme + authority.len());
        class::is_path_and_query(path)
    }

    #[inline]
    fn field(&mut self, line: &[u8], start: usize, limits: &Limits) -> Result<(), Fault> {
        if self.fields.len() >= limits.header_fields {
            return Err(Fault::HeaderTooLarge);
        }
        // A folded line (RFC 9112 §5.2) begins with white space, thus has no name.
        let length = line
            .iter()
            .position(|byte| !octets::is_token(*byte))
            .unwrap_or_default();
        let (name, rest) = line.split_at(length);
        let Some((b':', value)) = rest.split_first() else {
            return Err(Fault::RequestMalformed);
        };
        if name.is_empty() || !octets::is_value(value) {
            return Err(Fault::RequestMalformed);
        }
        let trimmed = octets::trim_start(value);
        let value_start = start + line.len() - trimmed.len();
        let trimmed = octets::trim(trimmed);
        self.fields.push(Field {
            name: range(start, name.len()),
            value: range(value_start, trimmed.len()),
        });
        match name.len() {
            2 if name.eq_ignore_ascii_case(b"te") => {
                self.takes_trailers |= members(value).any(|coding| {
                    let coding = coding.split(|byte| *byte == b';').next();
                    is(octets::trim(coding.unwrap_or_default()), b"trailers")
                });
            }
            4 if name.eq_ignore_ascii_case(b"host") => self.host(trimmed, value_start),
            6 if name.eq_ignore_ascii_case(b"expect") => {
                let expects_continue = is(trimmed, b"100-continue");
                self.expects_continue |= expects_continue;
                self.expects_more |= !expects_continue;
            }
            7 if name.eq_ignore_ascii_case(b"upgrade") => self.names_protocol = true,
            10 if name.eq_ignore_ascii_case(b"connection") => {
                for option in members(value) {
                    self.wants_upgrade |= is(option, b"upgrade");
                    self.wants_close |= is(option, b"close");
                    self.wants_keep_alive |= is(option, b"keep-alive");
                }
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                self.length = match self.length {
                    Once::Missing => length_of(trimmed),
                    Once::Found(_) | Once::Spoiled => Once::Spoiled,
                };
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => self.coding(value),
            _ => {}
        }
        Ok(())
    }

    fn host(&mut self, host: &[u8], start: usize) {
        self.host = match self.host {
            Once::Missing if class::is_authority(host) => Once::Found(start..start + host.len()),
            Once::Missing | Once::Found(_) | Once::Spoiled => Once::Spoiled,
        };
    }

    fn coding(&mut self, value: &[u8]) {
        let chunked = members(value).filter(|coding| is(coding, b"chunked"));
        let has_gap = members(value).any(<[u8]>::is_empty);
        self.coding = match self.coding {
            Coding::None if has_gap || chunked.count() > 1 => Coding::Spoiled,
            Coding::None if is(octets::trim(value), b"chunked") => Coding::Chunked,
            Coding::None => Coding::Unknown,
            Coding::Chunked | Coding::Unknown | Coding::Spoiled => Coding::Spoiled,
        };
    }

    /// Judges what only the whole head can tell: what endangers the framing first.
    fn complete(&self, bytes: &[u8]) -> Result<Framing, Fault> {
        let framing = match (&self.coding, &self.length) {
            (_, Once::Spoiled) | (Coding::Spoiled, _) => return Err(Fault::RequestMalformed),
            (Coding::None, Once::Missing) => Framing::Length(0),
            (Coding::None, Once::Found(length)) => Framing::Length(*length),
            // RFC 9112 §6.1: both together are how requests are smuggled, and 1.0 knows no codings.
            (Coding::Chunked | Coding::Unknown, Once::Found(_)) => {
                return Err(Fault::RequestMalformed);
            }
            (Coding::Chunked | Coding::Unknown, Once::Missing) if self.is_http_10 => {
                return Err(Fault::RequestMalformed);
            }
            (Coding::Unknown, Once::Missing) => return Err(Fault::CodingUnknown),
            (Coding::Chunked, Once::Missing) => Framing::Chunked,
        };
        if self.is_connect {
            return Err(Fault::MethodRefused);
        }
        self.judge_host(bytes)?;
        if self.expects_more {
            return Err(Fault::ExpectationUnknown);
        }
        Ok(framing)
    }

    fn judge_host(&self, bytes: &[u8]) -> Result<(), Fault> {
        let authority = self.authority.clone().and_then(|range| bytes.get(range));
        let is_valid = match (&self.host, authority) {
            (Once::Spoiled, _) => false,
            (Once::Missing, None) => self.is_http_10,
            (Once::Missing, Some(authority)) => self.is_http_10 && class::is_authority(authority),
            (Once::Found(_), None) => true,
            (Once::Found(range), Some(authority)) => bytes
                .get(range.clone())
                .is_some_and(|host| host.eq_ignore_ascii_case(authority)),
        };
        if is_valid {
            Ok(())
        } else {
            Err(Fault::HostInvalid)
        }
    }

    /// How many bytes the head has, once it is whole.
    pub fn bytes(&self) -> usize {
        self.line
    }

    /// Whether the client speaks no more than HTTP/1.0.
    pub fn is_http_10(&self) -> bool {
        self.is_http_10
    }

    /// Whether the client wants the connection kept after the answer (RFC 9112 §9.3).
    pub fn keeps_alive(&self) -> bool {
        !self.wants_close && (!self.is_http_10 || self.wants_keep_alive)
    }

    /// Whether the client waits for a word from us before it sends the body (RFC 9110 §10.1.1).
    pub fn expects_continue(&self) -> bool {
        self.expects_continue && !self.is_http_10
    }

    /// Whether the client reads trailers (RFC 9110 §10.1.4).
    pub fn takes_trailers(&self) -> bool {
        self.takes_trailers
    }

    /// Names and values, as they stand in the head.
    pub fn fields(&self) -> impl ExactSizeIterator<Item = (Range<usize>, Range<usize>)> {
        self.fields
            .iter()
            .map(|field| (wide(&field.name), wide(&field.value)))
    }

    /// The method, as far as it can be told.
    pub fn method<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        bytes.get(self.method.clone()?)
    }

    /// The target, as far as it can be told.
    pub(super) fn target<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        bytes.get(self.target.clone()?)
    }

    /// Where the target stands.
    pub fn target_range(&self) -> Option<Range<usize>> {
        self.target.clone()
    }

    /// The host, if one valid Host was read.
    pub(super) fn host_value<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        match &self.host {
            Once::Found(range) => bytes.get(range.clone()),
            Once::Missing | Once::Spoiled => None,
        }
    }
}

/// Offsets in a head are below its limit, which fits; beyond that they would find nothing.
fn range(start: usize, length: usize) -> Range<u32> {
    let narrow = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
    narrow(start)..narrow(start + length)
}

fn wide(range: &Range<u32>) -> Range<usize> {
    range.start as usize..range.end as usize
}

fn split(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let (before, rest) = bytes.split_at_checked(memchr(at, bytes)?)?;
    Some((before, rest.get(1..)?))
}

fn members(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == b',').map(octets::trim)
}

fn is(value: &[u8], word: &[u8]) -> bool {
    value.eq_ignore_ascii_case(word)
}

/// Digits and nothing else (RFC 9110 §8.6); a list is refused even if its members agree.
fn length_of(value: &[u8]) -> Once<u64> {
    let plausible =
        (1..=LENGTH_DIGITS).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    if !plausible {
        return Once::Spoiled;
    }
    Once::Found(value.iter().fold(0, |length, digit| {
        length * 10 + u64::from(digit.wrapping_sub(b'0'))
    }))
}
