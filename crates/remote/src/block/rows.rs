//! The head of a row, and what rows carry beside their values. Written and read side by side.

use model::{Exemplar, Histogram, LabelsBuilder, Metadata, MetricType};
use stdx::bytes::{Cursor, put_text, put_varint, put_zigzag};
use storage::{Account, Conflict, EndReason, Failure, Late, Outcome, Policy, Schedule, SourceRef};

use super::BlockError;
use super::bases::{Bases, Run};
use super::dictionary::COLUMNS_MAX;
use super::histograms::{put_histogram, read_histogram};

/// The source is cleared before the row.
pub(crate) const CLEAR: u8 = 1;
/// Every column has the staleness marker; the columns are spelled out and no shape.
pub(crate) const MARKERS: u8 = 2;
/// The two bits that say which columns the row has.
pub(crate) const SHAPE_BITS: u8 = 4 | 8;
/// The shape that is expected.
pub(crate) const SHAPE_EXPECTED: u8 = 0;
/// A shape by its number.
pub(crate) const SHAPE_KNOWN: u8 = 4;
/// A new shape, spelled out.
pub(crate) const SHAPE_NEW: u8 = 8;
pub(crate) const HISTOGRAMS: u8 = 16;
pub(crate) const STARTS: u8 = 32;
pub(crate) const EXEMPLARS: u8 = 64;
/// Bits without a meaning.
pub(crate) const RESERVED: u8 = 128;

/// Most columns in a row.
pub(crate) const ROW_COLUMNS_MAX: usize = COLUMNS_MAX;

pub(crate) fn put_runs(runs: &[Run], out: &mut Vec<u8>) {
    put_varint(out, runs.len() as u64);
    let mut next = 0i64;
    for run in runs {
        put_zigzag(out, i64::from(run.first) - next);
        put_varint(out, u64::from(run.len));
        next = i64::from(run.first) + i64::from(run.len);
    }
}

/// Reads runs of columns below `columns`, none of them twice, into `runs`; how many columns.
pub(crate) fn read_runs(
    cursor: &mut Cursor<'_>,
    columns: usize,
    runs: &mut Vec<Run>,
) -> Result<usize, BlockError> {
    const FOREIGN: BlockError = BlockError::Malformed("a row has a column that is not in the dictionary");
    runs.clear();
    let (mut next, mut total) = (0i64, 0usize);
    for _ in 0..cursor.count(2)? {
        let first = next.checked_add(cursor.zigzag()?).ok_or(FOREIGN)?;
        let len = cursor.small()?;
        let end = first.checked_add(i64::from(len)).ok_or(FOREIGN)?;
        if first < 0 || end > columns as i64 || len == 0 {
            return Err(FOREIGN);
        }
        runs.push(Run { first: first as u32, len });
        total += len as usize;
        next = end;
    }
    if total > ROW_COLUMNS_MAX || overlap(runs) {
        return Err(BlockError::Malformed("a row has a column twice"));
    }
    Ok(total)
}

fn overlap(runs: &[Run]) -> bool {
    let follow = |a: &Run, b: &Run| a.first + a.len <= b.first;
    if runs.windows(2).all(|pair| follow(&pair[0], &pair[1])) {
        return false;
    }
    let mut sorted = runs.to_vec();
    sorted.sort_unstable_by_key(|run| run.first);
    !sorted.windows(2).all(|pair| follow(&pair[0], &pair[1]))
}

/// Passes over what [`put_runs`] wrote.
pub(crate) fn skip_runs(cursor: &mut Cursor<'_>) -> Result<(), BlockError> {
    (0..cursor.count(2)?).try_for_each(|_| cursor.varint().and_then(|_| cursor.varint()).map(|_| ()))?;
    Ok(())
}

pub(crate) fn put_histograms(histograms: &[(u32, &Histogram)], bases: &mut Bases, out: &mut Vec<u8>) {
    put_varint(out, histograms.len() as u64);
    let mut next = 0i64;
    for (column, histogram) in histograms {
        put_zigzag(out, i64::from(*column) - next);
        put_histogram(histogram, bases.histograms.get(column), out);
        bases.histograms.insert(*column, (*histogram).clone());
        next = i64::from(*column) + 1;
    }
}

pub(crate) fn read_histograms(
    cursor: &mut Cursor<'_>,
    bases: &mut Bases,
    columns: usize,
    out: &mut Vec<(u32, Histogram)>,
) -> Result<(), BlockError> {
    let mut next = 0;
    for _ in 0..cursor.count(5)? {
        let column = read_column(cursor, &mut next, columns)?;
        let histogram = read_histogram(cursor, bases.histograms.get(&column))?;
        bases.histograms.insert(column, histogram.clone());
        out.push((column, histogram));
    }
    Ok(())
}

/// Reads a column as the difference to the column after the one before.
fn read_column(cursor: &mut Cursor<'_>, next: &mut i64, columns: usize) -> Result<u32, BlockError> {
    let column = next.wrapping_add(cursor.zigzag()?);
    if !(0..columns as i64).contains(&column) {
        return Err(BlockError::Malformed("a row has a column that is not in the dictionary"));
    }
    *next = column + 1;
    Ok(column as u32)
}

/// Passes over what [`put_histograms`] wrote: a histogram without its predecessor is as long.
pub(crate) fn skip_histograms(cursor: &mut Cursor<'_>) -> Result<(), BlockError> {
    let any = Histogram::stale();
    for _ in 0..cursor.count(5)? {
        cursor.zigzag()?;
        read_histogram(cursor, Some(&any))?;
    }
    Ok(())
}

/// Start timestamps: 0 when they are those of the last row that had some, else their number plus one.
pub(crate) fn put_starts(starts: &[(u32, i64)], bases: &mut Bases, timestamp_ms: i64, out: &mut Vec<u8>) {
    if bases.starts == starts {
        return put_varint(out, 0);
    }
    put_varint(out, starts.len() as u64 + 1);
    let (mut next, mut before) = (0i64, timestamp_ms);
    for (column, start_ms) in starts {
        put_zigzag(out, i64::from(*column) - next);
        put_zigzag(out, start_ms.wrapping_sub(before));
        next = i64::from(*column) + 1;
        before = *start_ms;
    }
    bases.starts.clear();
    bases.starts.extend_from_slice(starts);
}

/// Reads what [`put_starts`] wrote into the bases.
pub(crate) fn read_starts(
    cursor: &mut Cursor<'_>,
    bases: &mut Bases,
    columns: usize,
    timestamp_ms: i64,
) -> Result<(), BlockError> {
    let Some(count) = starts_count(cursor)? else { return Ok(()) };
    bases.starts.clear();
    let (mut next, mut before) = (0, timestamp_ms);
    for _ in 0..count {
        let column = read_column(cursor, &mut next, columns)?;
        before = before.wrapping_add(cursor.zigzag()?);
        bases.starts.push((column, before));
    }
    Ok(())
}

fn starts_count(cursor: &mut Cursor<'_>) -> Result<Option<u64>, BlockError> {
    let Some(count) = cursor.varint()?.checked_sub(1) else { return Ok(None) };
    if count > cursor.rest().len() as u64 / 2 {
        return Err(BlockError::Malformed("a count is past the end"));
    }
    Ok(Some(count))
}

/// Passes over what [`put_starts`] wrote.
pub(crate) fn skip_starts(cursor: &mut Cursor<'_>) -> Result<(), BlockError> {
    let count = starts_count(cursor)?.unwrap_or(0);
    (0..count).try_for_each(|_| cursor.varint().and_then(|_| cursor.varint()).map(|_| ()))?;
    Ok(())
}

pub(crate) fn put_exemplars(exemplars: &[(u32, &Exemplar)], timestamp_ms: i64, out: &mut Vec<u8>) {
    put_varint(out, exemplars.len() as u64);
    let mut next = 0i64;
    for (column, exemplar) in exemplars {
        put_zigzag(out, i64::from(*column) - next);
        next = i64::from(*column) + 1;
        put_varint(out, exemplar.labels.len() as u64);
        for (name, value) in &exemplar.labels {
            put_text(out, name);
            put_text(out, value);
        }
        out.extend_from_slice(&exemplar.value.to_bits().to_le_bytes());
        put_zigzag(out, exemplar.timestamp_ms.wrapping_sub(timestamp_ms));
    }
}

pub(crate) fn read_exemplars(
    cursor: &mut Cursor<'_>,
    columns: usize,
    timestamp_ms: i64,
    out: &mut Vec<(u32, Exemplar)>,
) -> Result<(), BlockError> {
    let mut next = 0;
    for _ in 0..cursor.count(11)? {
        let column = read_column(cursor, &mut next, columns)?;
        let mut labels = LabelsBuilder::default();
        for _ in 0..cursor.count(2)? {
            labels.set(cursor.text()?, cursor.text()?);
        }
        let value = f64::from_bits(cursor.u64_le()?);
        let timestamp_ms = timestamp_ms.wrapping_add(cursor.zigzag()?);
        out.push((column, Exemplar { labels: labels.build(), value, timestamp_ms }));
    }
    Ok(())
}

pub(crate) fn put_metadata(source: u32, metric: &str, metadata: &Metadata, out: &mut Vec<u8>) {
    put_varint(out, u64::from(source));
    put_text(out, metric);
    put_text(out, metadata.metric_type.as_str());
    put_text(out, &metadata.unit);
    put_text(out, &metadata.help);
}

pub(crate) fn read_metadata<'a>(cursor: &mut Cursor<'a>) -> Result<(u32, &'a str, Metadata), BlockError> {
    let (source, metric) = (cursor.small()?, cursor.text()?);
    let metric_type =
        MetricType::parse(cursor.text()?).ok_or(BlockError::Malformed("metadata has an unknown type"))?;
    let (unit, help) = (cursor.text()?.to_owned(), cursor.text()?.to_owned());
    Ok((source, metric, Metadata { metric_type, unit, help }))
}

/// Least bytes of an account.
pub(crate) const ACCOUNT_BYTES_MIN: usize = 3;

const FAILURES: [Failure; 7] = [
    Failure::Unreachable,
    Failure::Timeout,
    Failure::Status,
    Failure::Malformed,
    Failure::Limit,
    Failure::Other,
    Failure::SampleLimit,
];
const REASONS: [EndReason; 4] =
    [EndReason::Gone, EndReason::Reconfigured, EndReason::HandedOver, EndReason::Shutdown];

/// Appends an account of the source with this number in the segment.
pub(crate) fn put_account(source: u32, account: &Account, base_ms: i64, out: &mut Vec<u8>) {
    let (kind, at_ms) = match account {
        Account::Begin { at_ms, .. } => (0, *at_ms),
        Account::Tick { tick_ms, outcome: Outcome::Scraped { .. }, .. } => (1, *tick_ms),
        Account::Tick { tick_ms, outcome: Outcome::Failed(_), .. } => (2, *tick_ms),
        Account::Tick { tick_ms, outcome: Outcome::Skipped, .. } => (3, *tick_ms),
        Account::End { at_ms, .. } => (4, *at_ms),
    };
    out.push(kind);
    put_varint(out, u64::from(source));
    put_zigzag(out, at_ms.wrapping_sub(base_ms));
    match account {
        Account::Begin { schedule, .. } => {
            put_zigzag(out, schedule.interval_ms);
            put_zigzag(out, schedule.offset_ms);
        }
        Account::Tick { outcome: Outcome::Scraped { samples, exposed }, .. } => {
            put_varint(out, u64::from(*samples));
            put_zigzag(out, i64::from(*exposed) - i64::from(*samples));
        }
        Account::Tick { outcome: Outcome::Failed(failure), .. } => {
            out.push(FAILURES.iter().position(|known| known == failure).unwrap_or(5) as u8);
        }
        Account::Tick { outcome: Outcome::Skipped, .. } => {}
        Account::End { reason, .. } => {
            out.push(REASONS.iter().position(|known| known == reason).unwrap_or(0) as u8);
        }
    }
}

/// Reads what [`put_account`] wrote; its source is the number in the segment.
pub(crate) fn read_account(cursor: &mut Cursor<'_>, base_ms: i64) -> Result<Account, BlockError> {
    const UNKNOWN: BlockError = BlockError::Malformed("an account of an unknown kind");
    let kind = cursor.byte()?;
    let source = SourceRef(u64::from(cursor.small()?));
    let at_ms = base_ms.wrapping_add(cursor.zigzag()?);
    let outcome = match kind {
        0 => {
            let (interval_ms, offset_ms) = (cursor.zigzag()?, cursor.zigzag()?);
            if interval_ms < 1 || !(0..interval_ms).contains(&offset_ms) {
                return Err(BlockError::Malformed("an account has a schedule that is none"));
            }
            return Ok(Account::Begin { source, at_ms, schedule: Schedule { interval_ms, offset_ms } });
        }
        1 => {
            let samples = cursor.small()?;
            let exposed = u32::try_from(i64::from(samples).saturating_add(cursor.zigzag()?))
                .map_err(|_| BlockError::Malformed("an account counts past all bounds"))?;
            Outcome::Scraped { samples, exposed }
        }
        // A later version may tell more of them apart: rows are not refused for that.
        2 => Outcome::Failed(FAILURES.get(usize::from(cursor.byte()?)).copied().unwrap_or(Failure::Other)),
        3 => Outcome::Skipped,
        4 => {
            let reason = *REASONS.get(usize::from(cursor.byte()?)).ok_or(UNKNOWN)?;
            return Ok(Account::End { source, at_ms, reason });
        }
        _ => return Err(UNKNOWN),
    };
    Ok(Account::Tick { source, tick_ms: at_ms, outcome })
}

/// A policy as a byte.
pub(crate) fn policy_code(policy: Policy) -> u8 {
    u8::from(policy.late == Late::Accept) | u8::from(policy.conflict == Conflict::Replace) << 1
}

pub(crate) fn policy_of(code: u8) -> Result<Policy, BlockError> {
    if code > 3 {
        return Err(BlockError::Malformed("an unknown policy"));
    }
    let late = if code & 1 != 0 { Late::Accept } else { Late::Reject };
    let conflict = if code & 2 != 0 { Conflict::Replace } else { Conflict::Refuse };
    Ok(Policy { late, conflict })
}
