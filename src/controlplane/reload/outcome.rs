//! How attempts at a new snapshot ended, as a value: for the log, for people and for machines.
//!
//! The loop makes one for each attempt, and shows it on the `board`.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use foldhash::{HashMap, HashMapExt, HashSet};
use serde_json::{Value, json};

use super::in_force::InForce;
use super::sites::{Standing, Taken};
use crate::base::name::{EndpointId, SiteName};
use crate::dataplane::snapshot::Snapshot;

/// Names written out in a log line before the rest is a number.
const NAMES_LIMIT: usize = 8;

/// What made the loop try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// The process started.
    Start,
    /// The config file, or a file that it names, changed.
    FilesChanged,
    /// SIGHUP, or a caller in the process.
    Asked,
    /// A name in the config has other addresses now.
    Resolved,
}

impl fmt::Display for Cause {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Start => "start",
            Self::FilesChanged => "files_changed",
            Self::Asked => "asked",
            Self::Resolved => "resolved",
        })
    }
}

/// How one attempt at a new snapshot ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The attempts so far, this one included.
    pub number: u64,
    /// What made the loop try.
    pub cause: Cause,
    /// The version in force now.
    pub version: u64,
    /// From the event to the end.
    pub took: Duration,
    /// The end, on the wall.
    pub ended: SystemTime,
    /// What became of it.
    pub verdict: Verdict,
    /// The sites that are not in force as they are written, now.
    pub sites: Vec<Ailing>,
}

impl Outcome {
    /// Whether what the attempt found is in force now, all of it.
    pub fn is_good(&self) -> bool {
        match self.verdict {
            Verdict::Changed(_) | Verdict::Unchanged => self.sites.is_empty(),
            Verdict::Rejected(_) => false,
        }
    }
}

impl fmt::Display for Outcome {
    /// For people: what became of it on the first line, each mistake on one of its own.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            version,
            cause,
            took,
            ..
        } = self;
        match &self.verdict {
            Verdict::Changed(changes) => {
                write!(out, "version {version} is in force ({cause}, {took:.1?})")?;
                if *cause != Cause::Start {
                    write!(out, ": {changes}")?;
                }
            }
            Verdict::Unchanged => {
                write!(
                    out,
                    "version {version} stays ({cause}, {took:.1?}): nothing to change"
                )?;
            }
            Verdict::Rejected(errors) => {
                write!(
                    out,
                    "refused ({cause}, {took:.1?}): version {version} stays"
                )?;
                for error in errors {
                    write!(out, "\n  {error}")?;
                }
            }
        }
        for ailing in &self.sites {
            let Ailing { site, file, .. } = ailing;
            let file = file.display();
            match ailing.state {
                Ails::Frozen => write!(
                    out,
                    "\nsite {site} ({file}) is frozen at its last good version:"
                )?,
                Ails::LeftOut => write!(out, "\nsite {site} ({file}) is left out:")?,
            }
            for error in &ailing.errors {
                write!(out, "\n  {error}")?;
            }
        }
        Ok(())
    }
}

impl Outcome {
    /// For machines: an object with `attempt`, `cause`, `version`, `ended` (RFC 3339, UTC), `seconds`, `is_good`, `verdict`
    /// (`changed`, `unchanged` or `rejected`), `changes`, `errors` and `sites`.
    pub fn to_json(&self) -> Value {
        let (changes, errors) = match &self.verdict {
            Verdict::Changed(changes) => (changes.to_json(), &[][..]),
            Verdict::Unchanged => (Value::Null, &[][..]),
            Verdict::Rejected(errors) => (Value::Null, &errors[..]),
        };
        let sites = self.sites.iter().map(|ailing| {
            json!({
                "site": ailing.site.as_str(),
                "file": ailing.file.to_string_lossy(),
                "state": ailing.state.to_string(),
                "errors": ailing.errors,
            })
        });
        json!({
            "attempt": self.number,
            "cause": self.cause.to_string(),
            "version": self.version,
            "ended": humantime::format_rfc3339_millis(self.ended).to_string(),
            "seconds": self.took.as_secs_f64(),
            "is_good": self.is_good(),
            "verdict": self.verdict.as_str(),
            "changes": changes,
            "errors": errors,
            "sites": sites.collect::<Vec<_>>(),
        })
    }
}

/// A site that is not in force as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ailing {
    /// Its name.
    pub site: SiteName,
    /// Its file.
    pub file: PathBuf,
    /// What is done about it.
    pub state: Ails,
    /// Errors, each rendered with its place.
    pub errors: Vec<String>,
}

/// What is done about a site that is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ails {
    /// Its last good version stays in force.
    Frozen,
    /// It never was good: requests for it are answered by a fault.
    LeftOut,
}

impl Ailing {
    /// Those among `sites`.
    pub fn of(sites: &[Standing]) -> Vec<Self> {
        let sites = sites.iter().filter(|site| !site.errors.is_empty());
        let sites = sites.map(|site| Self {
            site: site.name.clone(),
            file: site.path.clone(),
            state: match site.taken {
                Taken::Written(_) | Taken::Frozen { .. } => Ails::Frozen,
                Taken::LeftOut { .. } => Ails::LeftOut,
            },
            errors: site.errors.iter().map(ToString::to_string).collect(),
        });
        sites.collect()
    }
}

impl fmt::Display for Ails {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Frozen => "frozen",
            Self::LeftOut => "left_out",
        })
    }
}

/// What became of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A new version is in force.
    Changed(Box<Changes>),
    /// It says what is in force already.
    Unchanged,
    /// Errors, each rendered with its place; what was in force stays so.
    Rejected(Vec<String>),
}

impl Verdict {
    /// The word for it: `changed`, `unchanged` or `rejected`.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Changed(_) => "changed",
            Self::Unchanged => "unchanged",
            Self::Rejected(_) => "rejected",
        }
    }
}

/// What differs between two versions, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Listeners.
    pub listeners: Difference,
    /// Certificates that listeners and pools show, by their files.
    pub certificates: Difference,
    /// Routes.
    pub routes: Difference,
    /// Pools, whose members may have changed by resolution too.
    pub pools: Difference,
    /// Endpoints, as `pool/address`. One that changed has another weight, or is spoken to in another way.
    pub endpoints: Difference,
    /// Sites: what is in force of them.
    pub sites: Difference,
    /// Top-level keys.
    pub settings: Vec<&'static str>,
}

impl Changes {
    /// What differs between two versions; their configs say what their snapshots do not keep.
    pub fn between(before: (&Snapshot, &InForce), after: (&Snapshot, &InForce)) -> Self {
        let ((before, was), (after, is)) = (before, after);
        let (old, new) = (was.config(), is.config());
        let mut settings = Vec::new();
        let mut compare = |key, is_same: bool| {
            if !is_same {
                settings.push(key);
            }
        };
        compare("workers", old.workers == new.workers);
        compare("access_log", old.access_log == new.access_log);
        compare(
            "trusted_proxies",
            old.trusted_proxies == new.trusted_proxies,
        );
        compare("resolvers", old.resolvers == new.resolvers);
        compare("limits", old.limits == new.limits);
        compare("timeouts", old.timeouts == new.timeouts);
        compare("drain", old.drain == new.drain);
        compare("include", old.include == new.include);
        compare("strict", old.strict == new.strict);
        Self {
            listeners: Difference::between(
                &before.listeners,
                &after.listeners,
                |plan| plan.name.as_str(),
                Arc::ptr_eq,
            ),
            certificates: Difference::between(
                &grouped(was.certificates()),
                &grouped(is.certificates()),
                |(file, _)| file,
                |one, other| one.1 == other.1,
            ),
            routes: Difference::between(
                was.routes(),
                is.routes(),
                |route| route.name.as_str(),
                |one, other| one == other,
            ),
            pools: Difference::between(
                &before.pools,
                &after.pools,
                |pool| pool.name.as_str(),
                Arc::ptr_eq,
            ),
            endpoints: Difference::between(
                &grouped(members(before, after)),
                &grouped(members(after, before)),
                |(endpoint, _)| endpoint,
                |one, other| one.1 == other.1,
            ),
            sites: Difference::between(
                &was.sites,
                &is.sites,
                |site| site.name.as_str(),
                Standing::is_same,
            ),
            settings,
        }
    }
}

impl Changes {
    fn by_kind(&self) -> [(&'static str, &Difference); 6] {
        [
            ("listeners", &self.listeners),
            ("certificates", &self.certificates),
            ("routes", &self.routes),
            ("pools", &self.pools),
            ("endpoints", &self.endpoints),
            ("sites", &self.sites),
        ]
    }

    /// Whether there are none that have a name.
    pub fn is_empty(&self) -> bool {
        let mut kinds = self.by_kind().into_iter();
        kinds.all(|(_, difference)| difference.is_empty()) && self.settings.is_empty()
    }

    /// For machines: the names that are `added`, `changed` and `removed` of each kind, all of them, and `settings`.
    fn to_json(&self) -> Value {
        let kinds = self.by_kind().into_iter().map(|(kind, difference)| {
            let Difference {
                added,
                changed,
                removed,
            } = difference;
            let names = json!({ "added": added, "changed": changed, "removed": removed });
            (kind.to_owned(), names)
        });
        let settings = ("settings".to_owned(), json!(self.settings));
        Value::Object(kinds.chain([settings]).collect())
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lead = "";
        for (kind, difference) in self.by_kind() {
            if !difference.is_empty() {
                write!(out, "{lead}{kind}{difference}")?;
                lead = "; ";
            }
        }
        if !self.settings.is_empty() {
            write!(out, "{lead}{}", self.settings.join(" "))?;
        }
        if self.is_empty() {
            // Of what has the same names and says the same, nothing else is left to differ.
            out.write_str("order")?;
        }
        Ok(())
    }
}

/// The members of pools that `other` does not have, each by the name of its endpoint, with what makes it the same; and the
/// addresses of those that are known by name, as `pool/endpoint@address`.
fn members<'a>(
    of: &'a Snapshot,
    other: &Snapshot,
) -> impl Iterator<Item = (String, (EndpointId, u32))> + use<'a> {
    let known: HashSet<_> = other.pools.iter().map(Arc::as_ptr).collect();
    let pools = of.pools.iter();
    let pools = pools.filter(move |pool| !known.contains(&Arc::as_ptr(pool)));
    pools.flat_map(|pool| {
        let members = pool.members.iter().map(|member| {
            let name = format!("{}/{}", pool.name, member.endpoint.label);
            (name, (member.endpoint.id, member.weight))
        });
        let addresses = pool.members.iter().flat_map(|member| {
            let reach = member.reach.iter();
            reach.flat_map(|reach| reach.addresses()).map(|address| {
                let name = format!("{}/{}@{}", pool.name, member.endpoint.label, address.ip());
                (name, (member.endpoint.id, 0))
            })
        });
        members.chain(addresses)
    })
}

/// Puts together what has one name, each thing once, in the order of the names' first appearance.
fn grouped<T: PartialEq>(named: impl Iterator<Item = (String, T)>) -> Vec<(String, Vec<T>)> {
    let mut groups: Vec<(String, Vec<T>)> = Vec::new();
    let mut places = HashMap::new();
    for (name, item) in named {
        let place = *places.entry(name).or_insert_with_key(|name| {
            groups.push((name.clone(), Vec::new()));
            groups.len() - 1
        });
        if let Some((_, group)) = groups.get_mut(place)
            && !group.contains(&item)
        {
            group.push(item);
        }
    }
    groups
}

/// What differs between two lists of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Names that are new.
    pub added: Vec<String>,
    /// Names that mean something else now.
    pub changed: Vec<String>,
    /// Names that are gone.
    pub removed: Vec<String>,
}

impl Difference {
    /// Compares two lists by name, of which each has every name once; `is_same` says whether two things of one name are the
    /// same.
    pub fn between<'a, T: 'a>(
        before: impl IntoIterator<Item = &'a T>,
        after: impl IntoIterator<Item = &'a T>,
        name: impl Fn(&'a T) -> &'a str,
        is_same: impl Fn(&T, &T) -> bool,
    ) -> Self {
        let before: Vec<_> = before.into_iter().collect();
        let mut old: HashMap<_, _> = before.iter().map(|&item| (name(item), item)).collect();
        let mut difference = Self::default();
        for item in after {
            match old.remove(name(item)) {
                None => difference.added.push(name(item).to_owned()),
                Some(other) if is_same(other, item) => {}
                Some(_) => difference.changed.push(name(item).to_owned()),
            }
        }
        let gone = before
            .into_iter()
            .map(name)
            .filter(|name| old.contains_key(name));
        difference.removed = gone.map(str::to_owned).collect();
        difference
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (sign, names) in [
            ('+', &self.added),
            ('~', &self.changed),
            ('-', &self.removed),
        ] {
            for name in names.iter().take(NAMES_LIMIT) {
                write!(out, " {sign}{name}")?;
            }
            if let Some(more) = names.len().checked_sub(NAMES_LIMIT + 1) {
                write!(out, " {sign}({} more)", more + 1)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_names_what_is_new_other_and_gone() {
        let before = [("a", 1), ("b", 1), ("c", 1)];
        let after = [("b", 2), ("c", 1), ("d", 1)];
        let difference = Difference::between(&before, &after, |item| item.0, PartialEq::eq);
        assert_eq!(difference.to_string(), " +d ~b -a");
        let changes = Changes {
            pools: difference,
            settings: vec!["limits"],
            ..Changes::default()
        };
        assert_eq!(changes.to_string(), "pools +d ~b -a; limits");
        assert_eq!(Changes::default().to_string(), "order");
    }

    #[test]
    fn things_of_one_name_stand_together_each_once() {
        let named = [("b", 1), ("a", 2), ("b", 3), ("b", 1)];
        let named = named.map(|(name, item)| (name.to_owned(), item));
        let expected = [("b".to_owned(), vec![1, 3]), ("a".to_owned(), vec![2])];
        assert_eq!(grouped(named.into_iter()), expected);
    }

    #[test]
    fn a_long_difference_is_cut_in_the_log() {
        let after: Vec<_> = (0..100).map(|n| n.to_string()).collect();
        let difference = Difference::between(&[], &after, |name| name, PartialEq::eq);
        assert_eq!(
            difference.to_string(),
            " +0 +1 +2 +3 +4 +5 +6 +7 +(92 more)"
        );
    }

    #[test]
    fn an_outcome_is_told_to_people_and_to_machines() {
        let changes = Changes {
            routes: Difference {
                added: vec!["canary".to_owned()],
                ..Difference::default()
            },
            settings: vec!["limits"],
            ..Changes::default()
        };
        let ailing = Ailing {
            site: "shop".into(),
            file: "sites/shop.yaml".into(),
            state: Ails::Frozen,
            errors: vec!["sites/shop.yaml:1:1: wrong".to_owned()],
        };
        let outcome = |verdict, sites| Outcome {
            number: 3,
            cause: Cause::Asked,
            version: 2,
            took: Duration::from_micros(1500),
            ended: SystemTime::UNIX_EPOCH + Duration::from_millis(500),
            verdict,
            sites,
        };
        let changed = outcome(Verdict::Changed(Box::new(changes)), vec![ailing]);
        assert_eq!(
            changed.to_string(),
            "version 2 is in force (asked, 1.5ms): routes +canary; limits\n\
             site shop (sites/shop.yaml) is frozen at its last good version:\n  \
             sites/shop.yaml:1:1: wrong"
        );
        let json = changed.to_json();
        assert_eq!(json["changes"]["routes"]["added"], json!(["canary"]));
        assert_eq!(json["changes"]["settings"], json!(["limits"]));
        assert_eq!(
            (&json["verdict"], &json["is_good"], &json["seconds"]),
            (&json!("changed"), &json!(false), &json!(0.0015))
        );
        assert_eq!(json["sites"][0]["state"], "frozen");
        assert_eq!(json["ended"], "1970-01-01T00:00:00.500Z");
        let rejected = outcome(
            Verdict::Rejected(vec!["proxy.yaml:1:1: wrong".to_owned()]),
            Vec::new(),
        );
        assert_eq!(
            rejected.to_string(),
            "refused (asked, 1.5ms): version 2 stays\n  proxy.yaml:1:1: wrong"
        );
        assert_eq!(
            rejected.to_json()["errors"],
            json!(["proxy.yaml:1:1: wrong"])
        );
        let unchanged = outcome(Verdict::Unchanged, Vec::new());
        assert_eq!(
            unchanged.to_string(),
            "version 2 stays (asked, 1.5ms): nothing to change"
        );
        assert_eq!(unchanged.to_json()["is_good"], json!(true));
    }
}
