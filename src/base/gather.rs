//! A transport that gathers what a codec writes in pieces, so that it leaves in one write and in full TLS records.
//!
//! An HTTP/2 codec flushes after every frame of data. Sixteen small answers that are ready together would be
//! sixteen writes and sixteen records. Whoever drives the codec gives it a [`Gather`] and keeps the [`Outlet`]:
//! the codec's flushes do nothing, and the outlet is flushed once when the codec has no more to say.
//!
//! Such a codec also asks for bytes with every poll, whatever it was woken by. A transport that had none is left alone
//! until it wakes: asking TLS and the socket in vain is not free.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker, ready};

use bytes::{Buf, BytesMut};
use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are gathered before the transport is asked to take them: a full TLS record (RFC 8446 §5.1).
pub const GATHER_LIMIT: usize = 16 << 10;

/// The codec's side.
#[derive(Debug)]
pub struct Gather<T> {
    held: Rc<RefCell<Held<T>>>,
}

/// The driver's side.
#[derive(Debug)]
pub struct Outlet<T> {
    held: Rc<RefCell<Held<T>>>,
}

#[derive(Debug)]
struct Held<T> {
    io: T,
    waiting: BytesMut,
    /// The transport took a part of what it was given last.
    is_torn: bool,
    /// Absent until something is read.
    bell: Option<Bell>,
}

/// How a transport says that there may be something to read.
#[derive(Debug)]
struct Bell {
    ring: Arc<Ring>,
    /// Rings it.
    waker: Waker,
}

#[derive(Debug)]
struct Ring {
    has_rung: AtomicBool,
    task: Waker,
}

impl Wake for Ring {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.has_rung.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

impl Bell {
    /// A bell for `task` that has rung: nobody has asked for anything yet.
    fn new(task: &Waker) -> Self {
        let ring = Arc::new(Ring {
            has_rung: AtomicBool::new(true),
            task: task.clone(),
        });
        let waker = Waker::from(Arc::clone(&ring));
        Self { ring, waker }
    }

    /// Whether it has rung since it was last asked.
    fn take(&self) -> bool {
        let has_rung = &self.ring.has_rung;
        has_rung.load(Ordering::Relaxed) && has_rung.swap(false, Ordering::AcqRel)
    }
}

impl<T> Gather<T> {
    /// Both sides of `io`.
    pub fn new(io: T) -> (Self, Outlet<T>) {
        let held = Rc::new(RefCell::new(Held {
            io,
            waiting: BytesMut::new(),
            is_torn: false,
            bell: None,
        }));
        let outlet = Outlet {
            held: Rc::clone(&held),
        };
        (Self { held }, outlet)
    }
}

impl<T> Outlet<T> {
    /// Gives the transport back once the codec is gone; what was gathered and not flushed is lost.
    pub fn into_io(self) -> Option<T> {
        let held = Rc::into_inner(self.held)?;
        Some(held.into_inner().io)
    }
}

impl<T: AsyncWrite + Unpin> Outlet<T> {
    /// Sends what was gathered; to be called after every poll of the codec.
    ///
    /// # Errors
    /// Those of the transport.
    pub fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let held = &mut *self.held.borrow_mut();
        if held.waiting.is_empty() {
            return Poll::Ready(Ok(()));
        }
        ready!(held.poll_send(cx))?;
        Pin::new(&mut held.io).poll_flush(cx)
    }

    /// Puts a last word behind what the codec has written; it is dropped where the codec was in the middle of a write.
    pub fn append(&self, bytes: &[u8]) {
        let held = &mut *self.held.borrow_mut();
        if !held.is_torn {
            held.waiting.extend_from_slice(bytes);
        }
    }

    /// Gives back the memory that gathering takes, if nothing waits in it: for a connection that falls idle.
    pub fn release(&self) {
        let held = &mut *self.held.borrow_mut();
        if held.waiting.is_empty() {
            held.waiting = BytesMut::new();
        }
    }
}

impl<T: AsyncWrite + Unpin> Held<T> {
    /// Sends all that waits.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            let sent = ready!(Pin::new(&mut self.io).poll_write(cx, &self.waiting))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.waiting.advance(sent);
        }
        self.waiting.clear();
        Poll::Ready(Ok(()))
    }

    /// Sends what waits and the pieces behind it; the number of bytes taken of the pieces.
    fn poll_through(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            let waiting = self.waiting.len();
            let sent = if waiting == 0 {
                return Pin::new(&mut self.io).poll_write_vectored(cx, pieces);
            } else {
                let mut all = SmallVec::<[IoSlice<'_>; 4]>::new();
                all.push(IoSlice::new(&self.waiting));
                all.extend(pieces.iter().copied());
                ready!(Pin::new(&mut self.io).poll_write_vectored(cx, &all))?
            };
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.waiting.advance(sent.min(waiting));
            if sent > waiting {
                self.waiting.clear();
                return Poll::Ready(Ok(sent - waiting));
            }
        }
    }

    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes = pieces.iter().map(|piece| piece.len()).sum::<usize>();
        if self.waiting.len() + bytes > GATHER_LIMIT {
            let sent = ready!(self.poll_through(cx, pieces))?;
            self.is_torn = sent < bytes;
            return Poll::Ready(Ok(sent));
        }
        self.is_torn = false;
        if self.waiting.capacity() == 0 {
            // All at once: growing step by step would copy what waits with each.
            self.waiting = BytesMut::with_capacity(GATHER_LIMIT);
        }
        for piece in pieces {
            self.waiting.extend_from_slice(piece);
        }
        Poll::Ready(Ok(bytes))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Gather<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Held { io, bell, .. } = &mut *self.held.borrow_mut();
        let bell = match bell {
            Some(bell) if bell.ring.task.will_wake(cx.waker()) => bell,
            _ => bell.insert(Bell::new(cx.waker())),
        };
        // Taken before the transport is asked, so that it may ring meanwhile.
        if !bell.take() {
            return Poll::Pending;
        }
        let read = Pin::new(io).poll_read(&mut Context::from_waker(&bell.waker), buf);
        if read.is_ready() {
            bell.ring.has_rung.store(true, Ordering::Relaxed);
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gather<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.held.borrow_mut().poll_take(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.held.borrow_mut().poll_take(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Does nothing: the outlet flushes.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let held = &mut *self.held.borrow_mut();
        ready!(held.poll_send(cx))?;
        Pin::new(&mut held.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// Takes as much a write as it was told to, and waits where it was told nothing more.
    #[derive(Debug, Default)]
    struct Sink {
        takes: VecDeque<usize>,
        writes: Vec<Vec<u8>>,
    }

    impl AsyncWrite for Sink {
        fn poll_write(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[IoSlice::new(buf)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bufs: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let Some(takes) = self.takes.pop_front() else {
                return Poll::Pending;
            };
            let mut all: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
            all.truncate(takes);
            let taken = all.len();
            self.writes.push(all);
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn gather(takes: &[usize]) -> (Gather<Sink>, Outlet<Sink>) {
        Gather::new(Sink {
            takes: takes.iter().copied().collect(),
            writes: Vec::new(),
        })
    }

    fn write(gather: &mut Gather<Sink>, pieces: &[&[u8]]) -> Poll<usize> {
        let pieces: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(gather)
            .poll_write_vectored(&mut cx, &pieces)
            .map(Result::unwrap)
    }

    fn flush(outlet: &Outlet<Sink>) -> Poll<()> {
        let mut cx = Context::from_waker(Waker::noop());
        outlet.poll_flush(&mut cx).map(Result::unwrap)
    }

    fn written(outlet: &Outlet<Sink>) -> Vec<Vec<u8>> {
        outlet.held.borrow().io.writes.clone()
    }

    #[test]
    fn small_pieces_leave_in_one_write() {
        let (mut gather, outlet) = gather(&[usize::MAX]);
        assert_eq!(write(&mut gather, &[b"he", b"ad"]), Poll::Ready(4));
        assert_eq!(write(&mut gather, &[b"body"]), Poll::Ready(4));
        assert!(written(&outlet).is_empty());
        assert_eq!(flush(&outlet), Poll::Ready(()));
        assert_eq!(flush(&outlet), Poll::Ready(()));
        assert_eq!(written(&outlet), [b"headbody"]);
    }

    #[test]
    fn large_pieces_are_not_copied_and_keep_their_place() {
        let large = vec![b'x'; GATHER_LIMIT + 1];
        let (mut gather, outlet) = gather(&[usize::MAX, usize::MAX]);
        assert_eq!(
            write(&mut gather, &[&large, b"y"]),
            Poll::Ready(GATHER_LIMIT + 2)
        );
        assert_eq!(write(&mut gather, &[b"head"]), Poll::Ready(4));
        assert_eq!(write(&mut gather, &[&large]), Poll::Ready(GATHER_LIMIT + 1));
        assert_eq!(
            written(&outlet),
            [[&large[..], b"y"].concat(), [b"head", &large[..]].concat()]
        );
    }

    #[test]
    fn a_transport_that_takes_little_at_a_time_loses_nothing() {
        let large = vec![b'x'; GATHER_LIMIT + 1];
        let (mut gather, outlet) = gather(&[1, 2, 4]);
        assert_eq!(write(&mut gather, &[b"head"]), Poll::Ready(4));
        assert_eq!(write(&mut gather, &[&large]), Poll::Ready(3));
        assert_eq!(write(&mut gather, &[&large]), Poll::Pending);
        assert_eq!(written(&outlet).concat(), b"headxxx");
    }

    #[test]
    fn a_last_word_stands_behind_what_is_whole_and_never_within() {
        let large = vec![b'x'; GATHER_LIMIT + 1];
        let (mut gather, outlet) = gather(&[2, usize::MAX]);
        assert_eq!(write(&mut gather, &[&large]), Poll::Ready(2));
        outlet.append(b"bye");
        assert_eq!(flush(&outlet), Poll::Ready(()));
        assert_eq!(written(&outlet).concat(), b"xx");
        assert_eq!(write(&mut gather, &[b"head"]), Poll::Ready(4));
        outlet.append(b"bye");
        assert_eq!(flush(&outlet), Poll::Ready(()));
        assert_eq!(written(&outlet).concat(), b"xxheadbye");
    }

    #[test]
    fn what_the_transport_does_not_take_waits() {
        let (mut gather, outlet) = gather(&[2]);
        assert_eq!(write(&mut gather, &[b"head"]), Poll::Ready(4));
        assert_eq!(flush(&outlet), Poll::Pending);
        outlet.held.borrow_mut().io.takes.push_back(9);
        assert_eq!(write(&mut gather, &[b"body"]), Poll::Ready(4));
        assert_eq!(flush(&outlet), Poll::Ready(()));
        assert_eq!(written(&outlet), [b"he".to_vec(), b"adbody".to_vec()]);
    }

    /// Has something to read as often as it was told, and keeps the waker of who asked in vain.
    #[derive(Debug, Default)]
    struct Source {
        ready: usize,
        asked: usize,
        waker: Option<Waker>,
    }

    impl AsyncRead for Source {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            self.asked += 1;
            if self.ready == 0 {
                self.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            self.ready -= 1;
            buf.put_slice(b"x");
            Poll::Ready(Ok(()))
        }
    }

    /// Counts how often it is woken.
    #[derive(Debug, Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn read(gather: &mut Gather<Source>, waker: &Waker) -> bool {
        let (mut bytes, mut cx) = ([0; 8], Context::from_waker(waker));
        let mut buf = ReadBuf::new(&mut bytes);
        Pin::new(gather).poll_read(&mut cx, &mut buf).is_ready()
    }

    #[test]
    fn a_transport_that_had_nothing_is_asked_again_once_it_wakes() {
        let task = Arc::new(Task::default());
        let waker = Waker::from(Arc::clone(&task));
        let (mut gather, outlet) = Gather::new(Source::default());
        outlet.held.borrow_mut().io.ready = 2;
        assert!(read(&mut gather, &waker));
        assert!(read(&mut gather, &waker));
        assert!(!read(&mut gather, &waker));
        outlet.held.borrow_mut().io.ready = 1;
        assert!(!read(&mut gather, &waker));
        assert_eq!(outlet.held.borrow().io.asked, 3);
        let bell = outlet.held.borrow_mut().io.waker.take();
        bell.expect("it was asked in vain").wake();
        assert_eq!(task.0.load(Ordering::Relaxed), 1);
        assert!(read(&mut gather, &waker));
        assert!(!read(&mut gather, &waker));
        assert_eq!(outlet.held.borrow().io.asked, 5);
    }

    #[test]
    fn another_task_is_not_kept_from_asking() {
        let waker = || Waker::from(Arc::new(Task::default()));
        let (mut gather, outlet) = Gather::new(Source::default());
        let (one, other) = (waker(), waker());
        assert!(!read(&mut gather, &one));
        assert!(!read(&mut gather, &other));
        assert_eq!(outlet.held.borrow().io.asked, 2);
    }
}
