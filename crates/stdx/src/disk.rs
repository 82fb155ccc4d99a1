//! The few things a store asks of a file system, behind a trait, so that a simulator can drop
//! un-synced writes, cut the power or fill the disk at any operation.

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

mod fake;

pub use fake::{FakeDisk, Survivors};

/// A file open for appending. Bytes passed to `write` are with the operating system when the call
/// returns; they survive a power cut only after [`AppendFile::sync_data`].
pub trait AppendFile: Write + Send + Sync + fmt::Debug {
    /// Forces all bytes written so far to the device (`fdatasync`).
    ///
    /// # Errors
    /// After a failure the state of the file is unknown; never retry on the same file.
    fn sync_data(&mut self) -> io::Result<()>;
}

/// A file open for reading at offsets; shared between threads.
pub trait ReadFile: Send + Sync + fmt::Debug {
    /// Fills `buffer` from `offset`; an end of file before that is `UnexpectedEof`.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file holds no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// A file system.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Creates `path` for appending; fails if it exists.
    fn create(&self, path: &Path) -> io::Result<Box<dyn AppendFile>>;
    /// As [`Disk::create`], and nobody but the owner may read or write the file (mode 0600).
    fn create_private(&self, path: &Path) -> io::Result<Box<dyn AppendFile>> {
        self.create(path)
    }
    /// Opens an existing `path` for appending at its end.
    fn open_append(&self, path: &Path) -> io::Result<Box<dyn AppendFile>>;
    /// Opens `path` for reading.
    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn ReadFile>>;
    /// Reads all of `path`.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.open_read(path)?;
        let len = usize::try_from(file.len()?).map_err(io::Error::other)?;
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }
    /// Cuts `path` to `len` bytes and syncs it.
    fn truncate(&self, path: &Path, len: u64) -> io::Result<()>;
    /// Renames a file, replacing the target, or a directory, to a name that is free.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Gives a file a second name.
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Creates a directory and its parents.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// The entries of a directory, full paths, sorted; empty when there is no such directory.
    fn read_dir(&self, path: &Path) -> io::Result<Vec<PathBuf>>;
    /// Whether something exists at `path`.
    fn exists(&self, path: &Path) -> bool;
    /// Makes renames, creations and removals in `path` durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
}

/// Puts `bytes` at `path`, for the owner's eyes only: after a crash or a power cut the file has its old
/// content or the new one, whole. The directory must exist.
///
/// # Errors
/// Those of the disk; the old content stays.
pub fn replace_private(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    // What a crash left behind was never the file.
    if disk.exists(&new) {
        disk.remove_file(&new)?;
    }
    let mut file = disk.create_private(&new)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    drop(file);
    disk.rename(&new, path)?;
    disk.sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// The file system of the machine.
#[derive(Debug, Default, Clone, Copy)]
pub struct RealDisk;

impl RealDisk {
    /// The real file system as a shared trait object.
    pub fn shared() -> Arc<dyn Disk> {
        Arc::new(RealDisk)
    }
}

#[derive(Debug)]
struct RealAppendFile(fs::File);

impl Write for RealAppendFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl AppendFile for RealAppendFile {
    fn sync_data(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }
}

#[derive(Debug)]
struct RealReadFile(fs::File);

impl ReadFile for RealReadFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

impl Disk for RealDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn AppendFile>> {
        let file = fs::OpenOptions::new().append(true).create_new(true).open(path)?;
        Ok(Box::new(RealAppendFile(file)))
    }
    fn create_private(&self, path: &Path) -> io::Result<Box<dyn AppendFile>> {
        let file = fs::OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)?;
        Ok(Box::new(RealAppendFile(file)))
    }
    fn open_append(&self, path: &Path) -> io::Result<Box<dyn AppendFile>> {
        Ok(Box::new(RealAppendFile(fs::OpenOptions::new().append(true).open(path)?)))
    }
    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn ReadFile>> {
        Ok(Arc::new(RealReadFile(fs::File::open(path)?)))
    }
    fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        let file = fs::OpenOptions::new().write(true).open(path)?;
        file.set_len(len)?;
        file.sync_data()
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }
    fn read_dir(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut paths = entries.map(|e| e.map(|e| e.path())).collect::<io::Result<Vec<_>>>()?;
        paths.sort();
        Ok(paths)
    }
    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_file_is_replaced_whole_whatever_the_power_does() {
        let (root, path) = (Path::new("/d"), Path::new("/d/secret"));
        for dies_at in 0..12 {
            for survivors in [Survivors::Nothing, Survivors::Some(dies_at), Survivors::All] {
                let disk = FakeDisk::new(root);
                replace_private(&disk, path, b"old").expect("a sound disk");
                disk.die_at(disk.operations() + dies_at);
                let wrote = replace_private(&disk, path, b"the new one").is_ok();
                let disk = disk.after_power_cut(survivors);
                let found = disk.read(path).expect("never without a file");
                assert!(found == b"the new one" || (!wrote && found == b"old"), "{dies_at} {found:?}");
                replace_private(&disk, path, b"next").expect("what was left over does not matter");
            }
        }
    }

    #[test]
    fn a_private_file_is_the_owners() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("secret");
        replace_private(&RealDisk, &path, b"x").expect("written");
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
