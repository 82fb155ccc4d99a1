//! A connection's stream, watched while hyper has it.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// How often a connection is looked at while its request runs.
const GONE_CHECK: Duration = Duration::from_secs(1);

/// What a caller sends first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opening {
    /// A TLS handshake.
    Tls,
    /// Anything else.
    Plain,
    /// Nothing: it has left.
    Nothing,
}

/// The first byte of a TLS record with a handshake in it. Source: RFC 8446 section 5.1.
const TLS_HANDSHAKE: u8 = 22;

/// A request under way, counted as long as this lives.
pub(super) struct Running(Arc<AtomicUsize>);

impl Running {
    pub(super) fn new(count: &Arc<AtomicUsize>) -> Running {
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
pub(super) struct Shared(Arc<Mutex<TcpStream>>);

impl Shared {
    pub(super) fn new(stream: TcpStream) -> Shared {
        // Small answers should not wait for more; a failure only costs time.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "set TCP_NODELAY");
        }
        Shared(Arc::new(Mutex::new(stream)))
    }

    /// Waits for the first byte, and leaves it where it is.
    pub(super) async fn opening(&self) -> io::Result<Opening> {
        let mut first = [0];
        let read = std::future::poll_fn(|context| {
            let stream = self.0.lock();
            stream.poll_peek(context, &mut ReadBuf::new(&mut first))
        });
        Ok(match (read.await?, first[0]) {
            (0, _) => Opening::Nothing,
            (_, TLS_HANDSHAKE) => Opening::Tls,
            _ => Opening::Plain,
        })
    }

    /// Our own address on this connection.
    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.lock().local_addr()
    }

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

/// Ends when the client leaves in the middle of a request: hyper sees that too, but not behind bytes
/// that it has no use for yet (a second request, or anything a client sends before it leaves). And when
/// it has not asked for anything for `idle`, where there is such a bound.
pub(super) async fn until_gone(stream: Shared, running: Arc<AtomicUsize>, idle: Option<Duration>) {
    let mut last_busy = Instant::now();
    loop {
        tokio::time::sleep(GONE_CHECK).await;
        let busy = running.load(Ordering::Relaxed) > 0;
        if busy && stream.has_ended() {
            return;
        }
        if busy {
            last_busy = Instant::now();
        }
        if idle.is_some_and(|idle| last_busy.elapsed() >= idle) {
            return;
        }
    }
}
