//! What must hold for whatever clients put into what is logged of them.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use http::{HeaderValue, Method, Uri};

use super::sink::Format;
use super::stamp::Stamp;
use super::{Protocol, Record, RequestId, WorkerLog, line};
use crate::base::clock;
use crate::base::fuzzing::Choices;

/// A value that is to be masked.
const SECRET: &[u8] = b"hush-hush";

/// The lines of an exchange: one each, which reads back as what was told, without a secret.
pub fn lines(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let mut text = || choices.until(b'\n');
    let (method, path, query, host) = (text(), text(), text(), text());
    let (referer, user_agent, id) = (text(), text(), text());
    let says_it = |text: &&[u8]| text.windows(SECRET.len()).any(|some| some == SECRET);
    if [method, path, query, host, referer, user_agent, id]
        .iter()
        .any(says_it)
    {
        return;
    }
    let target = [b"/", path, b"?", query, b"&access_token=", SECRET].concat();
    let referer = [referer, b"?a=", query, b"&password=", SECRET].concat();
    let client = IpAddr::from([192, 0, 2, 7]);
    let log = Rc::<WorkerLog>::default();
    let mut record = Record::new(log, clock::now(), SystemTime::UNIX_EPOCH, client);
    let value = |bytes: &[u8]| HeaderValue::from_bytes(bytes).ok();
    record.method = Method::from_bytes(method).ok();
    record.target = Uri::try_from(&target[..]).ok();
    record.host = value(host);
    record.protocol = Some(Protocol::Http2);
    record.status = Some(200);
    record.request_id = value(id).and_then(|id| RequestId::kept(&id));
    record.referer = value(&referer);
    record.user_agent = value(user_agent);

    let json = written(Format::Json, &record);
    let read: serde_json::Value = serde_json::from_slice(&json).expect("it is JSON");
    let is = |name: &str, told: Option<String>| {
        assert_eq!(read[name].as_str(), told.as_deref(), "{name}");
    };
    is("method", record.method.as_ref().map(ToString::to_string));
    is(
        "request_id",
        record.request_id.as_ref().map(|id| id.as_str().to_owned()),
    );
    let host = record.host.as_ref().map(HeaderValue::as_bytes);
    let host = host.map(|host| host.rsplit(|byte| *byte == b'@').next().unwrap_or_default());
    if let Some(host) = host.filter(|host| host.len() < 8 << 10) {
        is("host", Some(String::from_utf8_lossy(host).into_owned()));
    }

    let combined = written(Format::Combined, &record);
    let quotes = combined.iter().filter(|byte| **byte == b'"');
    assert_eq!(quotes.count(), 6);
    assert!(
        combined
            .iter()
            .all(|byte| matches!(byte, b' '..=b'~' | b'\n'))
    );
}

fn written(format: Format, record: &Record) -> Vec<u8> {
    let mut out = Vec::new();
    line::write(
        &mut out,
        format,
        &mut Stamp::default(),
        record,
        Duration::ZERO,
    );
    let ends = out.iter().filter(|byte| **byte == b'\n');
    assert!(ends.count() == 1 && out.ends_with(b"\n"));
    assert!(!out.windows(SECRET.len()).any(|some| some == SECRET));
    out
}
