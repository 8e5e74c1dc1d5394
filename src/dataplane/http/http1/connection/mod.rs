//! The loop of an HTTP/1 connection: a head, its exchange, its answer, and again.
//!
//! All of it is one poll, on the connection's own task. The transport is read when there is room for what comes:
//! for a head between exchanges, for a body when its exchange asks, and beside an exchange only to notice that the
//! client goes away. It is written when nothing more is ready, or when there is enough for a large write.

mod read;

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite};

use self::read::{poll_read_body, poll_read_some};
use super::answer::{Answer, Gathered};
use super::body::{Driver, Inlet};
use super::head::{self, Asked};
use super::outbox::Outbox;
use super::{AHEAD_BYTES, HTTP1_BUFFER, READ_BYTES, Stock};
use crate::base::clock;
use crate::base::fault::Fault;
use crate::dataplane::http::Reply;
use crate::dataplane::http::framing::{Limits, Refusal, Scanner};
use crate::dataplane::http::headers::Inbound;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// One connection, with `service` to begin its exchanges.
#[derive(Debug)]
pub struct Connection<T, S, F, B> {
    io: T,
    service: S,
    stock: Rc<Stock>,
    /// Before the inlet, so that an exchange goes before its body breaks off.
    stage: Stage<F, B>,
    inlet: Driver,
    outbox: Outbox,
    /// Since when a head is waited for of which a part has come.
    head_started: Option<Instant>,
    /// Bytes of a body to read next.
    body_bytes: usize,
    is_eof: bool,
    /// The next answer is the last one.
    is_leaving: bool,
    /// No exchange begins any more, but what came in time.
    is_finishing: bool,
    /// The last answer said so.
    is_last: bool,
}

#[derive(Debug)]
enum Stage<F, B> {
    Head,
    Exchange(Pin<Box<F>>, Asked),
    Answer(Answer<B>),
    /// The answer to an upgrade is on its way, and HTTP is over.
    Switch,
}

/// How a connection ended.
#[derive(Debug)]
pub enum Ended {
    /// As it should: nothing more is to be said.
    Closed {
        /// Whether the client may still be sending what nobody will read.
        is_unread: bool,
    },
    /// In the middle of a head.
    HeadCut,
    /// It broke, or has to look broken to the client.
    Broken,
    /// It goes on as a tunnel, whose first bytes from the client these are.
    Tunnel(Bytes),
}

/// How a connection is doing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Vitals {
    /// Since when a head is waited for of which a part has come; none most of the time, since most heads come whole.
    pub head_started: Option<Instant>,
    /// Bytes that the transport took for the client.
    pub bytes_written: u64,
    /// Whether the transport took nothing when it was last asked to.
    pub write_blocked: bool,
}

/// What came of looking after a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fed {
    /// Whoever asked on this task can go on.
    Here,
    /// There is nothing to go on with here.
    No,
}

impl<T, S, F, B> Connection<T, S, F, B>
where
    T: AsyncRead + AsyncWrite + Unpin,
    S: FnMut(Inbound) -> F,
    F: Future<Output = Reply<B>>,
    B: http_body::Body<Data = Bytes> + Unpin,
{
    /// A connection on which nothing was read yet.
    pub fn new(io: T, limits: Limits, stock: Rc<Stock>, service: S) -> Self {
        let inlet = Inlet::new(Scanner::new(limits));
        Self {
            io,
            service,
            stock,
            stage: Stage::Head,
            inlet: Driver(Rc::new(RefCell::new(inlet))),
            outbox: Outbox::default(),
            head_started: None,
            body_bytes: READ_BYTES,
            is_eof: false,
            is_leaving: false,
            is_finishing: false,
            is_last: false,
        }
    }

    /// Serves the connection until it ends.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        loop {
            let polled = match &self.stage {
                Stage::Head => self.poll_head(cx),
                Stage::Exchange(..) => self.poll_exchange(cx),
                Stage::Answer(_) => self.poll_answer(cx),
                Stage::Switch => self.poll_switch(cx),
            };
            if let Err(ended) = ready!(polled) {
                // Whatever runs has no connection to answer on.
                self.stage = Stage::Head;
                return Poll::Ready(ended);
            }
        }
    }

    /// How it is doing.
    pub fn vitals(&self) -> Vitals {
        Vitals {
            head_started: self.head_started,
            bytes_written: self.outbox.written,
            write_blocked: self.outbox.is_blocked,
        }
    }

    /// Lets the connection end after the next answer, which says so; until then it stays open.
    pub fn leave(&mut self) {
        self.is_leaving = true;
    }

    /// Lets the connection end after what runs on it.
    pub fn finish(&mut self) {
        self.is_leaving = true;
        self.is_finishing = true;
    }

    /// Gives up the head that is waited for; nothing happens if the rest of it has come meanwhile.
    pub fn give_up(&mut self, fault: Fault) {
        if self.head_started.is_none() {
            return;
        }
        let refusal = {
            let inlet = &mut *self.inlet.0.borrow_mut();
            inlet.scanner.refuse(fault, &inlet.buffer)
        };
        if let Some(refusal) = refusal {
            let (inbound, asked) = refused(refusal);
            self.run(inbound, asked);
        }
    }

    /// The transport.
    pub fn into_io(self) -> T {
        self.io
    }

    /// Waits for the next head, once the answer before it has gone.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        if ready!(self.outbox.poll_flush(&mut self.io, cx)).is_err() {
            return Poll::Ready(Err(Ended::Broken));
        }
        ready!(self.poll_rest(cx));
        loop {
            if self.is_last {
                return Poll::Ready(Err(self.close()));
            }
            if let Some((inbound, asked)) = self.take_request() {
                self.run(inbound, asked);
                return Poll::Ready(Ok(()));
            }
            if self.is_eof {
                return Poll::Ready(Err(match self.head_started {
                    Some(_) => Ended::HeadCut,
                    None => self.close(),
                }));
            }
            self.release();
            match self.poll_read(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Ended::Broken)),
                Poll::Pending if self.is_finishing => return Poll::Ready(Err(self.close())),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Waits for the rest of a body whose answer has overtaken it, as long as somebody takes it.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            {
                let inlet = &mut *self.inlet.0.borrow_mut();
                inlet.is_awaited = inlet.is_attached && inlet.is_sound();
                if !inlet.is_awaited {
                    inlet.skip();
                }
                if inlet.scanner.is_between() {
                    return Poll::Ready(());
                }
                if !inlet.is_awaited {
                    self.is_last = true;
                    return Poll::Ready(());
                }
            }
            if self.feed(cx) == Fed::No {
                return Poll::Pending;
            }
            // It was asked for on this task, but by nobody that is polled from here.
            cx.waker().wake_by_ref();
        }
    }

    /// The next request, or what stands for a head that is refused; `None` if what is here is not enough.
    fn take_request(&mut self) -> Option<(Inbound, Asked)> {
        let inlet = &mut *self.inlet.0.borrow_mut();
        let head = match inlet.scanner.head(&inlet.buffer) {
            Ok(Some(head)) => head,
            Ok(None) => {
                // The clock of a head starts with its first part; empty lines between messages are no part of one.
                let is_part = |byte: &u8| !matches!(byte, b'\r' | b'\n');
                if self.head_started.is_none() && inlet.buffer.iter().any(is_part) {
                    self.head_started = Some(clock::now());
                }
                return None;
            }
            Err(refusal) => return Some(refused(refusal)),
        };
        let text = inlet.cut(head.bytes());
        let Some(parts) = head::parts(&head, &text, self.stock.take_fields()) else {
            let refusal = inlet.scanner.condemn(&head, &text);
            return Some(refused(refusal));
        };
        let asked = Asked::of(&head, &parts.method);
        let body = inlet.attach(&self.inlet.0, head.expects_continue());
        Some((Inbound::new(parts, body.into()), asked))
    }

    fn run(&mut self, inbound: Inbound, asked: Asked) {
        self.head_started = None;
        self.body_bytes = READ_BYTES;
        self.stage = Stage::Exchange(Box::pin((self.service)(inbound)), asked);
    }

    fn poll_exchange(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        while let Stage::Exchange(exchange, asked) = &mut self.stage {
            if let Poll::Ready(reply) = exchange.as_mut().poll(cx) {
                let asked = *asked;
                self.stage = Stage::Head;
                self.answer(cx, reply, asked);
                return Poll::Ready(Ok(()));
            }
            if self.feed(cx) == Fed::No {
                return self.poll_beside(cx);
            }
        }
        Poll::Ready(Ok(()))
    }

    fn answer(&mut self, cx: &mut Context<'_>, reply: Reply<B>, asked: Asked) {
        let keeps_alive = asked.keeps_alive && !self.is_leaving && self.may_go_on(cx);
        if !self.outbox.has_buffer() {
            self.outbox.use_buffer(self.stock.buffer.take());
        }
        let switches = reply.head.status == StatusCode::SWITCHING_PROTOCOLS;
        let outbox = &mut self.outbox;
        let answer = Answer::begin(outbox, &self.stock, reply, asked, keeps_alive);
        self.stage = if switches {
            Stage::Switch
        } else {
            Stage::Answer(answer)
        };
    }

    /// Whether another request may follow the one that is being answered, as far as its body goes.
    fn may_go_on(&mut self, cx: &mut Context<'_>) -> bool {
        {
            let inlet = &mut *self.inlet.0.borrow_mut();
            // A client that was told nothing may send the body or not: there is no way to know what comes next.
            if std::mem::take(&mut inlet.owes_continue) {
                return false;
            }
            if inlet.is_attached || !inlet.scanner.is_in_body() {
                return inlet.is_sound();
            }
            inlet.skip();
            if !inlet.scanner.is_in_body() {
                return inlet.is_sound();
            }
        }
        // A short body often comes right behind its head.
        drop(self.poll_read(cx));
        let inlet = &mut *self.inlet.0.borrow_mut();
        inlet.skip();
        inlet.scanner.is_between()
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        while let Stage::Answer(answer) = &mut self.stage {
            let gathered = answer.gather(cx, &mut self.outbox);
            let written = self.outbox.poll_write(&mut self.io, cx);
            if let Poll::Ready(Err(_)) = written {
                return Poll::Ready(Err(Ended::Broken));
            }
            match gathered {
                Gathered::Full if written.is_ready() => continue,
                Gathered::Full if self.outbox.waiting() < HTTP1_BUFFER => continue,
                Gathered::Full | Gathered::Dry => {}
                Gathered::Whole => {
                    self.is_last = answer.is_last;
                    self.stage = Stage::Head;
                    break;
                }
                Gathered::Cut => {
                    // What came of it is for the client to see; that it has no end says that it is cut.
                    drop(ready!(self.outbox.poll_flush(&mut self.io, cx)));
                    return Poll::Ready(Err(Ended::Broken));
                }
            }
            if self.feed(cx) == Fed::No {
                return self.poll_beside(cx);
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_switch(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        if ready!(self.outbox.poll_flush(&mut self.io, cx)).is_err() {
            return Poll::Ready(Err(Ended::Broken));
        }
        let inlet = &mut *self.inlet.0.borrow_mut();
        // Within a body there is no telling where the tunnel would begin.
        Poll::Ready(Err(if inlet.scanner.is_between() {
            Ended::Tunnel(inlet.cut(inlet.buffer.len()))
        } else {
            Ended::Broken
        }))
    }

    /// What is to be done while the exchange waits: send what is written, and notice that the client leaves.
    fn poll_beside(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        let flushed = self.outbox.poll_flush(&mut self.io, cx);
        if matches!(flushed, Poll::Ready(Err(_))) || self.is_left(cx) {
            return Poll::Ready(Err(Ended::Broken));
        }
        Poll::Pending
    }

    /// Whether the client has gone, as far as reading ahead tells: one that has closed its half behind another
    /// request still waits for both answers.
    fn is_left(&mut self, cx: &mut Context<'_>) -> bool {
        loop {
            {
                let inlet = self.inlet.0.borrow();
                if !inlet.scanner.is_between() {
                    return false;
                }
                if self.is_eof {
                    return inlet.buffer.is_empty();
                }
                if inlet.buffer.len() >= AHEAD_BYTES {
                    return false;
                }
            }
            match self.poll_read(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return true,
                Poll::Pending => return false,
            }
        }
    }

    /// Reads more of the body, if it is asked for.
    fn feed(&mut self, cx: &mut Context<'_>) -> Fed {
        let poller = {
            let inlet = &mut *self.inlet.0.borrow_mut();
            if !inlet.scanner.is_in_body() {
                return Fed::No;
            }
            inlet.set_driver(cx);
            if !inlet.is_wanted {
                return Fed::No;
            }
            if std::mem::take(&mut inlet.owes_continue) {
                self.outbox.write(|out| out.extend_from_slice(CONTINUE));
            }
            let read = poll_read_body(&mut self.io, cx, &mut inlet.buffer, &mut self.body_bytes);
            let Poll::Ready(read) = read else {
                return Fed::No;
            };
            if !matches!(read, Ok(1..)) {
                self.is_eof = true;
                inlet.fail(Fault::ClientGone);
            }
            inlet.take_poller()
        };
        match poller {
            Some(poller) if !poller.will_wake(cx.waker()) => {
                poller.wake();
                Fed::No
            }
            Some(_) | None => Fed::Here,
        }
    }

    /// Reads what comes, without a buffer until it is here.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inlet = &mut *self.inlet.0.borrow_mut();
        let read = ready!(poll_read_some(&mut self.io, cx, &mut inlet.buffer))?;
        self.is_eof = read == 0;
        Poll::Ready(Ok(()))
    }

    /// Gives back what an idle connection does not need.
    fn release(&mut self) {
        let inlet = &mut *self.inlet.0.borrow_mut();
        if inlet.buffer.is_empty() {
            inlet.buffer = BytesMut::new();
        }
        if self.outbox.has_buffer()
            && let Some(buffer) = self.outbox.release()
        {
            self.stock.buffer.set(buffer);
        }
    }

    fn close(&self) -> Ended {
        let inlet = self.inlet.0.borrow();
        let is_at_rest = inlet.scanner.is_between() && inlet.buffer.is_empty();
        Ended::Closed {
            is_unread: !self.is_eof && !is_at_rest,
        }
    }
}

/// What stands for a head that is refused.
fn refused(refusal: Box<Refusal>) -> (Inbound, Asked) {
    let asked = Asked::refused(refusal.method.as_ref());
    (Inbound::refused(refusal), asked)
}

#[cfg(test)]
mod tests;
