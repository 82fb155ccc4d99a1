//! The connections to one hub that rows go home on: HTTP/1.1, which costs a hub half of what HTTP/2 would.
//!
//! One is open as long as rows are sent; the backlog's requests open a second one, so that live blocks never
//! wait behind them, and it goes when it has had nothing to do for a while.
//!
//! HTTP/1.1 has no pings. The tunnel to the same hub has: when that is lost, requests that should have been
//! answered by now are given up, and the next ones go over new connections.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderValue, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use remote::ship::{Outgoing, Request as Asked};
use tokio::sync::watch;
use tokio::time::Instant;
use tunnel::identity::{AgentIdentity, Alpn};
use tunnel::{Connector, HubUrl};

/// How long a hub has for one answer.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// It syncs its disk before it gives one.
    usual: Duration,
    /// When the tunnel to the hub was lost meanwhile: as long as a ping and its answer may take.
    without_tunnel: Duration,
}

/// Source of the shorter one: decision 29.
const PATIENCE: Patience =
    Patience { usual: Duration::from_secs(60), without_tunnel: Duration::from_secs(10) };
/// The largest answer that is read.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// What of an answer is read at once; most are small.
const READ_BUFFER_BYTES: usize = 4 << 10;
/// A connection that has had nothing to do for so long is not used again: what lies between may have
/// forgotten it, and the hub closes it after 90 s.
const IDLE: Duration = Duration::from_secs(20);

type Sender = http1::SendRequest<Full<Bytes>>;

/// The way to one hub.
pub(super) struct Line {
    pub(super) hub: HubUrl,
    connector: Connector,
    identity: Arc<AgentIdentity>,
    patience: Patience,
    /// Changes when the tunnel to the hub is lost.
    tunnel_lost: watch::Sender<()>,
    /// Connections without a request, the one used last at the end.
    idle: Mutex<Vec<Open>>,
}

struct Open {
    sender: Sender,
    /// Of the certificate that it was opened with.
    certificate: u64,
    idle_since: Instant,
}

impl Line {
    pub(super) fn new(hub: HubUrl, connector: Connector, identity: Arc<AgentIdentity>) -> Line {
        Line {
            hub,
            connector,
            identity,
            patience: PATIENCE,
            tunnel_lost: watch::Sender::default(),
            idle: Mutex::default(),
        }
    }

    /// The tunnel to the hub is lost, so the requests under way may be, too.
    pub(super) fn tunnel_lost(&self) {
        self.idle.lock().clear();
        self.tunnel_lost.send_replace(());
    }

    /// Makes a request, and gives the body of its answer.
    ///
    /// # Errors
    /// The hub is not reached, does not answer, or says no: nothing is known of what was sent.
    pub(super) async fn send(&self, outgoing: Outgoing) -> Result<Vec<u8>> {
        let path = match outgoing.request {
            Asked::Hello => "/fleet/v1/rows/hello",
            Asked::Blocks => "/fleet/v1/rows/blocks",
        };
        let exchange = tokio::time::timeout(self.patience.usual, self.exchange(path, outgoing.body));
        tokio::select! {
            answer = exchange => match answer {
                Ok(answer) => answer,
                Err(_) => bail!("{}{path} gave no answer in {:?}", self.hub, self.patience.usual),
            },
            waited = self.given_up() => {
                bail!("{}{path} gave no answer in {waited:?}, and the tunnel was lost", self.hub)
            }
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

    async fn exchange(&self, path: &str, body: Vec<u8>) -> Result<Vec<u8>> {
        let mut open = self.connection().await?;
        let mut request = Request::post(path).body(Full::new(Bytes::from(body)))?;
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert(HOST, HeaderValue::from_str(&self.hub.authority())?);
        let sent = open.sender.send_request(request).await;
        let response = sent.with_context(|| format!("post to {}{path}", self.hub))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| anyhow!("read the answer of {}{path}: {error}", self.hub))?;
        let body = body.to_bytes();
        self.keep(open);
        if !status.is_success() {
            let said = String::from_utf8_lossy(&body[..body.len().min(300)]).trim().to_owned();
            bail!("{}{path} answers {status}: {said}", self.hub);
        }
        Ok(body.into())
    }

    /// A connection without a request, or a new one.
    async fn connection(&self) -> Result<Open> {
        let certificate = *self.identity.changes().borrow();
        loop {
            let kept = self.idle.lock().pop();
            let Some(mut open) = kept else { break };
            let is_good = open.certificate == certificate && open.idle_since.elapsed() < IDLE;
            if is_good && open.sender.ready().await.is_ok() {
                return Ok(open);
            }
        }
        let tls = self.identity.tls().client_config(Alpn::Http1);
        let stream = self.connector.connect(&self.hub, tls).await?;
        let mut builder = http1::Builder::new();
        builder.read_buf_exact_size(Some(READ_BUFFER_BYTES));
        let made = builder.handshake(TokioIo::new(stream)).await;
        let (sender, connection) = made.with_context(|| format!("speak HTTP with {}", self.hub))?;
        let hub = self.hub.clone();
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%hub, %error, "a connection for rows ended");
            }
        });
        Ok(Open { sender, certificate, idle_since: Instant::now() })
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
    use stdx::clock::{Clock, SystemClock};
    use stdx::disk::RealDisk;
    use tunnel::Proxies;

    use super::*;

    #[tokio::test]
    async fn a_hub_that_says_nothing_is_given_up_sooner_without_a_tunnel() {
        let directory = tempfile::tempdir().expect("a directory");
        let clock: Arc<dyn Clock> = SystemClock::shared();
        let identity = AgentIdentity::open(RealDisk::shared(), directory.path(), None, clock);
        let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("https://{}", silent.local_addr().expect("an address"));
        let mut line = Line::new(
            HubUrl::parse(&url).expect("a URL"),
            Connector::new(Proxies::none()),
            Arc::new(identity.expect("an identity")),
        );
        let (short, never) = (Duration::from_millis(100), Duration::from_secs(3600));
        for (is_lost, usual, without_tunnel, expected) in [
            (false, short, never, "gave no answer in 100ms"),
            (true, never, short, "the tunnel was lost"),
            (true, short, never, "gave no answer in 100ms"),
        ] {
            line.patience = Patience { usual, without_tunnel };
            let sent = line.send(Outgoing { id: 1, request: Asked::Hello, body: vec![1] });
            let losing = async {
                if is_lost {
                    line.tunnel_lost();
                }
            };
            let (sent, ()) = tokio::join!(sent, losing);
            let said = sent.expect_err("there is nobody").to_string();
            assert!(said.contains(expected), "{said} and not {expected}");
        }
    }
}
