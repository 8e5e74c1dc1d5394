//! The real binary as the tests here drive it: a folder with certificates and a config, and where it listens.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use lockgate::cli;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::process::{PATIENCE, Running, run, wait_until};

/// A listener with TLS and one in clear, and everything that happens in a file.
pub(crate) const LISTENERS: &str = "
access_log: { path: access.log }
listeners:
  - name: web
    address: 127.0.0.1:0
    tls: { certificates: [ { cert: localhost.pem, key: localhost.key } ] }
  - { name: plain, address: 127.0.0.1:0 }
";

/// A proxy that runs, in a folder that goes with it.
pub(crate) struct Proxy {
    process: Running,
    folder: TempDir,
    pub(crate) web: SocketAddr,
    pub(crate) plain: SocketAddr,
}

impl Proxy {
    /// Starts with [`LISTENERS`] and what is given besides.
    pub(crate) fn start(routes_and_pools: &str) -> Self {
        Self::start_in(certificates(), &format!("{LISTENERS}{routes_and_pools}"))
    }

    /// Starts with one pool of these endpoints, and all requests going there.
    pub(crate) fn before(endpoints: &[SocketAddr]) -> Self {
        Self::start(&format!("routes: [ {{ pool: app }} ]\n{}", pool(endpoints)))
    }

    /// Starts in a folder that has the certificates; the config has the listeners `web` and `plain`.
    pub(crate) fn start_in(folder: TempDir, config: &str) -> Self {
        fs::write(folder.path().join("proxy.yaml"), config).unwrap();
        let mut process =
            Running::start(binary(), ["run", "--socket", "admin.sock"], folder.path());
        process.says(&["ready", "version=1"]);
        let (web, plain) = (listens(&mut process, "web"), listens(&mut process, "plain"));
        Self {
            process,
            folder,
            web,
            plain,
        }
    }

    /// The URL of a path at the listener with TLS.
    pub(crate) fn https(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.web.port())
    }

    /// The URL of a path at the listener in clear.
    pub(crate) fn http(&self, path: &str) -> String {
        format!("http://localhost:{}{path}", self.plain.port())
    }

    /// The path of a file in its folder, as an argument.
    pub(crate) fn file(&self, name: &str) -> String {
        path_in(&self.folder, name)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes the config anew, in place.
    pub(crate) fn write(&self, config: &str) {
        fs::write(self.folder.path().join("proxy.yaml"), config).unwrap();
    }

    /// What it has said on standard error, and its successors.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.process.lines()
    }

    /// Has the binary started anew, and waits until the new process serves.
    #[track_caller]
    pub(crate) fn upgrade(&self) {
        let socket = self.file("admin.sock");
        let said = run(binary().to_str().unwrap(), ["upgrade", "--socket", &socket]);
        let told = said.ok();
        assert!(told.contains("serves"), "{told}");
    }

    /// The most memory it has had, in KiB.
    pub(crate) fn peak_memory(&self) -> u64 {
        self.status("VmHWM:")
    }

    /// The memory that is resident now, in KiB.
    pub(crate) fn resident_memory(&self) -> u64 {
        self.status("VmRSS:")
    }

    fn status(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with(field));
        let number = line.unwrap().split_whitespace().nth(1).unwrap();
        number.parse().unwrap()
    }

    /// Waits for a line of the access log that `is_wanted`.
    #[track_caller]
    pub(crate) fn record(&self, is_wanted: impl Fn(&Value) -> bool) -> Value {
        wait_until(PATIENCE, || self.records().into_iter().find(&is_wanted))
            .unwrap_or_else(|| panic!("not in the access log: {:#?}", self.records()))
    }

    /// The lines of the access log so far that tell of a fault.
    pub(crate) fn faults(&self) -> Vec<Value> {
        let mut records = self.records();
        records.retain(|record| record.get("fault").is_some());
        records
    }

    fn records(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.folder.path().join("access.log")).unwrap();
        // The last line may still be on its way.
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        for line in self.lines() {
            let Some((_, pid)) = line.split_once("the next process is started pid=") else {
                continue;
            };
            let pid = pid.split(' ').next().and_then(|pid| pid.parse().ok());
            let Some(pid) = pid.and_then(Pid::from_raw) else {
                continue;
            };
            // The number may be another process's by now.
            let folder = fs::read_link(format!("/proc/{}/cwd", pid.as_raw_nonzero()));
            if folder.is_ok_and(|folder| folder == self.folder()) {
                // It may have ended just now.
                kill_process(pid, Signal::KILL).ok();
            }
        }
    }
}

/// The binary under test.
pub(crate) fn binary() -> PathBuf {
    let other = cli::env("LOCKGATE_PEERS_BINARY");
    other.map_or_else(|| env!("CARGO_BIN_EXE_lockgate").into(), PathBuf::from)
}

/// A pool `app` of these endpoints.
pub(crate) fn pool(endpoints: &[SocketAddr]) -> String {
    let endpoints: Vec<_> = endpoints.iter().map(ToString::to_string).collect();
    format!("pools: {{ app: {{ endpoints: {endpoints:?} }} }}\n")
}

pub(crate) fn path_in(folder: &TempDir, name: &str) -> String {
    folder.path().join(name).to_str().unwrap().to_owned()
}

/// A folder with an authority's `ca.pem`, and certificates with keys for `localhost`, for the same name again
/// (`renewed`) and the client `alice`, all made by openssl.
pub(crate) fn certificates() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| path_in(&folder, name);
    let key = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ];
    let request = |more: &[&str]| {
        let arguments = [&["req"][..], &key, more].concat();
        run("openssl", arguments).ok();
    };
    let (ca, ca_key) = (file("ca.pem"), file("ca.key"));
    request(&[
        "-x509",
        "-days",
        "2",
        "-subj",
        "/CN=Peers",
        "-out",
        &ca,
        "-keyout",
        &ca_key,
    ]);
    let leaves = [
        ("localhost", "serverAuth", "DNS:localhost,IP:127.0.0.1"),
        ("renewed", "serverAuth", "DNS:localhost,IP:127.0.0.1"),
        ("alice", "clientAuth", "email:alice@example.com"),
    ];
    for (name, usage, names) in leaves {
        let (cert, key) = (file(&format!("{name}.pem")), file(&format!("{name}.key")));
        let (csr, ext) = (file("csr"), file("ext"));
        let subject = format!("/O=Peers/CN={name}");
        request(&["-new", "-subj", &subject, "-out", &csr, "-keyout", &key]);
        let extensions = format!(
            "basicConstraints=critical,CA:FALSE\nextendedKeyUsage={usage}\nsubjectAltName={names}\n"
        );
        fs::write(&ext, extensions).unwrap();
        let arguments = [
            "x509",
            "-req",
            "-days",
            "2",
            "-sha256",
            "-CAcreateserial",
            "-CA",
            &ca,
            "-CAkey",
            &ca_key,
            "-in",
            &csr,
            "-extfile",
            &ext,
            "-out",
            &cert,
        ];
        run("openssl", arguments).ok();
    }
    folder
}

#[track_caller]
fn listens(process: &mut Running, listener: &str) -> SocketAddr {
    let line = process.says(&["listening", &format!("listener={listener} ")]);
    let (_, address) = line.rsplit_once("address=").unwrap();
    address.trim().parse().unwrap()
}
