//! Eats TLS session tickets.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lockgate::fuzzing::tickets(bytes));
