//! `Expect: 100-continue` on its way through (RFC 9110 §10.1.1).
//!
//! The request's body is held back until the endpoint asks for it, answers without it, or lets `PATIENCE` pass.
//! The client gets its 100 when the body is first asked for, so holding the body back holds the 100 back too.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::Notify;

/// How long an endpoint may leave the expectation unanswered before the body is sent all the same.
const PATIENCE: Duration = Duration::from_secs(1);

/// Holds a body back until the endpoint wants it.
pub struct Gate {
    wait: Pin<Box<dyn Future<Output = ()>>>,
}

/// The endpoint's side of a gate.
#[derive(Clone, Debug, Default)]
pub struct Latch {
    state: Rc<State>,
}

#[derive(Debug, Default)]
struct State {
    open: Cell<bool>,
    opened: Notify,
}

impl Latch {
    /// The gate that this latch opens.
    pub fn gate(&self) -> Gate {
        let state = Rc::clone(&self.state);
        Gate {
            wait: Box::pin(async move {
                let opened = state.opened.notified();
                if !state.open.get() {
                    // An endpoint that stays silent gets the body: many know nothing of 100.
                    drop(tokio::time::timeout(PATIENCE, opened).await);
                }
            }),
        }
    }

    /// Opens the gate: the endpoint has answered 100.
    pub fn open(&self) {
        self.state.open.set(true);
        self.state.opened.notify_waiters();
    }
}

impl Future for Gate {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.get_mut().wait.as_mut().poll(cx)
    }
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Gate")
    }
}
