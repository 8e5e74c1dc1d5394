//! Methods, versions, field lines, Host, Expect, and how much of it all. RFC 9112 §2, §3 and §5; RFC 9110 §7.2, §10.1.1.

use super::{Row, check, row};
use crate::harness::play;

const MALFORMED: &str = "request_malformed";

/// A GET with this behind its Host.
fn get(name: &'static str, fields: impl AsRef<[u8]>) -> Row {
    let mut bytes = b"GET / HTTP/1.1\r\nHost: app.test\r\n".to_vec();
    bytes.extend(fields.as_ref());
    bytes.extend(b"\r\n");
    row(name, bytes)
}

#[test]
fn fields_are_lines_of_a_name_a_colon_and_a_value() {
    let mut rows = vec![
        get("obs-text in a value", b"X: caf\xe9\r\n").passes("GET /"),
        get("tabs in a value", "X:\ta\tb\t\r\n").passes("GET /"),
        get(
            "a name of all that a token may have",
            "!#$%&'*+-.^_`|~9aZ: x\r\n",
        )
        .passes("GET /"),
        get("an empty value", "X:\r\n").passes("GET /"),
    ];
    rows.extend(
        [
            ("NUL in a value", &b"X: a\0b\r\n"[..]),
            ("NUL in a name", b"X\0: a\r\n"),
            ("a bare CR in a value", b"X: a\rb\r\n"),
            ("a bare CR at the end of a value", b"X: a\r\r\n"),
            ("a bare LF behind a value", b"X: a\nY: b\r\n"),
            ("a bell in a value", b"X: \x07\r\n"),
            ("DEL in a value", b"X: \x7f\r\n"),
            ("an escape in a value", b"X: \x1b[31m\r\n"),
            ("a folded value", b"X: a\r\n b\r\n"),
            ("a value folded by a tab", b"X: a\r\n\tb\r\n"),
            ("a space before the colon", b"X : a\r\n"),
            ("a tab before the colon", b"X\t: a\r\n"),
            ("a space in a name", b"X Y: a\r\n"),
            ("an empty name", b": a\r\n"),
            ("a line without a colon", b"X\r\n"),
            ("a name in quotes", b"\"X\": a\r\n"),
            ("a name with a slash", b"a/b: c\r\n"),
            ("a name of UTF-8", "\u{e9}: a\r\n".as_bytes()),
            ("a line of a single space", b" \r\n"),
        ]
        .map(|(name, fields)| get(name, fields).refused(400, MALFORMED)),
    );
    rows.extend([
        row(
            "the first line folded",
            " GET / HTTP/1.1\r\nHost: app.test\r\n\r\n",
        )
        .refused(400, MALFORMED),
        row(
            "a field before Host is folded",
            "GET / HTTP/1.1\r\n X: a\r\nHost: app.test\r\n\r\n",
        )
        .refused(400, MALFORMED),
        row(
            "line ends of LF alone",
            "GET / HTTP/1.1\nHost: app.test\n\n",
        )
        .refused(400, MALFORMED),
        row(
            "a head that ends in LF alone",
            "GET / HTTP/1.1\r\nHost: app.test\r\n\n",
        )
        .refused(400, MALFORMED),
        row(
            "four empty lines in front",
            "\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: app.test\r\n\r\n",
        )
        .passes("GET /"),
        row(
            "five empty lines in front",
            "\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: app.test\r\n\r\n",
        )
        .refused(400, MALFORMED),
    ]);
    play(|| check(rows));
}

#[test]
fn a_request_has_one_host_that_is_one() {
    let with = |name, host: &str| row(name, format!("GET / HTTP/1.1\r\n{host}\r\n"));
    let mut rows = vec![
        row("1.0 without Host", "GET / HTTP/1.0\r\n\r\n")
            .passes("GET /")
            .closed(),
        with("a port and upper case", "HOST: App.Test:8080\r\n").passes("GET /"),
        with("a dot at the end", "Host: app.test.\r\n").passes("GET /"),
        with("an IPv6 address", "Host: [::1]:80\r\n").passes("GET /"),
    ];
    let long = format!("Host: {}\r\n", "a".repeat(300));
    rows.extend(
        [
            ("none", ""),
            ("two", "Host: app.test\r\nHost: other.test\r\n"),
            ("the same twice", "Host: app.test\r\nhost: app.test\r\n"),
            ("empty", "Host:\r\n"),
            ("a list", "Host: app.test, other.test\r\n"),
            ("a user", "Host: user@app.test\r\n"),
            ("a user and a password", "Host: user:word@app.test\r\n"),
            ("a path", "Host: app.test/admin\r\n"),
            ("a scheme", "Host: http://app.test\r\n"),
            ("a space", "Host: app test\r\n"),
            ("a port that is none", "Host: app.test:http\r\n"),
            ("a port too large", "Host: app.test:65536\r\n"),
            ("two ports", "Host: app.test:80:80\r\n"),
            ("an open bracket", "Host: [::1\r\n"),
            ("brackets around a name", "Host: [app.test]\r\n"),
            ("a percent", "Host: app%2etest\r\n"),
            ("not ASCII", "Host: b\u{fc}cher.test\r\n"),
            ("a wildcard", "Host: *.test\r\n"),
            ("a fragment", "Host: app.test#x\r\n"),
        ]
        .map(|(name, host)| with(name, host).refused(400, "host_invalid")),
    );
    // The grammar allows these; our normal form does not, and the connection is sound.
    rows.extend(
        [
            ("two dots", "Host: app..test\r\n"),
            ("too long", long.as_str()),
        ]
        .map(|(name, host)| with(name, host).turned_down(400, "host_invalid")),
    );
    play(|| check(rows));
}

#[test]
fn methods_and_versions_are_known_or_refused() {
    let asks = |name, line: &str| row(name, format!("{line}\r\nHost: app.test\r\n\r\n"));
    let long = format!("{} / HTTP/1.1", "M".repeat(300));
    let mut rows = vec![
        asks("a method in lower case", "get / HTTP/1.1").passes("get /"),
        asks(
            "a method of all that a token may have",
            "!#$%&'*+-.^_`|~ / HTTP/1.1",
        )
        .passes("!#$%&'*+-.^_`|~ /"),
        asks("CONNECT", "CONNECT app.test:443 HTTP/1.1").refused(501, "method_refused"),
        asks("CONNECT with a path", "CONNECT / HTTP/1.1").refused(501, "method_refused"),
        asks("PRI on 1.1", "PRIX / HTTP/1.1").passes("PRIX /"),
        asks("1.2", "GET / HTTP/1.2").refused(505, "version_unknown"),
        asks("2.0", "GET / HTTP/2.0").refused(505, "version_unknown"),
        asks("9.9", "GET / HTTP/9.9").refused(505, "version_unknown"),
        asks("0.9 with a version", "GET / HTTP/0.9").refused(505, "version_unknown"),
        row("0.9", "GET /\r\n").refused(400, MALFORMED),
    ];
    rows.push(row(
        "a method of 300 bytes",
        format!("{long}\r\nHost: app.test\r\n\r\n"),
    ));
    let line: &'static str = Box::leak(format!("{} /", "M".repeat(300)).into_boxed_str());
    let last = rows.pop().unwrap();
    rows.push(last.passes(line));
    rows.extend(
        [
            ("a method with a space", "GE T / HTTP/1.1"),
            ("a method with a slash", "GE/T / HTTP/1.1"),
            ("no method", " / HTTP/1.1"),
            ("a method in brackets", "[GET] / HTTP/1.1"),
            ("two spaces", "GET  / HTTP/1.1"),
            ("a tab", "GET\t/ HTTP/1.1"),
            ("a space at the end", "GET / HTTP/1.1 "),
            ("a version in lower case", "GET / http/1.1"),
            ("a version of one number", "GET / HTTP/1"),
            ("a version of two digits", "GET / HTTP/1.10"),
            ("a version with zeros", "GET / HTTP/01.1"),
            ("another protocol", "GET / ICY/1.1"),
            ("a version in other digits", "GET / HTTP/\u{661}.1"),
            ("an answer", "HTTP/1.1 200 OK"),
        ]
        .map(|(name, line)| asks(name, line).refused(400, MALFORMED)),
    );
    rows.extend([
        row(
            "another protocol: TLS",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        )
        .refused(400, MALFORMED),
        row("another protocol: SSH", "SSH-2.0-OpenSSH_9.7\r\n").refused(400, MALFORMED),
        row(
            "another protocol: PROXY",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
        )
        .refused(400, MALFORMED),
        row("another protocol: random bytes", [0xff; 64]).refused(400, MALFORMED),
    ]);
    play(|| check(rows));
}

#[test]
fn heads_have_limits() {
    // Host is the first.
    let fields = |count: usize| "X: y\r\n".repeat(count - 1);
    let sized = |bytes: usize| {
        let frame = "GET / HTTP/1.1\r\nHost: app.test\r\nX: \r\n\r\n".len();
        format!("X: {}\r\n", "y".repeat(bytes - frame))
    };
    let many = "X: y\r\n".repeat(30_000);
    let rows = vec![
        get("128 fields", fields(128)).passes("GET /"),
        get("129 fields", fields(129)).refused(431, "header_too_large"),
        get("a header of 32 KiB", sized(32 << 10)).passes("GET /"),
        get("a header of 32 KiB and one byte", sized((32 << 10) + 1))
            .refused(431, "header_too_large"),
        get("a header of 33 KiB", sized(33 << 10)).refused(431, "header_too_large"),
        get("a header of 900 KiB", sized(900 << 10)).refused(431, "header_too_large"),
        get("30 000 fields", many).refused(431, "header_too_large"),
        get(
            "a name of 33 KiB",
            format!("{}: y\r\n", "X".repeat(33 << 10)),
        )
        .refused(431, "header_too_large"),
    ];
    play(|| check(rows));
}

#[test]
fn expectations_are_the_one_that_there_is() {
    let post = |name, expect: &str| {
        row(
            name,
            format!(
                "POST / HTTP/1.1\r\nHost: app.test\r\nExpect: {expect}\r\nContent-Length: 2\r\n\r\nok"
            ),
        )
    };
    let unknown = |row: Row| row.refused(417, "expectation_unknown");
    let rows = vec![
        unknown(post("another", "200-ok")),
        unknown(post("a list", "100-continue, x")),
        unknown(post("with a parameter", "100-continue;x=y")),
        unknown(post("empty", "")),
        unknown(get("another without a body", "Expect: 100-continued\r\n")),
        get("100-continue without a body", "Expect: 100-Continue\r\n").passes("GET /"),
    ];
    play(|| check(rows));
}
