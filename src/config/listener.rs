//! Listeners and their TLS settings.

use std::path::PathBuf;

use crate::base::addr::ListenAddr;
use crate::base::name::ListenerName;

/// A bound address with its settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// For logs and metrics; default: the address as written.
    pub name: ListenerName,
    /// `0.0.0.0:443`, `[::1]:8443`, or `:443` for every address of both families.
    pub address: ListenAddr,
    /// TLS settings; absent: cleartext.
    pub tls: Option<Tls>,
    /// Answer every request with a redirect to the same URL under https.
    pub redirect_to_https: bool,
    /// The path that tells whether new clients are welcome.
    pub ready_path: Option<String>,
}

/// TLS settings of a listener.
#[derive(Clone, Debug, PartialEq)]
pub struct Tls {
    /// Certificates, picked by SNI; the first is the default. Never empty.
    pub certificates: Vec<Certificate>,
    /// Whether clients show a certificate.
    pub client_auth: Option<ClientAuth>,
}

/// A certificate chain and its key, both PEM files.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Certificate {
    /// The chain, leaf first.
    pub cert: PathBuf,
    /// The key.
    pub key: PathBuf,
}

/// Client certificates.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientAuth {
    /// PEM file of the authorities that client certificates are verified against.
    pub ca: PathBuf,
    /// PEM files of revocation lists; empty: nobody is revoked.
    pub crl: Vec<PathBuf>,
    /// Whether a client without a certificate is let in.
    pub mode: ClientAuthMode,
}

/// Whether a client without a certificate is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ClientAuthMode {
    /// The handshake fails without a certificate.
    #[default]
    Required,
    /// A client may come without; one that shows a certificate shows a good one.
    Optional,
}
