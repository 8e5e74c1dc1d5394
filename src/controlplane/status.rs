//! What workers of the control plane tell people, where those who tell and those who show must not know each other.

/// How an upgrade of the binary ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upgrade {
    /// Another process serves from our sockets.
    HandedOver {
        /// Its id.
        pid: u32,
        /// The version of its binary.
        version: String,
    },
    /// This one goes on, as if nothing had been; the text says why.
    Failed(String),
}

/// Upgrades so far.
#[derive(Clone, Debug, Default)]
pub struct Upgrades {
    /// Demands that have been served, in the count of whoever demands.
    pub served: u64,
    /// How the last one ended.
    pub last: Option<Upgrade>,
}
