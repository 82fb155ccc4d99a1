//! Disks that fill up, refuse to sync, or cannot be written at all.

use std::path::Path;

use model::{Labels, Matcher, SourceId, TenantId};
use stdx::disk::FakeDisk;
use storage::{
    Appender, Batch, Policy, Queryable, Row, Select, SeriesRef, SourceDesc, SourceRef, StoreError,
};
use tsdb::{Config, Db};

fn open(disk: &FakeDisk) -> Db {
    let mut config = Config::new(Path::new("/data"));
    config.disk = disk.shared();
    config.lock = false;
    config.background = false;
    config.retention = None;
    config.small_tenant_samples = 0;
    Db::open(config).expect("open")
}

fn series(db: &Db) -> (SourceRef, SeriesRef) {
    try_series(db).expect("a series")
}

fn try_series(db: &Db) -> Result<(SourceRef, SeriesRef), StoreError> {
    let desc = SourceDesc { tenant: TenantId::default(), id: SourceId(1), labels: Labels::empty() };
    let source = db.open_source(&desc)?;
    let found = db.resolve(source, &[Labels::from_pairs([("__name__", "up")])])?;
    Ok((source, found[0].expect("no limit")))
}

fn put(db: &Db, (source, series): (SourceRef, SeriesRef), time: i64) -> Result<(), StoreError> {
    db.append(&Batch::rows(&[Row::floats(source, time, &[series], &[time as f64])], Policy::SCRAPE)).map(
        |done| {
            assert_eq!((done.samples, done.rejected.len()), (1, 0), "at {time}");
        },
    )
}

fn times(db: &Db) -> Vec<i64> {
    let matchers = vec![Matcher::equal("__name__", "up")];
    let select = Select { tenant: TenantId::default(), start_ms: i64::MIN, end_ms: i64::MAX, matchers };
    let set = db.select(&select).expect("select");
    let mut columns = Vec::new();
    set.load(0..set.len(), &mut columns).expect("load");
    columns.iter().flat_map(|column| column.times.to_vec()).collect()
}

#[test]
fn a_full_disk_refuses_a_batch_and_takes_the_next_when_there_is_room() {
    let disk = FakeDisk::new(Path::new("/data"));
    let db = open(&disk);
    let up = series(&db);
    (0..40).for_each(|time| put(&db, up, time).expect("room"));
    disk.set_capacity(Some(0));
    for _ in 0..3 {
        let error = put(&db, up, 40).expect_err("full");
        assert!(matches!(&error, StoreError::Io { .. }), "{error}");
    }
    assert_eq!(times(&db), (0..40).collect::<Vec<_>>(), "a refused batch does not show");
    assert_eq!(db.readiness(), Ok(()), "the store is sound");
    disk.set_capacity(None);
    (40..80).for_each(|time| put(&db, up, time).expect("room again"));
    assert_eq!(times(&db), (0..80).collect::<Vec<_>>());
    let again = open(&disk.after_kill());
    assert_eq!((times(&again), again.problems()), ((0..80).collect::<Vec<_>>(), vec![]));
}

#[test]
fn a_failed_sync_makes_the_store_read_only_until_restart() {
    let disk = FakeDisk::new(Path::new("/data"));
    let db = open(&disk);
    let up = series(&db);
    put(&db, up, 1).expect("append");
    disk.fail_syncs(true);
    assert!(matches!(db.sync(), Err(StoreError::ReadOnly { .. })));
    disk.fail_syncs(false);
    let reason = "sync log segment /data/wal/00000001.wal: input/output error";
    assert_eq!(db.readiness().map_err(|not_ready| not_ready.reason), Err(reason.to_owned()));
    assert!(
        matches!(put(&db, up, 2), Err(StoreError::ReadOnly { .. })),
        "never tried again on the same file"
    );
    assert!(db.flush().is_err() && db.sync().is_err());
    assert_eq!(times(&db), [1], "queries go on");
    let again = open(&disk.after_kill());
    assert_eq!(again.readiness(), Ok(()));
    put(&again, series(&again), 2).expect("append");
    assert_eq!(times(&again), [1, 2]);
}

#[test]
fn a_disk_that_cannot_be_written_still_answers() {
    let disk = FakeDisk::new(Path::new("/data"));
    let db = open(&disk);
    let up = series(&db);
    (0..10).for_each(|time| put(&db, up, time).expect("append"));
    db.flush().expect("flush");
    (10..20).for_each(|time| put(&db, up, time).expect("append"));
    let later = disk.after_kill();
    later.set_read_only(true);
    let db = open(&later);
    assert_eq!(times(&db), (0..20).collect::<Vec<_>>());
    assert!(db.readiness().is_err_and(|not_ready| not_ready.reason.contains("read-only file system")));
}

#[test]
fn a_failing_part_stops_only_the_flush() {
    let mut disk = FakeDisk::new(Path::new("/data"));
    let mut db = open(&disk);
    let up = series(&db);
    (0..10).for_each(|time| put(&db, up, time).expect("append"));
    // One failing operation after another, through all the steps of a flush.
    let (mut failures, mut restarts) = (0, 0);
    for step in 0..40 {
        disk.fail_at(disk.operations() + step);
        if db.flush().is_err() {
            failures += 1;
        }
        if db.readiness().is_err() {
            // It was the sync of the log, after which only a restart helps.
            drop(db);
            disk = disk.after_kill();
            db = open(&disk);
            restarts += 1;
        }
        // A step behind the flush's fails here.
        try_series(&db).and_then(|up| put(&db, up, 100 + step as i64)).ok();
        assert!(times(&db).starts_with(&(0..10).collect::<Vec<_>>()), "step {step}");
    }
    assert!(restarts < failures / 2, "{restarts} of {failures}");
    assert!(failures > 3, "{failures}");
    let again = open(&disk.after_kill());
    assert!(times(&again).starts_with(&(0..10).collect::<Vec<_>>()));
    again.flush().expect("flush");
    assert!(times(&again).starts_with(&(0..10).collect::<Vec<_>>()));
}
