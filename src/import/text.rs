//! Words that configs of others share with ours: times, names, addresses.

/// A time as nginx and Go write it, such as `90`, `1m30s` or `500ms`, in our form; without a unit it is seconds.
pub(super) fn time(text: &str) -> Option<String> {
    let mut millis = 0_u64;
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, behind) = rest.split_at_checked(digits)?;
        let letters = behind.len()
            - behind
                .trim_start_matches(|c: char| c.is_ascii_alphabetic())
                .len();
        let (unit, behind) = behind.split_at_checked(letters)?;
        let scale = match unit {
            "ms" => 1,
            "" | "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 7 * 86_400_000,
            _ => return None,
        };
        millis = number
            .parse::<u64>()
            .ok()?
            .checked_mul(scale)?
            .checked_add(millis)?;
        rest = behind.trim_start();
    }
    let units = [
        (86_400_000, "d"),
        (3_600_000, "h"),
        (60_000, "m"),
        (1_000, "s"),
        (1, "ms"),
    ];
    let fits = |(scale, _): &(u64, &str)| millis.is_multiple_of(*scale) && millis >= *scale;
    let (scale, unit) = units.into_iter().find(fits)?;
    Some(format!("{}{unit}", millis / scale))
}

/// A name of ours made of any text: what may not stand in one becomes a dash.
pub(super) fn name(text: &str) -> String {
    let dashed: String = text
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || matches!(c, '.' | '_') {
                c
            } else {
                '-'
            }
        })
        .collect();
    let name = dashed.trim_matches(['-', '.']).to_owned();
    if name.is_empty() {
        "unnamed".into()
    } else {
        name
    }
}

/// An address with its port; `port` where it has none.
pub(super) fn with_port(address: &str, port: u16) -> String {
    if let Some(path) = address.strip_prefix("unix:") {
        // Some write a URL.
        return format!("unix:/{}", path.trim_start_matches('/'));
    }
    let behind = address
        .rsplit_once(']')
        .map_or(address, |(_, behind)| behind);
    if behind.contains(':') {
        address.to_owned()
    } else {
        format!("{address}:{port}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_their_largest_unit() {
        for (text, expected) in [
            ("90", Some("90s")),
            ("60s", Some("1m")),
            ("1m30s", Some("90s")),
            ("1h 30m", Some("90m")),
            ("500ms", Some("500ms")),
            ("2w", Some("14d")),
            ("0", None),
            ("", None),
            ("1y", None),
            ("soon", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(time(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn addresses_have_a_port() {
        for (address, expected) in [
            ("10.0.0.1", "10.0.0.1:80"),
            ("10.0.0.1:8080", "10.0.0.1:8080"),
            ("[::1]", "[::1]:80"),
            ("[::1]:8080", "[::1]:8080"),
            ("unix:/run/app.sock", "unix:/run/app.sock"),
            ("unix:///run/app.sock", "unix:/run/app.sock"),
        ] {
            assert_eq!(with_port(address, 80), expected);
        }
        assert_eq!(name("http://a b/"), "http---a-b");
    }
}
