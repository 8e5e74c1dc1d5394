//! The control socket: what it answers, who may use it, and the commands that do.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::client::Client;
use crate::harness::config::Values;
use crate::harness::process::{self, run};
use crate::harness::wire::Message;
use crate::harness::{backend, expect, play};

const ONE: &str = "routes: [ { name: all, respond: { status: 200, body: one } } ]\n";

fn ask(socket: &Path, request: &str) -> Message {
    Client::unix(socket).ask(request)
}

fn get(socket: &Path, target: &str) -> (u16, String) {
    let answer = ask(socket, &format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n"));
    (answer.status(), answer.text().to_owned())
}

#[test]
fn a_reload_waits_tells_its_outcome_and_has_a_status() {
    play(|| {
        let process = process::start(ONE, &[]);
        let told = process.run(&["reload"]);
        assert!(told.is_good, "{told:?}");
        assert!(
            told.text.contains("nothing to change: version 1"),
            "{told:?}"
        );

        process.write(&ONE.replace("one", "two"), &[]);
        let told = process.run(&["reload"]);
        assert!(told.is_good, "{told:?}");
        assert!(
            told.text
                .contains("a new version is in force: 2\nroutes ~all"),
            "{told:?}"
        );
        assert_eq!(process.get("/"), "two");

        process.write("routes: [ { pool: a }, { pool: b } ]\n", &[]);
        let told = process.run(&["reload"]);
        assert!(!told.is_good, "{told:?}");
        for words in [
            "pool `a` is not",
            "pool `b` is not",
            "refused: version 2 stays",
        ] {
            assert!(told.text.contains(words), "{words}: {told:?}");
        }
        assert_eq!(process.get("/"), "two");

        let (status, metrics) = get(&process.file("admin.sock"), "/metrics");
        assert_eq!(status, 200);
        for sample in [
            "lockgate_config_version 2\n",
            "lockgate_config_last_reload_success 0\n",
            "lockgate_config_reloads_total{cause=\"asked\",outcome=\"rejected\"} 1\n",
        ] {
            assert!(metrics.contains(sample), "{sample}: {metrics}");
        }
    });
}

#[test]
fn two_reloads_at_once_each_get_an_outcome() {
    play(|| {
        let process = process::start(ONE, &[]);
        process.write(&ONE.replace("one", "two"), &[]);
        let folder = process.folder();
        std::thread::scope(|scope| {
            let reloads = [0; 8].map(|_| scope.spawn(|| run(folder, &["reload"])));
            for reload in reloads {
                let told = reload.join().unwrap();
                assert!(told.is_good && told.text.contains("version"), "{told:?}");
            }
        });
        assert_eq!(process.get("/"), "two");
    });
}

#[test]
fn whoever_asks_gets_an_answer_and_nobody_else_may_ask() {
    play(|| {
        let process = process::start(ONE, &[]);
        let socket = process.file("admin.sock");
        let mode = fs::metadata(&socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(get(&socket, "/-/ready"), (200, "ready\n".into()));
        assert_eq!(get(&socket, "/-/healthy"), (200, "healthy\n".into()));
        assert_eq!(get(&socket, "/nothing").0, 404);
        assert_eq!(get(&socket, "/reload").0, 405);
        let answer = ask(&socket, "POST /-/ready HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(
            (answer.status(), answer.field("allow")),
            (405, Some("GET, HEAD"))
        );
        let answer = ask(&socket, "HEAD /-/ready HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(answer.status(), 200);
        // More than are let in at a time say nothing, and those who do are answered all the same.
        let silent: Vec<_> = (0..31)
            .map(|_| UnixStream::connect(&socket).unwrap())
            .collect();
        assert_eq!(get(&socket, "/-/ready").0, 200);
        drop(silent);
        let mut nonsense = UnixStream::connect(&socket).unwrap();
        nonsense.write_all(b"\x16\x03\x01nonsense\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        nonsense.read_to_end(&mut answer).unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 400"), "{answer:?}");
        assert_eq!(get(&socket, "/-/ready").0, 200);
    });
}

#[test]
fn readiness_goes_off_first_and_the_rest_goes_on_for_the_notice() {
    play(|| {
        let text = "
listeners: [ { name: web, address: '127.0.0.1:0', ready_path: /-/ready } ]
routes: [ { respond: { status: 200, body: one } } ]
drain: { notice: 365d }
";
        let mut process = process::start(text, &[]);
        let socket = process.file("admin.sock");
        let ready = || {
            let answer = process.client().get("/-/ready");
            (answer.status(), answer.text().to_owned())
        };
        assert_eq!(ready(), (200, "ready\n".into()));
        assert_eq!(process.get("/-/ready/x"), "one");
        process.signal(Signal::TERM);
        process.says(&["draining", "readiness is off", "notice=31536000s"]);
        expect::eventually("it is off", || (ready().0 == 503).then_some(()));
        assert_eq!(get(&socket, "/-/ready"), (503, "draining\n".into()));
        assert_eq!(process.get("/"), "one");
        process.signal(Signal::TERM);
        assert_eq!(process.ends().code(), Some(0));
        assert!(!socket.exists());
    });
}

#[test]
fn each_stage_of_a_drain_is_told_with_its_count() {
    play(|| {
        let app = backend::stalls();
        let text = "routes: [ { pool: app } ]\npools: { app: { endpoints: [ '@app' ] } }\n\
                    timeouts: { drain: 300ms }\n";
        let mut process = process::start(text, &[("app", &app)]);
        let mut clients = [process.client(), process.client()];
        for client in &mut clients {
            client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
        }
        app.requests(2);
        process.signal(Signal::TERM);
        process.says(&["listeners are closed", "connections=2", "within=300ms"]);
        process.says(&["cut: the drain's time was up", "connections=2"]);
        assert_eq!(process.ends().code(), Some(0));
    });
}

#[test]
fn each_stage_of_the_end_of_a_listener_is_told_with_its_count() {
    play(|| {
        let app = backend::stalls();
        let rest = "routes: [ { pool: app } ]\npools: { app: { endpoints: [ '@app' ] } }\n\
                    timeouts: { drain: 300ms }\n";
        let listeners = |old: &str, new: &str| {
            let listener = |name: &str| format!("{{ name: {name}, address: '127.0.0.1:0' }}");
            format!(
                "listeners: [ {}, {} ]\n{rest}",
                listener(old),
                listener(new)
            )
        };
        let values: Values<'_> = &[("app", &app)];
        let process = process::start(&listeners("stuck", "quiet"), values);
        let mut stuck = Client::connect(process.at("stuck"));
        stuck.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
        app.requests(1);
        process.write(&listeners("new", "quiet"), values);
        let told = |listener: &str, words: &[&str]| {
            let listener = format!("listener={listener} ");
            process.says(&[&[listener.as_str()], words].concat());
        };
        let closed = "draining: the listener is closed";
        told("stuck", &[closed, "connections=1", "within=300ms"]);
        told("stuck", &["cut: the drain's time was up", "connections=1"]);
        process.write(&listeners("new", "newer"), values);
        told("quiet", &[closed, "connections=0"]);
        process.says(&["drained", "listener=quiet"]);
    });
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_an_error_with_a_remedy() {
    play(|| {
        let mut process = process::start(ONE, &[]);
        process.signal(Signal::KILL);
        process.ends();
        let socket = process.file("admin.sock");
        assert!(socket.exists(), "it was left");
        let second = process::folder(ONE, &[]);
        let argument = socket.to_str().unwrap().to_owned();
        let second = second.arg("--socket").arg(&argument).start();
        assert_eq!(get(&socket, "/-/ready").0, 200);

        let text = format!("{ONE}admin: {{ address: 'unix:{argument}' }}\n");
        let third = process::folder(&text, &[]);
        let told = run(third.path(), &["run"]);
        assert!(!told.is_good);
        for words in [
            "the control socket cannot be opened: a running process serves there",
            "admin.address",
            "stop that process, or write another `admin.address`",
        ] {
            assert!(told.text.contains(words), "{words}: {}", told.text);
        }
        assert_eq!(second.get("/"), "one");
        assert_eq!(get(&socket, "/-/ready").0, 200);
    });
}

#[test]
fn a_process_without_a_config_key_takes_the_folder_of_its_service() {
    play(|| {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("admin.sock");
        let path = folder.path().display().to_string();
        let text = format!("{ONE}admin: {{}}\n");
        let first = process::folder(&text, &[])
            .with("RUNTIME_DIRECTORY", &path)
            .start();
        assert_eq!(get(&socket, "/-/ready").0, 200);
        // The default is nobody's choice: one who finds it taken does without.
        let second = process::folder(&text, &[])
            .with("RUNTIME_DIRECTORY", &path)
            .start();
        second.says(&["no control socket", "a running process serves there"]);
        assert_eq!(
            (first.get("/"), second.get("/")),
            ("one".into(), "one".into())
        );

        // Whoever names the one config does not get at the process of the other.
        let argument = socket.to_str().unwrap();
        let (ours, theirs) = (first.file("proxy.yaml"), second.file("proxy.yaml"));
        let reload = |config: &Path| {
            let config = config.to_str().unwrap();
            run(
                folder.path(),
                &["reload", "--socket", argument, "--config", config],
            )
        };
        assert!(reload(&ours).is_good);
        let told = reload(&theirs);
        assert!(
            !told.is_good && told.text.contains("the process here runs"),
            "{told:?}"
        );
        assert!(run(folder.path(), &["reload", "--socket", argument]).is_good);
    });
}

#[test]
fn a_command_that_reaches_nobody_says_so() {
    play(|| {
        let folder = tempfile::tempdir().unwrap();
        let told = run(folder.path(), &["reload", "--socket", "none.sock"]);
        assert!(
            !told.is_good && told.text.contains("no process serves"),
            "{told:?}"
        );
        fs::write(folder.path().join("proxy.yaml"), "admin: off\n").unwrap();
        let told = run(folder.path(), &["upgrade"]);
        assert!(
            !told.is_good && told.text.contains("admin: off"),
            "{told:?}"
        );

        let path = folder.path().join("odd.sock");
        let odd = UnixListener::bind(&path).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = odd.accept().unwrap();
                stream
                    .set_read_timeout(Some(Duration::from_secs(5)))
                    .unwrap();
                assert_ne!(stream.read(&mut [0; 64]).unwrap(), 0);
                stream.write_all(b"SSH-2.0-odd\r\n").unwrap();
            });
            let told = run(folder.path(), &["reload", "--socket", "odd.sock"]);
            assert!(
                !told.is_good && told.text.contains("is not Lockgate"),
                "{told:?}"
            );
        });
    });
}
