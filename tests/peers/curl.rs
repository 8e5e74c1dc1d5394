//! curl, in all the ways it speaks.

use std::fs;

use serde_json::Value;

use super::process::{PATIENCE, Said, run, run_with};
use super::proxy::{Proxy, pool};
use super::servers::{Nginx, Server};

#[test]
fn curl_speaks_every_version_it_knows() {
    let node = Server::node();
    let proxy = Proxy::before(&[node.address]);
    let (https, http) = (proxy.https("/"), proxy.http("/"));
    for (flag, url, version) in [
        ("--http1.0", &https, "1"),
        ("--http1.1", &https, "1.1"),
        ("--http2", &https, "2"),
        ("--http1.0", &http, "1"),
        ("--http1.1", &http, "1.1"),
        ("--http2-prior-knowledge", &http, "2"),
    ] {
        let said = curl(&proxy, &[flag, "-w", "%{http_version} %{http_code}", url]).ok();
        let (seen, told) = said.rsplit_once('\n').unwrap();
        assert_eq!(told, format!("{version} 200"), "{flag} {url}");
        let seen: Value = serde_json::from_str(seen).unwrap();
        assert_eq!(seen["version"], "1.1", "towards the app");
    }
    // HTTP/1.0 knows no chunks: what comes in them is told by the end of the connection.
    let pieces = curl(&proxy, &["--http1.0", "--raw", &proxy.https("/pieces")]).ok();
    let seen: Value = serde_json::from_str(&pieces).unwrap();
    assert_eq!(seen["url"], "/pieces");
    // An offer to upgrade to h2c, which is answered in HTTP/1.1.
    let said = curl(&proxy, &["--http2", "-w", "%{http_version}", &http]).ok();
    assert!(said.ends_with("\n1.1"), "{said}");
    assert_eq!(proxy.faults(), [] as [Value; 0]);
}

#[test]
fn an_upload_waits_for_100_continue_and_arrives_whole() {
    let node = Server::node();
    let proxy = Proxy::before(&[node.address]);
    let file = proxy.file("upload");
    fs::write(&file, vec![b'u'; 3 << 20]).unwrap();
    let sum = run("sha256sum", [&file]).ok();
    let sum = sum.split(' ').next().unwrap();
    let url = proxy.https("/upload");
    for version in ["--http1.1", "--http2"] {
        for more in [&["-T", &file][..], &["--data-binary", &format!("@{file}")]] {
            let arguments = [&["-v", version][..], more, &[&url]].concat();
            let said = curl(&proxy, &arguments);
            if version == "--http1.1" {
                assert!(said.stderr.contains("> Expect: 100-continue"), "{said:#?}");
                assert!(said.stderr.contains("< HTTP/1.1 100 Continue"), "{said:#?}");
                assert!(!said.stderr.contains("Done waiting for 100"), "{said:#?}");
            }
            let seen: Value = serde_json::from_str(&said.ok()).unwrap();
            assert_eq!(seen["length"], 3 << 20);
            assert_eq!(seen["sha256"], sum);
        }
    }
    assert_eq!(proxy.faults(), [] as [Value; 0]);
}

#[test]
fn an_upload_that_is_refused_is_not_sent() {
    let proxy = Proxy::start("routes: [ { respond: { status: 403, body: no } } ]\n");
    let file = proxy.file("upload");
    fs::write(&file, vec![b'u'; 64 << 20]).unwrap();
    let answer = "%{http_code} %{size_upload}";
    let arguments = ["--http1.1", "-w", answer, "-T", &file, &proxy.https("/")];
    assert_eq!(curl(&proxy, &arguments).ok(), "no403 0");
}

#[test]
fn an_upload_from_a_pipe_goes_in_chunks() {
    let node = Server::node();
    let proxy = Proxy::before(&[node.address]);
    let ca = proxy.file("ca.pem");
    let input = "0123456789abcdef".repeat(10_000);
    for version in ["--http1.1", "--http2"] {
        let url = proxy.https("/piped");
        let arguments = ["-sSf", version, "--cacert", &ca, "-T", "-", &url];
        let said = run_with("curl", arguments, &input, PATIENCE).ok();
        let seen: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(seen["length"], 160_000, "{seen:#}");
        assert_eq!(seen["headers"]["transfer-encoding"], "chunked", "{seen:#}");
    }
    assert_eq!(proxy.faults(), [] as [Value; 0]);
}

#[test]
fn a_head_request_gets_the_head_alone_and_the_connection_lives_on() {
    let (nginx, node) = (Nginx::start(""), Server::node());
    let proxy = Proxy::start(&format!(
        "routes: [ {{ pool: app }}, {{ match: {{ path: /node }}, pool: node }} ]\n{}",
        pool(&[nginx.address]).replace(
            "pools: {",
            &format!("pools: {{ node: {{ endpoints: [ '{}' ] }},", node.address)
        )
    ));
    for version in ["--http1.1", "--http2"] {
        for path in ["/", "/node"] {
            let url = proxy.https(path);
            let said = curl(
                &proxy,
                &["-I", version, "-w", "%{num_connects} ", &url, &url],
            )
            .ok();
            // HTTP/1.1 keeps the spelling of the endpoint.
            let states_length = said.to_ascii_lowercase().contains("content-length: ");
            assert!(states_length, "{said}");
            assert!(
                said.contains("1 ") && said.ends_with("0 "),
                "one connection: {said}"
            );
        }
    }
    assert_eq!(proxy.faults(), [] as [Value; 0]);
}

#[test]
fn ranges_and_conditions_pass() {
    let nginx = Nginx::start("");
    let digits = nginx.files().join("digits");
    fs::write(&digits, "0123456789".repeat(1000)).unwrap();
    let proxy = Proxy::before(&[nginx.address]);
    let url = proxy.https("/digits");
    for version in ["--http1.1", "--http2"] {
        let of = |more: &[&str]| {
            let arguments = [&[version, "-w", " %{http_code}"][..], more, &[&url]].concat();
            curl(&proxy, &arguments).ok()
        };
        assert_eq!(of(&["-r", "5012-5018"]), "2345678 206");
        assert_eq!(of(&["-r", "-3"]), "789 206");
        let several = of(&["-r", "0-1,10-12"]);
        assert!(
            several.contains("Content-Range: bytes 10-12/10000"),
            "{several}"
        );
        let beyond = run(
            "curl",
            [
                "-sS",
                version,
                "-k",
                "-r",
                "20000-",
                "-w",
                "%{http_code}",
                &url,
            ],
        );
        assert!(beyond.ok().ends_with("416"));
        let since = of(&["-o", "/dev/null", "-z", digits.to_str().unwrap(), "-D", "-"]);
        assert!(since.contains(" 304"), "{since}");
        // Goes on where a download broke off.
        let part = proxy.file("part");
        fs::write(&part, "0123456789".repeat(300)).unwrap();
        assert_eq!(of(&["-C", "-", "-o", &part]), " 206");
        assert_eq!(
            fs::read_to_string(&part).unwrap(),
            "0123456789".repeat(1000)
        );
    }
    assert_eq!(proxy.faults(), [] as [Value; 0]);
}

/// Runs curl, quiet but for errors, with the authority of the proxy's folder.
fn curl(proxy: &Proxy, arguments: &[&str]) -> Said {
    let ca = proxy.file("ca.pem");
    let common = ["-sS", "--cacert", &ca];
    run("curl", [&common, arguments].concat())
}
