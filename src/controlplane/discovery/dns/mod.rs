//! The names of the config, looked up in the background.
//!
//! The loop tells what it needs to know before it compiles a config, and waits a moment for the answers. From then on
//! each is asked for again when its TTL has passed, and the loop hears of it when one changed. What a failure does to
//! what is known is decided in `state`, and how a name is looked up in `resolver`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::{self, JoinError, JoinSet};
use tokio::time::{self, Instant};

use super::resolver::System;
use super::state::{Known, Outcome, ServiceRecord, State};
use crate::controlplane::reload::{Answer, Answers, Event, Question, Record, Wanted};

/// How long one lookup may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the loop is kept waiting for names it has not asked for before; what answers later is an event.
const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Lookups at a time.
const LOOKUP_LIMIT: usize = 16;

/// How long a change waits for others while lookups are under way, so that they become one.
const SETTLE: Duration = Duration::from_millis(100);

/// The servers that are asked; none: those of the system.
type Servers = Arc<[SocketAddr]>;

/// Resolves what the loop wants, until either end of the two channels is gone.
pub async fn run(wanted: mpsc::Receiver<Wanted>, events: mpsc::Sender<Event>) {
    let system = Rc::new(System::new());
    let lookup = move |question: Question, servers: Servers| {
        let system = Rc::clone(&system);
        async move { system.look_up(&question, &servers).await }
    };
    Names::new(lookup).run(wanted, events).await;
}

struct Names<L> {
    /// What the loop asked for.
    asked: BTreeSet<Question>,
    servers: Servers,
    /// Those, and the hosts of services.
    states: BTreeMap<Question, State>,
    lookup: L,
    running: JoinSet<Outcome>,
    under_way: HashMap<task::Id, Question>,
    /// The loop, if it waits.
    caller: Option<Caller>,
    /// What the loop knows.
    told: Answers,
    /// When it is told of what has changed since.
    tell_at: Option<Instant>,
}

/// The loop while it waits for an answer.
struct Caller {
    reply: oneshot::Sender<Answers>,
    deadline: Instant,
}

impl<L> Names<L>
where
    L: AsyncFn(Question, Servers) -> Outcome + Clone + 'static,
{
    fn new(lookup: L) -> Self {
        Self {
            asked: BTreeSet::new(),
            servers: Arc::new([]),
            states: BTreeMap::new(),
            lookup,
            running: JoinSet::new(),
            under_way: HashMap::new(),
            caller: None,
            told: Answers::new(),
            tell_at: None,
        }
    }

    async fn run(mut self, mut wanted: mpsc::Receiver<Wanted>, events: mpsc::Sender<Event>) {
        loop {
            self.begin(Instant::now());
            if let Some(answers) = self.news(Instant::now())
                && events.send(Event::Resolved(answers)).await.is_err()
            {
                return;
            }
            let next = self.next_moment();
            tokio::select! {
                asked = wanted.recv() => match asked {
                    Some(asked) => self.want(asked, Instant::now()),
                    None => return,
                },
                Some(ended) = self.running.join_next_with_id() => self.take(ended, Instant::now()),
                () = until(next) => {}
            }
        }
    }

    /// Takes over the questions of a config; what is known of them is told after a moment.
    fn want(&mut self, asked: Wanted, now: Instant) {
        let Wanted {
            questions,
            resolvers,
            reply,
        } = asked;
        if *self.servers != *resolvers {
            self.servers = resolvers.into();
            // Others may know better.
            self.running = JoinSet::new();
            self.under_way.clear();
            for state in self.states.values_mut() {
                state.is_asked = false;
                state.due = now;
            }
        }
        self.asked = questions;
        self.settle_hosts(now);
        self.caller = Some(Caller {
            reply,
            deadline: now + FIRST_ANSWER_TIMEOUT,
        });
    }

    /// Has states of what was asked for, and of the hosts of services, and no others.
    fn settle_hosts(&mut self, now: Instant) {
        let mut needed = self.asked.clone();
        for question in &self.asked {
            if let Some(Known::Records(records)) = self.known(question) {
                let hosts = records.iter().map(|record| record.host.clone());
                needed.extend(hosts.map(Question::Host));
            }
        }
        self.states.retain(|question, _| needed.contains(question));
        for question in needed {
            self.states
                .entry(question)
                .or_insert_with(|| State::new(now));
        }
    }

    fn known(&self, question: &Question) -> Option<&Known> {
        self.states.get(question)?.known.as_ref()
    }

    /// Begins the lookups that are due, those that have waited longest first.
    fn begin(&mut self, now: Instant) {
        let room = LOOKUP_LIMIT.saturating_sub(self.running.len());
        let mut due: Vec<_> = self.waiting().filter(|(due, _)| *due <= now).collect();
        due.sort_unstable();
        let due: Vec<_> = due
            .into_iter()
            .take(room)
            .map(|(_, of)| of.clone())
            .collect();
        for question in due {
            let lookup = self.lookup.clone();
            let (asked, servers) = (question.clone(), Arc::clone(&self.servers));
            let begun = self.running.spawn_local(async move {
                let found = time::timeout(LOOKUP_TIMEOUT, lookup(asked, servers)).await;
                found.unwrap_or_else(|_| Outcome::Failed("no answer in time".to_owned()))
            });
            self.under_way.insert(begun.id(), question);
        }
    }

    /// What is not being looked up, and when it is due.
    fn waiting(&self) -> impl Iterator<Item = (Instant, &Question)> {
        let is_waiting = |question| !self.under_way.values().any(|other| other == question);
        let states = self.states.iter();
        states
            .filter(move |(question, _)| is_waiting(*question))
            .map(|(question, state)| (state.due, question))
    }

    /// Takes in the end of a lookup.
    fn take(&mut self, ended: Result<(task::Id, Outcome), JoinError>, now: Instant) {
        let (id, outcome) = match ended {
            Ok(ended) => ended,
            Err(error) => (
                error.id(),
                Outcome::Failed("the lookup broke off".to_owned()),
            ),
        };
        let Some(question) = self.under_way.remove(&id) else {
            return;
        };
        // It may have left the config meanwhile.
        let Some(state) = self.states.get_mut(&question) else {
            return;
        };
        let before = state.known.clone();
        state.take(&question, outcome, now);
        if state.known == before {
            return;
        }
        if let Question::Service(_) = question {
            self.settle_hosts(now);
        }
        self.tell_at.get_or_insert(now + SETTLE);
    }

    /// Answers the loop if it waits; else what it must be told of, if there is something.
    fn news(&mut self, now: Instant) -> Option<Answers> {
        let is_complete = self.states.values().all(|state| state.is_asked);
        if let Some(caller) = self.caller.take() {
            if !is_complete && now < caller.deadline {
                self.caller = Some(caller);
                return None;
            }
            let answers = self.answers();
            // A loop that has lost patience is told by an event.
            self.tell_at = match caller.reply.send(answers.clone()) {
                Ok(()) => {
                    self.told = answers;
                    None
                }
                Err(_) => Some(now),
            };
            return None;
        }
        if self.tell_by()? > now && !self.running.is_empty() {
            return None;
        }
        self.tell_at = None;
        let answers = self.answers();
        if answers == self.told {
            return None;
        }
        self.told.clone_from(&answers);
        Some(answers)
    }

    /// When the loop is told of what has changed. A host that a service has just come to name is waited for: without its
    /// addresses the change would take endpoints away and bring none.
    fn tell_by(&self) -> Option<Instant> {
        let patience = match self.states.values().all(|state| state.is_asked) {
            true => Duration::ZERO,
            false => FIRST_ANSWER_TIMEOUT,
        };
        Some(self.tell_at? + patience)
    }

    fn next_moment(&self) -> Option<Instant> {
        let has_room = self.running.len() < LOOKUP_LIMIT;
        let due = has_room.then(|| self.waiting().map(|(due, _)| due).min());
        let told = match &self.caller {
            Some(caller) => Some(caller.deadline),
            None => self.tell_by(),
        };
        due.flatten().into_iter().chain(told).min()
    }

    fn answers(&self) -> Answers {
        let answers = self.asked.iter().filter_map(|question| {
            let answer = match (question, self.known(question)) {
                (_, Some(Known::Addresses { v4, v6 })) => Answer::Addresses(joined(v4, v6)),
                (_, Some(Known::Records(records))) if self.is_lost(records) => {
                    self.told.get(question)?.clone()
                }
                (_, Some(Known::Records(records))) => {
                    let records = records.iter().map(|record| Record {
                        priority: record.priority,
                        weight: record.weight,
                        host: record.host.clone(),
                        port: record.port,
                        addresses: self.addresses(&record.host),
                    });
                    Answer::Records(records.collect())
                }
                (_, None) if !self.states.get(question)?.is_gone => return None,
                (Question::Host(_), None) => Answer::Addresses(Vec::new()),
                (Question::Service(_), None) => Answer::Records(Vec::new()),
            };
            Some((question.clone(), answer))
        });
        answers.collect()
    }

    /// Whether no record leads anywhere, and that because a host has never had an answer: then what was told before holds.
    fn is_lost(&self, records: &[ServiceRecord]) -> bool {
        let mut hosts = records.iter().map(|record| &record.host);
        let is_unknown = |host: &String| {
            let state = self.states.get(&Question::Host(host.clone()));
            state.is_none_or(|state| state.known.is_none() && !state.is_gone)
        };
        hosts.clone().any(is_unknown) && hosts.all(|host| self.addresses(host).is_empty())
    }

    fn addresses(&self, host: &str) -> Vec<IpAddr> {
        match self.known(&Question::Host(host.to_owned())) {
            Some(Known::Addresses { v4, v6 }) => joined(v4, v6),
            Some(Known::Records(_)) | None => Vec::new(),
        }
    }
}

fn joined(v4: &[IpAddr], v6: &[IpAddr]) -> Vec<IpAddr> {
    [v4, v6].concat()
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
