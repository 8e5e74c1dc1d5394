//! The other end of the control socket: where it is, and what `reload` and `upgrade` say there.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::geteuid;
use serde_json::Value;

use crate::cli::{self, Surroundings, Which};
use crate::config::error::Source;
use crate::config::{Admin, parse};
use crate::controlplane::admin;

/// The name of the socket in its folder.
const NAME: &str = "admin.sock";

/// The folder for root, which is also the one that systemd makes for a service of our name.
const SYSTEM_FOLDER: &str = "/run/lockgate";

/// The folder below that of a user.
const USER_FOLDER: &str = "lockgate";

/// How long an answer is waited for: longer than the process takes for one.
const PATIENCE: Duration = Duration::from_secs(620);

/// Bytes of an answer, at most: there may be many errors.
const ANSWER_LIMIT: u64 = 1 << 20;

/// Where the control socket is, if neither config nor command line say.
pub(super) fn default_path(surroundings: &Surroundings) -> Option<PathBuf> {
    let folder = match (&surroundings.runtime_folder, &surroundings.user_folder) {
        (Some(folder), _) => folder.clone(),
        (None, _) if geteuid().is_root() => SYSTEM_FOLDER.into(),
        (None, Some(folder)) => folder.join(USER_FOLDER),
        (None, None) => return None,
    };
    Some(folder.join(NAME))
}

/// Where it is for root.
pub(super) fn system_path() -> PathBuf {
    Path::new(SYSTEM_FOLDER).join(NAME)
}

/// How a demand ended, in words, and whether well.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) is_good: bool,
    pub(super) text: String,
}

/// Has the process reload.
///
/// # Errors
/// It cannot be asked; the text says why.
pub(super) fn reload(which: &Which) -> Result<Told, String> {
    let place = Place::find(which)?;
    let mut answer = place.post("/reload")?;
    if answer.status == SERVICE_UNAVAILABLE {
        // An upgrade was under way: the same socket leads to the next process by now.
        answer = place.post("/reload")?;
    }
    let body = &answer.body;
    let version = &body["version"];
    Ok(match body["outcome"].as_str() {
        Some("changed") => {
            let changes = body["changes"].as_str().unwrap_or_default();
            good(format!("a new version is in force: {version}\n{changes}"))
        }
        Some("unchanged") => good(format!(
            "nothing to change: version {version} stays in force"
        )),
        Some(_) => {
            let errors = body["errors"].as_array();
            let errors = errors.into_iter().flatten().filter_map(Value::as_str);
            let mut text: String = errors.map(|error| format!("{error}\n")).collect();
            text.push_str(&format!("refused: version {version} stays in force"));
            bad(text)
        }
        None => bad(answer.error()),
    })
}

/// Has the process start its binary anew and hand over to it.
///
/// # Errors
/// It cannot be asked; the text says why.
pub(super) fn upgrade(which: &Which) -> Result<Told, String> {
    let answer = Place::find(which)?.post("/upgrade")?;
    let body = &answer.body;
    Ok(match (body["pid"].as_u64(), body["version"].as_str()) {
        (Some(pid), Some(version)) => good(format!("process {pid} serves, version {version}")),
        _ if answer.status == BAD_GATEWAY => {
            bad(format!("{}; the process goes on as before", answer.error()))
        }
        _ => bad(answer.error()),
    })
}

fn good(text: String) -> Told {
    let is_good = true;
    Told { is_good, text }
}

fn bad(text: String) -> Told {
    let is_good = false;
    Told { is_good, text }
}

const BAD_GATEWAY: u16 = 502;
const SERVICE_UNAVAILABLE: u16 = 503;

/// Which process is asked.
#[derive(Debug)]
struct Place {
    socket: PathBuf,
    /// The config that it must run, if that is known.
    config: Option<PathBuf>,
}

impl Place {
    fn find(which: &Which) -> Result<Self, String> {
        let named = which.config.clone();
        let config = named.or_else(|| {
            let usual = PathBuf::from(cli::CONFIG);
            usual.exists().then_some(usual)
        });
        if let Some(socket) = which.socket.clone() {
            let config = which.config.clone();
            return Ok(Self { socket, config });
        }
        let written = match &config {
            Some(config) => written(config)?,
            None => Admin::Unwritten,
        };
        let socket = match written {
            Admin::At(path) => path,
            Admin::Off => {
                return Err("the config says `admin: off`: signals are what is left, such as SIGHUP to reload".to_owned());
            }
            Admin::Unwritten => {
                let surroundings = cli::surroundings(Default::default());
                default_path(&surroundings)
                    .ok_or("where the control socket is cannot be told: name it by --socket")?
            }
        };
        Ok(Self { socket, config })
    }

    fn post(&self, path: &str) -> Result<Answer, String> {
        let socket = self.socket.display();
        let sent = self.ask(path);
        let answer = sent.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                format!("no process serves the control socket {socket}: is it running, with the same config?")
            }
            io::ErrorKind::PermissionDenied => {
                format!("the control socket {socket} is for its owner: be that user, or root")
            }
            _ => format!("the control socket {socket}: {error}"),
        })?;
        Answer::read(&answer).ok_or_else(|| format!("what is behind {socket} is not Lockgate"))
    }

    fn ask(&self, path: &str) -> io::Result<Vec<u8>> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut request =
            format!("POST {path} HTTP/1.1\r\nHost: lockgate\r\nContent-Length: 0\r\n").into_bytes();
        if let Some(config) = &self.config {
            let config = admin::full_path(config);
            request.extend_from_slice(admin::CONFIG.as_str().as_bytes());
            request.extend_from_slice(b": ");
            request.extend_from_slice(config.as_os_str().as_encoded_bytes());
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"\r\n");
        stream.write_all(&request)?;
        let mut answer = Vec::new();
        stream.take(ANSWER_LIMIT).read_to_end(&mut answer)?;
        Ok(answer)
    }
}

/// What a config says of the control socket. That it is wrong elsewhere is for the process to say.
fn written(config: &Path) -> Result<Admin, String> {
    let text = fs::read(config).map_err(|error| format!("{}: {error}", config.display()))?;
    let source = Source::from_bytes(config, &text);
    let said = source
        .ok()
        .and_then(|source| parse::admin_of(&source, &cli::env));
    Ok(said.unwrap_or_default())
}

/// An answer of the control socket.
#[derive(Debug)]
struct Answer {
    status: u16,
    body: Value,
}

impl Answer {
    fn read(bytes: &[u8]) -> Option<Self> {
        let mut fields = [httparse::EMPTY_HEADER; 16];
        let mut head = httparse::Response::new(&mut fields);
        let httparse::Status::Complete(length) = head.parse(bytes).ok()? else {
            return None;
        };
        Some(Self {
            status: head.code?,
            body: serde_json::from_slice(bytes.get(length..)?).ok()?,
        })
    }

    fn error(&self) -> String {
        let told = self.body["error"].as_str().map(str::to_owned);
        told.unwrap_or_else(|| format!("it answers with {}", self.status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_that_of_the_service_then_of_root_or_the_user() {
        let surroundings = |runtime: Option<&str>, user: Option<&str>| Surroundings {
            runtime_folder: runtime.map(PathBuf::from),
            user_folder: user.map(PathBuf::from),
            ..Surroundings::default()
        };
        let check = |surroundings: Surroundings, expected: Option<&str>| {
            assert_eq!(default_path(&surroundings), expected.map(PathBuf::from));
        };
        let under_systemd = surroundings(Some("/run/lockgate"), Some("/run/user/1"));
        check(under_systemd, Some("/run/lockgate/admin.sock"));
        let (user, none) = match geteuid().is_root() {
            true => (
                Some("/run/lockgate/admin.sock"),
                Some("/run/lockgate/admin.sock"),
            ),
            false => (Some("/run/user/1/lockgate/admin.sock"), None),
        };
        check(surroundings(None, Some("/run/user/1")), user);
        check(surroundings(None, None), none);
    }

    #[test]
    fn a_config_says_where_the_socket_is_whatever_is_wrong_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("proxy.yaml");
        let check = |text: &str, expected: Admin| {
            fs::write(&file, text).unwrap();
            assert_eq!(written(&file), Ok(expected), "{text}");
        };
        let here = || Admin::At(folder.path().join("a.sock"));
        check("admin: { address: unix:a.sock }\nlisteners: 5", here());
        check(
            "admin: { address: 'unix:${SOCKET_OF_A_TEST:-a.sock}' }",
            here(),
        );
        check("routes: [ { pool: none } ]\nadmin: off", Admin::Off);
        check("listeners: []", Admin::Unwritten);
        check("admin: 5", Admin::Unwritten);
        check("{ not yaml", Admin::Unwritten);
        assert!(written(&folder.path().join("none.yaml")).is_err());
    }

    #[test]
    fn what_is_not_an_answer_of_ours_is_none() {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n";
        let read = |body: &str| Answer::read(format!("{head}{body}").as_bytes());
        let answer = read("{\"error\":\"why\"}").unwrap();
        assert_eq!((answer.status, answer.error()), (200, "why".to_owned()));
        assert!(read("hello").is_none());
        assert!(Answer::read(b"SSH-2.0").is_none());
    }
}
