//! `lockgate demo`: two small web backends in the process, a certificate and a config, so that a newcomer sees
//! the proxy work before they have anything to put behind it.
//!
//! The app calls [`prepare`], starts [`Backends`] at [`BACKENDS`], runs the config that `prepare` named, and
//! prints [`welcome`]. Nothing here knows the proxy: the backends could stand on another machine. What the demo
//! runs is the `proxy.yaml` of the current directory; where there is none, it writes the one it carries, since
//! the file that a newcomer edits must be the file in force.

mod backend;
pub mod certificate;
mod page;
mod payload;
pub mod websocket;

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

pub use backend::Backends;

/// The demo's backends: name and address, as the pool in `proxy.yaml` names them.
pub const BACKENDS: [(&str, SocketAddr); 2] = [("one", local(9001)), ("two", local(9002))];

/// What `proxy.yaml` at the root says.
pub const CONFIG: &str = include_str!("../../proxy.yaml");

/// What stands ready for the demo.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The config to run, absolute.
    pub config: PathBuf,
    /// Whether that file was missing and has been written.
    pub wrote_config: bool,
    /// The certificate that the config names.
    pub certificate: certificate::Certificate,
}

/// What could not be made ready, and where.
#[derive(Debug)]
pub enum PrepareError {
    /// `proxy.yaml` is missing and cannot be written.
    Config(PathBuf, io::Error),
    /// The certificate is missing or of no use, and another cannot be made.
    Certificate(certificate::CertificateError),
}

impl fmt::Display for PrepareError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(path, error) => {
                write!(out, "cannot write {}: {error}", path.display())
            }
            Self::Certificate(error) => error.fmt(out),
        }
    }
}

impl std::error::Error for PrepareError {}

/// Makes `dir` ready for the demo: a `proxy.yaml` if there is none, and a certificate in `certs/`.
///
/// A `proxy.yaml` that is there is left alone, whatever it says.
///
/// # Errors
/// When a file is missing and cannot be written.
pub fn prepare(dir: &Path, now: SystemTime) -> Result<Prepared, PrepareError> {
    let config = std::path::absolute(dir.join("proxy.yaml"))
        .map_err(|error| PrepareError::Config(dir.join("proxy.yaml"), error))?;
    let wrote_config =
        write_if_missing(&config).map_err(|error| PrepareError::Config(config.clone(), error))?;
    let certificate =
        certificate::ensure(&dir.join("certs"), now).map_err(PrepareError::Certificate)?;
    Ok(Prepared {
        config,
        wrote_config,
        certificate,
    })
}

/// The lines that greet whoever started the demo.
pub fn welcome(prepared: &Prepared) -> String {
    let mut text = String::from("\n  Lockgate is running:   https://localhost:8443\n");
    let config = prepared.config.display();
    let written = if prepared.wrote_config {
        " (written now: there was none)"
    } else {
        ""
    };
    text.push_str(&format!("  The config in force:   {config}{written}\n"));
    for (name, address) in BACKENDS {
        text.push_str(&format!(
            "  Backend {name:<3}:           http://{address}\n"
        ));
    }
    let certificate = &prepared.certificate;
    let cert = certificate.cert.display();
    text.push_str(&format!(
        "  Certificate:           {cert} ({})\n\n",
        certificate.fate
    ));
    text.push_str(
        "  The certificate is self-signed, made on this machine for this machine: the browser asks once.\n",
    );
    text.push_str(&format!(
        "  Without a browser:     curl --cacert {cert} https://localhost:8443/whoami\n"
    ));
    text.push_str(
        "  Edit the config and save it: it takes force at once, and no connection notices. Ctrl-C ends the demo.\n\n",
    );
    text
}

const fn local(port: u16) -> SocketAddr {
    SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
}

/// Whether it had to be written. `create_new` decides, so that a file is never overwritten.
fn write_if_missing(path: &Path) -> io::Result<bool> {
    match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(mut file) => file.write_all(CONFIG.as_bytes()).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_800_000_000)
    }

    #[test]
    fn a_directory_without_a_config_gets_the_one_carried() {
        let dir = tempfile::tempdir().unwrap();
        let prepared = prepare(dir.path(), now()).unwrap();
        assert!(prepared.wrote_config && prepared.config.is_absolute());
        assert_eq!(std::fs::read_to_string(&prepared.config).unwrap(), CONFIG);
        assert!(dir.path().join("certs/localhost.pem").is_file());
        assert!(!prepare(dir.path(), now()).unwrap().wrote_config);
    }

    #[test]
    fn a_config_that_is_there_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("proxy.yaml"), "mine").unwrap();
        let prepared = prepare(dir.path(), now()).unwrap();
        assert!(!prepared.wrote_config);
        assert_eq!(std::fs::read_to_string(prepared.config).unwrap(), "mine");
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = prepare(&dir.path().join("missing"), now()).unwrap_err();
        assert!(error.to_string().contains("missing/proxy.yaml"), "{error}");
    }

    #[test]
    fn the_config_names_the_backends_and_the_certificate() {
        for (_, address) in BACKENDS {
            assert!(CONFIG.contains(&address.to_string()));
        }
        for file in [
            "certs/localhost.pem",
            "certs/localhost.key",
            "127.0.0.1:8443",
        ] {
            assert!(CONFIG.contains(file), "{file}");
        }
    }

    #[test]
    fn the_welcome_tells_the_url_and_the_config() {
        let dir = tempfile::tempdir().unwrap();
        let prepared = prepare(dir.path(), now()).unwrap();
        let text = welcome(&prepared);
        assert!(text.contains("https://localhost:8443"));
        assert!(text.contains(&prepared.config.display().to_string()));
    }
}
