//! What stages tell of themselves; the pages and APIs show it.

use crate::Labels;

/// Whether a target answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TargetHealth {
    /// Not scraped yet.
    #[default]
    Unknown,
    /// The last scrape succeeded.
    Up,
    /// The last scrape failed.
    Down,
}

impl TargetHealth {
    /// `unknown`, `up`, `down`.
    pub fn as_str(self) -> &'static str {
        match self {
            TargetHealth::Unknown => "unknown",
            TargetHealth::Up => "up",
            TargetHealth::Down => "down",
        }
    }
}

/// A target that is being scraped.
#[derive(Debug, Clone, Default)]
pub struct ActiveTarget {
    /// The identity of its rows; also its name where it is asked for through a tunnel.
    pub id: crate::SourceId,
    /// The scrape pool (the `job_name` of its configuration).
    pub scrape_pool: String,
    /// The agent that scrapes it, where agents share targets and it is another one's.
    pub scraped_by: Option<String>,
    /// Labels before relabelling, `__meta_*` included.
    pub discovered_labels: Labels,
    /// Labels after relabelling.
    pub labels: Labels,
    /// The URL scraped, with parameters, without credentials.
    pub scrape_url: String,
    /// The error of the last scrape; empty when it succeeded.
    pub last_error: String,
    /// When the last scrape began, milliseconds since the epoch; 0 when there was none.
    pub last_scrape_ms: i64,
    /// How long it took, seconds.
    pub last_scrape_duration_seconds: f64,
    /// Health.
    pub health: TargetHealth,
    /// The interval, milliseconds.
    pub scrape_interval_ms: i64,
    /// The timeout, milliseconds.
    pub scrape_timeout_ms: i64,
}

/// A target that relabelling dropped.
#[derive(Debug, Clone, Default)]
pub struct DroppedTarget {
    /// The scrape pool.
    pub scrape_pool: String,
    /// Labels before relabelling.
    pub discovered_labels: Labels,
}

/// Metadata of one metric as one target states it.
#[derive(Debug, Clone)]
pub struct TargetMetadata {
    /// The target's labels.
    pub target: Labels,
    /// The metric family's name.
    pub metric: String,
    /// What it states.
    pub metadata: crate::Metadata,
}
