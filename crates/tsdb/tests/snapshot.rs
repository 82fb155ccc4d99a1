//! A snapshot says what the store said when it was asked for; it is whole or not there; and neither of
//! the two disturbs the other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::{Labels, Matcher, SourceId, TenantId};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use stdx::clock::{Clock, FakeClock};
use stdx::disk::{Disk, FakeDisk, Survivors};
use storage::{Appender, Batch, Policy, Queryable, Row, Select, SourceDesc};
use tsdb::closed::{FileKind, contents, verify};
use tsdb::{Config, Db, SnapshotError, SyncPolicy};

const START_MS: i64 = 1_700_000_000_000;

fn open(disk: &FakeDisk, dir: &str, clock: &Arc<FakeClock>) -> Db {
    let mut config = Config::new(Path::new(dir));
    config.disk = disk.shared();
    config.clock = clock.clone();
    config.lock = false;
    config.background = false;
    config.sync = SyncPolicy::Off;
    config.retention = None;
    config.segment_bytes_max = 3000;
    config.small_tenant_samples = 40;
    Db::open(config).expect("open")
}

type Samples = BTreeMap<(String, String, i64), u64>;

fn tenants() -> [TenantId; 2] {
    [TenantId::default(), TenantId::new("harbour").expect("a name")]
}

fn dump(db: &Db) -> Samples {
    let mut found = Samples::new();
    for tenant in tenants() {
        let matchers = vec![Matcher::equal("__name__", "m")];
        let select = Select { tenant: tenant.clone(), start_ms: i64::MIN, end_ms: i64::MAX, matchers };
        let set = db.select(&select).expect("select");
        assert_eq!(set.warnings(), Vec::<String>::new());
        let mut columns = Vec::new();
        set.load(0..set.len(), &mut columns).expect("load");
        for (at, column) in columns.iter().enumerate() {
            let labels = set.labels(at).to_string();
            let key = |time: &i64| (tenant.to_string(), labels.clone(), *time);
            found.extend(column.times.iter().zip(&column.values).map(|(t, v)| (key(t), v.to_bits())));
        }
    }
    found
}

struct Bench {
    db: Db,
    clock: Arc<FakeClock>,
    random: StdRng,
    value: f64,
}

impl Bench {
    fn new(disk: &FakeDisk, seed: u64) -> Bench {
        let clock = FakeClock::at(START_MS);
        let db = open(disk, "/data", &clock);
        Bench { db, clock, random: StdRng::seed_from_u64(seed), value: 0.0 }
    }

    fn append(&mut self) {
        self.clock.advance_ms(15_000);
        let tenant = tenants()[usize::from(self.random.random_range(0..4) == 0)].clone();
        let desc = SourceDesc { tenant, id: SourceId(3), labels: Labels::empty() };
        let source = self.db.open_source(&desc).expect("a source");
        let first = self.random.random_range(0..30);
        let names: Vec<String> = (first..first + 10).map(|n| n.to_string()).collect();
        let labels: Vec<Labels> =
            names.iter().map(|n| Labels::from_pairs([("__name__", "m"), ("n", n)])).collect();
        let series = self.db.resolve(source, &labels).expect("series");
        let series: Vec<_> = series.into_iter().map(|series| series.expect("no limit")).collect();
        self.value += 1.0;
        let values = vec![self.value; series.len()];
        let rows = [Row::floats(source, self.clock.now_ms(), &series, &values)];
        self.db.append(&Batch::rows(&rows, Policy::REMOTE_WRITE)).expect("append");
    }

    fn step(&mut self) {
        match self.random.random_range(0..40) {
            0 => self.db.flush().expect("flush"),
            1 => self.db.compact().expect("compact"),
            2 => self.db.clean_tombstones().expect("clean"),
            3 => {
                let matchers = [Matcher::equal("n", self.random.random_range(0..40).to_string())];
                let end_ms = self.clock.now_ms() - self.random.random_range(0..3_600_000);
                let [tenant, _] = tenants();
                self.db.delete_series(&tenant, &matchers, end_ms - 600_000, end_ms).expect("delete");
            }
            4 => self.clock.advance_ms(3_600_000),
            _ => self.append(),
        }
    }

    fn steps(&mut self, count: usize) {
        (0..count).for_each(|_| self.step());
    }
}

/// All of a directory is sound, by its own checks.
fn assert_sound(disk: &FakeDisk, dir: &str) {
    let found = contents(&*disk.shared(), Path::new(dir)).expect("contents");
    assert_eq!(found.missing, Vec::<PathBuf>::new());
    for file in &found.files {
        assert_eq!(verify(&*disk.shared(), Path::new(dir), file, false), Vec::<String>::new(), "{file:?}");
    }
}

#[test]
fn a_snapshot_says_what_the_store_said() {
    for seed in 0..10 {
        let disk = FakeDisk::new(Path::new("/data"));
        disk.refuse_links(seed % 5 == 4);
        let mut bench = Bench::new(&disk, seed);
        let steps = bench.random.random_range(0..200);
        bench.steps(steps);
        let before = dump(&bench.db);
        let mut copied = 0;
        let made = bench.db.snapshot(Path::new("/copies/a"), false, &mut |bytes| copied += bytes);
        let made = made.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(made.copied_bytes, copied, "seed {seed}");
        assert_eq!(copied > 0, seed % 5 == 4, "seed {seed}: links where they can be had");
        assert!(made.segments > 0, "seed {seed}");

        // The store goes on; what the snapshot has, stays, whatever becomes of power and store.
        bench.steps(60);
        let after = dump(&bench.db);
        let disk = disk.after_power_cut(Survivors::Nothing);
        assert_sound(&disk, "/copies/a");
        let copy = open(&disk, "/copies/a", &bench.clock);
        assert_eq!(dump(&copy), before, "seed {seed}");
        // Work on the snapshot does not reach the store.
        let mut other = Bench { db: copy, clock: bench.clock.clone(), random: bench.random, value: 1e9 };
        other.steps(50);
        drop(other);
        bench.db.sync().expect("sync");
        drop(bench.db);
        let store = open(&disk, "/data", &bench.clock);
        let found = dump(&store);
        assert!(found.iter().all(|(key, value)| after.get(key).is_none_or(|v| v == value)), "seed {seed}");
        assert!(!found.values().any(|value| f64::from_bits(*value) >= 1e9), "seed {seed}");
    }
}

#[test]
fn without_the_head_it_has_the_parts() {
    let disk = FakeDisk::new(Path::new("/data"));
    let mut bench = Bench::new(&disk, 1);
    (0..60).for_each(|_| bench.append());
    bench.db.flush().expect("flush");
    let in_parts = dump(&bench.db);
    (0..60).for_each(|_| bench.append());
    let made = bench.db.snapshot(Path::new("/copies/a"), true, &mut |_| ()).expect("snapshot");
    assert_eq!(made.segments, 0);
    let found = dump(&open(&disk, "/copies/a", &bench.clock));
    // A tenant with little has its rows in the log still.
    let [tenant, _] = tenants();
    let of_parts = |samples: &Samples| -> Samples {
        samples
            .iter()
            .filter(|((t, _, _), _)| *t == tenant.to_string())
            .map(|(k, v)| (k.clone(), *v))
            .collect()
    };
    assert_eq!(of_parts(&found), of_parts(&in_parts));
}

#[test]
fn it_is_whole_or_not_there() {
    let prepared = || {
        let disk = FakeDisk::new(Path::new("/data"));
        let mut bench = Bench::new(&disk, 7);
        bench.steps(20);
        bench.db.flush().expect("flush");
        bench.steps(10);
        (disk, bench)
    };
    let (disk, bench) = prepared();
    let before = disk.operations();
    bench.db.snapshot(Path::new("/data/snapshots/a"), false, &mut |_| ()).expect("snapshot");
    let operations = disk.operations() - before;
    assert!(operations > 10, "{operations} operations");
    for cut in 0..operations {
        let (disk, bench) = prepared();
        let acknowledged = dump(&bench.db);
        disk.die_at(disk.operations() + cut);
        bench.db.snapshot(Path::new("/data/snapshots/a"), false, &mut |_| ()).expect_err("the disk died");
        for disk in [disk.after_kill(), disk.after_power_cut(Survivors::Some(cut))] {
            let named = disk.exists(Path::new("/data/snapshots/a"));
            let store = open(&disk, "/data", &bench.clock);
            if named {
                assert_sound(&disk, "/data/snapshots/a");
                assert_eq!(dump(&open(&disk, "/data/snapshots/a", &bench.clock)), acknowledged, "cut {cut}");
            }
            let left = disk.read_dir(Path::new("/data/snapshots")).expect("list");
            assert_eq!(left.len(), usize::from(named), "cut {cut}: {left:?}");
            drop(store);
        }
        // The store itself has come to no harm.
        assert_eq!(dump(&open(&disk.after_kill(), "/data", &bench.clock)), acknowledged, "cut {cut}");
    }
}

#[test]
fn what_is_in_its_place_stays() {
    let disk = FakeDisk::new(Path::new("/data"));
    let mut bench = Bench::new(&disk, 2);
    bench.steps(50);
    bench.db.snapshot(Path::new("/copies/a"), false, &mut |_| ()).expect("snapshot");
    let files = disk.files();
    let again = bench.db.snapshot(Path::new("/copies/a"), false, &mut |_| ());
    assert!(matches!(again, Err(SnapshotError::Exists { .. })), "{again:?}");
    let of_copy = |files: &[(PathBuf, u64)]| -> Vec<(PathBuf, u64)> {
        files.iter().filter(|(path, _)| path.starts_with("/copies")).cloned().collect()
    };
    assert_eq!(of_copy(&files), of_copy(&disk.files()));
}

#[test]
fn a_part_that_is_gone_is_named_and_the_rest_is_there() {
    let disk = FakeDisk::new(Path::new("/data"));
    let mut bench = Bench::new(&disk, 3);
    (0..100).for_each(|_| bench.append());
    bench.db.flush().expect("flush");
    (0..10).for_each(|_| bench.append());
    let parts = contents(&*disk.shared(), Path::new("/data")).expect("contents").files;
    let part = parts.iter().find(|file| file.kind == FileKind::Part).expect("a part");
    let path = Path::new("/data").join(&part.path);
    disk.shared().remove_file(&path).expect("remove");
    let made = bench.db.snapshot(Path::new("/copies/a"), false, &mut |_| ()).expect("snapshot");
    assert_eq!(made.missing, [path]);
    assert_sound(&disk, "/copies/a");
    assert!(!dump(&open(&disk, "/copies/a", &bench.clock)).is_empty());
}

#[test]
fn a_tenant_that_is_refused_comes_along_as_it_is() {
    let disk = FakeDisk::new(Path::new("/data"));
    let mut bench = Bench::new(&disk, 4);
    (0..200).for_each(|_| bench.append());
    bench.db.flush().expect("flush");
    (0..20).for_each(|_| bench.append());
    let acknowledged = dump(&bench.db);
    let [_, harbour] = tenants();
    let manifest = Path::new("/data/tenant").join(harbour.as_str()).join("MANIFEST");
    let Bench { db, clock, .. } = bench;
    drop(db);
    assert!(disk.flip_byte(&manifest, 3));
    let db = open(&disk, "/data", &clock);
    assert_eq!(db.refused().len(), 1);
    db.flush().expect("flush");
    db.snapshot(Path::new("/copies/a"), false, &mut |_| ()).expect("snapshot");
    // Mended, the copy has everything.
    assert!(disk.flip_byte(&Path::new("/copies/a/tenant").join(harbour.as_str()).join("MANIFEST"), 3));
    assert_eq!(dump(&open(&disk, "/copies/a", &clock)), acknowledged);
}
