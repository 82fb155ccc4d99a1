//! The stream below a tunnel, and whether anything still passes on it.
//!
//! hyper's pings find most dead connections, but not all: a server sends them only once the client has begun; and before
//! it ends, h2 wants to get rid of what it has to say, and reads nothing while it cannot. Where nothing passes any more and
//! the system's buffer is full, a dead tunnel would be held until the system gives up, after a quarter of an hour. So
//! what comes is read ahead while nothing can be written: a peer that has gone is known at once.

use std::collections::VecDeque;
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
    /// What came while nothing could be written, not asked for yet.
    ahead: VecDeque<u8>,
}

/// Most bytes that are read ahead; an end behind more is found when they are asked for, or nothing is written for long.
const AHEAD_BYTES_MAX: usize = 64 << 10;
/// As many are read ahead at once.
const AHEAD_PIECE: usize = 2 << 10;

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
        let heard =
            Heard { io: TokioIo::new(io), signs: signs.clone(), has_ended: false, ahead: VecDeque::new() };
        (TokioIo::new(heard), signs)
    }

    fn check(&self) -> io::Result<()> {
        if self.has_ended { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    }
}

impl<I: hyper::rt::Read + Unpin> Heard<I> {
    fn note<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.signs.0.lock().blocked = None;
            return written;
        }
        self.signs.0.lock().blocked.get_or_insert_with(Instant::now);
        self.read_ahead(context);
        if self.has_ended { Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())) } else { Poll::Pending }
    }

    /// Reads what is there; the task is woken when more comes, or the end.
    fn read_ahead(&mut self, context: &mut Context<'_>) {
        let mut piece = [0; AHEAD_PIECE];
        while !self.has_ended && self.ahead.len() < AHEAD_BYTES_MAX {
            let mut into = ReadBuf::new(&mut piece);
            match Pin::new(&mut self.io).poll_read(context, &mut into) {
                Poll::Pending => return,
                Poll::Ready(Ok(())) if !into.filled().is_empty() => {
                    self.ahead.extend(into.filled());
                    self.signs.0.lock().heard = Instant::now();
                }
                Poll::Ready(_) => self.has_ended = true,
            }
        }
    }
}

impl<I: hyper::rt::Read + Unpin> AsyncRead for Heard<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() && into.remaining() > 0 {
            let (piece, _) = self.ahead.as_slices();
            let bytes = piece.len().min(into.remaining());
            into.put_slice(&piece[..bytes]);
            self.ahead.drain(..bytes);
            if self.ahead.is_empty() {
                self.ahead = VecDeque::new();
            }
            return Poll::Ready(Ok(()));
        }
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

impl<I: hyper::rt::Read + hyper::rt::Write + Unpin> AsyncWrite for Heard<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        let written = Pin::new(&mut self.io).poll_write(context, bytes);
        self.note(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        let flushed = Pin::new(&mut self.io).poll_flush(context);
        self.note(context, flushed)
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
        self.note(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Takes nothing, and has this to say before it ends, if it does.
    struct Deaf {
        says: Vec<u8>,
        ends: bool,
    }

    impl AsyncRead for Deaf {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            into: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if self.says.is_empty() && !self.ends {
                return Poll::Pending;
            }
            let bytes = self.says.len().min(into.remaining()).min(700);
            into.put_slice(&self.says.drain(..bytes).collect::<Vec<_>>());
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Deaf {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Pending
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn an_end_is_known_while_nothing_can_be_written_and_nothing_that_came_is_lost() {
        for (bytes, ends, is_known) in [
            (0, true, true),
            (5_000, true, true),
            (5_000, false, false),
            // Behind more than is read ahead it is found later.
            (AHEAD_BYTES_MAX * 2, true, false),
        ] {
            let says: Vec<u8> = (0..bytes).map(|n| (n % 251) as u8).collect();
            let (io, _) = Heard::over(TokioIo::new(Deaf { says: says.clone(), ends }));
            let mut heard = io.into_inner();
            let written = poll_fn(|context| {
                Poll::Ready(match Pin::new(&mut heard).poll_write(context, b"x") {
                    Poll::Pending => None,
                    Poll::Ready(done) => Some(done.map_err(|error| error.kind())),
                })
            });
            let expected = is_known.then_some(Err(io::ErrorKind::BrokenPipe));
            assert_eq!(written.await, expected, "{bytes} bytes, ends: {ends}");
            let mut read = vec![0; bytes];
            heard.read_exact(&mut read).await.expect("what came");
            assert!(read == says, "{bytes} bytes are read as they came");
            if ends {
                assert_eq!(heard.read(&mut [0; 9]).await.expect("an end"), 0);
                assert!(heard.write(b"x").await.is_err(), "nothing is written to who has gone");
            }
        }
    }
}
