//! Where each request on a connection begins and ends, and whether it may pass: a scanner of the raw bytes.
//!
//! The HTTP/1 codec shows it what a client sends, head by head and body by body. Whatever passes is framed in one
//! way only (RFC 9112 §6.3, §11.2), so that an endpoint that is laxer than this cannot disagree about it. Nothing
//! here waits or answers. RFC 9112, RFC 9110 §7.2 and §8.6.

mod chunked;
mod class;
mod head;

use http::{HeaderMap, HeaderValue, Method, Uri};

use self::chunked::Chunked;
use self::head::Framing;
pub use self::head::Head;
use crate::base::fault::Fault;

/// The longest request target: what browsers and servers agree on taking.
pub const TARGET_BYTES: usize = 8 * 1024;

/// How large a head may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the whole head, line ends included.
    pub header_bytes: usize,
    /// Field lines.
    pub header_fields: usize,
    /// Bytes of the request target.
    pub target_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes: 32 * 1024,
            header_fields: 128,
            target_bytes: TARGET_BYTES,
        }
    }
}

/// Follows one connection's requests, head by head and body by body.
#[derive(Debug)]
pub struct Scanner {
    limits: Limits,
    state: State,
    /// What stood behind the last chunk of the body that is over.
    trailers: Option<Box<HeaderMap>>,
}

#[derive(Debug)]
enum State {
    /// A head comes next; what is known of it, if a part of it is here.
    Head(Option<Box<Head>>),
    Fixed(u64),
    Chunked(Chunked),
    /// Something was refused: nothing after it has a meaning.
    Over(Fault),
}

/// A head that may not pass: why, and what could be read of it for the log.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Why.
    pub fault: Fault,
    /// Its method.
    pub method: Option<Method>,
    /// Its target.
    pub target: Option<Uri>,
    /// Its Host.
    pub host: Option<HeaderValue>,
}

impl Refusal {
    fn new(fault: Fault, head: &Head, bytes: &[u8]) -> Box<Self> {
        Box::new(Self {
            fault,
            method: head
                .method(bytes)
                .and_then(|method| Method::from_bytes(method).ok()),
            target: head
                .target(bytes)
                .and_then(|target| Uri::try_from(target).ok()),
            host: head
                .host_value(bytes)
                .and_then(|host| HeaderValue::from_bytes(host).ok()),
        })
    }
}

impl Scanner {
    /// A scanner for a connection on which nothing has come yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            state: State::Head(None),
            trailers: None,
        }
    }

    /// Judges the bytes that stand where a head begins; `None` waits for more of it, behind the same bytes.
    ///
    /// Behind a head that passes stands its body, which [`frame`](Self::frame) and [`take`](Self::take) go
    /// through. Elsewhere than between messages nothing is judged.
    ///
    /// # Errors
    /// The head may not pass, and nothing behind it has a meaning.
    pub fn head(&mut self, bytes: &[u8]) -> Result<Option<Head>, Box<Refusal>> {
        let State::Head(partial) = &mut self.state else {
            return Ok(None);
        };
        if bytes.is_empty() {
            return Ok(None);
        }
        let mut head = partial.take().map(|head| *head).unwrap_or_default();
        match head.scan(bytes, &self.limits) {
            Ok(None) => {
                *partial = Some(Box::new(head));
                Ok(None)
            }
            Ok(Some(framing)) => {
                self.trailers = None;
                self.state = match framing {
                    Framing::Length(0) => State::Head(None),
                    Framing::Length(length) => State::Fixed(length),
                    Framing::Chunked => State::Chunked(Chunked::default()),
                };
                Ok(Some(head))
            }
            Err(fault) => {
                self.state = State::Over(fault);
                Err(Refusal::new(fault, &head, bytes))
            }
        }
    }

    /// Reads the framing that stands before the next data of a body, or before its end; how many of the bytes
    /// that takes.
    ///
    /// # Errors
    /// Up to where the framing was whole, and how it is broken.
    pub fn frame(&mut self, bytes: &[u8]) -> Result<usize, (usize, Fault)> {
        match &mut self.state {
            State::Head(_) | State::Fixed(_) => Ok(0),
            State::Over(fault) => Err((0, *fault)),
            State::Chunked(chunked) => {
                let read = chunked.frame(bytes);
                if let Err((_, fault)) = read {
                    self.state = State::Over(fault);
                } else if chunked.is_over() {
                    self.trailers = chunked.trailers();
                    self.state = State::Head(None);
                }
                read
            }
        }
    }

    /// How many bytes of a body's data stand next, as far as the framing tells.
    pub fn data(&self) -> u64 {
        match &self.state {
            State::Head(_) | State::Over(_) => 0,
            State::Fixed(left) => *left,
            State::Chunked(chunked) => chunked.data(),
        }
    }

    /// Tells that so many bytes of the data that stands next were taken.
    pub fn take(&mut self, bytes: usize) {
        let bytes = bytes as u64;
        match &mut self.state {
            State::Head(_) | State::Over(_) => {}
            State::Fixed(left) if *left > bytes => *left -= bytes,
            State::Fixed(_) => self.state = State::Head(None),
            State::Chunked(chunked) => chunked.take(bytes),
        }
    }

    /// The trailers of the body that is over, once.
    pub fn take_trailers(&mut self) -> Option<Box<HeaderMap>> {
        self.trailers.take()
    }

    /// Whether there are any.
    pub fn has_trailers(&self) -> bool {
        self.trailers.is_some()
    }

    /// Gives up the head that `held` is a part of, and with it the connection.
    ///
    /// `None` if the scanner is not where a head begins or goes on.
    pub fn refuse(&mut self, fault: Fault, held: &[u8]) -> Option<Box<Refusal>> {
        let State::Head(partial) = &mut self.state else {
            return None;
        };
        let head = partial.take().unwrap_or_default();
        self.state = State::Over(fault);
        Some(Refusal::new(fault, &head, held))
    }

    /// Refuses a head after it has passed, and with it the connection: its parts turned out to be none.
    pub fn condemn(&mut self, head: &Head, bytes: &[u8]) -> Box<Refusal> {
        self.state = State::Over(Fault::RequestMalformed);
        Refusal::new(Fault::RequestMalformed, head, bytes)
    }

    /// Whether a request's body is in progress.
    pub fn is_in_body(&self) -> bool {
        matches!(self.state, State::Fixed(_) | State::Chunked(_))
    }

    /// How many bytes a body in progress still has, where that is known.
    pub fn length(&self) -> Option<u64> {
        match &self.state {
            State::Fixed(left) => Some(*left),
            State::Head(_) => Some(0),
            State::Chunked(_) | State::Over(_) => None,
        }
    }

    /// Whether a head may come next: the last message is whole.
    pub fn is_between(&self) -> bool {
        matches!(self.state, State::Head(_))
    }
}

#[cfg(test)]
pub(super) mod tests;
