//! Request targets: their forms, what they may hold, and paths that servers read differently. RFC 9112 §3.2.

use super::{Row, check, row};
use crate::harness::play;

const MALFORMED: &str = "request_malformed";

fn get(name: &'static str, target: impl AsRef<[u8]>) -> Row {
    let parts: [&[u8]; 3] = [
        b"GET ",
        target.as_ref(),
        b" HTTP/1.1\r\nHost: app.test\r\n\r\n",
    ];
    row(name, parts.concat())
}

#[test]
fn targets_have_a_form_of_their_method() {
    let mut rows = vec![
        get("absolute form", "http://app.test/a?b").passes("GET /a?b"),
        get("absolute form in another case", "HTTP://APP.test/a").passes("GET /a"),
        get("absolute form without a path", "http://app.test").passes("GET /"),
        get(
            "absolute form without a path, with a query",
            "http://app.test?b",
        )
        .passes("GET /?b"),
        get("two slashes", "//other.test/a").passes("GET //other.test/a"),
        get("a URL in the query", "/?http://x/#".trim_end_matches('#')).passes("GET /?http://x/"),
        row("OPTIONS *", "OPTIONS * HTTP/1.1\r\nHost: app.test\r\n\r\n").passes("OPTIONS *"),
        row(
            "OPTIONS with a star and more",
            "OPTIONS */a HTTP/1.1\r\nHost: app.test\r\n\r\n",
        )
        .refused(400, MALFORMED),
    ];
    rows.extend(
        [
            ("absolute form of another host", "http://other.test/"),
            ("absolute form with another port", "http://app.test:81/"),
            ("absolute form with a user", "http://user@app.test/"),
            (
                "absolute form that hides its host",
                "http://app.test\\@other.test/",
            ),
            ("absolute form without a host", "http:///a"),
        ]
        .map(|(name, target)| get(name, target).refused(400, "host_invalid")),
    );
    rows.push(
        row(
            "absolute form without Host",
            "GET http://app.test/ HTTP/1.1\r\n\r\n",
        )
        .refused(400, "host_invalid"),
    );
    rows.extend(
        [
            ("a star for GET", &b"*"[..]),
            ("authority form for GET", b"app.test:443"),
            ("a path without a slash", b"a"),
            ("a query alone", b"?a"),
            ("an escaped slash in front", b"%2Fa"),
            ("another scheme", b"ftp://app.test/"),
            ("a scheme with one slash", b"http:/app.test/"),
            ("a fragment", b"/a#b"),
            ("a fragment in the query", b"/a?b#c"),
            ("a space", b"/a b"),
            ("NUL", b"/a\0b"),
            ("a bell", b"/a\x07b"),
            ("DEL", b"/a\x7fb"),
            ("a bare CR", b"/a\rb"),
            ("a bare LF", b"/a\nb"),
            ("a tab", b"/a\tb"),
            ("UTF-8", "/\u{e9}".as_bytes()),
            ("Latin-1", b"/\xe9"),
            ("a less-than sign", b"/a<b"),
        ]
        .map(|(name, target)| get(name, target).refused(400, MALFORMED)),
    );
    play(|| check(rows));
}

#[test]
fn paths_that_servers_read_differently_are_turned_down() {
    let slashes = |name, path: &str| {
        row(
            name,
            format!("GET {path} HTTP/1.1\r\nHost: slash.test\r\n\r\n"),
        )
    };
    let mut rows = vec![
        get("dot segments go on as they are", "/a/../b/./c").passes("GET /a/../b/./c"),
        get("encoded dots go on as they are", "/a/%2e%2E/b").passes("GET /a/%2e%2E/b"),
        get("above the root", "/../../etc/passwd").passes("GET /../../etc/passwd"),
        get("%00 in the query", "/?%00").passes("GET /?%00"),
        get("an encoded percent", "/%252e%252e/").passes("GET /%252e%252e/"),
        slashes("an encoded slash where it may be", "/a%2Fb").passes("GET /a%2Fb"),
        slashes("an encoded backslash where it may be", "/a%5Cb").passes("GET /a%5Cb"),
        slashes("NUL even there", "/a%00b").turned_down(400, "path_refused"),
    ];
    rows.extend(
        [
            ("NUL", "/a%00b"),
            ("an encoded slash", "/a%2Fb"),
            ("an encoded slash in lower case", "/a%2fb"),
            ("dots behind an encoded slash", "/a/..%2Fb"),
            ("an encoded backslash", "/a%5cb"),
            ("a backslash", "/a\\..\\b"),
            ("dots with a parameter", "/a/..;/b"),
            ("dots with a parameter, encoded", "/a/%2e%2e%3b/b"),
            ("dots behind an empty segment", "/a//../b"),
            ("half an escape", "/a%"),
            ("an escape of no digits", "/a%zz"),
            ("an escape of one digit", "/a%2"),
        ]
        .map(|(name, path)| get(name, path).turned_down(400, "path_refused")),
    );
    play(|| check(rows));
}

#[test]
fn targets_have_a_limit() {
    let of = |bytes: usize| "/".to_owned() + &"a".repeat(bytes - 1);
    let line: &'static str = Box::leak(format!("GET {}", of(8 << 10)).into_boxed_str());
    let rows = vec![
        get("8 KiB", of(8 << 10)).passes(line),
        get("8 KiB and one byte", of((8 << 10) + 1)).refused(414, "target_too_long"),
        get("33 KiB", of(33 << 10)).refused(414, "target_too_long"),
        get("900 KiB", of(900 << 10)).refused(414, "target_too_long"),
        row("900 KiB of a method", "A".repeat(900 << 10)).refused(414, "target_too_long"),
    ];
    play(|| check(rows));
}
