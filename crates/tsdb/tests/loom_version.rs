//! Every interleaving of queries with a flush and a merge: each sample shows exactly once.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p tsdb --test loom_version --release`

#![cfg(loom)]

use loom::sync::{Arc, Mutex};
use loom::thread;
use tsdb::version::Swap;

/// The version reduced to what matters here: samples in parts, and which flushes they are from.
#[derive(Debug, Clone, Default)]
struct Version {
    parts: Vec<u32>,
    pruned: u64,
}

/// The head reduced to (flush that will write it, sample).
#[derive(Debug)]
struct Store {
    head: Mutex<Vec<(u64, u32)>>,
    version: Swap<Version>,
    /// Whoever replaces the version holds this.
    manifest: Mutex<()>,
}

impl Store {
    fn new(head: Vec<(u64, u32)>, parts: Vec<u32>) -> Arc<Store> {
        let version = Swap::new(Version { parts, pruned: 0 });
        Arc::new(Store { head: Mutex::new(head), version, manifest: Mutex::new(()) })
    }

    /// What a query sees: it pins the head first and the version second.
    fn query(&self) -> Vec<u32> {
        let pinned = self.head.lock().unwrap().clone();
        let version = self.version.load();
        let in_head =
            pinned.into_iter().filter(|(flush, _)| *flush > version.pruned).map(|(_, sample)| sample);
        let mut seen: Vec<u32> = version.parts.iter().copied().chain(in_head).collect();
        seen.sort_unstable();
        seen
    }

    fn append(&self, flush: u64, sample: u32) {
        self.head.lock().unwrap().push((flush, sample));
    }

    fn flush(&self, flush: u64) {
        let pinned: Vec<u32> = self
            .head
            .lock()
            .unwrap()
            .iter()
            .filter(|(of, _)| *of <= flush)
            .map(|(_, sample)| *sample)
            .collect();
        {
            let _manifest = self.manifest.lock().unwrap();
            let mut version = (*self.version.load()).clone();
            version.parts.extend(pinned);
            version.pruned = flush;
            self.version.store(version);
        }
        self.head.lock().unwrap().retain(|(of, _)| *of > flush);
    }

    /// Puts one part in the place of all: nothing changes for queries.
    fn merge(&self) {
        let _manifest = self.manifest.lock().unwrap();
        let mut version = (*self.version.load()).clone();
        version.parts.sort_unstable();
        version.parts.dedup();
        self.version.store(version);
    }
}

#[test]
fn a_flush_hides_and_doubles_nothing() {
    loom::model(|| {
        let store = Store::new(vec![(1, 10)], vec![]);
        let flushing = {
            let store = store.clone();
            thread::spawn(move || {
                store.flush(1);
                store.append(2, 20);
            })
        };
        let first = store.query();
        let second = store.query();
        assert!(first == [10] || first == [10, 20], "{first:?}");
        assert!(second.len() >= first.len() && second.starts_with(&[10]), "{second:?} after {first:?}");
        flushing.join().unwrap();
        assert_eq!(store.query(), [10, 20]);
    });
}

#[test]
fn a_flush_and_a_merge_do_not_undo_each_other() {
    loom::model(|| {
        let store = Store::new(vec![(1, 10)], vec![1, 2]);
        let flushing = {
            let store = store.clone();
            thread::spawn(move || store.flush(1))
        };
        let merging = {
            let store = store.clone();
            thread::spawn(move || store.merge())
        };
        assert_eq!(store.query(), [1, 2, 10]);
        flushing.join().unwrap();
        merging.join().unwrap();
        assert_eq!(store.query(), [1, 2, 10]);
    });
}
