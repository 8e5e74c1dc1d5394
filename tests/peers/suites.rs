//! Suites that others wrote, against the real binary: httpwg for RFC 9113, kosoku (Autobahn's cases) for WebSockets, the
//! interoperability cases of gRPC, sslyze and sslscan for TLS.
//!
//! `.ci/run peers` installs httpwg below `target/tools`, and kosoku and sslyze in `target/tools/suites`.
//! `LOCKGATE_PEERS_LARGE=1` plays the slow cases of WebSockets too.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lockgate::cli;
use serde_json::Value;

use super::process::{
    PATIENCE, PYTHON, Running, Said, is_large, run, run_with, script, wait_until,
};
use super::proxy::Proxy;
use super::servers::{Server, free_address};

/// How long a suite may take.
const SUITE: Duration = Duration::from_secs(300);

#[test]
fn httpwg_cases_of_rfc_9113_pass() {
    let server = Server::node();
    let proxy = Proxy::before(&[server.address]);
    let httpwg = tools().join("bin/httpwg");
    let address = proxy.plain.to_string();
    // One after another: what the machine is too busy for would count as failed.
    let arguments = [
        "SEQUENTIAL=1",
        httpwg.to_str().unwrap(),
        "--address",
        &address,
        "--frame-timeout",
        "2000",
    ];
    let told = run_with("env", arguments, "", SUITE);
    let told = told.stdout + &told.stderr;
    let failed: Vec<_> = told
        .lines()
        .filter(|line| line.contains("failed:"))
        .collect();
    assert!(told.contains("107/107"), "{failed:#?}: {told}");
}

#[test]
fn kosoku_cases_pass_over_http1() {
    websocket_cases("alpn http/1.1", "HTTP/1.1");
}

/// By RFC 8441.
#[test]
fn kosoku_cases_pass_over_http2() {
    websocket_cases("alpn h2 ws h2", "HTTP/2");
}

/// The suite speaks HTTP/1.1 in clear with HAProxy, and HAProxy over TLS with us, as it is told to.
fn websocket_cases(speech: &str, protocol: &str) {
    let server = Server::python("websocket_echo.py", &[]);
    let proxy = Proxy::before(&[server.address]);
    let address = free_address();
    let config = format!(
        "defaults
  mode http
  timeout client 60s
  timeout server 60s
  timeout connect 5s
listen suite
  bind {address}
  server lockgate {} ssl verify none {speech}
",
        proxy.web
    );
    let file = proxy.file("haproxy.cfg");
    fs::write(&file, config).unwrap();
    let _haproxy = Running::start("haproxy", ["-db", "-f", &file], proxy.folder());
    let answers = || TcpStream::connect(address).ok();
    wait_until(PATIENCE, answers).expect("HAProxy listens");
    play_websocket_cases(&format!("ws://{address}/"), &proxy);
    proxy.record(|record| record["protocol"] == protocol && record["upgraded"] == true);
}

/// Plays the suite, without its slow cases unless these are asked for; every case has to pass.
fn play_websocket_cases(url: &str, proxy: &Proxy) {
    let report = proxy.file("report");
    // Large messages, and compression a thousand times a case.
    let (slow, count) = match is_large() {
        true => (&[][..], 299),
        false => (&["-x", "9.*", "-x", "12.*", "-x", "13.*"][..], 247),
    };
    let arguments = [slow, &["--parallelism", "4", "--outdir", &report, url]].concat();
    let entry = ["-c", "from kosoku._cli import main; main()"];
    let said = python(entry, &arguments, &proxy.file("ca.pem"));
    let index = fs::read_to_string(Path::new(&report).join("index.json"))
        .unwrap_or_else(|error| panic!("no report: {error}: {said:#?}"));
    let index: Value = serde_json::from_str(&index).unwrap();
    let agents = index.as_object().unwrap().values();
    let cases: Vec<_> = agents
        .flat_map(|agent| agent.as_object().unwrap())
        .collect();
    let good = ["OK", "NON-STRICT", "INFORMATIONAL"];
    let passed = |case: &&(&String, &Value)| {
        let said = |key: &str| case.1[key].as_str().unwrap_or_default();
        good.contains(&said("behavior")) && good.contains(&said("behaviorClose"))
    };
    let failed: Vec<_> = cases.iter().filter(|case| !passed(case)).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!(cases.len(), count);
}

#[test]
fn interoperability_cases_of_grpc_pass() {
    let server = Server::python("interop_peer.py", &["serve"]);
    let proxy = Proxy::start(&format!(
        "routes: [ {{ pool: app }} ]\npools: {{ app: {{ protocol: h2, endpoints: [ '{}' ] }} }}\n",
        server.address
    ));
    let client = script("interop_peer.py");
    let (plain, web) = (proxy.plain.to_string(), proxy.web.to_string());
    let ca = proxy.file("ca.pem");
    for arguments in [&["call", &plain][..], &["call", &web, &ca]] {
        let arguments = [&[client.to_str().unwrap()][..], arguments].concat();
        let told = run_with(PYTHON, arguments, "", SUITE).ok();
        assert!(told.ends_with("passed 21 of 21\n"), "{told}");
    }
}

#[test]
fn sslyze_finds_the_intermediate_profile_kept() {
    let proxy = fixed();
    let server = format!("localhost:{}", proxy.web.port());
    let arguments = ["--mozilla_config=intermediate", &server];
    let said = python(["-m", "sslyze"], &arguments, &proxy.file("ca.pem"));
    let (_, verdict) = said.stdout.split_once("Checking results").unwrap();
    let findings: Vec<_> = verdict
        .lines()
        .filter(|line| line.contains(" * "))
        .collect();
    // The authority of these tests is in no browser.
    let is_chain = |line: &&str| line.contains("certificate_path_validation");
    assert!(findings.iter().all(is_chain), "{findings:#?}");
    assert_eq!(findings.len(), 1, "{verdict}");
}

#[test]
fn sslscan_finds_nothing_old() {
    let proxy = fixed();
    let said = run("sslscan", ["--no-colour", &proxy.web.to_string()]).ok();
    for line in [
        "SSLv2     disabled",
        "SSLv3     disabled",
        "TLSv1.0   disabled",
        "TLSv1.1   disabled",
        "TLSv1.2   enabled",
        "TLSv1.3   enabled",
        "Session renegotiation not supported",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    let accepted = said
        .lines()
        .filter(|line| line.starts_with("Preferred") || line.starts_with("Accepted"));
    let weak: Vec<_> = accepted
        .filter(|line| !line.contains("GCM") && !line.contains("CHACHA20"))
        .collect();
    assert!(weak.is_empty(), "{weak:#?}");
    let vulnerable: Vec<_> = said
        .lines()
        .filter(|line| line.contains("vulnerable to") && !line.contains("not vulnerable"))
        .collect();
    assert!(vulnerable.is_empty(), "{vulnerable:#?}");
}

/// A proxy that answers by itself.
fn fixed() -> Proxy {
    Proxy::start("routes: [ { respond: { body: here } } ]\n")
}

/// Where `.ci/run` puts what it installs.
fn tools() -> PathBuf {
    let target = cli::env("CARGO_TARGET_DIR").unwrap_or_else(|| "target".to_owned());
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(target)
        .join("tools")
}

/// Runs what is installed for these tests, by its entry; it trusts `ca`.
fn python(entry: [&str; 2], arguments: &[&str], ca: &str) -> Said {
    let packages = format!("PYTHONPATH={}", tools().join("suites").display());
    let trusted = format!("SSL_CERT_FILE={ca}");
    let [kind, what] = entry;
    let before = [packages.as_str(), trusted.as_str(), "python3", kind, what];
    run_with("env", [&before[..], arguments].concat(), "", SUITE)
}
