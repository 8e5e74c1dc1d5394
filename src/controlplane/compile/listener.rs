//! Listener and TLS plans.
//!
//! What is made of equal files and settings is the one from before, unread: a certificate that expired in service
//! does not stop a change elsewhere, and clients keep their tickets.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use super::{Errors, Materials};
use crate::config::listener::{Certificate, ClientAuth, ClientAuthMode, Listener, Tls};
use crate::dataplane::snapshot::{ListenerPlan, Snapshot};
use crate::dataplane::tls::{
    CertTable, ClientAuthority, Digest, Identity, MaterialError, Part, ServerPlan,
};

pub(super) fn compile(
    listeners: &[Listener],
    materials: &Materials<'_>,
    previous: Option<&Snapshot>,
    errors: &mut Errors<'_>,
) -> Box<[Arc<ListenerPlan>]> {
    let mut identities = Identities::of(previous, *materials);
    let plans = listeners
        .iter()
        .enumerate()
        .filter_map(|(index, listener)| {
            let before = previous.and_then(|previous| previous.listener(&listener.name));
            let path = format!("listeners[{index}].tls");
            let tls = match &listener.tls {
                None => None,
                Some(tls) => {
                    let before = before.and_then(|before| before.tls.as_ref());
                    Some(server_plan(tls, &path, before, &mut identities, errors)?)
                }
            };
            let plan = ListenerPlan {
                name: listener.name.clone(),
                address: listener.address,
                tls,
                redirect_to_https: listener.redirect_to_https,
                ready_path: listener.ready_path.as_deref().map(Box::from),
            };
            Some(match before {
                Some(before) if is_same(before, &plan) => Arc::clone(before),
                Some(_) | None => Arc::new(plan),
            })
        });
    plans.collect()
}

fn is_same(before: &ListenerPlan, after: &ListenerPlan) -> bool {
    let same_tls = match (&before.tls, &after.tls) {
        (Some(before), Some(after)) => Arc::ptr_eq(before, after),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    };
    same_tls
        && before.address == after.address
        && before.redirect_to_https == after.redirect_to_https
        && before.ready_path == after.ready_path
}

/// `None` when something is wrong with it, and that is written down.
fn server_plan(
    tls: &Tls,
    path: &str,
    previous: Option<&Arc<ServerPlan>>,
    identities: &mut Identities<'_>,
    errors: &mut Errors<'_>,
) -> Option<Arc<ServerPlan>> {
    let certificates = tls
        .certificates
        .iter()
        .enumerate()
        .map(|(index, certificate)| {
            identities.find(certificate, format!("{path}.certificates[{index}]"), errors)
        });
    // Collected first, so that every certificate is looked at.
    let certificates: Vec<_> = certificates.collect();
    let authority = match &tls.client_auth {
        None => None,
        Some(auth) => Some(Authority::find(auth, path, &identities.materials, errors)?),
    };
    let certificates: Vec<_> = certificates.into_iter().collect::<Option<_>>()?;
    let digest = ServerPlan::digest_of(
        certificates.iter().map(|identity| identity.fingerprint()),
        authority.as_ref().map(Authority::digest),
    );
    if let Some(previous) = previous
        && previous.digest() == digest
    {
        return Some(Arc::clone(previous));
    }
    let authority = match authority {
        None => None,
        Some(authority) => Some(authority.read(path, identities.materials.outside.now, errors)?),
    };
    let table = CertTable::new(certificates);
    match ServerPlan::new(table, authority.as_ref(), previous.map(AsRef::as_ref)) {
        Ok(plan) => Some(Arc::new(plan)),
        Err(error) => {
            errors.add(path, &error.to_string(), Some(error.help()));
            None
        }
    }
}

/// The certificates at hand: those in force, and those read on the way.
struct Identities<'a> {
    known: HashMap<Digest, Arc<Identity>>,
    materials: Materials<'a>,
}

impl<'a> Identities<'a> {
    fn of(previous: Option<&Snapshot>, materials: Materials<'a>) -> Self {
        let listeners = previous
            .into_iter()
            .flat_map(|previous| &previous.listeners);
        let plans = listeners.filter_map(|listener| listener.tls.as_ref());
        let identities = plans.flat_map(|plan| plan.certs().identities());
        let known = identities
            .map(|known| (known.fingerprint(), Arc::clone(known)))
            .collect();
        Self { known, materials }
    }

    fn find(
        &mut self,
        certificate: &Certificate,
        path: String,
        errors: &mut Errors<'_>,
    ) -> Option<Arc<Identity>> {
        let unread = Unread::of(certificate, path, &self.materials, errors)?;
        let digest = unread.digest();
        if let Some(known) = self.known.get(&digest) {
            return Some(Arc::clone(known));
        }
        let identity = unread.read(self.materials.outside.now, errors)?;
        self.known.insert(digest, Arc::clone(&identity));
        Some(identity)
    }
}

/// A certificate and its key, still as bytes: those that are known by their digest stay unread.
pub(super) struct Unread<'a> {
    certificate: &'a Certificate,
    path: String,
    cert: &'a [u8],
    key: &'a [u8],
}

impl<'a> Unread<'a> {
    /// The bytes, or a note at `path` of what is missing.
    pub(super) fn of(
        certificate: &'a Certificate,
        path: String,
        materials: &Materials<'a>,
        errors: &mut Errors<'_>,
    ) -> Option<Self> {
        let cert = errors.bytes(materials, &certificate.cert, &format!("{path}.cert"));
        let key = errors.bytes(materials, &certificate.key, &format!("{path}.key"));
        Some(Self {
            certificate,
            path,
            cert: cert?,
            key: key?,
        })
    }

    pub(super) fn digest(&self) -> Digest {
        Identity::digest_of(self.cert, self.key)
    }

    /// The identity, or a note of what is wrong with it.
    pub(super) fn read(self, now: SystemTime, errors: &mut Errors<'_>) -> Option<Arc<Identity>> {
        match Identity::load(self.cert, self.key, now) {
            Ok(identity) => Some(Arc::new(identity)),
            Err(error) => {
                let (file, part) = match error.part() {
                    Part::Certificate => (&self.certificate.cert, "cert"),
                    Part::Key => (&self.certificate.key, "key"),
                };
                let message = format!("{}: {error}", file.display());
                let path = format!("{}.{part}", self.path);
                errors.add(&path, &message, Some(error.help()));
                None
            }
        }
    }
}

/// The authorities of clients, still as bytes.
struct Authority<'a> {
    auth: &'a ClientAuth,
    pem: &'a [u8],
    lists: Vec<&'a [u8]>,
}

impl<'a> Authority<'a> {
    fn find(
        auth: &'a ClientAuth,
        path: &str,
        materials: &Materials<'a>,
        errors: &mut Errors<'_>,
    ) -> Option<Self> {
        let pem = errors.bytes(materials, &auth.ca, &format!("{path}.client_auth.ca"));
        let lists =
            auth.crl.iter().enumerate().map(|(index, file)| {
                errors.bytes(materials, file, &Self::place(auth, path, index))
            });
        // Collected first, so that every file is looked at.
        let lists: Vec<_> = lists.collect();
        Some(Self {
            auth,
            pem: pem?,
            lists: lists.into_iter().collect::<Option<_>>()?,
        })
    }

    fn digest(&self) -> Digest {
        ClientAuthority::digest_of(self.pem, &self.lists, self.is_required())
    }

    /// Where the file of revocation lists with this number is named: one may stand without a list around it.
    fn place(auth: &ClientAuth, path: &str, index: usize) -> String {
        match auth.crl.len() {
            1 => format!("{path}.client_auth.crl"),
            _ => format!("{path}.client_auth.crl[{index}]"),
        }
    }

    fn read(
        &self,
        path: &str,
        now: SystemTime,
        errors: &mut Errors<'_>,
    ) -> Option<ClientAuthority> {
        let mut are_good = true;
        for (index, (file, list)) in self.auth.crl.iter().zip(&self.lists).enumerate() {
            if let Err(error) = ClientAuthority::check_lists(list, now) {
                let message = format!("{}: {error}", file.display());
                let place = Self::place(self.auth, path, index);
                errors.add(&place, &message, Some(error.help()));
                are_good = false;
            }
        }
        if !are_good {
            return None;
        }
        let read: Result<_, MaterialError> =
            ClientAuthority::new(self.pem, &self.lists, self.is_required());
        read.inspect_err(|error| {
            let message = format!("{}: {error}", self.auth.ca.display());
            errors.add(
                &format!("{path}.client_auth.ca"),
                &message,
                Some(error.help()),
            );
        })
        .ok()
    }

    fn is_required(&self) -> bool {
        match self.auth.mode {
            ClientAuthMode::Required => true,
            ClientAuthMode::Optional => false,
        }
    }
}
