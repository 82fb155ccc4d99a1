//! The agent's end of a tunnel: an HTTP/2 server on a connection it dialled itself.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio_util::sync::CancellationToken;

use crate::coalesce::Coalesced;
use crate::heard::Heard;
use crate::protocol::{
    AGENT_SAYS, Body, BoxError, HEADERS_BYTES_MAX, SEND_BUFFER_BYTES, STREAM_WINDOW, STREAMS_MAX, Timings,
};
use crate::whole::Whole;

/// An answer in the making.
type Answering = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// Answers a hub's requests.
#[derive(Clone)]
pub struct Handler(Arc<dyn Fn(Request<Whole>) -> Answering + Send + Sync>);

impl fmt::Debug for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handler")
    }
}

impl Handler {
    /// A hyper service as a handler (a tower service through `hyper_util::service::TowerToHyperService`).
    /// When the hub gives up a request, its future is dropped.
    pub fn new<S, B>(service: S) -> Handler
    where
        S: Service<Request<Whole>, Response = Response<B>, Error = Infallible> + Send + Sync + 'static,
        S::Future: Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Handler(Arc::new(move |request| {
            let answer = service.call(request);
            Box::pin(async move {
                let response = match answer.await {
                    Ok(response) => response,
                    Err(never) => match never {},
                };
                response.map(|body| body.map_err(Into::into).boxed_unsync())
            })
        }))
    }

    /// From a function that makes a future.
    pub fn from_fn<F, A>(answer: F) -> Handler
    where
        F: Fn(Request<Whole>) -> A + Send + Sync + 'static,
        A: Future<Output = Response<Body>> + Send + 'static,
    {
        Handler(Arc::new(move |request| Box::pin(answer(request))))
    }

    /// Answers `request`.
    pub fn call(&self, request: Request<Whole>) -> impl Future<Output = Response<Body>> + Send + use<> {
        (self.0)(request)
    }
}

/// A response with a short text.
pub(crate) fn text(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    let body = http_body_util::Full::new(Bytes::from(text.into()));
    let mut response = Response::new(body.map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    let plain = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, plain);
    response.headers_mut().insert(AGENT_SAYS, http::HeaderValue::from_static("1"));
    response
}

/// A response without a body.
pub(crate) fn bare(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response
}

/// How serving ended badly.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    /// HTTP/2 did.
    #[error(transparent)]
    Connection(#[from] hyper::Error),
    /// Nothing passes any more, and the connection's own pings have not found it.
    #[error("no answer from the hub")]
    Silent,
}

/// Serves `handler` on `io` until the hub goes, stops answering, or `drain` is cancelled: then it takes
/// nothing new (GOAWAY) and finishes what it has begun.
pub(crate) async fn serve<I>(
    io: I,
    handler: Handler,
    timings: Timings,
    drain: CancellationToken,
) -> Result<(), ServeError>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(timings.ping_every)
        .keep_alive_timeout(timings.ping_timeout)
        .adaptive_window(false)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(STREAM_WINDOW * 8)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADERS_BYTES_MAX)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .auto_date_header(false);
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = handler.call(request.map(Whole));
        async move { Ok::<_, Infallible>(answer.await.map(Coalesced::new)) }
    });
    let (io, signs) = Heard::over(io);
    let served = async {
        let mut connection = std::pin::pin!(builder.serve_connection(io, service));
        tokio::select! {
            biased;
            ended = connection.as_mut() => return ended,
            () = drain.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        match tokio::time::timeout(timings.drain, connection).await {
            Ok(ended) => ended,
            Err(_) => Ok(()), // what still runs is cut off
        }
    };
    tokio::select! {
        biased;
        ended = served => Ok(ended?),
        () = signs.gone(timings) => Err(ServeError::Silent),
    }
}
