//! The fleet's root in a file.
//!
//! The file is plain, mode 0600, like the one in the data directory it comes from: a passphrase on a
//! command line protects little, and whoever keeps it long has a vault, `age` or a sealed secret for that.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use stdx::clock::SystemClock;
use stdx::disk::{RealDisk, replace_private};
use tenancy::Registry;
use tunnel::identity::{AUTHORITY_FILE, Authority, AuthorityExport, AuthorityOptions};

use crate::hub::FLEET_DIRECTORY;

fn authority(data: &Path) -> Result<Authority> {
    let directory = data.join(FLEET_DIRECTORY);
    let options = AuthorityOptions::default();
    let opened = Authority::open_or_create(RealDisk::shared(), &directory, SystemClock::shared(), options);
    opened.with_context(|| format!("open the fleet's authority in {}", directory.display()))
}

/// Writes the roots with their keys. May be done while the hub runs.
pub(super) fn export(file: &Path, data: &Path) -> Result<()> {
    if !data.join(FLEET_DIRECTORY).join(AUTHORITY_FILE).exists() {
        bail!("{} has no fleet's authority: is it the data directory of a hub?", data.display());
    }
    if file.exists() {
        bail!("{} exists already and is left alone", file.display());
    }
    let export = authority(data)?.export()?;
    let text = serde_json::to_vec_pretty(&export)?;
    // The directory of a bare name is where we stand.
    let whole = std::path::absolute(file)?;
    replace_private(&RealDisk, &whole, &text).with_context(|| format!("write {}", file.display()))?;
    eprintln!(
        "{} has the fleet's root with its key, in plain text: whoever reads it can admit hubs and agents",
        file.display()
    );
    Ok(())
}

/// Takes the roots over. The hub must not run: it would write its own over them.
pub(super) fn import(file: &Path, data: &Path, force: bool) -> Result<()> {
    let text = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
    let export: AuthorityExport =
        serde_json::from_slice(&text).with_context(|| format!("{} is no export", file.display()))?;
    let _held = tsdb::closed::hold(data).with_context(|| format!("{} is in use", data.display()))?;
    let registry = Registry::open(RealDisk::shared(), &data.join(FLEET_DIRECTORY), Arc::new(SystemClock))?;
    let agents = registry.agents().len();
    if agents > 0 && !force {
        bail!(
            "{agents} agents have enrolled at this hub and would be strangers afterwards; --force does it anyway"
        );
    }
    authority(data)?.import(export).with_context(|| format!("take over the roots of {}", file.display()))?;
    eprintln!("the roots of {} are in force with the next start", file.display());
    Ok(())
}
