//! Answers of different systems to the same query, compared.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use testkit::http::{self, Json};

/// An answer in a form that can be compared: the samples of each series by its labels; a listed
/// name, value or series has none.
#[derive(Debug, Default)]
pub(crate) struct Answer(BTreeMap<String, Vec<(f64, f64)>>);

/// Relative difference that counts as equal: sums are built in different orders.
const TOLERANCE: f64 = 1e-9;

impl Answer {
    /// Reads the body of an answer.
    ///
    /// # Errors
    /// It is no answer of the query API.
    pub(crate) fn read(body: &[u8]) -> Result<Answer> {
        let json = http::json(body)?;
        let data = &json["data"];
        let Some(result) = data.get("result") else {
            let listed = data.as_array().context("an answer without data")?;
            return Ok(Answer(listed.iter().map(|item| (item.to_string(), Vec::new())).collect()));
        };
        let series = result.as_array().context("a result that is no list")?;
        let mut answer = Answer::default();
        for one in series {
            let pairs = one["metric"].as_object().into_iter().flatten();
            let labels: BTreeMap<&str, &str> =
                pairs.map(|(name, value)| (name.as_str(), value.as_str().unwrap_or_default())).collect();
            let values = one["values"].as_array().cloned().unwrap_or_else(|| vec![one["value"].clone()]);
            let sample = |pair: &Json| {
                let value =
                    pair[1].as_str().and_then(|text| text.parse().ok()).context("a sample's value")?;
                Ok((pair[0].as_f64().context("a sample's time")?, value))
            };
            let samples = values.iter().map(sample).collect::<Result<Vec<(f64, f64)>>>()?;
            answer.0.insert(format!("{labels:?}"), samples);
        }
        Ok(answer)
    }

    /// How many series, names or values.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The first difference to `other`, in words; `None` when they agree.
    pub(crate) fn difference(&self, other: &Answer) -> Option<String> {
        if let Some(labels) = self.0.keys().find(|labels| !other.0.contains_key(*labels)) {
            return Some(format!("{labels} is in one answer only"));
        }
        if let Some(labels) = other.0.keys().find(|labels| !self.0.contains_key(*labels)) {
            return Some(format!("{labels} is in the other answer only"));
        }
        for (labels, ours) in &self.0 {
            let theirs = &other.0[labels];
            if ours.len() != theirs.len() {
                return Some(format!("{labels} has {} samples, not {}", ours.len(), theirs.len()));
            }
            let differing = ours.iter().zip(theirs).find(|(a, b)| a.0 != b.0 || !is_close(a.1, b.1));
            if let Some((ours, theirs)) = differing {
                return Some(format!("{labels} is {ours:?}, not {theirs:?}"));
            }
        }
        None
    }
}

fn is_close(a: f64, b: f64) -> bool {
    a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= TOLERANCE * a.abs().max(b.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(body: &str) -> Answer {
        Answer::read(body.as_bytes()).expect(body)
    }

    #[test]
    fn answers_differ_in_series_samples_or_values() {
        let body = |labels: &str, value: &str| {
            answer(&format!(
                r#"{{"data":{{"result":[{{"metric":{labels},"values":[[1,"2"],[2,"{value}"]]}}]}}}}"#
            ))
        };
        let ours = body(r#"{"a":"1","b":"2"}"#, "3");
        assert_eq!(ours.difference(&body(r#"{"b":"2","a":"1"}"#, "3.0000000001")), None);
        for (other, said) in [
            (body(r#"{"a":"1"}"#, "3"), r#"{"a": "1", "b": "2"} is in one answer only"#),
            (body(r#"{"a":"1","b":"2"}"#, "3.1"), r#"{"a": "1", "b": "2"} is (2.0, 3.0), not (2.0, 3.1)"#),
        ] {
            assert_eq!(ours.difference(&other).as_deref(), Some(said));
        }
    }

    #[test]
    fn lists_are_compared_as_sets() {
        let one = answer(r#"{"data":["a","b"]}"#);
        assert_eq!(one.len(), 2);
        assert_eq!(one.difference(&answer(r#"{"data":["b","a"]}"#)), None);
        assert!(one.difference(&answer(r#"{"data":["b"]}"#)).is_some());
    }
}
