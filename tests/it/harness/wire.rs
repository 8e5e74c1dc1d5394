//! HTTP/1 messages as bytes on a connection, read without mercy or help: what stands there is what is told.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection, StreamOwned};
use socket2::SockRef;

use super::expect::PATIENCE;

/// A connection under a [`Wire`].
pub enum Transport {
    Tcp(TcpStream),
    Unix(UnixStream),
    Client(Box<StreamOwned<ClientConnection, TcpStream>>),
    Server(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl Transport {
    fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Unix(_) => None,
            Self::Client(tls) => Some(&tls.sock),
            Self::Server(tls) => Some(&tls.sock),
        }
    }

    /// How long reading and writing may wait.
    pub fn set_patience(&self, patience: Duration) {
        match self {
            Self::Unix(stream) => {
                stream.set_read_timeout(Some(patience)).unwrap();
                stream.set_write_timeout(Some(patience)).unwrap();
            }
            Self::Tcp(_) | Self::Client(_) | Self::Server(_) => {
                let stream = self.tcp().unwrap();
                stream.set_read_timeout(Some(patience)).unwrap();
                stream.set_write_timeout(Some(patience)).unwrap();
            }
        }
    }
}

impl Read for Transport {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
            Self::Client(tls) => tls.read(buffer),
            Self::Server(tls) => tls.read(buffer),
        }
    }
}

impl Write for Transport {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
            Self::Client(tls) => tls.write(bytes),
            Self::Server(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.flush(),
            Self::Unix(stream) => stream.flush(),
            Self::Client(tls) => tls.flush(),
            Self::Server(tls) => tls.flush(),
        }
    }
}

/// How a message, or a connection, came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As it should.
    Whole,
    /// The sender left before the end that it had announced, or without TLS's farewell.
    Cut,
    /// The connection was reset.
    Reset,
}

/// A request or an answer.
#[derive(Clone, Debug)]
pub struct Message {
    /// The first line.
    pub line: String,
    /// The header, names as they were written.
    pub fields: Vec<(String, String)>,
    /// The body, its chunks joined.
    pub body: Vec<u8>,
    /// What stood behind the last chunk.
    pub trailers: Vec<(String, String)>,
    /// How it ended.
    pub end: End,
}

impl Message {
    /// Reads a head, from its first line to the last field.
    pub fn head(text: &str) -> Self {
        let mut lines = text.split("\r\n");
        let line = lines.next().unwrap_or_default().to_owned();
        Self {
            line,
            fields: lines.filter_map(field).collect(),
            body: Vec::new(),
            trailers: Vec::new(),
            end: End::Whole,
        }
    }

    /// The status of an answer.
    pub fn status(&self) -> u16 {
        let code = self.line.split(' ').nth(1).unwrap_or_default();
        code.parse()
            .unwrap_or_else(|_| panic!("no status: {:?}", self.line))
    }

    /// The method of a request.
    pub fn method(&self) -> &str {
        self.line.split(' ').next().unwrap_or_default()
    }

    /// The target of a request.
    pub fn target(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }

    /// The value of a field that is there once at most.
    #[track_caller]
    pub fn field(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} is there more than once: {all:?}");
        all.first().copied()
    }

    /// All values of a field.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let named = self.fields.iter();
        let named = named.filter(|(other, _)| other.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

fn field(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once(':')?;
    Some((name.to_owned(), value.trim().to_owned()))
}

/// One side of a connection.
pub struct Wire {
    stream: Transport,
    buffer: Vec<u8>,
}

impl Wire {
    pub fn new(stream: Transport) -> Self {
        stream.set_patience(PATIENCE);
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    /// How long reading and writing may wait from now on.
    pub fn set_patience(&self, patience: Duration) {
        self.stream.set_patience(patience);
    }

    /// TLS as a client, the handshake done.
    pub fn tls_client(
        socket: TcpStream,
        config: &Arc<ClientConfig>,
        name: &str,
    ) -> io::Result<Self> {
        socket.set_read_timeout(Some(PATIENCE))?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let session = ClientConnection::new(Arc::clone(config), name).unwrap();
        let mut tls = StreamOwned::new(session, socket);
        while tls.conn.is_handshaking() {
            tls.conn.complete_io(&mut tls.sock)?;
        }
        Ok(Self::new(Transport::Client(Box::new(tls))))
    }

    /// TLS as a server, the handshake done.
    pub fn tls_server(socket: TcpStream, config: &Arc<ServerConfig>) -> io::Result<Self> {
        socket.set_read_timeout(Some(PATIENCE))?;
        let session = ServerConnection::new(Arc::clone(config)).unwrap();
        let mut tls = StreamOwned::new(session, socket);
        while tls.conn.is_handshaking() {
            tls.conn.complete_io(&mut tls.sock)?;
        }
        Ok(Self::new(Transport::Server(Box::new(tls))))
    }

    /// What is under it.
    pub fn stream(&mut self) -> &mut Transport {
        &mut self.stream
    }

    /// Sends bytes; `false` when the other side takes no more.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        let sent = self.stream.write_all(bytes.as_ref());
        sent.and_then(|()| self.stream.flush()).is_ok()
    }

    /// Closes our half, and keeps reading.
    pub fn half_close(&mut self) {
        match &mut self.stream {
            Transport::Tcp(stream) => stream.shutdown(Shutdown::Write).unwrap(),
            Transport::Unix(stream) => stream.shutdown(Shutdown::Write).unwrap(),
            Transport::Client(tls) => {
                tls.conn.send_close_notify();
                tls.flush().unwrap();
            }
            Transport::Server(tls) => {
                tls.conn.send_close_notify();
                tls.flush().unwrap();
            }
        }
    }

    /// Ends the connection by a reset.
    pub fn reset(self) {
        let socket = self.stream.tcp().expect("only TCP is reset");
        SockRef::from(socket)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }

    /// Ends a TLS connection without its farewell.
    pub fn hang_up(&mut self) {
        let socket = self.stream.tcp().expect("only TCP is hung up");
        socket.shutdown(Shutdown::Both).unwrap();
    }

    /// Reads more into the buffer; the end is told, waiting in vain is a failure.
    #[track_caller]
    fn fill(&mut self) -> Result<(), End> {
        let mut some = [0; 16 << 10];
        match self.stream.read(&mut some) {
            Ok(0) => Err(End::Whole),
            Ok(read) => {
                self.buffer.extend_from_slice(&some[..read]);
                Ok(())
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                    let seen = String::from_utf8_lossy(&self.buffer).into_owned();
                    panic!("nothing came within {PATIENCE:?}, so far: {seen:?}")
                }
                ErrorKind::UnexpectedEof => Err(End::Cut),
                _ => Err(End::Reset),
            },
        }
    }

    /// Reads up to the end of a head; `Err` tells how the connection ended instead.
    #[track_caller]
    pub fn head(&mut self) -> Result<Message, End> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                let head: Vec<u8> = self.buffer.drain(..at + 4).collect();
                return Ok(Message::head(&String::from_utf8_lossy(&head[..at])));
            }
            self.fill()?;
        }
    }

    /// Reads exactly so many bytes; fewer when the connection ends.
    #[track_caller]
    pub fn exactly(&mut self, length: usize) -> (Vec<u8>, End) {
        while self.buffer.len() < length {
            if let Err(end) = self.fill() {
                let end = if end == End::Whole { End::Cut } else { end };
                return (std::mem::take(&mut self.buffer), end);
            }
        }
        (self.buffer.drain(..length).collect(), End::Whole)
    }

    /// Reads what comes next; nothing at the end of the connection.
    #[track_caller]
    pub fn some(&mut self) -> Vec<u8> {
        if self.buffer.is_empty() && self.fill().is_err() {
            return Vec::new();
        }
        std::mem::take(&mut self.buffer)
    }

    /// The certificate that the other side of a TLS connection has shown.
    pub fn peer(&self) -> Option<CertificateDer<'static>> {
        let chain = match &self.stream {
            Transport::Client(tls) => tls.conn.peer_certificates(),
            Transport::Server(tls) => tls.conn.peer_certificates(),
            Transport::Tcp(_) | Transport::Unix(_) => None,
        };
        Some(chain?.first()?.clone().into_owned())
    }

    /// Reads to the end of the connection.
    #[track_caller]
    pub fn rest(&mut self) -> (Vec<u8>, End) {
        loop {
            if let Err(end) = self.fill() {
                return (std::mem::take(&mut self.buffer), end);
            }
        }
    }

    #[track_caller]
    fn line(&mut self) -> Result<String, End> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..at + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..at]).into_owned());
            }
            self.fill()
                .map_err(|end| if end == End::Whole { End::Cut } else { end })?;
        }
    }

    #[track_caller]
    fn chunked(&mut self, message: &mut Message) -> Result<(), End> {
        loop {
            let line = self.line()?;
            let size = line.split(';').next().unwrap_or_default();
            let size = usize::from_str_radix(size, 16)
                .unwrap_or_else(|_| panic!("not the size of a chunk: {line:?}"));
            if size == 0 {
                loop {
                    let line = self.line()?;
                    match field(&line) {
                        Some(trailer) => message.trailers.push(trailer),
                        None => return Ok(()),
                    }
                }
            }
            let (data, end) = self.exactly(size);
            message.body.extend(data);
            match end {
                End::Whole => self.line()?,
                End::Cut | End::Reset => return Err(end),
            };
        }
    }

    /// Reads the body of a request whose head was read.
    #[track_caller]
    pub fn request_body(&mut self, message: &mut Message) {
        self.body(message, true);
    }

    /// Reads the body of an answer whose head was read.
    #[track_caller]
    pub fn answer_body(&mut self, message: &mut Message) {
        if matches!(message.status(), 100..=199 | 204 | 304) {
            return;
        }
        self.body(message, false);
    }

    #[track_caller]
    fn body(&mut self, message: &mut Message, is_request: bool) {
        if message
            .field("transfer-encoding")
            .is_some_and(|coding| coding == "chunked")
        {
            if let Err(end) = self.chunked(message) {
                message.end = end;
            }
        } else if let Some(length) = message.field("content-length") {
            let length = length.parse().unwrap();
            (message.body, message.end) = self.exactly(length);
        } else if !is_request {
            (message.body, message.end) = self.rest();
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
