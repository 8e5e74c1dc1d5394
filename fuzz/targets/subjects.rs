//! Eats certificates of clients.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lockgate::fuzzing::subjects(bytes));
