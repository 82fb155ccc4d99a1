//! What remote write tells of itself.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Why points were not sent, or not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum DropReason {
    /// A rule dropped the series.
    Relabelled,
    /// Native histograms are not to be sent.
    Histograms,
    /// Older than `sample_age_limit`.
    Age,
    /// The receiver will never take them.
    Refused,
    /// The receiver finds even one of them too large.
    TooLarge,
    /// Answered 429, and that is not to be retried.
    TooManyRequests,
    /// The queue lost them: full, too old, or damaged.
    Lost(&'static str),
}

impl DropReason {
    fn as_str(self) -> &'static str {
        match self {
            DropReason::Relabelled => "relabelled",
            DropReason::Histograms => "native_histograms_off",
            DropReason::Age => "sample_age_limit",
            DropReason::Refused => "refused",
            DropReason::TooLarge => "too_large",
            DropReason::TooManyRequests => "too_many_requests",
            DropReason::Lost(why) => why,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Remote {
    remote_name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Dropped {
    remote_name: String,
    reason: &'static str,
}

/// The metrics of all receivers; cloning shares them.
#[derive(Debug, Clone)]
pub struct WriteOutMetrics {
    sent: Family<Remote, Counter>,
    sent_histograms: Family<Remote, Counter>,
    sent_exemplars: Family<Remote, Counter>,
    retried: Family<Remote, Counter>,
    dropped: Family<Dropped, Counter>,
    requests: Family<Remote, Counter>,
    bytes: Family<Remote, Counter>,
    metadata_failures: Family<Remote, Counter>,
    duration: Family<Remote, Histogram, fn() -> Histogram>,
    pending: Family<Remote, Gauge>,
    shards: Family<Remote, Gauge>,
    shards_max: Family<Remote, Gauge>,
    newest: Family<Remote, Gauge<f64, AtomicU64>>,
    lag: Family<Remote, Gauge<f64, AtomicU64>>,
    queue_bytes: Family<Remote, Gauge>,
    working: Family<Remote, Gauge>,
    restarts: Family<Remote, Counter>,
}

impl WriteOutMetrics {
    /// Registers them as `marigraph_remote_write_…`.
    pub fn register(registry: &mut Registry) -> WriteOutMetrics {
        let metrics = WriteOutMetrics {
            sent: Family::default(),
            sent_histograms: Family::default(),
            sent_exemplars: Family::default(),
            retried: Family::default(),
            dropped: Family::default(),
            requests: Family::default(),
            bytes: Family::default(),
            metadata_failures: Family::default(),
            duration: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.005, 3.0, 9))),
            pending: Family::default(),
            shards: Family::default(),
            shards_max: Family::default(),
            newest: Family::default(),
            lag: Family::default(),
            queue_bytes: Family::default(),
            working: Family::default(),
            restarts: Family::default(),
        };
        let m = metrics.clone();
        let registry = registry.sub_registry_with_prefix("marigraph_remote_write");
        registry.register("samples_sent", "Samples that the receiver has taken", m.sent);
        registry.register(
            "histograms_sent",
            "Native histograms that the receiver has taken",
            m.sent_histograms,
        );
        registry.register("exemplars_sent", "Exemplars that the receiver has taken", m.sent_exemplars);
        registry.register("samples_retried", "Samples and histograms that were sent again", m.retried);
        let text = "Samples and histograms that the receiver does not have, by reason";
        registry.register("samples_dropped", text, m.dropped);
        registry.register("requests", "Requests, repeated ones included", m.requests);
        registry.register_with_unit("sent", "Packed bodies of requests", Unit::Bytes, m.bytes);
        let text = "Requests with metadata that the receiver did not take";
        registry.register("metadata_failures", text, m.metadata_failures);
        let text = "Time from sending a request to its answer";
        registry.register_with_unit("request_duration", text, Unit::Seconds, m.duration);
        let text = "Samples and histograms read from the queue and not yet taken by the receiver";
        registry.register("samples_pending", text, m.pending);
        registry.register("shards", "Most requests that are under way at a time", m.shards);
        registry.register("shards_max", "Most requests that may be under way at a time", m.shards_max);
        let text = "Timestamp of the newest sample up to which the receiver has everything";
        registry.register_with_unit("newest_sent_timestamp", text, Unit::Seconds, m.newest);
        let text = "Age of the oldest rows in the queue that the receiver has not taken";
        registry.register_with_unit("lag", text, Unit::Seconds, m.lag);
        let text = "What waits in the queue";
        registry.register_with_unit("queue", text, Unit::Bytes, m.queue_bytes);
        let text =
            "Whether rows are read and sent; 0 while that waits to begin anew, after a fault of our own";
        registry.register("working", text, m.working);
        let text = "Times that reading and sending began anew after a fault of our own; the log has it";
        registry.register("restarts", text, m.restarts);
        metrics
    }

    /// Those of one receiver.
    pub(super) fn of(&self, name: &str) -> RemoteMetrics {
        RemoteMetrics { all: self.clone(), remote: Remote { remote_name: name.to_owned() } }
    }
}

/// The metrics of one receiver.
#[derive(Debug, Clone)]
pub(super) struct RemoteMetrics {
    all: WriteOutMetrics,
    remote: Remote,
}

impl RemoteMetrics {
    pub(super) fn sent(&self, samples: u32, histograms: u32, exemplars: u32) {
        let count = |family: &Family<Remote, Counter>, count: u32| {
            family.get_or_create(&self.remote).inc_by(u64::from(count));
        };
        count(&self.all.sent, samples);
        count(&self.all.sent_histograms, histograms);
        count(&self.all.sent_exemplars, exemplars);
        self.less_pending((samples + histograms) as usize);
    }

    /// Points that went out of the queue and not to the receiver.
    pub(super) fn given_up(&self, reason: DropReason, points: usize) {
        self.dropped(reason, points as u64);
        self.less_pending(points);
    }

    /// Points that never were pending.
    pub(super) fn dropped(&self, reason: DropReason, points: u64) {
        if points > 0 {
            let remote_name = self.remote.remote_name.clone();
            let labels = Dropped { remote_name, reason: reason.as_str() };
            self.all.dropped.get_or_create(&labels).inc_by(points);
        }
    }

    pub(super) fn request(&self, bytes: usize, points: usize, is_retry: bool) {
        self.all.requests.get_or_create(&self.remote).inc();
        self.all.bytes.get_or_create(&self.remote).inc_by(bytes as u64);
        if is_retry {
            self.all.retried.get_or_create(&self.remote).inc_by(points as u64);
        }
    }

    pub(super) fn metadata_failed(&self) {
        self.all.metadata_failures.get_or_create(&self.remote).inc();
    }

    pub(super) fn took(&self, seconds: f64) {
        self.all.duration.get_or_create(&self.remote).observe(seconds);
    }

    pub(super) fn pending(&self, points: usize) {
        self.all.pending.get_or_create(&self.remote).inc_by(points as i64);
    }

    fn less_pending(&self, points: usize) {
        self.all.pending.get_or_create(&self.remote).dec_by(points as i64);
    }

    /// Nothing is pending: at the start, and when sending ends.
    pub(super) fn none_pending(&self) {
        self.all.pending.get_or_create(&self.remote).set(0);
    }

    pub(super) fn shards(&self, shards: usize) {
        self.all.shards.get_or_create(&self.remote).set(shards as i64);
    }

    pub(super) fn shards_max(&self, shards: usize) {
        self.all.shards_max.get_or_create(&self.remote).set(shards as i64);
    }

    /// Everything up to this time has been taken.
    pub(super) fn newest(&self, newest_ms: i64) {
        let gauge = self.all.newest.get_or_create(&self.remote);
        gauge.set(gauge.get().max(newest_ms as f64 / 1000.0));
    }

    pub(super) fn queue(&self, lag_seconds: f64, bytes: u64) {
        self.all.lag.get_or_create(&self.remote).set(lag_seconds);
        self.all.queue_bytes.get_or_create(&self.remote).set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Reading and sending go on.
    pub(super) fn working(&self, is_working: bool) {
        self.all.working.get_or_create(&self.remote).set(i64::from(is_working));
    }

    /// They begin anew.
    pub(super) fn restarted(&self) {
        self.all.restarts.get_or_create(&self.remote).inc();
    }

    #[cfg(test)]
    pub(super) fn restarts_so_far(&self) -> u64 {
        self.all.restarts.get_or_create(&self.remote).get()
    }

    #[cfg(test)]
    pub(super) fn dropped_so_far(&self, reason: DropReason) -> u64 {
        let labels = Dropped { remote_name: self.remote.remote_name.clone(), reason: reason.as_str() };
        self.all.dropped.get_or_create(&labels).get()
    }

    #[cfg(test)]
    pub(super) fn exemplars_so_far(&self) -> u64 {
        self.all.sent_exemplars.get_or_create(&self.remote).get()
    }

    #[cfg(test)]
    pub(super) fn pending_now(&self) -> i64 {
        self.all.pending.get_or_create(&self.remote).get()
    }
}
