//! What a listener settles with a client: version, protocol, certificate; and what is no handshake at all.

use std::io::IoSlice;

use tokio::io::AsyncWrite;

use super::*;

#[tokio::test]
async fn both_versions_are_spoken_and_the_post_quantum_group_comes_first() {
    let authority = Authority::new("ca");
    let made = authority.issue(Kind::Ecdsa, &["a.test"], |_| {});
    let plan = plan(&[&made], None, None);
    for (versions, name) in [(TLS13, "TLSv1.3"), (TLS12, "TLSv1.2")] {
        let client = Client::speaking(versions, &authority).offering(&["h2", "http/1.1"]);
        let (stream, session, theirs) = succeed(&plan, &client.ready(), "a.test").await;
        assert_eq!(session.version.as_str(), name);
        assert_eq!(session.server_name.as_deref(), Some("a.test"));
        assert_eq!(session.protocol, Alpn::H2);
        assert_eq!(session.client, None);
        assert!(!session.resumed && matches!(stream, Stream::Server(_)));
        let group = theirs
            .get_ref()
            .1
            .negotiated_key_exchange_group()
            .unwrap()
            .name();
        if session.version == TlsVersion::Tls13 {
            assert_eq!(group, NamedGroup::X25519MLKEM768);
        }
    }
}

#[tokio::test]
async fn a_client_without_the_post_quantum_group_gets_x25519() {
    let authority = Authority::new("ca");
    let made = authority.issue(Kind::Ecdsa, &["a.test"], |_| {});
    let plan = plan(&[&made], None, None);
    let classic = Arc::new(CryptoProvider {
        kx_groups: vec![aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    });
    let client = Client::of(&authority, None, VERSIONS, classic, None).ready();
    let (_, _, theirs) = succeed(&plan, &client, "a.test").await;
    let group = theirs.get_ref().1.negotiated_key_exchange_group().unwrap();
    assert_eq!(group.name(), NamedGroup::X25519);
}

#[tokio::test]
async fn the_order_of_suites_is_ours_but_for_a_client_without_instructions_for_aes() {
    use CipherSuite as Suite;
    let authority = Authority::new("ca");
    let made = authority.issue(Kind::Ecdsa, &["a.test"], |_| {});
    let plan = plan(&[&made], None, None);
    let aes_256 = [
        Suite::TLS13_AES_256_GCM_SHA384,
        Suite::TLS13_CHACHA20_POLY1305_SHA256,
        Suite::TLS13_AES_128_GCM_SHA256,
        Suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        Suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        Suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ];
    let chacha = [1, 0, 2, 4, 3, 5].map(|place| aes_256[place]);
    let without_aes_128 = [0, 1, 3, 4].map(|place| aes_256[place]);
    for (offered, versions, expected) in [
        (&aes_256[..], TLS13, Suite::TLS13_AES_128_GCM_SHA256),
        (
            &aes_256,
            TLS12,
            Suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        ),
        (&chacha, TLS13, Suite::TLS13_CHACHA20_POLY1305_SHA256),
        (
            &chacha,
            TLS12,
            Suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        ),
        (&without_aes_128, TLS13, Suite::TLS13_AES_256_GCM_SHA384),
    ] {
        let all = aws_lc_rs::default_provider();
        let theirs = Arc::new(CryptoProvider {
            cipher_suites: offered
                .iter()
                .map(|suite| {
                    let of_name = all.cipher_suites.iter().find(|ours| ours.suite() == *suite);
                    *of_name.unwrap()
                })
                .collect(),
            ..all
        });
        let client = Client::of(&authority, None, versions, theirs, None).ready();
        let (_, _, theirs) = succeed(&plan, &client, "a.test").await;
        let suite = theirs.get_ref().1.negotiated_cipher_suite().unwrap();
        assert_eq!(suite.suite(), expected, "{offered:?}");
    }
}

#[tokio::test]
async fn the_protocol_is_what_both_sides_know() {
    let authority = Authority::new("ca");
    let made = authority.issue(Kind::Ecdsa, &["a.test"], |_| {});
    let plan = plan(&[&made], None, None);
    for (offered, expected) in [
        (&["http/1.1", "h2"][..], Alpn::H2),
        (&["http/1.1"], Alpn::Http1),
        (&["spdy/3", "http/1.1"], Alpn::Http1),
        (&["http/1.0"], Alpn::Http1),
        (&[], Alpn::Http1),
    ] {
        let client = Client::new(&authority, None).offering(offered).ready();
        let (_, session, _) = succeed(&plan, &client, "a.test").await;
        assert_eq!(session.protocol, expected, "{offered:?}");
    }
    let client = Client::new(&authority, None).offering(&["spdy/3"]).ready();
    let (_, theirs) = fail(&plan, &client).await;
    assert!(
        theirs.to_string().contains("NoApplicationProtocol"),
        "{theirs}"
    );
}

#[tokio::test]
async fn sni_picks_the_certificate() {
    let authority = Authority::new("ca");
    let first = authority.issue(Kind::Ecdsa, &["first.test", "127.0.0.1"], |_| {});
    let wild = authority.issue(Kind::Ecdsa, &["*.wild.test"], |_| {});
    let plan = plan(&[&first, &wild], None, None);
    let client = Client::new(&authority, None).ready();
    for (name, expected, sni) in [
        ("first.test", &first, Some("first.test")),
        ("www.wild.test", &wild, Some("www.wild.test")),
        ("127.0.0.1", &first, None),
    ] {
        let (_, session, theirs) = succeed(&plan, &client, name).await;
        assert!(is_leaf(&theirs, expected), "{name}");
        assert_eq!(session.server_name.as_deref(), sni);
    }
}

#[tokio::test]
async fn rsa_and_ecdsa_side_by_side_follow_the_client() {
    let authority = Authority::new("ca");
    let rsa = authority.issue(Kind::Rsa, &["a.test"], |_| {});
    let ecdsa = authority.issue(Kind::Ecdsa, &["a.test"], |_| {});
    let plan = plan(&[&rsa, &ecdsa], None, None);
    let only_rsa = vec![
        SignatureScheme::RSA_PSS_SHA256,
        SignatureScheme::RSA_PKCS1_SHA256,
    ];
    let only_ecdsa = vec![SignatureScheme::ECDSA_NISTP256_SHA256];
    for versions in [TLS12, TLS13] {
        for (schemes, expected) in [
            (None, &ecdsa),
            (Some(only_ecdsa.clone()), &ecdsa),
            (Some(only_rsa.clone()), &rsa),
        ] {
            let client = Client::of(&authority, None, versions, provider(), schemes).ready();
            let (_, _, theirs) = succeed(&plan, &client, "a.test").await;
            assert!(is_leaf(&theirs, expected), "{versions:?}");
        }
    }
}

#[tokio::test]
async fn a_tls12_client_with_suites_for_rsa_alone_gets_rsa() {
    let authority = Authority::new("ca");
    let rsa = authority.issue(Kind::Rsa, &["a.test"], |_| {});
    let ecdsa = authority.issue(Kind::Ecdsa, &["a.test"], |_| {});
    let plan = plan(&[&rsa, &ecdsa], None, None);
    let mut old = aws_lc_rs::default_provider();
    old.cipher_suites
        .retain(|suite| suite.suite() == CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256);
    let client = Client::of(&authority, None, TLS12, Arc::new(old), None).ready();
    let (_, _, theirs) = succeed(&plan, &client, "a.test").await;
    assert!(is_leaf(&theirs, &rsa));
}

#[tokio::test]
async fn plain_http_gives_the_socket_back_untouched() {
    let made = testkit::made(Kind::Ecdsa, &["a.test"]);
    let plan = plan(&[&made], None, None);
    for request in [
        "GET / HTTP/1.1\r\nhost: a.test\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\n",
        "G",
    ] {
        let (ours, mut theirs) = sockets().await;
        theirs.write_all(request.as_bytes()).await.unwrap();
        let Err(AcceptError::PlainHttp(mut socket)) = accept(&plan, ours).await else {
            panic!("{request}");
        };
        socket
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .await
            .unwrap();
        let mut answer = [0; 8];
        theirs.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1", "no alert before the answer");
    }
}

#[tokio::test]
async fn a_client_that_leaves_without_a_byte_is_no_failure() {
    let made = testkit::made(Kind::Ecdsa, &["a.test"]);
    let plan = plan(&[&made], None, None);
    let (ours, theirs) = sockets().await;
    drop(theirs);
    assert!(matches!(
        accept(&plan, ours).await,
        Err(AcceptError::ClientGone)
    ));
}

#[tokio::test]
async fn a_hello_cut_short_is_a_failure() {
    let made = testkit::made(Kind::Ecdsa, &["a.test"]);
    let plan = plan(&[&made], None, None);
    let (ours, mut theirs) = sockets().await;
    theirs
        .write_all(b"\x16\x03\x01\x02\x00\x01\x00")
        .await
        .unwrap();
    drop(theirs);
    let Err(AcceptError::Failed(reason)) = accept(&plan, ours).await else {
        panic!("it is not a hello");
    };
    assert!(reason.contains("closed the connection"), "{reason}");
}

#[tokio::test]
async fn nonsense_fails_and_gets_an_alert_where_tls_has_one() {
    let made = testkit::made(Kind::Ecdsa, &["a.test"]);
    let plan = plan(&[&made], None, None);
    let alert = Some(0x15);
    for (nonsense, expected) in [
        (&b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00"[..], alert),
        (b"\x16\x03\x01\x00\x04\x01\x00\x00\x00", alert),
        (b"\x17\x03\x03\x00\x01\x00", None),
        (b"\x16\x03\x01\x00\x00", alert),
        (b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10", alert),
        (b"\x00\x00\x00\x00\x00\x00", alert),
    ] {
        let (ours, mut theirs) = sockets().await;
        theirs.write_all(nonsense).await.unwrap();
        let accepted = accept(&plan, ours).await;
        assert!(
            matches!(accepted, Err(AcceptError::Failed(_))),
            "{nonsense:x?} {accepted:?}"
        );
        assert_eq!(theirs.read_u8().await.ok(), expected, "{nonsense:x?}");
    }
}

#[tokio::test]
async fn a_head_and_its_body_leave_in_one_record() {
    let authority = Authority::new("ca");
    let made = authority.issue(Kind::Ecdsa, &["a.test"], |_| {});
    let plan = plan(&[&made], None, None);
    let client = Client::speaking(TLS12, &authority).ready();
    let (mut stream, _, theirs) = succeed(&plan, &client, "a.test").await;
    assert!(stream.is_write_vectored());
    let parts = [
        IoSlice::new(b"head"),
        IoSlice::new(b" and "),
        IoSlice::new(b"body"),
    ];
    assert_eq!(stream.write_vectored(&parts).await.unwrap(), 13);
    drop(stream);

    let (mut raw, _) = theirs.into_inner();
    let mut bytes = Vec::new();
    raw.read_to_end(&mut bytes).await.unwrap();
    let length = usize::from(u16::from_be_bytes([bytes[3], bytes[4]]));
    assert_eq!((bytes[0], bytes.len()), (0x17, 5 + length));
}

#[test]
fn plans_of_equal_inputs_have_equal_digests() {
    let authority = Authority::new("ca");
    let (a, b) = (
        testkit::made(Kind::Ecdsa, &["a.test"]),
        testkit::made(Kind::Ecdsa, &["b.test"]),
    );
    let auth = client_authority(&authority, true);
    let one = plan(&[&a, &b], Some(&auth), None).digest();
    assert_eq!(one, plan(&[&a, &b], Some(&auth), None).digest());
    assert_ne!(
        one,
        plan(&[&b, &a], Some(&auth), None).digest(),
        "the default differs"
    );
    assert_ne!(one, plan(&[&a, &b], None, None).digest());
    let raw = |made: &Made| Identity::digest_of(made.cert.as_bytes(), made.key.as_bytes());
    let auth = ClientAuthority::digest_of(authority.pem().as_bytes(), &[], true);
    assert_eq!(one, ServerPlan::digest_of([raw(&a), raw(&b)], Some(auth)));
}
