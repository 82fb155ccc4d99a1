//! From batches at an agent to a store at a hub, with restarts and refusals on the way.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use model::histogram::Buckets;
use model::{Exemplar, Histogram, Labels, Metadata, MetricType, SourceId, TenantId, stale_nan};
use parking_lot::Mutex;
use proptest::prelude::*;
use queue::{Lane, Options, Start};
use stdx::clock::FakeClock;
use stdx::disk::{FakeDisk, Survivors};
use storage::{
    Account, Appended, Appender, Batch, Column, CommitPosition, MemoryStore, MetadataEntry, Outcome, Policy,
    Queryable, Row, Select, SeriesRef, SourceDesc, SourceRef, StoreError,
};

use super::*;
use crate::encoder::{Encoder, EncoderConfig, EncoderMetrics};
use crate::ship::SentBlock;

const COLUMNS: usize = 6;
/// Before all scrapes.
const FIRST_MS: i64 = 1_000_000;

/// A store in memory that refuses now and then, and remembers accounts.
#[derive(Debug, Default)]
struct Store {
    inner: MemoryStore,
    /// Appends that succeed until one fails.
    patience: Mutex<Option<u32>>,
    sources: Mutex<BTreeMap<SourceRef, SourceId>>,
    accounts: Mutex<Vec<String>>,
}

impl Appender for Store {
    fn open_source(&self, source: &SourceDesc) -> Result<SourceRef, StoreError> {
        let reference = self.inner.open_source(source)?;
        self.sources.lock().insert(reference, source.id);
        Ok(reference)
    }

    fn resolve(&self, source: SourceRef, labels: &[Labels]) -> Result<Vec<Option<SeriesRef>>, StoreError> {
        self.inner.resolve(source, labels)
    }

    fn append(&self, batch: &Batch<'_>) -> Result<Appended, StoreError> {
        let mut patience = self.patience.lock();
        if *patience == Some(0) {
            *patience = None;
            return Err(StoreError::Io {
                attempt: "append".to_owned(),
                source: std::io::Error::other("busy"),
            });
        }
        *patience = patience.map(|left| left - 1);
        drop(patience);
        let done = self.inner.append(batch)?;
        if !done.repeated {
            let sources = self.sources.lock();
            let text = |account: &Account| {
                let from = format!("{:?}", account.source());
                format!("{account:?}").replace(&from, &format!("{:x}", sources[&account.source()].0))
            };
            self.accounts.lock().extend(batch.accounts.iter().map(text));
        }
        Ok(done)
    }

    fn wait_durable(&self, position: CommitPosition) -> Result<(), StoreError> {
        self.inner.wait_durable(position)
    }
}

impl Store {
    /// Everything, as text.
    fn all(&self, tenant: &TenantId) -> BTreeMap<String, String> {
        let select =
            Select { tenant: tenant.clone(), start_ms: i64::MIN, end_ms: i64::MAX, matchers: Vec::new() };
        let set = self.inner.select(&select).expect("select");
        let mut columns: Vec<Column> = Vec::new();
        set.load(0..set.len(), &mut columns).expect("load");
        let text = |column: &Column| {
            let bits: Vec<String> =
                column.values.iter().map(|value| format!("{:x}", value.to_bits())).collect();
            format!(
                "{:?} {bits:?} {:?} {:?} {:?}",
                column.times, column.start_times, column.histograms, column.histogram_starts
            )
        };
        let mut all: BTreeMap<String, String> = columns
            .iter()
            .enumerate()
            .filter(|(_, column)| !column.is_empty())
            .map(|(at, column)| (set.labels(at).to_string(), text(column)))
            .collect();
        for (labels, exemplars) in self.inner.exemplars(tenant) {
            all.insert(format!("exemplars {labels}"), format!("{exemplars:?}"));
        }
        all.insert("accounts".to_owned(), format!("{:?}", self.accounts.lock()));
        all
    }
}

/// What is written, in numbers of sources and columns.
#[derive(Debug, Clone)]
enum Step {
    Append { source: usize, kind: Kind, values: Vec<u64>, at: u64, extras: u8 },
    Flush,
    Rotate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A scrape: all columns of the first kind, later than all before.
    Scrape,
    /// A scrape that is late.
    Late,
    /// Markers at the time of the last scrape or later.
    Markers,
    /// Any time, second kind of columns.
    Push,
    /// Any time, third kind of columns, the last one wins.
    Replace,
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![
        4 => Just(Kind::Scrape), 1 => Just(Kind::Late), 1 => Just(Kind::Markers), 2 => Just(Kind::Push), 1 => Just(Kind::Replace),
    ];
    let value = prop_oneof![
        2 => (0u64..3).prop_map(|value| (value as f64).to_bits()),
        1 => (0u64..300).prop_map(|value| (value as f64 / 10.0).to_bits()),
        1 => any::<u64>(),
        1 => Just(model::STALE_NAN_BITS),
    ];
    let values = proptest::collection::vec(value, COLUMNS);
    prop_oneof![
        8 => (0usize..3, kind, values, 0u64..20, any::<u8>())
            .prop_map(|(source, kind, values, at, extras)| Step::Append { source, kind, values, at, extras }),
        2 => Just(Step::Flush),
        1 => Just(Step::Rotate),
    ]
}

fn tenant() -> TenantId {
    TenantId::new("fleet").expect("a tenant")
}

fn peer() -> Peer {
    Peer { tenant: tenant(), cluster: "harbour".to_owned() }
}

fn desc(source: usize) -> SourceDesc {
    let labels = Labels::from_pairs([("cluster", "harbour".to_owned()), ("job", format!("j{source}"))]);
    SourceDesc { tenant: tenant(), id: SourceId::of(&tenant(), "harbour", "test", &labels, ""), labels }
}

fn labels(source: usize, column: usize) -> Labels {
    Labels::from_pairs([
        ("__name__", format!("m{column}")),
        ("cluster", "harbour".to_owned()),
        ("job", format!("j{source}")),
    ])
}

fn histogram(count: u64) -> Histogram {
    let buckets = Buckets::Int { count, zero_count: count, positive: Vec::new(), negative: Vec::new() };
    Histogram { sum: count as f64, buckets, ..Histogram::stale() }
}

/// Does the steps to an appender.
fn write(steps: &[Step], to: &dyn Appender, mut flush: impl FnMut(), mut rotate: impl FnMut()) {
    let sources: Vec<SourceRef> = (0..3).map(|source| to.open_source(&desc(source)).expect("open")).collect();
    let series: Vec<Vec<SeriesRef>> = (0..3)
        .map(|source| {
            let labels: Vec<Labels> = (0..3 * COLUMNS + 1).map(|column| labels(source, column)).collect();
            let found = to.resolve(sources[source], &labels).expect("resolve");
            found.into_iter().map(|series| series.expect("a series")).collect()
        })
        .collect();
    let mut newest = [FIRST_MS; 3];
    for step in steps {
        let (source, kind, values, at, extras) = match step {
            Step::Flush => {
                flush();
                continue;
            }
            Step::Rotate => {
                flush();
                rotate();
                continue;
            }
            Step::Append { source, kind, values, at, extras } => {
                (*source, *kind, values, *at as i64, *extras)
            }
        };
        // Only of what has been scraped can something be late or end.
        if matches!(kind, Kind::Late | Kind::Markers) && newest[source] == FIRST_MS {
            continue;
        }
        let mut values: Vec<f64> = values.iter().map(|bits| f64::from_bits(*bits)).collect();
        let (first, policy) = match kind {
            Kind::Scrape | Kind::Late | Kind::Markers => (0, Policy::SCRAPE),
            Kind::Push => (COLUMNS, Policy::REMOTE_WRITE),
            Kind::Replace => (2 * COLUMNS, Policy::LINE_PROTOCOL),
        };
        let timestamp_ms = match kind {
            Kind::Scrape => newest[source] + (at % 4) * 5_000 + i64::from(newest[source] == FIRST_MS),
            Kind::Markers => newest[source],
            Kind::Late => newest[source] - 1 - at,
            Kind::Push | Kind::Replace => 1_000_000 + at * 1000,
        };
        newest[source] = newest[source].max(if first == 0 { timestamp_ms } else { 0 });
        // Scrapes have all columns; of pushes some are missing.
        let mut named = series[source][first..first + COLUMNS].to_vec();
        if first > 0 {
            let keep = |at: usize| extras >> at & 1 == 0;
            let mut column = 0;
            named.retain(|_| (keep(column), column += 1).0);
            column = 0;
            values.retain(|_| (keep(column), column += 1).0);
        }
        if kind == Kind::Markers {
            let some = usize::from(extras) % COLUMNS;
            named.truncate(some);
            values = vec![stale_nan(); some];
        }
        let is_scrape = kind == Kind::Scrape;
        let histograms = [(series[source][3 * COLUMNS], histogram(u64::from(extras)))];
        let starts = [(series[source][1], i64::from(extras % 3) + 1), (series[source][2], 7)];
        let exemplar = Exemplar {
            labels: Labels::from_pairs([("trace", extras.to_string())]),
            value: 1.5,
            timestamp_ms: at,
        };
        let exemplars = [(series[source][0], exemplar)];
        let row = Row {
            histograms: if is_scrape { &histograms } else { &[] },
            start_timestamps: if is_scrape && extras & 8 != 0 { &starts } else { &[] },
            exemplars: if is_scrape && extras & 16 != 0 { &exemplars } else { &[] },
            ..Row::floats(sources[source], timestamp_ms, &named, &values)
        };
        let metadata = Metadata { metric_type: MetricType::Gauge, ..Metadata::default() };
        let metadata = [MetadataEntry { source: sources[source], metric: "m0", metadata: &metadata }];
        let accounts = [Account::Tick {
            source: sources[source],
            tick_ms: timestamp_ms,
            outcome: Outcome::Scraped { samples: 6, exposed: 7 },
        }];
        let batch = Batch {
            metadata: if extras & 32 != 0 { &metadata } else { &[] },
            accounts: if is_scrape { &accounts } else { &[] },
            ..Batch::rows(std::slice::from_ref(&row), policy)
        };
        to.append(&batch).expect("append");
    }
    flush();
}

/// What happens on the way.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    None,
    /// The store fails at this append from now.
    Busy(u32),
    /// The hub is killed, and what its disk has not synced may be gone.
    Restart(u64),
    /// The block comes twice.
    Twice,
}

fn trouble() -> impl Strategy<Value = Trouble> {
    prop_oneof![
        4 => Just(Trouble::None),
        1 => (0u32..3).prop_map(Trouble::Busy),
        1 => any::<u64>().prop_map(Trouble::Restart),
        1 => Just(Trouble::Twice),
    ]
}

fn dir() -> &'static Path {
    Path::new("/agent/queue")
}

/// An agent whose queue is on a disk of its own.
fn agent(config: EncoderConfig) -> (Arc<Encoder>, queue::Reader) {
    let disk = FakeDisk::new(Path::new("/agent"));
    let clock = FakeClock::at(2_000_000);
    let opened = queue::open(disk.shared(), dir(), clock.clone(), Options::default()).expect("open");
    let reader = opened.queue.reader("hub", Start::Oldest).expect("a reader");
    (Encoder::new(opened.writer, clock, config, EncoderMetrics::default()), reader)
}

fn harbour() -> EncoderConfig {
    EncoderConfig { cluster: "harbour".to_owned(), ..EncoderConfig::default() }
}

fn intake(store: &Arc<Store>, disk: &FakeDisk, clock: &Arc<FakeClock>) -> StoreIntake {
    let config = IntakeConfig {
        dir: "/hub/fleet".into(),
        names_dir: "/hub/queues".into(),
        cluster_label: "cluster".to_owned(),
        retention_ms: None,
        on_lost: None,
    };
    StoreIntake::new(store.clone(), disk.shared(), clock.clone(), config, IntakeMetrics::default())
}

fn blocks(reader: &queue::Reader) -> Vec<queue::Block> {
    std::iter::from_fn(|| reader.next(Lane::Live).expect("read")).collect()
}

fn send(intake: &StoreIntake, block: &queue::Block, context: bool) -> Verdict {
    let key = SegmentKey {
        queue_id: block.key.queue_id,
        incarnation: block.key.incarnation,
        first: block.segment_first,
    };
    let sent = SentBlock {
        block: block.key.block,
        floor: block.meta.floor,
        origin: 0,
        tenant: 0,
        flags: 0,
        context,
        payload: &block.payload,
    };
    intake.take(&peer(), &key, Lane::Live, &sent)
}

/// Sends a block until it is stored, with whatever it asks for.
fn deliver(intake: &StoreIntake, all: &[queue::Block], at: usize) -> Verdict {
    for _ in 0..4 {
        match send(intake, &all[at], false) {
            Verdict::NeedContext { from } => {
                for block in all.iter().filter(|block| (from..all[at].key.block).contains(&block.key.block)) {
                    assert_eq!(send(intake, block, true), Verdict::Context, "block {}", block.key.block);
                }
            }
            Verdict::Later { .. } => {}
            verdict => return verdict,
        }
    }
    panic!("block {} does not go through", all[at].key.block);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_hub_has_what_the_agent_was_given(
        steps in proptest::collection::vec(step(), 1..50),
        troubles in proptest::collection::vec(trouble(), 60),
    ) {
        let direct = Store::default();
        write(&steps, &direct, || {}, || {});

        let (encoder, reader) = agent(harbour());
        write(&steps, &*encoder, || encoder.flush().expect("flush"), || encoder.queue().request_rotation());
        let all = blocks(&reader);
        let store = Arc::new(Store::default());
        let mut disk = FakeDisk::new(Path::new("/hub"));
        let clock = FakeClock::at(2_000_000);
        let mut hub = intake(&store, &disk, &clock);
        let mut acknowledged = 0;
        let mut at = 0;
        for trouble in troubles.iter().chain(std::iter::repeat(&Trouble::None)) {
            if at == all.len() {
                break;
            }
            match trouble {
                Trouble::None => {}
                Trouble::Busy(patience) => *store.patience.lock() = Some(*patience),
                Trouble::Twice => {
                    deliver(&hub, &all, at);
                    prop_assert_eq!(deliver(&hub, &all, at), Verdict::Known);
                }
                Trouble::Restart(seed) => {
                    // What was not acknowledged comes again.
                    at = acknowledged;
                    let survivors = if seed % 3 == 0 { Survivors::Nothing } else { Survivors::Some(*seed) };
                    disk = disk.after_power_cut(survivors);
                    hub = intake(&store, &disk, &clock);
                }
            }
            let verdict = deliver(&hub, &all, at);
            prop_assert!(matches!(verdict, Verdict::Stored | Verdict::Known), "{:?}", verdict);
            at += 1;
            if at % 3 == 0 {
                hub.sync().expect("sync");
                acknowledged = at;
            }
        }
        prop_assert_eq!(store.all(&tenant()), direct.all(&tenant()));
    }
}

/// One source's blocks, `count` of them, of one row each, a second apart.
fn simple_blocks(count: usize, config: EncoderConfig, cluster: &str) -> (Arc<Encoder>, Vec<queue::Block>) {
    let (encoder, reader) = agent(config);
    let source_labels = Labels::from_pairs([("cluster", cluster), ("job", "j")]);
    let desc = SourceDesc { tenant: tenant(), id: SourceId(1), labels: source_labels };
    let source = encoder.open_source(&desc).expect("open");
    let labels = [
        Labels::from_pairs([("__name__", "a"), ("cluster", cluster), ("job", "j")]),
        Labels::from_pairs([("__name__", "b"), ("cluster", "other"), ("exported_cluster", "third")]),
        Labels::from_pairs([("__name__", "c"), ("job", "j")]),
    ];
    let series: Vec<SeriesRef> = encoder
        .resolve(source, &labels)
        .expect("resolve")
        .into_iter()
        .map(|s| s.expect("a series"))
        .collect();
    for at in 0..count {
        let values = [at as f64, 0.5, 2.0];
        let row = Row::floats(source, 1_000_000 + at as i64 * 1000, &series, &values);
        encoder.append(&Batch::rows(&[row], Policy::SCRAPE)).expect("append");
        encoder.flush().expect("flush");
    }
    let all = blocks(&reader);
    assert_eq!(all.len(), count);
    (encoder, all)
}

struct Hub {
    store: Arc<Store>,
    disk: FakeDisk,
    clock: Arc<FakeClock>,
    intake: StoreIntake,
}

fn hub() -> Hub {
    let (store, disk) = (Arc::new(Store::default()), FakeDisk::new(Path::new("/hub")));
    let clock = FakeClock::at(2_000_000);
    let intake = intake(&store, &disk, &clock);
    Hub { store, disk, clock, intake }
}

#[test]
fn the_certificate_says_which_cluster_it_is() {
    let hub = hub();
    let (_encoder, all) = simple_blocks(2, harbour(), "forged");
    for block in &all {
        assert_eq!(send(&hub.intake, block, false), Verdict::Stored);
    }
    let names: Vec<String> = hub.store.all(&tenant()).into_keys().filter(|name| name != "accounts").collect();
    assert_eq!(
        names,
        [
            r#"{__name__="a", cluster="harbour", exported_cluster="forged", job="j"}"#,
            r#"{__name__="b", cluster="harbour", exported_cluster="third", exported_exported_cluster="other"}"#,
            r#"{__name__="c", cluster="harbour", job="j"}"#,
        ]
    );
    assert_eq!(hub.intake.metrics.renamed.get(), 4, "the source and its series, once each");
    assert_eq!(hub.intake.newest_ms(&peer(), all[0].key.queue_id), Some(1_001_000));
    assert_eq!(hub.intake.newest_ms(&peer(), 0), None, "another queue");

    // Queued under another name: it is refused, whatever it says inside.
    let (_encoder, all) =
        simple_blocks(1, EncoderConfig { cluster: "elsewhere".into(), ..harbour() }, "harbour");
    assert_eq!(send(&hub.intake, &all[0], false), Verdict::Refused(Refusal::IdentityChanged));
}

#[test]
fn a_hub_that_starts_again_needs_rows_and_no_dictionary() {
    let mut hub = hub();
    let (_encoder, all) = simple_blocks(15, harbour(), "harbour");
    for block in &all[..12] {
        assert_eq!(send(&hub.intake, block, false), Verdict::Stored);
        hub.intake.sync().expect("sync");
    }
    hub.disk = hub.disk.after_power_cut(Survivors::All);
    hub.intake = intake(&hub.store, &hub.disk, &hub.clock);
    let stored = hub.intake.stored(&peer(), all[0].key.queue_id, all[0].key.incarnation).expect("read");
    assert_eq!(stored.iter().collect::<Vec<_>>(), [(0, 7)], "the log says so of most");
    let verdict = send(&hub.intake, &all[12], false);
    let floor = all[12].meta.floor;
    assert!(floor > 0, "the source was cleared on the way");
    assert_eq!(verdict, Verdict::NeedContext { from: floor });
    assert_eq!(deliver(&hub.intake, &all, 12), Verdict::Stored);
    assert_eq!(send(&hub.intake, &all[5], false), Verdict::Known);
    assert_eq!(send(&hub.intake, &all[13], false), Verdict::Stored, "a repeated block disturbs nobody");

    // Without its logs a hub asks for the segment from the beginning.
    let empty = FakeDisk::new(Path::new("/hub"));
    hub.intake = intake(&hub.store, &empty, &hub.clock);
    assert_eq!(send(&hub.intake, &all[14], false), Verdict::NeedContext { from: 0 });
    assert_eq!(deliver(&hub.intake, &all, 14), Verdict::Stored);
}

#[test]
fn what_cannot_be_taken_is_refused_or_waits() {
    let hub = hub();
    let (_encoder, all) = simple_blocks(3, harbour(), "harbour");
    hub.clock.set_ms(1_000_000 - AHEAD_MS - 1);
    assert_eq!(send(&hub.intake, &all[0], false), Verdict::Later { after_ms: AHEAD_RETRY_MS });
    hub.clock.set_ms(2_000_000);
    let mut bent = all[0].clone();
    bent.payload[20] ^= 1;
    assert_eq!(send(&hub.intake, &bent, false), Verdict::Refused(Refusal::Malformed));
    let mut moved = all[1].clone();
    moved.key.block += 1;
    assert_eq!(send(&hub.intake, &moved, false), Verdict::Refused(Refusal::Malformed));
    let hub = Hub { intake: intake(&hub.store, &hub.disk, &hub.clock), ..hub };
    *hub.store.patience.lock() = Some(0);
    assert_eq!(send(&hub.intake, &all[0], false), Verdict::Later { after_ms: BUSY_RETRY_MS });
    assert_eq!(send(&hub.intake, &all[0], false), Verdict::Stored, "decoded once, appended later");
    hub.store.inner.set_read_only("sync failed");
    assert_eq!(send(&hub.intake, &all[1], false), Verdict::Later { after_ms: READ_ONLY_RETRY_MS });
    assert!(hub.intake.sync().is_err());

    let hub = self::hub();
    let config = IntakeConfig { retention_ms: Some(1000), ..hub.intake.config.clone() };
    let strict = StoreIntake::new(
        hub.store.clone(),
        hub.disk.shared(),
        hub.clock.clone(),
        config,
        IntakeMetrics::default(),
    );
    assert_eq!(send(&strict, &all[0], false), Verdict::Refused(Refusal::TooOld));
    hub.clock.set_ms(1_000_500);
    assert_eq!(send(&strict, &all[1], false), Verdict::Stored, "its bases are known from the refused one");
}

#[test]
fn series_that_the_store_forgot_are_named_anew() {
    let hub = hub();
    let (_encoder, all) = simple_blocks(3, harbour(), "harbour");
    assert_eq!(send(&hub.intake, &all[0], false), Verdict::Stored);
    hub.store.inner.forget(SeriesRef(1));
    assert_eq!(send(&hub.intake, &all[1], false), Verdict::Stored);
    assert_eq!(send(&hub.intake, &all[2], false), Verdict::Stored);
    let all = hub.store.all(&tenant());
    let b = all.iter().find(|(labels, _)| labels.contains("\"b\"")).expect("the series");
    assert!(b.1.starts_with("[1001000, 1002000]"), "{}", b.1);
    let a = all.iter().find(|(labels, _)| labels.contains("\"a\"")).expect("the series");
    assert!(a.1.starts_with("[1000000, 1001000, 1002000]"), "{}", a.1);
}

#[test]
fn a_hub_that_dies_between_a_forgotten_series_and_its_new_name_loses_nothing() {
    let hub = hub();
    let (_encoder, all) = simple_blocks(2, harbour(), "harbour");
    assert_eq!(send(&hub.intake, &all[0], false), Verdict::Stored);
    hub.store.inner.forget(SeriesRef(1));
    // The first append is told that the series is forgotten; the next one does not happen.
    *hub.store.patience.lock() = Some(1);
    assert_eq!(send(&hub.intake, &all[1], false), Verdict::Later { after_ms: BUSY_RETRY_MS });
    let after = intake(&hub.store, &hub.disk, &hub.clock);
    assert_eq!(deliver(&after, &all, 1), Verdict::Stored, "its key was not used up");
    let all = hub.store.all(&tenant());
    let b = all.iter().find(|(labels, _)| labels.contains("\"b\"")).expect("the series");
    assert!(b.1.starts_with("[1001000]"), "{}", b.1);
    let a = all.iter().find(|(labels, _)| labels.contains("\"a\"")).expect("the series");
    assert!(a.1.starts_with("[1000000, 1001000]"), "{}", a.1);
}

#[test]
fn what_nobody_uses_goes_away() {
    let hub = hub();
    let (_encoder, all) = simple_blocks(2, harbour(), "harbour");
    assert_eq!(send(&hub.intake, &all[0], false), Verdict::Stored);
    hub.intake.sync().expect("sync");
    hub.clock.advance_ms(MEMORY_IDLE_MS + 1);
    hub.intake.upkeep();
    assert_eq!(hub.intake.metrics.agents.get(), 0);
    assert_eq!(hub.disk.files().len(), 1);
    assert_eq!(deliver(&hub.intake, &all, 1), Verdict::Stored);
    let key = &all[0].key;
    hub.intake.held(&peer(), key.queue_id, &[(key.incarnation, 0)]);
    assert_eq!(hub.disk.files().len(), 1);
    hub.intake.held(&peer(), key.queue_id, &[(key.incarnation, 5)]);
    assert_eq!(hub.disk.files(), []);
}

#[test]
fn an_agent_keeps_what_is_lost_until_it_is_written_down() {
    let (store, disk, clock) =
        (Arc::new(Store::default()), FakeDisk::new(Path::new("/hub")), FakeClock::at(2_000_000));
    let mut intake = intake(&store, &disk, &clock);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let is_full = Arc::new(AtomicBool::new(true));
    let (told, full) = (Arc::clone(&heard), Arc::clone(&is_full));
    intake.config.on_lost = Some(Arc::new(move |_, _, lost| {
        told.lock().push(lost.from_ms);
        lost.from_ms < 10 || !full.load(Ordering::SeqCst)
    }));
    let lost = |first: u64| Lost {
        incarnation: 1,
        first,
        last: first,
        blocks: 1,
        rows: 1,
        samples: 1,
        oldest_ms: first as i64,
        newest_ms: first as i64,
        unreadable: 0,
        reason: queue::LostReason::Bytes,
    };
    let records = [lost(5), lost(10), lost(15)];
    assert_eq!(intake.book_lost(&peer(), 7, &records), 1);
    is_full.store(false, Ordering::SeqCst);
    assert_eq!(intake.book_lost(&peer(), 7, &records), 3);
    assert_eq!(intake.book_lost(&peer(), 7, &records), 3);
    assert_eq!(*heard.lock(), [5, 10, 10, 15], "each is booked once");
}

#[test]
fn what_was_queued_under_another_name_is_booked_for_its_cluster_before_it_is_refused() {
    let mut hub = hub();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let is_full = Arc::new(AtomicBool::new(true));
    let (told, full) = (Arc::clone(&heard), Arc::clone(&is_full));
    hub.intake.config.on_lost = Some(Arc::new(move |peer, _, never| {
        told.lock().push((peer.cluster.clone(), never.cluster.to_owned(), never.rows, never.reason));
        !full.load(Ordering::SeqCst)
    }));
    let elsewhere = EncoderConfig { cluster: "elsewhere".into(), ..harbour() };
    let (_encoder, all) = simple_blocks(3, elsewhere, "elsewhere");
    let before = Peer { cluster: "elsewhere".to_owned(), ..peer() };
    let key = all[0].key;
    hub.intake.writes(&before, key.queue_id, key.incarnation).expect("written");
    let refused = Verdict::Refused(Refusal::IdentityChanged);
    all.iter().for_each(|block| assert_eq!(send(&hub.intake, block, false), refused));
    hub.intake.sync().expect_err("a full disk: the agent must not forget them");
    is_full.store(false, Ordering::SeqCst);
    assert_eq!(send(&hub.intake, &all[1], false), refused, "the same comes again");
    hub.intake.sync().expect("sync");
    hub.intake.sync().expect("sync");
    let rows = all.iter().map(|block| u64::from(block.meta.rows)).sum();
    let reason = Reason::Refused(Refusal::IdentityChanged);
    let once = ("harbour".to_owned(), "elsewhere".to_owned(), rows, reason);
    assert_eq!(*heard.lock(), [once.clone(), once], "all together; once more, as the first time failed");
}

#[test]
fn nobody_books_losses_of_others_without_proof() {
    fn other() -> Peer {
        Peer { cluster: "elsewhere".to_owned(), ..peer() }
    }
    // What the hub has heard before the blocks come, and for whom it then books what was dropped and refused.
    type Before = fn(&StoreIntake, u128, u128);
    let nothing: Before = |_, _, _| {};
    let another_life: Before = |intake, queue_id, incarnation| {
        intake.writes(&other(), queue_id, incarnation + 1).expect("written");
    };
    let was_its: Before = |intake, queue_id, incarnation| {
        intake.writes(&other(), queue_id, incarnation).expect("written");
        intake.writes(&peer(), queue_id, incarnation + 1).expect("written");
    };
    let is_its_yet: Before = |intake, queue_id, incarnation| {
        intake.writes(&other(), queue_id, incarnation).expect("written");
        intake.writes(&peer(), queue_id, incarnation + 1).expect("written");
        assert_eq!(intake.book_lost(&other(), queue_id, &[]), 0);
    };
    for (before, booked) in [
        (nothing, vec!["harbour"]),
        (another_life, vec!["harbour"]),
        (was_its, vec!["elsewhere", "elsewhere"]),
        (is_its_yet, vec![]),
    ] {
        let mut hub = hub();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&heard);
        hub.intake.config.on_lost = Some(Arc::new(move |_, _, never| {
            told.lock().push(never.cluster.to_owned());
            true
        }));
        let config = EncoderConfig { cluster: other().cluster, ..harbour() };
        let (_encoder, all) = simple_blocks(1, config, "elsewhere");
        let key = all[0].key;
        before(&hub.intake, key.queue_id, key.incarnation);
        let lost = queue::Lost {
            incarnation: key.incarnation,
            first: 900,
            last: 901,
            blocks: 2,
            rows: 7,
            samples: 70,
            unreadable: 0,
            oldest_ms: 1,
            newest_ms: 2,
            reason: queue::LostReason::Bytes,
        };
        assert_eq!(hub.intake.book_lost(&peer(), key.queue_id, &[lost]), 1, "the agent need not tell again");
        assert_eq!(send(&hub.intake, &all[0], false), Verdict::Refused(Refusal::IdentityChanged));
        hub.intake.sync().expect("sync");
        assert_eq!(*heard.lock(), booked);
        let rows = u64::from(all[0].meta.rows);
        // The record speaks of seven rows; where nobody is known it counts for who tells of it.
        let unproven = match booked.as_slice() {
            [] => rows + 7,
            [_] => rows,
            _ => 0,
        };
        assert_eq!(hub.intake.metrics.unproven_rows.get(), unproven);
    }
}
