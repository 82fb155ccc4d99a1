//! One copy of what many have: equal values behind the same [`Arc`], and lists that are so while they rest.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::fmt;
use std::hash::Hash;
use std::ops::Deref;
use std::sync::Arc;

use parking_lot::Mutex;

/// Values that nobody has any more are looked for from so many on.
const SWEEP_MIN: usize = 256;

/// Values that many share. Clones are the same pool.
///
/// What nobody has any more goes when the pool would grow: it never holds more than twice what was in use
/// when it last looked, or [a few](SWEEP_MIN).
pub struct Interned<T: ?Sized>(Arc<Mutex<Values<T>>>);

struct Values<T: ?Sized> {
    all: HashSet<Arc<T>>,
    /// The size at which it looks for values without a user.
    sweep_at: usize,
}

impl<T: ?Sized + Eq + Hash> Interned<T> {
    /// The one value that equals this.
    pub fn share(&self, value: impl Borrow<T> + Into<Arc<T>>) -> Arc<T> {
        let mut values = self.0.lock();
        if let Some(known) = values.all.get(value.borrow()) {
            return Arc::clone(known);
        }
        if values.all.len() >= values.sweep_at {
            values.all.retain(|value| Arc::strong_count(value) > 1);
            values.sweep_at = (2 * values.all.len()).max(SWEEP_MIN);
        }
        let value = value.into();
        values.all.insert(Arc::clone(&value));
        value
    }

    /// Forgets a value that nobody but the caller has.
    fn let_go(&self, value: &Arc<T>) {
        let mut values = self.0.lock();
        // One holder is the pool; others would have to ask it, and it is locked.
        if Arc::strong_count(value) == 2 {
            values.all.remove(&**value);
        }
    }

    /// How many there are, with those that nobody has any more.
    pub fn len(&self) -> usize {
        self.0.lock().all.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T: ?Sized> Default for Interned<T> {
    fn default() -> Interned<T> {
        Interned(Arc::new(Mutex::new(Values { all: HashSet::new(), sweep_at: SWEEP_MIN })))
    }
}

impl<T: ?Sized> Clone for Interned<T> {
    fn clone(&self) -> Interned<T> {
        Interned(Arc::clone(&self.0))
    }
}

impl<T: ?Sized> fmt::Debug for Interned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Interned({} values)", self.0.lock().all.len())
    }
}

/// A list: its holder's own while it changes, and one with the equal lists of others while it rests.
pub enum List<T: Eq + Hash> {
    /// Changes.
    Own(Vec<T>),
    /// Rests.
    Shared(Resting<T>),
}

/// A list that rests, and where.
pub struct Resting<T: Eq + Hash> {
    list: Arc<[T]>,
    pool: Interned<[T]>,
}

impl<T: Eq + Hash> Drop for Resting<T> {
    fn drop(&mut self) {
        self.pool.let_go(&self.list);
    }
}

impl<T: Eq + Hash> List<T> {
    /// From now on one with the equal lists in `pool`, until it changes.
    pub fn rest(&mut self, pool: &Interned<[T]>) {
        if let List::Own(own) = self {
            let list = pool.share(std::mem::take(own));
            *self = List::Shared(Resting { list, pool: pool.clone() });
        }
    }

    /// To be changed: a copy, where it rested.
    pub fn to_mut(&mut self) -> &mut Vec<T>
    where
        T: Clone,
    {
        if let List::Shared(shared) = self {
            *self = List::Own(shared.list.to_vec());
        }
        match self {
            List::Own(own) => own,
            List::Shared(_) => unreachable!("it has just become its holder's own"),
        }
    }

    /// Memory held, bytes: of a shared list its part.
    pub fn heap_bytes(&self) -> usize {
        match self {
            List::Own(own) => own.capacity() * size_of::<T>(),
            // One holder is the pool.
            List::Shared(shared) => {
                size_of_val(&*shared.list) / Arc::strong_count(&shared.list).saturating_sub(1).max(1)
            }
        }
    }
}

impl<T: Eq + Hash> Deref for List<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        match self {
            List::Own(own) => own,
            List::Shared(shared) => &shared.list,
        }
    }
}

impl<T: Eq + Hash> Default for List<T> {
    fn default() -> List<T> {
        List::Own(Vec::new())
    }
}

impl<T: Eq + Hash> From<Vec<T>> for List<T> {
    fn from(own: Vec<T>) -> List<T> {
        List::Own(own)
    }
}

impl<T: Eq + Hash + fmt::Debug> fmt::Debug for List<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_one() {
        let pool: Interned<[u8]> = Interned::default();
        let (one, two) = (pool.share(&b"le=\"1\""[..]), pool.clone().share(b"le=\"1\"".to_vec()));
        assert!(Arc::ptr_eq(&one, &two));
        assert!(!Arc::ptr_eq(&one, &pool.share(&b"le=\"2\""[..])));
        assert_eq!(pool.len(), 2);
    }

    #[test]
    fn what_nobody_has_goes() {
        let pool: Interned<str> = Interned::default();
        let kept: Vec<Arc<str>> = (0..10).map(|n| pool.share(format!("kept {n}"))).collect();
        for n in 0..10_000 {
            pool.share(format!("gone {n}"));
        }
        assert!(pool.len() <= SWEEP_MIN, "{pool:?}");
        for (n, value) in kept.iter().enumerate() {
            assert!(Arc::ptr_eq(value, &pool.share(format!("kept {n}"))));
        }
    }

    #[test]
    fn lists_are_one_while_they_rest() {
        let pool: Interned<[u32]> = Interned::default();
        let mut lists: Vec<List<u32>> = (0..3).map(|_| List::from(vec![1, 2, 3])).collect();
        let alone = lists[0].heap_bytes();
        lists.iter_mut().for_each(|list| list.rest(&pool));
        assert_eq!((pool.len(), lists[0].heap_bytes()), (1, alone / 3));
        lists[0].to_mut().push(4);
        assert_eq!((&*lists[0], &*lists[1]), (&[1, 2, 3, 4][..], &[1, 2, 3][..]));
        lists[0].rest(&pool);
        assert_eq!(pool.len(), 2);
        lists[0].to_mut();
        assert_eq!(pool.len(), 1, "a list that nobody else has leaves nothing behind");
        lists.clear();
        assert!(pool.is_empty(), "{pool:?}");
    }
}
