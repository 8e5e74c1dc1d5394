//! Bodies on their way: counted, under a deadline, and settling the exchange's accounts when they end.
//!
//! Nothing is buffered: a frame is polled from one side only when the other side asks for it.

use std::cell::Cell;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;

use crate::base::clients::{self, Clients, Excess, Owned, Refused};
use crate::base::clock;
use crate::base::deadline::{Deadline, Deadlines};
use crate::base::fault::Fault;
use crate::dataplane::http::expect::Gate;
use crate::dataplane::http::mirror::{Kept, Tap};
use crate::dataplane::http::{Active, Flow, http1, replay, trailers};
use crate::dataplane::snapshot::{Counted, Route, Snapshot};
use crate::dataplane::upstream::answer::AnswerBody;
use crate::dataplane::upstream::endpoint::InFlight;
use crate::telemetry::access_log::Record;

/// A body slower than this after [`SLOW_START`] is taken for an attack.
const RATE_FLOOR: u64 = 1024;

/// How long a body may be slower than [`RATE_FLOOR`].
const SLOW_START: Duration = Duration::from_secs(10);

/// Why a body ended early.
#[derive(Clone, Copy, Debug)]
pub struct BodyError(pub Fault);

impl fmt::Display for BodyError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.0.token())
    }
}

impl Error for BodyError {}

/// Where a request's body comes from.
#[derive(Debug, Default)]
pub enum RequestSource {
    /// There is none.
    #[default]
    Empty,
    /// An HTTP/1 connection.
    Http1(http1::Body),
    /// A stream of an HTTP/2 connection.
    Http2(Incoming),
    /// What is kept of a body of ours, and the rest of it.
    Replayed(replay::Reader),
    /// What was kept of another one. Boxed, since it is large, and hardly any body is one.
    Kept(Box<Kept>),
}

impl From<Option<http1::Body>> for RequestSource {
    fn from(body: Option<http1::Body>) -> Self {
        body.map_or(Self::Empty, Self::Http1)
    }
}

impl From<Incoming> for RequestSource {
    /// An empty one is told apart, so that nobody waits for it.
    fn from(body: Incoming) -> Self {
        if http_body::Body::is_end_stream(&body) {
            Self::Empty
        } else {
            Self::Http2(body)
        }
    }
}

impl http_body::Body for RequestSource {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Http1(body) => cleaned(Pin::new(body).poll_frame(cx)),
            Self::Http2(body) => cleaned(Pin::new(body).poll_frame(cx)).map_err(|error| {
                tracing::debug!(%error, "a request body broke off");
                BodyError(Fault::ClientGone)
            }),
            Self::Replayed(reader) => Pin::new(reader).poll_frame(cx),
            Self::Kept(kept) => Poll::Ready(kept.take_next().map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
            Self::Replayed(reader) => reader.is_end_stream(),
            Self::Kept(kept) => kept.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
            Self::Replayed(reader) => reader.size_hint(),
            Self::Kept(kept) => kept.size_hint(),
        }
    }
}

/// A frame without what may not stand behind a body.
fn cleaned<E>(
    mut frame: Poll<Option<Result<Frame<Bytes>, E>>>,
) -> Poll<Option<Result<Frame<Bytes>, E>>> {
    if let Poll::Ready(Some(Ok(frame))) = &mut frame
        && let Some(fields) = frame.trailers_mut()
    {
        trailers::clean(fields);
    }
    frame
}

/// What the exchange wants to know of the request's body while a connection sends it.
#[derive(Debug)]
pub struct Intake {
    /// Bytes so far.
    pub bytes: Cell<u64>,
    /// When the last of them were given on, up to a tick early.
    pub moved: Cell<Option<Instant>>,
    /// Why it ended early.
    pub fault: Cell<Option<Fault>>,
}

/// The request's body.
#[derive(Debug, Default)]
pub struct RequestBody {
    source: RequestSource,
    /// Absent for a body that nobody waits for, an empty one or one that was kept, and for one that is measured where it is
    /// kept.
    meter: Option<Box<Meter>>,
}

#[derive(Debug)]
struct Meter {
    intake: Rc<Intake>,
    gate: Option<Gate>,
    deadline: Deadline,
    pause: Duration,
    began: Option<Instant>,
    waiting: bool,
    /// Keeps what passes, for a copy.
    tap: Option<Box<Tap>>,
}

impl RequestBody {
    /// A body that was kept.
    pub fn kept(kept: Kept) -> Self {
        Self {
            source: RequestSource::Kept(Box::new(kept)),
            meter: None,
        }
    }

    /// Has what passes kept for a copy.
    pub fn tap(&mut self, tap: Box<Tap>) {
        if let Some(meter) = &mut self.meter {
            meter.tap = Some(tap);
        }
    }

    /// A streamed body that may pause for at most `pause`; a gate holds it back until the endpoint wants it.
    pub fn metered(
        source: RequestSource,
        gate: Option<Gate>,
        deadlines: &Deadlines,
        pause: Duration,
    ) -> (Self, Rc<Intake>) {
        let intake = Rc::new(Intake {
            bytes: Cell::new(0),
            moved: Cell::new(None),
            fault: Cell::new(None),
        });
        let meter = Meter {
            intake: Rc::clone(&intake),
            gate,
            deadline: deadlines.at(None),
            pause,
            began: None,
            waiting: false,
            tap: None,
        };
        (
            Self {
                source,
                meter: Some(Box::new(meter)),
            },
            intake,
        )
    }

    /// A body that is kept, for one attempt.
    pub fn replayed(reader: replay::Reader) -> Self {
        Self {
            source: RequestSource::Replayed(reader),
            meter: None,
        }
    }
}

impl Meter {
    /// Called when there is nothing to send: whether the client takes too long.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<Fault> {
        if !self.waiting {
            self.waiting = true;
            let now = clock::now();
            let began = *self.began.get_or_insert(now);
            // By now so many bytes should be here; the rest buys time at the floor's rate.
            let credit = Duration::from_secs(self.intake.bytes.get() / RATE_FLOOR);
            let slowest = began + SLOW_START + credit;
            self.deadline
                .set(Some((now + self.pause).min(slowest.max(now))));
        }
        self.deadline.poll(cx).map(|()| Fault::BodyTimeout)
    }

    /// Shows the tap what has come from the source.
    #[cold]
    fn note(&mut self, frame: &Option<Result<Frame<Bytes>, BodyError>>, source: &RequestSource) {
        let Some(mut tap) = self.tap.take() else {
            return;
        };
        let is_kept = match frame {
            Some(Ok(frame)) => tap.take(frame),
            Some(Err(_)) => false,
            None => true,
        };
        let is_over = frame.is_none() || http_body::Body::is_end_stream(source);
        if is_kept && is_over {
            tap.finish();
        } else if is_kept {
            self.tap = Some(tap);
        }
    }

    fn fail(&self, fault: Fault) -> BodyError {
        let fault = self.intake.fault.get().unwrap_or(fault);
        self.intake.fault.set(Some(fault));
        BodyError(fault)
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let Some(meter) = &mut this.meter else {
            return Pin::new(&mut this.source).poll_frame(cx);
        };
        if let Some(gate) = &mut meter.gate {
            ready!(Pin::new(gate).poll(cx));
            meter.gate = None;
        }
        let frame = match Pin::new(&mut this.source).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                let fault = ready!(meter.poll_late(cx));
                return Poll::Ready(Some(Err(meter.fail(fault))));
            }
        };
        meter.waiting = false;
        if meter.tap.is_some() {
            meter.note(&frame, &this.source);
        }
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, Buf::remaining) as u64;
                meter.intake.bytes.set(meter.intake.bytes.get() + bytes);
                meter.intake.moved.set(Some(clock::coarse()));
                Some(Ok(frame))
            }
            Some(Err(BodyError(fault))) => Some(Err(meter.fail(fault))),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        http_body::Body::is_end_stream(&self.source)
    }

    fn size_hint(&self) -> SizeHint {
        http_body::Body::size_hint(&self.source)
    }
}

/// The answer's body. The exchange is over when it is dropped: whole, broken off or never asked for.
#[derive(Debug)]
pub struct ResponseBody {
    source: AnswerBody<RequestBody>,
    closing: Option<Box<Closing>>,
    /// What it broke off by, until the codec is told.
    broken: Option<Fault>,
}

/// What ends with an exchange, in the order of its fields.
#[derive(Debug)]
pub struct Closing {
    /// The accounts.
    pub record: Record,
    /// What the request's body came to.
    pub intake: Option<Rc<Intake>>,
    /// The endpoint's count.
    pub in_flight: Option<InFlight>,
    /// The counts of exchanges in progress, of all and of the route, where they are limited.
    in_all: Option<Counted>,
    at_route: Option<Counted>,
    /// The count of the client's exchanges in progress, where they are limited.
    of_client: Option<Owned>,
    /// Seconds until a client that was refused may come again; 0 if it was not.
    pub wait: u32,
    /// The downstream connection's count.
    pub active: Active,
    /// The deadline for what the endpoint does next.
    pub deadline: Option<Deadline>,
    /// How long the answer may pause.
    pub pause: Duration,
    /// Whether the deadline runs.
    pub waiting: bool,
}

impl ResponseBody {
    /// A body that closes the exchange when it ends.
    pub fn new(source: AnswerBody<RequestBody>, closing: Box<Closing>) -> Self {
        Self {
            source,
            closing: Some(closing),
            broken: None,
        }
    }

    /// A body without an exchange: the answer before a tunnel, whose record goes with the tunnel.
    pub fn detached() -> Self {
        Self {
            source: AnswerBody::empty(),
            closing: None,
            broken: None,
        }
    }

    /// Holds the end of an answer against its endpoint, unless it was the request that broke off.
    #[cold]
    fn blame(&self) {
        let Some(closing) = &self.closing else {
            return;
        };
        let broken = closing
            .intake
            .as_ref()
            .and_then(|intake| intake.fault.get());
        if let (Some(in_flight), None) = (&closing.in_flight, broken) {
            in_flight.endpoint().note_cut();
        }
    }

    fn fail(&mut self, fault: Fault) -> BodyError {
        if let Some(closing) = &mut self.closing {
            let fault = closing
                .intake
                .as_ref()
                .and_then(|intake| intake.fault.get())
                .unwrap_or(fault);
            closing.record.fault.get_or_insert(fault);
        }
        BodyError(fault)
    }
}

impl Closing {
    /// Counts the exchange where there is a limit to how many are in progress.
    ///
    /// # Errors
    /// [`Fault::ConcurrencyLimit`] when it is one too many.
    #[inline]
    pub fn count(&mut self, snapshot: &Snapshot, route: &Route) -> Result<(), Fault> {
        if let Some(most) = snapshot.limits.concurrent_requests {
            let counted = snapshot.running.enter(most);
            self.in_all = Some(counted.ok_or(Fault::ConcurrencyLimit)?);
        }
        if let Some(most) = route.concurrent_requests {
            let counted = route.life.running.enter(most);
            self.at_route = Some(counted.ok_or(Fault::ConcurrencyLimit)?);
        }
        Ok(())
    }

    /// Counts the request and the exchange of its client where there is a limit to them.
    ///
    /// # Errors
    /// [`Fault::RateLimited`] and [`Fault::ClientLimit`] when it is one too many.
    #[inline]
    pub fn count_client(&mut self, snapshot: &Snapshot) -> Result<(), Fault> {
        match snapshot.limits.client {
            clients::Limits {
                requests: None,
                exchanges: None,
                ..
            } => Ok(()),
            clients::Limits {
                requests,
                exchanges,
                ..
            } => self.enter_client(&snapshot.clients, requests, exchanges),
        }
    }

    fn enter_client(
        &mut self,
        clients: &Arc<Clients>,
        requests: Option<clients::Rate>,
        exchanges: Option<NonZeroU32>,
    ) -> Result<(), Fault> {
        let (client, now) = (self.record.client, clock::nanos(self.record.started));
        match clients.begin(client, requests, exchanges, now) {
            Ok(owned) => {
                self.of_client = owned;
                Ok(())
            }
            Err(refused) => Err(self.refuse(refused)),
        }
    }

    #[cold]
    fn refuse(&mut self, refused: Refused) -> Fault {
        let Refused {
            excess,
            wait,
            untold,
        } = refused;
        if let Some(refusals) = untold {
            let client = self.record.client;
            let limit = excess.key();
            tracing::warn!(%client, limit, refusals, "a limit of `limits.client` refuses requests, the last of this client");
        }
        self.wait = u32::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u32::MAX);
        match excess {
            Excess::Requests => Fault::RateLimited,
            Excess::Connections | Excess::Handshakes | Excess::Exchanges => Fault::ClientLimit,
        }
    }

    /// The accounts of an exchange that has just begun.
    pub fn new(record: Record, active: Active) -> Self {
        Self {
            record,
            intake: None,
            in_flight: None,
            in_all: None,
            at_route: None,
            of_client: None,
            wait: 0,
            active,
            deadline: None,
            pause: Duration::MAX,
            waiting: false,
        }
    }

    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = &self.deadline else {
            return Poll::Pending;
        };
        if !self.waiting {
            self.waiting = true;
            // It was not all there with its head: how long it takes is seen at its end.
            self.record.ended = None;
            deadline.set(clock::coarse().checked_add(self.pause));
        }
        deadline.poll(cx)
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        let record = &mut self.record;
        // A tunnel has counted for itself.
        if let Some(intake) = self.intake.as_ref().filter(|_| !record.upgraded) {
            record.bytes_received = intake.bytes.get();
        }
        if record.status.is_none() && record.fault.is_none() {
            // Dropped before there was an answer: cut off by us, or else left by the client.
            record.fault = self.active.verdict();
        }
        if let (_, Some(Fault::ClientGone)) = self.record.ending() {
            self.active.abandon();
        }
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Some(fault) = this.broken.take() {
            return Poll::Ready(Some(Err(this.fail(fault))));
        }
        if let Some(closing) = &this.closing {
            this.source.read_modestly(closing.active.is_crowded());
        }
        let frame = match cleaned(this.source.poll_frame(cx)) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                match &mut this.closing {
                    Some(closing) => {
                        closing.active.note(Flow::Dry);
                        ready!(closing.poll_late(cx));
                    }
                    None => return Poll::Pending,
                }
                this.blame();
                return Poll::Ready(Some(Err(this.fail(Fault::ResponseStalled))));
            }
        };
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                if let Some(closing) = &mut this.closing {
                    closing.waiting = false;
                    closing.active.note(Flow::Handed);
                    let bytes = frame.data_ref().map_or(0, Buf::remaining) as u64;
                    closing.record.bytes_sent += bytes;
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                tracing::debug!(%error, "an answer broke off");
                this.blame();
                // The codec drops what it has not sent when a body fails: it sends while the body is waited for.
                this.broken = Some(Fault::ResponseCut);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.source.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.source.size_hint()
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        let Some(closing) = &mut self.closing else {
            return;
        };
        // What still streams was not wanted to its end: the client is gone, or was cut off.
        if self.source.is_flowing() {
            let fault = closing.active.verdict().unwrap_or(Fault::ClientGone);
            closing.record.fault.get_or_insert(fault);
            closing.record.ended = None;
        }
    }
}
