//! Eats what processes say to each other during an upgrade.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lockgate::fuzzing::handovers(bytes));
