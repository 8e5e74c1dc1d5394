//! The body of an answer on its way in, and what of its request is still on its way out.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use tokio::io::AsyncReadExt;

use super::chunked::{self, Chunked, Step};
use super::{Broken, COPY_LIMIT, Sending, Wire, poll_read};
use crate::base::spare;
use crate::dataplane::tls::Stream;

/// What is left of a body up to this size is read into a buffer of its own.
const SHORT: usize = 16 << 10;

/// What is read at a time of a body whose client has many answers coming.
const MODEST_READ: usize = 8 << 10;

/// An answer's body that is not all there.
#[derive(Debug)]
pub struct Flow<B> {
    pub(super) wire: Option<Wire>,
    pub(super) sending: Sending<B>,
    pub(super) rest: Bytes,
    pub(super) body: Left,
    pub(super) keeps_alive: bool,
    /// Little is read at a time.
    pub(super) is_modest: bool,
}

/// What is to come of the body.
#[derive(Debug)]
pub(super) enum Left {
    Length(u64),
    Chunked(Chunked),
    UntilClose,
}

impl<B> Flow<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    /// The connection, if it may serve another exchange: to be called when the body is over.
    ///
    /// A request that is not out by then ends with its connection: its answer is complete.
    pub fn settle(&mut self) -> Option<Wire> {
        let wire = self.wire.take()?;
        (self.keeps_alive && self.sending.is_done() && self.rest.is_empty()).then_some(wire)
    }

    /// Reads little at a time, or as much as there is: what is read waits for the client, and one with many answers coming
    /// may take none of them.
    pub fn read_modestly(&mut self, is_modest: bool) {
        self.is_modest = is_modest;
    }

    /// Whether nothing more comes.
    pub fn is_over(&self) -> bool {
        match &self.body {
            Left::Length(left) => *left == 0,
            Left::Chunked(chunked) => chunked.is_over(),
            Left::UntilClose => self.wire.is_none(),
        }
    }

    /// What is known of the length.
    pub fn size_hint(&self) -> SizeHint {
        match &self.body {
            Left::Length(left) => SizeHint::with_exact(*left),
            Left::Chunked(_) | Left::UntilClose => SizeHint::default(),
        }
    }

    /// The next frame; `None` at the end.
    ///
    /// # Errors
    /// A sentence for the process log. The answer is cut then.
    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        loop {
            let Some(wire) = &mut self.wire else {
                return Poll::Ready(None);
            };
            if let Poll::Ready(Err(Broken::Body)) = self.sending.poll(&mut wire.stream, cx) {
                return Poll::Ready(Some(Err("the request broke off")));
            }
            match take(&mut self.body, &mut self.rest) {
                Ok(Step::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(Step::End(trailers)) => {
                    return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
                }
                Ok(Step::More) => {}
                Err(chunked::ChunkBroken) => {
                    return Poll::Ready(Some(Err("a chunk is malformed")));
                }
            }
            let left = match &self.body {
                Left::Length(left) => usize::try_from(*left).unwrap_or(usize::MAX),
                Left::Chunked(_) | Left::UntilClose => usize::MAX,
            };
            let left = if self.is_modest {
                left.min(MODEST_READ)
            } else {
                left
            };
            match ready!(poll_read_body(&mut wire.stream, cx, &mut self.rest, left)) {
                Ok(1..) => {}
                Ok(0) if matches!(self.body, Left::UntilClose) => {
                    self.wire = None;
                    return Poll::Ready(None);
                }
                Ok(0) => return Poll::Ready(Some(Err("the connection ended"))),
                Err(error) => {
                    tracing::debug!(%error, "an upstream connection broke");
                    return Poll::Ready(Some(Err("the connection broke")));
                }
            }
        }
    }
}

/// Takes what comes next off `rest`.
fn take(body: &mut Left, rest: &mut Bytes) -> Result<Step, chunked::ChunkBroken> {
    match body {
        Left::Length(0) => Ok(Step::End(None)),
        Left::Chunked(chunked) => chunked.step(rest),
        Left::Length(_) | Left::UntilClose if rest.is_empty() => Ok(Step::More),
        Left::Length(left) => {
            // At most what is there, so it fits.
            let some = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
            *left -= some as u64;
            Ok(Step::Data(rest.split_to(some)))
        }
        Left::UntilClose => Ok(Step::Data(std::mem::take(rest))),
    }
}

/// Reads once of a body of which so many bytes are left; how many came, zero at the end.
fn poll_read_body(
    stream: &mut Stream,
    cx: &mut Context<'_>,
    rest: &mut Bytes,
    left: usize,
) -> Poll<io::Result<usize>> {
    if left <= SHORT {
        let mut buffer = BytesMut::new();
        let read = poll_read(stream, cx, &mut buffer, left);
        *rest = if buffer.len() < left / 2 {
            Bytes::copy_from_slice(&buffer)
        } else {
            buffer.freeze()
        };
        return read;
    }
    ready!(stream.poll_readable(cx));
    let mut buffer = spare::take();
    let read = pin!(stream.read_buf(&mut buffer)).poll(cx);
    // A little must not hold on to a lot, should the client take its time.
    *rest = if buffer.len() <= COPY_LIMIT {
        let copy = Bytes::copy_from_slice(&buffer);
        buffer.clear();
        copy
    } else {
        buffer.split().freeze()
    };
    spare::give(buffer);
    read
}
