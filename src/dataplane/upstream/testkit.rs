//! What tests of this room share: chance that a seed decides, and time that passes when nobody has anything to do.

use tokio::task::LocalSet;

/// Throws dice with so many sides, from 0 on (xorshift64).
pub(super) fn dice(seed: u64) -> impl FnMut(u64) -> u64 {
    // Never zero, which would stay so.
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |sides| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % sides
    }
}

/// Runs a case in virtual time, on one thread.
pub(super) fn play<F: Future>(case: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, case)
}
