//! Rules of listeners: their addresses and names do not collide, and TLS has what it needs.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::Folder;
use crate::base::addr::ListenAddr;
use crate::base::name::ListenerName;
use crate::config::decode::{At, Decoder};
use crate::config::keys;
use crate::config::listener::{Certificate, ClientAuth, Listener, Tls};

/// Checks all listeners.
pub(super) fn check(
    written: &[At<keys::Listener>],
    folder: Folder<'_>,
    decoder: &mut Decoder,
) -> Vec<Listener> {
    check_addresses(written, decoder);
    check_names(written, decoder);
    written
        .iter()
        .filter_map(|at| listener(&at.value, folder, decoder))
        .collect()
}

fn listener(keys: &keys::Listener, folder: Folder<'_>, decoder: &mut Decoder) -> Option<Listener> {
    if keys.redirect_to_https.value && keys.written.has("tls") {
        let help = "leave one out: a listener with TLS has no use for a redirect to itself";
        let message = "`redirect_to_https` on a listener with `tls`";
        decoder.problem(keys.redirect_to_https.place, message, help);
    }
    let tls = keys.tls.as_ref().and_then(|at| tls(&at.value, folder));
    let address = keys.address.as_ref()?.value;
    let name = match &keys.name {
        Some(name) => ListenerName::from(name.value.0.as_str()),
        None => ListenerName::from(address.to_string()),
    };
    Some(Listener {
        name,
        address,
        tls,
        redirect_to_https: keys.redirect_to_https.value,
        ready_path: keys.ready_path.as_ref().map(|at| at.value.0.clone()),
    })
}

fn tls(keys: &keys::Tls, folder: Folder<'_>) -> Option<Tls> {
    let certificates = &keys.certificates.as_ref()?.value.0;
    let client_auth = keys.client_auth.as_ref().and_then(|at| {
        Some(ClientAuth {
            ca: folder.file(at.value.ca.as_ref()?),
            crl: at
                .value
                .crl
                .iter()
                .flat_map(|at| &at.value.0)
                .map(|at| folder.file(at))
                .collect(),
            mode: at.value.mode.value,
        })
    });
    Some(Tls {
        certificates: certificates
            .iter()
            .filter_map(|at| certificate(&at.value, folder))
            .collect(),
        client_auth,
    })
}

pub(super) fn certificate(keys: &keys::Certificate, folder: Folder<'_>) -> Option<Certificate> {
    Some(Certificate {
        cert: folder.file(keys.cert.as_ref()?),
        key: folder.file(keys.key.as_ref()?),
    })
}

fn check_addresses(written: &[At<keys::Listener>], decoder: &mut Decoder) {
    let mut by_port: HashMap<u16, Vec<(usize, ListenAddr)>> = HashMap::new();
    for (index, at) in written.iter().enumerate() {
        let Some(address) = &at.value.address else {
            continue;
        };
        // The system picks a free port for 0.
        if address.value.port() == 0 {
            continue;
        }
        let others = by_port.entry(address.value.port()).or_default();
        if let Some((other, taken)) = others
            .iter()
            .find(|(_, taken)| collide(*taken, address.value))
        {
            let message = format!(
                "`{}` is taken: listeners[{other}] listens on `{taken}`",
                address.value
            );
            decoder.problem(
                address.place,
                message,
                "give each listener an address of its own",
            );
        }
        others.push((index, address.value));
    }
}

/// Whether two addresses with the same port overlap.
fn collide(a: ListenAddr, b: ListenAddr) -> bool {
    match (a, b) {
        (ListenAddr::All(_), _) | (_, ListenAddr::All(_)) => true,
        (ListenAddr::One(a), ListenAddr::One(b)) => {
            a == b || a.is_ipv4() == b.is_ipv4() && (is_any(a) || is_any(b))
        }
    }
}

fn is_any(address: SocketAddr) -> bool {
    address.ip().is_unspecified()
}

fn check_names(written: &[At<keys::Listener>], decoder: &mut Decoder) {
    let mut seen: HashMap<String, usize> = HashMap::new();
    for (index, at) in written.iter().enumerate() {
        let Some(name) = &at.value.name else {
            continue;
        };
        if let Some(first) = seen.get(&name.value.0) {
            let message = format!("the name `{}` is taken by listeners[{first}]", name.value.0);
            decoder.problem(name.place, message, "give each listener a name of its own");
        }
        seen.entry(name.value.0.clone()).or_insert(index);
    }
}
