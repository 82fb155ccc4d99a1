//! What an agent knows of its connection to one hub.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use parking_lot::Mutex;
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

/// [`HubStatus`], kept.
pub(super) struct State {
    clock: Arc<dyn Clock>,
    status: Mutex<(HubStatus, u64)>,
}

impl State {
    pub(super) fn new(hub: &HubUrl, clock: Arc<dyn Clock>) -> State {
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
        State { clock, status: Mutex::new((status, 0)) }
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
        *newest
    }

    /// Tunnel `number` has ended; whether it was the newest.
    pub(super) fn ended(&self, number: u64) -> bool {
        let (status, newest) = &mut *self.status.lock();
        let was_newest = *newest == number;
        if was_newest {
            status.connected_since_ms = None;
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
