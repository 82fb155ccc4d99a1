//! HTTP messages inside HTTP bodies: the request that a client gets as the answer to its poll, and the
//! response that it pushes.
//!
//! Clients write responses as Go does: the client's own errors have the status line `HTTP/0.0 500
//! Internal Server Error` and run to the end of the push, targets' answers may be chunked, have a length
//! or run to the end. So the reading is lenient about versions, line ends and odd headers, and strict
//! about bounds.
//!
//! Source: PushProx `cmd/client/main.go`, `cmd/proxy/coordinator.go`; Go `net/http/response.go`,
//! `Response.Write`; RFC 9112.

use bytes::{Buf, Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING};
use http::{StatusCode, Uri};

/// Longest head, bytes.
pub(crate) const HEAD_BYTES_MAX: usize = 64 << 10;
/// Most headers.
const HEADERS_MAX: usize = 256;
/// Longest line of a chunked body that is not data, bytes.
const CHUNK_LINE_BYTES_MAX: usize = 4096;
/// Longest trailer, bytes.
const TRAILER_BYTES_MAX: usize = 16 << 10;

/// A pushed message that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnreadableMessage {
    /// The head does not end.
    #[error("the head has more than {HEAD_BYTES_MAX} bytes")]
    HeadTooLong,
    /// The first line.
    #[error("the first line is not a status line")]
    StatusLine,
    /// A status that ends no exchange.
    #[error("the status is not a final one")]
    Status,
    /// Too many headers.
    #[error("there are more than {HEADERS_MAX} headers")]
    Headers,
    /// `Content-Length` is no number, or several.
    #[error("the content length is not one number")]
    Length,
    /// The chunks of the body.
    #[error("the chunks of the body are malformed")]
    Chunks,
    /// The message ends too early.
    #[error("it ends too early")]
    Short,
}

/// The head of a pushed response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushedHead {
    /// A final status.
    pub status: StatusCode,
    /// All headers that can be passed on.
    pub headers: HeaderMap,
}

impl PushedHead {
    /// Reads a head from the beginning of `bytes`, and takes it off; `None` when it has not ended yet.
    ///
    /// # Errors
    /// See [`UnreadableMessage`].
    pub fn read(bytes: &mut BytesMut) -> Result<Option<PushedHead>, UnreadableMessage> {
        let Some(end) = end_of_head(&bytes[..bytes.len().min(HEAD_BYTES_MAX)]) else {
            return match bytes.len() < HEAD_BYTES_MAX {
                true => Ok(None),
                false => Err(UnreadableMessage::HeadTooLong),
            };
        };
        let head = bytes.split_to(end).freeze();
        let mut lines = head.split(|b| *b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let status = status_line(lines.next().unwrap_or_default())?;
        let mut headers = HeaderMap::new();
        for line in lines.filter(|line| !line.is_empty()) {
            // Old-style continuation lines and what is no header at all are left out.
            let Some(colon) = line.iter().position(|b| *b == b':') else { continue };
            let name = HeaderName::from_bytes(&line[..colon]);
            let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
            let (Ok(name), Ok(value)) = (name, value) else { continue };
            if headers.len() >= HEADERS_MAX {
                return Err(UnreadableMessage::Headers);
            }
            headers.append(name, value);
        }
        Ok(Some(PushedHead { status, headers }))
    }

    /// How the body is framed.
    ///
    /// # Errors
    /// [`UnreadableMessage::Length`].
    pub fn framing(&self) -> Result<Framing, UnreadableMessage> {
        if matches!(self.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            return Ok(Framing::Length(0));
        }
        let encodings = self.headers.get_all(TRANSFER_ENCODING);
        let chunked = |value: &HeaderValue| value.as_bytes().to_ascii_lowercase().ends_with(b"chunked");
        if encodings.iter().any(chunked) {
            return Ok(Framing::Chunked(Chunks::Size));
        }
        let mut lengths = self.headers.get_all(CONTENT_LENGTH).iter();
        let Some(first) = lengths.next() else { return Ok(Framing::ToEnd) };
        if lengths.any(|other| other != first) || !first.as_bytes().iter().all(u8::is_ascii_digit) {
            return Err(UnreadableMessage::Length);
        }
        let length = first.to_str().ok().and_then(|text| text.parse().ok());
        length.map(Framing::Length).ok_or(UnreadableMessage::Length)
    }
}

/// Where the empty line ends.
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let mut line = 0;
    for (at, byte) in bytes.iter().enumerate() {
        if *byte != b'\n' {
            continue;
        }
        if line > 0 && matches!(&bytes[line..at], b"" | b"\r") {
            return Some(at + 1);
        }
        line = at + 1;
    }
    None
}

/// `HTTP/x.y NNN reason`
fn status_line(line: &[u8]) -> Result<StatusCode, UnreadableMessage> {
    let mut words = line.split(|b| *b == b' ').filter(|word| !word.is_empty());
    let version = words.next().and_then(|word| word.strip_prefix(b"HTTP/"));
    let numbers = version.is_some_and(|text| text.iter().all(|b| b.is_ascii_digit() || *b == b'.'));
    let status = words.next().filter(|word| numbers && word.len() == 3);
    let status =
        status.and_then(|word| StatusCode::from_bytes(word).ok()).ok_or(UnreadableMessage::StatusLine)?;
    if status.is_informational() { Err(UnreadableMessage::Status) } else { Ok(status) }
}

/// How a body is framed, and how far it has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// This many bytes are still to come.
    Length(u64),
    /// In chunks.
    Chunked(Chunks),
    /// Up to the end of the push.
    ToEnd,
}

/// Where in a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunks {
    /// Before a line with a size.
    Size,
    /// In a chunk of which this many bytes are still to come.
    Data(u64),
    /// In the line end behind a chunk.
    Behind,
    /// In the trailer, of which this many bytes have been read.
    Trailer(usize),
    /// Behind everything.
    End,
}

impl Framing {
    /// Takes the next piece of the body off `bytes`; `None` when more bytes are needed, or the body has
    /// ended ([`Framing::has_ended`]). A piece is never empty.
    ///
    /// # Errors
    /// [`UnreadableMessage::Chunks`].
    pub fn next(&mut self, bytes: &mut BytesMut) -> Result<Option<Bytes>, UnreadableMessage> {
        match self {
            Framing::ToEnd => Ok(take(bytes, u64::MAX)),
            Framing::Length(left) => {
                let piece = take(bytes, *left);
                *left -= piece.as_ref().map_or(0, |piece| piece.len() as u64);
                Ok(piece)
            }
            Framing::Chunked(chunks) => chunks.next(bytes),
        }
    }

    /// Whether nothing more can come.
    pub fn has_ended(&self) -> bool {
        matches!(self, Framing::Length(0) | Framing::Chunked(Chunks::End))
    }

    /// Whether the body is whole when the push ends here.
    pub fn may_end(&self) -> bool {
        self.has_ended() || matches!(self, Framing::ToEnd)
    }
}

impl Chunks {
    fn next(&mut self, bytes: &mut BytesMut) -> Result<Option<Bytes>, UnreadableMessage> {
        loop {
            match self {
                Chunks::Data(left) => {
                    let Some(piece) = take(bytes, *left) else { return Ok(None) };
                    *left -= piece.len() as u64;
                    if *left == 0 {
                        *self = Chunks::Behind;
                    }
                    return Ok(Some(piece));
                }
                Chunks::End => return Ok(None),
                Chunks::Size | Chunks::Behind | Chunks::Trailer(_) => {
                    let Some(line) = take_line(bytes)? else { return Ok(None) };
                    *self = self.after(&line)?;
                }
            }
        }
    }

    /// Where things stand after a line that is not data.
    fn after(self, line: &[u8]) -> Result<Chunks, UnreadableMessage> {
        match self {
            Chunks::Size => match chunk_size(line).ok_or(UnreadableMessage::Chunks)? {
                0 => Ok(Chunks::Trailer(0)),
                size => Ok(Chunks::Data(size)),
            },
            Chunks::Behind if line.is_empty() => Ok(Chunks::Size),
            Chunks::Trailer(_) if line.is_empty() => Ok(Chunks::End),
            Chunks::Trailer(read) if read + line.len() < TRAILER_BYTES_MAX => {
                Ok(Chunks::Trailer(read + line.len() + 1))
            }
            _ => Err(UnreadableMessage::Chunks),
        }
    }
}

/// At most `most` bytes off the front; `None` for none.
fn take(bytes: &mut BytesMut, most: u64) -> Option<Bytes> {
    let length = bytes.len().min(usize::try_from(most).unwrap_or(usize::MAX));
    (length > 0).then(|| bytes.split_to(length).freeze())
}

/// A line off the front, without its end.
fn take_line(bytes: &mut BytesMut) -> Result<Option<Bytes>, UnreadableMessage> {
    let Some(end) = bytes.iter().take(CHUNK_LINE_BYTES_MAX).position(|b| *b == b'\n') else {
        return match bytes.len() < CHUNK_LINE_BYTES_MAX {
            true => Ok(None),
            false => Err(UnreadableMessage::Chunks),
        };
    };
    let mut line = bytes.split_to(end).freeze();
    bytes.advance(1);
    if line.ends_with(b"\r") {
        line.truncate(line.len() - 1);
    }
    Ok(Some(line))
}

fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.split(|b| *b == b';').next()?.trim_ascii();
    let text = std::str::from_utf8(digits).ok().filter(|text| !text.is_empty() && text.len() <= 16)?;
    if !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u64::from_str_radix(text, 16).ok()
}

/// The request as a client reads it: in absolute form, to `host` under the name that the client gave
/// itself.
pub(crate) fn write_request(host: &str, uri: &Uri, headers: &HeaderMap) -> Bytes {
    let mut out = BytesMut::with_capacity(512);
    // An address of version 6 stands in brackets in URLs, and bare in a client's `--fqdn`.
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let authority = match uri.port_u16() {
        Some(port) => format!("{host}:{port}"),
        None => host,
    };
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    for part in ["GET http://", &authority, path, " HTTP/1.1\r\nHost: ", &authority, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    for (name, value) in headers.iter().filter(|(name, _)| *name != http::header::HOST) {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
    out.extend_from_slice(b"\r\n");
    out.freeze()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Status, one header and the body of a message that arrives in pieces of `size` bytes.
    fn read(message: &[u8], size: usize) -> Result<(u16, Option<String>, Vec<u8>), UnreadableMessage> {
        let mut bytes = BytesMut::new();
        let mut pieces = message.chunks(size.max(1));
        let head = loop {
            if let Some(head) = PushedHead::read(&mut bytes)? {
                break head;
            }
            bytes.extend_from_slice(pieces.next().ok_or(UnreadableMessage::Short)?);
        };
        let mut framing = head.framing()?;
        let mut body = Vec::new();
        loop {
            while let Some(piece) = framing.next(&mut bytes)? {
                body.extend_from_slice(&piece);
            }
            match pieces.next() {
                Some(more) if !framing.has_ended() => bytes.extend_from_slice(more),
                _ => break,
            }
        }
        if !framing.may_end() {
            return Err(UnreadableMessage::Short);
        }
        let id = head.headers.get("id").and_then(|id| id.to_str().ok()).map(str::to_owned);
        Ok((head.status.as_u16(), id, body))
    }

    /// A message, and what is read of it: status, id, body.
    type Case = (&'static str, Result<(u16, Option<String>, &'static str), UnreadableMessage>);

    #[test]
    fn messages_as_clients_write_them() {
        use UnreadableMessage as E;
        let id = |text: &str| Some(text.to_owned());
        let cases: Vec<Case> = vec![
            ("HTTP/1.1 200 OK\r\nId: 7\r\nContent-Length: 2\r\n\r\nup", Ok((200, id("7"), "up"))),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nupside", Ok((200, None, "up"))),
            (
                "HTTP/0.0 500 Internal Server Error\r\nId: 7\r\n\r\nscrape target doesn't match client fqdn",
                Ok((500, id("7"), "scrape target doesn't match client fqdn")),
            ),
            (
                "HTTP/2.0 200 OK\r\nTransfer-Encoding: chunked\r\nId: 7\r\n\r\n3;x=y\r\nfoo\r\n10 \r\n0123456789abcdef\r\n0\r\nX: y\r\n\r\n",
                Ok((200, id("7"), "foo0123456789abcdef")),
            ),
            ("HTTP/1.1 503\nid: 7\n\nno", Ok((503, id("7"), "no"))),
            ("HTTP/1.1 204 No Content\r\n\r\nstray", Ok((204, None, ""))),
            ("HTTP/1.1 200 OK\r\nodd\r\n folded\r\nBad Name: x\r\nId: 7\r\n\r\n", Ok((200, id("7"), ""))),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nup", Ok((200, None, "up"))),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nup", Err(E::Length)),
            ("HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nup", Err(E::Length)),
            ("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nup", Err(E::Length)),
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nup", Err(E::Short)),
            ("HTTP/1.1 200 OK\r\nId: 7\r\n", Err(E::Short)),
            ("HTTP/1.1 100 Continue\r\n\r\n", Err(E::Status)),
            ("HTTP/1.1 20 OK\r\n\r\n", Err(E::StatusLine)),
            ("GET / HTTP/1.1\r\n\r\n", Err(E::StatusLine)),
            ("\r\n\r\n", Err(E::StatusLine)),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", Err(E::Chunks)),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nfooo\r\n", Err(E::Chunks)),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nfoo\r\n", Err(E::Short)),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n", Err(E::Chunks)),
        ];
        for (message, expected) in cases {
            let expected = expected.map(|(status, id, body)| (status, id, body.as_bytes().to_vec()));
            for size in [1, 2, 7, 1000] {
                assert_eq!(read(message.as_bytes(), size), expected, "{message:?} by {size}");
            }
        }
    }

    #[test]
    fn what_does_not_end_is_refused() {
        let filler = "a".repeat(HEAD_BYTES_MAX);
        let head = format!("HTTP/1.1 200 OK\r\nX: {filler}");
        assert_eq!(read(head.as_bytes(), 1000), Err(UnreadableMessage::HeadTooLong));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(HEADERS_MAX + 1));
        assert_eq!(read(many.as_bytes(), 1000), Err(UnreadableMessage::Headers));
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        for rest in [filler.clone(), format!("0\r\n{}", "x: y\r\n".repeat(TRAILER_BYTES_MAX))] {
            assert_eq!(read(format!("{chunked}{rest}").as_bytes(), 1000), Err(UnreadableMessage::Chunks));
        }
    }

    #[test]
    fn requests_as_clients_read_them() {
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("elsewhere"));
        headers.insert("accept", HeaderValue::from_static("text/plain"));
        headers.insert("id", HeaderValue::from_static("7"));
        for (host, uri, line) in [
            ("DB1.lan", "http://db1.lan:9100/metrics?x=1", "http://DB1.lan:9100/metrics?x=1"),
            ("db1", "http://db1", "http://db1/"),
            ("fe80::1", "http://[fe80::1]:80/m", "http://[fe80::1]:80/m"),
        ] {
            let uri: Uri = uri.parse().expect("a URI");
            let text = String::from_utf8(write_request(host, &uri, &headers).to_vec()).expect("text");
            let authority =
                line.strip_prefix("http://").and_then(|rest| rest.split('/').next()).unwrap_or("");
            let expected =
                format!("GET {line} HTTP/1.1\r\nHost: {authority}\r\naccept: text/plain\r\nid: 7\r\n\r\n");
            assert_eq!(text, expected);
        }
    }

    proptest! {
        #[test]
        fn borders_between_pieces_do_not_matter(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..6),
            cut in any::<proptest::sample::Index>(),
            size in 1usize..60,
        ) {
            let mut message = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            for chunk in &chunks {
                message.extend_from_slice(format!("{:X}\r\n", chunk.len()).as_bytes());
                message.extend_from_slice(chunk);
                message.extend_from_slice(b"\r\n");
            }
            message.extend_from_slice(b"0\r\n\r\n");
            prop_assert_eq!(read(&message, size), Ok((200, None, chunks.concat())));
            let cut = &message[..cut.index(message.len())];
            prop_assert_eq!(read(cut, size), read(cut, message.len()));
        }
    }
}
