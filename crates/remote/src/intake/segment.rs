//! A segment that is being read.

use std::collections::{HashMap, HashSet};

use model::{Labels, LabelsBuilder, SourceId};
use queue::Intervals;
use storage::{Appended, Appender, BlockKey, CommitPosition, RejectReason, Rejection, SeriesRef, SourceDesc};

use super::collect::{Collected, Collector, REFUSED, SourceMap};
use super::log::{Frame, Logs};
use super::{AgentKey, IntakeMetrics, No};
use crate::block::{Block, BlockError, Decoder, Definitions};
use crate::ship::{Refusal, SegmentKey, Verdict};

/// Stored blocks are noted in the log when there are so many.
const PROGRESS_BLOCKS: u64 = 8;
/// Series are resolved so many at a time.
const RESOLVE_AT_ONCE: usize = 10_000;

/// How often series are named again for a batch, which the store forgets in between at worst.
const NAMED_AGAIN_MAX: usize = 3;

/// What is in memory of a segment.
pub(super) struct Segment {
    agent: AgentKey,
    key: SegmentKey,
    pub(super) used_ms: i64,
    loaded: bool,
    decoder: Decoder,
    defined: Defined,
    /// A block that was decoded, and that the store did not take.
    pending: Option<(u32, Collected)>,
    /// Blocks that the log says are stored.
    pub(super) logged: Intervals,
    /// Stored since, and up to where the store's log must be durable for them to be so.
    unlogged: Intervals,
    unlogged_position: u64,
}

/// What the dictionary has defined.
#[derive(Default)]
struct Defined {
    sources: Vec<SourceMap>,
    /// Series that the store has not named yet.
    unresolved: Vec<(u32, u32, Labels)>,
}

/// What became of a block at the store.
pub(super) struct Outcome {
    pub(super) position: CommitPosition,
    /// All of it had been stored before.
    pub(super) repeated: bool,
}

impl Segment {
    pub(super) fn new(agent: AgentKey, key: SegmentKey, now_ms: i64) -> Segment {
        Segment {
            agent,
            key,
            used_ms: now_ms,
            loaded: false,
            decoder: Decoder::new(),
            defined: Defined::default(),
            pending: None,
            logged: Intervals::new(),
            unlogged: Intervals::new(),
            unlogged_position: 0,
        }
    }

    /// Takes in what an earlier run has left of the segment.
    pub(super) fn load(&mut self, logs: &Logs) -> Result<(), No> {
        if self.loaded {
            logs.touch(&self.agent, &self.key, self.used_ms);
            return Ok(());
        }
        for frame in logs.read(&self.agent, &self.key, self.used_ms)? {
            match frame {
                Frame::Stored(blocks) => {
                    blocks.into_iter().for_each(|(first, last)| self.logged.insert(first, last));
                }
                // One that presumes what the log does not have is of no use, and none after it.
                Frame::Dictionary { needs, .. } if needs > self.decoder.learned() => break,
                Frame::Dictionary { index, packed, .. } => {
                    self.decoder.learn_packed(index, &packed, &mut self.defined)?;
                }
            }
        }
        self.loaded = true;
        Ok(())
    }

    /// Logs and learns what a block adds to the dictionary.
    pub(super) fn learn(&mut self, block: &Block<'_>, logs: &Logs) -> Result<(), No> {
        let header = block.header();
        if header.dictionary > self.decoder.learned() {
            return Err(No::NeedsContext { from: self.decoder.learned() });
        }
        let packed = block.packed_dictionary();
        if header.index < self.decoder.learned() || packed.is_empty() {
            return Ok(());
        }
        logs.append_dictionary(&self.agent, &self.key, (header.index, header.dictionary), packed)?;
        self.decoder.learn_packed(header.index, packed, &mut self.defined)?;
        Ok(())
    }

    /// Opens sources and resolves series that the store has not named yet, under the labels that they may
    /// have: `cluster_label` is the certificate's.
    pub(super) fn resolve(
        &mut self,
        store: &dyn Appender,
        cluster_label: &str,
        metrics: &IntakeMetrics,
    ) -> Result<(), No> {
        let Defined { sources, unresolved } = &mut self.defined;
        let peer = &self.agent.peer;
        for source in sources.iter_mut().filter(|source| source.reference.is_none()) {
            let labels = verified(&source.labels, cluster_label, &peer.cluster, metrics);
            let desc = SourceDesc { tenant: peer.tenant.clone(), id: source.id, labels };
            source.reference = Some(store.open_source(&desc)?);
        }
        while !unresolved.is_empty() {
            let source = unresolved[unresolved.len() - 1].0;
            let same =
                unresolved.iter().rev().take(RESOLVE_AT_ONCE).take_while(|new| new.0 == source).count();
            let new = &unresolved[unresolved.len() - same..];
            let labels: Vec<Labels> =
                new.iter().map(|new| verified(&new.2, cluster_label, &peer.cluster, metrics)).collect();
            let map = &mut sources[source as usize];
            let reference = map.reference.ok_or(No::Refused(Refusal::Malformed))?;
            let found = store.resolve(reference, &labels)?;
            for ((_, column, _), series) in new.iter().zip(found) {
                map.set(*column, series);
            }
            unresolved.truncate(unresolved.len() - same);
        }
        unresolved.shrink_to_fit();
        Ok(())
    }

    /// Where the decoder stands: the rows of the blocks from the first to before the second are read.
    pub(super) fn position(&self) -> Option<(u32, u32)> {
        self.decoder.position()
    }

    /// Reads a block for the decoder's memory only.
    pub(super) fn read_context(
        &mut self,
        block: &Block<'_>,
        is_asked_for: bool,
        is_done: bool,
    ) -> Result<Verdict, No> {
        if is_asked_for || self.decoder.follows(block.header()) {
            self.decoder.read_context(block, &mut self.defined)?;
        }
        Ok(match (is_asked_for, is_done) {
            (true, _) => Verdict::Context,
            (false, true) => Verdict::Known,
            (false, false) => Verdict::Refused(Refusal::TooOld),
        })
    }

    /// Decodes a block and appends its batches.
    pub(super) fn store(&mut self, block: &Block<'_>, to: &mut To<'_>) -> Result<Outcome, No> {
        let index = block.header().index;
        let mut collected = match self.pending.take() {
            Some((of, collected)) if of == index => collected,
            _ => {
                self.decoder.check_ready(block.header())?;
                let mut collected = Collected::default();
                let mut collector = Collector { sources: &self.defined.sources, out: &mut collected };
                self.decoder.read(block, &mut collector)?;
                collected.account_for_refused();
                to.metrics.count_rejected(RejectReason::SeriesLimit, collected.refused);
                collected
            }
        };
        match self.append(&mut collected, to) {
            Ok(outcome) => Ok(outcome),
            // Its series have other names by the time it comes again.
            Err(error @ No::NeedsContext { .. }) => Err(error),
            Err(error) => {
                self.pending = Some((index, collected));
                Err(error)
            }
        }
    }

    fn append(&mut self, collected: &mut Collected, to: &mut To<'_>) -> Result<Outcome, No> {
        let key = BlockKey { queue_id: self.key.queue_id, incarnation: self.key.incarnation, block: 0 };
        let mut outcome = Outcome { position: CommitPosition(0), repeated: true };
        for at in 0..collected.len() {
            let mut done = collected.with_batch(at, key, |batch| to.store.append(batch))?;
            for _ in 0..NAMED_AGAIN_MAX {
                if !done.untaken {
                    break;
                }
                self.name_again(collected, &unknown(&done), to)?;
                done = collected.with_batch(at, key, |batch| to.store.append(batch))?;
            }
            if done.untaken {
                let attempt =
                    "append to series that the store forgets as soon as it has named them".to_owned();
                return Err(No::Log(std::io::Error::other(attempt)));
            }
            outcome.position = outcome.position.max(done.position);
            outcome.repeated &= done.repeated;
            if done.repeated {
                continue;
            }
            to.metrics.rows.inc_by(collected.rows(at) as u64);
            to.metrics.samples.inc_by((done.samples + done.histograms) as u64);
            let rejected = done.rejected.iter().filter(|it| it.reason != RejectReason::UnknownSeries);
            rejected.for_each(|rejection| to.metrics.count_rejected(rejection.reason, 1));
            let forgotten = unknown(&done);
            if !forgotten.is_empty() {
                let again = self.append_again(collected, at, &done, &forgotten, to)?;
                outcome.position = outcome.position.max(again);
            }
        }
        // A block of nothing but what its series' limit refused is stored, not known.
        outcome.repeated &= collected.len() > 0;
        Ok(outcome)
    }

    /// Something beside the store (a queue of remote write) has forgotten series that were idle for long: names
    /// them anew and appends their rows once more. What of them is in the store already counts as taken again.
    fn append_again(
        &mut self,
        collected: &mut Collected,
        at: usize,
        done: &Appended,
        forgotten: &HashSet<SeriesRef>,
        to: &mut To<'_>,
    ) -> Result<CommitPosition, No> {
        self.name_again(collected, forgotten, to)?;
        let named = |rejection: &&Rejection| forgotten.contains(&rejection.series);
        let mut rows: Vec<usize> =
            done.rejected.iter().filter(named).map(|rejection| rejection.row).collect();
        rows.dedup();
        let again = collected.with_rows_again(at, &rows, |batch| to.store.append(batch))?;
        tracing::debug!(rows = rows.len(), "rows of series that had been forgotten");
        Ok(again.position)
    }

    /// Forgets the dictionary, in memory and on disk; what is stored stays known.
    fn start_over(&mut self, logs: &Logs) {
        logs.forget(&self.agent, &self.key);
        (self.decoder, self.defined, self.pending) = (Decoder::new(), Defined::default(), None);
    }

    /// Names series anew that the store has forgotten, in what was collected of a block, too.
    fn name_again(
        &mut self,
        collected: &mut Collected,
        forgotten: &HashSet<SeriesRef>,
        to: &mut To<'_>,
    ) -> Result<(), No> {
        let mut wanted = Wanted { columns: HashMap::new(), found: Vec::new() };
        for (number, source) in self.defined.sources.iter().enumerate() {
            for (column, series) in source.series.iter().enumerate() {
                if forgotten.contains(series) {
                    wanted.columns.insert((number as u32, column as u32), *series);
                }
            }
        }
        let mut dictionary = Decoder::new();
        for frame in to.logs.read(&self.agent, &self.key, self.used_ms)? {
            match frame {
                Frame::Dictionary { needs, .. } if needs > dictionary.learned() => break,
                Frame::Dictionary { index, packed, .. } => {
                    dictionary.learn_packed(index, &packed, &mut wanted)?;
                }
                Frame::Stored(_) => {}
            }
        }
        if wanted.found.len() < wanted.columns.len() {
            // The disk has not taken all of the log: the sender has the labels.
            self.start_over(to.logs);
            return Err(No::NeedsContext { from: 0 });
        }
        // What has no labels any more can be named by nobody.
        let mut renamed: HashMap<SeriesRef, SeriesRef> =
            forgotten.iter().map(|series| (*series, REFUSED)).collect();
        for (source, column, labels) in wanted.found {
            let map = &mut self.defined.sources[source as usize];
            let labels = verified(&labels, to.cluster_label, &self.agent.peer.cluster, to.metrics);
            let (Some(reference), before) = (map.reference, wanted.columns[&(source, column)]) else {
                continue;
            };
            let new = to.store.resolve(reference, &[labels])?.pop().flatten();
            map.set(column, new);
            renamed.extend(new.map(|new| (before, new)));
        }
        let before = collected.refused;
        collected.rename(&renamed);
        to.metrics.count_rejected(RejectReason::SeriesLimit, collected.refused - before);
        Ok(())
    }

    /// Notes in the log, now and then, which blocks are stored. `durable` is how far the store's log is.
    pub(super) fn log_progress(&mut self, block: u64, position: CommitPosition, durable: u64, logs: &Logs) {
        if self.unlogged.iter().map(|(first, last)| last - first + 1).sum::<u64>() >= PROGRESS_BLOCKS
            && durable >= self.unlogged_position
        {
            logs.append_stored(&self.agent, &self.key, &self.unlogged);
            self.logged.extend(&self.unlogged);
            self.unlogged = Intervals::new();
        }
        self.unlogged.insert(block, block);
        self.unlogged_position = position.0;
    }
}

/// Where a block goes.
pub(super) struct To<'a> {
    pub(super) store: &'a dyn Appender,
    pub(super) logs: &'a Logs,
    pub(super) cluster_label: &'a str,
    pub(super) metrics: &'a IntakeMetrics,
}

impl SourceMap {
    fn set(&mut self, column: u32, series: Option<SeriesRef>) {
        let at = column as usize;
        if at >= self.series.len() {
            self.series.resize(at + 1, REFUSED);
        }
        self.series[at] = series.unwrap_or(REFUSED);
        self.has_refused |= series.is_none();
    }
}

impl Definitions for Defined {
    fn source(&mut self, _: u32, id: SourceId, labels: &Labels) -> Result<(), BlockError> {
        let (labels, series) = (labels.clone(), Vec::new());
        self.sources.push(SourceMap { id, labels, reference: None, series, has_refused: false });
        Ok(())
    }

    fn column(&mut self, source: u32, column: u32, labels: Labels) -> Result<(), BlockError> {
        self.unresolved.push((source, column, labels));
        Ok(())
    }
}

/// Looks for the labels of some columns.
struct Wanted {
    columns: HashMap<(u32, u32), SeriesRef>,
    found: Vec<(u32, u32, Labels)>,
}

impl Definitions for Wanted {
    fn source(&mut self, _: u32, _: SourceId, _: &Labels) -> Result<(), BlockError> {
        Ok(())
    }

    fn column(&mut self, source: u32, column: u32, labels: Labels) -> Result<(), BlockError> {
        if self.columns.contains_key(&(source, column)) {
            self.found.push((source, column, labels));
        }
        Ok(())
    }
}

/// The series of a batch that are not known any more.
fn unknown(done: &Appended) -> HashSet<SeriesRef> {
    let unknown = done.rejected.iter().filter(|it| it.reason == RejectReason::UnknownSeries);
    unknown.map(|rejection| rejection.series).collect()
}

/// The labels with `cluster` under `name`; what else stood there is renamed as relabelling does.
pub(super) fn verified(labels: &Labels, name: &str, cluster: &str, metrics: &IntakeMetrics) -> Labels {
    let stated = labels.get(name).unwrap_or_default();
    if cluster.is_empty() || stated == cluster {
        return labels.clone();
    }
    metrics.renamed.inc();
    let mut builder = LabelsBuilder::from_labels(labels);
    if !stated.is_empty() {
        let mut other = format!("exported_{name}");
        while builder.get(&other).is_some() {
            other.insert_str(0, "exported_");
        }
        builder.set(&other, stated);
    }
    builder.set(name, cluster);
    builder.build()
}
