//! The config is rewritten under load again and again, and nobody notices.

use std::thread;
use std::time::Duration;

use super::load::{h2load, wrk};
use super::process::{PATIENCE, PYTHON, Running, is_large, pause, run_with, script, wait_until};
use super::proxy::{LISTENERS, Proxy, certificates};
use super::servers::{Nginx, Server};

#[test]
fn rewriting_the_config_under_load_fails_no_request_and_closes_no_connection() {
    let seconds = if is_large() { 30 } else { 6 };
    let (one, two) = (
        Nginx::start("access_log off;"),
        Nginx::start("access_log off;"),
    );
    let echo = Server::python("websocket.py", &["serve"]);
    let versions = versions(&one, &two, &echo);
    let proxy = Proxy::start_in(certificates(), &versions[0]);

    let mut sockets = open_sockets(&proxy, seconds + 3);

    let (http, https) = (proxy.http("/"), proxy.https("/"));
    let (written, kept, loads) = thread::scope(|scope| {
        let written = scope.spawn(|| rewrite(&proxy, &versions, seconds * 2));
        let kept = scope.spawn(|| keep_alive(&proxy, seconds));
        let over_1 = scope.spawn(|| wrk(seconds, 20, &https));
        let over_2 = scope.spawn(|| h2load(seconds, &["--max-concurrent-streams=10"], &https));
        let in_clear = scope.spawn(|| h2load(seconds, &["--h1"], &http));
        let loads = [over_1, over_2, in_clear].map(|load| load.join().unwrap());
        (written.join().unwrap(), kept.join().unwrap(), loads)
    });

    let tools = ["wrk", "h2load", "h2load --h1 in clear"];
    for (tool, load) in tools.into_iter().zip(&loads) {
        load.assert_flawless(&format!("{tool} under reload"), 50);
    }
    eprintln!("connections: {}", kept.trim());
    assert!(kept.starts_with("kept 10 "), "{kept}");
    let end = sockets.says(&["alive "]);
    eprintln!("WebSockets: {end}");
    assert!(end.starts_with("alive 20 "), "{:?}", sockets.lines());
    assert_reloads(&proxy.lines(), written);
}

/// 20 WebSockets, all open, on which something is said and comes back every 200 ms for so many seconds.
fn open_sockets(proxy: &Proxy, seconds: u64) -> Running {
    let talk = script("websocket.py");
    let url = proxy.https("/live").replacen("http", "ws", 1);
    let (ca, life) = (proxy.file("ca.pem"), seconds.to_string());
    let arguments = [talk.to_str().unwrap(), "talk", &url, &ca, "20", &life];
    let sockets = Running::start(PYTHON, arguments, proxy.folder());
    let opened = || {
        let lines = sockets.lines();
        let open = lines.iter().filter(|line| line.starts_with("open "));
        (open.count() == 20).then_some(())
    };
    wait_until(PATIENCE, opened).unwrap_or_else(|| panic!("{:?}", sockets.lines()));
    sockets
}

/// What was written came into force, each kind of change was seen, and nothing was refused.
fn assert_reloads(lines: &[String], written: u64) {
    let all = lines.join("\n");
    let count = |word: &str| lines.iter().filter(|line| line.contains(word)).count() as u64;
    let in_force = count("a new version is in force");
    eprintln!("{written} configs written, {in_force} came into force");
    assert_eq!(count("refused"), 0, "{all}");
    // On a busy machine two writes may come to one reload.
    assert!(in_force * 2 >= written, "{in_force} of {written}: {all}");
    let changes = [
        "~app",
        "+extra",
        "-extra",
        "listeners +more",
        "listeners -more",
    ];
    for change in changes {
        assert!(count(change) > 0, "{change} is not in\n{all}");
    }
}

/// Writes the config so many times, half a second apart, and tells how often.
fn rewrite(proxy: &Proxy, versions: &[String], times: u64) -> u64 {
    for version in versions.iter().cycle().skip(1).take(times as usize) {
        proxy.write(version);
        pause(Duration::from_millis(500));
    }
    times
}

/// Connections that the client would never open again: wrk and h2load would do so quietly.
fn keep_alive(proxy: &Proxy, seconds: u64) -> String {
    let client = script("keepalive.py");
    let (port, ca) = (proxy.web.port().to_string(), proxy.file("ca.pem"));
    let seconds_told = seconds.to_string();
    let arguments = [client.to_str().unwrap(), &port, &ca, "10", &seconds_told];
    run_with(
        PYTHON,
        arguments,
        "",
        PATIENCE + Duration::from_secs(seconds),
    )
    .ok()
}

/// Other weights, one more route and one less, one more listener and one less.
fn versions(one: &Nginx, two: &Nginx, echo: &Server) -> [String; 4] {
    let quiet = LISTENERS.replace("{ path: access.log }", "off");
    let base = format!(
        "{quiet}
routes:
  - pool: app
  - {{ match: {{ path: /live }}, pool: echo }}
pools:
  echo: {{ endpoints: [ '{}' ] }}
  app:
    endpoints:
      - {{ address: {}, weight: 1 }}
      - {{ address: {}, weight: 1 }}
",
        echo.address, one.address, two.address
    );
    let weights = base.replacen("weight: 1", "weight: 3", 1);
    let route = base.replace(
        "routes:",
        "routes:\n  - { name: extra, match: { path: /extra }, respond: { status: 204 } }",
    );
    let listener = base.replace(
        "listeners:",
        "listeners:\n  - { name: more, address: 127.0.0.1:0 }",
    );
    [base, weights, route, listener]
}
