//! The watch over endpoints: runs the active checks, sees whether those that refuse connections take them again, and lets
//! time pass for their health.
//!
//! One task on the control thread, with one more for each check under way. It reads the snapshot as a worker does; what it
//! finds it tells the endpoints, by way of their pool, and nobody else. When an endpoint is to be checked next is known by the
//! endpoint itself, so that a reload that keeps it changes nothing.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::{self, JoinError, JoinSet};
use tokio::time;

use crate::base::clock;
use crate::base::fault::Fault;
use crate::base::name::EndpointId;
use crate::dataplane::snapshot::{Snapshot, Source};
use crate::dataplane::upstream::connect;
use crate::dataplane::upstream::endpoint::Endpoint;
use crate::dataplane::upstream::health::{Event, Standing};
use crate::dataplane::upstream::pool::Pool;
use crate::dataplane::upstream::probe::{self, Failure, Kept, Plan};

/// How often time passes for endpoints.
const TICK: Duration = Duration::from_millis(250);

/// The same while requests wait for an endpoint, which is then looked for with every tick.
const TICK_IN_NEED: Duration = Duration::from_millis(50);

/// Checks at a time; the next ones wait for their turn.
const CHECKS_AT_A_TIME: usize = 64;

/// Endpoints that refused connections and are asked again, at a time.
const REACHES_AT_A_TIME: usize = 64;

/// A connection that shows whether an endpoint takes any.
const REACH_TIMEOUT: Duration = Duration::from_secs(1);

/// The wait between two of them: the first, and the longest that it grows to.
const REACH_FIRST: Duration = Duration::from_millis(250);
const REACH_LAST: Duration = Duration::from_secs(5);

/// Watches over the endpoints of whatever is in force, for as long as it is polled.
pub async fn run(source: Source) {
    let (snapshots, mut changes) = (source.reader(), source.changes());
    let mut watch = Watch::default();
    loop {
        let now = clock::now();
        let is_in_need = {
            let snapshot = snapshots.load();
            watch.follow(&snapshot, now);
            watch.tick(&snapshot, now)
        };
        watch.start(now);
        let tick = if is_in_need { TICK_IN_NEED } else { TICK };
        watch.wait(now + tick, &mut changes).await;
    }
}

#[derive(Default)]
struct Watch {
    version: u64,
    ticked: Option<Instant>,
    checks: HashMap<EndpointId, Checked>,
    /// When checks are due, the next one on top. What is said of an endpoint elsewhere since is not looked at.
    due: BinaryHeap<Reverse<(Instant, EndpointId)>>,
    refusing: HashMap<EndpointId, Refusing>,
    running: JoinSet<Found>,
    /// What those that run are for, should one of them end without a word.
    errands: HashMap<task::Id, Errand>,
    /// How many of those that run are no checks.
    reaching: usize,
    random: Random,
}

/// An endpoint that is checked.
struct Checked {
    pool: Arc<Pool>,
    endpoint: Arc<Endpoint>,
    /// What is asked: the endpoint itself, or the same on another port.
    asked: Arc<Endpoint>,
    plan: Arc<Plan>,
    due: Instant,
    is_running: bool,
    /// The connection of its checks.
    kept: Option<Box<Kept>>,
}

/// An endpoint that refuses connections.
struct Refusing {
    pool: Arc<Pool>,
    endpoint: Arc<Endpoint>,
    due: Instant,
    wait: Duration,
    is_running: bool,
}

/// What a task of the watch is for.
#[derive(Clone, Copy)]
enum Errand {
    Check(EndpointId),
    Reach(EndpointId),
}

/// What a task of the watch has found.
enum Found {
    Check(EndpointId, Result<(), Failure>, Option<Box<Kept>>),
    Reach(EndpointId, Result<(), Fault>),
}

impl Watch {
    /// Takes over what another snapshot says of the same endpoints, takes in new ones, and forgets those that are gone.
    fn follow(&mut self, snapshot: &Snapshot, now: Instant) {
        if self.version == snapshot.version {
            return;
        }
        self.version = snapshot.version;
        let mut kept = HashSet::new();
        for pool in &snapshot.pools {
            let Some(plan) = &pool.settings.check else {
                continue;
            };
            for member in &pool.members {
                kept.insert(member.endpoint.id);
                self.take_in(pool, &member.endpoint, plan, now);
            }
        }
        self.checks.retain(|id, _| kept.contains(id));
        self.refusing.clear();
    }

    fn take_in(
        &mut self,
        pool: &Arc<Pool>,
        endpoint: &Arc<Endpoint>,
        plan: &Arc<Plan>,
        now: Instant,
    ) {
        let mut before = self.checks.remove(&endpoint.id);
        let kept = before.as_mut().and_then(|before| before.kept.take());
        let before = before.as_ref();
        let (due, is_running) = match before {
            // An interval that is shorter now is not waited out.
            Some(before) => (before.due.min(now + plan.interval), before.is_running),
            None => (now, false),
        };
        let asked = match (plan.port, before) {
            (None, _) => Arc::clone(endpoint),
            (Some(port), Some(before)) if before.plan.port == Some(port) => {
                Arc::clone(&before.asked)
            }
            (Some(port), _) => Arc::new(probe::beside(endpoint, port)),
        };
        if before.is_none_or(|before| before.due != due) {
            self.due.push(Reverse((due, endpoint.id)));
        }
        let checked = Checked {
            pool: Arc::clone(pool),
            endpoint: Arc::clone(endpoint),
            asked,
            plan: Arc::clone(plan),
            due,
            is_running,
            kept,
        };
        self.checks.insert(endpoint.id, checked);
    }

    /// Lets time pass. Says whether requests wait for an endpoint.
    fn tick(&mut self, snapshot: &Snapshot, now: Instant) -> bool {
        let is_due = self
            .ticked
            .is_none_or(|last| now.saturating_duration_since(last) >= TICK);
        if is_due {
            self.ticked = Some(now);
        }
        let mut is_in_need = false;
        for pool in &snapshot.pools {
            let is_wanted = pool.is_wanted();
            is_in_need |= is_wanted;
            if is_due || is_wanted {
                pool.tick(now);
                self.look_for(pool, is_wanted, now);
            }
        }
        if is_due {
            self.refusing
                .retain(|_, one| one.endpoint.standing() == Standing::Refusing);
        }
        is_in_need
    }

    /// Notes which endpoints of a pool refuse connections. Where requests wait for one, they and those whose checks fail are
    /// asked now.
    fn look_for(&mut self, pool: &Arc<Pool>, is_wanted: bool, now: Instant) {
        let out = pool.members.iter().map(|member| &member.endpoint);
        for endpoint in out.filter(|endpoint| !endpoint.is_usable()) {
            if endpoint.standing() == Standing::Refusing {
                let refusing = self.refusing.entry(endpoint.id);
                let refusing = refusing.or_insert_with(|| Refusing {
                    pool: Arc::clone(pool),
                    endpoint: Arc::clone(endpoint),
                    due: now + REACH_FIRST,
                    wait: REACH_FIRST,
                    is_running: false,
                });
                if is_wanted {
                    refusing.due = now;
                }
            } else if is_wanted
                && let Some(check) = self.checks.get_mut(&endpoint.id)
                && check.due > now
            {
                check.due = now;
                self.due.push(Reverse((now, endpoint.id)));
            }
        }
    }

    /// Starts what is due, as long as there is room.
    fn start(&mut self, now: Instant) {
        for (id, one) in &mut self.refusing {
            if self.reaching >= REACHES_AT_A_TIME {
                break;
            }
            if one.is_running || one.due > now {
                continue;
            }
            one.is_running = true;
            self.reaching += 1;
            let (id, endpoint) = (*id, Arc::clone(&one.endpoint));
            let addresses = one.pool.dials(&endpoint);
            let task = self.running.spawn_local(async move {
                let reached = connect::reach(&endpoint, &addresses, REACH_TIMEOUT).await;
                Found::Reach(id, reached)
            });
            self.errands.insert(task.id(), Errand::Reach(id));
        }
        while self.has_room()
            && let Some(Reverse((due, _))) = self.due.peek()
            && *due <= now
            && let Some(Reverse((due, id))) = self.due.pop()
        {
            let Some(check) = self.checks.get_mut(&id) else {
                continue;
            };
            if check.is_running || check.due != due {
                continue;
            }
            check.is_running = true;
            let (asked, plan) = (Arc::clone(&check.asked), Arc::clone(&check.plan));
            let addresses = check.pool.dials(&check.endpoint);
            let kept = check.kept.take();
            // One that is about to change has to show that it takes new connections.
            let kept = kept.filter(|_| !check.endpoint.health().is_changing());
            let task = self.running.spawn_local(async move {
                let (result, kept) = probe::check(&asked, addresses, &plan, kept).await;
                Found::Check(id, result, kept)
            });
            self.errands.insert(task.id(), Errand::Check(id));
        }
    }

    /// Whether another check may run.
    fn has_room(&self) -> bool {
        self.running.len().saturating_sub(self.reaching) < CHECKS_AT_A_TIME
    }

    /// Waits for the first of: something found, something due, another snapshot, `until`.
    ///
    /// Where that has nobody but new endpoints, requests wait for their first checks.
    async fn wait(&mut self, until: Instant, changes: &mut watch::Receiver<()>) {
        let mut until = until;
        if self.has_room()
            && let Some(Reverse((due, _))) = self.due.peek()
        {
            until = until.min(*due);
        }
        let found = tokio::select! {
            Some(found) = self.running.join_next_with_id() => found,
            Ok(()) = changes.changed() => return,
            () = time::sleep_until(until.into()) => return,
        };
        let now = clock::now();
        self.join(found, now);
        while let Some(found) = self.running.try_join_next_with_id() {
            self.join(found, now);
        }
    }

    /// Takes in the end of a task.
    fn join(&mut self, ended: Result<(task::Id, Found), JoinError>, now: Instant) {
        let task = match &ended {
            Ok((task, _)) => *task,
            Err(error) => error.id(),
        };
        let errand = self.errands.remove(&task);
        match (ended, errand) {
            (Ok((_, found)), _) => self.take(found, now),
            (Err(error), Some(errand)) => {
                tracing::error!(%error, "a health check ended without a result");
                self.give_up(errand, now);
            }
            (Err(_), None) => {}
        }
    }

    /// Has an errand that found nothing done again: its endpoint stays what it is.
    fn give_up(&mut self, errand: Errand, now: Instant) {
        match errand {
            Errand::Check(id) => {
                if let Some(check) = self.checks.get_mut(&id) {
                    check.is_running = false;
                    check.due = now + self.random.about(check.plan.interval);
                    self.due.push(Reverse((check.due, id)));
                }
            }
            Errand::Reach(id) => {
                self.reaching = self.reaching.saturating_sub(1);
                if let Some(one) = self.refusing.get_mut(&id) {
                    one.is_running = false;
                    one.due = now + self.random.about(REACH_LAST);
                }
            }
        }
    }

    fn take(&mut self, found: Found, now: Instant) {
        match found {
            // We are short of descriptors: that says nothing about the endpoint.
            Found::Check(id, Err(Failure::Fault(Fault::Overloaded)), _) => {
                self.give_up(Errand::Check(id), now);
            }
            Found::Check(id, result, kept) => {
                // A reload may have taken it away.
                let Some(check) = self.checks.get_mut(&id) else {
                    return;
                };
                check.is_running = false;
                check.kept = kept;
                let Checked { pool, endpoint, .. } = &*check;
                match &result {
                    Ok(()) => {
                        if check.plan.port.is_none() {
                            pool.note(endpoint, Event::Reached, &"", now);
                        }
                        pool.note(endpoint, Event::Checked(true), &"", now);
                    }
                    Err(failure) => pool.note(endpoint, Event::Checked(false), failure, now),
                }
                let wait = match endpoint.health().is_changing() {
                    true => check.plan.fast_interval,
                    false => check.plan.interval,
                };
                check.due = now + self.random.about(wait);
                self.due.push(Reverse((check.due, id)));
            }
            Found::Reach(id, result) => {
                self.reaching = self.reaching.saturating_sub(1);
                let Some(one) = self.refusing.get_mut(&id) else {
                    return;
                };
                one.is_running = false;
                one.due = now + self.random.about(one.wait);
                one.wait = (one.wait * 2).min(REACH_LAST);
                if result.is_ok() {
                    one.pool.note(&one.endpoint, Event::Reached, &"", now);
                    self.refusing.remove(&id);
                }
            }
        }
    }
}

/// Waits that differ, so that what was begun together does not go on together.
#[derive(Default)]
struct Random {
    hash: RandomState,
    drawn: u64,
}

impl Random {
    /// A length of time, give or take a fifth.
    fn about(&mut self, length: Duration) -> Duration {
        self.drawn = self.drawn.wrapping_add(1);
        let percent = 80 + self.hash.hash_one(self.drawn) % 41;
        length * u32::try_from(percent).unwrap_or(100) / 100
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::LocalSet;

    use super::*;
    use crate::base::addr::EndpointAddr;
    use crate::dataplane::upstream::endpoint::{Identity, Protocol};
    use crate::dataplane::upstream::health::{Policy, Thresholds};
    use crate::dataplane::upstream::pick::Balance;
    use crate::dataplane::upstream::pool::{Member, Settings};
    use crate::dataplane::upstream::probe::Question;

    /// An endpoint that is checked every five seconds, in the pool that it is alone in.
    fn checked(fall: u32) -> (Arc<Pool>, Arc<Endpoint>, Arc<Plan>) {
        let identity = Identity {
            pool: "web".into(),
            address: EndpointAddr::Tcp(([127, 0, 0, 1], 1).into()),
            protocol: Protocol::Auto,
            tls: None,
        };
        let endpoint = Arc::new(Endpoint::new(identity, None));
        let settings = Settings {
            balance: Balance::RoundRobin,
            sticky: None,
            slow_start: None,
            connect_timeout: Duration::from_secs(1),
            policy: Policy {
                check: Some(Thresholds { rise: 1, fall }),
                outlier: None,
            },
            check: None,
            panic_threshold: None,
            queue: None,
            retry_budget: None,
        };
        let members = vec![Member::new(Arc::clone(&endpoint))];
        let pool = Arc::new(Pool::new("web".into(), members, settings, None, 1));
        let plan = Arc::new(Plan {
            question: Question::Tcp,
            port: None,
            interval: Duration::from_secs(5),
            fast_interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
        });
        (pool, endpoint, plan)
    }

    #[tokio::test]
    async fn a_check_that_ends_by_a_panic_is_made_again() {
        let (pool, endpoint, plan) = checked(3);
        let tasks = LocalSet::new();
        let watched = tasks.run_until(async {
            let mut watch = Watch::default();
            let now = clock::now();
            watch.take_in(&pool, &endpoint, &plan, now);
            watch.due.clear();
            let check = watch.checks.get_mut(&endpoint.id).unwrap();
            check.is_running = true;
            let task = watch
                .running
                .spawn_local(async { panic!("a check with a bug") });
            watch.errands.insert(task.id(), Errand::Check(endpoint.id));
            let (_changed, mut changes) = watch::channel(());
            watch
                .wait(now + Duration::from_secs(10), &mut changes)
                .await;
            (watch, now)
        });
        let (watch, now) = watched.await;
        let check = &watch.checks[&endpoint.id];
        assert!(!check.is_running && check.due > now + Duration::from_secs(3));
        assert_eq!(watch.due.len(), 1, "it is made again");
        assert!(watch.errands.is_empty());
    }

    #[test]
    fn a_check_that_we_had_no_descriptor_for_is_no_word_about_the_endpoint() {
        let (pool, endpoint, plan) = checked(1);
        let mut watch = Watch::default();
        let now = clock::now();
        watch.take_in(&pool, &endpoint, &plan, now);
        watch.take(Found::Check(endpoint.id, Ok(()), None), now);
        assert!(endpoint.is_usable());
        let shortage = Failure::Fault(Fault::Overloaded);
        watch.take(Found::Check(endpoint.id, Err(shortage), None), now);
        assert!(endpoint.is_usable(), "it was not asked");
        assert!(watch.checks[&endpoint.id].due > now + Duration::from_secs(3));
        watch.take(Found::Check(endpoint.id, Err(Failure::Timeout), None), now);
        assert!(!endpoint.is_usable());
    }

    #[tokio::test(start_paused = true)]
    async fn another_snapshot_is_looked_at_at_once() {
        let (changed, mut changes) = watch::channel(());
        let mut watch = Watch::default();
        let wait = Duration::from_secs(10);
        let before = time::Instant::now();
        changed.send_replace(());
        watch.wait((before + wait).into_std(), &mut changes).await;
        assert_eq!(before.elapsed(), Duration::ZERO);
        watch.wait((before + wait).into_std(), &mut changes).await;
        assert!(before.elapsed() >= wait, "it has been looked at");
    }
}
