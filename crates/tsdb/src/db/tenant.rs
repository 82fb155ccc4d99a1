//! One tenant: its head, its parts, its manifest.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use model::TenantId;
use parking_lot::{Mutex, RwLock};
use ulid::Ulid;

use crate::config::Config;
use crate::filenames;
use crate::head::Lanes;
use crate::head::index::Index;
use crate::head::late::Loose;
use crate::manifest::{Manifest, ManifestError, State};
use crate::part::{Part, PartSpec, file_name};
use crate::version::{PartEntry, Swap, Version};
use crate::wal::record::BatchEncoder;

/// Most late samples of a tenant that are kept one by one...
const LOOSE_MAX: usize = 8192;
/// ...and less when the budget for late samples is small: one for so many bytes of it.
const LOOSE_SHARE: usize = 1024;

#[derive(Debug)]
pub(crate) struct Tenant {
    pub(crate) id: TenantId,
    pub(crate) dir: PathBuf,
    pub(crate) index: RwLock<Index>,
    pub(crate) lanes: RwLock<Lanes>,
    pub(crate) version: Swap<Version>,
    /// Whoever replaces the version holds this.
    pub(crate) manifest: Mutex<Manifest>,
    /// Room to make records in; used under the lock of the lanes, so never contended.
    pub(crate) encoder: Mutex<BatchEncoder>,
    /// Whether the last flush failed; such a tenant is refused first when the log is too long.
    pub(crate) flush_failing: AtomicBool,
}

impl Tenant {
    /// Opens a tenant's directory, or prepares to make it. Parts that cannot be read are left out and
    /// added to `problems`; stray files are removed, if the directory is `ours`: then the log position at which
    /// its oldest segment ends, 0 when that is not known.
    pub(crate) fn open(
        config: &Config,
        id: &TenantId,
        ours: Option<u64>,
        problems: &mut Vec<String>,
    ) -> Result<Tenant, ManifestError> {
        let dir = filenames::tenant_dir(&config.dir, id.as_str());
        let (mut manifest, torn) = Manifest::open(config.disk.clone(), &dir)?;
        if ours.is_none() {
            manifest.keep_in_memory();
        }
        let is_torn = torn.is_some();
        problems.extend(torn);
        let state = manifest.state();
        let mut version = Version { tombstones: state.tombstones.clone().into(), ..Version::default() };
        let (mut parts, mut unreadable, mut is_missing) = (Vec::new(), Vec::new(), false);
        for (part, cleaned) in &state.parts {
            match Part::open(&*config.disk, &filenames::part(&dir, &file_name(*part))) {
                Ok(opened) => parts.push(Arc::new(PartEntry::new(Arc::new(opened), *cleaned))),
                Err(error) => {
                    is_missing |= !config.disk.exists(error.path());
                    unreadable.push(error.to_string());
                }
            }
        }
        if let Some(oldest_ends) = ours {
            let has_manifest = config.disk.exists(&dir.join(filenames::MANIFEST));
            let waits = config.disk.exists(&filenames::waiting_dir(&dir));
            let log_begins_before = if is_torn && !waits { oldest_ends } else { 0 };
            let strays = Strays { config, state, has_manifest, is_missing, log_begins_before };
            unreadable.extend(strays.sort_out(&dir.join(filenames::PARTS_DIR)));
        }
        problems.extend(unreadable.iter().cloned());
        version.unreadable = unreadable.into();
        version = version.with_parts(parts);
        let mut lanes = Lanes::new((config.late_bytes_max / LOOSE_SHARE).clamp(1, LOOSE_MAX));
        lanes.flushed_max_ms = version.newest_ms();
        let tenant = Tenant {
            id: id.clone(),
            index: RwLock::default(),
            lanes: RwLock::new(lanes),
            version: Swap::new(version),
            manifest: Mutex::new(manifest),
            encoder: Mutex::default(),
            flush_failing: AtomicBool::new(false),
            dir,
        };
        Ok(tenant)
    }

    /// Where its parts are.
    pub(crate) fn parts_dir(&self) -> PathBuf {
        self.dir.join(filenames::PARTS_DIR)
    }

    /// Encodes tiles and late rows that have been closed, outside the lock that appends need.
    pub(crate) fn seal_closed(&self) {
        self.seal_late();
        loop {
            let batch: Vec<_> = {
                let mut lanes = self.lanes.write();
                let from = lanes.to_seal.len().saturating_sub(64);
                lanes.to_seal.drain(from..).collect()
            };
            if batch.is_empty() {
                return;
            }
            let sealed: Vec<_> = batch.iter().map(|(_, _, open)| Arc::new(open.seal())).collect();
            let mut lanes = self.lanes.write();
            for ((lane, tile, open), sealed) in batch.iter().zip(sealed) {
                lanes.put_sealed(*lane, *tile, open, sealed);
            }
        }
    }

    fn seal_late(&self) {
        if !self.lanes.read().late.has_to_seal() {
            return;
        }
        loop {
            let Some(pieces) = self.lanes.read().late.loose_to_merge().map(<[Loose]>::to_vec) else { break };
            let Ok(merged) = Loose::merged(&pieces) else { break };
            self.lanes.write().late.put_merged(&pieces, merged);
        }
        loop {
            let raw = self.lanes.write().late.take_to_seal(64);
            if raw.is_empty() {
                return;
            }
            let sealed: Vec<_> = raw.iter().map(|(_, _, block)| block.seal()).collect();
            let mut lanes = self.lanes.write();
            for ((run, at, raw), sealed) in raw.iter().zip(sealed) {
                lanes.late.put_sealed(*run, *at, raw, sealed);
            }
        }
    }
}

/// Files among the parts that the manifest does not name.
struct Strays<'a> {
    config: &'a Config,
    state: &'a State,
    has_manifest: bool,
    /// Whether a part that the manifest names is not there.
    is_missing: bool,
    /// Where the log's oldest segment ends, if the manifest's end may be lost; else 0.
    log_begins_before: u64,
}

impl Strays<'_> {
    /// Removes what interrupted flushes and merges have left in `dir`. A part that the manifest must have
    /// named once is kept under another name. Gives what answers lack.
    fn sort_out(&self, dir: &Path) -> Vec<String> {
        let disk = &self.config.disk;
        let (mut lacking, strays) = (Vec::new(), self.finished(dir));
        let were_named = self.were_named(strays.values());
        let flushes = self.finished_flushes(strays.values());
        for path in disk.read_dir(dir).unwrap_or_default() {
            let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
            if extension == filenames::UNNAMED_EXTENSION {
                lacking.push(format!("part {} is named by no manifest and left out", path.display()));
                continue;
            }
            let is_part = extension == filenames::PART_EXTENSION;
            if is_part && self.names(&path) {
                continue;
            }
            let is_of_flush = |spec: &PartSpec| spec.level == 0 && flushes.contains(&spec.wal_last);
            if is_part && (were_named || strays.get(&path).is_some_and(is_of_flush)) {
                let kept = path.with_extension(filenames::UNNAMED_EXTENSION);
                let outcome = match disk.rename(&path, &kept).and_then(|()| disk.sync_dir(dir)) {
                    Ok(()) => format!("kept as {}", kept.display()),
                    Err(error) => format!("kept ({error})"),
                };
                lacking.push(format!(
                    "part {} must have been named by the manifest, which does not: it is left out and {outcome}",
                    path.display()
                ));
                continue;
            }
            tracing::info!(path = %path.display(), "removing a file that an interrupted flush or merge has left");
            if let Err(error) = disk.remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "removing a stray file");
            }
        }
        lacking
    }

    /// Whether the manifest names a part.
    fn names(&self, path: &Path) -> bool {
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let id = stem.and_then(|stem| Ulid::from_string(stem).ok());
        id.is_some_and(|id| self.state.parts.contains_key(&id))
    }

    /// The finished parts in `dir` that the manifest does not name.
    fn finished(&self, dir: &Path) -> BTreeMap<PathBuf, PartSpec> {
        let disk = &*self.config.disk;
        let paths = disk.read_dir(dir).unwrap_or_default().into_iter();
        let is_part = |path: &PathBuf| path.extension().is_some_and(|ext| ext == filenames::PART_EXTENSION);
        let strays = paths.filter(|path| is_part(path) && !self.names(path));
        strays
            .filter_map(|path| Some((path.clone(), Part::open(disk, &path).ok()?.info().spec.clone())))
            .collect()
    }

    /// Whether finished parts that the manifest does not name can be no leftovers of an interrupted flush or
    /// merge: a part that it does name is gone, which a later edit must have said, or there is no
    /// manifest beside merged parts or those of several flushes.
    fn were_named<'a>(&self, mut strays: impl Iterator<Item = &'a PartSpec>) -> bool {
        if self.is_missing || self.has_manifest {
            return self.is_missing;
        }
        let Some(first) = strays.next() else { return false };
        first.level > 0 || strays.any(|spec| spec.level > 0 || spec.wal_last != first.wal_last)
    }

    /// The flushes of strays, by their last log position, after which the log was cut: that is done when the
    /// manifest names their parts. A flush begins with a new segment, so that of an unfinished one older segments are there
    /// still. Late samples are also written without one.
    fn finished_flushes<'a>(&self, strays: impl Iterator<Item = &'a PartSpec>) -> BTreeSet<u64> {
        let flushed = strays.filter(|spec| spec.level == 0 && !spec.late).map(|spec| spec.wal_last);
        // What the manifest knows of was merged, or written anew without what was deleted of it.
        let known = self.state.flushed.max(self.state.spilled);
        flushed.filter(|mark| (known + 1..=self.log_begins_before).contains(mark)).collect()
    }
}
