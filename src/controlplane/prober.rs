//! The watch over endpoints: lets time pass for their health.
//!
//! One task on the control thread. It reads the snapshot as a worker does, so that what it knows of an endpoint survives
//! reloads with the endpoint; it tells the endpoints what it finds, and nobody else.

use std::time::Duration;

use crate::base::clock;
use crate::dataplane::snapshot::Source;

/// How often time passes for endpoints.
const TICK: Duration = Duration::from_millis(250);

/// Watches over the endpoints of whatever is in force, for as long as it is polled.
pub async fn run(source: Source) {
    let snapshots = source.reader();
    loop {
        tokio::time::sleep(TICK).await;
        let now = clock::now();
        for pool in &snapshots.load().pools {
            pool.tick(now);
        }
    }
}
