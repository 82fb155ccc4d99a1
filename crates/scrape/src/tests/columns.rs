//! Columns of targets whose scrapes stay the same, then change, as their series are packed and unpacked.

use storage::SeriesRef;
use wire::exposition::ScrapedRow;

use super::plain;
use crate::columns::{Assembled, Columns, Reading};

/// A scrape of these columns, and the series of its row, of the columns it adds, and those that vanish.
struct Step {
    columns: Vec<u32>,
    learnt: Vec<(u32, u64)>,
    stale: Vec<u64>,
}

/// Series of a column: mostly one behind the other, with a break.
fn series_of(column: u32) -> u64 {
    u64::from(column) * 65_536 + if column > 60 { 1 << 40 } else { 3 }
}

fn step(
    columns: impl IntoIterator<Item = u32>,
    learnt: impl IntoIterator<Item = u32>,
    stale: &[u32],
) -> Step {
    Step {
        columns: columns.into_iter().collect(),
        learnt: learnt.into_iter().map(|column| (column, series_of(column))).collect(),
        stale: stale.iter().copied().map(series_of).collect(),
    }
}

#[track_caller]
fn check(steps: &[Step], live_at_end: &[u32]) {
    let config = plain();
    let (mut columns, mut out, places) = (Columns::default(), Assembled::default(), Default::default());
    let report: Vec<SeriesRef> = (0..5).map(|n| SeriesRef(1 << 50 | n)).collect();
    let mut before: &[u32] = &[];
    for (at, step) in steps.iter().enumerate() {
        if !step.learnt.is_empty() {
            columns.learn(step.learnt.iter().map(|(column, series)| (*column, Some(SeriesRef(*series)))));
        }
        let scraped = ScrapedRow {
            columns: step.columns.clone(),
            values: step.columns.iter().map(|column| f64::from(*column)).collect(),
            same_columns: step.columns == before,
            ..ScrapedRow::default()
        };
        let timestamp_ms = 1_700_000_000_000 + at as i64;
        columns.assemble(
            &Reading { config: &config, scraped: &scraped, timestamp_ms, report: &report },
            &mut out,
        );
        let wanted = step.columns.iter().map(|column| SeriesRef(series_of(*column)));
        let wanted: Vec<SeriesRef> = wanted.chain(report.iter().copied()).collect();
        assert_eq!(columns.row_series(&out), wanted, "scrape {at}");
        assert_eq!(out.values, scraped.values, "scrape {at}");
        let stale: Vec<u64> = out.stale.iter().map(|series| series.0).collect();
        assert_eq!(stale, step.stale, "scrape {at}");
        columns.taken(&mut out, &places);
        before = &step.columns;
    }
    let live: Vec<u32> = live_at_end.to_vec();
    let found: Vec<u64> = columns.live().iter().map(|series| series.0).collect();
    assert_eq!(found, live.into_iter().map(series_of).collect::<Vec<u64>>());
}

#[test]
fn rows_are_the_same_whether_their_series_are_packed_or_not() {
    let all: Vec<u32> = (0..100).collect();
    let steady = || step(0..100, [], &[]);
    let first = || step(0..100, 0..100, &[]);
    check(&[first(), steady(), steady(), steady()], &all);
    // Some vanish and come back.
    let fewer = || step((0..40).chain(50..100), [], &[]);
    let vanish = step((0..40).chain(50..100), [], &(40..50).collect::<Vec<u32>>());
    check(&[first(), steady(), steady(), vanish, fewer(), fewer(), steady(), steady(), steady()], &all);
    // New ones come while all rest, and again.
    let (more, still) = (step(0..130, 100..130, &[]), || step(0..130, [], &[]));
    let most: Vec<u32> = (0..140).collect();
    check(&[first(), steady(), steady(), more, still(), still(), step(0..140, 130..140, &[])], &most);
    // Too scattered to be packed.
    let scattered: Vec<u32> = (0..100).map(|n| n * 37 % 101).collect();
    let scrape = |learnt: &[u32]| step(scattered.clone(), learnt.iter().copied(), &[]);
    check(&[scrape(&scattered), scrape(&[]), scrape(&[])], &scattered);
}
