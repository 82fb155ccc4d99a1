//! Opening a data directory: its lock, its version, its tenants.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize};

use model::TenantId;
use parking_lot::{Condvar, Mutex, RwLock};
use stdx::disk::Disk;

use super::problems::Problems;
use super::{Inner, Sources, Tenant};
use crate::config::Config;
use crate::filenames;
use crate::manifest::ManifestError;
use crate::metrics::Metrics;
use crate::wal::segment::{self, SegmentError};
use crate::wal::writer::{Health, Wal};

/// The layout of the data directory that this version writes, and the newest it reads.
pub(crate) const FORMAT: (u32, u32) = (1, 0);

/// A data directory that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("data directory {dir} is in use by process {pid}", dir = dir.display())]
    Locked {
        /// The directory.
        dir: PathBuf,
        /// What its `LOCK` file says.
        pid: String,
    },
    /// A newer version wrote it.
    #[error(
        "data directory {dir} has format {found}, this version reads up to {known}; start the version that \
         wrote it, or put a backup from before into a new directory: `marigraph restore BACKUP --data NEW`",
        dir = dir.display()
    )]
    Newer {
        /// The directory.
        dir: PathBuf,
        /// What its `FORMAT` file says.
        found: String,
        /// What this version knows.
        known: String,
    },
    /// A newer version wrote a file in it.
    #[error(
        "{path} was written by a newer version of marigraph ({reason}); start that version, or put a backup \
         from before into a new directory: `marigraph restore BACKUP --data NEW`",
        path = path.display()
    )]
    NewerFile {
        /// The file.
        path: PathBuf,
        /// What this version does not understand.
        reason: String,
    },
    /// `FORMAT` makes no sense.
    #[error("{path} does not name a format: {text:?}", path = path.display())]
    BadFormat {
        /// The file.
        path: PathBuf,
        /// What it says.
        text: String,
    },
    /// The disk refused.
    #[error("{attempt}: {source}")]
    Io {
        /// What was attempted.
        attempt: String,
        /// The cause.
        source: io::Error,
    },
    /// A tenant's manifest cannot be read.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A log segment was written by a newer version, or cannot be read at all.
    #[error(transparent)]
    Segment(#[from] SegmentError),
}

pub(super) fn open(config: Config) -> Result<Inner, OpenError> {
    let health = Arc::new(Health::default());
    let metrics = Arc::new(Metrics::default());
    let mut lock = None;
    if config.read_only {
        lock = share_lock(&config)?;
        health.open_for_reading();
    } else if let Err(error) = prepare(&config, &mut lock) {
        match error {
            // A disk that cannot be written may still be read.
            OpenError::Io { attempt, source } if config.disk.exists(&config.dir.join(filenames::FORMAT)) => {
                health.fail(format!("{attempt}: {source}"), &metrics);
            }
            other => return Err(other),
        }
    }
    check_format(&*config.disk, &config.dir)?;
    crate::closed::check_versions(&*config.disk, &config.dir)?;
    let inner = Inner {
        wal: Wal::new(config.disk.clone(), config.dir.clone(), health.clone(), metrics.clone()),
        config,
        health,
        problems: Arc::new(Problems::new(metrics.clone())),
        metrics,
        tenants: RwLock::default(),
        refused: RwLock::default(),
        replayed_waiting: Mutex::default(),
        sources: RwLock::new(Sources::default()),
        next_generation: AtomicU32::new(1),
        taken: Mutex::default(),
        limits: RwLock::default(),
        random: Mutex::new(super::Random::seeded()),
        work: Mutex::default(),
        merging: Mutex::default(),
        merge_due: AtomicBool::new(false),
        late_bytes: AtomicUsize::new(0),
        spill_wanted: AtomicBool::new(false),
        stop: Mutex::new(false),
        stopped: Condvar::new(),
        _lock: lock,
    };
    if inner.health.reason().is_none() {
        inner.remove_unfinished_snapshots();
    }
    inner.open_tenants()?;
    inner.recover()?;
    Ok(inner)
}

/// Makes the directory, takes the lock and writes the format.
fn prepare(config: &Config, lock: &mut Option<File>) -> Result<(), OpenError> {
    let (disk, dir) = (&config.disk, &config.dir);
    let io = |attempt: String| move |source| OpenError::Io { attempt, source };
    let fresh = !disk.exists(dir);
    disk.create_dir_all(dir).map_err(io(format!("create data directory {}", dir.display())))?;
    if fresh && let Some(parent) = dir.parent() {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        disk.sync_dir(parent).map_err(io(format!("sync {}", parent.display())))?;
    }
    if config.lock {
        *lock = Some(take_lock(dir)?);
    }
    let wal = filenames::wal_dir(dir);
    disk.create_dir_all(&wal).map_err(io(format!("create {}", wal.display())))?;
    let tenants = filenames::tenants_dir(dir);
    disk.create_dir_all(&tenants).map_err(io(format!("create {}", tenants.display())))?;
    // Whoever made these may not have lived to make their names durable.
    disk.sync_dir(dir).map_err(io(format!("sync {}", dir.display())))?;
    let format = dir.join(filenames::FORMAT);
    if !disk.exists(&format) {
        let write = || -> io::Result<()> {
            let fresh = dir.join("FORMAT.new");
            if disk.exists(&fresh) {
                disk.remove_file(&fresh)?;
            }
            let mut file = disk.create(&fresh)?;
            file.write_all(format!("{}.{}\n", FORMAT.0, FORMAT.1).as_bytes())?;
            file.sync_data()?;
            disk.rename(&fresh, &format)?;
            disk.sync_dir(dir)
        };
        write().map_err(io(format!("write {}", format.display())))?;
    }
    Ok(())
}

/// Keeps others from writing while the directory is read. A directory without a lock (a snapshot, a
/// backup) has no writer either.
fn share_lock(config: &Config) -> Result<Option<File>, OpenError> {
    let path = config.dir.join(filenames::LOCK);
    let io = |source| OpenError::Io { attempt: format!("lock {}", path.display()), source };
    let file = match File::open(&path) {
        Ok(file) if config.lock => file,
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io(source)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(Some(file)),
        Err(std::fs::TryLockError::WouldBlock) => {
            let pid = std::fs::read_to_string(&path).unwrap_or_default().trim().to_owned();
            Err(OpenError::Locked { dir: config.dir.clone(), pid })
        }
        Err(std::fs::TryLockError::Error(source)) => Err(io(source)),
    }
}

pub(crate) fn take_lock(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join(filenames::LOCK);
    let io = |source| OpenError::Io { attempt: format!("lock {}", path.display()), source };
    let mut file =
        File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => {
            let pid = std::fs::read_to_string(&path).unwrap_or_default();
            let pid = if pid.trim().is_empty() { "unknown".to_owned() } else { pid.trim().to_owned() };
            return Err(OpenError::Locked { dir: dir.to_owned(), pid });
        }
        Err(std::fs::TryLockError::Error(source)) => return Err(io(source)),
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(io)?;
    Ok(file)
}

/// The format of the data directory `dir`, if this version reads it.
pub(crate) fn check_format(disk: &dyn Disk, dir: &Path) -> Result<(u32, u32), OpenError> {
    let path = dir.join(filenames::FORMAT);
    let attempt = format!("read {}", path.display());
    let bytes = disk.read(&path).map_err(|source| OpenError::Io { attempt, source })?;
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    let numbers = text.split_once('.');
    match numbers.and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?))) {
        None => Err(OpenError::BadFormat { path, text }),
        Some((major, _)) if major > FORMAT.0 => {
            let known = format!("{}.{}", FORMAT.0, FORMAT.1);
            Err(OpenError::Newer { dir: dir.to_owned(), found: text, known })
        }
        Some(format) => Ok(format),
    }
}

impl Inner {
    fn open_tenants(&self) -> Result<(), OpenError> {
        let dir = filenames::tenants_dir(&self.config.dir);
        let attempt = format!("list {}", dir.display());
        let paths = self.config.disk.read_dir(&dir).map_err(|source| OpenError::Io { attempt, source })?;
        let oldest_ends = self.oldest_segment_ends();
        for path in paths {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Ok(id) = TenantId::new(name) else {
                self.report(format!("{} is no tenant's directory and is left alone", path.display()));
                continue;
            };
            let mut problems = Vec::new();
            let ours = self.health.reason().is_none().then_some(oldest_ends);
            let opened = Tenant::open(&self.config, &id, ours, &mut problems);
            let tenant = match opened {
                Ok(tenant) => tenant,
                Err(error) => {
                    self.refuse(&id, &error);
                    continue;
                }
            };
            problems.into_iter().for_each(|problem| self.report(problem));
            if self.health.reason().is_none()
                && let Err(error) = tenant.manifest.lock().sync()
            {
                self.health.fail(error.to_string(), &self.metrics);
            }
            self.tenants.write().insert(id, Arc::new(tenant));
        }
        Ok(())
    }

    /// The log position at which the second segment begins; `u64::MAX` without one, 0 when that cannot be told.
    fn oldest_segment_ends(&self) -> u64 {
        let disk = &*self.config.disk;
        let Ok(paths) = disk.read_dir(&filenames::wal_dir(&self.config.dir)) else { return 0 };
        match filenames::segments(paths).get(1) {
            Some((_, second)) => segment::read_header(disk, second).map_or(0, |header| header.first_position),
            None => u64::MAX,
        }
    }
}
