//! What the API's answers mean.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Labels by name.
pub type LabelSet = BTreeMap<String, String>;

/// The envelope of every answer.
#[derive(Debug, Deserialize)]
pub struct Envelope {
    /// `success` or `error`.
    pub status: String,
    /// What was asked for.
    pub data: Option<Box<RawValue>>,
    /// The kind of error.
    #[serde(default, rename = "errorType")]
    pub error_type: String,
    /// What went wrong.
    #[serde(default)]
    pub error: String,
    /// What the user should know.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// The value of an expression.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(tag = "resultType", content = "result", rename_all = "lowercase")]
pub enum Value {
    /// A number.
    Scalar(Point),
    /// A text.
    String(Text),
    /// A sample for each series.
    Vector(Vec<Sample>),
    /// Samples over time for each series.
    Matrix(Vec<Stream>),
}

/// A number at a time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Milliseconds since the epoch.
    pub time_ms: i64,
    /// The number.
    pub value: f64,
}

/// A text at a time.
#[derive(Debug, Clone, PartialEq)]
pub struct Text {
    /// Milliseconds since the epoch.
    pub time_ms: i64,
    /// The text.
    pub value: String,
}

/// A histogram at a time.
#[derive(Debug, Clone, PartialEq)]
pub struct HistogramPoint {
    /// Milliseconds since the epoch.
    pub time_ms: i64,
    /// The histogram.
    pub histogram: Histogram,
}

/// A native histogram, as the API writes it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Histogram {
    /// Observations.
    #[serde(deserialize_with = "float")]
    pub count: f64,
    /// Their sum.
    #[serde(deserialize_with = "float")]
    pub sum: f64,
    /// The buckets that are not empty.
    #[serde(default)]
    pub buckets: Vec<Bucket>,
}

/// A bucket: which ends are inside (0 upper, 1 lower, 2 neither, 3 both), lower and upper end, count.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Bucket(
    pub i64,
    #[serde(deserialize_with = "float")] pub f64,
    #[serde(deserialize_with = "float")] pub f64,
    #[serde(deserialize_with = "float")] pub f64,
);

/// A series at one time: with a number or a histogram.
#[derive(Debug, PartialEq, Deserialize)]
pub struct Sample {
    /// Its labels.
    pub metric: LabelSet,
    /// Its number.
    pub value: Option<Point>,
    /// Its histogram.
    pub histogram: Option<HistogramPoint>,
}

/// A series over time.
#[derive(Debug, PartialEq, Deserialize)]
pub struct Stream {
    /// Its labels.
    pub metric: LabelSet,
    /// Its numbers.
    #[serde(default)]
    pub values: Vec<Point>,
    /// Its histograms.
    #[serde(default)]
    pub histograms: Vec<HistogramPoint>,
}

fn float<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
    text.parse().map_err(|_| de::Error::custom(format_args!("{text:?} is not a number")))
}

/// Seconds with a fraction, as milliseconds.
fn time_ms(seconds: f64) -> i64 {
    (seconds * 1000.0).round() as i64
}

/// `[seconds, "value"]`
struct Pair<T>(std::marker::PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Pair<T> {
    type Value = (i64, T);

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a pair of time and value")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(i64, T), A::Error> {
        let short = |found: usize| de::Error::invalid_length(found, &"a time and a value");
        let time: f64 = seq.next_element()?.ok_or_else(|| short(0))?;
        let value = seq.next_element()?.ok_or_else(|| short(1))?;
        Ok((time_ms(time), value))
    }
}

fn pair<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<(i64, T), D::Error> {
    deserializer.deserialize_tuple(2, Pair(std::marker::PhantomData))
}

/// A number in quotes.
#[derive(Deserialize)]
struct Quoted(#[serde(deserialize_with = "float")] f64);

impl<'de> Deserialize<'de> for Point {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Point, D::Error> {
        let (time_ms, Quoted(value)) = pair(deserializer)?;
        Ok(Point { time_ms, value })
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text, D::Error> {
        let (time_ms, value) = pair(deserializer)?;
        Ok(Text { time_ms, value })
    }
}

impl<'de> Deserialize<'de> for HistogramPoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<HistogramPoint, D::Error> {
        let (time_ms, histogram) = pair(deserializer)?;
        Ok(HistogramPoint { time_ms, histogram })
    }
}

/// `text` as a segment of a path.
pub fn escape_path(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte as char),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
