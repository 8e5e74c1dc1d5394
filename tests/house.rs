//! The walls that rot unseen: who may import whom, where foreign crates stay, what must be documented.
//!
//! Each wall is a function from a file to what it breaks, so that it can be seen to fail; one test a wall runs it
//! over the project. Taste is not checked here: that is for readers. When a need and a wall disagree, change the
//! wall on purpose, together with ARCHITECTURE.md, and say why.

#![expect(clippy::panic, reason = "a test ends by it")]

#[path = "house/bounds.rs"]
mod bounds;
#[path = "house/limits.rs"]
mod limits;
#[path = "house/source.rs"]
mod source;

use std::fs;
use std::path::PathBuf;

use lockgate::base::fault::Fault;

/// What a room may import besides itself. A room is a path below `crate::`, and its last word names it in the
/// rows of others.
const MAY_IMPORT: &str = "
    base:                       nothing
    telemetry:                  base
    config:                     base

    dataplane::route:           base
    dataplane::proxy_protocol:  base
    dataplane::context:         base telemetry
    dataplane::tls:             base telemetry
    dataplane::shared:          base telemetry
    dataplane::cache:           base telemetry shared
    dataplane::upstream:        base telemetry tls proxy_protocol
    dataplane::filter:          base telemetry context shared upstream
    dataplane::snapshot:        base telemetry route tls upstream filter cache
    dataplane::http:            base telemetry context route filter cache upstream snapshot
    dataplane::l4:              base telemetry context upstream snapshot
    dataplane::listener:        base telemetry context proxy_protocol tls snapshot http l4
    dataplane::worker:          base telemetry upstream snapshot http listener

    controlplane::compile:      base config route tls upstream filter cache snapshot
    controlplane::explain:      base config compile route snapshot filter
    controlplane::status:       base
    controlplane::reload:       base telemetry config compile snapshot listener worker
    controlplane::prober:       base telemetry status snapshot upstream
    controlplane::discovery:    base telemetry config status reload
    controlplane::kube:         base telemetry config status reload
    controlplane::acme:         base telemetry config status reload tls
    controlplane::admin:        base telemetry config status reload snapshot upstream
    controlplane::process:      base telemetry config status reload listener

    cli:                        base config
    demo:                       base config
    import:                     nothing
    fuzzing:                    everything
    app:                        everything
    main:                       app cli
    lib:                        nothing
    dataplane:                  nothing
    controlplane:               nothing
";

/// Paths that one file or folder of `src/` alone may say.
const QUARANTINE: &[Quarantine] = &[
    in_tests_too("serde_yaml", "config/parse.rs"),
    in_tests_too("rustls_pemfile", "dataplane/tls/pem.rs"),
    in_tests_too("notify", "controlplane/reload/watch/places.rs"),
    in_tests_too("arc_swap", "dataplane/snapshot.rs"),
    in_tests_too("std::env", "cli.rs"),
    in_tests_too("hickory_resolver", "controlplane/discovery/resolver.rs"),
    in_tests_too("resolv_conf", "controlplane/discovery/resolver.rs"),
    in_tests_too("listenfd", "controlplane/process/inherit.rs"),
    in_tests_too("command_fds", "controlplane/process/upgrade.rs"),
    in_tests_too("sd_notify", "controlplane/process/systemd.rs"),
    in_tests_too("rustls", "dataplane/tls/"),
    in_tests_too("tokio_rustls", "dataplane/tls/"),
    in_tests_too("rustls_native_certs", "dataplane/tls/"),
    Quarantine {
        path: "rcgen",
        home: "demo/",
        in_tests_too: false,
    },
];

struct Quarantine {
    path: &'static str,
    home: &'static str,
    in_tests_too: bool,
}

const fn in_tests_too(path: &'static str, home: &'static str) -> Quarantine {
    Quarantine {
        path,
        home,
        in_tests_too: true,
    }
}

/// Words that mark unfinished work, taken apart so that this file does not say them.
const LEFT_OVER: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("HA", "CK"),
];

/// Folders that exist on one machine only.
const MACHINE_PATHS: &[&str] = &[
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("/Us", "ers/"),
    concat!("/wo", "rk/"),
];

// The import table.

#[test]
fn rooms_import_only_the_rooms_in_their_row() {
    pass(
        rust_files("src")
            .iter()
            .flat_map(|file| imports_broken(&below("src", &file.name), &file.text)),
    );
}

#[test]
fn an_import_across_a_wall_is_named_with_its_rule() {
    let broken = imports_broken(
        "dataplane/filter/headers.rs",
        "use crate::base::fault::Fault;\nuse crate::{dataplane::upstream::pool, config::Config};\n",
    );
    assert_eq!(
        broken,
        [
            "src/dataplane/filter/headers.rs:2: `crate::config::Config`: `dataplane::filter` may import base \
             telemetry context shared upstream; not `config`"
        ]
    );
}

#[test]
fn every_way_to_write_an_import_is_seen() {
    let check = |file: &str, source: &str, expected: usize| {
        assert_eq!(
            imports_broken(file, source).len(),
            expected,
            "{file}: {source}"
        );
    };
    check(
        "dataplane/http/serve.rs",
        "fn f() { crate::dataplane::worker::start() }",
        1,
    );
    check(
        "dataplane/http/serve.rs",
        "use super::super::listener::accept;",
        1,
    );
    check(
        "dataplane/http/serve.rs",
        "use super::exchange; use crate::dataplane::http::forward;",
        0,
    );
    check(
        "dataplane/http/serve.rs",
        "#[cfg(test)] mod tests { use crate::config::Config; }",
        1,
    );
    check("base/body.rs", "use crate::telemetry::metrics;", 1);
    check("base/body.rs", "use crate::*;", 1);
    check("main.rs", "use lockgate::config::Config;", 1);
    check("main.rs", "fn main() { lockgate::app::run() }", 0);
    check(
        "app.rs",
        "use crate::{controlplane::reload, dataplane::worker};",
        0,
    );
    check("dataplane/sidecar.rs", "", 1);
}

fn imports_broken(file: &str, text: &str) -> Vec<String> {
    let module = module_of(file);
    let room = if module.is_empty() {
        file.trim_end_matches(".rs")
    } else {
        room_of(&module)
    };
    let Some(allowed) = row_of(room) else {
        return vec![format!(
            "src/{file}:1: room `{room}` has no row in the import table"
        )];
    };
    let segments: Vec<_> = module.split("::").filter(|part| !part.is_empty()).collect();
    let mut broken = Vec::new();
    for path in source::paths(text, &segments) {
        let [root, inner @ ..] = path.segments.as_slice() else {
            continue;
        };
        if root != "crate" && !(room == "main" && root == "lockgate") {
            continue;
        }
        let inner = inner.join("::");
        let target = room_of(&inner);
        let name = target.rsplit("::").next().unwrap_or(target);
        let is_allowed = allowed
            .split(' ')
            .any(|word| word == name || word == "everything");
        if target != room && !is_allowed {
            broken.push(format!(
                "src/{file}:{}: `{root}::{inner}`: `{room}` may import {allowed}; not `{target}`",
                path.line,
            ));
        }
    }
    broken
}

fn row_of(room: &str) -> Option<&'static str> {
    let mut rows = MAY_IMPORT
        .lines()
        .filter_map(|row| row.trim().split_once(": "));
    rows.find(|(name, _)| *name == room)
        .map(|(_, allowed)| allowed.trim())
}

/// `dataplane/http/serve.rs` is module `dataplane::http::serve`; `main.rs` and `lib.rs` are the root.
fn module_of(file: &str) -> String {
    let path = file
        .trim_end_matches(".rs")
        .trim_end_matches("/mod")
        .replace('/', "::");
    if matches!(path.as_str(), "main" | "lib") {
        String::new()
    } else {
        path
    }
}

/// The front of a path that names a room: two segments in the wings, one elsewhere.
fn room_of(path: &str) -> &str {
    let segments = if path.starts_with("dataplane") || path.starts_with("controlplane") {
        2
    } else {
        1
    };
    path.match_indices("::")
        .nth(segments - 1)
        .map_or(path, |(at, _)| &path[..at])
}

// The quarantine list.

#[test]
fn quarantined_crates_stay_where_they_are() {
    let files = rust_files("src");
    let for_tests: Vec<_> = files
        .iter()
        .flat_map(|file| test_files(&file.name, &file.text))
        .collect();
    pass(files.iter().flat_map(|file| {
        let is_for_tests = for_tests.iter().any(|prefix| file.name.starts_with(prefix));
        quarantine_broken(&below("src", &file.name), &file.text, is_for_tests)
    }));
}

#[test]
fn a_crate_out_of_quarantine_is_named() {
    let check = |file: &str, source: &str, expected: usize| {
        assert_eq!(
            quarantine_broken(file, source, false).len(),
            expected,
            "{file}: {source}"
        );
    };
    check("config/check.rs", "use serde_yaml::Value;", 1);
    check("config/parse.rs", "use serde_yaml::Value;", 0);
    check("base/units.rs", "use std::{env, fmt};", 1);
    check("cli.rs", "fn f() { std::env::var_os(\"A\") }", 0);
    check(
        "dataplane/tls/certs.rs",
        "use rustls::ServerConfig; use tokio_rustls::TlsAcceptor;",
        0,
    );
    check(
        "dataplane/listener/connection.rs",
        "use tokio_rustls::TlsAcceptor;",
        1,
    );
    check("app.rs", "use rcgen::KeyPair;", 1);
    check(
        "app.rs",
        "#[cfg(test)] mod tests { use rcgen::KeyPair; use arc_swap::Cache; }",
        1,
    );
    check("dataplane/http/respond.rs", "use serde::Serialize;", 1);
    check(
        "dataplane/http/respond.rs",
        "#[derive(serde_json::X)] struct A;",
        1,
    );
    check("telemetry/access_log.rs", "use serde::Serialize;", 0);
    check("base/body.rs", "fn f() { unsafe { g() } }", 1);
    assert_eq!(
        quarantine_broken("app.rs", "use rcgen::KeyPair;", true),
        [""; 0]
    );
    assert_eq!(
        test_files("src/dataplane/tls/mod.rs", "#[cfg(test)] mod testkit;"),
        ["src/dataplane/tls/testkit.rs", "src/dataplane/tls/testkit/"]
    );
    check("base/body.rs", "// unsafe\nlet a = \"unsafe\";", 0);
}

#[test]
fn nothing_is_unsafe_outside_src_either() {
    let outside = ["tests", "benches", "examples"]
        .into_iter()
        .flat_map(rust_files);
    pass(outside.flat_map(|file| unsafe_said(&file.name, &file.text)));
}

/// Where the modules are that `file` declares for tests alone, as the front of their files' names.
fn test_files(file: &str, text: &str) -> Vec<String> {
    let folder = file
        .trim_end_matches("mod.rs")
        .trim_end_matches("lib.rs")
        .trim_end_matches(".rs");
    let folder = folder.trim_end_matches('/');
    let modules = source::test_modules(text).into_iter();
    modules
        .flat_map(|name| [format!("{folder}/{name}.rs"), format!("{folder}/{name}/")])
        .collect()
}

fn quarantine_broken(file: &str, text: &str, is_for_tests: bool) -> Vec<String> {
    let mut broken = unsafe_said(&format!("src/{file}"), text);
    for path in source::paths(text, &[]) {
        let said = path.segments.join("::");
        for rule in QUARANTINE {
            let is_home =
                file == rule.home || (rule.home.ends_with('/') && file.starts_with(rule.home));
            let is_free = is_home || ((path.in_tests || is_for_tests) && !rule.in_tests_too);
            if path.starts_with(rule.path) && !is_free {
                broken.push(format!(
                    "src/{file}:{}: `{said}`: `{}` belongs to src/{} alone",
                    path.line, rule.path, rule.home
                ));
            }
        }
        if file.starts_with("dataplane/") && said.starts_with("serde") {
            broken.push(format!(
                "src/{file}:{}: `{said}`: the data plane never says serde",
                path.line
            ));
        }
    }
    broken
}

fn unsafe_said(file: &str, text: &str) -> Vec<String> {
    let tokens = source::tokens(text);
    let said = tokens.iter().filter(|token| token.text == "unsafe");
    said.map(|token| format!("{file}:{}: nothing here is unsafe", token.line))
        .collect()
}

// What every file is held to.

#[test]
fn every_file_says_first_what_it_is() {
    pass(
        all_rust_files()
            .iter()
            .filter(|file| !file.text.starts_with("//! "))
            .map(|file| {
                format!(
                    "{}:1: the first line is `//! ` and one sentence what this file is",
                    file.name
                )
            }),
    );
}

#[test]
fn nothing_is_left_over() {
    pass(
        all_files()
            .iter()
            .flat_map(|file| left_over(&file.name, &file.text)),
    );
}

#[test]
fn what_is_left_over_is_named() {
    let check = |source: &str, expected: usize| {
        assert_eq!(left_over("src/a.rs", source).len(), expected, "{source}");
    };
    check(concat!("// TO", "DO: later"), 1);
    check(concat!("let a = \"to", "do TO", "DOS\";"), 0);
    check(concat!("let a = db", "g!(b);"), 1);
    check(concat!("let a = \"/ro", "ot/x\";"), 1);
    check("#[test]\n#[ignore]\nfn f() {}", 1);
    check("#[test]\n#[ignore = \"needs a network\"]\nfn f() {}", 0);
}

fn left_over(file: &str, text: &str) -> Vec<String> {
    let mut broken = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let place = format!("{file}:{}", number + 1);
        let words: Vec<_> = line
            .split(|c: char| !c.is_alphanumeric() && c != '_')
            .collect();
        for word in LEFT_OVER.iter().filter(|word| words.contains(word)) {
            broken.push(format!("{place}: `{word}`: finish it, or file an issue"));
        }
        for path in MACHINE_PATHS.iter().filter(|path| line.contains(**path)) {
            broken.push(format!("{place}: `{path}` exists on one machine only"));
        }
    }
    if file.ends_with(".rs") {
        let tokens = source::tokens(text);
        let says = |at: usize, words: &[&str]| {
            words.iter().enumerate().all(|(ahead, word)| {
                tokens
                    .get(at + ahead)
                    .is_some_and(|token| token.text == *word)
            })
        };
        for (at, token) in tokens.iter().enumerate() {
            if says(at, &[concat!("db", "g"), "!"]) {
                broken.push(format!("{file}:{}: left over from debugging", token.line));
            }
            if says(at, &["#", "[", "ignore", "]"]) {
                broken.push(format!(
                    "{file}:{}: an ignored test says why: #[ignore = \"…\"]",
                    token.line
                ));
            }
        }
    }
    broken
}

// What must be documented.

#[test]
fn every_room_has_its_place_in_the_architecture() {
    let architecture = read("ARCHITECTURE.md");
    let mut rooms = folders("src");
    rooms.retain(|folder| {
        let module = folder.replace('/', "::");
        room_of(&module) == module // Folders inside a room are its own affair.
    });
    assert!(!rooms.is_empty(), "src/ has rooms");
    pass(
        rooms
            .iter()
            .filter(|room| !architecture.contains(&format!("`{room}/`")))
            .map(|room| format!("ARCHITECTURE.md: room `{room}/` is not named")),
    );
}

#[test]
fn every_room_of_the_architecture_has_a_row() {
    let architecture = read("ARCHITECTURE.md");
    let named: Vec<_> = architecture
        .split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|code| code.strip_suffix('/'))
        .filter(|code| {
            ["dataplane/", "controlplane/"]
                .iter()
                .any(|wing| code.starts_with(wing))
        })
        .collect();
    assert!(!named.is_empty(), "ARCHITECTURE.md names rooms");
    pass(
        named
            .iter()
            .filter(|room| row_of(&room.replace('/', "::")).is_none())
            .map(|room| format!("ARCHITECTURE.md: `{room}/` has no row in the import table")),
    );
}

#[test]
fn every_fault_is_documented() {
    pass(undocumented_faults(&read("docs/reference/faults.md")).into_iter());
}

#[test]
fn a_fault_without_documentation_is_named() {
    let page = read("docs/reference/faults.md").replace("`no_route`", "`no route`");
    assert_eq!(
        undocumented_faults(&page),
        ["docs/reference/faults.md: `no_route` is not documented"]
    );
}

/// The crates through which a request or a key passes, and those that confine the process.
const DATA_PATH: &[&str] = &[
    "tokio",
    "mio",
    "socket2",
    "hyper",
    "h2",
    "hyper-util",
    "http",
    "http-body",
    "http-body-util",
    "httparse",
    "httpdate",
    "bytes",
    "rustls",
    "tokio-rustls",
    "rustls-webpki",
    "rustls-pki-types",
    "rustls-pemfile",
    "rustls-native-certs",
    "aws-lc-rs",
    "aws-lc-sys",
    "x509-parser",
    "zeroize",
    "arc-swap",
    "regex",
    "regex-automata",
    "regex-syntax",
    "memchr",
    "smallvec",
    "slab",
    "foldhash",
    "xxhash-rust",
    "ipnet",
    "itoa",
    "mimalloc",
    "libmimalloc-sys",
    "tracing",
    "libc",
    "rustix",
    "landlock",
    "seccompiler",
    "nix",
];

#[test]
fn the_record_of_the_data_path_is_up_to_date() {
    let (page, lock) = (read("docs/internals/supply-chain.md"), read("Cargo.lock"));
    pass(DATA_PATH.iter().filter_map(|name| {
        let version = locked(&lock, name);
        let row = format!("| `{name}` | {version} |");
        (!page.contains(&row)).then(|| {
            format!("docs/internals/supply-chain.md: look at {name} {version}, and say what was looked at")
        })
    }));
}

#[test]
fn a_locked_version_is_found() {
    let lock = "[[package]]\nname = \"http\"\nversion = \"1.5.0\"\n";
    assert_eq!(locked(lock, "http"), "1.5.0");
    assert_eq!(locked(lock, "ht"), "none");
}

/// The version of a crate in the lock file.
fn locked<'a>(lock: &'a str, name: &str) -> &'a str {
    let entry = format!("name = \"{name}\"\nversion = \"");
    let mut parts = lock.split(entry.as_str());
    let version = parts.nth(1).and_then(|rest| rest.split('"').next());
    version.unwrap_or("none")
}

/// Documents that name tests as proof.
const PROOFS: &[&str] = &["docs/threat-model.md"];

#[test]
fn every_test_that_a_document_names_is_there() {
    let tests: Vec<String> = rust_files("src")
        .iter()
        .chain(&rust_files("tests"))
        .flat_map(|file| functions(&file.text))
        .collect();
    for page in PROOFS {
        let named = named_tests(&read(page));
        assert!(named.len() > 10, "{page} names tests");
        pass(
            named
                .iter()
                .filter(|name| !tests.contains(name))
                .map(|name| format!("{page}: there is no test `{name}`")),
        );
    }
}

#[test]
fn a_test_that_is_gone_is_missed() {
    let page = "| a | b | `this_is_a_test_of_something`, `limits.header_bytes` |\nprose with `another_long_name_here`\n";
    assert_eq!(named_tests(page), ["this_is_a_test_of_something"]);
    assert_eq!(
        functions("#[test]\nfn this_is_a_test() {}\nasync fn b(c: u8)"),
        ["this_is_a_test", "b"]
    );
}

/// The names in the last column of a page's tables.
fn named_tests(page: &str) -> Vec<String> {
    let rows = page.lines().filter(|line| line.starts_with('|'));
    let cells = rows.filter_map(|row| row.trim_end_matches([' ', '|']).rsplit('|').next());
    let names = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    names
        .filter(|name| {
            name.matches('_').count() > 1
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        })
        .map(str::to_owned)
        .collect()
}

/// The names of all functions in a file.
fn functions(text: &str) -> Vec<String> {
    let tokens = source::tokens(text);
    let pairs = tokens.iter().zip(tokens.iter().skip(1));
    pairs
        .filter(|(before, _)| before.text == "fn")
        .map(|(_, name)| name.text.to_owned())
        .collect()
}

fn undocumented_faults(page: &str) -> Vec<String> {
    let tokens = Fault::ALL.iter().map(|fault| fault.token());
    tokens
        .filter(|token| !page.contains(&format!("| `{token}` |")))
        .map(|token| format!("docs/reference/faults.md: `{token}` is not documented"))
        .collect()
}

#[test]
fn every_limit_is_what_its_page_tells() {
    let files = rust_files("src");
    let constants: Vec<_> = files
        .iter()
        .flat_map(|file| limits::constants(&file.text))
        .collect();
    let page = read("docs/limits.md");
    pass(limits::broken(&page, &read("docs/reference/config.md"), &constants).into_iter());
}

#[test]
fn a_limit_that_its_page_tells_wrong_is_named() {
    let constants = limits::constants(
        "const LIMIT: usize = 64 << 10;\nconst WAIT: Duration = Duration::from_secs(2 * 60);\n\
         #[cfg(test)]\nmod tests {\nconst LIMIT: usize = 1;\n",
    );
    let reference = "## Limits\n\n| `size` | a size | `32KiB` | Bytes. |\n| `most` | a number | no limit | All. |\n";
    let check = |row: &str, expected: usize| {
        let broken = limits::broken(row, reference, &constants);
        assert_eq!(broken.len(), expected, "{row}: {broken:?}");
    };
    check("| bytes | 64 KiB | `LIMIT` | |", 0);
    check("| bytes | 65 536 | `LIMIT` | |", 0);
    check("| bytes | 65 KiB | `LIMIT` | |", 1);
    check("| bytes | 64 KiB | `OTHER_LIMIT` | |", 1);
    check("| time, and bytes | 2 min, 64 KiB | `WAIT`, `LIMIT` | |", 0);
    check("| time | 2 s | `WAIT` | |", 1);
    check("| bytes | 32 KiB | `limits.size` | |", 0);
    check("| bytes | 31 KiB | `limits.size` | |", 1);
    check("| bytes | 32 KiB | `limits.length` | |", 1);
    check("| all | none | `limits.most`, also of a route | |", 0);
    check("| all | 5 | `limits.most` | |", 1);
}

/// Constants that end as limits do and are none that anybody outside meets.
const NO_LIMITS: &[(&str, &str)] = &[
    ("NAME_LIMIT", "the longest word of a list of ours"),
    ("COPY_LIMIT", "larger pieces are sent from where they are"),
];

#[test]
fn every_limit_has_its_row() {
    let page = read("docs/limits.md");
    let files = rust_files("src");
    let missing = files.iter().flat_map(|file| {
        let constants = limits::constants(&file.text).into_iter();
        let name = file.name.clone();
        let is_limit = |name: &str| {
            ["_LIMIT", "_TIMEOUT", "_AT_A_TIME"]
                .iter()
                .any(|end| name.ends_with(end))
        };
        constants
            .filter(move |one| is_limit(&one.name) && !file.name.starts_with("src/demo/"))
            .map(move |one| (name.clone(), one.name))
    });
    let missing = missing.filter(|(_, name)| {
        !page.contains(&format!("`{name}`")) && !NO_LIMITS.iter().any(|(known, _)| known == name)
    });
    pass(missing.map(|(file, name)| format!("{file}: `{name}` has no row in docs/limits.md")));
}

#[test]
fn every_loop_and_every_queue_has_a_reason_to_end() {
    let page = read("docs/limits.md");
    let files = rust_files("src");
    pass(
        files
            .iter()
            .flat_map(|file| bounds::broken(&below("src", &file.name), &file.text, &page)),
    );
    let is_there = |name: &str| files.iter().any(|file| below("src", &file.name) == name);
    let loops = bounds::LOOPS.iter().map(|(file, ..)| file);
    let gone = loops.chain(bounds::QUEUES.iter().map(|(file, _)| file));
    pass(
        gone.filter(|file| !is_there(file))
            .map(|file| format!("tests/house/bounds.rs: src/{file} is not there")),
    );
}

#[test]
fn a_loop_or_a_queue_without_a_reason_is_named() {
    let check = |file: &str, source: &str, expected: usize| {
        let broken = bounds::broken(file, source, "`QUEUE_LIMIT`");
        assert_eq!(broken.len(), expected, "{file}: {source}: {broken:?}");
    };
    check("base/name.rs", "fn f() { loop { } }", 1);
    check("base/name.rs", "fn f() { while a { } } // loop {", 0);
    check(
        "base/name.rs",
        "fn f() { }\nmod tests {\nfn g() { loop { } } }",
        0,
    );
    check("base/deadline.rs", "fn f() { loop { } }", 0);
    check("base/deadline.rs", "fn f() { }", 1);
    check(
        "base/name.rs",
        "fn f() { let (a, b) = mpsc::channel(); }",
        1,
    );
    check(
        "base/name.rs",
        "fn f() { let (a, b) = mpsc::unbounded_channel(); }",
        1,
    );
    check(
        "base/name.rs",
        "fn f() { let (a, b) = mpsc::channel(LIMIT); }",
        0,
    );
    check("base/name.rs", "struct A { queue: VecDeque<u8> }", 1);
    check("config/parse.rs", "fn f() { loop { } }", 0);
}

// The project's files.

struct File {
    /// Its path below the project's root, with `/` between names.
    name: String,
    text: String,
}

/// The path below `folder`.
fn below(folder: &str, name: &str) -> String {
    let rest = name.strip_prefix(folder).unwrap_or(name);
    rest.trim_start_matches('/').to_owned()
}

fn pass(broken: impl Iterator<Item = String>) {
    let broken: Vec<_> = broken.collect();
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn all_rust_files() -> Vec<File> {
    ["src", "tests", "benches", "examples", "fuzz"]
        .into_iter()
        .flat_map(rust_files)
        .collect()
}

fn rust_files(folder: &str) -> Vec<File> {
    let files = files_below(folder)
        .into_iter()
        .filter(|name| name.ends_with(".rs"));
    let files: Vec<_> = files
        .map(|name| File {
            text: read(&name),
            name,
        })
        .collect();
    assert!(folder != "src" || files.len() > 10, "src/ was found");
    files
}

/// Every file that is text and ours; what git ignores has no place in it.
fn all_files() -> Vec<File> {
    const KINDS: &[&str] = &[
        "rs", "toml", "md", "yaml", "yml", "expected", "html", "css", "js", "py", "sh", "run",
        "justfile", "service", "socket",
    ];
    let files = files_below("").into_iter().filter(|name| {
        let last = name.rsplit('/').next().unwrap_or(name);
        KINDS.contains(&last.rsplit('.').next().unwrap_or(last))
    });
    files
        .map(|name| File {
            text: read(&name),
            name,
        })
        .collect()
}

fn files_below(folder: &str) -> Vec<String> {
    let mut files = Vec::new();
    walk(folder, &mut |name, is_folder| {
        if !is_folder {
            files.push(name);
        }
    });
    files.sort();
    files
}

/// The folders below `folder`, as paths below it.
fn folders(folder: &str) -> Vec<String> {
    let mut folders = Vec::new();
    walk(folder, &mut |name, is_folder| {
        if is_folder {
            folders.push(
                name.trim_start_matches(folder)
                    .trim_start_matches('/')
                    .to_owned(),
            );
        }
    });
    folders.sort();
    folders
}

fn walk(folder: &str, visit: &mut impl FnMut(String, bool)) {
    let Ok(entries) = fs::read_dir(root().join(folder)) else {
        return; // A folder that the project does not have yet.
    };
    for entry in entries {
        let entry = entry.expect("the project's folders can be read");
        let last = entry
            .file_name()
            .into_string()
            .expect("names of ours are text");
        let name = if folder.is_empty() {
            last.clone()
        } else {
            format!("{folder}/{last}")
        };
        let is_folder = entry.path().is_dir();
        if is_folder && matches!(last.as_str(), "target" | ".git" | "node_modules") {
            continue;
        }
        visit(name.clone(), is_folder);
        if is_folder {
            walk(&name, visit);
        }
    }
}
