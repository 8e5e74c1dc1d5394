//! The commands of the command line, each ending in an exit status; here, and in no other file, things are printed.
//!
//! | status | meaning |
//! |---|---|
//! | 0 | done; for `run`: asked to end, and ended |
//! | 1 | the config is wrong, or the command could not do its work |
//! | 2 | the command line is not understood |

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::pin::pin;
use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::confine::confine;
use super::control::{self, Told};
use super::foreign;
use super::{App, Options, Origin, StartError};
use crate::base::clock;
use crate::cli::{self, Command, Foreign, Format, Invocation, Run};
use crate::config::error::{self, ConfigError};
use crate::config::schema;
use crate::controlplane::explain::{self, Question, Written};
use crate::controlplane::process::handover::PREDECESSOR;
use crate::controlplane::process::inherit::Left;
use crate::controlplane::process::systemd;
use crate::controlplane::process::upgrade::Launch;
use crate::controlplane::reload;
use crate::controlplane::reload::in_force::InForce;
use crate::controlplane::reload::load::Environment;
use crate::dataplane::snapshot::Snapshot;
use crate::demo;
use crate::telemetry;

/// Does what is asked of the program.
pub fn execute(invocation: Invocation) -> ExitCode {
    let Invocation { command, log } = invocation;
    match command {
        Command::Run(asked) => run_proxy(&asked, &log),
        Command::Reload(which) => tell(control::reload(&which)),
        Command::Upgrade(which) => tell(control::upgrade(&which)),
        Command::Demo => with_log(&log, run_demo),
        Command::Check { config, format } => check(&config, format),
        Command::Schema { site: false } => print(&schema::schema()),
        Command::Schema { site: true } => print(&schema::site_schema()),
        Command::Explain {
            method,
            url,
            headers,
            config,
        } => explain(&config, &method, &url, &headers),
        Command::Import { kind, file } => import(kind, &file),
        Command::Completions { shell } => print(&String::from_utf8_lossy(&cli::completions(shell))),
    }
}

fn run_proxy(asked: &Run, log: &str) -> ExitCode {
    // First of all, while the numbers of descriptors mean what they meant to whoever left them.
    let surroundings = cli::surroundings(PREDECESSOR);
    let left = Left {
        count: surroundings.listen_fds.clone(),
        pid: surroundings.listen_pid.clone(),
        names: surroundings.listen_names.clone(),
        predecessor: surroundings.predecessor.clone(),
    };
    let inheritance = match left.take() {
        Ok(inheritance) => inheritance,
        Err(error) => return fail(&error),
    };
    let mut arguments = cli::arguments();
    let launch = arguments.next().map(|program| Launch {
        program,
        arguments: arguments.collect(),
        timeout: asked.upgrade_timeout,
    });
    let default_socket = control::default_path(&surroundings);
    let options = Options {
        socket: asked.socket.clone(),
        origin: Origin {
            inheritance,
            launch,
            has_systemd: surroundings.has_notify_socket,
            watchdog: systemd::watchdog(),
            pid_file: asked.pid_file.clone(),
            writable: None,
        },
        ..options(&asked.config)
    };
    with_log(log, || {
        if default_socket.is_none() {
            tracing::info!("no folder is known for a control socket: `admin.address` may name one");
        }
        let options = Options {
            default_socket,
            ..options
        };
        match confine(options) {
            Ok(options) => run(options, || {}),
            Err(error) => fail_start(&error),
        }
    })
}

/// Runs the proxy until a signal ends it. `ready` is called once the listeners accept.
fn run(options: Options, ready: impl FnOnce()) -> ExitCode {
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    runtime.block_on(async {
        // Before anything else: a signal during the start is not lost.
        let mut signals = match Signals::new() {
            Ok(signals) => signals,
            Err(error) => return fail(&error),
        };
        match App::start(options) {
            Ok(app) => {
                ready();
                match signals.serve(&app).await {
                    Ended::Asked => ExitCode::SUCCESS,
                    Ended::Unasked => fail(&"the control plane ended by itself"),
                }
            }
            Err(error) => fail_start(&error),
        }
    })
}

fn run_demo() -> ExitCode {
    let prepared = match demo::prepare(Path::new(""), clock::wall()) {
        Ok(prepared) => prepared,
        Err(error) => return fail(&error),
    };
    // They stop when they are dropped, after the proxy.
    let _backends = match demo::Backends::start(&demo::BACKENDS, Some(&prepared.config)) {
        Ok(backends) => backends,
        Err(error) => return fail(&error),
    };
    run(options(&prepared.config), || {
        print(&demo::welcome(&prepared));
    })
}

/// How an app came to its end.
enum Ended {
    /// By a signal, or because another process serves in its place.
    Asked,
    /// By a panic: a bug.
    Unasked,
}

/// The signals of the process.
struct Signals {
    hangup: Signal,
    reopen: Signal,
    upgrade: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            reopen: signal(SignalKind::user_defined1())?,
            upgrade: signal(SignalKind::user_defined2())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Hands signals to the app until it has ended: the first SIGTERM or SIGINT drains, the second ends at once.
    async fn serve(&mut self, app: &App) -> Ended {
        let mut ended = pin!(app.ended());
        let mut is_draining = false;
        loop {
            tokio::select! {
                () = &mut ended => break,
                _ = self.hangup.recv() => app.hang_up(),
                _ = self.reopen.recv() => app.reopen_log(),
                _ = self.upgrade.recv() => app.upgrade(),
                _ = self.terminate.recv() => Self::end(app, &mut is_draining),
                _ = self.interrupt.recv() => Self::end(app, &mut is_draining),
            }
        }
        if is_draining || app.has_handed_over() {
            Ended::Asked
        } else {
            Ended::Unasked
        }
    }

    fn end(app: &App, is_draining: &mut bool) {
        if std::mem::replace(is_draining, true) {
            app.close();
        } else {
            app.drain();
        }
    }
}

fn import(kind: Foreign, file: &Path) -> ExitCode {
    match foreign::import(kind, file) {
        Ok(imported) => {
            let lines = imported.notes.iter().map(|note| format!("{note}\n"));
            say(&lines.collect::<String>());
            print(&imported.yaml)
        }
        Err(error) => fail(&error),
    }
}

fn check(config: &Path, format: Format) -> ExitCode {
    let rehearsed = rehearse(config);
    let errors = match &rehearsed {
        Ok((in_force, _)) => in_force.errors(),
        Err(errors) => errors.clone(),
    };
    match (format, &rehearsed) {
        (Format::Text, Ok((in_force, _))) => {
            if !errors.is_empty() {
                print(&error::render(&errors, io::stdout().is_terminal()));
            }
            print(&summary(config, in_force));
        }
        (Format::Text, Err(_)) => {
            print(&error::render(&errors, io::stdout().is_terminal()));
        }
        (Format::Json, _) => {
            print(&error::to_json(&errors));
        }
    }
    if errors.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn summary(path: &Path, in_force: &InForce) -> String {
    let count = |count: usize, word: &str| match count {
        1 => format!("1 {word}"),
        _ => format!("{count} {word}s"),
    };
    let left_out: Vec<_> = in_force
        .sites
        .iter()
        .filter(|site| site.good().is_none())
        .collect();
    let mut parts = vec![
        count(in_force.config().listeners.len(), "listener"),
        count(in_force.routes().count(), "route"),
        count(in_force.pools().count(), "pool"),
    ];
    if !in_force.sites.is_empty() {
        parts.push(count(in_force.sites.len() - left_out.len(), "site"));
    }
    let ok = if left_out.is_empty() { "ok: " } else { "" };
    let mut text = format!("{ok}{}: {}\n", path.display(), parts.join(", "));
    for site in left_out {
        let (name, file) = (&site.name, site.path.display());
        text.push_str(&format!(
            "a start would leave out the site {name} ({file})\n"
        ));
    }
    for danger in in_force.dangers() {
        text.push_str(&format!("security is lowered by {danger}\n"));
    }
    text
}

fn explain(config: &Path, method: &str, url: &str, headers: &[(String, String)]) -> ExitCode {
    let question = match Question::new(method, url, headers) {
        Ok(question) => question,
        Err(error) => return fail(&error),
    };
    match rehearse(config) {
        Ok((in_force, snapshot)) => {
            say(&error::render(
                &in_force.errors(),
                io::stderr().is_terminal(),
            ));
            let written = Written {
                listeners: &in_force.config().listeners,
                routes: in_force.routes().collect(),
                pools: in_force.pools().collect(),
            };
            print(&explain::explain(&written, &snapshot, &question))
        }
        Err(errors) => fail_config(&errors),
    }
}

/// Everything that a start does, short of asking for names and opening sockets.
fn rehearse(config: &Path) -> Result<(InForce, Snapshot), Vec<ConfigError>> {
    reload::rehearse(config, &Environment::new(cli::env))
}

fn options(config: &Path) -> Options {
    Options {
        environment: Environment::new(cli::env),
        ..Options::new(config)
    }
}

fn with_log(filter: &str, command: impl FnOnce() -> ExitCode) -> ExitCode {
    match telemetry::start_log(filter) {
        Ok(()) => command(),
        Err(error) => fail(&error),
    }
}

/// Every connection is a file to the system, and its usual limit is meant for programs that have few.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, limit = ?limit.current, "the limit of open files stays as it is");
    }
}

/// Says how a demand on a running process ended.
fn tell(told: Result<Told, String>) -> ExitCode {
    match told {
        Ok(Told { is_good, text }) if is_good => print(&text),
        Ok(Told { text, .. }) => {
            say(&format!("{text}\n"));
            ExitCode::FAILURE
        }
        Err(error) => fail(&error),
    }
}

fn fail_start(error: &StartError) -> ExitCode {
    match error {
        StartError::Config(errors) => fail_config(errors),
        StartError::System(error) => fail(error),
    }
}

fn fail_config(errors: &[ConfigError]) -> ExitCode {
    say(&error::render(errors, io::stderr().is_terminal()));
    ExitCode::FAILURE
}

fn fail(error: &impl Display) -> ExitCode {
    say(&format!("lockgate: {error}\n"));
    ExitCode::FAILURE
}

/// Answers on standard output; a reader that went away, as `head` does, is no failure of ours.
fn print(text: &str) -> ExitCode {
    let mut out = io::stdout().lock();
    let written = out
        .write_all(text.as_bytes())
        .and_then(|()| match text.ends_with('\n') {
            true => out.flush(),
            false => out.write_all(b"\n").and_then(|()| out.flush()),
        });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Complains on standard error.
fn say(text: &str) {
    // Where the complaint about a failing standard error should go, nobody knows.
    let _ = io::stderr().lock().write_all(text.as_bytes());
}
