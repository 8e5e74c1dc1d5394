//! Which bytes may stand where in a request: one table look-up or one vector pass a question.
//!
//! Called by the scanners of heads and chunked bodies. RFC 9110 §5.5 and §5.6.2, RFC 3986 §3.

const TOKEN: u8 = 1;
const PATH: u8 = 2;
const QUERY: u8 = 4;
const HOST: u8 = 8;

static CLASSES: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte: u8 = 0;
    while byte < 0x7F {
        let alphanumeric = byte.is_ascii_alphanumeric();
        let mut class = 0;
        if alphanumeric || is_in(b"!#$%&'*+-.^_`|~", byte) {
            class |= TOKEN;
        }
        // What the type of a target takes, no more: a head must not pass and then turn out to be none.
        if byte > b' ' && !is_in(b"#<>?`", byte) {
            class |= PATH;
        }
        if byte > b' ' && !is_in(b"\"#<>", byte) {
            class |= QUERY;
        }
        if alphanumeric || is_in(b"-._", byte) {
            class |= HOST;
        }
        table[byte as usize] = class;
        byte += 1;
    }
    table
}

const fn is_in(set: &[u8], byte: u8) -> bool {
    let mut rest = set;
    while let [first, tail @ ..] = rest {
        if *first == byte {
            return true;
        }
        rest = tail;
    }
    false
}

#[inline]
fn has(byte: u8, class: u8) -> bool {
    CLASSES[usize::from(byte)] & class != 0
}

/// Whether the byte may stand in a token, thus in a method or a field name.
#[inline]
pub(super) fn is_token(byte: u8) -> bool {
    has(byte, TOKEN)
}

/// Whether all bytes may stand in a field value: no control but HTAB (RFC 9110 §5.5).
#[inline]
pub(super) fn is_value(bytes: &[u8]) -> bool {
    let is_odd = |byte: &u8| (*byte < b' ' && *byte != b'\t') || *byte == 0x7F;
    // Words that hold an HTAB are rare: they are looked at byte by byte.
    all_words(bytes, |word| !has_control(word)) || !bytes.iter().any(is_odd)
}

/// Whether all bytes may stand in a request line: visible ASCII and SP.
#[inline]
pub(super) fn is_line(bytes: &[u8]) -> bool {
    let is_odd = |byte: &u8| *byte < b' ' || *byte >= 0x7F;
    all_words(bytes, |word| !has_control(word) && word & HIGHS == 0) || !bytes.iter().any(is_odd)
}

const ONES: u64 = u64::from_ne_bytes([1; 8]);
const HIGHS: u64 = ONES << 7;

/// Whether any of the eight bytes is below 0x20 or is DEL.
#[inline]
fn has_control(word: u64) -> bool {
    // Subtracting borrows into a byte's high bit where the byte is smaller; whether there is any such byte
    // is exact, only which it is would not be.
    let below = word.wrapping_sub(ONES * 0x20) & !word;
    let del = word ^ (ONES * 0x7F);
    let del = del.wrapping_sub(ONES) & !del;
    (below | del) & HIGHS != 0
}

/// Whether `fits` holds for all words of the bytes, the last overlapping; never if there is no whole word.
#[inline]
fn all_words(bytes: &[u8], fits: impl Fn(u64) -> bool) -> bool {
    let (words, _) = bytes.as_chunks();
    bytes.last_chunk().is_some_and(|last| {
        fits(u64::from_ne_bytes(*last)) && words.iter().all(|word| fits(u64::from_ne_bytes(*word)))
    })
}

/// Whether this is a path, maybe with a query, without a fragment.
#[inline]
pub(super) fn is_path_and_query(bytes: &[u8]) -> bool {
    let mut rest = bytes.iter();
    match rest.find(|byte| !has(**byte, PATH)) {
        None => true,
        Some(b'?') => rest.all(|byte| has(*byte, QUERY)),
        Some(_) => false,
    }
}

/// Whether this is a host that may have a port: a name of the letters that names are made of, an IPv4
/// address, or an IPv6 address in brackets (RFC 3986 §3.2.2). No user information, no empty port.
pub(super) fn is_authority(bytes: &[u8]) -> bool {
    let (host_is_valid, port) = match bytes {
        [b'[', rest @ ..] => {
            let Some(end) = memchr::memchr(b']', rest) else {
                return false;
            };
            let (address, port) = rest.split_at(end);
            let address = str::from_utf8(address).unwrap_or_default();
            let valid = address.parse::<std::net::Ipv6Addr>().is_ok();
            (valid, port.get(1..).unwrap_or_default())
        }
        _ => {
            let end = bytes.iter().take_while(|byte| has(**byte, HOST)).count();
            let (name, port) = bytes.split_at(end);
            (!name.is_empty(), port)
        }
    };
    host_is_valid
        && match port {
            [] => true,
            [b':', digits @ ..] => is_port(digits),
            _ => false,
        }
}

fn is_port(digits: &[u8]) -> bool {
    // Five digits cannot overflow; more are none of a port.
    let number = |digits: &[u8]| {
        let value = |digit: &u8| u32::from(digit.wrapping_sub(b'0'));
        digits
            .iter()
            .map(value)
            .fold(0, |sum, digit| sum * 10 + digit)
    };
    (1..=5).contains(&digits.len())
        && digits.iter().all(u8::is_ascii_digit)
        && number(digits) <= u32::from(u16::MAX)
}

/// Takes the optional white space off both ends (RFC 9110 §5.6.3).
#[inline]
pub(super) fn trim(bytes: &[u8]) -> &[u8] {
    let mut bytes = trim_start(bytes);
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// Takes it off the beginning.
#[inline]
pub(super) fn trim_start(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_are_hosts_with_a_port_at_most() {
        for good in [
            "a",
            "a.b",
            "A-1.example:443",
            "127.0.0.1:80",
            "[::1]",
            "[2001:db8::1]:8443",
            "a_b",
            "a:0",
        ] {
            assert!(is_authority(good.as_bytes()), "{good}");
        }
        for bad in [
            "", ":80", "a:", "a:65536", "a:000080", "a:8o", "u@a", "a b", "a/b", "[::1", "[]",
            "[::1]a", "[g]", "a,b", "a%41", "a:1:2", "\u{e9}", "a\"", "*",
        ] {
            assert!(!is_authority(bad.as_bytes()), "{bad}");
        }
    }

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
                }
            }
        }
    }

    #[test]
    fn ports_do_not_overflow() {
        assert!(!is_authority(format!("a:{}", "9".repeat(40)).as_bytes()));
    }

    #[test]
    fn paths_hold_what_a_uri_may_hold() {
        for byte in 0..=u8::MAX {
            for prefix in ["/", "/?"] {
                let mut text = prefix.as_bytes().to_vec();
                text.push(byte);
                let uri = http::Uri::try_from(text.as_slice());
                let fits = byte.is_ascii_graphic() && byte != b'#' && uri.is_ok();
                assert_eq!(is_path_and_query(&text), fits, "{prefix}{byte:#x}");
            }
        }
    }

    #[test]
    fn white_space_goes_from_both_ends_only() {
        assert_eq!(trim(b" \ta b\t "), b"a b");
        assert_eq!(trim(b" \t "), b"");
    }
}
