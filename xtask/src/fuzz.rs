//! Runs the fuzz targets under libFuzzer, with the compiler's own coverage counters: no tool besides
//! cargo and a C++ compiler is needed.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::root;

/// What libFuzzer needs of the compiler; the same that cargo-fuzz sets, without a sanitizer, so that
/// a stable toolchain will do. Overflows and debug assertions are checked.
const RUSTFLAGS: &str = "--cfg fuzzing -C passes=sancov-module -C llvm-args=-sanitizer-coverage-level=4 \
     -C llvm-args=-sanitizer-coverage-inline-8bit-counters -C llvm-args=-sanitizer-coverage-pc-table \
     -C llvm-args=-sanitizer-coverage-trace-compares -C debug-assertions -C overflow-checks \
     -C codegen-units=1";
/// Where build, corpora and findings go, below the root.
const DIR: &str = "target/fuzz";
/// An input that takes longer is a finding.
const INPUT_TIMEOUT: Duration = Duration::from_secs(20);
/// A process that takes more is a finding, MiB.
const RSS_LIMIT_MIB: u32 = 2048;
const INPUT_BYTES_MAX: u32 = 64 << 10;

/// `fuzz [TARGET] [--seconds N]`: every target, or one, for so long each.
pub(crate) fn fuzz(args: impl Iterator<Item = String>) -> Result<()> {
    let (mut only, mut seconds) = (None, 20_u64);
    let mut args = args.peekable();
    while let Some(arg) = args.next() {
        if arg == "--seconds" {
            let value = args.next().context("--seconds wants a number")?;
            seconds = value.parse().with_context(|| format!("--seconds {value:?}"))?;
        } else if only.replace(arg).is_some() {
            bail!("at most one target; without one all are run");
        }
    }
    let root = root()?;
    let program = build(&root)?;
    let targets = targets(&program)?;
    if let Some(only) = &only
        && !targets.contains(only)
    {
        bail!("there is no target {only:?}; there are {}", targets.join(", "));
    }
    let mut failed = Vec::new();
    for target in targets.iter().filter(|target| only.as_ref().is_none_or(|only| only == *target)) {
        if !run_one(&root, &program, target, seconds)? {
            failed.push(target.clone());
        }
    }
    if !failed.is_empty() {
        bail!("findings in {}; the inputs are below {DIR}/findings", failed.join(", "));
    }
    Ok(())
}

fn build(root: &Path) -> Result<PathBuf> {
    eprintln!("building the fuzz targets, instrumented, below {DIR} (minutes the first time)");
    let host = host()?;
    let args = ["build", "--release", "--locked", "-p", "fuzz", "--features", "libfuzzer", "--target", &host];
    let status = Command::new("cargo")
        .args(args)
        // Instrumentation and link-time optimization do not go together.
        .env("CARGO_PROFILE_RELEASE_LTO", "false")
        .env("CARGO_TARGET_DIR", root.join(DIR))
        .env("RUSTFLAGS", RUSTFLAGS)
        .current_dir(root)
        .status()
        .context("start cargo")?;
    if !status.success() {
        bail!("the fuzz targets do not build: {status}");
    }
    Ok(root.join(DIR).join(host).join("release/fuzz-target"))
}

/// Named as a target, so that build scripts and macros are not instrumented.
fn host() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("start rustc")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc -vV names no host")?.to_owned())
}

/// The program knows its targets best.
fn targets(program: &Path) -> Result<Vec<String>> {
    let output = Command::new(program).env("FUZZ_TARGET", "").output().context("start the fuzz targets")?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let (_, names) = text.split_once("there are ").context("the program lists its targets")?;
    Ok(names.trim().split(", ").map(str::to_owned).collect())
}

/// Whether a run ends without a finding.
fn run_one(root: &Path, program: &Path, target: &str, seconds: u64) -> Result<bool> {
    let corpus = root.join(DIR).join("corpus").join(target);
    let findings = root.join(DIR).join("findings").join(target);
    for dir in [&corpus, &findings] {
        std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    }
    eprintln!("fuzzing {target} for {seconds} s");
    let log = root.join(DIR).join(format!("{target}.log"));
    let output = std::fs::File::create(&log).with_context(|| format!("create {}", log.display()))?;
    let mut artifacts = OsString::from("-artifact_prefix=");
    artifacts.push(&findings);
    artifacts.push("/");
    let status = Command::new(program)
        .arg(&corpus)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-timeout={}", INPUT_TIMEOUT.as_secs()))
        .arg(format!("-rss_limit_mb={RSS_LIMIT_MIB}"))
        .arg(format!("-max_len={INPUT_BYTES_MAX}"))
        .arg("-print_final_stats=1")
        .arg(artifacts)
        .env("FUZZ_TARGET", target)
        .env("FUZZ_SEEDS", &corpus)
        .stdout(output.try_clone().context("share the log")?)
        .stderr(output)
        .status()
        .context("start the fuzz target")?;
    let text = std::fs::read(&log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    if status.success() {
        let executed = text.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
        eprintln!("  {} inputs, nothing found", executed.unwrap_or(" ?").trim());
        return Ok(true);
    }
    let reason = text.lines().find(|line| line.contains("panicked at") || line.contains("ERROR: libFuzzer"));
    eprintln!("  FOUND: {} (log {})", reason.unwrap_or("see the log"), log.display());
    Ok(false)
}
