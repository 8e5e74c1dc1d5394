//! The binary is replaced while it serves: nobody notices, and a new one that fails changes nothing.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use rustix::process::Signal;
use rustls::{ClientConfig, HandshakeKind};

use crate::harness::client::Client;
use crate::harness::process::{self, Process, is_there, kill};
use crate::harness::wire::{End, Transport};
use crate::harness::{backend, certs, expect, play};

const ONE: &str = "routes: [ { respond: { status: 200, body: one } } ]\n";
const TWO: &str = "routes: [ { respond: { status: 200, body: two } } ]\n";

/// A binary that does nothing until the file `gate` is there.
const GATE: &str = "while [ ! -e gate ]; do sleep 0.01; done";

fn gated(process: &Process, then: &str) {
    process.replace_program(&format!("{GATE}\n{then}"));
}

fn open_gate(process: &Process) {
    fs::write(process.file("gate"), "").unwrap();
}

/// What goes on when the gate is open.
const REAL: &str = "exec \"$PWD/real\" \"$@\"";

/// Runs a command beside the case.
fn beside(process: &Process, arguments: &'static [&'static str]) -> JoinHandle<process::Told> {
    let folder = process.folder().to_owned();
    thread::spawn(move || process::run(&folder, arguments))
}

fn tunnel(process: &Process) -> Client {
    let mut client = process.client();
    client.send("GET / HTTP/1.1\r\nHost: app.test\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    assert_eq!(client.head().status(), 101);
    client
}

fn echoes(client: &mut Client) -> bool {
    client.send("ping") && client.wire.exactly(4) == (b"ping".to_vec(), End::Whole)
}

/// Clients that ask again and again until they are stopped, and what went wrong for them.
struct Load {
    target: &'static str,
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Option<String>>>,
}

impl Load {
    fn of(target: &'static str) -> Self {
        Self {
            target,
            stop: Arc::default(),
            answers: Arc::default(),
            clients: Vec::new(),
        }
    }

    /// Adds a client that asks on one connection until it is told that it ends, or on a new one each time.
    fn add(&mut self, connect: impl Fn() -> Client + Send + 'static, keeps_alive: bool) {
        let (stop, answers) = (Arc::clone(&self.stop), Arc::clone(&self.answers));
        let request = format!("GET {} HTTP/1.1\r\nHost: localhost\r\n\r\n", self.target);
        let ask = move || {
            let mut client = connect();
            loop {
                if stop.load(Ordering::Relaxed) {
                    return None;
                }
                if !client.send(&request) {
                    return Some("the request is not taken".to_owned());
                }
                let mut answer = match client.wire.head() {
                    Ok(answer) => answer,
                    Err(end) => return Some(format!("no answer, the connection is {end:?}")),
                };
                client.wire.answer_body(&mut answer);
                if (answer.status(), answer.end) != (200, End::Whole) {
                    return Some(format!("{answer:?}"));
                }
                answers.fetch_add(1, Ordering::Relaxed);
                if !keeps_alive || answer.field("connection") == Some("close") {
                    client = connect();
                }
            }
        };
        self.clients.push(thread::spawn(ask));
    }

    /// Waits until so many more answers have come.
    fn goes_on(&self) {
        let before = self.answers.load(Ordering::Relaxed);
        expect::eventually("the load goes on", || {
            let now = self.answers.load(Ordering::Relaxed);
            let is_stuck = self.clients.iter().any(JoinHandle::is_finished);
            (now > before + 100 || is_stuck).then_some(())
        });
    }

    /// Stops, and tells how many answers there were, all of them good.
    #[track_caller]
    fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self
            .clients
            .into_iter()
            .map(|client| client.join().unwrap());
        let failures: Vec<_> = ended.flatten().collect();
        assert_eq!(failures, [""; 0]);
        self.answers.load(Ordering::Relaxed)
    }
}

const LISTENERS: &str = "
listeners:
  - { name: web, address: '127.0.0.1:0' }
  - name: tls
    address: 127.0.0.1:0
    tls: { certificates: [ { cert: '@cert', key: '@key' } ] }
";

fn secure(certs: &certs::Certs) -> (String, String, Arc<ClientConfig>) {
    let file = |name: &str| certs.folder().join(name).display().to_string();
    let config = certs.trusting(&["http/1.1"]);
    (file("localhost.pem"), file("localhost.key"), config)
}

fn is_resumed(client: &mut Client) -> bool {
    match client.wire.stream() {
        Transport::Client(tls) => tls.conn.handshake_kind() == Some(HandshakeKind::Resumed),
        Transport::Tcp(_) | Transport::Unix(_) | Transport::Server(_) => false,
    }
}

#[test]
fn upgrades_under_load_fail_no_request_and_lose_no_record() {
    play(|| {
        let app = backend::echo();
        let certs = certs::new().server("localhost", &["localhost"]);
        let (cert, key, config) = secure(&certs);
        // Another number of workers with each process: sockets are shared, and none is closed.
        let text = |workers: usize| {
            format!(
                "{LISTENERS}workers: {workers}\nroutes: [ {{ pool: app }} ]\npools: {{ app: {{ endpoints: [ '@app' ] }} }}\n"
            )
        };
        let values = [("cert", &cert as _), ("key", &key as _), ("app", &app as _)];
        let process = process::start(&text(2), &values);
        let (web, tls) = (process.at("web"), process.at("tls"));

        let mut load = Load::of("/");
        for keeps_alive in [true, false, true, false] {
            load.add(move || Client::connect(web), keeps_alive);
        }
        for keeps_alive in [true, false] {
            let config = Arc::clone(&config);
            load.add(move || Client::tls(tls, &config, "localhost"), keeps_alive);
        }
        for workers in [1, 3, 2] {
            load.goes_on();
            process.write(&text(workers), &values);
            process.upgrade();
        }
        load.goes_on();
        let answers = load.end();

        process.says_again(3, &["drained"]);
        let log = process.file("access.log");
        expect::eventually("every record", || {
            let text = fs::read_to_string(&log).unwrap();
            (text.lines().count() == answers).then_some(())
        });
        assert_eq!(process.lines(&["ERROR"]), [""; 0]);
    });
}

#[test]
fn readiness_stays_through_an_upgrade() {
    play(|| {
        let process = process::start(ONE, &[]);
        let socket = process.file("admin.sock");
        let mut load = Load::of("/-/ready");
        load.add(move || Client::unix(&socket), false);
        for _ in 0..3 {
            load.goes_on();
            process.upgrade();
        }
        load.goes_on();
        load.end();
    });
}

#[test]
fn a_new_process_gets_what_is_handed_over_and_no_other_descriptor() {
    play(|| {
        let app = backend::echo();
        let text = "routes: [ { pool: app } ]\npools: { app: { endpoints: [ '@app' ] } }\n";
        let process = process::folder(text, &[("app", &app)])
            .first("(ls -l /proc/$$/fd > first)")
            .start();
        // One that has inherited itself, is connected on both sides and writes a log.
        process.upgrade();
        let mut client = process.client();
        assert_eq!(client.get("/").status(), 200);
        process.replace_program("echo \"$LISTEN_FDS\" > count\n(ls -l /proc/$$/fd > next)");
        assert!(!process.run(&["upgrade"]).is_good);
        let read = |name| fs::read_to_string(process.file(name)).unwrap();
        let script = process.file("lockgate").display().to_string();
        let descriptors = |name| -> BTreeSet<usize> {
            let text = read(name);
            let lines = text.lines().filter_map(|line| line.split_once(" -> "));
            // The shell has opened its script itself.
            let others = lines.filter(|(_, target)| *target != script);
            let numbers = others.map(|(line, _)| line.rsplit(' ').next().unwrap().parse());
            numbers.map(Result::unwrap).collect()
        };
        let count: usize = read("count").trim().parse().unwrap();
        assert_eq!(
            count, 3,
            "a listener's socket, that for control, the line between the two"
        );
        // Whoever runs the tests may leave some to all of their processes.
        let expected: BTreeSet<_> = descriptors("first")
            .into_iter()
            .chain(3..3 + count)
            .collect();
        assert_eq!(descriptors("next"), expected);
    });
}

#[test]
fn sessions_are_resumed_by_the_new_process() {
    play(|| {
        let certs = certs::new().server("localhost", &["localhost"]);
        let (cert, key, config) = secure(&certs);
        let values = [("cert", &cert as _), ("key", &key as _)];
        let process = process::start(&format!("{LISTENERS}{ONE}"), &values);
        let ask = || {
            let mut client = Client::tls(process.at("tls"), &config, "localhost");
            // A ticket comes behind the handshake.
            client.get("/");
            is_resumed(&mut client)
        };
        assert!(!ask());
        assert!(ask());
        process.upgrade();
        assert!(ask());
        process.upgrade();
        assert!(ask(), "through two of them");
    });
}

#[test]
fn sticky_sessions_are_known_to_the_new_process() {
    play(|| {
        let (one, two) = (backend::named("one"), backend::named("two"));
        let text = "routes: [ { pool: app } ]\npools: { app: { balance: sticky, endpoints: \
                    [ '@one', '@two' ] } }\n";
        let process = process::start(text, &[("one", &one), ("two", &two)]);
        let mut client = Client::connect(process.at("web"));
        let first = client.get("/");
        let cookie = first.field("set-cookie").unwrap().to_owned();
        let (cookie, _) = cookie.split_once(';').unwrap();
        process.upgrade();
        for _ in 0..4 {
            let mut client = Client::connect(process.at("web"));
            let answer = client.ask(&format!(
                "GET / HTTP/1.1\r\nHost: app.test\r\nCookie: {cookie}\r\n\r\n"
            ));
            assert_eq!(
                (answer.text(), answer.field("set-cookie")),
                (first.text(), None)
            );
        }
    });
}

#[test]
fn a_tunnel_lives_in_the_old_process_until_its_drain_is_over() {
    play(|| {
        let app = backend::switches();
        let text = "routes: [ { pool: app } ]\npools: { app: { endpoints: [ '@app' ] } }\n";
        let mut process = process::start(text, &[("app", &app)]);
        let mut client = tunnel(&process);
        let new = process.upgrade();
        process.says(&["handed over", "connections=1", "within=3600s"]);
        assert!(echoes(&mut client), "on the old one");
        assert!(echoes(&mut tunnel(&process)), "on the new one");
        assert!(is_there(process.pid()) && is_there(new));
        // The old one is asked to end: the usual time for that is all it has now.
        process.signal(Signal::TERM);
        process.says(&["draining", "the process is to end"]);
        assert!(echoes(&mut client));
        process.signal(Signal::TERM);
        client.is_closed();
        assert_eq!(process.ends().code(), Some(0));
        assert!(echoes(&mut tunnel(&process)));
    });
}

#[test]
fn what_outlives_the_drain_of_the_old_process_is_cut() {
    play(|| {
        let app = backend::switches();
        let text = "routes: [ { pool: app } ]\npools: { app: { endpoints: [ '@app' ] } }\n\
                    drain: { upgrade: 300ms }\n";
        let mut process = process::start(text, &[("app", &app)]);
        let mut client = tunnel(&process);
        process.upgrade();
        client.is_closed();
        process.says(&["cut", "connections=1"]);
        assert_eq!(process.ends().code(), Some(0));
    });
}

#[test]
fn an_idle_connection_is_answered_by_the_old_process_and_told_to_end() {
    play(|| {
        let mut process = process::start(ONE, &[]);
        let mut fresh = process.client();
        let mut idle = process.client();
        assert_eq!(idle.get("/").text(), "one");
        process.upgrade();
        process.says(&["handed over", "connections=2"]);
        for client in [&mut fresh, &mut idle] {
            assert_eq!(client.get("/").field("connection"), Some("close"));
            client.is_closed();
        }
        assert_eq!(process.ends().code(), Some(0));
        assert_eq!(process.client().get("/").field("connection"), None);
    });
}

#[test]
fn a_new_binary_that_fails_changes_nothing_and_the_log_says_why() {
    play(|| {
        let process = process::folder(ONE, &[])
            .arg("--upgrade-timeout")
            .arg("300ms")
            .start();
        let mut client = process.client();
        let mut fails = |script: &str, why: &str| {
            process.replace_program(script);
            let told = process.run(&["upgrade"]);
            assert!(!told.is_good && told.text.contains(why), "{}", told.text);
            process.says(&["the upgrade failed: this process goes on", why]);
            assert_eq!(client.get("/").text(), "one");
            assert_eq!(process.get("/"), "one");
        };
        fails("exit 1", "ended (exit status: 1)");
        fails("exec sleep 1000", "silent for 300ms");
        fails("kill -9 $$", "ended (signal: 9");
        // The line between the two comes last: behind the listener's socket and that for control.
        let ready = r#"echo '{"say":"ready","version":"9.0.0"}' >&5"#;
        fails(&format!("{ready}\nkill -9 $$"), "ended (signal: 9");
        let word = r#"echo '{"say":"failed","why":"because"}' >&5"#;
        fails(word, "does not start: because");
        fails("echo nonsense >&5; exec sleep 1000", "says nonsense");
        fs::remove_file(process.file("lockgate")).unwrap();
        let told = process.run(&["upgrade"]);
        assert!(told.text.contains("No such file"), "{}", told.text);
        for pid in process.successors() {
            expect::eventually("it is gone", || (!is_there(pid)).then_some(()));
        }
        // Nothing of that is in the way of one that works.
        process.restore_program();
        process.upgrade();
        assert_eq!(process.get("/"), "one");
    });
}

#[test]
fn a_new_process_that_is_killed_changes_nothing() {
    play(|| {
        let process = process::start(ONE, &[]);
        gated(&process, "exit 1");
        let upgrade = beside(&process, &["upgrade"]);
        process.says(&["the next process is started"]);
        kill(process.successors()[0], Signal::KILL);
        let told = upgrade.join().unwrap();
        assert!(
            !told.is_good && told.text.contains("signal: 9"),
            "{}",
            told.text
        );
        assert_eq!(process.get("/"), "one");
    });
}

#[test]
fn a_config_that_is_wrong_by_now_is_told_and_the_old_process_goes_on() {
    play(|| {
        let process = process::start(ONE, &[]);
        process.write("routes: [ { pool: none } ]\n", &[]);
        let told = process.run(&["upgrade"]);
        let why = "pool `none` is not defined";
        assert!(!told.is_good && told.text.contains(why), "{}", told.text);
        process.says(&["the upgrade failed", why]);
        assert_eq!(process.get("/"), "one");
    });
}

#[test]
fn two_upgrades_at_once_are_one() {
    play(|| {
        let process = process::start(ONE, &[]);
        gated(&process, REAL);
        let upgrades = [
            beside(&process, &["upgrade"]),
            beside(&process, &["upgrade"]),
        ];
        process.says(&["the next process is started"]);
        process.signal(Signal::USR2);
        process.says(&["an upgrade is under way already"]);
        open_gate(&process);
        let told = upgrades.map(|upgrade| upgrade.join().unwrap());
        assert!(told.iter().all(|told| told.is_good), "{told:?}");
        assert_eq!(told[0].text, told[1].text);
        assert_eq!(process.successors().len(), 1);
        assert_eq!(process.get("/"), "one");
    });
}

#[test]
fn a_reload_during_an_upgrade_is_answered_by_whoever_serves_then() {
    play(|| {
        let process = process::start(ONE, &[]);
        gated(&process, "exit 1");
        let upgrade = beside(&process, &["upgrade"]);
        process.says(&["the next process is started"]);
        process.write(TWO, &[]);
        let reload = beside(&process, &["reload"]);
        process.says(&["a reload waits for the end of the upgrade"]);
        assert_eq!(process.get("/"), "one");
        open_gate(&process);
        assert!(!upgrade.join().unwrap().is_good);
        let told = reload.join().unwrap();
        assert!(told.is_good, "{}", told.text);
        assert_eq!(process.get("/"), "two", "the old one has reloaded");

        fs::remove_file(process.file("gate")).unwrap();
        gated(&process, REAL);
        let upgrade = beside(&process, &["upgrade"]);
        process.says_again(2, &["the next process is started"]);
        let reload = beside(&process, &["reload"]);
        process.says_again(2, &["a reload waits for the end of the upgrade"]);
        process.write(ONE, &[]);
        open_gate(&process);
        assert!(upgrade.join().unwrap().is_good);
        let told = reload.join().unwrap();
        assert!(told.is_good, "{}", told.text);
        assert_eq!(process.get("/"), "one", "the new one has it");
    });
}

#[test]
fn a_process_that_is_to_end_gives_up_its_upgrade() {
    play(|| {
        let mut process = process::start(ONE, &[]);
        gated(&process, REAL);
        let upgrade = beside(&process, &["upgrade"]);
        process.says(&["the next process is started"]);
        process.signal(Signal::TERM);
        let told = upgrade.join().unwrap();
        assert!(!told.is_good, "{}", told.text);
        assert_eq!(process.ends().code(), Some(0));
        let successor = process.successors()[0];
        expect::eventually("it is gone", || (!is_there(successor)).then_some(()));
    });
}

#[test]
fn a_new_process_whose_predecessor_is_gone_does_not_begin() {
    play(|| {
        let process = process::start(ONE, &[]);
        gated(&process, REAL);
        process.signal(Signal::USR2);
        process.says(&["the next process is started"]);
        process.signal(Signal::KILL);
        open_gate(&process);
        let successor = process.successors()[0];
        expect::eventually("it is gone", || (!is_there(successor)).then_some(()));
        assert_eq!(process.lines(&["ready"]).len(), 1);
    });
}

#[test]
fn a_signal_upgrades_too_and_listeners_come_and_go_with_it() {
    play(|| {
        let two = "listeners:\n  - { name: web, address: '127.0.0.1:0' }\n  - { name: more, address: '127.0.0.1:0' }\n";
        let process = process::start(&format!("{two}{ONE}"), &[]);
        let (web, more) = (process.at("web"), process.at("more"));
        let three = two.replace("name: more", "name: other");
        gated(&process, REAL);
        process.signal(Signal::USR2);
        process.says(&["the next process is started"]);
        process.write(&format!("{three}{ONE}"), &[]);
        open_gate(&process);
        process.says(&["the next process serves"]);
        process.says(&[
            "a socket that was left to us is for no listener",
            &more.to_string(),
        ]);
        for address in [web, process.at("other")] {
            assert_eq!(Client::connect(address).get("/").text(), "one");
        }
        expect::eventually("it is closed", || std::net::TcpStream::connect(more).err());
        assert_eq!(process.lines(&["listening", "listener=web"]).len(), 2);
        assert_eq!(process.at("web"), web);
    });
}

#[test]
fn the_access_log_goes_on_in_the_file_that_was_open() {
    play(|| {
        let process = process::start(ONE, &[]);
        let (log, moved) = (process.file("access.log"), process.file("moved.log"));
        process.get("/first");
        fs::rename(&log, &moved).unwrap();
        let new = process.upgrade();
        process.get("/second");
        let holds = |file: &std::path::Path, words: &[&str]| {
            let text = fs::read_to_string(file).unwrap_or_default();
            words.iter().all(|word| text.contains(word)).then_some(())
        };
        expect::eventually("both records", || holds(&moved, &["/first", "/second"]));
        assert!(!log.exists());
        kill(new, Signal::USR1);
        expect::eventually("the new file", || log.exists().then_some(()));
        process.get("/third");
        expect::eventually("its record", || holds(&log, &["/third"]));
    });
}

#[test]
fn the_pid_file_names_whoever_serves() {
    play(|| {
        let mut process = process::folder(ONE, &[])
            .arg("--pid-file")
            .arg("lockgate.pid")
            .start();
        let file = process.file("lockgate.pid");
        let named = || fs::read_to_string(&file).map(|text| text.trim().parse().unwrap_or(0));
        let is_ours = || (named().ok()? == process.pid()).then_some(());
        expect::eventually("its number", is_ours);
        let new = process.upgrade();
        assert_eq!(process.ends().code(), Some(0));
        assert_eq!(named().unwrap(), new);
        kill(new, Signal::TERM);
        expect::eventually("it is gone", || named().err());
    });
}
