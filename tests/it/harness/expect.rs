//! Waiting for a condition under a deadline.

use std::fmt::Debug;
use std::time::Duration;

use lockgate::base::clock;

/// How long anything may take that is not meant to take time.
pub const PATIENCE: Duration = Duration::from_secs(8);

/// How often a condition is looked at again.
const LOOK: Duration = Duration::from_millis(2);

/// Waits for `look` to find something.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = clock::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(clock::now() < end, "in vain: {what}");
        std::thread::park_timeout(LOOK);
    }
}

/// Lets time pass where time itself is what the case is about.
pub fn after(time: Duration) {
    let end = clock::now() + time;
    while let Some(left) = end.checked_duration_since(clock::now()) {
        std::thread::park_timeout(left);
    }
}

/// Waits until `look` has told the same for as long as `calm`, and returns that.
pub fn steady<T: PartialEq + Debug>(what: &str, calm: Duration, look: impl Fn() -> T) -> T {
    let (mut last, mut since) = (look(), clock::now());
    eventually(what, || {
        let now = look();
        if now != last {
            (last, since) = (now, clock::now());
        }
        (clock::now() - since >= calm).then(&look)
    })
}
