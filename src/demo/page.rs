//! The demo's page: one HTML file, filled in with what a backend knows about the request.
//!
//! `backend` renders it for `/`. It promises that whatever a request carries arrives as text, never as markup,
//! and that the page asks nobody but the backend for anything. It works without scripts; with them it asks again
//! by itself, keeps a WebSocket and an event stream open, and shows the answers as they come.

use std::fmt::Write as _;

use http::request;

use super::backend::Backend;

/// Nothing from outside, nothing in frames; what the page needs stands in it.
pub(super) const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; \
    script-src 'unsafe-inline'; connect-src 'self'; img-src data:; form-action 'self'; \
    base-uri 'none'; frame-ancestors 'none'";

const TEMPLATE: &str = include_str!("page.html");

/// The page as this backend answers this request.
pub(super) fn render(backend: &Backend, request: &request::Parts) -> String {
    let mut fields = String::new();
    for (name, value) in &request.headers {
        let class = if is_told(name.as_str()) {
            " class=\"told\""
        } else {
            ""
        };
        let (name, value) = (escape(name.as_str()), escape(&text(value.as_bytes())));
        // Writing to a text does not fail.
        let _ = write!(
            fields,
            "<tr{class}><th scope=\"row\">{name}</th><td>{value}</td></tr>"
        );
    }
    let is_proxied = request.headers.contains_key("x-forwarded-proto");
    let is_secure = request
        .headers
        .get("x-forwarded-proto")
        .is_some_and(|proto| proto == "https");
    let (way, hop) = match (is_proxied, is_secure) {
        (true, true) => ("proxied", "HTTPS"),
        (true, false) => ("proxied", "HTTP"),
        (false, _) => ("direct", "HTTP"),
    };
    let editable = if backend.config.is_some() {
        ""
    } else {
        "hidden"
    };
    let mut page = String::with_capacity(TEMPLATE.len() + 4096);
    let mut rest = TEMPLATE;
    // One pass over the template: a value that looks like a marker stays what it is.
    while let Some((before, marker, after)) = next_marker(rest) {
        page.push_str(before);
        match marker {
            "name" => page.push_str(&escape(&backend.name)),
            "hue" => page.push_str(&hue(&backend.name).to_string()),
            "way" => page.push_str(way),
            "hop" => page.push_str(hop),
            "request" => page.push_str(&escape(&request_line(request))),
            "fields" => page.push_str(&fields),
            "editable" => page.push_str(editable),
            "config" => page.push_str(&escape(backend.config.as_deref().unwrap_or_default())),
            _ => {}
        }
        rest = after;
    }
    page.push_str(rest);
    page
}

/// The request line as the backend saw it.
pub(super) fn request_line(request: &request::Parts) -> String {
    format!("{} {} {:?}", request.method, request.uri, request.version)
}

/// The colour of a backend, as an angle on the wheel: the first four lie far apart for every eye.
pub(super) fn hue(name: &str) -> u32 {
    match name {
        "one" => 255,
        "two" => 58,
        "three" => 165,
        "four" => 330,
        other => other
            .bytes()
            .fold(7, |hue: u32, byte| (hue * 31 + u32::from(byte)) % 360),
    }
}

/// Bytes of a field as text; what is not UTF-8 is shown as such.
pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Whether a field tells about the way here; the page's script has the same list.
fn is_told(name: &str) -> bool {
    let is_forwarded = name == "forwarded" || name.starts_with("x-forwarded-");
    is_forwarded || matches!(name, "via" | "x-real-ip" | "x-request-id")
}

fn next_marker(template: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = template.split_once("{{")?;
    let (marker, after) = rest.split_once("}}")?;
    Some((before, marker, after))
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(config: Option<&str>, fields: &[(&str, &str)]) -> String {
        let mut request = http::Request::get("/?a&b");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let backend = Backend {
            name: "o<ne".to_owned(),
            config: config.map(str::to_owned),
        };
        render(&backend, &request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn the_page_asks_nobody_outside() {
        assert_eq!(
            TEMPLATE.matches("<link").count(),
            TEMPLATE.matches("href=\"data:").count()
        );
        for outside in ["src=", "@import", "http://", "//cdn", "<iframe"] {
            assert!(!TEMPLATE.contains(outside), "{outside}");
        }
        // The one address in it is the demo's own.
        let addresses = TEMPLATE.matches("https://").count();
        assert_eq!(
            addresses,
            TEMPLATE.matches("https://localhost:8443").count()
        );
    }

    #[test]
    fn every_marker_is_filled_in() {
        let page = check(Some("/etc/proxy.yaml"), &[("x-forwarded-proto", "https")]);
        assert!(!page.contains("{{") && !page.contains("}}"));
        assert!(page.contains("/etc/proxy.yaml") && page.contains("o&lt;ne"));
        let mut rest = TEMPLATE;
        while let Some((_, marker, after)) = next_marker(rest) {
            let known = [
                "name", "hue", "way", "hop", "request", "fields", "editable", "config",
            ];
            assert!(known.contains(&marker), "{marker}");
            rest = after;
        }
    }

    #[test]
    fn a_request_that_did_not_pass_a_proxy_is_told_so() {
        assert!(check(None, &[]).contains("class=\"direct\""));
        let proxied = check(None, &[("x-forwarded-proto", "http")]);
        assert!(proxied.contains("class=\"proxied\""));
    }

    #[test]
    fn a_name_has_one_colour() {
        assert_eq!(hue("five"), hue("five"));
        assert!(hue("a name of any length, in any script: ä") < 360);
    }
}
