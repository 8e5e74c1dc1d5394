//! Drives the real `lockgate` binary: exit statuses, signals, reload by file.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, its helpers too"
)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long anything may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(20);

const ONE: &str = "
listeners:
  - { name: web, address: 127.0.0.1:0 }
routes:
  - respond: { status: 200, body: one }
";

fn lockgate(arguments: &[&str], directory: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockgate"));
    command
        .args(arguments)
        .current_dir(directory)
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn folder(config: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("proxy.yaml"), config).unwrap();
    folder
}

/// `lockgate run`, and what it says. Killed when it is dropped.
struct Proxy {
    child: Child,
    log: Receiver<String>,
    folder: TempDir,
}

impl Proxy {
    fn start(config: &str) -> Self {
        let folder = folder(config);
        let mut child = Command::new(env!("CARGO_BIN_EXE_lockgate"))
            .args(["run", "--socket", "admin.sock"])
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (sender, log) = sync_channel(1024);
        thread::spawn(move || {
            // The test may have seen enough.
            lines
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
                .ok();
        });
        Self { child, log, folder }
    }

    /// Waits for a line with all of `words` and returns it.
    fn says(&self, words: &[&str]) -> String {
        let mut seen = Vec::new();
        loop {
            match self.log.recv_timeout(PATIENCE) {
                Ok(line) if words.iter().all(|word| line.contains(word)) => return line,
                Ok(line) => seen.push(line),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("no line with {words:?} in\n{}", seen.join("\n"))
                }
            }
        }
    }

    /// Waits until a listener listens, and tells where.
    fn listens(&self, listener: &str) -> SocketAddr {
        let line = self.says(&["listening", &format!("listener={listener} ")]);
        line.rsplit_once("address=")
            .unwrap()
            .1
            .trim()
            .parse()
            .unwrap()
    }

    fn write(&self, config: &str) {
        fs::write(self.folder.path().join("proxy.yaml"), config).unwrap();
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits until it has ended.
    fn ends(mut self) -> ExitStatus {
        // Its standard error closes when it ends.
        loop {
            match self.log.recv_timeout(PATIENCE) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => return self.child.wait().unwrap(),
                Err(RecvTimeoutError::Timeout) => panic!("it does not end"),
            }
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The status and body of one request.
fn get(address: SocketAddr) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().to_owned(), body.to_owned())
}

#[test]
fn the_version_is_told() {
    let folder = folder(ONE);
    let output = lockgate(&["--version"], folder.path());
    assert!(output.status.success());
    assert_eq!(
        stdout(&output).trim(),
        concat!("lockgate ", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn a_command_line_that_is_not_understood_ends_with_two() {
    let folder = folder(ONE);
    assert_eq!(lockgate(&["fly"], folder.path()).status.code(), Some(2));
}

#[test]
fn check_says_ok_and_ends_with_zero() {
    let folder = folder(ONE);
    let output = lockgate(&["check"], folder.path());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(
        stdout(&output).starts_with("ok: proxy.yaml: 1 listener, 1 route"),
        "{output:?}"
    );
    let output = lockgate(&["check", "--format", "json"], folder.path());
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(stdout(&output).trim(), "[]");
}

#[test]
fn check_tells_every_error_and_ends_with_one() {
    let folder = folder(
        "
listeners:
  - address: 127.0.0.1:0
    tls: { certificates: [ { cert: a.pem, key: a.key } ] }
routes:
  - respond: { status: 200 }
",
    );
    let output = lockgate(&["check"], folder.path());
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    assert!(text.contains("a.pem") && text.contains("a.key"), "{text}");
    assert!(text.contains("proxy.yaml:4:"), "{text}");
    let output = lockgate(&["check", "--format", "json"], folder.path());
    assert_eq!(output.status.code(), Some(1));
    let errors: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(errors.as_array().unwrap().len(), 2, "{errors:#}");
    assert_eq!(errors[0]["line"], 4, "{errors:#}");
}

#[test]
fn check_and_explain_tell_of_sites_that_are_broken() {
    let main = ONE.replace("routes:", "include: sites/*.yaml\nroutes:");
    let folder = folder(&main);
    fs::create_dir(folder.path().join("sites")).unwrap();
    let site = |name: &str, text: &str| fs::write(folder.path().join("sites").join(name), text);
    site(
        "blog.yaml",
        "routes: [ { match: { host: blog.test }, respond: { status: 204 } } ]",
    )
    .unwrap();
    let output = lockgate(&["check"], folder.path());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(stdout(&output).starts_with("ok: proxy.yaml: 1 listener, 2 routes, 0 pools, 1 site\n"));
    site(
        "shop.yaml",
        "routes: [ { match: { host: shop.test }, pool: app } ]",
    )
    .unwrap();
    let output = lockgate(&["check"], folder.path());
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    for told in [
        " --> sites/shop.yaml:1:47",
        "proxy.yaml: 1 listener, 2 routes, 0 pools, 1 site",
        "a start would leave out the site shop (sites/shop.yaml)",
    ] {
        assert!(text.contains(told), "{told} is not in\n{text}");
    }
    let output = lockgate(&["check", "--format", "json"], folder.path());
    let errors: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(errors[0]["file"], "sites/shop.yaml", "{errors:#}");

    let output = lockgate(&["explain", "GET", "http://shop.test/"], folder.path());
    assert!(output.status.success(), "{output:?}");
    let left_out = "site      left out, its file is broken: 503, site_invalid\n";
    assert!(stdout(&output).contains(left_out), "{}", stdout(&output));
    assert!(
        stderr(&output).contains("sites/shop.yaml:1:47"),
        "{}",
        stderr(&output)
    );
    let output = lockgate(&["explain", "GET", "http://blog.test/"], folder.path());
    assert!(
        stdout(&output).contains("route     blog/blog.test/\n"),
        "{}",
        stdout(&output)
    );
}

#[test]
fn the_schema_is_json() {
    let folder = folder(ONE);
    for arguments in [&["schema"][..], &["schema", "--site"]] {
        let output = lockgate(arguments, folder.path());
        assert!(output.status.success());
        let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(schema["$defs"].is_object(), "{schema:#}");
    }
}

#[test]
fn a_site_that_breaks_and_is_mended_is_told_of_once_each() {
    let proxy = Proxy::start(ONE);
    proxy.listens("web");
    proxy.says(&["ready"]);
    let sites = proxy.folder.path().join("sites");
    fs::create_dir(&sites).unwrap();
    let file = sites.join("shop.yaml");
    fs::write(
        &file,
        "routes: [ { match: { host: shop.test }, respond: { status: 204 } } ]",
    )
    .unwrap();
    proxy.write(&ONE.replace("routes:", "include: sites/*.yaml\nroutes:"));
    proxy.says(&["a new version is in force", "sites +shop", "include"]);
    fs::write(&file, "routes: [ { pool: app } ]").unwrap();
    proxy.says(&["ERROR", "sites/shop.yaml:1:19", "pool `app` is not defined"]);
    proxy.says(&["ERROR", "a site is frozen", "site=shop", "errors=1"]);
    proxy.says(&["nothing to change", "broken_sites=\"shop\""]);
    proxy.write(
        &ONE.replace("routes:", "include: [ sites/*.yaml ]\nroutes:")
            .replace("one", "two"),
    );
    let line = proxy.says(&[""]);
    assert!(
        line.contains("a new version is in force") && line.contains("broken_sites"),
        "{line}"
    );
    fs::remove_file(&file).unwrap();
    proxy.says(&["site=shop", "again, or gone"]);
    proxy.says(&["a new version is in force", "sites -shop"]);
}

#[test]
fn completions_are_printed() {
    let folder = folder(ONE);
    let output = lockgate(&["completions", "bash"], folder.path());
    assert!(
        output.status.success() && stdout(&output).contains("lockgate"),
        "{output:?}"
    );
}

#[test]
fn a_config_of_nginx_is_imported_with_what_it_includes() {
    let folder = folder("");
    let site = "server { listen 8080; location / { proxy_pass http://127.0.0.1:1; gzip on; } }";
    fs::create_dir(folder.path().join("sites")).unwrap();
    fs::write(folder.path().join("sites/a.conf"), site).unwrap();
    fs::write(
        folder.path().join("nginx.conf"),
        "http { include sites/*.conf; }",
    )
    .unwrap();
    let output = lockgate(&["import", "nginx", "nginx.conf"], folder.path());
    assert!(output.status.success(), "{}", stderr(&output));
    let told = stderr(&output);
    assert!(
        told.contains("sites/a.conf:1: missing: gzip on: "),
        "{told}"
    );
    fs::write(folder.path().join("proxy.yaml"), stdout(&output)).unwrap();
    let checked = lockgate(&["check"], folder.path());
    assert!(checked.status.success(), "{}", stdout(&checked));

    fs::write(folder.path().join("Caddyfile"), "example.com {\n").unwrap();
    for file in ["Caddyfile", "nowhere"] {
        let output = lockgate(&["import", "caddyfile", file], folder.path());
        assert_eq!(output.status.code(), Some(1));
        assert!(
            stderr(&output).starts_with(&format!("lockgate: {file}:1: ")),
            "{}",
            stderr(&output)
        );
    }
}

#[test]
fn explain_tells_shares_and_where_copies_go() {
    let folder = folder(
        "
listeners:
  - address: 127.0.0.1:8080
routes:
  - split: { api: 2, next: 1, old: 0 }
    sticky: cookie
    mirror: { pool: shadow, percent: 0.5 }
pools:
  api: { endpoints: [ '10.0.0.1:80' ] }
  next: { balance: random_two, endpoints: [ '10.0.0.2:80' ] }
  old: { endpoints: [ '10.0.0.3:80' ] }
  shadow: { endpoints: [ '10.0.0.4:80' ] }
",
    );
    let output = lockgate(&["explain", "GET", "http://a.test:8080/"], folder.path());
    assert!(output.status.success(), "{output:?}");
    let told = "split     66.67 % to api (round_robin): 10.0.0.1:80
          33.33 % to next (random_two): 10.0.0.2:80
          0 % to old (round_robin): 10.0.0.3:80
sticky    by the cookie lockgate_cohort, 720h
mirror    0.5 % to shadow (round_robin): 10.0.0.4:80
timeouts  response 1m, idle 1m
";
    assert!(stdout(&output).contains(told), "{}", stdout(&output));
}

#[test]
fn explain_tells_the_route_and_why_the_others_lost() {
    let folder = folder(
        "
listeners:
  - address: 127.0.0.1:8080
routes:
  - name: api
    match: { host: a.example, path: /v1/ }
    filters: [ { rewrite_prefix: { from: /v1, to: / } } ]
    pool: app
  - name: canary
    match: { host: a.example, path: /v1/, headers: { x-canary: '1' } }
    pool: app
  - name: rest
    respond: { status: 404 }
pools:
  app: { endpoints: [ { address: 'app.internal:80', weight: 3 } ] }
",
    );
    let explain = |extra: &[&str]| {
        let mut arguments = vec!["explain", "GET", "http://a.example:8080/v1/users"];
        arguments.extend(extra);
        let output = lockgate(&arguments, folder.path());
        assert!(output.status.success(), "{output:?}");
        stdout(&output)
    };
    let text = explain(&[]);
    for line in [
        "listener  127.0.0.1:8080 (cleartext)\n",
        "route     api\n",
        "filters   rewrite_prefix /v1 to /\n",
        "pool      app (round_robin): app.internal:80 (weight 3)\n",
        "* api     wins\n",
        "  canary  header `x-canary` does not match\n",
        "  rest    a more specific one won\n",
    ] {
        assert!(text.contains(line), "{line:?} is not in\n{text}");
    }
    assert!(explain(&["-H", "x-canary: 1"]).contains("route     canary\n"));
}

#[test]
fn a_config_that_is_wrong_is_told_on_standard_error_and_ends_with_one() {
    let folder = folder("listeners: 5\n");
    let output = lockgate(&["run"], folder.path());
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("proxy.yaml:1:12"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_port_that_is_taken_is_told_with_its_listener() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = folder(&ONE.replace("127.0.0.1:0", &address));
    let output = lockgate(&["run"], folder.path());
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(
        text.contains(&format!("listener `web` cannot listen on {address}")),
        "{text}"
    );
    assert!(text.contains("proxy.yaml:3:"), "{text}");
}

#[test]
fn an_edited_file_takes_force_and_a_bad_one_does_not() {
    let proxy = Proxy::start(ONE);
    let address = proxy.listens("web");
    proxy.says(&["ready", "version=1"]);
    assert_eq!(get(address), ("200".into(), "one".into()));

    proxy.write(&ONE.replace("one", "two"));
    proxy.says(&["in force", "version=2", "cause=files_changed"]);
    assert_eq!(get(address).1, "two");

    proxy.write("listeners: nothing like it\n");
    proxy.says(&["proxy.yaml:1:"]);
    proxy.says(&["refused", "version=2"]);
    assert_eq!(get(address).1, "two");

    proxy.write(&format!("{ONE}# back again\n"));
    proxy.says(&["in force", "version=3"]);
    assert_eq!(get(address).1, "one");

    proxy.signal(Signal::TERM);
    assert_eq!(proxy.ends().code(), Some(0));
}

#[test]
fn a_hangup_reloads_and_says_when_there_is_nothing_to_change() {
    let proxy = Proxy::start(ONE);
    proxy.says(&["ready"]);
    proxy.signal(Signal::HUP);
    proxy.says(&["nothing to change", "version=1", "cause=asked"]);
    proxy.signal(Signal::INT);
    assert_eq!(proxy.ends().code(), Some(0));
}

#[test]
fn listeners_come_and_go_with_the_file() {
    let proxy = Proxy::start(ONE);
    let web = proxy.listens("web");
    proxy.says(&["ready"]);
    proxy.write(&ONE.replace(
        "listeners:",
        "listeners:\n  - { name: more, address: 127.0.0.1:0 }",
    ));
    let more = proxy.listens("more");
    proxy.says(&["in force", "listeners +more"]);
    assert_eq!((get(web).1, get(more).1), ("one".into(), "one".into()));
    proxy.write(ONE);
    proxy.says(&["in force", "listeners -more"]);
    assert_eq!(get(web).1, "one");
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.ends().code(), Some(0));
}

#[test]
fn the_access_log_is_opened_anew_on_request() {
    let proxy = Proxy::start(&format!("{ONE}access_log: {{ path: access.log }}\n"));
    let address = proxy.listens("web");
    let (log, moved) = (
        proxy.folder.path().join("access.log"),
        proxy.folder.path().join("old"),
    );
    proxy.says(&["ready"]);
    fs::rename(&log, &moved).unwrap();
    proxy.signal(Signal::USR1);
    // The file is there again once the signal has been served; a request each time gives it the time.
    assert!((0..100_000).any(|_| get(address).0 == "200" && log.exists()));
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.ends().code(), Some(0));
}

#[test]
fn the_first_signal_drains_and_the_second_ends_at_once() {
    // An endpoint that takes a request and never answers.
    let endpoint = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint_address = endpoint.local_addr().unwrap();
    let proxy = Proxy::start(&format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
routes:
  - pool: app
pools:
  app: {{ endpoints: [ '{endpoint_address}' ] }}
"
    ));
    let address = proxy.listens("web");
    proxy.says(&["ready"]);
    let mut client = TcpStream::connect(address).unwrap();
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n")
        .unwrap();
    let (mut taken, _) = endpoint.accept().unwrap();
    assert_ne!(taken.read(&mut [0; 64]).unwrap(), 0);

    proxy.signal(Signal::TERM);
    proxy.says(&["draining"]);
    proxy.signal(Signal::TERM);
    proxy.says(&["closed at once"]);
    assert_eq!(proxy.ends().code(), Some(0));
}
