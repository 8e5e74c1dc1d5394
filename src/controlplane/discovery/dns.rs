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
mod tests {
    use std::cell::RefCell;

    use tokio::task::LocalSet;

    use super::super::state::{Data, HOLD, RETRY};
    use super::*;

    /// What is answered to whom, and how often it was asked for.
    #[derive(Clone, Default)]
    struct Script(Rc<RefCell<BTreeMap<Question, (Outcome, usize)>>>);

    impl Script {
        fn says(&self, question: Question, outcome: Outcome) {
            self.0.borrow_mut().insert(question, (outcome, 0));
        }

        fn has(&self, name: &str, lasts: &[u8], ttl: u64) {
            let v4 = lasts.iter().map(|&last| [10, 0, 0, last].into()).collect();
            let data = Data::Addresses {
                v4: Some(v4),
                v6: Some(Vec::new()),
            };
            self.says(host(name), Outcome::Found(data, Duration::from_secs(ttl)));
        }

        fn fails(&self, name: &str) {
            self.says(host(name), Outcome::Failed("no answer".to_owned()));
        }

        /// A service of records with priority, host and weight.
        fn serves(&self, name: &str, records: &[(u16, &str, u16)]) {
            let records = records
                .iter()
                .map(|&(priority, host, weight)| ServiceRecord {
                    priority,
                    host: host.to_owned(),
                    port: 80,
                    weight,
                });
            let data = Data::Records(records.collect());
            let question = Question::Service(name.to_owned());
            self.says(question, Outcome::Found(data, Duration::from_secs(30)));
        }

        fn asked(&self, name: &str) -> usize {
            self.0
                .borrow()
                .get(&host(name))
                .map_or(0, |(_, count)| *count)
        }
    }

    fn host(name: &str) -> Question {
        Question::Host(name.to_owned())
    }

    /// Runs `test` beside a resolver that answers from a script; time is paused and moves by itself.
    fn check<F: Future>(
        test: impl FnOnce(Script, mpsc::Sender<Wanted>, mpsc::Receiver<Event>) -> F,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        let script = Script::default();
        let (asker, wanted) = mpsc::channel(1);
        let (events, told) = mpsc::channel(8);
        let answers = script.clone();
        let lookup = move |question: Question, servers: Servers| {
            let answers = answers.clone();
            async move {
                let takes = match &question {
                    Question::Host(name) if name.starts_with("slow") => 3,
                    Question::Host(name) if name.starts_with("late") => 1,
                    Question::Host(_) | Question::Service(_) => 0,
                };
                time::sleep(Duration::from_secs(takes)).await;
                // A server of the config knows nothing but itself.
                if !servers.is_empty() {
                    let v4 = servers.iter().map(SocketAddr::ip).collect();
                    let data = Data::Addresses {
                        v4: Some(v4),
                        v6: None,
                    };
                    return Outcome::Found(data, Duration::from_secs(30));
                }
                let mut answers = answers.0.borrow_mut();
                let Some((outcome, count)) = answers.get_mut(&question) else {
                    return Outcome::NotThere;
                };
                *count += 1;
                outcome.clone()
            }
        };
        LocalSet::new().block_on(&runtime, async {
            tokio::select! {
                () = Names::new(lookup).run(wanted, events) => {}
                _ = test(script, asker, told) => {}
            }
        });
    }

    async fn ask_of(
        asker: &mpsc::Sender<Wanted>,
        questions: &[Question],
        resolvers: &[&str],
    ) -> Answers {
        let (reply, answer) = oneshot::channel();
        let wanted = Wanted {
            questions: questions.iter().cloned().collect(),
            resolvers: resolvers.iter().map(|text| text.parse().unwrap()).collect(),
            reply,
        };
        asker.send(wanted).await.unwrap();
        answer.await.unwrap()
    }

    async fn ask(asker: &mpsc::Sender<Wanted>, names: &[&str]) -> Answers {
        let questions: Vec<_> = names.iter().map(|name| host(name)).collect();
        ask_of(asker, &questions, &[]).await
    }

    async fn event(told: &mut mpsc::Receiver<Event>) -> Answers {
        match told.recv().await {
            Some(Event::Resolved(answers)) => answers,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn addresses(answers: &Answers, name: &str) -> Vec<String> {
        match answers.get(&host(name)) {
            Some(Answer::Addresses(found)) => found.iter().map(ToString::to_string).collect(),
            other => panic!("{name}: {other:?}"),
        }
    }

    /// How long it takes until the loop is told of something, in seconds.
    async fn wait(told: &mut mpsc::Receiver<Event>) -> u64 {
        let begun = Instant::now();
        event(told).await;
        begun.elapsed().as_secs()
    }

    #[test]
    fn the_loop_is_answered_at_once_and_told_of_changes_only() {
        check(async |script, asker, mut told| {
            script.has("app", &[1, 2], 30);
            let answers = ask(&asker, &["app", "nowhere"]).await;
            assert_eq!(addresses(&answers, "app"), ["10.0.0.1", "10.0.0.2"]);
            assert!(!answers.contains_key(&host("nowhere")));

            let quiet = time::timeout(Duration::from_secs(100), told.recv()).await;
            assert!(quiet.is_err(), "{quiet:?}");
            assert_eq!(script.asked("app"), 4);

            script.has("app", &[3], 30);
            assert_eq!(addresses(&event(&mut told).await, "app"), ["10.0.0.3"]);
        });
    }

    #[test]
    fn a_change_is_found_when_the_ttl_has_passed() {
        check(async |script, asker, mut told| {
            for (ttl, seconds) in [(0, 1), (7, 7), (86_400, 300)] {
                let name = format!("app{ttl}");
                script.has(&name, &[1], ttl);
                ask(&asker, &[&name]).await;
                script.has(&name, &[2], ttl);
                assert_eq!(wait(&mut told).await, seconds, "TTL {ttl}");
            }
        });
    }

    #[test]
    fn a_name_that_fails_keeps_its_last_answer() {
        check(async |script, asker, mut told| {
            script.has("app", &[1], 30);
            ask(&asker, &["app"]).await;
            script.fails("app");
            let quiet = time::timeout(Duration::from_secs(3600), told.recv()).await;
            assert!(quiet.is_err(), "{quiet:?}");
            assert_eq!(addresses(&ask(&asker, &["app"]).await, "app"), ["10.0.0.1"]);
            script.has("app", &[2], 30);
            assert!(wait(&mut told).await <= RETRY.as_secs());
        });
    }

    #[test]
    fn a_name_that_is_gone_loses_its_endpoints_after_the_hold() {
        check(async |script, asker, mut told| {
            script.has("app", &[1], 1);
            ask(&asker, &["app"]).await;
            script.says(host("app"), Outcome::NotThere);
            let begun = Instant::now();
            assert!(addresses(&event(&mut told).await, "app").is_empty());
            let took = begun.elapsed();
            assert!(took >= HOLD && took <= HOLD + 2 * RETRY, "{took:?}");
        });
    }

    #[test]
    fn a_slow_name_does_not_hold_up_the_loop_and_comes_as_an_event() {
        check(async |script, asker, mut told| {
            script.has("slow", &[1], 30);
            script.has("app", &[2], 30);
            let begun = Instant::now();
            let answers = ask(&asker, &["slow", "app"]).await;
            assert!(begun.elapsed() < Duration::from_millis(2100));
            assert_eq!(addresses(&answers, "app"), ["10.0.0.2"]);
            let answers = event(&mut told).await;
            assert_eq!(addresses(&answers, "slow"), ["10.0.0.1"]);
            assert!(begun.elapsed() < Duration::from_secs(4));
        });
    }

    #[test]
    fn changes_of_one_moment_are_one_change() {
        check(async |script, asker, mut told| {
            let names: Vec<_> = (0..40).map(|number| format!("app{number}")).collect();
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            for name in &names {
                script.has(name, &[1], 30);
            }
            ask(&asker, &names).await;
            for name in &names {
                script.has(name, &[2], 30);
            }
            let answers = event(&mut told).await;
            for name in &names {
                assert_eq!(addresses(&answers, name), ["10.0.0.2"]);
            }
        });
    }

    #[test]
    fn a_name_that_left_the_config_is_forgotten() {
        check(async |script, asker, _told| {
            script.has("app", &[1], 30);
            ask(&asker, &["app"]).await;
            ask(&asker, &[]).await;
            script.has("app", &[2], 30);
            assert_eq!(addresses(&ask(&asker, &["app"]).await, "app"), ["10.0.0.2"]);
        });
    }

    #[test]
    fn other_servers_are_asked_at_once() {
        check(async |script, asker, _told| {
            script.has("app", &[1], 30);
            ask(&asker, &["app"]).await;
            let answers = ask_of(&asker, &[host("app")], &["10.9.9.9:53"]).await;
            assert_eq!(addresses(&answers, "app"), ["10.9.9.9"]);
        });
    }

    fn service() -> Question {
        Question::Service("_http._tcp.app".to_owned())
    }

    /// What the records of the service are.
    #[track_caller]
    fn shown(answers: &Answers) -> Vec<String> {
        match answers.get(&service()) {
            Some(Answer::Records(records)) => {
                let records = records.iter().map(|record| {
                    let Record {
                        priority,
                        weight,
                        host,
                        addresses,
                        ..
                    } = record;
                    format!("{priority} {weight} {host} {addresses:?}")
                });
                records.collect()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_service_is_its_records_with_the_addresses_of_their_hosts() {
        check(async |script, asker, mut told| {
            let service = service();
            script.serves("_http._tcp.app", &[(1, "a.", 10), (2, "b.", 20)]);
            script.has("a.", &[1], 30);
            let answers = ask_of(&asker, std::slice::from_ref(&service), &[]).await;
            assert_eq!(shown(&answers), ["1 10 a. [10.0.0.1]", "2 20 b. []"]);

            // A host is asked for by itself, by its own TTL.
            script.has("b.", &[2], 30);
            assert_eq!(shown(&event(&mut told).await)[1], "2 20 b. [10.0.0.2]");

            // A host that joins is asked for before it is told.
            script.serves("_http._tcp.app", &[(1, "c.", 10)]);
            script.has("c.", &[3], 30);
            assert_eq!(shown(&event(&mut told).await), ["1 10 c. [10.0.0.3]"]);
        });
    }

    #[test]
    fn a_service_keeps_what_it_was_until_one_of_its_hosts_is_known() {
        check(async |script, asker, mut told| {
            script.serves("_http._tcp.app", &[(1, "a.", 10)]);
            script.has("a.", &[1], 30);
            ask_of(&asker, &[service()], &[]).await;

            // Its lookup takes longer than it is waited for.
            script.has("slow.", &[2], 300);
            script.serves("_http._tcp.app", &[(1, "slow.", 10)]);
            assert_eq!(shown(&event(&mut told).await), ["1 10 slow. [10.0.0.2]"]);

            script.fails("b.");
            script.serves("_http._tcp.app", &[(1, "b.", 10)]);
            let quiet = time::timeout(Duration::from_secs(3600), told.recv()).await;
            assert!(quiet.is_err(), "{quiet:?}");
            let answers = ask_of(&asker, &[service()], &[]).await;
            assert_eq!(shown(&answers), ["1 10 slow. [10.0.0.2]"]);

            script.has("b.", &[3], 30);
            assert_eq!(shown(&event(&mut told).await), ["1 10 b. [10.0.0.3]"]);

            // One that is late is waited for, though another could stand in for it.
            script.has("late.", &[4], 300);
            script.serves("_http._tcp.app", &[(1, "late.", 10), (2, "b.", 10)]);
            let told_of = shown(&event(&mut told).await);
            assert_eq!(told_of, ["1 10 late. [10.0.0.4]", "2 10 b. [10.0.0.3]"]);
            script.serves("_http._tcp.app", &[(1, "b.", 10)]);
            assert_eq!(shown(&event(&mut told).await), ["1 10 b. [10.0.0.3]"]);

            // A host that was known and is gone is no such case.
            script.says(host("b."), Outcome::NotThere);
            assert_eq!(shown(&event(&mut told).await), ["1 10 b. []"]);
        });
    }
}
