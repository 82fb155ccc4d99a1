//! Values of queries: scalars, strings, vectors, matrices, native histograms.
//!
//! Source: Prometheus `web/api/v1/json_codec.go`, `util/jsonutil/marshal.go`, `promql/value.go`.

use model::number;
use promql::answer::{MatrixSeries, SampleValue, Value, VectorSample};
use promql::histogram::FloatHistogram;

use super::{array, integer, labels, short_timestamp, text};

/// `"resultType":...,"result":...` without the braces, which the caller may still add to.
pub(crate) fn result(out: &mut Vec<u8>, value: &Value) {
    out.extend_from_slice(b"\"resultType\":");
    text(out, value.value_type().api());
    out.extend_from_slice(b",\"result\":");
    match value {
        Value::Scalar { t_ms, value } => {
            out.push(b'[');
            short_timestamp(out, *t_ms);
            out.extend_from_slice(b",\"");
            number::append_float(out, *value);
            out.extend_from_slice(b"\"]");
        }
        Value::String { t_ms, text: value } => {
            out.push(b'[');
            short_timestamp(out, *t_ms);
            out.push(b',');
            text(out, value);
            out.push(b']');
        }
        Value::Vector(samples) => array(out, samples, vector_sample),
        Value::Matrix(series) => array(out, series, matrix_series),
    }
}

fn vector_sample(out: &mut Vec<u8>, sample: &VectorSample) {
    out.extend_from_slice(b"{\"metric\":");
    labels(out, &sample.labels);
    match &sample.value {
        SampleValue::Float(value) => {
            out.extend_from_slice(b",\"value\":");
            float_point(out, sample.t_ms, *value);
        }
        SampleValue::Histogram(value) => {
            out.extend_from_slice(b",\"histogram\":");
            histogram_point(out, sample.t_ms, value);
        }
    }
    out.push(b'}');
}

fn matrix_series(out: &mut Vec<u8>, series: &MatrixSeries) {
    out.extend_from_slice(b"{\"metric\":");
    labels(out, &series.labels);
    if !series.floats.is_empty() {
        out.extend_from_slice(b",\"values\":");
        array(out, &series.floats, |out, (t_ms, value)| float_point(out, *t_ms, *value));
    }
    if !series.histograms.is_empty() {
        out.extend_from_slice(b",\"histograms\":");
        array(out, &series.histograms, |out, (t_ms, value)| histogram_point(out, *t_ms, value));
    }
    out.push(b'}');
}

fn float_point(out: &mut Vec<u8>, t_ms: i64, value: f64) {
    out.push(b'[');
    number::append_timestamp(out, t_ms);
    out.push(b',');
    quoted_float(out, value);
    out.push(b']');
}

fn histogram_point(out: &mut Vec<u8>, t_ms: i64, value: &FloatHistogram) {
    out.push(b'[');
    number::append_timestamp(out, t_ms);
    out.push(b',');
    histogram(out, value);
    out.push(b']');
}

/// A number as samples have it: in quotes, so that it may be `NaN` or `+Inf`.
pub(crate) fn quoted_float(out: &mut Vec<u8>, value: f64) {
    out.push(b'"');
    number::append_json(out, value);
    out.push(b'"');
}

/// `{"count":...,"sum":...,"buckets":[[rule,lower,upper,count],...]}`; empty buckets are left out.
fn histogram(out: &mut Vec<u8>, histogram: &FloatHistogram) {
    out.extend_from_slice(b"{\"count\":");
    quoted_float(out, histogram.count);
    out.extend_from_slice(b",\"sum\":");
    quoted_float(out, histogram.sum);
    let mut filled = histogram.buckets().filter(|bucket| bucket.count != 0.0).peekable();
    if filled.peek().is_some() {
        out.extend_from_slice(b",\"buckets\":");
        array(out, filled, |out, bucket| {
            out.push(b'[');
            integer(out, bucket.boundary_rule());
            for value in [bucket.lower, bucket.upper, bucket.count] {
                out.push(b',');
                quoted_float(out, value);
            }
            out.push(b']');
        });
    }
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use model::Labels;
    use model::histogram::CounterResetHint;

    use super::*;

    fn check(value: &Value, expected: &str) {
        let mut out = Vec::new();
        result(&mut out, value);
        assert_eq!(String::from_utf8(out).expect("JSON is UTF-8"), expected);
    }

    fn sample_histogram() -> FloatHistogram {
        FloatHistogram {
            counter_reset_hint: CounterResetHint::default(),
            schema: 0,
            zero_threshold: 0.25,
            zero_count: 2.0,
            count: 12.5,
            sum: 18.4,
            positive: vec![(0, 1.0), (1, 0.0), (3, 3.0)],
            negative: vec![(0, 1.5)],
            custom_values: Arc::from([]),
        }
    }

    #[test]
    fn scalars_and_strings() {
        check(
            &Value::Scalar { t_ms: 1_500, value: 1e21 },
            r#""resultType":"scalar","result":[1.5,"1000000000000000000000"]"#,
        );
        check(
            &Value::String { t_ms: 0, text: "a<b".into() },
            r#""resultType":"string","result":[0,"a\u003cb"]"#,
        );
    }

    #[test]
    fn vectors_and_matrices() {
        let labels = Labels::from_pairs([("__name__", "up"), ("path", "<x>")]);
        let sample = VectorSample {
            labels: labels.clone(),
            t_ms: 1_435_781_430_781,
            value: SampleValue::Float(f64::NAN),
        };
        check(
            &Value::Vector(vec![sample.clone(), sample]),
            concat!(
                r#""resultType":"vector","result":[{"metric":{"__name__":"up","path":"<x>"},"value":[1435781430.781,"NaN"]},"#,
                r#"{"metric":{"__name__":"up","path":"<x>"},"value":[1435781430.781,"NaN"]}]"#
            ),
        );
        check(&Value::Vector(vec![]), r#""resultType":"vector","result":[]"#);
        let series = MatrixSeries { labels, floats: vec![(0, 1.0), (1_010, -0.5)], histograms: vec![] };
        check(
            &Value::Matrix(vec![series, MatrixSeries::default()]),
            concat!(
                r#""resultType":"matrix","result":[{"metric":{"__name__":"up","path":"<x>"},"values":[[0,"1"],[1.010,"-0.5"]]},"#,
                r#"{"metric":{}}]"#
            ),
        );
    }

    #[test]
    fn exponential_histograms() {
        let value = SampleValue::Histogram(Arc::new(sample_histogram()));
        check(
            &Value::Vector(vec![VectorSample { labels: Labels::empty(), t_ms: 0, value }]),
            concat!(
                r#""resultType":"vector","result":[{"metric":{},"histogram":[0,{"count":"12.5","sum":"18.4","buckets":["#,
                r#"[1,"-1","-0.5","1.5"],[3,"-0.25","0.25","2"],[0,"0.5","1","1"],[0,"4","8","3"]]}]}]"#
            ),
        );
    }

    #[test]
    fn custom_buckets_and_no_buckets() {
        let custom = FloatHistogram {
            schema: model::histogram::CUSTOM_BUCKETS_SCHEMA,
            zero_threshold: 0.0,
            zero_count: 0.0,
            positive: vec![(0, 1.0), (1, 2.0), (2, 4.0)],
            negative: vec![],
            custom_values: Arc::from([0.1, 5.0]),
            ..sample_histogram()
        };
        let empty = FloatHistogram { positive: vec![], ..custom.clone() };
        let histograms = vec![(1_000, Arc::new(custom)), (2_000, Arc::new(empty))];
        check(
            &Value::Matrix(vec![MatrixSeries { labels: Labels::empty(), floats: vec![], histograms }]),
            concat!(
                r#""resultType":"matrix","result":[{"metric":{},"histograms":[[1,{"count":"12.5","sum":"18.4","buckets":["#,
                r#"[3,"-Inf","0.1","1"],[0,"0.1","5","2"],[0,"5","+Inf","4"]]}],[2,{"count":"12.5","sum":"18.4"}]]}]"#
            ),
        );
    }
}
