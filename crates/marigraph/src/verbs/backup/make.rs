//! Making a backup.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use http::Method;
use parking_lot::Mutex;
use stdx::disk::RealDisk;
use tokio::signal::unix::{SignalKind, signal};
use tsdb::closed::{self, Contents, FileKind, StoreFile};
use tsdb::filenames;

use super::catalog::{CATALOG, Catalog, Entry};
use super::state::{self, StateFile};
use super::{BackupArgs, backups, say};
use crate::verbs::client::Server;
use crate::verbs::terminal::{Progress, bytes, count, duration};

/// Bytes read and written at once.
const COPY_BYTES: usize = 1 << 20;
/// A snapshot is made at once, but not before a merge that is under way has ended.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(3600);
/// Keeps two backups from going to one place at once.
const LOCK: &str = "LOCK";

/// `marigraph backup DIR`.
pub(super) fn run(destination: &Path, args: &BackupArgs) -> Result<()> {
    fs::create_dir_all(destination).with_context(|| format!("create {}", destination.display()))?;
    ensure!(
        !destination.join(CATALOG).exists(),
        "{} is a backup itself; name the directory it is in",
        destination.display()
    );
    let _lock = lock(destination)?;
    remove_unfinished(destination)?;
    let made_ms = jiff::Timestamp::now().as_millisecond();
    let removing = Removing::default();
    removing.watch()?;
    let source = match (&args.url, &args.data) {
        (Some(url), data) => Source::running(url, data.as_deref(), args)?,
        (None, Some(data)) => Source::closed(data, args)?,
        (None, None) => {
            bail!("name the running hub (--url) or the data directory of one that is not (--data)")
        }
    };
    if source.snapshot {
        removing.later(&source.dir);
    }
    let made = make(&source, destination, made_ms, args.copy);
    source.release();
    let (name, made) = made?;
    say(&made.told(&name, destination));
    if let Some(keep) = args.keep {
        remove_oldest(destination, keep as usize)?;
    }
    Ok(())
}

fn lock(destination: &Path) -> Result<File> {
    let path = destination.join(LOCK);
    let opened = File::options().write(true).create(true).truncate(false).open(&path);
    let file = opened.with_context(|| format!("open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => {
            bail!("another backup to {} is under way", destination.display())
        }
        Err(fs::TryLockError::Error(error)) => Err(error).with_context(|| format!("lock {}", path.display())),
    }
}

/// Removes what backups have left that did not come to an end.
fn remove_unfinished(destination: &Path) -> Result<()> {
    for entry in fs::read_dir(destination).with_context(|| format!("read {}", destination.display()))? {
        let path = entry?.path();
        if filenames::is_unfinished(&path) && path.is_dir() {
            fs::remove_dir_all(&path).with_context(|| format!("remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// What is copied from.
#[derive(Debug)]
struct Source {
    dir: PathBuf,
    contents: Contents,
    /// Whether the log may still be cut in its place, so that its last segment cannot be shared.
    open_end: bool,
    /// Whether the directory is a snapshot of ours, to be removed afterwards.
    snapshot: bool,
    /// What stands beside the store.
    state: Vec<StateFile>,
    /// Keeps others from opening the directory.
    _held: Option<closed::Held>,
}

impl Source {
    /// A data directory that nobody has open.
    fn closed(dir: &Path, args: &BackupArgs) -> Result<Source> {
        let format = dir.join(filenames::FORMAT);
        ensure!(
            format.exists(),
            "{} is not a data directory: it has no file {}",
            dir.display(),
            filenames::FORMAT
        );
        let held = closed::hold(dir).map_err(|error| match error {
            tsdb::OpenError::Locked { pid, .. } => anyhow!(
                "process {pid} has {} open; if that is the running hub, name it: `marigraph backup … --url \
                 http://HOST:PORT` (it needs --web.enable-admin-api)",
                dir.display()
            ),
            other => anyhow!(other),
        })?;
        let contents = closed::contents(&RealDisk, dir)?;
        let state = state::read(dir, !args.without_fleet)?;
        Ok(Source {
            dir: dir.to_owned(),
            contents,
            open_end: true,
            snapshot: false,
            state,
            _held: Some(held),
        })
    }

    /// A snapshot of a running hub.
    fn running(url: &str, data: Option<&Path>, args: &BackupArgs) -> Result<Source> {
        let server = Server::new(url, &args.client)?;
        let data = match data {
            Some(data) => data.to_owned(),
            None => data_of(&server)?,
        };
        ensure!(
            data.join(filenames::FORMAT).exists(),
            "the hub at {} keeps its data in {}, which is not to be seen from here; run `marigraph backup` on its \
             machine, as its user, or say with --data where the directory is mounted",
            server.shown(),
            data.display()
        );
        let state = state::read(&data, !args.without_fleet)?;
        let answer = ask(&server.patient(SNAPSHOT_PATIENCE), Method::POST, "/api/v1/admin/tsdb/snapshot")?;
        let name = answer["name"].as_str().unwrap_or_default();
        let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        ensure!(plain, "{} named its snapshot {name:?}", server.shown());
        let dir = filenames::snapshots_dir(&data).join(name);
        ensure!(
            dir.exists(),
            "the hub at {} made snapshot {name}, but {} is not there: is {} its data directory?",
            server.shown(),
            dir.display(),
            data.display()
        );
        let listed = closed::contents(&RealDisk, &dir);
        let contents = Contents::default();
        let mut source = Source { dir, contents, open_end: false, snapshot: true, state, _held: None };
        match listed {
            Ok(contents) => {
                source.contents = contents;
                Ok(source)
            }
            Err(error) => {
                source.release();
                Err(error.into())
            }
        }
    }

    /// Removes the snapshot, if it is one.
    fn release(&self) {
        if self.snapshot
            && let Err(error) = fs::remove_dir_all(&self.dir)
        {
            eprintln!("marigraph: remove {}: {error}; remove it by hand, it takes space", self.dir.display());
        }
    }
}

/// What goes when somebody interrupts the backup (SIGINT, SIGTERM): it would hold on to what the hub drops.
#[derive(Debug, Default, Clone)]
struct Removing(Arc<Mutex<Option<PathBuf>>>);

impl Removing {
    fn later(&self, dir: &Path) {
        *self.0.lock() = Some(dir.to_owned());
    }

    fn watch(&self) -> Result<()> {
        let removing = self.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (mut interrupt, mut terminate) = {
            let _inside = runtime.enter();
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
        };
        let wait = async move {
            tokio::select! {
                _ = interrupt.recv() => 130,
                _ = terminate.recv() => 143,
            }
        };
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            let code = runtime.block_on(wait);
            if let Some(dir) = removing.0.lock().take() {
                // What cannot be removed is no reason to stay.
                let _ = fs::remove_dir_all(dir);
            }
            eprintln!("\nmarigraph: interrupted");
            std::process::exit(code)
        })?;
        Ok(())
    }
}

/// The data directory of a hub, as it says.
fn data_of(server: &Server) -> Result<PathBuf> {
    let flags = ask(server, Method::GET, "/api/v1/status/flags")?;
    let Some(data) = flags["data"].as_str() else {
        bail!("{} does not say where its data is: is it a Marigraph hub? (--data says it)", server.shown());
    };
    let data = PathBuf::from(data);
    if data.is_absolute() {
        return Ok(data);
    }
    let runtime = ask(server, Method::GET, "/api/v1/status/runtimeinfo")?;
    Ok(Path::new(runtime["CWD"].as_str().unwrap_or_default()).join(data))
}

/// The `data` of an API's answer.
fn ask(server: &Server, method: Method, path: &str) -> Result<serde_json::Value> {
    let mut answer: serde_json::Value = server.json_blocking(method, path, &[])?;
    Ok(answer["data"].take())
}

/// What became of a backup's files.
#[derive(Debug, Default)]
struct Made {
    parts: usize,
    segments: usize,
    bytes: u64,
    copied: u64,
    missing: Vec<PathBuf>,
    damaged: Vec<String>,
    started: Option<Instant>,
}

impl Made {
    fn told(&self, name: &str, destination: &Path) -> String {
        let took = self.started.map(|started| started.elapsed()).unwrap_or_default();
        let mut text = format!(
            "backup {name} in {}: {} and {}, {} ({} copied, the rest shared), in {}",
            destination.display(),
            count(self.parts, "part"),
            count(self.segments, "log segment"),
            bytes(self.bytes),
            bytes(self.copied),
            duration(took)
        );
        for path in &self.missing {
            text.push_str(&format!("\nwarning: the store lacks {}, and so does the backup", path.display()));
        }
        for damage in &self.damaged {
            text.push_str(&format!("\nwarning: {damage}; the tenant was copied as it is"));
        }
        text
    }
}

fn make(source: &Source, destination: &Path, made_ms: i64, copy: bool) -> Result<(String, Made)> {
    let name = free_name(destination, made_ms);
    let dir = destination.join(&name);
    let unfinished = filenames::unfinished(&dir);
    let mut work = Work {
        source,
        before: Before::newest(destination),
        progress: Progress::of_bytes("backing up", source.contents.bytes()),
        made: Made {
            missing: source.contents.missing.clone(),
            damaged: source.contents.damaged.clone(),
            started: Some(Instant::now()),
            ..Made::default()
        },
    };
    let made_by = env!("CARGO_PKG_VERSION").to_owned();
    let mut catalog = Catalog { made_by, made_ms, store: source.contents.format, files: Vec::new() };
    let mut directories = vec![unfinished.clone()];
    fs::create_dir(&unfinished).with_context(|| format!("create {}", unfinished.display()))?;
    let last = source.contents.files.iter().rposition(|file| file.kind == FileKind::Segment);
    for (at, file) in source.contents.files.iter().enumerate() {
        // Before the file is opened, so that nobody finds it half.
        let to = unfinished.join(&file.path);
        make_directories(&unfinished, &file.path, &mut directories)?;
        let may_change = source.open_end && Some(at) == last;
        let entry = work.take(file, &to, !copy && !may_change);
        catalog.files.push(entry.with_context(|| format!("back up {}", file.path.display()))?);
        match file.kind {
            FileKind::Part => work.made.parts += 1,
            FileKind::Segment | FileKind::Waiting => work.made.segments += 1,
            FileKind::Format | FileKind::Manifest => {}
        }
        work.made.bytes += file.bytes;
    }
    for file in &source.state {
        make_directories(&unfinished, &file.path, &mut directories)?;
        let entry = state::write(&unfinished, file);
        catalog.files.push(entry.with_context(|| format!("back up {}", file.path.display()))?);
        (work.made.bytes, work.made.copied) =
            (work.made.bytes + file.bytes.len() as u64, work.made.copied + file.bytes.len() as u64);
    }
    let Work { made, progress, .. } = work;
    drop(progress);
    catalog.write(&unfinished)?;
    for path in directories.iter().rev() {
        sync_dir(path)?;
    }
    fs::rename(&unfinished, &dir).with_context(|| format!("name {}", dir.display()))?;
    sync_dir(destination)?;
    Ok((name, made))
}

/// A name for a backup that is not taken: its time.
fn free_name(destination: &Path, made_ms: i64) -> String {
    let time = jiff::Timestamp::from_millisecond(made_ms).unwrap_or_default();
    let name = time.strftime("%Y%m%dT%H%M%SZ").to_string();
    let taken = |name: &str| destination.join(name).exists();
    if !taken(&name) {
        return name;
    }
    (2u32..).map(|number| format!("{name}-{number}")).find(|name| !taken(name)).unwrap_or(name)
}

fn make_directories(root: &Path, path: &Path, directories: &mut Vec<PathBuf>) -> Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    let mut dir = root.to_owned();
    for step in parent {
        dir.push(step);
        if !directories.contains(&dir) {
            fs::create_dir(&dir).with_context(|| format!("create {}", dir.display()))?;
            directories.push(dir.clone());
        }
    }
    Ok(())
}

/// The newest backup there is already.
#[derive(Debug, Default)]
struct Before {
    dir: PathBuf,
    files: HashMap<PathBuf, Entry>,
}

impl Before {
    fn newest(destination: &Path) -> Before {
        let newest = backups(destination).ok().and_then(|mut found| found.pop());
        let Some((dir, catalog)) = newest.and_then(|dir| Some((dir.clone(), Catalog::read(&dir).ok()?)))
        else {
            return Before::default();
        };
        let files = catalog.files.into_iter().map(|entry| (entry.path.clone(), entry)).collect();
        Before { dir, files }
    }

    /// The file there, if it is the same. A part's name is never used twice; of others the bytes have
    /// to be the same.
    fn same(&self, source: &Source, file: &StoreFile) -> Result<Option<(PathBuf, &Entry)>> {
        let Some(entry) = self.files.get(&file.path).filter(|entry| entry.bytes == file.bytes) else {
            return Ok(None);
        };
        let path = self.dir.join(&file.path);
        let there = fs::metadata(&path).is_ok_and(|found| found.len() == entry.bytes);
        if !there {
            return Ok(None);
        }
        let same = match file.kind {
            FileKind::Part => true,
            FileKind::Segment | FileKind::Waiting => {
                read_all(&source.dir.join(&file.path), &mut |_| Ok(()))?.1 == entry.crc
            }
            FileKind::Format | FileKind::Manifest => false,
        };
        Ok(same.then_some((path, entry)))
    }
}

/// A backup in the making.
struct Work<'a> {
    source: &'a Source,
    before: Before,
    progress: Progress,
    made: Made,
}

impl Work<'_> {
    /// Brings one file to `to`: by a link to the backup before or, with `link`, to the source; or as a
    /// copy.
    fn take(&mut self, file: &StoreFile, to: &Path, link: bool) -> Result<Entry> {
        let from = self.source.dir.join(&file.path);
        if let Some((path, entry)) = self.before.same(self.source, file)?
            && linked(&path, to)?
        {
            self.progress.add(file.bytes);
            return Ok(entry.clone());
        }
        let shares = matches!(file.kind, FileKind::Part | FileKind::Segment | FileKind::Waiting);
        let (length, crc) = if link && shares && linked(&from, to)? {
            read_all(to, &mut |bytes| {
                self.progress.add(bytes.len() as u64);
                Ok(())
            })?
        } else {
            let mut target = File::create_new(to)?;
            let copied = read_all(&from, &mut |bytes| {
                self.progress.add(bytes.len() as u64);
                target.write_all(bytes)
            })?;
            target.sync_data()?;
            self.made.copied += copied.0;
            copied
        };
        ensure!(length == file.bytes, "it had {} bytes and now has {length}", file.bytes);
        Ok(Entry { path: file.path.clone(), bytes: length, crc })
    }
}

/// Gives a file a second name; `false` where it has to be copied.
fn linked(from: &Path, to: &Path) -> Result<bool> {
    use io::ErrorKind::{CrossesDevices, PermissionDenied, TooManyLinks, Unsupported};
    match fs::hard_link(from, to) {
        Ok(()) => Ok(true),
        Err(error)
            if matches!(error.kind(), CrossesDevices | PermissionDenied | TooManyLinks | Unsupported) =>
        {
            Ok(false)
        }
        Err(error) => Err(error).with_context(|| format!("link {} to {}", from.display(), to.display())),
    }
}

/// Reads a file from first byte to last; its length and CRC-32C.
pub(super) fn read_all(path: &Path, each: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<(u64, u32)> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; COPY_BYTES];
    let (mut length, mut crc) = (0, 0);
    loop {
        let count = match file.read(&mut buffer) {
            Ok(0) => return Ok((length, crc)),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        crc = crc32c::crc32c_append(crc, &buffer[..count]);
        length += count as u64;
        each(&buffer[..count])?;
    }
}

pub(super) fn sync_dir(path: &Path) -> Result<()> {
    let synced = File::open(path).and_then(|dir| dir.sync_all());
    synced.with_context(|| format!("sync {}", path.display()))
}

/// Removes the oldest backups until `keep` are left.
fn remove_oldest(destination: &Path, keep: usize) -> Result<()> {
    let found = backups(destination)?;
    let surplus = found.len().saturating_sub(keep);
    for path in &found[..surplus] {
        // The catalog goes first: what is left if this is interrupted is no backup.
        let unfinished = filenames::unfinished(path);
        let removed = fs::rename(path, &unfinished).and_then(|()| fs::remove_dir_all(&unfinished));
        removed.with_context(|| format!("remove {}", path.display()))?;
        say(&format!("removed {}, older than the newest {keep}", path.display()));
    }
    Ok(())
}
