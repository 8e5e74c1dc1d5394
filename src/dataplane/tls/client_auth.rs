//! Client certificates: whom a listener believes.
//!
//! The control plane makes a [`ClientAuthority`] out of the bytes of `client_auth.ca` and `client_auth.crl`, and
//! [`ServerPlan`](super::ServerPlan) takes it. Chains are verified by webpki (RFC 5280) at every full handshake.
//!
//! Where there are revocation lists, every certificate of the chain below the authority must be found good by one of
//! them: a status that no list knows, and a list whose time is over, refuse the client. So a list that could not be
//! fetched lets nobody in whom it might have named.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::material::{Digest, MaterialError, digest_fields, time_of};
use super::{pem, provider};

/// The authorities that client certificates are verified against, and what they have revoked.
#[derive(Clone, Debug)]
pub struct ClientAuthority {
    verifier: Arc<dyn ClientCertVerifier>,
    has_lists: bool,
    fingerprint: Digest,
}

impl ClientAuthority {
    /// Reads the authorities, and the files of revocation lists if there are any; `required` tells whether a client
    /// without a certificate is turned away. One with a bad certificate always is.
    ///
    /// # Errors
    /// When there is no certificate in the file, or one that cannot be an authority, or a list cannot be read.
    pub fn new(ca_pem: &[u8], list_pems: &[&[u8]], required: bool) -> Result<Self, MaterialError> {
        let roots = Arc::new(roots(ca_pem)?);
        let mut builder = WebPkiClientVerifier::builder_with_provider(roots, provider());
        for list_pem in list_pems {
            builder = builder.with_crls(pem::revocation_lists(list_pem)?);
        }
        if !list_pems.is_empty() {
            builder = builder.enforce_revocation_expiration();
        }
        if !required {
            builder = builder.allow_unauthenticated();
        }
        let verifier = builder
            .build()
            .map_err(|error| MaterialError::Refused(error.to_string()))?;
        Ok(Self {
            verifier,
            has_lists: !list_pems.is_empty(),
            fingerprint: Self::digest_of(ca_pem, list_pems, required),
        })
    }

    /// The [`fingerprint`](Self::fingerprint) that an authority of these inputs would have, without making it.
    pub fn digest_of(ca_pem: &[u8], list_pems: &[&[u8]], required: bool) -> Digest {
        let flag = [u8::from(required)];
        let mut fields = vec![ca_pem, &flag];
        fields.extend(list_pems);
        digest_fields("client authority", &fields)
    }

    /// Looks whether a file of revocation lists can be used at `now`.
    ///
    /// # Errors
    /// When it has none, or one of them cannot be read, or its next issue is overdue.
    pub fn check_lists(list_pem: &[u8], now: SystemTime) -> Result<(), MaterialError> {
        for list in pem::revocation_lists(list_pem)? {
            let unreadable =
                |error: &dyn ToString| MaterialError::BadRevocationList(error.to_string());
            let (_, read) =
                CertificateRevocationList::from_der(&list).map_err(|error| unreadable(&error))?;
            let Some(next) = read.next_update() else {
                return Err(unreadable(&"it does not say when the next one is due"));
            };
            let next = time_of(next.timestamp());
            if now > next {
                return Err(MaterialError::RevocationListExpired(next));
            }
        }
        Ok(())
    }

    /// Equal for equal authorities, revocation lists and mode.
    pub fn fingerprint(&self) -> Digest {
        self.fingerprint
    }

    pub(super) fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::clone(&self.verifier)
    }

    /// What a client that resumes is verified by anew; `None` where nothing but its own time can turn a certificate bad.
    pub(super) fn recheck(&self) -> Option<Arc<dyn ClientCertVerifier>> {
        self.has_lists.then(|| self.verifier())
    }
}

/// Every certificate of the file as an authority.
pub(super) fn roots(ca_pem: &[u8]) -> Result<RootCertStore, MaterialError> {
    let mut roots = RootCertStore::empty();
    for certificate in pem::certificates(ca_pem)? {
        roots
            .add(certificate)
            .map_err(|error| MaterialError::BadCertificate(error.to_string()))?;
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::super::testkit::{Authority, Kind, made};
    use super::*;

    #[test]
    fn an_authority_is_known_by_its_file_and_mode() {
        let (one, other) = (Authority::new("one").pem(), Authority::new("other").pem());
        let fingerprint = |pem: &str, required| {
            ClientAuthority::new(pem.as_bytes(), &[], required)
                .unwrap()
                .fingerprint()
        };
        assert_eq!(fingerprint(&one, true), fingerprint(&one, true));
        assert_ne!(fingerprint(&one, true), fingerprint(&one, false));
        assert_ne!(fingerprint(&one, true), fingerprint(&other, true));
    }

    #[test]
    fn a_file_without_certificates_is_refused() {
        let key = made(Kind::Ecdsa, &[]).key;
        assert_eq!(
            ClientAuthority::new(key.as_bytes(), &[], true).unwrap_err(),
            MaterialError::NoCertificate(vec!["PRIVATE KEY".to_owned()])
        );
        assert!(ClientAuthority::new(b"", &[], true).is_err());
    }

    #[test]
    fn a_revocation_list_is_part_of_what_an_authority_is() {
        let authority = Authority::new("one");
        let (ca, list) = (authority.pem(), authority.revoking(&[], 2099));
        let digest = |lists: &[&[u8]]| {
            let made = ClientAuthority::new(ca.as_bytes(), lists, true).unwrap();
            assert_eq!(
                made.fingerprint(),
                ClientAuthority::digest_of(ca.as_bytes(), lists, true)
            );
            assert_eq!(made.recheck().is_some(), !lists.is_empty());
            made.fingerprint()
        };
        let list = list.as_bytes();
        let digests = [digest(&[]), digest(&[list]), digest(&[list, list])];
        assert!(digests[0] != digests[1] && digests[1] != digests[2]);
    }

    #[test]
    fn a_file_of_revocation_lists_is_looked_at_before_it_is_used() {
        let authority = Authority::new("one");
        let check =
            |pem: &str| ClientAuthority::check_lists(pem.as_bytes(), crate::base::clock::wall());
        assert_eq!(check(&authority.revoking(&[], 2099)), Ok(()));
        assert!(matches!(
            check(&authority.revoking(&[], 2021)),
            Err(MaterialError::RevocationListExpired(_))
        ));
        assert_eq!(
            check(&authority.pem()),
            Err(MaterialError::NoRevocationList(vec![
                "CERTIFICATE".to_owned()
            ]))
        );
        let nonsense = "-----BEGIN X509 CRL-----\nAAECAw==\n-----END X509 CRL-----\n";
        assert!(matches!(
            check(nonsense),
            Err(MaterialError::BadRevocationList(_))
        ));
        assert!(
            ClientAuthority::new(authority.pem().as_bytes(), &[nonsense.as_bytes()], true).is_err()
        );
    }
}
