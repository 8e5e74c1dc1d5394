//! Revoked client certificates, what a session is worth after one, and tickets where they do not belong.

use std::io::Write as _;

use super::*;

const BOTH: [&[&SupportedProtocolVersion]; 2] = [TLS13, TLS12];

fn client(
    authority: &Authority,
    shown: &Made,
    versions: &[&'static SupportedProtocolVersion],
) -> TlsConnector {
    Client::of(authority, Some(shown), versions, provider(), None).ready()
}

#[tokio::test]
async fn a_revoked_certificate_is_refused_and_another_is_not() {
    let (authority, people) = (Authority::new("ca"), Authority::new("people"));
    let made = authority.issue(Kind::Ecdsa, &["a.test"], |_| {});
    let plan = plan(&[&made], Some(&revoking(&people, &[7], 2099)), None);
    for versions in BOTH {
        let good = client(&authority, &numbered(&people, 8), versions);
        let (_, session, _) = succeed(&plan, &good, "a.test").await;
        assert_eq!(session.client.unwrap().subject, "CN=client 8");
        let (reason, theirs) =
            fail(&plan, &client(&authority, &numbered(&people, 7), versions)).await;
        assert!(reason.contains("Revoked"), "{reason}");
        assert!(theirs.to_string().contains("Revoked"), "{theirs}");
    }
}

#[tokio::test]
async fn who_is_on_no_list_or_on_one_whose_time_is_over_is_refused() {
    let (authority, people) = (Authority::new("ca"), Authority::new("people"));
    let made = authority.issue(Kind::Ecdsa, &["a.test"], |_| {});
    let shown = client(&authority, &numbered(&people, 8), TLS13);
    let over = plan(&[&made], Some(&revoking(&people, &[], 2021)), None);
    let (reason, _) = fail(&over, &shown).await;
    assert!(reason.contains("list expired"), "{reason}");

    let list = Authority::new("others").revoking(&[], 2099);
    let auth = ClientAuthority::new(people.pem().as_bytes(), &[list.as_bytes()], true).unwrap();
    let (reason, _) = fail(&plan(&[&made], Some(&auth), None), &shown).await;
    assert!(reason.contains("UnknownRevocationStatus"), "{reason}");
}

#[tokio::test]
async fn a_certificate_that_a_reload_revokes_resumes_no_session() {
    let (authority, people) = (Authority::new("ca"), Authority::new("people"));
    let made = authority.issue(Kind::Ecdsa, &["a.test"], |_| {});
    for versions in BOTH {
        let before = plan(&[&made], Some(&revoking(&people, &[], 2099)), None);
        let clients = [7, 8].map(|number| client(&authority, &numbered(&people, number), versions));
        for client in &clients {
            succeed(&before, client, "a.test").await;
            assert!(succeed(&before, client, "a.test").await.1.resumed);
        }
        let after = plan(
            &[&made],
            Some(&revoking(&people, &[7], 2099)),
            Some(&before),
        );
        let (reason, _) = fail(&after, &clients[0]).await;
        assert!(reason.contains("Revoked"), "{reason}");
        let (_, session, _) = succeed(&after, &clients[1], "a.test").await;
        assert!(!session.resumed, "{versions:?}");

        // Nor by the process that takes over with the newer list.
        let next = plan(&[&made], Some(&revoking(&people, &[7], 2099)), None);
        assert!(!next.adopt_tickets(&before.ticket_secrets()));
    }
}

#[tokio::test]
async fn who_resumes_is_held_against_the_lists_once_more() {
    let (authority, people) = (Authority::new("ca"), Authority::new("people"));
    let made = authority.issue(Kind::Ecdsa, &["a.test"], |_| {});
    for versions in BOTH {
        let before = plan(&[&made], Some(&revoking(&people, &[], 2099)), None);
        let client = client(&authority, &numbered(&people, 8), versions);
        succeed(&before, &client, "a.test").await;
        assert!(succeed(&before, &client, "a.test").await.1.resumed);
        // As if the list's time were over since: keys and policy are the same, and the list is not.
        let mut later = before;
        later.recheck = revoking(&people, &[], 2021).recheck();
        let (accepted, _) = meet(&later, &client, "a.test").await;
        let Err(AcceptError::Failed(reason)) = accepted else {
            panic!("{accepted:?}");
        };
        assert!(reason.contains("not resumed"), "{reason}");
    }
}

#[tokio::test]
async fn a_ticket_of_a_listener_is_worth_nothing_at_one_with_another_policy() {
    let (authority, people) = (Authority::new("ca"), Authority::new("people"));
    let made = authority.issue(Kind::Ecdsa, &["a.test"], |_| {});
    let (open, strict) = (
        plan(&[&made], Some(&client_authority(&people, false)), None),
        plan(&[&made], Some(&client_authority(&people, true)), None),
    );
    for versions in BOTH {
        // Whoever came in without a certificate.
        let nobody = Client::of(&authority, None, versions, provider(), None).ready();
        succeed(&open, &nobody, "a.test").await;
        assert!(succeed(&open, &nobody, "a.test").await.1.resumed);
        fail(&strict, &nobody).await;
        // And whoever showed one there that nobody believes here.
        let others = Authority::new("others");
        let theirs = plan(&[&made], Some(&client_authority(&others, true)), None);
        let stranger = client(&authority, &alice(&others), versions);
        succeed(&theirs, &stranger, "a.test").await;
        assert!(succeed(&theirs, &stranger, "a.test").await.1.resumed);
        fail(&strict, &stranger).await;
    }
}

#[tokio::test]
async fn a_session_under_one_host_is_no_identity_under_another() {
    let (authority, people) = (Authority::new("ca"), Authority::new("people"));
    let (a, b) = (
        authority.issue(Kind::Ecdsa, &["a.test"], |_| {}),
        authority.issue(Kind::Ecdsa, &["b.test"], |_| {}),
    );
    let plan = plan(&[&a, &b], Some(&client_authority(&people, false)), None);
    for versions in BOTH {
        let shown = Client::of(
            &authority,
            Some(&alice(&people)),
            versions,
            provider(),
            None,
        );
        let store = Arc::new(rustls::client::ClientSessionMemoryCache::new(8));
        let mut bare = Client::of(&authority, None, versions, provider(), None);
        let mut shown = shown;
        for client in [&mut shown, &mut bare] {
            let store = Arc::new(OneHost(Arc::clone(&store) as _));
            client.config.resumption = rustls::client::Resumption::store(store);
        }
        let (shown, bare) = (shown.ready(), bare.ready());
        let (_, session, _) = succeed(&plan, &shown, "a.test").await;
        assert!(session.client.is_some());
        // The ticket goes to the other host, and with it comes no certificate.
        let (_, session, _) = succeed(&plan, &bare, "b.test").await;
        assert!(!session.resumed && session.client.is_none(), "{versions:?}");
        assert_eq!(session.server_name.as_deref(), Some("b.test"));
    }
}

/// A store of sessions that takes every host for the same one.
#[derive(Debug)]
struct OneHost(Arc<dyn rustls::client::ClientSessionStore>);

fn same() -> pki_types::ServerName<'static> {
    pki_types::ServerName::try_from("same.test").unwrap()
}

impl rustls::client::ClientSessionStore for OneHost {
    fn set_kx_hint(&self, _: pki_types::ServerName<'static>, group: NamedGroup) {
        self.0.set_kx_hint(same(), group);
    }

    fn kx_hint(&self, _: &pki_types::ServerName<'_>) -> Option<NamedGroup> {
        self.0.kx_hint(&same())
    }

    fn set_tls12_session(
        &self,
        _: pki_types::ServerName<'static>,
        value: rustls::client::Tls12ClientSessionValue,
    ) {
        self.0.set_tls12_session(same(), value);
    }

    fn tls12_session(
        &self,
        _: &pki_types::ServerName<'_>,
    ) -> Option<rustls::client::Tls12ClientSessionValue> {
        self.0.tls12_session(&same())
    }

    fn remove_tls12_session(&self, _: &pki_types::ServerName<'static>) {
        self.0.remove_tls12_session(&same());
    }

    fn insert_tls13_ticket(
        &self,
        _: pki_types::ServerName<'static>,
        mut value: rustls::client::Tls13ClientSessionValue,
    ) {
        // As if the ticket allowed it, for the case below.
        value._private_set_max_early_data_size(1024);
        self.0.insert_tls13_ticket(same(), value);
    }

    fn take_tls13_ticket(
        &self,
        _: &pki_types::ServerName<'static>,
    ) -> Option<rustls::client::Tls13ClientSessionValue> {
        self.0.take_tls13_ticket(&same())
    }
}

#[tokio::test]
async fn data_sent_before_the_handshake_is_over_reaches_nobody() {
    let authority = Authority::new("ca");
    let made = authority.issue(Kind::Ecdsa, &["a.test"], |_| {});
    let plan = plan(&[&made], None, None);
    let mut client = Client::speaking(TLS13, &authority);
    let store = Arc::new(rustls::client::ClientSessionMemoryCache::new(8));
    client.config.resumption = rustls::client::Resumption::store(Arc::new(OneHost(store as _)));
    client.config.enable_early_data = true;
    let client = client.ready();
    succeed(&plan, &client, "a.test").await;

    let (ours, theirs) = sockets().await;
    let name = pki_types::ServerName::try_from("a.test").unwrap();
    let server = async {
        let (mut stream, session) = accept(&plan, ours).await.unwrap();
        assert!(session.resumed);
        let mut first = [0; 4];
        stream.read_exact(&mut first).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        first
    };
    let client = async {
        let mut sent = false;
        let connecting = client.connect_with(name, theirs, |connection| {
            let mut early = connection.early_data().expect("it may send some");
            sent = early.write(b"early").is_ok_and(|length| length == 5);
        });
        let mut stream = connecting.await.unwrap();
        assert!(!stream.get_ref().1.is_early_data_accepted());
        stream.write_all(b"late").await.unwrap();
        stream.read_u8().await.unwrap();
        drop(stream);
        sent
    };
    let (first, sent) = tokio::join!(server, client);
    assert!(sent, "it was sent");
    assert_eq!(&first, b"late", "and is nowhere");
}
