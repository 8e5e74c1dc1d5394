//! A worker's end of the access log: the buffer its lines are formatted into.
//!
//! The worker owns one and runs it, records write to it when they are dropped. It is not `Send` and takes no lock
//! on the way of a request. Lines of one worker stay in order; a buffer goes to the sink when it is half full or
//! [`FLUSH_EVERY`] old, and is lost, counted, only if the sink's queue stays full until no more fits.

use std::cell::RefCell;
use std::future::poll_fn;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::base::clock;

use super::access_log::Record;
use super::line;
use super::sink::{BUFFER_LIMIT, Format, Lines, Sink};
use super::stamp::Stamp;

/// How long a line may wait in a worker's buffer.
pub const FLUSH_EVERY: Duration = Duration::from_millis(200);

/// Bytes at which a buffer is handed over without waiting for the time.
const HAND_OVER_AT: usize = BUFFER_LIMIT / 2;

/// The access log of one worker; off until it is given a sink.
#[derive(Debug, Default)]
pub struct WorkerLog {
    state: RefCell<State>,
    /// Wakes the flushing task when the first line arrives.
    flusher: RefCell<Option<Waker>>,
}

#[derive(Debug, Default)]
struct State {
    sink: Option<Arc<Sink>>,
    lines: Lines,
    stamp: Stamp,
}

impl WorkerLog {
    /// Sends lines to `sink` from now on, or nowhere; lines that wait go to the old one first.
    pub fn use_sink(&self, sink: Option<Arc<Sink>>) {
        let mut state = self.state.borrow_mut();
        state.hand_over();
        state.give_up();
        state.sink = sink;
    }

    /// Whether records become lines at all.
    pub fn is_on(&self) -> bool {
        self.state.borrow().sink.is_some()
    }

    /// Whether records need the Referer and User-Agent fields.
    pub fn wants_headers(&self) -> bool {
        let state = self.state.borrow();
        state
            .sink
            .as_ref()
            .is_some_and(|sink| match sink.settings().format {
                Format::Json => false,
                Format::Combined => true,
            })
    }

    /// Hands over the lines that wait, if the sink's queue has room.
    pub fn flush(&self) {
        self.state.borrow_mut().hand_over();
    }

    /// Flushes for as long as it is polled; the worker owns this future. Dropping it loses nothing.
    pub async fn run(&self) {
        loop {
            poll_fn(|cx| self.poll_waiting(cx)).await;
            tokio::time::sleep(FLUSH_EVERY).await;
            self.flush();
        }
    }

    /// Writes the line of a record that ends now.
    pub(super) fn write(&self, record: &Record) {
        let mut state = self.state.borrow_mut();
        let State { sink, lines, stamp } = &mut *state;
        let Some(sink) = sink else {
            return;
        };
        if lines.bytes.capacity() == 0 {
            lines.bytes = sink.buffer();
        }
        let ended = record.ended.unwrap_or_else(clock::now);
        let duration = ended.saturating_duration_since(record.started);
        line::write(
            &mut lines.bytes,
            sink.settings().format,
            stamp,
            record,
            duration,
        );
        lines.records += 1;
        if lines.bytes.len() >= HAND_OVER_AT {
            state.hand_over();
        } else if let Some(flusher) = self.flusher.borrow_mut().take() {
            flusher.wake();
        }
    }

    fn poll_waiting(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.state.borrow().lines.records > 0 {
            return Poll::Ready(());
        }
        *self.flusher.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for WorkerLog {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        state.hand_over();
        state.give_up();
    }
}

impl State {
    /// Hands the lines to the sink; if its queue is full they are kept as long as more fit into the buffer.
    fn hand_over(&mut self) {
        let Some(sink) = &self.sink else {
            return;
        };
        if self.lines.records == 0 {
            return;
        }
        if let Err(lines) = sink.offer(mem::take(&mut self.lines)) {
            self.lines = lines;
            if self.lines.bytes.len() >= BUFFER_LIMIT {
                self.give_up();
            }
        }
    }

    /// Counts the lines that nobody takes as lost, and makes room.
    fn give_up(&mut self) {
        if let Some(sink) = &self.sink {
            sink.count_lost(self.lines.records);
        }
        self.lines.records = 0;
        self.lines.bytes.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::IpAddr;
    use std::rc::Rc;

    use super::*;
    use crate::telemetry::{Destination, Settings};

    #[test]
    fn a_line_is_flushed_after_its_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let destination = Destination::File(path.clone());
        let sink = Sink::open(Settings {
            format: Format::Json,
            destination,
        })
        .unwrap();
        let log = Rc::new(WorkerLog::default());
        log.use_sink(Some(Arc::clone(&sink)));

        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async {
            let write = async {
                tokio::task::yield_now().await;
                let client = IpAddr::from([127, 0, 0, 1]);
                drop(Record::new(
                    Rc::clone(&log),
                    clock::now(),
                    clock::wall(),
                    client,
                ));
                while log.state.borrow().lines.records > 0 {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                () = log.run() => {}
                () = write => {}
            }
        });
        assert!(sink.flush_and_stop());
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 1);
    }
}
