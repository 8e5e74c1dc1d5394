//! The form of a field block: where each representation of HPACK begins and ends (RFC 7541 §6), and nothing of what it
//! says.
//!
//! The scanner of frames shows it each block, in pieces of any size. Strings are passed over and tables not kept, so it
//! takes a few steps a field.

use super::Offence;

/// An integer of more bytes behind its prefix is none: five hold 32 bits (RFC 7541 §5.1).
const INTEGER_BYTES: u8 = 5;

/// Pseudo fields stand first in the static table (RFC 7541, appendix A).
const PSEUDO_INDICES: std::ops::RangeInclusive<u8> = 1..=14;

/// Where in a block the next byte stands.
#[derive(Debug, Default)]
pub(super) struct Block {
    at: At,
    /// Its fields are trailers, among which there are no pseudo fields (RFC 9113 §8.1).
    is_trailer: bool,
}

#[derive(Clone, Copy, Debug, Default)]
enum At {
    #[default]
    Field,
    /// The rest of an integer that nobody needs, before this.
    Integer {
        bytes: u8,
        then: Then,
    },
    Length(Part),
    /// The rest of a string's length.
    LengthMore {
        part: Part,
        length: u32,
        bytes: u8,
        is_coded: bool,
    },
    Text {
        part: Part,
        left: u32,
    },
    /// The first byte of a name.
    Initial {
        left: u32,
        is_coded: bool,
    },
}

#[derive(Clone, Copy, Debug)]
enum Then {
    Field,
    Value,
}

#[derive(Clone, Copy, Debug)]
enum Part {
    Name,
    Value,
}

impl Part {
    /// Where a block goes on behind it.
    fn over(self) -> At {
        match self {
            Self::Name => At::Length(Self::Value),
            Self::Value => At::Field,
        }
    }
}

impl Then {
    fn at(self) -> At {
        match self {
            Self::Field => At::Field,
            Self::Value => At::Length(Part::Value),
        }
    }
}

impl Block {
    /// A block that begins, of trailers or of a head.
    pub(super) fn new(is_trailer: bool) -> Self {
        Self {
            at: At::Field,
            is_trailer,
        }
    }

    /// Reads on.
    ///
    /// # Errors
    /// [`Offence::Compression`] for what no encoder writes, [`Offence::Protocol`] for a pseudo field among trailers.
    #[inline]
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> Result<(), Offence> {
        while let Some((first, rest)) = bytes.split_first() {
            bytes = rest;
            self.at = match self.at {
                At::Field => self.field(*first)?,
                At::Length(part) => {
                    let (length, is_coded) = (*first & 0x7f, *first & 0x80 != 0);
                    if length == 0x7f {
                        At::LengthMore {
                            part,
                            length: 0x7f,
                            bytes: 0,
                            is_coded,
                        }
                    } else {
                        self.text(part, u32::from(length), is_coded)
                    }
                }
                At::Text { part, left } => {
                    // This byte is the first of those that are left.
                    let more = (left as usize - 1).min(bytes.len());
                    bytes = bytes.get(more..).unwrap_or_default();
                    match left - 1 - u32::try_from(more).unwrap_or(u32::MAX).min(left - 1) {
                        0 => part.over(),
                        left => At::Text { part, left },
                    }
                }
                At::Integer { bytes, then } => match *first & 0x80 {
                    0 => then.at(),
                    _ if bytes + 1 == INTEGER_BYTES => return Err(Offence::Compression),
                    _ => At::Integer {
                        bytes: bytes + 1,
                        then,
                    },
                },
                At::LengthMore {
                    part,
                    length,
                    bytes,
                    is_coded,
                } => {
                    let more = u32::from(*first & 0x7f).checked_shl(7 * u32::from(bytes));
                    let length = more
                        .filter(|_| bytes < INTEGER_BYTES - 1)
                        .and_then(|more| length.checked_add(more))
                        .ok_or(Offence::Compression)?;
                    match *first & 0x80 {
                        0 => self.text(part, length, is_coded),
                        _ => At::LengthMore {
                            part,
                            length,
                            bytes: bytes + 1,
                            is_coded,
                        },
                    }
                }
                At::Initial { left, is_coded } => {
                    // A colon in Huffman's code is 1011100, and a bit of what follows.
                    let is_pseudo = match is_coded {
                        true => *first >> 1 == 0b101_1100,
                        false => *first == b':',
                    };
                    if is_pseudo {
                        return Err(Offence::Protocol);
                    }
                    match left - 1 {
                        0 => Part::Name.over(),
                        left => At::Text {
                            part: Part::Name,
                            left,
                        },
                    }
                }
            };
        }
        Ok(())
    }

    /// Whether the block may end here.
    pub(super) fn end(&self) -> Result<(), Offence> {
        match self.at {
            At::Field => Ok(()),
            _ => Err(Offence::Compression),
        }
    }

    /// The first byte of a representation (RFC 7541 §6).
    #[inline]
    fn field(&self, first: u8) -> Result<At, Offence> {
        let (mask, then) = match first {
            0x80.. => (0x7f, Then::Field),
            0x40.. => (0x3f, Then::Value),
            // Another size for the dynamic table.
            0x20.. => (0x1f, Then::Field),
            _ => (0x0f, Then::Value),
        };
        let index = first & mask;
        let is_size = mask == 0x1f;
        if self.is_trailer && !is_size && PSEUDO_INDICES.contains(&index) {
            return Err(Offence::Protocol);
        }
        Ok(match index {
            index if index == mask => At::Integer { bytes: 0, then },
            0 if is_size => At::Field,
            0 => match then {
                // There is no entry of that number.
                Then::Field => return Err(Offence::Compression),
                Then::Value => At::Length(Part::Name),
            },
            _ => then.at(),
        })
    }

    /// A string of this length begins.
    #[inline]
    fn text(&self, part: Part, length: u32, is_coded: bool) -> At {
        match (part, length) {
            (_, 0) => part.over(),
            (Part::Name, left) if self.is_trailer => At::Initial { left, is_coded },
            (part, left) => At::Text { part, left },
        }
    }
}
