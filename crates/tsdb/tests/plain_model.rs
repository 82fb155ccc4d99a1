//! Random work on a store, step by step beside a plain map that follows the same rules.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use model::{Labels, MatchOp, Matcher, SourceId, TenantId, is_stale, stale_nan};
use proptest::prelude::*;
use stdx::clock::{Clock, FakeClock};
use stdx::disk::FakeDisk;
use storage::{Appender, Batch, Conflict, Late, Policy, Queryable, Row, Select, SourceDesc, StoreError};
use tsdb::{Config, Db, SyncPolicy};

const SERIES: usize = 10;
const SOURCES: usize = 3;
const START_MS: i64 = 1_700_000_000_000;

#[derive(Debug, Clone)]
enum Act {
    /// A row of a scrape: after everything before it.
    Scrape {
        source: usize,
        series: Vec<bool>,
        fill: i32,
    },
    /// A pushed row this long ago, milliseconds.
    Push {
        source: usize,
        series: Vec<bool>,
        back_ms: i64,
        fill: i32,
        replace: bool,
    },
    Wait(i64),
    Flush,
    Spill,
    Compact,
    Clean,
    Delete {
        series: usize,
        back_ms: i64,
        len_ms: i64,
    },
    Reopen,
}

fn act() -> impl Strategy<Value = Act> {
    let series = || proptest::collection::vec(proptest::bool::weighted(0.7), SERIES);
    // Few distinct times, so that rows meet.
    let back =
        prop_oneof![4 => (0i64..40).prop_map(|n| n * 15_000), 1 => (0i64..100).prop_map(|n| n * 3_600_000)];
    prop_oneof![
        12 => (0..SOURCES, series(), 0..4).prop_map(|(source, series, fill)| Act::Scrape { source, series, fill }),
        8 => (0..SOURCES, series(), back, -1..4, any::<bool>())
            .prop_map(|(source, series, back_ms, fill, replace)| Act::Push { source, series, back_ms, fill, replace }),
        2 => (0i64..4).prop_map(|n| Act::Wait(n * 3_600_000)),
        2 => Just(Act::Flush),
        2 => Just(Act::Spill),
        1 => Just(Act::Compact),
        1 => Just(Act::Clean),
        1 => (0..SERIES, 0i64..40, 0i64..20)
            .prop_map(|(series, back, len)| Act::Delete { series, back_ms: back * 15_000, len_ms: len * 15_000 }),
        1 => Just(Act::Reopen),
    ]
}

/// What should be there.
type Table = BTreeMap<(usize, i64), Cell>;

/// A sample: the values (bits) that may be read, and whether it is known to be a replacement. One that
/// replaced nothing is kept like any other, and may or may not be remembered as a replacement.
#[derive(Debug, Clone)]
struct Cell {
    allowed: Vec<u64>,
    replacement: Replacement,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Replacement {
    No,
    Maybe,
    Yes,
}

struct Bench {
    db: Option<Db>,
    disk: FakeDisk,
    clock: Arc<FakeClock>,
    small: usize,
    late_bytes_max: usize,
    table: Table,
}

impl Bench {
    fn new(small: usize, late_bytes_max: usize) -> Bench {
        let (disk, clock) = (FakeDisk::new("/data".as_ref()), FakeClock::at(START_MS));
        let mut bench = Bench { db: None, disk, clock, small, late_bytes_max, table: Table::new() };
        bench.open();
        bench
    }

    fn open(&mut self) {
        self.db = None;
        let mut config = Config::new("/data");
        config.disk = self.disk.shared();
        config.clock = self.clock.clone();
        config.lock = false;
        config.background = false;
        config.sync = SyncPolicy::Off;
        config.retention = None;
        config.segment_bytes_max = 3000;
        config.small_tenant_samples = self.small;
        config.late_bytes_max = self.late_bytes_max;
        config.late_after = Duration::from_secs(48 * 3600);
        self.db = Some(Db::open(config).expect("open"));
    }

    fn db(&self) -> &Db {
        self.db.as_ref().expect("open")
    }

    fn append(&mut self, source: usize, wanted: &[usize], timestamp_ms: i64, fill: i32, policy: Policy) {
        let db = self.db.as_ref().expect("open");
        let labels = Labels::from_pairs([("job", source.to_string())]);
        let desc = SourceDesc { tenant: TenantId::default(), id: SourceId(source as u128), labels };
        let source = db.open_source(&desc).expect("open source");
        let labels: Vec<Labels> = wanted.iter().map(|series| labels_of(*series)).collect();
        let series: Vec<_> =
            db.resolve(source, &labels).expect("resolve").into_iter().map(|s| s.expect("no limit")).collect();
        let values: Vec<f64> = wanted.iter().map(|series| value(*series, timestamp_ms, fill)).collect();
        let rows = [Row::floats(source, timestamp_ms, &series, &values)];
        let mut appended = db.append(&Batch::rows(&rows, policy));
        if matches!(appended, Err(StoreError::Limit { .. })) {
            assert_eq!(policy.late, Late::Accept, "nobody else is refused");
            db.spill().expect("spill");
            appended = db.append(&Batch::rows(&rows, policy));
        }
        let appended = appended.expect("append");
        let refused: Vec<_> = appended.rejected.iter().map(|rejection| rejection.series).collect();
        assert_eq!(appended.samples + refused.len(), wanted.len());
        for ((number, reference), value) in wanted.iter().zip(&series).zip(values) {
            if !refused.contains(reference) {
                put(&mut self.table, (*number, timestamp_ms), value, policy.conflict == Conflict::Replace);
            }
        }
    }

    fn run(&mut self, act: &Act) {
        let now_ms = self.clock.now_ms();
        let chosen = |series: &[bool]| (0..SERIES).filter(|n| series[*n]).collect::<Vec<_>>();
        match act {
            Act::Scrape { source, series, fill } => {
                self.clock.advance_ms(15_000);
                self.append(*source, &chosen(series), self.clock.now_ms(), *fill, Policy::SCRAPE);
            }
            Act::Push { source, series, back_ms, fill, replace } => {
                let policy = if *replace { Policy::LINE_PROTOCOL } else { Policy::REMOTE_WRITE };
                assert_eq!(policy.late, Late::Accept);
                self.append(*source, &chosen(series), now_ms - back_ms, *fill, policy);
            }
            Act::Wait(ms) => self.clock.advance_ms(*ms),
            Act::Flush => self.db().flush().expect("flush"),
            Act::Spill => self.db().spill().expect("spill"),
            Act::Compact => self.db().compact().expect("compact"),
            Act::Clean => self.db().clean_tombstones().expect("clean"),
            Act::Delete { series, back_ms, len_ms } => {
                let (start, end) = (now_ms - back_ms - len_ms, now_ms - back_ms);
                let pattern = format!("{series}|none");
                let matchers = [Matcher::new(MatchOp::Regex, "n", pattern).expect("a pattern")];
                self.db().delete_series(&TenantId::default(), &matchers, start, end).expect("delete");
                self.table.retain(|(number, time), _| number != series || !(start..=end).contains(time));
            }
            Act::Reopen => {
                self.disk = self.disk.after_kill();
                self.open();
            }
        }
    }

    fn check(&self) {
        let matchers = vec![Matcher::equal("__name__", "m")];
        let select = Select { tenant: TenantId::default(), start_ms: i64::MIN, end_ms: i64::MAX, matchers };
        let set = self.db().select(&select).expect("select");
        let mut columns = Vec::new();
        set.load(0..set.len(), &mut columns).expect("load");
        let mut found = BTreeMap::new();
        for (at, column) in columns.iter().enumerate() {
            assert!(at == 0 || set.labels(at - 1) < set.labels(at), "series are sorted");
            assert!(column.times.is_sorted_by(|a, b| a < b), "times ascend");
            let series: usize = set.labels(at).get("n").and_then(|n| n.parse().ok()).expect("a number");
            for (time, value) in column.times.iter().zip(&column.values) {
                found.insert((series, *time), value.to_bits());
            }
        }
        let fits = |key: &(usize, i64), bits: &u64| {
            self.table.get(key).is_some_and(|cell| cell.allowed.contains(bits))
        };
        let extra: Vec<_> = found.iter().filter(|(key, bits)| !fits(key, bits)).collect();
        let missing: Vec<_> = self.table.iter().filter(|(key, _)| !found.contains_key(key)).collect();
        assert!(missing.is_empty() && extra.is_empty(), "missing {missing:x?}, found {extra:x?}");
    }
}

fn labels_of(series: usize) -> Labels {
    Labels::from_pairs([("__name__", "m"), ("n", &series.to_string())])
}

/// Mostly the same value at the same time, so that repeats are met; sometimes another, or the end.
fn value(series: usize, timestamp_ms: i64, fill: i32) -> f64 {
    match fill {
        -1 => stale_nan(),
        3 => (timestamp_ms / 1000) as f64 + 0.5,
        _ => series as f64,
    }
}

/// The later replacement wins over everything; otherwise a real value over the end of the
/// series, and then the larger bits.
fn put(table: &mut Table, key: (usize, i64), value: f64, replace: bool) {
    let bits = value.to_bits();
    let Some(cell) = table.get_mut(&key) else {
        let replacement = if replace { Replacement::Maybe } else { Replacement::No };
        table.insert(key, Cell { allowed: vec![bits], replacement });
        return;
    };
    if replace {
        let repeat = cell.allowed.contains(&bits) && cell.replacement != Replacement::Yes;
        let replacement = if repeat { Replacement::Maybe } else { Replacement::Yes };
        *cell = Cell { allowed: vec![bits], replacement };
        return;
    }
    let strength = |bits: u64| (!is_stale(f64::from_bits(bits)), bits);
    let stronger = |standing: u64| if strength(standing) > strength(bits) { standing } else { bits };
    match cell.replacement {
        Replacement::Yes => {}
        Replacement::No => cell.allowed.iter_mut().for_each(|standing| *standing = stronger(*standing)),
        Replacement::Maybe => {
            let more: Vec<u64> = cell.allowed.iter().map(|standing| stronger(*standing)).collect();
            cell.allowed.extend(more);
            cell.allowed.sort_unstable();
            cell.allowed.dedup();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 60,
        max_shrink_iters: 3000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_store_is_a_plain_map(
        acts in proptest::collection::vec(act(), 1..80),
        small in prop_oneof![Just(0usize), Just(40)],
        late_bytes_max in prop_oneof![Just(1usize << 20), Just(6000), Just(300)],
    ) {
        let mut bench = Bench::new(small, late_bytes_max);
        for act in &acts {
            bench.run(act);
            bench.check();
        }
    }
}
