//! Which fields may stand behind a body. Some that read trailers put them among the fields of the head, where a name that
//! frames, routes, authenticates or speaks for us would be taken for the real one (RFC 9110 §6.5.1).
//!
//! Bodies of both directions show their trailers here; the codecs drop names of their own besides.

use http::HeaderMap;

/// What has its meaning only in a head: framing, routing, credentials, conditions, the form of the content, and what we or
/// a proxy before us say.
const REFUSED: &[&str] = &[
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "location",
    "max-forwards",
    "proxy",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "vary",
    "via",
    "www-authenticate",
    "x-client-cert-subject",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-lockgate-mirror",
    "x-real-ip",
    "x-request-id",
];

/// Takes away what may not stand behind a body.
#[cold]
pub fn clean(trailers: &mut HeaderMap) {
    let refused = trailers.keys().filter(|name| !may_trail(name.as_str()));
    let refused: Vec<_> = refused.cloned().collect();
    for name in refused {
        trailers.remove(name);
    }
}

fn may_trail(name: &str) -> bool {
    !REFUSED.iter().any(|refused| {
        // A server that turns names into variables cannot tell the two spellings apart.
        refused.len() == name.len()
            && refused
                .bytes()
                .zip(name.bytes())
                .all(|(a, b)| a == b || (a == b'-' && b == b'_'))
    })
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn names_that_belong_into_a_head_are_taken_away_however_they_are_spelled() {
        let mut trailers = HeaderMap::new();
        for name in [
            "host",
            "content-length",
            "Content_Length",
            "transfer_encoding",
            "authorization",
            "x-forwarded-for",
            "x_forwarded-for",
            "x-request-id",
            "te",
            "x-sum",
            "grpc-status",
            "x-forwarded-fo",
            "x_sum",
            "server-timing",
        ] {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            trailers.insert(name, HeaderValue::from_static("y"));
        }
        clean(&mut trailers);
        let mut left: Vec<_> = trailers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(
            left,
            [
                "grpc-status",
                "server-timing",
                "x-forwarded-fo",
                "x-sum",
                "x_sum"
            ]
        );
    }
}
