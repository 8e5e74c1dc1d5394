//! nginx's locations, as routes.

use super::super::draft::{Action, Draft, Path, Route, closed, not_imported};
use super::super::value::Value;
use super::super::{Weight, text};
use super::known::{self, Fate};
use super::syntax::Directive;
use super::upstream::{self, Target};

/// The blocks around a place, the outermost first: an inner one inherits what it does not say itself.
#[derive(Clone, Debug)]
pub(super) struct Scope<'a> {
    levels: Vec<&'a [Directive]>,
}

impl<'a> Scope<'a> {
    pub(super) fn new(outermost: &'a [Directive]) -> Self {
        Self {
            levels: vec![outermost],
        }
    }

    /// One block further in.
    pub(super) fn with(&self, inner: &'a [Directive]) -> Self {
        let mut levels = self.levels.clone();
        levels.push(inner);
        Self { levels }
    }

    /// The directives of this name: those of the innermost block that has any.
    pub(super) fn all(&self, name: &str) -> Vec<&'a Directive> {
        let found = |level: &&'a [Directive]| -> Vec<&'a Directive> {
            level.iter().filter(|one| one.name == name).collect()
        };
        self.levels
            .iter()
            .rev()
            .map(found)
            .find(|found| !found.is_empty())
            .unwrap_or_default()
    }

    /// The last of them.
    pub(super) fn one(&self, name: &str) -> Option<&'a Directive> {
        self.all(name).pop()
    }

    fn here(&self) -> &'a [Directive] {
        self.levels.last().copied().unwrap_or_default()
    }

    /// Whether something keeps requests out that has no counterpart.
    fn is_guarded(&self) -> bool {
        let mut names = Vec::new();
        for one in self.levels.iter().copied().flatten() {
            if matches!(known::fate(&one.name), Fate::Guard(_))
                && !names.contains(&one.name.as_str())
            {
                names.push(&one.name);
            }
        }
        let is_off = |name: &str| {
            let all = self.all(name);
            all.iter()
                .all(|one| one.word(0) == "off" || name == "allow" || name == "valid_referers")
                && (name != "allow" || self.all("deny").is_empty())
        };
        names.into_iter().any(|name| !is_off(name))
    }
}

/// What a location, or a server as a whole, does; none of it is what serves files.
enum Does<'a> {
    Passes(&'a Directive),
    Returns(&'a Directive),
    Speaks,
    Serves,
}

/// Adds the routes of a server.
pub(super) fn server<'a>(
    draft: &mut Draft,
    scope: &Scope<'a>,
    block: &'a Directive,
    hosts: &[String],
    upstreams: &[&'a Directive],
) {
    let mut context = Context {
        draft,
        hosts,
        upstreams,
        named: block
            .inner()
            .iter()
            .filter(|one| one.name == "location" && one.word(0).starts_with('@'))
            .collect(),
        told_host: false,
    };
    for one in block.inner().iter().filter(|one| one.name == "if") {
        context.condition(scope, one);
    }
    // A server's own `return` comes before any location.
    let returns = block.inner().iter().find(|one| one.name == "return");
    if let Some(one) = returns {
        let action = context.answer(one);
        context.add(one, scope, Path::Any, action, Vec::new());
        return;
    }
    for one in block.inner().iter().filter(|one| one.name == "location") {
        context.location(scope, one, 0);
    }
    let has_root = block
        .inner()
        .iter()
        .any(|one| matches!(one.name.as_str(), "root" | "try_files"));
    let has_rest = block
        .inner()
        .iter()
        .any(|one| one.name == "location" && one.word(0) == "/");
    if has_root && !has_rest {
        context.location_of(scope, block, Path::Any);
    }
}

struct Context<'d, 'a> {
    draft: &'d mut Draft,
    hosts: &'d [String],
    upstreams: &'d [&'a Directive],
    /// Locations that others lead to by name.
    named: Vec<&'a Directive>,
    told_host: bool,
}

impl<'a> Context<'_, 'a> {
    fn note(&mut self, one: &Directive, weight: Weight, why: &str) {
        self.draft.note(one.place(), weight, &one.shown(), why);
    }

    fn location(&mut self, scope: &Scope<'a>, location: &'a Directive, depth: usize) {
        let words: Vec<&str> = location.words.iter().map(String::as_str).collect();
        let path = match words.as_slice() {
            [name] if name.starts_with('@') => return,
            ["/"] => Path::Prefix("/".into()),
            [prefix] => Path::Prefix((*prefix).to_owned()),
            ["=", path] => Path::Exact((*path).to_owned()),
            ["^~", prefix] => {
                let why = "an expression that fits as well is tried first here";
                self.note(location, Weight::Differs, why);
                Path::Prefix((*prefix).to_owned())
            }
            ["~", pattern] => Path::Regex(whole(pattern, false)),
            ["~*", pattern] => Path::Regex(whole(pattern, true)),
            _ => return self.note(location, Weight::Missing, "its words are not understood"),
        };
        if let Path::Regex(pattern) = &path
            && (pattern.contains("(?!")
                || pattern.contains("(?=")
                || pattern.contains("(?<")
                || regex::Regex::new(pattern).is_err())
        {
            return self.note(
                location,
                Weight::Missing,
                "the expression has something that ours have not, such as look-around",
            );
        }
        if let Path::Prefix(prefix) = &path
            && !prefix.starts_with('/')
        {
            return self.note(location, Weight::Missing, "its words are not understood");
        }
        if let Path::Prefix(prefix) = &path
            && !prefix.ends_with('/')
        {
            let why = format!(
                "a prefix ends with a segment here: `{prefix}` and what is below `{prefix}/`, not `{prefix}x`"
            );
            self.note(location, Weight::Differs, &why);
        }
        let scope = scope.with(location.inner());
        self.location_of(&scope, location, path);
        if depth < super::super::DEPTH_LIMIT {
            for inner in location.inner().iter().filter(|one| one.name == "location") {
                self.location(&scope, inner, depth + 1);
            }
        }
    }

    /// Adds the route of a block.
    fn location_of(&mut self, scope: &Scope<'a>, block: &'a Directive, path: Path) {
        for one in scope
            .here()
            .iter()
            .filter(|one| one.name == "if" && block.name == "location")
        {
            self.note(one, Weight::Missing, "conditions are no part of a route: make a route with `headers`, `query` or `methods`");
        }
        for one in scope.here().iter().filter(|one| one.name == "limit_except") {
            self.note(
                one,
                Weight::Missing,
                "make a route with `methods`; this one is closed",
            );
        }
        let is_guarded =
            scope.is_guarded() || scope.here().iter().any(|one| one.name == "limit_except");
        if is_guarded {
            self.add(block, scope, path, closed(), Vec::new());
            return;
        }
        match self.does(scope) {
            Does::Returns(one) => {
                let action = self.answer(one);
                self.add(block, scope, path, action, Vec::new());
            }
            Does::Passes(one) => self.pass(scope, block, one, path),
            Does::Speaks => self.add(block, scope, path, not_imported(), Vec::new()),
            Does::Serves => {
                let has_block = scope.here().iter().any(|one| one.name == "location");
                if has_block
                    && !scope
                        .here()
                        .iter()
                        .any(|one| matches!(one.name.as_str(), "root" | "alias" | "try_files"))
                {
                    return;
                }
                let why = "Lockgate serves no files: put a file server behind a pool, or have the app serve them";
                self.note(block, Weight::Missing, why);
                self.add(block, scope, path, not_imported(), Vec::new());
            }
        }
    }

    fn does(&mut self, scope: &Scope<'a>) -> Does<'a> {
        let here = scope.here();
        let find = |names: &[&str]| here.iter().find(|one| names.contains(&one.name.as_str()));
        if let Some(one) = find(&["return"]) {
            return Does::Returns(one);
        }
        if let Some(one) = find(&["proxy_pass", "grpc_pass"]) {
            return Does::Passes(one);
        }
        if find(&["fastcgi_pass", "uwsgi_pass", "scgi_pass", "memcached_pass"]).is_some() {
            return Does::Speaks;
        }
        if let Some(files) = find(&["try_files"])
            && let Some(name) = files.words.last().filter(|name| name.starts_with('@'))
            && let Some(named) = self
                .named
                .iter()
                .find(|one| one.word(0) == name.as_str())
                .copied()
        {
            let why = "files are not looked for: all requests go where those without a file went";
            self.note(files, Weight::Differs, why);
            return self.does(&scope.with(named.inner()));
        }
        Does::Serves
    }

    /// A condition of a server: those that certbot writes, and others that lead away.
    fn condition(&mut self, scope: &Scope<'a>, one: &'a Directive) {
        let words: Vec<&str> = one
            .words
            .iter()
            .map(|word| word.trim_matches(['(', ')']))
            .filter(|word| !word.is_empty())
            .collect();
        let leads = one.inner().iter().find(|inner| inner.name == "return");
        match (words.as_slice(), leads) {
            (["$host", "=", host], Some(answer)) => {
                let action = self.answer(answer);
                let route = Route {
                    hosts: vec![(*host).to_ascii_lowercase()],
                    path: Path::Any,
                    conditions: Vec::new(),
                    filters: Vec::new(),
                    action,
                    timeouts: Vec::new(),
                };
                self.draft.route(one.place(), &one.shown(), route);
            }
            (["$scheme", "=", "http"], Some(_)) => {
                self.note(
                    one,
                    Weight::Missing,
                    "set `redirect_to_https` at the listener without TLS",
                );
            }
            _ => {
                let _ = scope;
                self.note(one, Weight::Missing, "conditions are no part of a route: make a route with `headers`, `query` or `methods`");
            }
        }
    }

    /// What `return` answers.
    fn answer(&mut self, one: &Directive) -> Action {
        let (status, text) = match one.words.as_slice() {
            [url] if url.contains("://") || url.starts_with('$') => ("302", url.as_str()),
            [status] => (status.as_str(), ""),
            [status, text, ..] => (status.as_str(), text.as_str()),
            [] => ("", ""),
        };
        let Ok(status) = status.parse::<u16>() else {
            self.note(one, Weight::Missing, "it answers nothing that is known");
            return not_imported();
        };
        match status {
            301 | 302 | 303 | 307 | 308 => match redirect_target(text) {
                Some(to) => Action::Redirect { to, status },
                None => {
                    let why =
                        "a redirect is made of the scheme, host, path and query of the request";
                    self.note(one, Weight::Missing, why);
                    not_imported()
                }
            },
            444 => {
                self.note(
                    one,
                    Weight::Differs,
                    "the connection is not closed without a word: 403 is answered",
                );
                Action::Respond {
                    status: 403,
                    body: String::new(),
                }
            }
            200..=599 if text.contains('$') => {
                self.note(one, Weight::Missing, "an answer has no variables");
                not_imported()
            }
            200..=599 => Action::Respond {
                status,
                body: text.to_owned(),
            },
            _ => {
                self.note(one, Weight::Missing, "it answers nothing that is known");
                not_imported()
            }
        }
    }

    /// A route to a pool.
    fn pass(&mut self, scope: &Scope<'a>, block: &'a Directive, one: &'a Directive, path: Path) {
        let Some(target) = upstream::target(one.word(0)) else {
            self.note(
                one,
                Weight::Missing,
                "endpoints are named in a pool: a target is not made of variables",
            );
            return self.add(block, scope, path, not_imported(), Vec::new());
        };
        let pool = self.pool(scope, one, &target);
        let mut filters = Vec::new();
        match (&path, target.path) {
            (_, None) => {}
            (Path::Prefix(from), Some(to)) if from != to => {
                let entries = [("from", Value::text(from)), ("to", Value::text(to))];
                filters.push(Value::map([("rewrite_prefix", Value::map(entries))]));
            }
            (Path::Exact(from), Some(to)) if from != to => {
                let entries = [("pattern", Value::text("^.*$")), ("to", Value::text(to))];
                filters.push(Value::map([("rewrite_regex", Value::map(entries))]));
            }
            (Path::Regex(_), Some(_)) => self.note(
                one,
                Weight::Missing,
                "an expression's location has no path in its target",
            ),
            (_, Some(_)) => {}
        }
        self.rewrites(scope, &mut filters);
        self.headers(scope, one, &target, &mut filters);
        self.add(block, scope, path, Action::Pool(pool), filters);
    }

    fn pool(&mut self, scope: &Scope<'a>, one: &'a Directive, target: &Target<'_>) -> String {
        let port = if target.has_tls { 443 } else { 80 };
        let upstream = self
            .upstreams
            .iter()
            .find(|upstream| upstream.word(0) == target.authority)
            .copied();
        let (name, mut entries) = match upstream {
            // nginx's servers have port 80 unless they say otherwise, whatever the scheme.
            Some(upstream) => (
                upstream.word(0).to_owned(),
                upstream::pool(self.draft, upstream, 80),
            ),
            None => {
                let address = text::with_port(target.authority, port);
                let endpoints = Value::List(vec![Value::text(&address)]);
                (address, vec![("endpoints".to_owned(), endpoints)])
            }
        };
        if target.is_grpc {
            entries.push(("protocol".to_owned(), Value::word("h2")));
        }
        if target.has_tls {
            entries.push(("tls".to_owned(), self.tls(scope, one)));
        }
        let connect = scope
            .one("proxy_connect_timeout")
            .or_else(|| scope.one("grpc_connect_timeout"));
        if let Some(time) = connect.and_then(|one| text::time(one.word(0))) {
            entries.push((
                "timeouts".to_owned(),
                Value::map([("connect", Value::word(time))]),
            ));
        }
        if let Some(check) = scope.one("health_check") {
            let word = |name: &str| check.words.iter().find_map(|word| word.strip_prefix(name));
            let path = word("uri=").unwrap_or("/");
            let mut keys = vec![("path".to_owned(), Value::text(path))];
            keys.extend(
                word("interval=")
                    .and_then(text::time)
                    .map(|time| ("interval".to_owned(), Value::word(time))),
            );
            keys.extend(word("fails=").map(|count| ("fall".to_owned(), Value::word(count))));
            keys.extend(word("passes=").map(|count| ("rise".to_owned(), Value::word(count))));
            entries.push(("health_check".to_owned(), Value::Map(keys)));
        }
        self.draft.pool(&name, entries)
    }

    fn tls(&mut self, scope: &Scope<'a>, one: &Directive) -> Value {
        let mut keys = Vec::new();
        if scope
            .one("proxy_ssl_verify")
            .is_none_or(|verify| verify.word(0) != "on")
        {
            let why = "certificates of endpoints are verified here, and were not: `tls.ca` names their authority";
            self.note(one, Weight::Differs, why);
        }
        let mut put = |key: &str, name: &str| {
            if let Some(value) = scope
                .one(name)
                .map(|one| one.word(0))
                .filter(|value| !value.contains('$'))
            {
                keys.push((key.to_owned(), Value::text(value)));
            }
        };
        put("ca", "proxy_ssl_trusted_certificate");
        put("server_name", "proxy_ssl_name");
        let pair = [
            scope.one("proxy_ssl_certificate"),
            scope.one("proxy_ssl_certificate_key"),
        ];
        if let [Some(cert), Some(key)] = pair {
            let pair = Value::map([
                ("cert", Value::text(cert.word(0))),
                ("key", Value::text(key.word(0))),
            ]);
            keys.push(("client_certificate".to_owned(), pair));
        }
        if keys.is_empty() {
            Value::word("true")
        } else {
            Value::Map(keys)
        }
    }

    fn rewrites(&mut self, scope: &Scope<'a>, filters: &mut Vec<Value>) {
        for one in scope.here().iter().filter(|one| one.name == "rewrite") {
            let (pattern, to, flag) = (one.word(0), one.word(1), one.word(2));
            let is_ours =
                matches!(flag, "" | "last" | "break") && !to.contains("://") && !to.contains('?');
            let has_names = to
                .split('$')
                .skip(1)
                .any(|behind| !behind.starts_with(|first: char| first.is_ascii_digit()));
            if !is_ours || has_names || regex::Regex::new(pattern).is_err() {
                self.note(
                    one,
                    Weight::Missing,
                    "only the path is rewritten, with groups of the expression: `rewrite_regex`",
                );
                continue;
            }
            if flag != "break" {
                self.note(
                    one,
                    Weight::Differs,
                    "the route stays the same: locations are not looked through again",
                );
            }
            let entries = [("pattern", Value::text(pattern)), ("to", Value::text(to))];
            filters.push(Value::map([("rewrite_regex", Value::map(entries))]));
        }
    }

    fn headers(
        &mut self,
        scope: &Scope<'a>,
        pass: &Directive,
        target: &Target<'_>,
        filters: &mut Vec<Value>,
    ) {
        let (mut set, mut removed) = (Vec::new(), Vec::new());
        let name = if target.is_grpc {
            "grpc_set_header"
        } else {
            "proxy_set_header"
        };
        let mut has_host = false;
        for one in scope.all(name) {
            let (field, value) = (one.word(0).to_ascii_lowercase(), one.word(1));
            has_host |= field == "host";
            match (field.as_str(), value) {
                ("host", "$host" | "$http_host" | "$host:$server_port" | "$server_name")
                | ("x-forwarded-for", "$proxy_add_x_forwarded_for" | "$remote_addr")
                | ("x-forwarded-proto", "$scheme" | "https")
                | ("x-forwarded-host", "$host" | "$http_host" | "$host:$server_port")
                | ("x-request-id", "$request_id" | "$http_x_request_id")
                | ("upgrade", "$http_upgrade")
                | ("connection", _)
                | ("te", _) => {}
                ("host", "$proxy_host") => set.push((field, Value::text(target.authority))),
                (_, "") => removed.push(Value::text(field)),
                (_, value) if !value.contains('$') => set.push((field, Value::text(value))),
                (_, "$remote_addr") => {
                    self.note(
                        one,
                        Weight::Missing,
                        "the client's address is in `X-Forwarded-For` and `Forwarded`",
                    );
                }
                (
                    "x-forwarded-port" | "x-forwarded-server" | "x-scheme" | "x-forwarded-ssl"
                    | "x-original-uri",
                    _,
                ) => {
                    self.note(
                        one,
                        Weight::Missing,
                        "`X-Forwarded-Proto`, `-Host` and `-For` are what the app gets",
                    );
                }
                _ => self.note(one, Weight::Missing, "a header is set to a fixed text"),
            }
        }
        if !has_host && !self.told_host {
            self.told_host = true;
            let why = "the endpoint gets the client's Host, as it had the name of the target; `set_request_headers: { host: … }` sets another";
            self.note(pass, Weight::Differs, why);
        }
        let mut put = |key: &str, value: Value| filters.push(Value::map([(key, value)]));
        if !set.is_empty() {
            put("set_request_headers", Value::Map(set));
        }
        if !removed.is_empty() {
            put("remove_request_headers", Value::List(removed));
        }
        let name = if target.is_grpc {
            "grpc_hide_header"
        } else {
            "proxy_hide_header"
        };
        let hidden: Vec<_> = scope
            .all(name)
            .iter()
            .map(|one| Value::text(one.word(0).to_ascii_lowercase()))
            .collect();
        if !hidden.is_empty() {
            put("remove_response_headers", Value::List(hidden));
        }
    }

    /// Adds a route; what its block sets for any answer comes along.
    fn add(
        &mut self,
        block: &Directive,
        scope: &Scope<'a>,
        path: Path,
        action: Action,
        mut filters: Vec<Value>,
    ) {
        let mut added: Vec<(String, Value)> = Vec::new();
        for one in scope.all("add_header") {
            if one.word(1).contains('$') {
                self.note(one, Weight::Missing, "a header is set to a fixed text");
            } else if !matches!(action, Action::Redirect { .. }) {
                let field = one.word(0).to_ascii_lowercase();
                added.retain(|(name, _)| *name != field);
                added.push((field, Value::text(one.word(1))));
            }
        }
        if !added.is_empty() {
            filters.push(Value::map([("set_response_headers", Value::Map(added))]));
        }
        let mut timeouts = Vec::new();
        let read = scope
            .one("proxy_read_timeout")
            .or_else(|| scope.one("grpc_read_timeout"));
        if let Some(one) = read
            && matches!(action, Action::Pool(_))
        {
            match text::time(one.word(0)) {
                Some(time) => timeouts
                    .extend(["response", "idle"].map(|key| (key.to_owned(), Value::word(&time)))),
                None => self.note(one, Weight::Missing, "the time is not understood"),
            }
        }
        let path = match path {
            Path::Prefix(prefix) if prefix == "/" => Path::Any,
            other => other,
        };
        let route = Route {
            hosts: self.hosts.to_vec(),
            path,
            conditions: Vec::new(),
            filters,
            action,
            timeouts,
        };
        let shown = block.shown();
        self.draft.route(block.place(), &shown, route);
    }
}

/// An expression that may match anywhere, as one for the whole path.
fn whole(pattern: &str, is_blind: bool) -> String {
    let (front, rest) = match pattern.strip_prefix('^') {
        Some(rest) => ("", rest),
        None => (".*", pattern),
    };
    let is_end = rest.ends_with('$') && !rest.ends_with("\\$");
    let (rest, behind) = if is_end {
        (&rest[..rest.len() - 1], "")
    } else {
        (rest, ".*")
    };
    let blind = if is_blind { "(?i)" } else { "" };
    // Alternatives stay together.
    let rest = if rest.contains('|') && !rest.starts_with('(') {
        format!("(?:{rest})")
    } else {
        rest.to_owned()
    };
    format!("{blind}{front}{rest}{behind}")
}

/// The target of a redirect in our words; `None` for what they cannot say.
pub(super) fn redirect_target(written: &str) -> Option<String> {
    let mut to = written.to_owned();
    for (theirs, ours) in [
        ("$request_uri", "{path}{query}"),
        ("$uri$is_args$args", "{path}{query}"),
        ("$uri", "{path}"),
        ("$is_args$args", "{query}"),
        ("$http_host", "{host}"),
        ("$host:$server_port", "{host}"),
        ("$server_name", "{host}"),
        ("$host", "{host}"),
        ("$scheme", "{scheme}"),
    ] {
        to = to.replace(theirs, ours);
    }
    if to.starts_with('/') {
        to = format!("{{scheme}}://{{host}}{to}");
    }
    (to.contains("://") && !to.contains('$')).then_some(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_become_whole_ones() {
        for (pattern, is_blind, expected) in [
            ("^/a", false, "/a.*"),
            (r"\.php$", false, r".*\.php"),
            (r"\.(png|jpg)$", true, r"(?i).*(?:\.(png|jpg))"),
            ("a|b", false, ".*(?:a|b).*"),
        ] {
            assert_eq!(whole(pattern, is_blind), expected);
        }
    }

    #[test]
    fn redirects_are_made_of_what_ours_know() {
        for (written, expected) in [
            (
                "https://$host$request_uri",
                Some("https://{host}{path}{query}"),
            ),
            (
                "https://www.example.com/new",
                Some("https://www.example.com/new"),
            ),
            ("/login", Some("{scheme}://{host}/login")),
            ("https://$1.example.com", None),
            ("", None),
        ] {
            assert_eq!(redirect_target(written).as_deref(), expected, "{written}");
        }
    }
}
