//! A WebSocket echo (RFC 6455), as small as the demo needs: the handshake, frames, and what to answer to one.
//!
//! `backend` serves it at `/echo`. It promises never to hold more than [`MESSAGE_LIMIT`] of a message and never
//! to panic on what a client sends; a client that breaks a rule gets a close frame with the code for it. There
//! are no extensions and no subprotocols. The deciding part is pure and reads no socket.

use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// The most bytes of one message.
pub const MESSAGE_LIMIT: usize = 64 << 10;

/// How long a client may say nothing.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// What a frame carries (RFC 6455 §5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// More of the message before.
    Continuation,
    /// A text message, or its first part.
    Text,
    /// A binary message, or its first part.
    Binary,
    /// The end of the connection.
    Close,
    /// A question whether somebody is there.
    Ping,
    /// The answer to it.
    Pong,
}

impl Opcode {
    fn read(bits: u8) -> Result<Self, Violation> {
        Ok(match bits {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return Err(Violation::Protocol),
        })
    }

    fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0,
            Self::Text => 1,
            Self::Binary => 2,
            Self::Close => 8,
            Self::Ping => 9,
            Self::Pong => 10,
        }
    }

    fn is_control(self) -> bool {
        match self {
            Self::Continuation | Self::Text | Self::Binary => false,
            Self::Close | Self::Ping | Self::Pong => true,
        }
    }
}

/// One frame of a client, unmasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Whether it ends its message.
    pub is_last: bool,
    /// What it carries.
    pub opcode: Opcode,
    /// The bytes.
    pub payload: Bytes,
}

/// A rule that a client broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// The framing.
    Protocol,
    /// A text that is not UTF-8.
    NotText,
    /// More bytes than the limit.
    TooBig,
}

impl Violation {
    /// The close code (RFC 6455 §7.4.1).
    pub fn code(self) -> u16 {
        match self {
            Self::Protocol => 1002,
            Self::NotText => 1007,
            Self::TooBig => 1009,
        }
    }
}

/// The value of `Sec-WebSocket-Accept` for a client's key (RFC 6455 §4.2.2).
pub fn accept_key(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

/// Takes the next frame off `buffer`; `None` while it is not whole.
///
/// # Errors
/// The first rule that the bytes break. The length is judged before the bytes have come.
pub fn read_frame(buffer: &mut BytesMut) -> Result<Option<Frame>, Violation> {
    let Some((&[first, second], rest)) = buffer.split_first_chunk::<2>() else {
        return Ok(None);
    };
    let opcode = Opcode::read(first & 0x0f)?;
    let is_last = first & 0x80 != 0;
    // No extension was agreed upon that could use the reserved bits, and a client always masks.
    if first & 0x70 != 0 || second & 0x80 == 0 {
        return Err(Violation::Protocol);
    }
    let (length, shortest, rest) = match second & 0x7f {
        126 => match rest.split_first_chunk::<2>() {
            Some((bytes, rest)) => (u64::from(u16::from_be_bytes(*bytes)), 126, rest),
            None => return Ok(None),
        },
        127 => match rest.split_first_chunk::<8>() {
            Some((bytes, rest)) => (u64::from_be_bytes(*bytes), 1 << 16, rest),
            None => return Ok(None),
        },
        short => (u64::from(short), 0, rest),
    };
    if length < shortest || (opcode.is_control() && (!is_last || length > 125)) {
        return Err(Violation::Protocol);
    }
    let length = usize::try_from(length)
        .ok()
        .filter(|length| *length <= MESSAGE_LIMIT)
        .ok_or(Violation::TooBig)?;
    let Some((&mask, rest)) = rest.split_first_chunk::<4>() else {
        return Ok(None);
    };
    if rest.len() < length {
        return Ok(None);
    }
    buffer.advance(buffer.len() - rest.len());
    let mut payload = buffer.split_to(length);
    for (byte, mask) in payload.iter_mut().zip(mask.into_iter().cycle()) {
        *byte ^= mask;
    }
    Ok(Some(Frame {
        is_last,
        opcode,
        payload: payload.freeze(),
    }))
}

/// Appends a whole message as one frame; a server does not mask.
pub fn write_frame(opcode: Opcode, payload: &[u8], out: &mut BytesMut) {
    out.put_u8(0x80 | opcode.bits());
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(length @ 0..=125), _) => out.put_u8(length),
        (_, Ok(length)) => {
            out.put_u8(126);
            out.put_u16(length);
        }
        (_, Err(_)) => {
            out.put_u8(127);
            out.put_u64(payload.len() as u64);
        }
    }
    out.put_slice(payload);
}

/// Whether the connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// It does.
    Open,
    /// The close frame is written: nothing may follow it.
    Closed,
}

/// What an echo remembers between frames: the message that is not whole yet.
#[derive(Debug, Default)]
pub struct Echo {
    partial: Option<(Opcode, BytesMut)>,
}

impl Echo {
    /// Takes a frame and appends the answer to it, if there is one.
    ///
    /// # Errors
    /// The rule that the frame breaks in its place.
    pub fn take(&mut self, frame: &Frame, out: &mut BytesMut) -> Result<Flow, Violation> {
        match frame.opcode {
            Opcode::Ping => write_frame(Opcode::Pong, &frame.payload, out),
            Opcode::Pong => {}
            Opcode::Close => {
                // The code goes back as it came; without one, none is made up.
                let code = frame.payload.get(..2).unwrap_or_default();
                write_frame(Opcode::Close, code, out);
                return Ok(Flow::Closed);
            }
            Opcode::Text | Opcode::Binary => {
                if self.partial.is_some() {
                    return Err(Violation::Protocol);
                }
                self.partial = Some((frame.opcode, BytesMut::new()));
                self.append(frame, out)?;
            }
            Opcode::Continuation => self.append(frame, out)?,
        }
        Ok(Flow::Open)
    }

    fn append(&mut self, frame: &Frame, out: &mut BytesMut) -> Result<(), Violation> {
        let (opcode, mut message) = self.partial.take().ok_or(Violation::Protocol)?;
        if message.len() + frame.payload.len() > MESSAGE_LIMIT {
            return Err(Violation::TooBig);
        }
        message.extend_from_slice(&frame.payload);
        if !frame.is_last {
            self.partial = Some((opcode, message));
            return Ok(());
        }
        if opcode == Opcode::Text && std::str::from_utf8(&message).is_err() {
            return Err(Violation::NotText);
        }
        write_frame(opcode, &message, out);
        Ok(())
    }
}

/// Echoes until one side ends it; `hello` is said first.
///
/// Dropping the future closes the connection without a close frame.
///
/// # Errors
/// When the connection breaks.
pub async fn serve<C>(mut connection: C, hello: Option<&str>) -> std::io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let mut echo = Echo::default();
    let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
    if let Some(hello) = hello {
        write_frame(Opcode::Text, hello.as_bytes(), &mut output);
    }
    loop {
        // Written frame by frame: what is held back is never more than one answer.
        connection.write_all_buf(&mut output).await?;
        let answered = read_frame(&mut input).and_then(|frame| match frame {
            Some(frame) => echo.take(&frame, &mut output).map(Some),
            None => Ok(None),
        });
        match answered {
            Ok(Some(Flow::Open)) => continue,
            Ok(Some(Flow::Closed)) => break,
            Ok(None) => {}
            Err(violation) => {
                write_frame(Opcode::Close, &violation.code().to_be_bytes(), &mut output);
                break;
            }
        }
        let read = tokio::time::timeout(IDLE_TIMEOUT, connection.read_buf(&mut input)).await;
        if !matches!(read, Ok(Ok(1..))) {
            return Ok(());
        }
    }
    connection.write_all_buf(&mut output).await?;
    connection.shutdown().await
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [1, 2, 3, 4];
        let mut bytes = vec![first];
        match payload.len() {
            short @ 0..=125 => bytes.push(0x80 | short as u8),
            long => {
                bytes.push(0x80 | 126);
                bytes.extend((long as u16).to_be_bytes());
            }
        }
        bytes.extend(mask);
        bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
        bytes
    }

    /// What an echo answers to these bytes, and how it ends.
    fn check(bytes: &[u8]) -> Result<(Vec<u8>, Flow), Violation> {
        let (mut input, mut output) = (BytesMut::from(bytes), BytesMut::new());
        let mut echo = Echo::default();
        while let Some(frame) = read_frame(&mut input)? {
            if echo.take(&frame, &mut output)? == Flow::Closed {
                return Ok((output.to_vec(), Flow::Closed));
            }
        }
        Ok((output.to_vec(), Flow::Open))
    }

    #[test]
    fn the_accept_key_is_the_one_of_the_rfc() {
        assert_eq!(
            accept_key("dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }

    #[test]
    fn a_message_comes_back_unmasked() {
        let expected = (b"\x81\x05hello".to_vec(), Flow::Open);
        assert_eq!(check(&masked(0x81, b"hello")), Ok(expected));
    }

    #[test]
    fn a_message_in_parts_comes_back_whole_with_a_ping_in_between() {
        let mut bytes = masked(0x01, b"he");
        bytes.extend(masked(0x89, b"!"));
        bytes.extend(masked(0x80, b"llo"));
        let expected = (b"\x8a\x01!\x81\x05hello".to_vec(), Flow::Open);
        assert_eq!(check(&bytes), Ok(expected));
    }

    #[test]
    fn a_long_message_has_a_long_length() {
        let (bytes, _) = check(&masked(0x82, &[7; 300])).unwrap();
        assert_eq!(bytes.get(..4), Some(&[0x82, 126, 1, 44][..]));
        let mut out = BytesMut::new();
        write_frame(Opcode::Binary, &[0; 1 << 16], &mut out);
        assert_eq!(out.get(..4), Some(&[0x82, 127, 0, 0][..]));
    }

    #[test]
    fn a_close_is_answered_with_its_code() {
        let expected = (b"\x88\x02\x03\xe8".to_vec(), Flow::Closed);
        assert_eq!(check(&masked(0x88, b"\x03\xe8bye")), Ok(expected));
    }

    #[test]
    fn broken_rules_are_told_apart() {
        let wrong = [
            (masked(0xc1, b"x"), Violation::Protocol), // a reserved bit
            (masked(0x83, b"x"), Violation::Protocol), // an unknown opcode
            (masked(0x09, b"x"), Violation::Protocol), // a control frame in parts
            (masked(0x89, &[0; 126]), Violation::Protocol), // a control frame too long
            (masked(0x80, b"x"), Violation::Protocol), // a continuation of nothing
            (b"\x81\x01x".to_vec(), Violation::Protocol), // no mask
            (b"\x81\xfe\x00\x05".to_vec(), Violation::Protocol), // a length longer than needed
            (masked(0x81, b"\xff"), Violation::NotText),
            (b"\x82\xff\0\0\0\0\0\x01\0\x01".to_vec(), Violation::TooBig),
            (
                b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(),
                Violation::TooBig,
            ),
            (
                [masked(0x02, &[0; 40_000]), masked(0x80, &[0; 40_000])].concat(),
                Violation::TooBig,
            ),
            (
                [masked(0x01, b"x"), masked(0x81, b"x")].concat(),
                Violation::Protocol,
            ),
        ];
        for (bytes, violation) in wrong {
            assert_eq!(check(&bytes), Err(violation), "{:?}", bytes.get(..12));
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let result = check(&bytes);
            prop_assert!(result.is_ok() || result.is_err());
        }

        #[test]
        fn a_frame_is_read_the_same_however_it_is_cut(
            payload in proptest::collection::vec(any::<u8>(), 0..300),
            cut in any::<prop::sample::Index>(),
        ) {
            let bytes = masked(0x82, &payload);
            let (head, tail) = bytes.split_at(cut.index(bytes.len()));
            let mut buffer = BytesMut::from(head);
            prop_assert_eq!(read_frame(&mut buffer), Ok(None));
            buffer.extend_from_slice(tail);
            let frame = read_frame(&mut buffer).unwrap().unwrap();
            prop_assert_eq!(&frame.payload[..], &payload[..]);
            prop_assert!(buffer.is_empty());
        }
    }
}
