//! What a newer version has written is read, where it says that this can be done, or refused
//! with the command that helps, and nothing is changed then.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::{Labels, Matcher, SourceId, TenantId};
use stdx::clock::{Clock, FakeClock};
use stdx::disk::FakeDisk;
use storage::{Appender, Batch, Policy, Queryable, Row, Select, SourceDesc};
use tsdb::closed::{FileKind, contents};
use tsdb::{Config, Db, OpenError};

const SAMPLES: usize = 40;

fn open(disk: &FakeDisk) -> Result<Db, OpenError> {
    let mut config = Config::new(Path::new("/data"));
    config.disk = disk.shared();
    config.clock = FakeClock::at(1_700_000_000_000);
    config.lock = false;
    config.background = false;
    config.retention = None;
    config.small_tenant_samples = 0;
    Db::open(config)
}

/// A store with a part, a manifest and a log.
fn disk() -> FakeDisk {
    let disk = FakeDisk::new(Path::new("/data"));
    let db = open(&disk).expect("open");
    let clock: Arc<FakeClock> = FakeClock::at(1_700_000_000_000);
    let desc = SourceDesc { tenant: TenantId::default(), id: SourceId(1), labels: Labels::empty() };
    let source = db.open_source(&desc).expect("a source");
    let labels = [Labels::from_pairs([("__name__", "tide")])];
    let found = db.resolve(source, &labels).expect("series");
    let series: Vec<_> = found.into_iter().map(|series| series.expect("no limit")).collect();
    for number in 0..SAMPLES {
        clock.advance_ms(15_000);
        let values = [number as f64];
        let rows = [Row::floats(source, clock.now_ms(), &series, &values)];
        db.append(&Batch::rows(&rows, Policy::REMOTE_WRITE)).expect("append");
        if number == SAMPLES / 2 {
            db.flush().expect("flush");
        }
    }
    db.close().expect("close");
    disk
}

fn samples(db: &Db) -> usize {
    let matchers = vec![Matcher::equal("__name__", "tide")];
    let select = Select { tenant: TenantId::default(), start_ms: i64::MIN, end_ms: i64::MAX, matchers };
    let set = db.select(&select).expect("select");
    let mut columns = Vec::new();
    set.load(0..set.len(), &mut columns).expect("load");
    columns.iter().map(|column| column.times.len()).sum()
}

fn first(disk: &FakeDisk, kind: FileKind) -> PathBuf {
    let found = contents(&*disk.shared(), Path::new("/data")).expect("contents");
    let file = found.files.iter().find(|file| file.kind == kind).expect("such a file");
    Path::new("/data").join(&file.path)
}

/// Replaces a file by what `change` makes of it.
fn rewrite(disk: &FakeDisk, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let disk = disk.shared();
    let mut bytes = disk.read(path).expect("read");
    change(&mut bytes);
    disk.remove_file(path).expect("remove");
    std::io::Write::write_all(&mut disk.create(path).expect("create"), &bytes).expect("write");
}

/// Puts a version at `at` of a header whose checksum over the first `summed` bytes follows them.
fn version(at: usize, number: u16, summed: usize) -> impl Fn(&mut Vec<u8>) {
    move |bytes| {
        bytes[at..at + 2].copy_from_slice(&number.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..summed]);
        bytes[summed..summed + 4].copy_from_slice(&crc.to_le_bytes());
    }
}

#[test]
fn a_newer_minor_version_is_read() {
    let disk = disk();
    rewrite(&disk, Path::new("/data/FORMAT"), |bytes| *bytes = b"1.7\n".to_vec());
    rewrite(&disk, &first(&disk, FileKind::Manifest), version(10, 9, 12));
    rewrite(&disk, &first(&disk, FileKind::Segment), version(10, 9, 36));
    rewrite(&disk, &first(&disk, FileKind::Part), version(10, 9, 60));
    let db = open(&disk).expect("open");
    assert_eq!((samples(&db), db.problems()), (SAMPLES, Vec::<String>::new()));
}

#[test]
fn a_newer_major_version_is_refused_with_the_command_that_helps() {
    let check = |path: PathBuf, change: &dyn Fn(&mut Vec<u8>), want: &str| {
        let disk = disk();
        rewrite(&disk, &path_on(&disk, &path), change);
        let before = disk.files();
        let error = open(&disk).err().unwrap_or_else(|| panic!("{}: it opened", path.display())).to_string();
        assert!(error.contains(want), "{error:?} lacks {want:?}");
        assert!(error.contains("`marigraph restore BACKUP --data NEW`"), "{error}");
        assert_eq!(disk.files(), before, "nothing has been changed");
    };
    check(
        "FORMAT".into(),
        &|bytes| *bytes = b"2.0\n".to_vec(),
        "has format 2.0, this version reads up to 1.0",
    );
    check("MANIFEST".into(), &version(8, 2, 12), "format 2 was written by a newer version");
    check("wal".into(), &version(8, 2, 36), "log format 2, this version reads up to 1");
    check("part".into(), &version(8, 2, 60), "format 2 is newer than this program's 1");
}

fn path_on(disk: &FakeDisk, name: &Path) -> PathBuf {
    match name.to_str() {
        Some("MANIFEST") => first(disk, FileKind::Manifest),
        Some("wal") => first(disk, FileKind::Segment),
        Some("part") => first(disk, FileKind::Part),
        _ => Path::new("/data").join(name),
    }
}
