//! What must hold for whatever cookies clients show, and for whatever health checks are answered.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::COOKIE;
use http::request::Parts;
use http::{HeaderValue, Request};

use crate::base::addr::EndpointAddr;
use crate::base::fuzzing::Choices;
use crate::dataplane::upstream::endpoint::{Endpoint, Identity, Protocol};
use crate::dataplane::upstream::pick;
use crate::dataplane::upstream::pool::Member;
use crate::dataplane::upstream::probe::grpc_verdict;
use crate::dataplane::upstream::split::{Cohorts, Split};
use crate::dataplane::upstream::sticky::{Settings, Sticky};

const HOUR: Duration = Duration::from_hours(1);

/// Cookies: ours are found where RFC 6265 has them; a session opens only by the very cookie that was set; a place among
/// cohorts is five digits.
pub fn cookies(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let members = [member(0), member(1)];
    let settings = Settings::new(
        &"web".into(),
        "sid",
        HOUR,
        b"a secret of the fuzzer's machine",
    );
    let sticky = Sticky::new(&settings, &members);
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let set = sticky.set_cookie(members[1].endpoint.id, None, false, now);
    let set = set.expect("the endpoint is a member");
    let token = set.as_bytes().strip_prefix(b"sid=").unwrap_or_default();
    let token = token.split(|byte| *byte == b';').next().unwrap_or_default();

    // Ours, forged in a few places.
    let mut forged = token.to_vec();
    for _ in 0..choices.below(4) {
        let at = choices.below(forged.len());
        forged[at] = choices.byte();
    }
    let forged = [&b"sid="[..], &forged].concat();
    for cookie in [&forged[..], choices.rest()] {
        let Some(parts) = request(cookie) else {
            continue;
        };
        let shown = pick::cookie(&parts, "sid");
        assert_eq!(shown, naive(cookie, b"sid"));
        let session = sticky.session(&parts, now);
        assert_eq!(session.is_some(), shown == Some(token), "{shown:?}");
        if let Some(session) = session {
            assert_eq!(session.member, 1);
            assert!(
                sticky.session(&parts, now + HOUR).is_none(),
                "it has expired"
            );
        }
        cohort(&parts, cookie);
    }
}

fn cohort(parts: &Parts, cookie: &[u8]) {
    let cohorts = Cohorts {
        cookie: "sid".into(),
        max_age: HOUR,
    };
    let split = Split::new(vec![(0, 1), (1, 1)], Some(cohorts), 7);
    let (pool, newcomer) = split.pick(parts).expect("both have a weight");
    let place = naive(cookie, b"sid").and_then(|digits| str::from_utf8(digits).ok());
    let place = place.filter(|digits| digits.len() == 5 && !digits.starts_with('+'));
    let place = place.and_then(|digits| u32::from_str_radix(digits, 16).ok());
    assert_eq!(newcomer.is_none(), place.is_some(), "{place:?}");
    if let Some(place) = place {
        // Of two pools the second has the front.
        assert_eq!(*pool, usize::from(place < 1 << 19), "{place:x}");
    }
    if let Some(set) = newcomer.and_then(|newcomer| newcomer.set_cookie(true)) {
        let pair = set.as_bytes().split(|byte| *byte == b';').next();
        let again = request(pair.unwrap_or_default()).expect("it is a value");
        let again = split.pick(&again).expect("both have a weight");
        assert!(again.0 == pool && again.1.is_none());
    }
}

/// The answer of a gRPC health check.
pub fn verdicts(bytes: &[u8]) {
    let is_good = grpc_verdict(bytes).is_ok();
    // A frame that is not compressed, and somewhere has the tag of the first field, as a number that may be too long.
    let mut message = bytes.get(5..).unwrap_or_default().iter();
    let says_so = bytes.first() == Some(&0) && message.any(|byte| byte & 0x7f == 8);
    assert!(!is_good || says_so);
    let mut serving = vec![0, 0, 0, 0, 2, 8, 1];
    serving.extend_from_slice(bytes);
    assert!(
        grpc_verdict(&serving).is_ok(),
        "what stands behind the message is not its"
    );
}

/// The value of a cookie, found without our code.
fn naive<'a>(field: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    for pair in field.split(|byte| *byte == b';') {
        let pair = pair.trim_ascii();
        if let Some(at) = pair.iter().position(|byte| *byte == b'=')
            && pair[..at] == *name
        {
            return Some(&pair[at + 1..]);
        }
    }
    None
}

fn request(cookie: &[u8]) -> Option<Parts> {
    let cookie = HeaderValue::from_bytes(cookie).ok()?;
    let request = Request::get("/").header(COOKIE, cookie).body(());
    request.ok().map(|request| request.into_parts().0)
}

fn member(at: u8) -> Member {
    let identity = Identity {
        pool: "web".into(),
        address: EndpointAddr::Tcp(([10, 0, 0, at], 80).into()),
        protocol: Protocol::Auto,
        tls: None,
    };
    Member::new(Arc::new(Endpoint::new(identity, None)))
}
