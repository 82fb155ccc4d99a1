//! The suite that every store passes, on a store of its own directory for each case.

use tsdb::{Config, Db};

/// A store below a directory that goes with it.
#[derive(Debug)]
struct TemporaryDb {
    db: Db,
    _dir: tempfile::TempDir,
}

impl TemporaryDb {
    fn new() -> TemporaryDb {
        TemporaryDb::with_late_bytes(256 << 20)
    }

    fn with_late_bytes(late_bytes_max: usize) -> TemporaryDb {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut config = Config::new(dir.path().join("data"));
        config.retention = None;
        config.background = false;
        config.late_bytes_max = late_bytes_max;
        TemporaryDb { db: Db::open(config).expect("an empty directory opens"), _dir: dir }
    }
}

impl storage::Appender for TemporaryDb {
    fn open_source(&self, source: &storage::SourceDesc) -> Result<storage::SourceRef, storage::StoreError> {
        self.db.open_source(source)
    }
    fn resolve(
        &self,
        source: storage::SourceRef,
        labels: &[model::Labels],
    ) -> Result<Vec<Option<storage::SeriesRef>>, storage::StoreError> {
        self.db.resolve(source, labels)
    }
    fn append(&self, batch: &storage::Batch<'_>) -> Result<storage::Appended, storage::StoreError> {
        let appended = self.db.append(batch);
        if matches!(appended, Err(storage::StoreError::Limit { .. })) {
            // As the maintenance thread would do, before the sender tries again.
            self.db.spill().expect("room on the disk");
            return self.db.append(batch);
        }
        appended
    }
    fn wait_durable(&self, position: storage::CommitPosition) -> Result<(), storage::StoreError> {
        self.db.wait_durable(position)
    }
}

impl storage::Queryable for TemporaryDb {
    fn select(&self, select: &storage::Select) -> Result<Box<dyn storage::SeriesSet>, storage::QueryError> {
        self.db.select(select)
    }
    fn label_names(&self, select: &storage::Select) -> Result<storage::ListedLabels, storage::QueryError> {
        self.db.label_names(select)
    }
    fn label_values(
        &self,
        name: &str,
        select: &storage::Select,
    ) -> Result<storage::ListedLabels, storage::QueryError> {
        self.db.label_values(name, select)
    }
    fn metadata(
        &self,
        tenant: &model::TenantId,
        metric: Option<&str>,
    ) -> Result<storage::ListedMetadata, storage::QueryError> {
        self.db.metadata(tenant, metric)
    }
    fn exemplars_of(
        &self,
        tenant: &model::TenantId,
        start_ms: i64,
        end_ms: i64,
        matchers: &[Vec<model::Matcher>],
    ) -> Result<storage::ListedExemplars, storage::QueryError> {
        self.db.exemplars_of(tenant, start_ms, end_ms, matchers)
    }
}

#[test]
fn the_store_keeps_the_contract() {
    storage::conformance::run(TemporaryDb::new);
}

#[test]
fn random_work_leads_to_the_answers_of_the_model() {
    for seed in 1..=6 {
        storage::conformance::random(TemporaryDb::new, seed, 300);
    }
}

#[test]
fn a_store_that_always_writes_late_samples_to_parts_keeps_it_too() {
    for seed in 7..=12 {
        storage::conformance::random(|| TemporaryDb::with_late_bytes(500), seed, 300);
    }
}
