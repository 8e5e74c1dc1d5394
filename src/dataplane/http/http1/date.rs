//! The value of `Date`, rendered once a second.

use std::cell::RefCell;
use std::io::Write;
use std::time::{Duration, SystemTime};

use httpdate::HttpDate;

use crate::base::clock;

/// The text of the last second that was asked for, as `Tue, 24 Nov 2026 13:29:00 GMT` (RFC 9110 §5.6.7).
#[derive(Debug, Default)]
pub(super) struct Date {
    last: RefCell<Option<(u64, [u8; 29])>>,
}

impl Date {
    /// Writes the time as the worker's tick saw it last.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        self.write_at(out, clock::coarse_wall());
    }

    fn write_at(&self, out: &mut Vec<u8>, at: SystemTime) {
        // A clock before 1970 is not set; the client sees that rather than no date.
        let since = at.duration_since(SystemTime::UNIX_EPOCH);
        let second = since.map_or(0, |since| since.as_secs());
        let mut last = self.last.borrow_mut();
        let text = match &mut *last {
            Some((of, text)) if *of == second => text,
            last => &mut last.insert((second, render(second))).1,
        };
        out.extend_from_slice(text);
    }
}

fn render(second: u64) -> [u8; 29] {
    let mut text = *b"Thu, 01 Jan 1970 00:00:00 GMT";
    // Past the year 9999 there are no four digits for the year, and the formatter would panic.
    if second < 253_402_300_800
        && let Some(at) = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(second))
    {
        // It has exactly this length.
        let _ = write!(&mut text[..], "{}", HttpDate::from(at));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_written_as_http_wants_it() {
        let date = Date::default();
        let check = |second, expected: &str| {
            let mut out = Vec::new();
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
            date.write_at(&mut out, at);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        };
        check(784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT");
        check(784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT");
        check(784_111_778, "Sun, 06 Nov 1994 08:49:38 GMT");
        check(253_402_300_799, "Fri, 31 Dec 9999 23:59:59 GMT");
        check(253_402_300_800, "Thu, 01 Jan 1970 00:00:00 GMT");
    }
}
