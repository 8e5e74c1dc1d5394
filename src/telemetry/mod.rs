//! Ground floor: what we say about ourselves. The process log goes to standard error, for the person who runs
//! Lockgate; the access log goes where the config says, for whoever asks what happened to a request.
//!
//! `app` starts the process log and owns the [`sink::Sink`]; each worker owns a [`worker_log::WorkerLog`]; an
//! exchange fills in a [`access_log::Record`], which writes itself when it is dropped. The two logs never share
//! a stream of text, so that neither can be mistaken for the other.
//!
//! What is not here: `Authorization`, `Cookie`, bodies and user information of a URL have no field, and secrets
//! in a query are masked in one place, `mask`.

pub mod access_log;
mod escape;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod line;
mod mask;
pub mod request_id;
pub mod sink;
mod stamp;
pub mod worker_log;
mod writer;

use std::fmt;
use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::util::SubscriberInitExt;

pub use access_log::{Protocol, Record};
pub use request_id::{RequestId, RequestIds};
pub use sink::{Destination, Format, Settings, Sink};
pub use stamp::Stamp;
pub use worker_log::WorkerLog;

/// Why the process log could not be started.
#[derive(Debug)]
pub enum LogError {
    /// The filter is not one: `info`, or `info,lockgate::telemetry=debug`.
    Filter(ParseError),
    /// The process has a log already.
    AlreadyStarted,
}

impl fmt::Display for LogError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Filter(cause) => write!(out, "the log filter is not valid: {cause}"),
            Self::AlreadyStarted => out.write_str("the log is already started"),
        }
    }
}

impl std::error::Error for LogError {}

/// What is said of each datagram that is not what it should be: anybody can send some, and what it leads to is told by us.
const QUIET: &str = "hickory_net=error,hickory_resolver=error";

/// Starts the process log on standard error, with colours only on a terminal.
///
/// `filter` is a level, or levels by module, separated by commas.
///
/// # Errors
/// The filter does not parse, or the process has a log already; nothing has changed then.
pub fn start_log(filter: &str) -> Result<(), LogError> {
    let filter = EnvFilter::try_new(format!("{QUIET},{filter}")).map_err(LogError::Filter)?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .finish()
        .try_init()
        .map_err(|_| LogError::AlreadyStarted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_does_not_parse_is_told() {
        let outcome = start_log("info,lockgate=loud");
        assert!(matches!(outcome, Err(LogError::Filter(_))), "{outcome:?}");
    }
}
