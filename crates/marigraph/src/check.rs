//! `marigraph check`: what would go wrong, without starting anything.

use std::path::Path;

use anyhow::Result;

use crate::config::Config;

/// Reads a configuration as `hub --config` would, and tells what it holds.
///
/// # Errors
/// What is wrong with it, with file, line and column.
pub fn config(file: &Path) -> Result<()> {
    let config = Config::load(file)?;
    for warning in &config.warnings {
        eprintln!("warning: {warning}");
    }
    let jobs = config.jobs.len();
    eprintln!("{}: good; {jobs} scrape job{}", file.display(), if jobs == 1 { "" } else { "s" });
    Ok(())
}
