//! From a file's name to a checked config and the bytes of everything it names.
//!
//! The reading happens here and is over when this returns: what follows is pure. Besides the result there is
//! always a [`Watched`], so that the watcher knows what to look at when the attempt failed, too.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::Config;
use crate::config::error::{ConfigError, Source};
use crate::config::parse;
use crate::controlplane::compile;
use crate::controlplane::reload::files::{self, Files};
use crate::controlplane::reload::watch::Watched;

type Lookup = dyn Fn(&str) -> Option<String> + Send + Sync;

/// Answers what an environment variable holds.
#[derive(Clone)]
pub struct Environment(Arc<Lookup>);

impl Environment {
    /// An environment that asks `lookup`.
    pub fn new(lookup: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(lookup))
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Environment")
    }
}

/// A checked config, the text it is from, and the bytes of every file it names.
#[derive(Debug)]
pub struct Loaded {
    /// The text, for the places of errors that are found later.
    pub source: Source,
    /// What it says.
    pub config: Config,
    /// The files it names.
    pub files: Files,
}

impl Loaded {
    /// Whether both say the same, whatever the texts look like.
    pub fn says_the_same(&self, other: &Self) -> bool {
        self.config == other.config
            && files::fingerprint(&self.files) == files::fingerprint(&other.files)
    }
}

/// One attempt to load.
#[derive(Debug)]
pub struct Attempt {
    /// The files that mattered and what they held.
    pub watched: Watched,
    /// The config, or everything that is wrong with it.
    pub result: Result<Loaded, Vec<ConfigError>>,
}

/// Loads the config at `path`. Where it cannot be understood, `known` are the files that matter besides.
pub fn load(path: &Path, environment: &Environment, known: &BTreeSet<PathBuf>) -> Attempt {
    let text = files::read_one(path);
    let parsed = read(path, &text, environment);
    let named = match &parsed {
        Ok((_, config)) => compile::files_of(config),
        Err(_) => known.clone(),
    };
    // The config goes into the digest beside what it names.
    let mut files = files::read(&named);
    files.insert(path.to_owned(), text);
    let watched = Watched {
        paths: files.keys().cloned().collect(),
        fingerprint: files::fingerprint(&files),
    };
    files.retain(|file, _| named.contains(file));
    let result = parsed.map(|(source, config)| Loaded {
        source,
        config,
        files,
    });
    Attempt { watched, result }
}

fn read(
    path: &Path,
    text: &io::Result<Vec<u8>>,
    environment: &Environment,
) -> Result<(Source, Config), Vec<ConfigError>> {
    let bytes = match text {
        Ok(bytes) => bytes,
        Err(error) => {
            let message = format!("cannot be read: {error}");
            return Err(vec![Source::new(path, "").error_at("", &message, None)]);
        }
    };
    let source = Source::from_bytes(path, bytes).map_err(|error| vec![error])?;
    let config = parse::parse(&source, &*environment.0)?;
    Ok((source, config))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const CONFIG: &str = "
listeners:
  - address: 127.0.0.1:443
    tls: { certificates: [ { cert: a.pem, key: '${KEY:-a.key}' } ] }
routes:
  - respond: { status: 200 }
";

    fn attempt(folder: &Path, text: &str, known: &[&str]) -> Attempt {
        let path = folder.join("proxy.yaml");
        fs::write(&path, text).unwrap();
        let known = known.iter().map(|file| folder.join(file)).collect();
        load(&path, &Environment::new(|_| None), &known)
    }

    fn names(folder: &Path, paths: &BTreeSet<PathBuf>) -> String {
        let names = paths
            .iter()
            .map(|path| path.strip_prefix(folder).unwrap().display());
        names
            .map(|name| name.to_string())
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn a_config_and_what_it_names_are_read_and_watched() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        fs::write(folder.join("a.pem"), "chain").unwrap();
        let attempt = attempt(folder, CONFIG, &["known.pem"]);
        assert_eq!(
            names(folder, &attempt.watched.paths),
            "a.key a.pem proxy.yaml"
        );
        let files = attempt.result.unwrap().files;
        assert_eq!(files.len(), 2);
        assert_eq!(files[&folder.join("a.pem")].as_deref().unwrap(), b"chain");
        assert!(files[&folder.join("a.key")].is_err());
    }

    #[test]
    fn a_config_that_is_not_understood_leaves_the_known_files_watched() {
        let folder = tempfile::tempdir().unwrap();
        let attempt = attempt(folder.path(), "nonsense", &["known.pem"]);
        assert!(attempt.result.is_err());
        assert_eq!(
            names(folder.path(), &attempt.watched.paths),
            "known.pem proxy.yaml"
        );
    }

    #[test]
    fn a_comment_says_nothing_new_and_a_file_that_is_named_does() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let one = attempt(folder, CONFIG, &[]);
        let two = attempt(folder, &format!("# a comment\n{CONFIG}"), &[]);
        assert_ne!(one.watched.fingerprint, two.watched.fingerprint);
        let (one, two) = (one.result.unwrap(), two.result.unwrap());
        assert!(one.says_the_same(&two));
        fs::write(folder.join("a.pem"), "chain").unwrap();
        assert!(!one.says_the_same(&attempt(folder, CONFIG, &[]).result.unwrap()));
    }

    #[test]
    fn a_config_that_cannot_be_read_is_an_error_of_the_config() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("proxy.yaml");
        let attempt = load(&path, &Environment::new(|_| None), &BTreeSet::new());
        let errors = attempt.result.unwrap_err();
        assert!(
            errors[0].message.starts_with("cannot be read"),
            "{errors:?}"
        );
        assert_eq!(attempt.watched.paths.len(), 1);
    }
}
