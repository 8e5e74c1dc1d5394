//! Rules of routes: one action each, pools that exist, names that differ, paths that may come.

use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};

use super::{KnownPools, action, filter, most, retry};
use crate::base::name::RouteName;
use crate::base::path::normal_path;
use crate::config::decode::{At, Decoder};
use crate::config::forms::{PathKey, ValueKey};
use crate::config::keys;
use crate::config::kinds::{Named, OrOff};
use crate::config::route::{
    HostMatch, Limits, Match, PathMatch, Retry, Route, Timeouts, ValueMatch,
};
use crate::config::values::Timeout;

/// Checks all routes.
pub(super) fn check(
    written: &[At<keys::Route>],
    pools: &KnownPools<'_>,
    timeouts: &Timeouts,
    decoder: &mut Decoder,
) -> Vec<Route> {
    let mut names = Names::of(written, decoder);
    let default_retry = Arc::new(Retry::default());
    let mut routes = Vec::with_capacity(written.len());
    for at in written {
        let keys = &at.value;
        let matches = keys.matches.as_ref();
        let matches = matches.map_or_else(Match::default, |at| match_of(&at.value, decoder));
        check_slashes(keys, matches.path.as_ref(), decoder);
        let filters = filter::check(keys, matches.path.as_ref(), decoder);
        let Some(action) = action::check(keys, pools, decoder) else {
            continue;
        };
        let timeouts = route_timeouts(keys, timeouts);
        routes.push(Route {
            name: names.name(keys, &matches),
            matches,
            filters,
            mirror: action::mirror(keys, &action, pools, decoder),
            action,
            limits: keys
                .limits
                .as_ref()
                .map_or_else(Limits::default, |at| Limits {
                    concurrent_requests: most(at.value.concurrent_requests.as_ref()),
                }),
            retry: match keys.retry.as_ref().map(|at| &at.value) {
                Some(OrOff::Off) => Arc::new(Retry::off()),
                Some(OrOff::On(keys)) => Arc::new(retry::check(keys, timeouts.response, decoder)),
                None => Arc::clone(&default_retry),
            },
            timeouts,
            danger_allow_encoded_slashes: keys.danger_allow_encoded_slashes.value,
        });
    }
    routes
}

/// Reports a path that holds what its route refuses.
fn check_slashes(keys: &keys::Route, path: Option<&PathMatch>, decoder: &mut Decoder) {
    let (Some(PathMatch::Prefix(path) | PathMatch::Exact(path)), Some(at)) = (path, &keys.matches)
    else {
        return;
    };
    let has_encoded_slash = normal_path(path).is_ok_and(|normal| normal.has_encoded_slash);
    if has_encoded_slash && !keys.danger_allow_encoded_slashes.value {
        let place = at.value.path.as_ref().map_or(at.place, |path| path.place);
        let help =
            "if the endpoint is known to be safe, write `danger_allow_encoded_slashes: true`";
        let message = "requests with an encoded `/` or `\\` in their path are refused";
        decoder.problem(place, message, help);
    }
}

/// The names of routes, each there once.
struct Names {
    taken: HashMap<String, usize>,
}

impl Names {
    fn of(written: &[At<keys::Route>], decoder: &mut Decoder) -> Self {
        let mut taken = HashMap::new();
        for (index, at) in written.iter().enumerate() {
            let Some(name) = &at.value.name else {
                continue;
            };
            if let Some(first) = taken.get(&name.value.0) {
                let message = format!("the name `{}` is taken by routes[{first}]", name.value.0);
                decoder.problem(name.place, message, "give each route a name of its own");
            }
            taken.entry(name.value.0.clone()).or_insert(index);
        }
        // From here on the numbers count routes that would have the same name.
        taken.values_mut().for_each(|number| *number = 1);
        Self { taken }
    }

    fn name(&mut self, keys: &keys::Route, matches: &Match) -> RouteName {
        if let Some(name) = &keys.name {
            return name.value.0.as_str().into();
        }
        let host = match matches.hosts.first() {
            None => "*".to_owned(),
            Some(HostMatch::Exact(host)) => host.clone(),
            Some(HostMatch::Wildcard(parent)) => format!("*.{parent}"),
        };
        let path = match &matches.path {
            None => "/",
            Some(PathMatch::Prefix(path) | PathMatch::Exact(path) | PathMatch::Regex(path)) => path,
        };
        let plain = format!("{host}{path}");
        let mut name = plain.clone();
        while self.taken.contains_key(&name) {
            let number = self.taken.entry(plain.clone()).or_insert(1);
            *number += 1;
            name = format!("{plain}#{number}");
        }
        self.taken.insert(name.clone(), 1);
        name.into()
    }
}

fn match_of(keys: &keys::Match, decoder: &mut Decoder) -> Match {
    if let Some(headers) = &keys.headers {
        for (name, _) in &headers.value.0 {
            if name.value.0 == "host" {
                let help = "match the host by `host`, which knows wildcards and every protocol";
                decoder.problem(name.place, "`host` is not matched as a header field", help);
            }
        }
    }
    let hosts = keys.host.iter().flat_map(|at| &at.value.0);
    let methods = keys.methods.iter().flat_map(|at| &at.value.0);
    Match {
        hosts: hosts.map(|at| at.value.clone()).collect(),
        path: keys.path.as_ref().and_then(|at| path(&at.value)),
        methods: methods.map(|at| at.value.0.clone()).collect(),
        headers: values(keys.headers.as_ref(), |name| name.0.clone()),
        query: values(keys.query.as_ref(), |name| name.0.clone()),
    }
}

fn path(key: &PathKey) -> Option<PathMatch> {
    let forms = match key {
        PathKey::Prefix(prefix) => return Some(PathMatch::Prefix(prefix.0.clone())),
        PathKey::Forms(forms) => forms,
    };
    if let Some(prefix) = &forms.prefix {
        return Some(PathMatch::Prefix(prefix.value.0.clone()));
    }
    if let Some(exact) = &forms.exact {
        return Some(PathMatch::Exact(exact.value.0.clone()));
    }
    let regex = forms.regex.as_ref()?;
    Some(PathMatch::Regex(regex.value.0.clone()))
}

fn values<N>(
    pairs: Option<&At<Named<N, ValueKey>>>,
    text: impl Fn(&N) -> String,
) -> Vec<(String, ValueMatch)> {
    let pairs = pairs.into_iter().flat_map(|at| &at.value.0);
    pairs
        .filter_map(|(name, key)| Some((text(&name.value), value(&key.as_ref()?.value)?)))
        .collect()
}

fn value(key: &ValueKey) -> Option<ValueMatch> {
    let forms = match key {
        ValueKey::Exact(value) => return Some(ValueMatch::Exact(value.clone())),
        ValueKey::Forms(forms) => forms,
    };
    if let Some(exact) = &forms.exact {
        return Some(ValueMatch::Exact(exact.value.clone()));
    }
    if let Some(regex) = &forms.regex {
        return Some(ValueMatch::Regex(regex.value.0.clone()));
    }
    let present = forms.present.as_ref()?;
    Some(ValueMatch::Present(present.value))
}

fn route_timeouts(keys: &keys::Route, defaults: &Timeouts) -> Timeouts {
    let keys = keys.timeouts.as_ref().map(|at| &at.value);
    let or = |timeout: Option<&Option<At<Timeout>>>, default| match timeout {
        Some(Some(at)) => at.value.0,
        _ => default,
    };
    Timeouts {
        response: or(keys.map(|keys| &keys.response), defaults.response),
        idle: or(keys.map(|keys| &keys.idle), defaults.idle),
        stream: or(keys.map(|keys| &keys.stream), defaults.stream),
    }
}
