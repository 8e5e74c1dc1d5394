//! A flood of frames that carry nothing, noticed while a client's bytes are read: an HTTP/2 client has reasons to send
//! PING, SETTINGS, PRIORITY, WINDOW_UPDATE, RST_STREAM and empty DATA, and each of them is answered or minded for little
//! work of its own. What has no limit in RFC 9113 (§10.5) has one here.
//!
//! [`Tally`] decides and is pure: a client has an allowance, which every such frame takes from, and which time and the
//! bytes that we had to send give back: whoever takes a large answer has many windows to open. [`Calm`] is the transport
//! that shows it both directions. What breaks a rule is not looked at here: it is for the codec.
//! Small frames of data, which cost the codec as much as large ones, are joined on the way.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::base::clock;

/// Frames that carry nothing which a client may send at once.
pub const CALM_BURST: u32 = 10_000;

/// What it gets back of that in a second.
pub const CALM_RATE: u32 = 200;

/// Bytes sent to it that give back one: of small messages, each of which has its stream's and its connection's window
/// opened anew, two are less than what one has.
pub const CALM_BYTES: u64 = 16;

/// What the answers to PING and to SETTINGS are long: they give back nothing.
const PONG_BYTES: u64 = 17;
const ACK_BYTES: u64 = 9;

/// Frames of data shorter than this are made one where they follow each other: the codec ends a connection on which some two
/// thousand of them wait for their takers, and an honest client may send its upload byte by byte.
const SMALL_BYTES: u32 = 256;

/// The largest frame, since we ask for no larger ones (RFC 9113 §4.2).
const FRAME_BYTES: u32 = 16 << 10;

/// What a client begins with (RFC 9113 §3.4).
const PREFACE_BYTES: u32 = 24;

/// What each frame begins with (RFC 9113 §4.1).
const HEAD_BYTES: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const ENHANCE_YOUR_CALM: u32 = 11;

/// END_STREAM of DATA, ACK of PING and SETTINGS.
const FLAG: u8 = 1;

/// What one client may still send.
#[derive(Debug)]
pub struct Tally {
    left: u32,
    /// When time has given back last; absent until it is asked for.
    since: Option<Instant>,
    /// Bytes sent that have not given back yet, and those of answers that will not.
    sent: u64,
    answers: u64,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            left: CALM_BURST,
            since: None,
            sent: 0,
            answers: 0,
        }
    }
}

impl Tally {
    /// Notes what a frame begins with; `false` says that the client sends too many of its kind.
    #[inline]
    pub fn note(
        &mut self,
        kind: u8,
        flags: u8,
        length: u32,
        now: impl FnOnce() -> Instant,
    ) -> bool {
        match kind {
            HEADERS => return true,
            DATA if length > 0 || flags & FLAG != 0 => return true,
            PING if flags & FLAG == 0 => self.answers += PONG_BYTES,
            SETTINGS if flags & FLAG == 0 => self.answers += ACK_BYTES,
            _ => {}
        }
        if self.left == 0 {
            self.refill(now());
        }
        let is_calm = self.left > 0;
        self.left = self.left.saturating_sub(1);
        is_calm
    }

    /// Notes bytes that the client was sent.
    #[inline]
    pub fn sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }

    #[cold]
    fn refill(&mut self, now: Instant) {
        let earned = self.sent.saturating_sub(self.answers) / CALM_BYTES;
        self.sent = 0;
        self.answers = 0;
        let rested = match self.since.replace(now) {
            Some(since) => now.saturating_duration_since(since),
            // The first time is what the burst was for.
            None => Duration::ZERO,
        };
        let rested = rested.as_millis() * u128::from(CALM_RATE) / 1000;
        let back = u128::from(earned) + rested;
        self.left = u32::try_from(back).unwrap_or(CALM_BURST).min(CALM_BURST);
    }
}

/// The transport of an HTTP/2 client.
#[derive(Debug)]
pub struct Calm<T> {
    io: T,
    tally: Tally,
    at: At,
    verdict: Rc<Cell<bool>>,
}

/// Where in the client's frames the next byte stands.
#[derive(Debug)]
enum At {
    /// So many bytes are passed over.
    Pass(u32),
    /// Within the nine bytes that a frame begins with.
    Head { bytes: [u8; HEAD_BYTES], have: u8 },
}

impl At {
    const HEAD: Self = Self::Head {
        bytes: [0; HEAD_BYTES],
        have: 0,
    };
}

impl<T> Calm<T> {
    /// The transport alone.
    pub fn into_io(self) -> T {
        self.io
    }

    /// The transport, and where it is told that the client floods us.
    pub fn new(io: T) -> (Self, Rc<Cell<bool>>) {
        let verdict = Rc::<Cell<bool>>::default();
        let calm = Self {
            io,
            tally: Tally::default(),
            at: At::Pass(PREFACE_BYTES),
            verdict: Rc::clone(&verdict),
        };
        (calm, verdict)
    }

    /// Looks at what has come, and joins small frames of data in it; how many bytes that leaves, or `None` for a flood.
    fn look(&mut self, bytes: &mut [u8]) -> Option<usize> {
        let (mut read, mut kept) = (0, 0);
        // Where a frame of data begins that the next one may be joined to.
        let mut last: Option<usize> = None;
        while read < bytes.len() {
            match &mut self.at {
                At::Pass(left) => {
                    let here = (*left as usize).min(bytes.len() - read);
                    bytes.copy_within(read..read + here, kept);
                    read += here;
                    kept += here;
                    *left -= u32::try_from(here).unwrap_or(*left);
                    if *left == 0 {
                        self.at = At::HEAD;
                    }
                }
                At::Head { have: 0, .. } if bytes.len() - read >= HEAD_BYTES => {
                    let head = *bytes.get(read..)?.first_chunk::<HEAD_BYTES>()?;
                    let length = self.begin(head)?;
                    let is_whole = bytes.len() - read - HEAD_BYTES >= length as usize;
                    let is_small = matches!(head, [_, _, _, DATA, 0, ..])
                        && (1..SMALL_BYTES).contains(&length);
                    let joined = last.filter(|_| is_small && is_whole);
                    if let Some(first) =
                        joined.and_then(|at| bytes.get_mut(at..)?.first_chunk_mut())
                        && join(first, head, length)
                    {
                        let end = read + HEAD_BYTES + length as usize;
                        bytes.copy_within(read + HEAD_BYTES..end, kept);
                        kept += length as usize;
                        read = end;
                        self.at = At::HEAD;
                        continue;
                    }
                    last = (is_small && is_whole).then_some(kept);
                    bytes.copy_within(read..read + HEAD_BYTES, kept);
                    read += HEAD_BYTES;
                    kept += HEAD_BYTES;
                }
                At::Head { bytes: head, have } => {
                    let (have_now, place) = (*have, head.get_mut(usize::from(*have))?);
                    let byte = *bytes.get(read)?;
                    *place = byte;
                    *have = have_now + 1;
                    *bytes.get_mut(kept)? = byte;
                    read += 1;
                    kept += 1;
                    if usize::from(*have) == HEAD_BYTES {
                        let whole = *head;
                        self.begin(whole)?;
                    }
                }
            }
        }
        Some(kept)
    }

    /// Notes a frame; its length, or `None` if it is one too many.
    fn begin(&mut self, [a, b, c, kind, flags, ..]: [u8; HEAD_BYTES]) -> Option<u32> {
        let length = u32::from_be_bytes([0, a, b, c]);
        self.at = match length {
            0 => At::HEAD,
            length => At::Pass(length),
        };
        let is_calm = self.tally.note(kind, flags, length, clock::coarse);
        is_calm.then_some(length)
    }
}

/// Makes a frame of data longer by another one, if both are of one stream and there is room.
fn join(first: &mut [u8; HEAD_BYTES], next: [u8; HEAD_BYTES], length: u32) -> bool {
    let [a, b, c, _, _, stream @ ..] = first;
    let [_, _, _, _, _, of_next @ ..] = next;
    let both = u32::from_be_bytes([0, *a, *b, *c]) + length;
    if *stream != of_next || both > FRAME_BYTES {
        return false;
    }
    [_, *a, *b, *c] = both.to_be_bytes();
    true
}

/// The last word to a client that floods us (RFC 9113 §6.8): of its streams, all may have been looked at.
pub fn farewell() -> [u8; 17] {
    let [a, b, c, d] = (u32::MAX >> 1).to_be_bytes();
    let [e, f, g, h] = ENHANCE_YOUR_CALM.to_be_bytes();
    [0, 0, 8, 7, 0, 0, 0, 0, 0, a, b, c, d, e, f, g, h]
}

fn flood() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a flood of frames")
}

impl<T: AsyncRead + Unpin> AsyncRead for Calm<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.verdict.get() {
            return Poll::Ready(Err(flood()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        let come = buf.filled_mut().get_mut(before..).unwrap_or_default();
        if let Some(left) = this.look(come) {
            buf.set_filled(before + left);
            return Poll::Ready(Ok(()));
        }
        // Nobody needs what came with it.
        buf.set_filled(before);
        this.verdict.set(true);
        Poll::Ready(Err(flood()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Calm<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let sent = ready!(Pin::new(&mut this.io).poll_write(cx, buf))?;
        this.tally.sent(sent);
        Poll::Ready(Ok(sent))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let sent = ready!(Pin::new(&mut this.io).poll_write_vectored(cx, bufs))?;
        this.tally.sent(sent);
        Poll::Ready(Ok(sent))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW_UPDATE: u8 = 8;

    fn notes(tally: &mut Tally, now: Instant, kind: u8, length: u32) -> u32 {
        let mut noted = 0;
        while noted < 100_000 && tally.note(kind, 0, length, || now) {
            noted += 1;
        }
        noted
    }

    #[test]
    fn what_carries_nothing_has_a_burst_and_a_pace() {
        for (kind, length) in [
            (PING, 8),
            (SETTINGS, 6),
            (2, 5),
            (3, 4),
            (WINDOW_UPDATE, 4),
            (DATA, 0),
            (0xbe, 0),
        ] {
            let (mut tally, now) = (Tally::default(), clock::now());
            assert_eq!(notes(&mut tally, now, kind, length), CALM_BURST, "{kind}");
            let later = now + Duration::from_secs(2);
            assert_eq!(
                notes(&mut tally, later, kind, length),
                2 * CALM_RATE,
                "{kind}"
            );
            let long = later + Duration::from_secs(3600);
            assert_eq!(notes(&mut tally, long, kind, length), CALM_BURST, "{kind}");
        }
    }

    #[test]
    fn requests_and_what_has_a_body_take_nothing() {
        let (mut tally, now) = (Tally::default(), clock::now());
        for (kind, flags, length) in [(HEADERS, 0, 0), (DATA, 0, 1), (DATA, FLAG, 0)] {
            assert!((0..100_000).all(|_| tally.note(kind, flags, length, || now)));
        }
    }

    #[test]
    fn whoever_takes_much_may_open_many_windows() {
        // Messages of fifty bytes, two windows each.
        let (mut tally, now) = (Tally::default(), clock::now());
        for _ in 0..1_000_000 {
            tally.sent(59);
            assert!(tally.note(WINDOW_UPDATE, 0, 4, || now));
            assert!(tally.note(WINDOW_UPDATE, 0, 4, || now));
        }
        // An answer to a ping earns none.
        let (mut tally, mut pings) = (Tally::default(), 0);
        while tally.note(PING, 0, 8, || now) {
            tally.sent(17);
            pings += 1;
        }
        assert_eq!(pings, CALM_BURST);
    }

    #[test]
    fn frames_are_found_however_they_come() {
        let frame = |kind: u8, flags: u8, payload: &[u8]| {
            let length = u8::try_from(payload.len()).unwrap();
            [&[0, 0, length, kind, flags, 0, 0, 0, 1], payload].concat()
        };
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let some = [
            frame(HEADERS, 4, &[0x82; 20]),
            // What a frame carries is not taken for another one.
            frame(DATA, 0, &frame(PING, 0, &[0; 8])),
            frame(PING, 0, &[0; 8]),
            frame(WINDOW_UPDATE, 0, &[0; 4]),
        ];
        let bytes = [&preface[..], &some.concat().repeat(5)].concat();
        let read = |calm: &mut Calm<()>, size: usize| {
            let mut left = Vec::new();
            for piece in bytes.chunks(size) {
                let mut piece = piece.to_vec();
                let kept = calm.look(&mut piece)?;
                left.extend_from_slice(&piece[..kept]);
            }
            Some(left)
        };
        for size in [1, 2, 7, 9, 10, 64, 1000] {
            let (mut calm, _) = Calm::new(());
            assert_eq!(
                read(&mut calm, size),
                Some(bytes.clone()),
                "pieces of {size}"
            );
            assert_eq!(calm.tally.left, CALM_BURST - 10, "pieces of {size}");
            let (mut calm, _) = Calm::new(());
            calm.tally.left = 9;
            assert_eq!(read(&mut calm, size), None, "pieces of {size}");
        }
    }

    #[test]
    fn small_frames_of_data_become_one() {
        let data = |stream: u8, flags: u8, payload: &[u8]| {
            let length = u8::try_from(payload.len()).unwrap();
            [&[0, 0, length, DATA, flags, 0, 0, 0, stream], payload].concat()
        };
        let ping = [0, 0, 0, PING, 1, 0, 0, 0, 0];
        let look = |frames: &[Vec<u8>]| {
            let (mut calm, _) = Calm::new(());
            calm.at = At::HEAD;
            let mut bytes = frames.concat();
            let kept = calm.look(&mut bytes).unwrap();
            bytes.truncate(kept);
            bytes
        };
        let (a, b, c) = (data(1, 0, b"a"), data(1, 0, b"b"), data(1, 0, b"c"));
        let end = data(1, FLAG, b"d");
        let all = [a.clone(), b, c.clone(), end.clone()];
        assert_eq!(look(&all), [data(1, 0, b"abc"), end].concat());
        // Not those of another stream, nor over another frame, nor one that is not all there.
        let other = data(3, 0, b"b");
        for apart in [
            [a.clone(), other, c.clone()],
            [a.clone(), ping.to_vec(), c.clone()],
            [a.clone(), data(1, 8, &[0]), c.clone()],
            [a.clone(), data(1, 0, b""), c],
            [a, data(1, 0, &[1; 250])[..200].to_vec(), Vec::new()],
        ] {
            assert_eq!(look(&apart), apart.concat());
        }
        // Nor more than a frame may have.
        let many = vec![data(1, 0, &[7; 200]); 100];
        let joined = look(&many);
        assert_eq!(joined.len(), 20_000 + 2 * HEAD_BYTES);
        assert_eq!(joined[..3], [0, 63, 72]);
    }
}
