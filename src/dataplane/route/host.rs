//! Host conditions: exact names and wildcards, in the normal form that requests are matched in.
//!
//! The form itself is `base::host`; the absence of any condition is the third kind, any host.

pub use crate::base::host::{HostInvalid, normal_host, port};

/// A condition on the host of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostMatch(Kind);

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Just this host.
    Exact(Box<str>),
    /// Hosts with one label or more before this one.
    Wildcard(Box<str>),
}

impl HostMatch {
    /// Just this host; a port is ignored.
    ///
    /// # Errors
    /// [`HostInvalid`] if no request could have it.
    pub fn exact(host: &str) -> Result<Self, HostInvalid> {
        normal_host(host).map(|host| Self(Kind::Exact(host.into())))
    }

    /// Hosts with one label or more before `suffix`: `example.com` for `*.example.com`.
    ///
    /// # Errors
    /// [`HostInvalid`] if no request could have it.
    pub fn wildcard(suffix: &str) -> Result<Self, HostInvalid> {
        normal_host(suffix).map(|suffix| Self(Kind::Wildcard(suffix.into())))
    }

    /// Whether a host in normal form meets the condition.
    pub fn holds(&self, host: &str) -> bool {
        match &self.0 {
            Kind::Exact(exact) => **exact == *host,
            Kind::Wildcard(suffix) => host
                .strip_suffix(&**suffix)
                .is_some_and(|front| front.len() > 1 && front.ends_with('.')),
        }
    }

    pub(super) fn kind(&self) -> &Kind {
        &self.0
    }

    /// How specific the condition is; a greater one wins. Any host is `(0, 0)`.
    pub(super) fn rank(&self) -> (u8, usize) {
        match &self.0 {
            Kind::Exact(_) => (2, 0),
            Kind::Wildcard(suffix) => (1, labels(suffix)),
        }
    }
}

/// How many labels a host has.
pub(super) fn labels(host: &str) -> usize {
    host.split('.').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_stands_for_one_label_or_more() {
        let wildcard = HostMatch::wildcard("Example.com").unwrap();
        for (host, expected) in [
            ("a.example.com", true),
            ("a.b.example.com", true),
            ("example.com", false),
            ("notexample.com", false),
            (".example.com", false),
            ("a.example.com.org", false),
        ] {
            assert_eq!(wildcard.holds(host), expected, "{host}");
        }
    }

    #[test]
    fn an_exact_host_is_kept_in_normal_form() {
        let exact = HostMatch::exact("Example.COM:8443").unwrap();
        assert!(exact.holds("example.com"));
        assert!(!exact.holds("a.example.com"));
        assert_eq!(HostMatch::exact("a b"), Err(HostInvalid::Character));
        assert_eq!(HostMatch::wildcard("*.a"), Err(HostInvalid::Character));
    }
}
