//! A site: routes and pools in a file of its own, which stands or falls alone; and what routes claim.
//!
//! The names that a site gives are its own. Outside of its file, in logs and metrics, they stand behind the name of
//! the site: `shop/app` is the pool `app` of the site `shop`.

use std::fmt;
use std::iter;

use super::Config;
use super::check;
use super::decode::Kind;
use super::error::{ConfigError, Source};
use super::keys;
use super::parse;
use super::pool::Pool;
use super::route::{HostMatch, Match, PathMatch, Route};
use super::salvage;
use crate::base::name::{PoolName, SiteName};
use crate::base::path::normal_path;

/// What a site's file says, checked, every default filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// Its name.
    pub name: SiteName,
    /// Its routes, after those of the main file and of earlier sites.
    pub routes: Vec<Route>,
    /// Its pools, for its own routes alone.
    pub pools: Vec<Pool>,
}

/// The shortest useful file.
const SHORTEST: &str = "the shortest useful site has a route and a pool:\n\
    routes: [{ match: { host: app.example.com }, pool: app }]\n\
    pools: { app: { endpoints: [\"127.0.0.1:3000\"] } }";

/// Reads, decodes and checks the file of a site beside its main file; `env` answers what a variable of the environment
/// holds.
///
/// # Errors
/// Everything that is wrong with the text, sorted by place; never an empty list.
pub fn parse(
    source: &Source,
    name: &SiteName,
    main: &Config,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Site, Vec<ConfigError>> {
    parse::whole(source, env, SHORTEST, |tree, decoder| {
        let root = keys::Site::decode(tree, decoder)?;
        Some(check::check_site(&root, &source.file, name, main, decoder))
    })
}

/// The conditions on host and path that a site seems to have whose file cannot be read or is wrong: as many as can be
/// made out. Never fails: of a text without any there are none.
pub fn salvage(source: &Source, env: &dyn Fn(&str) -> Option<String>) -> Vec<Match> {
    salvage::salvage(&source.text, env)
}

impl Site {
    /// Puts the name of the site before those that are its own.
    pub(super) fn new(name: &SiteName, mut routes: Vec<Route>, mut pools: Vec<Pool>) -> Self {
        let own = |given: &str| format!("{name}/{given}");
        for route in &mut routes {
            route.name = own(route.name.as_str()).into();
            for pool in route.pools_mut() {
                *pool = own(pool.as_str()).into();
            }
        }
        for pool in &mut pools {
            pool.name = own(pool.name.as_str()).into();
        }
        Self {
            name: name.clone(),
            routes,
            pools,
        }
    }

    /// The conditions on host and path of its routes.
    pub fn conditions(&self) -> impl Iterator<Item = Match> {
        self.routes.iter().map(|route| Match {
            hosts: route.matches.hosts.clone(),
            path: route.matches.path.clone(),
            ..Match::default()
        })
    }

    /// What is set that lowers security, as paths in the site's file.
    pub fn dangers(&self) -> Vec<String> {
        super::dangers(&self.routes, &self.pools, |pool| {
            key(&pool.name, Some(&self.name))
        })
    }
}

/// What the pool of a site is called in its own file.
pub fn key<'a>(pool: &'a PoolName, site: Option<&SiteName>) -> &'a str {
    let name = pool.as_str();
    let own = site.and_then(|site| name.strip_prefix(site.as_str())?.strip_prefix('/'));
    own.unwrap_or(name)
}

/// A host and a path that a route answers for, whatever else it asks of requests. No two files share one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    /// `None` is any host.
    host: Option<HostMatch>,
    /// In normal form; the root takes every path.
    path: PathMatch,
}

impl Claim {
    /// The claims of a route, one for each of its hosts.
    pub fn of(route: &Match) -> impl Iterator<Item = Self> {
        let hosts = route.hosts.iter().cloned().map(Some);
        let any = iter::once(None).take(usize::from(route.hosts.is_empty()));
        hosts.chain(any).map(|host| Self {
            host,
            path: normal(route.path.as_ref()),
        })
    }

    /// The host; `None` is any.
    pub fn host(&self) -> Option<&HostMatch> {
        self.host.as_ref()
    }
}

/// Two spellings of one path are one path. What is no path is left as it is: it has an error of its own.
fn normal(path: Option<&PathMatch>) -> PathMatch {
    let spell =
        |path: &str| normal_path(path).map_or(path.into(), |normal| normal.path.into_owned());
    match path {
        None => PathMatch::Prefix(String::new()),
        Some(PathMatch::Prefix(path)) => {
            let path = spell(path);
            PathMatch::Prefix(path.strip_suffix('/').unwrap_or(&path).to_owned())
        }
        Some(PathMatch::Exact(path)) => PathMatch::Exact(spell(path)),
        Some(PathMatch::Regex(regex)) => PathMatch::Regex(regex.clone()),
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            None => out.write_str("*")?,
            Some(HostMatch::Exact(host)) => out.write_str(host)?,
            Some(HostMatch::Wildcard(parent)) => write!(out, "*.{parent}")?,
        }
        match &self.path {
            PathMatch::Prefix(path) => write!(out, "{path}/"),
            PathMatch::Exact(path) => write!(out, "{path} (exact)"),
            PathMatch::Regex(regex) => write!(out, "{regex} (regex)"),
        }
    }
}

impl Route {
    /// Takes the hosts off the route that `is_taken` says of its claims; `false` if nothing is left of it.
    pub fn give_up(&mut self, is_taken: impl Fn(&Claim) -> bool) -> bool {
        let path = normal(self.matches.path.as_ref());
        let claim = |host| Claim {
            host,
            path: path.clone(),
        };
        if self.matches.hosts.is_empty() {
            return !is_taken(&claim(None));
        }
        self.matches
            .hosts
            .retain(|host| !is_taken(&claim(Some(host.clone()))));
        !self.matches.hosts.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::route::Action;

    fn site(text: &str) -> Result<Site, Vec<ConfigError>> {
        let main = Config::default();
        parse(
            &Source::new("sites/shop.yaml", text),
            &"shop".into(),
            &main,
            &|_| None,
        )
    }

    const SHOP: &str = "
routes:
  - { name: api, match: { host: [a.test, '*.b.test'], path: /v1/ }, pool: app }
  - { respond: { status: 204 } }
pools: { app: { endpoints: ['10.0.0.1:80'] } }
";

    #[test]
    fn names_of_a_site_stand_behind_its_own() {
        let site = site(SHOP).unwrap();
        let names: Vec<_> = site
            .routes
            .iter()
            .map(|route| route.name.as_str())
            .collect();
        assert_eq!(names, ["shop/api", "shop/*/"]);
        let pool = &site.pools[0].name;
        assert_eq!(site.routes[0].action, Action::Pool(pool.clone()));
        assert_eq!(
            (pool.as_str(), key(pool, Some(&site.name))),
            ("shop/app", "app")
        );
        assert_eq!(key(pool, Some(&"sho".into())), "shop/app");
    }

    #[test]
    fn pools_of_a_split_and_of_a_mirror_are_the_sites_own() {
        let text = "routes: [{ split: { app: 9, next: 1 }, mirror: { pool: shadow } }]\npools: { \
                    app: { endpoints: ['10.0.0.1:80'] }, next: { endpoints: ['10.0.0.2:80'] }, \
                    shadow: { endpoints: ['10.0.0.3:80'] } }";
        let site = site(text).unwrap();
        let Action::Split {
            pools,
            cohorts: None,
        } = &site.routes[0].action
        else {
            panic!("{:?}", site.routes[0].action);
        };
        let pools = pools.iter().map(|(name, weight)| (name.as_str(), *weight));
        assert_eq!(
            pools.collect::<Vec<_>>(),
            [("shop/app", 9), ("shop/next", 1)]
        );
    }

    #[test]
    fn what_belongs_to_the_main_file_and_what_is_not_there_is_told() {
        let told = |text| {
            let errors = site(text).unwrap_err();
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let errors = told("listeners: []\nroutes: [{ pool: app }]");
        assert_eq!(errors.len(), 2, "{errors:?}");
        assert!(
            errors[0].contains("shop.yaml:1:1: unknown key `listeners`"),
            "{errors:?}"
        );
        assert!(
            errors[1].contains("pool `app` is not defined"),
            "{errors:?}"
        );
        assert!(told("pools: {}")[0].contains("the site has no `routes`"));
        assert!(told("# later\n")[0].contains("the file is empty"));
    }

    #[test]
    fn two_spellings_are_one_claim() {
        let claims = |text: &str| {
            let text = format!("routes: [{{ match: {text}, respond: {{ status: 200 }} }}]");
            let site = site(&text).unwrap();
            Claim::of(&site.routes[0].matches).collect::<Vec<_>>()
        };
        let same = |one: &str, other: &str| claims(one) == claims(other);
        assert!(same(
            "{ host: A.test, path: /v1 }",
            "{ host: a.test, path: /v1/ }"
        ));
        assert!(same("{ host: a.test }", "{ host: a.test, path: / }"));
        assert!(same("{ path: /%7Ea, methods: [GET] }", "{ path: /~a }"));
        assert!(!same("{ path: /a }", "{ path: { exact: /a } }"));
        assert!(!same("{ host: a.test }", "{ host: '*.a.test' }"));
        assert!(!same("{ host: a.test }", "{ path: / }"));
        let told: Vec<_> = claims("{ host: [a.test, '*.b.test'], path: /v1 }")
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(told, ["a.test/v1/", "*.b.test/v1/"]);
    }

    #[test]
    fn a_route_gives_up_what_is_taken() {
        let site = site(SHOP).unwrap();
        let is_a = |claim: &Claim| claim.host() == Some(&HostMatch::Exact("a.test".into()));
        let mut route = site.routes[0].clone();
        assert!(route.give_up(is_a));
        assert_eq!(route.matches.hosts, [HostMatch::Wildcard("b.test".into())]);
        assert!(!route.give_up(|_| true));
        let mut route = site.routes[1].clone();
        assert!(route.give_up(is_a) && !route.give_up(|_| true));
    }
}
