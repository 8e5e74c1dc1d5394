//! The only place that asks what time it is.
//!
//! Deciding code takes `now` as an argument; the code at the edges calls these two functions. Tests move time
//! by passing another `now`.

use std::cell::Cell;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

/// The monotonic time: for deadlines and durations.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the place the ban points to"
)]
pub fn now() -> Instant {
    Instant::now()
}

thread_local! {
    static TICKED: Cell<Option<(Instant, SystemTime)>> = const { Cell::new(None) };
}

/// The monotonic time as the worker's tick saw it last, up to a tick old: for when something became idle.
///
/// Asking costs a load. On a thread that does not tick it is [`now`].
pub fn coarse() -> Instant {
    TICKED.get().map_or_else(now, |(ticked, _)| ticked)
}

/// The time on the wall at `now`, a moment that is hardly past: reckoned from the worker's tick, so that a record needs
/// one look at a clock and not two.
pub fn wall_at(now: Instant) -> SystemTime {
    TICKED
        .get()
        .and_then(|(ticked, wall)| wall.checked_add(now.saturating_duration_since(ticked)))
        .unwrap_or_else(wall)
}

/// The time on the wall as the worker's tick saw it last: for what is told by the second.
pub fn coarse_wall() -> SystemTime {
    TICKED.get().map_or_else(wall, |(_, wall)| wall)
}

/// Milliseconds from a moment of this process that is the same for all, to `at`; 0 before it. For what is kept in a word.
pub fn millis(at: Instant) -> u64 {
    since_start(at).as_millis() as u64
}

/// The same in nanoseconds, which a word has room for during five centuries.
pub fn nanos(at: Instant) -> u64 {
    since_start(at).as_nanos() as u64
}

fn since_start(at: Instant) -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    at.saturating_duration_since(*START.get_or_init(now))
}

/// Tells [`coarse`] and [`wall_at`] the time; `None` when the ticking stops.
pub(crate) fn tick(now: Option<Instant>) {
    TICKED.set(now.map(|now| (now, wall())));
}

/// The time on the wall: for logs, dates and certificates.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the place the ban points to"
)]
pub fn wall() -> SystemTime {
    SystemTime::now()
}
