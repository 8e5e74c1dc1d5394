//! A whole proxy in process: its config in a folder of its own, its listeners on ports of the system's choice, its
//! access log in a file beside the config.

use std::fmt::Display;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lockgate::app::{App, Options};
use lockgate::controlplane::reload::outcome::Outcome;
use lockgate::controlplane::reload::watch::Pace;
use serde_json::Value;
use tempfile::TempDir;

use super::client::Client;
use super::config::{self, Values};
use super::expect;

/// Slow to have ideas of its own: cases say when to reload.
const SLOW: Pace = Pace {
    settle: Duration::from_secs(1),
    poll: Duration::from_secs(3600),
    hints: true,
};

/// A running proxy.
pub struct Proxy {
    app: Option<App>,
    folder: TempDir,
}

/// Starts a proxy; see [`config`] for what is filled in.
#[track_caller]
pub fn start(text: &str, values: Values<'_>) -> Proxy {
    start_at_pace(text, values, SLOW)
}

/// Starts a proxy that looks after its files at this pace.
#[track_caller]
pub fn start_at_pace(text: &str, values: Values<'_>, pace: Pace) -> Proxy {
    run(
        tempfile::tempdir().unwrap(),
        &config::fill(text, values),
        pace,
    )
}

/// Starts a proxy in a folder that holds the files it names.
#[track_caller]
pub fn start_in(folder: TempDir, text: &str) -> Proxy {
    start_in_at_pace(folder, text, SLOW)
}

/// The same with a proxy that looks after its files at this pace.
#[track_caller]
pub fn start_in_at_pace(folder: TempDir, text: &str, pace: Pace) -> Proxy {
    run(folder, &config::fill(text, &[]), pace)
}

#[track_caller]
fn run(folder: TempDir, text: &str, pace: Pace) -> Proxy {
    let file = folder.path().join("proxy.yaml");
    fs::write(&file, text).unwrap();
    let options = Options {
        pace,
        ..Options::new(file)
    };
    let app = App::start(options).unwrap_or_else(|error| panic!("no start: {error:?}"));
    Proxy {
        app: Some(app),
        folder,
    }
}

/// Starts a proxy that sends everything to these endpoints.
#[track_caller]
pub fn before(endpoints: &[&dyn Display]) -> Proxy {
    before_with(endpoints, "")
}

/// The same with more at the top level of the config.
#[track_caller]
pub fn before_with(endpoints: &[&dyn Display], more: &str) -> Proxy {
    start(&config::before(endpoints, more), &[])
}

impl Proxy {
    pub fn app(&self) -> &App {
        self.app.as_ref().unwrap()
    }

    /// The folder of the config.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The address of a listener.
    #[track_caller]
    pub fn at(&self, listener: &str) -> SocketAddr {
        let address = self.app().address(listener);
        address.unwrap_or_else(|| panic!("no listener {listener}"))
    }

    /// The address of the listener `web`.
    #[track_caller]
    pub fn address(&self) -> SocketAddr {
        self.at("web")
    }

    /// A connection to the listener `web`.
    #[track_caller]
    pub fn client(&self) -> Client {
        Client::connect(self.address())
    }

    /// What the process tells of itself, where its config has `admin: { address: unix:admin.sock }`.
    #[track_caller]
    pub fn metrics(&self) -> String {
        let mut client = Client::unix(&self.folder.path().join("admin.sock"));
        client.get("/metrics").text().to_owned()
    }

    /// Writes another config and has it taken up.
    pub fn rewrite(&self, text: &str, values: Values<'_>) -> Arc<Outcome> {
        self.write(text, values);
        self.app().reload().unwrap()
    }

    /// Writes another config, and no more.
    pub fn write(&self, text: &str, values: Values<'_>) {
        let file = self.folder.path().join("proxy.yaml");
        fs::write(file, config::fill(text, values)).unwrap();
    }

    /// Waits for so many records of the access log, and returns all that are there.
    #[track_caller]
    pub fn records(&self, count: usize) -> Vec<Value> {
        let file = self.folder.path().join("access.log");
        expect::eventually(&format!("{count} access records"), || {
            let text = fs::read_to_string(&file).unwrap_or_default();
            let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
            let records: Vec<_> = whole.lines().map(record).collect();
            (records.len() >= count).then_some(records)
        })
    }

    /// The records that are there by now.
    pub fn peek(&self) -> Vec<Value> {
        self.records(0)
    }

    /// The only record there is.
    #[track_caller]
    pub fn record(&self) -> Value {
        let mut records = self.records(1);
        assert_eq!(records.len(), 1, "{records:?}");
        records.remove(0)
    }

    /// Begins the drain; what it ends can be watched meanwhile.
    pub fn drain(&self) {
        self.app().drain();
    }

    /// Waits until everything has ended, and returns all access records.
    pub fn stop(mut self) -> Vec<Value> {
        if let Some(app) = self.app.take() {
            app.stop();
        }
        let text = fs::read_to_string(self.folder.path().join("access.log"));
        text.unwrap_or_default().lines().map(record).collect()
    }
}

fn record(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("not JSON: {line:?}: {error}"))
}
