//! Coarse deadlines of one worker: thousands of waits on one tick.
//!
//! Every connection and every exchange in flight waits under a deadline that almost never passes. A timer each
//! would be registered and cancelled with every request; here setting one is a store, and the worker looks at
//! all of them [`TICK`] by `TICK`. A deadline passes up to one tick late, and one that was set by the coarse clock
//! up to one tick early.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use slab::Slab;

use crate::base::clock;

/// How often a worker looks at its deadlines.
pub const TICK: Duration = Duration::from_millis(50);

/// The deadlines of one worker. Cloning it is a reference to the same.
#[derive(Clone, Debug, Default)]
pub struct Deadlines {
    table: Rc<Table>,
}

#[derive(Debug, Default)]
struct Table {
    entries: RefCell<Slab<Entry>>,
    /// Wakes the ticking task when the first entry arrives.
    ticker: RefCell<Option<Waker>>,
}

#[derive(Debug)]
struct Entry {
    at: Option<Instant>,
    /// Set by the tick, so that polling a deadline never asks for the time.
    passed: bool,
    waker: Option<Waker>,
}

impl Deadlines {
    /// Ticks for as long as it is polled; the worker owns this future.
    pub async fn run(&self) {
        loop {
            if self.table.entries.borrow().is_empty() {
                clock::tick(None);
                poll_fn(|cx| self.poll_occupied(cx)).await;
            }
            let now = clock::now();
            clock::tick(Some(now));
            self.wake_passed(now);
            tokio::time::sleep(TICK).await;
        }
    }

    /// A deadline that passes at `at`, or never until it is set.
    pub fn at(&self, at: Option<Instant>) -> Deadline {
        let key = self.table.entries.borrow_mut().insert(Entry {
            at,
            passed: false,
            waker: None,
        });
        if let Some(ticker) = self.table.ticker.borrow_mut().take() {
            ticker.wake();
        }
        Deadline {
            table: Rc::clone(&self.table),
            key,
        }
    }

    /// Waits for `future`, at most until `at`; `None` says that the deadline passed first.
    ///
    /// Dropping it drops the future; nothing else is lost.
    pub async fn within<F: Future>(&self, at: Instant, future: F) -> Option<F::Output> {
        let mut deadline = None;
        self.within_on(&mut deadline, at, pin!(future)).await
    }

    /// The same on a deadline that the caller keeps for its next wait; it is made once there is something to wait
    /// for.
    pub async fn within_on<F: Future>(
        &self,
        deadline: &mut Option<Deadline>,
        at: Instant,
        mut future: Pin<&mut F>,
    ) -> Option<F::Output> {
        let mut waiting = false;
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            let deadline = deadline.get_or_insert_with(|| self.at(None));
            if !waiting {
                waiting = true;
                deadline.set(Some(at));
            }
            deadline.poll(cx).map(|()| None)
        })
        .await
    }

    fn poll_occupied(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.table.entries.borrow().is_empty() {
            *self.table.ticker.borrow_mut() = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    fn wake_passed(&self, now: Instant) {
        for (_, entry) in &mut *self.table.entries.borrow_mut() {
            if !entry.passed && entry.at.is_some_and(|at| at <= now) {
                entry.passed = true;
                if let Some(waker) = entry.waker.take() {
                    waker.wake();
                }
            }
        }
    }
}

/// One deadline; dropping it takes it off the table.
#[derive(Debug)]
pub struct Deadline {
    table: Rc<Table>,
    key: usize,
}

impl Deadline {
    /// Moves the deadline; `None` means that it never passes.
    ///
    /// A task that already waits on it stays registered: it is woken by the new time, not by the old one.
    pub fn set(&self, at: Option<Instant>) {
        if let Some(entry) = self.table.entries.borrow_mut().get_mut(self.key) {
            entry.at = at;
            entry.passed = false;
        }
    }

    /// When it passes; `None` is never.
    #[cfg(test)]
    pub fn at(&self) -> Option<Instant> {
        self.table.entries.borrow().get(self.key)?.at
    }

    /// Ready once the deadline has passed.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut entries = self.table.entries.borrow_mut();
        let Some(entry) = entries.get_mut(self.key) else {
            return Poll::Pending;
        };
        if entry.passed {
            return Poll::Ready(());
        }
        if !entry
            .waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            entry.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.table.entries.borrow_mut().try_remove(self.key);
    }
}
