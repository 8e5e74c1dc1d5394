//! What `benches/budget.rs` says of a measurement, without measuring anything.

#![expect(unreachable_pub, reason = "nothing is outside of this binary")]

use std::fs;
use std::path::Path;

use ledger::Ledger;

#[path = "../benches/budget/ledger.rs"]
mod ledger;

fn ledger(text: &str) -> Ledger {
    Ledger::read(text).expect("the case is a budget")
}

#[track_caller]
fn check(budget: &str, now: &str, is_kept: bool, word: &str) {
    let report = ledger::compare(&ledger(budget), &ledger(now));
    assert_eq!(report.is_kept, is_kept, "{}", report.table);
    assert!(report.table.contains(word), "{}", report.table);
}

#[test]
fn a_count_may_grow_by_two_per_cent_and_no_more() {
    check("a = 100", "a = 102", true, "+2.00 %");
    check("a = 100", "a = 102.1", false, "grew");
    check("a = 0", "a = 1", false, "grew");
    check("a = 0", "a = 0", true, "+0.00 %");
}

#[test]
fn a_count_that_fell_is_told_and_does_no_harm() {
    check("a = 100", "a = 98", true, "-2.00 %");
    check("a = 100", "a = 97", true, "fell");
}

#[test]
fn a_count_without_a_budget_breaks_it_and_so_does_a_budget_without_a_count() {
    check("a = 1", "a = 1\nb = 1", false, "has no budget");
    check("a = 1\nb = 1", "a = 1", false, "was not measured");
}

#[test]
fn other_tools_are_told_only_where_the_budget_is_broken() {
    let (old, new) = ("measured_with = \"old\"\na = 1", "measured_with = \"new\"");
    check(old, &format!("{new}\na = 2"), false, "measured with old");
    let report = ledger::compare(&ledger(old), &ledger(&format!("{new}\na = 1")));
    assert!(!report.table.contains("old"), "{}", report.table);
}

#[test]
fn what_is_written_is_read_again_below_the_same_comment() {
    let text = "# Why.\n\nmeasured_with = \"rustc\"\na = 0.25\nb = 123456\n";
    assert_eq!(ledger(text).write(text), text);
    assert_eq!(ledger(&ledger(text).write("")), ledger(text));
}

#[test]
fn what_is_no_number_is_no_budget() {
    assert_eq!(Ledger::read("a = many"), None);
    assert_eq!(Ledger::read("a"), None);
}

#[test]
fn the_budget_is_as_it_would_be_written() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/budget.toml");
    let text = fs::read_to_string(file).unwrap();
    assert_eq!(ledger(&text).write(&text), text);
}
