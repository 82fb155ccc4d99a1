//! The series that have a (name, value) pair.

use std::borrow::Cow;

use roaring::RoaringBitmap;

/// The series that have a pair. Most pairs of a large fleet (pods, containers, ids) have few.
#[derive(Debug)]
pub(super) enum Postings {
    One(u32),
    /// Ascending.
    Few(Box<[u32]>),
    Many(Box<RoaringBitmap>),
}

const FEW_MAX: usize = 16;
/// So many neighbours are put into a bitmap at once.
const RUN_MIN: usize = 16;

impl Default for Postings {
    fn default() -> Self {
        Postings::Few(Box::default())
    }
}

impl Postings {
    /// Those of these slots, which ascend.
    fn of_sorted(slots: &[u32]) -> Postings {
        match slots {
            [slot] => Postings::One(*slot),
            _ if slots.len() <= FEW_MAX => Postings::Few(slots.into()),
            _ => Postings::Many(Box::new(many(slots))),
        }
    }

    pub(super) fn insert(&mut self, slot: u32) {
        match self {
            Postings::Many(many) => _ = many.insert(slot),
            Postings::One(_) | Postings::Few(_) => {
                let few = self.few();
                if let Err(at) = few.binary_search(&slot) {
                    let slots = [&few[..at], &[slot], &few[at..]].concat();
                    *self = Postings::of_sorted(&slots);
                }
            }
        }
    }

    pub(super) fn remove(&mut self, slot: u32) {
        match self {
            Postings::Many(many) => _ = many.remove(slot),
            Postings::One(_) | Postings::Few(_) => {
                let left: Vec<u32> = self.few().iter().copied().filter(|other| *other != slot).collect();
                *self = Postings::of_sorted(&left);
            }
        }
    }

    /// The slots if they are few.
    fn few(&self) -> &[u32] {
        match self {
            Postings::One(slot) => std::slice::from_ref(slot),
            Postings::Few(few) => few,
            Postings::Many(_) => &[],
        }
    }

    pub(super) fn len(&self) -> u64 {
        match self {
            Postings::Many(many) => many.len(),
            _ => self.few().len() as u64,
        }
    }

    /// Whether some of them are in `selected`.
    pub(super) fn meet(&self, selected: &RoaringBitmap) -> bool {
        match self {
            Postings::Many(many) => !many.is_disjoint(selected),
            _ => self.few().iter().any(|slot| selected.contains(*slot)),
        }
    }

    pub(super) fn bitmap(&self) -> Cow<'_, RoaringBitmap> {
        match self {
            Postings::Many(many) => Cow::Borrowed(many),
            _ => Cow::Owned(self.few().iter().copied().collect()),
        }
    }

    pub(super) fn add_to(&self, out: &mut RoaringBitmap) {
        match self {
            Postings::Many(many) => *out |= &**many,
            _ => out.extend(self.few().iter().copied()),
        }
    }
}

/// The bitmap of these slots, which ascend.
fn many(slots: &[u32]) -> RoaringBitmap {
    let mut many = RoaringBitmap::new();
    let mut rest = slots;
    while let [first, after @ ..] = rest {
        // Slots of a target are neighbours, and what all its series have is a range of them.
        let run = 1 + after.iter().zip(first + 1..).take_while(|(slot, next)| *slot == next).count();
        if run >= RUN_MIN {
            many.insert_range(*first..=rest[run - 1]);
        } else {
            rest[..run].iter().for_each(|slot| _ = many.try_push(*slot));
        }
        rest = &rest[run..];
    }
    many
}

/// The postings of `pairs` pairs, made in one go from the pairs of each slot, slots ascending. `each` gives
/// those to its argument; it is called twice.
pub(super) fn of_all(pairs: usize, each: impl Fn(&mut dyn FnMut(u32, &[u32]))) -> Vec<Postings> {
    let mut ends = vec![0usize; pairs];
    each(&mut |_, pairs| pairs.iter().for_each(|pair| ends[*pair as usize] += 1));
    let mut total = 0;
    for end in &mut ends {
        // Where its slots begin, and where they end once all are there.
        total += std::mem::replace(end, total);
    }
    let mut slots = vec![0u32; total];
    each(&mut |slot, pairs| {
        for pair in pairs {
            let end = &mut ends[*pair as usize];
            slots[*end] = slot;
            *end += 1;
        }
    });
    let mut begin = 0;
    ends.into_iter()
        .map(|end| {
            let postings = Postings::of_sorted(&slots[begin..end]);
            begin = end;
            postings
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Stretches of slots and what lies between them: as targets have them, few and many.
    fn slots() -> impl Strategy<Value = BTreeSet<u32>> {
        let stretch = (0..200_000u32, 1..80u32);
        prop::collection::vec(stretch, 0..12)
            .prop_map(|all| all.into_iter().flat_map(|(from, len)| from..from + len).collect())
    }

    fn check(postings: &Postings, slots: &BTreeSet<u32>) {
        assert!(postings.bitmap().iter().eq(slots.iter().copied()), "{postings:?} are {slots:?}");
        let is_few = slots.len() <= FEW_MAX;
        assert!(!is_few || !matches!(postings, Postings::Many(_)));
    }

    proptest! {
        #[test]
        fn made_at_once_they_are_what_they_are_one_by_one(mut slots in slots(), odd in 0..200_000u32) {
            let sorted: Vec<u32> = slots.iter().copied().collect();
            let mut postings = Postings::of_sorted(&sorted);
            check(&postings, &slots);
            let mut one_by_one = Postings::default();
            sorted.iter().for_each(|slot| one_by_one.insert(*slot));
            check(&one_by_one, &slots);
            postings.insert(odd);
            slots.insert(odd);
            check(&postings, &slots);
            let gone = slots.iter().copied().step_by(2).collect::<Vec<_>>();
            for slot in gone {
                postings.remove(slot);
                slots.remove(&slot);
            }
            prop_assert!(postings.bitmap().iter().eq(slots.iter().copied()));
        }
    }

    #[test]
    fn of_all_gives_each_pair_its_slots() {
        // Slot n has the pairs that divide it.
        let each = |tell: &mut dyn FnMut(u32, &[u32])| {
            for slot in 1..1000u32 {
                let pairs: Vec<u32> = (1..60).filter(|pair| slot % pair == 0).collect();
                tell(slot, &pairs);
            }
        };
        let all = of_all(60, each);
        assert_eq!(all.len(), 60);
        check(&all[0], &BTreeSet::new());
        for pair in 1..60u32 {
            check(&all[pair as usize], &(1..1000).filter(|slot| slot % pair == 0).collect());
        }
    }
}
