//! The frames of an HTTP/2 client, seen before the codec sees them: what breaks a rule ends the connection with the
//! code that RFC 9113 has for it.
//!
//! The codec is lenient in places (it passes over pseudo fields of trailers), and says `PROTOCOL_ERROR` where the
//! standard has a name. [`Frames`] looks at the nine bytes that each frame begins with, at settings, and at the form of
//! field blocks; data is passed over. What it does not judge is left to the codec. Nothing here waits or answers;
//! [`Checked`] is the transport that shows it what is read. RFC 9113 §4 to §6 and §8.1.

mod block;
mod checked;
#[cfg(test)]
mod tests;

use smallvec::SmallVec;

use self::block::Block;
pub use self::checked::{Checked, Verdict};

/// What a client begins with (RFC 9113 §3.4); the codec reads it.
const PREFACE_BYTES: u32 = 24;
/// The bytes before the payload of each frame (RFC 9113 §4.1).
const HEAD_BYTES: usize = 9;
/// The largest payload, since we ask for no larger ones (RFC 9113 §4.2).
const FRAME_BYTES: u32 = 16 << 10;
/// Streams that a client has open at a time of which we keep the numbers; of older ones the codec alone judges.
const OPEN_STREAMS: usize = 128;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

/// Flags (RFC 9113 §6); one number means different things for different frames.
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITIZED: u8 = 0x20;

const SETTINGS_INITIAL_WINDOW_SIZE: u16 = 4;
const WINDOW_LIMIT: u32 = 0x7fff_ffff;

/// How a client broke a rule of HTTP/2, by the codes of RFC 9113 §7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offence {
    /// A frame, or a field, where none may be.
    Protocol,
    /// A window beyond 31 bits.
    FlowControl,
    /// A frame on a stream that the client has ended.
    StreamClosed,
    /// A frame of a length that its kind does not have.
    FrameSize,
    /// A field block that no encoder writes.
    Compression,
}

impl Offence {
    /// Its number.
    pub const fn code(self) -> u32 {
        match self {
            Self::Protocol => 1,
            Self::FlowControl => 3,
            Self::StreamClosed => 5,
            Self::FrameSize => 6,
            Self::Compression => 9,
        }
    }
}

/// Follows one client's frames.
#[derive(Debug, Default)]
pub struct Frames {
    at: At,
    /// Of the frame whose payload is read.
    flags: u8,
    /// The stream whose field block is not over, or zero.
    block_of: u32,
    block: Block,
    /// The highest stream that the client has opened.
    highest: u32,
    /// The client has opened each of its streams below this.
    dense: u32,
    /// Of streams up to this one nothing is known any more.
    forgotten: u32,
    /// The streams that the client has opened and not ended, lowest first.
    open: SmallVec<[u32; 6]>,
}

#[derive(Debug)]
enum At {
    Preface {
        left: u32,
    },
    /// Within the bytes that a frame begins with.
    Head {
        bytes: [u8; HEAD_BYTES],
        have: u8,
    },
    /// Bytes that mean nothing here.
    Pass {
        left: u32,
    },
    Settings {
        left: u32,
        entry: [u8; 6],
        have: u8,
    },
    /// The length of the padding of a header.
    PadLength {
        left: u32,
    },
    /// What a header has before its field block.
    Ahead {
        ahead: u32,
        fragment: u32,
        padding: u32,
    },
    Fragment {
        left: u32,
        padding: u32,
    },
}

impl Default for At {
    fn default() -> Self {
        Self::Preface {
            left: PREFACE_BYTES,
        }
    }
}

impl At {
    const HEAD: Self = Self::Head {
        bytes: [0; HEAD_BYTES],
        have: 0,
    };

    fn pass(left: u32) -> Self {
        match left {
            0 => Self::HEAD,
            left => Self::Pass { left },
        }
    }
}

impl Frames {
    /// Reads what the client has sent next.
    ///
    /// # Errors
    /// How many of the bytes the codec may see, and what the client did.
    pub fn read(&mut self, bytes: &[u8]) -> Result<(), (usize, Offence)> {
        let mut rest = bytes;
        // Where the frame began that is looked at; the codec waits for one that it sees the head of.
        let mut frame = 0;
        while !rest.is_empty() {
            if let At::Head { have: 0, .. } = self.at {
                frame = bytes.len() - rest.len();
            }
            rest = self.step(rest).map_err(|offence| (frame, offence))?;
        }
        Ok(())
    }

    /// The highest stream that the client has opened.
    pub fn highest(&self) -> u32 {
        self.highest
    }

    /// Reads the next part; what is left of the bytes behind it.
    fn step<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Offence> {
        match &mut self.at {
            At::Preface { left } | At::Pass { left } => {
                let (here, rest) = split(bytes, *left);
                *left -= here;
                if *left == 0 {
                    self.at = At::HEAD;
                }
                Ok(rest)
            }
            At::Head { bytes: head, have } => {
                if *have == 0
                    && let Some((whole, rest)) = bytes.split_first_chunk()
                {
                    self.begin(*whole)?;
                    return Ok(rest);
                }
                let rest = fill(head, have, bytes);
                if usize::from(*have) == HEAD_BYTES {
                    let head = *head;
                    self.begin(head)?;
                }
                Ok(rest)
            }
            At::Settings { left, entry, have } => {
                let rest = fill(entry, have, bytes);
                *left -= u32::try_from(bytes.len() - rest.len()).unwrap_or(*left);
                if usize::from(*have) == entry.len() {
                    let [a, b, value @ ..] = *entry;
                    *have = 0;
                    if u16::from_be_bytes([a, b]) == SETTINGS_INITIAL_WINDOW_SIZE
                        && u32::from_be_bytes(value) > WINDOW_LIMIT
                    {
                        return Err(Offence::FlowControl);
                    }
                }
                if *left == 0 {
                    self.at = At::HEAD;
                }
                Ok(rest)
            }
            At::PadLength { left } => {
                let Some((padding, rest)) = bytes.split_first() else {
                    return Ok(bytes);
                };
                let left = *left;
                self.fragment(left, u32::from(*padding))?;
                Ok(rest)
            }
            At::Ahead {
                ahead,
                fragment,
                padding,
            } => {
                let (here, rest) = split(bytes, *ahead);
                *ahead -= here;
                if *ahead == 0 {
                    let (fragment, padding) = (*fragment, *padding);
                    self.begin_fragment(fragment, padding)?;
                }
                Ok(rest)
            }
            At::Fragment { left, padding } => {
                let (here, rest) = split(bytes, *left);
                self.block
                    .read(bytes.get(..here as usize).unwrap_or_default())?;
                *left -= here;
                if *left == 0 {
                    let padding = *padding;
                    self.end_fragment(padding)?;
                }
                Ok(rest)
            }
        }
    }

    /// Judges a frame by what it begins with.
    fn begin(&mut self, head: [u8; HEAD_BYTES]) -> Result<(), Offence> {
        let [a, b, c, kind, flags, d, e, f, g] = head;
        let length = u32::from_be_bytes([0, a, b, c]);
        let stream = u32::from_be_bytes([d, e, f, g]) & WINDOW_LIMIT;
        if length > FRAME_BYTES {
            return Err(Offence::FrameSize);
        }
        if (kind == CONTINUATION) != (self.block_of != 0)
            || (kind == CONTINUATION && stream != self.block_of)
        {
            // A block is one run of frames, and nothing stands between them (RFC 9113 §4.3).
            return Err(Offence::Protocol);
        }
        self.flags = flags;
        self.at = At::pass(length);
        match kind {
            DATA => self.data(stream, flags),
            HEADERS => self.headers(stream, flags, length),
            CONTINUATION => self.begin_fragment(length, 0),
            SETTINGS => self.settings(flags, length),
            PRIORITY => is_long(length, 5),
            RST_STREAM => {
                is_long(length, 4)?;
                self.close(stream);
                Ok(())
            }
            PUSH_PROMISE => Err(Offence::Protocol),
            PING => is_long(length, 8),
            GOAWAY if length < 8 => Err(Offence::FrameSize),
            WINDOW_UPDATE => is_long(length, 4),
            // Unknown kinds are ignored (RFC 9113 §4.1).
            _ => Ok(()),
        }
    }

    fn data(&mut self, stream: u32, flags: u8) -> Result<(), Offence> {
        if self.has_ended(stream) {
            return Err(Offence::StreamClosed);
        }
        if flags & END_STREAM != 0 {
            self.close(stream);
        }
        Ok(())
    }

    fn headers(&mut self, stream: u32, flags: u8, length: u32) -> Result<(), Offence> {
        let is_trailer = stream <= self.highest;
        if self.has_ended(stream) {
            return Err(Offence::StreamClosed);
        }
        // Numbers are odd and grow: what the client has skipped it may not open any more (RFC 9113 §5.1.1).
        let is_skipped = is_trailer && stream > self.forgotten && !self.is_open(stream);
        if stream.is_multiple_of(2) || is_skipped {
            return Err(Offence::Protocol);
        }
        if !is_trailer {
            self.highest = stream;
            if stream == self.dense + 1 {
                self.dense = stream + 1;
            }
        }
        match (is_trailer, flags & END_STREAM != 0) {
            (true, true) => self.close(stream),
            (false, false) => self.open(stream),
            (true, false) | (false, true) => {}
        }
        self.block = Block::new(is_trailer);
        self.block_of = stream;
        if flags & PADDED == 0 {
            return self.fragment(length, 0);
        }
        match length {
            // The length of the padding is missing.
            0 => Err(Offence::FrameSize),
            length => {
                self.at = At::PadLength { left: length - 1 };
                Ok(())
            }
        }
    }

    /// What stands behind the padding's length: the fields of a priority, the block and the padding.
    fn fragment(&mut self, left: u32, padding: u32) -> Result<(), Offence> {
        let ahead = if self.flags & PRIORITIZED == 0 { 0 } else { 5 };
        let left = left.checked_sub(ahead).ok_or(Offence::FrameSize)?;
        let fragment = left.checked_sub(padding).ok_or(Offence::Protocol)?;
        if ahead == 0 {
            return self.begin_fragment(fragment, padding);
        }
        self.at = At::Ahead {
            ahead,
            fragment,
            padding,
        };
        Ok(())
    }

    fn begin_fragment(&mut self, left: u32, padding: u32) -> Result<(), Offence> {
        if left == 0 {
            return self.end_fragment(padding);
        }
        self.at = At::Fragment { left, padding };
        Ok(())
    }

    fn end_fragment(&mut self, padding: u32) -> Result<(), Offence> {
        if self.flags & END_HEADERS != 0 {
            self.block_of = 0;
            self.block.end()?;
        }
        self.at = At::pass(padding);
        Ok(())
    }

    fn settings(&mut self, flags: u8, length: u32) -> Result<(), Offence> {
        if !length.is_multiple_of(6) || (flags & ACK != 0 && length != 0) {
            return Err(Offence::FrameSize);
        }
        if length != 0 {
            self.at = At::Settings {
                left: length,
                entry: [0; 6],
                have: 0,
            };
        }
        Ok(())
    }

    /// Whether the client has opened this stream, and ended it. What it skipped it never opened.
    fn has_ended(&self, stream: u32) -> bool {
        let was_opened = stream == self.highest || stream < self.dense;
        was_opened && stream % 2 == 1 && stream > self.forgotten && !self.is_open(stream)
    }

    fn is_open(&self, stream: u32) -> bool {
        self.open.binary_search(&stream).is_ok()
    }

    fn open(&mut self, stream: u32) {
        if self.open.len() == OPEN_STREAMS {
            // One that we have reset may stay open here for good.
            self.forgotten = self.open.remove(0);
        }
        self.open.push(stream);
    }

    fn close(&mut self, stream: u32) {
        if let Ok(at) = self.open.binary_search(&stream) {
            self.open.remove(at);
        }
    }
}

fn is_long(length: u32, expected: u32) -> Result<(), Offence> {
    match length == expected {
        true => Ok(()),
        false => Err(Offence::FrameSize),
    }
}

/// How many of the bytes are among the next `left`, and what is behind them.
fn split(bytes: &[u8], left: u32) -> (u32, &[u8]) {
    let here = bytes.len().min(left as usize);
    let rest = bytes.get(here..).unwrap_or_default();
    (u32::try_from(here).unwrap_or(left), rest)
}

/// Fills what is missing of `whole`; what is left of the bytes behind it.
fn fill<'a>(whole: &mut [u8], have: &mut u8, bytes: &'a [u8]) -> &'a [u8] {
    let missing = whole.get_mut(usize::from(*have)..).unwrap_or_default();
    let (here, rest) = bytes.split_at(bytes.len().min(missing.len()));
    for (to, from) in missing.iter_mut().zip(here) {
        *to = *from;
        *have += 1;
    }
    rest
}
