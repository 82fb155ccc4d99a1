//! One direction of a stream.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::ReadBuf;
use tokio::time::{Instant, Sleep};

use crate::Dice;

/// Bytes in order, each piece there at its time.
pub(super) struct Pipe {
    pieces: VecDeque<(Instant, Bytes)>,
    bytes: usize,
    /// As many bytes may be on their way; a writer waits then.
    room: usize,
    /// At most so many are read at once.
    at_once: usize,
    last: Instant,
    stalled_until: Instant,
    /// Nothing will ever come out again.
    is_forgotten: bool,
    is_reset: bool,
    /// The writer has said that this is all.
    has_ended: bool,
    reader_has_left: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Pipe {
    pub(super) fn new(dice: &mut Dice) -> Pipe {
        let now = Instant::now();
        Pipe {
            pieces: VecDeque::new(),
            bytes: 0,
            room: if dice.one_in(3) { 600 + dice.below(4_000) as usize } else { 64 << 10 },
            at_once: if dice.one_in(4) { 20 + dice.below(1_000) as usize } else { usize::MAX },
            last: now,
            stalled_until: now,
            is_forgotten: false,
            is_reset: false,
            has_ended: false,
            reader_has_left: false,
            reader: None,
            writer: None,
            alarm: None,
        }
    }

    pub(super) fn stall(&mut self, until: Instant) {
        self.stalled_until = until;
        self.wake();
    }

    pub(super) fn forget(&mut self) {
        self.is_forgotten = true;
    }

    /// Ends it here; of what is on its way so many thousandths still come.
    pub(super) fn cut(&mut self, is_reset: bool, thousandths: u64) {
        let keep = self.bytes * thousandths as usize / 1_000;
        let mut kept = 0;
        self.pieces.retain_mut(|(_, piece)| {
            piece.truncate(keep.saturating_sub(kept));
            kept += piece.len();
            !piece.is_empty()
        });
        self.bytes = kept;
        self.has_ended = true;
        self.is_reset = is_reset;
        self.reader_has_left = true;
        self.wake();
    }

    pub(super) fn end(&mut self) {
        self.has_ended = true;
        self.wake();
    }

    pub(super) fn reader_has_left(&mut self) {
        self.reader_has_left = true;
        self.wake();
    }

    /// Whether anything can pass now.
    pub(super) fn passes(&self, now: Instant) -> bool {
        !self.is_forgotten && self.stalled_until <= now
    }

    fn wake(&mut self) {
        self.reader.take().into_iter().chain(self.writer.take()).for_each(Waker::wake);
    }

    pub(super) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
        delay: Duration,
    ) -> Poll<io::Result<usize>> {
        let now = Instant::now();
        // Where nothing passes, nobody hears that the other end has gone.
        if self.has_ended || self.reader_has_left && self.passes(now) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = self.room.saturating_sub(self.bytes).min(bytes.len());
        if room == 0 {
            self.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        self.last = self.last.max(now + delay);
        self.pieces.push_back((self.last, Bytes::copy_from_slice(&bytes[..room])));
        self.bytes += room;
        self.reader.take().into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(room))
    }

    pub(super) fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let now = Instant::now();
        let mut due = None;
        if !self.is_forgotten {
            due = match self.pieces.front() {
                Some((at, _)) => Some((*at).max(self.stalled_until)),
                None => self.has_ended.then_some(self.stalled_until),
            };
        }
        if let Some(at) = due.filter(|at| *at > now) {
            let mut alarm = Box::pin(tokio::time::sleep_until(at));
            if alarm.as_mut().poll(context).is_pending() {
                self.alarm = Some(alarm);
                due = None;
            }
        }
        if due.is_none() {
            self.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        let Some((_, piece)) = self.pieces.front_mut() else {
            let reset = || Err(io::ErrorKind::ConnectionReset.into());
            return Poll::Ready(if self.is_reset { reset() } else { Ok(()) });
        };
        let bytes = piece.len().min(into.remaining()).min(self.at_once);
        into.put_slice(&piece[..bytes]);
        piece.advance(bytes);
        if piece.is_empty() {
            self.pieces.pop_front();
        }
        self.bytes -= bytes;
        self.writer.take().into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(()))
    }
}
