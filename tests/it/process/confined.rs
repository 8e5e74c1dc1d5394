//! What the process takes from itself: core dumps, the rights of root, and what a proxy has no use for.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{getegid, geteuid};

use crate::harness::process::{self, Folder, Process, is_there};
use crate::harness::{certs, expect, play};

const ONE: &str = "routes: [ { respond: { status: 200, body: one } } ]\n";

/// A user that every system has, by its number.
const NOBODY: u32 = 65534;

fn is_root() -> bool {
    geteuid().is_root()
}

/// Whom a process becomes: nobody, if it may be somebody else.
fn other() -> (u32, u32) {
    match is_root() {
        true => (NOBODY, NOBODY),
        false => (geteuid().as_raw(), getegid().as_raw()),
    }
}

/// A config for that user.
fn for_other(text: &str) -> String {
    let (user, group) = other();
    format!("user: {user}\ngroup: {group}\n{text}")
}

/// A folder that is that user's.
fn folder(text: &str) -> Folder {
    let folder = process::folder(text, &[]);
    let (user, group) = other();
    chown(folder.path(), Some(user), Some(group)).unwrap();
    folder
}

/// A line of what the kernel says of a process.
fn status(pid: u32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let mut lines = status.lines();
    let line = lines.find_map(|line| line.strip_prefix(&format!("{field}:")));
    line.unwrap()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

/// Whether anybody but root may read its memory: files of a process that cannot be dumped are root's.
fn is_open(pid: u32) -> bool {
    let owner = fs::metadata(format!("/proc/{pid}/environ")).unwrap().uid();
    owner == other().0
}

fn core_limit(pid: u32) -> String {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max core file size"));
    line.unwrap().split_whitespace().next().unwrap().to_owned()
}

/// What is left of root, if it was.
fn is_confined(pid: u32) {
    let (user, group) = other();
    let four = |id: u32| [id; 4].map(|id| id.to_string()).join(" ");
    assert_eq!(status(pid, "Uid"), four(user));
    assert_eq!(status(pid, "Gid"), four(group));
    assert_eq!(status(pid, "NoNewPrivs"), "1");
    if is_root() {
        // The right to ports below 1024.
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(status(pid, set), "0000000000000400", "{set}");
        }
    }
}

#[test]
fn a_process_cannot_be_dumped_unless_its_config_says_so() {
    play(|| {
        let process = folder(&for_other(ONE)).start();
        assert!(!is_open(process.pid()));
        assert_eq!(core_limit(process.pid()), "0");
        drop(process);
        let text = for_other(&format!("danger_core_dumps: true\n{ONE}"));
        let process = folder(&text).first("ulimit -c unlimited").start();
        assert!(is_open(process.pid()));
        assert_eq!(core_limit(process.pid()), "unlimited");
        process.says(&["security is lowered", "danger_core_dumps"]);
    });
}

#[test]
fn root_becomes_the_user_of_its_config_and_keeps_the_right_to_low_ports() {
    play(|| {
        let process = folder(&for_other(ONE)).start();
        is_confined(process.pid());
        assert_eq!(process.get("/"), "one");
        // An address of this case alone, with a port that only root may have.
        let [_, _, high, low] = process.pid().to_be_bytes();
        let low_port = format!("127.77.{high}.{low}:443");
        let two = format!(
            "listeners: [ {{ name: web, address: \"127.0.0.1:0\" }}, {{ name: low, address: \"{low_port}\" }} ]\n{ONE}"
        );
        if is_root() {
            process.write(&for_other(&two), &[]);
            let told = process.run(&["reload"]);
            assert!(told.is_good, "{told:?}");
            assert_eq!(process.at("low").to_string(), low_port);
        }
        let can_start = Command::new(process.file("lockgate"))
            .arg("--version")
            .uid(other().0)
            .output();
        if can_start.is_err() {
            // The folder of the build is not for others.
            return;
        }
        let next = process.upgrade();
        is_confined(next);
        assert!(!is_open(next));
        assert!(is_there(next));
        if is_root() {
            process.write(&for_other(&two.replace(":443", ":444")), &[]);
            let told = process.run(&["reload"]);
            assert!(told.is_good, "{told:?}");
        }
    });
}

#[test]
fn who_is_not_root_cannot_become_somebody_else() {
    play(|| {
        let folder = folder(&format!("user: root\n{ONE}"));
        let mut command = folder.command();
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        let mut process = folder.spawn(command);
        process.says(&["cannot become `root`"]);
        process.says(&["start it as root, or as that user"]);
        assert_eq!(process.ends().code(), Some(1));

        let mut process = spawn(&format!("user: nobody-of-that-name\n{ONE}"));
        process.says(&["there is no user `nobody-of-that-name`"]);
        assert_eq!(process.ends().code(), Some(1));
    });
}

fn spawn(text: &str) -> Process {
    let folder = folder(text);
    let command = folder.command();
    folder.spawn(command)
}

#[test]
fn a_key_that_the_user_cannot_read_is_told_with_what_to_do() {
    play(|| {
        let certs = certs::new().server("app", &["app.test"]);
        let text = format!(
            "listeners: [ {{ name: web, address: \"127.0.0.1:0\", tls: {{ certificates: [ {{ cert: app.pem, key: app.key }} ] }} \
             }} ]\n{ONE}"
        );
        let folder = folder(&for_other(&text));
        for (file, mode) in [("app.pem", 0o644), ("app.key", 0o000)] {
            let path = folder.path().join(file);
            fs::copy(certs.folder().join(file), &path).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let command = folder.command();
        let mut process = folder.spawn(command);
        process.says(&["app.key cannot be read: Permission denied"]);
        process.says(&["setfacl -m u:lockgate:r"]);
        assert_eq!(process.ends().code(), Some(1));
    });
}

#[test]
fn a_log_that_root_has_made_is_handed_to_the_user() {
    play(|| {
        let folder = folder(&for_other(ONE));
        let log = folder.path().join("access.log");
        fs::write(&log, "").unwrap();
        let process = folder.start();
        process.get("/");
        expect::eventually("a record", || {
            let text = fs::read_to_string(&log).unwrap();
            text.contains("\"status\":200").then_some(())
        });
        assert_eq!(fs::metadata(&log).unwrap().uid(), other().0);
    });
}

#[test]
fn in_its_sandbox_a_process_reloads_rotates_and_is_upgraded() {
    play(|| {
        let process = process::start(ONE, &[]);
        let said = process.says(&["sandbox", "calls="]);
        let has_seccomp = said.contains("seccomp");
        if has_seccomp {
            assert_eq!(status(process.pid(), "Seccomp"), "2");
        }
        let log = process.file("access.log");
        fs::rename(&log, process.file("access.log.1")).unwrap();
        process.signal(rustix::process::Signal::USR1);
        expect::eventually("a new file", || log.exists().then_some(()));
        process.write(&ONE.replace("one", "two"), &[]);
        assert!(process.run(&["reload"]).is_good);
        assert_eq!(process.get("/"), "two");

        // Elsewhere it writes only if the kernel cannot keep it from that.
        let elsewhere = tempfile::tempdir().unwrap();
        let moved = format!(
            "access_log: {{ path: {}/a.log }}\n{ONE}",
            elsewhere.path().display()
        );
        process.write(&moved, &[]);
        let told = process.run(&["reload"]);
        let is_held = said.contains("landlock") && !said.contains("no landlock");
        assert_eq!(told.is_good, !is_held, "{told:?}");
        assert!(
            told.is_good || told.text.contains("`sandbox.write`"),
            "{told:?}"
        );
        process.write(ONE, &[]);
        let next = process.upgrade();
        assert_eq!(process.get("/"), "one");
        // One layer is enough: the next process says nothing of another.
        assert_eq!(process.lines(&["sandbox", "calls="]).len(), 1);
        if has_seccomp {
            assert_eq!(status(next, "Seccomp"), "2");
            assert_eq!(
                status(next, "Seccomp_filters"),
                status(process.pid(), "Seccomp_filters")
            );
        }
    });
}

#[test]
fn a_sandbox_that_is_not_wanted_is_none() {
    play(|| {
        let process = process::start(&format!("sandbox: false\n{ONE}"), &[]);
        assert!(process.lines(&["sandbox"]).is_empty());
        let ours = status(std::process::id(), "Seccomp_filters");
        assert_eq!(status(process.pid(), "Seccomp_filters"), ours);
        process.write(&format!("user: root\n{ONE}"), &[]);
        process.run(&["reload"]);
        process.says(&["`sandbox` changes with a restart only"]);
        process.says(&["`user` and `group` change with a restart only"]);
    });
}
