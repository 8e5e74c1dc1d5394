//! Upgrades: WebSocket and whatever else HTTP/1.1 clients upgrade to, and RFC 8441's extended CONNECT on HTTP/2
//! towards an HTTP/1.1 endpoint.
//!
//! An upgrade is a wish until the endpoint answers 101. Then the exchange goes on as a tunnel: bytes both ways
//! until both sides have closed, one side breaks, or nothing moves for the route's `stream` timeout.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use aws_lc_rs::{digest, rand};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use hyper::ext::Protocol as ConnectProtocol;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::base::clock;
use crate::base::deadline::Deadline;
use crate::base::drain::Phase;
use crate::base::fault::Fault;
use crate::dataplane::http::body::{Closing, ResponseBody};
use crate::dataplane::http::headers::Inbound;
use crate::dataplane::http::tunnels::Stay;
use crate::dataplane::http::{Downstream, Engine, Reply};
use crate::dataplane::snapshot::{Life, Route};
use crate::dataplane::upstream::client::Tunnel;
use crate::dataplane::upstream::head::AnswerHead;

/// Bytes that a tunnel holds in each direction.
const BUFFER: usize = 16 << 10;

/// What a WebSocket server mixes into the key (RFC 6455 §1.3).
const WEBSOCKET_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What the client wants to upgrade to.
#[derive(Debug)]
pub enum Wish {
    /// Nothing.
    None,
    /// An `Upgrade` field on HTTP/1.1.
    Http1 {
        /// Its value.
        protocol: HeaderValue,
    },
    /// Extended CONNECT for WebSocket on HTTP/2.
    Connect {
        /// The client's side of the tunnel.
        client: OnUpgrade,
        /// The key that we show the endpoint in the client's place.
        key: String,
    },
}

/// A tunnel that begins once the client has its answer.
#[derive(Debug)]
pub struct Switch {
    wish: Wish,
    agreed: HeaderValue,
    endpoint: Tunnel,
    pause: Duration,
    life: Arc<Life>,
}

/// A tunnel that waits for the client's connection.
#[derive(Debug)]
pub struct Pending {
    endpoint: Tunnel,
    deadline: Deadline,
    pause: Duration,
    stay: Stay,
    closing: Box<Closing>,
}

impl Wish {
    /// Reads the wish off a request, and leaves the request as HTTP/1.1 asks for it.
    ///
    /// # Errors
    /// [`Fault::UpgradeUnsupported`] for an extended CONNECT to anything but WebSocket.
    pub fn of(inbound: &mut Inbound) -> Result<Self, Fault> {
        let parts = &mut inbound.parts;
        if parts.version == Version::HTTP_11 {
            return Ok(match parts.headers.get(header::UPGRADE) {
                // A change to HTTP/2 in mid-connection is between a client and us, and we do not offer it.
                Some(protocol) if asks(&parts.headers) && !is_http2(protocol) => Self::Http1 {
                    protocol: protocol.clone(),
                },
                _ => Self::None,
            });
        }
        let Some(protocol) = parts.extensions.remove::<ConnectProtocol>() else {
            return Ok(Self::None);
        };
        let client = parts
            .extensions
            .remove::<OnUpgrade>()
            .ok_or(Fault::RequestMalformed)?;
        if !protocol.as_str().eq_ignore_ascii_case("websocket") {
            return Err(Fault::UpgradeUnsupported);
        }
        let mut key = [0; 16];
        rand::fill(&mut key).map_err(|_| Fault::Internal)?;
        parts.method = Method::GET;
        Ok(Self::Connect {
            client,
            key: BASE64_STANDARD.encode(key),
        })
    }

    /// Whether there is one.
    pub fn is_some(&self) -> bool {
        !matches!(self, Self::None)
    }

    /// Puts the wish on the request for the endpoint.
    pub fn ask(&self, fields: &mut HeaderMap) {
        let protocol = match self {
            Self::None => return,
            Self::Http1 { protocol } => protocol.clone(),
            Self::Connect { key, .. } => {
                if let Ok(key) = HeaderValue::from_str(key) {
                    fields.insert(header::SEC_WEBSOCKET_KEY, key);
                }
                HeaderValue::from_static("websocket")
            }
        };
        fields.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        fields.insert(header::UPGRADE, protocol);
    }

    /// Whether the endpoint switches to what was asked for.
    fn is_granted(&self, agreed: &HeaderValue, answer: &HeaderMap) -> bool {
        match self {
            Self::None => false,
            Self::Http1 { protocol } => protocol
                .as_bytes()
                .split(|&b| b == b',')
                .any(|offer| offer.trim_ascii().eq_ignore_ascii_case(agreed.as_bytes())),
            Self::Connect { key, .. } => {
                agreed.as_bytes().eq_ignore_ascii_case(b"websocket")
                    && answer
                        .get(header::SEC_WEBSOCKET_ACCEPT)
                        .is_some_and(|accept| accept.as_bytes() == accept_for(key).as_bytes())
            }
        }
    }
}

fn asks(fields: &HeaderMap) -> bool {
    fields.get_all(header::CONNECTION).iter().any(|value| {
        value
            .as_bytes()
            .split(|&b| b == b',')
            .any(|name| name.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
    })
}

fn is_http2(protocol: &HeaderValue) -> bool {
    let protocol = protocol.as_bytes();
    protocol.eq_ignore_ascii_case(b"h2c") || protocol.eq_ignore_ascii_case(b"h2")
}

fn accept_for(key: &str) -> String {
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key.as_bytes());
    hash.update(WEBSOCKET_GUID);
    BASE64_STANDARD.encode(hash.finish())
}

/// Holds the endpoint's answer against the wish, before the hop-by-hop fields are taken off it.
///
/// # Errors
/// [`Fault::ResponseMalformed`] for an upgrade that nobody asked for.
pub fn judge(
    wish: Wish,
    endpoint: Option<Tunnel>,
    route: &Route,
    head: &mut AnswerHead,
) -> Result<Option<Box<Switch>>, Fault> {
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        let fields = head.map();
        let agreed = fields
            .get(header::UPGRADE)
            .filter(|agreed| wish.is_granted(agreed, fields));
        let (Some(endpoint), Some(agreed)) = (endpoint, agreed) else {
            return Err(Fault::ResponseMalformed);
        };
        let (agreed, pause) = (agreed.clone(), route.stream_timeout);
        return Ok(Some(Box::new(Switch {
            wish,
            agreed,
            endpoint,
            pause,
            life: Arc::clone(&route.life),
        })));
    }
    // A success would tell an HTTP/2 client that its tunnel is open (RFC 8441 §5).
    let hollow = matches!(wish, Wish::Connect { .. }) && head.status.is_success();
    if head.status.is_informational() || hollow {
        return Err(Fault::ResponseMalformed);
    }
    Ok(None)
}

/// Answers the client and lets the tunnel begin behind the answer.
pub fn begin(
    engine: &Engine,
    downstream: &Rc<Downstream>,
    mut head: AnswerHead,
    switch: Switch,
    mut closing: Box<Closing>,
) -> Reply<ResponseBody> {
    closing.record.upgraded = true;
    closing.record.ended = None;
    let Switch {
        wish,
        agreed,
        endpoint,
        pause,
        life,
    } = switch;
    let deadline = engine.deadlines.at(Some(clock::now() + pause));
    let within = engine.snapshot().timeouts.drain_tunnels;
    let pending = Pending {
        endpoint,
        deadline,
        pause,
        stay: engine.tunnels.enter(life, &engine.deadlines, within),
        closing,
    };
    match wish {
        Wish::None => {}
        Wish::Http1 { .. } => {
            let fields = head.map();
            fields.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            fields.insert(header::UPGRADE, agreed);
            *downstream.tunnel.borrow_mut() = Some(Box::new(pending));
        }
        Wish::Connect { client, .. } => {
            head.status = StatusCode::OK;
            head.map().remove(header::SEC_WEBSOCKET_ACCEPT);
            tokio::task::spawn_local(async move {
                match client.await {
                    Ok(client) => pending.run(TokioIo::new(client), Bytes::new()).await,
                    Err(error) => tracing::debug!(%error, "a tunnel's client went away"),
                }
            });
        }
    }
    Reply {
        head,
        body: ResponseBody::detached(),
        is_malformed: false,
    }
}

impl Pending {
    /// Runs the tunnel to its end; `early` are bytes that the client sent behind its request.
    ///
    /// Dropping the future closes both sides.
    pub async fn run<C>(self, client: C, early: Bytes)
    where
        C: AsyncRead + AsyncWrite + Unpin,
    {
        let Self {
            endpoint,
            deadline,
            pause,
            stay,
            mut closing,
        } = self;
        let Tunnel {
            stream: endpoint,
            early: first,
            counted: _counted,
        } = endpoint;
        let traffic = Traffic::default();
        let (from_client, to_client) = tokio::io::split(client);
        let (from_endpoint, to_endpoint) = tokio::io::split(endpoint);
        let up = pump(from_client, to_endpoint, early, &traffic.up, &traffic.moved);
        let down = pump(
            from_endpoint,
            to_client,
            first,
            &traffic.down,
            &traffic.moved,
        );
        let mut both = std::pin::pin!(async { tokio::join!(up, down) });
        let fault = poll_fn(|cx| {
            if let Poll::Ready((up, down)) = both.as_mut().poll(cx) {
                return Poll::Ready(fault_of(&up, &down));
            }
            if closing.active.downstream().guest.poll_phase(cx) == Phase::Closing {
                return Poll::Ready(Some(Fault::Draining));
            }
            if stay.poll_over(cx).is_ready() {
                return Poll::Ready(Some(Fault::Draining));
            }
            if traffic.moved.replace(false) {
                deadline.set(Some(clock::now() + pause));
            }
            deadline.poll(cx).map(|()| Some(Fault::ResponseStalled))
        })
        .await;
        let record = &mut closing.record;
        record.fault = fault;
        record.bytes_received = traffic.up.get();
        record.bytes_sent = traffic.down.get();
    }
}

#[derive(Debug, Default)]
struct Traffic {
    up: Cell<u64>,
    down: Cell<u64>,
    moved: Cell<bool>,
}

/// How one direction of a tunnel ended.
enum End {
    /// The sender closed, and the receiver was told.
    Closed,
    /// Reading broke.
    Read(io::Error),
    /// Writing broke.
    Write(io::Error),
}

/// A tunnel that breaks is nobody's mistake most of the time: a browser tab that closes resets its connection.
fn fault_of(up: &End, down: &End) -> Option<Fault> {
    for end in [up, down] {
        if let End::Read(error) | End::Write(error) = end {
            tracing::debug!(%error, "a tunnel broke");
        }
    }
    match (up, down) {
        (End::Read(_), _) | (_, End::Write(_)) => Some(Fault::ClientGone),
        (_, End::Read(_)) | (End::Write(_), _) => Some(Fault::ResponseCut),
        (End::Closed, End::Closed) => None,
    }
}

/// Moves bytes one way until the source ends, then closes the other side's half.
async fn pump<R, W>(
    mut from: R,
    mut to: W,
    early: Bytes,
    count: &Cell<u64>,
    moved: &Cell<bool>,
) -> End
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    if let Err(error) = to.write_all(&early).await {
        return End::Write(error);
    }
    count.set(early.len() as u64);
    let mut buffer = bytes::BytesMut::with_capacity(BUFFER);
    loop {
        buffer.clear();
        match from.read_buf(&mut buffer).await {
            Ok(0) => break,
            Ok(read) => {
                moved.set(true);
                count.set(count.get() + read as u64);
            }
            Err(error) => {
                // The other side learns of it: nothing more will come.
                let _ = to.shutdown().await;
                return End::Read(error);
            }
        }
        if let Err(error) = write(&mut to, &buffer).await {
            return End::Write(error);
        }
        moved.set(true);
    }
    match to.shutdown().await {
        Ok(()) => End::Closed,
        Err(error) => End::Write(error),
    }
}

async fn write<W: AsyncWrite + Unpin>(to: &mut W, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_value_is_that_of_rfc_6455() {
        assert_eq!(
            accept_for("dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }
}
