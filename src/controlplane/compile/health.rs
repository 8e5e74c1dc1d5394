//! What is held against the health of endpoints, from what is written.

use crate::config;
use crate::dataplane::upstream::health::{Outlier, Policy};

pub(super) fn policy(pool: &config::pool::Pool) -> Policy {
    let outlier = pool.outlier.map(|written| Outlier {
        failures: written.failures,
        success_rate: written.success_rate,
        requests: written.requests,
        window: written.window,
        ejection: written.ejection,
        max_ejected: written.max_ejected,
    });
    Policy {
        check: None,
        outlier,
    }
}
