//! The names of everything in the data directory.

use std::path::{Path, PathBuf};

/// Held by the process that has the directory open.
pub const LOCK: &str = "LOCK";
/// The version of the directory's layout.
pub const FORMAT: &str = "FORMAT";
/// Log segments.
pub const WAL_DIR: &str = "wal";
/// One directory for each tenant.
pub const TENANT_DIR: &str = "tenant";
/// A tenant's edits.
pub const MANIFEST: &str = "MANIFEST";
/// A manifest being rewritten.
pub const MANIFEST_NEW: &str = "MANIFEST.new";
/// A tenant's parts.
pub const PARTS_DIR: &str = "parts";
/// Extension of a finished part.
pub const PART_EXTENSION: &str = "mgp";
/// Extension of a part that the manifest has lost.
pub const UNNAMED_EXTENSION: &str = "unnamed";
/// Log segments that a tenant waits for whose manifest cannot be read.
pub const WAITING_DIR: &str = "waiting";

/// Snapshots that were asked for over HTTP.
pub const SNAPSHOTS_DIR: &str = "snapshots";
/// Extension of directories that are still being written.
pub const UNFINISHED_EXTENSION: &str = "tmp";

/// The log's directory.
pub fn wal_dir(data: &Path) -> PathBuf {
    data.join(WAL_DIR)
}

/// Log segment `number`.
pub fn segment(data: &Path, number: u64) -> PathBuf {
    wal_dir(data).join(format!("{number:08}.wal"))
}

/// Where log segments wait below a tenant's directory.
pub fn waiting_dir(tenant_dir: &Path) -> PathBuf {
    tenant_dir.join(WAITING_DIR)
}

/// Log segment `number` as it waits below a tenant's directory.
pub fn waiting_segment(tenant_dir: &Path, number: u64) -> PathBuf {
    waiting_dir(tenant_dir).join(format!("{number:08}.wal"))
}

/// The number of the log segment at `path`, if it is one.
pub fn segment_number(path: &Path) -> Option<u64> {
    if path.extension()? != "wal" {
        return None;
    }
    let stem = path.file_stem()?.to_str()?;
    if stem.len() < 8 || !stem.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    stem.parse().ok()
}

/// The segments among `paths`, by number.
pub fn segments(paths: impl IntoIterator<Item = PathBuf>) -> Vec<(u64, PathBuf)> {
    let numbered = |path: PathBuf| segment_number(&path).map(|number| (number, path));
    let mut segments: Vec<_> = paths.into_iter().filter_map(numbered).collect();
    segments.sort();
    segments
}

/// The directory of all tenants.
pub fn tenants_dir(data: &Path) -> PathBuf {
    data.join(TENANT_DIR)
}

/// The directory of `tenant`.
pub fn tenant_dir(data: &Path, tenant: &str) -> PathBuf {
    tenants_dir(data).join(tenant)
}

/// The part file `name` (with its extension) below a tenant's directory.
pub fn part(tenant_dir: &Path, name: &str) -> PathBuf {
    tenant_dir.join(PARTS_DIR).join(name)
}

/// The directory of snapshots.
pub fn snapshots_dir(data: &Path) -> PathBuf {
    data.join(SNAPSHOTS_DIR)
}

/// The name that `dir` has until it is finished.
pub fn unfinished(dir: &Path) -> PathBuf {
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(UNFINISHED_EXTENSION);
    dir.with_file_name(name)
}

/// Whether `path` is the name of something unfinished.
pub fn is_unfinished(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == UNFINISHED_EXTENSION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segment_names_go_both_ways() {
        let path = segment(Path::new("data"), 42);
        assert_eq!(path, Path::new("data/wal/00000042.wal"));
        assert_eq!(segment_number(&path), Some(42));
        assert_eq!(segment_number(&segment(Path::new("data"), 123_456_789)), Some(123_456_789));
        for stray in ["data/wal/42.wal", "data/wal/00000042.tmp", "data/wal/0000004x.wal", "data/wal/wal"] {
            assert_eq!(segment_number(Path::new(stray)), None, "{stray}");
        }
    }
}
