//! An agent's own requests to a hub: one HTTP/2 connection, opened when it is needed and again when it is gone.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use tokio::sync::Mutex;

use crate::connect::{ConnectError, Connector, HubUrl};
use crate::dial::chain;
use crate::identity::{AgentIdentity, Alpn};

/// How long a hub has for one answer; it syncs its disk before it gives one.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it may take to get a connection: TLS included, as for a tunnel.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// The largest answer that is read.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// What is shown of a refusal, bytes.
const REFUSAL_BYTES_MAX: usize = 300;
/// Silence after which a hub is asked for a sign of life, and how long it has to give one. Source:
/// decision 29.
const PING: Duration = Duration::from_secs(5);
/// Bytes of answers that may be on their way: they are small.
const WINDOW: u32 = 256 << 10;

/// Who calls.
pub trait Caller: Send + Sync {
    /// Changes with the certificate: a connection that shows another is not used any more.
    fn certificate(&self) -> u64;

    /// TLS for HTTP/2 with that certificate.
    fn tls(&self) -> Arc<ClientConfig>;
}

impl Caller for AgentIdentity {
    fn certificate(&self) -> u64 {
        *self.changes().borrow()
    }

    fn tls(&self) -> Arc<ClientConfig> {
        AgentIdentity::tls(self).client_config(Alpn::Http2)
    }
}

/// Why a request got no answer. Whether the hub saw it is not known, but for a refusal.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// The hub was not reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// No answer in time.
    #[error("{url} gave no answer in {PATIENCE:?}")]
    Late {
        /// What was asked.
        url: String,
    },
    /// The connection broke, or the answer is too large.
    #[error("post to {url}: {what}")]
    Broken {
        /// What was asked.
        url: String,
        /// How.
        what: String,
    },
    /// The hub says no.
    #[error("{url} answers {status}: {said}")]
    Refused {
        /// What was asked.
        url: String,
        /// Its answer.
        status: StatusCode,
        /// The beginning of what it says.
        said: String,
    },
}

/// The connection to one hub.
pub struct Line {
    hub: HubUrl,
    connector: Connector,
    caller: Arc<dyn Caller>,
    open: Mutex<Option<Open>>,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Line({})", self.hub)
    }
}

struct Open {
    sender: http2::SendRequest<Full<Bytes>>,
    certificate: u64,
}

impl Line {
    /// Opened with the first request.
    pub fn new(hub: HubUrl, connector: Connector, caller: Arc<dyn Caller>) -> Line {
        Line { hub, connector, caller, open: Mutex::default() }
    }

    /// Which hub.
    pub fn hub(&self) -> &HubUrl {
        &self.hub
    }

    /// Posts `body` to `path` and gives the answer of at most 4 MiB; several at once share the connection.
    ///
    /// # Errors
    /// [`LineError`]; after a minute at the latest.
    pub async fn post(&self, path: &str, body: Vec<u8>) -> Result<Vec<u8>, LineError> {
        match tokio::time::timeout(PATIENCE, self.exchange(path, body)).await {
            Ok(answer) => answer,
            Err(_) => {
                *self.open.lock().await = None;
                Err(LineError::Late { url: self.url(path) })
            }
        }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.hub)
    }

    async fn exchange(&self, path: &str, body: Vec<u8>) -> Result<Vec<u8>, LineError> {
        let broken = |what: String| LineError::Broken { url: self.url(path), what };
        let mut sender = self.connection().await?;
        let request = Request::post(self.url(path)).body(Full::new(Bytes::from(body)));
        let mut request = request.map_err(|error| broken(error.to_string()))?;
        let host = HeaderValue::from_str(&self.hub.authority()).map_err(|error| broken(error.to_string()))?;
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert(HOST, host);
        let response = sender.send_request(request).await.map_err(|error| broken(chain(&error)))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| broken(format!("read the answer: {error}")))?.to_bytes();
        if !status.is_success() {
            let said = String::from_utf8_lossy(&body[..body.len().min(REFUSAL_BYTES_MAX)]).trim().to_owned();
            return Err(LineError::Refused { url: self.url(path), status, said });
        }
        Ok(body.into())
    }

    /// The open connection, or a new one where it is gone or shows an old certificate.
    async fn connection(&self) -> Result<http2::SendRequest<Full<Bytes>>, LineError> {
        let mut open = self.open.lock().await;
        let certificate = self.caller.certificate();
        if let Some(there) = &*open
            && there.certificate == certificate
            && !there.sender.is_closed()
        {
            return Ok(there.sender.clone());
        }
        let opened = tokio::time::timeout(CONNECT_PATIENCE, self.connect()).await;
        let late = |_| ConnectError::Timeout {
            hub: self.hub.authority(),
            after: CONNECT_PATIENCE,
            phase: "connecting",
        };
        let sender = opened.map_err(late)??;
        *open = Some(Open { sender: sender.clone(), certificate });
        Ok(sender)
    }

    async fn connect(&self) -> Result<http2::SendRequest<Full<Bytes>>, LineError> {
        let stream = self.connector.connect(&self.hub, self.caller.tls()).await?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| LineError::Broken { url: self.url(""), what: chain(&error) })?;
        let hub = self.hub.clone();
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%hub, %error, "the connection for rows ended");
            }
        });
        Ok(sender)
    }
}
