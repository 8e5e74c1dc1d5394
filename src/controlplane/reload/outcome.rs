//! How attempts at a new snapshot ended, and the board where others read it.
//!
//! The loop writes, `app` and its callers read from any thread; nobody waits for a reader.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::base::name::ListenerName;
use crate::config::Config;
use crate::dataplane::snapshot::Snapshot;

/// Outcomes that the board keeps.
const HISTORY_LIMIT: usize = 64;

/// Names written out in a log line before the rest is a number.
const NAMES_LIMIT: usize = 8;

/// What made the loop try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The process started.
    Start,
    /// The config file, or a file that it names, changed.
    FilesChanged,
    /// SIGHUP, or a caller in the process.
    Asked,
    /// A name in the config has other addresses now.
    Resolved,
}

impl fmt::Display for Cause {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Start => "start",
            Self::FilesChanged => "files_changed",
            Self::Asked => "asked",
            Self::Resolved => "resolved",
        })
    }
}

/// How one attempt at a new snapshot ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The attempts so far, this one included.
    pub number: u64,
    /// What made the loop try.
    pub cause: Cause,
    /// The version in force now.
    pub version: u64,
    /// From the event to the end.
    pub took: Duration,
    /// What became of it.
    pub verdict: Verdict,
}

impl Outcome {
    /// Whether what the operator wrote is in force now.
    pub fn is_good(&self) -> bool {
        match self.verdict {
            Verdict::Changed(_) | Verdict::Unchanged => true,
            Verdict::Rejected(_) => false,
        }
    }
}

/// What became of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A new version is in force.
    Changed(Box<Changes>),
    /// It says what is in force already.
    Unchanged,
    /// Errors, each rendered with its place; what was in force stays so.
    Rejected(Vec<String>),
}

/// What differs between two versions, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Listeners.
    pub listeners: Difference,
    /// Routes.
    pub routes: Difference,
    /// Pools, whose members may have changed by resolution too.
    pub pools: Difference,
    /// Top-level keys.
    pub settings: Vec<&'static str>,
}

impl Changes {
    /// What differs between two versions; their configs say what their snapshots do not keep.
    pub fn between(before: (&Snapshot, &Config), after: (&Snapshot, &Config)) -> Self {
        let ((before, old), (after, new)) = (before, after);
        let mut settings = Vec::new();
        let mut compare = |key, is_same: bool| {
            if !is_same {
                settings.push(key);
            }
        };
        compare("workers", old.workers == new.workers);
        compare("access_log", old.access_log == new.access_log);
        compare(
            "trusted_proxies",
            old.trusted_proxies == new.trusted_proxies,
        );
        compare("limits", old.limits == new.limits);
        compare("timeouts", old.timeouts == new.timeouts);
        Self {
            listeners: Difference::between(
                &before.listeners,
                &after.listeners,
                |plan| plan.name.as_str(),
                Arc::ptr_eq,
            ),
            routes: Difference::between(
                &old.routes,
                &new.routes,
                |route| route.name.as_str(),
                PartialEq::eq,
            ),
            pools: Difference::between(
                &before.pools,
                &after.pools,
                |pool| pool.name.as_str(),
                Arc::ptr_eq,
            ),
            settings,
        }
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lead = "";
        for (kind, difference) in [
            ("listeners", &self.listeners),
            ("routes", &self.routes),
            ("pools", &self.pools),
        ] {
            if !difference.is_empty() {
                write!(out, "{lead}{kind}{difference}")?;
                lead = "; ";
            }
        }
        if !self.settings.is_empty() {
            write!(out, "{lead}{}", self.settings.join(" "))?;
        }
        Ok(())
    }
}

/// What differs between two lists of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Names that are new.
    pub added: Vec<String>,
    /// Names that mean something else now.
    pub changed: Vec<String>,
    /// Names that are gone.
    pub removed: Vec<String>,
}

impl Difference {
    /// Compares two lists by name; `is_same` says whether two things of one name are the same.
    pub fn between<'a, T>(
        before: &'a [T],
        after: &'a [T],
        name: impl Fn(&'a T) -> &'a str,
        is_same: impl Fn(&T, &T) -> bool,
    ) -> Self {
        let mut old: HashMap<_, _> = before.iter().map(|item| (name(item), item)).collect();
        let mut difference = Self::default();
        for item in after {
            match old.remove(name(item)) {
                None => difference.added.push(name(item).to_owned()),
                Some(other) if is_same(other, item) => {}
                Some(_) => difference.changed.push(name(item).to_owned()),
            }
        }
        let gone = before
            .iter()
            .map(name)
            .filter(|name| old.contains_key(name));
        difference.removed = gone.map(str::to_owned).collect();
        difference
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (sign, names) in [
            ('+', &self.added),
            ('~', &self.changed),
            ('-', &self.removed),
        ] {
            for name in names.iter().take(NAMES_LIMIT) {
                write!(out, " {sign}{name}")?;
            }
            if let Some(more) = names.len().checked_sub(NAMES_LIMIT + 1) {
                write!(out, " {sign}({} more)", more + 1)?;
            }
        }
        Ok(())
    }
}

/// What the control plane shows of itself.
#[derive(Debug, Default)]
pub struct Board {
    shown: Mutex<Shown>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct Shown {
    history: VecDeque<Arc<Outcome>>,
    served: u64,
    listeners: Vec<(ListenerName, SocketAddr)>,
    has_ended: bool,
}

impl Board {
    /// Shows an outcome. `served` counts the demands that were made before the attempt began.
    pub fn show(&self, outcome: Outcome, served: u64, listeners: Vec<(ListenerName, SocketAddr)>) {
        let mut shown = self.lock();
        if shown.history.len() == HISTORY_LIMIT {
            shown.history.pop_front();
        }
        shown.history.push_back(Arc::new(outcome));
        shown.served = served;
        shown.listeners = listeners;
        self.moved.notify_all();
    }

    /// Says that there is nothing to come any more.
    pub fn end(&self) {
        self.lock().has_ended = true;
        self.moved.notify_all();
    }

    /// The last outcomes, the oldest first.
    pub fn outcomes(&self) -> Vec<Arc<Outcome>> {
        self.lock().history.iter().cloned().collect()
    }

    /// The last outcome.
    pub fn latest(&self) -> Option<Arc<Outcome>> {
        self.lock().history.back().cloned()
    }

    /// The address that a listener is bound to.
    pub fn address(&self, listener: &str) -> Option<SocketAddr> {
        let shown = self.lock();
        let mut listeners = shown.listeners.iter();
        listeners
            .find(|(name, _)| name.as_str() == listener)
            .map(|&(_, address)| address)
    }

    /// Waits for the first outcome after number `after` that `wanted` likes; `None` when time is up or the loop
    /// has ended.
    pub fn wait(
        &self,
        after: u64,
        within: Duration,
        wanted: impl Fn(&Outcome) -> bool,
    ) -> Option<Arc<Outcome>> {
        self.wait_for(within, |shown| {
            let mut later = shown
                .history
                .iter()
                .filter(|outcome| outcome.number > after);
            later.find(|outcome| wanted(outcome)).cloned()
        })
    }

    /// Waits for the outcome that served demand number `demand`.
    pub fn wait_served(&self, demand: u64, within: Duration) -> Option<Arc<Outcome>> {
        self.wait_for(within, |shown| {
            shown
                .history
                .back()
                .filter(|_| shown.served >= demand)
                .cloned()
        })
    }

    fn wait_for<T>(&self, within: Duration, find: impl Fn(&Shown) -> Option<T>) -> Option<T> {
        let mut found = None;
        let wait = self.moved.wait_timeout_while(self.lock(), within, |shown| {
            found = find(shown);
            found.is_none() && !shown.has_ended
        });
        drop(wait);
        found
    }

    fn lock(&self) -> MutexGuard<'_, Shown> {
        // What is shown is whole at every moment, whoever panicked elsewhere.
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_names_what_is_new_other_and_gone() {
        let before = [("a", 1), ("b", 1), ("c", 1)];
        let after = [("b", 2), ("c", 1), ("d", 1)];
        let difference = Difference::between(&before, &after, |item| item.0, PartialEq::eq);
        assert_eq!(difference.to_string(), " +d ~b -a");
        let changes = Changes {
            pools: difference,
            settings: vec!["limits"],
            ..Changes::default()
        };
        assert_eq!(changes.to_string(), "pools +d ~b -a; limits");
    }

    #[test]
    fn a_long_difference_is_cut_in_the_log() {
        let after: Vec<_> = (0..100).map(|n| n.to_string()).collect();
        let difference = Difference::between(&[], &after, |name| name, PartialEq::eq);
        assert_eq!(
            difference.to_string(),
            " +0 +1 +2 +3 +4 +5 +6 +7 +(92 more)"
        );
    }

    #[test]
    fn the_board_keeps_a_bounded_history_and_wakes_who_waits() {
        let board = Arc::new(Board::default());
        let waiter = Arc::clone(&board);
        let waiting = std::thread::spawn(move || {
            waiter.wait(90, Duration::from_secs(20), |outcome| outcome.number == 95)
        });
        for number in 1..=100 {
            let outcome = Outcome {
                number,
                cause: Cause::Asked,
                version: 1,
                took: Duration::ZERO,
                verdict: Verdict::Unchanged,
            };
            board.show(outcome, 0, Vec::new());
        }
        assert_eq!(
            waiting.join().unwrap().map(|outcome| outcome.number),
            Some(95)
        );
        assert_eq!(board.outcomes().len(), HISTORY_LIMIT);
        board.end();
        assert!(board.wait(100, Duration::from_secs(20), |_| true).is_none());
    }
}
