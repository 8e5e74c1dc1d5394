//! The secrets of session tickets on their way to the process that replaces this one.
//!
//! `dataplane::tls` gives and takes them, `controlplane::process` carries them: both need the word, so it is here.

use std::fmt;
use std::time::Duration;

use super::secret::Secret;

/// The keys of one listener's tickets, newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TicketSecrets {
    /// The digest of the authority that clients were verified against, if they were: a ticket vouches for the client, so
    /// a listener with another one must not take these.
    pub client_auth: Option<[u8; 32]>,
    /// The keys.
    pub keys: Vec<TicketSecret>,
}

/// One key that seals tickets, and when it was made.
#[derive(Clone, PartialEq, Eq)]
pub struct TicketSecret {
    /// What a ticket names it by.
    pub name: [u8; 16],
    /// The key itself.
    pub key: Secret,
    /// How old it is.
    pub age: Duration,
}

impl fmt::Debug for TicketSecret {
    /// Shows no key.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("TicketSecret").finish_non_exhaustive()
    }
}
