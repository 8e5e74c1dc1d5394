//! What the tests of all pickers need: members, and the order in which they are picked.

use std::sync::Arc;

use super::{Asker, Picker};
use crate::base::addr::EndpointAddr;
use crate::base::clock;
use crate::dataplane::upstream::endpoint::{Endpoint, Identity, Protocol};
use crate::dataplane::upstream::pool::Member;

/// Somebody who has tried nobody yet.
pub(super) fn anyone() -> Asker {
    Asker::at(clock::now())
}

/// Members with these weights.
pub(super) fn members(weights: &[u32]) -> Vec<Member> {
    (0..)
        .zip(weights)
        .map(|(at, &weight)| member(at, weight))
        .collect()
}

/// The member of this number.
pub(super) fn member(at: u32, weight: u32) -> Member {
    let [_, a, b, c] = at.to_be_bytes();
    let identity = Identity {
        pool: "web".into(),
        address: EndpointAddr::Tcp(([10, a, b, c], 80).into()),
        protocol: Protocol::Auto,
        tls: None,
    };
    Member {
        weight,
        ..Member::new(Arc::new(Endpoint::new(identity, None)))
    }
}

/// The place of an endpoint among its fellows.
pub(super) fn place(members: &[Member], endpoint: &Endpoint) -> usize {
    let mut all = members.iter();
    all.position(|member| member.endpoint.id == endpoint.id)
        .unwrap()
}

/// Who is picked one after the other, as letters.
pub(super) fn order(picker: &Picker, members: &[Member], picks: usize) -> String {
    let picks = (0..picks).map(|_| {
        let picked = picker.pick(members, &anyone()).unwrap();
        char::from(b'a' + place(members, &picked.endpoint) as u8)
    });
    picks.collect()
}
