//! Real servers as origins: nginx, Node, Python, and a WebSocket behind nginx.

use std::collections::HashSet;

use serde_json::Value;

use super::process::{PYTHON, run, script};
use super::proxy::{Proxy, pool};
use super::servers::{Nginx, Server};

#[test]
fn nginx_serves_its_files_and_sees_its_connections_used_again() {
    let nginx = Nginx::start("");
    let proxy = Proxy::start(&format!(
        "workers: 2\nroutes: [ {{ pool: app }} ]\n{}",
        pool(&[nginx.address])
    ));
    // Each client comes on a connection of its own.
    for at in 0..10 {
        let version = if at % 2 == 0 { "--http1.1" } else { "--http2" };
        let urls = [format!("/?{at}-a"), format!("/?{at}-b")].map(|path| proxy.https(&path));
        let ca = proxy.file("ca.pem");
        let arguments = ["-sSf", version, "--cacert", &ca, &urls[0], &urls[1]];
        assert_eq!(run("curl", arguments).ok(), "hello from nginx\n".repeat(2));
    }
    let connections = nginx.connections("/?", 20);
    assert_eq!(connections.len(), 20);
    let different: HashSet<_> = connections.into_iter().collect();
    assert!(different.len() <= 2, "one a worker: {different:?}");
    assert_eq!(proxy.faults(), [] as [Value; 0]);
}

#[test]
fn a_websocket_behind_nginx_echoes_over_tls_and_in_clear() {
    let echo = Server::python("websocket.py", &["serve"]);
    let nginx = Nginx::start(&format!(
        "location /live {{
            proxy_pass http://{};
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection upgrade;
        }}",
        echo.address
    ));
    let proxy = Proxy::before(&[nginx.address]);
    for url in [proxy.https("/live"), proxy.http("/live")] {
        let url = url.replacen("http", "ws", 1);
        let talk = script("websocket.py");
        let ca = proxy.file("ca.pem");
        let arguments = [talk.to_str().unwrap(), "talk", &url, &ca, "3", "2.5", "0.2"];
        let said = run(PYTHON, arguments).ok();
        assert!(said.contains("alive 3 "), "{said}");
    }
    let record = proxy.record(|record| record["upgraded"] == true);
    assert_eq!(record["status"], 101, "{record:#}");
    assert!(record["bytes_in"].as_u64() > Some(100_000), "{record:#}");
    assert!(record["bytes_out"].as_u64() > Some(100_000), "{record:#}");
    assert_eq!(proxy.faults(), [] as [Value; 0]);
}

#[test]
fn a_node_app_gets_what_the_client_sent_and_where_it_came_from() {
    let node = Server::node();
    let proxy = Proxy::before(&[node.address]);
    let ca = proxy.file("ca.pem");
    for path in ["/whole", "/pieces"] {
        let url = proxy.https(path);
        let arguments = [
            "-sSf",
            "--cacert",
            &ca,
            "-d",
            "a=1",
            "-H",
            "x-mine: 1",
            &url,
        ];
        let seen: Value = serde_json::from_str(&run("curl", arguments).ok()).unwrap();
        assert_eq!(
            (&seen["server"], &seen["method"], &seen["length"]),
            (&"node".into(), &"POST".into(), &3.into()),
            "{seen:#}"
        );
        let headers = &seen["headers"];
        let host = format!("localhost:{}", proxy.web.port());
        for (name, value) in [
            ("x-mine", "1"),
            ("host", &host),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-host", &host),
        ] {
            assert_eq!(headers[name], value, "{name} in {headers:#}");
        }
    }
    assert_eq!(proxy.faults(), [] as [Value; 0]);
}

#[test]
fn a_python_app_that_speaks_http_1_0_is_served() {
    let python = Server::python("app.py", &[]);
    let proxy = Proxy::before(&[python.address]);
    let ca = proxy.file("ca.pem");
    for version in ["--http1.1", "--http2"] {
        for _ in 0..10 {
            let url = proxy.https("/");
            let arguments = ["-sSf", version, "--cacert", &ca, "-d", "hello", &url];
            let seen: Value = serde_json::from_str(&run("curl", arguments).ok()).unwrap();
            assert_eq!(
                (&seen["server"], &seen["proto"], &seen["length"]),
                (&"python".into(), &"https".into(), &5.into()),
                "{seen:#}"
            );
        }
    }
    assert_eq!(proxy.faults(), [] as [Value; 0]);
}
