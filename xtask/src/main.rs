//! The project's automation, in Rust: `cargo xtask <verb>`; the Makefile is a thin front.

mod check;
mod fuzz;
mod peers;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

const HELP: &str = "\
cargo xtask <verb>

  check   formatting, lints, tidiness (who may know whom, generated files, words)
  fuzz    runs each fuzz target for a while: cargo xtask fuzz [TARGET] [--seconds N]
  peers   downloads and unpacks the peers that tests compare with below target/peers
";

fn main() -> ExitCode {
    let outcome = match std::env::args().nth(1).as_deref() {
        Some("check") => check::check(),
        Some("fuzz") => fuzz::fuzz(std::env::args().skip(2)),
        Some("peers") => peers::fetch(),
        _ => {
            eprint!("{HELP}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The workspace's root.
fn root() -> Result<PathBuf> {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    Ok(manifest.parent().context("xtask stands in the workspace")?.to_owned())
}

/// Runs a command in the root, its output going to ours.
fn run(program: &str, args: &[&str]) -> Result<()> {
    eprintln!("$ {program} {}", args.join(" "));
    let status = Command::new(program)
        .args(args)
        .current_dir(root()?)
        .status()
        .with_context(|| format!("start {program}"))?;
    if !status.success() {
        bail!("{program} {} failed: {status}", args.join(" "));
    }
    Ok(())
}
