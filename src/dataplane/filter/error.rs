//! Why a filter, redirect or fixed answer cannot be made of what the operator wrote.
//!
//! The control plane puts the text of one beside the place in the config; no request ever meets one.

use std::fmt;

use crate::base::path::PathRefused;
use crate::base::pattern::PatternInvalid;

/// Why a filter, redirect or fixed answer cannot be made; displayed as what is wrong and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilterInvalid {
    /// Not the name of a header field.
    HeaderName(String),
    /// The value of the field named holds what no header value may.
    HeaderValue(String),
    /// The field frames messages or connections, and is ours alone.
    HeaderForbidden(String),
    /// The value set for `host` is not a host.
    Host(String),
    /// Not a path.
    Path(String, PathRefused),
    /// Not an expression.
    Pattern(PatternInvalid),
    /// The replacement names a group that the expression does not have.
    Group(String),
    /// The template names something unknown in braces.
    Placeholder(String),
    /// The template holds a brace without its partner.
    Brace,
    /// The template holds a character that no URL has.
    TargetCharacter(char),
    /// The template is neither a URL with a host nor a path.
    Target,
    /// Not the status of a redirect.
    RedirectStatus(u16),
    /// Not the status of an answer.
    Status(u16),
    /// An answer of this status has no body.
    BodyForbidden(u16),
}

impl fmt::Display for FilterInvalid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HeaderName(name) => write!(out, "`{name}` is not the name of a header field"),
            Self::HeaderValue(name) => {
                write!(out, "the value of `{name}` may not hold control characters")
            }
            Self::HeaderForbidden(name) => write!(
                out,
                "`{name}` is set by Lockgate itself and may not be changed by a filter"
            ),
            Self::Host(value) => write!(out, "`{value}` is not a host with an optional port"),
            Self::Path(path, why) => write!(out, "`{path}` is not a path: {why}"),
            Self::Pattern(why) => write!(out, "not a regular expression: {why}"),
            Self::Group(name) => write!(
                out,
                "the expression has no group `{name}`; write ${{1}} where text follows a group, \
                 and $$ for a dollar sign"
            ),
            Self::Placeholder(name) => write!(
                out,
                "unknown placeholder {{{name}}}; placeholders are: {{scheme}}, {{host}}, {{path}}, {{query}}"
            ),
            Self::Brace => out.write_str("a brace without its partner"),
            Self::TargetCharacter(character) => {
                write!(out, "{character:?} may not stand in a URL; percent-encode it")
            }
            Self::Target => out.write_str(
                "a redirect leads to a URL with a host, such as https://app.example.com{path}{query}, \
                 or to a path",
            ),
            Self::RedirectStatus(status) => write!(
                out,
                "{status} is not the status of a redirect; use 301, 302, 303, 307 or 308"
            ),
            Self::Status(status) => write!(
                out,
                "{status} is not the status of an answer; use a number from 200 to 599"
            ),
            Self::BodyForbidden(status) => write!(out, "an answer with status {status} has no body"),
        }
    }
}
