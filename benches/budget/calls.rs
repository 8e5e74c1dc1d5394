//! The system calls that move data, of the real program under strace: kept connections of many clients over TLS and
//! HTTP/1.1, every setting as it comes, the access log in a file.
//!
//! strace comes when everything is connected and warm, and goes when the last answer is there, so that nothing
//! else is counted.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::Arc;

use rustix::process::{Pid, Signal, kill_process};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::{JoinSet, spawn_local};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::rig::client::Http1;
use crate::rig::origin;

type Client = Http1<TlsStream<TcpStream>>;

/// Client connections at a time.
const CONNECTIONS: usize = 64;

/// Exchanges on each of them before strace comes, and while it is there.
const WARM_UP: usize = 10;
const COUNTED: usize = 100;

const HOST: &str = "www.example.com";

/// What reads and writes, by whatever name a libc or a runtime prefers.
const DATA_CALLS: &str = "read,readv,recvfrom,recvmsg,write,writev,sendto,sendmsg,sendfile,splice";

/// Data calls an exchange, by name.
pub fn data_calls(program: &Path) -> BTreeMap<String, f64> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default());
    let runtime = runtime.expect("the system has an event loop for us");
    runtime.block_on(async {
        let origin = TcpListener::bind("127.0.0.1:0").await;
        let origin = origin.expect("loopback has a port for us");
        let address = origin.local_addr().expect("it is bound");
        spawn_local(accept(origin));
        let folder = tempfile::tempdir().expect("there is a place for what is temporary");
        let roots = write_config(&folder, address);
        let proxy = Proxy::start(program, &folder);
        let clients = exchange(connect(proxy.address, roots).await, WARM_UP).await;
        let trace = Trace::attach(&proxy.child, &folder);
        let clients = exchange(clients, COUNTED).await;
        let calls = trace.end();
        drop(clients);
        let each = |(name, calls)| (name, calls as f64 / (CONNECTIONS * COUNTED) as f64);
        calls.into_iter().map(each).collect()
    })
}

async fn accept(listener: TcpListener) {
    while let Ok((connection, _)) = listener.accept().await {
        spawn_local(origin::answer(connection));
    }
}

/// One worker, since how clients spread over several is not ours to say; all else as it comes.
fn write_config(folder: &TempDir, origin: SocketAddr) -> RootCertStore {
    let made = rcgen::generate_simple_self_signed([HOST.to_owned()]).expect("the name is good");
    let config = format!(
        "workers: 1\n\
         listeners: [ {{ name: web, address: \"127.0.0.1:0\", tls: {{ certificates: [ {{ cert: cert.pem, key: key.pem }} ] }} }} ]\n\
         pools: {{ app: {{ endpoints: [ \"{origin}\" ] }} }}\n\
         routes: [ {{ pool: app }} ]\n\
         access_log: {{ path: access.log }}\n"
    );
    for (file, text) in [
        ("cert.pem", made.cert.pem()),
        ("key.pem", made.signing_key.serialize_pem()),
        ("proxy.yaml", config),
    ] {
        fs::write(folder.path().join(file), text).expect("the folder is ours");
    }
    let mut roots = RootCertStore::empty();
    roots
        .add(made.cert.der().clone())
        .expect("it was just made");
    roots
}

async fn connect(address: SocketAddr, roots: RootCertStore) -> Vec<Client> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from(HOST).expect("it is a name");
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        let stream = TcpStream::connect(address)
            .await
            .expect("the proxy listens");
        stream.set_nodelay(true).expect("it is a socket");
        let stream = connector.connect(name.clone(), stream).await;
        clients.push(Http1::new(stream.expect("the certificate is the proxy's")));
    }
    clients
}

/// All clients at a time, each one exchange after another.
async fn exchange(clients: Vec<Client>, count: usize) -> Vec<Client> {
    let mut tasks = JoinSet::new();
    for mut client in clients {
        tasks.spawn_local(async move {
            for _ in 0..count {
                client.exchange().await;
            }
            client
        });
    }
    tasks.join_all().await
}

/// The program. Killed when it is dropped.
struct Proxy {
    child: Child,
    address: SocketAddr,
    /// Open for as long as it may want to say something.
    _log: BufReader<ChildStderr>,
}

impl Proxy {
    fn start(program: &Path, folder: &TempDir) -> Self {
        let program = fs::canonicalize(program).expect("the program was built");
        let mut child = Command::new(program)
            .args(["run", "--socket", "admin.sock"])
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program can be run");
        let mut log = BufReader::new(child.stderr.take().expect("it is piped"));
        let line = line_with(&mut log, "listening");
        let address = line.rsplit_once("address=").expect("it says where").1;
        let address = address.trim().parse().expect("it is an address");
        Self {
            child,
            address,
            _log: log,
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// strace on all threads of a process.
struct Trace {
    strace: Child,
    summary: PathBuf,
    _log: BufReader<ChildStderr>,
}

impl Trace {
    fn attach(process: &Child, folder: &TempDir) -> Self {
        let summary = folder.path().join("calls");
        let mut strace = Command::new("strace")
            .args(["--follow-forks", "--summary-only"])
            .arg(format!("--trace={DATA_CALLS}"))
            .arg(format!("--output={}", summary.display()))
            .arg(format!("--attach={}", process.id()))
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace is installed");
        let mut log = BufReader::new(strace.stderr.take().expect("it is piped"));
        line_with(&mut log, "attached");
        Self {
            strace,
            summary,
            _log: log,
        }
    }

    /// Lets the process go; how many calls of each name there were.
    fn end(mut self) -> BTreeMap<String, u64> {
        let id = i32::try_from(self.strace.id()).ok().and_then(Pid::from_raw);
        let sent = kill_process(id.expect("a process has a number"), Signal::INT);
        sent.expect("strace is ours");
        self.strace.wait().expect("strace is ours");
        let summary = fs::read_to_string(&self.summary).expect("strace has written it");
        summary.lines().filter_map(calls_in).collect()
    }
}

/// Reads what a program says up to a line with `word`.
fn line_with(log: &mut impl BufRead, word: &str) -> String {
    let mut all = String::new();
    loop {
        let mut line = String::new();
        let read = log.read_line(&mut line);
        if line.contains(word) {
            return line;
        }
        all += &line;
        assert!(read.is_ok_and(|read| read > 0), "it ended with\n{all}");
    }
}

/// Of a line of the summary the fourth column, if it is about one call: share, seconds, microseconds a call, calls,
/// perhaps errors, name.
fn calls_in(line: &str) -> Option<(String, u64)> {
    let columns: Vec<_> = line.split_whitespace().collect();
    let name = *columns.last()?;
    let is_call = DATA_CALLS.split(',').any(|call| call == name);
    let calls = columns.get(3)?.parse().ok().filter(|_| is_call)?;
    Some((name.to_owned(), calls))
}
