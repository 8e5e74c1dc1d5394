//! What is known about a connection, worked out once and used by every exchange on it.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Version};

use crate::base::addr::ClientAddr;
use crate::base::host::{self, HostInvalid};
use crate::base::lines::FieldLines;

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
    /// The peer's address as text.
    pub client_text: Rc<str>,
    /// The same as a field value.
    pub client_value: HeaderValue,
    /// The host that was asked for last: a connection rarely asks for two.
    asked: RefCell<Option<Rc<Asked>>>,
}

/// A host that a client asks for, worked out once for all requests that name it.
#[derive(Debug)]
pub struct Asked {
    /// As the client wrote it.
    pub value: HeaderValue,
    /// In normal form; empty for an HTTP/1.0 client that does not say.
    pub normal: Box<str>,
    /// The `Forwarded` element for requests to it (RFC 7239 §4).
    pub forwarded: HeaderValue,
    /// What requests to it carry on top, for the version that asked last.
    lines: RefCell<Option<(Version, Rc<FieldLines>)>>,
}

impl Asked {
    /// What requests of `version` to this host carry on top, as `make` says the first time.
    pub fn lines(&self, version: Version, make: impl FnOnce() -> FieldLines) -> Rc<FieldLines> {
        let mut last = self.lines.borrow_mut();
        match &*last {
            Some((made_for, lines)) if *made_for == version => Rc::clone(lines),
            _ => {
                let lines = Rc::new(make());
                *last = Some((version, Rc::clone(&lines)));
                lines
            }
        }
    }
}

impl Facts {
    /// The facts of a new connection.
    pub fn new(client: ClientAddr, secure: Option<Secure>) -> Self {
        let text = client.ip().to_string();
        Self {
            client,
            secure,
            client_text: text.as_str().into(),
            client_value: value(text),
            asked: RefCell::default(),
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

    /// What is to be known of `host`, the value of `Host` or `:authority`.
    ///
    /// # Errors
    /// [`HostInvalid`], and nothing else of the host is believed.
    pub fn asked(&self, host: &HeaderValue) -> Result<Rc<Asked>, HostInvalid> {
        let mut last = self.asked.borrow_mut();
        if let Some(asked) = last.as_ref().filter(|asked| asked.value == host) {
            return Ok(Rc::clone(asked));
        }
        let text = host.to_str().map_err(|_| HostInvalid::Character)?;
        let normal = match text {
            "" => "".into(),
            text => host::normal_host(text)?.into(),
        };
        let asked = Rc::new(Asked {
            // A copy: the value that came is a piece of all that was read with it.
            value: value(text.to_owned()),
            normal,
            forwarded: value(self.forwarded_element(text)),
            lines: RefCell::default(),
        });
        *last = Some(Rc::clone(&asked));
        Ok(asked)
    }

    fn forwarded_element(&self, host: &str) -> String {
        let node = match self.client.ip() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("\"[{ip}]\""),
        };
        let proto = self.scheme().as_str();
        // A host was checked before it came here: what it may hold needs no escape inside quotes.
        match host {
            "" => format!("for={node};proto={proto}"),
            host => format!("for={node};host=\"{host}\";proto={proto}"),
        }
    }
}

/// A field value of text that we made ourselves.
fn value(text: String) -> HeaderValue {
    HeaderValue::from_maybe_shared(Bytes::from(text)).unwrap_or(HeaderValue::from_static("unknown"))
}
