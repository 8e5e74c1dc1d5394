//! Secrets of this process, on their way from a file, a snapshot or a process to the next: gone from memory once they are dropped,
//! and shown by nothing.
//!
//! `dataplane::upstream` and `dataplane::tls` make keys of them, `controlplane` reads and hands them on: all need the words, so
//! they are here.

use std::fmt;
use std::ops::Deref;

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// 32 bytes that nobody else knows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<[u8; 32]>);

impl Secret {
    /// A secret of these bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// One that `fill` makes, in its place from the beginning; `None` if it cannot.
    pub fn made(fill: impl FnOnce(&mut [u8; 32]) -> Option<()>) -> Option<Self> {
        let mut bytes = Zeroizing::new([0; 32]);
        fill(&mut bytes)?;
        Some(Self(bytes))
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl ZeroizeOnDrop for Secret {}

impl fmt::Debug for Secret {
    /// Shows nothing of it.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Secret")
    }
}

/// Bytes, such as those of a file, that may hold a secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    /// Room for so many bytes: what grows beyond it takes what is there along, and leaves nothing behind.
    pub fn with_capacity(capacity: usize) -> Self {
        Self(Zeroizing::new(Vec::with_capacity(capacity)))
    }

    /// Adds bytes at the end.
    pub fn extend(&mut self, bytes: &[u8]) {
        let wanted = self.0.len() + bytes.len();
        if wanted > self.0.capacity() {
            // A vector that grows by itself would leave what it held where it was.
            let mut larger = Self::with_capacity(wanted.max(self.0.capacity() * 2));
            larger.0.extend_from_slice(&self.0);
            *self = larger;
        }
        self.0.extend_from_slice(bytes);
    }

    /// Takes what is behind the first `count` bytes away from here.
    pub fn split_off(&mut self, count: usize) -> Self {
        let mut rest = Self::default();
        rest.extend(self.0.get(count..).unwrap_or_default());
        self.0.truncate(count);
        rest
    }
}

impl From<Vec<u8>> for SecretBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl Deref for SecretBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl ZeroizeOnDrop for SecretBytes {}

impl fmt::Debug for SecretBytes {
    /// Shows how many there are.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} bytes", self.0.len())
    }
}

/// A text that is a secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretText(String);

impl From<String> for SecretText {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl SecretText {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Drop for SecretText {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl ZeroizeOnDrop for SecretText {}

impl fmt::Debug for SecretText {
    /// Shows nothing of it.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("SecretText")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_shown_by_nothing() {
        let secret = Secret::made(|bytes| {
            bytes.fill(b's');
            Some(())
        });
        let shown = format!(
            "{secret:?} {:?} {:?}",
            SecretBytes::from(vec![b's'; 3]),
            SecretText::from("sss".to_owned()),
        );
        assert_eq!(shown, "Some(Secret) 3 bytes SecretText");
        assert_eq!(secret.unwrap().bytes(), &[b's'; 32]);
    }

    #[test]
    fn bytes_grow_and_are_split_as_those_of_a_vector() {
        let mut bytes = SecretBytes::with_capacity(2);
        for piece in [&b"one"[..], b"", b" and two"] {
            bytes.extend(piece);
        }
        assert_eq!(&*bytes, b"one and two");
        let rest = bytes.split_off(3);
        assert_eq!((&*bytes, &*rest), (&b"one"[..], &b" and two"[..]));
        assert!(bytes.split_off(9).is_empty());
    }

    #[test]
    fn what_is_dropped_is_wiped() {
        // The compiler says so; to look at memory that was freed takes unsafe code.
        fn is_wiped<T: ZeroizeOnDrop>() {}
        is_wiped::<Secret>();
        is_wiped::<SecretBytes>();
        is_wiped::<SecretText>();
        let mut text = SecretText::from("sss".to_owned());
        text.0.zeroize();
        assert_eq!(text.as_str(), "");
    }
}
