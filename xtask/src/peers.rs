//! The programs that tests compare with, from Debian's packages: downloaded and unpacked, never
//! installed. No root needed: apt keeps its lists and cache in our own directory.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::root;

/// Package, and the program in it that tests start.
const PEERS: &[(&str, &str)] = &[
    ("prometheus", "usr/bin/prometheus"),
    ("prometheus-node-exporter", "usr/bin/prometheus-node-exporter"),
    ("victoria-metrics", "usr/bin/victoria-metrics"),
];

/// Downloads what is missing below `target/peers`. With `REQUIRE_PEERS=1` a failure is an error;
/// otherwise it is said loudly and the tests that need the peer are skipped.
pub(crate) fn fetch() -> Result<()> {
    let directory = root()?.join("target/peers");
    fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
    let missing: Vec<&str> = PEERS
        .iter()
        .filter(|(_, program)| !directory.join(program).exists())
        .map(|(package, _)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let Err(error) = download(&directory, &missing) else { return Ok(()) };
    if std::env::var_os("REQUIRE_PEERS").is_some_and(|value| value == "1") {
        return Err(error.context("REQUIRE_PEERS=1 and the peers cannot be had"));
    }
    eprintln!("peers: {error:#}");
    eprintln!("peers: SKIPPING the tests that need {}", missing.join(", "));
    Ok(())
}

fn download(directory: &Path, packages: &[&str]) -> Result<()> {
    let state = directory.join("apt");
    for part in ["lists/partial", "archives/partial"] {
        fs::create_dir_all(state.join(part))?;
    }
    let options = [
        format!("-oDir::State::lists={}", state.join("lists").display()),
        format!("-oDir::Cache={}", state.display()),
        "-oDebug::NoLocking=1".to_owned(),
        "-oAPT::Sandbox::User=".to_owned(),
        "-qq".to_owned(),
    ];
    let apt = |verb: &str, packages: &[&str]| -> Result<()> {
        eprintln!("peers: apt-get {verb} {}", packages.join(" "));
        let status = Command::new("apt-get")
            .args(&options)
            .arg(verb)
            .args(packages)
            .current_dir(directory)
            .stdout(Stdio::null())
            .status()
            .context("start apt-get (the peers come from Debian's packages)")?;
        if !status.success() {
            bail!("apt-get {verb} failed: {status}");
        }
        Ok(())
    };
    apt("update", &[])?;
    apt("download", packages)?;
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            unpack(&path, directory)?;
            fs::remove_file(&path)?;
        }
    }
    for (package, program) in PEERS {
        if !directory.join(program).exists() {
            bail!("package {package} holds no {program}");
        }
    }
    Ok(())
}

fn unpack(package: &Path, directory: &Path) -> Result<()> {
    let status =
        Command::new("dpkg-deb").arg("-x").args([package, directory]).status().context("start dpkg-deb")?;
    if !status.success() {
        bail!("unpack {}: {status}", package.display());
    }
    Ok(())
}
