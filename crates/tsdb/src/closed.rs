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
use crate::part::{Part, file_name};
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
        let tenant = filenames::tenant_dir(Path::new(""), name);
        let manifest = tenant_dir.join(filenames::MANIFEST);
        if TenantId::new(name).is_err() || !disk.exists(&manifest) {
            continue; // nobody's; or all it has is in the log
        }
        found.add(disk, dir, tenant.join(filenames::MANIFEST), FileKind::Manifest)?;
        for part in parts(disk, &manifest)? {
            let path = filenames::part(&tenant, &part);
            if disk.exists(&dir.join(&path)) {
                found.add(disk, dir, path, FileKind::Part)?;
            } else {
                found.missing.push(path);
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

/// The file names of the parts that a manifest names.
fn parts(disk: &dyn Disk, path: &Path) -> Result<Vec<String>, OpenError> {
    let io = |source| ManifestError::Io { attempt: "read", path: path.to_owned(), source };
    let bytes = disk.read(path).map_err(io)?;
    let (state, _, _) = manifest::read(&bytes).map_err(|(offset, reason)| ManifestError::Corrupt {
        path: path.to_owned(),
        offset,
        reason,
    })?;
    Ok(state.parts.keys().map(|id| file_name(*id)).collect())
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
        FileKind::Manifest => parts(disk, &path).err().map(|error| error.to_string()).into_iter().collect(),
        FileKind::Part => match Part::open(disk, &path) {
            Ok(part) => part.verify().iter().map(ToString::to_string).collect(),
            Err(error) => vec![error.to_string()],
        },
        FileKind::Segment => match segment::read(disk, &path, last) {
            Ok(segment) => {
                let damage = segment.damage.iter().filter(|damage| !damage.torn_tail);
                damage.map(ToString::to_string).collect()
            }
            Err(segment::SegmentError::Header(damage)) if damage.torn_tail => Vec::new(),
            Err(error) => vec![error.to_string()],
        },
    }
}
