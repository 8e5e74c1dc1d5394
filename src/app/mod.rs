//! The application: builds both planes, joins them, owns the order of start and stop, and the signals.
//!
//! [`App`] is a whole proxy as a value: tests run several of them in one process, so nothing here is global and no
//! signal handler is inside. [`command`] is what the command line asks for: `run` is one `App` and the signals of the
//! process.

pub mod command;
mod confine;
mod control;
mod foreign;
mod plane;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::watch as cell;

use crate::controlplane::admin::Control;
use crate::controlplane::process::inherit::Inheritance;
use crate::controlplane::process::upgrade::Launch;
use crate::controlplane::reload::board::{Board, Figures};
use crate::controlplane::reload::load::Environment;
use crate::controlplane::reload::outcome::Outcome;
use crate::controlplane::reload::watch::Pace;
use crate::controlplane::reload::{Demands, Ending};
use crate::controlplane::status::{Upgrade, Upgrades};

pub use crate::controlplane::reload::StartError;

/// How long a caller waits for a reload that it asked for.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(60);

/// What an [`App`] is started with.
#[derive(Debug)]
pub struct Options {
    /// The config file.
    pub config: PathBuf,
    /// Environment variables that the config may name.
    pub environment: Environment,
    /// How patiently files are watched.
    pub pace: Pace,
    /// Where the control socket is, whatever the config says.
    pub socket: Option<PathBuf>,
    /// Where it is if the config does not say; `None` is nowhere.
    pub default_socket: Option<PathBuf>,
    /// Where the process comes from.
    pub origin: Origin,
}

/// Where a process comes from, and who has to know of it. An app that is not alone in its process leaves it empty.
#[derive(Debug, Default)]
pub struct Origin {
    /// What was left to it.
    pub inheritance: Inheritance,
    /// How it was started, and so how the next one is.
    pub launch: Option<Launch>,
    /// Whether systemd wants to be told.
    pub has_systemd: bool,
    /// The interval at which systemd wants a sign of life.
    pub watchdog: Option<Duration>,
    /// The file that has its number.
    pub pid_file: Option<PathBuf>,
    /// The folders that it may write to; `None` if it may wherever its user may.
    pub writable: Option<Vec<PathBuf>>,
}

impl Options {
    /// A config file, an empty environment, the usual pace, no control socket but that of the config.
    pub fn new(config: impl Into<PathBuf>) -> Self {
        Self {
            config: config.into(),
            environment: Environment::new(|_| None),
            pace: Pace::default(),
            socket: None,
            default_socket: None,
            origin: Origin::default(),
        }
    }
}

/// A running proxy. Dropping it ends it at once.
#[derive(Debug)]
pub struct App {
    demands: cell::Sender<Demands>,
    board: Arc<Board>,
    upgrades: cell::Receiver<Upgrades>,
    ended: cell::Receiver<()>,
    control: Option<JoinHandle<()>>,
}

impl App {
    /// Starts both planes; the listeners accept when this returns.
    ///
    /// # Errors
    /// Everything that is wrong with the config, or what the system refused. Nothing runs then.
    pub fn start(options: Options) -> Result<Self, StartError> {
        let (demands, _) = cell::channel(Demands::default());
        let (upgraded, upgrades) = cell::channel(Upgrades::default());
        let (ender, ended) = cell::channel(());
        let (starter, started) = sync_channel(1);
        let board = Arc::new(Board::default());
        let control = Control {
            demands: demands.clone(),
            board: Arc::clone(&board),
            upgrades: upgrades.clone(),
            config: options.config.clone(),
        };
        let shown = Arc::clone(&board);
        let control = thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || {
                plane::run(options, control, upgraded, &starter);
                shown.end();
                drop(ender);
            })
            .map_err(StartError::System)?;
        match started.recv() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                // It has said why it ends; there is nothing else to learn from it.
                let _ = control.join();
                return Err(error);
            }
            Err(_) => {
                return Err(StartError::System(io::Error::other(
                    "the control plane panicked",
                )));
            }
        }
        Ok(Self {
            demands,
            board,
            upgrades,
            ended,
            control: Some(control),
        })
    }

    /// The address that a listener is bound to, its port chosen by the system where the config says 0.
    pub fn address(&self, listener: &str) -> Option<SocketAddr> {
        self.board.address(listener)
    }

    /// The version in force.
    pub fn version(&self) -> u64 {
        self.board.latest().map_or(0, |outcome| outcome.version)
    }

    /// What the reload loop has come to so far, in numbers.
    pub fn figures(&self) -> Figures {
        self.board.figures()
    }

    /// The last outcomes of the reload loop, the oldest first; the first of all is the start.
    pub fn outcomes(&self) -> Vec<Arc<Outcome>> {
        self.board.outcomes()
    }

    /// Waits for the first outcome after number `after` that `wanted` likes; `None` when time is up.
    pub fn wait(
        &self,
        after: u64,
        within: Duration,
        wanted: impl Fn(&Outcome) -> bool,
    ) -> Option<Arc<Outcome>> {
        self.board.wait(after, within, wanted)
    }

    /// Reloads and waits for the outcome; `None` if there is none within a minute, or the app is ending.
    pub fn reload(&self) -> Option<Arc<Outcome>> {
        let mut demand = 0;
        self.demands.send_modify(|demands| {
            demands.reloads += 1;
            demand = demands.reloads;
        });
        self.board.wait_served(demand, RELOAD_TIMEOUT)
    }

    /// Asks for a reload and does not wait.
    pub fn hang_up(&self) {
        self.demands.send_modify(|demands| demands.reloads += 1);
    }

    /// Has the access log's file opened anew.
    pub fn reopen_log(&self) {
        self.demands.send_modify(|demands| demands.reopens += 1);
    }

    /// Asks for another process to go on in place of this one, and does not wait.
    pub fn upgrade(&self) {
        self.demands.send_modify(|demands| demands.upgrades += 1);
    }

    /// Whether another process serves in place of this one.
    pub fn has_handed_over(&self) -> bool {
        let upgrades = self.upgrades.borrow();
        matches!(upgrades.last, Some(Upgrade::HandedOver { .. }))
    }

    /// Begins the drain and does not wait.
    pub fn drain(&self) {
        self.end(Ending::Drain);
    }

    /// Ends everything now, and does not wait.
    pub fn close(&self) {
        self.end(Ending::Close);
    }

    /// Completes when the app has ended.
    pub fn ended(&self) -> impl Future<Output = ()> + use<> {
        let mut ended = self.ended.clone();
        // Nothing is ever sent: the error that the other side is gone is the news.
        async move { drop(ended.changed().await) }
    }

    /// Drains and waits until everything has ended.
    pub fn stop(mut self) {
        self.drain();
        self.join();
    }

    fn end(&self, ending: Ending) {
        self.demands
            .send_modify(|demands| demands.ending = demands.ending.max(ending));
    }

    fn join(&mut self) {
        if let Some(control) = self.control.take()
            && control.join().is_err()
        {
            tracing::error!("the control plane panicked");
        }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.close();
        self.join();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::TcpStream;

    use super::*;
    use crate::controlplane::reload::outcome::{Cause, Verdict};

    const PATIENCE: Duration = Duration::from_secs(20);

    const CONFIG: &str = "
listeners:
  - { name: web, address: 127.0.0.1:0 }
routes:
  - respond: { status: 200, body: one }
access_log: off
workers: 2
";

    fn start(config: &str) -> (tempfile::TempDir, Result<App, StartError>) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("proxy.yaml");
        fs::write(&file, config).unwrap();
        // Far from its own ideas: what reloads is asked for.
        let poll = Duration::from_secs(3600);
        let pace = Pace {
            settle: poll,
            poll,
            ..Pace::default()
        };
        (
            folder,
            App::start(Options {
                pace,
                ..Options::new(file)
            }),
        )
    }

    #[test]
    fn several_apps_live_in_one_process() {
        let apps = [start(CONFIG), start(CONFIG)];
        let addresses = apps
            .each_ref()
            .map(|(_, app)| app.as_ref().unwrap().address("web"));
        assert_ne!(addresses[0], addresses[1]);
        for address in addresses {
            TcpStream::connect(address.unwrap()).unwrap();
        }
    }

    #[test]
    fn a_reload_is_asked_for_and_its_outcome_told() {
        let (folder, app) = start(CONFIG);
        let app = app.unwrap();
        assert_eq!((app.version(), app.outcomes().len()), (1, 1));
        let file = folder.path().join("proxy.yaml");

        let outcome = app.reload().unwrap();
        assert_eq!((outcome.cause, outcome.number), (Cause::Asked, 2));
        assert_eq!(outcome.verdict, Verdict::Unchanged);

        fs::write(&file, CONFIG.replace("one", "two")).unwrap();
        let outcome = app.reload().unwrap();
        assert_eq!((outcome.is_good(), outcome.version), (true, 2));

        fs::write(&file, "nonsense").unwrap();
        let outcome = app.reload().unwrap();
        assert_eq!((outcome.is_good(), outcome.version), (false, 2));
        assert_eq!(app.version(), 2);

        let address = app.address("web").unwrap();
        fs::write(&file, CONFIG.replace("web", "other")).unwrap();
        app.hang_up();
        let outcome = app
            .wait(outcome.number, PATIENCE, Outcome::is_good)
            .unwrap();
        assert_eq!(outcome.version, 3);
        assert_eq!(app.address("web"), None);
        assert_ne!(app.address("other"), Some(address));
    }

    #[test]
    fn an_app_that_stopped_or_was_dropped_listens_no_more() {
        for ends in [App::stop, drop] {
            let (_folder, app) = start(CONFIG);
            let app = app.unwrap();
            let address = app.address("web").unwrap();
            TcpStream::connect(address).unwrap();
            ends(app);
            assert!(TcpStream::connect(address).is_err());
        }
    }

    #[test]
    fn a_config_that_is_wrong_starts_nothing() {
        let (_folder, app) = start("listeners: 5");
        let Err(StartError::Config(errors)) = app else {
            panic!("{app:?}")
        };
        assert_eq!(errors.len(), 1);
    }
}
