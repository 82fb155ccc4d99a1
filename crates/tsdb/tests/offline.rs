//! What tools do with a store that no hub has open: read it without a trace, import into it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::{Labels, Matcher, SourceId, TenantId};
use storage::{Appender, Batch, Column, Policy, Queryable, Row, Select, SourceDesc};
use tsdb::{Config, Db, OpenError};

fn config(dir: &Path) -> Config {
    Config { background: false, retention: None, small_tenant_samples: 0, ..Config::new(dir) }
}

fn labels(name: &str) -> Labels {
    Labels::from_pairs([("__name__", name), ("job", "x")])
}

fn append(db: &Db, name: &str, times: &[i64]) {
    let (tenant, id) = (TenantId::default(), SourceId(7));
    let source = db.open_source(&SourceDesc { tenant, id, labels: Labels::empty() }).expect("a source");
    let series = db.resolve(source, &[labels(name)]).expect("a series")[0].expect("within limits");
    for time in times {
        let done = db.append(&Batch::rows(
            &[Row::floats(source, *time, &[series], &[*time as f64])],
            Policy::REMOTE_WRITE,
        ));
        assert_eq!(done.expect("taken").samples, 1);
    }
}

/// The samples of all series: name, times.
fn read(db: &Db) -> Vec<(String, Vec<i64>)> {
    let (tenant, matchers) = (TenantId::default(), Vec::<Matcher>::new());
    let set =
        db.select(&Select { tenant, start_ms: i64::MIN, end_ms: i64::MAX, matchers }).expect("selected");
    let mut columns = Vec::new();
    set.load(0..set.len(), &mut columns).expect("readable");
    let named =
        |(at, column): (usize, &Column)| (set.labels(at).metric_name().to_owned(), column.times.to_vec());
    columns.iter().enumerate().map(named).collect()
}

/// Every file below `dir` with its bytes.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut open) = (BTreeMap::new(), vec![dir.to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).expect("listed") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.insert(path.clone(), fs::read(&path).expect("read"));
            }
        }
    }
    found
}

#[test]
fn reading_changes_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let db = Db::open(config(dir.path())).expect("opened");
    append(&db, "a", &[1000, 2000]);
    db.flush().expect("flushed");
    append(&db, "b", &[3000]);
    // Deleted in the part, and in the log only.
    db.delete_series(&TenantId::default(), &[Matcher::equal("__name__", "a")], 1500, 2500).expect("deleted");
    db.close().expect("closed");
    drop(db);
    // A torn tail, as a crash leaves it, and a file of an interrupted merge.
    let newest = files(&dir.path().join("wal")).into_keys().next_back().expect("a segment");
    let mut torn = fs::read(&newest).expect("read");
    torn.extend([7; 5]);
    fs::write(&newest, torn).expect("written");
    fs::write(dir.path().join("tenant/default/parts/x.tmp"), "stray").expect("written");
    let before = files(dir.path());

    let reading = || Config { read_only: true, ..config(dir.path()) };
    let db = Db::open(reading()).expect("opened");
    assert_eq!(read(&db), [("a".to_owned(), vec![1000]), ("b".to_owned(), vec![3000])]);
    assert_eq!(db.time_ranges(&TenantId::default()), [(1000, 2000), (3000, 3000)]);
    assert_eq!(db.parts(&TenantId::default()).len(), 1);
    let refused = db.import(&TenantId::default()).expect_err("refused").to_string();
    assert_eq!(refused, "the store is read-only: it was opened for reading only");
    // Readers share.
    let second = Db::open(reading()).expect("opened");
    drop((db, second));
    assert_eq!(files(dir.path()), before);
}

#[test]
fn times_of_late_samples_are_known() {
    let dir = tempfile::tempdir().expect("a directory");
    let db = Db::open(config(dir.path())).expect("opened");
    let (tenant, id) = (TenantId::default(), SourceId(7));
    let source = db.open_source(&SourceDesc { tenant, id, labels: Labels::empty() }).expect("a source");
    let names: Vec<Labels> = (0..6).map(|at| labels(&format!("m{at}"))).collect();
    let series: Vec<_> = db.resolve(source, &names).expect("resolved").into_iter().flatten().collect();
    let day_ms = 24 * 3600 * 1000;
    for time in [10 * day_ms, 3 * day_ms + 5] {
        let row = Row::floats(source, time, &series, &[1.0; 6]);
        let done = db.append(&Batch::rows(&[row], Policy::REMOTE_WRITE)).expect("taken");
        assert_eq!(done.samples, 6, "{:?}", done.rejected);
    }
    let ranges = db.time_ranges(&TenantId::default());
    let known = |time: i64| ranges.iter().any(|(first, last)| (*first..=*last).contains(&time));
    assert!(known(10 * day_ms) && known(3 * day_ms + 5) && !known(5 * day_ms), "{ranges:?}");
}

#[test]
fn a_store_in_use_is_not_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let hub = Db::open(config(dir.path())).expect("opened");
    let reading = || Config { read_only: true, ..config(dir.path()) };
    let refused = Db::open(reading()).expect_err("refused");
    assert!(matches!(refused, OpenError::Locked { .. }), "{refused}");
    drop(hub);
    let reader = Db::open(reading()).expect("opened");
    let refused = Db::open(config(dir.path())).expect_err("refused");
    assert!(matches!(refused, OpenError::Locked { .. }), "{refused}");
    drop(reader);
    Db::open(config(dir.path())).expect("opened");
}

#[test]
fn an_import_is_there_at_once_and_for_good() {
    let dir = tempfile::tempdir().expect("a directory");
    let db = Db::open(config(dir.path())).expect("opened");
    append(&db, "a", &[1000]);
    let everything = [Matcher::equal("job", "x")];
    db.delete_series(&TenantId::default(), &everything, i64::MIN, i64::MAX).expect("deleted");
    let column = |times: &[i64]| Column {
        times: Arc::from(times),
        values: times.iter().map(|time| *time as f64).collect(),
        ..Column::default()
    };
    let mut import = db.import(&TenantId::default()).expect("begun");
    import.add(&labels("a"), &column(&[500, 1000])).expect("added");
    import.add(&labels("c"), &column(&[-5])).expect("added");
    let info = import.finish().expect("finished").expect("a part");
    assert_eq!((info.series, info.samples, info.min_ms, info.max_ms), (2, 3, -5, 1000));
    let empty = db.import(&TenantId::default()).expect("begun");
    assert_eq!(empty.finish().expect("finished"), None);
    let abandoned = db.import(&TenantId::default()).expect("begun");
    drop(abandoned);
    // Deletions that came before do not concern it; later ones do.
    let want = [("a".to_owned(), vec![500, 1000]), ("c".to_owned(), vec![-5])];
    assert_eq!(read(&db), want);
    drop(db);
    let db = Db::open(config(dir.path())).expect("opened");
    assert_eq!(db.problems(), Vec::<String>::new());
    assert_eq!(read(&db), want);
    db.delete_series(&TenantId::default(), &everything, 0, 600).expect("deleted");
    assert_eq!(read(&db), [("a".to_owned(), vec![1000]), ("c".to_owned(), vec![-5])]);
    let parts = fs::read_dir(dir.path().join("tenant/default/parts")).expect("listed").count();
    assert_eq!(parts, 1);
}
