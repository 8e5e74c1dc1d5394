//! Reusable HTTP connections to endpoints, those of one worker.
//!
//! The door through which an attempt leaves: [`Connections::lease`] hands out a connection, [`Lease::send`] sends
//! one request on it, [`Lease::settle`] says that the answer is over and the connection may serve another.
//! Whatever is dropped without being settled is closed: a connection in doubt is never used again.
//!
//! An HTTP/1.1 connection serves one exchange at a time and waits on a LIFO stack, so that a quiet hour leaves
//! few open. One that stays idle for `PARK_AFTER` is left with the endpoint, where any worker finds it before it
//! dials. An HTTP/2 connection is shared by as many exchanges as the endpoint allows.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{Notify, oneshot};

use crate::base::clock;
use crate::base::fault::Fault;
use crate::base::gather::{Gather, Outlet};
use crate::base::name::EndpointId;
use crate::dataplane::tls::{Alpn, Stream};
use crate::dataplane::upstream::connect::{self, Dialled, Parked};
use crate::dataplane::upstream::endpoint::{Endpoint, Protocol};

/// An idle connection older than this is not used again.
const IDLE_LIMIT: Duration = Duration::from_secs(30);

/// The same for a request that cannot be repeated: it must not meet an endpoint that closes just now. Node and
/// uvicorn close after 5 s.
const IDLE_LIMIT_UNREPEATABLE: Duration = Duration::from_secs(4);

/// A connection older than this serves no further exchange, so that changes behind an address are noticed.
const AGE_LIMIT: Duration = Duration::from_secs(3600);

/// How often idle connections are looked through.
const SWEEP: Duration = Duration::from_secs(1);

/// An idle connection that this worker has not needed for so long is left for its neighbours.
const PARK_AFTER: Duration = Duration::from_secs(1);

/// HTTP/2 towards endpoints: what one stream and one connection may have under way.
const H2_STREAM_WINDOW: u32 = 256 << 10;
const H2_CONNECTION_WINDOW: u32 = 2 << 20;

/// Silence on an HTTP/2 connection after which the endpoint is asked for a sign of life, and the wait for it.
const H2_PING_AFTER: Duration = Duration::from_secs(30);
const H2_PING_TIMEOUT: Duration = Duration::from_secs(10);

/// The connections of one worker. Cloning it is a reference to the same.
#[derive(Debug)]
pub struct Connections<B> {
    shelves: Rc<Shelves<B>>,
}

impl<B> Clone for Connections<B> {
    fn clone(&self) -> Self {
        Self {
            shelves: Rc::clone(&self.shelves),
        }
    }
}

impl<B> Default for Connections<B> {
    fn default() -> Self {
        Self {
            shelves: Rc::new(Shelves {
                by_endpoint: RefCell::default(),
            }),
        }
    }
}

#[derive(Debug)]
struct Shelves<B> {
    by_endpoint: RefCell<HashMap<EndpointId, Rc<Shelf<B>>, foldhash::fast::RandomState>>,
}

/// The connections to one endpoint.
#[derive(Debug)]
struct Shelf<B> {
    /// Gone when no snapshot and no exchange names the endpoint any more.
    endpoint: Weak<Endpoint>,
    /// Boxed, since a connection moves between here and its exchange with every request.
    idle: RefCell<Vec<Box<Http1<B>>>>,
    shared: RefCell<Vec<Http2<B>>>,
    /// What the endpoint agreed to speak when it was dialled last.
    spoken: Cell<Option<Alpn>>,
    dialling: Cell<bool>,
    dialled: Notify,
}

#[derive(Debug)]
struct Http1<B> {
    sender: http1::SendRequest<B>,
    born: Instant,
    idle_since: Instant,
    afterlife: Rc<RefCell<Afterlife>>,
}

/// What the task of an HTTP/1.1 connection does with the socket once HTTP has ended on it in good order.
#[derive(Debug, Default)]
enum Afterlife {
    /// Closes it.
    #[default]
    Close,
    /// Leaves it with the endpoint, idle since then.
    Park(Instant),
    /// Hands it to the exchange that asked for an upgrade.
    Tunnel(oneshot::Sender<Tunnel>),
}

/// A connection after an upgrade: the socket, and what the endpoint sent behind its head.
#[derive(Debug)]
pub struct Tunnel {
    /// The socket.
    pub stream: Stream,
    /// Bytes that belong to the tunnel and were read with the head.
    pub early: Bytes,
}

#[derive(Debug)]
struct Http2<B> {
    sender: http2::SendRequest<B>,
    born: Instant,
    streams: Rc<Cell<usize>>,
    /// How many streams the endpoint allows, as its task saw last.
    allowed: Rc<Cell<usize>>,
}

/// What an exchange needs of its connection.
#[derive(Clone, Copy, Debug)]
pub struct Wants {
    /// The request can be repeated if the connection turns out to be dead.
    pub repeatable: bool,
    /// Only a connection that has carried nothing will do.
    pub fresh: bool,
    /// The request asks for an upgrade: HTTP/1.1 on a connection of its own.
    pub upgrade: bool,
    /// How long dialling may take.
    pub connect_timeout: Duration,
    /// Idle connections to keep.
    pub idle_limit: usize,
    /// Bytes of the answer's header.
    pub header_bytes: usize,
}

/// A connection in the hands of one exchange. Dropping it closes an HTTP/1.1 connection.
#[derive(Debug)]
pub struct Lease<B> {
    kind: Kind<B>,
    /// Whether it has carried an exchange before.
    pub reused: bool,
    /// How long dialling took; `None` for a connection that was there.
    pub connect_time: Option<Duration>,
}

#[derive(Debug)]
enum Kind<B> {
    Http1 {
        connection: Box<Http1<B>>,
        shelf: Rc<Shelf<B>>,
        idle_limit: usize,
    },
    Http2 {
        sender: http2::SendRequest<B>,
        _stream: StreamCount,
    },
}

/// One stream of a shared connection; it ends when this is dropped.
#[derive(Debug)]
struct StreamCount(Rc<Cell<usize>>);

impl StreamCount {
    fn enter(count: &Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        Self(Rc::clone(count))
    }
}

impl Drop for StreamCount {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// Why a request got no answer.
#[derive(Debug)]
pub struct SendError<B> {
    /// What went wrong.
    pub fault: Fault,
    /// The request, when nothing of it was sent.
    pub unsent: Option<Box<Request<B>>>,
}

impl<B> Connections<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// A connection to `endpoint`: one of this worker's, one that a neighbour left, or a new one.
    ///
    /// Dropping the future closes what it was dialling.
    ///
    /// # Errors
    /// The fault of [`connect::dial`].
    pub async fn lease(&self, endpoint: &Arc<Endpoint>, wants: Wants) -> Result<Lease<B>, Fault> {
        let shelf = self.shelf(endpoint);
        if !wants.fresh {
            if let Some(lease) = shelf.take(endpoint, wants).await {
                return Ok(lease);
            }
            while shelf.dialling.get() && shelf.may_share(endpoint, wants) {
                shelf.dialled.notified().await;
                if let Some(lease) = shelf.take(endpoint, wants).await {
                    return Ok(lease);
                }
            }
        }
        // Boxed, since most exchanges do without: their futures need no room for a TLS handshake.
        Box::pin(self.open(&shelf, endpoint, wants)).await
    }

    /// Looks through the idle connections for as long as it is polled; the worker owns this future.
    pub async fn run(&self) {
        loop {
            tokio::time::sleep(SWEEP).await;
            let now = clock::now();
            let mut shelves = self.shelves.by_endpoint.borrow_mut();
            shelves.retain(|_, shelf| shelf.sweep(now));
        }
    }

    fn shelf(&self, endpoint: &Arc<Endpoint>) -> Rc<Shelf<B>> {
        let mut shelves = self.shelves.by_endpoint.borrow_mut();
        Rc::clone(shelves.entry(endpoint.id).or_insert_with(|| {
            Rc::new(Shelf {
                endpoint: Arc::downgrade(endpoint),
                idle: RefCell::default(),
                shared: RefCell::default(),
                spoken: Cell::new(None),
                dialling: Cell::new(false),
                dialled: Notify::new(),
            })
        }))
    }

    async fn open(
        &self,
        shelf: &Rc<Shelf<B>>,
        endpoint: &Arc<Endpoint>,
        wants: Wants,
    ) -> Result<Lease<B>, Fault> {
        let began = clock::now();
        let _dialling = Dialling::begin(shelf);
        let Dialled { stream, protocol } =
            connect::dial(endpoint, wants.upgrade, wants.connect_timeout).await?;
        let born = clock::now();
        if !wants.upgrade {
            shelf.spoken.set(Some(protocol));
        }
        let mut lease = match protocol {
            Alpn::Http1 => shelf.start_http1(stream, born, wants).await?,
            Alpn::H2 => shelf.start_http2(stream, born, wants).await?,
        };
        lease.connect_time = Some(born.saturating_duration_since(began));
        Ok(lease)
    }
}

/// Marks a shelf while a connection is being dialled, and wakes those who wait for it, however it ends.
struct Dialling<'a, B> {
    shelf: &'a Shelf<B>,
    first: bool,
}

impl<'a, B> Dialling<'a, B> {
    fn begin(shelf: &'a Shelf<B>) -> Self {
        Self {
            shelf,
            first: !shelf.dialling.replace(true),
        }
    }
}

impl<B> Drop for Dialling<'_, B> {
    fn drop(&mut self) {
        if self.first {
            self.shelf.dialling.set(false);
            self.shelf.dialled.notify_waiters();
        }
    }
}

impl<B> Shelf<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// A connection that is there already.
    async fn take(self: &Rc<Self>, endpoint: &Endpoint, wants: Wants) -> Option<Lease<B>> {
        let now = clock::coarse();
        if !wants.upgrade
            && let Some(lease) = self.take_shared(now)
        {
            return Some(lease);
        }
        let idle_limit = if wants.repeatable {
            IDLE_LIMIT
        } else {
            IDLE_LIMIT_UNREPEATABLE
        };
        let usable = |idle_since: Instant, born: Instant| {
            now.saturating_duration_since(idle_since) < idle_limit
                && now.saturating_duration_since(born) < AGE_LIMIT
        };
        if wants.upgrade && endpoint.tls.is_some() {
            // What waits here may have agreed on h2 for the next exchange; an upgrade dials for itself.
            return None;
        }
        loop {
            let Some(connection) = self.idle.borrow_mut().pop() else {
                break;
            };
            if connection.sender.is_ready() && usable(connection.idle_since, connection.born) {
                return Some(self.lease_http1(connection, wants));
            }
        }
        while let Some(parked) = endpoint.unpark() {
            let (idle_since, born) = (parked.idle_since, parked.born);
            if usable(idle_since, born)
                && let Some(stream) = parked.adopt()
                && let Ok(mut lease) = Box::pin(self.start_http1(stream, born, wants)).await
            {
                lease.reused = true;
                return Some(lease);
            }
        }
        None
    }

    fn take_shared(&self, now: Instant) -> Option<Lease<B>> {
        let mut shared = self.shared.borrow_mut();
        shared.retain(|connection| !connection.sender.is_closed());
        let connection = shared.iter().find(|connection| connection.has_room(now))?;
        Some(connection.lease(true))
    }

    /// Whether a connection that is being dialled now will serve this exchange too.
    fn may_share(&self, endpoint: &Endpoint, wants: Wants) -> bool {
        let speaks_http2 = match (endpoint.identity.protocol, self.spoken.get()) {
            (Protocol::H2, _) | (Protocol::Auto, Some(Alpn::H2)) => true,
            (Protocol::Auto, None) => endpoint.tls.is_some(),
            (Protocol::Auto, Some(Alpn::Http1)) | (Protocol::Http1, _) => false,
        };
        speaks_http2 && !wants.upgrade
    }

    fn lease_http1(self: &Rc<Self>, connection: Box<Http1<B>>, wants: Wants) -> Lease<B> {
        let shelf = Rc::clone(self);
        let kind = Kind::Http1 {
            connection,
            shelf,
            idle_limit: wants.idle_limit,
        };
        Lease {
            kind,
            reused: true,
            connect_time: None,
        }
    }

    async fn start_http1(
        self: &Rc<Self>,
        stream: Stream,
        born: Instant,
        wants: Wants,
    ) -> Result<Lease<B>, Fault> {
        let (sender, connection) = http1::Builder::new()
            .max_header_size(wants.header_bytes)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|_| Fault::ConnectFailed)?;
        let afterlife = Rc::<RefCell<Afterlife>>::default();
        let task = drive_http1(
            connection,
            self.endpoint.clone(),
            Rc::clone(&afterlife),
            born,
        );
        tokio::task::spawn_local(task);
        let connection = Box::new(Http1 {
            sender,
            born,
            idle_since: born,
            afterlife,
        });
        Ok(Lease {
            reused: false,
            ..self.lease_http1(connection, wants)
        })
    }

    async fn start_http2(
        &self,
        stream: Stream,
        born: Instant,
        wants: Wants,
    ) -> Result<Lease<B>, Fault> {
        let (gather, outlet) = Gather::new(stream);
        let (sender, connection) = http2::Builder::new(OnThisWorker)
            .timer(TokioTimer::new())
            .initial_stream_window_size(H2_STREAM_WINDOW)
            .initial_connection_window_size(H2_CONNECTION_WINDOW)
            .max_header_list_size(u32::try_from(wants.header_bytes).unwrap_or(u32::MAX))
            .keep_alive_interval(H2_PING_AFTER)
            .keep_alive_timeout(H2_PING_TIMEOUT)
            .handshake(TokioIo::new(gather))
            .await
            .map_err(|error| {
                tracing::debug!(%error, "the HTTP/2 preface failed");
                Fault::ConnectFailed
            })?;
        let allowed = Rc::new(Cell::new(connection.current_max_send_streams()));
        tokio::task::spawn_local(drive_http2(connection, outlet, Rc::clone(&allowed)));
        let connection = Http2 {
            sender,
            born,
            streams: Rc::default(),
            allowed,
        };
        let lease = connection.lease(false);
        self.shared.borrow_mut().push(connection);
        Ok(lease)
    }

    /// Closes what is too old and leaves what is not needed; `false` when nothing needs this shelf any more.
    fn sweep(&self, now: Instant) -> bool {
        let Some(endpoint) = self.endpoint.upgrade() else {
            return false;
        };
        self.idle.borrow_mut().retain(|connection| {
            let idle = now.saturating_duration_since(connection.idle_since);
            let keep = idle < PARK_AFTER && connection.sender.is_ready();
            if !keep && connection.sender.is_ready() {
                connection
                    .afterlife
                    .replace(Afterlife::Park(connection.idle_since));
            }
            keep
        });
        self.shared.borrow_mut().retain(|connection| {
            let aged = now.saturating_duration_since(connection.born) >= AGE_LIMIT;
            !(connection.sender.is_closed() || (aged && connection.streams.get() == 0))
        });
        endpoint.retain_parked(|parked| {
            now.saturating_duration_since(parked.idle_since) < IDLE_LIMIT
                && now.saturating_duration_since(parked.born) < AGE_LIMIT
        });
        true
    }
}

impl<B> Http2<B> {
    fn has_room(&self, now: Instant) -> bool
    where
        B: Body + 'static,
    {
        now.saturating_duration_since(self.born) < AGE_LIMIT
            && self.streams.get() < self.allowed.get()
    }

    fn lease(&self, reused: bool) -> Lease<B> {
        let kind = Kind::Http2 {
            sender: self.sender.clone(),
            _stream: StreamCount::enter(&self.streams),
        };
        Lease {
            kind,
            reused,
            connect_time: None,
        }
    }
}

/// Runs an HTTP/1.1 connection to its end and gives the socket its afterlife.
async fn drive_http1<B>(
    mut connection: http1::Connection<TokioIo<Stream>, B>,
    endpoint: Weak<Endpoint>,
    afterlife: Rc<RefCell<Afterlife>>,
    born: Instant,
) where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if let Err(error) = poll_fn(|cx| connection.poll_without_shutdown(cx)).await {
        tracing::debug!(%error, "an upstream connection ended");
        return;
    }
    let parts = connection.into_parts();
    match afterlife.take() {
        Afterlife::Close => {}
        Afterlife::Park(idle_since) => {
            if parts.read_buf.is_empty()
                && let Some(endpoint) = endpoint.upgrade()
                && let Some(parked) = Parked::new(parts.io.into_inner(), idle_since, born)
            {
                endpoint.park(parked);
            }
        }
        Afterlife::Tunnel(exchange) => {
            let tunnel = Tunnel {
                stream: parts.io.into_inner(),
                early: parts.read_buf,
            };
            // An exchange that is gone needs no tunnel: dropping it closes the socket.
            drop(exchange.send(tunnel));
        }
    }
}

/// Runs an HTTP/2 connection to its end, and keeps watch of how many streams the endpoint allows.
async fn drive_http2<B>(
    mut connection: http2::Connection<TokioIo<Gather<Stream>>, B, OnThisWorker>,
    outlet: Outlet<Stream>,
    allowed: Rc<Cell<usize>>,
) where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let ended = poll_fn(|cx| {
        let ended = Pin::new(&mut connection).poll(cx);
        if let Poll::Ready(Err(error)) = outlet.poll_flush(cx) {
            tracing::debug!(%error, "an upstream HTTP/2 connection broke");
            return Poll::Ready(Ok(()));
        }
        allowed.set(connection.current_max_send_streams());
        ended
    });
    if let Err(error) = ended.await {
        tracing::debug!(%error, "an upstream HTTP/2 connection ended");
    }
}

impl<B> Lease<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Whether requests on this connection are HTTP/2.
    pub fn is_http2(&self) -> bool {
        matches!(self.kind, Kind::Http2 { .. })
    }

    /// Sends one request and waits for the head of the answer.
    ///
    /// Dropping the future cancels the request: an HTTP/1.1 connection is closed, an HTTP/2 stream reset.
    ///
    /// # Errors
    /// The fault, and the request when the endpoint has seen nothing of it.
    pub async fn send(&mut self, request: Request<B>) -> Result<Response<Incoming>, SendError<B>> {
        let outcome = match &mut self.kind {
            Kind::Http1 { connection, .. } => connection.sender.try_send_request(request).await,
            Kind::Http2 { sender, .. } => sender.try_send_request(request).await,
        };
        outcome.map_err(|mut error| {
            let unsent = error.take_message().map(Box::new);
            let fault = if unsent.is_some() {
                Fault::ConnectionLost
            } else {
                fault_of(error.error())
            };
            tracing::debug!(error = %error.error(), fault = fault.token(), "an attempt failed");
            SendError { fault, unsent }
        })
    }

    /// Asks for the socket behind an upgrade; to be called before [`send`](Self::send).
    ///
    /// `None` on HTTP/2. The receiver gets the socket when the endpoint switches protocols, and an error otherwise.
    pub fn expect_tunnel(&self) -> Option<oneshot::Receiver<Tunnel>> {
        match &self.kind {
            Kind::Http1 { connection, .. } => {
                let (exchange, tunnel) = oneshot::channel();
                connection.afterlife.replace(Afterlife::Tunnel(exchange));
                Some(tunnel)
            }
            Kind::Http2 { .. } => None,
        }
    }

    /// Gives the connection back after an answer that ended in good order.
    pub fn settle(self) {
        let Kind::Http1 {
            mut connection,
            shelf,
            idle_limit,
        } = self.kind
        else {
            return;
        };
        connection.afterlife.take();
        if connection.sender.is_ready() {
            shelf.shelve(connection, idle_limit);
        } else if !connection.sender.is_closed() {
            // The rest of the request is still on its way, or the connection's task has not looked up yet.
            tokio::task::spawn_local(async move {
                if connection.sender.ready().await.is_ok() {
                    shelf.shelve(connection, idle_limit);
                }
            });
        }
    }
}

impl<B> Shelf<B> {
    fn shelve(&self, mut connection: Box<Http1<B>>, idle_limit: usize) {
        connection.idle_since = clock::coarse();
        let mut idle = self.idle.borrow_mut();
        if idle.len() < idle_limit {
            idle.push(connection);
        }
    }
}

fn fault_of(error: &hyper::Error) -> Fault {
    if error.is_parse_too_large() {
        Fault::ResponseHeaderTooLarge
    } else if error.is_parse() {
        Fault::ResponseMalformed
    } else {
        Fault::ResponseMissing
    }
}

/// Runs hyper's tasks on the worker that asks.
#[derive(Clone, Copy, Debug)]
struct OnThisWorker;

impl<F: Future<Output: 'static> + 'static> Executor<F> for OnThisWorker {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}
