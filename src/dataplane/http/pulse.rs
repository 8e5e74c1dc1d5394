//! What the reader of a downstream connection, its driver and its exchanges tell each other.
//!
//! Shared by reference count on one worker: `http::strict` writes what it sees, the driver reads how the
//! connection is doing and sets an end to waiting, the exchange asks whether its request is a refused one.

use std::cell::{Cell, RefCell};
use std::task::{Context, Waker};
use std::time::Instant;

use super::framing::Refusal;
use crate::base::fault::Fault;

/// The state of one downstream connection that more than one of its parts must know.
#[derive(Debug, Default)]
pub struct Pulse {
    /// Since when a head is waited for of which a part has come; none most of the time, since most heads
    /// come whole.
    pub head_started: Cell<Option<Instant>>,
    /// Bytes that came from the client.
    pub bytes_read: Cell<u64>,
    /// Bytes that the transport took for the client.
    pub bytes_written: Cell<u64>,
    /// Whether the transport took nothing when it was last asked to.
    pub write_blocked: Cell<bool>,
    /// Whether the client closed in the middle of a head.
    pub head_cut: Cell<bool>,
    /// How the body in progress is broken, if it is.
    pub body_fault: Cell<Option<Fault>>,
    /// How many exchanges have begun.
    exchanges: Cell<u64>,
    /// The refusal, and the number of the exchange that it is for.
    refusal: RefCell<Option<(u64, Refusal)>>,
    /// What the driver refuses a head for that does not come.
    given_up: Cell<Option<Fault>>,
    /// The number of the exchange whose upgrade is not decided.
    undecided: Cell<Option<u64>>,
    decision: Cell<Option<bool>>,
    reader: RefCell<Option<Waker>>,
}

impl Pulse {
    /// Begins an exchange: `Some` says that its request is not one, but stands for a head that was refused.
    ///
    /// To be called exactly once at the start of every exchange: requests may be read ahead of the exchanges
    /// in front of them, and counting is how a refusal finds its own.
    pub fn take_refusal(&self) -> Option<Refusal> {
        let number = self.exchanges.get() + 1;
        self.exchanges.set(number);
        let (_, refusal) = self.refusal.borrow_mut().take_if(|(of, _)| *of == number)?;
        Some(refusal)
    }

    /// Gives up the head that is waited for: the exchange that answers this fault begins soon.
    ///
    /// Nothing happens if the rest of the head has come meanwhile, or if a body is in progress.
    pub fn refuse(&self, fault: Fault) {
        self.given_up.set(Some(fault));
        self.wake_reader();
    }

    /// Tells whether the upgrade that the current exchange's request asks for is granted.
    ///
    /// Until then nothing behind that request is read as one. Harmless if it asks for none: to be called by
    /// every exchange that grants no upgrade, before its answer goes out.
    pub fn upgrade_decided(&self, is_granted: bool) {
        if self.undecided.get() == Some(self.exchanges.get()) {
            self.undecided.set(None);
            self.decision.set(Some(is_granted));
            self.wake_reader();
        }
    }

    pub(super) fn count_read(&self, bytes: usize) {
        self.bytes_read.set(self.bytes_read.get() + bytes as u64);
    }

    pub(super) fn count_written(&self, bytes: usize) {
        self.bytes_written
            .set(self.bytes_written.get() + bytes as u64);
    }

    /// The head with this number is refused.
    pub(super) fn set_refusal(&self, number: u64, refusal: Refusal) {
        *self.refusal.borrow_mut() = Some((number, refusal));
    }

    /// What was given up came after all.
    pub(super) fn forget_given_up(&self) {
        self.given_up.set(None);
    }

    pub(super) fn take_given_up(&self) -> Option<Fault> {
        self.given_up.take()
    }

    pub(super) fn await_decision(&self, number: u64) {
        self.undecided.set(Some(number));
    }

    pub(super) fn take_decision(&self) -> Option<bool> {
        self.decision.take()
    }

    /// Remembers who reads, so that the driver and the exchange can wake it.
    pub(super) fn set_reader(&self, cx: &Context<'_>) {
        let mut reader = self.reader.borrow_mut();
        if !reader
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            *reader = Some(cx.waker().clone());
        }
    }

    fn wake_reader(&self) {
        let reader = self.reader.take();
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal() -> Refusal {
        Refusal {
            fault: Fault::HostInvalid,
            method: None,
            target: None,
            host: None,
        }
    }

    #[test]
    fn a_refusal_finds_the_exchange_it_is_for() {
        let pulse = Pulse::default();
        pulse.set_refusal(3, refusal());
        let faults: Vec<_> = (0..4)
            .map(|_| pulse.take_refusal().map(|refusal| refusal.fault))
            .collect();
        assert_eq!(faults, [None, None, Some(Fault::HostInvalid), None]);
    }

    #[test]
    fn only_the_exchange_that_asks_decides_its_upgrade() {
        let pulse = Pulse::default();
        pulse.await_decision(2);
        assert!(pulse.take_refusal().is_none());
        pulse.upgrade_decided(true);
        assert_eq!(pulse.take_decision(), None);
        assert!(pulse.take_refusal().is_none());
        pulse.upgrade_decided(false);
        assert_eq!(pulse.take_decision(), Some(false));
    }
}
