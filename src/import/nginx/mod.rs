//! nginx's configs, turned into ours.
//!
//! A server's locations become routes of its hosts. Routes hold on all listeners, so what differs between ports only can
//! be carried over for one of them: servers that do nothing but send clients to HTTPS make their listener do that.

mod known;
mod location;
mod syntax;
mod upstream;

use self::known::Fate;
use self::location::{Scope, redirect_target};
use self::syntax::Directive;
use super::draft::{Action, Draft, Path, Route};
use super::value::Value;
use super::{ImportError, Imported, Include, Weight, text};

/// Turns a config of nginx into ours.
///
/// # Errors
/// The text, or a file that it includes, is no config of nginx.
pub fn import(file: &str, text: &str, include: Include<'_>) -> Result<Imported, ImportError> {
    let (directives, unread) = syntax::read(file, text, include)?;
    let mut draft = Draft::default();
    for (directive, why) in unread {
        let (weight, why) = match directive.word(0).rsplit('/').next() {
            Some(
                "mime.types" | "fastcgi_params" | "fastcgi.conf" | "uwsgi_params" | "scgi_params",
            ) => (
                Weight::Unneeded,
                "Lockgate serves no files and speaks HTTP only".to_owned(),
            ),
            _ => (Weight::Missing, format!("the file was not read: {why}")),
        };
        draft.note(directive.place(), weight, &directive.shown(), &why);
    }
    tell(&mut draft, &directives, false);
    // A file of a site is what stands within `http`.
    let http = directives.iter().find(|one| one.name == "http");
    let inner = http.map_or(directives.as_slice(), Directive::inner);
    for one in &directives {
        if one.name == "worker_processes" {
            draft.workers = one
                .word(0)
                .parse::<u16>()
                .ok()
                .map(|count| count.to_string());
        }
    }
    let scope = Scope::new(inner);
    settings(&mut draft, &scope);
    let servers: Vec<_> = inner
        .iter()
        .filter(|one| one.name == "server")
        .map(Server::read)
        .collect();
    let upstreams: Vec<_> = inner.iter().filter(|one| one.name == "upstream").collect();
    for server in &servers {
        listen(&mut draft, server, &scope);
    }
    redirects(&mut draft, &servers);
    for (number, server) in servers.iter().enumerate() {
        let is_default = is_default(&servers, number);
        server.routes(&mut draft, &scope, &upstreams, is_default);
    }
    elsewhere(&mut draft, &servers);
    for upstream in upstreams {
        for one in upstream.inner() {
            if one.name == "resolver" {
                resolvers(&mut draft, one);
            }
        }
    }
    Ok(draft.finish("nginx"))
}

/// Tells of every directive that is not handled elsewhere.
fn tell(draft: &mut Draft, directives: &[Directive], is_upstream: bool) {
    for one in directives {
        let fate = match one.name.as_str() {
            // Its directives are told by those who read it.
            _ if is_upstream => Fate::Handled,
            "server" if one.block.is_none() => Fate::Handled,
            name => known::fate(name),
        };
        match fate {
            Fate::Handled => {}
            // It ends a rule of the blocks around it.
            Fate::Guard(_) if one.word(0) == "off" => {}
            Fate::Told(weight, why) => draft.note(one.place(), weight, &one.shown(), why),
            Fate::Guard(why) => {
                let why = format!("{why}: the routes under it are closed");
                draft.note(one.place(), Weight::Missing, &one.shown(), &why);
            }
        }
        // What stands in a block that is not carried over is gone with it.
        let goes_on = matches!(
            one.name.as_str(),
            "http" | "server" | "location" | "events" | "if" | "upstream" | "limit_except"
        );
        if goes_on {
            tell(draft, one.inner(), one.name == "upstream");
        }
    }
}

/// What holds for all servers.
fn settings(draft: &mut Draft, http: &Scope<'_>) {
    if let Some(one) = http.one("keepalive_timeout") {
        draft.keep_alive = text::time(one.word(0));
        if draft.keep_alive.is_none() {
            draft.note(
                one.place(),
                Weight::Missing,
                &one.shown(),
                "clients are kept for 75 s",
            );
        }
    }
    for one in http.all("set_real_ip_from") {
        match one.word(0) {
            "unix:" => draft.note(
                one.place(),
                Weight::Missing,
                &one.shown(),
                "it is no network",
            ),
            network => draft.trusted.push(network.to_owned()),
        }
    }
    if let Some(one) = http.one("resolver") {
        resolvers(draft, one);
    }
    match http.one("access_log") {
        Some(one) if one.word(0) == "off" => draft.access_log = Some(Value::word("off")),
        Some(one) if !one.word(0).contains('$') && !one.word(0).contains(':') => {
            let path = match one.word(0) {
                "/dev/stdout" => Value::word("stdout"),
                path => Value::text(path),
            };
            draft.access_log = Some(Value::map([
                ("format", Value::word("combined")),
                ("path", path),
            ]));
        }
        Some(one) => draft.note(
            one.place(),
            Weight::Missing,
            &one.shown(),
            "the log goes to standard output or to one file",
        ),
        None => {}
    }
}

fn resolvers(draft: &mut Draft, one: &Directive) {
    for word in &one.words {
        if word.contains('=') {
            let why = "names follow the TTL of their records";
            draft.note(
                one.place(),
                Weight::Differs,
                &format!("resolver {word}"),
                why,
            );
        } else if word.starts_with(|first: char| first.is_ascii_digit() || first == '[') {
            let address = text::with_port(word, 53);
            if !draft.resolvers.contains(&address) {
                draft.resolvers.push(address);
            }
        } else {
            let why = "a DNS server is named by its address";
            draft.note(
                one.place(),
                Weight::Missing,
                &format!("resolver {word}"),
                why,
            );
        }
    }
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Listen {
    address: String,
    has_tls: bool,
    is_default: bool,
}

struct Server<'a> {
    block: &'a Directive,
    listens: Vec<Listen>,
    /// Hosts in our form; empty: any.
    hosts: Vec<String>,
    /// Names that are none of ours.
    odd_names: Vec<(&'a Directive, &'a str)>,
}

impl<'a> Server<'a> {
    fn read(block: &'a Directive) -> Self {
        let mut listens: Vec<Listen> = Vec::new();
        let has_tls_everywhere = block
            .inner()
            .iter()
            .any(|one| one.name == "ssl" && one.word(0) == "on");
        for one in block.inner().iter().filter(|one| one.name == "listen") {
            let is = |word: &str| one.words.iter().any(|other| other == word);
            let listen = Listen {
                address: address(one.word(0)),
                has_tls: has_tls_everywhere || is("ssl") || is("quic"),
                is_default: is("default_server") || is("default"),
            };
            if !is("quic") && !listens.contains(&listen) {
                listens.push(listen);
            }
        }
        if listens.is_empty() {
            listens.push(Listen {
                address: address("80"),
                has_tls: has_tls_everywhere,
                is_default: false,
            });
        }
        let mut hosts = Vec::new();
        let mut odd_names = Vec::new();
        for one in block.inner().iter().filter(|one| one.name == "server_name") {
            for name in &one.words {
                match name.as_str() {
                    "_" | "" | "localhost" if one.words.len() == 1 && name != "localhost" => {}
                    name if name.starts_with('~') || name.ends_with(".*") || name.contains('$') => {
                        odd_names.push((one, name));
                    }
                    "_" | "" => {}
                    name => match name.strip_prefix('.') {
                        Some(domain) => hosts.extend([
                            domain.to_ascii_lowercase(),
                            format!("*.{}", domain.to_ascii_lowercase()),
                        ]),
                        None => hosts.push(name.to_ascii_lowercase()),
                    },
                }
            }
        }
        Self {
            block,
            listens,
            hosts,
            odd_names,
        }
    }

    fn has_tls(&self) -> bool {
        self.listens.iter().any(|listen| listen.has_tls)
    }

    /// Whether it does nothing but send clients to HTTPS.
    fn is_redirect_to_https(&self) -> bool {
        let inner = self.block.inner();
        let is_to_https = |one: &Directive| {
            one.name == "return"
                && matches!(one.word(0), "301" | "302" | "307" | "308")
                && redirect_target(one.word(1))
                    .is_some_and(|to| to == "https://{host}{path}{query}")
        };
        let sends = |directives: &[Directive]| directives.iter().any(is_to_https);
        let passes = |one: &Directive| matches!(one.name.as_str(), "proxy_pass" | "grpc_pass");
        let by_if = inner
            .iter()
            .any(|one| one.name == "if" && sends(one.inner()));
        let roots = inner.iter().filter(|one| one.name == "location");
        let locations: Vec<_> = roots
            .filter(|one| {
                !one.word(0).contains("acme-challenge") && !one.word(1).contains("acme-challenge")
            })
            .collect();
        let by_location = locations.len() == 1
            && locations
                .iter()
                .all(|one| one.word(0) == "/" && sends(one.inner()));
        let serves = inner.iter().flat_map(Directive::inner).any(passes);
        !self.has_tls()
            && !serves
            && (sends(inner) && locations.is_empty()
                || by_if && locations.is_empty()
                || by_location)
    }

    /// Adds a route for each of its locations.
    fn routes(
        &self,
        draft: &mut Draft,
        http: &Scope<'a>,
        upstreams: &[&'a Directive],
        is_default: bool,
    ) {
        for (one, name) in &self.odd_names {
            let why = "hosts are names, or `*.` before one: this name is left out";
            draft.note(
                one.place(),
                Weight::Missing,
                &format!("server_name {name}"),
                why,
            );
        }
        if self.is_redirect_to_https() {
            return;
        }
        if !self.odd_names.is_empty() && self.hosts.is_empty() {
            return;
        }
        // nginx gives the default server whatever nobody else wants.
        let hosts = if is_default {
            Vec::new()
        } else {
            self.hosts.clone()
        };
        let scope = http.with(self.block.inner());
        location::server(draft, &scope, self.block, &hosts, upstreams);
        let has_rest = draft
            .routes
            .iter()
            .any(|route| route.hosts == hosts && matches!(route.path, Path::Any));
        if !has_rest {
            let why = "its other paths are files, or nothing: they answer 404 here";
            draft.note(self.block.place(), Weight::Differs, "server", why);
            let rest = Route {
                hosts,
                path: Path::Any,
                conditions: Vec::new(),
                filters: Vec::new(),
                action: Action::Respond {
                    status: 404,
                    body: "Not found.\n".into(),
                },
                timeouts: Vec::new(),
            };
            draft.route(self.block.place(), "server", rest);
        }
    }
}

/// Whether a server is the one for hosts that no server names, at every address where it listens.
fn is_default(servers: &[Server<'_>], number: usize) -> bool {
    let server = &servers[number];
    let is_first = |listen: &Listen| {
        let others = servers
            .iter()
            .enumerate()
            .filter(|(_, other)| other.listens.iter().any(|l| l.address == listen.address));
        let mut others: Vec<_> = others
            .filter(|(_, other)| !other.is_redirect_to_https())
            .collect();
        let marked = others.iter().position(|(_, other)| {
            other
                .listens
                .iter()
                .any(|l| l.address == listen.address && l.is_default)
        });
        let first = marked.unwrap_or(0);
        (others.len() > first).then(|| others.swap_remove(first).0) == Some(number)
    };
    // Where several may be it, the first in the file is.
    let claims = |server: &Server<'_>| server.hosts.is_empty() && server.odd_names.is_empty();
    if claims(server) {
        return !servers
            .iter()
            .take(number)
            .any(|other| claims(other) && !other.is_redirect_to_https());
    }
    let somebody_claims = servers
        .iter()
        .any(|other| claims(other) && !other.is_redirect_to_https());
    let marked = |server: &Server<'_>| server.listens.iter().any(|l| l.is_default);
    let somebody_is_marked = servers
        .iter()
        .any(|other| marked(other) && !other.is_redirect_to_https());
    !somebody_claims
        && server.listens.iter().all(is_first)
        && (!somebody_is_marked || marked(server))
}

/// An address in our form.
fn address(written: &str) -> String {
    let is_port = written.bytes().all(|byte| byte.is_ascii_digit()) && !written.is_empty();
    if is_port {
        format!("0.0.0.0:{written}")
    } else if let Some(port) = written.strip_prefix("*:") {
        format!("0.0.0.0:{port}")
    } else {
        text::with_port(written, 80)
    }
}

/// Takes over where a server listens, with its certificates.
fn listen(draft: &mut Draft, server: &Server<'_>, http: &Scope<'_>) {
    let scope = http.with(server.block.inner());
    for one in server
        .block
        .inner()
        .iter()
        .filter(|one| one.name == "listen")
    {
        if one.word(0).starts_with("unix:") {
            draft.note(
                one.place(),
                Weight::Missing,
                &one.shown(),
                "Lockgate listens on TCP",
            );
        }
        for word in one.words.iter().skip(1) {
            let why = match word.as_str() {
                "quic" => "HTTP/3 is not there",
                "proxy_protocol" => "the PROXY protocol is not read",
                "ssl" | "http2" | "default_server" | "default" | "reuseport" | "deferred" => {
                    continue;
                }
                word if word.starts_with("backlog=")
                    || word.starts_with("so_keepalive=")
                    || word.starts_with("ipv6only=") =>
                {
                    continue;
                }
                _ => "listeners have nothing like it",
            };
            draft.note(
                one.place(),
                Weight::Missing,
                &format!("listen {} {word}", one.word(0)),
                why,
            );
        }
    }
    let paths = |name: &str| -> Vec<String> {
        scope
            .all(name)
            .iter()
            .map(|one| one.word(0).to_owned())
            .collect()
    };
    let pairs: Vec<_> = paths("ssl_certificate")
        .into_iter()
        .zip(paths("ssl_certificate_key"))
        .collect();
    for listen in &server.listens {
        // What it is for is told above.
        if listen.address.starts_with("unix:") {
            continue;
        }
        let client_auth = scope.one("ssl_client_certificate").map(|ca| {
            let mode = match scope.one("ssl_verify_client").map(|one| one.word(0)) {
                Some("on") => "required",
                _ => "optional",
            };
            Value::map([("ca", Value::text(ca.word(0))), ("mode", Value::word(mode))])
        });
        let has_client_auth = scope
            .one("ssl_verify_client")
            .is_some_and(|one| one.word(0) != "off");
        let listener = draft.listener(&listen.address);
        if !listen.has_tls {
            continue;
        }
        listener.has_tls = true;
        for pair in &pairs {
            if !listener.certificates.contains(pair) {
                match listen.is_default {
                    true => listener.certificates.insert(0, pair.clone()),
                    false => listener.certificates.push(pair.clone()),
                }
            }
        }
        if has_client_auth {
            let is_other = listener.client_auth.is_some() && listener.client_auth != client_auth;
            listener.client_auth = client_auth;
            if is_other {
                let why = "a listener has one rule on client certificates: the last one is taken";
                draft.note(
                    server.block.place(),
                    Weight::Differs,
                    "ssl_verify_client",
                    why,
                );
            }
        }
    }
    if server.has_tls() && pairs.is_empty() {
        let why = "a listener with TLS needs a certificate: name one";
        draft.note(
            server.block.place(),
            Weight::Missing,
            "ssl_certificate",
            why,
        );
    }
}

/// Makes listeners that have nothing but redirects to HTTPS send all clients there.
fn redirects(draft: &mut Draft, servers: &[Server<'_>]) {
    for server in servers
        .iter()
        .filter(|server| server.is_redirect_to_https())
    {
        for listen in &server.listens {
            let serves = |other: &&Server<'_>| {
                !other.is_redirect_to_https()
                    && other.listens.iter().any(|l| l.address == listen.address)
            };
            match servers.iter().find(serves) {
                None => draft.listener(&listen.address).redirects = true,
                Some(_) => draft.note(
                    server.block.place(),
                    Weight::Missing,
                    "server",
                    "its redirect to HTTPS: other hosts are served on the same address, and a listener sends all of them there or none (`redirect_to_https`)",
                ),
            }
        }
    }
}

/// Tells of servers that are reached where they were not: routes hold on all listeners.
fn elsewhere(draft: &mut Draft, servers: &[Server<'_>]) {
    for server in servers
        .iter()
        .filter(|server| !server.is_redirect_to_https())
    {
        let is_ours = |address: &str| {
            server.listens.iter().any(|listen| {
                let port = listen.address.rsplit_once(':').map(|(_, port)| port);
                listen.address == address
                    || Some(address) == port.map(|port| format!(":{port}")).as_deref()
            })
        };
        let others = draft
            .listeners
            .iter()
            .filter(|one| !one.redirects || one.has_tls);
        let others: Vec<_> = others.filter(|one| !is_ours(&one.address)).collect();
        if others.is_empty() {
            continue;
        }
        let has_clear = server.has_tls() && others.iter().any(|one| !one.has_tls);
        let places: Vec<_> = others.iter().map(|one| one.address.as_str()).collect();
        let clear = if has_clear { ", without TLS" } else { "" };
        let why = format!(
            "it is answered at {} too{clear}: routes hold on all listeners",
            places.join(" and ")
        );
        draft.note(server.block.place(), Weight::Differs, "server", &why);
    }
}
