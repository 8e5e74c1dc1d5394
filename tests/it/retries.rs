//! Attempts beyond the first: where they go, what they cost, and what is never sent twice.

use std::time::Duration;

use http::Request;
use serde_json::Value;

use crate::harness::backend::{Backend, Connection};
use crate::harness::h2::{self, Pieces};
use crate::harness::proxy::Proxy;
use crate::harness::{backend, config, expect, play, proxy};

/// A first endpoint and a second one that is asked when the first was; endpoints are not ejected.
fn one_then_other(one: &Backend, other: &Backend, route: &str, pool: &str) -> Proxy {
    proxy::start(&two(route, pool), &[("one", one), ("other", other)])
}

fn two(route: &str, pool: &str) -> String {
    format!(
        "routes: [{{ pool: app, {route} }}]\n\
         pools: {{ app: {{ endpoints: [\"@one\", {{ address: \"@other\", backup: true }}], outlier: off, {pool} }} }}"
    )
}

/// Says 503 with a body, and in words of its own.
fn busy() -> Backend {
    backend::says("HTTP/1.1 503 Come Back Later\r\nX-From: busy\r\nContent-Length: 4\r\n\r\nbusy")
}

/// Reads a whole request and closes without an answer.
fn breaks_off() -> Backend {
    backend::script(|connection| {
        connection.request();
    })
}

/// Answers all but `/slow`, where it says nothing until the other side has left.
fn slow_at_times() -> Backend {
    backend::script(|connection| {
        while let Some(request) = connection.request() {
            if request.target() == "/slow" {
                connection.until_closed();
                return;
            }
            connection.ok("first");
        }
    })
}

/// The same, but it answers there too, after a while.
fn late_at_times() -> Backend {
    backend::script(|connection| {
        while let Some(request) = connection.request() {
            if request.target() == "/slow" {
                expect::after(Duration::from_millis(300));
            }
            connection.ok("first");
        }
    })
}

/// A PUT with this behind its first fields.
fn put(rest: &str) -> String {
    format!("PUT / HTTP/1.1\r\nHost: app.test\r\n{rest}")
}

/// A PUT of a body whose length is told.
fn put_whole(body: &str) -> String {
    put(&format!("Content-Length: {}\r\n\r\n{body}", body.len()))
}

/// A PUT of a body in chunks of so many bytes, with what stands behind the last.
fn put_chunked(body: &str, bytes: usize, behind: &str) -> String {
    let chunks = body.as_bytes().chunks(bytes).map(|chunk| {
        let text = String::from_utf8_lossy(chunk);
        format!("{:x}\r\n{text}\r\n", chunk.len())
    });
    let chunks: String = chunks.collect();
    put(&format!(
        "Transfer-Encoding: chunked\r\n\r\n{chunks}0\r\n{behind}\r\n"
    ))
}

/// Reads a frame of HTTP/2, and gives its kind, its flags and its stream (RFC 9113 §4.1).
fn frame(connection: &mut Connection) -> Option<(u8, u8, [u8; 4])> {
    let (head, _) = connection.wire.exactly(9);
    let [high, middle, low, kind, flags, a, b, c, d] = head[..] else {
        return None;
    };
    let length = u32::from_be_bytes([0, high, middle, low]);
    connection.wire.exactly(length as usize);
    Some((kind, flags, [a, b, c, d]))
}

#[track_caller]
fn assert_record(record: &Value, attempts: u64, fault: Option<&str>) {
    let fault = fault.map_or(Value::Null, Value::from);
    assert_eq!(
        (&record["attempts"], &record["fault"]),
        (&attempts.into(), &fault)
    );
}

/// A body in which every place can be told from others.
fn long(bytes: usize) -> String {
    let lines = (0..).map(|number| format!("{number:07}\n"));
    let mut text: String = lines.take(bytes / 8 + 1).collect();
    text.truncate(bytes);
    text
}

#[test]
fn an_answer_of_a_gateway_that_failed_is_asked_for_elsewhere() {
    play(|| {
        for code in [
            "502 Bad Gateway",
            "503 Service Unavailable",
            "504 Gateway Timeout",
        ] {
            let text = format!("HTTP/1.1 {code}\r\nContent-Length: 0\r\n\r\n");
            let one = backend::says(Box::leak(text.into_boxed_str()));
            let other = backend::named("good");
            let proxy = one_then_other(&one, &other, "", "");
            assert_eq!(proxy.client().get("/").text(), "good");
            let record = proxy.record();
            assert_record(&record, 2, None);
            assert_eq!(record["endpoint"], other.to_string());
        }
    });
}

#[test]
fn when_nobody_else_is_there_the_answer_goes_to_the_client_as_it_is() {
    play(|| {
        let (one, other) = (busy(), busy());
        let proxy = one_then_other(&one, &other, "", "");
        let answer = proxy.client().get("/");
        assert_eq!((answer.status(), answer.text()), (503, "busy"));
        assert_eq!(answer.field("x-from"), Some("busy"));
        assert_record(&proxy.record(), 2, None);
        let alone = busy();
        let proxy = proxy::before(&[&alone]);
        assert_eq!(proxy.client().get("/").text(), "busy");
        assert_record(&proxy.record(), 1, None);
    });
}

#[test]
fn fields_of_the_request_are_whole_behind_an_answer_that_was_not_taken() {
    play(|| {
        let (one, other) = (busy(), backend::echo());
        let proxy = one_then_other(&one, &other, "", "");
        let answer = proxy
            .client()
            .ask("GET /a?b HTTP/1.1\r\nHost: app.test\r\nX-Mine: kept\r\n\r\n");
        assert!(answer.text().contains("x-mine: kept"), "{}", answer.text());
        assert!(
            answer.text().contains("host: app.test"),
            "{}",
            answer.text()
        );
    });
}

#[test]
fn which_statuses_are_asked_for_elsewhere_is_for_the_route_to_say() {
    play(|| {
        let (one, other) = (busy(), backend::named("good"));
        let proxy = one_then_other(&one, &other, "retry: { statuses: [429, 500] }", "");
        assert_eq!(proxy.client().get("/").text(), "busy");
        let limits = backend::says("HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n");
        let proxy = one_then_other(&limits, &other, "retry: { statuses: [429, 500] }", "");
        assert_eq!(proxy.client().get("/").text(), "good");
        for off in [
            "retry: off",
            "retry: { attempts: 0 }",
            "retry: { statuses: [] }",
        ] {
            let proxy = one_then_other(&one, &other, off, "");
            assert_eq!(proxy.client().get("/").text(), "busy", "{off}");
        }
    });
}

#[test]
fn a_post_is_never_sent_twice_unless_the_route_says_that_it_may() {
    play(|| {
        for one in [busy(), breaks_off()] {
            let other = backend::echo();
            let proxy = one_then_other(&one, &other, "", "");
            assert!(proxy.client().post("/", "order").status() >= 502);
            assert_eq!(other.seen().requests.len(), 0);
            assert_eq!(one.seen().requests.len(), 1);
            let proxy = one_then_other(&one, &other, "retry: { methods: [POST] }", "");
            let answer = proxy.client().post("/", "order");
            assert!(answer.text().ends_with("\n\norder"), "{}", answer.text());
            assert_eq!(other.seen().requests.len(), 1);
            assert_record(&proxy.record(), 2, None);
        }
    });
}

#[test]
fn a_body_is_sent_again_byte_for_byte() {
    play(|| {
        let body = long(64 << 10);
        let requests = [put_whole(&body), put_chunked(&body, 5000, "X-Sum: 7\r\n")];
        for one in [breaks_off(), busy()] {
            for request in &requests {
                let other = backend::echo();
                let proxy = one_then_other(&one, &other, "", "");
                let answer = proxy.client().ask(request);
                assert_eq!(answer.status(), 200);
                let seen = other.request();
                assert!(seen.body == body.as_bytes(), "{} bytes", seen.body.len());
                let record = proxy.record();
                assert_record(&record, 2, None);
                assert_eq!(record["bytes_in"], body.len());
            }
        }
    });
}

#[test]
fn a_body_that_is_longer_than_what_is_kept_is_sent_once() {
    play(|| {
        let body = long((64 << 10) + 1);
        let whole = put_whole(&body);
        let chunked = put_chunked(&body, body.len(), "");
        for (request, retry) in [
            (&whole, ""),
            (&chunked, ""),
            (&whole, "retry: { replay: 0B }"),
        ] {
            let (one, other) = (breaks_off(), backend::echo());
            let proxy = one_then_other(&one, &other, retry, "");
            assert_eq!(proxy.client().ask(request).status(), 502);
            assert_eq!(one.request().body.len(), body.len());
            assert!(other.seen().requests.is_empty());
            assert_record(&proxy.record(), 1, Some("response_missing"));
            let proxy = one_then_other(&one, &other, "retry: { replay: 128KiB }", "");
            assert_eq!(proxy.client().ask(request).status(), 200);
            assert!(other.request().body == body.as_bytes());
        }
    });
}

#[test]
fn a_body_of_which_the_client_has_sent_a_half_is_sent_again_and_goes_on() {
    play(|| {
        let one = backend::script(|connection| {
            connection.head();
            connection.wire.exactly(1000);
            // It closes over what it was promised.
            connection.wire.hang_up();
        });
        let other = backend::echo();
        let proxy = one_then_other(&one, &other, "", "");
        let body = long(3000);
        let mut client = proxy.client();
        let head = "PUT / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 3000\r\n\r\n";
        client.send(format!("{head}{}", &body[..1000]));
        other.wait("another attempt", |seen| seen.connections == 1);
        assert_eq!(client.ask(&body[1000..]).status(), 200);
        assert_eq!(other.request().text(), body);
        assert_record(&proxy.record(), 2, None);
    });
}

#[test]
fn a_client_that_waits_for_100_sends_its_body_to_whoever_wants_it() {
    play(|| {
        let one = backend::script(|connection| {
            connection.head();
            connection.send("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
            connection.until_closed();
        });
        let other = backend::script(|connection| {
            let mut request = connection.head().unwrap();
            connection.send("HTTP/1.1 100 Continue\r\n\r\n");
            connection.wire.request_body(&mut request);
            connection.ok(request.body);
        });
        let proxy = one_then_other(&one, &other, "", "");
        let mut client = proxy.client();
        client.send(
            "PUT / HTTP/1.1\r\nHost: app.test\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n",
        );
        assert_eq!(client.head().status(), 100);
        assert_eq!(client.ask("body").text(), "body");
        assert_record(&proxy.record(), 2, None);
    });
}

#[test]
fn what_takes_too_long_is_asked_for_elsewhere() {
    play(|| {
        let (one, other) = (backend::stalls(), backend::named("good"));
        let retry = "retry: { per_try_timeout: 150ms }, timeouts: { response: 600ms }";
        let proxy = one_then_other(&one, &other, retry, "");
        assert_eq!(proxy.client().get("/").text(), "good");
        one.is_left_by(1);
        assert_record(&proxy.record(), 2, None);
        // What may not be sent twice has all the time.
        assert_eq!(proxy.client().post("/", "order").status(), 504);
        assert_record(&proxy.records(2)[1], 1, Some("response_timeout"));
        // So has what has nowhere else to go.
        let late = backend::script(|connection| {
            connection.request();
            expect::after(Duration::from_millis(400));
            connection.ok("late");
        });
        let proxy = proxy::start(
            "routes: [{ pool: app, retry: { per_try_timeout: 100ms } }]\n\
             pools: { app: { endpoints: [\"@late\"] } }",
            &[("late", &late)],
        );
        assert_eq!(proxy.client().get("/").text(), "late");
        assert_record(&proxy.record(), 1, None);
    });
}

#[test]
fn one_deadline_is_over_all_attempts() {
    play(|| {
        let stalling: Vec<_> = (0..8).map(|_| backend::stalls()).collect();
        let ends: Vec<_> = stalling.iter().map(|one| format!("\"{one}\"")).collect();
        let proxy = proxy::start(
            &format!(
                "routes: [{{ pool: app, timeouts: {{ response: 400ms }}, \
                 retry: {{ attempts: 7, per_try_timeout: 150ms, back_off: off }} }}]\n\
                 pools: {{ app: {{ endpoints: [{}] }} }}",
                ends.join(", ")
            ),
            &[],
        );
        assert_eq!(proxy.client().get("/").status(), 504);
        let record = proxy.record();
        assert_eq!(record["fault"], "response_timeout");
        let attempts = record["attempts"].as_u64().unwrap();
        assert!((2..=3).contains(&attempts), "{attempts}");
    });
}

#[test]
fn the_deadline_holds_in_the_queue_too_and_the_log_tells_the_wait() {
    play(|| {
        let (one, other) = (backend::refuses(), backend::refuses());
        let proxy = proxy::start(
            "routes: [{ pool: app, timeouts: { response: 300ms } }]\n\
             pools: { app: { endpoints: [\"@one\", \"@other\"], queue: { wait: 1h } } }",
            &[("one", &one), ("other", &other)],
        );
        assert_eq!(proxy.client().get("/").status(), 503);
        let record = proxy.record();
        assert_record(&record, 2, Some("queue_timeout"));
        let (queue, all) = (&record["queue_ms"], &record["duration_ms"]);
        assert!(
            queue.as_f64() > Some(200.0) && queue.as_f64() <= all.as_f64(),
            "{record}"
        );
    });
}

#[test]
fn without_a_budget_left_the_answer_goes_to_the_client_as_it_is() {
    play(|| {
        let (one, other) = (busy(), busy());
        let budget = "retry_budget: { percent: 0, per_second: 1 }";
        let proxy = one_then_other(&one, &other, "retry: { back_off: off }", budget);
        let mut client = proxy.client();
        for _ in 0..40 {
            assert_eq!(client.get("/").text(), "busy");
        }
        let sent = one.seen().requests.len() + other.seen().requests.len();
        // The reserve of ten seconds, and what came meanwhile.
        assert!((50..60).contains(&sent), "{sent}");
        assert_record(&proxy.records(40)[39], 1, None);
    });
}

#[test]
fn attempts_that_are_answered_well_cost_the_budget_nothing() {
    play(|| {
        let (one, other) = (busy(), backend::named("good"));
        let budget = "retry_budget: { percent: 0, per_second: 1 }";
        let proxy = one_then_other(&one, &other, "retry: { back_off: off }", budget);
        let mut client = proxy.client();
        for _ in 0..40 {
            assert_eq!(client.get("/").text(), "good");
        }
    });
}

#[test]
fn endpoints_that_all_fail_are_not_sent_a_multiple_of_the_requests() {
    play(|| {
        for retry in [
            "retry: { back_off: off }",
            "retry: { attempts: 10, back_off: off }",
        ] {
            let (one, other) = (breaks_off(), breaks_off());
            let proxy = one_then_other(&one, &other, retry, "");
            for _ in 0..300 {
                assert_eq!(proxy.client().get("/").status(), 502);
            }
            let sent = one.seen().requests.len() + other.seen().requests.len();
            // A fifth, and the reserve with what came to it in the time of the case.
            assert!((300 + 30..=300 + 60 + 30 + 30).contains(&sent), "{sent}");
        }
    });
}

/// Speaks HTTP/2: answers the first request of a connection, and resets the streams of all others, which it counts.
fn resets_streams() -> Backend {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const SETTINGS_ACK: [u8; 9] = [0, 0, 0, 4, 1, 0, 0, 0, 0];
    backend::script(|connection| {
        connection.wire.exactly(24);
        connection.send(SETTINGS);
        let mut has_answered = false;
        while let Some((kind, flags, stream)) = frame(connection) {
            match (kind, flags) {
                (1, _) if has_answered => {
                    // RST_STREAM with INTERNAL_ERROR (RFC 9113 §6.4).
                    connection.send([&[0, 0, 4, 3, 0], &stream[..], &[0, 0, 0, 2]].concat());
                    connection.count(1);
                }
                (1, _) => {
                    // HEADERS with `:status: 200`, and nothing behind it.
                    connection.send([&[0, 0, 1, 1, 5], &stream[..], &[0x88]].concat());
                    has_answered = true;
                }
                (4, 0) => drop(connection.send(SETTINGS_ACK)),
                _ => {}
            }
        }
    })
}

#[test]
fn streams_that_are_all_reset_are_no_storm_either() {
    play(|| {
        let (one, other) = (resets_streams(), resets_streams());
        let proxy = one_then_other(&one, &other, "retry: { back_off: off }", "protocol: h2");
        let mut client = proxy.client();
        let statuses: Vec<_> = (0..300).map(|_| client.get("/").status()).collect();
        let failed = statuses.iter().filter(|status| **status == 502).count();
        // The first of each connection is answered.
        assert!((290..300).contains(&failed), "{failed}");
        let sent = one.seen().written + other.seen().written;
        assert!((300..=300 + 60 + 30 + 30).contains(&sent), "{sent}");
    });
}

#[test]
fn over_http2_statuses_and_bodies_are_repeated_too() {
    play(|| {
        let body = long(60_000);
        let busy = h2::backend(|_| h2::Said {
            status: 503,
            fields: Vec::new(),
            body: Pieces::none(),
        });
        // Takes the connection and a part of the request, and hangs up.
        let breaks_off = backend::script(|connection| {
            connection.wire.exactly(500);
            connection.wire.hang_up();
        });
        for one in [busy, breaks_off] {
            let other = h2::backend(|_| h2::said("good", &[]));
            let proxy = one_then_other(&one, &other, "", "protocol: h2");
            let request = Request::put("http://app.test/")
                .body(Pieces::of(&body, &[]))
                .unwrap();
            let answer = h2::Client::connect(proxy.address()).ask(request);
            assert_eq!(answer.text(), "good");
            assert!(other.request().body == body.as_bytes());
            assert_record(&proxy.record(), 2, None);
        }
    });
}

/// Asks often enough that it is known how long answers take.
fn warm_up(proxy: &Proxy) {
    let mut client = proxy.client();
    for _ in 0..25 {
        assert_eq!(client.get("/").status(), 200);
    }
}

#[test]
fn a_hedge_answers_in_the_place_of_a_slow_endpoint_which_is_left() {
    play(|| {
        let (one, other) = (slow_at_times(), backend::named("good"));
        let proxy = one_then_other(&one, &other, "retry: { hedge: true }", "");
        warm_up(&proxy);
        assert_eq!(proxy.client().get("/slow").text(), "good");
        one.is_left_by(1);
        let record = &proxy.records(26)[25];
        assert_record(record, 2, None);
        assert_eq!(record["endpoint"], other.to_string());
        // Fast ones are not hedged, and neither is what may not be sent twice.
        let before = other.seen().requests.len();
        let body = "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 1\r\n\r\nx";
        assert_eq!(proxy.client().ask(body).text(), "first");
        assert_eq!(other.seen().requests.len(), before);
    });
}

#[test]
fn a_hedge_that_is_slower_than_the_first_attempt_is_cancelled() {
    play(|| {
        let one = late_at_times();
        let other = backend::stalls();
        let proxy = one_then_other(&one, &other, "retry: { hedge: true }", "");
        warm_up(&proxy);
        assert_eq!(proxy.client().get("/slow").text(), "first");
        other.is_left_by(1);
        let record = &proxy.records(26)[25];
        assert_record(record, 2, None);
        assert_eq!(record["endpoint"], one.to_string());
    });
}

#[test]
fn a_hedge_that_fails_costs_the_first_attempt_nothing() {
    play(|| {
        let one = late_at_times();
        for other in [busy(), breaks_off()] {
            let proxy = one_then_other(&one, &other, "retry: { hedge: true }", "");
            warm_up(&proxy);
            assert_eq!(proxy.client().get("/slow").text(), "first");
            assert_eq!(other.seen().requests.len(), 1);
        }
    });
}

#[test]
fn hedges_keep_to_the_budget() {
    play(|| {
        let (one, other) = (slow_at_times(), backend::named("good"));
        let route = "timeouts: { response: 300ms }, retry: { hedge: true }";
        let budget = "retry_budget: { percent: 0, per_second: 1 }";
        let proxy = one_then_other(&one, &other, route, budget);
        warm_up(&proxy);
        let statuses: Vec<_> = (0..16)
            .map(|_| proxy.client().get("/slow").status())
            .collect();
        let hedged = statuses.iter().filter(|status| **status == 200).count();
        assert!((10..16).contains(&hedged), "{statuses:?}");
        assert!(statuses.starts_with(&[200; 10]), "{statuses:?}");
        assert!(statuses.iter().all(|status| matches!(status, 200 | 504)));
    });
}

#[test]
fn over_http2_the_stream_of_a_hedged_attempt_is_reset() {
    play(|| {
        // Takes everything and says nothing; counts the streams that are reset (RFC 9113 §6.4).
        let mute = backend::script(|connection| {
            connection.wire.exactly(24);
            while let Some((kind, _, _)) = frame(connection) {
                connection.count(usize::from(kind == 3));
            }
        });
        let good = h2::backend(|_| h2::said("good", &[]));
        let values: config::Values<'_> = &[("one", &good), ("other", &mute)];
        let proxy = proxy::start(&two("retry: { hedge: true }", "protocol: h2"), values);
        warm_up(&proxy);
        let values: config::Values<'_> = &[("one", &mute), ("other", &good)];
        proxy.rewrite(&two("retry: { hedge: true }", "protocol: h2"), values);
        assert_eq!(proxy.client().get("/").text(), "good");
        mute.wait("a stream reset", |seen| seen.written == 1);
        assert_record(&proxy.records(26)[25], 2, None);
    });
}

#[test]
fn what_was_cancelled_is_counted_at_no_endpoint() {
    play(|| {
        let (one, other) = (slow_at_times(), backend::named("good"));
        let proxy = proxy::start(
            "routes: [{ pool: app, retry: { hedge: true } }]\n\
             pools: { app: { endpoints: [\"@one\", \"@other\"], balance: least_connections, outlier: off } }",
            &[("one", &one), ("other", &other)],
        );
        warm_up(&proxy);
        for _ in 0..6 {
            assert_eq!(proxy.client().get("/slow").text(), "good");
        }
        one.wait("cancelled attempts", |seen| {
            seen.requests
                .iter()
                .any(|request| request.target() == "/slow")
        });
        let mut client = proxy.client();
        let texts: Vec<_> = (0..20).map(|_| client.get("/").text().to_owned()).collect();
        let firsts = texts.iter().filter(|text| *text == "first").count();
        assert_eq!(
            firsts, 10,
            "one that counted what was cancelled would get nothing: {texts:?}"
        );
    });
}
