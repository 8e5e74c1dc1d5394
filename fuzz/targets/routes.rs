//! Eats rules, and requests that look for theirs.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lockgate::fuzzing::routes(bytes));
