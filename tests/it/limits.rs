//! What is beyond a limit is refused with a fault of its own.

use http::Request;

use crate::harness::client::Client;
use crate::harness::h2::{self, Pieces};
use crate::harness::{backend, play, proxy};

#[test]
fn a_header_with_too_many_bytes_is_a_431() {
    play(|| {
        let backend = backend::echo();
        let proxy = proxy::before_with(&[&backend], "limits: { header_bytes: 8KiB }");
        let mut client = proxy.client();
        let long = "x".repeat(9 << 10);
        let answer = client.ask(&format!(
            "GET / HTTP/1.1\r\nHost: app.test\r\nX: {long}\r\n\r\n"
        ));
        assert_eq!(answer.status(), 431);
        client.is_closed();
        assert_eq!(proxy.record()["fault"], "header_too_large");

        let mut client = h2::Client::connect(proxy.address());
        let request = Request::get("http://app.test/").header("x", long);
        assert_eq!(
            client.ask(request.body(Pieces::none()).unwrap()).status(),
            431
        );
        assert!(backend.seen().requests.is_empty());
    });
}

#[test]
fn a_header_with_too_many_fields_is_a_431() {
    play(|| {
        let backend = backend::echo();
        let proxy = proxy::before_with(&[&backend], "limits: { header_fields: 16 }");
        let fields = |count| -> String { (0..count).map(|n| format!("X-{n}: 1\r\n")).collect() };
        let ask = |count| {
            let fields = fields(count);
            let request = format!("GET / HTTP/1.1\r\nHost: app.test\r\n{fields}\r\n");
            proxy.client().ask(&request).status()
        };
        assert_eq!((ask(15), ask(16)), (200, 431));
        assert_eq!(proxy.records(2)[1]["fault"], "header_too_large");

        let ask = |name: &str, count| {
            let mut request = Request::get("http://app.test/");
            for n in 0..count {
                request = request.header(name.replace('#', &n.to_string()), "a=1");
            }
            let mut client = h2::Client::connect(proxy.address());
            client.ask(request.body(Pieces::none()).unwrap()).status()
        };
        assert_eq!((ask("x-#", 16), ask("x-#", 17)), (200, 431));
        // Crumbs of a cookie are counted apart.
        assert_eq!((ask("cookie", 100), ask("cookie", 129)), (200, 431));
    });
}

#[test]
fn a_target_that_is_too_long_is_a_414() {
    play(|| {
        let backend = backend::echo();
        let proxy = proxy::before(&[&backend]);
        let long = format!("/{}", "x".repeat(9 << 10));
        let mut client = proxy.client();
        assert_eq!(client.get(&long).status(), 414);
        client.is_closed();
        assert_eq!(proxy.record()["fault"], "target_too_long");
    });
}

#[test]
fn an_http2_client_has_so_many_streams_at_a_time() {
    play(|| {
        let backend = backend::script(|connection| {
            while connection.request().is_some() {
                connection.wait("leave to answer", |seen| seen.written > 0);
                connection.ok("ok");
            }
        });
        let proxy = proxy::before_with(&[&backend], "limits: { h2_streams: 2 }");
        let mut client = h2::Client::connect(proxy.address());
        // The first answer is there when the client has read how many it may open.
        backend.note_written(1);
        client.get("http://app.test/");
        backend.forget_written();
        let answers: Vec<_> = (0..5)
            .map(|_| {
                let request = Request::get("http://app.test/").body(Pieces::none());
                client.send(request.unwrap())
            })
            .collect();
        backend.requests(3);
        let in_flight = crate::harness::expect::steady(
            "no more requests",
            std::time::Duration::from_millis(100),
            || backend.seen().requests.len(),
        );
        assert_eq!(in_flight, 3);
        backend.note_written(1);
        for answer in answers {
            assert_eq!(h2::wait(answer).unwrap().status(), 200);
        }
    });
}

#[test]
fn a_connection_too_many_waits_until_another_ends() {
    play(|| {
        let backend = backend::named("served");
        let proxy = proxy::before_with(&[&backend], "limits: { connections: 2 }");
        let mut first = proxy.client();
        let mut second = proxy.client();
        first.get("/");
        second.get("/");
        let mut third = Client::connect(proxy.address());
        third.send("GET /third HTTP/1.1\r\nHost: app.test\r\n\r\n");
        assert_eq!(first.get("/").text(), "served");
        assert!(
            backend
                .seen()
                .requests
                .iter()
                .all(|it| it.target() != "/third")
        );
        drop(second);
        assert_eq!(third.answer().text(), "served");
    });
}
