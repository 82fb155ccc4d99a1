//! One attempt at a tunnel, and its life when it comes about.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, UPGRADE as UPGRADE_HEADER};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::Dialled;
use crate::connect::{BoxedStream, ConnectError};
use crate::protocol::{INCARNATION, KIND, Kind, STARTED_MS, TIME_MS, TUNNEL_PATH, UPGRADE, VERSION};

/// How much of a hub's refusal is read.
const REFUSAL_BYTES_MAX: usize = 1 << 10;
/// The largest head of a hub's answer.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The hub was not reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The hub was reached and says no.
    #[error("{hub} refuses the tunnel: {status}{reason}")]
    Refused {
        /// The hub, `host:port`.
        hub: String,
        /// Its answer.
        status: StatusCode,
        /// What it says, with `: ` before it; may be empty.
        reason: String,
    },
    /// Something answers that is no hub, or the connection broke off.
    #[error("ask {hub} for a tunnel: {what}")]
    Protocol {
        /// The hub, `host:port`.
        hub: String,
        /// What happened.
        what: String,
    },
}

/// Connects to the hub and asks for a tunnel.
pub(super) async fn open(
    dialled: &Dialled,
    tls: Arc<ClientConfig>,
    kind: Kind,
) -> Result<Upgraded, DialError> {
    let after = dialled.timings.connect_timeout;
    let deadline = Instant::now() + after;
    let timeout = |phase| ConnectError::Timeout { hub: dialled.hub.authority(), after, phase };
    let stream = timeout_at(deadline, dialled.connector.connect(&dialled.hub, tls)).await;
    let stream = stream.map_err(|_| timeout("connecting"))??;
    let asked = timeout_at(deadline, ask(dialled, stream, kind)).await;
    asked.map_err(|_| timeout("asking for a tunnel"))?
}

async fn ask(dialled: &Dialled, stream: BoxedStream, kind: Kind) -> Result<Upgraded, DialError> {
    let hub = dialled.hub.authority();
    let broken =
        &|error: hyper::Error| DialError::Protocol { hub: hub.clone(), what: crate::dial::chain(&error) };
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_BYTES_MAX);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // Given up, it must not wait for what cannot be sent.
    let _driving = AbortOnDropHandle::new(tokio::spawn(connection.with_upgrades()));
    let sent_ms = dialled.state.now_ms();
    let sent = Instant::now();
    let answer = sender.send_request(request(dialled, kind, sent_ms)).await;
    let answer = answer.map_err(broken);
    match answer {
        Ok(answer) if answer.status() == StatusCode::SWITCHING_PROTOCOLS => {
            if answer.headers().get(UPGRADE_HEADER).is_none_or(|to| to.as_bytes() != UPGRADE.as_bytes()) {
                let what = "the connection is switched to something else".to_owned();
                return Err(DialError::Protocol { hub, what });
            }
            dialled.state.hub_time(sent_ms, sent.elapsed(), answer.headers());
            hyper::upgrade::on(answer).await.map_err(broken)
        }
        Ok(answer) => {
            let status = answer.status();
            Err(DialError::Refused { hub: hub.clone(), status, reason: reason(answer).await })
        }
        Err(error) => Err(error),
    }
}

fn request(dialled: &Dialled, kind: Kind, now_ms: i64) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = http::Uri::from_static(TUNNEL_PATH);
    let headers = request.headers_mut();
    let host = HeaderValue::from_str(&dialled.hub.authority());
    headers.insert(HOST, host.unwrap_or(HeaderValue::from_static("hub")));
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE_HEADER, HeaderValue::from_static(UPGRADE));
    headers.insert(KIND, HeaderValue::from_static(kind.as_str()));
    headers.insert(TIME_MS, HeaderValue::from(now_ms));
    headers.insert(STARTED_MS, HeaderValue::from(dialled.hello.started_ms));
    if let Ok(version) = HeaderValue::from_str(&dialled.hello.version) {
        headers.insert(VERSION, version);
    }
    if let Ok(incarnation) = HeaderValue::from_str(&dialled.hello.incarnation)
        && !incarnation.is_empty()
    {
        headers.insert(INCARNATION, incarnation);
    }
    request
}

/// The text of a refusal, for the error.
async fn reason(answer: Response<Incoming>) -> String {
    let body = Limited::new(answer.into_body(), REFUSAL_BYTES_MAX).collect();
    match tokio::time::timeout(Duration::from_secs(1), body).await {
        Ok(Ok(body)) => {
            let text = String::from_utf8_lossy(&body.to_bytes()).trim().to_owned();
            if text.is_empty() { text } else { format!(": {text}") }
        }
        _ => String::new(),
    }
}
