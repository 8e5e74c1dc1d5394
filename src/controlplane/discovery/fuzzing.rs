//! What must hold for whatever DNS servers answer.

use super::resolver;

/// An answer of a DNS server: its addresses and services are few, sorted, and such that can be dialled.
pub fn names(bytes: &[u8]) {
    let Some((addresses, services)) = resolver::digest(bytes) else {
        return;
    };
    assert!(addresses.is_sorted_by(|a, b| a < b) && addresses.len() <= 1024);
    assert!(services.is_sorted_by(|a, b| a < b) && services.len() <= 256);
    for service in services {
        let host = &service.host;
        assert!(
            service.port > 0 && host.len() > 1 && host.ends_with('.'),
            "{host}"
        );
        assert!(host.bytes().all(|byte| byte.is_ascii_graphic()), "{host:?}");
        assert!(
            !host.bytes().any(|byte| byte.is_ascii_uppercase()),
            "{host}"
        );
    }
}
