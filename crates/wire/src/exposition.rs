//! What a scrape target says: the Prometheus text format 0.0.4 and 1.0.0, OpenMetrics 0.0.1 and
//! 1.0.0, and delimited protobuf, read; the text format, written.
//!
//! One scrape is one row. [`RowMemory`] keeps the lines (or encoded labels) of a target's previous
//! scrape; the next scrape is compared with them one by one, and where they are the same up to the
//! value, only the value is parsed. What comes out is a [`ScrapedRow`]: column numbers and values, and labels
//! only for columns that are new.
//!
//! The reading is as strict as Prometheus' own parsers are, and a scrape is taken whole or refused
//! whole, with the place and what was expected there.
//!
//! Source: <https://prometheus.io/docs/instrumenting/exposition_formats/>;
//! <https://prometheus.io/docs/specs/om/open_metrics_spec/>; Prometheus `model/textparse`.

mod line;
mod memory;
mod nhcb;
mod proto;
mod protocol;
mod row;
mod value;
mod writer;

pub use line::{ExpositionError, Place};
pub use memory::{CreatedLines, RowMemory, RowOptions, SharedText};
pub use protocol::{ContentTypeError, EscapingScheme, Negotiated, Protocol, UnknownProtocol, accept_header};
pub use row::{HistogramCell, ScrapedExemplar, ScrapedRow};
pub use value::{parse_float, write_float};
pub use writer::TextWriter;

#[cfg(test)]
mod tests;
