//! PEM bytes → certificates and keys; the only file that knows rustls_pemfile (RFC 7468).
//!
//! Pure. Called for everything that operators name in a config file. The crate below passes over sections it does
//! not know, so the labels are also read here: an error can then name what the file holds instead.

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls_pemfile::{Error, Item, read_one_from_slice};
use zeroize::Zeroizing;

use super::material::{MaterialError, Part};

/// Reads every certificate, in the order of the file; other sections are passed over.
///
/// # Errors
/// When there is none, or a section is broken.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    let mut certificates = Vec::new();
    for item in items(pem, Part::Certificate)? {
        match item {
            Item::X509Certificate(certificate) => certificates.push(certificate),
            // A key that stands in the same file is wiped as well.
            other => drop(key(other)),
        }
    }
    if certificates.is_empty() {
        return Err(MaterialError::NoCertificate(labels(pem)));
    }
    Ok(certificates)
}

/// Reads every revocation list; other sections are passed over.
///
/// # Errors
/// When there is none, or a section is broken.
pub fn revocation_lists(
    pem: &[u8],
) -> Result<Vec<CertificateRevocationListDer<'static>>, MaterialError> {
    let mut lists = Vec::new();
    for item in items(pem, Part::Certificate)? {
        if let Item::Crl(list) = item {
            lists.push(list);
        }
    }
    if lists.is_empty() {
        return Err(MaterialError::NoRevocationList(labels(pem)));
    }
    Ok(lists)
}

/// Reads the private key: PKCS #8, PKCS #1 or SEC 1; sections that are not keys are passed over. What is returned is wiped when
/// it is dropped.
///
/// # Errors
/// When there is none or more than one, when it is encrypted, or when a section is broken.
pub fn private_key(pem: &[u8]) -> Result<Zeroizing<PrivateKeyDer<'static>>, MaterialError> {
    // Before anything is decoded: the old form of encryption is a header inside the section, and not base64.
    if is_encrypted(pem) {
        return Err(MaterialError::EncryptedKey);
    }
    let mut keys = items(pem, Part::Key)?.into_iter().filter_map(key);
    let first = keys
        .next()
        .ok_or_else(|| MaterialError::NoKey(labels(pem)))?;
    match keys.count() {
        0 => Ok(first),
        more => Err(MaterialError::SeveralKeys(more + 1)),
    }
}

fn key(item: Item) -> Option<Zeroizing<PrivateKeyDer<'static>>> {
    match item {
        Item::Pkcs1Key(key) => Some(Zeroizing::new(key.into())),
        Item::Pkcs8Key(key) => Some(Zeroizing::new(key.into())),
        Item::Sec1Key(key) => Some(Zeroizing::new(key.into())),
        // The list is open in the crate; nothing else is a private key.
        _ => None,
    }
}

fn items(pem: &[u8], part: Part) -> Result<Vec<Item>, MaterialError> {
    let mut items = Vec::new();
    let mut rest = pem;
    while let Some((item, after)) =
        read_one_from_slice(rest).map_err(|error| MaterialError::BrokenPem(part, show(&error)))?
    {
        items.push(item);
        rest = after;
    }
    if items.is_empty() && labels(pem).is_empty() {
        return Err(MaterialError::NotPem(part));
    }
    Ok(items)
}

fn show(error: &Error) -> String {
    match error {
        Error::MissingSectionEnd { end_marker } => {
            let marker = String::from_utf8_lossy(end_marker);
            format!("a section has no `{}` line", marker.trim_end())
        }
        Error::IllegalSectionStart { line } => {
            format!(
                "bad section start `{}`",
                clip(&String::from_utf8_lossy(line))
            )
        }
        Error::Base64Decode(_) => "a section is not base64".to_owned(),
    }
}

fn is_encrypted(pem: &[u8]) -> bool {
    labels(pem)
        .iter()
        .any(|label| label == "ENCRYPTED PRIVATE KEY")
        || lines(pem).any(|line| line.starts_with(b"Proc-Type:") && line.ends_with(b",ENCRYPTED"))
}

/// The kinds of sections in the file, each once, at most a few.
fn labels(pem: &[u8]) -> Vec<String> {
    let mut labels: Vec<String> = Vec::new();
    for line in lines(pem) {
        let label = line
            .strip_prefix(b"-----BEGIN ")
            .and_then(|rest| rest.strip_suffix(b"-----"));
        let Some(label) = label else { continue };
        let label = clip(&String::from_utf8_lossy(label));
        if !labels.contains(&label) && labels.len() < LABELS_SHOWN {
            labels.push(label);
        }
    }
    labels
}

fn lines(pem: &[u8]) -> impl Iterator<Item = &[u8]> {
    pem.split(|byte| *byte == b'\n' || *byte == b'\r')
        .map(<[u8]>::trim_ascii)
}

fn clip(text: &str) -> String {
    text.chars()
        .filter(|character| !character.is_control())
        .take(LABEL_SHOWN)
        .collect()
}

/// How many kinds an error names.
const LABELS_SHOWN: usize = 8;
/// How many characters of a label an error shows.
const LABEL_SHOWN: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;

    fn section(label: &str) -> String {
        format!("-----BEGIN {label}-----\nAAECAw==\n-----END {label}-----\n")
    }

    fn check_key(pem: &str, expected: &MaterialError) {
        assert_eq!(
            private_key(pem.as_bytes()).as_ref().err(),
            Some(expected),
            "{pem}"
        );
    }

    #[test]
    fn certificates_come_in_the_order_of_the_file_and_other_sections_are_passed_over() {
        let pem = [
            "# a comment\r\n",
            &section("CERTIFICATE"),
            &section("PRIVATE KEY"),
            &section("DH PARAMETERS"),
            &section("CERTIFICATE"),
        ]
        .concat();
        assert_eq!(certificates(pem.as_bytes()).unwrap().len(), 2);
        assert!(private_key(pem.as_bytes()).is_ok());
    }

    #[test]
    fn a_missing_section_names_what_is_there() {
        let pem = section("PRIVATE KEY") + &section("X509 CRL");
        assert_eq!(
            certificates(pem.as_bytes()),
            Err(MaterialError::NoCertificate(vec![
                "PRIVATE KEY".to_owned(),
                "X509 CRL".to_owned()
            ]))
        );
        check_key(
            &section("CERTIFICATE"),
            &MaterialError::NoKey(vec!["CERTIFICATE".to_owned()]),
        );
    }

    #[test]
    fn revocation_lists_are_found_among_other_sections_and_missed_where_there_is_none() {
        let pem = section("CERTIFICATE") + &section("X509 CRL") + &section("X509 CRL");
        assert_eq!(revocation_lists(pem.as_bytes()).unwrap().len(), 2);
        assert_eq!(
            revocation_lists(section("CERTIFICATE").as_bytes()),
            Err(MaterialError::NoRevocationList(vec![
                "CERTIFICATE".to_owned()
            ]))
        );
    }

    #[test]
    fn every_form_of_key_is_one() {
        for label in ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"] {
            assert!(private_key(section(label).as_bytes()).is_ok(), "{label}");
        }
        let with_parameters = section("EC PARAMETERS") + &section("EC PRIVATE KEY");
        assert!(private_key(with_parameters.as_bytes()).is_ok());
    }

    #[test]
    fn several_and_encrypted_keys_are_refused() {
        let two = section("PRIVATE KEY") + &section("RSA PRIVATE KEY");
        check_key(&two, &MaterialError::SeveralKeys(2));
        check_key(
            &section("ENCRYPTED PRIVATE KEY"),
            &MaterialError::EncryptedKey,
        );
        let old = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n\
                   AAECAw==\n-----END RSA PRIVATE KEY-----\n";
        check_key(old, &MaterialError::EncryptedKey);
    }

    #[test]
    fn what_is_not_pem_is_told_apart_from_broken_pem() {
        for text in ["", "hello", "\x30\x03\x01\x02"] {
            assert_eq!(
                certificates(text.as_bytes()),
                Err(MaterialError::NotPem(Part::Certificate)),
                "{text}"
            );
        }
        for broken in [
            "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n",
            "-----BEGIN CERTIFICATE-----\nAAEC\n",
        ] {
            assert!(
                matches!(
                    certificates(broken.as_bytes()),
                    Err(MaterialError::BrokenPem(Part::Certificate, _))
                ),
                "{broken}"
            );
        }
    }
}
