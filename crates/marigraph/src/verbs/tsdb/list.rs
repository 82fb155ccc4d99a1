//! `tsdb list`.

use std::io::Write;

use anyhow::Result;
use blocks::{Block, BlockMeta, find_blocks};
use stdx::disk::RealDisk;

use super::source::{Source, open};
use super::{Damage, ListArgs, shown_time};
use crate::verbs::terminal::{self, Progress, table};

/// Lists parts or blocks.
pub(super) fn run(args: &ListArgs, out: &mut dyn Write) -> Result<()> {
    let mut progress = Progress::of_samples("list");
    let mut damage = Damage::default();
    let source = open(&args.dir, &mut damage, &mut progress)?;
    let rows = match &source {
        Source::Store(db) => parts(db, args.human),
        Source::Blocks(_) => blocks(args, &mut damage, &mut progress)?,
    };
    out.write_all(table(&rows).as_bytes())?;
    damage.outcome()
}

fn header(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn time(ms: i64, human: bool) -> String {
    if human { shown_time(ms) } else { ms.to_string() }
}

fn bytes(bytes: u64, human: bool) -> String {
    if human { terminal::bytes(bytes) } else { bytes.to_string() }
}

fn duration(ms: i64) -> String {
    model::duration::format(ms.max(0))
}

fn parts(db: &tsdb::Db, human: bool) -> Vec<Vec<String>> {
    let mut rows = vec![header(&[
        "PART ULID",
        "TENANT",
        "MIN TIME",
        "MAX TIME",
        "DURATION",
        "NUM SAMPLES",
        "NUM SERIES",
        "SIZE",
        "LEVEL",
    ])];
    for tenant in db.tenants() {
        for part in db.parts(&tenant) {
            let info = part.info();
            rows.push(vec![
                info.spec.id.to_string(),
                tenant.to_string(),
                time(info.min_ms, human),
                time(info.max_ms, human),
                duration(info.max_ms.saturating_sub(info.min_ms)),
                (info.samples + info.histograms).to_string(),
                info.series.to_string(),
                bytes(info.bytes, human),
                format!("{}{}", info.spec.level, if info.spec.late { " late" } else { "" }),
            ]);
        }
        let head = db.stats(&tenant, 0).head;
        if head.series > 0 && head.min_ms <= head.max_ms {
            rows.push(vec![
                "(head and log)".to_owned(),
                tenant.to_string(),
                time(head.min_ms, human),
                time(head.max_ms, human),
                duration(head.max_ms.saturating_sub(head.min_ms)),
                "-".to_owned(),
                head.series.to_string(),
                bytes(head.bytes, human),
                "-".to_owned(),
            ]);
        }
    }
    rows
}

/// By their descriptions, so that a block with a damaged index is listed, too.
fn blocks(args: &ListArgs, damage: &mut Damage, progress: &mut Progress) -> Result<Vec<Vec<String>>> {
    let mut rows = vec![header(&[
        "BLOCK ULID",
        "MIN TIME",
        "MAX TIME",
        "DURATION",
        "NUM SAMPLES",
        "NUM CHUNKS",
        "NUM SERIES",
        "SIZE",
        "LEVEL",
    ])];
    let mut metas = Vec::new();
    for dir in find_blocks(&RealDisk, &args.dir)? {
        match BlockMeta::read(&RealDisk, &dir) {
            Ok(meta) => {
                let size = Block::open(&RealDisk, &dir).ok().map(|block| block.bytes());
                metas.push((meta, size));
            }
            Err(error) => damage.tell(progress, error),
        }
    }
    metas.sort_by_key(|(meta, _)| (meta.min_time, meta.ulid));
    for (meta, size) in metas {
        rows.push(vec![
            meta.ulid.to_string(),
            time(meta.min_time, args.human),
            time(meta.max_time, args.human),
            duration(meta.max_time.saturating_sub(meta.min_time)),
            meta.stats.num_samples.to_string(),
            meta.stats.num_chunks.to_string(),
            meta.stats.num_series.to_string(),
            size.map_or("-".to_owned(), |(index, chunks)| bytes(index + chunks, args.human)),
            meta.compaction.level.to_string(),
        ]);
    }
    Ok(rows)
}
