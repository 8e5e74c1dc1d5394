//! The command line: arguments to a plain [`Command`], and the only place that reads the environment.
//!
//! `main` calls [`parse`] and hands the command to the app, which runs it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum, ValueHint};

use crate::base::units;

/// The default of `--config`.
pub const CONFIG: &str = "proxy.yaml";

/// What is asked of the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    /// What to do.
    pub command: Command,
    /// The filter of diagnostics: a level, or directives such as `info,lockgate::config=debug`.
    pub log: String,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Run the proxy.
    Run(Run),
    /// Have a running proxy reload, and tell how that ended.
    Reload(Which),
    /// Have a running proxy start its binary anew and hand over to it, and tell how that ended.
    Upgrade(Which),
    /// Tell what is wrong with a config.
    Check {
        /// The config file.
        config: PathBuf,
        /// How to tell it.
        format: Format,
    },
    /// Print the JSON Schema of the config language.
    Schema {
        /// That of the files that `include` names.
        site: bool,
    },
    /// Tell what a request would meet.
    Explain {
        /// The method.
        method: String,
        /// The URL, absolute.
        url: String,
        /// Header fields, name and value.
        headers: Vec<(String, String)>,
        /// The config file.
        config: PathBuf,
    },
    /// Run the demonstration.
    Demo,
    /// Turn the config of another proxy into ours.
    Import {
        /// Whose it is.
        kind: Foreign,
        /// The file.
        file: PathBuf,
    },
    /// Print the completions for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// How a proxy is run.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The config file.
    #[arg(long, value_name = "FILE", default_value = CONFIG, value_hint = ValueHint::FilePath)]
    pub config: PathBuf,
    /// Where the control socket is, whatever the config says.
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub socket: Option<PathBuf>,
    /// A file to write the number of the process to, for supervisors that want one.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub pid_file: Option<PathBuf>,
    /// How long the next process may take to be ready in an upgrade.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = time)]
    pub upgrade_timeout: Duration,
}

/// Which running proxy is meant.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct Which {
    /// The config file that it runs [default: proxy.yaml, if it is there].
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// Its control socket [default: the one in the config].
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub socket: Option<PathBuf>,
}

/// Proxies whose configs can be imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Foreign {
    /// nginx: its whole config, or the file of a site.
    Nginx,
    /// Caddy: a Caddyfile.
    Caddyfile,
}

/// How errors are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For machines: an array of objects, empty if nothing is wrong.
    Json,
}

/// The arguments of this process, the program's name first.
pub fn arguments() -> impl Iterator<Item = OsString> {
    std::env::args_os()
}

/// Reads arguments.
///
/// # Errors
/// What to print and exit with: also for `--help` and `--version`, which end the program in peace.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, clap::Error> {
    let written = Arguments::try_parse_from(arguments)?;
    let log = written.log.or_else(|| env("LOCKGATE_LOG"));
    Ok(Invocation {
        command: written.command.into(),
        log: log.unwrap_or_else(|| "info".into()),
    })
}

/// A variable of the environment, for `${NAME}` in a config; `None` if it is not set or not UTF-8.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the place the ban points to"
)]
pub fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// What is known of the place where the program runs, beside its arguments.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// `LISTEN_FDS`: how many descriptors were left.
    pub listen_fds: Option<String>,
    /// `LISTEN_PID`: to which process.
    pub listen_pid: Option<String>,
    /// `LISTEN_FDNAMES`: under which names.
    pub listen_names: Option<String>,
    /// The variable of this name: from which process.
    pub predecessor: Option<String>,
    /// `NOTIFY_SOCKET`: whether systemd wants to be told.
    pub has_notify_socket: bool,
    /// `RUNTIME_DIRECTORY`, the first of it: the folder that systemd made for the service.
    pub runtime_folder: Option<PathBuf>,
    /// `XDG_RUNTIME_DIR`: that of the user.
    pub user_folder: Option<PathBuf>,
}

/// Looks around; `predecessor` is the name of the variable by which a process says who started it.
pub fn surroundings(predecessor: &str) -> Surroundings {
    let folder = |name| env(name).filter(|path| !path.is_empty());
    let first = |paths: String| paths.split(':').next().map(PathBuf::from);
    Surroundings {
        listen_fds: env("LISTEN_FDS"),
        listen_pid: env("LISTEN_PID"),
        listen_names: env("LISTEN_FDNAMES"),
        predecessor: env(predecessor),
        has_notify_socket: env("NOTIFY_SOCKET").is_some(),
        runtime_folder: folder("RUNTIME_DIRECTORY").and_then(first),
        user_folder: folder("XDG_RUNTIME_DIR").map(PathBuf::from),
    }
}

/// The completions for a shell, as text.
pub fn completions(shell: clap_complete::Shell) -> Vec<u8> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "lockgate", &mut text);
    text
}

/// An HTTPS reverse proxy and load balancer that reloads without a trace.
#[derive(Debug, Parser)]
#[command(name = "lockgate", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Subcommands,
    /// Diagnostics on stderr: error, warn, info, debug or trace. Default: LOCKGATE_LOG, or info.
    #[arg(long, global = true, value_name = "LEVEL")]
    log: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    /// Run the proxy.
    Run(Run),
    /// Have a running proxy reload; waits, and tells how that ended by exit status 0 or 1.
    Reload(Which),
    /// Have a running proxy hand over to its binary as it is now; waits, and tells how that ended by exit status 0 or 1.
    Upgrade(Which),
    /// Tell all that is wrong with a config; exit status 0 or 1.
    Check {
        #[command(flatten)]
        config: ConfigFile,
        /// How to tell it.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Print the JSON Schema of config files, for editors.
    Schema {
        /// That of the files of sites, which `include` names.
        #[arg(long)]
        site: bool,
    },
    /// Tell which listener, route, filters and pool a request would meet, and why; sends nothing.
    Explain {
        /// The method, such as GET.
        method: String,
        /// The URL, such as https://app.example.com/v1/users?page=2.
        #[arg(value_hint = ValueHint::Url)]
        url: String,
        /// A header field of the request; may be repeated.
        #[arg(short = 'H', value_name = "NAME:VALUE", value_parser = header)]
        headers: Vec<(String, String)>,
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Turn the config of another proxy into ours: the config on standard output, all that differs on standard error.
    Import {
        /// Whose it is.
        #[arg(value_enum)]
        kind: Foreign,
        /// The file.
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
    /// Run a proxy before two small web backends, to see it work.
    Demo,
    /// Print completions for a shell.
    Completions {
        /// The shell.
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

#[derive(Args, Debug)]
struct ConfigFile {
    /// The config file.
    #[arg(long, value_name = "FILE", default_value = CONFIG, value_hint = ValueHint::FilePath)]
    config: PathBuf,
}

impl From<Subcommands> for Command {
    fn from(written: Subcommands) -> Self {
        match written {
            Subcommands::Run(run) => Self::Run(run),
            Subcommands::Reload(which) => Self::Reload(which),
            Subcommands::Upgrade(which) => Self::Upgrade(which),
            Subcommands::Check {
                config: ConfigFile { config },
                format,
            } => Self::Check { config, format },
            Subcommands::Schema { site } => Self::Schema { site },
            Subcommands::Explain {
                method,
                url,
                headers,
                config: ConfigFile { config },
            } => Self::Explain {
                method,
                url,
                headers,
                config,
            },
            Subcommands::Import { kind, file } => Self::Import { kind, file },
            Subcommands::Demo => Self::Demo,
            Subcommands::Completions { shell } => Self::Completions { shell },
        }
    }
}

fn time(text: &str) -> Result<Duration, String> {
    match units::duration(text) {
        Ok(time) if !time.is_zero() => Ok(time),
        Ok(_) => Err("no time at all".into()),
        Err(error) => Err(format!("write {error}")),
    }
}

fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        }
        _ => Err("write name and value with a colon between: x-canary:1".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: &Command) {
        let arguments = line.split(' ').map(OsString::from);
        assert_eq!(&parse(arguments).unwrap().command, expected, "{line}");
    }

    #[test]
    fn arguments_become_commands() {
        Arguments::command().debug_assert();
        let config = PathBuf::from(CONFIG);
        let run = Run {
            config: config.clone(),
            socket: None,
            pid_file: None,
            upgrade_timeout: Duration::from_secs(30),
        };
        check("lockgate run", &Command::Run(run));
        let other = Run {
            config: "a.yaml".into(),
            socket: Some("a.sock".into()),
            pid_file: Some("a.pid".into()),
            upgrade_timeout: Duration::from_millis(500),
        };
        check(
            "lockgate run --config a.yaml --log debug --socket a.sock --pid-file a.pid --upgrade-timeout 500ms",
            &Command::Run(other),
        );
        let which = Which {
            config: None,
            socket: Some("a.sock".into()),
        };
        check(
            "lockgate reload --socket a.sock",
            &Command::Reload(which.clone()),
        );
        check("lockgate upgrade --socket a.sock", &Command::Upgrade(which));
        let format = Format::Json;
        check(
            "lockgate check --format json",
            &Command::Check {
                config: config.clone(),
                format,
            },
        );
        let file = "sites/shop.conf".into();
        let kind = Foreign::Nginx;
        check(
            "lockgate import nginx sites/shop.conf",
            &Command::Import { kind, file },
        );
        let explain = Command::Explain {
            method: "GET".into(),
            url: "https://a/b".into(),
            headers: vec![("x-a".into(), "1".into()), ("b".into(), "c:d".into())],
            config,
        };
        check(
            "lockgate explain GET https://a/b -H X-A:1 -H b:c:d",
            &explain,
        );
    }

    #[test]
    fn a_header_without_a_colon_is_refused() {
        let arguments = "lockgate explain GET / -H x".split(' ').map(OsString::from);
        assert!(parse(arguments).is_err());
    }

    #[test]
    fn every_shell_has_completions() {
        for shell in clap_complete::Shell::value_variants() {
            assert!(!completions(*shell).is_empty());
        }
    }
}
