//! Delimited protobuf: `io.prometheus.client.MetricFamily` messages, each behind its length.
//!
//! Messages are read in place: what is not a number stays a range of the body until somebody needs
//! it, and a message that was read is written over by the next one, so that reading a metric
//! allocates nothing once the memory is there.
//!
//! Source: `prometheus/client_model`, `io/prometheus/client/metrics.proto`, for the field numbers;
//! Prometheus `model/textparse/protobufparse.go` for what becomes of them.

mod metric;
mod reader;

pub(super) use metric::{Family, FamilyType, Metric, Point, decode_exemplar, decode_label};
pub(super) use reader::Fields;

#[cfg(test)]
mod tests;
