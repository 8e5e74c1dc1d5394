//! The old side of an upgrade: starts the next binary, hands everything over, and steps back once that serves.
//!
//! Until then this process accepts as if nothing were, and whatever goes wrong with the other one changes nothing here: it is
//! ended, and the log says why. The loop reloads nothing meanwhile; demands for it wait.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, ExitStatus};
use std::rc::Rc;
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch as cell};
use tokio::time;

use super::handover::{PREDECESSOR, State, WORD_LIMIT, Word, send_first};
use super::inherit::write_name;
use super::systemd::Systemd;
use crate::base::units::show_duration;
use crate::controlplane::reload::estate::Estate;
use crate::controlplane::reload::{Demands, Ending, Event};
use crate::controlplane::status::{Upgrade, Upgrades};

/// The first descriptor that is handed over.
const FIRST_FD: i32 = 3;

/// How long a process that is ready may take to accept.
const SERVING_TIMEOUT: Duration = Duration::from_secs(10);

/// How often it is asked whether the other process has ended, which its silence alone does not tell: a process that it
/// started may keep the line open.
const REAP_EVERY: Duration = Duration::from_millis(50);

/// How long a process may take to end that has said so, or that was killed.
const REAP_TIMEOUT: Duration = Duration::from_secs(2);

const HUNG_UP: &str = "the new process hung up";

/// How the next process is started.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The binary, as this process was called: a path, or a name to be looked for as a shell does.
    pub program: OsString,
    /// What stood behind it.
    pub arguments: Vec<OsString>,
    /// How long it may take to be ready.
    pub timeout: Duration,
}

/// What an upgrade works with.
#[derive(Debug)]
pub struct Upgrader {
    /// How the next process is started; `None` where it cannot be.
    pub launch: Option<Launch>,
    /// Counts what is asked for.
    pub demands: cell::Receiver<Demands>,
    /// The loop.
    pub events: mpsc::Sender<Event>,
    /// Where it is told how an upgrade ended.
    pub upgrades: cell::Sender<Upgrades>,
    /// A control socket, and whether its file goes with the process.
    pub control: Option<(UnixListener, bool)>,
    /// The folders that the process may write to, if it is in a sandbox.
    pub writable: Option<Vec<PathBuf>>,
    /// Who has to know which process is the one.
    pub systemd: Rc<Systemd>,
}

impl Upgrader {
    /// Upgrades whenever it is demanded, until that has worked or the process is to end.
    ///
    /// Dropping the future leaves a process that has not said it serves to itself; it ends when it finds the line closed.
    pub async fn run(mut self) {
        let mut served = 0;
        loop {
            let wanted = self
                .demands
                .wait_for(|demands| demands.upgrades > served || demands.ending > Ending::NotYet);
            let wanted = match wanted.await {
                Ok(demands) if demands.ending == Ending::NotYet => demands.upgrades,
                Ok(_) | Err(_) => return,
            };
            let outcome = self.attempt(wanted).await;
            // Whoever asked meanwhile has got what it wanted, or would get the same.
            served = self.demands.borrow().upgrades;
            let last = match outcome {
                Ok(upgrade) => upgrade,
                Err(reason) => {
                    tracing::error!(%reason, "the upgrade failed: this process goes on");
                    Upgrade::Failed(reason)
                }
            };
            let is_over = matches!(last, Upgrade::HandedOver { .. });
            let last = Some(last);
            self.upgrades.send_replace(Upgrades { served, last });
            let event = match is_over {
                true => Event::HandedOver,
                false => Event::Kept,
            };
            if self.events.send(event).await.is_err() || is_over {
                return;
            }
        }
    }

    /// One upgrade, for so many demands.
    async fn attempt(&mut self, wanted: u64) -> Result<Upgrade, String> {
        let Some(launch) = self.launch.clone() else {
            return Err("this process does not know how it was started".to_owned());
        };
        if process::id() == 1 {
            let reason =
                "this is process 1 of a container, which ends with it: replace the container";
            return Err(reason.to_owned());
        }
        check(&launch.program)?;
        let (answer, estate) = oneshot::channel();
        let gone = "the control plane is gone";
        let asked = self.events.send(Event::Estate(answer)).await;
        asked.map_err(|_| gone.to_owned())?;
        let estate = estate.await.map_err(|_| gone.to_owned())?;
        let estate = estate.map_err(|error| format!("the sockets cannot be shared: {error}"))?;
        let mut next = self
            .start(&launch, estate)
            .map_err(|error| format!("{} cannot be started: {error}", launch.program.display()))?;
        let pid = next.child.id();
        tracing::info!(pid, program = %launch.program.display(), "upgrade: the next process is started");
        let mut others = self.demands.clone();
        let others = tell_others(&mut others, wanted);
        let ended = tokio::select! {
            biased;
            () = others => Err("nobody can ask any more".to_owned()),
            _ = self.demands.wait_for(|demands| demands.ending > Ending::NotYet) => {
                Err("this process is to end".to_owned())
            }
            ended = next.take_over(launch.timeout) => ended,
        };
        match ended {
            Ok(version) => {
                self.systemd.hand_over(pid);
                // It serves whether it hears this or not.
                drop(next.say(&Word::Farewell).await);
                tracing::info!(pid, version, "upgrade: the next process serves");
                Ok(Upgrade::HandedOver { pid, version })
            }
            Err(reason) => Err(next.end(reason).await),
        }
    }

    fn start(&self, launch: &Launch, estate: Estate) -> io::Result<Next> {
        let (ours, theirs) = StdUnixStream::pair()?;
        let mut left: Vec<(String, OwnedFd)> = Vec::new();
        for (name, socket) in estate.sockets.left {
            let name = name.as_ref().map_or_else(String::new, write_name);
            left.push((name, socket.into()));
        }
        let mut owns_control = false;
        if let Some((control, is_ours)) = &self.control {
            left.push(("control".to_owned(), control.try_clone()?.into()));
            owns_control = *is_ours;
        }
        left.push(("predecessor".to_owned(), theirs.into()));
        let (names, descriptors): (Vec<_>, Vec<_>) = left.into_iter().unzip();
        let numbers = FIRST_FD..;
        let mappings = numbers
            .zip(descriptors)
            .map(|(child_fd, parent_fd)| FdMapping {
                parent_fd,
                child_fd,
            });
        let mut command = Command::new(&launch.program);
        command
            .args(&launch.arguments)
            .env("LISTEN_FDS", names.len().to_string())
            .env("LISTEN_FDNAMES", names.join(":"))
            .env(PREDECESSOR, process::id().to_string())
            // They name this process.
            .env_remove("LISTEN_PID")
            .env_remove("WATCHDOG_PID")
            .fd_mappings(mappings.collect())
            .map_err(io::Error::other)?;
        let child = command.spawn()?;
        let (path, file) = estate.access_log.unzip();
        let tickets: Vec<_> = estate
            .tickets
            .into_iter()
            .map(|(name, secrets)| (name.as_str().to_owned(), secrets))
            .collect();
        let state = State::new(
            &tickets,
            estate.sessions.as_ref(),
            path.filter(|path| path.to_str().is_some()),
            owns_control,
            self.writable.clone(),
        );
        ours.set_nonblocking(true)?;
        Ok(Next {
            child,
            channel: BufReader::new(UnixStream::from_std(ours)?),
            state,
            file: file.map(OwnedFd::from),
        })
    }
}

/// Says that somebody else has asked as well, once; it waits for ever then.
async fn tell_others(demands: &mut cell::Receiver<Demands>, wanted: u64) {
    let more = demands.wait_for(|demands| demands.upgrades > wanted);
    if more.await.is_ok() {
        tracing::info!("an upgrade is under way already: it counts for whoever asks");
        std::future::pending::<()>().await;
    }
}

/// Looks whether there is a program to start: what goes wrong behind a fork is hard to tell.
fn check(program: &OsString) -> Result<(), String> {
    let path = Path::new(program);
    if path.components().count() < 2 {
        // A name alone is looked for in the folders of `PATH`.
        return Ok(());
    }
    let told = |what: &dyn std::fmt::Display| Err(format!("{}: {what}", path.display()));
    match fs::metadata(path) {
        Ok(file) if !file.is_file() || file.permissions().mode() & 0o111 == 0 => {
            told(&"not a program")
        }
        Ok(_) => Ok(()),
        Err(error) => told(&error),
    }
}

/// The process that is to go on.
struct Next {
    child: Child,
    channel: BufReader<UnixStream>,
    state: State,
    file: Option<OwnedFd>,
}

impl Next {
    /// Hands over, and returns the version of the other binary once it serves.
    async fn take_over(&mut self, timeout: Duration) -> Result<String, String> {
        let silent = |timeout| format!("the new process was silent for {}", show_duration(timeout));
        let ready = time::timeout(timeout, self.until_ready()).await;
        let version = ready.unwrap_or_else(|_| Err(silent(timeout)))?;
        let serving = async {
            self.say(&Word::Go).await.map_err(|_| HUNG_UP.to_owned())?;
            match self.hear().await? {
                Word::Serving => Ok(()),
                other => Err(unexpected(&other)),
            }
        };
        let serving = time::timeout(SERVING_TIMEOUT, serving).await;
        serving.unwrap_or_else(|_| Err(silent(SERVING_TIMEOUT)))?;
        Ok(version)
    }

    async fn until_ready(&mut self) -> Result<String, String> {
        // What it said, or how it ended, says more than that it does not listen.
        let sent = self.send_state().await;
        match self.hear().await? {
            Word::Ready { version } if sent.is_ok() => Ok(version),
            Word::Ready { .. } => Err(HUNG_UP.to_owned()),
            other => Err(unexpected(&other)),
        }
    }

    async fn send_state(&mut self) -> io::Result<()> {
        let line = self.state.line()?;
        let Some((first, rest)) = line.split_first() else {
            return Ok(());
        };
        let channel = self.channel.get_mut();
        // Nothing was sent before, so there is room.
        send_first(channel.as_fd(), *first, self.file.as_ref().map(AsFd::as_fd))?;
        channel.write_all(rest).await
    }

    async fn say(&mut self, word: &Word) -> io::Result<()> {
        self.channel.get_mut().write_all(&word.line()?).await
    }

    async fn hear(&mut self) -> Result<Word, String> {
        let mut line = Vec::new();
        let mut limited = (&mut self.channel).take(WORD_LIMIT as u64);
        let status = tokio::select! {
            biased;
            // Whether it fails or not: what counts is whether there is a whole line.
            _ = limited.read_until(b'\n', &mut line) => None,
            status = exited(&mut self.child) => Some(status),
        };
        if status.is_some() {
            // Its last word may still be on the way to us.
            drop(time::timeout(REAP_EVERY, limited.read_until(b'\n', &mut line)).await);
        }
        match (line.last(), status) {
            (Some(b'\n'), _) => {
                Word::read(&line).map_err(|error| format!("the new process says nonsense: {error}"))
            }
            (_, Some(status)) => Err(ended(status)),
            (_, None) => Err(HUNG_UP.to_owned()),
        }
    }

    /// Ends it, and adds to the reason how it ended, if it did by itself.
    async fn end(mut self, reason: String) -> String {
        if reason == HUNG_UP
            && let Ok(status) = time::timeout(REAP_TIMEOUT, exited(&mut self.child)).await
        {
            return ended(status);
        }
        // It may have ended by now.
        let _ = self.child.kill();
        if time::timeout(REAP_TIMEOUT, exited(&mut self.child))
            .await
            .is_err()
        {
            tracing::warn!(
                pid = self.child.id(),
                "a process that was killed does not end"
            );
        }
        reason
    }
}

/// Waits for the end of a process. Dropping the future loses nothing.
async fn exited(child: &mut Child) -> io::Result<ExitStatus> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) => time::sleep(REAP_EVERY).await,
            Err(error) => return Err(error),
        }
    }
}

fn ended(status: io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => format!("the new process ended ({status})"),
        Err(error) => format!("the new process ended: {error}"),
    }
}

fn unexpected(word: &Word) -> String {
    match word {
        Word::Failed { why } => format!("the new process does not start: {why}"),
        other => format!("the new process says {other:?}"),
    }
}
