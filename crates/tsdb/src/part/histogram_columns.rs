//! Blocks of native histograms: a column of integers for each bucket.
//!
//! ```text
//! block:   form u8
//! form 0:  histograms one after the other, each as its difference to the one before (histograms.rs)
//! form 1:  groups, until all rows are there
//! group:   rows varint │ head u8 │ schema zigzag │ zero threshold u64 │ n varint, n × custom bound u64
//!          │ n varint, n × (rows varint │ spans + │ spans -)
//!          │ [hints, integers] │ sums, values │ counts │ zero counts │ buckets + … │ buckets - …
//! head:    bit 0 float counts │ bit 1 a column of hints │ bits 2-3 the hint of all rows
//! ```
//!
//! A group has rows of one schema, zero threshold, custom bounds and kind of counts. Its spans may grow:
//! there is a column for every bucket that any of its rows has, and rows have 0 where they do not have
//! the bucket. Integer buckets are absolute in columns, and a count is what it differs from the sum of
//! all buckets: 0 nearly always. All integer arithmetic wraps, so that every bit comes back.
//!
//! Rows that do not fit (spans out of order, other numbers of buckets than the spans say) go to form 0, as
//! do those that are smaller there.

use std::ops::Range;

use model::Histogram;
use model::histogram::{Buckets, CounterResetHint, Span};
use stdx::bytes::{Cursor, put_varint, put_zigzag};

use super::histograms::{
    decode_histogram, encode_histogram, hint_code, hint_of, put_spans, read_bounds, read_spans,
};
use crate::codec::{CodecError, decode_ints, decode_values, encode_ints, encode_values};

const ROWS: u8 = 0;
const COLUMNS: u8 = 1;

const FLOAT: u8 = 1;
const HINTS: u8 = 2;

/// Buckets of one side of a histogram that go to columns.
const BUCKETS_MAX: usize = 1 << 17;
/// Buckets that a group may have beyond twice those of its first row, before another one starts.
const GROWTH: usize = 32;

/// Appends a block.
pub(super) fn encode_block(histograms: &[&Histogram], out: &mut Vec<u8>) {
    let mut rows = vec![ROWS];
    let mut previous = None;
    for histogram in histograms {
        encode_histogram(histogram, previous, &mut rows);
        previous = Some(*histogram);
    }
    let columns = groups(histograms).map(|groups| {
        let mut columns = vec![COLUMNS];
        groups.iter().for_each(|group| group.put(&mut columns));
        columns
    });
    let smallest = columns.filter(|columns| columns.len() <= rows.len()).unwrap_or(rows);
    out.extend_from_slice(&smallest);
}

/// Reads a block of `rows` histograms and hands those `wanted` to `visit`, with their rows.
pub(super) fn decode_block(
    bytes: &[u8],
    rows: usize,
    wanted: Range<usize>,
    mut visit: impl FnMut(usize, Histogram),
) -> Result<(), CodecError> {
    let mut reader = Cursor::new(bytes);
    match reader.byte()? {
        ROWS => decode_rows(&mut reader, rows, wanted, visit),
        COLUMNS => {
            let mut row = 0;
            while row < rows {
                let group = Decoded::read(&mut reader, bytes, rows - row)?;
                let here = wanted.start.max(row)..wanted.end.min(row + group.rows);
                group.histograms(here.start.saturating_sub(row)..here.end.saturating_sub(row), |at, h| {
                    visit(row + at, h);
                });
                row += group.rows;
            }
            Ok(())
        }
        _ => Err(CodecError::Malformed("a block of histograms has an unknown form")),
    }
}

/// Reads histograms that stand one after the other.
pub(super) fn decode_rows(
    reader: &mut Cursor<'_>,
    rows: usize,
    wanted: Range<usize>,
    mut visit: impl FnMut(usize, Histogram),
) -> Result<(), CodecError> {
    let mut previous: Option<Histogram> = None;
    for row in 0..rows.min(wanted.end) {
        let histogram = decode_histogram(reader, previous.as_ref())?;
        if wanted.contains(&row) {
            visit(row, histogram.clone());
        }
        previous = Some(histogram);
    }
    Ok(())
}

/// The indexes of the buckets of `spans`; `None` when they are out of order or too many.
fn indexes(spans: &[Span]) -> Option<Vec<i64>> {
    let mut out = Vec::new();
    let mut next = 0i64;
    for (at, span) in spans.iter().enumerate() {
        if at > 0 && span.offset < 0 {
            return None;
        }
        next += i64::from(span.offset);
        let end = next + i64::from(span.length);
        if out.len() + span.length as usize > BUCKETS_MAX {
            return None;
        }
        out.extend(next..end);
        next = end;
    }
    Some(out)
}

/// What is in `a` or `b`, both ascending.
fn union(a: &[i64], b: &[i64]) -> Vec<i64> {
    let mut out = Vec::with_capacity(a.len().max(b.len()));
    let (mut a, mut b) = (a.iter().copied().peekable(), b.iter().copied().peekable());
    while let Some(least) = a.peek().into_iter().chain(b.peek()).min().copied() {
        a.next_if_eq(&least);
        b.next_if_eq(&least);
        out.push(least);
    }
    out
}

/// Consecutive rows with the same spans.
struct Run<'a> {
    rows: Range<usize>,
    spans: [&'a [Span]; 2],
    indexes: [Vec<i64>; 2],
}

/// Rows that share columns.
struct Group<'a> {
    rows: Vec<&'a Histogram>,
    runs: Vec<Run<'a>>,
    /// The indexes of all buckets of each side.
    buckets: [Vec<i64>; 2],
    first_buckets: usize,
}

fn groups<'a>(histograms: &[&'a Histogram]) -> Option<Vec<Group<'a>>> {
    let mut groups: Vec<Group<'a>> = Vec::new();
    for &histogram in histograms {
        let spans: [&[Span]; 2] = [&histogram.positive_spans, &histogram.negative_spans];
        let same = groups.last_mut().filter(|group| group.is_alike(histogram));
        if let Some(group) = same {
            let row = group.rows.len();
            let last = group.runs.last_mut().filter(|run| run.spans == spans);
            if let Some(run) = last {
                if !fits(histogram, &run.indexes) {
                    return None;
                }
                run.rows.end += 1;
                group.rows.push(histogram);
                continue;
            }
            let indexes = [indexes(spans[0])?, indexes(spans[1])?];
            let buckets = [0, 1].map(|side| union(&group.buckets[side], &indexes[side]));
            if buckets[0].len() + buckets[1].len() <= group.first_buckets * 2 + GROWTH {
                if !fits(histogram, &indexes) {
                    return None;
                }
                group.buckets = buckets;
                group.runs.push(Run { rows: row..row + 1, spans, indexes });
                group.rows.push(histogram);
                continue;
            }
        }
        let indexes = [indexes(spans[0])?, indexes(spans[1])?];
        if !fits(histogram, &indexes) {
            return None;
        }
        groups.push(Group {
            rows: vec![histogram],
            buckets: indexes.clone(),
            first_buckets: indexes[0].len() + indexes[1].len(),
            runs: vec![Run { rows: 0..1, spans, indexes }],
        });
    }
    Some(groups)
}

/// Whether a histogram has as many buckets as its spans say.
fn fits(histogram: &Histogram, indexes: &[Vec<i64>; 2]) -> bool {
    let lens = match &histogram.buckets {
        Buckets::Int { positive, negative, .. } => [positive.len(), negative.len()],
        Buckets::Float { positive, negative, .. } => [positive.len(), negative.len()],
    };
    lens == [indexes[0].len(), indexes[1].len()]
}

fn is_float(histogram: &Histogram) -> bool {
    matches!(histogram.buckets, Buckets::Float { .. })
}

impl Group<'_> {
    fn is_alike(&self, other: &Histogram) -> bool {
        let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        self.rows.last().is_some_and(|last| {
            last.schema == other.schema
                && last.zero_threshold.to_bits() == other.zero_threshold.to_bits()
                && is_float(last) == is_float(other)
                && bits(&last.custom_values) == bits(&other.custom_values)
        })
    }

    fn put(&self, out: &mut Vec<u8>) {
        let first = self.rows[0];
        let hints: Vec<i64> = self.rows.iter().map(|h| i64::from(hint_code(h.counter_reset_hint))).collect();
        let mixed = hints.iter().any(|hint| *hint != hints[0]);
        put_varint(out, self.rows.len() as u64);
        let float = if is_float(first) { FLOAT } else { 0 };
        out.push(float | if mixed { HINTS } else { (hints[0] as u8) << 2 });
        put_zigzag(out, i64::from(first.schema));
        out.extend_from_slice(&first.zero_threshold.to_bits().to_le_bytes());
        put_varint(out, first.custom_values.len() as u64);
        for bound in &first.custom_values {
            out.extend_from_slice(&bound.to_bits().to_le_bytes());
        }
        put_varint(out, self.runs.len() as u64);
        for run in &self.runs {
            put_varint(out, run.rows.len() as u64);
            run.spans.iter().for_each(|spans| put_spans(spans, out));
        }
        if mixed {
            encode_ints(&hints, out);
        }
        let sums: Vec<f64> = self.rows.iter().map(|histogram| histogram.sum).collect();
        encode_values(&sums, out);
        if is_float(first) { self.put_floats(out) } else { self.put_ints(out) }
    }

    fn put_ints(&self, out: &mut Vec<u8>) {
        let (mut counts, mut zeros) = (Vec::new(), Vec::new());
        // Absolute buckets by side and row.
        let mut absolute: [Vec<Vec<i64>>; 2] = Default::default();
        for histogram in &self.rows {
            let Buckets::Int { count, zero_count, positive, negative } = &histogram.buckets else { continue };
            let mut rest = count.wrapping_sub(*zero_count) as i64;
            for (deltas, side) in [positive, negative].into_iter().zip(&mut absolute) {
                let mut bucket = 0i64;
                let buckets = deltas.iter().map(|delta| {
                    bucket = bucket.wrapping_add(*delta);
                    rest = rest.wrapping_sub(bucket);
                    bucket
                });
                side.push(buckets.collect());
            }
            counts.push(rest);
            zeros.push(*zero_count as i64);
        }
        encode_ints(&counts, out);
        encode_ints(&zeros, out);
        self.put_columns(&absolute, 0, |column| encode_ints(column, out));
    }

    fn put_floats(&self, out: &mut Vec<u8>) {
        let (mut counts, mut zeros) = (Vec::new(), Vec::new());
        let mut absolute: [Vec<Vec<f64>>; 2] = Default::default();
        for histogram in &self.rows {
            let Buckets::Float { count, zero_count, positive, negative } = &histogram.buckets else {
                continue;
            };
            counts.push(*count);
            zeros.push(*zero_count);
            absolute[0].push(positive.clone());
            absolute[1].push(negative.clone());
        }
        encode_values(&counts, out);
        encode_values(&zeros, out);
        self.put_columns(&absolute, 0.0, |column| encode_values(column, out));
    }

    /// Makes a column of each bucket; `absent` where a row does not have it.
    fn put_columns<T: Copy>(&self, rows: &[Vec<Vec<T>>; 2], absent: T, mut put: impl FnMut(&[T])) {
        let mut column = Vec::with_capacity(self.rows.len());
        for (side, rows) in rows.iter().enumerate() {
            // Where each run is in its own indexes: these ascend as the columns do.
            let mut at = vec![0usize; self.runs.len()];
            for index in &self.buckets[side] {
                column.clear();
                for (run, at) in self.runs.iter().zip(&mut at) {
                    if run.indexes[side].get(*at) == Some(index) {
                        column.extend(rows[run.rows.clone()].iter().map(|row| row[*at]));
                        *at += 1;
                    } else {
                        column.resize(column.len() + run.rows.len(), absent);
                    }
                }
                put(&column);
            }
        }
    }
}

/// The columns of the counts of a group: one of counts, one of zero counts, one for each bucket of either
/// side, one after the other.
enum Columns {
    Int { counts: Vec<i64>, zeros: Vec<i64>, sides: [Vec<i64>; 2] },
    Float { counts: Vec<f64>, zeros: Vec<f64>, sides: [Vec<f64>; 2] },
}

/// A group as read.
struct Decoded {
    rows: usize,
    schema: i32,
    zero_threshold: f64,
    custom_values: Vec<f64>,
    hints: Vec<CounterResetHint>,
    sums: Vec<f64>,
    runs: Vec<DecodedRun>,
    columns: Columns,
}

struct DecodedRun {
    rows: usize,
    spans: [Vec<Span>; 2],
    /// The columns of its buckets.
    columns: [Vec<u32>; 2],
}

impl Decoded {
    fn read(reader: &mut Cursor<'_>, bytes: &[u8], rows_max: usize) -> Result<Decoded, CodecError> {
        const BAD: CodecError = CodecError::Malformed("a group of histograms has impossible rows");
        let rows = reader.at_most(rows_max)?;
        if rows == 0 {
            return Err(BAD);
        }
        let head = reader.byte()?;
        let schema = i32::try_from(reader.zigzag()?)
            .map_err(|_| CodecError::Malformed("a schema has more than 32 bits"))?;
        let zero_threshold = f64::from_bits(reader.u64_le()?);
        let custom_values = read_bounds(reader)?;
        let (runs, buckets) = read_runs(reader, rows)?;
        let hints = if head & HINTS != 0 {
            let mut codes = Vec::new();
            decode_column(reader, bytes, |bytes| decode_ints(bytes, rows, &mut codes))?;
            codes
                .iter()
                .map(|code| hint_of(u8::try_from(*code).unwrap_or(u8::MAX)))
                .collect::<Result<_, _>>()?
        } else {
            vec![hint_of(head >> 2)?; rows]
        };
        let mut sums = Vec::with_capacity(rows);
        decode_column(reader, bytes, |bytes| decode_values(bytes, rows, &mut sums))?;
        // Every column takes some bytes, which bounds what is reserved for them.
        if buckets[0] + buckets[1] > reader.remaining() {
            return Err(CodecError::Truncated);
        }
        let columns = if head & FLOAT != 0 {
            let mut read = |columns: usize| {
                let mut out = Vec::with_capacity(columns * rows);
                for _ in 0..columns {
                    decode_column(reader, bytes, |bytes| decode_values(bytes, rows, &mut out))?;
                }
                Ok::<_, CodecError>(out)
            };
            Columns::Float {
                counts: read(1)?,
                zeros: read(1)?,
                sides: [read(buckets[0])?, read(buckets[1])?],
            }
        } else {
            let mut read = |columns: usize| {
                let mut out = Vec::with_capacity(columns * rows);
                for _ in 0..columns {
                    decode_column(reader, bytes, |bytes| decode_ints(bytes, rows, &mut out))?;
                }
                Ok::<_, CodecError>(out)
            };
            Columns::Int { counts: read(1)?, zeros: read(1)?, sides: [read(buckets[0])?, read(buckets[1])?] }
        };
        Ok(Decoded { rows, schema, zero_threshold, custom_values, hints, sums, runs, columns })
    }

    /// Hands the histograms of `wanted` rows to `visit`.
    fn histograms(&self, wanted: Range<usize>, mut visit: impl FnMut(usize, Histogram)) {
        let mut first = 0;
        for run in &self.runs {
            for row in wanted.start.max(first)..wanted.end.min(first + run.rows) {
                let [positive_spans, negative_spans] = run.spans.clone();
                visit(
                    row,
                    Histogram {
                        counter_reset_hint: self.hints[row],
                        schema: self.schema,
                        zero_threshold: self.zero_threshold,
                        sum: self.sums[row],
                        positive_spans,
                        negative_spans,
                        custom_values: self.custom_values.clone(),
                        buckets: self.buckets(run, row),
                    },
                );
            }
            first += run.rows;
        }
    }

    fn buckets(&self, run: &DecodedRun, row: usize) -> Buckets {
        let cell = |column: &u32| *column as usize * self.rows + row;
        match &self.columns {
            Columns::Int { counts, zeros, sides } => {
                let mut count = (counts[row] as u64).wrapping_add(zeros[row] as u64);
                let mut side = |side: usize| {
                    let mut before = 0i64;
                    let deltas = run.columns[side].iter().map(|column| {
                        let bucket = sides[side][cell(column)];
                        count = count.wrapping_add(bucket as u64);
                        bucket.wrapping_sub(std::mem::replace(&mut before, bucket))
                    });
                    deltas.collect::<Vec<i64>>()
                };
                let (positive, negative) = (side(0), side(1));
                Buckets::Int { count, zero_count: zeros[row] as u64, positive, negative }
            }
            Columns::Float { counts, zeros, sides } => {
                let side =
                    |side: usize| run.columns[side].iter().map(|column| sides[side][cell(column)]).collect();
                Buckets::Float {
                    count: counts[row],
                    zero_count: zeros[row],
                    positive: side(0),
                    negative: side(1),
                }
            }
        }
    }
}

/// Rows of a run, the spans of either side, and the indexes of their buckets.
type Spans = (usize, [Vec<Span>; 2], [Vec<i64>; 2]);

/// The runs of a group of `rows` rows, and how many columns each side has.
fn read_runs(reader: &mut Cursor<'_>, rows: usize) -> Result<(Vec<DecodedRun>, [usize; 2]), CodecError> {
    const BAD: CodecError = CodecError::Malformed("a group of histograms has impossible spans");
    let count = reader.at_most(rows)?;
    let mut found: Vec<Spans> = Vec::with_capacity(count);
    let mut buckets: [Vec<i64>; 2] = Default::default();
    let mut left = rows;
    for _ in 0..count {
        let rows = reader.at_most(left)?;
        left -= rows;
        let spans = [read_spans(reader)?, read_spans(reader)?];
        let own = [indexes(&spans[0]).ok_or(BAD)?, indexes(&spans[1]).ok_or(BAD)?];
        if own[0].len() + own[1].len() > reader.remaining() {
            return Err(CodecError::Truncated);
        }
        for (all, own) in buckets.iter_mut().zip(&own) {
            *all = union(all, own);
        }
        found.push((rows, spans, own));
    }
    if left > 0 {
        return Err(BAD);
    }
    let columns = |side: usize, own: &[i64]| {
        let mut at = 0;
        let place = |index: &i64| {
            at += buckets[side][at..].partition_point(|other| other < index);
            at as u32
        };
        own.iter().map(place).collect()
    };
    let run = |(rows, spans, own): Spans| DecodedRun {
        rows,
        spans,
        columns: [columns(0, &own[0]), columns(1, &own[1])],
    };
    Ok((found.into_iter().map(run).collect(), [buckets[0].len(), buckets[1].len()]))
}

/// Reads a column with `decode`, which says how many bytes it took.
fn decode_column(
    reader: &mut Cursor<'_>,
    bytes: &[u8],
    decode: impl FnOnce(&[u8]) -> Result<usize, CodecError>,
) -> Result<(), CodecError> {
    let used = decode(bytes.get(reader.position()..).unwrap_or_default())?;
    reader.take(used)?;
    Ok(())
}
