//! Eats requests on a connection, one behind the other.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lockgate::fuzzing::requests(bytes));
