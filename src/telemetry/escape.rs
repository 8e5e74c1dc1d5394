//! Bytes of any origin as text that stays inside its quotes and on its line.
//!
//! `line` and `mask` call it. Whatever the bytes are, what is written holds no line end, no control character,
//! no bare quote and no bare backslash, so that no client can break a line in two or forge a field. The common
//! case, plain ASCII, is one quick pass and one copy.
//!
//! JSON strings: RFC 8259 §7. The combined format escapes as nginx does.

use super::sink::Format;

/// Writes `bytes` as the inside of a quoted string of `format`.
pub(crate) fn write(out: &mut Vec<u8>, format: Format, bytes: &[u8]) {
    if is_plain(bytes) {
        out.extend_from_slice(bytes);
        return;
    }
    match format {
        Format::Json => write_json(out, bytes),
        Format::Combined => write_combined(out, bytes),
    }
}

/// Writes as much of `bytes` as a field may have, by `write`, and a mark where it was cut.
pub(crate) fn write_field(
    out: &mut Vec<u8>,
    format: Format,
    bytes: &[u8],
    write: impl FnOnce(&mut Vec<u8>, Format, &[u8]),
) {
    let (kept, cut) = clip(bytes);
    write(out, format, kept);
    if cut {
        out.extend_from_slice(match format {
            Format::Json => "…".as_bytes(),
            Format::Combined => b"...",
        });
    }
}

/// Printable ASCII without quote and backslash, looked at eight bytes at a time: most values are short, so that
/// wider steps would leave most of their bytes to a loop over the rest.
fn is_plain(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut last = [b' '; 8];
    for (slot, byte) in last.iter_mut().zip(rest) {
        *slot = *byte;
    }
    let odd = words
        .iter()
        .fold(odd_bytes(last), |odd, word| odd | odd_bytes(*word));
    odd == 0
}

/// Zero if none of eight bytes needs an escape. Each term sets the high bit of a byte that is at fault; a borrow
/// may set it for a neighbour too, but only where there is one at fault.
fn odd_bytes(bytes: [u8; 8]) -> u64 {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    let word = u64::from_ne_bytes(bytes);
    let equals = |byte: u8| {
        let differing = word ^ (ONES * u64::from(byte));
        differing.wrapping_sub(ONES) & !differing
    };
    let is_control = word.wrapping_sub(ONES * u64::from(b' ')) & !word;
    (word | is_control | equals(b'"') | equals(b'\\') | equals(DEL)) & HIGH
}

/// Cuts at the limit, before a character rather than inside it.
fn clip(bytes: &[u8]) -> (&[u8], bool) {
    let Some((mut kept, rest)) = bytes.split_at_checked(FIELD_LIMIT) else {
        return (bytes, false);
    };
    let is_continuation = |byte: &u8| byte & 0xC0 == 0x80;
    if rest.first().is_some_and(is_continuation) {
        // A character has at most three continuation bytes; more of them are no text, and cut as they are.
        for back in 0..4 {
            let Some((head, tail)) = kept.split_at_checked(kept.len().saturating_sub(back)) else {
                break;
            };
            if tail.first().is_some_and(|byte| !is_continuation(byte)) {
                kept = head;
                break;
            }
        }
    }
    (kept, !rest.is_empty())
}

fn write_json(out: &mut Vec<u8>, bytes: &[u8]) {
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            match char {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                '\n' => out.extend_from_slice(b"\\n"),
                '\r' => out.extend_from_slice(b"\\r"),
                '\t' => out.extend_from_slice(b"\\t"),
                char if is_unseen(char) => write_unit(out, char),
                char => out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{FFFD}".as_bytes());
        }
    }
}

/// Characters that end a line somewhere or make a terminal show another text than there is: the controls, the
/// line and paragraph separators, the marks that turn the direction of writing, the byte order mark.
fn is_unseen(char: char) -> bool {
    char.is_control()
        || matches!(
            char,
            '\u{200E}'
                | '\u{200F}'
                | '\u{2028}'..='\u{202E}'
                | '\u{2066}'..='\u{2069}'
                | '\u{FEFF}'
        )
}

/// Writes `\uXXXX`; every character of [`is_unseen`] is a single unit of UTF-16.
fn write_unit(out: &mut Vec<u8>, char: char) {
    let [_, _, high, low] = u32::from(char).to_be_bytes();
    out.extend_from_slice(b"\\u");
    write_hex(out, high);
    write_hex(out, low);
}

fn write_combined(out: &mut Vec<u8>, bytes: &[u8]) {
    for &byte in bytes {
        if is_plain(&[byte]) {
            out.push(byte);
        } else {
            out.extend_from_slice(b"\\x");
            write_hex(out, byte);
        }
    }
}

fn write_hex(out: &mut Vec<u8>, byte: u8) {
    out.push(HEX[usize::from(byte >> 4)]);
    out.push(HEX[usize::from(byte & 15)]);
}

/// Bytes of one value that go into a line; a header may have more, a line need not.
pub(crate) const FIELD_LIMIT: usize = 8 << 10;

const HEX: [u8; 16] = *b"0123456789ABCDEF";
const DEL: u8 = 0x7F;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn escaped(format: Format, bytes: &[u8]) -> String {
        let mut out = Vec::new();
        write(&mut out, format, bytes);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_kind_of_byte_has_its_escape() {
        let cases: &[(&[u8], &str, &str)] = &[
            (b"/plain?a=1", "/plain?a=1", "/plain?a=1"),
            (b"say \"hi\"", r#"say \"hi\""#, r"say \x22hi\x22"),
            (b"a\\b", r"a\\b", r"a\x5Cb"),
            (b"a\r\nb\tc", r"a\r\nb\tc", r"a\x0D\x0Ab\x09c"),
            (b"\x00\x1b[2J", r"\u0000\u001B[2J", r"\x00\x1B[2J"),
            (b"\x7f", r"\u007F", r"\x7F"),
            ("caf\u{e9}".as_bytes(), "caf\u{e9}", r"caf\xC3\xA9"),
            (b"\xff\xc3", "\u{FFFD}\u{FFFD}", r"\xFF\xC3"),
            (
                "\u{85}\u{2028}\u{2029}\u{202E}".as_bytes(),
                r"\u0085\u2028\u2029\u202E",
                r"\xC2\x85\xE2\x80\xA8\xE2\x80\xA9\xE2\x80\xAE",
            ),
        ];
        for (bytes, json, combined) in cases {
            assert_eq!(escaped(Format::Json, bytes), *json);
            assert_eq!(escaped(Format::Combined, bytes), *combined);
        }
    }

    #[test]
    fn a_long_value_is_cut_before_a_character() {
        let cut = |text: &str| {
            let mut out = Vec::new();
            write_field(&mut out, Format::Json, text.as_bytes(), write);
            String::from_utf8(out).unwrap()
        };
        let limit = "a".repeat(FIELD_LIMIT);
        assert_eq!(cut(&limit), limit);
        assert_eq!(cut(&format!("{limit}b")), format!("{limit}…"));
        for back in 1..4 {
            let head = "a".repeat(FIELD_LIMIT - back);
            assert_eq!(cut(&format!("{head}\u{1F980}")), format!("{head}…"));
        }
    }

    #[test]
    fn a_byte_is_plain_or_not_wherever_it_stands() {
        for byte in 0..=u8::MAX {
            let expected = matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\';
            for before in 0..17 {
                for after in [0, 1, 8] {
                    let bytes = [vec![b'~'; before], vec![byte], vec![b' '; after]].concat();
                    assert_eq!(is_plain(&bytes), expected, "{byte} after {before}");
                }
            }
        }
        assert!(is_plain(b""));
    }

    proptest! {
        #[test]
        fn what_is_read_back_from_json_is_what_was_written(bytes: Vec<u8>) {
            let text = escaped(Format::Json, &bytes);
            prop_assert!(!text.chars().any(char::is_control));
            let back: String = serde_json::from_str(&format!("\"{text}\"")).unwrap();
            prop_assert_eq!(back, String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn what_is_read_back_from_combined_is_what_was_written(bytes: Vec<u8>) {
            let text = escaped(Format::Combined, &bytes);
            prop_assert!(text.bytes().all(|b| (b' '..DEL).contains(&b) && b != b'"'));
            let mut back = Vec::new();
            let mut rest = text.as_str();
            while let Some(byte) = rest.bytes().next() {
                if byte == b'\\' {
                    back.push(u8::from_str_radix(&rest[2..4], 16).unwrap());
                    rest = &rest[4..];
                } else {
                    back.push(byte);
                    rest = &rest[1..];
                }
            }
            prop_assert_eq!(back, bytes);
        }
    }
}
