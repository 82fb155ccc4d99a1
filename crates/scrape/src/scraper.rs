//! One target's scrapes, one after the other: fetch, read, append.
//!
//! A scrape becomes one batch: the row at the scrape's time with the report (`up` and its like) at
//! its end, one row for each timestamp the target itself states, and one row of staleness markers
//! for what has vanished. A failed scrape is the markers of everything and the report.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use model::{Labels, Metadata, stale_nan};
use stdx::at_once::Place;
use storage::{
    Account, Appended, Batch, EndReason, Late, MetadataEntry, Outcome, Policy, RejectReason, Rejection, Row,
    SeriesRef, SourceDesc, SourceRef, StoreError,
};
use tokio::time::Instant;
use wire::exposition::{CreatedLines, Protocol, RowMemory, RowOptions, ScrapedRow, accept_header};

use crate::accounts::{Accounts, failure};
use crate::client::{Fetch, FetchError, HttpClient, Slot};
use crate::columns::{Assembled, Columns, Reading, stored_labels};
use crate::config::ScrapeConfig;
use crate::failures::FailureLog;
use crate::shared::{Shared, Status};
use crate::target::{Owner, Target};

/// Intervals up to this long keep the connection open: it costs some 20 kB a target, and closing it
/// a handshake a scrape.
const KEEP_ALIVE_INTERVAL_MAX: Duration = Duration::from_secs(30);

/// A shorter wait for a place was none.
const WAIT_MIN: Duration = Duration::from_millis(10);

/// The report of every scrape.
const REPORT: [&str; 5] = [
    "up",
    "scrape_duration_seconds",
    "scrape_samples_scraped",
    "scrape_samples_post_metric_relabeling",
    "scrape_series_added",
];
/// The report's further series, where configured.
const EXTRA_REPORT: [&str; 3] = ["scrape_timeout_seconds", "scrape_sample_limit", "scrape_body_size_bytes"];

/// Samples with timestamps of their own may repeat and come late, as Prometheus' store takes them
/// within its window; the row itself may not.
const LANES: Policy = Policy { late: Late::Accept, ..Policy::SCRAPE };

/// What a scrape found, for the report.
#[derive(Debug, Default)]
struct Counts {
    scraped: usize,
    kept: usize,
    added: usize,
    body_bytes: i64,
}

/// Memory that a scrape needs only while it is read and appended; shared by all targets.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    scraped: ScrapedRow,
    assembled: Assembled,
}

/// What a scraper is made of.
pub(crate) struct Work {
    pub(crate) shared: Arc<Shared>,
    pub(crate) owner: Arc<Owner>,
    pub(crate) config: Arc<ScrapeConfig>,
    pub(crate) client: Arc<HttpClient>,
    pub(crate) target: Arc<Target>,
    pub(crate) status: Arc<Status>,
    /// Set when the pool has too many targets: every scrape fails with it.
    pub(crate) forced_error: Option<String>,
}

/// Scrapes one target.
pub(crate) struct Scraper {
    shared: Arc<Shared>,
    owner: Arc<Owner>,
    config: Arc<ScrapeConfig>,
    client: Arc<HttpClient>,
    pub(crate) target: Arc<Target>,
    status: Arc<Status>,
    forced_error: Option<String>,
    accept: String,
    failures: Option<Arc<FailureLog>>,
    slot: Slot,
    memory: RowMemory,
    columns: Columns,
    opened: Option<Opened>,
    pub(crate) accounts: Accounts,
    /// Columns that the store had no place for.
    refused: BTreeSet<u32>,
}

/// What the store knows the target by.
struct Opened {
    source: SourceRef,
    report: Vec<SeriesRef>,
}

impl Scraper {
    /// A scraper that goes on where another has left `inherited` series alive.
    pub(crate) fn new(work: Work, inherited: &[SeriesRef]) -> Scraper {
        let Work { shared, owner, config, client, target, status, forced_error } = work;
        let failures = config.failure_log.as_deref().and_then(|path| shared.failures.at(path));
        let memory = empty_memory(&target, &shared);
        Scraper {
            accept: accept_header(&config.protocols, config.escaping),
            shared,
            owner,
            config,
            client,
            target,
            status,
            forced_error,
            failures,
            slot: Slot::default(),
            memory,
            columns: Columns::inheriting(inherited),
            opened: None,
            accounts: Accounts::default(),
            refused: BTreeSet::new(),
        }
    }

    /// Scrapes once; the row gets `timestamp_ms`. May be dropped while it waits for the target, and
    /// then nothing has been appended.
    pub(crate) async fn scrape(&mut self, timestamp_ms: i64) {
        let started = Instant::now();
        self.shared.metrics.scrapes.inc();
        let mut body = self.shared.bodies.take();
        let place = self.place().await;
        // Targets are told the timeout, and messages name it: as it is configured, unless others held the scrape up.
        let waited = Some(started.elapsed()).filter(|waited| *waited >= WAIT_MIN).unwrap_or_default();
        let fetched = match &place {
            Ok(_) => self.fetch(&mut body, self.target.timeout.saturating_sub(waited)).await,
            Err(failed) => Err(failed.clone()),
        };
        let mut scratch = self.shared.scratches.take();
        let mut counts = Counts { body_bytes: body.len() as i64, ..Counts::default() };
        let outcome = match fetched {
            Ok(protocol) => self.read(&body, protocol, timestamp_ms, &mut scratch, &mut counts),
            Err((reason, message)) => {
                counts.body_bytes = if reason == "body_size_limit" { -1 } else { 0 };
                Err((reason, message))
            }
        };
        self.shared.metrics.body_bytes.inc_by(body.len() as u64);
        self.shared.bodies.give(body, Vec::capacity);
        let duration = started.elapsed();
        self.shared.metrics.duration.observe(duration.as_secs_f64());
        if let Err((reason, message)) = &outcome {
            self.shared.metrics.failed(reason);
            if let Some(log) = &self.failures {
                let now_ms = self.shared.clock.now_ms();
                log.write(now_ms, &self.config.job_name, self.target.url.as_str(), message);
            }
            tracing::debug!(target_url = %self.target.url, job = %self.config.job_name, "scrape failed: {message}");
        }
        let failed = outcome.as_ref().err().map(|(reason, _)| *reason);
        self.append(timestamp_ms, duration, failed, &counts, &mut scratch);
        self.status.set(timestamp_ms, duration, outcome.err().map(|(_, message)| message));
        self.shared.scratches.give(scratch, |scratch| scratch.scraped.values.capacity() * 32);
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// By the clock that scrapes go by.
    pub(crate) fn now_ms(&self) -> i64 {
        self.shared.clock.now_ms()
    }

    /// The exposition's series that are alive, for whoever goes on with the target.
    pub(crate) fn live_columns(&self) -> Vec<SeriesRef> {
        self.columns.live()
    }

    /// Forgets what it knows of the target: another one scrapes it.
    pub(crate) fn let_go(&mut self) {
        self.slot = Slot::default();
        self.memory = empty_memory(&self.target, &self.shared);
        self.columns = Columns::default();
        self.refused = BTreeSet::new();
        self.opened = None;
        self.accounts = Accounts::default();
    }

    pub(crate) fn status(&self) -> &Status {
        &self.status
    }

    /// States that no rows are due from `at_ms` on, where anybody expects some.
    pub(crate) fn state_end(&mut self, at_ms: i64, reason: EndReason) {
        let Some(opened) = self.opened.as_ref().filter(|_| self.accounts.has_begun()) else { return };
        let mut accounts = self.accounts.left(opened.source);
        accounts.push(Account::End { source: opened.source, at_ms, reason });
        let batch = Batch { accounts: &accounts, ..Batch::rows(&[], Policy::SCRAPE) };
        if let Err(e) = self.shared.appender.append(&batch) {
            self.append_failed(&e);
        }
    }

    /// Ends all series of the target at `timestamp_ms`, except those that somebody else goes on with.
    pub(crate) fn end(&mut self, timestamp_ms: i64) {
        let Some(opened) = self.opened.as_ref().filter(|_| self.status.last_scrape_ms() != 0) else { return };
        let mut live = self.columns.failed();
        live.extend(&opened.report);
        let stale = vec![stale_nan(); live.len()];
        let row = Row::floats(opened.source, timestamp_ms, &live, &stale);
        match self.shared.appender.append(&Batch::rows(&[row], Policy::SCRAPE)) {
            Ok(appended) => _ = self.shared.metrics.stale_markers.inc_by(appended.samples as u64),
            Err(e) => self.append_failed(&e),
        }
    }

    /// A place among the scrapes that may be under way, as long as there is enough time left to make use of it: who
    /// gets one and has no time for an answer only takes it from others.
    async fn place(&self) -> Result<Place, (&'static str, String)> {
        let at_once = &self.shared.at_once;
        let patience = self.target.timeout / 2;
        tokio::time::timeout(patience, at_once.place()).await.map_err(|_| {
            let max = at_once.max().unwrap_or_default();
            let what =
                format!("not asked: {max} scrapes at once are allowed, and none ended within {patience:?}");
            ("concurrency", what)
        })
    }

    async fn fetch(
        &mut self,
        body: &mut Vec<u8>,
        timeout: Duration,
    ) -> Result<Protocol, (&'static str, String)> {
        if let Some(error) = &self.forced_error {
            return Err(("target_limit", error.clone()));
        }
        let fetch = Fetch {
            url: &self.target.url,
            accept: &self.accept,
            gzip: self.config.enable_compression,
            timeout,
            announce_timeout: true,
            headers: &[],
            body_bytes_max: self.config.limits.body_bytes,
            keep_alive: self.target.interval <= KEEP_ALIVE_INTERVAL_MAX,
        };
        let fetched = self.slot.fetch(&self.client, &fetch, body).await.map_err(|e| {
            let reason = match &e {
                FetchError::Deadline(_) => "timeout",
                FetchError::BodySize => "body_size_limit",
                FetchError::Status { .. } => "status",
                _ => "fetch",
            };
            let message =
                if e.is_transport() { format!("Get \"{}\": {e}", self.target.url) } else { e.to_string() };
            (reason, message)
        })?;
        let content_type = fetched.content_type.as_deref();
        let negotiated = Protocol::of_content_type(content_type, self.config.fallback_protocol)
            .map_err(|e| ("content_type", e.to_string()))?;
        Ok(negotiated.protocol)
    }

    /// Reads a body into `scratch`, ready to be appended.
    fn read(
        &mut self,
        body: &[u8],
        protocol: Protocol,
        timestamp_ms: i64,
        scratch: &mut Scratch,
        counts: &mut Counts,
    ) -> Result<(), (&'static str, String)> {
        let Scratch { scraped, assembled } = scratch;
        self.memory.read(body, protocol, scraped).map_err(|e| ("parse", e.to_string()))?;
        counts.scraped = scraped.samples_scraped();
        let outcome = self.take_up(scraped, timestamp_ms, assembled, counts);
        if outcome.is_err() {
            // The memory knows lines whose columns we know nothing of: start anew.
            self.memory = empty_memory(&self.target, &self.shared);
            self.columns.forget_columns();
            self.refused.clear();
        }
        outcome
    }

    fn take_up(
        &mut self,
        scraped: &mut ScrapedRow,
        timestamp_ms: i64,
        assembled: &mut Assembled,
        counts: &mut Counts,
    ) -> Result<(), (&'static str, String)> {
        self.columns.retire(&scraped.retired_columns);
        if !self.refused.is_empty() {
            scraped.retired_columns.iter().for_each(|column| _ = self.refused.remove(column));
        }
        let limit = self.config.limits.samples;
        let over_limit = |kept: usize| {
            (limit > 0 && kept as u64 > limit).then(|| ("sample_limit", "sample limit exceeded".to_owned()))
        };
        if !scraped.new_columns.is_empty() {
            let stamped = &self.owner.stamped;
            let mut new = Vec::with_capacity(scraped.new_columns.len());
            for (column, labels) in scraped.new_columns.drain(..) {
                let stored = stored_labels(&self.config, &self.target.labels, stamped, &labels);
                new.push((column, stored.map_err(|e| ("labels", e))?));
            }
            let histograms = scraped.histograms.iter().map(|cell| cell.column);
            counts.kept = self.columns.count_stored(scraped.columns.iter().copied().chain(histograms))
                + new.iter().filter(|(_, l)| l.is_some()).count();
            if let Some(error) = over_limit(counts.kept) {
                return Err(error);
            }
            self.learn(new).map_err(|e| ("store", e.to_string()))?;
        }
        let report = self.open().map_err(|e| ("store", e.to_string()))?.report.clone();
        let reading = Reading { config: &self.config, scraped, timestamp_ms, report: &report };
        self.columns.assemble(&reading, assembled);
        (counts.kept, counts.added) = (assembled.kept, assembled.added);
        if let Some(error) = over_limit(counts.kept) {
            return Err(error);
        }
        if !assembled.take_histograms(scraped, &self.config.resolution) {
            return Err(("bucket_limit", "histogram bucket limit exceeded".to_owned()));
        }
        if !scraped.metadata.is_empty() {
            let families = &self.shared.families;
            let metadata = self.memory.metadata().into_iter().map(|family| families.share(family));
            self.status.set_metadata(metadata.collect());
        }
        Ok(())
    }

    /// Resolves new columns.
    fn learn(&mut self, new: Vec<(u32, Option<Labels>)>) -> Result<(), StoreError> {
        let source = self.open()?.source;
        let labels: Vec<Labels> = new.iter().filter_map(|(_, labels)| labels.clone()).collect();
        let mut resolved = self.shared.appender.resolve(source, &labels)?.into_iter();
        let before = self.refused.len();
        let found: Vec<(u32, Option<SeriesRef>)> = new
            .iter()
            .map(|(column, labels)| {
                let series = labels.as_ref().and_then(|_| resolved.next().flatten());
                if labels.is_some() && series.is_none() {
                    self.refused.insert(*column);
                }
                (*column, series)
            })
            .collect();
        self.shared.rejected(RejectReason::SeriesLimit, self.refused.len() - before);
        self.columns.learn(found.into_iter());
        Ok(())
    }

    /// Opens the source and resolves the report's series, once.
    fn open(&mut self) -> Result<&Opened, StoreError> {
        if self.opened.is_none() {
            let target = &self.target;
            let desc = SourceDesc {
                tenant: self.owner.tenant.clone(),
                id: target.id,
                labels: target.labels.clone(),
            };
            let source = self.shared.appender.open_source(&desc)?;
            let extra: &[&str] = if self.config.extra_metrics { &EXTRA_REPORT } else { &[] };
            let labels: Vec<Labels> =
                REPORT.iter().chain(extra).map(|name| with_name(&target.labels, name)).collect();
            let report = self.shared.appender.resolve(source, &labels)?;
            let Some(report) = report.into_iter().collect::<Option<Vec<SeriesRef>>>() else {
                return Err(StoreError::Limit {
                    tenant: self.owner.tenant.to_string(),
                    limit: "no series left for the report of a scrape".to_owned(),
                });
            };
            self.opened = Some(Opened { source, report });
        }
        // Just set where it was not; the error arm cannot be reached.
        self.opened.as_ref().ok_or(StoreError::UnknownSource(0))
    }

    /// The values of the report.
    fn report_values(&self, duration: Duration, up: bool, counts: &Counts, values: &mut Vec<f64>) {
        values.extend([
            f64::from(u8::from(up)),
            duration.as_secs_f64(),
            counts.scraped as f64,
            counts.kept as f64,
            counts.added as f64,
        ]);
        if self.config.extra_metrics {
            values.extend([
                self.target.timeout.as_secs_f64(),
                self.config.limits.samples as f64,
                counts.body_bytes as f64,
            ]);
        }
    }

    /// Appends what the scrape has become. `scratch` holds a row when it was successful.
    fn append(
        &mut self,
        timestamp_ms: i64,
        duration: Duration,
        failed: Option<&'static str>,
        counts: &Counts,
        scratch: &mut Scratch,
    ) {
        if !self.shared.turns.holds(self.accounts.tick_ms()) {
            self.shared.metrics.rows_not_held.inc();
            return self.columns.not_taken();
        }
        if let Err(e) = self.open() {
            self.columns.not_taken();
            return self.append_failed(&e);
        }
        let Scratch { scraped, assembled } = scratch;
        if let Some(reason) = failed {
            let mut values = Vec::with_capacity(8);
            self.report_values(duration, false, counts, &mut values);
            return self.append_failure(timestamp_ms, &values, reason);
        }
        self.report_values(duration, true, counts, &mut assembled.values);
        match self.append_row(timestamp_ms, &scraped.metadata, assembled) {
            Ok(appended) if has_unknown(&appended) => {
                self.append_again(timestamp_ms, duration, counts, scratch)
            }
            Ok(appended) => {
                self.columns.taken(assembled, &self.shared.places);
                self.count(&appended);
            }
            Err(e) => {
                self.columns.not_taken();
                self.append_failed(&e);
            }
        }
    }

    /// The store has forgotten series: resolves all anew and appends once more. What it had taken
    /// already is there, and counts as taken again.
    fn append_again(
        &mut self,
        timestamp_ms: i64,
        duration: Duration,
        counts: &Counts,
        scratch: &mut Scratch,
    ) {
        let Scratch { scraped, assembled } = scratch;
        assembled.give_histograms_back(scraped);
        let resolved = self.resolve_all().and_then(|()| {
            let report = self.open()?.report.clone();
            let reading = Reading { config: &self.config, scraped, timestamp_ms, report: &report };
            self.columns.assemble(&reading, assembled);
            // They were within the limit the first time.
            _ = assembled.take_histograms(scraped, &self.config.resolution);
            self.report_values(duration, true, counts, &mut assembled.values);
            self.append_row(timestamp_ms, &scraped.metadata, assembled)
        });
        match resolved {
            Ok(appended) => {
                self.columns.taken(assembled, &self.shared.places);
                self.count(&appended);
            }
            Err(e) => {
                self.columns.not_taken();
                self.append_failed(&e);
            }
        }
    }

    fn resolve_all(&mut self) -> Result<(), StoreError> {
        self.opened = None;
        self.columns = Columns::default();
        self.refused.clear();
        let mut all: Vec<(u32, Option<Labels>)> = Vec::new();
        let (config, target, stamped) = (&self.config, &self.target, &self.owner.stamped);
        self.memory.each_series(|column, labels| {
            // Labels that were refused would have failed the scrape before.
            all.push((column, stored_labels(config, &target.labels, stamped, &labels).unwrap_or(None)));
        });
        self.learn(all)
    }

    fn append_row(
        &mut self,
        timestamp_ms: i64,
        metadata: &[(String, Metadata)],
        assembled: &Assembled,
    ) -> Result<Appended, StoreError> {
        let Some(opened) = &self.opened else { return Err(StoreError::UnknownSource(0)) };
        let source = opened.source;
        let metadata: Vec<MetadataEntry<'_>> =
            metadata.iter().map(|(metric, metadata)| MetadataEntry { source, metric, metadata }).collect();
        let stale_values = vec![stale_nan(); assembled.stale.len()];
        let row = Row {
            source,
            timestamp_ms,
            series: self.columns.row_series(assembled),
            values: &assembled.values,
            histograms: &assembled.histograms,
            start_timestamps: &assembled.start_timestamps,
            exemplars: &assembled.exemplars,
        };
        let stale = Row::floats(source, timestamp_ms, &assembled.stale, &stale_values);
        let rows = if assembled.stale.is_empty() { &[row][..] } else { &[row, stale][..] };
        // First what the row's statement sums up, too.
        let lanes = match assembled.lanes.is_empty() {
            true => Appended::default(),
            false => self.append_lanes(source, assembled)?,
        };
        let handed = (row.series.len() + row.histograms.len()).saturating_sub(opened.report.len())
            + assembled.lane_series.len()
            + assembled.lane_histograms.len();
        let exposed = handed + assembled.left_out + self.refused.len();
        let outcome = Outcome::Scraped {
            samples: clamped(handed.saturating_sub(lanes.rejected.len())),
            exposed: clamped(exposed),
        };
        let accounts = self.accounts.with(source, outcome);
        let batch = Batch { metadata: &metadata, accounts: &accounts, ..Batch::rows(rows, Policy::SCRAPE) };
        let appended = self.shared.appender.append(&batch);
        self.accounts.told(accounts, appended.is_ok());
        let mut appended = appended?;
        self.shared.metrics.stale_markers.inc_by(assembled.stale.len() as u64);
        appended.samples += lanes.samples;
        appended.histograms += lanes.histograms;
        appended.rejected.extend(lanes.rejected);
        Ok(appended)
    }

    fn append_lanes(&self, source: SourceRef, assembled: &Assembled) -> Result<Appended, StoreError> {
        let rows: Vec<Row<'_>> = assembled
            .lanes
            .iter()
            .map(|lane| Row {
                source,
                timestamp_ms: lane.timestamp_ms,
                series: &assembled.lane_series[lane.samples.clone()],
                values: &assembled.lane_values[lane.samples.clone()],
                histograms: &assembled.lane_histograms[lane.histograms.clone()],
                start_timestamps: &[],
                exemplars: &assembled.lane_exemplars[lane.exemplars.clone()],
            })
            .collect();
        self.shared.appender.append(&Batch::rows(&rows, LANES))
    }

    /// Ends everything alive and reports the failure.
    fn append_failure(&mut self, timestamp_ms: i64, report_values: &[f64], reason: &str) {
        let ended = self.columns.failed();
        for attempt in 0..2 {
            let Some(opened) = &self.opened else { return };
            let stale_values = vec![stale_nan(); ended.len()];
            let report = Row::floats(opened.source, timestamp_ms, &opened.report, report_values);
            let stale = Row::floats(opened.source, timestamp_ms, &ended, &stale_values);
            let rows = if ended.is_empty() { &[report][..] } else { &[report, stale][..] };
            let accounts = self.accounts.with(opened.source, Outcome::Failed(failure(reason)));
            let batch = Batch { accounts: &accounts, ..Batch::rows(rows, Policy::SCRAPE) };
            let appended = self.shared.appender.append(&batch);
            self.accounts.told(accounts, appended.is_ok());
            let appended = match appended {
                Ok(appended) => appended,
                Err(e) => return self.append_failed(&e),
            };
            // Series that the store has forgotten need no end; the report is resolved again.
            let unknown = |r: &Rejection| r.reason == RejectReason::UnknownSeries && r.row == 0;
            if attempt == 1 || !appended.rejected.iter().any(unknown) {
                self.shared.metrics.stale_markers.inc_by(ended.len() as u64);
                return self.count(&appended);
            }
            self.opened = None;
            if let Err(e) = self.open() {
                return self.append_failed(&e);
            }
        }
    }

    fn count(&self, appended: &Appended) {
        self.shared.metrics.samples.inc_by((appended.samples + appended.histograms) as u64);
        for rejection in &appended.rejected {
            self.shared.rejected(rejection.reason, 1);
        }
    }

    fn append_failed(&mut self, error: &StoreError) {
        self.shared.metrics.append_failures.inc();
        tracing::warn!(target_url = %self.target.url, job = %self.config.job_name, "row not stored: {error}");
        if matches!(error, StoreError::UnknownSource(_)) {
            // All that was resolved belonged to the source: begin with the next scrape.
            self.opened = None;
            self.memory = empty_memory(&self.target, &self.shared);
            self.columns = Columns::default();
            self.refused.clear();
        }
    }
}

fn clamped(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// A memory that has read nothing yet.
fn empty_memory(target: &Target, shared: &Shared) -> RowMemory {
    RowMemory::with_options(RowOptions {
        created: CreatedLines::default(),
        native_histograms: target.histograms.native,
        keep_classic: target.histograms.keep_classic,
        convert_classic: target.histograms.convert_classic,
    })
    .sharing(shared.text.clone())
}

fn has_unknown(appended: &Appended) -> bool {
    appended.rejected.iter().any(|rejection| rejection.reason == RejectReason::UnknownSeries)
}

fn with_name(labels: &Labels, name: &str) -> Labels {
    // Target labels hold no name: relabelled ones that begin with two underscores are gone.
    Labels::from_pairs(labels.iter().chain([(model::labels::METRIC_NAME, name)]))
}
