//! What DNS is asked for the pools of a config, and what it answers: the words between discovery and compilation.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use crate::base::addr::EndpointTarget;

/// Questions and what is known of them. One that never had an answer is not in it; one whose name is gone has an empty
/// answer.
pub type Answers = BTreeMap<Question, Answer>;

/// Something to ask DNS.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Question {
    /// The addresses of a host.
    Host(String),
    /// The SRV records of a service, and the addresses of the hosts that they name.
    Service(String),
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The addresses of a host, sorted.
    Addresses(Vec<IpAddr>),
    /// The records of a service, sorted by priority and place.
    Records(Vec<Record>),
}

/// An SRV record (RFC 2782), with the addresses of its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The lower, the sooner.
    pub priority: u16,
    /// Its share of the work among those of one priority.
    pub weight: u16,
    /// The host, in lower case.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The addresses of the host, sorted; none while it does not resolve.
    pub addresses: Vec<IpAddr>,
}

impl Question {
    /// What must be asked to know where an endpoint is.
    pub fn about(target: &EndpointTarget) -> Option<Self> {
        match target {
            EndpointTarget::Name { host, .. } => Some(Self::Host(host.clone())),
            EndpointTarget::Service(name) => Some(Self::Service(name.clone())),
            EndpointTarget::Tcp(_) | EndpointTarget::Unix(_) => None,
        }
    }
}

impl fmt::Display for Question {
    /// As the name of an endpoint is written, without its port.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(name) => out.write_str(name),
            Self::Service(name) => write!(out, "srv:{name}"),
        }
    }
}
