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
