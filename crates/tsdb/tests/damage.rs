//! What one failure must not do to everything else: a damaged part, a refused batch, a directory that
//! is not ours.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::{Labels, Matcher, SourceId, TenantId};
use stdx::clock::FakeClock;
use stdx::disk::FakeDisk;
use storage::{
    Appender, Batch, Column, Policy, QueryError, Queryable, Row, Select, SeriesRef, SeriesSet, SourceDesc,
    SourceRef, StoreError,
};
use tsdb::{Config, Db};

const SPAN_MS: i64 = 2 * 3600 * 1000;
/// Midnight.
const START_MS: i64 = 1_699_920_000_000;

struct Bench {
    disk: FakeDisk,
    clock: Arc<FakeClock>,
    db: Db,
}

impl Bench {
    fn new() -> Bench {
        let (disk, clock) = (FakeDisk::new(Path::new("/data")), FakeClock::at(START_MS));
        let db = open(&disk, &clock, 0);
        Bench { disk, clock, db }
    }

    /// What another process finds when this one has been killed.
    fn again(self) -> Bench {
        let disk = self.disk.after_kill();
        let db = open(&disk, &self.clock, 0);
        Bench { disk, clock: self.clock, db }
    }

    fn parts(&self) -> Vec<PathBuf> {
        let files = self.disk.files().into_iter().map(|(path, _)| path);
        files.filter(|path| path.extension().is_some_and(|ext| ext == "mgp")).collect()
    }

    /// Two parts of ten rows each in the span that starts at `span_ms`.
    fn fill(&self, span_ms: i64) {
        let (source, series) = columns(&self.db, 1);
        for half in 0..2 {
            for row in 0..10 {
                let time = span_ms + (half * 10 + row) * 1000;
                put(&self.db, source, &series, time).expect("room");
            }
            self.db.flush().expect("flush");
            // Names of parts ascend with the clock.
            self.clock.advance_ms(1);
        }
    }
}

fn open(disk: &FakeDisk, clock: &Arc<FakeClock>, small: usize) -> Db {
    let mut config = Config::new(Path::new("/data"));
    config.disk = disk.shared();
    config.clock = clock.clone();
    config.lock = false;
    config.background = false;
    config.retention = None;
    config.small_tenant_samples = small;
    Db::open(config).expect("open")
}

fn columns(db: &Db, count: usize) -> (SourceRef, Vec<SeriesRef>) {
    let desc = SourceDesc { tenant: TenantId::default(), id: SourceId(1), labels: Labels::empty() };
    let source = db.open_source(&desc).expect("open source");
    let of = |n: usize| Labels::from_pairs([("__name__", "m"), ("n", &n.to_string())]);
    let labels: Vec<Labels> = (0..count).map(of).collect();
    let found = db.resolve(source, &labels).expect("resolve");
    (source, found.into_iter().map(|series| series.expect("no limit")).collect())
}

fn put(db: &Db, source: SourceRef, series: &[SeriesRef], time: i64) -> Result<usize, StoreError> {
    let values: Vec<f64> = (0..series.len()).map(|n| value(n, time)).collect();
    let rows = [Row::floats(source, time, series, &values)];
    db.append(&Batch::rows(&rows, Policy::REMOTE_WRITE)).map(|done| done.samples)
}

/// Nothing that a block of values would hold as a constant.
fn value(series: usize, time: i64) -> f64 {
    ((time / 1000 * 7919 + series as i64) % 104_729) as f64 / 8.0
}

fn select(db: &Db, start_ms: i64, end_ms: i64) -> (Result<Vec<Column>, QueryError>, Vec<String>) {
    let matchers = vec![Matcher::equal("__name__", "m")];
    let select = Select { tenant: TenantId::default(), start_ms, end_ms, matchers };
    let set = db.select(&select).expect("select");
    let mut columns = Vec::new();
    (set.load(0..set.len(), &mut columns).map(|()| columns), set.warnings())
}

fn times(db: &Db) -> Vec<Vec<i64>> {
    let (columns, warnings) = select(db, i64::MIN, i64::MAX);
    assert_eq!(warnings, Vec::<String>::new());
    let matchers = vec![Matcher::equal("__name__", "m")];
    let all = Select { tenant: TenantId::default(), start_ms: i64::MIN, end_ms: i64::MAX, matchers };
    let labels = |set: Box<dyn SeriesSet>| (0..set.len()).map(|at| set.labels(at).clone()).collect();
    let listed: Vec<Labels> = labels(db.series(&all).expect("list"));
    assert_eq!(listed, labels(db.select(&all).expect("select")), "labels alone are the same");
    columns.expect("load").iter().map(|column| column.times.to_vec()).collect()
}

#[test]
fn a_refused_batch_leaves_lanes_that_take_the_next() {
    // A full lane of so many columns meets a further column in a batch that the log refuses.
    for count in [1, 3, 256, 300] {
        let bench = Bench::new();
        let (source, series) = columns(&bench.db, count + 1);
        for time in 0..32 {
            assert_eq!(put(&bench.db, source, &series[..count], time).expect("room"), count);
        }
        bench.disk.set_capacity(Some(0));
        put(&bench.db, source, &series, 32).expect_err("full");
        bench.disk.set_capacity(None);
        for time in 32..70 {
            let width = if time % 2 == 0 { count } else { count + 1 };
            assert_eq!(put(&bench.db, source, &series[..width], time).expect("room"), width);
        }
        let check = |db: &Db| {
            let found = times(db);
            assert_eq!(found.len(), count + 1);
            // Selections are sorted by labels; the column that came late is told by its samples.
            let late: Vec<i64> = (33..70).step_by(2).collect();
            assert_eq!(found.iter().filter(|times| **times == late).count(), 1, "{count} columns");
            let all: Vec<i64> = (0..70).collect();
            assert_eq!(found.iter().filter(|times| **times == all).count(), count, "{count} columns");
        };
        check(&bench.db);
        bench.db.flush().expect("flush");
        check(&bench.db);
        check(&bench.again().db);
    }
}

#[test]
fn a_damaged_part_stops_no_other_merge() {
    let bench = Bench::new();
    bench.fill(START_MS);
    let damaged = bench.parts()[0].clone();
    bench.fill(START_MS + SPAN_MS);
    assert_eq!(bench.parts().len(), 4);
    assert!(bench.disk.flip_byte(&damaged, 70), "a byte of the values");
    bench.clock.advance_ms(3 * SPAN_MS);
    let error = bench.db.compact().expect_err("a damaged input").to_string();
    assert!(error.contains(&damaged.display().to_string()), "{error}");
    assert_eq!(bench.parts().len(), 3, "the other span's parts are one");
    assert!(bench.parts().contains(&damaged), "what may still be read stays");
    bench.db.compact().expect("the damaged part has been set aside");
    assert!(bench.db.problems().iter().any(|problem| problem.contains(&damaged.display().to_string())));
    let (columns, _) = select(&bench.db, START_MS + SPAN_MS, i64::MAX);
    assert_eq!(columns.expect("sound")[0].times.len(), 20);
    let (columns, warnings) = select(&bench.db, START_MS, START_MS + 15_000);
    let sound: Vec<i64> = (10..16).map(|row| START_MS + row * 1000).collect();
    assert_eq!(*columns.expect("the other part")[0].times, sound);
    assert!(warnings.len() == 1 && warnings[0].contains(&damaged.display().to_string()), "{warnings:?}");
}

#[test]
fn a_part_that_cannot_be_opened_is_missed_aloud_and_its_deletions_are_kept() {
    let bench = Bench::new();
    bench.fill(START_MS);
    let (part, end) = (bench.parts()[0].clone(), START_MS + 9_000);
    bench.db.delete_series(&TenantId::default(), &[Matcher::equal("n", "0")], START_MS, end).expect("delete");
    bench.db.flush().expect("the log goes");
    let len = bench.disk.files().into_iter().find(|(path, _)| *path == part).expect("the part").1;
    let bench = bench.again();
    assert!(bench.disk.flip_byte(&part, len - 20), "a byte of the footer");
    let bench = bench.again();
    let (columns, warnings) = select(&bench.db, i64::MIN, i64::MAX);
    assert_eq!(columns.expect("the other part")[0].times.len(), 10);
    assert!(warnings.len() == 1 && warnings[0].contains(&part.display().to_string()), "{warnings:?}");
    bench.db.clean_tombstones().expect("nothing to rewrite");
    bench.db.flush().expect("the log goes");
    assert!(bench.disk.flip_byte(&part, len - 20), "the disk has changed its mind");
    let bench = bench.again();
    assert_eq!(times(&bench.db), [(10..20).map(|row| START_MS + row * 1000).collect::<Vec<_>>()]);
}

#[test]
fn deletions_that_concern_nothing_are_forgotten() {
    let bench = Bench::new();
    bench.fill(START_MS);
    let manifest = Path::new("/data/tenant/default/MANIFEST");
    let tombstones = |bench: &Bench| {
        let bytes = bench.disk.shared().read(manifest).expect("a manifest");
        tsdb::manifest::read(&bytes).expect("sound").0.tombstones.len()
    };
    for second in 0..5 {
        let (start, end) = (START_MS + second * 1000, START_MS + second * 1000);
        bench
            .db
            .delete_series(&TenantId::default(), &[Matcher::equal("n", "0")], start, end)
            .expect("delete");
    }
    assert_eq!(tombstones(&bench), 5);
    bench.clock.advance_ms(3 * SPAN_MS);
    bench.db.compact().expect("compact");
    assert_eq!((tombstones(&bench), bench.parts().len()), (0, 1));
    assert_eq!(times(&bench.db)[0].len(), 15);
}

#[test]
fn a_read_only_directory_is_left_alone() {
    let bench = Bench::new();
    bench.fill(START_MS);
    bench.clock.advance_ms(3 * SPAN_MS);
    let (source, series) = columns(&bench.db, 1);
    put(&bench.db, source, &series, START_MS + SPAN_MS).expect("append");
    bench.disk.fail_syncs(true);
    bench.db.sync().expect_err("the sync fails");
    bench.disk.fail_syncs(false);
    let before = bench.disk.files();
    assert!(bench.db.compact().is_err() && bench.db.clean_tombstones().is_err());
    assert_eq!(bench.disk.files(), before, "read-only until restart");
    assert_eq!(times(&bench.db)[0].len(), 21, "queries go on");
}

#[test]
fn nothing_is_tidied_up_in_a_directory_that_could_not_be_taken() {
    let bench = Bench::new();
    bench.fill(START_MS);
    let (source, series) = columns(&bench.db, 1);
    put(&bench.db, source, &series, START_MS + SPAN_MS).expect("append");
    let stray = Path::new("/data/tenant/default/parts/00000000000000000000000000.tmp");
    let disk = bench.disk.after_kill();
    drop(disk.shared().create(stray).expect("another process at work"));
    let last = disk.files().into_iter().rfind(|(path, _)| path.extension().is_some_and(|e| e == "wal"));
    let (wal, len) = last.expect("a segment");
    disk.shared().truncate(&wal, len - 3).expect("a record on its way");
    let before = disk.files();
    disk.fail_at(disk.operations());
    let db = open(&disk, &bench.clock, 0);
    assert!(db.readiness().is_err());
    assert_eq!(disk.files(), before);
    assert_eq!(times(&db)[0].len(), 20);
    drop(db);
    open(&disk, &bench.clock, 0).readiness().expect("this time it is ours");
    assert!(!disk.shared().exists(stray));
}

#[test]
fn starts_of_counters_outlive_the_log() {
    let bench = Bench::new();
    let (source, series) = columns(&bench.db, 1);
    let put = |db: &Db, time: i64| {
        let starts = [(series[0], START_MS - 5)];
        let row = Row { start_timestamps: &starts, ..Row::floats(source, time, &series, &[1.0]) };
        db.append(&Batch::rows(&[row], Policy::SCRAPE)).expect("append");
    };
    (0..3).for_each(|row| put(&bench.db, START_MS + row * 1000));
    bench.db.flush().expect("flush");
    (3..6).for_each(|row| put(&bench.db, START_MS + row * 1000));
    let bench = bench.again();
    let column = select(&bench.db, i64::MIN, i64::MAX).0.expect("load").remove(0);
    assert_eq!(column.start_times.as_deref(), Some(&[START_MS - 5; 6][..]));
}

#[test]
fn the_last_replacement_is_the_last_in_the_log_too() {
    let (mut disk, clock) = (FakeDisk::new(Path::new("/data")), FakeClock::at(START_MS));
    for round in 0..60usize {
        let db = open(&disk, &clock, 1_000_000);
        let (source, series) = columns(&db, 200);
        let replace = |n: usize| {
            let values = vec![n as f64; 200];
            let rows = [Row::floats(source, START_MS, &series, &values)];
            db.append(&Batch::rows(&rows, Policy::LINE_PROTOCOL)).expect("append");
        };
        put(&db, source, &series, START_MS + 1 + round as i64).expect("append");
        replace(0);
        std::thread::scope(|scope| {
            let flush = scope.spawn(|| db.flush().expect("flush"));
            (1..=round).for_each(replace);
            flush.join().expect("no panic");
        });
        let again = disk.after_kill();
        let found = select(&open(&again, &clock, 1_000_000), START_MS, START_MS).0.expect("load");
        let last = found.iter().filter(|column| column.values == [round as f64]).count();
        assert_eq!(last, 200, "columns with the last value in round {round}");
        drop(db);
        disk = again;
    }
}

#[test]
fn merged_replacements_do_not_win_over_those_that_came_between() {
    let bench = Bench::new();
    let (source, series) = columns(&bench.db, 1);
    let replace = |times: &[i64], value: f64| {
        for time in times {
            let values = [value];
            let rows = [Row::floats(source, *time, &series, &values)];
            bench.db.append(&Batch::rows(&rows, Policy::LINE_PROTOCOL)).expect("append");
        }
        bench.db.flush().expect("flush");
        bench.clock.advance_ms(1);
    };
    let (day_ms, time) = (12 * SPAN_MS, START_MS + SPAN_MS);
    replace(&[time, time + 1, time + day_ms], 0.0);
    replace(&[time, time + 1], 1.0);
    bench.clock.advance_ms(4 * day_ms);
    // Late, and over two days: a part that no merge of a day takes.
    replace(&[time, time + day_ms], 2.0);
    replace(&[time + 1], 3.0);
    let check = |when: &str| {
        let found = select(&bench.db, i64::MIN, i64::MAX).0.expect("load").remove(0);
        assert_eq!(*found.times, [time, time + 1, time + day_ms], "{when}");
        assert_eq!(found.values, [2.0, 3.0, 2.0], "{when}");
    };
    check("before");
    bench.db.compact().expect("compact");
    check("after");
}
