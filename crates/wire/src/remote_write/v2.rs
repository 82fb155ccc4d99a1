//! Reading `io.prometheus.write.v2.Request` (2.0).
//!
//! Start timestamps stand with each sample (`Sample` field 3, `Histogram` field 17) since
//! 2.0-rc.4; before that the series had one (`TimeSeries` field 6). Both are read.

use std::ops::Range;

use model::{Exemplar, Metadata};

use super::histogram::HistogramMessage;
use super::labels::{LabelsError, decode_any_labels, write_label};
use super::proto::{DecodeError, Fields};
use super::v1::metric_type;
use super::{Sample, proto};

/// Most symbols a request may have.
const SYMBOLS_MAX: usize = 1 << 22;
/// Longest labels of an exemplar, spelled out; the format allows 128 characters.
const EXEMPLAR_LABEL_BYTES_MAX: usize = 4096;

/// A request: its symbols, and its series to be pulled.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    symbols: Vec<&'a [u8]>,
    body: &'a [u8],
}

impl<'a> Request<'a> {
    /// Reads the symbols of a request that has been unpacked, and checks its outermost layer.
    ///
    /// # Errors
    /// [`DecodeError`] when it is not protobuf, or has more than 4 Mi symbols.
    pub fn parse(body: &'a [u8]) -> Result<Request<'a>, DecodeError> {
        let mut symbols = Vec::new();
        let mut fields = Fields::of(body, "Request");
        while let Some((field, value)) = fields.next()? {
            match field {
                4 if symbols.len() == SYMBOLS_MAX => {
                    return Err(DecodeError::TooMany {
                        message: "Request",
                        what: "symbols",
                        max: SYMBOLS_MAX,
                    });
                }
                4 => symbols.push(value.bytes(&fields)?),
                5 => {
                    value.bytes(&fields)?;
                }
                _ => {}
            }
        }
        Ok(Request { symbols, body })
    }

    /// The symbols, as bytes; references count from the first.
    pub fn symbols(&self) -> &[&'a [u8]] {
        &self.symbols
    }

    /// The series whose [`Series::range`] this is.
    pub fn series_at(&self, range: Range<usize>) -> Series<'_> {
        let at = range.start;
        Series { message: self.body.get(range).unwrap_or_default(), at, symbols: &self.symbols }
    }

    /// The series, in the order they stand.
    pub fn series(&self) -> impl Iterator<Item = Series<'_>> {
        let mut fields = Fields::of(self.body, "Request");
        std::iter::from_fn(move || {
            loop {
                // `parse` has been through all of it.
                let (field, value) = fields.next().ok().flatten()?;
                if field == 5 {
                    let message = value.bytes(&fields).ok()?;
                    let at = message.as_ptr().addr() - self.body.as_ptr().addr();
                    return Some(Series { message, at, symbols: &self.symbols });
                }
            }
        })
    }
}

/// A series of a request.
#[derive(Debug, Clone, Copy)]
pub struct Series<'a> {
    message: &'a [u8],
    /// Where the message stands in the body.
    at: usize,
    symbols: &'a [&'a [u8]],
}

/// One point of a series, or something that holds for all of them.
#[derive(Debug, Clone, Copy)]
pub enum Point<'a> {
    /// A float.
    Sample(Sample),
    /// A native histogram, to be decoded.
    Histogram(HistogramMessage<'a>),
    /// An exemplar, to be decoded.
    Exemplar(ExemplarMessage<'a>),
    /// Metadata of the series' family, to be decoded.
    Metadata(MetadataMessage<'a>),
    /// The start timestamp of all the series' points that have none of their own, milliseconds
    /// since the Unix epoch (before 2.0-rc.4). Stands behind the points.
    SeriesStart(i64),
}

impl<'a> Series<'a> {
    /// Where the series stands in the unpacked request.
    pub fn range(&self) -> Range<usize> {
        self.at..self.at + self.message.len()
    }

    /// Calls `each` with every label reference: names and values in turn.
    ///
    /// # Errors
    /// [`DecodeError`] when the series is not protobuf.
    #[inline]
    pub fn label_references(&self, mut each: impl FnMut(u64)) -> Result<(), DecodeError> {
        let mut fields = Fields::of(self.message, "TimeSeries");
        while let Some((field, value)) = fields.next()? {
            if field == 1 {
                value.repeated_varint(&fields, |reference| {
                    each(reference);
                    Ok(())
                })?;
            }
        }
        Ok(())
    }

    /// Spells the labels out behind `out`, as a 1.0 request has them. A few bytes of references can
    /// stand for long symbols many times over, so `out` grows to `max` bytes at most.
    ///
    /// # Errors
    /// [`LabelsError`] when a reference points nowhere or is left over, and
    /// [`LabelsError::TooLong`]; `out` then holds a part.
    pub fn write_label_bytes(&self, out: &mut Vec<u8>, max: usize) -> Result<(), LabelsError> {
        let mut pending: Option<&[u8]> = None;
        let mut references = 0;
        let mut missing = None;
        let mut is_too_long = false;
        self.label_references(|reference| {
            references += 1;
            let Some(symbol) = symbol(self.symbols, reference) else {
                missing.get_or_insert(reference);
                return;
            };
            match pending.take() {
                None => pending = Some(symbol),
                // The two lengths and tags take less than 32 bytes.
                Some(name) if out.len() + name.len() + symbol.len() + 32 > max => is_too_long = true,
                Some(name) => write_label(out, name, symbol),
            }
        })?;
        if is_too_long {
            return Err(LabelsError::TooLong { max });
        }
        if let Some(reference) = missing {
            return Err(LabelsError::NoSuchSymbol {
                reference: reference as u32,
                symbols: self.symbols.len(),
            });
        }
        if pending.is_some() {
            return Err(LabelsError::OddReferences(references));
        }
        Ok(())
    }

    /// The points and what holds for them, in the order they stand.
    pub fn points(&self) -> Points<'a> {
        Points { fields: Fields::of(self.message, "TimeSeries"), symbols: self.symbols, failed: false }
    }
}

fn symbol<'a>(symbols: &[&'a [u8]], reference: u64) -> Option<&'a [u8]> {
    symbols.get(usize::try_from(reference).ok()?).copied()
}

/// The points of a series; ends after the first error.
#[derive(Debug, Clone)]
pub struct Points<'a> {
    fields: Fields<'a>,
    symbols: &'a [&'a [u8]],
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
    fn pull(&mut self) -> Result<Option<Point<'a>>, DecodeError> {
        let symbols = self.symbols;
        while let Some((field, value)) = self.fields.next()? {
            return Ok(Some(match field {
                2 => Point::Sample(Sample::decode(value.bytes(&self.fields)?)?),
                3 => Point::Histogram(HistogramMessage(value.bytes(&self.fields)?)),
                4 => Point::Exemplar(ExemplarMessage { message: value.bytes(&self.fields)?, symbols }),
                5 => Point::Metadata(MetadataMessage { message: value.bytes(&self.fields)?, symbols }),
                6 => Point::SeriesStart(value.int64(&self.fields)?),
                _ => continue,
            }));
        }
        Ok(None)
    }
}

/// An exemplar that has not been decoded yet.
#[derive(Debug, Clone, Copy)]
pub struct ExemplarMessage<'a> {
    message: &'a [u8],
    symbols: &'a [&'a [u8]],
}

impl ExemplarMessage<'_> {
    /// Decodes it.
    ///
    /// # Errors
    /// [`LabelsError`] when it or its labels are malformed.
    pub fn decode(&self) -> Result<Exemplar, LabelsError> {
        let mut label_bytes = Vec::new();
        // Its references stand in field 1, as those of a series do.
        Series { message: self.message, at: 0, symbols: self.symbols }
            .write_label_bytes(&mut label_bytes, EXEMPLAR_LABEL_BYTES_MAX)?;
        let mut exemplar = Exemplar { labels: decode_any_labels(&label_bytes)?, value: 0.0, timestamp_ms: 0 };
        let mut fields = proto::Fields::of(self.message, "Exemplar");
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

/// Metadata that has not been decoded yet.
#[derive(Debug, Clone, Copy)]
pub struct MetadataMessage<'a> {
    message: &'a [u8],
    symbols: &'a [&'a [u8]],
}

impl MetadataMessage<'_> {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.message.is_empty()
    }

    /// Decodes it.
    ///
    /// # Errors
    /// [`LabelsError`] when it is malformed or refers to symbols that are not there.
    pub fn decode(&self) -> Result<Metadata, LabelsError> {
        let mut metadata = Metadata::default();
        let mut fields = Fields::of(self.message, "Metadata");
        while let Some((field, value)) = fields.next()? {
            match field {
                1 => metadata.metric_type = metric_type(value.uint64(&fields)?),
                3 => metadata.help = self.text(value.uint32(&fields)?)?,
                4 => metadata.unit = self.text(value.uint32(&fields)?)?,
                _ => {}
            }
        }
        Ok(metadata)
    }

    fn text(&self, reference: u32) -> Result<String, LabelsError> {
        let missing = LabelsError::NoSuchSymbol { reference, symbols: self.symbols.len() };
        let bytes = symbol(self.symbols, u64::from(reference)).ok_or(missing)?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| LabelsError::NotUtf8)
    }
}
