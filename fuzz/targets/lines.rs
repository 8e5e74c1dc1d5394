//! Eats what clients put into the access log.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lockgate::fuzzing::lines(bytes));
