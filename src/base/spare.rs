//! Large read buffers that a thread uses again and again.
//!
//! An allocator hands out blocks in turn, so that each read of a long body would meet memory that the caches have
//! forgotten. Here the buffer that was given back last goes out first, once all that was read into it has been dropped.

use std::cell::RefCell;

use bytes::BytesMut;

/// Bytes of a buffer.
pub const SPARE_BYTES: usize = 64 << 10;

/// Buffers that a thread holds on to, at most.
pub const SPARE_LIMIT: usize = 8;

thread_local! {
    static SPARE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer with room for [`SPARE_BYTES`].
pub fn take() -> BytesMut {
    SPARE.with_borrow_mut(|spare| {
        let at = spare
            .iter_mut()
            .rposition(|buffer| buffer.try_reclaim(SPARE_BYTES));
        at.map_or_else(
            || BytesMut::with_capacity(SPARE_BYTES),
            |at| spare.swap_remove(at),
        )
    })
}

/// Takes a buffer of [`take`] back when what was read has been split off it. It may still be in use: it goes out again
/// only when it is not.
pub fn give(buffer: BytesMut) {
    SPARE.with_borrow_mut(|spare| {
        if spare.len() < SPARE_LIMIT {
            spare.push(buffer);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_goes_out_again_once_nobody_reads_it() {
        let read = |text: &[u8]| {
            let mut buffer = take();
            assert!(buffer.is_empty() && buffer.capacity() >= SPARE_BYTES);
            let place = buffer.as_ptr();
            buffer.extend_from_slice(text);
            let data = buffer.split().freeze();
            give(buffer);
            (place, data)
        };
        let (first, held) = read(b"one");
        let (second, other) = read(b"two");
        assert_ne!(first, second);
        assert_eq!(held, "one");
        drop(held);
        let (third, _) = read(b"three");
        assert_eq!(third, first);
        assert_eq!(other, "two");
    }

    #[test]
    fn no_more_than_a_few_are_kept() {
        let taken: Vec<_> = (0..2 * SPARE_LIMIT).map(|_| take()).collect();
        taken.into_iter().for_each(give);
        assert_eq!(SPARE.with_borrow(Vec::len), SPARE_LIMIT);
    }
}
