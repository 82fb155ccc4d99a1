//! Backups: `marigraph backup`, `marigraph backup verify`, `marigraph restore`.
//!
//! A destination is a directory of backups, each a directory of its own, named by its time, and whole:
//!
//! ```text
//! DESTINATION/20261122T163000Z/BACKUP          the catalog: every file, its length and checksum
//!                              FORMAT tenant/… wal/… ledger/… fleet/…      a data directory
//! ```
//!
//! Files are never changed once they are finished, so a backup shares them with its source and with
//! earlier backups by hard links wherever the file system allows it; only what is new is copied. A
//! backup in the making is called `….tmp`. The catalog is drawn in `docs/formats/backup.md`.
//!
//! - [`catalog`]: the catalog;
//! - `state`: what stands beside the store: the ledger, and who belongs to the fleet;
//! - `make`: a backup of a running hub (by a snapshot) or of a data directory that nobody has open;
//! - `verify`: whether backups are sound;
//! - `restore`: a backup into a new data directory.

pub mod catalog;
mod make;
mod restore;
mod state;
mod verify;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};

use self::catalog::{CATALOG, Catalog};
use crate::verbs::client::ClientArgs;

/// Flags of `marigraph backup`.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_long_help = "A backup is a directory below DIR, named by its time. What has not changed since the backup \
        before is not copied again, and on the file system of the data directory nothing is: files that are \
        finished never change, and get a second name.\n\nA running hub has to be started with \
        --web.enable-admin-api, and its data directory has to be reachable from here (give --data where it is \
        mounted elsewhere). Everything acknowledged before the command is in the backup.\n\nExamples:\n  \
        marigraph backup /backups --url http://127.0.0.1:9190 --keep 7\n  \
        marigraph backup /backups --data /var/lib/marigraph      the hub is not running\n  \
        marigraph backup verify /backups"
)]
pub struct BackupArgs {
    /// What else to do.
    #[command(subcommand)]
    pub verb: Option<BackupVerb>,
    /// Where backups go; made when it does not exist
    #[arg(value_name = "DIR", required = true)]
    pub dir: Option<PathBuf>,
    /// The running hub
    #[arg(long, value_name = "URL", required_unless_present = "data")]
    pub url: Option<String>,
    /// The data directory: of a hub that is not running, or, with --url, where the running one's is here
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Remove the oldest backups after this one has succeeded, so that so many stay
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub keep: Option<u32>,
    /// Copy every file that is new, also where a hard link would do
    #[arg(long)]
    pub copy: bool,
    /// Leave out the fleet's authority, with its keys, and its tokens and agents
    #[arg(long)]
    pub without_fleet: bool,
    /// How to reach the hub.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Further verbs of `marigraph backup`.
#[derive(Debug, Subcommand)]
pub enum BackupVerb {
    /// Read all of a backup, or of all backups in a directory, and say what is damaged
    Verify {
        /// The backup, or a directory of backups
        dir: PathBuf,
    },
}

/// Flags of `marigraph restore`.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Every checksum is compared before anything is written, and again while copying. A restore that \
        was interrupted leaves a directory that no hub opens: remove it and restore again.\n\nExample:\n  \
        marigraph restore /backups --data /var/lib/marigraph     the newest backup there\n  \
        marigraph hub --data /var/lib/marigraph"
)]
pub struct RestoreArgs {
    /// The backup, or a directory of backups, of which the newest is taken
    pub backup: PathBuf,
    /// The new data directory: it does not exist, or is empty
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
}

/// `marigraph backup`.
///
/// # Errors
/// The backup was not made (there is nothing half then), or one that was checked is damaged.
pub fn run(args: &BackupArgs) -> Result<()> {
    match (&args.verb, &args.dir) {
        (Some(BackupVerb::Verify { dir }), _) => verify::run(dir),
        (None, Some(dir)) => make::run(dir, args),
        (None, None) => bail!("name the directory where backups go"),
    }
}

/// `marigraph restore`.
///
/// # Errors
/// The backup cannot be used, or the data directory not written.
pub fn restore(args: &RestoreArgs) -> Result<()> {
    restore::run(&args.backup, &args.data)
}

/// The finished backups in `dir`, oldest first; `dir` itself if it is one.
fn backups(dir: &Path) -> Result<Vec<PathBuf>> {
    if dir.join(CATALOG).exists() {
        return Ok(vec![dir.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let path = entry?.path();
        if !tsdb::filenames::is_unfinished(&path) && path.join(CATALOG).exists() {
            // Those whose catalog cannot be read are old: the newest is looked for.
            let made_ms = Catalog::read(&path).map_or(i64::MIN, |catalog| catalog.made_ms);
            found.push((made_ms, path));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// Says a line to whoever started the program.
fn say(line: &str) {
    // Nobody who listens is no reason to fail.
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// A time as people write it, UTC.
fn shown_time(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms)
        .map_or_else(|_| format!("{ms} ms"), |time| time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string())
}
