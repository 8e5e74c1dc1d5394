//! The only place that asks what time it is.
//!
//! Deciding code takes `now` as an argument; the code at the edges calls these two functions. Tests move time
//! by passing another `now`.

use std::cell::Cell;
use std::time::{Instant, SystemTime};

/// The monotonic time: for deadlines and durations.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the place the ban points to"
)]
pub fn now() -> Instant {
    Instant::now()
}

thread_local! {
    static TICKED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// The monotonic time as the worker's tick saw it last, up to a tick old: for when something became idle.
///
/// Asking costs a load. On a thread that does not tick it is [`now`].
pub fn coarse() -> Instant {
    TICKED.get().unwrap_or_else(now)
}

/// Tells [`coarse`] the time; `None` when the ticking stops.
pub(crate) fn tick(now: Option<Instant>) {
    TICKED.set(now);
}

/// The time on the wall: for logs, dates and certificates.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the place the ban points to"
)]
pub fn wall() -> SystemTime {
    SystemTime::now()
}
