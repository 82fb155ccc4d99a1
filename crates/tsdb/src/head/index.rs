//! The head's series by labels: interned strings, (name, value) pairs, postings, and a table to find
//! a series by its labels.
//!
//! A series is a record of 24 bytes and the numbers of its pairs; no string is kept twice. Slots of
//! removed series are used again under a new generation, so that a [`SeriesRef`] of a removed series
//! is recognised.

mod pair_lists;
mod postings;
mod restore;
mod symbols;

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::HashMap;

use hashbrown::HashTable;
use model::{Labels, MatchOp, Matcher};
use parking_lot::Mutex;
use roaring::RoaringBitmap;
use smallvec::SmallVec;
use storage::SeriesRef;
use xxhash_rust::xxh3::xxh3_64;

use self::pair_lists::PairLists;
use self::postings::Postings;
use self::restore::Restoring;
use self::symbols::Symbols;
use super::order::{self, Order};

/// The slot half of a reference.
pub(crate) fn slot_of(series: SeriesRef) -> u32 {
    (series.0 >> 32) as u32
}

/// The generation half of a reference.
pub(crate) fn generation_of(series: SeriesRef) -> u32 {
    series.0 as u32
}

pub(crate) fn reference(slot: u32, generation: u32) -> SeriesRef {
    SeriesRef(u64::from(slot) << 32 | u64::from(generation))
}

#[derive(Debug)]
struct Pair {
    name: u32,
    value: u32,
    postings: Postings,
}

#[derive(Debug, Clone, Copy)]
struct Series {
    hash: u64,
    generation: u32,
    pairs_at: u32,
    pairs: u32,
}

/// Most labels of a series; [`Index::resolve`] gives `None` beyond.
pub(crate) const LABELS_MAX: usize = 4096;

#[derive(Debug, Default)]
pub(crate) struct Index {
    symbols: Symbols,
    pairs: Vec<Pair>,
    free_pairs: Vec<u32>,
    pair_table: HashTable<u32>,
    /// The pairs of each label name.
    names: HashMap<u32, Vec<u32>, foldhash::fast::RandomState>,
    lists: PairLists,
    series: Vec<Series>,
    free_series: RoaringBitmap,
    table: HashTable<u32>,
    live: RoaringBitmap,
    /// While series of the log come back: postings and `live` lack them.
    restoring: Option<Restoring>,
    /// The pairs of the series added last: those of the next one mostly are the same.
    recent: SmallVec<[u32; 32]>,
    /// Counts the series that came and went.
    revision: u64,
    order: Mutex<Order>,
}

fn pair_hash(name: u32, value: u32) -> u64 {
    xxh3_64(&(u64::from(name) << 32 | u64::from(value)).to_le_bytes())
}

impl Index {
    pub(crate) fn len(&self) -> usize {
        self.live.len() as usize
    }

    /// The slots of all series.
    pub(crate) fn live(&self) -> &RoaringBitmap {
        &self.live
    }

    /// The generation of the series at `slot`, which must be live.
    pub(crate) fn generation(&self, slot: u32) -> u32 {
        self.series[slot as usize].generation
    }

    /// Finds a series.
    pub(crate) fn find(&self, labels: &Labels) -> Option<SeriesRef> {
        self.find_hashed(labels, xxh3_64(labels.as_bytes()))
    }

    fn find_hashed(&self, labels: &Labels, hash: u64) -> Option<SeriesRef> {
        let slot = *self.table.find(hash, |slot| {
            self.series[*slot as usize].hash == hash && self.pairs_of(*slot).eq(labels.iter())
        })?;
        Some(reference(slot, self.series[slot as usize].generation))
    }

    /// Adds a series that is not there, under `generation`.
    pub(crate) fn insert(&mut self, labels: &Labels, generation: u32) -> SeriesRef {
        let slot = self.free_slot();
        self.put(labels, xxh3_64(labels.as_bytes()), slot, generation);
        for pair in &self.recent {
            self.pairs[*pair as usize].postings.insert(slot);
        }
        self.live.insert(slot);
        reference(slot, generation)
    }

    fn free_slot(&self) -> u32 {
        self.free_series.min().unwrap_or(self.series.len() as u32)
    }

    /// Puts a series into `slot`: everything but its postings.
    fn put(&mut self, labels: &Labels, hash: u64, slot: u32, generation: u32) {
        let recent = std::mem::take(&mut self.recent);
        let mut recent = recent.iter().copied().peekable();
        let mut pairs: SmallVec<[u32; 32]> = SmallVec::new();
        for (name, value) in labels {
            while recent.next_if(|pair| self.name_of(*pair) < name).is_some() {}
            let same = recent.next_if(|pair| {
                let Pair { name: of, value: is, .. } = self.pairs[*pair as usize];
                self.symbols.text(is) == value && self.symbols.text(of) == name
            });
            pairs.push(same.unwrap_or_else(|| self.pair(name, value)));
        }
        let pairs_at = self.lists.add(&pairs);
        self.fill(slot, Series { hash, generation, pairs_at, pairs: pairs.len() as u32 });
        let series = &self.series;
        self.table.insert_unique(hash, slot, |slot| series[*slot as usize].hash);
        self.recent = pairs;
    }

    /// Gives a free slot to a series; slots before it that were never used stay free.
    fn fill(&mut self, slot: u32, record: Series) {
        let nobody = Series { hash: 0, generation: 0, pairs_at: 0, pairs: 0 };
        while self.series.len() < slot as usize {
            self.free_series.insert(self.series.len() as u32);
            self.series.push(nobody);
        }
        if slot as usize == self.series.len() {
            self.series.push(record);
        } else {
            self.free_series.remove(slot);
            self.series[slot as usize] = record;
        }
        self.revision += 1;
    }

    fn name_of(&self, pair: u32) -> &str {
        self.symbols.text(self.pairs[pair as usize].name)
    }

    fn pair(&mut self, name: &str, value: &str) -> u32 {
        if let (Some(name), Some(value)) = (self.symbols.find(name), self.symbols.find(value))
            && let Some(pair) = self.find_pair(name, value)
        {
            return pair;
        }
        let (name, value) = (self.symbols.intern(name), self.symbols.intern(value));
        let record = Pair { name, value, postings: Postings::default() };
        let id = match self.free_pairs.pop() {
            Some(id) => {
                self.pairs[id as usize] = record;
                id
            }
            None => {
                self.pairs.push(record);
                (self.pairs.len() - 1) as u32
            }
        };
        let pairs = &self.pairs;
        self.pair_table.insert_unique(pair_hash(name, value), id, |id| {
            let pair = &pairs[*id as usize];
            pair_hash(pair.name, pair.value)
        });
        self.names.entry(name).or_default().push(id);
        id
    }

    fn find_pair(&self, name: u32, value: u32) -> Option<u32> {
        let same =
            |id: &u32| self.pairs[*id as usize].name == name && self.pairs[*id as usize].value == value;
        self.pair_table.find(pair_hash(name, value), same).copied()
    }

    /// Removes series, and what only they used.
    pub(crate) fn remove(&mut self, slots: &RoaringBitmap) {
        let mut emptied: Vec<u32> = Vec::new();
        self.revision += 1;
        self.recent.clear();
        for slot in slots {
            if !self.live.remove(slot) {
                continue;
            }
            let Series { hash, pairs_at, pairs, .. } = self.series[slot as usize];
            for pair in self.lists.get(pairs_at, pairs) {
                let postings = &mut self.pairs[*pair as usize].postings;
                postings.remove(slot);
                if postings.len() == 0 {
                    emptied.push(*pair);
                }
            }
            self.lists.free(pairs_at, pairs);
            if let Ok(found) = self.table.find_entry(hash, |other| *other == slot) {
                found.remove();
            }
            self.free_series.insert(slot);
        }
        let names: std::collections::HashSet<u32> =
            emptied.iter().map(|p| self.pairs[*p as usize].name).collect();
        for name in names {
            let pairs = &self.pairs;
            if let Some(list) = self.names.get_mut(&name) {
                list.retain(|pair| pairs[*pair as usize].postings.len() > 0);
                if list.is_empty() {
                    self.names.remove(&name);
                }
            }
        }
        for pair in emptied {
            let Pair { name, value, .. } = self.pairs[pair as usize];
            if let Ok(found) = self.pair_table.find_entry(pair_hash(name, value), |other| *other == pair) {
                found.remove();
            }
            self.symbols.release(name);
            self.symbols.release(value);
            self.free_pairs.push(pair);
        }
    }

    fn pairs_of(&self, slot: u32) -> impl Iterator<Item = (&str, &str)> {
        let Series { pairs_at, pairs, .. } = self.series[slot as usize];
        self.lists.get(pairs_at, pairs).iter().map(|pair| {
            let pair = &self.pairs[*pair as usize];
            (self.symbols.text(pair.name), self.symbols.text(pair.value))
        })
    }

    /// The labels of the live series at `slot`.
    pub(crate) fn labels(&self, slot: u32) -> Labels {
        Labels::from_sorted(self.pairs_of(slot))
    }

    /// The slots of `selected` (live ones) by their labels if there are many of them, else in no order,
    /// with their labels.
    pub(crate) fn labelled(&self, selected: &RoaringBitmap) -> Vec<(u32, Labels)> {
        let mut room = Vec::with_capacity(256);
        let mut labelled = |slot: u32| (slot, Labels::from_sorted_in(&mut room, self.pairs_of(slot)));
        if order::is_large(selected, &self.live) {
            let generation = |slot: u32| self.series[slot as usize].generation;
            let compare = |a: u32, b: u32| self.compare(a, b);
            let slots = self.order.lock().of(selected, &self.live, self.revision, generation, compare);
            slots.into_iter().map(labelled).collect()
        } else {
            selected.iter().map(&mut labelled).collect()
        }
    }

    /// The order of the labels of two live series.
    fn compare(&self, a: u32, b: u32) -> Ordering {
        let pairs = |slot: u32| {
            let Series { pairs_at, pairs, .. } = self.series[slot as usize];
            self.lists.get(pairs_at, pairs)
        };
        let (a, b) = (pairs(a), pairs(b));
        // Equal pairs have equal numbers.
        let Some((a, b)) = a.iter().zip(b).find(|(a, b)| a != b) else { return a.len().cmp(&b.len()) };
        let text = |pair: u32| {
            let pair = &self.pairs[pair as usize];
            (self.symbols.text(pair.name), self.symbols.text(pair.value))
        };
        text(*a).cmp(&text(*b))
    }

    fn name_pairs(&self, name: &str) -> &[u32] {
        self.symbols.find(name).and_then(|name| self.names.get(&name)).map_or(&[], Vec::as_slice)
    }

    /// The live series that satisfy all `matchers`.
    pub(crate) fn select(&self, matchers: &[Matcher]) -> RoaringBitmap {
        let mut wanted: Vec<Cow<'_, RoaringBitmap>> = Vec::new();
        let mut unwanted: Vec<&Matcher> = Vec::new();
        for matcher in matchers {
            if matcher.matches_empty() {
                unwanted.push(matcher);
            } else {
                wanted.push(self.matching(matcher));
            }
        }
        wanted.sort_by_key(|postings| postings.len());
        let mut wanted = wanted.into_iter();
        let mut selected = match wanted.next() {
            Some(first) => first.into_owned(),
            None => self.live.clone(),
        };
        for postings in wanted {
            if selected.is_empty() {
                break;
            }
            selected &= &*postings;
        }
        for matcher in unwanted {
            if selected.is_empty() {
                break;
            }
            selected -= &*self.failing(matcher);
        }
        selected
    }

    /// How many series have a label.
    pub(crate) fn count(&self, name: &str, value: &str) -> u64 {
        self.exactly(name, value).map_or(0, Postings::len)
    }

    fn exactly(&self, name: &str, value: &str) -> Option<&Postings> {
        let pair = self.find_pair(self.symbols.find(name)?, self.symbols.find(value)?)?;
        Some(&self.pairs[pair as usize].postings)
    }

    /// The series whose label satisfies a matcher that the empty value does not.
    fn matching(&self, matcher: &Matcher) -> Cow<'_, RoaringBitmap> {
        if matcher.op == MatchOp::Equal {
            return self.exactly(&matcher.name, &matcher.value).map_or_else(Cow::default, Postings::bitmap);
        }
        if let (MatchOp::Regex, Some(literals)) = (matcher.op, matcher.regex().and_then(|r| r.literals())) {
            let mut out = RoaringBitmap::new();
            for postings in literals.iter().filter_map(|value| self.exactly(&matcher.name, value)) {
                postings.add_to(&mut out);
            }
            return Cow::Owned(out);
        }
        self.union(&matcher.name, |value| matcher.matches(value))
    }

    /// The series whose label does not satisfy the matcher.
    fn failing(&self, matcher: &Matcher) -> Cow<'_, RoaringBitmap> {
        if matcher.op == MatchOp::NotEqual {
            return self.exactly(&matcher.name, &matcher.value).map_or_else(Cow::default, Postings::bitmap);
        }
        self.union(&matcher.name, |value| !matcher.matches(value))
    }

    fn union(&self, name: &str, accept: impl Fn(&str) -> bool) -> Cow<'_, RoaringBitmap> {
        let mut out = RoaringBitmap::new();
        for pair in self.name_pairs(name) {
            let pair = &self.pairs[*pair as usize];
            if accept(self.symbols.text(pair.value)) {
                pair.postings.add_to(&mut out);
            }
        }
        Cow::Owned(out)
    }

    /// Appends the label names of `selected` (of all, with `None`), in no order.
    pub(crate) fn label_names(&self, selected: Option<&RoaringBitmap>, out: &mut Vec<String>) {
        for (name, pairs) in &self.names {
            let has = |pair: &u32| self.meets(*pair, selected);
            if selected.is_none() || pairs.iter().any(has) {
                out.push(self.symbols.text(*name).to_owned());
            }
        }
    }

    /// Appends the values of `name` in `selected` (in all, with `None`), in no order.
    pub(crate) fn label_values(&self, name: &str, selected: Option<&RoaringBitmap>, out: &mut Vec<String>) {
        for pair in self.name_pairs(name) {
            if self.meets(*pair, selected) {
                out.push(self.symbols.text(self.pairs[*pair as usize].value).to_owned());
            }
        }
    }

    fn meets(&self, pair: u32, selected: Option<&RoaringBitmap>) -> bool {
        let Some(selected) = selected else { return true };
        self.pairs[pair as usize].postings.meet(selected)
    }

    /// Sorts slots in part order by the ranks of their pairs, without building labels.
    pub(crate) fn sort_in_part_order(&self, slots: &mut [u32]) {
        let mut order: Vec<u32> = (0..self.pairs.len() as u32).collect();
        let text = |pair: u32| {
            let pair = &self.pairs[pair as usize];
            let name = self.symbols.text(pair.name);
            (name != model::labels::METRIC_NAME, name, self.symbols.text(pair.value))
        };
        order.sort_unstable_by(|a, b| text(*a).cmp(&text(*b)));
        let mut rank = vec![0u32; self.pairs.len()];
        for (at, pair) in order.iter().enumerate() {
            rank[*pair as usize] = at as u32;
        }
        let metric_names = order.partition_point(|pair| !text(*pair).0) as u32;
        // By metric name, then the other pairs in turn; a set that is a prefix of another comes first.
        slots.sort_by_cached_key(|slot| {
            let Series { pairs_at, pairs, .. } = self.series[*slot as usize];
            let list = self.lists.get(pairs_at, pairs);
            let mut key: SmallVec<[u32; 16]> = list.iter().map(|pair| rank[*pair as usize] + 1).collect();
            match key.iter().position(|rank| *rank <= metric_names) {
                Some(at) => key[..=at].rotate_right(1),
                None => key.insert(0, 0),
            }
            key
        });
    }

    /// Figures for the status page: (label name, distinct values), (pair, series).
    pub(crate) fn figures(&self) -> IndexFigures {
        let mut figures = IndexFigures::default();
        for (name, pairs) in &self.names {
            let text = self.symbols.text(*name);
            let bytes: usize =
                pairs.iter().map(|p| self.symbols.text(self.pairs[*p as usize].value).len()).sum();
            figures.names.push((text.to_owned(), pairs.len() as u64, bytes as u64));
            for pair in pairs {
                let Pair { value, ref postings, .. } = self.pairs[*pair as usize];
                figures.pairs.push((text.to_owned(), self.symbols.text(value).to_owned(), postings.len()));
            }
        }
        figures.pair_count = figures.pairs.len() as u64;
        figures
    }
}

/// See [`Index::figures`].
#[derive(Debug, Default)]
pub(crate) struct IndexFigures {
    pub(crate) pair_count: u64,
    /// Name, distinct values, bytes of the values.
    pub(crate) names: Vec<(String, u64, u64)>,
    /// Name, value, series.
    pub(crate) pairs: Vec<(String, String, u64)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        Labels::from_pairs(pairs.iter().copied())
    }

    fn filled() -> (Index, Vec<Labels>) {
        let mut index = Index::default();
        let mut all = Vec::new();
        for job in ["a", "b", "c"] {
            for n in 0..30 {
                let text = n.to_string();
                all.push(labels(&[("__name__", "up"), ("job", job), ("n", &text)]));
            }
        }
        all.push(labels(&[("Z", "1"), ("__name__", "up")]));
        all.push(labels(&[("job", "nameless")]));
        for (generation, labels) in all.iter().enumerate() {
            index.insert(labels, generation as u32);
        }
        (index, all)
    }

    #[test]
    fn every_matcher_selects_what_it_says() {
        let (index, all) = filled();
        let cases = [
            (MatchOp::Equal, "job", "a"),
            (MatchOp::Equal, "job", ""),
            (MatchOp::Equal, "job", "none"),
            (MatchOp::NotEqual, "job", "a"),
            (MatchOp::NotEqual, "job", ""),
            (MatchOp::Equal, "absent", ""),
            (MatchOp::NotEqual, "absent", ""),
            (MatchOp::Equal, "Z", "1"),
        ];
        for (op, name, value) in cases {
            for (op2, name2, value2) in cases {
                let matchers =
                    [Matcher::new(op, name, value).unwrap(), Matcher::new(op2, name2, value2).unwrap()];
                let found: Vec<Labels> =
                    index.select(&matchers).iter().map(|slot| index.labels(slot)).collect();
                let wanted: Vec<Labels> = all
                    .iter()
                    .filter(|l| matchers.iter().all(|m| m.matches(l.get(&m.name).unwrap_or_default())))
                    .cloned()
                    .collect();
                assert_eq!(found, wanted, "{matchers:?}");
            }
        }
    }

    #[test]
    fn removed_series_are_forgotten_and_slots_used_again() {
        let (mut index, all) = filled();
        let gone = index.select(&[Matcher::equal("job", "b")]);
        index.remove(&gone);
        assert_eq!(index.len(), all.len() - 30);
        let (mut names, mut values) = (Vec::new(), Vec::new());
        index.label_names(None, &mut names);
        index.label_values("job", None, &mut values);
        names.sort();
        values.sort();
        assert_eq!(names, ["Z", "__name__", "job", "n"]);
        assert_eq!(values, ["a", "c", "nameless"]);
        assert!(index.find(&all[40]).is_none());
        let again = index.insert(&all[40], 7000);
        assert!(gone.contains(slot_of(again)));
        assert_eq!(index.find(&all[40]), Some(again));
        assert_eq!(index.labels(slot_of(again)), all[40]);
    }

    #[test]
    fn large_selections_come_in_order_while_series_come_and_go() {
        let (mut index, mut all) = filled();
        let check = |index: &Index, all: &mut Vec<Labels>| {
            all.sort();
            let ordered: Vec<Labels> = index.labelled(index.live()).into_iter().map(|(_, l)| l).collect();
            assert_eq!(ordered, *all);
            let some = index.select(&[Matcher::equal("job", "a")]);
            let ordered = index.labelled(&some).into_iter().map(|(_, l)| l);
            assert!(ordered.eq(all.iter().filter(|l| l.get("job") == Some("a")).cloned()));
        };
        let large: Vec<Labels> = (0..100).map(|n| labels(&[("job", "a"), ("x", &format!("{n}"))])).collect();
        for (generation, labels) in (5000..).zip(&large) {
            index.insert(labels, generation);
        }
        all.extend(large);
        check(&index, &mut all);
        let gone = index.select(&[Matcher::equal("job", "b")]);
        index.remove(&gone);
        all.retain(|l| l.get("job") != Some("b"));
        check(&index, &mut all);
        // Into freed slots.
        for n in 0..5u32 {
            let labels = labels(&[("__name__", "late"), ("n", &n.to_string())]);
            index.insert(&labels, 9000 + n);
            all.push(labels);
        }
        check(&index, &mut all);
    }

    #[test]
    fn part_order_is_the_parts_own() {
        let (index, mut all) = filled();
        let mut slots: Vec<u32> = index.live().iter().collect();
        index.sort_in_part_order(&mut slots);
        all.sort_by(crate::part::part_order);
        assert_eq!(slots.iter().map(|slot| index.labels(*slot)).collect::<Vec<_>>(), all);
    }
}
