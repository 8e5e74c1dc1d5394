//! Discovery: where endpoints are, as others know it.
//!
//! Each worker here turns an outside source into events for the reload loop; it decides nothing. A source that
//! fails keeps its last answer.

pub mod dns;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod resolver;
mod state;
