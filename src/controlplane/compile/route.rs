//! Route tables and filters.

use std::collections::HashMap;
use std::sync::Arc;

use http::{HeaderName, Method};

use super::Errors;
use crate::base::name::PoolName;
use crate::config::route as config;
use crate::dataplane::filter::{Filter, FilterInvalid, FixedResponse, Redirect};
use crate::dataplane::route::{HostMatch, Match, PathMatch, RouteTable, ValueMatch};
use crate::dataplane::snapshot::{Action, Route};
use crate::dataplane::upstream::pool::Pool;

pub(super) fn compile(
    routes: &[config::Route],
    pools: &[Arc<Pool>],
    errors: &mut Errors<'_>,
) -> RouteTable<Arc<Route>> {
    let pools: HashMap<_, _> = pools.iter().map(|pool| (&pool.name, pool)).collect();
    let rules = routes.iter().enumerate().filter_map(|(index, route)| {
        let path = format!("routes[{index}]");
        let condition = condition(&route.matches, &format!("{path}.match"), errors);
        let compiled = one(route, &path, &pools, errors);
        Some((condition?, Arc::new(compiled?)))
    });
    RouteTable::new(rules.collect())
}

fn one(
    route: &config::Route,
    path: &str,
    pools: &HashMap<&PoolName, &Arc<Pool>>,
    errors: &mut Errors<'_>,
) -> Option<Route> {
    let filters = route.filters.iter().enumerate().map(|(index, filter)| {
        let (key, made) = compile_filter(filter);
        errors.take(made, &format!("{path}.filters[{index}].{key}"))
    });
    // Collected first, so that every filter is looked at.
    let filters: Vec<_> = filters.collect();
    let action = match &route.action {
        // A pool that is not there, though the config was checked, has an error of its own.
        config::Action::Pool(name) => pools
            .get(name)
            .map(|&pool| Action::Forward(Arc::clone(pool))),
        config::Action::Redirect { to, status } => errors
            .take(Redirect::new(to, *status), &format!("{path}.redirect"))
            .map(Action::Redirect),
        config::Action::Respond {
            status,
            body,
            headers,
        } => errors
            .take(
                FixedResponse::new(*status, headers, body.clone()),
                &format!("{path}.respond"),
            )
            .map(Action::Respond),
    };
    Some(Route {
        name: route.name.clone(),
        filters: filters.into_iter().collect::<Option<_>>()?,
        action: action?,
        response_timeout: route.timeouts.response,
        idle_timeout: route.timeouts.idle,
        stream_timeout: route.timeouts.stream,
        retries: route.retry.attempts,
        allow_encoded_slashes: route.danger_allow_encoded_slashes,
    })
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
