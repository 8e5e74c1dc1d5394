//! Config files and what becomes of them.
//!
//! `tests/config/<name>.yaml` is read and held against `<name>.expected`: the config, or the errors as an operator sees
//! them. A new case is a new file; `UPDATE=1 cargo test --test config` writes what is expected of it, to be looked at.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use lockgate::config::error::{self, ConfigError, Source};
use lockgate::config::parse::parse;
use lockgate::config::{
    Admin, Config, Drain, Limits, Sandbox, Timeouts, pool, route, schema, site,
};
use lockgate::controlplane::reload::in_force::InForce;
use lockgate::controlplane::reload::load::Environment;
use lockgate::controlplane::reload::rehearse;
use lockgate::controlplane::reload::sites::Taken;
use lockgate::import;
use proptest::prelude::*;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[expect(clippy::disallowed_methods, reason = "a test is not the program")]
fn is_update() -> bool {
    std::env::var("UPDATE").is_ok()
}

/// The environment of every case.
fn env(name: &str) -> Option<String> {
    match name {
        "TWO" => Some("2".into()),
        "HOST" => Some("app.example.com".into()),
        "TRICK" => Some("a: [b]\nworkers: 7".into()),
        "EMPTY" => Some(String::new()),
        _ => None,
    }
}

fn read(file: &Path, text: &str) -> Result<Config, Vec<ConfigError>> {
    parse(&Source::new(file, text), &env)
}

/// Holds a text against a file, or writes the file.
fn check(file: &Path, found: &str) -> Result<(), String> {
    let expected = fs::read_to_string(file).unwrap_or_default();
    if expected == found {
        return Ok(());
    }
    if is_update() {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, found).unwrap();
        return Ok(());
    }
    let name = file.strip_prefix(root()).unwrap_or(file).display();
    Err(format!(
        "{name} is stale: look at the difference, then run `UPDATE=1 cargo test --test config`\n\
         --- expected\n{expected}\n--- found\n{found}\n"
    ))
}

/// A config, one line a part; what has its default is left out where that is much.
fn show(config: &Config) -> String {
    let mut text = String::new();
    if let Some(workers) = config.workers {
        writeln!(text, "workers: {workers}").unwrap();
    }
    for listener in &config.listeners {
        writeln!(text, "{listener:?}").unwrap();
    }
    show_routes(&mut text, &config.routes, &config.pools);
    writeln!(text, "access_log: {:?}", config.access_log).unwrap();
    if !config.trusted_proxies.is_empty() {
        writeln!(text, "trusted_proxies: {:?}", config.trusted_proxies).unwrap();
    }
    if !config.resolvers.is_empty() {
        writeln!(text, "resolvers: {:?}", config.resolvers).unwrap();
    }
    if config.limits != Limits::default() {
        writeln!(text, "{:#?}", config.limits).unwrap();
    }
    if config.timeouts != Timeouts::default() {
        writeln!(text, "{:#?}", config.timeouts).unwrap();
    }
    if config.drain != Drain::default() {
        writeln!(text, "{:?}", config.drain).unwrap();
    }
    for pattern in &config.include {
        writeln!(text, "include: {pattern}").unwrap();
    }
    if config.strict {
        text.push_str("strict\n");
    }
    if config.admin != Admin::default() {
        writeln!(text, "admin: {:?}", config.admin).unwrap();
    }
    for (key, account) in [("user", &config.user), ("group", &config.group)] {
        if let Some(account) = account {
            writeln!(text, "{key}: {account:?}").unwrap();
        }
    }
    if config.sandbox != Some(Sandbox::default()) {
        writeln!(text, "sandbox: {:?}", config.sandbox).unwrap();
    }
    for danger in config.dangers() {
        writeln!(text, "DANGER {danger}").unwrap();
    }
    text
}

/// A config with its sites, and what is wrong with those that are broken.
fn show_sites(in_force: &InForce) -> String {
    let mut text = show(in_force.config());
    for site in &in_force.sites {
        let taken = match &site.taken {
            Taken::Written(_) => "",
            Taken::Frozen { .. } => " is frozen",
            Taken::LeftOut { .. } => " is left out",
        };
        writeln!(text, "\nSite {}{taken}", site.name).unwrap();
        if let Some(part) = site.part() {
            show_routes(&mut text, part.routes, part.pools);
        }
        if let Taken::LeftOut { claims } = &site.taken {
            for claim in claims {
                writeln!(text, "  {:?} {:?}", claim.hosts, claim.path).unwrap();
            }
        }
        text.push_str(&error::render(&site.errors, false));
    }
    text
}

fn show_routes(text: &mut String, routes: &[route::Route], pools: &[pool::Pool]) {
    for route in routes {
        writeln!(text, "Route {:?}", route.name.as_str()).unwrap();
        writeln!(text, "  {:?}", route.matches).unwrap();
        for filter in &route.filters {
            writeln!(text, "  {filter:?}").unwrap();
        }
        writeln!(text, "  {:?}", route.action).unwrap();
        if let Some(mirror) = &route.mirror {
            writeln!(text, "  {mirror:?}").unwrap();
        }
        if route.timeouts != route::Timeouts::default() {
            writeln!(text, "  {:?}", route.timeouts).unwrap();
        }
        if let Some(most) = route.limits.concurrent_requests {
            writeln!(text, "  at most {most} at a time").unwrap();
        }
        if *route.retry != route::Retry::default() {
            writeln!(text, "  {:?}", route.retry).unwrap();
        }
    }
    for pool in pools {
        let (name, balance, protocol) = (pool.name.as_str(), &pool.balance, pool.protocol);
        let connect = pool.connect_timeout;
        writeln!(
            text,
            "Pool {name:?} {balance:?} {protocol:?} connect {connect:?}"
        )
        .unwrap();
        if let Some(sticky) = &pool.sticky {
            writeln!(text, "  {sticky:?}").unwrap();
        }
        if let Some(slow_start) = pool.slow_start {
            writeln!(text, "  slow_start {slow_start:?}").unwrap();
        }
        if let Some(check) = &pool.health_check {
            writeln!(text, "  {check:?}").unwrap();
        }
        if pool.queue != Some(pool::Queue::default()) {
            writeln!(text, "  {:?}", pool.queue).unwrap();
        }
        if let Some(threshold) = pool.panic_threshold {
            writeln!(text, "  panic_threshold {threshold}").unwrap();
        }
        if pool.outlier != Some(pool::Outlier::default()) {
            writeln!(text, "  {:?}", pool.outlier).unwrap();
        }
        if pool.addresses != pool::Addresses::default() {
            writeln!(text, "  addresses {:?}", pool.addresses).unwrap();
        }
        if pool.retry_budget != Some(pool::RetryBudget::default()) {
            writeln!(text, "  retry budget {:?}", pool.retry_budget).unwrap();
        }
        for endpoint in &pool.endpoints {
            write!(text, "  {:?} weight {}", endpoint.address, endpoint.weight).unwrap();
            match endpoint.priority {
                0 => {}
                pool::BACKUP => text.push_str(" backup"),
                priority => write!(text, " priority {priority}").unwrap(),
            }
            text.push_str(if endpoint.is_far { " far" } else { "" });
            for (name, most) in [
                ("requests", endpoint.bounds.requests),
                ("connections", endpoint.bounds.connections),
            ] {
                if let Some(most) = most {
                    write!(text, " at most {most} {name}").unwrap();
                }
            }
            if let Some(pool::Adaptive { min, max, initial }) = endpoint.bounds.adaptive {
                write!(text, " adapts from {initial} between {min} and {max}").unwrap();
            }
            text.push_str(if endpoint.drain { " drains\n" } else { "\n" });
        }
        if let Some(tls) = &pool.tls {
            writeln!(text, "  {tls:?}").unwrap();
        }
    }
}

#[test]
fn every_case_becomes_what_is_expected() {
    let mut wrong = String::new();
    let mut cases = 0;
    let mut all = files(&root().join("tests/config"), "yaml");
    all.retain(|file| !file.starts_with(root().join(SITES)));
    for file in all {
        let name = Path::new("conf").join(file.file_name().unwrap());
        let found = match read(&name, &fs::read_to_string(&file).unwrap()) {
            Ok(config) => show(&config),
            Err(errors) => error::render(&errors, false),
        };
        if let Err(difference) = check(&file.with_extension("expected"), &found) {
            wrong.push_str(&difference);
        }
        cases += 1;
    }
    assert!(cases >= 40, "only {cases} cases were found");
    assert!(wrong.is_empty(), "{wrong}");
}

/// Where each folder is a case of a config with sites.
const SITES: &str = "tests/config/sites";

#[test]
fn every_case_with_sites_becomes_what_is_expected() {
    let environment = Environment::new(env);
    let mut wrong = String::new();
    let mut cases = 0;
    for entry in fs::read_dir(root().join(SITES)).unwrap() {
        let folder = entry.unwrap().path();
        // Tests run at the root: what is told is the same on every machine.
        let config = folder.join("proxy.yaml");
        let config = config.strip_prefix(root()).unwrap();
        let found = match rehearse(config, &environment) {
            Ok((in_force, _)) => show_sites(&in_force),
            Err(errors) => error::render(&errors, false),
        };
        if let Err(difference) = check(&folder.join("expected"), &found) {
            wrong.push_str(&difference);
        }
        cases += 1;
    }
    assert!(cases >= 4, "only {cases} cases were found");
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn the_schema_of_a_site_has_the_keys_of_a_site() {
    let schema: serde_json::Value = serde_json::from_str(&schema::site_schema()).unwrap();
    assert_eq!(schema["$ref"], "#/$defs/site");
    let site = &schema["$defs"]["site"];
    let keys: Vec<_> = site["properties"].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["pools", "routes"]);
    assert!(schema["$defs"]["config"].is_null());
}

#[test]
fn the_schema_names_every_part_and_key() {
    let schema: serde_json::Value = serde_json::from_str(&schema::schema()).unwrap();
    assert_eq!(schema["$ref"], "#/$defs/config");
    let parts = schema["$defs"].as_object().unwrap();
    assert!(parts.values().all(|part| !part.is_null()));
    assert!(parts["route"]["properties"]["danger_allow_encoded_slashes"].is_object());
    assert_eq!(parts["filter"]["maxProperties"], 1);
    assert_eq!(
        parts["config"]["required"],
        serde_json::json!(["listeners"])
    );
}

#[test]
fn every_example_and_every_block_in_the_docs_is_right() {
    let mut texts = Vec::new();
    let mut configs = files(&root().join("examples"), "yaml");
    configs.retain(|file| {
        let is_main = file.file_name().is_some_and(|name| name == "proxy.yaml");
        is_main || is_site(file)
    });
    configs.push(root().join("proxy.yaml"));
    for file in configs {
        if let Ok(text) = fs::read_to_string(&file) {
            texts.push((file, 1, text));
        }
    }
    let mut pages = files(&root().join("docs/manual"), "md");
    pages.extend(files(&root().join("examples"), "md"));
    pages.push(root().join("README.md"));
    for page in pages {
        let text = fs::read_to_string(&page).unwrap_or_default();
        for (line, block) in blocks(&text) {
            texts.push((page.clone(), line, block));
        }
    }
    for (file, line, text) in texts {
        let read = match is_site(&file) || text.starts_with("# sites/") {
            true => {
                let source = Source::new(&file, &text);
                site::parse(&source, &"site".into(), &Config::default(), &env).map(drop)
            }
            false => read(&file, &text).map(drop),
        };
        if let Err(errors) = read {
            let (file, errors) = (file.display(), error::render(&errors, false));
            panic!("{file}, the config from line {line} on:\n{errors}");
        }
    }
}

fn is_site(file: &Path) -> bool {
    // Whatever the project's own folder is called.
    let file = file.strip_prefix(root()).unwrap_or(file);
    let folder = file.parent().and_then(Path::file_name);
    folder.is_some_and(|folder| folder == "sites")
}

/// The YAML blocks of a page and the lines where they begin.
fn blocks(page: &str) -> Vec<(usize, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (index, line) in page.lines().enumerate() {
        match &mut open {
            None if line.trim_end() == "```yaml" => open = Some((index + 2, String::new())),
            None => {}
            Some(_) if line.trim_end() == "```" => blocks.extend(open.take()),
            Some((_, block)) => {
                block.push_str(line);
                block.push('\n');
            }
        }
    }
    blocks
}

/// The files with an extension in a folder and those below, sorted.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|this| this == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn json_errors_have_all_fields() {
    let errors = read(Path::new("a.yaml"), "listeners: []\nx: 1\n").unwrap_err();
    let list: serde_json::Value = serde_json::from_str(&error::to_json(&errors)).unwrap();
    let list = list.as_array().unwrap();
    let empty = list
        .iter()
        .find(|error| error["path"] == "listeners")
        .unwrap();
    assert_eq!((&empty["line"], &empty["column"]), (&1.into(), &12.into()));
    let last = list.last().unwrap();
    assert_eq!(last["file"], "a.yaml");
    assert_eq!(last["message"], "unknown key `x`");
    assert!(last["help"].is_string());
}

#[test]
fn a_path_of_the_config_has_a_place_later() {
    let text = "listeners:\n  - address: :443\n    tls:\n      certificates:\n        \
                - { cert: a, key: b }\n        - { cert: c, key: d }\n";
    let source = Source::new("a.yaml", text);
    let check = |path, line, column| {
        let error = source.error_at(path, "wrong", Some("help"));
        assert_eq!((error.line, error.column), (line, column), "{path}");
        assert_eq!(error.path, path);
    };
    check("listeners[0].tls.certificates[1].key", 6, 27);
    check("listeners[0].tls.certificates[1]", 6, 11);
    check("listeners[0].tls.client_auth.ca", 4, 7);
    check("pools.a", 1, 1);
}

#[test]
fn bytes_that_are_not_utf_8_have_a_place() {
    let error = Source::from_bytes("a.yaml", b"workers: 2\nlisteners: # \xff\n").unwrap_err();
    assert_eq!((error.line, error.column), (2, 13));
    assert_eq!(error.message, "the file is not UTF-8");
}

#[test]
fn errors_beyond_a_hundred_are_counted() {
    let mut text = String::from("listeners: [{ address: \":1\" }]\nroutes:\n");
    for _ in 0..250 {
        text.push_str("  - { pool: a, x: 1 }\n");
    }
    let errors = read(Path::new("a.yaml"), &text).unwrap_err();
    assert_eq!(errors.len(), 101);
    assert_eq!(
        errors[100].message,
        "there are 400 more errors, from here on"
    );
}

#[test]
fn a_file_beyond_the_limit_is_refused() {
    let text = "#".repeat(error::SIZE_LIMIT + 1);
    let errors = read(Path::new("a.yaml"), &text).unwrap_err();
    assert!(errors[0].message.starts_with("the file has more than"));
}

#[test]
fn ten_thousand_routes_are_read() {
    let mut text = String::from("listeners: [{ address: \":1\" }]\nroutes:\n");
    for number in 0..10_000 {
        writeln!(
            text,
            "  - match: {{ host: h{number}.example.com, path: /p{number}/ }}\n    filters:\n      \
             - set_request_headers: {{ x-number: \"{number}\" }}\n    pool: p{number}"
        )
        .unwrap();
    }
    text.push_str("pools:\n");
    for number in 0..10_000 {
        writeln!(text, "  p{number}: {{ endpoints: [ \"10.0.0.1:80\" ] }}").unwrap();
    }
    let config = read(Path::new("a.yaml"), &text).unwrap();
    assert_eq!(config.routes.len(), 10_000);
}

/// Whatever the text, its errors stand in it and can be shown.
fn check_places(text: &str) {
    let source = Source::new("a.yaml", text);
    let Err(errors) = parse(&source, &env) else {
        return;
    };
    assert!(!errors.is_empty());
    for error in &errors {
        let line = source.text.split('\n').nth(error.line - 1);
        let line = line.unwrap_or_else(|| panic!("no line {} in {text:?}", error.line));
        let width = line.chars().count();
        assert!(error.column <= width + 1, "{error} is outside of {text:?}");
    }
    error::render(&errors, false);
    error::to_json(&errors);
}

const VALID: &str = include_str!("config/everything.yaml");

/// `tests/import/<name>.conf` is of nginx, `<name>.caddy` a Caddyfile; `<name>.expected` is our config and the report.
#[test]
fn configs_of_others_become_ours_or_are_told() {
    let folder = root().join("tests/import");
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|file| {
            file.extension()
                .is_some_and(|extension| extension != "expected")
        })
        .collect();
    files.sort();
    assert!(files.len() >= 20, "{}", files.len());
    let include = |_: &str| Err("there is no such file".to_owned());
    let mut stale = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let name = file.file_name().unwrap().to_str().unwrap();
        let is_nginx = name.ends_with(".conf");
        let read = if is_nginx {
            import::nginx
        } else {
            import::caddyfile
        };
        let found = match read(name, &text, &include) {
            Ok(imported) => {
                let errors = parse(&Source::new(&file, &imported.yaml), &env).err();
                let shown = errors
                    .map(|errors| error::render(&errors, false))
                    .unwrap_or_default();
                // What is imported is a config, but for certificates that nobody named.
                let is_whole = shown.is_empty();
                assert!(is_whole, "{name}\n{}\n{shown}", imported.yaml);
                let notes = imported.notes.iter().map(|note| format!("# {note}\n"));
                imported.yaml.clone() + "\n" + &notes.collect::<String>()
            }
            Err(error) => format!("# {error}\n"),
        };
        stale.extend(check(&file.with_extension("expected"), &found).err());
    }
    assert!(stale.is_empty(), "{}", stale.join("\n"));
}

/// What configs of other proxies are made of, between bars.
const FOREIGN: &str = r#"server| |{|}|;|
|listen |443 ssl|location |/a|~ |^/(|proxy_pass |http://|a|$host|return |301 |https://$host$request_uri|if |($host = a)|upstream |hash |"|'|\|#|rewrite |add_header |x |import |handle_path |/*|@a |path |header |-|reverse_proxy |h2c://|tls |redir |respond |(a)|{args[0]}|:80|*|unix:|http |server_name |é"#;

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 256,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Whatever the text of another proxy's config, importing it comes to an end, and gives a config or an error.
    #[test]
    fn imports_take_any_text(parts in prop::collection::vec(prop::sample::select(FOREIGN.split('|').collect::<Vec<_>>()), 0..60)) {
        let text: String = parts.concat();
        let include = |_: &str| Err("there is no such file".to_owned());
        for imported in [import::nginx("x", &text, &include), import::caddyfile("x", &text, &include)].into_iter().flatten() {
            prop_assert!(imported.yaml.starts_with("# Imported from "));
        }
    }

    #[test]
    fn any_text_is_read_or_refused_at_a_place_in_it(
        text in "[-a-z0-9:,.'\"{}\\[\\]|>&*!%#@` \t\r\n\u{85}\u{2028}ö€\u{0}-\u{1f}]{0,200}"
    ) {
        check_places(&text);
    }

    #[test]
    fn a_mutated_config_is_read_or_refused_at_a_place_in_it(
        cuts in prop::collection::vec(
            (0..VALID.len(), 0..40usize, "[-a-z0-9:,'\"{}\\[\\]&*$ \n\tö]{0,6}"),
            1..4,
        )
    ) {
        let mut text = VALID.to_owned();
        for (start, length, with) in cuts {
            let start = text.floor_char_boundary(start.min(text.len()));
            let end = text.floor_char_boundary((start + length).min(text.len()));
            text.replace_range(start..end, &with);
        }
        check_places(&text);
    }
}
