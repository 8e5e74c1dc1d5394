//! Requests as RFC 9112 has them, read without any tolerance, and without a line of the proxy's code.
//!
//! The recording endpoint reads what the proxy sends by it, and the property test reads what the client sent.

/// A request, as far as it has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub fields: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
}

/// What stands at the beginning of some bytes.
#[derive(Debug)]
pub enum Found {
    /// A request, and the bytes that it takes.
    Whole(Request, usize),
    /// The beginning of one, with its head if that is whole.
    Part(Option<Request>),
    /// No request; with the head if that is one, so that only its body is broken.
    Broken(&'static str, Option<Request>),
}

impl Request {
    /// Method and target.
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.target)
    }

    /// The values of a field.
    pub fn all(&self, name: &str) -> Vec<&[u8]> {
        let named = self.fields.iter();
        let named = named.filter(|(other, _)| other.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_slice()).collect()
    }

    /// The host and the target in origin form, from either form. A target in absolute form has the host, whatever `Host`
    /// says, and HTTP/1.0 may come without one (RFC 9112 §3.2.2).
    pub fn place(&self) -> (Vec<u8>, String) {
        let host = self.all("host").concat().to_ascii_lowercase();
        let rest = match self.target.split_once("://") {
            Some((_, rest)) if !self.target.starts_with('/') => rest,
            _ => return (host, self.target.clone()),
        };
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (host, path) = rest.split_at(at);
        let slash = if path.starts_with('/') { "" } else { "/" };
        (
            host.to_ascii_lowercase().into_bytes(),
            format!("{slash}{path}"),
        )
    }
}

/// Reads one request; so many empty lines may stand before it.
pub fn read(bytes: &[u8], blank_lines: usize) -> Found {
    let mut at = 0;
    for _ in 0..blank_lines {
        if bytes[at..].starts_with(b"\r\n") {
            at += 2;
        }
    }
    let Some(end) = find(&bytes[at..], b"\r\n\r\n") else {
        return Found::Part(None);
    };
    let head = &bytes[at..at + end];
    at += end + 4;
    let mut request = match read_head(head) {
        Ok(request) => request,
        Err(why) => return Found::Broken(why, None),
    };
    let codings = request.all("transfer-encoding");
    let lengths = request.all("content-length");
    let length = match (&codings[..], &lengths[..]) {
        ([], []) => 0,
        ([], [length]) => {
            let is_number = !length.is_empty() && length.iter().all(u8::is_ascii_digit);
            match str::from_utf8(length).unwrap_or_default().parse() {
                Ok(length) if is_number => length,
                _ => return Found::Broken("content-length", None),
            }
        }
        ([coding], []) if coding.eq_ignore_ascii_case(b"chunked") => {
            return read_chunked(request, bytes, at);
        }
        _ => return Found::Broken("framing", None),
    };
    let here = &bytes[at..];
    if here.len() < length {
        request.body = here.to_vec();
        return Found::Part(Some(request));
    }
    request.body = here[..length].to_vec();
    Found::Whole(request, at + length)
}

fn read_head(head: &[u8]) -> Result<Request, &'static str> {
    let mut lines = lines(head)?.into_iter();
    let line = lines.next().unwrap_or_default();
    let line = str::from_utf8(line).map_err(|_| "request line")?;
    let words: Vec<_> = line.split(' ').collect();
    let [method, target, version] = words[..] else {
        return Err("request line");
    };
    if method.is_empty() || !method.bytes().all(is_token) {
        return Err("method");
    }
    if target.is_empty() || !target.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
        return Err("target");
    }
    let is_absolute = ["http://", "https://"]
        .iter()
        .any(|scheme| target.to_ascii_lowercase().starts_with(scheme));
    if !target.starts_with('/') && !is_absolute && (method, target) != ("OPTIONS", "*") {
        return Err("target form");
    }
    if !matches!(version, "HTTP/1.1" | "HTTP/1.0") {
        return Err("version");
    }
    let mut request = Request {
        method: method.to_owned(),
        target: target.to_owned(),
        fields: Vec::new(),
        body: Vec::new(),
    };
    for line in lines {
        request.fields.push(field(line)?);
    }
    let hosts = request.all("host");
    let is_host = match hosts[..] {
        [] => version == "HTTP/1.0",
        [host] => host
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(b)),
        _ => false,
    };
    if !is_host {
        return Err("host");
    }
    if version == "HTTP/1.0" && !request.all("transfer-encoding").is_empty() {
        return Err("a coding in 1.0");
    }
    Ok(request)
}

/// Splits at CRLF; neither half of it may stand alone.
fn lines(text: &[u8]) -> Result<Vec<&[u8]>, &'static str> {
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = find(rest, b"\r\n") {
        lines.push(&rest[..at]);
        rest = &rest[at + 2..];
    }
    lines.push(rest);
    let is_odd = |b: &u8| (*b < b' ' && *b != b'\t') || *b == 0x7F;
    if lines.iter().any(|line| line.iter().any(is_odd)) {
        return Err("a control byte");
    }
    Ok(lines)
}

fn field(line: &[u8]) -> Result<(String, Vec<u8>), &'static str> {
    let colon = line.iter().position(|b| *b == b':').ok_or("no colon")?;
    let (name, value) = line.split_at(colon);
    if name.is_empty() || !name.iter().copied().all(is_token) {
        return Err("field name");
    }
    let name = String::from_utf8(name.to_vec()).map_err(|_| "field name")?;
    let mut value = &value[1..];
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    Ok((name, value.to_vec()))
}

fn read_chunked(mut request: Request, bytes: &[u8], mut at: usize) -> Found {
    loop {
        let Some(end) = find(&bytes[at..], b"\r\n") else {
            return Found::Part(Some(request));
        };
        let line = &bytes[at..at + end];
        at += end + 2;
        let digits = line.iter().position(|b| *b == b';').unwrap_or(line.len());
        let size = &line[..digits];
        let is_hex = !size.is_empty() && size.iter().all(u8::is_ascii_hexdigit);
        let size = str::from_utf8(size).unwrap_or_default();
        let is_text = line[digits..]
            .iter()
            .all(|b| *b == b'\t' || (b' '..=b'~').contains(b));
        let Ok(size) = usize::from_str_radix(size, 16) else {
            return Found::Broken("chunk size", Some(request));
        };
        if !is_hex || !is_text || size >= 1 << 60 {
            return Found::Broken("chunk line", Some(request));
        }
        if size == 0 {
            return match trailers(&bytes[at..]) {
                Ok(Some(used)) => Found::Whole(request, at + used),
                Ok(None) => Found::Part(Some(request)),
                Err(why) => Found::Broken(why, Some(request)),
            };
        }
        let here = &bytes[at..];
        request.body.extend(&here[..size.min(here.len())]);
        match here.get(size..) {
            None | Some([] | [b'\r']) => return Found::Part(Some(request)),
            Some([b'\r', b'\n', ..]) => at += size + 2,
            Some(_) => return Found::Broken("no line end behind a chunk", Some(request)),
        }
    }
}

fn trailers(bytes: &[u8]) -> Result<Option<usize>, &'static str> {
    let mut at = 0;
    while let Some(end) = find(&bytes[at..], b"\r\n") {
        let line = &bytes[at..at + end];
        at += end + 2;
        if line.is_empty() {
            return Ok(Some(at));
        }
        lines(line)?;
        field(line)?;
    }
    Ok(None)
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
