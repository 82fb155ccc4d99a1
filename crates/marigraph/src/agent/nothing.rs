//! An agent without a store of its own.

use model::{Matcher, TenantId};
use storage::{ListedLabels, ListedMetadata, QueryError, Queryable, Select, SeriesSet, StoreError};
use web::{BlockInfo, SeriesUsage, StoreAdmin, TsdbStatus};

const WHY: &str =
    "this agent keeps no data of its own (`storage: {local: {}}` would); ask where it sends them";

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

    fn metadata(&self, _tenant: &TenantId, _metric: Option<&str>) -> Result<ListedMetadata, QueryError> {
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
