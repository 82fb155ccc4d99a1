//! What the hub says of its tunnels.

use std::time::Duration;

use http::Response;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::{Lane, RequestError, TunnelBody};
use crate::protocol::Kind;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    kind: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refused {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    lane: &'static str,
    outcome: &'static str,
}

/// Figures of the hub's side.
pub(super) struct AgentsMetrics {
    connections: Family<OfKind, Gauge>,
    ended: Family<Ended, Counter>,
    refused: Family<Refused, Counter>,
    requests: Family<Outcome, Counter>,
    seconds: Histogram,
    pub(super) body_bytes: Counter,
}

impl AgentsMetrics {
    pub(super) fn register(registry: &mut Registry) -> AgentsMetrics {
        let metrics = AgentsMetrics {
            connections: Family::default(),
            ended: Family::default(),
            refused: Family::default(),
            requests: Family::default(),
            seconds: Histogram::new(exponential_buckets(0.001, 2.0, 16)),
            body_bytes: Counter::default(),
        };
        let registry = registry.sub_registry_with_prefix("marigraph_tunnel");
        registry.register("connections", "Connections of agents, by kind", metrics.connections.clone());
        registry.register("ended", "Connections of agents that ended, by reason", metrics.ended.clone());
        registry.register("refused", "Tunnels refused to agents, by reason", metrics.refused.clone());
        registry.register(
            "requests",
            "Requests to agents, by lane and outcome (status class, or what went wrong)",
            metrics.requests.clone(),
        );
        registry.register_with_unit(
            "request",
            "Time until an agent's answer began, waiting in line included",
            Unit::Seconds,
            metrics.seconds.clone(),
        );
        registry.register_with_unit(
            "body",
            "Bodies of agents' answers as read",
            Unit::Bytes,
            metrics.body_bytes.clone(),
        );
        metrics
    }

    pub(super) fn connected(&self, kind: Kind) {
        self.connections.get_or_create(&OfKind { kind: kind.as_str() }).inc();
    }

    pub(super) fn ended(&self, kind: Kind, what: &str) {
        let kind = kind.as_str();
        self.connections.get_or_create(&OfKind { kind }).dec();
        let reason = match what {
            what if what.starts_with("no answer to pings") => "silent",
            "the agent closed it" => "closed_by_agent",
            what if what.contains("revoked") => "revoked",
            what if what.starts_with("replaced") => "replaced",
            _ => "broken",
        };
        self.ended.get_or_create(&Ended { kind, reason }).inc();
    }

    pub(super) fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&Refused { reason }).inc();
    }

    pub(super) fn asked(
        &self,
        lane: Lane,
        took: Duration,
        answer: &Result<Response<TunnelBody>, RequestError>,
    ) {
        let outcome = match answer {
            Ok(response) => match response.status().as_u16() {
                ..300 => "2xx",
                300..400 => "3xx",
                400..500 => "4xx",
                _ => "5xx",
            },
            Err(RequestError::NotConnected(_)) => "not_connected",
            Err(RequestError::Busy { .. }) => "busy",
            Err(RequestError::Deadline { .. }) => "deadline",
            Err(RequestError::Lost { .. }) => "lost",
        };
        self.requests.get_or_create(&Outcome { lane: lane.as_str(), outcome }).inc();
        self.seconds.observe(took.as_secs_f64());
    }
}
