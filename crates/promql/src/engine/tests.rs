//! What a query owes its caller beside the right values: limits, cancellation, and the same answer on
//! any number of threads.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use model::{Labels, TenantId};
use parking_lot::Mutex;
use storage::{Column, ListedLabels, ListedMetadata, QueryError, Queryable, Select, SeriesSet};

use super::{CancelFlag, Engine, EngineOptions, QueryOptions};
use crate::answer::{Answer, EvalError, Value};
use crate::parser::ParseOptions;

/// Many series with one column of times, every 15 s from 0.
#[derive(Debug, Clone)]
struct Grid {
    series: Vec<(Labels, Vec<f64>)>,
    times: Arc<[i64]>,
    /// Panics when this series is loaded.
    broken: Option<usize>,
}

impl Grid {
    /// `jobs` times `instances` counters that grow unevenly and reset now and then.
    fn new(jobs: usize, instances: usize, samples: usize) -> Grid {
        let times: Arc<[i64]> = (0..samples as i64).map(|i| i * 15_000).collect();
        let mut series = Vec::new();
        for job in 0..jobs {
            for instance in 0..instances {
                let labels = Labels::from_pairs([
                    ("__name__", "requests_total".to_owned()),
                    ("job", format!("job-{job}")),
                    ("instance", format!("instance-{instance:04}")),
                ]);
                let mut value = 0.0;
                let values = (0..samples).map(|i| {
                    let seed = (i * 7919 + instance * 104_729 + job * 31) % 1009;
                    value = if seed == 0 { 0.0 } else { value + seed as f64 / 7.0 };
                    value
                });
                series.push((labels, values.collect()));
            }
        }
        series.sort_by(|a, b| a.0.cmp(&b.0));
        Grid { series, times, broken: None }
    }
}

#[derive(Debug)]
struct Selected(Vec<(Labels, Vec<f64>)>, Arc<[i64]>, Range<usize>, Option<usize>);

impl SeriesSet for Selected {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn labels(&self, at: usize) -> &Labels {
        &self.0[at].0
    }

    fn load(&self, range: Range<usize>, out: &mut Vec<Column>) -> Result<(), QueryError> {
        for at in range {
            assert_ne!(Some(at), self.3, "a mistake while loading");
            let values = self.0[at].1[self.2.clone()].to_vec();
            out.push(Column { times: self.1.clone(), values, ..Column::default() });
        }
        Ok(())
    }
}

impl Queryable for Grid {
    fn select(&self, select: &Select) -> Result<Box<dyn SeriesSet>, QueryError> {
        let from = self.times.partition_point(|t| *t < select.start_ms);
        let to = self.times.partition_point(|t| *t <= select.end_ms);
        let matches = |labels: &Labels| {
            select.matchers.iter().all(|m| m.matches(labels.get(&m.name).unwrap_or_default()))
        };
        let series = self.series.iter().filter(|(labels, _)| matches(labels)).cloned().collect();
        let range = from..to.max(from);
        Ok(Box::new(Selected(series, self.times[range.clone()].into(), range, self.broken)))
    }

    fn label_names(&self, _: &Select) -> Result<ListedLabels, QueryError> {
        Ok(ListedLabels::default())
    }

    fn label_values(&self, _: &str, _: &Select) -> Result<ListedLabels, QueryError> {
        Ok(ListedLabels::default())
    }

    fn metadata(&self, _: &TenantId, _: Option<&str>) -> Result<ListedMetadata, QueryError> {
        Ok(ListedMetadata::default())
    }
}

fn engine(change: impl FnOnce(&mut EngineOptions)) -> Engine {
    let mut options = EngineOptions { threads: 2, ..EngineOptions::default() };
    change(&mut options);
    Engine::new(options)
}

fn range(engine: &Engine, store: &Grid, query: &str, options: &QueryOptions) -> Result<Answer, EvalError> {
    engine.range(store, &TenantId::default(), query, 300_000, 3_000_000, 30_000, options)
}

#[test]
fn threads_do_not_change_a_bit() {
    let store = Grid::new(5, 300, 250);
    let one = engine(|o| o.threads = 1);
    let many = engine(|o| o.threads = 4);
    for query in [
        "sum by (job) (rate(requests_total[5m]))",
        "avg(requests_total)",
        "stddev without (instance) (increase(requests_total[2m]))",
        "topk(3, rate(requests_total[1m]))",
        "quantile(0.9, requests_total)",
        "max_over_time(rate(requests_total[1m])[10m:1m])",
        "requests_total / on (instance, job) (requests_total offset 1m)",
    ] {
        let ask = |engine: &Engine| range(engine, &store, query, &QueryOptions::default()).expect(query);
        let (a, b) = (ask(&one), ask(&many));
        assert_eq!(bits(&a.value), bits(&b.value), "{query}");
        assert_eq!((a.warnings, a.infos), (b.warnings, b.infos), "{query}");
        assert_eq!(a.stats.total_queryable_samples, b.stats.total_queryable_samples, "{query}");
    }
}

fn bits(value: &Value) -> Vec<(String, Vec<(i64, u64)>)> {
    let Value::Matrix(series) = value else { panic!("not a matrix") };
    assert!(!series.is_empty());
    let points = |floats: &[(i64, f64)]| floats.iter().map(|(t, v)| (*t, v.to_bits())).collect();
    series.iter().map(|s| (s.labels.to_string(), points(&s.floats))).collect()
}

#[test]
fn a_query_past_its_samples_fails_and_the_next_one_works() {
    let store = Grid::new(10, 300, 250);
    let engine = engine(|o| o.max_samples = 100_000);
    let none = QueryOptions::default();
    let error = range(&engine, &store, "requests_total * 2", &none).expect_err("too many");
    assert_eq!(
        error.to_string(),
        "query processing would load too many samples into memory in query execution"
    );
    let error = range(&engine, &store, "sum_over_time(vector(1)[10000d:1s])", &none).expect_err("too many");
    assert!(matches!(error, EvalError::TooManySamples), "{error}");
    let answer = range(&engine, &store, "count(requests_total{job=\"job-0\"} > 1e9)", &none);
    assert!(matches!(answer.expect("fits").value, Value::Matrix(series) if series.is_empty()));
}

#[test]
fn aggregations_hold_groups_not_series() {
    let store = Grid::new(2, 2000, 250);
    let engine = engine(|o| o.max_samples = 400_000);
    let none = QueryOptions::default();
    let answer = range(&engine, &store, "sum by (job) (rate(requests_total[5m]))", &none).expect("fits");
    assert!(answer.stats.peak_samples < 400_000, "{}", answer.stats.peak_samples);
    assert_eq!(answer.stats.samples_read, 4000 * 200);
}

#[test]
fn cancelled_and_late_queries_stop() {
    let store = Grid::new(1, 10, 50);
    let engine = engine(|_| {});
    let cancel = CancelFlag::default();
    cancel.cancel();
    let options = QueryOptions { cancel, ..QueryOptions::default() };
    let error = range(&engine, &store, "requests_total", &options).expect_err("cancelled");
    assert_eq!(error.to_string(), "query was canceled in expression evaluation");
    let options = QueryOptions { timeout: Some(Duration::ZERO), ..QueryOptions::default() };
    let error = range(&engine, &store, "requests_total", &options).expect_err("late");
    assert_eq!(error.to_string(), "query timed out in expression evaluation");
}

#[test]
fn a_panic_is_an_error_of_its_query_only() {
    let mut store = Grid::new(1, 500, 50);
    let engine = engine(|_| {});
    store.broken = Some(400);
    let error = range(&engine, &store, "sum(requests_total)", &QueryOptions::default()).expect_err("broken");
    assert!(
        matches!(&error, EvalError::Internal(text) if text.contains("a mistake while loading")),
        "{error}"
    );
    store.broken = None;
    assert!(range(&engine, &store, "sum(requests_total)", &QueryOptions::default()).is_ok());
}

#[test]
fn a_limit_cuts_and_says_so() {
    let store = Grid::new(1, 10, 50);
    let engine = engine(|_| {});
    let options = QueryOptions { limit: 3, ..QueryOptions::default() };
    let answer = range(&engine, &store, "requests_total", &options).expect("an answer");
    assert!(matches!(&answer.value, Value::Matrix(series) if series.len() == 3));
    assert_eq!(answer.warnings, ["results truncated due to limit"]);
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let store = Grid::new(1, 1, 5);
    let engine = engine(|_| {});
    let none = QueryOptions::default();
    let tenant = TenantId::default();
    for (query, start, end, step, message) in [
        (
            "up",
            0,
            10,
            0,
            "zero or negative query resolution step widths are not accepted. Try a positive integer",
        ),
        ("up", 10, 0, 5, "end timestamp must not be before start time"),
        (
            "up[5m]",
            0,
            10,
            5,
            "invalid expression type \"range vector\" for range query, must be Scalar or instant Vector",
        ),
        ("rate(up[5m - 5m])", 0, 10, 5, "8:15: duration must be greater than 0"),
        ("up offset (5m / (step() - 0.005))", 0, 10, 5, "11:32: division by zero"),
    ] {
        match engine.range(&store, &tenant, query, start, end, step, &none) {
            Err(EvalError::BadRequest(text)) => assert_eq!(text, message, "{query}"),
            other => panic!("{query}: {other:?}"),
        }
    }
}

#[test]
fn names_go_at_once_unless_delayed() {
    let mut store = Grid::new(1, 2, 50);
    store.series[1].0 =
        Labels::from_pairs([("__name__", "other_total"), ("instance", "instance-0000"), ("job", "job-0")]);
    store.series.sort_by(|a, b| a.0.cmp(&b.0));
    let query = r#"sum(rate({__name__=~".+_total"}[1m]))"#;
    let none = QueryOptions::default();
    let error = range(&engine(|_| {}), &store, query, &none).expect_err("both lose their names");
    assert_eq!(error.to_string(), "vector cannot contain metrics with the same labelset");
    assert!(range(&engine(|o| o.delayed_name_removal = true), &store, query, &none).is_ok());
    // Elementwise functions notice too, and a selector with one name need not look.
    let absolute = r#"count(abs({__name__=~".+_total"}))"#;
    assert!(range(&engine(|_| {}), &store, absolute, &none).is_err());
    assert!(range(&engine(|_| {}), &store, "count(abs(other_total))", &none).is_ok());
}

#[test]
fn steps_without_number_are_refused_before_memory_is_taken() {
    let store = Grid::new(1, 3, 5);
    let engine = engine(|_| {});
    let (tenant, none) = (TenantId::default(), QueryOptions::default());
    for query in [
        "requests_total",
        "rate(requests_total[5m])",
        "1",
        "vector(1)",
        "sum(requests_total) + 1",
        "absent(x)",
    ] {
        let error = engine.range(&store, &tenant, query, 0, i64::MAX / 4, 1, &none).expect_err(query);
        assert!(matches!(error, EvalError::TooManySamples), "{query}: {error}");
    }
}

/// One and three series of a sample every 10 s, as upstream counts with.
fn every_ten_seconds() -> Grid {
    let times: Arc<[i64]> = (0..100).map(|i| i * 10_000).collect();
    let of = |name: &str, instance: &str| Labels::from_pairs([("__name__", name), ("instance", instance)]);
    let series = [of("one", "a"), of("three", "a"), of("three", "b"), of("three", "c")];
    let values: Vec<f64> = (0..100).map(f64::from).collect();
    Grid { series: series.into_iter().map(|labels| (labels, values.clone())).collect(), times, broken: None }
}

/// Source: Prometheus `promql/engine_test.go`, `TestQueryStatistics`, for what is looked at.
#[test]
fn samples_are_counted_as_prometheus_counts_them() {
    let (store, tenant) = (every_ten_seconds(), TenantId::default());
    let engine = engine(|_| {});
    let options = QueryOptions { per_step_stats: true, ..QueryOptions::default() };
    let check = |query: &str, steps: usize, queryable: &[u64], read: u64| {
        let end_ms = 201_000 + (steps as i64 - 1) * 5000;
        let answer = if steps == 1 {
            engine.instant(&store, &tenant, query, 201_000, &options)
        } else {
            engine.range(&store, &tenant, query, 201_000, end_ms, 5000, &options)
        };
        let stats = answer.unwrap_or_else(|error| panic!("{query}: {error}")).stats;
        let per_step: Vec<u64> = stats.per_step.iter().map(|step| step.queryable_samples).collect();
        assert_eq!(per_step, queryable, "{query}");
        assert_eq!(stats.total_queryable_samples, queryable.iter().sum::<u64>(), "{query}");
        assert_eq!(stats.samples_read, read, "{query}");
        assert_eq!(stats.per_step.iter().map(|step| step.samples_read).sum::<u64>(), read, "{query}");
        assert_eq!(stats.per_step.last().map(|step| step.t_ms), Some(end_ms), "{query}");
    };
    check("one", 1, &[1], 1);
    check("three", 1, &[3], 3);
    check("sum by (instance) (three)", 1, &[3], 3);
    check("max_over_time(three[60s])", 1, &[18], 18);
    check("one[60s]", 1, &[6], 6);
    check("one[60s:5s]", 1, &[12], 12);
    check("max_over_time(three[60s:5s])", 1, &[36], 36);
    check("sum(max_over_time(three[60s:5s])) + sum(max_over_time(three[60s:5s]))", 1, &[72], 72);
    check("one", 4, &[1, 1, 1, 1], 4);
    check("max_over_time(one[20s])", 4, &[2, 2, 2, 2], 3);
    check("max_over_time(three[20s])", 4, &[6, 6, 6, 6], 9);
    check("max_over_time(one[60s:5s])", 4, &[12, 12, 12, 12], 15);
    check("one + on () group_right () three", 4, &[4, 4, 4, 4], 16);
    check("1 + 1", 4, &[0, 0, 0, 0], 0);
}

#[test]
fn whether_a_query_holds_too_much_does_not_depend_on_threads() {
    let store = Grid::new(2, 300, 100);
    for query in [
        "requests_total * 2",
        "sum(rate(requests_total[5m]))",
        "topk(3, requests_total)",
        "requests_total / on (instance, job) (requests_total offset 1m) or vector(1)",
    ] {
        let peak = |threads: usize, samples_max: u64| {
            let engine = engine(|o| (o.threads, o.max_samples) = (threads, samples_max));
            range(&engine, &store, query, &QueryOptions::default()).map(|answer| answer.stats.peak_samples)
        };
        let needed = peak(1, u64::MAX).expect(query);
        for threads in [1, 2, 4] {
            for _ in 0..3 {
                assert_eq!(peak(threads, needed).ok(), Some(needed), "{query}, {threads} threads");
                assert!(matches!(peak(threads, needed - 1), Err(EvalError::TooManySamples)), "{query}");
            }
        }
    }
}

/// While others have all threads of the pool, a query goes on by itself.
#[test]
fn a_query_does_not_wait_for_the_pool() {
    let store = Grid::new(2, 300, 50);
    let engine = engine(|_| {});
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = parking_lot::Mutex::new(held);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            // Not a query: it would share. The pool is as taken as it can be until `release` is gone.
            scope.spawn(|| {
                engine.workers.occupy(|| {
                    let _ = held.lock().recv();
                });
            });
        }
        let _busy = [engine.workers.counted(), engine.workers.counted()];
        let answer = range(&engine, &store, "sum(rate(requests_total[5m]))", &QueryOptions::default());
        assert!(answer.is_ok(), "{answer:?}");
        drop(release);
    });
}

/// What could take any amount of memory or time is refused, or done within bounds.
#[test]
fn queries_that_would_make_too_much_are_told_so() {
    let store = Grid::new(1, 2, 20);
    let doubled = |function: &str, args: &str, times: usize| {
        let (open, close) = (format!("{function}("), format!(", {args})"));
        format!("count({}requests_total{})", open.repeat(times), close.repeat(times))
    };
    let long = |function: &str| format!("{function}() would make a label value of more than 1048576 bytes");
    const MANY: &str = "query processing would load too many samples into memory in query execution";
    for (query, expected) in [
        (doubled("label_replace", r#""job", "$1$1", "job", "(.*)""#, 200), long("label_replace")),
        // Each value is short enough, not all of them together.
        (doubled("label_join", r#""job", "", "job", "job""#, 17), MANY.into()),
        (doubled("label_join", r#""job", "", "job", "job""#, 200), MANY.into()),
        (
            format!(r#"label_replace(requests_total, "x", "{}", "job", "(.*)")"#, "$1".repeat(400_000)),
            long("label_replace"),
        ),
        (
            format!(
                "label_join({}, \"y\", \"\"{})",
                r#"label_replace(requests_total, "x", "${1}abcdefgh", "job", "(.*)")"#,
                ", \"x\"".repeat(100_000)
            ),
            long("label_join"),
        ),
        ("count_over_time(vector(1)[1y:1ms])".to_owned(), MANY.into()),
        ("rate(requests_total[5m:1ms] @ 1e9)[1y:1ms]".to_owned(), MANY.into()),
        ("max_over_time(requests_total[1y:1ms])".to_owned(), MANY.into()),
        (
            format!("count({{job=~\"{}\"}})", "x{1000}".repeat(2000)),
            format!(
                "1:8: parse error: error parsing regexp: expression too large: `{}`",
                "x{1000}".repeat(2000)
            ),
        ),
        (
            format!("count({{{}}})", format!("job=~\"{}(a|b)\",", "x{1000}y?".repeat(100)).repeat(500)),
            "regular expressions take more than 67108864 bytes together".to_owned(),
        ),
    ] {
        let shown = &query[..query.len().min(80)];
        let samples_max = if query.contains("label_join(label_join") { 60_000 } else { 50_000_000 };
        let engine = engine(|o| o.max_samples = samples_max);
        match engine.instant(&store, &TenantId::default(), &query, 300_000, &QueryOptions::default()) {
            Err(error) => assert!(error.to_string().ends_with(&expected), "{shown}: {error}"),
            Ok(answer) => panic!("{shown}: {:?}", answer.stats),
        }
    }
}

/// A store that notes what it is told to expect, and what is selected.
struct Told {
    store: Grid,
    expected: Mutex<Vec<String>>,
    selected: Mutex<Vec<String>>,
}

fn text(select: &Select) -> String {
    let matchers: Vec<String> = select.matchers.iter().map(ToString::to_string).collect();
    format!("{} {} {}", select.start_ms, select.end_ms, matchers.join(","))
}

impl Queryable for Told {
    fn expect(&self, selections: &dyn Fn() -> Vec<Select>) {
        self.expected.lock().extend(selections().iter().map(text));
    }

    fn select(&self, select: &Select) -> Result<Box<dyn SeriesSet>, QueryError> {
        self.selected.lock().push(text(select));
        self.store.select(select)
    }

    fn label_names(&self, select: &Select) -> Result<ListedLabels, QueryError> {
        self.store.label_names(select)
    }

    fn label_values(&self, name: &str, select: &Select) -> Result<ListedLabels, QueryError> {
        self.store.label_values(name, select)
    }

    fn metadata(&self, tenant: &TenantId, metric: Option<&str>) -> Result<ListedMetadata, QueryError> {
        self.store.metadata(tenant, metric)
    }
}

#[test]
fn a_store_is_told_beforehand_what_will_be_selected() {
    let engine = engine(|options| options.features = ParseOptions::all());
    let check = |query: &str, count: usize| {
        let store =
            Told { store: Grid::new(2, 3, 250), expected: Mutex::default(), selected: Mutex::default() };
        let tenant = TenantId::default();
        engine
            .range(&store, &tenant, query, 300_000, 3_000_000, 30_000, &QueryOptions::default())
            .unwrap_or_else(|error| panic!("{query}: {error}"));
        let (mut expected, mut selected) = (store.expected.into_inner(), store.selected.into_inner());
        assert_eq!(selected.len(), count, "{query}: {selected:?}");
        expected.sort();
        selected.sort();
        assert_eq!(expected, selected, "{query}");
    };
    for (query, count) in [
        ("1 + 2", 0),
        ("requests_total", 1),
        ("-requests_total offset 1m", 1),
        ("timestamp(requests_total) - start_timestamp(requests_total)", 1),
        ("sum(rate(requests_total[5m])) / on () sum(requests_total @ 2000)", 2),
        ("requests_total and requests_total offset 5m unless absent(other)", 3),
        ("topk(scalar(count(requests_total)), increase(requests_total[1m]))", 2),
        ("max_over_time(rate(requests_total[1m])[10m:1m])", 1),
        ("max_over_time(rate(requests_total[1m])[10m:1m] @ start())", 1),
        ("quantile_over_time(scalar(sum(other)), requests_total[5m])", 2),
        ("rate(requests_total[5m] smoothed) + requests_total smoothed", 2),
        ("increase(requests_total[5m] anchored)", 1),
        ("histogram_quantile(0.9, sum by (le) (rate(requests_total[5m])))", 1),
        ("absent_over_time(other[5m]) or vector(time())", 1),
        ("label_replace(requests_total, 'a', '$1', 'job', '(.*)') * 2", 1),
        ("clamp_max(requests_total, scalar(sum(requests_total)))", 2),
    ] {
        check(query, count);
    }
}
