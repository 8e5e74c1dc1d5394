//! Which bytes may stand in request lines, and in the names and values of fields on both sides: one table look-up a
//! byte, or eight bytes at a time.
//!
//! Called by the scanners of requests and of answers. RFC 9110 §5.5 and §5.6.

static TOKENS: [bool; 256] = tokens();

const fn tokens() -> [bool; 256] {
    let mut table = [false; 256];
    let mut marks: &[u8] = b"!#$%&'*+-.^_`|~";
    while let [mark, rest @ ..] = marks {
        table[*mark as usize] = true;
        marks = rest;
    }
    let mut byte: u8 = 0;
    while byte < 0x80 {
        table[byte as usize] |= byte.is_ascii_alphanumeric();
        byte += 1;
    }
    table
}

/// Whether the byte may stand in a token, thus in a method or a field name.
#[inline]
pub fn is_token(byte: u8) -> bool {
    TOKENS[usize::from(byte)]
}

/// Whether all bytes may stand in a field value: no control but HTAB (RFC 9110 §5.5).
#[inline]
pub fn is_value(bytes: &[u8]) -> bool {
    let is_odd = |byte: &u8| is_control(*byte) && *byte != b'\t';
    // Words that hold an HTAB are rare: they are looked at byte by byte.
    all_words(bytes, |word| !has_control(word)) || !bytes.iter().any(is_odd)
}

/// Whether all bytes may stand in a request line: visible ASCII and SP.
#[inline]
pub fn is_line(bytes: &[u8]) -> bool {
    let is_odd = |byte: &u8| is_control(*byte) || !byte.is_ascii();
    all_words(bytes, |word| !has_control(word) && word & HIGHS == 0) || !bytes.iter().any(is_odd)
}

/// Where the first control stands: a byte below 0x20, or DEL.
#[inline]
pub fn find_control(bytes: &[u8]) -> Option<usize> {
    let (words, rest) = bytes.as_chunks();
    for (at, word) in words.iter().enumerate() {
        let controls = controls(u64::from_le_bytes(*word));
        if controls != 0 {
            return Some(at * 8 + controls.trailing_zeros() as usize / 8);
        }
    }
    let at = rest.iter().position(|byte| is_control(*byte))?;
    Some(words.len() * 8 + at)
}

#[inline]
fn is_control(byte: u8) -> bool {
    byte < b' ' || byte == 0x7F
}

const ONES: u64 = u64::from_ne_bytes([1; 8]);
/// The highest bit of each of eight bytes.
const HIGHS: u64 = ONES << 7;

/// Whether any of the eight bytes is below 0x20 or is DEL.
#[inline]
fn has_control(word: u64) -> bool {
    controls(word) != 0
}

/// The high bits of the bytes that are below 0x20 or are DEL; above the lowest there may be others that are not.
#[inline]
fn controls(word: u64) -> u64 {
    // Subtracting borrows into a byte's high bit where the byte is smaller, and may go on from there upwards.
    let below = word.wrapping_sub(ONES * 0x20) & !word;
    let del = word ^ (ONES * 0x7F);
    let del = del.wrapping_sub(ONES) & !del;
    (below | del) & HIGHS
}

/// Whether `fits` holds for all words of the bytes, the last overlapping; never if there is no whole word.
#[inline]
fn all_words(bytes: &[u8], fits: impl Fn(u64) -> bool) -> bool {
    let (words, _) = bytes.as_chunks();
    bytes.last_chunk().is_some_and(|last| {
        fits(u64::from_ne_bytes(*last)) && words.iter().all(|word| fits(u64::from_ne_bytes(*word)))
    })
}

/// Takes the optional white space off both ends (RFC 9110 §5.6.3).
#[inline]
pub fn trim(bytes: &[u8]) -> &[u8] {
    let mut bytes = trim_start(bytes);
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// Takes it off the beginning.
#[inline]
pub fn trim_start(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_judged_as_their_bytes_are() {
        for byte in 0..=u8::MAX {
            for length in 1..40 {
                for at in [0, length / 2, length - 1] {
                    let mut bytes = vec![b'x'; length];
                    bytes[at] = byte;
                    let is_control = byte.is_ascii_control();
                    assert_eq!(is_value(&bytes), !is_control || byte == b'\t', "{bytes:?}");
                    assert_eq!(is_line(&bytes), !is_control && byte.is_ascii(), "{bytes:?}");
                    assert_eq!(find_control(&bytes), is_control.then_some(at), "{bytes:?}");
                }
            }
        }
    }

    #[test]
    fn the_first_control_is_found() {
        assert_eq!(find_control(b""), None);
        assert_eq!(find_control(b"\r\n"), Some(0));
        assert_eq!(find_control(b"0123456789\t\x7f\xff"), Some(10));
        assert_eq!(
            find_control("\u{e9}\u{20ac}0123456789\r".as_bytes()),
            Some(15)
        );
    }

    #[test]
    fn tokens_are_those_of_field_names() {
        for byte in 0..=u8::MAX {
            // The type of a name takes nothing else, but that it lets upper case pass as lower.
            let is_name = http::HeaderName::from_bytes(&[byte]).is_ok();
            assert_eq!(is_token(byte), is_name, "{byte:#x}");
        }
    }

    #[test]
    fn white_space_goes_from_both_ends_only() {
        assert_eq!(trim(b" \ta b\t "), b"a b");
        assert_eq!(trim(b" \t "), b"");
    }
}
