//! The one normal form of a request path, in which routes are matched and rewrites are made.
//!
//! Routes, rewrites and the operator's own patterns go through [`normal_path`], so that two spellings of one path
//! can never be told apart. What the endpoint receives is the path as it came, unless a filter rewrites it.
//! The form is RFC 3986 §6.2.2, with three decisions of our own:
//!
//! - `//` is one slash, as file systems and most servers read it. Where `..` follows it that reading and the
//!   RFC's part, so such a path is refused.
//! - A segment that is `.` or `..` with a parameter (`..;`) is refused: some servers drop the parameter first.
//! - What a path may not hold raw (RFC 3986 §3.3: non-ASCII, backslash, braces, …) is percent-encoded. Escapes of
//!   anything but unreserved characters stay encoded, overlong and invalid UTF-8 among them, `%2F` above all.

use std::borrow::Cow;
use std::fmt;

/// A path in normal form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NormalPath<'a> {
    /// The normal form; borrowed if the path already had it.
    pub path: Cow<'a, str>,
    /// Whether there is `%2F`, `%5C` or a backslash, which servers disagree about: refuse the request unless its
    /// route allows it.
    pub has_encoded_slash: bool,
}

/// Why a path has no normal form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathRefused {
    /// It does not begin with a slash (and is not the `*` of OPTIONS).
    Relative,
    /// `%` is not followed by two hex digits.
    EscapeInvalid,
    /// It holds `%00`.
    Null,
    /// It holds a control byte.
    Control,
    /// It holds `?` or `#`, which end a path.
    QueryOrFragment,
    /// It holds `..` after `//`, which servers read differently.
    DotsAfterEmpty,
    /// It holds a dot segment with a parameter, such as `..;`, which servers read differently.
    DotsWithParameter,
}

impl fmt::Display for PathRefused {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Relative => "a path begins with `/`",
            Self::EscapeInvalid => "`%` must be followed by two hex digits",
            Self::Null => "a path may not hold `%00`",
            Self::Control => "a path may not hold control characters",
            Self::QueryOrFragment => "a path may not hold `?` or `#`",
            Self::DotsAfterEmpty => "a path may not hold `..` after `//`",
            Self::DotsWithParameter => "a path may not hold `.;` or `..;`",
        })
    }
}

/// Brings a path, without its query, into normal form.
///
/// An empty path is `/`; `*` stays as it is. `..` above the root stays at the root (RFC 3986 §5.2.4). A path that
/// is plainly normal costs one pass over its bytes and no allocation. The form of a form is itself.
///
/// # Errors
/// [`PathRefused`] if the path has no normal form that every server would agree with.
pub fn normal_path(raw: &str) -> Result<NormalPath<'_>, PathRefused> {
    if is_plain(raw) {
        return Ok(NormalPath {
            path: Cow::Borrowed(raw),
            has_encoded_slash: false,
        });
    }
    match raw.strip_prefix('/') {
        Some(rest) => normalize(raw, rest),
        None if raw.is_empty() => Ok(NormalPath {
            path: Cow::Borrowed("/"),
            has_encoded_slash: false,
        }),
        None if raw == "*" => Ok(NormalPath {
            path: Cow::Borrowed(raw),
            has_encoded_slash: false,
        }),
        None => Err(PathRefused::Relative),
    }
}

/// Whether `path` begins with `prefix` by whole segments; gives what follows, empty or beginning with a slash.
///
/// Both are in normal form, the prefix without a slash at its end (the root is the empty prefix).
pub fn strip_segments<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(prefix)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

/// Whether a path is in normal form at first sight: no escape, no odd byte, no empty segment, and no segment
/// that begins with a dot.
fn is_plain(raw: &str) -> bool {
    let mut bytes = raw.bytes();
    if bytes.next() != Some(b'/') {
        return false;
    }
    let mut after_slash = true;
    bytes.all(|byte| {
        let fits = is_raw(byte) && !(after_slash && matches!(byte, b'/' | b'.'));
        after_slash = byte == b'/';
        fits
    })
}

fn normalize<'a>(raw: &'a str, rest: &str) -> Result<NormalPath<'a>, PathRefused> {
    // Three bytes for each raw one at worst; paths that get here seldom grow.
    let mut path = String::with_capacity(raw.len() + 16);
    let mut has_encoded_slash = false;
    let mut has_empty = false;
    let mut segments = rest.split('/').peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        if segment.is_empty() && !is_last {
            has_empty = true;
            continue;
        }
        let start = path.len();
        path.push('/');
        has_encoded_slash |= push_segment(&mut path, segment)?;
        match path.get(start + 1..).unwrap_or_default() {
            "." => path.truncate(start),
            ".." if has_empty => return Err(PathRefused::DotsAfterEmpty),
            ".." => {
                path.truncate(start);
                path.truncate(path.rfind('/').unwrap_or_default());
            }
            text if has_dots_with_parameter(text) => return Err(PathRefused::DotsWithParameter),
            _ => continue,
        }
        // A path that ends in a dot segment names a directory.
        if is_last {
            path.push('/');
        }
    }
    let path = if path == raw {
        Cow::Borrowed(raw)
    } else {
        Cow::Owned(path)
    };
    Ok(NormalPath {
        path,
        has_encoded_slash,
    })
}

/// Appends the normal form of one segment; says whether it holds an encoded slash or a backslash.
fn push_segment(path: &mut String, segment: &str) -> Result<bool, PathRefused> {
    let mut has_encoded_slash = false;
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let (Some(high), Some(low)) = (hex(bytes.next()), hex(bytes.next())) else {
                    return Err(PathRefused::EscapeInvalid);
                };
                let value = high << 4 | low;
                match value {
                    0 => return Err(PathRefused::Null),
                    _ if is_unreserved(value) => path.push(char::from(value)),
                    _ => push_escape(path, value),
                }
                has_encoded_slash |= matches!(value, b'/' | b'\\');
            }
            0..=0x1f | 0x7f => return Err(PathRefused::Control),
            b'?' | b'#' => return Err(PathRefused::QueryOrFragment),
            _ if is_raw(byte) => path.push(char::from(byte)),
            _ => {
                has_encoded_slash |= byte == b'\\';
                push_escape(path, byte);
            }
        }
    }
    Ok(has_encoded_slash)
}

fn has_dots_with_parameter(segment: &str) -> bool {
    segment.strip_prefix('.').is_some_and(|rest| {
        let rest = rest.strip_prefix('.').unwrap_or(rest);
        rest.starts_with(';') || rest.starts_with("%3B")
    })
}

/// Appends a byte percent-encoded, in upper case (RFC 3986 §2.1).
pub fn push_escape(text: &mut String, byte: u8) {
    text.push('%');
    for nibble in [byte >> 4, byte & 0xf] {
        let digit = char::from_digit(u32::from(nibble), 16).expect("a nibble is below sixteen");
        text.push(digit.to_ascii_uppercase());
    }
}

fn hex(byte: Option<u8>) -> Option<u8> {
    match byte? {
        digit @ b'0'..=b'9' => Some(digit - b'0'),
        upper @ b'A'..=b'F' => Some(upper - b'A' + 10),
        lower @ b'a'..=b'f' => Some(lower - b'a' + 10),
        _ => None,
    }
}

/// RFC 3986 §2.3.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// What a path may hold unescaped: `pchar` of RFC 3986 §3.3, and the slash.
const fn is_path_character(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(
            byte,
            b'/' | b':'
                | b'@'
                | b'!'
                | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b','
                | b';'
                | b'='
        )
}

/// [`is_path_character`] by table: every byte of every request's path is asked.
fn is_raw(byte: u8) -> bool {
    const RAW: [bool; 256] = {
        let mut raw = [false; 256];
        let mut byte = 0;
        while byte < raw.len() {
            raw[byte] = is_path_character(byte as u8);
            byte += 1;
        }
        raw
    };
    RAW[usize::from(byte)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Checks a path, its form, and whether an encoded slash was seen.
    #[track_caller]
    fn check(raw: &str, expected: Result<(&str, bool), PathRefused>) {
        let found = normal_path(raw);
        let found = found
            .as_ref()
            .map(|normal| (normal.path.as_ref(), normal.has_encoded_slash))
            .map_err(|refused| *refused);
        assert_eq!(found, expected, "{raw:?}");
    }

    #[test]
    fn a_normal_path_stays_as_it_is_and_is_borrowed() {
        for raw in [
            "/",
            "/a",
            "/a/",
            "/a/b/c.html",
            "/v1.0/x..y/z...",
            "/a-b_c~d/!$&'()*+,;=:@",
            "/;v=1/x;a",
            "/.hidden",
            "/.well-known/acme-challenge/t",
            "/...",
            "/..a/.b",
            "/a/%20/%C3%A9",
            "/%C0%AF",
            "/%252e%252e/",
            "/%E2%80%AE",
            "/%25",
            "*",
        ] {
            check(raw, Ok((raw, false)));
            assert!(
                matches!(normal_path(raw).unwrap().path, Cow::Borrowed(_)),
                "{raw}"
            );
        }
    }

    #[test]
    fn dot_segments_are_resolved_however_they_are_spelt() {
        for (raw, expected) in [
            ("", "/"),
            ("/.", "/"),
            ("/./", "/"),
            ("/..", "/"),
            ("/../", "/"),
            ("/../../../x", "/x"),
            ("/a/.", "/a/"),
            ("/a/./b", "/a/b"),
            ("/a/..", "/"),
            ("/a/../", "/"),
            ("/a/b/..", "/a/"),
            ("/a/b/../c", "/a/c"),
            ("/a/b/../../c", "/c"),
            ("/a/b/../../../c", "/c"),
            ("/a/b/./../c/.", "/a/c/"),
            ("/%2e", "/"),
            ("/%2E%2e", "/"),
            ("/%2e./x", "/x"),
            ("/.%2e/x", "/x"),
            ("/a/%2e%2e/b", "/b"),
            ("/a/%2E/b", "/a/b"),
            ("/public/%2e%2e/admin", "/admin"),
            ("/a/%2e%2e%2e/b", "/a/.../b"),
            ("/a/...", "/a/..."),
        ] {
            check(raw, Ok((expected, false)));
        }
    }

    #[test]
    fn slashes_are_merged() {
        for (raw, expected) in [
            ("//", "/"),
            ("///", "/"),
            ("//a", "/a"),
            ("/a//b", "/a/b"),
            ("/a//", "/a/"),
            ("/a/.//b", "/a/b"),
            ("//evil.example.com/x", "/evil.example.com/x"),
            ("/a/../b//c", "/b/c"),
            ("/a//./b", "/a/b"),
        ] {
            check(raw, Ok((expected, false)));
        }
    }

    #[test]
    fn escapes_have_one_spelling() {
        for (raw, expected) in [
            ("/%61%62", "/ab"),
            ("/%41%5a", "/AZ"),
            ("/%2d%2e%5f%7e", "/-._~"),
            ("/%7Euser", "/~user"),
            ("/%c3%a9", "/%C3%A9"),
            ("/é", "/%C3%A9"),
            ("/%c0%af", "/%C0%AF"),
            ("/%c0%ae%c0%ae/x", "/%C0%AE%C0%AE/x"),
            ("/%e2%80%ae", "/%E2%80%AE"),
            ("/%ff", "/%FF"),
            ("/%3b", "/%3B"),
            ("/%3a%40", "/%3A%40"),
            ("/a%3fb%23c", "/a%3Fb%23c"),
            ("/%0d%0a", "/%0D%0A"),
            ("/%01", "/%01"),
            ("/%7f", "/%7F"),
            ("/a b", "/a%20b"),
            ("/{x}|^`\"<>[]", "/%7Bx%7D%7C%5E%60%22%3C%3E%5B%5D"),
            ("/%252f", "/%252f"),
            ("/%25%32%65", "/%252e"),
        ] {
            check(raw, Ok((expected, false)));
        }
    }

    #[test]
    fn encoded_slashes_and_backslashes_stay_encoded_and_are_told() {
        for (raw, expected) in [
            ("/a%2Fb", "/a%2Fb"),
            ("/a%2fb", "/a%2Fb"),
            ("/a%5cb", "/a%5Cb"),
            ("/a\\b", "/a%5Cb"),
            ("/..%2fadmin", "/..%2Fadmin"),
            ("/..%5cadmin", "/..%5Cadmin"),
            ("/a/..\\b", "/a/..%5Cb"),
            ("/%2f", "/%2F"),
            ("/x%2F/../a", "/a"),
        ] {
            check(raw, Ok((expected, true)));
        }
    }

    #[test]
    fn what_servers_read_differently_is_refused() {
        use PathRefused::{
            Control, DotsAfterEmpty, DotsWithParameter, EscapeInvalid, Null, QueryOrFragment,
            Relative,
        };
        for (raw, expected) in [
            ("a", Relative),
            ("a/b", Relative),
            ("**", Relative),
            ("%2Fa", Relative),
            ("http://a/b", Relative),
            ("\\a", Relative),
            ("/%", EscapeInvalid),
            ("/%4", EscapeInvalid),
            ("/%zz", EscapeInvalid),
            ("/%2", EscapeInvalid),
            ("/%%32%65", EscapeInvalid),
            ("/%u002e", EscapeInvalid),
            ("/%2/e", EscapeInvalid),
            ("/%+1", EscapeInvalid),
            ("/%é", EscapeInvalid),
            ("/%00", Null),
            ("/a%00.html", Null),
            ("/a\0", Control),
            ("/a\tb", Control),
            ("/a\r\nb", Control),
            ("/a\x7f", Control),
            ("/a?b", QueryOrFragment),
            ("/a#b", QueryOrFragment),
            ("/admin/x//../../public", DotsAfterEmpty),
            ("//../x", DotsAfterEmpty),
            ("/a//%2e%2e/b", DotsAfterEmpty),
            ("/public/..;/admin", DotsWithParameter),
            ("/public/..;a=b/admin", DotsWithParameter),
            ("/public/%2e%2e;/admin", DotsWithParameter),
            ("/public/..%3b/admin", DotsWithParameter),
            ("/.;/admin", DotsWithParameter),
            ("/a/..;", DotsWithParameter),
        ] {
            check(raw, Err(expected));
        }
    }

    #[test]
    fn a_very_long_path_is_one_like_any_other() {
        let long = "/a".repeat(30_000);
        check(&long, Ok((&long, false)));
        let up = format!("{long}{}", "/..".repeat(30_000));
        check(&up, Ok(("/", false)));
        let nothing = "/.".repeat(30_000);
        check(&nothing, Ok(("/", false)));
    }

    #[test]
    fn prefixes_end_between_segments() {
        assert_eq!(strip_segments("/v1/x", "/v1"), Some("/x"));
        assert_eq!(strip_segments("/v1", "/v1"), Some(""));
        assert_eq!(strip_segments("/v10", "/v1"), None);
        assert_eq!(strip_segments("/v10", ""), Some("/v10"));
        assert_eq!(strip_segments("*", ""), None);
    }

    proptest! {
        #[test]
        fn the_form_of_a_form_is_itself(raw in "[/./%2eEfF5cC;a?\\\\ é]{0,24}") {
            if let Ok(normal) = normal_path(&raw) {
                let again = normal_path(&normal.path).unwrap();
                prop_assert_eq!(&again.path, &normal.path);
                prop_assert!(matches!(again.path, Cow::Borrowed(_)));
            }
        }

        #[test]
        fn a_form_has_no_dot_segment_and_no_empty_one(raw in "(/|\\.|%2e|%2E|a|%61|%2f){0,16}") {
            if let Ok(normal) = normal_path(&format!("/{raw}")) {
                let path = normal.path.strip_prefix('/').unwrap();
                let inner = path.strip_suffix('/').unwrap_or(path);
                prop_assert!(inner.is_empty() || inner.split('/').all(|s| !matches!(s, "" | "." | "..")));
            }
        }

        #[test]
        fn nothing_panics(raw in any::<String>(), bytes in any::<Vec<u8>>()) {
            for text in [raw.as_str(), &String::from_utf8_lossy(&bytes)] {
                let form = normal_path(text).map(|normal| normal.path.into_owned());
                prop_assert!(form.is_err() || form.unwrap().is_ascii());
            }
        }
    }
}
