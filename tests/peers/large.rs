//! A large file down and up: it arrives as it was, and the proxy's memory does not grow with it.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::time::Duration;

use lockgate::base::clock;
use serde_json::Value;

use super::process::{is_large, run_with};
use super::proxy::{Proxy, pool};
use super::servers::{Nginx, Server};

/// What the proxy may have more at its peak than before, in KiB.
const GROWTH_LIMIT: u64 = 40 << 10;
const LIMIT: Duration = Duration::from_secs(200);

#[test]
fn a_large_file_goes_down_and_up_unchanged_in_little_memory() {
    let size: u64 = if is_large() { 1 << 30 } else { 256 << 20 };
    let (nginx, node) = (Nginx::start("access_log off;"), Server::node());
    let proxy = Proxy::start(&format!(
        "routes: [ {{ pool: app }}, {{ match: {{ path: /up }}, pool: node }} ]\n{}",
        pool(&[nginx.address]).replace(
            "pools: {",
            &format!("pools: {{ node: {{ endpoints: [ '{}' ] }},", node.address)
        )
    ));
    let original = nginx.files().join("large");
    write_noise(&original, size);
    let wanted = sha256(original.to_str().unwrap());
    let (ca, copy) = (proxy.file("ca.pem"), proxy.file("copy"));
    let curl = |arguments: &[&str]| {
        let common = ["-sSf", "--cacert", &ca];
        run_with("curl", [&common, arguments].concat(), "", LIMIT).ok()
    };
    let mebibytes = size >> 20;
    for version in ["--http1.1", "--http2"] {
        // What a connection costs is there before the measure is taken.
        curl(&[version, &proxy.https("/index.html")]);
        curl(&[version, "-d", "a", &proxy.https("/up")]);

        let before = proxy.peak_memory();
        let began = clock::now();
        curl(&[version, "-o", &copy, &proxy.https("/large")]);
        let took = clock::now() - began;
        assert_eq!(sha256(&copy), wanted, "down by {version}");
        report(
            &proxy,
            before,
            &format!("{version} down, {mebibytes} MiB, {took:.1?}"),
        );

        let before = proxy.peak_memory();
        let began = clock::now();
        let seen = curl(&[version, "-T", &copy, &proxy.https("/up")]);
        let took = clock::now() - began;
        let seen: Value = serde_json::from_str(&seen).unwrap();
        assert_eq!(
            (&seen["length"], &seen["sha256"]),
            (&size.into(), &wanted.clone().into())
        );
        report(
            &proxy,
            before,
            &format!("{version} up, {mebibytes} MiB, {took:.1?}"),
        );
    }
    assert_eq!(proxy.faults(), [] as [Value; 0]);
}

fn report(proxy: &Proxy, before: u64, what: &str) {
    let after = proxy.peak_memory();
    // The kernel's figure is not exact, and may be less than it was.
    let grown = after.saturating_sub(before);
    eprintln!("{what}: peak memory {before} KiB before, {after} KiB after, {grown} KiB more");
    assert!(grown < GROWTH_LIMIT, "{what}: {grown} KiB more");
}

/// Fills a file with what neither repeats nor compresses.
fn write_noise(path: &Path, size: u64) {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path).unwrap());
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    for _ in 0..size / 8 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        file.write_all(&state.to_le_bytes()).unwrap();
    }
    file.flush().unwrap();
}

fn sha256(path: &str) -> String {
    let said = run_with("sha256sum", [path], "", LIMIT).ok();
    said.split(' ').next().unwrap().to_owned()
}
