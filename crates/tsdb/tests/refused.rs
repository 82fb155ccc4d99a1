//! A tenant whose manifest cannot be read is refused, and costs nobody anything, itself included once the
//! manifest is mended.

use std::path::{Path, PathBuf};

use model::{Labels, Matcher, SourceId, TenantId};
use prometheus_client::registry::Registry;
use stdx::clock::FakeClock;
use stdx::disk::{FakeDisk, Survivors};
use storage::{
    Appender, Batch, BlockKey, Policy, Queryable, Row, Select, SeriesRef, SourceDesc, SourceRef, StoreError,
};
use tsdb::{Config, Db, OpenError};

const START_MS: i64 = 1_699_920_000_000;
const HURT: &str = "/data/tenant/hurt/MANIFEST";

fn open(disk: &FakeDisk, small: usize) -> Db {
    try_open(disk, small).expect("a damaged manifest of one tenant keeps nothing from opening")
}

fn try_open(disk: &FakeDisk, small: usize) -> Result<Db, OpenError> {
    Db::open(config(disk, small))
}

fn config(disk: &FakeDisk, small: usize) -> Config {
    let mut config = Config::new(Path::new("/data"));
    config.disk = disk.shared();
    config.clock = FakeClock::at(START_MS);
    config.lock = false;
    config.background = false;
    config.retention = None;
    config.small_tenant_samples = small;
    config
}

fn tenant(name: &str) -> TenantId {
    TenantId::new(name).expect("a name")
}

/// A series `m{n}` of a tenant; each has a source of its own.
fn series(db: &Db, name: &str, n: u64) -> Result<(SourceRef, SeriesRef), StoreError> {
    let id = SourceId(u128::from(n));
    let source = db.open_source(&SourceDesc { tenant: tenant(name), id, labels: Labels::empty() })?;
    let labels = Labels::from_pairs([("__name__", "m"), ("n", &n.to_string())]);
    Ok((source, db.resolve(source, &[labels])?[0].expect("no limit")))
}

fn put(db: &Db, (source, series): (SourceRef, SeriesRef), time: i64) {
    let (series, values) = ([series], [value(time)]);
    let rows = [Row::floats(source, time, &series, &values)];
    let done = db.append(&Batch::rows(&rows, Policy::REMOTE_WRITE)).expect("append");
    assert_eq!((done.samples, done.rejected.len()), (1, 0));
}

fn value(time: i64) -> f64 {
    (time * 7919 % 104_729) as f64 / 8.0
}

/// The times of each series of a tenant; panics where a value is not what was put there.
fn times(db: &Db, name: &str) -> Result<Vec<Vec<i64>>, String> {
    let matchers = vec![Matcher::equal("__name__", "m")];
    let select = Select { tenant: tenant(name), start_ms: i64::MIN, end_ms: i64::MAX, matchers };
    let set = db.select(&select).map_err(|error| error.to_string())?;
    assert_eq!(set.warnings(), Vec::<String>::new());
    let mut columns = Vec::new();
    set.load(0..set.len(), &mut columns).expect("load");
    for column in &columns {
        let found: Vec<f64> = column.times.iter().map(|time| value(*time)).collect();
        assert_eq!(column.values, found);
    }
    Ok(columns.iter().map(|column| column.times.to_vec()).collect())
}

fn at(range: std::ops::Range<i64>) -> Vec<i64> {
    range.map(|row| START_MS + row * 1000).collect()
}

fn files_of_hurt(disk: &FakeDisk) -> Vec<(PathBuf, u64)> {
    let files = disk.files().into_iter();
    files.filter(|(path, _)| path.starts_with("/data/tenant/hurt") && !is_waiting(path)).collect()
}

fn is_waiting(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "waiting")
}

fn waiting(disk: &FakeDisk) -> usize {
    disk.files().iter().filter(|(path, _)| is_waiting(path)).count()
}

/// Tenants `hurt` and `well`: ten rows each in two parts, ten in the log, by another start.
fn two_tenants() -> FakeDisk {
    let disk = FakeDisk::new(Path::new("/data"));
    let db = open(&disk, 0);
    for rows in [0..5, 5..10, 10..20] {
        for name in ["hurt", "well"] {
            let of = series(&db, name, 1).expect("open");
            at(rows.clone()).into_iter().for_each(|time| put(&db, of, time));
        }
        if rows.end <= 10 {
            db.flush().expect("flush");
        }
    }
    db.close().expect("close");
    disk.after_kill()
}

#[test]
fn a_damaged_manifest_refuses_its_tenant_and_nobody_else() {
    for byte in [3, 14, 20, 40] {
        let disk = two_tenants();
        assert!(disk.flip_byte(Path::new(HURT), byte));
        let before = files_of_hurt(&disk);
        let db = open(&disk, 0);
        let refused = db.refused();
        assert!(refused.len() == 1 && refused[0].0 == tenant("hurt"), "{refused:?}");
        let place = format!("tenant hurt is refused: manifest {HURT}, byte ");
        let check = |error: String| assert!(error.contains(&place), "{error} does not name the place");
        check(times(&db, "hurt").expect_err("refused"));
        let everything =
            Select { tenant: tenant("hurt"), start_ms: i64::MIN, end_ms: i64::MAX, matchers: Vec::new() };
        check(db.label_names(&everything).expect_err("refused").to_string());
        check(db.label_values("n", &everything).expect_err("refused").to_string());
        check(db.metadata(&tenant("hurt"), None).expect_err("refused").to_string());
        let deleted = db.delete_series(&tenant("hurt"), &[Matcher::equal("n", "1")], 0, i64::MAX);
        check(deleted.expect_err("refused").to_string());
        let error = series(&db, "hurt", 1).expect_err("refused");
        assert!(matches!(error, StoreError::Io { .. }), "a sender may try again: {error}");
        check(error.to_string());
        assert!(db.problems().iter().any(|problem| problem.contains(&place)), "{:?}", db.problems());
        let (mut registry, mut text) = (Registry::default(), String::new());
        db.register_metrics(&mut registry);
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("encode");
        assert!(text.contains("marigraph_tsdb_tenant_refused{tenant=\"hurt\"} 1\n"), "{text}");
        db.readiness().expect("the store takes writes");

        let of = series(&db, "well", 1).expect("open");
        at(20..30).into_iter().for_each(|time| put(&db, of, time));
        db.flush().expect("flush");
        db.compact().expect("compact");
        assert_eq!(times(&db, "well").expect("well"), [at(0..30)]);
        assert_eq!(files_of_hurt(&disk), before, "its files are left alone");
    }
}

#[test]
fn what_the_log_has_of_a_refused_tenant_comes_back() {
    for (links, small) in [(true, 0), (true, 1000), (false, 0)] {
        let mut disk = two_tenants();
        disk.refuse_links(!links);
        disk.flip_byte(Path::new(HURT), 20);
        // Starts, flushes, series and sources of others while it is refused.
        for round in 0..3 {
            let db = open(&disk, 0);
            for n in 0..5 {
                put(&db, series(&db, "well", 100 + round * 10 + n).expect("open"), START_MS);
            }
            db.flush().expect("flush");
            db.flush().expect("flush");
            assert_eq!(waiting(&disk), 1, "the segment that has its rows");
            drop(db);
            disk = disk.after_kill();
            disk.refuse_links(!links);
        }
        disk.flip_byte(Path::new(HURT), 20);
        let db = open(&disk, small);
        assert_eq!(db.refused(), []);
        assert_eq!(times(&db, "hurt").expect("mended"), [at(0..20)]);
        assert_eq!(times(&db, "well").expect("well").len(), 16);
        // Before a flush the rows are still only in the files that wait.
        drop(db);
        disk = disk.after_kill();
        let db = open(&disk, small);
        assert_eq!(times(&db, "hurt").expect("mended"), [at(0..20)]);
        let of = series(&db, "hurt", 1).expect("open");
        at(20..25).into_iter().for_each(|time| put(&db, of, time));
        db.flush().expect("flush");
        assert_eq!(waiting(&disk), 0, "they have served");
        assert_eq!(times(&db, "hurt").expect("mended"), [at(0..25)]);
        drop(db);
        let db = open(&disk.after_kill(), small);
        assert_eq!(times(&db, "hurt").expect("mended"), [at(0..25)]);
        assert_eq!(times(&db, "well").expect("well").len(), 16);
    }
}

#[test]
fn deletions_and_blocks_of_a_refused_tenant_are_remembered() {
    let disk = two_tenants();
    let db = open(&disk, 0);
    let (source, of) = series(&db, "hurt", 1).expect("open");
    let key = BlockKey { queue_id: 1, incarnation: 2, block: 3 };
    let values = [value(at(20..21)[0])];
    let rows = [Row::floats(source, at(20..21)[0], std::slice::from_ref(&of), &values)];
    let batch = Batch { key: Some(key), ..Batch::rows(&rows, Policy::REMOTE_WRITE) };
    db.append(&batch).expect("append");
    let (from, to) = (at(12..13)[0], at(14..15)[0]);
    db.delete_series(&tenant("hurt"), &[Matcher::equal("n", "1")], from, to).expect("delete");
    drop(db);
    let disk = disk.after_kill();
    disk.flip_byte(Path::new(HURT), 20);
    let db = open(&disk, 0);
    db.flush().expect("flush");
    drop(db);
    let disk = disk.after_kill();
    disk.flip_byte(Path::new(HURT), 20);
    let db = open(&disk, 0);
    let left: Vec<i64> = at(0..12).into_iter().chain(at(15..21)).collect();
    assert_eq!(times(&db, "hurt").expect("mended"), std::slice::from_ref(&left));
    // The block was taken before all this: it is answered, and not stored again.
    let (source, of) = series(&db, "hurt", 1).expect("open");
    let rows = [Row::floats(source, at(30..31)[0], std::slice::from_ref(&of), &values)];
    db.append(&Batch { key: Some(key), ..Batch::rows(&rows, Policy::REMOTE_WRITE) }).expect("append");
    assert_eq!(times(&db, "hurt").expect("mended"), [left]);
}

#[test]
fn a_disk_that_dies_while_the_log_is_cut_loses_nothing_of_a_refused_tenant() {
    let start = two_tenants();
    start.flip_byte(Path::new(HURT), 20);
    let work = |disk: &FakeDisk| {
        let Ok(db) = try_open(disk, 0) else { return };
        let of = series(&db, "well", 1);
        if let Ok((source, of)) = of {
            let (of, values) = ([of], [value(START_MS + 20_000)]);
            let rows = [Row::floats(source, START_MS + 20_000, &of, &values)];
            let _ = db.append(&Batch::rows(&rows, Policy::REMOTE_WRITE));
        }
        let _ = db.flush();
    };
    let quiet = start.after_kill();
    let first = quiet.operations();
    work(&quiet);
    assert!(waiting(&quiet) == 1 && quiet.operations() > first + 10);
    for operation in first..=quiet.operations() {
        let disk = start.after_kill();
        disk.die_at(operation);
        work(&disk);
        for disk in [
            disk.after_kill(),
            disk.after_power_cut(Survivors::Nothing),
            disk.after_power_cut(Survivors::Some(operation)),
        ] {
            // Mended at once, or after a further start.
            for again in [false, true] {
                let disk = disk.after_kill();
                if again {
                    open(&disk, 0).flush().expect("flush");
                }
                let disk = disk.after_kill();
                disk.flip_byte(Path::new(HURT), 20);
                let db = open(&disk, 0);
                assert_eq!(times(&db, "hurt").expect("mended"), [at(0..20)], "operation {operation}");
                db.flush().expect("flush");
                assert_eq!(times(&db, "hurt").expect("mended"), [at(0..20)], "operation {operation}");
                assert_eq!(waiting(&disk), 0, "operation {operation}");
                assert_eq!(times(&db, "well").expect("well").len(), 1);
            }
        }
    }
}

#[test]
fn a_log_that_cannot_be_kept_for_a_refused_tenant_is_not_cut() {
    let disk = two_tenants();
    disk.flip_byte(Path::new(HURT), 20);
    let db = open(&disk, 0);
    let of = series(&db, "well", 1).expect("open");
    put(&db, of, START_MS + 20_000);
    disk.refuse_links(true);
    let used: u64 = disk.files().iter().map(|(_, len)| len).sum();
    // Enough for the flush of the others, not for a copy of the log.
    let segments =
        |disk: &FakeDisk| disk.files().into_iter().filter(|(path, _)| path.starts_with("/data/wal")).count();
    let before = segments(&disk);
    for room in (0..30_000).step_by(400) {
        disk.set_capacity(Some(used + room));
        if let Err(error) = db.flush() {
            assert!(segments(&disk) >= before, "cut in spite of {error}");
        } else {
            assert_eq!(waiting(&disk), 1, "cut with {room} bytes of room");
            break;
        }
        let again = disk.after_kill();
        again.flip_byte(Path::new(HURT), 20);
        assert_eq!(times(&open(&again, 0), "hurt").expect("mended"), [at(0..20)]);
    }
    assert_eq!(waiting(&disk), 1, "there was room at last");
}

#[test]
fn parts_that_a_manifest_has_lost_are_kept() {
    // A merge and a flush whose edits look like unfinished ones, and a manifest that is gone altogether.
    for (which, lost) in [("merge", 1), ("flush", 1), ("all", 2)] {
        let disk = two_tenants();
        let count = |disk: &FakeDisk, extension: &str| {
            let is_one = |path: &PathBuf| {
                path.starts_with("/data/tenant/hurt") && path.extension().is_some_and(|e| e == extension)
            };
            disk.files().into_iter().map(|(path, _)| path).filter(is_one).count()
        };
        if which == "merge" {
            let mut config = config(&disk, 0);
            config.clock = FakeClock::at(START_MS + 24 * 3600 * 1000);
            let db = Db::open(config).expect("open");
            db.compact().expect("compact");
        }
        let parts = count(&disk, "mgp");
        if which == "all" {
            disk.shared().remove_file(Path::new(HURT)).expect("remove");
        } else {
            let len = disk.files().into_iter().find(|(path, _)| path == Path::new(HURT)).expect("there").1;
            assert!(disk.flip_byte(Path::new(HURT), len - 5));
        }
        let mut disk = disk;
        for _ in 0..3 {
            disk = disk.after_kill();
            let db = open(&disk, 1000);
            assert_eq!((count(&disk, "mgp"), count(&disk, "unnamed")), (parts - lost, lost), "{which}");
            let everything = Select {
                tenant: tenant("hurt"),
                start_ms: i64::MIN,
                end_ms: i64::MAX,
                matchers: vec![Matcher::equal("__name__", "m")],
            };
            let warnings = db.select(&everything).expect("select").warnings();
            let of_lost = warnings.iter().filter(|warning| warning.contains(".unnamed"));
            assert_eq!(of_lost.count(), lost, "an answer says that it lacks something: {warnings:?}");
            db.flush().expect("flush");
        }
    }
}
