//! Configs of other proxies, turned into ours: text to text, with a report of all that did not come along.
//!
//! Nothing is left out in silence: each directive is either carried over, or has a [`Note`] that says why not. What kept
//! requests out and has no counterpart here closes its route rather than open it. No files and sockets: whoever calls
//! brings the text, and a function for the files that it includes.

mod caddy;
mod draft;
mod nginx;
mod text;
mod value;

use std::fmt;

pub use self::caddy::import as caddyfile;
pub use self::nginx::import as nginx;

/// Finds the files that a pattern names: path and text of each, in their order.
///
/// # Errors
/// Why there are none.
pub type Include<'a> = &'a dyn Fn(&str) -> Result<Vec<(String, String)>, String>;

/// How deep files may include each other, and blocks stand in each other.
const DEPTH_LIMIT: usize = 32;

/// Files that may be included in all.
const FILES_LIMIT: usize = 10_000;

/// What has become of a config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// Our config.
    pub yaml: String,
    /// What differs, in the order of the files.
    pub notes: Vec<Note>,
}

/// Something that did not come along as it was.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Note {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// How much it matters.
    pub weight: Weight,
    /// What was written.
    pub directive: String,
    /// Why it is not there, and what to do about it.
    pub why: String,
}

/// How much a note matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// It has no counterpart: something is missing.
    Missing,
    /// It is there, and does not do quite the same.
    Differs,
    /// There is no need for it.
    Unneeded,
}

impl fmt::Display for Weight {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Missing => "missing",
            Self::Differs => "differs",
            Self::Unneeded => "not needed",
        })
    }
}

impl fmt::Display for Note {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            line,
            weight,
            directive,
            why,
        } = self;
        write!(out, "{file}:{line}: {weight}: {directive}: {why}")
    }
}

/// A text that is no config of its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportError {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong there.
    pub message: String,
}

impl fmt::Display for ImportError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}: {}", self.file, self.line, self.message)
    }
}

impl std::error::Error for ImportError {}
