//! Tenants whose manifest cannot be read: refused, and kept as they are.
//!
//! A manifest that is damaged may hide anything, so nothing of its tenant is answered or taken until it is
//! mended and the store opened again. Nothing in the tenant's directory is changed meanwhile. What the log
//! has of the tenant must outlive the flushes of the others: before a flush removes segments, those with
//! records of a refused tenant are linked into `tenant/<id>/waiting/` (copied, where a disk has no links).
//! They are as long as the log was at that start, once; as the tenant is refused, no more come.
//!
//! A start reads the segments that wait like those of the log, but only their own tenant's records. While
//! that tenant is refused, it only learns which references they use: nobody else may be given those. Once
//! the manifest is good their rows come back, and the next flush removes the files.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use model::TenantId;
use parking_lot::Mutex;
use storage::{QueryError, SeriesRef, StoreError};

use super::{Db, Inner, Tenant};
use crate::filenames;
use crate::head::index::generation_of;
use crate::manifest::ManifestError;

/// A tenant that is refused.
#[derive(Debug)]
pub(crate) struct Refused {
    /// What is wrong, with file and place.
    reason: String,
    dir: PathBuf,
    /// Segments of the log that have records of this tenant and do not wait in its directory yet.
    in_log: Mutex<BTreeSet<u64>>,
}

/// A segment to be read at start.
#[derive(Debug)]
pub(super) struct LogFile {
    pub(super) number: u64,
    pub(super) path: PathBuf,
    /// Whose records alone count, in a segment that waited for a tenant.
    pub(super) only: Option<TenantId>,
}

impl LogFile {
    /// Whether records of `tenant` count here.
    pub(super) fn concerns(&self, tenant: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only.as_str() == tenant)
    }
}

impl From<ManifestError> for QueryError {
    fn from(error: ManifestError) -> QueryError {
        QueryError::Corrupt(error.to_string())
    }
}

impl Db {
    /// The tenants whose manifest could not be read when the store was opened, sorted, each with what is
    /// wrong: nothing of them is answered or taken.
    pub fn refused(&self) -> Vec<(TenantId, String)> {
        let refused = self.inner.refused.read();
        refused.iter().map(|(id, refused)| (id.clone(), refused.reason.clone())).collect()
    }
}

impl Inner {
    /// Refuses a tenant until the store is opened again.
    pub(super) fn refuse(&self, id: &TenantId, error: &ManifestError) {
        self.report(format!(
            "tenant {id} is refused: {error}; its files are left as they are, and what the log has of it is \
             kept until the manifest is mended and the store opened again"
        ));
        self.metrics.tenants_refused.get_or_create(&vec![("tenant", id.to_string())]).set(1);
        let dir = filenames::tenant_dir(&self.config.dir, id.as_str());
        let refused = Refused { reason: error.to_string(), dir, in_log: Mutex::default() };
        self.refused.write().insert(id.clone(), Arc::new(refused));
    }

    /// An error for a tenant that is refused.
    pub(super) fn check_refused(&self, id: &TenantId) -> Result<(), ManifestError> {
        match self.refused.read().get(id) {
            None => Ok(()),
            Some(refused) => {
                Err(ManifestError::Refused { tenant: id.to_string(), reason: refused.reason.clone() })
            }
        }
    }

    /// The tenant, if it has data.
    ///
    /// # Errors
    /// It is refused.
    pub(super) fn tenant_with_data(&self, id: &TenantId) -> Result<Option<Arc<Tenant>>, ManifestError> {
        match self.tenants.read().get(id) {
            Some(tenant) => Ok(Some(tenant.clone())),
            None => self.check_refused(id).map(|()| None),
        }
    }

    /// The segments to read at start, by number: those of the log, and those that wait for a tenant and
    /// are no longer in the log.
    pub(super) fn log_files(&self) -> io::Result<Vec<LogFile>> {
        let disk = &self.config.disk;
        let in_log = filenames::segments(disk.read_dir(&filenames::wal_dir(&self.config.dir))?);
        let mut files: Vec<LogFile> =
            in_log.into_iter().map(|(number, path)| LogFile { number, path, only: None }).collect();
        let in_log: BTreeSet<u64> = files.iter().map(|file| file.number).collect();
        let refused: Vec<TenantId> = self.refused.read().keys().cloned().collect();
        let open = self.all_tenants();
        for (id, is_open) in
            open.iter().map(|tenant| (&tenant.id, true)).chain(refused.iter().map(|id| (id, false)))
        {
            let dir = filenames::waiting_dir(&filenames::tenant_dir(&self.config.dir, id.as_str()));
            if !disk.exists(&dir) {
                continue;
            }
            for (number, path) in filenames::segments(disk.read_dir(&dir)?) {
                if is_open {
                    self.replayed_waiting.lock().push(path.clone());
                }
                if !in_log.contains(&number) {
                    files.push(LogFile { number, path, only: Some(id.clone()) });
                }
            }
        }
        files.sort_by_key(|file| file.number);
        Ok(files)
    }

    /// Notes that a segment of the log has records of a tenant, if that is refused.
    pub(super) fn note_refused(&self, file: &LogFile, tenant: &TenantId) {
        if file.only.is_none()
            && let Some(refused) = self.refused.read().get(tenant)
        {
            refused.in_log.lock().insert(file.number);
        }
    }

    /// Sees to it that nobody is given references that records of a refused tenant use.
    pub(super) fn reserve(&self, sources: impl Iterator<Item = u64>, series: impl Iterator<Item = u64>) {
        if let Some(newest) = sources.max() {
            let mut sources = self.sources.write();
            sources.next = sources.next.max(newest.saturating_add(1));
        }
        for series in series {
            let next = generation_of(SeriesRef(series)).wrapping_add(1);
            self.next_generation.fetch_max(next, Ordering::Relaxed);
        }
    }

    /// Before the log is cut: what it has of refused tenants goes to their directories, and what waited
    /// for tenants that are no longer refused goes.
    ///
    /// # Errors
    /// The disk refuses; the log must not be cut.
    pub(super) fn keep_of_refused(&self) -> Result<(), StoreError> {
        let refused: Vec<Arc<Refused>> = self.refused.read().values().cloned().collect();
        for refused in refused {
            let waiting = filenames::waiting_dir(&refused.dir);
            self.keep_waiting(&refused, &waiting).map_err(|source| StoreError::Io {
                attempt: format!("keep log segments of a refused tenant in {}", waiting.display()),
                source,
            })?;
        }
        let mut replayed = self.replayed_waiting.lock();
        while let Some(path) = replayed.last() {
            let removed = match self.config.disk.remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => path.parent().map_or(Ok(()), |dir| self.config.disk.sync_dir(dir)),
            };
            removed
                .map_err(|source| StoreError::Io { attempt: format!("remove {}", path.display()), source })?;
            replayed.pop();
        }
        Ok(())
    }

    fn keep_waiting(&self, refused: &Refused, waiting: &Path) -> io::Result<()> {
        let mut in_log = refused.in_log.lock();
        if in_log.is_empty() {
            return Ok(());
        }
        let disk = &*self.config.disk;
        disk.create_dir_all(waiting)?;
        for number in in_log.iter() {
            let from = filenames::segment(&self.config.dir, *number);
            let to = filenames::waiting_segment(&refused.dir, *number);
            // A link of an earlier attempt is the same file.
            if !disk.exists(&to) && disk.hard_link(&from, &to).is_err() {
                copy(disk, &from, &to)?;
            }
        }
        disk.sync_dir(waiting)?;
        disk.sync_dir(&refused.dir)?;
        in_log.clear();
        Ok(())
    }
}

/// Copies a finished file, so that it is there whole or not at all.
fn copy(disk: &dyn stdx::disk::Disk, from: &Path, to: &Path) -> io::Result<()> {
    let unfinished = to.with_extension("tmp");
    if disk.exists(&unfinished) {
        disk.remove_file(&unfinished)?;
    }
    let source = disk.open_read(from)?;
    let len = source.len()?;
    let mut file = disk.create(&unfinished)?;
    let (mut buffer, mut at) = (vec![0; 1 << 20], 0);
    while at < len {
        let now = (len - at).min(buffer.len() as u64) as usize;
        source.read_exact_at(&mut buffer[..now], at)?;
        io::Write::write_all(&mut file, &buffer[..now])?;
        at += now as u64;
    }
    file.sync_data()?;
    disk.rename(&unfinished, to)
}
