//! The one normal form of a host, in which routes and certificates are matched.
//!
//! The value of `Host` or `:authority` comes from the client (RFC 9110 §7.2, RFC 3986 §3.2.2). We take names of
//! letters, digits, `-`, `_` and `.`, IPv4 addresses and bracketed IPv6 addresses. Percent-encoding and the
//! delimiters that the grammar of a registered name allows do not occur in names that resolve, and are refused.

use std::borrow::Cow;
use std::fmt;
use std::net::Ipv6Addr;

/// The longest value accepted, port included.
pub const HOST_LIMIT: usize = 255;

/// Why a value is not a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostInvalid {
    /// There is no host.
    Empty,
    /// It is longer than [`HOST_LIMIT`].
    TooLong,
    /// It holds a character that no host has.
    Character,
    /// Two dots stand side by side, or one stands in front.
    LabelEmpty,
    /// The address in brackets is not an IPv6 address.
    Address,
    /// What follows the colon is not a port.
    Port,
}

impl fmt::Display for HostInvalid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Empty => "a host may not be empty",
            Self::TooLong => "a host has at most 255 characters",
            Self::Character => "a host has only letters, digits, `-`, `_` and `.`",
            Self::LabelEmpty => "a host may not begin with a dot or hold two in a row",
            Self::Address => "what stands in brackets must be an IPv6 address",
            Self::Port => "a port is a number up to 65535",
        })
    }
}

/// Brings the value of `Host` or `:authority` into normal form: lower case, without port and without the dot at
/// the end; an IPv6 address in brackets and in its shortest form. Borrowed if nothing but the end was cut off.
///
/// # Errors
/// [`HostInvalid`] if the value is not a host with an optional port. User information is never accepted.
pub fn normal_host(value: &str) -> Result<Cow<'_, str>, HostInvalid> {
    if value.len() > HOST_LIMIT {
        return Err(HostInvalid::TooLong);
    }
    let (host, port) = split(value)?;
    if let Some(port) = port
        && !port.is_empty()
        && parse_port(port).is_none()
    {
        return Err(HostInvalid::Port);
    }
    if let Some(address) = host.strip_prefix('[') {
        return normal_address(host, address);
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    let mut has_upper = false;
    let mut after_dot = true;
    for byte in host.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => after_dot = false,
            b'A'..=b'Z' => {
                after_dot = false;
                has_upper = true;
            }
            b'.' if after_dot => return Err(HostInvalid::LabelEmpty),
            b'.' => after_dot = true,
            _ => return Err(HostInvalid::Character),
        }
    }
    match (host.is_empty(), after_dot, has_upper) {
        (true, _, _) => Err(HostInvalid::Empty),
        (false, true, _) => Err(HostInvalid::LabelEmpty),
        (false, false, true) => Ok(Cow::Owned(host.to_ascii_lowercase())),
        (false, false, false) => Ok(Cow::Borrowed(host)),
    }
}

/// The port of a `Host` or `:authority` value, if it names one.
pub fn port(value: &str) -> Option<u16> {
    parse_port(split(value).ok()?.1?)
}

/// Splits a value into host, brackets included, and what follows its colon.
fn split(value: &str) -> Result<(&str, Option<&str>), HostInvalid> {
    if value.starts_with('[') {
        let end = value.find(']').ok_or(HostInvalid::Address)?;
        let (host, rest) = value.split_at(end + 1);
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(HostInvalid::Character),
        };
    }
    Ok(match value.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (value, None),
    })
}

fn parse_port(text: &str) -> Option<u16> {
    // `parse` would also take a plus sign.
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then_some(())?;
    text.parse().ok()
}

fn normal_address<'a>(host: &'a str, address: &str) -> Result<Cow<'a, str>, HostInvalid> {
    let address: Ipv6Addr = address
        .strip_suffix(']')
        .and_then(|address| address.parse().ok())
        .ok_or(HostInvalid::Address)?;
    let normal = format!("[{address}]");
    Ok(if normal == host {
        Cow::Borrowed(host)
    } else {
        Cow::Owned(normal)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_host_is_taken_in_lower_case_without_its_port() {
        for (value, host, port_expected) in [
            ("example.com", "example.com", None),
            ("EXAMPLE.com", "example.com", None),
            ("example.com:80", "example.com", Some(80)),
            ("Example.COM:8443", "example.com", Some(8443)),
            ("example.com:", "example.com", None),
            ("example.com:0", "example.com", Some(0)),
            ("example.com:00443", "example.com", Some(443)),
            ("example.com:65535", "example.com", Some(65535)),
            ("example.com.", "example.com", None),
            ("example.com.:443", "example.com", Some(443)),
            ("localhost", "localhost", None),
            ("a", "a", None),
            ("my_service", "my_service", None),
            ("xn--bcher-kva.example", "xn--bcher-kva.example", None),
            ("-odd-", "-odd-", None),
            ("10.0.0.1", "10.0.0.1", None),
            ("10.0.0.1:8080", "10.0.0.1", Some(8080)),
            ("[::1]", "[::1]", None),
            ("[::1]:8080", "[::1]", Some(8080)),
            ("[::1]:", "[::1]", None),
            ("[2001:DB8::1]", "[2001:db8::1]", None),
            ("[2001:db8:0:0:0:0:0:1]", "[2001:db8::1]", None),
            ("[::ffff:10.0.0.1]", "[::ffff:10.0.0.1]", None),
        ] {
            assert_eq!(normal_host(value).as_deref(), Ok(host), "{value}");
            assert_eq!(port(value), port_expected, "{value}");
        }
    }

    #[test]
    fn what_is_not_a_host_is_refused() {
        use HostInvalid::{Address, Character, Empty, LabelEmpty, Port};
        for (value, expected) in [
            ("", Empty),
            (".", Empty),
            (":80", Empty),
            (".:80", Empty),
            (".example.com", LabelEmpty),
            ("example..com", LabelEmpty),
            ("example.com..", LabelEmpty),
            ("..", LabelEmpty),
            ("user@example.com", Character),
            ("user:pw@example.com", Port),
            ("example.com/", Character),
            ("example.com/path", Character),
            ("example.com?x", Character),
            ("example.com#x", Character),
            ("http://example.com", Port),
            ("example.com ", Character),
            (" example.com", Character),
            ("exa mple.com", Character),
            ("example.com\t", Character),
            ("a.com,b.com", Character),
            ("a.com;b.com", Character),
            ("*.example.com", Character),
            ("ex%61mple.com", Character),
            ("bücher.example", Character),
            ("example.com\0", Character),
            ("example\\.com", Character),
            ("example.com:http", Port),
            ("example.com:65536", Port),
            ("example.com:-1", Port),
            ("example.com:+80", Port),
            ("example.com:80:80", Port),
            ("example.com:80 ", Port),
            ("::1", Port),
            ("[::1", Address),
            ("[]", Address),
            ("[::1]x", Character),
            ("[::1]80", Character),
            ("[::1]:x", Port),
            ("[::1%25eth0]", Address),
            ("[::1%eth0]", Address),
            ("[v1.x]", Address),
            ("[10.0.0.1]", Address),
            ("[[::1]]", Character),
            ("]", Character),
        ] {
            assert_eq!(normal_host(value), Err(expected), "{value:?}");
        }
    }

    #[test]
    fn a_host_has_at_most_255_bytes() {
        let longest = "a".repeat(HOST_LIMIT);
        assert_eq!(normal_host(&longest).as_deref(), Ok(longest.as_str()));
        let longer = "a".repeat(HOST_LIMIT + 1);
        assert_eq!(normal_host(&longer), Err(HostInvalid::TooLong));
    }

    #[test]
    fn a_normal_host_is_borrowed() {
        for value in ["example.com", "example.com:443", "example.com.", "[::1]:80"] {
            assert!(
                matches!(normal_host(value), Ok(Cow::Borrowed(_))),
                "{value}"
            );
        }
    }

    proptest! {
        #[test]
        fn the_form_of_a_form_is_itself(value in "[aA.:0\\[\\]-]{0,12}|\\[[0:a-fA-F.]{1,20}\\](:[0-9]{0,5})?") {
            if let Ok(host) = normal_host(&value) {
                prop_assert_eq!(normal_host(&host), Ok(Cow::Borrowed(host.as_ref())));
            }
        }

        #[test]
        fn nothing_panics(value in any::<String>()) {
            let host = normal_host(&value);
            prop_assert!(host.is_err() || port(&value).is_none() || value.contains(':'));
        }
    }
}
