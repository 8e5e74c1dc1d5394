//! The board: where the loop shows how it fares, and others read it.
//!
//! The loop writes, `app` and its callers read from any thread; nobody waits for a reader.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::outcome::{Cause, Outcome};
use crate::base::name::ListenerName;

/// Outcomes that the board keeps.
const HISTORY_LIMIT: usize = 64;

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
    figures: Figures,
    has_ended: bool,
}

/// What the loop has come to so far, in numbers: for those who count.
///
/// Names that have other addresses make attempts and versions too, but are no reloads: they say nothing of what the operator
/// wrote.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// The version in force; 0 before there is one.
    pub version: u64,
    /// Attempts by their cause and the word for their verdict.
    pub attempts: BTreeMap<(Cause, &'static str), u64>,
    /// Whether the last reload, or the start, put all that was written in force.
    pub is_good: bool,
    /// When one last did.
    pub last_good: Option<SystemTime>,
    /// How long the last one took.
    pub took: Duration,
    /// How many snapshots there are: the one in force, and those that exchanges still hold. Counted once a second.
    pub snapshots: usize,
}

impl Figures {
    fn add(&mut self, outcome: &Outcome) {
        let Outcome {
            cause,
            version,
            took,
            ended,
            ..
        } = *outcome;
        self.version = version;
        let attempts = self.attempts.entry((cause, outcome.verdict.as_str()));
        *attempts.or_default() += 1;
        match cause {
            Cause::Start | Cause::FilesChanged | Cause::Asked => {}
            Cause::Resolved => return,
        }
        self.is_good = outcome.is_good();
        if self.is_good {
            self.last_good = Some(ended);
        }
        self.took = took;
    }
}

impl Board {
    /// Shows an outcome. `served` counts the demands that were made before the attempt began.
    pub fn show(&self, outcome: Outcome, served: u64, listeners: Vec<(ListenerName, SocketAddr)>) {
        let mut shown = self.lock();
        shown.figures.add(&outcome);
        if shown.history.len() == HISTORY_LIMIT {
            shown.history.pop_front();
        }
        shown.history.push_back(Arc::new(outcome));
        shown.served = served;
        shown.listeners = listeners;
        self.moved.notify_all();
    }

    /// Shows how many snapshots there are.
    pub fn note_snapshots(&self, count: usize) {
        self.lock().figures.snapshots = count;
    }

    /// What the loop has come to so far, in numbers.
    pub fn figures(&self) -> Figures {
        self.lock().figures.clone()
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
    use super::super::outcome::Verdict;
    use super::*;

    fn outcome(number: u64, cause: Cause, verdict: Verdict) -> Outcome {
        Outcome {
            number,
            cause,
            version: number,
            took: Duration::from_secs(number),
            ended: SystemTime::UNIX_EPOCH + Duration::from_secs(number),
            verdict,
            sites: Vec::new(),
        }
    }

    #[test]
    fn the_board_keeps_a_bounded_history_and_wakes_who_waits() {
        let board = Arc::new(Board::default());
        let waiter = Arc::clone(&board);
        let waiting = std::thread::spawn(move || {
            waiter.wait(90, Duration::from_secs(20), |outcome| outcome.number == 95)
        });
        for number in 1..=100 {
            let outcome = outcome(number, Cause::Asked, Verdict::Unchanged);
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

    #[test]
    fn figures_tell_of_the_last_reload_and_of_the_last_good_one() {
        let board = Board::default();
        let show = |outcome| {
            board.show(outcome, 0, Vec::new());
            let Figures {
                version,
                is_good,
                last_good,
                took,
                ..
            } = board.figures();
            let last_good = last_good.unwrap().duration_since(SystemTime::UNIX_EPOCH);
            let (last_good, took) = (last_good.unwrap().as_secs(), took.as_secs());
            (version, is_good, last_good, took)
        };
        let changed = || Verdict::Changed(Box::default());
        assert_eq!(show(outcome(1, Cause::Start, changed())), (1, true, 1, 1));
        let wrong = Verdict::Rejected(vec!["wrong".to_owned()]);
        let refused = show(outcome(2, Cause::FilesChanged, wrong));
        assert_eq!(refused, (2, false, 1, 2));
        // Another address is another version, and what was written stays wrong.
        let resolved = show(outcome(3, Cause::Resolved, changed()));
        assert_eq!(resolved, (3, false, 1, 2));
        assert_eq!(show(outcome(4, Cause::Asked, changed())), (4, true, 4, 4));
        let unchanged = show(outcome(5, Cause::Asked, Verdict::Unchanged));
        assert_eq!(unchanged, (5, true, 5, 5));
        for _ in 0..HISTORY_LIMIT {
            show(outcome(6, Cause::Asked, Verdict::Rejected(Vec::new())));
        }
        // The good ones are long out of the history.
        let figures = board.figures();
        assert_eq!(
            figures.last_good,
            Some(SystemTime::UNIX_EPOCH + Duration::from_secs(5))
        );
        let attempts = [
            ((Cause::Start, "changed"), 1),
            ((Cause::FilesChanged, "rejected"), 1),
            ((Cause::Asked, "changed"), 1),
            ((Cause::Asked, "rejected"), HISTORY_LIMIT as u64),
            ((Cause::Asked, "unchanged"), 1),
            ((Cause::Resolved, "changed"), 1),
        ];
        assert_eq!(figures.attempts, attempts.into());
    }
}
