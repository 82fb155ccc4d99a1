//! A data directory that no process has open, or a snapshot: which files are its state, and whether they
//! are sound. Nothing here changes a file.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use model::TenantId;
use stdx::disk::Disk;

use crate::db::OpenError;
use crate::db::open::{FORMAT, check_format, take_lock};
use crate::filenames;
use crate::manifest::{self, ManifestError};
use crate::part::{Part, PartError, file_name};
use crate::wal::segment;

/// The format of data directories that this version writes, and the newest it reads: major and minor.
pub const NEWEST_FORMAT: (u32, u32) = FORMAT;

/// Keeps every other process from opening a data directory.
#[derive(Debug)]
pub struct Held(#[expect(dead_code, reason = "held locked as long as this lives")] Option<File>);

/// Takes the lock of the data directory `dir`. On a disk that cannot be written, where nobody can have it
/// open, there is nothing to take.
///
/// # Errors
/// [`OpenError::Locked`] with the process that has it open; [`OpenError::Io`].
pub fn hold(dir: &Path) -> Result<Held, OpenError> {
    match take_lock(dir) {
        Ok(lock) => Ok(Held(Some(lock))),
        Err(OpenError::Io { source, .. }) if source.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            Ok(Held(None))
        }
        Err(error) => Err(error),
    }
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// The version of the layout.
    Format,
    /// A tenant's manifest.
    Manifest,
    /// A part.
    Part,
    /// A segment of the log.
    Segment,
    /// A segment of the log that waits for a tenant whose manifest is damaged.
    Waiting,
}

/// A file of a data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreFile {
    /// Relative to the directory.
    pub path: PathBuf,
    /// Bytes.
    pub bytes: u64,
    /// What it is.
    pub kind: FileKind,
}

/// The files that are a store's state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// Major and minor version of the layout.
    pub format: (u32, u32),
    /// The files; manifests before their parts, segments by number.
    pub files: Vec<StoreFile>,
    /// Parts that a manifest names and that are not there.
    pub missing: Vec<PathBuf>,
    /// Manifests that cannot be read, with file and place: all parts of such a tenant are listed.
    pub damaged: Vec<String>,
}

impl Contents {
    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    fn add(&mut self, disk: &dyn Disk, dir: &Path, path: PathBuf, kind: FileKind) -> Result<(), OpenError> {
        let full = dir.join(&path);
        let measured = disk.open_read(&full).and_then(|file| file.len());
        let attempt = || format!("read {}", full.display());
        let bytes = measured.map_err(|source| OpenError::Io { attempt: attempt(), source })?;
        self.files.push(StoreFile { path, bytes, kind });
        Ok(())
    }
}

/// The files that are the state of the data directory `dir`. Nobody else may have it open ([`hold`]),
/// unless it is a snapshot.
///
/// # Errors
/// It is not a data directory, or one of a newer version; a manifest cannot be read; the disk refuses.
pub fn contents(disk: &dyn Disk, dir: &Path) -> Result<Contents, OpenError> {
    let mut found = Contents { format: check_format(disk, dir)?, ..Contents::default() };
    found.add(disk, dir, PathBuf::from(filenames::FORMAT), FileKind::Format)?;
    let list = |path: &Path| {
        let attempt = || format!("list {}", path.display());
        disk.read_dir(path).map_err(|source| OpenError::Io { attempt: attempt(), source })
    };
    for tenant_dir in list(&filenames::tenants_dir(dir))? {
        let name = tenant_dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if TenantId::new(name).is_err() {
            continue; // nobody's
        }
        let tenant = filenames::tenant_dir(Path::new(""), name);
        let manifest = tenant_dir.join(filenames::MANIFEST);
        if disk.exists(&manifest) {
            found.add(disk, dir, tenant.join(filenames::MANIFEST), FileKind::Manifest)?;
            for part in part_names(disk, &tenant_dir, &mut found.damaged)? {
                let path = filenames::part(&tenant, &part);
                if disk.exists(&dir.join(&path)) {
                    found.add(disk, dir, path, FileKind::Part)?;
                } else {
                    found.missing.push(path);
                }
            }
        }
        for path in list(&filenames::waiting_dir(&tenant_dir))? {
            if let Some(number) = filenames::segment_number(&path) {
                found.add(disk, dir, filenames::waiting_segment(&tenant, number), FileKind::Waiting)?;
            }
        }
    }
    let numbers: BTreeSet<u64> =
        list(&filenames::wal_dir(dir))?.iter().filter_map(|path| filenames::segment_number(path)).collect();
    for number in numbers {
        found.add(disk, dir, filenames::segment(Path::new(""), number), FileKind::Segment)?;
    }
    Ok(found)
}

/// The file names of the parts of a tenant: those that its manifest names, or, where that cannot be read,
/// all that there are.
fn part_names(
    disk: &dyn Disk,
    tenant_dir: &Path,
    damaged: &mut Vec<String>,
) -> Result<Vec<String>, OpenError> {
    match named_parts(disk, &tenant_dir.join(filenames::MANIFEST)) {
        Ok(names) => return Ok(names),
        Err(error @ ManifestError::Io { .. }) => return Err(error.into()),
        Err(error) => damaged.push(error.to_string()),
    }
    let dir = tenant_dir.join(filenames::PARTS_DIR);
    let attempt = || format!("list {}", dir.display());
    let paths = disk.read_dir(&dir).map_err(|source| OpenError::Io { attempt: attempt(), source })?;
    let is_part =
        |path: &&PathBuf| path.extension().is_some_and(|extension| extension == filenames::PART_EXTENSION);
    let name = |path: &PathBuf| Some(path.file_name()?.to_str()?.to_owned());
    Ok(paths.iter().filter(is_part).filter_map(name).collect())
}

/// The file names of the parts that a manifest names.
fn named_parts(disk: &dyn Disk, path: &Path) -> Result<Vec<String>, ManifestError> {
    let io = |source| ManifestError::Io { attempt: "read", path: path.to_owned(), source };
    let bytes = disk.read(path).map_err(io)?;
    let (state, _, _) = manifest::read(&bytes).map_err(|(offset, reason)| ManifestError::Corrupt {
        path: path.to_owned(),
        offset,
        reason,
    })?;
    Ok(state.parts.keys().map(|id| file_name(*id)).collect())
}

/// Refuses what newer versions have written, before anything relies on it: read by this one it would
/// seem to miss what is in it.
///
/// # Errors
/// [`OpenError::NewerFile`] with the command that helps.
pub(crate) fn check_versions(disk: &dyn Disk, dir: &Path) -> Result<(), OpenError> {
    let newer = |path: PathBuf, reason: String| Err(OpenError::NewerFile { path, reason });
    for tenant_dir in disk.read_dir(&filenames::tenants_dir(dir)).unwrap_or_default() {
        let manifest = tenant_dir.join(filenames::MANIFEST);
        let Ok(bytes) = disk.read(&manifest) else { continue };
        let (state, _, _) = match manifest::read(&bytes) {
            Ok(read) => read,
            Err((_, reason)) if manifest::is_newer(&bytes) => return newer(manifest, reason),
            Err(_) => continue, // damage, for whoever opens the tenant
        };
        for id in state.parts.keys() {
            let path = filenames::part(&tenant_dir, &file_name(*id));
            if let Err(PartError::Unsupported { path, reason }) = Part::open(disk, &path) {
                return newer(path, reason);
            }
        }
    }
    Ok(())
}

/// Reads and decodes all of one file of the data directory `dir`, and says what is wrong with it, with
/// file and place. `last` is for the newest segment of the log: it may end in the middle of a record, as
/// a killed process leaves it.
pub fn verify(disk: &dyn Disk, dir: &Path, file: &StoreFile, last: bool) -> Vec<String> {
    let path = dir.join(&file.path);
    match file.kind {
        FileKind::Format => {
            check_format(disk, dir).err().map(|error| error.to_string()).into_iter().collect()
        }
        FileKind::Manifest => {
            named_parts(disk, &path).err().map(|error| error.to_string()).into_iter().collect()
        }
        FileKind::Part => match Part::open(disk, &path) {
            Ok(part) => part.verify().iter().map(ToString::to_string).collect(),
            Err(error) => vec![error.to_string()],
        },
        FileKind::Segment | FileKind::Waiting => match segment::read(disk, &path, last) {
            Ok(segment) => {
                let damage = segment.damage.iter().filter(|damage| !damage.torn_tail);
                damage.map(ToString::to_string).collect()
            }
            Err(segment::SegmentError::Header(damage)) if damage.torn_tail => Vec::new(),
            Err(error) => vec![error.to_string()],
        },
    }
}
