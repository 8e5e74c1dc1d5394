//! What must hold for whatever bytes a client sends as a body, and the parts of a head for others to judge.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http::request::Parts;
use http_body::Body as _;

use super::body::Inlet;
use super::head;
use crate::base::fault::Fault;
use crate::base::fuzzing::{Choices, oracle};
use crate::dataplane::http::body::BodyError;
use crate::dataplane::http::framing::{Limits, Scanner};
use crate::dataplane::upstream;

/// The head of a request that the next line of every check stands behind.
const HEAD: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

/// What a body came to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    data: Vec<u8>,
    trailers: usize,
    /// `None` waits for more.
    end: Option<Result<(), Fault>>,
    /// Bytes that are left for the next request; nothing behind a break means anything.
    rest: usize,
}

/// A chunked body: told alike in whatever pieces it comes, and as RFC 9112 and the codec towards endpoints read it.
pub fn bodies(bytes: &[u8]) {
    let (bytes, pieces) = Choices::new(bytes).pieces();
    let told = read(&[bytes]);
    assert_eq!(read(&pieces), told);
    assert_eq!(read(&bytes.chunks(1).collect::<Vec<_>>()), told);
    let found = oracle::read(&[HEAD, bytes].concat(), 0);
    if told.end == Some(Ok(())) {
        let used = bytes.len() - told.rest;
        // Whoever reads more laxly finds the same end.
        let lax = upstream::http1::fuzzing::chunks(&[bytes]);
        assert_eq!(lax, Some((told.data.clone(), used)));
        assert!(
            matches!(&found, oracle::Found::Whole(request, all)
                if request.body == told.data && *all == HEAD.len() + used),
            "{told:?}, but {found:?}"
        );
    }
    if let oracle::Found::Broken(why, _) = found {
        assert!(told.end.is_none_or(|end| end.is_err()), "{why}: {told:?}");
    }
}

fn read(pieces: &[&[u8]]) -> Told {
    let mut inlet = Inlet::new(Scanner::new(Limits::default()));
    let head = inlet.scanner.head(HEAD);
    assert!(matches!(head, Ok(Some(_))));
    let inlet = Rc::new(RefCell::new(inlet));
    let body = inlet.borrow_mut().attach(&inlet, false);
    let mut body = body.expect("the head has announced one");
    let mut told = Told::default();
    let mut cx = Context::from_waker(Waker::noop());
    for piece in pieces {
        inlet.borrow_mut().buffer.extend_from_slice(piece);
        while told.end.is_none()
            && let Poll::Ready(frame) = Pin::new(&mut body).poll_frame(&mut cx)
        {
            match frame {
                None => told.end = Some(Ok(())),
                Some(Err(BodyError(fault))) => told.end = Some(Err(fault)),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => told.data.extend_from_slice(&data),
                    Err(frame) => told.trailers += frame.trailers_ref().map_or(0, HeaderMap::len),
                },
            }
        }
    }
    if told.end == Some(Ok(())) {
        told.rest = inlet.borrow().buffer.len();
    }
    told
}

/// The parts of the request whose head stands in front of `bytes`, and how many bytes it has.
pub fn parts(bytes: &[u8]) -> Option<(Parts, usize)> {
    let mut scanner = Scanner::new(Limits::default());
    let head = scanner.head(bytes).ok()??;
    let text = Bytes::copy_from_slice(&bytes[..head.bytes()]);
    let parts = head::parts(&head, &text, HeaderMap::new());
    // What the scanner passes, the types of a request take.
    Some((parts.expect("a head that passed is one"), head.bytes()))
}
