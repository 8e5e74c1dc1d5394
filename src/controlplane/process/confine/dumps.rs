//! Whether a crash writes the memory, and the keys in it, to disk, and whether others of the same user may read it.

use std::io;

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};

/// No core dump, and no reading by `ptrace` or `/proc`. Exec and a change of the user undo a part of it: to be called after each.
///
/// # Errors
/// What the system says.
pub fn forbid() -> io::Result<()> {
    limit(Some(0))?;
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// As the system would have it, up to the limit that whoever started the process has set.
///
/// # Errors
/// What the system says.
pub fn allow() -> io::Result<()> {
    limit(getrlimit(Resource::Core).maximum)?;
    Ok(set_dumpable_behavior(DumpableBehavior::Dumpable)?)
}

/// The upper limit stays, so that the next binary of an upgrade may decide otherwise.
fn limit(current: Option<u64>) -> io::Result<()> {
    let maximum = getrlimit(Resource::Core).maximum;
    Ok(setrlimit(Resource::Core, Rlimit { current, maximum })?)
}
