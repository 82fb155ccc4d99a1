//! Leases as files of one directory; the format is in docs/formats/lease.md.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::lease::{BoxFuture, Held, Lease, LeaseError, Leases, Standing, Version};
use crate::member::{MEMBERS_MAX, VIEWS_MAX, is_member_name};
use crate::view::View;

const SUFFIX: &str = ".lease";
const FORMAT: &str = "marigraph-lease-1";
/// A larger file is no lease.
const BYTES_MAX: u64 = 64 << 10;
/// Files of a directory that are looked at.
const FILES_MAX: usize = 1024;

/// Leases in a directory that all members have: a disk of one machine, or of the network.
#[derive(Debug, Clone)]
pub struct FileLeases(PathBuf);

impl FileLeases {
    /// Leases in `directory`, which has to be there: one that is made anew where a mount is missing would not be
    /// the others'.
    pub fn new(directory: &Path) -> FileLeases {
        FileLeases(directory.to_owned())
    }

    fn path(&self, member: &str) -> PathBuf {
        self.0.join(format!("{member}{SUFFIX}"))
    }

    fn list_now(&self) -> Result<Vec<Held>, LeaseError> {
        let failed = |error: io::Error| unavailable("read the leases in", &self.0, &error);
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.0).map_err(failed)?.take(FILES_MAX) {
            let path = entry.map_err(failed)?.path();
            let name =
                path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(SUFFIX));
            let Some(name) = name.filter(|name| is_member_name(name)) else { continue };
            match read(&path) {
                // Removed meanwhile.
                Ok(None) => {}
                Ok(Some(held)) if held.lease.member == name => all.push(held),
                Ok(Some(held)) => {
                    tracing::warn!(path = %path.display(), member = held.lease.member, "a lease of another name");
                }
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    tracing::warn!(path = %path.display(), "not a lease: {error}");
                }
                Err(error) => return Err(unavailable("read", &path, &error)),
            }
        }
        Ok(all)
    }

    fn put_now(&self, lease: &Lease, over: Option<&Version>) -> Result<Version, LeaseError> {
        let path = self.path(&lease.member);
        let _lock = self.lock(&lease.member)?;
        self.expect(&path, over)?;
        let bytes = encode(lease);
        let new = path.with_extension("new");
        let written = File::create(&new).and_then(|mut file| file.write_all(&bytes));
        written.map_err(|error| unavailable("write", &new, &error))?;
        fs::rename(&new, &path).map_err(|error| unavailable("write", &path, &error))?;
        Ok(version(&bytes))
    }

    fn remove_now(&self, member: &str, over: &Version) -> Result<(), LeaseError> {
        let path = self.path(member);
        let _lock = self.lock(member)?;
        self.expect(&path, Some(over))?;
        fs::remove_file(&path).map_err(|error| unavailable("remove", &path, &error))?;
        // It only keeps two writers of one lease apart.
        let _ = fs::remove_file(self.0.join(format!("{member}.lock")));
        Ok(())
    }

    /// What stands there has to be that version.
    fn expect(&self, path: &Path, over: Option<&Version>) -> Result<(), LeaseError> {
        let there = match read(path) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                // Whoever has the name may write over what nobody can read.
                return Ok(());
            }
            there => there.map_err(|error| unavailable("read", path, &error))?,
        };
        if there.as_ref().map(|held| &held.version) == over {
            return Ok(());
        }
        Err(LeaseError::Conflict(there.map(Box::new)))
    }

    /// Held while a lease is read and written; not waited for, because its holder may have stopped.
    fn lock(&self, member: &str) -> Result<File, LeaseError> {
        let path = self.0.join(format!("{member}.lock"));
        let failed = |error: &io::Error| unavailable("lock", &path, error);
        let file = File::create(&path).map_err(|error| failed(&error))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => {
                Err(LeaseError::Unavailable(format!("lock {}: somebody else has it", path.display())))
            }
            Err(TryLockError::Error(error)) => Err(failed(&error)),
        }
    }

    fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&FileLeases) -> Result<T, LeaseError> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, LeaseError>> {
        let leases = self.clone();
        Box::pin(async move {
            let done = tokio::task::spawn_blocking(move || job(&leases)).await;
            done.unwrap_or_else(|error| Err(LeaseError::Unavailable(error.to_string())))
        })
    }
}

impl Leases for FileLeases {
    fn list(&self) -> BoxFuture<'_, Result<Vec<Held>, LeaseError>> {
        self.run(FileLeases::list_now)
    }

    fn put(&self, lease: Lease, over: Option<Version>) -> BoxFuture<'_, Result<Version, LeaseError>> {
        self.run(move |leases| leases.put_now(&lease, over.as_ref()))
    }

    fn remove(&self, member: String, over: Version) -> BoxFuture<'_, Result<(), LeaseError>> {
        self.run(move |leases| leases.remove_now(&member, &over))
    }
}

fn unavailable(attempt: &str, path: &Path, error: &io::Error) -> LeaseError {
    LeaseError::Unavailable(format!("{attempt} {}: {error}", path.display()))
}

/// `None` where there is no such file.
fn read(path: &Path) -> io::Result<Option<Held>> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(BYTES_MAX).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let lease = decode(&bytes).map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))?;
    Ok(Some(Held { lease, version: version(&bytes) }))
}

/// A renewal changes the time, so no two writes of a lease are alike.
fn version(bytes: &[u8]) -> Version {
    Version(format!("{:032x}", xxhash_rust::xxh3::xxh3_128(bytes)))
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileLease {
    format: String,
    member: String,
    incarnation: String,
    duration_ms: u64,
    acquired_ms: i64,
    renewed_ms: i64,
    transitions: u32,
    standing: FileStanding,
    views: Vec<FileView>,
    setup: String,
}

#[derive(Serialize, Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum FileStanding {
    Waiting,
    Serving,
    Leaving,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileView {
    from_ms: i64,
    members: Vec<String>,
}

fn encode(lease: &Lease) -> Vec<u8> {
    let view = |view: &View| FileView { from_ms: view.from_ms, members: view.members.clone() };
    let file = FileLease {
        format: FORMAT.to_owned(),
        member: lease.member.clone(),
        incarnation: format!("{:016x}", lease.incarnation),
        duration_ms: u64::try_from(lease.duration.as_millis()).unwrap_or(u64::MAX),
        acquired_ms: lease.acquired_ms,
        renewed_ms: lease.renewed_ms,
        transitions: lease.transitions,
        standing: match lease.standing {
            Standing::Waiting => FileStanding::Waiting,
            Standing::Serving => FileStanding::Serving,
            Standing::Leaving => FileStanding::Leaving,
        },
        views: lease.views.iter().map(view).collect(),
        setup: lease.setup.clone(),
    };
    // Strings and numbers only: it cannot fail.
    let mut bytes = serde_json::to_vec_pretty(&file).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// A lease from the bytes of its file.
///
/// # Errors
/// What is wrong with them.
pub fn decode(bytes: &[u8]) -> Result<Lease, String> {
    if bytes.len() as u64 >= BYTES_MAX {
        return Err(format!("{BYTES_MAX} bytes or more"));
    }
    let file: FileLease = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if file.format != FORMAT {
        return Err(format!("format {:?}, not {FORMAT:?}", file.format));
    }
    let bad_name = |name: &str| format!("{name:?} is not a member's name");
    if !is_member_name(&file.member) {
        return Err(bad_name(&file.member));
    }
    let incarnation = u64::from_str_radix(&file.incarnation, 16)
        .map_err(|_| format!("incarnation {:?} is not a hexadecimal number", file.incarnation))?;
    if !(500..=3_600_000).contains(&file.duration_ms) {
        return Err(format!("duration_ms {} is not between 500 and 3600000", file.duration_ms));
    }
    if file.views.len() > VIEWS_MAX || file.views.iter().any(|view| view.members.len() > MEMBERS_MAX) {
        return Err(format!("more than {VIEWS_MAX} views, or {MEMBERS_MAX} members in one"));
    }
    if !file.views.is_sorted_by(|a, b| a.from_ms <= b.from_ms) {
        return Err("the views are not in order of time".to_owned());
    }
    for view in &file.views {
        if let Some(name) = view.members.iter().find(|name| !is_member_name(name)) {
            return Err(bad_name(name));
        }
        if !view.members.is_sorted_by(|a, b| a < b) {
            return Err("the members of a view are not in order".to_owned());
        }
    }
    let view = |view: FileView| View { from_ms: view.from_ms, members: view.members };
    Ok(Lease {
        member: file.member,
        incarnation,
        duration: Duration::from_millis(file.duration_ms),
        acquired_ms: file.acquired_ms,
        renewed_ms: file.renewed_ms,
        transitions: file.transitions,
        standing: match file.standing {
            FileStanding::Waiting => Standing::Waiting,
            FileStanding::Serving => Standing::Serving,
            FileStanding::Leaving => Standing::Leaving,
        },
        views: file.views.into_iter().map(view).collect(),
        setup: file.setup,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = include_str!("../testdata/berlin-0.lease");

    #[test]
    fn the_sample_file_reads_and_writes_the_same() {
        let lease = decode(SAMPLE.as_bytes()).expect("a lease");
        assert_eq!(lease.views.len(), 2);
        assert_eq!(String::from_utf8(encode(&lease)).expect("text"), SAMPLE);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |from: &str, to: &str, want: &str| {
            assert!(SAMPLE.contains(from), "{from}");
            let error = decode(SAMPLE.replace(from, to).as_bytes()).expect_err(to);
            assert!(error.contains(want), "{error}");
        };
        check("lease-1", "lease-2", "marigraph-lease-2");
        check("8000", "1", "duration_ms 1 is not between");
        check("\"incarnation\": \"0", "\"incarnation\": \"x", "is not a hexadecimal number");
        check("\"member\": \"berlin-0\"", "\"member\": \"../x\"", "\"../x\" is not a member's name");
        check("\"setup\"", "\"setups\"", "unknown field `setups`");
        check("1763848812500", "1", "not in order of time");
        check("\"berlin-1\"", "\"a\"", "not in order");
    }

    #[test]
    fn writes_go_over_the_version_they_know() {
        let directory = tempfile::tempdir().expect("a directory");
        let leases = FileLeases::new(directory.path());
        let lease = decode(SAMPLE.as_bytes()).expect("a lease");
        let first = leases.put_now(&lease, None).expect("none was there");
        let conflict = |outcome| match outcome {
            Err(LeaseError::Conflict(held)) => held.map(|held| held.version),
            other => panic!("{other:?}"),
        };
        assert_eq!(conflict(leases.put_now(&lease, None)), Some(first.clone()));
        let later = Lease { renewed_ms: lease.renewed_ms + 1, ..lease.clone() };
        let second = leases.put_now(&later, Some(&first)).expect("the version that is there");
        assert_eq!(conflict(leases.put_now(&lease, Some(&first))), Some(second.clone()));
        fs::write(directory.path().join("broken.lease"), "{").expect("write");
        fs::write(directory.path().join("README"), "not a lease").expect("write");
        let all = leases.list_now().expect("a list");
        assert_eq!(all, [Held { lease: later, version: second.clone() }]);
        leases.remove_now("berlin-0", &second).expect("the version that is there");
        assert_eq!(conflict(leases.put_now(&lease, Some(&second))), None);
        assert!(leases.list_now().expect("a list").is_empty());
        let nowhere = FileLeases::new(&directory.path().join("nowhere"));
        assert!(matches!(nowhere.list_now(), Err(LeaseError::Unavailable(why)) if why.contains("nowhere")));
    }
}
