//! A transport connection, plain or ended in TLS: one type for everything that reads and writes HTTP.
//!
//! Made by [`accept`](super::accept) and [`ClientPlan::connect`](super::ClientPlan::connect), or from a plain
//! [`Transport`]. Vectored writes pass through, so that a head and its first body bytes leave in one write and,
//! under TLS, in one record.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{client, server};

/// A TCP socket that sends a single piece by `send`: `writev` costs the kernel a twentieth more of it, and most writes
/// have a single piece, since TLS makes one record of several.
#[derive(Debug)]
pub struct Tcp(pub TcpStream);

impl AsyncRead for Tcp {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match bufs {
            [only] => Pin::new(&mut self.0).poll_write(cx, only),
            _ => Pin::new(&mut self.0).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

/// A connection before TLS.
#[derive(Debug)]
pub enum Transport {
    /// TCP.
    Tcp(Tcp),
    /// A unix socket.
    Unix(UnixStream),
}

impl From<TcpStream> for Transport {
    fn from(stream: TcpStream) -> Self {
        Self::Tcp(Tcp(stream))
    }
}

impl From<UnixStream> for Transport {
    fn from(stream: UnixStream) -> Self {
        Self::Unix(stream)
    }
}

/// A connection as HTTP sees it. The TLS state is boxed: it is large, and plain connections do not pay for it.
#[derive(Debug)]
pub enum Stream {
    /// TCP in clear.
    Tcp(Tcp),
    /// A unix socket in clear.
    Unix(UnixStream),
    /// TLS that a client opened to us.
    Server(Box<server::TlsStream<Tcp>>),
    /// TLS that we opened to an endpoint.
    Client(Box<client::TlsStream<Tcp>>),
    /// TLS that we opened to an endpoint through a unix socket.
    ClientUnix(Box<client::TlsStream<UnixStream>>),
}

impl From<Transport> for Stream {
    fn from(transport: Transport) -> Self {
        match transport {
            Transport::Tcp(stream) => Self::Tcp(stream),
            Transport::Unix(stream) => Self::Unix(stream),
        }
    }
}

impl Stream {
    /// Whether it can go on under another worker: a socket can, the state of TLS cannot.
    pub fn can_move(&self) -> bool {
        match self {
            Self::Tcp(_) | Self::Unix(_) => true,
            Self::Server(_) | Self::Client(_) | Self::ClientUnix(_) => false,
        }
    }
}

impl Stream {
    /// Whether a read is worth a buffer: pending as long as the socket has nothing. TLS may have something of its own,
    /// and is always worth it.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            // An error is readable too.
            Self::Tcp(stream) => stream.0.poll_read_ready(cx).map(drop),
            Self::Unix(stream) => stream.poll_read_ready(cx).map(drop),
            Self::Server(_) | Self::Client(_) | Self::ClientUnix(_) => Poll::Ready(()),
        }
    }
}

/// Bytes that TLS is made to copy at a time. A record begins with five bytes of header, and what is copied behind them is out
/// of step: from about 2100 bytes on, glibc copies by `rep movsb`, which takes ten times as long there on some processors.
const STEP: usize = 2 << 10;

/// What is offered to TLS at a time, in steps.
const STEPS: usize = 64;

/// The same bytes in steps, as far as they are to be taken at a time.
fn steps<'a>(bufs: &'a [IoSlice<'_>]) -> SmallVec<[IoSlice<'a>; STEPS]> {
    bufs.iter()
        .flat_map(|buf| buf.chunks(STEP))
        .take(STEPS)
        .map(IoSlice::new)
        .collect()
}

/// Calls a method on whichever connection is inside.
macro_rules! on_each {
    ($stream:expr, $method:ident($($argument:expr),*)) => {
        match $stream {
            Stream::Tcp(stream) => Pin::new(stream).$method($($argument),*),
            Stream::Unix(stream) => Pin::new(stream).$method($($argument),*),
            Stream::Server(stream) => Pin::new(stream).$method($($argument),*),
            Stream::Client(stream) => Pin::new(stream).$method($($argument),*),
            Stream::ClientUnix(stream) => Pin::new(stream).$method($($argument),*),
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        on_each!(self.get_mut(), poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            stream if buf.len() <= STEP => on_each!(stream, poll_write(cx, buf)),
            stream => on_each!(
                stream,
                poll_write_vectored(cx, &steps(&[IoSlice::new(buf)]))
            ),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_each!(self.get_mut(), poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_each!(self.get_mut(), poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            stream if bufs.iter().all(|buf| buf.len() <= STEP) => {
                on_each!(stream, poll_write_vectored(cx, bufs))
            }
            stream => on_each!(stream, poll_write_vectored(cx, &steps(bufs))),
        }
    }

    /// True: every kind of connection inside writes vectored.
    fn is_write_vectored(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn can_move_between_threads<T: Send + Unpin + 'static>() {}

    #[test]
    fn steps_are_the_same_bytes_in_order() {
        let text: Vec<u8> = (0..=u8::MAX).cycle().take(3 * STEP + 7).collect();
        let (head, body) = text.split_at(10);
        let bufs = [IoSlice::new(head), IoSlice::new(&[]), IoSlice::new(body)];
        let steps = steps(&bufs);
        assert!(steps.iter().all(|step| step.len() <= STEP));
        let got: Vec<u8> = steps.iter().flat_map(|step| step.iter().copied()).collect();
        assert_eq!(got, text);
    }

    #[test]
    fn no_more_is_offered_than_so_many_steps() {
        let text = vec![0; 2 * STEPS * STEP];
        let bufs = [IoSlice::new(&text)];
        let offered: usize = steps(&bufs).iter().map(|step| step.len()).sum();
        assert_eq!(offered, STEPS * STEP);
    }

    #[test]
    fn a_stream_is_small_and_may_move() {
        can_move_between_threads::<Stream>();
        assert!(size_of::<Stream>() <= size_of::<TcpStream>() + size_of::<usize>());
    }
}
