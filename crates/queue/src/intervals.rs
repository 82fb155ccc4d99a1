//! Sets of block numbers, as intervals.

use std::collections::BTreeMap;
use std::fmt;

/// A set of block numbers kept as disjoint intervals that do not touch.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Intervals {
    /// First to last, inclusive.
    ranges: BTreeMap<u64, u64>,
}

impl Intervals {
    /// The empty set.
    pub fn new() -> Intervals {
        Intervals::default()
    }

    /// Adds `first ..= last`; nothing when `last < first`.
    pub fn insert(&mut self, first: u64, last: u64) {
        if last < first {
            return;
        }
        let (mut first, mut last) = (first, last);
        if let Some((&start, &end)) = self.ranges.range(..=first).next_back()
            && (end >= first || end + 1 == first)
        {
            first = start;
            last = last.max(end);
        }
        while let Some((&start, &end)) = self.ranges.range(first..).next() {
            if start > last && start - 1 != last {
                break;
            }
            last = last.max(end);
            self.ranges.remove(&start);
        }
        self.ranges.insert(first, last);
    }

    /// Takes `first ..= last` out.
    pub fn remove(&mut self, first: u64, last: u64) {
        if last < first {
            return;
        }
        if let Some((&start, &end)) = self.ranges.range(..first).next_back()
            && end >= first
        {
            self.ranges.insert(start, first - 1);
            if end > last {
                self.ranges.insert(last + 1, end);
            }
        }
        while let Some((&start, &end)) = self.ranges.range(first..=last).next() {
            self.ranges.remove(&start);
            if end > last {
                self.ranges.insert(last + 1, end);
            }
        }
    }

    /// Adds all of `other`.
    pub fn extend(&mut self, other: &Intervals) {
        for (first, last) in other.iter() {
            self.insert(first, last);
        }
    }

    /// The interval that `block` lies in, first and last.
    pub fn around(&self, block: u64) -> Option<(u64, u64)> {
        let (&first, &last) = self.ranges.range(..=block).next_back()?;
        (last >= block).then_some((first, last))
    }

    /// Whether `block` is in the set.
    pub fn contains(&self, block: u64) -> bool {
        self.around(block).is_some()
    }

    /// Whether all of `first ..= last` is in the set.
    pub fn covers(&self, first: u64, last: u64) -> bool {
        last < first || self.around(first).is_some_and(|(_, end)| end >= last)
    }

    /// How many of `first ..= last` are in the set.
    pub fn count_within(&self, first: u64, last: u64) -> u64 {
        if last < first {
            return 0;
        }
        let from = self.around(first).map_or(first, |(start, _)| start);
        let clipped = |(start, end): (&u64, &u64)| (*end).min(last) - (*start).max(first) + 1;
        self.ranges.range(from..=last).map(clipped).sum()
    }

    /// The intervals in order, first and last inclusive.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.ranges.iter().map(|(&first, &last)| (first, last))
    }

    /// How many intervals there are.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

impl FromIterator<(u64, u64)> for Intervals {
    fn from_iter<T: IntoIterator<Item = (u64, u64)>>(ranges: T) -> Intervals {
        let mut set = Intervals::new();
        for (first, last) in ranges {
            set.insert(first, last);
        }
        set
    }
}

impl fmt::Debug for Intervals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = f.debug_set();
        for (first, last) in self.iter() {
            list.entry(&format_args!("{first}..={last}"));
        }
        list.finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_set(steps in prop::collection::vec((any::<bool>(), 0u64..60, 0u64..12), 0..60)) {
            let (mut set, mut model) = (Intervals::new(), BTreeSet::new());
            for (insert, first, len) in steps {
                let last = first + len;
                if insert {
                    set.insert(first, last);
                    model.extend(first..=last);
                } else {
                    set.remove(first, last);
                    model.retain(|block| !(first..=last).contains(block));
                }
                let members: BTreeSet<u64> = set.iter().flat_map(|(a, b)| a..=b).collect();
                prop_assert_eq!(&members, &model);
                prop_assert_eq!(set.count_within(first, last + 5), model.range(first..=last + 5).count() as u64);
                prop_assert_eq!(set.covers(first, last), (first..=last).all(|b| model.contains(&b)));
                let ranges: Vec<_> = set.iter().collect();
                prop_assert!(ranges.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0), "{:?}", set);
            }
        }
    }

    #[test]
    fn it_reaches_to_the_ends() {
        let mut set = Intervals::new();
        set.insert(u64::MAX, u64::MAX);
        set.insert(0, 0);
        set.insert(1, u64::MAX - 1);
        assert_eq!(set.iter().collect::<Vec<_>>(), [(0, u64::MAX)]);
        set.remove(0, u64::MAX);
        assert!(set.is_empty());
    }
}
