//! Hostile HTTP/2: requests that are none, frames out of place, floods. RFC 9113 §4 to §8.

use super::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, Outcome, PING, PREFACE,
    PRIORITY, PUSH_PROMISE, Peer, RST_STREAM, SETTINGS, WINDOW_UPDATE, block, frame, headers,
};
use super::{Stage, ending};
use crate::harness::play;
use crate::harness::wire::End;

/// Codes of RFC 9113 §7.
const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const COMPRESSION_ERROR: u32 = 9;

type Field<'a> = (&'a str, &'a str);

const GET: [Field<'_>; 4] = [
    (":method", "GET"),
    (":scheme", "http"),
    (":authority", "app.test"),
    (":path", "/good"),
];

/// What a client sends behind its preface, and what has to come of stream 1.
struct Case {
    name: &'static str,
    bytes: Vec<u8>,
    outcome: Outcome,
    /// The code that the connection ends with, where RFC 9113 names one.
    code: Option<u32>,
    /// The fault, if there is a record: every answer has one.
    fault: &'static str,
    is_logged: bool,
    seen: Vec<&'static str>,
    begun: Vec<&'static str>,
}

fn case(name: &'static str, bytes: Vec<u8>, outcome: Outcome) -> Case {
    Case {
        name,
        bytes,
        outcome,
        code: None,
        fault: "",
        is_logged: true,
        seen: Vec::new(),
        begun: Vec::new(),
    }
}

fn bytes_of<'a>(fields: &'a [Field<'a>]) -> Vec<(&'a [u8], &'a [u8])> {
    fields
        .iter()
        .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
        .collect()
}

/// A request of these fields and nothing else.
fn ask(fields: &[Field<'_>]) -> Vec<u8> {
    headers(1, END_STREAM, &block(&bytes_of(fields)))
}

/// A GET with more fields behind.
fn with(more: &[Field<'_>]) -> Vec<u8> {
    ask(&[&GET, more].concat())
}

/// A GET with another value in the place of one.
fn but(name: &str, value: &str) -> Vec<u8> {
    let change = |field: &Field<'static>| (field.0, if field.0 == name { value } else { field.1 });
    ask(&GET.each_ref().map(change))
}

/// A GET without one of its fields.
fn without(name: &str) -> Vec<u8> {
    let left: Vec<_> = GET.into_iter().filter(|field| field.0 != name).collect();
    ask(&left)
}

/// Answered by us.
fn refused(name: &'static str, bytes: Vec<u8>, status: u16, fault: &'static str) -> Case {
    Case {
        fault,
        ..case(name, bytes, Outcome::Status(status))
    }
}

/// Without a record.
fn unlogged(case: Case) -> Case {
    Case {
        is_logged: false,
        ..case
    }
}

/// Reset, and the connection goes on.
fn reset(name: &'static str, bytes: Vec<u8>) -> Case {
    case(name, bytes, Outcome::Reset(PROTOCOL_ERROR))
}

/// Reset, since the request is none, with a record that says why.
fn malformed(name: &'static str, bytes: Vec<u8>, fault: &'static str) -> Case {
    Case {
        fault,
        ..reset(name, bytes)
    }
}

/// The connection ends with this code.
fn away_by(code: u32, name: &'static str, bytes: Vec<u8>) -> Case {
    Case {
        code: Some(code),
        ..away(name, bytes)
    }
}

/// The connection ends. The codec says PROTOCOL_ERROR for most reasons, where RFC 9113 has names for some.
fn away(name: &'static str, bytes: Vec<u8>) -> Case {
    case(name, bytes, Outcome::Away)
}

fn passes(name: &'static str, bytes: Vec<u8>, line: &'static str) -> Case {
    Case {
        seen: vec![line],
        ..case(name, bytes, Outcome::Status(200))
    }
}

impl Case {
    fn begins(mut self, line: &'static str) -> Self {
        self.begun.push(line);
        self
    }

    fn play(&self, stage: &mut Stage) {
        let mut peer = Peer::connect(stage.proxy.address());
        peer.client.send(&self.bytes);
        assert_eq!(peer.outcome(1), self.outcome, "{}", self.name);
        if self.code.is_some() {
            assert_eq!(peer.goaway, self.code, "{}", self.name);
        }
        match (self.outcome, self.is_logged) {
            (Outcome::Status(status), true) => {
                stage.records.push((self.name, status, self.fault));
            }
            (Outcome::Reset(_), true) if !self.fault.is_empty() => {
                stage.records.push((self.name, 400, self.fault));
            }
            _ => {}
        }
        match self.outcome {
            Outcome::Away | Outcome::Closed => while peer.read().is_some() {},
            Outcome::Status(_) | Outcome::Reset(_) => {
                let own =
                    GET.map(|(name, value)| (name, if name == ":path" { "/own" } else { value }));
                peer.client
                    .send(headers(3, END_STREAM, &block(&bytes_of(&own))));
                assert_eq!(
                    peer.outcome(3),
                    Outcome::Status(200),
                    "{}: the next",
                    self.name
                );
                stage.records.push((self.name, 200, ""));
            }
        }
        let seen: Vec<_> = self.seen.iter().map(|line| (*line, "")).collect();
        stage.origin.saw(&seen, &self.begun);
    }
}

fn check(cases: Vec<Case>) {
    check_besides(None, cases);
}

/// The same where these records may be there besides.
fn check_besides(besides: Option<(u16, &'static str)>, cases: Vec<Case>) {
    play(move || {
        let make = || Stage {
            besides,
            ..Stage::new("")
        };
        let mut stage = Some(make());
        let mut wrong = Vec::new();
        for case in cases {
            let name = case.name;
            let mut here = stage.take().unwrap_or_else(make);
            let play = move || {
                case.play(&mut here);
                here
            };
            let thread = std::thread::Builder::new().name(format!("case: {name}"));
            match thread.spawn(play).unwrap().join() {
                Ok(here) => stage = Some(here),
                Err(_) => wrong.push(name),
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
        stage.unwrap().end();
    });
}

#[test]
fn requests_that_are_none_are_refused() {
    let host = "host_invalid";
    let path = "path_refused";
    let none = "request_malformed";
    let connect = [(":method", "CONNECT"), (":authority", "app.test:443")];
    let websocket = |protocol| {
        let extended = [
            GET[1],
            GET[2],
            GET[3],
            (":method", "CONNECT"),
            (":protocol", protocol),
        ];
        headers(1, 0, &block(&bytes_of(&extended)))
    };
    check(vec![
        passes("good", ask(&GET), "GET /good"),
        passes(
            "trailers are taken",
            with(&[("te", "trailers")]),
            "GET /good",
        ),
        passes(
            "Host that agrees",
            with(&[("host", "app.test")]),
            "GET /good",
        ),
        passes(
            "Host that agrees but for letters",
            with(&[("host", "APP.test")]),
            "GET /good",
        ),
        passes(
            "Host with the port of the scheme",
            with(&[("host", "app.test:80")]),
            "GET /good",
        ),
        malformed(
            "Host with the port of another scheme",
            with(&[("host", "app.test:443")]),
            host,
        ),
        malformed("Host that disagrees", with(&[("host", "other.test")]), host),
        malformed(
            "two Hosts",
            with(&[("host", "app.test"), ("host", "app.test")]),
            host,
        ),
        malformed("no authority and no Host", without(":authority"), host),
        malformed(
            "a user in the authority",
            but(":authority", "user@app.test"),
            host,
        ),
        malformed(
            "a list as Host",
            {
                let fields = [GET[0], GET[1], GET[3], ("host", "app.test, other.test")];
                ask(&fields)
            },
            host,
        ),
        reset("an authority that is none", but(":authority", "app test")),
        reset(
            "a path in the authority",
            but(":authority", "app.test/admin"),
        ),
        refused(
            "CONNECT",
            headers(1, 0, &block(&bytes_of(&connect))),
            501,
            "method_refused",
        ),
        malformed("CONNECT to nobody", ask(&[(":method", "CONNECT")]), host),
        refused(
            "an unknown protocol for CONNECT",
            websocket("connect-udp"),
            501,
            "upgrade_unsupported",
        ),
        away("a method with a space", but(":method", "GET /x")),
        away("an empty method", but(":method", "")),
        reset("an empty path", but(":path", "")),
        reset("a path without a slash", but(":path", "good")),
        malformed("a star for GET", but(":path", "*"), none),
        reset(
            "an absolute URL as path",
            but(":path", "http://other.test/"),
        ),
        reset("a path with a space", but(":path", "/a b")),
        reset("a path with a line end", but(":path", "/ HTTP/1.1\r\nx: y")),
        reset("a path with NUL", but(":path", "/a\0b")),
        malformed("a path of UTF-8", but(":path", "/\u{e9}"), none),
        malformed("a query of UTF-8", but(":path", "/a?\u{e9}"), none),
        refused("an encoded slash", but(":path", "/a%2fb"), 400, path),
        refused(
            "a path of 9 KiB",
            but(":path", &"/a".repeat(9 << 9)),
            414,
            "target_too_long",
        ),
        refused(
            "an expectation",
            with(&[("expect", "200-ok")]),
            417,
            "expectation_unknown",
        ),
        reset("no method", without(":method")),
        reset("no scheme", without(":scheme")),
        reset("no path", without(":path")),
        reset("two paths", with(&[(":path", "/other")])),
        away("an unknown pseudo field", with(&[(":x", "y")])),
        reset("a pseudo field of answers", with(&[(":status", "200")])),
        reset(
            "a pseudo field behind others",
            ask(&[GET[0], GET[1], ("x", "y"), GET[2], GET[3]]),
        ),
        away("a name in upper case", with(&[("X-Up", "y")])),
        away("a name with a space", with(&[("x y", "z")])),
        away("a name with a colon", with(&[("x: y", "z")])),
        away("an empty name", with(&[("", "z")])),
        away(
            "a value with a line end",
            with(&[("x", "y\r\nhost: other.test")]),
        ),
        away("a value with NUL", with(&[("x", "a\0b")])),
        malformed("a value behind a space", with(&[("x", " y")]), none),
        malformed("a value behind a tab", with(&[("x", "\ty")]), none),
        malformed("a value before a space", with(&[("x", "y ")]), none),
        malformed("a value before a tab", with(&[("x", "y\t")]), none),
        malformed("a value of a space", with(&[("x", " ")]), none),
        passes("an empty value", with(&[("x", "")]), "GET /good"),
        passes("a value with a space", with(&[("x", "a b")]), "GET /good"),
        reset(
            "Transfer-Encoding",
            with(&[("transfer-encoding", "chunked")]),
        ),
        reset("Connection", with(&[("connection", "close")])),
        reset("Keep-Alive", with(&[("keep-alive", "timeout=5")])),
        reset(
            "Proxy-Connection",
            with(&[("proxy-connection", "keep-alive")]),
        ),
        reset("Upgrade", with(&[("upgrade", "websocket")])),
        reset("TE of something else", with(&[("te", "gzip")])),
    ]);
}

/// A POST of these fields and data, the last frame with the end.
fn post(fields: &[Field<'_>], data: &[&str]) -> Vec<u8> {
    let mut all = GET.to_vec();
    all[0] = (":method", "POST");
    all.extend(fields);
    let mut bytes = headers(1, 0, &block(&bytes_of(&all)));
    for (nth, data_) in data.iter().enumerate() {
        let flags = if nth + 1 == data.len() { END_STREAM } else { 0 };
        bytes.extend(frame(DATA, flags, 1, data_.as_bytes()));
    }
    bytes
}

#[test]
fn lengths_agree_with_what_comes() {
    let length = |value| [("content-length", value)];
    let line = "POST /good";
    // Whether the exchange has begun when the codec resets its stream depends on how the frames come.
    check_besides(
        Some((499, "client_gone")),
        vec![
            reset("too little", post(&length("5"), &["hel"])).begins(line),
            reset("too much", post(&length("3"), &["hel", "lo"])).begins(line),
            reset("a length without a body", with(&length("5"))).begins("GET /good"),
            reset("no number", post(&length("x"), &["hello"])),
            reset("a sign", post(&length("+5"), &["hello"])),
            reset(
                "two that differ",
                post(
                    &[("content-length", "5"), ("content-length", "6")],
                    &["hello"],
                ),
            ),
            away_by(PROTOCOL_ERROR, "trailers with a pseudo field", {
                let mut bytes = post(&[], &[]);
                bytes.extend(headers(1, END_STREAM, &block(&[(b":path", b"/x")])));
                bytes
            })
            .begins(line),
            reset("a second header without the end", {
                let mut bytes = post(&[], &[]);
                bytes.extend(headers(1, 0, &block(&[(b"x", b"y")])));
                bytes
            })
            .begins(line),
        ],
    );
}

#[test]
fn headers_have_limits() {
    let fields = |count: usize| vec![("x", "y"); count];
    let crumbs = |count: usize| vec![("cookie", "a=b"); count];
    let long = "x".repeat(33 << 10);
    let fits = "x".repeat(30 << 10);
    let endless = "x".repeat(400 << 10);
    let too_large = "header_too_large";
    check(vec![
        passes("128 fields", with(&fields(128)), "GET /good"),
        refused("129 fields", with(&fields(129)), 431, too_large),
        passes(
            "128 fields and 128 crumbs",
            with(&[fields(128), crumbs(128)].concat()),
            "GET /good",
        ),
        refused("129 crumbs", with(&crumbs(129)), 431, too_large),
        passes("a field of 30 KiB", with(&[("x", &fits)]), "GET /good"),
        // The codec answers these by itself, without a word to us.
        unlogged(refused("a field of 33 KiB", with(&[("x", &long)]), 431, "")),
        unlogged(refused(
            "300 fields of 200 bytes",
            with(&vec![("x", &fits[..200]); 300]),
            431,
            "",
        )),
        away("a field of 400 KiB", with(&[("x", &endless)])),
    ]);
}

#[test]
fn frames_out_of_place_end_the_connection() {
    let block_ = block(&bytes_of(&GET));
    let settings = |id: u16, value: u32| {
        frame(
            SETTINGS,
            0,
            0,
            &[&id.to_be_bytes()[..], &value.to_be_bytes()].concat(),
        )
    };
    let window = |stream, by: u32| frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes());
    let half = frame(HEADERS, END_STREAM, 1, &block_);
    let flood = [half.clone(), frame(CONTINUATION, 0, 1, &[]).repeat(2000)].concat();
    check(vec![
        away(
            "a header on stream 0",
            frame(HEADERS, END_HEADERS | END_STREAM, 0, &block_),
        ),
        away(
            "a header on an even stream",
            headers(2, END_STREAM, &block_),
        ),
        away("data on an idle stream", frame(DATA, 0, 1, b"x")),
        away("data on stream 0", frame(DATA, 0, 0, b"x")),
        away(
            "a reset of an idle stream",
            frame(RST_STREAM, 0, 1, &[0; 4]),
        ),
        away_by(
            FRAME_SIZE_ERROR,
            "a reset of three bytes",
            frame(RST_STREAM, 0, 1, &[0; 3]),
        ),
        away_by(
            FRAME_SIZE_ERROR,
            "a priority of four bytes",
            frame(PRIORITY, 0, 1, &[0; 4]),
        ),
        away_by(
            FRAME_SIZE_ERROR,
            "a window update of three bytes",
            frame(WINDOW_UPDATE, 0, 0, &[0; 3]),
        ),
        away_by(
            FRAME_SIZE_ERROR,
            "a farewell of seven bytes",
            frame(GOAWAY, 0, 0, &[0; 7]),
        ),
        away("settings on a stream", frame(SETTINGS, 0, 1, &[])),
        away_by(
            FRAME_SIZE_ERROR,
            "settings of five bytes",
            frame(SETTINGS, 0, 0, &[0; 5]),
        ),
        away_by(
            FRAME_SIZE_ERROR,
            "an acknowledgement with settings",
            frame(SETTINGS, ACK, 0, &[0; 6]),
        ),
        away_by(
            FLOW_CONTROL_ERROR,
            "a window beyond 31 bits in settings",
            settings(4, 1 << 31),
        ),
        away("a frame size below the least", settings(5, 100)),
        away("push that is neither on nor off", settings(2, 2)),
        away_by(
            FRAME_SIZE_ERROR,
            "a ping of seven bytes",
            frame(PING, 0, 0, &[0; 7]),
        ),
        away("a ping on a stream", frame(PING, 0, 1, &[0; 8])),
        away("a window update of nothing", window(0, 0)),
        away_by(
            FLOW_CONTROL_ERROR,
            "a window beyond 31 bits",
            window(0, 0x7fff_ffff),
        ),
        away_by(
            PROTOCOL_ERROR,
            "a push by a client",
            frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2]),
        ),
        away_by(
            PROTOCOL_ERROR,
            "half a push by a client",
            frame(PUSH_PROMISE, 0, 1, &[0, 0, 0, 2]),
        ),
        away(
            "a continuation of nothing",
            frame(CONTINUATION, END_HEADERS, 1, &block_),
        ),
        away(
            "a ping inside of a header",
            [half, frame(PING, 0, 0, &[0; 8])].concat(),
        ),
        away("a flood of empty continuations", flood),
        away(
            "a header that does not decompress",
            headers(1, END_STREAM, &[0xff; 64]),
        ),
        away(
            "an index that is not there",
            headers(1, END_STREAM, &[0xfe]),
        ),
        away_by(
            COMPRESSION_ERROR,
            "a string longer than its block",
            headers(1, END_STREAM, &[0, 5, b'x']),
        ),
        away(
            "padding longer than its frame",
            frame(HEADERS, END_HEADERS | 8, 1, &[200, 0x82]),
        ),
        away_by(
            FRAME_SIZE_ERROR,
            "a frame of 20 KiB",
            frame(DATA, 0, 1, &[0; 20 << 10]),
        ),
        away_by(
            COMPRESSION_ERROR,
            "a field without its value",
            headers(1, END_STREAM, &[0x40]),
        ),
    ]);
}

#[test]
fn what_comes_behind_the_end_of_a_stream_ends_the_connection() {
    play(|| {
        let stage = Stage::new("");
        let own = GET.map(|(name, value)| (name, if name == ":path" { "/own" } else { value }));
        let ask = |stream| headers(stream, END_STREAM, &block(&bytes_of(&own)));
        let begin = |stream| headers(stream, 0, &block(&bytes_of(&own)));
        let data = |stream| frame(DATA, END_STREAM, stream, b"x");
        let reset = |stream| frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]);
        let trailers = headers(1, END_STREAM, &block(&[(b"x", b"y")]));
        for (name, code, frames) in [
            ("data behind a header", STREAM_CLOSED, [ask(1), data(1)]),
            ("a header behind a header", STREAM_CLOSED, [ask(1), ask(1)]),
            (
                "data behind data",
                STREAM_CLOSED,
                [[begin(1), data(1)].concat(), data(1)],
            ),
            (
                "data behind trailers",
                STREAM_CLOSED,
                [[begin(1), trailers].concat(), data(1)],
            ),
            (
                "data behind a reset",
                STREAM_CLOSED,
                [[begin(1), reset(1)].concat(), data(1)],
            ),
            (
                "a header on a stream before the last",
                STREAM_CLOSED,
                [[ask(1), ask(3)].concat(), ask(1)],
            ),
            (
                "a header on a stream that was skipped",
                PROTOCOL_ERROR,
                [ask(5), ask(3)],
            ),
        ] {
            let mut peer = Peer::connect(stage.proxy.address());
            peer.client.send(frames.concat());
            assert_eq!(peer.outcome(u32::MAX), Outcome::Away, "{name}");
            assert_eq!(peer.goaway, Some(code), "{name}");
            while peer.read().is_some() {}
        }
        // What is right is let be: other streams, a window, a priority and a reset for one that has ended.
        let mut peer = Peer::connect(stage.proxy.address());
        peer.client.send([ask(1), begin(3), data(3)].concat());
        assert_eq!(peer.outcome(3), Outcome::Status(200));
        let late = [
            frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]),
            frame(PRIORITY, 0, 1, &[0; 5]),
            reset(3),
        ];
        peer.client.send([late.concat(), ask(5)].concat());
        assert_eq!(peer.outcome(5), Outcome::Status(200));
        drop(peer);
        let records = stage.proxy.stop();
        let may_be = [(200, ""), (400, "frames_malformed"), (499, "client_gone")];
        let wrong: Vec<_> = records
            .iter()
            .filter(|record| !may_be.contains(&ending(record)))
            .collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    });
}

#[test]
fn an_exchange_whose_client_breaks_a_rule_says_so() {
    play(|| {
        let stage = Stage::new("");
        let stall = GET.map(|(name, value)| (name, if name == ":path" { "/stall" } else { value }));
        for (bytes, code) in [
            (frame(PING, 0, 0, &[0; 7]), FRAME_SIZE_ERROR),
            // The codec finds this one.
            (frame(DATA, 0, 0, b"x"), PROTOCOL_ERROR),
        ] {
            let mut peer = Peer::connect(stage.proxy.address());
            peer.client.send(ask(&stall));
            stage.origin.saw(&[("GET /stall", "")], &[]);
            peer.client.send(bytes);
            assert_eq!(peer.outcome(1), Outcome::Away);
            assert_eq!(peer.goaway, Some(code));
            while peer.read().is_some() {}
        }
        let records = stage.proxy.stop();
        let endings: Vec<_> = records.iter().map(ending).collect();
        assert_eq!(endings, [(400, "frames_malformed"); 2]);
    });
}

#[test]
fn prefaces_that_are_none_end_the_connection() {
    play(|| {
        let stage = Stage::new("");
        for bytes in [
            &b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"[..],
            &[PREFACE, b"GET / HTTP/1.1\r\n\r\n"].concat(),
            &[PREFACE, &frame(PING, 0, 0, &[0; 7])].concat(),
            &[PREFACE, &[0xff; 100]].concat(),
        ] {
            let mut client = stage.proxy.client();
            client.send(bytes);
            client.wire.rest();
        }
        stage.origin.saw(&[], &[]);
        stage.end();
    });
}

#[test]
fn two_thousand_streams_reset_at_once_reach_nobody() {
    play(|| {
        let stage = Stage::new("");
        let mut peer = Peer::connect(stage.proxy.address());
        let mut bytes = Vec::new();
        let stall = GET.map(|(name, value)| (name, if name == ":path" { "/stall" } else { value }));
        let block = block(&bytes_of(&stall));
        for stream in (1..4001).step_by(2) {
            bytes.extend(headers(stream, END_STREAM, &block));
            bytes.extend(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
        }
        peer.client.send(&bytes);
        assert_eq!(peer.outcome(u32::MAX), Outcome::Away);
        while peer.read().is_some() {}
        let seen = stage.origin.seen.lock().unwrap().requests.len();
        assert!(seen < 200, "the endpoint saw {seen} requests");
        stage.origin.is_sound();
        let records = stage.proxy.stop();
        let is_told = |record| matches!(ending(record), (499, "client_gone" | "control_flood"));
        assert!(records.iter().all(is_told), "{records:?}");
    });
}

#[test]
fn streams_that_are_reset_one_by_one_come_to_an_end() {
    play(|| {
        let stage = Stage::new("");
        let mut peer = Peer::connect(stage.proxy.address());
        let stall = GET.map(|(name, value)| (name, if name == ":path" { "/stall" } else { value }));
        let block = block(&bytes_of(&stall));
        let mut resets = 0;
        // Each is taken up before it is reset: the answer to the ping comes behind.
        'streams: loop {
            let stream = resets * 2 + 1;
            let ping = frame(PING, 0, 0, &[1; 8]);
            peer.client
                .send([headers(stream, END_STREAM, &block), ping].concat());
            loop {
                match peer.read() {
                    None | Some((GOAWAY, ..)) => break 'streams,
                    Some((PING, ACK, _, payload)) if payload == [1; 8] => break,
                    Some(_) => {}
                }
            }
            peer.client
                .send(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
            resets += 1;
            assert!(resets < 1200, "nobody minds");
        }
        assert!(resets >= 1000, "{resets} are not many");
        // What the client sends from now on is not looked at.
        drop(peer);
        let records = stage.proxy.records(1000);
        let is_told = |record| matches!(ending(record), (499, "client_gone" | "control_flood"));
        assert!(records.iter().all(is_told), "{records:?}");
        stage.origin.is_sound();
    });
}

#[test]
fn what_crosses_the_last_goaway_is_not_looked_at_and_resets_nothing() {
    play(|| {
        let stage = Stage::new("");
        let mut peer = Peer::connect(stage.proxy.address());
        peer.client.send(ask(&GET));
        assert_eq!(peer.outcome(1), Outcome::Status(200));
        stage.proxy.drain();
        // First it says that it takes no more, and asks whether the client knows (RFC 9113 §6.8).
        let question = loop {
            match peer.read().unwrap() {
                (GOAWAY, .., payload) => assert_eq!(payload, farewell(u32::MAX >> 1)),
                (PING, 0, _, payload) => break payload,
                _ => {}
            }
        };
        let late = headers(3, END_STREAM, &block(&bytes_of(&GET)));
        let unknown = frame(0xbe, 0, 0, &[0; 1 << 10]);
        let answer = frame(PING, ACK, 0, &question);
        peer.client.send([answer, late].concat());
        let (rest, end) = peer.client.wire.rest();
        assert_eq!(rest, frame(GOAWAY, 0, 0, &farewell(1)));
        assert_eq!(end, End::Whole);
        // What is still on its way is read too: a reset would break one of these.
        assert!((0..512).all(|_| peer.client.send(&unknown)));
        stage.origin.saw(&[("GET /good", "")], &[]);
        drop(peer);
        assert_eq!(stage.proxy.stop().len(), 1);
    });
}

/// GOAWAY without an error: the last stream that was looked at.
fn farewell(last: u32) -> Vec<u8> {
    [last, 0].map(u32::to_be_bytes).concat()
}
