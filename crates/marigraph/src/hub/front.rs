//! The listener: connections in, requests to whatever router is in force.
//!
//! It listens before the store is open, so that probes get an answer while the log is replayed, and
//! the router is swapped when the store is ready and at every reload.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use anyhow::{Context as _, Result};
use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use hyper::body::{Body as _, Bytes, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use web::ClientAddress;

/// Connections served at once; more wait to be accepted.
const CONNECTIONS_MAX: usize = 4096;

/// How long clients may take.
#[derive(Debug, Clone, Copy)]
struct Deadlines {
    /// For a request's head, and between requests: senders keep connections open over their interval.
    head: Duration,
    /// Between two pieces of a body.
    piece: Duration,
    /// For a whole body. Source: Prometheus, `--web.read-timeout`.
    body: Duration,
}

const DEADLINES: Deadlines = Deadlines {
    head: Duration::from_secs(90),
    piece: Duration::from_secs(30),
    body: Duration::from_secs(300),
};

/// Longest a stop waits for requests under way.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// How often a connection is looked at while its request runs.
const GONE_CHECK: Duration = Duration::from_secs(1);

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
        self.serve_within(DEADLINES, router)
    }

    fn serve_within(self, deadlines: Deadlines, router: Router) -> Front {
        let current = Arc::new(ArcSwap::from_pointee(router));
        let stop = CancellationToken::new();
        let serving = tokio::spawn(accept(self.listener, deadlines, Arc::clone(&current), stop.clone()));
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

async fn accept(
    listener: TcpListener,
    deadlines: Deadlines,
    current: Arc<ArcSwap<Router>>,
    stop: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let graceful = GracefulShutdown::new();
    // HTTP/1 only, as Prometheus without TLS: one connection is one request at a time, and a limit of
    // connections a limit of requests.
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(deadlines.head);
    loop {
        let next = async {
            let permit = Arc::clone(&permits).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, stream, client) = tokio::select! {
            () = stop.cancelled() => break,
            (permit, accepted) = next => match accepted {
                Ok((stream, client)) => (permit, stream, client),
                Err(error) => {
                    tracing::warn!(%error, "accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let current = Arc::clone(&current);
        let running = Arc::new(AtomicUsize::new(0));
        let requests = Arc::clone(&running);
        let service = service_fn(move |mut request: http::Request<Incoming>| {
            let router = Router::clone(&current.load());
            request.extensions_mut().insert(ClientAddress(client.ip()));
            let running = Running::new(&requests);
            async move {
                let _running = running;
                answer(router, request, deadlines).await
            }
        });
        set_no_delay(&stream);
        let stream = Shared(Arc::new(Mutex::new(stream)));
        let gone = until_gone(stream.clone(), running);
        let watched = graceful.watch(builder.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            tokio::select! {
                // A client that breaks off is its own business.
                _ = watched => {}
                () = gone => {}
            }
            drop(permit);
        });
    }
    drop(listener);
    if tokio::time::timeout(STOP_PATIENCE, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests did not finish in {STOP_PATIENCE:?}");
    }
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

/// A body that breaks off when it comes too slowly.
struct TimedBody {
    body: Incoming,
    deadlines: Deadlines,
    end: Instant,
    /// Runs out at the end of this piece's time.
    patience: Pin<Box<Sleep>>,
}

impl TimedBody {
    fn new(body: Incoming, deadlines: Deadlines) -> TimedBody {
        let now = Instant::now();
        let patience = Box::pin(tokio::time::sleep_until(now + deadlines.piece));
        TimedBody { body, deadlines, end: now + deadlines.body, patience }
    }
}

impl hyper::body::Body for TimedBody {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) {
            let until = this.end.min(Instant::now() + this.deadlines.piece);
            this.patience.as_mut().reset(until);
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        this.patience.as_mut().poll(context).map(|()| Some(Err("the body comes too slowly".into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A request under way, counted as long as this lives.
struct Running(Arc<AtomicUsize>);

impl Running {
    fn new(count: &Arc<AtomicUsize>) -> Running {
        count.fetch_add(1, Ordering::Relaxed);
        Running(Arc::clone(count))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream that can be looked at while hyper has it.
#[derive(Clone)]
struct Shared(Arc<Mutex<TcpStream>>);

impl Shared {
    /// Whether the client has said its last word, whatever lies before it unread.
    fn has_ended(&self) -> bool {
        let stream = self.0.lock();
        let ready = std::pin::pin!(stream.ready(Interest::READABLE));
        let mut context = Context::from_waker(Waker::noop());
        matches!(ready.poll(&mut context), Poll::Ready(Ok(ready)) if ready.is_read_closed())
    }
}

impl AsyncRead for Shared {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.lock()).poll_read(context, into)
    }
}

impl AsyncWrite for Shared {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.lock()).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.lock()).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.lock()).poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.lock()).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

/// Ends when the client leaves in the middle of a request. hyper sees that too, but not behind bytes
/// that it has no use for yet: a second request, or anything a client sends before it leaves.
async fn until_gone(stream: Shared, running: Arc<AtomicUsize>) {
    loop {
        tokio::time::sleep(GONE_CHECK).await;
        if running.load(Ordering::Relaxed) > 0 && stream.has_ended() {
            return;
        }
    }
}

/// Small answers should not wait for more; a failure only costs time.
fn set_no_delay(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "set TCP_NODELAY");
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::post;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Sends the parts with `pause` before each, and gives what comes back until the end.
    async fn talk(addr: SocketAddr, pause: Duration, parts: &[&str]) -> String {
        let mut stream = TcpStream::connect(addr).await.expect("a connection");
        for part in parts {
            tokio::time::sleep(pause).await;
            // What comes too late finds the connection closed.
            if stream.write_all(part.as_bytes()).await.is_err() {
                break;
            }
        }
        let mut said = Vec::new();
        _ = stream.read_to_end(&mut said).await;
        String::from_utf8_lossy(&said).lines().map(str::to_owned).collect::<Vec<_>>().join("|")
    }

    #[tokio::test]
    async fn slow_clients_are_let_go() {
        let router = Router::new().route("/", post(|body: String| async move { body }));
        let ms = Duration::from_millis;
        let deadlines = Deadlines { head: ms(300), piece: ms(300), body: ms(600) };
        let front = Bound::to("127.0.0.1:0").await.expect("a port").serve_within(deadlines, router);
        let head = "POST / HTTP/1.1\r\nconnection: close\r\ncontent-length: 9\r\n\r\n";
        let slow = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
        let cases: &[(&str, Duration, Vec<&str>, &str)] = &[
            ("silence", ms(0), vec![], ""),
            ("one byte", ms(0), vec!["P"], ""),
            ("half a head", ms(0), vec!["POST / HTTP/1.1\r\nhost:"], ""),
            ("a body in time", ms(20), [&[head][..], &slow].concat(), "200 abcdefghi"),
            ("a body that stops", ms(0), vec![head, "abc"], "400"),
            ("a body drop by drop", ms(150), [&[head][..], &slow].concat(), "400"),
        ];
        for (name, pause, parts, expected) in cases {
            let began = Instant::now();
            let said = talk(front.addr, *pause, parts).await;
            let status = said.split(' ').nth(1).unwrap_or_default();
            let body = said.split("||").nth(1).filter(|_| status == "200");
            let shown = [Some(status), body].into_iter().flatten().collect::<Vec<_>>().join(" ");
            assert_eq!(shown, *expected, "{name}: {said}");
            assert!(began.elapsed() < Duration::from_secs(20), "{name} took {:?}", began.elapsed());
        }
        front.stop().await;
    }
    /// Tells when it is dropped.
    struct Dropped(Option<tokio::sync::oneshot::Sender<()>>);

    impl Drop for Dropped {
        fn drop(&mut self) {
            let _ = self.0.take().map(|told| told.send(()));
        }
    }

    #[tokio::test]
    async fn a_client_that_leaves_behind_more_bytes_ends_its_request() {
        let (told, gone) = tokio::sync::oneshot::channel();
        let (started, running) = tokio::sync::oneshot::channel();
        let both = Arc::new(Mutex::new(Some((told, started))));
        let handler = move || {
            let (told, started) = both.lock().take().expect("one request");
            async move {
                let _dropped = Dropped(Some(told));
                let _ = started.send(());
                std::future::pending::<()>().await;
            }
        };
        let router = Router::new().route("/", axum::routing::get(handler));
        let front = Bound::to("127.0.0.1:0").await.expect("a port").serve(router);
        let mut client = TcpStream::connect(front.addr).await.expect("a connection");
        client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("send");
        running.await.expect("the request runs");
        client.write_all(&b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".repeat(100)).await.expect("send more");
        drop(client);
        let ended = tokio::time::timeout(Duration::from_secs(20), gone).await;
        assert!(ended.is_ok(), "the request runs on without a client");
        front.stop().await;
    }
}
