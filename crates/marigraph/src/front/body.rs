//! Bodies of requests, read in time.

use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Bytes, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep};

use super::Deadlines;

/// A body that breaks off when it comes too slowly.
pub(super) struct TimedBody {
    body: Incoming,
    deadlines: Deadlines,
    end: Instant,
    /// Runs out at the end of this piece's time.
    patience: Pin<Box<Sleep>>,
}

impl TimedBody {
    pub(super) fn new(body: Incoming, deadlines: Deadlines) -> TimedBody {
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
