//! Everything that may fail before a config is in force: compile, bind, open the access log.
//!
//! What is prepared and dropped leaves no trace but, at worst, an empty access log.

use std::sync::Arc;

use super::Answers;
use super::listeners::{Bound, Prepared};
use super::load::Loaded;
use crate::base::clock;
use crate::config::error::{ConfigError, Source};
use crate::config::{AccessLogFormat, AccessLogPath, Config};
use crate::controlplane::compile::{Compiler, Outside, Previous};
use crate::dataplane::snapshot::Snapshot;
use crate::telemetry::{Destination, Format, Settings, Sink};

/// A config that is ready to be put in force.
pub(super) struct Next {
    pub(super) loaded: Loaded,
    pub(super) answers: Answers,
    pub(super) snapshot: Snapshot,
    pub(super) listeners: Prepared,
}

/// Compiles and binds: all that may fail.
pub(super) fn prepare(
    loaded: Loaded,
    answers: Answers,
    previous: Option<&Previous<'_>>,
    bound: &Bound,
    workers: usize,
) -> Result<Next, Vec<ConfigError>> {
    let Loaded {
        source,
        config,
        files,
    } = &loaded;
    let outside = Outside {
        answers: &answers,
        now: clock::wall(),
    };
    let compiler = Compiler::new(outside, previous);
    let main = compiler.main(config, source, files)?;
    let snapshot = compiler.snapshot(config, main, Vec::new());
    let current = previous.map(|previous| previous.snapshot);
    let places = config
        .listeners
        .iter()
        .map(|l| (l.name.clone(), l.address))
        .collect();
    let listeners = bound.prepare(places, workers).map_err(|errors| {
        let errors = errors.into_iter().map(|error| {
            let path = format!("listeners[{}].address", error.index);
            let (name, address) = &error.place;
            let message = format!(
                "listener `{name}` cannot listen on {address}: {}",
                error.error
            );
            let help = error.rival.map(|rival| {
                format!(
                    "listener `{rival}` of the version in force has the port: restart to move it"
                )
            });
            source.error_at(&path, &message, help.as_deref())
        });
        errors.collect::<Vec<_>>()
    })?;
    // Last, since it makes a file where none was.
    let access_log = access_log(config, source, current)?;
    let snapshot = Snapshot {
        access_log,
        ..snapshot
    };
    Ok(Next {
        loaded,
        answers,
        snapshot,
        listeners,
    })
}

/// The access log of `config`: the one in force if nothing about it changed, else another.
fn access_log(
    config: &Config,
    source: &Source,
    current: Option<&Snapshot>,
) -> Result<Option<Arc<Sink>>, Vec<ConfigError>> {
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
    Sink::open(settings).map(Some).map_err(|error| {
        let message = format!("the access log cannot be opened: {error}");
        vec![source.error_at("access_log.path", &message, None)]
    })
}
