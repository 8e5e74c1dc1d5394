//! HTTP/2 towards endpoints (RFC 9113): a request in its form, on a connection that hyper drives.

use bytes::Bytes;
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Request, Response, Uri, Version, header};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;

use crate::base::fault::Fault;
use crate::dataplane::upstream::http1::{Draft, Failure};

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
    let Draft { parts, body, .. } = draft;
    let head = if repeatable {
        parts.clone()
    } else {
        let (empty, ()) = Request::new(()).into_parts();
        std::mem::replace(parts, empty)
    };
    let request = Request::from_parts(form(head, scheme), body.take().unwrap_or_default());
    sender.try_send_request(request).await.map_err(|mut error| {
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
