//! Sending as a whole, against a receiver that does everything a receiver may do. No clock runs: time is
//! a number.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use model::relabel::{Action, NameScheme, Rule, RuleSpec};
use model::{Exemplar, Histogram, Labels, SourceId};
use prometheus_client::registry::Registry;
use wire::remote_write::{decode_labels, snappy_decode, v1, v2};

use super::answer::{Answer, Written};
use super::catalog::Shape;
use super::config::{Protocol, WriteOutConfig};
use super::feed::{Blocks, Feed, Position};
use super::group::{Cut, RowIn};
use super::metrics::{DropReason, RemoteMetrics, WriteOutMetrics};
use super::sender::{Now, Outgoing, Sender, Step, Ticket};

/// A series as the receiver knows it.
type Name = String;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Refuses a whole request for one late or conflicting sample, like Prometheus.
    Strict,
    /// Takes what it gets.
    Lenient,
    /// Speaks 2.0: takes what is in order, and says how much that was.
    Partial,
}

/// Random numbers that a seed repeats.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// What a request holds.
#[derive(Debug, Clone, PartialEq)]
struct Point {
    series: Name,
    timestamp_ms: i64,
    bits: u64,
    start_ms: i64,
}

fn decoded(out: &Outgoing) -> Vec<Point> {
    let mut body = Vec::new();
    snappy_decode(&out.body, 64 << 20, &mut body).expect("packed");
    let mut points = Vec::new();
    match out.protocol {
        Protocol::V1 => {
            for entry in v1::entries(&body) {
                let v1::Entry::Series(series) = entry.expect("protobuf") else { continue };
                let label_bytes = series.label_bytes().expect("labels");
                let name = decode_labels(label_bytes).expect("a name").to_string();
                for point in series.points(label_bytes.len()) {
                    match point.expect("a point") {
                        v1::Point::Sample(s) => points.push(Point {
                            series: name.clone(),
                            timestamp_ms: s.timestamp_ms,
                            bits: s.value.to_bits(),
                            start_ms: 0,
                        }),
                        v1::Point::Histogram(h) => points.push(histogram_point(&name, h.decode())),
                        _ => {}
                    }
                }
            }
        }
        Protocol::V2 => {
            let request = v2::Request::parse(&body).expect("a request");
            for series in request.series() {
                let mut label_bytes = Vec::new();
                series.write_label_bytes(&mut label_bytes, 1 << 20).expect("labels");
                let name = decode_labels(&label_bytes).expect("a name").to_string();
                for point in series.points() {
                    match point.expect("a point") {
                        v2::Point::Sample(s) => points.push(Point {
                            series: name.clone(),
                            timestamp_ms: s.timestamp_ms,
                            bits: s.value.to_bits(),
                            start_ms: s.start_timestamp_ms,
                        }),
                        v2::Point::Histogram(h) => points.push(histogram_point(&name, h.decode())),
                        _ => {}
                    }
                }
            }
        }
    }
    points
}

fn histogram_point(
    name: &str,
    sample: Result<wire::remote_write::HistogramSample, wire::remote_write::HistogramError>,
) -> Point {
    let sample = sample.expect("a histogram");
    let (bits, start_ms) = (sample.histogram.count().to_bits(), sample.start_timestamp_ms);
    Point { series: name.to_owned(), timestamp_ms: sample.timestamp_ms, bits, start_ms }
}

#[derive(Debug)]
struct Receiver {
    kind: Kind,
    stored: HashMap<Name, BTreeMap<i64, u64>>,
    /// Series that hold this are never taken.
    poison: Option<&'static str>,
    /// Nothing older is taken.
    oldest_ms: i64,
    /// The largest request it takes.
    points_max: usize,
    requests: usize,
}

impl Receiver {
    fn new(kind: Kind) -> Receiver {
        let stored = HashMap::new();
        Receiver { kind, stored, poison: None, oldest_ms: i64::MIN, points_max: usize::MAX, requests: 0 }
    }

    fn refusal(&self, point: &Point) -> Option<&'static str> {
        if self.poison.is_some_and(|poison| point.series.contains(poison)) {
            return Some("invalid label");
        }
        if point.timestamp_ms < self.oldest_ms {
            return Some("out of bounds");
        }
        let newest = self.stored.get(&point.series)?.last_key_value()?;
        match point.timestamp_ms.cmp(newest.0) {
            std::cmp::Ordering::Less => Some("out of order sample"),
            std::cmp::Ordering::Equal if *newest.1 != point.bits => Some("duplicate sample for timestamp"),
            _ => None,
        }
    }

    fn store(&mut self, point: &Point) {
        let series = self.stored.entry(point.series.clone()).or_default();
        let before = series.insert(point.timestamp_ms, point.bits);
        assert!(before.is_none_or(|before| before == point.bits), "another value for {point:?}");
    }

    fn take(&mut self, out: &Outgoing) -> Answer {
        self.requests += 1;
        let points = decoded(out);
        let answer = |status: u16, text: &str| Answer { status, text: text.to_owned(), ..Answer::default() };
        if points.len() > self.points_max {
            return answer(413, "too large");
        }
        match (self.kind, out.protocol) {
            // A receiver of 1.0 finds nothing in a message of 2.0.
            (Kind::Strict | Kind::Lenient, Protocol::V2) => answer(204, ""),
            (Kind::Lenient, Protocol::V1) => {
                points.iter().for_each(|point| self.store(point));
                answer(204, "")
            }
            (Kind::Strict, Protocol::V1) => {
                // All or nothing: judged against what is stored, and each series against itself.
                let mut last: HashMap<&str, &Point> = HashMap::new();
                for point in &points {
                    let late = last
                        .insert(&point.series, point)
                        .is_some_and(|l| l.timestamp_ms > point.timestamp_ms);
                    if let Some(refusal) = self.refusal(point).or(late.then_some("out of order sample")) {
                        return answer(400, refusal);
                    }
                }
                points.iter().for_each(|point| self.store(point));
                answer(204, "")
            }
            (Kind::Partial, _) => {
                let mut samples = 0;
                let mut text = "";
                for point in &points {
                    match self.refusal(point) {
                        Some(refusal) => text = refusal,
                        None => {
                            self.store(point);
                            samples += 1;
                        }
                    }
                }
                let written = Some(Written { samples, ..Written::default() });
                let status = if samples as usize == points.len() { 204 } else { 400 };
                Answer { status, written, text: text.to_owned(), ..Answer::default() }
            }
        }
    }
}

/// A block of the pretended queue.
struct Block {
    newest_ms: i64,
    /// Source, time, values of its columns.
    rows: Vec<(u32, i64, Vec<f64>)>,
}

/// The pretended queue: all sources and columns are named by its only segment.
struct Queue {
    sources: Vec<Vec<Labels>>,
    blocks: Vec<Block>,
}

impl Queue {
    /// `sources` sources of up to `columns` columns, scraped every second for `seconds` seconds, a block each.
    fn scraped(dice: &mut Dice, sources: u64, columns: u64, seconds: i64) -> Queue {
        let of_source = |source: u64, columns: u64| {
            (0..columns)
                .map(|column| {
                    let (name, instance) = (format!("metric_{column}"), format!("host-{source}"));
                    Labels::from_pairs([("__name__", name), ("instance", instance)])
                })
                .collect::<Vec<Labels>>()
        };
        let sources: Vec<_> = (0..sources).map(|source| of_source(source, 1 + dice.below(columns))).collect();
        let mut blocks = Vec::new();
        for second in 0..seconds {
            for (source, columns) in sources.iter().enumerate() {
                let time = 1_700_000_000_000 + second * 1000 + source as i64;
                let values = (0..columns.len()).map(|at| second as f64 * 1.5 + at as f64).collect();
                blocks.push(Block { newest_ms: time, rows: vec![(source as u32, time, values)] });
            }
        }
        Queue { sources, blocks }
    }

    /// All that it holds, by the names in the queue.
    fn all(&self) -> BTreeSet<(Name, i64, u64)> {
        let rows = self.blocks.iter().flat_map(|block| &block.rows);
        let points = rows.flat_map(|(source, time, values)| {
            let columns = self.sources[*source as usize].iter().zip(values);
            columns.map(|(labels, value)| (labels.to_string(), *time, value.to_bits()))
        });
        points.collect()
    }
}

/// One process: what it holds is gone when it dies.
struct Process {
    feed: Feed,
    sender: Sender,
    /// Groups under way, and the blocks they are made of.
    groups: HashMap<u64, Blocks>,
    /// The next block to read.
    at: usize,
}

impl Process {
    fn start(config: &WriteOutConfig, metrics: &RemoteMetrics, queue: &Queue, at: usize) -> Process {
        let slice_ms = config.queue.batch_send_deadline.as_millis() as i64;
        let cut = Cut { points_max: config.queue.capacity, slice_ms };
        let shape = Shape { external_labels: config.external_labels.clone(), rules: config.rules.clone() };
        let mut feed = Feed::new(shape, cut);
        // The dictionary in any order: what goes out does not depend on it.
        feed.catalog.begin_segment();
        for (source, columns) in queue.sources.iter().enumerate() {
            feed.catalog.add_source(SourceId(source as u128 * 7919 % 104_729));
            for (column, labels) in columns.iter().enumerate() {
                feed.catalog.add_column(source as u32, column as u32, labels.clone());
            }
        }
        let sender = Sender::new(config.clone(), metrics.clone(), 7);
        Process { feed, sender, groups: HashMap::new(), at }
    }

    /// Reads as long as there is room.
    fn read(&mut self, queue: &Queue) {
        while self.sender.has_room() {
            let next = queue.blocks.get(self.at);
            if next.is_none_or(|block| self.feed.ends_before(block.newest_ms)) {
                if self.feed.due_ms().is_none() {
                    return;
                }
                let (group, blocks) = self.feed.close(self.sender.points_max());
                let number = self.sender.push(group);
                self.groups.insert(number, blocks);
                continue;
            }
            let Some(block) = next else { return };
            self.feed.begin(Position { incarnation: 1, block: self.at as u64 }, block.newest_ms);
            for (source, timestamp_ms, values) in &block.rows {
                let columns = 0..values.len() as u32;
                let row = RowIn {
                    source: *source,
                    timestamp_ms: *timestamp_ms,
                    columns: std::slice::from_ref(&columns),
                    values,
                    histograms: &[],
                    start_timestamps: &[],
                    exemplars: &[],
                };
                self.feed.collector.row(&self.feed.catalog, &row);
            }
            self.at += 1;
        }
    }
}

/// What may go wrong.
#[derive(Clone, Copy)]
struct Chaos {
    /// Of so many requests, one each is answered 429, 500, 503; one is not delivered; one's answer is lost.
    trouble_in: u64,
    /// Of so many steps, one kills the process.
    kill_in: u64,
    /// The receiver is down for so long at first, milliseconds.
    down_ms: u64,
}

const CALM: Chaos = Chaos { trouble_in: u64::MAX, kill_in: u64::MAX, down_ms: 0 };

struct Run {
    receiver: Receiver,
    metrics: RemoteMetrics,
    /// Each body that was sent.
    bodies: HashSet<bytes::Bytes>,
    /// Bodies with points that the receiver had, and that had not been sent before.
    odd_repeats: usize,
    in_flight_max: usize,
    took_ms: u64,
}

/// Sends all of the queue, whatever happens.
fn run(config: &WriteOutConfig, queue: &Queue, receiver: Receiver, chaos: Chaos, dice: &mut Dice) -> Run {
    let metrics = WriteOutMetrics::register(&mut Registry::default()).of(&config.name);
    let mut out = Run {
        receiver,
        metrics: metrics.clone(),
        bodies: HashSet::new(),
        odd_repeats: 0,
        in_flight_max: 0,
        took_ms: 0,
    };
    let mut acknowledged = 0;
    let mut process = Process::start(config, &metrics, queue, acknowledged);
    let mut now = 0u64;
    let mut under_way: Vec<(u64, Ticket, Result<Answer, String>)> = Vec::new();
    for _ in 0..3_000_000 {
        if dice.below(chaos.kill_in) == 1 {
            metrics.none_pending();
            under_way.clear();
            process = Process::start(config, &metrics, queue, acknowledged);
        }
        process.read(queue);
        let clock = Now { mono_ms: now, wall_ms: 1_700_000_000_000 + now as i64 };
        let wake = match process.sender.next(clock) {
            Step::Send(request) => {
                let outcome = out.deliver(&request, chaos, now, dice);
                under_way.push((now + 1 + dice.below(50), request.ticket, outcome));
                out.in_flight_max = out.in_flight_max.max(under_way.len());
                continue;
            }
            Step::Wait(wake) => wake,
        };
        under_way.sort_by_key(|(at, ..)| *at);
        let answer_at = under_way.first().map(|(at, ..)| *at);
        let Some(next) = answer_at.into_iter().chain(wake).min() else {
            assert_eq!(acknowledged, queue.blocks.len(), "stuck");
            out.took_ms = now;
            return out;
        };
        now = now.max(next);
        if answer_at == Some(next) {
            let (_, ticket, outcome) = under_way.remove(0);
            let clock = Now { mono_ms: now, wall_ms: 1_700_000_000_000 + now as i64 };
            process.sender.answered(ticket, outcome, clock);
        }
        if let Some(last) = process.sender.finished() {
            let blocks = &process.groups[&last];
            let (_, _, last) = blocks.last().expect("a group has blocks");
            acknowledged = *last as usize + 1;
        }
    }
    panic!("no end in sight");
}

impl Run {
    fn deliver(
        &mut self,
        request: &Outgoing,
        chaos: Chaos,
        now: u64,
        dice: &mut Dice,
    ) -> Result<Answer, String> {
        let is_known = |run: &Run, point: &Point| {
            run.receiver.stored.get(&point.series).is_some_and(|s| s.contains_key(&point.timestamp_ms))
        };
        let repeats = decoded(request).iter().any(|point| is_known(self, point));
        self.odd_repeats += usize::from(repeats && !self.bodies.contains(&request.body));
        self.bodies.insert(request.body.clone());
        if now < chaos.down_ms {
            return Err("connection refused".to_owned());
        }
        let status = |status: u16| Answer { status, text: "busy".to_owned(), ..Answer::default() };
        match dice.below(chaos.trouble_in) {
            1 => Ok(Answer { retry_after: Some(Duration::from_secs(dice.below(3))), ..status(429) }),
            2 => Ok(status(500)),
            3 => Ok(Answer { retry_after: Some(Duration::from_secs(1)), ..status(503) }),
            4 => Err("connection reset".to_owned()),
            5 => {
                let _lost = self.receiver.take(request);
                Err("no answer in time".to_owned())
            }
            6 => Ok(status(401)),
            _ => Ok(self.receiver.take(request)),
        }
    }

    fn stored(&self) -> BTreeSet<(Name, i64, u64)> {
        let series = self.receiver.stored.iter();
        series.flat_map(|(name, points)| points.iter().map(move |(t, v)| (name.clone(), *t, *v))).collect()
    }
}

fn config(protocol: Protocol) -> WriteOutConfig {
    let mut config = WriteOutConfig { protocol, ..WriteOutConfig::new("r") };
    config.queue.capacity = 40;
    config.queue.max_samples_per_send = 12;
    config.queue.max_shards = 6;
    config
}

#[test]
fn nothing_is_lost_whatever_the_receiver_does() {
    let seeds = std::env::var("WRITE_OUT_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(25);
    for seed in 0..seeds {
        let mut dice = Dice(seed);
        let queue = Queue::scraped(&mut dice, 4, 20, 12);
        let (kind, protocol) = [
            (Kind::Lenient, Protocol::V1),
            (Kind::Strict, Protocol::V1),
            (Kind::Partial, Protocol::V2),
            (Kind::Lenient, Protocol::V2),
            (Kind::Strict, Protocol::V2),
        ][seed as usize % 5];
        let chaos = Chaos { trouble_in: 12, kill_in: 150, down_ms: dice.below(3) * 20_000 };
        let run = run(&config(protocol), &queue, Receiver::new(kind), chaos, &mut dice);
        assert_eq!(run.stored(), queue.all(), "seed {seed}, {kind:?}, {protocol:?}");
        assert_eq!(run.metrics.pending_now(), 0, "seed {seed}");
        // Other than a strict receiver's, whose refusals are looked into, and one's that first shows that it
        // does not speak 2.0 each time we start.
        if kind == Kind::Partial || (kind, protocol) == (Kind::Lenient, Protocol::V1) {
            assert_eq!(run.odd_repeats, 0, "seed {seed}: a repeated request is the same request");
        }
    }
}

#[test]
fn only_what_the_receiver_refuses_is_given_up() {
    for (kind, protocol) in [(Kind::Strict, Protocol::V1), (Kind::Partial, Protocol::V2)] {
        let queue = Queue::scraped(&mut Dice(5), 3, 30, 8);
        let mut receiver = Receiver::new(kind);
        receiver.poison = Some("metric_3");
        let run = run(&config(protocol), &queue, receiver, CALM, &mut Dice(1));
        let (taken, refused): (BTreeSet<_>, BTreeSet<_>) =
            queue.all().into_iter().partition(|(name, ..)| !name.contains("metric_3"));
        assert!(!refused.is_empty());
        assert_eq!(run.stored(), taken, "{kind:?}");
        assert_eq!(run.metrics.dropped_so_far(DropReason::Refused), refused.len() as u64);
    }
}

#[test]
fn a_backlog_that_is_too_old_costs_few_requests() {
    let queue = Queue::scraped(&mut Dice(5), 3, 200, 20);
    let mut receiver = Receiver::new(Kind::Strict);
    receiver.oldest_ms = 1_700_000_000_000 + 17_000;
    let mut config = config(Protocol::V1);
    config.queue.capacity = 1000;
    config.queue.max_samples_per_send = 200;
    let run = run(&config, &queue, receiver, CALM, &mut Dice(1));
    let (old, taken): (BTreeSet<_>, BTreeSet<_>) =
        queue.all().into_iter().partition(|(_, t, _)| *t < 1_700_000_000_000 + 17_000);
    assert_eq!(run.stored(), taken);
    assert_eq!(run.metrics.dropped_so_far(DropReason::Refused), old.len() as u64);
    let asked = run.receiver.requests;
    assert!(asked < old.len() / 5, "{asked} requests for {} samples", old.len());
}

#[test]
fn a_request_too_large_is_sent_in_parts_and_later_ones_are_smaller() {
    let queue = Queue::scraped(&mut Dice(5), 2, 60, 6);
    let mut receiver = Receiver::new(Kind::Strict);
    receiver.points_max = 5;
    let run = run(&config(Protocol::V1), &queue, receiver, CALM, &mut Dice(1));
    assert_eq!(run.stored(), queue.all());
    let mut receiver = Receiver::new(Kind::Strict);
    receiver.points_max = 0;
    let run = super::tests::run(&config(Protocol::V1), &queue, receiver, CALM, &mut Dice(1));
    assert_eq!(run.stored(), BTreeSet::new());
    assert_eq!(run.metrics.dropped_so_far(DropReason::TooLarge), queue.all().len() as u64);
}

#[test]
fn as_many_requests_are_under_way_as_the_receiver_bears() {
    let queue = Queue::scraped(&mut Dice(5), 4, 60, 60);
    let mut config = config(Protocol::V1);
    config.queue.max_shards = 5;
    let fast = run(&config, &queue, Receiver::new(Kind::Strict), CALM, &mut Dice(1));
    assert_eq!(fast.in_flight_max, 5);
    assert_eq!(fast.stored(), queue.all());
    config.queue.max_shards = 1;
    let slow = run(&config, &queue, Receiver::new(Kind::Strict), CALM, &mut Dice(1));
    assert_eq!(slow.in_flight_max, 1);
    assert!(slow.took_ms > 3 * fast.took_ms, "{} and {}", slow.took_ms, fast.took_ms);
}

#[test]
fn a_receiver_that_is_down_is_asked_ever_less_often() {
    let queue = Queue::scraped(&mut Dice(5), 2, 10, 30);
    let chaos = Chaos { down_ms: 3_600_000, ..CALM };
    let mut config = config(Protocol::V1);
    config.queue.min_shards = 3;
    let mut dice = Dice(1);
    let receiver = Receiver::new(Kind::Strict);
    let run = run(&config, &queue, receiver, chaos, &mut dice);
    assert_eq!(run.stored(), queue.all());
    let hour = 3_600_000;
    assert!((hour..hour + 20_000).contains(&run.took_ms), "back at once: {}", run.took_ms);
}

#[test]
fn labels_go_out_as_configured() {
    let queue = Queue::scraped(&mut Dice(5), 2, 6, 3);
    let mut config = config(Protocol::V1);
    config.external_labels = Labels::from_pairs([("cluster", "west"), ("instance", "lost")]);
    let drop = RuleSpec {
        source_labels: vec!["__name__".to_owned()],
        regex: Some("metric_1".to_owned()),
        action: Action::Drop,
        ..RuleSpec::default()
    };
    let set = RuleSpec {
        source_labels: vec!["cluster".to_owned()],
        target_label: "site".to_owned(),
        ..RuleSpec::default()
    };
    config.rules = [drop, set].map(|spec| Rule::new(spec, NameScheme::Utf8).expect("a rule")).to_vec();
    let run = run(&config, &queue, Receiver::new(Kind::Strict), CALM, &mut Dice(1));
    let names: BTreeSet<Name> = run.receiver.stored.keys().cloned().collect();
    let wanted = queue.all().into_iter().filter(|(name, ..)| !name.contains("metric_1\""));
    let wanted: BTreeSet<Name> = wanted
        .map(|(name, ..)| {
            let inner = name.trim_start_matches('{').trim_end_matches('}');
            let (first, rest) = inner.split_once(", ").expect("two labels");
            format!("{{{first}, cluster=\"west\", {rest}, site=\"west\"}}")
        })
        .collect();
    assert_eq!(names, wanted);
    let dropped = queue.all().iter().filter(|(name, ..)| name.contains("metric_1\"")).count();
    assert_eq!(run.metrics.dropped_so_far(DropReason::Relabelled), dropped as u64);
}

#[test]
fn old_samples_stay_behind_when_there_is_an_age_limit() {
    let queue = Queue::scraped(&mut Dice(5), 1, 6, 20);
    let mut config = config(Protocol::V1);
    config.queue.sample_age_limit = Some(Duration::from_secs(60));
    let chaos = Chaos { down_ms: 70_000, ..CALM };
    let run = run(&config, &queue, Receiver::new(Kind::Strict), chaos, &mut Dice(1));
    let gone = run.metrics.dropped_so_far(DropReason::Age);
    let stored = run.stored();
    assert!(gone > 0 && !stored.is_empty());
    assert_eq!(gone + stored.len() as u64, queue.all().len() as u64);
    assert!(stored.iter().all(|(_, t, _)| *t >= 1_700_000_000_000 + 5_000));
}

/// A row with everything.
#[test]
fn histograms_exemplars_and_start_times_go_out_when_asked_for() {
    let check = |protocol, histograms: bool, exemplars: bool, expected: (usize, u32)| {
        let mut config = config(protocol);
        (config.send_native_histograms, config.send_exemplars) = (histograms, exemplars);
        let metrics = WriteOutMetrics::register(&mut Registry::default()).of("r");
        let labels = |name: &str| Labels::from_pairs([("__name__", name)]);
        let queue = Queue { sources: vec![vec![labels("a"), labels("h")]], blocks: vec![] };
        let mut process = Process::start(&config, &metrics, &queue, 0);
        process.feed.begin(Position { incarnation: 1, block: 0 }, 1000);
        let exemplar = Exemplar { labels: labels("x"), value: 1.0, timestamp_ms: 999 };
        let mut histogram = Histogram::stale();
        histogram.sum = 0.0;
        let row = RowIn {
            source: 0,
            timestamp_ms: 1000,
            columns: std::slice::from_ref(&(0..1)),
            values: &[2.0],
            histograms: &[(1, histogram)],
            start_timestamps: &[(0, 500), (1, 600)],
            exemplars: &[(0, exemplar)],
        };
        process.feed.collector.row(&process.feed.catalog, &row);
        let (group, _) = process.feed.close(10);
        process.sender.push(group);
        let Step::Send(request) = process.sender.next(Now { mono_ms: 0, wall_ms: 0 }) else {
            panic!("a request")
        };
        let points = decoded(&request);
        assert_eq!(points.len(), expected.0);
        let starts: Vec<i64> = points.iter().map(|point| point.start_ms).collect();
        let wanted: &[i64] = if protocol == Protocol::V2 { &[500, 600] } else { &[0, 0] };
        assert_eq!(starts, wanted[..expected.0]);
        let written =
            Written { samples: 1, histograms: points.len() as u64 - 1, exemplars: u64::from(expected.1) };
        let answer = Answer { status: 204, written: Some(written), ..Answer::default() };
        process.sender.answered(request.ticket, Ok(answer), Now { mono_ms: 1, wall_ms: 0 });
        assert_eq!(process.sender.finished(), Some(0));
        assert_eq!(metrics.pending_now(), 0);
        assert_eq!(metrics.exemplars_so_far(), u64::from(expected.1));
    };
    check(Protocol::V1, true, true, (2, 1));
    check(Protocol::V2, true, true, (2, 1));
    check(Protocol::V1, false, false, (1, 0));
    check(Protocol::V2, false, true, (1, 1));
}

#[test]
fn metadata_goes_out_now_and_then() {
    let mut config = config(Protocol::V1);
    config.metadata.max_samples_per_send = 2;
    let metrics = WriteOutMetrics::register(&mut Registry::default()).of("r");
    let mut sender = Sender::new(config, metrics, 1);
    let mut families = Vec::new();
    for name in ["a", "b", "c"] {
        sender.set_metadata(name, &model::Metadata { help: format!("help of {name}"), ..Default::default() });
    }
    let mut waits = Vec::new();
    for mono_ms in [0, 1, 2, 60_001, 60_002] {
        match sender.next(Now { mono_ms, wall_ms: 0 }) {
            Step::Send(request) => {
                assert_eq!(request.ticket, Ticket::Metadata);
                let mut body = Vec::new();
                snappy_decode(&request.body, 1 << 20, &mut body).expect("packed");
                for entry in v1::entries(&body) {
                    let Ok(v1::Entry::Metadata(entry)) = entry else { panic!("metadata only") };
                    families.push(format!("{mono_ms} {}: {}", entry.family, entry.metadata.help));
                }
                let answer = Answer { status: 204, ..Answer::default() };
                sender.answered(request.ticket, Ok(answer), Now { mono_ms, wall_ms: 0 });
            }
            Step::Wait(wake) => waits.push((mono_ms, wake)),
        }
    }
    let wanted = [
        "0 a: help of a",
        "0 b: help of b",
        "1 c: help of c",
        "60001 a: help of a",
        "60001 b: help of b",
        "60002 c: help of c",
    ];
    assert_eq!(families, wanted);
    assert_eq!(waits, [(2, None)]);
}
