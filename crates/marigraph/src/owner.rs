//! Whose a data directory is.

use std::fs::{Metadata, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Result, bail};

/// Looks whether this user may write in the data directory `data`, where one is: its lock is opened, and nothing else is
/// touched. That is told before anything is opened half.
///
/// # Errors
/// The directory is somebody else's, or its files are.
pub(crate) fn require_own(data: &Path, lock: &str) -> Result<()> {
    let opened = OpenOptions::new().write(true).open(data.join(lock));
    if !opened.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied) {
        return Ok(());
    }
    let uid = |path: &Path| path.metadata().as_ref().map(Metadata::uid).ok();
    let user = |uid: Option<u32>| uid.map_or("another user".to_owned(), |uid| format!("user {uid}"));
    bail!(
        "{} belongs to {}, and this runs as {}, who may not write to it: run it as that user, or give the directory to \
         this one (chown -R)",
        data.display(),
        user(uid(&data.join(lock)).or_else(|| uid(data))),
        user(uid(Path::new("/proc/self"))),
    );
}
