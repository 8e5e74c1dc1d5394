//! What a request is known again by: the key that `hash` maps to an endpoint.
//!
//! The same key has the same hash in every process of every version: proxies of a fleet agree without a word.

use std::net::IpAddr;

use http::header::{COOKIE, HeaderName};
use http::request::Parts;
use xxhash_rust::xxh3::xxh3_64;

/// Where the key of a request is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// The address of the client.
    ClientIp,
    /// The first field of this name.
    Header(HeaderName),
    /// The cookie of this name.
    Cookie(Box<str>),
    /// The path as the endpoint gets it.
    Path,
    /// The first query parameter of this name, as it is written.
    Query(Box<str>),
}

impl Key {
    /// The hash of a text, as keys have it.
    pub fn hash_of(text: &str) -> u64 {
        xxh3_64(text.as_bytes())
    }

    /// The hash of a request's key; `None` for a request without one.
    pub fn hash(&self, parts: &Parts, client: IpAddr) -> Option<u64> {
        match self {
            Self::ClientIp => Some(match client.to_canonical() {
                IpAddr::V4(ip) => xxh3_64(&ip.octets()),
                IpAddr::V6(ip) => xxh3_64(&ip.octets()),
            }),
            Self::Header(name) => parts
                .headers
                .get(name)
                .map(|value| xxh3_64(value.as_bytes())),
            Self::Cookie(name) => cookie(parts, name).map(xxh3_64),
            Self::Path => Some(xxh3_64(parts.uri.path().as_bytes())),
            Self::Query(name) => {
                let mut pairs = parts.uri.query()?.split('&');
                let value = pairs.find_map(|pair| {
                    let (found, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (found == &**name).then_some(value)
                });
                value.map(|value| xxh3_64(value.as_bytes()))
            }
        }
    }
}

/// The value of the first cookie of a name (RFC 6265 §5.4).
pub(in crate::dataplane::upstream) fn cookie<'a>(parts: &'a Parts, name: &str) -> Option<&'a [u8]> {
    let fields = parts.headers.get_all(COOKIE).iter();
    let mut pairs = fields.flat_map(|field| field.as_bytes().split(|&byte| byte == b';'));
    pairs.find_map(|pair| {
        let rest = pair.trim_ascii().strip_prefix(name.as_bytes())?;
        rest.strip_prefix(b"=")
    })
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn hash(key: &Key, target: &str, fields: &[(&str, &str)], client: &str) -> Option<u64> {
        let mut request = Request::get(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        key.hash(&parts, client.parse().unwrap())
    }

    #[test]
    fn a_key_is_found_where_it_is_said_to_be_and_nowhere_else() {
        let check = |key: Key, target: &str, fields: &[(&str, &str)], expected: Option<&str>| {
            let found = hash(&key, target, fields, "192.0.2.1");
            let expected = expected.map(|text| xxh3_64(text.as_bytes()));
            assert_eq!(found, expected, "{key:?} {target} {fields:?}");
        };
        let header = || Key::Header(HeaderName::from_static("x-user"));
        check(header(), "/", &[("x-user", "ann")], Some("ann"));
        check(
            header(),
            "/",
            &[("x-user", "a"), ("x-user", "b")],
            Some("a"),
        );
        check(header(), "/", &[("x-other", "ann")], None);
        let cookie = || Key::Cookie("sid".into());
        check(cookie(), "/", &[("cookie", "sid=1")], Some("1"));
        check(
            cookie(),
            "/",
            &[("cookie", "a=b; sid=1=2; sid=3")],
            Some("1=2"),
        );
        check(
            cookie(),
            "/",
            &[("cookie", "a=b"), ("cookie", "sid=")],
            Some(""),
        );
        check(cookie(), "/", &[("cookie", "asid=1; sidb=2; sid")], None);
        check(cookie(), "/", &[], None);
        let query = || Key::Query("id".into());
        check(query(), "/?id=7", &[], Some("7"));
        check(query(), "/?a=1&id=&id=2", &[], Some(""));
        check(query(), "/?a=1&id", &[], Some(""));
        check(query(), "/?aid=1&idb=2", &[], None);
        check(query(), "/", &[], None);
        check(Key::Path, "/a/b?id=7", &[], Some("/a/b"));
    }

    #[test]
    fn a_client_is_the_same_by_either_family_of_its_address() {
        let of = |client| hash(&Key::ClientIp, "/", &[], client).unwrap();
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8::2"));
    }

    #[test]
    fn a_key_has_the_same_hash_in_every_version() {
        assert_eq!(
            hash(&Key::Path, "/a", &[], "::1"),
            Some(0xe292_ab48_a6b0_6805)
        );
    }
}
