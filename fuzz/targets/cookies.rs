//! Eats cookies of clients: sessions and cohorts.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lockgate::fuzzing::cookies(bytes));
