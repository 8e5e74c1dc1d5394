//! Everything that may fail before a config is in force: compile, bind, open the access log.
//!
//! What is prepared and dropped leaves no trace but, at worst, an empty access log.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Answers;
use super::estate::Estate;
use super::in_force::InForce;
use super::listeners::{BindError, Bound, Prepared};
use super::load::{self, Environment, Known, Loaded};
use super::sites;
use crate::base::clock;
use crate::base::secret::Secret;
use crate::config::error::{ConfigError, Source};
use crate::config::{AccessLogFormat, AccessLogPath, Config};
use crate::controlplane::compile::{Compiler, Outside};
use crate::dataplane::snapshot::Snapshot;
use crate::telemetry::{Destination, Format, Settings, Sink};

/// A config that is ready to be put in force.
pub(super) struct Next {
    pub(super) in_force: InForce,
    pub(super) answers: Answers,
    pub(super) snapshot: Snapshot,
    pub(super) listeners: Prepared,
}

/// Compiles and binds: all that may fail. What fits of `estate` is taken out of it.
pub(super) fn prepare(
    loaded: Loaded,
    answers: Answers,
    before: Option<(&InForce, &Snapshot)>,
    bound: &Bound,
    workers: usize,
    estate: &mut Estate,
    writable: Option<&[PathBuf]>,
) -> Result<Next, Vec<ConfigError>> {
    let left = estate.sessions.as_ref();
    let (in_force, snapshot) = compile(loaded, &answers, before, left)?;
    let (config, source) = (in_force.config(), &in_force.main.source);
    let places = config
        .listeners
        .iter()
        .map(|l| (l.name.clone(), l.address))
        .collect();
    let listeners = bound.prepare(places, workers, &mut estate.sockets);
    let listeners = listeners.map_err(|errors| {
        let told = errors.into_iter().map(|error| bind_error(error, source));
        told.collect::<Vec<_>>()
    })?;
    // Last, since it makes a file where none was.
    let current = before.map(|(_, current)| current);
    let access_log = access_log(config, current, estate).map_err(|error| {
        let message = format!("the access log cannot be opened: {error}");
        let help = help_to_write(&error, writable);
        vec![source.error_at("access_log.path", &message, help.as_deref())]
    })?;
    adopt_tickets(&snapshot, estate);
    let snapshot = Snapshot {
        access_log,
        ..snapshot
    };
    Ok(Next {
        in_force,
        answers,
        snapshot,
        listeners,
    })
}

/// Does what a start does, short of asking for names and opening sockets.
///
/// # Errors
/// Everything for which nothing would be started. What is wrong with sites that a start would leave out stands with
/// them.
pub fn rehearse(
    config: &Path,
    environment: &Environment,
) -> Result<(InForce, Snapshot), Vec<ConfigError>> {
    let loaded = load::load(config, environment, &Known::default()).result?;
    compile(loaded, &Answers::new(), None, None)
}

/// Compiles, beside what is in force.
pub(super) fn compile(
    loaded: Loaded,
    answers: &Answers,
    before: Option<(&InForce, &Snapshot)>,
    sessions: Option<&Secret>,
) -> Result<(InForce, Snapshot), Vec<ConfigError>> {
    let outside = Outside {
        answers,
        now: clock::wall(),
        sessions,
    };
    let previous = before.map(|(in_force, snapshot)| in_force.previous(snapshot));
    let compiler = Compiler::new(outside, previous.as_ref());
    let Loaded { main, files, sites } = loaded;
    let (config, source) = (&main.config, &main.source);
    let compiled = compiler.main(config, source, &files);
    let standing = before.map_or(&[][..], |(in_force, _)| &in_force.sites);
    let chosen = sites::choose(&sites, &main, standing, &compiler);
    let (sites, parts): (Vec<_>, Vec<_>) = chosen.into_iter().unzip();
    // Whoever is refused is told all that is wrong.
    let wrong = sites.iter().flat_map(|site| site.errors.iter().cloned());
    let compiled =
        compiled.map_err(|errors| errors.into_iter().chain(wrong.clone()).collect::<Vec<_>>())?;
    let wrong: Vec<_> = wrong.collect();
    if config.strict && !wrong.is_empty() {
        return Err(wrong);
    }
    let snapshot = compiler.snapshot(config, compiled, parts);
    Ok((InForce { main, files, sites }, snapshot))
}

fn bind_error(error: BindError, source: &Source) -> ConfigError {
    let path = format!("listeners[{}].address", error.index);
    let (name, address) = &error.place;
    let message = format!(
        "listener `{name}` cannot listen on {address}: {}",
        error.error
    );
    let help = error.rival.map(|rival| {
        format!("listener `{rival}` of the version in force has the port: restart to move it")
    });
    source.error_at(&path, &message, help.as_deref())
}

/// Goes on with the keys of tickets that the process before has sealed.
fn adopt_tickets(snapshot: &Snapshot, estate: &mut Estate) {
    for (name, secrets) in estate.tickets.drain(..) {
        let plan = snapshot.listener(&name);
        if let Some(tls) = plan.and_then(|plan| plan.tls.as_ref())
            && !tls.adopt_tickets(&secrets)
        {
            tracing::info!(listener = %name, "sessions are not resumed: client certificates are asked for differently");
        }
    }
}

/// The access log of `config`: the one in force if nothing about it changed, else another.
fn access_log(
    config: &Config,
    current: Option<&Snapshot>,
    estate: &mut Estate,
) -> io::Result<Option<Arc<Sink>>> {
    let Some(wanted) = &config.access_log else {
        return Ok(None);
    };
    let settings = Settings {
        format: match wanted.format {
            AccessLogFormat::Json => Format::Json,
            AccessLogFormat::Combined => Format::Combined,
        },
        destination: match &wanted.path {
            AccessLogPath::Stdout => Destination::Stdout,
            AccessLogPath::File(path) => Destination::File(path.clone()),
        },
    };
    let current = current.and_then(|current| current.access_log.as_ref());
    if let Some(current) = current
        && *current.settings() == settings
    {
        return Ok(Some(Arc::clone(current)));
    }
    let opened = match (&settings.destination, estate.access_log.take()) {
        (Destination::File(path), Some((left, file))) if *path == left => {
            Sink::take_over(settings, file)
        }
        (Destination::Stdout | Destination::File(_), _) => Sink::open(settings),
    };
    opened.map(Some)
}

/// What to do about a file that cannot be written: the sandbox of this process may be why, or the rights of its user.
fn help_to_write(error: &io::Error, writable: Option<&[PathBuf]>) -> Option<String> {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return None;
    }
    let rights = "make it and its folder writable for the user that Lockgate runs as";
    Some(match writable {
        None => rights.to_owned(),
        Some(folders) => {
            let folders = folders.iter().map(|folder| folder.display().to_string());
            let folders = folders.collect::<Vec<_>>().join(", ");
            format!(
                "{rights}; the sandbox of this process writes beneath {folders} only: for another, add it to `sandbox.write` \
                 and restart"
            )
        }
    })
}
