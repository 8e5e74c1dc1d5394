//! Where a body ends: lengths, codings, and both; chunks. RFC 9112 §6 and §7.

use super::{Row, check, row};
use crate::harness::play;

const MALFORMED: &str = "request_malformed";
const BROKEN: &str = "body_malformed";

/// A request with these fields, and what stands behind them.
fn post(name: &'static str, fields: &str, rest: &str) -> Row {
    let head = format!("POST / HTTP/1.1\r\nHost: app.test\r\n{fields}\r\n");
    row(name, head + rest)
}

/// A smuggled request, which nobody may see.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: app.test\r\n\r\n";

#[test]
fn a_body_is_framed_in_one_way_or_refused() {
    let both = format!("0\r\n\r\n{SMUGGLED}");
    let same = "Content-Length: 5\r\nContent-Length: 5\r\n";
    let rows = vec![
        post("CL.TE", "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", &both)
            .refused(400, MALFORMED),
        post("TE.CL", "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", &both)
            .refused(400, MALFORMED),
        post("CL.0 with a coding", "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", &both)
            .refused(400, MALFORMED),
        post("TE.TE: two fields", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", &both)
            .refused(400, MALFORMED),
        post("TE.TE: chunked, then another", "Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n", &both)
            .refused(400, MALFORMED),
        post("TE.TE: another, then chunked", "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n", &both)
            .refused(400, MALFORMED),
        post("TE.TE: chunked twice in a list", "Transfer-Encoding: chunked, chunked\r\n", &both)
            .refused(400, MALFORMED),
        post("TE.TE: an empty member", "Transfer-Encoding: , chunked\r\n", &both)
            .refused(400, MALFORMED),
        post("TE.TE: an empty value", "Transfer-Encoding:\r\n", &both).refused(400, MALFORMED),
        post("a coding under chunked", "Transfer-Encoding: gzip, chunked\r\n", &both)
            .refused(501, "coding_unknown"),
        post("chunked is not the last", "Transfer-Encoding: chunked, gzip\r\n", &both)
            .refused(501, "coding_unknown"),
        post("chunked in quotes", "Transfer-Encoding: \"chunked\"\r\n", &both)
            .refused(501, "coding_unknown"),
        post("chunked with a parameter", "Transfer-Encoding: chunked;q=1\r\n", &both)
            .refused(501, "coding_unknown"),
        post("xchunked", "Transfer-Encoding: xchunked\r\n", &both).refused(501, "coding_unknown"),
        post("identity", "Transfer-Encoding: identity\r\n", &both).refused(501, "coding_unknown"),
        post("vertical tab before chunked", "Transfer-Encoding: \x0bchunked\r\n", &both)
            .refused(400, MALFORMED),
        post("space before the colon of the coding", "Transfer-Encoding : chunked\r\n", &both)
            .refused(400, MALFORMED),
        post("the coding folded", "Transfer-Encoding:\r\n chunked\r\n", &both)
            .refused(400, MALFORMED),
        post("the coding behind a bare LF", "X: y\nTransfer-Encoding: chunked\r\n", &both)
            .refused(400, MALFORMED),
        post("the coding behind a bare CR", "X: y\rTransfer-Encoding: chunked\r\n", &both)
            .refused(400, MALFORMED),
        post("the coding in another case", "tRANSFER-eNCODING:\tCHUNKED \r\n", "2\r\nok\r\n0\r\n\r\n")
            .passes_with("POST /", "ok"),
        row(
            "a coding in 1.0",
            format!("POST / HTTP/1.0\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n{both}"),
        )
        .refused(400, MALFORMED),
        post("two lengths that differ", "Content-Length: 0\r\nContent-Length: 44\r\n", SMUGGLED)
            .refused(400, MALFORMED),
        post("two lengths that agree", same, "hello").refused(400, MALFORMED),
        post("a list of lengths", "Content-Length: 5, 5\r\n", "hello").refused(400, MALFORMED),
        post("a negative length", "Content-Length: -1\r\n", "").refused(400, MALFORMED),
        post("a length with a sign", "Content-Length: +5\r\n", "hello").refused(400, MALFORMED),
        post("a length in hex", "Content-Length: 0x5\r\n", "hello").refused(400, MALFORMED),
        post("a length with a gap", "Content-Length: 1 0\r\n", "helloworld").refused(400, MALFORMED),
        post("a length with a point", "Content-Length: 5.0\r\n", "hello").refused(400, MALFORMED),
        post("an empty length", "Content-Length:\r\n", "").refused(400, MALFORMED),
        post("a length beyond 64 bits", "Content-Length: 18446744073709551621\r\n", "hello")
            .refused(400, MALFORMED),
        post("a length with zeros in front", "Content-Length: 0005\r\n", "hello")
            .passes_with("POST /", "hello"),
        post("a length of another script", "Content-Length: \u{665}\r\n", "hello")
            .refused(400, MALFORMED),
        post("a body that nothing announces is the next request", "", SMUGGLED)
            .passes("POST /")
            .passes("GET /smuggled"),
        row(
            "a GET with a body",
            "GET / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\n\r\nhello",
        )
        .passes_with("GET /", "hello"),
        row(
            "a GET with a chunked body",
            "GET / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        )
        .passes_with("GET /", "ok"),
        row(
            "Connection cannot take the length away",
            "POST / HTTP/1.1\r\nHost: app.test\r\nConnection: content-length\r\nContent-Length: 5\r\n\r\n\
             hello",
        )
        .passes_with("POST /", "hello"),
        row(
            "Connection cannot take the coding away",
            "POST / HTTP/1.1\r\nHost: app.test\r\nConnection: transfer-encoding\r\n\
             Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        )
        .passes_with("POST /", "ok"),
        row(
            "Connection cannot take Host away",
            "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: host\r\n\r\n",
        )
        .passes("GET /"),
    ];
    play(|| check(rows));
}

/// A request with this as its chunked body.
fn chunked(name: &'static str, body: impl AsRef<str>) -> Row {
    post(name, "Transfer-Encoding: chunked\r\n", body.as_ref())
}

#[test]
fn chunks_are_well_formed_or_end_the_connection() {
    let bomb = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(300));
    let bombs = format!("1;{}\r\na\r\n", "x".repeat(250)).repeat(40) + "0\r\n\r\n";
    let trailers = format!("0\r\n{}\r\n", "a: b\r\n".repeat(65));
    let long = format!("0\r\na: {}\r\n\r\n", "x".repeat(9000));
    let broken = |row: Row| row.refused(400, BROKEN).begins("POST /");
    let mut rows = vec![
        chunked(
            "extensions and trailers",
            "2;a=b\r\nok\r\n0;c\r\nx-sum: 1\r\n\r\n",
        )
        .passes_with("POST /", "ok"),
        chunked(
            "sizes in upper case with zeros",
            "00A\r\n0123456789\r\n0\r\n\r\n",
        )
        .passes_with("POST /", "0123456789"),
    ];
    rows.extend(
        [
            ("a size that is none", "g\r\n"),
            ("an empty size", "\r\nok\r\n0\r\n\r\n"),
            ("a negative size", "-2\r\nok\r\n0\r\n\r\n"),
            ("a size with a sign", "+2\r\nok\r\n0\r\n\r\n"),
            ("a size with a prefix", "0x2\r\nok\r\n0\r\n\r\n"),
            ("a size behind a space", " 2\r\nok\r\n0\r\n\r\n"),
            ("a size before a space", "2 \r\nok\r\n0\r\n\r\n"),
            (
                "a size before a tab and an extension",
                "2\t;a\r\nok\r\n0\r\n\r\n",
            ),
            ("a size of 16 digits", "ffffffffffffffff\r\nok"),
            (
                "a size that overflows to 2",
                "10000000000000002\r\nok\r\n0\r\n\r\n",
            ),
            ("a size behind a bare LF", "2\nok\r\n0\r\n\r\n"),
            ("a size behind a bare CR", "2\rok\r\n0\r\n\r\n"),
            ("no line end behind the data", "2\r\nok0\r\n\r\n"),
            ("a bare LF behind the data", "2\r\nok\n0\r\n\r\n"),
            ("more data than the size says", "2\r\nokay\r\n0\r\n\r\n"),
            ("an extension with a bare LF", "2;a\nx\r\nok\r\n0\r\n\r\n"),
            ("an extension with a bare CR", "2;a\rx\r\nok\r\n0\r\n\r\n"),
            ("an extension with NUL", "2;\0\r\nok\r\n0\r\n\r\n"),
            ("an extension that is too long", bomb.as_str()),
            ("extensions that are too long together", bombs.as_str()),
            ("a trailer without a colon", "0\r\nx\r\n\r\n"),
            ("a trailer without a name", "0\r\n: x\r\n\r\n"),
            ("a trailer with a space in its name", "0\r\na : x\r\n\r\n"),
            ("a folded trailer", "0\r\na: x\r\n y\r\n\r\n"),
            ("a trailer with NUL", "0\r\na: \0\r\n\r\n"),
            ("a trailer with a bare LF", "0\r\na: b\n\r\n"),
            ("65 trailers", trailers.as_str()),
            ("a trailer of 9000 bytes", long.as_str()),
            ("a last chunk that ends in a bare LF", "0\r\n\n"),
            (
                "a request in the place of the trailers",
                "0\r\nGET /smuggled HTTP/1.1\r\n\r\n",
            ),
        ]
        .map(|(name, body)| broken(chunked(name, body))),
    );
    play(|| check(rows));
}
