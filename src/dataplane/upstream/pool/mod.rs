//! A pool: a named set of endpoints, in tiers, and what is held against their health.
//!
//! Before all tiers comes the endpoint of a session, where the pool has sessions.
//!
//! What happens at an endpoint comes in here ([`Pool::note`]), since what follows from it depends on the others: at most a
//! part of a pool is ejected, and never the last one that is healthy.

mod compare;

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
    slow: AtomicU64,
}

impl Ejections {
    fn count(&self, blame: Blame) {
        let count = match blame {
            Blame::InARow(_) => &self.in_a_row,
            Blame::Rate(_) => &self.rate,
            Blame::Slow(_) => &self.slow,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// For failures in a row, for a bad rate of successes, and for being slow.
    pub fn counts(&self) -> [(&'static str, u64); 3] {
        [
            ("failures", self.in_a_row.load(Ordering::Relaxed)),
            ("success_rate", self.rate.load(Ordering::Relaxed)),
            ("latency", self.slow.load(Ordering::Relaxed)),
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
                || settings.policy.ejects_slow()
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

    /// Whether picks, limits or ejections go by how long endpoints take, which then has to be observed.
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
        has_changed |= self.compare(now);
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
mod tests;
