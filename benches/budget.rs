//! Holds what one exchange costs against `benches/budget.toml`: `.ci/run bench-counts`, the last part of it.
//!
//! Four kinds of cost that do not depend on how busy the machine is. Instructions were counted by `counts.rs`,
//! whose JSON is in the file that the first argument names. Allocations are counted here, over the same rig, and
//! so are the bytes that idle connections hold. System calls are those of the program that the second argument
//! names, under strace.
//!
//! Built without optimization, unlike what it measures: how much we allocate does not depend on it.

#![allow(unreachable_pub, reason = "nothing is outside of this binary")]
#![expect(clippy::print_stdout, reason = "a table for whoever runs it")]

#[path = "budget/calls.rs"]
mod calls;
mod configs;
#[path = "budget/idle.rs"]
mod idle;
#[path = "budget/ledger.rs"]
mod ledger;
mod rig;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use serde_json::Value;

use crate::ledger::Ledger;
use crate::rig::{Rig, Spoken, TURNS};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let [instructions, program] = &arguments[..] else {
        println!(
            "budget wants the counts of instructions and the program: see .ci/run bench-counts"
        );
        return ExitCode::FAILURE;
    };
    let mut counts = instructions_in(Path::new(instructions));
    counts.extend(allocations());
    for (name, kind) in idle::Kind::ALL {
        counts.insert(format!("held_bytes.idle.{name}"), idle::bytes_held(kind));
    }
    let calls = calls::data_calls(Path::new(program));
    counts.insert("system_calls.https_http1".to_owned(), calls.values().sum());
    let now = Ledger {
        tools: tools(),
        counts,
    };
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/budget.toml");
    let text = fs::read_to_string(&file).unwrap_or_default();
    let budget = Ledger::read(&text).expect("benches/budget.toml has a number on every line");
    let report = ledger::compare(&budget, &now);
    println!("{}", report.table);
    println!("System calls of an exchange: {calls:.2?}\n");
    if is_update() {
        fs::write(&file, now.write(&text)).expect("benches/budget.toml can be written");
        println!("This is the budget now.");
        return ExitCode::SUCCESS;
    }
    if report.is_kept {
        return ExitCode::SUCCESS;
    }
    println!("The budget is broken. If that is meant: UPDATE=1 .ci/run bench-counts");
    ExitCode::FAILURE
}

/// Whether the budget is to be what was measured now.
#[expect(
    clippy::disallowed_methods,
    reason = "a switch of the bench, not of the program"
)]
fn is_update() -> bool {
    std::env::var_os("UPDATE").is_some()
}

/// What gungraun counted: one JSON object a line and a benchmark.
fn instructions_in(file: &Path) -> BTreeMap<String, f64> {
    let text = fs::read_to_string(file).expect("the counts of instructions are there");
    text.lines()
        .map(|line| {
            let summary: Value = serde_json::from_str(line).expect("it is one JSON object a line");
            let text = |key: &str| summary[key].as_str().unwrap_or_default();
            let name = format!("instructions.{}.{}", text("function_name"), text("id"));
            let total = &summary["profiles"][0]["data"]["total"]["metrics"]["Ir"]["values"]["new"];
            let total = total.as_f64().expect("callgrind counts instructions");
            let turns = if text("group") == "a_config" {
                1
            } else {
                TURNS
            };
            (name, total / turns as f64)
        })
        .collect()
}

fn allocations() -> BTreeMap<String, f64> {
    let mut counts = BTreeMap::new();
    for (name, spoken) in [
        ("http1", Spoken::Http1),
        ("http2", Spoken::Http2(1)),
        ("http2_streams", Spoken::Http2(16)),
    ] {
        let mut rig = Rig::start(spoken);
        // A buffer of the access log, which serves thousands, falls into some of the measurements.
        let info = (0..3)
            .map(|_| allocation_counter::measure(|| rig.exchanges(TURNS)))
            .min_by_key(|info| info.bytes_total)
            .expect("it was measured three times");
        let mut note = |what: &str, count: u64| {
            let each = count as f64 / TURNS as f64;
            counts.insert(format!("{what}.exchange.{name}"), each);
        };
        note("allocations", info.count_total);
        note("allocated_bytes", info.bytes_total);
    }
    counts
}

/// What instructions depend on besides our own code.
fn tools() -> String {
    let version = |program: &str, argument: &str| {
        let output = Command::new(program).arg(argument).output();
        let output = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        output.unwrap_or_else(|_| format!("no {program}"))
    };
    [
        version("rustc", "--version"),
        version("valgrind", "--version"),
        version("getconf", "GNU_LIBC_VERSION"),
    ]
    .join(", ")
}
