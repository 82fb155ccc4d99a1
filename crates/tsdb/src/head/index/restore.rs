//! Series of the log on their way back into the index.
//!
//! A start brings them all at once, mostly in the order in which a target stated them, so that two pairs in three
//! are those of the series before and nearly all the others have been met lately: they are known by their
//! bytes, without a look at symbols. Postings are left out, and made for all series in one go.

use hashbrown::hash_table::Entry;
use model::LabelsRef;
use model::labels::PairRef;
use storage::SeriesRef;
use xxhash_rust::xxh3::xxh3_64;

use super::{Index, Series, generation_of, postings, reference, slot_of};

/// Slots are left free for series that may still come, at most so many in a row.
const GAP_MAX: usize = 1 << 24;

/// Pairs met lately: each where the hash of its bytes has it.
#[derive(Debug, Default)]
pub(super) struct Restoring {
    met: Vec<Met>,
}

/// How many; those of a target of some thousand series.
const MET: usize = 1 << 13;

#[derive(Debug, Clone, Copy)]
struct Met {
    hash: u64,
    pair: u32,
}

const NONE_MET: Met = Met { hash: 0, pair: u32::MAX };

/// Puts the series of a record back; see [`Index::restorer`].
pub(crate) struct Restorer<'i, 'b> {
    index: &'i mut Index,
    restoring: Restoring,
    /// The pairs of the series before.
    before: Vec<(PairRef<'b>, u32)>,
    now: Vec<(PairRef<'b>, u32)>,
    /// The numbers of the pairs of the series at hand.
    numbers: Vec<u32>,
}

impl Index {
    /// For series of the log, of one record.
    ///
    /// Until [`complete`](Self::complete) they are only found by their labels.
    pub(crate) fn restorer<'b>(&mut self) -> Restorer<'_, 'b> {
        let restoring = self.restoring.take().unwrap_or_else(|| Restoring { met: vec![NONE_MET; MET] });
        Restorer { index: self, restoring, before: Vec::new(), now: Vec::new(), numbers: Vec::new() }
    }

    /// Makes what [`restorer`](Self::restorer) has left: postings of all series, in one go.
    pub(crate) fn complete(&mut self) {
        if self.restoring.take().is_none() {
            return;
        }
        // A slot is free or it is live.
        self.live.insert_range(0..self.series.len() as u32);
        self.live -= &self.free_series;
        let all = |tell: &mut dyn FnMut(u32, &[u32])| {
            for (slot, series) in (0u32..).zip(&self.series) {
                // A free slot has no pairs, or those of a series that is gone.
                if self.free_series.is_empty() || !self.free_series.contains(slot) {
                    tell(slot, self.lists.get(series.pairs_at, series.pairs));
                }
            }
        };
        let postings = postings::of_all(self.pairs.len(), all);
        for (pair, postings) in self.pairs.iter_mut().zip(postings) {
            pair.postings = postings;
        }
    }
}

impl<'b> Restorer<'_, 'b> {
    /// Finds a series, or adds it, at its slot of before if that is free. Whether it was added.
    pub(crate) fn restore(&mut self, labels: LabelsRef<'b>, wanted: SeriesRef) -> (SeriesRef, bool) {
        self.find_pairs(labels);
        let hash = xxh3_64(labels.as_bytes());
        let (index, numbers) = (&mut *self.index, &self.numbers);
        let (series, lists) = (&index.series, &index.lists);
        let is_it = |slot: &u32| {
            let Series { hash: of, pairs_at, pairs, .. } = series[*slot as usize];
            // Equal pairs have equal numbers.
            of == hash && lists.get(pairs_at, pairs) == numbers
        };
        let entry = match index.table.entry(hash, is_it, |slot| series[*slot as usize].hash) {
            Entry::Occupied(known) => {
                let slot = *known.get();
                return (reference(slot, series[slot as usize].generation), false);
            }
            Entry::Vacant(entry) => entry,
        };
        let wanted_slot = slot_of(wanted);
        let is_free = wanted_slot as usize >= series.len() || index.free_series.contains(wanted_slot);
        let slot = if is_free && wanted_slot as usize <= series.len() + GAP_MAX {
            wanted_slot
        } else {
            index.free_series.min().unwrap_or(series.len() as u32)
        };
        entry.insert(slot);
        let generation = generation_of(wanted);
        let pairs_at = index.lists.add(numbers);
        let record = Series { hash, generation, pairs_at, pairs: numbers.len() as u32 };
        index.fill(slot, record);
        (reference(slot, generation), true)
    }

    /// Finds the numbers of all pairs, or gives them some.
    fn find_pairs(&mut self, labels: LabelsRef<'b>) {
        self.now.clear();
        self.numbers.clear();
        let mut before = self.before.iter().peekable();
        for pair in labels.pairs() {
            let same = loop {
                match before.peek() {
                    Some((known, number)) if known.bytes == pair.bytes => {
                        before.next();
                        break Some(*number);
                    }
                    Some((known, _)) if known.name < pair.name => _ = before.next(),
                    _ => break None,
                }
            };
            let number = match same {
                Some(number) => number,
                None => self.restoring.number(pair, self.index),
            };
            self.now.push((pair, number));
            self.numbers.push(number);
        }
        std::mem::swap(&mut self.before, &mut self.now);
    }
}

impl Drop for Restorer<'_, '_> {
    fn drop(&mut self) {
        self.index.restoring = Some(std::mem::take(&mut self.restoring));
    }
}

impl Restoring {
    fn number(&mut self, pair: PairRef<'_>, index: &mut Index) -> u32 {
        let hash = xxh3_64(pair.bytes);
        let met = &mut self.met[hash as usize % MET];
        if met.hash == hash
            && let Some(known) = index.pairs.get(met.pair as usize)
            && index.symbols.text(known.value) == pair.value
            && index.symbols.text(known.name) == pair.name
        {
            return met.pair;
        }
        *met = Met { hash, pair: index.pair(pair.name, pair.value) };
        met.pair
    }
}
