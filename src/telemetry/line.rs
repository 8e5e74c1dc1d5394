//! A record as one line of text, in either format.
//!
//! `worker_log` calls it with the buffer that the line is appended to; benches call it alone. It makes no copy on
//! the heap and asks for no time: this is on the way of every request.

use std::io::Write;
use std::net::IpAddr;
use std::time::Duration;

use http::{Method, Uri};

use super::access_log::{Protocol, Record};
use super::escape;
use super::mask;
use super::sink::Format;
use super::stamp::{self, Stamp};

/// Appends the line of `record`, which took `duration`, with its line end.
pub fn write(
    out: &mut Vec<u8>,
    format: Format,
    stamp: &mut Stamp,
    record: &Record,
    duration: Duration,
) {
    match format {
        Format::Json => write_json(out, stamp, record, duration),
        Format::Combined => write_combined(out, stamp, record),
    }
}

fn write_json(out: &mut Vec<u8>, stamp: &mut Stamp, record: &Record, duration: Duration) {
    out.extend_from_slice(br#"{"time":""#);
    stamp.write(out, Format::Json, record.started_at);
    out.extend_from_slice(br#"","client":""#);
    write_client(out, record);
    out.push(b'"');
    write_request(out, record);
    let (status, fault) = record.ending();
    number(out, br#","status":"#, status);
    if let Some(fault) = fault {
        word(out, br#","fault":""#, fault.token().as_bytes());
    }
    number(out, br#","bytes_in":"#, record.bytes_received);
    number(out, br#","bytes_out":"#, record.bytes_sent);
    millis(out, br#","duration_ms":"#, duration);
    if let Some(first_byte) = record.first_byte {
        millis(out, br#","first_byte_ms":"#, first_byte);
    }
    if let Some(connect) = record.connect {
        millis(out, br#","connect_ms":"#, connect);
    }
    if let Some(queued) = record.queued {
        millis(out, br#","queue_ms":"#, queued);
    }
    if let Some(endpoint) = &record.endpoint {
        text(out, br#","endpoint":""#, endpoint.as_bytes());
    }
    if record.attempts > 0 {
        number(out, br#","attempts":"#, record.attempts);
    }
    if let Some(route) = &record.route {
        text(out, br#","route":""#, route.as_str().as_bytes());
    }
    if let Some(pool) = &record.pool {
        text(out, br#","pool":""#, pool.as_str().as_bytes());
    }
    if let Some(id) = &record.request_id {
        word(out, br#","request_id":""#, id.as_bytes());
    }
    if record.upgraded {
        out.extend_from_slice(br#","upgraded":true"#);
    }
    out.extend_from_slice(b"}\n");
}

/// What the client asked for.
fn write_request(out: &mut Vec<u8>, record: &Record) {
    if let Some(method) = &record.method {
        text(out, br#","method":""#, method.as_str().as_bytes());
    }
    if let Some(host) = host(record) {
        text(out, br#","host":""#, host);
    }
    if let Some(target) = record.target.as_ref().and_then(path_and_query) {
        out.extend_from_slice(br#","path":""#);
        escape::write_field(out, Format::Json, target, mask::write_target);
        out.push(b'"');
    }
    if let Some(protocol) = record.protocol {
        let name: &[u8] = match protocol {
            Protocol::Http10 => b"HTTP/1.0",
            Protocol::Http11 => b"HTTP/1.1",
            Protocol::Http2 => b"HTTP/2",
        };
        word(out, br#","protocol":""#, name);
    }
    if let Some(tls) = record.tls {
        word(out, br#","tls":""#, tls.as_bytes());
    }
}

/// `client - - [time] "request" status bytes "referer" "user agent"`, as Apache and nginx write it.
fn write_combined(out: &mut Vec<u8>, stamp: &mut Stamp, record: &Record) {
    write_client(out, record);
    out.extend_from_slice(b" - - [");
    stamp.write(out, Format::Combined, record.started_at);
    out.extend_from_slice(b"] \"");
    match &record.method {
        Some(method) => write_request_line(out, record, method),
        None => out.push(b'-'),
    }
    out.push(b'"');
    let (status, _) = record.ending();
    number(out, b" ", status);
    number(out, b" ", record.bytes_sent);
    let referer = record.referer.as_ref().map(|value| value.as_bytes());
    quoted(out, referer, mask::write_url);
    let user_agent = record.user_agent.as_ref().map(|value| value.as_bytes());
    quoted(out, user_agent, escape::write);
    out.push(b'\n');
}

fn write_request_line(out: &mut Vec<u8>, record: &Record, method: &Method) {
    escape::write_field(
        out,
        Format::Combined,
        method.as_str().as_bytes(),
        escape::write,
    );
    out.push(b' ');
    match record.target.as_ref().and_then(path_and_query) {
        Some(target) => escape::write_field(out, Format::Combined, target, mask::write_target),
        None => out.push(b'-'),
    }
    out.extend_from_slice(match record.protocol {
        Some(Protocol::Http10) => b" HTTP/1.0",
        Some(Protocol::Http11) => b" HTTP/1.1",
        // nginx's spelling, since tools that read this format were made for its lines.
        Some(Protocol::Http2) => b" HTTP/2.0",
        None => b"",
    });
}

/// ` "value"`, or ` "-"` for none.
fn quoted(out: &mut Vec<u8>, value: Option<&[u8]>, write: fn(&mut Vec<u8>, Format, &[u8])) {
    out.extend_from_slice(b" \"");
    match value {
        Some(value) if !value.is_empty() => {
            escape::write_field(out, Format::Combined, value, write);
        }
        Some(_) | None => out.push(b'-'),
    }
    out.push(b'"');
}

fn host(record: &Record) -> Option<&[u8]> {
    let host = match &record.host {
        Some(host) => host.as_bytes(),
        None => record.target.as_ref()?.authority()?.as_str().as_bytes(),
    };
    Some(mask::without_userinfo(host))
}

/// The target without scheme, user information and authority; none of the authority form, which has no path.
fn path_and_query(target: &Uri) -> Option<&[u8]> {
    let target = target.path_and_query()?.as_str().as_bytes();
    (!target.is_empty()).then_some(target)
}

/// A field whose value came from outside, or from the config.
fn text(out: &mut Vec<u8>, opening: &[u8], value: &[u8]) {
    out.extend_from_slice(opening);
    escape::write_field(out, Format::Json, value, escape::write);
    out.push(b'"');
}

/// A field whose value is one of our own words.
fn word(out: &mut Vec<u8>, opening: &[u8], value: &[u8]) {
    out.extend_from_slice(opening);
    out.extend_from_slice(value);
    out.push(b'"');
}

fn number(out: &mut Vec<u8>, opening: &[u8], value: impl itoa::Integer) {
    out.extend_from_slice(opening);
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Milliseconds with three decimals: microseconds, cut off.
fn millis(out: &mut Vec<u8>, opening: &[u8], value: Duration) {
    let whole = value.as_secs().saturating_mul(1_000);
    number(
        out,
        opening,
        whole.saturating_add(u64::from(value.subsec_millis())),
    );
    out.push(b'.');
    stamp::write_thousandths(out, value.subsec_micros() % 1_000);
}

fn write_client(out: &mut Vec<u8>, record: &Record) {
    if let Some(text) = &record.client_text {
        return out.extend_from_slice(text.as_bytes());
    }
    match record.client.to_canonical() {
        IpAddr::V4(address) => {
            let [first, rest @ ..] = address.octets();
            number(out, b"", first);
            for octet in rest {
                number(out, b".", octet);
            }
        }
        IpAddr::V6(address) => {
            // Writing to a buffer in memory cannot fail.
            let _ = write!(out, "{address}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;
    use std::rc::Rc;
    use std::sync::Arc;
    use std::time::SystemTime;

    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;
    use crate::base::clock;
    use crate::base::fault::Fault;
    use crate::base::name::{PoolName, RouteName};
    use crate::telemetry::{RequestId, WorkerLog};

    fn record() -> Record {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_526_940_123);
        let client = IpAddr::from([192, 0, 2, 7]);
        Record::new(Rc::new(WorkerLog::default()), clock::now(), at, client)
    }

    fn request(method: Method, target: &str) -> Record {
        let mut record = record();
        record.method = Some(method);
        record.target = Some(target.parse().unwrap());
        record.protocol = Some(Protocol::Http11);
        record
    }

    fn answered() -> Record {
        let mut record = request(Method::GET, "/v1/things?page=2&token=abc");
        record.host = Some(HeaderValue::from_static("api.test"));
        record.tls = Some("TLSv1.3");
        record.status = Some(200);
        record.bytes_received = 17;
        record.bytes_sent = 40_961;
        record.first_byte = Some(Duration::from_micros(12_034));
        record.connect = Some(Duration::from_nanos(999));
        record.endpoint = Some(Arc::from("10.0.0.1:8080"));
        record.attempts = 2;
        record.route = Some(RouteName::from("api"));
        record.pool = Some(PoolName::from("api-pool"));
        record.request_id = RequestId::kept(&HeaderValue::from_static("id-1"));
        record.referer = Some(HeaderValue::from_static("https://u@app.test/?code=1"));
        record.user_agent = Some(HeaderValue::from_static("curl/8 \"x\""));
        record
    }

    fn text_of(format: Format, record: &Record) -> String {
        let mut out = Vec::new();
        write(
            &mut out,
            format,
            &mut Stamp::default(),
            record,
            Duration::from_micros(20_001_234),
        );
        String::from_utf8(out).unwrap()
    }

    fn check(record: &Record, json: &str, combined: &str) {
        let head = r#"{"time":"2026-11-24T13:29:00.123Z","client":"#;
        assert_eq!(text_of(Format::Json, record), format!("{head}{json}\n"));
        let (client, rest) = combined.split_once(' ').unwrap();
        assert_eq!(
            text_of(Format::Combined, record),
            format!("{client} - - [24/Nov/2026:13:29:00 +0000] {rest}\n")
        );
    }

    #[test]
    fn an_answered_exchange_has_every_field() {
        check(
            &answered(),
            concat!(
                r#""192.0.2.7","method":"GET","host":"api.test","path":"/v1/things?page=2&token=***","#,
                r#""protocol":"HTTP/1.1","tls":"TLSv1.3","status":200,"bytes_in":17,"bytes_out":40961,"#,
                r#""duration_ms":20001.234,"first_byte_ms":12.034,"connect_ms":0.000,"#,
                r#""endpoint":"10.0.0.1:8080","attempts":2,"route":"api","pool":"api-pool","#,
                r#""request_id":"id-1"}"#
            ),
            concat!(
                r#"192.0.2.7 "GET /v1/things?page=2&token=*** HTTP/1.1" 200 40961 "#,
                r#""https://app.test/?code=***" "curl/8 \x22x\x22""#
            ),
        );
    }

    #[test]
    fn a_connection_without_a_request_has_little_to_say() {
        let mut record = record();
        record.client = IpAddr::from(Ipv6Addr::LOCALHOST);
        record.fault = Some(Fault::HandshakeFailed);
        check(
            &record,
            concat!(
                r#""::1","status":400,"fault":"handshake_failed","bytes_in":0,"bytes_out":0,"#,
                r#""duration_ms":20001.234}"#
            ),
            r#"::1 "-" 400 0 "-" "-""#,
        );
    }

    #[test]
    fn a_client_that_went_away_is_told_apart() {
        check(
            &request(Method::POST, "*"),
            concat!(
                r#""192.0.2.7","method":"POST","path":"*","protocol":"HTTP/1.1","status":499,"#,
                r#""fault":"client_gone","bytes_in":0,"bytes_out":0,"duration_ms":20001.234}"#
            ),
            r#"192.0.2.7 "POST * HTTP/1.1" 499 0 "-" "-""#,
        );
    }

    #[test]
    fn a_tunnel_over_h2_takes_its_host_from_the_target() {
        let mut record = request(Method::CONNECT, "https://u:p@chat.test:8443/ws?key=1");
        record.client = "::ffff:192.0.2.7".parse().unwrap();
        record.protocol = Some(Protocol::Http2);
        record.status = Some(200);
        record.upgraded = true;
        check(
            &record,
            concat!(
                r#""192.0.2.7","method":"CONNECT","host":"chat.test:8443","path":"/ws?key=***","#,
                r#""protocol":"HTTP/2","status":200,"bytes_in":0,"bytes_out":0,"#,
                r#""duration_ms":20001.234,"upgraded":true}"#
            ),
            r#"192.0.2.7 "CONNECT /ws?key=*** HTTP/2.0" 200 0 "-" "-""#,
        );
    }

    #[test]
    fn the_authority_form_has_no_path() {
        let mut record = request(Method::CONNECT, "u@db.test:5432");
        record.fault = Some(Fault::MethodRefused);
        record.protocol = Some(Protocol::Http10);
        check(
            &record,
            concat!(
                r#""192.0.2.7","method":"CONNECT","host":"db.test:5432","protocol":"HTTP/1.0","#,
                r#""status":501,"fault":"method_refused","bytes_in":0,"bytes_out":0,"#,
                r#""duration_ms":20001.234}"#
            ),
            r#"192.0.2.7 "CONNECT - HTTP/1.0" 501 0 "-" "-""#,
        );
    }

    fn header() -> impl Strategy<Value = HeaderValue> {
        prop::collection::vec(any::<u8>(), 0..40)
            .prop_filter_map("not a header", |bytes| HeaderValue::from_bytes(&bytes).ok())
    }

    fn target() -> impl Strategy<Value = Uri> {
        prop::collection::vec(prop_oneof![0x21..=0xFFu8, Just(b'"'), Just(b'\\')], 0..40)
            .prop_filter_map("not a target", |tail| {
                let bytes = [b"/".as_slice(), &tail].concat();
                Uri::from_maybe_shared(bytes::Bytes::from(bytes)).ok()
            })
    }

    proptest! {
        #[test]
        fn a_line_is_read_back_as_it_was_meant(
            host in header(),
            target in target(),
            route: String,
            pool: String,
            endpoint: String,
            bytes: (u64, u64),
        ) {
            let mut record = answered();
            record.host = Some(host.clone());
            record.target = Some(target.clone());
            record.route = Some(route.clone().into());
            record.pool = Some(pool.clone().into());
            record.endpoint = Some(Arc::from(endpoint.as_str()));
            (record.bytes_received, record.bytes_sent) = bytes;
            record.referer = Some(host.clone());
            record.user_agent = Some(host.clone());

            let line = text_of(Format::Json, &record);
            prop_assert!(line.ends_with('\n'));
            prop_assert_eq!(line.lines().count(), 1);
            prop_assert!(!line.trim_end_matches('\n').chars().any(char::is_control));
            let read: serde_json::Map<String, serde_json::Value> =
                serde_json::from_str(&line).unwrap();
            prop_assert_eq!(read.len(), 18);
            let host = mask::without_userinfo(host.as_bytes());
            prop_assert_eq!(&read["host"], &String::from_utf8_lossy(host).into_owned());
            prop_assert_eq!(&read["route"], &route);
            prop_assert_eq!(&read["pool"], &pool);
            prop_assert_eq!(&read["endpoint"], &endpoint);
            prop_assert_eq!(&read["bytes_in"], &bytes.0);
            prop_assert_eq!(&read["bytes_out"], &bytes.1);
            let path = target.path_and_query().unwrap().as_str();
            if !path.contains('=') {
                prop_assert_eq!(&read["path"], path);
            }

            // No field but these, each once: what comes from outside can add none.
            let expected: serde_json::Map<String, serde_json::Value> =
                serde_json::from_str(&text_of(Format::Json, &answered())).unwrap();
            prop_assert!(read.keys().eq(expected.keys()));

            let line = text_of(Format::Combined, &record);
            prop_assert_eq!(line.bytes().filter(|&b| b == b'"').count(), 6);
            prop_assert!(line.trim_end_matches('\n').bytes().all(|b| (b' '..0x7F).contains(&b)));
        }
    }
}
