//! Regular expressions of operators, compiled under limits.
//!
//! The engine is linear in its input; what an expression may cost is its compiled size, and that is bounded here.

use std::fmt;

use regex::{Regex, RegexBuilder};

/// The compiled size of one expression, and of the cache of its lazy automaton.
const SIZE_LIMIT: usize = 1 << 20;

/// Why an expression does not compile; displayed as one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatternInvalid(String);

impl fmt::Display for PatternInvalid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// Compiles an expression that may match anywhere.
///
/// # Errors
/// [`PatternInvalid`] if it is not an expression, or compiles to more than 1 MiB.
pub fn compile(pattern: &str) -> Result<Regex, PatternInvalid> {
    RegexBuilder::new(pattern)
        .size_limit(SIZE_LIMIT)
        .dfa_size_limit(SIZE_LIMIT)
        .build()
        .map_err(|error| PatternInvalid(one_line(&error)))
}

/// Compiles an expression that must match the whole of a text.
///
/// # Errors
/// As [`compile`].
pub fn compile_whole(pattern: &str) -> Result<Regex, PatternInvalid> {
    // By itself first: `a)|(b` would become an expression only by our parentheses.
    compile(pattern)?;
    compile(&format!(r"\A(?:{pattern})\z"))
}

/// The last line of the engine's message says what is wrong; those before it draw the expression.
fn one_line(error: &regex::Error) -> String {
    match error {
        regex::Error::CompiledTooBig(_) => "the expression is too large when compiled".to_owned(),
        other => {
            let text = other.to_string();
            let last = text.lines().next_back().unwrap_or_default().trim();
            last.strip_prefix("error: ").unwrap_or(last).to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_match_is_anchored_at_both_ends() {
        let pattern = compile_whole("a|ab").unwrap();
        assert!(pattern.is_match("a") && pattern.is_match("ab"));
        for text in ["xa", "abx", "a\n", ""] {
            assert!(!pattern.is_match(text), "{text:?}");
        }
    }

    #[test]
    fn what_is_not_an_expression_is_named_in_one_line() {
        assert_eq!(compile("a(").unwrap_err().to_string(), "unclosed group");
        assert!(compile_whole("a)|(b").is_err());
        assert_eq!(
            compile("(a{1000}){1000}").unwrap_err().to_string(),
            "the expression is too large when compiled"
        );
    }
}
