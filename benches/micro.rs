//! How long the small steps take that every request takes: `cargo bench`, or `cargo bench -- route` for some.
//!
//! For eyes, on one machine before and after a change: times of two machines say nothing about each other. What
//! the steps add up to under load, beside other proxies, is the question of `benches/peers`.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion};
use http::{HeaderMap, HeaderValue, Method};

use lockgate::base::{addr::EndpointAddr, clock, path::normal_path};
use lockgate::config::{error::Source, parse::parse};
use lockgate::dataplane::http::framing::{Limits, Scanner, Step};
use lockgate::dataplane::route::{HostMatch, Lookup, Match, PathMatch, RouteTable};
use lockgate::dataplane::upstream::endpoint::{Endpoint, Identity, Protocol};
use lockgate::dataplane::upstream::pick::{Picker, Schedule};
use lockgate::dataplane::upstream::pool::Member;
use lockgate::telemetry::{self, Format, Record, Stamp, line};

/// What `curl` sends.
const SHORT_HEAD: &str =
    "GET /ab HTTP/1.1\r\nHost: www.example.com\r\nUser-Agent: curl/8.9.1\r\nAccept: */*\r\n\r\n";

/// What a browser sends.
const LONG_HEAD: &str = "GET /assets/app.js?v=31337 HTTP/1.1\r\nHost: www.example.com\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\nAccept: */*\r\n\
    Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n\
    Referer: https://www.example.com/\r\nConnection: keep-alive\r\nCookie: session=0123456789abcdef\r\n\
    Sec-Fetch-Dest: script\r\nSec-Fetch-Mode: no-cors\r\nSec-Fetch-Site: same-origin\r\n\
    Priority: u=2\r\n\r\n";

/// Of a config, what comes before its routes.
const CONFIG_HEAD: &str = "listeners: [ { address: \"127.0.0.1:8080\" } ]\n\
    pools: { web: { endpoints: [ \"127.0.0.1:9000\" ] } }\nroutes:\n";

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for bench in [route, pick, head, access_log, config] {
        bench(&mut criterion);
    }
    criterion.final_summary();
}

/// The path in normal form and the rule for it. Ten rules a host, and lookups that wander over the whole table:
/// a large one does not stay in the cache.
fn route(criterion: &mut Criterion) {
    let (method, headers) = (&Method::GET, &HeaderMap::new());
    let mut group = criterion.benchmark_group("route");
    for rules in [10, 1_000, 100_000] {
        let place = |rule: usize| {
            let (host, area) = (rule / 10, rule % 10);
            (format!("shop{host}.example.com"), format!("/v1/area{area}"))
        };
        let condition = |rule| Match {
            hosts: HostMatch::exact(&place(rule).0).into_iter().collect(),
            path: PathMatch::prefix(&place(rule).1).unwrap_or_default(),
            ..Match::default()
        };
        let table = RouteTable::new((0..rules).map(|rule| (condition(rule), rule)).collect());
        // 7919 is a prime that divides no number of rules: each is looked up once before any is again.
        let order = (0..rules.min(4_096)).map(|turn| turn * 7_919 % rules);
        let requests: Vec<_> = order.map(|rule| (place(rule), rule)).collect();
        let mut requests = requests.iter().cycle();
        group.bench_function(BenchmarkId::from_parameter(rules), |bencher| {
            bencher.iter(|| {
                let ((host, path), rule) = requests.next().expect("a cycle has no end");
                let path = &normal_path(path).expect("it is a path").path;
                let lookup = Lookup {
                    host,
                    path,
                    query: None,
                    method,
                    headers,
                };
                assert_eq!(table.find(black_box(&lookup)), Some(rule));
            });
        });
    }
}

fn pick(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick");
    for count in [2, 100] {
        let members: Vec<_> = (1..=count).map(member).collect();
        let weights = vec![1; members.len()];
        let round_robin = Picker::RoundRobin(Schedule::new(&weights));
        let least = Picker::LeastConnections(Schedule::new(&weights));
        for (name, picker) in [("round_robin", round_robin), ("least_connections", least)] {
            // With the count of what is in flight, which the choice reads.
            group.bench_function(BenchmarkId::new(name, count), |bencher| {
                bencher.iter(|| picker.pick(black_box(&members), &[]).map(Endpoint::enter));
            });
        }
    }
}

fn member(port: u16) -> Member {
    let identity = Identity {
        pool: "web".into(),
        address: EndpointAddr::Tcp((Ipv4Addr::LOCALHOST, port).into()),
        protocol: Protocol::Auto,
        tls: None,
    };
    Member {
        endpoint: Arc::new(Endpoint::new(identity, None)),
        weight: 1,
    }
}

/// The strict gate over one head; the scanner stays, as on a connection that is kept.
fn head(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("head");
    for head in [SHORT_HEAD, LONG_HEAD].map(str::as_bytes) {
        let mut scanner = Scanner::new(Limits::default());
        group.bench_function(BenchmarkId::from_parameter(head.len()), |bencher| {
            bencher.iter(|| assert!(matches!(scanner.feed(black_box(head)), Step::Pass)));
        });
    }
}

fn access_log(criterion: &mut Criterion) {
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
    let mut group = criterion.benchmark_group("access_log");
    for (name, format) in [("json", Format::Json), ("combined", Format::Combined)] {
        let (mut out, mut stamp) = (Vec::new(), Stamp::default());
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                black_box(&mut out).clear();
                line::write(&mut out, format, &mut stamp, black_box(&record), took);
            });
        });
    }
}

/// A text of 1 000 routes, from YAML to checked values.
fn config(criterion: &mut Criterion) {
    let route = |n| format!("  - {{ pool: web, match: {{ host: s{n}.test, path: /v1 }} }}\n");
    let text = CONFIG_HEAD.to_owned() + &(0..1_000).map(route).collect::<String>();
    let source = Source::new("proxy.yaml", &text);
    criterion.bench_function("config/1000", |bencher| {
        bencher.iter(|| parse(black_box(&source), &|_| None).expect("the text is a config"));
    });
}
