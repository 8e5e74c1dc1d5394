//! The config in force: the main file as it was read, and the sites as they stand.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::files::{self, Files};
use super::load::{Known, Loaded, MainFile};
use super::sites::Standing;
use crate::config::Config;
use crate::config::error::ConfigError;
use crate::config::listener::Certificate;
use crate::config::pool::Pool;
use crate::config::route::Route;
use crate::controlplane::compile::answers::Question;
use crate::controlplane::compile::{self, Compiler, Outside, Previous};
use crate::dataplane::snapshot::Snapshot;

/// The config in force, and the bytes of every file that it names.
#[derive(Debug)]
pub struct InForce {
    /// The main file.
    pub main: Arc<MainFile>,
    /// The files that it names.
    pub files: Files,
    /// The sites, in their order.
    pub sites: Vec<Standing>,
}

impl InForce {
    /// What the main file says.
    pub fn config(&self) -> &Config {
        &self.main.config
    }

    /// Every route, in the order of the snapshot.
    pub fn routes(&self) -> impl Iterator<Item = &Route> {
        let sites = self.sites.iter().filter_map(Standing::part);
        let sites = sites.flat_map(|part| part.routes);
        self.config().routes.iter().chain(sites)
    }

    /// Every pool, in the order of the snapshot.
    pub fn pools(&self) -> impl Iterator<Item = &Pool> {
        let sites = self.sites.iter().filter_map(Standing::part);
        let sites = sites.flat_map(|part| part.pools);
        self.config().pools.iter().chain(sites)
    }

    /// Every certificate that listeners and pools show, by the file of its chain, with the bytes of chain and key.
    pub fn certificates(&self) -> impl Iterator<Item = (String, [Option<&[u8]>; 2])> {
        let config = self.config();
        let listeners = config.listeners.iter();
        let shown = listeners.flat_map(|listener| match &listener.tls {
            Some(tls) => tls.certificates.as_slice(),
            None => &[],
        });
        let shown = shown.map(|certificate| (certificate, &self.files));
        let own = shown_by(&config.pools, &self.files);
        let sites = self.sites.iter().filter_map(Standing::part);
        let sites = sites.flat_map(|part| shown_by(part.pools, part.files));
        shown.chain(own).chain(sites).map(|(certificate, files)| {
            let bytes = |file| Some(&**files.get(file)?.as_ref().ok()?);
            let name = certificate.cert.display().to_string();
            (name, [bytes(&certificate.cert), bytes(&certificate.key)])
        })
    }

    /// Everything that DNS must be asked for its pools.
    pub fn questions(&self) -> BTreeSet<Question> {
        compile::questions_of(self.pools())
    }

    /// What need not be read again.
    pub fn known(&self) -> Known {
        let sites = self.sites.iter();
        let sites = sites.filter_map(|site| Some((site.path.clone(), Arc::clone(site.good()?))));
        Known {
            main: Some(Arc::clone(&self.main)),
            sites: sites.collect(),
        }
    }

    /// It and the snapshot that was made of it, for the compilation of what follows.
    pub fn previous<'a>(&'a self, snapshot: &'a Snapshot) -> Previous<'a> {
        Previous {
            snapshot,
            routes: self.routes().collect(),
        }
    }

    /// Compiles it once more, of the same bytes, beside other answers to its names.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn compile(
        &self,
        outside: Outside<'_>,
        snapshot: &Snapshot,
    ) -> Result<Snapshot, Vec<ConfigError>> {
        let previous = self.previous(snapshot);
        let compiler = Compiler::new(outside, Some(&previous));
        let main = compiler.main(self.config(), &self.main.source, &self.files)?;
        let sites = self.sites.iter().map(|site| site.compile(&compiler));
        let sites = sites.collect::<Result<_, _>>()?;
        Ok(compiler.snapshot(self.config(), main, sites))
    }

    /// Whether what was loaded is this, and all of it is in force as it is written.
    pub fn is_all_of(&self, loaded: &Loaded) -> bool {
        is_same_main((&self.main, &self.files), (&loaded.main, &loaded.files))
            && self.sites.len() == loaded.sites.len()
            && self.sites.iter().zip(&loaded.sites).all(|(site, now)| {
                let (Some(before), Ok(after)) = (site.good(), &now.content) else {
                    return false;
                };
                site.errors.is_empty()
                    && site.path == now.path
                    && before.file.site == after.file.site
                    && files::are_same(&before.files, &after.files)
            })
    }

    /// Whether the same is in force by it as by `other`.
    pub fn is_same(&self, other: &Self) -> bool {
        is_same_main((&self.main, &self.files), (&other.main, &other.files))
            && self.sites.len() == other.sites.len()
            && self
                .sites
                .iter()
                .zip(&other.sites)
                .all(|(one, other)| one.is_same(other))
    }

    /// What is wrong with sites.
    pub fn errors(&self) -> Vec<ConfigError> {
        let errors = self.sites.iter().flat_map(|site| &site.errors);
        errors.cloned().collect()
    }

    /// What is set that lowers security, as paths; those of sites with their file in front.
    pub fn dangers(&self) -> Vec<String> {
        let mut dangers = self.config().dangers();
        for site in &self.sites {
            let Some(good) = site.good() else {
                continue;
            };
            let file = site.path.display();
            let own = good.file.site.dangers().into_iter();
            dangers.extend(own.map(|path| format!("{file}: {path}")));
        }
        dangers
    }
}

/// The certificates that pools show to endpoints, beside the files that hold them.
fn shown_by<'a>(
    pools: &'a [Pool],
    files: &'a Files,
) -> impl Iterator<Item = (&'a Certificate, &'a Files)> {
    let tls = pools.iter().filter_map(|pool| pool.tls.as_ref());
    tls.filter_map(move |tls| Some((tls.client_certificate.as_ref()?, files)))
}

fn is_same_main(one: (&Arc<MainFile>, &Files), other: (&Arc<MainFile>, &Files)) -> bool {
    let is_same_config = Arc::ptr_eq(one.0, other.0) || one.0.config == other.0.config;
    is_same_config && files::are_same(one.1, other.1)
}
