//! The development certificate: made on the machine that uses it, kept between runs, never committed.
//!
//! [`super::prepare`] calls it. It promises a certificate and a key that belong together, are valid for another
//! week, and a key that nobody but its owner can read, from the moment the file exists. The certificate is
//! self-signed and not an authority: whoever trusts it trusts this one key for `localhost`, and nothing else.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PublicKeyData as _, SanType,
};
use x509_parser::pem::parse_x509_pem;

/// The certificate and its key, both PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The certificate.
    pub cert: PathBuf,
    /// The key, mode 0600.
    pub key: PathBuf,
    /// How this run found it.
    pub fate: Fate,
}

/// How a run found the certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was there and is good.
    Kept,
    /// There was none.
    Made,
    /// There was one, of no more use.
    Renewed(Flaw),
}

/// Why a certificate is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// One of the two files is missing.
    Missing,
    /// One of the two files is not what it should be.
    Unreadable,
    /// The key is not the certificate's.
    Mismatched,
    /// It is not valid for another week.
    Expiring,
    /// Others could read the key.
    Exposed,
}

impl fmt::Display for Fate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Kept => "kept",
            Self::Made => "made now",
            Self::Renewed(Flaw::Missing) => "renewed: one of its files was missing",
            Self::Renewed(Flaw::Unreadable) => "renewed: it could not be read",
            Self::Renewed(Flaw::Mismatched) => "renewed: its key was another's",
            Self::Renewed(Flaw::Expiring) => "renewed: it would have expired",
            Self::Renewed(Flaw::Exposed) => "renewed: others could read its key",
        })
    }
}

/// Why no certificate could be made.
#[derive(Debug)]
pub enum CertificateError {
    /// A file or folder that cannot be written.
    Io(PathBuf, io::Error),
    /// The making itself.
    Make(rcgen::Error),
}

impl fmt::Display for CertificateError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(path, error) => write!(out, "cannot write {}: {error}", path.display()),
            Self::Make(error) => write!(out, "cannot make a certificate: {error}"),
        }
    }
}

impl std::error::Error for CertificateError {}

/// Finds `localhost.pem` and `localhost.key` in `dir`, or makes them.
///
/// # Errors
/// When they have to be made and cannot be written.
pub fn ensure(dir: &Path, now: SystemTime) -> Result<Certificate, CertificateError> {
    let (cert, key) = (dir.join("localhost.pem"), dir.join("localhost.key"));
    let fate = match inspect(&cert, &key, now) {
        None => Fate::Kept,
        Some(Flaw::Missing) if !cert.exists() && !key.exists() => Fate::Made,
        Some(flaw) => Fate::Renewed(flaw),
    };
    if fate != Fate::Kept {
        let (cert_pem, key_pem) = make(now).map_err(CertificateError::Make)?;
        fs::create_dir_all(dir).map_err(|error| CertificateError::Io(dir.to_owned(), error))?;
        replace(&key, &key_pem, 0o600)?;
        replace(&cert, &cert_pem, 0o644)?;
    }
    Ok(Certificate { cert, key, fate })
}

/// What speaks against the two files, if anything does.
fn inspect(cert: &Path, key: &Path, now: SystemTime) -> Option<Flaw> {
    let (Ok(cert_pem), Ok(key_pem)) = (fs::read(cert), fs::read_to_string(key)) else {
        // A key that is not even text cannot be told from one that may not be read; both are remade.
        let both = cert.exists() && key.exists();
        return Some(if both {
            Flaw::Unreadable
        } else {
            Flaw::Missing
        });
    };
    if !fs::metadata(key).is_ok_and(|metadata| metadata.mode() & 0o077 == 0) {
        return Some(Flaw::Exposed);
    }
    let Ok((_, pem)) = parse_x509_pem(&cert_pem) else {
        return Some(Flaw::Unreadable);
    };
    let (Ok(parsed), Ok(key)) = (pem.parse_x509(), KeyPair::from_pem(&key_pem)) else {
        return Some(Flaw::Unreadable);
    };
    if parsed.public_key().subject_public_key.as_ref() != key.der_bytes() {
        return Some(Flaw::Mismatched);
    }
    let expiry = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
    let needed = since_epoch(now) + RENEWED_BEFORE;
    (Duration::from_secs(expiry) < needed).then_some(Flaw::Expiring)
}

/// A certificate and its key, as PEM.
fn make(now: SystemTime) -> Result<(String, String), rcgen::Error> {
    let mut params = CertificateParams::new(["localhost".to_owned(), "*.localhost".to_owned()])?;
    for address in [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ] {
        params.subject_alt_names.push(SanType::IpAddress(address));
    }
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, "Lockgate development certificate");
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = since_epoch(now);
    params.not_before = epoch + now.saturating_sub(CLOCK_SKEW);
    params.not_after = epoch + now.saturating_add(VALID_FOR);
    let key = KeyPair::generate()?;
    let cert = params.self_signed(&key)?;
    Ok((cert.pem(), key.serialize_pem()))
}

/// Writes beside and renames over, so that no reader sees half a file and no key is ever open to others.
fn replace(path: &Path, text: &str, mode: u32) -> Result<(), CertificateError> {
    let beside = path.with_extension("new");
    let write = || {
        if beside.exists() {
            fs::remove_file(&beside)?;
        }
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&beside)?
            .write_all(text.as_bytes())?;
        fs::rename(&beside, path)
    };
    write().map_err(|error| CertificateError::Io(path.to_owned(), error))
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Browsers refuse certificates that live longer than 398 days.
const VALID_FOR: Duration = Duration::from_secs(396 * DAY);
/// A container or a browser whose clock is a little behind believes it too.
const CLOCK_SKEW: Duration = Duration::from_secs(DAY);
/// A certificate that would expire within a week's work is made anew.
const RENEWED_BEFORE: Duration = Duration::from_secs(7 * DAY);
const DAY: u64 = 24 * 60 * 60;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(days: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000 + days * DAY)
    }

    fn both(dir: &Path) -> (String, String) {
        let read = |name| fs::read_to_string(dir.join(name)).unwrap();
        (read("localhost.pem"), read("localhost.key"))
    }

    /// Makes a certificate, spoils it, and says how the next run finds it.
    fn check(days: u64, spoil: impl FnOnce(&Path)) -> (Fate, bool) {
        let dir = tempfile::tempdir().unwrap();
        let certs = dir.path().join("certs");
        assert_eq!(ensure(&certs, at(0)).unwrap().fate, Fate::Made);
        let before = both(&certs);
        spoil(&certs);
        let found = ensure(&certs, at(days)).unwrap();
        let mode = fs::metadata(&found.key).unwrap().mode() & 0o777;
        assert_eq!(mode, 0o600);
        assert_eq!(ensure(&certs, at(days)).unwrap().fate, Fate::Kept);
        (found.fate, both(&certs) == before)
    }

    #[test]
    fn it_is_kept_between_runs() {
        assert_eq!(check(0, |_| {}), (Fate::Kept, true));
        assert_eq!(check(388, |_| {}), (Fate::Kept, true));
    }

    #[test]
    fn it_is_renewed_a_week_before_it_expires() {
        assert_eq!(check(390, |_| {}), (Fate::Renewed(Flaw::Expiring), false));
        assert_eq!(check(900, |_| {}), (Fate::Renewed(Flaw::Expiring), false));
    }

    #[test]
    fn it_is_renewed_when_its_files_are_of_no_use() {
        let write = |name: &'static str, text: Vec<u8>| {
            move |dir: &Path| fs::write(dir.join(name), text).unwrap()
        };
        let unreadable = (Fate::Renewed(Flaw::Unreadable), false);
        assert_eq!(check(0, write("localhost.pem", vec![])), unreadable);
        assert_eq!(
            check(0, write("localhost.key", b"key".to_vec())),
            unreadable
        );
        assert_eq!(check(0, write("localhost.key", vec![0xff; 9])), unreadable);
        let other = make(at(0)).unwrap().1.into_bytes();
        let found = check(0, write("localhost.key", other));
        assert_eq!(found, (Fate::Renewed(Flaw::Mismatched), false));
        let found = check(0, |dir| fs::remove_file(dir.join("localhost.key")).unwrap());
        assert_eq!(found, (Fate::Renewed(Flaw::Missing), false));
    }

    #[test]
    fn a_key_that_others_could_read_is_replaced() {
        use std::os::unix::fs::PermissionsExt as _;
        let found = check(0, |dir| {
            let open = fs::Permissions::from_mode(0o644);
            fs::set_permissions(dir.join("localhost.key"), open).unwrap();
        });
        assert_eq!(found, (Fate::Renewed(Flaw::Exposed), false));
    }

    #[test]
    fn a_file_left_by_a_run_that_broke_off_is_in_nobodys_way() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("localhost.new"), "half").unwrap();
        assert_eq!(ensure(dir.path(), at(0)).unwrap().fate, Fate::Made);
    }

    #[test]
    fn it_is_for_localhost_and_for_no_longer_than_browsers_allow() {
        let dir = tempfile::tempdir().unwrap();
        let made = ensure(dir.path(), at(0)).unwrap();
        let bytes = fs::read(made.cert).unwrap();
        let pem = parse_x509_pem(&bytes).unwrap().1;
        let cert = pem.parse_x509().unwrap();
        let names = cert.subject_alternative_name().unwrap().unwrap();
        let shown = format!("{:?}", names.value.general_names);
        assert_eq!(names.value.general_names.len(), 4, "{shown}");
        assert!(shown.contains("localhost") && shown.contains("*.localhost"));
        let validity = cert.validity();
        let days = (validity.not_after.timestamp() - validity.not_before.timestamp()) / 86_400;
        assert_eq!(days, 397);
        assert!(!cert.is_ca());
    }
}
