//! The program as a process of its own, in a folder with its config, its control socket and the binary that an upgrade
//! starts: a link to the real one, until a case puts something else there. Another link, `real`, stays.
//!
//! Whatever it says is kept, that of its successors too. All of them are killed in the end, by their numbers.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;

use super::client::Client;
use super::config::{self, Values};
use super::expect::{PATIENCE, eventually};

/// The real binary.
const PROGRAM: &str = env!("CARGO_BIN_EXE_lockgate");

/// A folder for a process, before it is started.
pub struct Folder {
    folder: TempDir,
    variables: Vec<(String, String)>,
    arguments: Vec<String>,
    before: String,
}

/// A running process and its successors.
pub struct Process {
    child: Child,
    folder: TempDir,
    said: Arc<Said>,
}

#[derive(Default)]
struct Said {
    lines: Mutex<Vec<String>>,
    news: Condvar,
}

/// Starts the program; see [`config`] for what is filled in.
#[track_caller]
pub fn start(text: &str, values: Values<'_>) -> Process {
    folder(text, values).start()
}

/// Makes a folder with a config in it, and a control socket as the default.
pub fn folder(text: &str, values: Values<'_>) -> Folder {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("proxy.yaml"), fill(text, values)).unwrap();
    for name in ["lockgate", "real"] {
        symlink(PROGRAM, folder.path().join(name)).unwrap();
    }
    Folder {
        folder,
        variables: Vec::new(),
        arguments: Vec::new(),
        before: String::new(),
    }
}

fn fill(text: &str, values: Values<'_>) -> String {
    let mut config = config::fill(text, values);
    if !text.lines().any(|line| line.starts_with("admin:")) {
        config.push_str("\nadmin: { address: unix:admin.sock }\n");
    }
    config
}

impl Folder {
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Sets a variable of the environment.
    pub fn with(mut self, name: &str, value: &(impl ToString + ?Sized)) -> Self {
        self.variables.push((name.to_owned(), value.to_string()));
        self
    }

    /// Adds an argument to `run`.
    pub fn arg(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Has a shell do something first, as the same process.
    pub fn first(mut self, script: &str) -> Self {
        self.before = script.to_owned();
        self
    }

    /// The command that starts the program.
    pub fn command(&self) -> Command {
        let program = self.folder.path().join("lockgate");
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(format!("{}\nexec \"$0\" run \"$@\"", self.before))
            .arg(program)
            .args(&self.arguments)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }

    /// Starts it, and waits until it serves.
    #[track_caller]
    pub fn start(self) -> Process {
        let command = self.command();
        let process = self.spawn(command);
        process.says(&["ready", "version=1"]);
        process
    }

    /// Starts it by a command made before, and waits for nothing.
    pub fn spawn(self, mut command: Command) -> Process {
        let mut child = command.spawn().unwrap();
        // Its copies of descriptors would keep what they lead to open.
        drop(command);
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let said = Arc::<Said>::default();
        let heard = Arc::clone(&said);
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                heard.lines.lock().unwrap().push(line);
                heard.news.notify_all();
            }
        });
        Process {
            child,
            folder: self.folder,
            said,
        }
    }
}

impl Process {
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The number of the process that was started first.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The numbers of the processes that were started by others, the first one first.
    pub fn successors(&self) -> Vec<u32> {
        let started = self.lines(&["the next process is started"]);
        let numbers = started.iter().map(|line| value(line, "pid").parse());
        numbers.map(Result::unwrap).collect()
    }

    /// All lines with all of `words` so far.
    pub fn lines(&self, words: &[&str]) -> Vec<String> {
        let lines = self.said.lines.lock();
        let lines = lines.unwrap_or_else(PoisonError::into_inner);
        let fits = |line: &&String| words.iter().all(|word| line.contains(word));
        lines.iter().filter(fits).cloned().collect()
    }

    /// Waits for a line with all of `words` and returns it.
    #[track_caller]
    pub fn says(&self, words: &[&str]) -> String {
        self.says_again(1, words).remove(0)
    }

    /// Waits for so many lines with all of `words`.
    #[track_caller]
    pub fn says_again(&self, count: usize, words: &[&str]) -> Vec<String> {
        let fits = |line: &&String| words.iter().all(|word| line.contains(word));
        let is_missing =
            |lines: &mut Vec<String>| lines.iter().filter(|line| fits(line)).count() < count;
        let lines = self.said.lines.lock().unwrap();
        let (lines, waited) = self
            .said
            .news
            .wait_timeout_while(lines, PATIENCE, is_missing)
            .unwrap();
        let all = lines.join("\n");
        assert!(
            !waited.timed_out(),
            "not {count} lines with {words:?} in\n{all}"
        );
        lines.iter().filter(fits).cloned().collect()
    }

    /// Where a listener listens.
    #[track_caller]
    pub fn at(&self, listener: &str) -> SocketAddr {
        let line = self.says(&["listening", &format!("listener={listener} ")]);
        value(&line, "address").parse().unwrap()
    }

    /// A connection to the listener `web`.
    #[track_caller]
    pub fn client(&self) -> Client {
        Client::connect(self.at("web"))
    }

    /// The body of an answer to a request on a connection of its own.
    #[track_caller]
    pub fn get(&self, target: &str) -> String {
        let mut client = self.client();
        client.get(target).text().to_owned()
    }

    pub fn write(&self, text: &str, values: Values<'_>) {
        fs::write(self.file("proxy.yaml"), fill(text, values)).unwrap();
    }

    /// Sends a signal to the process that was started first.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal);
    }

    /// Runs another command of the program in the same folder.
    pub fn run(&self, arguments: &[&str]) -> Told {
        run(self.folder.path(), arguments)
    }

    /// Has it upgraded, which has to work, and waits until the process before has told its clients.
    #[track_caller]
    pub fn upgrade(&self) -> u32 {
        let handed_over = self.lines(&["handed over: "]).len();
        let told = self.run(&["upgrade"]);
        assert!(told.is_good, "{}", told.text);
        self.says_again(handed_over + 1, &["handed over: "]);
        let mut words = told.text.split(' ');
        words.nth(1).unwrap().parse().unwrap()
    }

    /// Puts a script in the place of the binary.
    pub fn replace_program(&self, script: &str) {
        let program = self.file("lockgate");
        let made = self.file("made");
        // Not by this process: whatever it starts meanwhile would keep the file open for writing, and who does that
        // cannot be run.
        let mut writer = Command::new("sh")
            .args(["-c", "cat > \"$0\" && chmod +x \"$0\""])
            .arg(&made)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let text = format!("#!/bin/sh\n{script}\n");
        writer
            .stdin
            .take()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        assert!(writer.wait().unwrap().success());
        fs::rename(made, program).unwrap();
    }

    /// Puts the real binary back.
    pub fn restore_program(&self) {
        let made = self.file("made");
        symlink(PROGRAM, &made).unwrap();
        fs::rename(made, self.file("lockgate")).unwrap();
    }

    /// Waits until the process that was started first has ended.
    #[track_caller]
    pub fn ends(&mut self) -> ExitStatus {
        let child = &mut self.child;
        eventually("its end", || child.try_wait().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let successors = self.successors();
        let folder = self.folder.path().display().to_string();
        for pid in successors {
            // The number may be another process's by now.
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&command).contains(&folder) {
                kill(pid, Signal::KILL);
            }
        }
        // It may have ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// What a command said, and whether its status was 0.
#[derive(Debug)]
pub struct Told {
    pub is_good: bool,
    pub text: String,
}

/// Runs a command of the program.
pub fn run(folder: &Path, arguments: &[&str]) -> Told {
    let output: Output = Command::new(PROGRAM)
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    Told {
        is_good: output.status.success(),
        text: String::from_utf8_lossy(&text).trim().to_owned(),
    }
}

/// The value of a field in a line of the log.
#[track_caller]
pub fn value<'a>(line: &'a str, field: &str) -> &'a str {
    let (_, rest) = line.split_once(&format!(" {field}=")).unwrap();
    rest.split(' ').next().unwrap()
}

pub fn kill(pid: u32, signal: Signal) {
    // It may have ended already.
    kill_process(number(pid), signal).ok();
}

/// Whether there is such a process, that was not waited for at least.
pub fn is_there(pid: u32) -> bool {
    test_kill_process(number(pid)).is_ok()
}

fn number(pid: u32) -> Pid {
    Pid::from_raw(pid.try_into().unwrap()).unwrap()
}
