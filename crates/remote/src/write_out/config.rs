//! What a receiver is sent, and how.

use std::time::Duration;

use model::Labels;
use model::relabel::Rule;

/// The message that is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Protocol {
    /// Remote write 1.0, `prometheus.WriteRequest`.
    #[default]
    V1,
    /// Remote write 2.0, `io.prometheus.write.v2.Request`.
    V2,
}

impl Protocol {
    /// The message's name, as a configuration and a content type have it.
    pub fn message(self) -> &'static str {
        match self {
            Protocol::V1 => "prometheus.WriteRequest",
            Protocol::V2 => "io.prometheus.write.v2.Request",
        }
    }

    /// The content type. Source: remote write 2.0, "Required headers".
    pub fn content_type(self) -> &'static str {
        match self {
            Protocol::V1 => "application/x-protobuf",
            Protocol::V2 => "application/x-protobuf;proto=io.prometheus.write.v2.Request",
        }
    }

    /// `X-Prometheus-Remote-Write-Version`.
    pub fn version(self) -> &'static str {
        match self {
            Protocol::V1 => "0.1.0",
            Protocol::V2 => "2.0.0",
        }
    }
}

/// A receiver: what it is sent, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct WriteOutConfig {
    /// Its name, in metrics and logs, and that of its cursor.
    pub name: String,
    /// Set on each series that has no label of that name.
    pub external_labels: Labels,
    /// `write_relabel_configs`.
    pub rules: Vec<Rule>,
    /// The message that is tried first. A receiver that does not know 2.0 is sent 1.0.
    pub protocol: Protocol,
    /// Whether exemplars are sent.
    pub send_exemplars: bool,
    /// Whether native histograms are sent.
    pub send_native_histograms: bool,
    /// How it is sent.
    pub queue: QueueConfig,
    /// Metadata of families, where the message does not carry it in line (1.0).
    pub metadata: MetadataConfig,
}

impl WriteOutConfig {
    /// A receiver with Prometheus' defaults.
    pub fn new(name: &str) -> WriteOutConfig {
        WriteOutConfig {
            name: name.to_owned(),
            external_labels: Labels::empty(),
            rules: Vec::new(),
            protocol: Protocol::V1,
            send_exemplars: false,
            send_native_histograms: false,
            queue: QueueConfig::default(),
            metadata: MetadataConfig::default(),
        }
    }
}

/// `queue_config`. Source: Prometheus `config/config.go`, `DefaultQueueConfig`, where not said otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueConfig {
    /// Samples that are read from the queue at a time (whole blocks of it): what a receiver has of these
    /// is acknowledged together.
    pub capacity: usize,
    /// Requests under way at a time while the receiver has trouble or nothing waits.
    pub min_shards: usize,
    /// Most requests under way at a time.
    pub max_shards: usize,
    /// Most samples in a request.
    pub max_samples_per_send: usize,
    /// Longest that samples wait for more to fill a request.
    pub batch_send_deadline: Duration,
    /// First wait before a request is sent again; doubles each time.
    pub min_backoff: Duration,
    /// Longest wait before a request is sent again.
    pub max_backoff: Duration,
    /// Whether a request that was answered 429 is sent again. On, unlike in Prometheus: the queue has the
    /// room to wait.
    pub retry_on_http_429: bool,
    /// Samples older than this are not sent; none where missing.
    pub sample_age_limit: Option<Duration>,
}

impl Default for QueueConfig {
    fn default() -> QueueConfig {
        QueueConfig {
            capacity: 10_000,
            min_shards: 1,
            max_shards: 50,
            max_samples_per_send: 2000,
            batch_send_deadline: Duration::from_secs(5),
            min_backoff: Duration::from_millis(30),
            max_backoff: Duration::from_secs(5),
            retry_on_http_429: true,
            sample_age_limit: None,
        }
    }
}

/// `metadata_config`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetadataConfig {
    /// Whether metadata is sent.
    pub send: bool,
    /// How often.
    pub send_interval: Duration,
    /// Most families in a request.
    pub max_samples_per_send: usize,
}

impl Default for MetadataConfig {
    fn default() -> MetadataConfig {
        MetadataConfig { send: true, send_interval: Duration::from_secs(60), max_samples_per_send: 2000 }
    }
}
