//! Routes: their conditions, filters and actions.
//!
//! A route that says the same as before and leads to the same pool is that very route; one that changed keeps the
//! filters that did not, and a condition that did not change is not read again.

use std::sync::Arc;
use std::time::Duration;

use foldhash::{HashMap, HashMapExt};
use http::{HeaderName, Method};

use super::{Errors, Previous, seed};
use crate::base::fault::Fault;
use crate::base::name::{PoolName, RouteName, SiteName};
use crate::config::route as config;
use crate::dataplane::filter::{Filter, FilterInvalid, FixedResponse, Redirect};
use crate::dataplane::route::{HostMatch, Match, PathMatch, ValueMatch};
use crate::dataplane::snapshot::{Action, Fork, Route};
use crate::dataplane::upstream::mirror::Mirror;
use crate::dataplane::upstream::pool::Pool;
use crate::dataplane::upstream::retry;
use crate::dataplane::upstream::split::{Cohorts, Split};

/// The pools of a file by their names.
type Pools<'a> = HashMap<&'a PoolName, &'a Arc<Pool>>;

pub(super) fn compile(
    routes: &[config::Route],
    pools: &[Arc<Pool>],
    before: &Before<'_>,
    errors: &mut Errors<'_>,
) -> Vec<(Match, Arc<Route>)> {
    let pools: Pools<'_> = pools.iter().map(|pool| (&pool.name, pool)).collect();
    let mut plans = Plans::default();
    let rules = routes.iter().enumerate().filter_map(|(index, route)| {
        let path = format!("routes[{index}]");
        let known = before.routes.get(&route.name);
        let condition = match known {
            Some(known) if known.config.matches == route.matches => Some(known.condition.clone()),
            Some(_) | None => condition(&route.matches, &format!("{path}.match"), errors),
        };
        let compiled = one(route, &path, &pools, known, &mut plans, errors);
        Some((condition?, compiled?))
    });
    rules.collect()
}

/// What the previous snapshot has to hand over.
#[derive(Debug)]
pub(super) struct Before<'a> {
    routes: HashMap<&'a RouteName, Known<'a>>,
}

/// A route in force, and what it was compiled from.
#[derive(Debug)]
struct Known<'a> {
    config: &'a config::Route,
    condition: &'a Match,
    route: &'a Arc<Route>,
}

impl<'a> Before<'a> {
    pub(super) fn of(previous: Option<&Previous<'a>>) -> Self {
        let Some(previous) = previous else {
            return Self {
                routes: HashMap::new(),
            };
        };
        let configs: HashMap<_, _> = previous.routes.iter().map(|&c| (&c.name, c)).collect();
        let known = previous.snapshot.routes.iter();
        let known = known.filter_map(|(condition, route)| {
            let config = *configs.get(&route.name)?;
            let known = Known {
                config,
                condition,
                route,
            };
            Some((&route.name, known))
        });
        Self {
            routes: known.collect(),
        }
    }
}

impl Known<'_> {
    /// Whether the route would come out the same once more, but for its condition.
    fn is_same(&self, route: &config::Route, pools: &Pools<'_>) -> bool {
        let is_same_pool = |before: &Arc<Pool>| {
            let pool = pools.get(&before.name);
            pool.is_some_and(|pool| Arc::ptr_eq(before, pool))
        };
        let leads_there = match &self.route.action {
            Action::Forward(before) => is_same_pool(before),
            Action::Fork(fork) => {
                let mirror = fork.mirror.iter().map(Mirror::pool);
                fork.split.pools().iter().chain(mirror).all(is_same_pool)
            }
            Action::Redirect(_) | Action::Respond(_) => true,
            // What fails is compiled of no route.
            Action::Fail(_) => false,
        };
        let config::Route {
            name: _,
            matches: _,
            filters,
            action,
            mirror,
            timeouts,
            retry,
            limits,
            danger_allow_encoded_slashes,
        } = self.config;
        leads_there
            && *filters == route.filters
            && *action == route.action
            && *mirror == route.mirror
            && *timeouts == route.timeouts
            && *retry == route.retry
            && *limits == route.limits
            && *danger_allow_encoded_slashes == route.danger_allow_encoded_slashes
    }
}

fn one(
    route: &config::Route,
    path: &str,
    pools: &Pools<'_>,
    known: Option<&Known<'_>>,
    plans: &mut Plans,
    errors: &mut Errors<'_>,
) -> Option<Arc<Route>> {
    if let Some(known) = known
        && known.is_same(route, pools)
    {
        return Some(Arc::clone(known.route));
    }
    let filters = match known {
        // What they hold of their own, they keep.
        Some(known) if known.config.filters == route.filters => {
            Some(Arc::clone(&known.route.filters))
        }
        Some(_) | None => filters(&route.filters, path, errors),
    };
    let action = action(route, pools, path, errors);
    let retry = plans.of(route, path, errors);
    Some(Arc::new(Route {
        name: route.name.clone(),
        filters: filters?,
        action: action?,
        retry: retry?,
        idle_timeout: route.timeouts.idle,
        stream_timeout: route.timeouts.stream,
        concurrent_requests: route.limits.concurrent_requests,
        allow_encoded_slashes: route.danger_allow_encoded_slashes,
        life: known.map_or_else(Arc::default, |known| Arc::clone(&known.route.life)),
    }))
}

/// The plans of a compilation: routes that write nothing of retries share those that are warm.
#[derive(Default)]
struct Plans(HashMap<(*const config::Retry, Duration), Arc<retry::Plan>>);

impl Plans {
    fn of(
        &mut self,
        route: &config::Route,
        path: &str,
        errors: &mut Errors<'_>,
    ) -> Option<Arc<retry::Plan>> {
        let (written, response) = (&*route.retry, route.timeouts.response);
        let key = (std::ptr::from_ref(written), response);
        if let Some(plan) = self.0.get(&key) {
            return Some(Arc::clone(plan));
        }
        let methods = written.methods.iter().enumerate().map(|(index, method)| {
            errors.take(
                Method::from_bytes(method.as_bytes()),
                &format!("{path}.retry.methods[{index}]"),
            )
        });
        let methods: Vec<_> = methods.collect();
        let plan = Arc::new(retry::Plan {
            response_timeout: response,
            attempts: written.attempts,
            statuses: written.statuses.iter().cloned().collect(),
            methods: methods.into_iter().collect::<Option<_>>()?,
            per_try_timeout: written.per_try_timeout,
            back_off: written
                .back_off
                .map(|config::BackOff { base, max }| retry::BackOff { base, max }),
            replay: written.replay,
            hedge: written
                .hedge
                .map(|config::Hedge { quantile, least }| retry::Hedge { quantile, least }),
        });
        self.0.insert(key, Arc::clone(&plan));
        Some(plan)
    }
}

fn filters(
    filters: &[config::Filter],
    path: &str,
    errors: &mut Errors<'_>,
) -> Option<Arc<[Filter]>> {
    let filters = filters.iter().enumerate().map(|(index, filter)| {
        let (key, made) = compile_filter(filter);
        errors.take(made, &format!("{path}.filters[{index}].{key}"))
    });
    // Collected first, so that every filter is looked at.
    let filters: Vec<_> = filters.collect();
    let filters: Vec<_> = filters.into_iter().collect::<Option<_>>()?;
    Some(match filters.as_slice() {
        // All routes without filters share the one that is warm.
        [] => Arc::default(),
        _ => filters.into(),
    })
}

fn action(
    route: &config::Route,
    pools: &Pools<'_>,
    path: &str,
    errors: &mut Errors<'_>,
) -> Option<Action> {
    // A pool that is not there, though the config was checked, has an error of its own.
    let pool = |name| pools.get(name).map(|&pool| Arc::clone(pool));
    let fork = |shares, cohorts| {
        let mirror = match &route.mirror {
            None => None,
            Some(mirror) => Some(Mirror::new(pool(&mirror.pool)?, mirror.share, seed())),
        };
        let split = Split::new(shares, cohorts, seed());
        Some(Action::Fork(Box::new(Fork { split, mirror })))
    };
    match &route.action {
        config::Action::Pool(name) if route.mirror.is_none() => pool(name).map(Action::Forward),
        config::Action::Pool(name) => fork(vec![(pool(name)?, 1)], None),
        config::Action::Split {
            pools: written,
            cohorts,
        } => {
            let shares = written
                .iter()
                .map(|(name, weight)| Some((pool(name)?, *weight)));
            let cohorts = cohorts.as_ref().map(|cohorts| Cohorts {
                cookie: cohorts.cookie.as_str().into(),
                max_age: cohorts.max_age,
            });
            fork(shares.collect::<Option<_>>()?, cohorts)
        }
        config::Action::Redirect { to, status } => errors
            .take(Redirect::new(to, *status), &format!("{path}.redirect"))
            .map(|redirect| Action::Redirect(Box::new(redirect))),
        config::Action::Respond {
            status,
            body,
            headers,
        } => errors
            .take(
                FixedResponse::new(*status, headers, body.clone()),
                &format!("{path}.respond"),
            )
            .map(|fixed| Action::Respond(Box::new(fixed))),
    }
}

/// What stands in for a site that is left out: where it seems to have answered, `fault` is the answer.
pub(super) fn refusing(
    site: &SiteName,
    claims: &[config::Match],
    fault: Fault,
    errors: &mut Errors<'_>,
) -> Vec<(Match, Arc<Route>)> {
    let timeouts = config::Timeouts::default();
    let route = Arc::new(Route {
        name: site.as_str().into(),
        filters: [].into(),
        action: Action::Fail(fault),
        retry: Arc::new(retry::Plan::none(timeouts.response)),
        idle_timeout: timeouts.idle,
        stream_timeout: timeouts.stream,
        concurrent_requests: None,
        allow_encoded_slashes: true,
        life: Arc::default(),
    });
    let conditions = claims.iter().map(|claim| condition(claim, "", errors));
    let conditions = conditions.flatten();
    conditions
        .map(|condition| (condition, Arc::clone(&route)))
        .collect()
}

/// The filter, and the key it is written under.
fn compile_filter(filter: &config::Filter) -> (&'static str, Result<Filter, FilterInvalid>) {
    match filter {
        config::Filter::RewritePrefix { from, to } => {
            ("rewrite_prefix", Filter::rewrite_prefix(from, to))
        }
        config::Filter::RewriteRegex { pattern, to } => {
            ("rewrite_regex", Filter::rewrite_regex(pattern, to))
        }
        config::Filter::SetRequestHeaders(fields) => {
            ("set_request_headers", Filter::set_request_headers(fields))
        }
        config::Filter::AddRequestHeaders(fields) => {
            ("add_request_headers", Filter::add_request_headers(fields))
        }
        config::Filter::RemoveRequestHeaders(names) => (
            "remove_request_headers",
            Filter::remove_request_headers(names),
        ),
        config::Filter::SetResponseHeaders(fields) => {
            ("set_response_headers", Filter::set_response_headers(fields))
        }
        config::Filter::AddResponseHeaders(fields) => {
            ("add_response_headers", Filter::add_response_headers(fields))
        }
        config::Filter::RemoveResponseHeaders(names) => (
            "remove_response_headers",
            Filter::remove_response_headers(names),
        ),
    }
}

/// `None` when a part of it is wrong, and that is written down.
fn condition(matches: &config::Match, path: &str, errors: &mut Errors<'_>) -> Option<Match> {
    let hosts = matches.hosts.iter().enumerate().map(|(index, host)| {
        let host = match host {
            config::HostMatch::Exact(host) => HostMatch::exact(host),
            config::HostMatch::Wildcard(suffix) => HostMatch::wildcard(suffix),
        };
        errors.take(host, &format!("{path}.host[{index}]"))
    });
    let hosts: Vec<_> = hosts.collect();
    let path_match = match &matches.path {
        None => Some(PathMatch::ANY),
        Some(config::PathMatch::Prefix(prefix)) => {
            errors.take(PathMatch::prefix(prefix), &format!("{path}.path"))
        }
        Some(config::PathMatch::Exact(exact)) => {
            errors.take(PathMatch::exact(exact), &format!("{path}.path.exact"))
        }
        Some(config::PathMatch::Regex(pattern)) => {
            errors.take(PathMatch::regex(pattern), &format!("{path}.path.regex"))
        }
    };
    let methods = matches.methods.iter().enumerate().map(|(index, method)| {
        errors.take(
            Method::from_bytes(method.as_bytes()),
            &format!("{path}.methods[{index}]"),
        )
    });
    let methods: Vec<_> = methods.collect();
    let headers = matches.headers.iter().map(|(name, value)| {
        let path = format!("{path}.headers.{name}");
        let name = errors.take(HeaderName::from_bytes(name.as_bytes()), &path);
        let value = value_match(value, &path, errors);
        Some((name?, value?))
    });
    let headers: Vec<_> = headers.collect();
    let query = matches.query.iter().map(|(name, value)| {
        let value = value_match(value, &format!("{path}.query.{name}"), errors);
        Some((name.clone(), value?))
    });
    let query: Vec<_> = query.collect();
    Some(Match {
        hosts: hosts.into_iter().collect::<Option<_>>()?,
        path: path_match?,
        methods: methods.into_iter().collect::<Option<_>>()?,
        headers: headers.into_iter().collect::<Option<_>>()?,
        query: query.into_iter().collect::<Option<_>>()?,
    })
}

fn value_match(
    value: &config::ValueMatch,
    path: &str,
    errors: &mut Errors<'_>,
) -> Option<ValueMatch> {
    match value {
        config::ValueMatch::Exact(text) => Some(ValueMatch::Exact(text.as_str().into())),
        config::ValueMatch::Regex(pattern) => {
            errors.take(ValueMatch::regex(pattern), &format!("{path}.regex"))
        }
        config::ValueMatch::Present(is_there) => Some(ValueMatch::Present(*is_there)),
    }
}
