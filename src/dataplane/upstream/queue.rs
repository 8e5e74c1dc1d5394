//! Requests that wait for an endpoint, while none of their pool is usable: first come, first served, so many and so long.
//!
//! The queue belongs to the pool and not to a worker, so that the order holds for the process. Nothing here is touched by a
//! request whose pool has an endpoint with room. Those who wait for an endpoint are called a few at first, then ever more: one
//! that has just come back is not met by all of them at once. Those who wait for room are called one by one: the end of an
//! exchange calls one, and who has found room calls the next if there is more.
//!
//! No call is lost. Who sits down looks once more whether there is room, unless somebody was called who has not looked yet;
//! that one passes the call on when it is through, or when it leaves.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
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
    /// The same and those who were called and have not looked yet.
    pending: AtomicUsize,
}

#[derive(Debug, Default)]
struct Line {
    /// Those who wait to be called, by the order in which they came first.
    seats: BTreeMap<u64, Waker>,
    /// Those who were called and have not looked yet.
    called: usize,
    /// All who have a place, called or not.
    places: usize,
    next_number: u64,
    next_call: usize,
}

impl Queue {
    /// Whether somebody waits to be called.
    pub fn is_waiting(&self) -> bool {
        self.waiting() > 0
    }

    /// How many wait to be called.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Whether somebody waits, or was called and has not looked yet: who comes now comes behind.
    pub fn is_pending(&self) -> bool {
        self.pending.load(Ordering::Relaxed) > 0
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
            is_in_line: false,
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
        line.called += called.len();
        self.publish(&line);
        drop(line);
        called.into_iter().for_each(Waker::wake);
    }

    /// Calls the one who is next, since there may be room.
    pub fn call_one(&self) {
        // With the one of who sits down: either it sees the room, or its seat is seen here.
        fence(Ordering::SeqCst);
        if !self.is_waiting() {
            return;
        }
        let mut line = self.lock();
        let called = line.seats.pop_first();
        line.called += usize::from(called.is_some());
        self.publish(&line);
        drop(line);
        if let Some((_, waker)) = called {
            waker.wake();
        }
    }

    fn publish(&self, line: &Line) {
        let waiting = line.seats.len();
        self.waiting.store(waiting, Ordering::Relaxed);
        self.pending.store(waiting + line.called, Ordering::Relaxed);
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
    /// Whether it has sat down, and has not settled since.
    is_in_line: bool,
}

impl Place {
    /// Waits until it is called, or until `may_go` says when it sits down that it need not wait; `false` when its time is up.
    /// It may wait more than once, in the order in which it came first, and within the time that it had then.
    pub async fn is_called(&mut self, may_go: impl Fn() -> bool) -> bool {
        self.settle();
        let until = self.until;
        let called = poll_fn(|cx| self.poll_called(cx, &may_go));
        let called = tokio::time::timeout_at(until.into(), called).await;
        // Who was called in this very moment may look.
        called.is_ok() || !self.stand_up()
    }

    fn poll_called(&mut self, cx: &mut Context<'_>, may_go: &impl Fn() -> bool) -> Poll<()> {
        let queue = Arc::clone(&self.queue);
        let mut line = queue.lock();
        if self.is_in_line && !line.seats.contains_key(&self.number) {
            return Poll::Ready(());
        }
        let sits_down = line.seats.insert(self.number, cx.waker().clone()).is_none();
        self.is_in_line = true;
        queue.publish(&line);
        if !sits_down {
            return Poll::Pending;
        }
        // With the one in `call_one`.
        fence(Ordering::SeqCst);
        let is_first = line.seats.keys().next() == Some(&self.number);
        if !is_first || line.called > 0 || !may_go() {
            return Poll::Pending;
        }
        line.seats.remove(&self.number);
        line.called += 1;
        queue.publish(&line);
        Poll::Ready(())
    }

    /// Says that it has looked since it was called.
    pub fn settle(&mut self) {
        let _ = self.leave_line();
    }

    /// Gets up if it sits; `false` if it was called meanwhile.
    fn stand_up(&mut self) -> bool {
        let mut line = self.queue.lock();
        let sat = line.seats.remove(&self.number).is_some();
        self.queue.publish(&line);
        self.is_in_line &= !sat;
        sat
    }

    /// Says whether it was called.
    fn leave_line(&mut self) -> bool {
        if !mem::take(&mut self.is_in_line) {
            return false;
        }
        let mut line = self.queue.lock();
        let was_called = line.seats.remove(&self.number).is_none();
        line.called = line.called.saturating_sub(usize::from(was_called));
        self.queue.publish(&line);
        was_called
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let was_called = self.leave_line();
        let mut line = self.queue.lock();
        line.places = line.places.saturating_sub(1);
        drop(line);
        if was_called {
            // What it was called for is for the next.
            self.queue.call_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use tokio::task::yield_now;
    use tokio::time;

    use super::*;
    use crate::dataplane::upstream::testkit::play;

    const PLAN: Plan = Plan {
        size: 100,
        wait: Duration::from_secs(3),
    };

    fn now() -> Instant {
        time::Instant::now().into_std()
    }

    #[test]
    fn who_came_first_is_called_first_and_a_few_at_a_time() {
        play(async {
            let queue = Arc::<Queue>::default();
            let order = Rc::<RefCell<Vec<u32>>>::default();
            for number in 0..100 {
                let mut place = queue.enter(PLAN, now()).unwrap();
                let order = Rc::clone(&order);
                tokio::task::spawn_local(async move {
                    assert!(place.is_called(|| false).await);
                    place.settle();
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
            let mut first = queue.enter(PLAN, now()).unwrap();
            let begun = now();
            let (is_called, ()) =
                tokio::join!(first.is_called(|| false), async { queue.begin_calling() });
            assert!(is_called);
            time::sleep(Duration::from_secs(1)).await;
            let mut second = queue.enter(PLAN, now()).unwrap();
            let numbers = async {
                yield_now().await;
                queue.lock().seats.keys().copied().collect::<Vec<_>>()
            };
            let (is_called, later, numbers) = tokio::join!(
                first.is_called(|| false),
                second.is_called(|| false),
                numbers
            );
            assert_eq!((is_called, later, numbers), (false, false, vec![1, 2]));
            assert_eq!(now().duration_since(begun), Duration::from_secs(4));
        });
    }

    #[test]
    fn whoever_leaves_is_gone_whatever_it_was_doing() {
        play(async {
            let queue = Arc::<Queue>::default();
            for _ in 0..1000 {
                let mut place = queue.enter(PLAN, now()).unwrap();
                let soon = time::timeout(Duration::from_millis(1), place.is_called(|| false)).await;
                assert!(soon.is_err());
                drop(place);
            }
            let line = queue.lock();
            assert_eq!((line.places, line.seats.len()), (0, 0));
            assert!(!queue.is_waiting());
        });
    }
}
