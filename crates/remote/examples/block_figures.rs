//! What blocks cost: bytes, CPU and memory a sample, on the recorded exposition.
//!
//! 200 targets of 1,307 series, a row every 15 s, half an hour: encoded into a queue, decoded, and taken in by a hub
//! with a store. CPU time of all threads, the store's own included.
//!
//! `cargo run --release -p remote --example block_figures`
#![allow(clippy::print_stdout)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use model::{Labels, Metadata, SourceId, TenantId};
use queue::{Lane, Options, Reader, Start};
use remote::block::{Block, BlockError, DecodedRow, Decoder, Definitions, Visit};
use remote::ship::{Intake, Peer, SegmentKey, SentBlock, Verdict};
use remote::{Encoder, EncoderConfig, EncoderMetrics, IntakeConfig, IntakeMetrics, StoreIntake};
use stdx::clock::{Clock, FakeClock, SystemClock};
use stdx::disk::RealDisk;
use storage::{Account, Appender, Batch, Policy, Row, SeriesRef, SourceDesc, SourceRef};
use tsdb::Db;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const TARGETS: usize = 200;
const INTERVAL_MS: i64 = 15_000;
const ROWS: i64 = 120;

fn main() -> Outcome<()> {
    let Some(recorded) = testkit::recorded::load()? else {
        println!("the recorded exposition is not here");
        return Ok(());
    };
    let dir = std::env::temp_dir().join(format!("block-figures-{}", std::process::id()));
    for block_ms in [1000, 5000] {
        let dir = dir.join(block_ms.to_string());
        std::fs::create_dir_all(&dir)?;
        let reader = encode(&recorded, &dir.join("queue"), block_ms)?;
        let blocks: Vec<queue::Block> = std::iter::from_fn(|| reader.next(Lane::Live).transpose())
            .collect::<Result<_, queue::QueueError>>()?;
        decode(&blocks)?;
        store(&blocks, &dir)?;
        drop(reader);
        std::fs::remove_dir_all(&dir)?;
    }
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

/// The series of the recording, by column.
fn series(exposition: &str) -> Vec<Vec<(String, String)>> {
    let mut out = vec![Vec::new(); testkit::recorded::SERIES];
    for line in exposition.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, column)) = line.rsplit_once(" @") else { continue };
        let Ok(column) = column.parse::<usize>() else { continue };
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let mut pairs = vec![("__name__".to_owned(), name.to_owned())];
        let mut rest = labels.trim_end_matches('}');
        while let Some((label, after)) = rest.split_once("=\"") {
            let (value, behind) = after.split_once('"').unwrap_or((after, ""));
            pairs.push((label.to_owned(), value.to_owned()));
            rest = behind.trim_start_matches(',');
        }
        out[column] = pairs;
    }
    out
}

fn encode(recorded: &testkit::recorded::Recorded, dir: &Path, block_ms: i64) -> Outcome<Reader> {
    let start_ms = SystemClock.now_ms() - ROWS * INTERVAL_MS;
    let clock = FakeClock::at(start_ms);
    let options = Options { segment_age_max: Duration::from_secs(3600), ..Options::default() };
    let opened = queue::open(RealDisk::shared(), dir, clock.clone(), options)?;
    let reader = opened.queue.reader("hub", Start::Oldest)?;
    let config = EncoderConfig {
        cluster: "harbour-1".to_owned(),
        block_age: Duration::from_millis(block_ms as u64),
        ..EncoderConfig::default()
    };
    let encoder = Encoder::new(opened.writer, clock.clone(), config, EncoderMetrics::default());
    let before = resident_bytes();
    let series = series(&recorded.exposition);
    let mut targets: Vec<(SourceRef, Vec<SeriesRef>)> = Vec::with_capacity(TARGETS);
    for target in 0..TARGETS {
        let shared = [
            ("cluster", "harbour-1".to_owned()),
            ("instance", format!("10.0.{}.{}:9100", target / 250, target % 250)),
            ("job", "node".to_owned()),
        ];
        let labels = Labels::from_pairs(shared.clone());
        let desc = SourceDesc { tenant: TenantId::default(), id: SourceId(target as u128), labels };
        let source = encoder.open_source(&desc)?;
        let all = |own: &Vec<(String, String)>| {
            let shared = shared.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
            Labels::from_pairs(own.iter().cloned().chain(shared))
        };
        let found = encoder.resolve(source, &series.iter().map(all).collect::<Vec<_>>())?;
        targets.push((source, found.into_iter().flatten().collect()));
    }
    let refs = targets.iter().map(|(_, series)| series.len() * 8).sum::<usize>();
    let (cpu, mut samples) = (cpu_time(), 0);
    for row in 0..ROWS {
        for (target, (source, series)) in targets.iter().enumerate() {
            let at_ms = start_ms + row * INTERVAL_MS + (target as i64 * INTERVAL_MS) / TARGETS as i64;
            clock.set_ms(at_ms);
            let values = &recorded.rows[(row as usize + target * 37) % recorded.rows.len()];
            let row = Row::floats(*source, at_ms + (target as i64 * 7919) % 5, series, values);
            samples += encoder.append(&Batch::rows(&[row], Policy::SCRAPE))?.samples;
        }
    }
    encoder.flush()?;
    let spent = cpu_time() - cpu;
    let bytes: u64 = encoder.queue().segments().iter().map(|segment| segment.bytes).sum();
    println!("blocks of {block_ms} ms, {samples} samples:");
    println!("  queue    {:.3} B/sample", bytes as f64 / samples as f64);
    println!("  encode   {:.1} ns/sample, writing and closing included", nanos(spent, samples));
    let held = resident_bytes().saturating_sub(before).saturating_sub(refs);
    println!("  encoder  {:.1} MiB for {} series", held as f64 / 1048576.0, refs / 8);
    Ok(reader)
}

#[derive(Debug, Default)]
struct Counting {
    samples: usize,
}

impl Definitions for Counting {
    fn source(&mut self, _: u32, _: SourceId, _: &Labels) -> Result<(), BlockError> {
        Ok(())
    }
    fn column(&mut self, _: u32, _: u32, _: Labels) -> Result<(), BlockError> {
        Ok(())
    }
}

impl Visit for Counting {
    fn batch(&mut self, _: u64, _: Policy) {}
    fn row(&mut self, row: &DecodedRow<'_>) {
        self.samples += row.values.len();
    }
    fn metadata(&mut self, _: u32, _: &str, _: Metadata) {}
    fn account(&mut self, _: Account) {}
}

fn decode(blocks: &[queue::Block]) -> Outcome<()> {
    let (mut decoder, mut counting, cpu) = (Decoder::new(), Counting::default(), cpu_time());
    let (mut bytes, mut dictionary) = (0, 0);
    for block in blocks {
        let parsed = Block::parse(&block.payload)?;
        bytes += block.payload.len();
        dictionary += parsed.packed_dictionary().len();
        decoder.read(&parsed, &mut counting)?;
    }
    let per = |bytes: usize| bytes as f64 / counting.samples as f64;
    println!("  wire     {:.3} B/sample, of which dictionaries {:.4}", per(bytes), per(dictionary));
    println!("  decode   {:.1} ns/sample", nanos(cpu_time() - cpu, counting.samples));
    Ok(())
}

fn store(blocks: &[queue::Block], dir: &Path) -> Outcome<()> {
    let db = Arc::new(Db::open(tsdb::Config::new(dir.join("store")))?);
    let config = IntakeConfig {
        dir: dir.join("fleet"),
        names_dir: dir.join("queues"),
        cluster_label: "cluster".to_owned(),
        retention_ms: None,
        on_lost: None,
    };
    let (disk, clock) = (RealDisk::shared(), SystemClock::shared());
    let intake = StoreIntake::new(db, disk, clock, config, IntakeMetrics::default());
    let peer = Peer { tenant: TenantId::default(), cluster: "harbour-1".to_owned() };
    let samples: usize = blocks.iter().map(|block| block.meta.samples as usize).sum();
    let cpu = cpu_time();
    for (at, block) in blocks.iter().enumerate() {
        let (queue_id, incarnation) = (block.key.queue_id, block.key.incarnation);
        let key = SegmentKey { queue_id, incarnation, first: block.segment_first };
        let sent = SentBlock {
            block: block.key.block,
            floor: block.meta.floor,
            origin: 0,
            tenant: 0,
            flags: 0,
            context: false,
            payload: &block.payload,
        };
        let verdict = intake.take(&peer, &key, Lane::Backlog, &sent);
        if verdict != Verdict::Stored {
            return Err(format!("block {at}: {verdict:?}").into());
        }
        // As a sender with batches of about a megabyte has it.
        if at % 50 == 49 {
            intake.sync()?;
        }
    }
    intake.sync()?;
    let spent = cpu_time() - cpu;
    println!(
        "  intake   {:.1} ns/sample, {:.1} M samples per CPU-second, new series included",
        nanos(spent, samples),
        samples as f64 / spent.as_secs_f64() / 1e6
    );
    Ok(())
}

fn nanos(time: Duration, samples: usize) -> f64 {
    time.as_nanos() as f64 / samples as f64
}

/// User and system time of the process.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = fields.iter().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// Memory of the process.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}
