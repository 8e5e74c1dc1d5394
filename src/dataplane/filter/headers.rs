//! Set, add and remove header fields; the values are prepared when the config is compiled.
//!
//! Fields that frame messages or connections (RFC 9110 §7.6.1, RFC 9112 §6) are not for filters: a wrong one
//! there is request smuggling.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::base::host::normal_host;

use super::error::FilterInvalid;

/// Fields that no filter touches.
const FORBIDDEN: [&str; 9] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Header fields to set or add.
#[derive(Clone, Debug)]
pub struct HeaderValues(Box<[(HeaderName, HeaderValue)]>);

/// Names of header fields to remove.
#[derive(Clone, Debug)]
pub struct HeaderNames(Box<[HeaderName]>);

impl HeaderValues {
    pub(super) fn new<N: AsRef<str>, V: AsRef<str>>(
        fields: &[(N, V)],
    ) -> Result<Self, FilterInvalid> {
        fields
            .iter()
            .map(|(name, value)| Ok((parse_name(name.as_ref())?, parse_value(name, value)?)))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// As [`Self::new`], with `host` among what may be there.
    pub(super) fn with_host<N: AsRef<str>, V: AsRef<str>>(
        fields: &[(N, V)],
    ) -> Result<Self, FilterInvalid> {
        fields
            .iter()
            .map(|(name, value)| {
                if !name.as_ref().eq_ignore_ascii_case("host") {
                    return Ok((parse_name(name.as_ref())?, parse_value(name, value)?));
                }
                normal_host(value.as_ref())
                    .map_err(|_| FilterInvalid::Host(value.as_ref().to_owned()))?;
                Ok((header::HOST, parse_value(name, value)?))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    pub(super) fn set(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.0 {
            headers.insert(name, value.clone());
        }
    }

    pub(super) fn add(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.0 {
            headers.append(name, value.clone());
        }
    }

    pub(super) fn contains(&self, name: &HeaderName) -> bool {
        self.0.iter().any(|(other, _)| other == name)
    }
}

impl HeaderNames {
    pub(super) fn new<N: AsRef<str>>(names: &[N]) -> Result<Self, FilterInvalid> {
        names
            .iter()
            .map(|name| parse_name(name.as_ref()))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    pub(super) fn remove(&self, headers: &mut HeaderMap) {
        for name in &self.0 {
            headers.remove(name);
        }
    }
}

fn parse_name(name: &str) -> Result<HeaderName, FilterInvalid> {
    let parsed =
        HeaderName::try_from(name).map_err(|_| FilterInvalid::HeaderName(name.to_owned()))?;
    if FORBIDDEN.contains(&parsed.as_str()) {
        return Err(FilterInvalid::HeaderForbidden(name.to_owned()));
    }
    Ok(parsed)
}

fn parse_value(
    name: &impl AsRef<str>,
    value: &impl AsRef<str>,
) -> Result<HeaderValue, FilterInvalid> {
    HeaderValue::from_str(value.as_ref())
        .map_err(|_| FilterInvalid::HeaderValue(name.as_ref().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setting_replaces_all_and_adding_none() {
        let mut headers = HeaderMap::new();
        headers.append("x-a", HeaderValue::from_static("1"));
        headers.append("x-a", HeaderValue::from_static("2"));
        let fields = HeaderValues::new(&[("X-A", "3")]).unwrap();
        fields.add(&mut headers);
        assert_eq!(headers.get_all("x-a").iter().count(), 3);
        fields.set(&mut headers);
        assert_eq!(headers.get_all("x-a").iter().collect::<Vec<_>>(), ["3"]);
        HeaderNames::new(&["x-a"]).unwrap().remove(&mut headers);
        assert!(headers.is_empty());
    }

    #[test]
    fn a_list_sets_the_same_name_once_and_adds_it_twice() {
        let fields = HeaderValues::new(&[("x-a", "1"), ("x-a", "2")]).unwrap();
        let mut headers = HeaderMap::new();
        fields.set(&mut headers);
        assert_eq!(headers.get_all("x-a").iter().collect::<Vec<_>>(), ["2"]);
        fields.add(&mut headers);
        assert_eq!(headers.len(), 3);
    }

    #[test]
    fn framing_fields_are_not_for_filters() {
        for name in FORBIDDEN.into_iter().chain(["Transfer-Encoding"]) {
            let forbidden = FilterInvalid::HeaderForbidden(name.to_owned());
            assert_eq!(HeaderValues::new(&[(name, "x")]).unwrap_err(), forbidden);
            assert_eq!(HeaderNames::new(&[name]).unwrap_err(), forbidden);
            let set = HeaderValues::with_host(&[(name, "x")]);
            assert_eq!(set.is_ok(), name == "host", "{name}");
        }
    }

    #[test]
    fn a_bad_name_or_value_is_named() {
        for name in ["", "x a", "x:", "é", "x\r\ny"] {
            let found = HeaderValues::new(&[(name, "x")]).unwrap_err();
            assert_eq!(found, FilterInvalid::HeaderName(name.to_owned()));
        }
        for value in ["a\r\nx-evil: 1", "a\n", "\0", "\x7f"] {
            let found = HeaderValues::new(&[("x-a", value)]).unwrap_err();
            assert_eq!(found, FilterInvalid::HeaderValue("x-a".to_owned()));
        }
        let host = HeaderValues::with_host(&[("Host", "a b")]).unwrap_err();
        assert_eq!(host, FilterInvalid::Host("a b".to_owned()));
    }
}
