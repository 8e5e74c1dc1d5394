//! A transport that lets nothing but whole, valid heads and well-framed bodies through to the HTTP/1 codec.
//!
//! `http::serve` puts it between the connection and the codec, which alone would accept framing that can be
//! read in two ways, and would answer what it refuses without a word to anybody. A refused head becomes a
//! request of ours with the refusal beside it, in its place behind pipelined ones: the exchange answers it
//! and logs it like any other. What comes whole is read into the codec's own buffer and not copied.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use http::Method;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::framing::{Limits, Refusal, Scanner, Step};
use super::pulse::Pulse;
use crate::base::clock;
use crate::base::fault::Fault;

/// Stands for a refused head; it closes, so that the codec reads nothing behind it.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n";
/// The same where the answer must have no body.
const STAND_IN_HEAD: &[u8] = b"HEAD / HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n";
/// How much is read ahead while an upgrade is undecided: enough to notice most clients going away.
const UNDECIDED_BYTES: usize = 16 * 1024;

/// A transport under the eye of a [`Scanner`].
#[derive(Debug)]
pub struct Strict<T> {
    io: T,
    scanner: Scanner,
    pulse: Rc<Pulse>,
    /// What was read and may not pass yet, behind what may but did not fit.
    held: Vec<u8>,
    /// How much of `held` may pass.
    passable: usize,
    then: Then,
    is_eof: bool,
}

/// What follows when all that may pass has passed.
#[derive(Clone, Copy, Debug)]
enum Then {
    Read,
    /// The next byte of the connection depends on the answer to an upgrade.
    Decide,
    StandIn(&'static [u8]),
    /// The stand-in has passed: the codec answers it and closes.
    Silence,
    Fail,
    Tunnel,
}

impl<T> Strict<T> {
    /// Watches `io`, a connection on which nothing was read yet.
    ///
    /// The codec's own limits on heads must not be lower than `limits`: it would refuse by itself what passes.
    pub fn new(io: T, limits: Limits, pulse: Rc<Pulse>) -> Self {
        Self {
            io,
            scanner: Scanner::new(limits),
            pulse,
            held: Vec::new(),
            passable: 0,
            then: Then::Read,
            is_eof: false,
        }
    }

    /// The transport, and the bytes that came from it and did not pass: after an upgrade the first of the
    /// tunnel, behind those that the codec still has.
    pub fn into_inner(self) -> (T, Vec<u8>) {
        (self.io, self.held)
    }

    /// Whether the client may still be sending what nobody will read: a body in progress, or what stands behind
    /// a refusal.
    pub fn is_unread(&self) -> bool {
        !self.is_eof
            && (self.scanner.is_in_body() || matches!(self.then, Then::StandIn(_) | Then::Silence))
    }

    /// Moves what may pass out of `held`; true if anything did.
    fn pass_held(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let bytes = self.passable.min(buf.remaining());
        let Some(passing) = self.held.get(..bytes).filter(|_| bytes > 0) else {
            return false;
        };
        buf.put_slice(passing);
        self.held.drain(..bytes);
        self.passable -= bytes;
        if self.held.is_empty() {
            // Most connections hold nothing most of the time.
            self.held = Vec::new();
        }
        true
    }

    /// Takes up what the scanner says of `held`.
    fn settle(&mut self, step: Step) {
        self.passable = match step {
            Step::Pass => self.held.len(),
            Step::Hold { from } => from,
            Step::Refuse { from, refusal } => {
                self.held.truncate(from);
                self.stand_in(refusal);
                from
            }
            Step::Broken { from, fault } => {
                self.held.truncate(from);
                self.pulse.body_fault.set(Some(fault));
                self.then = Then::Fail;
                from
            }
            Step::Undecided { from } => {
                self.pulse.await_decision(self.scanner.heads());
                self.then = Then::Decide;
                from
            }
        };
        self.note_head_start();
    }

    /// The clock of a head starts with its first part; empty lines between messages are no part of one.
    fn note_head_start(&self) {
        let waiting = self.held.get(self.passable..).unwrap_or_default();
        let has_begun = matches!(self.then, Then::Read)
            && waiting.iter().any(|byte| !matches!(byte, b'\r' | b'\n'));
        if !has_begun {
            self.pulse.head_started.set(None);
        } else if self.pulse.head_started.get().is_none() {
            self.pulse.head_started.set(Some(clock::now()));
        }
    }

    fn stand_in(&mut self, refusal: Refusal) {
        self.then = Then::StandIn(match refusal.method {
            Some(Method::HEAD) => STAND_IN_HEAD,
            _ => STAND_IN,
        });
        self.pulse.set_refusal(self.scanner.heads() + 1, refusal);
    }

    /// Refuses the head in progress because the driver gave it up; true if there was one to refuse.
    fn give_up(&mut self, fault: Fault) -> bool {
        let Some(refusal) = self.scanner.refuse(fault, &self.held) else {
            return false;
        };
        self.held = Vec::new();
        self.passable = 0;
        self.stand_in(refusal);
        self.pulse.head_started.set(None);
        true
    }
}

impl<T: AsyncRead + Unpin> Strict<T> {
    /// Reads from the transport to the end of `buf`; the number of bytes, zero at the end of the stream.
    fn poll_io(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<usize>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        let bytes = buf.filled().len() - before;
        self.pulse.count_read(bytes);
        self.is_eof = bytes == 0;
        Poll::Ready(Ok(bytes))
    }

    /// Reads on in HTTP; `Ready` says that `buf` has got bytes or the stream is at its end.
    fn poll_messages(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_eof {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let Poll::Ready(read) = self.poll_io(cx, buf) else {
            if let Some(fault) = self.pulse.take_given_up()
                && self.give_up(fault)
            {
                return Poll::Ready(Ok(()));
            }
            self.pulse.set_reader(cx);
            return Poll::Pending;
        };
        if read? == 0 {
            let is_cut = self.pulse.head_started.take().is_some();
            self.pulse.head_cut.set(is_cut);
            return Poll::Ready(Ok(()));
        }
        let fresh = buf.filled().get(before..).unwrap_or_default();
        if self.held.is_empty() {
            let step = self.scanner.feed(fresh);
            self.pulse.forget_given_up();
            if let Step::Pass = step {
                return Poll::Ready(Ok(()));
            }
            let from = match &step {
                Step::Pass => fresh.len(),
                Step::Hold { from }
                | Step::Refuse { from, .. }
                | Step::Broken { from, .. }
                | Step::Undecided { from } => *from,
            };
            // What may pass stays where it is: only the rest is copied.
            self.held
                .extend_from_slice(fresh.get(from..).unwrap_or_default());
            buf.set_filled(before + from);
            self.settle(rebase(step));
        } else {
            self.held.extend_from_slice(fresh);
            buf.set_filled(before);
            let step = self.scanner.feed(&self.held);
            if !matches!(step, Step::Hold { from: 0 }) {
                self.pulse.forget_given_up();
            }
            self.settle(step);
        }
        Poll::Ready(Ok(()))
    }

    /// Waits for the answer to an upgrade, with an eye on the client; `Ready` says that there is news.
    fn poll_decision(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(is_granted) = self.pulse.take_decision() {
            self.scanner.decide(is_granted);
            self.then = if is_granted { Then::Tunnel } else { Then::Read };
            if !self.held.is_empty() {
                let step = self.scanner.feed(&self.held);
                self.settle(step);
            }
            return Poll::Ready(Ok(()));
        }
        self.pulse.set_reader(cx);
        if self.is_eof || self.held.len() >= UNDECIDED_BYTES {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        if ready!(self.poll_io(cx, buf))? > 0 {
            self.held
                .extend_from_slice(buf.filled().get(before..).unwrap_or_default());
            buf.set_filled(before);
        }
        Poll::Ready(Ok(()))
    }
}

/// The same step for what is left when all before its offset has been taken off.
fn rebase(step: Step) -> Step {
    match step {
        Step::Pass => Step::Pass,
        Step::Hold { .. } => Step::Hold { from: 0 },
        Step::Refuse { refusal, .. } => Step::Refuse { from: 0, refusal },
        Step::Broken { fault, .. } => Step::Broken { from: 0, fault },
        Step::Undecided { .. } => Step::Undecided { from: 0 },
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Strict<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if this.pass_held(buf) {
                return Poll::Ready(Ok(()));
            }
            match this.then {
                Then::Read => ready!(this.poll_messages(cx, buf))?,
                Then::Decide => ready!(this.poll_decision(cx, buf))?,
                Then::StandIn(bytes) => {
                    let (now, later) = bytes.split_at(bytes.len().min(buf.remaining()));
                    buf.put_slice(now);
                    this.then = match later {
                        [] => Then::Silence,
                        _ => Then::StandIn(later),
                    };
                }
                // Nobody needs to be woken: the codec is busy with the answer, and closes after it.
                Then::Silence => return Poll::Pending,
                Then::Fail => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
                Then::Tunnel => return this.poll_io(cx, buf).map_ok(|_| ()),
            }
            let has_news = buf.filled().len() > before;
            let is_over = this.is_eof
                && this.passable == 0
                && match this.then {
                    Then::Read => true,
                    // What came behind the upgrade may still be a request.
                    Then::Decide => this.held.is_empty(),
                    Then::StandIn(_) | Then::Silence | Then::Fail | Then::Tunnel => false,
                };
            if has_news || is_over {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<T: AsyncWrite + Unpin> Strict<T> {
    fn count<R>(
        &mut self,
        result: Poll<io::Result<R>>,
        written: fn(&R) -> usize,
    ) -> Poll<io::Result<R>> {
        self.pulse.write_blocked.set(result.is_pending());
        if let Poll::Ready(Ok(value)) = &result {
            self.pulse.count_written(written(value));
        }
        result
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Strict<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.count(result, |bytes| *bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.count(result, |bytes| *bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_flush(cx);
        self.count(result, |()| 0)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
