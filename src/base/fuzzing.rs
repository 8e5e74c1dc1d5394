//! What the checks of all rooms need for a fuzzer's bytes: choices made of them, and requests read by other code than ours.
//!
//! Compiled for tests and fuzzers alone: see `crate::fuzzing`.

#[path = "../../tests/it/hostile/oracle.rs"]
pub mod oracle;

/// Choices that bytes make: the same for the same bytes, and more alike the more alike those are.
#[derive(Debug)]
pub struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    /// The choices of these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next byte; zero when there is none.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    /// A number below `limit`, which is at most 256.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::from(self.byte()) % limit.max(1)
    }

    /// Yes or no.
    pub fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// One of these.
    pub fn one<'b, T>(&mut self, of: &'b [T]) -> &'b T {
        &of[self.below(of.len())]
    }

    /// The next bytes, up to one that is `end`, which is left out.
    pub fn until(&mut self, end: u8) -> &'a [u8] {
        let at = self.0.iter().position(|byte| *byte == end);
        let (text, rest) = self.0.split_at(at.unwrap_or(self.0.len()));
        self.0 = rest.get(1..).unwrap_or_default();
        text
    }

    /// Whether there is nothing left to choose by.
    pub fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// All that is left in pieces, cut where up to eight bytes at its front say.
    pub fn pieces(&mut self) -> (&'a [u8], Vec<&'a [u8]>) {
        let mut cuts: Vec<_> = (0..self.below(9))
            .map(|_| usize::from(self.byte()))
            .collect();
        let bytes = self.rest();
        cuts.retain(|cut| *cut < bytes.len());
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]);
        (bytes, pieces.collect())
    }
}
