//! Eats chunked bodies of requests.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lockgate::fuzzing::bodies(bytes));
