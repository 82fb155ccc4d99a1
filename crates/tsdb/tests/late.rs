//! The late lane: a backlog beside live rows, within its budget, through spills, failures and restarts; and
//! what a trickle of late samples leaves behind.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use model::{Labels, Matcher, SourceId, TenantId};
use stdx::clock::{Clock, FakeClock};
use stdx::disk::FakeDisk;
use storage::{
    Appender, Batch, Policy, Queryable, Row, Select, SeriesRef, SourceDesc, SourceRef, StoreError,
};
use tsdb::{Config, Db, SyncPolicy};

const NOW_MS: i64 = 1_700_000_000_000;
const DAY_MS: i64 = 86_400_000;
const COLUMNS: usize = 6;

struct Bench {
    disk: FakeDisk,
    clock: Arc<FakeClock>,
    late_bytes_max: usize,
    retention: Option<Duration>,
    background: bool,
}

impl Bench {
    fn new(late_bytes_max: usize) -> Bench {
        let (disk, clock) = (FakeDisk::new(Path::new("/data")), FakeClock::at(NOW_MS));
        Bench { disk, clock, late_bytes_max, retention: None, background: false }
    }

    fn open(&self) -> Db {
        let mut config = Config::new("/data");
        config.disk = self.disk.shared();
        config.clock = self.clock.clone();
        config.lock = false;
        config.background = self.background;
        config.sync = SyncPolicy::Off;
        config.retention = self.retention;
        config.small_tenant_samples = 0;
        config.late_bytes_max = self.late_bytes_max;
        Db::open(config).expect("open")
    }
}

fn source(db: &Db, number: usize) -> (SourceRef, Vec<SeriesRef>) {
    let labels = Labels::from_pairs([("instance", number.to_string())]);
    let desc = SourceDesc { tenant: TenantId::default(), id: SourceId(number as u128), labels };
    let source = db.open_source(&desc).expect("open source");
    let name = |column: usize| {
        let (instance, n) = (number.to_string(), column.to_string());
        Labels::from_pairs([("__name__", "m"), ("instance", &instance), ("n", &n)])
    };
    let labels: Vec<Labels> = (0..COLUMNS).map(name).collect();
    (source, db.resolve(source, &labels).expect("resolve").into_iter().flatten().collect())
}

/// Appends a row in which every column has the value of its time.
fn put(db: &Db, (source, series): &(SourceRef, Vec<SeriesRef>), time: i64) -> Result<(), StoreError> {
    let values: Vec<f64> = (0..series.len()).map(|n| (time / 1000 + n as i64) as f64).collect();
    let rows = [Row::floats(*source, time, series, &values)];
    db.append(&Batch::rows(&rows, Policy::REMOTE_WRITE)).map(|done| {
        assert_eq!((done.samples, done.rejected), (series.len(), vec![]), "at {time}");
    })
}

/// How many samples each time has; every value is that of its time.
fn times(db: &Db) -> BTreeMap<i64, usize> {
    let matchers = vec![Matcher::equal("__name__", "m")];
    let select = Select { tenant: TenantId::default(), start_ms: i64::MIN, end_ms: i64::MAX, matchers };
    let set = db.select(&select).expect("select");
    assert_eq!(set.warnings(), Vec::<String>::new());
    let mut columns = Vec::new();
    set.load(0..set.len(), &mut columns).expect("load");
    let mut found = BTreeMap::new();
    for (at, column) in columns.iter().enumerate() {
        let n: i64 = set.labels(at).get("n").and_then(|n| n.parse().ok()).expect("a number");
        assert!(column.times.is_sorted_by(|a, b| a < b));
        for (time, value) in column.times.iter().zip(&column.values) {
            assert_eq!(*value, (time / 1000 + n) as f64, "at {time}");
            *found.entry(*time).or_default() += 1;
        }
    }
    found
}

fn parts(db: &Db) -> (u64, u64) {
    let parts = db.stats(&TenantId::default(), 1).parts;
    (parts.parts, parts.samples)
}

#[test]
fn a_full_lane_refuses_late_rows_and_nobody_else() {
    let bench = Bench::new(20_000);
    let db = bench.open();
    let (one, two) = (source(&db, 1), source(&db, 2));
    put(&db, &one, NOW_MS).expect("live");
    let mut late = 0;
    let error = loop {
        match put(&db, &one, NOW_MS - 5 * DAY_MS + late * 15_000) {
            Ok(()) => late += 1,
            Err(error) => break error,
        }
        assert!(late < 1000, "never full");
    };
    assert!(matches!(&error, StoreError::Limit { .. }), "{error}");
    assert!(error.to_string().contains("are being written to parts"), "{error}");
    assert!(late > 50, "{late}");
    put(&db, &one, NOW_MS + 15_000).expect("live rows go on");
    put(&db, &two, NOW_MS - DAY_MS).expect("the first row of a series is not late");
    assert_eq!(times(&db).len(), late as usize + 3);
    db.spill().expect("spill");
    assert_eq!(parts(&db).1, late as u64 * COLUMNS as u64, "late rows only");
    assert_eq!(times(&db).len(), late as usize + 3);
    put(&db, &one, NOW_MS - 5 * DAY_MS + late * 15_000).expect("room again");
    assert_eq!(times(&db).len(), late as usize + 4);
}

#[test]
fn a_backlog_is_spilled_by_day_while_live_rows_go_on() {
    let mut bench = Bench::new(200_000);
    bench.background = true;
    let db = bench.open();
    let sources: Vec<_> = (0..20).map(|n| source(&db, n)).collect();
    sources.iter().for_each(|source| put(&db, source, NOW_MS).expect("live"));
    let (mut refused, rows) = (0, 300);
    for row in 0..rows {
        for source in &sources {
            while let Err(error) = put(&db, source, NOW_MS - 3 * DAY_MS + row * 600_000) {
                assert!(matches!(&error, StoreError::Limit { .. }), "{error}");
                refused += 1;
                assert!(refused < 100_000, "never spilled");
                std::thread::yield_now();
            }
            put(&db, source, NOW_MS + (row + 1) * 15_000).expect("live rows go on");
        }
    }
    assert!(parts(&db).0 > 0, "spilled on the way");
    let wanted = |db: &Db| {
        let found = times(db);
        assert_eq!(found.len() as i64, 2 * rows + 1);
        assert!(found.values().all(|count| *count == 20 * COLUMNS));
    };
    wanted(&db);
    db.close().expect("close");
    drop(db);
    bench.background = false;
    wanted(&bench.open());
}

#[test]
fn the_log_is_read_within_the_budget_and_spilled_rows_are_not_read_twice() {
    let mut bench = Bench::new(64 << 20);
    let db = bench.open();
    let one = source(&db, 1);
    put(&db, &one, NOW_MS).expect("live");
    let rows = 3000;
    (0..rows).for_each(|row| put(&db, &one, NOW_MS - 9 * DAY_MS + row * 60_000).expect("late"));
    assert_eq!(parts(&db).0, 0);
    drop(db);
    for _ in 0..3 {
        bench.late_bytes_max = 40_000;
        let db = bench.open();
        let (_, spilled) = parts(&db);
        assert!(spilled > rows as u64 * COLUMNS as u64 / 2, "{spilled} spilled while the log was read");
        assert!(spilled <= rows as u64 * COLUMNS as u64, "{spilled}: none twice");
        assert_eq!(times(&db).len() as i64, rows + 1);
    }
    let db = bench.open();
    db.spill().expect("spill");
    assert_eq!(parts(&db).1, rows as u64 * COLUMNS as u64);
    assert!(bench.open().stats(&TenantId::default(), 1).head.bytes < 40_000, "nothing came back");
}

#[test]
fn a_failing_spill_loses_and_doubles_nothing() {
    let bench = Bench::new(64 << 20);
    let db = bench.open();
    let one = source(&db, 1);
    put(&db, &one, NOW_MS).expect("live");
    let (mut rows, mut failures) = (0, 0);
    for step in 0..60 {
        (0..40).for_each(|n| put(&db, &one, NOW_MS - 4 * DAY_MS + (rows + n) * 60_000).expect("late"));
        rows += 40;
        bench.disk.fail_at(bench.disk.operations() + step % 30);
        failures += i32::from(db.spill().is_err());
        assert_eq!(times(&db).len() as i64, rows + 1, "step {step}");
    }
    assert!(failures > 5, "{failures}");
    db.spill().expect("spill");
    assert_eq!(times(&db).len() as i64, rows + 1);
    let again = Bench { disk: bench.disk.after_kill(), ..bench }.open();
    assert_eq!(times(&again).len() as i64, rows + 1);
}

#[test]
fn deleted_late_samples_stay_away() {
    let bench = Bench::new(64 << 20);
    let db = bench.open();
    let one = source(&db, 1);
    put(&db, &one, NOW_MS).expect("live");
    let start = NOW_MS - 4 * DAY_MS;
    (0..100).for_each(|row| put(&db, &one, start + row * 1000).expect("late"));
    let delete = |db: &Db, from: i64| {
        let matchers = [Matcher::equal("n", "2")];
        db.delete_series(&TenantId::default(), &matchers, start + from * 1000, start + (from + 9) * 1000)
    };
    delete(&db, 10).expect("delete");
    (200..300).for_each(|row| put(&db, &one, start + row * 1000).expect("late"));
    let check = |db: &Db, gone: usize| {
        let lacking = times(db).into_iter().filter(|(_, count)| *count < COLUMNS).count();
        assert_eq!((lacking, times(db).len()), (gone, 201));
    };
    check(&db, 10);
    db.spill().expect("spill");
    check(&db, 10);
    delete(&db, 250).expect("delete");
    check(&db, 20);
    check(&bench.open(), 20);
    db.clean_tombstones().expect("clean");
    check(&db, 20);
}

#[test]
fn a_year_of_trickle_leaves_few_parts() {
    let bench = Bench::new(64 << 20);
    let db = bench.open();
    let one = source(&db, 1);
    put(&db, &one, NOW_MS + 400 * DAY_MS).expect("newer than all that comes");
    let (mut sent, mut random, mut most) = (std::collections::BTreeSet::new(), 7u64, 0);
    for day in 0..365 {
        bench.clock.advance_ms(DAY_MS);
        for _ in 0..3 {
            for _ in 0..4 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let back_ms = (random >> 33) as i64 % (if day % 2 == 0 { 300 } else { 9 } * DAY_MS);
                let time = bench.clock.now_ms() - back_ms;
                put(&db, &one, time).expect("late");
                sent.insert(time);
            }
            db.flush().expect("flush");
        }
        db.compact().expect("compact");
        most = most.max(parts(&db).0);
    }
    let found = times(&db);
    assert_eq!(found.len(), sent.len() + 1, "no sample is lost");
    assert!(sent.iter().all(|time| found.get(time) == Some(&COLUMNS)));
    assert!(most < 60, "{most} parts at the worst");
}

#[test]
fn sparse_parts_do_not_keep_what_has_outlived_retention() {
    let mut bench = Bench::new(64 << 20);
    bench.retention = Some(Duration::from_secs(40 * 86_400));
    let db = bench.open();
    let one = source(&db, 1);
    put(&db, &one, NOW_MS + 400 * DAY_MS).expect("newer than all that comes");
    for day in 0..120 {
        bench.clock.advance_ms(DAY_MS);
        for back in [1, 5, 17, 38] {
            put(&db, &one, bench.clock.now_ms() - back * DAY_MS - day).expect("late");
        }
        db.flush().expect("flush");
        db.compact().expect("compact");
    }
    // Of 40 days, a quarter of that, and one or two more.
    let rows = |days: i64| [1, 5, 17, 38].iter().map(|back| (days - back).max(0)).sum::<i64>();
    let (parts, samples) = parts(&db);
    assert!(samples <= (rows(52) + 1) as u64 * COLUMNS as u64, "{samples}");
    assert!(parts < 60, "{parts}");
    let found = times(&db).len() as i64;
    assert!((rows(39)..=rows(41) + 1).contains(&found), "{found} rows");
}

#[test]
fn a_part_of_very_many_days_is_split_step_by_step() {
    let bench = Bench::new(64 << 20);
    let db = bench.open();
    let one = source(&db, 1);
    put(&db, &one, NOW_MS).expect("live");
    let (days, rows) = (130, 200);
    for row in 0..days * rows {
        put(&db, &one, NOW_MS - 140 * DAY_MS + row * (DAY_MS / rows)).expect("late");
    }
    db.flush().expect("flush");
    db.compact().expect("compact");
    let (parts, samples) = parts(&db);
    assert_eq!(samples, (days * rows + 1) as u64 * COLUMNS as u64);
    assert!((days as u64..days as u64 + 3).contains(&parts), "{parts} parts");
    assert_eq!(times(&db).len() as i64, days * rows + 1);
}
