//! Writes blocks: one after the other, of one segment after the other.

use model::{Exemplar, Histogram, Labels, Metadata, SourceId};
use stdx::bytes::{Cursor, put_varint, put_zigzag};
use stdx::intern::{Interned, List};
use storage::{Account, Policy};

use super::bases::{Bases, Run};
use super::dictionary::KIND_FLOAT;
use super::rows::{
    CLEAR, EXEMPLARS, HISTOGRAMS, MARKERS, SHAPE_EXPECTED, SHAPE_KNOWN, SHAPE_NEW, STARTS, policy_code,
    put_account, put_exemplars, put_histograms, put_metadata, put_runs, put_starts,
};
use super::symbols::{Additions, Symbols};
use super::values::{put_change, put_mask};
use super::{Header, seal};

/// How hard zstd works. Measured: docs/benchmarks.md, "Blocks on their way".
const ZSTD_LEVEL: i32 = 1;
/// No segment has this number.
const NO_SEGMENT: u64 = 0;
/// Where no column stands.
const FREE: u32 = u32::MAX;

/// What the writer keeps of one source.
#[derive(Debug)]
pub(crate) struct SourceWriter {
    id: SourceId,
    /// Symbols of the labels, sorted by name.
    labels: Vec<(u32, u32)>,
    /// The labels of each column as a difference to `labels`, in symbols of the encoder.
    entries: List<u8>,
    /// Where each column's entry begins; [`FREE`] where there is no column.
    offsets: List<u32>,
    pub(crate) bases: Bases,
    /// The segment whose dictionary has the source, and its number there.
    segment: u64,
    number: u32,
    /// Columns that this segment's dictionary lacks.
    undefined: Vec<u32>,
    /// The block, of `segment`, in which the source was last cleared.
    cleared_in: u32,
}

/// What sources have in common that differ only in their own labels, as the targets of a job do.
#[derive(Debug, Default)]
pub(crate) struct Alike {
    entries: Interned<[u8]>,
    offsets: Interned<[u32]>,
}

/// A row, its columns by number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowParts<'a> {
    pub(crate) timestamp_ms: i64,
    /// Of `values`.
    pub(crate) columns: RowColumns<'a>,
    pub(crate) values: &'a [f64],
    pub(crate) histograms: &'a [(u32, &'a Histogram)],
    pub(crate) starts: &'a [(u32, i64)],
    pub(crate) exemplars: &'a [(u32, &'a Exemplar)],
}

/// Which columns a row has.
#[derive(Debug, Clone, Copy)]
pub(crate) enum RowColumns<'a> {
    /// Those of a shape of the source's [`Bases`].
    Shape(usize),
    /// These, which are a new shape.
    Runs(&'a [Run]),
    /// These, and all end.
    Markers(&'a [Run]),
}

impl SourceWriter {
    pub(crate) fn new(id: SourceId, labels: &Labels, symbols: &mut Symbols) -> SourceWriter {
        let labels = labels.iter().map(|(name, value)| (symbols.intern(name), symbols.intern(value)));
        SourceWriter {
            id,
            labels: labels.collect(),
            entries: List::default(),
            offsets: List::default(),
            bases: Bases::default(),
            segment: NO_SEGMENT,
            number: 0,
            undefined: Vec::new(),
            cleared_in: 0,
        }
    }

    /// Whether there is a column at this place.
    pub(crate) fn has_column(&self, column: u32) -> bool {
        self.offsets.get(column as usize).is_some_and(|offset| *offset != FREE)
    }

    /// Gives back the memory of the bases, of a source that is idle. Only between segments.
    pub(crate) fn let_go_of_bases(&mut self) {
        self.bases = Bases::default();
        self.bases.grow(self.offsets.iter().rposition(|offset| *offset != FREE).map_or(0, |last| last + 1));
    }

    /// Adds a column at `at`, which is free, or the number of columns there are.
    pub(crate) fn add_column(&mut self, at: u32, labels: &Labels, symbols: &mut Symbols) {
        let offset = self.entries.len() as u32;
        encode_labels(&self.labels, labels, symbols, self.entries.to_mut());
        let offsets = self.offsets.to_mut();
        if at as usize == offsets.len() {
            offsets.push(offset);
        } else {
            offsets[at as usize] = offset;
        }
        self.bases.grow(self.offsets.len());
        self.undefined.push(at);
    }

    /// Gives back what growing by doubling took too much, and what others have, too.
    pub(crate) fn rest(&mut self, alike: &Alike) {
        self.entries.rest(&alike.entries);
        self.offsets.rest(&alike.offsets);
        self.undefined.shrink_to_fit();
        self.bases.values.shrink_to_fit();
        self.bases.exponents.shrink_to_fit();
    }

    /// Whether the columns of both are in the same place of memory.
    #[cfg(test)]
    pub(crate) fn is_one_with(&self, other: &SourceWriter) -> bool {
        std::ptr::eq(&raw const self.entries[..], &raw const other.entries[..])
            && std::ptr::eq(&raw const self.offsets[..], &raw const other.offsets[..])
    }

    /// The column's labels as bytes: equal for equal labels. `None` where the place is free.
    pub(crate) fn entry(&self, column: u32) -> Option<&[u8]> {
        let start = *self.offsets.get(column as usize).filter(|offset| **offset != FREE)?;
        let bytes = &self.entries[start as usize..];
        let mut cursor = Cursor::new(bytes);
        _ = walk_entry(&mut cursor, |_| {});
        Some(&bytes[..bytes.len() - cursor.rest().len()])
    }

    /// What [`SourceWriter::entry`] of a column with these labels would be.
    pub(crate) fn entry_of(&self, labels: &Labels, symbols: &mut Symbols, out: &mut Vec<u8>) {
        out.clear();
        encode_labels(&self.labels, labels, symbols, out);
    }

    /// Lets go of the columns that `keep` does not want; their places are free. Only between segments.
    pub(crate) fn retain_columns(&mut self, mut keep: impl FnMut(u32) -> bool) -> Vec<u32> {
        let columns = self.offsets.len() as u32;
        let kept: Vec<bool> = (0..columns).map(|column| self.has_column(column) && keep(column)).collect();
        let free: Vec<u32> = (0..columns).filter(|column| !kept[*column as usize]).collect();
        if free.iter().any(|column| self.has_column(*column)) {
            let mut entries = Vec::with_capacity(self.entries.len());
            let mut offsets = vec![FREE; kept.len()];
            for column in (0..columns).filter(|column| kept[*column as usize]) {
                offsets[column as usize] = entries.len() as u32;
                entries.extend_from_slice(self.entry(column).unwrap_or_default());
            }
            (self.entries, self.offsets) = (entries.into(), offsets.into());
        }
        free
    }

    /// Names all symbols in use to `mark`.
    pub(crate) fn each_symbol(&self, mut mark: impl FnMut(u32)) {
        for (name, value) in &self.labels {
            mark(*name);
            mark(*value);
        }
        for column in 0..self.offsets.len() as u32 {
            if let Some(entry) = self.entry(column) {
                _ = walk_entry(&mut Cursor::new(entry), &mut mark);
            }
        }
    }

    /// The last block of the present segment in which the source was cleared; `None` when it has no rows
    /// in the segment of `writer`.
    pub(crate) fn cleared_in(&self, writer: &BlockWriter) -> Option<u32> {
        (self.segment == writer.segment && self.bases.last_ms.is_some()).then_some(self.cleared_in)
    }
}

/// `head │ (name, value) of the labels that the source does not have so │ names that only the source has`,
/// all symbols; the head is `kind │ bit 3: there are such names │ number of pairs << 4`.
fn encode_labels(shared: &[(u32, u32)], labels: &Labels, symbols: &mut Symbols, out: &mut Vec<u8>) {
    let mut own: smallvec::SmallVec<[(u32, u32); 16]> = smallvec::SmallVec::new();
    let mut found: smallvec::SmallVec<[u32; 16]> = smallvec::SmallVec::new();
    for (name, value) in labels {
        let pair = (symbols.intern(name), symbols.intern(value));
        let of_source = shared.iter().find(|(name, _)| *name == pair.0);
        if of_source.is_some() {
            found.push(pair.0);
        }
        if of_source != Some(&pair) {
            own.push(pair);
        }
    }
    let lacking = shared.len() - found.len();
    put_varint(out, (own.len() as u64) << 4 | if lacking > 0 { 8 } else { 0 } | KIND_FLOAT);
    for (name, value) in own {
        put_varint(out, u64::from(name));
        put_varint(out, u64::from(value));
    }
    if lacking > 0 {
        put_varint(out, lacking as u64);
        for (name, _) in shared.iter().filter(|(name, _)| !found.contains(name)) {
            put_varint(out, u64::from(*name));
        }
    }
}

/// Names the symbols of an entry in turn, and leaves the cursor behind it. Returns the number of pairs
/// and of names that lack.
fn walk_entry(cursor: &mut Cursor<'_>, mut symbol: impl FnMut(u32)) -> Option<(u64, Option<u64>)> {
    let head = cursor.varint().ok()?;
    let pairs = head >> 4;
    for _ in 0..pairs * 2 {
        symbol(cursor.varint().ok()? as u32);
    }
    if head & 8 == 0 {
        return Some((pairs, None));
    }
    let lacking = cursor.varint().ok()?;
    for _ in 0..lacking {
        symbol(cursor.varint().ok()? as u32);
    }
    Some((pairs, Some(lacking)))
}

/// Writes one block at a time.
pub(crate) struct BlockWriter {
    /// Under whose name the rows are queued; may be empty.
    cluster: String,
    /// Counts segments from 1.
    segment: u64,
    index: u32,
    /// The last block with additions to the dictionary was the one before this.
    dictionary_end: u32,
    /// Sources in the segment's dictionary.
    sources_defined: u32,
    open: Open,
    changed: Vec<u32>,
    compressor: Option<zstd::bulk::Compressor<'static>>,
}

/// The block that is being written.
#[derive(Debug, Default)]
struct Open {
    additions: Additions,
    sources: (u64, Vec<u8>),
    columns: (u64, Vec<u8>),
    heads: Vec<u8>,
    masks: Vec<u8>,
    values: Vec<u8>,
    extras: Vec<u8>,
    metadata: Vec<u8>,
    accounts: Vec<u8>,
    batches: Vec<BatchCounts>,
    base_ms: Option<i64>,
    last_source: i64,
    header: Header,
}

#[derive(Debug)]
struct BatchCounts {
    policy: Policy,
    rows: u64,
    metadata: u64,
    accounts: u64,
}

impl std::fmt::Debug for BlockWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockWriter")
            .field("segment", &self.segment)
            .field("index", &self.index)
            .field("open", &self.open.header)
            .finish_non_exhaustive()
    }
}

impl BlockWriter {
    pub(crate) fn new(cluster: &str) -> BlockWriter {
        BlockWriter {
            cluster: cluster.to_owned(),
            segment: NO_SEGMENT + 1,
            index: 0,
            dictionary_end: 0,
            sources_defined: 0,
            open: Open::default(),
            changed: Vec::new(),
            compressor: None,
        }
    }

    /// Begins a segment with an empty dictionary and no bases. The open block must have been finished.
    pub(crate) fn start_segment(&mut self, symbols: &mut Symbols) {
        assert!(self.is_empty(), "a segment ends between blocks");
        self.segment += 1;
        self.index = 0;
        self.dictionary_end = 0;
        self.sources_defined = 0;
        symbols.start_segment();
    }

    /// Counts segments.
    pub(crate) fn segment(&self) -> u64 {
        self.segment
    }

    /// Number within the segment of the block that is being written.
    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    /// Whether the open block holds nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.open.batches.is_empty()
    }

    /// Samples in the open block.
    pub(crate) fn samples(&self) -> usize {
        self.open.header.samples as usize
    }

    /// Rows in the open block.
    pub(crate) fn rows(&self) -> usize {
        self.open.header.rows as usize
    }

    /// Bytes of the open block, before they are packed.
    pub(crate) fn bytes(&self) -> usize {
        let open = &self.open;
        [&open.heads, &open.masks, &open.values, &open.extras, &open.metadata, &open.accounts]
            .iter()
            .chain(&[&open.additions.texts, &open.sources.1, &open.columns.1])
            .map(|stream| stream.len())
            .sum()
    }

    /// What follows is under `policy`: goes on with the batch before when that has the same.
    pub(crate) fn begin_batch(&mut self, policy: Policy) {
        if self.open.batches.last().is_none_or(|batch| batch.policy != policy) {
            self.open.batches.push(BatchCounts { policy, rows: 0, metadata: 0, accounts: 0 });
        }
    }

    fn batch(&mut self) -> &mut BatchCounts {
        self.open.batches.last_mut().expect("begin_batch comes first")
    }

    /// Takes the last batch back if nothing has been appended to it.
    pub(crate) fn forget_empty_batch(&mut self) {
        self.open.batches.pop_if(|batch| batch.rows + batch.metadata + batch.accounts == 0);
    }

    /// Appends a row; `clear` forgets the source's bases first. The first row of a source in a segment must.
    pub(crate) fn row(
        &mut self,
        source: &mut SourceWriter,
        symbols: &mut Symbols,
        row: &RowParts<'_>,
        clear: bool,
    ) {
        self.define(source, symbols);
        self.batch().rows += 1;
        if clear {
            source.bases.clear();
            source.cleared_in = self.index;
        }
        let open = &mut self.open;
        let base_ms = *open.base_ms.get_or_insert(row.timestamp_ms);
        let bases = &mut source.bases;
        let (shape_bits, expected_shape) = match row.columns {
            RowColumns::Shape(at) if at == bases.next_shape => (SHAPE_EXPECTED, Some(at)),
            RowColumns::Shape(at) => (SHAPE_KNOWN, Some(at)),
            RowColumns::Runs(_) => (SHAPE_NEW, None),
            RowColumns::Markers(_) => (MARKERS, None),
        };
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        let head = shape_bits
            | flag(clear, CLEAR)
            | flag(!row.histograms.is_empty(), HISTOGRAMS)
            | flag(!row.starts.is_empty(), STARTS)
            | flag(!row.exemplars.is_empty(), EXEMPLARS);
        put_zigzag(&mut open.heads, i64::from(source.number) - open.last_source);
        open.last_source = i64::from(source.number);
        open.heads.push(head);
        put_zigzag(
            &mut open.heads,
            row.timestamp_ms.wrapping_sub(bases.expected_ms(expected_shape, base_ms)),
        );
        match row.columns {
            RowColumns::Shape(at) => {
                if shape_bits == SHAPE_KNOWN {
                    put_varint(&mut open.heads, at as u64);
                }
                open.put_values(bases, ShapeRuns::Known(at), row.values, &mut self.changed);
                bases.use_shape(at, row.timestamp_ms);
            }
            RowColumns::Runs(runs) => {
                put_runs(runs, &mut open.heads);
                open.put_values(bases, ShapeRuns::Given(runs), row.values, &mut self.changed);
                bases.add_shape(runs, row.timestamp_ms);
            }
            RowColumns::Markers(runs) => put_runs(runs, &mut open.heads),
        }
        bases.last_ms = Some(row.timestamp_ms);
        open.put_extras(bases, row);
        let markers = match row.columns {
            RowColumns::Markers(runs) => runs.iter().map(|run| run.len).sum(),
            _ => 0,
        };
        let samples = (row.values.len() + row.histograms.len()) as u32 + markers;
        let header = &mut open.header;
        if header.rows == 0 {
            (header.oldest_ms, header.newest_ms) = (row.timestamp_ms, row.timestamp_ms);
        }
        header.oldest_ms = header.oldest_ms.min(row.timestamp_ms);
        header.newest_ms = header.newest_ms.max(row.timestamp_ms);
        header.rows += 1;
        header.samples += samples;
        header.back = header.back.max(self.index - source.cleared_in);
    }

    /// Appends what a source says about a metric family.
    pub(crate) fn metadata(
        &mut self,
        source: &mut SourceWriter,
        symbols: &mut Symbols,
        metric: &str,
        metadata: &Metadata,
    ) {
        self.define(source, symbols);
        self.batch().metadata += 1;
        put_metadata(source.number, metric, metadata, &mut self.open.metadata);
    }

    /// Appends what was due of a source.
    pub(crate) fn account(&mut self, source: &mut SourceWriter, symbols: &mut Symbols, account: &Account) {
        self.define(source, symbols);
        self.batch().accounts += 1;
        let at_ms = match account {
            Account::Begin { at_ms, .. } | Account::End { at_ms, .. } => *at_ms,
            Account::Tick { tick_ms, .. } => *tick_ms,
        };
        let base_ms = *self.open.base_ms.get_or_insert(at_ms);
        put_account(source.number, account, base_ms, &mut self.open.accounts);
    }

    /// Makes sure that the segment's dictionary has the source and its columns.
    fn define(&mut self, source: &mut SourceWriter, symbols: &mut Symbols) {
        let open = &mut self.open;
        if source.segment != self.segment {
            source.segment = self.segment;
            source.number = self.sources_defined;
            self.sources_defined += 1;
            source.bases.clear();
            source.undefined = (0..source.offsets.len() as u32).collect();
            open.sources.0 += 1;
            open.sources.1.extend_from_slice(&source.id.0.to_le_bytes());
            put_varint(&mut open.sources.1, source.labels.len() as u64);
            for (name, value) in &source.labels {
                for symbol in [name, value] {
                    put_varint(&mut open.sources.1, u64::from(symbols.define(*symbol, &mut open.additions)));
                }
            }
        }
        if source.undefined.is_empty() {
            return;
        }
        let mut undefined = std::mem::take(&mut source.undefined);
        undefined.retain(|column| source.offsets[*column as usize] != FREE);
        undefined.sort_unstable();
        for run in undefined.chunk_by(|a, b| a + 1 == *b) {
            open.columns.0 += 1;
            put_varint(&mut open.columns.1, u64::from(source.number));
            put_varint(&mut open.columns.1, u64::from(run[0]));
            put_varint(&mut open.columns.1, run.len() as u64);
            for column in run {
                open.put_entry(source.entry(*column).unwrap_or_default(), symbols);
            }
        }
    }

    /// Ends the block. `first_batch` is the number of its first batch.
    ///
    /// # Errors
    /// What zstd says.
    pub(crate) fn finish(&mut self, first_batch: u64) -> std::io::Result<(Header, Vec<u8>)> {
        let open = std::mem::take(&mut self.open);
        let mut header = open.header;
        header.index = self.index;
        // Also when packing fails: the block was, and nobody has it, so the segment is over.
        self.index += 1;
        header.dictionary = self.dictionary_end;
        header.first_batch = first_batch;
        header.batches = open.batches.len() as u32;
        let compressor = match &mut self.compressor {
            Some(compressor) => compressor,
            none => none.insert(zstd::bulk::Compressor::new(ZSTD_LEVEL)?),
        };
        let dictionary = open.dictionary();
        let packed = if dictionary.is_empty() { Vec::new() } else { compressor.compress(&dictionary)? };
        let body = open.body();
        let body = (&compressor.compress(&body)?[..], body.len());
        let block = seal(&header, &self.cluster, (&packed, dictionary.len()), body);
        if !packed.is_empty() {
            self.dictionary_end = self.index;
        }
        Ok((header, block))
    }
}

/// Where a row's columns stand.
enum ShapeRuns<'a> {
    Known(usize),
    Given(&'a [Run]),
}

impl Open {
    fn put_values(&mut self, bases: &mut Bases, runs: ShapeRuns<'_>, values: &[f64], changed: &mut Vec<u32>) {
        changed.clear();
        let Bases { values: before, exponents, shapes, .. } = bases;
        let runs = match runs {
            ShapeRuns::Known(at) => &shapes[at].runs,
            ShapeRuns::Given(runs) => runs,
        };
        let mut at = 0;
        for run in runs {
            let now = &values[at..at + run.len as usize];
            let (before, exponents) = (&mut before[run.range()], &mut exponents[run.range()]);
            for (i, ((now, before), exponent)) in now.iter().zip(before).zip(exponents).enumerate() {
                let bits = now.to_bits();
                if bits != *before {
                    changed.push((at + i) as u32);
                    put_change(*before, exponent, bits, &mut self.values);
                    *before = bits;
                }
            }
            at += run.len as usize;
        }
        put_mask(values.len(), changed, &mut self.masks);
    }

    fn put_extras(&mut self, bases: &mut Bases, row: &RowParts<'_>) {
        if !row.histograms.is_empty() {
            put_histograms(row.histograms, bases, &mut self.extras);
        }
        if !row.starts.is_empty() {
            put_starts(row.starts, bases, row.timestamp_ms, &mut self.extras);
        }
        if !row.exemplars.is_empty() {
            put_exemplars(row.exemplars, row.timestamp_ms, &mut self.extras);
        }
    }

    /// Copies an entry, its symbols as the segment's dictionary knows them.
    fn put_entry(&mut self, entry: &[u8], symbols: &mut Symbols) {
        let mut cursor = Cursor::new(entry);
        let head = cursor.varint().unwrap_or(KIND_FLOAT);
        put_varint(&mut self.columns.1, head);
        let mut left = (head >> 4) * 2;
        let mut names_follow = head & 8 != 0;
        while left > 0 || names_follow {
            if left == 0 {
                names_follow = false;
                left = cursor.varint().unwrap_or(0);
                put_varint(&mut self.columns.1, left);
                continue;
            }
            let symbol = cursor.varint().unwrap_or(0) as u32;
            let symbol = symbols.define(symbol, &mut self.additions);
            put_varint(&mut self.columns.1, u64::from(symbol));
            left -= 1;
        }
    }

    fn dictionary(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if self.additions.symbols + self.sources.0 + self.columns.0 == 0 {
            return out;
        }
        let parts = [
            (self.additions.symbols, &self.additions.texts),
            (self.sources.0, &self.sources.1),
            (self.columns.0, &self.columns.1),
        ];
        for (count, bytes) in parts {
            put_varint(&mut out, count);
            out.extend_from_slice(bytes);
        }
        out
    }

    fn body(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_zigzag(&mut out, self.base_ms.unwrap_or(0));
        for batch in &self.batches {
            out.push(policy_code(batch.policy));
            for count in [batch.rows, batch.metadata, batch.accounts] {
                put_varint(&mut out, count);
            }
        }
        let streams = [&self.heads, &self.masks, &self.values, &self.extras, &self.metadata, &self.accounts];
        for stream in streams {
            put_varint(&mut out, stream.len() as u64);
        }
        for stream in streams {
            out.extend_from_slice(stream);
        }
        out
    }
}
