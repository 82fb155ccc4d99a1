//! A disk in memory that forgets what was not synced, fills up, refuses and dies when told to.
//!
//! It keeps two truths: what the operating system shows (`live`) and what the device holds (`durable`).
//! `sync_data` carries a file's bytes over, `sync_dir` the names in a directory. [`FakeDisk::after_kill`]
//! is the disk as the next process finds it, [`FakeDisk::after_power_cut`] as the next boot does.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::{AppendFile, Disk, ReadFile};

/// What survives of bytes that were written and not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survivors {
    /// Nothing.
    Nothing,
    /// A part of them, by this seed; sometimes with zeros where the rest of them was.
    Some(u64),
    /// All.
    All,
}

/// A disk in memory. Cloning an `Arc` of it shares it; the copies after a crash are disks of their own.
#[derive(Debug, Clone, Default)]
pub struct FakeDisk(Arc<Mutex<State>>);

#[derive(Debug, Clone, Default)]
struct Inode {
    bytes: Vec<u8>,
    /// What the device has.
    synced: Vec<u8>,
}

#[derive(Debug, Clone, Default)]
struct State {
    inodes: Vec<Inode>,
    files: BTreeMap<PathBuf, usize>,
    directories: BTreeSet<PathBuf>,
    durable_files: BTreeMap<PathBuf, usize>,
    durable_directories: BTreeSet<PathBuf>,
    operations: u64,
    dies_at: Option<u64>,
    fails_at: BTreeSet<u64>,
    fail_syncs: bool,
    read_only: bool,
    refuse_links: bool,
    capacity: Option<u64>,
}

fn error(kind: io::ErrorKind, what: &str) -> io::Error {
    io::Error::new(kind, what.to_owned())
}

impl FakeDisk {
    /// An empty disk that has only the directory `root`.
    pub fn new(root: &Path) -> FakeDisk {
        let disk = FakeDisk::default();
        {
            let mut state = disk.0.lock();
            for directory in root.ancestors() {
                state.directories.insert(directory.to_owned());
                state.durable_directories.insert(directory.to_owned());
            }
        }
        disk
    }

    /// The disk as a shared trait object.
    pub fn shared(&self) -> Arc<dyn Disk> {
        Arc::new(self.clone())
    }

    /// How many changing operations there have been.
    pub fn operations(&self) -> u64 {
        self.0.lock().operations
    }

    /// The changing operation of this number, and all after it, fail; a write is cut in the middle.
    pub fn die_at(&self, operation: u64) {
        self.0.lock().dies_at = Some(operation);
    }

    /// The changing operation of this number fails; a write is cut in the middle.
    pub fn fail_at(&self, operation: u64) {
        self.0.lock().fails_at.insert(operation);
    }

    /// Whether syncing file contents fails.
    pub fn fail_syncs(&self, fail: bool) {
        self.0.lock().fail_syncs = fail;
    }

    /// Whether every change is refused.
    pub fn set_read_only(&self, read_only: bool) {
        self.0.lock().read_only = read_only;
    }

    /// Whether second names are refused, as between file systems.
    pub fn refuse_links(&self, refuse: bool) {
        self.0.lock().refuse_links = refuse;
    }

    /// How many bytes all files may have together; writes beyond that are cut and fail.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.0.lock().capacity = bytes;
    }

    /// Changes one byte of a file, as a failing device might. False when there is no such byte.
    pub fn flip_byte(&self, path: &Path, offset: u64) -> bool {
        let mut state = self.0.lock();
        let Some(inode) = state.files.get(path).copied() else { return false };
        let inode = &mut state.inodes[inode];
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        let mut found = false;
        for bytes in [&mut inode.bytes, &mut inode.synced] {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 0x5a;
                found = true;
            }
        }
        found
    }

    /// All files, sorted, with their lengths.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let state = self.0.lock();
        state
            .files
            .iter()
            .map(|(path, inode)| (path.clone(), state.inodes[*inode].bytes.len() as u64))
            .collect()
    }

    /// The disk as another process finds it when this one has been killed: all that was written.
    pub fn after_kill(&self) -> FakeDisk {
        let mut state = self.0.lock().clone();
        state.heal();
        FakeDisk(Arc::new(Mutex::new(state)))
    }

    /// The disk as it is found when the power comes back: names that were synced, bytes that were
    /// synced, and of others what `survivors` says.
    pub fn after_power_cut(&self, survivors: Survivors) -> FakeDisk {
        let mut state = self.0.lock().clone();
        state.heal();
        let mut seed = match survivors {
            Survivors::Some(seed) => seed | 1,
            _ => 1,
        };
        let mut random = move |below: usize| {
            // xorshift64*
            seed ^= seed >> 12;
            seed ^= seed << 25;
            seed ^= seed >> 27;
            (seed.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % below.max(1)
        };
        for inode in &mut state.inodes {
            match survivors {
                Survivors::Nothing => inode.bytes.clone_from(&inode.synced),
                Survivors::Some(_) => inode.lose_some(&mut random),
                Survivors::All => {}
            }
            inode.synced.clone_from(&inode.bytes);
        }
        let whole = |path: &Path| path.ancestors().skip(1).all(|dir| state.durable_directories.contains(dir));
        let directories: BTreeSet<PathBuf> =
            state.durable_directories.iter().filter(|path| whole(path)).cloned().collect();
        let files: BTreeMap<PathBuf, usize> = state
            .durable_files
            .iter()
            .filter(|(path, _)| path.parent().is_some_and(|dir| directories.contains(dir)))
            .map(|(path, inode)| (path.clone(), *inode))
            .collect();
        (state.directories, state.durable_directories) = (directories.clone(), directories);
        (state.files, state.durable_files) = (files.clone(), files);
        FakeDisk(Arc::new(Mutex::new(state)))
    }
}

impl Inode {
    /// Cuts the bytes somewhere behind what is synced; what is lost may leave zeros.
    fn lose_some(&mut self, random: &mut impl FnMut(usize) -> usize) {
        if self.bytes.len() <= self.synced.len() || !self.bytes.starts_with(&self.synced) {
            self.bytes.clone_from(&self.synced);
            return;
        }
        let unsynced = self.bytes.len() - self.synced.len();
        let keep = self.synced.len() + random(unsynced + 1);
        let zeros = if random(4) == 0 { random(self.bytes.len() - keep + 1) } else { 0 };
        self.bytes.truncate(keep);
        self.bytes.resize(keep + zeros, 0);
    }
}

impl State {
    /// Takes all orders to fail back.
    fn heal(&mut self) {
        (self.dies_at, self.fail_syncs, self.read_only, self.capacity) = (None, false, false, None);
        self.fails_at.clear();
    }

    /// Counts a changing operation; an error when it is to fail.
    fn change(&mut self) -> io::Result<()> {
        if self.read_only {
            return Err(error(io::ErrorKind::ReadOnlyFilesystem, "read-only file system"));
        }
        let number = self.operations;
        self.operations += 1;
        if self.dies_at.is_some_and(|at| number >= at) || self.fails_at.remove(&number) {
            return Err(io::Error::other("input/output error"));
        }
        Ok(())
    }

    fn inode(&self, path: &Path) -> io::Result<usize> {
        self.files
            .get(path)
            .copied()
            .ok_or_else(|| error(io::ErrorKind::NotFound, "no such file or directory"))
    }

    fn check_directory(&self, path: &Path) -> io::Result<()> {
        match path.parent() {
            Some(parent) if self.directories.contains(parent) => Ok(()),
            _ => Err(error(io::ErrorKind::NotFound, "no such directory")),
        }
    }

    /// What is in the directory moves along, also what is durable of it; the directory's own names are
    /// durable as those of files are.
    fn rename_directory(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let moved = |path: &Path| path.strip_prefix(from).map(|rest| to.join(rest));
        let within = |path: &Path| path != from && path.starts_with(from);
        let occupied = self.files.contains_key(to) || self.directories.iter().any(|d| d.starts_with(to));
        if occupied {
            return Err(error(io::ErrorKind::DirectoryNotEmpty, "the new name is taken"));
        }
        for files in [&mut self.files, &mut self.durable_files] {
            let paths: Vec<PathBuf> = files.keys().filter(|path| within(path)).cloned().collect();
            for path in paths {
                if let (Some(inode), Ok(path)) = (files.remove(&path), moved(&path)) {
                    files.insert(path, inode);
                }
            }
        }
        for directories in [&mut self.directories, &mut self.durable_directories] {
            let paths: Vec<PathBuf> = directories.iter().filter(|path| within(path)).cloned().collect();
            for path in paths {
                directories.remove(&path);
                directories.extend(moved(&path));
            }
        }
        self.directories.remove(from);
        self.directories.insert(to.to_owned());
        Ok(())
    }

    fn used(&self) -> u64 {
        let inodes: BTreeSet<usize> = self.files.values().copied().collect();
        inodes.into_iter().map(|inode| self.inodes[inode].bytes.len() as u64).sum()
    }

    fn write(&mut self, inode: usize, bytes: &[u8]) -> io::Result<usize> {
        if let Err(failure) = self.change() {
            if !self.read_only {
                self.inodes[inode].bytes.extend_from_slice(&bytes[..bytes.len() / 2]);
            }
            return Err(failure);
        }
        if let Some(capacity) = self.capacity {
            let room = usize::try_from(capacity.saturating_sub(self.used())).unwrap_or(usize::MAX);
            if room < bytes.len() {
                self.inodes[inode].bytes.extend_from_slice(&bytes[..room]);
                return Err(error(io::ErrorKind::StorageFull, "no space left on device"));
            }
        }
        self.inodes[inode].bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }
}

#[derive(Debug)]
struct Appending {
    disk: FakeDisk,
    inode: usize,
}

impl Write for Appending {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.disk.0.lock().write(self.inode, bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AppendFile for Appending {
    fn sync_data(&mut self) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        state.change()?;
        if state.fail_syncs {
            return Err(io::Error::other("input/output error"));
        }
        let inode = &mut state.inodes[self.inode];
        inode.synced.clone_from(&inode.bytes);
        Ok(())
    }
}

#[derive(Debug)]
struct Reading {
    disk: FakeDisk,
    inode: usize,
}

impl ReadFile for Reading {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.disk.0.lock();
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let to = from.saturating_add(buffer.len());
        let found = state.inodes[self.inode].bytes.get(from..to);
        buffer.copy_from_slice(found.ok_or_else(|| error(io::ErrorKind::UnexpectedEof, "end of file"))?);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.0.lock().inodes[self.inode].bytes.len() as u64)
    }
}

impl Disk for FakeDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn AppendFile>> {
        let mut state = self.0.lock();
        state.change()?;
        state.check_directory(path)?;
        if state.files.contains_key(path) {
            return Err(error(io::ErrorKind::AlreadyExists, "file exists"));
        }
        state.inodes.push(Inode::default());
        let inode = state.inodes.len() - 1;
        state.files.insert(path.to_owned(), inode);
        Ok(Box::new(Appending { disk: self.clone(), inode }))
    }

    fn open_append(&self, path: &Path) -> io::Result<Box<dyn AppendFile>> {
        let state = self.0.lock();
        if state.read_only {
            return Err(error(io::ErrorKind::ReadOnlyFilesystem, "read-only file system"));
        }
        Ok(Box::new(Appending { disk: self.clone(), inode: state.inode(path)? }))
    }

    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn ReadFile>> {
        Ok(Arc::new(Reading { disk: self.clone(), inode: self.0.lock().inode(path)? }))
    }

    fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        let mut state = self.0.lock();
        state.change()?;
        let inode = state.inode(path)?;
        let inode = &mut state.inodes[inode];
        inode.bytes.resize(usize::try_from(len).map_err(io::Error::other)?, 0);
        inode.synced.clone_from(&inode.bytes);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.change()?;
        state.check_directory(to)?;
        if state.directories.contains(from) {
            return state.rename_directory(from, to);
        }
        let inode = state.inode(from)?;
        state.files.remove(from);
        state.files.insert(to.to_owned(), inode);
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.change()?;
        state.inode(path)?;
        state.files.remove(path);
        Ok(())
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.change()?;
        if state.refuse_links {
            return Err(error(io::ErrorKind::CrossesDevices, "invalid cross-device link"));
        }
        let inode = state.inode(from)?;
        state.check_directory(to)?;
        if state.files.contains_key(to) {
            return Err(error(io::ErrorKind::AlreadyExists, "file exists"));
        }
        state.files.insert(to.to_owned(), inode);
        Ok(())
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        if state.directories.contains(path) {
            return Ok(());
        }
        state.change()?;
        state.directories.extend(path.ancestors().map(Path::to_owned));
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.change()?;
        let inhabited =
            state.files.keys().chain(&state.directories).any(|other| other.parent() == Some(path));
        if inhabited {
            return Err(error(io::ErrorKind::DirectoryNotEmpty, "directory not empty"));
        }
        state.directories.remove(path);
        Ok(())
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let state = self.0.lock();
        let inside = |other: &&PathBuf| other.parent() == Some(path);
        let mut paths: Vec<PathBuf> = state
            .files
            .keys()
            .filter(inside)
            .chain(state.directories.iter().filter(inside))
            .cloned()
            .collect();
        paths.sort();
        Ok(paths)
    }

    fn exists(&self, path: &Path) -> bool {
        let state = self.0.lock();
        state.files.contains_key(path) || state.directories.contains(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut guard = self.0.lock();
        guard.change()?;
        let state = &mut *guard;
        let inside = |other: &Path| other.parent() == Some(path);
        state.durable_files.retain(|other, _| !inside(other));
        state.durable_directories.retain(|other| !inside(other));
        state
            .durable_files
            .extend(state.files.iter().filter(|(p, _)| inside(p)).map(|(p, i)| (p.clone(), *i)));
        state.durable_directories.extend(state.directories.iter().filter(|p| inside(p)).cloned());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(disk: &FakeDisk, path: &str, bytes: &[u8], sync: bool) {
        let mut file = match disk.open_append(Path::new(path)) {
            Ok(file) => file,
            Err(_) => disk.create(Path::new(path)).unwrap(),
        };
        file.write_all(bytes).unwrap();
        if sync {
            file.sync_data().unwrap();
        }
    }

    #[test]
    fn only_what_was_synced_survives_a_power_cut() {
        let disk = FakeDisk::new(Path::new("/d"));
        put(&disk, "/d/a", b"one", true);
        disk.sync_dir(Path::new("/d")).unwrap();
        put(&disk, "/d/a", b"two", false);
        put(&disk, "/d/b", b"three", true);

        let killed = disk.after_kill();
        assert_eq!(killed.read(Path::new("/d/a")).unwrap(), b"onetwo");
        assert_eq!(killed.read(Path::new("/d/b")).unwrap(), b"three");

        let cut = disk.after_power_cut(Survivors::Nothing);
        assert_eq!(cut.read(Path::new("/d/a")).unwrap(), b"one");
        assert!(!cut.exists(Path::new("/d/b")), "its name was not synced");
        for seed in 0..50 {
            let bytes = disk.after_power_cut(Survivors::Some(seed)).read(Path::new("/d/a")).unwrap();
            assert!(bytes.starts_with(b"one") && bytes.len() <= 6, "{bytes:?}");
        }
    }

    #[test]
    fn renames_are_durable_after_the_directory_is_synced() {
        let disk = FakeDisk::new(Path::new("/d"));
        put(&disk, "/d/old", b"x", true);
        disk.sync_dir(Path::new("/d")).unwrap();
        disk.rename(Path::new("/d/old"), Path::new("/d/new")).unwrap();
        let names = |disk: &FakeDisk| disk.files().into_iter().map(|(path, _)| path).collect::<Vec<_>>();
        assert_eq!(names(&disk.after_power_cut(Survivors::All)), [PathBuf::from("/d/old")]);
        disk.sync_dir(Path::new("/d")).unwrap();
        assert_eq!(names(&disk.after_power_cut(Survivors::Nothing)), [PathBuf::from("/d/new")]);
    }

    #[test]
    fn it_fills_up_fails_and_dies_when_told() {
        let disk = FakeDisk::new(Path::new("/d"));
        disk.set_capacity(Some(4));
        let mut file = disk.create(Path::new("/d/a")).unwrap();
        assert_eq!(file.write_all(b"123456").unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(disk.read(Path::new("/d/a")).unwrap(), b"1234");
        disk.set_capacity(None);
        disk.fail_at(disk.operations());
        assert!(file.write_all(b"xx").is_err());
        assert!(file.write_all(b"y").is_ok());
        assert_eq!(disk.read(Path::new("/d/a")).unwrap(), b"1234xy");
        disk.fail_syncs(true);
        assert!(file.sync_data().is_err());
        disk.die_at(disk.operations() + 1);
        assert!(disk.create(Path::new("/d/b")).is_ok());
        assert!(disk.create(Path::new("/d/c")).is_err());
        assert!(file.write_all(b"z").is_err());
        disk.after_kill().create(Path::new("/d/c")).unwrap();
    }
}
