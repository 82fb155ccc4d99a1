//! File discovery: target groups in JSON and YAML files that are watched.
//!
//! Files are watched by looking at their times, lengths and inodes once a second, which works on
//! every file system and for files that are replaced by renaming (as Kubernetes does). All are read
//! again every `refresh_interval`. A file that cannot be read or understood keeps what it last said;
//! one that is gone takes its targets with it.
//!
//! Source: Prometheus `discovery/file/file.go`.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use model::TargetGroup;
use model::labels::write_quoted;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::BoxFuture;
use crate::config::{FileConfig, shown};
use crate::document::{self, DocumentError, Format};
use crate::provider::{Discoverer, Updates, ticks};

#[cfg(test)]
mod tests;

/// The label that holds the path of the file a target came from.
pub const FILEPATH_LABEL: &str = "__meta_filepath";

/// How often files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Largest file, bytes.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Most files that a pattern may name.
const FILES_MAX: usize = 10_000;

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
enum FileError {
    #[error("read {path}: {source}")]
    Read { path: String, source: io::Error },
    #[error("read {path}: larger than {FILE_BYTES_MAX} bytes")]
    TooLarge { path: String },
    #[error("{path}: {source}")]
    Document { path: String, source: DocumentError },
    #[error("{pattern}: more than {FILES_MAX} files")]
    TooMany { pattern: String },
}

/// Checks that `path` ends in `.json`, `.yml` or `.yaml` and has wildcards only in its last part.
///
/// # Errors
/// The message names the path.
pub(crate) fn check_pattern(path: &Path) -> Result<(), String> {
    let in_last_part = match path.parent() {
        Some(parent) => !shown(parent).contains('*'),
        None => true,
    };
    if format_of(path).is_some() && in_last_part {
        return Ok(());
    }
    let mut message = "path name ".to_owned();
    let _ = write_quoted(&mut message, &shown(path));
    message.push_str(" is not valid for file discovery");
    Err(message)
}

fn format_of(path: &Path) -> Option<Format> {
    match path.extension()?.to_str()? {
        "json" | "JSON" => Some(Format::Json),
        "yml" | "yaml" | "YML" | "YAML" => Some(Format::Yaml),
        _ => None,
    }
}

/// Watches the files of one configuration.
#[derive(Debug)]
pub struct FileDiscoverer {
    refresh_interval: Duration,
    watcher: Watcher,
}

impl FileDiscoverer {
    /// A discoverer for `config`; reads nothing yet.
    pub fn new(config: FileConfig) -> FileDiscoverer {
        let watcher = Watcher { patterns: config.files, files: BTreeMap::new() };
        FileDiscoverer { refresh_interval: config.refresh_interval, watcher }
    }
}

impl Discoverer for FileDiscoverer {
    fn run(self: Box<Self>, updates: Updates, stop: CancellationToken) -> BoxFuture<'static, ()> {
        let FileDiscoverer { refresh_interval, mut watcher } = *self;
        Box::pin(async move {
            let mut ticks = ticks(LOOK_INTERVAL.min(refresh_interval));
            let mut read_all = None::<Instant>;
            while stop.run_until_cancelled(ticks.tick()).await.is_some() {
                let all = read_all.is_none_or(|last| last.elapsed() >= refresh_interval);
                if all {
                    read_all = Some(Instant::now());
                }
                let look = tokio::task::spawn_blocking(move || {
                    let report = watcher.look(all);
                    (watcher, report)
                });
                let Ok((back, report)) = look.await else { return };
                watcher = back;
                match report {
                    None => {}
                    Some((groups, None)) => updates.set(groups),
                    Some((groups, Some(error))) => updates.set_partly(groups, error),
                }
            }
        })
    }
}

/// What distinguishes two versions of a file.
type Stamp = (u64, u64, Option<SystemTime>);

#[derive(Debug)]
struct Watcher {
    patterns: Vec<PathBuf>,
    files: BTreeMap<PathBuf, Watched>,
}

#[derive(Debug)]
struct Watched {
    stamp: Stamp,
    /// What the file last said that could be understood.
    groups: Vec<TargetGroup>,
}

impl Watcher {
    /// Reads what has changed, or everything when `all` is set. Gives the groups of all files, with
    /// the errors of those that were read and could not be used; `None` when there was nothing to read
    /// and no file has gone.
    fn look(&mut self, all: bool) -> Option<(Vec<TargetGroup>, Option<String>)> {
        let mut errors = Vec::new();
        let mut found = BTreeMap::new();
        for pattern in &self.patterns {
            if let Err(error) = find(pattern, &mut found) {
                errors.push(error.to_string());
            }
        }
        let known = self.files.len();
        self.files.retain(|path, _| found.contains_key(path));
        let mut news = all || self.files.len() < known;
        for (path, stamp) in found {
            if !all && self.files.get(&path).is_some_and(|watched| watched.stamp == stamp) {
                continue;
            }
            news = true;
            let read = read(&path);
            let watched = self.files.entry(path).or_insert_with(|| Watched { stamp, groups: Vec::new() });
            watched.stamp = stamp;
            match read {
                Ok(groups) => watched.groups = groups,
                Err(error) => errors.push(error.to_string()),
            }
        }
        let groups = || self.files.values().flat_map(|watched| watched.groups.iter().cloned()).collect();
        news.then(|| (groups(), (!errors.is_empty()).then(|| errors.join("; "))))
    }
}

fn stamp(metadata: &Metadata) -> Stamp {
    (metadata.len(), metadata.ino(), metadata.modified().ok())
}

/// Adds the files that `pattern` names. That there are none is no error.
fn find(pattern: &Path, found: &mut BTreeMap<PathBuf, Stamp>) -> Result<(), FileError> {
    let last = pattern.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if !last.contains(['*', '?']) {
        if let Ok(metadata) = fs::metadata(pattern) {
            found.insert(pattern.to_owned(), stamp(&metadata));
        }
        return Ok(());
    }
    let dir = pattern.parent().unwrap_or(Path::new(""));
    let read_from = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    let entries = match fs::read_dir(read_from) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(FileError::Read { path: shown(read_from), source }),
    };
    let mut count = 0;
    for entry in entries.flatten() {
        let name = entry.file_name();
        if !name.to_str().is_some_and(|name| matches_glob(&last, name)) {
            continue;
        }
        count += 1;
        if count > FILES_MAX {
            return Err(FileError::TooMany { pattern: shown(pattern) });
        }
        let path = dir.join(name);
        if let Ok(metadata) = fs::metadata(&path)
            && metadata.is_file()
        {
            found.insert(path, stamp(&metadata));
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<TargetGroup>, FileError> {
    let failed = |source| FileError::Read { path: shown(path), source };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(FileError::TooLarge { path: shown(path) });
    }
    let format = format_of(path).unwrap_or(Format::Yaml);
    document::parse(&bytes, format, &shown(path), FILEPATH_LABEL)
        .map_err(|source| FileError::Document { path: shown(path), source })
}

/// Whether `name` is like `pattern`, in which `*` stands for any characters and `?` for one.
fn matches_glob(pattern: &str, name: &str) -> bool {
    let (mut pattern, mut name) = (pattern.chars(), name.chars());
    // What comes after the last star, and the part of the name that it has not swallowed yet.
    let mut star = None;
    loop {
        match pattern.next() {
            Some('*') => {
                star = Some((pattern.clone(), name.clone()));
                continue;
            }
            Some('?') if name.next().is_some() => continue,
            Some(wanted) if wanted != '?' && name.next() == Some(wanted) => continue,
            None if name.as_str().is_empty() => return true,
            _ => {}
        }
        // They differ here: let the star swallow one character more.
        let Some((after_star, swallowed)) = &mut star else { return false };
        if swallowed.next().is_none() {
            return false;
        }
        (pattern, name) = (after_star.clone(), swallowed.clone());
    }
}
