//! Tables of heads good and bad, and what must hold for all bytes and all splits of them.

use proptest::prelude::*;

use super::*;
use crate::base::octets;

/// What a stream of bytes came to.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    /// How many bytes passed.
    passed: usize,
    heads: u64,
    end: End,
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    Passed,
    Held,
    Refused(Fault),
    Broken(Fault),
}

/// Goes through the pieces as the codec does: what a step leaves comes again with more behind it.
fn run<'a>(limits: Limits, pieces: impl IntoIterator<Item = &'a [u8]>) -> (Verdict, Scanner) {
    let mut scanner = Scanner::new(limits);
    let mut held = Vec::new();
    let (mut passed, mut heads) = (0, 0);
    let mut end = End::Passed;
    for piece in pieces {
        held.extend_from_slice(piece);
        end = End::Passed;
        while !held.is_empty() {
            let used = if scanner.is_in_body() {
                match scanner.frame(&held) {
                    Ok(framing) => {
                        let data = scanner.data().min((held.len() - framing) as u64);
                        let data = usize::try_from(data).unwrap();
                        scanner.take(data);
                        framing + data
                    }
                    Err((used, fault)) => {
                        passed += used;
                        end = End::Broken(fault);
                        break;
                    }
                }
            } else {
                match scanner.head(&held) {
                    Ok(Some(head)) => {
                        heads += 1;
                        head.bytes()
                    }
                    Ok(None) => {
                        end = End::Held;
                        break;
                    }
                    Err(refusal) => {
                        end = End::Refused(refusal.fault);
                        break;
                    }
                }
            };
            held.drain(..used);
            passed += used;
        }
        if matches!(end, End::Refused(_) | End::Broken(_)) {
            break;
        }
    }
    (Verdict { passed, heads, end }, scanner)
}

fn check(head: impl AsRef<[u8]>, expected: Result<Framing, Fault>) {
    let head = head.as_ref();
    let shown = head.escape_ascii().to_string();
    let (at_once, scanner) = run(Limits::default(), [head]);
    match expected {
        Ok(framing) => {
            assert_eq!(at_once.heads, 1, "{shown}: {at_once:?}");
            assert_eq!(at_once.passed, head.len(), "{shown}");
            match (&scanner.state, framing) {
                (State::Head(_), Framing::Length(0)) | (State::Chunked(_), Framing::Chunked) => {}
                (State::Fixed(left), Framing::Length(length)) => {
                    assert_eq!(*left, length, "{shown}")
                }
                (state, framing) => panic!("{shown}: {state:?} is not {framing:?}"),
            }
        }
        Err(fault) => assert_eq!(
            (at_once.heads, &at_once.end),
            (0, &End::Refused(fault)),
            "{shown}"
        ),
    }
    let (piecewise, _) = run(Limits::default(), head.chunks(1));
    assert_eq!(piecewise, at_once, "{shown}, byte by byte");
}

const EMPTY: Result<Framing, Fault> = Ok(Framing::Length(0));
const MALFORMED: Result<Framing, Fault> = Err(Fault::RequestMalformed);
const HOST: Result<Framing, Fault> = Err(Fault::HostInvalid);

#[test]
fn request_lines_follow_the_grammar() {
    for (line, expected) in [
        ("GET / HTTP/1.1", EMPTY),
        ("get / HTTP/1.1", EMPTY),
        ("M-SEARCH * HTTP/1.1", MALFORMED),
        ("OPTIONS * HTTP/1.1", EMPTY),
        ("OPTIONS ** HTTP/1.1", MALFORMED),
        ("GET * HTTP/1.1", MALFORMED),
        ("PURGE!#$%&'*+-.^_`|~ /a?b HTTP/1.1", EMPTY),
        ("GET /a%20b;c=d/..//\\[]{}|^?x=`{}<a HTTP/1.1", MALFORMED),
        ("GET /a%20b;c=d/..//\\[]{}|^?x=`{}?/ HTTP/1.1", EMPTY),
        ("GET http://a/ HTTP/1.1", EMPTY),
        ("GET HTTP://A HTTP/1.1", EMPTY),
        ("GET https://a?q HTTP/1.1", EMPTY),
        ("GET http://b/ HTTP/1.1", HOST),
        ("GET http://a:80/ HTTP/1.1", HOST),
        ("GET http://u@a/ HTTP/1.1", HOST),
        ("GET http:///x HTTP/1.1", HOST),
        ("GET ftp://a/ HTTP/1.1", MALFORMED),
        ("GET a HTTP/1.1", MALFORMED),
        ("GET a:80 HTTP/1.1", MALFORMED),
        ("GET ?q HTTP/1.1", MALFORMED),
        ("CONNECT a:443 HTTP/1.1", Err(Fault::MethodRefused)),
        ("CONNECT / HTTP/1.1", Err(Fault::MethodRefused)),
        ("GET /#f HTTP/1.1", MALFORMED),
        ("GET /?#f HTTP/1.1", MALFORMED),
        ("GET /\u{e9} HTTP/1.1", MALFORMED),
        ("GET /\x01 HTTP/1.1", MALFORMED),
        ("GET /\x7f HTTP/1.1", MALFORMED),
        ("GET /a b HTTP/1.1", MALFORMED),
        ("GET /\tHTTP/1.1", MALFORMED),
        ("GET\t/ HTTP/1.1", MALFORMED),
        ("GET  / HTTP/1.1", MALFORMED),
        ("GET /  HTTP/1.1", MALFORMED),
        ("GET / HTTP/1.1 ", MALFORMED),
        (" GET / HTTP/1.1", MALFORMED),
        ("G ET / HTTP/1.1", MALFORMED),
        ("G(T / HTTP/1.1", MALFORMED),
        ("GET:/ HTTP/1.1", MALFORMED),
        ("GET /", MALFORMED),
        ("GET", MALFORMED),
        (" / HTTP/1.1", MALFORMED),
        ("GET / http/1.1", MALFORMED),
        ("GET / HTTP/1", MALFORMED),
        ("GET / HTTP/1.10", MALFORMED),
        ("GET / HTTP/1.1\r", MALFORMED),
        ("GET / HTTPS/1.1", MALFORMED),
        ("GET / ", MALFORMED),
        ("GET / HTTP/1.2", Err(Fault::VersionUnknown)),
        ("GET / HTTP/0.9", Err(Fault::VersionUnknown)),
        ("GET / HTTP/2.0", Err(Fault::VersionUnknown)),
        ("PRI * HTTP/2.0", Err(Fault::VersionUnknown)),
        ("\x16\x03\x01\x02\x00\x01\x00\x01", MALFORMED),
    ] {
        check(format!("{line}\r\nHost: a\r\n\r\n"), expected);
    }
}

#[test]
fn lines_end_in_cr_lf_only() {
    for (head, expected) in [
        ("GET / HTTP/1.1\nHost: a\r\n\r\n", MALFORMED),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n", MALFORMED),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n", MALFORMED),
        ("GET / HTTP/1.1\r\nHost: a\r\n\rX: y\r\n\r\n", MALFORMED),
        ("GET / HTTP/1.1\rHost: a\r\n\r\n", MALFORMED),
        ("GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n", MALFORMED),
        ("GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", MALFORMED),
        ("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", EMPTY),
        ("\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", EMPTY),
        (
            "\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            MALFORMED,
        ),
        ("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", MALFORMED),
        ("\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", MALFORMED),
        ("\r\n \r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", MALFORMED),
    ] {
        check(head, expected);
    }
}

#[test]
fn fields_follow_the_grammar() {
    for (fields, expected) in [
        ("X: y", EMPTY),
        ("X:y", EMPTY),
        ("X:", EMPTY),
        ("X: \t y \t", EMPTY),
        ("X: a\tb\u{e9}\"", EMPTY),
        ("X", MALFORMED),
        (": y", MALFORMED),
        ("X : y", MALFORMED),
        ("X\t: y", MALFORMED),
        (" X: y", MALFORMED),
        ("X: y\r\n z", MALFORMED),
        ("X: y\r\n\tz", MALFORMED),
        ("X: \0", MALFORMED),
        ("X: \x0b", MALFORMED),
        ("X: \x7f", MALFORMED),
        ("X: \x1b[0m", MALFORMED),
        ("X\0: y", MALFORMED),
        ("X(: y", MALFORMED),
        ("X\u{e9}: y", MALFORMED),
        ("Expect: 100-continue", EMPTY),
        ("Expect: 100-Continue ", EMPTY),
        ("Expect: 200-ok", Err(Fault::ExpectationUnknown)),
        ("Expect: 100-continue, x", Err(Fault::ExpectationUnknown)),
        ("Expect:", Err(Fault::ExpectationUnknown)),
    ] {
        check(
            format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n"),
            expected,
        );
    }
}

#[test]
fn framing_can_be_read_in_one_way() {
    let length = |length| Ok(Framing::Length(length));
    let chunked = Ok(Framing::Chunked);
    let unknown = Err(Fault::CodingUnknown);
    for (fields, expected) in [
        ("Content-Length: 5", length(5)),
        ("content-length:\t005 ", length(5)),
        ("CONTENT-LENGTH: 0", EMPTY),
        ("Content-Length: 9223372036854775807", length(u64::MAX >> 1)),
        ("Content-Length: 18446744073709551616", MALFORMED),
        (
            "Content-Length: 99999999999999999999999999999999",
            MALFORMED,
        ),
        ("Content-Length:", MALFORMED),
        ("Content-Length: +5", MALFORMED),
        ("Content-Length: -5", MALFORMED),
        ("Content-Length: 0x5", MALFORMED),
        ("Content-Length: 5 5", MALFORMED),
        ("Content-Length: 5,5", MALFORMED),
        ("Content-Length: 5, 6", MALFORMED),
        ("Content-Length: 5;", MALFORMED),
        ("Content-Length: \"5\"", MALFORMED),
        ("Content-Length: 5.0", MALFORMED),
        ("Content-Length: \u{665}", MALFORMED),
        ("Content-Length : 5", MALFORMED),
        ("Content-Length: 5\r\nContent-Length: 5", MALFORMED),
        ("Content-Length: 5\r\nContent-Length: 6", MALFORMED),
        ("Content-Length: 0\r\ncontent-length: 0", MALFORMED),
        ("Transfer-Encoding: chunked", chunked),
        ("transfer-encoding:\tChunked ", chunked),
        ("Transfer-Encoding : chunked", MALFORMED),
        ("Transfer-Encoding: xchunked", unknown),
        ("Transfer-Encoding: chunked, identity", unknown),
        ("Transfer-Encoding: identity, chunked", unknown),
        ("Transfer-Encoding: gzip, chunked", unknown),
        ("Transfer-Encoding: gzip", unknown),
        ("Transfer-Encoding: identity", unknown),
        ("Transfer-Encoding: \"chunked\"", unknown),
        ("Transfer-Encoding: chunked;q=1", unknown),
        ("Transfer-Encoding: chunked, chunked", MALFORMED),
        ("Transfer-Encoding: chunked,", MALFORMED),
        ("Transfer-Encoding: ,chunked", MALFORMED),
        ("Transfer-Encoding:", MALFORMED),
        ("Transfer-Encoding: \x0bchunked", MALFORMED),
        ("Transfer-Encoding: chunked\x0c", MALFORMED),
        ("Transfer-Encoding:\r\n chunked", MALFORMED),
        (" Transfer-Encoding: chunked", MALFORMED),
        ("X: y\nTransfer-Encoding: chunked", MALFORMED),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            MALFORMED,
        ),
        (
            "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
            MALFORMED,
        ),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
            MALFORMED,
        ),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", MALFORMED),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5", MALFORMED),
        ("Transfer-Encoding: gzip\r\nContent-Length: 5", MALFORMED),
        ("Transfer_Encoding: chunked", EMPTY),
        ("Transfer-Encodings: chunked", EMPTY),
        ("TE: trailers", EMPTY),
    ] {
        check(
            format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n"),
            expected,
        );
    }
    check(
        "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        MALFORMED,
    );
    check("POST / HTTP/1.0\r\nTransfer-Encoding: x\r\n\r\n", MALFORMED);
    check(
        "POST / HTTP/1.0\r\nContent-Length: 5\r\n\r\n",
        Ok(Framing::Length(5)),
    );
}

#[test]
fn host_names_one_host() {
    for (head, expected) in [
        ("GET / HTTP/1.1\r\n\r\n", HOST),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", HOST),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", HOST),
        ("GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n", HOST),
        ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", HOST),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", HOST),
        ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", HOST),
        ("GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", HOST),
        ("GET / HTTP/1.1\r\nHost: [::1]:8443\r\n\r\n", EMPTY),
        ("GET / HTTP/1.1\r\nHOST:\ta:8443\t\r\n\r\n", EMPTY),
        ("GET / HTTP/1.0\r\n\r\n", EMPTY),
        ("GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", HOST),
        ("GET http://a:1/x HTTP/1.0\r\n\r\n", EMPTY),
        ("GET http:///x HTTP/1.0\r\n\r\n", HOST),
        ("GET http://A:1/ HTTP/1.1\r\nHost: \t a:1\r\n\r\n", EMPTY),
        ("GET http://a/ HTTP/1.1\r\n\r\n", HOST),
        ("OPTIONS http://a HTTP/1.1\r\nHost: a\r\n\r\n", EMPTY),
    ] {
        check(head, expected);
    }
}

#[test]
fn heads_have_limits() {
    let target =
        |bytes: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(bytes - 1));
    check(target(8192), EMPTY);
    check(target(8193), Err(Fault::TargetTooLong));
    check(target(40_000), Err(Fault::TargetTooLong));
    let fields = |fields: usize| {
        format!(
            "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
            "X: y\r\n".repeat(fields - 1)
        )
    };
    check(fields(128), EMPTY);
    check(fields(129), Err(Fault::HeaderTooLarge));
    let bytes = |bytes: usize| {
        format!(
            "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
            "y".repeat(bytes - 32)
        )
    };
    assert_eq!(bytes(100).len(), 100);
    check(bytes(32 * 1024), EMPTY);
    check(bytes(32 * 1024 + 1), Err(Fault::HeaderTooLarge));
    check(bytes(33 * 1024), Err(Fault::HeaderTooLarge));
    check("G".repeat(33 * 1024), Err(Fault::TargetTooLong));
}

#[test]
fn another_protocol_is_not_waited_for() {
    for bytes in [
        b"\x16\x03\x01".as_slice(),
        b"\xff",
        b"SSH-2.0-x\x01",
        b"GET /\n",
        b"\r\r",
    ] {
        let (verdict, _) = run(Limits::default(), [bytes]);
        assert_eq!(
            verdict.end,
            End::Refused(Fault::RequestMalformed),
            "{bytes:?}"
        );
    }
    for bytes in [
        "",
        "\r",
        "\r\n",
        "\r\n\r",
        "GET /",
        "GET / HTTP/1.1\r",
        "GET / HTTP/1.1\r\nHost: a\r\n\r",
    ] {
        let (verdict, _) = run(Limits::default(), [bytes.as_bytes()]);
        assert_eq!((verdict.passed, verdict.heads), (0, 0), "{bytes:?}");
        assert!(matches!(verdict.end, End::Held | End::Passed), "{bytes:?}");
    }
}

#[test]
fn a_refusal_tells_what_could_be_read() {
    let refusal = |head: &str| match Scanner::new(Limits::default()).head(head.as_bytes()) {
        Err(refusal) => refusal,
        Ok(head) => panic!("{head:?}"),
    };
    let whole = refusal("POST /x?y HTTP/1.1\r\nHost: \t a:1 \r\nExpect: 7\r\n\r\n");
    assert_eq!(whole.fault, Fault::ExpectationUnknown);
    assert_eq!(whole.method, Some(Method::POST));
    assert_eq!(whole.target, Some(Uri::from_static("/x?y")));
    assert_eq!(whole.host, Some(HeaderValue::from_static("a:1")));
    let early = refusal("GET /x HTTP/3.0\r\nHost: a\r\n\r\n");
    assert_eq!((early.method, early.host), (Some(Method::GET), None));
    let nothing = refusal("\x16\x03\x01");
    assert!(nothing.method.is_none() && nothing.target.is_none() && nothing.host.is_none());
}

#[test]
fn a_head_tells_what_the_client_wants_of_its_connection() {
    let check = |version, fields, told: fn(&Head) -> bool, expected| {
        let head = format!("GET / HTTP/{version}\r\nHost: a\r\n{fields}\r\n");
        let mut scanner = Scanner::new(Limits::default());
        let head = scanner.head(head.as_bytes()).unwrap().unwrap();
        assert_eq!(told(&head), expected, "{version} {fields}");
    };
    let keeps = Head::keeps_alive;
    check("1.1", "", keeps, true);
    check("1.1", "Connection: x, Close\r\n", keeps, false);
    check(
        "1.1",
        "Connection: close\r\nConnection: keep-alive\r\n",
        keeps,
        false,
    );
    check("1.0", "", keeps, false);
    check("1.0", "Connection: Keep-Alive\r\n", keeps, true);
    check("1.0", "Connection: keep-alive, close\r\n", keeps, false);
    let trailers = Head::takes_trailers;
    check("1.1", "TE: gzip;q=1, Trailers ;q=0.5\r\n", trailers, true);
    check("1.1", "TE: gzip, trailer\r\n", trailers, false);
    let expects = Head::expects_continue;
    check("1.1", "Expect: 100-Continue\r\n", expects, true);
    check("1.0", "Expect: 100-Continue\r\n", expects, false);
    check("1.1", "", expects, false);
}

#[test]
fn fields_stand_where_the_head_says() {
    let text = b"\r\nGET / HTTP/1.1\r\nHost: a\r\nX-y:\t b c \t\r\nZ:\r\n\r\nmore";
    let mut scanner = Scanner::new(Limits::default());
    let head = scanner.head(text).unwrap().unwrap();
    assert_eq!(head.bytes(), text.len() - 4);
    let told: Vec<_> = head
        .fields()
        .map(|(name, value)| (&text[name], &text[value]))
        .collect();
    let expected: [(&[u8], &[u8]); 3] = [(b"Host", b"a"), (b"X-y", b"b c"), (b"Z", b"")];
    assert_eq!(told, expected);
    assert_eq!(&text[head.target_range().unwrap()], b"/");
}

fn message() -> impl Strategy<Value = Vec<u8>> {
    let fields = prop::collection::vec(("X-[A-Za-z0-9_.~-]{0,12}", "[ -~\t]{0,40}"), 0..6);
    let body = prop::collection::vec(any::<u8>(), 0..80);
    let cuts = prop::collection::vec(1usize..20, 0..4);
    (
        "[A-Z]{1,8}",
        "/[a-z0-9%?&=/.]{0,40}",
        fields,
        body,
        0..4u8,
        cuts,
    )
        .prop_map(|(method, target, fields, body, kind, cuts)| {
            let method = if method == "CONNECT" {
                "GET".into()
            } else {
                method
            };
            let mut out =
                format!("{method} {target} HTTP/1.1\r\nHost: a.example:1\r\n").into_bytes();
            for (name, value) in fields {
                out.extend_from_slice(format!("{name}:{value}\r\n").as_bytes());
            }
            match kind {
                0 => out.extend_from_slice(b"\r\n"),
                1 => {
                    out.extend_from_slice(
                        format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes(),
                    );
                    out.extend_from_slice(&body);
                }
                _ => {
                    out.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
                    let mut rest = body.as_slice();
                    for cut in cuts {
                        let (chunk, after) = rest.split_at(cut.min(rest.len()));
                        if !chunk.is_empty() {
                            out.extend_from_slice(
                                format!("{:x};e=\"1\"\r\n", chunk.len()).as_bytes(),
                            );
                            out.extend_from_slice(chunk);
                            out.extend_from_slice(b"\r\n");
                        }
                        rest = after;
                    }
                    let end: &[u8] = if kind == 2 {
                        b"0\r\n\r\n"
                    } else {
                        b"0\r\nT: v\r\n\r\n"
                    };
                    out.extend_from_slice(end);
                }
            }
            out
        })
}

/// Bytes near enough to requests that every branch is met.
pub(in crate::dataplane::http) fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => message(),
        2 => prop::collection::vec(
            prop::sample::select(b"GET / HTP1.0\r\n\r\n:;,Hosta\t\0\x7f\xff#*[5f".as_slice()), 0..30),
        2 => prop::sample::select(vec![
            "\r\n", "\n", "Content-Length: 3\r\n", "Transfer-Encoding: chunked\r\n", "Host: a\r\n",
            "GET / HTTP/1.1\r\n", "OPTIONS * HTTP/1.0\r\n", "GET http://a/ HTTP/1.1\r\n", "0\r\n\r\n",
            "Connection: upgrade\r\nUpgrade: x\r\n", "Expect: x\r\n",
            "Content-Length: 99999999999999999999\r\n",
            "Content-Length: 1,1\r\n",
            "Transfer-Encoding: gzip\r\n",
            "GET /`\"<> HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /?`\" HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET http://[::]:99999/ HTTP/1.0\r\n\r\n", "x: y\r\n", " z\r\n", "5;a\r\nhello\r\n",
        ]).prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..30),
    ];
    let spoiled = (
        any::<prop::sample::Index>(),
        any::<u8>(),
        prop::bool::weighted(0.3),
    );
    (prop::collection::vec(piece, 0..6), spoiled).prop_map(|(pieces, (at, byte, spoils))| {
        let mut bytes = pieces.concat();
        if spoils && !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes
    })
}

/// The bytes in pieces.
pub(in crate::dataplane::http) fn split<'a>(
    bytes: &'a [u8],
    cuts: &[prop::sample::Index],
) -> Vec<&'a [u8]> {
    let mut at: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    at.extend([0, bytes.len()]);
    at.sort_unstable();
    at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

/// Where to cut bytes into pieces.
pub(in crate::dataplane::http) fn cuts() -> impl Strategy<Value = Vec<prop::sample::Index>> {
    prop::collection::vec(any::<prop::sample::Index>(), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_verdict_does_not_depend_on_the_splits(bytes in nearly(), cuts in cuts(), small in any::<bool>()) {
        let limits = if small {
            Limits { header_bytes: 64, header_fields: 3, target_bytes: 12 }
        } else {
            Limits::default()
        };
        let (at_once, _) = run(limits, [bytes.as_slice()]);
        prop_assert_eq!(&run(limits, split(&bytes, &cuts)).0, &at_once);
        prop_assert_eq!(&run(limits, bytes.chunks(1)).0, &at_once);
    }

    #[test]
    fn what_passes_as_a_head_is_one_to_laxer_parsers(bytes in nearly()) {
        let mut scanner = Scanner::new(Limits::default());
        let end = (1..=bytes.len()).find(|end| {
            // Fed from the start each time: where the first head is whole, exactly one has passed.
            scanner = Scanner::new(Limits::default());
            matches!(scanner.head(&bytes[..*end]), Ok(Some(_)))
        });
        if let Some(end) = end {
            let mut fields = [httparse::EMPTY_HEADER; 128];
            let mut request = httparse::Request::new(&mut fields);
            prop_assert_eq!(request.parse(&bytes[..end]), Ok(httparse::Status::Complete(end)));
            let text = std::str::from_utf8(&bytes[..end]).map(str::trim_start);
            let target = request.path.unwrap();
            if let Ok(text) = text {
                let line = format!("{} {target} HTTP/1.", request.method.unwrap());
                prop_assert!(text.starts_with(&line));
                let lines = text.trim_end_matches("\r\n").split("\r\n").skip(1).collect::<Vec<_>>();
                prop_assert_eq!(lines.len(), request.headers.len());
                for (line, field) in lines.iter().zip(&*request.headers) {
                    let (name, value) = line.split_once(':').unwrap();
                    prop_assert_eq!(name, field.name);
                    prop_assert_eq!(octets::trim(value.as_bytes()), octets::trim(field.value));
                }
            }
            prop_assert!(Method::from_bytes(request.method.unwrap().as_bytes()).is_ok());
            prop_assert!(Uri::try_from(target).is_ok(), "{}", target);
        }
    }

    #[test]
    fn valid_messages_pass_untouched(messages in prop::collection::vec(message(), 1..6), cuts in cuts()) {
        let bytes = messages.concat();
        let (verdict, _) = run(Limits::default(), split(&bytes, &cuts));
        let whole = Verdict { passed: bytes.len(), heads: messages.len() as u64, end: End::Passed };
        prop_assert_eq!(verdict, whole);
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), cuts in cuts()) {
        run(Limits::default(), split(&bytes, &cuts));
    }
}
