//! HTTP/1.1 towards endpoints, by a codec of our own: one exchange at a time on one connection (RFC 9112).
//!
//! [`exchange`] is driven by the task that wants the answer: no task stands between, and nothing is handed through
//! channels. What it leaves is an answer whose body reads on from the connection, or is there already.

mod chunked;
mod decode;
mod encode;
mod flow;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};
use http_body::{Body, Frame};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use self::chunked::Chunked;
use self::decode::{Decoded, Framing};
use self::flow::Left;
use crate::base::fault::Fault;
use crate::dataplane::tls::Stream;
use crate::dataplane::upstream::bounds::Counted;
use crate::dataplane::upstream::draft::{Added, Draft, Failure};
use crate::dataplane::upstream::head::AnswerHead;

pub use self::decode::RESPONSE_FIELDS;
pub use self::flow::Flow;

/// Bytes that are asked for when a head is waited for.
const HEAD_READ: usize = 8 << 10;

/// Pieces of a body up to this size are copied: behind what is to be written, or out of a large buffer.
const COPY_LIMIT: usize = 4 << 10;

/// Bytes that are gathered by copying for one write, and pieces that go beside them.
const GATHER_LIMIT: usize = 16 << 10;
const QUEUE_LIMIT: usize = 16;

/// Room for the head of a request; most fit.
const HEAD_WRITE: usize = 1 << 10;

/// Interim answers that an endpoint may send ahead of the answer.
const INTERIM_LIMIT: u32 = 16;

/// A connection on which no exchange runs.
#[derive(Debug)]
pub struct Wire {
    /// The socket.
    pub stream: Stream,
    /// When it was opened.
    pub born: Instant,
    /// Since when it is idle.
    pub idle_since: Instant,
    /// When it was seen open last, while it was idle.
    pub seen: Option<Instant>,
    /// Its place among the connections to its endpoint; absent where they are not counted.
    pub counted: Option<Counted>,
}

impl Wire {
    /// Whether it may serve an exchange: the endpoint has neither closed it nor sent something unasked.
    ///
    /// Asks the kernel only where an event has come meanwhile.
    pub fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        let mut buf = ReadBuf::new(&mut byte);
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(&mut self.stream)
            .poll_read(&mut cx, &mut buf)
            .is_pending()
    }
}

/// An answer's head, and what is behind it.
#[derive(Debug)]
pub struct Answer<B> {
    /// Status and fields.
    pub head: AnswerHead,
    /// The body.
    pub rest: Rest<B>,
    /// For how many seconds the endpoint leaves the connection open, if it says so.
    pub patience: Option<u32>,
}

/// What is behind an answer's head.
#[derive(Debug)]
pub enum Rest<B> {
    /// The whole body, and the connection if it may serve another exchange.
    Whole(Bytes, Option<Wire>),
    /// A body that is on its way.
    Flowing(Box<Flow<B>>),
    /// No HTTP: the endpoint has switched protocols. The connection, and what came on it already.
    Switched(Wire, Bytes),
}

/// Sends a request and waits for the head of its answer. Dropping the future closes the connection.
///
/// `inform` hears the status of each interim answer. The request's fields become room for those of the answer, if it needs any.
///
/// # Errors
/// The fault, and whether the request may be sent elsewhere.
pub async fn exchange<B>(
    wire: Wire,
    draft: Draft<'_, B>,
    head_limit: usize,
    mut inform: impl FnMut(StatusCode),
) -> Result<Answer<B>, Failure>
where
    B: Body<Data = Bytes> + Unpin,
{
    let Draft {
        parts,
        added,
        body,
        front,
    } = draft;
    let bodiless = parts.method == Method::HEAD;
    let mut wire = wire;
    let mut sending = Sending::new(parts, added, body.take(), front.take());
    let mut came = Came::default();
    let mut interim = 0;
    let received = poll_fn(|cx| {
        loop {
            match sending.poll(&mut wire.stream, cx) {
                Poll::Pending | Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(Broken::Socket(_))) if !sending.has_written => {
                    return Poll::Ready(Err(Fault::ConnectionLost));
                }
                Poll::Ready(Err(Broken::Body)) => return Poll::Ready(Err(Fault::ResponseMissing)),
                Poll::Ready(Err(Broken::Socket(error))) => {
                    // The endpoint may have answered before it stopped listening.
                    tracing::debug!(%error, "an endpoint stopped listening to a request");
                }
            }
            let spent = &mut parts.headers;
            match ready!(came.poll_head(&mut wire.stream, cx, head_limit, bodiless, spent)) {
                Ok(Decoded { head, .. }) if decode::is_interim(head.status) => {
                    interim += 1;
                    if interim > INTERIM_LIMIT {
                        return Poll::Ready(Err(Fault::ResponseMalformed));
                    }
                    inform(head.status);
                }
                outcome => return Poll::Ready(outcome),
            }
        }
    })
    .await;
    let decoded = match received {
        Ok(decoded) => decoded,
        Err(fault) => {
            let unsent = !sending.has_written;
            if unsent {
                (*body, *front) = sending.give_back();
            }
            let is_alone = false;
            return Err(Failure {
                fault,
                unsent,
                is_alone,
            });
        }
    };
    Ok(answer(wire, decoded, came.rest, sending))
}

fn answer<B>(wire: Wire, decoded: Decoded, rest: Bytes, sending: Sending<B>) -> Answer<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    let Decoded { head, patience, .. } = decoded;
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        let rest = Rest::Switched(wire, rest);
        return Answer {
            head,
            rest,
            patience,
        };
    }
    let mut flow = Flow {
        wire: Some(wire),
        sending,
        rest,
        body: match decoded.framing {
            Framing::Length(left) => Left::Length(left),
            Framing::Chunked => Left::Chunked(Chunked::new()),
            Framing::UntilClose => Left::UntilClose,
        },
        keeps_alive: decoded.keeps_alive,
        is_modest: false,
    };
    let rest = match flow.body {
        Left::Length(left) if left <= flow.rest.len() as u64 => {
            // It is no longer than what came, so it fits.
            let whole = flow
                .rest
                .split_to(usize::try_from(left).unwrap_or_default());
            flow.body = Left::Length(0);
            Rest::Whole(whole, flow.settle())
        }
        Left::Length(_) | Left::Chunked(_) | Left::UntilClose => Rest::Flowing(Box::new(flow)),
    };
    Answer {
        head,
        rest,
        patience,
    }
}

/// Why a request is not sent to its end.
#[derive(Debug)]
enum Broken {
    /// Its body broke off, or is not as long as it should be.
    Body,
    /// The connection.
    Socket(io::Error),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Socket(error)
    }
}

impl From<encode::LengthBroken> for Broken {
    fn from(_: encode::LengthBroken) -> Self {
        Self::Body
    }
}

/// The request on its way out.
#[derive(Debug)]
struct Sending<B> {
    /// Pieces that are too large to be copied, in the order in which they go, and what stands between them.
    queue: VecDeque<Bytes>,
    /// What goes behind the queue.
    out: BytesMut,
    framing: encode::Framing,
    body: Option<B>,
    front: Option<Bytes>,
    /// What was taken off the body, until something is written.
    taken: Option<Bytes>,
    has_written: bool,
    is_broken: bool,
}

impl<B> Sending<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    fn new(parts: &Parts, added: &Added, body: Option<B>, front: Option<Bytes>) -> Self {
        let framing = match (&body, &front) {
            (None, _) => encode::Framing::Empty,
            (Some(body), None) => encode::Framing::of(body),
            // What was taken off it already counts too.
            (Some(body), Some(front)) => match encode::Framing::of(body) {
                encode::Framing::Empty => encode::Framing::Length(front.len() as u64),
                encode::Framing::Length(left) => encode::Framing::Length(left + front.len() as u64),
                encode::Framing::Chunked => encode::Framing::Chunked,
            },
        };
        let mut out = BytesMut::with_capacity(HEAD_WRITE);
        encode::head(&mut out, parts, added, framing);
        Self {
            queue: VecDeque::new(),
            out,
            framing,
            body: body.filter(|_| framing != encode::Framing::Empty),
            front,
            taken: None,
            has_written: false,
            is_broken: false,
        }
    }

    /// Whether all of the request is out.
    fn is_done(&self) -> bool {
        self.body.is_none() && self.is_written() && !self.is_broken
    }

    fn is_written(&self) -> bool {
        self.out.is_empty() && self.queue.is_empty()
    }

    /// The body and what was taken off it, of a request of which nothing was written.
    fn give_back(self) -> (Option<B>, Option<Bytes>) {
        (self.body, self.taken.or(self.front))
    }

    /// Sends as much as goes; ready when there is nothing more to send.
    fn poll(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if self.is_broken || self.is_done() {
            return Poll::Ready(Ok(()));
        }
        let outcome = ready!(self.poll_all(stream, cx));
        if outcome.is_err() {
            self.is_broken = true;
        }
        Poll::Ready(outcome)
    }

    fn poll_all(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        loop {
            let filled = self.poll_fill(cx)?;
            if self.is_written() {
                // What the transport holds back must not wait for the body.
                ready!(Pin::new(stream).poll_flush(cx))?;
                return filled.map(Ok);
            }
            while !self.is_written() {
                ready!(self.poll_write(stream, cx))?;
            }
        }
    }

    /// Takes frames off the body until there is enough to write; pending when the body has nothing to give.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Broken> {
        while self.queue.len() < QUEUE_LIMIT && self.out.len() < GATHER_LIMIT {
            let Some(body) = &mut self.body else {
                break;
            };
            // Until something is written no more is taken than can be given back.
            if self.taken.is_some() {
                break;
            }
            let frame = match self.front.take() {
                Some(front) => Some(Ok(Frame::data(front))),
                None => match Pin::new(&mut *body).poll_frame(cx) {
                    Poll::Ready(frame) => frame,
                    Poll::Pending => return Ok(Poll::Pending),
                },
            };
            match frame {
                Some(Ok(frame)) => {
                    let is_last = body.is_end_stream();
                    self.take(frame)?;
                    if is_last && self.body.is_some() {
                        self.end(None)?;
                    }
                }
                Some(Err(_)) => return Err(Broken::Body),
                None => self.end(None)?,
            }
        }
        Ok(Poll::Ready(()))
    }

    fn take(&mut self, frame: Frame<Bytes>) -> Result<(), Broken> {
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => return self.end(frame.trailers_ref()),
        };
        if data.is_empty() {
            return Ok(());
        }
        if !self.has_written {
            self.taken = Some(data.clone());
        }
        let behind = encode::before(&mut self.out, &mut self.framing, &data)?;
        if data.len() <= COPY_LIMIT {
            self.out.extend_from_slice(&data);
        } else {
            if !self.out.is_empty() {
                self.queue.push_back(self.out.split().freeze());
            }
            self.queue.push_back(data);
        }
        self.out.extend_from_slice(behind);
        Ok(())
    }

    fn end(&mut self, trailers: Option<&HeaderMap>) -> Result<(), Broken> {
        encode::end(&mut self.out, self.framing, trailers)?;
        self.body = None;
        Ok(())
    }

    fn poll_write(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        let mut written = if self.queue.is_empty() {
            ready!(Pin::new(stream).poll_write(cx, &self.out))?
        } else {
            let mut pieces = [IoSlice::new(&[]); QUEUE_LIMIT + 2];
            let all = self.queue.iter().map(|piece| &piece[..]);
            let mut count = 0;
            for (slot, piece) in pieces.iter_mut().zip(all.chain([&self.out[..]])) {
                *slot = IoSlice::new(piece);
                count += 1;
            }
            let pieces = pieces.get(..count).unwrap_or_default();
            ready!(Pin::new(stream).poll_write_vectored(cx, pieces))?
        };
        if written == 0 {
            return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into()));
        }
        self.has_written = true;
        self.taken = None;
        while let Some(piece) = self.queue.front_mut() {
            if written < piece.len() {
                piece.advance(written);
                return Poll::Ready(Ok(()));
            }
            written -= piece.len();
            self.queue.pop_front();
        }
        self.out.advance(written);
        if self.out.is_empty() && self.body.is_none() && self.out.capacity() > HEAD_WRITE {
            // The wait for the answer may be long, and a large head is memory.
            self.out = BytesMut::new();
        } else if self.out.is_empty() {
            self.out.clear();
        }
        Poll::Ready(Ok(()))
    }
}

/// What came of an answer before its body.
#[derive(Debug, Default)]
struct Came {
    rest: Bytes,
    /// Of a head that did not come whole: where to look for its end.
    searched: usize,
}

impl Came {
    /// Waits for a head and takes it off what came.
    fn poll_head(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
        limit: usize,
        bodiless: bool,
        spent: &mut HeaderMap,
    ) -> Poll<Result<Decoded, Fault>> {
        loop {
            if !self.rest.is_empty() && self.may_be_whole(limit) {
                match decode::head(&self.rest, limit, bodiless, spent) {
                    Ok(None) => {}
                    Ok(Some(decoded)) => {
                        self.rest.advance(decoded.bytes);
                        self.searched = 0;
                        return Poll::Ready(Ok(decoded));
                    }
                    Err(fault) => return Poll::Ready(Err(fault)),
                }
            }
            let mut buffer = match std::mem::take(&mut self.rest).try_into_mut() {
                Ok(buffer) => buffer,
                // Slices of it are out: those of an interim answer.
                Err(rest) => BytesMut::from(&rest[..]),
            };
            let read = poll_read(stream, cx, &mut buffer, HEAD_READ);
            self.rest = buffer.freeze();
            match ready!(read) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Poll::Ready(Err(Fault::ResponseMissing)),
            }
        }
    }

    /// Whether it is worth reading: always at first, then only when an empty line has come. An endpoint that sends
    /// byte by byte must not have all that came read again with each.
    fn may_be_whole(&mut self, limit: usize) -> bool {
        if self.searched == 0 || self.rest.len() >= limit {
            self.searched = self.rest.len();
            return true;
        }
        let from = self.searched.saturating_sub(3);
        self.searched = self.rest.len();
        let fresh = self.rest.get(from..).unwrap_or_default();
        memchr::memchr_iter(b'\n', fresh).any(|at| {
            let behind = fresh.get(at + 1..).unwrap_or_default();
            behind.starts_with(b"\n") || behind.starts_with(b"\r\n")
        })
    }
}

/// Reads once into `buffer`; how many bytes came, zero at the end.
fn poll_read(
    stream: &mut Stream,
    cx: &mut Context<'_>,
    buffer: &mut BytesMut,
    room: usize,
) -> Poll<io::Result<usize>> {
    // The buffer comes last: of many exchanges that wait, none holds one, and those that are served use the same few.
    ready!(stream.poll_readable(cx));
    if buffer.is_empty() {
        *buffer = BytesMut::with_capacity(room);
    } else {
        buffer.reserve(room);
    }
    pin!(stream.read_buf(buffer)).poll(cx)
}
