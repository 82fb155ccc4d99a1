//! What a writer states about the rows that were due, beside the rows themselves.
//!
//! Statements travel in the batch of the rows they speak of, so that both are stored or neither is.
//! A store may ignore them; a ledger takes them in on the way.

use std::fmt;

use model::Labels;

use crate::SourceRef;

/// Names of the series that a scraper adds to each scrape. Source: Prometheus.
const REPORT: [&str; 8] = [
    "up",
    "scrape_duration_seconds",
    "scrape_samples_scraped",
    "scrape_samples_post_metric_relabeling",
    "scrape_series_added",
    "scrape_timeout_seconds",
    "scrape_sample_limit",
    "scrape_body_size_bytes",
];

/// Whether a series is of the report on a scrape of the source with the labels `source`, and so no cell of its
/// exposition.
pub fn is_report(series: &Labels, source: &Labels) -> bool {
    REPORT.contains(&series.metric_name())
        && series.iter().filter(|(name, _)| *name != model::labels::METRIC_NAME).eq(source.iter())
}

/// A statement about one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Account {
    /// From `at_ms` on, a row is due at every tick of `schedule`. A source that is already expected goes
    /// on with the new schedule.
    Begin {
        /// Whose rows.
        source: SourceRef,
        /// The first tick that counts is the first one at or after this, milliseconds since the epoch.
        at_ms: i64,
        /// When they are due.
        schedule: Schedule,
    },
    /// What became of one tick.
    Tick {
        /// Whose tick.
        source: SourceRef,
        /// The tick on the schedule's grid, not the timestamp of the row (which may begin a little
        /// later).
        tick_ms: i64,
        /// How it went.
        outcome: Outcome,
    },
    /// From `at_ms` on, nothing is due any more.
    End {
        /// Whose rows.
        source: SourceRef,
        /// Ticks at or after this are not expected, milliseconds since the epoch.
        at_ms: i64,
        /// Why.
        reason: EndReason,
    },
}

impl Account {
    /// The same about another source.
    pub fn of(self, source: SourceRef) -> Account {
        match self {
            Account::Begin { at_ms, schedule, .. } => Account::Begin { source, at_ms, schedule },
            Account::Tick { tick_ms, outcome, .. } => Account::Tick { source, tick_ms, outcome },
            Account::End { at_ms, reason, .. } => Account::End { source, at_ms, reason },
        }
    }

    /// The source it speaks of.
    pub fn source(&self) -> SourceRef {
        match *self {
            Account::Begin { source, .. } | Account::Tick { source, .. } | Account::End { source, .. } => {
                source
            }
        }
    }
}

/// The grid on which the rows of a source are due: all times `t` with `t mod interval = offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Schedule {
    /// Milliseconds from one tick to the next, at least 1.
    pub interval_ms: i64,
    /// At least 0 and less than the interval.
    pub offset_ms: i64,
}

/// How a tick went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The target answered. Its row holds `samples` of the `exposed` ones that it showed and relabelling
    /// kept; fewer where a limit or a conflict cost some. The report (`up` and its like) does not count.
    Scraped {
        /// Samples handed to the store.
        samples: u32,
        /// Samples that should have been.
        exposed: u32,
    },
    /// The target did not answer, or not with what can be read: the row holds the report only.
    Failed(Failure),
    /// Nobody scraped: the scrape before took too long, or the scraper had no time.
    Skipped,
}

/// Why a scrape failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Failure {
    /// No connection, no TLS, or it broke off.
    Unreachable,
    /// No whole answer in time.
    Timeout,
    /// An HTTP status other than 200.
    Status,
    /// The answer cannot be read.
    Malformed,
    /// The answer is past a limit on bytes, buckets or labels, or there are more targets than their limit.
    Limit,
    /// Anything else.
    Other,
    /// The answer is past the limit on samples.
    SampleLimit,
}

/// Why rows of a source are no longer due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EndReason {
    /// Discovery no longer knows the target.
    Gone,
    /// The configuration no longer scrapes it, or otherwise.
    Reconfigured,
    /// Another scraper took it over; that one goes on with the same schedule.
    HandedOver,
    /// The scraper stopped on purpose.
    Shutdown,
}

impl Failure {
    /// As it stands in metrics and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Failure::Unreachable => "unreachable",
            Failure::Timeout => "timeout",
            Failure::Status => "status",
            Failure::Malformed => "malformed",
            Failure::Limit => "limit",
            Failure::Other => "other",
            Failure::SampleLimit => "sample_limit",
        }
    }
}

impl EndReason {
    /// As it stands in metrics and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            EndReason::Gone => "gone",
            EndReason::Reconfigured => "reconfigured",
            EndReason::HandedOver => "handed_over",
            EndReason::Shutdown => "shutdown",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
