//! HTTP/2 frames as bytes: a client that sends any frame, good or not. RFC 9113 §4 and §6, RFC 7541.

use std::net::SocketAddr;

use crate::harness::client::Client;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An answer with this status.
    Status(u16),
    /// The stream was reset with this code.
    Reset(u32),
    /// The connection ends with an error.
    Away,
    /// The connection ended without a word.
    Closed,
}

/// One frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Fields as literals that are not indexed.
pub fn block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            number(&mut bytes, text.len());
            bytes.extend(*text);
        }
    }
    bytes
}

/// A number with a prefix of seven bits (RFC 7541 §5.1).
fn number(bytes: &mut Vec<u8>, value: usize) {
    let Some(mut rest) = value.checked_sub(127) else {
        bytes.push(u8::try_from(value).unwrap());
        return;
    };
    bytes.push(127);
    while rest >= 128 {
        bytes.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    bytes.push(u8::try_from(rest).unwrap());
}

/// A header block in as many frames as it takes.
pub fn headers(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    let mut pieces = block.chunks(16 << 10).peekable();
    let mut bytes = Vec::new();
    let mut kind = HEADERS;
    loop {
        let piece = pieces.next().unwrap_or_default();
        let last = if pieces.peek().is_none() {
            END_HEADERS
        } else {
            0
        };
        let flags = if kind == HEADERS { flags } else { 0 };
        bytes.extend(frame(kind, flags | last, stream, piece));
        if last != 0 {
            return bytes;
        }
        kind = CONTINUATION;
    }
}

/// A client connection that has sent its preface and empty settings.
pub struct Peer {
    pub client: Client,
    /// The code that the connection ended with.
    pub goaway: Option<u32>,
}

impl Peer {
    pub fn connect(address: SocketAddr) -> Self {
        Self::over(Client::connect(address))
    }

    pub fn over(mut client: Client) -> Self {
        client.send([PREFACE, &frame(SETTINGS, 0, 0, &[])].concat());
        Self {
            client,
            goaway: None,
        }
    }

    /// Reads a frame: kind, flags, stream and payload.
    pub fn read(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let (head, _) = self.client.wire.exactly(9);
        let [a, b, c, kind, flags, ref stream @ ..] = head[..] else {
            return None;
        };
        let stream = u32::from_be_bytes(stream.try_into().ok()?);
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let (payload, _) = self.client.wire.exactly(length);
        (payload.len() == length).then_some((kind, flags, stream, payload))
    }

    /// Reads on until it is clear what comes of a stream.
    pub fn outcome(&mut self, of: u32) -> Outcome {
        let mut status = None;
        while let Some((kind, flags, stream, payload)) = self.read() {
            match kind {
                GOAWAY => {
                    let code = code(&payload[4..]);
                    assert_ne!(code, 0);
                    self.goaway = Some(code);
                    return Outcome::Away;
                }
                RST_STREAM if stream == of && status.is_none() => {
                    return Outcome::Reset(code(&payload));
                }
                HEADERS if stream == of => status = status.or(Some(status_of(&payload))),
                _ => {}
            }
            let is_end = matches!(kind, HEADERS | DATA) && stream == of && flags & END_STREAM != 0;
            if let (Some(status), true) = (status, is_end) {
                return Outcome::Status(status);
            }
        }
        status.map_or(Outcome::Closed, Outcome::Status)
    }
}

fn code(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload[..4].try_into().unwrap())
}

/// The status, which stands first in the block; from the static table, or a literal of three digits.
fn status_of(block: &[u8]) -> u16 {
    // A change of the table's size may stand in front.
    let at = block.iter().position(|byte| byte & 0xe0 != 0x20).unwrap();
    match block[at..] {
        [index @ 0x88..=0x8e, ..] => [200, 204, 206, 304, 400, 404, 500][usize::from(index - 0x88)],
        [0x08 | 0x18 | 0x48, length, ref text @ ..] => {
            let text = &text[..usize::from(length & 0x7f)];
            let digits = if length & 0x80 == 0 {
                text.to_vec()
            } else {
                digits(text)
            };
            str::from_utf8(&digits).unwrap().parse().unwrap()
        }
        _ => panic!("no status in {block:?}"),
    }
}

/// Three digits in Huffman's code (RFC 7541, appendix B).
fn digits(text: &[u8]) -> Vec<u8> {
    let bits: Vec<u8> = text
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1))
        .collect();
    let mut at = 0;
    let mut take = |count: usize| {
        let value = bits[at..at + count]
            .iter()
            .fold(0, |sum, bit| sum << 1 | bit);
        at += count;
        value
    };
    (0..3)
        .map(|_| {
            // `0`, `1` and `2` have five bits, the others six.
            let five = take(5);
            if five < 3 {
                b'0' + five
            } else {
                b'0' + (five << 1 | take(1)) - 22
            }
        })
        .collect()
}
