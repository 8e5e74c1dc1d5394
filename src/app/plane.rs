//! The control plane put together: its thread from the first to the last moment, and the order of things on it.
//!
//! Everything that may fail comes before the listeners accept; whoever waits for this process to go on in its place is told
//! only then. At the end the control socket goes last, so that whoever asked for the end can see it.

use std::io;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use tokio::runtime::{self, LocalOptions, LocalRuntime};
use tokio::sync::{mpsc, watch as cell};
use tokio::task::JoinSet;

use super::{Options, Origin, StartError};
use crate::config::Admin as AdminKey;
use crate::controlplane::admin::socket::{AdminSocket, LeftSocket, make_folder};
use crate::controlplane::admin::{Admin, Control};
use crate::controlplane::discovery::dns;
use crate::controlplane::prober;
use crate::controlplane::process::inherit::{Inheritance, Predecessor};
use crate::controlplane::process::pid_file::PidFile;
use crate::controlplane::process::systemd::{Systemd, Teller};
use crate::controlplane::process::upgrade::Upgrader;
use crate::controlplane::reload::{Reload, Setup, Staged, Turns, watch};
use crate::controlplane::status::Upgrades;

/// Events that wait for the loop, at most; who has more waits.
const EVENTS_LIMIT: usize = 16;

/// Takes the one message that whoever starts an app waits for.
type Starter = SyncSender<Result<(), StartError>>;

/// The control thread.
pub(super) fn run(
    options: Options,
    control: Control,
    upgraded: cell::Sender<Upgrades>,
    starter: &Starter,
) {
    let runtime = match control_runtime() {
        Ok(runtime) => runtime,
        Err(error) => return tell(starter, Err(StartError::System(error))),
    };
    runtime.block_on(live(options, control, upgraded, starter));
}

async fn live(
    options: Options,
    control: Control,
    upgraded: cell::Sender<Upgrades>,
    starter: &Starter,
) {
    let Options {
        config,
        environment,
        pace,
        socket,
        default_socket,
        origin,
    } = options;
    let Origin {
        inheritance,
        launch,
        has_systemd,
        watchdog,
        pid_file,
        writable,
    } = origin;
    let Inheritance {
        estate,
        control: left,
        mut predecessor,
        writable: _,
    } = inheritance;
    let (events, told) = mpsc::channel(EVENTS_LIMIT);
    let (wanted, asked) = mpsc::channel(1);
    let (turns, turned) = cell::channel(Turns::default());
    // Ends its tasks when it is dropped, at the end of this function.
    let mut tasks = JoinSet::new();
    tasks.spawn_local(dns::run(asked, events.clone()));
    let setup = Setup {
        config,
        environment,
        settle: pace.settle,
        wanted,
        board: Arc::clone(&control.board),
        turns,
        estate,
        writable: writable.clone(),
    };
    let place = Place {
        asked: socket,
        default: default_socket,
    };
    let staged = stage(setup, place, left, &control, predecessor.as_mut()).await;
    let (staged, admin) = match staged {
        Ok(staged) => staged,
        Err(error) => {
            if let Some(predecessor) = predecessor {
                predecessor.fail(&error.to_string());
            }
            return tell(starter, Err(error));
        }
    };
    tasks.spawn_local(prober::run(staged.source()));
    let (reload, watched) = staged.begin();
    let pid_file = pid_file.and_then(|path| {
        PidFile::write(&path)
            .inspect_err(|error| tracing::error!(path = %path.display(), %error, "no pid file"))
            .ok()
    });
    if let Some(predecessor) = predecessor {
        predecessor.serving();
    }
    if let Some(admin) = &admin {
        admin.open();
    }
    let systemd = Systemd::new(has_systemd);
    systemd.ready(&control.board);
    let demands = control.demands.subscribe();
    let teller = Teller {
        systemd: Rc::clone(&systemd),
        demands: demands.clone(),
        turns: turned,
        board: Arc::clone(&control.board),
        events: events.clone(),
        watchdog,
    };
    let spare = admin
        .as_ref()
        .and_then(|admin| admin.socket().duplicate().ok());
    let upgrader = Upgrader {
        launch,
        demands: demands.clone(),
        events: events.clone(),
        upgrades: upgraded,
        control: spare.map(|left| (left.listener, left.is_ours)),
        writable,
        systemd,
    };
    tasks.spawn_local(teller.run());
    tasks.spawn_local(upgrader.run());
    tasks.spawn_local(watch::run(watched, events, pace));
    tell(starter, Ok(()));
    reload.run(told, demands).await;
    drop(tasks);
    drop(pid_file);
    if let Some(admin) = admin {
        admin.stop();
    }
}

/// Everything that may fail; at its end nothing accepts yet, and a process that waits for this one has said go.
async fn stage(
    setup: Setup,
    place: Place,
    left: Vec<(UnixListener, bool)>,
    control: &Control,
    predecessor: Option<&mut Predecessor>,
) -> Result<(Staged, Option<Admin>), StartError> {
    let staged = Reload::prepare(setup).await?;
    let left = left
        .into_iter()
        .map(|(listener, is_ours)| LeftSocket { listener, is_ours });
    let socket = place.open(&staged, left.collect())?;
    if let Some(predecessor) = predecessor {
        predecessor.ready().map_err(|error| {
            let told = format!("the process before does not hand over: {error}");
            StartError::System(io::Error::other(told))
        })?;
    }
    // Before the listeners accept: it needs descriptors, which clients may use up.
    let admin = socket.map(|socket| Admin::start(socket, control.clone(), staged.source()));
    let admin = admin.transpose().map_err(StartError::System)?;
    Ok((staged, admin))
}

fn tell(starter: &Starter, started: Result<(), StartError>) {
    // The caller waits for this one message; if it is gone, so is the sense of telling.
    let _ = starter.send(started);
}

/// Where the control socket may be.
struct Place {
    /// Where the command line wants it.
    asked: Option<PathBuf>,
    /// Where it is if nobody says.
    default: Option<PathBuf>,
}

impl Place {
    /// Opens it. Where nobody has asked for one, none is an answer too.
    fn open(
        self,
        staged: &Staged,
        left: Vec<LeftSocket>,
    ) -> Result<Option<AdminSocket>, StartError> {
        if let Some(path) = self.asked {
            let socket = AdminSocket::open(&path, left).map_err(|error| {
                let told = format!(
                    "the control socket {} cannot be opened: {error}; {}",
                    path.display(),
                    error.help()
                );
                StartError::System(io::Error::other(told))
            });
            return socket.map(Some);
        }
        match &staged.config().admin {
            AdminKey::Off => Ok(None),
            AdminKey::At(path) => {
                let socket = AdminSocket::open(path, left).map_err(|error| {
                    let message = format!("the control socket cannot be opened: {error}");
                    staged.error_at("admin.address", &message, Some(error.help()))
                });
                socket.map(Some)
            }
            AdminKey::Unwritten => {
                let Some(path) = self.default else {
                    return Ok(None);
                };
                let socket = make_folder(&path)
                    .map_err(Into::into)
                    .and_then(|()| AdminSocket::open(&path, left));
                let socket = socket.inspect_err(|error| {
                    let help = error.help();
                    tracing::warn!(path = %path.display(), %error, help, "no control socket");
                });
                Ok(socket.ok())
            }
        }
    }
}

fn control_runtime() -> io::Result<LocalRuntime> {
    runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
}
