//! From root to a user of its own, for good: groups, group, user, and every capability but the one for low ports.
//!
//! That one is kept in the ambient set too, so that the next binary of an upgrade has it, and a listener that a reload brings
//! may have a port below 1024.

use std::ffi::CString;
use std::io;

use nix::unistd::{
    Gid, Group, Uid, User, getegid, geteuid, getgrouplist, setgroups, setresgid, setresuid,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_ambient_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
    set_keep_capabilities, set_no_new_privs,
};

use super::Refused;
use crate::config::Account as Written;

/// What is kept.
const KEPT: CapabilitySet = CapabilitySet::NET_BIND_SERVICE;

/// Whom the process is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The user.
    uid: Uid,
    /// Its group.
    gid: Gid,
    /// Its name, if the system knows one: the key to its other groups.
    name: Option<String>,
}

impl Account {
    /// The numbers, of user and group.
    pub fn ids(&self) -> (u32, u32) {
        (self.uid.as_raw(), self.gid.as_raw())
    }

    /// How people call it.
    pub fn name(&self) -> String {
        let number = || self.uid.to_string();
        self.name.clone().unwrap_or_else(number)
    }

    fn is_root(&self) -> bool {
        self.uid.is_root()
    }
}

/// Looks up who is meant.
///
/// # Errors
/// The system does not know them, or cannot be asked.
pub fn find(user: &Written, group: Option<&Written>) -> Result<Account, Refused> {
    let refuse = |key, message: String, help: &str| Refused {
        key,
        message,
        help: help.to_owned(),
    };
    let unknown = "make it, such as by `useradd --system lockgate`, or write another";
    let asked = |error: nix::Error| {
        refuse(
            "user",
            format!("users cannot be looked up: {error}"),
            "write a number, and `group` too",
        )
    };
    let known = match user {
        Written::Id(id) => User::from_uid(Uid::from_raw(*id)).map_err(asked)?,
        Written::Name(name) => match User::from_name(name).map_err(asked)? {
            Some(user) => Some(user),
            None => {
                return Err(refuse(
                    "user",
                    format!("there is no user `{name}`"),
                    unknown,
                ));
            }
        },
    };
    let gid = match (group, &known) {
        (Some(Written::Id(id)), _) => Gid::from_raw(*id),
        (Some(Written::Name(name)), _) => match Group::from_name(name).map_err(asked)? {
            Some(group) => group.gid,
            None => {
                return Err(refuse(
                    "group",
                    format!("there is no group `{name}`"),
                    unknown,
                ));
            }
        },
        (None, Some(known)) => known.gid,
        (None, None) => {
            let message = "the system does not know this user, and so no group of it".to_owned();
            return Err(refuse(
                "user",
                message,
                "add `group`, or write a user that there is",
            ));
        }
    };
    let uid = match (user, &known) {
        (Written::Id(id), _) => Uid::from_raw(*id),
        (Written::Name(_), Some(known)) => known.uid,
        (Written::Name(name), None) => {
            return Err(refuse(
                "user",
                format!("there is no user `{name}`"),
                unknown,
            ));
        }
    };
    Ok(Account {
        uid,
        gid,
        name: known.map(|known| known.name),
    })
}

/// Whether the process is root, and can become somebody else.
pub fn is_root() -> bool {
    geteuid().is_root()
}

/// Becomes `account`, and can never again be root.
///
/// # Errors
/// The process is somebody else already, or lacks the rights.
pub fn take_on(account: &Account) -> Result<(), Refused> {
    let (uid, gid) = (geteuid(), getegid());
    let refuse = |message: String, help: &str| Refused {
        key: "user",
        message,
        help: help.to_owned(),
    };
    if uid.is_root() && !account.is_root() {
        return drop_rights(account).map_err(|error| {
            let message = format!("root cannot become `{}`: {error}", account.name());
            refuse(
                message,
                "give it the capabilities SETUID, SETGID and SETPCAP, or leave `user` out and start it as that user",
            )
        });
    }
    if uid != account.uid || gid != account.gid {
        let message = format!(
            "user {uid} with group {gid} cannot become `{}`",
            account.name()
        );
        return Err(refuse(
            message,
            "start it as root, or as that user (`User=` and `Group=` of systemd), or leave `user` out",
        ));
    }
    Ok(())
}

/// Passes the right to low ports on to what is started from here, if the process has it: by its file's capabilities, say, which
/// the sandbox turns off for the next binary.
pub fn keep_low_ports() {
    let keep = || {
        let mut have = capabilities(None)?;
        if !have.permitted.contains(KEPT) || capability_is_in_ambient_set(KEPT)? {
            return Ok(());
        }
        have.inheritable |= KEPT;
        set_capabilities(None, have)?;
        configure_capability_in_ambient_set(KEPT, true)
    };
    if let Err(error) = keep() {
        let error = io::Error::from(error);
        tracing::warn!(%error, "after an upgrade, ports below 1024 cannot be added");
    }
}

fn drop_rights(account: &Account) -> io::Result<()> {
    let groups = match &account.name {
        Some(name) => getgrouplist(&CString::new(name.as_str())?, account.gid)?,
        None => vec![account.gid],
    };
    setgroups(&groups)?;
    for bit in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        if capability != KEPT {
            match remove_capability_from_bounding_set(capability) {
                // There are no more.
                Err(rustix::io::Errno::INVAL) => break,
                dropped => dropped?,
            }
        }
    }
    let kept = capabilities(None)?.permitted & KEPT;
    set_keep_capabilities(true)?;
    setresgid(account.gid, account.gid, account.gid)?;
    setresuid(account.uid, account.uid, account.uid)?;
    set_keep_capabilities(false)?;
    set_capabilities(
        None,
        CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: kept,
        },
    )?;
    if kept == KEPT {
        configure_capability_in_ambient_set(KEPT, true)?;
    }
    set_no_new_privs(true)?;
    // Believed when it is seen.
    let root = Uid::from_raw(0);
    if setresuid(root, root, root).is_ok() {
        return Err(io::Error::other("it could become root again"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> Written {
        Written::Name(name.to_owned())
    }

    #[test]
    fn who_is_meant_is_found_by_name_and_by_number() {
        let root = find(&name("root"), None).unwrap();
        assert_eq!((root.ids(), root.name()), ((0, 0), "root".to_owned()));
        assert_eq!(find(&Written::Id(0), None).unwrap(), root);
        let other = find(&name("root"), Some(&Written::Id(7))).unwrap();
        assert_eq!(other.ids(), (0, 7));
        let unknown = Written::Id(4_000_000_000);
        let other = find(&unknown, Some(&name("root"))).unwrap();
        assert_eq!(other.ids(), (4_000_000_000, 0));
        for (user, group, key) in [
            (name("no such user"), None, "user"),
            (unknown, None, "user"),
            (name("root"), Some(name("no such group")), "group"),
        ] {
            let refused = find(&user, group.as_ref()).unwrap_err();
            assert_eq!(refused.key, key, "{refused:?}");
        }
    }

    #[test]
    fn who_is_nobody_else_stays_who_it_is() {
        let me = Account {
            uid: geteuid(),
            gid: getegid(),
            name: None,
        };
        assert!(take_on(&me).is_ok());
    }
}
