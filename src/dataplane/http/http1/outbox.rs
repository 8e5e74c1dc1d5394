//! What waits to be written: small pieces copied together, large ones as they are, all in one write.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use smallvec::SmallVec;
use tokio::io::AsyncWrite;

use super::COPY_BYTES;
use crate::base::gather::GATHER_LIMIT;

/// Pieces that are offered to the transport at a time.
const SLICES: usize = 32;

/// Bytes on their way to a client.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pieces: VecDeque<Piece>,
    /// What is behind the pieces, and still grows.
    tail: Vec<u8>,
    /// How much of the first piece, or of the tail, was taken.
    taken: usize,
    waiting: usize,
    /// Bytes that the transport took.
    pub(super) written: u64,
    /// Whether the transport took nothing when it was last asked to.
    pub(super) is_blocked: bool,
    is_unflushed: bool,
}

#[derive(Debug)]
enum Piece {
    Own(Vec<u8>),
    Given(Bytes),
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Given(bytes) => bytes,
        }
    }
}

impl Outbox {
    /// How many bytes wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Whether it has a buffer.
    pub(super) fn has_buffer(&self) -> bool {
        self.tail.capacity() > 0
    }

    /// Uses `buffer`, which is empty, for what is copied.
    pub(super) fn use_buffer(&mut self, buffer: Vec<u8>) {
        if !self.has_buffer() {
            self.tail = buffer;
        }
    }

    /// Gives the buffer back, if nothing waits.
    pub(super) fn release(&mut self) -> Option<Vec<u8>> {
        if self.waiting > 0 {
            return None;
        }
        self.pieces = VecDeque::new();
        self.tail.clear();
        Some(std::mem::take(&mut self.tail)).filter(|buffer| buffer.capacity() <= GATHER_LIMIT)
    }

    /// Writes small things behind what waits.
    pub(super) fn write<R>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        if self.tail.len() >= GATHER_LIMIT {
            self.seal();
        }
        let before = self.tail.len();
        let outcome = write(&mut self.tail);
        self.waiting += self.tail.len().saturating_sub(before);
        outcome
    }

    /// Adds a part of a body, which is copied if it is small.
    pub(super) fn push(&mut self, bytes: Bytes) {
        if bytes.len() <= COPY_BYTES {
            return self.write(|tail| tail.extend_from_slice(&bytes));
        }
        self.seal();
        self.waiting += bytes.len();
        self.pieces.push_back(Piece::Given(bytes));
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            let tail = std::mem::take(&mut self.tail);
            self.pieces.push_back(Piece::Own(tail));
        }
    }

    /// Asks the transport to take all that waits.
    pub(super) fn poll_write<T: AsyncWrite + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.waiting > 0 {
            let written = self.poll_write_some(io, cx);
            self.is_blocked = written.is_pending();
            let written = ready!(written)?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += written as u64;
            self.is_unflushed = true;
            self.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// The same, and to send on what it took.
    pub(super) fn poll_flush<T: AsyncWrite + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_write(io, cx))?;
        if self.is_unflushed {
            let flushed = Pin::new(io).poll_flush(cx);
            self.is_blocked = flushed.is_pending();
            ready!(flushed)?;
            self.is_unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_some<T: AsyncWrite + Unpin>(
        &self,
        io: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let io = Pin::new(io);
        if self.pieces.is_empty() {
            return io.poll_write(cx, self.tail.get(self.taken..).unwrap_or_default());
        }
        let mut taken = self.taken;
        let slices: SmallVec<[IoSlice<'_>; SLICES]> = self
            .pieces
            .iter()
            .map(Piece::bytes)
            .chain([self.tail.as_slice()])
            .take(SLICES)
            .map(|bytes| {
                let skipped = std::mem::take(&mut taken);
                IoSlice::new(bytes.get(skipped..).unwrap_or_default())
            })
            .collect();
        io.poll_write_vectored(cx, &slices)
    }

    fn advance(&mut self, mut bytes: usize) {
        self.waiting = self.waiting.saturating_sub(bytes);
        while let Some(first) = self.pieces.front() {
            let left = first.bytes().len().saturating_sub(self.taken);
            if bytes < left {
                self.taken += bytes;
                return;
            }
            bytes -= left;
            self.taken = 0;
            self.pieces.pop_front();
        }
        self.taken += bytes;
        if self.taken >= self.tail.len() {
            self.taken = 0;
            self.tail.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use proptest::prelude::*;

    use super::*;

    /// Takes so many bytes of a write, in turns.
    struct Narrow {
        takes: Vec<usize>,
        turn: usize,
        got: Vec<u8>,
        writes: usize,
    }

    impl AsyncWrite for Narrow {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.turn += 1;
            self.writes += 1;
            let takes = self.takes[self.turn % self.takes.len()].min(bytes.len());
            if takes == 0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.got.extend_from_slice(&bytes[..takes]);
            Poll::Ready(Ok(takes))
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let all: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
            self.poll_write(cx, &all)
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn send(outbox: &mut Outbox, io: &mut Narrow) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime
            .block_on(poll_fn(|cx| outbox.poll_flush(io, cx)))
            .unwrap();
    }

    #[test]
    fn what_is_ready_together_leaves_in_one_write() {
        let mut outbox = Outbox::default();
        let mut io = Narrow {
            takes: vec![usize::MAX],
            turn: 0,
            got: Vec::new(),
            writes: 0,
        };
        outbox.write(|tail| tail.extend_from_slice(b"head"));
        outbox.push(Bytes::from(vec![b'x'; 100_000]));
        outbox.push(Bytes::from_static(b"small"));
        assert_eq!(outbox.waiting(), 100_009);
        send(&mut outbox, &mut io);
        assert_eq!((io.writes, io.got.len()), (1, 100_009));
        assert!(io.got.starts_with(b"headxx") && io.got.ends_with(b"xxsmall"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_byte_leaves_once_and_in_order(
            sizes in prop::collection::vec((0usize..9000, any::<bool>()), 0..50),
            mut takes in prop::collection::vec(0usize..20_000, 0..6),
        ) {
            takes.push(1000);
            let mut io = Narrow { takes, turn: 0, got: Vec::new(), writes: 0 };
            let mut outbox = Outbox::default();
            let mut expected = Vec::new();
            for (nth, (size, is_written)) in sizes.into_iter().enumerate() {
                let bytes = vec![u8::try_from(nth).unwrap(); size];
                expected.extend_from_slice(&bytes);
                if is_written {
                    outbox.write(|tail| tail.extend_from_slice(&bytes));
                } else {
                    outbox.push(Bytes::from(bytes));
                }
                prop_assert_eq!(outbox.waiting(), expected.len() - io.got.len());
                if nth % 7 == 0 {
                    send(&mut outbox, &mut io);
                }
            }
            send(&mut outbox, &mut io);
            prop_assert_eq!(outbox.waiting(), 0);
            prop_assert!(io.got == expected);
            prop_assert_eq!(outbox.written, expected.len() as u64);
        }
    }
}
