//! Client certificates and resumption, and what one means for the other.

use super::*;

#[tokio::test]
async fn a_required_client_certificate_is_required() {
    let (authority, people) = (Authority::new("ca"), Authority::new("people"));
    let made = authority.issue(Kind::Ecdsa, &["a.test"], |_| {});
    let plan = plan(&[&made], Some(&client_authority(&people, true)), None);

    let shown = alice(&people);
    let client = Client::new(&authority, Some(&shown)).ready();
    let (_, session, _) = succeed(&plan, &client, "a.test").await;
    assert_eq!(session.client.unwrap().subject, "CN=alice");

    let (reason, theirs) = fail(&plan, &Client::new(&authority, None).ready()).await;
    assert!(reason.contains("no certificates"), "{reason}");
    assert!(
        theirs.to_string().contains("CertificateRequired"),
        "{theirs}"
    );

    let stranger = alice(&Authority::new("strangers"));
    let (reason, _) = fail(&plan, &Client::new(&authority, Some(&stranger)).ready()).await;
    assert!(reason.contains("certificate"), "{reason}");
}

#[tokio::test]
async fn an_optional_client_certificate_is_verified_when_shown() {
    let (authority, people) = (Authority::new("ca"), Authority::new("people"));
    let made = authority.issue(Kind::Ecdsa, &["a.test"], |_| {});
    let plan = plan(&[&made], Some(&client_authority(&people, false)), None);

    let (_, session, _) = succeed(&plan, &Client::new(&authority, None).ready(), "a.test").await;
    assert_eq!(session.client, None);

    let shown = alice(&people);
    let client = Client::new(&authority, Some(&shown)).ready();
    let (_, session, _) = succeed(&plan, &client, "a.test").await;
    assert_eq!(session.client.unwrap().subject, "CN=alice");

    // A certificate of a name that the authority has too, signed by somebody else.
    let stranger = alice(&Authority::new("people"));
    fail(&plan, &Client::new(&authority, Some(&stranger)).ready()).await;
}

#[tokio::test]
async fn a_session_is_resumed_across_a_reload_and_still_knows_the_client() {
    let (authority, people) = (Authority::new("ca"), Authority::new("people"));
    let made = authority.issue(Kind::Ecdsa, &["a.test"], |_| {});
    let renewed = authority.issue(Kind::Ecdsa, &["a.test"], |_| {});
    let auth = client_authority(&people, true);
    let shown = alice(&people);
    for versions in [TLS13, TLS12] {
        let before = plan(&[&made], Some(&auth), None);
        let client = Client::of(&authority, Some(&shown), versions, provider(), None).ready();
        let (_, session, _) = succeed(&before, &client, "a.test").await;
        assert!(!session.resumed);

        let after = plan(&[&renewed], Some(&auth), Some(&before));
        for plan in [&before, &after, &after] {
            let (_, session, _) = succeed(plan, &client, "a.test").await;
            assert!(session.resumed, "{versions:?}");
            assert_eq!(session.client.unwrap().subject, "CN=alice");
        }
    }
}

#[tokio::test]
async fn a_session_is_not_resumed_when_client_authentication_differs() {
    let (authority, people) = (Authority::new("ca"), Authority::new("people"));
    let made = authority.issue(Kind::Ecdsa, &["a.test"], |_| {});
    let shown = alice(&people);
    let (required, optional) = (
        client_authority(&people, true),
        client_authority(&people, false),
    );
    let both = ClientAuthority::new(
        (people.pem() + &Authority::new("more").pem()).as_bytes(),
        &[],
        true,
    )
    .unwrap();
    for (before, after) in [
        (None, Some(&required)),
        (Some(&optional), Some(&required)),
        (Some(&required), Some(&both)),
        (Some(&required), None),
    ] {
        let before = plan(&[&made], before, None);
        let client = Client::new(&authority, Some(&shown)).ready();
        succeed(&before, &client, "a.test").await;
        let after = plan(&[&made], after, Some(&before));
        let (_, session, _) = succeed(&after, &client, "a.test").await;
        assert!(!session.resumed);
    }
}

#[tokio::test]
async fn a_session_is_resumed_by_the_process_that_takes_over_unless_it_asks_clients_for_more() {
    let (authority, people) = (Authority::new("ca"), Authority::new("people"));
    let made = authority.issue(Kind::Ecdsa, &["a.test"], |_| {});
    let auth = client_authority(&people, true);
    let old = plan(&[&made], None, None);
    let client = Client::new(&authority, None).ready();
    succeed(&old, &client, "a.test").await;
    let new = plan(&[&made], None, None);
    assert!(new.adopt_tickets(&old.ticket_secrets()));
    assert!(succeed(&new, &client, "a.test").await.1.resumed);
    let stricter = plan(&[&made], Some(&auth), None);
    assert!(!stricter.adopt_tickets(&old.ticket_secrets()));
    fail(&stricter, &client).await;
}

#[tokio::test]
async fn a_session_is_not_resumed_under_another_name_or_by_another_listener() {
    let authority = Authority::new("ca");
    let made = authority.issue(Kind::Ecdsa, &["a.test", "b.test"], |_| {});
    let (one, other) = (plan(&[&made], None, None), plan(&[&made], None, None));
    let client = Client::new(&authority, None).ready();
    succeed(&one, &client, "a.test").await;
    assert!(!succeed(&one, &client, "b.test").await.1.resumed);
    assert!(!succeed(&other, &client, "a.test").await.1.resumed);
}
