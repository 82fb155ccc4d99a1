//! Questions and answers of the Prometheus API, as text.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use model::{Exemplar, Labels, Matcher, Metadata, MetricType};
use serde::Deserialize;
use storage::Select;

/// The envelope of Prometheus' API.
#[derive(Deserialize)]
pub(crate) struct Envelope<T> {
    pub(crate) data: Option<T>,
    pub(crate) error: Option<String>,
    #[serde(default)]
    pub(crate) warnings: Vec<String>,
}

/// As `/api/v1/metadata` has it.
#[derive(Deserialize)]
pub(crate) struct FarMetadata {
    r#type: String,
    unit: String,
    help: String,
}

impl FarMetadata {
    pub(crate) fn into_metadata(self) -> Metadata {
        let metric_type = MetricType::parse(&self.r#type).unwrap_or_default();
        Metadata { metric_type, unit: self.unit, help: self.help }
    }
}

/// `match[]`, `start` and `end` for look-ups.
pub(crate) fn query_string(select: &Select) -> String {
    let mut pairs = url::form_urlencoded::Serializer::new(String::new());
    if !select.matchers.is_empty() {
        pairs.append_pair("match[]", &selector(&select.matchers));
    }
    // Windows without an end are those that name none.
    let seconds = |ms: i64| format!("{}.{:03}", ms.div_euclid(1000), ms.rem_euclid(1000));
    if select.start_ms > 0 {
        pairs.append_pair("start", &seconds(select.start_ms));
    }
    if select.end_ms < i64::MAX / 1000 {
        pairs.append_pair("end", &seconds(select.end_ms));
    }
    pairs.finish()
}

/// A selector of PromQL that means `matchers`.
pub(crate) fn selector(matchers: &[Matcher]) -> String {
    let mut text = String::from("{");
    for (at, matcher) in matchers.iter().enumerate() {
        let comma = if at == 0 { "" } else { "," };
        // Quoted names may be any; writing to a string cannot fail.
        _ = text.write_str(comma);
        _ = model::labels::write_quoted(&mut text, &matcher.name);
        _ = text.write_str(&matcher.op.to_string());
        _ = model::labels::write_quoted(&mut text, &matcher.value);
    }
    text.push('}');
    text
}

/// `2026-11-22T10:00:00Z`, for people.
pub(crate) fn shown_time(ms: i64) -> String {
    jiff::Timestamp::from_second(ms.div_euclid(1000)).map_or_else(|_| ms.to_string(), |time| time.to_string())
}

/// A label name in a path: what is no plain name is escaped as the API has it (`U__`).
///
/// Source: Prometheus `common/model`, `EscapeName` with `ValueEncodingEscaping`.
pub(crate) fn escaped_name(name: &str) -> String {
    if model::labels::is_legacy_label_name(name) {
        return name.to_owned();
    }
    let mut escaped = String::from("U__");
    for character in name.chars() {
        match character {
            '_' => escaped.push_str("__"),
            plain if plain.is_ascii_alphanumeric() => escaped.push(plain),
            other => _ = write!(escaped, "_{:x}_", u32::from(other)),
        }
    }
    escaped
}

/// As `/api/v1/query_exemplars` has them.
#[derive(Deserialize)]
pub(crate) struct FarExemplars {
    #[serde(rename = "seriesLabels")]
    series: BTreeMap<String, String>,
    exemplars: Vec<FarExemplar>,
}

#[derive(Deserialize)]
struct FarExemplar {
    labels: BTreeMap<String, String>,
    value: String,
    timestamp: f64,
}

impl FarExemplars {
    pub(crate) fn into_pairs(self) -> impl Iterator<Item = (Labels, Exemplar)> {
        let series = Labels::from_pairs(&self.series);
        self.exemplars.into_iter().filter_map(move |exemplar| {
            let value = model::number::parse_float(&exemplar.value).ok()?;
            let timestamp_ms = (exemplar.timestamp * 1000.0).round() as i64;
            let labels = Labels::from_pairs(&exemplar.labels);
            Some((series.clone(), Exemplar { labels, value, timestamp_ms }))
        })
    }
}

#[cfg(test)]
mod tests {
    use model::MatchOp;

    use super::*;

    #[test]
    fn selectors_and_names_are_written_as_the_api_reads_them() {
        let matcher = |op, name: &str, value: &str| Matcher::new(op, name, value).expect("a matcher");
        let matchers =
            [matcher(MatchOp::Regex, "http.status", "5.\""), matcher(MatchOp::NotEqual, "job", "a\nb")];
        assert_eq!(selector(&matchers), r#"{"http.status"=~"5.\"","job"!="a\nb"}"#);
        assert_eq!(escaped_name("instance"), "instance");
        assert_eq!(escaped_name("http.status_code"), "U__http_2e_status__code");
    }
}
