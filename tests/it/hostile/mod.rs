//! Malformed and hostile requests, row by row: what each is answered, which fault is logged, how the connection
//! ends, and what the endpoint gets to see of it.
//!
//! Each module is a part of the table. A [`Row`] is played on a connection of its own, first whole, then byte by
//! byte; [`check`] holds it against all four. RFC 9110, RFC 9112 and RFC 9113.

mod floods;
mod frames;
mod framing;
mod h2;
mod half;
mod heads;
mod oracle;
mod origin;
mod pipelines;
mod random;
mod slow;
mod smuggling;
mod targets;
mod tls;

use std::thread;

use serde_json::Value;

use self::origin::Origin;
use crate::harness::client::Client;
use crate::harness::proxy::{self, Proxy};
use crate::harness::wire::End;

/// Longer rows are not played byte by byte.
const SPLIT_BYTES: usize = 2048;

/// How a connection ends after a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Closed, every answer readable before.
    Closed,
    /// Kept: the next request is answered.
    Kept,
}

/// What a client sends, and what has to come of it.
struct Row {
    name: &'static str,
    bytes: Vec<u8>,
    answers: Vec<u16>,
    /// Status and fault of each access record.
    records: Vec<(u16, &'static str)>,
    fate: Fate,
    /// First line and body of each request that the endpoint sees.
    seen: Vec<(&'static str, &'static str)>,
    /// First lines of requests that the endpoint may see begin, and never end.
    begun: Vec<&'static str>,
    half_closes: bool,
    is_whole: bool,
}

fn row(name: &'static str, bytes: impl AsRef<[u8]>) -> Row {
    Row {
        name,
        bytes: bytes.as_ref().to_vec(),
        answers: Vec::new(),
        records: Vec::new(),
        fate: Fate::Kept,
        seen: Vec::new(),
        begun: Vec::new(),
        half_closes: false,
        is_whole: false,
    }
}

impl Row {
    /// A request passes and the connection goes on; the endpoint sees this line.
    fn passes(self, line: &'static str) -> Self {
        self.passes_with(line, "")
    }

    /// The same with a body.
    fn passes_with(mut self, line: &'static str, body: &'static str) -> Self {
        self.answers.push(200);
        self.records.push((200, ""));
        self.seen.push((line, body));
        self
    }

    /// A request is answered by us, and the connection ends.
    fn refused(mut self, status: u16, fault: &'static str) -> Self {
        self.fate = Fate::Closed;
        self.turned_down(status, fault)
    }

    /// A request is answered by us, and the connection goes on.
    fn turned_down(mut self, status: u16, fault: &'static str) -> Self {
        self.answers.push(status);
        self.records.push((status, fault));
        self
    }

    /// A request ends in this record, and in no answer.
    fn unanswered(mut self, status: u16, fault: &'static str) -> Self {
        self.fate = Fate::Closed;
        self.records.push((status, fault));
        self
    }

    /// The endpoint may see the beginning of a request that breaks off.
    fn begins(mut self, line: &'static str) -> Self {
        self.begun.push(line);
        self
    }

    /// The connection ends after the answer.
    fn closed(mut self) -> Self {
        self.fate = Fate::Closed;
        self
    }

    /// The row is not played byte by byte.
    fn whole(mut self) -> Self {
        self.is_whole = true;
        self
    }

    /// The client closes its half behind the last byte.
    fn half_closed(mut self) -> Self {
        self.half_closes = true;
        self
    }
}

/// A proxy before a recording endpoint.
struct Stage {
    origin: Origin,
    proxy: Proxy,
    /// Name, status and fault of the records that must be there in the end.
    records: Vec<(&'static str, u16, &'static str)>,
    /// Records that may be there besides.
    besides: Option<(u16, &'static str)>,
}

impl Stage {
    fn new(more: &str) -> Self {
        Self::on("", more)
    }

    /// The same with listeners.
    fn on(listeners: &str, more: &str) -> Self {
        let origin = origin::start();
        let text = format!(
            "{listeners}\nroutes:\n  - pool: app\n  - {{ match: {{ host: slash.test }}, pool: app, \
             danger_allow_encoded_slashes: true }}\n  - {{ match: {{ path: {{ exact: /own }} }}, \
             respond: {{ body: own }} }}\npools: {{ app: {{ endpoints: [\"@origin\"] }} }}\n{more}\n"
        );
        let proxy = proxy::start(&text, &[("origin", &origin.backend)]);
        Self {
            origin,
            proxy,
            records: Vec::new(),
            besides: None,
        }
    }

    /// Plays a row on a connection.
    fn play(&mut self, row: &Row, is_split: bool) {
        let mut client = self.proxy.client();
        if is_split {
            // The proxy may close before the last byte.
            let _ = row.bytes.iter().all(|byte| client.send([*byte]));
        } else {
            client.send(&row.bytes);
        }
        if row.half_closes {
            client.wire.half_close();
        }
        self.judge(row, client);
    }

    /// Reads what comes of it.
    fn judge(&mut self, row: &Row, mut client: Client) {
        for (nth, status) in row.answers.iter().enumerate() {
            let mut answer = client.head();
            if !row.bytes.starts_with(b"HEAD ") {
                client.wire.answer_body(&mut answer);
            }
            assert_eq!(answer.status(), *status, "answer {nth}: {answer:?}");
            let is_last = nth + 1 == row.answers.len();
            let closes = answer.field("connection").is_some_and(|is| is == "close");
            let may_close = is_last && row.fate == Fate::Closed;
            assert!(!closes || may_close, "closes early: {answer:?}");
        }
        let records = row.records.iter();
        self.records
            .extend(records.map(|(status, fault)| (row.name, *status, *fault)));
        match row.fate {
            Fate::Closed => {
                let (rest, end) = client.rest();
                assert_eq!((rest.as_str(), end), ("", End::Whole));
            }
            Fate::Kept => {
                let answer = client.get("/own");
                assert_eq!((answer.status(), answer.text()), (200, "own"));
                self.records.push((row.name, 200, ""));
            }
        }
        drop(client);
        self.origin.saw(&row.seen, &row.begun);
    }

    /// Ends the proxy, and looks at what it wrote: a record for each exchange, in their order.
    fn end(self) {
        let mut records = self.proxy.stop();
        records.retain(|record| Some(ending(record)) != self.besides);
        let mut wrong = Vec::new();
        for (record, expected) in records.iter().zip(&self.records) {
            let (name, status, fault) = *expected;
            if ending(record) != (status, fault) {
                wrong.push(format!("{name}: not {status} {fault:?} but {record}"));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
        assert_eq!(records.len(), self.records.len(), "{:?}", records.last());
        self.origin.is_sound();
    }
}

/// Status and fault of a record.
fn ending(record: &Value) -> (u16, &str) {
    let status = record["status"].as_u64().unwrap();
    let fault = record["fault"].as_str().unwrap_or_default();
    (u16::try_from(status).unwrap(), fault)
}

/// Plays all rows, and tells all that went wrong.
fn check(rows: Vec<Row>) {
    check_with("", rows);
}

/// The same with more at the top level of the config.
fn check_with(more: &'static str, rows: Vec<Row>) {
    let mut stage = Some(Stage::new(more));
    let mut wrong = Vec::new();
    for row in rows {
        for is_split in [false, true] {
            if is_split && (row.is_whole || row.bytes.len() > SPLIT_BYTES) {
                continue;
            }
            let name = row.name;
            let mut here = stage.take().unwrap_or_else(|| Stage::new(more));
            let played = thread::scope(|scope| {
                let play = || {
                    here.play(&row, is_split);
                    here
                };
                // A thread's name stands before what it panics with.
                let thread = thread::Builder::new().name(format!("row: {name}"));
                thread.spawn_scoped(scope, play).unwrap().join()
            });
            match played {
                Ok(here) => stage = Some(here),
                Err(_) => {
                    wrong.push(name);
                    break;
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    stage.unwrap().end();
}
