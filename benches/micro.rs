//! How long the small steps take that every request takes: `cargo bench`, or `cargo bench -- route` for some.
//!
//! For eyes, on one machine before and after a change: times of two machines say nothing about each other, and
//! what decides is `counts.rs`, which counts the same steps. What they add up to under load, beside other proxies,
//! is the question of `benches/peers`.

#![allow(unreachable_pub, reason = "nothing is outside of this binary")]

mod configs;
mod pieces;

use criterion::{BenchmarkId, Criterion};

use lockgate::telemetry::Format;

use crate::pieces::{LONG_HEAD, Piece, SHORT_HEAD};

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for rules in [10, 1_000, 100_000] {
        time(&mut criterion, "route", rules, || pieces::route(rules));
    }
    for endpoints in [2, 100] {
        type Pick = fn(u16) -> Piece;
        let picks: [(&str, Pick); 6] = [
            ("pick/round_robin", pieces::round_robin),
            ("pick/least_connections", pieces::least_connections),
            ("pick/random_two", pieces::random_two),
            ("pick/peak_ewma", pieces::peak_ewma),
            ("pick/maglev", pieces::maglev),
            ("pick/ring", pieces::ring),
        ];
        for (name, pick) in picks {
            time(&mut criterion, name, endpoints, || pick(endpoints));
        }
    }
    for head in [SHORT_HEAD, LONG_HEAD] {
        time(&mut criterion, "head", head.len(), || pieces::head(head));
    }
    time(
        &mut criterion,
        "headers",
        "request",
        pieces::request_filters,
    );
    time(
        &mut criterion,
        "headers",
        "response",
        pieces::response_rules,
    );
    time(&mut criterion, "snapshot", "load", pieces::snapshot_load);
    for (name, format) in [("json", Format::Json), ("combined", Format::Combined)] {
        time(&mut criterion, "access_log", name, || {
            pieces::log_line(format)
        });
    }
    for routes in [1_000, 10_000] {
        time(&mut criterion, "config/parse", routes, || {
            pieces::config_parse(routes)
        });
        time(&mut criterion, "config/compile", routes, || {
            pieces::config_compile(routes)
        });
        time(&mut criterion, "config/recompile", routes, || {
            pieces::config_recompile(routes)
        });
    }
    criterion.final_summary();
}

/// Times a piece, which is made only if it was asked for.
fn time(
    criterion: &mut Criterion,
    group: &str,
    case: impl std::fmt::Display,
    make: impl Fn() -> Piece,
) {
    let mut group = criterion.benchmark_group(group);
    group.bench_function(BenchmarkId::from_parameter(case), |bencher| {
        bencher.iter(make());
    });
}
