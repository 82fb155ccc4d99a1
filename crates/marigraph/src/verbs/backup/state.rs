//! What a data directory has beside the store: the ledger, and who belongs to the fleet.
//!
//! These files are small and change while the hub runs: logs and journals grow at their end, the others are replaced
//! whole. They are read *before* the store is copied, so that the ledger in a backup says no more than its store
//! holds; what lies between is unknown to it. Dictionaries of agents' segments are left out: agents send them again.
//!
//! Files of `fleet/` hold keys, here and after a restore with mode 0600.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::catalog::Entry;
use crate::hub::{FLEET_DIRECTORY, FLEET_FILES, LEDGER_DIRECTORY};

/// More than this is not read, bytes.
const STATE_BYTES_MAX: u64 = 4 << 30;
/// How often a directory is read again whose files go while they are read.
const ATTEMPTS: usize = 5;

/// A file, as it was.
#[derive(Debug)]
pub(super) struct StateFile {
    /// Relative to the data directory.
    pub(super) path: PathBuf,
    pub(super) bytes: Vec<u8>,
}

/// The ledger and, with `fleet`, the fleet's files of the data directory `data`.
///
/// # Errors
/// A file cannot be read.
pub(super) fn read(data: &Path, fleet: bool) -> Result<Vec<StateFile>> {
    let mut found = Vec::new();
    let mut total = 0;
    let ledger = data.join(LEDGER_DIRECTORY);
    for tenant in directories(&ledger).with_context(|| format!("read {}", ledger.display()))? {
        let files = ledger_of(&tenant).with_context(|| format!("read {}", tenant.display()))?;
        total += files.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>();
        ensure!(total <= STATE_BYTES_MAX, "the ledger in {} has more than 4 GiB", ledger.display());
        found.extend(files);
    }
    let of_fleet = FLEET_FILES.map(|name| data.join(FLEET_DIRECTORY).join(name));
    for path in of_fleet.into_iter().filter(|_| fleet) {
        match fs::read(&path) {
            Ok(bytes) => found.push((path, bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        }
    }
    let relative = |(path, bytes): (PathBuf, Vec<u8>)| {
        let path = path.strip_prefix(data).unwrap_or(&path).to_owned();
        StateFile { path, bytes }
    };
    Ok(found.into_iter().map(relative).collect())
}

fn directories(of: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(of) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// The logs and snapshots of a tenant. A snapshot takes the place of logs now and then: it is read again then.
fn ledger_of(dir: &Path) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut outcome: io::Result<_> = Ok(Vec::new());
    for _ in 0..ATTEMPTS {
        outcome = (|| {
            let names = names(dir)?;
            let files = names.iter().map(|path| Ok((path.clone(), fs::read(path)?)));
            let files = files.collect::<io::Result<Vec<_>>>()?;
            if self::names(dir)? == names { Ok(files) } else { Err(io::ErrorKind::NotFound.into()) }
        })();
        match &outcome {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            _ => break,
        }
    }
    outcome
}

fn names(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let paths = fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path()));
    let mut paths = paths.collect::<io::Result<Vec<_>>>()?;
    let kept = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "log" || kind == "snapshot");
    paths.retain(kept);
    paths.sort();
    Ok(paths)
}

/// Writes a file of a backup below `root`, durably; the directories are there.
///
/// # Errors
/// The disk refuses.
pub(super) fn write(root: &Path, file: &StateFile) -> Result<Entry> {
    let mut out = create(&root.join(&file.path), &file.path)?;
    out.write_all(&file.bytes)?;
    out.sync_data()?;
    let (bytes, crc) = (file.bytes.len() as u64, crc32c::crc32c(&file.bytes));
    Ok(Entry { path: file.path.clone(), bytes, crc })
}

/// Makes the file at `to`, which is `path` in the data directory: for its owner alone if it holds keys.
///
/// # Errors
/// It is there already, or the disk refuses.
pub(super) fn create(to: &Path, path: &Path) -> io::Result<File> {
    let mode = if path.starts_with(FLEET_DIRECTORY) { 0o600 } else { 0o666 };
    OpenOptions::new().write(true).create_new(true).mode(mode).open(to)
}
