//! The sites as they stand: each at the version that its file holds, at its last good one, or left out.
//!
//! [`choose`] decides, at every reload anew; what it decided before is where a site that is wrong now falls back to.

mod choose;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use super::files;
use super::load::{LoadedSite, SiteFile};
use crate::base::name::SiteName;
use crate::config::error::ConfigError;
use crate::config::route::{Match, Route};
use crate::controlplane::compile::{Compiled, Compiler, Part};

pub use self::choose::choose;

/// A site as it stands.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Its name.
    pub name: SiteName,
    /// Its file.
    pub path: PathBuf,
    /// What is taken of it.
    pub taken: Taken,
    /// Why that is not what its file holds; empty if it is.
    pub errors: Vec<ConfigError>,
}

/// What is taken of a site.
#[derive(Clone, Debug)]
pub enum Taken {
    /// What its file holds.
    Written(Arc<LoadedSite>),
    /// Its last good version.
    Frozen {
        /// The version, as it was written.
        last: Arc<LoadedSite>,
        /// Its routes, without what others have claimed meanwhile.
        routes: Vec<Route>,
    },
    /// Nothing: it never was good.
    LeftOut {
        /// What it seems to answer for.
        claims: Vec<Match>,
    },
}

impl Standing {
    /// The last version that was good.
    pub fn good(&self) -> Option<&Arc<LoadedSite>> {
        match &self.taken {
            Taken::Written(site) | Taken::Frozen { last: site, .. } => Some(site),
            Taken::LeftOut { .. } => None,
        }
    }

    /// What is in force of it; nothing if it is left out.
    pub fn part(&self) -> Option<Part<'_>> {
        match &self.taken {
            Taken::Written(site) => Some(site.part(&site.file.site.routes)),
            Taken::Frozen { last, routes } => Some(last.part(routes)),
            Taken::LeftOut { .. } => None,
        }
    }

    /// Compiles what is in force of it.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn compile(&self, compiler: &Compiler<'_>) -> Result<Compiled, Vec<ConfigError>> {
        match &self.taken {
            Taken::Written(site) => compiler.site(&site.part(&site.file.site.routes)),
            Taken::Frozen { last, routes } => compiler.site(&last.part(routes)),
            Taken::LeftOut { claims } => Ok(compiler.left_out(&self.name, claims)),
        }
    }

    /// Whether the same of it is in force as of `other`.
    pub fn is_same(&self, other: &Self) -> bool {
        let is_same = match (&self.taken, &other.taken) {
            (Taken::LeftOut { claims: one }, Taken::LeftOut { claims: other }) => one == other,
            _ => match (self.part(), other.part()) {
                (Some(one), Some(other)) => {
                    one.routes == other.routes
                        && one.pools == other.pools
                        && files::are_same(one.files, other.files)
                }
                _ => false,
            },
        };
        is_same && self.name == other.name && self.path == other.path
    }
}

impl LoadedSite {
    /// What is to be compiled of it, with these of its routes.
    fn part<'a>(&'a self, routes: &'a [Route]) -> Part<'a> {
        let SiteFile { source, site } = &*self.file;
        Part {
            source,
            site: Some(&site.name),
            routes,
            pools: &site.pools,
            files: &self.files,
        }
    }
}
