//! A gRPC server and client of grpcio on either side, HTTP/2 all the way.

use serde_json::Value;

use super::process::{PYTHON, run, script};
use super::proxy::Proxy;
use super::servers::Server;

#[test]
fn grpc_calls_of_all_four_kinds_pass_with_their_metadata() {
    let (server, proxy) = service();
    let said = call("kinds", &proxy);
    for line in [
        "unary b'hello' OK",
        "initial initial",
        "trailing trailing b'\\x00\\xff\\x01'",
        "big True",
        "empty b''",
        "server stream 1000 OK",
        "client stream b'499500'",
        "both streams 50 OK",
        "at once 19900",
    ] {
        assert!(said.lines().any(|told| told == line), "{line}: {said}");
    }
    assert_eq!(proxy.faults(), [] as [Value; 0]);
    drop(server);
}

#[test]
fn a_grpc_status_comes_through_with_its_message_and_trailers() {
    let (_server, proxy) = service();
    let said = call("error", &proxy);
    for line in [
        "error FAILED_PRECONDITION 'not now: 50 % of ü'",
        "error trailers trailing",
        "unknown UNIMPLEMENTED 'Method not found!'",
        "late b'one'",
        "late b'two'",
        "late DATA_LOSS 'after two'",
    ] {
        assert!(said.lines().any(|told| told == line), "{line}: {said}");
    }
    assert_eq!(proxy.faults(), [] as [Value; 0]);
}

#[test]
fn a_grpc_deadline_ends_the_call_at_both_ends() {
    let (mut server, proxy) = service();
    let said = call("deadline", &proxy);
    assert!(said.contains("slow DEADLINE_EXCEEDED"), "{said}");
    assert!(said.contains("in time True"), "{said}");
    server.process.says(&["the slow call was ended"]);
}

#[test]
fn our_own_errors_are_a_grpc_status() {
    let (mut server, proxy) = service();
    let said = call("nowhere", &proxy);
    assert!(said.contains("nowhere UNIMPLEMENTED"), "{said}");
    assert!(said.contains("sluggish UNAVAILABLE"), "{said}");
    server.process.kill();
    let said = call("down", &proxy);
    assert!(said.contains("down UNAVAILABLE"), "{said}");
    assert!(said.contains("down stream UNAVAILABLE"), "{said}");
    for fault in ["no_route", "response_timeout", "queue_timeout"] {
        proxy.record(|record| record["fault"] == fault);
    }
}

fn service() -> (Server, Proxy) {
    let server = Server::python("grpc_peer.py", &["serve"]);
    let proxy = Proxy::start(&format!(
        "routes:
  - match: {{ path: /peers.Test }}
    timeouts: {{ response: 2s }}
    pool: app
pools:
  app: {{ protocol: h2, endpoints: [ '{}' ] }}
",
        server.address
    ));
    (server, proxy)
}

fn call(scenario: &str, proxy: &Proxy) -> String {
    let client = script("grpc_peer.py");
    let address = proxy.web.to_string();
    let ca = proxy.file("ca.pem");
    run(PYTHON, [client.to_str().unwrap(), scenario, &address, &ca]).ok()
}
