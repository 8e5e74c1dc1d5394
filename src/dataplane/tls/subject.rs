//! Who a client is: the subject of its verified certificate as text that fits a header field.
//!
//! `accept` makes it once a connection; `http/headers` puts it on every request. The text is the distinguished
//! name as in RFC 4514, most specific part first, with everything but printable ASCII, and `%` itself,
//! percent-encoded: `CN=M%C3%BCller,O=Example`. No two subjects have the same text.

use std::fmt::Write;
use std::time::SystemTime;

use http::HeaderValue;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::x509::{AttributeTypeAndValue, RelativeDistinguishedName, X509Name};

use super::material::time_of;

/// A client with a verified certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientIdentity {
    /// The subject; empty when the certificate has none, as those with a SPIFFE name alone.
    pub subject: HeaderValue,
}

/// How long the text may be. A longer subject is refused, since a part of a name is another name.
pub const SUBJECT_LIMIT: usize = 2048;

impl ClientIdentity {
    /// Reads the leaf that the client showed, now or when the session it resumes began.
    ///
    /// # Errors
    /// When it cannot be read, its subject is too long, or its time is over: a resumed session is not verified
    /// again, so a client could otherwise outlive its certificate from ticket to ticket.
    pub fn read(der: &[u8], now: SystemTime) -> Result<Self, String> {
        let (_, certificate) = X509Certificate::from_der(der)
            .map_err(|error| format!("unreadable client certificate: {error}"))?;
        if now > time_of(certificate.validity().not_after.timestamp()) {
            return Err("the client certificate has expired".to_owned());
        }
        let text = encode(&distinguished_name(certificate.subject()));
        if text.len() > SUBJECT_LIMIT {
            return Err(format!(
                "the client certificate's subject is longer than {SUBJECT_LIMIT} bytes"
            ));
        }
        HeaderValue::from_str(&text)
            .map(|subject| Self { subject })
            .map_err(|error| format!("the client certificate's subject fits no header: {error}"))
    }
}

fn distinguished_name(name: &X509Name<'_>) -> Vec<u8> {
    let parts: Vec<_> = name.iter().map(relative_name).collect();
    // RFC 4514 §2.1: the last part of the sequence comes first.
    parts.into_iter().rev().collect::<Vec<_>>().join(&b',')
}

fn relative_name(part: &RelativeDistinguishedName<'_>) -> Vec<u8> {
    part.iter().map(attribute).collect::<Vec<_>>().join(&b'+')
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> Vec<u8> {
    let oid = attribute.attr_type().to_id_string();
    let known = NAMES.iter().find(|(known, _)| *known == oid);
    match (known, attribute.as_str()) {
        (Some((_, name)), Ok(value)) => [name.as_bytes(), b"=", &escape(value)].concat(),
        // RFC 4514 §2.4: a type without a short name, or a value that is no text, is given in hex, tag and all.
        (_, _) => {
            let mut text = format!("{oid}=#");
            for byte in header_of(attribute).iter().chain(attribute.as_slice()) {
                // Writing to a String cannot fail.
                let _ = write!(text, "{byte:02x}");
            }
            text.into_bytes()
        }
    }
}

/// The tag and length octets of the value, in DER.
fn header_of(attribute: &AttributeTypeAndValue<'_>) -> Vec<u8> {
    let length = attribute.as_slice().len().to_be_bytes();
    let significant: Vec<u8> = length
        .iter()
        .copied()
        .skip_while(|byte| *byte == 0)
        .collect();
    let tag = u8::try_from(attribute.attr_value().tag().0).unwrap_or(0x1f);
    match significant.as_slice() {
        [] => vec![tag, 0],
        [short] if *short < 0x80 => vec![tag, *short],
        long => {
            let count = u8::try_from(long.len()).unwrap_or(8);
            [&[tag, 0x80 | count], long].concat()
        }
    }
}

/// The escapes of RFC 4514 §2.4.
fn escape(value: &str) -> Vec<u8> {
    let mut text = Vec::with_capacity(value.len());
    let last = value.len().saturating_sub(1);
    for (place, byte) in value.bytes().enumerate() {
        match byte {
            0 => text.extend_from_slice(b"\\00"),
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' => {
                text.extend_from_slice(&[b'\\', byte])
            }
            b' ' if place == 0 || place == last => text.extend_from_slice(b"\\ "),
            b'#' if place == 0 => text.extend_from_slice(b"\\#"),
            _ => text.push(byte),
        }
    }
    text
}

/// Percent-encodes what is not printable ASCII, and the percent sign.
fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            text.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

/// The short names of RFC 4514 §3.
const NAMES: [(&str, &str); 9] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.6", "C"),
    ("2.5.4.9", "STREET"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
];

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::DnType;

    use super::super::pem;
    use super::super::testkit::{Authority, Kind};
    use super::*;
    use crate::base::clock;

    fn read(parts: &[(DnType, &str)], now: SystemTime) -> Result<String, String> {
        let made = Authority::new("ca").issue(Kind::Ecdsa, &[], |params| {
            for (kind, value) in parts {
                params.distinguished_name.push(kind.clone(), *value);
            }
        });
        let chain = pem::certificates(made.cert.as_bytes()).unwrap();
        let client = ClientIdentity::read(&chain[0], now)?;
        Ok(client.subject.to_str().unwrap().to_owned())
    }

    fn check(parts: &[(DnType, &str)], expected: &str) {
        assert_eq!(read(parts, clock::wall()).as_deref(), Ok(expected));
    }

    #[test]
    fn the_most_specific_part_comes_first() {
        check(
            &[
                (DnType::CountryName, "DE"),
                (DnType::OrganizationName, "Example"),
                (DnType::OrganizationalUnitName, "Ops"),
                (DnType::CommonName, "alice"),
            ],
            "CN=alice,OU=Ops,O=Example,C=DE",
        );
        check(&[], "");
    }

    #[test]
    fn a_value_cannot_pretend_to_be_another_part() {
        check(
            &[(DnType::CommonName, "alice,O=Admins")],
            "CN=alice\\,O=Admins",
        );
        check(
            &[(DnType::CommonName, "a+b;c<d>e\"f\\g")],
            "CN=a\\+b\\;c\\<d\\>e\\\"f\\\\g",
        );
        check(&[(DnType::CommonName, "#a ")], "CN=\\#a\\ ");
        check(&[(DnType::CommonName, " ")], "CN=\\ ");
    }

    #[test]
    fn nothing_leaves_the_header_field() {
        check(
            &[(DnType::CommonName, "a\r\nx-admin: 1")],
            "CN=a%0D%0Ax-admin: 1",
        );
        check(
            &[(DnType::CommonName, "Müller 100%")],
            "CN=M%C3%BCller 100%25",
        );
        check(&[(DnType::CommonName, "a\0b\x7f")], "CN=a\\00b%7F");
    }

    #[test]
    fn a_type_without_a_short_name_is_in_hex() {
        check(
            &[(DnType::CustomDnType(vec![1, 2, 3, 4]), "ab")],
            "1.2.3.4=#0c026162",
        );
        let long = "x".repeat(200);
        let expected = format!("1.2.3.4=#0c81c8{}", "78".repeat(200));
        check(
            &[(DnType::CustomDnType(vec![1, 2, 3, 4]), &long)],
            &expected,
        );
    }

    #[test]
    fn a_subject_too_long_is_refused_and_never_cut() {
        let parts = |length| [(DnType::CommonName, "x".repeat(length))];
        let read = |length| {
            let [(kind, value)] = parts(length);
            read(&[(kind, value.as_str())], clock::wall())
        };
        assert_eq!(read(SUBJECT_LIMIT - 3).unwrap().len(), SUBJECT_LIMIT);
        assert!(read(SUBJECT_LIMIT - 2).unwrap_err().contains("longer"));
    }

    #[test]
    fn an_expired_certificate_is_refused_on_resumption_too() {
        let later = clock::wall() + Duration::from_hours(24 * 365 * 4000);
        let error = read(&[(DnType::CommonName, "a")], later).unwrap_err();
        assert!(error.contains("expired"), "{error}");
    }
}
