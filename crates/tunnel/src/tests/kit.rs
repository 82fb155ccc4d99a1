//! A CA, a hub and agents for tests.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use stdx::clock::{Clock, SystemClock};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::agents::{AgentKey, Agents, To};
use crate::connect::{BoxedStream, Connect, Connector, HubUrl, Proxies};
use crate::dial::{DialConfig, Hello, Tunnels};
use crate::identity::PeerIdentity;
use crate::protocol::{Body, TUNNEL_PATH, Timings};
use crate::serve::Handler;

/// A certificate authority.
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
}

impl Ca {
    pub(crate) fn new() -> Ca {
        _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let root = params.self_signed(&key).expect("a root").der().clone();
        Ca { issuer: Issuer::new(params, key), root }
    }

    fn issue(
        &self,
        uri: Option<&str>,
        expired: bool,
    ) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let names = vec!["hub".to_owned(), "localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).expect("parameters");
        if let Some(uri) = uri {
            let uri = format!("marigraph://agent/{uri}").try_into().expect("ASCII");
            params.subject_alt_names.push(SanType::URI(uri));
        }
        if expired {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2020, 2, 1);
        }
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate").der().clone();
        (vec![certificate], PrivateKeyDer::try_from(key.serialize_der()).expect("a key"))
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).expect("a root");
        roots
    }

    /// TLS of a hub that wants certificates of this CA.
    pub(crate) fn hub(&self) -> Arc<ServerConfig> {
        let verifier = WebPkiClientVerifier::builder(Arc::new(self.roots())).build().expect("a verifier");
        let (chain, key) = self.issue(None, false);
        let config = ServerConfig::builder().with_client_cert_verifier(verifier);
        Arc::new(config.with_single_cert(chain, key).expect("a server configuration"))
    }

    /// TLS of an agent: `tenant/cluster/agent`.
    pub(crate) fn agent(&self, name: &str) -> Arc<ClientConfig> {
        self.client(name, false)
    }

    /// As [`Ca::agent`], with a certificate that ran out long ago.
    pub(crate) fn expired_agent(&self, name: &str) -> Arc<ClientConfig> {
        self.client(name, true)
    }

    /// As [`Ca::agent`], and believes hubs of `trusted`.
    pub(crate) fn agent_that_trusts(&self, trusted: &Ca, name: &str) -> Arc<ClientConfig> {
        let (chain, key) = self.issue(Some(name), false);
        let config = ClientConfig::builder().with_root_certificates(trusted.roots());
        Arc::new(config.with_client_auth_cert(chain, key).expect("a client configuration"))
    }

    fn client(&self, name: &str, expired: bool) -> Arc<ClientConfig> {
        let (chain, key) = self.issue(Some(name), expired);
        let config = ClientConfig::builder().with_root_certificates(self.roots());
        Arc::new(config.with_client_auth_cert(chain, key).expect("a client configuration"))
    }
}

/// A hub that only does tunnels.
pub(crate) struct TestHub {
    pub(crate) agents: Agents,
    pub(crate) registry: Arc<Mutex<Registry>>,
    tls: Arc<ServerConfig>,
    /// Cancelled to kill all connections at once.
    pub(crate) kill: CancellationToken,
}

impl TestHub {
    pub(crate) fn new(ca: &Ca, timings: Timings) -> Arc<TestHub> {
        let mut registry = Registry::default();
        let agents = Agents::new(timings, SystemClock::shared(), &mut registry);
        let registry = Arc::new(Mutex::new(registry));
        Arc::new(TestHub { agents, registry, tls: ca.hub(), kill: CancellationToken::new() })
    }

    /// Listens on loopback; gives the URL.
    pub(crate) async fn listen(self: &Arc<Self>) -> HubUrl {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let hub = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                let Ok((stream, from)) = listener.accept().await else { return };
                hub.serve(Box::new(stream), from);
            }
        });
        HubUrl::parse(&format!("https://{addr}")).expect("a URL")
    }

    /// Serves one connection.
    pub(crate) fn serve(self: &Arc<Self>, stream: BoxedStream, from: SocketAddr) {
        let hub = Arc::clone(self);
        tokio::spawn(async move {
            let kill = hub.kill.clone();
            tokio::select! {
                () = kill.cancelled() => {}
                _ = hub.talk(stream, from) => {}
            }
        });
    }

    async fn talk(self: Arc<Self>, stream: BoxedStream, from: SocketAddr) -> io::Result<()> {
        let stream = TlsAcceptor::from(Arc::clone(&self.tls)).accept(stream).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let peer = shown.map(PeerIdentity::of_certificate).transpose().map_err(io::Error::other)?;
        let service = service_fn(move |mut request: Request<Incoming>| {
            let answer = match (request.uri().path(), &peer) {
                (TUNNEL_PATH, Some(peer)) => self.agents.accept(&mut request, peer, from),
                (TUNNEL_PATH, None) => {
                    let mut response = Response::new("no identity in the certificate".to_owned());
                    *response.status_mut() = StatusCode::FORBIDDEN;
                    response
                }
                _ => Response::new("a hub".to_owned()),
            };
            async move { Ok::<_, Infallible>(answer) }
        });
        let served =
            http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await;
        served.map_err(io::Error::other)
    }

    /// The figures, as text.
    pub(crate) fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry.lock()).expect("text");
        text
    }

    /// Waits until `want` agents are connected.
    pub(crate) async fn until_connected(&self, want: usize) {
        let mut changes = self.agents.changes();
        loop {
            let connected = self.agents.list().iter().filter(|agent| agent.connections > 0).count();
            if connected == want {
                return;
            }
            changes.changed().await.expect("a hub");
        }
    }
}

/// `tenant/cluster/agent` as an address.
pub(crate) fn agent(name: &str) -> To {
    let parts: Vec<&str> = name.split('/').collect();
    To::Agent(AgentKey { tenant: parts[0].into(), cluster: parts[1].into(), agent: parts[2].into() })
}

/// Starts an agent.
pub(crate) fn dial(
    hubs: Vec<HubUrl>,
    tls: Arc<ClientConfig>,
    connect: Arc<dyn Connect>,
    timings: Timings,
    handler: &Handler,
) -> (Tunnels, watch::Sender<Arc<ClientConfig>>) {
    dial_as(1, hubs, tls, connect, timings, handler)
}

/// Starts an agent whose waits come from `seed`.
pub(crate) fn dial_as(
    seed: u64,
    hubs: Vec<HubUrl>,
    tls: Arc<ClientConfig>,
    connect: Arc<dyn Connect>,
    timings: Timings,
    handler: &Handler,
) -> (Tunnels, watch::Sender<Arc<ClientConfig>>) {
    let (renew, tls) = watch::channel(tls);
    let config = DialConfig {
        hubs,
        tls,
        connector: Connector::over(connect, Proxies::none()),
        hello: Hello { version: "1.2.3".to_owned(), started_ms: 7, incarnation: "blue".to_owned() },
        timings,
        seed,
        metrics: crate::DialMetrics::default(),
        lost: crate::OnLost::default(),
    };
    let clock: Arc<dyn Clock> = SystemClock::shared();
    (Tunnels::start(config, handler, &clock), renew)
}

/// Answers with what `answer` gives for a path.
pub(crate) fn handler(answer: impl Fn(&str) -> (u16, String) + Send + Sync + 'static) -> Handler {
    Handler::from_fn(move |request| {
        let (status, text) = answer(request.uri().path());
        async move {
            let mut response = Response::new(full(text));
            *response.status_mut() = StatusCode::from_u16(status).expect("a status");
            response
        }
    })
}

pub(crate) fn full(text: impl Into<Bytes>) -> Body {
    http_body_util::Full::new(text.into()).map_err(|never| match never {}).boxed_unsync()
}

pub(crate) fn get(path: &str) -> Request<Bytes> {
    Request::get(path).body(Bytes::new()).expect("a request")
}

/// The whole answer as text, or the error.
pub(crate) async fn whole(answer: Result<Response<crate::TunnelBody>, crate::RequestError>) -> String {
    match answer {
        Ok(response) => {
            let status = response.status().as_u16();
            match response.into_body().collect().await {
                Ok(body) => format!("{status} {}", String::from_utf8_lossy(&body.to_bytes())),
                Err(error) => format!("{status} then {error}"),
            }
        }
        Err(error) => error.to_string(),
    }
}
