//! One connection from its first byte to its close: who is it, TLS or not, which protocol.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::base::addr::ClientAddr;
use crate::base::clock;
use crate::base::deadline::TICK;
use crate::base::drain::{Guest, Phase};
use crate::base::fault::Fault;
use crate::dataplane::context::{Facts, Secure};
use crate::dataplane::http::{Downstream, Engine, serve};
use crate::dataplane::listener::accept::Census;
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

/// Serves a connection to its end.
pub async fn serve(
    engine: Rc<Engine>,
    census: Rc<Census>,
    plan: Arc<ListenerPlan>,
    stream: TcpStream,
    client: ClientAddr,
    guest: Guest,
) {
    let born = clock::now();
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "the client was gone before it was served");
        return;
    }
    match plan.tls.clone() {
        None => in_clear(engine, plan, stream, client, guest, born).await,
        Some(tls) => in_tls(engine, census, plan, &tls, stream, client, guest, born).await,
    }
}

async fn in_clear(
    engine: Rc<Engine>,
    plan: Arc<ListenerPlan>,
    stream: TcpStream,
    client: ClientAddr,
    guest: Guest,
    born: Instant,
) {
    let facts = Facts::new(client, None);
    let within = born + engine.snapshot().timeouts.first_byte;
    let sniffed = undrained(&guest, engine.deadlines.within(within, sniff(&stream))).await;
    // Nothing has begun on it that a drain would have to wait for.
    let Some(sniffed) = sniffed else {
        return;
    };
    let Some(protocol) = sniffed else {
        lost(&engine, &facts, Fault::FirstByteTimeout);
        return;
    };
    match protocol {
        Some(Alpn::H2) => {
            let downstream = Rc::new(Downstream::new(facts, plan, guest, born));
            serve::http2(engine, downstream, Stream::Tcp(Tcp(stream))).await;
        }
        Some(Alpn::Http1) => {
            let downstream = Rc::new(Downstream::new(facts, plan, guest, born));
            serve::http1(engine, downstream, Stream::Tcp(Tcp(stream))).await;
        }
        // It came and went without a word, as health checks of balancers do.
        None => {}
    }
}

/// Waits for `future` as long as no drain begins; `None` says that one did.
async fn undrained<F: Future>(guest: &Guest, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        match guest.poll_phase(cx) {
            Phase::Open => Poll::Pending,
            Phase::Draining | Phase::Closing => Poll::Ready(None),
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

#[expect(
    clippy::too_many_arguments,
    reason = "the connection as it was accepted, once"
)]
async fn in_tls(
    engine: Rc<Engine>,
    census: Rc<Census>,
    plan: Arc<ListenerPlan>,
    tls: &ServerPlan,
    stream: TcpStream,
    client: ClientAddr,
    guest: Guest,
    born: Instant,
) {
    let within = born + engine.snapshot().timeouts.handshake;
    let handshake = async {
        let limit = engine.snapshot().limits.handshakes;
        let _turn = census.handshakes(limit).acquire().await;
        tls::accept(tls, stream).await
    };
    let accepted = match engine.deadlines.within(within, handshake).await {
        Some(Ok(accepted)) => accepted,
        Some(Err(error)) => return refused(&engine, client, error).await,
        None => return lost(&engine, &Facts::new(client, None), Fault::HandshakeTimeout),
    };
    let (stream, session) = accepted;
    let protocol = session.protocol;
    let secure = Secure {
        version: session.version.as_str(),
        server_name: session.server_name,
        client_subject: session.client.map(|client| client.subject),
    };
    let facts = Facts::new(client, Some(secure));
    let born = clock::now();
    match protocol {
        Alpn::H2 => {
            let downstream = Rc::new(Downstream::new(facts, plan, guest, born));
            serve::http2(engine, downstream, stream).await;
        }
        Alpn::Http1 => {
            let downstream = Rc::new(Downstream::new(facts, plan, guest, born));
            serve::http1(engine, downstream, stream).await;
        }
    }
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
            let farewell = async {
                stream.write_all(PLAIN_ON_TLS).await?;
                stream.shutdown().await?;
                // Unread bytes would turn the close into a reset, which can overtake the answer.
                let mut rest = [0; 4096];
                while stream.read(&mut rest).await? > 0 {}
                Ok::<_, std::io::Error>(())
            };
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
