//! An endpoint that writes down every request it gets, and takes nothing that is not one.
//!
//! It answers 200, but leaves `/stall…` without an answer, and answers `/endless…` without an end.

use std::io::Read;
use std::sync::{Arc, Mutex};

use super::oracle::{self, Found, Request};
use crate::harness::backend::{self, Backend, Connection};
use crate::harness::expect;

/// The field of an answer that says to whose request it is.
pub const ECHO: &str = "x-echo";

/// What it says: the values of the request's `X-Id`, in digits, so that whatever they hold is a value.
pub fn echo(request: &Request) -> String {
    let ids = request.all("x-id").join(&b' ');
    ids.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What came, in the order in which the heads came.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub requests: Vec<Entry>,
    /// What was no request.
    pub broken: Vec<String>,
    /// How far [`Origin::saw`] has looked.
    judged: usize,
    /// Requests of which a part may come.
    begun: Vec<String>,
}

/// A request.
#[derive(Clone, Debug)]
pub struct Entry {
    pub request: Request,
    /// Whether its body came to its end.
    pub is_whole: bool,
    /// Whether its connection has ended before that.
    pub is_cut: bool,
}

/// The endpoint.
pub struct Origin {
    pub backend: Backend,
    pub seen: Arc<Mutex<Seen>>,
}

/// Starts one.
pub fn start() -> Origin {
    let seen = Arc::<Mutex<Seen>>::default();
    let notes = Arc::clone(&seen);
    let backend = backend::script(move |connection| converse(connection, &notes));
    Origin { backend, seen }
}

fn converse(connection: &mut Connection, seen: &Mutex<Seen>) {
    let mut bytes = Vec::new();
    let mut number = None;
    loop {
        let found = oracle::read(&bytes, 0);
        let mut notes = seen.lock().unwrap();
        let (request, is_whole, used) = match found {
            Found::Whole(request, used) => (Some(request), true, used),
            Found::Part(request) => (request, false, 0),
            Found::Broken(why, _) => {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                notes.broken.push(format!("{why}: {text:?}"));
                return;
            }
        };
        let line = request.as_ref().map(Request::line).unwrap_or_default();
        let whose = request.as_ref().map(echo).unwrap_or_default();
        let target = line.split(' ').nth(1).unwrap_or_default();
        if let Some(request) = request {
            let entry = Entry {
                request,
                is_whole,
                is_cut: false,
            };
            match number {
                Some(number) => notes.requests[number] = entry,
                None => {
                    number = Some(notes.requests.len());
                    notes.requests.push(entry);
                }
            }
        }
        drop(notes);
        if is_whole {
            bytes.drain(..used);
            if target.starts_with("/stall") {
                connection.until_closed();
                return;
            }
            if target.starts_with("/endless") {
                let some = "x".repeat(16 << 10);
                connection.send("HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n");
                while connection.send(&some) {}
                connection.count(1);
                return;
            }
            number = None;
            let body = if line.starts_with("HEAD ") { "" } else { "ok" };
            let answer =
                format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n{ECHO}: {whose}\r\n\r\n{body}");
            if !connection.send(answer) {
                return;
            }
            if !bytes.is_empty() {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                let mut notes = seen.lock().unwrap();
                notes.broken.push(format!("behind a request: {text:?}"));
            }
            continue;
        }
        let mut some = [0; 16 << 10];
        match connection.wire.stream().read(&mut some) {
            Ok(read @ 1..) => bytes.extend(&some[..read]),
            Ok(0) | Err(_) => {
                let mut notes = seen.lock().unwrap();
                match number {
                    Some(number) => notes.requests[number].is_cut = true,
                    None if bytes.is_empty() => {}
                    None => notes.broken.push("a head that was cut".to_owned()),
                }
                return;
            }
        }
    }
}

impl Origin {
    /// The whole requests since the last call are these, bodies included; of others at most those in `begun`, since
    /// the first call, have begun.
    #[track_caller]
    pub fn saw(&self, expected: &[(&str, &str)], begun: &[&str]) {
        let told: Vec<_> = expected
            .iter()
            .map(|(line, body)| format!("{line} {body}"))
            .collect();
        let got = expect::eventually(&format!("the endpoint saw {told:?}"), || {
            let mut seen = self.seen.lock().unwrap();
            let got: Vec<_> = seen
                .requests
                .iter()
                .skip(seen.judged)
                .filter(|entry| entry.is_whole)
                .map(|Entry { request, .. }| {
                    format!(
                        "{} {}",
                        request.line(),
                        String::from_utf8_lossy(&request.body)
                    )
                })
                .collect();
            if got.len() < told.len() {
                return None;
            }
            seen.judged = seen.requests.len();
            Some(got)
        });
        assert_eq!(got, told);
        let mut seen = self.seen.lock().unwrap();
        seen.begun
            .extend(begun.iter().map(|line| (*line).to_owned()));
        for entry in seen.requests.iter().filter(|entry| !entry.is_whole) {
            let line = entry.request.line();
            assert!(seen.begun.contains(&line), "a part of {line} came");
        }
        drop(seen);
        self.is_sound();
    }

    /// Nothing came that was no request.
    #[track_caller]
    pub fn is_sound(&self) {
        let seen = self.seen.lock().unwrap();
        assert!(seen.broken.is_empty(), "{:?}", seen.broken);
    }
}
