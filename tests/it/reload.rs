//! A config changes under way: exchanges, connections, tunnels and endpoints do not notice.

use std::fmt::Display;
use std::fs;
use std::net::TcpStream;
use std::time::Duration;

use lockgate::controlplane::reload::outcome::{Cause, Outcome, Verdict};
use lockgate::controlplane::reload::watch::Pace;
use rcgen::ExtendedKeyUsagePurpose;

use crate::harness::backend::Backend;
use crate::harness::client::Client;
use crate::harness::proxy::Proxy;
use crate::harness::{backend, certs, config, expect, play, proxy};

/// Answers `/slow` when it is told to, and the rest at once.
fn patient(name: &'static str) -> Backend {
    backend::script(move |connection| {
        while let Some(request) = connection.request() {
            if request.target() == "/slow" {
                connection.wait("leave to answer", |seen| seen.written > 0);
            }
            connection.ok(name);
        }
    })
}

#[test]
fn an_exchange_finishes_on_the_snapshot_it_began_with() {
    play(|| {
        let (old, new) = (patient("old"), backend::named("new"));
        let text = "routes: [{ pool: app, filters: [{ set_response_headers: { x-version: \"@v\" } \
                    }] }]\npools: { app: { endpoints: [\"@app\"] } }";
        let proxy = proxy::start(text, &[("v", &1), ("app", &old)]);
        let mut slow = proxy.client();
        slow.send("GET /slow HTTP/1.1\r\nHost: app.test\r\n\r\n");
        old.request();
        let outcome = proxy.rewrite(text, &[("v", &2), ("app", &new)]);
        assert_eq!((outcome.is_good(), outcome.version), (true, 2));
        let answer = proxy.client().get("/");
        assert_eq!(
            (answer.text(), answer.field("x-version")),
            ("new", Some("2"))
        );
        old.note_written(1);
        let answer = slow.answer();
        assert_eq!(
            (answer.text(), answer.field("x-version")),
            ("old", Some("1"))
        );
        // The same connection goes on, with what is in force now.
        assert_eq!(slow.get("/").text(), "new");
    });
}

#[test]
fn a_bad_config_never_replaces_a_good_one() {
    play(|| {
        let backend = backend::named("good");
        let proxy = proxy::before(&[&backend]);
        for bad in ["routes: [{ pool: nowhere }]", "listeners: 5", "]["] {
            let outcome = proxy.rewrite(bad, &[]);
            let Verdict::Rejected(errors) = &outcome.verdict else {
                panic!("{outcome:?}")
            };
            assert!(errors[0].contains("proxy.yaml"), "{errors:?}");
            assert_eq!((outcome.version, proxy.app().version()), (1, 1));
            assert_eq!(proxy.client().get("/").text(), "good");
        }
    });
}

#[test]
fn weights_change_without_a_new_connection() {
    play(|| {
        let (a, b) = (backend::named("a"), backend::named("b"));
        let text = "routes: [{ pool: app }]\npools: { app: { endpoints: [{ address: \"@a\", \
                    weight: @one }, { address: \"@b\", weight: @two }] } }";
        let proxy = proxy::start(text, &[("a", &a), ("b", &b), ("one", &1), ("two", &1)]);
        let mut client = proxy.client();
        client.get("/");
        client.get("/");
        proxy.rewrite(text, &[("a", &a), ("b", &b), ("one", &0), ("two", &1)]);
        for _ in 0..4 {
            assert_eq!(client.get("/").text(), "b");
        }
        assert_eq!((a.seen().connections, b.seen().connections), (1, 1));
    });
}

#[test]
fn endpoints_keep_their_count_of_exchanges_in_flight() {
    play(|| {
        let (busy, idle) = (patient("busy"), backend::named("idle"));
        let text = "routes: [{ pool: app }]\npools: { app: { balance: least_connections, \
                    endpoints: [@endpoints] } }";
        let proxy = proxy::start(text, &[("endpoints", &format!("\"{busy}\""))]);
        let mut slow = proxy.client();
        slow.send("GET /slow HTTP/1.1\r\nHost: app.test\r\n\r\n");
        busy.request();
        proxy.rewrite(text, &[("endpoints", &format!("\"{idle}\", \"{busy}\""))]);
        let mut client = proxy.client();
        for _ in 0..10 {
            assert_eq!(client.get("/").text(), "idle");
        }
        busy.note_written(1);
        assert_eq!(slow.answer().text(), "busy");
    });
}

#[test]
fn a_changed_certificate_is_shown_to_new_connections() {
    play(|| {
        let certs = certs::new().server("app", &["app.test"]);
        let backend = backend::named("good");
        let text = "listeners: [{ name: web, address: \"127.0.0.1:0\", tls: { certificates: \
                    [{ cert: @certs/app.pem, key: @certs/app.key }] } }]\n\
                    routes: [{ pool: app }]\npools: { app: { endpoints: [\"@app\"] } }";
        let proxy = proxy::start(text, &[("certs", &certs), ("app", &backend)]);
        // Each with a memory of its own: who resumes a session is shown no certificate.
        let connect = || Client::tls(proxy.address(), &certs.trusting(&["http/1.1"]), "app.test");
        let mut old = connect();
        let before = certs.leaf("app");
        certs.issue(
            certs.folder(),
            "app",
            &["app.test"],
            ExtendedKeyUsagePurpose::ServerAuth,
        );
        assert!(proxy.app().reload().unwrap().is_good());
        let new = connect();
        assert_eq!(new.wire.peer().unwrap(), certs.leaf("app"));
        assert_ne!(before, certs.leaf("app"));
        assert_eq!(old.get("/").text(), "good");

        let good = certs.leaf("app");
        fs::write(certs.folder().join("app.pem"), "nonsense").unwrap();
        let outcome = proxy.app().reload().unwrap();
        let Verdict::Rejected(errors) = &outcome.verdict else {
            panic!("{outcome:?}")
        };
        assert!(errors[0].contains("app.pem"), "{errors:?}");
        let new = connect();
        assert_eq!(new.wire.peer().unwrap(), good);
    });
}

#[test]
fn a_listener_that_is_gone_drains_and_a_new_one_accepts() {
    play(|| {
        let backend = patient("app");
        let text = "listeners: [{ name: kept, address: \"127.0.0.1:0\" }, { name: @name, \
                    address: \"127.0.0.1:0\" }]\nroutes: [{ pool: app }]\n\
                    pools: { app: { endpoints: [\"@app\"] } }";
        let proxy = proxy::start(text, &[("name", &"old"), ("app", &backend)]);
        let (kept, gone) = (proxy.at("kept"), proxy.at("old"));
        let mut stays = Client::connect(kept);
        stays.get("/");
        let mut idle = Client::connect(gone);
        idle.get("/");
        let mut slow = Client::connect(gone);
        slow.send("GET /slow HTTP/1.1\r\nHost: app.test\r\n\r\n");
        backend.requests(3);
        proxy.rewrite(text, &[("name", &"new"), ("app", &backend)]);
        assert_eq!(proxy.at("kept"), kept);
        assert_eq!(Client::connect(proxy.at("new")).get("/").text(), "app");
        assert_eq!(stays.get("/").text(), "app");
        idle.is_closed();
        expect::eventually("the listener closed", || TcpStream::connect(gone).err());
        backend.note_written(1);
        let answer = slow.answer();
        assert_eq!(
            (answer.text(), answer.field("connection")),
            ("app", Some("close"))
        );
        slow.is_closed();
    });
}

#[test]
fn a_websocket_does_not_notice() {
    play(|| {
        let backend = backend::switches();
        let other = backend::named("other");
        let proxy = proxy::before(&[&backend]);
        let mut client = tunnel(&proxy, "/");
        for round in 0..3 {
            // Its endpoint and its pool are gone, and the route leads elsewhere.
            let text = format!(
                "routes: [{{ pool: pool{round} }}]\npools: {{ pool{round}: {{ endpoints: \
                 [\"@other\"] }} }}"
            );
            assert!(proxy.rewrite(&text, &[("other", &other)]).is_good());
            assert_eq!(proxy.client().get("/").text(), "other");
            is_alive(&mut client);
        }
    });
}

/// Opens a tunnel through the route for a path.
fn tunnel(proxy: &Proxy, path: &str) -> Client {
    let mut client = proxy.client();
    client.send(format!(
        "GET {path} HTTP/1.1\r\nHost: app.test\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
    ));
    assert_eq!(client.head().status(), 101);
    client
}

#[track_caller]
fn is_alive(client: &mut Client) {
    client.send("ping");
    assert_eq!(client.wire.exactly(4).0, b"ping");
}

#[test]
fn tunnels_of_a_route_that_is_gone_end_and_those_of_others_live_on() {
    play(|| {
        let (kept, gone) = (backend::switches(), backend::switches());
        let both = "drain: { tunnels: 200ms }\nroutes: [{ name: kept, match: { path: /kept }, pool: \
                    kept }, { name: @name, match: { path: /gone }, pool: gone }]\npools: { kept: { \
                    endpoints: [\"@kept\"] }, gone: { endpoints: [\"@gone\"] } }";
        let values = |name| {
            [
                ("name", name),
                ("kept", &kept as &dyn Display),
                ("gone", &gone),
            ]
        };
        let proxy = proxy::start(both, &values(&"old"));
        let mut lives = tunnel(&proxy, "/kept");
        let mut leaves = tunnel(&proxy, "/gone");
        // A route that only changes is the same.
        let changed = both.replace("pool: gone }", "pool: gone, timeouts: { stream: 2h } }");
        proxy.rewrite(&changed, &values(&"old"));
        is_alive(&mut leaves);
        // One by another name is another.
        proxy.rewrite(&changed, &values(&"new"));
        leaves.is_closed();
        gone.is_left_by(1);
        let record = proxy.record();
        assert_eq!(
            (&record["route"], &record["fault"]),
            (&"old".into(), &"draining".into())
        );
        is_alive(&mut lives);
        // The name has another life now: what comes by it stays.
        let mut stays = tunnel(&proxy, "/gone");
        proxy.rewrite(both, &values(&"new"));
        is_alive(&mut stays);
    });
}

#[test]
fn a_tunnel_that_begins_when_its_route_is_gone_already_ends_too() {
    play(|| {
        let backend = backend::script(|connection| {
            connection.head();
            connection.wait("leave to switch", |seen| seen.written > 0);
            connection.send(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
            );
            connection.until_closed();
        });
        let text = "drain: { tunnels: 200ms }\nroutes: [{ name: @name, pool: app }]\n\
                    pools: { app: { endpoints: [\"@app\"] } }";
        let proxy = proxy::start(text, &[("name", &"old"), ("app", &backend)]);
        let mut client = proxy.client();
        client
            .send("GET / HTTP/1.1\r\nHost: app.test\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
        backend.request();
        proxy.rewrite(text, &[("name", &"new"), ("app", &backend)]);
        backend.note_written(1);
        assert_eq!(client.head().status(), 101);
        client.is_closed();
        backend.is_left_by(1);
    });
}

#[test]
fn snapshots_are_freed_when_their_last_exchange_ends() {
    play(|| {
        let backend = patient("app");
        let text = "routes: [{ pool: app, timeouts: { response: @v } }]\n\
                    pools: { app: { endpoints: [\"@app\"] } }";
        let proxy = proxy::start(text, &[("v", &"1m"), ("app", &backend)]);
        let counts = |expected| {
            let what = format!("{expected} snapshots");
            expect::eventually(&what, || {
                (proxy.app().figures().snapshots == expected).then_some(())
            });
        };
        counts(1);
        let mut slow = proxy.client();
        slow.send("GET /slow HTTP/1.1\r\nHost: app.test\r\n\r\n");
        backend.request();
        for v in ["2m", "3m", "4m"] {
            assert!(
                proxy
                    .rewrite(text, &[("v", &v), ("app", &backend)])
                    .is_good()
            );
            proxy.client().get("/");
        }
        // The first one is held by the exchange that began on it; of those in between nothing is left.
        counts(2);
        assert_eq!(proxy.app().version(), 4);
        backend.note_written(1);
        assert_eq!(slow.answer().text(), "app");
        counts(1);
    });
}

#[test]
fn an_outcome_names_all_that_is_new_other_and_gone() {
    play(|| {
        let certs = certs::new()
            .server("kept", &["kept.test"])
            .server("other", &["other.test"])
            .server("new", &["new.test"])
            .server("old", &["old.test"]);
        let (a, b, c) = (
            backend::named("a"),
            backend::named("b"),
            backend::named("c"),
        );
        let text = "limits: { connections: @limit }\n\
                    listeners: [{ name: kept, address: \"127.0.0.1:0\" }, { name: tls, address: \
                    \"127.0.0.1:0\", tls: { certificates: [@chain(kept), @chain(other), @chain(@name)] } }, \
                    { name: @name, address: \"127.0.0.1:0\" }]\n\
                    routes: [{ name: kept, match: { path: /kept }, pool: kept }, { name: other, match: { \
                    path: /other }, respond: { status: 200 } }, { name: @name, match: { path: /@name }, \
                    pool: @name }]\n\
                    pools: { kept: { endpoints: [\"@a\"] }, other: { endpoints: [{ address: \"@a\", weight: \
                    @weight }, \"@end\"] }, @name: { endpoints: [\"@a\"] } }";
        let mut text = text.to_owned();
        for name in ["kept", "other", "@name"] {
            let files = format!("{{ cert: @certs/{name}.pem, key: @certs/{name}.key }}");
            text = text.replace(&format!("@chain({name})"), &files);
        }
        let old: [&dyn Display; 3] = [&"old", &1, &b];
        let new: [&dyn Display; 3] = [&"new", &2, &c];
        let values = |[name, number, end]: [_; 3]| {
            [
                ("name", name),
                ("limit", number),
                ("weight", number),
                ("certs", &certs as &dyn Display),
                ("a", &a),
                ("end", end),
            ]
        };
        let proxy = proxy::start(&text, &values(old));
        // What says the same once more is recognised, and so is a file that says it in other words.
        let same = [text.clone(), format!("# A comment.\n{text}")];
        for text in same {
            let outcome = proxy.rewrite(&text, &values(old));
            assert_eq!(
                (&outcome.verdict, outcome.version),
                (&Verdict::Unchanged, 1)
            );
        }
        let usage = ExtendedKeyUsagePurpose::ServerAuth;
        certs.issue(certs.folder(), "other", &["other.test"], usage);
        let changed = text.replace("status: 200", "status: 204");
        let outcome = proxy.rewrite(&changed, &values(new));
        assert_eq!((outcome.cause, outcome.version), (Cause::Asked, 2));
        let Verdict::Changed(changes) = &outcome.verdict else {
            panic!("{outcome:?}")
        };
        let expected = format!(
            "listeners +new ~tls -old; \
             certificates +{certs}/new.pem ~{certs}/other.pem -{certs}/old.pem; \
             routes +new ~other -old; \
             pools +new ~other -old; \
             endpoints +other/{c} +new/{a} ~other/{a} -other/{b} -old/{a}; \
             limits"
        );
        assert_eq!(changes.to_string(), expected);
        let figures = proxy.app().figures();
        assert_eq!((figures.version, figures.is_good), (2, true));
        assert_eq!(
            (figures.took, figures.last_good),
            (outcome.took, Some(outcome.ended))
        );
    });
}

#[test]
fn an_outcome_says_when_nothing_but_the_order_is_new() {
    play(|| {
        let [a, b] = ["a", "b"].map(|name| {
            format!("{{ name: {name}, match: {{ path: /{name} }}, respond: {{ status: 200 }} }}")
        });
        let proxy = proxy::start(&format!("routes: [{a}, {b}]"), &[]);
        let outcome = proxy.rewrite(&format!("routes: [{b}, {a}]"), &[]);
        let Verdict::Changed(changes) = &outcome.verdict else {
            panic!("{outcome:?}")
        };
        assert_eq!(
            (changes.to_string().as_str(), outcome.version),
            ("order", 2)
        );
    });
}

#[test]
fn idle_connections_survive() {
    play(|| {
        let backend = backend::echo();
        let text = "routes: [{ pool: app, filters: [{ set_request_headers: { x-v: \"@v\" } }] }]\n\
                    pools: { app: { endpoints: [\"@app\"] } }";
        let proxy = proxy::start(text, &[("v", &0), ("app", &backend)]);
        let mut client = proxy.client();
        for version in 1..5 {
            client.get("/");
            proxy.rewrite(text, &[("v", &version), ("app", &backend)]);
        }
        let values: Vec<_> = backend
            .requests(4)
            .iter()
            .map(|request| request.field("x-v").unwrap().to_owned())
            .collect();
        assert_eq!(values, ["0", "1", "2", "3"]);
        assert_eq!(backend.seen().connections, 1);
    });
}

#[test]
fn a_file_that_changes_is_taken_up_however_it_is_written() {
    play(|| {
        let (a, b) = (backend::named("a"), backend::named("b"));
        let pace = Pace {
            settle: Duration::from_millis(50),
            poll: Duration::from_secs(3600),
            hints: true,
        };
        let text = config::before(&[&a], "");
        let proxy = proxy::start_at_pace(&text, &[], pace);
        let file = proxy.folder().join("proxy.yaml");
        let taken_up = |number| {
            let changed = |outcome: &Outcome| {
                outcome.is_good() && matches!(outcome.verdict, Verdict::Changed(_))
            };
            let outcome = proxy.app().wait(number, expect::PATIENCE, changed);
            let outcome = outcome.expect("a new version");
            assert_eq!(outcome.cause, Cause::FilesChanged);
            outcome.number
        };
        let [to_a, to_b] = [&a, &b].map(|end| config::fill(&config::before(&[end], ""), &[]));
        // Written in place.
        fs::write(&file, &to_b).unwrap();
        let number = taken_up(1);
        assert_eq!(proxy.client().get("/").text(), "b");
        // Renamed over, as editors do.
        let draft = proxy.folder().join("draft");
        fs::write(&draft, &to_a).unwrap();
        fs::rename(&draft, &file).unwrap();
        let number = taken_up(number);
        assert_eq!(proxy.client().get("/").text(), "a");
        // Deleted and written again.
        fs::remove_file(&file).unwrap();
        fs::write(&file, &to_b).unwrap();
        taken_up(number);
        assert_eq!(proxy.client().get("/").text(), "b");
    });
}
