//! What all scrapers of a manager share, and what each tells of itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use model::Metadata;
use model::status::TargetHealth;
use parking_lot::Mutex;
use stdx::at_once::AtOnce;
use stdx::intern::Interned;
use storage::{Appender, RejectReason};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wire::exposition::SharedText;

use crate::client::{Connector, TlsConfigs};
use crate::failures::FailureLogs;
use crate::manager::Clusters;
use crate::metrics::{Metrics, Reason};
use crate::schedule::SteadyClock;
use crate::scraper::Scratch;
use crate::target::Owner;
use crate::turns::Turns;

/// Buffers kept for the next scrape.
const SPARES_MAX: usize = 4;
/// A buffer larger than this is given back to the system.
const SPARE_BYTES_MAX: usize = 4 << 20;

pub(crate) struct Shared {
    pub(crate) owner: Arc<Owner>,
    pub(crate) appender: Arc<dyn Appender>,
    pub(crate) connector: Arc<dyn Connector>,
    /// The ways to other clusters, where there are any.
    pub(crate) clusters: Option<Arc<dyn Clusters>>,
    pub(crate) tls: Arc<TlsConfigs>,
    pub(crate) clock: Arc<SteadyClock>,
    pub(crate) turns: Arc<dyn Turns>,
    /// Scrapes that have begun and not ended.
    pub(crate) under_way: AtomicUsize,
    /// How many may be.
    pub(crate) at_once: AtOnce,
    pub(crate) metrics: Metrics,
    pub(crate) failures: FailureLogs,
    pub(crate) bodies: Spares<Vec<u8>>,
    pub(crate) scratches: Spares<Scratch>,
    /// Lines that targets have in common.
    pub(crate) text: SharedText,
    /// Places of columns that targets have in common.
    pub(crate) places: Interned<[u32]>,
    /// Metadata that targets have in common.
    pub(crate) families: Interned<Family>,
    /// Cancelled when the manager stops: nobody writes staleness markers any more.
    pub(crate) shutdown: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

impl Shared {
    /// Counts a scrape as under way until what is given is dropped.
    pub(crate) fn scraping(&self) -> UnderWay<'_> {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        UnderWay(&self.under_way)
    }

    pub(crate) fn rejected(&self, reason: RejectReason, count: usize) {
        if count == 0 {
            return;
        }
        let reason = match reason {
            RejectReason::TooOld => "too_old",
            RejectReason::OutOfOrder => "out_of_order",
            RejectReason::Duplicate => "duplicate",
            RejectReason::UnknownSeries => "unknown_series",
            RejectReason::SeriesLimit => "series_limit",
            RejectReason::Invalid => "invalid",
        };
        self.metrics.rejected.get_or_create(&Reason { reason }).inc_by(count as u64);
    }
}

/// A scrape under way.
pub(crate) struct UnderWay<'a>(&'a AtomicUsize);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Things to be used again by whoever comes next.
#[derive(Debug, Default)]
pub(crate) struct Spares<T>(Mutex<Vec<T>>);

impl<T: Default> Spares<T> {
    pub(crate) fn take(&self) -> T {
        self.0.lock().pop().unwrap_or_default()
    }

    pub(crate) fn give(&self, spare: T, bytes: impl Fn(&T) -> usize) {
        let mut spares = self.0.lock();
        if spares.len() < SPARES_MAX && bytes(&spare) <= SPARE_BYTES_MAX {
            spares.push(spare);
        }
    }
}

/// A metric family by name, and what its target says of it.
pub(crate) type Family = (String, Metadata);

/// How a target fares.
#[derive(Debug, Default)]
pub(crate) struct Status(Mutex<StatusInner>);

#[derive(Debug, Default, Clone)]
pub(crate) struct StatusInner {
    pub(crate) last_error: String,
    pub(crate) last_scrape_ms: i64,
    pub(crate) last_duration_seconds: f64,
    pub(crate) health: TargetHealth,
    pub(crate) metadata: Arc<[Arc<Family>]>,
    /// Another scraper's turn.
    pub(crate) scraped_by: Option<Box<str>>,
}

impl Status {
    pub(crate) fn set(&self, timestamp_ms: i64, duration: Duration, error: Option<String>) {
        let mut inner = self.0.lock();
        inner.scraped_by = None;
        inner.health = if error.is_some() { TargetHealth::Down } else { TargetHealth::Up };
        inner.last_error = error.unwrap_or_default();
        inner.last_scrape_ms = timestamp_ms;
        inner.last_duration_seconds = duration.as_secs_f64();
    }

    /// It is not scraped here now, but by somebody else or nobody.
    pub(crate) fn stand_by(&self, scraped_by: Option<&str>) {
        let mut inner = self.0.lock();
        if inner.last_scrape_ms != 0 || inner.scraped_by.as_deref() != scraped_by {
            *inner = StatusInner { scraped_by: scraped_by.map(Into::into), ..StatusInner::default() };
        }
    }

    pub(crate) fn set_metadata(&self, metadata: Arc<[Arc<Family>]>) {
        self.0.lock().metadata = metadata;
    }

    pub(crate) fn last_scrape_ms(&self) -> i64 {
        self.0.lock().last_scrape_ms
    }

    pub(crate) fn get(&self) -> StatusInner {
        self.0.lock().clone()
    }
}
