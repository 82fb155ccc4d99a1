//! The body of an agent's answer: read in time, or reset.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use tokio::time::Instant;

use super::link::Link;
use super::slots::Slot;
use crate::protocol::BoxError;
use crate::whole::Whole;

/// The body of an agent's answer. Never empty frames. Dropping it before its end resets the stream, and
/// so does the request's deadline, whether it is read or not.
pub struct TunnelBody {
    answer: Arc<Answer>,
    /// Where the answer is listed, and as what.
    listed: Option<(Arc<Link>, u64)>,
}

impl fmt::Debug for TunnelBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TunnelBody")
    }
}

/// An answer under way; it ends by its reader or by the clock.
pub(super) struct Answer {
    end: Instant,
    bytes: Counter,
    state: Mutex<State>,
}

struct State {
    /// The stream and the place it takes; absent after the end.
    open: Option<(Whole, Slot)>,
    /// Whether the clock ended it.
    late: bool,
    reader: Option<Waker>,
}

impl Answer {
    pub(super) fn is_late(&self, now: Instant) -> bool {
        now >= self.end
    }

    /// Resets the stream.
    pub(super) fn time_is_over(&self) {
        let (open, reader) = {
            let mut state = self.state.lock();
            state.late = state.open.is_some();
            (state.open.take(), state.reader.take())
        };
        drop(open);
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

impl TunnelBody {
    pub(super) fn new(body: Whole, slot: Slot, end: Instant, bytes: Counter) -> TunnelBody {
        let state = State { open: Some((body, slot)), late: false, reader: None };
        let answer = Arc::new(Answer { end, bytes, state: Mutex::new(state) });
        TunnelBody { answer, listed: None }
    }

    pub(super) fn listed(mut self, at: Arc<Link>, number: u64) -> TunnelBody {
        self.listed = Some((at, number));
        self
    }

    pub(super) fn weak(&self) -> Weak<Answer> {
        Arc::downgrade(&self.answer)
    }
}

impl http_body::Body for TunnelBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut state = self.answer.state.lock();
        loop {
            if std::mem::take(&mut state.late) {
                return Poll::Ready(Some(Err("the answer did not come whole in time".into())));
            }
            let Some((body, _)) = &mut state.open else { return Poll::Ready(None) };
            match Pin::new(body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    if let Some(data) = frame.data_ref() {
                        if data.is_empty() {
                            continue;
                        }
                        self.answer.bytes.inc_by(data.len() as u64);
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
                Poll::Ready(Some(Err(error))) => {
                    state.open = None;
                    return Poll::Ready(Some(Err(format!("the tunnel broke off: {error}").into())));
                }
                Poll::Ready(None) => {
                    state.open = None;
                    return Poll::Ready(None);
                }
                Poll::Pending => {
                    state.reader = Some(context.waker().clone());
                    return Poll::Pending;
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let state = self.answer.state.lock();
        !state.late && state.open.as_ref().is_none_or(|(body, _)| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let state = self.answer.state.lock();
        state.open.as_ref().map_or(SizeHint::with_exact(0), |(body, _)| body.size_hint())
    }
}

impl Drop for TunnelBody {
    fn drop(&mut self) {
        if let Some((link, number)) = self.listed.take() {
            link.forget(number);
        }
    }
}
