//! What can be wrong with certificates, keys and authorities, and what to do about it.
//!
//! The control plane turns a [`MaterialError`] into an error at the place in the config file: `Display` says what
//! is wrong with the file, [`MaterialError::help`] what to do, [`MaterialError::part`] which file it is about.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;

/// A SHA-256 of what a plan or an identity was made of: equal digests, equal behaviour.
///
/// It covers private keys too and is for comparing inside the process only, never to be shown.
pub type Digest = [u8; 32];

/// Which of the files an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The file of certificates.
    Certificate,
    /// The file of the private key.
    Key,
}

/// Why certificates, a key or authorities cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MaterialError {
    /// The file has no PEM section at all.
    NotPem(Part),
    /// A PEM section is broken.
    BrokenPem(Part, String),
    /// No certificate, but sections of these kinds.
    NoCertificate(Vec<String>),
    /// No private key, but sections of these kinds.
    NoKey(Vec<String>),
    /// More than one private key.
    SeveralKeys(usize),
    /// The private key needs a passphrase.
    EncryptedKey,
    /// A private key of a kind or size that TLS here cannot use.
    UnsupportedKey(String),
    /// A certificate that cannot be read.
    BadCertificate(String),
    /// The key belongs to another certificate.
    KeyMismatch,
    /// The key belongs to the certificate at this place, counted from one, and not to the first.
    LeafNotFirst(usize),
    /// The leaf certificate's time was over at this date.
    Expired(SystemTime),
    /// The leaf certificate's time begins at this date.
    NotYetValid(SystemTime),
    /// No revocation list, but sections of these kinds.
    NoRevocationList(Vec<String>),
    /// A revocation list that cannot be read, or of a kind that cannot be checked against.
    BadRevocationList(String),
    /// A revocation list's next issue was due at this date.
    RevocationListExpired(SystemTime),
    /// The operating system has no authorities, and why.
    NoSystemRoots(String),
    /// The TLS library refuses the combination.
    Refused(String),
}

impl MaterialError {
    /// The file that has to change.
    pub fn part(&self) -> Part {
        match self {
            Self::NotPem(part) | Self::BrokenPem(part, _) => *part,
            Self::NoKey(_)
            | Self::SeveralKeys(_)
            | Self::EncryptedKey
            | Self::UnsupportedKey(_)
            | Self::KeyMismatch => Part::Key,
            Self::NoCertificate(_)
            | Self::BadCertificate(_)
            | Self::LeafNotFirst(_)
            | Self::Expired(_)
            | Self::NotYetValid(_)
            | Self::NoRevocationList(_)
            | Self::BadRevocationList(_)
            | Self::RevocationListExpired(_)
            | Self::NoSystemRoots(_)
            | Self::Refused(_) => Part::Certificate,
        }
    }

    /// What the operator can do.
    pub fn help(&self) -> &'static str {
        match self {
            Self::NotPem(_) => {
                "give a PEM file: text with lines like `-----BEGIN CERTIFICATE-----`; DER can be converted with \
                 `openssl x509 -inform der`"
            }
            Self::BrokenPem(..) => "copy the file again, whole, with its BEGIN and END lines",
            Self::NoCertificate(_) => {
                "give the file with the certificate chain; perhaps `cert` and `key` are swapped"
            }
            Self::NoKey(_) => {
                "give the file with the private key; perhaps `cert` and `key` are swapped"
            }
            Self::SeveralKeys(_) => {
                "leave one private key in the file; for RSA and ECDSA side by side list two certificates"
            }
            Self::EncryptedKey => {
                "store the key without a passphrase, readable by the proxy only: `openssl pkey`"
            }
            Self::UnsupportedKey(_) => {
                "use an ECDSA P-256 or P-384, an Ed25519, or an RSA key of 2048 to 8192 bits"
            }
            Self::BadCertificate(_) => "check the file with `openssl x509 -text`",
            Self::KeyMismatch => {
                "give the key that the certificate was issued for, or issue the certificate again"
            }
            Self::LeafNotFirst(_) => {
                "order the chain: the certificate of this site first, then the one that issued it, and so on"
            }
            Self::Expired(_) => "renew the certificate",
            Self::NotYetValid(_) => "wait for that date, or check the clock of this machine",
            Self::NoRevocationList(_) => {
                "give the authority's revocation list as PEM: `openssl crl -inform der -in list.crl -out list.pem`"
            }
            Self::BadRevocationList(_) => {
                "look at it with `openssl crl -text`; it has to be a whole list (no delta) with a `Next Update`"
            }
            Self::RevocationListExpired(_) => {
                "fetch the authority's newest list; as long as there is none, nobody can tell who is revoked"
            }
            Self::NoSystemRoots(_) => {
                "install the system's CA certificates (package `ca-certificates`), or name a file with `ca`"
            }
            Self::Refused(_) => "check the certificate chain with `openssl verify`",
        }
    }
}

impl fmt::Display for MaterialError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPem(_) => out.write_str("no PEM section in the file"),
            Self::BrokenPem(_, detail) => write!(out, "broken PEM: {detail}"),
            Self::NoCertificate(found) => {
                write!(out, "no certificate in the file, only {}", found.join(", "))
            }
            Self::NoKey(found) => {
                write!(out, "no private key in the file, only {}", found.join(", "))
            }
            Self::SeveralKeys(count) => write!(out, "{count} private keys in the file"),
            Self::EncryptedKey => out.write_str("the private key is encrypted"),
            Self::UnsupportedKey(detail) => write!(out, "unsupported private key: {detail}"),
            Self::BadCertificate(detail) => write!(out, "unreadable certificate: {detail}"),
            Self::KeyMismatch => out.write_str("the key does not belong to the certificate"),
            Self::LeafNotFirst(place) => write!(
                out,
                "the key belongs to certificate {place} of the chain, not to the first"
            ),
            Self::Expired(date) => write!(out, "the certificate expired at {}", show(*date)),
            Self::NotYetValid(date) => {
                write!(out, "the certificate is not valid before {}", show(*date))
            }
            Self::NoRevocationList(found) => {
                write!(
                    out,
                    "no revocation list in the file, only {}",
                    found.join(", ")
                )
            }
            Self::BadRevocationList(detail) => {
                write!(out, "the revocation list cannot be used: {detail}")
            }
            Self::RevocationListExpired(date) => {
                write!(out, "the revocation list expired at {}", show(*date))
            }
            Self::NoSystemRoots(detail) => {
                write!(out, "no authorities found in the operating system{detail}")
            }
            Self::Refused(detail) => write!(out, "the TLS library refuses it: {detail}"),
        }
    }
}

impl std::error::Error for MaterialError {}

/// An X.509 time as a time of the system, held within what can be shown.
pub(super) fn time_of(seconds: i64) -> SystemTime {
    let seconds = u64::try_from(seconds).unwrap_or(0).min(LAST_SECOND);
    UNIX_EPOCH + Duration::from_secs(seconds)
}

/// A digest of fields, each with its length, so that bytes cannot move from one field to the next.
pub(super) fn digest_fields(label: &str, fields: &[&[u8]]) -> Digest {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(label.as_bytes());
    for field in fields {
        context.update(&(field.len() as u64).to_be_bytes());
        context.update(field);
    }
    let mut output = [0; 32];
    output.copy_from_slice(context.finish().as_ref());
    output
}

fn show(date: SystemTime) -> impl fmt::Display {
    humantime::format_rfc3339_seconds(date)
}

/// The last second of the year 9999, the end of X.509's calendar.
const LAST_SECOND: u64 = 253_402_300_799;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_is_wrong_and_what_to_do() {
        let error = MaterialError::Expired(time_of(1_700_000_000));
        assert_eq!(
            error.to_string(),
            "the certificate expired at 2023-11-14T22:13:20Z"
        );
        assert_eq!(error.help(), "renew the certificate");
        assert_eq!(error.part(), Part::Certificate);
    }

    #[test]
    fn dates_at_the_ends_of_the_calendar_are_shown() {
        for seconds in [i64::MIN, -1, 0, i64::MAX] {
            let text = MaterialError::NotYetValid(time_of(seconds)).to_string();
            assert!(text.ends_with('Z'), "{text}");
        }
    }

    #[test]
    fn bytes_cannot_move_between_the_fields_of_a_digest() {
        assert_ne!(
            digest_fields("x", &[b"ab", b"c"]),
            digest_fields("x", &[b"a", b"bc"])
        );
        assert_ne!(digest_fields("x", &[]), digest_fields("x", &[b""]));
    }
}
