//! How fast queries are evaluated over columns in memory: `cargo run --release -p promql --example
//! evaluator_figures`.
//!
//! 50 targets with 100 series each, an hour of samples every 15 s, 250 steps of a range query; the
//! store hands out columns at the price of a copy.

#![allow(clippy::print_stdout)] // figures are what it is for

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use model::{Labels, TenantId};
use promql::engine::{Engine, EngineOptions, QueryOptions};
use storage::{Column, ListedLabels, ListedMetadata, QueryError, Queryable, Select, SeriesSet};

const TARGETS: usize = 50;
const METRICS: usize = 10;
const SERIES: usize = 10;
const SAMPLES: usize = 480;

#[derive(Debug)]
struct Store {
    series: Arc<Vec<(Labels, usize, Vec<f64>)>>,
    times: Arc<Vec<Arc<[i64]>>>,
}

#[derive(Debug)]
struct Selected {
    store: Arc<Vec<(Labels, usize, Vec<f64>)>>,
    times: Vec<Arc<[i64]>>,
    chosen: Vec<usize>,
    cut: Range<usize>,
}

impl SeriesSet for Selected {
    fn len(&self) -> usize {
        self.chosen.len()
    }

    fn labels(&self, at: usize) -> &Labels {
        &self.store[self.chosen[at]].0
    }

    fn load(&self, range: Range<usize>, out: &mut Vec<Column>) -> Result<(), QueryError> {
        out.extend(range.map(|at| {
            let (_, target, values) = &self.store[self.chosen[at]];
            let values = values[self.cut.clone()].to_vec();
            Column { times: self.times[*target].clone(), values, ..Column::default() }
        }));
        Ok(())
    }
}

impl Queryable for Store {
    fn select(&self, select: &Select) -> Result<Box<dyn SeriesSet>, QueryError> {
        let from = self.times[0].partition_point(|t| *t < select.start_ms);
        let to = self.times[0].partition_point(|t| *t <= select.end_ms);
        let matches = |labels: &Labels| {
            select.matchers.iter().all(|m| m.matches(labels.get(&m.name).unwrap_or_default()))
        };
        let chosen = (0..self.series.len()).filter(|at| matches(&self.series[*at].0)).collect();
        let times = self.times.iter().map(|t| t[from..to].into()).collect();
        Ok(Box::new(Selected { store: self.series.clone(), times, chosen, cut: from..to }))
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

fn store() -> Store {
    let times =
        (0..TARGETS).map(|target| (0..SAMPLES as i64).map(|i| i * 15_000 + target as i64 % 5).collect());
    let times: Vec<Arc<[i64]>> = times.collect();
    let mut series = Vec::new();
    for target in 0..TARGETS {
        for metric in 0..METRICS {
            for at in 0..SERIES {
                let labels = Labels::from_pairs([
                    ("__name__", format!("metric_{metric}_total")),
                    ("instance", format!("10.0.0.{target}:9100")),
                    ("job", "node".to_owned()),
                    ("cpu", at.to_string()),
                ]);
                let mut value = 0.0;
                let values = (0..SAMPLES)
                    .map(|i| {
                        value += ((i * 7919 + at * 31 + target) % 101) as f64;
                        value
                    })
                    .collect();
                series.push((labels, target, values));
            }
        }
    }
    series.sort_by(|a, b| a.0.cmp(&b.0));
    Store { series: Arc::new(series), times: Arc::new(times) }
}

fn main() {
    let store = store();
    let tenant = TenantId::default();
    for threads in [1, 2] {
        let engine = Engine::new(EngineOptions { threads, ..EngineOptions::default() });
        println!("{threads} threads");
        for query in [
            r#"{__name__=~"metric_.*"}"#,
            "sum by (instance) (rate(metric_0_total[5m]))",
            r#"sum by (__name__, instance) (last_over_time({__name__=~"metric_.*",job="node"}[5m]))"#,
            "max_over_time(metric_0_total[10m])",
            "avg_over_time(metric_0_total[5m])",
            r#"count({__name__=~"metric_.*"})"#,
            "metric_0_total / on (instance, cpu) metric_1_total",
            "topk(5, rate(metric_0_total[5m]))",
            "histogram_quantile(0.9, metric_0_total)",
        ] {
            let started = Instant::now();
            let rounds = 5;
            let mut answer = None;
            for _ in 0..rounds {
                let options = QueryOptions::default();
                answer = Some(engine.range(&store, &tenant, query, 3_600_000, 7_185_000, 15_000, &options));
            }
            let elapsed = started.elapsed() / rounds;
            match answer {
                Some(Ok(answer)) => {
                    let read = answer.stats.samples_read.max(1);
                    let per_sample = elapsed.as_nanos() as f64 / read as f64;
                    println!("{elapsed:>12.2?} {per_sample:>7.1} ns a sample read  {query}");
                }
                Some(Err(error)) => println!("{query}: {error}"),
                None => {}
            }
        }
    }
}
