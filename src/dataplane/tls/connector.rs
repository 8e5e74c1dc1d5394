//! TLS that we open to endpoints: the settings of a pool, and the handshake.
//!
//! The control plane makes a [`ClientPlan`]; `upstream/connect` dials and calls [`ClientPlan::connect`] under a
//! deadline of its own. Certificates are verified against the name (RFC 6125) unless the config says otherwise
//! with a key that begins with `danger_`. Sessions are resumed; a plan's sessions are its own.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{self, CertificateDer, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, client};

use super::client_auth::roots;
use super::identity::Identity;
use super::material::{Digest, MaterialError, digest_fields};
use super::stream::{Stream, Transport};
use super::{Alpn, VERSIONS, provider};

/// Whom we believe.
#[derive(Clone, Copy, Debug)]
pub enum Roots<'a> {
    /// The authorities of the operating system, read once a process.
    System,
    /// Those of a PEM file.
    Pem(&'a [u8]),
}

/// What we offer by ALPN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlpnOffer {
    /// h2, then http/1.1.
    Auto,
    /// http/1.1 alone.
    Http1,
    /// h2 alone.
    H2,
}

/// What a [`ClientPlan`] is made of.
#[derive(Clone, Copy, Debug)]
pub struct ClientOptions<'a> {
    /// Whom we believe.
    pub roots: Roots<'a>,
    /// What we show when the endpoint asks for a certificate.
    pub identity: Option<&'a Identity>,
    /// What we offer to speak.
    pub alpn: AlpnOffer,
    /// Believe any certificate: `danger_accept_any_certificate`.
    pub accept_any: bool,
}

impl ClientOptions<'_> {
    /// The [`ClientPlan::digest`] of a plan with these options, without making it.
    pub fn digest(&self) -> Digest {
        self.digest_with(self.identity.map(Identity::fingerprint))
    }

    /// The same with the identity of this fingerprint, which need not be read for it.
    pub fn digest_with(&self, identity: Option<Digest>) -> Digest {
        let roots = match self.roots {
            Roots::System => &[][..],
            Roots::Pem(pem) => pem,
        };
        let flags = [
            u8::from(matches!(self.roots, Roots::System)),
            match self.alpn {
                AlpnOffer::Auto => 0,
                AlpnOffer::Http1 => 1,
                AlpnOffer::H2 => 2,
            },
            u8::from(self.accept_any),
        ];
        let identity = identity.as_ref().map_or(&[][..], |digest| digest);
        digest_fields("client plan", &[roots, identity, &flags])
    }
}

/// The name of an endpoint, for SNI and verification: a host or an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerName(pki_types::ServerName<'static>);

impl ServerName {
    /// Reads a host or an address; `None` if it is neither.
    pub fn new(text: &str) -> Option<Self> {
        pki_types::ServerName::try_from(text)
            .ok()
            .map(|name| Self(name.to_owned()))
    }
}

impl From<IpAddr> for ServerName {
    fn from(address: IpAddr) -> Self {
        Self(address.into())
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0.to_str())
    }
}

/// What went wrong with a handshake towards an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectErrorKind {
    /// We do not believe the endpoint's certificate.
    Certificate,
    /// The two sides find no common ground, or the endpoint broke it off with an alert.
    Handshake,
    /// The connection broke.
    Io,
}

/// Why there is no TLS connection to the endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectError {
    /// What went wrong.
    pub kind: ConnectErrorKind,
    /// In words, for the log.
    pub text: String,
}

/// The TLS settings of a pool, ready for handshakes. Shared by all workers.
#[derive(Clone)]
pub struct ClientPlan {
    connector: TlsConnector,
    digest: Digest,
}

impl ClientPlan {
    /// Makes the plan.
    ///
    /// # Errors
    /// When the authorities cannot be read, or the operating system has none.
    pub fn new(options: &ClientOptions<'_>) -> Result<Self, MaterialError> {
        let provider = provider();
        let verifier: Arc<dyn ServerCertVerifier> = if options.accept_any {
            Arc::new(AcceptAny {
                provider: Arc::clone(&provider),
            })
        } else {
            let roots = match options.roots {
                Roots::System => system_roots()?,
                Roots::Pem(pem) => Arc::new(roots(pem)?),
            };
            WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
                .build()
                .map_err(|error| MaterialError::Refused(error.to_string()))?
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(VERSIONS)
            .map_err(|error| MaterialError::Refused(error.to_string()))?
            // A verifier of ours goes in by the same door as webpki's own.
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match options.identity {
            Some(identity) => {
                let certified = Arc::clone(identity.certified());
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = match options.alpn {
            AlpnOffer::Auto => vec![Alpn::H2.to_wire(), Alpn::Http1.to_wire()],
            AlpnOffer::Http1 => vec![Alpn::Http1.to_wire()],
            AlpnOffer::H2 => vec![Alpn::H2.to_wire()],
        };
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
            digest: options.digest(),
        })
    }

    /// Equal for plans made of equal files and settings: an unchanged pool keeps its plan over a reload.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Does the handshake with an endpoint, offering `only` one protocol or all of the plan's. The caller sets the
    /// deadline; dropping the future closes the connection. The protocol is `None` when the endpoint knows no
    /// ALPN.
    ///
    /// # Errors
    /// See [`ConnectErrorKind`]. Nothing of a request was sent yet.
    pub async fn connect(
        &self,
        name: &ServerName,
        transport: impl Into<Transport>,
        only: Option<Alpn>,
    ) -> Result<(Stream, Option<Alpn>), ConnectError> {
        match transport.into() {
            Transport::Tcp(stream) => {
                let stream = self.handshake(name, stream, only).await?;
                let alpn = agreed(&stream);
                Ok((Stream::Client(Box::new(stream)), alpn))
            }
            Transport::Unix(stream) => {
                let stream = self.handshake(name, stream, only).await?;
                let alpn = agreed(&stream);
                Ok((Stream::ClientUnix(Box::new(stream)), alpn))
            }
        }
    }

    async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        name: &ServerName,
        stream: S,
        only: Option<Alpn>,
    ) -> Result<client::TlsStream<S>, ConnectError> {
        let name = name.0.clone();
        let handshake = match only {
            Some(alpn) => self
                .connector
                .with_alpn(vec![alpn.to_wire()])
                .connect(name, stream),
            None => self.connector.connect(name, stream),
        };
        handshake.await.map_err(|error| ConnectError::of(&error))
    }
}

impl fmt::Debug for ClientPlan {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("ClientPlan").finish_non_exhaustive()
    }
}

impl ConnectError {
    fn of(error: &io::Error) -> Self {
        let cause = error
            .get_ref()
            .and_then(|cause| cause.downcast_ref::<rustls::Error>());
        let kind = match cause {
            Some(rustls::Error::InvalidCertificate(_)) => ConnectErrorKind::Certificate,
            Some(_) => ConnectErrorKind::Handshake,
            None => ConnectErrorKind::Io,
        };
        let text = match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                "the endpoint closed the connection during the handshake".to_owned()
            }
            _ => error.to_string(),
        };
        Self { kind, text }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

impl std::error::Error for ConnectError {}

fn agreed<S>(stream: &client::TlsStream<S>) -> Option<Alpn> {
    stream.get_ref().1.alpn_protocol().and_then(Alpn::from_wire)
}

/// The authorities of the operating system; one that cannot be read is passed over as long as others can.
fn system_roots() -> Result<Arc<RootCertStore>, MaterialError> {
    static ROOTS: OnceLock<Result<Arc<RootCertStore>, MaterialError>> = OnceLock::new();
    let load = || {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let cause = found.errors.first().map(|error| format!(": {error}"));
            return Err(MaterialError::NoSystemRoots(cause.unwrap_or_default()));
        }
        Ok(Arc::new(roots))
    };
    ROOTS.get_or_init(load).clone()
}

/// Believes any certificate; that the endpoint has its key is still verified.
#[derive(Debug)]
struct AcceptAny {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &pki_types::ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, leaf, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, leaf, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// How many endpoints' sessions a plan remembers.
const SESSIONS: usize = 256;
