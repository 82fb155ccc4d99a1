//! The encoder over a queue on a fake disk, read back as a hub would.

use std::path::Path;

use model::{Metadata, TenantId, stale_nan};
use queue::{Lane, Options, Reader, Start};
use stdx::clock::FakeClock;
use stdx::disk::{FakeDisk, Survivors};
use storage::{Account, MetadataEntry, Outcome, RejectReason};

use super::*;
use crate::block::{Block, BlockError, DecodedRow, Decoder, Definitions, Visit};

/// An encoder and all it needs.
struct Bench {
    disk: FakeDisk,
    clock: Arc<FakeClock>,
    encoder: Arc<Encoder>,
    reader: Reader,
}

fn dir() -> &'static Path {
    Path::new("/data/queue")
}

impl Bench {
    fn new(options: Options) -> Bench {
        let disk = FakeDisk::new(Path::new("/data"));
        let clock = FakeClock::at(1_000_000);
        let opened = queue::open(disk.shared(), dir(), clock.clone(), options).expect("open");
        let reader = opened.queue.reader("hub", Start::Oldest).expect("a reader");
        let encoder =
            Encoder::new(opened.writer, clock.clone(), EncoderConfig::default(), EncoderMetrics::default());
        Bench { disk, clock, encoder, reader }
    }

    fn source(&self, name: &str) -> SourceRef {
        let tenant = TenantId::default();
        let labels = Labels::from_pairs([("job", name)]);
        let id = SourceId::of(&tenant, "harbour", "test", &labels, "");
        self.encoder.open_source(&SourceDesc { tenant, id, labels }).expect("open source")
    }

    fn series(&self, source: SourceRef, names: &[&str]) -> Vec<SeriesRef> {
        let labels: Vec<Labels> =
            names.iter().map(|name| Labels::from_pairs([("__name__", *name), ("job", "a")])).collect();
        let series = self.encoder.resolve(source, &labels).expect("resolve");
        series.into_iter().map(|series| series.expect("a series")).collect()
    }

    fn put(&self, source: SourceRef, at_ms: i64, series: &[SeriesRef], values: &[f64]) -> Appended {
        let row = Row::floats(source, at_ms, series, values);
        self.encoder.append(&Batch::rows(&[row], Policy::SCRAPE)).expect("append")
    }

    /// What the queue has that was not read before, a line for each thing.
    fn read(&self, decoder: &mut Heard) -> Vec<String> {
        while let Some(block) = self.reader.next(Lane::Live).expect("read") {
            let parsed = Block::parse(&block.payload).expect("a block");
            assert_eq!(block.key.block - block.segment_first, u64::from(parsed.header().index));
            assert_eq!(block.meta.floor - block.segment_first, u64::from(parsed.header().floor()));
            if parsed.header().index == 0 {
                decoder.decoder = Decoder::new();
                decoder.lines.push("segment".to_owned());
            }
            let mut inner = std::mem::take(&mut decoder.decoder);
            inner.read(&parsed, decoder).expect("readable");
            decoder.decoder = inner;
            self.reader.acknowledge(block.key.incarnation, block.key.block, block.key.block);
        }
        std::mem::take(&mut decoder.lines)
    }
}

#[derive(Default)]
struct Heard {
    decoder: Decoder,
    lines: Vec<String>,
}

impl Definitions for Heard {
    fn source(&mut self, source: u32, _: SourceId, labels: &Labels) -> Result<(), BlockError> {
        self.lines.push(format!("source {source} {labels}"));
        Ok(())
    }
    fn column(&mut self, source: u32, column: u32, labels: Labels) -> Result<(), BlockError> {
        self.lines.push(format!("column {source}/{column} {}", labels.metric_name()));
        Ok(())
    }
}

impl Visit for Heard {
    fn batch(&mut self, number: u64, policy: Policy) {
        assert_eq!(policy.late, Late::Accept);
        self.lines.push(format!("batch {number} {:?}", policy.conflict));
    }
    fn row(&mut self, row: &DecodedRow<'_>) {
        let columns: Vec<u32> = row.columns().flatten().collect();
        self.lines.push(format!("row {} at {}: {columns:?} {:?}", row.source, row.timestamp_ms, row.values));
    }
    fn metadata(&mut self, source: u32, metric: &str, _: Metadata) {
        self.lines.push(format!("metadata {source} {metric}"));
    }
    fn account(&mut self, account: Account) {
        self.lines.push(format!("{account:?}"));
    }
}

#[test]
fn rows_come_out_as_they_went_in() {
    let bench = Bench::new(Options::default());
    let mut heard = Heard::default();
    let a = bench.source("a");
    let series = bench.series(a, &["x", "y", "z"]);
    assert_eq!(bench.put(a, 1000, &series, &[1.0, 2.0, 3.0]).samples, 3);
    bench.put(a, 2000, &series, &[1.0, 2.5, 3.0]);
    assert_eq!(bench.read(&mut heard), [""; 0], "the block is open");
    bench.clock.advance_ms(1000);
    bench.encoder.close_due();
    assert_eq!(
        bench.read(&mut heard),
        [
            "segment",
            "source 0 {job=\"a\"}",
            "column 0/0 x",
            "column 0/1 y",
            "column 0/2 z",
            "batch 0 Refuse",
            "row 0 at 1000: [0, 1, 2] [1.0, 2.0, 3.0]",
            "row 0 at 2000: [0, 1, 2] [1.0, 2.5, 3.0]",
        ]
    );

    // Late, repeated and unknown samples, markers, a new series, other policies.
    assert_eq!(bench.put(a, 1500, &series, &[1.0, 2.0, 3.0]).rejected.len(), 3);
    assert_eq!(bench.put(a, 2000, &series, &[1.0, 2.5, 3.0]).samples, 3);
    let unknown = SeriesRef(series[0].0 + 1);
    let done = bench.put(a, 3000, &[series[0], unknown, series[2], series[0]], &[4.0, 5.0, 6.0, 7.0]);
    assert_eq!(done.samples, 2);
    assert_eq!((done.rejected[0].series, done.rejected[0].reason), (unknown, RejectReason::UnknownSeries));
    bench.put(a, 4000, &series[..2], &[stale_nan(); 2]);
    let more = bench.series(a, &["w", "y"]);
    assert_eq!(more[1], series[1]);
    let row = Row::floats(a, 500, &more, &[0.1, 0.2]);
    bench.encoder.append(&Batch::rows(&[row], Policy::LINE_PROTOCOL)).expect("append");
    let metadata = [MetadataEntry { source: a, metric: "x", metadata: &Metadata::default() }];
    let accounts = [Account::Tick { source: a, tick_ms: 5000, outcome: Outcome::Skipped }];
    let batch = Batch { metadata: &metadata, accounts: &accounts, ..Batch::rows(&[], Policy::SCRAPE) };
    let position = bench.encoder.append(&batch).expect("append").position;
    bench.encoder.wait_durable(position).expect("durable");
    assert_eq!(
        bench.read(&mut heard),
        [
            "column 0/3 w",
            "batch 1 Refuse",
            "row 0 at 3000: [0, 2] [4.0, 6.0]",
            "row 0 at 4000: [0, 1] [NaN, NaN]",
            "batch 2 Replace",
            "row 0 at 500: [3, 1] [0.1, 0.2]",
            "batch 3 Refuse",
            "metadata 0 x",
            "Tick { source: SourceRef(0), tick_ms: 5000, outcome: Skipped }",
        ]
    );
    assert_eq!(bench.encoder.metrics.repeated_rows.get(), 1);
}

#[test]
fn every_segment_can_be_read_by_itself() {
    let bench = Bench::new(Options::default());
    let (a, b) = (bench.source("a"), bench.source("b"));
    let (of_a, of_b) = (bench.series(a, &["x", "y"]), bench.series(b, &["x"]));
    bench.put(a, 1000, &of_a, &[1.0, 2.0]);
    bench.put(b, 1000, &of_b, &[1.0]);
    bench.encoder.flush().expect("flush");
    bench.encoder.queue().request_rotation();
    bench.put(b, 2000, &of_b, &[1.0]);
    bench.encoder.flush().expect("flush");
    let lines = bench.read(&mut Heard::default());
    let second = lines.iter().rposition(|line| line == "segment").expect("a segment");
    assert_eq!(
        lines[second..],
        ["segment", "source 0 {job=\"b\"}", "column 0/0 x", "batch 1 Refuse", "row 0 at 2000: [0] [1.0]"]
    );
}

#[test]
fn every_segment_says_since_when_rows_are_due_and_every_block_of_which_ticks_it_speaks() {
    let bench = Bench::new(Options::default());
    let source = bench.source("a");
    let series = bench.series(source, &["x"]);
    let schedule = storage::Schedule { interval_ms: 1000, offset_ms: 0 };
    let begin = Account::Begin { source, at_ms: 500, schedule };
    let end = Account::End { source, at_ms: 4000, reason: storage::EndReason::Gone };
    let tell = |accounts: &[Account], tick_ms: i64| {
        let outcome = Outcome::Scraped { samples: 1, exposed: 1 };
        let accounts: Vec<Account> =
            accounts.iter().copied().chain([Account::Tick { source, tick_ms, outcome }]).collect();
        let rows = [Row::floats(source, tick_ms + 2, &series, &[1.0])];
        let batch = Batch { accounts: &accounts, ..Batch::rows(&rows, Policy::SCRAPE) };
        bench.encoder.append(&batch).expect("append");
    };
    let ended = |what: &str| {
        bench.encoder.flush().expect("flush");
        bench.encoder.queue().request_rotation();
        let block = bench.reader.next(Lane::Live).expect("read").expect("a block");
        bench.reader.give_back(block.key.incarnation, block.key.block);
        let lines = bench.read(&mut Heard::default());
        let begins = lines.iter().filter(|line| line.starts_with("Begin")).count();
        (what.to_owned(), begins, block.meta.oldest_ms, block.meta.newest_ms)
    };
    tell(&[begin], 1000);
    tell(&[], 2000);
    assert_eq!(ended("stated"), ("stated".to_owned(), 1, 1000, 2002));
    tell(&[], 3000);
    assert_eq!(ended("stated again"), ("stated again".to_owned(), 1, 3000, 3002));
    tell(&[end], 3500);
    assert_eq!(ended("over"), ("over".to_owned(), 0, 3500, 3502));
    tell(&[], 5000);
    assert_eq!(ended("nothing is due"), ("nothing is due".to_owned(), 0, 5000, 5002));
}

#[test]
fn what_is_durable_survives_a_power_cut() {
    let bench = Bench::new(Options::default());
    let a = bench.source("a");
    let series = bench.series(a, &["x"]);
    let position = bench.put(a, 1000, &series, &[1.0]).position;
    bench.encoder.wait_durable(position).expect("durable");
    let prompt = Prompt(bench.encoder.clone());
    let row = Row::floats(a, 2000, &series, &[2.0]);
    prompt.append(&Batch::rows(&[row], Policy::SCRAPE)).expect("append");
    bench.put(a, 3000, &series, &[3.0]);
    let rows_on = |disk: FakeDisk| {
        let opened =
            queue::open(disk.shared(), dir(), FakeClock::at(0), Options::default()).expect("open again");
        let rows: u64 = opened.queue.segments().iter().map(|segment| segment.rows).sum();
        rows
    };
    assert_eq!(rows_on(bench.disk.after_power_cut(Survivors::Nothing)), 1);
    assert_eq!(rows_on(bench.disk.after_kill()), 2, "the open block is lost with the process");
}

#[test]
fn a_full_disk_costs_blocks_and_not_the_queue() {
    let bench = Bench::new(Options::default());
    let a = bench.source("a");
    let series = bench.series(a, &["x"]);
    bench.put(a, 1000, &series, &[1.0]);
    bench.encoder.flush().expect("flush");
    bench.disk.set_capacity(Some(0));
    let position = bench.put(a, 2000, &series, &[2.0]).position;
    let error = bench.encoder.wait_durable(position).expect_err("a full disk");
    assert_eq!(error.to_string(), "write to queue /data/queue: the block could not be written");
    bench.disk.set_capacity(None);
    bench.put(a, 3000, &series, &[3.0]);
    bench.encoder.flush().expect("flush");
    let rows: Vec<String> =
        bench.read(&mut Heard::default()).into_iter().filter(|line| line.starts_with("row")).collect();
    assert_eq!(rows, ["row 0 at 1000: [0] [1.0]", "row 0 at 3000: [0] [3.0]"]);
    assert_eq!(bench.encoder.metrics.lost_rows.get(), 1);
}

#[test]
fn idle_series_are_forgotten_and_limits_hold() {
    let bench = Bench::new(Options::default());
    let a = bench.source("a");
    let series = bench.series(a, &["x", "y"]);
    let segment = |at_ms: i64, series: &[SeriesRef]| {
        let values = vec![1.0; series.len()];
        let done = bench.put(a, at_ms, series, &values);
        bench.encoder.flush().expect("flush");
        bench.encoder.queue().request_rotation();
        bench.clock.advance_ms(IDLE_MS);
        done
    };
    segment(1000, &series);
    segment(2000, &series[..1]);
    segment(3000, &series[..1]);
    // A segment without the series, from beginning to end, is what it takes.
    let done = segment(4000, &series);
    assert_eq!(done.samples, 1);
    assert_eq!(done.rejected[0].reason, RejectReason::UnknownSeries);
    assert_eq!(bench.encoder.metrics.series.get(), 1);
    let again = bench.series(a, &["z"]);
    assert_ne!(again[0], series[1], "another series in the same place");
    assert_eq!(bench.put(a, 5000, &[series[1]], &[1.0]).samples, 0);
    let lines = bench.read(&mut Heard::default());
    assert_eq!(lines.iter().filter(|line| line.ends_with(" y")).count(), 3, "{lines:?}");

    let config = EncoderConfig { series_max: 3, source_series_max: 2, ..EncoderConfig::default() };
    let opened =
        queue::open(bench.disk.shared(), Path::new("/data/other"), bench.clock.clone(), Options::default())
            .expect("open");
    let encoder = Encoder::new(opened.writer, bench.clock.clone(), config, EncoderMetrics::default());
    let desc = |at: u32| SourceDesc {
        tenant: TenantId::default(),
        id: SourceId(at.into()),
        labels: Labels::empty(),
    };
    let wanted: Vec<Labels> = (0..3).map(|at| Labels::from_pairs([("at", at.to_string())])).collect();
    for (at, found) in [(0, [true, true, false]), (1, [true, false, false]), (0, [true, true, false])] {
        let source = encoder.open_source(&desc(at)).expect("open source");
        let given = encoder.resolve(source, &wanted).expect("resolve");
        assert_eq!(given.iter().map(Option::is_some).collect::<Vec<_>>(), found, "source {at}");
    }
}

#[test]
fn sources_that_are_alike_share_their_columns_until_one_changes() {
    let bench = Bench::new(Options::default());
    let names = ["up", "requests_total", "errors_total"];
    let sources = ["a", "b"].map(|name| bench.source(name));
    let mine = |name: &'static str, names: &[&str]| -> Vec<Labels> {
        names.iter().map(|metric| Labels::from_pairs([("__name__", *metric), ("job", name)])).collect()
    };
    let resolve = |at: usize, names: &[&str]| {
        bench.encoder.resolve(sources[at], &mine(["a", "b"][at], names)).expect("resolve")
    };
    let before = [0, 1].map(|at| resolve(at, &names));
    bench.clock.advance_ms(31_000);
    bench.encoder.close_due();
    {
        let inner = bench.encoder.inner.lock();
        let writers = [0, 1].map(|at| &inner.sources[at].writer);
        assert!(writers[0].is_one_with(writers[1]), "they rest together");
    }
    let more = resolve(0, &["up", "latency_seconds", "errors_total"]);
    assert_eq!([more[0], more[2]], [before[0][0], before[0][2]]);
    assert!(!before[0].contains(&more[1]), "a new series has a place of its own");
    assert_eq!(resolve(1, &names), before[1], "the other source is as it was");
    let series: Vec<SeriesRef> = before[1].iter().flatten().copied().collect();
    assert_eq!(bench.put(sources[1], 1_031_000, &series, &[1.0, 2.0, 3.0]).samples, 3);
}
