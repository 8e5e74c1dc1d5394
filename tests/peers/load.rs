//! wrk and h2load for a short while: not how fast, but that nothing fails.

use std::thread;
use std::time::Duration;

use super::process::{PATIENCE, pause, run_with};
use super::proxy::Proxy;
use super::servers::Nginx;

/// Requests that ended well, and whatever else was told; each of those is a failure.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) requests: u64,
    pub(crate) failures: Vec<String>,
    /// How long half of the answers took at most, and 99 of 100: for eyes only.
    pub(crate) times: String,
}

/// Runs wrk for so many seconds; each connection sends one request after the other.
pub(crate) fn wrk(seconds: u64, connections: u32, url: &str) -> Load {
    let arguments = [
        "-t1".to_owned(),
        format!("-c{connections}"),
        format!("-d{seconds}s"),
        "--timeout=10s".to_owned(),
        "--latency".to_owned(),
        url.to_owned(),
    ];
    let said = run_with(
        "wrk",
        arguments,
        "",
        PATIENCE + Duration::from_secs(seconds),
    )
    .ok();
    let bad = |line: &&str| line.contains("Socket errors") || line.contains("Non-2xx");
    let failures = said.lines().filter(bad).map(str::to_owned).collect();
    let of_times = |line: &&str| {
        ["50%", "99%"]
            .iter()
            .any(|name| line.trim().starts_with(name))
    };
    let times: Vec<_> = said.lines().filter(of_times).map(squeezed).collect();
    let total = said.lines().find(|line| line.contains(" requests in "));
    let requests = total.and_then(|line| line.split_whitespace().next()?.parse().ok());
    Load {
        requests: requests.unwrap_or_else(|| panic!("wrk said {said}")),
        failures,
        times: times.join(", "),
    }
}

/// Single spaces between the words.
fn squeezed(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Runs h2load for so many seconds, with `more` arguments.
pub(crate) fn h2load(seconds: u64, more: &[&str], url: &str) -> Load {
    let duration = format!("--duration={seconds}");
    let arguments = [&[&*duration], more, &[url]].concat();
    let said = run_with(
        "h2load",
        arguments,
        "",
        PATIENCE + Duration::from_secs(seconds),
    )
    .ok();
    let line = |name: &str| {
        let found = said.lines().find(|line| line.starts_with(name));
        found.unwrap_or_else(|| panic!("h2load said {said}"))
    };
    let numbers = |line: &str| {
        let pairs = line.split_once(": ").unwrap().1.split(", ");
        let pairs = pairs.map(|pair| pair.split_once(' ').unwrap());
        let pairs = pairs.map(|(number, name)| (name.to_owned(), number.parse().unwrap()));
        pairs.collect::<Vec<(String, u64)>>()
    };
    let mut requests = 0;
    let mut failures = Vec::new();
    for (name, number) in [numbers(line("requests")), numbers(line("status codes"))].concat() {
        match name.as_str() {
            "succeeded" => requests = number,
            "failed" | "errored" | "timeout" | "3xx" | "4xx" | "5xx" if number > 0 => {
                failures.push(format!("{number} {name}"));
            }
            _ => {}
        }
    }
    Load {
        requests,
        failures,
        times: String::new(),
    }
}

impl Load {
    /// It must have done something, all of it well.
    #[track_caller]
    pub(crate) fn assert_flawless(&self, what: &str, at_least: u64) {
        eprintln!(
            "{what}: {} requests, {} failures; {}",
            self.requests,
            self.failures.len(),
            self.times
        );
        assert!(self.failures.is_empty(), "{what}: {self:?}");
        assert!(self.requests >= at_least, "{what}: {self:?}");
    }
}

#[test]
fn wrk_sees_no_failure_in_clear_or_over_tls() {
    let nginx = Nginx::start("");
    let proxy = Proxy::before(&[nginx.address]);
    for url in [proxy.http("/"), proxy.https("/")] {
        wrk(2, 20, &url).assert_flawless(&format!("wrk {url}"), 200);
    }
}

#[test]
fn h2load_sees_no_failure_over_http1_and_http2() {
    let nginx = Nginx::start("");
    let proxy = Proxy::before(&[nginx.address]);
    let (http, https) = (proxy.http("/"), proxy.https("/"));
    for (more, url) in [
        (&["-c4", "--h1"][..], &http),
        (&["-c4", "--h1"], &https),
        (&["-c4", "-m20"], &http),
        (&["-c4", "-m20"], &https),
    ] {
        h2load(2, more, url).assert_flawless(&format!("h2load {more:?} {url}"), 200);
    }
}

#[test]
fn killing_one_of_two_backends_under_load_fails_no_get() {
    let (mut doomed, other) = (Nginx::start(""), Nginx::start(""));
    let proxy = Proxy::before(&[doomed.address, other.address]);
    let (http, https) = (proxy.http("/"), proxy.https("/"));
    let (over_1, over_2) = thread::scope(|scope| {
        let over_1 = scope.spawn(|| wrk(4, 20, &http));
        let over_2 = scope.spawn(|| h2load(4, &["-c4", "-m5"], &https));
        pause(Duration::from_millis(1500));
        doomed.process.kill();
        (over_1.join().unwrap(), over_2.join().unwrap())
    });
    eprintln!(
        "faults: {:?}",
        proxy.faults().iter().take(5).collect::<Vec<_>>()
    );
    over_1.assert_flawless("wrk while a backend is killed", 200);
    over_2.assert_flawless("h2load while a backend is killed", 200);
    let moved = proxy.record(|record| record["attempts"] == 2);
    assert_eq!(moved["endpoint"], other.address.to_string(), "{moved:#}");
}
