//! Reading from a client, without a buffer where nothing comes.

use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use super::super::{BODY_BYTES, READ_BYTES};

/// Reads what comes onto the stack first, and makes room for no more than that.
pub(super) fn poll_read_some<T: AsyncRead + Unpin>(
    io: &mut T,
    cx: &mut Context<'_>,
    buffer: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    let mut space = [MaybeUninit::uninit(); READ_BYTES];
    let mut space = ReadBuf::uninit(&mut space);
    ready!(Pin::new(io).poll_read(cx, &mut space))?;
    buffer.extend_from_slice(space.filled());
    Poll::Ready(Ok(space.filled().len()))
}

/// Reads a part of a body: more at a time as long as there is more. `bytes` says how much is tried next.
pub(super) fn poll_read_body<T: AsyncRead + Unpin>(
    io: &mut T,
    cx: &mut Context<'_>,
    buffer: &mut BytesMut,
    bytes: &mut usize,
) -> Poll<io::Result<usize>> {
    let room = *bytes;
    let read = if room <= READ_BYTES {
        poll_read_some(io, cx, buffer)
    } else {
        buffer.reserve(room);
        let mut space = (&mut *buffer).limit(room);
        let read = pin!(io.read_buf(&mut space)).poll(cx);
        if read.is_pending() && buffer.is_empty() {
            // A client that pauses costs no memory.
            *buffer = BytesMut::new();
        }
        read
    };
    let read = ready!(read)?;
    if read >= room {
        *bytes = BODY_BYTES.min(room * 4);
    } else if read < room / 4 {
        *bytes = READ_BYTES.max(room / 4);
    }
    Poll::Ready(Ok(read))
}
