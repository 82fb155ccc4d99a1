//! `tsdb export`: windows of time, one block each. A window's labels are in memory, of its samples only a
//! batch of series.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use blocks::{BlockMeta, BlockSpec, BlockWriter};
use stdx::disk::{Disk, RealDisk};
use tsdb::Db;
use ulid::Ulid;

use super::source::{Selected, open_store};
use super::{Damage, ExportArgs, shown_time};
use crate::verbs::terminal::Progress;

/// Samples decoded at a time, if there is one each five seconds.
const BATCH_SAMPLES: i64 = 2 << 20;
const BATCH_SERIES_MAX: i64 = 1024;
/// Most blocks of one export: 2,000 years of two hours each would be some nine times as many.
const WINDOWS_MAX: i128 = 1_000_000;

/// Exports; a line on `out` for each block.
pub(super) fn run(args: &ExportArgs, out: &mut dyn Write) -> Result<()> {
    let mut progress = Progress::of_samples("export");
    let mut damage = Damage::default();
    let db = open_store(&args.data, &mut damage, &mut progress)?;
    ensure!(
        db.tenants().contains(&args.tenant),
        "{} has no tenant {:?}; it has {}",
        args.data.display(),
        args.tenant.as_str(),
        db.tenants().iter().map(|tenant| tenant.as_str()).collect::<Vec<_>>().join(", ")
    );
    RealDisk.create_dir_all(&args.out).with_context(|| format!("create {}", args.out.display()))?;
    let windows = windows(&db.time_ranges(&args.tenant), args)?;
    let (mut samples, mut blocks) = (0, 0);
    for (number, window) in windows.iter().enumerate() {
        let mut at = At { done: number, windows: windows.len(), samples };
        let written = write_block(&db, args, *window, &mut at, &mut damage, &mut progress)?;
        samples = at.samples;
        if let Some(meta) = written {
            blocks += 1;
            writeln!(
                out,
                "{} {} {} {} samples {} series",
                meta.ulid, meta.min_time, meta.max_time, meta.stats.num_samples, meta.stats.num_series
            )?;
        }
    }
    progress.line(&format!("{blocks} blocks, {samples} samples in {}", args.out.display()));
    damage.outcome()
}

/// How far the export has come.
struct At {
    done: usize,
    windows: usize,
    samples: u64,
}

/// The windows of blocks that may have samples, both ends inclusive, ascending.
fn windows(ranges: &[(i64, i64)], args: &ExportArgs) -> Result<Vec<(i64, i64)>> {
    let (start, end) = (args.start.unwrap_or(i64::MIN), args.end.unwrap_or(i64::MAX));
    let span = args.block_duration;
    let mut numbers = BTreeSet::new();
    for (first, last) in ranges {
        let (first, last) = ((*first).max(start), (*last).min(end));
        if first <= last {
            let many = i128::from(last.div_euclid(span)) - i128::from(first.div_euclid(span));
            ensure!(
                many + (numbers.len() as i128) < WINDOWS_MAX,
                "there may be samples from {} to {}, more than {WINDOWS_MAX} blocks; choose --start and --end, \
                 or a longer --block-duration",
                shown_time(first),
                shown_time(last)
            );
            numbers.extend(first.div_euclid(span)..=last.div_euclid(span));
        }
    }
    let clipped = |number: i64| {
        let first = number.saturating_mul(span);
        (first.max(start), first.saturating_add(span - 1).min(end))
    };
    Ok(numbers.into_iter().map(clipped).collect())
}

fn write_block(
    db: &Db,
    args: &ExportArgs,
    window: (i64, i64),
    at: &mut At,
    damage: &mut Damage,
    progress: &mut Progress,
) -> Result<Option<BlockMeta>> {
    let selected = Selected::new(db, &args.tenant, &args.matches, window)?;
    let mut spec = BlockSpec::new(new_ulid());
    spec.external_labels = args.external_labels.clone();
    let mut writer = BlockWriter::create(&RealDisk, &args.out, spec)?;
    let span_seconds = (args.block_duration / 1000).max(1);
    let batch = (BATCH_SAMPLES / (span_seconds / 5).max(1)).clamp(1, BATCH_SERIES_MAX) as usize;
    let mut columns = Vec::new();
    let before = at.samples;
    for first in (0..selected.len()).step_by(batch) {
        let range = first..selected.len().min(first + batch);
        selected.load(range.clone(), &mut columns, damage, progress);
        for (number, column) in range.clone().zip(&columns) {
            let labels = selected.labels(number);
            writer
                .add(labels, &column.times, &column.values, &column.histograms)
                .with_context(|| format!("samples from {} on", shown_time(window.0)))?;
        }
        at.samples = before + writer.stats().num_samples;
        let share = range.end as f64 / selected.len() as f64;
        progress.set((at.done as f64 + share) / at.windows as f64, at.samples);
    }
    selected.tell_warnings(damage, progress);
    Ok(writer.finish()?)
}

/// A name that no other block has.
fn new_ulid() -> Ulid {
    let random = || u128::from(RandomState::new().build_hasher().finish());
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64);
    Ulid::from_parts(now_ms, random() << 64 | random())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};
    use crate::verbs::tsdb::TsdbVerb;

    fn check(ranges: &[(i64, i64)], flags: &[&str], want: Result<&[(i64, i64)], &str>) {
        let words = ["marigraph", "tsdb", "export", "--out", "x", "--block-duration", "1m"];
        let cli = Cli::parse_from(words.iter().chain(flags));
        let Command::Tsdb { verb: TsdbVerb::Export(args) } = cli.command else { panic!("export") };
        let got = windows(ranges, &args).map_err(|error| error.to_string());
        assert_eq!(got.as_deref().map_err(String::as_str), want, "{ranges:?} {flags:?}");
    }

    #[test]
    fn windows_are_aligned_and_only_where_samples_may_be() {
        check(&[], &[], Ok(&[]));
        check(
            &[(-1, 60_000), (200_000, 200_001)],
            &[],
            Ok(&[(-60_000, -1), (0, 59_999), (60_000, 119_999), (180_000, 239_999)]),
        );
        check(
            &[(0, 119_999)],
            &["--start", "30", "--end", "61.5"],
            Ok(&[(30_000, 59_999), (60_000, 61_500)]),
        );
        check(&[(0, 119_999)], &["--start", "500"], Ok(&[]));
        check(
            &[(0, i64::MAX)],
            &["--start", "1700000000"],
            Err(
                "there may be samples from 2023-11-14T22:13:20Z to 9223372036854775807 ms, more than 1000000 blocks; \
                 choose --start and --end, or a longer --block-duration",
            ),
        );
    }
}
