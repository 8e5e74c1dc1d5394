//! Eats answers of endpoints: a head, and chunks.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lockgate::fuzzing::answers(bytes));
