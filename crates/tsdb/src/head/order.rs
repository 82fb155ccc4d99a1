//! The head's series in the order of their labels, remembered from one large selection to the next.
//!
//! Sorting hundreds of thousands of label sets costs more than all else that a query over them does.
//! Series come and go slowly, so the order is kept and only what came since is sorted in.

use std::cmp::Ordering;

use roaring::RoaringBitmap;

/// Selections of less than one in so many series are sorted by themselves.
const LARGE: u64 = 16;

/// The order, as of some moment.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// Of the index, when this was brought up to date.
    revision: u64,
    /// (slot, generation) by labels.
    sorted: Vec<(u32, u32)>,
}

/// Whether `selected` is worth the order of all of `live`.
pub(super) fn is_large(selected: &RoaringBitmap, live: &RoaringBitmap) -> bool {
    selected.len() > 64 && selected.len() * LARGE >= live.len()
}

impl Order {
    /// The slots of `selected` in order. `generation` gives that of a live slot, `compare` the order of
    /// two live slots.
    pub(super) fn of(
        &mut self,
        selected: &RoaringBitmap,
        live: &RoaringBitmap,
        revision: u64,
        generation: impl Fn(u32) -> u32,
        compare: impl Fn(u32, u32) -> Ordering,
    ) -> Vec<u32> {
        if self.revision != revision || self.sorted.is_empty() {
            self.update(live, generation, compare);
            self.revision = revision;
        }
        let selected = bits_of(selected);
        let is_selected = |slot: u32| {
            let word = selected.get(slot as usize / 64).copied().unwrap_or_default();
            word >> (slot % 64) & 1 == 1
        };
        self.sorted.iter().map(|(slot, _)| *slot).filter(|slot| is_selected(*slot)).collect()
    }

    fn update(
        &mut self,
        live: &RoaringBitmap,
        generation: impl Fn(u32) -> u32,
        compare: impl Fn(u32, u32) -> Ordering,
    ) {
        self.sorted.retain(|(slot, of)| live.contains(*slot) && generation(*slot) == *of);
        let known: RoaringBitmap = self.sorted.iter().map(|(slot, _)| *slot).collect();
        self.sorted.extend((live - known).iter().map(|slot| (slot, generation(slot))));
        // A stable sort finds the run that was in order before.
        self.sorted.sort_by(|a, b| compare(a.0, b.0));
    }
}

fn bits_of(set: &RoaringBitmap) -> Vec<u64> {
    let mut words = vec![0; set.max().map_or(0, |max| max as usize / 64 + 1)];
    for slot in set {
        words[slot as usize / 64] |= 1u64 << (slot % 64);
    }
    words
}
