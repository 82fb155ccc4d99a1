//! The listener: connections in, requests to whatever router is in force.
//!
//! It listens before the store is open, so that probes get an answer while the log is replayed, and
//! the router is swapped when the store is ready and at every reload.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// Connections served at once; more wait to be accepted.
const CONNECTIONS_MAX: usize = 4096;

/// Longest a client may take over a request's head.
const HEAD_DEADLINE: Duration = Duration::from_secs(15);

/// Longest a stop waits for requests under way.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// Pause after a failed accept: the cause (no descriptors left) needs a moment to pass.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound address, not yet served.
pub(crate) struct Bound {
    listener: TcpListener,
    /// Where it listens.
    pub(crate) addr: SocketAddr,
}

impl Bound {
    /// Binds `listen`, `host:port`; port 0 takes a free one.
    pub(crate) async fn to(listen: &str) -> Result<Bound> {
        let listener = TcpListener::bind(listen).await.with_context(|| format!("listen on {listen}"))?;
        let addr = listener.local_addr()?;
        Ok(Bound { listener, addr })
    }

    /// Starts serving `router`.
    pub(crate) fn serve(self, router: Router) -> Front {
        let current = Arc::new(ArcSwap::from_pointee(router));
        let stop = CancellationToken::new();
        let serving = tokio::spawn(accept(self.listener, Arc::clone(&current), stop.clone()));
        Front { addr: self.addr, current, stop, serving: Mutex::new(Some(serving)) }
    }
}

/// The listener at work.
pub(crate) struct Front {
    /// Where it listens.
    pub(crate) addr: SocketAddr,
    current: Arc<ArcSwap<Router>>,
    stop: CancellationToken,
    serving: Mutex<Option<JoinHandle<()>>>,
}

impl Front {
    /// Serves `router` from now on; requests under way finish on the old one.
    pub(crate) fn replace(&self, router: Router) {
        self.current.store(Arc::new(router));
    }

    /// Accepts nothing more, and waits a while for requests under way.
    pub(crate) async fn stop(&self) {
        self.stop.cancel();
        let serving = self.serving.lock().take();
        if let Some(serving) = serving
            && let Err(error) = serving.await
        {
            tracing::error!(%error, "the listener ended badly");
        }
    }
}

async fn accept(listener: TcpListener, current: Arc<ArcSwap<Router>>, stop: CancellationToken) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let graceful = GracefulShutdown::new();
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_DEADLINE);
    loop {
        let next = async {
            let permit = Arc::clone(&permits).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, stream) = tokio::select! {
            () = stop.cancelled() => break,
            (permit, accepted) = next => match accepted {
                Ok((stream, _)) => (permit, stream),
                Err(error) => {
                    tracing::warn!(%error, "accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let current = Arc::clone(&current);
        let service = service_fn(move |request: http::Request<Incoming>| {
            let router = Router::clone(&current.load());
            answer(router, request)
        });
        set_no_delay(&stream);
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
        let watched = graceful.watch(connection);
        tokio::spawn(async move {
            // A client that breaks off is its own business.
            let _ = watched.await;
            drop(permit);
        });
    }
    drop(listener);
    if tokio::time::timeout(STOP_PATIENCE, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests did not finish in {STOP_PATIENCE:?}");
    }
}

async fn answer(router: Router, request: http::Request<Incoming>) -> Result<Response, Infallible> {
    router.oneshot(request.map(Body::new)).await.map(IntoResponse::into_response)
}

/// Small answers should not wait for more; a failure only costs time.
fn set_no_delay(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "set TCP_NODELAY");
    }
}
