//! The control socket: made for its owner alone, a stale one replaced, a live one left alone.
//!
//! The mode is set before the socket listens, so that there is no moment at which others could connect. While it is looked
//! after who has the path, the folder is locked against another process that does the same.

use std::fmt;
use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

use super::full_path;

/// Nobody but the owner connects.
const MODE: u32 = 0o600;

/// The mode of a folder that is made for the socket.
const FOLDER_MODE: u32 = 0o755;

/// Callers that wait to be accepted.
const BACKLOG: i32 = 64;

/// A control socket that listens, and whose file goes with it.
#[derive(Debug)]
pub struct AdminSocket {
    pub(super) listener: UnixListener,
    path: PathBuf,
    /// Device and inode of its file, if that is ours to remove.
    file: Option<(u64, u64)>,
}

/// A control socket that another process has left to us.
#[derive(Debug)]
pub struct LeftSocket {
    /// The socket.
    pub listener: UnixListener,
    /// Whether its file goes when we do; systemd keeps the files of its sockets.
    pub is_ours: bool,
}

/// Why there is no control socket.
#[derive(Debug)]
pub enum OpenError {
    /// Another process serves there.
    Live,
    /// Another process is opening a socket in the same folder at this moment.
    Busy,
    /// Something else is at the path.
    NotASocket,
    /// What the system says.
    System(io::Error),
}

impl OpenError {
    /// What to do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Live => {
                "stop that process, or write another `admin.address`: each has a control socket of its own"
            }
            Self::Busy => "start one after the other",
            Self::NotASocket => "remove it, or write another `admin.address`",
            Self::System(error) => match error.kind() {
                io::ErrorKind::NotFound => "make its folder first",
                io::ErrorKind::InvalidInput => "a path of a unix socket has at most 107 bytes",
                _ => "write an `admin.address` in a folder that this user may write to",
            },
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Live => out.write_str("a running process serves there"),
            Self::Busy => out.write_str("another process is just opening one there"),
            Self::NotASocket => out.write_str("what is there is not a socket"),
            Self::System(error) => error.fmt(out),
        }
    }
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

impl AdminSocket {
    /// Opens a socket at `path`, or takes the one that was left for it.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(path: &Path, left: Vec<LeftSocket>) -> Result<Self, OpenError> {
        for LeftSocket { listener, is_ours } in left {
            let bound = listener.local_addr()?;
            // Either may be written from where the process was started.
            let is_the_same = |bound| full_path(bound) == full_path(path);
            if bound.as_pathname().is_some_and(is_the_same) {
                listener.set_nonblocking(true)?;
                return Ok(Self::new(listener, path, is_ours));
            }
            tracing::warn!(
                ?bound,
                "a control socket that was left to us is not where the config wants it: closed"
            );
        }
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            Some(_) | None => Path::new("."),
        };
        let lock = File::open(folder)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::Busy),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        clear(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SockAddr::unix(path)?)?;
        fs::set_permissions(path, Permissions::from_mode(MODE))?;
        socket.listen(BACKLOG)?;
        Ok(Self::new(socket.into(), path, true))
    }

    fn new(listener: UnixListener, path: &Path, is_ours: bool) -> Self {
        Self {
            listener,
            path: path.to_owned(),
            file: identity(path).filter(|_| is_ours),
        }
    }

    /// Another handle on it, for the process that goes on after this one, and whether the file goes with that process.
    ///
    /// # Errors
    /// When the system has no more descriptors.
    pub fn duplicate(&self) -> io::Result<LeftSocket> {
        Ok(LeftSocket {
            listener: self.listener.try_clone()?,
            is_ours: self.file.is_some(),
        })
    }

    /// Removes its file, if it is still that of this socket.
    pub(super) fn remove(&self) {
        if self.file.is_some() && identity(&self.path) == self.file {
            // Somebody else may be faster; then it is gone as well.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes the folder of the default socket, if its own folder is there.
///
/// # Errors
/// What the system says.
pub fn make_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    match DirBuilder::new().mode(FOLDER_MODE).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let file = fs::symlink_metadata(path).ok()?;
    Some((file.dev(), file.ino()))
}

/// Removes what a process has left at `path` that is no more.
fn clear(path: &Path) -> Result<(), OpenError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
        Ok(file) if !file.file_type().is_socket() => return Err(OpenError::NotASocket),
        Ok(_) => {}
    }
    let caller = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // One that does not come to accept us would keep us for ever.
    caller.set_nonblocking(true)?;
    match caller.connect(&SockAddr::unix(path)?) {
        Ok(()) => Err(OpenError::Live),
        Err(error) => match error.kind() {
            io::ErrorKind::WouldBlock => Err(OpenError::Live),
            io::ErrorKind::ConnectionRefused => Ok(fs::remove_file(path)?),
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error.into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        (folder, path)
    }

    fn open(path: &Path) -> Result<AdminSocket, OpenError> {
        AdminSocket::open(path, Vec::new())
    }

    #[test]
    fn it_is_for_its_owner_alone_and_goes_with_its_process() {
        let (_folder, path) = folder();
        let socket = open(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
        socket.remove();
        assert!(!path.exists());
        // Whatever is there by then is not ours.
        fs::write(&path, "").unwrap();
        socket.remove();
        assert!(path.exists());
    }

    #[test]
    fn a_stale_one_is_replaced_and_a_live_one_is_not() {
        let (_folder, path) = folder();
        drop(open(&path).unwrap());
        assert!(path.exists(), "nobody has removed it");
        let live = open(&path).unwrap();
        assert!(matches!(open(&path), Err(OpenError::Live)));
        UnixStream::connect(&path).unwrap();
        drop(live);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        assert!(matches!(open(&path), Err(OpenError::NotASocket)));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn one_that_was_left_is_gone_on_with() {
        let (_folder, path) = folder();
        let old = open(&path).unwrap();
        let elsewhere = path.with_file_name("other.sock");
        let other = open(&elsewhere).unwrap();
        let left = vec![other.duplicate().unwrap(), old.duplicate().unwrap()];
        drop(old);
        let new = AdminSocket::open(&path, left).unwrap();
        UnixStream::connect(&path).unwrap();
        assert!(new.listener.accept().is_ok());
        new.remove();
        assert!(!path.exists());
    }

    #[test]
    fn the_file_of_a_socket_that_systemd_made_stays() {
        let (_folder, path) = folder();
        let listener = UnixListener::bind(&path).unwrap();
        let left = LeftSocket {
            listener,
            is_ours: false,
        };
        AdminSocket::open(&path, vec![left]).unwrap().remove();
        assert!(path.exists());
    }

    #[test]
    fn what_cannot_be_is_told() {
        let (folder, path) = folder();
        let long = folder.path().join("x".repeat(120));
        let deep = path.join("deep");
        for path in [&long, &deep] {
            let error = open(path).unwrap_err();
            assert!(matches!(error, OpenError::System(_)), "{error}");
            assert!(!error.help().is_empty());
        }
    }
}
