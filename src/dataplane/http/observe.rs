//! What an attempt says of the health of its endpoint.
//!
//! An endpoint answers for what a gateway would answer for: no usable answer, or 502, 503, 504. Other statuses, 500 among
//! them, are an application's own business, and what a client does wrong is nobody's here.

use std::fmt::Display;
use std::time::Duration;

use http::{StatusCode, header};

use crate::base::clock;
use crate::base::fault::{Fault, Side};
use crate::dataplane::upstream::endpoint::Endpoint;
use crate::dataplane::upstream::head::AnswerHead;
use crate::dataplane::upstream::health::Event;
use crate::dataplane::upstream::pool::Pool;

/// Takes note of an answer.
pub fn answer(pool: &Pool, endpoint: &Endpoint, head: &AnswerHead) {
    match head.status {
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            let retry_after = retry_after(head);
            let event = Event::Failed { retry_after };
            note(pool, endpoint, event, &head.status.as_u16());
        }
        _ => endpoint.note_success(),
    }
}

/// Takes note of an attempt without an answer. An idle connection that had ended, `reused`, is no failure: every endpoint
/// closes some.
pub fn failure(pool: &Pool, endpoint: &Endpoint, fault: Fault, reused: bool) {
    let is_stale = reused && matches!(fault, Fault::ConnectionLost | Fault::ResponseMissing);
    match fault.side() {
        // Nobody listens there: that needs no second opinion.
        Side::Upstream if fault == Fault::ConnectFailed => {
            note(pool, endpoint, Event::Refused, &fault.token());
        }
        Side::Upstream if !is_stale => {
            let event = Event::Failed { retry_after: None };
            note(pool, endpoint, event, &fault.token());
        }
        Side::Upstream | Side::Downstream | Side::Ours => {}
    }
}

#[cold]
fn note(pool: &Pool, endpoint: &Endpoint, event: Event, detail: &dyn Display) {
    pool.note(endpoint, event, detail, clock::now());
}

/// When the endpoint wants to be asked again (RFC 9110 §10.2.3): in seconds, or from a moment on.
fn retry_after(head: &AnswerHead) -> Option<Duration> {
    let value = head.field(&header::RETRY_AFTER)?;
    let text = str::from_utf8(value).ok()?;
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let moment = httpdate::parse_http_date(text).ok()?;
    // A moment in the past is now.
    Some(moment.duration_since(clock::wall()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::*;
    use crate::dataplane::upstream::head::Fields;

    #[test]
    fn retry_after_is_seconds_or_a_moment() {
        let check = |value: &str, expected: Option<u64>| {
            let mut fields = HeaderMap::new();
            fields.insert(header::RETRY_AFTER, HeaderValue::from_str(value).unwrap());
            let head = AnswerHead::new(StatusCode::SERVICE_UNAVAILABLE, Fields::Map(fields));
            let seconds = retry_after(&head).map(|asked| (asked.as_secs_f64() / 10.0).round());
            assert_eq!(seconds, expected.map(|tens| tens as f64), "{value}");
        };
        check("120", Some(12));
        check("0", Some(0));
        check("soon", None);
        check("-1", None);
        let moment = |seconds| {
            let then = clock::wall() + Duration::from_secs(seconds) - Duration::from_secs(600);
            httpdate::fmt_http_date(then)
        };
        check(&moment(660), Some(6));
        check(&moment(0), Some(0));
    }
}
