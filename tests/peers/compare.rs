//! `benches/peers`, the comparisons with other proxies: that they measure, and what they do when they cannot.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::process::{PATIENCE, PYTHON, Running, Said, run, run_with, wait_until};
use super::proxy::{binary, path_in};

/// A quick comparison takes a few seconds, on a machine that has other tests to do maybe ten times as many.
const COMPARISON: Duration = Duration::from_secs(120);

#[test]
fn a_comparison_prints_every_proxy_and_draws_a_chart() {
    let folder = tempfile::tempdir().unwrap();
    let chart = path_in(&folder, "chart.svg");
    let table = quick(
        "compare.py",
        &binary(),
        &["--only", "h1", "upload-h2", "idle", "--chart", &chart],
    )
    .ok();
    for scenario in ["`h1`", "`upload-h2`"] {
        for proxy in ["nginx", "HAProxy", "Lockgate"] {
            let row = format!("| {scenario} | {proxy} | ");
            let row = table.lines().find(|line| line.starts_with(&row));
            // Failures are in the last column.
            assert!(row.is_some_and(|row| row.ends_with("% | 0 |")), "{table}");
        }
    }
    let idle = table.lines().find(|line| line.starts_with("| `idle` | "));
    assert!(idle.is_some_and(|row| !row.contains("failed")), "{table}");
    let chart = fs::read_to_string(chart).unwrap();
    // Of each of the two loads and the idle connections a bar for HAProxy and one for Lockgate, and two that explain.
    assert_eq!(chart.matches("<rect ").count(), 8, "{chart}");
}

#[test]
fn growth_prints_what_more_of_each_thing_costs() {
    let table = quick("growth.py", &binary(), &["--only", "endpoints", "log"]).ok();
    for name in [
        "endpoints, `round_robin`",
        "endpoints, `least_connections`",
        "endpoints, `peak_ewma`",
        "access log",
    ] {
        let row = table
            .lines()
            .find(|line| line.starts_with(&format!("| {name} | ")));
        assert!(
            row.is_some_and(|row| row.contains(" % | ") && row.ends_with(" | 0 |")),
            "{table}"
        );
    }
}

#[test]
fn reloads_print_what_each_proxy_loses_and_lockgate_loses_nothing() {
    let table = quick("reloads.py", &binary(), &["--caddy", "no-such-caddy"]).ok();
    let row = |proxy: &str, cells: usize| {
        let starts = format!("| {proxy} | ");
        let mut rows = table.lines().filter(|line| line.starts_with(&starts));
        rows.find(|line| line.matches(" | ").count() == cells)
            .unwrap_or_else(|| panic!("no row of {proxy}: {table}"))
    };
    for proxy in ["Lockgate", "nginx", "HAProxy"] {
        // What its clients saw, and what it took.
        row(proxy, 6);
        row(proxy, 4);
    }
    let lockgate = row("Lockgate", 6);
    // Failed requests, kept connections that were closed, those that were told before, and WebSockets.
    assert!(lockgate.ends_with(" | 0 | 0 | 0 | 0 of 20 |"), "{lockgate}");
    let left_out = "Not measured: Caddy, as there is no no-such-caddy.";
    assert!(table.contains(left_out), "{table}");
}

#[test]
fn a_comparison_in_which_requests_fail_says_so_and_draws_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let chart = path_in(&folder, "chart.svg");
    // It answers the script's own questions, which have an Accept-Encoding, and refuses those of wrk, which have none.
    let refusing = stand_in(
        folder.path(),
        "sed -i 's|^routes:|routes: \\n  - { match: { path: /files/, headers: { accept-encoding: { present: false } } }, \
         respond: { status: 503 } }|' lockgate.yaml",
    );
    let said = quick(
        "compare.py",
        &refusing,
        &["--only", "h1", "--chart", &chart],
    );
    assert!(!said.success, "{said:#?}");
    let told = "requests failed, so these are no figures: h1 (lockgate)";
    assert!(said.stderr.contains(told), "{said:#?}");
    let row = said
        .stdout
        .lines()
        .find(|line| line.starts_with("| `h1` | HTTPS"));
    // Neither a ratio to nginx nor one to HAProxy.
    assert!(
        row.is_some_and(|row| row.contains(" failed** | – | – |")),
        "{said:#?}"
    );
    assert!(!Path::new(&chart).exists());
}

#[test]
fn a_comparison_ends_when_a_proxy_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let lame = stand_in(folder.path(), "echo it is lame; exit 7");
    let said = quick("compare.py", &lame, &["--only", "h1"]);
    assert!(!said.success, "{said:#?}");
    assert!(
        said.stderr
            .contains("lockgate has ended with 7\nit is lame"),
        "{said:#?}"
    );
    assert_eq!(said.stdout, "");
}

#[test]
fn a_comparison_that_is_interrupted_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = arguments(
        "compare.py",
        &binary(),
        &["--seconds", "60", "--only", "h1"],
    );
    let mut comparison = Running::start(
        "env",
        [
            format!("TMPDIR={}", folder.path().display()),
            PYTHON.to_owned(),
        ]
        .into_iter()
        .chain(arguments),
        folder.path(),
    );
    comparison.says(&["round 1 of 5: h1, nginx"]);
    let programs = || children(comparison.pid());
    // The origin, three proxies and wrk.
    let started = wait_until(PATIENCE, || Some(programs()).filter(|all| all.len() == 5))
        .unwrap_or_else(|| panic!("{:?}", comparison.lines()));
    run("kill", ["-INT", &comparison.pid().to_string()]).ok();
    wait_until(PATIENCE, || comparison.has_ended().then_some(()))
        .unwrap_or_else(|| panic!("it goes on: {:?}", comparison.lines()));
    comparison.says(&["ended by a signal"]);
    let left = started
        .iter()
        .filter(|pid| Path::new("/proc").join(pid).exists());
    assert_eq!(left.count(), 0, "of {started:?}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// Runs a script of `benches/peers` for as short a time as it can.
#[track_caller]
fn quick(script: &str, binary: &Path, more: &[&str]) -> Said {
    let arguments = arguments(script, binary, &[&["--quick"], more].concat());
    run_with(PYTHON, arguments, "", COMPARISON)
}

fn arguments(script: &str, binary: &Path, more: &[&str]) -> Vec<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("benches/peers")
        .join(script);
    let paths = [
        script.to_str().unwrap(),
        "--binary",
        binary.to_str().unwrap(),
    ];
    [&paths, more]
        .concat()
        .into_iter()
        .map(str::to_owned)
        .collect()
}

/// A program that does something before it becomes Lockgate.
fn stand_in(folder: &Path, first: &str) -> PathBuf {
    let path = folder.join("lockgate");
    let text = format!(
        "#!/bin/sh\nset -e\n{first}\nexec {} \"$@\"\n",
        binary().display()
    );
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// The processes that a process has started.
fn children(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten();
    let children = tasks
        .flatten()
        .map(|task| fs::read_to_string(task.path().join("children")));
    let children = children.flatten().flat_map(|all| {
        all.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    });
    children.collect()
}
