//! HTTP/2 towards endpoints (RFC 9113): a request in its form, on a connection that hyper drives.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Request, Response, Uri, Version, header};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, Connection, SendRequest};
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};

use crate::base::fault::Fault;
use crate::base::gather::{Gather, Outlet};
use crate::dataplane::tls::Stream;
use crate::dataplane::upstream::draft::{Draft, Failure};

/// HTTP/2 towards endpoints: what one stream and one connection may have under way.
const H2_STREAM_WINDOW: u32 = 256 << 10;
const H2_CONNECTION_WINDOW: u32 = 2 << 20;

/// Silence on an HTTP/2 connection after which the endpoint is asked for a sign of life, and the wait for it.
const H2_PING_AFTER: Duration = Duration::from_secs(30);
const H2_PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Begins HTTP/2 on a connection and has it driven on this worker. The second half says how many streams the endpoint
/// allows at a time, as was seen last.
///
/// # Errors
/// [`Fault::ConnectionLost`] if the endpoint does not take the preface.
pub async fn open<B>(
    stream: Stream,
    header_bytes: usize,
) -> Result<(SendRequest<B>, Rc<Cell<usize>>), Fault>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (gather, outlet) = Gather::new(stream);
    let (sender, connection) = Builder::new(OnThisWorker {
        outlet: Rc::new(RefCell::new(Some(outlet))),
    })
    .timer(TokioTimer::new())
    .initial_stream_window_size(H2_STREAM_WINDOW)
    .initial_connection_window_size(H2_CONNECTION_WINDOW)
    .max_header_list_size(u32::try_from(header_bytes).unwrap_or(u32::MAX))
    .keep_alive_interval(H2_PING_AFTER)
    .keep_alive_timeout(H2_PING_TIMEOUT)
    .handshake(TokioIo::new(gather))
    .await
    .map_err(|error| {
        tracing::debug!(%error, "the HTTP/2 preface failed");
        Fault::ConnectionLost
    })?;
    let allowed = Rc::new(Cell::new(connection.current_max_send_streams()));
    tokio::task::spawn_local(drive(connection, Rc::clone(&allowed)));
    Ok((sender, allowed))
}

/// Sends a request and waits for the head of its answer. Dropping the future resets the stream.
///
/// `repeatable` says that the request will be wanted again, should no answer come.
///
/// # Errors
/// The fault, and whether the request may be sent elsewhere.
pub async fn exchange<B>(
    sender: &mut SendRequest<B>,
    draft: Draft<'_, B>,
    scheme: Scheme,
    repeatable: bool,
) -> Result<Response<Incoming>, Failure>
where
    B: Body<Data = Bytes> + Default + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Draft {
        parts,
        added,
        body,
        front,
    } = draft;
    if front.is_some() {
        // An attempt over HTTP/1.1 has begun the body, and hyper takes whole ones only.
        return Err(Failure {
            fault: Fault::ConnectionLost,
            unsent: false,
            is_alone: true,
        });
    }
    added.put_on(&mut parts.headers);
    let head = if repeatable {
        parts.clone()
    } else {
        let (empty, ()) = Request::new(()).into_parts();
        std::mem::replace(parts, empty)
    };
    let request = Request::from_parts(form(head, scheme), body.take().unwrap_or_default());
    let sent = sender.try_send_request(request).await;
    sent.map_err(|mut error| {
        let unsent = error.take_message().map(|request| {
            let (head, whole) = request.into_parts();
            *parts = restore(head);
            *body = Some(whole);
        });
        let fault = if unsent.is_some() {
            Fault::ConnectionLost
        } else if error.error().is_parse_too_large() {
            Fault::ResponseHeaderTooLarge
        } else if error.error().is_parse() {
            Fault::ResponseMalformed
        } else {
            Fault::ResponseMissing
        };
        tracing::debug!(error = %error.error(), fault = fault.token(), "an attempt failed");
        Failure {
            fault,
            unsent: unsent.is_some(),
            is_alone: !sender.is_closed(),
        }
    })
}

/// The request as HTTP/2 has it.
fn form(mut parts: Parts, scheme: Scheme) -> Parts {
    parts.version = Version::HTTP_2;
    parts.uri = absolute(&parts.uri, scheme, &parts.headers);
    parts.headers.remove(header::HOST);
    parts.headers.remove(header::EXPECT);
    parts.headers.remove(header::TRANSFER_ENCODING);
    parts
}

/// Undoes [`form`], for an attempt that may speak another protocol.
fn restore(mut parts: Parts) -> Parts {
    if let Some(host) = parts.uri.authority()
        && let Ok(host) = HeaderValue::from_str(host.as_str())
    {
        parts.headers.insert(header::HOST, host);
    }
    let target = parts.uri.path_and_query().cloned();
    parts.uri = Uri::from(target.unwrap_or_else(|| PathAndQuery::from_static("/")));
    parts.version = Version::HTTP_11;
    parts
}

/// `https://host/path`: HTTP/2 wants scheme and authority beside the path (RFC 9113 §8.3.1).
fn absolute(uri: &Uri, scheme: Scheme, fields: &HeaderMap) -> Uri {
    let mut parts = http::uri::Parts::default();
    parts.authority = fields
        .get(header::HOST)
        .and_then(|host| Authority::try_from(host.as_bytes()).ok());
    parts.scheme = parts.authority.as_ref().map(|_| scheme);
    parts.path_and_query = uri.path_and_query().cloned();
    Uri::from_parts(parts).unwrap_or_else(|_| uri.clone())
}

/// Runs an HTTP/2 connection to its end, and keeps watch of how many streams the endpoint allows.
async fn drive<B>(
    mut connection: Connection<TokioIo<Gather<Stream>>, B, OnThisWorker>,
    allowed: Rc<Cell<usize>>,
) where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let ended = poll_fn(|cx| {
        let ended = Pin::new(&mut connection).poll(cx);
        allowed.set(connection.current_max_send_streams());
        ended
    });
    if let Err(error) = ended.await {
        tracing::debug!(%error, "an upstream HTTP/2 connection ended");
    }
}

/// Runs hyper's tasks on the worker that asks. The first one drives the connection: it alone reads and writes, and
/// flushes the outlet after each look.
#[derive(Clone, Debug)]
struct OnThisWorker {
    outlet: Rc<RefCell<Option<Outlet<Stream>>>>,
}

impl<F: Future<Output: 'static> + 'static> Executor<F> for OnThisWorker {
    fn execute(&self, task: F) {
        let Some(outlet) = self.outlet.take() else {
            tokio::task::spawn_local(task);
            return;
        };
        tokio::task::spawn_local(async move {
            let mut task = pin!(task);
            poll_fn(|cx| {
                let polled = task.as_mut().poll(cx).map(drop);
                // A connection that broke says so to its task when it is read or written next.
                drop(outlet.poll_flush(cx));
                polled
            })
            .await;
        });
    }
}
