//! Programs of others: run to their end within a limit, or kept running until they are dropped.
//!
//! Every test here starts its programs by this file, so that none outlives its test, whatever happens to it.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use lockgate::base::clock;
use lockgate::cli;

/// How long anything may take before the test fails, unless it says otherwise.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Python as the distribution has it, since its packages are installed for that one.
pub(crate) const PYTHON: &str = "/usr/bin/python3";

/// Whether the larger files are asked for.
pub(crate) fn is_large() -> bool {
    cli::env("LOCKGATE_PEERS_LARGE").is_some_and(|value| value == "1")
}

/// A script beside these tests.
pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/peers")
        .join(name)
}

/// What a program that ended has said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) success: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Said {
    /// Standard output, of a program that must have succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert!(self.success, "it failed: {self:#?}");
        self.stdout
    }
}

/// Runs a program to its end, with nothing on its standard input.
#[track_caller]
pub(crate) fn run<A: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = A>) -> Said {
    run_with(program, arguments, "", PATIENCE)
}

/// Runs a program to its end or that of `limit`, with `input` on its standard input.
#[track_caller]
pub(crate) fn run_with<A: AsRef<OsStr>>(
    program: &str,
    arguments: impl IntoIterator<Item = A>,
    input: &str,
    limit: Duration,
) -> Said {
    let arguments: Vec<_> = arguments.into_iter().collect();
    // `timeout` ends the program when this process cannot.
    let mut child = Command::new("timeout")
        .args(["--kill-after=5", &limit.as_secs().max(1).to_string()])
        .arg(program)
        .args(&arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    // A program may end before it has read everything.
    let writer = thread::spawn(move || stdin.write_all(input.as_bytes()).ok());
    let Output {
        status,
        stdout,
        stderr,
    } = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let stderr = String::from_utf8_lossy(&stderr).into_owned();
    let wanted: Vec<_> = arguments.iter().map(AsRef::as_ref).collect();
    match status.code() {
        Some(124 | 137) => panic!("{program} {wanted:?} took longer than {limit:?}: {stderr}"),
        Some(127) => panic!("{program}: {stderr}`.ci/run peers` installs it"),
        _ => {}
    }
    Said {
        success: status.success(),
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr,
    }
}

/// A program that runs, and the lines it says. Killed when it is dropped.
pub(crate) struct Running {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Running {
    /// Starts a program.
    pub(crate) fn start<A: AsRef<OsStr>>(
        program: impl AsRef<OsStr>,
        arguments: impl IntoIterator<Item = A>,
        folder: &Path,
    ) -> Self {
        // It goes with this process even when nothing is left to drop it.
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(arguments)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Arc::default();
        collect(child.stdout.take().unwrap(), &lines);
        collect(child.stderr.take().unwrap(), &lines);
        Self { child, lines }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has said so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// Waits for a line with all of `words` among all it has said and says.
    #[track_caller]
    pub(crate) fn says(&mut self, words: &[&str]) -> String {
        let told = wait_until(PATIENCE, || {
            let found = self.found(words);
            // What it said last comes after it has ended.
            (found.is_some() || self.has_ended()).then(|| found.or_else(|| self.found(words)))
        });
        told.flatten()
            .unwrap_or_else(|| panic!("no line with {words:?} in\n{}", self.lines().join("\n")))
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Kills it as `kill -9` does, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        // It may have ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }

    fn found(&self, words: &[&str]) -> Option<String> {
        let lines = self.lines.lock().unwrap();
        let mut matching = lines
            .iter()
            .filter(|line| words.iter().all(|word| line.contains(word)));
        matching.next().cloned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Asks again and again until there is an answer; `None` when `limit` is over.
pub(crate) fn wait_until<T>(limit: Duration, mut answer: impl FnMut() -> Option<T>) -> Option<T> {
    let end = clock::now() + limit;
    loop {
        if let Some(found) = answer() {
            return Some(found);
        }
        if clock::now() > end {
            return None;
        }
        pause(Duration::from_millis(10));
    }
}

/// Lets other processes get on.
#[expect(
    clippy::disallowed_methods,
    reason = "processes of others tell nobody when they are ready; nothing depends on how long this is"
)]
pub(crate) fn pause(length: Duration) {
    thread::sleep(length);
}

fn collect(pipe: impl Read + Send + 'static, lines: &Arc<Mutex<Vec<String>>>) {
    let lines = Arc::clone(lines);
    thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            lines.lock().unwrap().push(line);
        }
    });
}
