//! Figures, by hand: `cargo test -p tsdb --release --test figures -- --ignored --nocapture`.

#![allow(clippy::print_stdout)]

use std::time::Instant;

use model::{Labels, Matcher, SourceId, TenantId};
use storage::{Appender, Batch, Policy, Queryable, Row, Select, SeriesRef, SourceDesc, SourceRef};
use tsdb::{Config, Db};

const TARGETS: usize = 400;
const SERIES: usize = 500;
const ROWS: i64 = 120;

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

fn labels(target: usize, series: usize) -> Labels {
    let (pod, name) =
        (format!("service-{}-{target:08x}", target % 40), format!("metric_{}_total", series % 200));
    Labels::from_pairs([
        ("__name__", name.as_str()),
        ("cluster", "production-eu-west-1"),
        ("container", "application-container"),
        ("endpoint", "http-metrics"),
        ("instance", &format!("10.0.{}.{}:9090", target / 250, target % 250)),
        ("job", &format!("service-{}", target % 40)),
        ("le", &format!("{}", series / 200)),
        ("namespace", &format!("team-{}", target % 10)),
        ("node", &format!("ip-10-1-{}-7.eu-west-1.compute.internal", target % 50)),
        ("pod", &pod),
        ("service", &format!("service-{}", target % 40)),
    ])
}

fn report(what: &str, samples: usize, started: Instant) {
    let seconds = started.elapsed().as_secs_f64();
    println!("{what}: {seconds:.2} s, {:.1} M samples/s", samples as f64 / seconds / 1e6);
}

#[test]
#[ignore = "measures, for half a minute, in a release build"]
fn figures_of_many_steady_targets() {
    let dir = tempfile::tempdir().expect("dir");
    let config = || {
        let mut config = Config::new(dir.path().join("data"));
        config.retention = None;
        config.background = false;
        config
    };
    let before = resident_bytes();
    let db = Db::open(config()).expect("open");
    let started = Instant::now();
    let targets: Vec<(SourceRef, Vec<SeriesRef>)> = (0..TARGETS)
        .map(|target| {
            let desc = SourceDesc {
                tenant: TenantId::default(),
                id: SourceId(target as u128),
                labels: Labels::empty(),
            };
            let source = db.open_source(&desc).expect("source");
            let labels: Vec<Labels> = (0..SERIES).map(|series| labels(target, series)).collect();
            let found = db.resolve(source, &labels).expect("resolve");
            (source, found.into_iter().map(|series| series.expect("no limit")).collect())
        })
        .collect();
    println!("{} series in {:.2} s", TARGETS * SERIES, started.elapsed().as_secs_f64());
    println!("index: {} bytes a series", (resident_bytes() - before) / (TARGETS * SERIES));

    let started = Instant::now();
    for row in 0..ROWS {
        for (target, (source, series)) in targets.iter().enumerate() {
            // Two in three are constant, the others are counters of several paces.
            let value =
                |n: usize| if !n.is_multiple_of(3) { n as f64 } else { (row * (1 + (n % 7) as i64)) as f64 };
            let values: Vec<f64> = (0..SERIES).map(value).collect();
            let row = Row::floats(*source, 1_700_000_000_000 + row * 15_000 + target as i64, series, &values);
            db.append(&Batch::rows(&[row], Policy::SCRAPE)).expect("append");
        }
    }
    let samples = TARGETS * SERIES * ROWS as usize;
    report("append", samples, started);
    println!("head: {} bytes a series", (resident_bytes() - before) / (TARGETS * SERIES));
    let wal: u64 = std::fs::read_dir(dir.path().join("data/wal"))
        .expect("wal")
        .map(|entry| entry.and_then(|entry| entry.metadata()).map_or(0, |metadata| metadata.len()))
        .sum();
    println!("log: {:.2} bytes a sample, definitions included", wal as f64 / samples as f64);
    drop(db);

    let started = Instant::now();
    let db = Db::open(config()).expect("open");
    report("recovery", samples, started);

    let started = Instant::now();
    let matchers = vec![Matcher::equal("__name__", "metric_3_total")];
    let select = Select { tenant: TenantId::default(), start_ms: 0, end_ms: i64::MAX, matchers };
    let set = db.select(&select).expect("select");
    let mut columns = Vec::new();
    set.load(0..set.len(), &mut columns).expect("load");
    report(&format!("query of {} series", set.len()), columns.iter().map(|c| c.values.len()).sum(), started);

    let started = Instant::now();
    db.flush().expect("flush");
    report("flush", samples, started);
    println!(
        "parts: {:.3} bytes a sample",
        db.stats(&TenantId::default(), 1).parts.bytes as f64 / samples as f64
    );
}
