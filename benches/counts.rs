//! How many instructions the small steps take, and one whole exchange: gungraun, under valgrind's callgrind.
//!
//! The same at every hour, so that a difference means something: `.ci/run bench-counts` holds the counts against
//! `benches/budget.toml`, and with UPDATE=1 makes them the budget. What is counted is in `pieces` and `rig`.
//!
//! The same on other machines too, if the compiler, the C library and valgrind are the same. Code that chooses by
//! processor, as memchr and the C library do, meets the one that valgrind plays: an Intel of 2014 with AVX2 and
//! without AVX-512, on every x86-64 machine that has AVX2 itself. Environment variables are cleared for the run,
//! and addresses are not random.

#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    reason = "gungraun's macros"
)]

mod configs;
mod pieces;
mod rig;

use gungraun::Callgrind;
use gungraun::prelude::*;
use mimalloc::MiMalloc;

use lockgate::telemetry::Format;

use crate::pieces::{LONG_HEAD, Piece, SHORT_HEAD};
use crate::rig::{Rig, Spoken, TURNS};

/// As in the program: what an allocation costs is part of a step.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

#[library_benchmark]
#[bench::http1(args = (Spoken::Http1), setup = Rig::start)]
#[bench::http2(args = (Spoken::Http2(1)), setup = Rig::start)]
#[bench::http2_streams(args = (Spoken::Http2(16)), setup = Rig::start)]
fn exchange(mut rig: Rig) -> Rig {
    rig.exchanges(TURNS);
    rig
}

#[library_benchmark]
#[bench::of_10(args = (10), setup = pieces::route)]
#[bench::of_1000(args = (1_000), setup = pieces::route)]
#[bench::of_100000(args = (100_000), setup = pieces::route)]
fn route(piece: Piece) -> Piece {
    repeat(piece)
}

#[library_benchmark]
#[bench::round_robin_2(args = (2), setup = pieces::round_robin)]
#[bench::round_robin_100(args = (100), setup = pieces::round_robin)]
#[bench::least_connections_2(args = (2), setup = pieces::least_connections)]
#[bench::least_connections_100(args = (100), setup = pieces::least_connections)]
#[bench::random_two_100(args = (100), setup = pieces::random_two)]
#[bench::peak_ewma_2(args = (2), setup = pieces::peak_ewma)]
#[bench::peak_ewma_100(args = (100), setup = pieces::peak_ewma)]
#[bench::maglev_100(args = (100), setup = pieces::maglev)]
#[bench::ring_100(args = (100), setup = pieces::ring)]
fn pick(piece: Piece) -> Piece {
    repeat(piece)
}

#[library_benchmark]
#[bench::short(args = (SHORT_HEAD), setup = pieces::head)]
#[bench::long(args = (LONG_HEAD), setup = pieces::head)]
fn head(piece: Piece) -> Piece {
    repeat(piece)
}

#[library_benchmark]
#[bench::request(args = (), setup = pieces::request_filters)]
#[bench::response(args = (), setup = pieces::response_rules)]
fn headers(piece: Piece) -> Piece {
    repeat(piece)
}

#[library_benchmark]
#[bench::load(args = (), setup = pieces::snapshot_load)]
fn snapshot(piece: Piece) -> Piece {
    repeat(piece)
}

#[library_benchmark]
#[bench::json(args = (Format::Json), setup = pieces::log_line)]
#[bench::combined(args = (Format::Combined), setup = pieces::log_line)]
fn access_log(piece: Piece) -> Piece {
    repeat(piece)
}

#[library_benchmark]
#[bench::parse_10000(args = (10_000), setup = pieces::config_parse)]
#[bench::compile_10000(args = (10_000), setup = pieces::config_compile)]
#[bench::recompile_10000(args = (10_000), setup = pieces::config_recompile)]
fn config(mut piece: Piece) -> Piece {
    piece();
    piece
}

fn repeat(mut piece: Piece) -> Piece {
    for _ in 0..TURNS {
        piece();
    }
    piece
}

library_benchmark_group!(
    name = a_request,
    benchmarks = [exchange, route, pick, head, headers, snapshot, access_log]
);
library_benchmark_group!(name = a_config, benchmarks = [config]);

main!(
    config = LibraryBenchmarkConfig::default().tool(Callgrind::with_args(["--cache-sim=no"])),
    library_benchmark_groups = [a_request, a_config]
);
