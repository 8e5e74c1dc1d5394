//! HTTP/1 clients that send exactly the bytes they are told to, in the clear and over TLS.

use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;

use super::wire::{End, Message, Transport, Wire};

/// One client connection.
pub struct Client {
    pub wire: Wire,
}

impl Client {
    /// Connects in the clear.
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            wire: Wire::new(Transport::Tcp(stream)),
        }
    }

    /// Connects over TLS, asking for `name`.
    #[track_caller]
    pub fn tls(address: SocketAddr, config: &Arc<ClientConfig>, name: &str) -> Self {
        Self::try_tls(address, config, name).unwrap()
    }

    /// The same, where the handshake may fail.
    pub fn try_tls(
        address: SocketAddr,
        config: &Arc<ClientConfig>,
        name: &str,
    ) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Wire::tls_client(stream, config, name).map(|wire| Self { wire })
    }

    /// Connects to a unix socket.
    #[track_caller]
    pub fn unix(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        Self {
            wire: Wire::new(Transport::Unix(stream)),
        }
    }

    /// Sends bytes; `false` when the proxy takes no more.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.wire.send(bytes)
    }

    /// Sends a request with nothing but a Host, and reads the answer.
    #[track_caller]
    pub fn get(&mut self, target: &str) -> Message {
        self.ask(&format!("GET {target} HTTP/1.1\r\nHost: app.test\r\n\r\n"))
    }

    /// Sends a request with a body of a stated length, and reads the answer.
    #[track_caller]
    pub fn post(&mut self, target: &str, body: &str) -> Message {
        let length = body.len();
        self.ask(&format!(
            "POST {target} HTTP/1.1\r\nHost: app.test\r\nContent-Length: {length}\r\n\r\n{body}"
        ))
    }

    /// Sends a request as it stands, and reads the answer.
    #[track_caller]
    pub fn ask(&mut self, request: &str) -> Message {
        assert!(self.send(request), "the connection is closed");
        let mut answer = self.head();
        if !request.starts_with("HEAD ") {
            self.wire.answer_body(&mut answer);
        }
        answer
    }

    /// Reads an answer, body included.
    #[track_caller]
    pub fn answer(&mut self) -> Message {
        let mut answer = self.head();
        self.wire.answer_body(&mut answer);
        answer
    }

    /// Reads the head of an answer.
    #[track_caller]
    pub fn head(&mut self) -> Message {
        match self.wire.head() {
            Ok(head) => head,
            Err(end) => panic!("no answer: the connection ended ({end:?})"),
        }
    }

    /// Reads to the end of the connection.
    #[track_caller]
    pub fn rest(&mut self) -> (String, End) {
        let (bytes, end) = self.wire.rest();
        (String::from_utf8_lossy(&bytes).into_owned(), end)
    }

    /// Waits until the proxy closes, and insists that it sends nothing more.
    #[track_caller]
    pub fn is_closed(&mut self) {
        let (bytes, _) = self.wire.rest();
        assert!(bytes.is_empty(), "{:?}", String::from_utf8_lossy(&bytes));
    }
}
