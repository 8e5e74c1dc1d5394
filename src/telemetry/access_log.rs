//! The record that one exchange fills in on its way, and that writes itself when it is dropped.
//!
//! `http` makes one as soon as it knows that a request is there, `listener` makes one for a connection that ends
//! before any. Writing on drop is what makes the promise simple: exactly one line an exchange, whether it was
//! answered, refused, cancelled with its task, or panicked.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::{HeaderValue, Method, Uri, Version};

use crate::base::fault::Fault;
use crate::base::name::{PoolName, RouteName};

use super::request_id::RequestId;
use super::worker_log::WorkerLog;

/// The protocol of an exchange on the client's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.0, and what says it is older.
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2.
    Http2,
}

impl From<Version> for Protocol {
    fn from(version: Version) -> Self {
        match version {
            Version::HTTP_2 => Self::Http2,
            Version::HTTP_11 => Self::Http11,
            // `Version` is a foreign, open type: what has no name here came over the oldest codec.
            _ => Self::Http10,
        }
    }
}

/// What the access log says of one exchange. Everything but the first four fields may stay as [`Record::new`]
/// left it.
#[derive(Debug)]
pub struct Record {
    /// Where the line goes.
    pub log: Rc<WorkerLog>,
    /// When the exchange began, for durations.
    pub started: Instant,
    /// When the exchange began, for the reader.
    pub started_at: SystemTime,
    /// The client, behind the proxies that we trust.
    pub client: IpAddr,
    /// Its address as text, where somebody has it ready.
    pub client_text: Option<Rc<str>>,
    /// When the exchange ended, where that was seen; else it ends when the record is dropped.
    pub ended: Option<Instant>,
    /// The method; `None` if no head could be read.
    pub method: Option<Method>,
    /// The Host field; without one the target's authority is logged.
    pub host: Option<HeaderValue>,
    /// The request target; of it path and query are logged, secrets masked.
    pub target: Option<Uri>,
    /// The protocol on the client's side.
    pub protocol: Option<Protocol>,
    /// The TLS version on the client's side; `None` in the clear.
    pub tls: Option<&'static str>,
    /// The status that the client was sent.
    pub status: Option<u16>,
    /// Why the exchange failed.
    pub fault: Option<Fault>,
    /// Bytes of the request's body that came; of a tunnel, from the client.
    pub bytes_received: u64,
    /// Bytes of the response's body that went out; of a tunnel, to the client.
    pub bytes_sent: u64,
    /// From the start to the endpoint's head.
    pub first_byte: Option<Duration>,
    /// How long the connection to the endpoint took; `None` if an idle one was used.
    pub connect: Option<Duration>,
    /// How long it waited in the queue of its pool; `None` if it did not.
    pub queued: Option<Duration>,
    /// The endpoint of the last attempt.
    pub endpoint: Option<Arc<str>>,
    /// How many attempts were made.
    pub attempts: u8,
    /// The route that matched.
    pub route: Option<RouteName>,
    /// The pool that was chosen.
    pub pool: Option<PoolName>,
    /// The id that was kept or made.
    pub request_id: Option<RequestId>,
    /// Whether the connection became a tunnel.
    pub upgraded: bool,
    /// The Referer field; filled in only if [`WorkerLog::wants_headers`].
    pub referer: Option<HeaderValue>,
    /// The User-Agent field; filled in only if [`WorkerLog::wants_headers`].
    pub user_agent: Option<HeaderValue>,
}

impl Record {
    /// A record that says when it began and for whom, and nothing else yet.
    pub fn new(
        log: Rc<WorkerLog>,
        started: Instant,
        started_at: SystemTime,
        client: IpAddr,
    ) -> Self {
        Self {
            log,
            started,
            started_at,
            client,
            client_text: None,
            ended: None,
            method: None,
            host: None,
            target: None,
            protocol: None,
            tls: None,
            status: None,
            fault: None,
            bytes_received: 0,
            bytes_sent: 0,
            first_byte: None,
            connect: None,
            queued: None,
            endpoint: None,
            attempts: 0,
            route: None,
            pool: None,
            request_id: None,
            upgraded: false,
            referer: None,
            user_agent: None,
        }
    }

    /// Status and fault as they are logged: an exchange that ended with neither was left by its client, one
    /// with a fault alone has the fault's status.
    pub fn ending(&self) -> (u16, Option<Fault>) {
        match (self.status, self.fault) {
            (Some(status), fault) => (status, fault),
            (None, Some(fault)) => (fault.code(), Some(fault)),
            (None, None) => (Fault::ClientGone.code(), Some(Fault::ClientGone)),
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.log.write(self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ending_has_a_status() {
        let log = Rc::new(WorkerLog::default());
        let cases = [
            (Some(200), None, (200, None)),
            (
                Some(200),
                Some(Fault::ResponseCut),
                (200, Some(Fault::ResponseCut)),
            ),
            (None, Some(Fault::NoRoute), (404, Some(Fault::NoRoute))),
            (None, None, (499, Some(Fault::ClientGone))),
        ];
        for (status, fault, expected) in cases {
            let mut record = Record::new(
                Rc::clone(&log),
                crate::base::clock::now(),
                SystemTime::UNIX_EPOCH,
                IpAddr::from([127, 0, 0, 1]),
            );
            record.status = status;
            record.fault = fault;
            assert_eq!(record.ending(), expected);
        }
    }

    #[test]
    fn a_version_has_its_protocol() {
        assert_eq!(Protocol::from(Version::HTTP_09), Protocol::Http10);
        assert_eq!(Protocol::from(Version::HTTP_10), Protocol::Http10);
        assert_eq!(Protocol::from(Version::HTTP_11), Protocol::Http11);
        assert_eq!(Protocol::from(Version::HTTP_2), Protocol::Http2);
    }
}
