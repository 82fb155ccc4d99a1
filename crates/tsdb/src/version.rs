//! The version of a tenant's data that a query pins, and how one replaces another.
//!
//! The head numbers its flushes; every closed tile carries the number of the flush that will write it.
//! A flush ends with one swap: the new [`Version`] has the part *and* says that tiles up to the flush's
//! number are to be disregarded. Only then are those tiles removed from the head.
//!
//! A reader pins the tiles **first** and the version **second**. If it sees the version before the swap,
//! it has pinned the tiles, as they are removed later. If it sees the version after the swap, it
//! disregards them and reads the part. Either way every sample shows exactly once.
//!
//! Late samples have numbers of their own, those of spills: a spill writes and hides them alone, a flush
//! writes and hides both at once.
//!
//! `tests/loom_version.rs` tries every interleaving of this.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use crate::part::Part;
use crate::tombstone::{Deleted, Tombstone};

mod swap;

pub use swap::Swap;

/// What is deleted in a part: by series, ascending.
pub type DeletedSeries = Arc<[(u32, Deleted)]>;

/// An open part, as part of a version.
#[derive(Debug)]
pub struct PartEntry {
    /// The part.
    pub part: Arc<Part>,
    /// Tombstones up to this log position have been made true in it.
    pub cleaned: u64,
    /// Whether it could not be read in a merge, so that no merge takes it until restart.
    pub(crate) set_aside: AtomicBool,
    /// What the tombstones of a version delete here: worked out once for each set of tombstones.
    deleted: OnceLock<(u64, DeletedSeries)>,
}

impl PartEntry {
    /// A part in which tombstones up to `cleaned` are true.
    pub fn new(part: Arc<Part>, cleaned: u64) -> PartEntry {
        PartEntry { part, cleaned, set_aside: AtomicBool::new(false), deleted: OnceLock::new() }
    }

    /// Whether a tombstone concerns samples of this part.
    pub fn is_concerned(&self, tombstone: &Tombstone) -> bool {
        tombstone.position > self.cleaned
            && self.part.info().spec.wal_first <= tombstone.position
            && self.part.info().overlaps(tombstone.start_ms, tombstone.end_ms)
    }

    /// What `tombstones` (all of a version) delete here, by series, ascending.
    ///
    /// # Errors
    /// The part's index cannot be read.
    pub fn deleted(&self, tombstones: &[Tombstone]) -> Result<DeletedSeries, crate::part::PartError> {
        let concerning: Vec<Tombstone> =
            tombstones.iter().filter(|t| self.is_concerned(t)).cloned().collect();
        let Some(newest) = concerning.iter().map(|t| t.position).max() else { return Ok(Arc::from([])) };
        if let Some((position, deleted)) = self.deleted.get()
            && *position == newest
        {
            return Ok(deleted.clone());
        }
        let deleted: DeletedSeries = self.part.resolve(&concerning)?.into();
        // Later sets of tombstones are worked out each time, until a merge makes them true.
        let _ = self.deleted.set((newest, deleted.clone()));
        Ok(deleted)
    }
}

/// What a query pins besides the head.
#[derive(Debug, Clone, Default)]
pub struct Version {
    /// All parts, by first timestamp.
    pub parts: Vec<Arc<PartEntry>>,
    /// Deletions that are not true yet in some part, by log position.
    pub tombstones: Arc<[Tombstone]>,
    /// Parts that could not be opened, one message each: queries say what they miss.
    pub unreadable: Arc<[String]>,
    /// Tiles and histograms of flushes up to this number are in parts.
    pub pruned: u64,
    /// Late samples of spills up to this number are in parts.
    pub spilled: u64,
}

impl Version {
    /// The newest sample's time in parts; `i64::MIN` without parts.
    pub fn newest_ms(&self) -> i64 {
        self.parts.iter().map(|entry| entry.part.info().max_ms).max().unwrap_or(i64::MIN)
    }

    /// This version with other parts, in order.
    pub fn with_parts(&self, mut parts: Vec<Arc<PartEntry>>) -> Version {
        parts.sort_by_key(|entry| (entry.part.info().min_ms, entry.part.info().spec.id));
        Version { parts, ..self.clone() }
    }
}
