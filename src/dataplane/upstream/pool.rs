//! A pool: a named set of endpoints, in tiers, and what is held against their health.
//!
//! Before all tiers comes the endpoint of a session, where the pool has sessions.
//!
//! What happens at an endpoint comes in here ([`Pool::note`]), since what follows from it depends on the others: at most a
//! part of a pool is ejected, and never the last one that is healthy.

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use http::HeaderValue;
use http::request::Parts;

use crate::base::addr::EndpointAddr;
use crate::base::fault::Fault;
use crate::base::name::PoolName;
use crate::dataplane::upstream::bounds::Bounds;
use crate::dataplane::upstream::budget::{self, Budget, Charge};
use crate::dataplane::upstream::endpoint::{Endpoint, InFlight};
use crate::dataplane::upstream::health::{Blame, Change, Event, Policy, Standing};
use crate::dataplane::upstream::mirror::Copies;
use crate::dataplane::upstream::pace::Pace;
use crate::dataplane::upstream::pick::{self, Asker, Balance};
use crate::dataplane::upstream::probe::Plan;
use crate::dataplane::upstream::queue::{self, Queue};
use crate::dataplane::upstream::reach::{Dials, Reach};
use crate::dataplane::upstream::sticky::{self, Sticky};
use crate::dataplane::upstream::tiers::Tiers;

/// Answers of one endpoint that broke off between two ticks and are held against it, at most.
const CUTS: u32 = 1000;

/// An endpoint and its share of the pool's work.
#[derive(Clone, Debug)]
pub struct Member {
    /// The endpoint, shared with the snapshots before and after.
    pub endpoint: Arc<Endpoint>,
    /// Its weight; 0 takes it out of the turn.
    pub weight: u32,
    /// Its priority: who has the lowest comes first.
    pub priority: u64,
    /// Whether it is in another zone than we are.
    pub is_far: bool,
    /// Where it is, if it is known by name.
    pub reach: Option<Arc<Reach>>,
    /// What it takes at most.
    pub bounds: Bounds,
}

impl Member {
    /// An endpoint like any other.
    pub fn new(endpoint: Arc<Endpoint>) -> Self {
        Self {
            endpoint,
            weight: 1,
            priority: 0,
            is_far: false,
            reach: None,
            bounds: Bounds::default(),
        }
    }

    /// Whether it says the same of the same endpoint.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.endpoint, &other.endpoint)
            && self.weight == other.weight
            && self.tier() == other.tier()
            && self.reach == other.reach
            && self.bounds == other.bounds
    }

    /// Whether it may take another exchange.
    pub(super) fn has_room(&self) -> bool {
        self.endpoint.in_flight() < self.most()
    }

    /// How many exchanges it takes at a time.
    pub(super) fn most(&self) -> usize {
        let most = self.bounds.exchanges();
        match &self.bounds.adaptive {
            None => most,
            Some(plan) => most.min(self.endpoint.adaptive().limit(plan)),
        }
    }

    pub(super) fn try_enter(&self, queue: &Arc<Queue>) -> Option<InFlight> {
        self.endpoint.try_enter(self.most(), queue)
    }

    /// What it shares with the members of its tier.
    pub fn tier(&self) -> (u64, bool) {
        (self.priority, self.is_far)
    }
}

/// What is said of a pool beside its members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How it chooses.
    pub balance: Balance,
    /// Its sessions; absent: it has none.
    pub sticky: Option<sticky::Settings>,
    /// How long an endpoint takes to join; absent: it joins at once.
    pub slow_start: Option<Duration>,
    /// How long a connection to an endpoint may take, TLS included.
    pub connect_timeout: Duration,
    /// What is held against its endpoints.
    pub policy: Policy,
    /// How its endpoints are checked; absent: they are not.
    pub check: Option<Arc<Plan>>,
    /// If fewer of a hundred endpoints are healthy, health is not looked at: all of them are better than a few.
    pub panic_threshold: Option<u32>,
    /// How many requests wait while none is usable, and how long; absent: they do not.
    pub queue: Option<queue::Plan>,
    /// How many attempts are made beyond the first ones; absent: as many as routes allow.
    pub retry_budget: Option<budget::Plan>,
}

/// A named set of endpoints.
#[derive(Debug)]
pub struct Pool {
    /// Its name.
    pub name: PoolName,
    /// Its endpoints, in the order of their tiers. Empty while none of its names resolves.
    pub members: Box<[Member]>,
    /// What is said of it.
    pub settings: Settings,
    tiers: Tiers,
    sticky: Option<Sticky>,
    /// Whether an endpoint may be full.
    pub(super) is_bounded: bool,
    wants_latency: bool,
    /// Shared with the pools of this name in the snapshots before and after.
    pub live: Arc<Live>,
}

/// What changes about a pool while traffic flows, beside its endpoints.
#[derive(Debug, Default)]
pub struct Live {
    /// Whoever changes the health of an endpoint holds it, so that two of them are not ejected as the last one each.
    judging: Mutex<()>,
    is_out: AtomicBool,
    ejections: Ejections,
    pub(super) queue: Arc<Queue>,
    budget: Budget,
    jitter: AtomicUsize,
    /// There where requests are hedged.
    pace: OnceLock<Box<Pace>>,
    copies: Copies,
}

/// Ejections so far, by what they were for.
#[derive(Debug, Default)]
pub struct Ejections {
    in_a_row: AtomicU64,
    rate: AtomicU64,
}

impl Ejections {
    fn count(&self, blame: Blame) {
        let count = match blame {
            Blame::InARow(_) => &self.in_a_row,
            Blame::Rate(_) => &self.rate,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// For failures in a row, and for a bad rate of successes.
    pub fn counts(&self) -> [(&'static str, u64); 2] {
        [
            ("failures", self.in_a_row.load(Ordering::Relaxed)),
            ("success_rate", self.rate.load(Ordering::Relaxed)),
        ]
    }
}

impl Live {
    /// Ejections so far.
    pub fn ejections(&self) -> &Ejections {
        &self.ejections
    }

    /// Copies of requests for it.
    pub fn copies(&self) -> &Copies {
        &self.copies
    }

    fn judge(&self) -> MutexGuard<'_, ()> {
        self.judging.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool {
    /// A pool of these members, in whatever order, which goes on where `previous` stands; what it draws at random follows
    /// from the seed.
    pub fn new(
        name: PoolName,
        mut members: Vec<Member>,
        settings: Settings,
        previous: Option<&Self>,
        seed: u64,
    ) -> Self {
        let tiers = Tiers::new(&settings.balance, &mut members, seed);
        if let Some(previous) = previous {
            tiers.resume(&previous.tiers);
        }
        let sticky = settings.sticky.as_ref();
        Self {
            name,
            sticky: sticky.map(|sticky| Sticky::new(sticky, &members)),
            wants_latency: matches!(settings.balance, Balance::PeakEwma)
                || members
                    .iter()
                    .any(|member| member.bounds.adaptive.is_some()),
            is_bounded: members.iter().any(|member| !member.bounds.is_none()),
            members: members.into(),
            settings,
            tiers,
            live: previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.live)),
        }
    }

    /// What its picks have to know of a request that comes from `client`.
    pub fn asker(&self, parts: &Parts, client: IpAddr, now: Instant, wall: SystemTime) -> Asker {
        let mut asker = Asker::at(now)
            .with_ramp(self.settings.slow_start)
            .with_bounds(self.is_bounded);
        if let Some(sticky) = &self.sticky {
            asker = asker.with_session(sticky.session(parts, wall));
        }
        match &self.settings.balance {
            Balance::RoundRobin
            | Balance::LeastConnections
            | Balance::RandomTwo
            | Balance::PeakEwma => asker,
            Balance::Hash { key, method: _ } => asker.with_key(key.hash(parts, client)),
        }
    }

    /// Whether picks or limits go by how long endpoints take, which then has to be observed.
    pub fn wants_latency(&self) -> bool {
        self.wants_latency
    }

    /// Chooses an endpoint for whoever asks; `None` when there is none left.
    pub fn pick(&self, asker: &Asker) -> Option<&Member> {
        let own = asker.session.and_then(|session| {
            let member = self.members.get(session.member as usize);
            member.filter(|member| asker.may_take(member))
        });
        own.or_else(|| self.tiers.pick(&self.members, asker))
    }

    /// The `Set-Cookie` that an answer of `endpoint` brings whoever asked, if it is to bring one.
    pub fn set_cookie(
        &self,
        asker: &Asker,
        endpoint: &Endpoint,
        is_secure: bool,
        wall: SystemTime,
    ) -> Option<HeaderValue> {
        let sticky = self.sticky.as_ref()?;
        let session = asker.session.and_then(|session| {
            let member = self.members.get(session.member as usize)?;
            Some((session, member))
        });
        sticky.set_cookie(endpoint.id, session, is_secure, wall)
    }

    /// The addresses to dial for an endpoint that is known by name, in turn; none for others.
    pub fn dials(&self, endpoint: &Endpoint) -> Dials {
        match endpoint.identity.address {
            EndpointAddr::Tcp(_) | EndpointAddr::Unix(_) => Dials::new(),
            EndpointAddr::Name { .. } => {
                let mut members = self.members.iter();
                let member = members.find(|member| member.endpoint.id == endpoint.id);
                let reach = member.and_then(|member| member.reach.as_ref());
                reach.map(|reach| reach.dials()).unwrap_or_default()
            }
        }
    }

    /// Notes a request, for the budget of its retries.
    #[inline]
    pub fn note_request(&self, now: Instant) {
        if let Some(plan) = self.settings.retry_budget {
            self.live.budget.note_request(plan, now);
        }
    }

    /// Takes an attempt beyond the first from the budget; `None` when there is nothing left.
    pub fn charge(&self, now: Instant) -> Option<Charge> {
        match self.settings.retry_budget {
            None => Some(Charge::FREE),
            Some(plan) => self.live.budget.charge(plan, now),
        }
    }

    /// Gives back what an attempt took that was answered well.
    pub fn refund(&self, charge: Charge) {
        if let Some(plan) = self.settings.retry_budget {
            self.live.budget.refund(plan, charge);
        }
    }

    /// How long its answers take to begin: kept from the first look on.
    pub fn pace(&self) -> &Pace {
        self.live.pace.get_or_init(Box::default)
    }

    /// A random number, for pauses that are not to end together.
    pub fn dice(&self) -> u64 {
        pick::mix(0, self.live.jitter.fetch_add(1, Ordering::Relaxed))
    }

    /// Takes in what has happened at one of its endpoints; `detail` is for the process log, should something change.
    pub fn note(&self, endpoint: &Endpoint, event: Event, detail: &dyn fmt::Display, now: Instant) {
        let _judging = self.live.judge();
        if self.judge(endpoint, event, detail, now) {
            self.review(now);
        }
    }

    /// Lets time pass: ejections end, old failures are forgotten. To be called several times a second.
    pub fn tick(&self, now: Instant) {
        let _judging = self.live.judge();
        let mut has_changed = false;
        for member in &self.members {
            let cuts = member.endpoint.take_cuts().min(CUTS);
            for _ in 0..cuts {
                let event = Event::Failed { retry_after: None };
                let detail = Fault::ResponseCut.token();
                has_changed |= self.judge(&member.endpoint, event, &detail, now);
            }
            has_changed |= self.judge(&member.endpoint, Event::Ticked, &"", now);
        }
        // Those that were out may be gone, and the members be others now.
        let is_back = self.live.is_out.load(Ordering::Relaxed) && self.has_healthy();
        if has_changed || is_back {
            self.review(now);
        }
        // A reload may have changed the threshold.
        self.publish();
        if self.live.queue.is_waiting() && self.has_usable() {
            self.call(false, now);
        }
    }

    /// Says whether the standing of the endpoint has changed.
    fn judge(
        &self,
        endpoint: &Endpoint,
        event: Event,
        detail: &dyn fmt::Display,
        now: Instant,
    ) -> bool {
        let change = endpoint.step(event, &self.settings.policy, now);
        if let Some(change) = change {
            self.tell(endpoint, change, detail);
        }
        let blame = endpoint.health().blame(&self.settings.policy);
        let Some(blame) = blame.filter(|_| self.may_eject(endpoint)) else {
            return change.is_some();
        };
        if let Some(change) = endpoint.step(Event::Ejected(blame), &self.settings.policy, now) {
            self.live.ejections.count(blame);
            self.tell(endpoint, change, detail);
        }
        true
    }

    /// Whether another one may be ejected: one that is healthy stays, and not too many are out already.
    fn may_eject(&self, endpoint: &Endpoint) -> bool {
        let (mut total, mut ejected, mut has_other) = (0, 1, false);
        for member in self.in_turn() {
            total += 1;
            if member.endpoint.id == endpoint.id {
                continue;
            }
            match member.endpoint.standing() {
                Standing::Healthy => has_other = true,
                Standing::Ejected => ejected += 1,
                Standing::Unhealthy | Standing::Unproven | Standing::Refusing => {}
            }
        }
        let most = self
            .settings
            .policy
            .outlier
            .map_or(0, |outlier| outlier.max_ejected);
        has_other && ejected * 100 <= u64::from(most) * total
    }

    /// Does what follows for the others from a change of one.
    fn review(&self, now: Instant) {
        if !self.has_healthy() {
            // Rests are for pools that can do without.
            for member in self.in_turn() {
                if member.endpoint.standing() == Standing::Ejected {
                    let change = member
                        .endpoint
                        .step(Event::Pardoned, &self.settings.policy, now);
                    if let Some(change) = change {
                        self.tell(&member.endpoint, change, &"");
                    }
                }
            }
        }
        if self.settings.panic_threshold.is_some() {
            self.publish();
        }
        if self.in_turn().next().is_none() {
            return;
        }
        let is_out = !self.has_healthy();
        let was_out = self.live.is_out.swap(is_out, Ordering::Relaxed);
        match (was_out, is_out) {
            (false, true) => {
                tracing::warn!(pool = %self.name, "no endpoint of the pool is healthy");
            }
            (true, false) => {
                tracing::info!(pool = %self.name, "an endpoint of the pool is healthy again");
                self.call(true, now);
            }
            (true, true) | (false, false) => {}
        }
    }

    /// Whether so few are healthy that health is not looked at.
    pub fn is_in_panic(&self) -> bool {
        let threshold = self.settings.panic_threshold;
        threshold.is_some_and(|threshold| self.panics(threshold))
    }

    /// Tells every pick who takes exchanges.
    fn publish(&self) {
        let panics = self.is_in_panic();
        for member in &self.members {
            member
                .endpoint
                .set_usable(match member.endpoint.standing() {
                    Standing::Healthy => true,
                    Standing::Ejected | Standing::Unhealthy | Standing::Refusing => panics,
                    Standing::Unproven => false,
                });
        }
    }

    /// Whether too few are healthy. Those that are new are left out of it: what they are is not known yet.
    fn panics(&self, threshold: u32) -> bool {
        let standings = self.in_turn().map(|member| member.endpoint.standing());
        let (mut total, mut healthy) = (0, 0);
        for standing in standings.filter(|standing| *standing != Standing::Unproven) {
            total += 1;
            healthy += u64::from(standing == Standing::Healthy);
        }
        healthy * 100 < total * u64::from(threshold)
    }

    fn has_healthy(&self) -> bool {
        self.in_turn()
            .any(|member| member.endpoint.standing() == Standing::Healthy)
    }

    /// Those that take exchanges at all.
    pub(super) fn in_turn(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.weight > 0)
    }

    fn tell(&self, endpoint: &Endpoint, change: Change, detail: &dyn fmt::Display) {
        let Change { from, to, cause } = change;
        let (pool, endpoint) = (&self.name, &endpoint.label);
        let (from, to) = (from.as_str(), to.as_str());
        tracing::info!(%pool, %endpoint, from, to, %cause, %detail, "the health of an endpoint has changed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock;
    use crate::dataplane::upstream::endpoint::{Identity, Protocol};
    use crate::dataplane::upstream::health::{Outlier, Thresholds};

    const FAILED: Event = Event::Failed { retry_after: None };

    const OUTLIER: Outlier = Outlier {
        failures: 5,
        success_rate: 50,
        requests: 20,
        window: Duration::from_secs(10),
        ejection: Duration::from_secs(10),
        max_ejected: 50,
    };

    /// A pool of so many endpoints with weights 1 and, for those with odd numbers, 2.
    fn pool(count: u16, check: Option<Thresholds>) -> Pool {
        let member = |number: u16| {
            let identity = Identity {
                pool: "web".into(),
                address: EndpointAddr::Tcp(([127, 0, 0, 1], 1000 + number).into()),
                protocol: Protocol::Auto,
                tls: None,
            };
            let endpoint = match check {
                Some(_) => Endpoint::unproven(identity, None),
                None => Endpoint::new(identity, None),
            };
            Member {
                weight: 1 + u32::from(number) % 2,
                ..Member::new(Arc::new(endpoint))
            }
        };
        let settings = Settings {
            balance: Balance::RoundRobin,
            sticky: None,
            slow_start: None,
            connect_timeout: Duration::from_secs(1),
            policy: Policy {
                check,
                outlier: Some(OUTLIER),
            },
            check: None,
            panic_threshold: None,
            queue: None,
            retry_budget: None,
        };
        let members = (0..count).map(member).collect();
        Pool::new("web".into(), members, settings, None, 1)
    }

    fn endpoint(pool: &Pool, number: usize) -> &Endpoint {
        &pool.members[number].endpoint
    }

    fn fails(pool: &Pool, number: usize, times: u32, now: Instant) {
        for _ in 0..times {
            pool.note(endpoint(pool, number), FAILED, &"", now);
        }
    }

    fn standings(pool: &Pool) -> Vec<Standing> {
        let members = pool.members.iter();
        members.map(|member| member.endpoint.standing()).collect()
    }

    #[test]
    fn half_of_a_pool_is_ejected_at_most_and_never_the_last() {
        let check = |count: u16, expected: usize| {
            let pool = pool(count, None);
            let now = clock::now();
            for number in 0..usize::from(count) {
                fails(&pool, number, 50, now);
            }
            let standings = standings(&pool).into_iter();
            let ejected = standings.filter(|one| *one == Standing::Ejected).count();
            assert_eq!(ejected, expected, "of {count}");
        };
        check(1, 0);
        check(2, 1);
        check(3, 1);
        check(4, 2);
        check(5, 2);
    }

    #[test]
    fn an_ejection_ends_when_the_others_are_gone() {
        let pool = pool(2, None);
        let now = clock::now();
        fails(&pool, 0, 5, now);
        assert_eq!(standings(&pool), [Standing::Ejected, Standing::Healthy]);
        pool.note(endpoint(&pool, 1), Event::Refused, &"", now);
        assert_eq!(standings(&pool), [Standing::Healthy, Standing::Refusing]);
        assert_eq!(
            pool.pick(&Asker::at(clock::now())).unwrap().endpoint.id,
            endpoint(&pool, 0).id
        );
    }

    #[test]
    fn a_pool_whose_last_endpoint_is_replaced_is_no_longer_out() {
        let before = pool(1, None);
        let now = clock::now();
        before.note(endpoint(&before, 0), Event::Refused, &"", now);
        let is_out = || before.live.is_out.load(Ordering::Relaxed);
        assert!(is_out());
        let after = |count| Pool {
            live: Arc::clone(&before.live),
            ..pool(count, None)
        };
        after(0).tick(now);
        assert!(is_out(), "nobody is there");
        after(1).tick(now);
        assert!(!is_out());
    }

    #[test]
    fn a_pool_in_panic_uses_all_but_those_that_never_passed_a_check() {
        let thresholds = Thresholds { rise: 1, fall: 1 };
        let mut pool = pool(5, Some(thresholds));
        pool.settings.panic_threshold = Some(50);
        let now = clock::now();
        let usable = || {
            let members = pool.members.iter();
            members
                .map(|member| member.endpoint.is_usable())
                .collect::<Vec<_>>()
        };
        for number in 0..4 {
            pool.note(endpoint(&pool, number), Event::Checked(true), &"", now);
        }
        for number in 0..2 {
            pool.note(endpoint(&pool, number), Event::Checked(false), &"", now);
        }
        assert_eq!(usable(), [false, false, true, true, false]);
        pool.note(endpoint(&pool, 2), Event::Checked(false), &"", now);
        assert_eq!(usable(), [true, true, true, true, false]);
        pool.note(endpoint(&pool, 0), Event::Checked(true), &"", now);
        assert_eq!(usable(), [true, false, false, true, false]);
        for number in 0..4 {
            pool.note(endpoint(&pool, number), Event::Checked(false), &"", now);
        }
        pool.tick(now);
        assert_eq!(usable(), [true, true, true, true, false]);
        let mut calm = pool;
        calm.settings.panic_threshold = None;
        calm.tick(now);
        assert!(
            calm.pick(&Asker::at(clock::now())).is_none(),
            "the threshold is gone"
        );
    }

    #[test]
    fn an_endpoint_whose_answers_break_off_is_ejected() {
        let pool = pool(2, None);
        let now = clock::now();
        for _ in 0..5 {
            endpoint(&pool, 0).note_success();
            endpoint(&pool, 0).note_cut();
        }
        endpoint(&pool, 1).note_cut();
        assert_eq!(standings(&pool), [Standing::Healthy, Standing::Healthy]);
        pool.tick(now);
        assert_eq!(standings(&pool), [Standing::Ejected, Standing::Healthy]);
    }

    /// Thousands of events on pools of all sizes, in virtual time.
    #[test]
    fn whatever_happens_the_rules_of_a_pool_hold() {
        for seed in 1..=300_u64 {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut dice = |sides: u64| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state % sides
            };
            let check = (dice(2) == 0).then_some(Thresholds { rise: 2, fall: 3 });
            let pool = pool(1 + dice(8) as u16, check);
            let count = pool.members.len() as u64;
            let mut now = clock::now();
            let mut running = Vec::new();
            for step in 0..400 {
                now += Duration::from_millis(dice(400));
                if let Some(picked) = pool.pick(&Asker::at(clock::now())) {
                    let is_healthy = picked.endpoint.standing() == Standing::Healthy;
                    assert!(
                        is_healthy,
                        "seed {seed} step {step}: {:?}",
                        standings(&pool)
                    );
                    running.push(picked.endpoint.enter());
                } else {
                    assert!(!pool.has_healthy(), "seed {seed} step {step}");
                }
                let one = endpoint(&pool, dice(count) as usize);
                // Some are worse than others.
                let is_bad = one.id.0.is_multiple_of(3);
                match dice(8) {
                    0 => pool.tick(now),
                    1 => pool.note(one, Event::Checked(dice(3) > 0), &"", now),
                    2 if is_bad => pool.note(one, Event::Refused, &"", now),
                    2 | 3 => pool.note(one, Event::Reached, &"", now),
                    4 => running.clear(),
                    _ if is_bad || dice(9) == 0 => pool.note(one, FAILED, &"", now),
                    _ => one.note_success(),
                }
                let told = standings(&pool);
                let ejected = told.iter().filter(|one| **one == Standing::Ejected).count();
                let place = || format!("seed {seed} step {step}: {told:?}");
                assert!(ejected * 2 <= told.len(), "{}", place());
                assert!(ejected == 0 || pool.has_healthy(), "{}", place());
                for member in &pool.members {
                    let is_healthy = member.endpoint.standing() == Standing::Healthy;
                    assert_eq!(member.endpoint.is_usable(), is_healthy, "{}", place());
                }
            }
            drop(running);
            let left: usize = pool
                .members
                .iter()
                .map(|one| one.endpoint.in_flight())
                .sum();
            assert_eq!(left, 0);
        }
    }
}
