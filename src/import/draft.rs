//! What a config of ours is put together from, whichever proxy it was another's.

use super::text;
use super::value::Value;
use super::{Imported, Note, Weight};

/// A config that grows.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) workers: Option<String>,
    pub(super) listeners: Vec<Listener>,
    pub(super) routes: Vec<Route>,
    pub(super) pools: Vec<Pool>,
    pub(super) resolvers: Vec<String>,
    pub(super) trusted: Vec<String>,
    pub(super) keep_alive: Option<String>,
    pub(super) access_log: Option<Value>,
    pub(super) notes: Vec<Note>,
}

#[derive(Debug)]
pub(super) struct Listener {
    pub(super) address: String,
    /// Pairs of chain and key.
    pub(super) certificates: Vec<(String, String)>,
    pub(super) has_tls: bool,
    pub(super) client_auth: Option<Value>,
    pub(super) redirects: bool,
}

#[derive(Debug)]
pub(super) struct Pool {
    pub(super) name: String,
    pub(super) entries: Vec<(String, Value)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Path {
    Any,
    Prefix(String),
    Exact(String),
    Regex(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Pool(String),
    Redirect { to: String, status: u16 },
    Respond { status: u16, body: String },
}

#[derive(Clone, Debug)]
pub(super) struct Route {
    /// Empty: any.
    pub(super) hosts: Vec<String>,
    pub(super) path: Path,
    /// Further conditions.
    pub(super) conditions: Vec<(String, Value)>,
    pub(super) filters: Vec<Value>,
    pub(super) action: Action,
    pub(super) timeouts: Vec<(String, Value)>,
}

/// What a route does that could not be imported.
pub(super) fn not_imported() -> Action {
    Action::Respond {
        status: 501,
        body: "This route was not imported.\n".into(),
    }
}

/// What a route does whose guard could not be imported: nobody is let in.
pub(super) fn closed() -> Action {
    Action::Respond {
        status: 403,
        body: "The access rule of this route was not imported.\n".into(),
    }
}

impl Draft {
    pub(super) fn note(
        &mut self,
        place: (&str, usize),
        weight: Weight,
        directive: &str,
        why: &str,
    ) {
        let note = Note {
            file: place.0.to_owned(),
            line: place.1,
            weight,
            directive: directive.to_owned(),
            why: why.to_owned(),
        };
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// The listener at an address, made if there is none.
    pub(super) fn listener(&mut self, address: &str) -> &mut Listener {
        let place = self.listeners.iter().position(|one| one.address == address);
        let place = place.unwrap_or_else(|| {
            self.listeners.push(Listener {
                address: address.to_owned(),
                certificates: Vec::new(),
                has_tls: false,
                client_auth: None,
                redirects: false,
            });
            self.listeners.len() - 1
        });
        &mut self.listeners[place]
    }

    /// The pool of these entries: one that is there already, or a new one with a name like this.
    pub(super) fn pool(&mut self, wanted: &str, entries: Vec<(String, Value)>) -> String {
        if let Some(same) = self.pools.iter().find(|pool| pool.entries == entries) {
            return same.name.clone();
        }
        let wanted = text::name(wanted);
        let is_taken = |name: &str| self.pools.iter().any(|pool| pool.name == name);
        let mut name = wanted.clone();
        let mut number = 2;
        while is_taken(&name) {
            name = format!("{wanted}-{number}");
            number += 1;
        }
        self.pools.push(Pool {
            name: name.clone(),
            entries,
        });
        name
    }

    /// Adds a route; one that has the same condition as another is told, and left out.
    pub(super) fn route(&mut self, place: (&str, usize), directive: &str, route: Route) {
        let is_same = |other: &&Route| {
            other.path == route.path
                && other.hosts == route.hosts
                && other.conditions == route.conditions
        };
        match self.routes.iter().find(is_same) {
            None => self.routes.push(route),
            Some(other) if other.action == route.action && other.filters == route.filters => {}
            Some(_) => self.note(
                place,
                Weight::Missing,
                directive,
                "an earlier block answers the same host and path, and routes hold on all listeners: the earlier one stays",
            ),
        }
    }

    /// The config as text, under a comment that counts what to look at.
    pub(super) fn finish(mut self, origin: &str) -> Imported {
        self.merge_families();
        let wanted = |pool: &Pool| {
            let name = &pool.name;
            self.routes
                .iter()
                .any(|route| matches!(&route.action, Action::Pool(used) if used == name))
        };
        let pools: Vec<_> = self.pools.iter().filter(|pool| wanted(pool)).collect();
        let pools: Vec<_> = pools
            .into_iter()
            .map(|pool| (pool.name.clone(), Value::Map(pool.entries.clone())))
            .collect();
        let mut file = Vec::new();
        let mut put = |key: &str, value: Option<Value>| {
            file.extend(value.map(|value| (key.to_owned(), value)));
        };
        let texts = |texts: &[String]| {
            let texts: Vec<_> = texts.iter().map(Value::text).collect();
            (!texts.is_empty()).then_some(Value::List(texts))
        };
        put("workers", self.workers.as_ref().map(Value::word));
        put("access_log", self.access_log.clone());
        put("trusted_proxies", texts(&self.trusted));
        put("resolvers", texts(&self.resolvers));
        let keep_alive = self
            .keep_alive
            .as_ref()
            .map(|time| Value::map([("keep_alive", Value::word(time))]));
        put("timeouts", keep_alive);
        put(
            "listeners",
            Some(Value::List(
                self.listeners.iter().map(Listener::value).collect(),
            )),
        );
        put(
            "routes",
            Some(Value::List(self.routes.iter().map(Route::value).collect())),
        );
        if !pools.is_empty() {
            put("pools", Some(Value::Map(pools)));
        }
        self.notes.sort();
        let count = |weight| {
            self.notes
                .iter()
                .filter(|note| note.weight == weight)
                .count()
        };
        let (missing, differs) = (count(Weight::Missing), count(Weight::Differs));
        let head = format!(
            "# Imported from {origin}: {missing} missing, {differs} different. `lockgate check` says whether its files are there.\n"
        );
        Imported {
            yaml: head + &Value::Map(file).file(),
            notes: self.notes,
        }
    }

    /// Addresses of both families on one port, with the same settings, are one listener.
    fn merge_families(&mut self) {
        let ports: Vec<_> = self
            .listeners
            .iter()
            .filter_map(|one| one.address.strip_prefix("[::]:").map(str::to_owned))
            .collect();
        for port in ports {
            let four = format!("0.0.0.0:{port}");
            let six = format!("[::]:{port}");
            let has_four = self.listeners.iter().any(|one| one.address == four);
            if !has_four {
                continue;
            }
            self.listeners.retain(|one| one.address != six);
            if let Some(one) = self.listeners.iter_mut().find(|one| one.address == four) {
                one.address = format!(":{port}");
            }
        }
    }
}

impl Listener {
    fn value(&self) -> Value {
        let mut entries = vec![("address".to_owned(), Value::text(&self.address))];
        if self.has_tls {
            let pair = |(cert, key): &(String, String)| {
                Value::map([("cert", Value::text(cert)), ("key", Value::text(key))])
            };
            let certificates = self.certificates.iter().map(pair).collect();
            let mut tls = vec![("certificates".to_owned(), Value::List(certificates))];
            tls.extend(
                self.client_auth
                    .clone()
                    .map(|auth| ("client_auth".to_owned(), auth)),
            );
            entries.push(("tls".to_owned(), Value::Map(tls)));
        } else if self.redirects {
            entries.push(("redirect_to_https".to_owned(), Value::word("true")));
        }
        Value::Map(entries)
    }
}

impl Route {
    fn value(&self) -> Value {
        let mut condition = Vec::new();
        match self.hosts.as_slice() {
            [] => {}
            [one] => condition.push(("host".to_owned(), Value::text(one))),
            several => {
                let hosts = several.iter().map(Value::text).collect();
                condition.push(("host".to_owned(), Value::List(hosts)));
            }
        }
        let path = match &self.path {
            Path::Any => None,
            Path::Prefix(path) => Some(Value::text(path)),
            Path::Exact(path) => Some(Value::map([("exact", Value::text(path))])),
            Path::Regex(path) => Some(Value::map([("regex", Value::text(path))])),
        };
        condition.extend(path.map(|path| ("path".to_owned(), path)));
        condition.extend(self.conditions.iter().cloned());
        let mut entries = Vec::new();
        if !condition.is_empty() {
            entries.push(("match".to_owned(), Value::Map(condition)));
        }
        if !self.filters.is_empty() {
            entries.push(("filters".to_owned(), Value::List(self.filters.clone())));
        }
        entries.push(match &self.action {
            Action::Pool(name) => ("pool".to_owned(), Value::text(name)),
            Action::Redirect { to, status } => {
                let redirect = Value::map([
                    ("to", Value::text(to)),
                    ("status", Value::word(status.to_string())),
                ]);
                ("redirect".to_owned(), redirect)
            }
            Action::Respond { status, body } => {
                let mut answer = vec![("status".to_owned(), Value::word(status.to_string()))];
                if !body.is_empty() {
                    answer.push(("body".to_owned(), Value::text(body)));
                }
                ("respond".to_owned(), Value::Map(answer))
            }
        });
        if !self.timeouts.is_empty() {
            entries.push(("timeouts".to_owned(), Value::Map(self.timeouts.clone())));
        }
        Value::Map(entries)
    }
}
