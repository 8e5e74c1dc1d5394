//! Which endpoints are slow beside the others.
//!
//! An endpoint is held against the middle one of those that it shares its turn with. Endpoints of another zone or priority are
//! no measure: what is far away, or smaller and stands by, may take longer.

use std::time::Instant;

use super::Pool;
use crate::dataplane::upstream::health::Event;

impl Pool {
    /// Lets the endpoints know how long the others take; says whether the standing of one has changed.
    pub(super) fn compare(&self, now: Instant) -> bool {
        let policy = &self.settings.policy;
        let Some(outlier) = policy.outlier.filter(|outlier| outlier.slow.is_some()) else {
            return false;
        };
        let mut has_changed = false;
        for tier in self.members.chunk_by(|a, b| a.tier() == b.tier()) {
            let mut known = Vec::new();
            let in_turn = || tier.iter().filter(|member| member.weight > 0);
            for member in in_turn() {
                let timed = Event::Timed(member.endpoint.take_timings());
                has_changed |= self.judge(&member.endpoint, timed, &"", now);
                known.extend(member.endpoint.health().typical(&outlier));
            }
            known.sort_unstable();
            // Of two in the middle the faster one: in a pool of two, the other can be slow.
            let middle = known.len().checked_sub(2).map(|others| others.div_ceil(2));
            let middle = middle.and_then(|at| known.get(at)).copied();
            for member in in_turn() {
                let typical = member.endpoint.health().typical(&outlier);
                let detail = typical.map_or_else(String::new, |typical| typical.to_string());
                let compared = Event::Compared(middle);
                has_changed |= self.judge(&member.endpoint, compared, &detail, now);
            }
        }
        has_changed
    }
}
