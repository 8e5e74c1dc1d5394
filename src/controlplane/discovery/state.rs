//! What is known of a name, and what the end of a lookup does to it.
//!
//! Pure: it is handed the end of a lookup and `now`. Trouble is logged when it begins and when it ends.

use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::controlplane::reload::Question;

/// The shortest time that an answer holds, whatever its TTL says; of one with TTL 0 too.
const TTL_FLOOR: Duration = Duration::from_secs(1);

/// The longest time that an answer holds, whatever its TTL says.
const TTL_CEILING: Duration = Duration::from_secs(300);

/// The time after which a name is looked up again that failed, or is not there.
pub(super) const RETRY: Duration = Duration::from_secs(5);

/// How long a name that was there keeps its last answer while DNS says that it is not: who deploys anew may take it away
/// for a moment.
pub(super) const HOLD: Duration = Duration::from_secs(30);

/// How one lookup ended.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// There is an answer, which holds for so long.
    Found(Data, Duration),
    /// DNS says that there is none.
    NotThere,
    /// DNS says nothing, or that it cannot say; and why.
    Failed(String),
}

/// What was found.
#[derive(Clone, Debug)]
pub(super) enum Data {
    /// Addresses by family, each sorted; one that could not be asked for is absent.
    Addresses {
        v4: Option<Vec<IpAddr>>,
        v6: Option<Vec<IpAddr>>,
    },
    /// Records of a service, sorted.
    Records(Vec<ServiceRecord>),
}

/// An SRV record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ServiceRecord {
    pub(super) priority: u16,
    /// The host, in lower case, with a dot at its end: it is whole.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) weight: u16,
}

/// The last good answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Addresses { v4: Vec<IpAddr>, v6: Vec<IpAddr> },
    Records(Vec<ServiceRecord>),
}

impl Known {
    fn len(&self) -> usize {
        match self {
            Self::Addresses { v4, v6 } => v4.len() + v6.len(),
            Self::Records(records) => records.len(),
        }
    }
}

/// What is known of a name.
#[derive(Debug)]
pub(super) struct State {
    /// The last good answer; absent before the first, and when the name is gone.
    pub(super) known: Option<Known>,
    /// When it is to be looked up.
    pub(super) due: Instant,
    /// Whether a lookup has come to an end.
    pub(super) is_asked: bool,
    /// Whether it had an answer and has lost it.
    pub(super) is_gone: bool,
    trouble: Option<Trouble>,
}

/// What is wrong with a name.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    Failing,
    /// It is not there, since then.
    NotThere(Instant),
}

impl State {
    /// A name that nothing is known of.
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            known: None,
            due: now,
            is_asked: false,
            is_gone: false,
            trouble: None,
        }
    }

    /// Takes in the end of a lookup.
    pub(super) fn take(&mut self, question: &Question, outcome: Outcome, now: Instant) {
        self.is_asked = true;
        match outcome {
            Outcome::Found(data, ttl) => {
                self.due = now + ttl.clamp(TTL_FLOOR, TTL_CEILING);
                self.known = Some(self.merged(data));
                self.is_gone = false;
                if self.trouble.take().is_some() {
                    tracing::info!(name = %question, "the name resolves again");
                }
            }
            Outcome::NotThere => {
                self.due = now + RETRY;
                self.warn_once(question, "there is no such name, or nothing for it");
                if !matches!(self.trouble, Some(Trouble::NotThere(_))) {
                    self.trouble = Some(Trouble::NotThere(now));
                }
                self.let_go(question, now);
            }
            Outcome::Failed(error) => {
                self.due = now + RETRY;
                self.warn_once(question, &error);
                self.trouble = Some(Trouble::Failing);
            }
        }
    }

    /// What was found, beside what is known of a family that could not be asked for.
    fn merged(&mut self, data: Data) -> Known {
        match data {
            Data::Records(records) => Known::Records(records),
            Data::Addresses { v4, v6 } => {
                let (known4, known6) = match self.known.take() {
                    Some(Known::Addresses { v4, v6 }) => (v4, v6),
                    Some(Known::Records(_)) | None => (Vec::new(), Vec::new()),
                };
                Known::Addresses {
                    v4: v4.unwrap_or(known4),
                    v6: v6.unwrap_or(known6),
                }
            }
        }
    }

    /// Gives up the answer of a name that has not been there for too long.
    fn let_go(&mut self, question: &Question, now: Instant) {
        if let Some(Trouble::NotThere(since)) = self.trouble
            && now.saturating_duration_since(since) >= HOLD
            && self.known.take().is_some()
        {
            self.is_gone = true;
            tracing::warn!(name = %question, "the name is gone, and its endpoints with it");
        }
    }

    fn warn_once(&self, question: &Question, error: &str) {
        if self.trouble.is_none() {
            let keeps = self.known.as_ref().map_or(0, Known::len);
            tracing::warn!(name = %question, error, keeps, "the name does not resolve");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(v4: Option<&[u8]>, v6: Option<&[u8]>, ttl: u64) -> Outcome {
        let family = |v4: &[u8]| v4.iter().map(|&last| [10, 0, 0, last].into()).collect();
        let data = Data::Addresses {
            v4: v4.map(family),
            v6: v6.map(family),
        };
        Outcome::Found(data, Duration::from_secs(ttl))
    }

    fn failed() -> Outcome {
        Outcome::Failed("no answer".to_owned())
    }

    /// What is known after these, each so many seconds after the one before, and the wait for the next look.
    fn play(script: &[(u64, Outcome)]) -> (State, usize, Duration) {
        let question = Question::Host("app".to_owned());
        let mut now = Instant::now();
        let mut state = State::new(now);
        for (later, outcome) in script {
            now += Duration::from_secs(*later);
            state.take(&question, outcome.clone(), now);
        }
        let known = state.known.as_ref().map_or(0, Known::len);
        let wait = state.due - now;
        (state, known, wait)
    }

    #[test]
    fn an_answer_holds_for_its_ttl_within_bounds() {
        let check = |ttl, seconds| {
            let (_, known, wait) = play(&[(0, found(Some(&[1]), Some(&[]), ttl))]);
            assert_eq!((known, wait.as_secs()), (1, seconds), "TTL {ttl}");
        };
        check(30, 30);
        check(0, 1);
        check(86_400, 300);
    }

    #[test]
    fn a_failure_keeps_the_last_answer_for_ever() {
        let good = (0, found(Some(&[1, 2]), Some(&[]), 30));
        let (state, known, wait) = play(&[good, (30, failed()), (86_400, failed())]);
        assert_eq!((known, wait), (2, RETRY));
        assert!(!state.is_gone && state.trouble.is_some());
    }

    #[test]
    fn a_name_that_is_not_there_keeps_it_for_the_hold() {
        let good = || (0, found(Some(&[1]), Some(&[]), 30));
        let not_there = |later| (later, Outcome::NotThere);
        let check = |script: &[(u64, Outcome)], known, is_gone| {
            let (state, found, _) = play(script);
            assert_eq!((found, state.is_gone), (known, is_gone), "{script:?}");
        };
        check(&[good(), not_there(30), not_there(29)], 1, false);
        check(&[good(), not_there(30), not_there(30)], 0, true);
        // What lies between takes the count back.
        check(
            &[good(), not_there(30), (20, failed()), not_there(20)],
            1,
            false,
        );
        check(&[good(), not_there(30), good(), not_there(40)], 1, false);
        check(&[good(), not_there(30), not_there(30), good()], 1, false);
        // A name that never was there is not gone.
        check(&[not_there(0), not_there(60)], 0, false);
    }

    #[test]
    fn a_family_that_fails_keeps_its_addresses() {
        let good = || (0, found(Some(&[1, 2]), Some(&[3]), 30));
        assert_eq!(play(&[good(), (30, found(Some(&[1]), None, 30))]).1, 2);
        assert_eq!(play(&[good(), (30, found(Some(&[1]), Some(&[]), 30))]).1, 1);
    }
}
