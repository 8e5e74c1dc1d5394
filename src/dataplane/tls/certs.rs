//! Which certificate for which name.
//!
//! A table per listener, made by the control plane. rustls asks it during a handshake; `exchange` asks it whether
//! a request's Host belongs to the certificate that the connection was opened with (RFC 9110 §7.4, 421).
//!
//! Names lead to entries, and an entry holds the identities for a name, at most one a kind of key. Lookup is a
//! hash of the whole name, then of the name without its first label: a wildcard stands for exactly one label
//! (RFC 6125 §6.4.3). What nothing matches, and a client without SNI, gets the default: the first identity.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::identity::{Identity, KeyAlgorithm};

/// The certificates of a listener, by name.
#[derive(Debug)]
pub struct CertTable {
    identities: Vec<Arc<Identity>>,
    exact: HashMap<Box<str>, Arc<Entry>, foldhash::fast::RandomState>,
    /// Keyed by what follows `*.`.
    wildcard: HashMap<Box<str>, Arc<Entry>, foldhash::fast::RandomState>,
    default: Arc<Entry>,
    /// Every name leads to the default.
    is_single: bool,
}

/// The identities for a name, the preferred one first; at most one a kind of key.
#[derive(Debug)]
struct Entry {
    keys: Vec<Arc<CertifiedKey>>,
}

impl CertTable {
    /// Makes the table; the first identity, with others for the very same names, is the default.
    ///
    /// Of several identities of one kind of key for one name, the first is served. An empty table fails every
    /// handshake.
    pub fn new(identities: Vec<Arc<Identity>>) -> Self {
        let mut entries = Entries {
            identities: &identities,
            known: HashMap::new(),
        };
        let default = entries.of(&namesakes_of_first(&identities));

        let mut members: HashMap<&str, Vec<usize>> = HashMap::new();
        for (index, identity) in identities.iter().enumerate() {
            for host in identity.hosts() {
                members.entry(host).or_default().push(index);
            }
        }
        let mut exact = HashMap::default();
        let mut wildcard = HashMap::default();
        for (host, members) in members {
            let entry = entries.of(&members);
            match host.strip_prefix("*.") {
                Some(parent) => wildcard.insert(parent.into(), entry),
                None => exact.insert(host.into(), entry),
            };
        }
        let is_single = entries.known.len() == 1;
        Self {
            exact,
            wildcard,
            default,
            is_single,
            identities,
        }
    }

    /// Whether a client that asks for `host` by SNI would be served from the same entry as one that asked for
    /// `sni`: the rule behind 421. `host` comes without a port.
    pub fn same_certificate(&self, sni: Option<&str>, host: &str) -> bool {
        if self.is_single || sni.is_some_and(|sni| sni.eq_ignore_ascii_case(host)) {
            return true;
        }
        let connected = sni.map_or(&self.default, |sni| self.entry(sni));
        Arc::ptr_eq(connected, self.entry(host))
    }

    /// The identities, in the order of the config.
    pub fn identities(&self) -> &[Arc<Identity>] {
        &self.identities
    }

    /// Addresses are not in the table: a client that connects to one sends no SNI and gets the default.
    fn entry(&self, host: &str) -> &Arc<Entry> {
        let host = host.strip_suffix('.').unwrap_or(host);
        let host = if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Cow::Owned(host.to_ascii_lowercase())
        } else {
            Cow::Borrowed(host)
        };
        self.exact
            .get(host.as_ref())
            .or_else(|| {
                let (_, parent) = host.split_once('.')?;
                self.wildcard.get(parent)
            })
            .unwrap_or(&self.default)
    }

    fn pick(&self, sni: Option<&str>, offered: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        sni.map_or(&self.default, |sni| self.entry(sni))
            .pick(offered)
            .cloned()
    }
}

impl ResolvesServerCert for CertTable {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls has already taken out the schemes that fit none of the client's TLS 1.2 suites.
        self.pick(hello.server_name(), hello.signature_schemes())
    }
}

impl Entry {
    /// The preferred identity whose signature the client can verify. If there is none the first: rustls then
    /// fails the handshake with the right alert.
    fn pick(&self, offered: &[SignatureScheme]) -> Option<&Arc<CertifiedKey>> {
        match self.keys.as_slice() {
            [only] => Some(only),
            keys => keys
                .iter()
                .find(|certified| certified.key.choose_scheme(offered).is_some())
                .or(keys.first()),
        }
    }
}

/// Makes each entry once, so that two names have the same certificates exactly if their entries are one object.
struct Entries<'a> {
    identities: &'a [Arc<Identity>],
    known: HashMap<Vec<usize>, Arc<Entry>>,
}

impl Entries<'_> {
    fn of(&mut self, members: &[usize]) -> Arc<Entry> {
        let mut picked: Vec<(KeyAlgorithm, usize, &Arc<Identity>)> = Vec::new();
        for &index in members {
            let Some(identity) = self.identities.get(index) else {
                continue;
            };
            let algorithm = identity.algorithm();
            if picked.iter().all(|(known, ..)| *known != algorithm) {
                picked.push((algorithm, index, identity));
            }
        }
        picked.sort_by_key(|(algorithm, ..)| *algorithm);
        let key = picked.iter().map(|(_, index, _)| *index).collect();
        let entry = self.known.entry(key).or_insert_with(|| {
            let keys = picked
                .iter()
                .map(|(.., identity)| Arc::clone(identity.certified()));
            Arc::new(Entry {
                keys: keys.collect(),
            })
        });
        Arc::clone(entry)
    }
}

/// The first identity and all that are for the very same names.
fn namesakes_of_first(identities: &[Arc<Identity>]) -> Vec<usize> {
    let sorted = |identity: &Identity| {
        let mut names = identity.names().to_vec();
        names.sort_unstable();
        names.dedup();
        names
    };
    let first = identities.first().map(|identity| sorted(identity));
    identities
        .iter()
        .enumerate()
        .filter(|(_, identity)| first.as_ref() == Some(&sorted(identity)))
        .map(|(index, _)| index)
        .collect()
}

#[cfg(test)]
mod tests {
    use rustls::SignatureScheme as Scheme;

    use super::super::testkit::{Kind, made};
    use super::*;
    use crate::base::clock;

    fn identity(kind: Kind, names: &[&str]) -> Arc<Identity> {
        let made = made(kind, names);
        Arc::new(Identity::load(made.cert.as_bytes(), made.key.as_bytes(), clock::wall()).unwrap())
    }

    fn table(certificates: &[(Kind, &[&str])]) -> CertTable {
        CertTable::new(
            certificates
                .iter()
                .map(|(kind, names)| identity(*kind, names))
                .collect(),
        )
    }

    /// The place in the config of the certificate that is served.
    fn served(table: &CertTable, sni: Option<&str>, offered: &[Scheme]) -> Option<usize> {
        let picked = table.pick(sni, offered)?;
        table
            .identities
            .iter()
            .position(|identity| Arc::ptr_eq(identity.certified(), &picked))
    }

    const ECDSA: Scheme = Scheme::ECDSA_NISTP256_SHA256;
    const RSA: Scheme = Scheme::RSA_PSS_SHA256;

    #[test]
    fn exact_beats_wildcard_beats_default() {
        let table = table(&[
            (Kind::Ecdsa, &["default.test"]),
            (Kind::Ecdsa, &["*.example.com"]),
            (Kind::Ecdsa, &["api.example.com"]),
        ]);
        for (sni, expected) in [
            (Some("api.example.com"), 2),
            (Some("API.Example.COM"), 2),
            (Some("api.example.com."), 2),
            (Some("www.example.com"), 1),
            (Some("a.b.example.com"), 0),
            (Some("example.com"), 0),
            (Some("other.test"), 0),
            (Some("localhost"), 0),
            (Some(""), 0),
            (Some("."), 0),
            (None, 0),
        ] {
            assert_eq!(served(&table, sni, &[ECDSA]), Some(expected), "{sni:?}");
        }
    }

    #[test]
    fn the_kind_of_key_follows_what_the_client_verifies() {
        let table = table(&[(Kind::Rsa, &["a.test"]), (Kind::Ecdsa, &["a.test"])]);
        for sni in [Some("a.test"), Some("unknown.test"), None] {
            assert_eq!(served(&table, sni, &[RSA, ECDSA]), Some(1));
            assert_eq!(served(&table, sni, &[RSA]), Some(0));
            assert_eq!(served(&table, sni, &[ECDSA]), Some(1));
            assert!(served(&table, sni, &[]).is_some());
        }
    }

    #[test]
    fn of_two_certificates_of_a_kind_the_first_is_served() {
        let table = table(&[
            (Kind::Ecdsa, &["x.test"]),
            (Kind::Ecdsa, &["a.test"]),
            (Kind::Ecdsa, &["a.test", "b.test"]),
        ]);
        assert_eq!(served(&table, Some("a.test"), &[ECDSA]), Some(1));
        assert_eq!(served(&table, Some("b.test"), &[ECDSA]), Some(2));
    }

    #[test]
    fn host_and_sni_agree_when_they_lead_to_the_same_entry() {
        let table = table(&[
            (Kind::Rsa, &["a.test", "www.a.test"]),
            (Kind::Ecdsa, &["a.test", "www.a.test"]),
            (Kind::Ecdsa, &["*.b.test"]),
        ]);
        for (sni, host, expected) in [
            (Some("a.test"), "a.test", true),
            (Some("a.test"), "A.TEST", true),
            (Some("a.test"), "www.a.test", true),
            (Some("a.test"), "unknown.test", true),
            (Some("a.test"), "10.0.0.1", true),
            (Some("a.test"), "x.b.test", false),
            (Some("x.b.test"), "y.b.test", true),
            (Some("x.b.test"), "a.test", false),
            (Some("x.b.test"), "b.test", false),
            (None, "a.test", true),
            (None, "x.b.test", false),
        ] {
            assert_eq!(
                table.same_certificate(sni, host),
                expected,
                "{sni:?} {host}"
            );
        }
    }

    #[test]
    fn with_one_certificate_every_host_agrees() {
        let table = table(&[(Kind::Ecdsa, &["a.test", "*.b.test"])]);
        assert!(table.is_single);
        assert!(table.same_certificate(Some("a.test"), "evil.test"));
        assert!(table.same_certificate(None, "x.b.test"));
    }

    #[test]
    fn a_certificate_without_names_can_be_the_default() {
        let table = table(&[(Kind::Ecdsa, &[]), (Kind::Ecdsa, &["a.test"])]);
        assert_eq!(served(&table, None, &[ECDSA]), Some(0));
        assert_eq!(served(&table, Some("a.test"), &[ECDSA]), Some(1));
        assert!(!table.same_certificate(None, "a.test"));
    }

    #[test]
    fn an_empty_table_serves_nothing() {
        let table = table(&[]);
        assert_eq!(served(&table, Some("a.test"), &[ECDSA]), None);
    }
}
