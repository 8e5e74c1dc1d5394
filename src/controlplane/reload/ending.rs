//! The end of the loop: readiness goes off, listeners close, connections are told, and what is left is cut.
//!
//! Each stage says in the log how many connections it finds. A process whose successor serves already is in no hurry: its
//! clients lose nothing by staying, and nobody waits for it.

use tokio::sync::watch as cell;
use tokio::time::{self, Instant};

use super::{Demands, Ending, Reload};
use crate::dataplane::snapshot::Timeouts;
use crate::dataplane::worker::{Workers, grace_within};

/// Why a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Departure {
    /// It was asked to.
    Asked,
    /// Another one serves in its place, from the same sockets.
    HandedOver,
}

/// Somebody wants the end at once.
struct AtOnce;

impl Reload {
    /// Drains and returns when every worker has ended.
    pub(super) async fn stop(self, mut demands: cell::Receiver<Demands>, departure: Departure) {
        // Whoever waits for an outcome waits in vain, and may ask whoever goes on.
        self.setup.board.end();
        let snapshot = self.writer.current();
        let timeouts = &snapshot.timeouts;
        let reopens = self.seen.reopens;
        let reopen = || {
            if let Some(log) = &snapshot.access_log {
                log.reopen();
            }
        };
        let watch = Watch {
            demands: &mut demands,
            reopens,
            reopen: &reopen,
        };
        let workers = &self.workers;
        let drained = drain(workers, timeouts, departure, watch, || drop(self.bound)).await;
        if let Err(AtOnce) = drained {
            workers.close();
            tracing::info!("closed at once");
        }
        self.workers.join();
        if let Some(log) = &snapshot.access_log {
            log.flush_and_stop();
        }
    }
}

async fn drain(
    workers: &Workers,
    timeouts: &Timeouts,
    departure: Departure,
    mut watch: Watch<'_>,
    close: impl FnOnce(),
) -> Result<(), AtOnce> {
    let (within, grace) = match departure {
        Departure::Asked => {
            let notice = timeouts.drain_notice;
            workers.unready();
            if !notice.is_zero() {
                tracing::info!(
                    ?notice,
                    "draining: readiness is off, all else goes on for now"
                );
            }
            watch.until(Instant::now() + notice, Ending::Close).await?;
            (timeouts.drain, grace_within(timeouts.drain))
        }
        Departure::HandedOver => (timeouts.drain_upgrade, timeouts.keep_alive),
    };
    // With our handles on the sockets: the ports are free, and refuse, once the workers let go.
    close();
    let mut draining = tokio::select! {
        biased;
        end = watch.wait(Ending::Close) => return Err(end),
        draining = workers.drain(grace) => draining,
    };
    let connections = draining.connections;
    match departure {
        Departure::Asked => {
            tracing::info!(
                connections,
                ?within,
                "draining: listeners are closed, connections are told"
            );
        }
        Departure::HandedOver => {
            tracing::info!(
                connections,
                ?within,
                "handed over: what runs here ends in its own time"
            );
        }
    }
    let mut deadline = Instant::now() + within;
    if departure == Departure::HandedOver {
        let is_hurried = tokio::select! {
            biased;
            _ = watch.wait(Ending::Drain) => true,
            () = draining.finished() => false,
            () = time::sleep_until(deadline) => false,
        };
        if is_hurried {
            let within = timeouts.drain;
            tracing::info!(?within, "draining: the process is to end");
            deadline = deadline.min(Instant::now() + within);
            draining = tokio::select! {
                biased;
                end = watch.wait(Ending::Close) => return Err(end),
                draining = workers.drain(grace_within(within)) => draining,
            };
        }
    }
    tokio::select! {
        biased;
        end = watch.wait(Ending::Close) => return Err(end),
        () = draining.finished() => {
            tracing::info!("drained");
            return Ok(());
        }
        () = time::sleep_until(deadline) => {}
    }
    let connections = workers.cut().await;
    tracing::warn!(connections, "cut: the drain's time was up");
    Ok(())
}

/// What a process that ends still listens to.
struct Watch<'a> {
    demands: &'a mut cell::Receiver<Demands>,
    reopens: u64,
    reopen: &'a dyn Fn(),
}

impl Watch<'_> {
    /// Waits until so much of an end is demanded. Dropping the future loses nothing.
    async fn wait(&mut self, ending: Ending) -> AtOnce {
        loop {
            let now = *self.demands.borrow_and_update();
            if now.ending >= ending {
                return AtOnce;
            }
            if now.reopens > self.reopens {
                self.reopens = now.reopens;
                (self.reopen)();
            }
            if self.demands.changed().await.is_err() {
                // Whoever could demand is gone; the drain goes on, within its time.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until `end`, unless so much of an end is demanded before.
    async fn until(&mut self, end: Instant, ending: Ending) -> Result<(), AtOnce> {
        tokio::select! {
            biased;
            at_once = self.wait(ending) => Err(at_once),
            () = time::sleep_until(end) => Ok(()),
        }
    }
}
