//! The transport whose reader sees no frame that breaks a rule.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Frames, Offence};

/// A transport, and the frames that came on it.
#[derive(Debug)]
pub struct Checked<T> {
    io: T,
    frames: Frames,
    verdict: Verdict,
}

/// What came of the frames, for whoever drives the codec.
#[derive(Clone, Debug, Default)]
pub struct Verdict(Rc<Cell<Option<(Offence, u32)>>>);

impl Verdict {
    /// The rule that the client broke.
    pub fn offence(&self) -> Option<Offence> {
        self.0.get().map(|(offence, _)| offence)
    }

    /// The last word to the client that broke a rule: which one, and which stream was the last that we looked at
    /// (RFC 9113 §6.8).
    pub fn goaway(&self) -> Option<[u8; 17]> {
        let (offence, last) = self.0.get()?;
        let [a, b, c, d] = last.to_be_bytes();
        let [e, f, g, h] = offence.code().to_be_bytes();
        Some([
            0,
            0,
            8,
            super::GOAWAY,
            0,
            0,
            0,
            0,
            0,
            a,
            b,
            c,
            d,
            e,
            f,
            g,
            h,
        ])
    }
}

impl<T> Checked<T> {
    /// The transport, and where what comes of it is told.
    pub fn new(io: T) -> (Self, Verdict) {
        let verdict = Verdict::default();
        let checked = Self {
            io,
            frames: Frames::default(),
            verdict: verdict.clone(),
        };
        (checked, verdict)
    }

    /// The transport alone.
    pub fn into_io(self) -> T {
        self.io
    }
}

fn broken() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the client broke a rule of HTTP/2",
    )
}

impl<T: AsyncRead + Unpin> AsyncRead for Checked<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.verdict.0.get().is_some() {
            return Poll::Ready(Err(broken()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        let come = buf.filled().get(before..).unwrap_or_default();
        let Err((good, offence)) = this.frames.read(come) else {
            return Poll::Ready(Ok(()));
        };
        this.verdict.0.set(Some((offence, this.frames.highest())));
        if good == 0 {
            return Poll::Ready(Err(broken()));
        }
        // What came before it is served as far as that goes.
        buf.set_filled(before + good);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Checked<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
