//! An agent without a store of its own.

use model::{Matcher, Metadata, TenantId};
use queue::Queue;
use storage::{ListedLabels, QueryError, Queryable, Select, SeriesSet, StoreError};
use tsdb::SeriesLimits;
use web::{BlockInfo, SeriesUsage, StoreAdmin, TsdbStatus};

use crate::program::Keeper;

const WHY: &str = "this agent sends its data home and keeps none; ask a hub";

/// Where a store would be.
pub(super) struct Nothing;

fn refused<T>() -> Result<T, QueryError> {
    Err(QueryError::Limit(WHY.to_owned()))
}

fn no_store() -> StoreError {
    StoreError::ReadOnly { reason: WHY.to_owned() }
}

impl Queryable for Nothing {
    fn select(&self, _select: &Select) -> Result<Box<dyn SeriesSet>, QueryError> {
        refused()
    }

    fn label_names(&self, _select: &Select) -> Result<ListedLabels, QueryError> {
        refused()
    }

    fn label_values(&self, _name: &str, _select: &Select) -> Result<ListedLabels, QueryError> {
        refused()
    }

    fn metadata(
        &self,
        _tenant: &TenantId,
        _metric: Option<&str>,
    ) -> Result<Vec<(String, Vec<Metadata>)>, QueryError> {
        refused()
    }
}

impl StoreAdmin for Nothing {
    fn delete_series(&self, _: &TenantId, _: i64, _: i64, _: &[Matcher]) -> Result<(), StoreError> {
        Err(no_store())
    }

    fn clean_tombstones(&self, _: &TenantId) -> Result<(), StoreError> {
        Err(no_store())
    }

    fn snapshot(&self, _: &TenantId, _: bool) -> Result<String, StoreError> {
        Err(no_store())
    }

    fn blocks(&self, _: &TenantId) -> Result<Vec<BlockInfo>, StoreError> {
        Ok(Vec::new())
    }

    fn series_usage(&self, _: &TenantId, _: usize) -> SeriesUsage {
        SeriesUsage::default()
    }

    fn tsdb_status(&self, _: &TenantId, _: usize) -> Result<TsdbStatus, StoreError> {
        Ok(TsdbStatus::default())
    }
}

/// The queue as the program's keeper of rows.
pub(super) struct Keeping(pub(super) Queue);

impl Keeper for Keeping {
    fn not_ready(&self) -> Option<String> {
        self.0.stats().read_only.then(|| {
            "the queue's disk failed to sync; nothing more is queued until the next start".to_owned()
        })
    }

    fn set_series_limits(&self, _limits: SeriesLimits) {}
}
