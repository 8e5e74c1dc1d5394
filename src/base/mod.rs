//! Ground floor: the words every room may use.
//!
//! Nothing here knows another room of ours, opens a socket or reads a file.

pub mod addr;
pub mod clients;
pub mod clock;
pub mod deadline;
pub mod drain;
pub mod fault;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod gather;
pub mod host;
pub mod lines;
pub mod name;
pub mod octets;
pub mod path;
pub mod pattern;
pub mod secret;
pub mod spare;
pub mod stagger;
pub mod ticket;
pub mod units;
