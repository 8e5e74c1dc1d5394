//! nginx's `upstream` blocks and the targets of `proxy_pass`, as pools.

use super::super::draft::Draft;
use super::super::value::Value;
use super::super::{Weight, text};
use super::syntax::Directive;

/// A pool's keys, of an `upstream` block.
pub(super) fn pool(draft: &mut Draft, upstream: &Directive, port: u16) -> Vec<(String, Value)> {
    let mut endpoints = Vec::new();
    let mut entries = Vec::new();
    for one in upstream.inner() {
        match one.name.as_str() {
            "server" => endpoints.push(endpoint(draft, one, port)),
            "least_conn" => entries.push(("balance".to_owned(), Value::word("least_connections"))),
            "random" if one.word(0) == "two" => entries.push(("balance".to_owned(), Value::word("random_two"))),
            "ip_hash" => entries.push(("balance".to_owned(), hash(Value::word("client_ip"), false))),
            "hash" => match key(one.word(0)) {
                Some(by) => {
                    let is_ring = one.word(1) == "consistent";
                    entries.push(("balance".to_owned(), hash(by, is_ring)));
                }
                None => draft.note(
                    one.place(),
                    Weight::Missing,
                    &one.shown(),
                    "a hash is made of the client's address, a header, a cookie, the path or a query parameter: round robin is used",
                ),
            },
            "sticky" if one.word(0) == "cookie" => {
                let cookie = Value::map([("cookie", Value::text(one.word(1)))]);
                entries.push(("balance".to_owned(), Value::map([("sticky", cookie)])));
            }
            "random" => draft.note(one.place(), Weight::Differs, &one.shown(), "endpoints take turns instead"),
            "keepalive" | "keepalive_requests" | "keepalive_timeout" | "keepalive_time" | "zone" => draft.note(
                one.place(),
                Weight::Unneeded,
                &one.shown(),
                "connections are kept, and how long is learned; workers share the state of endpoints",
            ),
            _ => draft.note(one.place(), Weight::Missing, &one.shown(), "Lockgate has nothing like it"),
        }
    }
    entries.insert(0, ("endpoints".to_owned(), Value::List(endpoints)));
    entries
}

fn hash(by: Value, is_ring: bool) -> Value {
    let mut hash = vec![("by".to_owned(), by)];
    if is_ring {
        hash.push(("method".to_owned(), Value::word("ring")));
    }
    Value::map([("hash", Value::Map(hash))])
}

/// What a hash is made of.
fn key(variable: &str) -> Option<Value> {
    let name = variable.strip_prefix('$')?;
    let name = name
        .strip_prefix('{')
        .and_then(|name| name.strip_suffix('}'))
        .unwrap_or(name);
    let by = |kind: &str, name: String| Some(Value::map([(kind, Value::text(name))]));
    match name {
        "remote_addr" | "binary_remote_addr" => Some(Value::word("client_ip")),
        "uri" | "request_uri" => Some(Value::word("path")),
        _ => {
            if let Some(name) = name.strip_prefix("http_") {
                by("header", name.replace('_', "-"))
            } else if let Some(name) = name.strip_prefix("cookie_") {
                by("cookie", name.to_owned())
            } else if let Some(name) = name.strip_prefix("arg_") {
                by("query", name.to_owned())
            } else {
                None
            }
        }
    }
}

fn endpoint(draft: &mut Draft, server: &Directive, port: u16) -> Value {
    let address = text::with_port(server.word(0), port);
    let mut entries = vec![("address".to_owned(), Value::text(&address))];
    for word in server.words.iter().skip(1) {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        match name {
            "weight" => entries.push(("weight".to_owned(), Value::word(value))),
            "backup" => entries.push(("backup".to_owned(), Value::word("true"))),
            "down" => entries.push(("drain".to_owned(), Value::word("true"))),
            "max_conns" if value != "0" => entries.push(("max_connections".to_owned(), Value::word(value))),
            "max_conns" | "resolve" => {}
            "max_fails" | "fail_timeout" => draft.note(
                server.place(),
                Weight::Differs,
                &format!("server {} {word}", server.word(0)),
                "endpoints that fail are ejected by `outlier`: five failures in a row, or half of them",
            ),
            _ => draft.note(
                server.place(),
                Weight::Missing,
                &format!("server {} {word}", server.word(0)),
                "an endpoint has nothing like it",
            ),
        }
    }
    if let [_] = entries.as_slice() {
        return Value::text(address);
    }
    Value::Map(entries)
}

/// Where `proxy_pass` leads: the scheme, the address, and the path that takes the place of the location's.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target<'a> {
    pub(super) has_tls: bool,
    pub(super) is_grpc: bool,
    pub(super) authority: &'a str,
    pub(super) path: Option<&'a str>,
}

/// Reads the target; `None` for one with variables, or of another scheme.
pub(super) fn target(written: &str) -> Option<Target<'_>> {
    let (scheme, rest) = written.split_once("://").unwrap_or(("grpc", written));
    let (has_tls, is_grpc) = match scheme {
        "http" => (false, false),
        "https" => (true, false),
        "grpc" => (false, true),
        "grpcs" => (true, true),
        _ => return None,
    };
    if rest.contains('$') {
        return None;
    }
    let (authority, path) = if let Some(socket) = rest.strip_prefix("unix:") {
        // The path of the socket ends at the next colon.
        match socket.split_once(':') {
            Some((socket, path)) => (&rest[.."unix:".len() + socket.len()], Some(path)),
            None => (rest, None),
        }
    } else {
        match rest.find('/') {
            Some(start) => (&rest[..start], Some(&rest[start..])),
            None => (rest, None),
        }
    };
    (!authority.is_empty()).then_some(Target {
        has_tls,
        is_grpc,
        authority,
        path,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_taken_apart() {
        for (written, expected) in [
            ("http://app", Some((false, "app", None))),
            (
                "https://10.0.0.1:8443/",
                Some((true, "10.0.0.1:8443", Some("/"))),
            ),
            ("http://app/v1", Some((false, "app", Some("/v1")))),
            (
                "http://unix:/run/a.sock",
                Some((false, "unix:/run/a.sock", None)),
            ),
            (
                "http://unix:/run/a.sock:/x",
                Some((false, "unix:/run/a.sock", Some("/x"))),
            ),
            ("http://$host", None),
            ("ftp://x", None),
            ("http://", None),
        ] {
            let found =
                target(written).map(|target| (target.has_tls, target.authority, target.path));
            assert_eq!(found, expected, "{written}");
        }
    }
}
