//! `lockgate explain`: what a request would meet, and why; offline, nothing is sent.
//!
//! It asks the very table that requests go through, so that it cannot be of another opinion. What it says of
//! filters and pools comes from the config, in the operator's own words.

use std::fmt::{self, Write as _};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use crate::base::host::normal_host;
use crate::base::name::PoolName;
use crate::base::path::normal_path;
use crate::base::units::show_duration;
use crate::config::listener::Listener;
use crate::config::pool::{BACKUP, Balance, Pool};
use crate::config::route::{self as config, Filter, Route};
use crate::dataplane::route::{CANDIDATES_LIMIT, Lookup, Verdict};
use crate::dataplane::snapshot::{Action, Snapshot};

/// A request as somebody imagines it.
#[derive(Debug)]
pub struct Question {
    method: Method,
    is_https: bool,
    host: String,
    port: u16,
    path: String,
    query: Option<String>,
    headers: HeaderMap,
}

impl Question {
    /// Reads a request off what was typed: the URL is absolute.
    ///
    /// # Errors
    /// What is wrong with it, or why the request would be refused before any route.
    pub fn new(method: &str, url: &str, fields: &[(String, String)]) -> Result<Self, String> {
        let method = Method::from_bytes(method.as_bytes())
            .map_err(|_| format!("`{method}` is not a method"))?;
        let uri: Uri = url
            .parse()
            .map_err(|error| format!("`{url}` is not a URL: {error}"))?;
        let is_https = match uri.scheme_str() {
            Some("https" | "wss") => true,
            Some("http" | "ws") => false,
            Some(_) | None => {
                return Err(format!("`{url}` does not begin with http:// or https://"));
            }
        };
        let host = uri.host().unwrap_or_default();
        let host = normal_host(host).map_err(|error| format!("400 for `{host}`: {error}"))?;
        let path = normal_path(uri.path())
            .map_err(|error| format!("400 for `{}`: {error}", uri.path()))?;
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let field = HeaderName::from_bytes(name.as_bytes());
            let field = field.map_err(|_| format!("`{name}` is not a name of a header field"))?;
            let value = HeaderValue::from_str(value)
                .map_err(|_| format!("the value of `{name}` is not one of a header field"))?;
            headers.append(field, value);
        }
        Ok(Self {
            method,
            is_https,
            host: host.into_owned(),
            port: uri.port_u16().unwrap_or(if is_https { 443 } else { 80 }),
            path: path.path.into_owned(),
            query: uri.query().map(str::to_owned),
            headers,
        })
    }

    fn lookup(&self) -> Lookup<'_> {
        Lookup {
            host: &self.host,
            path: &self.path,
            query: self.query.as_deref(),
            method: &self.method,
            headers: &self.headers,
        }
    }
}

/// What the operator wrote, in all files together.
#[derive(Clone, Debug)]
pub struct Written<'a> {
    /// The listeners.
    pub listeners: &'a [Listener],
    /// The routes.
    pub routes: Vec<&'a Route>,
    /// The pools.
    pub pools: Vec<&'a Pool>,
}

/// Explains what `question` would meet in `snapshot`, which was compiled from `config`.
pub fn explain(config: &Written<'_>, snapshot: &Snapshot, question: &Question) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = write(&mut text, config, snapshot, question);
    text
}

fn write(
    out: &mut String,
    config: &Written<'_>,
    snapshot: &Snapshot,
    question: &Question,
) -> fmt::Result {
    let listener = listener_of(config, question);
    writeln!(
        out,
        "listener  {}",
        describe_listener(config, listener, question)
    )?;
    let ready_path = listener.and_then(|listener| listener.ready_path.as_deref());
    if ready_path == Some(question.path.as_str()) {
        return writeln!(
            out,
            "answer    200 while new clients are welcome, 503 once the process is to end; no route is asked"
        );
    }
    if listener.is_some_and(|listener| listener.redirect_to_https) {
        return writeln!(
            out,
            "answer    a redirect to the same URL under https; no route is asked"
        );
    }
    let found = snapshot.routes.find(&question.lookup());
    let route = found.and_then(|found| config.routes.iter().find(|route| route.name == found.name));
    match (found.map(|found| &found.action), route) {
        (Some(Action::Fail(fault)), _) => {
            let (status, token) = (fault.code(), fault.token());
            writeln!(
                out,
                "site      left out, its file is broken: {status}, {token}"
            )?;
        }
        (_, Some(route)) => write_route(out, config, route)?,
        (_, None) => writeln!(out, "route     none: 404, no_route")?,
    }
    let candidates = snapshot.routes.explain(&question.lookup());
    if candidates.is_empty() {
        return Ok(());
    }
    writeln!(out, "\ncandidates, the most specific first:")?;
    let width = candidates
        .iter()
        .map(|c| c.value.name.as_str().chars().count())
        .max();
    let width = width.unwrap_or_default().min(40);
    for candidate in &candidates {
        let sign = if candidate.verdict == Verdict::Wins {
            '*'
        } else {
            ' '
        };
        let name = candidate.value.name.as_str();
        writeln!(out, "  {sign} {name:<width$}  {}", candidate.verdict)?;
    }
    if candidates.len() == CANDIDATES_LIMIT {
        writeln!(
            out,
            "  (of {} routes, those that came closest)",
            snapshot.routes.len()
        )?;
    }
    Ok(())
}

/// The listener that serves the URL's scheme and port.
fn listener_of<'a>(config: &Written<'a>, question: &Question) -> Option<&'a Listener> {
    config.listeners.iter().find(|listener| {
        listener.address.port() == question.port && listener.tls.is_some() == question.is_https
    })
}

fn describe_listener(
    config: &Written<'_>,
    listener: Option<&Listener>,
    question: &Question,
) -> String {
    let speaks = if question.is_https {
        "TLS"
    } else {
        "cleartext"
    };
    match listener {
        Some(listener) => format!("{} ({speaks})", listener.name),
        None => {
            let all: Vec<_> = config
                .listeners
                .iter()
                .map(|listener| {
                    let speaks = if listener.tls.is_some() {
                        "TLS"
                    } else {
                        "cleartext"
                    };
                    format!("{} ({speaks})", listener.name)
                })
                .collect();
            format!(
                "none for {speaks} on port {}; there are: {}",
                question.port,
                all.join(", ")
            )
        }
    }
}

fn write_route(out: &mut String, config: &Written<'_>, route: &Route) -> fmt::Result {
    writeln!(out, "route     {}", route.name)?;
    for (index, filter) in route.filters.iter().enumerate() {
        let title = if index == 0 { "filters" } else { "" };
        writeln!(out, "{title:<9} {}", describe_filter(filter))?;
    }
    match &route.action {
        config::Action::Pool(name) => {
            writeln!(out, "pool      {name}{}", describe_pool(config, name))?;
            write_rest(out, config, route)
        }
        config::Action::Split { pools, cohorts } => {
            let total: u64 = pools.iter().map(|(_, weight)| u64::from(*weight)).sum();
            for (index, (name, weight)) in pools.iter().enumerate() {
                let title = if index == 0 { "split" } else { "" };
                let share = f64::from(*weight) * 100.0 / total as f64;
                // Two decimals at most, and none that say nothing.
                let share = (share * 100.0).round() / 100.0;
                let pool = describe_pool(config, name);
                writeln!(out, "{title:<9} {share} % to {name}{pool}")?;
            }
            if let Some(cohorts) = cohorts {
                let (cookie, max_age) = (&cohorts.cookie, show_duration(cohorts.max_age));
                writeln!(out, "sticky    by the cookie {cookie}, {max_age}")?;
            }
            write_rest(out, config, route)
        }
        config::Action::Redirect { to, status } => writeln!(out, "redirect  {status} to {to}"),
        config::Action::Respond { status, body, .. } => {
            writeln!(out, "respond   {status}, a body of {} bytes", body.len())
        }
    }
}

/// What there is to say of a route to pools, behind those.
fn write_rest(out: &mut String, config: &Written<'_>, route: &Route) -> fmt::Result {
    if let Some(mirror) = &route.mirror {
        let (name, percent) = (&mirror.pool, f64::from(mirror.share) / 10_000.0);
        let pool = describe_pool(config, name);
        writeln!(out, "mirror    {percent} % to {name}{pool}")?;
    }
    let timeouts = &route.timeouts;
    let (response, idle) = (timeouts.response, timeouts.idle);
    let (response, idle) = (show_duration(response), show_duration(idle));
    writeln!(out, "timeouts  response {response}, idle {idle}")?;
    writeln!(out, "attempts  {}", route.retry.attempts.saturating_add(1))
}

/// What there is to say of a pool behind its name.
fn describe_pool(config: &Written<'_>, name: &PoolName) -> String {
    let Some(pool) = config.pools.iter().find(|pool| pool.name == *name) else {
        return String::new();
    };
    let balance = match &pool.balance {
        Balance::RoundRobin => "round_robin",
        Balance::LeastConnections => "least_connections",
        Balance::RandomTwo => "random_two",
        Balance::PeakEwma => "peak_ewma",
        Balance::Hash(_) => "hash",
    };
    let tls = if pool.tls.is_some() { ", TLS" } else { "" };
    let sticky = if pool.sticky.is_some() {
        "sticky, else "
    } else {
        ""
    };
    let mut text = format!(" ({sticky}{balance}{tls}):");
    for (index, endpoint) in pool.endpoints.iter().enumerate() {
        let lead = if index == 0 { " " } else { ", " };
        text.push_str(lead);
        text.push_str(&endpoint.address.to_string());
        if endpoint.weight != 1 {
            text.push_str(&format!(" (weight {})", endpoint.weight));
        }
        match endpoint.priority {
            0 => {}
            BACKUP => text.push_str(" (backup)"),
            priority => text.push_str(&format!(" (priority {priority})")),
        }
        if endpoint.is_far {
            text.push_str(" (another zone)");
        }
        if endpoint.drain {
            text.push_str(" (drains)");
        }
    }
    text
}

fn describe_filter(filter: &Filter) -> String {
    let pairs = |pairs: &[(String, String)]| {
        let pairs = pairs.iter().map(|(name, value)| format!("{name}: {value}"));
        pairs.collect::<Vec<_>>().join(", ")
    };
    match filter {
        Filter::RewritePrefix { from, to } => format!("rewrite_prefix {from} to {to}"),
        Filter::RewriteRegex { pattern, to } => format!("rewrite_regex {pattern} to {to}"),
        Filter::SetRequestHeaders(fields) => format!("set_request_headers {}", pairs(fields)),
        Filter::AddRequestHeaders(fields) => format!("add_request_headers {}", pairs(fields)),
        Filter::RemoveRequestHeaders(names) => {
            format!("remove_request_headers {}", names.join(", "))
        }
        Filter::SetResponseHeaders(fields) => format!("set_response_headers {}", pairs(fields)),
        Filter::AddResponseHeaders(fields) => format!("add_response_headers {}", pairs(fields)),
        Filter::RemoveResponseHeaders(names) => {
            format!("remove_response_headers {}", names.join(", "))
        }
    }
}
