//! Random choices that can be made again: a run that fails tells its seed, and `LOCKGATE_SEED` plays it once more.
//!
//! `LOCKGATE_RUNS=500` makes as many runs of each case, with one seed after the other.

use std::panic;
use std::sync::{Mutex, PoisonError};

use lockgate::cli;

use crate::harness::play;

/// SplitMix64: enough for mutations, and the same everywhere.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }

    pub fn one<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }

    pub fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap()
    }

    /// The bytes in pieces: whole, in a few, or byte by byte near the front.
    pub fn split(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let cuts = match self.below(8) {
            0..=3 => 0,
            4..=6 => 1 + self.below(4),
            _ => 40,
        };
        let mut cuts: Vec<_> = (0..cuts).map(|_| self.below(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        cuts.dedup();
        let pairs = cuts.windows(2);
        pairs.map(|pair| bytes[pair[0]..pair[1]].to_vec()).collect()
    }
}

/// What a run does at the moment.
static UNDER_WAY: Mutex<String> = Mutex::new(String::new());

/// Tells what is done next, for the case that it does not come to an end.
pub fn note(what: &str) {
    let mut note = UNDER_WAY.lock().unwrap();
    note.clear();
    note.push_str(what);
}

/// Makes so many runs, each with a seed of its own and its own time. A run that fails tells its seed.
pub fn runs(count: u64, run: fn(u64)) {
    let number = |name| cli::env(name).map(|text| text.parse::<u64>().expect("a number"));
    let first = number("LOCKGATE_SEED");
    let count = match first {
        Some(_) => number("LOCKGATE_RUNS").unwrap_or(1),
        None => number("LOCKGATE_RUNS").unwrap_or(count),
    };
    let first = first.unwrap_or_else(any);
    for seed in (0..count).map(|nth| first.wrapping_add(nth)) {
        if let Err(why) = panic::catch_unwind(|| play(move || run(seed))) {
            let text = why.downcast_ref::<String>().map(String::as_str);
            let text = text.or(why.downcast_ref::<&str>().copied());
            let note = UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner);
            panic!(
                "LOCKGATE_SEED={seed}: {}, in or behind {note}",
                text.unwrap_or_default()
            );
        }
    }
}

fn any() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}
