//! The small values of the config language: choices, names, files, durations, sizes and addresses.
//!
//! Each reads its text, and tells what is wrong with it and what to write instead. `keys` puts them together.

pub(crate) mod http;

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::decode::{Choice, Decoder, Kind, Shape, choice};
use super::kinds::{Count, Text, Wrong};
use super::listener::ClientAuthMode;
use super::node::{Node, Value};
use super::pool::{Addresses, CheckType, HashMethod, Protocol};
use super::{AccessLogFormat, AccessLogPath};
use crate::base::addr::{EndpointTarget, ListenAddr};
use crate::base::name::PoolName;
use crate::base::units::{self, UnitError};

choice! {
    BalanceWord {
        RoundRobin = "round_robin" "Each in turn, by weight, smoothly.",
        LeastConnections = "least_connections"
            "The one with the fewest exchanges in flight for its weight.",
        RandomTwo = "random_two"
            "Of two drawn at random by weight, the one with fewer exchanges in flight for its weight.",
        PeakEwma = "peak_ewma"
            "Of two drawn at random by weight, the one from which an answer is to be expected sooner: by how long its \
             answers take to begin, failures counting as slow ones, and by its exchanges in flight.",
    }
    HashByWord {
        ClientIp = "client_ip" "The client's address.",
        Path = "path" "The path, as the endpoint gets it.",
    }
    HashMethod {
        Maglev = "maglev"
            "By a table: exact shares and the fastest lookup; few other keys move when an endpoint comes or goes.",
        Ring = "ring"
            "By points on a ring: no other keys move when an endpoint comes or goes; shares differ by some per cent.",
    }
    Protocol {
        Auto = "auto" "HTTP/1.1 in clear; over TLS what ALPN says, HTTP/2 before HTTP/1.1.",
        Http1 = "http1" "HTTP/1.1 only.",
        H2 = "h2" "HTTP/2 only: by prior knowledge in clear.",
    }
    Addresses {
        All = "all" "As many endpoints.",
        One = "one" "One endpoint, reached at whichever address answers first: they are tried 250 ms apart, IPv6 first.",
    }
    CheckType {
        Http = "http" "A GET, whose answer is looked at.",
        Tcp = "tcp" "Whether a connection can be made, TLS included.",
        Grpc = "grpc" "The gRPC health checking protocol, over HTTP/2.",
    }
    ClientAuthMode {
        Required = "required" "The handshake fails without a certificate.",
        Optional = "optional" "A client may come without; one that shows a certificate shows a good one.",
    }
    AccessLogFormat {
        Json = "json" "One JSON object a line.",
        Combined = "combined" "The combined format of Apache and nginx.",
    }
}

/// A balancing choice without settings.
#[derive(Clone, Copy, Debug)]
pub(crate) enum BalanceWord {
    RoundRobin,
    LeastConnections,
    RandomTwo,
    PeakEwma,
}

/// A key of requests that needs no name.
#[derive(Clone, Copy, Debug)]
pub(crate) enum HashByWord {
    ClientIp,
    Path,
}

impl Text for String {
    const WHAT: &'static str = "text";

    fn read(text: &str) -> Result<Self, Wrong> {
        Ok(text.to_owned())
    }
}

/// The name of a listener or route.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Name(pub(crate) String);

impl Text for Name {
    const WHAT: &'static str = "a name";

    fn read(text: &str) -> Result<Self, Wrong> {
        if text.is_empty() || text.chars().any(char::is_control) {
            let message = "a name is a text without control characters, and not empty";
            return Err(Wrong::new(message, "names appear in logs and metrics"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl Text for PoolName {
    const WHAT: &'static str = "the name of a pool";

    fn read(text: &str) -> Result<Self, Wrong> {
        Name::read(text).map(|Name(name)| Self::from(name))
    }
}

/// A file, relative to the folder of the config file.
#[derive(Clone, Debug)]
pub(crate) struct FilePath(pub(crate) PathBuf);

impl Text for FilePath {
    const WHAT: &'static str = "the path of a file";

    fn read(text: &str) -> Result<Self, Wrong> {
        if text.is_empty() || text.contains('\0') {
            let help = "write a path, relative to the folder of this file or absolute";
            return Err(Wrong::new("not the path of a file", help));
        }
        Ok(Self(text.into()))
    }
}

/// A secret, which no message shows.
#[derive(Clone)]
pub(crate) struct SecretText(pub(crate) String);

impl std::fmt::Debug for SecretText {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("SecretText")
    }
}

impl Text for SecretText {
    const WHAT: &'static str = "a secret of at least 16 bytes";

    fn read(text: &str) -> Result<Self, Wrong> {
        if text.len() < 16 {
            let message = format!("a secret of {} bytes can be guessed", text.len());
            let help = "make one of 32 bytes, such as by `openssl rand -base64 32`";
            return Err(Wrong::new(message, help));
        }
        Ok(Self(text.to_owned()))
    }
}

/// Files to include, relative to the folder of the config file.
#[derive(Clone, Debug)]
pub(crate) struct IncludePath(pub(crate) String);

impl Text for IncludePath {
    const WHAT: &'static str = "the path of a file, in which names may hold `*`";

    fn read(text: &str) -> Result<Self, Wrong> {
        let FilePath(_) = FilePath::read(text)?;
        if text.ends_with('/') {
            let message = format!("`{text}` is a folder");
            return Err(Wrong::new(message, format!("write `{text}*.yaml`")));
        }
        if text.contains("**") {
            let help = "write one `*` for each folder on the way, such as `sites/*/*.yaml`";
            return Err(Wrong::new(format!("`{text}` has a `**`"), help));
        }
        Ok(Self(text.to_owned()))
    }
}

/// The longest duration: sums of a few of them and the time are far from overflow.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

impl Text for Duration {
    const WHAT: &'static str = "a duration";
    const UNIT: Option<(&'static str, UnitError)> = Some(("s", UnitError::Duration));
    const PATTERN: Option<&'static str> = Some("^[0-9]+(ms|s|m|h|d)$");

    fn read(text: &str) -> Result<Self, Wrong> {
        match units::duration(text) {
            Ok(duration) if duration <= LONGEST => Ok(duration),
            Ok(_) => Err(Wrong::new(
                format!("`{text}` is too long"),
                "a duration is at most 365d",
            )),
            Err(error) => {
                let message = format!("`{text}` is not a duration");
                Err(Wrong::new(message, format!("write {error}")))
            }
        }
    }
}

/// A duration that is not zero: a timeout of zero would end everything at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeout(pub(crate) Duration);

impl Text for Timeout {
    const WHAT: &'static str = Duration::WHAT;
    const UNIT: Option<(&'static str, UnitError)> = Duration::UNIT;
    const PATTERN: Option<&'static str> = Duration::PATTERN;

    fn read(text: &str) -> Result<Self, Wrong> {
        let duration = Duration::read(text)?;
        if duration.is_zero() {
            let message = "a timeout of zero would end everything at once";
            return Err(Wrong::new(
                message,
                "write a longer one; the longest is 365d",
            ));
        }
        Ok(Self(duration))
    }
}

/// How many in which time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    pub(crate) count: NonZeroU32,
    pub(crate) per: Duration,
}

impl Text for Rate {
    const WHAT: &'static str = "a rate";
    const UNIT: Option<(&'static str, UnitError)> = Some(("/s", UnitError::Rate));
    const PATTERN: Option<&'static str> = Some("^[1-9][0-9]*/(s|m|h)$");

    fn read(text: &str) -> Result<Self, Wrong> {
        const MOST: u64 = 1_000_000;
        let (number, per) = units::rate(text).map_err(|error| {
            let message = format!("`{text}` is not a rate");
            Wrong::new(message, format!("write {error}"))
        })?;
        let count = u32::try_from(number).ok().and_then(NonZeroU32::new);
        match count {
            Some(count) if number <= MOST => Ok(Self { count, per }),
            _ => Err(Wrong::new(
                format!("`{text}` is out of bounds"),
                format!("the number is at most {MOST}"),
            )),
        }
    }
}

/// A number of bytes between two bounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bytes<const LEAST: u64, const MOST: u64>(pub(crate) u64);

impl<const LEAST: u64, const MOST: u64> Text for Bytes<LEAST, MOST> {
    const WHAT: &'static str = "a size";
    const UNIT: Option<(&'static str, UnitError)> = Some(("B", UnitError::Size));
    const PATTERN: Option<&'static str> = Some("^[0-9]+(B|KiB|MiB|GiB)$");

    fn read(text: &str) -> Result<Self, Wrong> {
        match units::size(text) {
            Ok(bytes) if (LEAST..=MOST).contains(&bytes) => Ok(Self(bytes)),
            Ok(_) => {
                let (least, most) = (units::show_size(LEAST), units::show_size(MOST));
                let help = format!("the bounds are {least} and {most}");
                Err(Wrong::new(format!("`{text}` is out of bounds"), help))
            }
            Err(error) => {
                let message = format!("`{text}` is not a size");
                Err(Wrong::new(message, format!("write {error}")))
            }
        }
    }
}

/// A share where the key says that it is in percent, in millionths of the whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PercentNumber(pub(crate) u32);

impl Kind for PercentNumber {
    fn decode(node: &Node, decoder: &mut Decoder) -> Option<Self> {
        const WHAT: &str = "a number, 0 to 100";
        let number = match &node.value {
            Value::Integer(number) => Some(*number as f64),
            Value::Float(number) => Some(*number),
            Value::Filled(text) => text.parse().ok(),
            _ => None,
        };
        let Some(number) = number else {
            let is_text = matches!(&node.value, Value::Text(_));
            let help = is_text.then(|| "the key says the unit: write `10` or `0.5`".into());
            decoder.expected(WHAT, node, help);
            return None;
        };
        if !(0.0..=100.0).contains(&number) {
            let message = format!("{number} is out of bounds");
            decoder.problem(node.place, message, "the bounds are 0 and 100");
            return None;
        }
        let millionths = number * 10_000.0;
        if (millionths - millionths.round()).abs() > 1e-6 {
            let help = "write four decimals at most, such as `0.0001`";
            decoder.problem(node.place, format!("{number} is too fine"), help);
            return None;
        }
        Some(Self(millionths.round() as u32))
    }

    fn shape() -> Shape {
        Shape::Number {
            least: 0,
            most: 100,
        }
    }
}

/// A share, from a least one to all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Percent<const LEAST: u32>(pub(crate) u32);

impl<const LEAST: u32> Text for Percent<LEAST> {
    const WHAT: &'static str = "a share in percent";
    const PATTERN: Option<&'static str> = Some("^[0-9]+%$");

    fn instead_of(number: i64) -> String {
        format!("write `{number}%`")
    }

    fn read(text: &str) -> Result<Self, Wrong> {
        let digits = text.strip_suffix('%').filter(|digits| {
            // A sign is none of them.
            digits.bytes().all(|byte| byte.is_ascii_digit())
        });
        let percent = digits.and_then(|digits| digits.parse().ok());
        match percent {
            Some(percent) if (LEAST..=100).contains(&percent) => Ok(Self(percent)),
            Some(_) => {
                let help = format!("the bounds are {LEAST}% and 100%");
                Err(Wrong::new(format!("`{text}` is out of bounds"), help))
            }
            None => {
                let message = format!("`{text}` is not a share in percent");
                Err(Wrong::new(
                    message,
                    "write a whole number with a `%`, such as `50%`",
                ))
            }
        }
    }
}

/// The number of workers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Workers {
    Auto,
    Count(u64),
}

impl Kind for Workers {
    fn decode(node: &Node, decoder: &mut Decoder) -> Option<Self> {
        match &node.value {
            Value::Text(text) | Value::Filled(text) if text == "auto" => Some(Self::Auto),
            Value::Text(text) => {
                let message = format!("unknown value `{text}`");
                decoder.problem(node.place, message, "write `auto` or a whole number");
                None
            }
            _ => Count::<1, 1024>::decode(node, decoder).map(|Count(count)| Self::Count(count)),
        }
    }

    fn shape() -> Shape {
        Shape::OneOf(vec![Shape::Word("auto"), Count::<1, 1024>::shape()])
    }
}

/// A user or a group of the system, by name or number.
#[derive(Clone, Debug)]
pub(crate) enum AccountKey {
    Id(u32),
    Name(String),
}

/// The greatest number of a user: the one after it stands for nobody's.
const MOST_ID: u64 = 4_294_967_294;

impl Kind for AccountKey {
    fn decode(node: &Node, decoder: &mut Decoder) -> Option<Self> {
        let text = match &node.value {
            Value::Text(text) => text,
            Value::Filled(text) if !text.bytes().all(|byte| byte.is_ascii_digit()) => text,
            Value::Integer(_) | Value::Filled(_) => {
                let Count(id) = Count::<0, MOST_ID>::decode(node, decoder)?;
                return u32::try_from(id).ok().map(Self::Id);
            }
            _ => {
                let help = "write a name such as `lockgate`, or a number".to_owned();
                decoder.expected("a name or a number", node, Some(help));
                return None;
            }
        };
        let is_bad = |char: char| char.is_control() || char.is_whitespace() || char == ':';
        if text.is_empty() || text.contains(is_bad) {
            let message = format!("`{text}` is no name of a user or a group");
            let help = "write a name such as `lockgate`, or a number";
            decoder.problem(node.place, message, help);
            return None;
        }
        Some(Self::Name(text.clone()))
    }

    fn shape() -> Shape {
        Shape::OneOf(vec![
            Shape::Text {
                what: "a name",
                pattern: None,
            },
            Count::<0, MOST_ID>::shape(),
        ])
    }
}

impl Text for ListenAddr {
    const WHAT: &'static str = "an address and a port";

    fn instead_of(number: i64) -> String {
        format!("write `\":{number}\"` for this port of every address")
    }

    fn read(text: &str) -> Result<Self, Wrong> {
        text.parse().map_err(|_| {
            let message = format!("`{text}` is not an address to listen on");
            let help = "write an IP address and a port, such as `0.0.0.0:443` or `[::1]:8443`, or \
                        `:443` for every address";
            Wrong::new(message, help)
        })
    }
}

impl Text for EndpointTarget {
    const WHAT: &'static str = "the address of an endpoint";

    fn instead_of(number: i64) -> String {
        format!("write host and port, such as `127.0.0.1:{number}`")
    }

    fn read(text: &str) -> Result<Self, Wrong> {
        let wrong =
            |help: &str| Wrong::new(format!("`{text}` is not the address of an endpoint"), help);
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err(wrong(
                    "write the path of the socket, such as `unix:/run/app.sock`",
                )),
                _ => Ok(Self::Unix(path.into())),
            };
        }
        if let Some(name) = text.strip_prefix("srv:") {
            return match name.strip_suffix('.').unwrap_or(name) {
                whole if is_dns_name(whole) => Ok(Self::Service(name.to_ascii_lowercase())),
                whole if whole.contains(':') => Err(wrong(
                    "leave the port out: the records of a service tell theirs",
                )),
                _ => Err(wrong(
                    "write the name of its SRV records, such as `srv:_http._tcp.app.internal`",
                )),
            };
        }
        if text.contains("://") {
            return Err(wrong(
                "leave the scheme out: write host and port; for TLS write `tls: {}` in the pool",
            ));
        }
        if text.contains('/') {
            return Err(wrong(
                "write host and port only; a filter can rewrite paths",
            ));
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return match address.port() {
                0 => Err(wrong("a port is 1 to 65535")),
                _ => Ok(Self::Tcp(address)),
            };
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(wrong(
                "it has no port: write host and port, such as `10.0.0.1:8080`",
            ));
        };
        if host.contains(':') {
            return Err(wrong(
                "an IPv6 address stands in brackets, such as `[::1]:8080`",
            ));
        }
        let port = match port.parse() {
            Ok(port) if port > 0 => port,
            _ => return Err(wrong("a port is 1 to 65535")),
        };
        if !is_dns_name(host.strip_suffix('.').unwrap_or(host)) {
            return Err(wrong(
                "write an IP address or a name, and a port, such as `app:8080`",
            ));
        }
        let host = host.to_ascii_lowercase();
        Ok(Self::Name { host, port })
    }
}

/// RFC 1123 §2.1, and underscores, which are common inside networks. Only digits would be an address.
pub(super) fn is_dns_name(text: &str) -> bool {
    let is_label = |label: &str| {
        let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(is_letter) && !label.starts_with('-')
    };
    let last = text.rsplit('.').next().unwrap_or_default();
    text.len() <= 253
        && text.split('.').all(is_label)
        && !last.bytes().all(|byte| byte.is_ascii_digit())
}

/// A DNS server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ResolverAddress(pub(crate) SocketAddr);

impl Text for ResolverAddress {
    const WHAT: &'static str = "the address of a DNS server";

    fn instead_of(number: i64) -> String {
        format!("write address and port, such as `10.0.0.2:{number}`")
    }

    fn read(text: &str) -> Result<Self, Wrong> {
        let wrong = |help: &str| {
            Err(Wrong::new(
                format!("`{text}` is not the address of a DNS server"),
                help,
            ))
        };
        match text.parse::<SocketAddr>() {
            Ok(address) if address.port() == 0 => wrong("a port is 1 to 65535"),
            Ok(address) if address.ip().is_unspecified() => {
                wrong("that is every address of a machine: write the one it is asked at")
            }
            Ok(address) => Ok(Self(address)),
            Err(_) => {
                wrong("write an IP address and a port, such as `10.0.0.2:53` or `[fd00::2]:53`")
            }
        }
    }
}

impl Text for IpNet {
    const WHAT: &'static str = "a network";

    fn read(text: &str) -> Result<Self, Wrong> {
        if let Ok(address) = text.parse::<IpAddr>() {
            let single = Self::from(address);
            let message = format!("`{text}` is an address, not a network");
            return Err(Wrong::new(
                message,
                format!("write `{single}` for just this address"),
            ));
        }
        let net: Self = text.parse().map_err(|_| {
            let message = format!("`{text}` is not a network");
            Wrong::new(
                message,
                "write address and length, such as `10.0.0.0/8` or `fd00::/8`",
            )
        })?;
        if net.prefix_len() == 0 {
            let help = "everybody could claim any address: list the networks of your proxies";
            return Err(Wrong::new(format!("`{text}` is everybody"), help));
        }
        if net.trunc() != net {
            let message = format!("`{text}` has bits beyond its length");
            return Err(Wrong::new(message, format!("write `{}`", net.trunc())));
        }
        Ok(net)
    }
}

/// Where the access log goes.
impl Text for AccessLogPath {
    const WHAT: &'static str = "`stdout` or the path of a file";

    fn read(text: &str) -> Result<Self, Wrong> {
        match text {
            "stdout" => Ok(Self::Stdout),
            _ => FilePath::read(text).map(|FilePath(path)| Self::File(path)),
        }
    }
}

/// Where the control socket is.
#[derive(Clone, Debug)]
pub(crate) struct AdminAddress(pub(crate) FilePath);

impl Text for AdminAddress {
    const WHAT: &'static str = "the address of a unix socket";
    const PATTERN: Option<&'static str> = Some("^unix:.");

    fn read(text: &str) -> Result<Self, Wrong> {
        let Some(path) = text.strip_prefix("unix:") else {
            let help = "write the path of a unix socket, such as `unix:/run/lockgate/admin.sock`";
            return Err(Wrong::new(
                format!("`{text}` is not the address of a unix socket"),
                help,
            ));
        };
        FilePath::read(path).map(Self)
    }
}

/// The name a certificate is verified for.
#[derive(Clone, Debug)]
pub(crate) struct ServerName(pub(crate) String);

impl Text for ServerName {
    const WHAT: &'static str = "a name";

    fn read(text: &str) -> Result<Self, Wrong> {
        if is_dns_name(text) || text.parse::<IpAddr>().is_ok() {
            return Ok(Self(text.to_ascii_lowercase()));
        }
        let message = format!("`{text}` is not the name of a server");
        Err(Wrong::new(
            message,
            "write a name such as `app.internal`, without port",
        ))
    }
}
