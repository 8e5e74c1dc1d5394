//! The process before it has threads: no core dumps, another user, a sandbox.
//!
//! The main file is read here for these keys alone, and again by the control plane: by then as the user that it serves as, so
//! that a file that this user cannot read is told of at the start and not at the first reload.

use super::{Options, StartError};

/// Takes from the process what its config says.
///
/// # Errors
/// What is wrong with the config, or why the process cannot be whom it names.
#[cfg(target_os = "linux")]
pub(super) fn confine(mut options: Options) -> Result<Options, StartError> {
    match linux::confine(&mut options) {
        Ok(()) => Ok(options),
        Err(errors) => {
            let error = StartError::Config(errors);
            if let Some(predecessor) = options.origin.inheritance.predecessor.take() {
                predecessor.fail(&error.to_string());
            }
            Err(error)
        }
    }
}

/// Nothing of it is had elsewhere.
#[cfg(not(target_os = "linux"))]
pub(super) fn confine(options: Options) -> Result<Options, StartError> {
    tracing::warn!("`user`, `sandbox` and the ban on core dumps are for Linux alone");
    Ok(options)
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fs::{self, OpenOptions};
    use std::io;
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt, chown, fchown};
    use std::path::{Path, PathBuf};

    use crate::app::{Options, control};
    use crate::config::error::ConfigError;
    use crate::config::{AccessLog, AccessLogPath, Admin, Config, Sandbox};
    use crate::controlplane::admin::socket::make_folder;
    use crate::controlplane::process::confine::account::{self, Account};
    use crate::controlplane::process::confine::{Refused, dumps, sandbox};
    use crate::controlplane::reload::load;

    pub(super) fn confine(options: &mut Options) -> Result<(), Vec<ConfigError>> {
        // Before a key is read. Until the config says otherwise nobody sees this memory.
        told(dumps::forbid());
        let main = load::main_file(&options.config, &options.environment)?;
        let config = &main.config;
        let refused = |refused: Refused| {
            let Refused { key, message, help } = refused;
            vec![main.source.error_at(key, &message, Some(&help))]
        };
        if let Some(user) = &config.user {
            let account = account::find(user, config.group.as_ref()).map_err(refused)?;
            if account::is_root() {
                hand_files_to(&account, config, options);
            }
            account::take_on(&account).map_err(refused)?;
            tracing::info!(user = account.name(), "the process is this user's");
        } else if account::is_root() {
            tracing::warn!(
                "the process runs as root: write `user: lockgate`, which keeps the right to ports below 1024, or `user: root` if \
                 root is meant"
            );
        }
        // A change of the user has made it what the system thinks fit.
        told(match config.danger_core_dumps {
            true => dumps::allow(),
            false => dumps::forbid(),
        });
        stay_at_the_default_socket(options);
        let inherited = options.origin.inheritance.writable.take();
        options.origin.writable = match (&config.sandbox, inherited) {
            (wanted, Some(inherited)) => {
                if wanted.is_none() {
                    tracing::warn!(
                        "the sandbox of the process before stays in force until a restart"
                    );
                }
                Some(inherited)
            }
            (None, None) => None,
            (Some(wanted), None) => {
                if !account::is_root() {
                    account::keep_low_ports();
                }
                let writable = writable(config, wanted, options);
                let program = options.origin.launch.as_ref();
                sandbox::enter(&writable, program.map(|launch| Path::new(&launch.program)));
                Some(writable)
            }
        };
        Ok(())
    }

    fn told(done: io::Result<()>) {
        if let Err(error) = done {
            tracing::warn!(%error, "core dumps are as they were");
        }
    }

    /// Makes files usable for `account` that root would have made, or has made before. What cannot be done is told of when the
    /// file is opened, with its place.
    fn hand_files_to(account: &Account, config: &Config, options: &Options) {
        let (uid, gid) = account.ids();
        if options.socket.is_none()
            && config.admin == Admin::Unwritten
            && let Some(path) = &options.default_socket
            && let Some(folder) = path.parent()
        {
            // The folder is of our name.
            drop(make_folder(path).and_then(|()| chown(folder, Some(uid), Some(gid))));
        }
        if let Some(path) = log_of(config) {
            drop(hand_log_to(path, uid, gid));
        }
    }

    /// Root's log alone, and no link, device or pipe in its place.
    fn hand_log_to(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
        match fs::symlink_metadata(path) {
            Ok(there) if there.is_file() && there.uid() == 0 => {}
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut log = OpenOptions::new();
        // Somebody may have put a link there meanwhile. The mode is that of a log made later.
        log.append(true).create(true).mode(0o640);
        log.custom_flags(libc::O_NOFOLLOW);
        fchown(log.open(path)?, Some(uid), Some(gid))
    }

    fn log_of(config: &Config) -> Option<&Path> {
        match &config.access_log {
            Some(AccessLog {
                path: AccessLogPath::File(path),
                ..
            }) => Some(path),
            Some(AccessLog {
                path: AccessLogPath::Stdout,
                ..
            })
            | None => None,
        }
    }

    /// A socket at root's default place stays there, though whoever goes on with it is no longer root and has another default.
    fn stay_at_the_default_socket(options: &mut Options) {
        let system = control::system_path();
        let is_there = options
            .origin
            .inheritance
            .control
            .iter()
            .any(|(left, is_ours)| {
                let bound = left.local_addr();
                *is_ours && bound.is_ok_and(|bound| bound.as_pathname() == Some(&*system))
            });
        if is_there {
            options.default_socket = Some(system);
        }
    }

    /// The folders that the process has to write to.
    fn writable(config: &Config, wanted: &Sandbox, options: &Options) -> Vec<PathBuf> {
        let socket = match (&options.socket, &config.admin) {
            (Some(path), _) | (None, Admin::At(path)) => Some(path.as_path()),
            (None, Admin::Unwritten) => options.default_socket.as_deref(),
            (None, Admin::Off) => None,
        };
        if let (Some(path), Admin::Unwritten) = (socket, &config.admin) {
            // It has to be there to be named; what fails is told of when the socket is opened.
            drop(make_folder(path));
        }
        let files = [socket, options.origin.pid_file.as_deref(), log_of(config)];
        let folders = files.into_iter().flatten().flat_map(sandbox::folders_of);
        let mut folders: Vec<_> = folders.chain(wanted.write.iter().cloned()).collect();
        folders.sort_unstable();
        folders.dedup();
        folders
    }
}
