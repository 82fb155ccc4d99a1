//! What reading a scrape gives.

use model::{Histogram, Labels, Metadata};

/// One scrape, as columns of its target. Reused from scrape to scrape.
///
/// A column is a way of writing a series. As long as a target writes a series the same way it has
/// one column; one that starts to write the labels in another order gets a second column with the
/// same labels. So what has vanished is to be judged by series, not by columns.
#[derive(Debug, Default)]
pub struct ScrapedRow {
    /// The column of each cell, in the order of the exposition. A column occurs twice only when it
    /// came with timestamps of its own (see `has_repeats`).
    pub columns: Vec<u32>,
    /// The value of each cell, same length.
    pub values: Vec<f64>,
    /// Histograms, in the order of the exposition; their columns are not among `columns`.
    pub histograms: Vec<HistogramCell>,
    /// Cells that have a timestamp of their own: index of the cell (ascending), milliseconds since
    /// the Unix epoch.
    pub timestamps: Vec<(u32, i64)>,
    /// Exemplars: index of the cell (ascending).
    pub exemplars: Vec<(u32, ScrapedExemplar)>,
    /// Start timestamps: column, milliseconds since the Unix epoch. In every scrape, not only when new.
    pub start_timestamps: Vec<(u32, i64)>,
    /// Columns never put out before (or retired since), with the labels of the exposition.
    pub new_columns: Vec<(u32, Labels)>,
    /// Columns that are gone for good. Their numbers may be used anew, by this row or a later one, which
    /// then lists them as new: so retired columns are to be looked at before new ones.
    pub retired_columns: Vec<u32>,
    /// Families whose type, unit or help is new or has changed.
    pub metadata: Vec<(String, Metadata)>,
    /// Samples left out because their series had been there already, without timestamps of its own.
    pub duplicates: usize,
    /// Whether some column occurs more than once, with timestamps of its own.
    pub has_repeats: bool,
    /// Whether `columns` and the columns of `histograms` are the same as in the previous row that was
    /// taken of this target.
    pub same_columns: bool,
}

/// A native histogram of a row.
#[derive(Debug, Clone, PartialEq)]
pub struct HistogramCell {
    /// Its column.
    pub column: u32,
    /// The timestamp of its own, milliseconds since the Unix epoch.
    pub timestamp_ms: Option<i64>,
    /// The histogram: schema in -4..=8 or custom buckets, well-formed, no span without need.
    pub histogram: Histogram,
    /// Its exemplars; all have timestamps.
    pub exemplars: Vec<ScrapedExemplar>,
}

/// An exemplar as a target gave it.
#[derive(Debug, Clone, PartialEq)]
pub struct ScrapedExemplar {
    /// Its labels.
    pub labels: Labels,
    /// The observed value.
    pub value: f64,
    /// Milliseconds since the Unix epoch, when it has one.
    pub timestamp_ms: Option<i64>,
}

impl ScrapedRow {
    /// Samples the exposition had, duplicates included (`scrape_samples_scraped`).
    pub fn samples_scraped(&self) -> usize {
        self.values.len() + self.histograms.len() + self.duplicates
    }

    /// Empties the row and keeps its memory.
    pub fn clear(&mut self) {
        self.columns.clear();
        self.values.clear();
        self.histograms.clear();
        self.timestamps.clear();
        self.exemplars.clear();
        self.start_timestamps.clear();
        self.new_columns.clear();
        self.retired_columns.clear();
        self.metadata.clear();
        self.duplicates = 0;
        self.has_repeats = false;
        self.same_columns = false;
    }
}
