//! Which bytes may stand where in a request: one table look-up or one vector pass a question.
//!
//! Called by the scanner of heads, beside `base::octets`. RFC 3986 §3.

const PATH: u8 = 1;
const QUERY: u8 = 2;
const HOST: u8 = 4;

static CLASSES: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte: u8 = 0;
    while byte < 0x7F {
        let alphanumeric = byte.is_ascii_alphanumeric();
        let mut class = 0;
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
}
