//! Durations, byte sizes and rates as operators write them: `250ms 5s 1m 2h`, `64KiB 10MiB`, `100/s`.

use std::fmt;
use std::time::Duration;

/// Why a text is not the quantity it should be; displayed as what to write instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitError {
    /// Not a duration.
    Duration,
    /// Not a size.
    Size,
    /// Not a rate.
    Rate,
}

impl fmt::Display for UnitError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Duration => "a number and a unit, such as 250ms, 5s, 1m or 2h",
            Self::Size => "a number and a unit, such as 512B, 64KiB or 10MiB",
            Self::Rate => "a number and a time, such as 100/s, 30/m or 500/h",
        })
    }
}

/// Parses a duration: a whole number and one of `ms`, `s`, `m`, `h`, `d`.
///
/// # Errors
/// [`UnitError::Duration`] for anything else, a bare number included.
pub fn duration(text: &str) -> Result<Duration, UnitError> {
    let (number, unit) = split(text).ok_or(UnitError::Duration)?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(UnitError::Duration),
    };
    number
        .checked_mul(millis)
        .map(Duration::from_millis)
        .ok_or(UnitError::Duration)
}

/// Parses a size in bytes: a whole number and one of `B`, `KiB`, `MiB`, `GiB`.
///
/// # Errors
/// [`UnitError::Size`] for anything else, a bare number included.
pub fn size(text: &str) -> Result<u64, UnitError> {
    let (number, unit) = split(text).ok_or(UnitError::Size)?;
    let bytes = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(UnitError::Size),
    };
    number.checked_mul(bytes).ok_or(UnitError::Size)
}

/// Parses a rate: a whole number above 0, a slash and one of `s`, `m`, `h`.
///
/// # Errors
/// [`UnitError::Rate`] for anything else, a bare number included.
pub fn rate(text: &str) -> Result<(u64, Duration), UnitError> {
    let (number, unit) = split(text).ok_or(UnitError::Rate)?;
    let per = match unit {
        "/s" => 1,
        "/m" => 60,
        "/h" => 3_600,
        _ => return Err(UnitError::Rate),
    };
    if number == 0 {
        return Err(UnitError::Rate);
    }
    Ok((number, Duration::from_secs(per)))
}

fn split(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit))
}

/// Writes a duration as [`duration`] reads it, in the largest unit that keeps it whole.
pub fn show_duration(value: Duration) -> String {
    let millis = value.as_millis();
    for (unit, size) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        if millis >= size && millis.is_multiple_of(size) {
            return format!("{}{unit}", millis / size);
        }
    }
    format!("{millis}ms")
}

/// Writes a size as [`size`] reads it, in the largest unit that keeps it whole.
pub fn show_size(bytes: u64) -> String {
    for (unit, size) in [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= size && bytes.is_multiple_of(size) {
            return format!("{}{unit}", bytes / size);
        }
    }
    format!("{bytes}B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        for wrong in [
            "5",
            "",
            "s",
            "5 s",
            "-5s",
            "1.5s",
            "5sec",
            "99999999999999999999h",
            "18446744073709551615h",
        ] {
            assert_eq!(duration(wrong), Err(UnitError::Duration), "{wrong}");
        }
    }

    #[test]
    fn sizes_need_a_unit() {
        assert_eq!(size("64KiB"), Ok(65536));
        assert_eq!(size("0B"), Ok(0));
        for wrong in ["64", "64KB", "64kib", "KiB", "17179869184GiB"] {
            assert_eq!(size(wrong), Err(UnitError::Size), "{wrong}");
        }
    }

    #[test]
    fn rates_need_a_time() {
        assert_eq!(rate("100/s"), Ok((100, Duration::from_secs(1))));
        assert_eq!(rate("5/m"), Ok((5, Duration::from_secs(60))));
        assert_eq!(rate("1/h"), Ok((1, Duration::from_secs(3600))));
        for wrong in [
            "100", "0/s", "/s", "100/ms", "100 /s", "1.5/s", "-1/s", "100/",
        ] {
            assert_eq!(rate(wrong), Err(UnitError::Rate), "{wrong}");
        }
    }

    #[test]
    fn what_is_shown_is_read_back() {
        for text in ["250ms", "5s", "90s", "1m", "2h", "1500ms"] {
            let shown = show_duration(duration(text).unwrap());
            assert_eq!(duration(&shown), duration(text), "{shown}");
        }
        for text in ["1B", "64KiB", "10MiB", "1GiB", "1025B"] {
            assert_eq!(show_size(size(text).unwrap()), text);
        }
    }
}
