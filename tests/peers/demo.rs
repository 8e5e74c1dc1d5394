//! `lockgate demo` as a newcomer meets it: in an empty folder, looked at in a browser.

use std::fs;

use serde_json::Value;

use super::process::{PATIENCE, PYTHON, Running, run_with, script};
use super::proxy::{binary, path_in};

#[test]
fn the_demo_page_shows_in_a_browser_who_answered_and_stays_alive_over_http2() {
    let folder = tempfile::tempdir().unwrap();
    let mut demo = Running::start(binary(), ["demo"], folder.path());
    // It has ports of its own: two for the backends, and 8443.
    demo.says(&["Lockgate is running", "https://localhost:8443"]);
    assert!(folder.path().join("proxy.yaml").is_file());

    let (browser, profile) = (script("browser.py"), tempfile::tempdir().unwrap());
    let screenshot = path_in(&folder, "page.png");
    let arguments = [
        browser.to_str().unwrap(),
        "https://localhost:8443/",
        profile.path().to_str().unwrap(),
        &screenshot,
    ];
    let said = run_with(PYTHON, arguments, "", PATIENCE * 3).ok();
    let seen: Value = serde_json::from_str(said.trim()).unwrap();
    let text = |name: &str| seen[name].as_str().unwrap();

    assert!(["one", "two"].contains(&text("who")), "{seen:#}");
    assert_eq!(text("hop"), "HTTP/2 over TLS", "{seen:#}");
    assert_eq!(text("tally"), "24 asked, 0 failed", "{seen:#}");
    // The page itself and its streams took turns, too, so the shares of these 24 need not be equal.
    let shares = text("shares");
    assert!(shares.contains("one") && shares.contains("two"), "{seen:#}");
    assert!(
        text("fields").contains("x-forwarded-protohttps"),
        "{seen:#}"
    );
    let picture = fs::metadata(&screenshot).unwrap().len();
    assert!(picture > 10_000, "a picture of {picture} bytes");

    // What the browser did, as the access log on standard output has it: the WebSocket came over HTTP/2.
    let socket = demo.says(&[r#""path":"/echo?hello""#]);
    let socket: Value = serde_json::from_str(&socket).unwrap();
    assert_eq!(socket["protocol"], "HTTP/2", "{socket:#}");
    assert_eq!(
        (&socket["status"], &socket["upgraded"]),
        (&101.into(), &true.into()),
        "{socket:#}"
    );
    demo.says(&[r#""path":"/events""#, r#""protocol":"HTTP/2""#]);
}
