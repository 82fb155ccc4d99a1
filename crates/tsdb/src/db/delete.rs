//! Deletions: durable at once. What is in the head goes at once; in parts a tombstone hides it until a
//! merge makes it true.

use model::{Matcher, TenantId};
use storage::StoreError;

use super::{Db, Tenant};
use crate::manifest::{Edit, ManifestError};
use crate::tombstone::Tombstone;
use crate::wal::record::encode_delete;

impl Db {
    /// Deletes the samples from `start_ms` to `end_ms`, both inclusive, of all series of `tenant` that
    /// satisfy all `matchers`. Samples that arrive later stay.
    ///
    /// # Errors
    /// [`StoreError`]: with `ReadOnly` nothing is deleted; with `Io` the deletion may take effect at
    /// the next start.
    pub fn delete_series(
        &self,
        tenant: &TenantId,
        matchers: &[Matcher],
        start_ms: i64,
        end_ms: i64,
    ) -> Result<(), StoreError> {
        let inner = &self.inner;
        inner.health.check()?;
        let Some(tenant) = inner.tenant_with_data(tenant)? else { return Ok(()) };
        if start_ms > end_ms {
            return Ok(());
        }
        inner.mend()?;
        // No flush comes between the log's record and the tombstone, and no append between the record
        // and its effect on the head.
        let _work = inner.work.lock();
        let tombstone = {
            let index = tenant.index.read();
            let mut lanes = tenant.lanes.write();
            let mut payload = Vec::new();
            encode_delete(tenant.id.as_str(), matchers, start_ms, end_ms, &mut payload);
            // As a replay works it out.
            let position = inner.log(&payload)? - payload.len() as u64;
            lanes.delete(&index.select(matchers), start_ms, end_ms);
            Tombstone { matchers: matchers.to_vec(), start_ms, end_ms, position }
        };
        let position = tombstone.position;
        tenant.note_tombstone(tombstone)?;
        inner.wal.sync()?;
        tracing::info!(tenant = %tenant.id, position, "deleted series");
        Ok(())
    }
}

impl Tenant {
    /// Makes a tombstone of the log take effect again.
    pub(super) fn replay_tombstone(&self, tombstone: Tombstone) -> Result<(), ManifestError> {
        {
            let index = self.index.read();
            let slots = index.select(&tombstone.matchers);
            self.lanes.write().delete(&slots, tombstone.start_ms, tombstone.end_ms);
        }
        self.note_tombstone(tombstone)
    }

    /// Keeps a tombstone, for parts.
    fn note_tombstone(&self, tombstone: Tombstone) -> Result<(), ManifestError> {
        let mut manifest = self.manifest.lock();
        if !manifest.state().tombstones.contains(&tombstone) {
            manifest.edit(Edit::Tombstone(tombstone))?;
        }
        let mut version = (*self.version.load()).clone();
        version.tombstones = manifest.state().tombstones.clone().into();
        self.version.store(version);
        Ok(())
    }
}
