//! One connection from its first byte to its close: who is it, TLS or not, which protocol.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::base::addr::ClientAddr;
use crate::base::clients::Owned;
use crate::base::clock;
use crate::base::deadline::TICK;
use crate::base::drain::{Guest, Phase};
use crate::base::fault::Fault;
use crate::dataplane::context::{Facts, Secure};
use crate::dataplane::http::{Downstream, Engine, serve};
use crate::dataplane::listener::accept::{self, Census, Present};
use crate::dataplane::snapshot::ListenerPlan;
use crate::dataplane::tls::{self, AcceptError, Alpn, ServerPlan, Stream, Tcp};

/// What an HTTP/2 client begins with (RFC 9113 §3.4); its first line tells it from every HTTP/1 request.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";

/// The answer to plain HTTP on a TLS port: whoever typed the URL reads what is wrong with it.
const PLAIN_ON_TLS: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\n\
content-length: 43\r\nconnection: close\r\n\r\nThis port speaks TLS: use https:// instead\n";

/// How long a client is listened to that was told to use https.
const FAREWELL: Duration = Duration::from_secs(1);

/// A connection as it was accepted.
pub(super) struct Arrival {
    pub(super) engine: Rc<Engine>,
    pub(super) census: Rc<Census>,
    pub(super) plan: Arc<ListenerPlan>,
    pub(super) stream: TcpStream,
    pub(super) client: ClientAddr,
    /// The count of its client's connections, where they are limited.
    pub(super) owned: Option<Owned>,
    pub(super) guest: Guest,
}

/// What a connection has come to, to be run to its end.
type Rest = Pin<Box<dyn Future<Output = ()>>>;

/// Serves a connection to its end, and counts it until then.
///
/// Its beginning and what it comes to are boxed apart: a task is as large as the largest thing that it ever waits
/// for, and most of a connection's life is waiting for the next request.
pub(super) fn serve(mut arrival: Arrival, present: Present) -> impl Future<Output = ()> {
    let owned = arrival.owned.take();
    let beginning = Box::pin(begin(arrival));
    async move {
        if let Some(rest) = beginning.await {
            rest.await;
        }
        drop((owned, present));
    }
}

/// Finds out who is there; `None` if the connection has come to nothing.
async fn begin(arrival: Arrival) -> Option<Rest> {
    let born = clock::now();
    if let Err(error) = arrival.stream.set_nodelay(true) {
        tracing::debug!(%error, "the client was gone before it was served");
        return None;
    }
    match arrival.plan.tls.clone() {
        None => in_clear(arrival, born).await,
        Some(tls) => in_tls(arrival, &tls, born).await,
    }
}

async fn in_clear(arrival: Arrival, born: Instant) -> Option<Rest> {
    let facts = Facts::new(arrival.client, None);
    let sniffed = {
        let Arrival { engine, stream, .. } = &arrival;
        let within = born + engine.snapshot().timeouts.first_byte;
        let sniffed = engine.deadlines.within(within, sniff(stream));
        undrained(engine, &arrival.guest, sniffed).await
    };
    // Nothing came on it while a drain waited.
    let Some(protocol) = sniffed? else {
        lost(&arrival.engine, &facts, Fault::FirstByteTimeout);
        return None;
    };
    // Without a protocol it came and went without a word, as health checks of balancers do.
    let protocol = protocol?;
    let downstream = Downstream::new(facts, arrival.plan, arrival.guest, born);
    let stream = Stream::Tcp(Tcp(arrival.stream));
    Some(speak(protocol, arrival.engine, downstream, stream))
}

/// The rest of a connection that speaks `protocol`.
fn speak(protocol: Alpn, engine: Rc<Engine>, downstream: Downstream, stream: Stream) -> Rest {
    let downstream = Rc::new(downstream);
    match protocol {
        Alpn::H2 => Box::pin(serve::http2(engine, downstream, stream)),
        Alpn::Http1 => Box::pin(serve::http1(engine, downstream, stream)),
    }
}

/// Waits for `future`; once a drain has begun no longer than its grace, since a request may be on its way. `None` says
/// that the time was up.
async fn undrained<F: Future>(engine: &Engine, guest: &Guest, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut grace = None;
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        match guest.poll_phase(cx) {
            Phase::Open => Poll::Pending,
            Phase::Draining => {
                let end = || engine.deadlines.at(Some(clock::now() + guest.grace()));
                grace.get_or_insert_with(end).poll(cx).map(|()| None)
            }
            Phase::Closing => Poll::Ready(None),
        }
    })
    .await
}

/// Which protocol a client in clear speaks, by its first bytes, which stay in the socket; `None` when it leaves.
async fn sniff(stream: &TcpStream) -> Option<Alpn> {
    let mut first = [0; PREFACE.len()];
    loop {
        let seen = stream.peek(&mut first).await.ok()?;
        let (seen, _) = first.split_at_checked(seen)?;
        if seen.is_empty() {
            return None;
        }
        if seen == PREFACE {
            return Some(Alpn::H2);
        }
        if !PREFACE.starts_with(seen) {
            return Some(Alpn::Http1);
        }
        // A socket with one byte in it is readable: there is no event to wait for.
        tokio::time::sleep(TICK).await;
    }
}

async fn in_tls(arrival: Arrival, tls: &ServerPlan, born: Instant) -> Option<Rest> {
    let Arrival {
        engine,
        census,
        plan,
        stream,
        client,
        guest,
        owned: _,
    } = arrival;
    let snapshot = engine.snapshot();
    let within = born + snapshot.timeouts.handshake;
    if let Some(rate) = snapshot.limits.client.handshakes
        && !snapshot.trusts(client.ip())
        && let Err(refused) = snapshot
            .clients
            .handshake(client.ip(), rate, clock::nanos(born))
    {
        accept::tell(client.ip(), refused);
        return None;
    }
    drop(snapshot);
    let handshake = async {
        let limit = engine.snapshot().limits.handshakes;
        let _turn = census.handshakes(limit).acquire().await;
        tls::accept(tls, stream).await
    };
    let (stream, session) = match engine.deadlines.within(within, handshake).await {
        Some(Ok(accepted)) => accepted,
        Some(Err(error)) => {
            refused(&engine, client, error).await;
            return None;
        }
        None => {
            lost(&engine, &Facts::new(client, None), Fault::HandshakeTimeout);
            return None;
        }
    };
    let secure = Secure {
        version: session.version.as_str(),
        server_name: session.server_name,
        client_subject: session.client.map(|client| client.subject),
    };
    let facts = Facts::new(client, Some(secure));
    let downstream = Downstream::new(facts, plan, guest, clock::now());
    Some(speak(session.protocol, engine, downstream, stream))
}

/// A handshake that came to nothing.
async fn refused(engine: &Engine, client: ClientAddr, error: AcceptError) {
    let facts = Facts::new(client, None);
    match error {
        AcceptError::ClientGone => {}
        AcceptError::Failed(reason) => {
            tracing::debug!(client = %client.ip(), %reason, "a TLS handshake failed");
            lost(engine, &facts, Fault::HandshakeFailed);
        }
        AcceptError::PlainHttp(mut stream) => {
            let mut record = engine.record(&facts);
            record.fault = Some(Fault::PlainOnTls);
            record.status = Some(Fault::PlainOnTls.code());
            // Boxed, since few connections have this ahead of them and all would have the room for it.
            let farewell = Box::pin(async {
                stream.write_all(PLAIN_ON_TLS).await?;
                stream.shutdown().await?;
                // Unread bytes would turn the close into a reset, which can overtake the answer.
                let mut rest = [0; 4096];
                while stream.read(&mut rest).await? > 0 {}
                Ok::<_, std::io::Error>(())
            });
            // The client may take the answer or leave; either way the connection ends here.
            drop(tokio::time::timeout(FAREWELL, farewell).await);
        }
    }
}

/// Writes the record of a connection that never became an exchange.
fn lost(engine: &Engine, facts: &Facts, fault: Fault) {
    let mut record = engine.record(facts);
    record.fault = Some(fault);
}
