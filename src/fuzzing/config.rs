//! Config files: whatever is in one, its errors have their places, and what is checked compiles or says why not.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, SystemTime};

use crate::config::error::{ConfigError, Source, render, to_json};
use crate::config::{Config, parse, site};
use crate::controlplane::compile::answers::Answers;
use crate::controlplane::compile::{Compiler, Outside, files_of};
use crate::dataplane::snapshot::Snapshot;

/// The text of a config, or of a site beside an empty one.
pub fn configs(bytes: &[u8]) {
    let source = match Source::from_bytes("proxy.yaml", bytes) {
        Ok(source) => source,
        Err(error) => return have_places(&[error], &String::from_utf8_lossy(bytes)),
    };
    let env = |name: &str| (name == "SET").then(|| "127.0.0.1".to_owned());
    match parse::parse(&source, &env) {
        Err(errors) => have_places(&errors, &source.text),
        Ok(config) => {
            if let Err(errors) = compile(&config, &source) {
                have_places(&errors, &source.text);
            }
        }
    }
    parse::admin_of(&source, &env);
    site::salvage(&source, &env);
    if let Err(errors) = site::parse(&source, &"shop".into(), &Config::default(), &env) {
        have_places(&errors, &source.text);
    }
}

/// Compiles a config in a world without files and names.
pub(super) fn compile(config: &Config, source: &Source) -> Result<Snapshot, Vec<ConfigError>> {
    let files = files_of(&config.listeners, &config.pools);
    let missing = || Err(io::Error::from(io::ErrorKind::NotFound));
    let files: BTreeMap<_, _> = files.into_iter().map(|file| (file, missing())).collect();
    let answers = Answers::new();
    let outside = Outside {
        answers: &answers,
        now: SystemTime::UNIX_EPOCH + Duration::from_hours(24 * 365 * 57),
        sessions: None,
    };
    let compiler = Compiler::new(outside, None);
    let main = compiler.main(config, source, &files)?;
    Ok(compiler.snapshot(config, main, Vec::new()))
}

fn have_places(errors: &[ConfigError], text: &str) {
    assert!(!errors.is_empty() && errors.len() <= 101);
    let lines = text.matches('\n').count() + 1;
    for error in errors {
        assert!(
            (1..=lines).contains(&error.line) && error.column > 0,
            "{error}"
        );
        assert!(!error.message.is_empty());
        assert!(!error.to_string().contains('\n'), "{error}");
    }
    assert!(!render(errors, true).is_empty());
    let json: serde_json::Value = serde_json::from_str(&to_json(errors)).expect("it is JSON");
    assert_eq!(json.as_array().map(Vec::len), Some(errors.len()));
}
