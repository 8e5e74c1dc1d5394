//! What the proxy takes off messages, and puts on them, for every pair of protocols.

use crate::harness::{backend, play, proxy};

#[test]
fn hop_by_hop_fields_and_those_that_connection_names_stay_behind() {
    play(|| {
        let backend = backend::says(
            "HTTP/1.1 200 OK\r\nConnection: x-theirs\r\nX-Theirs: 1\r\nKeep-Alive: timeout=5\r\n\
             X-End: 1\r\nContent-Length: 0\r\n\r\n",
        );
        let proxy = proxy::before(&[&backend]);
        let answer = proxy.client().ask(
            "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: x-mine, keep-alive\r\nX-Mine: 1\r\n\
             Keep-Alive: 5\r\nProxy-Connection: keep-alive\r\nTE: gzip\r\nX-End: 1\r\n\r\n",
        );
        let request = backend.request();
        for name in [
            "connection",
            "x-mine",
            "keep-alive",
            "proxy-connection",
            "te",
        ] {
            assert_eq!(request.field(name), None, "{name}");
        }
        for name in ["x-theirs", "keep-alive"] {
            assert_eq!(answer.field(name), None, "{name}");
        }
        assert_eq!(request.field("x-end"), Some("1"));
        assert_eq!(answer.field("x-end"), Some("1"));
    });
}
