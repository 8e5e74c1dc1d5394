//! Who gets an endpoint now, who waits for one, and whose turn it is: the way from a request to a place among the exchanges of
//! an endpoint.
//!
//! Where no endpoint of a pool has bounds an exchange is counted where it is picked, and that is all. Else nobody enters one
//! that is full, and whoever comes while others wait comes behind them.

use std::sync::Arc;
use std::time::Instant;

use crate::base::fault::Fault;
use crate::dataplane::upstream::endpoint::InFlight;
use crate::dataplane::upstream::pick::Asker;
use crate::dataplane::upstream::pool::{Member, Pool};
use crate::dataplane::upstream::queue::{self, Place};

/// Picks for one entry, each of which another worker may spoil.
const ENTRIES: usize = 64;

/// Where an exchange is counted.
pub type Entered<'a> = (&'a Member, InFlight);

/// How a turn in the queue ended.
#[derive(Debug)]
pub enum Turn<'a> {
    /// There was an endpoint with room.
    Entered(Entered<'a>),
    /// It was called, and the pool is no longer in force: its successor has to be asked.
    Outdated,
    /// Time is up.
    Over,
}

impl Pool {
    /// Chooses an endpoint for a request that has just come, and counts it there; `None` when it has to wait, for an endpoint
    /// or for its turn.
    pub fn admit(&self, asker: &Asker) -> Option<Entered<'_>> {
        if self.is_bounded && self.live.queue.is_pending() {
            return None;
        }
        self.enter(asker)
    }

    /// Chooses an endpoint for whoever asks, and counts it there; `None` when there is none left, or none has room.
    #[inline]
    pub fn enter(&self, asker: &Asker) -> Option<Entered<'_>> {
        if self.is_bounded {
            return self.squeeze_in(asker);
        }
        let member = self.pick(asker)?;
        Some((member, member.endpoint.enter()))
    }

    /// Counts an exchange at a member that was picked; `None` if it has become full.
    #[inline]
    pub fn enter_at(&self, member: &Member) -> Option<InFlight> {
        match self.is_bounded {
            true => member.try_enter(&self.live.queue),
            false => Some(member.endpoint.enter()),
        }
    }

    #[cold]
    fn squeeze_in(&self, asker: &Asker) -> Option<Entered<'_>> {
        // Another worker may take the last room of one between the pick and the entry, but not for ever.
        (0..ENTRIES).find_map(|_| {
            let member = self.pick(asker)?;
            Some((member, member.try_enter(&self.live.queue)?))
        })
    }

    /// Counts whoever waited in vain at the endpoint that is the least bad, for when none is usable: the best standing, then
    /// the fewest exchanges.
    ///
    /// # Errors
    /// [`Fault::EndpointsBusy`] if endpoints are usable and full, or the least bad one is full; [`Fault::NoEndpoint`] if there
    /// are no endpoints.
    pub fn enter_least_bad(&self) -> Result<Entered<'_>, Fault> {
        let usable = |member: &Member| member.endpoint.is_usable();
        if self.is_bounded && self.in_turn().any(usable) {
            return Err(Fault::EndpointsBusy);
        }
        let standing = |member: &&Member| (member.endpoint.standing(), member.endpoint.in_flight());
        let member = self.in_turn().min_by_key(standing);
        let member = member.ok_or(Fault::NoEndpoint)?;
        let in_flight = self.enter_at(member);
        Ok((member, in_flight.ok_or(Fault::EndpointsBusy)?))
    }

    /// Whether there is nobody who could ever take an exchange.
    pub fn is_empty(&self) -> bool {
        self.in_turn().next().is_none()
    }

    /// A place in the queue of those who wait for an endpoint; `None` if it is full.
    pub fn wait(&self, plan: queue::Plan, now: Instant) -> Option<Place> {
        self.live.queue.enter(plan, now)
    }

    /// Whether whoever asks would find an endpoint now.
    fn has_room(&self, asker: &Asker) -> bool {
        self.pick(asker).is_some()
    }

    /// Waits in a place of the queue until there is an endpoint with room, as long as the pool `is_in_force`.
    pub async fn take_turn(
        &self,
        place: &mut Place,
        asker: &Asker,
        is_in_force: impl Fn() -> bool,
    ) -> Turn<'_> {
        while place.is_called(|| self.has_room(asker)).await {
            if !is_in_force() {
                return Turn::Outdated;
            }
            if let Some(entered) = self.look(place, asker) {
                return Turn::Entered(entered);
            }
        }
        Turn::Over
    }

    /// Has whoever was called look for an endpoint with room.
    pub fn look(&self, place: &mut Place, asker: &Asker) -> Option<Entered<'_>> {
        let entered = self.enter(asker)?;
        place.settle();
        self.pass_on(asker);
        Some(entered)
    }

    /// Whether it goes on where another one stands, with those who wait there.
    pub fn is_kin(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.live, &other.live)
    }

    /// Lets the next one have a look who waits, if there is room left.
    fn pass_on(&self, asker: &Asker) {
        if self.is_bounded && self.live.queue.is_waiting() && self.has_room(asker) {
            self.live.queue.call_one();
        }
    }

    /// Whether requests wait for an endpoint that is usable, and not only for room.
    pub fn is_wanted(&self) -> bool {
        self.live.queue.is_waiting() && !(self.is_bounded && self.has_usable())
    }

    /// How many requests wait.
    pub fn waiting(&self) -> usize {
        self.live.queue.waiting()
    }

    pub(super) fn has_usable(&self) -> bool {
        self.members.iter().any(|one| one.endpoint.is_usable())
    }

    /// Calls those who wait, since there is an endpoint: as many as there is room for, or ever more of them.
    pub(super) fn call(&self, is_first: bool, now: Instant) {
        let queue = &self.live.queue;
        if self.is_bounded {
            // The others are called by those who have found room.
            self.pass_on(&Asker::at(now).with_bounds(true));
        } else if is_first {
            queue.begin_calling();
        } else {
            queue.call();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::num::NonZeroU32;
    use std::rc::Rc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::task::yield_now;
    use tokio::time;

    use super::*;
    use crate::base::addr::EndpointAddr;
    use crate::dataplane::upstream::bounds::Bounds;
    use crate::dataplane::upstream::endpoint::{Endpoint, Identity, Protocol};
    use crate::dataplane::upstream::health::Policy;
    use crate::dataplane::upstream::pick::{Balance, Key, Method};
    use crate::dataplane::upstream::pool::Settings;
    use crate::dataplane::upstream::testkit::{dice, play};

    const PLAN: queue::Plan = queue::Plan {
        size: 10_000,
        wait: Duration::from_secs(20),
    };

    /// A pool whose endpoints take so many exchanges each.
    fn pool(balance: Balance, limits: &[u32]) -> Pool {
        let members = (0..).zip(limits).map(|(at, &limit)| {
            let identity = Identity {
                pool: "web".into(),
                address: EndpointAddr::Tcp(([10, 0, 0, at], 80).into()),
                protocol: Protocol::Auto,
                tls: None,
            };
            Member {
                bounds: Bounds {
                    requests: NonZeroU32::new(limit),
                    connections: None,
                    adaptive: None,
                },
                ..Member::new(Arc::new(Endpoint::new(identity, None)))
            }
        });
        let settings = Settings {
            balance,
            sticky: None,
            slow_start: None,
            connect_timeout: Duration::from_secs(1),
            policy: Policy {
                check: None,
                outlier: None,
            },
            check: None,
            panic_threshold: None,
            queue: Some(PLAN),
            retry_budget: None,
        };
        Pool::new("web".into(), members.collect(), settings, None, 7)
    }

    fn now() -> Instant {
        time::Instant::now().into_std()
    }

    async fn waits_for<'p>(pool: &'p Pool, place: &mut Place, asker: &Asker) -> Entered<'p> {
        match pool.take_turn(place, asker, || true).await {
            Turn::Entered(entered) => entered,
            Turn::Outdated | Turn::Over => panic!("there was room within the time"),
        }
    }

    fn balances() -> [Balance; 5] {
        let hash = Balance::Hash {
            key: Key::ClientIp,
            method: Method::Maglev,
        };
        [
            Balance::RoundRobin,
            Balance::LeastConnections,
            Balance::RandomTwo,
            Balance::PeakEwma,
            hash,
        ]
    }

    /// What one run of the simulation comes to.
    #[derive(Default)]
    struct Tally {
        /// Those who waited, were let in and stayed: when they were, and the number with which they came. One that leaves in
        /// the moment in which it is called may look before those that were called ahead of it.
        order: RefCell<Vec<(u64, u64)>>,
        entered: Cell<u64>,
        served: Cell<u64>,
        gave_up: Cell<u64>,
    }

    fn check_limits(pool: &Pool, place: &str) {
        for member in &pool.members {
            let (running, limit) = (member.endpoint.in_flight(), member.bounds.exchanges());
            assert!(running <= limit, "{place}: {running} of {limit}");
        }
    }

    fn running(pool: &Pool) -> usize {
        let members = pool.members.iter();
        members.map(|member| member.endpoint.in_flight()).sum()
    }

    /// Exchanges that come, wait, run and leave in the middle of it, in virtual time.
    #[test]
    fn nobody_waits_while_there_is_room_and_the_first_to_come_is_the_first_to_enter() {
        for seed in 1..=150_u64 {
            play(async move {
                let mut chance = dice(seed);
                let limits: Vec<u32> = (0..=chance(4)).map(|_| 1 + chance(5) as u32).collect();
                let balance = balances()[chance(5) as usize].clone();
                let world = Rc::new(pool(balance, &limits));
                let tally = Rc::<Tally>::default();
                let mut tasks = Vec::new();
                for number in 0..400 {
                    let (pool, tally) = (Rc::clone(&world), Rc::clone(&tally));
                    let lasts = Duration::from_millis(1 + chance(60));
                    let patience = Duration::from_millis(match chance(8) {
                        0 => chance(100),
                        _ => 60_000,
                    });
                    let key = chance(u64::MAX);
                    let place = format!("seed {seed} exchange {number}");
                    tasks.push(tokio::task::spawn_local(async move {
                        let asker = Asker::at(now()).with_bounds(true).with_key(Some(key));
                        let run = async {
                            let mut turn = None;
                            let entered = match pool.admit(&asker) {
                                Some(entered) => entered,
                                None => {
                                    let mut waits = pool.wait(PLAN, now()).unwrap();
                                    let entered = waits_for(&pool, &mut waits, &asker).await;
                                    turn = Some(tally.entered.replace(tally.entered.get() + 1));
                                    entered
                                }
                            };
                            check_limits(&pool, &place);
                            time::sleep(lasts).await;
                            drop(entered);
                            let waited = turn.map(|turn| (turn, number));
                            tally.order.borrow_mut().extend(waited);
                            tally.served.set(tally.served.get() + 1);
                        };
                        if time::timeout(patience, run).await.is_err() {
                            tally.gave_up.set(tally.gave_up.get() + 1);
                        }
                    }));
                    if chance(3) == 0 {
                        time::sleep(Duration::from_millis(chance(20))).await;
                    }
                    // Whoever was called has looked by then.
                    for _ in 0..8 {
                        yield_now().await;
                    }
                    let has_room = world.has_room(&Asker::at(now()).with_bounds(true));
                    let waiting = world.waiting();
                    assert!(
                        waiting == 0 || !has_room,
                        "seed {seed}: {waiting} wait while there is room"
                    );
                }
                for task in tasks {
                    task.await.unwrap();
                }
                assert_eq!(tally.served.get() + tally.gave_up.get(), 400, "seed {seed}");
                let mut order = tally.order.take();
                order.sort_unstable();
                let early = order.windows(2).find(|pair| pair[0].1 > pair[1].1);
                assert_eq!(early, None, "seed {seed}: who came later entered first");
                assert_eq!((running(&world), world.waiting()), (0, 0), "seed {seed}");
                assert!(!world.live.queue.is_pending(), "seed {seed}");
            });
        }
    }

    /// The same on several workers, in real time: a call that is lost shows in somebody who waits in vain.
    #[test]
    fn no_call_is_lost_between_workers() {
        let pool = pool(Balance::RoundRobin, &[2, 1]);
        let served = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build();
                    runtime.unwrap().block_on(async {
                        let exchanges = (0..16).map(|_| async {
                            for _ in 0..250 {
                                let asker = Asker::at(now()).with_bounds(true);
                                let entered = match pool.admit(&asker) {
                                    Some(entered) => entered,
                                    None => {
                                        let mut waits = pool.wait(PLAN, now()).unwrap();
                                        waits_for(&pool, &mut waits, &asker).await
                                    }
                                };
                                check_limits(&pool, "now");
                                yield_now().await;
                                drop(entered);
                                served.fetch_add(1, Ordering::Relaxed);
                            }
                        });
                        let exchanges: Vec<_> = exchanges.map(Box::pin).collect();
                        join(exchanges).await;
                    });
                });
            }
        });
        assert_eq!(served.load(Ordering::Relaxed), 4 * 16 * 250);
        assert_eq!((running(&pool), pool.waiting()), (0, 0));
    }

    /// Polls all of them until all have ended.
    async fn join<F: Future<Output = ()> + Unpin>(mut all: Vec<F>) {
        std::future::poll_fn(|cx| {
            all.retain_mut(|one| std::pin::Pin::new(one).poll(cx).is_pending());
            match all.is_empty() {
                true => std::task::Poll::Ready(()),
                false => std::task::Poll::Pending,
            }
        })
        .await;
    }

    #[test]
    fn an_endpoint_that_became_full_after_its_pick_is_waited_for() {
        play(async {
            let pool = pool(Balance::RoundRobin, &[1]);
            let asker = Asker::at(now()).with_bounds(true);
            let picked = pool.pick(&asker).unwrap();
            let other = pool.admit(&asker).unwrap();
            assert!(pool.enter_at(picked).is_none(), "another one was faster");
            let mut place = pool.wait(PLAN, now()).unwrap();
            let ends = async {
                time::sleep(Duration::from_secs(1)).await;
                assert_eq!((running(&pool), pool.waiting()), (1, 1));
                drop(other);
            };
            let waits = waits_for(&pool, &mut place, &asker);
            let ((member, in_flight), ()) = tokio::join!(waits, ends);
            assert_eq!(member.endpoint.id, picked.endpoint.id);
            drop(in_flight);
            assert!(pool.enter_at(picked).is_some(), "there is room again");
        });
    }

    #[test]
    fn a_full_pool_has_no_least_bad_endpoint_and_one_that_is_out_has() {
        let pool = pool(Balance::RoundRobin, &[1]);
        let asker = Asker::at(now()).with_bounds(true);
        let entered = pool.admit(&asker).unwrap();
        assert!(pool.admit(&asker).is_none());
        let busy = pool.enter_least_bad().err();
        assert_eq!(busy, Some(Fault::EndpointsBusy));
        pool.members[0].endpoint.set_usable(false);
        assert_eq!(pool.enter_least_bad().err(), Some(Fault::EndpointsBusy));
        drop(entered);
        assert!(pool.enter_least_bad().is_ok());
    }
}
