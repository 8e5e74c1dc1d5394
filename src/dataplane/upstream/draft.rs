//! A request as an attempt hands it to a codec, whichever that is.

use std::rc::Rc;

use bytes::{BufMut, Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderMap, HeaderName};

use crate::base::fault::Fault;
use crate::base::lines::FieldLines;
use crate::telemetry::request_id::RequestId;

/// The field that carries the id of a request.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A request that is to be sent.
#[derive(Debug)]
pub struct Draft<'a, B> {
    /// Method, target in origin form, fields.
    pub parts: &'a mut Parts,
    /// What goes on top of the fields. A codec that puts it among them leaves nothing here.
    pub added: &'a mut Added,
    /// The body; it is taken, and put back if nothing of the request was sent.
    pub body: &'a mut Option<B>,
    /// What was taken off the body by an attempt that sent nothing.
    pub front: &'a mut Option<Bytes>,
}

/// Fields that a request gets from us. None of them is among its own.
#[derive(Clone, Debug, Default)]
pub struct Added {
    /// Those that are the same for many requests.
    pub lines: Option<Rc<FieldLines>>,
    /// Its id.
    pub request_id: Option<RequestId>,
}

impl Added {
    /// Puts them among the request's own.
    pub fn put_on(&mut self, fields: &mut HeaderMap) {
        if let Some(lines) = self.lines.take() {
            for (name, value) in lines.fields() {
                fields.append(name, value.clone());
            }
        }
        if let Some(id) = self.request_id.take() {
            fields.append(X_REQUEST_ID, id.header_value());
        }
    }

    /// Writes them as lines of HTTP/1.
    pub fn write(&self, out: &mut BytesMut) {
        if let Some(lines) = &self.lines {
            out.put_slice(lines.lines());
        }
        if let Some(id) = &self.request_id {
            out.put_slice(b"x-request-id: ");
            out.put_slice(id.as_bytes());
            out.put_slice(b"\r\n");
        }
    }
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug)]
pub struct Failure {
    /// What went wrong.
    pub fault: Fault,
    /// Whether the endpoint has seen nothing of the request.
    pub unsent: bool,
    /// Whether the connection lives on: it was this request that failed, and not its connection.
    pub is_alone: bool,
}
