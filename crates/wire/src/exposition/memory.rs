//! What a target's previous scrape looked like, and the reading of the next one against it.
//!
//! The memory of the text formats is one of lines ([`text`]), that of protobuf one of encoded labels
//! ([`proto`]). Both give columns out of one supply of numbers, so a target that changes its format
//! goes on with new columns and never mixes up old ones.

mod arena;
mod convert;
mod entry;
mod proto;
mod text;

#[cfg(test)]
mod rest_tests;

use model::{Labels, Metadata};

use super::line::{Dialect, ExpositionError, Place};
use super::protocol::Protocol;
use super::row::ScrapedRow;
pub use arena::SharedText;
use convert::Conversion;
use proto::ProtoMemory;
use text::TextMemory;

/// Entries that may be dead without being dropped, however few live.
const DEAD_ENTRIES_MIN: usize = 64;

/// What becomes of the `_created` lines of OpenMetrics counters, histograms and summaries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CreatedLines {
    /// They give the start timestamps of their metric's series and are no series themselves.
    #[default]
    StartTimestamps,
    /// They are series like any other (what Prometheus does unless told otherwise).
    Series,
}

/// What is made of an exposition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RowOptions {
    /// What becomes of `_created` lines.
    pub created: CreatedLines,
    /// Whether native histograms are read (`scrape_native_histograms`); otherwise such a histogram is
    /// read as the classic one it may be besides.
    pub native_histograms: bool,
    /// Whether the classic histogram is kept beside the native one it also is, or becomes
    /// (`always_scrape_classic_histograms`).
    pub keep_classic: bool,
    /// Whether classic histograms become native ones with custom buckets
    /// (`convert_classic_histograms_to_nhcb`).
    pub convert_classic: bool,
}

/// What a target's last scrape looked like. One for each target.
#[derive(Debug, Default)]
pub struct RowMemory {
    options: RowOptions,
    format: Option<Format>,
    numbers: ColumnNumbers,
    entries: Entries,
    text: SharedText,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Text(Dialect),
    Proto,
}

#[derive(Debug)]
enum Entries {
    Text(Box<TextMemory>, Option<Box<Conversion>>),
    Proto(Box<ProtoMemory>),
}

impl Default for Entries {
    fn default() -> Entries {
        Entries::Text(Box::default(), None)
    }
}

impl RowMemory {
    /// An empty memory: the first row it reads is all new columns. Reads no native histograms.
    pub fn new(created: CreatedLines) -> RowMemory {
        RowMemory::with_options(RowOptions { created, ..RowOptions::default() })
    }

    /// An empty memory that reads as `options` say.
    pub fn with_options(options: RowOptions) -> RowMemory {
        RowMemory { options, ..RowMemory::default() }
    }

    /// Keeps its lines where other targets keep theirs. For a memory that is still empty.
    pub fn sharing(self, text: SharedText) -> RowMemory {
        RowMemory { text, ..self }
    }

    /// Reads one exposition into `row` (emptied first) and remembers what it looked like.
    ///
    /// # Errors
    /// [`ExpositionError`] when anything in it is malformed: nothing is taken, `row` is empty, and
    /// the memory stands as before.
    pub fn read(
        &mut self,
        body: &[u8],
        protocol: Protocol,
        row: &mut ScrapedRow,
    ) -> Result<(), ExpositionError> {
        row.clear();
        if body.len() > u32::MAX as usize {
            let problem = "the exposition is larger than 4 GiB".to_owned();
            return Err(ExpositionError { place: Place::Byte(u32::MAX as usize), problem });
        }
        let format = match protocol {
            Protocol::PrometheusProto => Format::Proto,
            text if text.is_open_metrics() => Format::Text(Dialect::OpenMetrics),
            _ => Format::Text(Dialect::Prometheus),
        };
        if self.format == Some(format) {
            return self.read_on(body, row);
        }
        // The same bytes mean another thing in another format: start anew, keep the columns apart.
        let numbers = self.numbers.clone();
        let before =
            std::mem::replace(&mut self.entries, Entries::new(format, self.options, self.text.clone()));
        let read = self.read_on(body, row);
        match &read {
            Ok(()) => {
                self.format = Some(format);
                row.retired_columns = before.all_columns();
                row.retired_columns.iter().for_each(|column| self.numbers.give(*column));
            }
            Err(_) => (self.entries, self.numbers) = (before, numbers),
        }
        read
    }

    /// Reads an exposition in the format of the one before.
    fn read_on(&mut self, body: &[u8], row: &mut ScrapedRow) -> Result<(), ExpositionError> {
        let read = match &mut self.entries {
            Entries::Text(lines, conversion) => {
                let read = lines.read(body, &mut self.numbers, row).map_err(|problem| problem.locate(body));
                if read.is_ok()
                    && let Some(conversion) = conversion
                {
                    conversion.convert(&lines.new_parts, &mut self.numbers, row);
                }
                read
            }
            Entries::Proto(metrics) => {
                metrics.read(body, &mut self.numbers, row).map_err(|problem| problem.locate_byte())
            }
        };
        if read.is_err() {
            row.clear();
        }
        read
    }

    /// Columns are below this number.
    pub fn column_bound(&self) -> u32 {
        self.numbers.bound()
    }

    /// Type, unit and help of every family of the last scrape, by name.
    pub fn metadata(&self) -> Vec<(String, Metadata)> {
        match &self.entries {
            Entries::Text(lines, _) => lines.metadata(),
            Entries::Proto(metrics) => metrics.metadata(),
        }
    }

    /// Calls `each` with every column of the last scrape and its labels as the exposition gives
    /// them. For when series have to be resolved again; parses every label.
    pub fn each_series(&self, mut each: impl FnMut(u32, Labels)) {
        match &self.entries {
            Entries::Text(lines, None) => lines.each_series(each),
            Entries::Text(lines, Some(conversion)) => {
                conversion.each_series(&mut each);
                lines.each_series(|column, labels| {
                    if conversion.is_shown(column) {
                        each(column, labels);
                    }
                });
            }
            Entries::Proto(metrics) => metrics.each_series(each),
        }
    }

    /// Memory held, bytes.
    pub fn heap_bytes(&self) -> usize {
        self.numbers.heap_bytes()
            + match &self.entries {
                Entries::Text(lines, conversion) => {
                    lines.heap_bytes() + conversion.as_ref().map_or(0, |conversion| conversion.heap_bytes())
                }
                Entries::Proto(metrics) => metrics.heap_bytes(),
            }
    }
}

impl Entries {
    fn new(format: Format, options: RowOptions, text: SharedText) -> Entries {
        match format {
            Format::Text(dialect) => Entries::Text(
                Box::new(TextMemory::new(dialect, options, text)),
                options.convert_classic.then(|| Box::new(Conversion::new(options.keep_classic))),
            ),
            Format::Proto => Entries::Proto(Box::new(ProtoMemory::new(options))),
        }
    }

    fn all_columns(&self) -> Vec<u32> {
        match self {
            Entries::Text(lines, conversion) => {
                let mut columns = lines.all_columns();
                columns.extend(conversion.iter().flat_map(|conversion| conversion.all_columns()));
                columns
            }
            Entries::Proto(metrics) => metrics.all_columns(),
        }
    }
}

/// The supply of column numbers.
#[derive(Debug, Clone, Default)]
struct ColumnNumbers {
    /// Numbers below this have been given out.
    bound: u32,
    /// Given back, to be used again.
    free: Vec<u32>,
}

impl ColumnNumbers {
    fn take(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.bound += 1;
            self.bound - 1
        })
    }

    fn give(&mut self, column: u32) {
        self.free.push(column);
    }

    fn bound(&self) -> u32 {
        self.bound
    }

    /// Takes back `added`, the numbers given out since the bound was `bound`, the last one first.
    fn undo(&mut self, bound: u32, added: impl Iterator<Item = u32>) {
        self.free.extend(added.filter(|column| *column < bound));
        self.bound = bound;
    }

    fn heap_bytes(&self) -> usize {
        self.free.capacity() * size_of::<u32>()
    }
}
