//! The board: where the loop shows how it fares, and others read it.
//!
//! The loop writes, `app` and its callers read from any thread; nobody waits for a reader.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::outcome::Outcome;
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
    snapshots: usize,
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

    /// Shows how many snapshots there are.
    pub fn note_snapshots(&self, count: usize) {
        self.lock().snapshots = count;
        self.moved.notify_all();
    }

    /// How many snapshots there are: the one in force, and those that exchanges still hold. It is counted once a second.
    pub fn snapshots(&self) -> usize {
        self.lock().snapshots
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
    use super::super::outcome::{Cause, Verdict};
    use super::*;

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
                sites: Vec::new(),
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
