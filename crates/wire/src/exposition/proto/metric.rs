//! One family, one metric: what their fields say.

use std::ops::Range;

use model::histogram::{Buckets, CounterResetHint, Span};
use model::{Histogram, Labels, MetricType};

use super::super::line::Problem;
use super::super::row::ScrapedExemplar;
use super::reader::{Fields, Value};

/// The tag of a label record in a metric.
const LABEL_TAG: u8 = 1 << 3 | 2;
/// Most buckets, quantiles, spans or exemplars a metric may have, of each kind.
const PARTS_MAX: usize = 1 << 16;
/// The highest schema that is stored; up to the one after it, histograms are brought down to it.
///
/// Source: Prometheus `histogram.ExponentialSchemaMax`, `ExponentialSchemaMaxReserved`.
const SCHEMA_MAX: i32 = 8;
const SCHEMA_RESERVED_MAX: i32 = 52;

/// The type of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in super::super) enum FamilyType {
    #[default]
    Counter,
    Gauge,
    Summary,
    Untyped,
    Histogram,
    GaugeHistogram,
}

impl FamilyType {
    pub(in super::super) fn is_histogram(self) -> bool {
        matches!(self, FamilyType::Histogram | FamilyType::GaugeHistogram)
    }

    pub(in super::super) fn metric_type(self) -> MetricType {
        match self {
            FamilyType::Counter => MetricType::Counter,
            FamilyType::Gauge => MetricType::Gauge,
            FamilyType::Summary => MetricType::Summary,
            FamilyType::Untyped => MetricType::Unknown,
            FamilyType::Histogram => MetricType::Histogram,
            FamilyType::GaugeHistogram => MetricType::GaugeHistogram,
        }
    }
}

/// A family without its metrics: where its texts stand.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Family {
    pub(in super::super) name: Range<usize>,
    pub(in super::super) help: Range<usize>,
    pub(in super::super) unit: Range<usize>,
    pub(in super::super) family_type: FamilyType,
}

impl Family {
    /// Reads the family at `range`. `about` gets the pieces that are not metrics, `metrics` where each
    /// metric stands (both emptied first).
    pub(in super::super) fn read(
        body: &[u8],
        range: Range<usize>,
        about: &mut Vec<Range<usize>>,
        metrics: &mut Vec<Range<usize>>,
    ) -> Result<Family, Problem> {
        about.clear();
        metrics.clear();
        let mut family = Family::default();
        let mut fields = Fields::of(body, range, "MetricFamily");
        loop {
            let start = fields.pos();
            let Some((field, value)) = fields.next()? else { return Ok(family) };
            match field {
                1 => family.name = value.bytes(&fields)?,
                2 => family.help = value.bytes(&fields)?,
                3 => family.family_type = family_type(value.uint64(&fields)?, &fields)?,
                4 => {
                    metrics.push(value.bytes(&fields)?);
                    continue;
                }
                5 => family.unit = value.bytes(&fields)?,
                _ => {}
            }
            match about.last_mut() {
                Some(last) if last.end == start => last.end = fields.pos(),
                _ => about.push(start..fields.pos()),
            }
        }
    }
}

fn family_type(number: u64, fields: &Fields<'_>) -> Result<FamilyType, Problem> {
    Ok(match number {
        0 => FamilyType::Counter,
        1 => FamilyType::Gauge,
        2 => FamilyType::Summary,
        3 => FamilyType::Untyped,
        4 => FamilyType::Histogram,
        5 => FamilyType::GaugeHistogram,
        _ => {
            let what = format!("has an unknown type, {number}");
            return Err(fields.problem_at(fields.pos(), &what));
        }
    })
}

/// A bucket or a quantile.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Point {
    /// The upper bound or the quantile.
    pub(in super::super) bound: f64,
    /// The cumulative count or the value.
    pub(in super::super) value: f64,
    pub(in super::super) exemplar: Option<Range<usize>>,
}

/// One side of a native histogram.
#[derive(Debug, Default)]
struct Side {
    spans: Vec<Span>,
    deltas: Vec<i64>,
    counts: Vec<f64>,
}

/// A metric. Used again and again.
#[derive(Debug, Default)]
pub(in super::super) struct Metric {
    /// 0: none.
    pub(in super::super) timestamp_ms: i64,
    pub(in super::super) start_ms: i64,
    /// Counters, gauges, untyped.
    pub(in super::super) value: f64,
    /// Summaries and histograms.
    pub(in super::super) sum: f64,
    pub(in super::super) points: Vec<Point>,
    /// That of a counter, or those of a native histogram.
    pub(in super::super) exemplars: Vec<Range<usize>>,
    /// Label records that do not stand at the beginning.
    pub(in super::super) late_labels: Vec<Range<usize>>,
    count: u64,
    count_float: f64,
    schema: i32,
    zero_threshold: f64,
    zero_count: u64,
    zero_count_float: f64,
    positive: Side,
    negative: Side,
}

impl Metric {
    /// Where the label records at the beginning of the metric at `range` end.
    pub(in super::super) fn labels_end(body: &[u8], range: Range<usize>) -> Result<usize, Problem> {
        let mut fields = Fields::of(body, range, "Metric");
        loop {
            let at = fields.pos();
            if fields.is_at_end() || body[at] != LABEL_TAG {
                return Ok(at);
            }
            fields.next()?;
        }
    }

    /// Whether a label record could begin at `at`.
    pub(in super::super) fn is_label(body: &[u8], at: usize) -> bool {
        body.get(at) == Some(&LABEL_TAG)
    }

    /// Reads a metric of a family of this type; `range` is what stands behind its labels.
    #[inline]
    pub(in super::super) fn read(
        &mut self,
        body: &[u8],
        range: Range<usize>,
        family_type: FamilyType,
    ) -> Result<(), Problem> {
        self.clear(family_type);
        let mut fields = Fields::of(body, range, "Metric");
        loop {
            let start = fields.pos();
            let Some((field, value)) = fields.next()? else { return Ok(()) };
            match (field, family_type) {
                (1, _) => self.late_labels.push(start..fields.pos()),
                (2, FamilyType::Gauge) | (5, FamilyType::Untyped) => {
                    self.read_value(body, value.bytes(&fields)?)?;
                }
                (3, FamilyType::Counter) => self.read_counter(body, value.bytes(&fields)?)?,
                (4, FamilyType::Summary) => self.read_summary(body, value.bytes(&fields)?)?,
                (6, _) => self.timestamp_ms = value.int64(&fields)?,
                (7, FamilyType::Histogram | FamilyType::GaugeHistogram) => {
                    self.read_histogram(body, value.bytes(&fields)?)?;
                }
                _ => {}
            }
        }
    }

    fn clear(&mut self, family_type: FamilyType) {
        (self.timestamp_ms, self.start_ms) = (0, 0);
        (self.value, self.sum) = (0.0, 0.0);
        self.exemplars.clear();
        self.late_labels.clear();
        if family_type == FamilyType::Summary || family_type.is_histogram() {
            self.points.clear();
            (self.count, self.count_float) = (0, 0.0);
            (self.schema, self.zero_threshold) = (0, 0.0);
            (self.zero_count, self.zero_count_float) = (0, 0.0);
            for side in [&mut self.positive, &mut self.negative] {
                side.spans.clear();
                side.deltas.clear();
                side.counts.clear();
            }
        }
    }

    fn read_value(&mut self, body: &[u8], range: Range<usize>) -> Result<(), Problem> {
        let mut fields = Fields::of(body, range, "Gauge");
        while let Some((field, value)) = fields.next()? {
            if field == 1 {
                self.value = value.double(&fields)?;
            }
        }
        Ok(())
    }

    fn read_counter(&mut self, body: &[u8], range: Range<usize>) -> Result<(), Problem> {
        let mut fields = Fields::of(body, range, "Counter");
        while let Some((field, value)) = fields.next()? {
            match field {
                1 => self.value = value.double(&fields)?,
                2 => {
                    self.exemplars.clear();
                    self.exemplars.push(value.bytes(&fields)?);
                }
                3 => self.start_ms = decode_timestamp(body, value.bytes(&fields)?)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn read_summary(&mut self, body: &[u8], range: Range<usize>) -> Result<(), Problem> {
        let mut fields = Fields::of(body, range, "Summary");
        while let Some((field, value)) = fields.next()? {
            match field {
                1 => self.count = value.uint64(&fields)?,
                2 => self.sum = value.double(&fields)?,
                3 => {
                    let mut point = Point::default();
                    let mut quantile = Fields::of(body, value.bytes(&fields)?, "Quantile");
                    while let Some((field, value)) = quantile.next()? {
                        match field {
                            1 => point.bound = value.double(&quantile)?,
                            2 => point.value = value.double(&quantile)?,
                            _ => {}
                        }
                    }
                    push(&mut self.points, point, &fields)?;
                }
                4 => self.start_ms = decode_timestamp(body, value.bytes(&fields)?)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn read_histogram(&mut self, body: &[u8], range: Range<usize>) -> Result<(), Problem> {
        let mut fields = Fields::of(body, range, "Histogram");
        while let Some((field, value)) = fields.next()? {
            match field {
                1 => self.count = value.uint64(&fields)?,
                2 => self.sum = value.double(&fields)?,
                3 => {
                    let point = read_bucket(body, value.bytes(&fields)?)?;
                    push(&mut self.points, point, &fields)?;
                }
                4 => self.count_float = value.double(&fields)?,
                5 => self.schema = value.sint32(&fields)?,
                6 => self.zero_threshold = value.double(&fields)?,
                7 => self.zero_count = value.uint64(&fields)?,
                8 => self.zero_count_float = value.double(&fields)?,
                9..=14 => self.read_side(field, value, body, &fields)?,
                15 => self.start_ms = decode_timestamp(body, value.bytes(&fields)?)?,
                16 => push(&mut self.exemplars, value.bytes(&fields)?, &fields)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn read_side(
        &mut self,
        field: u32,
        value: Value,
        body: &[u8],
        fields: &Fields<'_>,
    ) -> Result<(), Problem> {
        let side = if field < 12 { &mut self.negative } else { &mut self.positive };
        match field {
            9 | 12 => {
                let span = read_span(body, value.bytes(fields)?)?;
                push(&mut side.spans, span, fields)
            }
            10 | 13 => value.sint64s(fields, |delta| push(&mut side.deltas, delta, fields)),
            _ => value.doubles(fields, |count| push(&mut side.counts, count, fields)),
        }
    }

    /// Observations of a summary or a classic histogram.
    pub(in super::super) fn count(&self) -> f64 {
        if self.count_float == 0.0 { self.count as f64 } else { self.count_float }
    }

    /// Whether a histogram is a native one. One without observations and with a zero bucket of no
    /// width says so by a span of no length.
    ///
    /// Source: Prometheus `textparse.isNativeHistogram`.
    pub(in super::super) fn is_native(&self) -> bool {
        !self.positive.spans.is_empty()
            || !self.negative.spans.is_empty()
            || self.zero_threshold > 0.0
            || self.zero_count > 0
    }

    /// The native histogram, checked and compact. `at` is where the metric stands.
    pub(in super::super) fn native(&self, is_gauge: bool, at: usize) -> Result<Histogram, Problem> {
        let is_float = self.count_float > 0.0 || self.zero_count_float > 0.0;
        let buckets = if is_float {
            Buckets::Float {
                count: self.count_float,
                zero_count: self.zero_count_float,
                positive: self.positive.counts.clone(),
                negative: self.negative.counts.clone(),
            }
        } else {
            Buckets::Int {
                count: self.count,
                zero_count: self.zero_count,
                positive: self.positive.deltas.clone(),
                negative: self.negative.deltas.clone(),
            }
        };
        let mut histogram = Histogram {
            counter_reset_hint: if is_gauge { CounterResetHint::Gauge } else { CounterResetHint::Unknown },
            schema: self.schema,
            zero_threshold: self.zero_threshold,
            sum: self.sum,
            positive_spans: self.positive.spans.clone(),
            negative_spans: self.negative.spans.clone(),
            custom_values: Vec::new(),
            buckets,
        };
        let bad = |problem: String| Problem::new(at, format!("a native histogram makes no sense: {problem}"));
        histogram.compact(0).map_err(|e| bad(e.to_string()))?;
        if (SCHEMA_MAX + 1..=SCHEMA_RESERVED_MAX).contains(&self.schema) {
            histogram.reduce_resolution(SCHEMA_MAX).map_err(|e| bad(e.to_string()))?;
        }
        crate::remote_write::validate_histogram(&histogram).map_err(|e| bad(e.to_string()))?;
        Ok(histogram)
    }
}

fn push<T>(parts: &mut Vec<T>, part: T, of: &Fields<'_>) -> Result<(), Problem> {
    if parts.len() == PARTS_MAX {
        let what = format!("has more than {PARTS_MAX} parts of one kind");
        return Err(of.problem_at(of.pos(), &what));
    }
    parts.push(part);
    Ok(())
}

fn read_bucket(body: &[u8], range: Range<usize>) -> Result<Point, Problem> {
    let mut point = Point::default();
    let (mut count, mut count_float) = (0, 0.0);
    let mut fields = Fields::of(body, range, "Bucket");
    while let Some((field, value)) = fields.next()? {
        match field {
            1 => count = value.uint64(&fields)?,
            2 => point.bound = value.double(&fields)?,
            3 => point.exemplar = Some(value.bytes(&fields)?),
            4 => count_float = value.double(&fields)?,
            _ => {}
        }
    }
    point.value = if count_float == 0.0 { count as f64 } else { count_float };
    Ok(point)
}

fn read_span(body: &[u8], range: Range<usize>) -> Result<Span, Problem> {
    let mut span = Span { offset: 0, length: 0 };
    let mut fields = Fields::of(body, range, "BucketSpan");
    while let Some((field, value)) = fields.next()? {
        match field {
            1 => span.offset = value.sint32(&fields)?,
            2 => span.length = value.uint64(&fields)? as u32,
            _ => {}
        }
    }
    Ok(span)
}

/// A timestamp of protobuf as milliseconds.
fn decode_timestamp(body: &[u8], range: Range<usize>) -> Result<i64, Problem> {
    let (mut seconds, mut nanos) = (0i64, 0i32);
    let mut fields = Fields::of(body, range, "Timestamp");
    while let Some((field, value)) = fields.next()? {
        match field {
            1 => seconds = value.int64(&fields)?,
            2 => nanos = value.int32(&fields)?,
            _ => {}
        }
    }
    Ok(seconds.saturating_mul(1000).saturating_add(i64::from(nanos / 1_000_000)))
}

/// Name and value of the label record at `range`, which is UTF-8.
pub(in super::super) fn decode_label(body: &[u8], range: Range<usize>) -> Result<(&str, &str), Problem> {
    let (mut name, mut text) = ("", "");
    let mut fields = Fields::of(body, range.clone(), "LabelPair");
    while let Some((field, value)) = fields.next()? {
        if field > 2 {
            continue;
        }
        let at = value.bytes(&fields)?;
        let Ok(decoded) = std::str::from_utf8(&body[at.clone()]) else {
            return Err(fields.problem_at(at.start, "is not valid UTF-8"));
        };
        *(if field == 1 { &mut name } else { &mut text }) = decoded;
    }
    if name.is_empty() {
        return Err(fields.problem_at(range.start, "has no name"));
    }
    Ok((name, text))
}

/// Decodes the exemplar at `range`.
pub(in super::super) fn decode_exemplar(
    body: &[u8],
    range: Range<usize>,
) -> Result<ScrapedExemplar, Problem> {
    let mut pairs = Vec::new();
    let (mut number, mut timestamp_ms) = (0.0, None);
    let mut fields = Fields::of(body, range, "Exemplar");
    while let Some((field, value)) = fields.next()? {
        match field {
            1 => pairs.push(decode_label(body, value.bytes(&fields)?)?),
            2 => number = value.double(&fields)?,
            3 => timestamp_ms = Some(decode_timestamp(body, value.bytes(&fields)?)?),
            _ => {}
        }
    }
    Ok(ScrapedExemplar { labels: Labels::from_pairs(pairs), value: number, timestamp_ms })
}
