//! dnsmasq gives a name other addresses again and again under load, and the servers that left are ended: nobody notices.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::load::wrk;
use super::process::{PATIENCE, Running, pause, wait_until};
use super::proxy::{LISTENERS, Proxy, certificates, path_in};
use super::servers::{Nginx, free_address};

/// How long the load lasts: long enough for every change below on a slow machine.
const SECONDS: u64 = 20;

/// Says which address was asked.
const WHERE: &str = "location = /where { return 200 \"$server_addr\\n\"; }";

/// A DNS server with one name.
struct Dnsmasq {
    process: Running,
    address: SocketAddr,
    hosts: PathBuf,
}

impl Dnsmasq {
    fn start(folder: &Path, at: &[Ipv4Addr]) -> Self {
        let hosts = folder.join("hosts");
        write(&hosts, at);
        // Somebody may take the port that was free a moment ago.
        for _ in 0..10 {
            let address = free_address();
            let arguments = [
                "--no-daemon".to_owned(),
                "--conf-file=/dev/null".to_owned(),
                "--no-resolv".to_owned(),
                "--no-hosts".to_owned(),
                "--bind-interfaces".to_owned(),
                "--listen-address=127.0.0.1".to_owned(),
                format!("--port={}", address.port()),
                format!("--addn-hosts={}", hosts.display()),
                "--local=/internal/".to_owned(),
                "--local-ttl=1".to_owned(),
            ];
            let mut process = Running::start("dnsmasq", arguments, folder);
            wait_until(PATIENCE, || {
                let is_bound = UdpSocket::bind(address).is_err();
                (process.has_ended() || is_bound).then_some(())
            });
            if !process.has_ended() {
                return Self {
                    process,
                    address,
                    hosts,
                };
            }
            let said = process.lines().join("\n");
            assert!(
                said.contains("Address already in use"),
                "dnsmasq ended: {said}"
            );
        }
        panic!("no port for dnsmasq");
    }

    /// Has the name lead here.
    fn leads_to(&self, at: &[Ipv4Addr]) {
        write(&self.hosts, at);
        let pid = Pid::from_raw(self.process.pid().try_into().unwrap()).unwrap();
        kill_process(pid, Signal::HUP).unwrap();
    }
}

fn write(hosts: &Path, at: &[Ipv4Addr]) {
    let lines: Vec<_> = at.iter().map(|ip| format!("{ip} app.internal\n")).collect();
    fs::write(hosts, lines.concat()).unwrap();
}

#[test]
fn answers_that_change_under_load_fail_no_request() {
    let (a, b) = (Ipv4Addr::new(127, 0, 0, 1), Ipv4Addr::new(127, 0, 0, 2));
    let nginx = wait_until(PATIENCE, || {
        let port = free_address().port();
        Nginx::start_at((a, port).into(), WHERE)
    });
    let mut nginx = nginx.expect("a port for nginx");
    let port = nginx.address.port();
    let folder = certificates();
    let dns = Dnsmasq::start(folder.path(), &[a]);
    let config = format!(
        "{LISTENERS}resolvers: [ \"{}\" ]\nroutes: [ {{ pool: app }} ]\n\
         pools: {{ app: {{ endpoints: [ \"app.internal:{port}\" ] }} }}\n",
        dns.address
    );
    assert!(fs::exists(path_in(&folder, "hosts")).unwrap());
    let proxy = Proxy::start_in(folder, &config);
    let url = proxy.http("/where");
    let load = thread::spawn(move || wrk(SECONDS, 16, &url));
    let says = |words: &str, count: usize| {
        let told = || {
            let lines = proxy.lines();
            let lines = lines.iter().filter(|line| line.contains("cause=resolved"));
            let fits = lines.filter(|line| line.contains(words)).count();
            (fits >= count).then_some(())
        };
        wait_until(PATIENCE, told).unwrap_or_else(|| panic!("{words}: {:#?}", proxy.lines()));
    };
    let (mut here, mut there) = (a, b);
    for round in 0..4 {
        // A deploy: the new one joins, the old one leaves, and is ended a second later.
        let new = Nginx::start_at((there, port).into(), WHERE).expect("the port is ours");
        dns.leads_to(&[here, there]);
        says(&format!("+app/{there}:{port}"), round / 2 + 1);
        dns.leads_to(&[there]);
        says(&format!("-app/{here}:{port}"), round / 2 + 1);
        pause(Duration::from_secs(1));
        nginx = new;
        (here, there) = (there, here);
    }
    let load = load.join().unwrap();
    eprintln!(
        "{} requests while the answer changed 8 times",
        load.requests
    );
    assert_eq!(load.failures, [""; 0]);
    assert!(load.requests > 0);
    // wrk ends in the middle of its last requests.
    let mut faults = proxy.faults();
    faults.retain(|record| record["fault"] != "client_gone");
    assert!(faults.is_empty(), "{faults:#?}");
    assert!(!nginx.connections("/where", 1).is_empty());
}
