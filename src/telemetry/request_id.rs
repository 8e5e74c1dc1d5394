//! The id of a request: by it a line of our log is found beside the endpoint's and the client's.
//!
//! The exchange asks its worker's [`RequestIds`] for one, sends it upstream and puts it into its record. An id is
//! kept if the client sent a decent one, else made. Made ids are keyed hashes of a counter (SipHash with random
//! keys of the thread): they do not repeat, and from one nobody computes another, nor how busy we are.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::str;

use http::HeaderValue;

/// The id of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(Origin);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    Made([u8; 32]),
    Kept(HeaderValue),
}

impl RequestId {
    /// The client's own id, if it is 1 to 128 letters, digits or `._~+/=:-`.
    pub fn kept(value: &HeaderValue) -> Option<Self> {
        let bytes = value.as_bytes();
        let is_decent = (1..=LEN_LIMIT).contains(&bytes.len())
            && bytes
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._~+/=:-".contains(byte));
        is_decent.then(|| Self(Origin::Kept(value.clone())))
    }

    /// The id as bytes: printable ASCII without quote and backslash.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Origin::Made(hex) => hex,
            Origin::Kept(value) => value.as_bytes(),
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    /// The id as the value of `x-request-id`; a kept one is a reference to the value that came.
    pub fn header_value(&self) -> HeaderValue {
        match &self.0 {
            Origin::Made(hex) => {
                HeaderValue::from_bytes(hex).expect("hexadecimal digits are visible ASCII")
            }
            Origin::Kept(value) => value.clone(),
        }
    }
}

/// The source of ids of one worker.
#[derive(Debug, Default)]
pub struct RequestIds {
    high: RandomState,
    low: RandomState,
    made: Cell<u64>,
}

impl RequestIds {
    /// Keeps the id that the client gave, or makes one.
    pub fn pick(&self, given: Option<&HeaderValue>) -> RequestId {
        given
            .and_then(RequestId::kept)
            .unwrap_or_else(|| self.make())
    }

    /// Makes an id: 32 hexadecimal digits.
    pub fn make(&self) -> RequestId {
        let number = self.made.get();
        self.made.set(number.wrapping_add(1));
        let halves = [self.high.hash_one(number), self.low.hash_one(number)];
        let mut hex = [0; 32];
        let (digits, _) = hex.as_chunks_mut::<8>();
        let quarters = halves
            .iter()
            .flat_map(|half| [half >> 32, half & 0xFFFF_FFFF]);
        for (digits, quarter) in digits.iter_mut().zip(quarters) {
            *digits = hex_digits(quarter);
        }
        RequestId(Origin::Made(hex))
    }
}

/// The eight hexadecimal digits of a number of 32 bits: all nibbles at once, since every request needs an id.
fn hex_digits(number: u64) -> [u8; 8] {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    let pairs = (number & 0xFFFF_0000) << 16 | number & 0xFFFF;
    let bytes = (pairs & 0x0000_FF00_0000_FF00) << 8 | pairs & 0x0000_00FF_0000_00FF;
    let nibbles = (bytes & 0x00F0_00F0_00F0_00F0) << 4 | bytes & 0x000F_000F_000F_000F;
    // Ten and more carry into the bit above, and are moved on from the digits to the letters.
    let letters = (nibbles + ONES * 6) >> 4 & ONES;
    let gap = u64::from(b'a' - b'0' - 10);
    (nibbles + ONES * u64::from(b'0') + letters * gap).to_be_bytes()
}

/// Bytes of an id that is kept: the id of a trace and a few parts beside it have room.
const LEN_LIMIT: usize = 128;
#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn digits_are_those_of_the_number() {
        for number in [0, 1, 0x0123_4567, 0x89AB_CDEF, 0xFFFF_FFFF, 0xA0F9_9A0F] {
            assert_eq!(
                str::from_utf8(&hex_digits(number)).unwrap(),
                format!("{number:08x}")
            );
        }
    }

    #[test]
    fn made_ids_differ_within_a_worker_and_between_workers() {
        let workers = [RequestIds::default(), RequestIds::default()];
        let ids: HashSet<String> = (0..20_000)
            .map(|n: usize| workers[n % 2].make().as_str().to_owned())
            .collect();
        assert_eq!(ids.len(), 20_000);
        assert!(ids.iter().all(|id| {
            id.len() == 32
                && id
                    .bytes()
                    .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        }));
    }

    #[test]
    fn a_decent_id_of_the_client_is_kept_and_another_replaced() {
        let ids = RequestIds::default();
        let longest = "a".repeat(128);
        for kept in ["a", "0af7-42.x_y~z+/=:", &longest] {
            let value = HeaderValue::from_str(kept).unwrap();
            let id = ids.pick(Some(&value));
            assert_eq!(id.as_str(), kept);
            assert_eq!(id.header_value(), value);
        }
        let too_long = "a".repeat(129);
        for replaced in ["", "a b", "a\"b", "a\tb", "a,b", &too_long] {
            let id = ids.pick(Some(&HeaderValue::from_str(replaced).unwrap()));
            assert_eq!(id.as_str().len(), 32, "{replaced}");
            assert_ne!(id.as_str(), replaced);
        }
        let bytes = HeaderValue::from_bytes(b"caf\xe9").unwrap();
        assert_eq!(ids.pick(Some(&bytes)).header_value().len(), 32);
    }
}
