//! Path rewrites. They work on the path, never on the query, and in the normal form that routes matched.
//!
//! A path that no rewrite applies to is forwarded as it came. One that is rewritten is forwarded in normal form:
//! what the endpoint then reads is what was matched, dot segments and escapes included.

use std::borrow::Cow;

use http::uri::{PathAndQuery, Uri};
use regex::Regex;

use crate::base::fault::Fault;
use crate::base::path::{PathRefused, normal_path, strip_segments};
use crate::base::pattern::compile;

use super::error::FilterInvalid;

/// Replaces the front of the path, by whole segments.
#[derive(Clone, Debug)]
pub struct PrefixRewrite {
    /// In normal form, without a slash at its end.
    from: Box<str>,
    /// The same.
    to: Box<str>,
}

/// Replaces everything that an expression finds in the path.
#[derive(Clone, Debug)]
pub struct RegexRewrite {
    pattern: Regex,
    to: Box<str>,
}

impl PrefixRewrite {
    /// A slash at the end of `from` or `to` does not count: what follows the prefix begins with one.
    pub(super) fn new(from: &str, to: &str) -> Result<Self, FilterInvalid> {
        Ok(Self {
            from: parse_prefix(from)?,
            to: parse_prefix(to)?,
        })
    }

    pub(super) fn apply(&self, uri: &mut Uri) -> Result<(), Fault> {
        let path = normal_path(uri.path())
            .map_err(|_| Fault::PathRefused)?
            .path;
        if !path.starts_with('/') {
            return Ok(());
        }
        let Some(rest) = strip_segments(&path, &self.from) else {
            return Ok(());
        };
        let query = uri.query().map_or(0, str::len);
        let mut target = String::with_capacity(self.to.len() + rest.len() + query + 2);
        target.push_str(&self.to);
        target.push_str(rest);
        if target.is_empty() {
            target.push('/');
        }
        replace(uri, target)
    }
}

impl RegexRewrite {
    pub(super) fn new(pattern: &str, to: &str) -> Result<Self, FilterInvalid> {
        let pattern = compile(pattern).map_err(FilterInvalid::Pattern)?;
        check_groups(&pattern, to)?;
        Ok(Self {
            pattern,
            to: to.into(),
        })
    }

    pub(super) fn apply(&self, uri: &mut Uri) -> Result<(), Fault> {
        let path = normal_path(uri.path())
            .map_err(|_| Fault::PathRefused)?
            .path;
        if !path.starts_with('/') {
            return Ok(());
        }
        // Borrowed: nothing was found.
        let Cow::Owned(found) = self.pattern.replace_all(&path, &*self.to) else {
            return Ok(());
        };
        // What a replacement puts together may hold dot segments that neither part had.
        let target = match normal_path(&found) {
            Ok(normal) if found.starts_with('/') => normal.path.into_owned(),
            Ok(_) | Err(_) => return Err(Fault::PathRefused),
        };
        replace(uri, target)
    }
}

/// Puts `path` in the place of the path of `uri` and keeps the rest.
fn replace(uri: &mut Uri, mut path: String) -> Result<(), Fault> {
    if let Some(query) = uri.query() {
        path.push('?');
        path.push_str(query);
    }
    let target = PathAndQuery::from_maybe_shared(path).map_err(|_| Fault::PathRefused)?;
    let mut parts = std::mem::take(uri).into_parts();
    parts.path_and_query = Some(target);
    *uri = Uri::from_parts(parts).map_err(|_| Fault::PathRefused)?;
    Ok(())
}

fn parse_prefix(path: &str) -> Result<Box<str>, FilterInvalid> {
    let refused = |why| FilterInvalid::Path(path.to_owned(), why);
    if !path.starts_with('/') {
        return Err(refused(PathRefused::Relative));
    }
    let normal = normal_path(path).map_err(refused)?.path;
    Ok(normal.strip_suffix('/').unwrap_or(&normal).into())
}

/// A group that is not there would be replaced by nothing; `$1x` is the group `1x`, not the first and an `x`.
fn check_groups(pattern: &Regex, to: &str) -> Result<(), FilterInvalid> {
    let mut rest = to;
    while let Some((_, tail)) = rest.split_once('$') {
        if let Some(tail) = tail.strip_prefix('$') {
            rest = tail;
            continue;
        }
        let name = match tail.strip_prefix('{').and_then(|tail| tail.split_once('}')) {
            Some((name, _)) => name,
            None => {
                let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
                tail.split_once(|c| !is_name(c))
                    .map_or(tail, |(name, _)| name)
            }
        };
        let is_there = match name.parse::<usize>() {
            Ok(number) => number < pattern.captures_len(),
            Err(_) => pattern.capture_names().flatten().any(|other| other == name),
        };
        if !is_there {
            return Err(FilterInvalid::Group(name.to_owned()));
        }
        rest = tail;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(apply: impl Fn(&mut Uri) -> Result<(), Fault>, cases: &[(&str, &str)]) {
        for (uri, expected) in cases {
            let mut found: Uri = uri.parse().unwrap();
            apply(&mut found).unwrap();
            assert_eq!(found, *expected, "{uri}");
        }
    }

    #[test]
    fn a_prefix_is_replaced_by_whole_segments() {
        for (from, to) in [("/v1", "/"), ("/v1/", "/"), ("/%76%31", "//")] {
            let rewrite = PrefixRewrite::new(from, to).unwrap();
            check(
                |uri| rewrite.apply(uri),
                &[
                    ("/v1", "/"),
                    ("/v1/", "/"),
                    ("/v1/x", "/x"),
                    ("/v1/x/", "/x/"),
                    ("/v1?q=/v1", "/?q=/v1"),
                    ("/v1/x?", "/x?"),
                    ("/v10/x", "/v10/x"),
                    ("/x/v1", "/x/v1"),
                    ("/", "/"),
                    ("*", "*"),
                    ("http://a.b/v1/x?q", "http://a.b/x?q"),
                ],
            );
        }
        for to in ["/api/v2", "/api/v2/"] {
            let rewrite = PrefixRewrite::new("/v1", to).unwrap();
            check(
                |uri| rewrite.apply(uri),
                &[
                    ("/v1", "/api/v2"),
                    ("/v1/", "/api/v2/"),
                    ("/v1/x", "/api/v2/x"),
                ],
            );
        }
        let rewrite = PrefixRewrite::new("/", "/app").unwrap();
        check(
            |uri| rewrite.apply(uri),
            &[("/", "/app/"), ("/x", "/app/x"), ("*", "*")],
        );
    }

    #[test]
    fn a_rewritten_path_is_forwarded_in_normal_form() {
        let rewrite = PrefixRewrite::new("/v1", "/").unwrap();
        check(
            |uri| rewrite.apply(uri),
            &[
                ("/%761/x", "/x"),
                ("/v1/a%2fb", "/a%2Fb"),
                ("/v1//evil.example.com/x", "/evil.example.com/x"),
                ("//v1//x", "/x"),
                ("/v1/../v1/./x", "/x"),
                ("/x/../v1/y", "/y"),
                ("/v1/%7Euser", "/~user"),
                ("/v1/%e2%80%ae", "/%E2%80%AE"),
                ("/v1/a%20b", "/a%20b"),
            ],
        );
    }

    #[test]
    fn a_path_without_the_prefix_is_forwarded_as_it_came() {
        let rewrite = PrefixRewrite::new("/v1", "/").unwrap();
        check(
            |uri| rewrite.apply(uri),
            &[
                ("/x/%7e//y", "/x/%7e//y"),
                ("/v1/../x", "/v1/../x"),
                ("/v1%2fx", "/v1%2fx"),
            ],
        );
    }

    #[test]
    fn an_expression_replaces_all_that_it_finds() {
        for (pattern, to, uri, expected) in [
            ("^/users/([0-9]+)", "/u/$1", "/users/7/x?y", "/u/7/x?y"),
            ("^/(?<a>[^/]+)/(?<b>[^/]+)$", "/$b/${a}s", "/x/y", "/y/xs"),
            ("o", "0", "/foo/o", "/f00/0"),
            ("o", "$$", "/fo", "/f$"),
            ("^/b", "/c", "/a/%7e", "/a/%7e"),
            ("^/a/~", "/x", "/a/%7e", "/x"),
            ("^/a", "/x", "/a//./b", "/x/b"),
            ("^/a", "", "/a/b", "/b"),
            ("a", "a b", "/a", "/a%20b"),
            ("b", "é", "/b", "/%C3%A9"),
            ("foo", "", "/x/.foo./secret", "/secret"),
            ("^/", "//evil.example.com/", "/x", "/evil.example.com/x"),
            (".*", "/x", "*", "*"),
        ] {
            let rewrite = RegexRewrite::new(pattern, to).unwrap();
            check(|uri| rewrite.apply(uri), &[(uri, expected)]);
        }
    }

    #[test]
    fn a_rewrite_that_leads_to_no_path_is_refused() {
        for (pattern, to, uri) in [
            ("^/a", "", "/a"),
            ("^/", "", "/x"),
            ("^/", "http://evil/", "/x"),
            ("b", "?admin=1", "/b"),
            ("b", "#", "/b"),
            ("b", "%", "/b"),
            ("b", "%00", "/b"),
            ("b", "\r\nx: y", "/b"),
            ("b", "/x", "/%zz/b"),
        ] {
            let rewrite = RegexRewrite::new(pattern, to).unwrap();
            let mut uri: Uri = uri.parse().unwrap();
            let before = uri.clone();
            assert_eq!(rewrite.apply(&mut uri), Err(Fault::PathRefused), "{to:?}");
            assert_eq!(uri, before);
        }
    }

    #[test]
    fn what_cannot_be_rewritten_is_named() {
        let path = |path: &str, why| FilterInvalid::Path(path.to_owned(), why);
        assert_eq!(
            PrefixRewrite::new("v1", "/").unwrap_err(),
            path("v1", PathRefused::Relative)
        );
        assert_eq!(
            PrefixRewrite::new("/v1", "").unwrap_err(),
            path("", PathRefused::Relative)
        );
        assert_eq!(
            PrefixRewrite::new("/v1", "/x?y").unwrap_err(),
            path("/x?y", PathRefused::QueryOrFragment)
        );
        assert!(matches!(
            RegexRewrite::new("(", "/").unwrap_err(),
            FilterInvalid::Pattern(_)
        ));
        for (to, name) in [
            ("/$2", "2"),
            ("/$1x", "1x"),
            ("/${b}", "b"),
            ("/$", ""),
            ("/$$$3", "3"),
        ] {
            assert_eq!(
                RegexRewrite::new("(?<a>x)", to).unwrap_err(),
                FilterInvalid::Group(name.to_owned()),
                "{to}"
            );
        }
        for to in ["/$0$1$a", "/${1}x${a}", "/$$1"] {
            assert!(RegexRewrite::new("(?<a>x)", to).is_ok(), "{to}");
        }
    }

    proptest! {
        #[test]
        fn a_rewritten_path_never_begins_with_two_slashes(path in "/[v1/.%2fe]{0,16}") {
            let Ok(mut uri) = path.parse::<Uri>() else { return Ok(()) };
            let before = uri.clone();
            let rewrite = PrefixRewrite::new("/v1", "/").unwrap();
            if rewrite.apply(&mut uri).is_ok() && uri != before {
                prop_assert!(uri.path().starts_with('/') && !uri.path().starts_with("//"));
            }
        }
    }
}
