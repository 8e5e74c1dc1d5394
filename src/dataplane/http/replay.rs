//! The body of a request, kept while it is sent, so that it can be sent again.
//!
//! An attempt gets a [`Reader`], which gives what is kept first and goes on with what the client sends. There is one reader at
//! a time: the next one begins anew, and what an attempt that is over still holds gives nothing any more. What is beyond the
//! limit is not kept, and neither is what came before it then.
//!
//! Bytes are copied: those that a connection has read stand in buffers that are much larger, and would be kept with them.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use crate::base::fault::Fault;
use crate::dataplane::http::body::{BodyError, RequestBody};

/// A body that is kept.
#[derive(Debug)]
pub struct Kept<B = RequestBody> {
    tape: RefCell<Tape<B>>,
    limit: usize,
}

#[derive(Debug)]
struct Tape<B> {
    body: B,
    bytes: Vec<u8>,
    trailers: Option<HeaderMap>,
    /// The body has given all that it has.
    is_over: bool,
    /// It was longer than what is kept.
    is_lost: bool,
    /// The number of the reader that reads.
    reader: u32,
}

/// The body for one attempt.
#[derive(Debug)]
pub struct Reader<B = RequestBody> {
    kept: Rc<Kept<B>>,
    number: u32,
    /// Where it stands.
    at: usize,
    has_ended: bool,
}

impl<B> Kept<B>
where
    B: Body<Data = Bytes, Error = BodyError> + Unpin,
{
    /// Keeps a body up to `limit` bytes; `Err` gives back one that is known to be longer.
    pub fn new(body: B, limit: usize) -> Result<Rc<Self>, B> {
        let hint = body.size_hint();
        if hint.lower() > limit as u64 {
            return Err(body);
        }
        // Of a length that is known not more is asked for, and for one that is not known nothing yet.
        let known = hint
            .exact()
            .map_or(0, |bytes| usize::try_from(bytes).unwrap_or(0));
        let tape = RefCell::new(Tape {
            body,
            bytes: Vec::with_capacity(known),
            trailers: None,
            is_over: false,
            is_lost: false,
            reader: 0,
        });
        Ok(Rc::new(Self { tape, limit }))
    }

    /// Whether all that has come of it is kept.
    pub fn is_whole(&self) -> bool {
        !self.tape.borrow().is_lost
    }

    /// The body from its start, in the place of the reader before.
    pub fn reader(self: &Rc<Self>) -> Reader<B> {
        let mut tape = self.tape.borrow_mut();
        tape.reader += 1;
        Reader {
            kept: Rc::clone(self),
            number: tape.reader,
            at: 0,
            has_ended: false,
        }
    }
}

impl<B> Tape<B> {
    fn keep(&mut self, data: &[u8], limit: usize) {
        if self.is_lost {
            return;
        }
        let needed = self.bytes.len() + data.len();
        if needed > limit {
            self.is_lost = true;
            self.bytes = Vec::new();
            return;
        }
        if needed > self.bytes.capacity() {
            // Twice as much each time, and never more than the limit.
            let room = needed.max(self.bytes.capacity() * 2).min(limit);
            self.bytes.reserve_exact(room - self.bytes.len());
        }
        self.bytes.extend_from_slice(data);
    }
}

impl<B> Body for Reader<B>
where
    B: Body<Data = Bytes, Error = BodyError> + Unpin,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if this.has_ended {
            return Poll::Ready(None);
        }
        let mut tape = this.kept.tape.borrow_mut();
        let tape = &mut *tape;
        if tape.reader != this.number {
            // Another attempt has begun.
            return Poll::Ready(Some(Err(BodyError(Fault::ConnectionLost))));
        }
        if let Some(rest) = tape.bytes.get(this.at..).filter(|rest| !rest.is_empty()) {
            this.at = tape.bytes.len();
            return Poll::Ready(Some(Ok(Frame::data(Bytes::copy_from_slice(rest)))));
        }
        if !tape.is_over {
            match ready!(Pin::new(&mut tape.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        tape.keep(&data, this.kept.limit);
                        this.at = tape.bytes.len();
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                    Err(frame) => {
                        // A frame is data or trailers, and trailers are the last.
                        tape.trailers = frame.into_trailers().ok();
                        tape.is_over = true;
                    }
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => tape.is_over = true,
            }
        }
        this.has_ended = true;
        let trailers = tape.trailers.clone();
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        let tape = self.kept.tape.borrow();
        let is_over = match tape.is_over {
            true => tape.trailers.is_none(),
            false => tape.body.is_end_stream(),
        };
        self.has_ended || (is_over && self.at == tape.bytes.len())
    }

    fn size_hint(&self) -> SizeHint {
        let tape = self.kept.tape.borrow();
        let kept = (tape.bytes.len() - self.at.min(tape.bytes.len())) as u64;
        match tape.body.size_hint().exact() {
            // With trailers the length is not said: they come behind chunks alone.
            Some(rest) if tape.trailers.is_none() => SizeHint::with_exact(kept + rest),
            Some(_) | None => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::task::Waker;

    use proptest::prelude::*;

    use super::*;

    /// What a client sends: `None` is a pause.
    #[derive(Debug)]
    struct Script {
        steps: VecDeque<Option<Vec<u8>>>,
        trailers: Option<HeaderMap>,
        /// Whether its length is known.
        is_known: bool,
    }

    impl Script {
        fn left(&self) -> u64 {
            self.steps
                .iter()
                .flatten()
                .map(|data| data.len() as u64)
                .sum()
        }
    }

    impl Body for Script {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            let this = self.get_mut();
            match this.steps.pop_front() {
                Some(None) => Poll::Pending,
                Some(Some(data)) => Poll::Ready(Some(Ok(Frame::data(data.into())))),
                None => Poll::Ready(
                    this.trailers
                        .take()
                        .map(|fields| Ok(Frame::trailers(fields))),
                ),
            }
        }

        fn is_end_stream(&self) -> bool {
            self.is_known && self.left() == 0 && self.trailers.is_none()
        }

        fn size_hint(&self) -> SizeHint {
            match self.is_known {
                true => SizeHint::with_exact(self.left()),
                false => SizeHint::default(),
            }
        }
    }

    /// What a reader gives in so many looks, and whether it is at its end.
    fn read(reader: &mut Reader<Script>, looks: usize) -> (Vec<u8>, Option<HeaderMap>, bool) {
        let mut cx = Context::from_waker(Waker::noop());
        let (mut data, mut trailers) = (Vec::new(), None);
        for _ in 0..looks {
            if reader.is_end_stream() {
                return (data, trailers, true);
            }
            match Pin::new(&mut *reader).poll_frame(&mut cx) {
                Poll::Pending => {}
                Poll::Ready(None) => return (data, trailers, true),
                Poll::Ready(Some(frame)) => match frame.unwrap().into_data() {
                    Ok(more) => data.extend_from_slice(&more),
                    Err(frame) => trailers = frame.into_trailers().ok(),
                },
            }
        }
        (data, trailers, false)
    }

    fn script(sizes: &[Option<usize>], is_known: bool, has_trailers: bool) -> (Script, Vec<u8>) {
        let mut all = Vec::new();
        let steps = sizes.iter().map(|size| {
            size.map(|size| {
                let from = all.len();
                all.extend((from..from + size).map(|at| (at % 251) as u8));
                all.get(from..).unwrap_or_default().to_vec()
            })
        });
        let steps = steps.collect();
        let trailers = has_trailers.then(|| {
            let fields = [("x-sum", "1")]
                .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            fields.into_iter().collect::<HeaderMap>()
        });
        let script = Script {
            steps,
            trailers,
            is_known,
        };
        (script, all)
    }

    proptest! {
        #[test]
        fn whatever_is_sent_and_wherever_attempts_fail_no_byte_is_lost_doubled_or_moved(
            sizes in prop::collection::vec(prop::option::weighted(0.8, 0_usize..5000), 0..20),
            fails in prop::collection::vec(0_usize..12, 0..5),
            limit in 0_usize..40_000,
            is_known: bool,
            has_trailers: bool,
        ) {
            let has_trailers = has_trailers && !is_known;
            let (script, all) = script(&sizes, is_known, has_trailers);
            let kept = match Kept::new(script, limit) {
                Ok(kept) => kept,
                Err(_) => {
                    prop_assert!(is_known && all.len() > limit);
                    return Ok(());
                }
            };
            let mut reader = kept.reader();
            for looks in fails {
                let (data, early, _) = read(&mut reader, looks);
                prop_assert!(all.starts_with(&data));
                prop_assert!(kept.tape.borrow().bytes.capacity() <= limit);
                if !kept.is_whole() {
                    prop_assert!(all.len() > limit);
                    let (rest, trailers, has_ended) = read(&mut reader, 100);
                    prop_assert!(has_ended);
                    prop_assert_eq!(early.or(trailers).is_some(), has_trailers);
                    prop_assert_eq!([data, rest].concat(), all);
                    return Ok(());
                }
                if is_known {
                    let left = all.len() - data.len();
                    prop_assert_eq!(reader.size_hint().exact(), Some(left as u64));
                }
                let mut stale = std::mem::replace(&mut reader, kept.reader());
                let mut cx = Context::from_waker(Waker::noop());
                if let Poll::Ready(Some(frame)) = Pin::new(&mut stale).poll_frame(&mut cx) {
                    prop_assert!(frame.is_err(), "one that was replaced gives nothing");
                }
            }
            let (data, trailers, has_ended) = read(&mut reader, 100);
            prop_assert!(has_ended);
            prop_assert_eq!(trailers.is_some(), has_trailers);
            prop_assert_eq!(data, all);
        }
    }

    #[test]
    fn what_is_longer_than_the_limit_is_sent_and_not_kept() {
        let (script, all) = script(&[Some(60), Some(41), Some(7)], false, false);
        let kept = Kept::new(script, 100).unwrap();
        let mut reader = kept.reader();
        assert_eq!(read(&mut reader, 1).0, &all[..60]);
        assert!(kept.is_whole());
        assert_eq!(read(&mut reader, 9).0, &all[60..]);
        assert!(!kept.is_whole());
        assert_eq!(kept.tape.borrow().bytes.capacity(), 0);
    }
}
