//! Own metrics, and PushProx' under the names its dashboards know.

use std::time::Instant;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    door: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    code: u16,
    path: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Path {
    path: &'static str,
}

/// Figures of this crate.
#[derive(Debug, Clone)]
pub struct ProxyMetrics {
    requests: Family<Outcome, Counter>,
    seconds: Family<Outcome, Histogram, fn() -> Histogram>,
    pub(crate) in_flight: Gauge,
    pub(crate) body_bytes: Counter,
    pub(crate) pushprox_clients: Gauge,
    pushprox_requests: Family<Request, Counter>,
    pushprox_seconds: Family<Path, Histogram, fn() -> Histogram>,
    pushprox_proxied: Family<Code, Counter>,
}

fn buckets() -> Histogram {
    Histogram::new([0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0])
}

impl ProxyMetrics {
    /// Registers `marigraph_proxy_*`, and PushProx' own `pushprox_*` and `pushproxy_*`.
    pub fn register(registry: &mut Registry) -> ProxyMetrics {
        let metrics = ProxyMetrics {
            requests: Family::default(),
            seconds: Family::new_with_constructor(buckets),
            in_flight: Gauge::default(),
            body_bytes: Counter::default(),
            pushprox_clients: Gauge::default(),
            pushprox_requests: Family::default(),
            pushprox_seconds: Family::new_with_constructor(buckets),
            pushprox_proxied: Family::default(),
        };
        registry.register(
            "marigraph_proxy_requests",
            "Requests for targets behind a tunnel or PushProx, and for lists of them, by what became of them",
            metrics.requests.clone(),
        );
        registry.register_with_unit(
            "marigraph_proxy_request_duration",
            "Time from such a request's head to its answer's head",
            Unit::Seconds,
            metrics.seconds.clone(),
        );
        registry.register(
            "marigraph_proxy_in_flight_requests",
            "Requests for targets under way, bodies included",
            metrics.in_flight.clone(),
        );
        registry.register_with_unit(
            "marigraph_proxy_body",
            "Bytes of targets' answers passed on",
            Unit::Bytes,
            metrics.body_bytes.clone(),
        );
        registry.register(
            "marigraph_proxy_pushprox_clients",
            "PushProx clients that poll",
            metrics.pushprox_clients.clone(),
        );
        registry.register(
            "pushprox_proxy_clients",
            "PushProx clients that poll",
            metrics.pushprox_clients.clone(),
        );
        registry.register(
            "pushprox_http_requests",
            "Requests of PushProx clients and for lists of them",
            metrics.pushprox_requests.clone(),
        );
        registry.register_with_unit(
            "pushprox_http_duration",
            "Time that such requests took; that of a poll is how long it was held",
            Unit::Seconds,
            metrics.pushprox_seconds.clone(),
        );
        let proxied = "Requests passed on to PushProx clients";
        // PushProx itself has the letter too many.
        registry.register("pushproxy_proxied_requests", proxied, metrics.pushprox_proxied.clone());
        registry.register("pushprox_proxied_requests", proxied, metrics.pushprox_proxied.clone());
        metrics
    }

    /// A request at `door` began at `begin` and became `outcome`.
    pub(crate) fn requested(&self, door: &'static str, outcome: &'static str, begin: Instant) {
        let labels = Outcome { door, outcome };
        self.seconds.get_or_create(&labels).observe(begin.elapsed().as_secs_f64());
        self.requests.get_or_create(&labels).inc();
    }

    /// A PushProx client's request for `path` was answered with `code`.
    pub(crate) fn pushprox(&self, path: &'static str, code: u16, begin: Instant) {
        self.pushprox_requests.get_or_create(&Request { code, path }).inc();
        self.pushprox_seconds.get_or_create(&Path { path }).observe(begin.elapsed().as_secs_f64());
    }

    /// A request for a PushProx client was answered with `code`.
    pub(crate) fn pushproxied(&self, code: u16) {
        self.pushprox_proxied.get_or_create(&Code { code }).inc();
    }
}
