//! Caddyfiles, turned into ours.
//!
//! A site becomes routes of its hosts. Caddy fetches certificates by itself; the listener is given the names of files
//! instead, and a note says so.

mod syntax;

use self::syntax::Line;
use super::draft::{Action, Draft, Path, Route, closed, not_imported};
use super::value::Value;
use super::{ImportError, Imported, Include, Weight, text};

/// Turns a Caddyfile into a config of ours.
///
/// # Errors
/// The text, or a file that it imports, is no Caddyfile.
pub fn import(file: &str, text: &str, include: Include<'_>) -> Result<Imported, ImportError> {
    let (lines, unread) = syntax::read(file, text, include)?;
    let mut draft = Draft::default();
    for (line, why) in unread {
        let why = format!("the file was not read: {why}");
        draft.note(line.place(), Weight::Missing, &line.shown(), &why);
    }
    let (options, sites): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line.words.is_empty());
    for one in options.iter().flat_map(|block| block.inner()) {
        global(&mut draft, one);
    }
    for site in sites {
        let addresses: Vec<_> = site
            .words
            .iter()
            .flat_map(|word| word.split(','))
            .filter(|word| !word.is_empty())
            .collect();
        let hosts = listen(&mut draft, site, &addresses);
        let mut block = Site {
            draft: &mut draft,
            hosts,
            matchers: Vec::new(),
        };
        block.lines(site.inner(), &Context::default());
    }
    Ok(draft.finish("a Caddyfile"))
}

fn global(draft: &mut Draft, one: &Line) {
    let (weight, why) = match one.word(0) {
        "email" | "acme_ca" | "acme_dns" | "on_demand_tls" | "acme_eab" | "cert_issuer" => (
            Weight::Missing,
            "Lockgate fetches no certificates: an ACME client writes the files, and they are taken up at once",
        ),
        "admin" => (Weight::Differs, "the control socket is `admin.address`"),
        "log" => (
            Weight::Differs,
            "what happens to the process goes to standard error",
        ),
        "servers" | "grace_period" | "shutdown_delay" => {
            (Weight::Differs, "see `timeouts`, `limits` and `drain`")
        }
        "order" | "debug" | "default_sni" | "skip_install_trust" | "storage" | "persist_config" => {
            (Weight::Unneeded, "it settles itself")
        }
        _ => (Weight::Missing, "Lockgate has nothing like it"),
    };
    draft.note(one.place(), weight, &one.shown(), why);
}

/// Takes over where a site listens; its hosts, none for any.
fn listen(draft: &mut Draft, site: &Line, addresses: &[&str]) -> Vec<String> {
    let mut hosts = Vec::new();
    let tls = site.inner().iter().find(|one| one.word(0) == "tls");
    for address in addresses {
        let (scheme, rest) = address.split_once("://").unwrap_or(("", address));
        let (authority, path) = rest
            .split_once('/')
            .map_or((rest, ""), |(authority, path)| (authority, path));
        if !path.is_empty() {
            draft.note(
                site.place(),
                Weight::Missing,
                address,
                "the path of an address: make it a route's",
            );
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                (host, Some(port))
            }
            _ => (authority, None),
        };
        if host.contains('{') || port.is_some_and(|port| port.contains('{')) {
            draft.note(
                site.place(),
                Weight::Missing,
                address,
                "a variable: write `${NAME}` where it stands",
            );
            continue;
        }
        if !host.is_empty() && host != "*" {
            hosts.push(host.to_ascii_lowercase());
        }
        let is_clear = scheme == "http"
            || port == Some("80")
            || (host.is_empty() && tls.is_none() && port != Some("443"));
        let port = port.unwrap_or(if is_clear { "80" } else { "443" });
        let listener = draft.listener(&format!(":{port}"));
        if is_clear {
            continue;
        }
        listener.has_tls = true;
        let files = tls
            .filter(|one| one.words.len() >= 3)
            .map(|one| (one.word(1).to_owned(), one.word(2).to_owned()));
        let is_named = files.is_some();
        let name = text::name(host.trim_start_matches("*."));
        let pair =
            files.unwrap_or_else(|| (format!("certs/{name}.pem"), format!("certs/{name}.key")));
        if !listener.certificates.contains(&pair) {
            listener.certificates.push(pair);
        }
        if !is_named {
            let why = "Lockgate fetches no certificates: an ACME client has to write the files that are named here";
            draft.note(site.place(), Weight::Missing, address, why);
        }
        if port == "443" && scheme != "http" {
            let clear = draft.listener(":80");
            clear.redirects = true;
        }
    }
    hosts
}

/// What holds for the lines of a block.
#[derive(Clone, Debug, Default)]
struct Context {
    path: Option<Path>,
    hosts: Option<Vec<String>>,
    conditions: Vec<(String, Value)>,
    filters: Vec<Value>,
}

struct Site<'d> {
    draft: &'d mut Draft,
    hosts: Vec<String>,
    /// Matchers by their names.
    matchers: Vec<(String, Option<Context>)>,
}

impl Site<'_> {
    fn note(&mut self, one: &Line, weight: Weight, why: &str) {
        self.draft.note(one.place(), weight, &one.shown(), why);
    }

    fn lines(&mut self, lines: &[Line], context: &Context) {
        let mut context = context.clone();
        for one in lines.iter().filter(|one| one.word(0).starts_with('@')) {
            let matcher = self.matcher(one);
            self.matchers.push((one.word(0).to_owned(), matcher));
        }
        let is_guard = |one: &&Line| {
            matches!(
                one.word(0),
                "basic_auth"
                    | "basicauth"
                    | "forward_auth"
                    | "jwtauth"
                    | "authorize"
                    | "authenticate"
            )
        };
        let guards: Vec<_> = lines.iter().filter(is_guard).collect();
        for guard in &guards {
            self.note(
                guard,
                Weight::Missing,
                "Lockgate asks nobody for a password or token: the routes under it are closed",
            );
        }
        // What changes requests and answers comes before what answers them, wherever it stands.
        for one in lines {
            self.change(one, &mut context);
        }
        for one in lines {
            self.answer(one, &context, !guards.is_empty());
        }
    }

    /// A condition by its name.
    fn matcher(&mut self, one: &Line) -> Option<Context> {
        let inline = Line {
            words: one.words.get(1..).unwrap_or_default().to_vec(),
            ..one.clone()
        };
        let parts: Vec<_> = if one.words.len() > 1 {
            vec![inline]
        } else {
            one.inner().to_vec()
        };
        let mut context = Context::default();
        for part in &parts {
            let texts = || {
                Value::List(
                    part.words
                        .get(1..)
                        .unwrap_or_default()
                        .iter()
                        .map(Value::text)
                        .collect(),
                )
            };
            match part.word(0) {
                "path" => match part
                    .words
                    .get(1..)
                    .unwrap_or_default()
                    .iter()
                    .map(|word| path(word))
                    .collect::<Option<Vec<_>>>()
                    .as_deref()
                {
                    Some([one]) => context.path = Some(one.clone()),
                    Some(several) if !several.is_empty() => context.path = Some(any_of(several)),
                    _ => return self.odd_matcher(one),
                },
                "path_regexp" => {
                    let pattern = part.word(part.words.len() - 1);
                    let anchored = pattern
                        .strip_prefix('^')
                        .map_or_else(|| format!(".*{pattern}"), str::to_owned);
                    let whole = anchored
                        .strip_suffix('$')
                        .map_or_else(|| format!("{anchored}.*"), str::to_owned);
                    context.path = Some(Path::Regex(whole));
                }
                "host" => context.hosts = Some(part.words.get(1..).unwrap_or_default().to_vec()),
                "method" => context.conditions.push(("methods".to_owned(), texts())),
                "header" if part.words.len() == 3 && !part.word(2).contains('*') => {
                    let fields =
                        vec![(part.word(1).to_ascii_lowercase(), Value::text(part.word(2)))];
                    context
                        .conditions
                        .push(("headers".to_owned(), Value::Map(fields)));
                }
                "header" if part.word(2) == "*" => {
                    let fields = vec![(
                        part.word(1).to_ascii_lowercase(),
                        Value::map([("present", Value::word("true"))]),
                    )];
                    context
                        .conditions
                        .push(("headers".to_owned(), Value::Map(fields)));
                }
                "query" => {
                    let pairs = part
                        .words
                        .get(1..)
                        .unwrap_or_default()
                        .iter()
                        .filter_map(|word| word.split_once('='));
                    let pairs = pairs
                        .map(|(name, value)| (name.to_owned(), Value::text(value)))
                        .collect();
                    context
                        .conditions
                        .push(("query".to_owned(), Value::Map(pairs)));
                }
                _ => return self.odd_matcher(one),
            }
        }
        Some(context)
    }

    fn odd_matcher(&mut self, one: &Line) -> Option<Context> {
        self.note(
            one,
            Weight::Missing,
            "a route asks for host, path, method, headers and query: what this is for is left out",
        );
        None
    }

    /// The condition that a directive begins with, and its other words; `None` for one that could not be imported.
    fn condition<'l>(&self, one: &'l Line, context: &Context) -> (Option<Context>, &'l [String]) {
        let mut context = context.clone();
        let words = one.words.get(1..).unwrap_or_default();
        let Some(first) = words.first() else {
            return (Some(context), words);
        };
        if first == "*" {
            return (Some(context), words.get(1..).unwrap_or_default());
        }
        if first.starts_with('/') {
            context.path = path(first);
            return (
                context.path.is_some().then_some(context),
                words.get(1..).unwrap_or_default(),
            );
        }
        if first.starts_with('@') {
            let known = self.matchers.iter().rev().find(|(name, _)| name == first);
            let merged = known
                .and_then(|(_, matcher)| matcher.as_ref())
                .map(|matcher| {
                    context.path = matcher.path.clone().or(context.path.take());
                    context.hosts = matcher.hosts.clone().or(context.hosts.take());
                    context
                        .conditions
                        .extend(matcher.conditions.iter().cloned());
                    context
                });
            return (merged, words.get(1..).unwrap_or_default());
        }
        (Some(context), words)
    }

    /// Takes in what changes requests or answers on their way.
    fn change(&mut self, one: &Line, context: &mut Context) {
        match one.word(0) {
            "header" => {
                let has_condition = one.word(1).starts_with('/')
                    || one.word(1).starts_with('@')
                    || one.word(1) == "*";
                if has_condition && one.word(1) != "*" {
                    return self.note(
                        one,
                        Weight::Missing,
                        "headers are set for a whole route: put it into a `handle` of its own",
                    );
                }
                let words = one
                    .words
                    .get(if has_condition { 2 } else { 1 }..)
                    .unwrap_or_default();
                let lines: Vec<Vec<String>> = match one.block {
                    Some(_) => one.inner().iter().map(|line| line.words.clone()).collect(),
                    None => vec![words.to_vec()],
                };
                for words in lines {
                    self.header(one, &words, "response", &mut context.filters);
                }
            }
            "request_header" => {
                self.header(
                    one,
                    one.words.get(1..).unwrap_or_default(),
                    "request",
                    &mut context.filters,
                );
            }
            "uri" if one.word(1) == "strip_prefix" => {
                let entries = [("from", Value::text(one.word(2))), ("to", Value::text("/"))];
                context
                    .filters
                    .push(Value::map([("rewrite_prefix", Value::map(entries))]));
            }
            "uri" | "rewrite" | "try_files" | "map" | "vars" | "method" | "request_body"
            | "encode" | "templates" | "cache" | "push" | "invoke" | "intercept"
            | "handle_errors" | "rate_limit" | "tracing" | "abort" | "error" | "root" | "bind"
            | "acme_server" => {
                let why = match one.word(0) {
                    "encode" => "answers are passed on as they are: let the app compress them",
                    "root" | "try_files" => "Lockgate serves no files",
                    "request_body" => "bodies are streamed and have no limit here",
                    "bind" => "write the address at the listener",
                    "rate_limit" => "see `limits`",
                    _ => "Lockgate has nothing like it",
                };
                self.note(one, Weight::Missing, why);
            }
            "log" => {
                let output = one.inner().iter().find(|line| line.word(0) == "output");
                match output {
                    Some(line) if line.word(1) == "file" && self.draft.access_log.is_none() => {
                        self.draft.access_log = Some(Value::map([("path", Value::text(line.word(2)))]));
                    }
                    Some(_) | None => self.note(one, Weight::Differs, "one access log holds all sites: JSON lines on standard output or in a file"),
                }
            }
            "tls" => {
                for line in one.inner() {
                    self.note(line, Weight::Missing, "of TLS, certificates and client authentication are set: docs/manual/tls.md");
                }
            }
            _ => {}
        }
    }

    fn header(&mut self, one: &Line, words: &[String], side: &str, filters: &mut Vec<Value>) {
        let (Some(field), value) = (words.first(), words.get(1).map(String::as_str)) else {
            return;
        };
        let (kind, field) = match field.chars().next() {
            Some('-') => ("remove", &field[1..]),
            Some('+') => ("add", &field[1..]),
            Some('?' | '>') => ("set", &field[1..]),
            _ => ("set", field.as_str()),
        };
        let field = field.to_ascii_lowercase();
        let has_variable = value.is_some_and(|value| value.contains('{'));
        let is_replace = words.len() > 2;
        match (kind, value) {
            ("remove", _) if !field.contains('*') => {
                let names = Value::List(vec![Value::text(field)]);
                filters.push(Value::map([(&*format!("remove_{side}_headers"), names)]));
            }
            (_, Some(value)) if !has_variable && !is_replace => {
                let fields = Value::Map(vec![(field, Value::text(value))]);
                filters.push(Value::map([(&*format!("{kind}_{side}_headers"), fields)]));
            }
            // What every proxy tells an app is told here too.
            _ if side == "request"
                && matches!(
                    field.as_str(),
                    "host"
                        | "x-forwarded-for"
                        | "x-forwarded-proto"
                        | "x-forwarded-host"
                        | "connection"
                        | "upgrade"
                ) =>
            {
                let is_host_of_target =
                    field == "host" && value.is_some_and(|value| value.contains("upstream"));
                if is_host_of_target {
                    self.note(
                        one,
                        Weight::Missing,
                        "set `set_request_headers: { host: … }` to the name of the endpoint",
                    );
                }
            }
            _ => self.note(
                one,
                Weight::Missing,
                "a header is set to a fixed text, or removed by its name",
            ),
        }
    }

    /// Adds the routes of a directive that answers.
    fn answer(&mut self, one: &Line, context: &Context, is_guarded: bool) {
        let name = one.word(0);
        let is_block = matches!(name, "handle" | "handle_path" | "route");
        if !is_block
            && !matches!(
                name,
                "reverse_proxy" | "redir" | "respond" | "file_server" | "php_fastcgi"
            )
        {
            let is_known = name.starts_with('@')
                || matches!(
                    name,
                    "header"
                        | "request_header"
                        | "uri"
                        | "rewrite"
                        | "try_files"
                        | "map"
                        | "vars"
                        | "method"
                        | "request_body"
                        | "encode"
                        | "templates"
                        | "cache"
                        | "push"
                        | "invoke"
                        | "intercept"
                        | "handle_errors"
                        | "rate_limit"
                        | "tracing"
                        | "abort"
                        | "error"
                        | "root"
                        | "log"
                        | "tls"
                        | "basic_auth"
                        | "basicauth"
                        | "forward_auth"
                        | "jwtauth"
                        | "authorize"
                        | "authenticate"
                        | "bind"
                        | "acme_server"
                );
            if !is_known {
                self.note(one, Weight::Missing, "Lockgate has nothing like it");
            }
            return;
        }
        let (condition, words) = self.condition(one, context);
        let Some(mut condition) = condition else {
            return self.note(
                one,
                Weight::Missing,
                "its condition was not imported, and so it is left out",
            );
        };
        if is_block {
            if is_guarded {
                return self.add(one, condition, closed(), Vec::new());
            }
            if name == "handle_path"
                && let Some(Path::Prefix(prefix)) = &condition.path
            {
                let entries = [
                    ("from", Value::text(prefix.trim_end_matches('/'))),
                    ("to", Value::text("/")),
                ];
                condition
                    .filters
                    .push(Value::map([("rewrite_prefix", Value::map(entries))]));
            }
            return self.lines(one.inner(), &condition);
        }
        if is_guarded {
            return self.add(one, condition, closed(), Vec::new());
        }
        match name {
            "reverse_proxy" => self.proxy(one, condition, words),
            "redir" => {
                let status = match words.get(1).map_or("302", String::as_str) {
                    "permanent" => 301,
                    "temporary" => 302,
                    "html" => 200,
                    code => code.parse().unwrap_or(0),
                };
                let to = redirect_target(words.first().map_or("", String::as_str));
                match (to, status) {
                    (Some(to), 301 | 302 | 303 | 307 | 308) => {
                        self.add(one, condition, Action::Redirect { to, status }, Vec::new())
                    }
                    _ => {
                        self.note(
                            one,
                            Weight::Missing,
                            "a redirect is made of the scheme, host, path and query of the request",
                        );
                        self.add(one, condition, not_imported(), Vec::new());
                    }
                }
            }
            "respond" => {
                let number = |word: &String| word.parse::<u16>().ok();
                let (body, status) = match words {
                    [only] => {
                        number(only).map_or((only.clone(), 200), |status| (String::new(), status))
                    }
                    [body, status, ..] => (body.clone(), number(status).unwrap_or(200)),
                    [] => (String::new(), 200),
                };
                if body.contains('{') {
                    self.note(one, Weight::Missing, "an answer has no variables");
                    return self.add(one, condition, not_imported(), Vec::new());
                }
                self.add(one, condition, Action::Respond { status, body }, Vec::new());
            }
            _ => {
                let why = "Lockgate serves no files and speaks HTTP only: put a server for it behind a pool";
                self.note(one, Weight::Missing, why);
                self.add(one, condition, not_imported(), Vec::new());
            }
        }
    }

    fn proxy(&mut self, one: &Line, mut condition: Context, words: &[String]) {
        let mut targets: Vec<String> = words.to_vec();
        let mut entries: Vec<(String, Value)> = Vec::new();
        let mut check: Vec<(String, Value)> = Vec::new();
        let (mut has_tls, mut has_h2) = (false, false);
        let mut tls: Vec<(String, Value)> = Vec::new();
        for line in one.inner() {
            let words = &line.words;
            match line.word(0) {
                "to" => targets.extend(words.get(1..).unwrap_or_default().iter().cloned()),
                "lb_policy" => match line.word(1) {
                    "round_robin" | "random" => {}
                    "least_conn" => {
                        entries.push(("balance".to_owned(), Value::word("least_connections")))
                    }
                    "random_choose" => {
                        entries.push(("balance".to_owned(), Value::word("random_two")))
                    }
                    "ip_hash" | "client_ip_hash" => {
                        entries.push(("balance".to_owned(), by(Value::word("client_ip"))))
                    }
                    "uri_hash" => entries.push(("balance".to_owned(), by(Value::word("path")))),
                    kind @ ("header" | "query") => {
                        let key = Value::map([(kind, Value::text(line.word(2)))]);
                        entries.push(("balance".to_owned(), by(key)));
                    }
                    "cookie" => entries.push(("balance".to_owned(), Value::word("sticky"))),
                    _ => self.note(line, Weight::Missing, "endpoints take turns instead"),
                },
                "health_uri" => check.push(("path".to_owned(), Value::text(line.word(1)))),
                "health_interval" | "health_timeout" => match text::time(line.word(1)) {
                    Some(time) => check.push((
                        line.word(0).trim_start_matches("health_").to_owned(),
                        Value::word(time),
                    )),
                    None => self.note(line, Weight::Missing, "the time is not understood"),
                },
                "header_up" => self.header(
                    line,
                    words.get(1..).unwrap_or_default(),
                    "request",
                    &mut condition.filters,
                ),
                "header_down" => self.header(
                    line,
                    words.get(1..).unwrap_or_default(),
                    "response",
                    &mut condition.filters,
                ),
                "transport" => {
                    for inner in line.inner() {
                        match inner.word(0) {
                            "tls" => has_tls = true,
                            "tls_insecure_skip_verify" => {
                                has_tls = true;
                                self.note(inner, Weight::Differs, "certificates of endpoints are verified here: `tls.ca` names their authority");
                            }
                            "tls_server_name" => {
                                has_tls = true;
                                tls.push(("server_name".to_owned(), Value::text(inner.word(1))));
                            }
                            "tls_trusted_ca_certs" => {
                                has_tls = true;
                                tls.push(("ca".to_owned(), Value::text(inner.word(1))));
                            }
                            "versions" if inner.words.iter().any(|word| word == "h2c") => {
                                has_h2 = true
                            }
                            "dial_timeout" => match text::time(inner.word(1)) {
                                Some(time) => entries.push((
                                    "timeouts".to_owned(),
                                    Value::map([("connect", Value::word(time))]),
                                )),
                                None => {
                                    self.note(inner, Weight::Missing, "the time is not understood")
                                }
                            },
                            "keepalive"
                            | "keepalive_idle_conns"
                            | "versions"
                            | "compression"
                            | "read_buffer"
                            | "write_buffer" => {
                                self.note(
                                    inner,
                                    Weight::Unneeded,
                                    "connections are kept, and how long is learned",
                                );
                            }
                            _ => {
                                self.note(inner, Weight::Missing, "endpoints have nothing like it")
                            }
                        }
                    }
                }
                "flush_interval"
                | "buffer_requests"
                | "buffer_responses"
                | "request_buffers"
                | "response_buffers"
                | "lb_retries"
                | "lb_try_duration"
                | "lb_try_interval"
                | "fail_duration"
                | "max_fails"
                | "unhealthy_status"
                | "unhealthy_latency"
                | "stream_timeout"
                | "stream_close_delay"
                | "stream_buffer_size"
                | "trusted_proxies"
                | "unhealthy_request_count" => {
                    self.note(line, Weight::Differs, "Lockgate's own ways are used: bodies stream, `retry`, `outlier` and `queue` are on");
                }
                _ => self.note(line, Weight::Missing, "a pool has nothing like it"),
            }
        }
        let mut endpoints = Vec::new();
        for target in &targets {
            let (scheme, rest) = target.split_once("://").unwrap_or(("", target));
            match scheme {
                "https" => has_tls = true,
                "h2c" => has_h2 = true,
                "srv" => {
                    endpoints.push(format!("srv:{rest}"));
                    continue;
                }
                _ => {}
            }
            if rest.contains('{') || scheme == "fastcgi" {
                self.note(
                    one,
                    Weight::Missing,
                    "endpoints are named in a pool: a target is not made of variables",
                );
                continue;
            }
            let rest = rest.trim_end_matches('/');
            endpoints.push(match rest.strip_prefix("unix/") {
                Some(path) => format!("unix:{path}"),
                None if rest.starts_with(':') => format!("127.0.0.1{rest}"),
                None => text::with_port(rest, if scheme == "https" { 443 } else { 80 }),
            });
        }
        if endpoints.is_empty() {
            return self.add(one, condition, not_imported(), Vec::new());
        }
        let name = endpoints[0].clone();
        let endpoints = endpoints.iter().map(Value::text).collect();
        entries.insert(0, ("endpoints".to_owned(), Value::List(endpoints)));
        if has_h2 {
            entries.push(("protocol".to_owned(), Value::word("h2")));
        }
        if has_tls {
            let tls = if tls.is_empty() {
                Value::word("true")
            } else {
                Value::Map(tls)
            };
            entries.push(("tls".to_owned(), tls));
        }
        if !check.is_empty() {
            if !check.iter().any(|(key, _)| key == "path") {
                check.insert(0, ("path".to_owned(), Value::text("/")));
            }
            entries.push(("health_check".to_owned(), Value::Map(check)));
        }
        let pool = self.draft.pool(&name, entries);
        self.add(one, condition, Action::Pool(pool), Vec::new());
    }

    fn add(
        &mut self,
        one: &Line,
        context: Context,
        action: Action,
        timeouts: Vec<(String, Value)>,
    ) {
        let is_redirect = matches!(action, Action::Redirect { .. });
        let path = match context.path {
            None => Path::Any,
            Some(Path::Prefix(prefix)) if prefix == "/" => Path::Any,
            Some(path) => path,
        };
        let is_pool = matches!(action, Action::Pool(_));
        let is_of_answer = |filter: &Value| match filter {
            Value::Map(entries) => entries.iter().all(|(key, _)| key.contains("response")),
            _ => false,
        };
        let filters = context
            .filters
            .into_iter()
            .filter(|filter| is_pool || !is_redirect && is_of_answer(filter));
        let route = Route {
            hosts: context.hosts.unwrap_or_else(|| self.hosts.clone()),
            path,
            conditions: context.conditions,
            filters: filters.collect(),
            action,
            timeouts,
        };
        let shown = one.shown();
        self.draft.route(one.place(), &shown, route);
    }
}

fn by(key: Value) -> Value {
    Value::map([("hash", Value::map([("by", key)]))])
}

/// A path of a matcher: exact, unless a star stands in it.
fn path(written: &str) -> Option<Path> {
    if !written.starts_with(['/', '*']) || written.contains('{') {
        return None;
    }
    Some(match written.strip_suffix("/*") {
        Some("") => Path::Any,
        Some(prefix) if !prefix.contains('*') => Path::Prefix(format!("{prefix}/")),
        _ if written.contains('*') => Path::Regex(pattern(written)),
        _ => Path::Exact(written.to_owned()),
    })
}

fn pattern(written: &str) -> String {
    let parts: Vec<_> = written.split('*').map(regex::escape).collect();
    parts.join(".*")
}

/// Several paths as one expression.
fn any_of(paths: &[Path]) -> Path {
    let expressions: Vec<_> = paths
        .iter()
        .map(|path| match path {
            Path::Any => ".*".to_owned(),
            Path::Exact(path) => regex::escape(path),
            Path::Prefix(path) => format!("{}.*", regex::escape(path)),
            Path::Regex(pattern) => pattern.clone(),
        })
        .collect();
    Path::Regex(format!("(?:{})", expressions.join("|")))
}

fn redirect_target(written: &str) -> Option<String> {
    let to = written
        .replace("{uri}", "{path}{query}")
        .replace("{http.request.uri}", "{path}{query}")
        .replace("{hostport}", "{host}");
    let to = if to.starts_with('/') {
        format!("{{scheme}}://{{host}}{to}")
    } else {
        to
    };
    let mut rest = to.clone();
    for known in ["{scheme}", "{host}", "{path}", "{query}"] {
        rest = rest.replace(known, "");
    }
    (to.contains("://") && !rest.contains('{')).then_some(to)
}
