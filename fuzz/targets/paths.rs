//! Eats paths, and what rewrites make of them.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lockgate::fuzzing::paths(bytes));
