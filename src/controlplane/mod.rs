//! Wing two: who decides. No request ever enters here.
//!
//! ```text
//!  file change ─┐
//!  names ───────┤   load ─▶ parse ─▶ check ─▶ compile ─▶ bind new listeners ─▶ swap ─▶ drain old listeners ─▶ outcome
//!  certificate ─┼─▶ bytes   Config   all       next       may fail,             one      with a time limit     version,
//!  signal ──────┘   only    or       errors    Snapshot   nothing lost yet      store                          time, log
//!                   I/O     error    at once   (pure)
//! ```
//!
//! [`reload`] is the one loop and its `Event` the one door to it; [`compile`] is pure; [`discovery`] and the
//! watcher tell the loop what changed outside. All of it runs on one thread, beside the workers; so does [`process`], which
//! hands the sockets to the next binary, and [`prober`], which watches over endpoints. [`admin`] answers questions on a thread of its own, and reads what the others
//! show in [`status`].

pub mod admin;
pub mod compile;
pub mod discovery;
pub mod explain;
pub mod prober;
pub mod process;
pub mod reload;
pub mod status;
