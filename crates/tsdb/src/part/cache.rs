//! What has been read lately, decoded: pages of symbols and labels, directories, time columns.
//!
//! One cache for all parts of the process, so that a thousand idle parts cost nothing. Two
//! generations approximate least-recently-used: what is touched moves to the young one; when that is
//! full it becomes the old one, and what was in the old one goes.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock};

use parking_lot::Mutex;

/// What a cached thing is: the part's number, the kind, and two numbers that say which.
pub(super) type Key = (u64, Kind, u64, u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// A decompressed chunk: section, offset.
    Chunk,
    /// A chunk of the directory, with marks: number.
    Directory,
    /// A chunk of places of columns: section, number.
    Places,
    /// A page of symbols.
    Symbols,
    /// A page of labels.
    Labels,
    /// A whole column of integers: section, number.
    Column,
    /// Rows of a column: section and number, first and end row.
    Rows,
    /// The answer to a matcher: its hash.
    Matcher,
}

/// Bytes held by default.
const BYTES_MAX: usize = 128 << 20;
const SHARDS: usize = 16;

type Map = HashMap<Key, (Arc<dyn Any + Send + Sync>, usize), foldhash::fast::RandomState>;

#[derive(Default)]
struct Shard {
    young: Map,
    young_bytes: usize,
    old: Map,
}

/// The cache.
pub(super) struct PageCache {
    shards: [Mutex<Shard>; SHARDS],
    shard_bytes_max: usize,
}

impl fmt::Debug for PageCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageCache").field("shard_bytes_max", &self.shard_bytes_max).finish_non_exhaustive()
    }
}

impl PageCache {
    pub(super) fn new(bytes_max: usize) -> PageCache {
        PageCache { shards: Default::default(), shard_bytes_max: bytes_max / SHARDS }
    }

    /// The cache of the process.
    pub(super) fn shared() -> &'static PageCache {
        static SHARED: LazyLock<PageCache> = LazyLock::new(|| PageCache::new(BYTES_MAX));
        &SHARED
    }

    /// What is cached under `key`, or what `make` makes, with its size in bytes.
    ///
    /// Two threads may make the same thing at the same time; both then get the one that came first.
    pub(super) fn get_or<T: Send + Sync + 'static, E>(
        &self,
        key: Key,
        make: impl FnOnce() -> Result<(T, usize), E>,
    ) -> Result<Arc<T>, E> {
        let shard = &self.shards[(key.0 ^ key.2 ^ (key.2 >> 16) ^ key.3 ^ key.1 as u64) as usize % SHARDS];
        if let Some(found) =
            shard.lock().find(&key, self.shard_bytes_max).and_then(|found| found.downcast().ok())
        {
            return Ok(found);
        }
        let (made, bytes) = make()?;
        let made = Arc::new(made);
        let mut shard = shard.lock();
        if let Some(found) = shard.find(&key, self.shard_bytes_max).and_then(|found| found.downcast().ok()) {
            return Ok(found);
        }
        shard.insert(key, made.clone(), bytes, self.shard_bytes_max);
        Ok(made)
    }
}

impl Shard {
    fn find(&mut self, key: &Key, bytes_max: usize) -> Option<Arc<dyn Any + Send + Sync>> {
        if let Some((found, _)) = self.young.get(key) {
            return Some(found.clone());
        }
        let (found, bytes) = self.old.remove(key)?;
        self.insert(*key, found.clone(), bytes, bytes_max);
        Some(found)
    }

    fn insert(&mut self, key: Key, value: Arc<dyn Any + Send + Sync>, bytes: usize, bytes_max: usize) {
        let bytes = bytes + 128;
        if self.young_bytes + bytes > bytes_max / 2 {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young_bytes += bytes;
        self.young.insert(key, (value, bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_touched_stays_and_the_rest_goes() {
        let cache = PageCache::new(SHARDS * 4096);
        let get = |n: u64| {
            let mut made = false;
            let make = || {
                made = true;
                Ok::<_, ()>((n, 500))
            };
            assert_eq!(*cache.get_or((0, Kind::Chunk, n << 20, 0), make).unwrap(), n);
            made
        };
        assert!(get(1));
        for n in 2..200 {
            assert!(get(n), "{n}");
            assert!(!get(1), "touched after {n}");
        }
        assert!(get(2));
    }
}
