//! Where an endpoint is that is known by name: the addresses that DNS has for it, and which of them a connection tries.
//!
//! It belongs to the member of a pool. When the answer of DNS changes the pool changes, and the endpoint stays the same.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use smallvec::SmallVec;

/// Addresses that one connection tries, in order.
pub type Dials = SmallVec<[SocketAddr; DIALS_LIMIT]>;

/// Addresses of a name that one connection tries at most.
const DIALS_LIMIT: usize = 6;

/// Where an endpoint is that is known by name.
#[derive(Debug)]
pub struct Reach {
    /// Those of IPv6, then those of IPv4.
    families: [Box<[SocketAddr]>; 2],
    turn: AtomicUsize,
}

impl Reach {
    /// From the addresses of the name.
    pub fn new(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        let (v6, v4): (Vec<_>, Vec<_>) = addresses.into_iter().partition(SocketAddr::is_ipv6);
        Self {
            families: [v6.into(), v4.into()],
            turn: AtomicUsize::new(0),
        }
    }

    /// The addresses.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.families.iter().flatten().copied()
    }

    /// The families by turns, IPv6 first (RFC 8305 §4); of each, every time the next address is the first.
    pub fn dials(&self) -> Dials {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let [v6, v4] = &self.families;
        let turned = |family: &[SocketAddr], at: usize| {
            let start = turn.checked_rem(family.len())?;
            (at < family.len()).then(|| family.iter().cycle().nth(start + at).copied())?
        };
        (0..DIALS_LIMIT)
            .flat_map(|at| [turned(v6, at), turned(v4, at)])
            .flatten()
            .take(DIALS_LIMIT)
            .collect()
    }
}

impl PartialEq for Reach {
    /// Whether it leads to the same addresses.
    fn eq(&self, other: &Self) -> bool {
        self.families == other.families
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_dialled_by_turns_of_family_and_of_their_own() {
        let reach = |texts: &[&str]| {
            let addresses = texts.iter().map(|text| text.parse().unwrap());
            Reach::new(addresses)
        };
        let dials = |reach: &Reach| {
            let dials = reach.dials();
            let dials = dials.iter().map(ToString::to_string);
            dials.collect::<Vec<_>>().join(" ")
        };
        let both = reach(&["10.0.0.1:80", "10.0.0.2:80", "[fd00::1]:80"]);
        assert_eq!(dials(&both), "[fd00::1]:80 10.0.0.1:80 10.0.0.2:80");
        assert_eq!(dials(&both), "[fd00::1]:80 10.0.0.2:80 10.0.0.1:80");
        assert_eq!(dials(&both), "[fd00::1]:80 10.0.0.1:80 10.0.0.2:80");
        assert_eq!(dials(&reach(&["10.0.0.1:80"])), "10.0.0.1:80");
        let many: Vec<_> = (1..100).map(|last| format!("10.0.0.{last}:80")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert_eq!(reach(&many).dials().len(), DIALS_LIMIT);
    }
}
