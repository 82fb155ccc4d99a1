//! What passes through the proxy: answers that PushProx clients push, and host names of targets.

use bytes::BytesMut;
use proxy::{PushedHead, names};

/// What is read of a push: status, number of headers, body. An error as text.
type Reading = Result<(u16, usize, Vec<u8>), String>;

/// A pushed answer means the same however it is cut up on its way; the first byte says into what pieces.
pub(crate) fn push(bytes: &[u8]) {
    let Some((first, message)) = bytes.split_first() else { return };
    let whole = read_push(message, message.len().max(1));
    let pieces = read_push(message, 1 + usize::from(*first % 64));
    assert_eq!(whole, pieces);
    if let Ok((_, _, body)) = whole {
        assert!(body.len() <= message.len(), "a body longer than its push");
    }
}

fn read_push(message: &[u8], size: usize) -> Reading {
    let told = |error: proxy::UnreadableMessage| error.to_string();
    let mut bytes = BytesMut::new();
    let mut pieces = message.chunks(size);
    let head = loop {
        if let Some(head) = PushedHead::read(&mut bytes).map_err(told)? {
            break head;
        }
        bytes.extend_from_slice(pieces.next().ok_or("no end of the head")?);
    };
    let mut framing = head.framing().map_err(told)?;
    let mut body = Vec::new();
    loop {
        while let Some(piece) = framing.next(&mut bytes).map_err(told)? {
            assert!(!piece.is_empty(), "an empty piece");
            body.extend_from_slice(&piece);
        }
        if framing.has_ended() {
            break;
        }
        match pieces.next() {
            Some(more) => bytes.extend_from_slice(more),
            None if framing.may_end() => break,
            None => return Err("no end of the body".to_owned()),
        }
    }
    Ok((head.status.as_u16(), head.headers.len(), body))
}

pub(crate) fn push_seeds() -> Vec<Vec<u8>> {
    let messages: [&[u8]; 4] = [
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nId: 7\r\nContent-Length: 5\r\n\r\nup 1\n",
        b"HTTP/0.0 500 Internal Server Error\r\nId: 7\r\n\r\nscrape target doesn't match client fqdn",
        b"HTTP/2.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nup \r\n2\r\n1\n\r\n0\r\nX: y\r\n\r\n",
        b"HTTP/1.1 503\nid: 7\n\nno",
    ];
    messages.iter().map(|message| [&b"\x06"[..], message].concat()).collect()
}

/// A host name that is read is the one that is written, and a name survives being one.
pub(crate) fn hosts(bytes: &[u8]) {
    const SUFFIX: &str = "marigraph.internal";
    let text = String::from_utf8_lossy(bytes);
    let host = format!("{text}.{SUFFIX}");
    if let Some((target, cluster)) = names::parse_target_host(&host, SUFFIX) {
        assert_eq!(names::target_host(&target, &cluster, SUFFIX), host.to_ascii_lowercase());
    }
    if !text.is_empty() {
        assert_eq!(names::decode(&names::encode(&text)).as_deref(), Some(&*text));
    }
}

pub(crate) fn host_seeds() -> Vec<Vec<u8>> {
    let hosts = ["0a7f.north", "0a7f.mg---4eorth", "mg--a-2eb.mg--a.mc--b", "North.1"];
    hosts.iter().map(|host| host.as_bytes().to_vec()).collect()
}
