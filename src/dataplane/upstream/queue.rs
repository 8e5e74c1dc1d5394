//! Requests that wait for an endpoint, while none of their pool is usable: first come, first served, so many and so long.
//!
//! The queue belongs to the pool and not to a worker, so that the order holds for the process. Nothing here is touched by a
//! request whose pool has an endpoint. Those who wait are called a few at a first, then ever more: an endpoint that has just
//! come back is not met by all of them at once.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

/// How many are called when the first endpoint is usable again, and by what that grows from one call to the next.
const FIRST_CALL: usize = 8;
const GROWTH: usize = 4;

/// How many may wait, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Requests that wait at a time, those among them that were called and have no answer yet.
    pub size: usize,
    /// How long a request waits in all.
    pub wait: Duration,
}

/// The queue of a pool.
#[derive(Debug, Default)]
pub struct Queue {
    line: Mutex<Line>,
    /// How many wait to be called.
    waiting: AtomicUsize,
}

#[derive(Debug, Default)]
struct Line {
    /// Those who wait to be called, by the order in which they came first.
    seats: BTreeMap<u64, Waker>,
    /// All who have a place, called or not.
    places: usize,
    next_number: u64,
    next_call: usize,
}

impl Line {
    /// Takes a seat away, if it is there.
    fn stand_up(&mut self, place: &Place) {
        self.seats.remove(&place.number);
        place
            .queue
            .waiting
            .store(self.seats.len(), Ordering::Relaxed);
    }
}

impl Queue {
    /// Whether somebody waits to be called.
    pub fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// A place in it; `None` if there are as many as the plan allows.
    pub fn enter(self: &Arc<Self>, plan: Plan, now: Instant) -> Option<Place> {
        let mut line = self.lock();
        if line.places >= plan.size {
            return None;
        }
        line.places += 1;
        line.next_number += 1;
        Some(Place {
            queue: Arc::clone(self),
            number: line.next_number,
            until: now + plan.wait,
        })
    }

    /// Calls the first few, since there is an endpoint where there was none.
    pub fn begin_calling(&self) {
        self.lock().next_call = FIRST_CALL;
        self.call();
    }

    /// Calls those who are next, more of them each time.
    pub fn call(&self) {
        let mut called = Vec::new();
        let mut line = self.lock();
        let count = line.next_call.max(FIRST_CALL);
        line.next_call = count.saturating_mul(GROWTH);
        while called.len() < count
            && let Some((_, waker)) = line.seats.pop_first()
        {
            called.push(waker);
        }
        self.waiting.store(line.seats.len(), Ordering::Relaxed);
        drop(line);
        called.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in a queue; dropping it leaves.
#[derive(Debug)]
pub struct Place {
    queue: Arc<Queue>,
    number: u64,
    until: Instant,
}

impl Place {
    /// Waits until it is called; `false` when its time is up. It may wait more than once, in the order in which it came
    /// first, and within the time that it had then.
    pub async fn is_called(&self) -> bool {
        let mut is_seated = false;
        let called = poll_fn(|cx| {
            let mut line = self.queue.lock();
            if mem::replace(&mut is_seated, true) && !line.seats.contains_key(&self.number) {
                return Poll::Ready(());
            }
            line.seats.insert(self.number, cx.waker().clone());
            self.queue
                .waiting
                .store(line.seats.len(), Ordering::Relaxed);
            Poll::Pending
        });
        let called = tokio::time::timeout_at(self.until.into(), called).await;
        if called.is_err() {
            self.queue.lock().stand_up(self);
        }
        called.is_ok()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut line = self.queue.lock();
        line.stand_up(self);
        line.places = line.places.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use tokio::task::{LocalSet, yield_now};
    use tokio::time;

    use super::*;

    const PLAN: Plan = Plan {
        size: 100,
        wait: Duration::from_secs(3),
    };

    fn play<F: Future>(case: F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        LocalSet::new().block_on(&runtime, case)
    }

    fn now() -> Instant {
        time::Instant::now().into_std()
    }

    #[test]
    fn who_came_first_is_called_first_and_a_few_at_a_time() {
        play(async {
            let queue = Arc::<Queue>::default();
            let order = Rc::<RefCell<Vec<u32>>>::default();
            for number in 0..100 {
                let place = queue.enter(PLAN, now()).unwrap();
                let order = Rc::clone(&order);
                tokio::task::spawn_local(async move {
                    assert!(place.is_called().await);
                    order.borrow_mut().push(number);
                });
            }
            assert!(queue.enter(PLAN, now()).is_none(), "it is full");
            yield_now().await;
            assert!(queue.is_waiting());
            let mut counts = Vec::new();
            queue.begin_calling();
            while counts.len() < 4 {
                yield_now().await;
                counts.push(order.borrow().len());
                queue.call();
            }
            assert_eq!(counts, [8, 40, 100, 100]);
            assert!(order.borrow().is_sorted());
            assert!(!queue.is_waiting());
            assert!(queue.enter(PLAN, now()).is_some(), "all have left");
        });
    }

    #[test]
    fn one_that_comes_back_is_before_those_who_came_later_and_has_no_more_time() {
        play(async {
            let queue = Arc::<Queue>::default();
            let first = queue.enter(PLAN, now()).unwrap();
            let begun = now();
            let (is_called, ()) = tokio::join!(first.is_called(), async { queue.begin_calling() });
            assert!(is_called);
            time::sleep(Duration::from_secs(1)).await;
            let second = queue.enter(PLAN, now()).unwrap();
            let numbers = async {
                yield_now().await;
                queue.lock().seats.keys().copied().collect::<Vec<_>>()
            };
            let (is_called, later, numbers) =
                tokio::join!(first.is_called(), second.is_called(), numbers);
            assert_eq!((is_called, later, numbers), (false, false, vec![1, 2]));
            assert_eq!(now().duration_since(begun), Duration::from_secs(4));
        });
    }

    #[test]
    fn whoever_leaves_is_gone_whatever_it_was_doing() {
        play(async {
            let queue = Arc::<Queue>::default();
            for _ in 0..1000 {
                let place = queue.enter(PLAN, now()).unwrap();
                let soon = time::timeout(Duration::from_millis(1), place.is_called()).await;
                assert!(soon.is_err());
                drop(place);
            }
            let line = queue.lock();
            assert_eq!((line.places, line.seats.len()), (0, 0));
            assert!(!queue.is_waiting());
        });
    }
}
