//! A change of an endpoint's standing, and its cause as the process log has it.

use std::fmt;

use super::Standing;

/// What an endpoint deserves to be ejected for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// So many failures in a row.
    InARow(u32),
    /// So many successes of a hundred.
    Rate(u32),
    /// Answers that take so many times as long as those of the others, in tenths.
    Slow(u32),
}

/// Why the standing of an endpoint has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Active checks failed.
    ChecksFailed,
    /// Active checks passed.
    ChecksPassed,
    /// Active checks are turned off.
    Unchecked,
    /// It refused a connection.
    Refused,
    /// It takes connections again.
    Reached,
    /// Its exchanges failed.
    Blamed(Blame),
    /// Its ejection is over.
    Served,
    /// Its ejection ended, since no other endpoint is left.
    Pardoned,
}

impl fmt::Display for Cause {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ChecksFailed => out.write_str("its health checks fail"),
            Self::ChecksPassed => out.write_str("its health checks pass"),
            Self::Unchecked => out.write_str("health checks are turned off"),
            Self::Refused => out.write_str("it refuses connections"),
            Self::Reached => out.write_str("it takes connections again"),
            Self::Blamed(Blame::InARow(1)) => out.write_str("a failure right after its return"),
            Self::Blamed(Blame::InARow(count)) => write!(out, "{count} failures in a row"),
            Self::Blamed(Blame::Rate(percent)) => write!(out, "a success rate of {percent} %"),
            Self::Blamed(Blame::Slow(tenths)) => {
                let (times, tenths) = (tenths / 10, tenths % 10);
                write!(
                    out,
                    "answers that take {times}.{tenths} times as long as others"
                )
            }
            Self::Served => out.write_str("its ejection is over"),
            Self::Pardoned => out.write_str("no other endpoint is left"),
        }
    }
}

/// A change of standing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// What it was.
    pub from: Standing,
    /// What it is.
    pub to: Standing,
    /// Why.
    pub cause: Cause,
}
