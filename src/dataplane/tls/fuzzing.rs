//! What must hold for whatever stands in files of certificates, in certificates of clients, and in tickets.

use std::time::{Duration, SystemTime};

use rustls::server::ProducesTickets;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::subject::SUBJECT_LIMIT;
use super::tickets::TicketKeys;
use super::{ClientAuthority, ClientIdentity, Identity, pem};
use crate::base::clock;
use crate::base::fuzzing::Choices;
use crate::base::secret::Secret;
use crate::base::ticket::TicketSecret;

/// A file of certificates or keys: what can be read of it is told, and what cannot, in a few words.
pub fn pems(bytes: &[u8]) {
    let now = SystemTime::UNIX_EPOCH + Duration::from_hours(24 * 365 * 57);
    let told = [
        pem::certificates(bytes).err(),
        pem::private_key(bytes).err(),
        Identity::load(bytes, bytes, now).err(),
        ClientAuthority::new(bytes, &[bytes], true).err(),
    ];
    for error in told.into_iter().flatten() {
        let text = error.to_string();
        assert!(text.len() < 4096 && !error.help().is_empty(), "{text}");
    }
}

/// The certificate of a client: its subject is text for one field, in which no part can pose as another.
pub fn subjects(bytes: &[u8]) {
    let Ok(client) = ClientIdentity::read(bytes, SystemTime::UNIX_EPOCH) else {
        return;
    };
    let subject = client.subject.to_str().expect("it is visible ASCII");
    assert!(subject.len() <= SUBJECT_LIMIT);
    let (_, certificate) = X509Certificate::from_der(bytes).expect("it was read before");
    let parts = certificate.subject().iter();
    let parts: usize = parts.map(|part| part.iter().count()).sum();
    // What separates parts stands in no value without an escape.
    let mut is_escaped = false;
    let separators = subject.bytes().filter(|byte| {
        let is_separator = !is_escaped && matches!(byte, b',' | b'+');
        is_escaped = !is_escaped && *byte == b'\\';
        is_separator
    });
    let empty = certificate
        .subject()
        .iter()
        .filter(|part| part.iter().count() == 0);
    if empty.count() == 0 {
        assert_eq!(separators.count() + 1, parts.max(1), "{subject}");
    }
}

/// A ticket: only one that was sealed here opens, and only as it was sealed.
pub fn tickets(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let keys = TicketKeys::new();
    let secret = TicketSecret {
        name: [7; 16],
        key: Secret::new([9; 32]),
        age: Duration::from_secs(1),
    };
    keys.adopt(&[secret], clock::now());
    let (at, flip) = (choices.byte(), choices.byte());
    let message = choices.rest();
    assert_eq!(keys.decrypt(message), None);
    let named = [&[7; 16][..], message].concat();
    assert_eq!(keys.decrypt(&named), None);
    let mut ticket = keys.encrypt(message).expect("the machine has randomness");
    let at = usize::from(at) % ticket.len();
    ticket[at] ^= flip;
    let opened = keys.decrypt(&ticket);
    assert_eq!(opened.as_deref(), (flip == 0).then_some(message));
}
