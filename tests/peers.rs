//! Lockgate beside real servers and clients: nginx, curl and the others that `.ci/run peers` installs.
//!
//! Behind the feature `peers`, since plain `cargo test` needs nothing but Rust and a C compiler.

#![expect(clippy::panic, reason = "a test ends by it")]

use std::process::Command;

#[test]
fn curl_speaks_http2() {
    let told = version_of("curl", "--version");
    assert!(told.contains("HTTP2"), "curl without HTTP/2: {told}");
}

#[test]
fn nginx_is_there() {
    let told = version_of("nginx", "-v");
    assert!(told.starts_with("nginx version: "), "not an nginx: {told}");
}

/// What a program says of itself; nginx says it on standard error.
fn version_of(program: &str, flag: &str) -> String {
    let output = Command::new(program)
        .arg(flag)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; `.ci/run peers` installs it"));
    assert!(
        output.status.success(),
        "{program} {flag}: {}",
        output.status
    );
    let both = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&both).into_owned()
}
