//! `/status/self_metrics`: `/metrics` as JSON, a family an entry, in the form protobuf has there.
//!
//! Source: Prometheus `web/api/v1/api.go`, `selfMetrics`; client_model `metrics.proto`; protobuf's JSON
//! mapping (64-bit integers and numbers that are not finite are texts).

use axum::extract::State;

use super::{ApiError, ApiResult, ErrorKind, Reply};
use crate::App;
use crate::form::Form;
use crate::json::{self, Object};
use crate::metrics;

/// `/status/self_metrics`
pub(super) async fn self_metrics(State(app): State<App>, form: Form) -> ApiResult {
    let pattern = form.get("metric_name_pattern").to_owned();
    let registry = app.state.registry.clone();
    let run = move || {
        let filter = (!pattern.is_empty()).then(|| re2::Regex::anchored(&pattern)).transpose();
        let filter =
            filter.map_err(|why| ApiError::bad_data(format_args!("invalid metric_name_pattern: {why}")))?;
        let text = metrics::classic_text(&registry).ok_or_else(|| {
            ApiError::new(ErrorKind::Internal, "error gathering self metrics: a metric could not be written")
        })?;
        let mut families = read(&text);
        families.retain(|family| filter.as_ref().is_none_or(|filter| filter.is_match(family.name)));
        families.sort_by_key(|family| family.name);
        Ok(Reply::new(|out| json::array(out, &families, |out, family| write(out, family))))
    };
    app.work.lookup(run).await
}

/// A family of our own exposition.
#[derive(Debug, Default)]
struct Family<'a> {
    name: &'a str,
    help: String,
    kind: &'a str,
    samples: Vec<Sample<'a>>,
}

#[derive(Debug)]
struct Sample<'a> {
    name: &'a str,
    labels: Vec<(&'a str, String)>,
    value: &'a str,
}

/// Reads text format 0.0.4 as this program writes it.
fn read(text: &str) -> Vec<Family<'_>> {
    let mut families: Vec<Family<'_>> = Vec::new();
    let mut help = ("", "");
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').unwrap_or((rest, ""));
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.rsplit_once(' '))
        {
            let help = if help.0 == name { unescape(help.1) } else { String::new() };
            families.push(Family { name, help, kind, samples: Vec::new() });
        } else if let (Some(family), Some(sample)) = (families.last_mut(), read_sample(line)) {
            family.samples.push(sample);
        }
    }
    families
}

fn read_sample(line: &str) -> Option<Sample<'_>> {
    let name_end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(name_end);
    let mut labels = Vec::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            let (label, value) = rest.split_once("=\"")?;
            let end = closing_quote(value)?;
            labels.push((label, unescape(&value[..end])));
            rest = value[end + 1..].trim_start_matches(',');
        }
        rest = &rest[1..];
    }
    Some(Sample { name, labels, value: rest.split_ascii_whitespace().next()? })
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    })
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => out.push('\n'),
                Some(other) => out.push(other),
                None => out.push('\\'),
            },
            c => out.push(c),
        }
    }
    out
}

fn write(out: &mut Vec<u8>, family: &Family<'_>) {
    let kind = match family.kind {
        "counter" => "COUNTER",
        "gauge" => "GAUGE",
        "histogram" => "HISTOGRAM",
        "summary" => "SUMMARY",
        _ => "UNTYPED",
    };
    let mut entry = Object::new(out);
    entry.text("name", family.name);
    entry.text("help", &family.help);
    entry.text("type", kind);
    if kind == "HISTOGRAM" {
        let metrics = histograms(family);
        entry.array("metric", &metrics, |out, (labels, samples)| write_histogram(out, labels, samples));
    } else {
        let field = kind.to_ascii_lowercase();
        entry.array("metric", &family.samples, |out, sample| {
            let mut metric = Object::new(out);
            write_labels(&mut metric, &sample.labels);
            let mut value = Object::new(metric.field(&field));
            write_number(value.field("value"), sample.value);
            value.end();
            metric.end();
        });
    }
    entry.end();
}

/// Labels but `le`.
type Identity<'a> = Vec<(&'a str, &'a str)>;

/// The samples of each histogram of a family, in the order they stand.
fn histograms<'a>(family: &'a Family<'_>) -> Vec<(Identity<'a>, Vec<&'a Sample<'a>>)> {
    let mut metrics: Vec<(Identity<'a>, Vec<&Sample<'_>>)> = Vec::new();
    for sample in &family.samples {
        let labels: Identity<'a> = sample
            .labels
            .iter()
            .filter(|(name, _)| *name != "le")
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        match metrics.last_mut() {
            Some((known, samples)) if *known == labels => samples.push(sample),
            _ => metrics.push((labels, vec![sample])),
        }
    }
    metrics
}

fn write_histogram(out: &mut Vec<u8>, labels: &[(&str, &str)], samples: &[&Sample<'_>]) {
    let value_of = |suffix: &str| samples.iter().find(|s| s.name.ends_with(suffix)).map(|s| s.value);
    let mut metric = Object::new(out);
    write_labels(&mut metric, labels);
    let mut histogram = Object::new(metric.field("histogram"));
    histogram.text("sampleCount", value_of("_count").unwrap_or("0"));
    write_number(histogram.field("sampleSum"), value_of("_sum").unwrap_or("0"));
    let buckets = samples.iter().filter(|sample| sample.name.ends_with("_bucket"));
    histogram.array("bucket", buckets, |out, sample| {
        let bound = sample.labels.iter().find(|(name, _)| *name == "le").map_or("", |(_, bound)| bound);
        let mut bucket = Object::new(out);
        bucket.text("cumulativeCount", sample.value);
        write_number(bucket.field("upperBound"), bound);
        bucket.end();
    });
    histogram.end();
    metric.end();
}

fn write_labels<V: AsRef<str>>(metric: &mut Object<'_>, labels: &[(&str, V)]) {
    if labels.is_empty() {
        return;
    }
    metric.array("label", labels, |out, (name, value)| {
        let mut label = Object::new(out);
        label.text("name", name);
        label.text("value", value.as_ref());
        label.end();
    });
}

/// A number of the text format as one of JSON.
fn write_number(out: &mut Vec<u8>, text: &str) {
    match text {
        "+Inf" | "Inf" => json::text(out, "Infinity"),
        "-Inf" => json::text(out, "-Infinity"),
        _ => match model::number::parse_float(text) {
            Ok(value) if value.is_finite() => model::number::append_json(out, value),
            _ => json::text(out, "NaN"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_become_objects() {
        let text = concat!(
            "# HELP a_total Requests \\\"x\\\".\n# TYPE a_total counter\n",
            "a_total{path=\"x # \\\" {\\n\",code=\"200\"} 3\na_total 4\n",
            "# TYPE b gauge\nb +Inf\nb{x=\"1\"} NaN\n",
            "# HELP other Not of c.\n# TYPE c histogram\n",
            "c_sum{h=\"1\"} 1.5\nc_count{h=\"1\"} 2\nc_bucket{le=\"0.1\",h=\"1\"} 1\nc_bucket{le=\"+Inf\",h=\"1\"} 2\n",
            "c_sum{h=\"2\"} 0.0\nc_count{h=\"2\"} 0\n# TYPE d untyped\nd 1\n",
        );
        let mut out = Vec::new();
        json::array(&mut out, &read(text), |out, family| write(out, family));
        let expected = concat!(
            r#"[{"name":"a_total","help":"Requests \"x\".","type":"COUNTER","metric":[{"label":[{"name":"path","value":"x # \" {\n"},"#,
            r#"{"name":"code","value":"200"}],"counter":{"value":3}},{"counter":{"value":4}}]},"#,
            r#"{"name":"b","help":"","type":"GAUGE","metric":[{"gauge":{"value":"Infinity"}},{"label":[{"name":"x","value":"1"}],"gauge":{"value":"NaN"}}]},"#,
            r#"{"name":"c","help":"","type":"HISTOGRAM","metric":[{"label":[{"name":"h","value":"1"}],"histogram":{"sampleCount":"2","sampleSum":1.5,"#,
            r#""bucket":[{"cumulativeCount":"1","upperBound":0.1},{"cumulativeCount":"2","upperBound":"Infinity"}]}},"#,
            r#"{"label":[{"name":"h","value":"2"}],"histogram":{"sampleCount":"0","sampleSum":0,"bucket":[]}}]},"#,
            r#"{"name":"d","help":"","type":"UNTYPED","metric":[{"untyped":{"value":1}}]}]"#
        );
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }
}
