//! Conditions on header fields and query parameters.
//!
//! A field or parameter that occurs several times meets a condition if one of its values does.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName};
use regex::Regex;

use crate::base::pattern::{PatternInvalid, compile_whole};

/// A condition on a value.
#[derive(Clone, Debug)]
pub enum ValueMatch {
    /// Just this value.
    Exact(Box<str>),
    /// Values that are text and that the expression matches as a whole; made by [`ValueMatch::regex`].
    Regex(Regex),
    /// There (`true`) or not there (`false`), whatever the value.
    Present(bool),
}

impl ValueMatch {
    /// Values that the expression matches as a whole.
    ///
    /// # Errors
    /// [`PatternInvalid`] if it does not compile.
    pub fn regex(pattern: &str) -> Result<Self, PatternInvalid> {
        Ok(Self::Regex(compile_whole(pattern)?))
    }
}

/// Whether a header meets the condition on its field `name`.
pub(super) fn header_holds(headers: &HeaderMap, name: &HeaderName, condition: &ValueMatch) -> bool {
    match condition {
        ValueMatch::Present(expected) => headers.contains_key(name) == *expected,
        ValueMatch::Exact(exact) => headers
            .get_all(name)
            .iter()
            .any(|value| value.as_bytes() == exact.as_bytes()),
        ValueMatch::Regex(pattern) => headers.get_all(name).iter().any(|value| {
            std::str::from_utf8(value.as_bytes()).is_ok_and(|text| pattern.is_match(text))
        }),
    }
}

/// Whether a query meets the condition on its parameter `name`.
///
/// Names and values are compared decoded as forms encode them: `%XX`, and `+` for a space. Only an expression
/// over a value with escapes allocates.
pub(super) fn query_holds(query: Option<&str>, name: &str, condition: &ValueMatch) -> bool {
    let mut values = query
        .unwrap_or_default()
        .split('&')
        .filter(|parameter| !parameter.is_empty())
        .map(|parameter| parameter.split_once('=').unwrap_or((parameter, "")))
        .filter(|(raw, _)| is_decoded(raw, name))
        .map(|(_, value)| value);
    match condition {
        ValueMatch::Present(expected) => values.next().is_some() == *expected,
        ValueMatch::Exact(exact) => values.any(|value| is_decoded(value, exact)),
        ValueMatch::Regex(pattern) => {
            values.any(|value| decode(value).is_some_and(|text| pattern.is_match(&text)))
        }
    }
}

/// Whether `raw` decodes to `text`.
fn is_decoded(raw: &str, text: &str) -> bool {
    decoded_bytes(raw).eq(text.bytes())
}

/// The text that `raw` decodes to, if it is text.
fn decode(raw: &str) -> Option<Cow<'_, str>> {
    if !raw.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
        return Some(Cow::Borrowed(raw));
    }
    String::from_utf8(decoded_bytes(raw).collect())
        .ok()
        .map(Cow::Owned)
}

/// A `%` that begins no escape stands for itself, as browsers and form decoders have it.
fn decoded_bytes(raw: &str) -> impl Iterator<Item = u8> {
    let mut rest = raw.as_bytes();
    std::iter::from_fn(move || {
        if let [b'%', high, low, tail @ ..] = rest
            && let (Some(high), Some(low)) = (hex(*high), hex(*low))
        {
            rest = tail;
            return Some(high << 4 | low);
        }
        let (byte, tail) = rest.split_first()?;
        rest = tail;
        Some(if *byte == b'+' { b' ' } else { *byte })
    })
}

fn hex(byte: u8) -> Option<u8> {
    // A hex digit is below sixteen, so the cast cannot cut.
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn exact(value: &str) -> ValueMatch {
        ValueMatch::Exact(value.into())
    }

    #[test]
    fn one_value_of_several_is_enough() {
        let name = HeaderName::from_static("x-env");
        let mut headers = HeaderMap::new();
        headers.append(&name, HeaderValue::from_static("prod"));
        headers.append(&name, HeaderValue::from_static("test 7"));
        headers.append(&name, HeaderValue::from_bytes(b"\xff").unwrap());
        for (condition, expected) in [
            (exact("prod"), true),
            (exact("test 7"), true),
            (exact("PROD"), false),
            (exact("test"), false),
            (ValueMatch::regex("test [0-9]").unwrap(), true),
            (ValueMatch::regex("test").unwrap(), false),
            (ValueMatch::Present(true), true),
            (ValueMatch::Present(false), false),
        ] {
            assert_eq!(
                header_holds(&headers, &name, &condition),
                expected,
                "{condition:?}"
            );
        }
        let absent = HeaderName::from_static("x-none");
        assert!(header_holds(&headers, &absent, &ValueMatch::Present(false)));
        assert!(!header_holds(&headers, &absent, &exact("")));
    }

    #[test]
    fn query_parameters_are_compared_decoded() {
        for (query, name, condition, expected) in [
            ("a=1&b=2", "b", exact("2"), true),
            ("a=1&b=2", "c", ValueMatch::Present(false), true),
            ("a=1&a=2", "a", exact("2"), true),
            ("a", "a", exact(""), true),
            ("a", "a", ValueMatch::Present(true), true),
            ("a=", "a", exact(""), true),
            ("aa=1", "a", ValueMatch::Present(true), false),
            ("a=b=c", "a", exact("b=c"), true),
            ("%61=%31", "a", exact("1"), true),
            ("a=x+y%20z", "a", exact("x y z"), true),
            ("a=%2B", "a", exact("+"), true),
            ("a=100%", "a", exact("100%"), true),
            ("a=%zz", "a", exact("%zz"), true),
            ("a=%2", "a", exact("%2"), true),
            ("a=%C3%A9", "a", exact("é"), true),
            ("a=%C3%A9", "a", ValueMatch::regex("é").unwrap(), true),
            ("a=%FF", "a", ValueMatch::regex(".*").unwrap(), false),
            ("a=12", "a", ValueMatch::regex("[0-9]").unwrap(), false),
            ("&&a=1&", "", ValueMatch::Present(true), false),
            ("", "a", ValueMatch::Present(true), false),
        ] {
            assert_eq!(
                query_holds(Some(query), name, &condition),
                expected,
                "{query} {condition:?}"
            );
        }
        assert!(query_holds(None, "a", &ValueMatch::Present(false)));
    }
}
