//! Eats heads of requests over HTTP/1 and HTTP/2, up to what an endpoint gets of them.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lockgate::fuzzing::heads(bytes));
