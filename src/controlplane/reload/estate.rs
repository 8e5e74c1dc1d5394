//! What one process leaves to the next: sockets, the keys of tickets and sessions, the open file of the access log.
//!
//! The loop takes an estate over when it starts, and draws one up when the binary is upgraded. systemd leaves sockets in the
//! same way, so that activation is a start with an estate too. How it gets from process to process is not its business.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

use super::Reload;
use crate::base::addr::ListenAddr;
use crate::base::name::ListenerName;
use crate::base::secret::Secret;
use crate::base::ticket::TicketSecrets;
use crate::config::{AccessLog, AccessLogPath};
use crate::dataplane::listener::socket;

/// What is left to a process, or by it.
#[derive(Debug, Default)]
pub struct Estate {
    /// Sockets that listen.
    pub sockets: Sockets,
    /// The keys of session tickets, by listener.
    pub tickets: Vec<(ListenerName, TicketSecrets)>,
    /// What the keys of sessions are made of.
    pub sessions: Option<Secret>,
    /// The access log's file, open, and its path in the config.
    pub access_log: Option<(PathBuf, File)>,
}

/// Sockets that listen, for whoever is at their addresses.
#[derive(Debug, Default)]
pub struct Sockets {
    /// Each with a name, if whoever left it gave one.
    pub left: Vec<(Option<ListenerName>, TcpListener)>,
}

impl Reload {
    /// What the next process needs.
    pub(super) fn estate(&self) -> io::Result<Estate> {
        let snapshot = self.writer.current();
        let tickets = snapshot.listeners.iter().filter_map(|listener| {
            let tls = listener.tls.as_ref()?;
            Some((listener.name.clone(), tls.ticket_secrets()))
        });
        let path = match &self.in_force.config().access_log {
            Some(AccessLog {
                path: AccessLogPath::File(path),
                ..
            }) => Some(path.clone()),
            Some(AccessLog {
                path: AccessLogPath::Stdout,
                ..
            })
            | None => None,
        };
        let file = snapshot.access_log.as_ref().and_then(|log| log.duplicate());
        Ok(Estate {
            sockets: self.bound.duplicate()?,
            tickets: tickets.collect(),
            sessions: snapshot.sessions.clone(),
            access_log: path.zip(file),
        })
    }
}

impl Sockets {
    /// Takes the sockets for a listener: those bound to its address; if it lets the system choose the port, those of its
    /// name.
    pub(super) fn take(&mut self, name: &ListenerName, address: &ListenAddr) -> Vec<TcpListener> {
        let is_for = |named: Option<&ListenerName>, bound: SocketAddr| match address.port() {
            0 => named == Some(name),
            _ => socket::is_at(bound, address),
        };
        let all = std::mem::take(&mut self.left).into_iter();
        let (taken, left): (Vec<_>, Vec<_>) = all.partition(|(named, socket)| {
            let bound = socket.local_addr();
            bound.is_ok_and(|bound| is_for(named.as_ref(), bound))
        });
        self.left = left;
        taken.into_iter().map(|(_, socket)| socket).collect()
    }

    /// Where the sockets are bound that nobody has taken.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        let bound = self.left.iter().map(|(_, socket)| socket.local_addr());
        bound.filter_map(Result::ok).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_go_to_the_listener_at_their_address_or_of_their_name() {
        let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (one, two, three) = (bind(), bind(), bind());
        let at = |socket: &TcpListener| ListenAddr::One(socket.local_addr().unwrap());
        let (first, second) = (at(&one), at(&two));
        let unnamed = three.local_addr().unwrap();
        let again = one.try_clone().unwrap();
        let mut sockets = Sockets {
            left: vec![
                (Some("a".into()), one),
                (Some("b".into()), two),
                (None, three),
                (Some("a".into()), again),
            ],
        };
        let mut take = |name: &str, address: &ListenAddr| {
            let taken = sockets.take(&name.into(), address);
            taken.iter().map(at).collect::<Vec<_>>()
        };
        assert_eq!(take("renamed", &first), [first, first]);
        assert_eq!(take("a", &first), []);
        let any: ListenAddr = "127.0.0.1:0".parse().unwrap();
        assert_eq!(take("c", &any), []);
        assert_eq!(take("b", &any), [second]);
        assert_eq!(sockets.addresses(), [unnamed]);
    }
}
