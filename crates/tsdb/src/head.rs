//! The head: what has arrived and is not in a part yet, of one tenant.
//!
//! - [`index`]: series by labels;
//! - [`budget`]: who may make how many of them;
//! - [`tile`]: columns by rows, the unit of growth;
//! - [`strip`]: the same of a column with times of its own;
//! - [`block`]: either once it takes no more rows;
//! - [`lane`]: columns that share timestamps, as tiles, or as a strip when there is one;
//! - [`rows`]: the way of a row into its lanes, and back when the log refuses it;
//! - [`late`]: rows of late samples, kept and written apart from the others;
//! - [`side`]: what does not fit rows: single late samples, replacements, histograms;
//! - [`snapshot`]: what a query or a flush pins.
//!
//! **Locks.** The index and the lanes have a lock each; who takes both takes the index first. A steady
//! row needs the lanes alone. An append holds them from the first decision until the log has the batch,
//! so that nobody sees rows that are not in the log, and the log has the rows of a tenant in the order
//! in which they took effect.

pub(crate) mod block;
pub(crate) mod budget;
pub(crate) mod index;
pub(crate) mod lane;
pub(crate) mod late;
mod order;
pub(crate) mod rows;
pub(crate) mod side;
pub(crate) mod snapshot;
pub(crate) mod strip;
pub(crate) mod tile;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::HashTable;
use model::{Exemplar, Metadata, SourceId};
use roaring::RoaringBitmap;
use smallvec::SmallVec;
use storage::SeriesRef;

use self::index::{generation_of, slot_of};
use self::lane::Lane;
use self::late::{Late, Loose};
use self::side::Side;
use self::tile::{SealedTile, Tile};

/// No lane yet.
pub(crate) const NOWHERE: u32 = u32::MAX;

type FastMap<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// Where a series' next sample goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Home {
    pub(crate) generation: u32,
    pub(crate) lane: u32,
    pub(crate) column: u32,
    /// The source whose series it is.
    pub(crate) owner: u32,
}

#[derive(Debug)]
pub(crate) struct Source {
    /// As the log and the callers name it.
    pub(crate) reference: u64,
    pub(crate) id: SourceId,
    pub(crate) labels: model::Labels,
    pub(crate) lanes: SmallVec<[u32; 2]>,
    /// The lane of the last row.
    pub(crate) last_lane: u32,
    /// The segment that has its definition.
    pub(crate) logged: u64,
    /// Series it has made.
    pub(crate) series: u32,
    /// Series it wanted and did not get.
    pub(crate) refused: u64,
}

impl Source {
    pub(crate) fn new(reference: u64, id: SourceId, labels: model::Labels) -> Source {
        Source {
            reference,
            id,
            labels,
            lanes: SmallVec::new(),
            last_lane: NOWHERE,
            logged: 0,
            series: 0,
            refused: 0,
        }
    }
}

/// The numbers of sources by their identities, which stand with the sources.
#[derive(Debug, Default)]
struct SourceNumbers {
    table: HashTable<u32>,
    hasher: foldhash::fast::RandomState,
}

/// Everything of a tenant's head but the index.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    pub(crate) lanes: Vec<Lane>,
    pub(crate) free_lanes: Vec<u32>,
    /// By slot.
    pub(crate) homes: Vec<Home>,
    /// Earlier homes whose rows are still here.
    pub(crate) former: FastMap<u32, SmallVec<[(u32, u32); 1]>>,
    pub(crate) sources: Vec<Source>,
    source_numbers: SourceNumbers,
    pub(crate) refusals: budget::Refusals,
    /// Single late samples and replacements, until they are many or spilled, and histograms since the
    /// last flush.
    pub(crate) side: Side,
    /// The histograms of flushes under way, by flush.
    pub(crate) frozen: Vec<(u64, Arc<Side>)>,
    /// Late floats since the last spill.
    pub(crate) late: Late,
    /// The same of spills under way, by spill.
    pub(crate) frozen_late: Vec<(u64, Arc<Late>)>,
    /// The spill that will write what is late now.
    pub(crate) spill: u64,
    /// Single late samples beyond this many are made compact.
    pub(crate) loose_max: usize,
    /// What of [`late_bytes`](Self::late_bytes) the store's total has.
    pub(crate) late_counted: usize,
    /// The newest sample in parts.
    pub(crate) flushed_max_ms: i64,
    /// The newest histogram of series whose histograms have been flushed.
    pub(crate) histogram_floors: FastMap<u32, i64>,
    /// From when on which start timestamp holds, by slot.
    pub(crate) starts: FastMap<u32, Vec<(i64, i64)>>,
    /// The slots whose latest start timestamp is known, a bit each: asked for every sample.
    started: Vec<u64>,
    pub(crate) exemplars: VecDeque<(SeriesRef, Exemplar)>,
    pub(crate) metadata: BTreeMap<String, Vec<Metadata>>,
    /// The flush that will write what is closed now (late samples apart).
    pub(crate) flush: u64,
    /// Series with a sample since the last flush; lanes' own rows are not in here.
    pub(crate) active: RoaringBitmap,
    /// Closed tiles to encode: lane, tile, rows.
    pub(crate) to_seal: Vec<(u32, u32, Arc<Tile>)>,
}

impl Lanes {
    /// An empty head, in which at most `loose_max` late samples are kept one by one.
    pub(crate) fn new(loose_max: usize) -> Lanes {
        Lanes { flush: 1, spill: 1, loose_max, flushed_max_ms: i64::MIN, ..Lanes::default() }
    }

    /// Makes room for a series that the index has just added.
    pub(crate) fn admit(&mut self, series: SeriesRef) {
        let slot = slot_of(series) as usize;
        let nobody = Home { generation: 0, lane: NOWHERE, column: 0, owner: NOWHERE };
        if self.homes.len() <= slot {
            self.homes.resize(slot + 1, nobody);
        }
        self.homes[slot] = Home { generation: generation_of(series), ..nobody };
        // A series without samples is not idle before it has lived through a flush.
        self.active.insert(slot as u32);
    }

    /// The home of a series, if the reference is good.
    pub(crate) fn home(&self, series: SeriesRef) -> Option<Home> {
        let home = self.homes.get(slot_of(series) as usize)?;
        (home.generation == generation_of(series)).then_some(*home)
    }

    /// The number of a source.
    pub(crate) fn source_by_id(&self, id: SourceId) -> Option<u32> {
        let SourceNumbers { table, hasher } = &self.source_numbers;
        table.find(hasher.hash_one(id), |number| self.sources[*number as usize].id == id).copied()
    }

    /// Adds a source that is not there; its number.
    pub(crate) fn add_source(&mut self, source: Source) -> u32 {
        let number = self.sources.len() as u32;
        let SourceNumbers { table, hasher } = &mut self.source_numbers;
        let sources = &self.sources;
        let hash_of = |number: &u32| hasher.hash_one(sources[*number as usize].id);
        table.insert_unique(hasher.hash_one(source.id), number, hash_of);
        self.sources.push(source);
        number
    }

    pub(crate) fn new_lane(&mut self, source: u32) -> u32 {
        let lane = Lane::new(source);
        let number = match self.free_lanes.pop() {
            Some(number) => {
                self.lanes[number as usize] = lane;
                number
            }
            None => {
                self.lanes.push(lane);
                (self.lanes.len() - 1) as u32
            }
        };
        self.sources[source as usize].lanes.push(number);
        number
    }

    /// Moves a series to `lane` as a further column. Its rows so far stay where they are.
    pub(crate) fn move_to(&mut self, series: SeriesRef, lane: u32) -> u32 {
        let slot = slot_of(series);
        let from = self.homes[slot as usize];
        let mut newest = i64::MIN;
        if from.lane != NOWHERE {
            let old = &mut self.lanes[from.lane as usize];
            newest = old.newest(from.column);
            old.drop_column();
            self.former.entry(slot).or_default().push((from.lane, from.column));
        }
        let mixed = self.has_histograms(slot);
        let to = &mut self.lanes[lane as usize];
        to.mixed |= mixed;
        let column = to.add_column(series, newest);
        self.homes[slot as usize] = Home { lane, column, ..from };
        self.own(slot, self.lanes[lane as usize].source);
        column
    }

    fn has_histograms(&self, slot: u32) -> bool {
        self.histogram_floors.contains_key(&slot)
            || self.side.has_histograms(slot)
            || self.frozen.iter().any(|(_, side)| side.has_histograms(slot))
    }

    /// Closes a lane's open rows; splits the lane when its columns do not belong together.
    pub(crate) fn close(&mut self, lane: u32) {
        let flush = self.flush;
        let closing = &mut self.lanes[lane as usize];
        if !closing.close(flush) {
            return;
        }
        self.to_seal.extend(closing.to_seal().map(|(tile, open)| (lane, tile, open)));
        if let Some(groups) = closing.badly_filled() {
            self.split(lane, groups);
        }
    }

    /// Gives each group of columns a lane of its own; the first stays.
    fn split(&mut self, lane: u32, groups: Vec<Vec<u32>>) {
        let source = self.lanes[lane as usize].source;
        for group in groups.into_iter().skip(1) {
            let moving: Vec<SeriesRef> = group
                .into_iter()
                .map(|column| (column, self.lanes[lane as usize].columns[column as usize]))
                .filter(|(column, series)| {
                    self.home(*series).is_some_and(|home| home.lane == lane && home.column == *column)
                })
                .map(|(_, series)| series)
                .collect();
            if moving.is_empty() {
                continue;
            }
            let target = self.new_lane(source);
            for series in moving {
                self.move_to(series, target);
            }
            // Rows of the new lane start after the newest of its columns, not anywhere.
            let target = &mut self.lanes[target as usize];
            target.last_ms =
                (0..target.columns.len() as u32).map(|c| target.newest(c)).max().unwrap_or(i64::MIN);
        }
    }

    /// Puts an encoded tile in the place of its rows, if they are still there.
    pub(crate) fn put_sealed(&mut self, lane: u32, tile: u32, open: &Arc<Tile>, sealed: Arc<SealedTile>) {
        if let Some(lane) = self.lanes.get_mut(lane as usize) {
            lane.put_sealed(tile, open, sealed);
        }
    }

    /// Whether a metadata statement is new.
    pub(crate) fn is_news(&self, metric: &str, metadata: &Metadata) -> bool {
        self.metadata.get(metric).is_none_or(|known| known.last() != Some(metadata))
    }

    /// Keeps a metadata statement as the latest of its metric.
    pub(crate) fn keep_metadata(&mut self, metric: &str, metadata: &Metadata, statements_max: usize) {
        let known = match self.metadata.get_mut(metric) {
            Some(known) => known,
            None => self.metadata.entry(metric.to_owned()).or_default(),
        };
        known.retain(|statement| statement != metadata);
        known.push(metadata.clone());
        if known.len() > statements_max {
            known.remove(0);
        }
    }

    /// Keeps an exemplar, and of all at most `max`.
    pub(crate) fn keep_exemplar(&mut self, series: SeriesRef, exemplar: Exemplar, max: usize) {
        self.exemplars.push_back((series, exemplar));
        while self.exemplars.len() > max {
            self.exemplars.pop_front();
        }
    }

    /// The start timestamp that holds for a slot at a time, if any.
    pub(crate) fn start_at(&self, slot: u32, timestamp_ms: i64) -> Option<i64> {
        let starts = self.starts.get(&slot)?;
        let after = starts.partition_point(|(from, _)| *from <= timestamp_ms);
        after.checked_sub(1).map(|at| starts[at].1)
    }

    /// Notes that a start timestamp holds from a time on.
    pub(crate) fn keep_start(&mut self, slot: u32, timestamp_ms: i64, start_ms: i64) {
        if self.start_at(slot, timestamp_ms) == Some(start_ms) {
            return;
        }
        let starts = self.starts.entry(slot).or_default();
        match starts.binary_search_by_key(&timestamp_ms, |(from, _)| *from) {
            Ok(at) => starts[at].1 = start_ms,
            Err(at) => starts.insert(at, (timestamp_ms, start_ms)),
        }
        let is_known = starts.last().is_some_and(|(_, start)| *start != 0);
        let (word, bit) = (slot as usize / 64, 1 << (slot % 64));
        if self.started.len() <= word {
            self.started.resize(word + 1, 0);
        }
        self.started[word] = if is_known { self.started[word] | bit } else { self.started[word] & !bit };
    }

    /// Whether the latest start timestamp of a slot may be known.
    pub(crate) fn is_started(&self, slot: u32) -> bool {
        self.started.get(slot as usize / 64).is_some_and(|word| word & 1 << (slot % 64) != 0)
    }

    /// Makes the single late floats compact.
    pub(crate) fn seal_loose(&mut self) {
        for replace in [false, true] {
            let (samples, position) = self.side.take_floats(replace);
            if !samples.is_empty() {
                self.late.add_loose(Loose::new(replace, position, samples));
            }
        }
    }

    /// Estimated memory of late floats, bytes.
    pub(crate) fn late_bytes(&self) -> usize {
        self.late.bytes()
            + self.side.floats() * 40
            + self.frozen_late.iter().map(|(_, late)| late.bytes()).sum::<usize>()
    }

    /// Estimated memory of samples that are not late, bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.lanes.iter().map(Lane::bytes).sum::<usize>()
            + self.homes.len() * size_of::<Home>()
            + self.side.bytes()
            + self.frozen.iter().map(|(_, side)| side.bytes()).sum::<usize>()
    }
}
