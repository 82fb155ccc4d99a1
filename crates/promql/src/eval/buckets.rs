//! `histogram_quantile` and its kin: classic buckets are brought together from their series, native
//! histograms come as they are.
//!
//! Source: Prometheus `promql/functions.go` (`resetHistograms`, `funcHistogramQuantile`).

use model::labels::BUCKET_LABEL;
use model::number::{format_general, parse_float};
use model::{Labels, LabelsBuilder};

use super::plan::Node;
use super::rows::LabelMap;
use super::{Evaluator, Row, Steps, absent, is_absent};
use crate::annotations::{Forced, Note};
use crate::answer::EvalError;
use crate::ast::Span;
use crate::functions::classic::{self, ClassicBucket};
use crate::functions::over_time::any_present;
use crate::histogram::{FloatHistogram, NanNote};

/// The series of one histogram.
#[derive(Debug)]
struct Histogram {
    /// Without `le`, with the name.
    labels: Labels,
    drop_name: bool,
    /// Bound and row of the classic buckets, ascending.
    buckets: Vec<(f64, usize)>,
    /// The row with native histograms.
    native: Option<usize>,
}

/// What is computed from a histogram at a step.
trait Reading {
    fn classic(&self, step: usize, buckets: &mut Vec<ClassicBucket>, name: &str) -> f64;
    fn native(&self, step: usize, histogram: &FloatHistogram, name: &str) -> f64;
}

struct Quantile<'a, 'q> {
    evaluator: &'a Evaluator<'q>,
    quantiles: &'a [f64],
    steps: Steps,
    span: Span,
}

impl Reading for Quantile<'_, '_> {
    fn classic(&self, step: usize, buckets: &mut Vec<ClassicBucket>, name: &str) -> f64 {
        let (value, forced) = classic::quantile(self.quantiles[step], buckets);
        if let Some(at) = forced {
            let t = self.steps.at(step);
            let forced = Forced {
                min_bucket: at.min_bucket,
                max_bucket: at.max_bucket,
                max_diff: at.max_diff,
                min_t_ms: t,
                max_t_ms: t,
                count: 1,
            };
            self.evaluator.note(self.span, &Note::ForcedMonotonicity(name, forced));
        }
        value
    }

    fn native(&self, step: usize, histogram: &FloatHistogram, name: &str) -> f64 {
        let (value, nan) = histogram.quantile(self.quantiles[step]);
        match nan {
            Some(NanNote::Result) => self.evaluator.note(self.span, &Note::QuantileNan(name)),
            Some(NanNote::Skew) => self.evaluator.note(self.span, &Note::QuantileNanSkew(name)),
            None => {}
        }
        value
    }
}

struct Fraction<'a, 'q> {
    evaluator: &'a Evaluator<'q>,
    lower: &'a [f64],
    upper: &'a [f64],
    span: Span,
}

impl Reading for Fraction<'_, '_> {
    fn classic(&self, step: usize, buckets: &mut Vec<ClassicBucket>, _name: &str) -> f64 {
        classic::fraction(self.lower[step], self.upper[step], buckets)
    }

    fn native(&self, step: usize, histogram: &FloatHistogram, name: &str) -> f64 {
        let (value, has_nan) = histogram.fraction(self.lower[step], self.upper[step]);
        if has_nan {
            self.evaluator.note(self.span, &Note::FractionNan(name));
        }
        value
    }
}

impl Evaluator<'_> {
    pub(crate) fn histogram_quantile(&self, args: &[Node], steps: Steps) -> Result<Vec<Row>, EvalError> {
        let [quantile, input] = args else { return Err(missing()) };
        let quantiles = self.scalar(quantile, steps)?;
        self.warn_of_quantiles(&quantiles, quantile.span);
        let rows = self.vector(input, steps)?;
        let histograms = self.histograms(&rows, input.span);
        let reading = Quantile { evaluator: self, quantiles: &quantiles, steps, span: input.span };
        let out = self.read(&rows, &histograms, &reading, steps, input.span)?;
        self.settle(out, steps)
    }

    pub(crate) fn histogram_fraction(&self, args: &[Node], steps: Steps) -> Result<Vec<Row>, EvalError> {
        let [lower, upper, input] = args else { return Err(missing()) };
        let (lower, upper) = (self.scalar(lower, steps)?, self.scalar(upper, steps)?);
        let rows = self.vector(input, steps)?;
        let histograms = self.histograms(&rows, input.span);
        let reading = Fraction { evaluator: self, lower: &lower, upper: &upper, span: input.span };
        let out = self.read(&rows, &histograms, &reading, steps, input.span)?;
        self.settle(out, steps)
    }

    pub(crate) fn histogram_quantiles(&self, args: &[Node], steps: Steps) -> Result<Vec<Row>, EvalError> {
        let [input, label, quantiles @ ..] = args else { return Err(missing()) };
        let label = super::call::text_of(Some(label));
        let rows = self.vector(input, steps)?;
        let histograms = self.histograms(&rows, input.span);
        let mut out = Vec::new();
        for quantile in quantiles {
            let quantiles = self.scalar(quantile, steps)?;
            self.warn_of_quantiles(&quantiles, quantile.span);
            let reading = Quantile { evaluator: self, quantiles: &quantiles, steps, span: input.span };
            let found = self.read(&rows, &histograms, &reading, steps, input.span)?;
            let mut distinct: Vec<u64> = quantiles.iter().map(|q| q.to_bits()).collect();
            distinct.sort_unstable();
            distinct.dedup();
            for bits in distinct {
                let text = with_point(f64::from_bits(bits));
                for row in &found {
                    let mut row = row.clone();
                    for (v, q) in row.floats.iter_mut().zip(&quantiles) {
                        if q.to_bits() != bits {
                            *v = absent();
                        }
                    }
                    row.labels = LabelsBuilder::from_labels(&row.labels).set(label, &text).build();
                    if any_present(&row.floats) {
                        out.push(row);
                    }
                }
            }
        }
        self.settle(out, steps)
    }

    fn warn_of_quantiles(&self, quantiles: &[f64], span: Span) {
        let mut last = None;
        for q in quantiles.iter().filter(|q| q.is_nan() || !(0.0..=1.0).contains(*q)) {
            if last != Some(q.to_bits()) {
                self.note(span, &Note::InvalidQuantile(*q));
                last = Some(q.to_bits());
            }
        }
    }

    /// The name for annotations, which stays away where names are dropped at once.
    fn name_of<'l>(&self, labels: &'l Labels) -> &'l str {
        if self.delayed_names { labels.metric_name() } else { "" }
    }

    /// Brings the series of each histogram together.
    fn histograms(&self, rows: &[Row], span: Span) -> Vec<Histogram> {
        let mut place: LabelMap<Labels, usize> = LabelMap::default();
        let mut out: Vec<Histogram> = Vec::new();
        for (at, row) in rows.iter().enumerate() {
            let mut of = |labels: Labels, out: &mut Vec<Histogram>| -> usize {
                let next = out.len();
                let number = *place.entry(labels.clone()).or_insert(next);
                if number == next {
                    out.push(Histogram {
                        labels,
                        drop_name: row.drop_name,
                        buckets: Vec::new(),
                        native: None,
                    });
                }
                number
            };
            if any_present(&row.floats) {
                let le = row.labels.get(BUCKET_LABEL).unwrap_or_default();
                match parse_float(le) {
                    Ok(bound) => {
                        let number = of(row.labels.without(|name| name == BUCKET_LABEL), &mut out);
                        out[number].buckets.push((bound, at));
                    }
                    Err(_) => self.note(span, &Note::BadBucketLabel(le, self.name_of(&row.labels))),
                }
            }
            if row.histograms.is_some() {
                let number = of(row.labels.clone(), &mut out);
                out[number].native = Some(at);
            }
        }
        for histogram in &mut out {
            histogram.buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        }
        out
    }

    fn read(
        &self,
        rows: &[Row],
        histograms: &[Histogram],
        reading: &dyn Reading,
        steps: Steps,
        span: Span,
    ) -> Result<Vec<Row>, EvalError> {
        let mut out = Vec::with_capacity(histograms.len());
        let mut scratch: Vec<ClassicBucket> = Vec::new();
        for histogram in histograms {
            self.budget.check()?;
            let name = self.name_of(&histogram.labels);
            let mut row = Row::empty(histogram.labels.clone(), steps.count);
            row.drop_name = histogram.drop_name;
            for step in 0..steps.count {
                if step % 64 == 63 {
                    self.budget.check()?;
                }
                scratch.clear();
                scratch.extend(histogram.buckets.iter().filter_map(|(upper, at)| {
                    let count = rows[*at].floats[step];
                    (!is_absent(count)).then_some(ClassicBucket { upper: *upper, count })
                }));
                let native = histogram.native.and_then(|at| rows[at].histogram(step));
                match native {
                    Some(_) if !scratch.is_empty() => self.note(span, &Note::MixedClassicNative(name)),
                    Some(native) => row.floats[step] = reading.native(step, native, name),
                    None if !scratch.is_empty() => {
                        row.floats[step] = reading.classic(step, &mut scratch, name);
                    }
                    None => {}
                }
            }
            if any_present(&row.floats) {
                self.drop_name(&mut row);
                out.push(row);
            }
        }
        Ok(out)
    }
}

fn missing() -> EvalError {
    EvalError::Internal("an argument is missing".into())
}

/// A number that never looks like an integer, as label values of quantiles and buckets.
///
/// Source: Prometheus `model/labels/float.go`.
fn with_point(value: f64) -> String {
    let text = format_general(value);
    if value.is_finite() && !text.contains(['.', 'e']) { format!("{text}.0") } else { text }
}
