//! Session tickets: the keys that seal them, rotated and forgotten on time (RFC 5077, RFC 8446 §4.6.1).
//!
//! One [`TicketKeys`] per listener, shared by all workers and handed from plan to plan over a reload, so that
//! clients resume across it. A key seals for [`ROTATED`] and opens until [`KEPT`]; it leaves the process for the one that
//! replaces it, and for nobody else.
//!
//! Rotation happens when a ticket is sealed: no timer, and a listener without traffic keeps its last key.
//! What a ticket carries, the client's certificate included, is rustls' business.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::rand;
use rustls::server::ProducesTickets;

use crate::base::clock;
use crate::base::secret::Secret;
use crate::base::ticket::TicketSecret;

/// How long a key seals new tickets.
pub(super) const ROTATED: Duration = Duration::from_hours(6);

/// How long a key opens tickets, from when it was made.
pub(super) const KEPT: Duration = Duration::from_hours(24);

/// The keys of one listener's tickets, newest first.
pub(super) struct TicketKeys {
    keys: RwLock<VecDeque<TicketKey>>,
}

struct TicketKey {
    name: [u8; NAME_LEN],
    /// What `key` was made of: a key does not tell.
    secret: Secret,
    key: RandomizedNonceKey,
    made: Instant,
}

impl TicketKeys {
    /// No key yet: the first ticket makes one.
    pub(super) fn new() -> Self {
        Self {
            keys: RwLock::new(VecDeque::new()),
        }
    }

    /// Seals a ticket under the current key, a new one if it is time.
    ///
    /// `None` when the system gives no randomness: the client then gets no ticket.
    fn seal(&self, message: &[u8], now: Instant) -> Option<Vec<u8>> {
        if self
            .read()
            .front()
            .is_none_or(|key| key.age(now) >= ROTATED)
        {
            self.rotate(now)?;
        }
        self.read().front()?.seal(message)
    }

    /// Opens a ticket; `None` for a forged one, and for one whose key is gone.
    fn open(&self, ticket: &[u8], now: Instant) -> Option<Vec<u8>> {
        let (name, sealed) = ticket.split_first_chunk::<NAME_LEN>()?;
        self.read()
            .iter()
            .find(|key| key.name == *name && key.age(now) < KEPT)?
            .open(sealed)
    }

    /// The keys that still open tickets.
    pub(super) fn secrets(&self, now: Instant) -> Vec<TicketSecret> {
        let keys = self.read();
        let kept = keys.iter().filter(|key| key.age(now) < KEPT);
        kept.map(|key| TicketSecret {
            name: key.name,
            key: key.secret.clone(),
            age: key.age(now),
        })
        .collect()
    }

    /// Goes on with the keys of another process. Those that are here already, and those that have had their time, stay
    /// out.
    pub(super) fn adopt(&self, secrets: &[TicketSecret], now: Instant) {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        for secret in secrets.iter().filter(|secret| secret.age < KEPT) {
            let is_new = keys.iter().all(|key| key.name != secret.name);
            if let Some(key) = TicketKey::adopt(secret, now).filter(|_| is_new) {
                keys.push_back(key);
            }
        }
        let keys = keys.make_contiguous();
        keys.sort_by_key(|key| key.age(now));
    }

    fn rotate(&self, now: Instant) -> Option<()> {
        let next = TicketKey::new(now)?;
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        keys.retain(|key| key.age(now) < KEPT);
        // Another worker may have been faster.
        if keys.front().is_none_or(|key| key.age(now) >= ROTATED) {
            keys.push_front(next);
        }
        Some(())
    }

    fn read(&self) -> RwLockReadGuard<'_, VecDeque<TicketKey>> {
        // Nothing between two states of the list can panic, so a poisoned lock still holds a good one.
        self.keys.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for TicketKeys {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for TicketKeys {
    /// Shows no key.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("TicketKeys").finish_non_exhaustive()
    }
}

impl ProducesTickets for TicketKeys {
    fn enabled(&self) -> bool {
        true
    }

    /// What the last ticket of a key can count on.
    fn lifetime(&self) -> u32 {
        LIFETIME_SECONDS
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, clock::now())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.open(cipher, clock::now())
    }
}

impl TicketKey {
    fn new(made: Instant) -> Option<Self> {
        let secret = Secret::made(|bytes| rand::fill(bytes).ok())?;
        let mut name = [0; NAME_LEN];
        rand::fill(&mut name).ok()?;
        Self::of(name, secret, made)
    }

    /// A key of another process; `None` if it is older than this machine runs.
    fn adopt(secret: &TicketSecret, now: Instant) -> Option<Self> {
        Self::of(
            secret.name,
            secret.key.clone(),
            now.checked_sub(secret.age)?,
        )
    }

    fn of(name: [u8; NAME_LEN], secret: Secret, made: Instant) -> Option<Self> {
        // Random nonces are safe for 2^32 tickets under one key: 198 000 a second for six hours.
        let key = RandomizedNonceKey::new(&AES_256_GCM, secret.bytes()).ok()?;
        Some(Self {
            name,
            secret,
            key,
            made,
        })
    }

    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.made)
    }

    /// Name, nonce, sealed message with its tag; the name is authenticated too.
    fn seal(&self, message: &[u8]) -> Option<Vec<u8>> {
        let mut sealed = message.to_vec();
        let nonce = self
            .key
            .seal_in_place_append_tag(Aad::from(self.name), &mut sealed)
            .ok()?;
        Some([self.name.as_slice(), nonce.as_ref(), &sealed].concat())
    }

    fn open(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let mut message = sealed.to_vec();
        let length = self
            .key
            .open_in_place(Nonce::from(nonce), Aad::from(self.name), &mut message)
            .ok()?
            .len();
        message.truncate(length);
        Some(message)
    }
}

/// Enough that two keys of a listener never share a name.
const NAME_LEN: usize = 16;

/// [`KEPT`] less [`ROTATED`], in seconds.
const LIFETIME_SECONDS: u32 = 18 * 3600;

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    #[test]
    fn a_ticket_opens_for_its_whole_lifetime_and_not_for_ever() {
        let keys = TicketKeys::new();
        let start = clock::now();
        let first = keys.seal(b"first", start).unwrap();
        let last = keys.seal(b"last", start + ROTATED - HOUR / 60).unwrap();
        assert_eq!(first[..NAME_LEN], last[..NAME_LEN], "one key for six hours");

        let lifetime = Duration::from_secs(LIFETIME_SECONDS.into());
        assert_eq!(lifetime, KEPT - ROTATED);
        let end_of_last = start + ROTATED - HOUR / 60 + lifetime;
        assert_eq!(keys.open(&last, end_of_last).as_deref(), Some(&b"last"[..]));
        assert_eq!(keys.open(&last, start + KEPT), None);
    }

    #[test]
    fn keys_rotate_and_the_old_ones_are_forgotten() {
        let keys = TicketKeys::new();
        let start = clock::now();
        let mut names = Vec::new();
        for hour in 0..48 {
            let ticket = keys.seal(b"x", start + hour * HOUR).unwrap();
            names.push(ticket[..NAME_LEN].to_vec());
            assert!(keys.open(&ticket, start + hour * HOUR).is_some());
        }
        names.dedup();
        assert_eq!(names.len(), 8, "48 hours, a new key every six");
        assert_eq!(keys.read().len(), 4, "24 hours of keys are held");
    }

    #[test]
    fn tickets_open_and_keys_age_in_the_process_that_takes_over() {
        let (old, new) = (TicketKeys::new(), TicketKeys::new());
        let start = clock::now();
        let first = old.seal(b"first", start).unwrap();
        let second = old.seal(b"second", start + 7 * HOUR).unwrap();
        let now = start + 8 * HOUR;
        let secrets = old.secrets(now);
        let ages: Vec<_> = secrets.iter().map(|secret| secret.age).collect();
        assert_eq!(ages, [HOUR, 8 * HOUR], "newest first");
        new.adopt(&secrets, now);
        new.adopt(&secrets, now);
        assert_eq!(new.read().len(), 2, "a key is taken once");
        assert_eq!(new.open(&first, now).as_deref(), Some(&b"first"[..]));
        assert_eq!(new.open(&second, now).as_deref(), Some(&b"second"[..]));

        // It goes on sealing with the newest one until that is due.
        let third = new.seal(b"third", now + 4 * HOUR).unwrap();
        assert_eq!(third[..NAME_LEN], second[..NAME_LEN]);
        let fourth = new.seal(b"fourth", now + 5 * HOUR).unwrap();
        assert_ne!(fourth[..NAME_LEN], second[..NAME_LEN]);
        assert_eq!(new.open(&first, start + KEPT), None);
        assert_eq!(old.secrets(start + KEPT + 7 * HOUR), []);
    }

    #[test]
    fn a_forged_or_cut_ticket_does_not_open() {
        let keys = TicketKeys::new();
        let now = clock::now();
        let ticket = keys.seal(b"message", now).unwrap();
        for length in 0..ticket.len() {
            assert_eq!(keys.open(&ticket[..length], now), None, "{length}");
            let mut forged = ticket.clone();
            forged[length] ^= 1;
            assert_eq!(keys.open(&forged, now), None, "{length}");
        }
        assert_eq!(TicketKeys::new().open(&ticket, now), None);
        assert_eq!(keys.open(&ticket, now).as_deref(), Some(&b"message"[..]));
    }
}
