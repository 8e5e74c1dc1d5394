//! Sticky sessions: a cookie that leads a client back to the endpoint that answered it.
//!
//! The cookie holds when it expires and which endpoint it means, as a keyed hash that says nothing to anybody else, and
//! both are sealed by a second one. A cookie that is forged, cut, expired or of another pool is no cookie: the exchange is
//! balanced like any other, and its answer brings a new one.

use std::fmt;
use std::time::{Duration, SystemTime};

use aws_lc_rs::hmac::{self, HMAC_SHA256};
use aws_lc_rs::{constant_time, rand};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use http::HeaderValue;
use http::request::Parts;

use crate::base::name::{EndpointId, PoolName};
use crate::base::secret::Secret;
use crate::dataplane::upstream::pick;
use crate::dataplane::upstream::pool::Member;

/// What tells endpoints apart: of a pool of a thousand, two are alike with a chance of 1 in 10^13.
const TAG_BYTES: usize = 8;

/// A forger would have to try 2^127 cookies.
const SEAL_BYTES: usize = 16;

/// When it expires, in seconds since 1970: until 2106.
const EXPIRY_BYTES: usize = 4;

const TOKEN_BYTES: usize = EXPIRY_BYTES + TAG_BYTES + SEAL_BYTES;

/// The length of a token as text.
const TOKEN_TEXT: usize = (TOKEN_BYTES * 4).div_ceil(3);

type Tag = [u8; TAG_BYTES];

/// What is said of the sessions of a pool.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// The name of the cookie.
    pub cookie: Box<str>,
    /// How long a session lasts.
    pub max_age: Duration,
    /// The key of the pool.
    key: [u8; 32],
}

impl Settings {
    /// The settings of a pool; its key is derived of a secret that pools may share.
    pub fn new(pool: &PoolName, cookie: &str, max_age: Duration, secret: &[u8]) -> Self {
        let secret = hmac::Key::new(HMAC_SHA256, secret);
        let mut context = hmac::Context::with_key(&secret);
        context.update(b"lockgate sticky 1\n");
        context.update(pool.as_str().as_bytes());
        let mut key = [0; 32];
        key.copy_from_slice(context.sign().as_ref());
        Self {
            cookie: cookie.into(),
            max_age,
            key,
        }
    }
}

impl fmt::Debug for Settings {
    /// Shows no key.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Settings")
            .field("cookie", &self.cookie)
            .field("max_age", &self.max_age)
            .finish_non_exhaustive()
    }
}

/// A secret that nobody knows; `None` when the system gives no randomness.
pub fn random_secret() -> Option<Secret> {
    Secret::made(|bytes| rand::fill(bytes).ok())
}

/// The sessions of a pool, laid out for its members.
#[derive(Debug)]
pub struct Sticky {
    cookie: Box<str>,
    max_age: Duration,
    key: hmac::Key,
    /// The members by their tags, in the order of those.
    by_tag: Box<[(Tag, u32)]>,
    /// The tags by endpoint, in the order of those.
    by_endpoint: Box<[(EndpointId, Tag)]>,
}

/// A session that a client has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// The number of its member.
    pub(super) member: u32,
    /// Whether less than half of its time is left.
    is_old: bool,
}

impl Sticky {
    /// Lays out the sessions of `members`.
    pub fn new(settings: &Settings, members: &[Member]) -> Self {
        let key = hmac::Key::new(HMAC_SHA256, &settings.key);
        let tagged = (0..).zip(members).map(|(number, member)| {
            let label = &member.endpoint.label;
            let tag: Tag = sign(&key, [b"endpoint\n", label.as_bytes()]);
            (tag, number, member.endpoint.id)
        });
        let tagged: Vec<_> = tagged.collect();
        let by_tag = tagged.iter().map(|&(tag, number, _)| (tag, number));
        let mut by_tag: Vec<_> = by_tag.collect();
        by_tag.sort_unstable();
        let by_endpoint = tagged.iter().map(|&(tag, _, id)| (id, tag));
        let mut by_endpoint: Vec<_> = by_endpoint.collect();
        by_endpoint.sort_unstable();
        Self {
            cookie: settings.cookie.clone(),
            max_age: settings.max_age,
            key,
            by_tag: by_tag.into(),
            by_endpoint: by_endpoint.into(),
        }
    }

    /// The session that a request shows, if that is ours and has not expired.
    pub(super) fn session(&self, parts: &Parts, now: SystemTime) -> Option<Session> {
        let text = pick::cookie(parts, &self.cookie)?;
        if text.len() != TOKEN_TEXT {
            return None;
        }
        let mut token = [0; TOKEN_BYTES];
        let length = BASE64.decode_slice(text, &mut token).ok()?;
        let (expiry, rest) = token.get(..length)?.split_first_chunk()?;
        let (tag, rest) = rest.split_first_chunk::<TAG_BYTES>()?;
        let seal = rest.first_chunk::<SEAL_BYTES>()?;
        let expected = self.seal(expiry, tag);
        constant_time::verify_slices_are_equal(seal, &expected).ok()?;
        let left = u64::from(u32::from_be_bytes(*expiry)).checked_sub(seconds(now))?;
        if left == 0 || left > self.max_age.as_secs() {
            // Expired; or made when sessions were to last longer.
            return None;
        }
        let at = self.by_tag.binary_search_by(|(other, _)| other.cmp(tag));
        let (_, member) = self.by_tag.get(at.ok()?)?;
        Some(Session {
            member: *member,
            is_old: left * 2 < self.max_age.as_secs(),
        })
    }

    /// The `Set-Cookie` for the answer of an endpoint; `None` if the client's session is that already, and young enough or
    /// not to be made longer.
    pub(super) fn set_cookie(
        &self,
        endpoint: EndpointId,
        session: Option<(Session, &Member)>,
        is_secure: bool,
        now: SystemTime,
    ) -> Option<HeaderValue> {
        if let Some((session, member)) = session
            && member.endpoint.id == endpoint
        {
            // Who takes nothing new keeps its clients until their sessions end.
            let is_kept = session.is_old && member.weight > 0;
            if !is_kept {
                return None;
            }
        }
        let at = self
            .by_endpoint
            .binary_search_by_key(&endpoint, |&(id, _)| id);
        let (_, tag) = self.by_endpoint.get(at.ok()?)?;
        let max_age = self.max_age.as_secs();
        let expiry = u32::try_from(seconds(now) + max_age).ok()?.to_be_bytes();
        let seal = self.seal(&expiry, tag);
        let token = BASE64.encode([expiry.as_slice(), tag, &seal].concat());
        let secure = if is_secure { "; Secure" } else { "" };
        let cookie = format!(
            "{}={token}; Path=/; Max-Age={max_age}; HttpOnly; SameSite=Lax{secure}",
            self.cookie
        );
        HeaderValue::try_from(cookie).ok()
    }

    fn seal(&self, expiry: &[u8; EXPIRY_BYTES], tag: &Tag) -> [u8; SEAL_BYTES] {
        let mut sealed = [0; EXPIRY_BYTES + TAG_BYTES];
        let (front, back) = sealed.split_at_mut(EXPIRY_BYTES);
        front.copy_from_slice(expiry);
        back.copy_from_slice(tag);
        sign(&self.key, [b"session\n", &sealed])
    }
}

/// The front of the keyed hash of two parts, of which the first is none of the second.
fn sign<const N: usize>(key: &hmac::Key, [what, of]: [&[u8]; 2]) -> [u8; N] {
    let mut context = hmac::Context::with_key(key);
    context.update(what);
    context.update(of);
    let whole = context.sign();
    let mut front = [0; N];
    for (byte, signed) in front.iter_mut().zip(whole.as_ref()) {
        *byte = *signed;
    }
    front
}

fn seconds(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::Request;

    use super::*;
    use crate::base::addr::EndpointAddr;
    use crate::dataplane::upstream::endpoint::{Endpoint, Identity, Protocol};

    const HOUR: Duration = Duration::from_secs(3600);
    const NOW: Duration = Duration::from_secs(1_800_000_000);

    fn members(count: u8) -> Vec<Member> {
        let members = (0..count).map(|at| {
            let identity = Identity {
                pool: "web".into(),
                address: EndpointAddr::Tcp(([10, 0, 0, at], 80).into()),
                protocol: Protocol::Auto,
                tls: None,
            };
            Member::new(Arc::new(Endpoint::new(identity, None)))
        });
        members.collect()
    }

    fn sticky(pool: &str, secret: &[u8], members: &[Member]) -> Sticky {
        let settings = Settings::new(&pool.into(), "sid", HOUR, secret);
        Sticky::new(&settings, members)
    }

    fn at(after: Duration) -> SystemTime {
        SystemTime::UNIX_EPOCH + NOW + after
    }

    /// The cookie of a new session, as a client sends it.
    fn cookie(sticky: &Sticky, member: &Member) -> String {
        let set = sticky.set_cookie(member.endpoint.id, None, true, at(Duration::ZERO));
        let set = set.unwrap();
        let (pair, attributes) = set.to_str().unwrap().split_once("; ").unwrap();
        assert_eq!(
            attributes,
            "Path=/; Max-Age=3600; HttpOnly; SameSite=Lax; Secure"
        );
        pair.to_owned()
    }

    fn read(sticky: &Sticky, cookie: &str, after: Duration) -> Option<Session> {
        let request = Request::get("/").header("cookie", format!("a=b; {cookie}; c=d"));
        sticky.session(&request.body(()).unwrap().into_parts().0, at(after))
    }

    #[test]
    fn a_cookie_leads_back_to_its_endpoint_until_it_expires() {
        let all = members(20);
        let sticky = sticky("web", b"secret", &all);
        for (number, member) in (0..).zip(&all) {
            let cookie = cookie(&sticky, member);
            let member = |after| read(&sticky, &cookie, after).map(|session| session.member);
            assert_eq!(member(Duration::ZERO), Some(number));
            assert_eq!(member(HOUR - Duration::from_secs(1)), Some(number));
            assert_eq!(member(HOUR), None);
            assert_eq!(member(3 * HOUR), None);
        }
    }

    #[test]
    fn a_forged_or_cut_cookie_is_none() {
        let all = members(3);
        let sticky = sticky("web", b"secret", &all);
        let good = cookie(&sticky, &all[1]);
        let (_, token) = good.split_once('=').unwrap();
        let bytes = BASE64.decode(token).unwrap();
        for at in 0..bytes.len() * 8 {
            let mut forged = bytes.clone();
            forged[at / 8] ^= 1 << (at % 8);
            let forged = format!("sid={}", BASE64.encode(forged));
            assert_eq!(read(&sticky, &forged, Duration::ZERO), None, "bit {at}");
        }
        for length in 0..token.len() {
            let cut = format!("sid={}", &token[..length]);
            assert_eq!(read(&sticky, &cut, Duration::ZERO), None, "{length}");
        }
        for odd in [
            "",
            "=",
            "\u{e4}",
            "%00",
            "AAAA",
            &"A".repeat(38),
            &"A".repeat(4000),
        ] {
            let odd = format!("sid={odd}");
            assert_eq!(read(&sticky, &odd, Duration::ZERO), None, "{odd}");
        }
        assert_eq!(read(&sticky, &format!("{good}A"), Duration::ZERO), None);
        assert_eq!(read(&sticky, &format!("x{good}"), Duration::ZERO), None);
        assert!(read(&sticky, &good, Duration::ZERO).is_some());
    }

    #[test]
    fn a_cookie_of_another_pool_secret_or_endpoint_is_none() {
        let all = members(3);
        let good = cookie(&sticky("web", b"secret", &all), &all[2]);
        for (pool, secret, members, is_read) in [
            ("web", &b"secret"[..], &all[..], true),
            ("api", b"secret", &all, false),
            ("web", b"other", &all, false),
            ("web", b"secret", &all[..2], false),
        ] {
            let read = read(&sticky(pool, secret, members), &good, Duration::ZERO);
            assert_eq!(read.is_some(), is_read, "{pool}");
        }
    }

    #[test]
    fn a_cookie_does_not_tell_which_endpoint_it_means() {
        let all = members(3);
        let (one, other) = (sticky("web", b"one", &all), sticky("web", b"two", &all));
        let token = |sticky| {
            let cookie = cookie(sticky, &all[0]);
            BASE64.decode(cookie.split_once('=').unwrap().1).unwrap()
        };
        let tag = EXPIRY_BYTES..EXPIRY_BYTES + TAG_BYTES;
        assert_ne!(token(&one)[tag.clone()], token(&other)[tag]);
        let label = all[0].endpoint.label.as_bytes();
        assert!(
            !token(&one)
                .windows(4)
                .any(|part| label.windows(4).any(|it| it == part))
        );
    }

    #[test]
    fn a_session_is_made_longer_when_half_of_it_is_over_and_its_endpoint_takes_new_ones() {
        let mut all = members(2);
        let sticky = sticky("web", b"secret", &all);
        let cookie = cookie(&sticky, &all[0]);
        let renewed = |member: &Member, after| {
            let session = read(&sticky, &cookie, after).unwrap();
            let id = all[0].endpoint.id;
            let shown = Some((session, member));
            sticky.set_cookie(id, shown, false, at(after)).is_some()
        };
        assert!(!renewed(&all[0], Duration::ZERO));
        assert!(!renewed(&all[0], HOUR / 2));
        assert!(renewed(&all[0], HOUR / 2 + Duration::from_secs(1)));
        let drains = Member {
            weight: 0,
            ..all[0].clone()
        };
        assert!(!renewed(&drains, HOUR - Duration::from_secs(1)));
        // Another endpoint has answered: the session is that one's now.
        let session = read(&sticky, &cookie, Duration::ZERO).unwrap();
        let other = all.pop().unwrap();
        let shown = Some((session, &all[0]));
        let set = sticky.set_cookie(other.endpoint.id, shown, false, at(Duration::ZERO));
        let set = set.unwrap();
        assert!(!set.to_str().unwrap().contains("Secure"));
    }

    #[test]
    fn settings_show_no_key() {
        let settings = Settings::new(&"web".into(), "sid", HOUR, b"secret");
        let shown = format!("{settings:?}");
        assert_eq!(shown, "Settings { cookie: \"sid\", max_age: 3600s, .. }");
    }
}
