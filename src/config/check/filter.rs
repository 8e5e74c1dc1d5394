//! Rules of filters: rewrites meet paths of their route, replacements name groups that exist.

use std::fmt::Write;

use crate::base::host::normal_host;
use crate::base::pattern;
use crate::config::decode::{At, Decoder};
use crate::config::keys;
use crate::config::kinds::Named;
use crate::config::route::{Filter, PathMatch};
use crate::config::values::http::{FieldValue, OpenFieldName, SetFieldName};

/// Checks the filters of a route that matches `path`.
pub(super) fn check(
    keys: &keys::Route,
    path: Option<&PathMatch>,
    decoder: &mut Decoder,
) -> Vec<Filter> {
    let mut filters = Vec::new();
    let mut path = path;
    for at in keys.filters.iter().flat_map(|at| &at.value) {
        if let Some(rewrite) = &at.value.rewrite_prefix {
            check_applies(&rewrite.value, path, decoder);
        }
        if at.value.rewrite_prefix.is_some() || at.value.rewrite_regex.is_some() {
            // What the path is behind a rewrite depends on the request.
            path = None;
        }
        filters.extend(filter(&at.value, decoder));
    }
    filters
}

/// The fields of a map, those with bad values left out.
pub(super) fn fields<N>(
    pairs: Option<&At<Named<N, FieldValue>>>,
    text: impl Fn(&N) -> &str,
) -> Vec<(String, String)> {
    let pairs = pairs.into_iter().flat_map(|at| &at.value.0);
    pairs
        .filter_map(|(name, value)| {
            Some((
                text(&name.value).to_owned(),
                value.as_ref()?.value.0.clone(),
            ))
        })
        .collect()
}

/// Reports a rewrite of a prefix that no path of this route has.
fn check_applies(keys: &keys::RewritePrefix, path: Option<&PathMatch>, decoder: &mut Decoder) {
    let (Some(from), Some(PathMatch::Prefix(path) | PathMatch::Exact(path))) = (&keys.from, path)
    else {
        return;
    };
    if !is_below(path, &from.value.0) && !is_below(&from.value.0, path) {
        let message = format!("no path of this route begins with `{}`", from.value.0);
        decoder.problem(from.place, message, format!("the route matches `{path}`"));
    }
}

fn is_below(path: &str, prefix: &str) -> bool {
    let prefix = prefix.trim_end_matches('/');
    let rest = path.strip_prefix(prefix);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn filter(keys: &keys::Filter, decoder: &mut Decoder) -> Option<Filter> {
    if let Some(rewrite) = &keys.rewrite_prefix {
        return Some(Filter::RewritePrefix {
            from: rewrite.value.from.as_ref()?.value.0.clone(),
            to: rewrite.value.to.as_ref()?.value.0.clone(),
        });
    }
    if let Some(rewrite) = &keys.rewrite_regex {
        let pattern = rewrite.value.pattern.as_ref()?.value.0.clone();
        let to = rewrite.value.to.as_ref()?;
        check_groups(&pattern, to, decoder);
        let to = to.value.clone();
        return Some(Filter::RewriteRegex { pattern, to });
    }
    if let Some(names) = &keys.remove_request_headers {
        return Some(Filter::RemoveRequestHeaders(field_names(&names.value.0)));
    }
    if let Some(names) = &keys.remove_response_headers {
        return Some(Filter::RemoveResponseHeaders(field_names(&names.value.0)));
    }
    if let Some(pairs) = &keys.set_request_headers {
        check_host(&pairs.value, decoder);
        let fields = fields(Some(pairs), |name| &name.0);
        return Some(Filter::SetRequestHeaders(fields));
    }
    let open = |pairs: &Option<At<Named<OpenFieldName, FieldValue>>>| {
        let pairs = pairs.as_ref()?;
        Some(fields(Some(pairs), |name| &name.0))
    };
    if let Some(fields) = open(&keys.add_request_headers) {
        return Some(Filter::AddRequestHeaders(fields));
    }
    if let Some(fields) = open(&keys.set_response_headers) {
        return Some(Filter::SetResponseHeaders(fields));
    }
    open(&keys.add_response_headers).map(Filter::AddResponseHeaders)
}

/// Reports a value of `host` that is none.
fn check_host(fields: &Named<SetFieldName, FieldValue>, decoder: &mut Decoder) {
    for (name, value) in &fields.0 {
        let Some(value) = value else {
            continue;
        };
        if name.value.0 == "host"
            && let Err(invalid) = normal_host(&value.value.0)
        {
            let message = format!("`{}` is not a host", value.value.0);
            decoder.problem(value.place, message, invalid.to_string());
        }
    }
}

fn field_names(names: &[At<OpenFieldName>]) -> Vec<String> {
    names.iter().map(|at| at.value.0.clone()).collect()
}

/// Reports groups of a replacement that the expression does not have: they would silently become nothing.
fn check_groups(pattern: &str, to: &At<String>, decoder: &mut Decoder) {
    let Ok(regex) = pattern::compile(pattern) else {
        return;
    };
    for group in groups(&to.value) {
        let is_known = match group.parse::<usize>() {
            Ok(number) => number < regex.captures_len(),
            Err(_) => regex.capture_names().flatten().any(|name| name == group),
        };
        if !is_known {
            let mut help = format!(
                "the expression has the groups $0 to ${}",
                regex.captures_len() - 1
            );
            for name in regex.capture_names().flatten() {
                // Writing to a string does not fail.
                let _ = write!(help, ", ${name}");
            }
            if group.starts_with(|first: char| first.is_ascii_digit()) {
                help.push_str("; a group that letters follow is written `$${1}`");
            }
            decoder.problem(
                to.place,
                format!("no group `{group}` in the expression"),
                help,
            );
        }
    }
}

/// The groups that a replacement names, as the regex crate reads it.
fn groups(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('$') {
        if let Some(after) = after.strip_prefix('$') {
            rest = after;
            continue;
        }
        if let Some((name, after)) = after
            .strip_prefix('{')
            .and_then(|text| text.split_once('}'))
        {
            found.push(name);
            rest = after;
            continue;
        }
        let is_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        let end = after.find(|letter| !is_word(letter)).unwrap_or(after.len());
        let (name, after) = after.split_at(end);
        if !name.is_empty() {
            found.push(name);
        }
        rest = after;
    }
    found
}
