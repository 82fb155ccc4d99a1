//! From an appender through a queue on a disk that forgets to a receiver that misbehaves, with deaths of
//! ours in between. Time is tokio's paused one.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;

use model::{Labels, SourceId, TenantId};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use queue::{Options, Start};
use stdx::clock::FakeClock;
use stdx::disk::{FakeDisk, Survivors};
use storage::{Appender, Batch, Policy, Row, SourceDesc};
use wire::remote_write::{decode_labels, snappy_decode, v1};

use super::*;
use crate::{Encoder, EncoderConfig, EncoderMetrics, Prompt};

const DIR: &str = "/data/queue";
const EPOCH_MS: i64 = 1_700_000_000_000;

struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// Takes samples in order of their series, or nothing of a request, like Prometheus.
struct Receiver(Mutex<Inner>);

struct Inner {
    dice: Dice,
    /// In one of so many requests something goes wrong.
    trouble_in: u64,
    is_down: bool,
    stored: HashMap<String, BTreeMap<i64, u64>>,
    bodies: HashSet<Bytes>,
    requests: usize,
    identical: usize,
}

impl Receiver {
    fn new(seed: u64, trouble_in: u64) -> Arc<Receiver> {
        Arc::new(Receiver(Mutex::new(Inner {
            dice: Dice(seed),
            trouble_in,
            is_down: false,
            stored: HashMap::new(),
            bodies: HashSet::new(),
            requests: 0,
            identical: 0,
        })))
    }

    fn stored(&self) -> BTreeSet<(String, i64, u64)> {
        let inner = self.0.lock();
        let series = inner.stored.iter();
        series.flat_map(|(name, points)| points.iter().map(move |(t, v)| (name.clone(), *t, *v))).collect()
    }
}

impl Inner {
    fn take(&mut self, packed: &Bytes) -> Answer {
        self.identical += usize::from(!self.bodies.insert(packed.clone()));
        let mut body = Vec::new();
        snappy_decode(packed, 64 << 20, &mut body).expect("packed");
        let mut points = Vec::new();
        for entry in v1::entries(&body) {
            let v1::Entry::Series(series) = entry.expect("protobuf") else { continue };
            let label_bytes = series.label_bytes().expect("labels");
            let name = decode_labels(label_bytes).expect("a name").to_string();
            for point in series.points(label_bytes.len()) {
                if let v1::Point::Sample(s) = point.expect("a point") {
                    points.push((name.clone(), s.timestamp_ms, s.value.to_bits()));
                }
            }
        }
        for (name, time, bits) in &points {
            if let Some((newest, stored)) = self.stored.get(name).and_then(BTreeMap::last_key_value)
                && (time < newest || (time == newest && bits != stored))
            {
                // What it has is right, and the request is one that it was sent before, or a part of one.
                let known = self.stored.get(name).and_then(|series| series.get(time));
                assert_eq!(known, Some(bits), "{name} at {time} was passed over");
                return Answer { status: 400, text: "out of order sample".to_owned(), ..Answer::default() };
            }
        }
        for (name, time, bits) in points {
            self.stored.entry(name).or_default().insert(time, bits);
        }
        Answer { status: 204, ..Answer::default() }
    }
}

impl Post for Receiver {
    fn post(&self, _: Vec<(&'static str, String)>, body: Bytes) -> Posting<'_> {
        Box::pin(async move {
            let (trouble, slow_ms) = {
                let inner = &mut *self.0.lock();
                inner.requests += 1;
                let trouble_in = inner.trouble_in;
                (inner.dice.below(trouble_in), inner.dice.below(100))
            };
            tokio::time::sleep(Duration::from_millis(slow_ms)).await;
            let inner = &mut *self.0.lock();
            if inner.is_down {
                return Err("connection refused".to_owned());
            }
            let status = |status: u16| Answer { status, ..Answer::default() };
            match trouble {
                1 => Ok(Answer { retry_after: Some(Duration::from_millis(1500)), ..status(429) }),
                2 => Ok(status(500)),
                3 => Err("connection reset".to_owned()),
                4 => {
                    let _lost = inner.take(&body);
                    Err("no answer in time".to_owned())
                }
                _ => Ok(inner.take(&body)),
            }
        })
    }
}

/// One life of our process.
struct Life {
    door: Prompt,
    sending: JoinHandle<()>,
    stop: Arc<Notify>,
    queue: queue::Queue,
    reader: Arc<Reader>,
}

impl Life {
    fn begin(disk: &FakeDisk, clock: &Arc<FakeClock>, receiver: &Arc<Receiver>) -> Life {
        let (life, out) = Life::prepare(disk, clock, receiver);
        let stopped = Arc::clone(&life.stop);
        let sending = tokio::spawn(out.run(async move { stopped.notified().await }));
        Life { sending, ..life }
    }

    /// One whose sending has not begun.
    fn prepare(disk: &FakeDisk, clock: &Arc<FakeClock>, receiver: &Arc<Receiver>) -> (Life, WriteOut) {
        let options = Options { segment_age_max: Duration::from_secs(20), ..Options::default() };
        let clock: Arc<dyn Clock> = clock.clone();
        let opened =
            queue::open(disk.shared(), Path::new(DIR), Arc::clone(&clock), options).expect("open the queue");
        let reader = opened.queue.reader("r", Start::Oldest).expect("a reader");
        let encoder = Encoder::new(
            opened.writer,
            Arc::clone(&clock),
            EncoderConfig::default(),
            EncoderMetrics::default(),
        );
        let mut config = WriteOutConfig::new("r");
        config.queue.capacity = 100;
        config.queue.max_samples_per_send = 30;
        config.queue.batch_send_deadline = Duration::from_secs(2);
        let metrics = WriteOutMetrics::register(&mut Registry::default());
        let out = WriteOut::new(config, reader, receiver.clone(), clock, &metrics);
        let reader = Arc::clone(&out.reader);
        let (door, stop, sending) = (Prompt(encoder), Arc::new(Notify::new()), tokio::spawn(async {}));
        (Life { door, sending, stop, queue: opened.queue, reader }, out)
    }

    /// Scrapes of `sources` targets; says what they gave.
    fn scrape(&self, sources: u64, at_ms: i64, said: &mut BTreeSet<(String, i64, u64)>) {
        let tenant = TenantId::default();
        for source in 0..sources {
            let labels = Labels::from_pairs([("instance", format!("host-{source}"))]);
            let id = SourceId::of(&tenant, "", "test", &labels, "");
            let opened =
                self.door.open_source(&SourceDesc { tenant: tenant.clone(), id, labels }).expect("open");
            let names: Vec<Labels> = (0..5 + source * 7)
                .map(|at| {
                    let (name, instance) = (format!("metric_{at}"), format!("host-{source}"));
                    Labels::from_pairs([("__name__", name), ("instance", instance)])
                })
                .collect();
            let series: Vec<_> =
                self.door.resolve(opened, &names).expect("series").into_iter().flatten().collect();
            let values: Vec<f64> =
                (0..series.len()).map(|at| at as f64 + (at_ms % 977) as f64 * 0.25).collect();
            let row = Row::floats(opened, at_ms, &series, &values);
            let appended = self.door.append(&Batch::rows(&[row], Policy::SCRAPE)).expect("append");
            assert_eq!(appended.samples, series.len());
            said.extend(names.iter().zip(&values).map(|(name, v)| (name.to_string(), at_ms, v.to_bits())));
        }
    }

    /// The process is gone, whatever it was doing.
    async fn kill(self) {
        self.sending.abort();
        let _ = self.sending.await;
    }

    async fn stop(self) {
        self.stop.notify_one();
        self.sending.await.expect("sending ends");
    }

    /// Blocks that the receiver has not taken, or that it has and we do not know it.
    fn pending(&self) -> u64 {
        self.reader.pending(Lane::Live).blocks
    }
}

async fn check(seed: u64, power: bool) {
    let mut dice = Dice(seed);
    let receiver = Receiver::new(seed ^ 99, 15);
    let clock = FakeClock::at(EPOCH_MS);
    let mut disk = FakeDisk::new(Path::new("/data"));
    let (mut said, mut lost) = (BTreeSet::new(), BTreeSet::new());
    let mut life = Life::begin(&disk, &clock, &receiver);
    let pass = |ms: u64| {
        clock.advance_ms(ms as i64);
        tokio::time::sleep(Duration::from_millis(ms))
    };
    for step in 0..60 {
        receiver.0.lock().is_down = (10..25).contains(&step);
        life.scrape(3, clock.now_ms(), &mut said);
        for _ in 0..5 {
            pass(100 + dice.below(100)).await;
        }
        if dice.below(8) == 0 {
            if power {
                // What is synced stays. The rest may be gone; the receiver may have had it already.
                life.queue.sync().expect("sync");
                let mut unsure = BTreeSet::new();
                life.scrape(3, clock.now_ms(), &mut unsure);
                lost.extend(unsure);
                pass(dice.below(50)).await;
                disk = disk.after_power_cut(Survivors::Some(dice.below(1 << 30)));
            } else {
                disk = disk.after_kill();
            }
            life.kill().await;
            pass(1).await;
            life = Life::begin(&disk, &clock, &receiver);
        }
    }
    receiver.0.lock().trouble_in = u64::MAX;
    for _ in 0..400 {
        if life.pending() == 0 {
            break;
        }
        pass(200).await;
    }
    assert!(life.pending() == 0, "seed {seed}: {} blocks are left", life.pending());
    let stored = receiver.stored();
    let missing: Vec<_> = said.difference(&stored).take(5).collect();
    assert!(missing.is_empty(), "seed {seed}: not stored: {missing:?}");
    said.extend(lost);
    let odd: Vec<_> = stored.difference(&said).take(5).collect();
    assert!(odd.is_empty(), "seed {seed}: nobody said {odd:?}");
    assert!(receiver.0.lock().identical > 0, "something was repeated, and it was the same");
    life.stop().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_lost_when_we_are_killed() {
    for seed in 0..4 {
        check(seed, false).await;
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_that_was_synced_is_lost_when_the_power_fails() {
    for seed in 10..14 {
        check(seed, true).await;
    }
}

/// After an orderly stop nothing is sent twice, and what waited goes out.
#[tokio::test(start_paused = true)]
async fn a_stop_and_a_start_repeat_nothing() {
    let receiver = Receiver::new(1, u64::MAX);
    let clock = FakeClock::at(EPOCH_MS);
    let disk = FakeDisk::new(Path::new("/data"));
    let mut said = BTreeSet::new();
    for _ in 0..5 {
        let life = Life::begin(&disk, &clock, &receiver);
        for _ in 0..10 {
            life.scrape(2, clock.now_ms(), &mut said);
            clock.advance_ms(500);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        life.stop().await;
    }
    let life = Life::begin(&disk, &clock, &receiver);
    clock.advance_ms(10_000);
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(life.pending(), 0);
    assert_eq!(receiver.stored(), said);
    assert_eq!(receiver.0.lock().identical, 0);
    life.stop().await;
}

/// A read that has looked already does not see it, and nothing may be written afterwards that would wake
/// the sender again.
#[tokio::test]
async fn what_is_written_behind_a_read_is_read_after_it() {
    let (clock, disk) = (FakeClock::at(EPOCH_MS), FakeDisk::new(Path::new("/data")));
    let (life, out) = Life::prepare(&disk, &clock, &Receiver::new(1, u64::MAX));
    let mut at_work = out.at_work();
    at_work.read();
    let looked = join(&mut at_work.reading).await;
    assert!(matches!(looked, Some((_, Ok(Read::Nothing(None))))), "there is nothing yet");

    life.scrape(1, clock.now_ms(), &mut BTreeSet::new());
    at_work.read(); // as the queue's wake-up does
    at_work.has_read(looked);
    assert!(at_work.reading.is_some(), "nothing else would make it look again");
    let found = join(&mut at_work.reading).await;
    assert!(!matches!(found, Some((_, Ok(Read::Nothing(None))))), "the row is there");
}

/// A receiver's client with a fault.
struct Faulty(Arc<Receiver>, Mutex<u32>);

impl Post for Faulty {
    fn post(&self, headers: Vec<(&'static str, String)>, body: Bytes) -> Posting<'_> {
        let panics = {
            let mut left = self.1.lock();
            let panics = *left > 0;
            *left = left.saturating_sub(1);
            panics
        };
        Box::pin(async move {
            assert!(!panics, "a fault");
            self.0.post(headers, body).await
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_fault_of_our_own_ends_nothing_for_good() {
    let receiver = Receiver::new(1, u64::MAX);
    let clock = FakeClock::at(EPOCH_MS);
    let disk = FakeDisk::new(Path::new("/data"));
    let mut said = BTreeSet::new();
    let (life, mut out) = Life::prepare(&disk, &clock, &receiver);
    out.post = Arc::new(Faulty(Arc::clone(&receiver), Mutex::new(3)));
    let metrics = out.metrics.clone();
    let stopped = Arc::clone(&life.stop);
    let life = Life { sending: tokio::spawn(out.run(async move { stopped.notified().await })), ..life };
    for _ in 0..60 {
        life.scrape(2, clock.now_ms(), &mut said);
        clock.advance_ms(500);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    clock.advance_ms(10_000);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(life.pending(), 0);
    assert_eq!(receiver.stored(), said);
    let restarts = metrics.restarts_so_far();
    assert!((1..=3).contains(&restarts), "{restarts}");
    life.stop().await;
}
