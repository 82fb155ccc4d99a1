//! What a loop states beside its rows: since when rows are due, and what became of each tick.

use storage::{Account, Failure, Outcome, Schedule, SourceRef};

/// More ticks than this are not stated one by one as skipped: a scraper that was away for so long has
/// begun anew.
const SKIPPED_MAX: u64 = 120;

/// Statements on their way; those of a batch that was not taken travel with the next one.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    /// The schedule, since when, unless that has been told.
    begin: Option<(i64, Schedule)>,
    /// Ticks without a scrape.
    skipped: Vec<i64>,
    /// The tick of the scrape under way.
    tick_ms: i64,
    batch: Vec<Account>,
}

impl Accounts {
    /// Rows are due from `at_ms` on.
    pub(crate) fn begin(&mut self, at_ms: i64, schedule: Schedule) {
        // Of two begins that nobody has heard of, the first one counts while the schedule is the same.
        let since = self.begin.filter(|(_, before)| *before == schedule).map_or(at_ms, |(since, _)| since);
        self.begin = Some((since, schedule));
    }

    /// Whether anybody has been told that rows are due.
    pub(crate) fn has_begun(&self) -> bool {
        self.begin.is_none()
    }

    /// The next scrape is that of `tick_ms`; the `skipped` ticks right before it had none.
    pub(crate) fn tick(&mut self, tick_ms: i64, skipped: u64, schedule: Schedule) {
        self.tick_ms = tick_ms;
        if skipped > SKIPPED_MAX || self.skipped.len() as u64 > SKIPPED_MAX {
            self.skipped.clear();
            return self.begin(tick_ms, schedule);
        }
        let before = |n: u64| tick_ms - schedule.interval_ms.saturating_mul(n as i64);
        self.skipped.extend((1..=skipped).rev().map(before));
    }

    /// A tick whose scrape was broken off.
    pub(crate) fn skip(&mut self, tick_ms: i64) {
        self.skipped.push(tick_ms);
    }

    /// The tick of the scrape under way.
    pub(crate) fn tick_ms(&self) -> i64 {
        self.tick_ms
    }

    /// What has to be said with the row of the scrape under way.
    pub(crate) fn with(&mut self, source: SourceRef, outcome: Outcome) -> Vec<Account> {
        let mut batch = std::mem::take(&mut self.batch);
        batch.clear();
        batch.extend(self.begin.map(|(at_ms, schedule)| Account::Begin { source, at_ms, schedule }));
        batch.extend(self.left(source));
        batch.push(Account::Tick { source, tick_ms: self.tick_ms, outcome });
        batch
    }

    /// The ticks without a scrape that nobody has been told of.
    pub(crate) fn left(&self, source: SourceRef) -> Vec<Account> {
        let skipped = |tick_ms: &i64| Account::Tick { source, tick_ms: *tick_ms, outcome: Outcome::Skipped };
        self.skipped.iter().map(skipped).collect()
    }

    /// The batch came back; when it was `taken`, what it said has been told.
    pub(crate) fn told(&mut self, batch: Vec<Account>, taken: bool) {
        self.batch = batch;
        if taken {
            self.begin = None;
            self.skipped.clear();
        }
    }
}

/// The contract's word for a reason of ours.
pub(crate) fn failure(reason: &str) -> Failure {
    match reason {
        "fetch" => Failure::Unreachable,
        "timeout" => Failure::Timeout,
        "status" => Failure::Status,
        "parse" | "content_type" => Failure::Malformed,
        "sample_limit" => Failure::SampleLimit,
        "body_size_limit" | "bucket_limit" | "target_limit" | "labels" | "concurrency" => Failure::Limit,
        _ => Failure::Other,
    }
}
