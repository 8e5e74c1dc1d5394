//! Draining: the signal "take no new work" and the count of what still runs.
//!
//! One [`Drain`] per listener and worker. It is not `Send`: the worker is told by a message and begins the drain
//! on its own thread.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;

/// How long a connection without a request is left open when it is to end: longer than a request needs to get here that
/// its client has sent already.
pub const GRACE: Duration = Duration::from_secs(1);

/// How far a drain has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Work is taken.
    #[default]
    Open,
    /// No new work; what runs ends in its own time.
    Draining,
    /// The time is up: what still runs ends now.
    Closing,
}

/// The owner's side: starts the drain and waits for the last guest to leave.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    state: Rc<State>,
}

#[derive(Debug, Default)]
struct State {
    phase: Cell<Phase>,
    grace: Cell<Duration>,
    guests: RefCell<Slab<Option<Waker>>>,
    waiting: RefCell<Vec<Waker>>,
}

impl Drain {
    /// The phase in force.
    pub fn phase(&self) -> Phase {
        self.state.phase.get()
    }

    /// Takes no new work from now on. A guest that has nothing to do stays for `grace` all the same: work for it may be on
    /// its way. Begun again, it goes by the shorter grace.
    pub fn begin(&self, grace: Duration) {
        let before = self.state.grace.get();
        match self.phase() {
            Phase::Open => self.state.grace.set(grace),
            Phase::Draining if grace < before => {
                self.state.grace.set(grace);
                self.wake_guests();
            }
            Phase::Draining | Phase::Closing => {}
        }
        self.advance(Phase::Draining);
    }

    /// Moves on to `phase` and wakes every guest; a drain never goes back.
    pub fn advance(&self, phase: Phase) {
        if phase <= self.state.phase.get() {
            return;
        }
        self.state.phase.set(phase);
        self.wake_guests();
    }

    fn wake_guests(&self) {
        for (_, waker) in &mut *self.state.guests.borrow_mut() {
            if let Some(waker) = waker.take() {
                waker.wake();
            }
        }
    }

    /// Counts one more piece of work until the guest is dropped.
    pub fn guest(&self) -> Guest {
        let key = self.state.guests.borrow_mut().insert(None);
        Guest {
            state: Rc::clone(&self.state),
            key,
        }
    }

    /// How many guests there are.
    pub fn len(&self) -> usize {
        self.state.guests.borrow().len()
    }

    /// Whether nothing runs.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until nothing runs; several may wait. Dropping the future loses nothing.
    pub async fn finished(&self) {
        poll_fn(|cx| {
            if self.is_empty() {
                return Poll::Ready(());
            }
            let waiting = &mut *self.state.waiting.borrow_mut();
            if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                waiting.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}

/// One piece of work that a drain waits for; leaving is dropping it.
#[derive(Debug)]
pub struct Guest {
    state: Rc<State>,
    key: usize,
}

impl Guest {
    /// The phase in force; the task is woken when it changes.
    pub fn poll_phase(&self, cx: &mut Context<'_>) -> Phase {
        if let Some(slot) = self.state.guests.borrow_mut().get_mut(self.key)
            && !slot
                .as_ref()
                .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            *slot = Some(cx.waker().clone());
        }
        self.state.phase.get()
    }

    /// The phase in force.
    pub fn phase(&self) -> Phase {
        self.state.phase.get()
    }

    /// How long one that has nothing to do stays, once the drain has begun.
    pub fn grace(&self) -> Duration {
        self.state.grace.get()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut guests = self.state.guests.borrow_mut();
        guests.try_remove(self.key);
        if guests.is_empty() {
            self.state
                .waiting
                .borrow_mut()
                .drain(..)
                .for_each(Waker::wake);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_never_goes_back() {
        let drain = Drain::default();
        drain.advance(Phase::Closing);
        drain.advance(Phase::Draining);
        assert_eq!(drain.phase(), Phase::Closing);
    }

    #[test]
    fn a_drain_that_begins_again_shortens_its_grace_only() {
        let (long, short) = (Duration::from_secs(75), Duration::from_secs(1));
        let drain = Drain::default();
        let guest = drain.guest();
        drain.begin(long);
        drain.begin(short);
        assert_eq!(guest.grace(), short);
        drain.begin(long);
        assert_eq!((drain.phase(), guest.grace()), (Phase::Draining, short));
    }

    #[test]
    fn everybody_who_waits_is_woken() {
        let drain = Drain::default();
        let guest = drain.guest();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let local = tokio::task::LocalSet::new();
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                let drain = drain.clone();
                local.spawn_local(async move { drain.finished().await })
            })
            .collect();
        runtime.block_on(local.run_until(async {
            tokio::task::yield_now().await;
            drop(guest);
            for waiter in waiters {
                waiter.await.unwrap();
            }
        }));
    }

    #[test]
    fn the_last_guest_ends_the_drain() {
        let drain = Drain::default();
        let guests = [drain.guest(), drain.guest()];
        assert_eq!(drain.len(), 2);
        drop(guests);
        assert!(drain.is_empty());
    }
}
