//! The data: the recording spread over targets, and when each row is.

use std::ops::Range;

use anyhow::{Context, Result};
use bytes::Bytes;
use model::Labels;
use testkit::push::Push;
use testkit::recorded::Recorded;

/// Rows between the starts of two neighbouring targets.
pub(crate) const ROW_STRIDE: usize = 131;
/// Samples in a body.
pub(crate) const BODY_SAMPLES: usize = 2000;

/// The series of many targets: each shows the recording from another row on, and starts over at its
/// end, which looks like a restart of everything.
pub(crate) struct Series {
    pub(crate) recorded: Recorded,
    pub(crate) labels: Vec<Labels>,
    /// Series of a target.
    width: usize,
}

/// When rows are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeline {
    /// The first row of a target without a phase, milliseconds.
    pub(crate) start_ms: i64,
    pub(crate) interval_ms: i64,
    /// Targets are spread over the interval, as scrapes are; otherwise all share their times.
    pub(crate) phases: bool,
    /// Every row of a target comes up to this much later, milliseconds.
    pub(crate) jitter_ms: i64,
}

impl Timeline {
    /// The time of a row of a target, milliseconds.
    pub(crate) fn at(&self, target: usize, row: usize) -> i64 {
        // Odd, so that no sample is at a whole second, where queries have their steps.
        let phase = if self.phases { (target as i64 * 7919 % (self.interval_ms / 10)) * 10 + 5 } else { 0 };
        let jitter = (target * 7919 + row * 104_729) as i64 % (self.jitter_ms + 1);
        self.start_ms + row as i64 * self.interval_ms + phase + jitter
    }
}

impl Series {
    /// `count` series: the recording's, with `job`, once for each of as many targets as it takes.
    pub(crate) fn new(count: usize, job: &str) -> Result<Series> {
        let recorded = testkit::recorded::load()?.context("the recording is not there")?;
        Ok(Series::of(recorded, job, |_| count))
    }

    /// As many targets as asked for of a recording.
    pub(crate) fn of_targets(recorded: Recorded, targets: usize, job: &str) -> Series {
        Series::of(recorded, job, |width| targets * width)
    }

    fn of(recorded: Recorded, job: &str, count: impl Fn(usize) -> usize) -> Series {
        let series: Vec<(&str, &str)> = recorded
            .exposition
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| Some(line.rsplit_once(" @")?.0))
            .map(|series| {
                series.split_once('{').map_or((series, ""), |(name, rest)| (name, rest.trim_end_matches('}')))
            })
            .collect();
        let width = series.len();
        let labels = (0..count(width))
            .map(|at| {
                let target = at / series.len();
                let (name, pairs) = series[at % series.len()];
                let mut all = vec![
                    ("__name__".to_owned(), name.to_owned()),
                    ("cluster".to_owned(), format!("c{}", target % 4)),
                    ("instance".to_owned(), format!("10.0.{}.{}:9100", target / 250, target % 250)),
                    ("job".to_owned(), job.to_owned()),
                ];
                all.extend(split_pairs(pairs));
                Labels::from_pairs(all)
            })
            .collect();
        Series { recorded, labels, width }
    }

    /// Gives every series labels of its target until it has `count`.
    pub(crate) fn padded(mut self, count: usize) -> Series {
        for (at, labels) in self.labels.iter_mut().enumerate() {
            let target = at / self.width;
            let of_target = [
                ("availability_zone", format!("eu-north-1{}", ["a", "b", "c"][target % 3])),
                ("environment", "production".to_owned()),
                ("namespace", format!("team-{}-services", target % 25)),
                ("node", format!("ip-10-0-{}-{}.internal", target / 250, target % 250)),
                ("pod", format!("node-exporter-{:05x}", target * 7919 % 1_048_576)),
                ("region", "eu-north-1".to_owned()),
                ("team", format!("team-{}", target % 25)),
                ("version", format!("1.{}.{}", target % 3, target % 7)),
            ];
            let missing = count.saturating_sub(labels.len());
            let own = labels.iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
            let padding = of_target.into_iter().take(missing);
            let all = own.chain(padding.map(|(name, value)| (name.to_owned(), value)));
            *labels = Labels::from_pairs(all.collect::<Vec<(String, String)>>());
        }
        self
    }

    /// The series of targets whose addresses no other cluster has, without the label `cluster`.
    pub(crate) fn of_cluster(self, number: usize) -> Series {
        let mut series = self.with_label("cluster", None);
        for (at, labels) in series.labels.iter_mut().enumerate() {
            let instance = format!("10.{}.{}.1:9100", number + 1, at / series.width);
            *labels = with_label(labels, "instance", Some(&instance));
        }
        series
    }

    /// The same series with another value of `name`, or without it.
    pub(crate) fn with_label(&self, name: &str, value: Option<&str>) -> Series {
        let labels = self.labels.iter().map(|labels| with_label(labels, name, value)).collect();
        Series { recorded: self.recorded.clone(), labels, width: self.width }
    }

    pub(crate) fn len(&self) -> usize {
        self.labels.len()
    }

    pub(crate) fn value(&self, series: usize, row: usize) -> f64 {
        let rows = &self.recorded.rows;
        rows[(row + series / self.width * ROW_STRIDE) % rows.len()][series % self.width]
    }

    /// A remote-write body with `rows` of `series`.
    pub(crate) fn body(
        &self,
        series: Range<usize>,
        rows: Range<usize>,
        timeline: &Timeline,
    ) -> Result<Bytes> {
        let mut request = Push::default();
        let mut samples = Vec::with_capacity(rows.len());
        for at in series {
            samples.clear();
            samples.extend(rows.clone().map(|row| (timeline.at(at / self.width, row), self.value(at, row))));
            request.floats(&self.labels[at], &samples);
        }
        request.body()
    }
}

fn with_label(labels: &Labels, name: &str, value: Option<&str>) -> Labels {
    let others = labels.iter().filter(|(own, _)| *own != name);
    Labels::from_pairs(others.chain(value.map(|value| (name, value))))
}

/// `a="1",b="2"`; the recording has no escapes that matter here.
fn split_pairs(text: &str) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once("=\"") {
        let Some((value, after)) = after.split_once('"') else { break };
        pairs.push((name.trim_start_matches(',').to_owned(), value.to_owned()));
        rest = after;
    }
    pairs
}
