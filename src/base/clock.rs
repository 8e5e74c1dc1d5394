//! The only place that asks what time it is.
//!
//! Deciding code takes `now` as an argument; the code at the edges calls these two functions. Tests move time
//! by passing another `now`.

use std::time::{Instant, SystemTime};

/// The monotonic time: for deadlines and durations.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the place the ban points to"
)]
pub fn now() -> Instant {
    Instant::now()
}

/// The time on the wall: for logs, dates and certificates.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the place the ban points to"
)]
pub fn wall() -> SystemTime {
    SystemTime::now()
}
