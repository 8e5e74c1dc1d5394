//! Paths and hosts, read a second time by other code.

use std::net::Ipv6Addr;

use http::Uri;
use http::uri::Authority;

use crate::base::fuzzing::Choices;
use crate::base::host::{self, normal_host};
use crate::base::path::normal_path;
use crate::dataplane::filter::{self, Filter};
use crate::dataplane::route::HostMatch;

/// A path: refused, or brought into the one form that a second reading finds too; rewrites keep it in that.
pub fn paths(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let rewrite = choices.below(8);
    let Ok(raw) = str::from_utf8(choices.rest()) else {
        return;
    };
    let normal = normal_path(raw);
    let again = second_reading(raw);
    let told = normal.as_ref().ok();
    let told = told.map(|normal| (normal.path.to_string(), normal.has_encoded_slash));
    assert_eq!(told, again, "{raw:?}");
    let Ok(normal) = normal else {
        return;
    };
    let path = &*normal.path;
    is_normal(path);
    let Ok(mut uri) = Uri::try_from(raw) else {
        return;
    };
    if uri.path() != raw {
        return;
    }
    let filter = match rewrite {
        0 => Filter::rewrite_prefix("/a", "/b/c"),
        1 => Filter::rewrite_prefix("/a/b", "/"),
        2 => Filter::rewrite_prefix("/", "/x"),
        3 => Filter::rewrite_regex("^/a/(.*)$", "/$1"),
        4 => Filter::rewrite_regex("a", "."),
        5 => Filter::rewrite_regex("/[^/]*/", "/"),
        6 => Filter::rewrite_regex("b", "%2e%2e/"),
        _ => return,
    };
    let mut parts = http::Request::new(()).into_parts().0;
    parts.uri = uri.clone();
    if filter::on_request(&[filter.expect("it is one")], &mut parts).is_ok() && parts.uri != uri {
        uri = parts.uri;
        is_normal(uri.path());
    }
}

/// Nothing is left to be resolved, and nothing is above the root.
fn is_normal(path: &str) {
    let again = normal_path(path).expect("the form of a form is itself");
    assert_eq!(again.path, path);
    if path == "*" {
        return;
    }
    assert!(path.starts_with('/') && path.is_ascii(), "{path}");
    let segments: Vec<_> = path.split('/').skip(1).collect();
    let (last, front) = segments.split_last().expect("there is one");
    assert!(front.iter().all(|segment| !segment.is_empty()), "{path}");
    assert!(
        !segments.contains(&".") && !segments.contains(&".."),
        "{path}"
    );
    assert!(!last.contains('?'), "{path}");
}

/// The form of RFC 3986 §6.2.2 with our three decisions, by segments of bytes that remember whether they were escaped.
fn second_reading(raw: &str) -> Option<(String, bool)> {
    if raw.is_empty() || raw == "*" {
        return Some((if raw.is_empty() { "/" } else { "*" }.to_owned(), false));
    }
    let mut segments = Vec::new();
    for segment in raw.strip_prefix('/')?.split('/') {
        segments.push(decode(segment.as_bytes())?);
    }
    let slash = |(byte, escaped): &(u8, bool)| *byte == b'\\' || (*byte == b'/' && *escaped);
    let has_slash = segments.iter().flatten().any(slash);
    let ends_open = {
        let last = segments.last().map(|last| plain(last)).unwrap_or_default();
        matches!(&last[..], b"" | b"." | b"..")
    };
    let mut kept: Vec<&Vec<(u8, bool)>> = Vec::new();
    let mut has_empty = false;
    let count = segments.len();
    for (nth, segment) in segments.iter().enumerate() {
        match &plain(segment)[..] {
            b"" => has_empty |= nth + 1 < count,
            b"." => {}
            b".." if has_empty => return None,
            b".." => drop(kept.pop()),
            [b'.', b'.', b';', ..] | [b'.', b';', ..] => return None,
            _ => kept.push(segment),
        }
    }
    let mut path = String::new();
    for segment in kept {
        path.push('/');
        for (byte, escaped) in segment {
            let is_unreserved = byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
            let is_raw = is_unreserved || (!escaped && b":@!$&'()*+,;=".contains(byte));
            match is_raw {
                true => path.push(char::from(*byte)),
                false => path.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    if ends_open {
        path.push('/');
    }
    Some((path, has_slash))
}

fn plain(segment: &[(u8, bool)]) -> Vec<u8> {
    segment.iter().map(|(byte, _)| *byte).collect()
}

fn decode(mut segment: &[u8]) -> Option<Vec<(u8, bool)>> {
    let mut bytes = Vec::new();
    while let Some((byte, rest)) = segment.split_first() {
        segment = rest;
        match byte {
            b'%' => {
                let digits = str::from_utf8(segment.get(..2)?).ok()?;
                let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
                let value = u8::from_str_radix(digits, 16).ok().filter(|_| is_hex)?;
                if value == 0 {
                    return None;
                }
                bytes.push((value, true));
                segment = &segment[2..];
            }
            b'?' | b'#' | 0..=0x1f | 0x7f => return None,
            byte => bytes.push((*byte, false)),
        }
    }
    Some(bytes)
}

/// A value of `Host`: refused, or brought into a form that is its own, and that the type of an authority agrees with.
pub fn hosts(bytes: &[u8]) {
    let Ok(value) = str::from_utf8(bytes) else {
        return;
    };
    let Ok(normal) = normal_host(value) else {
        return;
    };
    assert_eq!(normal_host(&normal).ok().as_deref(), Some(&*normal));
    assert!(
        !normal
            .bytes()
            .any(|byte| byte.is_ascii_uppercase() || byte <= b' ' || byte == b'@')
    );
    let address = |text: &str| {
        let inner = text.strip_prefix('[')?.strip_suffix(']')?;
        inner.parse::<Ipv6Addr>().ok()
    };
    assert_eq!(normal.contains(':'), address(&normal).is_some());
    if let Ok(authority) = Authority::try_from(value) {
        let theirs = authority.host();
        match address(theirs) {
            Some(theirs) => assert_eq!(address(&normal), Some(theirs)),
            None => {
                let theirs = theirs.strip_suffix('.').unwrap_or(theirs);
                assert_eq!(theirs.to_ascii_lowercase(), *normal);
            }
        }
        assert_eq!(authority.port_u16(), host::port(value), "{value}");
    }
    let exact = HostMatch::exact(value).expect("it is a host");
    assert!(exact.holds(&normal));
    let is_name = !normal.starts_with('[');
    if let Some((_, suffix)) = normal.split_once('.').filter(|_| is_name) {
        let wildcard = HostMatch::wildcard(suffix).expect("a part of a host is one");
        assert!(wildcard.holds(&normal) && !wildcard.holds(suffix));
    }
}
