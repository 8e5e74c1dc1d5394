//! What systemd sees, recorded by a peer in its place, and sockets that it hands over.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};

use command_fds::{CommandFdExt, FdMapping};
use rustix::process::Signal;

use crate::harness::expect::PATIENCE;
use crate::harness::process::{self, Folder, Process, is_there, kill, run};
use crate::harness::{expect, play};

const ONE: &str = "routes: [ { respond: { status: 200, body: one } } ]\n";

/// What is told to systemd, in its place.
struct Peer {
    socket: UnixDatagram,
    told: Vec<String>,
}

impl Peer {
    fn new(folder: &Folder) -> Self {
        let socket = UnixDatagram::bind(folder.path().join("notify.sock")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            socket,
            told: Vec::new(),
        }
    }

    /// Waits for a message that begins with `words`, past signs of life, and returns it.
    #[track_caller]
    fn hears(&mut self, words: &str) -> String {
        self.hears_past(words, &["WATCHDOG=1"])
    }

    /// Waits for the end of a reload with this status; a file that changed is noticed besides, and reloads once more.
    #[track_caller]
    fn hears_status(&mut self, status: &str) {
        let words = format!("READY=1\nSTATUS={status}\n");
        self.hears_past(&words, &["RELOADING=1", "READY=1"]);
    }

    #[track_caller]
    fn hears_past(&mut self, words: &str, others: &[&str]) -> String {
        loop {
            let mut message = [0; 4096];
            let Ok(length) = self.socket.recv(&mut message) else {
                panic!("not told: {words:?}; but {:?}", self.told)
            };
            let message = String::from_utf8_lossy(&message[..length]).into_owned();
            self.told.push(message.clone());
            if message.starts_with(words) {
                return message;
            }
            let is_known = others.iter().any(|other| message.starts_with(other));
            assert!(is_known, "{words:?} wanted: {:?}", self.told);
        }
    }
}

/// A folder whose process tells a peer.
fn watched(text: &str) -> (Folder, Peer) {
    let folder = process::folder(text, &[]);
    let peer = Peer::new(&folder);
    let path = folder.path().join("notify.sock").display().to_string();
    (folder.with("NOTIFY_SOCKET", &path), peer)
}

#[test]
fn systemd_is_told_of_each_turn_in_a_life() {
    play(|| {
        let (folder, mut peer) = watched(ONE);
        let mut process = folder.start();
        assert_eq!(
            peer.hears("READY=1"),
            "READY=1\nSTATUS=version 1 in force\n"
        );

        process.write(&ONE.replace("one", "two"), &[]);
        process.signal(Signal::HUP);
        let reloading = peer.hears("RELOADING=1\nMONOTONIC_USEC=");
        let stamp = reloading.trim().rsplit('=').next().unwrap();
        let uptime = fs::read_to_string("/proc/uptime").unwrap();
        let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        let stamp = stamp.parse::<f64>().unwrap() / 1e6;
        assert!(stamp > 0.0 && stamp < uptime + 60.0, "{stamp}, {uptime}");
        peer.hears_status("version 2 in force");

        process.write("nonsense", &[]);
        peer.hears_status("version 2 in force; the last reload was refused");

        process.signal(Signal::TERM);
        peer.hears_past("STOPPING=1", &["RELOADING=1", "READY=1"]);
        assert_eq!(process.ends().code(), Some(0));
    });
}

#[test]
fn an_upgrade_names_the_next_main_process_before_that_speaks() {
    play(|| {
        let (folder, mut peer) = watched(ONE);
        let mut process = folder.start();
        peer.hears("READY=1");
        let new = process.upgrade();
        assert_eq!(peer.hears("MAINPID="), format!("MAINPID={new}\n"));
        peer.hears("READY=1");
        // The old one ends without a word about it: the service goes on.
        assert_eq!(process.ends().code(), Some(0));
        kill(new, Signal::HUP);
        peer.hears("RELOADING=1");
        peer.hears("READY=1");
        kill(new, Signal::TERM);
        peer.hears("STOPPING=1");
    });
}

#[test]
fn an_upgrade_that_fails_is_none_of_systemds_business() {
    play(|| {
        let (folder, mut peer) = watched(ONE);
        let mut process = folder.start();
        peer.hears("READY=1");
        process.replace_program("exit 1");
        assert!(!process.run(&["upgrade"]).is_good);
        process.signal(Signal::TERM);
        peer.hears("STOPPING=1");
        assert_eq!(process.ends().code(), Some(0));
    });
}

#[test]
fn the_watchdog_gets_signs_of_life_from_whoever_is_the_process() {
    play(|| {
        let (folder, mut peer) = watched(ONE);
        let folder = folder
            .with("WATCHDOG_USEC", &200_000)
            .first("export WATCHDOG_PID=$$");
        let process = folder.start();
        peer.hears("READY=1");
        peer.hears("WATCHDOG=1");
        peer.hears("WATCHDOG=1");
        let new = process.upgrade();
        peer.hears("MAINPID=");
        peer.hears("READY=1");
        peer.hears("WATCHDOG=1");
        peer.hears("WATCHDOG=1");
        kill(new, Signal::TERM);
        peer.hears("STOPPING=1");
    });
}

#[test]
fn a_watchdog_of_another_process_gets_none() {
    play(|| {
        let (folder, mut peer) = watched(ONE);
        let folder = folder.with("WATCHDOG_USEC", &1000).with("WATCHDOG_PID", &1);
        let process = folder.start();
        peer.hears("READY=1");
        process.signal(Signal::TERM);
        peer.hears("STOPPING=1");
        assert_eq!(peer.told.len(), 2, "{:?}", peer.told);
    });
}

/// Starts with these descriptors, as systemd does.
fn activated(folder: Folder, names: &str, left: Vec<OwnedFd>) -> Process {
    let folder = folder
        .with("LISTEN_FDS", &left.len())
        .with("LISTEN_FDNAMES", names)
        .first("export LISTEN_PID=$$");
    let command = leaving(&folder, left);
    folder.spawn(command)
}

fn leaving(folder: &Folder, left: Vec<OwnedFd>) -> std::process::Command {
    let mappings = (3..).zip(left).map(|(child_fd, parent_fd)| FdMapping {
        parent_fd,
        child_fd,
    });
    let mut command = folder.command();
    command.fd_mappings(mappings.collect()).unwrap();
    command
}

fn at(socket: &TcpListener) -> String {
    let address = socket.local_addr().unwrap();
    format!("listeners: [ {{ name: web, address: '{address}' }} ]\n{ONE}")
}

#[test]
fn sockets_of_systemd_are_served_and_what_waits_in_them_is_answered() {
    play(|| {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let folder = process::folder(&format!("{}workers: 3\n", at(&socket)), &[]);
        // Before the service runs at all.
        let mut early = TcpStream::connect(address).unwrap();
        early
            .write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .unwrap();
        let control = UnixListener::bind(folder.path().join("admin.sock")).unwrap();
        let left = vec![control.into(), socket.try_clone().unwrap().into()];
        let mut process = activated(folder, "lockgate.socket:lockgate.socket", left);
        process.says(&["ready", "version=1"]);
        let mut answer = String::new();
        early.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("one"), "{answer}");
        assert_eq!(process.at("web"), address);
        assert!(process.run(&["reload"]).is_good);

        // An upgrade goes on with them, and systemd's files stay when it ends.
        let new = process.upgrade();
        assert_eq!(process.get("/"), "one");
        assert_eq!(process.ends().code(), Some(0));
        kill(new, Signal::TERM);
        process.says_again(2, &["drained"]);
        expect::eventually("its end", || (!is_there(new)).then_some(()));
        assert!(process.file("admin.sock").exists());
        // The socket is still there, for the next start.
        TcpStream::connect(address).unwrap();
        drop(socket);
    });
}

#[test]
fn a_listener_with_a_port_of_the_systems_choice_takes_the_socket_of_its_name() {
    play(|| {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let process = activated(process::folder(ONE, &[]), "web", vec![socket.into()]);
        assert_eq!(process.at("web"), address);
        process.says(&["ready"]);
        assert_eq!(process.get("/"), "one");
    });
}

#[test]
fn a_socket_for_no_listener_is_told_and_closed() {
    play(|| {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let process = activated(process::folder(ONE, &[]), "other", vec![socket.into()]);
        process.says(&["is for no listener of the config", &address.to_string()]);
        process.says(&["ready"]);
        expect::eventually("it is closed", || TcpStream::connect(address).err());
    });
}

#[test]
fn a_descriptor_that_is_no_socket_to_listen_on_is_refused() {
    play(|| {
        for (left, what) in [
            (
                OwnedFd::from(UdpSocket::bind("127.0.0.1:0").unwrap()),
                "UDP",
            ),
            (
                OwnedFd::from(fs::File::open("/dev/null").unwrap()),
                "a file",
            ),
        ] {
            let mut process = activated(process::folder(ONE, &[]), "odd", vec![left]);
            assert_eq!(process.ends().code(), Some(1), "{what}");
            process.says(&["descriptor 3 (odd) was left to this process"]);
        }
    });
}

#[test]
fn descriptors_that_are_for_another_process_are_left_alone() {
    play(|| {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let folder = process::folder(ONE, &[]);
        let folder = folder
            .with("LISTEN_FDS", &1)
            .with("LISTEN_FDNAMES", "web")
            .with("LISTEN_PID", &1);
        let command = leaving(&folder, vec![socket.into()]);
        let process = folder.spawn(command);
        process.says(&["ready"]);
        assert_ne!(process.at("web"), address);
        assert_eq!(process.get("/"), "one");
    });
}

#[test]
fn a_process_that_says_it_is_a_successor_and_is_not_does_not_start() {
    play(|| {
        let folder = process::folder(ONE, &[]);
        let told = {
            let command = folder
                .command()
                .env("LOCKGATE_PREDECESSOR", "1")
                .output()
                .unwrap();
            assert_eq!(command.status.code(), Some(1));
            String::from_utf8_lossy(&command.stderr).into_owned()
        };
        assert!(told.contains("was to go on for is gone"), "{told}");
        // Other commands have nothing to do with it.
        assert!(run(folder.path(), &["check"]).is_good);
    });
}

/// The values of a key in a unit.
fn values<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    let lines = unit.lines().filter_map(|line| line.split_once('='));
    let named = lines.filter(|(name, _)| *name == key);
    named.map(|(_, value)| value).collect()
}

fn unit(name: &str) -> String {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging");
    fs::read_to_string(folder.join(name)).unwrap()
}

#[test]
fn the_unit_runs_commands_that_there_are() {
    let unit = unit("lockgate.service");
    let commands = [values(&unit, "ExecStart"), values(&unit, "ExecReload")].concat();
    assert_eq!(commands.len(), 2);
    for command in commands {
        let arguments = command.split(' ').map(std::ffi::OsString::from);
        assert!(lockgate::cli::parse(arguments).is_ok(), "{command}");
    }
    // What the program counts on: being heard, and a folder for the control socket.
    assert_eq!(values(&unit, "Type"), ["notify"]);
    assert_eq!(values(&unit, "RuntimeDirectory"), ["lockgate"]);
    assert_eq!(
        values(&unit, "KillMode"),
        [""; 0],
        "both processes of an upgrade are asked to end"
    );
}

#[test]
fn the_socket_unit_has_ports_as_a_config_names_them() {
    for port in values(&unit("lockgate.socket"), "ListenStream") {
        let address: lockgate::base::addr::ListenAddr = format!(":{port}").parse().unwrap();
        assert_eq!(address.port().to_string(), port);
    }
}
