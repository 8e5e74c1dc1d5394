//! An answer as it goes to the client: its head in one piece, and its body in the framing that we choose.
//!
//! A body of known length goes under that length and never beyond it; one of unknown length goes in chunks, or up to
//! the end of the connection for a client that knows no chunks. RFC 9112 §4, §6, §7.1, §9.3.

mod head;

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, header};
use http_body::{Body, Frame};

use self::head::{Length, Writing, write_field};
use super::head::Asked;
use super::outbox::Outbox;
use super::{HTTP1_BUFFER, Stock, WRITE_BYTES};
use crate::dataplane::http::Reply;
use crate::dataplane::upstream::head::Fields;

/// An answer whose head is written.
#[derive(Debug)]
pub(super) struct Answer<B> {
    body: B,
    framing: Framing,
    takes_trailers: bool,
    /// The connection ends after it.
    pub(super) is_last: bool,
    /// How its body has ended.
    end: Option<Gathered>,
}

/// How the client knows where the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// There is none, whatever the head says.
    None,
    /// So many bytes still come.
    Length(u64),
    Chunked,
    /// By the end of the connection.
    Close,
}

/// Why gathering stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gathered {
    /// There is enough to write.
    Full,
    /// Nothing more is ready.
    Dry,
    /// All is there.
    Whole,
    /// Nothing more comes, and the client must not take it for whole.
    Cut,
}

impl<B: Body<Data = Bytes>> Answer<B> {
    /// Writes the head. `keeps_alive` says whether the connection may be kept as far as the request goes.
    pub(super) fn begin(
        outbox: &mut Outbox,
        stock: &Stock,
        reply: Reply<B>,
        asked: Asked,
        keeps_alive: bool,
    ) -> Self {
        let Reply { mut head, body, .. } = reply;
        let length = Length::of(head.status, &body, asked);
        if let Fields::Lines(lines) = head.fields()
            && !length.agrees(lines.length)
        {
            // One of them is to be left out.
            head.map();
        }
        let mut writing = Writing {
            stock,
            head: &head,
            asked,
            length,
            is_last: !keeps_alive,
        };
        let framing = outbox.write(|out| writing.write(out));
        let is_last = writing.is_last;
        if let Fields::Map(_) = head.fields() {
            stock.give_fields(head.into_map());
        }
        Self {
            body,
            framing,
            takes_trailers: asked.takes_trailers,
            is_last,
            end: None,
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Answer<B> {
    /// Moves what is ready of the body into the outbox, up to enough for a write, or to all that may wait.
    pub(super) fn gather(&mut self, cx: &mut Context<'_>, outbox: &mut Outbox) -> Gathered {
        let limit = if outbox.is_blocked {
            HTTP1_BUFFER
        } else {
            WRITE_BYTES
        };
        loop {
            if let Some(end) = self.end {
                return end;
            }
            if self.framing == Framing::None || self.body.is_end_stream() {
                self.finish(outbox, None);
                continue;
            }
            if outbox.waiting() >= limit {
                return Gathered::Full;
            }
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending => return Gathered::Dry,
                Poll::Ready(Some(Ok(frame))) => self.push(outbox, frame),
                Poll::Ready(Some(Err(_))) => self.end = Some(Gathered::Cut),
                Poll::Ready(None) => self.finish(outbox, None),
            }
        }
    }

    fn push(&mut self, outbox: &mut Outbox, frame: Frame<Bytes>) {
        let mut data = match frame.into_data() {
            Ok(data) if data.is_empty() => return,
            Ok(data) => data,
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    self.finish(outbox, Some(&trailers));
                }
                return;
            }
        };
        match &mut self.framing {
            Framing::None => {}
            Framing::Length(left) => {
                let bytes = data.len() as u64;
                if bytes > *left {
                    // What is left is less than what is here, so it fits.
                    data.truncate(usize::try_from(*left).unwrap_or_default());
                    self.is_last = true;
                    self.end = Some(Gathered::Whole);
                }
                *left = left.saturating_sub(bytes);
                outbox.push(data);
            }
            Framing::Chunked => {
                let bytes = data.len();
                outbox.write(|out| write_size(out, bytes));
                outbox.push(data);
                outbox.write(|out| out.extend_from_slice(b"\r\n"));
            }
            Framing::Close => outbox.push(data),
        }
    }

    /// The body has come to its end.
    fn finish(&mut self, outbox: &mut Outbox, trailers: Option<&HeaderMap>) {
        self.end = Some(match self.framing {
            Framing::None | Framing::Close | Framing::Length(0) => Gathered::Whole,
            Framing::Length(_) => Gathered::Cut,
            Framing::Chunked => {
                let trailers = trailers.filter(|_| self.takes_trailers);
                outbox.write(|out| write_end(out, trailers));
                Gathered::Whole
            }
        });
    }
}

/// The line before a chunk.
fn write_size(out: &mut Vec<u8>, bytes: usize) {
    let digits = (usize::BITS - bytes.leading_zeros()).div_ceil(4);
    for digit in (0..digits).rev() {
        let nibble = u8::try_from(bytes >> (4 * digit) & 15).unwrap_or_default();
        out.push(match nibble {
            0..=9 => b'0' + nibble,
            _ => b'a' + (nibble - 10),
        });
    }
    out.extend_from_slice(b"\r\n");
}

/// What stands behind the last chunk.
fn write_end(out: &mut Vec<u8>, trailers: Option<&HeaderMap>) {
    out.extend_from_slice(b"0\r\n");
    let fields = trailers.into_iter().flatten();
    for (name, value) in fields.filter(|(name, _)| is_for_trailers(name)) {
        write_field(out, name.as_str().as_bytes(), value.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// Fields that frame, route or unlock a message mean nothing behind it (RFC 9110 §6.5.1). HTTP/1 has no name with a quote,
/// though an endpoint can say one by HTTP/2.
fn is_for_trailers(name: &HeaderName) -> bool {
    let is_token = !name.as_str().contains('"');
    is_token
        && !matches!(
            *name,
            header::AUTHORIZATION
                | header::CACHE_CONTROL
                | header::CONTENT_ENCODING
                | header::CONTENT_LENGTH
                | header::CONTENT_RANGE
                | header::CONTENT_TYPE
                | header::CONNECTION
                | header::HOST
                | header::MAX_FORWARDS
                | header::SET_COOKIE
                | header::TE
                | header::TRAILER
                | header::TRANSFER_ENCODING
                | header::UPGRADE
        )
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::task::Waker;

    use http::{Response, Version};
    use http_body::SizeHint;

    use super::*;

    /// A body whose frames are there at once; `None` is where it breaks off.
    struct Frames {
        frames: VecDeque<Option<Frame<Bytes>>>,
        length: Option<u64>,
    }

    impl Body for Frames {
        type Data = Bytes;
        type Error = ();

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, ()>>> {
            Poll::Ready(self.frames.pop_front().map(|frame| frame.ok_or(())))
        }

        fn is_end_stream(&self) -> bool {
            self.frames.is_empty() && self.length.is_some()
        }

        fn size_hint(&self) -> SizeHint {
            self.length.map(SizeHint::with_exact).unwrap_or_default()
        }
    }

    fn frames(data: &[&'static str]) -> Frames {
        let frames = data
            .iter()
            .map(|data| Some(Frame::data(Bytes::from_static(data.as_bytes()))));
        Frames {
            frames: frames.collect(),
            length: None,
        }
    }

    fn known(data: &[&'static str]) -> Frames {
        let length = data.iter().map(|data| data.len() as u64).sum();
        Frames {
            length: Some(length),
            ..frames(data)
        }
    }

    const GET: Asked = Asked {
        is_head: false,
        is_http_10: false,
        keeps_alive: true,
        takes_trailers: true,
    };
    const HEAD: Asked = Asked {
        is_head: true,
        ..GET
    };
    const OLD: Asked = Asked {
        is_http_10: true,
        ..GET
    };

    /// What goes out for an answer, without its date, and how it ended.
    fn written(asked: Asked, status: u16, fields: &[(&str, &str)], body: Frames) -> (String, bool) {
        let mut response = Response::builder().status(status).version(Version::HTTP_11);
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        let (parts, ()) = response.body(()).unwrap().into_parts();
        let (mut outbox, stock) = (Outbox::default(), Stock::default());
        let keeps_alive = asked.keeps_alive;
        let head = parts.into();
        let reply = Reply {
            head,
            body,
            is_malformed: false,
        };
        let mut answer = Answer::begin(&mut outbox, &stock, reply, asked, keeps_alive);
        let mut cx = Context::from_waker(Waker::noop());
        let gathered = answer.gather(&mut cx, &mut outbox);
        let mut out = Vec::new();
        assert!(outbox.poll_flush(&mut out, &mut cx).is_ready());
        let out = String::from_utf8(out).unwrap();
        let (before, date) = out.split_once("date: ").unwrap();
        let (date, after) = date.split_once("\r\n").unwrap();
        assert!(date.ends_with(" GMT"), "{date}");
        let is_whole = match gathered {
            Gathered::Whole => true,
            Gathered::Cut => false,
            Gathered::Full | Gathered::Dry => panic!("{gathered:?}"),
        };
        (format!("{before}{after}").replace("\r\n", "|"), is_whole)
    }

    fn check(asked: Asked, status: u16, fields: &[(&str, &str)], body: Frames, expected: &str) {
        let (out, is_whole) = written(asked, status, fields, body);
        assert_eq!((out.as_str(), is_whole), (expected, true));
    }

    #[test]
    fn a_body_goes_under_its_length_where_that_is_known() {
        let five = [("x", "y"), ("content-length", "5")];
        let body = "HTTP/1.1 200 OK|x: y|content-length: 5||hello";
        check(GET, 200, &five, known(&["he", "llo"]), body);
        check(GET, 200, &five, frames(&["he", "llo"]), body);
        check(GET, 200, &[("x", "y")], known(&["hello"]), body);
        check(
            GET,
            200,
            &[],
            known(&[]),
            "HTTP/1.1 200 OK|content-length: 0||",
        );
        check(
            GET,
            404,
            &[("content-length", "0")],
            known(&[]),
            "HTTP/1.1 404 Not Found|content-length: 0||",
        );
    }

    #[test]
    fn a_length_that_is_none_is_not_passed_on() {
        let chunked = "HTTP/1.1 200 OK|transfer-encoding: chunked||2|ok|0||";
        for length in ["", "-1", "+2", "2, 2", "x", "99999999999999999999"] {
            check(
                GET,
                200,
                &[("content-length", length)],
                frames(&["ok"]),
                chunked,
            );
        }
        let two = [("content-length", "2"), ("content-length", "2")];
        check(GET, 200, &two, frames(&["ok"]), chunked);
        let coded = [("transfer-encoding", "gzip")];
        check(GET, 200, &coded, frames(&["ok"]), chunked);
    }

    #[test]
    fn a_body_of_unknown_length_goes_in_chunks_or_to_the_end() {
        let body = || frames(&["hello world, hello", "", "x"]);
        let chunks = "HTTP/1.1 200 OK|transfer-encoding: chunked||12|hello world, hello|1|x|0||";
        check(GET, 200, &[], body(), chunks);
        let rest = "HTTP/1.0 200 OK|connection: close||hello world, hellox";
        check(OLD, 200, &[], body(), rest);
        let kept = "HTTP/1.0 200 OK|content-length: 2|connection: keep-alive||ok";
        check(OLD, 200, &[], known(&["ok"]), kept);
    }

    #[test]
    fn an_answer_without_a_body_has_none_whatever_it_says() {
        let length = [("content-length", "1000")];
        let head = "HTTP/1.1 200 OK|content-length: 1000||";
        check(HEAD, 200, &length, known(&[]), head);
        check(HEAD, 200, &length, known(&["x"]), head);
        check(HEAD, 200, &[], frames(&["x"]), "HTTP/1.1 200 OK||");
        check(GET, 204, &length, known(&[]), "HTTP/1.1 204 No Content||");
        check(
            GET,
            304,
            &length,
            known(&["x"]),
            "HTTP/1.1 304 Not Modified|content-length: 1000||",
        );
        check(
            GET,
            101,
            &[("connection", "upgrade"), ("upgrade", "x")],
            known(&[]),
            "HTTP/1.1 101 Switching Protocols|connection: upgrade|upgrade: x||",
        );
    }

    #[test]
    fn an_answer_that_is_shorter_than_its_length_is_cut() {
        let ten = [("content-length", "10")];
        let (out, is_whole) = written(GET, 200, &ten, frames(&["first"]));
        assert_eq!(out, "HTTP/1.1 200 OK|content-length: 10||first");
        assert!(!is_whole);
        let mut body = frames(&["first"]);
        body.frames.push_back(None);
        let (out, is_whole) = written(GET, 200, &[], body);
        assert_eq!(out, "HTTP/1.1 200 OK|transfer-encoding: chunked||5|first|");
        assert!(!is_whole);
    }

    #[test]
    fn an_answer_that_is_longer_than_its_length_ends_there() {
        let three = [("content-length", "3")];
        let body = "HTTP/1.1 200 OK|content-length: 3||fir";
        check(GET, 200, &three, frames(&["first"]), body);
        check(GET, 200, &three, frames(&["fir", "st"]), body);
    }

    #[test]
    fn the_end_of_the_connection_is_said_once() {
        let close = "HTTP/1.1 200 OK|content-length: 0|connection: close||";
        check(GET, 200, &[("connection", "x, Close")], known(&[]), close);
        let last = Asked {
            keeps_alive: false,
            ..GET
        };
        check(last, 200, &[], known(&[]), close);
        check(
            last,
            200,
            &[("connection", "keep-alive")],
            known(&[]),
            close,
        );
    }

    #[test]
    fn trailers_go_to_clients_that_read_them() {
        let with_trailers = || {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", "42".parse().unwrap());
            trailers.insert("content-length", "1".parse().unwrap());
            let quoted = HeaderName::from_lowercase(b"x\"y").unwrap();
            trailers.insert(quoted, "1".parse().unwrap());
            let mut body = frames(&["ok"]);
            body.frames.push_back(Some(Frame::trailers(trailers)));
            body
        };
        let head = "HTTP/1.1 200 OK|transfer-encoding: chunked||2|ok|0|";
        check(
            GET,
            200,
            &[],
            with_trailers(),
            &format!("{head}x-sum: 42||"),
        );
        let deaf = Asked {
            takes_trailers: false,
            ..GET
        };
        check(deaf, 200, &[], with_trailers(), &format!("{head}|"));
    }

    #[test]
    fn sizes_of_chunks_are_hexadecimal() {
        for bytes in [1, 9, 10, 15, 16, 255, 4096, 65_535, 1 << 20, usize::MAX] {
            let mut out = Vec::new();
            write_size(&mut out, bytes);
            assert_eq!(out, format!("{bytes:x}\r\n").into_bytes());
        }
    }
}
