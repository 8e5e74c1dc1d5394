//! Under load, the config is rewritten every second and the binary started anew again and again, and nobody notices.
//!
//! `LOCKGATE_RELOAD_SECONDS` is how long both go on (40; 20 at least): with 600, that is ten minutes and an upgrade a
//! minute. What comes before, to compare with, takes half as long.

use std::fs;
use std::thread;
use std::time::Duration;

use lockgate::base::clock;
use lockgate::cli;

use super::h2::browse;
use super::load::{Load, h2load, wrk};
use super::process::{PATIENCE, PYTHON, Running, pause, run_with, script, wait_until};
use super::proxy::{LISTENERS, Proxy, certificates};
use super::servers::{Nginx, Server};

/// Those that are there from the start, and those that come after each upgrade.
const SOCKETS: usize = 200;
const SOCKETS_MORE: usize = 20;

#[test]
fn reloads_and_upgrades_under_load_fail_no_request_and_cut_no_connection() {
    let seconds = seconds();
    let (calm, reloads) = (seconds / 8, seconds / 4);
    let (one, two) = (origin(), origin());
    let echo = Server::python("websocket.py", &["serve"]);
    let folder = certificates();
    fs::create_dir(folder.path().join("sites")).unwrap();
    let config = Config::new(&one, &two, &echo);
    fs::write(folder.path().join("sites/shop.yaml"), &config.site).unwrap();
    let proxy = Proxy::start_in(folder, &config.main);
    let mut changes = Changes {
        proxy: &proxy,
        config: &config,
        written: 0,
    };
    let first = open_sockets(&proxy, SOCKETS, 2 * calm + reloads + seconds + 5);
    let opened = || {
        let lines = first.lines();
        let open = lines.iter().filter(|line| line.starts_with("open "));
        (open.count() == SOCKETS).then_some(())
    };
    wait_until(PATIENCE, opened).unwrap_or_else(|| panic!("{:?}", first.lines()));
    let mut sockets = vec![first];

    under(tools(&proxy, calm), "in calm", || {});
    let before = proxy.resident_memory();
    under(tools(&proxy, reloads), "under reloads", || {
        changes.go_on(reloads, || {});
    });
    let after = proxy.resident_memory();
    let written = changes.written;
    eprintln!("resident memory: {before} KiB, after {written} rewrites {after} KiB");

    under(browsers(&proxy, calm), "in calm", || {});
    let pace = Duration::from_secs((seconds / 10).max(10));
    let end = clock::now() + Duration::from_secs(seconds);
    let mut next = clock::now() + pace;
    let when = "under reloads and upgrades";
    under(browsers(&proxy, seconds), when, || {
        changes.go_on(seconds, || {
            if clock::now() > next {
                next += pace;
                proxy.upgrade();
                let rest = end.saturating_duration_since(clock::now());
                sockets.push(open_sockets(&proxy, SOCKETS_MORE, rest.as_secs()));
            }
        });
    });

    for (upgrades, sockets) in sockets.iter_mut().enumerate() {
        let end = sockets.says(&["alive "]);
        eprintln!("WebSockets opened after {upgrades} upgrades: {end}");
        let wanted = if upgrades == 0 { SOCKETS } else { SOCKETS_MORE };
        let are_all = end.starts_with(&format!("alive {wanted} "));
        assert!(are_all, "{:?}", sockets.lines());
    }
    assert_outcomes(&proxy.lines(), changes.written, sockets.len() - 1);
}

fn seconds() -> u64 {
    let told = cli::env("LOCKGATE_RELOAD_SECONDS");
    told.map_or(40, |told| told.parse().unwrap())
}

fn origin() -> Nginx {
    Nginx::start("access_log off; location = /shop { return 200 'shop'; }")
}

/// A load and its name.
type Work<'a> = (&'static str, Box<dyn FnOnce() -> Load + Send + 'a>);

/// What ends its HTTP/2 connections in its own time only, and connections that the client would never open again.
fn tools(proxy: &Proxy, seconds: u64) -> Vec<Work<'_>> {
    vec![
        over_1(proxy, seconds),
        (
            "h2load",
            Box::new(move || h2load(seconds, &["-c16", "-m16"], &proxy.https("/"))),
        ),
        (
            "kept connections",
            Box::new(move || keep_alive(proxy, seconds)),
        ),
    ]
}

/// What opens other connections when it is told to.
fn browsers(proxy: &Proxy, seconds: u64) -> Vec<Work<'_>> {
    // The site goes on while its file is broken.
    let over_2 = move || browse(seconds, proxy, &["/", "/shop"]);
    vec![over_1(proxy, seconds), ("HTTP/2", Box::new(over_2))]
}

fn over_1(proxy: &Proxy, seconds: u64) -> Work<'_> {
    ("wrk", Box::new(move || wrk(seconds, 64, &proxy.https("/"))))
}

/// Puts all of it on the proxy, and does something meanwhile.
#[track_caller]
fn under(loads: Vec<Work<'_>>, when: &str, meanwhile: impl FnOnce()) {
    let ended = thread::scope(|scope| {
        let start = |(name, load)| (name, scope.spawn(load));
        let running: Vec<_> = loads.into_iter().map(start).collect();
        meanwhile();
        let end = |(name, load): (_, thread::ScopedJoinHandle<'_, Load>)| (name, load.join());
        running.into_iter().map(end).collect::<Vec<_>>()
    });
    for (name, load) in ended {
        load.unwrap().assert_flawless(&format!("{name} {when}"), 50);
    }
}

/// So many WebSockets, on which something is said and comes back every second for so many seconds.
fn open_sockets(proxy: &Proxy, count: usize, seconds: u64) -> Running {
    let talk = script("websocket.py");
    let url = proxy.https("/live").replacen("http", "ws", 1);
    let ca = proxy.file("ca.pem");
    let (count, life) = (count.to_string(), seconds.to_string());
    let arguments = [
        talk.to_str().unwrap(),
        "talk",
        &url,
        &ca,
        &count,
        &life,
        "1",
    ];
    Running::start(PYTHON, arguments, proxy.folder())
}

/// Connections that the client would never open again: wrk and h2load would do so quietly.
fn keep_alive(proxy: &Proxy, seconds: u64) -> Load {
    let client = script("keepalive.py");
    let (port, ca) = (proxy.web.port().to_string(), proxy.file("ca.pem"));
    let told = seconds.to_string();
    let arguments = [client.to_str().unwrap(), &port, &ca, "10", &told];
    let limit = PATIENCE + Duration::from_secs(seconds);
    let said = run_with(PYTHON, arguments, "", limit).ok();
    let answers = said.trim().rsplit(' ').next().unwrap();
    let are_all = said.starts_with("kept 10 ");
    Load {
        requests: answers.parse().unwrap(),
        failures: (!are_all).then(|| said.clone()).into_iter().collect(),
        times: String::new(),
    }
}

/// What is written in turn.
struct Config {
    main: String,
    site: String,
}

impl Config {
    fn new(one: &Nginx, two: &Nginx, echo: &Server) -> Self {
        let quiet = LISTENERS.replace("{ path: access.log }", "off");
        let main = format!(
            "{quiet}
include: sites/*.yaml
routes:
  - pool: app
  - {{ match: {{ path: /live }}, pool: echo }}
pools:
  echo: {{ endpoints: [ '{}' ] }}
  app:
    endpoints:
      - {{ address: {}, weight: 1 }}
      - {{ address: {}, weight: 1 }}
",
            echo.address, one.address, two.address
        );
        let site = format!(
            "routes: [ {{ match: {{ path: /shop }}, pool: shop }} ]
pools: {{ shop: {{ endpoints: [ '{}' ] }} }}
",
            two.address
        );
        Self { main, site }
    }

    fn weights(&self) -> String {
        self.main.replacen("weight: 1", "weight: 3", 1)
    }

    fn fewer_endpoints(&self) -> String {
        let (rest, _) = self.main.trim_end().rsplit_once('\n').unwrap();
        format!("{rest}\n")
    }

    fn one_more_route(&self) -> String {
        let extra = "\n  - { name: extra, match: { path: /extra }, respond: { status: 204 } }";
        self.main.replace("\nroutes:", &format!("\nroutes:{extra}"))
    }

    fn one_more_listener(&self) -> String {
        let more = "listeners:\n  - { name: more, address: 127.0.0.1:0 }";
        self.main.replace("listeners:", more)
    }

    fn broken(&self) -> String {
        self.main.replace("pool: app", "pool: ap")
    }

    fn broken_site(&self) -> String {
        self.site.replace("pool: shop", "pool: ship")
    }
}

/// One rewrite after the other; each takes back the one before.
struct Changes<'a> {
    proxy: &'a Proxy,
    config: &'a Config,
    written: usize,
}

impl Changes<'_> {
    /// Goes on for so many seconds with a rewrite in each, and does something more while all is well.
    fn go_on(&mut self, seconds: u64, mut when_whole: impl FnMut()) {
        let begun = clock::now();
        for second in 1..=seconds {
            if self.rewrite() {
                when_whole();
            }
            let due = begun + Duration::from_secs(second);
            pause(due.saturating_duration_since(clock::now()));
        }
    }

    /// Whether it left everything whole.
    fn rewrite(&mut self) -> bool {
        let (proxy, config) = (self.proxy, self.config);
        let turn = self.written % 8;
        self.written += 1;
        match turn {
            0 => proxy.write(&config.weights()),
            1 => proxy.write(&config.fewer_endpoints()),
            2 => proxy.write(&config.one_more_route()),
            3 => {
                proxy.write(&config.main);
                self.swap_certificates();
            }
            4 => proxy.write(&config.one_more_listener()),
            5 => proxy.write(&config.broken()),
            6 => {
                proxy.write(&config.main);
                self.write_site(&config.broken_site());
            }
            _ => self.write_site(&config.site),
        }
        turn == 7
    }

    /// As tools that renew certificates do.
    fn swap_certificates(&self) {
        for kind in ["pem", "key"] {
            let name = |name: &str| self.proxy.file(&format!("{name}.{kind}"));
            let (used, unused, aside) = (name("localhost"), name("renewed"), name("aside"));
            fs::copy(&used, &aside).unwrap();
            fs::rename(&unused, &used).unwrap();
            fs::rename(&aside, &unused).unwrap();
        }
    }

    fn write_site(&self, text: &str) {
        fs::write(self.proxy.file("sites/shop.yaml"), text).unwrap();
    }
}

/// What was written came into force, or was refused where it had to be, and each kind of change was seen.
fn assert_outcomes(lines: &[String], written: usize, upgrades: usize) {
    let all = lines.join("\n");
    let count = |word: &str| lines.iter().filter(|line| line.contains(word)).count();
    let (in_force, refused) = (count("a new version is in force"), count("refused: "));
    let (frozen, unchanged) = (count("a site is frozen"), count("nothing to change"));
    eprintln!(
        "{written} rewrites: {in_force} came into force, {refused} were refused, {frozen} froze the site, \
         {unchanged} changed nothing; {upgrades} upgrades"
    );
    // On a busy machine two rewrites may come to one reload.
    assert!(
        in_force * 3 >= written,
        "{in_force} of {written} in force: {all}"
    );
    let changes = [
        "pools ~app",
        " -app/",
        " +app/",
        "+extra",
        "-extra",
        "certificates ~localhost.pem",
        "listeners +more",
        "listeners -more",
        "refused: ",
        "a site is frozen",
    ];
    for change in changes {
        assert!(count(change) > 0, "{change} is not in\n{all}");
    }
    assert!(refused <= written.div_ceil(8), "{refused} refused: {all}");
    assert!(upgrades > 0, "no upgrade: {all}");
    assert_eq!(count("the next process serves"), upgrades, "{all}");
    for fault in ["the upgrade failed", " cut: ", "panicked"] {
        assert_eq!(count(fault), 0, "{all}");
    }
}
