//! What the process takes from itself before it serves: core dumps, the rights of root, and what a proxy has no use for.
//!
//! `app::command` calls it once, while there is one thread: credentials, capabilities and filters belong to threads, and later
//! ones inherit them. So does the next binary, which an upgrade starts: what was taken is not given back.
//!
//! ```text
//!  dumps::forbid ─▶ config ─▶ account::find ─▶ (files for that user) ─▶ account::take_on ─▶ dumps ─▶ sandbox::enter
//! ```

pub mod account;
pub mod dumps;
pub mod sandbox;

/// Why a process that is asked to be confined does not start.
#[derive(Debug)]
pub struct Refused {
    /// The key that asks for it.
    pub key: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: String,
}
