//! Reading `prometheus.WriteRequest` (1.0).

use std::borrow::Cow;

use model::{Exemplar, Metadata, MetricType};

use super::histogram::HistogramMessage;
use super::labels::{LABEL_TAG, LabelsError, decode_any_labels};
use super::proto::{DecodeError, Fields, Value};
use super::{Sample, proto};

/// One top-level entry of a request.
#[derive(Debug, Clone)]
pub enum Entry<'a> {
    /// A series with its points.
    Series(Series<'a>),
    /// What a metric family says of itself.
    Metadata(FamilyMetadata),
}

/// Metadata of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FamilyMetadata {
    /// The family's name.
    pub family: String,
    /// Type, unit, help.
    pub metadata: Metadata,
}

/// The entries of a request, in the order they stand; ends after the first error.
#[derive(Debug, Clone)]
pub struct Entries<'a> {
    fields: Fields<'a>,
    failed: bool,
}

/// Reads a request that has been unpacked.
pub fn entries(body: &[u8]) -> Entries<'_> {
    Entries { fields: Fields::of(body, "WriteRequest"), failed: false }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.pull().transpose();
        self.failed = matches!(next, Some(Err(_)));
        next
    }
}

impl<'a> Entries<'a> {
    fn pull(&mut self) -> Result<Option<Entry<'a>>, DecodeError> {
        while let Some((field, value)) = self.fields.next()? {
            match field {
                1 => return Ok(Some(Entry::Series(Series { message: value.bytes(&self.fields)? }))),
                3 => return family_metadata(value.bytes(&self.fields)?).map(|m| Some(Entry::Metadata(m))),
                _ => {}
            }
        }
        Ok(None)
    }
}

fn family_metadata(message: &[u8]) -> Result<FamilyMetadata, DecodeError> {
    let mut found = FamilyMetadata { family: String::new(), metadata: Metadata::default() };
    let mut fields = Fields::of(message, "MetricMetadata");
    let text = |value: Value<'_>, fields: &Fields<'_>| {
        value.bytes(fields).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    };
    while let Some((field, value)) = fields.next()? {
        match field {
            1 => found.metadata.metric_type = metric_type(value.uint64(&fields)?),
            2 => found.family = text(value, &fields)?,
            4 => found.metadata.help = text(value, &fields)?,
            5 => found.metadata.unit = text(value, &fields)?,
            _ => {}
        }
    }
    Ok(found)
}

/// The request with the label records of every series moved before its points, for requests where
/// [`Point::LateLabel`] has shown.
///
/// # Errors
/// [`DecodeError`] when it is not protobuf.
pub fn in_order(body: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let mut writer = proto::Writer::default();
    let mut fields = Fields::of(body, "WriteRequest");
    while let Some((field, value)) = fields.next()? {
        match field {
            1 => writer.bytes_always(1, &Series { message: value.bytes(&fields)? }.in_order()?),
            3 => writer.bytes_always(3, value.bytes(&fields)?),
            _ => {}
        }
    }
    Ok(writer.out)
}

/// The types' numbers, the same in both versions.
const METRIC_TYPES: [MetricType; 8] = [
    MetricType::Unknown,
    MetricType::Counter,
    MetricType::Gauge,
    MetricType::Histogram,
    MetricType::GaugeHistogram,
    MetricType::Summary,
    MetricType::Info,
    MetricType::StateSet,
];

pub(super) fn metric_type(number: u64) -> MetricType {
    usize::try_from(number).ok().and_then(|number| METRIC_TYPES.get(number)).copied().unwrap_or_default()
}

pub(super) fn metric_type_number(metric_type: MetricType) -> u64 {
    METRIC_TYPES.iter().position(|known| *known == metric_type).unwrap_or_default() as u64
}

/// A series of a request: label records first, then points.
#[derive(Debug, Clone, Copy)]
pub struct Series<'a> {
    message: &'a [u8],
}

/// One point of a series.
#[derive(Debug, Clone, Copy)]
pub enum Point<'a> {
    /// A float.
    Sample(Sample),
    /// A native histogram, to be decoded.
    Histogram(HistogramMessage<'a>),
    /// An exemplar, to be decoded.
    Exemplar(ExemplarMessage<'a>),
    /// A label behind the points, which no known sender writes: read the request again as
    /// [`in_order`] gives it.
    LateLabel,
}

impl<'a> Series<'a> {
    /// The label records, if they take up just `len` bytes: for senders who repeat themselves, the
    /// length of last time saves walking the records. When they do not, the answer is `None` or
    /// bytes that are no whole records, which equal no series' label bytes.
    #[inline]
    pub fn label_bytes_if(&self, len: usize) -> Option<&'a [u8]> {
        (self.message.get(len) != Some(&LABEL_TAG)).then(|| self.message.get(..len)).flatten()
    }

    /// The label records as they stand: what names the series from request to request.
    ///
    /// # Errors
    /// [`DecodeError`] when they are not protobuf.
    pub fn label_bytes(&self) -> Result<&'a [u8], DecodeError> {
        let mut fields = Fields::of(self.message, "TimeSeries");
        while fields.rest().first() == Some(&LABEL_TAG) {
            fields.next()?;
        }
        Ok(&self.message[..self.message.len() - fields.rest().len()])
    }

    /// The points behind the first `label_bytes` bytes.
    pub fn points(&self, label_bytes: usize) -> Points<'a> {
        let rest = self.message.get(label_bytes..).unwrap_or_default();
        Points { fields: Fields::of(rest, "TimeSeries"), failed: false }
    }

    /// The message with its label records moved to the front.
    fn in_order(&self) -> Result<Cow<'a, [u8]>, DecodeError> {
        let mut labels = Vec::new();
        let mut others = Vec::new();
        let mut fields = Fields::of(self.message, "TimeSeries");
        let mut sorted = true;
        loop {
            let before = fields.rest();
            let Some((field, _)) = fields.next()? else { break };
            let record = &before[..before.len() - fields.rest().len()];
            if field == 1 {
                sorted &= others.is_empty();
                labels.extend_from_slice(record);
            } else {
                others.extend_from_slice(record);
            }
        }
        if sorted {
            return Ok(Cow::Borrowed(self.message));
        }
        labels.append(&mut others);
        Ok(Cow::Owned(labels))
    }
}

/// The points of a series, in the order they stand; ends after the first error.
#[derive(Debug, Clone)]
pub struct Points<'a> {
    fields: Fields<'a>,
    failed: bool,
}

impl<'a> Iterator for Points<'a> {
    type Item = Result<Point<'a>, DecodeError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.pull().transpose();
        self.failed = matches!(next, Some(Err(_)));
        next
    }
}

impl<'a> Points<'a> {
    #[inline]
    fn pull(&mut self) -> Result<Option<Point<'a>>, DecodeError> {
        while let Some((field, value)) = self.fields.next()? {
            let message = match field {
                1..=4 => value.bytes(&self.fields)?,
                _ => continue,
            };
            return Ok(Some(match field {
                1 => Point::LateLabel,
                2 => Point::Sample(Sample::decode(message)?),
                3 => Point::Exemplar(ExemplarMessage(message)),
                _ => Point::Histogram(HistogramMessage(message)),
            }));
        }
        Ok(None)
    }
}

/// An exemplar that has not been decoded yet.
#[derive(Debug, Clone, Copy)]
pub struct ExemplarMessage<'a>(&'a [u8]);

impl ExemplarMessage<'_> {
    /// Decodes it.
    ///
    /// # Errors
    /// [`LabelsError`] when it or its labels are malformed.
    pub fn decode(&self) -> Result<Exemplar, LabelsError> {
        // Its labels stand in field 1, as those of a series do.
        let labels = decode_any_labels(self.0)?;
        let mut exemplar = Exemplar { labels, value: 0.0, timestamp_ms: 0 };
        let mut fields = proto::Fields::of(self.0, "Exemplar");
        while let Some((field, value)) = fields.next()? {
            match field {
                2 => exemplar.value = value.double(&fields)?,
                3 => exemplar.timestamp_ms = value.int64(&fields)?,
                _ => {}
            }
        }
        Ok(exemplar)
    }
}
