//! Names that are looked up: when, by what answer, and what stays when there is none.

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
fn check<F: Future>(test: impl FnOnce(Script, mpsc::Sender<Wanted>, mpsc::Receiver<Event>) -> F) {
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
