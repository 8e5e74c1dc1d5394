//! HTTP on a downstream connection: what may enter, and what becomes of it.

pub mod framing;
pub mod pulse;
pub mod strict;
