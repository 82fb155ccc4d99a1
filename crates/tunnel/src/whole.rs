//! A body that came over HTTP/2 and ends only where its sender has ended it.
//!
//! hyper takes a stream that was reset with CANCEL or NO_ERROR for one that has ended: a request that the hub gives up in
//! the middle, or an answer whose agent drops it, would be a shorter one.
//!
//! Source: hyper 1.12, `body/incoming.rs`, `poll_frame`.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::protocol::BoxError;

/// The body of a request or an answer: cut short, it ends with an error. See the module.
#[derive(Debug)]
pub struct Whole(pub(crate) Incoming);

impl Body for Whole {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match Pin::new(&mut self.0).poll_frame(context) {
            Poll::Ready(None) if !self.0.is_end_stream() => {
                Poll::Ready(Some(Err("the stream was reset before its end".into())))
            }
            Poll::Ready(frame) => Poll::Ready(frame.map(|frame| frame.map_err(Into::into))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}
