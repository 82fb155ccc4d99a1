//! Writing the label index: symbols (SYM), labels of the series (LBL), postings (PST).
//!
//! While series stream by in part order, each label name keeps its values and the runs of series that
//! have each. At the end the values of a name are sorted, which numbers all (name, value) pairs of the
//! part: names in order, values in order within them. The three sections are views of the runs by that
//! number.

use std::collections::HashMap;
use std::io;

use model::Labels;
use stdx::bytes::{put_text, put_varint, zigzag};

use super::chunks::{CHUNK_BYTES, ChunkWriter};
use super::layout::SectionId;
use super::sections::SectionsWriter;
use crate::codec::encode_ints;

/// Series in a page of LBL.
pub(super) const PAGE_SERIES: u32 = 4096;
/// Pairs in a chunk of PST's directory.
pub(super) const PAIRS_PER_CHUNK: u32 = 1024;
/// Series numbers in one integer block of a posting list.
pub(super) const POSTINGS_BLOCK: usize = 4096;

/// Collects the labels of series in part order.
#[derive(Debug, Default)]
pub(super) struct LabelsWriter {
    /// By name.
    names: std::collections::BTreeMap<Box<str>, NameRuns>,
    series: u32,
}

#[derive(Debug, Default)]
struct NameRuns {
    numbers: HashMap<Box<str>, u32, foldhash::fast::RandomState>,
    runs: Vec<Run>,
    last_value: Box<str>,
}

/// Series `first..first + len` have value `value`.
#[derive(Debug, Clone, Copy)]
struct Run {
    first: u32,
    len: u32,
    value: u32,
}

impl LabelsWriter {
    /// Adds the next series.
    pub(super) fn add(&mut self, labels: &Labels) {
        for (name, value) in labels {
            let runs = match self.names.get_mut(name) {
                Some(runs) => runs,
                None => self.names.entry(name.into()).or_default(),
            };
            runs.add(self.series, value);
        }
        self.series += 1;
    }

    /// Writes the three sections; an error text when something is too large to be read again.
    pub(super) fn finish(self, out: &mut SectionsWriter) -> io::Result<Option<String>> {
        let mut names = Vec::with_capacity(self.names.len());
        for (name, runs) in self.names {
            let (values, runs) = runs.sort();
            names.push(SortedName { name, values, runs });
        }
        let too_large = write_symbols(&names, out)? | write_labels(&names, self.series, out)?;
        write_postings(&names, out)?;
        Ok(too_large.then(|| "the labels are too large".to_owned()))
    }
}

impl NameRuns {
    fn add(&mut self, series: u32, value: &str) {
        if let Some(run) = self.runs.last_mut()
            && *self.last_value == *value
        {
            if run.first + run.len == series {
                run.len += 1;
            } else {
                let again = Run { first: series, len: 1, value: run.value };
                self.runs.push(again);
            }
            return;
        }
        let number = match self.numbers.get(value) {
            Some(&number) => number,
            None => {
                let number = self.numbers.len() as u32;
                self.numbers.insert(value.into(), number);
                number
            }
        };
        self.runs.push(Run { first: series, len: 1, value: number });
        self.last_value = value.into();
    }

    /// The values, sorted, and the runs by their rank.
    fn sort(mut self) -> (Vec<Box<str>>, Vec<Run>) {
        let mut values: Vec<(Box<str>, u32)> = self.numbers.into_iter().collect();
        values.sort_unstable();
        let mut ranks = vec![0; values.len()];
        for (rank, (_, number)) in (0u32..).zip(&values) {
            ranks[*number as usize] = rank;
        }
        for run in &mut self.runs {
            run.value = ranks[run.value as usize];
        }
        (values.into_iter().map(|(value, _)| value).collect(), self.runs)
    }
}

struct SortedName {
    name: Box<str>,
    values: Vec<Box<str>>,
    runs: Vec<Run>,
}

/// SYM: values in pair order, front-coded in chunks; the names in the index.
///
/// ```text
/// chunk: n × (bytes shared with the value before varint │ rest, length-prefixed); the first shares none
/// extra: n chunks × first value │ n names varint, n × (name │ values varint)
/// ```
fn write_symbols(names: &[SortedName], out: &mut SectionsWriter) -> io::Result<bool> {
    let mut chunks = ChunkWriter::default();
    let (mut raw, mut firsts, mut first_pair, mut pair) = (Vec::new(), Vec::new(), 0u32, 0u32);
    let mut before: &str = "";
    for value in names.iter().flat_map(|n| &n.values) {
        if raw.is_empty() {
            (first_pair, before) = (pair, "");
            put_text(&mut firsts, value);
        }
        let shared = shared_prefix(before, value);
        put_varint(&mut raw, shared as u64);
        put_text(&mut raw, &value[shared..]);
        before = value;
        pair += 1;
        if raw.len() >= CHUNK_BYTES {
            chunks.add(first_pair, &raw);
            raw.clear();
        }
    }
    if !raw.is_empty() {
        chunks.add(first_pair, &raw);
    }
    put_varint(&mut firsts, names.len() as u64);
    for name in names {
        put_text(&mut firsts, &name.name);
        put_varint(&mut firsts, name.values.len() as u64);
    }
    out.begin(SectionId::Symbols);
    out.write(&chunks.bytes)?;
    out.end(&chunks.index(0, &firsts))?;
    Ok(chunks.is_too_large())
}

/// Bytes two texts share at the start, cut at a character.
fn shared_prefix(a: &str, b: &str) -> usize {
    let mut shared = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    while !b.is_char_boundary(shared) {
        shared -= 1;
    }
    shared
}

/// LBL: a chunk for every [`PAGE_SERIES`] series.
///
/// ```text
/// chunk: n names varint │ n × (name number varint │ runs varint │ runs × (length varint, value))
/// value: 0 absent, else 1 + zigzag of the difference to the value before in the page, varint
/// ```
fn write_labels(names: &[SortedName], series: u32, out: &mut SectionsWriter) -> io::Result<bool> {
    let mut chunks = ChunkWriter::default();
    let mut cursors = vec![0usize; names.len()];
    let mut first = 0;
    let (mut raw, mut column) = (Vec::new(), Vec::new());
    while first < series {
        let end = series.min(first.saturating_add(PAGE_SERIES));
        raw.clear();
        let mut present = 0u64;
        for (number, (name, cursor)) in (0u64..).zip(names.iter().zip(&mut cursors)) {
            column.clear();
            let runs = label_page(&name.runs, cursor, first, end, &mut column);
            if runs > 0 {
                present += 1;
                put_varint(&mut raw, number);
                put_varint(&mut raw, runs);
                raw.extend_from_slice(&column);
            }
        }
        let mut page = Vec::with_capacity(raw.len() + 3);
        put_varint(&mut page, present);
        page.extend_from_slice(&raw);
        chunks.add(first, &page);
        first = end;
    }
    out.begin(SectionId::Labels);
    out.write(&chunks.bytes)?;
    out.end(&chunks.index(0, &[]))?;
    Ok(chunks.is_too_large())
}

/// Appends the runs of one name within series `first..end`; gives how many, gaps included.
fn label_page(runs: &[Run], cursor: &mut usize, first: u32, end: u32, out: &mut Vec<u8>) -> u64 {
    let (mut count, mut at, mut before) = (0, first, 0i64);
    while let Some(run) = runs.get(*cursor).filter(|run| run.first < end) {
        let from = run.first.max(first);
        if from > at {
            put_varint(out, u64::from(from - at));
            out.push(0);
            count += 1;
        }
        let stop = (run.first + run.len).min(end);
        put_varint(out, u64::from(stop - from));
        let value = i64::from(run.value);
        put_varint(out, 1 + zigzag(value - before));
        (before, at, count) = (value, stop, count + 1);
        if run.first + run.len > end {
            break;
        }
        *cursor += 1;
    }
    count
}

/// PST: the series of each pair.
///
/// ```text
/// section: lists │ chunks of 1,024 directory entries │ index
/// chunk:   offset of its first list varint │ n × (series varint │ length × 2 + kind varint)
/// list 0:  runs: n × (gap to the end of the run before varint │ series - 1 varint)
/// list 1:  integer blocks of 4,096 numbers
/// ```
fn write_postings(names: &[SortedName], out: &mut SectionsWriter) -> io::Result<()> {
    let mut chunks = ChunkWriter::default();
    let (mut entries, mut list, mut other) = (Vec::new(), Vec::new(), Vec::new());
    let (mut offset, mut pair) = (0u64, 0u32);
    out.begin(SectionId::Postings);
    for name in names {
        let mut runs = name.runs.clone();
        // Stable: runs of a value stay in series order.
        runs.sort_by_key(|run| run.value);
        for runs in runs.chunk_by(|a, b| a.value == b.value) {
            if entries.is_empty() {
                put_varint(&mut entries, offset);
            }
            let kind = encode_list(runs, &mut list, &mut other);
            let series: u64 = runs.iter().map(|run| u64::from(run.len)).sum();
            put_varint(&mut entries, series);
            put_varint(&mut entries, (list.len() as u64) << 1 | kind);
            out.write(&list)?;
            offset += list.len() as u64;
            pair += 1;
            if pair.is_multiple_of(PAIRS_PER_CHUNK) {
                chunks.add(pair - PAIRS_PER_CHUNK, &entries);
                entries.clear();
            }
        }
    }
    if !entries.is_empty() {
        chunks.add(pair / PAIRS_PER_CHUNK * PAIRS_PER_CHUNK, &entries);
    }
    out.write(&chunks.bytes)?;
    out.end(&chunks.index(offset, &[]))
}

/// Puts the shorter form of a list into `list` and gives its kind.
fn encode_list(runs: &[Run], list: &mut Vec<u8>, other: &mut Vec<u8>) -> u64 {
    list.clear();
    let mut end = 0;
    for run in runs {
        put_varint(list, u64::from(run.first - end));
        put_varint(list, u64::from(run.len - 1));
        end = run.first + run.len;
    }
    if runs.len() <= 8 {
        return 0;
    }
    other.clear();
    let mut block = Vec::with_capacity(POSTINGS_BLOCK);
    for number in runs.iter().flat_map(|run| run.first..run.first + run.len) {
        block.push(i64::from(number));
        if block.len() == POSTINGS_BLOCK {
            encode_ints(&block, other);
            block.clear();
        }
    }
    encode_ints(&block, other);
    if other.len() < list.len() {
        std::mem::swap(list, other);
        return 1;
    }
    0
}
