//! Every recipe under `examples/` runs as it stands, but for its ports, and shows what it is for.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use http::Request;
use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};

use crate::harness::backend::Backend;
use crate::harness::certs::{self, Certs};
use crate::harness::client::Client;
use crate::harness::h2::{self, Pieces};
use crate::harness::proxy::{self, Proxy};
use crate::harness::wire::Message;
use crate::harness::{backend, dns, play};

/// The recipes that have a case here.
const TRIED: [&str; 21] = [
    "cache-by-path",
    "canary",
    "discovery",
    "grpc",
    "health",
    "least-connections",
    "maintenance",
    "mirror",
    "mtls",
    "overload",
    "rate-limits",
    "redirect",
    "retries",
    "site-files",
    "sticky-sessions",
    "tiers",
    "two-sites",
    "unix-socket",
    "upstream-tls",
    "web-app",
    "websocket",
];

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

/// A recipe on its way: its text, and the folder with its certificates.
struct Recipe {
    text: String,
    folder: tempfile::TempDir,
    certs: Certs,
}

/// The recipe, listening where the system wants: on `tls` what says 8443, on `clear` what says 8080.
fn recipe(name: &str) -> Recipe {
    let text = fs::read_to_string(examples().join(name).join("proxy.yaml")).unwrap();
    let text = text
        .replace(
            "- address: 127.0.0.1:8443",
            "- name: tls\n    address: 127.0.0.1:0",
        )
        .replace(
            "- address: 127.0.0.1:8080",
            "- name: clear\n    address: 127.0.0.1:0",
        );
    assert!(text.contains("name: tls"), "{name} has no listener on 8443");
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("certs")).unwrap();
    let sites = examples().join(name).join("sites");
    for site in fs::read_dir(&sites).into_iter().flatten() {
        let site = site.unwrap();
        fs::create_dir_all(folder.path().join("sites")).unwrap();
        fs::copy(
            site.path(),
            folder.path().join("sites").join(site.file_name()),
        )
        .unwrap();
    }
    let certs = certs::new();
    fs::write(folder.path().join("certs/ca.pem"), certs.ca()).unwrap();
    let recipe = Recipe {
        text,
        folder,
        certs,
    };
    let names = ["localhost", "old.localhost", "new.localhost"];
    recipe.server("localhost", &names)
}

impl Recipe {
    fn server(self, file: &str, names: &[&str]) -> Self {
        let folder = self.folder.path().join("certs");
        self.certs.issue(&folder, file, names, ServerAuth);
        self
    }

    fn endpoint(mut self, written: &str, backend: &Backend) -> Self {
        assert!(
            self.text.contains(written),
            "{written} is not in the recipe"
        );
        self.text = self.text.replace(written, &backend.to_string());
        self
    }

    /// The same with an address that refuses connections.
    fn endpoint_refusing(mut self, written: &str) -> Self {
        assert!(
            self.text.contains(written),
            "{written} is not in the recipe"
        );
        self.text = self.text.replace(written, &backend::refuses().to_string());
        self
    }

    /// The same as `endpoint` for one of a site.
    fn endpoint_of(self, site: &str, written: &str, backend: &Backend) -> Self {
        let file = self.folder.path().join("sites").join(site);
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains(written), "{written} is not in {site}");
        fs::write(file, text.replace(written, &backend.to_string())).unwrap();
        self
    }

    fn start(self) -> Running {
        let Self {
            text,
            folder,
            certs,
        } = self;
        Running {
            proxy: proxy::start_in(folder, &text),
            certs,
        }
    }
}

struct Running {
    proxy: Proxy,
    certs: Certs,
}

impl Running {
    fn client(&self, host: &str) -> Client {
        let config = self.certs.trusting(&["http/1.1"]);
        Client::tls(self.proxy.at("tls"), &config, host)
    }

    fn get(&self, host: &str, target: &str) -> Message {
        self.ask(host, target, "")
    }

    fn ask(&self, host: &str, target: &str, fields: &str) -> Message {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n");
        self.client(host).ask(&request)
    }
}

#[test]
fn every_recipe_is_tried() {
    let there: BTreeSet<_> = fs::read_dir(examples())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("proxy.yaml").exists())
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(there, TRIED.map(str::to_owned).into());
}

#[test]
fn web_app() {
    play(|| {
        let app = backend::named("app");
        let run = recipe("web-app").endpoint("127.0.0.1:3000", &app).start();
        assert_eq!(run.get("localhost", "/").text(), "app");
        assert_eq!(app.request().field("x-forwarded-proto"), Some("https"));
        let answer = Client::connect(run.proxy.at("clear")).get("/a");
        assert_eq!(answer.status(), 308);
        assert!(
            answer
                .field("location")
                .unwrap()
                .starts_with("https://app.test")
        );
        let config = run.certs.trusting(&["h2"]);
        let mut client = h2::Client::tls(run.proxy.at("tls"), &config, "localhost");
        assert_eq!(client.get("https://localhost/").text(), "app");
    });
}

#[test]
fn site_files() {
    play(|| {
        let (shop, blog) = (backend::named("shop"), backend::named("blog"));
        let run = recipe("site-files")
            .endpoint_of("shop.yaml", "127.0.0.1:3001", &shop)
            .endpoint_of("blog.yaml", "127.0.0.1:3002", &blog)
            .start();
        assert_eq!(run.get("new.localhost", "/").text(), "shop");
        assert_eq!(run.get("old.localhost", "/").text(), "blog");
        assert_eq!(run.get("localhost", "/").text(), "no such site\n");
        let file = run.proxy.folder().join("sites/shop.yaml");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, format!("{text}routes: [\n")).unwrap();
        let outcome = run.proxy.app().reload().unwrap();
        assert_eq!(outcome.sites.len(), 1);
        assert_eq!(run.get("new.localhost", "/").text(), "shop");
    });
}

#[test]
fn two_sites() {
    play(|| {
        let (shop, images, blog) = (
            backend::named("shop"),
            backend::named("images"),
            backend::named("blog"),
        );
        let run = recipe("two-sites")
            .server("shop", &["shop.localhost"])
            .server("blog", &["blog.localhost", "*.blog.localhost"])
            .endpoint("127.0.0.1:3001", &shop)
            .endpoint("127.0.0.1:3002", &images)
            .endpoint("127.0.0.1:3003", &blog)
            .start();
        assert_eq!(run.get("shop.localhost", "/").text(), "shop");
        assert_eq!(run.get("shop.localhost", "/images/x").text(), "images");
        assert_eq!(run.get("blog.localhost", "/images/x").text(), "blog");
        assert_eq!(run.get("me.blog.localhost", "/").text(), "blog");
    });
}

#[test]
fn canary() {
    play(|| {
        let (one, two, next) = (
            backend::named("one"),
            backend::named("two"),
            backend::named("next"),
        );
        let run = recipe("canary")
            .endpoint("127.0.0.1:3001", &one)
            .endpoint("127.0.0.1:3002", &two)
            .endpoint("127.0.0.1:3003", &next)
            .start();
        let by_header = run.ask("localhost", "/", "X-Canary: 1\r\n");
        assert_eq!(by_header.text(), "next");
        assert_eq!(by_header.field("x-served-by"), Some("next"));
        assert_eq!(run.get("localhost", "/?canary=1").text(), "next");
        let with_place = |place: &str| {
            let cookie = format!("X-Canary: 0\r\nCookie: lockgate_cohort={place}\r\n");
            run.ask("localhost", "/", &cookie).text().to_owned()
        };
        assert_eq!(with_place("01000"), "next");
        assert_ne!(with_place("f1000"), "next");
        let newcomer = run.get("localhost", "/");
        assert!(
            newcomer
                .field("set-cookie")
                .unwrap()
                .starts_with("lockgate_cohort=")
        );
    });
}

#[test]
fn discovery() {
    play(|| {
        let dns = dns::start();
        let (one, two) = (backend::named("one"), backend::named("two"));
        let port = |backend: &Backend| {
            let address: SocketAddr = backend.to_string().parse().unwrap();
            address.port()
        };
        dns.host("node.internal", &["127.0.0.1"], 1);
        let records = [
            (0, 3, port(&one), "node.internal"),
            (0, 1, port(&two), "node.internal"),
        ];
        dns.service("_http._tcp.app.internal", &records, 1);
        let mut recipe = recipe("discovery");
        assert!(recipe.text.contains("127.0.0.1:5353"));
        recipe.text = recipe.text.replace("127.0.0.1:5353", &dns.to_string());
        let run = recipe.start();
        let answers = (0..8).map(|_| run.get("localhost", "/").text().to_owned());
        let answers: Vec<_> = answers.collect();
        let count = |name: &str| answers.iter().filter(|said| *said == name).count();
        assert_eq!((count("one"), count("two")), (6, 2), "{answers:?}");
    });
}

#[test]
fn mirror() {
    play(|| {
        let (app, next) = (backend::named("app"), backend::named("next"));
        let run = recipe("mirror")
            .endpoint("127.0.0.1:3001", &app)
            .endpoint("127.0.0.1:3002", &next)
            .start();
        for _ in 0..8 {
            assert_eq!(run.get("localhost", "/").text(), "app");
        }
        let copies = next.requests(3);
        assert_eq!(copies[0].field("x-lockgate-mirror"), Some("1"));
    });
}

#[test]
fn grpc() {
    play(|| {
        let greeter = h2::backend(|_| h2::said("serving", &[("grpc-status", "0")]));
        let run = recipe("grpc").endpoint("127.0.0.1:50051", &greeter).start();
        let config = run.certs.trusting(&["h2"]);
        let mut client = h2::Client::tls(run.proxy.at("tls"), &config, "localhost");
        let request = Request::post("https://localhost/grpc.health.v1.Health/Check")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Pieces::of("ask", &[]));
        let answer = client.ask(request.unwrap());
        assert_eq!(answer.text(), "serving");
        assert_eq!(answer.trailers, [("grpc-status".into(), "0".into())]);
    });
}

#[test]
fn least_connections() {
    play(|| {
        let (one, two) = (backend::named("one"), backend::named("two"));
        let run = recipe("least-connections")
            .endpoint("127.0.0.1:3001", &one)
            .endpoint("127.0.0.1:3002", &two)
            .start();
        for _ in 0..12 {
            assert_eq!(run.get("localhost", "/").status(), 200);
        }
        assert!(!one.seen().requests.is_empty());
        assert!(!two.seen().requests.is_empty());
    });
}

#[test]
fn cache_by_path() {
    play(|| {
        let caches = ["one", "two", "three"].map(backend::named);
        let mut recipe = recipe("cache-by-path");
        for (port, cache) in (3001..).zip(&caches) {
            recipe = recipe.endpoint(&format!("127.0.0.1:{port}"), cache);
        }
        let run = recipe.start();
        let said = || {
            let paths = (0..30).map(|path| format!("/{path}"));
            paths.map(|path| run.get("localhost", &path).text().to_owned())
        };
        let first: Vec<_> = said().collect();
        assert_eq!(first, said().collect::<Vec<_>>());
        let used: BTreeSet<_> = first.iter().collect();
        assert_eq!(used.len(), 3);
        assert_eq!(run.get("localhost", "/reports/1").status(), 200);
    });
}

#[test]
fn sticky_sessions() {
    play(|| {
        let [one, two] = ["one", "two"].map(backend::named);
        let run = recipe("sticky-sessions")
            .endpoint("127.0.0.1:3001", &one)
            .endpoint("127.0.0.1:3002", &two)
            .start();
        let first = run.get("localhost", "/");
        let cookie = first.field("set-cookie").unwrap();
        assert!(cookie.ends_with("; Secure"), "{cookie}");
        let (cookie, _) = cookie.split_once(';').unwrap();
        for _ in 0..4 {
            let again = run.ask("localhost", "/", &format!("Cookie: {cookie}\r\n"));
            assert_eq!(again.text(), first.text());
        }
    });
}

#[test]
fn tiers() {
    play(|| {
        let [here, there, backup] = ["here", "there", "backup"].map(backend::named);
        let run = recipe("tiers")
            .endpoint("127.0.0.1:3001", &here)
            .endpoint("127.0.0.1:3002", &there)
            .endpoint("127.0.0.1:3003", &backup)
            .start();
        for _ in 0..6 {
            assert_eq!(run.get("localhost", "/").text(), "here");
        }
    });
}

#[test]
fn maintenance() {
    play(|| {
        let app = backend::named("app");
        let run = recipe("maintenance")
            .endpoint("127.0.0.1:3000", &app)
            .start();
        let everybody = run.get("localhost", "/");
        assert_eq!(
            (everybody.status(), everybody.field("retry-after")),
            (503, Some("600"))
        );
        assert!(everybody.text().contains("Back soon"));
        assert_eq!(run.get("localhost", "/healthz").text(), "ok\n");
        assert_eq!(
            run.ask("localhost", "/", "X-Team: let-me-in\r\n").text(),
            "app"
        );
    });
}

#[test]
fn mtls() {
    play(|| {
        let app = backend::named("app");
        let recipe = recipe("mtls").endpoint("127.0.0.1:3000", &app);
        let certs = recipe.certs.folder().to_owned();
        recipe.certs.issue(&certs, "alice", &[], ClientAuth);
        let run = recipe.start();
        let config = run.certs.showing("alice", &["http/1.1"]);
        let mut alice = Client::tls(run.proxy.at("tls"), &config, "localhost");
        let answer = alice.ask("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(answer.text(), "app");
        let subject = app.request();
        assert!(
            subject
                .field("x-client-cert-subject")
                .unwrap()
                .contains("alice")
        );
        let config = run.certs.trusting(&["http/1.1"]);
        if let Ok(mut stranger) = Client::try_tls(run.proxy.at("tls"), &config, "localhost") {
            stranger.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
            assert_eq!(stranger.rest().0, "");
        }
    });
}

#[test]
fn redirect() {
    play(|| {
        let app = backend::named("app");
        let run = recipe("redirect").endpoint("127.0.0.1:3000", &app).start();
        let moved = run.get("old.localhost", "/a?b=c");
        assert_eq!(moved.status(), 308);
        assert_eq!(
            moved.field("location"),
            Some("https://new.localhost:8443/a?b=c")
        );
        let help = run.get("new.localhost", "/help?x");
        assert_eq!(help.status(), 302);
        assert_eq!(
            help.field("location"),
            Some("https://new.localhost:8443/docs/?x")
        );
        assert_eq!(run.get("new.localhost", "/").text(), "app");
        assert_eq!(
            Client::connect(run.proxy.at("clear")).get("/").status(),
            308
        );
    });
}

#[test]
fn unix_socket() {
    play(|| {
        let folder = tempfile::tempdir().unwrap();
        let app = backend::unix(&folder.path().join("app.sock"), backend::echoes);
        let run = recipe("unix-socket")
            .endpoint("unix:/tmp/lockgate-app.sock", &app)
            .start();
        assert_eq!(run.get("localhost", "/").status(), 200);
        assert_eq!(app.request().field("host"), Some("localhost"));
    });
}

#[test]
fn upstream_tls() {
    play(|| {
        let recipe = recipe("upstream-tls");
        let folder = recipe.folder.path().join("certs");
        recipe.certs.issue(&folder, "lockgate", &[], ClientAuth);
        let kept = recipe.certs.folder().to_owned();
        recipe
            .certs
            .issue(&kept, "app", &["app.internal"], ServerAuth);
        let app = backend::tls(recipe.certs.demanding("app", &[]), backend::echoes);
        let run = recipe.endpoint("127.0.0.1:3443", &app).start();
        assert_eq!(run.get("localhost", "/").status(), 200);
        assert_eq!(app.seen().requests.len(), 1);
    });
}

#[test]
fn websocket() {
    play(|| {
        let switches = || {
            backend::script(|connection| {
                connection.head();
                connection.send(
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                     Upgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\nhello",
                );
                connection.until_closed();
            })
        };
        let (one, two) = (switches(), switches());
        let run = recipe("websocket")
            .endpoint("127.0.0.1:3001", &one)
            .endpoint("127.0.0.1:3002", &two)
            .start();
        let mut client = run.client("localhost");
        client.send(
            "GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n\r\n",
        );
        assert_eq!(client.head().status(), 101);
        assert_eq!(client.wire.exactly(5).0, b"hello");
    });
}

#[test]
fn overload_serves_a_crowd_and_keeps_reports_to_two_at_a_time() {
    play(|| {
        let holds = || {
            backend::script(|connection| {
                while let Some(request) = connection.request() {
                    if request.target().starts_with("/reports/") {
                        connection.wait("leave", |seen| seen.written > 0);
                    }
                    connection.ok("ok");
                }
            })
        };
        let (one, two, next) = (holds(), holds(), backend::named("next"));
        let run = recipe("overload")
            .endpoint("127.0.0.1:3001", &one)
            .endpoint("127.0.0.1:3002", &two)
            .endpoint("127.0.0.1:3003", &next)
            .start();
        let mut reports: Vec<_> = (0..2).map(|_| run.client("localhost")).collect();
        for report in &mut reports {
            report.send("GET /reports/1 HTTP/1.1\r\nHost: localhost\r\n\r\n");
        }
        one.requests(1);
        two.requests(1);
        assert_eq!(run.get("localhost", "/reports/2").status(), 503);
        std::thread::scope(|scope| {
            for mut client in (0..20).map(|_| run.client("localhost")) {
                scope.spawn(move || {
                    let answer = client.ask("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
                    assert_eq!(answer.status(), 200);
                });
            }
        });
        one.note_written(1);
        two.note_written(1);
        for report in &mut reports {
            assert_eq!(report.answer().status(), 200);
        }
    });
}

#[test]
fn health_passes_over_the_app_that_is_away() {
    play(|| {
        let app = backend::named("app");
        let running = recipe("health")
            .endpoint("127.0.0.1:3001", &app)
            .endpoint_refusing("127.0.0.1:3002")
            .start();
        for _ in 0..6 {
            assert_eq!(running.get("localhost", "/").text(), "app");
        }
        assert!(app.requests(1).iter().any(|one| one.target() == "/whoami"));
    });
}

#[test]
fn retries_ask_the_app_that_answers() {
    play(|| {
        let (stalls, app) = (backend::stalls(), backend::echo());
        let running = recipe("retries")
            .endpoint("127.0.0.1:3001", &stalls)
            .endpoint("127.0.0.1:3002", &app)
            .start();
        for _ in 0..2 {
            assert_eq!(running.get("localhost", "/whoami").status(), 200);
        }
        let order =
            "POST /api/orders HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\norder";
        for _ in 0..2 {
            let answer = running.client("localhost").ask(order);
            assert!(answer.text().ends_with("order"), "{}", answer.text());
        }
        assert!(!stalls.seen().requests.is_empty());
    });
}

#[test]
fn rate_limits_serve_one_client_while_another_gets_429() {
    play(|| {
        let app = backend::named("app");
        let run = recipe("rate-limits")
            .endpoint("127.0.0.1:3001", &app)
            .start();
        let ask = |client: &str| {
            let fields = format!("X-Forwarded-For: {client}\r\n");
            run.ask("localhost", "/", &fields)
        };
        let greedy: Vec<_> = (0..120).map(|_| ask("192.0.2.1").status()).collect();
        assert!(greedy.contains(&200) && greedy.contains(&429), "{greedy:?}");
        assert_eq!(ask("192.0.2.2").status(), 200);
        assert_eq!(ask("2001:db8::1").status(), 200);
    });
}
