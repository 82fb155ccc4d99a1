//! Bodies cut for HTTP/2: no frame below [`FRAME_BYTES_MIN`] while more is coming soon, and never an
//! empty one.
//!
//! An HTTP/2 peer counts small and empty DATA frames against budgets of the whole *connection*, and
//! closes it when one is used up: a target that dribbles would cost a cluster its tunnel. So small
//! pieces wait for company, [`FLUSH_AFTER`] at most.
//!
//! Source: h2 0.4.20, `proto/streams/recv.rs` (`too_many_data_frames`) and its empty-frame limit.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::protocol::{Body, BoxError};

/// What a frame carries at least, but for the last and for slow bodies.
pub(crate) const FRAME_BYTES_MIN: usize = 1 << 10;
/// How long a piece waits for company.
pub(crate) const FLUSH_AFTER: Duration = Duration::from_millis(50);

/// A body whose frames are large enough.
pub(crate) struct Coalesced {
    body: Body,
    /// Small pieces that wait; always shorter than [`FRAME_BYTES_MIN`].
    waiting: BytesMut,
    /// What came behind them, when it was large.
    rest: Bytes,
    trailers: Option<HeaderMap>,
    ended: bool,
    flush: Option<Pin<Box<Sleep>>>,
}

impl Coalesced {
    pub(crate) fn new(body: Body) -> Coalesced {
        let (waiting, rest) = (BytesMut::new(), Bytes::new());
        Coalesced { body, waiting, rest, trailers: None, ended: false, flush: None }
    }

    /// Takes a piece; gives a frame when there is enough for one.
    fn take(&mut self, mut piece: Bytes) -> Option<Bytes> {
        if self.waiting.is_empty() && piece.len() >= FRAME_BYTES_MIN {
            return Some(piece);
        }
        let missing = FRAME_BYTES_MIN - self.waiting.len();
        self.waiting.extend_from_slice(&piece[..piece.len().min(missing)]);
        piece.advance(piece.len().min(missing));
        self.rest = piece;
        (self.waiting.len() >= FRAME_BYTES_MIN).then(|| self.take_waiting())
    }

    fn take_waiting(&mut self) -> Bytes {
        self.flush = None;
        self.waiting.split().freeze()
    }

    /// Whether the piece that has waited longest has waited long enough.
    fn is_due(&mut self, context: &mut Context<'_>) -> bool {
        let flush = self
            .flush
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + FLUSH_AFTER)));
        flush.as_mut().poll(context).is_ready()
    }
}

impl http_body::Body for Coalesced {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        loop {
            if !this.rest.is_empty() {
                let rest = std::mem::take(&mut this.rest);
                if let Some(frame) = this.take(rest) {
                    return Poll::Ready(Some(Ok(Frame::data(frame))));
                }
            }
            if this.ended {
                if !this.waiting.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(this.take_waiting()))));
                }
                return Poll::Ready(this.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
            }
            match Pin::new(&mut this.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(piece) => {
                        if let Some(frame) = this.take(piece) {
                            return Poll::Ready(Some(Ok(Frame::data(frame))));
                        }
                    }
                    Err(frame) => {
                        this.trailers = frame.into_trailers().ok();
                        this.ended = true;
                    }
                },
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => this.ended = true,
                Poll::Pending if !this.waiting.is_empty() && this.is_due(context) => {
                    return Poll::Ready(Some(Ok(Frame::data(this.take_waiting()))));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let nothing_held = self.waiting.is_empty() && self.rest.is_empty() && self.trailers.is_none();
        nothing_held && (self.ended || self.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let held = (self.waiting.len() + self.rest.len()) as u64;
        let body = self.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(body.lower().saturating_add(held));
        if let Some(upper) = body.upper() {
            hint.set_upper(upper.saturating_add(held));
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use proptest::prelude::*;

    use super::*;

    /// A body of pieces, each after a pause of so many milliseconds.
    struct Pieces {
        left: std::vec::IntoIter<(u64, usize)>,
        next: Option<(Pin<Box<Sleep>>, usize)>,
    }

    impl http_body::Body for Pieces {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            if self.next.is_none() {
                let Some((pause_ms, bytes)) = self.left.next() else { return Poll::Ready(None) };
                self.next = Some((Box::pin(tokio::time::sleep(Duration::from_millis(pause_ms))), bytes));
            }
            let Some((pause, bytes)) = &mut self.next else { return Poll::Ready(None) };
            // A piece without a pause is there at once, whatever the timer's grain.
            if !pause.is_elapsed() && pause.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            let piece = Bytes::from(vec![b'x'; *bytes]);
            self.next = None;
            Poll::Ready(Some(Ok(Frame::data(piece))))
        }
    }

    fn body(pieces: Vec<(u64, usize)>) -> Body {
        Pieces { left: pieces.into_iter(), next: None }.boxed_unsync()
    }

    /// The lengths of the frames that come out.
    async fn frames(pieces: Vec<(u64, usize)>) -> Vec<usize> {
        let mut body = Coalesced::new(body(pieces));
        let mut lengths = Vec::new();
        while let Some(frame) = body.frame().await {
            lengths.push(frame.expect("no error").into_data().expect("data").len());
        }
        lengths
    }

    #[tokio::test(start_paused = true)]
    async fn small_pieces_are_joined() {
        for (pieces, expected) in [
            (vec![], vec![]),
            (vec![(0, 0), (0, 0)], vec![]),
            (vec![(0, 10); 200], vec![1024, 976]),
            (vec![(0, 5000), (0, 3000)], vec![5000, 3000]),
            (vec![(0, 10), (0, 5000)], vec![1024, 3986]),
            (vec![(0, 10), (0, 1020), (0, 1)], vec![1024, 7]),
            // slower than the flush: each alone, but never an empty one
            (vec![(100, 10), (100, 0), (100, 20)], vec![10, 20]),
            // faster than the flush: those of 50 ms together
            (vec![(20, 10); 6], vec![30, 30]),
        ] {
            assert_eq!(frames(pieces.clone()).await, expected, "{pieces:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn nothing_is_lost_and_nothing_small_is_sent(
            pieces in proptest::collection::vec((0u64..1, 0usize..3000), 0..60),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
            let runtime = runtime.expect("a runtime");
            let total: usize = pieces.iter().map(|(_, bytes)| bytes).sum();
            let frames = runtime.block_on(frames(pieces));
            prop_assert_eq!(frames.iter().sum::<usize>(), total);
            let all_but_last = frames.len().saturating_sub(1);
            prop_assert!(frames[..all_but_last].iter().all(|bytes| *bytes >= FRAME_BYTES_MIN), "{:?}", frames);
            prop_assert!(frames.last().is_none_or(|bytes| *bytes > 0));
        }
    }
}
