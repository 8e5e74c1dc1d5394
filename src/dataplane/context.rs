//! What is known about a connection, worked out once and used by every exchange on it.

use std::cell::RefCell;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderValue;

use crate::base::addr::ClientAddr;

/// Whether requests on a connection are http or https.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// In clear.
    Http,
    /// In TLS.
    Https,
}

impl Scheme {
    /// The word for URLs and forwarding headers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// What TLS told about a connection.
#[derive(Clone, Debug)]
pub struct Secure {
    /// The protocol version, as the access log writes it.
    pub version: &'static str,
    /// The name that the client asked for.
    pub server_name: Option<Arc<str>>,
    /// The subject of the client's verified certificate.
    pub client_subject: Option<HeaderValue>,
}

/// What is known about a connection.
#[derive(Debug)]
pub struct Facts {
    /// The peer.
    pub client: ClientAddr,
    /// What TLS told; absent in clear.
    pub secure: Option<Secure>,
    /// The peer's address as a field value.
    pub client_value: HeaderValue,
    /// The last `Forwarded` value and the host it was made for: a connection rarely asks for two.
    forwarded: RefCell<Option<(HeaderValue, HeaderValue)>>,
}

impl Facts {
    /// The facts of a new connection.
    pub fn new(client: ClientAddr, secure: Option<Secure>) -> Self {
        let client_value = value(client.ip().to_string());
        Self {
            client,
            secure,
            client_value,
            forwarded: RefCell::default(),
        }
    }

    /// The scheme of requests on this connection.
    pub fn scheme(&self) -> Scheme {
        if self.secure.is_some() {
            Scheme::Https
        } else {
            Scheme::Http
        }
    }

    /// The `Forwarded` element for a request to `host` (RFC 7239 §4).
    pub fn forwarded(&self, host: &HeaderValue) -> HeaderValue {
        let mut cached = self.forwarded.borrow_mut();
        if let Some((for_host, element)) = &*cached
            && for_host == host
        {
            return element.clone();
        }
        let element = value(self.forwarded_element(host));
        *cached = Some((host.clone(), element.clone()));
        element
    }

    fn forwarded_element(&self, host: &HeaderValue) -> String {
        let node = match self.client.ip() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("\"[{ip}]\""),
        };
        let proto = self.scheme().as_str();
        // A host was checked before it came here: what it may hold needs no escape inside quotes.
        match host.to_str() {
            Ok(host) if !host.is_empty() => {
                format!("for={node};host=\"{host}\";proto={proto}")
            }
            _ => format!("for={node};proto={proto}"),
        }
    }
}

/// A field value of text that we made ourselves.
fn value(text: String) -> HeaderValue {
    HeaderValue::from_maybe_shared(Bytes::from(text)).unwrap_or(HeaderValue::from_static("unknown"))
}
