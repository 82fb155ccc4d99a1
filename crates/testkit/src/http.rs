//! A small HTTP client for tests: one request, one connection, the whole answer in memory.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Longest any test request may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// JSON of any shape.
pub type Json = serde_json::Value;

/// Reads JSON.
///
/// # Errors
/// It is none; the error shows it.
pub fn json(bytes: &[u8]) -> Result<Json> {
    serde_json::from_slice(bytes).with_context(|| format!("not JSON: {}", String::from_utf8_lossy(bytes)))
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// The whole body, as it came.
    pub body: Bytes,
}

impl Answer {
    /// The body as text; invalid UTF-8 replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// The body is not JSON; the error shows it.
    pub fn json(&self) -> Result<Json> {
        json(&self.body)
    }
}

/// Sends one request to `addr`.
///
/// # Errors
/// Connecting, sending or receiving failed, or took over a minute.
pub async fn send(addr: SocketAddr, request: Request<Full<Bytes>>) -> Result<Answer> {
    let exchange = async {
        let stream = TcpStream::connect(addr).await.with_context(|| format!("connect to {addr}"))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let response = sender.send_request(request).await?;
        let (head, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        driver.abort();
        Ok(Answer { status: head.status, headers: head.headers, body })
    };
    tokio::time::timeout(DEADLINE, exchange)
        .await
        .with_context(|| format!("no answer from {addr} in time"))?
}

/// `GET path`.
///
/// # Errors
/// See [`send`].
pub async fn get(addr: SocketAddr, path: &str) -> Result<Answer> {
    let request = Request::builder().uri(path).header("host", addr.to_string()).body(Full::default())?;
    send(addr, request).await
}

/// `GET path` with a bearer token.
///
/// # Errors
/// See [`send`].
pub async fn get_as(addr: SocketAddr, token: &str, path: &str) -> Result<Answer> {
    let request = Request::builder()
        .uri(path)
        .header("host", addr.to_string())
        .header("authorization", format!("Bearer {token}"))
        .body(Full::default())?;
    send(addr, request).await
}

/// `POST path` with a body of `content_type`.
///
/// # Errors
/// See [`send`].
pub async fn post(
    addr: SocketAddr,
    path: &str,
    content_type: &str,
    body: impl Into<Bytes>,
) -> Result<Answer> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header("host", addr.to_string())
        .header("content-type", content_type)
        .body(Full::new(body.into()))?;
    send(addr, request).await
}

/// Escapes `text` for a query string.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 3);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
