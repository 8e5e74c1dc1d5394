//! The answer that a route gives by itself, the same to every request.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode};

use super::error::FilterInvalid;
use super::headers::HeaderValues;

/// A prepared answer.
#[derive(Clone, Debug)]
pub struct FixedResponse {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl FixedResponse {
    /// Prepares an answer. A body is `text/plain; charset=utf-8` unless `content-type` is among the fields.
    ///
    /// # Errors
    /// [`FilterInvalid`] for a status that is not from 200 to 599, a body where the status allows none, and bad
    /// or forbidden fields.
    pub fn new<N: AsRef<str>, V: AsRef<str>>(
        status: u16,
        fields: &[(N, V)],
        body: impl Into<Bytes>,
    ) -> Result<Self, FilterInvalid> {
        let body = body.into();
        let code = StatusCode::from_u16(status)
            .ok()
            .filter(|_| (200..600).contains(&status))
            .ok_or(FilterInvalid::Status(status))?;
        if matches!(status, 204 | 205 | 304) && !body.is_empty() {
            return Err(FilterInvalid::BodyForbidden(status));
        }
        let fields = HeaderValues::new(fields)?;
        let mut headers = HeaderMap::new();
        if !body.is_empty() && !fields.contains(&header::CONTENT_TYPE) {
            let text = HeaderValue::from_static("text/plain; charset=utf-8");
            headers.insert(header::CONTENT_TYPE, text);
        }
        fields.add(&mut headers);
        Ok(Self {
            status: code,
            headers,
            body,
        })
    }

    /// The answer to one request.
    pub fn answer(&self) -> Response<Bytes> {
        let mut response = Response::new(self.body.clone());
        *response.status_mut() = self.status;
        response.headers_mut().clone_from(&self.headers);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [(&str, &str); 0] = [];

    #[test]
    fn a_text_says_that_it_is_one_unless_told_otherwise() {
        let plain = FixedResponse::new(200, &NONE, "ok\n").unwrap().answer();
        assert_eq!(plain.status(), 200);
        assert_eq!(
            plain.headers()[header::CONTENT_TYPE],
            "text/plain; charset=utf-8"
        );
        assert_eq!(plain.body(), "ok\n");
        let fields = [("Content-Type", "application/json"), ("x-a", "1")];
        let json = FixedResponse::new(503, &fields, "{}").unwrap().answer();
        assert_eq!(json.headers()[header::CONTENT_TYPE], "application/json");
        assert_eq!(json.headers().len(), 2);
    }

    #[test]
    fn no_body_has_no_type() {
        let empty = FixedResponse::new(204, &NONE, "").unwrap().answer();
        assert!(empty.headers().is_empty());
        assert!(empty.body().is_empty());
    }

    #[test]
    fn what_cannot_be_answered_is_named() {
        for status in [0, 99, 100, 101, 199, 600, 1000] {
            let found = FixedResponse::new(status, &NONE, "").unwrap_err();
            assert_eq!(found, FilterInvalid::Status(status));
        }
        for status in [204, 205, 304] {
            let found = FixedResponse::new(status, &NONE, "x").unwrap_err();
            assert_eq!(found, FilterInvalid::BodyForbidden(status));
        }
        let found = FixedResponse::new(200, &[("content-length", "9")], "x").unwrap_err();
        assert_eq!(
            found,
            FilterInvalid::HeaderForbidden("content-length".to_owned())
        );
    }
}
