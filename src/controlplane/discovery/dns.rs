//! The names of the config, resolved in the background by the system's resolver.
//!
//! The loop asks for the names of a config before it compiles it and waits a moment for the answers; from then on
//! they are looked up again every 30 seconds, and the loop hears of it when an answer changed. A name that fails
//! keeps its last answer, and its trouble is logged when it begins and when it ends.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time;

use crate::controlplane::reload::{Answers, Event, Wanted};

/// The time between two looks at a name.
pub const REFRESH: Duration = Duration::from_secs(30);

/// How long one lookup may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the loop is kept waiting for names it has not asked for before; what answers later is an event.
const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Lookups at a time: each one holds a thread of the resolver.
const LOOKUP_LIMIT: usize = 16;

/// Resolves what the loop wants, until either end of the two channels is gone.
pub async fn run(wanted: mpsc::Receiver<Wanted>, events: mpsc::Sender<Event>) {
    let lookup = async |name: String| {
        let found = tokio::net::lookup_host((name, 0)).await?;
        Ok(found.map(|address| address.ip()).collect())
    };
    Resolver {
        names: BTreeMap::new(),
        told: Answers::new(),
        lookup,
        refresh: REFRESH,
    }
    .run(wanted, events)
    .await;
}

struct Resolver<L> {
    names: BTreeMap<String, State>,
    /// What the loop knows.
    told: Answers,
    lookup: L,
    refresh: Duration,
}

/// What is known of a name.
#[derive(Debug, Default)]
struct State {
    /// The last good answer, sorted.
    answer: Option<Vec<IpAddr>>,
    /// Whether the last lookup failed; `None` before the first.
    is_failing: Option<bool>,
}

impl<L> Resolver<L>
where
    L: AsyncFn(String) -> io::Result<Vec<IpAddr>> + Clone + 'static,
{
    async fn run(mut self, mut wanted: mpsc::Receiver<Wanted>, events: mpsc::Sender<Event>) {
        loop {
            tokio::select! {
                asked = wanted.recv() => match asked {
                    Some(asked) => {
                        let is_complete = self.want(asked).await;
                        if is_complete {
                            continue;
                        }
                    }
                    None => return,
                },
                () = time::sleep(self.refresh), if !self.names.is_empty() => {}
            }
            let all = self.names.keys().cloned().collect();
            self.look_up(all, LOOKUP_TIMEOUT).await;
            let answers = self.answers();
            if answers == self.told {
                continue;
            }
            self.told.clone_from(&answers);
            if events.send(Event::Resolved(answers)).await.is_err() {
                return;
            }
        }
    }

    /// Takes over the names of a config and answers with what is known of them after a moment. Says whether every
    /// lookup came to an end in it.
    async fn want(&mut self, asked: Wanted) -> bool {
        self.names.retain(|name, _| asked.names.contains(name));
        for name in asked.names {
            self.names.entry(name).or_default();
        }
        let fresh: BTreeSet<_> = self
            .names
            .iter()
            .filter(|(_, state)| state.is_failing.is_none())
            .map(|(name, _)| name.clone())
            .collect();
        let is_complete = self.look_up(fresh, FIRST_ANSWER_TIMEOUT).await;
        let answers = self.answers();
        if asked.reply.send(answers.clone()).is_ok() {
            self.told = answers;
        }
        is_complete
    }

    fn answers(&self) -> Answers {
        self.names
            .iter()
            .filter_map(|(name, state)| Some((name.clone(), state.answer.clone()?)))
            .collect()
    }

    /// Looks up `names`, a few at a time. Says whether all of them came to an end.
    async fn look_up(&mut self, names: BTreeSet<String>, timeout: Duration) -> bool {
        let deadline = time::Instant::now() + timeout;
        let mut waiting = names.into_iter();
        let mut running = JoinSet::new();
        let mut is_complete = true;
        loop {
            while running.len() < LOOKUP_LIMIT
                && let Some(name) = waiting.next()
            {
                let lookup = self.lookup.clone();
                running.spawn_local(async move {
                    let found = time::timeout_at(deadline, lookup(name.clone())).await;
                    (name, found)
                });
            }
            let Some(ended) = running.join_next().await else {
                return is_complete;
            };
            // A lookup that panicked has said nothing about its name.
            let Ok((name, found)) = ended else { continue };
            let found = match found {
                Ok(found) => found,
                Err(_) => {
                    is_complete = false;
                    Err(io::ErrorKind::TimedOut.into())
                }
            };
            if let Some(state) = self.names.get_mut(&name) {
                state.take(&name, found);
            }
        }
    }
}

impl State {
    /// Takes in the end of a lookup; says so when it is the other way round than the one before.
    fn take(&mut self, name: &str, found: io::Result<Vec<IpAddr>>) {
        let found = found.and_then(|found| match found.is_empty() {
            true => Err(io::Error::new(io::ErrorKind::NotFound, "no address")),
            false => Ok(found),
        });
        let was_failing = self.is_failing == Some(true);
        match found {
            Ok(mut found) => {
                found.sort_unstable();
                found.dedup();
                if was_failing {
                    tracing::info!(name, "the name resolves again");
                }
                self.is_failing = Some(false);
                self.answer = Some(found);
            }
            Err(error) => {
                if !was_failing {
                    let keeps = self.answer.as_ref().map_or(0, Vec::len);
                    tracing::warn!(name, %error, keeps, "the name does not resolve");
                }
                self.is_failing = Some(true);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use tokio::sync::oneshot;
    use tokio::task::LocalSet;

    use super::*;

    type Script = Rc<RefCell<BTreeMap<String, Result<Vec<IpAddr>, io::ErrorKind>>>>;

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
        let answers = Rc::clone(&script);
        let lookup = async move |name: String| {
            if name.starts_with("slow") {
                time::sleep(Duration::from_secs(3)).await;
            }
            let answer = answers.borrow().get(&name).cloned();
            answer
                .unwrap_or(Err(io::ErrorKind::NotFound))
                .map_err(io::Error::from)
        };
        let lookup = Rc::new(lookup);
        let lookup = move |name| {
            let lookup = Rc::clone(&lookup);
            async move { lookup(name).await }
        };
        let resolver = Resolver {
            names: BTreeMap::new(),
            told: Answers::new(),
            lookup,
            refresh: REFRESH,
        };
        LocalSet::new().block_on(&runtime, async {
            tokio::select! {
                () = resolver.run(wanted, events) => {}
                _ = test(script, asker, told) => {}
            }
        });
    }

    async fn ask(asker: &mpsc::Sender<Wanted>, names: &[&str]) -> Answers {
        let (reply, answer) = oneshot::channel();
        let names = names.iter().map(|&name| name.to_owned()).collect();
        asker.send(Wanted { names, reply }).await.unwrap();
        answer.await.unwrap()
    }

    fn says(script: &Script, name: &str, answer: Result<&[u8], io::ErrorKind>) {
        let answer = answer.map(|last| last.iter().map(|&last| [10, 0, 0, last].into()).collect());
        script.borrow_mut().insert(name.to_owned(), answer);
    }

    fn addresses(answers: &Answers, name: &str) -> Vec<String> {
        answers
            .get(name)
            .into_iter()
            .flatten()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn the_loop_is_answered_at_once_and_told_of_changes_only() {
        check(async |script, asker, mut told| {
            says(&script, "app", Ok(&[2, 1]));
            let answers = ask(&asker, &["app", "nowhere"]).await;
            assert_eq!(addresses(&answers, "app"), ["10.0.0.1", "10.0.0.2"]);
            assert!(!answers.contains_key("nowhere"));

            says(&script, "app", Ok(&[1, 2]));
            let quiet = time::timeout(REFRESH * 3, told.recv()).await;
            assert!(quiet.is_err(), "an order is no change: {quiet:?}");

            says(&script, "app", Ok(&[3]));
            let Some(Event::Resolved(answers)) = told.recv().await else {
                panic!("no event")
            };
            assert_eq!(addresses(&answers, "app"), ["10.0.0.3"]);
        });
    }

    #[test]
    fn a_name_that_fails_keeps_its_last_answer() {
        check(async |script, asker, mut told| {
            says(&script, "app", Ok(&[1]));
            ask(&asker, &["app"]).await;
            for failure in [Err(io::ErrorKind::TimedOut), Ok(&[][..])] {
                says(&script, "app", failure);
                let quiet = time::timeout(REFRESH * 3, told.recv()).await;
                assert!(quiet.is_err(), "{quiet:?}");
            }
            assert_eq!(addresses(&ask(&asker, &["app"]).await, "app"), ["10.0.0.1"]);
        });
    }

    #[test]
    fn a_slow_name_does_not_hold_up_the_loop_and_comes_as_an_event() {
        check(async |script, asker, mut told| {
            says(&script, "slow", Ok(&[1]));
            let begun = time::Instant::now();
            assert!(ask(&asker, &["slow"]).await.is_empty());
            assert!(begun.elapsed() < Duration::from_millis(2100));
            let Some(Event::Resolved(answers)) = told.recv().await else {
                panic!("no event")
            };
            assert_eq!(addresses(&answers, "slow"), ["10.0.0.1"]);
            assert!(begun.elapsed() < Duration::from_secs(6));
        });
    }

    #[test]
    fn a_name_that_left_the_config_is_forgotten() {
        check(async |script, asker, _told| {
            says(&script, "app", Ok(&[1]));
            ask(&asker, &["app"]).await;
            ask(&asker, &[]).await;
            says(&script, "app", Ok(&[2]));
            assert_eq!(addresses(&ask(&asker, &["app"]).await, "app"), ["10.0.0.2"]);
        });
    }
}
