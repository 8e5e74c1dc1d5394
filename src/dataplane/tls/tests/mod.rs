//! Handshakes over loopback: both sides of this room against each other and against clients of every kind.

mod accept;
mod clients;
mod connect;
mod revoked;

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{self, CertificateDer, UnixTime};
use rustls::{
    CipherSuite, ClientConfig, DigitallySignedStruct, NamedGroup, RootCertStore, SignatureScheme,
    SupportedProtocolVersion,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::testkit::{Authority, Kind, Made};
use super::*;
use crate::base::clock;

type Accepted = Result<(Stream, Session), AcceptError>;

fn identity(made: &Made) -> Arc<Identity> {
    Arc::new(Identity::load(made.cert.as_bytes(), made.key.as_bytes(), clock::wall()).unwrap())
}

fn plan(
    made: &[&Made],
    auth: Option<&ClientAuthority>,
    previous: Option<&ServerPlan>,
) -> ServerPlan {
    let table = CertTable::new(made.iter().map(|made| identity(made)).collect());
    ServerPlan::new(table, auth, previous).unwrap()
}

fn client_authority(authority: &Authority, required: bool) -> ClientAuthority {
    ClientAuthority::new(authority.pem().as_bytes(), &[], required).unwrap()
}

/// An authority of clients that has revoked these numbers, with the year in which its next list is due.
fn revoking(authority: &Authority, numbers: &[u64], next: i32) -> ClientAuthority {
    let list = authority.revoking(numbers, next);
    ClientAuthority::new(authority.pem().as_bytes(), &[list.as_bytes()], true).unwrap()
}

/// The certificate of a client with this number.
fn numbered(authority: &Authority, number: u64) -> Made {
    authority.issue(Kind::Ecdsa, &[], |params| {
        params.serial_number = Some(number.into());
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, format!("client {number}"));
    })
}

fn alice(authority: &Authority) -> Made {
    authority.issue(Kind::Ecdsa, &[], |params| {
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "alice");
    })
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (ours, theirs) = tokio::join!(listener.accept(), TcpStream::connect(address));
    (ours.unwrap().0, theirs.unwrap())
}

/// A client that is not ours, so that it can be as odd as a test needs it.
struct Client {
    config: ClientConfig,
}

const TLS12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
const TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

impl Client {
    fn new(authority: &Authority, shown: Option<&Made>) -> Self {
        Self::of(authority, shown, VERSIONS, provider(), None)
    }

    fn speaking(versions: &[&'static SupportedProtocolVersion], authority: &Authority) -> Self {
        Self::of(authority, None, versions, provider(), None)
    }

    fn of(
        authority: &Authority,
        shown: Option<&Made>,
        versions: &[&'static SupportedProtocolVersion],
        provider: Arc<CryptoProvider>,
        schemes: Option<Vec<SignatureScheme>>,
    ) -> Self {
        let roots = client_auth::roots(authority.pem().as_bytes()).unwrap();
        let verifier = Picky {
            inner: verifier(roots),
            schemes,
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let config = match shown {
            Some(made) => builder
                .with_client_auth_cert(
                    pem::certificates(made.cert.as_bytes()).unwrap(),
                    pem::private_key(made.key.as_bytes()).unwrap().clone_key(),
                )
                .unwrap(),
            None => builder.with_no_client_auth(),
        };
        Self { config }
    }

    fn offering(mut self, protocols: &[&str]) -> Self {
        self.config.alpn_protocols = protocols
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        self
    }

    fn ready(self) -> TlsConnector {
        TlsConnector::from(Arc::new(self.config))
    }
}

fn verifier(roots: RootCertStore) -> Arc<WebPkiServerVerifier> {
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .unwrap()
}

/// Says it can verify a few signature schemes only.
#[derive(Debug)]
struct Picky {
    inner: Arc<WebPkiServerVerifier>,
    schemes: Option<Vec<SignatureScheme>>,
}

impl ServerCertVerifier for Picky {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &pki_types::ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.inner.verify_server_cert(leaf, chain, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, leaf, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let all = || self.inner.supported_verify_schemes();
        self.schemes.clone().unwrap_or_else(all)
    }
}

/// One connection: the handshake, then a byte to the client so that it has read its tickets.
async fn meet(
    plan: &ServerPlan,
    client: &TlsConnector,
    name: &str,
) -> (Accepted, io::Result<TlsStream<TcpStream>>) {
    let (ours, theirs) = sockets().await;
    let name = pki_types::ServerName::try_from(name.to_owned()).unwrap();
    let server = async {
        let mut accepted = accept(plan, ours).await?;
        // A client that has given up meanwhile is what some tests are about.
        let _ = accepted.0.write_all(b"x").await;
        Ok(accepted)
    };
    let client = async {
        let mut stream = client.connect(name, theirs).await?;
        stream.read_u8().await?;
        Ok(stream)
    };
    tokio::join!(server, client)
}

async fn succeed(
    plan: &ServerPlan,
    client: &TlsConnector,
    name: &str,
) -> (Stream, Session, TlsStream<TcpStream>) {
    let (accepted, connected) = meet(plan, client, name).await;
    let (stream, session) = accepted.unwrap();
    (stream, session, connected.unwrap())
}

async fn fail(plan: &ServerPlan, client: &TlsConnector) -> (String, io::Error) {
    let (accepted, connected) = meet(plan, client, "a.test").await;
    let Err(AcceptError::Failed(reason)) = accepted else {
        panic!("{accepted:?}");
    };
    (reason, connected.expect_err("the client fails too"))
}

fn leaf(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone()
}

fn is_leaf(stream: &TlsStream<TcpStream>, made: &Made) -> bool {
    leaf(stream) == pem::certificates(made.cert.as_bytes()).unwrap()[0]
}
