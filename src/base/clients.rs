//! What each client has and does, by its address, so that one of them cannot take what is there for all.
//!
//! One table for all workers: the accept loops enter connections, handshakes and exchanges are counted where they begin.
//! No lock and no allocation: a client has a slot of three words, found by a hash that others cannot foresee, among the
//! few of its set. The table does not grow. A client that does nothing and owes nothing loses its slot to the next one and
//! loses nothing by that; of those that owe, the one that owes the least. Who has something open keeps its slot, and where
//! all of a set have, a newcomer is let in uncounted: the table never refuses whom it does not know. It knows clients by 23 bits
//! of their hash, so that of a million one is taken for another of its set.
//!
//! Rates are kept by the generic cell rate algorithm: a client's word says when it would be out of debt.

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use foldhash::quality::RandomState;

/// Clients that are told apart at a time.
pub const CLIENTS_LIMIT: usize = 1 << 16;

/// Slots that one client may be in.
const WAYS: usize = 8;

/// Refusals are told this often at most, each kind.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// How often a slot is looked for that others take at the same moment.
const TRIES: usize = 4;

/// What is counted of a client, in one word: its tag, connections and exchanges.
const CONNECTION: u64 = 1;
const EXCHANGE: u64 = 1 << 20;
const TAG_SHIFT: u32 = 40;
const COUNT_MASK: u64 = EXCHANGE - 1;

/// What a client has too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excess {
    /// Open connections.
    Connections,
    /// TLS handshakes of late.
    Handshakes,
    /// Requests of late.
    Requests,
    /// Exchanges in progress.
    Exchanges,
}

impl Excess {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 4] = [
        Self::Connections,
        Self::Handshakes,
        Self::Requests,
        Self::Exchanges,
    ];

    /// The key of the limit.
    pub fn key(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Handshakes => "handshakes",
            Self::Requests => "requests",
            Self::Exchanges => "concurrent_requests",
        }
    }
}

/// So much in a time, and so much at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Nanoseconds that one takes to be paid off.
    interval: u64,
    /// Nanoseconds of debt that there may be.
    burst: u64,
}

impl Rate {
    /// `count` in the time of `per`, `burst` at once.
    pub fn new(count: NonZeroU32, per: Duration, burst: NonZeroU32) -> Self {
        let interval = (per / count.get()).as_nanos().max(1) as u64;
        Self {
            interval,
            burst: interval.saturating_mul(u64::from(burst.get())),
        }
    }
}

/// Limits of each client; what is absent is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Open connections.
    pub connections: Option<NonZeroU32>,
    /// TLS handshakes.
    pub handshakes: Option<Rate>,
    /// Requests.
    pub requests: Option<Rate>,
    /// Exchanges in progress.
    pub exchanges: Option<NonZeroU32>,
}

/// One too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Of what.
    pub excess: Excess,
    /// When to come again, if that is known.
    pub wait: Duration,
    /// It is time to tell: of so many refusals of this kind, this one included.
    pub untold: Option<u64>,
}

/// The table. It lives from version to version, and its memory is taken when the first client is counted.
#[derive(Debug, Default)]
pub struct Clients {
    seed: RandomState,
    slots: OnceLock<Box<[Slot]>>,
    refused: [Refusals; 4],
}

/// Every word is a matter of its own, so that no order between them is needed: all are relaxed.
#[derive(Debug, Default)]
struct Slot {
    /// Tag, exchanges and connections; 0 if it is nobody's.
    counts: AtomicU64,
    /// When the client's requests are paid off, in nanoseconds.
    requests: AtomicU64,
    /// The same of its handshakes.
    handshakes: AtomicU64,
}

#[derive(Debug, Default)]
struct Refusals {
    all: AtomicU64,
    untold: AtomicU64,
    /// From when on they are told again, in nanoseconds.
    quiet_until: AtomicU64,
}

/// Something that a client has; it has it until this is dropped.
#[derive(Debug)]
pub struct Owned {
    clients: Arc<Clients>,
    slot: usize,
    unit: u64,
}

impl Drop for Owned {
    fn drop(&mut self) {
        // The slot is still the client's: it has something.
        if let Some(slot) = self.clients.slots().get(self.slot) {
            slot.counts.fetch_sub(self.unit, Ordering::Relaxed);
        }
    }
}

impl Clients {
    /// Counts one more connection of `client`; `None` where there is no room to count it.
    ///
    /// # Errors
    /// When it has as many as it may have.
    pub fn connect(
        self: &Arc<Self>,
        client: IpAddr,
        most: NonZeroU32,
        now: u64,
    ) -> Result<Option<Owned>, Refused> {
        let (tag, set) = self.place(client);
        let Some(at) = take(self.slots(), tag, set, now) else {
            return Ok(None);
        };
        self.own(tag, set, at, CONNECTION, most, now)
            .ok_or_else(|| self.refuse(Excess::Connections, 1, now))
    }

    /// Counts a request of `client`, and the exchange that it begins, as far as they are limited; `None` where the latter is not,
    /// or cannot be counted.
    ///
    /// # Errors
    /// When the request is one too many by the rate, or the client has as many exchanges as it may have.
    pub fn begin(
        self: &Arc<Self>,
        client: IpAddr,
        requests: Option<Rate>,
        exchanges: Option<NonZeroU32>,
        now: u64,
    ) -> Result<Option<Owned>, Refused> {
        let (tag, set) = self.place(client);
        let slots = self.slots();
        let Some(at) = take(slots, tag, set, now) else {
            return Ok(None);
        };
        if let (Some(rate), Some(slot)) = (requests, slots.get(at)) {
            spend(&slot.requests, rate, now)
                .map_err(|wait| self.refuse(Excess::Requests, wait, now))?;
        }
        let Some(most) = exchanges else {
            return Ok(None);
        };
        self.own(tag, set, at, EXCHANGE, most, now)
            .ok_or_else(|| self.refuse(Excess::Exchanges, 1, now))
    }

    /// Counts a handshake of `client`.
    ///
    /// # Errors
    /// When it is one too many by the rate.
    pub fn handshake(&self, client: IpAddr, rate: Rate, now: u64) -> Result<(), Refused> {
        let (tag, set) = self.place(client);
        let slots = self.slots();
        let Some(slot) = take(slots, tag, set, now).and_then(|at| slots.get(at)) else {
            return Ok(());
        };
        spend(&slot.handshakes, rate, now)
            .map_err(|wait| self.refuse(Excess::Handshakes, wait, now))
    }

    /// How many were refused of a kind.
    pub fn refused(&self, excess: Excess) -> u64 {
        self.refusals(excess).all.load(Ordering::Relaxed)
    }

    /// `None` if it is one too many; `Some(None)` if it cannot be counted.
    fn own(
        self: &Arc<Self>,
        tag: u64,
        set: usize,
        mut at: usize,
        unit: u64,
        most: NonZeroU32,
        now: u64,
    ) -> Option<Option<Owned>> {
        let slots = self.slots();
        // Whoever is between finding a slot and entering it may lose it.
        for _ in 0..TRIES {
            let counts = &slots.get(at)?.counts;
            let mut before = counts.load(Ordering::Relaxed);
            while before >> TAG_SHIFT == tag {
                if (before / unit) & COUNT_MASK >= u64::from(most.get()) {
                    return None;
                }
                match counts.compare_exchange_weak(
                    before,
                    before + unit,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                ) {
                    Ok(_) => {
                        return Some(Some(Owned {
                            clients: Arc::clone(self),
                            slot: at,
                            unit,
                        }));
                    }
                    Err(now) => before = now,
                }
            }
            at = match take(slots, tag, set, now) {
                Some(at) => at,
                None => break,
            };
        }
        Some(None)
    }

    fn slots(&self) -> &[Slot] {
        self.slots.get_or_init(|| {
            std::iter::repeat_with(Slot::default)
                .take(CLIENTS_LIMIT)
                .collect()
        })
    }

    /// The tag of a client, and where its set begins.
    fn place(&self, client: IpAddr) -> (u64, usize) {
        let hash = self.seed.hash_one(network(client));
        let sets = CLIENTS_LIMIT / WAYS;
        // The tag is of other bits than the set, and never 0.
        (hash >> TAG_SHIFT | 1, hash as usize % sets * WAYS)
    }

    fn refusals(&self, excess: Excess) -> &Refusals {
        let [connections, handshakes, requests, exchanges] = &self.refused;
        match excess {
            Excess::Connections => connections,
            Excess::Handshakes => handshakes,
            Excess::Requests => requests,
            Excess::Exchanges => exchanges,
        }
    }

    #[cold]
    fn refuse(&self, excess: Excess, wait: u64, now: u64) -> Refused {
        let refusals = self.refusals(excess);
        refusals.all.fetch_add(1, Ordering::Relaxed);
        let untold = refusals.untold.fetch_add(1, Ordering::Relaxed) + 1;
        let quiet_until = refusals.quiet_until.load(Ordering::Relaxed);
        let next = now.saturating_add(TELL_EVERY.as_nanos() as u64);
        // Of two that come at once one tells.
        let tells = now >= quiet_until
            && refusals
                .quiet_until
                .compare_exchange(quiet_until, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if tells {
            refusals.untold.fetch_sub(untold, Ordering::Relaxed);
        }
        Refused {
            excess,
            wait: Duration::from_nanos(wait),
            untold: tells.then_some(untold),
        }
    }
}

/// The slot of a client in its set: its own, or one that it takes over; `None` if all are in use.
fn take(slots: &[Slot], tag: u64, set: usize, now: u64) -> Option<usize> {
    let ways = slots.get(set..set + WAYS)?;
    let is_own = |slot: &Slot| slot.counts.load(Ordering::Relaxed) >> TAG_SHIFT == tag;
    if let Some(way) = ways.iter().position(is_own) {
        return Some(set + way);
    }
    take_over(ways, tag, now).map(|way| set + way)
}

/// Takes over the slot of whoever has nothing, and owes the least.
#[cold]
fn take_over(ways: &[Slot], tag: u64, now: u64) -> Option<usize> {
    for _ in 0..TRIES {
        let free = ways.iter().enumerate().filter_map(|(way, slot)| {
            let counts = slot.counts.load(Ordering::Relaxed);
            let requests = slot.requests.load(Ordering::Relaxed);
            let debt = requests.max(slot.handshakes.load(Ordering::Relaxed));
            let has_nothing = counts & ((1 << TAG_SHIFT) - 1) == 0;
            has_nothing.then_some((debt.saturating_sub(now), way, slot, counts))
        });
        let (_, way, slot, counts) = free.min_by_key(|(debt, way, ..)| (*debt, *way))?;
        let mine = tag << TAG_SHIFT;
        let taken =
            slot.counts
                .compare_exchange(counts, mine, Ordering::Relaxed, Ordering::Relaxed);
        if taken.is_ok() {
            // Whoever was here and spends at this moment leaves the newcomer a request less.
            slot.requests.store(0, Ordering::Relaxed);
            slot.handshakes.store(0, Ordering::Relaxed);
            return Some(way);
        }
    }
    None
}

/// Spends one, or says how long it takes until there is one to spend.
fn spend(debt: &AtomicU64, rate: Rate, now: u64) -> Result<(), u64> {
    let next = |paid_off: u64| {
        let after = paid_off.max(now).saturating_add(rate.interval);
        (after - now <= rate.burst).then_some(after)
    };
    let spent = debt.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    spent.map(|_| ()).map_err(|paid_off| {
        let after = paid_off.saturating_add(rate.interval);
        after.saturating_sub(now).saturating_sub(rate.burst)
    })
}

/// What is one client: an address, or a network of the size that one customer gets (RFC 6177).
fn network(client: IpAddr) -> u128 {
    match client.to_canonical() {
        // Its low half is not nought, as that of a network is.
        IpAddr::V4(client) => client.to_ipv6_mapped().to_bits(),
        IpAddr::V6(client) => client.to_bits() >> 64 << 64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn count(number: u32) -> NonZeroU32 {
        NonZeroU32::new(number).unwrap()
    }

    fn rate(number: u32, per: u64, burst: u32) -> Rate {
        Rate::new(count(number), Duration::from_secs(per), count(burst))
    }

    fn request(
        clients: &Arc<Clients>,
        client: IpAddr,
        rate: Rate,
        now: u64,
    ) -> Result<(), Refused> {
        clients.begin(client, Some(rate), None, now).map(|_| ())
    }

    #[test]
    fn a_rate_lets_a_burst_through_and_then_its_pace() {
        let clients = Arc::<Clients>::default();
        let (client, rate) = (ip("192.0.2.1"), rate(10, 1, 20));
        let spent = |now| {
            (0..100)
                .take_while(|_| request(&clients, client, rate, now).is_ok())
                .count()
        };
        assert_eq!(spent(5 * SECOND), 20);
        assert_eq!(spent(5 * SECOND + SECOND / 20), 0);
        assert_eq!(spent(6 * SECOND), 10);
        assert_eq!(spent(60 * SECOND), 20, "what is saved up has a limit");
        let refused = request(&clients, client, rate, 60 * SECOND).unwrap_err();
        assert_eq!(refused.wait, Duration::from_millis(100));
        assert!(request(&clients, ip("192.0.2.2"), rate, 60 * SECOND).is_ok());
        assert!(clients.handshake(client, rate, 60 * SECOND).is_ok());
    }

    #[test]
    fn what_a_client_has_is_counted_until_it_is_dropped() {
        let clients = Arc::<Clients>::default();
        let (one, other) = (ip("192.0.2.1"), ip("192.0.2.2"));
        let first = clients.connect(one, count(2), 0).unwrap();
        let second = clients.connect(one, count(2), 0).unwrap();
        assert!(first.is_some() && second.is_some());
        assert!(clients.connect(one, count(2), 0).is_err());
        assert!(clients.connect(other, count(2), 0).is_ok());
        // Exchanges are counted apart.
        let exchange = clients.begin(one, None, Some(count(1)), 0).unwrap();
        assert!(clients.begin(one, None, Some(count(1)), 0).is_err());
        drop(first);
        assert!(clients.connect(one, count(2), 0).is_ok());
        drop(exchange);
        assert!(clients.begin(one, None, Some(count(1)), 0).is_ok());
        assert_eq!(clients.refused(Excess::Connections), 1);
        assert_eq!(clients.refused(Excess::Exchanges), 1);
    }

    #[test]
    fn a_network_of_ipv6_is_one_client() {
        let check = |a: &str, b: &str, same| {
            assert_eq!(network(ip(a)) == network(ip(b)), same, "{a} {b}");
        };
        check("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", true);
        check("2001:db8:1:2::1", "2001:db8:1:3::1", false);
        check("192.0.2.1", "192.0.2.2", false);
        check("::ffff:192.0.2.1", "192.0.2.1", true);
        check("::192.0.2.1", "192.0.2.1", false);
    }

    #[test]
    fn the_table_is_full_and_nobody_is_refused_for_it() {
        let clients = Arc::<Clients>::default();
        let address = |n: u32| IpAddr::from(n.to_be_bytes());
        let most = count(1);
        let all: Vec<_> = (0..2 * CLIENTS_LIMIT as u32)
            .filter_map(|n| clients.connect(address(n), most, 0).ok())
            .collect();
        // One in a million is taken for another.
        assert!(all.len() > 2 * CLIENTS_LIMIT - 16);
        let counted = all.iter().flatten().count();
        assert!(counted <= CLIENTS_LIMIT && counted > CLIENTS_LIMIT * 9 / 10);
        // The first ones all found room.
        assert!(clients.connect(address(0), most, 0).is_err());
        drop(all);
        for slot in clients.slots() {
            assert_eq!(slot.counts.load(Ordering::Relaxed) & COUNT_MASK, 0);
        }
        assert!(clients.connect(address(0), most, 0).is_ok());
    }

    #[test]
    fn of_those_that_have_nothing_the_one_that_owes_the_least_is_forgotten() {
        let slots: Vec<_> = std::iter::repeat_with(Slot::default).take(WAYS).collect();
        let slow = rate(1, 1, 10);
        for client in 1..=WAYS as u64 {
            let at = take(&slots, client, 0, 0).unwrap();
            for _ in 0..client {
                spend(&slots[at].requests, slow, 0).unwrap();
            }
        }
        let newcomer = WAYS as u64 + 1;
        let at = take(&slots, newcomer, 0, 0).unwrap();
        assert_eq!(take(&slots, newcomer, 0, 0), Some(at));
        let heaviest = take(&slots, WAYS as u64, 0, 0).unwrap();
        assert_eq!(
            slots[heaviest].requests.load(Ordering::Relaxed),
            WAYS as u64 * SECOND
        );
        assert!(
            !slots
                .iter()
                .any(|slot| slot.counts.load(Ordering::Relaxed) >> TAG_SHIFT == 1)
        );
    }

    #[test]
    fn refusals_are_told_now_and_then() {
        let clients = Arc::<Clients>::default();
        let (client, rate) = (ip("192.0.2.1"), rate(1, 3600, 1));
        let told = |now| request(&clients, client, rate, now).unwrap_err().untold;
        request(&clients, client, rate, SECOND).unwrap();
        assert_eq!(told(SECOND), Some(1));
        assert_eq!(told(2 * SECOND), None);
        assert_eq!(told(3 * SECOND), None);
        assert_eq!(told(11 * SECOND), Some(3));
        assert_eq!(clients.refused(Excess::Requests), 4);
    }

    #[test]
    fn workers_that_count_at_once_lose_nothing() {
        let clients = Arc::<Clients>::default();
        let address = |n: u32| IpAddr::from((n % 64).to_be_bytes());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for n in 0..20_000 {
                        let owned = clients.connect(address(n), count(3), 0);
                        drop(owned);
                    }
                });
            }
        });
        for slot in clients.slots() {
            assert_eq!(slot.counts.load(Ordering::Relaxed) & COUNT_MASK, 0);
        }
    }
}
