//! Where each request on a connection begins and ends, and whether it may pass: a scanner of the raw bytes.
//!
//! `http::strict` feeds it everything a client sends before the codec sees it. Whatever passes is framed in
//! one way only (RFC 9112 §6.3, §11.2), and a codec and an endpoint that are laxer than this cannot disagree
//! about it. Nothing here waits, allocates or answers. RFC 9112, RFC 9110 §7.2 and §8.6.

mod chunked;
mod class;
mod head;

use http::{HeaderValue, Method, Uri};

use self::chunked::Chunked;
use self::head::{Framing, Head};
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
    heads: u64,
    /// The message in progress asks for an upgrade.
    asks_upgrade: bool,
}

#[derive(Debug)]
enum State {
    Head(Head),
    Fixed(u64),
    Chunked(Chunked),
    Undecided,
    Tunnel,
    /// Something was refused: nothing after it has a meaning.
    Over(Fault),
}

/// What may happen to the bytes that were fed.
#[derive(Debug)]
pub enum Step {
    /// All of them may pass.
    Pass,
    /// From here on they are a part of a head: feed them again, with more behind them.
    Hold {
        /// Where that part begins.
        from: usize,
    },
    /// The head that begins here is refused, and nothing after it is read.
    Refuse {
        /// Where it begins.
        from: usize,
        /// Why, and what could be read of it.
        refusal: Refusal,
    },
    /// The framing of the body in progress is broken.
    Broken {
        /// Up to where it was whole.
        from: usize,
        /// How it is broken.
        fault: Fault,
    },
    /// From here on it depends on the answer to an upgrade what the bytes are: feed them again after
    /// [`Scanner::decide`].
    Undecided {
        /// Where the request with the upgrade ends.
        from: usize,
    },
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
    fn new(fault: Fault, head: &Head, bytes: &[u8]) -> Self {
        Self {
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
        }
    }
}

impl Scanner {
    /// A scanner for a connection on which nothing has come yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            state: State::Head(Head::default()),
            heads: 0,
            asks_upgrade: false,
        }
    }

    /// Judges bytes that follow directly on those that passed.
    ///
    /// What a step held back must be fed again, as the beginning of the next call.
    pub fn feed(&mut self, bytes: &[u8]) -> Step {
        let mut from = 0;
        loop {
            let rest = bytes.get(from..).unwrap_or_default();
            match &mut self.state {
                State::Head(head) => {
                    if rest.is_empty() {
                        return Step::Pass;
                    }
                    match head.scan(rest, &self.limits) {
                        Ok(None) => return Step::Hold { from },
                        Ok(Some(complete)) => {
                            from += complete.bytes;
                            self.heads += 1;
                            self.asks_upgrade = complete.asks_upgrade;
                            self.state = match complete.framing {
                                Framing::Length(0) => self.after_message(),
                                Framing::Length(length) => State::Fixed(length),
                                Framing::Chunked => State::Chunked(Chunked::default()),
                            };
                        }
                        Err(fault) => {
                            let refusal = Refusal::new(fault, head, rest);
                            self.state = State::Over(fault);
                            return Step::Refuse { from, refusal };
                        }
                    }
                }
                State::Fixed(left) => {
                    let here = rest.len() as u64;
                    if here < *left {
                        *left -= here;
                        return Step::Pass;
                    }
                    // What is left is at most `rest.len()`, so it fits.
                    from += usize::try_from(*left).unwrap_or(rest.len());
                    self.state = self.after_message();
                }
                State::Chunked(chunked) => match chunked.feed(rest) {
                    Ok(None) => return Step::Pass,
                    Ok(Some(used)) => {
                        from += used;
                        self.state = self.after_message();
                    }
                    Err((at, fault)) => {
                        from += at;
                        self.state = State::Over(fault);
                        return Step::Broken { from, fault };
                    }
                },
                State::Undecided => return Step::Undecided { from },
                State::Tunnel => return Step::Pass,
                State::Over(fault) => {
                    let fault = *fault;
                    return Step::Broken { from, fault };
                }
            }
        }
    }

    /// Settles the upgrade that the last request asked for: granted, the rest of the connection is no HTTP.
    pub fn decide(&mut self, is_granted: bool) {
        if let State::Undecided = self.state {
            self.state = if is_granted {
                State::Tunnel
            } else {
                State::Head(Head::default())
            };
        }
    }

    /// Gives up the head that `held` is a part of, and with it the connection.
    ///
    /// `None` if the scanner is not where a head begins or goes on.
    pub fn refuse(&mut self, fault: Fault, held: &[u8]) -> Option<Refusal> {
        let State::Head(head) = &self.state else {
            return None;
        };
        let refusal = Refusal::new(fault, head, held);
        self.state = State::Over(fault);
        Some(refusal)
    }

    /// Whether a request's body is in progress.
    pub fn is_in_body(&self) -> bool {
        matches!(self.state, State::Fixed(_) | State::Chunked(_))
    }

    /// How many heads have passed.
    pub fn heads(&self) -> u64 {
        self.heads
    }

    fn after_message(&self) -> State {
        if self.asks_upgrade {
            State::Undecided
        } else {
            State::Head(Head::default())
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
