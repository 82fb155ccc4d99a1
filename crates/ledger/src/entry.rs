//! Statements as the log and the snapshots hold them. Drawn in `docs/formats/ledger.md`.

use model::{Labels, SourceId};
use stdx::bytes::{Cursor, Malformed, put_bytes, put_varint, put_zigzag};
use storage::{EndReason, Failure};

use crate::fact::{Fact, Loss};
use crate::pushed::Totals;
use crate::runs::Run;
use crate::source::{LossReport, Overlay, Said};

/// Times in files lie within this many milliseconds of the epoch, so that sums of a few do not overflow.
const TIME_MS_MAX: i64 = 1 << 52;
/// Labels of a source, at most.
const LABELS_MAX: usize = 1 << 10;

/// Ticks of a run: two years of seconds.
pub(crate) const RUN_TICKS_MAX: u32 = 1 << 26;

const SOURCE: u8 = 1;
const BEGIN: u8 = 2;
const TICK: u8 = 3;
const END: u8 = 4;
const PAUSE: u8 = 5;
const RETIRE: u8 = 6;
const LOSS: u8 = 7;
const DURABLE: u8 = 8;
const LOST: u8 = 9;
const RUN: u8 = 10;
const PUSHED: u8 = 11;

/// A statement. Sources go by a number that an entry before has given them.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Entry {
    /// Gives a source its number; whoever had it before is gone.
    Source { number: u32, id: SourceId, labels: Labels },
    /// A statement about its schedule.
    Said { number: u32, at_ms: i64, said: Said },
    /// What became of a tick.
    Tick { number: u32, tick_ms: i64, fact: Fact, late_ms: u32 },
    /// What became of many; in snapshots.
    Run { number: u32, run: Run },
    /// What counts for a cluster.
    Overlay(Overlay),
    /// The store has everything up to this position for good.
    Durable { position: u64 },
    /// The ledger's detail of a time was lost, both ends included.
    Lost { from_ms: i64, to_ms: i64 },
    /// What a job has pushed in all; the newest one counts.
    Pushed { cluster: String, job: String, totals: Totals },
}

impl Entry {
    /// Appends the entry; times are written relative to `base_ms`.
    pub(crate) fn encode(&self, base_ms: i64, out: &mut Vec<u8>) {
        match self {
            Entry::Source { number, id, labels } => {
                out.push(SOURCE);
                put_varint(out, u64::from(*number));
                out.extend_from_slice(&id.0.to_le_bytes());
                put_varint(out, labels.len() as u64);
                for (name, value) in labels {
                    put_bytes(out, name.as_bytes());
                    put_bytes(out, value.as_bytes());
                }
            }
            Entry::Said { number, at_ms, said } => {
                let kind = if matches!(said, Said::Begin(..)) { BEGIN } else { END };
                out.push(kind);
                put_varint(out, u64::from(*number));
                put_zigzag(out, at_ms - base_ms);
                match *said {
                    Said::Begin(interval, offset) => {
                        put_zigzag(out, interval);
                        put_zigzag(out, offset);
                    }
                    Said::End(reason) => out.push(end_number(reason)),
                }
            }
            Entry::Tick { number, tick_ms, fact, late_ms } => {
                out.push(TICK);
                put_varint(out, u64::from(*number));
                put_zigzag(out, tick_ms - base_ms);
                put_fact(out, *fact);
                put_varint(out, u64::from(*late_ms));
            }
            Entry::Run { number, run } => {
                out.push(RUN);
                put_varint(out, u64::from(*number));
                put_zigzag(out, run.start - base_ms);
                put_varint(out, u64::from(run.interval));
                put_varint(out, u64::from(run.count));
                put_fact(out, run.fact);
                put_varint(out, u64::from(run.late_ms));
                put_varint(out, run.cells);
            }
            Entry::Overlay(overlay) => put_overlay(out, overlay),
            Entry::Durable { position } => {
                out.push(DURABLE);
                put_varint(out, *position);
            }
            Entry::Lost { from_ms, to_ms } => {
                out.push(LOST);
                put_zigzag(out, *from_ms);
                put_zigzag(out, *to_ms);
            }
            Entry::Pushed { cluster, job, totals } => {
                out.push(PUSHED);
                put_bytes(out, cluster.as_bytes());
                put_bytes(out, job.as_bytes());
                put_varint(out, totals.received);
                put_varint(out, totals.stored);
                put_varint(out, totals.cells_refused);
                put_zigzag(out, totals.last_ms - base_ms);
            }
        }
    }

    /// Reads one entry off the front.
    pub(crate) fn decode(base_ms: i64, from: &mut Cursor<'_>) -> Result<Entry, Malformed> {
        let after_base = |from: &mut Cursor<'_>| in_range(base_ms.checked_add(from.zigzag()?));
        Ok(match from.byte()? {
            SOURCE => {
                let number = from.small()?;
                let id = SourceId(from.u128_le()?);
                let count = from.at_most(LABELS_MAX)?;
                let pairs: Vec<(&str, &str)> =
                    (0..count).map(|_| Ok((from.text()?, from.text()?))).collect::<Result<_, Malformed>>()?;
                Entry::Source { number, id, labels: Labels::from_pairs(pairs) }
            }
            BEGIN => {
                let (number, at_ms) = (from.small()?, after_base(from)?);
                let (interval, offset) = (from.zigzag()?, from.zigzag()?);
                if !(1..=TIME_MS_MAX).contains(&interval) || !(0..interval).contains(&offset) {
                    return Err(Malformed("a schedule is out of range"));
                }
                Entry::Said { number, at_ms, said: Said::Begin(interval, offset) }
            }
            END => {
                let (number, at_ms) = (from.small()?, after_base(from)?);
                Entry::Said { number, at_ms, said: Said::End(end_reason(from.byte()?)?) }
            }
            TICK => {
                let (number, tick_ms) = (from.small()?, after_base(from)?);
                Entry::Tick { number, tick_ms, fact: fact(from)?, late_ms: from.small()? }
            }
            RUN => {
                let (number, start) = (from.small()?, after_base(from)?);
                let (interval, count) = (from.small()?, from.small()?);
                let (fact, late_ms, cells) = (fact(from)?, from.small()?, from.varint()?);
                let run = Run { start, interval, count, fact, late_ms, cells };
                if count == 0 || count > RUN_TICKS_MAX || (count > 1) != (interval > 0) {
                    return Err(Malformed("a run of ticks contradicts itself"));
                }
                in_range(i64::from(interval).checked_mul(i64::from(count)))?;
                Entry::Run { number, run }
            }
            PAUSE => {
                let cluster = from.text()?.to_owned();
                let (from_ms, until_ms) = (in_range(Some(from.zigzag()?))?, in_range(Some(from.zigzag()?))?);
                Entry::Overlay(Overlay::Pause { cluster, from_ms, until_ms })
            }
            RETIRE => {
                let cluster = from.text()?.to_owned();
                Entry::Overlay(Overlay::Retire { cluster, at_ms: in_range(Some(from.zigzag()?))? })
            }
            LOSS => {
                let cluster = from.text()?.to_owned();
                let source = match from.byte()? {
                    0 => None,
                    1 => Some(SourceId(from.u128_le()?)),
                    _ => return Err(Malformed("a loss of neither a source nor a cluster")),
                };
                Entry::Overlay(Overlay::Loss(LossReport {
                    cluster,
                    source,
                    from_ms: in_range(Some(from.zigzag()?))?,
                    to_ms: in_range(Some(from.zigzag()?))?,
                    rows: from.varint()?,
                    reason: loss(from.byte()?)?,
                }))
            }
            DURABLE => Entry::Durable { position: from.varint()? },
            LOST => Entry::Lost {
                from_ms: in_range(Some(from.zigzag()?))?,
                to_ms: in_range(Some(from.zigzag()?))?,
            },
            PUSHED => {
                let (cluster, job) = (from.text()?.to_owned(), from.text()?.to_owned());
                let (received, stored, cells_refused) = (from.varint()?, from.varint()?, from.varint()?);
                let last_ms = after_base(from)?;
                let totals = Totals { received, stored, cells_refused, last_ms };
                Entry::Pushed { cluster, job, totals }
            }
            _ => return Err(Malformed("an unknown kind of entry")),
        })
    }
}

/// A time as files may hold it.
pub(crate) fn in_range(time_ms: Option<i64>) -> Result<i64, Malformed> {
    time_ms.filter(|ms| (-TIME_MS_MAX..=TIME_MS_MAX).contains(ms)).ok_or(Malformed("a time is out of range"))
}

fn put_overlay(out: &mut Vec<u8>, overlay: &Overlay) {
    match overlay {
        Overlay::Pause { cluster, from_ms, until_ms } => {
            out.push(PAUSE);
            put_bytes(out, cluster.as_bytes());
            put_zigzag(out, *from_ms);
            put_zigzag(out, *until_ms);
        }
        Overlay::Retire { cluster, at_ms } => {
            out.push(RETIRE);
            put_bytes(out, cluster.as_bytes());
            put_zigzag(out, *at_ms);
        }
        Overlay::Loss(loss) => {
            out.push(LOSS);
            put_bytes(out, loss.cluster.as_bytes());
            out.push(u8::from(loss.source.is_some()));
            if let Some(source) = loss.source {
                out.extend_from_slice(&source.0.to_le_bytes());
            }
            put_zigzag(out, loss.from_ms);
            put_zigzag(out, loss.to_ms);
            put_varint(out, loss.rows);
            out.push(loss.reason as u8);
        }
    }
}

fn put_fact(out: &mut Vec<u8>, fact: Fact) {
    match fact {
        Fact::Complete { cells } => {
            out.push(0);
            put_varint(out, u64::from(cells));
        }
        Fact::Partial { stored, exposed } => {
            out.push(1);
            put_varint(out, u64::from(stored));
            put_varint(out, u64::from(exposed));
        }
        Fact::Refused(loss) => out.extend([2, loss as u8]),
        Fact::Failed(failure) => out.extend([3, failure_number(failure)]),
        Fact::Skipped => out.push(4),
    }
}

fn fact(from: &mut Cursor<'_>) -> Result<Fact, Malformed> {
    Ok(match from.byte()? {
        0 => Fact::Complete { cells: from.small()? },
        1 => Fact::Partial { stored: from.small()?, exposed: from.small()? },
        2 => Fact::Refused(loss(from.byte()?)?),
        3 => Fact::Failed(failure(from.byte()?)?),
        4 => Fact::Skipped,
        _ => return Err(Malformed("an unknown outcome of a tick")),
    })
}

fn loss(number: u8) -> Result<Loss, Malformed> {
    Loss::ALL.get(usize::from(number)).copied().ok_or(Malformed("an unknown reason of a loss"))
}

const FAILURES: [Failure; 7] = [
    Failure::Unreachable,
    Failure::Timeout,
    Failure::Status,
    Failure::Malformed,
    Failure::Limit,
    Failure::Other,
    Failure::SampleLimit,
];
const ENDS: [EndReason; 4] =
    [EndReason::Gone, EndReason::Reconfigured, EndReason::HandedOver, EndReason::Shutdown];

fn failure_number(failure: Failure) -> u8 {
    FAILURES.iter().position(|known| *known == failure).unwrap_or(5) as u8
}

fn failure(number: u8) -> Result<Failure, Malformed> {
    FAILURES.get(usize::from(number)).copied().ok_or(Malformed("an unknown failure"))
}

fn end_number(reason: EndReason) -> u8 {
    ENDS.iter().position(|known| *known == reason).unwrap_or(0) as u8
}

fn end_reason(number: u8) -> Result<EndReason, Malformed> {
    ENDS.get(usize::from(number)).copied().ok_or(Malformed("an unknown reason of an end"))
}
