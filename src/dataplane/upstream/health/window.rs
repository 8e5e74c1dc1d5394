//! Exchanges of the last while, counted.

use std::time::{Duration, Instant};

use super::slowness::Answers;

/// Parts of the window in which exchanges are counted: it moves on by one of them.
const PARTS: u32 = 10;

/// Exchanges of the last while, by the part of the window in which they ended; the first part is the newest.
#[derive(Clone, Debug, Default)]
pub(super) struct Window {
    parts: [Tally; PARTS as usize],
    /// When the newest part began.
    since: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) good: u32,
    pub(super) bad: u32,
    /// Those of the good ones that were timed.
    pub(super) timed: Answers,
}

impl Window {
    pub(super) fn newest(&mut self) -> &mut Tally {
        let [newest, ..] = &mut self.parts;
        newest
    }

    /// Leaves behind what is older than `length`.
    pub(super) fn move_on(&mut self, now: Instant, length: Duration) {
        let part = (length / PARTS).max(Duration::from_millis(1));
        let since = *self.since.get_or_insert(now);
        let passed = now.saturating_duration_since(since).as_nanos() / part.as_nanos();
        let passed = u32::try_from(passed).unwrap_or(u32::MAX);
        if passed >= PARTS {
            self.parts = Default::default();
            self.since = Some(now);
            return;
        }
        for _ in 0..passed {
            self.parts.rotate_right(1);
            *self.newest() = Tally::default();
        }
        self.since = Some(since + part * passed);
    }

    pub(super) fn sum(&self) -> Tally {
        let sum = |sum: Tally, part: &Tally| Tally {
            good: sum.good.saturating_add(part.good),
            bad: sum.bad.saturating_add(part.bad),
            timed: sum.timed.and(part.timed),
        };
        self.parts.iter().fold(Tally::default(), sum)
    }
}
