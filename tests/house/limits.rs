//! Holds `docs/limits.md` against the code: what it names is there and has the value that it tells.
//!
//! A row names constants and keys in its third cell. The value of a constant, worked out from its source, or the default of
//! a key, from the reference that is made of the code, must be among the numbers of the row.

/// A number of the page or of the code: bytes, things, or milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Quantity {
    Count(u64),
    Millis(u64),
}

/// A row of the page.
struct Row<'a> {
    line: usize,
    text: &'a str,
    named: Vec<&'a str>,
}

/// A constant of the code.
pub(crate) struct Constant {
    pub(crate) name: String,
    /// `None` where it takes more than arithmetic to know it.
    pub(crate) value: Option<Quantity>,
}

/// The key of a section, as the reference has it.
struct Key<'a> {
    section: String,
    name: &'a str,
    default: &'a str,
}

/// What is wrong with the page.
pub(crate) fn broken(page: &str, reference: &str, constants: &[Constant]) -> Vec<String> {
    let keys = keys(reference);
    let mut broken = Vec::new();
    for row in rows(page) {
        let numbers = quantities(row.text);
        for name in &row.named {
            let wrong = if name.starts_with(|first: char| first.is_ascii_uppercase()) {
                constant_broken(name, &numbers, constants)
            } else {
                key_broken(name, row.text, &numbers, &keys)
            };
            broken.extend(wrong.map(|wrong| format!("docs/limits.md:{}: {wrong}", row.line)));
        }
    }
    broken
}

fn constant_broken(name: &str, numbers: &[Quantity], constants: &[Constant]) -> Option<String> {
    let mut found = constants.iter().filter(|one| one.name == name).peekable();
    if found.peek().is_none() {
        return Some(format!("`{name}` is no constant of the code"));
    }
    let values: Vec<_> = found.map(|one| one.value).collect();
    let is_told = values
        .iter()
        .any(|value| value.is_none_or(|value| numbers.contains(&value)));
    (!is_told).then(|| format!("`{name}` is {values:?}, and none of {numbers:?}"))
}

fn key_broken(path: &str, row: &str, numbers: &[Quantity], keys: &[Key<'_>]) -> Option<String> {
    let mut segments = path.rsplit('.');
    let last = segments.next().unwrap_or_default();
    let section = segments.next().map(|name| name.replace('_', " "));
    let of = |key: &&Key<'_>| {
        section
            .as_ref()
            .is_none_or(|section| key.section.contains(section.as_str()))
    };
    let found: Vec<_> = keys
        .iter()
        .filter(|key| key.name == last)
        .filter(of)
        .collect();
    if found.is_empty() {
        return Some(format!("`{path}` is no key of the config"));
    }
    let is_told = found.iter().any(|key| {
        let written = key.default.strip_prefix('`');
        match written.and_then(|rest| rest.strip_suffix('`')) {
            Some(default) => {
                let default = quantities(default);
                default.first().is_none_or(|first| numbers.contains(first))
            }
            // Some defaults are words, or hang on other keys; no limit is told as none.
            None => key.default != "no limit" || row.contains("none"),
        }
    });
    (!is_told).then(|| {
        let defaults: Vec<_> = found.iter().map(|key| key.default).collect();
        format!("the default of `{path}` is {defaults:?}, and none of {numbers:?}")
    })
}

fn rows(page: &str) -> impl Iterator<Item = Row<'_>> {
    page.lines().enumerate().filter_map(|(at, text)| {
        let cells: Vec<_> = text.split('|').collect();
        let [_, _, _, named, ..] = cells.as_slice() else {
            return None;
        };
        let named = named.split('`').skip(1).step_by(2);
        Some(Row {
            line: at + 1,
            text,
            // Flags and paths are neither.
            named: named.filter(|name| !name.starts_with('-')).collect(),
        })
    })
}

fn keys(reference: &str) -> Vec<Key<'_>> {
    let mut section = String::new();
    let mut keys = Vec::new();
    for line in reference.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            section = title.to_lowercase();
        }
        let cells: Vec<_> = line.split(" | ").collect();
        if let [name, _, default, ..] = cells.as_slice()
            && let Some(name) = name.strip_prefix("| `")
        {
            keys.push(Key {
                section: section.clone(),
                name: name.trim_end_matches('`'),
                default,
            });
        }
    }
    keys
}

/// The numbers of a text, each with its unit: `65 536`, `10 s`, `16 KiB`, `30s`.
pub(crate) fn quantities(text: &str) -> Vec<Quantity> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let mut digits = String::new();
        rest = &rest[start..];
        loop {
            let group = rest
                .find(|c: char| !c.is_ascii_digit() && c != '.')
                .unwrap_or(rest.len());
            digits.push_str(&rest[..group]);
            rest = &rest[group..];
            // Three digits behind a space belong to the number before.
            let next: Vec<_> = rest.chars().take(5).collect();
            match next.as_slice() {
                [' ' | '_', a, b, c, behind @ ..]
                    if [a, b, c].iter().all(|one| one.is_ascii_digit())
                        && !behind.first().is_some_and(char::is_ascii_digit) =>
                {
                    rest = &rest[1..];
                }
                _ => break,
            }
        }
        let unit = rest.trim_start_matches(' ');
        let unit = &unit[..unit
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(unit.len())];
        let Ok(number) = digits.trim_end_matches('.').parse::<f64>() else {
            continue;
        };
        let (size, is_time) = match unit {
            "KiB" => (1_f64 * 1024.0, false),
            "MiB" => (1024.0 * 1024.0, false),
            "GiB" => (1024.0 * 1024.0 * 1024.0, false),
            "ms" => (1.0, true),
            "s" => (1000.0, true),
            "min" | "m" => (60_000.0, true),
            "h" => (3_600_000.0, true),
            "d" => (86_400_000.0, true),
            _ => (1.0, false),
        };
        let value = (number * size) as u64;
        found.push(if is_time {
            Quantity::Millis(value)
        } else {
            Quantity::Count(value)
        });
    }
    found
}

/// The constants that a source has outside of its tests.
pub(crate) fn constants(source: &str) -> Vec<Constant> {
    let mut lines: Vec<(&str, &str)> = Vec::new();
    // Tests stand last.
    for line in source.lines().take_while(|line| *line != "mod tests {") {
        let line = line.trim_start();
        let line = line
            .split_once("const ")
            .filter(|(before, _)| before.is_empty() || before.starts_with("pub"));
        let Some((_, line)) = line else {
            continue;
        };
        if let Some((name, rest)) = line.split_once(": ")
            && name
                .bytes()
                .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
            && let Some((_, value)) = rest.split_once(" = ")
            && let Some((value, _)) = value.split_once(';')
        {
            lines.push((name, value));
        }
    }
    let all = lines.iter().map(|(name, value)| Constant {
        name: (*name).to_owned(),
        value: evaluate(name, value, &lines),
    });
    all.collect()
}

fn evaluate(name: &str, value: &str, others: &[(&str, &str)]) -> Option<Quantity> {
    for (unit, millis) in [
        ("millis", 1),
        ("secs", 1000),
        ("mins", 60_000),
        ("hours", 3_600_000),
    ] {
        let inner = value
            .strip_prefix(&format!("Duration::from_{unit}("))
            .and_then(|rest| rest.strip_suffix(')'));
        if let Some(inner) = inner {
            return Some(Quantity::Millis(number(inner, others)? * millis));
        }
    }
    let number = number(value, others)?;
    Some(if name.ends_with("_SECONDS") {
        Quantity::Millis(number * 1000)
    } else {
        Quantity::Count(number)
    })
}

/// Whole numbers, other constants of the file, `<<` and `*`.
fn number(text: &str, others: &[(&str, &str)]) -> Option<u64> {
    let text = text.trim().trim_start_matches('(').trim_end_matches(')');
    if let Some((left, right)) = text.split_once("<<") {
        return number(left, others)?.checked_shl(u32::try_from(number(right, others)?).ok()?);
    }
    if let Some((left, right)) = text.split_once('*') {
        return number(left, others)?.checked_mul(number(right, others)?);
    }
    let digits = text.replace('_', "");
    if let Ok(number) = digits.parse() {
        return Some(number);
    }
    let (_, value) = others
        .iter()
        .find(|(name, value)| *name == text && *value != text)?;
    number(value, others)
}
