//! The thread that writes the access log: takes buffers from the sink's queue, and puts them into the file.
//!
//! `sink` starts it and is the only one to know it. A failed write costs the lines of its buffer and nothing else:
//! they are counted, a warning says so at most once in [`WARN_EVERY`], and the next buffer is tried again. A line
//! that was written in part is ended before the next one begins, so that no two become one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::base::clock;

use super::sink::{Destination, Lines, Message, Shared};

/// How often lost records are told at most.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// How long a destination that is set to never block is left alone before it is asked again.
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// The permissions of a file that is made: addresses of people are in it.
const FILE_MODE: u32 = 0o640;

/// The writer, before and while it runs on its thread.
#[derive(Debug)]
pub(super) struct Writer {
    destination: Destination,
    messages: Receiver<Message>,
    shared: Arc<Shared>,
    output: Output<File>,
    losses: Losses,
}

/// What was told about lost records, and when.
#[derive(Debug, Default)]
struct Losses {
    told: u64,
    told_at: Option<Instant>,
    cause: Option<io::Error>,
}

impl Writer {
    /// A writer to `destination`, which is open already if `inherited` is there.
    pub(super) fn open(
        destination: Destination,
        inherited: Option<File>,
        messages: Receiver<Message>,
        shared: Arc<Shared>,
    ) -> io::Result<Self> {
        let to = match (&destination, inherited) {
            // A handle of its own, since the one of std cuts buffers at line ends.
            (Destination::Stdout, _) => File::from(io::stdout().as_fd().try_clone_to_owned()?),
            (Destination::File(_), Some(file)) => file,
            (Destination::File(path), None) => open_file(path)?,
        };
        *shared.file() = to.try_clone().ok();
        let output = Output::new(to);
        Ok(Self {
            destination,
            messages,
            shared,
            output,
            losses: Losses::default(),
        })
    }

    /// Writes until it is told to stop, or until nobody can send any more; what is queued is written first.
    pub(super) fn run(mut self) {
        loop {
            let message = match self.until_next_telling() {
                None => self.messages.recv().map_err(RecvTimeoutError::from),
                Some(wait) => self.messages.recv_timeout(wait),
            };
            if self.shared.reopen.load(Ordering::Acquire) {
                self.reopen();
            }
            match message {
                Ok(Message::Lines(lines)) => self.write(lines),
                Ok(Message::Wake) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.tell_losses(false);
            if self.shared.stop.load(Ordering::Acquire) {
                self.write_queued();
                break;
            }
        }
        self.output.forget_rest(&self.shared);
        self.tell_losses(true);
        // Nothing keeps the file open from here on.
        *self.shared.file() = None;
    }

    fn write_queued(&mut self) {
        while let Ok(message) = self.messages.try_recv() {
            match message {
                Message::Lines(lines) => self.write(lines),
                Message::Wake => {}
            }
        }
    }

    fn write(&mut self, lines: Lines) {
        if let Err(failure) = self.output.write(&lines.bytes) {
            self.shared.lost.fetch_add(failure.lines, Ordering::Relaxed);
            self.losses.cause = Some(failure.cause);
        }
        self.shared.give_back(lines.bytes);
    }

    fn reopen(&mut self) {
        // Held until the other file is in use: no process is handed one that was rotated away.
        let mut spare = self.shared.file();
        self.shared.reopen.swap(false, Ordering::Acquire);
        let Destination::File(path) = &self.destination else {
            return;
        };
        match open_file(path) {
            Ok(file) => {
                // The front of a line was left in the old file; a new one begins clean.
                let is_empty = |meta: fs::Metadata| meta.is_file() && meta.len() == 0;
                if file.metadata().is_ok_and(is_empty) {
                    self.output.forget_rest(&self.shared);
                }
                *spare = file.try_clone().ok();
                self.output.to = file;
                info!(path = %path.display(), "access log: opened anew");
            }
            Err(error) => {
                warn!(path = %path.display(), %error, "access log: cannot be opened anew; the old file stays in use");
            }
        }
    }

    /// How long to wait before lost records may be told; none if there is nothing to tell.
    fn until_next_telling(&self) -> Option<Duration> {
        if self.shared.lost.load(Ordering::Relaxed) == self.losses.told {
            return None;
        }
        let told_at = self.losses.told_at?;
        Some((told_at + WARN_EVERY).saturating_duration_since(clock::now()))
    }

    fn tell_losses(&mut self, is_last: bool) {
        let lost = self.shared.lost.load(Ordering::Relaxed);
        let Losses {
            told,
            told_at,
            cause,
        } = &mut self.losses;
        let now = clock::now();
        let is_early = told_at.is_some_and(|at| now.saturating_duration_since(at) < WARN_EVERY);
        if lost == *told || (is_early && !is_last) {
            return;
        }
        let records = lost - *told;
        match cause.take() {
            Some(error) => warn!(records, %error, "access log: records lost, the write failed"),
            None => warn!(
                records,
                "access log: records lost, the destination is too slow"
            ),
        }
        *told = lost;
        *told_at = Some(now);
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    // Opening a named pipe for writing alone waits for a reader; opening it both ways does not.
    let is_pipe = fs::metadata(path).is_ok_and(|meta| meta.file_type().is_fifo());
    OpenOptions::new()
        .append(true)
        .read(is_pipe)
        .create(true)
        .mode(FILE_MODE)
        .open(path)
}

/// A destination that remembers what its last line still lacks.
#[derive(Debug)]
struct Output<W> {
    to: W,
    /// The end of a line whose front was written.
    rest: Vec<u8>,
}

/// A write that did not go through.
#[derive(Debug)]
struct Failure {
    cause: io::Error,
    /// Lines that are lost.
    lines: u64,
}

impl<W: Write> Output<W> {
    fn new(to: W) -> Self {
        let rest = Vec::new();
        Self { to, rest }
    }

    /// Writes whole lines. After a failure the line of which a part got out is completed by the next call.
    fn write(&mut self, lines: &[u8]) -> Result<(), Failure> {
        let count = |lines: &[u8]| memchr::memchr_iter(b'\n', lines).count() as u64;
        let rest = std::mem::take(&mut self.rest);
        self.write_some(&rest).map_err(|(cause, left)| {
            self.rest = left.to_vec();
            let lines = count(lines);
            Failure { cause, lines }
        })?;
        self.write_some(lines).map_err(|(cause, left)| {
            let written = lines.len() - left.len();
            let is_torn = written > 0 && lines.get(written - 1) != Some(&b'\n');
            let end = memchr::memchr(b'\n', left).filter(|_| is_torn);
            let (rest, lost) = left.split_at(end.map_or(0, |end| end + 1));
            self.rest = rest.to_vec();
            let lines = count(lost);
            Failure { cause, lines }
        })
    }

    /// Gives up a line of which only the front was written.
    fn forget_rest(&mut self, shared: &Shared) {
        if !self.rest.is_empty() {
            self.rest.clear();
            shared.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes until all is out or an error ends it; with the error comes the rest.
    fn write_some<'a>(&mut self, mut rest: &'a [u8]) -> Result<(), (io::Error, &'a [u8])> {
        while !rest.is_empty() {
            match self.to.write(rest) {
                Ok(0) => return Err((ErrorKind::WriteZero.into(), rest)),
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // A parent may have set the pipe that is our standard output to never block.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    thread::park_timeout(BUSY_PAUSE);
                }
                Err(error) => return Err((error, rest)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes `room` bytes, and then refuses once.
    #[derive(Debug, Default)]
    struct Narrow {
        taken: Vec<u8>,
        room: usize,
    }

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.room == 0 {
                self.room = usize::MAX;
                return Err(ErrorKind::StorageFull.into());
            }
            let fits = bytes.len().min(self.room);
            self.taken.extend_from_slice(&bytes[..fits]);
            self.room -= fits;
            Ok(fits)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_that_broke_off_is_completed_before_the_next() {
        let cases = [
            (0, 2, "three\n"),
            (2, 1, "one\nthree\n"),
            (3, 1, "one\nthree\n"),
            (4, 1, "one\nthree\n"),
            (5, 0, "one\ntwo\nthree\n"),
        ];
        for (room, lost, expected) in cases {
            let to = Narrow {
                room,
                ..Narrow::default()
            };
            let mut output = Output::new(to);
            let failure = output.write(b"one\ntwo\n").unwrap_err();
            assert_eq!(failure.lines, lost, "{room}");
            output.write(b"three\n").unwrap();
            assert_eq!(String::from_utf8(output.to.taken).unwrap(), expected);
        }
    }

    #[test]
    fn a_line_that_breaks_off_twice_is_completed_all_the_same() {
        let to = Narrow {
            room: 1,
            ..Narrow::default()
        };
        let mut output = Output::new(to);
        assert_eq!(output.write(b"one\n").unwrap_err().lines, 0);
        output.to.room = 1;
        assert_eq!(output.write(b"two\n").unwrap_err().lines, 1);
        output.write(b"three\n").unwrap();
        assert_eq!(String::from_utf8(output.to.taken).unwrap(), "one\nthree\n");
    }
}
