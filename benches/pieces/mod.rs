//! The small steps that every request takes, and those that every config takes, each ready to be done again and
//! again.
//!
//! `micro.rs` asks how long they take, `counts.rs` how many instructions: both of the same thing. The rules that
//! make a request safe to decide about and ready for an endpoint are not here, since they want a body that only a
//! connection can make: a whole exchange has them.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_TYPE, SERVER, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};

use lockgate::base::{addr::EndpointAddr, clock, path::normal_path};
use lockgate::config::error::Source;
use lockgate::controlplane::compile::{Files, Previous};
use lockgate::dataplane::filter::{self, Filter, FilterInvalid};
use lockgate::dataplane::http::framing::{Limits, Scanner};
use lockgate::dataplane::http::headers;
use lockgate::dataplane::route::{HostMatch, Lookup, Match, PathMatch, RouteTable};
use lockgate::dataplane::snapshot;
use lockgate::dataplane::upstream::endpoint::{Endpoint, Identity, Protocol};
use lockgate::dataplane::upstream::head::{AnswerHead, Fields};
use lockgate::dataplane::upstream::pick::{self, Asker, Balance, Key, Picker};
use lockgate::dataplane::upstream::pool::Member;
use lockgate::telemetry::{self, Format, Record, Stamp, line};

use crate::configs;

/// One step; calling it takes the step once.
pub type Piece = Box<dyn FnMut()>;

/// What `curl` sends.
pub const SHORT_HEAD: &str =
    "GET /ab HTTP/1.1\r\nHost: www.example.com\r\nUser-Agent: curl/8.9.1\r\nAccept: */*\r\n\r\n";

/// What a browser sends.
pub const LONG_HEAD: &str = "GET /assets/app.js?v=31337 HTTP/1.1\r\nHost: www.example.com\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\nAccept: */*\r\n\
    Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n\
    Referer: https://www.example.com/\r\nConnection: keep-alive\r\nCookie: session=0123456789abcdef\r\n\
    Sec-Fetch-Dest: script\r\nSec-Fetch-Mode: no-cors\r\nSec-Fetch-Site: same-origin\r\n\
    Priority: u=2\r\n\r\n";

/// The path in normal form and the rule for it. Ten rules a host, and lookups that wander over the whole table:
/// a large one does not stay in the cache. Of a small one there are many: in one, where its few keys fall is chance.
pub fn route(rules: usize) -> Piece {
    let (method, headers) = (Method::GET, HeaderMap::new());
    let place = |rule: usize| {
        let (host, area) = (rule / 10, rule % 10);
        (format!("shop{host}.example.com"), format!("/v1/area{area}"))
    };
    let condition = |rule| Match {
        hosts: HostMatch::exact(&place(rule).0).into_iter().collect(),
        path: PathMatch::prefix(&place(rule).1).unwrap_or_default(),
        ..Match::default()
    };
    let table = || RouteTable::new((0..rules).map(|rule| (condition(rule), rule)).collect());
    let tables: Vec<_> = std::iter::repeat_with(table)
        .take((1_000 / rules).max(1))
        .collect();
    // 7919 is a prime that divides no number of rules: each is looked up once before any is again.
    let order = (0..rules.min(4_096)).map(move |turn| turn * 7_919 % rules);
    let requests: Vec<_> = order.map(|rule| (place(rule), rule)).collect();
    let mut turn = 0;
    Box::new(move || {
        let table = &tables[turn / requests.len()];
        let ((host, path), rule) = &requests[turn % requests.len()];
        turn = (turn + 1) % (tables.len() * requests.len());
        let path = &normal_path(path).expect("it is a path").path;
        let lookup = Lookup {
            host,
            path,
            query: None,
            method: &method,
            headers: &headers,
        };
        assert_eq!(table.find(black_box(&lookup)), Some(rule));
    })
}

/// Each in turn, among so many endpoints, with the count of what is in flight.
pub fn round_robin(count: u16) -> Piece {
    pick(count, &Balance::RoundRobin, 0)
}

/// The one with the fewest exchanges, among so many endpoints that all have one, with the count of what is in flight.
pub fn least_connections(count: u16) -> Piece {
    pick(count, &Balance::LeastConnections, 1)
}

/// One of two drawn at random, among so many endpoints that all have an exchange.
pub fn random_two(count: u16) -> Piece {
    pick(count, &Balance::RandomTwo, 1)
}

/// The same by what is to be expected of them.
pub fn peak_ewma(count: u16) -> Piece {
    pick(count, &Balance::PeakEwma, 1)
}

/// The one of a key, by a table.
pub fn maglev(count: u16) -> Piece {
    pick(count, &hash(pick::Method::Maglev), 0)
}

/// The one of a key, by a ring.
pub fn ring(count: u16) -> Piece {
    pick(count, &hash(pick::Method::Ring), 0)
}

fn hash(method: pick::Method) -> Balance {
    let key = Key::ClientIp;
    Balance::Hash { key, method }
}

fn pick(count: u16, balance: &Balance, running: usize) -> Piece {
    let members: Vec<_> = (1..=count).map(member).collect();
    let running: Vec<_> = members
        .iter()
        .flat_map(|member| std::iter::repeat_with(|| member.endpoint.enter()).take(running))
        .collect();
    let now = clock::now();
    for member in &members {
        member
            .endpoint
            .latency()
            .observe(Duration::from_millis(1), now);
    }
    let picker = Picker::new(balance, &members, 1);
    let asker = Asker::at(now).with_key(Some(31_337 << 40));
    Box::new(move || {
        let picked = picker.pick(black_box(&members), &asker);
        black_box(picked.map(|member| member.endpoint.enter()));
        // They run as long as the closure lives.
        let _ = &running;
    })
}

fn member(port: u16) -> Member {
    let identity = Identity {
        pool: "web".into(),
        address: EndpointAddr::Tcp((Ipv4Addr::LOCALHOST, port).into()),
        protocol: Protocol::Auto,
        tls: None,
    };
    Member::new(Arc::new(Endpoint::new(identity, None)))
}

/// One head judged and taken apart; the scanner stays, as on a connection that is kept.
pub fn head(head: &'static str) -> Piece {
    let mut scanner = Scanner::new(Limits::default());
    Box::new(move || {
        assert!(matches!(
            scanner.head(black_box(head.as_bytes())),
            Ok(Some(_))
        ))
    })
}

/// A field set, one added and one removed, on a request with the fields of a browser. They leave the request as it
/// was, so that it can be met again.
pub fn request_filters() -> Piece {
    let filters = expect_filters([
        Filter::set_request_headers(&[("user-agent", "rig")]),
        Filter::add_request_headers(&[("x-area", "shop")]),
        Filter::remove_request_headers(&["x-area"]),
    ]);
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.headers = browser_fields();
    Box::new(move || {
        let outcome = filter::on_request(black_box(&filters), &mut parts);
        assert!(outcome.is_ok());
    })
}

/// The same on a response, from which the endpoint's own fields for its connection are taken first.
pub fn response_rules() -> Piece {
    let filters = expect_filters([
        Filter::remove_response_headers(&["x-area"]),
        Filter::add_response_headers(&[("x-area", "shop")]),
        Filter::set_response_headers(&[("server", "rig")]),
    ]);
    let mut fields = HeaderMap::new();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    fields.insert(SERVER, HeaderValue::from_static("rig"));
    let mut head = AnswerHead::new(StatusCode::OK, Fields::Map(fields));
    Box::new(move || {
        let close = HeaderValue::from_static("keep-alive");
        head.map().insert(CONNECTION, close);
        headers::take_back(black_box(&mut head));
        filter::on_response(black_box(&filters), &mut head, HeaderMap::new);
        assert_eq!(head.map().len(), 2);
    })
}

fn expect_filters(filters: [Result<Filter, FilterInvalid>; 3]) -> Vec<Filter> {
    filters
        .map(|filter| filter.expect("its names and values are good"))
        .into()
}

fn browser_fields() -> HeaderMap {
    let lines = LONG_HEAD.lines().skip(1);
    let fields = lines.filter_map(|line| line.split_once(": "));
    let mut fields: HeaderMap = fields
        .map(|(name, value)| {
            let name = HeaderName::from_bytes(name.as_bytes());
            (
                name.expect("a browser sent it"),
                HeaderValue::from_static(value),
            )
        })
        .collect();
    fields.insert(USER_AGENT, HeaderValue::from_static("rig"));
    fields
}

/// What an exchange does to have its snapshot, and to let it go.
pub fn snapshot_load() -> Piece {
    // Readers outlive the writer: a worker that ends last is no special case.
    let (_, source) = snapshot::cell(configs::compiled(&config_text(1)));
    let reader = source.reader();
    Box::new(move || drop(black_box(reader.load())))
}

/// The line of an exchange that went well.
pub fn log_line(format: Format) -> Piece {
    let (client, took) = (IpAddr::from([192, 0, 2, 7]), Duration::from_micros(12_345));
    let mut record = Record::new(Rc::default(), clock::now(), clock::wall(), client);
    record.method = Some(Method::GET);
    record.host = Some(HeaderValue::from_static("www.example.com"));
    record.target = "/v1/things?page=2&token=abc".parse().ok();
    record.protocol = Some(telemetry::Protocol::Http11);
    record.tls = Some("TLSv1.3");
    record.status = Some(200);
    record.endpoint = Some(Arc::from("10.0.0.1:8080"));
    record.route = Some("api".into());
    let (mut out, mut stamp) = (Vec::new(), Stamp::default());
    Box::new(move || {
        black_box(&mut out).clear();
        line::write(&mut out, format, &mut stamp, black_box(&record), took);
    })
}

/// A text of so many routes, from YAML to checked values.
pub fn config_parse(routes: usize) -> Piece {
    let source = Source::new("proxy.yaml", &config_text(routes));
    Box::new(move || {
        black_box(configs::parse(black_box(&source)));
    })
}

/// A config of so many routes, from checked values to what workers read.
pub fn config_compile(routes: usize) -> Piece {
    let source = Source::new("proxy.yaml", &config_text(routes));
    let config = configs::parse(&source);
    Box::new(move || {
        black_box(configs::compile(black_box(&config), &source, &Files::new()));
    })
}

/// The same beside a version in force that differs in one route: what a reload does.
pub fn config_recompile(routes: usize) -> Piece {
    let text = config_text(routes);
    let source = Source::new("proxy.yaml", &text);
    let before = configs::parse(&source);
    let snapshot = configs::compile(&before, &source, &Files::new());
    let source = Source::new("proxy.yaml", &text.replacen("/v1", "/v2", 1));
    let after = configs::parse(&source);
    Box::new(move || {
        let previous = Previous {
            snapshot: &snapshot,
            routes: before.routes.iter().collect(),
        };
        let (previous, after) = black_box((Some(&previous), &after));
        black_box(configs::compile_after(
            previous,
            after,
            &source,
            &Files::new(),
        ));
    })
}

fn config_text(routes: usize) -> String {
    let route = |n| format!("  - {{ pool: web, match: {{ host: s{n}.test, path: /v1 }} }}\n");
    let head = "listeners: [ { address: \"127.0.0.1:8080\" } ]\n\
        pools: { web: { endpoints: [ \"127.0.0.1:9000\" ] } }\nroutes:\n";
    head.to_owned() + &(0..routes).map(route).collect::<String>()
}
