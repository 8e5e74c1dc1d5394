//! An identity: a certificate chain with the key that fits it.
//!
//! Made by the control plane from PEM bytes, for listeners ([`CertTable`](super::CertTable)) and for what we show
//! to endpoints ([`ClientPlan`](super::ClientPlan)). One that loads can be served: the key fits the leaf, and the
//! leaf is valid at the time of loading. The chain above the leaf is the operator's word; clients judge it.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::SignatureAlgorithm;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::CertificateDer;
use rustls::sign::{CertifiedKey, SigningKey};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::material::{Digest, MaterialError, digest_fields, time_of};
use super::pem;

/// The kind of an identity's key, in the order in which they are preferred: the cheaper signature first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyAlgorithm {
    /// ECDSA on P-256, P-384 or P-521.
    Ecdsa,
    /// Ed25519.
    Ed25519,
    /// RSA.
    Rsa,
}

/// A certificate chain with the key that fits it.
#[derive(Debug)]
pub struct Identity {
    certified: Arc<CertifiedKey>,
    names: Vec<String>,
    hosts: Vec<String>,
    not_before: SystemTime,
    not_after: SystemTime,
    algorithm: KeyAlgorithm,
    fingerprint: Digest,
}

impl Identity {
    /// Reads a chain, leaf first, and its key.
    ///
    /// # Errors
    /// When a file holds not what it should, the key does not fit the leaf, or the leaf is not valid at `now`.
    pub fn load(cert_pem: &[u8], key_pem: &[u8], now: SystemTime) -> Result<Self, MaterialError> {
        let chain = pem::certificates(cert_pem)?;
        let key = pem::private_key(key_pem)?;
        let key = any_supported_type(&key).map_err(|error| unsupported(&error))?;
        let algorithm = algorithm(key.as_ref())?;

        let leaf = chain
            .first()
            .ok_or_else(|| MaterialError::NoCertificate(Vec::new()))?;
        let leaf = parse(leaf)?;
        if !fits(key.as_ref(), &leaf) {
            return Err(owner_of(key.as_ref(), &chain));
        }
        let not_before = time_of(leaf.validity().not_before.timestamp());
        let not_after = time_of(leaf.validity().not_after.timestamp());
        if now > not_after {
            return Err(MaterialError::Expired(not_after));
        }
        if now < not_before {
            return Err(MaterialError::NotYetValid(not_before));
        }
        let (names, hosts) = names(&leaf);
        drop(leaf);
        Ok(Self {
            certified: Arc::new(CertifiedKey::new(chain, key)),
            names,
            hosts,
            not_before,
            not_after,
            algorithm,
            fingerprint: Self::digest_of(cert_pem, key_pem),
        })
    }

    /// The [`fingerprint`](Self::fingerprint) that an identity of these bytes would have, without making it.
    ///
    /// A reload that finds the same digest keeps the identity it has, so that a certificate which expired in
    /// service does not stop other changes.
    pub fn digest_of(cert_pem: &[u8], key_pem: &[u8]) -> Digest {
        digest_fields("identity", &[cert_pem, key_pem])
    }

    /// The hosts and addresses the leaf is for; its common name only if it lists none (RFC 6125 §6.4.4).
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Those of the names that a client can ask for by SNI: hosts and wildcards, in lower case, no addresses.
    pub fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// When the leaf's time begins.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// When the leaf's time ends.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The kind of key.
    pub fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// A digest of chain and key: equal for equal files.
    pub fn fingerprint(&self) -> Digest {
        self.fingerprint
    }

    pub(super) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, MaterialError> {
    X509Certificate::from_der(der)
        .map(|(_, certificate)| certificate)
        .map_err(|error| MaterialError::BadCertificate(error.to_string()))
}

fn fits(key: &dyn SigningKey, certificate: &X509Certificate<'_>) -> bool {
    key.public_key()
        .is_some_and(|public| public.as_ref() == certificate.public_key().raw)
}

/// Why the key does not fit: it may fit another certificate of the chain.
fn owner_of(key: &dyn SigningKey, chain: &[CertificateDer<'_>]) -> MaterialError {
    chain
        .iter()
        .position(|der| parse(der).is_ok_and(|certificate| fits(key, &certificate)))
        .map_or(MaterialError::KeyMismatch, |place| {
            MaterialError::LeafNotFirst(place + 1)
        })
}

fn algorithm(key: &dyn SigningKey) -> Result<KeyAlgorithm, MaterialError> {
    match key.algorithm() {
        SignatureAlgorithm::ECDSA => Ok(KeyAlgorithm::Ecdsa),
        SignatureAlgorithm::ED25519 => Ok(KeyAlgorithm::Ed25519),
        SignatureAlgorithm::RSA => Ok(KeyAlgorithm::Rsa),
        // The list is open in rustls.
        other => Err(MaterialError::UnsupportedKey(format!("{other:?}"))),
    }
}

fn unsupported(error: &rustls::Error) -> MaterialError {
    MaterialError::UnsupportedKey(match error {
        rustls::Error::General(detail) => detail.clone(),
        other => other.to_string(),
    })
}

/// All names, and of them the hosts.
fn names(leaf: &X509Certificate<'_>) -> (Vec<String>, Vec<String>) {
    let mut names = Vec::new();
    let mut hosts = Vec::new();
    let alternatives = leaf.subject_alternative_name().ok().flatten();
    for name in alternatives.iter().flat_map(|san| &san.value.general_names) {
        match name {
            GeneralName::DNSName(host) => {
                let host = host.trim_end_matches('.').to_ascii_lowercase();
                names.push(host.clone());
                hosts.push(host);
            }
            GeneralName::IPAddress(bytes) => names.extend(address(bytes)),
            // Mail addresses, URIs and the like name no host.
            _ => {}
        }
    }
    if names.is_empty() {
        let common = leaf.subject().iter_common_name().next();
        if let Some(name) = common.and_then(|name| name.as_str().ok()) {
            hosts.push(name.to_ascii_lowercase());
            names.push(name.to_ascii_lowercase());
        }
    }
    (names, hosts)
}

fn address(bytes: &[u8]) -> Option<String> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(octets).to_string());
    }
    <[u8; 16]>::try_from(bytes)
        .ok()
        .map(|octets| Ipv6Addr::from(octets).to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::testkit::{Authority, Kind, Made, made};
    use super::*;
    use crate::base::clock;

    fn check(cert: &str, key: &str, expected: &MaterialError) {
        let found = Identity::load(cert.as_bytes(), key.as_bytes(), clock::wall());
        assert_eq!(found.as_ref().err(), Some(expected));
    }

    fn load(made: &Made) -> Identity {
        Identity::load(made.cert.as_bytes(), made.key.as_bytes(), clock::wall()).unwrap()
    }

    #[test]
    fn names_are_hosts_and_addresses_in_lower_case() {
        let identity = load(&made(
            Kind::Ecdsa,
            &["App.Example.com", "*.example.com", "10.0.0.1", "::1"],
        ));
        assert_eq!(
            identity.names(),
            ["app.example.com", "*.example.com", "10.0.0.1", "::1"]
        );
        assert_eq!(identity.hosts(), ["app.example.com", "*.example.com"]);
        assert_eq!(identity.algorithm(), KeyAlgorithm::Ecdsa);
    }

    #[test]
    fn the_common_name_counts_only_without_alternative_names() {
        let common = Authority::new("ca").issue(Kind::Ecdsa, &[], |params| {
            params
                .distinguished_name
                .push(rcgen::DnType::CommonName, "Old.example.com");
        });
        assert_eq!(load(&common).names(), ["old.example.com"]);
        let both = Authority::new("ca").issue(Kind::Ecdsa, &["new.example.com"], |params| {
            params
                .distinguished_name
                .push(rcgen::DnType::CommonName, "old.example.com");
        });
        assert_eq!(load(&both).names(), ["new.example.com"]);
    }

    #[test]
    fn keys_of_every_kind_load() {
        for (kind, algorithm) in [
            (Kind::Ecdsa, KeyAlgorithm::Ecdsa),
            (Kind::Ed25519, KeyAlgorithm::Ed25519),
            (Kind::Rsa, KeyAlgorithm::Rsa),
        ] {
            assert_eq!(load(&made(kind, &["a.test"])).algorithm(), algorithm);
        }
    }

    #[test]
    fn a_key_that_does_not_fit_is_refused() {
        let (one, other) = (
            made(Kind::Ecdsa, &["a.test"]),
            made(Kind::Ecdsa, &["a.test"]),
        );
        check(&one.cert, &other.key, &MaterialError::KeyMismatch);
        let rsa = made(Kind::Rsa, &["a.test"]);
        check(&one.cert, &rsa.key, &MaterialError::KeyMismatch);
    }

    #[test]
    fn a_chain_in_the_wrong_order_is_named_as_such() {
        let authority = Authority::new("ca");
        let leaf = authority.issue(Kind::Ecdsa, &["a.test"], |_| {});
        let chain = authority.pem() + &leaf.cert;
        check(&chain, &leaf.key, &MaterialError::LeafNotFirst(2));
    }

    #[test]
    fn a_certificate_is_used_in_its_time_only() {
        let made = made(Kind::Ecdsa, &["a.test"]);
        let identity = load(&made);
        let load = |now| Identity::load(made.cert.as_bytes(), made.key.as_bytes(), now);
        let (first, last) = (identity.not_before(), identity.not_after());
        let second = Duration::from_secs(1);
        assert!(load(first).is_ok() && load(last).is_ok());
        assert_eq!(
            load(last + second).unwrap_err(),
            MaterialError::Expired(last)
        );
        assert_eq!(
            load(first - second).unwrap_err(),
            MaterialError::NotYetValid(first)
        );
    }

    #[test]
    fn files_of_the_wrong_kind_are_refused() {
        let made = made(Kind::Ecdsa, &["a.test"]);
        check(
            &made.key,
            &made.cert,
            &MaterialError::NoCertificate(vec!["PRIVATE KEY".to_owned()]),
        );
        check(
            &made.cert,
            &made.cert,
            &MaterialError::NoKey(vec!["CERTIFICATE".to_owned()]),
        );
        check(
            &made.cert,
            &made.key.repeat(2),
            &MaterialError::SeveralKeys(2),
        );
    }

    #[test]
    fn nonsense_inside_good_pem_is_refused() {
        let made = made(Kind::Ecdsa, &["a.test"]);
        let nonsense =
            |label| format!("-----BEGIN {label}-----\nAAECAw==\n-----END {label}-----\n");
        let load = |cert: &str, key: &str| {
            Identity::load(cert.as_bytes(), key.as_bytes(), clock::wall()).unwrap_err()
        };
        assert!(matches!(
            load(&nonsense("CERTIFICATE"), &made.key),
            MaterialError::BadCertificate(_)
        ));
        assert!(matches!(
            load(&made.cert, &nonsense("PRIVATE KEY")),
            MaterialError::UnsupportedKey(_)
        ));
    }

    #[test]
    fn equal_files_have_equal_fingerprints() {
        let (one, other) = (
            made(Kind::Ecdsa, &["a.test"]),
            made(Kind::Ecdsa, &["a.test"]),
        );
        assert_eq!(load(&one).fingerprint(), load(&one).fingerprint());
        assert_ne!(load(&one).fingerprint(), load(&other).fingerprint());
    }
}
