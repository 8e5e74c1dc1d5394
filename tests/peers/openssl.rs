//! openssl's client: versions, resumption, key exchange, client certificates.

use super::process::{PATIENCE, Said, run, run_with};
use super::proxy::{LISTENERS, Proxy, certificates};
use super::servers::Server;

const GREETING: &str = "routes: [ { respond: { status: 200, body: greetings } } ]\n";

#[test]
fn openssl_speaks_tls_1_2_and_1_3_and_nothing_older() {
    let proxy = Proxy::start(GREETING);
    for (flag, version) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let said = s_client(&proxy, &[flag]).ok();
        assert!(
            said.contains(&format!("New, {version}, Cipher is ")),
            "{said}"
        );
        assert!(said.contains("Verification: OK"), "{said}");
        assert!(said.contains("HTTP/1.1 200 OK"), "{said}");
        assert!(said.contains("\r\n\r\ngreetings"), "{said}");
        proxy.record(|record| record["tls"] == version && record["status"] == 200);
    }
    // At level 0, openssl itself would go along.
    let old = s_client(&proxy, &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]);
    assert!(!old.success, "{old:#?}");
    assert!(
        old.stderr.contains("alert"),
        "refused by the proxy: {old:#?}"
    );
}

#[test]
fn openssl_resumes_its_sessions() {
    let proxy = Proxy::start(GREETING);
    for (flag, version) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let session = proxy.file(version);
        s_client(&proxy, &[flag, "-sess_out", &session]).ok();
        // Some of these meet the other worker, which has to know the ticket, too.
        for _ in 0..6 {
            let said = s_client(&proxy, &[flag, "-sess_in", &session]).ok();
            assert!(
                said.contains(&format!("Reused, {version}, Cipher is ")),
                "{said}"
            );
            assert!(said.contains("\r\n\r\ngreetings"), "{said}");
        }
    }
}

#[test]
fn openssl_agrees_on_a_key_exchange_and_on_a_protocol() {
    let proxy = Proxy::start(GREETING);
    let groups = run("openssl", ["list", "-kem-algorithms"]);
    // Known since openssl 3.5.
    if groups.stdout.contains("X25519MLKEM768") {
        let said = s_client(&proxy, &["-tls1_3", "-groups", "X25519MLKEM768:X25519"]).ok();
        assert!(said.contains("X25519MLKEM768"), "{said}");
    }
    let said = s_client(&proxy, &["-tls1_3", "-groups", "X25519"]).ok();
    assert!(said.contains("X25519, 253 bits"), "{said}");
    let said = s_client(&proxy, &["-tls1_2", "-groups", "P-256"]).ok();
    assert!(said.contains("prime256v1, 256 bits"), "{said}");
    // Our only certificate is ECDSA's, so no cipher suite is left to agree on.
    let none = s_client(
        &proxy,
        &["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"],
    );
    assert!(!none.success, "{none:#?}");
    for (offered, taken) in [("h2,http/1.1", "h2"), ("http/1.1", "http/1.1")] {
        // Asked without a request, which would be the wrong protocol's.
        let said = s_client_says(&proxy, &["-alpn", offered], "").ok();
        assert!(said.contains(&format!("ALPN protocol: {taken}")), "{said}");
    }
    let said = s_client(&proxy, &[]).ok();
    assert!(
        said.contains("No ALPN negotiated") && said.contains("\r\n\r\ngreetings"),
        "{said}"
    );
}

#[test]
fn a_client_certificate_made_by_openssl_is_verified_and_its_subject_handed_on() {
    let node = Server::node();
    let listeners = LISTENERS.replace("tls: {", "tls: { client_auth: { ca: ca.pem },");
    let config = format!(
        "{listeners}routes: [ {{ pool: app }} ]\npools: {{ app: {{ endpoints: [ '{}' ] }} }}\n",
        node.address
    );
    let proxy = Proxy::start_in(certificates(), &config);
    let (cert, key) = (proxy.file("alice.pem"), proxy.file("alice.key"));
    for flag in ["-tls1_2", "-tls1_3"] {
        let said = s_client(&proxy, &[flag, "-cert", &cert, "-key", &key]).ok();
        assert!(
            said.contains(r#""x-client-cert-subject":"CN=alice,O=Peers""#),
            "{said}"
        );
        let said = s_client(&proxy, &[flag]);
        assert!(!said.stdout.contains("HTTP/1.1"), "{said:#?}");
        let words = ["certificate required", "handshake failure"];
        assert!(
            words.iter().any(|word| said.stderr.contains(word)),
            "{said:#?}"
        );
        // A certificate of another authority, with the same name.
        let stranger = certificates();
        let other = |name| super::proxy::path_in(&stranger, name);
        let (cert, key) = (other("alice.pem"), other("alice.key"));
        let said = s_client(&proxy, &[flag, "-cert", &cert, "-key", &key]);
        assert!(!said.stdout.contains("HTTP/1.1"), "{said:#?}");
        assert!(said.stderr.contains("alert"), "{said:#?}");
    }
    let arguments = |url: &str| {
        let (ca, forged) = (proxy.file("ca.pem"), "x-client-cert-subject: CN=root");
        let words = [
            "-sSf", "--cacert", &ca, "--cert", &cert, "--key", &key, "-H", forged, url,
        ];
        words.map(str::to_owned)
    };
    let said = run("curl", arguments(&proxy.https("/"))).ok();
    assert!(
        said.contains(r#""x-client-cert-subject":"CN=alice,O=Peers""#),
        "{said}"
    );
    let said = run("curl", arguments(&proxy.http("/"))).ok();
    assert!(!said.contains("x-client-cert-subject"), "{said}");
}

/// Asks once over TLS and waits for the end, which is when the tickets of TLS 1.3 have come, too.
fn s_client(proxy: &Proxy, arguments: &[&str]) -> Said {
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    s_client_says(proxy, &[&["-ign_eof"], arguments].concat(), request)
}

fn s_client_says(proxy: &Proxy, arguments: &[&str], text: &str) -> Said {
    let (address, ca) = (proxy.web.to_string(), proxy.file("ca.pem"));
    let common = [
        "s_client",
        "-connect",
        &address,
        "-servername",
        "localhost",
        "-CAfile",
        &ca,
        "-verify_return_error",
    ];
    run_with("openssl", [&common, arguments].concat(), text, PATIENCE)
}
