//! The stream below a tunnel, and whether anything still passes on it.
//!
//! hyper's pings find most dead connections, but not all: a server sends them only once the client has begun; and before
//! it ends, h2 wants to get rid of what it has to say, and reads nothing while it cannot. Where nothing passes any more and
//! the system's buffer is full, a dead tunnel would be held until the system gives up, after a quarter of an hour.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::protocol::Timings;

/// See the module.
pub(crate) struct Heard<I> {
    io: TokioIo<I>,
    signs: Signs,
    /// Whoever has gone is not written to.
    has_ended: bool,
}

/// Signs of life. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Signs(Arc<Mutex<Times>>);

struct Times {
    heard: Instant,
    /// Since when not a byte more could be written.
    blocked: Option<Instant>,
}

impl Signs {
    /// Ends when nothing has been heard for as long as pings and their answers take, or nothing more could be written
    /// for as long as answers may take.
    pub(crate) async fn gone(&self, timings: Timings) {
        loop {
            let now = Instant::now();
            let until = {
                let times = self.0.lock();
                let heard = times.heard + timings.ping_every + timings.ping_timeout + GRACE;
                heard.min(times.blocked.unwrap_or(now) + timings.ping_timeout + GRACE)
            };
            if until <= now {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

/// The pings come first, where they can.
const GRACE: Duration = Duration::from_millis(500);

impl<I> Heard<I> {
    pub(crate) fn over(io: I) -> (TokioIo<Heard<I>>, Signs) {
        let times = Times { heard: Instant::now(), blocked: None };
        let signs = Signs(Arc::new(Mutex::new(times)));
        (TokioIo::new(Heard { io: TokioIo::new(io), signs: signs.clone(), has_ended: false }), signs)
    }

    fn note<T>(&self, written: Poll<T>) -> Poll<T> {
        let mut times = self.signs.0.lock();
        match written {
            Poll::Ready(_) => times.blocked = None,
            Poll::Pending => _ = times.blocked.get_or_insert_with(Instant::now),
        }
        written
    }

    fn check(&self) -> io::Result<()> {
        if self.has_ended { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    }
}

impl<I: hyper::rt::Read + Unpin> AsyncRead for Heard<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = Pin::new(&mut self.io).poll_read(context, into);
        if read.is_ready() {
            if into.filled().len() > before {
                self.signs.0.lock().heard = Instant::now();
            } else if into.remaining() > 0 {
                self.has_ended = true;
            }
        }
        read
    }
}

impl<I: hyper::rt::Write + Unpin> AsyncWrite for Heard<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        let written = Pin::new(&mut self.io).poll_write(context, bytes);
        self.note(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        let flushed = Pin::new(&mut self.io).poll_flush(context);
        self.note(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        let written = Pin::new(&mut self.io).poll_write_vectored(context, pieces);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
