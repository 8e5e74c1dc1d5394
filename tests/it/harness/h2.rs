//! HTTP/2 clients and backends, made of hyper; cases call them without waiting in the language.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::backend::{self, Backend, Memory};
use super::event_loop;
use super::expect::PATIENCE;
use super::wire::{End, Message};

/// Waits for what happens on the event loop.
#[track_caller]
pub fn wait<T>(what: impl Future<Output = T>) -> T {
    let waited = event_loop().block_on(async { tokio::time::timeout(PATIENCE, what).await });
    waited.expect("nothing came in time")
}

/// A body that a case feeds piece by piece.
pub struct Pieces {
    pieces: mpsc::Receiver<Frame<Bytes>>,
    is_empty: bool,
}

impl Pieces {
    /// No body.
    pub fn none() -> Self {
        let (_, pieces) = mpsc::channel(1);
        Self {
            pieces,
            is_empty: true,
        }
    }

    /// A whole body, and what comes behind it.
    pub fn of(body: &str, trailers: &[(&'static str, &str)]) -> Self {
        let (feed, pieces) = mpsc::channel(2);
        if !body.is_empty() {
            let data = Bytes::copy_from_slice(body.as_bytes());
            feed.try_send(Frame::data(data)).unwrap();
        }
        if !trailers.is_empty() {
            feed.try_send(Frame::trailers(map(trailers))).unwrap();
        }
        Self {
            pieces,
            is_empty: false,
        }
    }

    /// A body that goes on until the sender is dropped.
    pub fn fed() -> (mpsc::Sender<Frame<Bytes>>, Self) {
        let (feed, pieces) = mpsc::channel(1);
        let body = Self {
            pieces,
            is_empty: false,
        };
        (feed, body)
    }
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.pieces.poll_recv(cx).map(|frame| frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.is_empty
    }
}

fn map(fields: &[(&'static str, &str)]) -> HeaderMap {
    fields
        .iter()
        .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
        .collect()
}

fn list(fields: &HeaderMap) -> Vec<(String, String)> {
    fields
        .iter()
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.as_str().to_owned(), value)
        })
        .collect()
}

async fn read_body(mut body: Incoming, message: &mut Message) {
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => message.body.extend_from_slice(&data),
            Ok(Err(frame)) => message.trailers = list(frame.trailers_ref().unwrap()),
            Err(_) => {
                message.end = End::Cut;
                return;
            }
        }
    }
}

/// A client connection.
pub struct Client {
    sender: http2::SendRequest<Pieces>,
}

impl Client {
    /// Connects in the clear, by prior knowledge.
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Self {
        wait(async move { Self::over(TcpStream::connect(address).await.unwrap()).await })
    }

    /// Connects over TLS, asking for `name`.
    #[track_caller]
    pub fn tls(address: SocketAddr, config: &Arc<ClientConfig>, name: &str) -> Self {
        let connector = TlsConnector::from(Arc::clone(config));
        let name = ServerName::try_from(name.to_owned()).unwrap();
        wait(async move {
            let stream = TcpStream::connect(address).await.unwrap();
            let stream = connector.connect(name, stream).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
            Self::over(stream).await
        })
    }

    async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .handshake(TokioIo::new(stream))
            .await
            .unwrap();
        event_loop().spawn(connection);
        Self { sender }
    }

    /// Sends a request with nothing but its target, and reads the answer.
    #[track_caller]
    pub fn get(&mut self, url: &str) -> Message {
        self.ask(Request::get(url).body(Pieces::none()).unwrap())
    }

    /// Sends a request and reads the answer.
    #[track_caller]
    pub fn ask(&mut self, request: Request<Pieces>) -> Message {
        let answer = self.begin(request);
        read(answer)
    }

    /// Sends a request and reads the head of the answer.
    #[track_caller]
    pub fn begin(&mut self, request: Request<Pieces>) -> Response<Incoming> {
        self.try_begin(request).unwrap()
    }

    /// The same, where the stream may be reset.
    pub fn try_begin(&mut self, request: Request<Pieces>) -> hyper::Result<Response<Incoming>> {
        wait(async {
            self.sender.ready().await?;
            self.sender.send_request(request).await
        })
    }

    /// Sends a request and lets the case go on; the answer is for [`wait`].
    pub fn send(
        &mut self,
        request: Request<Pieces>,
    ) -> impl Future<Output = hyper::Result<Response<Incoming>>> + use<> {
        wait(self.sender.ready()).unwrap();
        let answer = self.sender.send_request(request);
        let task = event_loop().spawn(answer);
        async { task.await.unwrap() }
    }

    /// Sends a request whose stream is reset when the task is aborted.
    pub fn send_cancellable(&mut self, request: Request<Pieces>) -> tokio::task::JoinHandle<()> {
        wait(self.sender.ready()).unwrap();
        let answer = self.sender.send_request(request);
        event_loop().spawn(async move { drop(answer.await) })
    }

    /// Waits until the connection takes no more requests.
    #[track_caller]
    pub fn is_closed(&mut self) {
        super::expect::eventually("the connection closed", || {
            self.sender.is_closed().then_some(())
        });
    }
}

/// Reads the body of an answer.
#[track_caller]
pub fn read(answer: Response<Incoming>) -> Message {
    let (parts, body) = answer.into_parts();
    let mut message = Message {
        line: format!("HTTP/2 {}", parts.status.as_u16()),
        fields: list(&parts.headers),
        body: Vec::new(),
        trailers: Vec::new(),
        end: End::Whole,
    };
    wait(read_body(body, &mut message));
    message
}

/// What a backend answers.
pub struct Said {
    pub status: u16,
    pub fields: Vec<(&'static str, &'static str)>,
    pub body: Pieces,
}

/// An answer of 200.
pub fn said(body: &str, trailers: &[(&'static str, &str)]) -> Said {
    Said {
        status: 200,
        fields: Vec::new(),
        body: Pieces::of(body, trailers),
    }
}

/// A backend that reads whole requests and answers them.
pub fn backend(answer: impl Fn(&Message) -> Said + Send + Sync + 'static) -> Backend {
    serve(None, answer)
}

/// The same behind TLS.
pub fn tls_backend(
    config: Arc<ServerConfig>,
    answer: impl Fn(&Message) -> Said + Send + Sync + 'static,
) -> Backend {
    serve(Some(TlsAcceptor::from(config)), answer)
}

fn serve(
    tls: Option<TlsAcceptor>,
    answer: impl Fn(&Message) -> Said + Send + Sync + 'static,
) -> Backend {
    let (listener, address) = backend::listen();
    listener.set_nonblocking(true).unwrap();
    let memory = Arc::<Memory>::default();
    let told = Arc::<AtomicBool>::default();
    let (seen, stop) = (Arc::clone(&memory), Arc::clone(&told));
    let answer = Arc::new(answer);
    event_loop().spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        while let Ok((stream, _)) = listener.accept().await {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            seen.note(|seen| seen.connections += 1);
            let (seen, answer, tls) = (Arc::clone(&seen), Arc::clone(&answer), tls.clone());
            tokio::spawn(async move {
                match tls {
                    None => converse(stream, &seen, answer).await,
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            converse(stream, &seen, answer).await;
                        }
                    }
                }
            });
        }
    });
    let wake = move || drop(std::net::TcpStream::connect(address));
    Backend::new(address.to_string(), memory, told, wake)
}

async fn converse<S, F>(stream: S, memory: &Arc<Memory>, answer: Arc<F>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(&Message) -> Said + Send + Sync + 'static,
{
    let service = service_fn(|request: Request<Incoming>| {
        let (memory, answer) = (Arc::clone(memory), Arc::clone(&answer));
        async move {
            let (parts, body) = request.into_parts();
            let mut message = Message {
                line: format!("{} {} HTTP/2", parts.method, parts.uri),
                fields: list(&parts.headers),
                body: Vec::new(),
                trailers: Vec::new(),
                end: End::Whole,
            };
            read_body(body, &mut message).await;
            let said = answer(&message);
            memory.note(|seen| seen.requests.push(message));
            let mut response = Response::new(said.body);
            *response.status_mut() = said.status.try_into().unwrap();
            *response.headers_mut() = map(&said.fields);
            Ok::<_, Infallible>(response)
        }
    });
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service);
    // How a client leaves is told by the count.
    drop(connection.await);
    memory.note(|seen| seen.closed += 1);
}
