//! Log lines, to standard error.

use std::io::IsTerminal;

use anyhow::{Context, Result, anyhow};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::cli::{LogArgs, LogFormat};

/// Starts logging; once in a process.
///
/// # Errors
/// The level is not a level or a filter.
pub fn start(args: &LogArgs) -> Result<()> {
    let use_these = || {
        format!(
            "--log.level {:?}: use error, warn, info, debug, trace, off or a filter like info,tsdb=debug",
            args.level
        )
    };
    // A filter takes a word that is no level for the name of a module, and all others fall silent.
    for part in args.level.split(',').filter(|part| !part.contains(['=', '['])) {
        part.trim().parse::<LevelFilter>().map_err(|_| anyhow!(use_these()))?;
    }
    let filter = EnvFilter::try_new(&args.level).with_context(use_these)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // It would tell of a line that cannot be written on standard error, too, and panic: who reads the log may have gone.
    let builder = builder.log_internal_errors(false);
    let outcome = match args.format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
    };
    outcome.map_err(|error| anyhow::anyhow!("start logging: {error}"))
}
