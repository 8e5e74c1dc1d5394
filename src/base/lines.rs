//! Fields that many messages carry: worked out once, in the two forms in which they leave.

use http::{HeaderName, HeaderValue};

/// Fields as values and as the lines that HTTP/1 makes of them.
#[derive(Clone, Debug, Default)]
pub struct FieldLines {
    fields: Vec<(HeaderName, HeaderValue)>,
    lines: Vec<u8>,
}

impl FieldLines {
    /// These fields.
    pub fn new(fields: Vec<(HeaderName, HeaderValue)>) -> Self {
        let mut lines = Vec::new();
        for (name, value) in &fields {
            lines.extend_from_slice(name.as_str().as_bytes());
            lines.extend_from_slice(b": ");
            lines.extend_from_slice(value.as_bytes());
            lines.extend_from_slice(b"\r\n");
        }
        Self { fields, lines }
    }

    /// One by one.
    pub fn fields(&self) -> &[(HeaderName, HeaderValue)] {
        &self.fields
    }

    /// As lines, each with its end.
    pub fn lines(&self) -> &[u8] {
        &self.lines
    }
}
