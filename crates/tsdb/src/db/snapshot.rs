//! A copy of the store at one moment, made while it goes on.
//!
//! The log starts a new segment; everything acknowledged before is then in parts or in ended segments,
//! neither of which is ever written again. These get a second name below the snapshot's directory (on
//! another file system they are copied), and each tenant's manifest is written anew. Nothing flushes,
//! merges or deletes meanwhile; appends go on. The directory has a provisional name until all of it is
//! on the device.
//!
//! A snapshot is a data directory without a lock: it can be opened as one.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stdx::disk::Disk;
use storage::StoreError;

use super::{Db, Inner, OpenError, Tenant};
use crate::closed::{FileKind, StoreFile, contents};
use crate::filenames;
use crate::manifest::{State, encode};
use crate::part::file_name;

/// Bytes copied at once, where links cannot be made.
const COPY_BYTES: usize = 1 << 20;

/// What a snapshot has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Parts.
    pub parts: usize,
    /// Log segments.
    pub segments: usize,
    /// Bytes of all files.
    pub bytes: u64,
    /// Bytes that had to be copied, because a second name could not be had.
    pub copied_bytes: u64,
    /// Parts that should have been there and were not. The snapshot does not name them.
    pub missing: Vec<PathBuf>,
}

/// A snapshot that was not made. What there was of it has been removed, or will be at the next start.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// There is something at its place.
    #[error("{path} exists already", path = path.display())]
    Exists {
        /// The place.
        path: PathBuf,
    },
    /// The log could not be continued or synced.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The disk refused.
    #[error("{attempt}: {source}")]
    Io {
        /// What was attempted.
        attempt: String,
        /// The cause.
        source: io::Error,
    },
}

impl Db {
    /// Where snapshots of a running store go by default: they cost nothing there.
    pub fn snapshots_dir(&self) -> PathBuf {
        filenames::snapshots_dir(&self.inner.config.dir)
    }

    /// Copies the store, as it is now, to the new directory `dir`: everything acknowledged before the
    /// call is in it, and it is on the device when this returns. `skip_head` leaves out what has not
    /// been written to parts yet. `progress` hears of every further stretch of bytes that had to be
    /// copied; links are not worth telling.
    ///
    /// # Errors
    /// See [`SnapshotError`]. There is then no `dir`.
    ///
    /// Source: Prometheus `tsdb/db.go`, `DB.Snapshot`.
    pub fn snapshot(
        &self,
        dir: &Path,
        skip_head: bool,
        progress: &mut dyn FnMut(u64),
    ) -> Result<SnapshotInfo, SnapshotError> {
        let inner = &*self.inner;
        let _merging = inner.merging.lock();
        let _work = inner.work.lock();
        let (segment, position) = inner.roll()?;
        inner.wal.sync()?;
        let mut copy = Copy::begin(&*inner.config.disk, dir, progress)?;
        let made = inner.copy_into(&mut copy, (!skip_head).then_some(segment), position);
        match made.and_then(|()| copy.finish()) {
            Ok(()) => Ok(copy.info),
            Err(error) => {
                if let Err(left) = remove_tree(copy.disk, &copy.unfinished) {
                    let path = copy.unfinished.display();
                    tracing::warn!(%path, error = %left, "removing an unfinished snapshot");
                }
                Err(error)
            }
        }
    }
}

impl Inner {
    /// Names or copies all that a snapshot has; `below` is the first log segment that it has not.
    fn copy_into(&self, copy: &mut Copy<'_>, below: Option<u64>, position: u64) -> Result<(), SnapshotError> {
        copy.directory(&filenames::wal_dir(Path::new("")))?;
        copy.directory(&filenames::tenants_dir(Path::new("")))?;
        let tenants = self.all_tenants();
        for tenant in &tenants {
            self.copy_tenant(tenant, copy, position)?;
        }
        // Tenants that are refused are copied as they are: somebody may mend them.
        let whole = contents(copy.disk, &self.config.dir).map_err(|error| match error {
            OpenError::Io { attempt, source } => SnapshotError::Io { attempt, source },
            other => failed("list", &self.config.dir, io::Error::other(other.to_string())),
        })?;
        for file in &whole.files {
            let owner = |tenant: &&Arc<Tenant>| self.config.dir.join(&file.path).starts_with(&tenant.dir);
            let wanted = match file.kind {
                FileKind::Manifest | FileKind::Part => !tenants.iter().any(|tenant| owner(&tenant)),
                FileKind::Waiting => below.is_some(),
                FileKind::Format | FileKind::Segment => false,
            };
            if wanted {
                copy.store_file(&self.config.dir, file)?;
            }
        }
        if let Some(below) = below {
            let dir = filenames::wal_dir(&self.config.dir);
            let list = |source| failed("list", &dir, source);
            for path in copy.disk.read_dir(&dir).map_err(list)? {
                if let Some(number) = filenames::segment_number(&path).filter(|number| *number < below) {
                    let to = filenames::segment(Path::new(""), number);
                    copy.file(&path, &to).map_err(|source| failed("copy", &path, source))?;
                    copy.info.segments += 1;
                }
            }
        }
        let format = self.config.dir.join(filenames::FORMAT);
        let bytes = copy.disk.read(&format).map_err(|source| failed("read", &format, source))?;
        copy.write(Path::new(filenames::FORMAT), &bytes)
    }

    fn copy_tenant(&self, tenant: &Tenant, copy: &mut Copy<'_>, position: u64) -> Result<(), SnapshotError> {
        let mut state: State = tenant.manifest.lock().state().clone();
        // The snapshot is of the moment when the log started its new segment.
        state.tombstones.retain(|tombstone| tombstone.position < position);
        if state == State::default() {
            return Ok(()); // all it has is in the log
        }
        let dir = filenames::tenant_dir(Path::new(""), tenant.id.as_str());
        copy.directory(&dir)?;
        copy.directory(&dir.join(filenames::PARTS_DIR))?;
        let mut missing = Vec::new();
        for id in state.parts.keys() {
            let name = file_name(*id);
            let from = filenames::part(&tenant.dir, &name);
            match copy.file(&from, &filenames::part(&dir, &name)) {
                Ok(()) => copy.info.parts += 1,
                Err(error) if error.kind() == io::ErrorKind::NotFound && !copy.disk.exists(&from) => {
                    tracing::warn!(path = %from.display(), "a part is not there; the snapshot goes without");
                    missing.push(*id);
                    copy.info.missing.push(from);
                }
                Err(source) => return Err(failed("copy", &from, source)),
            }
        }
        state.parts.retain(|id, _| !missing.contains(id));
        copy.write(&dir.join(filenames::MANIFEST), &encode(&state))
    }
}

/// A snapshot in the making.
struct Copy<'a> {
    disk: &'a dyn Disk,
    /// Where it will be.
    dir: PathBuf,
    /// Where it is until then.
    unfinished: PathBuf,
    /// Directories to sync, relative.
    directories: Vec<PathBuf>,
    /// Whether links are possible, as far as is known.
    links: bool,
    progress: &'a mut dyn FnMut(u64),
    info: SnapshotInfo,
}

impl<'a> Copy<'a> {
    fn begin(
        disk: &'a dyn Disk,
        dir: &Path,
        progress: &'a mut dyn FnMut(u64),
    ) -> Result<Copy<'a>, SnapshotError> {
        if disk.exists(dir) {
            return Err(SnapshotError::Exists { path: dir.to_owned() });
        }
        let unfinished = filenames::unfinished(dir);
        remove_tree(disk, &unfinished).map_err(|source| failed("remove", &unfinished, source))?;
        let made = disk.create_dir_all(&unfinished);
        made.map_err(|source| failed("create", &unfinished, source))?;
        let (dir, info) = (dir.to_owned(), SnapshotInfo::default());
        Ok(Copy { disk, dir, unfinished, directories: Vec::new(), links: true, progress, info })
    }

    /// Makes a directory; `path` is relative, here and below.
    fn directory(&mut self, path: &Path) -> Result<(), SnapshotError> {
        let full = self.unfinished.join(path);
        self.disk.create_dir_all(&full).map_err(|source| failed("create", &full, source))?;
        self.directories.push(path.to_owned());
        Ok(())
    }

    /// Gives the finished file `from` a second name, or copies it.
    fn file(&mut self, from: &Path, path: &Path) -> io::Result<()> {
        let to = self.unfinished.join(path);
        if self.links {
            match self.disk.hard_link(from, &to) {
                Ok(()) => {
                    self.info.bytes += self.disk.open_read(&to)?.len()?;
                    return Ok(());
                }
                Err(error) if needs_copy(&error) => self.links = false,
                Err(error) => return Err(error),
            }
        }
        let copied = copy_file(self.disk, from, &to, self.progress)?;
        self.info.bytes += copied;
        self.info.copied_bytes += copied;
        Ok(())
    }

    /// A file of the store, as it is.
    fn store_file(&mut self, dir: &Path, file: &StoreFile) -> Result<(), SnapshotError> {
        let from = dir.join(&file.path);
        for parent in file.path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
            if !self.directories.iter().any(|made| made == parent) {
                self.directory(parent)?;
            }
        }
        if file.kind == FileKind::Manifest {
            let bytes = self.disk.read(&from).map_err(|source| failed("read", &from, source))?;
            return self.write(&file.path, &bytes);
        }
        self.file(&from, &file.path).map_err(|source| failed("copy", &from, source))?;
        match file.kind {
            FileKind::Part => self.info.parts += 1,
            _ => self.info.segments += 1,
        }
        Ok(())
    }

    /// Writes a file that is the snapshot's own.
    fn write(&mut self, path: &Path, bytes: &[u8]) -> Result<(), SnapshotError> {
        let path = self.unfinished.join(path);
        let write = || {
            let mut file = self.disk.create(&path)?;
            file.write_all(bytes)?;
            file.sync_data()
        };
        write().map_err(|source| failed("write", &path, source))?;
        self.info.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Makes all of it durable and gives it its name.
    fn finish(&self) -> Result<(), SnapshotError> {
        let directories = self.directories.iter().map(|path| self.unfinished.join(path));
        for path in directories.chain([self.unfinished.clone()]) {
            self.disk.sync_dir(&path).map_err(|source| failed("sync", &path, source))?;
        }
        let parent = self.dir.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        let name = || {
            // The parent itself may be new.
            if let Some(above) = parent.parent().filter(|above| !above.as_os_str().is_empty()) {
                self.disk.sync_dir(above)?;
            }
            self.disk.rename(&self.unfinished, &self.dir)?;
            self.disk.sync_dir(parent)
        };
        name().map_err(|source| failed("name", &self.dir, source))
    }
}

/// Whether a hard link cannot be had at that place, though a copy may.
fn needs_copy(error: &io::Error) -> bool {
    use io::ErrorKind::{CrossesDevices, PermissionDenied, TooManyLinks, Unsupported};
    matches!(error.kind(), CrossesDevices | PermissionDenied | TooManyLinks | Unsupported)
}

/// Copies a file and syncs it; how many bytes.
fn copy_file(disk: &dyn Disk, from: &Path, to: &Path, progress: &mut dyn FnMut(u64)) -> io::Result<u64> {
    let source = disk.open_read(from)?;
    let len = source.len()?;
    let mut file = disk.create(to)?;
    let (mut buffer, mut at) = (vec![0; COPY_BYTES], 0);
    while at < len {
        let stretch = (len - at).min(COPY_BYTES as u64) as usize;
        source.read_exact_at(&mut buffer[..stretch], at)?;
        file.write_all(&buffer[..stretch])?;
        at += stretch as u64;
        progress(stretch as u64);
    }
    file.sync_data()?;
    Ok(len)
}

/// Removes a directory and all that is in it; nothing to do where there is none.
pub(super) fn remove_tree(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    if !disk.exists(dir) {
        return Ok(());
    }
    for path in disk.read_dir(dir)? {
        if disk.remove_file(&path).is_err() {
            remove_tree(disk, &path)?;
        }
    }
    disk.remove_dir(dir)
}

impl Inner {
    /// Removes what interrupted snapshots have left.
    pub(super) fn remove_unfinished_snapshots(&self) {
        let (disk, dir) = (&*self.config.disk, filenames::snapshots_dir(&self.config.dir));
        for path in disk.read_dir(&dir).unwrap_or_default() {
            if filenames::is_unfinished(&path)
                && let Err(error) = remove_tree(disk, &path)
            {
                tracing::warn!(path = %path.display(), %error, "removing an unfinished snapshot");
            }
        }
    }
}

fn failed(attempt: &str, path: &Path, source: io::Error) -> SnapshotError {
    SnapshotError::Io { attempt: format!("{attempt} {}", path.display()), source }
}
