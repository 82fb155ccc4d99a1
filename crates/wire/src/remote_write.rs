//! Remote write 1.0 (`prometheus.WriteRequest`) and 2.0 (`io.prometheus.write.v2.Request`): what a
//! sender puts into a request, read without copying, and written.
//!
//! A request is read by pulling: nothing is built that the caller did not ask for, and a series
//! that was seen before costs no more than a comparison of its label bytes. For that, both versions
//! share one form of *label bytes*: the label records of a 1.0 series, one behind the other, just
//! as they stand in the request ([`v1::Series::label_bytes`]); a 2.0 series is spelled out the same
//! way ([`v2::Series::write_label_bytes`]).
//!
//! Nothing here panics on any bytes, and memory grows only with the request's own size.
//!
//! Source: <https://prometheus.io/docs/specs/prw/remote_write_spec/>;
//! <https://prometheus.io/docs/specs/prw/remote_write_spec_2_0/>; Prometheus `prompb/types.proto`
//! and `prompb/io/prometheus/write/v2/types.proto` for the field numbers.

mod encode;
mod histogram;
mod labels;
mod snappy;
mod texts;
pub mod v1;
pub mod v2;

use crate::proto;
pub use crate::proto::DecodeError;
pub use encode::{EncoderV1, EncoderV2, KnownSeries, PointsToWrite, SeriesToWrite};
pub(crate) use histogram::write_histogram;
pub use histogram::{HistogramError, HistogramMessage, HistogramSample, validate_histogram};
pub use labels::{LabelsError, decode_labels, write_label_bytes};
pub use snappy::{SnappyError, snappy_decode, snappy_encode, snappy_encode_into};

/// A float sample of a request.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Sample {
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// The value, bit for bit.
    pub value: f64,
    /// Start timestamp, milliseconds since the Unix epoch; 0 when there is none. 2.0 only.
    pub start_timestamp_ms: i64,
}

impl Sample {
    /// Fields are the same in both versions; 1.0 has no start timestamp.
    fn decode(message: &[u8]) -> Result<Sample, DecodeError> {
        let mut sample = Sample::default();
        let mut fields = proto::Fields::of(message, "Sample");
        while let Some((field, value)) = fields.next()? {
            match field {
                1 => sample.value = value.double(&fields)?,
                2 => sample.timestamp_ms = value.int64(&fields)?,
                3 => sample.start_timestamp_ms = value.int64(&fields)?,
                _ => {}
            }
        }
        Ok(sample)
    }
}

#[cfg(test)]
mod tests;
