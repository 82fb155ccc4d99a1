//! A damaged page costs what is in it and nothing else, and no answer keeps silent about it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::histogram::{Buckets, CounterResetHint, Histogram, Span};
use model::{Labels, Matcher, Metadata, MetricType, SourceId, TenantId};
use prometheus_client::registry::Registry;
use stdx::clock::FakeClock;
use stdx::disk::FakeDisk;
use storage::{
    Appender, Batch, Column, MetadataEntry, Policy, Queryable, Row, Select, SeriesRef, SourceDesc,
};
use tsdb::{Config, Db};

const START_MS: i64 = 1_699_920_000_000;
const ROWS: i64 = 2400;
const FLOATS: usize = 24;
const HISTOGRAMS: usize = 8;
/// Rows that have histograms.
const EVERY: i64 = 8;

fn open(disk: &FakeDisk) -> Db {
    let mut config = Config::new(Path::new("/data"));
    config.disk = disk.shared();
    config.clock = FakeClock::at(START_MS);
    config.lock = false;
    config.background = false;
    config.retention = None;
    config.small_tenant_samples = 0;
    Db::open(config).expect("open")
}

/// Noise, so that blocks are long.
fn value(series: usize, row: i64) -> f64 {
    let bits = xxhash_rust::xxh3::xxh3_64(&(series as u64 * 1_000_003 + row as u64).to_le_bytes());
    bits as f64 / 3.0
}

fn histogram(series: usize, row: i64) -> Histogram {
    let positive: Vec<i64> = (0..40).map(|bucket| (value(series + bucket, row) / 1e9) as i64).collect();
    Histogram {
        counter_reset_hint: CounterResetHint::Gauge,
        schema: 3,
        zero_threshold: 0.001,
        sum: value(series, row),
        positive_spans: vec![Span { offset: 0, length: 40 }],
        negative_spans: Vec::new(),
        custom_values: Vec::new(),
        buckets: Buckets::Int { count: 1 << 50, zero_count: 1, positive, negative: Vec::new() },
    }
}

/// A store with one part of several pages.
fn one_part() -> (FakeDisk, PathBuf) {
    let disk = FakeDisk::new(Path::new("/data"));
    let db = open(&disk);
    let desc = SourceDesc { tenant: TenantId::default(), id: SourceId(1), labels: Labels::empty() };
    let source = db.open_source(&desc).expect("open source");
    let labels: Vec<Labels> = (0..FLOATS + HISTOGRAMS)
        .map(|n| Labels::from_pairs([("__name__", "m"), ("n", &format!("{n:02}")), ("long", &text(n))]))
        .collect();
    let found = db.resolve(source, &labels).expect("resolve");
    let series: Vec<SeriesRef> = found.into_iter().map(|series| series.expect("no limit")).collect();
    for row in 0..ROWS {
        let values: Vec<f64> = (0..FLOATS).map(|n| value(n, row)).collect();
        let of_row = if row % EVERY == 0 { FLOATS..FLOATS + HISTOGRAMS } else { 0..0 };
        let histograms: Vec<_> = of_row.map(|n| (series[n], histogram(n, row))).collect();
        let starts: Vec<_> = series.iter().map(|series| (*series, START_MS - row / 100)).collect();
        let row = Row {
            histograms: &histograms,
            start_timestamps: &starts,
            ..Row::floats(source, START_MS + row * 1000, &series[..FLOATS], &values)
        };
        let done = db.append(&Batch::rows(&[row], Policy::SCRAPE)).expect("append");
        assert_eq!(done.rejected.len(), 0);
    }
    let metadata = Metadata { metric_type: MetricType::Gauge, unit: String::new(), help: text(99) };
    let metadata = [MetadataEntry { source, metric: "m", metadata: &metadata }];
    db.append(&Batch { metadata: &metadata, ..Batch::rows(&[], Policy::SCRAPE) }).expect("append");
    db.flush().expect("flush");
    let files = disk.files().into_iter().map(|(path, _)| path);
    let parts: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|e| e == "mgp")).collect();
    assert_eq!(parts.len(), 1);
    (disk.after_kill(), parts[0].clone())
}

fn text(n: usize) -> String {
    format!("{:x}", xxhash_rust::xxh3::xxh3_128(&n.to_le_bytes())).repeat(8)
}

fn everything() -> Select {
    let matchers = vec![Matcher::equal("__name__", "m")];
    Select { tenant: TenantId::default(), start_ms: i64::MIN, end_ms: i64::MAX, matchers }
}

/// What is found: columns by labels, and the warnings after all has been loaded.
fn ask(db: &Db) -> (BTreeMap<String, Column>, Vec<String>) {
    let set = db.select(&everything()).expect("select");
    let mut columns = Vec::new();
    // In batches, as queries do.
    for from in (0..set.len()).step_by(5) {
        set.load(from..(from + 5).min(set.len()), &mut columns).expect("what is damaged is left out");
    }
    let labels = (0..set.len()).map(|at| set.labels(at).get("n").unwrap_or_default().to_owned());
    (labels.zip(columns).collect(), set.warnings())
}

/// The samples that are there, after checking that each is as it was.
fn samples(found: &BTreeMap<String, Column>, truth: &BTreeMap<String, Column>, starts: bool) -> usize {
    let mut count = 0;
    for (name, column) in found {
        let whole = &truth[name];
        for (row, time) in column.times.iter().enumerate() {
            let at = whole.times.binary_search(time).expect("nothing is invented");
            assert_eq!(column.values[row].to_bits(), whole.values[at].to_bits());
            if starts {
                let start = |column: &Column, row: usize| column.start_times.as_ref().map(|s| s[row]);
                assert_eq!(start(column, row), start(whole, at));
            }
        }
        for (time, histogram) in &column.histograms {
            assert!(whole.histograms.contains(&(*time, Arc::clone(histogram))), "{name} at {time}");
        }
        count += column.times.len() + column.histograms.len();
    }
    count
}

fn metric(db: &Db, name: &str) -> u64 {
    let (mut registry, mut text) = (Registry::default(), String::new());
    db.register_metrics(&mut registry);
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("encode");
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("marigraph_tsdb_{name} ")));
    line.and_then(|value| value.parse().ok()).expect("the figure is there")
}

#[test]
fn a_damaged_page_costs_what_is_in_it() {
    let (disk, part) = one_part();
    let (truth, warnings) = ask(&open(&disk));
    assert_eq!(warnings, Vec::<String>::new());
    let all = samples(&truth, &truth, true);
    assert_eq!(all, FLOATS * ROWS as usize + HISTOGRAMS * (ROWS / EVERY) as usize);
    // By section: the most samples that were lost.
    let mut lost: BTreeMap<&str, usize> = BTreeMap::new();
    let sound = tsdb::part::Part::open(&*disk.shared(), &part).expect("sound");
    let mut from = 64; // behind the header
    for (section, bytes) in sound.section_bytes() {
        let places = match section {
            "VAL" | "HST" => (from..from + bytes).step_by(bytes as usize / 6).collect(),
            _ => vec![from, from + bytes / 2, from + bytes - 1],
        };
        from += bytes;
        for at in places {
            let disk = disk.after_kill();
            assert!(disk.flip_byte(&part, at));
            let db = open(&disk);
            let (found, warnings) = ask(&db);
            let is_here = |warning: &String| warning.contains(&format!("section {section}, "));
            assert!(section == "MDT" || warnings.iter().any(is_here), "{section}, byte {at}: {warnings:?}");
            let left = samples(&found, &truth, section != "STC");
            assert!(
                left == all || !warnings.is_empty(),
                "byte {at}: {} samples are missing silently",
                all - left
            );
            for warning in &warnings {
                assert!(
                    warning.contains(&part.display().to_string()) && warning.contains(", byte "),
                    "{warning}"
                );
            }
            let most = lost.entry(section).or_insert(0);
            *most = (all - left).max(*most);
            // Asked again, it is told again, but not reported again.
            let (problems, places) = (db.problems(), metric(&db, "part_damaged_places_total"));
            let reads = metric(&db, "part_damaged_reads_total");
            assert!(places as usize == warnings.len(), "{warnings:?}");
            assert_eq!(ask(&db).1, warnings, "byte {at}");
            assert_eq!((db.problems(), metric(&db, "part_damaged_places_total")), (problems, places));
            assert!(warnings.is_empty() || metric(&db, "part_damaged_reads_total") > reads);
            // Lists of labels do not fail either.
            let (names, values) = (db.label_names(&everything()), db.label_values("n", &everything()));
            let (names, values) = (names.expect("a list"), values.expect("a list"));
            assert!(values.values.len() == FLOATS + HISTOGRAMS || !values.warnings.is_empty(), "byte {at}");
            assert!(names.values.len() == 3 || !names.warnings.is_empty(), "byte {at}");
            assert_eq!(db.metadata(&TenantId::default(), None).expect("a list").values.len(), 1);
        }
    }
    // A page of 64 KiB has some twenty blocks of 480 values of 8 bytes, or parts of them.
    let page_of_values = (65_536 / (480 * 7) + 2) * 480;
    assert!(lost["VAL"] > 0 && lost["VAL"] <= page_of_values, "{lost:?}");
    assert!(lost["HST"] > 0 && lost["HST"] < HISTOGRAMS * (ROWS / EVERY) as usize, "{lost:?}");
    assert_eq!((lost["STC"], lost["MDT"]), (0, 0), "samples do not need these: {lost:?}");
    assert!(["TSC", "DIR", "SYM", "LBL", "PST"].iter().all(|section| lost[section] > 0), "{lost:?}");
}
