//! What only a real file system shows: locks, versions, files that somebody has damaged.

use std::fs;
use std::path::Path;

use model::{Labels, Matcher, SourceId, TenantId};
use storage::{Appender, Batch, CommitPosition, Policy, Queryable, Row, Select, SourceDesc};
use tsdb::{Config, Db, OpenError};

fn config(dir: &Path) -> Config {
    let mut config = Config::new(dir.join("data"));
    config.retention = None;
    config
}

fn put(db: &Db, times: std::ops::Range<i64>) -> CommitPosition {
    let desc = SourceDesc { tenant: TenantId::default(), id: SourceId(1), labels: Labels::empty() };
    let source = db.open_source(&desc).expect("open source");
    let labels = [Labels::from_pairs([("__name__", "up")])];
    let series = db.resolve(source, &labels).expect("resolve")[0].expect("no limit");
    let mut position = CommitPosition::default();
    for time in times {
        let (columns, values) = ([series], [time as f64]);
        let rows = [Row::floats(source, time, &columns, &values)];
        position = db.append(&Batch::rows(&rows, Policy::SCRAPE)).expect("append").position;
    }
    position
}

fn times(db: &Db) -> Vec<i64> {
    let matchers = vec![Matcher::equal("__name__", "up")];
    let select = Select { tenant: TenantId::default(), start_ms: i64::MIN, end_ms: i64::MAX, matchers };
    let set = db.select(&select).expect("select");
    let mut columns = Vec::new();
    set.load(0..set.len(), &mut columns).expect("load");
    columns.iter().flat_map(|column| column.times.to_vec()).collect()
}

fn wal_files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> =
        fs::read_dir(dir.join("data/wal")).expect("wal").map(|entry| entry.expect("entry").path()).collect();
    files.sort();
    files
}

#[test]
fn threads_sync_and_stop() {
    let dir = tempfile::tempdir().expect("dir");
    let db = Db::open(config(dir.path())).expect("open");
    let position = put(&db, 0..100);
    db.wait_durable(position).expect("durable");
    db.close().expect("close");
    assert!(
        db.open_source(&SourceDesc { tenant: TenantId::default(), id: SourceId(1), labels: Labels::empty() })
            .is_ok()
    );
    let db = {
        drop(db);
        Db::open(config(dir.path())).expect("open again")
    };
    assert_eq!(times(&db), (0..100).collect::<Vec<_>>());
    assert_eq!(db.problems(), Vec::<String>::new());
}

#[test]
fn a_second_process_is_refused_by_name() {
    let dir = tempfile::tempdir().expect("dir");
    let _db = Db::open(config(dir.path())).expect("open");
    let error = Db::open(config(dir.path())).expect_err("locked");
    assert!(matches!(&error, OpenError::Locked { .. }), "{error}");
    let data = dir.path().join("data");
    let wanted = format!("data directory {} is in use by process {}", data.display(), std::process::id());
    assert_eq!(error.to_string(), wanted);
}

#[test]
fn a_newer_format_is_refused_with_what_helps() {
    let dir = tempfile::tempdir().expect("dir");
    drop(Db::open(config(dir.path())).expect("open"));
    let check = |text: &str, wanted: &str| {
        fs::write(dir.path().join("data/FORMAT"), text).expect("write");
        let error = Db::open(config(dir.path())).expect_err("refused").to_string();
        assert_eq!(error.replace(&dir.path().display().to_string(), ""), wanted);
    };
    check(
        "2.0\n",
        "data directory /data has format 2.0, this version reads up to 1.0; start the version that wrote it, or \
         put a backup from before into a new directory: `marigraph restore BACKUP --data NEW`",
    );
    check("hello", "/data/FORMAT does not name a format: \"hello\"");
    fs::write(dir.path().join("data/FORMAT"), "1.7\n").expect("write");
    Db::open(config(dir.path())).expect("a newer minor version is read");
}

#[test]
fn a_torn_tail_is_cut_and_named() {
    let dir = tempfile::tempdir().expect("dir");
    let db = Db::open(config(dir.path())).expect("open");
    put(&db, 0..10);
    drop(db);
    let last = wal_files(dir.path()).pop().expect("a segment");
    let len = fs::metadata(&last).expect("len").len();
    fs::File::options().write(true).open(&last).and_then(|file| file.set_len(len - 3)).expect("cut");
    let db = Db::open(config(dir.path())).expect("open");
    assert_eq!(times(&db), (0..9).collect::<Vec<_>>());
    let problems = db.problems();
    let wanted = format!("torn tail in log segment {}: incomplete record at byte ", last.display());
    assert!(problems.len() == 1 && problems[0].starts_with(&wanted), "{problems:?}");
    put(&db, 9..12);
    drop(db);
    let db = Db::open(config(dir.path())).expect("open");
    assert_eq!((times(&db), db.problems()), ((0..12).collect::<Vec<_>>(), vec![]));
}

#[test]
fn damage_in_the_middle_is_named_and_the_rest_stays() {
    let dir = tempfile::tempdir().expect("dir");
    for run in 0..3 {
        let db = Db::open(config(dir.path())).expect("open");
        put(&db, run * 10..run * 10 + 10);
    }
    let files = wal_files(dir.path());
    let mut bytes = fs::read(&files[1]).expect("read");
    let middle = bytes.len() - 30;
    bytes[middle] ^= 0x40;
    fs::write(&files[1], bytes).expect("write");
    let db = Db::open(config(dir.path())).expect("open");
    let found = times(&db);
    assert!(
        found.starts_with(&(0..10).collect::<Vec<_>>()) && found.ends_with(&(20..30).collect::<Vec<_>>())
    );
    assert!(found.len() < 30 && found.len() > 20, "rows before the damage stay: {found:?}");
    let problems = db.problems();
    let wanted = format!("damage in log segment {}: checksum mismatch at byte ", files[1].display());
    assert!(problems.iter().any(|problem| problem.starts_with(&wanted)), "{problems:?}");
}
