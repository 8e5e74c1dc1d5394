//! A whole pool in virtual time: health, queue, limits, budget and picks together, against endpoints that follow a script.
//!
//! What decides is the real code. Exchanges do what those of `http::attempts` do, without a connection: they are admitted or
//! wait, are answered, fail, are refused or hang, go elsewhere if the budget has an attempt left, are hedged, and some of their
//! clients leave. Meanwhile the watch lets time pass, and reloads drain endpoints and bring them back.

use std::cell::{Cell, RefCell};
use std::num::NonZeroU32;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time;

use crate::base::addr::EndpointAddr;
use crate::dataplane::upstream::admission::{Entered, Turn};
use crate::dataplane::upstream::bounds::Bounds;
use crate::dataplane::upstream::budget::{self, RESERVE};
use crate::dataplane::upstream::endpoint::{Endpoint, Identity, Protocol};
use crate::dataplane::upstream::health::{Event, Outlier, Policy, Standing, Thresholds};
use crate::dataplane::upstream::pick::{Asker, Balance, Key, Method};
use crate::dataplane::upstream::pool::{Member, Pool, Settings};
use crate::dataplane::upstream::queue::{self, Place};
use crate::dataplane::upstream::testkit::{dice, play};

/// Runs, each with a seed of its own.
const RUNS: u64 = 1000;

/// Times that an exchange is sent again at most, and endpoints that may refuse it before it waits.
const REPEATS: u32 = 2;
const REFUSALS: u32 = 16;

/// The time of an attempt that gets no answer.
const HANGS: Duration = Duration::from_secs(1);

/// The time of an exchange.
const EXCHANGE: Duration = Duration::from_secs(8);

/// What an endpoint does with an attempt.
#[derive(Clone, Copy)]
enum Manner {
    Serves(Duration),
    Fails(Duration),
    Refuses,
    Hangs,
}

/// How an attempt ended.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Answered,
    Failed,
    Refused,
}

struct World {
    place: String,
    started: Instant,
    /// What each endpoint does, from when on.
    scripts: Vec<Vec<(Instant, Manner)>>,
    /// The pool in force.
    pool: RefCell<Rc<Pool>>,
    queue: queue::Plan,
    budget: budget::Plan,
    tally: Tally,
}

/// What a run comes to.
#[derive(Default)]
struct Tally {
    requests: Cell<u64>,
    /// Attempts that reached an endpoint.
    sent: Cell<u64>,
    /// Attempts of the budget that were spent.
    spent: Cell<u64>,
    seats: Cell<usize>,
    picks: Cell<u64>,
    queued: Cell<u64>,
    full: Cell<u64>,
    hedged: Cell<u64>,
    answered: Cell<u64>,
}

fn add<T: Copy + std::ops::Add<Output = T>>(cell: &Cell<T>, count: T) {
    cell.set(cell.get() + count);
}

/// A place in the queue, counted.
struct Seat<'a> {
    place: Place,
    world: &'a World,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.world.tally.seats.set(self.world.tally.seats.get() - 1);
    }
}

fn now() -> Instant {
    time::Instant::now().into_std()
}

fn in_turn(pool: &Pool) -> impl Iterator<Item = &Member> {
    pool.members.iter().filter(|member| member.weight > 0)
}

impl World {
    fn manner(&self, endpoint: &Endpoint) -> Manner {
        let EndpointAddr::Tcp(address) = endpoint.identity.address else {
            unreachable!("all of them have one")
        };
        let script = &self.scripts[usize::from(address.port())];
        let mut begun = script.iter().filter(|(from, _)| *from <= now());
        begun.next_back().unwrap().1
    }

    /// Who was picked may be picked.
    fn check_pick(&self, pool: &Pool, member: &Member) {
        add(&self.tally.picks, 1);
        let standing = member.endpoint.standing();
        let is_fit = standing == Standing::Healthy && member.weight > 0;
        let mut others = in_turn(pool).map(|other| other.endpoint.standing());
        assert!(
            is_fit || !others.any(|other| other == Standing::Healthy),
            "{}: {standing:?}, weight {}, while others are healthy",
            self.place,
            member.weight
        );
    }

    /// What holds at every moment.
    fn check(&self, pool: &Pool) {
        let place = &self.place;
        for member in &pool.members {
            let (running, most) = (member.endpoint.in_flight(), member.bounds.exchanges());
            assert!(running <= most, "{place}: {running} of {most}");
        }
        let (seats, size) = (self.tally.seats.get(), self.queue.size);
        assert!(seats <= size, "{place}: {seats} of {size} places");
        assert!(pool.waiting() <= seats, "{place}: somebody waits twice");
        let (spent, most) = (self.tally.spent.get(), self.budget_so_far());
        assert!(spent <= most, "{place}: {spent} attempts of {most}");
    }

    /// Attempts that the budget may have given by now.
    fn budget_so_far(&self) -> u64 {
        let rate = u64::from(self.budget.per_second);
        let share = self.tally.requests.get() * u64::from(self.budget.percent) / 100;
        let passed = now().duration_since(self.started) + RESERVE;
        // The clock of the budget has seconds and milliseconds.
        share + rate * (passed.as_millis() as u64 + 1) / 1000 + u64::from(rate > 0)
    }

    /// Makes an attempt, and says how it ended.
    async fn attempt(&self, pool: &Pool, (member, _counted): &Entered<'_>) -> End {
        self.check(pool);
        let endpoint = &member.endpoint;
        let began = now();
        let manner = self.manner(endpoint);
        if !matches!(manner, Manner::Refuses) {
            add(&self.tally.sent, 1);
        }
        let end = match manner {
            Manner::Serves(took) => {
                time::sleep(took).await;
                pool.pace().observe(took, now());
                endpoint.note_success();
                endpoint.latency().observe(now() - began, now());
                return End::Answered;
            }
            Manner::Refuses => End::Refused,
            Manner::Fails(took) => {
                time::sleep(took).await;
                End::Failed
            }
            Manner::Hangs => {
                time::sleep(HANGS).await;
                End::Failed
            }
        };
        let event = match end {
            End::Refused => Event::Refused,
            End::Answered | End::Failed => Event::Failed { retry_after: None },
        };
        pool.note(endpoint, event, &"", now());
        endpoint.latency().fail(now() - began, now());
        end
    }

    /// The same with a second one beside it if it is slow; gives the endpoint that counts.
    async fn hedged<'p>(
        &self,
        pool: &'p Pool,
        entered: Entered<'p>,
        asker: &mut Asker,
        left: &mut u32,
    ) -> (End, Entered<'p>) {
        let after = pool.pace().within(95, now()).filter(|_| *left > 0);
        let mut first = Box::pin(self.attempt(pool, &entered));
        if let Some(after) = after {
            if let Ok(end) = time::timeout(after, first.as_mut()).await {
                drop(first);
                return (end, entered);
            }
            asker.pass_over(entered.0.endpoint.id);
            if let Some(other) = pool.admit(asker)
                && pool.charge(now()).is_some()
            {
                self.check_pick(pool, other.0);
                add(&self.tally.spent, 1);
                add(&self.tally.hedged, 1);
                *left -= 1;
                asker.pass_over(other.0.endpoint.id);
                let is_second = tokio::select! {
                    biased;
                    end = first.as_mut() => Err(end),
                    end = self.attempt(pool, &other) => Ok(end),
                };
                drop(first);
                return match is_second {
                    Ok(end) => (end, other),
                    Err(end) => (end, entered),
                };
            }
        }
        let end = first.as_mut().await;
        drop(first);
        (end, entered)
    }

    /// Waits for an endpoint; when the wait has ended the least bad one is for one attempt.
    async fn wait<'p>(
        &'p self,
        pool: &'p Pool,
        asker: &Asker,
        seat: &mut Option<Seat<'p>>,
        has_ended: &mut bool,
    ) -> Option<Entered<'p>> {
        if pool.is_empty() {
            return None;
        }
        let began = now();
        let seat_now = match seat.take() {
            Some(seat) => seat,
            None => {
                let Some(place) = pool.wait(self.queue, began) else {
                    assert_eq!(self.tally.seats.get(), self.queue.size, "{}", self.place);
                    add(&self.tally.full, 1);
                    return None;
                };
                add(&self.tally.seats, 1);
                add(&self.tally.queued, 1);
                Seat { place, world: self }
            }
        };
        self.check(pool);
        let place = &mut seat.insert(seat_now).place;
        let turn = pool.take_turn(place, asker, || true).await;
        let waited = now() - began;
        let most = self.queue.wait + Duration::from_millis(2);
        assert!(waited <= most, "{}: waited {waited:?}", self.place);
        if let Turn::Entered(entered) = turn {
            return Some(entered);
        }
        *has_ended = true;
        *seat = None;
        let entered = pool.enter_least_bad().ok()?;
        let standing = entered.0.endpoint.standing();
        let best = in_turn(pool).map(|member| member.endpoint.standing()).min();
        assert_eq!(Some(standing), best, "{}: not the least bad", self.place);
        Some(entered)
    }

    async fn exchange(&self, key: u64, may_repeat: bool, is_hedged: bool) {
        let pool = Rc::clone(&self.pool.borrow());
        let pool = &*pool;
        add(&self.tally.requests, 1);
        pool.note_request(now());
        let mut asker = Asker::at(now())
            .with_bounds(pool.is_bounded)
            .with_key(Some(key));
        let (mut left, mut refusals) = (REPEATS, REFUSALS);
        let (mut seat, mut has_ended) = (None, false);
        let mut charge = None;
        let mut attempts = 0;
        let mut entered = match pool.admit(&asker) {
            Some(entered) => entered,
            None => match self.wait(pool, &asker, &mut seat, &mut has_ended).await {
                Some(entered) => entered,
                None => return,
            },
        };
        loop {
            if !has_ended {
                self.check_pick(pool, entered.0);
            }
            attempts += 1;
            let most = 1 + REPEATS + REFUSALS + 1;
            assert!(attempts <= most, "{}: {attempts} attempts", self.place);
            let end;
            (end, entered) = match is_hedged && may_repeat {
                true => self.hedged(pool, entered, &mut asker, &mut left).await,
                false => (self.attempt(pool, &entered).await, entered),
            };
            let last = entered.0.endpoint.id;
            drop(entered);
            if end == End::Answered {
                add(&self.tally.answered, 1);
                if let Some(charge) = charge {
                    pool.refund(charge);
                    self.tally.spent.set(self.tally.spent.get() - 1);
                }
                return;
            }
            let is_free = end == End::Refused;
            if has_ended || (!is_free && (!may_repeat || left == 0)) {
                return;
            }
            asker.pass_over(last);
            let mut next = pool.pick(&asker);
            if is_free && refusals == 0 {
                next = None;
            } else if is_free {
                refusals -= 1;
            } else if next.is_none() && pool.pick(&asker.afresh()).is_some() {
                // All others were tried.
                return;
            } else {
                charge = pool.charge(now());
                if charge.is_none() {
                    return;
                }
                add(&self.tally.spent, 1);
                left -= 1;
            }
            if let Some(next) = next {
                self.check_pick(pool, next);
                if let Some(in_flight) = pool.enter_at(next) {
                    entered = (next, in_flight);
                    continue;
                }
            }
            asker = asker.afresh();
            match self.wait(pool, &asker, &mut seat, &mut has_ended).await {
                Some(next) => entered = next,
                None => return,
            }
        }
    }

    /// What the control plane does: time passes, endpoints are asked.
    async fn watch(&self) {
        for step in 0_u64.. {
            let pool = Rc::clone(&self.pool.borrow());
            let is_due = step.is_multiple_of(5);
            if is_due || pool.is_wanted() {
                pool.tick(now());
            }
            for member in &pool.members {
                let manner = self.manner(&member.endpoint);
                let is_reached = !matches!(manner, Manner::Refuses);
                if is_due && is_reached && member.endpoint.standing() == Standing::Refusing {
                    pool.note(&member.endpoint, Event::Reached, &"", now());
                }
                if pool.settings.policy.check.is_some() && step.is_multiple_of(20) {
                    let is_good = matches!(manner, Manner::Serves(_));
                    pool.note(&member.endpoint, Event::Checked(is_good), &"", now());
                }
            }
            self.check(&pool);
            time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// A reload that drains some endpoints and brings others back.
    fn reload(&self, chance: &mut impl FnMut(u64) -> u64) {
        let before = Rc::clone(&self.pool.borrow());
        let mut members = before.members.to_vec();
        for member in &mut members {
            member.weight = u32::from(chance(4) > 0);
        }
        let (name, settings) = (before.name.clone(), before.settings.clone());
        let next = Pool::new(name, members, settings, Some(&before), chance(1000));
        *self.pool.borrow_mut() = Rc::new(next);
    }
}

fn settings(chance: &mut impl FnMut(u64) -> u64) -> Settings {
    let hash = Balance::Hash {
        key: Key::ClientIp,
        method: Method::Maglev,
    };
    let balances = [
        Balance::RoundRobin,
        Balance::LeastConnections,
        Balance::RandomTwo,
        Balance::PeakEwma,
        hash,
    ];
    Settings {
        balance: balances[chance(5) as usize].clone(),
        sticky: None,
        slow_start: None,
        connect_timeout: Duration::from_secs(1),
        policy: Policy {
            check: (chance(3) == 0).then_some(Thresholds { rise: 2, fall: 3 }),
            outlier: Some(Outlier {
                failures: 1 + chance(6) as u32,
                success_rate: 50,
                requests: 20,
                window: Duration::from_secs(10),
                ejection: Duration::from_millis(500 + chance(3000)),
                max_ejected: 50,
                slow: None,
            }),
        },
        check: None,
        panic_threshold: None,
        queue: Some(queue::Plan {
            size: 1 + chance(30) as usize,
            wait: Duration::from_millis(100 + chance(3000)),
        }),
        retry_budget: Some(budget::Plan {
            percent: 20,
            per_second: [0, 3][chance(2) as usize],
        }),
    }
}

/// What an endpoint does over the time of a run.
fn script(
    start: Instant,
    all_fail: bool,
    chance: &mut impl FnMut(u64) -> u64,
) -> Vec<(Instant, Manner)> {
    let mut from = start;
    let phases = 1 + chance(4);
    let phases = (0..phases).map(|_| {
        let fast = Duration::from_millis(1 + chance(40));
        let kind = if all_fail { 6 + chance(4) } else { chance(10) };
        let manner = match kind {
            0..4 => Manner::Serves(fast),
            4..6 => Manner::Serves(fast * 20),
            6 | 7 => Manner::Fails(fast),
            8 => Manner::Hangs,
            _ => Manner::Refuses,
        };
        let phase = (from, manner);
        from += Duration::from_millis(200 + chance(3000));
        phase
    });
    phases.collect()
}

fn world(seed: u64, all_fail: bool, chance: &mut impl FnMut(u64) -> u64) -> World {
    let settings = settings(chance);
    let count = 1 + chance(6) as u16;
    let is_bounded = chance(2) == 0;
    let members = (0..count).map(|number| {
        let identity = Identity {
            pool: "web".into(),
            address: EndpointAddr::Tcp(([127, 0, 0, 1], number).into()),
            protocol: Protocol::Auto,
            tls: None,
        };
        let limit = is_bounded.then(|| 1 + chance(5) as u32);
        Member {
            bounds: Bounds {
                requests: limit.and_then(NonZeroU32::new),
                connections: None,
                adaptive: None,
            },
            ..Member::new(Arc::new(match settings.policy.check {
                Some(_) => Endpoint::unproven(identity, None),
                None => Endpoint::new(identity, None),
            }))
        }
    });
    let members = members.collect();
    let (queue, budget) = (settings.queue.unwrap(), settings.retry_budget.unwrap());
    let pool = Pool::new("web".into(), members, settings, None, seed);
    let started = now();
    World {
        place: format!("seed {seed}"),
        started,
        scripts: (0..count)
            .map(|_| script(started, all_fail, chance))
            .collect(),
        pool: RefCell::new(Rc::new(pool)),
        queue,
        budget,
        tally: Tally::default(),
    }
}

/// Plays a run to its end; gives what it came to.
async fn run(seed: u64) -> Tally {
    let mut chance = dice(seed);
    let all_fail = chance(4) == 0;
    let world = Rc::new(world(seed, all_fail, &mut chance));
    let mut exchanges = JoinSet::new();
    let pause = 1 + chance(60);
    let watched = Rc::clone(&world);
    let mut watch = Box::pin(async move { watched.watch().await });
    for _ in 0..40 + chance(60) {
        let (key, kind) = (chance(u64::MAX), chance(8));
        let patience = match chance(8) {
            0 => Duration::from_millis(chance(400)),
            _ => EXCHANGE,
        };
        let theirs = Rc::clone(&world);
        exchanges.spawn_local(async move {
            let exchange = theirs.exchange(key, kind > 0, kind > 5);
            // Whose time is up leaves in the middle of it.
            let _ = time::timeout(patience, exchange).await;
        });
        let pause = time::sleep(Duration::from_millis(chance(2 * pause)));
        tokio::select! {
            biased;
            () = watch.as_mut() => {}
            () = pause => {}
        }
        if chance(30) == 0 {
            world.reload(&mut chance);
        }
    }
    let all = async {
        while let Some(ended) = exchanges.join_next().await {
            ended.unwrap()
        }
    };
    tokio::select! {
        biased;
        () = watch.as_mut() => {}
        () = all => {}
    }
    let pool = Rc::clone(&world.pool.borrow());
    let place = &world.place;
    for member in &pool.members {
        assert_eq!(member.endpoint.in_flight(), 0, "{place}: it has ended");
    }
    assert_eq!(pool.waiting(), 0, "{place}");
    assert!(!pool.live.queue.is_pending(), "{place}");
    let places = (0..world.queue.size).map(|_| pool.wait(world.queue, now()));
    let places: Vec<_> = places.collect();
    assert!(places.iter().all(Option::is_some), "{place}: all have left");
    let tally = &world.tally;
    let (requests, sent) = (tally.requests.get(), tally.sent.get());
    if all_fail && world.budget.per_second == 0 {
        assert!(sent * 5 <= requests * 6, "{place}: {sent} for {requests}");
    }
    drop(watch);
    Rc::try_unwrap(world).ok().unwrap().tally
}

#[test]
fn whatever_endpoints_do_a_pool_keeps_its_rules() {
    let all = Tally::default();
    for seed in 1..=RUNS {
        let one = play(run(seed));
        for (sum, count) in [
            (&all.picks, one.picks),
            (&all.queued, one.queued),
            (&all.full, one.full),
            (&all.hedged, one.hedged),
            (&all.answered, one.answered),
            (&all.spent, one.spent),
        ] {
            add(sum, count.get());
        }
    }
    // Nothing of it is idle.
    for (what, sum) in [
        ("picks", &all.picks),
        ("waits", &all.queued),
        ("full queues", &all.full),
        ("hedges", &all.hedged),
        ("answers", &all.answered),
        ("repeats in vain", &all.spent),
    ] {
        assert!(sum.get() > RUNS / 10, "{what}: {}", sum.get());
    }
}
