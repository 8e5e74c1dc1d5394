//! Compile, seen from outside: what survives, what is shared, what is told.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, KeyPair};

use super::answers::{Answer, Answers, Question, Record};
use super::{Compiler, Outside, Previous, files_of, questions_of};
use crate::config::Config;
use crate::config::error::{ConfigError, Source};
use crate::config::parse;
use crate::dataplane::snapshot::{Route, Snapshot};
use crate::dataplane::upstream::endpoint::Endpoint;
use crate::dataplane::upstream::pool::Pool;

/// A world of files and names, in which configs are compiled one after the other.
struct World {
    files: super::Files,
    answers: Answers,
    now: SystemTime,
    current: Option<(Config, Snapshot)>,
}

fn parsed(addresses: &[&str]) -> Vec<IpAddr> {
    let addresses = addresses.iter();
    addresses.map(|text| text.parse().unwrap()).collect()
}

impl World {
    fn new() -> Self {
        Self {
            files: BTreeMap::new(),
            answers: Answers::new(),
            now: SystemTime::UNIX_EPOCH + DAY * 20_000,
            current: None,
        }
    }

    /// Makes `certs/<name>.pem` and `.key`, good until `days` from now.
    fn certificate(&mut self, name: &str, days: u32) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = (self.now - DAY).into();
        params.not_after = (self.now + DAY * days).into();
        let cert = params.self_signed(&key).unwrap();
        self.write(&format!("certs/{name}.pem"), &cert.pem());
        self.write(&format!("certs/{name}.key"), &key.serialize_pem());
    }

    fn write(&mut self, file: &str, text: &str) {
        self.files.insert(
            PathBuf::from("/cfg").join(file),
            Ok(text.as_bytes().to_vec().into()),
        );
    }

    fn resolves(&mut self, name: &str, addresses: &[&str]) {
        let answer = Answer::Addresses(parsed(addresses));
        self.answers.insert(Question::Host(name.to_owned()), answer);
    }

    /// A service of records with priority, weight, host, and the addresses of that.
    fn serves(&mut self, name: &str, records: &[(u16, u16, &str, &[&str])]) {
        let records = records
            .iter()
            .map(|&(priority, weight, host, addresses)| Record {
                priority,
                weight,
                host: host.to_owned(),
                port: 8080,
                addresses: parsed(addresses),
            });
        let answer = Answer::Records(records.collect());
        self.answers
            .insert(Question::Service(name.to_owned()), answer);
    }

    /// What is wrong with `yaml`, as `line: message` each.
    fn refuses(&mut self, yaml: &str) -> Vec<String> {
        self.attempt(yaml).map(|_| ()).unwrap_err()
    }

    /// Puts `yaml` in force.
    fn accepts(&mut self, yaml: &str) -> &Snapshot {
        let next = self.attempt(yaml).unwrap();
        &self.current.insert(next).1
    }

    fn attempt(&mut self, yaml: &str) -> Result<(Config, Snapshot), Vec<String>> {
        let source = Source::new("/cfg/proxy.yaml", yaml);
        let config = parse::parse(&source, &|_| None).unwrap();
        for file in files_of(&config.listeners, &config.pools) {
            self.files
                .entry(file)
                .or_insert_with(|| Err(io::ErrorKind::NotFound.into()));
        }
        let outside = Outside {
            answers: &self.answers,
            now: self.now,
            sessions: None,
        };
        let previous = self.current.as_ref();
        let previous = previous.map(|(config, snapshot)| Previous {
            snapshot,
            routes: config.routes.iter().collect(),
        });
        let compiler = Compiler::new(outside, previous.as_ref());
        let main = compiler.main(&config, &source, &self.files);
        let told = |error: &ConfigError| format!("{}: {}", error.line, error.message);
        let main = main.map_err(|errors| errors.iter().map(told).collect::<Vec<_>>())?;
        let snapshot = compiler.snapshot(&config, main, Vec::new());
        Ok((config, snapshot))
    }

    fn snapshot(&self) -> &Snapshot {
        &self.current.as_ref().unwrap().1
    }

    fn pool(&self, name: &str) -> Arc<Pool> {
        let pools = &self.snapshot().pools;
        Arc::clone(
            pools
                .iter()
                .find(|pool| pool.name.as_str() == name)
                .unwrap(),
        )
    }

    fn route(&self, name: &str) -> Arc<Route> {
        let mut routes = self.snapshot().routes.iter();
        let (_, route) = routes
            .find(|(_, route)| route.name.as_str() == name)
            .unwrap();
        Arc::clone(route)
    }

    fn endpoint(&self, pool: &str, address: &str) -> Arc<Endpoint> {
        let pool = self.pool(pool);
        let mut members = pool.members.iter();
        let found = members.find(|member| &*member.endpoint.label == address);
        Arc::clone(&found.unwrap().endpoint)
    }

    /// Addresses and weights of a pool.
    fn members(&self, pool: &str) -> String {
        let pool = self.pool(pool);
        let members = pool
            .members
            .iter()
            .map(|m| format!("{}*{}", m.endpoint.label, m.weight));
        members.collect::<Vec<_>>().join(" ")
    }
}

const DAY: Duration = Duration::from_secs(86_400);

const TWO_POOLS: &str = "
listeners:
  - address: 127.0.0.1:80
routes:
  - match: { path: /a }
    pool: a
  - pool: b
pools:
  a:
    endpoints: [ 10.0.0.1:80, 10.0.0.2:80 ]
  b:
    endpoints: [ 10.0.0.1:80 ]
";

#[test]
fn what_is_equal_to_before_is_the_one_from_before() {
    let mut world = World::new();
    assert_eq!(world.accepts(TWO_POOLS).version, 1);
    let (a, b) = (world.pool("a"), world.pool("b"));
    let listener = Arc::clone(&world.snapshot().listeners[0]);
    let next = world.accepts(TWO_POOLS);
    assert_eq!(next.version, 2);
    assert!(Arc::ptr_eq(&next.listeners[0], &listener));
    assert!(Arc::ptr_eq(&world.pool("a"), &a) && Arc::ptr_eq(&world.pool("b"), &b));
}

#[test]
fn a_route_is_the_same_as_long_as_it_says_the_same_and_leads_to_the_same_pool() {
    let routes = |respond: &str, to: &str, response: &str, balance: &str| {
        format!(
            "
listeners:
  - address: 127.0.0.1:80
routes:
  - {{ name: fixed, match: {{ path: /f }}, respond: {{ status: {respond} }} }}
  - {{ name: moved, match: {{ path: /m }}, redirect: {{ to: {to} }} }}
  - name: app
    match: {{ headers: {{ x-a: {{ regex: '[0-9]+' }} }} }}
    filters: [ {{ set_request_headers: {{ x-a: '1' }} }} ]
    timeouts: {{ response: {response} }}
    pool: app
pools:
  app: {{ balance: {balance}, endpoints: [ 10.0.0.1:80 ] }}
"
        )
    };
    let mut world = World::new();
    let mut kept = |text: &str| {
        let before = world
            .current
            .is_some()
            .then(|| ["fixed", "moved", "app"].map(|name| world.route(name)));
        world.accepts(text);
        let before = before?;
        let after = ["fixed", "moved", "app"].map(|name| world.route(name));
        let same = [0, 1, 2].map(|at: usize| Arc::ptr_eq(&before[at], &after[at]));
        let filters = Arc::ptr_eq(&before[2].filters, &after[2].filters);
        Some((same, filters))
    };
    let base = routes("200", "/x", "5s", "round_robin");
    assert_eq!(kept(&base), None);
    assert_eq!(kept(&base), Some(([true, true, true], true)));
    let answer = routes("204", "/x", "5s", "round_robin");
    assert_eq!(kept(&answer), Some(([false, true, true], true)));
    let target = routes("204", "/y", "5s", "round_robin");
    assert_eq!(kept(&target), Some(([true, false, true], true)));
    // What a filter holds of its own stays with the filters that did not change.
    let timeout = routes("204", "/y", "6s", "round_robin");
    assert_eq!(kept(&timeout), Some(([true, true, false], true)));
    let pool = routes("204", "/y", "6s", "least_connections");
    assert_eq!(kept(&pool), Some(([true, true, false], true)));
    let filter = pool.replace("x-a: '1'", "x-a: '2'");
    assert_eq!(kept(&filter), Some(([true, true, false], false)));
}

#[test]
fn the_life_of_a_route_goes_by_its_name() {
    let mut world = World::new();
    world.accepts(TWO_POOLS);
    let life = Arc::clone(&world.route("*/a").life);
    world.accepts(&TWO_POOLS.replace("pool: a", "pool: b"));
    assert!(Arc::ptr_eq(&world.route("*/a").life, &life));
    world.accepts(&TWO_POOLS.replace("path: /a", "path: /b"));
    assert!(!Arc::ptr_eq(&world.route("*/b").life, &life));
    world.accepts(TWO_POOLS);
    assert!(!Arc::ptr_eq(&world.route("*/a").life, &life));
}

#[test]
fn a_condition_may_change_under_a_route() {
    let mut world = World::new();
    world.accepts(TWO_POOLS);
    let first = world.route("*/a");
    let text = TWO_POOLS.replace(
        "  - match: { path: /a }",
        "  - name: '*/a'\n    match: { path: /b }",
    );
    let next = world.accepts(&text);
    let (condition, _) = next.routes.iter().next().unwrap();
    assert!(condition.path.holds("/b/x") && !condition.path.holds("/a"));
    assert!(Arc::ptr_eq(&first, &world.route("*/a")));
}

#[test]
fn the_secret_of_sessions_goes_from_version_to_version() {
    let sticky = TWO_POOLS.replace("  a:\n", "  a:\n    balance: sticky\n");
    let mut world = World::new();
    let first = world.accepts(&sticky).sessions.clone();
    assert!(first.is_some());
    let pool = world.pool("a");
    let without = world.accepts(TWO_POOLS).sessions.clone();
    assert_eq!(without, first);
    world.accepts(&sticky);
    assert_eq!(world.pool("a").settings, pool.settings);
    assert_ne!(World::new().accepts(&sticky).sessions, first);
}

#[test]
fn a_file_with_a_secret_is_read_and_a_short_one_refused() {
    let text = TWO_POOLS.replace(
        "  a:\n",
        "  a:\n    balance: { sticky: { secret_file: sticky.key } }\n",
    );
    let mut world = World::new();
    let told = world.refuses(&text);
    assert!(
        told[0].starts_with("10: /cfg/sticky.key cannot be read"),
        "{told:?}"
    );
    world.write("sticky.key", "  hunter2\n");
    let told = "10: /cfg/sticky.key holds a secret of 7 bytes, which can be guessed";
    assert_eq!(world.refuses(&text), [told]);
    world.write("sticky.key", "0123456789abcdef\n");
    world.accepts(&text);
    let before = world.pool("a");
    world.write("sticky.key", "fedcba9876543210\n");
    world.accepts(&text);
    assert_ne!(world.pool("a").settings, before.settings);
}

#[test]
fn live_state_survives_a_change_of_its_pool() {
    let mut world = World::new();
    world.accepts(TWO_POOLS);
    let (a, b) = (world.pool("a"), world.pool("b"));
    let endpoint = world.endpoint("a", "10.0.0.1:80");
    let running = endpoint.enter();
    world.accepts(&TWO_POOLS.replace(
        "[ 10.0.0.1:80, 10.0.0.2:80 ]",
        "[ 10.0.0.3:80, { address: 10.0.0.1:80, weight: 3 } ]",
    ));
    assert_eq!(world.members("a"), "10.0.0.3:80*1 10.0.0.1:80*3");
    let now = world.endpoint("a", "10.0.0.1:80");
    assert!(Arc::ptr_eq(&endpoint, &now));
    assert_eq!(now.in_flight(), 1);
    drop(running);
    assert_eq!(now.in_flight(), 0);
    assert!(!Arc::ptr_eq(&world.pool("a"), &a));
    assert!(Arc::ptr_eq(&world.pool("b"), &b));
}

#[test]
fn one_address_in_two_pools_is_two_endpoints() {
    let mut world = World::new();
    world.accepts(TWO_POOLS);
    let (a, b) = (
        world.endpoint("a", "10.0.0.1:80"),
        world.endpoint("b", "10.0.0.1:80"),
    );
    assert_ne!(a.id, b.id);
}

#[test]
fn an_endpoint_that_is_spoken_to_otherwise_is_another() {
    let mut world = World::new();
    world.accepts(TWO_POOLS);
    let before = world.endpoint("b", "10.0.0.1:80");
    world.accepts(&TWO_POOLS.replace("  b:\n", "  b:\n    protocol: h2\n"));
    assert_ne!(world.endpoint("b", "10.0.0.1:80").id, before.id);
}

#[test]
fn a_changed_balance_keeps_the_endpoints() {
    let mut world = World::new();
    world.accepts(TWO_POOLS);
    let (pool, endpoint) = (world.pool("a"), world.endpoint("a", "10.0.0.1:80"));
    world.accepts(&TWO_POOLS.replace("  a:\n", "  a:\n    balance: least_connections\n"));
    assert!(!Arc::ptr_eq(&world.pool("a"), &pool));
    assert_eq!(world.endpoint("a", "10.0.0.1:80").id, endpoint.id);
}

const NAMES: &str = "
listeners:
  - address: 127.0.0.1:80
routes:
  - pool: app
pools:
  app:
    endpoints:
      - app.internal:8080
      - { address: other.internal:8080, weight: 2 }
      - 10.0.0.9:8080
";

#[test]
fn a_name_becomes_an_endpoint_for_each_of_its_addresses() {
    let mut world = World::new();
    world.resolves("app.internal", &["10.0.0.1", "fd00::1"]);
    world.accepts(NAMES);
    assert_eq!(
        world.members("app"),
        "10.0.0.1:8080*1 [fd00::1]:8080*1 10.0.0.9:8080*1"
    );
    let kept = world.endpoint("app", "10.0.0.1:8080");
    world.resolves("app.internal", &["10.0.0.1", "10.0.0.2"]);
    world.resolves("other.internal", &["10.0.0.9"]);
    world.accepts(NAMES);
    assert_eq!(
        world.members("app"),
        "10.0.0.1:8080*1 10.0.0.2:8080*1 10.0.0.9:8080*3"
    );
    assert_eq!(world.endpoint("app", "10.0.0.1:8080").id, kept.id);
}

#[test]
fn names_that_do_not_resolve_leave_a_pool_empty_and_are_no_error() {
    let mut world = World::new();
    world.accepts(&NAMES.replace("      - 10.0.0.9:8080\n", ""));
    assert_eq!(world.members("app"), "");
    let source = Source::new("proxy.yaml", NAMES);
    let questions = questions_of(&parse::parse(&source, &|_| None).unwrap().pools);
    let questions = questions.into_iter().map(|question| question.to_string());
    assert_eq!(
        questions.collect::<Vec<_>>(),
        ["app.internal", "other.internal"]
    );
}

#[test]
fn a_service_is_its_records_in_tiers_by_priority() {
    const SERVICE: &str = "
listeners: [ { address: 127.0.0.1:80 } ]
routes: [ { pool: app } ]
pools:
  app:
    endpoints:
      - 'srv:_http._tcp.app.internal'
      - 10.0.0.9:8080
      - { address: 10.0.0.8:8080, priority: 1 }
      - { address: 'srv:_http._tcp.spare.internal', backup: true }
";
    let mut world = World::new();
    let spare = [
        (7, 1, "x.internal.", &["10.0.1.1"][..]),
        (8, 1, "y.internal.", &["10.0.1.2"][..]),
    ];
    world.serves("_http._tcp.spare.internal", &spare);
    // The tiers of the pool, each in parentheses.
    let check = |world: &mut World, records: &[(u16, u16, &str, &[&str])], tiers: &str| {
        world.serves("_http._tcp.app.internal", records);
        world.accepts(SERVICE);
        let pool = world.pool("app");
        let shown = pool.members.chunk_by(|a, b| a.tier() == b.tier());
        let shown = shown.map(|tier| {
            let members = tier.iter().map(|member| {
                let label = member.endpoint.label.trim_end_matches(":8080");
                format!("{}*{}", label.trim_start_matches("10.0."), member.weight)
            });
            format!("({})", members.collect::<Vec<_>>().join(" "))
        });
        let behind = " (0.8*1) (1.1*1) (1.2*1)";
        assert_eq!(
            shown.collect::<Vec<_>>().join(" "),
            format!("{tiers}{behind}")
        );
    };
    let two = [
        (10, 3, "a.internal.", &["10.0.0.1"][..]),
        (10, 0, "b.internal.", &["10.0.0.2", "10.0.0.3"][..]),
    ];
    let backup = (20, 5, "c.internal.", &["10.0.0.4"][..]);
    let all = [two[0], two[1], backup];
    check(&mut world, &all, "(0.1*3 0.2*1 0.3*1 0.9*1) (0.4*5)");
    let (kept, first) = (
        world.endpoint("app", "10.0.0.9:8080"),
        world.endpoint("app", "10.0.0.4:8080"),
    );
    check(&mut world, &[backup], "(0.4*5 0.9*1)");
    assert_eq!(world.endpoint("app", "10.0.0.4:8080").id, first.id);
    let lost = (10, 3, "a.internal.", &[][..]);
    check(&mut world, &[lost, backup], "(0.9*1) (0.4*5)");
    let shared = (10, 2, "a.internal.", &["10.0.0.9"][..]);
    check(&mut world, &[shared], "(0.9*3)");
    assert_eq!(world.endpoint("app", "10.0.0.9:8080").id, kept.id);
    check(&mut world, &[], "(0.9*1)");
}

#[test]
fn a_service_makes_so_many_tiers_and_no_more() {
    const SERVICE: &str = "
listeners: [ { address: 127.0.0.1:80 } ]
routes: [ { pool: app } ]
pools: { app: { endpoints: [ 'srv:_http._tcp.app.internal' ] } }
";
    let mut world = World::new();
    let hosts: Vec<_> = (0..200).map(|last| format!("10.0.0.{last}")).collect();
    let hosts: Vec<_> = hosts.iter().map(|host| [host.as_str()]).collect();
    let records = (0..)
        .zip(&hosts)
        .map(|(at, host)| (at * 300, 1, "a.internal.", &host[..]));
    world.serves("_http._tcp.app.internal", &records.collect::<Vec<_>>());
    world.accepts(SERVICE);
    let pool = world.pool("app");
    let tiers = pool.members.chunk_by(|a, b| a.tier() == b.tier());
    let sizes: Vec<_> = tiers.map(<[_]>::len).collect();
    assert_eq!(sizes, [&[1; 15][..], &[185]].concat());
}

#[test]
fn a_name_that_is_one_endpoint_stays_it_wherever_it_leads() {
    const ONE: &str = "
listeners: [ { address: 127.0.0.1:80 } ]
routes: [ { pool: app } ]
pools:
  app:
    addresses: one
    endpoints: [ app.internal:80, 'srv:_http._tcp.app.internal', 'none.internal:80' ]
";
    let mut world = World::new();
    world.resolves("app.internal", &["10.0.0.1", "fd00::1"]);
    world.serves(
        "_http._tcp.app.internal",
        &[(0, 4, "b.internal.", &["10.0.0.2"])],
    );
    world.accepts(ONE);
    assert_eq!(world.members("app"), "app.internal:80*1 b.internal:8080*4");
    let (pool, endpoint) = (world.pool("app"), world.endpoint("app", "app.internal:80"));
    let dials = pool.dials(&endpoint);
    let dials: Vec<_> = dials.iter().map(ToString::to_string).collect();
    assert_eq!(dials, ["[fd00::1]:80", "10.0.0.1:80"]);
    world.accepts(ONE);
    assert!(Arc::ptr_eq(&world.pool("app"), &pool));

    world.resolves("app.internal", &["10.0.0.3"]);
    world.accepts(ONE);
    assert_eq!(world.endpoint("app", "app.internal:80").id, endpoint.id);
    let dials = world.pool("app").dials(&endpoint);
    assert_eq!(dials.as_slice(), ["10.0.0.3:80".parse().unwrap()]);
    assert!(pool.dials(&endpoint).len() == 2);
}

const TLS: &str = "
listeners:
  - address: 127.0.0.1:443
    tls:
      certificates:
        - { cert: certs/a.pem, key: certs/a.key }
        - { cert: certs/b.pem, key: certs/b.key }
routes:
  - respond: { status: 200 }
";

#[test]
fn a_listener_with_equal_files_keeps_its_plan_and_one_with_others_gets_another() {
    let mut world = World::new();
    world.certificate("a", 30);
    world.certificate("b", 30);
    world.accepts(TLS);
    let plan = Arc::clone(&world.snapshot().listeners[0]);
    assert!(Arc::ptr_eq(&plan, &world.accepts(TLS).listeners[0]));
    world.certificate("b", 30);
    let renewed = Arc::clone(&world.accepts(TLS).listeners[0]);
    assert!(!Arc::ptr_eq(&plan, &renewed));
    let identities = |plan: &crate::dataplane::snapshot::ListenerPlan| {
        plan.tls.as_ref().unwrap().certs().identities().to_vec()
    };
    let (old, new) = (identities(&plan), identities(&renewed));
    assert!(Arc::ptr_eq(&old[0], &new[0]));
    assert!(!Arc::ptr_eq(&old[1], &new[1]));
}

#[test]
fn a_change_of_one_thing_leaves_all_others_the_very_same() {
    const EVERYTHING: &str = "
listeners:
  - name: tls
    address: 127.0.0.1:443
    tls: { certificates: [ { cert: certs/a.pem, key: certs/a.key } ] }
  - { name: web, address: 127.0.0.1:80 }
routes:
  - { name: a, match: { path: /a }, filters: [ { set_request_headers: { x-a: '1' } } ], pool: a }
  - { name: b, match: { path: /b }, pool: b }
pools:
  a: { endpoints: [ 10.0.0.1:80, 10.0.0.2:80 ] }
  b: { endpoints: [ 10.0.0.3:443 ], tls: { ca: certs/a.pem, server_name: b.test } }
";
    /// Where each thing is that may be kept, by its name.
    fn places(world: &World) -> BTreeMap<String, usize> {
        let mut places = BTreeMap::new();
        for plan in &world.snapshot().listeners {
            let name = &plan.name;
            places.insert(format!("listener {name}"), Arc::as_ptr(plan).addr());
            let Some(tls) = &plan.tls else { continue };
            places.insert(format!("tls {name}"), Arc::as_ptr(tls).addr());
            for (at, identity) in tls.certs().identities().iter().enumerate() {
                let address = Arc::as_ptr(identity).addr();
                places.insert(format!("certificate {name} {at}"), address);
            }
        }
        for (_, route) in world.snapshot().routes.iter() {
            let name = &route.name;
            places.insert(format!("route {name}"), Arc::as_ptr(route).addr());
        }
        for pool in &world.snapshot().pools {
            let name = &pool.name;
            places.insert(format!("pool {name}"), Arc::as_ptr(pool).addr());
            for member in &pool.members {
                let (endpoint, label) = (&member.endpoint, &member.endpoint.label);
                let address = Arc::as_ptr(endpoint).addr();
                places.insert(format!("endpoint {name} {label}"), address);
                if let Some(tls) = &endpoint.tls {
                    let address = Arc::as_ptr(&tls.plan).addr();
                    places.insert(format!("client tls {name} {label}"), address);
                }
            }
        }
        places
    }
    // The things that are other or gone once `changed` is in force after `EVERYTHING`. What was there before lives on
    // meanwhile, so that nothing else gets its place.
    let check = |changed: &str, expected: &[&str]| {
        let mut world = World::new();
        world.certificate("a", 30);
        world.accepts(EVERYTHING);
        let before = places(&world);
        assert_eq!(before.len(), 12, "{before:#?}");
        let next = world.attempt(changed).unwrap();
        let (_, _held) = world.current.replace(next).unwrap();
        let after = places(&world);
        let others = before
            .iter()
            .filter(|(name, place)| after.get(*name) != Some(place));
        let others: Vec<_> = others.map(|(name, _)| name.as_str()).collect();
        assert_eq!(others, expected, "{changed}");
    };
    check(EVERYTHING, &[]);
    let change = |from: &str, to: &str| {
        assert!(EVERYTHING.contains(from), "{from}");
        EVERYTHING.replace(from, to)
    };
    check(&change("x-a: '1'", "x-a: '2'"), &["route a"]);
    check(
        &change("10.0.0.2:80 ]", "10.0.0.4:80 ]"),
        &["endpoint a 10.0.0.2:80", "pool a", "route a"],
    );
    check(
        &change("server_name: b.test", "server_name: c.test"),
        &["endpoint b 10.0.0.3:443", "pool b", "route b"],
    );
    check(
        &change("address: 127.0.0.1:80 }", "address: 127.0.0.1:81 }"),
        &["listener web"],
    );
    check(
        &change("address: 127.0.0.1:443", "address: 127.0.0.1:444"),
        &["listener tls"],
    );
    check(
        &change(
            "routes:\n",
            "routes:\n  - { match: { path: /c }, pool: a }\n",
        ),
        &[],
    );
}

#[test]
fn a_certificate_that_expired_in_service_does_not_stop_other_changes() {
    let mut world = World::new();
    world.certificate("a", 10);
    world.certificate("b", 30);
    world.accepts(TLS);
    world.now += DAY * 20;
    world.accepts(&TLS.replace("200", "204"));
    world.certificate("b", 30);
    world.accepts(TLS);
    // But it is not good enough to begin with.
    world.current = None;
    let errors = world.refuses(TLS);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(
        errors[0].starts_with("6: /cfg/certs/a.pem: the certificate expired"),
        "{errors:?}"
    );
}

#[test]
fn everything_wrong_is_told_at_once_in_the_order_of_the_file() {
    let mut world = World::new();
    world.certificate("a", 30);
    world.write("certs/b.pem", "no PEM");
    world.certificate("c", 30);
    world.write("certs/ca.pem", "");
    let errors = world.refuses(
        "
listeners:
  - address: 127.0.0.1:443
    tls:
      certificates:
        - { cert: certs/missing.pem, key: certs/a.key }
        - { cert: certs/b.pem, key: certs/a.key }
        - { cert: certs/a.pem, key: certs/c.key }
routes:
  - pool: app
pools:
  app:
    endpoints: [ 10.0.0.1:443 ]
    tls: { ca: certs/nowhere.pem }
  other:
    endpoints: [ 10.0.0.1:443 ]
    tls: { ca: certs/ca.pem }
",
    );
    let starts = [
        "6: /cfg/certs/missing.pem cannot be read",
        "7: /cfg/certs/b.pem: no PEM section",
        "8: /cfg/certs/c.key: the key does not belong",
        "14: /cfg/certs/nowhere.pem cannot be read",
        "17: /cfg/certs/ca.pem: no PEM section",
    ];
    assert_eq!(errors.len(), starts.len(), "{errors:#?}");
    for (error, start) in errors.iter().zip(starts) {
        assert!(
            error.starts_with(start),
            "{error} does not start with {start}"
        );
    }
}

const UPSTREAM_TLS: &str = "
listeners:
  - address: 127.0.0.1:80
routes:
  - pool: app
pools:
  app:
    endpoints: [ 10.0.0.1:443, app.internal:443 ]
    tls: { ca: certs/a.pem }
";

#[test]
fn endpoints_are_verified_by_their_host_unless_the_pool_says_otherwise() {
    let mut world = World::new();
    world.certificate("a", 30);
    world.resolves("app.internal", &["10.0.0.2"]);
    world.accepts(UPSTREAM_TLS);
    let name = |world: &World, address| {
        world
            .endpoint("app", address)
            .tls
            .as_ref()
            .unwrap()
            .server_name
            .to_string()
    };
    assert_eq!(name(&world, "10.0.0.1:443"), "10.0.0.1");
    assert_eq!(name(&world, "10.0.0.2:443"), "app.internal");
    world.accepts(&UPSTREAM_TLS.replace("a.pem }", "a.pem, server_name: app.example.com }"));
    assert_eq!(name(&world, "10.0.0.1:443"), "app.example.com");
}

#[test]
fn a_pool_shares_one_tls_plan_and_keeps_it_while_its_files_are_the_same() {
    let mut world = World::new();
    world.certificate("a", 30);
    world.resolves("app.internal", &["10.0.0.2"]);
    world.accepts(UPSTREAM_TLS);
    let (one, two) = (
        world.endpoint("app", "10.0.0.1:443"),
        world.endpoint("app", "10.0.0.2:443"),
    );
    let plan = |endpoint: &Endpoint| Arc::clone(&endpoint.tls.as_ref().unwrap().plan);
    assert!(Arc::ptr_eq(&plan(&one), &plan(&two)));
    world.resolves("app.internal", &["10.0.0.3"]);
    world.accepts(UPSTREAM_TLS);
    assert!(Arc::ptr_eq(
        &plan(&one),
        &plan(&world.endpoint("app", "10.0.0.3:443"))
    ));
    world.certificate("a", 30);
    world.accepts(UPSTREAM_TLS);
    assert_ne!(world.endpoint("app", "10.0.0.1:443").id, one.id);
}

#[test]
fn a_certificate_that_a_pool_shows_may_expire_in_service_too() {
    let shows = UPSTREAM_TLS.replace(
        "a.pem }",
        "a.pem, client_certificate: { cert: certs/b.pem, key: certs/b.key } }",
    );
    let mut world = World::new();
    world.certificate("a", 30);
    world.certificate("b", 10);
    world.accepts(&shows);
    let endpoint = world.endpoint("app", "10.0.0.1:443");
    world.now += DAY * 20;
    world.accepts(&shows);
    assert_eq!(world.endpoint("app", "10.0.0.1:443").id, endpoint.id);
    world.current = None;
    let errors = world.refuses(&shows);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(
        errors[0].contains("b.pem: the certificate expired"),
        "{errors:?}"
    );
}
