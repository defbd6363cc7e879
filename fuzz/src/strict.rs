//! A reader of HTTP/1 of the tests' own, written from RFC 9112 without a look at `src/rules`. It takes for a message only
//! what every reader would, and knows no limits of size.

/// What stands at the beginning of some bytes.
pub enum Reading<T> {
    /// A message, and how many bytes it took.
    Whole(T, usize),
    /// The beginning of one.
    Partial,
    Broken(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    /// As it stands in the request line.
    pub target: String,
    pub http11: bool,
    pub fields: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
    /// Whether the body had chunk extensions or trailers.
    pub adorned: bool,
}

impl Request {
    pub fn all(&self, name: &str) -> Vec<&[u8]> {
        all(&self.fields, name)
    }

    /// The one Host, if there is one.
    pub fn host(&self) -> &str {
        let host = self.all("host").first().copied().unwrap_or_default();
        std::str::from_utf8(host).unwrap_or_default()
    }

    /// Whether no request follows on this connection. What has no length in HTTP/1.0 may have a body all the same.
    pub fn is_last(&self) -> bool {
        let options = self.all("connection").join(&b","[..]).to_ascii_lowercase();
        let has = |option: &[u8]| {
            options
                .split(|&b| b == b',')
                .any(|o| o.trim_ascii() == option)
        };
        let framed = !self.all("content-length").is_empty();
        let reads = ["GET", "HEAD", "OPTIONS"].contains(&self.method.as_str());
        has(b"close") || (!self.http11 && !(has(b"keep-alive") && (framed || reads)))
    }
}

fn all<'f>(fields: &'f [(String, Vec<u8>)], name: &str) -> Vec<&'f [u8]> {
    let named = fields
        .iter()
        .filter(|(held, _)| held.eq_ignore_ascii_case(name));
    named.map(|(_, value)| value.as_slice()).collect()
}

/// A request with its body.
pub fn request(bytes: &[u8]) -> Reading<Request> {
    let (mut request, head) = match read_head(bytes) {
        Ok(Some(read)) => read,
        Ok(None) => return Reading::Partial,
        Err(why) => return Reading::Broken(why),
    };
    let body = match framing(&request.fields, request.http11) {
        Ok(Some(framing)) => body(framing, &bytes[head..]),
        Ok(None) => Reading::Whole(Body::default(), 0),
        Err(why) => return Reading::Broken(why),
    };
    match body {
        Reading::Whole(body, used) => {
            (request.body, request.adorned) = (body.bytes, body.adorned);
            Reading::Whole(request, head + used)
        }
        Reading::Partial => Reading::Partial,
        Reading::Broken(why) => Reading::Broken(why),
    }
}

fn read_head(bytes: &[u8]) -> Result<Option<(Request, usize)>, String> {
    let Some((line, mut at)) = line(bytes)? else {
        return Ok(None);
    };
    let parts: Vec<&[u8]> = line.split(|&b| b == b' ').collect();
    let &[method, target, version] = parts.as_slice() else {
        return Err("not three parts, one space between".into());
    };
    if method.is_empty() || !method.iter().all(is_token) {
        return Err("the method is no token".into());
    }
    if target.is_empty() || !target.iter().all(u8::is_ascii_graphic) {
        return Err("the target has bytes of no URI".into());
    }
    let http11 = match version {
        b"HTTP/1.1" => true,
        b"HTTP/1.0" => false,
        _ => return Err("the version is neither 1.1 nor 1.0".into()),
    };
    let Some((fields, used)) = fields(&bytes[at..])? else {
        return Ok(None);
    };
    at += used;
    let hosts = all(&fields, "host");
    match hosts.as_slice() {
        [] if !http11 => {}
        [host] if is_host(host) => {}
        _ => return Err(format!("not one proper Host: {}", hosts.len())),
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let request = Request {
        method: text(method),
        target: text(target),
        http11,
        fields,
        body: Vec::new(),
        adorned: false,
    };
    Ok(Some((request, at)))
}

/// An answer as a client gets it.
pub struct Answer {
    pub status: u16,
    pub fields: Vec<(String, Vec<u8>)>,
}

impl Answer {
    pub fn text(&self, name: &str) -> Option<String> {
        let value = all(&self.fields, name).first().copied()?;
        Some(String::from_utf8_lossy(value).into_owned())
    }
}

/// An answer to a request of this method; none if that is not known, and then it is only the head that is read.
pub fn answer(bytes: &[u8], method: Option<&str>, ended: bool) -> Reading<Answer> {
    let (answer, head) = match read_answer_head(bytes) {
        Ok(Some(read)) => read,
        Ok(None) => return Reading::Partial,
        Err(why) => return Reading::Broken(why),
    };
    let framing = match framing(&answer.fields, true) {
        Ok(framing) => framing,
        Err(why) => return Reading::Broken(why),
    };
    let bodiless = answer.status < 200 || matches!(answer.status, 204 | 304);
    let rest = &bytes[head..];
    match (method, framing) {
        (None, _) if !bodiless => Reading::Whole(answer, bytes.len()),
        (Some("HEAD"), _) => Reading::Whole(answer, head),
        _ if bodiless => Reading::Whole(answer, head),
        (_, Some(framing)) => match body(framing, rest) {
            Reading::Whole(_, used) => Reading::Whole(answer, head + used),
            Reading::Partial => Reading::Partial,
            Reading::Broken(why) => Reading::Broken(why),
        },
        (_, None) if ended => Reading::Whole(answer, bytes.len()),
        (_, None) => Reading::Partial,
    }
}

fn read_answer_head(bytes: &[u8]) -> Result<Option<(Answer, usize)>, String> {
    let Some((line, at)) = line(bytes)? else {
        return Ok(None);
    };
    let status = line
        .strip_prefix(b"HTTP/1.1 ")
        .and_then(|rest| rest.get(..3));
    let status = status.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    let status = status.ok_or_else(|| format!("no status line: {}", line.escape_ascii()))?;
    let read = fields(&bytes[at..])?;
    Ok(read.map(|(fields, used)| (Answer { status, fields }, at + used)))
}

/// A line without its CRLF, and where the next one begins.
fn line(bytes: &[u8]) -> Result<Option<(&[u8], usize)>, String> {
    let Some(end) = bytes.iter().position(|&b| b == b'\n') else {
        return Ok(None);
    };
    let line = bytes[..end].strip_suffix(b"\r").ok_or("a bare LF")?;
    if let Some(bad) = line
        .iter()
        .find(|&&b| (b < b' ' && b != b'\t') || b == 0x7f)
    {
        return Err(format!("the byte {bad:#04x} in a line"));
    }
    Ok(Some((line, end + 1)))
}

type Fields = Vec<(String, Vec<u8>)>;

/// Field lines, through the empty line.
fn fields(bytes: &[u8]) -> Result<Option<(Fields, usize)>, String> {
    let (mut fields, mut at) = (Vec::new(), 0);
    while let Some((line, used)) = line(&bytes[at..])? {
        at += used;
        if line.is_empty() {
            return Ok(Some((fields, at)));
        }
        let colon = line
            .iter()
            .position(|&b| b == b':')
            .ok_or("a field without a colon")?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.is_empty() || !name.iter().all(is_token) {
            return Err(format!("no field name: {}", name.escape_ascii()));
        }
        fields.push((String::from_utf8_lossy(name).into_owned(), value.to_vec()));
    }
    Ok(None)
}

#[derive(Clone, Copy)]
enum Framing {
    Length(usize),
    Chunked,
}

fn framing(fields: &[(String, Vec<u8>)], http11: bool) -> Result<Option<Framing>, String> {
    let (lengths, codings) = (
        all(fields, "content-length"),
        all(fields, "transfer-encoding"),
    );
    match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => Ok(None),
        ([length], []) if !length.is_empty() && length.iter().all(u8::is_ascii_digit) => {
            let length = String::from_utf8_lossy(length).parse();
            length
                .map(|length| Some(Framing::Length(length)))
                .map_err(|_| "a length beyond all".into())
        }
        ([], [coding]) if http11 && coding.eq_ignore_ascii_case(b"chunked") => {
            Ok(Some(Framing::Chunked))
        }
        _ => Err("not one framing".into()),
    }
}

#[derive(Default)]
struct Body {
    bytes: Vec<u8>,
    adorned: bool,
}

fn body(framing: Framing, bytes: &[u8]) -> Reading<Body> {
    match framing {
        Framing::Length(length) => match bytes.get(..length) {
            Some(bytes) => Reading::Whole(
                Body {
                    bytes: bytes.to_vec(),
                    adorned: false,
                },
                length,
            ),
            None => Reading::Partial,
        },
        Framing::Chunked => match chunks(bytes) {
            Ok(Some((body, used))) => Reading::Whole(body, used),
            Ok(None) => Reading::Partial,
            Err(why) => Reading::Broken(why),
        },
    }
}

fn chunks(bytes: &[u8]) -> Result<Option<(Body, usize)>, String> {
    let (mut body, mut at) = (Body::default(), 0);
    while let Some((line, used)) = line(&bytes[at..])? {
        at += used;
        let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        let size = std::str::from_utf8(&line[..digits])
            .ok()
            .and_then(|d| usize::from_str_radix(d, 16).ok());
        let size = size.filter(|_| digits <= 16).ok_or("no chunk size")?;
        if !is_extension(&line[digits..]) {
            return Err("no chunk extension".into());
        }
        body.adorned |= digits < line.len();
        if size == 0 {
            let read = fields(&bytes[at..])?;
            return Ok(read.map(|(trailers, used)| {
                body.adorned |= !trailers.is_empty();
                (body, at + used)
            }));
        }
        let Some(data) = bytes.get(at..).and_then(|rest| rest.get(..size)) else {
            return Ok(None);
        };
        body.bytes.extend_from_slice(data);
        at += size;
        match &bytes[at..] {
            [] | [b'\r'] => return Ok(None),
            [b'\r', b'\n', ..] => at += 2,
            _ => return Err("a chunk that does not end in CRLF".into()),
        }
    }
    Ok(None)
}

/// Nothing, or `;` with tokens and quoted strings that are closed.
fn is_extension(bytes: &[u8]) -> bool {
    let (mut quoted, mut escaped) = (false, false);
    for byte in bytes {
        match (quoted, byte) {
            _ if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => quoted = !quoted,
            (true, _) => {}
            (false, b';' | b'=' | b' ' | b'\t') => {}
            (false, byte) if is_token(byte) => {}
            _ => return false,
        }
    }
    !quoted && !escaped && bytes.first().is_none_or(|&b| b == b';')
}

fn is_token(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)
}

fn is_host(host: &[u8]) -> bool {
    !host.is_empty()
        && host
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.:[]".contains(b))
}
