//! Requests that come together: the good ones are answered before the bad one ends it, and what stands behind an
//! upgrade that is not granted is the next request.

use super::{check, row};
use crate::harness::play;

const GOOD: &str = "GET /good HTTP/1.1\r\nHost: app.test\r\n\r\n";
const POST: &str = "POST /post HTTP/1.1\r\nHost: app.test\r\nContent-Length: 2\r\n\r\nok";
const BAD: &str = "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n";
const UPGRADE: &str = "GET /up HTTP/1.1\r\nHost: app.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[test]
fn what_is_good_is_answered_before_what_is_bad() {
    let host = "host_invalid";
    let close = "GET /close HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n";
    let traversal = "GET /a%2fb HTTP/1.1\r\nHost: app.test\r\n\r\n";
    let many = GOOD.repeat(50);
    let rows = vec![
        row("good and bad", [GOOD, BAD].concat())
            .passes("GET /good")
            .refused(400, host),
        row("nothing is read behind bad", [BAD, GOOD].concat()).refused(400, host),
        row("three and bad", [GOOD, POST, GOOD, BAD, GOOD].concat())
            .passes("GET /good")
            .passes_with("POST /post", "ok")
            .passes("GET /good")
            .refused(400, host),
        row("nothing is read behind close", [close, GOOD].concat())
            .passes("GET /close")
            .closed(),
        row(
            "a path that is turned down is no end",
            [GOOD, traversal, GOOD].concat(),
        )
        .passes("GET /good")
        .turned_down(400, "path_refused")
        .passes("GET /good"),
        row("good and noise", [GOOD, "\x01\x02\x03"].concat())
            .passes("GET /good")
            .refused(400, "request_malformed"),
        row(
            "empty lines between",
            [GOOD, "\r\n", GOOD, "\r\n\r\n", GOOD].concat(),
        )
        .passes("GET /good")
        .passes("GET /good")
        .passes("GET /good"),
        row(
            "a body that goes on into the next head",
            [POST, "xy", GOOD].concat(),
        )
        .passes_with("POST /post", "ok")
        .passes("xyGET /good"),
        (0..50).fold(row("fifty", many), |row, _| row.passes("GET /good")),
        row(
            "HTTP/1.0 does not go on",
            ["GET /old HTTP/1.0\r\nHost: app.test\r\n\r\n", GOOD].concat(),
        )
        .passes("GET /old")
        .closed(),
        row(
            "a HEAD that is refused has no body",
            "HEAD / HTTP/1.1\r\nHost: a, b\r\n\r\n",
        )
        .refused(400, host),
    ];
    play(|| check(rows));
}

#[test]
fn what_stands_behind_an_upgrade_that_is_not_granted_is_a_request() {
    let post = "POST /up HTTP/1.1\r\nHost: app.test\r\nConnection: upgrade\r\nUpgrade: x\r\n\
                Content-Length: 2\r\n\r\nok";
    let settings = "GET /up HTTP/1.1\r\nHost: app.test\r\nConnection: upgrade, http2-settings\r\n\
                    Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n";
    let rows = vec![
        row("good", [UPGRADE, GOOD].concat())
            .passes("GET /up")
            .passes("GET /good"),
        row("bad", [UPGRADE, BAD].concat())
            .passes("GET /up")
            .refused(400, "host_invalid"),
        row("noise", [UPGRADE, "\x01\x05hello"].concat())
            .passes("GET /up")
            .refused(400, "request_malformed"),
        row("another upgrade", [UPGRADE, UPGRADE, GOOD].concat())
            .passes("GET /up")
            .passes("GET /up")
            .passes("GET /good"),
        row("an upgrade with a body", [post, GOOD].concat())
            .passes_with("POST /up", "ok")
            .passes("GET /good"),
        row("h2c is not offered", [settings, GOOD].concat())
            .passes("GET /up")
            .passes("GET /good"),
        row(
            "an upgrade that we answer ourselves",
            [&UPGRADE.replace("/up", "/a%2fb"), GOOD].concat(),
        )
        .turned_down(400, "path_refused")
        .passes("GET /good"),
        row(
            "an upgrade in 1.0 is none",
            [&UPGRADE.replace("/1.1", "/1.0"), GOOD].concat(),
        )
        .passes("GET /up")
        .closed(),
    ];
    play(|| check(rows));
}
