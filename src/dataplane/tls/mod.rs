//! TLS on both sides: connections that clients open to us, and those that we open to endpoints.
//!
//! The control plane makes a [`ServerPlan`] per listener and a [`ClientPlan`] per pool out of PEM bytes; the
//! listener calls [`accept`], the upstream calls [`ClientPlan::connect`], and both go on with a [`Stream`].
//! Every rustls call of the project is in this room, and no rustls type leaves it but inside a `Stream`.
//!
//! What is not here: deadlines (the caller puts one around each handshake), files (the caller brings bytes),
//! 0-RTT (replay is not worth a round trip), OCSP.

pub mod acceptor;
pub mod certs;
pub mod client_auth;
pub mod connector;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod identity;
pub mod material;
pub mod pem;
pub mod stream;
pub mod subject;
mod tickets;

#[cfg(test)]
mod testkit;
#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};

use rustls::crypto::aws_lc_rs::cipher_suite as suite;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{SupportedCipherSuite, SupportedProtocolVersion};

pub use acceptor::{AcceptError, ServerPlan, Session, accept};
pub use certs::CertTable;
pub use client_auth::ClientAuthority;
pub use connector::{
    AlpnOffer, ClientOptions, ClientPlan, ConnectError, ConnectErrorKind, Roots, ServerName,
};
pub use identity::Identity;
pub use material::{Digest, MaterialError, Part};
pub use stream::{Stream, Tcp, Transport};
pub use subject::ClientIdentity;

/// The protocol that both sides agreed on by ALPN (RFC 7301).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// HTTP/2.
    H2,
    /// HTTP/1.1, also when the other side knows no ALPN or only HTTP/1.0.
    Http1,
}

impl Alpn {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::H2 => "h2",
            Self::Http1 => "http/1.1",
        }
    }

    fn from_wire(name: &[u8]) -> Option<Self> {
        [Self::H2, Self::Http1]
            .into_iter()
            .find(|alpn| alpn.as_str().as_bytes() == name)
    }

    fn to_wire(self) -> Vec<u8> {
        self.as_str().as_bytes().to_vec()
    }
}

/// The TLS version of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlsVersion {
    /// RFC 8446.
    Tls13,
    /// RFC 5246, with ECDHE and AEAD only.
    Tls12,
}

impl TlsVersion {
    /// The name in logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tls13 => "TLSv1.3",
            Self::Tls12 => "TLSv1.2",
        }
    }
}

/// The versions that both sides of the proxy speak, best first.
const VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

/// The suites that both sides of the proxy speak, best first: AEAD with forward secrecy (RFC 9325 §4.2). AES-128 before AES-256,
/// since neither can be broken and SHA-384, which comes with the latter, has no instructions of its own on most processors:
/// a handshake with it costs about a fifth more.
const SUITES: &[SupportedCipherSuite] = &[
    suite::TLS13_AES_128_GCM_SHA256,
    suite::TLS13_AES_256_GCM_SHA384,
    suite::TLS13_CHACHA20_POLY1305_SHA256,
    suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
];

/// The cryptography of the process: AEAD suites only, the post-quantum hybrid first.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    let provider = PROVIDER.get_or_init(|| {
        Arc::new(CryptoProvider {
            cipher_suites: SUITES.to_vec(),
            // Named, though it is the default of today, so that an update of rustls cannot change it unseen.
            kx_groups: vec![
                aws_lc_rs::kx_group::X25519MLKEM768,
                aws_lc_rs::kx_group::X25519,
                aws_lc_rs::kx_group::SECP256R1,
                aws_lc_rs::kx_group::SECP384R1,
            ],
            ..aws_lc_rs::default_provider()
        })
    });
    Arc::clone(provider)
}
