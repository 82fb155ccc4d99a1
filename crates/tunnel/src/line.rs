//! An agent's own requests to a hub, its rows above all: HTTP/1.1, which costs a hub half of what HTTP/2 would.
//!
//! One connection is open as long as there are requests; one that comes while another is under way opens a
//! second one, so that live rows never wait behind the backlog, and it goes when it has had nothing to do for
//! a while.
//!
//! HTTP/1.1 has no pings. The tunnel to the same hub has: when that is lost, requests that should have been
//! answered by now are given up, and the next ones go over new connections. A connection that dies by itself, while the
//! tunnel lives, is ended by the system ten seconds after it stopped acknowledging ([`crate::connect`]); through a proxy, which
//! acknowledges for a hub it may have lost, a request is given up after a minute.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::ClientConfig;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::connect::{ConnectError, Connector, HubUrl};
use crate::dial::chain;
use crate::identity::{AgentIdentity, Alpn};

/// How long a hub has for one answer.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// It syncs its disk before it gives one.
    usual: Duration,
    /// When the tunnel to the hub was lost meanwhile: as long as a ping and its answer may take.
    without_tunnel: Duration,
}

const PATIENCE: Patience =
    Patience { usual: Duration::from_secs(60), without_tunnel: Duration::from_secs(10) };
/// How long it may take to get a connection: TLS included, as for a tunnel.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// The largest answer that is read.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// What of an answer is read at once; most are small.
const READ_BUFFER_BYTES: usize = 4 << 10;
/// What is shown of a refusal, bytes.
const REFUSAL_BYTES_MAX: usize = 300;
/// A connection that has had nothing to do for so long is not used again: what lies between may have
/// forgotten it, and the hub closes it after 90 s.
const IDLE: Duration = Duration::from_secs(20);

/// Who calls.
pub trait Caller: Send + Sync {
    /// Changes with the certificate: a connection that shows another is not used any more.
    fn certificate(&self) -> u64;

    /// TLS for HTTP/1.1 with that certificate.
    fn tls(&self) -> Arc<ClientConfig>;
}

impl Caller for AgentIdentity {
    fn certificate(&self) -> u64 {
        *self.changes().borrow()
    }

    fn tls(&self) -> Arc<ClientConfig> {
        AgentIdentity::tls(self).client_config(Alpn::Http1)
    }
}

/// Why a request got no answer. Whether the hub saw it is not known, but for a refusal.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// The hub was not reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// No answer in time.
    #[error("{url} gave no answer in {waited:?}{}", if *tunnel_lost { ", and the tunnel was lost" } else { "" })]
    Late {
        /// What was asked.
        url: String,
        /// For how long.
        waited: Duration,
        /// Whether it was given up because the tunnel to the hub is gone.
        tunnel_lost: bool,
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

/// The way to one hub.
pub struct Line {
    hub: HubUrl,
    connector: Connector,
    caller: Arc<dyn Caller>,
    patience: Patience,
    /// Changes when the tunnel to the hub is lost.
    tunnel_lost: watch::Sender<()>,
    /// Connections without a request, the one used last at the end.
    idle: Mutex<Vec<Open>>,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Line({})", self.hub)
    }
}

struct Open {
    sender: http1::SendRequest<Full<Bytes>>,
    /// Of the certificate that it was opened with.
    certificate: u64,
    idle_since: Instant,
}

impl Line {
    /// Opened with the first request.
    pub fn new(hub: HubUrl, connector: Connector, caller: Arc<dyn Caller>) -> Line {
        let (tunnel_lost, idle) = (watch::Sender::default(), Mutex::default());
        Line { hub, connector, caller, patience: PATIENCE, tunnel_lost, idle }
    }

    /// Which hub.
    pub fn hub(&self) -> &HubUrl {
        &self.hub
    }

    /// The tunnel to the hub is lost, so the requests under way may be, too.
    pub fn tunnel_lost(&self) {
        self.idle.lock().clear();
        self.tunnel_lost.send_replace(());
    }

    /// Posts `body` to `path` and gives the answer of at most 4 MiB. Requests at the same time have connections
    /// of their own.
    ///
    /// # Errors
    /// [`LineError`]; after a minute at the latest.
    pub async fn post(&self, path: &str, body: Vec<u8>) -> Result<Vec<u8>, LineError> {
        let late = |waited, tunnel_lost| LineError::Late { url: self.url(path), waited, tunnel_lost };
        let exchange = tokio::time::timeout(self.patience.usual, self.exchange(path, body));
        tokio::select! {
            biased;
            answer = exchange => answer.unwrap_or_else(|_| Err(late(self.patience.usual, false))),
            waited = self.given_up() => Err(late(waited, true)),
        }
    }

    /// Ends when the tunnel has been lost and a request that begins now should have been answered.
    async fn given_up(&self) -> Duration {
        let began = Instant::now();
        // The sender of changes is ours.
        _ = self.tunnel_lost.subscribe().changed().await;
        tokio::time::sleep_until(began + self.patience.without_tunnel).await;
        began.elapsed()
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.hub)
    }

    async fn exchange(&self, path: &str, body: Vec<u8>) -> Result<Vec<u8>, LineError> {
        let broken = |what: String| LineError::Broken { url: self.url(path), what };
        let mut open = self.connection().await?;
        let request = Request::post(path).body(Full::new(Bytes::from(body)));
        let mut request = request.map_err(|error| broken(error.to_string()))?;
        let host = HeaderValue::from_str(&self.hub.authority()).map_err(|error| broken(error.to_string()))?;
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert(HOST, host);
        let response = open.sender.send_request(request).await.map_err(|error| broken(chain(&error)))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| broken(format!("read the answer: {error}")))?.to_bytes();
        self.keep(open);
        if !status.is_success() {
            let said = String::from_utf8_lossy(&body[..body.len().min(REFUSAL_BYTES_MAX)]).trim().to_owned();
            return Err(LineError::Refused { url: self.url(path), status, said });
        }
        Ok(body.into())
    }

    /// A connection without a request that shows the right certificate, or a new one.
    async fn connection(&self) -> Result<Open, LineError> {
        let certificate = self.caller.certificate();
        loop {
            let kept = self.idle.lock().pop();
            let Some(mut open) = kept else { break };
            let is_good = open.certificate == certificate && open.idle_since.elapsed() < IDLE;
            if is_good && open.sender.ready().await.is_ok() {
                return Ok(open);
            }
        }
        let opened = tokio::time::timeout(CONNECT_PATIENCE, self.connect()).await;
        let late = |_| ConnectError::Timeout {
            hub: self.hub.authority(),
            after: CONNECT_PATIENCE,
            phase: "connecting",
        };
        Ok(Open { sender: opened.map_err(late)??, certificate, idle_since: Instant::now() })
    }

    async fn connect(&self) -> Result<http1::SendRequest<Full<Bytes>>, LineError> {
        let stream = self.connector.connect(&self.hub, self.caller.tls()).await?;
        let mut builder = http1::Builder::new();
        builder.read_buf_exact_size(Some(READ_BUFFER_BYTES));
        let made = builder.handshake(TokioIo::new(stream)).await;
        let (sender, connection) =
            made.map_err(|error| LineError::Broken { url: self.url(""), what: chain(&error) })?;
        let hub = self.hub.clone();
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%hub, %error, "a connection for rows ended");
            }
        });
        Ok(sender)
    }

    /// Keeps a connection for the next request, and lets go of those that nobody has needed.
    fn keep(&self, open: Open) {
        let mut idle = self.idle.lock();
        idle.retain(|open| open.idle_since.elapsed() < IDLE);
        idle.push(Open { idle_since: Instant::now(), ..open });
    }
}

#[cfg(test)]
mod tests {
    use crate::connect::Proxies;
    use rustls::RootCertStore;

    use super::*;

    /// Nobody asks who it is.
    struct Anybody;

    impl Caller for Anybody {
        fn certificate(&self) -> u64 {
            0
        }

        fn tls(&self) -> Arc<ClientConfig> {
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
            let config = config.expect("versions").with_root_certificates(RootCertStore::empty());
            Arc::new(config.with_no_client_auth())
        }
    }

    #[tokio::test]
    async fn a_hub_that_says_nothing_is_given_up_sooner_without_a_tunnel() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("https://{}", silent.local_addr().expect("an address"));
        let hub = HubUrl::parse(&url).expect("a URL");
        let mut line = Line::new(hub, Connector::new(Proxies::none()), Arc::new(Anybody));
        let (short, never) = (Duration::from_millis(100), Duration::from_secs(3600));
        for (is_lost, usual, without_tunnel, expected) in [
            (false, short, never, "gave no answer in 100ms"),
            (true, never, short, "the tunnel was lost"),
            (true, short, never, "gave no answer in 100ms"),
        ] {
            line.patience = Patience { usual, without_tunnel };
            let losing = async {
                if is_lost {
                    line.tunnel_lost();
                }
            };
            let (sent, ()) = tokio::join!(line.post("/fleet/v1/rows/hello", vec![1]), losing);
            let said = sent.expect_err("there is nobody").to_string();
            assert!(said.contains(expected), "{said} and not {expected}");
        }
    }
}
