//! What a query owes its caller beside the right values: limits, cancellation, and the same answer on
//! any number of threads.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use model::{Labels, TenantId};
use storage::{Column, ListedLabels, QueryError, Queryable, Select, SeriesSet};

use super::{CancelFlag, Engine, EngineOptions, QueryOptions};
use crate::answer::{Answer, EvalError, Value};

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

    fn metadata(
        &self,
        _: &TenantId,
        _: Option<&str>,
    ) -> Result<Vec<(String, Vec<model::Metadata>)>, QueryError> {
        Ok(Vec::new())
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
