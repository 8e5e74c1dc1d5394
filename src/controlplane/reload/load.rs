//! From a file's name to checked configs and the bytes of everything they name.
//!
//! The reading happens here and is over when this returns: what follows is pure. Besides the result there is
//! always a [`Watched`], so that the watcher knows what to look at when the attempt failed, too. A site that cannot
//! be read, or is wrong, does not fail the attempt: what becomes of it is decided later, in `sites`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::name::SiteName;
use crate::base::secret::SecretBytes;
use crate::config::Config;
use crate::config::error::{ConfigError, Source};
use crate::config::include::Pattern;
use crate::config::parse;
use crate::config::route::Match;
use crate::config::site::{self, Site};
use crate::controlplane::compile;
use crate::controlplane::compile::answers::Question;
use crate::controlplane::reload::files::{self, Files, Found, Print};
use crate::controlplane::reload::watch::Watched;

type Lookup = dyn Fn(&str) -> Option<String> + Send + Sync;

/// Answers what an environment variable holds. As in the system, that does not change while the process runs.
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

/// The main file: its text, and what it says.
#[derive(Debug)]
pub struct MainFile {
    /// The text, for the places of errors that are found later.
    pub source: Source,
    /// What it says.
    pub config: Config,
}

/// The file of a site: its text, and what it says.
#[derive(Debug)]
pub struct SiteFile {
    /// The text, for the places of errors that are found later.
    pub source: Source,
    /// What it says.
    pub site: Site,
}

/// The file of a site, and the bytes of the files that it names.
#[derive(Debug)]
pub struct LoadedSite {
    /// The file.
    pub file: Arc<SiteFile>,
    /// The files that it names.
    pub files: Files,
}

/// A site as its file is now.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its name, after its file.
    pub name: SiteName,
    /// Its file.
    pub path: PathBuf,
    /// What it holds.
    pub content: Result<Arc<LoadedSite>, Broken>,
}

/// A site that cannot be read or is wrong.
#[derive(Clone, Debug)]
pub struct Broken {
    /// Why; never empty.
    pub errors: Vec<ConfigError>,
    /// What it seems to answer for.
    pub claims: Vec<Match>,
}

/// A checked config, its sites, and the bytes of every file that they name.
#[derive(Debug)]
pub struct Loaded {
    /// The main file.
    pub main: Arc<MainFile>,
    /// The files that it names.
    pub files: Files,
    /// The sites, in the order in which they are included.
    pub sites: Vec<Candidate>,
}

impl Loaded {
    /// Everything that DNS must be asked for pools.
    pub fn questions(&self) -> BTreeSet<Question> {
        let sites = self
            .sites
            .iter()
            .filter_map(|site| site.content.as_ref().ok());
        let pools = sites.flat_map(|site| &site.file.site.pools);
        compile::questions_of(self.main.config.pools.iter().chain(pools))
    }
}

/// What was read before: texts that are the same are not read again.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The main file.
    pub main: Option<Arc<MainFile>>,
    /// The files of sites.
    pub sites: HashMap<PathBuf, Arc<LoadedSite>>,
}

/// One attempt to load.
#[derive(Debug)]
pub struct Attempt {
    /// The files that mattered and what they held.
    pub watched: Watched,
    /// The config, or everything that is wrong with the main file.
    pub result: Result<Loaded, Vec<ConfigError>>,
}

/// Reads the main file alone, for what must be known before anything else.
///
/// # Errors
/// Everything that is wrong with it.
pub fn main_file(
    path: &Path,
    environment: &Environment,
) -> Result<Arc<MainFile>, Vec<ConfigError>> {
    read_main(path, &files::read_one(path), environment, &Known::default())
}

/// Loads the config at `path`. Where it cannot be understood, the files that matter are those that are `known`.
pub fn load(path: &Path, environment: &Environment, known: &Known) -> Attempt {
    let text = files::read_one(path);
    let mut seen = Seen::default();
    // The config goes into the digest beside what it names.
    seen.note(path, &text);
    let result = match read_main(path, &text, environment, known) {
        Ok(main) => load_named(main, environment, known, &mut seen),
        Err(errors) => {
            known.look_at(&mut seen);
            Err(errors)
        }
    };
    Attempt {
        watched: seen.watched(),
        result,
    }
}

/// Everything that an attempt has looked at.
#[derive(Default)]
struct Seen {
    prints: BTreeMap<PathBuf, Print>,
    patterns: Vec<Pattern>,
    /// What the patterns led to: found anew at each look.
    found: BTreeSet<PathBuf>,
}

impl Seen {
    fn note(&mut self, path: &Path, content: &io::Result<SecretBytes>) {
        self.prints.insert(path.to_owned(), files::print(content));
    }

    /// Reads `paths`.
    fn read(&mut self, paths: &BTreeSet<PathBuf>) -> Files {
        let files = files::read(paths);
        for (path, content) in &files {
            self.note(path, content);
        }
        files
    }

    /// Finds the files that `patterns` mean.
    fn find(&mut self, patterns: &[Pattern]) -> Found {
        let found = files::find(patterns);
        self.patterns = patterns.to_vec();
        self.found.extend(found.files.iter().cloned());
        for (_, folder, error) in &found.unread {
            self.prints
                .insert(folder.clone(), files::print_failure(error));
            self.found.insert(folder.clone());
        }
        found
    }

    fn watched(self) -> Watched {
        let fingerprint = files::fingerprint(&self.prints);
        let paths = self.prints.into_keys();
        Watched {
            paths: paths.filter(|path| !self.found.contains(path)).collect(),
            patterns: self.patterns,
            fingerprint,
        }
    }
}

impl Known {
    /// Looks at what is named by what was read before.
    fn look_at(&self, seen: &mut Seen) {
        let Some(main) = &self.main else {
            return;
        };
        let config = &main.config;
        seen.read(&compile::files_of(&config.listeners, &config.pools));
        for path in seen.find(&config.include).files {
            seen.note(&path, &files::read_one(&path));
        }
        for site in self.sites.values() {
            seen.read(&compile::files_of(&[], &site.file.site.pools));
        }
    }
}

/// Loads what the main file names.
fn load_named(
    main: Arc<MainFile>,
    environment: &Environment,
    known: &Known,
    seen: &mut Seen,
) -> Result<Loaded, Vec<ConfigError>> {
    let config = &main.config;
    let files = seen.read(&compile::files_of(&config.listeners, &config.pools));
    let found = seen.find(&config.include);
    let mut names = HashMap::new();
    let sites = found.files.into_iter().map(|path| {
        let text = files::read_one(&path);
        seen.note(&path, &text);
        let (name, is_its_own) = name_of(&path, &mut names);
        let file = read_site(&path, &name, &text, environment, &main, known);
        let content = match (file, is_its_own) {
            (Ok(file), Ok(())) => {
                let files = seen.read(&compile::files_of(&[], &file.site.pools));
                Ok(Arc::new(LoadedSite { file, files }))
            }
            (Ok(file), Err(error)) => Err(Broken {
                errors: vec![error],
                claims: file.site.conditions().collect(),
            }),
            (Err(mut broken), is_its_own) => {
                broken.errors.extend(is_its_own.err());
                Err(broken)
            }
        };
        Candidate {
            name,
            path,
            content,
        }
    });
    let sites = sites.collect();
    let unread = found.unread.into_iter().map(|(number, folder, error)| {
        let message = format!("{} cannot be read: {error}", folder.display());
        let help = "make the folder, or leave it out; it may be empty";
        main.source
            .error_at(&format!("include[{number}]"), &message, Some(help))
    });
    let errors: Vec<_> = unread.collect();
    if !errors.is_empty() {
        return Err(errors);
    }
    Ok(Loaded { main, files, sites })
}

fn read_main(
    path: &Path,
    text: &io::Result<SecretBytes>,
    environment: &Environment,
    known: &Known,
) -> Result<Arc<MainFile>, Vec<ConfigError>> {
    let source = source_of(path, text)?;
    if let Some(main) = &known.main
        && main.source.is_same(&source)
    {
        return Ok(Arc::clone(main));
    }
    let config = parse::parse(&source, &*environment.0)?;
    Ok(Arc::new(MainFile { source, config }))
}

/// What a site is called, and whether no earlier one is.
fn name_of(
    path: &Path,
    taken: &mut HashMap<SiteName, PathBuf>,
) -> (SiteName, Result<(), ConfigError>) {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let name = SiteName::from(stem.as_ref());
    let refuse = |message: &str| {
        let help = "a site is called by the name of its file without extension, and logs show it";
        Err(Source::new(path, "").error_at("", message, Some(help)))
    };
    if stem.chars().any(char::is_control) {
        return (name, refuse("the name of the file has control characters"));
    }
    let first = taken.entry(name.clone()).or_insert_with(|| path.to_owned());
    if *first == path {
        return (name, Ok(()));
    }
    let refused = refuse(&format!(
        "the name `{name}` is taken by {}",
        first.display()
    ));
    (name, refused)
}

fn read_site(
    path: &Path,
    name: &SiteName,
    text: &io::Result<SecretBytes>,
    environment: &Environment,
    main: &MainFile,
    known: &Known,
) -> Result<Arc<SiteFile>, Broken> {
    let source = source_of(path, text).map_err(|errors| Broken {
        errors,
        claims: Vec::new(),
    })?;
    let inherits_the_same = known.main.as_ref().is_some_and(|before| {
        let (before, now) = (&before.config, &main.config);
        before.timeouts.route == now.timeouts.route && before.zone == now.zone
    });
    if let Some(before) = known.sites.get(path)
        && inherits_the_same
        && before.file.source.is_same(&source)
        && before.file.site.name == *name
    {
        return Ok(Arc::clone(&before.file));
    }
    let site = site::parse(&source, name, &main.config, &*environment.0);
    let site = site.map_err(|errors| Broken {
        errors,
        claims: site::salvage(&source, &*environment.0),
    })?;
    Ok(Arc::new(SiteFile { source, site }))
}

fn source_of(path: &Path, text: &io::Result<SecretBytes>) -> Result<Source, Vec<ConfigError>> {
    match text {
        Ok(bytes) => Source::from_bytes(path, bytes).map_err(|error| vec![error]),
        Err(error) => {
            let message = format!("cannot be read: {error}");
            let help = compile::help_to_read(error);
            Err(vec![Source::new(path, "").error_at("", &message, help)])
        }
    }
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

    /// A folder with these files.
    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let file = folder.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        folder
    }

    fn attempt(folder: &tempfile::TempDir, known: &Known) -> Attempt {
        let path = folder.path().join("proxy.yaml");
        let attempt = load(&path, &Environment::new(|_| None), known);
        // Or the watcher would find a change where there is none, and never end.
        let watched = &attempt.watched;
        let look = files::look(&watched.paths, &watched.patterns);
        assert_eq!(look, watched.fingerprint);
        attempt
    }

    fn known(loaded: &Loaded) -> Known {
        let sites = loaded.sites.iter();
        let sites = sites.map(|site| (site.path.clone(), site.content.clone().unwrap()));
        Known {
            main: Some(Arc::clone(&loaded.main)),
            sites: sites.collect(),
        }
    }

    fn names(folder: &tempfile::TempDir, attempt: &Attempt) -> String {
        let names = attempt
            .watched
            .paths
            .iter()
            .map(|path| path.strip_prefix(folder.path()).unwrap().display());
        names
            .map(|name| name.to_string())
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn a_config_and_what_it_names_are_read_and_watched() {
        let folder = folder(&[("proxy.yaml", CONFIG), ("a.pem", "chain")]);
        let attempt = attempt(&folder, &Known::default());
        assert_eq!(names(&folder, &attempt), "a.key a.pem proxy.yaml");
        let files = attempt.result.unwrap().files;
        assert_eq!(files.len(), 2);
        let chain = &files[&folder.path().join("a.pem")];
        assert_eq!(chain.as_deref().unwrap(), b"chain");
        assert!(files[&folder.path().join("a.key")].is_err());
    }

    #[test]
    fn a_config_that_is_not_understood_leaves_the_known_files_watched() {
        let folder = folder(&[("proxy.yaml", CONFIG)]);
        let loaded = attempt(&folder, &Known::default()).result.unwrap();
        fs::write(folder.path().join("proxy.yaml"), "nonsense").unwrap();
        let attempt = attempt(&folder, &known(&loaded));
        assert!(attempt.result.is_err());
        assert_eq!(names(&folder, &attempt), "a.key a.pem proxy.yaml");
    }

    #[test]
    fn a_text_that_is_the_same_is_not_read_again() {
        let folder = folder(&[("proxy.yaml", CONFIG)]);
        let one = attempt(&folder, &Known::default()).result.unwrap();
        let two = attempt(&folder, &known(&one)).result.unwrap();
        assert!(Arc::ptr_eq(&one.main, &two.main));
        let text = format!("# a comment\n{CONFIG}");
        fs::write(folder.path().join("proxy.yaml"), text).unwrap();
        let three = attempt(&folder, &known(&one)).result.unwrap();
        assert!(!Arc::ptr_eq(&one.main, &three.main));
        assert_eq!(one.main.config, three.main.config);
    }

    #[test]
    fn a_config_that_cannot_be_read_is_an_error_of_the_config() {
        let folder = folder(&[]);
        let attempt = attempt(&folder, &Known::default());
        let errors = attempt.result.unwrap_err();
        assert!(
            errors[0].message.starts_with("cannot be read"),
            "{errors:?}"
        );
        assert_eq!(attempt.watched.paths.len(), 1);
    }

    const WITH_SITES: &str = "
listeners: [ { address: 127.0.0.1:80 } ]
include: [ sites/*.yaml, one.yaml ]
timeouts: { response: 5s }
";
    const SITE: &str = "routes: [ { match: { host: a.test }, pool: p } ]
pools: { p: { endpoints: ['10.0.0.1:80'], tls: { ca: ca.pem } } }
";

    #[test]
    fn sites_are_read_each_for_itself() {
        let files = [
            ("proxy.yaml", WITH_SITES),
            ("sites/good.yaml", SITE),
            (
                "sites/bad.yaml",
                "routes: [ { match: { host: b.test }, pol: p } ]",
            ),
            ("sites/ca.pem", "roots"),
        ];
        let folder = folder(&files);
        let attempt = attempt(&folder, &Known::default());
        assert_eq!(names(&folder, &attempt), "proxy.yaml sites/ca.pem");
        let loaded = attempt.result.unwrap();
        let [bad, good, one] = &loaded.sites[..] else {
            panic!("{:?}", loaded.sites)
        };
        let broken = bad.content.as_ref().unwrap_err();
        assert_eq!((bad.name.as_str(), broken.claims.len()), ("bad", 1));
        let site = good.content.as_ref().unwrap();
        assert_eq!(site.file.site.routes[0].timeouts.response.as_secs(), 5);
        assert_eq!(site.files.len(), 1);
        let missing = one.content.as_ref().unwrap_err();
        assert!(missing.errors[0].message.starts_with("cannot be read"));
    }

    #[test]
    fn a_site_is_read_again_when_it_inherits_something_else() {
        let folder = folder(&[
            ("proxy.yaml", WITH_SITES),
            ("one.yaml", SITE),
            ("sites/x", ""),
        ]);
        let one = attempt(&folder, &Known::default()).result.unwrap();
        let response = |loaded: &Loaded| {
            let site = loaded.sites[0].content.as_ref().unwrap();
            site.file.site.routes[0].timeouts.response.as_secs()
        };
        assert_eq!(response(&one), 5);
        let text = WITH_SITES.replace("5s", "6s");
        fs::write(folder.path().join("proxy.yaml"), text).unwrap();
        assert_eq!(response(&attempt(&folder, &known(&one)).result.unwrap()), 6);
    }

    #[test]
    fn a_name_is_that_of_the_earlier_file() {
        let text = WITH_SITES.replace("one.yaml", "other/*.yaml");
        let files = [
            ("proxy.yaml", &*text),
            ("sites/a.yaml", SITE),
            ("other/a.yaml", SITE),
        ];
        let folder = folder(&files);
        let loaded = attempt(&folder, &Known::default()).result.unwrap();
        assert!(loaded.sites[0].content.is_ok());
        let broken = loaded.sites[1].content.as_ref().unwrap_err();
        let error = broken.errors[0].to_string();
        assert!(error.contains("the name `a` is taken by"), "{error}");
    }

    #[test]
    fn a_folder_of_sites_that_has_gone_is_an_error_of_the_main_file() {
        let folder = folder(&[("proxy.yaml", WITH_SITES), ("one.yaml", SITE)]);
        let errors = attempt(&folder, &Known::default()).result.unwrap_err();
        let error = errors[0].to_string();
        assert!(
            error.contains("proxy.yaml:3:12: ") && error.contains("sites cannot be read"),
            "{error}"
        );
    }
}
