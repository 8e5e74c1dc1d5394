//! Random mutations of valid requests, from two clients at a time over the same connections to the endpoint: what that sees
//! is always what RFC 9112 says that a client has sent, or nothing, and each client gets the answers to its own requests.

use std::collections::HashMap;
use std::thread;

use super::oracle::{self, Found, Request};
use super::origin::{ECHO, Entry, echo};
use super::random::{Random, note, runs};
use super::{Stage, ending};
use crate::harness::client::Client;
use crate::harness::expect;
use crate::harness::wire::End;

/// Runs, and the rounds of one.
const RUNS: u64 = 4;
const ROUNDS: u64 = 300;

/// A valid request; `id` is unique.
fn valid(random: &mut Random, id: &str) -> Vec<u8> {
    let inner = format!("GET /{id}/inner HTTP/1.1\r\nHost: app.test\r\nX-Id: {id}\r\n\r\n");
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let head = |method: &str, fields: &str| {
        format!("{method} /{id} HTTP/1.1\r\nHost: app.test\r\nX-Id: {id}\r\n{fields}\r\n")
    };
    let request = match random.below(9) {
        0 => head("GET", ""),
        1 => head("DELETE", "Accept: */*\r\nCookie: a=b\r\n"),
        2 => head("POST", "Content-Length: 5\r\n") + "hello",
        3 => head("POST", &format!("Content-Length: {}\r\n", inner.len())) + &inner,
        4 => head("PUT", "Transfer-Encoding: chunked\r\n") + &chunk("hello") + "0\r\n\r\n",
        5 => {
            head("POST", "Transfer-Encoding: chunked\r\n")
                + &chunk(&inner)
                + "3;x=y\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n"
        }
        6 => format!("GET http://app.test/{id}?q HTTP/1.1\r\nHost: app.test\r\nX-Id: {id}\r\n\r\n"),
        7 => head("GET", "Connection: upgrade\r\nUpgrade: websocket\r\n"),
        _ => head(
            "POST",
            "Content-Length: 0\r\nConnection: keep-alive, x-hop\r\nX-Hop: 1\r\n",
        ),
    };
    request.into_bytes()
}

/// Changes some bytes, most of the time where it hurts.
fn mutate(random: &mut Random, bytes: &mut Vec<u8>) {
    let tokens: [&[u8]; 36] = [
        b"\r\n",
        b"\n",
        b"\r",
        b"\r\n\r\n",
        b" ",
        b"\t",
        b"\0",
        b":",
        b",",
        b";",
        b"0",
        b"1",
        b"5",
        b"-",
        b"+",
        b"0x",
        b"f",
        b"\x0b",
        b"\x0c",
        b"\x7f",
        b"\xff",
        b"chunked",
        b"gzip",
        b"identity",
        b"Content-Length: 5\r\n",
        b"Content-Length: 0\r\n",
        b"content-length : 3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: x\r\n",
        b"Transfer-Encoding:\r\n chunked\r\n",
        b"Host: other.test\r\n",
        b"HTTP/1.0",
        b"Connection: close\r\n",
        b"0\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: app.test\r\n\r\n",
        b"Connection: content-length, transfer-encoding\r\n",
    ];
    let times = 1 + random.below(3);
    for _ in 0..times {
        let length = bytes.len();
        if length == 0 {
            return;
        }
        // The head of a line is where most parsers differ.
        let starts: Vec<usize> = (1..length).filter(|at| bytes[at - 1] == b'\n').collect();
        let at = match random.below(2) {
            0 if !starts.is_empty() => starts[random.below(starts.len())],
            _ => random.below(length),
        };
        match random.below(7) {
            0 => bytes[at] = random.byte(),
            1 => bytes[at] ^= 0x20,
            2 => {
                bytes.remove(at);
            }
            3 => {
                let end = (at + 1 + random.below(8)).min(length);
                bytes.drain(at..end);
            }
            4 => {
                let end = (at + 1 + random.below(30)).min(length);
                let piece = bytes[at..end].to_vec();
                let to = random.below(length);
                bytes.splice(to..to, piece);
            }
            _ => {
                let token = random.one(&tokens);
                bytes.splice(at..at, token.iter().copied());
            }
        }
    }
}

/// What RFC 9112 finds in the client's bytes.
struct Justified {
    requests: Vec<Request>,
    /// A request whose body does not end, or breaks.
    part: Option<Request>,
    end: Ending,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Clean,
    Part,
    Broken,
}

fn justify(bytes: &[u8]) -> Justified {
    let mut requests = Vec::new();
    let mut rest = bytes;
    let (part, end) = loop {
        if rest.is_empty() {
            break (None, Ending::Clean);
        }
        match oracle::read(rest, 4) {
            Found::Whole(request, used) => {
                requests.push(request);
                rest = &rest[used..];
            }
            Found::Part(part) => break (part, Ending::Part),
            Found::Broken(_, part) => break (part, Ending::Broken),
        }
    };
    Justified {
        requests,
        part,
        end,
    }
}

/// One client of a round: what it sends, in which pieces, and what RFC 9112 finds in that.
struct Talk {
    bytes: Vec<u8>,
    pieces: Vec<Vec<u8>>,
    found: Justified,
}

impl Talk {
    /// Three requests, of which the middle one is spoiled.
    fn new(random: &mut Random, name: &str) -> Self {
        let mut bytes = valid(random, &format!("{name}-a"));
        let mut mutant = valid(random, &format!("{name}-b"));
        mutate(random, &mut mutant);
        bytes.extend(mutant);
        bytes.extend(valid(random, &format!("{name}-c")));
        Self {
            pieces: random.split(&bytes),
            found: justify(&bytes),
            bytes,
        }
    }

    fn shown(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        format!("{text:?} in {} pieces", self.pieces.len())
    }

    /// Sends it, and reads answers until the last request's, or to the end: each one's status, and whose answer it is.
    fn hold(&self, client: &mut Client) -> Vec<(u16, Option<String>)> {
        // The proxy may close before the last piece.
        let _ = self.pieces.iter().all(|piece| client.send(piece));
        let end = self.found.end;
        if end == Ending::Part {
            client.wire.half_close();
        }
        let mut answers = Vec::new();
        while let Ok(mut head) = client.wire.head() {
            client.wire.answer_body(&mut head);
            assert_eq!(head.end, End::Whole, "{head:?}");
            let whose = head.field(ECHO).map(str::to_owned);
            answers.push((head.status(), whose));
            let closes = head.field("connection").is_some_and(|is| is == "close");
            let is_last = answers.len() == self.found.requests.len();
            if end == Ending::Clean && is_last && !closes {
                break;
            }
        }
        answers
    }

    /// Holds the answers against the requests: in their order, each to its own.
    fn judge(&self, answers: &[(u16, Option<String>)]) {
        let requests = &self.found.requests;
        for (nth, (status, whose)) in answers.iter().enumerate() {
            // An endpoint that got something odd would have broken off.
            assert!(!matches!(status, 500 | 502..=504), "{answers:?}");
            let Some(whose) = whose else {
                assert_ne!(*status, 200, "{answers:?}");
                continue;
            };
            let request = requests.get(nth);
            let asked = request.map(echo);
            assert_eq!(Some(whose), asked.as_ref(), "answer {nth} of {answers:?}");
        }
    }
}

#[test]
fn mutated_requests_never_reach_the_endpoint_as_what_they_are_not() {
    runs(RUNS, run);
}

fn run(seed: u64) {
    let stage = Stage::new("");
    let mut random = Random::new(seed);
    let mut justified = HashMap::<(String, Vec<u8>), Vec<Justification>>::new();
    let (mut passed, mut refused) = (0, 0);
    for round in 0..ROUNDS {
        let talks = ["x", "y"].map(|name| Talk::new(&mut random, &format!("{round}-{name}")));
        note(&format!(
            "round {round}: {}",
            talks.each_ref().map(Talk::shown).join(" and ")
        ));
        let answers = thread::scope(|scope| {
            let stage = &stage;
            let held = talks.each_ref().map(|talk| {
                let hold = move || talk.hold(&mut stage.proxy.client());
                scope.spawn(hold)
            });
            held.map(thread::ScopedJoinHandle::join)
        });
        for (talk, answers) in talks.into_iter().zip(answers) {
            let judged = answers.and_then(|answers| {
                let judge = || talk.judge(&answers);
                let judged = std::panic::catch_unwind(std::panic::AssertUnwindSafe(judge));
                judged.map(|()| answers)
            });
            let Ok(answers) = judged else {
                panic!("seed {seed}, round {round}: {}", talk.shown());
            };
            let served = answers.iter().filter(|(status, _)| *status == 200).count();
            match served == answers.len() && served >= 3 {
                true => passed += 1,
                false => refused += 1,
            }
            let Justified { requests, part, .. } = talk.found;
            let part = part.into_iter().map(|request| (request, false));
            for (request, is_whole) in requests.into_iter().map(|r| (r, true)).chain(part) {
                let (host, target) = request.place();
                let key = (format!("{} {target}", request.method), host);
                let ids = request.all("x-id").into_iter().map(<[u8]>::to_vec);
                justified.entry(key).or_default().push(Justification {
                    ids: ids.collect(),
                    body: request.body,
                    is_whole,
                    is_used: false,
                });
            }
        }
    }
    let seen = expect::eventually("the endpoint is done", || {
        let seen = stage.origin.seen.lock().unwrap().clone();
        let is_done = |entry: &Entry| entry.is_whole || entry.is_cut;
        seen.requests.iter().all(is_done).then_some(seen)
    });
    assert!(seen.broken.is_empty(), "seed {seed}: {:?}", seen.broken);
    for entry in &seen.requests {
        is_justified(&mut justified, entry, seed);
    }
    // Neither all nor nothing: else the mutations would not tell anything.
    assert!(
        passed > ROUNDS / 10 && refused > ROUNDS / 10,
        "seed {seed}: {passed} and {refused}"
    );
    let records = stage.proxy.stop();
    let is_ours = |record| match ending(record) {
        (status, fault) if status >= 500 => {
            matches!(
                fault,
                "coding_unknown" | "method_refused" | "version_unknown"
            )
        }
        _ => true,
    };
    let odd = records.iter().find(|record| !is_ours(record));
    assert!(odd.is_none(), "seed {seed}: {odd:?}");
}

/// What a client's bytes allow the endpoint to see, once.
struct Justification {
    body: Vec<u8>,
    ids: Vec<Vec<u8>>,
    is_whole: bool,
    is_used: bool,
}

#[track_caller]
fn is_justified(
    justified: &mut HashMap<(String, Vec<u8>), Vec<Justification>>,
    entry: &Entry,
    seed: u64,
) {
    let (host, target) = entry.request.place();
    let key = (format!("{} {target}", entry.request.method), host);
    let ids = entry.request.all("x-id");
    let fits = |one: &&mut Justification| {
        let body = match (entry.is_whole, one.is_whole) {
            (true, true) => one.body == entry.request.body,
            (true, false) => false,
            (false, _) => one.body.starts_with(&entry.request.body),
        };
        !one.is_used && body && one.ids.iter().map(Vec::as_slice).eq(ids.iter().copied())
    };
    let found = justified
        .get_mut(&key)
        .and_then(|all| all.iter_mut().find(fits));
    let Some(found) = found else {
        panic!("seed {seed}: nobody sent {entry:?}");
    };
    found.is_used = true;
}
