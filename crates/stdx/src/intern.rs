//! One copy of what many have: equal values behind the same [`Arc`].

use std::borrow::Borrow;
use std::collections::HashSet;
use std::fmt;
use std::hash::Hash;
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
}
