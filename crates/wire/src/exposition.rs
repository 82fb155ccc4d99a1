//! What a scrape target says: the Prometheus text format 0.0.4 and 1.0.0 and OpenMetrics 0.0.1 and
//! 1.0.0, read and written.
//!
//! One scrape is one row. [`RowMemory`] keeps the lines of a target's previous scrape; the next
//! scrape is compared with them line by line, and where a line is the same up to its value, only
//! the value is parsed. What comes out is a [`ScrapedRow`]: column numbers and values, and labels
//! only for columns that are new.
//!
//! The reading is as strict as Prometheus' own parsers are, and a scrape is taken whole or refused
//! whole, with the line and what was expected there.
//!
//! Source: <https://prometheus.io/docs/instrumenting/exposition_formats/>;
//! <https://prometheus.io/docs/specs/om/open_metrics_spec/>; Prometheus `model/textparse`.

mod line;
mod memory;
mod protocol;
mod row;
mod value;
mod writer;

pub use line::ExpositionError;
pub use memory::{CreatedLines, RowMemory};
pub use protocol::{ContentTypeError, EscapingScheme, Negotiated, Protocol, UnknownProtocol, accept_header};
pub use row::{ScrapedExemplar, ScrapedRow};
pub use value::{parse_float, write_float};
pub use writer::TextWriter;

#[cfg(test)]
mod tests;
