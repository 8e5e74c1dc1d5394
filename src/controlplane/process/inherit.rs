//! What systemd, or the process before, left to this one: descriptors from number 3 on, as `LISTEN_FDS` says.
//!
//! systemd says by `LISTEN_PID` whom they are for. A process that starts another one cannot know that number beforehand, so an
//! upgrade says by a variable of ours which process they are from, and they are taken if that one is our parent. Without
//! either they are for somebody else, and left alone.

use std::fmt::{self, Write as _};
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::parent_id;
use std::path::PathBuf;
use std::process;
use std::time::Duration;

use listenfd::ListenFd;

use super::handover::{Channel, State, Word};
use crate::base::name::ListenerName;
use crate::controlplane::reload::estate::Estate;
use crate::dataplane::listener::socket;

/// How long the process before may take to say what it has to say.
const STATE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long it may take to agree that this process serves: until then it waits itself, no longer than it says.
const GO_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the last words may take, which change nothing any more.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(5);

/// What the environment says of descriptors.
#[derive(Clone, Debug, Default)]
pub struct Left {
    /// `LISTEN_FDS`.
    pub count: Option<String>,
    /// `LISTEN_PID`.
    pub pid: Option<String>,
    /// `LISTEN_FDNAMES`.
    pub names: Option<String>,
    /// The process that started this one to go on in its place.
    pub predecessor: Option<String>,
}

/// What was left to this process.
#[derive(Debug, Default)]
pub struct Inheritance {
    /// What the loop takes over.
    pub estate: Estate,
    /// Control sockets, each with whether its file goes with us.
    pub control: Vec<(UnixListener, bool)>,
    /// The process that waits for this one to serve.
    pub predecessor: Option<Predecessor>,
    /// The folders that the process before may write to, if it is in a sandbox, which this one is in as well.
    pub writable: Option<Vec<PathBuf>>,
}

/// Why it cannot be taken over.
#[derive(Debug)]
pub enum InheritError {
    /// A descriptor is not one that we know what to do with.
    Descriptor {
        /// Which one, from 3.
        number: usize,
        /// Its name, if it has one.
        name: Option<ListenerName>,
        /// What is wrong with it.
        error: io::Error,
    },
    /// The process before does not say what it leaves.
    Predecessor(io::Error),
    /// Somebody else started this process than it was told, or that one is gone.
    Orphan,
}

impl fmt::Display for InheritError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Descriptor {
                number,
                name,
                error,
            } => {
                let name = name.as_ref().map_or("without a name", ListenerName::as_str);
                write!(
                    out,
                    "descriptor {number} ({name}) was left to this process: {error}; only sockets that listen, of TCP or unix, can be taken over"
                )
            }
            Self::Predecessor(error) => {
                write!(
                    out,
                    "the process before does not say what it leaves: {error}"
                )
            }
            Self::Orphan => out.write_str(
                "the process that this one was to go on for is gone, or is not its parent",
            ),
        }
    }
}

impl Left {
    /// Takes what is for this process. To be called once and first of all, while these numbers mean what was left.
    ///
    /// # Errors
    /// See [`InheritError`].
    pub fn take(&self) -> Result<Inheritance, InheritError> {
        let is_number = |text: &Option<String>, number: u32| {
            text.as_ref().and_then(|text| text.parse().ok()) == Some(number)
        };
        let is_upgrade = is_number(&self.predecessor, parent_id());
        if self.predecessor.is_some() && !is_upgrade {
            return Err(InheritError::Orphan);
        }
        let is_for_us = is_number(&self.pid, process::id());
        if self.count.is_none() || !(is_upgrade || is_for_us) {
            return Ok(Inheritance::default());
        }
        let mut left = ListenFd::from_env();
        let count = left.len();
        let names = names(self.names.as_deref().unwrap_or_default(), count);
        let mut inheritance = Inheritance::default();
        let mut unix = Vec::new();
        for (index, name) in names.into_iter().enumerate() {
            let taken = take(&mut left, index);
            let taken = taken.map_err(|error| InheritError::Descriptor {
                number: index + 3,
                name: name.clone(),
                error,
            })?;
            match taken {
                Taken::Tcp(socket) => inheritance.estate.sockets.left.push((name, socket)),
                Taken::Unix(socket) => unix.push(socket),
            }
        }
        let mut owns_control = false;
        if is_upgrade {
            // The last one is no socket that listens, but the line to the process before.
            let channel = unix.pop().ok_or(io::ErrorKind::NotFound.into());
            let channel = channel.map_err(InheritError::Predecessor)?;
            let stream = UnixStream::from(OwnedFd::from(channel));
            let opened = Channel::open(stream, STATE_TIMEOUT);
            let (channel, state, file) = opened.map_err(InheritError::Predecessor)?;
            let State { access_log, .. } = &state;
            inheritance.estate.access_log = access_log.clone().zip(file);
            let tickets = state.tickets().into_iter();
            let tickets = tickets.map(|(name, secrets)| (name.into(), secrets));
            inheritance.estate.tickets = tickets.collect();
            inheritance.estate.sessions = state.sessions();
            owns_control = state.owns_control;
            inheritance.writable = state.writable.clone();
            inheritance.predecessor = Some(Predecessor { channel });
        }
        let control = unix.into_iter().map(|socket| (socket, owns_control));
        inheritance.control = control.collect();
        Ok(inheritance)
    }
}

enum Taken {
    Tcp(TcpListener),
    Unix(UnixListener),
}

fn take(left: &mut ListenFd, index: usize) -> io::Result<Taken> {
    let missing = || io::Error::from(io::ErrorKind::NotFound);
    match left.take_tcp_listener(index) {
        Ok(socket) => {
            let socket = socket.ok_or_else(missing)?;
            socket::adopt(&socket)?;
            Ok(Taken::Tcp(socket))
        }
        Err(_) => {
            let socket = left.take_unix_listener(index)?;
            Ok(Taken::Unix(socket.ok_or_else(missing)?))
        }
    }
}

/// The names of so many descriptors.
fn names(written: &str, count: usize) -> Vec<Option<ListenerName>> {
    let names = written.split(':').map(|name| {
        let name = read_name(name)?;
        (!name.is_empty() && name != "unknown").then(|| name.into())
    });
    names.chain(std::iter::repeat(None)).take(count).collect()
}

/// A name as `LISTEN_FDNAMES` can have it: colons stand between names, so ours, which may be addresses, are written with
/// per cent signs (RFC 3986 §2.1).
pub(super) fn write_name(name: &ListenerName) -> String {
    let mut written = String::new();
    for byte in name.as_str().bytes() {
        match byte {
            b':' | b'%' | 0..=32 | 127.. => {
                // Writing to a string does not fail.
                let _ = write!(written, "%{byte:02X}");
            }
            _ => written.push(char::from(byte)),
        }
    }
    written
}

fn read_name(written: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = written.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

/// The process before, which waits for this one to serve.
#[derive(Debug)]
pub struct Predecessor {
    channel: Channel,
}

impl Predecessor {
    /// Says that everything is prepared, and waits for the word to begin.
    ///
    /// # Errors
    /// The process before is gone, or has given this one up.
    pub fn ready(&mut self) -> io::Result<()> {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        self.channel.say(&Word::Ready { version })?;
        match self.channel.hear(GO_TIMEOUT)? {
            Word::Go => Ok(()),
            other => Err(io::Error::other(format!("it says {other:?}"))),
        }
    }

    /// Says that the listeners accept, and waits for the farewell: from then on this is the process for everybody.
    pub fn serving(mut self) {
        let farewell = self
            .channel
            .say(&Word::Serving)
            .and_then(|()| self.channel.hear(FAREWELL_TIMEOUT));
        if let Err(error) = farewell {
            tracing::warn!(%error, "the process before did not say farewell");
        }
    }

    /// Says why this process does not go on.
    pub fn fail(mut self, why: &str) {
        let why = why.to_owned();
        // If it is gone, there is nobody to tell.
        let _ = self.channel.say(&Word::Failed { why });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_there_and_back() {
        for name in ["web", ":443", "[::1]:8443", "a b%c", "ü", "%3A"] {
            let written = write_name(&name.into());
            assert!(!written.contains(':') && written.is_ascii(), "{written}");
            assert_eq!(read_name(&written).as_deref(), Some(name));
        }
        let read = names("web:%3A443::unknown:%zz:more", 8);
        let read: Vec<_> = read
            .iter()
            .map(|name| name.as_ref().map(ListenerName::as_str))
            .collect();
        let expected = [
            Some("web"),
            Some(":443"),
            None,
            None,
            None,
            Some("more"),
            None,
            None,
        ];
        assert_eq!(read, expected);
        assert_eq!(names("", 2), [None, None]);
    }

    #[test]
    fn what_is_for_somebody_else_is_left_alone() {
        let left = |pid: Option<u32>, predecessor: Option<u32>| Left {
            count: Some("5".into()),
            pid: pid.map(|pid| pid.to_string()),
            names: None,
            predecessor: predecessor.map(|pid| pid.to_string()),
        };
        for left in [
            left(None, None),
            left(Some(process::id() + 1), None),
            Left {
                count: None,
                ..left(Some(process::id()), None)
            },
        ] {
            let taken = left.take().unwrap();
            assert!(taken.estate.sockets.left.is_empty() && taken.predecessor.is_none());
        }
        let orphan = left(None, Some(parent_id() + 1)).take();
        assert!(matches!(orphan, Err(InheritError::Orphan)));
    }
}
