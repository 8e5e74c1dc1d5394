//! Path conditions: exact, prefix by whole segments, and regular expression over the normal form of a path.
//!
//! The form itself is `base::path`. A prefix with and without a slash at its end is the same prefix: `/v1` and
//! `/v1/` both take `/v1`, `/v1/` and `/v1/x`, and neither takes `/v10`. For an exact path the slash counts.

use regex::Regex;

use crate::base::path::strip_segments;
use crate::base::pattern::compile_whole;

pub use crate::base::path::{NormalPath, PathRefused, normal_path};
pub use crate::base::pattern::PatternInvalid;

/// A condition on the path of a request.
#[derive(Clone, Debug)]
pub struct PathMatch(Kind);

#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// Every path, the `*` of OPTIONS included.
    Any,
    /// This path and all below; without a slash at its end, so that the root is empty.
    Prefix(Box<str>),
    /// Just this path.
    Exact(Box<str>),
    /// Paths that the expression matches as a whole.
    Regex(Regex),
}

impl PathMatch {
    /// Every path, the `*` of OPTIONS included.
    pub const ANY: Self = Self(Kind::Any);

    /// This path and all below it.
    ///
    /// # Errors
    /// [`PathRefused`] if no request could have it.
    pub fn prefix(path: &str) -> Result<Self, PathRefused> {
        let normal = absolute(path)?;
        let prefix = normal.path.strip_suffix('/').unwrap_or(&normal.path);
        Ok(Self(Kind::Prefix(prefix.into())))
    }

    /// Just this path.
    ///
    /// # Errors
    /// [`PathRefused`] if no request could have it.
    pub fn exact(path: &str) -> Result<Self, PathRefused> {
        Ok(Self(Kind::Exact(absolute(path)?.path.into())))
    }

    /// Paths whose normal form the expression matches as a whole.
    ///
    /// # Errors
    /// [`PatternInvalid`] if it does not compile.
    pub fn regex(pattern: &str) -> Result<Self, PatternInvalid> {
        Ok(Self(Kind::Regex(compile_whole(pattern)?)))
    }

    /// Whether a path in normal form meets the condition.
    pub fn holds(&self, path: &str) -> bool {
        match &self.0 {
            Kind::Any => true,
            Kind::Prefix(prefix) => path.starts_with('/') && strip_segments(path, prefix).is_some(),
            Kind::Exact(exact) => **exact == *path,
            Kind::Regex(pattern) => pattern.is_match(path),
        }
    }

    /// Whether there is a condition at all.
    pub fn is_condition(&self) -> bool {
        match &self.0 {
            Kind::Any => false,
            Kind::Prefix(_) | Kind::Exact(_) | Kind::Regex(_) => true,
        }
    }

    pub(super) fn kind(&self) -> &Kind {
        &self.0
    }

    /// How specific the condition is; a greater one wins.
    pub(super) fn rank(&self) -> (u8, usize) {
        match &self.0 {
            Kind::Any => (0, 0),
            Kind::Prefix(prefix) => (1, prefix.len()),
            Kind::Regex(_) => (2, 0),
            Kind::Exact(_) => (3, 0),
        }
    }
}

impl Default for PathMatch {
    fn default() -> Self {
        Self::ANY
    }
}

/// The normal form of a pattern; `*` and nothing are paths of requests, but not patterns.
fn absolute(path: &str) -> Result<NormalPath<'_>, PathRefused> {
    if path.starts_with('/') {
        normal_path(path)
    } else {
        Err(PathRefused::Relative)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(condition: &PathMatch, holds: &[&str], fails: &[&str]) {
        for path in holds {
            assert!(condition.holds(path), "{path}");
        }
        for path in fails {
            assert!(!condition.holds(path), "{path}");
        }
    }

    #[test]
    fn a_prefix_ends_between_segments() {
        for written in ["/v1", "/v1/", "//v1", "/x/../v1/", "/%761"] {
            let prefix = PathMatch::prefix(written).unwrap();
            check(
                &prefix,
                &["/v1", "/v1/", "/v1/x", "/v1/x/y"],
                &["/", "/v10", "/v", "/x/v1", "*"],
            );
        }
        check(&PathMatch::prefix("/").unwrap(), &["/", "/x"], &["*"]);
    }

    #[test]
    fn an_exact_path_tells_its_slash() {
        check(
            &PathMatch::exact("/a/./b").unwrap(),
            &["/a/b"],
            &["/a/b/", "/a"],
        );
        check(&PathMatch::exact("/a/").unwrap(), &["/a/"], &["/a"]);
    }

    #[test]
    fn a_regex_matches_the_whole_path() {
        let regex = PathMatch::regex("/[0-9]+|/x").unwrap();
        check(&regex, &["/12", "/x"], &["/12/", "/xy", "/a/12"]);
    }

    #[test]
    fn a_pattern_that_no_request_could_have_is_refused() {
        for (written, expected) in [
            ("", PathRefused::Relative),
            ("*", PathRefused::Relative),
            ("v1", PathRefused::Relative),
            ("/v1?x=1", PathRefused::QueryOrFragment),
            ("/v1/%zz", PathRefused::EscapeInvalid),
        ] {
            assert_eq!(PathMatch::prefix(written).unwrap_err(), expected);
            assert_eq!(PathMatch::exact(written).unwrap_err(), expected);
        }
        assert!(PathMatch::regex("(").is_err());
    }
}
