//! Which files `include` means: a path whose parts may hold `*`.
//!
//! Only the language of patterns is here. Folders are read by the control plane, which walks down part by part and so
//! knows where files may appear.

use std::fmt;
use std::path::{Path, PathBuf};

/// A path whose parts may hold `*`, which stands for any characters within a name.
///
/// As in a shell, a `*` at the front of a part does not stand for a dot: what editors and Kubernetes hide stays
/// hidden.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    front: PathBuf,
    parts: Vec<String>,
}

impl Pattern {
    /// Reads a pattern; one that is relative begins at `folder`.
    pub fn new(folder: &Path, text: &str) -> Self {
        let mut front = folder.to_owned();
        let mut parts = Vec::new();
        if text.starts_with('/') {
            front = PathBuf::from("/");
        }
        for part in text.split('/').filter(|part| !matches!(*part, "" | ".")) {
            if parts.is_empty() && !part.contains('*') {
                front.push(part);
            } else {
                parts.push(part.to_owned());
            }
        }
        Self { front, parts }
    }

    /// What stands before the first part with a `*`: a folder, or the file itself where there is none.
    pub fn front(&self) -> &Path {
        &self.front
    }

    /// The parts from the first with a `*` to the last; none if the pattern is just a path.
    pub fn parts(&self) -> &[String] {
        &self.parts
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut whole = self.front.clone();
        whole.extend(&self.parts);
        whole.display().fmt(out)
    }
}

/// Whether a name is one of those that a part of a pattern means.
pub fn fits(part: &str, name: &str) -> bool {
    if name.starts_with('.') != part.starts_with('.') {
        return false;
    }
    let mut pieces = part.split('*');
    let Some(mut rest) = name.strip_prefix(pieces.next().unwrap_or_default()) else {
        return false;
    };
    let Some(last) = pieces.next_back() else {
        return rest.is_empty();
    };
    for piece in pieces {
        match rest.split_once(piece) {
            Some((_, behind)) => rest = behind,
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters_within_a_name() {
        let check = |part, name, expected| assert_eq!(fits(part, name), expected, "{part} {name}");
        check("*.yaml", "shop.yaml", true);
        check("*.yaml", "shop.yaml~", false);
        check("*.yaml", ".shop.yaml", false);
        check("*", "..data", false);
        check(".*", ".hidden", true);
        check("shop.yaml", "shop.yaml", true);
        check("shop.yaml", "shop.yaml.old", false);
        check("a*b*c", "abc", true);
        check("a*b*c", "a1b2c", true);
        check("a*b*c", "a1c", false);
        check("ab*ba", "aba", false);
        check("site-*", "site-", true);
        check("**", "x", true);
    }

    #[test]
    fn a_pattern_begins_at_its_folder_and_is_walked_from_its_first_star() {
        let check = |text, front: &str, parts: &[&str]| {
            let pattern = Pattern::new(Path::new("/etc/lockgate"), text);
            assert_eq!(pattern.front(), Path::new(front), "{text}");
            assert_eq!(pattern.parts(), parts, "{text}");
        };
        check("sites/*.yaml", "/etc/lockgate/sites", &["*.yaml"]);
        check(
            "./sites//*/site.yaml",
            "/etc/lockgate/sites",
            &["*", "site.yaml"],
        );
        check("one.yaml", "/etc/lockgate/one.yaml", &[]);
        check("../*.yaml", "/etc/lockgate/..", &["*.yaml"]);
        check("/srv/*/*.yaml", "/srv", &["*", "*.yaml"]);
        let whole = Pattern::new(Path::new("conf"), "sites/*/x.yaml").to_string();
        assert_eq!(whole, "conf/sites/*/x.yaml");
    }
}
