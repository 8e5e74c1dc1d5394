//! The process among others: what it inherits, to whom it hands over, what it tells systemd.
//!
//! [`inherit`] takes over what systemd or the process before has left, [`upgrade`] starts the next binary and hands over to
//! it. Both speak [`handover`] with each other, which may be of different versions. Descriptors go by the convention of
//! systemd (`LISTEN_FDS`), so that socket activation and an upgrade are one.
//!
//! ```text
//!  old                                   new
//!  ├─ starts it with every socket ─────▶ │
//!  ├─ ticket keys, log descriptor ─────▶ compiles, binds nothing that is there
//!  │ ◀──────────────────────────── ready ┤
//!  ├─ go ──────────────────────────────▶ accepts
//!  │ ◀────────────────────────── serving ┤
//!  drains                                │
//! ```
//!
//! [`confine`] takes from the process what it has no use for, before it has threads: that is Linux alone.
//!
//! Up to `serving` the old process accepts as if nothing were, and goes on if the new one fails, is silent or dies. From then
//! on the new one is the process. The queues of the sockets belong to both all along, so no connection is lost between.

#[cfg(target_os = "linux")]
pub mod confine;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod handover;
pub mod inherit;
pub mod pid_file;
pub mod systemd;
pub mod upgrade;
