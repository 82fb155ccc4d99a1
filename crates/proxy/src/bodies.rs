//! Bodies on their way through.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::{Body, BoxError};

/// A body that breaks off at the deadline, counts its bytes, and holds its caller's place to the end.
pub(crate) struct Passing {
    body: Body,
    until: Pin<Box<Sleep>>,
    bytes: Counter,
    _held: Held,
}

/// What a request holds while it is under way.
pub(crate) struct Held {
    in_flight: Gauge,
    _place: OwnedSemaphorePermit,
}

impl Held {
    pub(crate) fn new(in_flight: Gauge, place: OwnedSemaphorePermit) -> Held {
        in_flight.inc();
        Held { in_flight, _place: place }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.in_flight.dec();
    }
}

impl Passing {
    pub(crate) fn new(body: Body, deadline: Instant, bytes: Counter, held: Held) -> Passing {
        Passing { body, until: Box::pin(sleep_until(deadline)), bytes, _held: held }
    }
}

impl HttpBody for Passing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) {
            if let Some(Ok(frame)) = &frame {
                this.bytes.inc_by(frame.data_ref().map_or(0, |data| data.len() as u64));
            }
            return Poll::Ready(frame);
        }
        this.until.as_mut().poll(context).map(|()| Some(Err("the scrape's time has run out".into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body whose pieces somebody else sends. An error breaks it off; so does a sender that is dropped
/// without having said [`Piece::End`].
pub(crate) struct Handed {
    pieces: mpsc::Receiver<Piece>,
    ended: bool,
}

/// A piece of a [`Handed`] body.
pub(crate) enum Piece {
    Data(Bytes),
    End,
}

impl Handed {
    pub(crate) fn new(pieces: mpsc::Receiver<Piece>) -> Handed {
        Handed { pieces, ended: false }
    }
}

impl HttpBody for Handed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let piece = std::task::ready!(self.pieces.poll_recv(context));
        Poll::Ready(match piece {
            Some(Piece::Data(data)) => Some(Ok(Frame::data(data))),
            Some(Piece::End) => {
                self.ended = true;
                None
            }
            None => {
                self.ended = true;
                Some(Err("the sender broke off".into()))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}
