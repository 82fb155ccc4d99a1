//! An agent's own requests to a hub, its rows above all: HTTP/1.1, which costs a hub half of what HTTP/2 would.
//!
//! One connection is open as long as there are requests; one that comes while another is under way opens a
//! second one, so that live rows never wait behind the backlog, and it goes when it has had nothing to do for
//! a while.
//!
//! HTTP/1.1 has no pings. The tunnel to the same hub has: when that is lost, requests that should have been
//! answered by now are given up, and the next ones go over new connections. A connection that dies by itself, while the
//! tunnel lives, is ended by the system ten seconds after it stopped acknowledging ([`crate::connect`]). A proxy acknowledges
//! for a hub that it may have lost: through one, a request that has had no answer for ten seconds is sent once more over a new
//! connection, and the first answer counts. The hub is perhaps only slow, so the first one is not given up for that; what
//! it hears twice it knows (`docs/formats/ship.md`).

use std::pin::pin;
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
    /// Before a request that went through a proxy is sent once more: as long as the system waits without one.
    through_proxy: Duration,
}

const PATIENCE: Patience = Patience {
    usual: Duration::from_secs(60),
    without_tunnel: Duration::from_secs(10),
    through_proxy: Duration::from_secs(10),
};
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
        let exchange = tokio::time::timeout(self.patience.usual, self.answered(path, Bytes::from(body)));
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

    /// The answer; through a proxy the first one of two, when the first request has had none for a while.
    async fn answered(&self, path: &str, body: Bytes) -> Result<Vec<u8>, LineError> {
        let Some(proxy) = self.connector.proxy_of(&self.hub) else { return self.exchange(path, body).await };
        let mut first = pin!(self.exchange(path, body.clone()));
        let patience = self.patience.through_proxy;
        if let Ok(answer) = tokio::time::timeout(patience, &mut first).await {
            return answer;
        }
        tracing::warn!(hub = %self.hub, proxy, path, "no answer in {patience:?}: asking again over a new connection");
        // Those beside it are no better.
        self.idle.lock().clear();
        let mut second = pin!(self.exchange(path, body));
        // Who has said nothing that counts leaves it to the other.
        let is_answer = |said: &Result<_, LineError>| matches!(said, Ok(_) | Err(LineError::Refused { .. }));
        tokio::select! {
            said = &mut first => if is_answer(&said) { said } else { second.await },
            said = &mut second => if is_answer(&said) { said } else { first.await },
        }
    }

    async fn exchange(&self, path: &str, body: Bytes) -> Result<Vec<u8>, LineError> {
        let broken = |what: String| LineError::Broken { url: self.url(path), what };
        let mut open = self.connection().await?;
        let request = Request::post(path).body(Full::new(body));
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
    use crate::connect::{BoxedStream, Connect, Connecting, Proxies};
    use rustls::RootCertStore;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

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
            line.patience = Patience { usual, without_tunnel, ..PATIENCE };
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

    /// What becomes of a connection: seconds after which its requests are answered, none for a dead one; an empty list
    /// for one that is refused.
    type Fate = &'static [Option<u64>];

    /// A network without TLS, which takes the connections that are opened as they come.
    struct Network(Mutex<Vec<Fate>>);

    impl Connect for Network {
        fn connect<'a>(&'a self, host: &'a str, _: u16) -> Connecting<'a> {
            Box::pin(async move {
                let fate = self.0.lock().pop().unwrap_or_default();
                if fate.is_empty() {
                    return Err(std::io::Error::other("nobody there"));
                }
                let (near, far) = tokio::io::duplex(1 << 16);
                tokio::spawn(answer(far, fate, host == "proxy"));
                Ok(Box::new(near) as BoxedStream)
            })
        }

        fn secure<'a>(&'a self, stream: BoxedStream, _: &'a HubUrl, _: Arc<ClientConfig>) -> Connecting<'a> {
            Box::pin(std::future::ready(Ok(stream)))
        }
    }

    /// Reads up to the empty line.
    async fn read_head(stream: &mut tokio::io::DuplexStream) -> std::io::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        Ok(())
    }

    /// Answers as `fate` says; who says nothing goes on acknowledging.
    async fn answer(mut stream: tokio::io::DuplexStream, fate: Fate, is_proxy: bool) -> std::io::Result<()> {
        const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";
        if is_proxy {
            read_head(&mut stream).await?;
            stream.write_all(ESTABLISHED).await?;
        }
        for after in fate {
            read_head(&mut stream).await?;
            stream.read_exact(&mut [0]).await?;
            match after {
                Some(seconds) => tokio::time::sleep(Duration::from_secs(*seconds)).await,
                None => std::future::pending().await,
            }
            stream
                .write_all(
                    format!(
                        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{seconds:02}",
                        seconds = after.unwrap_or_default()
                    )
                    .as_bytes(),
                )
                .await?;
        }
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_died_behind_a_proxy_is_known_in_time() {
        const DEAD: Fate = &[None];
        for (through_proxy, fates, expected, seconds) in [
            // Each connection's fate; the answer to the one request, or what is said of it; when.
            (true, vec![DEAD, &[Some(0)]], Ok("00"), 10),
            (true, vec![&[Some(9)]], Ok("09"), 9),
            // A slow hub is waited for, whatever becomes of the second request.
            (true, vec![&[Some(20)], DEAD], Ok("20"), 20),
            (true, vec![&[Some(20)], &[]], Ok("20"), 20),
            (true, vec![&[Some(50)], &[Some(5)]], Ok("05"), 15),
            (true, vec![DEAD, &[]], Err("gave no answer in 60s"), 60),
            (true, vec![DEAD, DEAD], Err("gave no answer in 60s"), 60),
            // Without a proxy the system ends dead connections.
            (false, vec![&[Some(20)], &[Some(0)]], Ok("20"), 20),
        ] {
            let case = format!("{through_proxy} {fates:?}");
            let proxies =
                if through_proxy { Proxies::configured("http://proxy:3128", "") } else { Proxies::none() };
            let network = Network(Mutex::new(fates.into_iter().rev().collect()));
            let hub = HubUrl::parse("https://hub:9190").expect("a URL");
            let line = Line::new(hub, Connector::over(Arc::new(network), proxies), Arc::new(Anybody));
            let began = Instant::now();
            let said = line.post("/fleet/v1/rows/blocks", vec![1]).await.map_err(|error| error.to_string());
            assert_eq!(began.elapsed().as_secs(), seconds, "{case}");
            match (said, expected) {
                (Ok(body), Ok(expected)) => assert_eq!(body, expected.as_bytes(), "{case}"),
                (Err(error), Err(expected)) => assert!(error.contains(expected), "{case}: {error}"),
                (said, _) => panic!("{case}: {said:?}"),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_lies_idle_beside_a_dead_connection_is_not_used_again() {
        let (alive, dies): (Fate, Fate) = (&[Some(0), Some(0)], &[Some(1), None]);
        let network = Network(Mutex::new(vec![alive, dies, dies]));
        let hub = HubUrl::parse("https://hub:9190").expect("a URL");
        let proxies = Proxies::configured("http://proxy:3128", "");
        let line = Line::new(hub, Connector::over(Arc::new(network), proxies), Arc::new(Anybody));
        let post = || line.post("/fleet/v1/rows/blocks", vec![1]);
        let (one, other) = tokio::join!(post(), post());
        assert!(one.is_ok() && other.is_ok(), "{one:?} {other:?}");
        for seconds in [10, 0] {
            let began = Instant::now();
            let said = post().await;
            assert!(said.is_ok() && began.elapsed().as_secs() == seconds, "{said:?} {:?}", began.elapsed());
        }
    }
}
