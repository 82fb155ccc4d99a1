//! What both ends of a tunnel say to each other: paths, headers, windows and times.
//!
//! `docs/formats/tunnel.md` has it for other implementers.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use http_body_util::combinators::UnsyncBoxBody;

/// A streamed body of either direction.
pub type Body = UnsyncBoxBody<bytes::Bytes, BoxError>;

/// Whatever went wrong inside a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Where an agent asks the hub for a tunnel.
pub const TUNNEL_PATH: &str = "/fleet/v1/tunnel";
/// What the connection is turned into (`Upgrade` header).
pub const UPGRADE: &str = "marigraph-tunnel";
/// Where an agent answers the hub's measurements; answered by the tunnel itself.
pub const PING_PATH: &str = "/tunnel/v1/ping";
/// Where the hub asks an agent for a second connection; answered by the tunnel itself.
pub const BULK_PATH: &str = "/tunnel/v1/bulk";

/// Marks an answer that is the agent's own, and not that of the target that was asked for.
pub const AGENT_SAYS: HeaderName = HeaderName::from_static("marigraph-agent-says");

/// The sender's wall clock, milliseconds since the epoch.
pub(crate) const TIME_MS: HeaderName = HeaderName::from_static("marigraph-time-ms");
/// What the hub measured with its last ping: microseconds there and back.
pub(crate) const ROUND_TRIP_US: HeaderName = HeaderName::from_static("marigraph-round-trip-us");
/// What the hub measured with its last ping: how far the agent's clock is ahead, milliseconds.
pub(crate) const AHEAD_MS: HeaderName = HeaderName::from_static("marigraph-clock-ahead-ms");
/// What the connection is for: `control` or `bulk`.
pub(crate) const KIND: HeaderName = HeaderName::from_static("marigraph-tunnel-kind");
/// The agent's version.
pub(crate) const VERSION: HeaderName = HeaderName::from_static("marigraph-version");
/// Which building of its cluster the agent belongs to.
pub(crate) const INCARNATION: HeaderName = HeaderName::from_static("marigraph-incarnation");
/// When the agent's process started, milliseconds since the epoch.
pub(crate) const STARTED_MS: HeaderName = HeaderName::from_static("marigraph-started-ms");

/// Requests that wait for an agent's answer or read it, beside the hub's own.
pub(crate) const SCRAPES_MAX: usize = 32;
/// Requests whose target takes long to answer, beside those: they hold no window, only a stream.
pub(crate) const SLOW_MAX: usize = 64;
/// The hub's own requests (status, limits, pings), never behind scrapes.
pub(crate) const CONTROL_MAX: usize = 8;
/// Streams an agent lets a hub open.
pub(crate) const STREAMS_MAX: u32 = 128;
/// Bytes an agent may send on a stream before the hub reads.
pub(crate) const STREAM_WINDOW: u32 = 64 << 10;
/// Bytes an agent may send on a connection before the hub reads: every stream's window fits, so that
/// bodies nobody reads cannot stop the others.
pub(crate) const CONNECTION_WINDOW: u32 = (SCRAPES_MAX + SLOW_MAX + CONTROL_MAX) as u32 * STREAM_WINDOW;
/// A stream's window on a connection for bulk.
pub(crate) const BULK_STREAM_WINDOW: u32 = 256 << 10;
/// Requests at once on a connection for bulk.
pub(crate) const BULK_MAX: usize = 16;
/// The window of a connection for bulk.
pub(crate) const BULK_CONNECTION_WINDOW: u32 = BULK_MAX as u32 * BULK_STREAM_WINDOW;
/// Bytes of headers either end takes.
pub(crate) const HEADERS_BYTES_MAX: u32 = 16 << 10;
/// Bytes either end buffers for sending on a stream.
pub(crate) const SEND_BUFFER_BYTES: usize = 64 << 10;

/// Times of a connection, the same at both ends.
#[derive(Debug, Clone, Copy)]
pub struct Timings {
    /// Silence after which the peer is asked for a sign of life.
    pub ping_every: Duration,
    /// How long it has to give one.
    pub ping_timeout: Duration,
    /// Between the hub's measurements of round trip and clock.
    pub measure_every: Duration,
    /// For each attempt of an agent to get a tunnel: connecting, TLS, the hub's answer.
    pub connect_timeout: Duration,
    /// How long a connection that is replaced may finish what it has begun.
    pub drain: Duration,
    /// How long a connection for bulk stays without requests.
    pub bulk_idle: Duration,
}

impl Default for Timings {
    fn default() -> Timings {
        Timings {
            ping_every: Duration::from_secs(5),
            ping_timeout: Duration::from_secs(5),
            measure_every: Duration::from_secs(15),
            connect_timeout: Duration::from_secs(10),
            drain: Duration::from_secs(30),
            bulk_idle: Duration::from_secs(60),
        }
    }
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Scrapes and the hub's own requests; every agent has one.
    Control,
    /// Large answers, with windows of their own; made when the hub asks, closed when idle.
    Bulk,
}

impl Kind {
    /// As in the header.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Kind::Control => "control",
            Kind::Bulk => "bulk",
        }
    }

    pub(crate) fn of(headers: &HeaderMap) -> Option<Kind> {
        match headers.get(KIND).map(HeaderValue::as_bytes) {
            None | Some(b"control") => Some(Kind::Control),
            Some(b"bulk") => Some(Kind::Bulk),
            Some(_) => None,
        }
    }
}

/// A number in a header; what is no number is not there.
pub(crate) fn number(headers: &HeaderMap, name: &HeaderName) -> Option<i64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

/// Text in a header, at most `chars_max` characters of it, printable ASCII only.
pub(crate) fn text(headers: &HeaderMap, name: &HeaderName, chars_max: usize) -> Option<String> {
    let text = headers.get(name)?.to_str().ok()?;
    Some(text.chars().take(chars_max).collect())
}
