//! Configs of benches, from text to what workers read.

use std::collections::BTreeMap;

use lockgate::base::clock;
use lockgate::config::{Config, error::Source, parse};
use lockgate::controlplane::compile::{self, Materials};
use lockgate::dataplane::snapshot::Snapshot;

/// A config as workers read it. It may not name files or hosts.
pub fn compiled(text: &str) -> Snapshot {
    let source = Source::new("proxy.yaml", text);
    compile(&parse(&source), &source)
}

/// From YAML to checked values.
pub fn parse(source: &Source) -> Config {
    parse::parse(source, &|_| None).expect("the text is a config")
}

/// From checked values to what workers read.
pub fn compile(config: &Config, source: &Source) -> Snapshot {
    let materials = Materials {
        files: &BTreeMap::new(),
        answers: &BTreeMap::new(),
        now: clock::wall(),
    };
    compile::compile(config, source, &materials, None)
        .expect("the config names nothing from outside")
}
