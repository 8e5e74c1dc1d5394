//! Bodies stream both ways, end as they should, and never look whole when they are not.

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body::Frame;

use crate::harness::h2::{self, Pieces};
use crate::harness::wire::End;
use crate::harness::{backend, certs, client, expect, play, proxy};

/// Much more than the buffers of the proxy, of the kernel and of TLS together.
const FLOOD: usize = 64 << 20;

/// What may be under way between a backend and a client that takes nothing: mostly the kernel's socket buffers.
const UNDER_WAY: usize = 20 << 20;

/// For so long nothing moves that has come to a halt.
const HALT: Duration = Duration::from_millis(300);

#[test]
fn a_slow_reader_holds_the_backend_back() {
    play(|| {
        let backend = backend::script(|connection| {
            connection.request();
            connection.send(format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {FLOOD}\r\n\r\n"
            ));
            let piece = vec![b'x'; 64 << 10];
            for _ in 0..FLOOD / piece.len() {
                if !connection.send(&piece) {
                    return;
                }
                connection.count(piece.len());
            }
        });
        let proxy = proxy::before(&[&backend]);
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
        let mut answer = client.head();
        let written = expect::steady("a halt", HALT, || backend.seen().written);
        assert!(written < UNDER_WAY, "{written} bytes were taken from it");
        client.wire.answer_body(&mut answer);
        assert_eq!((answer.body.len(), answer.end), (FLOOD, End::Whole));
    });
}

#[test]
fn a_slow_backend_holds_the_uploader_back() {
    play(|| {
        let backend = backend::script(|connection| {
            connection.head();
            connection.wait("leave to read", |seen| seen.written > 0);
            let (body, _) = connection.wire.exactly(FLOOD);
            connection.ok(body.len().to_string());
        });
        let proxy = proxy::before(&[&backend]);
        let mut client = proxy.client();
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: {FLOOD}\r\n\r\n"
        ));
        let stream = client.wire.stream();
        let piece = vec![b'x'; 64 << 10];
        let mut taken = 0;
        stream.set_patience(HALT);
        while taken < FLOOD {
            match stream.write(&piece[..piece.len().min(FLOOD - taken)]) {
                Ok(written) => taken += written,
                Err(_) => break,
            }
        }
        assert!(taken < UNDER_WAY, "{taken} bytes were taken");
        stream.set_patience(expect::PATIENCE);
        backend.note_written(1);
        assert!(client.send(vec![b'x'; FLOOD - taken]));
        assert_eq!(client.answer().text(), FLOOD.to_string());
    });
}

#[test]
fn chunks_and_trailers_pass_both_ways() {
    play(|| {
        let backend = backend::says(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n\
             5\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 42\r\n\r\n",
        );
        let proxy = proxy::before(&[&backend]);
        let answer = proxy.client().ask(
            "POST / HTTP/1.1\r\nHost: app.test\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\
             Trailer: x-up\r\n\r\n3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\nX-Up: 1\r\n\r\n",
        );
        assert_eq!(answer.text(), "hello world");
        assert_eq!(answer.trailers, [("x-sum".into(), "42".into())]);
        let request = backend.request();
        assert_eq!(request.text(), "abcde");
        assert_eq!(request.trailers, [("x-up".into(), "1".into())]);
        assert_eq!(request.field("te"), Some("trailers"));
    });
}

#[test]
fn names_that_belong_into_a_head_never_stand_behind_a_body() {
    play(|| {
        let backend = backend::says(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
             5\r\nhello\r\n0\r\nX-Sum: 42\r\nSet-Cookie: a=b\r\nContent_Length: 1\r\n\r\n",
        );
        let proxy = proxy::before(&[&backend]);
        let answer = proxy.client().ask(
            "POST / HTTP/1.1\r\nHost: app.test\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n\
             3\r\nabc\r\n0\r\nX-Up: 1\r\nX-Forwarded-For: 10.6.6.6\r\nx_forwarded_for: 10.6.6.6\r\n\
             Forwarded: for=10.6.6.6\r\nHost: other.test\r\nContent-Length: 9\r\n\
             Transfer_Encoding: chunked\r\nAuthorization: Basic cm9vdA==\r\nCookie: a=b\r\n\
             X-Client-Cert-Subject: CN=root\r\nX-Request-Id: another\r\n\r\n",
        );
        assert_eq!(answer.text(), "hello");
        assert_eq!(answer.trailers, [("x-sum".into(), "42".into())]);
        let request = backend.request();
        assert_eq!(request.text(), "abc");
        assert_eq!(request.trailers, [("x-up".into(), "1".into())]);
    });
}

#[test]
fn the_body_waits_for_100_continue_when_the_client_does() {
    play(|| {
        let backend = backend::script(|connection| {
            let mut request = connection.head().unwrap();
            assert_eq!(request.field("expect"), Some("100-continue"));
            connection.send("HTTP/1.1 100 Continue\r\n\r\n");
            connection.wire.request_body(&mut request);
            connection.ok(request.body);
        });
        let proxy = proxy::before(&[&backend]);
        let mut client = proxy.client();
        client.send(
            "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n",
        );
        assert_eq!(client.head().status(), 100);
        client.send("body");
        assert_eq!(client.answer().text(), "body");
    });
}

#[test]
fn a_refusal_before_100_continue_spares_the_upload() {
    play(|| {
        let backend = backend::script(|connection| {
            connection.head();
            connection.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
            connection.until_closed();
        });
        let proxy = proxy::before(&[&backend]);
        let mut client = proxy.client();
        client.send(
            "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n",
        );
        let answer = client.answer();
        assert_eq!((answer.status(), answer.text()), (403, "no"));
        assert_eq!(proxy.record()["bytes_in"], 0);
    });
}

#[test]
fn answers_without_a_body_leave_the_connection_usable() {
    play(|| {
        let backend = backend::script(|connection| {
            while let Some(request) = connection.request() {
                connection.send(match request.target() {
                    "/head" => "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
                    "/204" => "HTTP/1.1 204 No Content\r\n\r\n",
                    "/304" => {
                        "HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\nETag: \"a\"\r\n\r\n"
                    }
                    _ => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
                });
            }
        });
        let proxy = proxy::before(&[&backend]);
        let mut client = proxy.client();
        let head = client.ask("HEAD /head HTTP/1.1\r\nHost: app.test\r\n\r\n");
        assert_eq!(head.field("content-length"), Some("1000"));
        let empty = client.get("/204");
        assert_eq!((empty.status(), empty.field("content-length")), (204, None));
        let unmodified = client.get("/304");
        assert_eq!(
            (unmodified.status(), unmodified.field("etag")),
            (304, Some("\"a\""))
        );
        assert_eq!(client.get("/").text(), "ok");
        assert_eq!(backend.seen().connections, 1);
    });
}

#[test]
fn a_client_of_http_1_0_gets_a_body_that_it_can_read() {
    play(|| {
        let backend = backend::says(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        );
        let proxy = proxy::before(&[&backend]);
        let mut client = proxy.client();
        client.send("GET / HTTP/1.0\r\nHost: app.test\r\n\r\n");
        let answer = client.answer();
        assert_eq!(answer.field("transfer-encoding"), None);
        assert_eq!((answer.text(), answer.end), ("hello", End::Whole));
        assert_eq!(backend.request().line, "GET / HTTP/1.1");
        assert_eq!(proxy.record()["protocol"], "HTTP/1.0");
    });
}

#[test]
fn an_answer_may_overtake_the_upload() {
    play(|| {
        let backend = backend::script(|connection| {
            connection.head();
            connection.send("HTTP/1.1 413 Payload Too Large\r\nContent-Length: 3\r\n\r\nbig");
            connection.until_closed();
        });
        let proxy = proxy::before(&[&backend]);
        let mut client = proxy.client();
        client.send("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 1000000\r\n\r\nsome");
        let answer = client.answer();
        assert_eq!((answer.status(), answer.text()), (413, "big"));
        assert_eq!(proxy.record()["status"], 413);
    });
}

#[test]
fn a_client_that_goes_away_cancels_its_request() {
    play(|| {
        let backend = backend::stalls();
        let proxy = proxy::before(&[&backend]);
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
        backend.request();
        drop(client);
        backend.is_left_by(1);
        let record = proxy.record();
        assert_eq!(
            (&record["status"], &record["fault"]),
            (&499.into(), &"client_gone".into())
        );
    });
}

#[test]
fn a_client_that_goes_away_in_mid_answer_costs_the_upstream_connection() {
    play(|| {
        let backend = backend::script(|connection| {
            while connection.request().is_some() {
                if connection.number > 0 {
                    connection.ok("ok");
                    continue;
                }
                connection.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome");
                connection.until_closed();
                return;
            }
        });
        let proxy = proxy::before(&[&backend]);
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
        client.head();
        drop(client);
        backend.is_left_by(1);
        assert_eq!(proxy.client().get("/").text(), "ok");
        assert_eq!(backend.seen().connections, 2);
        let record = &proxy.records(2)[0];
        assert_eq!(
            (&record["status"], &record["fault"]),
            (&200.into(), &"client_gone".into())
        );
    });
}

#[test]
fn a_stream_that_an_http2_client_resets_cancels_its_request() {
    play(|| {
        let backend = backend::stalls();
        let proxy = proxy::before(&[&backend]);
        let mut client = h2::Client::connect(proxy.address());
        let request = Request::get("http://app.test/")
            .body(Pieces::none())
            .unwrap();
        let answer = client.send_cancellable(request);
        backend.request();
        answer.abort();
        backend.is_left_by(1);
        assert_eq!(proxy.record()["fault"], "client_gone");
    });
}

#[test]
fn an_upload_that_breaks_off_never_looks_whole_to_the_backend() {
    play(|| {
        let backend = backend::echo();
        let proxy = proxy::before(&[&backend]);
        let mut client = proxy.client();
        client.send(
            "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        );
        drop(client);
        assert_ne!(backend.request().end, End::Whole);
        backend.is_left_by(1);
        assert_eq!(proxy.record()["fault"], "client_gone");
    });
}

#[test]
fn an_answer_cut_short_reaches_the_client_as_cut_short() {
    play(|| {
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n0\r\n",
        ] {
            let backend = backend::says_and_closes(answer);
            let proxy = proxy::before(&[&backend]);
            let got = proxy.client().get("/");
            assert_eq!(got.text(), "first", "{answer:?}");
            assert_ne!(got.end, End::Whole, "{answer:?}");
            let record = proxy.record();
            assert_eq!(
                (&record["status"], &record["fault"]),
                (&200.into(), &"response_cut".into())
            );

            let mut client = h2::Client::connect(proxy.address());
            assert_ne!(client.get("http://app.test/").end, End::Whole, "{answer:?}");
        }
    });
}

#[test]
fn an_answer_that_ends_with_its_tls_connection_is_cut_without_a_farewell() {
    play(|| {
        let certs = certs::new().server("app", &["app.test"]);
        for farewell in [true, false] {
            let backend = backend::tls(certs.serving("app", &[]), move |connection| {
                connection.request();
                connection.send("HTTP/1.1 200 OK\r\n\r\nfirst");
                if farewell {
                    connection.wire.half_close();
                }
                connection.hang_up();
            });
            let proxy = proxy::start(
                "routes: [{ pool: app }]\npools: { app: { endpoints: [\"@app\"], tls: { ca: \
                 @certs/ca.pem, server_name: app.test } } }",
                &[("certs", &certs), ("app", &backend)],
            );
            let answer = proxy.client().get("/");
            assert_eq!(answer.text(), "first");
            assert_eq!(answer.end == End::Whole, farewell);
            assert_eq!(proxy.record()["fault"] == "response_cut", !farewell);
        }
    });
}

#[test]
fn an_answer_that_ends_with_its_connection_is_whole_for_everybody() {
    play(|| {
        let backend = backend::says_and_closes("HTTP/1.1 200 OK\r\n\r\nall of it");
        let proxy = proxy::before(&[&backend]);
        let answer = proxy.client().get("/");
        assert_eq!((answer.text(), answer.end), ("all of it", End::Whole));
        assert_eq!(answer.field("transfer-encoding"), Some("chunked"));
        let answer = h2::Client::connect(proxy.address()).get("http://app.test/");
        assert_eq!((answer.text(), answer.end), ("all of it", End::Whole));
    });
}

#[test]
fn an_answer_that_is_no_http_is_a_502_and_ends_its_connection() {
    play(|| {
        for answer in [
            "garbage\r\n\r\n",
            "HTTP/1.1 2x0 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nab",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA : b\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 0\r\n\r\n",
            "HTTP/2 200 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        ] {
            let backend = backend::script(move |connection| {
                connection.request();
                connection.send(answer);
                connection.until_closed();
            });
            let proxy = proxy::before(&[&backend]);
            let got = proxy.client().get("/");
            assert_eq!(got.status(), 502, "{answer:?}");
            assert_eq!(proxy.record()["fault"], "response_malformed", "{answer:?}");
            backend.is_left_by(1);
        }
    });
}

#[test]
fn interim_answers_are_passed_over_and_have_a_limit() {
    play(|| {
        for (count, status) in [(1, 200), (16, 200), (17, 502)] {
            let interim = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(count);
            let backend = backend::script(move |connection| {
                connection.request();
                connection.send(&interim);
                connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
                connection.until_closed();
            });
            let proxy = proxy::before(&[&backend]);
            let answer = proxy.client().get("/");
            assert_eq!((answer.status(), answer.field("link")), (status, None));
        }
    });
}

#[test]
fn what_comes_behind_an_answer_reaches_nobody() {
    play(|| {
        let backend = backend::script(|connection| {
            while connection.request().is_some() {
                connection.send(
                    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\
                     Content-Length: 4\r\n\r\nevil",
                );
            }
        });
        let proxy = proxy::before(&[&backend]);
        let mut client = proxy.client();
        for _ in 0..3 {
            assert_eq!(client.get("/").text(), "ok");
        }
        assert_eq!(backend.seen().connections, 3);
    });
}

#[test]
fn chunks_that_are_none_cut_the_answer_and_end_the_connection() {
    play(|| {
        for chunks in [
            "5\r\nfirstX\r\n",
            "5\nfirst",
            "fffffffffffffffff\r\n",
            "5\r\nfirst\r\n-1\r\n",
        ] {
            let answer = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
            let backend = backend::script(move |connection| {
                connection.request();
                connection.send(&answer);
                connection.until_closed();
            });
            let proxy = proxy::before(&[&backend]);
            let got = proxy.client().get("/");
            assert_ne!(got.end, End::Whole, "{chunks:?}");
            assert_eq!(proxy.record()["fault"], "response_cut", "{chunks:?}");
            backend.is_left_by(1);
        }
    });
}

#[test]
fn a_head_that_comes_byte_by_byte_is_one_like_any_other() {
    play(|| {
        let backend = backend::script(|connection| {
            connection.request();
            for byte in b"HTTP/1.1 200 Fine\r\nA: b\r\nContent-Length: 2\r\n\r\nok" {
                connection.send([*byte]);
            }
            connection.until_closed();
        });
        let proxy = proxy::before(&[&backend]);
        let answer = proxy.client().get("/");
        assert_eq!(answer.line, "HTTP/1.1 200 Fine");
        assert_eq!((answer.field("a"), answer.text()), (Some("b"), "ok"));
    });
}

#[test]
fn a_header_beyond_the_limit_is_a_502() {
    play(|| {
        let backend = backend::script(|connection| {
            connection.request();
            let long = "x".repeat(20 << 10);
            connection.send(format!(
                "HTTP/1.1 200 OK\r\nX: {long}\r\nContent-Length: 0\r\n\r\n"
            ));
            connection.until_closed();
        });
        let more = "limits: { response_header_bytes: 8KiB }";
        let proxy = proxy::before_with(&[&backend], more);
        assert_eq!(proxy.client().get("/").status(), 502);
        assert_eq!(proxy.record()["fault"], "response_header_too_large");
    });
}

#[test]
fn an_upload_over_http2_arrives_as_it_is_sent() {
    play(|| {
        let backend = backend::script(|connection| {
            connection.head();
            let (piece, _) = connection.wire.exactly(9);
            connection.count(piece.len());
            connection.wire.exactly("5\r\nworld\r\n0\r\n\r\n".len());
            connection.ok(piece);
        });
        let proxy = proxy::before(&[&backend]);
        let mut client = h2::Client::connect(proxy.address());
        let (feed, body) = Pieces::fed();
        let request = Request::post("http://app.test/").body(body).unwrap();
        let answer = client.send(request);
        h2::wait(feed.send(Frame::data(Bytes::from("hell")))).unwrap();
        // The first piece is there before the second is sent.
        backend.wait("a piece", |seen| seen.written > 0);
        h2::wait(feed.send(Frame::data(Bytes::from("world")))).unwrap();
        drop(feed);
        let answer = h2::read(h2::wait(answer).unwrap());
        assert_eq!(answer.text(), "4\r\nhell\r\n");
    });
}

#[test]
fn a_client_over_tls_sees_a_cut_answer_too() {
    play(|| {
        let certs = certs::new().server("app", &["app.test"]);
        let backend =
            backend::says_and_closes("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst");
        let proxy = proxy::start(
            "listeners: [{ name: web, address: \"127.0.0.1:0\", tls: { certificates: \
             [{ cert: @certs/app.pem, key: @certs/app.key }] } }]\n\
             routes: [{ pool: app }]\npools: { app: { endpoints: [\"@app\"] } }",
            &[("certs", &certs), ("app", &backend)],
        );
        // An HTTP/1.0 client has nothing but the end of the connection to go by.
        let config = certs.trusting(&["http/1.1"]);
        let mut client = client::Client::tls(proxy.address(), &config, "app.test");
        client.send("GET / HTTP/1.0\r\nHost: app.test\r\n\r\n");
        let answer = client.answer();
        assert_eq!(answer.text(), "first");
        assert_ne!(answer.end, End::Whole);
    });
}
