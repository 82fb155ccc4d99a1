//! The scripts of the query language, on the store on disk: samples in the head, in parts, and in merged
//! parts answer as samples in memory do.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use model::{Labels, TenantId};
use promql::engine::{Engine, EngineOptions};
use promql::parser::ParseOptions;
use promql::script::Script;
use promql::script::run::{Store, run};
use stdx::clock::FakeClock;
use stdx::disk::FakeDisk;
use storage::memory::MemoryStore;
use storage::{
    Appended, Appender, Batch, CommitPosition, ListedLabels, ListedMetadata, QueryError, Queryable, Select,
    SeriesRef, SeriesSet, SourceDesc, SourceRef, StoreError,
};
use tsdb::{Config, Db};

/// What happens to samples as soon as they have been appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Nothing,
    Flush,
    FlushAndMerge,
}

struct Moving {
    db: Db,
    clock: Arc<FakeClock>,
    then: Then,
}

impl Moving {
    fn new(then: Then) -> Moving {
        let clock = FakeClock::at(0);
        let mut config = Config::new("/data");
        config.disk = FakeDisk::new(Path::new("/data")).shared();
        config.clock = clock.clone();
        config.lock = false;
        config.background = false;
        config.retention = None;
        config.small_tenant_samples = 0;
        config.late_after = Duration::from_secs(1000 * 24 * 3600);
        Moving { db: Db::open(config).expect("an empty disk opens"), clock, then }
    }
}

impl Appender for Moving {
    fn open_source(&self, source: &SourceDesc) -> Result<SourceRef, StoreError> {
        self.db.open_source(source)
    }

    fn resolve(&self, source: SourceRef, labels: &[Labels]) -> Result<Vec<Option<SeriesRef>>, StoreError> {
        self.db.resolve(source, labels)
    }

    fn append(&self, batch: &Batch<'_>) -> Result<Appended, StoreError> {
        let appended = self.db.append(batch)?;
        if self.then != Then::Nothing {
            self.db.flush().expect("flush");
        }
        if self.then == Then::FlushAndMerge {
            self.clock.advance_ms(100 * 24 * 3600 * 1000);
            self.db.compact().expect("compact");
        }
        Ok(appended)
    }

    fn wait_durable(&self, position: CommitPosition) -> Result<(), StoreError> {
        self.db.wait_durable(position)
    }
}

impl Queryable for Moving {
    fn select(&self, select: &Select) -> Result<Box<dyn SeriesSet>, QueryError> {
        self.db.select(select)
    }

    fn label_names(&self, select: &Select) -> Result<ListedLabels, QueryError> {
        self.db.label_names(select)
    }

    fn label_values(&self, name: &str, select: &Select) -> Result<ListedLabels, QueryError> {
        self.db.label_values(name, select)
    }

    fn metadata(&self, tenant: &TenantId, metric: Option<&str>) -> Result<ListedMetadata, QueryError> {
        self.db.metadata(tenant, metric)
    }
}

/// Runs the scripts of a folder in memory and on disk: how many evaluations agreed, and where others did
/// not, by file name and line.
fn check(folder: &Path) -> (usize, BTreeSet<String>) {
    let engine = Engine::new(EngineOptions {
        features: ParseOptions::all(),
        delayed_name_removal: true,
        use_start_timestamps: true,
        ..EngineOptions::default()
    });
    let (mut agreed, mut differ) = (0, BTreeSet::new());
    for entry in std::fs::read_dir(folder).expect("list scripts") {
        let path = entry.expect("list scripts").path();
        if path.extension().is_none_or(|extension| extension != "test") {
            continue;
        }
        let name = path.display();
        let text = std::fs::read_to_string(&path).expect("read script");
        let script = Script::parse(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let outcomes = |new_store: &mut dyn FnMut() -> Box<dyn Store>| {
            run(&script, &engine, new_store).unwrap_or_else(|error| panic!("{name}: {error}"))
        };
        let wanted = outcomes(&mut || Box::new(MemoryStore::new()));
        for then in [Then::Nothing, Then::Flush, Then::FlushAndMerge] {
            let found = outcomes(&mut || Box::new(Moving::new(then)));
            assert_eq!(found.len(), wanted.len(), "{name}, {then:?}");
            for (found, wanted) in found.iter().zip(&wanted) {
                if found.result == wanted.result {
                    agreed += 1;
                } else {
                    let file = path.file_name().unwrap_or_default().to_string_lossy();
                    differ.insert(format!("{file}:{} {then:?}", found.line));
                }
            }
        }
    }
    (agreed, differ)
}

#[test]
fn own_scripts_answer_as_in_memory() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../promql/testdata/scripts");
    let (agreed, differ) = check(&folder);
    assert!(agreed > 500 && differ.is_empty(), "{agreed} agree, {differ:?} differ");
}

#[test]
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn upstream_scripts_answer_as_in_memory() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/promqltest");
    if !folder.is_dir() {
        eprintln!("SKIPPED: Prometheus' test scripts are not at {}", folder.display());
        return;
    }
    let (agreed, differ) = check(&folder);
    assert!(agreed > 6000 && differ.is_empty(), "{agreed} agree, {differ:?} differ");
}
