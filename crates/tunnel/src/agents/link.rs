//! One connection of an agent, seen from the hub.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::Full;
use hyper::client::conn::http2;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use stdx::clock::Clock;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::Ask;
use super::answer::{Answer, TunnelBody};
use super::metrics::AgentsMetrics;
use super::slots::{Lane, Slots};
use crate::heard::{Heard, Signs};
use crate::identity::PeerIdentity;
use crate::protocol::{
    AHEAD_MS, BULK_CONNECTION_WINDOW, BULK_STREAM_WINDOW, CONNECTION_WINDOW, HEADERS_BYTES_MAX, Kind,
    PING_PATH, ROUND_TRIP_US, SEND_BUFFER_BYTES, STREAM_WINDOW, TIME_MS, Timings, number,
};
use crate::whole::Whole;

/// A target that has not begun to answer by then makes room for others.
const SLOW_AFTER: Duration = Duration::from_secs(1);
/// Why a connection is closed that nothing has come on for too long.
const SILENT: &str = "no answer to pings (nothing passes any more)";
/// The first measurement waits a little: most requests come right after connecting.
const FIRST_MEASUREMENT: Duration = Duration::from_secs(1);

/// What an agent said when it asked for the connection.
pub(super) struct Hello {
    pub(super) kind: Kind,
    pub(super) remote: SocketAddr,
    pub(super) peer: PeerIdentity,
    pub(super) version: Option<String>,
    pub(super) started_ms: Option<i64>,
    pub(super) incarnation: Option<String>,
}

/// A measurement of an agent's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// There and back again.
    pub round_trip: Duration,
    /// How far the agent's clock is ahead of ours, milliseconds (negative: behind), give or take half
    /// the round trip.
    pub clock_ahead_ms: i64,
    /// When, milliseconds since the epoch.
    pub at_ms: i64,
}

type Sender = http2::SendRequest<Full<Bytes>>;
type Connection = http2::Connection<TokioIo<Heard<Upgraded>>, Full<Bytes>, Tasks>;

/// What runs for a connection ends when the connection is closed. Left to itself hyper keeps it, and the stream below
/// it, as long as answers are under way.
#[derive(Clone)]
struct Tasks(CancellationToken);

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, task: F) {
        let closing = self.0.clone();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = closing.cancelled() => {}
                _ = task => {}
            }
        });
    }
}

/// A connection to ask on.
pub(super) struct Link {
    pub(super) number: u64,
    pub(super) kind: Kind,
    pub(super) remote: SocketAddr,
    pub(super) peer: PeerIdentity,
    pub(super) since_ms: i64,
    sender: Sender,
    slots: Slots,
    closing: CancellationToken,
    why_closed: Mutex<Option<String>>,
    measured: Mutex<Option<Measured>>,
    answers: Mutex<BTreeMap<u64, Weak<Answer>>>,
    answer_numbers: AtomicU64,
}

/// How asking went.
pub(super) enum Asked {
    Answered(Response<TunnelBody>),
    /// The connection was closed already; the request is here.
    Unsent(Request<Bytes>),
    /// The agent has not looked at it: it was about to close the connection.
    Refused(String),
    /// The connection broke.
    Lost(String),
    /// So many wait already.
    Busy(usize),
    /// The time was over while it waited for this.
    Late(&'static str),
}

impl Link {
    /// Begins HTTP/2 on a connection, as its client.
    pub(super) async fn over(
        io: Upgraded,
        number: u64,
        hello: Hello,
        since_ms: i64,
        timings: Timings,
    ) -> Result<(Arc<Link>, Driving), hyper::Error> {
        let (stream_window, connection_window) = match hello.kind {
            Kind::Control => (STREAM_WINDOW, CONNECTION_WINDOW),
            Kind::Bulk => (BULK_STREAM_WINDOW, BULK_CONNECTION_WINDOW),
        };
        let closing = CancellationToken::new();
        let mut builder = http2::Builder::new(Tasks(closing.clone()));
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(timings.ping_every)
            .keep_alive_timeout(timings.ping_timeout)
            .keep_alive_while_idle(true)
            .adaptive_window(false)
            .initial_stream_window_size(stream_window)
            .initial_connection_window_size(connection_window)
            .max_header_list_size(HEADERS_BYTES_MAX)
            .max_send_buf_size(SEND_BUFFER_BYTES);
        let (io, signs) = Heard::over(io);
        let (sender, connection) = builder.handshake(io).await?;
        let link = Arc::new(Link {
            number,
            kind: hello.kind,
            remote: hello.remote,
            peer: hello.peer,
            since_ms,
            sender,
            slots: Slots::new(hello.kind),
            closing,
            why_closed: Mutex::new(None),
            measured: Mutex::new(None),
            answers: Mutex::default(),
            answer_numbers: AtomicU64::new(0),
        });
        Ok((link, Driving { connection, signs, timings }))
    }

    /// Whether nothing can be asked here any more.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed() || self.closing.is_cancelled()
    }

    pub(super) fn close(&self, reason: &str) {
        self.why_closed.lock().get_or_insert_with(|| reason.to_owned());
        self.closing.cancel();
    }

    /// Requests under way.
    pub(super) fn load(&self) -> usize {
        self.slots.used()
    }

    pub(super) fn waiting(&self) -> usize {
        self.slots.waiting()
    }

    pub(super) fn measured(&self) -> Option<Measured> {
        *self.measured.lock()
    }

    /// Ends the answers whose time is over.
    pub(super) fn reap(&self, now: Instant) {
        let mut late = Vec::new();
        self.answers.lock().retain(|_, answer| match answer.upgrade() {
            Some(answer) => {
                if answer.is_late(now) {
                    late.push(answer);
                    return false;
                }
                true
            }
            None => false,
        });
        for answer in late {
            answer.time_is_over();
        }
    }

    /// Asks, and waits for the head of the answer.
    pub(super) async fn ask(
        self: &Arc<Self>,
        request: Request<Bytes>,
        ask: Ask,
        end: Instant,
        metrics: &AgentsMetrics,
    ) -> Asked {
        let slot = tokio::select! {
            biased;
            () = self.closing.cancelled() => return Asked::Unsent(request),
            slot = timeout_at(end, self.slots.take(ask.lane)) => slot,
        };
        let mut slot = match slot {
            Ok(Ok(slot)) => slot,
            Ok(Err(waiting)) => return Asked::Busy(waiting),
            Err(_) => return Asked::Late("waiting for other requests"),
        };
        let mut sender = self.sender.clone();
        let sent = sender.try_send_request(prepared(request));
        let mut sent = std::pin::pin!(sent);
        let slow_at = (Instant::now() + SLOW_AFTER).min(end);
        let mut answer = timeout_at(slow_at, sent.as_mut()).await;
        if answer.is_err() && slow_at < end {
            slot.step_aside();
            answer = timeout_at(end, sent).await;
        }
        match answer {
            Err(_) => Asked::Late("waiting for the answer to begin"),
            Ok(Ok(response)) => {
                let number = self.answer_numbers.fetch_add(1, Ordering::Relaxed);
                Asked::Answered(response.map(|body| {
                    let body = TunnelBody::new(Whole(body), slot, end, metrics.body_bytes.clone());
                    let body = body.listed(Arc::clone(self), number);
                    self.answers.lock().insert(number, body.weak());
                    body
                }))
            }
            Ok(Err(mut failed)) => match failed.take_message() {
                Some(unsent) => Asked::Unsent(unprepared(unsent)),
                None => self.broken(failed.error()),
            },
        }
    }

    /// An answer has ended by itself.
    pub(super) fn forget(&self, answer: u64) {
        self.answers.lock().remove(&answer);
    }

    fn broken(&self, error: &hyper::Error) -> Asked {
        if let Some(why) = &*self.why_closed.lock() {
            return Asked::Lost(format!("the tunnel was closed: {why}"));
        }
        let text = describe(error);
        if error.is_canceled() { Asked::Refused(text) } else { Asked::Lost(text) }
    }

    /// Asks the agent for its time.
    async fn measure(&self, clock: &dyn Clock, timeout: Duration) -> Option<Measured> {
        let mut request = Request::new(Bytes::new());
        *request.uri_mut() = Uri::from_static(PING_PATH);
        let sent_ms = clock.now_ms();
        let headers = request.headers_mut();
        headers.insert(TIME_MS, HeaderValue::from(sent_ms));
        if let Some(last) = self.measured() {
            let us = i64::try_from(last.round_trip.as_micros()).unwrap_or(i64::MAX);
            headers.insert(ROUND_TRIP_US, HeaderValue::from(us));
            headers.insert(AHEAD_MS, HeaderValue::from(last.clock_ahead_ms));
        }
        let sent = Instant::now();
        let _slot = self.slots.take(Lane::Control).await.ok()?;
        let mut sender = self.sender.clone();
        let answer =
            tokio::time::timeout(timeout, sender.send_request(prepared(request))).await.ok()?.ok()?;
        let round_trip = sent.elapsed();
        let agent_ms = number(answer.headers(), &TIME_MS)?;
        let half_ms = i64::try_from(round_trip.as_millis() / 2).unwrap_or(0);
        let clock_ahead_ms = agent_ms.saturating_sub(sent_ms.saturating_add(half_ms));
        Some(Measured { round_trip, clock_ahead_ms, at_ms: clock.now_ms() })
    }

    /// Measures again and again.
    async fn keep_measuring(&self, clock: &dyn Clock, timings: Timings) {
        let mut pause = FIRST_MEASUREMENT.min(timings.measure_every);
        loop {
            tokio::time::sleep(pause).await;
            if let Some(measured) = self.measure(clock, timings.ping_timeout).await {
                *self.measured.lock() = Some(measured);
            }
            pause = timings.measure_every;
        }
    }
}

/// What keeps a connection going.
pub(super) struct Driving {
    connection: Connection,
    signs: Signs,
    timings: Timings,
}

impl Driving {
    /// Drives the connection until it ends; tells why it did. Answers that are under way then go on, as long as
    /// something passes.
    pub(super) async fn run(self, link: &Arc<Link>, clock: &dyn Clock) -> String {
        let measuring = async {
            match link.kind {
                Kind::Control => link.keep_measuring(clock, self.timings).await,
                Kind::Bulk => std::future::pending().await,
            }
        };
        let ended = tokio::select! {
            biased;
            () = link.closing.cancelled() => {
                return link.why_closed.lock().clone().unwrap_or_else(|| "closed".to_owned());
            }
            ended = self.connection => ended,
            () = self.signs.gone(self.timings) => {
                link.close(SILENT);
                return SILENT.to_owned();
            }
            () = measuring => Ok(()),
        };
        let (closing, weak) = (link.closing.clone(), Arc::downgrade(link));
        tokio::spawn(close_when_silent(self.signs, self.timings, weak, closing));
        match ended {
            Ok(()) => "the agent closed it".to_owned(),
            Err(error) => describe(&error),
        }
    }
}

/// Closes a connection that nobody drives any more once nothing passes on it.
async fn close_when_silent(signs: Signs, timings: Timings, link: Weak<Link>, closing: CancellationToken) {
    tokio::select! {
        () = closing.cancelled() => {}
        () = signs.gone(timings) => match link.upgrade() {
            Some(link) => link.close(SILENT),
            None => closing.cancel(),
        },
    }
}

fn describe(error: &hyper::Error) -> String {
    let text = crate::dial::chain(error);
    if text.contains("keep-alive timed out") { format!("no answer to pings ({text})") } else { text }
}

/// The request as HTTP/2 wants it: with a scheme and an authority.
fn prepared(request: Request<Bytes>) -> Request<Full<Bytes>> {
    let (mut parts, body) = request.into_parts();
    let mut uri = parts.uri.into_parts();
    uri.scheme = Some(Scheme::HTTPS);
    uri.authority = Some(Authority::from_static("agent"));
    if uri.path_and_query.is_none() {
        uri.path_and_query = Some(PathAndQuery::from_static("/"));
    }
    parts.uri = Uri::from_parts(uri).unwrap_or_default();
    parts.version = http::Version::HTTP_2;
    Request::from_parts(parts, Full::new(body))
}

/// Undoes [`prepared`] for another attempt.
fn unprepared(request: Request<Full<Bytes>>) -> Request<Bytes> {
    let (parts, mut body) = request.into_parts();
    let frame = std::pin::Pin::new(&mut body);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let data = match http_body::Body::poll_frame(frame, &mut context) {
        std::task::Poll::Ready(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
        _ => Bytes::new(),
    };
    Request::from_parts(parts, data)
}
