//! The body of a request: what the exchange polls, and the buffer that it shares with the connection.
//!
//! The connection reads from the transport only when the exchange has asked for more than is here, and the
//! exchange may ask from another task than the connection's.

use std::cell::RefCell;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes, BytesMut};
use http_body::{Frame, SizeHint};

use super::READ_BYTES;
use crate::base::fault::Fault;
use crate::dataplane::http::body::BodyError;
use crate::dataplane::http::framing::Scanner;

/// What came from a client and was not taken yet.
#[derive(Debug)]
pub(super) struct Inlet {
    pub(super) buffer: BytesMut,
    pub(super) scanner: Scanner,
    /// The client sends the body when it is told to.
    pub(super) owes_continue: bool,
    /// The exchange has asked for more of the body than is here.
    pub(super) is_wanted: bool,
    /// Somebody holds the body.
    pub(super) is_attached: bool,
    /// The connection waits for whoever that is.
    pub(super) is_awaited: bool,
    /// How many messages have begun: a body of an earlier one is over.
    messages: u64,
    /// Why the body ends early.
    fault: Option<Fault>,
    poller: Option<Waker>,
    driver: Option<Waker>,
}

/// What stands next in a body.
enum Next {
    Frame(Frame<Bytes>),
    Broken(Fault),
    More,
    End,
}

impl Inlet {
    pub(super) fn new(scanner: Scanner) -> Self {
        Self {
            buffer: BytesMut::new(),
            scanner,
            owes_continue: false,
            is_wanted: false,
            is_attached: false,
            is_awaited: false,
            messages: 0,
            fault: None,
            poller: None,
            driver: None,
        }
    }

    /// Takes the first so many bytes out of the buffer, which holds as many.
    pub(super) fn cut(&mut self, bytes: usize) -> Bytes {
        if bytes >= self.buffer.len() {
            return std::mem::take(&mut self.buffer).freeze();
        }
        self.buffer.split_to(bytes).freeze()
    }

    /// The body of the message whose head has just passed, if it has one; `shared` is this inlet.
    pub(super) fn attach(
        &mut self,
        shared: &Rc<RefCell<Self>>,
        owes_continue: bool,
    ) -> Option<Body> {
        self.messages += 1;
        self.is_attached = self.scanner.is_in_body();
        self.owes_continue = owes_continue && self.is_attached && self.buffer.is_empty();
        self.is_attached.then(|| Body {
            inlet: Rc::clone(shared),
            message: self.messages,
        })
    }

    /// Whether the body can still come to its end.
    pub(super) fn is_sound(&self) -> bool {
        self.fault.is_none() && (self.scanner.is_between() || self.scanner.is_in_body())
    }

    /// Ends the body early.
    pub(super) fn fail(&mut self, fault: Fault) {
        if self.scanner.is_in_body() {
            self.fault.get_or_insert(fault);
        }
    }

    /// Throws away what is here of a body that nobody wants.
    pub(super) fn skip(&mut self) {
        while let Next::Frame(_) = self.next() {}
    }

    /// Remembers whom to wake when the body is asked for.
    pub(super) fn set_driver(&mut self, cx: &Context<'_>) {
        remember(&mut self.driver, cx);
    }

    /// Takes the waker of who waits for the body.
    pub(super) fn take_poller(&mut self) -> Option<Waker> {
        self.is_wanted = false;
        self.poller.take()
    }

    fn next(&mut self) -> Next {
        if let Some(fault) = self.fault {
            return Next::Broken(fault);
        }
        if self.scanner.is_in_body()
            && let Err(fault) = self.frame()
        {
            return Next::Broken(fault);
        }
        if let Some(trailers) = self.scanner.take_trailers() {
            return Next::Frame(Frame::trailers(*trailers));
        }
        if !self.scanner.is_in_body() {
            return Next::End;
        }
        let here = self.buffer.len() as u64;
        // It is at most what is here, so it fits.
        let bytes = usize::try_from(self.scanner.data().min(here)).unwrap_or_default();
        if bytes == 0 {
            return Next::More;
        }
        let data = if self.buffer.capacity() > READ_BYTES {
            // A large buffer is read into again once its data has gone.
            self.buffer.split_to(bytes).freeze()
        } else {
            self.cut(bytes)
        };
        self.scanner.take(bytes);
        // Whether this was the last data is known sooner to everybody; what is broken behind it is told later.
        let _ = self.frame();
        Next::Frame(Frame::data(data))
    }

    /// Goes to the next data, or to the end.
    fn frame(&mut self) -> Result<(), Fault> {
        let read = self.scanner.frame(&self.buffer);
        let (used, outcome) = match read {
            Ok(used) => (used, Ok(())),
            Err((used, fault)) => {
                self.fault = Some(fault);
                (used, Err(fault))
            }
        };
        self.buffer.advance(used);
        outcome
    }
}

fn remember(slot: &mut Option<Waker>, cx: &Context<'_>) {
    if !slot
        .as_ref()
        .is_some_and(|waker| waker.will_wake(cx.waker()))
    {
        *slot = Some(cx.waker().clone());
    }
}

/// The connection's side of an [`Inlet`]: when it goes, the body breaks off.
#[derive(Debug)]
pub(super) struct Driver(pub(super) Rc<RefCell<Inlet>>);

impl Drop for Driver {
    fn drop(&mut self) {
        let poller = {
            let mut inlet = self.0.borrow_mut();
            inlet.fail(Fault::ClientGone);
            inlet.take_poller()
        };
        if let Some(poller) = poller {
            poller.wake();
        }
    }
}

/// The body of a request on an HTTP/1 connection.
pub struct Body {
    inlet: Rc<RefCell<Inlet>>,
    message: u64,
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut inlet = self.inlet.borrow_mut();
        if inlet.messages != self.message {
            return Poll::Ready(None);
        }
        match inlet.next() {
            Next::Frame(frame) => Poll::Ready(Some(Ok(frame))),
            Next::Broken(fault) => Poll::Ready(Some(Err(BodyError(fault)))),
            Next::End => Poll::Ready(None),
            Next::More => {
                inlet.is_wanted = true;
                remember(&mut inlet.poller, cx);
                // On the connection's own task it looks after us anyway.
                let driver = inlet.driver.take_if(|driver| !driver.will_wake(cx.waker()));
                drop(inlet);
                if let Some(driver) = driver {
                    driver.wake();
                }
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let inlet = self.inlet.borrow();
        inlet.messages != self.message
            || (inlet.fault.is_none()
                && inlet.scanner.is_between()
                && !inlet.scanner.has_trailers())
    }

    fn size_hint(&self) -> SizeHint {
        let inlet = self.inlet.borrow();
        if inlet.messages != self.message {
            return SizeHint::with_exact(0);
        }
        inlet
            .scanner
            .length()
            .map(SizeHint::with_exact)
            .unwrap_or_default()
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let driver = {
            let mut inlet = self.inlet.borrow_mut();
            if inlet.messages != self.message {
                return;
            }
            inlet.is_attached = false;
            inlet.is_wanted = false;
            inlet.poller = None;
            let is_awaited = inlet.is_awaited;
            inlet.driver.take_if(|_| is_awaited)
        };
        if let Some(driver) = driver {
            driver.wake();
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Body")
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;
    use proptest::prelude::*;

    use super::*;
    use crate::dataplane::http::framing::Limits;
    use crate::dataplane::http::framing::tests::{cuts, split};

    /// What a body came to.
    #[derive(Debug, Default, PartialEq, Eq)]
    struct Told {
        data: Vec<u8>,
        trailers: Vec<(String, String)>,
        /// `None` waits for more.
        end: Option<Result<(), Fault>>,
        /// What is left for the next request.
        rest: Vec<u8>,
    }

    fn read(fields: &str, pieces: &[&[u8]]) -> Told {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
        let mut inlet = Inlet::new(Scanner::new(Limits::default()));
        inlet.scanner.head(head.as_bytes()).unwrap().unwrap();
        let inlet = Rc::new(RefCell::new(inlet));
        let body = inlet.borrow_mut().attach(&inlet, false);
        let mut told = Told::default();
        let mut body = body.unwrap();
        for piece in pieces {
            inlet.borrow_mut().buffer.extend_from_slice(piece);
            if told.end.is_none() {
                drain(&mut body, &mut told);
            }
        }
        told.rest = inlet.borrow().buffer.to_vec();
        told
    }

    fn drain(body: &mut Body, told: &mut Told) {
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(&mut cx) {
            match frame {
                None => {
                    assert!(body.is_end_stream());
                    told.end = Some(Ok(()));
                    return;
                }
                Some(Err(BodyError(fault))) => {
                    told.end = Some(Err(fault));
                    return;
                }
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        assert!(!data.is_empty());
                        told.data.extend_from_slice(data);
                    }
                    for (name, value) in frame.trailers_ref().into_iter().flatten() {
                        let value = String::from_utf8_lossy(value.as_bytes());
                        told.trailers.push((name.to_string(), value.into_owned()));
                    }
                }
            }
        }
    }

    const CHUNKED: &str = "Transfer-Encoding: chunked";

    #[test]
    fn a_body_is_told_without_its_framing() {
        let told = read(
            CHUNKED,
            &[b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nA: b\r\n\r\nGET"],
        );
        assert_eq!(told.data, b"abcde");
        assert_eq!(told.trailers, [("a".to_owned(), "b".to_owned())]);
        assert_eq!(
            (told.end, told.rest.as_slice()),
            (Some(Ok(())), b"GET".as_slice())
        );
        let told = read("Content-Length: 5", &[b"ab", b"cdeGET"]);
        assert_eq!(told.data, b"abcde");
        assert_eq!(
            (told.end, told.rest.as_slice()),
            (Some(Ok(())), b"GET".as_slice())
        );
    }

    #[test]
    fn a_body_breaks_behind_what_was_whole() {
        let told = read(CHUNKED, &[b"3\r\nabc\r\n2 \r\nde"]);
        assert_eq!(told.data, b"abc");
        assert_eq!(told.end, Some(Err(Fault::BodyMalformed)));
    }

    #[test]
    fn the_last_data_is_known_to_be_the_last() {
        for (fields, bytes) in [
            ("Content-Length: 2", "ok"),
            (CHUNKED, "2\r\nok\r\n0\r\n\r\n"),
        ] {
            let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
            let mut inlet = Inlet::new(Scanner::new(Limits::default()));
            inlet.scanner.head(head.as_bytes()).unwrap().unwrap();
            inlet.buffer.extend_from_slice(bytes.as_bytes());
            let inlet = Rc::new(RefCell::new(inlet));
            let mut body = inlet.borrow_mut().attach(&inlet, false).unwrap();
            assert!(!body.is_end_stream());
            let mut cx = Context::from_waker(Waker::noop());
            assert!(Pin::new(&mut body).poll_frame(&mut cx).is_ready());
            assert!(body.is_end_stream(), "{fields}");
        }
    }

    #[test]
    fn a_body_of_an_earlier_message_is_over() {
        let inlet = Rc::new(RefCell::new(Inlet::new(Scanner::new(Limits::default()))));
        let begin = || {
            let mut inlet_now = inlet.borrow_mut();
            let head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n";
            inlet_now.scanner.head(head).unwrap().unwrap();
            inlet_now.buffer.extend_from_slice(b"ok");
            inlet_now.attach(&inlet, false).unwrap()
        };
        let mut first = begin();
        inlet.borrow_mut().skip();
        let second = begin();
        let mut told = Told::default();
        drain(&mut first, &mut told);
        assert_eq!((told.data.len(), told.end), (0, Some(Ok(()))));
        drop(first);
        assert!(inlet.borrow().is_attached && !second.is_end_stream());
    }

    fn nearly_chunked() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            6 => prop::collection::vec(any::<u8>(), 1..40).prop_map(|data| {
                let mut chunk = format!("{:x}\r\n", data.len()).into_bytes();
                chunk.extend_from_slice(&data);
                chunk.extend_from_slice(b"\r\n");
                chunk
            }),
            2 => prop::sample::select(vec!["0\r\n\r\n", "0\r\nT: v\r\nu:\r\n\r\n", "0;e\r\n\r\nGET / HTTP/1.1\r\n"])
                .prop_map(|text| text.as_bytes().to_vec()),
            1 => prop::sample::select(vec!["3;x=\"y\"\r\nabc\r\n", "5 \r\n", "\r\n", "\n", "0\r\n:", "ff"])
                .prop_map(|text| text.as_bytes().to_vec()),
        ];
        prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_a_body_tells_does_not_depend_on_the_splits(bytes in nearly_chunked(), cuts in cuts()) {
            let mut at_once = read(CHUNKED, &[&bytes]);
            let mut piecewise = read(CHUNKED, &split(&bytes, &cuts));
            if at_once.end != Some(Ok(())) {
                // What stands behind a break means nothing.
                at_once.rest.clear();
                piecewise.rest.clear();
            }
            prop_assert_eq!(&piecewise, &at_once);
            let bytewise: Vec<_> = bytes.chunks(1).collect();
            let mut bytewise = read(CHUNKED, &bytewise);
            if at_once.end != Some(Ok(())) {
                bytewise.rest.clear();
            }
            prop_assert_eq!(&bytewise, &at_once);
        }
    }
}
