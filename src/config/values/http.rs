//! What requests and answers are made of: hosts, paths, methods, header fields, redirects.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue};

use super::is_dns_name;
use crate::base::path::normal_path;
use crate::base::pattern;
use crate::config::decode::{Decoder, Kind, Shape};
use crate::config::kinds::{Count, Text, Wrong};
use crate::config::node::{Node, Value};
use crate::config::route::HostMatch;
use crate::config::suggest::{listed, suggestion};

impl Text for HostMatch {
    const WHAT: &'static str = "a host";

    fn read(text: &str) -> Result<Self, Wrong> {
        let wrong = |help: &str| Wrong::new(format!("`{text}` is not a host"), help);
        if text == "*" {
            return Err(wrong("leave `host` out to match any host"));
        }
        if text.contains('/') {
            return Err(wrong("write the name only, without scheme and path"));
        }
        if let Some(address) = text
            .strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'))
        {
            return match address.parse::<Ipv6Addr>() {
                Ok(address) => Ok(Self::Exact(format!("[{address}]"))),
                Err(_) => Err(wrong("brackets are for IPv6 addresses, such as `[::1]`")),
            };
        }
        if text.parse::<Ipv6Addr>().is_ok() {
            return Err(wrong("an IPv6 address stands in brackets, such as `[::1]`"));
        }
        if text.contains(':') {
            return Err(wrong(
                "leave the port out: a route matches whatever the port",
            ));
        }
        if !text.is_ascii() {
            return Err(wrong(
                "write an international name in its ASCII form, which begins with `xn--`",
            ));
        }
        if text.ends_with('.') {
            return Err(wrong("leave the dot at the end out"));
        }
        let host = text.to_ascii_lowercase();
        if let Some(parent) = host.strip_prefix("*.")
            && is_dns_name(parent)
        {
            return Ok(Self::Wildcard(parent.to_owned()));
        }
        if host.contains('*') {
            return Err(wrong(
                "`*` stands for whole labels, and only at the front: `*.example.com`",
            ));
        }
        if is_dns_name(&host) || host.parse::<Ipv4Addr>().is_ok() {
            return Ok(Self::Exact(host));
        }
        Err(wrong(
            "write a name such as `api.example.com`, or `*.example.com`",
        ))
    }
}

/// A path, or the front of one.
#[derive(Clone, Debug)]
pub(crate) struct UrlPath(pub(crate) String);

impl Text for UrlPath {
    const WHAT: &'static str = "a path";
    const PATTERN: Option<&'static str> = Some("^/");

    fn read(text: &str) -> Result<Self, Wrong> {
        let wrong = |help: &str| Wrong::new(format!("`{text}` is not a path"), help);
        if !text.starts_with('/') {
            return Err(wrong(match text.contains("://") {
                true => "write the path only; hosts are matched by `host`",
                false => "a path begins with `/`",
            }));
        }
        if text.contains('?') {
            return Err(wrong("leave the query out: it is matched by `query`"));
        }
        if text.contains('#') {
            return Err(wrong("leave the fragment out: clients do not send it"));
        }
        if text.ends_with("/*") || text.ends_with("/**") {
            return Err(wrong("a path is a prefix already: leave the `*` out"));
        }
        if text.contains(' ') {
            return Err(wrong("write a space as `%20`"));
        }
        let normal = normal_path(text).map_err(|refused| wrong(&refused.to_string()))?;
        if text.split('/').any(|part| part == "." || part == "..") {
            return Err(wrong(&format!("write it resolved: `{}`", normal.path)));
        }
        Ok(Self(text.to_owned()))
    }
}

/// A regular expression that compiles, alone and as a match of the whole.
#[derive(Clone, Debug)]
pub(crate) struct Pattern(pub(crate) String);

impl Text for Pattern {
    const WHAT: &'static str = "a regular expression";

    fn read(text: &str) -> Result<Self, Wrong> {
        let Err(error) = pattern::compile_whole(text) else {
            return Ok(Self(text.to_owned()));
        };
        let message = format!("not a regular expression: {error}");
        let help = "the syntax is that of https://docs.rs/regex; it has no look-around";
        Err(Wrong::new(message, help))
    }
}

/// The name of a cookie (RFC 6265 §4.1.1).
#[derive(Clone, Debug)]
pub(crate) struct CookieName(pub(crate) String);

impl Text for CookieName {
    const WHAT: &'static str = "the name of a cookie";
    const PATTERN: Option<&'static str> = Some("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$");

    fn read(text: &str) -> Result<Self, Wrong> {
        let is_token =
            |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if text.is_empty() || !text.bytes().all(is_token) {
            let message = format!("`{text}` is not the name of a cookie");
            return Err(Wrong::new(
                message,
                "write letters, digits, `-` and `_`, such as `session`",
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

/// The name of a header field, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FieldName(pub(crate) String);

impl Text for FieldName {
    const WHAT: &'static str = "the name of a header field";

    fn read(text: &str) -> Result<Self, Wrong> {
        match HeaderName::from_bytes(text.as_bytes()) {
            Ok(name) => Ok(Self(name.as_str().to_owned())),
            Err(_) => {
                let message = format!("`{text}` is not the name of a header field");
                Err(Wrong::new(
                    message,
                    "write letters, digits and `-`, such as `x-env`",
                ))
            }
        }
    }
}

/// The name of a header field that filters may touch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct OpenFieldName(pub(crate) String);

impl Text for OpenFieldName {
    const WHAT: &'static str = FieldName::WHAT;

    fn read(text: &str) -> Result<Self, Wrong> {
        // RFC 9110 §7.6.1, and what frames a message.
        const OURS: [&str; 9] = [
            "connection",
            "content-length",
            "host",
            "keep-alive",
            "proxy-connection",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
        ];
        let FieldName(name) = FieldName::read(text)?;
        if OURS.contains(&name.as_str()) {
            let message = format!("`{text}` is set by the proxy itself");
            let help = match name.as_str() {
                "host" => "`set_request_headers` alone may hold it".into(),
                _ => format!("these are not for filters: {}", listed(OURS.into_iter())),
            };
            return Err(Wrong::new(message, help));
        }
        Ok(Self(name))
    }
}

/// The name of a header field of a request that filters may set: `host` as well.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SetFieldName(pub(crate) String);

impl Text for SetFieldName {
    const WHAT: &'static str = FieldName::WHAT;

    fn read(text: &str) -> Result<Self, Wrong> {
        if text.eq_ignore_ascii_case("host") {
            return Ok(Self("host".to_owned()));
        }
        OpenFieldName::read(text).map(|OpenFieldName(name)| Self(name))
    }
}

/// The value of a header field.
#[derive(Clone, Debug)]
pub(crate) struct FieldValue(pub(crate) String);

impl Text for FieldValue {
    const WHAT: &'static str = "text";

    fn read(text: &str) -> Result<Self, Wrong> {
        match HeaderValue::from_str(text) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(_) => {
                let message = "not the value of a header field";
                Err(Wrong::new(message, "a value is one line of printable text"))
            }
        }
    }
}

/// A request method.
#[derive(Clone, Debug)]
pub(crate) struct Method(pub(crate) String);

impl Text for Method {
    const WHAT: &'static str = "a method";

    fn read(text: &str) -> Result<Self, Wrong> {
        // RFC 9110 §9.3 and RFC 5789.
        const KNOWN: &str = "GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH";
        let upper = text.to_ascii_uppercase();
        if text != upper && KNOWN.split(' ').any(|known| known == upper) {
            let message = format!("`{text}` is not a method: methods are upper case");
            return Err(Wrong::new(message, format!("write `{upper}`")));
        }
        match http::Method::from_bytes(text.as_bytes()) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(_) => {
                let message = format!("`{text}` is not a method");
                Err(Wrong::new(
                    message,
                    "write a method such as `GET` or `POST`",
                ))
            }
        }
    }
}

/// The name of a query parameter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct QueryName(pub(crate) String);

impl Text for QueryName {
    const WHAT: &'static str = "the name of a query parameter";

    fn read(text: &str) -> Result<Self, Wrong> {
        match text {
            "" => Err(Wrong::new(
                "the name of a query parameter is empty",
                "write a name",
            )),
            _ => Ok(Self(text.to_owned())),
        }
    }
}

/// Where a redirect leads.
#[derive(Clone, Debug)]
pub(crate) struct RedirectTarget(pub(crate) String);

impl Text for RedirectTarget {
    const WHAT: &'static str = "a URL";

    fn read(text: &str) -> Result<Self, Wrong> {
        const PARTS: [&str; 4] = ["{scheme}", "{host}", "{path}", "{query}"];
        let wrong = |help: &str| {
            let message = format!("`{text}` is not a URL to redirect to");
            Wrong::new(message, help)
        };
        let with_host = ["https://", "http://", "{scheme}://"];
        let behind = with_host.iter().find_map(|front| text.strip_prefix(front));
        let is_path = text.starts_with("{path}") || text.starts_with('/');
        match behind {
            Some(host) if host.is_empty() || host.starts_with(['/', '?', '#']) => {
                return Err(wrong("write a host behind the scheme"));
            }
            Some(host) if host.starts_with('{') && !host.starts_with("{host}") => {
                return Err(wrong(
                    "the host must not be the client's choice: write one, or `{host}`",
                ));
            }
            None if text.starts_with("//") => return Err(wrong("write the scheme: `https://…`")),
            None if !is_path => {
                return Err(wrong(
                    "begin with `https://`, `http://`, `{scheme}://` or `/`",
                ));
            }
            Some(_) | None => {}
        }
        let is_odd = |letter: char| !letter.is_ascii_graphic() || letter == '\\';
        if text.contains(is_odd) {
            return Err(wrong(
                "write what is not printable ASCII, and `\\`, as `%20` and so on",
            ));
        }
        let mut rest = text;
        while let Some(start) = rest.find(['{', '}']) {
            let at = rest.get(start..).unwrap_or_default();
            match PARTS.iter().find(|part| at.starts_with(**part)) {
                Some(part) => rest = at.get(part.len()..).unwrap_or_default(),
                None => {
                    let end = at.find('}').map_or(at.len(), |end| end + 1);
                    let part = at.get(..end).unwrap_or(at);
                    let help = suggestion(part, "parts are", PARTS.into_iter());
                    return Err(Wrong::new(format!("unknown part `{part}`"), help));
                }
            }
        }
        Ok(Self(text.to_owned()))
    }
}

/// The status of a redirect.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RedirectStatus(pub(crate) u16);

impl Kind for RedirectStatus {
    fn decode(node: &Node, decoder: &mut Decoder) -> Option<Self> {
        let Count(status) = Count::<0, 999>::decode(node, decoder)?;
        match Self::ALL.iter().find(|known| u64::from(**known) == status) {
            Some(status) => Some(Self(*status)),
            None => {
                let help =
                    "write 301 or 308 (for good), 302 or 307 (for now), or 303 (get another)";
                decoder.problem(
                    node.place,
                    format!("{status} is not the status of a redirect"),
                    help,
                );
                None
            }
        }
    }

    fn shape() -> Shape {
        Shape::Numbers(&Self::ALL)
    }
}

impl RedirectStatus {
    const ALL: [u16; 5] = [301, 302, 303, 307, 308];
}

/// A path as a request has it, perhaps with a query.
#[derive(Clone, Debug)]
pub(crate) struct UrlTarget(pub(crate) String);

impl Text for UrlTarget {
    const WHAT: &'static str = "a path";
    const PATTERN: Option<&'static str> = Some("^/");

    fn read(text: &str) -> Result<Self, Wrong> {
        let wrong = |help: &str| Wrong::new(format!("`{text}` is not a path"), help);
        if !text.starts_with('/') {
            return Err(wrong("a path begins with `/`, such as `/healthz`"));
        }
        if text.contains('#') {
            return Err(wrong("leave out what stands behind `#`: it is never sent"));
        }
        match text.parse::<PathAndQuery>() {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(_) => Err(wrong("write special characters as `%` and two digits")),
        }
    }
}

/// A status, or all from one to another.
#[derive(Clone, Debug)]
pub(crate) struct StatusRange(pub(crate) RangeInclusive<u16>);

impl StatusRange {
    fn read(text: &str) -> Result<Self, Wrong> {
        let status = |text: &str| {
            let number = text.trim().parse::<u16>().ok();
            number.filter(|status| (200..=599).contains(status))
        };
        let ends = match text.split_once('-') {
            Some((first, last)) => (status(first), status(last)),
            None => (status(text), status(text)),
        };
        let (Some(first), Some(last)) = ends else {
            let message = format!("`{text}` is neither a status nor a range of them");
            let help = "write a status from 200 to 599, or a range such as `200-299`";
            return Err(Wrong::new(message, help));
        };
        if first > last {
            let message = format!("`{text}` ends before it begins");
            return Err(Wrong::new(message, format!("write `{last}-{first}`")));
        }
        Ok(Self(first..=last))
    }
}

impl Kind for StatusRange {
    fn decode(node: &Node, decoder: &mut Decoder) -> Option<Self> {
        let text = match &node.value {
            Value::Text(text) | Value::Filled(text) => text.clone(),
            Value::Integer(number) => number.to_string(),
            _ => {
                decoder.expected("a status or a range of them", node, None);
                return None;
            }
        };
        match Self::read(&text) {
            Ok(range) => Some(range),
            Err(wrong) => {
                decoder.problem(node.place, wrong.message, wrong.help);
                None
            }
        }
    }

    fn shape() -> Shape {
        Shape::OneOf(vec![
            Count::<200, 599>::shape(),
            Shape::Text {
                what: "a range of statuses",
                pattern: Some("^[2-5][0-9][0-9](-[2-5][0-9][0-9])?$"),
            },
        ])
    }
}
