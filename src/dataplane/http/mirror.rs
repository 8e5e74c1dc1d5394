//! Copies of requests for another pool, of whose answers nobody hears.
//!
//! A copy is made of the request as the endpoint gets it, and sent by a task of its own: the original waits for none of it,
//! and nothing of it comes back. Of a body what flows to the original is kept as it passes, and the copy is sent once it is
//! whole. There is one attempt, no queue and no access record; what becomes of copies is counted with their pool. The tasks
//! are the worker's, and end with it: a drain does not wait for them.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::uri::Scheme;
use http::{HeaderMap, HeaderValue, Request, header};
use http_body::{Body, Frame, SizeHint};
use tokio::task::JoinSet;

use crate::base::clock;
use crate::base::deadline::Deadlines;
use crate::base::fault::Fault;
use crate::dataplane::http::body::RequestBody;
use crate::dataplane::http::forward::{Outbound, Passage};
use crate::dataplane::http::observe;
use crate::dataplane::upstream::client::{Connections, Wants};
use crate::dataplane::upstream::draft::{Added, Draft};
use crate::dataplane::upstream::mirror::{Ending, Mirror, Slot, X_LOCKGATE_MIRROR};

/// Bytes of a body that are kept for a copy; what is longer has none.
const BODY_LIMIT: usize = 64 << 10;

/// Pieces of a body below this are copied: one that is kept keeps the buffer that it lies in.
const PIECE_KEPT: usize = 16 << 10;

/// A copy, from its sending to the end of its answer; less where the route wants an answer sooner.
const COPY_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of an answer that are read, so that its connection serves again; behind them it is closed.
const ANSWER_LIMIT: u64 = 16 << 20;

/// The copies of one worker that have been sent.
#[derive(Debug, Default)]
pub struct Mirrors {
    tasks: RefCell<JoinSet<()>>,
}

/// A copy that waits for its body, or for nothing.
#[derive(Debug)]
struct Duplicate {
    parts: Parts,
    added: Added,
    client: IpAddr,
    wants: Wants,
    connections: Connections<RequestBody>,
    deadlines: Deadlines,
    /// How long it may take.
    timeout: Duration,
    slot: Slot,
}

/// Keeps what passes of a body, and sends the copy at its end. Dropped before that, there is no copy.
#[derive(Debug)]
pub struct Tap {
    kept: Kept,
    copy: Duplicate,
    mirrors: Rc<Mirrors>,
}

/// A whole body that was kept.
#[derive(Debug, Default)]
pub struct Kept {
    pieces: VecDeque<Bytes>,
    /// What was copied last.
    tail: BytesMut,
    bytes: usize,
    /// What stood behind the body; the codec has limits for it.
    trailers: Option<Box<HeaderMap>>,
}

/// Makes a copy of a request that is about to be sent.
pub fn copy(passage: Passage<'_>, mirror: &Mirror, outbound: &mut Outbound, client: IpAddr) {
    let Some(mut slot) = mirror.enter() else {
        return;
    };
    if let Some(body) = &outbound.body
        && body.size_hint().lower() > BODY_LIMIT as u64
    {
        slot.set(Ending::Body);
        return;
    }
    let engine = passage.engine;
    let copy = Duplicate {
        parts: parts_of(&outbound.parts),
        added: Added {
            lines: outbound.added.lines.clone(),
            request_id: outbound.added.request_id.clone(),
        },
        client,
        wants: Wants {
            // It is never sent twice.
            repeatable: false,
            fresh: false,
            upgrade: false,
            connections: None,
            idle_limit: passage.snapshot.limits.idle_connections,
            header_bytes: passage.snapshot.limits.response_header_bytes,
        },
        connections: engine.connections.clone(),
        deadlines: engine.deadlines.clone(),
        timeout: passage.route.retry.response_timeout.min(COPY_TIMEOUT),
        slot,
    };
    match &mut outbound.body {
        None => engine.mirrors.send(copy, None),
        Some(body) => body.tap(Box::new(Tap {
            kept: Kept::default(),
            copy,
            mirrors: Rc::clone(&engine.mirrors),
        })),
    }
}

/// The head of a copy: that of the original, and a mark.
fn parts_of(original: &Parts) -> Parts {
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = original.method.clone();
    parts.uri = original.uri.clone();
    parts.version = original.version;
    parts.headers = original.headers.clone();
    // Its body is all there.
    parts.headers.remove(header::EXPECT);
    let mark = HeaderValue::from_static("1");
    parts.headers.insert(X_LOCKGATE_MIRROR, mark);
    parts
}

impl Mirrors {
    fn send(&self, copy: Duplicate, body: Option<RequestBody>) {
        let mut tasks = self.tasks.borrow_mut();
        // Those that are over are forgotten; how many there are at a time is bounded by their slots.
        while tasks.try_join_next().is_some() {}
        tasks.spawn_local(copy.send(body));
    }
}

impl Duplicate {
    async fn send(mut self, body: Option<RequestBody>) {
        // Whatever ends it from here on.
        self.slot.set(Ending::Failed);
        let at = clock::now() + self.timeout;
        let deadlines = self.deadlines.clone();
        let ended = deadlines.within(at, self.exchange(body)).await;
        if let Some(Ok(())) = ended {
            self.slot.set(Ending::Sent);
        }
    }

    async fn exchange(&mut self, mut body: Option<RequestBody>) -> Result<(), Fault> {
        let pool = self.slot.pool();
        let (now, wall) = (clock::coarse(), clock::coarse_wall());
        let asker = pool.asker(&self.parts, self.client, now, wall);
        let (member, _in_flight) = pool.admit(&asker).ok_or(Fault::NoEndpoint)?;
        let endpoint = &member.endpoint;
        self.wants.connections = member.bounds.connections;
        let scheme = match endpoint.tls {
            Some(_) => Scheme::HTTPS,
            None => Scheme::HTTP,
        };
        let failed = |fault, reused| {
            observe::failure(pool, endpoint, fault, reused);
            fault
        };
        let lease = self.connections.lease(endpoint, pool, self.wants).await;
        let lease = lease.map_err(|fault| failed(fault, false))?;
        let reused = lease.reused;
        let draft = Draft {
            parts: &mut self.parts,
            added: &mut self.added,
            body: &mut body,
            front: &mut None,
        };
        let answered = lease.send(draft, scheme, |_| {}).await;
        let mut answered = answered.map_err(|failure| failed(failure.fault, reused))?;
        if answered.tunnel.is_some() {
            // Nobody has asked for another protocol.
            return Err(failed(Fault::ResponseMalformed, reused));
        }
        observe::answer(pool, endpoint, &answered.head);
        let mut bytes = 0;
        while bytes <= ANSWER_LIMIT {
            let frame = poll_fn(|cx| answered.body.poll_frame(cx)).await;
            match frame {
                Some(Ok(frame)) => bytes += frame.data_ref().map_or(0, Bytes::len) as u64,
                Some(Err(_)) => return Err(Fault::ResponseCut),
                None => break,
            }
        }
        Ok(())
    }
}

impl Tap {
    /// Keeps what has come; `false` once the body is too long, and there will be no copy.
    pub fn take(&mut self, frame: &Frame<Bytes>) -> bool {
        let is_kept = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(piece), _) => self.kept.take(piece),
            (None, trailers) => {
                self.kept.trailers = trailers.cloned().map(Box::new);
                true
            }
        };
        if !is_kept {
            self.copy.slot.set(Ending::Body);
        }
        is_kept
    }

    /// The body is whole.
    pub fn finish(self) {
        let Self {
            kept,
            copy,
            mirrors,
        } = self;
        mirrors.send(copy, Some(RequestBody::kept(kept)));
    }
}

impl Kept {
    fn take(&mut self, piece: &Bytes) -> bool {
        self.bytes += piece.len();
        if self.bytes > BODY_LIMIT {
            return false;
        }
        if piece.len() < PIECE_KEPT {
            self.tail.extend_from_slice(piece);
        } else {
            self.seal();
            self.pieces.push_back(piece.clone());
        }
        true
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push_back(self.tail.split().freeze());
        }
    }

    /// The next piece, and the trailers behind the last; `None` at the end.
    pub fn take_next(&mut self) -> Option<Frame<Bytes>> {
        self.seal();
        let Some(piece) = self.pieces.pop_front() else {
            return self.trailers.take().map(|it| Frame::trailers(*it));
        };
        self.bytes -= piece.len();
        Some(Frame::data(piece))
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0 && self.trailers.is_none()
    }

    /// How much is left. With trailers no length is told: a body of a length has nothing behind it.
    pub fn size_hint(&self) -> SizeHint {
        let bytes = self.bytes as u64;
        if self.trailers.is_none() {
            return SizeHint::with_exact(bytes);
        }
        let mut hint = SizeHint::new();
        hint.set_lower(bytes);
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_out_whole_and_in_order() {
        let mut kept = Kept::default();
        let large = Bytes::from(vec![b'x'; PIECE_KEPT]);
        for piece in [&b"small "[..], b"and ", &large, b"end"] {
            assert!(kept.take(&Bytes::copy_from_slice(piece)));
        }
        assert_eq!(kept.size_hint().exact(), Some(13 + PIECE_KEPT as u64));
        let mut all = Vec::new();
        let mut pieces = 0;
        while let Some(frame) = kept.take_next() {
            all.extend_from_slice(frame.data_ref().unwrap());
            pieces += 1;
        }
        assert_eq!(pieces, 3, "small pieces that follow each other are one");
        assert_eq!(all, [&b"small and "[..], &large, b"end"].concat());
        assert!(kept.is_empty());
    }

    #[test]
    fn a_body_beyond_the_limit_is_not_kept() {
        let mut kept = Kept::default();
        let piece = Bytes::from(vec![b'x'; BODY_LIMIT / 4]);
        assert!((0..4).all(|_| kept.take(&piece)));
        assert!(!kept.take(&Bytes::from_static(b"x")));
    }
}
