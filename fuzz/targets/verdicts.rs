//! Eats answers of gRPC health checks.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lockgate::fuzzing::verdicts(bytes));
