//! Plays the corpora of the fuzzers: `fuzz/corpora` has a file for each target, of inputs each behind its length.

use std::fs;
use std::panic;

use super::TARGETS;

/// The inputs of a corpus: each is its length in two bytes, the higher one first, and as many bytes.
fn inputs(mut corpus: &[u8]) -> Vec<&[u8]> {
    let mut inputs = Vec::new();
    while let Some((length, rest)) = corpus.split_first_chunk() {
        let (input, rest) = rest.split_at(u16::from_be_bytes(*length).into());
        inputs.push(input);
        corpus = rest;
    }
    assert!(corpus.is_empty(), "a corpus ends with an input");
    inputs
}

#[test]
fn every_input_of_every_corpus_keeps_its_promise() {
    let mut broken = Vec::new();
    for (name, check) in TARGETS {
        let path = format!("{}/fuzz/corpora/{name}.bin", env!("CARGO_MANIFEST_DIR"));
        let corpus = fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let inputs = inputs(&corpus);
        assert!(inputs.len() > 1, "{path} is hollow");
        for input in inputs {
            if panic::catch_unwind(|| check(input)).is_err() {
                broken.push(format!("{name}: {}", input.escape_ascii()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn each_check_has_a_target_of_its_name() {
    let root = env!("CARGO_MANIFEST_DIR");
    let manifest = fs::read_to_string(format!("{root}/fuzz/Cargo.toml")).unwrap();
    let named = manifest.split("[[bin]]\nname = \"").skip(1);
    let named: Vec<_> = named.map(|rest| rest.split('"').next().unwrap()).collect();
    assert_eq!(named, TARGETS.map(|(name, _)| name));
    for name in named {
        let target = fs::read_to_string(format!("{root}/fuzz/targets/{name}.rs")).unwrap();
        let call = format!("|bytes: &[u8]| lockgate::fuzzing::{name}(bytes)");
        assert!(target.contains(&call), "{target}");
    }
}
