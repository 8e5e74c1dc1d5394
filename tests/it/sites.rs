//! Sites: files with routes and pools of their own, each of which stands or falls alone.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use lockgate::app::{App, Options, StartError};
use lockgate::controlplane::reload::outcome::{Ails, Cause, Outcome, Verdict};
use lockgate::controlplane::reload::watch::Pace;
use tempfile::TempDir;

use crate::harness::backend::Backend;
use crate::harness::proxy::Proxy;
use crate::harness::wire::Message;
use crate::harness::{backend, config, expect, play, proxy};

const MAIN: &str =
    "include: sites/*.yaml\nroutes: [{ match: { host: main.test }, respond: { body: main } }]\n";

/// A site for a host, before an endpoint.
fn site(host: &str, backend: &Backend) -> String {
    format!(
        "routes: [{{ match: {{ host: {host} }}, pool: app }}]\n\
         pools: {{ app: {{ endpoints: [\"{backend}\"] }} }}\n"
    )
}

/// A folder with these sites.
fn folder(sites: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("sites")).unwrap();
    for (name, text) in sites {
        fs::write(folder.path().join("sites").join(name), text).unwrap();
    }
    folder
}

fn file(proxy: &Proxy, site: &str) -> PathBuf {
    proxy.folder().join("sites").join(site)
}

fn get(proxy: &Proxy, host: &str) -> Message {
    proxy
        .client()
        .ask(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"))
}

#[test]
fn every_site_has_pools_of_its_own() {
    play(|| {
        let (shop, blog) = (backend::named("shop"), backend::named("blog"));
        let (shop_file, blog_file) = (site("shop.test", &shop), site("blog.test", &blog));
        let folder = folder(&[("shop.yaml", &shop_file), ("blog.yaml", &blog_file)]);
        let proxy = proxy::start_in(folder, MAIN);
        assert_eq!(get(&proxy, "shop.test").text(), "shop");
        assert_eq!(get(&proxy, "blog.test").text(), "blog");
        assert_eq!(get(&proxy, "main.test").text(), "main");
        let records = proxy.records(3);
        assert_eq!(
            (&records[0]["pool"], &records[0]["route"]),
            (&"shop/app".into(), &"shop/shop.test/".into())
        );
        assert_eq!(records[1]["pool"], "blog/app");
    });
}

#[test]
fn a_broken_site_is_frozen_and_the_others_reload() {
    play(|| {
        let (shop, blog) = (backend::named("shop"), backend::named("blog"));
        let (shop_file, blog_file) = (site("shop.test", &shop), site("blog.test", &blog));
        let folder = folder(&[("shop.yaml", &shop_file), ("blog.yaml", &blog_file)]);
        let proxy = proxy::start_in(folder, MAIN);
        get(&proxy, "shop.test");
        fs::write(file(&proxy, "shop.yaml"), "routes: [").unwrap();
        fs::write(file(&proxy, "blog.yaml"), site("news.test", &blog)).unwrap();
        let outcome = proxy.app().reload().unwrap();
        assert!(!outcome.is_good());
        let Verdict::Changed(changes) = &outcome.verdict else {
            panic!("{outcome:?}")
        };
        assert_eq!(changes.sites.changed, ["blog"]);
        assert_eq!(changes.routes.added, ["blog/news.test/"]);
        let [ailing] = &outcome.sites[..] else {
            panic!("{outcome:?}")
        };
        assert_eq!((ailing.site.as_str(), ailing.state), ("shop", Ails::Frozen));
        assert!(
            ailing.errors[0].contains("sites/shop.yaml:1:"),
            "{ailing:?}"
        );
        assert_eq!(get(&proxy, "news.test").text(), "blog");
        assert_eq!(get(&proxy, "shop.test").text(), "shop");
        // Its endpoint is the one from before, with its idle connection.
        assert_eq!(shop.seen().connections, 1);
        fs::write(file(&proxy, "shop.yaml"), &shop_file).unwrap();
        let outcome = proxy.app().reload().unwrap();
        assert_eq!((outcome.is_good(), outcome.version), (true, 2));
        assert_eq!(outcome.verdict, Verdict::Unchanged);
    });
}

#[test]
fn a_site_that_is_broken_at_the_start_answers_503() {
    play(|| {
        let (shop, blog) = (backend::named("shop"), backend::named("blog"));
        let broken = site("shop.test", &shop).replace("pools", "pool");
        let folder = folder(&[
            ("shop.yaml", &broken),
            ("blog.yaml", &site("blog.test", &blog)),
        ]);
        let proxy = proxy::start_in(folder, MAIN);
        let outcome = proxy.app().outcomes().remove(0);
        assert_eq!(outcome.sites[0].state, Ails::LeftOut);
        let answer = get(&proxy, "shop.test");
        assert_eq!(answer.status(), 503);
        assert_eq!(
            answer.field("proxy-status"),
            Some("lockgate; error=proxy_configuration_error")
        );
        assert_eq!(get(&proxy, "blog.test").text(), "blog");
        assert_eq!(get(&proxy, "other.test").status(), 404);
        let records = proxy.records(3);
        assert_eq!(
            (&records[0]["fault"], &records[0]["route"]),
            (&"site_invalid".into(), &"shop".into())
        );
        fs::write(file(&proxy, "shop.yaml"), site("shop.test", &shop)).unwrap();
        assert!(proxy.app().reload().unwrap().is_good());
        assert_eq!(get(&proxy, "shop.test").text(), "shop");
    });
}

#[test]
fn strict_starts_nothing_with_a_broken_site_and_refuses_a_reload() {
    play(|| {
        let shop = backend::named("shop");
        let good = site("shop.test", &shop);
        let strict = format!("strict: true\n{MAIN}");
        let proxy = proxy::start_in(folder(&[("shop.yaml", &good)]), &strict);
        fs::write(file(&proxy, "shop.yaml"), "routes: 5").unwrap();
        let outcome = proxy.app().reload().unwrap();
        let Verdict::Rejected(errors) = &outcome.verdict else {
            panic!("{outcome:?}")
        };
        assert!(errors[0].contains("sites/shop.yaml:1:9"), "{errors:?}");
        assert_eq!(get(&proxy, "shop.test").text(), "shop");

        let folder = folder(&[("shop.yaml", "routes: 5")]);
        let config = folder.path().join("proxy.yaml");
        fs::write(&config, config::fill(&strict, &[])).unwrap();
        let started = App::start(Options::new(config));
        assert!(matches!(started, Err(StartError::Config(errors)) if errors.len() == 1));
    });
}

/// A proxy that looks after its files by events alone.
fn watching(sites: &[(&str, &str)]) -> Proxy {
    let pace = Pace {
        settle: Duration::from_millis(50),
        poll: Duration::from_secs(3600),
        hints: true,
    };
    proxy::start_in_at_pace(folder(sites), MAIN, pace)
}

#[test]
fn sites_come_and_go_with_their_files() {
    play(|| {
        let (shop, blog) = (backend::named("shop"), backend::named("blog"));
        let proxy = watching(&[("shop.yaml", &site("shop.test", &shop))]);
        let changed = |after| {
            let is_change = |outcome: &Outcome| matches!(outcome.verdict, Verdict::Changed(_));
            let outcome = proxy
                .app()
                .wait(after, expect::PATIENCE, is_change)
                .unwrap();
            assert_eq!(outcome.cause, Cause::FilesChanged);
            outcome.number
        };
        fs::write(file(&proxy, "blog.yaml"), site("blog.test", &blog)).unwrap();
        let number = changed(1);
        assert_eq!(get(&proxy, "blog.test").text(), "blog");
        fs::remove_file(file(&proxy, "shop.yaml")).unwrap();
        let number = changed(number);
        assert_eq!(get(&proxy, "shop.test").status(), 404);
        // What it was is forgotten: it comes back as a new site.
        fs::write(file(&proxy, ".draft"), site("shop.test", &shop)).unwrap();
        fs::rename(file(&proxy, ".draft"), file(&proxy, "shop.yaml")).unwrap();
        changed(number);
        assert_eq!(get(&proxy, "shop.test").text(), "shop");
    });
}

#[test]
fn a_folder_of_sites_that_is_away_takes_no_site_with_it() {
    play(|| {
        let (shop, blog) = (backend::named("shop"), backend::named("blog"));
        let proxy = watching(&[("shop.yaml", &site("shop.test", &shop))]);
        let (here, away) = (proxy.folder().join("sites"), proxy.folder().join("away"));
        fs::rename(&here, &away).unwrap();
        let refused = |outcome: &Outcome| matches!(outcome.verdict, Verdict::Rejected(_));
        let outcome = proxy.app().wait(1, expect::PATIENCE, refused).unwrap();
        assert_eq!(get(&proxy, "shop.test").text(), "shop");
        fs::write(away.join("blog.yaml"), site("blog.test", &blog)).unwrap();
        fs::rename(&away, &here).unwrap();
        let back = proxy
            .app()
            .wait(outcome.number, expect::PATIENCE, Outcome::is_good);
        assert_eq!(back.unwrap().version, 2);
        assert_eq!(get(&proxy, "blog.test").text(), "blog");
        // The folder is watched again.
        fs::remove_file(here.join("shop.yaml")).unwrap();
        let gone = |outcome: &Outcome| outcome.version == 3;
        proxy
            .app()
            .wait(outcome.number, expect::PATIENCE, gone)
            .unwrap();
    });
}
