//! HTTP/1 and HTTP/2 codecs on a connection, with limits and timeouts.
//!
//! The narrow door between transport and exchange: bytes come in by an `AsyncRead + AsyncWrite`, requests leave by
//! [`exchange`], and nothing outside this file knows which codec stands here.

use std::cell::Cell;
use std::error::Error;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::base::clock;
use crate::base::deadline::Deadline;
use crate::base::drain::{GRACE, Phase};
use crate::base::fault::Fault;
use crate::base::gather::Gather;
use crate::dataplane::http::calm::{self, Calm};
use crate::dataplane::http::exchange::exchange;
use crate::dataplane::http::frames::Checked;
use crate::dataplane::http::framing::{self, TARGET_BYTES};
use crate::dataplane::http::headers::Inbound;
use crate::dataplane::http::http1::{Connection, Ended, Vitals};
use crate::dataplane::http::{Downstream, Engine, Flow, Reply};
use crate::dataplane::snapshot::{Limits, Timeouts};

/// HTTP/2 windows of a stream and of a connection, and what a stream may buffer that its client does not take.
const H2_STREAM_WINDOW: u32 = 256 << 10;
const H2_CONNECTION_WINDOW: u32 = 1 << 20;
const H2_SEND_BUFFER: usize = 16 << 10;

/// Streams that a client may have reset before we looked at them, and those that we may have reset, on one
/// connection; beyond it the connection ends.
const H2_PENDING_RESETS: usize = 20;
const H2_LOCAL_RESETS: usize = 1000;

/// Exchanges that a client may leave on one connection; beyond it the connection ends after those that run.
const ABANDONED: u32 = 1000;

/// Silence on an HTTP/2 connection after which the client is asked for a sign of life, and the wait for it.
const H2_PING_AFTER: Duration = Duration::from_secs(30);
const H2_PING_TIMEOUT: Duration = Duration::from_secs(10);

/// How long and for how many bytes a client that is still sending is listened to after the last answer: a
/// connection closed over unread bytes is reset, and a reset can overtake the answer (RFC 9112 §9.6).
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 1 << 20;

/// Serves HTTP/1 on a connection until it ends.
///
/// Dropping the future closes the connection and ends its exchange.
pub fn http1<T>(
    engine: Rc<Engine>,
    downstream: Rc<Downstream>,
    io: T,
) -> impl Future<Output = ()> + use<T>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let snapshot = engine.snapshot();
    let limits = framing::Limits {
        header_bytes: snapshot.limits.header_bytes,
        header_fields: snapshot.limits.header_fields,
        target_bytes: TARGET_BYTES,
    };
    let mut watch = Watch::new(&engine, &downstream, &snapshot.timeouts);
    drop(snapshot);
    let stock = Rc::clone(&engine.stock);
    let is_leaving = downstream.guest.phase() > Phase::Open;
    let begin = move |inbound| exchange(Rc::clone(&engine), Rc::clone(&downstream), inbound);
    let mut connection = Connection::new(io, limits, stock, begin);
    if is_leaving {
        // A request that is here already is answered before the watch is asked.
        connection.leave();
    }
    // Not an async function: it would keep its arguments beside what they are moved into, in every idle connection.
    async move {
        let ended = poll_fn(|cx| {
            // Until the watch has nothing to say: what it waits for next has our waker only then.
            loop {
                if let Poll::Ready(ended) = connection.poll(cx) {
                    return Poll::Ready(Some(ended));
                }
                match watch.poll(cx, connection.vitals()) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Verdict::Leave) => connection.leave(),
                    Poll::Ready(Verdict::Finish) => connection.finish(),
                    Poll::Ready(Verdict::Refuse(fault)) => connection.give_up(fault),
                    Poll::Ready(Verdict::Cut) => return Poll::Ready(None),
                }
            }
        })
        .await;
        Box::pin(end(watch, connection.into_io(), ended)).await;
    }
}

/// Ends an HTTP/1 connection as its codec has found it to end; `None` for one that is cut.
async fn end<T>(watch: Watch, io: T, ended: Option<Ended>)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let Watch {
        engine, downstream, ..
    } = watch;
    note_unserved(&engine, &downstream, matches!(ended, Some(Ended::HeadCut)));
    match ended {
        None | Some(Ended::Broken) => {}
        Some(Ended::HeadCut) => close(io, false).await,
        Some(Ended::Closed { is_unread }) => close(io, is_unread).await,
        Some(Ended::Tunnel(early)) => {
            let tunnel = downstream.tunnel.borrow_mut().take();
            if let Some(tunnel) = tunnel {
                tunnel.run(io, early).await;
            }
        }
    }
}

/// Ends a connection so that its client gets to read all of the last answer.
async fn close<T: AsyncRead + AsyncWrite + Unpin>(mut client: T, is_unread: bool) {
    // Whether the client takes the farewell or not: the connection ends.
    drop(tokio::time::timeout(LINGER, client.shutdown()).await);
    if is_unread {
        linger(&mut client).await;
    }
}

/// Reads what a client still sends, so that it gets to read our answer.
async fn linger<T: AsyncRead + Unpin>(client: &mut T) {
    let listen = async {
        let mut buffer = BytesMut::with_capacity(16 << 10);
        let mut heard = 0;
        while heard < LINGER_BYTES {
            buffer.clear();
            match client.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(read) => heard += read,
            }
        }
    };
    // Whether the client stops or the time is up: the connection ends.
    drop(tokio::time::timeout(LINGER, listen).await);
}

/// Serves HTTP/2 on a connection until it ends.
///
/// Dropping the future closes the connection; its streams' tasks end with it.
pub async fn http2<T>(engine: Rc<Engine>, downstream: Rc<Downstream>, io: T)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let snapshot = engine.snapshot();
    let Limits {
        header_bytes,
        h2_streams,
        ..
    } = snapshot.limits;
    let service = {
        let (engine, downstream) = (Rc::clone(&engine), Rc::clone(&downstream));
        service_fn(move |request: Request<Incoming>| {
            let (parts, body) = request.into_parts();
            let inbound = Inbound::new(parts, body.into());
            // Boxed once: the codec moves what it is given, and moves it often.
            let exchange = Box::pin(exchange(
                Rc::clone(&engine),
                Rc::clone(&downstream),
                inbound,
            ));
            let stock = Rc::clone(&engine.stock);
            async move {
                let Reply {
                    mut head,
                    body,
                    is_malformed,
                } = exchange.await;
                if is_malformed {
                    return Err(h2::Error::from(h2::Reason::PROTOCOL_ERROR));
                }
                let mut response = Response::new(body);
                *response.status_mut() = head.status;
                head.map_in(|| stock.take_fields());
                *response.headers_mut() = head.into_map();
                Ok(response)
            }
        })
    };
    // The rules stand next to the socket: behind them, frames are joined.
    let (checked, rules) = Checked::new(io);
    let (calm, is_flood) = Calm::new(checked);
    let (gather, outlet) = Gather::new(calm);
    let executor = OnThisWorker {
        engine: Rc::clone(&engine),
        downstream: Rc::clone(&downstream),
        patience: snapshot.timeouts.send,
    };
    let mut connection = http2::Builder::new(executor)
        .timer(TokioTimer::new())
        .max_concurrent_streams(h2_streams)
        .max_header_list_size(u32::try_from(header_bytes).unwrap_or(u32::MAX))
        .initial_stream_window_size(H2_STREAM_WINDOW)
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .max_send_buf_size(H2_SEND_BUFFER)
        .max_pending_accept_reset_streams(H2_PENDING_RESETS)
        .max_local_error_reset_streams(H2_LOCAL_RESETS)
        .keep_alive_interval(H2_PING_AFTER)
        .keep_alive_timeout(H2_PING_TIMEOUT)
        .enable_connect_protocol()
        .serve_connection(TokioIo::new(gather), service);
    let mut watch = Watch::new(&engine, &downstream, &snapshot.timeouts);
    let ended = poll_fn(|cx| {
        let polled = Pin::new(&mut connection).poll(cx);
        if is_flood.get() {
            downstream.verdict.set(Some(Fault::ControlFlood));
            return Poll::Ready(None);
        }
        if let Poll::Ready(Err(error)) = outlet.poll_flush(cx) {
            tracing::debug!(%error, "a client connection broke");
            return Poll::Ready(None);
        }
        if let Poll::Ready(ended) = polled {
            return Poll::Ready(Some(ended));
        }
        if downstream.active.get() == 0 {
            outlet.release();
        }
        loop {
            match watch.poll(cx, Vitals::default()) {
                Poll::Pending => return Poll::Pending,
                // There is no head of which this codec would tell.
                Poll::Ready(Verdict::Refuse(_)) => {}
                // It asks the client for a sign of life before the last word: what is on its way is served.
                Poll::Ready(Verdict::Leave | Verdict::Finish) => {
                    Pin::new(&mut connection).graceful_shutdown();
                    // What is idle ends with the next poll; what runs ends after its answer.
                    let polled = Pin::new(&mut connection).poll(cx);
                    // If this fails, so does the next poll.
                    drop(outlet.poll_flush(cx));
                    if let Poll::Ready(ended) = polled {
                        return Poll::Ready(Some(ended));
                    }
                }
                Poll::Ready(Verdict::Cut) => return Poll::Ready(None),
            }
        }
    })
    .await;
    note_unserved(&engine, &downstream, false);
    if let Some(Err(error)) = &ended {
        let offence = rules.offence();
        tracing::debug!(%error, ?offence, "a client connection ended");
        downstream.verdict.set(match refusal(error) {
            _ if offence.is_some() => Some(Fault::FramesMalformed),
            Some(h2::Reason::ENHANCE_YOUR_CALM) => Some(Fault::ControlFlood),
            Some(_) => Some(Fault::FramesMalformed),
            None => downstream.verdict.get(),
        });
    }
    drop(connection);
    if is_flood.get() {
        if let Some(client) = outlet.into_io() {
            Box::pin(calm_down(&mut client.into_io().into_io())).await;
        }
        return;
    }
    if ended.is_none() {
        return;
    }
    let Some(goaway) = rules.goaway() else {
        if let Some(client) = outlet.into_io() {
            // The codec has closed our half. What crossed the last GOAWAY is unread still.
            Box::pin(linger(&mut client.into_io().into_io())).await;
        }
        return;
    };
    outlet.append(&goaway);
    // Whether the client takes it or not: the connection ends.
    drop(tokio::time::timeout(LINGER, poll_fn(|cx| outlet.poll_flush(cx))).await);
    if let Some(client) = outlet.into_io() {
        Box::pin(close(client.into_io().into_io(), true)).await;
    }
}

/// Why the codec ended a connection, if it did: the client broke a rule, or asked for too much.
fn refusal(error: &hyper::Error) -> Option<h2::Reason> {
    let source = error.source().and_then(|source| source.downcast_ref());
    let source = source.filter(|source: &&h2::Error| source.is_library())?;
    source.reason()
}

/// Tells a client why its connection ends that sent too many frames which carry nothing.
async fn calm_down<T: AsyncRead + AsyncWrite + Unpin>(client: &mut T) {
    let farewell = async {
        client.write_all(&calm::farewell()).await?;
        client.shutdown().await
    };
    // Whether it takes our last word or not: the connection ends.
    drop(tokio::time::timeout(LINGER, farewell).await);
    linger(client).await;
}

/// Writes the record of what ended before it was an exchange: a connection without a request, or a head that broke
/// off.
fn note_unserved(engine: &Engine, downstream: &Downstream, head_cut: bool) {
    let fault = match downstream.verdict.get() {
        Some(Fault::FirstByteTimeout) => Fault::FirstByteTimeout,
        // The exchanges that it ends have records of their own.
        Some(Fault::ControlFlood) if downstream.active.get() == 0 => Fault::ControlFlood,
        _ if head_cut => Fault::ClientGone,
        _ => return,
    };
    engine.record(&downstream.facts).fault = Some(fault);
}

/// Runs hyper's stream tasks on the worker that asks, each under a deadline for a client that takes nothing.
#[derive(Clone, Debug)]
struct OnThisWorker {
    engine: Rc<Engine>,
    downstream: Rc<Downstream>,
    patience: Duration,
}

impl<F: Future<Output: 'static> + 'static> Executor<F> for OnThisWorker {
    fn execute(&self, task: F) {
        let this = self.clone();
        tokio::task::spawn_local(async move {
            let mut task = pin!(Some(task));
            if this.taken(task.as_mut()).await {
                return;
            }
            // Dropping the task resets the stream, and the record learns why.
            let verdict = &this.downstream.verdict;
            let before = verdict.replace(Some(Fault::ClientStalled));
            task.set(None);
            verdict.set(before);
        });
    }
}

impl OnThisWorker {
    /// Runs a stream's task; `false` when its client has taken nothing of a frame for too long.
    ///
    /// Capacity wakes the task, so one that is polled with a frame still in its hands makes progress.
    async fn taken<F: Future>(&self, mut task: Pin<&mut Option<F>>) -> bool {
        let mut deadline: Option<Deadline> = None;
        poll_fn(|cx| {
            let is_late = deadline
                .as_ref()
                .is_some_and(|deadline| deadline.poll(cx).is_ready());
            self.downstream.flow.set(Flow::Untouched);
            let Some(running) = task.as_mut().as_pin_mut() else {
                return Poll::Ready(true);
            };
            if running.poll(cx).is_ready() {
                return Poll::Ready(true);
            }
            match self.downstream.flow.get() {
                Flow::Dry => deadline = None,
                Flow::Untouched if deadline.is_none() => {}
                Flow::Untouched if is_late => return Poll::Ready(false),
                Flow::Untouched | Flow::Handed => {
                    let due = Some(clock::now() + self.patience);
                    let deadline = deadline.get_or_insert_with(|| self.engine.deadlines.at(None));
                    deadline.set(due);
                    // It was set to a time to come: this leaves the waker.
                    let _ = deadline.poll(cx);
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// What is to be done about a connection.
enum Verdict {
    /// Tell the client that it ends, and let it end once the client knows.
    Leave,
    /// Let it end after what runs on it.
    Finish,
    /// Refuse the head that is waited for, and let it end with that.
    Refuse(Fault),
    /// End it now.
    Cut,
}

/// Keeps a connection to its times, on one coarse deadline.
///
/// Traffic does not move the deadline: it is looked at when it passes, against what happened meanwhile, and set
/// to the next moment at which something could be due.
struct Watch {
    engine: Rc<Engine>,
    downstream: Rc<Downstream>,
    deadline: Deadline,
    timeouts: Arc<Timeouts>,
    age: Duration,
    /// How the connection was doing when it was last asked.
    vitals: Vitals,
    stalled: Cell<Option<(u64, Instant)>>,
    leaving: Option<Leaving>,
    finishing: bool,
}

/// A connection that is to end. HTTP/1 has no word for it but in an answer, and a request may be on its way at any moment:
/// one without a request is left open for a while.
#[derive(Clone, Copy)]
struct Leaving {
    since: Instant,
    grace: Duration,
}

impl Leaving {
    /// When it ends, if it is idle since `idle`.
    fn end(self, idle: Instant) -> Instant {
        self.since.max(idle) + self.grace
    }
}

impl Watch {
    fn new(engine: &Rc<Engine>, downstream: &Rc<Downstream>, timeouts: &Arc<Timeouts>) -> Self {
        let age = jittered(timeouts.age, downstream.born);
        let first = timeouts.first_byte.min(timeouts.keep_alive).min(age);
        Self {
            engine: Rc::clone(engine),
            downstream: Rc::clone(downstream),
            deadline: engine.deadlines.at(Some(downstream.born + first)),
            timeouts: Arc::clone(timeouts),
            age,
            vitals: Vitals::default(),
            stalled: Cell::new(None),
            leaving: None,
            finishing: false,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, vitals: Vitals) -> Poll<Verdict> {
        let before = std::mem::replace(&mut self.vitals, vitals);
        match self.downstream.guest.poll_phase(cx) {
            Phase::Open => {}
            Phase::Draining => {
                let grace = self.downstream.guest.grace();
                match &mut self.leaving {
                    Some(leaving) if leaving.grace <= grace => {}
                    Some(leaving) => {
                        leaving.grace = grace;
                        self.deadline.set(Some(clock::now()));
                    }
                    None => {
                        let now = clock::now();
                        self.deadline.set(Some(now));
                        return Poll::Ready(self.leave(now, grace));
                    }
                }
            }
            Phase::Closing => {
                self.downstream.verdict.set(Some(Fault::Draining));
                return Poll::Ready(Verdict::Cut);
            }
        }
        if !self.finishing && self.downstream.abandoned.get() >= ABANDONED {
            self.finishing = true;
            return Poll::Ready(Verdict::Finish);
        }
        if let Some(head) = vitals.head_started
            && before.head_started != vitals.head_started
        {
            let due = head + self.timeouts.header;
            self.deadline.set(Some(self.sooner(head, due)));
        }
        if vitals.write_blocked && !before.write_blocked {
            self.deadline
                .set(Some(clock::now() + self.timeouts.send / 3));
        }
        while self.deadline.poll(cx).is_ready() {
            let now = clock::now();
            if let Some(verdict) = self.look(now) {
                return Poll::Ready(verdict);
            }
        }
        Poll::Pending
    }

    /// Looks at what the connection does, and sets the deadline for the next look.
    fn look(&mut self, now: Instant) -> Option<Verdict> {
        let downstream = &self.downstream;
        if let Some(head) = self.vitals.head_started {
            if now >= head + self.timeouts.header {
                // The refusal is an answer like any other, and the client has to take it.
                self.deadline.set(Some(now + self.timeouts.send));
                return Some(Verdict::Refuse(Fault::HeaderTimeout));
            }
            let due = head + self.timeouts.header;
            self.deadline.set(Some(self.sooner(now, due)));
            return None;
        }
        // An answer may still be on its way when its exchange is over.
        if downstream.active.get() > 0 || self.vitals.write_blocked {
            return self.look_at_answer(now);
        }
        self.stalled.set(None);
        let (since, patience) = match downstream.served.get() {
            0 => (downstream.born, self.timeouts.first_byte),
            _ => (downstream.idle_since.get(), self.timeouts.keep_alive),
        };
        let is_over = self
            .leaving
            .is_some_and(|leaving| leaving.end(since) <= now);
        if is_over || now.saturating_duration_since(since) >= patience {
            if downstream.served.get() == 0 && !is_over {
                downstream.verdict.set(Some(Fault::FirstByteTimeout));
                return Some(Verdict::Cut);
            }
            self.deadline.set(Some(now + self.timeouts.send));
            return self.finish();
        }
        self.deadline.set(Some(self.sooner(now, since + patience)));
        self.age(now)
    }

    /// Lets the connection end if it is old enough.
    fn age(&mut self, now: Instant) -> Option<Verdict> {
        let age = now.saturating_duration_since(self.downstream.born);
        if age < self.age || self.leaving.is_some() {
            return None;
        }
        let verdict = self.leave(now, GRACE);
        self.deadline.set(Some(self.sooner(now, now + GRACE)));
        Some(verdict)
    }

    fn leave(&mut self, since: Instant, grace: Duration) -> Verdict {
        self.leaving = Some(Leaving { since, grace });
        Verdict::Leave
    }

    /// When to look next, if nothing but `due` were due: an exchange may be over long before that, and from its
    /// end on the connection is idle.
    fn sooner(&self, now: Instant, due: Instant) -> Instant {
        let due = due.min(now + self.timeouts.keep_alive);
        let idle = self.downstream.idle_since.get();
        match self.leaving {
            Some(leaving) if leaving.end(idle) > now => due.min(leaving.end(idle)),
            Some(leaving) => due.min(now + leaving.grace),
            None => {
                let old = self.downstream.born + self.age;
                if old > now { due.min(old) } else { due }
            }
        }
    }

    /// An exchange runs: does the client take its answer?
    fn look_at_answer(&mut self, now: Instant) -> Option<Verdict> {
        let due = now + self.timeouts.send / 3;
        self.deadline.set(Some(self.sooner(now, due)));
        if self.vitals.write_blocked {
            let written = self.vitals.bytes_written;
            match self.stalled.get() {
                Some((before, since)) if before == written => {
                    if now.saturating_duration_since(since) >= self.timeouts.send {
                        self.downstream.verdict.set(Some(Fault::ClientStalled));
                        return Some(Verdict::Cut);
                    }
                }
                _ => self.stalled.set(Some((written, now))),
            }
        } else {
            self.stalled.set(None);
        }
        self.age(now)
    }

    fn finish(&mut self) -> Option<Verdict> {
        if self.finishing {
            return Some(Verdict::Cut).filter(|_| self.downstream.active.get() == 0);
        }
        self.finishing = true;
        Some(Verdict::Finish)
    }
}

/// A tenth more or less, so that connections that came together do not leave together.
fn jittered(age: Duration, born: Instant) -> Duration {
    let seed = std::hash::BuildHasher::hash_one(&foldhash::fast::RandomState::default(), born);
    let per_mille = u32::try_from(seed % 201).unwrap_or(100);
    age / 1000 * (900 + per_mille)
}
