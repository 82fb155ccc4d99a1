//! The listener: connections in, requests to whatever router is in force.
//!
//! One port speaks TLS and plaintext; the first byte tells which. TLS is spoken once there is something
//! to show ([`Front::secure`]); from then on plaintext is for callers on this machine, unless a
//! configuration says otherwise. Who shows a client certificate has its identity in the extensions of
//! each request; its connection can be turned into a tunnel, and is closed when it is revoked.
//!
//! It listens before the store is open, so that probes get an answer while the log is replayed, and
//! the router is swapped when the store is ready and at every reload.
//!
//! # What strangers cannot do
//!
//! Hold places: every step has a deadline (first byte and head, handshake, pieces of a body, silence on
//! HTTP/2), callers without a certificate have [`STRANGERS_MAX`] places of which one address gets half,
//! and those with one have places of their own.

mod alive;
mod body;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::convert::Infallible;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, anyhow};
use arc_swap::{ArcSwap, ArcSwapOption};
use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::response::{IntoResponse, Response};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;
use tunnel::identity::{HubTls, PeerIdentity};
use web::ClientAddress;

use body::TimedBody;
use stream::{Opening, Running, Shared, until_gone};

/// Connections of callers without a certificate served at once; more wait to be accepted.
const STRANGERS_MAX: usize = 4096;
/// How many of them may come from one address off this machine.
const STRANGERS_OF_ADDRESS_MAX: usize = STRANGERS_MAX / 2;
/// Connections of callers with a certificate: agents have two or three each. Those that have become
/// tunnels do not count.
const PEERS_MAX: usize = 32 << 10;
/// Requests at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 32;
/// Bytes of a body on an HTTP/2 stream before it is read.
const STREAM_WINDOW: u32 = 256 << 10;
/// Bytes of bodies on an HTTP/2 connection before they are read.
const CONNECTION_WINDOW: u32 = 1 << 20;
/// Bytes of headers on HTTP/2.
const HEADERS_BYTES_MAX: u32 = 16 << 10;
/// What is buffered for sending on an HTTP/2 stream.
const SEND_BUFFER_BYTES: usize = 64 << 10;
/// Bytes of a head on HTTP/1.1, and of what is buffered of a body, of callers with a certificate: there are
/// thousands of them, and what they ask has short heads. The least that hyper takes.
const PEER_BUFFER_BYTES: usize = 8 << 10;
/// Silence after which an HTTP/2 client is asked for a sign of life, and how long it has for it.
const PING: Duration = Duration::from_secs(20);

/// How long clients may take.
#[derive(Debug, Clone, Copy)]
struct Deadlines {
    /// For the first byte, a request's head, and between requests: senders keep connections open over
    /// their interval.
    head: Duration,
    /// For a TLS handshake.
    handshake: Duration,
    /// Between two pieces of a body.
    piece: Duration,
    /// For a whole body. Source: Prometheus, `--web.read-timeout`.
    body: Duration,
}

const DEADLINES: Deadlines = Deadlines {
    head: Duration::from_secs(90),
    handshake: Duration::from_secs(10),
    piece: Duration::from_secs(30),
    body: Duration::from_secs(300),
};

/// Longest a stop waits for requests under way.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// Pause after a failed accept: the cause (no descriptors left) needs a moment to pass.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a caller in plaintext is told where only TLS is spoken.
const TLS_ONLY: &str = "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\n\
    connection: close\r\ncontent-length: 38\r\n\r\n\
    this address speaks TLS; use https://\n";

/// Who may speak plaintext once TLS is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Plaintext {
    /// Callers on this machine.
    #[default]
    Loopback,
    /// Everybody.
    Everywhere,
    /// Nobody.
    Never,
}

/// A bound address, not yet served.
pub(crate) struct Bound {
    listener: TcpListener,
    /// Where it listens.
    pub(crate) addr: SocketAddr,
}

impl Bound {
    /// Binds `listen`, `host:port`; port 0 takes a free one.
    pub(crate) async fn to(listen: &str) -> Result<Bound> {
        let listener = TcpListener::bind(listen).await.map_err(|error| match error.kind() {
            ErrorKind::AddrInUse => {
                anyhow!("listen on {listen}: another process has this address: end it, or give --listen another port")
            }
            _ => anyhow!("listen on {listen}: {error}"),
        })?;
        let addr = listener.local_addr()?;
        Ok(Bound { listener, addr })
    }

    /// Starts serving `router`, in plaintext until [`Front::secure`].
    pub(crate) fn serve(self, router: Router) -> Front {
        self.serve_within(DEADLINES, router)
    }

    fn serve_within(self, deadlines: Deadlines, router: Router) -> Front {
        let shared = Arc::new(Shop {
            deadlines,
            router: ArcSwap::from_pointee(router),
            secure: ArcSwapOption::empty(),
            stop: CancellationToken::new(),
            connections: TaskTracker::new(),
            strangers: Arc::new(Semaphore::new(STRANGERS_MAX)),
            by_address: Mutex::default(),
            peers: Arc::new(Semaphore::new(PEERS_MAX)),
            live: Mutex::default(),
            numbers: AtomicU64::new(0),
            metrics: Metrics::default(),
        });
        let serving = tokio::spawn(accept(self.listener, Arc::clone(&shared)));
        Front { addr: self.addr, shared, serving: Mutex::new(Some(serving)) }
    }
}

/// The listener at work.
pub(crate) struct Front {
    /// Where it listens.
    pub(crate) addr: SocketAddr,
    shared: Arc<Shop>,
    serving: Mutex<Option<JoinHandle<()>>>,
}

impl Front {
    /// Serves `router` from now on; requests under way finish on the old one.
    pub(crate) fn replace(&self, router: Router) {
        self.shared.router.store(Arc::new(router));
    }

    /// Speaks TLS from the next connection on, and plaintext only to those it is for.
    pub(crate) fn secure(&self, tls: &Arc<HubTls>, plaintext: Plaintext) {
        let acceptor = TlsAcceptor::from(tls.server_config());
        let secure = Secure { acceptor, tls: Arc::clone(tls), plaintext };
        self.shared.secure.store(Some(Arc::new(secure)));
    }

    /// Closes the connections of those for whom `which` holds, now; gives how many there were. Tunnels
    /// are no connections of the front any more: `tunnel::Agents` closes those.
    pub(crate) fn close(&self, which: impl Fn(&PeerIdentity) -> bool) -> usize {
        let live = self.shared.live.lock();
        live.values().filter(|(peer, _)| which(peer)).map(|(_, connection)| connection.cancel()).count()
    }

    /// Puts its figures into `registry` as `marigraph_front_*`.
    pub(crate) fn register_metrics(&self, registry: &mut Registry) {
        self.shared.metrics.register(registry);
    }

    /// Accepts nothing more, and waits a while for requests under way.
    pub(crate) async fn stop(&self) {
        self.shared.stop.cancel();
        let serving = self.serving.lock().take();
        if let Some(serving) = serving
            && let Err(error) = serving.await
        {
            tracing::error!(%error, "the listener ended badly");
        }
    }
}

/// What connections share.
struct Shop {
    deadlines: Deadlines,
    router: ArcSwap<Router>,
    secure: ArcSwapOption<Secure>,
    stop: CancellationToken,
    connections: TaskTracker,
    strangers: Arc<Semaphore>,
    by_address: Mutex<HashMap<IpAddr, usize>>,
    peers: Arc<Semaphore>,
    /// The connections of those with a certificate.
    live: Mutex<HashMap<u64, (PeerIdentity, CancellationToken)>>,
    numbers: AtomicU64,
    metrics: Metrics,
}

struct Secure {
    acceptor: TlsAcceptor,
    /// Knows whose certificate it is.
    tls: Arc<HubTls>,
    plaintext: Plaintext,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Default)]
struct Metrics {
    refused: Family<Reason, Counter>,
    accepted: Counter,
    peers: Gauge,
}

impl Metrics {
    fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("marigraph_front");
        registry.register("connections", "Connections accepted", self.accepted.clone());
        registry.register("refused", "Connections refused, by reason", self.refused.clone());
        registry.register(
            "peers",
            "Connections of callers with a client certificate, without tunnels",
            self.peers.clone(),
        );
    }

    fn refuse(&self, reason: &'static str) {
        self.refused.get_or_create(&Reason { reason }).inc();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shop>) {
    loop {
        let next = async {
            let permit = Arc::clone(&shared.strangers).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, stream, client) = tokio::select! {
            () = shared.stop.cancelled() => break,
            (permit, accepted) = next => match (permit, accepted) {
                (Ok(permit), Ok((stream, client))) => (permit, stream, client),
                (_, Err(error)) => {
                    tracing::warn!(%error, "accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
                // Nobody closes the semaphore.
                (Err(_), _) => break,
            },
        };
        shared.metrics.accepted.inc();
        if let Err(error) = alive::keep_alive(&stream) {
            tracing::debug!(%client, %error, "no keep-alive on a connection");
        }
        let Some(place) = Place::take(&shared, client.ip(), permit) else {
            shared.metrics.refuse("address_has_too_many");
            tracing::debug!(%client, "too many connections from one address");
            continue;
        };
        let serving = serve(Arc::clone(&shared), Shared::new(stream), client, place);
        shared.connections.spawn(serving);
    }
    drop(listener);
    shared.connections.close();
    if tokio::time::timeout(STOP_PATIENCE, shared.connections.wait()).await.is_err() {
        tracing::warn!("some requests did not finish in {STOP_PATIENCE:?}");
    }
}

/// A stranger's place; given back when this is dropped.
struct Place {
    shared: Arc<Shop>,
    address: IpAddr,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    fn take(shared: &Arc<Shop>, address: IpAddr, permit: OwnedSemaphorePermit) -> Option<Place> {
        let mut by_address = shared.by_address.lock();
        let count = by_address.entry(address).or_default();
        if *count >= STRANGERS_OF_ADDRESS_MAX && !address.is_loopback() {
            return None;
        }
        *count += 1;
        drop(by_address);
        Some(Place { shared: Arc::clone(shared), address, _permit: permit })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by_address = self.shared.by_address.lock();
        if let Some(count) = by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&self.address);
            }
        }
    }
}

/// A connection from its first byte to its end.
async fn serve(shared: Arc<Shop>, stream: Shared, client: SocketAddr, place: Place) {
    let opened = async {
        let Some(secure) = shared.secure.load_full() else { return Some((None, place)) };
        match tokio::time::timeout(shared.deadlines.head, stream.opening()).await {
            Ok(Ok(Opening::Tls)) => Some((Some(secure), place)),
            Ok(Ok(Opening::Plain)) if secure.plaintext.is_for(&stream) => Some((None, place)),
            Ok(Ok(Opening::Plain)) => {
                refuse_plaintext(&shared, stream.clone(), client).await;
                None
            }
            Ok(Ok(Opening::Nothing) | Err(_)) | Err(_) => None,
        }
    };
    let opened = tokio::select! {
        () = shared.stop.cancelled() => return,
        opened = opened => opened,
    };
    match opened {
        None => {}
        Some((None, place)) => {
            let connection = Connection { client, peer: None, watched: stream.clone(), place: Some(place) };
            connection.talk(shared, stream, false, CancellationToken::new()).await;
        }
        Some((Some(secure), place)) => Box::pin(serve_tls(shared, secure, stream, client, place)).await,
    }
}

impl Plaintext {
    fn is_for(self, stream: &Shared) -> bool {
        match self {
            Plaintext::Everywhere => true,
            Plaintext::Loopback => {
                stream.local_addr().is_ok_and(|addr| addr.ip().to_canonical().is_loopback())
            }
            Plaintext::Never => false,
        }
    }
}

/// Says why, as far as the client listens.
async fn refuse_plaintext(shared: &Shop, mut stream: Shared, client: SocketAddr) {
    shared.metrics.refuse("plaintext");
    tracing::info!(%client, "plaintext refused off loopback");
    let told = async {
        stream.write_all(TLS_ONLY.as_bytes()).await?;
        stream.shutdown().await
    };
    // Whoever does not listen misses the reason.
    let _ = tokio::time::timeout(shared.deadlines.handshake, told).await;
}

/// The handshake, and what comes after it.
async fn serve_tls(shared: Arc<Shop>, secure: Arc<Secure>, stream: Shared, client: SocketAddr, place: Place) {
    let handshake = tokio::time::timeout(shared.deadlines.handshake, secure.acceptor.accept(stream.clone()));
    let accepted = tokio::select! {
        () = shared.stop.cancelled() => return,
        accepted = handshake => accepted,
    };
    let tls = match accepted {
        // On the heap at once: it goes through several futures, each of which would have room for it.
        Ok(Ok(tls)) => Box::new(tls),
        Ok(Err(error)) => {
            shared.metrics.refuse("handshake");
            return tracing::info!(%client, %error, "TLS handshake failed");
        }
        Err(_) => {
            shared.metrics.refuse("handshake_timeout");
            return tracing::info!(%client, "TLS handshake took too long");
        }
    };
    let session = tls.get_ref().1;
    let http2 = session.alpn_protocol() == Some(b"h2");
    let peer = match secure.tls.peer(session.peer_certificates()) {
        Ok(peer) => peer,
        Err(error) => {
            shared.metrics.refuse("certificate");
            return tracing::warn!(%client, %error, "a client certificate names nobody");
        }
    };
    let closing = CancellationToken::new();
    let Some(peer) = peer else {
        let connection = Connection { client, peer: None, watched: stream, place: Some(place) };
        return connection.talk(shared, tls, http2, closing).await;
    };
    let Ok(permit) = Arc::clone(&shared.peers).try_acquire_owned() else {
        shared.metrics.refuse("peers_full");
        return tracing::warn!(%client, peer = peer.uri(), "too many connections with a certificate");
    };
    drop(place);
    let listed = Listed::new(&shared, &peer, &closing);
    let connection = Connection { client, peer: Some(peer), watched: stream, place: None };
    connection.talk(Arc::clone(&shared), tls, http2, closing).await;
    drop((listed, permit));
}

/// A peer's connection in the list, as long as this lives.
struct Listed {
    shared: Arc<Shop>,
    number: u64,
}

impl Listed {
    fn new(shared: &Arc<Shop>, peer: &PeerIdentity, closing: &CancellationToken) -> Listed {
        let number = shared.numbers.fetch_add(1, Ordering::Relaxed);
        shared.live.lock().insert(number, (peer.clone(), closing.clone()));
        shared.metrics.peers.inc();
        Listed { shared: Arc::clone(shared), number }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.shared.live.lock().remove(&self.number);
        self.shared.metrics.peers.dec();
    }
}

/// A connection on which requests come.
struct Connection {
    client: SocketAddr,
    peer: Option<PeerIdentity>,
    /// The bare stream, also below TLS.
    watched: Shared,
    place: Option<Place>,
}

impl Connection {
    /// Answers requests until the client has enough, or `closing`.
    async fn talk<S>(self, shared: Arc<Shop>, stream: S, http2: bool, closing: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Connection { client, peer, watched, place } = self;
        let is_peer = peer.is_some();
        let running = Arc::new(AtomicUsize::new(0));
        let requests = Arc::clone(&running);
        let of = Arc::clone(&shared);
        let service = service_fn(move |mut request: http::Request<Incoming>| {
            let router = Router::clone(&of.router.load());
            let deadlines = of.deadlines;
            let extensions = request.extensions_mut();
            extensions.insert(ClientAddress(client.ip()));
            extensions.insert(ConnectInfo(client));
            if let Some(peer) = &peer {
                extensions.insert(peer.clone());
            }
            let running = Running::new(&requests);
            async move {
                let _running = running;
                answer(router, request, deadlines).await
            }
        });
        // An HTTP/1 client has the deadline of the head between requests.
        let idle = http2.then_some(shared.deadlines.head);
        let gone = until_gone(watched, running, idle);
        let served = async {
            if http2 {
                let connection = http2_builder().serve_connection(TokioIo::new(stream), service);
                let mut connection = Box::pin(connection);
                tokio::select! {
                    _ = connection.as_mut() => return,
                    () = shared.stop.cancelled() => connection.as_mut().graceful_shutdown(),
                }
                _ = connection.await;
            } else {
                let mut builder = http1::Builder::new();
                builder.timer(TokioTimer::new()).header_read_timeout(shared.deadlines.head);
                if is_peer {
                    builder.max_buf_size(PEER_BUFFER_BYTES);
                }
                let connection = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
                let mut connection = Box::pin(connection);
                tokio::select! {
                    _ = connection.as_mut() => return,
                    () = shared.stop.cancelled() => connection.as_mut().graceful_shutdown(),
                }
                _ = connection.await;
            }
        };
        tokio::select! {
            // A client that breaks off is its own business.
            () = served => {}
            () = gone => {}
            () = closing.cancelled() => {}
        }
        drop(place);
    }
}

fn http2_builder() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .adaptive_window(false)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADERS_BYTES_MAX)
        .max_send_buf_size(SEND_BUFFER_BYTES);
    builder
}

async fn answer(
    router: Router,
    request: http::Request<Incoming>,
    deadlines: Deadlines,
) -> Result<Response, Infallible> {
    let request = request.map(|body| match body.is_end_stream() {
        true => Body::empty(),
        false => Body::new(TimedBody::new(body, deadlines)),
    });
    router.oneshot(request).await.map(IntoResponse::into_response)
}
