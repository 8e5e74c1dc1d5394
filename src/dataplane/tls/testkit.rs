//! Certificates, made per run, for the tests of this room.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
    DistinguishedName, DnType, IsCa, KeyIdMethod, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519,
    PKCS_RSA_SHA256, RevokedCertParams, SerialNumber, date_time_ymd,
};

/// A kind of key.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Ecdsa,
    Ed25519,
    Rsa,
}

impl Kind {
    fn generate(self) -> KeyPair {
        KeyPair::generate_for(match self {
            Self::Ecdsa => &PKCS_ECDSA_P256_SHA256,
            Self::Ed25519 => &PKCS_ED25519,
            Self::Rsa => &PKCS_RSA_SHA256,
        })
        .unwrap()
    }
}

/// A certificate and its key in PEM.
pub(super) struct Made {
    pub(super) cert: String,
    pub(super) key: String,
}

/// A self-signed certificate.
pub(super) fn made(kind: Kind, names: &[&str]) -> Made {
    let key = kind.generate();
    Made {
        cert: params(names).self_signed(&key).unwrap().pem(),
        key: key.serialize_pem(),
    }
}

/// An authority that issues certificates.
pub(super) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(super) fn new(name: &str) -> Self {
        let mut params = params(&[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Self {
            issuer: CertifiedIssuer::self_signed(params, Kind::Ecdsa.generate()).unwrap(),
        }
    }

    pub(super) fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A list, in PEM, of the certificates that it has revoked by their numbers; the next one is due in a year.
    pub(super) fn revoking(&self, numbers: &[u64], next: i32) -> String {
        let revoked = numbers.iter().map(|&number| RevokedCertParams {
            serial_number: SerialNumber::from(number),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(next, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    pub(super) fn issue(
        &self,
        kind: Kind,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Made {
        let key = kind.generate();
        let mut params = params(names);
        change(&mut params);
        Made {
            cert: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }
}

fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params
}
