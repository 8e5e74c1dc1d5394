//! Sites from one reload to the next: what is taken of each, and where requests for it go.

use std::fs;

use tempfile::TempDir;

use super::super::in_force::InForce;
use super::super::load::{self, Environment};
use super::super::prepare;
use super::Taken;
use crate::controlplane::compile::answers::Answers;
use crate::dataplane::snapshot::{Action, Snapshot};

const MAIN: &str = "
listeners: [ { address: 127.0.0.1:80 } ]
include: sites/*.yaml
routes: [ { name: main, match: { host: main.test }, respond: { status: 204 } } ]
";

/// A folder in which configs are put in force one after the other.
struct World {
    folder: TempDir,
    current: Option<(InForce, Snapshot)>,
}

impl World {
    /// A main file, and sites that answer for these hosts.
    fn new(main: &str, sites: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("sites")).unwrap();
        let world = Self {
            folder,
            current: None,
        };
        world.write("proxy.yaml", main);
        for (name, hosts) in sites {
            world.site(name, hosts);
        }
        world
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.folder.path().join(file), text).unwrap();
    }

    /// Writes a site that answers for these hosts, each a route to a pool of its own.
    fn site(&self, name: &str, hosts: &str) {
        let mut text = String::from("routes:\n");
        for host in hosts.split(' ') {
            text.push_str(&format!(
                "  - {{ name: {host}, match: {{ host: {host} }}, pool: app }}\n"
            ));
        }
        text.push_str("pools: { app: { endpoints: [ '10.0.0.1:80' ] } }\n");
        self.write(&format!("sites/{name}.yaml"), &text);
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.folder.path().join(format!("sites/{name}.yaml"))).unwrap();
    }

    /// Reloads: what is taken of each site, or why all of it was refused.
    fn reload(&mut self) -> Result<String, String> {
        let config = self.folder.path().join("proxy.yaml");
        let known = self.current.as_ref().map(|(in_force, _)| in_force.known());
        let environment = Environment::new(|_| None);
        let attempt = load::load(&config, &environment, &known.unwrap_or_default());
        let before = self.current.as_ref();
        let before = before.map(|(in_force, snapshot)| (in_force, snapshot));
        let next = attempt
            .result
            .and_then(|loaded| prepare::compile(loaded, &Answers::new(), before, None))
            .map_err(|errors| self.told(&errors))?;
        let told: Vec<_> = next
            .0
            .sites
            .iter()
            .map(|site| {
                let name = site.name.as_str();
                match &site.taken {
                    Taken::Written(_) => name.to_owned(),
                    Taken::Frozen { .. } => format!("{name} frozen"),
                    Taken::LeftOut { .. } => format!("{name} left out"),
                }
            })
            .collect();
        self.current = Some(next);
        Ok(told.join(", "))
    }

    /// What is wrong with a site, one line an error.
    fn errors(&self, name: &str) -> String {
        let (in_force, _) = self.current.as_ref().unwrap();
        let mut sites = in_force.sites.iter();
        let site = sites.find(|site| site.name.as_str() == name).unwrap();
        self.told(&site.errors)
    }

    fn told(&self, errors: &[crate::config::error::ConfigError]) -> String {
        let folder = format!("{}/", self.folder.path().display());
        let lines = errors
            .iter()
            .map(|error| error.to_string().replace(&folder, ""));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// The route that a request for a host meets, or the fault that it ends in.
    fn meets(&self, host: &str) -> String {
        let (_, snapshot) = self.current.as_ref().unwrap();
        // All conditions here are hosts: the first that holds wins.
        let mut routes = snapshot.routes.iter();
        let found = routes.find(|(condition, _)| condition.hosts.iter().any(|one| one.holds(host)));
        match found {
            None => "none".to_owned(),
            Some((_, route)) => match &route.action {
                Action::Fail(fault) => format!("{} {}", route.name, fault.token()),
                _ => route.name.to_string(),
            },
        }
    }
}

#[test]
fn a_site_that_is_broken_stays_at_its_last_good_version_and_the_others_go_on() {
    let mut world = World::new(MAIN, &[("a", "a.test"), ("b", "b.test")]);
    assert_eq!(world.reload().unwrap(), "a, b");
    world.site("a", "a.test more.test");
    world.write("sites/b.yaml", "routes: [ { pool: none } ]");
    assert_eq!(world.reload().unwrap(), "a, b frozen");
    assert_eq!(world.meets("more.test"), "a/more.test");
    assert_eq!(world.meets("b.test"), "b/b.test");
    assert!(
        world
            .errors("b")
            .starts_with("sites/b.yaml:1:19: pool `none` is not defined")
    );
    // However often.
    world.write("sites/b.yaml", "][");
    world.site("a", "a.test");
    assert_eq!(world.reload().unwrap(), "a, b frozen");
    assert_eq!(world.meets("b.test"), "b/b.test");
    world.site("b", "c.test");
    assert_eq!(world.reload().unwrap(), "a, b");
    assert_eq!(
        (
            world.meets("b.test").as_str(),
            world.meets("c.test").as_str()
        ),
        ("none", "b/c.test")
    );
}

#[test]
fn a_site_whose_files_cannot_be_loaded_is_broken_too() {
    let mut world = World::new(MAIN, &[("a", "a.test")]);
    assert_eq!(world.reload().unwrap(), "a");
    world.write(
        "sites/a.yaml",
        "routes: [ { match: { host: a.test }, pool: app } ]
pools: { app: { endpoints: [ '10.0.0.1:80' ], tls: { ca: gone.pem } } }",
    );
    assert_eq!(world.reload().unwrap(), "a frozen");
    let error = world.errors("a");
    assert!(
        error.starts_with("sites/a.yaml:2:58: sites/gone.pem cannot be read"),
        "{error}"
    );
    assert_eq!(world.meets("a.test"), "a/a.test");
}

#[test]
fn a_site_that_never_was_good_is_left_out_and_its_hosts_end_in_a_fault() {
    let mut world = World::new(MAIN, &[("b", "b.test")]);
    world.write(
        "sites/a.yaml",
        "routes: [ { match: { host: [a.test, b.test, main.test] }, pool: none } ]",
    );
    assert_eq!(world.reload().unwrap(), "a left out, b");
    assert_eq!(world.meets("a.test"), "a site_invalid");
    // What others answer for they keep, and nobody's hosts are as they were.
    assert_eq!(world.meets("b.test"), "b/b.test");
    assert_eq!(world.meets("main.test"), "main");
    assert_eq!(world.meets("x.test"), "none");
    world.site("a", "a.test");
    assert_eq!(world.reload().unwrap(), "a, b");
    assert_eq!(world.meets("a.test"), "a/a.test");
}

#[test]
fn of_two_sites_that_claim_the_same_the_earlier_keeps_it_and_both_places_are_told() {
    let mut world = World::new(MAIN, &[("a", "a.test"), ("b", "b.test")]);
    world.reload().unwrap();
    world.site("b", "b.test a.test");
    assert_eq!(world.reload().unwrap(), "a, b frozen");
    let error = world.errors("b");
    assert!(
        error.starts_with("sites/b.yaml:3:36: `a.test/` is taken: sites/a.yaml:2:36 has it"),
        "{error}"
    );
    assert_eq!(world.meets("b.test"), "b/b.test");
    // The main file is the first of all.
    world.site("b", "b.test main.test");
    assert_eq!(world.reload().unwrap(), "a, b frozen");
    assert!(
        world
            .errors("b")
            .contains("`main.test/` is taken: proxy.yaml:4:40 has it")
    );
}

#[test]
fn what_an_earlier_site_claims_anew_a_later_one_gives_up() {
    let mut world = World::new(MAIN, &[("b", "a.test b.test")]);
    world.reload().unwrap();
    assert_eq!(world.meets("a.test"), "b/a.test");
    world.site("a", "a.test");
    assert_eq!(world.reload().unwrap(), "a, b frozen");
    assert_eq!(world.meets("a.test"), "a/a.test");
    assert_eq!(world.meets("b.test"), "b/b.test");
    // It has it back when nobody else does.
    world.remove("a");
    assert_eq!(world.reload().unwrap(), "b");
    assert_eq!(world.meets("a.test"), "b/a.test");
}

#[test]
fn a_host_moves_from_one_site_to_another_in_one_go() {
    let mut world = World::new(MAIN, &[("a", "a.test x.test"), ("b", "b.test")]);
    world.reload().unwrap();
    world.site("a", "a.test");
    world.site("b", "b.test x.test");
    assert_eq!(world.reload().unwrap(), "a, b");
    assert_eq!(world.meets("x.test"), "b/x.test");
}

#[test]
fn a_name_of_the_main_file_that_looks_like_one_of_a_site_is_a_conflict() {
    let main = format!("{MAIN}pools: {{ a/app: {{ endpoints: ['10.0.0.1:80'] }} }}\n");
    let main = main.replace("name: main", "name: a/a.test");
    let mut world = World::new(&main, &[("a", "a.test")]);
    assert_eq!(world.reload().unwrap(), "a left out");
    let errors = world.errors("a");
    assert!(
        errors.contains("the name `a/app` is taken: proxy.yaml:5:"),
        "{errors}"
    );
    assert!(
        errors.contains("the name `a/a.test` is taken: proxy.yaml:4:"),
        "{errors}"
    );
}

#[test]
fn many_conflicts_are_counted() {
    let hosts: Vec<_> = (0..30).map(|number| format!("h{number}.test")).collect();
    let mut world = World::new(MAIN, &[("a", &hosts.join(" ")), ("b", &hosts.join(" "))]);
    assert_eq!(world.reload().unwrap(), "a, b left out");
    let errors = world.errors("b");
    assert_eq!(errors.lines().count(), 11, "{errors}");
    assert!(
        errors.contains("20 more things of this site are taken"),
        "{errors}"
    );
}

#[test]
fn strict_refuses_the_whole() {
    let mut world = World::new(MAIN, &[("a", "a.test"), ("b", "b.test")]);
    world.reload().unwrap();
    world.write("proxy.yaml", &format!("strict: true\n{MAIN}"));
    world.site("a", "other.test");
    world.write("sites/b.yaml", "routes: 5");
    let errors = world.reload().unwrap_err();
    assert!(errors.starts_with("sites/b.yaml:1:9: "), "{errors}");
    assert_eq!(world.meets("a.test"), "a/a.test");
}

#[test]
fn a_main_file_that_is_broken_refuses_the_whole_and_tells_of_sites_too() {
    let mut world = World::new(MAIN, &[("a", "a.test")]);
    world.reload().unwrap();
    world.write("sites/a.yaml", "routes: 5");
    let broken = MAIN.replace(
        "127.0.0.1:80 }",
        "127.0.0.1:80, tls: { certificates: [{ cert: a, key: a }] } }",
    );
    world.write("proxy.yaml", &broken);
    let errors = world.reload().unwrap_err();
    assert!(errors.starts_with("proxy.yaml:2:"), "{errors}");
    assert!(errors.contains("sites/a.yaml:1:9: "), "{errors}");
}

#[test]
fn what_did_not_change_is_recognised() {
    let mut world = World::new(MAIN, &[("a", "a.test"), ("b", "b.test")]);
    world.reload().unwrap();
    let (first, _) = world.current.take().unwrap();
    world.reload().unwrap();
    assert!(first.is_same(&world.current.as_ref().unwrap().0));
    // A site that breaks changes nothing that is in force.
    let (_, snapshot) = world.current.take().unwrap();
    world.current = Some((first, snapshot));
    world.write("sites/b.yaml", "5");
    world.reload().unwrap();
    let (frozen, snapshot) = world.current.take().unwrap();
    let sites = frozen.sites.iter().map(|site| site.errors.len());
    assert_eq!(sites.collect::<Vec<_>>(), [0, 1]);
    world.current = Some((frozen, snapshot));
    world.site("b", "b.test");
    let known = world.current.as_ref().unwrap().0.known();
    let config = world.folder.path().join("proxy.yaml");
    let loaded = load::load(&config, &Environment::new(|_| None), &known)
        .result
        .unwrap();
    let (frozen, _) = world.current.as_ref().unwrap();
    assert!(
        !frozen.is_all_of(&loaded),
        "what was wrong is looked at again"
    );
    world.reload().unwrap();
    assert!(world.current.as_ref().unwrap().0.is_all_of(&loaded));
}
