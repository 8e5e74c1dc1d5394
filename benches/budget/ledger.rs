//! The budget as text, and what is said about a measurement that is held against it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// By how much a count may change without a word, in per cent.
const TOLERANCE: f64 = 2.0;

/// Counts by name, and what they were measured with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ledger {
    /// Compilers and libraries, of which other versions make other code of the same source.
    pub tools: String,
    /// What one exchange, step or config costs.
    pub counts: BTreeMap<String, f64>,
}

/// The outcome of a comparison.
#[derive(Debug)]
pub struct Report {
    /// Every count beside its budget, and what is wrong.
    pub table: String,
    /// Whether the budget was kept.
    pub is_kept: bool,
}

const TOOLS: &str = "measured_with";

impl Ledger {
    /// Reads `name = number` lines; `None` if one of them is something else.
    pub fn read(text: &str) -> Option<Self> {
        let mut ledger = Self::default();
        let lines = text.lines().filter(|line| !is_comment(line));
        for line in lines {
            let (name, value) = line.split_once(" = ")?;
            if name == TOOLS {
                value.trim_matches('"').clone_into(&mut ledger.tools);
            } else {
                let value = value.replace('_', "").parse().ok()?;
                ledger.counts.insert(name.to_owned(), value);
            }
        }
        Some(ledger)
    }

    /// The text, below the comments that `before` begins with.
    pub fn write(&self, before: &str) -> String {
        let mut text = String::new();
        for comment in before.lines().take_while(|line| is_comment(line)) {
            text += comment;
            text += "\n";
        }
        // Writing to a string does not fail.
        let _ = writeln!(text, "{TOOLS} = \"{}\"", self.tools);
        for (name, count) in &self.counts {
            let _ = writeln!(text, "{name} = {}", number(*count));
        }
        text
    }
}

fn is_comment(line: &str) -> bool {
    line.is_empty() || line.starts_with('#')
}

/// Two places, where a count is so small that they tell something.
fn number(count: f64) -> String {
    if count < 1_000.0 {
        format!("{count:.2}")
    } else {
        format!("{count:.0}")
    }
}

/// Holds `now` against `budget`.
pub fn compare(budget: &Ledger, now: &Ledger) -> Report {
    let names: BTreeSet<_> = budget.counts.keys().chain(now.counts.keys()).collect();
    let width = names.iter().map(|name| name.len()).max().unwrap_or(0);
    let mut table = String::new();
    let mut is_kept = true;
    let _ = writeln!(
        table,
        "{:width$} {:>12} {:>12}  change",
        "", "budget", "now"
    );
    for name in names {
        let (before, after) = (budget.counts.get(name), now.counts.get(name));
        let shown = |count: Option<&f64>| count.map_or("none".to_owned(), |count| number(*count));
        let change = before.zip(after).map(|(&before, &after)| {
            if after == before {
                0.0
            } else {
                100.0 * (after - before) / before
            }
        });
        let (is_fine, word) = match change {
            None if before.is_none() => (false, "has no budget"),
            None => (false, "was not measured"),
            Some(change) if change > TOLERANCE => (false, "grew"),
            Some(change) if change < -TOLERANCE => (true, "fell: tighten the budget"),
            Some(_) => (true, ""),
        };
        let percent = change.map_or(String::new(), |change| format!("{change:+.2} %"));
        let (before, after) = (shown(before), shown(after));
        let _ = writeln!(
            table,
            "{name:width$} {before:>12} {after:>12} {percent:>10}  {word}"
        );
        is_kept &= is_fine;
    }
    if !is_kept && budget.tools != now.tools {
        let _ = writeln!(
            table,
            "The budget was measured with {};\nthis is {}: that alone may change counts.",
            budget.tools, now.tools
        );
    }
    Report { table, is_kept }
}
