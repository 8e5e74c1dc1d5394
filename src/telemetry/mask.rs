//! What of a URL may be logged: its secrets are masked, its user information is left out.
//!
//! `line` calls it for targets, hosts and referers. It decides by the name of a parameter alone, and in doubt it
//! hides: a name is compared decoded, in lower case and by its last part, and a secret value ends only at `&`.

use super::escape;
use super::sink::Format;

/// Writes a path with its query; values of parameters that are named like secrets become `***`.
pub(crate) fn write_target(out: &mut Vec<u8>, format: Format, target: &[u8]) {
    if may_have_secret(target) {
        write_masked(out, format, target);
    } else {
        escape::write(out, format, target);
    }
}

/// Looks at names alone, so that the values of most targets are not read before they are copied.
fn may_have_secret(target: &[u8]) -> bool {
    memchr::memchr_iter(b'=', target).any(|at| {
        let before = target.get(..at).unwrap_or_default();
        // Stopping at `=` bounds the way back: all names together are no longer than the target.
        let is_edge = |&byte: &u8| byte == b'=' || is_separator(byte);
        match before
            .iter()
            .rposition(is_edge)
            .map(|edge| before.split_at(edge))
        {
            Some((_, [b'=', ..])) | None => false,
            Some((_, name)) => is_secret(name.get(1..).unwrap_or_default()),
        }
    })
}

fn write_masked(out: &mut Vec<u8>, format: Format, target: &[u8]) {
    let Some((path, mut rest)) = split_before(target, is_separator) else {
        return escape::write(out, format, target);
    };
    escape::write(out, format, path);
    // `rest` begins with a separator: `?` of a query, `;` of a path parameter, `#` of a referer's fragment.
    while let Some((separator, tail)) = rest.split_at_checked(1) {
        escape::write(out, format, separator);
        let (parameter, next) = split_before(tail, is_separator).unwrap_or((tail, &[]));
        rest = next;
        match split_before(parameter, |byte| byte == b'=') {
            Some((name, _)) if is_secret(name) => {
                escape::write(out, format, name);
                out.push(b'=');
                // The value may hold a separator of another kind: only `&` is sure to end it.
                let (whole, next) = split_before(tail, |byte| byte == b'&').unwrap_or((tail, &[]));
                rest = next;
                if whole.len() > name.len() + 1 {
                    out.extend_from_slice(MASK);
                }
            }
            Some(_) | None => escape::write(out, format, parameter),
        }
    }
}

/// Writes a whole URL, as a referer is, by the rules of [`write_target`] and without user information.
pub(crate) fn write_url(out: &mut Vec<u8>, format: Format, url: &[u8]) {
    let is_end = |byte| byte == b'/' || is_separator(byte);
    let (scheme, rest) = split_before(url, is_end).unwrap_or((url, &[]));
    let Some(rest) = rest.strip_prefix(b"//") else {
        return write_target(out, format, url);
    };
    let (authority, rest) = split_before(rest, is_end).unwrap_or((rest, &[]));
    escape::write(out, format, scheme);
    out.extend_from_slice(b"//");
    escape::write(out, format, without_userinfo(authority));
    write_target(out, format, rest);
}

/// A host and port without the user information that some clients put before it.
pub(crate) fn without_userinfo(authority: &[u8]) -> &[u8] {
    match memchr::memrchr(b'@', authority) {
        Some(at) => authority.get(at + 1..).unwrap_or_default(),
        None => authority,
    }
}

/// Whether a parameter of this name holds a secret.
fn is_secret(name: &[u8]) -> bool {
    let mut buffer = [0; NAME_LIMIT];
    let mut len = 0;
    let mut rest = name;
    while let Some((&first, mut tail)) = rest.split_first() {
        let mut byte = first;
        if first == b'%'
            && let [high, low, after @ ..] = tail
            && let (Some(high), Some(low)) = (nibble(*high), nibble(*low))
        {
            byte = high << 4 | low;
            tail = after;
        }
        rest = tail;
        match byte {
            // `user[password]` and `user.password` are judged by their last part.
            b'[' | b'.' => len = 0,
            b']' => {}
            byte => {
                if len == NAME_LIMIT {
                    // What counts is how a name ends, so a long one loses its beginning.
                    buffer.copy_within(1.., 0);
                    len -= 1;
                }
                if let Some(slot) = buffer.get_mut(len) {
                    *slot = if byte == b'-' {
                        b'_'
                    } else {
                        byte.to_ascii_lowercase()
                    };
                    len += 1;
                }
            }
        }
    }
    let name = buffer.get(..len).unwrap_or_default();
    is_secret_word(name) || SECRET_ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// Whole names of secrets, as they are compared: lower case, `_` for `-`. A `match`, which looks at the length first.
fn is_secret_word(name: &[u8]) -> bool {
    matches!(
        name,
        b"access_key"
            | b"api_key"
            | b"apikey"
            | b"auth"
            | b"authorization"
            | b"code"
            | b"jsessionid"
            | b"jwt"
            | b"key"
            | b"otp"
            | b"phpsessid"
            | b"pwd"
            | b"session"
            | b"session_id"
            | b"sessionid"
            | b"sid"
            | b"sig"
    )
}

fn nibble(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

fn is_separator(byte: u8) -> bool {
    matches!(byte, b'?' | b'&' | b';' | b'#')
}

fn split_before(bytes: &[u8], is_end: impl Fn(u8) -> bool) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|&byte| is_end(byte))?;
    bytes.split_at_checked(at)
}

/// Bytes of a name's end that are compared; the longest entry below is shorter.
const NAME_LIMIT: usize = 32;
const MASK: &[u8] = b"***";

/// Endings that make a name one: `id_token`, `accessToken`, `client_secret`, `X-Amz-Signature`.
const SECRET_ENDINGS: &[&[u8]] = &[b"token", b"password", b"passwd", b"secret", b"signature"];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(write: fn(&mut Vec<u8>, Format, &[u8]), cases: &[(&str, &str)]) {
        for (given, expected) in cases {
            let mut out = Vec::new();
            write(&mut out, Format::Json, given.as_bytes());
            assert_eq!(String::from_utf8(out).unwrap(), *expected, "{given}");
        }
    }

    #[test]
    fn secrets_in_a_target_are_masked_by_name() {
        check(
            write_target,
            &[
                ("/", "/"),
                ("/a?", "/a?"),
                ("/a?b=1&c=2", "/a?b=1&c=2"),
                ("/a?b=1&&c", "/a?b=1&&c"),
                ("/a?token=x", "/a?token=***"),
                ("/a?token=", "/a?token="),
                ("/a?token=&b=1", "/a?token=&b=1"),
                ("/a?token", "/a?token"),
                ("/a?b=1&ToKeN=x&c=2", "/a?b=1&ToKeN=***&c=2"),
                ("/a?token=x&token=y", "/a?token=***&token=***"),
                ("/a?token=x;y?z#w=v&b=1", "/a?token=***&b=1"),
                ("/a?token=;x", "/a?token=***"),
                ("/a?token=x=y", "/a?token=***"),
                ("/a?b=1;token=x", "/a?b=1;token=***"),
                ("/a?b=1?token=x", "/a?b=1?token=***"),
                (
                    "/a?access%5ftoken=x&%74oken=y",
                    "/a?access%5ftoken=***&%74oken=***",
                ),
                (
                    "/a?user[password]=x&user.pwd=y",
                    "/a?user[password]=***&user.pwd=***",
                ),
                ("/a?user%5Bpassword%5D=x", "/a?user%5Bpassword%5D=***"),
                (
                    "/a?X-Amz-Signature=x&X-Amz-Date=y",
                    "/a?X-Amz-Signature=***&X-Amz-Date=y",
                ),
                ("/a;jsessionid=x?b=1", "/a;jsessionid=***"),
                ("/a;v=1?token=x", "/a;v=1?token=***"),
                ("/token/x", "/token/x"),
                (
                    "/a?zip_code=1&tokens=2&keyword=3",
                    "/a?zip_code=1&tokens=2&keyword=3",
                ),
                ("/a?%=1&%zz=2&token%=3", "/a?%=1&%zz=2&token%=3"),
            ],
        );
    }

    proptest! {
        #[test]
        fn the_short_way_hides_as_much_as_the_long_one(target in "[/?&;#=%a.-]{0,3}((token|sig|a)[/?&;#=%a.-]{0,2}){0,4}") {
            let (mut short, mut long) = (Vec::new(), Vec::new());
            write_target(&mut short, Format::Json, target.as_bytes());
            write_masked(&mut long, Format::Json, target.as_bytes());
            prop_assert_eq!(short, long);
        }
    }

    #[test]
    fn every_name_of_the_manual_is_masked() {
        for name in [
            "access_token",
            "token",
            "id_token",
            "refresh_token",
            "password",
            "passwd",
            "secret",
            "client_secret",
            "api_key",
            "apikey",
            "key",
            "code",
            "signature",
            "sig",
            "auth",
            "session",
            "X-Api-Key[key]",
            "accessToken",
            "CSRF-Token",
        ] {
            assert!(is_secret(name.as_bytes()), "{name}");
            assert!(is_secret(name.to_uppercase().as_bytes()), "{name}");
        }
        assert!(is_secret(
            format!("{}_token", "long".repeat(100)).as_bytes()
        ));
        assert!(!is_secret(&[b'x'; 1000]));
        assert!(!is_secret(b""));
    }

    #[test]
    fn a_referer_loses_its_user_and_its_secrets() {
        check(
            write_url,
            &[
                ("https://app.test/a?b=1", "https://app.test/a?b=1"),
                ("https://app.test", "https://app.test"),
                (
                    "https://u:p@app.test/cb?code=x",
                    "https://app.test/cb?code=***",
                ),
                ("//u@app.test?token=x", "//app.test?token=***"),
                (
                    "https://app.test/#access_token=x",
                    "https://app.test/#access_token=***",
                ),
                ("/relative?token=x", "/relative?token=***"),
                (
                    "/a?to=https://app.test/&token=x",
                    "/a?to=https://app.test/&token=***",
                ),
                ("token=x?token=https://a@b", "token=x?token=***"),
                ("", ""),
            ],
        );
    }

    #[test]
    fn a_host_loses_its_user() {
        assert_eq!(without_userinfo(b"u:p@w@app.test:8443"), b"app.test:8443");
        assert_eq!(without_userinfo(b"app.test"), b"app.test");
        assert_eq!(without_userinfo(b"u@"), b"");
    }
}
