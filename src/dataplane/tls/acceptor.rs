//! TLS that clients open to us: the settings of a listener, and the handshake.
//!
//! The control plane makes a [`ServerPlan`]; `listener/connection` calls [`accept`] under a deadline of its own.
//! TLS 1.3, and 1.2 with ECDHE and AEAD (RFC 9325); ALPN offers h2 and http/1.1; one ticket a handshake and no
//! session cache beside it; no 0-RTT.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::ServerConfig;
use rustls::pki_types::UnixTime;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    Accepted, Acceptor, ClientHello, NoServerSessionStorage, WebPkiClientVerifier,
};
use rustls::{CipherSuite, HandshakeKind, ProtocolVersion, ServerConnection};
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::StartHandshake;

use super::certs::CertTable;
use super::client_auth::ClientAuthority;
use super::material::{Digest, MaterialError, digest_fields};
use super::stream::{Stream, Tcp};
use super::subject::ClientIdentity;
use super::tickets::TicketKeys;
use super::{Alpn, SUITES, TlsVersion, VERSIONS, provider};
use crate::base::clock;
use crate::base::ticket::TicketSecrets;

/// The TLS settings of a listener, ready for handshakes. Shared by all workers.
#[derive(Debug)]
pub struct ServerPlan {
    config: Arc<ServerConfig>,
    /// The same for clients whose order of suites counts.
    in_their_order: Arc<ServerConfig>,
    certs: Arc<CertTable>,
    tickets: Arc<TicketKeys>,
    client_auth: Option<Digest>,
    /// Verifies clients that resume.
    pub(super) recheck: Option<Arc<dyn ClientCertVerifier>>,
    digest: Digest,
}

impl ServerPlan {
    /// Makes the plan. Given the plan that it replaces, clients resume across the change: the ticket keys go
    /// over, unless client authentication differs, since a ticket vouches for the client without asking again.
    ///
    /// # Errors
    /// When rustls refuses the settings.
    pub fn new(
        certs: CertTable,
        client_auth: Option<&ClientAuthority>,
        previous: Option<&Self>,
    ) -> Result<Self, MaterialError> {
        let certs = Arc::new(certs);
        let auth_digest = client_auth.map(ClientAuthority::fingerprint);
        let tickets = previous
            .filter(|previous| previous.client_auth == auth_digest)
            .map_or_else(Arc::default, |previous| Arc::clone(&previous.tickets));
        let verifier = client_auth.map_or_else(
            WebPkiClientVerifier::no_client_auth,
            ClientAuthority::verifier,
        );

        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(VERSIONS)
            .map_err(|error| MaterialError::Refused(error.to_string()))?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::clone(&certs) as _);
        // Clients held to HTTP/1.0 offer nothing else, and the same codec serves them.
        config.alpn_protocols = vec![
            Alpn::H2.to_wire(),
            Alpn::Http1.to_wire(),
            b"http/1.0".to_vec(),
        ];
        config.ticketer = Arc::clone(&tickets) as _;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = TICKETS;
        config.max_early_data_size = 0;
        let in_their_order = config.clone();
        config.ignore_client_order = true;

        let identities = certs
            .identities()
            .iter()
            .map(|identity| identity.fingerprint());
        let digest = Self::digest_of(identities, auth_digest);
        Ok(Self {
            config: Arc::new(config),
            in_their_order: Arc::new(in_their_order),
            certs,
            tickets,
            client_auth: auth_digest,
            recheck: client_auth.and_then(ClientAuthority::recheck),
            digest,
        })
    }

    /// The [`digest`](Self::digest) of a plan with these identities and client authority, without making it.
    ///
    /// The parts come from [`Identity::digest_of`](super::Identity::digest_of) and
    /// [`ClientAuthority::digest_of`].
    pub fn digest_of(
        identities: impl IntoIterator<Item = Digest>,
        client_auth: Option<Digest>,
    ) -> Digest {
        let identities: Vec<Digest> = identities.into_iter().collect();
        let client_auth = client_auth.as_ref().map_or(&[][..], |digest| digest);
        digest_fields("server plan", &[identities.as_flattened(), client_auth])
    }

    /// The settings for this client. The order of suites is ours, but for a client that puts ChaCha20 first: that is how one
    /// without instructions for AES tells.
    fn config_for(&self, hello: &ClientHello<'_>) -> &Arc<ServerConfig> {
        let first = hello
            .cipher_suites()
            .iter()
            .find(|suite| SUITES.iter().any(|ours| ours.suite() == **suite));
        match first {
            Some(
                CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
                | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
            ) => &self.in_their_order,
            _ => &self.config,
        }
    }

    /// Equal for plans made of equal files and settings: an unchanged listener keeps its plan over a reload.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// What seals this listener's tickets, for the process that goes on after this one.
    pub fn ticket_secrets(&self) -> TicketSecrets {
        TicketSecrets {
            client_auth: self.client_auth,
            keys: self.tickets.secrets(clock::now()),
        }
    }

    /// Goes on with the ticket keys of the process before, so that its clients resume here; `false` if they vouch for
    /// clients that were asked for another certificate than we ask for.
    pub fn adopt_tickets(&self, secrets: &TicketSecrets) -> bool {
        let is_same = self.client_auth == secrets.client_auth;
        if is_same {
            self.tickets.adopt(&secrets.keys, clock::now());
        }
        is_same
    }

    /// The certificates, for the question whether SNI and Host agree.
    pub fn certs(&self) -> &CertTable {
        &self.certs
    }
}

/// What the handshake settled.
#[derive(Clone, Debug)]
pub struct Session {
    /// The TLS version.
    pub version: TlsVersion,
    /// The protocol to speak.
    pub protocol: Alpn,
    /// The name that the client asked for by SNI, in lower case.
    pub server_name: Option<Arc<str>>,
    /// The client, if it showed a certificate; it was verified.
    pub client: Option<ClientIdentity>,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
}

/// Why there is no connection.
#[derive(Debug)]
pub enum AcceptError {
    /// The client speaks without TLS. The socket can still be written to; what was read of it is lost.
    PlainHttp(TcpStream),
    /// The client left without a byte, as port checks of load balancers do.
    ClientGone,
    /// The handshake failed; an alert was sent where TLS has one.
    Failed(String),
}

/// Does the handshake with a client. The caller sets the deadline; dropping the future closes the connection.
///
/// # Errors
/// See [`AcceptError`]; all of them are the client's doing.
pub async fn accept(
    plan: &ServerPlan,
    mut stream: TcpStream,
) -> Result<(Stream, Session), AcceptError> {
    let hello = match read_hello(&mut stream).await {
        Ok(hello) => hello,
        Err(HelloError::Plain) => return Err(AcceptError::PlainHttp(stream)),
        Err(HelloError::Gone) => return Err(AcceptError::ClientGone),
        Err(HelloError::Failed(reason)) => return Err(AcceptError::Failed(reason)),
    };
    let config = Arc::clone(plan.config_for(&hello.client_hello()));
    let stream = StartHandshake::from_parts(hello, Tcp(stream))
        .into_stream(config)
        .await
        .map_err(|error| AcceptError::Failed(reason(&error)))?;
    let session = Session::of(stream.get_ref().1).map_err(AcceptError::Failed)?;
    if session.resumed
        && let Some(verifier) = &plan.recheck
    {
        verify_again(verifier.as_ref(), stream.get_ref().1).map_err(AcceptError::Failed)?;
    }
    Ok((Stream::Server(Box::new(stream)), session))
}

impl Session {
    fn of(connection: &ServerConnection) -> Result<Self, String> {
        let leaf = connection.peer_certificates().and_then(<[_]>::first);
        let client = leaf
            .map(|leaf| ClientIdentity::read(leaf, clock::wall()))
            .transpose()?;
        Ok(Self {
            version: match connection.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => TlsVersion::Tls12,
                _ => TlsVersion::Tls13,
            },
            protocol: connection
                .alpn_protocol()
                .and_then(Alpn::from_wire)
                .unwrap_or(Alpn::Http1),
            server_name: connection.server_name().map(Arc::from),
            client,
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
        })
    }
}

/// Verifies a client's certificate as if it had shown it now: lists of revoked certificates end in service, and a ticket made
/// before must not do without them.
fn verify_again(
    verifier: &dyn ClientCertVerifier,
    connection: &ServerConnection,
) -> Result<(), String> {
    let Some([leaf, others @ ..]) = connection.peer_certificates() else {
        return Ok(());
    };
    verifier
        .verify_client_cert(leaf, others, UnixTime::now())
        .map(drop)
        .map_err(|error| format!("the session is not resumed: {error}"))
}

enum HelloError {
    Plain,
    Gone,
    Failed(String),
}

/// Reads the ClientHello. The socket stays with the caller, and nothing is written to a client without TLS.
async fn read_hello(stream: &mut TcpStream) -> Result<Accepted, HelloError> {
    let mut acceptor = Acceptor::default();
    let mut first = None;
    loop {
        let read = poll_fn(|cx| {
            let mut reader = Reader {
                stream: &mut *stream,
                cx,
                first: &mut first,
            };
            match acceptor.read_tls(&mut reader) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
                done => Poll::Ready(done),
            }
        })
        .await;
        match (read, first) {
            (Ok(0) | Err(_), None) => return Err(HelloError::Gone),
            (Ok(0), Some(_)) => return Err(HelloError::Failed(CLOSED.to_owned())),
            (Err(error), Some(_)) => return Err(HelloError::Failed(reason(&error))),
            // A method begins with a letter, and no record of TLS does (RFC 8446 §5.1).
            (Ok(_), Some(byte)) if byte.is_ascii_alphabetic() => return Err(HelloError::Plain),
            (Ok(_), _) => {}
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => return Ok(accepted),
            Ok(None) => {}
            Err((error, mut alert)) => {
                let mut bytes = Vec::new();
                if alert.write_all(&mut bytes).is_ok() {
                    // The client may be gone; the handshake has failed either way.
                    let _ = stream.write_all(&bytes).await;
                }
                return Err(HelloError::Failed(error.to_string()));
            }
        }
    }
}

/// A read of rustls on the socket, which also notes the connection's first byte.
struct Reader<'a, 'b> {
    stream: &'a mut TcpStream,
    cx: &'a mut Context<'b>,
    first: &'a mut Option<u8>,
}

impl io::Read for Reader<'_, '_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut buf = ReadBuf::new(bytes);
        match Pin::new(&mut *self.stream).poll_read(self.cx, &mut buf) {
            Poll::Ready(Ok(())) => {
                let read = buf.filled();
                *self.first = self.first.or(read.first().copied());
                Ok(read.len())
            }
            Poll::Ready(Err(error)) => Err(error),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => CLOSED.to_owned(),
        _ => error.to_string(),
    }
}

const CLOSED: &str = "the client closed the connection during the handshake";

/// One resumption a connection is what clients use; each ticket costs a seal and some 200 bytes.
const TICKETS: usize = 1;
