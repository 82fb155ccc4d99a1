//! Values as promtool prints them: PromQL's notation, or JSON as Go writes it.
//!
//! Source: `prometheus/common`, `model/{metric,labelset,value,value_float,value_histogram}.go`; Go's
//! `encoding/json`.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt::Write as _;

use model::labels::{METRIC_NAME, write_quoted};

use super::Format;
use super::answer::{Bucket, Histogram, HistogramPoint, LabelSet, Point, Sample, Stream, Value};

/// What can be printed in either form, with a line end.
pub trait Printed {
    /// In PromQL's notation.
    fn promql(&self) -> String;
    /// As JSON, without the line end.
    fn json(&self) -> String;

    /// In this form.
    fn printed(&self, format: Format) -> String {
        match format {
            Format::Promql => self.promql(),
            Format::Json => self.json() + "\n",
        }
    }
}

impl Printed for Value {
    fn promql(&self) -> String {
        match self {
            Value::Scalar(point) => format!("scalar: {}\n", shown_point(point)),
            Value::String(text) => format!("{}\n", text.value),
            Value::Vector(samples) => samples.iter().map(shown_sample).collect::<Vec<_>>().join("\n") + "\n",
            Value::Matrix(streams) => {
                let mut streams: Vec<&Stream> = streams.iter().collect();
                streams.sort_by(|a, b| before(&a.metric, &b.metric));
                streams.into_iter().map(shown_stream).collect::<Vec<_>>().join("\n") + "\n"
            }
        }
    }

    fn json(&self) -> String {
        let mut out = String::new();
        match self {
            Value::Scalar(point) => put_point(&mut out, point),
            Value::String(text) => {
                let _ = write!(out, "[{},", seconds(text.time_ms));
                put_text(&mut out, &text.value);
                out.push(']');
            }
            Value::Vector(samples) => put_list(&mut out, samples, put_sample),
            Value::Matrix(streams) => put_list(&mut out, streams, put_stream),
        }
        out
    }
}

impl Printed for Vec<LabelSet> {
    fn promql(&self) -> String {
        self.iter().map(|labels| format!("{{{}}}\n", pairs(labels, |_| true))).collect()
    }

    fn json(&self) -> String {
        let mut out = String::new();
        put_list(&mut out, self, put_labels);
        out
    }
}

impl Printed for Vec<String> {
    fn promql(&self) -> String {
        self.iter().map(|text| format!("{text}\n")).collect()
    }

    fn json(&self) -> String {
        let mut out = String::new();
        put_list(&mut out, self, |out, text| put_text(out, text));
        out
    }
}

/// `a="1", b="2"`, sorted as such texts.
fn pairs(labels: &LabelSet, wanted: impl Fn(&str) -> bool) -> String {
    let pair = |(name, value): (&String, &String)| {
        let mut text = format!("{name}=");
        // Writing to a string does not fail.
        let _ = write_quoted(&mut text, value);
        text
    };
    let mut texts: Vec<String> = labels.iter().filter(|(name, _)| wanted(name)).map(pair).collect();
    texts.sort();
    texts.join(", ")
}

/// `name{a="1"}`, `name`, or `{}`.
fn metric(labels: &LabelSet) -> String {
    let name = labels.get(METRIC_NAME).map(String::as_str);
    match (name, labels.len() - usize::from(name.is_some())) {
        (Some(name), 0) => name.to_owned(),
        (name, _) => format!("{}{{{}}}", name.unwrap_or_default(), pairs(labels, |n| n != METRIC_NAME)),
    }
}

/// The order of a matrix: fewer labels first, then by the first label that differs.
///
/// Source: `LabelSet.Before`.
fn before(a: &LabelSet, b: &LabelSet) -> Ordering {
    let by_label = || {
        let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
        let differing = names.into_iter().map(|name| match (a.get(name), b.get(name)) {
            (None, _) => Ordering::Less,
            (_, None) => Ordering::Greater,
            (Some(a), Some(b)) => a.cmp(b),
        });
        differing.into_iter().find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
    };
    a.len().cmp(&b.len()).then_with(by_label)
}

/// Seconds with a fraction, without trailing zeros.
fn seconds(ms: i64) -> String {
    let (sign, ms) = (if ms < 0 { "-" } else { "" }, ms.unsigned_abs());
    let text = format!("{sign}{}.{:03}", ms / 1000, ms % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A number with all its digits. Source: Go `strconv.FormatFloat(v, 'f', -1, 64)`.
fn number(value: f64) -> String {
    match value {
        f64::INFINITY => "+Inf".to_owned(),
        f64::NEG_INFINITY => "-Inf".to_owned(),
        value => value.to_string(),
    }
}

fn shown_point(point: &Point) -> String {
    format!("{} @[{}]", number(point.value), seconds(point.time_ms))
}

fn shown_sample(sample: &Sample) -> String {
    let value = match (&sample.value, &sample.histogram) {
        (_, Some(histogram)) => shown_histogram(histogram),
        (Some(point), None) => shown_point(point),
        (None, None) => String::new(),
    };
    format!("{} => {value}", metric(&sample.metric))
}

fn shown_stream(stream: &Stream) -> String {
    let values = stream.values.iter().map(shown_point);
    let values: Vec<String> = values.chain(stream.histograms.iter().map(shown_histogram)).collect();
    format!("{} =>\n{}", metric(&stream.metric), values.join("\n"))
}

fn shown_histogram(point: &HistogramPoint) -> String {
    let Histogram { count, sum, buckets } = &point.histogram;
    let buckets: Vec<String> = buckets.iter().map(shown_bucket).collect();
    let fixed = |value: f64| if value.is_finite() { format!("{value:.6}") } else { number(value) };
    format!(
        "Count: {}, Sum: {}, Buckets: [{}] @[{}]",
        fixed(*count),
        fixed(*sum),
        buckets.join(" "),
        seconds(point.time_ms)
    )
}

fn shown_bucket(Bucket(boundaries, lower, upper, count): &Bucket) -> String {
    let open = if matches!(boundaries, 1 | 3) { '[' } else { '(' };
    let close = if matches!(boundaries, 0 | 3) { ']' } else { ')' };
    format!("{open}{},{}{close}:{}", short(*lower), short(*upper), number(*count))
}

/// A number as Go's `%g` writes it: with an exponent below 1e-4 and from 1e6 on.
fn short(value: f64) -> String {
    let size = value.abs();
    if size == 0.0 || !value.is_finite() || (1e-4..1e6).contains(&size) {
        return number(value);
    }
    let text = format!("{value:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |rest| ('-', rest));
    format!("{digits}e{sign}{exponent:0>2}")
}

fn put_list<T>(out: &mut String, items: &[T], put: impl Fn(&mut String, &T)) {
    out.push('[');
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        put(out, item);
    }
    out.push(']');
}

/// A string as Go's encoder writes it, safe inside HTML.
fn put_text(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

fn put_labels(out: &mut String, labels: &LabelSet) {
    out.push('{');
    for (at, (name, value)) in labels.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        put_text(out, name);
        out.push(':');
        put_text(out, value);
    }
    out.push('}');
}

fn put_point(out: &mut String, point: &Point) {
    let _ = write!(out, "[{},\"{}\"]", seconds(point.time_ms), number(point.value));
}

fn put_histogram(out: &mut String, point: &HistogramPoint) {
    let Histogram { count, sum, buckets } = &point.histogram;
    let _ = write!(
        out,
        "[{},{{\"count\":\"{}\",\"sum\":\"{}\",\"buckets\":",
        seconds(point.time_ms),
        number(*count),
        number(*sum)
    );
    put_list(out, buckets, |out, Bucket(boundaries, lower, upper, count)| {
        let (lower, upper, count) = (number(*lower), number(*upper), number(*count));
        let _ = write!(out, "[{boundaries},\"{lower}\",\"{upper}\",\"{count}\"]");
    });
    out.push_str("}]");
}

fn put_sample(out: &mut String, sample: &Sample) {
    out.push_str("{\"metric\":");
    put_labels(out, &sample.metric);
    if let Some(histogram) = &sample.histogram {
        out.push_str(",\"histogram\":");
        put_histogram(out, histogram);
    } else if let Some(point) = &sample.value {
        out.push_str(",\"value\":");
        put_point(out, point);
    }
    out.push('}');
}

fn put_stream(out: &mut String, stream: &Stream) {
    out.push_str("{\"metric\":");
    put_labels(out, &stream.metric);
    if !stream.values.is_empty() || stream.histograms.is_empty() {
        out.push_str(",\"values\":");
        put_list(out, &stream.values, put_point);
    }
    if !stream.histograms.is_empty() {
        out.push_str(",\"histograms\":");
        put_list(out, &stream.histograms, put_histogram);
    }
    out.push('}');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(json: &str) -> Value {
        serde_json::from_str(json).expect("a value")
    }

    #[test]
    fn values_are_printed_as_promtool_prints_them() {
        let check = |json: &str, promql: &str, printed: &str| {
            assert_eq!(value(json).printed(Format::Promql), promql, "{json}");
            assert_eq!(value(json).printed(Format::Json), printed, "{json}");
        };
        check(
            r#"{"resultType":"scalar","result":[1700000000.25,"1e+25"]}"#,
            "scalar: 10000000000000000000000000 @[1700000000.25]\n",
            "[1700000000.25,\"10000000000000000000000000\"]\n",
        );
        check(r#"{"resultType":"string","result":[1,"<a>"]}"#, "<a>\n", "[1,\"\\u003ca\\u003e\"]\n");
        check(r#"{"resultType":"vector","result":[]}"#, "\n", "[]\n");
        check(
            r#"{"resultType":"vector","result":[{"metric":{"__name__":"up","b":"x\ty","a":"1"},"value":[0.001,"NaN"]},{"metric":{},"value":[-1.5,"-Inf"]}]}"#,
            "up{a=\"1\", b=\"x\\ty\"} => NaN @[0.001]\n{} => -Inf @[-1.5]\n",
            "[{\"metric\":{\"__name__\":\"up\",\"a\":\"1\",\"b\":\"x\\ty\"},\"value\":[0.001,\"NaN\"]},\
             {\"metric\":{},\"value\":[-1.5,\"-Inf\"]}]\n",
        );
        check(
            r#"{"resultType":"matrix","result":[{"metric":{"b":"1","c":"1"},"values":[[1,"1"],[2,"0.1"]]},{"metric":{"a":"9"},"values":[[1,"2"]]}]}"#,
            "{a=\"9\"} =>\n2 @[1]\n{b=\"1\", c=\"1\"} =>\n1 @[1]\n0.1 @[2]\n",
            "[{\"metric\":{\"b\":\"1\",\"c\":\"1\"},\"values\":[[1,\"1\"],[2,\"0.1\"]]},\
             {\"metric\":{\"a\":\"9\"},\"values\":[[1,\"2\"]]}]\n",
        );
        check(
            r#"{"resultType":"vector","result":[{"metric":{"__name__":"h"},"histogram":[7,{"count":"3","sum":"4.5","buckets":[[3,"-0.001","0.001","1"],[0,"1","1e-7","2"],[2,"1500000","2e6","1"]]}]}]}"#,
            "h => Count: 3.000000, Sum: 4.500000, Buckets: [[-0.001,0.001]:1 (1,1e-07]:2 (1.5e+06,2e+06):1] @[7]\n",
            "[{\"metric\":{\"__name__\":\"h\"},\"histogram\":[7,{\"count\":\"3\",\"sum\":\"4.5\",\"buckets\":\
             [[3,\"-0.001\",\"0.001\",\"1\"],[0,\"1\",\"0.0000001\",\"2\"],\
             [2,\"1500000\",\"2000000\",\"1\"]]}]}]\n",
        );
    }

    #[test]
    fn a_matrix_has_the_order_of_label_sets() {
        let set = |pairs: &[(&str, &str)]| -> LabelSet {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let sorted = [
            set(&[]),
            set(&[("b", "2")]),
            set(&[("a", "1")]),
            set(&[("a", "2")]),
            set(&[("a", "1"), ("b", "1")]),
        ];
        for (at, a) in sorted.iter().enumerate() {
            for (other, b) in sorted.iter().enumerate() {
                assert_eq!(before(a, b), at.cmp(&other), "{a:?} {b:?}");
            }
        }
    }
}
