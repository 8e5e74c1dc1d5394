//! TLS towards endpoints.

use tokio::net::UnixStream;

use super::*;

fn options(roots: &str) -> ClientOptions<'_> {
    ClientOptions {
        roots: Roots::Pem(roots.as_bytes()),
        identity: None,
        alpn: AlpnOffer::Auto,
        accept_any: false,
    }
}

/// One connection from our connector to our acceptor, and a byte across it.
async fn dial(
    endpoint: &ServerPlan,
    plan: &ClientPlan,
    name: &str,
) -> (Accepted, Result<(Stream, Option<Alpn>), ConnectError>) {
    let (theirs, ours) = sockets().await;
    let name = ServerName::new(name).unwrap();
    let server = async {
        let mut accepted = accept(endpoint, theirs).await?;
        // A client that does not believe us is gone by now.
        let _ = accepted.0.write_all(b"x").await;
        Ok(accepted)
    };
    let client = async {
        let mut connected = plan.connect(&name, ours, None).await?;
        assert_eq!(connected.0.read_u8().await.unwrap(), b'x');
        Ok(connected)
    };
    tokio::join!(server, client)
}

#[tokio::test]
async fn an_endpoint_is_verified_against_our_authority_and_its_name() {
    let authority = Authority::new("ca");
    let made = authority.issue(Kind::Ecdsa, &["a.test", "10.0.0.1"], |_| {});
    let endpoint = plan(&[&made], None, None);
    let (good, stranger) = (authority.pem(), Authority::new("ca").pem());

    let plan = ClientPlan::new(&options(&good)).unwrap();
    for name in ["a.test", "10.0.0.1"] {
        let (accepted, connected) = dial(&endpoint, &plan, name).await;
        let sni = accepted.unwrap().1.server_name;
        assert_eq!(sni.is_some(), name == "a.test");
        assert_eq!(connected.unwrap().1, Some(Alpn::H2));
    }
    let (_, refused) = dial(&endpoint, &plan, "b.test").await;
    let error = refused.unwrap_err();
    assert_eq!(error.kind, ConnectErrorKind::Certificate);
    assert!(error.text.contains("b.test"), "{error}");

    let plan = ClientPlan::new(&options(&stranger)).unwrap();
    let (accepted, refused) = dial(&endpoint, &plan, "a.test").await;
    assert_eq!(refused.unwrap_err().kind, ConnectErrorKind::Certificate);
    assert!(
        matches!(accepted, Err(AcceptError::Failed(_))),
        "an alert tells the endpoint"
    );
}

#[tokio::test]
async fn any_certificate_is_believed_when_the_config_says_so() {
    let made = testkit::made(Kind::Rsa, &["a.test"]);
    let endpoint = plan(&[&made], None, None);
    let roots = Authority::new("ca").pem();
    let any = ClientOptions {
        accept_any: true,
        ..options(&roots)
    };
    let plan = ClientPlan::new(&any).unwrap();
    assert!(dial(&endpoint, &plan, "b.test").await.1.is_ok());
}

#[tokio::test]
async fn an_endpoint_that_asks_is_shown_our_certificate_and_sessions_are_resumed() {
    let (authority, people) = (Authority::new("ca"), Authority::new("people"));
    let made = authority.issue(Kind::Ecdsa, &["a.test"], |_| {});
    let endpoint = plan(&[&made], Some(&client_authority(&people, true)), None);
    let (roots, shown) = (authority.pem(), identity(&alice(&people)));
    let with = ClientOptions {
        identity: Some(&shown),
        ..options(&roots)
    };
    let plan = ClientPlan::new(&with).unwrap();
    for resumed in [false, true] {
        let session = dial(&endpoint, &plan, "a.test").await.0.unwrap().1;
        assert_eq!(session.client.unwrap().subject, "CN=alice");
        assert_eq!(session.resumed, resumed);
    }
}

#[tokio::test]
async fn what_we_offer_is_what_the_pool_speaks() {
    let authority = Authority::new("ca");
    let made = authority.issue(Kind::Ecdsa, &["a.test"], |_| {});
    let endpoint = plan(&[&made], None, None);
    let roots = authority.pem();
    for (alpn, expected) in [
        (AlpnOffer::Auto, Alpn::H2),
        (AlpnOffer::Http1, Alpn::Http1),
        (AlpnOffer::H2, Alpn::H2),
    ] {
        let plan = ClientPlan::new(&ClientOptions {
            alpn,
            ..options(&roots)
        })
        .unwrap();
        let (accepted, connected) = dial(&endpoint, &plan, "a.test").await;
        assert_eq!(accepted.unwrap().1.protocol, expected);
        assert_eq!(connected.unwrap().1, Some(expected));
    }
}

#[tokio::test]
async fn an_endpoint_without_tls_is_told_apart_from_one_that_leaves() {
    let roots = Authority::new("ca").pem();
    let plan = ClientPlan::new(&options(&roots)).unwrap();
    for (answer, kind) in [
        (
            &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
            ConnectErrorKind::Handshake,
        ),
        (b"\x15\x03\x03\x00\x02\x02\x28", ConnectErrorKind::Handshake),
        (b"", ConnectErrorKind::Io),
    ] {
        let (mut theirs, ours) = sockets().await;
        let endpoint = async move {
            // All of the hello is read, so that closing does not reset the connection.
            let mut hello = [0; 4096];
            assert!(theirs.read(&mut hello).await.unwrap() > 0);
            theirs.write_all(answer).await.unwrap();
        };
        let name = ServerName::new("a.test").unwrap();
        let ((), refused) = tokio::join!(endpoint, plan.connect(&name, ours, None));
        assert_eq!(refused.unwrap_err().kind, kind, "{answer:?}");
    }
}

#[tokio::test]
async fn tls_goes_through_a_unix_socket_too() {
    let authority = Authority::new("ca");
    let roots = authority.pem();
    let plan = ClientPlan::new(&options(&roots)).unwrap();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let endpoint = async move {
        let mut hello = [0; 4096];
        assert!(theirs.read(&mut hello).await.unwrap() > 0);
        assert_eq!(hello[0], 0x16);
    };
    let name = ServerName::new("a.test").unwrap();
    let ((), refused) = tokio::join!(endpoint, plan.connect(&name, ours, None));
    assert_eq!(refused.unwrap_err().kind, ConnectErrorKind::Io);
}

#[test]
fn a_client_plan_is_known_by_its_options() {
    let (one, other) = (Authority::new("one").pem(), Authority::new("other").pem());
    let shown = identity(&testkit::made(Kind::Ecdsa, &[]));
    let base = options(&one);
    let variants = [
        base,
        ClientOptions {
            roots: Roots::Pem(other.as_bytes()),
            ..base
        },
        ClientOptions {
            roots: Roots::System,
            ..base
        },
        ClientOptions {
            identity: Some(&shown),
            ..base
        },
        ClientOptions {
            alpn: AlpnOffer::Http1,
            ..base
        },
        ClientOptions {
            accept_any: true,
            ..base
        },
    ];
    let digests: std::collections::HashSet<_> =
        variants.iter().map(ClientOptions::digest).collect();
    assert_eq!(digests.len(), variants.len());
    assert_eq!(ClientPlan::new(&base).unwrap().digest(), base.digest());
}

#[test]
fn names_of_endpoints_are_hosts_or_addresses() {
    for good in ["a.test", "10.0.0.1", "::1", "xn--bcher-kva.example"] {
        assert!(ServerName::new(good).is_some(), "{good}");
    }
    for bad in ["", "a b", "a.test:443", "[::1]", "https://a.test"] {
        assert!(ServerName::new(bad).is_none(), "{bad}");
    }
}
