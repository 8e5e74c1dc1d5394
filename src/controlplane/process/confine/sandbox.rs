//! What the process denies itself, as far as the kernel can: landlock for files, seccomp for system calls.
//!
//! Files: it writes nowhere but beneath the folders that its config names at the start, and starts no program but from where
//! programs are installed. Reading is left to permissions, since a reload may name any file. Calls: those that only owners of
//! machines, debuggers and escapes need fail with EPERM. The list of what is denied is short and stable; one of what is allowed
//! would have to be right for every C library, kernel and version to come, and be wrong at night.
//!
//! Both are for good and pass on to the next binary, so an upgrade adds nothing: layers of landlock are few. What the kernel
//! lacks is left out and said.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, AccessFs, BitFlags, CompatLevel, Compatible, RestrictionStatus, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, path_beneath_rules,
};
use rustix::thread::set_no_new_privs;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

/// Where programs and the loader of programs are installed.
const PROGRAMS: &[&str] = &[
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/opt",
    "/nix/store",
    "/gnu/store",
];

/// Devices that are written to, such as `/dev/null` and `/dev/stdout`.
const DEVICES: &str = "/dev";

/// Enters the sandbox: this thread, and all that it will start. What cannot be had is said in the log.
pub fn enter(writable: &[PathBuf], program: Option<&Path>) {
    let files = restrict_files(writable, program);
    let files = match &files {
        Ok(status) => match status.ruleset {
            RulesetStatus::FullyEnforced => "landlock",
            RulesetStatus::PartiallyEnforced => "landlock, as far as this kernel has it",
            RulesetStatus::NotEnforced => "none: this kernel has no landlock",
        },
        Err(error) => {
            tracing::warn!(%error, "the sandbox cannot restrict files");
            "none"
        }
    };
    let calls = match deny_calls() {
        Ok(()) => "seccomp",
        Err(error) => {
            tracing::warn!(%error, "the sandbox cannot restrict system calls");
            "none"
        }
    };
    tracing::info!(files, calls, "sandbox");
}

fn restrict_files(
    writable: &[PathBuf],
    program: Option<&Path>,
) -> Result<RestrictionStatus, RulesetError> {
    let write = AccessFs::from_write(ABI::V3);
    let device: BitFlags<AccessFs> = AccessFs::WriteFile | AccessFs::Truncate;
    let programs = PROGRAMS.iter().map(PathBuf::from).chain(homes(program));
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(write | AccessFs::Execute)?
        .create()?
        .add_rules(path_beneath_rules(writable, write))?
        .add_rules(path_beneath_rules([DEVICES], device))?
        .add_rules(path_beneath_rules(programs, AccessFs::Execute))?
        .restrict_self()
}

/// The folders that the next binary is started from: as this one was called, and where it is in truth.
fn homes(program: Option<&Path>) -> Vec<PathBuf> {
    let mut places = vec![PathBuf::from("/proc/self/exe")];
    places.extend(program.map(Path::to_owned));
    let real: Vec<_> = places
        .iter()
        .filter_map(|place| fs::canonicalize(place).ok())
        .collect();
    places.extend(real);
    let folders = places.iter().filter_map(|place| place.parent());
    folders
        .filter(|folder| !folder.as_os_str().is_empty() && !folder.starts_with("/proc"))
        .map(Path::to_owned)
        .collect()
}

/// The folder of a file that is written, and that of the file it leads to if it is a link.
pub fn folders_of(file: &Path) -> Vec<PathBuf> {
    let real = fs::canonicalize(file).ok();
    let mut folders: Vec<_> = [Some(file.to_owned()), real]
        .into_iter()
        .flatten()
        .filter_map(|file| {
            let folder = file.parent()?;
            // A name alone is in the folder that the process runs in.
            let is_here = folder.as_os_str().is_empty();
            Some(if is_here {
                ".".into()
            } else {
                folder.to_owned()
            })
        })
        .collect();
    folders.dedup();
    folders
}

fn deny_calls() -> Result<(), String> {
    set_no_new_privs(true).map_err(told)?;
    let denied = denied().map(|call| (call, Vec::new()));
    let filter = SeccompFilter::new(
        BTreeMap::from_iter(denied),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM.unsigned_abs()),
        ARCH,
    );
    let program: BpfProgram = filter.and_then(TryInto::try_into).map_err(told)?;
    seccompiler::apply_filter(&program).map_err(told)
}

fn told(error: impl Display) -> String {
    error.to_string()
}

/// The numbers of the calls that fail from here on.
fn denied() -> impl Iterator<Item = i64> {
    // Who is somebody already has no other to become; root that was not asked to be somebody may be, with the next binary.
    let accounts = (!super::account::is_root()).then_some(ACCOUNTS);
    let lists = [Some(DENIED), Some(DENIED_HERE), accounts];
    lists.into_iter().flatten().flatten().copied()
}

const ACCOUNTS: &[i64] = &[
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
];

const DENIED: &[i64] = &[
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_perf_event_open,
    // File systems and namespaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_mount_setattr,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_quotactl,
    libc::SYS_mknodat,
    // The kernel itself, and parts of it that had many holes.
    libc::SYS_bpf,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_syslog,
    libc::SYS_fanotify_init,
    libc::SYS_personality,
    libc::SYS_vhangup,
    libc::SYS_acct,
    // The machine.
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
];

#[cfg(target_arch = "x86_64")]
const ARCH: TargetArch = TargetArch::x86_64;

#[cfg(target_arch = "aarch64")]
const ARCH: TargetArch = TargetArch::aarch64;

#[cfg(target_arch = "x86_64")]
const DENIED_HERE: &[i64] = &[
    libc::SYS_kexec_file_load,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_mknod,
];

#[cfg(not(target_arch = "x86_64"))]
const DENIED_HERE: &[i64] = &[];

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_is_written_in_its_folder_and_where_its_link_leads() {
        let folder = tempfile::tempdir().unwrap();
        let (link, real) = (folder.path().join("link"), folder.path().join("far/file"));
        fs::create_dir(folder.path().join("far")).unwrap();
        fs::write(&real, "").unwrap();
        symlink(&real, &link).unwrap();
        let far = fs::canonicalize(real).unwrap();
        let far = far.parent().unwrap();
        assert_eq!(folders_of(&link), [folder.path(), far]);
        assert_eq!(folders_of(Path::new("nowhere.log")), [Path::new(".")]);
    }

    #[test]
    fn in_the_sandbox_calls_fail_and_files_are_written_where_they_may() {
        let (open, shut) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let writable = vec![open.path().to_owned()];
        let program = shut.path().join("program");
        fs::copy("/bin/true", &program).unwrap();
        // A thread of its own: what it enters ends with it.
        let thread = std::thread::spawn({
            let (open, shut) = (open.path().join("a"), shut.path().join("a"));
            move || {
                let files = restrict_files(&writable, None).unwrap();
                deny_calls().unwrap();
                let is_denied = |error: rustix::io::Errno| error == rustix::io::Errno::PERM;
                let unshared = rustix::thread::set_thread_uid(rustix::process::geteuid());
                let is_root = super::super::account::is_root();
                assert_eq!(unshared.is_err_and(is_denied), !is_root);
                fs::write(open, "").unwrap();
                fs::read_dir("/").unwrap();
                if files.ruleset != RulesetStatus::NotEnforced {
                    assert!(fs::write(shut, "").is_err());
                    assert!(std::process::Command::new(program).status().is_err());
                }
                assert!(
                    std::process::Command::new("/bin/true")
                        .status()
                        .unwrap()
                        .success()
                );
                rustix::system::sethostname(b"other").unwrap_err()
            }
        });
        assert_eq!(thread.join().unwrap(), rustix::io::Errno::PERM);
    }
}
