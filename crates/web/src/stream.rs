//! A body that comes piece by piece from somebody else, and ends early when that somebody fails.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::BoxError;
use axum::body::{Body, Bytes, HttpBody};
use http_body::Frame;
use tokio::sync::mpsc;

use crate::reply::ApiError;

/// What is sent into a body.
pub(crate) type Piece = Result<Bytes, ApiError>;

/// A body of `first` and the pieces that `receiver` gets. An error breaks the connection off, so that
/// the client does not take what it has for the whole.
pub(crate) fn body(first: Bytes, receiver: mpsc::Receiver<Piece>) -> Body {
    Body::new(Pieces { first: Some(first).filter(|first| !first.is_empty()), receiver })
}

struct Pieces {
    first: Option<Bytes>,
    receiver: mpsc::Receiver<Piece>,
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        let frame = |piece: Piece| piece.map(Frame::data).map_err(|error| error.message.into());
        self.receiver.poll_recv(context).map(|piece| piece.map(frame))
    }
}
