//! The one loop: event → load → parse → check → compile → bind new listeners → swap → drain old ones → outcome.
//!
//! It owns the writer half of the snapshot and the workers, and nothing else changes either (invariant I3). A
//! config that fails at any step before the swap leaves everything as it was (I2). Whoever wants something of the
//! loop sends an [`Event`] or counts up a [`Demands`]; whoever wants to know reads the [`Board`].

pub mod board;
mod ending;
pub mod estate;
pub mod files;
pub mod in_force;
mod listeners;
pub mod load;
pub mod outcome;
mod prepare;
mod report;
pub mod sites;
pub mod watch;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch as cell};
use tokio::time;

use crate::base::clock;
use crate::config::Config;
use crate::config::error::ConfigError;
use crate::controlplane::compile::Outside;
use crate::dataplane::snapshot::{self, Source, Writer};
use crate::dataplane::worker::{Pulse, Workers};

use self::board::Board;
use self::ending::Departure;
use self::estate::Estate;
use self::in_force::InForce;
use self::listeners::{Bound, Prepared};
use self::load::{Environment, Known};
use self::outcome::{Ailing, Cause, Changes, Outcome, Verdict};
use self::prepare::{Next, prepare};
use self::watch::Watched;

pub use self::prepare::rehearse;
pub use crate::controlplane::compile::answers::{Answer, Answers, Question, Record};

/// How long the loop waits for discovery at most; usually that answers within its own, shorter time.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(8);

/// How often the loop looks whether old snapshots can be freed, while there are any.
const SWEEP: Duration = Duration::from_secs(1);

/// What the loop is told.
#[derive(Debug)]
pub enum Event {
    /// The config file, or a file that it names, is not what was loaded.
    FilesChanged,
    /// Somebody wants a reload: SIGHUP, or a caller in the process.
    Hangup,
    /// DNS says something else now; these are the answers to all questions.
    Resolved(Answers),
    /// The access log's file was moved away.
    Reopen,
    /// Another process is to go on from here: what it needs is wanted. Until the next of the two below nothing is reloaded,
    /// so that both have the same listeners.
    Estate(oneshot::Sender<io::Result<Estate>>),
    /// It came to nothing.
    Kept,
    /// The other process serves: drain, in no hurry, and return.
    HandedOver,
    /// A sign of life of every worker is wanted.
    Pulse(oneshot::Sender<Pulse>),
    /// The end: drain and return.
    Stop,
}

/// A request to discovery: from now on these questions matter.
#[derive(Debug)]
pub struct Wanted {
    /// The questions.
    pub questions: BTreeSet<Question>,
    /// The servers to ask; none: those of the system.
    pub resolvers: Vec<SocketAddr>,
    /// Takes what is known after a moment.
    pub reply: oneshot::Sender<Answers>,
}

/// What the process wants of the loop, counted: a state and not a queue, so that it is never full.
#[derive(Clone, Copy, Debug, Default)]
pub struct Demands {
    /// Reloads asked for so far.
    pub reloads: u64,
    /// Reopenings of the access log asked for so far.
    pub reopens: u64,
    /// Upgrades of the binary asked for so far; `process` serves them.
    pub upgrades: u64,
    /// Whether to go on.
    pub ending: Ending,
}

/// Whether to go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    /// Go on.
    #[default]
    NotYet,
    /// Finish what runs, within the drain timeout.
    Drain,
    /// End now.
    Close,
}

/// Reloads so far, for whoever wants to see them begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turns {
    /// Those that have begun.
    pub begun: u64,
    /// Those that have ended.
    pub ended: u64,
}

/// What the loop needs of its surroundings.
#[derive(Debug)]
pub struct Setup {
    /// The config file.
    pub config: PathBuf,
    /// Environment variables.
    pub environment: Environment,
    /// How long to wait before a config that fails is looked at once more: it may be half-written.
    pub settle: Duration,
    /// Where names are asked for.
    pub wanted: mpsc::Sender<Wanted>,
    /// Where outcomes are shown.
    pub board: Arc<Board>,
    /// Where reloads are counted.
    pub turns: cell::Sender<Turns>,
    /// What was left to this process.
    pub estate: Estate,
    /// The folders that this process may write to; `None` if it may wherever its user may.
    pub writable: Option<Vec<PathBuf>>,
}

/// Why nothing could be started.
#[derive(Debug)]
pub enum StartError {
    /// The config is wrong, or cannot be put in force.
    Config(Vec<ConfigError>),
    /// The system gives no thread or runtime.
    System(io::Error),
}

impl fmt::Display for StartError {
    /// One line: the first of the errors stands for all.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(errors) => match errors.as_slice() {
                [] => out.write_str("the config is wrong"),
                [error] => error.fmt(out),
                [error, others @ ..] => write!(out, "{error} (and {} more)", others.len()),
            },
            Self::System(error) => error.fmt(out),
        }
    }
}

/// The loop and what it owns.
#[derive(Debug)]
pub struct Reload {
    setup: Setup,
    writer: Writer,
    workers: Workers,
    worker_count: usize,
    bound: Bound,
    in_force: InForce,
    answers: Answers,
    watched: cell::Sender<Watched>,
    attempts: u64,
    seen: Demands,
    /// Sites that were told of: what stays wrong with them is not told again.
    told: Vec<Ailing>,
    /// Another process is about to go on from here.
    is_handing_over: bool,
    /// A file has changed meanwhile.
    has_changed: bool,
    /// It was told that a reload waits for that.
    has_told: bool,
}

/// What came of an attempt that failed nowhere.
enum Ready {
    /// There is nothing to do.
    Nothing,
    /// The same would be in force as is, whatever is wrong with some sites.
    Same(InForce),
    /// Something else would.
    Other(Box<Next>),
}

/// A config that is loaded, compiled and bound, before its listeners accept.
#[derive(Debug)]
pub struct Staged {
    reload: Reload,
    listeners: Prepared,
    watcher: cell::Receiver<Watched>,
    begun: Instant,
}

impl Staged {
    /// The config.
    pub fn config(&self) -> &Config {
        self.reload.in_force.config()
    }

    /// An error at a place in the config that shows outside of this room.
    pub fn error_at(&self, path: &str, message: &str, help: Option<&str>) -> StartError {
        let source = &self.reload.in_force.main.source;
        StartError::Config(vec![source.error_at(path, message, help)])
    }

    /// Where readers of the snapshot come from.
    pub fn source(&self) -> Source {
        self.reload.writer.source()
    }

    /// Puts it in force: the listeners accept. The second half says which files matter, to the watcher.
    pub fn begin(self) -> (Reload, cell::Receiver<Watched>) {
        let Self {
            mut reload,
            listeners,
            watcher,
            begun,
        } = self;
        reload
            .bound
            .commit(listeners, &reload.workers, Duration::ZERO);
        report::listeners(&[], &reload.bound.addresses());
        report::dangers(&reload.in_force);
        reload.show(Cause::Start, begun, Verdict::Changed(Box::default()));
        (reload, watcher)
    }
}

impl Reload {
    /// Loads the first config and does everything that may fail before it is in force.
    ///
    /// # Errors
    /// Everything that is wrong with the config, or what the system refused.
    pub async fn prepare(mut setup: Setup) -> Result<Staged, StartError> {
        let begun = clock::now();
        let attempt = load::load(&setup.config, &setup.environment, &Known::default());
        let loaded = attempt.result.map_err(StartError::Config)?;
        let worker_count = worker_count(&loaded.main.config);
        let (questions, none) = (loaded.questions(), Answers::new());
        let resolvers = &loaded.main.config.resolvers;
        let answers = resolve(&setup.wanted, questions, resolvers, &none).await;
        let mut estate = std::mem::take(&mut setup.estate);
        let next = prepare(
            loaded,
            answers,
            None,
            &Bound::default(),
            worker_count,
            &mut estate,
            setup.writable.as_deref(),
        );
        let next = next.map_err(StartError::Config)?;
        report::unclaimed(&estate);
        let (writer, source) = snapshot::cell(next.snapshot);
        let workers = Workers::start(worker_count, &source).map_err(StartError::System)?;
        let (watched, watcher) = cell::channel(attempt.watched);
        let config = setup.config.display().to_string();
        report::announce(&config, worker_count, &writer.current());
        let reload = Self {
            setup,
            writer,
            workers,
            worker_count,
            bound: Bound::default(),
            in_force: next.in_force,
            answers: next.answers,
            watched,
            attempts: 0,
            seen: Demands::default(),
            told: Vec::new(),
            is_handing_over: false,
            has_changed: false,
            has_told: false,
        };
        Ok(Staged {
            reload,
            listeners: next.listeners,
            watcher,
            begun,
        })
    }

    /// Serves events until the end is demanded; returns when every worker has ended.
    pub async fn run(
        mut self,
        mut events: mpsc::Receiver<Event>,
        mut demands: cell::Receiver<Demands>,
    ) {
        loop {
            let is_held = self.writer.count() > 1;
            let event = tokio::select! {
                biased;
                event = self.demanded(&mut demands) => event,
                event = events.recv() => event.unwrap_or(Event::Stop),
                () = time::sleep(SWEEP), if is_held => {
                    self.sweep();
                    continue;
                }
            };
            match event {
                Event::FilesChanged if self.is_handing_over => {
                    self.has_changed = true;
                    self.tell_wait();
                }
                Event::FilesChanged => self.reload(Cause::FilesChanged, &mut demands).await,
                Event::Hangup => self.reload(Cause::Asked, &mut demands).await,
                Event::Resolved(answers) => self.take_answers(answers),
                Event::Reopen => self.reopen(),
                Event::Estate(answer) => {
                    self.is_handing_over = true;
                    // Whoever asked may have given up; it says so by the next event.
                    let _ = answer.send(self.estate());
                }
                Event::Kept => {
                    self.is_handing_over = false;
                    self.has_told = false;
                    if std::mem::take(&mut self.has_changed) {
                        self.reload(Cause::FilesChanged, &mut demands).await;
                    }
                }
                Event::Pulse(answer) => {
                    // Whoever asked may have lost patience.
                    let _ = answer.send(self.workers.pulse());
                }
                Event::HandedOver => return self.stop(demands, Departure::HandedOver).await,
                Event::Stop => return self.stop(demands, Departure::Asked).await,
            }
        }
    }

    fn tell_wait(&mut self) {
        if !std::mem::replace(&mut self.has_told, true) {
            tracing::info!("a reload waits for the end of the upgrade");
        }
    }

    /// The next event that the process demands. Dropping the future loses nothing.
    async fn demanded(&mut self, demands: &mut cell::Receiver<Demands>) -> Event {
        loop {
            let now = *demands.borrow_and_update();
            if now.ending > Ending::NotYet {
                return Event::Stop;
            }
            match now.reloads > self.seen.reloads {
                true if self.is_handing_over => self.tell_wait(),
                true => {
                    self.seen.reloads = now.reloads;
                    return Event::Hangup;
                }
                false => {}
            }
            if now.reopens > self.seen.reopens {
                self.seen.reopens = now.reopens;
                return Event::Reopen;
            }
            if demands.changed().await.is_err() {
                return Event::Stop;
            }
        }
    }

    async fn reload(&mut self, cause: Cause, demands: &mut cell::Receiver<Demands>) {
        let begun = clock::now();
        self.setup.turns.send_modify(|turns| turns.begun += 1);
        // Whoever watches says so first: what follows may take its time on this thread.
        tokio::task::yield_now().await;
        let mut attempt = self.attempt().await;
        if cause == Cause::FilesChanged && self.is_doubtful(&attempt) {
            // An editor may be in the middle of saving. Whoever asks for something meanwhile is not kept waiting, and
            // gets it after this: demands are counted.
            drop(attempt);
            drop(time::timeout(self.setup.settle, demands.changed()).await);
            attempt = self.attempt().await;
        }
        let verdict = match attempt {
            Ok(Ready::Nothing) => Verdict::Unchanged,
            Ok(Ready::Same(in_force)) => {
                self.in_force = in_force;
                Verdict::Unchanged
            }
            Ok(Ready::Other(next)) => Verdict::Changed(Box::new(self.put_in_force(*next))),
            Err(errors) => {
                // Discovery goes back to the questions in force.
                let questions = self.in_force.questions();
                let resolvers = &self.in_force.config().resolvers;
                let wanted = &self.setup.wanted;
                let answers = resolve(wanted, questions, resolvers, &self.answers).await;
                self.take_answers(answers);
                Verdict::Rejected(errors.iter().map(ToString::to_string).collect())
            }
        };
        self.show(cause, begun, verdict);
        self.setup.turns.send_modify(|turns| turns.ended += 1);
    }

    /// Whether an attempt met what a file looks like that is just being written, or a folder.
    fn is_doubtful(&self, attempt: &Result<Ready, Vec<ConfigError>>) -> bool {
        let after = match attempt {
            Err(_) => return true,
            Ok(Ready::Nothing) => return false,
            Ok(Ready::Same(in_force)) => in_force,
            Ok(Ready::Other(next)) => &next.in_force,
        };
        let before = &self.in_force.sites;
        let is_worse = after.sites.iter().any(|site| {
            let known = before.iter().find(|known| known.path == site.path);
            !site.errors.is_empty() && known.is_none_or(|known| known.errors != site.errors)
        });
        let is_gone = |known: &sites::Standing| {
            let mut after = after.sites.iter();
            !after.any(|site| site.path == known.path)
        };
        is_worse || before.iter().any(is_gone)
    }

    /// Everything before the point of no return.
    async fn attempt(&mut self) -> Result<Ready, Vec<ConfigError>> {
        let known = self.in_force.known();
        let attempt = load::load(&self.setup.config, &self.setup.environment, &known);
        self.watched.send_replace(attempt.watched);
        let loaded = attempt.result?;
        if self.in_force.is_all_of(&loaded) {
            return Ok(Ready::Nothing);
        }
        // A site that is refused goes on with the names that it has.
        let mut questions = loaded.questions();
        questions.extend(self.in_force.questions());
        let resolvers = &loaded.main.config.resolvers;
        let answers = resolve(&self.setup.wanted, questions, resolvers, &self.answers).await;
        let current = self.writer.current();
        let before = Some((&self.in_force, &*current));
        let next = prepare(
            loaded,
            answers,
            before,
            &self.bound,
            self.worker_count,
            &mut Estate::default(),
            self.setup.writable.as_deref(),
        )?;
        Ok(match self.in_force.is_same(&next.in_force) {
            true => Ready::Same(next.in_force),
            false => Ready::Other(Box::new(next)),
        })
    }

    /// The point of no return: nothing here fails.
    fn put_in_force(&mut self, next: Next) -> Changes {
        let before = self.writer.current();
        self.writer.swap(next.snapshot);
        let after = self.writer.current();
        let bound_before = self.bound.addresses();
        self.bound
            .commit(next.listeners, &self.workers, after.timeouts.drain);
        report::listeners(&bound_before, &self.bound.addresses());
        let changes = Changes::between((&before, &self.in_force), (&after, &next.in_force));
        report::unchangeable(self.in_force.config(), next.in_force.config());
        report::dangers(&next.in_force);
        self.in_force = next.in_force;
        self.answers = next.answers;
        changes
    }

    fn take_answers(&mut self, answers: Answers) {
        let begun = clock::now();
        let answers = merge(self.in_force.questions(), &self.answers, answers);
        if answers == self.answers {
            return;
        }
        let before = self.writer.current();
        let outside = Outside {
            answers: &answers,
            now: clock::wall(),
            sessions: None,
        };
        let compiled = self.in_force.compile(outside, &before);
        self.answers = answers;
        let verdict = match compiled {
            Ok(next) => {
                self.writer.swap(next);
                let after = self.writer.current();
                let in_force = &self.in_force;
                let changes = Changes::between((&before, in_force), (&after, in_force));
                Verdict::Changed(Box::new(changes))
            }
            Err(errors) => Verdict::Rejected(errors.iter().map(ToString::to_string).collect()),
        };
        self.show(Cause::Resolved, begun, verdict);
    }

    /// Frees the snapshots that no exchange holds any more.
    fn sweep(&mut self) {
        self.writer.sweep();
        self.setup.board.note_snapshots(self.writer.count());
    }

    fn reopen(&self) {
        if let Some(log) = &self.writer.current().access_log {
            log.reopen();
        }
    }

    /// Tells the log and the board how an attempt ended.
    fn show(&mut self, cause: Cause, begun: Instant, verdict: Verdict) {
        self.attempts += 1;
        let outcome = Outcome {
            number: self.attempts,
            cause,
            version: self.writer.current().version,
            took: clock::now().saturating_duration_since(begun),
            ended: clock::wall(),
            verdict,
            sites: Ailing::of(&self.in_force.sites),
        };
        self.sweep();
        report::sites(&self.told, &outcome.sites);
        report::outcome(&outcome);
        self.told.clone_from(&outcome.sites);
        self.setup
            .board
            .show(outcome, self.seen.reloads, self.bound.addresses());
    }
}

fn worker_count(config: &Config) -> usize {
    let cores = || thread::available_parallelism().map_or(1, usize::from);
    config.workers.map_or_else(cores, usize::from)
}

/// Tells discovery which questions matter, and returns what is known of them after a moment. If it is too busy to
/// answer that is what was known before; the rest comes as an event then.
async fn resolve(
    wanted: &mpsc::Sender<Wanted>,
    questions: BTreeSet<Question>,
    resolvers: &[SocketAddr],
    known: &Answers,
) -> Answers {
    let (reply, answers) = oneshot::channel();
    let wish = Wanted {
        questions: questions.clone(),
        resolvers: resolvers.to_vec(),
        reply,
    };
    let ask = async {
        wanted.send(wish).await.ok()?;
        answers.await.ok()
    };
    let answers = time::timeout(RESOLVE_TIMEOUT, ask).await;
    merge(questions, known, answers.ok().flatten().unwrap_or_default())
}

/// The answers to `questions`: the new one to each, or the last that is known. An event may be older than the config,
/// and know less.
fn merge(questions: BTreeSet<Question>, known: &Answers, mut answers: Answers) -> Answers {
    let merged = questions.into_iter().filter_map(|question| {
        let answer = answers
            .remove(&question)
            .or_else(|| known.get(&question).cloned())?;
        Some((question, answer))
    });
    merged.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_older_than_the_config_takes_nothing_away() {
        let host = |name: &str| Question::Host(name.to_owned());
        let questions = ["old", "new"].map(host).into();
        let answers = |pairs: &[(&str, u8)]| -> Answers {
            let pairs = pairs.iter().map(|&(name, last)| {
                let addresses = vec![[10, 0, 0, last].into()];
                (host(name), Answer::Addresses(addresses))
            });
            pairs.collect()
        };
        let known = answers(&[("old", 1), ("new", 2), ("gone", 3)]);
        let merged = merge(questions, &known, answers(&[("old", 4), ("gone", 5)]));
        assert_eq!(merged, answers(&[("old", 4), ("new", 2)]));
    }
}
