//! File changes, settled and deduplicated.
//!
//! Events of the system are hints and nothing more: they may be missing (network file systems, containers), come
//! in swarms (editors), or name something else than what changed (Kubernetes swaps a link called `..data`). So the
//! watcher listens to files, and to directories where it has to, waits until it is quiet, reads every file that matters
//! and compares digests with what the loop has loaded. It does the same now and then without a hint. What it tells the
//! loop is true: these bytes are not the ones you have seen, and they have been the same for a moment.

mod places;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{self, Instant};

use self::places::Places;
use crate::config::include::Pattern;
use crate::controlplane::reload::Event;
use crate::controlplane::reload::files::{self, Fingerprint};

/// Settle times for which files that keep changing may put off a look.
const RESTLESS_LIMIT: u32 = 10;

/// How long nothing may have changed before files are read, and how often they are looked at without any hint.
const QUIET: Duration = Duration::from_millis(200);
const POLL_EVERY: Duration = Duration::from_secs(5);

/// The files that matter, and their state as the loop has seen it.
#[derive(Clone, Debug)]
pub struct Watched {
    /// The config file and everything it names.
    pub paths: BTreeSet<PathBuf>,
    /// What means more files, which may come and go.
    pub patterns: Vec<Pattern>,
    /// What they held when the loop read them.
    pub fingerprint: Fingerprint,
}

/// How patient the watcher is.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Quiet time after a hint, so that a file is not read half-written.
    pub settle: Duration,
    /// The time between looks without a hint.
    pub poll: Duration,
    /// Whether to ask the system for hints; without them every change is found by a look.
    pub hints: bool,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            settle: QUIET,
            poll: POLL_EVERY,
            hints: true,
        }
    }
}

/// What made the watcher look.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Occasion {
    /// It has been quiet since the last hint.
    Quiet,
    /// Nothing is known of what goes on.
    Unknown,
}

/// Watches what the loop tells it to, until either end of the two channels is gone.
///
/// Dropping the future ends the watch; nothing is lost but hints.
pub async fn run(mut watched: watch::Receiver<Watched>, events: mpsc::Sender<Event>, pace: Pace) {
    let (hinter, mut hints) = mpsc::channel(1);
    let mut seen = watched.borrow_and_update().fingerprint;
    let mut places = Places::new(hinter, pace.hints);
    let mut poll = time::interval_at(Instant::now() + pace.poll, pace.poll);
    poll.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    let mut occasion = Occasion::Unknown;
    loop {
        // What the loop has seen meanwhile is not told to it again.
        if watched.has_changed().unwrap_or_default() {
            seen = watched.borrow_and_update().fingerprint;
        }
        let now = watched.borrow().clone();
        places.aim(&now.paths, &now.patterns);
        let mut found = files::look(&now.paths, &now.patterns);
        if found != seen && occasion == Occasion::Unknown {
            found = steady(&now, found, pace.settle).await;
            if watched.has_changed().unwrap_or_default() {
                continue;
            }
        }
        if found != seen {
            seen = found;
            if events.send(Event::FilesChanged).await.is_err() {
                return;
            }
        }
        tokio::select! {
            biased;
            told = watched.changed() => match told {
                Ok(()) => {
                    seen = watched.borrow_and_update().fingerprint;
                    occasion = Occasion::Unknown;
                }
                // The loop has ended.
                Err(_) => return,
            },
            hint = hints.recv() => match hint {
                Some(()) => {
                    settle(&mut hints, pace.settle).await;
                    occasion = Occasion::Quiet;
                }
                // `places` holds a sender: this end does not come before ours.
                None => return,
            },
            _ = poll.tick() => {
                places.mend();
                occasion = Occasion::Unknown;
            }
        }
    }
}

/// Waits until no hint came for `quiet`, within reason.
async fn settle(hints: &mut mpsc::Receiver<()>, quiet: Duration) {
    let restless = async { while let Ok(Some(())) = time::timeout(quiet, hints.recv()).await {} };
    // Hints may come in thousands: what is bounded is the time.
    drop(time::timeout(quiet.saturating_mul(RESTLESS_LIMIT), restless).await);
}

/// Looks again until two looks agree, within reason: without hints there is no telling whether somebody still writes.
async fn steady(watched: &Watched, mut found: Fingerprint, quiet: Duration) -> Fingerprint {
    for _ in 0..RESTLESS_LIMIT {
        time::sleep(quiet).await;
        let again = files::look(&watched.paths, &watched.patterns);
        if again == found {
            break;
        }
        found = again;
    }
    found
}
