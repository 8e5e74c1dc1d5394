//! Configs of benches, from text to what workers read.

use lockgate::base::clock;
use lockgate::config::{Config, error::Source, parse};
use lockgate::controlplane::compile::answers::Answers;
use lockgate::controlplane::compile::{Compiler, Files, Outside, Previous};
use lockgate::dataplane::snapshot::Snapshot;

/// A config as workers read it. It may not name files or hosts.
pub fn compiled(text: &str) -> Snapshot {
    let source = Source::new("proxy.yaml", text);
    compile(&parse(&source), &source, &Files::new())
}

/// From YAML to checked values.
pub fn parse(source: &Source) -> Config {
    parse::parse(source, &|_| None).expect("the text is a config")
}

/// From checked values, and the files that they name, to what workers read.
pub fn compile(config: &Config, source: &Source, files: &Files) -> Snapshot {
    compile_after(None, config, source, files)
}

/// The same, beside the version in force.
pub fn compile_after(
    previous: Option<&Previous<'_>>,
    config: &Config,
    source: &Source,
    files: &Files,
) -> Snapshot {
    let answers = Answers::new();
    let outside = Outside {
        answers: &answers,
        now: clock::wall(),
        sessions: None,
    };
    let compiler = Compiler::new(outside, previous);
    let main = compiler.main(config, source, files);
    let main = main.expect("the config names no hosts, and its files are good");
    compiler.snapshot(config, main, Vec::new())
}
