//! Every key of the config language, once: name, meaning, kind, default.
//!
//! Reading, "unknown key", the JSON Schema and the reference all follow from here. `check` turns what is read into a
//! [`Config`](super::Config). Defaults are argued beside their keys.

use std::time::Duration;

use ipnet::IpNet;

use super::decode::{At, Decoder, Form, KeyRule, Kind, Need, Section, Shape, Written, section};
use super::forms::{
    BalanceKey, CohortsKey, EndpointKey, HashByKey, HedgeKey, PathKey, RateKey, SandboxKey,
    ValueKey,
};
use super::kinds::{Count, MayBeOff, MayBeTrue, Named, NonEmpty, OneOrMore, OrOff, OrTrue};
use super::listener::ClientAuthMode;
use super::node::Node;
use super::pool::{Addresses, CheckType, HashMethod, Protocol};
use super::route::HostMatch;
use super::values::http::{
    CookieName, FieldName, FieldValue, Method, OpenFieldName, Pattern, QueryName, RedirectStatus,
    RedirectTarget, SetFieldName, StatusRange, UrlPath, UrlTarget,
};
use super::values::{
    AccountKey, AdminAddress, BalanceWord, Bytes, FilePath, IncludePath, Name, Percent,
    PercentNumber, Rate, ResolverAddress, SecretText, ServerName, Timeout, Workers,
};
use super::{AccessLogFormat, AccessLogPath};
use crate::base::addr::{EndpointTarget, ListenAddr};
use crate::base::name::PoolName;

section! {
    /// The whole file.
    Root as "config" (Keys) {
        /// How many workers, each a thread with its own sockets and idle connections.
        /// `auto` is one a core.
        workers: Workers, default "auto";
        /// Where Lockgate listens, such as `listeners: [{ address: ":8080" }]`.
        listeners: NonEmpty<Listener>, required;
        /// What happens to requests. The most specific match wins, whatever the order; ties go to the earlier one.
        /// Not needed if every listener redirects.
        routes: Vec<At<Route>>, optional "no routes";
        /// Named sets of endpoints.
        pools: Named<PoolName, Pool>, optional "no pools";
        /// DNS servers that are asked for the names of endpoints, such as `10.0.0.2:53`: the first, and the next where one
        /// fails or is silent. `/etc/resolv.conf` is not read then; `/etc/hosts` is.
        resolvers: NonEmpty<ResolverAddress>, optional "those of `/etc/resolv.conf`";
        /// One record for each exchange, or `off`.
        access_log: OrOff<AccessLog>, optional "JSON lines on standard output";
        /// Networks of proxies before this one: their `X-Forwarded-*` and `Forwarded` are believed. Those of others are
        /// replaced.
        trusted_proxies: Vec<At<IpNet>>, optional "nobody is believed";
        /// Limits of all listeners and routes.
        limits: Limits, optional "the defaults of its keys";
        /// The zone that this process is in, such as `${ZONE}`: endpoints of the same `zone` are preferred.
        zone: Name, optional "no endpoint is preferred";
        /// Timeouts of client connections, and the defaults for routes.
        timeouts: Timeouts, optional "the defaults of its keys";
        /// The end of what is taken off, and of a process, beyond `timeouts.drain`.
        drain: Drain, optional "the defaults of its keys";
        /// Files with routes and pools of their own, such as `sites/*.yaml`: each is a site, and stands or falls alone.
        /// `*` stands for any characters of a name, but for a dot at its front.
        include: OneOrMore<IncludePath>, optional "none";
        /// Whether a site that is broken refuses the whole config. Else it stays as it was when it was last good, or is
        /// left out if it never was, and the others go on.
        strict: bool, default "false";
        /// The control socket, or `off`.
        admin: OrOff<Admin>, optional "the default of its key";
        /// Whom the process becomes before it serves, if root starts it: a name such as `lockgate`, or a number. Of root's powers it
        /// keeps the one to listen on ports below 1024. Changes with a restart only. `user: root` says that root is meant.
        user: AccountKey, optional "whoever starts it; root is warned";
        /// The group that it becomes. With a user's name, the user's other groups come along.
        group: AccountKey, optional "that of the user";
        /// Whether the process denies itself what it has no use for, as far as the kernel can: writing elsewhere than where these
        /// keys say, starting programs from where they are not installed, and system calls for the owners of machines. A map
        /// names further folders to write to. Changes with a restart only.
        sandbox: SandboxKey, default "true";
        /// Let a crash write the memory to disk, with all keys and what passes through, and let other processes of the same user
        /// read it. Changes with a restart or an upgrade. Logged at start.
        danger_core_dumps: bool, default "false";
    }
}

section! {
    /// What the process denies itself.
    Sandbox as "sandbox" (Keys) {
        /// Folders that may be written to, beside those of the access log, the control socket and the pid file: for an access log
        /// that a reload is to move.
        write: NonEmpty<FilePath>, optional "no others";
    }
}

section! {
    /// A file that `include` names. Names of pools and routes are its own; the other keys are those of the main file.
    Site as "site" (Keys) {
        /// What happens to requests, beside the routes of the main file. Of two files that claim the same host and path
        /// the earlier one keeps it; the main file is the first.
        routes: Vec<At<Route>>, required;
        /// Named sets of endpoints, for the routes of this file alone.
        pools: Named<PoolName, Pool>, optional "no pools";
    }
}

section! {
    /// A bound address with its settings.
    Listener as "listener" (Keys) {
        /// The address and port to listen on: `0.0.0.0:443`, `[::1]:8443`, or `:443` for every address of both families.
        address: ListenAddr, required;
        /// The name in logs and metrics.
        name: Name, optional "the address";
        /// TLS settings.
        tls: Tls, optional "cleartext";
        /// Answer every request with a redirect to the same URL under https.
        redirect_to_https: bool, default "false";
        /// Answer requests for just this path with 200 as long as new clients are welcome, and with 503 once the process is
        /// to end: for balancers before this one.
        ready_path: UrlPath, optional "no request is answered so";
    }
}

section! {
    /// TLS of a listener: 1.3 and 1.2, HTTP/2 and HTTP/1.1.
    Tls as "listener's TLS" (Keys) {
        /// Certificates, picked by the name that the client asks for (SNI). The first is the default.
        certificates: NonEmpty<Certificate>, required;
        /// Whether clients show a certificate.
        client_auth: ClientAuth, optional "clients are not asked";
    }
}

section! {
    /// A certificate chain and its key.
    Certificate as "certificate" (Keys) {
        /// The PEM file of the chain, leaf first.
        cert: FilePath, required;
        /// The PEM file of the private key.
        key: FilePath, required;
    }
}

section! {
    /// Client certificates.
    ClientAuth as "client authentication" (Keys) {
        /// The PEM file of the authorities that client certificates are verified against.
        ca: FilePath, required;
        /// The PEM files of the authorities' revocation lists (CRLs), one or more. With them, a certificate is good only if a list
        /// that is not overdue says so of it and of each one between it and `ca`.
        crl: OneOrMore<FilePath>, optional "no certificate is taken for revoked";
        /// Whether a client without a certificate is let in.
        mode: ClientAuthMode, default "required";
    }
}

section! {
    /// A rule: what it matches, what it does on the way, where requests go.
    Route as "route" (Keys) {
        /// The name in logs and metrics.
        name: Name, optional "host and path of the match";
        /// The condition: every part that is there must hold.
        matches as "match": Match, optional "every request";
        /// Steps that run in this order on the request, backwards on the response.
        filters: Vec<At<Filter>>, optional "none";
        /// Send requests to the pool of this name. A route has one of `pool`, `split`, `redirect` and `respond`.
        pool: PoolName, optional "see the three others";
        /// Share requests between pools, by weight: `{ api: 90, api-next: 10 }`. With weight 0 a pool gets none.
        split: Named<PoolName, Count<0, 65535>>, optional "see the three others";
        /// With `split`, whether a client stays with its pool: `cookie`, by a cookie that holds its place among all clients.
        sticky: CohortsKey, optional "the pool is chosen for each request";
        /// With `pool` or `split`: copies of requests for another pool, whose answers nobody sees. The original neither waits for
        /// them nor fails by them.
        mirror: Mirror, optional "no copies";
        /// Send clients to another URL.
        redirect: Redirect, optional "see the three others";
        /// Answer at once.
        respond: Respond, optional "see the three others";
        /// Timeouts of this route's exchanges.
        timeouts: RouteTimeouts, optional "those of the top-level `timeouts`";
        /// Repeating failed attempts, or `off`.
        retry: OrOff<Retry>, optional "the defaults of its keys";
        /// Limits of this route, beside those of the top level.
        limits: RouteLimits, optional "the defaults of its keys";
        /// Let `%2F` and `%5C` in paths through to the endpoint, which may take them for `/` and `\\`: rules on paths, here
        /// and behind, can then be walked around. Logged at start.
        danger_allow_encoded_slashes: bool, default "false";
    }
}

section! {
    /// Clients that stay with their pool, by a cookie with their place among all clients. A pool that gets a larger share keeps
    /// those that it has. The cookie is not signed: whoever makes one up chooses for itself alone.
    Cohorts as "cohorts" (Keys) {
        /// The name of the cookie. Routes with the same one give a client the same place.
        cookie: CookieName, default "lockgate_cohort";
        /// How long a client keeps its place.
        max_age: Timeout, default "30d";
    }
}

section! {
    /// Copies of requests, sent once and forgotten. Bodies up to 64 KiB are copied with them, upgrades are not copied.
    Mirror as "mirror" (Keys) {
        /// The pool that gets the copies, marked by `x-lockgate-mirror: 1`.
        pool: PoolName, required;
        /// How many of a hundred requests are copied, such as `10` or `0.5`.
        percent: PercentNumber, default "100";
    }
}

section! {
    /// The condition of a route.
    Match as "match" (Keys) {
        /// The host, or a list of them: `api.example.com`, or `*.example.com` for one label or more before it.
        host: OneOrMore<HostMatch>, optional "any";
        /// The path: text is a prefix, by whole segments.
        path: PathKey, optional "any";
        /// Any of these methods.
        methods: NonEmpty<Method>, optional "any";
        /// Header fields, all of which must match.
        headers: Named<FieldName, ValueKey>, optional "any";
        /// Query parameters, all of which must match.
        query: Named<QueryName, ValueKey>, optional "any";
    }
}

section! {
    /// A path condition.
    PathForms as "path" (OneKey) {
        /// This path and all below it; the same as the text alone.
        prefix: UrlPath, optional "see the others";
        /// Just this path.
        exact: UrlPath, optional "see the others";
        /// A regular expression that matches the whole path.
        regex: Pattern, optional "see the others";
    }
}

section! {
    /// A condition on a header field or query parameter.
    ValueForms as "value" (OneKey) {
        /// Just this value; the same as the text alone.
        exact: String, optional "see the others";
        /// A regular expression that matches the whole value.
        regex: Pattern, optional "see the others";
        /// There, whatever the value, or not there.
        present: bool, optional "see the others";
    }
}

section! {
    /// A step on requests or responses.
    Filter as "filter" (OneKey) {
        /// Replaces the front of the path, by whole segments.
        rewrite_prefix: RewritePrefix, optional "not done";
        /// Replaces what a regular expression finds in the path.
        rewrite_regex: RewriteRegex, optional "not done";
        /// Sets header fields of the request, replacing what is there. Of the fields that the proxy sets itself, `host` alone
        /// may be set here.
        set_request_headers: Named<SetFieldName, FieldValue>, optional "not done";
        /// Adds header fields to the request beside what is there.
        add_request_headers: Named<OpenFieldName, FieldValue>, optional "not done";
        /// Removes header fields of the request.
        remove_request_headers: NonEmpty<OpenFieldName>, optional "not done";
        /// Sets header fields of the response, replacing what is there.
        set_response_headers: Named<OpenFieldName, FieldValue>, optional "not done";
        /// Adds header fields to the response beside what is there.
        add_response_headers: Named<OpenFieldName, FieldValue>, optional "not done";
        /// Removes header fields of the response.
        remove_response_headers: NonEmpty<OpenFieldName>, optional "not done";
    }
}

section! {
    /// Replaces the front of the path.
    RewritePrefix as "prefix rewrite" (Keys) {
        /// The prefix to take off.
        from: UrlPath, required;
        /// What to put in its place.
        to: UrlPath, required;
    }
}

section! {
    /// Replaces what a regular expression finds in the path.
    RewriteRegex as "regex rewrite" (Keys) {
        /// The expression.
        pattern: Pattern, required;
        /// The replacement, with `$1` or `$name` for groups. Braces need a second dollar, `$${1}`, to be told from variables
        /// of the environment.
        to: String, required;
    }
}

section! {
    /// To another URL.
    Redirect as "redirect" (Keys) {
        /// The URL, with `{scheme}`, `{host}`, `{path}` and `{query}` of the request; `{query}` brings its own question mark.
        to: RedirectTarget, required;
        /// The status: 301 or 308 for good, 302 or 307 for now, 303 to get another. The default is one that browsers do not
        /// keep for ever, since a mistake in it must end with the next reload.
        status: RedirectStatus, default "307";
    }
}

section! {
    /// An answer of our own.
    Respond as "response" (Keys) {
        /// The status.
        status: Count<200, 599>, default "200";
        /// The body.
        body: String, default "";
        /// Header fields; `content-type` is `text/plain; charset=utf-8` unless set.
        headers: Named<OpenFieldName, FieldValue>, optional "none";
    }
}

section! {
    /// Timeouts of a route's exchanges.
    RouteTimeouts as "route's timeouts" (Keys) {
        /// From the end of the request to the head of the answer.
        response: Timeout, optional "that of the top-level `timeouts`";
        /// A pause in the body of the answer.
        idle: Timeout, optional "that of the top-level `timeouts`";
        /// A pause in a WebSocket, another tunnel, an event stream or a gRPC stream.
        stream: Timeout, optional "that of the top-level `timeouts`";
    }
}

section! {
    /// Repeating failed attempts. Only what is safe is repeated: connections that failed, and idempotent requests, those with a
    /// body as long as that is kept. Another endpoint each time, where there is one.
    Retry as "retry" (Keys) {
        /// Attempts beyond the first; 0 turns retries off. Endpoints that refuse a connection do not count.
        attempts: Count<0, 10>, default "2";
        /// Answers after which an idempotent request is tried at another endpoint: statuses of errors, or ranges, such as
        /// `[429, 502-504]`. If none is to be had, the client gets the answer as it is. `[]` is none.
        statuses: Vec<At<StatusRange>>, optional "`[502, 503, 504]`";
        /// Further methods that may be repeated, such as `[POST]` where endpoints know a request again. The idempotent ones,
        /// GET, HEAD, OPTIONS, PUT, DELETE and TRACE, are.
        methods: NonEmpty<Method>, optional "the idempotent ones alone";
        /// How long one attempt may take to the head of its answer, if another endpoint may be tried after it.
        per_try_timeout: Timeout, optional "the whole of `timeouts.response`";
        /// The pause before a request is sent again, or `off`. There is none where nothing was sent.
        back_off: OrOff<BackOff>, optional "the defaults of its keys";
        /// A request's body is kept up to this size, so that it can be sent again; `0B` turns that off.
        replay: Bytes<0, 1_048_576>, default "64KiB";
        /// Whether a second attempt is made at another endpoint while the first one is slow: `true`, `off` or a map. The first
        /// answer counts, the other attempt is cancelled. For idempotent requests without a body.
        hedge: HedgeKey, optional "off";
    }
}

section! {
    /// The pause before a request is sent again: a random part of `base`, then of twice as much, up to `max`.
    BackOff as "back-off" (Keys) {
        /// The longest pause before the first repeat.
        base: Timeout, default "25ms";
        /// The longest pause before any.
        max: Timeout, default "250ms";
    }
}

section! {
    /// A second attempt at another endpoint while the first one is slow.
    Hedge as "hedge" (Keys) {
        /// When: this share of the pool's answers have begun sooner, of late.
        quantile: Percent<50>, default "95%";
        /// Not before this time has passed, however fast the pool is.
        least: Timeout, default "5ms";
    }
}

section! {
    /// A named set of endpoints.
    Pool as "pool" (Keys) {
        /// The addresses, each a text or a map.
        endpoints: NonEmpty<EndpointKey>, required;
        /// What a name with several addresses is.
        addresses: Addresses, default "all";
        /// How an endpoint is chosen.
        balance: BalanceKey, default "round_robin";
        /// How long an endpoint takes to join that is new to a running pool, back in the turn or healthy again: its share grows from a
        /// tenth to the whole in a straight line, so that it can warm up. Not with `hash`, which knows no shares.
        slow_start: Timeout, optional "it joins at once";
        /// What is spoken with the endpoints.
        protocol: Protocol, default "auto";
        /// TLS towards the endpoints. `{}` or `true` is enough: certificates are verified against the authorities of the
        /// operating system.
        tls: OrTrue<PoolTls>, optional "cleartext";
        /// Timeouts towards the endpoints.
        timeouts: PoolTimeouts, optional "the defaults of its keys";
        /// Checks of the endpoints, such as `{ path: /healthz }`. With them, a new endpoint takes traffic after its first
        /// success.
        health_check: HealthCheck, optional "endpoints are not checked";
        /// Requests wait while no endpoint is usable, or all that are usable have as many exchanges as they may have, or `off`.
        /// One that has waited in vain for a usable one is tried once at the endpoint that is the least bad.
        queue: OrOff<Queue>, optional "the defaults of its keys";
        /// Exchanges in flight at each endpoint, over all workers. What is beyond them at every endpoint waits in the `queue`.
        max_requests: Count<1, 1_000_000>, optional "no limit";
        /// Connections to each endpoint, over all workers, idle ones among them; health checks are not counted. Each carries one
        /// exchange at a time, so this many exchanges are in flight at most: HTTP/1.1 is spoken, and `protocol: h2` does not
        /// go with it.
        max_connections: Count<1, 1_000_000>, optional "no limit";
        /// Find each endpoint's limit of exchanges in flight by how long its answers take: `true`, or a map. What is beyond it
        /// waits as with `max_requests`.
        adaptive_concurrency: OrTrue<Adaptive>, optional "it is not looked for";
        /// If fewer endpoints than this are healthy, health is not looked at, and all of them take traffic: many that are
        /// ill may do better than a few that are swamped.
        panic_threshold: Percent<1>, optional "health is always looked at";
        /// When endpoints are ejected for exchanges that failed or were slow, or `off`.
        outlier: OrOff<Outlier>, optional "the defaults of its keys";
        /// How many attempts are made beyond the first ones, over all routes and workers, or `off`: then nothing but the routes'
        /// `retry` limits them, and a pool that fails is sent a multiple of its requests.
        retry_budget: OrOff<RetryBudget>, optional "the defaults of its keys";
    }
}

section! {
    /// Checks of endpoints, on a connection of their own that is kept for ten of them, by the protocol and the TLS of the pool. A check that fails is told
    /// in the process log once it changes something.
    HealthCheck as "health check" (Keys) {
        /// What is asked.
        kind as "type": CheckType, default "http";
        /// For `http`: the path, with a query if need be.
        path: UrlTarget, optional "`/`";
        /// For `http`: the host that is asked for.
        host: FieldValue, optional "the name that TLS verifies, or the endpoint's address";
        /// For `http`: further header fields.
        headers: Named<FieldName, FieldValue>, optional "none";
        /// For `http`: a status that is good, such as `204`, or a range, such as `200-299`, or a list of them.
        status: OneOrMore<StatusRange>, optional "`200-399`";
        /// For `http`: a text that the body has to hold, within its first 64 KiB.
        body: String, optional "it is not looked at";
        /// For `grpc`: the name of the service.
        service: String, optional "the server as a whole";
        /// Another port than the endpoint's.
        port: Count<1, 65535>, optional "the endpoint's";
        /// From the end of a check to the next one, give or take a fifth: endpoints are not all checked in one moment.
        interval: Timeout, default "5s";
        /// The same while the next results may change something.
        fast_interval: Timeout, optional "1s, or `interval` if that is shorter";
        /// A check, whole.
        timeout: Timeout, optional "2s, or `interval` if that is shorter";
        /// Successes in a row that make an unhealthy endpoint healthy. One that is new needs one.
        rise: Count<1, 100>, default "2";
        /// Failures in a row that make a healthy endpoint unhealthy.
        fall: Count<1, 100>, default "3";
    }
}

section! {
    /// Requests that wait for a usable endpoint with room: first come, first served.
    Queue as "queue" (Keys) {
        /// Requests that wait at a time; one too many is answered 503 at once.
        size: Count<1, 65536>, default "1024";
        /// How long a request waits in all.
        wait: Timeout, default "3s";
    }
}

section! {
    /// A limit of exchanges in flight that follows how long answers take.
    Adaptive as "adaptive concurrency" (Keys) {
        /// It is never lower.
        min: Count<1, 1_000_000>, default "4";
        /// It is never higher.
        max: Count<1, 1_000_000>, optional "1000, or `min` if that is higher";
        /// Where it begins.
        initial: Count<1, 1_000_000>, optional "20, or the nearer of `min` and `max`";
    }
}

section! {
    /// Attempts beyond the first ones, for the pool as a whole. An attempt that is answered well gives back what it took.
    RetryBudget as "retry budget" (Keys) {
        /// So many for a hundred requests, of the last second or two.
        percent: Count<0, 100>, default "20";
        /// So many a second besides, up to those of ten seconds at once: for pools with few requests.
        per_second: Count<0, 10_000>, default "3";
    }
}

section! {
    /// Ejection of endpoints whose exchanges fail, by no usable answer or one of 502, 503 and 504, or are slow where that is
    /// asked for. The last endpoint that is healthy stays.
    Outlier as "outlier ejection" (Keys) {
        /// So many failures in a row eject an endpoint: one failure in ten seconds, as elsewhere, ejects healthy ones.
        failures: Count<1, 1000>, default "5";
        /// Fewer successes than this eject an endpoint too; `0%` turns that off.
        success_rate: Percent<0>, default "50%";
        /// With fewer exchanges in the window the rate says nothing.
        requests: Count<1, 1_000_000>, default "20";
        /// The time in which the rate is taken.
        window: Timeout, default "10s";
        /// How long the first ejection lasts. The next lasts twice as long, then three times, at most 5 minutes, unless a
        /// `Retry-After` of the endpoint says otherwise. Good times are counted against it.
        ejection: Timeout, default "10s";
        /// At most this share of a pool is ejected.
        max_ejected: Percent<1>, default "50%";
        /// Eject endpoints too whose answers begin late beside those of the others: `true`, or a map.
        latency: OrTrue<SlowOutlier>, optional "being slow ejects nobody";
    }
}

section! {
    /// Ejection of endpoints that are slow. How long answers take is their geometric mean over the `window`, of at least as many
    /// as `requests`; it is held against that of the middle one of the endpoints with the same priority and zone.
    SlowOutlier as "latency ejection" (Keys) {
        /// An endpoint is slow whose answers take so many times as long as those of the middle one.
        factor: Count<2, 1000>, default "3";
        /// Answers that take less than this are not slow, however fast the others are.
        least: Timeout, default "50ms";
        /// How long an endpoint has to be slow before it is ejected.
        lasts as "for": Timeout, default "10s";
    }
}

section! {
    /// A balancing choice with settings.
    BalanceForms as "balance" (OneKey) {
        /// The same endpoint for the same key, unless it is gone, not usable, or far busier than the others.
        hash: Hash, optional "see the others";
        /// The endpoint of the client's session, which a cookie of ours names to nobody but us. Also without settings, as
        /// `balance: sticky`.
        sticky: Sticky, optional "see the others";
    }
}

section! {
    /// Sessions that stay with their endpoint, by a cookie that is signed and expires. One that is forged, expired or of another
    /// pool counts for nothing, and the answer brings a new one.
    Sticky as "sticky" (Keys) {
        /// The name of the cookie.
        cookie: CookieName, optional "one of the pool's own, such as `lockgate_1f2e3d4c`";
        /// How long a session lasts; it is made longer when half of it is over and the client is still there.
        max_age: Timeout, default "1h";
        /// How an endpoint is chosen for a client without a session, and for one whose endpoint is gone.
        otherwise: BalanceWord, default "round_robin";
        /// What the key of the cookies is made of, best by a variable: the same for all processes that are to know each
        /// other's sessions. At least 16 bytes.
        secret: SecretText, optional "one of this process, which reloads and upgrades keep and a restart does not";
        /// The same in a file.
        secret_file: FilePath, optional "see `secret`";
    }
}

section! {
    /// How requests are known again, and led to the same endpoint: by every proxy that has the same endpoints. Those without a
    /// key go in turn.
    Hash as "hash" (Keys) {
        /// What requests are known again by.
        by: HashByKey, required;
        /// How keys become endpoints.
        method: HashMethod, default "maglev";
    }
}

section! {
    /// A key with a name.
    HashByForms as "hash key" (OneKey) {
        /// The first header field of this name.
        header: FieldName, optional "see the others";
        /// The cookie of this name.
        cookie: CookieName, optional "see the others";
        /// The first query parameter of this name, as it is written.
        query: QueryName, optional "see the others";
    }
}

section! {
    /// One address in a pool.
    Endpoint as "endpoint" (Keys) {
        /// `10.0.0.1:8080`, `[::1]:8080`, `app.internal:8080`, `srv:_http._tcp.app.internal` or `unix:/run/app.sock`. Names are
        /// resolved in the background; `srv:` stands before one whose SRV records tell hosts, ports and weights.
        address: EndpointTarget, required;
        /// Its share of the pool's work beside the others; 0 takes it out of the turn. Records of a service have their own.
        weight: Count<0, 65535>, default "1";
        /// Which endpoints come first: those of a higher number get work only while none of a lower one is to be had.
        priority: Count<0, 15>, optional "0, which comes first";
        /// Gets work only while no other endpoint is to be had.
        backup: bool, default "false";
        /// The zone that it is in. Those of another zone than the top-level `zone` get work only while none of ours is to be
        /// had, or when ours are far busier.
        zone: Name, optional "in every zone";
        /// Takes nothing new; what runs on it runs to its end.
        drain: bool, default "false";
        /// Its own `max_requests`.
        max_requests: Count<1, 1_000_000>, optional "that of the pool";
        /// Its own `max_connections`.
        max_connections: Count<1, 1_000_000>, optional "that of the pool";
    }
}

section! {
    /// TLS towards endpoints, verified.
    PoolTls as "pool's TLS" (Keys) {
        /// The PEM file of the authorities to believe.
        ca: FilePath, optional "those of the operating system";
        /// The name for SNI and verification.
        server_name: ServerName, optional "the endpoint's host";
        /// Our certificate, shown when the endpoint asks for one.
        client_certificate: Certificate, optional "none";
        /// Believe any certificate: whoever is between here and the endpoints can read and change everything. Logged at start.
        danger_accept_any_certificate: bool, default "false";
    }
}

section! {
    /// Timeouts towards endpoints.
    PoolTimeouts as "pool's timeouts" (Keys) {
        /// Connecting, with the TLS handshake. In a data centre, what takes longer has failed, and a short wait leaves time
        /// for another endpoint.
        connect: Timeout, optional "2s, with TLS 3s";
    }
}

section! {
    /// The access log.
    AccessLog as "access log" (Keys) {
        /// The form of a line.
        format: AccessLogFormat, default "json";
        /// Where lines go: `stdout`, or a file, which is opened anew on SIGUSR1.
        path: AccessLogPath, default "stdout";
    }
}

section! {
    /// Limits. What is beyond them is refused with a fault of its own.
    Limits as "limits" (Keys) {
        /// Open client connections a worker.
        connections: Count<1, 1_000_000>, default "65536";
        /// TLS handshakes at a time a worker: they are pure cost.
        handshakes: Count<1, 65536>, default "256";
        /// Bytes of a request's header, whatever the protocol: memory for each stream.
        header_bytes: Bytes<8192, 1_048_576>, default "32KiB";
        /// Fields of a request's header. Crumbs of a cookie in HTTP/2 are counted apart.
        header_fields: Count<16, 4096>, default "128";
        /// Bytes of a response's header.
        response_header_bytes: Bytes<8192, 1_048_576>, default "64KiB";
        /// Streams at a time on one HTTP/2 connection.
        h2_streams: Count<1, 10_000>, default "128";
        /// Idle upstream connections an endpoint and worker.
        idle_connections: Count<0, 65536>, default "128";
        /// Exchanges in progress, over all listeners, routes and workers. One too many is answered 503 at once.
        concurrent_requests: Count<1, 1_000_000>, optional "no limit";
        /// Limits of each client, by its address.
        client: ClientLimits, optional "the defaults of its keys";
    }
}

section! {
    /// Limits of each client, over all listeners and workers. An IPv4 address is a client, and a /64 network of IPv6. Behind a proxy
    /// that `trusted_proxies` does not list all clients are one, so nothing is limited until a key says so.
    ClientLimits as "client's limits" (Keys) {
        /// Open connections. One too many is closed before TLS. Peers in `trusted_proxies` have as many as they want.
        connections: Count<1, 1_000_000>, optional "no limit";
        /// New TLS handshakes, such as `20/s`, of which so many may come at once, or a map with another `burst`. One too many is
        /// closed. Peers in `trusted_proxies` have as many as they want.
        handshakes: RateKey, optional "no limit";
        /// Requests, such as `100/s`, of which so many may come at once, or a map with another `burst`. One too many is answered
        /// 429 with the time to wait.
        requests: RateKey, optional "no limit";
        /// Exchanges in progress, on all connections of the client. One too many is answered 429.
        concurrent_requests: Count<1, 1_000_000>, optional "no limit";
    }
}

section! {
    /// A rate with a burst of its own.
    RateForms as "rate" (Keys) {
        /// How many in which time: `100/s`, `30/m` or `500/h`.
        rate: Rate, required;
        /// How many may come at once.
        burst: Count<1, 1_000_000>, optional "as many as the number of `rate`";
    }
}

section! {
    /// Limits of a route. What is beyond them is refused with a fault of its own.
    RouteLimits as "route's limits" (Keys) {
        /// Exchanges of this route in progress, over all workers. One too many is answered 503 at once.
        concurrent_requests: Count<1, 1_000_000>, optional "no limit";
    }
}

section! {
    /// Timeouts of client connections, and the defaults for routes.
    Timeouts as "timeouts" (Keys) {
        /// A TLS handshake, whole.
        handshake: Timeout, default "10s";
        /// The first byte of a new connection.
        first_byte: Timeout, default "10s";
        /// A request's header, from its first byte: honest clients need less than a second.
        header: Timeout, default "10s";
        /// A pause in a request's body. There is no limit on the whole: uploads take their time.
        body: Timeout, default "30s";
        /// A client connection without a request; above the 60s of the balancers of clouds.
        keep_alive: Timeout, default "75s";
        /// The age after which a client connection is closed between requests, plus or minus a tenth.
        age: Timeout, default "1h";
        /// A client that takes nothing of its answer.
        send: Timeout, default "30s";
        /// From SIGTERM, or the removal of a listener, to the end of what still runs.
        drain: Duration, default "30s";
        /// For routes: from the end of the request to the head of the answer.
        response: Timeout, default "60s";
        /// For routes: a pause in the body of the answer. There is no limit on the whole: downloads take their time.
        idle: Timeout, default "60s";
        /// For routes: a pause in a WebSocket, another tunnel, an event stream or a gRPC stream.
        stream: Timeout, default "1h";
    }
}

section! {
    /// The end of what is taken off, and of a process.
    Drain as "drain" (Keys) {
        /// From the removal of a route to the end of the last of its WebSockets and other tunnels. They end one after the
        /// other over this time, so that their clients do not come back all at once. Those of routes that stay live on,
        /// however often the config changes.
        tunnels: Duration, default "5m";
        /// From SIGTERM to the end of accepting: everything goes on as before, but readiness is off, so that balancers before
        /// this one look elsewhere first.
        notice: Duration, default "0s";
        /// From an upgrade of the binary to the end of what still runs in the process before. Nobody waits for it, so it is
        /// long.
        upgrade: Duration, default "1h";
    }
}

section! {
    /// The control socket: for `lockgate reload`, `lockgate upgrade`, and the question whether the process is ready.
    Admin as "admin" (Keys) {
        /// The path of a unix socket that nobody but its owner may use, such as `unix:/run/lockgate/admin.sock`. It changes
        /// with a restart or an upgrade only.
        address: AdminAddress, optional "`admin.sock` in `/run/lockgate` for root and under systemd, else in `lockgate` below \
            the user's runtime directory";
    }
}

impl MayBeOff for Admin {
    const KEY: &'static str = "admin";
    const HELP: &'static str =
        "write `off`, or a map such as `{ address: unix:/run/lockgate/admin.sock }`";
}

impl MayBeOff for AccessLog {
    const KEY: &'static str = "access_log";
    const HELP: &'static str = "write `off`, or a map such as `{ format: combined }`";
}

impl MayBeOff for Queue {
    const KEY: &'static str = "queue";
    const HELP: &'static str = "write `off`, or a map such as `{ size: 100, wait: 1s }`";
}

impl MayBeOff for Retry {
    const KEY: &'static str = "retry";
    const HELP: &'static str =
        "write `off`, or a map such as `{ attempts: 3 }`; it is on if absent";
}

impl MayBeOff for BackOff {
    const KEY: &'static str = "back_off";
    const HELP: &'static str = "write `off`, or a map such as `{ base: 50ms }`; it is on if absent";
}

impl MayBeOff for RetryBudget {
    const KEY: &'static str = "retry_budget";
    const HELP: &'static str =
        "write `off`, or a map such as `{ percent: 10 }`; it is on if absent";
}

impl MayBeOff for Outlier {
    const KEY: &'static str = "outlier";
    const HELP: &'static str =
        "write `off`, or a map such as `{ failures: 10 }`; it is on if absent";
}

impl MayBeTrue for PoolTls {
    const KEY: &'static str = "tls";
    const HELP: &'static str = "leave `tls` out for cleartext";
}

impl MayBeTrue for Adaptive {
    const KEY: &'static str = "adaptive_concurrency";
    const HELP: &'static str = "leave it out to have no such limit";
}

impl MayBeTrue for SlowOutlier {
    const KEY: &'static str = "latency";
    const HELP: &'static str = "leave it out to eject nobody for being slow";
}

#[cfg(test)]
mod tests {
    use super::super::decode::unwritten;
    use super::*;

    #[test]
    fn every_default_is_a_value_of_its_kind() {
        unwritten::<Root>();
        unwritten::<Site>();
        unwritten::<Listener>();
        unwritten::<ClientAuth>();
        unwritten::<Route>();
        unwritten::<Cohorts>();
        unwritten::<Mirror>();
        unwritten::<Redirect>();
        unwritten::<Respond>();
        unwritten::<Retry>();
        unwritten::<BackOff>();
        unwritten::<Hedge>();
        unwritten::<RetryBudget>();
        unwritten::<Pool>();
        unwritten::<Endpoint>();
        unwritten::<PoolTls>();
        unwritten::<HealthCheck>();
        unwritten::<Queue>();
        unwritten::<Adaptive>();
        unwritten::<RouteLimits>();
        unwritten::<ClientLimits>();
        unwritten::<Outlier>();
        unwritten::<SlowOutlier>();
        unwritten::<Sticky>();
        unwritten::<AccessLog>();
        unwritten::<Limits>();
        unwritten::<Timeouts>();
        unwritten::<Drain>();
        unwritten::<Sandbox>();
        unwritten::<Admin>();
    }
}
