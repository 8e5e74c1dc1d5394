//! What may go wrong around a process: nothing is lost, and one line says what it is.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::certs;
use crate::harness::client::Client;
use crate::harness::process;
use crate::harness::{expect, play};

const ONE: &str = "routes: [ { respond: { status: 200, body: one } } ]\n";

#[test]
fn a_thousand_hangups_are_a_few_reloads_and_the_last_state_is_in_force() {
    play(|| {
        let process = process::start(ONE, &[]);
        let mut client = process.client();
        process.write(&ONE.replace("one", "two"), &[]);
        for turn in 0..1000 {
            process.signal(Signal::HUP);
            if turn % 100 == 0 {
                assert_eq!(client.get("/").status(), 200);
            }
        }
        expect::eventually("the new version", || {
            (client.get("/").text() == "two").then_some(())
        });
        let told = process.run(&["reload"]);
        assert!(
            told.is_good && told.text.contains("version 2 stays"),
            "{told:?}"
        );
        let lines = process.lines(&["nothing to change"]).len();
        assert!(lines < 500, "{lines} lines for a thousand signals");
        assert_eq!(process.lines(&["a new version is in force"]).len(), 1);
    });
}

#[test]
fn a_certificate_that_cannot_be_read_refuses_the_reload_and_the_old_one_is_shown() {
    play(|| {
        let certs = certs::new().server("app", &["app.test"]);
        let text = "listeners: [ { name: web, address: '127.0.0.1:0', tls: { certificates: \
                    [ { cert: @certs/app.pem, key: @certs/app.key } ] } } ]\n";
        let process = process::start(&format!("{text}{ONE}"), &[("certs", &certs)]);
        let ask = || {
            let trust = certs.trusting(&["http/1.1"]);
            Client::tls(process.at("web"), &trust, "app.test")
                .get("/")
                .text()
                .to_owned()
        };
        // A folder in its place: what file modes forbid, root may read all the same.
        let (key, kept) = (
            certs.folder().join("app.key"),
            certs.folder().join("app.kept"),
        );
        fs::rename(&key, &kept).unwrap();
        fs::create_dir(&key).unwrap();
        process.write(
            &format!("{text}{}", ONE.replace("one", "two")),
            &[("certs", &certs)],
        );
        let told = process.run(&["reload"]);
        let why = "app.key cannot be read";
        assert!(!told.is_good && told.text.contains(why), "{told:?}");
        assert_eq!(ask(), "one");
        fs::remove_dir(&key).unwrap();
        fs::rename(&kept, &key).unwrap();
        assert!(process.run(&["reload"]).is_good);
        assert_eq!(ask(), "two");
    });
}

#[test]
fn a_port_that_is_taken_refuses_the_reload_and_the_rest_goes_on() {
    play(|| {
        let process = process::start(ONE, &[]);
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let more = format!(
            "listeners:\n  - {{ name: web, address: '127.0.0.1:0' }}\n  - {{ name: more, address: '{address}' }}\n{}",
            ONE.replace("one", "two")
        );
        let mut client = process.client();
        process.write(&more, &[]);
        let told = process.run(&["reload"]);
        let why = format!("listener `more` cannot listen on {address}");
        assert!(!told.is_good && told.text.contains(&why), "{told:?}");
        assert_eq!(client.get("/").text(), "one");
        drop(taken);
        assert!(process.run(&["reload"]).is_good);
        assert_eq!(client.get("/").text(), "two");
        assert_eq!(Client::connect(address).get("/").text(), "two");
    });
}

#[test]
fn a_process_out_of_descriptors_keeps_clients_waiting_and_says_so_once() {
    play(|| {
        let process = process::folder(ONE, &[]).first("ulimit -n 60").start();
        let address = process.at("web");
        let mut held: Vec<_> = (0..80)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect();
        let told = process.says(&["accepting fails", "Too many open files"]);
        assert!(told.contains("WARN"), "{told}");
        // One of those in the queue, as soon as others leave.
        let mut client = Client::connect(address);
        client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
        held.drain(..60);
        assert_eq!(client.answer().text(), "one");
        assert_eq!(process.lines(&["accepting fails"]).len(), 1);
        drop(held);
        expect::eventually("descriptors", || {
            process.run(&["reload"]).is_good.then_some(())
        });
    });
}

#[test]
fn an_upgrade_without_descriptors_fails_and_the_old_process_goes_on() {
    play(|| {
        let process = process::folder(ONE, &[]).first("ulimit -n 60").start();
        let mut client = process.client();
        assert_eq!(client.get("/").text(), "one");
        let held: Vec<_> = (0..80)
            .map(|_| TcpStream::connect(process.at("web")).unwrap())
            .collect();
        process.says(&["accepting fails"]);
        process.signal(Signal::USR2);
        process.says(&[
            "the upgrade failed: this process goes on",
            "Too many open files",
        ]);
        assert_eq!(client.get("/").text(), "one");
        drop(held);
        expect::eventually("descriptors", || {
            let told = process.run(&["upgrade"]);
            eprintln!("{}", told.text);
            told.is_good.then_some(())
        });
        assert_eq!(process.get("/"), "one");
    });
}

#[test]
fn a_log_on_a_full_disk_loses_its_lines_and_nothing_else() {
    play(|| {
        let text = format!("{ONE}access_log: {{ path: /dev/full }}\n");
        let mut process = process::start(&text, &[]);
        let mut client = process.client();
        for _ in 0..10 {
            assert_eq!(client.get("/").text(), "one");
        }
        process.says(&["access log: records lost", "No space left on device"]);
        process.upgrade();
        assert_eq!(process.get("/"), "one");
        assert_eq!(client.get("/").field("connection"), Some("close"));
        assert_eq!(process.ends().code(), Some(0));
        // Each of the two has told it once while it ran, and the old one perhaps once more at its end.
        assert!(process.lines(&["records lost"]).len() <= 3);
        assert!(fs::metadata("/dev/full").unwrap().len() == 0);
    });
}

/// Seconds of CPU that a process has had.
fn spent(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    let ticks = |at: usize| fields[at].parse::<f64>().unwrap();
    (ticks(11) + ticks(12)) / 100.0
}

#[test]
fn half_requests_beyond_the_descriptors_are_waited_for_without_work() {
    play(|| {
        let process = process::folder(ONE, &[]).first("ulimit -n 120").start();
        let mut held: Vec<_> = (0..200)
            .map(|_| Client::connect(process.at("web")))
            .collect();
        for client in &mut held {
            client.send("GET / HT");
        }
        process.says(&["accepting fails"]);
        let before = spent(process.pid());
        expect::after(Duration::from_secs(2));
        // Whoever tries again and again has all of a core.
        let spent = spent(process.pid()) - before;
        assert!(spent < 0.5, "{spent} seconds of two");
        drop(held);
        expect::eventually("an answer", || {
            let mut client = process.client();
            client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
            client.wire.head().is_ok().then_some(())
        });
    });
}
