//! The body of an answer: it owns the connection that it comes on, and gives it back when it is whole.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::dataplane::upstream::http1::Flow;
use crate::dataplane::upstream::shelf::{Home, StreamCount};

/// The body of an answer. Dropping one that is not whole closes an HTTP/1.1 connection, or resets the stream.
#[derive(Debug)]
pub enum AnswerBody<B> {
    /// All of it is here; it may be empty.
    Whole(Bytes),
    /// It comes on an HTTP/1.1 connection, which goes home afterwards.
    Http1(Box<Flow<B>>, Home<B>),
    /// It comes on a stream of a shared connection.
    Http2(Incoming, StreamCount),
}

impl<B> AnswerBody<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    /// A body without bytes.
    pub fn empty() -> Self {
        Self::Whole(Bytes::new())
    }

    /// Whether it is on its way and not over.
    pub fn is_flowing(&self) -> bool {
        match self {
            Self::Whole(_) => false,
            Self::Http1(flow, _) => !flow.is_over(),
            Self::Http2(body, _) => !body.is_end_stream(),
        }
    }

    /// Has little of it read at a time, or as much as there is. What comes on a shared connection has a window there.
    pub fn read_modestly(&mut self, is_modest: bool) {
        match self {
            Self::Http1(flow, _) => flow.read_modestly(is_modest),
            Self::Whole(_) | Self::Http2(..) => {}
        }
    }

    /// The next frame; `None` at the end.
    ///
    /// # Errors
    /// A sentence for the process log: the answer is cut.
    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, String>>> {
        let frame = match self {
            Self::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                return Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))));
            }
            Self::Http1(flow, home) => {
                let frame = ready!(flow.poll_frame(cx));
                if flow.is_over()
                    && let Some(wire) = flow.settle()
                {
                    home.keep(wire);
                }
                frame.map(|frame| frame.map_err(str::to_owned))
            }
            Self::Http2(body, _) => {
                let frame = ready!(std::pin::Pin::new(body).poll_frame(cx));
                frame.map(|frame| frame.map_err(|error| error.to_string()))
            }
        };
        if !self.is_flowing() {
            // What it came on is done with it.
            *self = Self::empty();
        }
        Poll::Ready(frame)
    }

    /// Whether there is nothing more.
    pub fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Http1(..) | Self::Http2(..) => !self.is_flowing(),
        }
    }

    /// What is known of its length.
    pub fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Http1(flow, _) => flow.size_hint(),
            Self::Http2(body, _) => body.size_hint(),
        }
    }
}
