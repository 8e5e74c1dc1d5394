//! Reusable HTTP connections to endpoints, those of one worker.
//!
//! The door through which an attempt leaves: [`Connections::lease`] hands out a connection, [`Lease::send`] sends
//! one request on it, and the answer's body gives the connection back when it is whole. Whatever is dropped before
//! that is closed: a connection in doubt is never used again.
//!
//! What waits for its next exchange is on a shelf of its endpoint ([`super::shelf`]).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::uri::Scheme;
use http_body::Body;
use hyper::client::conn::http2::SendRequest;

use crate::base::clock;
use crate::base::fault::Fault;
use crate::base::name::EndpointId;
use crate::dataplane::tls::{Alpn, Stream};
use crate::dataplane::upstream::answer::AnswerBody;
use crate::dataplane::upstream::bounds::Counted;
use crate::dataplane::upstream::connect::{self, Dialled};
use crate::dataplane::upstream::draft::{Draft, Failure};
use crate::dataplane::upstream::endpoint::Endpoint;
use crate::dataplane::upstream::head::AnswerHead;
use crate::dataplane::upstream::http1::{self, Rest, Wire};
use crate::dataplane::upstream::http2;
use crate::dataplane::upstream::pool::Pool;
use crate::dataplane::upstream::shelf::{Dialling, Home, Place, Shelf, StreamCount};

/// How often idle connections are looked through.
const SWEEP: Duration = Duration::from_secs(1);

/// The same where an idle connection that cannot move may be in the way of a new one.
const LEND: Duration = Duration::from_millis(50);

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

/// A connection after an upgrade: the socket, and what the endpoint sent behind its head.
#[derive(Debug)]
pub struct Tunnel {
    /// The socket.
    pub stream: Stream,
    /// Bytes that belong to the tunnel and were read with the head.
    pub early: Bytes,
    /// Its place among the connections to its endpoint.
    pub counted: Option<Counted>,
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
    /// Idle connections to keep.
    pub idle_limit: usize,
    /// Connections to the endpoint, over all workers.
    pub connections: Option<NonZeroU32>,
    /// Bytes of the answer's header.
    pub header_bytes: usize,
}

/// A connection in the hands of one exchange. Dropping it closes an HTTP/1.1 connection.
#[derive(Debug)]
pub struct Lease<B> {
    pub(super) kind: Kind<B>,
    pub(super) wants: Wants,
    /// Whether an exchange on it was answered before.
    pub reused: bool,
    /// How long dialling took; `None` for a connection that was there.
    pub connect_time: Option<Duration>,
}

/// A connection by what is spoken on it.
#[derive(Debug)]
pub(super) enum Kind<B> {
    Http1(Wire, Rc<Shelf<B>>),
    Http2(SendRequest<B>, StreamCount, Rc<Cell<bool>>),
}

/// What came back.
#[derive(Debug)]
pub struct Answered<B> {
    /// Status and fields.
    pub head: AnswerHead,
    /// The body.
    pub body: AnswerBody<B>,
    /// The connection, if the endpoint has switched protocols.
    pub tunnel: Option<Tunnel>,
}

impl<B> Connections<B>
where
    B: Body<Data = Bytes> + Default + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// A connection to `endpoint` of `pool`: one of this worker's, one that a neighbour left, or a new one.
    ///
    /// Dropping the future closes what it was dialling.
    ///
    /// # Errors
    /// The fault of [`connect::dial`].
    pub async fn lease(
        &self,
        endpoint: &Arc<Endpoint>,
        pool: &Pool,
        wants: Wants,
    ) -> Result<Lease<B>, Fault> {
        let shelf = self.shelf(endpoint);
        if !wants.fresh {
            if let Some(lease) = shelf.take(endpoint, wants) {
                return Ok(lease);
            }
            while shelf.is_dialling() && shelf.may_share(endpoint, wants) {
                shelf.dialled().await;
                if let Some(lease) = shelf.take(endpoint, wants) {
                    return Ok(lease);
                }
            }
        }
        // Boxed, since most exchanges do without: their futures need no room for a TLS handshake.
        Box::pin(self.open(&shelf, endpoint, pool, wants)).await
    }

    /// Looks through the idle connections for as long as it is polled; the worker owns this future.
    pub async fn run(&self) {
        let mut swept = clock::now();
        loop {
            let lends = || {
                let shelves = self.shelves.by_endpoint.borrow();
                shelves.values().any(|shelf| shelf.lends())
            };
            let nap = if lends() { LEND } else { SWEEP };
            tokio::time::sleep(nap).await;
            let now = clock::now();
            let mut shelves = self.shelves.by_endpoint.borrow_mut();
            if now.saturating_duration_since(swept) >= SWEEP {
                swept = now;
                shelves.retain(|_, shelf| shelf.sweep(now));
            }
            shelves.values().for_each(|shelf| shelf.lend());
        }
    }

    fn shelf(&self, endpoint: &Arc<Endpoint>) -> Rc<Shelf<B>> {
        let mut shelves = self.shelves.by_endpoint.borrow_mut();
        Rc::clone(
            shelves
                .entry(endpoint.id)
                .or_insert_with(|| Rc::new(Shelf::new(endpoint))),
        )
    }

    async fn open(
        &self,
        shelf: &Rc<Shelf<B>>,
        endpoint: &Arc<Endpoint>,
        pool: &Pool,
        wants: Wants,
    ) -> Result<Lease<B>, Fault> {
        let began = clock::now();
        let timeout = pool.settings.connect_timeout;
        let counted = match wants.connections {
            None => endpoint.sockets().count(),
            Some(limit) => match shelf.place(endpoint, wants, limit, began + timeout).await? {
                Place::New(counted) => counted,
                Place::Idle(lease) => return Ok(lease),
            },
        };
        let _dialling = Dialling::begin(shelf);
        // One that is shared would belong to one worker, and the others would have none.
        let only_http1 = wants.upgrade || wants.connections.is_some();
        let addresses = pool.dials(endpoint);
        let Dialled { stream, protocol } =
            connect::dial(endpoint, &addresses, only_http1, timeout).await?;
        let born = clock::now();
        if !wants.upgrade {
            shelf.note_spoken(protocol);
        }
        let mut lease = match protocol {
            Alpn::Http1 => shelf.start_http1(stream, born, counted, wants),
            Alpn::H2 => shelf.start_http2(stream, born, counted, wants).await?,
        };
        lease.connect_time = Some(born.saturating_duration_since(began));
        Ok(lease)
    }
}

impl<B> Lease<B>
where
    B: Body<Data = Bytes> + Default + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Sends one request and waits for the head of the answer; `inform` hears the status of interim ones, which
    /// come by HTTP/1.1 only. What the draft holds is whole again after a failure, but for a body that was begun.
    ///
    /// Dropping the future cancels the request: an HTTP/1.1 connection is closed, an HTTP/2 stream reset.
    ///
    /// # Errors
    /// The fault, and whether the endpoint has seen nothing of the request.
    pub async fn send(
        self,
        draft: Draft<'_, B>,
        scheme: Scheme,
        inform: impl FnMut(StatusCode),
    ) -> Result<Answered<B>, Failure> {
        let Wants {
            header_bytes,
            idle_limit,
            repeatable,
            connections,
            ..
        } = self.wants;
        match self.kind {
            Kind::Http1(wire, shelf) => {
                let http1::Answer {
                    head,
                    rest,
                    patience,
                } = http1::exchange(wire, draft, header_bytes, inform).await?;
                if patience.is_some() {
                    shelf.hear(patience);
                }
                if self.reused {
                    shelf.note_reuse();
                }
                let home = Home::new(shelf, idle_limit, connections.is_some());
                let (body, tunnel) = match rest {
                    Rest::Whole(bytes, wire) => {
                        if let Some(wire) = wire {
                            home.keep(wire);
                        }
                        (AnswerBody::Whole(bytes), None)
                    }
                    Rest::Flowing(flow) => (AnswerBody::Http1(flow, home), None),
                    Rest::Switched(wire, early) => {
                        let Wire {
                            stream, counted, ..
                        } = wire;
                        let tunnel = Tunnel {
                            stream,
                            early,
                            counted,
                        };
                        (AnswerBody::empty(), Some(tunnel))
                    }
                };
                Ok(Answered { head, body, tunnel })
            }
            Kind::Http2(mut sender, stream, has_answered) => {
                let response = http2::exchange(&mut sender, draft, scheme, repeatable).await?;
                has_answered.set(true);
                let (parts, body) = response.into_parts();
                let body = if body.is_end_stream() {
                    AnswerBody::empty()
                } else {
                    AnswerBody::Http2(body, stream)
                };
                Ok(Answered {
                    head: parts.into(),
                    body,
                    tunnel: None,
                })
            }
        }
    }
}
