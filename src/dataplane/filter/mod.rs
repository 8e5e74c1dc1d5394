//! The filter room: steps on requests and responses, and the answers that a route gives by itself.
//!
//! The control plane makes filters, through constructors that take what the operator wrote; the exchange runs
//! them: [`on_request`] in their order, [`on_response`] backwards, so that the first filter of a route is the
//! outermost. Values are prepared: a request pays for the header map's own work and, if its path is rewritten,
//! for the new path.

mod error;
mod headers;
mod redirect;
mod respond;
mod rewrite;

use http::{HeaderMap, request};

use crate::base::fault::Fault;
use crate::dataplane::upstream::head::AnswerHead;

pub use self::error::FilterInvalid;
pub use self::headers::{HeaderNames, HeaderValues};
pub use self::redirect::Redirect;
pub use self::respond::FixedResponse;
pub use self::rewrite::{PrefixRewrite, RegexRewrite};

/// A step on requests or responses.
#[derive(Clone, Debug)]
pub enum Filter {
    /// Replaces the front of the path, by whole segments.
    RewritePrefix(PrefixRewrite),
    /// Replaces what an expression finds in the path.
    RewriteRegex(RegexRewrite),
    /// Sets fields of the request.
    SetRequestHeaders(HeaderValues),
    /// Adds fields to the request.
    AddRequestHeaders(HeaderValues),
    /// Removes fields of the request.
    RemoveRequestHeaders(HeaderNames),
    /// Sets fields of the response.
    SetResponseHeaders(HeaderValues),
    /// Adds fields to the response.
    AddResponseHeaders(HeaderValues),
    /// Removes fields of the response.
    RemoveResponseHeaders(HeaderNames),
}

impl Filter {
    /// Replaces the prefix `from` of the path by `to`, by whole segments.
    ///
    /// # Errors
    /// [`FilterInvalid::Path`] if one of them is not a path.
    pub fn rewrite_prefix(from: &str, to: &str) -> Result<Self, FilterInvalid> {
        PrefixRewrite::new(from, to).map(Self::RewritePrefix)
    }

    /// Replaces everything that `pattern` finds in the path by `to`, in which `$1` and `${name}` are groups.
    ///
    /// # Errors
    /// [`FilterInvalid::Pattern`] and [`FilterInvalid::Group`].
    pub fn rewrite_regex(pattern: &str, to: &str) -> Result<Self, FilterInvalid> {
        RegexRewrite::new(pattern, to).map(Self::RewriteRegex)
    }

    /// Sets fields of the request in place of all that have their names. `host` may be set.
    ///
    /// # Errors
    /// See [`FilterInvalid`] for bad and forbidden names and values.
    pub fn set_request_headers<N: AsRef<str>, V: AsRef<str>>(
        fields: &[(N, V)],
    ) -> Result<Self, FilterInvalid> {
        HeaderValues::with_host(fields).map(Self::SetRequestHeaders)
    }

    /// Adds fields to the request beside those that have their names.
    ///
    /// # Errors
    /// See [`FilterInvalid`] for bad and forbidden names and values.
    pub fn add_request_headers<N: AsRef<str>, V: AsRef<str>>(
        fields: &[(N, V)],
    ) -> Result<Self, FilterInvalid> {
        HeaderValues::new(fields).map(Self::AddRequestHeaders)
    }

    /// Removes fields of the request.
    ///
    /// # Errors
    /// See [`FilterInvalid`] for bad and forbidden names.
    pub fn remove_request_headers<N: AsRef<str>>(names: &[N]) -> Result<Self, FilterInvalid> {
        HeaderNames::new(names).map(Self::RemoveRequestHeaders)
    }

    /// Sets fields of the response in place of all that have their names.
    ///
    /// # Errors
    /// See [`FilterInvalid`] for bad and forbidden names and values.
    pub fn set_response_headers<N: AsRef<str>, V: AsRef<str>>(
        fields: &[(N, V)],
    ) -> Result<Self, FilterInvalid> {
        HeaderValues::new(fields).map(Self::SetResponseHeaders)
    }

    /// Adds fields to the response beside those that have their names.
    ///
    /// # Errors
    /// See [`FilterInvalid`] for bad and forbidden names and values.
    pub fn add_response_headers<N: AsRef<str>, V: AsRef<str>>(
        fields: &[(N, V)],
    ) -> Result<Self, FilterInvalid> {
        HeaderValues::new(fields).map(Self::AddResponseHeaders)
    }

    /// Removes fields of the response.
    ///
    /// # Errors
    /// See [`FilterInvalid`] for bad and forbidden names.
    pub fn remove_response_headers<N: AsRef<str>>(names: &[N]) -> Result<Self, FilterInvalid> {
        HeaderNames::new(names).map(Self::RemoveResponseHeaders)
    }
}

/// Runs the filters on a request, in their order.
///
/// # Errors
/// [`Fault::PathRefused`] if a rewrite leads to something that is not a path.
pub fn on_request(filters: &[Filter], parts: &mut request::Parts) -> Result<(), Fault> {
    for filter in filters {
        match filter {
            Filter::RewritePrefix(rewrite) => rewrite.apply(&mut parts.uri)?,
            Filter::RewriteRegex(rewrite) => rewrite.apply(&mut parts.uri)?,
            Filter::SetRequestHeaders(fields) => fields.set(&mut parts.headers),
            Filter::AddRequestHeaders(fields) => fields.add(&mut parts.headers),
            Filter::RemoveRequestHeaders(names) => names.remove(&mut parts.headers),
            Filter::SetResponseHeaders(_)
            | Filter::AddResponseHeaders(_)
            | Filter::RemoveResponseHeaders(_) => (),
        }
    }
    Ok(())
}

/// Runs the filters on a response, backwards; `room` gives an empty map for fields that are still lines.
pub fn on_response(filters: &[Filter], head: &mut AnswerHead, room: impl Fn() -> HeaderMap) {
    for filter in filters.iter().rev() {
        match filter {
            Filter::SetResponseHeaders(fields) => fields.set(head.map_in(&room)),
            Filter::AddResponseHeaders(fields) => fields.add(head.map_in(&room)),
            Filter::RemoveResponseHeaders(names) => names.remove(head.map_in(&room)),
            Filter::RewritePrefix(_)
            | Filter::RewriteRegex(_)
            | Filter::SetRequestHeaders(_)
            | Filter::AddRequestHeaders(_)
            | Filter::RemoveRequestHeaders(_) => (),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};

    use super::*;

    #[test]
    fn requests_meet_filters_in_order_and_responses_backwards() {
        let filters = [
            Filter::set_request_headers(&[("x-order", "first")]).unwrap(),
            Filter::set_response_headers(&[("x-order", "outer")]).unwrap(),
            Filter::add_request_headers(&[("x-order", "second")]).unwrap(),
            Filter::rewrite_prefix("/a", "/b").unwrap(),
            Filter::rewrite_regex("^/b/", "/c/").unwrap(),
            Filter::remove_response_headers(&["x-order"]).unwrap(),
        ];
        let mut request = Request::get("/a/x?q=1")
            .header("x-order", "client")
            .body(())
            .unwrap()
            .into_parts()
            .0;
        on_request(&filters, &mut request).unwrap();
        let seen: Vec<_> = request.headers.get_all("x-order").iter().collect();
        assert_eq!(seen, ["first", "second"]);
        assert_eq!(request.uri, "/c/x?q=1");

        let response = Response::builder()
            .header("x-order", "endpoint")
            .body(())
            .unwrap()
            .into_parts()
            .0;
        let mut head = AnswerHead::from(response);
        on_response(&filters, &mut head, HeaderMap::new);
        let seen: Vec<_> = head.map().get_all("x-order").iter().collect();
        assert_eq!(seen, ["outer"]);
    }
}
