//! Which version of each site is taken.
//!
//! The sites are gone through in their order, each beside the main file and those before it. One whose file is wrong,
//! or claims a host and path that is taken, is frozen: it stays at its last good version, without what others have
//! claimed meanwhile. One that never was good is left out, and what it seems to answer for ends in a fault.

use std::sync::Arc;

use foldhash::{HashMap, HashMapExt, HashSet, HashSetExt};

use super::super::load::{Broken, Candidate, LoadedSite, MainFile, SiteFile};
use super::{Standing, Taken};
use crate::base::name::{PoolName, RouteName, SiteName};
use crate::config::error::{ConfigError, Source};
use crate::config::route::Route;
use crate::config::site::{self, Claim, Site};
use crate::controlplane::compile::{Compiled, Compiler};

/// Conflicts of a site that are told, each with both places; the last one counts the others.
const CONFLICTS_LIMIT: usize = 10;

/// Decides for each of the sites, and compiles what is taken of it.
pub fn choose(
    candidates: &[Candidate],
    main: &MainFile,
    before: &[Standing],
    compiler: &Compiler<'_>,
) -> Vec<(Standing, Compiled)> {
    if candidates.is_empty() {
        return Vec::new();
    }
    let before: HashMap<_, _> = before.iter().map(|site| (&site.path, site)).collect();
    let mut ground = Ground::of(main);
    candidates
        .iter()
        .map(|candidate| {
            let last = before.get(&candidate.path).and_then(|site| site.good());
            ground.settle(candidate, last, compiler)
        })
        .collect()
}

/// What is taken by the main file, and by the sites so far.
struct Ground<'a> {
    main: &'a MainFile,
    /// The sites that have their place.
    sites: Vec<Arc<LoadedSite>>,
    claims: HashMap<Claim, Owner>,
    names: HashSet<SiteName>,
    /// Names of the main file: one may look like that of a site.
    pools: HashSet<&'a PoolName>,
    routes: HashMap<&'a RouteName, usize>,
}

/// Where a claim is made.
#[derive(Clone, Copy)]
struct Owner {
    /// The site, by its number; absent: the main file.
    site: Option<usize>,
    /// The route, and its host, counted as in the file.
    route: usize,
    host: usize,
}

impl<'a> Ground<'a> {
    fn of(main: &'a MainFile) -> Self {
        let config = &main.config;
        let mut ground = Self {
            main,
            sites: Vec::new(),
            claims: HashMap::new(),
            names: HashSet::new(),
            pools: config.pools.iter().map(|pool| &pool.name).collect(),
            routes: config
                .routes
                .iter()
                .map(|route| &route.name)
                .zip(0..)
                .collect(),
        };
        ground.claim(&config.routes, None);
        ground
    }

    fn claim(&mut self, routes: &[Route], site: Option<usize>) {
        for (number, route) in routes.iter().enumerate() {
            for (host, claim) in Claim::of(&route.matches).enumerate() {
                let owner = Owner {
                    site,
                    route: number,
                    host,
                };
                self.claims.entry(claim).or_insert(owner);
            }
        }
    }

    /// Gives a site its place.
    fn place(&mut self, site: &Arc<LoadedSite>) {
        let number = self.sites.len();
        self.claim(&site.file.site.routes, Some(number));
        self.names.insert(site.file.site.name.clone());
        self.sites.push(Arc::clone(site));
    }

    fn settle(
        &mut self,
        candidate: &Candidate,
        last: Option<&Arc<LoadedSite>>,
        compiler: &Compiler<'_>,
    ) -> (Standing, Compiled) {
        let standing = |taken, errors| Standing {
            name: candidate.name.clone(),
            path: candidate.path.clone(),
            taken,
            errors,
        };
        let Broken { errors, claims } = match self.admit(candidate, compiler) {
            Ok((site, compiled)) => {
                self.place(&site);
                return (standing(Taken::Written(site), Vec::new()), compiled);
            }
            Err(broken) => broken,
        };
        if let Some(last) = last
            && self.has_room_for(&last.file.site)
        {
            let mut routes = last.file.site.routes.clone();
            routes.retain_mut(|route| route.give_up(|claim| self.claims.contains_key(claim)));
            let taken = Taken::Frozen {
                last: Arc::clone(last),
                routes,
            };
            let frozen = standing(taken, errors.clone());
            // It was compiled before, of the same bytes: only a bug could let it fail now.
            if let Ok(compiled) = frozen.compile(compiler) {
                self.place(last);
                return (frozen, compiled);
            }
        }
        let compiled = compiler.left_out(&candidate.name, &claims);
        (standing(Taken::LeftOut { claims }, errors), compiled)
    }

    /// Takes a site as its file is, or tells why that cannot be.
    fn admit(
        &self,
        candidate: &Candidate,
        compiler: &Compiler<'_>,
    ) -> Result<(Arc<LoadedSite>, Compiled), Broken> {
        let loaded = candidate.content.as_ref().map_err(Broken::clone)?;
        let mut errors = self.conflicts(&loaded.file);
        match compiler.site(&loaded.part(&loaded.file.site.routes)) {
            Ok(compiled) if errors.is_empty() => return Ok((Arc::clone(loaded), compiled)),
            Ok(_) => {}
            Err(more) => errors.extend(more),
        }
        errors.sort_by_key(|error| (error.line, error.column));
        Err(Broken {
            errors,
            claims: loaded.file.site.conditions().collect(),
        })
    }

    /// Whether nobody has the names of a site.
    fn has_room_for(&self, site: &Site) -> bool {
        let mut pools = site.pools.iter();
        let mut routes = site.routes.iter();
        !self.names.contains(&site.name)
            && !pools.any(|pool| self.pools.contains(&pool.name))
            && !routes.any(|route| self.routes.contains_key(&route.name))
    }

    /// What a site has that is taken.
    fn conflicts(&self, file: &SiteFile) -> Vec<ConfigError> {
        let SiteFile { source, site } = file;
        let pools = site.pools.iter().map(|pool| &pool.name);
        let pools = pools.filter(|pool| self.pools.contains(pool)).map(|pool| {
            let path = format!("pools.{}", site::key(pool, Some(&site.name)));
            Conflict {
                path,
                what: format!("the name `{pool}`"),
                owner: (&self.main.source, format!("pools.{pool}")),
            }
        });
        let names = site
            .routes
            .iter()
            .enumerate()
            .filter_map(|(number, route)| {
                let owner = self.routes.get(&route.name)?;
                Some(Conflict {
                    path: format!("routes[{number}].name"),
                    what: format!("the name `{}`", route.name),
                    owner: (&self.main.source, format!("routes[{owner}].name")),
                })
            });
        let claims = site.routes.iter().enumerate().flat_map(|(number, route)| {
            let claims = Claim::of(&route.matches).enumerate();
            claims.filter_map(move |(host, claim)| {
                let owner = *self.claims.get(&claim)?;
                Some(Conflict {
                    path: place(number, host),
                    what: format!("`{claim}`"),
                    owner: self.place_of(owner),
                })
            })
        });
        let mut all = pools.chain(names).chain(claims);
        let mut errors: Vec<_> = all
            .by_ref()
            .take(CONFLICTS_LIMIT)
            .map(|conflict| conflict.told(source))
            .collect();
        match all.count() {
            0 => {}
            more => {
                let message = format!("{more} more things of this site are taken");
                errors.push(source.error_at("routes", &message, None));
            }
        }
        errors
    }

    fn place_of(&self, owner: Owner) -> (&Source, String) {
        let site = owner.site.and_then(|number| self.sites.get(number));
        let source = site.map_or(&self.main.source, |site| &site.file.source);
        (source, place(owner.route, owner.host))
    }
}

/// The path of a route's host; where it has none the nearest part of it is shown.
fn place(route: usize, host: usize) -> String {
    format!("routes[{route}].match.host[{host}]")
}

/// Something that two files have.
struct Conflict<'a> {
    /// Where, in the later one.
    path: String,
    what: String,
    /// The earlier one, and where.
    owner: (&'a Source, String),
}

impl Conflict<'_> {
    /// Finds both places, each by a walk through its text.
    fn told(self, source: &Source) -> ConfigError {
        let (owner, path) = self.owner;
        let owner = owner.error_at(&path, "", None);
        let (file, line, column) = (owner.file.display(), owner.line, owner.column);
        let message = format!("{} is taken: {file}:{line}:{column} has it", self.what);
        let help = "the earlier file keeps it: take it out of one of them";
        source.error_at(&self.path, &message, Some(help))
    }
}
