//! Client certificates: whom a listener believes.
//!
//! The control plane makes a [`ClientAuthority`] out of the bytes of `client_auth.ca`, and
//! [`ServerPlan`](super::ServerPlan) takes it. Chains are verified by webpki (RFC 5280) at every full handshake.
//! Revocation lists are not read.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

use super::material::{Digest, MaterialError, digest_fields};
use super::{pem, provider};

/// The authorities that client certificates are verified against.
#[derive(Clone, Debug)]
pub struct ClientAuthority {
    verifier: Arc<dyn ClientCertVerifier>,
    fingerprint: Digest,
}

impl ClientAuthority {
    /// Reads the authorities; `required` tells whether a client without a certificate is turned away. One with a
    /// bad certificate always is.
    ///
    /// # Errors
    /// When there is no certificate in the file, or one that cannot be an authority.
    pub fn new(ca_pem: &[u8], required: bool) -> Result<Self, MaterialError> {
        let roots = Arc::new(roots(ca_pem)?);
        let mut builder = WebPkiClientVerifier::builder_with_provider(roots, provider());
        if !required {
            builder = builder.allow_unauthenticated();
        }
        let verifier = builder
            .build()
            .map_err(|error| MaterialError::Refused(error.to_string()))?;
        Ok(Self {
            verifier,
            fingerprint: Self::digest_of(ca_pem, required),
        })
    }

    /// The [`fingerprint`](Self::fingerprint) that an authority of these inputs would have, without making it.
    pub fn digest_of(ca_pem: &[u8], required: bool) -> Digest {
        digest_fields("client authority", &[ca_pem, &[u8::from(required)]])
    }

    /// Equal for equal authorities and mode.
    pub fn fingerprint(&self) -> Digest {
        self.fingerprint
    }

    pub(super) fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::clone(&self.verifier)
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
            ClientAuthority::new(pem.as_bytes(), required)
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
            ClientAuthority::new(key.as_bytes(), true).unwrap_err(),
            MaterialError::NoCertificate(vec!["PRIVATE KEY".to_owned()])
        );
        assert!(ClientAuthority::new(b"", true).is_err());
    }
}
