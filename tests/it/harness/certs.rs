//! Certificates made for one case: an authority, and what it signs, as files and as settings for TLS.

use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber,
    date_time_ymd,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tempfile::TempDir;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

/// An authority and a folder with its certificate in `ca.pem`. Shows itself as the path of the folder.
pub struct Certs {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// Makes an authority.
pub fn new() -> Certs {
    let folder = tempfile::tempdir().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(DnType::CommonName, "Authority");
    let key = KeyPair::generate().unwrap();
    let cert = params.self_signed(&key).unwrap();
    fs::write(folder.path().join("ca.pem"), cert.pem()).unwrap();
    Certs {
        folder,
        issuer: Issuer::new(params, key),
    }
}

impl fmt::Display for Certs {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.folder.path().display().fmt(out)
    }
}

impl Certs {
    /// The folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes `file.pem` and `file.key` for a server of these names.
    pub fn server(self, file: &str, names: &[&str]) -> Self {
        self.issue(
            self.folder.path(),
            file,
            names,
            ExtendedKeyUsagePurpose::ServerAuth,
        );
        self
    }

    /// Writes `name.pem` and `name.key` for a client of this name.
    pub fn client(self, name: &str) -> Self {
        self.issue(
            self.folder.path(),
            name,
            &[],
            ExtendedKeyUsagePurpose::ClientAuth,
        );
        self
    }

    /// Writes `crl.pem`, in which the certificates in these files are revoked.
    pub fn revoke(&self, files: &[&str]) {
        let revoked = files.iter().map(|file| {
            let leaf = self.leaf(file);
            let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
            RevokedCertParams {
                serial_number: SerialNumber::from_slice(leaf.raw_serial()),
                revocation_time: date_time_ymd(2020, 1, 1),
                reason_code: None,
                invalidity_date: None,
            }
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2099, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).unwrap().pem().unwrap();
        // Put in place whole: the proxy may look at any moment.
        let made = self.folder.path().join("crl.made");
        fs::write(&made, list).unwrap();
        fs::rename(made, self.folder.path().join("crl.pem")).unwrap();
    }

    /// Writes a certificate and its key to a folder.
    pub fn issue(&self, folder: &Path, file: &str, names: &[&str], usage: ExtendedKeyUsagePurpose) {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, file);
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(folder.join(format!("{file}.pem")), cert.pem()).unwrap();
        fs::write(folder.join(format!("{file}.key")), key.serialize_pem()).unwrap();
    }

    /// The authority's certificate.
    pub fn ca(&self) -> String {
        fs::read_to_string(self.folder.path().join("ca.pem")).unwrap()
    }

    /// The certificate in `file.pem`.
    pub fn leaf(&self, file: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(self.folder.path().join(format!("{file}.pem"))).unwrap()
    }

    fn key(&self, file: &str) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_file(self.folder.path().join(format!("{file}.key"))).unwrap()
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.leaf("ca")).unwrap();
        Arc::new(roots)
    }

    /// A client that believes the authority, and offers these protocols.
    pub fn trusting(&self, protocols: &[&str]) -> Arc<ClientConfig> {
        self.client_config(rustls::ALL_VERSIONS, None, protocols)
    }

    /// The same with a certificate to show.
    pub fn showing(&self, file: &str, protocols: &[&str]) -> Arc<ClientConfig> {
        let shown = (self.leaf(file), self.key(file));
        self.client_config(rustls::ALL_VERSIONS, Some(shown), protocols)
    }

    /// The same with a certificate that another authority has signed.
    pub fn showing_anothers(&self, other: &Self, file: &str) -> Arc<ClientConfig> {
        let shown = (other.leaf(file), other.key(file));
        self.client_config(rustls::ALL_VERSIONS, Some(shown), &["http/1.1"])
    }

    /// The same with one version of TLS only.
    pub fn speaking(&self, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
        self.client_config(&[version], None, &["http/1.1"])
    }

    fn client_config(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        shown: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
        protocols: &[&str],
    ) -> Arc<ClientConfig> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(self.roots());
        let mut config = match shown {
            Some((leaf, key)) => builder.with_client_auth_cert(vec![leaf], key).unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = names(protocols);
        Arc::new(config)
    }

    /// A server with the certificate in `file`, that agrees to these protocols.
    pub fn serving(&self, file: &str, protocols: &[&str]) -> Arc<ServerConfig> {
        self.server_config(file, protocols, false)
    }

    /// The same, and clients must show a certificate of the authority.
    pub fn demanding(&self, file: &str, protocols: &[&str]) -> Arc<ServerConfig> {
        self.server_config(file, protocols, true)
    }

    fn server_config(&self, file: &str, protocols: &[&str], demands: bool) -> Arc<ServerConfig> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if demands {
            let verifier = WebPkiClientVerifier::builder_with_provider(self.roots(), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let mut config = builder
            .with_single_cert(vec![self.leaf(file)], self.key(file))
            .unwrap();
        config.alpn_protocols = names(protocols);
        Arc::new(config)
    }
}

fn names(protocols: &[&str]) -> Vec<Vec<u8>> {
    protocols
        .iter()
        .map(|name| name.as_bytes().to_vec())
        .collect()
}
