//! Group `fdatasync`.

use std::sync::Arc;

use parking_lot::Mutex;
use stdx::disk::AppendFile;

use crate::error::QueueError;
use crate::queue::{Queue, Shared};

/// A segment's file as the syncing thread holds it: a handle of its own, so that writes go on meanwhile.
#[derive(Debug, Clone)]
pub(crate) struct SyncHandle {
    pub(crate) segment: u64,
    pub(crate) ended: bool,
    pub(crate) file: Arc<Mutex<Box<dyn AppendFile>>>,
}

#[derive(Debug, Default)]
pub(crate) struct SyncState {
    running: bool,
    /// Blocks of this incarnation below this are durable.
    durable: u64,
}

impl Queue {
    /// Makes all blocks durable that were written before the call, together with other callers. The number
    /// that is one past the last durable block of this incarnation.
    ///
    /// # Errors
    /// [`QueueError::ReadOnly`] when the device refused, now or before: blocks that were not durable yet may
    /// be lost by a power cut.
    pub fn sync(&self) -> Result<u64, QueueError> {
        let shared = &*self.0;
        let target = shared.state().next_block;
        let mut syncing = shared.syncing.lock();
        loop {
            shared.check_writable()?;
            if syncing.durable >= target && !shared.state().names_unsynced {
                return Ok(syncing.durable);
            }
            if !syncing.running {
                break;
            }
            shared.synced.wait(&mut syncing);
        }
        syncing.running = true;
        drop(syncing);
        let result = shared.sync_now();
        let mut syncing = shared.syncing.lock();
        syncing.running = false;
        if let Ok(durable) = &result {
            syncing.durable = syncing.durable.max(*durable);
        }
        shared.synced.notify_all();
        result
    }

    /// One past the last durable block of this incarnation.
    pub fn durable(&self) -> u64 {
        self.0.syncing.lock().durable
    }
}

impl Shared {
    fn sync_now(&self) -> Result<u64, QueueError> {
        let (handles, names, written) = {
            let mut state = self.state();
            let names = std::mem::take(&mut state.names_unsynced);
            (state.unsynced.clone(), names, state.next_block)
        };
        for handle in &handles {
            if let Err(error) = handle.file.lock().sync_data() {
                return Err(self.fail_sync(format!("sync segment {}: {error}", handle.segment)));
            }
        }
        let dir = self.segments_dir();
        if names && let Err(error) = self.disk.sync_dir(&dir) {
            return Err(self.fail_sync(format!("sync {}: {error}", dir.display())));
        }
        let done =
            |held: &SyncHandle| handles.iter().any(|synced| synced.ended && synced.segment == held.segment);
        self.state().unsynced.retain(|held| !done(held));
        Ok(written)
    }

    fn fail_sync(&self, reason: String) -> QueueError {
        tracing::error!(queue = %self.dir.display(), %reason, "queue is read-only until restart");
        let mut state = self.state();
        state.read_only = Some(reason.clone());
        state.unsynced.clear();
        QueueError::ReadOnly { path: self.dir.clone(), reason }
    }
}
