//! Why an exchange failed: whose side it was, what the client is told, whether the attempt may be repeated, and
//! the token that log and metrics carry.
//!
//! The list is closed and every question about a fault is a total function. Tokens are an API: operators filter
//! by them, so one is never renamed.

use http::StatusCode;

/// Who caused a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client, or the way to it.
    Downstream,
    /// The endpoint, or the way to it.
    Upstream,
    /// Lockgate: its config, its limits, its bugs.
    Ours,
}

/// Whether an attempt that ended so may be made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// It may not.
    Never,
    /// It may, whatever the method: the endpoint has seen nothing of it.
    NothingSent,
    /// It may if the method is idempotent and the body is still whole: the endpoint may have seen it.
    Idempotent,
}

macro_rules! faults {
    ($($(#[doc = $doc:literal])+ $name:ident: $token:literal $side:ident $status:literal $repeat:ident $proxy:literal;)+) => {
        /// Why an exchange failed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Fault {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Fault {
            /// Every fault, in the order of the reference page.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The stable word for log and metrics.
            pub const fn token(self) -> &'static str {
                match self { $(Self::$name => $token,)+ }
            }

            /// Who caused it.
            pub const fn side(self) -> Side {
                match self { $(Self::$name => Side::$side,)+ }
            }

            /// The status that the client sees, as a number; 499 is only ever logged.
            pub const fn code(self) -> u16 {
                match self { $(Self::$name => $status,)+ }
            }

            /// Whether the attempt may be made again.
            pub const fn repeat(self) -> Repeat {
                match self { $(Self::$name => Repeat::$repeat,)+ }
            }

            /// The error type of `Proxy-Status` (RFC 9209 §2.3), or the status alone where that is empty.
            pub const fn proxy_status(self) -> &'static str {
                match self { $(Self::$name => $proxy,)+ }
            }

            /// What it means, for the reference page.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+),)+ }
            }
        }
    };
}

faults! {
    /// The request's head breaks the grammar or the framing rules of HTTP.
    RequestMalformed: "request_malformed" Downstream 400 Never "http_request_error";
    /// The client's HTTP/2 frames break a rule: its connection ended, with the exchanges on it.
    FramesMalformed: "frames_malformed" Downstream 400 Never "http_request_error";
    /// Host is missing, doubled, not a host, or disagrees with the request target.
    HostInvalid: "host_invalid" Downstream 400 Never "http_request_error";
    /// The path holds `%00`, or an encoded slash or backslash that the route does not allow.
    PathRefused: "path_refused" Downstream 400 Never "http_request_denied";
    /// The request body's chunks break the framing rules, or the body ends early.
    BodyMalformed: "body_malformed" Downstream 400 Never "http_request_error";
    /// The request uses a transfer coding other than `chunked`.
    CodingUnknown: "coding_unknown" Downstream 501 Never "http_request_error";
    /// The request asks for a method that a reverse proxy does not serve: CONNECT to a host.
    MethodRefused: "method_refused" Downstream 501 Never "http_request_denied";
    /// The request's HTTP version is not one we speak.
    VersionUnknown: "version_unknown" Downstream 505 Never "http_request_error";
    /// The request expects something other than 100-continue.
    ExpectationUnknown: "expectation_unknown" Downstream 417 Never "http_request_denied";
    /// The request target is longer than the limit.
    TargetTooLong: "target_too_long" Downstream 414 Never "http_request_error";
    /// The request's header has more bytes or fields than the limit.
    HeaderTooLarge: "header_too_large" Downstream 431 Never "http_request_error";
    /// No byte came on a new connection within the time.
    FirstByteTimeout: "first_byte_timeout" Downstream 408 Never "";
    /// The request's header did not arrive whole within the time.
    HeaderTimeout: "header_timeout" Downstream 408 Never "";
    /// The request's body paused longer, or flowed slower, than allowed.
    BodyTimeout: "body_timeout" Downstream 408 Never "";
    /// The request asks for a host that the TLS connection's certificate is not for.
    Misdirected: "misdirected" Downstream 421 Never "http_request_denied";
    /// The client sent plain HTTP to a TLS listener.
    PlainOnTls: "plain_on_tls" Downstream 400 Never "";
    /// The TLS handshake failed.
    HandshakeFailed: "handshake_failed" Downstream 400 Never "";
    /// The TLS handshake was not over within the time.
    HandshakeTimeout: "handshake_timeout" Downstream 408 Never "";
    /// The client went away before the answer was complete.
    ClientGone: "client_gone" Downstream 499 Never "";
    /// The client took nothing of the answer for too long.
    ClientStalled: "client_stalled" Downstream 499 Never "";
    /// The client sent more frames of HTTP/2 that carry nothing than there is any use for: its connection was ended.
    ControlFlood: "control_flood" Downstream 499 Never "";
    /// No route matches the request.
    NoRoute: "no_route" Ours 404 Never "destination_not_found";
    /// The pool has no endpoint that could take the request.
    NoEndpoint: "no_endpoint" Ours 503 Never "destination_unavailable";
    /// No endpoint of the pool is usable, and as many requests wait for one as may.
    QueueFull: "queue_full" Ours 503 Never "connection_limit_reached";
    /// No endpoint of the pool was usable, and none became so while the request waited.
    QueueTimeout: "queue_timeout" Upstream 503 Never "destination_unavailable";
    /// The client sends more requests than it may, by the rate of `limits.client.requests`.
    RateLimited: "rate_limited" Downstream 429 Never "http_request_denied";
    /// The client has as many exchanges in progress as it may have, by `limits.client.concurrent_requests`.
    ClientLimit: "client_limit" Downstream 429 Never "http_request_denied";
    /// As many exchanges are in progress, at the route or in all, as there may be.
    ConcurrencyLimit: "concurrency_limit" Ours 503 Never "connection_limit_reached";
    /// The endpoints of the pool have as many exchanges as they may have, and none ended within the time to wait.
    EndpointsBusy: "endpoints_busy" Ours 503 NothingSent "connection_limit_reached";
    /// The site that the request is for is left out: its file is broken, and was so when Lockgate started.
    SiteInvalid: "site_invalid" Ours 503 Never "proxy_configuration_error";
    /// A limit of the proxy is reached.
    Overloaded: "overloaded" Ours 503 Never "connection_limit_reached";
    /// The drain's time was up before the exchange ended.
    Draining: "draining" Ours 503 Never "proxy_internal_response";
    /// The pool's protocol cannot carry the upgrade that the client asks for.
    UpgradeUnsupported: "upgrade_unsupported" Ours 501 Never "proxy_configuration_error";
    /// A bug of ours: the exchange panicked. Please report it.
    Internal: "internal" Ours 500 Never "proxy_internal_error";
    /// The endpoint refused the connection, or there is no way to it.
    ConnectFailed: "connect_failed" Upstream 502 NothingSent "connection_refused";
    /// The endpoint did not accept the connection within the time.
    ConnectTimeout: "connect_timeout" Upstream 504 NothingSent "connection_timeout";
    /// The TLS handshake with the endpoint failed, its certificate included.
    UpstreamTlsFailed: "upstream_tls_failed" Upstream 502 NothingSent "tls_protocol_error";
    /// The endpoint closed the connection before anything of the request was sent.
    ConnectionLost: "connection_lost" Upstream 502 NothingSent "connection_terminated";
    /// The endpoint closed or reset the connection before its answer began.
    ResponseMissing: "response_missing" Upstream 502 Idempotent "connection_terminated";
    /// The endpoint did not begin its answer within the time.
    ResponseTimeout: "response_timeout" Upstream 504 Idempotent "http_response_timeout";
    /// The endpoint's answer breaks the grammar or the framing rules of HTTP, or switches protocols unasked.
    ResponseMalformed: "response_malformed" Upstream 502 Never "http_protocol_error";
    /// The endpoint's header has more bytes or fields than the limit.
    ResponseHeaderTooLarge: "response_header_too_large" Upstream 502 Never "http_response_header_section_size";
    /// The endpoint's answer broke off: the client has a part of it and knows.
    ResponseCut: "response_cut" Upstream 502 Never "http_response_incomplete";
    /// The endpoint's answer paused longer than allowed: the client has a part of it and knows.
    ResponseStalled: "response_stalled" Upstream 504 Never "http_response_timeout";
}

impl Fault {
    /// The status that the client sees.
    pub fn status(self) -> StatusCode {
        StatusCode::from_u16(self.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn tokens_are_distinct_words() {
        let tokens: HashSet<_> = Fault::ALL.iter().map(|fault| fault.token()).collect();
        assert_eq!(tokens.len(), Fault::ALL.len());
        assert!(
            tokens
                .iter()
                .all(|token| token.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
        );
    }

    #[test]
    fn every_status_is_one() {
        assert!(
            Fault::ALL
                .iter()
                .all(|fault| fault.status().as_u16() == fault.code())
        );
    }
}
