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
    spilled: u64,
}

/// The head reduced to (flush that will write it, sample), and the late lane to (spill, sample).
#[derive(Debug, Default, Clone)]
struct Head {
    live: Vec<(u64, u32)>,
    late: Vec<(u64, u32)>,
}

#[derive(Debug)]
struct Store {
    head: Mutex<Head>,
    version: Swap<Version>,
    /// Whoever replaces the version holds this.
    manifest: Mutex<()>,
}

impl Store {
    fn new(head: Vec<(u64, u32)>, parts: Vec<u32>) -> Arc<Store> {
        Store::with_late(head, Vec::new(), parts)
    }

    fn with_late(live: Vec<(u64, u32)>, late: Vec<(u64, u32)>, parts: Vec<u32>) -> Arc<Store> {
        let version = Swap::new(Version { parts, pruned: 0, spilled: 0 });
        Arc::new(Store { head: Mutex::new(Head { live, late }), version, manifest: Mutex::new(()) })
    }

    /// What a query sees: it pins the head first and the version second.
    fn query(&self) -> Vec<u32> {
        let pinned = self.head.lock().unwrap().clone();
        let version = self.version.load();
        let live = pinned.live.into_iter().filter(|(flush, _)| *flush > version.pruned);
        let late = pinned.late.into_iter().filter(|(spill, _)| *spill > version.spilled);
        let in_head = live.chain(late).map(|(_, sample)| sample);
        let mut seen: Vec<u32> = version.parts.iter().copied().chain(in_head).collect();
        seen.sort_unstable();
        seen
    }

    fn append(&self, flush: u64, sample: u32) {
        self.head.lock().unwrap().live.push((flush, sample));
    }

    /// Writes what is late up to a spill and, if it is more than a spill, what is live up to a flush.
    fn write(&self, flush: Option<u64>, spill: u64) {
        let pinned: Vec<u32> = {
            let head = self.head.lock().unwrap();
            let live = head.live.iter().filter(|(of, _)| flush.is_some_and(|flush| *of <= flush));
            let late = head.late.iter().filter(|(of, _)| *of <= spill);
            live.chain(late).map(|(_, sample)| *sample).collect()
        };
        {
            let _manifest = self.manifest.lock().unwrap();
            let mut version = (*self.version.load()).clone();
            version.parts.extend(pinned);
            version.pruned = version.pruned.max(flush.unwrap_or(0));
            version.spilled = spill;
            self.version.store(version);
        }
        let mut head = self.head.lock().unwrap();
        head.live.retain(|(of, _)| flush.is_none_or(|flush| *of > flush));
        head.late.retain(|(of, _)| *of > spill);
    }

    fn flush(&self, flush: u64) {
        self.write(Some(flush), 0);
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

#[test]
fn a_spill_and_a_flush_after_it_hide_and_double_nothing() {
    loom::model(|| {
        let store = Store::with_late(vec![(1, 10)], vec![(1, 5)], vec![]);
        let writing = {
            let store = store.clone();
            thread::spawn(move || {
                store.write(None, 1);
                store.head.lock().unwrap().late.push((2, 6));
                store.write(Some(1), 2);
            })
        };
        let seen = store.query();
        assert!(seen == [5, 10] || seen == [5, 6, 10], "{seen:?}");
        writing.join().unwrap();
        assert_eq!(store.query(), [5, 6, 10]);
    });
}
