//! What an agent knows of its connection to one hub.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use stdx::clock::Clock;

use crate::connect::HubUrl;
use crate::protocol::{AHEAD_MS, ROUND_TRIP_US, TIME_MS, number};

/// An agent's connection to one hub, for people and for the fleet API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubStatus {
    /// The hub, `https://host:port`.
    pub hub: String,
    /// Since when there is a tunnel, milliseconds since the epoch; absent while there is none.
    pub connected_since_ms: Option<i64>,
    /// What last went wrong, and when (milliseconds since the epoch). Stays after it has passed.
    pub last_error: Option<(i64, String)>,
    /// When the next attempt is due, milliseconds since the epoch; absent while there is a tunnel.
    pub next_attempt_ms: Option<i64>,
    /// There and back again, at the last measurement.
    pub round_trip: Option<Duration>,
    /// How far our clock is ahead of the hub's, milliseconds (negative: behind).
    pub clock_ahead_ms: Option<i64>,
    /// Attempts since the start.
    pub attempts: u64,
    /// How many of them led to a tunnel.
    pub connections: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfHub {
    hub: String,
}

/// What an agent says of its tunnels. Cheap to clone; the default is registered nowhere.
#[derive(Debug, Clone, Default)]
pub struct DialMetrics {
    up: Family<OfHub, Gauge>,
    lost: Family<OfHub, Counter>,
}

impl DialMetrics {
    /// Figures in `registry`, named `marigraph_tunnel_*`.
    pub fn register(registry: &mut Registry) -> DialMetrics {
        let metrics = DialMetrics::default();
        let registry = registry.sub_registry_with_prefix("marigraph_tunnel");
        registry.register("up", "Whether there is a tunnel to the hub", metrics.up.clone());
        registry.register("lost", "Tunnels to the hub that were lost", metrics.lost.clone());
        metrics
    }
}

/// [`HubStatus`], kept.
pub(super) struct State {
    clock: Arc<dyn Clock>,
    up: Gauge,
    lost: Counter,
    status: Mutex<(HubStatus, u64)>,
}

impl State {
    pub(super) fn new(hub: &HubUrl, clock: Arc<dyn Clock>, metrics: &DialMetrics) -> State {
        let label = OfHub { hub: hub.to_string() };
        let (up, lost) =
            (metrics.up.get_or_create(&label).clone(), metrics.lost.get_or_create(&label).clone());
        let status = HubStatus {
            hub: hub.to_string(),
            connected_since_ms: None,
            last_error: None,
            next_attempt_ms: None,
            round_trip: None,
            clock_ahead_ms: None,
            attempts: 0,
            connections: 0,
        };
        State { clock, up, lost, status: Mutex::new((status, 0)) }
    }

    pub(super) fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    pub(super) fn status(&self) -> HubStatus {
        self.status.lock().0.clone()
    }

    pub(super) fn attempting(&self) {
        let (status, _) = &mut *self.status.lock();
        status.attempts += 1;
        status.next_attempt_ms = None;
    }

    /// An attempt failed, or a connection ended that was the only one.
    pub(super) fn failed(&self, what: &str) {
        let now_ms = self.now_ms();
        self.status.lock().0.last_error = Some((now_ms, what.to_owned()));
    }

    pub(super) fn waiting(&self, wait: Duration) {
        let wait_ms = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
        self.status.lock().0.next_attempt_ms = Some(self.now_ms().saturating_add(wait_ms));
    }

    /// There is a tunnel; gives its number.
    pub(super) fn connected(&self) -> u64 {
        let now_ms = self.now_ms();
        let (status, newest) = &mut *self.status.lock();
        status.connected_since_ms = Some(now_ms);
        status.connections += 1;
        *newest += 1;
        self.up.set(1);
        *newest
    }

    /// Tunnel `number` has ended; whether it was the newest.
    pub(super) fn ended(&self, number: u64) -> bool {
        let (status, newest) = &mut *self.status.lock();
        let was_newest = *newest == number;
        if was_newest {
            status.connected_since_ms = None;
            self.up.set(0);
            self.lost.inc();
        }
        was_newest
    }

    /// The hub answered our request, sent at `sent_ms`, with its time.
    pub(super) fn hub_time(&self, sent_ms: i64, round_trip: Duration, headers: &HeaderMap) {
        let Some(hub_ms) = number(headers, &TIME_MS) else { return };
        let half_ms = i64::try_from(round_trip.as_millis() / 2).unwrap_or(0);
        let (status, _) = &mut *self.status.lock();
        status.round_trip = Some(round_trip);
        status.clock_ahead_ms = Some(sent_ms.saturating_add(half_ms).saturating_sub(hub_ms));
    }

    /// The hub tells in a ping what it measured with the one before.
    pub(super) fn measured(&self, headers: &HeaderMap) {
        let (status, _) = &mut *self.status.lock();
        if let Some(us) = number(headers, &ROUND_TRIP_US).and_then(|us| u64::try_from(us).ok()) {
            status.round_trip = Some(Duration::from_micros(us));
        }
        if let Some(ms) = number(headers, &AHEAD_MS) {
            status.clock_ahead_ms = Some(ms);
        }
    }
}
