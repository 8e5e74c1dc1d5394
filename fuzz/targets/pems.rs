//! Eats files of certificates and keys.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lockgate::fuzzing::pems(bytes));
