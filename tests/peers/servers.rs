//! Real servers that stand behind the proxy in these tests.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use super::process::{PATIENCE, PYTHON, Running, script, wait_until};

/// A server on a port of its own.
pub(crate) struct Server {
    pub(crate) process: Running,
    pub(crate) address: SocketAddr,
}

impl Server {
    /// The Node app of these tests.
    pub(crate) fn node() -> Self {
        Self::that_tells_its_port("node", &[&path("app.js")])
    }

    /// A Python program of these tests, with its arguments.
    pub(crate) fn python(name: &str, arguments: &[&str]) -> Self {
        Self::that_tells_its_port(PYTHON, &[&[path(name).as_str()], arguments].concat())
    }

    fn that_tells_its_port(program: &str, arguments: &[&str]) -> Self {
        let mut process = Running::start(program, arguments, Path::new("/"));
        let line = process.says(&["port "]);
        let port: u16 = line.trim().trim_start_matches("port ").parse().unwrap();
        Self {
            process,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
        }
    }
}

/// nginx, with a folder of files.
pub(crate) struct Nginx {
    pub(crate) process: Running,
    pub(crate) address: SocketAddr,
    folder: TempDir,
}

impl Nginx {
    /// Starts one that serves its folder, with `locations` besides.
    pub(crate) fn start(locations: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("files")).unwrap();
        fs::write(folder.path().join("files/index.html"), "hello from nginx\n").unwrap();
        // It takes no port 0, and somebody may take the port that was free a moment ago.
        let process = (0..10).find_map(|_| {
            let address = free_address();
            Some((run_nginx(folder.path(), address, locations)?, address))
        });
        let (process, address) = process.expect("a port for nginx");
        Self {
            process,
            address,
            folder,
        }
    }

    /// The same at an address of its choice; `None` where another has it.
    pub(crate) fn start_at(address: SocketAddr, locations: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("files")).unwrap();
        let process = run_nginx(folder.path(), address, locations)?;
        Some(Self {
            process,
            address,
            folder,
        })
    }

    /// The folder that it serves.
    pub(crate) fn files(&self) -> std::path::PathBuf {
        self.folder.path().join("files")
    }

    /// Waits until its access log has so many lines whose URI begins with `uri`, and returns their connections.
    pub(crate) fn connections(&self, uri: &str, count: usize) -> Vec<String> {
        let log = self.folder.path().join("access.log");
        let lines = || {
            let text = fs::read_to_string(&log).unwrap();
            let of_uri = text.lines().filter_map(|line| line.split_once(' '));
            let found: Vec<_> = of_uri
                .filter(|(_, target)| target.starts_with(uri))
                .map(|(connection, _)| connection.to_owned())
                .collect();
            (found.len() >= count).then_some(found)
        };
        wait_until(PATIENCE, lines).expect("nginx logs each request")
    }
}

/// Starts nginx in a folder; `None` where another has the address.
fn run_nginx(folder: &Path, address: SocketAddr, locations: &str) -> Option<Running> {
    let config = nginx_config(folder, address, locations);
    let config_file = folder.join("nginx.conf");
    fs::write(&config_file, config).unwrap();
    let arguments = [
        "-p",
        "/",
        "-e",
        "stderr",
        "-c",
        config_file.to_str().unwrap(),
    ];
    let mut process = Running::start("nginx", arguments, folder);
    let answers = || TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok();
    wait_until(PATIENCE, || {
        (process.has_ended() || answers()).then_some(())
    });
    if !process.has_ended() {
        return Some(process);
    }
    let said = process.lines().join("\n");
    assert!(
        said.contains("Address already in use"),
        "nginx ended: {said}"
    );
    None
}

/// One process, so that ending it ends all of it.
fn nginx_config(folder: &Path, address: SocketAddr, locations: &str) -> String {
    let folder = folder.display();
    // A worker of root's nginx is nobody otherwise, and may not read the folder.
    let is_root = fs::metadata("/proc/self").is_ok_and(|us| {
        use std::os::unix::fs::MetadataExt as _;
        us.uid() == 0
    });
    let user = if is_root { "user root;" } else { "" };
    format!(
        "{user}
daemon off;
master_process off;
pid {folder}/pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
    log_format peers '$connection $request_uri $status';
    access_log {folder}/access.log peers;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen {address};
        root {folder}/files;
        {locations}
    }}
}}
"
    )
}

pub(crate) fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

fn path(name: &str) -> String {
    script(name).to_str().unwrap().to_owned()
}
