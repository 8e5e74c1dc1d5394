//! Clients that close their half, or go away, somewhere in a request or its answer. RFC 9112 §8 and §9.

use super::{Row, Stage, check, row};
use crate::harness::expect;
use crate::harness::play;

/// A request with a part of its body.
fn part(name: &'static str, fields: &str, body: &str) -> Row {
    let head = format!("POST / HTTP/1.1\r\nHost: app.test\r\n{fields}\r\n\r\n{body}");
    row(name, head).half_closed()
}

#[test]
fn a_client_that_closes_its_half_is_gone() {
    let good = "GET /good HTTP/1.1\r\nHost: app.test\r\n\r\n";
    let gone = |row: Row| row.unanswered(499, "client_gone");
    // It may still be reading.
    let told = |row: Row| Row {
        answers: vec![400],
        ..gone(row).begins("POST /")
    };
    let rows = vec![
        row("no byte", "").half_closed().closed(),
        row("an empty line", "\r\n").half_closed().closed(),
        gone(row("in the method", "GE").half_closed()),
        gone(row("in a field", "GET / HTTP/1.1\r\nHost: ap").half_closed()),
        gone(
            row(
                "before the empty line",
                "GET / HTTP/1.1\r\nHost: app.test\r\n",
            )
            .half_closed(),
        ),
        told(part("before the body", "Content-Length: 5", "")),
        told(part("in the body", "Content-Length: 5", "hel")),
        told(part(
            "before the first chunk",
            "Transfer-Encoding: chunked",
            "",
        )),
        told(part(
            "in the size of a chunk",
            "Transfer-Encoding: chunked",
            "5",
        )),
        told(part("in a chunk", "Transfer-Encoding: chunked", "5\r\nhel")),
        told(part(
            "before the last chunk",
            "Transfer-Encoding: chunked",
            "2\r\nok\r\n",
        )),
        told(part(
            "in the trailers",
            "Transfer-Encoding: chunked",
            "0\r\na: b\r\n",
        )),
        row(
            "in what is refused",
            "GET / HTTP/1.1\r\nHost: a, b\r\n\r\nmore",
        )
        .half_closed()
        .refused(400, "host_invalid"),
    ];
    play(|| {
        check(rows);
        // After an answer.
        let mut stage = Stage::new("");
        for rest in ["", "GET /", "\r\n"] {
            let mut client = stage.proxy.client();
            assert_eq!(client.ask(good).status(), 200);
            stage.records.push(("between requests", 200, ""));
            client.send(rest);
            client.wire.half_close();
            client.is_closed();
            if rest == "GET /" {
                stage
                    .records
                    .push(("in the second head", 499, "client_gone"));
            }
        }
        stage.end();
    });
}

#[test]
fn a_client_that_resets_its_connection_takes_its_request_along() {
    play(|| {
        let mut stage = Stage::new("");
        let stall = "GET /stall HTTP/1.1\r\nHost: app.test\r\n\r\n";
        let clients = [
            ("closed while the endpoint thinks", stall, false, 499),
            ("reset while the endpoint thinks", stall, false, 499),
            (
                "in the answer",
                "GET /endless HTTP/1.1\r\nHost: app.test\r\n\r\n",
                true,
                200,
            ),
            (
                "in the body",
                "POST /stall HTTP/1.1\r\nHost: app.test\r\nContent-Length: 9\r\n\r\nhello",
                false,
                499,
            ),
        ];
        for (before, (name, bytes, reads, status)) in clients.into_iter().enumerate() {
            let mut client = stage.proxy.client();
            client.send(bytes);
            if reads {
                assert_eq!(client.head().status(), 200);
            } else {
                let seen = || stage.origin.seen.lock().unwrap().requests.len();
                expect::eventually("the endpoint has it", || (seen() > before).then_some(()));
            }
            if name.starts_with("closed") {
                client.wire.half_close();
                client.is_closed();
            } else {
                client.wire.reset();
            }
            stage.records.push((name, status, "client_gone"));
            // The endpoint is told: its connection ends.
            expect::eventually(name, || {
                let seen = stage.origin.backend.seen();
                let is_cut = stage
                    .origin
                    .seen
                    .lock()
                    .unwrap()
                    .requests
                    .iter()
                    .any(|e| e.is_cut);
                (seen.closed + seen.written + usize::from(is_cut) > before).then_some(())
            });
        }
        stage.end();
    });
}
