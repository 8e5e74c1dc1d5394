//! Which fields of a message ask for work, found in one pass.
//!
//! `headers` looks once at what a client or an endpoint sent, and afterwards for nothing that is not there.

use http::{HeaderMap, HeaderName};

/// A set of kinds of fields. Most messages have few of them, and looking for each by its name would cost more than all of
/// the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen(u16);

impl Seen {
    /// `Connection`.
    pub const CONNECTION: u16 = 1;
    /// `TE`.
    pub const TE: u16 = 1 << 1;
    /// `Upgrade`.
    pub const UPGRADE: u16 = 1 << 2;
    /// `Keep-Alive`, `Proxy-Connection`, `Transfer-Encoding`: they tell an endpoint nothing.
    pub const TRANSPORT: u16 = 1 << 3;
    /// What is for one connection alone (RFC 9110 §7.6.1).
    pub const HOP_BY_HOP: u16 = Self::CONNECTION | Self::TE | Self::UPGRADE | Self::TRANSPORT;
    /// `Expect`.
    pub const EXPECT: u16 = 1 << 4;
    /// `Cookie`.
    pub const COOKIE: u16 = 1 << 5;
    /// Something that a client could pose as us with, or as a proxy before us.
    pub const FORGED: u16 = 1 << 6;
    /// `X-Request-Id`.
    pub const REQUEST_ID: u16 = 1 << 7;
    /// `Accept`.
    pub const ACCEPT: u16 = 1 << 8;
    /// `Content-Type`.
    pub const CONTENT_TYPE: u16 = 1 << 9;
    /// `Host`.
    pub const HOST: u16 = 1 << 10;

    /// A name with a quote, which HTTP/2 lets through and HTTP/1 has not (RFC 9110 §5.6.2).
    pub const QUOTED: u16 = 1 << 11;

    /// What is among `fields`.
    pub fn among(fields: &HeaderMap) -> Self {
        Self(fields.keys().fold(0, |seen, name| seen | Self::of(name)))
    }

    /// Whether one of `kinds` is there.
    pub fn has(self, kinds: u16) -> bool {
        self.0 & kinds != 0
    }

    /// By length first, since that settles it for most names.
    fn of(name: &HeaderName) -> u16 {
        let name = name.as_str().as_bytes();
        let kind = match name.len() {
            2 if name == b"te" => Self::TE,
            4 if name == b"host" => Self::HOST,
            5 if name == b"proxy" => Self::FORGED,
            6 if name == b"accept" => Self::ACCEPT,
            6 if name == b"cookie" => Self::COOKIE,
            6 if name == b"expect" => Self::EXPECT,
            7 if name == b"upgrade" => Self::UPGRADE,
            9 if name == b"forwarded" => Self::FORGED,
            9 if name == b"x-real-ip" => Self::FORGED,
            10 if name == b"connection" => Self::CONNECTION,
            10 if name == b"keep-alive" => Self::TRANSPORT,
            12 if name == b"content-type" => Self::CONTENT_TYPE,
            12 if name == b"x-request-id" => Self::REQUEST_ID,
            15 if name == b"x-forwarded-for" => Self::FORGED,
            16 if name == b"proxy-connection" => Self::TRANSPORT,
            16 if name == b"x-forwarded-host" => Self::FORGED,
            16 if name == b"x-forwarded-port" => Self::FORGED,
            17 if name == b"transfer-encoding" => Self::TRANSPORT,
            17 if name == b"x-forwarded-proto" => Self::FORGED,
            17 if name == b"x-lockgate-mirror" => Self::FORGED,
            21 if name == b"x-client-cert-subject" => Self::FORGED,
            _ => 0,
        };
        if kind == 0 && memchr::memchr2(b'_', b'"', name).is_some() {
            return Self::of_odd(name);
        }
        kind
    }

    #[cold]
    fn of_odd(name: &[u8]) -> u16 {
        let kinds = [(b'_', Self::FORGED), (b'"', Self::QUOTED)].into_iter();
        let kinds = kinds.filter(|(byte, _)| name.contains(byte));
        kinds.fold(0, |all, (_, kind)| all | kind)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn fields_that_ask_for_work_are_told_from_others() {
        for (name, kind) in [
            ("te", Seen::TE),
            ("proxy", Seen::FORGED),
            ("accept", Seen::ACCEPT),
            ("cookie", Seen::COOKIE),
            ("expect", Seen::EXPECT),
            ("upgrade", Seen::UPGRADE),
            ("forwarded", Seen::FORGED),
            ("x-forwarded-for", Seen::FORGED),
            ("x-forwarded-host", Seen::FORGED),
            ("x-forwarded-proto", Seen::FORGED),
            ("x-real-ip", Seen::FORGED),
            ("x-lockgate-mirror", Seen::FORGED),
            ("connection", Seen::CONNECTION),
            ("keep-alive", Seen::TRANSPORT),
            ("content-type", Seen::CONTENT_TYPE),
            ("x-request-id", Seen::REQUEST_ID),
            ("proxy-connection", Seen::TRANSPORT),
            ("x-forwarded-port", Seen::FORGED),
            ("transfer-encoding", Seen::TRANSPORT),
            ("x-client-cert-subject", Seen::FORGED),
            ("x_forwarded_for", Seen::FORGED),
            ("host", Seen::HOST),
            ("x\"other", Seen::QUOTED),
            ("x\"_other", Seen::QUOTED | Seen::FORGED),
            ("origin", 0),
            ("x-other", 0),
        ] {
            let mut fields = HeaderMap::new();
            let field = HeaderName::from_lowercase(name.as_bytes()).unwrap();
            fields.insert(field, HeaderValue::from_static(""));
            assert_eq!(Seen::among(&fields), Seen(kind), "{name}");
        }
    }
}
