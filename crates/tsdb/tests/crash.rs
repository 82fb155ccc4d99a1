//! Cuts the power, or kills the process, at every kind of moment, and looks at what is there
//! afterwards: what was durable is there; what was acknowledged survives the death of the process;
//! nothing is there that nobody sent; what was deleted stays away.
//!
//! `TSDB_CRASH_SEEDS=FROM..TO` runs other seeds than the usual hundred and twenty; `cargo test --release -p
//! tsdb --test crash -- --ignored` cuts the power ten thousand times.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use model::{Labels, Matcher, SourceId, TenantId};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use stdx::clock::{Clock, FakeClock};
use stdx::disk::{FakeDisk, Survivors};
use storage::{Appender, Batch, Policy, Queryable, Row, Select, SourceDesc, StoreError};
use tsdb::{Config, Db, SyncPolicy};

const ROOT: &str = "/data";
const START_MS: i64 = 1_700_000_000_000;
const DAY_MS: i64 = 86_400_000;
const SERIES: usize = 12;
const LIVES: usize = 4;

fn labels(series: usize) -> Labels {
    Labels::from_pairs([("__name__", "m"), ("n", &series.to_string())])
}

/// What is known of a sample that was sent.
#[derive(Debug, Clone, Copy)]
struct Sent {
    value: f64,
    /// The log position of its acknowledgement.
    acknowledged: Option<u64>,
    /// Whether a deletion of it was acknowledged, or may have happened.
    deleted: Option<bool>,
}

#[derive(Debug, Default)]
struct Known {
    sent: BTreeMap<(usize, i64), Sent>,
    durable: u64,
    values: u64,
}

impl Known {
    /// Compares with what a store has after a crash, and goes on from there.
    fn check(&mut self, found: &BTreeMap<(usize, i64), f64>, power_cut: bool, seed: u64) {
        for (key, value) in found {
            let sent = self.sent.get(key).unwrap_or_else(|| panic!("seed {seed}: {key:?} was never sent"));
            assert_eq!(sent.value.to_bits(), value.to_bits(), "seed {seed}: {key:?} has another value");
            assert_ne!(sent.deleted, Some(true), "seed {seed}: {key:?} was deleted");
        }
        for (key, sent) in &self.sent {
            let promised = sent.acknowledged.is_some_and(|position| !power_cut || position <= self.durable);
            if promised && sent.deleted.is_none() {
                assert!(
                    found.contains_key(key),
                    "seed {seed}: {key:?} {sent:?} is lost, durable {}",
                    self.durable
                );
            }
        }
        self.sent.retain(|key, _| found.contains_key(key));
        for sent in self.sent.values_mut() {
            // It has been seen, and opening has made it durable: from now on it must not go.
            sent.acknowledged = Some(0);
            sent.deleted = None;
        }
    }
}

/// How the store of a seed is set up.
#[derive(Debug, Clone, Copy)]
struct Setup {
    small_tenants: bool,
    /// Late samples are written to parts all the time.
    late_bytes_max: usize,
}

impl Setup {
    fn of(seed: u64) -> Setup {
        let late_bytes_max = [1 << 20, 4000, 200][(seed % 3) as usize];
        Setup { small_tenants: seed.is_multiple_of(2), late_bytes_max }
    }
}

fn open(disk: &FakeDisk, clock: &Arc<FakeClock>, setup: Setup) -> Result<Db, tsdb::OpenError> {
    let mut config = Config::new(Path::new(ROOT));
    config.disk = disk.shared();
    config.clock = clock.clone();
    config.lock = false;
    config.background = false;
    config.sync = SyncPolicy::Off;
    config.retention = None;
    config.segment_bytes_max = 2000;
    config.small_tenant_samples = if setup.small_tenants { 100 } else { 0 };
    config.late_bytes_max = setup.late_bytes_max;
    Db::open(config)
}

fn dump(db: &Db) -> BTreeMap<(usize, i64), f64> {
    let matchers = vec![Matcher::equal("__name__", "m")];
    let select = Select { tenant: TenantId::default(), start_ms: i64::MIN, end_ms: i64::MAX, matchers };
    let set = db.select(&select).expect("select");
    assert_eq!(set.warnings(), Vec::<String>::new());
    let mut columns = Vec::new();
    set.load(0..set.len(), &mut columns).expect("load");
    let mut found = BTreeMap::new();
    for (at, column) in columns.iter().enumerate() {
        let series: usize = set.labels(at).get("n").and_then(|n| n.parse().ok()).expect("a number");
        found.extend(column.times.iter().zip(&column.values).map(|(time, value)| ((series, *time), *value)));
    }
    found
}

/// One life of the store: random work until enough, or until the disk dies.
struct Life<'a> {
    db: &'a Db,
    random: &'a mut StdRng,
    clock: &'a FakeClock,
    known: &'a mut Known,
}

impl Life<'_> {
    fn step(&mut self) -> Result<(), ()> {
        match self.random.random_range(0..100) {
            0..72 => self.append(),
            72..80 => {
                let position = self.db.append(&Batch::rows(&[], Policy::SCRAPE)).map_err(|_| ())?.position;
                self.db.wait_durable(position).map_err(|_| ())?;
                self.known.durable = position.0;
                Ok(())
            }
            80..86 => self.db.flush().map_err(|_| ()),
            86..88 => self.db.spill().map_err(|_| ()),
            88..93 => self.db.compact().map_err(|_| ()),
            93..94 => self.db.clean_tombstones().map_err(|_| ()),
            94..97 => self.delete(),
            _ => {
                self.clock.advance_ms(self.random.random_range(0..5 * 3_600_000));
                Ok(())
            }
        }
    }

    fn append(&mut self) -> Result<(), ()> {
        self.clock.advance_ms(15_000);
        let late = self.random.random_range(0..3) == 0;
        let back_ms = if late { self.random.random_range(0..4 * DAY_MS) } else { 0 };
        let timestamp_ms = self.clock.now_ms() - back_ms;
        let mut wanted: Vec<usize> = (0..SERIES).filter(|_| self.random.random_range(0..4) > 0).collect();
        wanted.retain(|series| !self.known.sent.contains_key(&(*series, timestamp_ms)));
        let id = SourceId(u128::from(self.random.random_range(0..2u8)));
        let desc = SourceDesc { tenant: TenantId::default(), id, labels: Labels::empty() };
        let source = self.db.open_source(&desc).map_err(|_| ())?;
        let labels: Vec<Labels> = wanted.iter().map(|series| labels(*series)).collect();
        let found = self.db.resolve(source, &labels).map_err(|_| ())?;
        let series: Vec<_> = found.into_iter().map(|series| series.expect("no limit")).collect();
        let mut values = Vec::new();
        for number in &wanted {
            self.known.values += 1;
            // Some columns are constant, so that columns without cells of their own are met too.
            let value = if number % 3 == 0 { 7.0 } else { self.known.values as f64 };
            values.push(value);
            self.known
                .sent
                .insert((*number, timestamp_ms), Sent { value, acknowledged: None, deleted: None });
        }
        let rows = [Row::floats(source, timestamp_ms, &series, &values)];
        let batch = Batch::rows(&rows, Policy::REMOTE_WRITE);
        let mut appended = self.db.append(&batch);
        if matches!(appended, Err(StoreError::Limit { .. })) {
            // As the maintenance thread would do, before the sender tries again.
            self.db.spill().map_err(|_| ())?;
            appended = self.db.append(&batch);
        }
        let appended = appended.map_err(|_| ())?;
        assert_eq!(appended.rejected, [], "no sample conflicts with another");
        for number in &wanted {
            let sent = self.known.sent.get_mut(&(*number, timestamp_ms)).expect("just sent");
            sent.acknowledged = Some(appended.position.0);
        }
        Ok(())
    }

    fn delete(&mut self) -> Result<(), ()> {
        let series = self.random.random_range(0..SERIES);
        let end_ms = self.clock.now_ms() - self.random.random_range(0..DAY_MS);
        let start_ms = end_ms - self.random.random_range(0..DAY_MS);
        let matchers = [Matcher::equal("n", series.to_string())];
        let deleted = self.db.delete_series(&TenantId::default(), &matchers, start_ms, end_ms);
        for (_, sent) in self.known.sent.range_mut((series, start_ms)..=(series, end_ms)) {
            sent.deleted = Some(deleted.is_ok() || sent.deleted == Some(true));
        }
        deleted.map_err(|_| ())
    }
}

/// Lives through several crashes, `all_cuts` of the power; gives how many were.
fn run(seed: u64, all_cuts: bool) -> usize {
    let mut cuts = 0;
    let mut random = StdRng::seed_from_u64(seed);
    let clock = FakeClock::at(START_MS);
    let mut disk = FakeDisk::new(Path::new(ROOT));
    let mut known = Known::default();
    let setup = Setup::of(seed);
    for _ in 0..LIVES {
        let steps = random.random_range(1..60);
        if random.random_range(0..3) > 0 {
            disk.die_at(disk.operations() + random.random_range(0..steps * 3));
        }
        let opened = open(&disk, &clock, setup);
        if let Ok(db) = &opened {
            let mut life = Life { db, random: &mut random, clock: &clock, known: &mut known };
            let _ = (0..steps).try_for_each(|_| life.step());
        }
        let power_cut = random.random_range(0..2) == 0 || all_cuts;
        cuts += usize::from(power_cut);
        let next = if power_cut {
            disk.after_power_cut(Survivors::Some(random.random_range(0..u64::MAX)))
        } else {
            disk.after_kill()
        };
        drop(opened); // its last words go to the old disk
        disk = next;
        let db = open(&disk, &clock, setup).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        db.readiness().unwrap_or_else(|error| panic!("seed {seed}: {error:?}"));
        known.check(&dump(&db), power_cut, seed);
        // What was interrupted is not taken for lost.
        let files = disk.files();
        let lost = files.iter().find(|(path, _)| path.extension().is_some_and(|kind| kind == "unnamed"));
        assert_eq!(lost, None, "seed {seed}");
        known.durable = 0;
        // Opened again it says the same: recovery damages nothing.
        let found = dump(&db);
        let again = disk.after_kill();
        drop(db);
        let db = open(&again, &clock, setup).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(dump(&db).len(), found.len(), "seed {seed}: opening twice differs");
        drop(db);
        disk = again;
    }
    cuts
}

#[test]
fn what_was_acknowledged_survives() {
    let seeds = std::env::var("TSDB_CRASH_SEEDS").ok().and_then(|range| {
        let (from, to) = range.split_once("..")?;
        Some(from.parse().ok()?..to.parse().ok()?)
    });
    for seed in seeds.unwrap_or(0..120) {
        run(seed, false);
    }
}

#[test]
#[ignore = "takes minutes"]
fn what_was_durable_survives_ten_thousand_power_cuts() {
    let mut cuts = 0;
    let mut seed = 1_000_000;
    while cuts < 10_000 {
        cuts += run(seed, true);
        seed += 1;
    }
}
