//! HTTP/1 with clients: our own codec, which parses a head once and answers with one write.
//!
//! [`serve`](super::serve) runs a [`Connection`] and calls it a codec; a request leaves it as an
//! [`Inbound`](super::headers::Inbound) and comes back as a response. What may pass is judged by
//! [`framing`](super::framing), byte for byte what is taken apart here. One exchange runs at a time: what a client
//! sends behind it is kept, up to a limit, and not looked at before the answer has gone. A connection on which
//! nothing happens holds no buffer. RFC 9110, RFC 9112.

mod answer;
mod body;
mod connection;
mod date;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod head;
mod outbox;

pub use self::body::Body;
pub use self::connection::{Connection, Ended, Vitals};

use std::cell::{Cell, RefCell};
use std::fmt;

use http::HeaderMap;

use self::date::Date;

/// Bytes that are read at a time where nothing is known of what comes: most requests are shorter.
const READ_BYTES: usize = 4 << 10;

/// What is kept of the bytes that a client sends ahead while its exchange runs, about: enough to notice most
/// clients going away.
const AHEAD_BYTES: usize = 16 << 10;

/// Bytes of a body that are read at a time, at most.
const BODY_BYTES: usize = 64 << 10;

/// Bytes of an answer that are brought together before the transport is asked to take them.
const WRITE_BYTES: usize = 64 << 10;

/// What one connection may hold of answers that its client does not take.
const HTTP1_BUFFER: usize = 128 << 10;

/// Frames of a body up to this size are copied behind what waits, larger ones are sent from where they are.
const COPY_BYTES: usize = 4 << 10;

/// Maps for fields that a worker keeps at hand: a request each that it has under way.
const SPARE_MAPS: usize = 64;

/// What the connections of a worker lend each other.
#[derive(Default)]
pub struct Stock {
    /// Empty maps with room, from answers for requests to come.
    fields: RefCell<Vec<HeaderMap>>,
    /// An empty buffer with room.
    buffer: Cell<Vec<u8>>,
    /// What `Date` says.
    date: Date,
}

impl Stock {
    /// An empty map, with room if there is one at hand.
    pub fn take_fields(&self) -> HeaderMap {
        self.fields.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes a map back that nobody needs any more.
    pub fn give_fields(&self, mut fields: HeaderMap) {
        let mut spare = self.fields.borrow_mut();
        if fields.capacity() > 0 && spare.len() < SPARE_MAPS {
            fields.clear();
            spare.push(fields);
        }
    }
}

impl fmt::Debug for Stock {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Stock")
    }
}
