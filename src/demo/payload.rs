//! What a backend's answers carry: a text, filler, or events without end.
//!
//! `backend` makes them, hyper polls them. Nothing is made ahead: a client that stops reading costs one chunk.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use serde_json::json;
use tokio::time::Interval;

/// What filler is made of, again and again.
static FILLER: [u8; 64 << 10] = [b'.'; 64 << 10];

/// A body of a backend.
#[derive(Debug)]
pub(super) enum Payload {
    /// A text, whole.
    Full(Bytes),
    /// So many bytes more.
    Filler(u64),
    /// An event a second, without end.
    Ticks(Ticks),
}

/// Server-sent events.
#[derive(Debug)]
pub(super) struct Ticks {
    backend: String,
    count: u64,
    interval: Interval,
}

impl Payload {
    /// An event a second from the backend of this name, the first at once.
    pub(super) fn ticks(backend: &str) -> Self {
        Self::Ticks(Ticks {
            backend: backend.to_owned(),
            count: 0,
            interval: tokio::time::interval(Duration::from_secs(1)),
        })
    }
}

impl Ticks {
    fn next(&mut self) -> Bytes {
        self.count += 1;
        let data = json!({ "backend": self.backend, "count": self.count });
        format!("id: {}\ndata: {data}\n\n", self.count).into()
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let bytes = match self.get_mut() {
            Self::Full(bytes) => std::mem::take(bytes),
            Self::Filler(left) => {
                let size = usize::try_from(*left).unwrap_or(usize::MAX);
                let chunk = FILLER.get(..size).unwrap_or(&FILLER);
                *left -= chunk.len() as u64;
                Bytes::from_static(chunk)
            }
            Self::Ticks(ticks) => {
                ready!(ticks.interval.poll_tick(cx));
                ticks.next()
            }
        };
        Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.is_empty(),
            Self::Filler(left) => *left == 0,
            Self::Ticks(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Filler(left) => SizeHint::with_exact(*left),
            Self::Ticks(_) => SizeHint::new(),
        }
    }
}
