//! The time of a record as text, made once a second.
//!
//! A worker owns one and hands it to `line`. Always UTC: a log that is read beside others has one clock, and the
//! zone's rules are not asked for on the way of a request.

use std::io::Write;
use std::time::{Duration, SystemTime};

use super::sink::Format;

/// The text of the last second that was asked for.
#[derive(Clone, Debug)]
pub struct Stamp {
    second: Option<u64>,
    /// `2026-11-24T13:29:00Z`
    rfc3339: [u8; 20],
    /// `24/Nov/2026:13:29:00 +0000`
    combined: [u8; 26],
}

impl Default for Stamp {
    fn default() -> Self {
        Self {
            second: None,
            rfc3339: *b"0000-00-00T00:00:00Z",
            combined: *b"00/---/0000:00:00:00 +0000",
        }
    }
}

impl Stamp {
    /// Writes `at` in the way of `format`: RFC 3339 with milliseconds, or the combined format's date.
    pub(crate) fn write(&mut self, out: &mut Vec<u8>, format: Format, at: SystemTime) {
        // A clock before 1970 is not set; the log shows that rather than an error.
        let since = at
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        if self.second != Some(since.as_secs()) {
            self.render(since.as_secs());
        }
        match format {
            Format::Combined => out.extend_from_slice(&self.combined),
            Format::Json => {
                let [seconds @ .., zone] = &self.rfc3339;
                out.extend_from_slice(seconds);
                out.push(b'.');
                write_thousandths(out, since.subsec_millis());
                out.push(*zone);
            }
        }
    }

    fn render(&mut self, second: u64) {
        self.second = Some(second);
        let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(second));
        let text = humantime::format_rfc3339_seconds(at.unwrap_or(SystemTime::UNIX_EPOCH));
        let mut rendered = self.rfc3339;
        if write!(&mut rendered[..], "{text}").is_err() {
            // Past the year 9999 there are no four digits for the year; the last date stands.
            return;
        }
        self.rfc3339 = rendered;
        let [y1, y2, y3, y4, _, m1, m2, _, d1, d2, _, clock @ .., _] = rendered;
        let month = usize::from(m1 & 15) * 10 + usize::from(m2 & 15);
        let name = MONTHS
            .get(month.wrapping_sub(1))
            .copied()
            .unwrap_or(*b"---");
        self.combined[..12].copy_from_slice(&[
            d1, d2, b'/', name[0], name[1], name[2], b'/', y1, y2, y3, y4, b':',
        ]);
        self.combined[12..20].copy_from_slice(&clock);
    }
}

/// Writes a number under a thousand with its leading zeros.
pub(crate) fn write_thousandths(out: &mut Vec<u8>, number: u32) {
    let digit = |number: u32| b'0' + u8::try_from(number % 10).unwrap_or(0);
    out.extend_from_slice(&[digit(number / 100), digit(number / 10), digit(number)]);
}

const MONTHS: [[u8; 3]; 12] = [
    *b"Jan", *b"Feb", *b"Mar", *b"Apr", *b"May", *b"Jun", *b"Jul", *b"Aug", *b"Sep", *b"Oct",
    *b"Nov", *b"Dec",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_in_both_ways() {
        let mut stamp = Stamp::default();
        let cases = [
            (0, "1970-01-01T00:00:00.000Z", "01/Jan/1970:00:00:00 +0000"),
            (
                1_795_526_940_007,
                "2026-11-24T13:29:00.007Z",
                "24/Nov/2026:13:29:00 +0000",
            ),
            (
                1_795_526_940_999,
                "2026-11-24T13:29:00.999Z",
                "24/Nov/2026:13:29:00 +0000",
            ),
            (
                1_709_164_799_120,
                "2024-02-28T23:59:59.120Z",
                "28/Feb/2024:23:59:59 +0000",
            ),
            (
                1_709_164_800_000,
                "2024-02-29T00:00:00.000Z",
                "29/Feb/2024:00:00:00 +0000",
            ),
        ];
        for (millis, json, combined) in cases {
            let at = SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
            for (format, expected) in [(Format::Json, json), (Format::Combined, combined)] {
                let mut out = Vec::new();
                stamp.write(&mut out, format, at);
                assert_eq!(String::from_utf8(out).unwrap(), expected);
            }
        }
    }

    #[test]
    fn a_clock_that_is_not_set_gives_a_line_all_the_same() {
        let mut out = Vec::new();
        let before = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        Stamp::default().write(&mut out, Format::Json, before);
        assert_eq!(out, b"1970-01-01T00:00:00.000Z");
    }
}
