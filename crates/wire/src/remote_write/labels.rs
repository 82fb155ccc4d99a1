//! Label bytes, the form in which both versions name a series, and what makes them a label set.

use model::Labels;
use model::labels::METRIC_NAME;

use super::proto::{DecodeError, Fields};

/// The tag of a label record within a series.
pub(super) const LABEL_TAG: u8 = 1 << 3 | 2;

/// Labels that name no series. The series is left out, the rest of the request is not touched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelsError {
    /// The label records are not protobuf.
    #[error(transparent)]
    Malformed(#[from] DecodeError),
    /// There is no `__name__`, or an empty one.
    #[error("the series has no metric name, got {0}")]
    NoMetricName(Labels),
    /// A label has no name.
    #[error("the series has a label without name")]
    EmptyName,
    /// A label occurs twice.
    #[error("the series has label {0:?} twice")]
    Duplicate(String),
    /// A name or value is not UTF-8.
    #[error("the series has a label that is not valid UTF-8")]
    NotUtf8,
    /// A reference points behind the symbols (2.0).
    #[error("the series refers to symbol {reference}, but there are {symbols}")]
    NoSuchSymbol {
        /// The reference.
        reference: u32,
        /// How many symbols the request has.
        symbols: usize,
    },
    /// Spelled out, the labels are longer than the caller allows (2.0).
    #[error("the labels are longer than {max} bytes when spelled out")]
    TooLong {
        /// How long the spelled-out text may be, bytes.
        max: usize,
    },
    /// The references do not come in pairs (2.0).
    #[error("the series has {0} label references, which is not a multiple of two")]
    OddReferences(usize),
}

/// Builds the label set that label bytes spell: sorted, without empty values.
///
/// Senders should sort; like Prometheus, we sort for those who do not.
///
/// # Errors
/// [`LabelsError`] when it is no set that can name a series.
pub fn decode_labels(label_bytes: &[u8]) -> Result<Labels, LabelsError> {
    let labels = decode_any_labels(label_bytes)?;
    if labels.get(METRIC_NAME).is_none() {
        return Err(LabelsError::NoMetricName(labels));
    }
    Ok(labels)
}

/// As [`decode_labels`], but without the need of a metric name (exemplars).
pub(super) fn decode_any_labels(label_bytes: &[u8]) -> Result<Labels, LabelsError> {
    let mut pairs: Vec<(&str, &str)> = Vec::with_capacity(16);
    let mut fields = Fields::of(label_bytes, "TimeSeries");
    while let Some((field, value)) = fields.next()? {
        if field == 1 {
            pairs.push(decode_label(value.bytes(&fields)?)?);
        }
    }
    pairs.sort_by_key(|pair| pair.0);
    if pairs.first().is_some_and(|pair| pair.0.is_empty()) {
        return Err(LabelsError::EmptyName);
    }
    if let Some(twice) = pairs.windows(2).find(|two| two[0].0 == two[1].0) {
        return Err(LabelsError::Duplicate(twice[0].0.to_owned()));
    }
    Ok(Labels::from_sorted(pairs.into_iter().filter(|pair| !pair.1.is_empty())))
}

fn decode_label(message: &[u8]) -> Result<(&str, &str), LabelsError> {
    let (mut name, mut text): (&[u8], &[u8]) = (&[], &[]);
    let mut fields = Fields::of(message, "Label");
    while let Some((field, value)) = fields.next()? {
        match field {
            1 => name = value.bytes(&fields)?,
            2 => text = value.bytes(&fields)?,
            _ => {}
        }
    }
    let utf8 = |bytes| std::str::from_utf8(bytes).map_err(|_| LabelsError::NotUtf8);
    Ok((utf8(name)?, utf8(text)?))
}

/// Appends the label bytes of a set, as a sender that keeps to the specification writes them.
pub fn write_label_bytes(labels: &Labels, out: &mut Vec<u8>) {
    for (name, value) in labels {
        write_label(out, name.as_bytes(), value.as_bytes());
    }
}

/// Appends the record of one label, as an encoder of 1.0 writes it.
pub(super) fn write_label(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    let field_len = |text: &[u8]| if text.is_empty() { 0 } else { 1 + varint_len(text.len()) + text.len() };
    out.push(LABEL_TAG);
    write_varint(out, field_len(name) + field_len(value));
    for (tag, text) in [(1 << 3 | 2, name), (2 << 3 | 2, value)] {
        if !text.is_empty() {
            out.push(tag);
            write_varint(out, text.len());
            out.extend_from_slice(text);
        }
    }
}

fn varint_len(value: usize) -> usize {
    (value.max(1).ilog2() as usize) / 7 + 1
}

fn write_varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
