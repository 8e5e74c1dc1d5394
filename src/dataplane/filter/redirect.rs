//! Redirects: a template becomes the URL that a client is sent to.
//!
//! What the client sent goes into `Location`, so the template decides the host and nothing else may: the path is
//! put in behind a slash, and a result that is a path never begins with two (browsers read `//evil` and `/\evil`
//! as hosts). What no URL holds is percent-encoded, line ends first of all.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::uri::PathAndQuery;
use http::{Response, StatusCode};

use crate::base::path::push_escape;

use super::error::FilterInvalid;

/// A prepared redirect.
#[derive(Clone, Debug)]
pub struct Redirect {
    parts: Box<[Part]>,
    status: StatusCode,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    Scheme,
    Host,
    Path,
    Query,
}

impl Redirect {
    /// Prepares a redirect to a URL with a host, or to a path on the same one. `{scheme}`, `{host}` (without
    /// port), `{path}` and `{query}` (with its question mark, if there is a query) stand for those of the request.
    ///
    /// # Errors
    /// [`FilterInvalid`] for an unknown placeholder, a target whose host the client could choose by its path, or
    /// a status that is none of 301, 302, 303, 307 and 308.
    pub fn new(template: &str, status: u16) -> Result<Self, FilterInvalid> {
        let code = StatusCode::from_u16(status)
            .ok()
            .filter(|_| matches!(status, 301 | 302 | 303 | 307 | 308))
            .ok_or(FilterInvalid::RedirectStatus(status))?;
        let parts = parse(template)?;
        if !has_own_host(&parts) {
            return Err(FilterInvalid::Target);
        }
        Ok(Self {
            parts: parts.into(),
            status: code,
        })
    }

    /// The status.
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// The value of `Location` for a request.
    pub fn location(&self, scheme: &str, host: &str, target: &PathAndQuery) -> HeaderValue {
        let mut url = String::with_capacity(64 + target.as_str().len());
        for part in &self.parts {
            match part {
                Part::Text(text) => url.push_str(text),
                Part::Scheme => push_safe(&mut url, scheme),
                Part::Host => push_safe(&mut url, host),
                Part::Path => push_path(&mut url, target.path()),
                Part::Query => {
                    if let Some(query) = target.query() {
                        url.push('?');
                        push_safe(&mut url, query);
                    }
                }
            }
        }
        let path = url.trim_start_matches(['/', '\\']);
        if path.len() < url.len() {
            url = format!("/{path}");
        }
        // Everything in it is printable ASCII, so this is never the other value.
        HeaderValue::try_from(url).unwrap_or(HeaderValue::from_static("/"))
    }

    /// The answer to one request.
    pub fn answer(&self, scheme: &str, host: &str, target: &PathAndQuery) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = self.status;
        let location = self.location(scheme, host, target);
        response.headers_mut().insert(header::LOCATION, location);
        response
    }
}

fn parse(template: &str) -> Result<Vec<Part>, FilterInvalid> {
    let mut parts = Vec::new();
    let mut rest = template;
    while let Some((text, tail)) = rest.split_once('{') {
        push_text(&mut parts, text)?;
        let (name, tail) = tail.split_once('}').ok_or(FilterInvalid::Brace)?;
        parts.push(match name {
            "scheme" => Part::Scheme,
            "host" => Part::Host,
            "path" => Part::Path,
            "query" => Part::Query,
            unknown => return Err(FilterInvalid::Placeholder(unknown.to_owned())),
        });
        rest = tail;
    }
    push_text(&mut parts, rest)?;
    Ok(parts)
}

fn push_text(parts: &mut Vec<Part>, text: &str) -> Result<(), FilterInvalid> {
    if text.contains('}') {
        return Err(FilterInvalid::Brace);
    }
    if let Some(character) = text.chars().find(|c| !c.is_ascii_graphic() || *c == '\\') {
        return Err(FilterInvalid::TargetCharacter(character));
    }
    if !text.is_empty() {
        parts.push(Part::Text(text.into()));
    }
    Ok(())
}

/// Whether the host of the target is the template's own, or the target is a path.
fn has_own_host(parts: &[Part]) -> bool {
    let (first, rest) = match parts {
        [Part::Path, ..] => return true,
        [Part::Scheme, Part::Text(text), rest @ ..] => (text.strip_prefix("://"), rest),
        [Part::Text(text), rest @ ..] => {
            if text.starts_with('/') {
                // `//host` would leave the scheme to the client; `/` before `{path}` is seen to when it is written.
                return !text.starts_with("//");
            }
            let url = text.strip_prefix("https://");
            (url.or_else(|| text.strip_prefix("http://")), rest)
        }
        _ => return false,
    };
    match first {
        None => false,
        Some("") => rest.first() == Some(&Part::Host),
        Some(text) => !text.starts_with(['/', '?', '#']),
    }
}

/// A path that does not begin with a slash (`*`) would lengthen the host.
fn push_path(url: &mut String, path: &str) {
    if !path.starts_with('/') {
        url.push('/');
    }
    if path != "*" {
        push_safe(url, path);
    }
}

/// Appends what came from a client, percent-encoding what no URL holds.
fn push_safe(url: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && byte != b'\\' {
            url.push(char::from(byte));
        } else {
            push_escape(url, byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(template: &str, target: &str, expected: &str) {
        let redirect = Redirect::new(template, 308).unwrap();
        let target = target.parse().unwrap();
        let found = redirect.location("http", "old.example.com", &target);
        assert_eq!(found, expected, "{template}");
    }

    #[test]
    fn a_template_is_filled_with_the_request() {
        let app = "https://app.example.com";
        for (template, target, expected) in [
            (
                "https://app.example.com{path}{query}",
                "/a/b?c=d",
                "/a/b?c=d",
            ),
            ("https://app.example.com{path}{query}", "/a", "/a"),
            ("https://app.example.com{path}{query}", "/a?", "/a?"),
            ("https://app.example.com{path}", "/a?c=d", "/a"),
            ("https://app.example.com/new{path}", "/a", "/new/a"),
            ("https://app.example.com/", "/a?b", "/"),
            ("https://app.example.com", "/a?b", ""),
            ("https://app.example.com{path}", "*", "/"),
            (
                "https://app.example.com{path}",
                "//evil.example.com",
                "//evil.example.com",
            ),
        ] {
            check(template, target, &format!("{app}{expected}"));
        }
        check(
            "{scheme}://{host}:8443{path}",
            "/a",
            "http://old.example.com:8443/a",
        );
        check(
            "https://{host}{path}{query}",
            "/a?b",
            "https://old.example.com/a?b",
        );
        check("https://www.{host}/", "/a", "https://www.old.example.com/");
        check("/login{query}", "/a?b", "/login?b");
    }

    #[test]
    fn a_path_never_becomes_another_host() {
        for (template, target, expected) in [
            ("{path}", "//evil.example.com/x", "/evil.example.com/x"),
            (
                "{path}{query}",
                "///evil.example.com?q",
                "/evil.example.com?q",
            ),
            ("{path}", "/\\evil.example.com", "/%5Cevil.example.com"),
            ("{path}", "/\\/evil.example.com", "/%5C/evil.example.com"),
            ("{path}/", "/", "/"),
            ("/{path}", "/evil.example.com", "/evil.example.com"),
            ("/{path}", "//evil.example.com", "/evil.example.com"),
            ("/x{path}", "//evil.example.com", "/x//evil.example.com"),
        ] {
            check(template, target, expected);
        }
    }

    #[test]
    fn what_no_url_holds_is_encoded() {
        let redirect = Redirect::new("https://{host}{path}", 302).unwrap();
        let target = "/a\u{e9}".parse().unwrap();
        let location = redirect.location("https", "a\r\nset-cookie: x", &target);
        assert_eq!(location, "https://a%0D%0Aset-cookie:%20x/a%C3%A9");
    }

    #[test]
    fn the_answer_has_the_status_and_the_place() {
        let redirect = Redirect::new("/new", 301).unwrap();
        let answer = redirect.answer("http", "a", &PathAndQuery::from_static("/"));
        assert_eq!(answer.status(), redirect.status());
        assert_eq!(answer.headers()[header::LOCATION], "/new");
    }

    #[test]
    fn what_is_no_target_is_named() {
        use FilterInvalid::{Brace, Placeholder, Target, TargetCharacter};
        for (template, expected) in [
            ("https://a{uri}", Placeholder("uri".to_owned())),
            ("https://a{}", Placeholder(String::new())),
            ("https://a{path", Brace),
            ("https://a}", Brace),
            ("https://a/{{path}}", Placeholder("{path".to_owned())),
            ("", Target),
            ("app.example.com", Target),
            ("ftp://a/", Target),
            ("javascript:alert(1)", Target),
            ("//a{path}", Target),
            ("https://", Target),
            ("https://{path}", Target),
            ("https:///{path}", Target),
            ("https://{query}", Target),
            ("{scheme}:{path}", Target),
            ("{scheme}", Target),
            ("{host}/x", Target),
            ("{query}", Target),
            ("https://a/b c", TargetCharacter(' ')),
            ("https://a/\r\nx", TargetCharacter('\r')),
            ("/\\a", TargetCharacter('\\')),
            ("https://é/", TargetCharacter('é')),
        ] {
            assert_eq!(
                Redirect::new(template, 308).unwrap_err(),
                expected,
                "{template}"
            );
        }
        for status in [200, 300, 304, 305, 306, 309, 404, 0] {
            let found = Redirect::new("/x", status).unwrap_err();
            assert_eq!(found, FilterInvalid::RedirectStatus(status));
        }
    }

    proptest! {
        #[test]
        fn a_location_keeps_to_its_host(host in any::<String>(), path in "[/\\\\a.@:%{}é?]{0,12}") {
            let Ok(target) = path.parse::<PathAndQuery>() else { return Ok(()) };
            let fixed = Redirect::new("https://a.b{path}{query}", 308).unwrap();
            let found = fixed.location("http", &host, &target);
            prop_assert!(found.to_str().unwrap().starts_with("https://a.b/"));
            for template in ["{path}{query}", "/{path}", "/x{host}{path}"] {
                let found = Redirect::new(template, 308).unwrap();
                let found = found.location("http", &host, &target);
                let found = found.to_str().unwrap();
                prop_assert!(found.starts_with('/'), "{}", found);
                prop_assert!(!found.starts_with("//") && !found.starts_with("/\\"), "{}", found);
            }
        }
    }
}
