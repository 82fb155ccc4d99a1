use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use blocks::chunk::{Encoder, Encoding};
use model::{Histogram, Labels, Matcher, SourceId};
use prometheus_client::registry::Registry;
use proptest::prelude::*;
use storage::{Appender, Batch, MemoryStore, Missing, Policy, Row, SourceDesc};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use wire::remote_read::{ChunkRead, ReadRequest, write_chunk_frame, write_starts, write_warnings_frame};
use wire::remote_write::snappy_decode;

use super::*;
use crate::far::{FarError, Pieces, Reach};

static NUMBERS: AtomicUsize = AtomicUsize::new(0);

/// How a far store behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mood {
    Answers,
    Silent,
    Slow,
    Damaged,
    BreaksOff,
    Garbage,
    Disconnected,
    /// Answers once so many are waiting.
    Together(usize),
}

/// Another store behind the bytes of remote read.
struct FarAway {
    cluster: String,
    labels: Labels,
    store: Arc<MemoryStore>,
    mood: Mood,
    reach: Reach,
    name: String,
    /// How often it was asked.
    asked: AtomicUsize,
    /// How many are being answered.
    under_way: Arc<AtomicUsize>,
    /// When all its series began; 0 where it does not know.
    starts_ms: i64,
}

/// Counts one while it lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Counted {
        count.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl FarAway {
    fn answer(&self, request: &[u8]) -> Vec<u8> {
        let mut message = Vec::new();
        snappy_decode(request, 1 << 20, &mut message).expect("snappy");
        let request = ReadRequest::decode(&message).expect("a request");
        let query = &request.queries[0];
        let (start_ms, end_ms, matchers) = (query.start_ms, query.end_ms, query.matchers.clone());
        let select = Select { tenant: TenantId::default(), start_ms, end_ms, matchers };
        let set = self.store.select(&select).expect("a selection");
        let (mut columns, mut out) = (Vec::new(), Vec::new());
        set.load(0..set.len(), &mut columns).expect("columns");
        for (at, column) in columns.iter().enumerate() {
            let mut encode = Encoder::default();
            let emitted = encode.encode(&column.times, &column.values, &column.histograms, |chunk| {
                let (min_ms, max_ms, encoding) = (chunk.min_ms, chunk.max_ms, chunk.encoding as u8);
                let mut starts = Vec::new();
                if chunk.encoding == Encoding::Xor && self.starts_ms != 0 {
                    write_starts(&vec![self.starts_ms; chunk.samples], &mut starts);
                }
                let chunk = ChunkRead { min_ms, max_ms, encoding, data: chunk.data.to_vec(), starts };
                // A frame for each chunk: a series comes in several.
                write_chunk_frame(&mut out, 0, set.labels(at), &[chunk]);
                Ok::<_, Infallible>(())
            });
            let Ok(()) = emitted;
        }
        if self.mood == Mood::Damaged {
            assert!(request.wants_warnings());
            write_warnings_frame(&mut out, &["page 7 is damaged".to_owned()]);
        }
        out
    }
}

impl Far for FarAway {
    fn cluster(&self) -> &str {
        &self.cluster
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn labels(&self) -> &Labels {
        &self.labels
    }

    fn reach(&self) -> Reach {
        self.reach
    }

    fn read(&self, request: Vec<u8>) -> BoxFuture<'_, Result<Pieces, FarError>> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let under_way = Counted::new(&self.under_way);
            if self.mood == Mood::Silent {
                return std::future::pending().await;
            }
            while let Mood::Together(count) = self.mood
                && self.asked.load(Ordering::Relaxed) < count
            {
                tokio::task::yield_now().await;
            }
            if self.mood == Mood::Disconnected {
                return Err(FarError("the agent is not connected".into()));
            }
            let (sender, pieces) = mpsc::channel(1);
            let (answer, mood) = (self.answer(&request), self.mood);
            tokio::spawn(async move {
                let _under_way = under_way;
                match mood {
                    Mood::Slow => return sender.closed().await,
                    Mood::Garbage => _ = sender.send(Ok(vec![0xff; 64])).await,
                    _ => {}
                }
                let len = if mood == Mood::BreaksOff { answer.len() - 1 } else { answer.len() };
                for piece in answer[..len].chunks(77) {
                    if sender.send(Ok(piece.to_vec())).await.is_err() {
                        return;
                    }
                }
            });
            Ok(pieces)
        })
    }

    fn get(&self, path_and_query: String, _bytes_max: usize) -> BoxFuture<'_, Result<Vec<u8>, FarError>> {
        Box::pin(async move {
            if self.mood != Mood::Answers {
                return Err(FarError("the agent is not connected".into()));
            }
            let said = |data: serde_json::Value| {
                let warnings = ["page 7 is damaged"];
                serde_json::json!({"status": "success", "data": data, "warnings": warnings})
                    .to_string()
                    .into_bytes()
            };
            if path_and_query.starts_with("/api/v1/metadata") {
                return Ok(said(serde_json::json!({"m": [{"type": "counter", "unit": "", "help": "M."}]})));
            }
            if path_and_query.starts_with("/api/v1/query_exemplars") {
                let exemplar = serde_json::json!({"labels": {"id": "7"}, "value": "1", "timestamp": 1.5});
                let series = serde_json::json!({"__name__": "m", "cluster": self.cluster.clone()});
                let of = serde_json::json!({"seriesLabels": series, "exemplars": [exemplar]});
                return Ok(said(serde_json::json!([of])));
            }
            let everything = everything(&TenantId::default());
            let values = if path_and_query.starts_with("/api/v1/labels?") {
                self.store.label_names(&everything)
            } else {
                self.store.label_values("instance", &everything)
            };
            let data = values.expect("a list").values;
            Ok(serde_json::json!({"status": "success", "data": data}).to_string().into_bytes())
        })
    }
}

struct Clusters(Vec<Arc<dyn Far>>);

impl Fleet for Clusters {
    fn stores(&self, _tenant: &TenantId) -> Vec<Arc<dyn Far>> {
        self.0.clone()
    }
}

fn labels(cluster: &str, instance: u8) -> Labels {
    let instance = format!("i{instance:03}");
    Labels::from_pairs([("__name__", "m"), ("cluster", cluster), ("instance", &instance)])
}

fn append(store: &MemoryStore, labels: &Labels, time: i64, value: f64, as_histogram: bool) {
    let source =
        SourceDesc { tenant: TenantId::default(), id: SourceId(labels.hash128()), labels: labels.clone() };
    let source = store.open_source(&source).expect("a source");
    let series = store.resolve(source, std::slice::from_ref(labels)).expect("series")[0].expect("a series");
    let (floats, values) = ([series], [value]);
    let histogram = Histogram { sum: value, ..Histogram::stale() };
    let histograms = [(series, histogram)];
    let row = if as_histogram {
        Row { histograms: &histograms, ..Row::floats(source, time, &[], &[]) }
    } else {
        Row::floats(source, time, &floats, &values)
    };
    let appended = store.append(&Batch::rows(&[row], Policy::REMOTE_WRITE)).expect("an append");
    assert!(appended.rejected.is_empty(), "{:?}", appended.rejected);
}

fn far(cluster: &str, mood: Mood) -> FarAway {
    FarAway {
        cluster: cluster.to_owned(),
        labels: Labels::from_pairs([("cluster", cluster)]),
        store: Arc::default(),
        mood,
        reach: Reach::default(),
        name: format!("{cluster}/{}", NUMBERS.fetch_add(1, Ordering::Relaxed)),
        asked: AtomicUsize::new(0),
        under_way: Arc::default(),
        starts_ms: 0,
    }
}

fn gather(runtime: &Runtime, local: Arc<MemoryStore>, fars: Vec<FarAway>) -> Gather {
    bounded(runtime, local, fars, 1 << 20)
}

fn bounded(runtime: &Runtime, local: Arc<MemoryStore>, fars: Vec<FarAway>, bytes_max: usize) -> Gather {
    let fleet = Clusters(fars.into_iter().map(|far| Arc::new(far) as Arc<dyn Far>).collect());
    let options = Options { patience: Duration::from_millis(300), bytes_max };
    let metrics = Metrics::register(&mut Registry::default());
    Gather::new(local, Arc::new(fleet), runtime.handle().clone(), options, metrics)
}

/// All samples of a selection, loaded in batches of `step`.
fn shown(set: &dyn SeriesSet, step: usize) -> Vec<String> {
    let mut columns = Vec::new();
    for from in (0..set.len()).step_by(step) {
        set.load(from..set.len().min(from + step), &mut columns).expect("columns");
    }
    let mut out = Vec::new();
    for (at, column) in columns.iter().enumerate() {
        let floats = column.times.iter().zip(&column.values).map(|(time, value)| (*time, format!("{value}")));
        let histograms = column.histograms.iter().map(|(time, h)| (*time, format!("h{}", h.sum)));
        let mut samples: Vec<(i64, String)> = floats.chain(histograms).collect();
        samples.sort();
        if !samples.is_empty() {
            out.push(format!("{} {samples:?}", set.labels(at)));
        }
    }
    out
}

fn select(start_ms: i64, end_ms: i64, matchers: Vec<Matcher>) -> Select {
    Select { tenant: TenantId::default(), start_ms, end_ms, matchers }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Samples scattered over stores, each at one or several: the union is what one store would say.
    #[test]
    fn stores_far_and_near_are_one(
        samples in prop::collection::vec((0u8..12, 0i64..400, any::<bool>(), 1u8..8), 1..300),
        step in 1usize..7,
        window in (0i64..200, 200i64..400),
    ) {
        let runtime = Runtime::new().expect("a runtime");
        let (whole, local) = (MemoryStore::new(), Arc::new(MemoryStore::new()));
        let fars = [far("a", Mood::Answers), far("a", Mood::Answers)];
        let mut seen = BTreeSet::new();
        for (instance, time, as_histogram, places) in samples {
            if !seen.insert((instance, time)) {
                continue;
            }
            let (labels, value) = (labels("a", instance), f64::from(instance) * 1000.0 + time as f64);
            append(&whole, &labels, time * 7, value, as_histogram);
            for (bit, store) in [&*local, &*fars[0].store, &*fars[1].store].into_iter().enumerate() {
                if places & (1 << bit) != 0 {
                    append(store, &labels, time * 7, value, as_histogram);
                }
            }
        }
        let gather = gather(&runtime, local, fars.into());
        let asked = select(window.0 * 7, window.1 * 7, vec![Matcher::equal("__name__", "m")]);
        let got = gather.select(&asked).expect("a selection");
        let want = whole.select(&asked).expect("a selection");
        prop_assert_eq!(shown(&*got, step), shown(&*want, 1000));
        prop_assert_eq!(got.warnings(), Vec::<String>::new());
        let names = gather.label_values("instance", &everything(&TenantId::default())).expect("values");
        let all = whole.label_values("instance", &everything(&TenantId::default())).expect("values");
        prop_assert_eq!(names.values, all.values);
    }
}

#[test]
fn a_store_that_fails_costs_its_own_part_and_is_named() {
    let runtime = Runtime::new().expect("a runtime");
    let check = |mood: Mood, why: &str| {
        let local = Arc::new(MemoryStore::new());
        append(&local, &labels("home", 1), 1000, 1.0, false);
        let (good, bad) = (far("good", Mood::Answers), far("bad", mood));
        append(&good.store, &labels("good", 1), 1000, 2.0, false);
        append(&bad.store, &labels("bad", 1), 1000, 3.0, false);
        let gather = gather(&runtime, local, vec![good, bad]);
        let asked = select(0, 5000, vec![Matcher::equal("__name__", "m")]);
        let set = gather.select(&asked).expect("the rest");
        assert_eq!(shown(&*set, 10).len(), 2, "{mood:?}");
        assert_eq!(set.warnings(), [format!("cluster \"bad\" did not answer: {why}")], "{mood:?}");
        let strict =
            |missing| gather.for_request(&Request { missing, ..Request::default() }).expect("it asks others");
        for missing in [Missing::Fail, Missing::FailUnanswered] {
            let refused = strict(missing).select(&asked).expect_err("all or nothing").to_string();
            // A silent one is not waited for a second time.
            let why = match refused.contains("it kept silent a moment ago") {
                true => "it kept silent a moment ago and is asked again in 10 s",
                false => why,
            };
            assert_eq!(
                refused,
                format!("the answer would be incomplete: cluster \"bad\" did not answer: {why}"),
                "{mood:?}"
            );
        }
        // A selection that cannot concern it does not notice.
        let other = select(0, 5000, vec![Matcher::equal("cluster", "good")]);
        let set = strict(Missing::Fail).select(&other).expect("the good one");
        assert_eq!(shown(&*set, 10).len(), 1, "{mood:?}");
    };
    check(Mood::Silent, "no answer within 300ms");
    check(Mood::Slow, "no whole answer within 300ms");
    check(Mood::BreaksOff, "the answer ends within a frame");
    check(Mood::Garbage, "a frame begins with a malformed length");
    check(Mood::Disconnected, "the agent is not connected");
}

#[test]
fn a_window_beyond_what_a_store_keeps_is_named() {
    let runtime = Runtime::new().expect("a runtime");
    let mut short = far("short", Mood::Answers);
    short.reach.oldest_ms = Some(1_600_000_000_000);
    append(&short.store, &labels("short", 1), 1_600_000_001_000, 1.0, false);
    let gather = gather(&runtime, Arc::default(), vec![short]);
    let warnings = |start_ms: i64| {
        let asked = select(start_ms, 1_700_000_000_000, Vec::new());
        gather.select(&asked).expect("a selection").warnings()
    };
    assert_eq!(warnings(1_600_000_000_000), Vec::<String>::new());
    assert_eq!(
        warnings(1_599_999_999_999),
        [
            "cluster \"short\" keeps nothing older than 2020-09-13T12:26:40Z: of the time before, the answer has what this hub stores"
        ]
    );
}

#[test]
fn too_much_from_afar_is_a_limit_of_the_query() {
    let runtime = Runtime::new().expect("a runtime");
    let large = far("large", Mood::Answers);
    for time in 0..3000 {
        append(&large.store, &labels("large", 1), time, 1.0, false);
    }
    let gather = bounded(&runtime, Arc::default(), vec![large], 30 << 10);
    let error = gather.select(&select(0, 5000, Vec::new())).expect_err("too much").to_string();
    assert_eq!(error, "the stores of the clusters answered with more than 0 MiB");
}

#[test]
fn a_store_is_asked_only_for_what_it_may_have() {
    let runtime = Runtime::new().expect("a runtime");
    let mut ended = far("ended", Mood::Answers);
    ended.reach = Reach { oldest_ms: Some(1_000), first_ms: Some(950), end_ms: Some(2_000) };
    append(&ended.store, &labels("ended", 1), 1_500, 1.0, false);
    let ended = Arc::new(ended);
    let fleet = Clusters(vec![Arc::clone(&ended) as Arc<dyn Far>]);
    let options = Options { patience: Duration::from_millis(300), ..Options::default() };
    let metrics = Metrics::register(&mut Registry::default());
    let local = Arc::new(MemoryStore::new());
    let gather = Gather::new(local, Arc::new(fleet), runtime.handle().clone(), options, metrics);
    let check = |start_ms: i64,
                 end_ms: i64,
                 matchers: Vec<Matcher>,
                 found: usize,
                 asked: usize,
                 warned: usize| {
        let before = ended.asked.load(Ordering::Relaxed);
        let set = gather.select(&select(start_ms, end_ms, matchers)).expect("a selection");
        let now = ended.asked.load(Ordering::Relaxed) - before;
        assert_eq!((set.len(), now, set.warnings().len()), (found, asked, warned), "{start_ms} to {end_ms}");
    };
    check(1_000, 3_000, Vec::new(), 1, 1, 0);
    check(2_001, 3_000, Vec::new(), 0, 0, 0);
    check(500, 900, Vec::new(), 0, 0, 1);
    check(500, 960, Vec::new(), 0, 1, 1);
    check(500, 1_600, Vec::new(), 1, 1, 1);
    check(1_000, 3_000, vec![Matcher::equal("cluster", "other")], 0, 0, 0);
    check(500, 900, vec![Matcher::equal("cluster", "other")], 0, 0, 0);
}

#[test]
fn one_request_waits_once_and_only_as_long_as_somebody_wants_it() {
    let runtime = Runtime::new().expect("a runtime");
    let gather = gather(&runtime, Arc::default(), vec![far("good", Mood::Answers), far("slow", Mood::Slow)]);
    let asked = select(0, 5_000, Vec::new());
    let request = gather.for_request(&Request::default()).expect("it asks others");
    let warned = |set: Box<dyn SeriesSet>| set.warnings();
    let first = warned(request.select(&asked).expect("the rest"));
    assert_eq!(first, ["cluster \"slow\" did not answer: no whole answer within 300ms"]);
    let begin = Instant::now();
    for _ in 0..50 {
        assert_eq!(warned(request.select(&asked).expect("the rest")), first);
    }
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());

    // Who has little time gets an answer within it.
    let hurried = Request { time_left: Some(Duration::from_millis(80)), ..Request::default() };
    let hurried = gather.for_request(&hurried).expect("it asks others");
    let said = warned(hurried.select(&asked).expect("the rest")).join("");
    assert!(said.contains("no whole answer within") && !said.contains("300ms"), "{said}");

    let gone = Arc::new(AtomicBool::new(true));
    let left = Request { gone: Some(Arc::new(move || gone.load(Ordering::Relaxed))), ..Request::default() };
    let error = gather.for_request(&left).expect("it asks others").select(&asked).expect_err("nobody waits");
    assert!(matches!(error, QueryError::Cancelled), "{error}");
}

#[test]
fn memory_comes_back_and_series_of_others_are_not_taken() {
    let runtime = Runtime::new().expect("a runtime");
    let store = far("own", Mood::Answers);
    for time in 0..1000 {
        append(&store.store, &labels("own", 1), time, 1.0, false);
    }
    append(&store.store, &labels("other", 1), 5, 1.0, false);
    let before = Labels::from_pairs([("__name__", "m"), ("instance", "i001")]);
    append(&store.store, &before, 2_000, 1.0, false);
    let gather = bounded(&runtime, Arc::default(), vec![store], 30 << 10);
    let request = gather.for_request(&Request::default()).expect("it asks others");
    for _ in 0..10 {
        let set = request.select(&select(0, 5_000, Vec::new())).expect("within the bounds each time");
        let found = shown(&*set, 10);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("cluster=\"own\"") && found[0].contains("(2000, \"1\")"), "{found:?}");
        let said = set.warnings().join("");
        assert!(said.starts_with("cluster \"own\": 1 series left out that carry labels of others"), "{said}");
    }
    let _held = request.select(&select(0, 5_000, Vec::new())).expect("within the bounds");
    assert!(request.select(&select(0, 5_000, Vec::new())).is_err(), "two at once are too much");
}

#[test]
fn what_a_store_says_of_its_answer_comes_along() {
    let runtime = Runtime::new().expect("a runtime");
    let store = far("own", Mood::Damaged);
    append(&store.store, &labels("own", 1), 5, 1.0, false);
    let gather = gather(&runtime, Arc::default(), vec![store]);
    let set = gather.select(&select(0, 10, Vec::new())).expect("the rest");
    assert_eq!((set.len(), set.warnings()), (1, vec!["cluster \"own\": page 7 is damaged".to_owned()]));
}

/// A gather over one store that can be looked at.
fn over(runtime: &Runtime, store: FarAway, bytes_max: usize) -> (Gather, Arc<FarAway>) {
    let store = Arc::new(store);
    let fleet = Clusters(vec![Arc::clone(&store) as Arc<dyn Far>]);
    let options = Options { patience: Duration::from_millis(300), bytes_max };
    let metrics = Metrics::register(&mut Registry::default());
    let local = Arc::new(MemoryStore::new());
    let gather = Gather::new(local, Arc::new(fleet), runtime.handle().clone(), options, metrics);
    (gather, store)
}

/// Selections of instances, one each.
fn of_instances(instances: &[u8]) -> Vec<Select> {
    let of = |instance: &u8| Matcher::equal("instance", format!("i{instance:03}"));
    instances.iter().map(|instance| select(0, 5_000, vec![of(instance)])).collect()
}

#[test]
fn all_selections_of_a_request_go_out_at_once() {
    let runtime = Runtime::new().expect("a runtime");
    let store = far("own", Mood::Together(4));
    for instance in 0..6 {
        append(&store.store, &labels("own", instance), 7, f64::from(instance), false);
    }
    let (gather, store) = over(&runtime, store, 1 << 20);
    let request = gather.for_request(&Request::default()).expect("it asks others");
    let asked = of_instances(&[0, 1, 2, 3, 1, 4, 5]);
    request.expect(&|| asked.clone());
    for (select, instance) in asked.iter().zip([0, 1, 2, 3, 1, 4, 5]) {
        let set = request.select(select).expect("a selection");
        assert_eq!(set.warnings(), Vec::<String>::new(), "{instance}");
        assert_eq!(shown(&*set, 10), [format!("{} [(7, \"{instance}\")]", labels("own", instance))]);
    }
    assert_eq!(store.asked.load(Ordering::Relaxed), 6, "what is selected twice is fetched once");
    // Announced or not, the answer is the same.
    let set = request.select(&asked[0]).expect("a selection");
    assert_eq!((set.len(), store.asked.load(Ordering::Relaxed)), (1, 7));
}

#[test]
fn what_is_fetched_ahead_ends_with_the_request_and_spares_the_silent() {
    let runtime = Runtime::new().expect("a runtime");
    let (gather, store) = over(&runtime, far("slow", Mood::Slow), 1 << 20);
    let request = gather.for_request(&Request::default()).expect("it asks others");
    let asked = of_instances(&[0, 1, 2, 3, 4, 5, 6, 7]);
    request.expect(&|| asked.clone());
    let under_way = |wanted: usize| {
        let deadline = Instant::now() + Duration::from_secs(5);
        while store.under_way.load(Ordering::Relaxed) != wanted && Instant::now() < deadline {
            std::thread::yield_now();
        }
        store.under_way.load(Ordering::Relaxed)
    };
    assert_eq!(under_way(4), 4, "so many share the line to a store");
    drop(request);
    assert_eq!(under_way(0), 0, "nobody waits for the answers any more");

    let (gather, store) = over(&runtime, far("silent", Mood::Silent), 1 << 20);
    let request = gather.for_request(&Request::default()).expect("it asks others");
    request.expect(&|| asked.clone());
    let begin = Instant::now();
    for select in &asked {
        let said = request.select(select).expect("the rest").warnings();
        assert_eq!(said, ["cluster \"silent\" did not answer: no answer within 300ms"]);
    }
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    assert_eq!(store.asked.load(Ordering::Relaxed), 4, "those behind the first are not sent");
}

#[test]
fn what_is_fetched_ahead_gives_way_to_what_is_needed_now() {
    let runtime = Runtime::new().expect("a runtime");
    let store = far("own", Mood::Answers);
    for time in 0..1000 {
        for instance in 0..4 {
            append(&store.store, &labels("own", instance), time, 1.0, false);
        }
    }
    let (gather, _) = over(&runtime, store, 40 << 10);
    let check = |samples_max: Option<u64>, trouble: Option<&str>| {
        let request = Request { samples_max, ..Request::default() };
        let request = gather.for_request(&request).expect("it asks others");
        let asked = of_instances(&[0, 1, 2, 3]);
        request.expect(&|| asked.clone());
        for select in &asked {
            match (request.select(select), trouble) {
                (Ok(set), None) => assert_eq!(set.len(), 1),
                (got, Some(trouble)) => assert_eq!(got.expect_err("too many").to_string(), trouble),
                (Err(error), None) => panic!("{samples_max:?}: {error}"),
            }
        }
    };
    // Two fit, four do not.
    check(None, None);
    check(Some(1_500), None);
    let too_many = "the stores of the clusters answered with more than the 999 samples that a query may hold";
    check(Some(999), Some(too_many));
}

#[test]
fn start_timestamps_come_along() {
    let runtime = Runtime::new().expect("a runtime");
    let mut store = far("own", Mood::Answers);
    store.starts_ms = 123;
    for time in 0..300 {
        append(&store.store, &labels("own", 1), time * 2, 1.0, false);
        append(&store.store, &labels("own", 1), time * 2 + 1, 1.0, true);
    }
    let (gather, _) = over(&runtime, store, 1 << 20);
    let set = gather.select(&select(100, 300, Vec::new())).expect("a selection");
    let mut columns = Vec::new();
    set.load(0..1, &mut columns).expect("columns");
    assert_eq!(columns[0].times.len(), 101);
    assert_eq!(columns[0].start_times.as_deref(), Some(&[123; 101][..]));
    assert_eq!((columns[0].histograms.len(), &columns[0].histogram_starts), (100, &None));
}

#[test]
fn metadata_and_exemplars_say_whose_part_is_missing() {
    let runtime = Runtime::new().expect("a runtime");
    let gather =
        gather(&runtime, Arc::default(), vec![far("good", Mood::Answers), far("bad", Mood::Disconnected)]);
    let tenant = TenantId::default();
    let matchers = [vec![Matcher::equal("__name__", "m")]];
    let said =
        ["cluster \"bad\" did not answer: the agent is not connected", "cluster \"good\": page 7 is damaged"];
    let metadata = gather.metadata(&tenant, None).expect("the rest");
    assert_eq!((metadata.values.len(), metadata.warnings), (1, said.map(String::from).to_vec()));
    let exemplars = gather.exemplars_of(&tenant, 0, 5_000, &matchers).expect("the rest");
    assert_eq!((exemplars.values.len(), exemplars.warnings), (1, said.map(String::from).to_vec()));
    let strict = Request { missing: Missing::Fail, ..Request::default() };
    let strict = gather.for_request(&strict).expect("it asks others");
    let refused = format!("the answer would be incomplete: {}", said[0]);
    assert_eq!(strict.metadata(&tenant, None).expect_err("all or nothing").to_string(), refused);
    let error = strict.exemplars_of(&tenant, 0, 5_000, &matchers).expect_err("all or nothing");
    assert_eq!(error.to_string(), refused);
}
