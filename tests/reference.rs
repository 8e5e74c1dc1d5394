//! The pages of `docs/reference` that are made from the code: each test fails when its page is stale. What
//! `docs/internals/conformance.md` says of tests is held against them.
//!
//! `UPDATE=1 cargo test --test reference` writes them anew.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use lockgate::base::fault::{Fault, Repeat, Side};
use lockgate::config::reference;

/// Holds a page against what the code says, or writes it.
#[expect(
    clippy::disallowed_methods,
    reason = "a test has no command line of its own"
)]
fn check(page: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("docs/reference")
        .join(page);
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, expected).expect("docs/reference can be written");
        return;
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        found, expected,
        "{page} is stale: UPDATE=1 cargo test --test reference"
    );
}

#[test]
fn the_page_of_config_keys_is_what_the_code_says() {
    check("config.md", &reference::reference());
}

#[test]
fn the_page_of_faults_is_what_the_code_says() {
    let mut page = String::from(FAULTS_HEAD);
    for (side, title) in [
        (Side::Downstream, "The client, or the way to it"),
        (Side::Ours, "Lockgate: its config, its limits, its bugs"),
        (Side::Upstream, "The endpoint, or the way to it"),
    ] {
        writeln!(page, "\n## {title}\n").unwrap();
        page.push_str("| fault | status | attempted again | Proxy-Status | meaning |\n");
        page.push_str("| --- | --- | --- | --- | --- |\n");
        for fault in Fault::ALL.iter().filter(|fault| fault.side() == side) {
            let again = match fault.repeat() {
                Repeat::Never => "no",
                Repeat::NothingSent => "yes",
                Repeat::Idempotent => "if idempotent",
            };
            let proxy_status = match fault.proxy_status() {
                "" => "–".to_owned(),
                error => format!("`{error}`"),
            };
            writeln!(
                page,
                "| `{}` | {} | {again} | {proxy_status} | {} |",
                fault.token(),
                fault.code(),
                fault.meaning().trim(),
            )
            .unwrap();
        }
    }
    check("faults.md", &page);
}

const FAULTS_HEAD: &str = "\
<!-- Made from src/base/fault.rs by tests/reference.rs; do not edit. -->

# Faults

Why an exchange failed. The word in the first column stands in the access log as `fault`; it is never renamed.
The client sees the status and a fixed sentence, never the cause.

- **status**: what the client is sent. 499 is only logged: nobody was there to read an answer. If the answer had
  already begun, the log has the status that was sent, and the fault beside it.
- **attempted again**: whether another attempt may follow, while the route's retries allow one. *yes*: with any
  method, since the endpoint has seen nothing of the request; *if idempotent*: if the method is idempotent and
  the body is still whole.
- **Proxy-Status**: the error type in that header of our answer (RFC 9209).
";

/// Every name in the last column of the tables is that of a test.
#[test]
fn the_tests_that_conformance_names_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/internals/conformance.md")).unwrap();
    let mut tests = HashSet::new();
    for folder in ["src", "tests"] {
        tests_below(&root.join(folder), &mut tests);
    }
    let (mut missing, mut rows) = (Vec::new(), 0);
    let lines = page.lines().filter(|line| line.starts_with("| "));
    for line in lines.filter(|line| !line.starts_with("| §") && !line.starts_with("| ---")) {
        rows += 1;
        let cells: Vec<_> = line.trim_matches('|').split(" | ").collect();
        assert_eq!(cells.len(), 3, "{line}");
        let names: Vec<_> = cells[2].split('`').skip(1).step_by(2).collect();
        if names.is_empty() && !cells[2].contains("*not covered") {
            missing.push(line.to_owned());
        }
        let unknown = names.iter().filter(|name| !tests.contains(**name));
        missing.extend(unknown.map(|name| (*name).to_owned()));
    }
    assert!(rows > 80, "{rows} rows");
    assert!(missing.is_empty(), "{missing:#?}");
}

/// The names of all functions behind `#[test]` in a folder.
fn tests_below(folder: &Path, tests: &mut HashSet<String>) {
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("it can be read").path();
        if path.is_dir() {
            tests_below(&path, tests);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            let text = fs::read_to_string(&path).expect("sources are text");
            let is_test =
                |part: &&str| part.starts_with("test]") || part.starts_with("tokio::test");
            for part in text.split("#[").filter(is_test) {
                let name = part
                    .split_once("fn ")
                    .and_then(|(_, rest)| rest.split_once('('));
                tests.extend(name.map(|(name, _)| name.to_owned()));
            }
        }
    }
}
