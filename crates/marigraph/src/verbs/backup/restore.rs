//! A backup into a new data directory.
//!
//! `FORMAT` says *incomplete restore* until all is there, so that no hub takes half of it for a store.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use tsdb::filenames;

use super::catalog::{Catalog, Entry};
use super::make::{read_all, sync_dir};
use super::{backups, say, shown_time, state, verify};
use crate::verbs::terminal::{Progress, bytes, count};

/// What `FORMAT` says meanwhile; the store's message shows it to whoever starts a hub on it.
const INCOMPLETE: &str = "incomplete restore; remove this directory and restore again\n";
/// What a new file system may have in it.
const LOST_AND_FOUND: &str = "lost+found";

/// `marigraph restore BACKUP --data DIR`.
pub(super) fn run(from: &Path, data: &Path) -> Result<()> {
    let Some(backup) = backups(from)?.pop() else {
        bail!("{} is not a backup, and has none in it", from.display());
    };
    let catalog = Catalog::read(&backup)?;
    ensure_empty(data)?;
    let problems = verify::checksums(&backup, &catalog);
    if let Some(first) = problems.first() {
        let more = match problems.len() {
            1 => String::new(),
            number => format!(" (and {} more)", number - 1),
        };
        bail!(
            "backup {} is damaged: {first}{more}; nothing was restored. `marigraph backup verify` names it all",
            backup.display()
        );
    }
    write(&backup, &catalog, data).with_context(|| {
        format!("restore {}: {} is incomplete, remove it", backup.display(), data.display())
    })?;
    say(&format!(
        "restored {}, made {} by marigraph {} (store format {}.{}), to {}: {}, {}\nstart it with: marigraph hub --data {}",
        backup.display(),
        shown_time(catalog.made_ms),
        catalog.made_by,
        catalog.store.0,
        catalog.store.1,
        data.display(),
        count(catalog.files.len(), "file"),
        bytes(catalog.bytes()),
        data.display(),
    ));
    Ok(())
}

fn ensure_empty(data: &Path) -> Result<()> {
    let entries = match fs::read_dir(data) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("read {}", data.display())),
    };
    for entry in entries {
        let entry = entry?;
        ensure!(
            entry.file_name() == LOST_AND_FOUND,
            "{} is not empty (it has {}): name a new directory, or move it away first",
            data.display(),
            entry.file_name().display()
        );
    }
    Ok(())
}

fn write(backup: &Path, catalog: &Catalog, data: &Path) -> Result<()> {
    fs::create_dir_all(data)?;
    let format = data.join(filenames::FORMAT);
    put(&format, INCOMPLETE.as_bytes())?;
    sync_dir(data)?;
    let mut directories: Vec<PathBuf> = vec![data.to_owned()];
    let mut progress = Progress::of_bytes("restoring", catalog.bytes());
    let is_format = |entry: &&Entry| entry.path == Path::new(filenames::FORMAT);
    for entry in catalog.files.iter().filter(|entry| !is_format(entry)) {
        let to = data.join(&entry.path);
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
            let made = parent.ancestors().take_while(|dir| *dir != data).map(Path::to_owned);
            directories.extend(made);
        }
        copy(backup, entry, &to, &mut progress).with_context(|| format!("write {}", to.display()))?;
    }
    directories.sort();
    directories.dedup();
    for path in directories.iter().rev() {
        sync_dir(path)?;
    }
    let Some(entry) = catalog.files.iter().find(is_format) else {
        bail!("the backup has no file {}", filenames::FORMAT);
    };
    let fresh = data.join("FORMAT.new");
    copy(backup, entry, &fresh, &mut progress)?;
    fs::rename(&fresh, &format)?;
    sync_dir(data)?;
    data.parent().filter(|parent| !parent.as_os_str().is_empty()).map_or(Ok(()), sync_dir)
}

fn copy(backup: &Path, entry: &Entry, to: &Path, progress: &mut Progress) -> Result<()> {
    let mut file = state::create(to, &entry.path)?;
    let (length, crc) = read_all(&backup.join(&entry.path), &mut |bytes| {
        progress.add(bytes.len() as u64);
        file.write_all(bytes)
    })?;
    ensure!((length, crc) == (entry.bytes, entry.crc), "the backup changed while it was read");
    file.sync_data()?;
    Ok(())
}

fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    Ok(())
}
