//! Whether backups are sound: every byte as it was written, every page and record readable.

use std::path::Path;

use anyhow::{Result, bail};
use stdx::disk::RealDisk;
use tsdb::closed::{self, FileKind};

use super::catalog::Catalog;
use super::make::read_all;
use super::{backups, say, shown_time};
use crate::verbs::terminal::{Progress, bytes, count};

/// Damages that are named for one backup.
const NAMED_MAX: usize = 20;

/// `marigraph backup verify DIR`.
pub(super) fn run(dir: &Path) -> Result<()> {
    let found = backups(dir)?;
    if found.is_empty() {
        bail!("{} is not a backup, and has none in it", dir.display());
    }
    let mut damaged = 0;
    for path in &found {
        let problems = match Catalog::read(path) {
            Ok(catalog) => {
                let problems = check(path, &catalog);
                if problems.is_empty() {
                    say(&format!(
                        "{}: sound; made {} by marigraph {}, {}, {}",
                        path.display(),
                        shown_time(catalog.made_ms),
                        catalog.made_by,
                        count(catalog.files.len(), "file"),
                        bytes(catalog.bytes())
                    ));
                }
                problems
            }
            Err(error) => vec![format!("{error:#}")],
        };
        if !problems.is_empty() {
            damaged += 1;
            say(&format!("{}: {}", path.display(), count(problems.len(), "problem")));
            problems.iter().take(NAMED_MAX).for_each(|problem| say(&format!("  {problem}")));
            if problems.len() > NAMED_MAX {
                say(&format!("  and {} more", problems.len() - NAMED_MAX));
            }
        }
    }
    match damaged {
        0 => Ok(()),
        _ => bail!("{damaged} of {} cannot be trusted", count(found.len(), "backup")),
    }
}

/// What is wrong with a backup.
fn check(dir: &Path, catalog: &Catalog) -> Vec<String> {
    let mut problems = checksums(dir, catalog);
    let contents = match closed::contents(&RealDisk, dir) {
        Ok(contents) => contents,
        Err(error) => {
            problems.push(error.to_string());
            return problems;
        }
    };
    problems.extend(
        contents
            .missing
            .iter()
            .map(|path| format!("{}: a manifest names it, and it is not there", path.display())),
    );
    for file in &contents.files {
        if !catalog.files.iter().any(|entry| entry.path == file.path) {
            problems.push(format!("{}: not in the catalog", file.path.display()));
        }
    }
    let last = contents.files.iter().rposition(|file| file.kind == FileKind::Segment);
    let mut progress = Progress::of_bytes("reading every page", contents.bytes());
    for (at, file) in contents.files.iter().enumerate() {
        problems.extend(closed::verify(&RealDisk, dir, file, Some(at) == last));
        progress.add(file.bytes);
    }
    problems
}

/// The files that are not as the catalog says.
pub(super) fn checksums(dir: &Path, catalog: &Catalog) -> Vec<String> {
    let mut progress = Progress::of_bytes("comparing checksums", catalog.bytes());
    let mut problems = Vec::new();
    for entry in &catalog.files {
        let read = read_all(&dir.join(&entry.path), &mut |bytes| {
            progress.add(bytes.len() as u64);
            Ok(())
        });
        let path = entry.path.display();
        match read {
            Err(error) => problems.push(format!("{path}: {error}")),
            Ok((length, _)) if length != entry.bytes => {
                problems.push(format!("{path}: has {length} bytes, not {}", entry.bytes));
            }
            Ok((_, crc)) if crc != entry.crc => {
                problems.push(format!("{path}: checksum is {crc:08x}, not {:08x}", entry.crc));
            }
            Ok(_) => {}
        }
    }
    problems
}
