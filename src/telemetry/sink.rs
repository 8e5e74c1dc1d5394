//! Where the access log goes: a bounded queue of filled buffers, and the one thread that writes them.
//!
//! `app` and `reload` open a sink and hand it to the workers' logs; it is kept over reloads while its settings
//! are the same. A worker never waits for it: a full queue refuses the buffer at once, and the loss is counted.
//! Only the writer's thread meets the file, and only it may be slow.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tracing::warn;

use super::writer::Writer;

/// The form of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// The combined format of Apache and nginx.
    Combined,
}

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Standard output.
    Stdout,
    /// A file, appended to; or a named pipe.
    File(PathBuf),
}

/// What the operator may choose; a sink is kept for as long as this stays the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The form of a line.
    pub format: Format,
    /// Where lines go.
    pub destination: Destination,
}

/// Buffers that wait for the writer, of all workers together.
pub const QUEUE_LIMIT: usize = 32;

/// Bytes of a buffer; with [`QUEUE_LIMIT`] it bounds what a stuck log costs at about 8 MiB. A full log costs two
/// switches of threads a buffer, so it is not small.
pub const BUFFER_LIMIT: usize = 256 << 10;

/// How long a stop waits for a writer whose file takes nothing.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Lines on their way to the writer.
#[derive(Debug, Default)]
pub(super) struct Lines {
    pub(super) bytes: Vec<u8>,
    pub(super) records: u64,
}

/// What the writer is sent.
#[derive(Debug)]
pub(super) enum Message {
    /// Lines to write.
    Lines(Lines),
    /// Nothing to write, but a flag of [`Shared`] to look at.
    Wake,
}

/// What the sink and its writer both see.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Records that nobody will read. Relaxed: a count, which orders nothing.
    pub(super) lost: AtomicU64,
    /// Asks the writer to open the file anew. Release and acquire: whoever asked had finished the rotation.
    pub(super) reopen: AtomicBool,
    /// Asks the writer to write what is queued and end. Release and acquire, as above.
    pub(super) stop: AtomicBool,
    spares: Mutex<Vec<Vec<u8>>>,
    /// Another handle on the file in use. The writer holds it while it opens the file anew.
    file: Mutex<Option<File>>,
}

impl Shared {
    /// The handle to spare. Without one a process that takes over opens the path itself.
    pub(super) fn file(&self) -> MutexGuard<'_, Option<File>> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes back an emptied buffer; one that an odd line made large is let go.
    pub(super) fn give_back(&self, mut buffer: Vec<u8>) {
        if buffer.capacity() > 2 * BUFFER_LIMIT {
            return;
        }
        buffer.clear();
        let mut spares = self.spares.lock().unwrap_or_else(PoisonError::into_inner);
        if spares.len() < QUEUE_LIMIT {
            spares.push(buffer);
        }
    }
}

/// A destination that is open. Dropping it lets the writer finish what is queued without waiting for it: the last
/// owner may be a worker. Whoever ends the process calls [`Sink::flush_and_stop`].
#[derive(Debug)]
pub struct Sink {
    settings: Settings,
    queue: SyncSender<Message>,
    shared: Arc<Shared>,
    writer: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    thread: JoinHandle<()>,
    /// Disconnected when the writer has ended.
    ended: Receiver<()>,
}

impl Sink {
    /// Opens the destination and starts its writer.
    ///
    /// # Errors
    /// The file cannot be opened for appending, or the thread not started.
    pub fn open(settings: Settings) -> io::Result<Arc<Self>> {
        Self::start(settings, None)
    }

    /// Goes on with a file that another process had open as this destination, and starts its writer. The path is not
    /// looked at before the file is opened anew.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn take_over(settings: Settings, file: File) -> io::Result<Arc<Self>> {
        Self::start(settings, Some(file))
    }

    fn start(settings: Settings, inherited: Option<File>) -> io::Result<Arc<Self>> {
        let shared = Arc::new(Shared::default());
        let (queue, messages) = mpsc::sync_channel(QUEUE_LIMIT);
        let destination = settings.destination.clone();
        let writer = Writer::open(destination, inherited, messages, Arc::clone(&shared))?;
        let (ending, ended) = mpsc::sync_channel(0);
        let thread = thread::Builder::new()
            .name("access-log".into())
            .spawn(move || {
                writer.run();
                drop(ending);
            })?;
        let writer = Mutex::new(Some(Running { thread, ended }));
        Ok(Arc::new(Self {
            settings,
            queue,
            shared,
            writer,
        }))
    }

    /// What it was opened with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Another handle on the file in use, for a process that goes on with it; `None` if there is none to spare, or if the
    /// file is to be opened anew: the path is the better one then.
    pub fn duplicate(&self) -> Option<File> {
        let file = match self.shared.file.try_lock() {
            Ok(file) => file,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        if self.shared.reopen.load(Ordering::Acquire) {
            return None;
        }
        file.as_ref().and_then(|file| file.try_clone().ok())
    }

    /// How many records were lost since it was opened: the queue was full, or the file took them not.
    pub fn dropped(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    /// Asks the writer to open the file anew, after a rotation. It happens a moment later, off this thread; if it
    /// fails the old file stays in use, and a warning says so. Standard output stays what it is.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        self.wake();
    }

    /// Has everything that is queued written, and ends the writer. Returns false if the file took nothing for
    /// [`STOP_TIMEOUT`]; the writer is left behind then. What is offered later is lost and counted.
    pub fn flush_and_stop(&self) -> bool {
        let running = self
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(running) = running else {
            return true;
        };
        self.shared.stop.store(true, Ordering::Release);
        self.wake();
        match running.ended.recv_timeout(STOP_TIMEOUT) {
            Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => running.thread.join().is_ok(),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                warn!("access log: the destination takes nothing; what is queued is lost");
                false
            }
        }
    }

    /// Queues lines without waiting; gives them back if there is no room.
    pub(super) fn offer(&self, lines: Lines) -> Result<(), Lines> {
        match self.queue.try_send(Message::Lines(lines)) {
            Err(TrySendError::Full(Message::Lines(lines))) => Err(lines),
            Err(TrySendError::Disconnected(Message::Lines(lines))) => {
                self.count_lost(lines.records);
                Ok(())
            }
            Ok(())
            | Err(TrySendError::Full(Message::Wake) | TrySendError::Disconnected(Message::Wake)) => {
                Ok(())
            }
        }
    }

    /// An empty buffer: a used one if one is at hand, never waiting for it.
    pub(super) fn buffer(&self) -> Vec<u8> {
        let spare = self
            .shared
            .spares
            .try_lock()
            .ok()
            .and_then(|mut spares| spares.pop());
        spare.unwrap_or_else(|| Vec::with_capacity(BUFFER_LIMIT))
    }

    pub(super) fn count_lost(&self, records: u64) {
        self.shared.lost.fetch_add(records, Ordering::Relaxed);
    }

    /// Makes the writer look at its flags. A full queue need not: the writer looks after each buffer.
    fn wake(&self) {
        match self.queue.try_send(Message::Wake) {
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{BufRead, BufReader};
    use std::net::IpAddr;
    use std::os::fd::AsRawFd;
    use std::path::Path;
    use std::rc::Rc;

    use super::*;
    use crate::base::clock;
    use crate::base::fault::Fault;
    use crate::telemetry::{Record, WorkerLog};

    fn file_sink(path: &Path) -> Arc<Sink> {
        open(Format::Json, path).unwrap()
    }

    fn open(format: Format, path: &Path) -> io::Result<Arc<Sink>> {
        let destination = Destination::File(path.to_owned());
        Sink::open(Settings {
            format,
            destination,
        })
    }

    fn worker_log(sink: &Arc<Sink>) -> Rc<WorkerLog> {
        let log = Rc::new(WorkerLog::default());
        log.use_sink(Some(Arc::clone(sink)));
        log
    }

    fn record(log: &Rc<WorkerLog>) -> Record {
        let client = IpAddr::from([192, 0, 2, 7]);
        Record::new(Rc::clone(log), clock::now(), clock::wall(), client)
    }

    /// Lets a record end with this many bytes sent, by which a test knows it again.
    fn end_one(log: &Rc<WorkerLog>, number: u64) {
        let mut record = record(log);
        record.status = Some(200);
        record.bytes_sent = number;
    }

    fn numbers(path: &Path) -> Vec<u64> {
        let text = fs::read_to_string(path).unwrap();
        let number = |line: &str| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["bytes_out"].as_u64().unwrap()
        };
        text.lines().map(number).collect()
    }

    fn wait_until(what: &str, mut is_met: impl FnMut() -> bool) {
        let deadline = clock::now() + Duration::from_secs(10);
        while !is_met() {
            assert!(clock::now() < deadline, "{what} did not happen");
            thread::yield_now();
        }
    }

    #[test]
    fn every_ending_leaves_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let sink = file_sink(&path);
        let log = worker_log(&sink);
        let endings: [fn(Record); 6] = [
            |mut record| record.status = Some(204),
            |mut record| record.fault = Some(Fault::NoRoute),
            |mut record| {
                record.status = Some(200);
                record.fault = Some(Fault::ResponseCut);
            },
            |record| {
                // A task that is dropped while it waits, as hyper does when the client goes.
                let mut task = waiting_task(async move {
                    let _record = record;
                    std::future::pending::<()>().await;
                });
                let waker = std::task::Waker::noop();
                let polled = task
                    .as_mut()
                    .poll(&mut std::task::Context::from_waker(waker));
                assert!(polled.is_pending());
            },
            drop,
            |record| {
                let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
                    let _record = record;
                    std::panic::resume_unwind(Box::new(()));
                }));
                assert!(outcome.is_err());
            },
        ];
        for end in endings {
            end(record(&log));
        }
        log.flush();
        assert!(sink.flush_and_stop());
        let text = fs::read_to_string(&path).unwrap();
        let statuses: Vec<_> = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["status"].clone())
            .collect();
        assert_eq!(statuses, [204, 404, 200, 499, 499, 499]);
        assert_eq!(sink.dropped(), 0);
    }

    fn waiting_task(
        task: impl Future<Output = ()> + 'static,
    ) -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(task)
    }

    #[test]
    fn lines_of_a_worker_stay_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let sink = file_sink(&path);
        let log = worker_log(&sink);
        for number in 0..2_000 {
            end_one(&log, number);
        }
        drop(log);
        assert!(sink.flush_and_stop());
        assert!(numbers(&path).into_iter().eq(0..2_000));
    }

    #[test]
    fn a_change_of_sink_flushes_the_old_one_first() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old.log"), dir.path().join("new.log"));
        let (old_sink, new_sink) = (file_sink(&old), file_sink(&new));
        let log = worker_log(&old_sink);
        end_one(&log, 1);
        log.use_sink(Some(Arc::clone(&new_sink)));
        end_one(&log, 2);
        log.use_sink(None);
        end_one(&log, 3);
        assert!(old_sink.flush_and_stop() && new_sink.flush_and_stop());
        assert_eq!(numbers(&old), [1]);
        assert_eq!(numbers(&new), [2]);
        assert_eq!(old_sink.dropped() + new_sink.dropped(), 0);
    }

    #[test]
    fn a_dropped_sink_writes_what_is_queued() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let log = worker_log(&file_sink(&path));
        end_one(&log, 1);
        drop(log);
        wait_until("the write", || {
            !fs::read_to_string(&path).unwrap().is_empty()
        });
        assert_eq!(numbers(&path), [1]);
    }

    #[test]
    fn a_rotated_file_is_left_and_a_new_one_begun() {
        let dir = tempfile::tempdir().unwrap();
        let (path, rotated) = (
            dir.path().join("access.log"),
            dir.path().join("access.log.1"),
        );
        let sink = file_sink(&path);
        let log = worker_log(&sink);
        end_one(&log, 1);
        log.flush();
        fs::rename(&path, &rotated).unwrap();
        end_one(&log, 2);
        log.flush();
        wait_until("the write to the old file", || numbers(&rotated).len() == 2);
        sink.reopen();
        wait_until("the new file", || path.exists());
        end_one(&log, 3);
        log.flush();
        assert!(sink.flush_and_stop());
        assert_eq!(numbers(&rotated), [1, 2]);
        assert_eq!(numbers(&path), [3]);
    }

    #[test]
    fn a_file_is_handed_over_open_and_rotated_from_there() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (
            dir.path().join("access.log"),
            dir.path().join("access.log.1"),
        );
        let old = file_sink(&path);
        fs::rename(&path, &moved).unwrap();
        let new = Sink::take_over(old.settings().clone(), old.duplicate().unwrap()).unwrap();
        let log = worker_log(&new);
        end_one(&log, 1);
        log.flush();
        wait_until("the write", || !fs::read(&moved).unwrap().is_empty());
        assert!(!path.exists(), "the path is left alone");
        new.reopen();
        wait_until("the new file", || path.exists());
        end_one(&log, 2);
        log.flush();
        let mut file = None;
        wait_until("a handle on it", || {
            file = new.duplicate();
            file.is_some()
        });
        let next = Sink::take_over(new.settings().clone(), file.unwrap()).unwrap();
        assert!(new.flush_and_stop() && old.flush_and_stop());
        assert_eq!((numbers(&moved), numbers(&path)), (vec![1], vec![2]));
        assert!(new.duplicate().is_none(), "it is closed");
        end_one(&worker_log(&next), 3);
        assert!(next.flush_and_stop());
        assert_eq!(numbers(&path), [2, 3], "the file in use, not the first");
    }

    #[test]
    fn a_file_that_cannot_be_opened_anew_stays_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let (logs, moved) = (dir.path().join("logs"), dir.path().join("moved"));
        fs::create_dir(&logs).unwrap();
        let sink = file_sink(&logs.join("access.log"));
        let log = worker_log(&sink);
        fs::rename(&logs, &moved).unwrap();
        sink.reopen();
        end_one(&log, 1);
        log.flush();
        assert!(sink.flush_and_stop());
        assert_eq!(numbers(&moved.join("access.log")), [1]);
    }

    #[test]
    fn a_full_disk_costs_lines_that_are_counted() {
        let sink = file_sink(Path::new("/dev/full"));
        let log = worker_log(&sink);
        for number in 0..3 {
            end_one(&log, number);
        }
        log.flush();
        wait_until("the failed write", || sink.dropped() == 3);
        end_one(&log, 4);
        log.flush();
        assert!(sink.flush_and_stop());
        assert_eq!(sink.dropped(), 4);
    }

    #[test]
    fn a_destination_that_takes_nothing_never_blocks_a_worker() {
        let (reader, pipe) = io::pipe().unwrap();
        let sink = file_sink(Path::new(&format!("/proc/self/fd/{}", pipe.as_raw_fd())));
        drop(pipe);
        let log = worker_log(&sink);
        let mut written = 0;
        while sink.dropped() == 0 {
            end_one(&log, written);
            written += 1;
            assert!(written < 1_000_000, "nothing was refused");
        }
        assert!(
            written * 150 > (QUEUE_LIMIT * BUFFER_LIMIT / 2) as u64,
            "{written}"
        );

        // Somebody reads after all: what was queued comes, whole and in order.
        let lines = thread::spawn(move || BufReader::new(reader).lines().count() as u64);
        end_one(&log, written);
        drop(log);
        assert!(sink.flush_and_stop());
        assert_eq!(lines.join().unwrap() + sink.dropped(), written + 1);
    }

    #[test]
    fn a_stop_does_not_wait_for_ever() {
        let (_reader, pipe) = io::pipe().unwrap();
        let sink = file_sink(Path::new(&format!("/proc/self/fd/{}", pipe.as_raw_fd())));
        let log = worker_log(&sink);
        while sink.dropped() == 0 {
            end_one(&log, 0);
        }
        assert!(!sink.flush_and_stop());
        end_one(&log, 0);
    }

    #[test]
    fn lines_after_the_stop_are_counted_as_lost() {
        let dir = tempfile::tempdir().unwrap();
        let sink = file_sink(&dir.path().join("access.log"));
        let log = worker_log(&sink);
        assert!(sink.flush_and_stop());
        assert!(sink.flush_and_stop(), "a second stop finds nothing to do");
        end_one(&log, 1);
        log.flush();
        assert_eq!(sink.dropped(), 1);
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_told() {
        let error = open(Format::Json, Path::new("/nowhere/access.log")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn standard_output_is_opened_and_left_as_it_is() {
        let settings = Settings {
            format: Format::Json,
            destination: Destination::Stdout,
        };
        let sink = Sink::open(settings.clone()).unwrap();
        assert_eq!(*sink.settings(), settings);
        sink.reopen();
        assert!(sink.flush_and_stop());
        assert_eq!(sink.dropped(), 0);
    }

    #[test]
    fn headers_are_wanted_for_combined_only() {
        let log = WorkerLog::default();
        assert!(!log.is_on() && !log.wants_headers());
        for (format, is_wanted) in [(Format::Json, false), (Format::Combined, true)] {
            log.use_sink(Some(open(format, Path::new("/dev/null")).unwrap()));
            assert!(log.is_on());
            assert_eq!(log.wants_headers(), is_wanted);
        }
    }
}
