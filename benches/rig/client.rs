//! Clients that know what they will be answered: they send bytes made beforehand, and of what comes they look for
//! no more than its status and its end. A whole codec here would be half of what is counted.

use std::sync::LazyLock;

use memchr::memmem;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};

use super::origin::BODY;

const REQUEST: &[u8] = b"GET /assets/app.js?v=31337 HTTP/1.1\r\nHost: www.example.com\r\n\
    User-Agent: rig/1.0\r\nAccept: */*\r\n\r\n";

/// An HTTP/1.1 connection.
pub struct Http1<T = DuplexStream> {
    transport: T,
    answer: Vec<u8>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Http1<T> {
    /// A connection that has carried nothing yet.
    pub fn new(transport: T) -> Self {
        Self {
            transport,
            answer: Vec::with_capacity(16 << 10),
        }
    }

    /// Sends a request and takes the whole answer.
    pub async fn exchange(&mut self) {
        let sent = self.transport.write_all(REQUEST).await;
        sent.expect("the proxy listens");
        self.answer.clear();
        let mut head = None;
        while head.is_none_or(|head| self.answer.len() < head + b"\r\n\r\n".len() + BODY) {
            let read = self.transport.read_buf(&mut self.answer).await;
            assert!(read.is_ok_and(|read| read > 0), "the answer broke off");
            head = head.or_else(|| memmem::find(&self.answer, b"\r\n\r\n"));
        }
        assert!(self.answer.starts_with(b"HTTP/1.1 200 "));
    }
}

/// An HTTP/2 connection.
pub struct Http2<T = DuplexStream> {
    transport: T,
    requests: Vec<u8>,
    answers: Vec<u8>,
    next_stream: u32,
}

/// Kinds of frames and what is asked of them (RFC 9113 §6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;
const FRAME_HEAD: usize = 9;

/// `:status: 200` (RFC 7541, appendix A).
const STATUS_200: u8 = 0x88;

impl<T: AsyncRead + AsyncWrite + Unpin> Http2<T> {
    /// Connects, with windows so large that no exchange has to move them.
    pub async fn new(mut transport: T) -> Self {
        let mut greeting = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        frame(&mut greeting, SETTINGS, 0, 0, &[]);
        let window = (u32::MAX >> 1) - 0xFFFF;
        frame(&mut greeting, WINDOW_UPDATE, 0, 0, &window.to_be_bytes());
        frame(&mut greeting, SETTINGS, ACK, 0, &[]);
        let sent = transport.write_all(&greeting).await;
        sent.expect("the proxy listens");
        Self {
            transport,
            requests: Vec::new(),
            answers: Vec::with_capacity(64 << 10),
            next_stream: 1,
        }
    }

    /// Sends so many requests at once and takes all answers.
    pub async fn exchanges(&mut self, count: usize) {
        self.requests.clear();
        for _ in 0..count {
            let flags = END_STREAM | END_HEADERS;
            let stream = self.next_stream;
            frame(&mut self.requests, HEADERS, flags, stream, &FIELDS);
            self.next_stream += 2;
        }
        let sent = self.transport.write_all(&self.requests).await;
        sent.expect("the proxy listens");
        let mut ended = 0;
        while ended < count {
            let read = self.transport.read_buf(&mut self.answers).await;
            assert!(read.is_ok_and(|read| read > 0), "the answers broke off");
            ended += self.take_frames();
        }
    }

    /// Takes what is whole of the answers; how many of them ended.
    fn take_frames(&mut self) -> usize {
        let (mut ended, mut rest) = (0, &self.answers[..]);
        while let Some((head, behind)) = rest.split_first_chunk::<FRAME_HEAD>() {
            let &[high, middle, low, kind, flags, ..] = head;
            let length = u32::from_be_bytes([0, high, middle, low]) as usize;
            let Some((payload, behind)) = behind.split_at_checked(length) else {
                break;
            };
            match kind {
                HEADERS => assert_eq!(payload.first(), Some(&STATUS_200)),
                DATA | SETTINGS | WINDOW_UPDATE => {}
                _ => assert_eq!(kind, DATA, "the proxy is not content"),
            }
            if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
                ended += 1;
            }
            rest = behind;
        }
        let taken = self.answers.len() - rest.len();
        self.answers.drain(..taken);
        ended
    }
}

/// The request's fields, none of which the proxy is to remember (RFC 7541 §6.2.2): every request is the same bytes.
static FIELDS: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut block = vec![0x82, 0x87]; // `:method: GET`, `:scheme: https`
    let literals: [(&[u8], &str); 4] = [
        (&[4], "/assets/app.js?v=31337"), // `:path`
        (&[1], "www.example.com"),        // `:authority`
        (&[15, 43], "rig/1.0"),           // `user-agent`
        (&[15, 4], "*/*"),                // `accept`
    ];
    for (name, value) in literals {
        block.extend_from_slice(name);
        block.push(u8::try_from(value.len()).expect("it is short"));
        block.extend_from_slice(value.as_bytes());
    }
    block
});

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("it is short");
    out.extend_from_slice(&length.to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}
