//! The time that an exchange spends in the queue of its pool, and what it waits for.
//!
//! An exchange keeps its snapshot (invariant I1): its route, its retries, its timeouts. Which endpoints its pool has is live
//! (I4), and the addresses that it came with may never answer again. So whoever is called looks whether another pool of the same
//! name, with the same queue, is in force by now, and goes on with that one.

use std::cell::OnceCell;
use std::pin::pin;
use std::ptr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::clock;
use crate::base::fault::Fault;
use crate::dataplane::http::Engine;
use crate::dataplane::http::attempts::Attempts;
use crate::dataplane::http::body::Closing;
use crate::dataplane::http::forward::Outbound;
use crate::dataplane::snapshot::Held;
use crate::dataplane::upstream::admission::{Entered, Turn};
use crate::dataplane::upstream::pick::Asker;
use crate::dataplane::upstream::pool::Pool;
use crate::dataplane::upstream::queue::Place;

/// The time that an exchange spends in the queue of its pool.
#[derive(Debug, Default)]
pub struct Waiting {
    /// Boxed, since most exchanges never wait.
    place: Option<Box<Place>>,
    /// What to say if the attempt after it fails too: the wait is over.
    pub has_ended: Option<Fault>,
}

/// The pools that took the place of an exchange's while it waited, the newest at the end: as long as it lives, it may have an
/// endpoint of each.
#[derive(Debug, Default)]
pub struct Successors(OnceCell<Box<Successor>>);

#[derive(Debug)]
struct Successor {
    pool: Arc<Pool>,
    /// Held too, so that this exchange is not the one to take the pool apart.
    _snapshot: Held,
    next: Successors,
}

impl Successors {
    fn keep(&self, pool: Arc<Pool>, snapshot: Held) -> &Pool {
        let mut last = self;
        while let Some(next) = last.0.get() {
            last = &next.next;
        }
        let kept = last.0.get_or_init(|| {
            Box::new(Successor {
                pool,
                _snapshot: snapshot,
                next: Self::default(),
            })
        });
        &kept.pool
    }
}

impl<'a> Attempts<'a> {
    /// Waits for an endpoint in the queue of the pool.
    ///
    /// # Errors
    /// [`Fault::NoEndpoint`], [`Fault::QueueFull`], and [`Fault::QueueTimeout`] when the time of the exchange is up.
    pub async fn wait(
        &mut self,
        outbound: &Outbound,
        closing: &mut Closing,
    ) -> Result<Entered<'a>, Fault> {
        let ends = self.ends(outbound.intake.as_deref());
        let Closing {
            record, deadline, ..
        } = closing;
        let _clock = Clock {
            began: clock::now(),
            sum: &mut record.queued,
        };
        let engine = self.passage.engine;
        loop {
            let found = {
                let waiting = pin!(self.waiting.wait(engine, self.pool, &self.asker));
                engine.deadlines.within_on(deadline, ends, waiting).await
            };
            if let Some(entered) = found.unwrap_or(Err(Fault::QueueTimeout))? {
                return Ok(entered);
            }
            if let Some((pool, snapshot)) = successor(engine, self.pool) {
                self.pool = self.successors.keep(pool, snapshot);
                let (now, wall) = (clock::coarse(), clock::coarse_wall());
                self.asker = self.pool.asker(&outbound.parts, record.client, now, wall);
            }
            let pool = self.pool;
            if let Some(place) = &mut self.waiting.place
                && let Some(entered) = pool.look(place, &self.asker)
            {
                return Ok(entered);
            }
        }
    }
}

/// The pool that has taken the place of another, with those who wait there; `None` while that is in force itself, or nobody
/// could help.
fn successor(engine: &Engine, pool: &Pool) -> Option<(Arc<Pool>, Held)> {
    let snapshot = engine.snapshot();
    let mut pools = snapshot.pools.iter();
    let next = pools.find(|next| next.name == pool.name)?;
    let is_other = !ptr::eq(&**next, pool) && next.is_kin(pool) && !next.is_empty();
    is_other.then(|| (Arc::clone(next), Rc::clone(&snapshot)))
}

impl Waiting {
    /// Waits for a usable endpoint with room; when time is up, gives the least bad one if none is usable, for one attempt. `None`
    /// where the pool has a successor.
    async fn wait<'p>(
        &mut self,
        engine: &Engine,
        pool: &'p Pool,
        asker: &Asker,
    ) -> Result<Option<Entered<'p>>, Fault> {
        if pool.is_empty() {
            return Err(Fault::NoEndpoint);
        }
        let Some(plan) = pool.settings.queue else {
            self.has_ended = Some(Fault::NoEndpoint);
            return pool.enter_least_bad().map(Some);
        };
        let place = match self.place.take() {
            Some(place) => place,
            None => Box::new(pool.wait(plan, clock::now()).ok_or(Fault::QueueFull)?),
        };
        let place = self.place.insert(place);
        let is_in_force = || successor(engine, pool).is_none();
        match pool.take_turn(place, asker, is_in_force).await {
            Turn::Entered(entered) => return Ok(Some(entered)),
            Turn::Outdated => return Ok(None),
            Turn::Over => {}
        }
        self.place = None;
        self.has_ended = Some(Fault::QueueTimeout);
        pool.enter_least_bad().map(Some)
    }
}

/// Adds a time to a sum when it is dropped.
struct Clock<'a> {
    began: Instant,
    sum: &'a mut Option<Duration>,
}

impl Drop for Clock<'_> {
    fn drop(&mut self) {
        let took = clock::now().saturating_duration_since(self.began);
        *self.sum = Some(self.sum.unwrap_or_default() + took);
    }
}
