//! The agent's side: a tunnel to each hub, kept.
//!
//! For each hub one task dials, asks for the tunnel, serves on it, and begins again when it is lost. When
//! the certificate is renewed, the new connection is there before the old one is sent away (GOAWAY), so
//! that no request fails. When the hub asks for it, a second connection carries large answers, and goes
//! after a while without any.

mod backoff;
mod session;
mod state;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::upgrade::Upgraded;
use rustls::ClientConfig;
use stdx::clock::Clock;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use session::DialError;
pub use state::{DialMetrics, HubStatus};

use crate::connect::{Connector, HubUrl};
use crate::protocol::{BULK_PATH, Body, Kind, PING_PATH, TIME_MS, Timings};
use crate::serve::{Handler, bare, serve};
use crate::whole::Whole;
use backoff::Backoff;
use state::State;

/// What an agent tells of itself when it asks for a tunnel.
#[derive(Debug, Clone, Default)]
pub struct Hello {
    /// Its version.
    pub version: String,
    /// When its process started, milliseconds since the epoch.
    pub started_ms: i64,
    /// Which building of its cluster it belongs to: the same for agents that share targets, another one after the
    /// cluster was built anew. Up to 64 printable characters.
    pub incarnation: String,
}

/// How to reach hubs, and as whom.
#[derive(Debug, Clone)]
pub struct DialConfig {
    /// The hubs.
    pub hubs: Vec<HubUrl>,
    /// TLS with our certificate; a new value makes new connections.
    pub tls: watch::Receiver<Arc<ClientConfig>>,
    /// How connections are opened.
    pub connector: Connector,
    /// What we say of ourselves.
    pub hello: Hello,
    /// Pings and deadlines.
    pub timings: Timings,
    /// Of the random numbers that spread reconnects.
    pub seed: u64,
    /// Figures of the tunnels.
    pub metrics: DialMetrics,
    /// Who is told of lost tunnels.
    pub lost: OnLost,
}

/// Who is told when the only tunnel to a hub is lost, whatever the reason; nobody by default.
#[derive(Clone, Default)]
pub struct OnLost(Option<Arc<Told>>);

type Told = dyn Fn(&HubUrl) + Send + Sync;

impl OnLost {
    /// `told` hears which hub it is.
    pub fn new(told: impl Fn(&HubUrl) + Send + Sync + 'static) -> OnLost {
        OnLost(Some(Arc::new(told)))
    }
}

impl std::fmt::Debug for OnLost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnLost")
    }
}

impl DialConfig {
    /// With the usual times, over TCP, the proxy as the environment says.
    pub fn new(hubs: Vec<HubUrl>, tls: watch::Receiver<Arc<ClientConfig>>) -> DialConfig {
        DialConfig {
            hubs,
            tls,
            connector: Connector::new(crate::connect::Proxies::from_environment()),
            hello: Hello::default(),
            timings: Timings::default(),
            seed: rand::random(),
            metrics: DialMetrics::default(),
            lost: OnLost::default(),
        }
    }
}

/// An agent's tunnels at work, one to each hub.
pub struct Tunnels {
    hubs: Vec<Arc<Dialled>>,
    supervisors: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Tunnels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.states()).finish()
    }
}

/// Which hub a request came from; in the request's extensions.
#[derive(Debug, Clone)]
pub struct FromHub(pub Arc<HubUrl>);

/// What the tasks of one hub share.
pub(crate) struct Dialled {
    hub: Arc<HubUrl>,
    connector: Connector,
    hello: Hello,
    timings: Timings,
    state: State,
    handler: Handler,
    stop: CancellationToken,
    sessions: TaskTracker,
    /// Whether a connection for bulk is there or in the making.
    bulk: AtomicBool,
    lost: OnLost,
}

impl Tunnels {
    /// Starts a task for each hub; `handler` answers what they ask.
    pub fn start(config: DialConfig, handler: &Handler, clock: &Arc<dyn Clock>) -> Tunnels {
        let mut tunnels = Tunnels { hubs: Vec::new(), supervisors: Vec::new() };
        for (nth, hub) in (0u64..).zip(&config.hubs) {
            let dialled = Arc::new(Dialled {
                hub: Arc::new(hub.clone()),
                connector: config.connector.clone(),
                hello: config.hello.clone(),
                timings: config.timings,
                state: State::new(hub, Arc::clone(clock), &config.metrics),
                handler: handler.clone(),
                stop: CancellationToken::new(),
                sessions: TaskTracker::new(),
                bulk: AtomicBool::new(false),
                lost: config.lost.clone(),
            });
            let supervisor =
                supervise(Arc::clone(&dialled), config.tls.clone(), config.seed.wrapping_add(nth));
            tunnels.hubs.push(dialled);
            tunnels.supervisors.push(tokio::spawn(supervisor));
        }
        tunnels
    }

    /// How each connection stands, in the order of the hubs.
    pub fn states(&self) -> Vec<HubStatus> {
        self.hubs.iter().map(|dialled| dialled.state.status()).collect()
    }

    /// Sends the hubs away, and waits a while ([`Timings::drain`]) for requests under way.
    pub async fn stop(self) {
        for dialled in &self.hubs {
            dialled.stop.cancel();
            dialled.sessions.close();
        }
        for supervisor in self.supervisors {
            // A panic there has been logged, and there is nothing to wait for.
            let _ = supervisor.await;
        }
        for dialled in &self.hubs {
            dialled.sessions.wait().await;
        }
    }
}

/// A tunnel at work.
struct Session {
    began: Instant,
    drain: CancellationToken,
    ended: JoinHandle<()>,
}

/// Keeps a tunnel to one hub.
async fn supervise(dialled: Arc<Dialled>, mut tls: watch::Receiver<Arc<ClientConfig>>, seed: u64) {
    let mut backoff = Backoff::new(seed);
    let mut current: Option<Session> = None;
    loop {
        let config = Arc::clone(&tls.borrow_and_update());
        dialled.state.attempting();
        let opened = tokio::select! {
            biased;
            () = dialled.stop.cancelled() => break,
            opened = session::open(&dialled, config, Kind::Control) => opened,
        };
        let wait = match opened {
            Ok(io) => {
                tracing::info!(hub = %dialled.hub, "tunnel connected");
                let session = begin(&dialled, io, &tls);
                if let Some(old) = current.replace(session) {
                    old.drain.cancel();
                }
                None
            }
            Err(error) => {
                dialled.state.failed(&error.to_string());
                let wait = backoff.failed();
                tracing::warn!(hub = %dialled.hub, %error, retry_in = ?wait, "no tunnel");
                Some(wait)
            }
        };
        let wait = match (wait, &mut current) {
            (None, Some(session)) => tokio::select! {
                biased;
                () = dialled.stop.cancelled() => break,
                () = changed(&mut tls) => continue,
                _ = &mut session.ended => {
                    let lived = session.began.elapsed();
                    current = None;
                    backoff.lost(lived)
                }
            },
            (wait, _) => wait.unwrap_or_default(),
        };
        dialled.state.waiting(wait);
        tokio::select! {
            biased;
            () = dialled.stop.cancelled() => break,
            () = changed(&mut tls) => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
    if let Some(session) = current {
        session.drain.cancel();
    }
}

/// Ends when there is a new value; never when there will be none.
async fn changed(tls: &mut watch::Receiver<Arc<ClientConfig>>) {
    if tls.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Serves on a connection for control until it ends.
fn begin(dialled: &Arc<Dialled>, io: Upgraded, tls: &watch::Receiver<Arc<ClientConfig>>) -> Session {
    let drain = CancellationToken::new();
    let number = dialled.state.connected();
    let began = Instant::now();
    let handler = control_handler(Arc::clone(dialled), tls.clone());
    let session = {
        let (dialled, drain) = (Arc::clone(dialled), drain.clone());
        async move {
            let asked = drain.clone();
            let ended = serve(io, handler, dialled.timings, drain).await;
            let was_newest = dialled.state.ended(number);
            if asked.is_cancelled() || !was_newest {
                return;
            }
            let what = match &ended {
                Ok(()) => "the hub closed the tunnel".to_owned(),
                Err(error) => format!("tunnel lost: {}", chain(error)),
            };
            tracing::warn!(hub = %dialled.hub, lived = ?began.elapsed(), "{what}");
            dialled.state.failed(&what);
            if let OnLost(Some(told)) = &dialled.lost {
                told(&dialled.hub);
            }
        }
    };
    Session { began, drain, ended: dialled.sessions.spawn(session) }
}

/// What the tunnel itself answers, and `dialled.handler` for the rest.
fn control_handler(dialled: Arc<Dialled>, tls: watch::Receiver<Arc<ClientConfig>>) -> Handler {
    Handler::from_fn(move |mut request: Request<Whole>| {
        let own = match (request.method(), request.uri().path()) {
            (&Method::GET, PING_PATH) => {
                dialled.state.measured(request.headers());
                Some(pong(&dialled))
            }
            (&Method::POST, BULK_PATH) => {
                ask_for_bulk(&dialled, &tls);
                Some(bare(StatusCode::ACCEPTED))
            }
            _ => None,
        };
        request.extensions_mut().insert(FromHub(Arc::clone(&dialled.hub)));
        let rest = own.is_none().then(|| dialled.handler.call(request));
        async move {
            match (own, rest) {
                (Some(own), _) => own,
                (None, Some(rest)) => rest.await,
                (None, None) => bare(StatusCode::NOT_FOUND),
            }
        }
    })
}

fn pong(dialled: &Dialled) -> Response<Body> {
    let mut response = bare(StatusCode::NO_CONTENT);
    response.headers_mut().insert(TIME_MS, HeaderValue::from(dialled.state.now_ms()));
    response
}

/// Makes a connection for bulk unless there is one.
fn ask_for_bulk(dialled: &Arc<Dialled>, tls: &watch::Receiver<Arc<ClientConfig>>) {
    if dialled.bulk.swap(true, Ordering::AcqRel) {
        return;
    }
    let (dialled, config) = (Arc::clone(dialled), Arc::clone(&tls.borrow()));
    let tracker = dialled.sessions.clone();
    tracker.spawn(async move {
        let served = tokio::select! {
            biased;
            () = dialled.stop.cancelled() => Ok(()),
            served = serve_bulk(&dialled, config) => served,
        };
        dialled.bulk.store(false, Ordering::Release);
        if let Err(error) = served {
            tracing::warn!(hub = %dialled.hub, %error, "no connection for large answers");
        }
    });
}

async fn serve_bulk(dialled: &Arc<Dialled>, tls: Arc<ClientConfig>) -> Result<(), DialError> {
    let io = session::open(dialled, tls, Kind::Bulk).await?;
    let use_of = Arc::new(Use::default());
    let handler = {
        let (dialled, use_of) = (Arc::clone(dialled), Arc::clone(&use_of));
        Handler::from_fn(move |mut request: Request<Whole>| {
            request.extensions_mut().insert(FromHub(Arc::clone(&dialled.hub)));
            let answer = dialled.handler.call(request);
            let used = Using::new(&use_of);
            async move {
                let answer = answer.await;
                answer.map(|body| http_body_util::BodyExt::boxed_unsync(Held { body, _used: used }))
            }
        })
    };
    let drain = CancellationToken::new();
    let serving = serve(io, handler, dialled.timings, drain.clone());
    let idle = use_of.until_idle(dialled.timings.bulk_idle);
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        biased;
        // How it ended is of no interest: whoever needs another asks for it.
        _ = &mut serving => return Ok(()),
        () = idle => drain.cancel(),
    }
    let _ = serving.await;
    Ok(())
}

/// Who uses a connection.
#[derive(Default)]
struct Use {
    running: AtomicUsize,
    begun: AtomicU64,
}

impl Use {
    /// Ends when nothing ran and nothing began for `idle`.
    async fn until_idle(&self, idle: Duration) {
        let mut seen = u64::MAX;
        loop {
            let begun = self.begun.load(Ordering::Acquire);
            if begun == seen && self.running.load(Ordering::Acquire) == 0 {
                return;
            }
            seen = begun;
            tokio::time::sleep(idle).await;
        }
    }
}

struct Using(Arc<Use>);

impl Using {
    fn new(of: &Arc<Use>) -> Using {
        of.running.fetch_add(1, Ordering::AcqRel);
        of.begun.fetch_add(1, Ordering::AcqRel);
        Using(Arc::clone(of))
    }
}

impl Drop for Using {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A body that keeps its connection in use.
struct Held {
    body: Body,
    _used: Using,
}

impl http_body::Body for Held {
    type Data = bytes::Bytes;
    type Error = crate::protocol::BoxError;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, Self::Error>>> {
        std::pin::Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// An error with what lies behind it.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
