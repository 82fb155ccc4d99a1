//! Budgets of series: a source or job at its limit keeps what it has, others notice nothing, and the
//! refusals say whose they were.

use std::path::Path;
use std::sync::Arc;

use model::{Labels, SourceId, TenantId};
use stdx::clock::FakeClock;
use stdx::disk::FakeDisk;
use storage::{Appender, Batch, Policy, Row, SeriesRef, SourceDesc, SourceRef};
use tsdb::{Config, Db, SeriesLimits};

const NOW_MS: i64 = 1_700_000_000_000;

fn config(disk: &FakeDisk, clock: &Arc<FakeClock>) -> Config {
    Config {
        disk: disk.shared(),
        clock: clock.clone(),
        lock: false,
        background: false,
        small_tenant_samples: 0,
        ..Config::new("/data")
    }
}

fn source(db: &Db, number: u128, instance: &str) -> SourceRef {
    let labels = Labels::from_pairs([("job", "web"), ("instance", instance)]);
    db.open_source(&SourceDesc { tenant: TenantId::default(), id: SourceId(number), labels }).unwrap()
}

fn labels(job: &str, instance: &str, numbers: std::ops::Range<u32>) -> Vec<Labels> {
    let one = |n: u32| {
        let name = format!("m_{n}");
        Labels::from_pairs([("__name__", name.as_str()), ("job", job), ("instance", instance)])
    };
    numbers.map(one).collect()
}

fn append(db: &Db, source: SourceRef, at_ms: i64, series: &[SeriesRef]) {
    let values = vec![1.0; series.len()];
    let row = Row::floats(source, at_ms, series, &values);
    let done = db.append(&Batch::rows(&[row], Policy::SCRAPE)).unwrap();
    assert_eq!(done.samples, series.len());
}

fn got(db: &Db, source: SourceRef, labels: &[Labels]) -> Vec<SeriesRef> {
    db.resolve(source, labels).unwrap().into_iter().flatten().collect()
}

/// (instance, series, refused) of each source.
fn usage(db: &Db) -> Vec<(String, u64, u64)> {
    let usage = db.series_usage(&TenantId::default(), 10);
    let one = |s: &tsdb::SourceUsage| (s.labels.get("instance").unwrap().to_owned(), s.series, s.refused);
    usage.sources.iter().map(one).collect()
}

#[test]
fn a_source_over_its_budget_loses_only_the_excess() {
    let (disk, clock) = (FakeDisk::new(Path::new("/data")), FakeClock::at(NOW_MS));
    let db = Db::open(config(&disk, &clock)).unwrap();
    db.set_series_limits(SeriesLimits { per_source: Some(5), per_job: None });
    let (a, b) = (source(&db, 1, "a"), source(&db, 2, "b"));
    let of_a = got(&db, a, &labels("web", "a", 0..8));
    assert_eq!(of_a.len(), 5);
    append(&db, a, NOW_MS, &of_a);
    // What it has it keeps; another source has its own budget.
    assert_eq!(got(&db, a, &labels("web", "a", 0..5)), of_a);
    let of_b = got(&db, b, &labels("web", "b", 0..3));
    assert_eq!(of_b.len(), 3);
    append(&db, b, NOW_MS, &of_b);
    assert_eq!(usage(&db), [("a".to_owned(), 5, 3), ("b".to_owned(), 3, 0)]);

    // A restart knows whose series are whose, and goes on counting.
    db.close().unwrap();
    let db = Db::open(config(&disk, &clock)).unwrap();
    db.set_series_limits(SeriesLimits { per_source: Some(5), per_job: None });
    let (a, b) = (source(&db, 1, "a"), source(&db, 2, "b"));
    assert_eq!(got(&db, a, &labels("web", "a", 0..8)).len(), 5);
    assert_eq!(got(&db, b, &labels("web", "b", 0..8)).len(), 5);

    // Series that are idle for two flushes make room.
    clock.set_ms(NOW_MS + 60_000);
    db.flush().unwrap();
    db.flush().unwrap();
    assert_eq!(got(&db, a, &labels("web", "a", 10..18)).len(), 5);
}

#[test]
fn a_job_over_its_budget_loses_only_the_excess() {
    let (disk, clock) = (FakeDisk::new(Path::new("/data")), FakeClock::at(NOW_MS));
    let db = Db::open(config(&disk, &clock)).unwrap();
    db.set_series_limits(SeriesLimits { per_source: None, per_job: Some(6) });
    let (a, b) = (source(&db, 1, "a"), source(&db, 2, "b"));
    assert_eq!(got(&db, a, &labels("web", "a", 0..4)).len(), 4);
    assert_eq!(got(&db, b, &labels("web", "b", 0..4)).len(), 2);
    assert_eq!(got(&db, b, &labels("other", "b", 0..4)).len(), 4);
    let usage = db.series_usage(&TenantId::default(), 1);
    assert_eq!(usage.series, 10);
    let first = &usage.jobs[0];
    assert_eq!((first.job.as_str(), first.series, first.refused), ("web", 6, 2));
    assert_eq!(usage.jobs.len(), 1);
}
